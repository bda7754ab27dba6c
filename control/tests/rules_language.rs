//! The rule language as its users write it: the tutorial's rules, the spellings that are taken, and
//! errors that point at the place.

use std::collections::BTreeSet;

use lcs_control::rules::{self, Context, Mistake, Names, ReadList, RuleSet};

/// The example of the language's own description.
const EXAMPLE: &str = r#"# name: if (condition) action
R1: if (xml.purchase/totalAmount > 5000) routeTo(highSpeedServers)
R2: if (xml.purchase/customerName == "CCL") routeTo(specialCustomerServers)
R3: if (suffix(url, "gif") || suffix(url, "jpg")) loadBalance(images, wlc)
R4: if (regex(url, "^/purchase") && cookie.name == "servlet1") routeTo(cgi, STICKY)
R5: if (smtp.to == "chow@cs.uccs.edu") routeTo(mail2)
R6: if (bitmatch(64, 8, 0xff) == 64) routeTo(linuxers)  # IP TTL
R7: if (ip.src in 203.0.113.0/24 && !(method == "GET")) reject(403)
R8: if (xml.purchase/item[2]/subTotal > 50000) routeTo(ace, NON_STICKY)
default: routeTo(web)
"#;

fn parse(source: &str) -> RuleSet {
    rules::parse(source, &Context::named("test.rules")).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The canonical text of one rule.
fn canonical(rule: &str) -> String {
    rules::format(&parse(rule)).trim_end().to_owned()
}

fn error(source: &str) -> String {
    match rules::parse(source, &Context::named("test.rules")) {
        Ok(set) => panic!("taken as {}", rules::format(&set)),
        Err(errors) => errors.to_string(),
    }
}

#[test]
fn the_example_set_is_already_canonical() {
    assert_eq!(rules::format(&parse(EXAMPLE)), EXAMPLE);
}

#[test]
fn slide_37_an_order_with_a_large_amount() {
    assert_eq!(
        canonical("server1: if (suffix(path, /order.asp) && xml.//Amount[Value > 10000]) forward(server1)"),
        r#"server1: if (suffix(path, "/order.asp") && xml.//Amount/Value > 10000) forward(server1)"#
    );
    assert_eq!(canonical("a: if (xml.//Amount[Value]) reject"), "a: if (exists(xml.//Amount/Value)) reject");
    assert_eq!(canonical("a: if (xml.a/b[2][@id = 'x']) reject"), r#"a: if (xml.a/b[2]/@id == "x") reject"#);
    assert_eq!(canonical("a: if (xml.a/b[. >= 1.5]) reject"), "a: if (xml.a/b >= 1.5) reject");
}

#[test]
fn slide_40_the_purchase() {
    let rule = "Rule 1: if (xml.purchase/totalAmount > 5000) routeTo(highSpeedServers)";
    assert_eq!(canonical(rule), "1: if (xml.purchase/totalAmount > 5000) routeTo(highSpeedServers)");
    let rule = "Rule 2: if (xml.purchase/customerName == CCL) routeTo(specialCustomerServers)";
    assert_eq!(canonical(rule), r#"2: if (xml.purchase/customerName == "CCL") routeTo(specialCustomerServers)"#);
}

#[test]
fn slide_61_the_c_like_form_and_its_terms() {
    let terms = [
        ("xml.purchase/totalAmount > 50000", "xml.purchase/totalAmount > 50000"),
        ("smtp.to == chow@cs.uccs.edu", "smtp.to == \"chow@cs.uccs.edu\""),
        ("cookie.name == \"servlet1\"", "cookie.name == \"servlet1\""),
        ("bitmatch(64, 8, 0xff) == 64", "bitmatch(64, 8, 0xff) == 64"),
        ("suffix(url, \"gif\")", "suffix(url, \"gif\")"),
        ("suffix(url, gif)", "suffix(url, \"gif\")"),
        ("regex(url, \"/purchase\")", "regex(url, \"/purchase\")"),
        ("regex(url, /purchase)", "regex(url, \"/purchase\")"),
    ];
    for (written, printed) in terms {
        assert_eq!(canonical(&format!("rule if ({written}) reject")), format!("if ({printed}) reject"));
    }
    assert_eq!(canonical("rule if (url == /x) forward(s1, slow)"), "if (url == \"/x\") forward(s1, slow)");
    assert_eq!(canonical("if (url == /x) loadBalance(g, rr);"), "if (url == \"/x\") loadBalance(g, rr)");
}

#[test]
fn slide_64_the_two_kinds_of_conflict() {
    parse(
        "r1: if (xml.purchase/customerName == \"CCL\") routeTo(r1)\n\
         r2: if (xml.purchase/customerName == \"CCL\") routeTo(r2)\n",
    );
    parse(
        "r1 if (xml.purchase/totalAmount > 5000) routeTo(quickServers)\n\
         r2 if (xml.purchase/totalAmount > 20000) routeTo(superServers)\n",
    );
}

#[test]
fn slide_68_the_generated_c() {
    let c = r#"
R4: if (atoi(xml.purchase/item[2]/subTotal) > 50000)
    return route_to("ace", NON_STICKY, saddr);
R5: if ((atoi(xml.purchase/item[2]/subTotal) > 0) &&
        (atoi(xml.purchase/item[2]/subTotal) < 50000)) {
    IP_RULE_MSG("server wait\n");
    return route_to("wait", NON_STICKY, saddr);
}
R10: if (strstr(url, "lcs1") != NULL) {
    IP_RULE_MSG("server ace\n");
    return route_to("ace", NON_STICKY, saddr);
}
R11: if (strstr(url, "lcs2") != NULL) { IP_RULE_MSG("server wait\n"); return route_to("wait", NON_STICKY, saddr); }
"#;
    assert_eq!(
        rules::format(&parse(c)),
        r#"R4: if (xml.purchase/item[2]/subTotal > 50000) routeTo(ace, NON_STICKY)
# server wait
R5: if (xml.purchase/item[2]/subTotal > 0 && xml.purchase/item[2]/subTotal < 50000) routeTo(wait, NON_STICKY)
# server ace
R10: if (contains(url, "lcs1")) routeTo(ace, NON_STICKY)
# server wait
R11: if (contains(url, "lcs2")) routeTo(wait, NON_STICKY)
"#
    );
    let shown = error("R4: if (atoi(rule_fields[1].value) > 50000) return route_to(\"ace\", NON_STICKY, saddr);");
    assert!(shown.contains("1:14: error: `rule_fields`") && shown.contains("xml.purchase/item[2]"), "{shown}");
}

#[test]
fn every_variable_prints_as_it_is_written() {
    for term in [
        "url == \"/\"",
        "path == \"/\"",
        "query.id == \"7\"",
        "query.\"odd name\" == 7",
        "method != \"GET\"",
        "host in (\"a.example\", \"b.example\")/i",
        "exists(header.x-forwarded-for)",
        "cookie.session == \"x\"",
        "http.version < 1.1",
        "xml.a/b[2]//c/@id == \"x\"",
        "json.order/\"line items\"[3]/price >= 9.99",
        "smtp.from == \"a\"",
        "smtp.to == \"a\"",
        "pop.user == \"a\"",
        "imap.user == \"a\"",
        "ftp.user == \"a\"",
        "tls.sni == \"a\"",
        "tls.alpn == \"h2\"",
        "ip.src in (10.0.0.0/8, 2001:db8::/32)",
        "ip.dst != 10.0.0.1",
        "ip.ttl <= 64",
        "ip.tos == 184",
        "ip.proto in (6, 17)",
        "port.src > 1023",
        "port.dst == 80",
        "bitmatch(0, 64, 0xf00000000000000f) == 4",
        "server_up(web)",
        "!server_up(web)",
        "connections(\"odd group\") < 100",
        "(url == \"a\" && path == \"b\") || !(host == \"c\" || method == \"d\")",
        "!exists(host)",
        "!!exists(host)",
        "regex(url, \"^/a\\.b\\\"\\\\d$\"/i)",
        "prefix(header.x, \"a\\\\b\\\"\\n\")",
    ] {
        let rule = format!("if ({term}) reject");
        assert_eq!(canonical(&rule), rule);
    }
    assert_eq!(canonical("if (ip.proto == tcp) reject"), "if (ip.proto == 6) reject");
    assert_eq!(canonical("if (header.Content-Type == \"a\") reject"), "if (header.content-type == \"a\") reject");
    assert_eq!(canonical("if (exists(xml./s:Envelope/s:Body)) reject"), "if (exists(xml.Envelope/Body)) reject");
}

#[test]
fn long_conditions_are_broken_and_comments_stay() {
    let source = "\n\n# first\n\n\n# second\nR1:   if (prefix(url, \"/a-rather-long-prefix-of-an-address\") && # why\n   \
        cookie.session == \"and-a-long-cookie-value-too\" && exists(header.authorization)) reject # behind\n\n\n# end\n\n";
    let printed = rules::format(&parse(source));
    assert_eq!(
        printed,
        "# first\n\n# second\n# why\nR1: if (prefix(url, \"/a-rather-long-prefix-of-an-address\")\n    && \
         cookie.session == \"and-a-long-cookie-value-too\"\n    && exists(header.authorization)) {\n    reject\n}  \
         # behind\n\n# end\n"
    );
    assert_eq!(rules::format(&parse(&printed)), printed);
}

#[test]
fn errors_point_at_the_place_and_say_what_was_expected() {
    for (source, place, found, mend) in [
        ("R1: if (url = \"a\") reject", "1:13", "found `=`, expected a relation", "equality is written =="),
        ("R1: if (url == \"a\" & host == \"b\") reject", "1:20", "found `&`, expected `&&`", "&&"),
        ("R1: iff (url == \"a\") reject", "1:5", "found `iff`, expected `if`", ""),
        ("R1: if url == \"a\" reject", "1:8", "found `url`, expected `(`", ""),
        ("R1: if (ulr == \"a\") reject", "1:9", "no variable or function `ulr`", "did you mean `url`?"),
        ("R1: if (5000 < xml.a) reject", "1:9", "`5000`", "left of the relation"),
        ("R1: if (\"a\" == url) reject", "1:9", "found a text", "left of the relation"),
        ("R1: if (url == \"a) reject", "1:16", "no closing", ""),
        ("R1: if (url == \"a\" reject", "1:20", "found `reject`, expected `&&`, `||` or `)`", ""),
        ("R1: if (url == ) reject", "1:16", "found `)`, expected a value", ""),
        ("R1: if (url < \"a\") reject", "1:15", "texts have no order", "without quotes"),
        ("R1: if (ip.src < 10.0.0.1) reject", "1:16", "addresses have no order", "in NETWORK"),
        ("R1: if (ip.src in 10.0.0.0/33) reject", "1:19", "found `10.0.0.0/33`", ""),
        ("R1: if (ip.src in 10.0.0.1/8) reject", "1:19", "the network is 10.0.0.0/8", ""),
        ("R1: if (ip.src == 10.0.0.0/8) reject", "1:19", "one address", "in 10.0.0.0/8"),
        ("R1: if (ip.src == ::ffff:10.0.0.1) reject", "1:19", "no packet has the address", "write 10.0.0.1, as"),
        ("R1: if (ip.src in ::ffff:10.0.0.0/104) reject", "1:19", "no packet has the address", "write 10.0.0.0/8, as"),
        ("R1: if (url == \u{201c}/a\u{201d}) reject", "1:16", "found \u{201c}, a typographic quote", "plain quotes"),
        ("R1: if (header.x in 10.0.0.0/8) reject", "1:21", "found a network", ""),
        ("R1: if (ip.ttl == 64.5) reject", "1:19", "expected a whole number", ""),
        ("R1: if (ip.ttl == \"64\") reject", "1:19", "expected a whole number", ""),
        ("R1: if (server_up(a) == 1) reject", "1:22", "found `==`, expected `&&`", ""),
        ("R1: if (prefix(ip.src, \"10.\")) reject", "1:16", "reads text, and this is an address", ""),
        ("R1: if (regex(url, \"a(b\")) reject", "1:22", "bad regular expression", ""),
        ("R1: if (regex(url, \"(?=a)\")) reject", "1:21", "bad regular expression", ""),
        ("R1: if (exists(ip.src)) reject", "1:9", "it always exists", ""),
        ("R1: if (xml.a[2]/b == 1) reject", "1:13", "one root element", ""),
        ("R1: if (xml.a/@b/c == 1) reject", "1:18", "`@name` ends a path", ""),
        ("R1: if (xml.a[b > 1]/c == 1) reject", "1:13", "may only end a path", ""),
        ("R1: if (url == a) bounce", "1:19", "no action `bounce`", ""),
        ("R1: if (url == a) routto(x)", "1:19", "no action `routto`", "did you mean `routeTo`?"),
        ("R1: if (url == a) loadBalance(x)", "1:19", "found 1 argument, expected loadBalance(group, algorithm)", ""),
        ("R1: if (url == a) reject(302)", "1:26", "status from 400 to 599", "redirect"),
        ("R1: if (url == a) redirect(200, /x)", "1:28", "expected 301", ""),
        ("R1: if (url == a) redirect(302, \"/x\\r\\nSet-Cookie: a\")", "1:33", "printable ASCII", ""),
        ("R1: if (url == a) routeTo(x, sticky)", "1:30", "found `sticky`, expected STICKY or NON_STICKY", ""),
        ("R1: if (prefix(path, /api/i)) reject", "1:22", "part of the text", "in quotes"),
        ("R1: if (bitmatch(64, 8, 0x1ff) == 64) reject", "1:17", "none beyond the 8", ""),
        ("default: reject\nR1: if (url == a) reject", "2:1", "nothing may follow `default`", "put it last"),
        ("R1: if (url == a) reject\nR1: if (url == b) reject", "2:1", "already the rule on line 1", ""),
        ("R1: if (url in @hosts) reject", "1:16", "cannot read the list", ""),
        ("R1:", "1:4", "found the end of the file, expected `if`", ""),
    ] {
        let shown = error(source);
        assert!(shown.contains(&format!("test.rules:{place}: error: ")), "{source}: {shown}");
        assert!(shown.contains(found), "{source}: {shown}");
        assert!(shown.contains(mend), "{source}: {shown}");
    }
}

#[test]
fn the_caret_shows_the_place() {
    assert_eq!(
        error("# a\nR1: if (url == \"a\" && hots == \"b\") reject\n"),
        "test.rules:2:23: error: there is no variable or function `hots`\n\
         2 | R1: if (url == \"a\" && hots == \"b\") reject\n  \
           |                       ^^^^\n  \
           = did you mean `host`?"
    );
}

#[test]
fn one_mistake_does_not_hide_the_next() {
    let source =
        "R1: if (ulr == a) reject\nR2: if (url == a &&\n  b) reject\nR3: if (url == a) reject\nR4: if (x) reject";
    let errors = rules::parse(source, &Context::named("f")).unwrap_err();
    assert_eq!(errors.0.iter().map(|e| e.position.line).collect::<Vec<_>>(), [1, 3, 4 + 1]);
}

#[test]
fn depth_and_size_are_bounded() {
    let deep = format!("R1: if ({}url == a{}) reject", "(".repeat(100_000), ")".repeat(100_000));
    assert!(error(&deep).contains("nest at most"));
    let bangs = format!("R1: if ({}exists(url)) reject", "!".repeat(100_000));
    assert!(error(&bangs).contains("nest at most"));
    let wide = format!("R1: if (url == a{}) reject", " || url == b".repeat(2_000));
    assert!(error(&wide).contains("at most 1024 terms"));
    let long = format!("R1: if (url == \"{}\") reject", "a".repeat(10_000));
    assert!(error(&long).contains("longer than"));
}

struct Lists;

impl ReadList for Lists {
    fn read(&self, name: &str) -> Result<String, String> {
        match name {
            "nets" => Ok("# ours\n10.0.0.0/8\n\n192.0.2.1\n".into()),
            "hosts" => Ok("a.example\n b.example \n".into()),
            "bad" => Ok("10.0.0.0/8\nten\n".into()),
            _ => Err(format!("{name}: no such file")),
        }
    }
}

#[test]
fn lists_are_read_and_their_mistakes_named_by_line() {
    let context = Context { lists: Some(&Lists), ..Context::named("f") };
    let source = "R1: if (ip.src in @nets || suffix(host, @\"hosts\"/i)) reject\n";
    let set = rules::parse(source, &context).unwrap();
    let terms = set.rules[0].condition.terms();
    let rules::Test::Address { values, .. } = &terms[0].test else { panic!() };
    assert_eq!(values.values().len(), 2);
    let rules::Test::Text { values, .. } = &terms[1].test else { panic!() };
    assert_eq!(values.values(), ["a.example", "b.example"]);
    assert_eq!(rules::format(&set), source);
    let shown = rules::parse("R1: if (ip.src in @bad) reject", &context).unwrap_err().to_string();
    assert!(shown.contains("f:1:19: error: bad:2: found `ten`"), "{shown}");
    // For printing alone no list is opened.
    let context = Context { lists: None, ..Context::named("f") };
    assert!(rules::parse("R1: if (ip.src in @missing) reject", &context).is_ok());
}

#[test]
fn lists_stand_beside_the_rule_file_and_are_bounded() {
    let folder = std::env::temp_dir().join(format!("lcs-lists-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("nets"), "10.0.0.0/8\n").unwrap();
    let lists = rules::ListsIn(folder.clone());
    let context = Context { lists: Some(&lists), ..Context::named("f") };
    let set = rules::parse("R1: if (ip.src in @nets) reject", &context);
    let missing = rules::parse("R1: if (ip.src in @nots) reject", &context);
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(set.is_ok());
    assert!(missing.unwrap_err().to_string().contains("nots"));
}

#[test]
fn names_are_checked_where_they_are_known() {
    let names = Names { groups: Some(BTreeSet::from(["web".into(), "images".into()])), ..Names::default() };
    let context = Context { names: Some(&names), ..Context::named("f") };
    let bad = |source: &str| {
        let errors = rules::parse(source, &context).unwrap_err();
        assert_eq!(errors.0[0].mistake, Mistake::UnknownName);
        errors.to_string()
    };
    assert!(rules::parse("R1: if (server_up(web)) routeTo(images)", &context).is_ok());
    assert!(bad("R1: if (url == a) routeTo(image)").contains("did you mean `images`?"));
    assert!(bad("R1: if (!server_up(wbe)) reject").contains("1:20"));
    assert!(bad("default: loadBalance(x, rr)").contains("the configuration has images, web"));
}

#[test]
fn default_is_compulsory_for_a_service() {
    let context = Context { require_default: true, ..Context::named("f") };
    let errors = rules::parse("R1: if (url == a) reject\n", &context).unwrap_err();
    assert_eq!(errors.0[0].mistake, Mistake::MissingDefault);
    assert!(rules::parse("R1: if (url == a) reject\ndefault: reject(404)\n", &context).is_ok());
}

#[test]
fn stickiness_and_queues_are_read_and_written_back() {
    let set = "a: if (path == \"/a\") routeTo(web, STICKY, source)\n\
               b: if (path == \"/b\") routeTo(web, STICKY, cookie.id)\n\
               c: if (path == \"/c\") routeTo(web, STICKY, set-cookie.JSESSIONID)\n\
               d: if (path == \"/d\") forward(s1, slow)\n\
               default: routeTo(web, STICKY)\n";
    let parsed = rules::parse(set, &Context::named("t")).unwrap();
    assert_eq!(rules::format(&parsed), set);
    for (rule, what) in [
        ("default: routeTo(web, NON_STICKY, cookie.id)", "expected STICKY before what it goes by"),
        ("default: routeTo(web, STICKY, header.id)", "expected source, cookie.NAME or set-cookie.NAME"),
        ("default: routeTo(web, STICKY, cookie.)", "no name of a cookie"),
        ("default: routeTo(web, STICKY, \"cookie.a;b\")", "no name of a cookie"),
        ("default: routeTo(web, STICKY, a, b)", "found 4 arguments"),
    ] {
        let error = rules::parse(rule, &Context::named("t")).unwrap_err().to_string();
        assert!(error.contains(what), "{rule}: {error}");
    }
}
