//! What the checker finds, in the tutorial's own examples and in the cases that make checking hard.

use lcs_control::rules::{self, CheckOptions, Context, Finding, FindingKind, Report};

fn check(source: &str) -> Report {
    let set = rules::parse(source, &Context::named("t.rules")).unwrap_or_else(|errors| panic!("{errors}"));
    rules::check(&set, &CheckOptions::default())
}

fn kinds(report: &Report) -> Vec<(FindingKind, Vec<usize>)> {
    report.findings.iter().map(|f| (f.kind, f.places.iter().map(|p| p.index).collect())).collect()
}

/// The kinds of findings, gaps and hints aside, for two conditions with different actions.
fn pair(first: &str, second: &str) -> Vec<FindingKind> {
    let report = check(&format!("a: if ({first}) routeTo(a)\nb: if ({second}) routeTo(b)\n"));
    report.findings.iter().map(|f| f.kind).filter(|kind| !matches!(kind, Gap | FindingKind::FirstOnly)).collect()
}

fn witness(first: &str, second: &str) -> String {
    let report = check(&format!("a: if ({first}) routeTo(a)\nb: if ({second}) routeTo(b)\n"));
    let conflict: Vec<&Finding> = report.findings.iter().filter(|f| f.kind == FindingKind::PotentialConflict).collect();
    assert_eq!(conflict.len(), 1, "{first} / {second}: {report}");
    let witness = conflict[0].witness.as_ref().unwrap();
    let attributes: String = witness.connection.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    attributes + &String::from_utf8_lossy(&witness.bytes)
}

use FindingKind::{AbsoluteConflict, Duplicate, Gap, PotentialConflict, Shadowed, Undecided, Unsatisfiable};

#[test]
fn slide_64_absolute_and_potential_conflicts() {
    let report = check(
        "r1: if (xml.purchase/customerName == \"CCL\") routeTo(r1)\n\
         r2: if (xml.purchase/customerName == \"CCL\") routeTo(r2)\n",
    );
    assert_eq!(kinds(&report), [(AbsoluteConflict, vec![1, 0])]);
    let report = check(
        "r1: if (xml.purchase/totalAmount > 5000) routeTo(quickServers)\n\
         r2: if (xml.purchase/totalAmount > 20000) routeTo(superServers)\n",
    );
    assert_eq!(kinds(&report), [(Shadowed, vec![1, 0]), (PotentialConflict, vec![0, 1])]);
    let witness = report.findings[1].witness.as_ref().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&witness.bytes),
        "POST / HTTP/1.1\r\nHost: www.example.com\r\nContent-Type: text/xml\r\nContent-Length: 53\r\n\r\n\
         <purchase><totalAmount>20001</totalAmount></purchase>"
    );
    // The other way round the narrower rule comes first, and both fire.
    let report = check(
        "r1: if (xml.purchase/totalAmount > 20000) routeTo(superServers)\n\
         r2: if (xml.purchase/totalAmount > 5000) routeTo(quickServers)\n",
    );
    assert_eq!(kinds(&report), [(PotentialConflict, vec![0, 1])]);
}

#[test]
fn slide_40_different_variables_conflict_in_one_document() {
    assert_eq!(
        witness("xml.purchase/totalAmount > 5000", "xml.purchase/customerName == \"CCL\""),
        "POST / HTTP/1.1\r\nHost: www.example.com\r\nContent-Type: text/xml\r\nContent-Length: 84\r\n\r\n\
         <purchase><totalAmount>5001</totalAmount><customerName>CCL</customerName></purchase>"
    );
}

