//! The compiled program and the real extraction, against the reference evaluator: on the bytes of every
//! request of a small world, and on the checker's witnesses as they are shown.

mod small_world;

use lcs_control::rules::{
    self, CheckOptions, Connection, Context, Evaluator, FindingKind, HttpRequest, Message, Mistake, Protocol, RuleSet,
    Trial, Truth, Verdict,
};
use proptest::prelude::*;
use small_world::{enumerate, small_set};

fn parse(source: &str) -> RuleSet {
    rules::parse(source, &Context::named("t")).unwrap_or_else(|errors| panic!("{errors}"))
}

fn trial(set: &RuleSet) -> Trial<'_> {
    Trial::new(set).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Both rules of every conflict take the request that is shown, read from its bytes.
fn witnesses_hold(source: &str) -> usize {
    let set = parse(source);
    let (trial, evaluator) = (trial(&set), Evaluator::new(&set));
    let report = rules::check(&set, &CheckOptions::default());
    let mut shown = 0;
    for finding in report.findings.iter().filter(|f| f.kind == FindingKind::PotentialConflict) {
        let witness = finding.witness.as_ref().unwrap();
        // What stands outside the request is not in its bytes.
        if !witness.connection.is_empty() || witness.bytes.is_empty() {
            continue;
        }
        shown += 1;
        let protocol = trial.guess(&witness.bytes);
        let read = trial.attributes(protocol, &witness.bytes, &Connection::default());
        for place in &finding.places {
            assert_eq!(evaluator.rule(place.index, &read), Truth::True, "{}\n{witness}\n{read:?}", place.text);
        }
        let verdict = trial.verdict(protocol, &witness.bytes, &Connection::default()).unwrap();
        assert_eq!(verdict, evaluator.verdict(&read), "{witness}");
    }
    shown
}

#[test]
fn the_requests_that_conflicts_show_are_what_they_say() {
    let shown = witnesses_hold(
        "a: if (xml.purchase/totalAmount > 5000) routeTo(a)\n\
         b: if (xml.purchase/customerName == \"C&L <x>\") routeTo(b)\n\
         c: if (suffix(path, \"/order.asp\") && xml.//Amount[Value > 10000]) routeTo(c)\n\
         d: if (regex(url, \"^/(shop|purchase)/[a-z]+\") && query.id == \"1 2&3\") routeTo(d)\n\
         e: if (cookie.name == \"servlet1\" && contains(header.cookie, \"x=1\")) routeTo(e)\n\
         f: if (host == \"shop.example\" && suffix(header.host, \":8080\")) routeTo(f)\n\
         g: if (json.order/\"line items\"[2]/total > 1.5 && json.order/who == \"a\\\"b\\\\c\") routeTo(g)\n\
         h: if (header.content-length > 300) routeTo(h)\n\
         i: if (!exists(header.content-length) && !(header.content-length == 1)) routeTo(i)\n\
         j: if (smtp.to == \"chow@cs.uccs.edu\") routeTo(j)\n\
         k: if (smtp.from == \"a@b.example\") routeTo(k)\n\
         l: if (suffix(smtp.to, \"uccs.edu\")) routeTo(l)\n\
         m: if (xml.purchase/item[2]/@id == \"7\" && xml.purchase/item[2]/subTotal > 50000) routeTo(m)\n\
         n: if (imap.user == \"a\") routeTo(n)\n\
         o: if (prefix(imap.user, \"a\")) routeTo(o)\n\
         p: if (method in (\"PUT\", \"POST\") && http.version == \"1.0\") routeTo(p)\n",
    );
    assert!(shown > 50, "{shown}");
}

