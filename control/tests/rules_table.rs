//! Test tables and explanations: what a user runs against a rule set.

use lcs_control::rules::{self, Context, Evaluator, Mistake, RuleSet, TestReport};

const RULES: &str = r#"R1: if (xml.purchase/totalAmount > 5000) routeTo(highSpeedServers)
R2: if (xml.purchase/customerName == "CCL") routeTo(specialCustomerServers)
R3: if (suffix(url, "gif") || suffix(url, "jpg")) loadBalance(images, wlc)
R4: if (regex(url, "^/purchase") && cookie.name == "servlet1") routeTo(cgi, STICKY)
R5: if (smtp.to == "chow@cs.uccs.edu") routeTo(mail2)
R6: if (bitmatch(64, 8, 0xff) == 65) routeTo(linuxers)
R7: if (ip.src in 203.0.113.0/24 && !(method == "GET")) reject(403)
R8: if (json.order/line[2]/sku == "a b" && !server_up(web)) forward(s1, slow)
default: routeTo(web)
"#;

fn set() -> RuleSet {
    rules::parse(RULES, &Context::named("r")).unwrap()
}

/// Runs a table with the reference evaluator.
fn run(table: &str) -> TestReport {
    let set = set();
    let evaluator = Evaluator::new(&set);
    rules::test_table(&set, table, "t", |case| {
        if case.raw {
            Err(String::from_utf8_lossy(&case.bytes).into_owned())
        } else {
            Ok(evaluator.verdict(&case.connection))
        }
    })
    .unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn one_line_a_request() {
    let report = run(r#"
# request                                                       => expected
POST /purchase.cgi xml.purchase/totalAmount=52000               => highSpeedServers
POST / xml.purchase/customerName="CCL" xml.purchase/totalAmount=1   => rule R2
xml.purchase/customerName=CCL header.content-type=text/xml      => specialCustomerServers   # POST by itself
GET /a.gif                                                      => loadBalance(images, wlc)
GET /purchase/x?a=>b cookie.name=servlet1                       => routeTo(cgi, STICKY)
path=/purchase cookie.name=servlet1 query.odd="a b&c"           => cgi
smtp.to=chow@cs.uccs.edu                                        => mail2
GET / ip.ttl=65                                                 => linuxers
ip.src=203.0.113.9 POST /                                       => reject(403)
ip.src=203.0.113.9 GET /                                        => default
POST / json.order/line[2]/sku="a b" server_up(web)=false        => forward(s1, slow)
POST / json.order/line[2]/sku="a b"                             => web
tls.sni=www.example.com                                         => default
"#);
    assert_eq!(report.cases, 13);
    assert_eq!(report.failures, [], "{report}");
}

#[test]
fn failures_say_what_was_got_instead() {
    let report = run("GET /a.gif => web\nGET / => rule R1\nGET /b.gif => images\n");
    assert_eq!(
        report.to_string(),
        "t:1: GET /a.gif\n    expected  web\n    got       R3: loadBalance(images, wlc)\n\
         t:2: GET /\n    expected  rule R1\n    got       default: routeTo(web)\n\
         t: 1 of 3 as expected"
    );
    assert_eq!(serde_json::to_value(&report).unwrap()["failures"][1]["line"], 2);
}

#[test]
fn a_block_is_the_request_as_it_is_sent() {
    let report = run(
        "<<< ip.ttl=64 => web\nPOST / HTTP/1.1\nHost: a\n\n<a>\n</a>\n>>>\n<<< => mail2\nEHLO a\nRCPT TO:<b>\n>>>\n",
    );
    let sent: Vec<&str> = report.failures.iter().map(|f| f.got.as_str()).collect();
    assert_eq!(sent, ["POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n<a>\n</a>", "EHLO a\r\nRCPT TO:<b>\r\n"]);
    assert_eq!((report.failures[0].line, report.failures[1].line), (1, 8));
}

#[test]
fn mistakes_in_a_table_are_named_by_line() {
    for (table, place, message) in [
        ("GET /a web\n", "t:1:1", "expected `=>`"),
        ("\nGET /a => \n", "t:2:10", "expected what the request should get"),
        ("GET /a ulr=b => web\n", "t:1:8", "no variable or function `ulr`"),
        ("GET /a host = b => web\n", "t:1:13", "expected `=` and a value"),
        ("GET /a ip.ttl=300 => web\n", "t:1:8", "whole number from 0 to 255"),
        ("GET /a ip.src=ten => web\n", "t:1:8", "an address"),
        ("GET /a server_up(g)=maybe => web\n", "t:1:8", "true or false"),
        ("GET /a smtp.to=b => web\n", "t:1:1", "one protocol, not HTTP and SMTP"),
        ("xml.a/b=1 xml.c/d=2 => web\n", "t:1:1", "cannot be in one document"),
        ("xml.a/b=1 xml.a/b[1]=2 => web\n", "t:1:1", "same place in the document"),
        ("GET /a => routeTo(web) x\n", "t:1:24", "expected the end of the line"),
        ("GET /a => reject(200)\n", "t:1:18", "status from 400 to 599"),
        ("<<< => web\nGET / HTTP/1.1\n", "t:1:1", "no end"),
        ("<<< GET / => web\n>>>\n", "t:1:1", "written out in the block"),
    ] {
        let errors = rules::parse_table(table, "t").map(|cases| cases.len()).unwrap_err();
        let shown = errors.to_string();
        assert!(shown.starts_with(&format!("{place}: ")), "{table}: {shown}");
        assert!(shown.contains(message), "{table}: {shown}");
        assert_ne!(errors.0[0].mistake, Mistake::Limit);
    }
    let errors = rules::parse_table("GET /a\n<<<\nx => y\n>>>\nGET / => a b\n", "t").unwrap_err();
    assert_eq!(errors.0.iter().map(|e| e.position.line).collect::<Vec<_>>(), [1, 2, 5]);
}

#[test]
fn explanations_name_every_rule_above_and_every_term() {
    let set = set();
    let table = "ip.src=203.0.113.9 POST /a.png => web\n";
    let case = &rules::parse_table(table, "t").unwrap()[0];
    let evaluator = rules::Evaluator::new(&set);
    let verdict = evaluator.verdict(&case.connection);
    let explanation = rules::explain(&evaluator, &case.connection, Some(verdict));
    let shown = explanation.to_string();
    assert!(
        shown.contains(
            "r:3: R3 does not match\n    false    suffix(url, \"gif\")    (\"/a.png\")\n    \
             false    suffix(url, \"jpg\")    (\"/a.png\")\n"
        ),
        "{shown}"
    );
    assert!(
        shown.contains("r:1: R1 does not match\n    false    xml.purchase/totalAmount > 5000    (absent)"),
        "{shown}"
    );
    assert!(
        shown.ends_with(
            "r:7: R7 takes it\n    true     ip.src in 203.0.113.0/24    (203.0.113.9)\n    \
             false    method == \"GET\"    (\"POST\")\n=> reject(403)"
        ),
        "{shown}"
    );
    assert_eq!(explanation.rules.len(), 7);
    let json = serde_json::to_value(&explanation).unwrap();
    assert_eq!(json["rules"][6]["terms"][0]["truth"], "true");
    assert_eq!(json["verdict"]["rule"], 6);
}