#[test]
fn slide_68_the_rules_leave_out_exactly_50000() {
    let report = check(
        "R4: if (xml.purchase/item[2]/subTotal > 50000) routeTo(ace, NON_STICKY)\n\
         R5: if (xml.purchase/item[2]/subTotal > 0 && xml.purchase/item[2]/subTotal < 50000) routeTo(wait, NON_STICKY)\n\
         R10: if (contains(url, \"lcs1\")) routeTo(ace, NON_STICKY)\n\
         R11: if (contains(url, \"lcs2\")) routeTo(wait, NON_STICKY)\n\
         default: routeTo(web)\n",
    );
    let gap = report.findings.iter().find(|f| f.kind == Gap).unwrap();
    assert!(gap.message.contains("exactly xml.purchase/item[2]/subTotal == 50000"), "{}", gap.message);
    let body = String::from_utf8_lossy(&gap.witness.as_ref().unwrap().bytes).into_owned();
    assert!(body.ends_with("<purchase><item></item><item><subTotal>50000</subTotal></item></purchase>"), "{body}");
    // R4/R11, R5/R10, R10/R11 can meet; R4/R5 cannot, R4/R10 and R5/R11 agree.
    let conflicts: Vec<Vec<usize>> =
        kinds(&report).into_iter().filter(|(kind, _)| *kind == PotentialConflict).map(|(_, places)| places).collect();
    assert_eq!(conflicts, [[0, 3], [1, 2], [2, 3]]);
    assert_eq!(report.count(Shadowed) + report.count(Undecided), 0, "{report}");
}

#[test]
fn slide_37_an_xpath_test_is_a_term_like_others() {
    assert_eq!(
        witness("suffix(path, /order.asp) && xml.//Amount[Value > 10000]", "prefix(url, \"/shop/\")"),
        "POST /shop/order.asp HTTP/1.1\r\nHost: www.example.com\r\nContent-Type: text/xml\r\nContent-Length: 37\r\n\r\n\
         <Amount><Value>10001</Value></Amount>"
    );
}

#[test]
fn slide_61_header_bits_are_the_fields_that_they_cover() {
    assert_eq!(witness("bitmatch(64, 8, 0xff) == 64", "ip.ttl > 60"), "ip.ttl=64\nbitmatch(64, 8, 0xff)=64\n");
    let report = check(
        "R5: if (smtp.to == \"chow@cs.uccs.edu\") routeTo(mail2)\nR6: if (bitmatch(64, 8, 0xff) == 64) routeTo(linuxers)\n",
    );
    let witness = report.findings[0].witness.as_ref().unwrap();
    assert_eq!(
        witness.request,
        "EHLO client.example.com\nMAIL FROM:<sender@example.com>\nRCPT TO:<chow@cs.uccs.edu>\n"
    );
    assert_eq!(witness.connection, [("bitmatch(64, 8, 0xff)".to_owned(), "64".to_owned())]);
}

#[test]
fn numbers_decide_by_ranges() {
    let amount = "xml.a/b";
    for (first, second, expected) in [
        ("> 5", "< 5", &[][..]),
        ("> 5", "<= 5", &[]),
        (">= 5", "<= 5", &[PotentialConflict]),
        ("> 5", "== 5", &[]),
        ("> 5", "< 5.1", &[PotentialConflict]),
        ("> 5", "< 5.000000001", &[PotentialConflict]),
        ("!= 5", "== 5", &[]),
        ("!= 5", "== \"5\"", &[]),
        ("!= 5", "== \"5.0\"", &[]),
        ("== 5", "== \"5.0\"", &[Shadowed, PotentialConflict]),
        ("> 5", "prefix(X, \"4\")", &[PotentialConflict]),
        ("> 5", "X in (1, 2, 3)", &[]),
        ("> 5", "regex(X, \"^[a-z]+$\")", &[]),
        ("> 5", "regex(X, \"^[1-4]$\")", &[]),
        ("> 5", "regex(X, \"^[1-6]$\")", &[PotentialConflict]),
    ] {
        let second = if second.contains('X') { second.replace('X', amount) } else { format!("{amount} {second}") };
        assert_eq!(pair(&format!("{amount} {first}"), &second), expected, "{first} / {second}");
    }
    // Whole numbers have neighbours: nothing lies between 63 and 64.
    assert_eq!(pair("ip.ttl > 63", "ip.ttl < 64"), []);
    assert_eq!(pair("ip.ttl > 254", "ip.ttl == 255"), [AbsoluteConflict]);
    assert_eq!(kinds(&check("a: if (port.dst > 65535) reject\n")), [(Unsatisfiable, vec![0])]);
}