#[test]
fn a_decision_may_come_before_the_request_ends() {
    let set = parse("a: if (xml.a/b > 5) routeTo(a)\nb: if (url == /b) routeTo(b)\ndefault: routeTo(c)\n");
    let trial = trial(&set);
    let request =
        b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Type: text/xml\r\nContent-Length: 20\r\n\r\n<a><b>7</b><c></c></a>";
    let at = |bytes: &[u8]| trial.verdict(Some(Protocol::Http), bytes, &Connection::default()).unwrap();
    let verdicts: Vec<Verdict> = (0..request.len()).map(|end| at(&request[..end])).collect();
    // Nothing is known at first, then the URL is, but the rule about the body stands above.
    assert_eq!(verdicts[0], Verdict::Waiting(0));
    assert_eq!(verdicts[30], Verdict::Waiting(0));
    let fires = verdicts.iter().position(|v| *v == Verdict::Rule(0)).unwrap();
    assert!(fires < request.len() - 8, "{fires}");
    assert!(verdicts[fires..].iter().all(|v| *v == Verdict::Rule(0)));
    // A request without a body has no XML: its head decides.
    assert_eq!(at(b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n"), Verdict::Rule(1));
    assert_eq!(at(b"GET /c HTTP/1.1\r\nHost: x\r\n\r\n"), Verdict::Default);
}

#[test]
fn tables_run_on_bytes() {
    let set = parse(
        "R1: if (xml.purchase/totalAmount > 5000) routeTo(fast)\n\
         R2: if (server_up(web) && path == /a) routeTo(web)\n\
         R3: if (smtp.to == \"a@b\") routeTo(mail)\n\
         R4: if (tls.sni == \"a.example\") routeTo(tls)\n\
         default: reject(404)\n",
    );
    let trial = trial(&set);
    let table = "POST / xml.purchase/totalAmount=5001 => fast\nGET /a => R2\nGET /a => web\n\
        GET /a server_up(web)=false => default\nsmtp.to=a@b => mail\ntls.sni=A.example => tls\n\
        <<< => rule R1\nPOST /x HTTP/1.1\nHost: a\nContent-Type: text/xml\n\n<purchase>\n <totalAmount> 6000 </totalAmount>\n</purchase>\n>>>\n\
        <<< => web\nGET /a HTTP/1.1\n>>>\n";
    let report = rules::test_table(&set, table, "t", |case| trial.decide(case)).unwrap_or_else(|e| panic!("{e}"));
    let lines: Vec<usize> = report.failures.iter().map(|f| f.line).collect();
    // \"R2\" alone names a group; HTTP/1.1 without Host is refused.
    assert_eq!(lines, [2, 16], "{report}");
    assert!(report.failures[1].got.contains("refused"), "{report}");
}

/// The tutorial's own rules (slides 37, 40, 61, 64, 68), compiled and run on the bytes of requests.
#[test]
fn the_tutorials_rules_take_the_requests_that_they_are_about() {
    let set = parse(
        "server1: if (suffix(path, /order.asp) && xml.//Amount[Value > 10000]) forward(server1)\n\
         Rule 1: if (xml.purchase/totalAmount > 5000) routeTo(highSpeedServers)\n\
         Rule 2: if (xml.purchase/customerName == CCL) routeTo(specialCustomerServers)\n\
         R3: if (suffix(url, gif) || suffix(url, jpg)) loadBalance(images, wlc)\n\
         R4: if (regex(url, \"^/purchase\") && cookie.name == \"servlet1\") routeTo(cgi, STICKY)\n\
         R5: if (smtp.to == \"chow@cs.uccs.edu\") routeTo(mail2)\n\
         R6: if (bitmatch(64, 8, 0xff) == 65) routeTo(linuxers)\n\
         R8: if (atoi(xml.order/item[2]/subTotal) > 50000) { return route_to(\"ace\", NON_STICKY, saddr); }\n\
         R9: if ((atoi(xml.order/item[2]/subTotal) > 0) && (atoi(xml.order/item[2]/subTotal) < 50000)) routeTo(wait)\n\
         R10: if (strstr(url, \"lcs1\") != NULL) routeTo(ace)\n\
         R11: if (strstr(url, \"lcs2\") != NULL) routeTo(wait)\n\
         default: routeTo(web)\n",
    );
    let trial = trial(&set);
    let table = "<<< => server1\nPOST /shop/order.asp HTTP/1.1\nHost: a\nContent-Type: text/xml\n\n\
        <order>\n <Amount><Value>10001</Value></Amount>\n</order>\n>>>\n\
        POST /order.asp xml.o/Amount/Value=10000 => default\n\
        <<< => highSpeedServers\nPOST /purchase.cgi HTTP/1.1\nHost: a\nContent-Type: text/xml\n\n<?xml version=\"1.0\"?>\n\
        <purchase>\n <customerName>CCL</customerName>\n <customerID>111222333</customerID>\n\
        <item><productID>309121544</productID><unitPrice>5000</unitPrice><subTotal>50000</subTotal></item>\n\
        <totalAmount>102000</totalAmount>\n</purchase>\n>>>\n\
        xml.purchase/customerName=CCL => specialCustomerServers\n\
        xml.purchase/totalAmount=5000 => web\n\
        GET /pictures/lcs1.gif => loadBalance(images, wlc)\n\
        GET /purchase/1 cookie.name=servlet1 => routeTo(cgi, STICKY)\n\
        GET /a/purchase/1 cookie.name=servlet1 => web\n\
        smtp.to=chow@cs.uccs.edu => mail2\n\
        GET / ip.ttl=65 => linuxers\n\
        xml.order/item[1]/subTotal=1 xml.order/item[2]/subTotal=50001 => routeTo(ace, NON_STICKY)\n\
        xml.order/item[1]/subTotal=1 xml.order/item[2]/subTotal=49999 => wait\n\
        xml.order/item[1]/subTotal=1 xml.order/item[2]/subTotal=50000 => default\n\
        GET /lcs1/index.html => ace\n\
        GET /lcs2/index.html => rule R11\n";
    let report = rules::test_table(&set, table, "t", |case| trial.decide(case)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((report.cases, report.failures.as_slice()), (15, &[][..]), "{report}");
}

#[test]
fn names_that_the_numbering_lacks_are_named_with_their_place() {
    struct None;
    impl rules::Numbering for None {
        fn group(&self, name: &str) -> Option<u16> {
            (name == "web").then_some(0)
        }
        fn server(&self, _: &str) -> Option<u16> {
            Option::None
        }
        fn queue(&self, _: &str) -> Option<u16> {
            Option::None
        }
    }
    let set = parse("a: if (url == /a) routeTo(web)\nb: if (url == /b) forward(s1, q)\ndefault: routeTo(x)\n");
    let errors = rules::compile(&set, &None).map(|_| ()).unwrap_err();
    assert!(errors.0.iter().all(|e| e.mistake == Mistake::UnknownName));
    let places: Vec<_> = errors.0.iter().map(|e| (e.position.line, e.message.as_str())).collect();
    assert_eq!(places, [(2, "there is no server `s1`"), (2, "there is no queue `q`"), (3, "there is no group `x`")]);
}

/// What a request needs beyond what the small world says of it: a length, and HTTP/1.0 where it has no Host.
fn complete(request: &mut HttpRequest) {
    if request.header("host").is_none() {
        request.version = b"1.0".to_vec();
    }
    let length = request.body_bytes().len();
    if length > 0 {
        request.headers.push(("Content-Length".into(), length.to_string().into_bytes()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn the_program_agrees_with_the_reference_on_every_request((worlds, source) in small_set()) {
        let set = parse(&source);
        let (trial, evaluator) = (trial(&set), Evaluator::new(&set));
        for (at, connection) in enumerate(&worlds).iter_mut().enumerate() {
            // Every request where there are few, a sample where there are thousands.
            if at % 7 != 0 && at > 500 {
                continue;
            }
            let protocol = connection.message.protocol();
            if let Message::Http(request) = &mut connection.message {
                complete(request);
            }
            let bytes = connection.message.to_bytes();
            let expected = evaluator.verdict(connection);
            let shown = || format!("{source}\n{}", String::from_utf8_lossy(&bytes));
            match trial.verdict(protocol, &bytes, connection) {
                Ok(verdict) => prop_assert_eq!(verdict, expected, "{}", shown()),
                Err(why) => prop_assert!(false, "{}\n{}", why, shown()),
            }
        }
    }

    #[test]
    fn witnesses_of_random_sets_hold((_, source) in small_set()) {
        witnesses_hold(&source);
    }
}