#[test]
fn absence_is_a_way_to_satisfy_a_negation() {
    // No such element: both negations hold.
    assert_eq!(pair("!(xml.a/b > 5)", "!(xml.a/b <= 5)"), [PotentialConflict]);
    assert_eq!(pair("xml.a/b > 5", "!exists(xml.a/b)"), []);
    assert_eq!(pair("exists(header.x) && !(header.x == \"\")", "header.x != \"\""), [AbsoluteConflict]);
    assert_eq!(kinds(&check("a: if (exists(query.x) && !exists(url)) reject\n")), [(Unsatisfiable, vec![0])]);
    let report = check(
        "a: if (exists(header.x)) routeTo(a)\nb: if (!exists(header.x)) routeTo(b)\nc: if (url == /c) routeTo(c)\n",
    );
    assert_eq!(report.findings.iter().filter(|f| f.kind == Shadowed).count(), 1, "{report}");
}

#[test]
fn texts_decide_by_automata() {
    for (first, second, expected) in [
        ("prefix(url, \"/a\")", "prefix(url, \"/b\")", &[][..]),
        ("prefix(url, \"/a\")", "prefix(url, \"/ab\")", &[Shadowed, PotentialConflict]),
        ("suffix(url, \"gif\")", "suffix(url, \"jpg\")", &[]),
        ("suffix(url, \"gif\")", "suffix(url, \"GIF\"/i)", &[PotentialConflict]),
        ("suffix(url, \"gif\"/i)", "suffix(url, \"GIF\")", &[Shadowed, PotentialConflict]),
        ("suffix(url, \"gif\"/i)", "suffix(url, \"GIF\"/i)", &[AbsoluteConflict]),
        ("regex(url, \"^/purchase\")", "prefix(url, \"/purchase\")", &[AbsoluteConflict]),
        ("regex(url, \"^/[0-9]+$\")", "regex(url, \"^/[a-z]+$\")", &[]),
        ("regex(url, \"^/[0-9]+$\")", "contains(url, \"77\")", &[PotentialConflict]),
        ("regex(url, \"^/(a|b)*$\")", "regex(url, \"^/a*$\")", &[Shadowed, PotentialConflict]),
        ("url == \"/a\"", "url in (\"/a\", \"/b\")", &[PotentialConflict]),
        ("url != \"/a\"", "url == \"/a\"", &[]),
        ("url == \"/x\"", "path == \"/x\"", &[PotentialConflict]),
        ("url == \"/x\"", "query.a == \"1\"", &[]),
        ("path == \"/x\" && query.a == \"1\"", "suffix(url, \"b=2\")", &[PotentialConflict]),
        ("query.a == \"1\"", "query.a == \"2\"", &[]),
        ("query.a > 5", "query.a < 5", &[]),
        ("query.a > 5", "prefix(url, \"/x?a=6\")", &[PotentialConflict]),
        ("host == \"a.example\"", "header.host == \"a.example:8080\"", &[Shadowed, PotentialConflict]),
        ("host == \"a.example\"", "header.host == \"b.example\"", &[]),
        ("host == \"A.EXAMPLE\"", "host == \"a.example\"", &[AbsoluteConflict]),
        ("cookie.a == \"1\"", "header.cookie == \"a=2\"", &[]),
        ("cookie.a == \"1\"", "contains(header.cookie, \"b=2\")", &[PotentialConflict]),
        ("cookie.name == \"servlet1\"", "regex(url, \"^/purchase\")", &[PotentialConflict]),
        ("method == \"GET\"", "method == \"POST\"", &[]),
    ] {
        assert_eq!(pair(first, second), expected, "{first} / {second}");
    }
}

#[test]
fn related_variables_get_one_consistent_request() {
    assert_eq!(
        witness("path == \"/x\" && query.a == \"1 2\"", "suffix(url, \"b=2\") && host == \"a.example\""),
        "GET /x?a=1+2&b=2 HTTP/1.1\r\nHost: a.example\r\n\r\n"
    );
    assert_eq!(
        witness("cookie.a == \"1\" && cookie.b == \"2\"", "regex(header.user-agent, \"^curl/[0-9]\")"),
        "GET / HTTP/1.1\r\nHost: www.example.com\r\nCookie: a=1;b=2\r\nUser-Agent: curl/0\r\n\r\n"
    );
    assert_eq!(
        witness("json.order/total > 100", "json.order/line[2]/sku == \"a\\\"b\""),
        "POST / HTTP/1.1\r\nHost: www.example.com\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n\
         {\"order\":{\"total\":101,\"line\":[\"\",{\"sku\":\"a\\\"b\"}]}}"
    );
    assert_eq!(
        witness("ip.src in 203.0.113.0/24", "!(method == \"GET\") && ip.dst in 2001:db8::/32 || port.dst == 8080"),
        "ip.src=203.0.113.1\nip.dst=198.51.100.1\nport.dst=8080\n"
    );
    assert_eq!(pair("ip.src in 10.0.0.0/8", "ip.dst in 2001:db8::/32"), []);
    assert_eq!(
        pair("ip.src in 10.0.0.0/8", "ip.src in 10.1.0.0/16 && ip.src != 10.1.0.1"),
        [Shadowed, PotentialConflict]
    );
}

#[test]
fn one_connection_speaks_one_protocol_and_one_body_is_one_document() {
    assert_eq!(pair("url == \"/\"", "smtp.to == \"a@b\""), []);
    assert_eq!(pair("tls.sni == \"a\"", "host == \"a\""), []);
    assert_eq!(pair("xml.a/b > 5", "xml.c/d > 5"), []);
    assert_eq!(pair("xml.a/b > 5", "json.a/b > 5"), []);
    assert_eq!(pair("xml.a/b > 5", "header.content-type == \"text/html\""), []);
    assert_eq!(
        pair("xml.a/b > 5", "header.content-type == \"application/soap+xml; charset=utf-8\""),
        [PotentialConflict]
    );
    assert_eq!(pair("ip.proto == udp", "exists(url)"), []);
    assert_eq!(pair("xml.//b > 5", "xml.a/b < 3"), [PotentialConflict]);
    assert_eq!(pair("xml.a/b > 5", "!exists(xml.//b)"), []);
    assert_eq!(pair("xml.a/b[1] > 5", "xml.a/b < 3"), []);
}

#[test]
fn bodies_fit_what_rules_ask_of_their_length() {
    let request = witness("xml.a > 5", "header.content-length > 100");
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("Content-Length: 101"), "{head}");
    assert_eq!((body.len(), body.trim_end()), (101, "<a>6</a>"));
    let request = witness("xml.a > 5", "!exists(header.content-length) && !(header.content-length == 8)");
    assert!(request.contains("Transfer-Encoding: chunked\r\n\r\n8\r\n<a>6</a>\r\n0\r\n\r\n"), "{request}");
}

#[test]
fn several_rules_together_may_shadow_one() {
    let report = check(
        "a: if (ip.src in 10.0.0.0/9) routeTo(a)\n\
         b: if (ip.src in 10.128.0.0/9) routeTo(b)\n\
         c: if (method == \"GET\") routeTo(c)\n\
         d: if (ip.src in 10.0.0.0/8) routeTo(d)\n",
    );
    let shadowed: Vec<&Finding> = report.findings.iter().filter(|f| f.kind == Shadowed).collect();
    assert_eq!(shadowed.len(), 1);
    assert_eq!(shadowed[0].places.iter().map(|p| p.rule.as_str()).collect::<Vec<_>>(), ["d", "a", "b"]);
    assert!(shadowed[0].message.contains("a and b take everything"), "{}", shadowed[0].message);
}

#[test]
fn the_same_condition_in_other_words() {
    let report = check(
        "a: if (method == \"GET\" && (url == \"/a\" || url == \"/b\")) routeTo(x)\n\
         b: if (url in (\"/b\", \"/a\") && !(method != \"GET\")) routeTo(x)\n\
         c: if (!(!(url == \"/a\") && !(url == \"/b\")) && method == \"GET\") routeTo(y)\n",
    );
    assert_eq!(kinds(&report), [(AbsoluteConflict, vec![2, 0]), (Duplicate, vec![1, 0])]);
}

#[test]
fn gaps_are_suggested_by_ranges_only() {
    let gap = |source: &str| {
        let report = check(source);
        report.findings.iter().filter(|f| f.kind == Gap).map(|f| f.message.clone()).collect::<Vec<_>>()
    };
    // Single values suggest nothing, touching ranges leave nothing, other rules may fill the hole.
    assert_eq!(gap("a: if (port.dst == 80) reject\nb: if (port.dst == 443) reject\n"), [""; 0]);
    assert_eq!(gap("a: if (ip.ttl < 64) reject\nb: if (ip.ttl >= 64) routeTo(x)\n"), [""; 0]);
    assert_eq!(
        gap("a: if (xml.a < 5) reject\nb: if (xml.a > 5) routeTo(x)\nc: if (exists(xml.a)) routeTo(y)\n"),
        [""; 0]
    );
    assert_eq!(gap("a: if (xml.a < 5) reject\nb: if (xml.a > 7) routeTo(x)\n").len(), 1);
    let found = gap("a: if (ip.ttl < 64) reject\nb: if (ip.ttl > 100) routeTo(x)\n");
    assert!(found[0].contains("ip.ttl >= 64 && ip.ttl <= 100"), "{found:?}");
    let found = gap("a: if (query.n <= 5) reject\nb: if (query.n > 6.5) routeTo(x)\n");
    assert!(found[0].contains("query.n > 5 && query.n <= 6.5"), "{found:?}");
}

#[test]
fn what_passes_the_bounds_is_said_to_be_undecided() {
    let wide = |n: u32| format!("regex(url, \"^/[ab]*a[ab]{{{n}}}$\")");
    let report = check(&format!(
        "a: if ({} && {} && {}) reject\nb: if ({} && {} && contains(url, \"c\")) routeTo(x)\n",
        wide(11),
        wide(12),
        wide(13),
        wide(14),
        wide(15)
    ));
    assert!(report.count(Undecided) + report.count(Unsatisfiable) > 0, "{report}");
}

#[test]
fn reports_read_well_and_serialize() {
    let report = check(
        "R1: if (xml.purchase/totalAmount > 5000) routeTo(highSpeedServers)\n\
         R2: if (xml.purchase/customerName == \"CCL\") routeTo(specialCustomerServers)\n",
    );
    assert_eq!(
        report.to_string(),
        "t.rules:1:1: note: potential conflict: a request can satisfy both R1 and R2; R1 wins, so it gets \
         routeTo(highSpeedServers), not routeTo(specialCustomerServers)\n  \
         1:1  R1: if (xml.purchase/totalAmount > 5000) routeTo(highSpeedServers)\n  \
         2:1  R2: if (xml.purchase/customerName == \"CCL\") routeTo(specialCustomerServers)\n  \
         for example:\n    \
         POST / HTTP/1.1\n    Host: www.example.com\n    Content-Type: text/xml\n    Content-Length: 84\n    \n    \
         <purchase><totalAmount>5001</totalAmount><customerName>CCL</customerName></purchase>\n\n\
         t.rules: 2 rules: 1 potential conflict"
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["findings"][0]["kind"], "potential-conflict");
    assert_eq!(json["findings"][0]["places"][1]["line"], 2);
}

#[test]
fn header_bits_and_fields_are_related_only_through_witnesses() {
    // The bits are the field on IPv4 alone: that they meet is shown, that they are the same is left open.
    assert_eq!(
        pair("exists(bitmatch(64, 8, 0xff)) && bitmatch(64, 8, 0xff) == 3", "ip.ttl == 3"),
        [PotentialConflict, Undecided]
    );
    assert_eq!(kinds(&check("a: if (!exists(bitmatch(64, 8, 0xff))) reject\n")), [(Unsatisfiable, vec![0])]);
}

#[test]
fn element_text_has_no_blanks_around_it() {
    assert_eq!(kinds(&check("a: if (xml.a == \" x\") reject\n")), [(Unsatisfiable, vec![0])]);
    assert_eq!(kinds(&check("a: if (xml.a/@b == \" x\") reject\n")), []);
    assert!(witness("contains(xml.a, \"x y\")", "exists(url)").ends_with("<a>x y</a>"));
}

#[test]
fn the_asterisk_is_for_options_alone() {
    assert!(witness("url == \"*\"", "exists(host)").starts_with("OPTIONS * HTTP/1.1\r\n"));
    assert_eq!(pair("url == \"*\"", "method == \"GET\""), []);
    assert!(witness("!(url in (\"/\", \"/a\"))", "method == \"GET\"").starts_with("GET /b HTTP/1.1\r\n"));
    // HTTP/1.1 has a Host.
    assert!(witness("!exists(host)", "exists(url)").starts_with("GET / HTTP/1.0\r\n\r\n"));
    assert_eq!(pair("!exists(host)", "http.version == \"1.1\""), []);
}

/// Requests of the findings of a kind, in order.
fn requests(report: &Report, kind: FindingKind) -> Vec<String> {
    let of_kind = report.findings.iter().filter(|f| f.kind == kind);
    of_kind.map(|f| f.witness.as_ref().unwrap_or_else(|| panic!("{report}")).request.clone()).collect()
}

#[test]
fn rules_that_never_fire_show_a_request_that_another_takes() {
    let report = check(
        "R1: if (url == \"/a\") routeTo(x)\n\
         R2: if (url == \"/a\") routeTo(y)\n\
         R3: if (url == \"/a\") routeTo(x)\n\
         R4: if (path == \"/b\" && header.x == \"1\") routeTo(x)\n\
         R5: if (prefix(path, \"/b\") && header.x == \"1\" && path == \"/b\") routeTo(y)\n\
         R6: if (ip.ttl > 60 && url == /c) routeTo(x)\n\
         R7: if (ip.ttl <= 60 && url == /c) routeTo(x)\n\
         R8: if (url == /c) routeTo(y)\n",
    );
    let get = |rest: &str| format!("GET {rest}");
    assert_eq!(
        requests(&report, AbsoluteConflict),
        [
            get("/a HTTP/1.1\r\nHost: www.example.com\r\n\r\n").replace('\r', ""),
            get("/b HTTP/1.1\r\nHost: www.example.com\r\nX: 1\r\n\r\n").replace('\r', ""),
        ],
        "{report}"
    );
    assert!(requests(&report, Duplicate)[0].starts_with("GET /a HTTP"), "{report}");
    // It never fires; what takes the request depends on the TTL, so that is shown.
    let shadowed = report.findings.iter().find(|f| f.kind == Shadowed).unwrap();
    let witness = shadowed.witness.as_ref().unwrap();
    assert!(witness.request.starts_with("GET /c HTTP") && witness.connection[0].0 == "ip.ttl", "{report}");
    let json = serde_json::to_value(&report).unwrap();
    assert!(json["findings"][0]["witness"]["request"].as_str().unwrap().starts_with("GET /a"), "{json}");
    assert!(report.to_string().contains("  for example:\n    GET /a HTTP/1.1\n"), "{report}");
}

#[test]
fn what_costs_with_the_number_of_rules_is_named_with_what_to_do() {
    let many = |count: usize, condition: &dyn Fn(usize) -> String| {
        let rule = |n: usize| format!("r{n}: if ({}) routeTo(a)\n", condition(n));
        check(&(0..count).map(rule).collect::<String>())
    };
    let hints = |report: &Report| -> Vec<(String, usize)> {
        let hints = report.findings.iter().filter(|f| f.kind == FindingKind::Cost);
        hints.map(|f| (f.message.clone(), f.places.len())).collect()
    };
    let patterns = hints(&many(10, &|n| format!("regex(url, \"[0-9]+{n}\")")));
    assert!(patterns.len() == 1 && patterns[0].1 == 8, "{patterns:?}");
    assert!(patterns[0].0.starts_with("r0 and 9 other rules have patterns that no two bytes in a row"), "{patterns:?}");
    // With a text that is sure to be there, or few of them, nothing is said.
    assert_eq!(hints(&many(10, &|n| format!("regex(url, \"^/id{n}/[0-9]+\")"))), []);
    assert_eq!(hints(&many(3, &|n| format!("regex(url, \"[0-9]+{n}\")"))), []);
    let same = hints(&many(100, &|n| format!("path == /a && !(host == \"h{n}\")")));
    assert!(same.len() == 1 && same[0].0.starts_with("r0 and 99 other rules are looked at one by one"), "{same:?}");
    let product: Vec<String> = (0..15).map(|n| format!("(header.a{n} == \"1\" || header.b{n} == \"1\")")).collect();
    let wide = hints(&many(1, &|_| product.join(" && ")));
    assert!(wide.len() == 1 && wide[0].0.starts_with("r0: more than 16384 combinations of terms"), "{wide:?}");
}
