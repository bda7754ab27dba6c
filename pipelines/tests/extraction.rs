//! From bytes to a decision: requests in any pieces, and what must be refused.

use std::net::IpAddr;

use lcs_pipelines::extract::{
    Connection, ExtractError, Extraction, Framing, HeadParser, Limits, Outcome, Plan, Protocol, ReplayProgress,
};
use lcs_pipelines::matching::ir::{Action, DocPath, Expr, Relation, Rule, RuleSet, Term, Value, Variable};
use lcs_pipelines::matching::{Field, Number, Program, compile};

/// A client at a fixed address.
struct Client;

impl Connection for Client {
    fn field(&self, variable: &Variable) -> Field<'_> {
        match variable {
            Variable::IpSrc => Field::Address(IpAddr::from([203, 0, 113, 7])),
            Variable::ServerUp(1) => Field::Number(1.into()),
            _ => Field::Absent,
        }
    }
}

fn term(variable: Variable, relation: Relation, value: Value) -> Expr {
    Expr::Term(Term { variable, relation, value, ignore_case: false })
}

fn text(value: &str) -> Value {
    Value::Text(value.as_bytes().into())
}

fn number(value: &str) -> Value {
    Value::Number(Number::constant(value).unwrap())
}

fn xml(path: &str) -> Variable {
    Variable::Xml(DocPath::parse(path).unwrap())
}

fn rules(conditions: impl IntoIterator<Item = Expr>) -> RuleSet {
    let rule = |condition| Rule { name: "R".into(), condition, action: Action::Reject { status: None } };
    RuleSet { rules: conditions.into_iter().map(rule).collect() }
}

/// Everything that a worker has.
struct Worker {
    program: Program,
    plan: Plan,
}

impl Worker {
    fn new(conditions: impl IntoIterator<Item = Expr>) -> Self {
        let program = compile(&rules(conditions)).unwrap();
        let plan = Plan::new(&program, Limits::default());
        Self { program, plan }
    }

    /// The outcome, and after how many bytes it was there.
    fn run(&self, protocol: Protocol, request: &[u8], piece: usize) -> (Result<Outcome, ExtractError>, usize) {
        let mut extraction = Extraction::new(protocol);
        let mut scratch = self.program.scratch();
        let mut length = 0;
        loop {
            let end = length == request.len();
            let outcome = extraction.advance(&self.program, &self.plan, &mut scratch, &Client, &request[..length], end);
            if end || outcome != Ok(Outcome::NeedMore) {
                return (outcome, length);
            }
            length = request.len().min(length.saturating_add(piece));
        }
    }

    /// The same in pieces of every size.
    fn all(&self, protocol: Protocol, request: &[u8]) -> Result<Outcome, ExtractError> {
        let (whole, _) = self.run(protocol, request, usize::MAX);
        for piece in 1..request.len().min(64) {
            let (pieces, _) = self.run(protocol, request, piece);
            assert_eq!(pieces, whole, "in pieces of {piece}: {}", String::from_utf8_lossy(request));
        }
        whole
    }

    fn http(&self, request: &str) -> Result<Outcome, ExtractError> {
        self.all(Protocol::Http, request.as_bytes())
    }
}

fn post(body: &str) -> String {
    let length = body.len();
    format!(
        "POST /purchase.cgi HTTP/1.1\r\nHost: viva\r\nContent-Type: TEXT/XML\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

const PURCHASE: &str = "<purchase><customerName>CCL</customerName><customerID>111222333</customerID>\
    <item><productID>309121544</productID><subTotal>50000</subTotal></item>\
    <item><productID>309121538</productID><subTotal>2000</subTotal></item>\
    <totalAmount>52000</totalAmount></purchase>";

#[test]
fn the_tutorials_rules() {
    let worker = Worker::new([
        term(xml("purchase/totalAmount"), Relation::Gt, number("52000")),
        term(xml("purchase/customerName"), Relation::Eq, text("CCL")),
        Expr::Or(vec![
            term(Variable::Url, Relation::Suffix, text("gif")),
            term(Variable::Url, Relation::Suffix, text("jpg")),
        ]),
        Expr::And(vec![
            term(Variable::Url, Relation::Regex, text("^/purchase")),
            term(Variable::Cookie("name".into()), Relation::Eq, text("servlet1")),
        ]),
        Expr::And(vec![
            term(Variable::IpSrc, Relation::In, Value::Network("203.0.113.0/24".parse().unwrap())),
            Expr::Not(Box::new(term(Variable::Method, Relation::Eq, text("GET")))),
        ]),
        Expr::always(),
    ]);
    for (request, rule) in [
        (post(PURCHASE), 1),
        (post(&PURCHASE.replace("52000", "52000.01")), 0),
        (post(&PURCHASE.replace("CCL", "UCCS")), 4),
        ("GET /images/a.gif HTTP/1.1\r\nHost: viva\r\n\r\n".into(), 2),
        ("GET /purchase/x HTTP/1.0\r\nCookie: a=b; name=servlet1\r\n\r\n".into(), 3),
        ("GET /purchase/x HTTP/1.0\r\nCookie: a=b\r\ncookie: name=servlet1;c\r\n\r\n".into(), 3),
        ("GET /purchase/x HTTP/1.1\r\nHost: v\r\nCookie: xname=servlet1\r\n\r\n".into(), 5),
        ("DELETE /x HTTP/1.1\r\nHost: viva\r\n\r\n".into(), 4),
    ] {
        assert_eq!(worker.http(&request), Ok(Outcome::Rule(rule)), "{request}");
    }
}

#[test]
fn decisions_come_as_early_as_they_can() {
    let order = term(xml("order/first"), Relation::Eq, text("x"));
    let worker = Worker::new([
        term(Variable::Path, Relation::Eq, text("/early")),
        Expr::And(vec![term(Variable::Path, Relation::Eq, text("/order")), order]),
        Expr::always(),
    ]);
    fn run<'r>(worker: &Worker, request: &'r str) -> (Result<Outcome, ExtractError>, &'r str) {
        let (outcome, length) = worker.run(Protocol::Http, request.as_bytes(), 1);
        (outcome, &request[..length])
    }
    let line = "GET /early?a=b HTTP/1.1\r\n";
    assert_eq!(run(&worker, &format!("{line}Host: a\r\n\r\n")), (Ok(Outcome::Rule(0)), line));
    // Not for this path: neither the head nor the body matters.
    let line = "POST /other HTTP/1.1\r\n";
    assert_eq!(run(&worker, &format!("{line}Host: a\r\n\r\n")), (Ok(Outcome::Rule(2)), line));
    let head = "POST /order HTTP/1.1\r\nHost: a\r\nContent-Type: application/soap+xml\r\nContent-Length: 9999\r\n\r\n";
    let request = format!("{head}<order><first>x</first><second>");
    let (outcome, read) = run(&worker, &request);
    assert_eq!((outcome, read), (Ok(Outcome::Rule(1)), &request[..request.len() - "<second>".len()]));
    // A body that no rule can look into is not waited for.
    let head = head.replace("application/soap+xml", "image/png");
    assert_eq!(run(&worker, &format!("{head}x")), (Ok(Outcome::Rule(2)), &head[..]));
    // By the client's address alone, nothing has to be sent at all.
    let worker = Worker::new([term(Variable::IpSrc, Relation::Eq, text("203.0.113.7"))]);
    for protocol in [Protocol::Http, Protocol::Smtp, Protocol::Tls, Protocol::Opaque] {
        assert_eq!(worker.run(protocol, b"anything", 1), (Ok(Outcome::Rule(0)), 0));
    }
}

#[test]
fn variables_of_a_head() {
    let is = |variable: Variable, value: &str| term(variable, Relation::Eq, text(value));
    let cases = [
        (
            "GET /a/b?x=1&y=a%20b+c&%7a=q&x=2 HTTP/1.1\r\nHost: EXAMPLE.com:8080\r\nX-One: \t v 1 \t\r\nx-one: 2\r\n\r\n",
            vec![
                is(Variable::Url, "/a/b?x=1&y=a%20b+c&%7a=q&x=2"),
                is(Variable::Path, "/a/b"),
                is(Variable::Query("x".into()), "1"),
                is(Variable::Query("y".into()), "a b c"),
                is(Variable::Query("z".into()), "q"),
                is(Variable::Host, "example.COM"),
                is(Variable::Header("X-ONE".into()), "v 1"),
                is(Variable::Method, "GET"),
                is(Variable::HttpVersion, "1.1"),
                term(Variable::HttpVersion, Relation::Ge, number("1.1")),
            ],
        ),
        (
            "GET http://user@other:80/p?q HTTP/1.1\r\nHost: ignored\r\n\r\n",
            vec![is(Variable::Url, "/p?q"), is(Variable::Host, "other")],
        ),
        ("GET http://other HTTP/1.1\r\nHost: other\r\n\r\n", vec![is(Variable::Path, "/")]),
        (
            "OPTIONS * HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n",
            vec![
                is(Variable::Url, "*"),
                term(Variable::Host, Relation::In, Value::Network("2001:db8::/32".parse().unwrap())),
            ],
        ),
        (
            "\r\nCONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n",
            vec![is(Variable::Host, "h"), is(Variable::Method, "CONNECT")],
        ),
        (
            "GET / HTTP/1.0\r\nX-Forwarded-For: 10.1.2.3\r\nEmpty:\r\n\r\n",
            vec![
                term(
                    Variable::Header("x-forwarded-for".into()),
                    Relation::In,
                    Value::Network("10.0.0.0/8".parse().unwrap()),
                ),
                is(Variable::Header("empty".into()), ""),
                Expr::Not(Box::new(term(Variable::Host, Relation::Exists, Value::Nothing))),
            ],
        ),
    ];
    for (request, conditions) in cases {
        for condition in conditions {
            let worker = Worker::new([condition.clone()]);
            assert_eq!(worker.http(request), Ok(Outcome::Rule(0)), "{condition:?} in {request}");
        }
    }
}

/// Published ways of making two readers see two requests; the same bytes must be refused however they arrive.
#[test]
fn smuggling_is_refused() {
    let rest = "0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n";
    let heads: &[(&str, ExtractError)] = &[
        // CL.TE and TE.CL
        ("Content-Length: 6\r\nTransfer-Encoding: chunked", ExtractError::LengthAndEncoding),
        ("Transfer-Encoding: chunked\r\nContent-Length: 6", ExtractError::LengthAndEncoding),
        ("Content-Length: 0\r\nTransfer-Encoding: chunked", ExtractError::LengthAndEncoding),
        // TE.TE
        ("Transfer-Encoding: xchunked", ExtractError::Encoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: x", ExtractError::Encoding),
        ("Transfer-Encoding: x\r\nTransfer-Encoding: chunked", ExtractError::Encoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", ExtractError::Encoding),
        ("Transfer-Encoding: chunked, identity", ExtractError::Encoding),
        ("Transfer-Encoding: identity, chunked", ExtractError::Encoding),
        ("Transfer-Encoding: chunked, chunked", ExtractError::Encoding),
        ("Transfer-Encoding: gzip, chunked", ExtractError::Encoding),
        ("Transfer-Encoding: identity", ExtractError::Encoding),
        ("Transfer-Encoding: cow", ExtractError::Encoding),
        ("Transfer-Encoding:", ExtractError::Encoding),
        ("Transfer-Encoding: \"chunked\"", ExtractError::Encoding),
        ("Transfer-Encoding: chunked;q=1", ExtractError::Encoding),
        ("Transfer-Encoding: 'chunked'", ExtractError::Encoding),
        ("Transfer-Encoding:\u{b}chunked", ExtractError::HeaderValue),
        ("Transfer-Encoding: \u{0}chunked", ExtractError::HeaderValue),
        ("Transfer-Encoding: chunked\u{7f}", ExtractError::HeaderValue),
        ("Transfer-Encoding: chunk\u{fffd}ed", ExtractError::Encoding),
        ("Transfer-Encoding : chunked", ExtractError::HeaderName),
        ("Transfer-Encoding\t: chunked", ExtractError::HeaderName),
        ("Transfer-Encoding\u{b}: chunked", ExtractError::HeaderName),
        ("Transfer-Encoding\u{0}: chunked", ExtractError::HeaderName),
        (" Transfer-Encoding: chunked", ExtractError::FoldedHeader),
        ("\tTransfer-Encoding: chunked", ExtractError::FoldedHeader),
        ("X: y\r\n Transfer-Encoding: chunked", ExtractError::FoldedHeader),
        ("Transfer-Encoding:\r\n chunked", ExtractError::Encoding),
        ("X: y\nTransfer-Encoding: chunked", ExtractError::LineEnd),
        ("X: y\rTransfer-Encoding: chunked", ExtractError::LineEnd),
        ("X: y\r\rTransfer-Encoding: chunked", ExtractError::LineEnd),
        ("Transfer_Encoding: chunked", ExtractError::FramingName),
        ("Content_Length: 6", ExtractError::FramingName),
        ("Foo\r\nTransfer-Encoding: chunked", ExtractError::HeaderName),
        (": chunked", ExtractError::HeaderName),
        ("[Transfer-Encoding]: chunked", ExtractError::HeaderName),
        ("Transfer Encoding: chunked", ExtractError::HeaderName),
        // CL.CL and lengths that are none
        ("Content-Length: 6\r\nContent-Length: 5", ExtractError::Length),
        ("Content-Length: 6\r\nContent-Length: 6", ExtractError::Length),
        ("Content-Length: 6, 6", ExtractError::Length),
        ("Content-Length: +6", ExtractError::Length),
        ("Content-Length: -6", ExtractError::Length),
        ("Content-Length: 6 6", ExtractError::Length),
        ("Content-Length: 0x6", ExtractError::Length),
        ("Content-Length: 06", ExtractError::Length),
        ("Content-Length: 6.0", ExtractError::Length),
        ("Content-Length: 1e1", ExtractError::Length),
        ("Content-Length: \u{ff16}", ExtractError::Length),
        ("Content-Length: 18446744073709551622", ExtractError::Length),
        ("Content-Length:", ExtractError::Length),
        ("Content-Length : 6", ExtractError::HeaderName),
        ("Content-Length\u{0}: 6", ExtractError::HeaderName),
        ("Content-Length: 6\u{0}", ExtractError::HeaderValue),
        // Which host?
        ("Host: a\r\nHost: b", ExtractError::Host),
        ("Host: a, b", ExtractError::Host),
        ("Host: a b", ExtractError::Host),
        ("Host: a/b", ExtractError::Host),
        ("Host: a:80x", ExtractError::Host),
        ("Host: [::1", ExtractError::Host),
    ];
    let worker =
        Worker::new([term(Variable::Header("never".into()), Relation::Exists, Value::Nothing), Expr::always()]);
    for (fields, error) in heads {
        let host = if fields.starts_with("Host") { "" } else { "Host: a\r\n" };
        let request = format!("POST / HTTP/1.1\r\n{host}{fields}\r\n\r\n{rest}");
        assert_eq!(worker.http(&request), Err(*error), "{fields:?}");
        assert!(error.is_ambiguous(), "{error}");
    }
    for (request, error) in [
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", ExtractError::Encoding),
        ("GET / HTTP/1.1\r\n\r\n", ExtractError::Host),
        ("GET / HTTP/1.1\nHost: a\n\n", ExtractError::LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", ExtractError::LineEnd),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", ExtractError::NotHttp),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", ExtractError::NotHttp),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", ExtractError::NotHttp),
        ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", ExtractError::NotHttp),
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", ExtractError::NotHttp),
        ("G\u{0}T / HTTP/1.1\r\nHost: a\r\n\r\n", ExtractError::NotHttp),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", ExtractError::NotHttp),
        ("GET /\r\n\r\n", ExtractError::NotHttp),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", ExtractError::Version),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ExtractError::Version),
        ("GET admin HTTP/1.1\r\nHost: a\r\n\r\n", ExtractError::Target),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", ExtractError::Target),
        ("GET /\u{7f} HTTP/1.1\r\nHost: a\r\n\r\n", ExtractError::Target),
        ("\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", ExtractError::NotHttp),
        ("GET http://a@/ HTTP/1.1\r\nHost: a/\r\n\r\n", ExtractError::Host),
        ("GET / HTTP/1.1\r\nHost: a\r\n", ExtractError::Truncated),
        ("GET / HT", ExtractError::Truncated),
        ("", ExtractError::Truncated),
    ] {
        assert_eq!(worker.http(request), Err(error), "{request:?}");
    }
}

#[test]
fn limits_have_their_reasons() {
    let worker = Worker::new([term(xml("a/b"), Relation::Exists, Value::Nothing), Expr::always()]);
    let run = |request: String| worker.run(Protocol::Http, request.as_bytes(), 1400).0;
    let fields = |count: usize, length: usize| format!("X: {}\r\n", "v".repeat(length)).repeat(count);
    let get = |fields: String| run(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    assert_eq!(get(fields(127, 10)), Ok(Outcome::Rule(1)));
    assert_eq!(get(fields(128, 10)), Err(ExtractError::TooManyHeaders));
    assert_eq!(get(fields(1, 17000)), Err(ExtractError::HeadTooLarge));
    assert_eq!(run(format!("GET /{} HTTP/1.1\r\n", "a".repeat(17000))), Err(ExtractError::HeadTooLarge));
    assert_eq!(run("A".repeat(100)), Err(ExtractError::NotHttp));
    let large = |body: String| {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: text/xml\r\n";
        let chunks: String = body
            .as_bytes()
            .chunks(1000)
            .map(|chunk| format!("{:x}\r\n{}\r\n", chunk.len(), std::str::from_utf8(chunk).unwrap()))
            .collect();
        let whole = run(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()));
        assert_eq!(run(format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")), whole);
        whole
    };
    let filler = |bytes: usize| format!("<f>{}</f>", "x".repeat(bytes));
    assert_eq!(large(format!("<a>{}<b/></a>", filler(65000))), Ok(Outcome::Rule(0)));
    assert_eq!(large(format!("<a>{}<b/></a>", filler(66000))), Err(ExtractError::BodyTooLarge));
    assert_eq!(large(format!("<a><b/>{}</a>", filler(66000))), Ok(Outcome::Rule(0)));
    assert_eq!(large("<a>".repeat(300)), Err(ExtractError::Depth));
    assert_eq!(large("<!DOCTYPE a [<!ENTITY b 'b'>]><a>&b;</a>".into()), Err(ExtractError::XmlEntity));
    assert_eq!(large(String::new()), Ok(Outcome::Rule(1)));
    let gzip =
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: text/xml\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\n";
    assert_eq!(run(gzip.into()), Err(ExtractError::BodyEncoded));
}

#[test]
fn bodies_in_every_wrapping() {
    let worker = Worker::new([term(xml("a/b"), Relation::Eq, text("M\u{fc}ller & \u{20ac}")), Expr::always()]);
    let utf8 = "<a><x/><b>M\u{fc}ller &amp; \u{20ac}</b></a>";
    let marked = ["\u{feff}", utf8].concat();
    let utf16 = |unit: fn(u16) -> [u8; 2]| marked.encode_utf16().flat_map(unit).collect::<Vec<u8>>();
    let latin1 = "<?xml version='1.0' encoding='ISO-8859-1'?><a><b>M_ller &amp; &#x20ac;</b></a>";
    let latin1: Vec<u8> = latin1.bytes().map(|b| if b == b'_' { 0xfc } else { b }).collect();
    for body in [
        utf8.as_bytes().to_vec(),
        marked.clone().into_bytes(),
        utf16(u16::to_be_bytes),
        utf16(u16::to_le_bytes),
        latin1,
    ] {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/xml\r\n";
        let plain = [format!("{head}Content-Length: {}\r\n\r\n", body.len()).as_bytes(), &body].concat();
        assert_eq!(worker.all(Protocol::Http, &plain), Ok(Outcome::Rule(0)), "{body:?}");
        for size in [1, 3, 1000] {
            let mut chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
            for chunk in body.chunks(size) {
                chunked.extend([format!("{:X}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
            }
            chunked.extend_from_slice(b"0\r\n\r\n");
            assert_eq!(worker.all(Protocol::Http, &chunked), Ok(Outcome::Rule(0)), "chunks of {size}");
        }
    }
}

#[test]
fn json_bodies() {
    let path = DocPath::parse("purchase/item[2]/subTotal").unwrap();
    let worker = Worker::new([term(Variable::Json(path), Relation::Gt, number("50000")), Expr::always()]);
    let post = |body: &str| {
        let length = body.len();
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    let body =
        |amount: &str| post(&format!(r#"{{"purchase": {{"item": [{{"subTotal": 1}}, {{"subTotal": {amount}}}]}}}}"#));
    assert_eq!(worker.http(&body("50000.5")), Ok(Outcome::Rule(0)));
    assert_eq!(worker.http(&body("50000")), Ok(Outcome::Rule(1)));
    assert_eq!(worker.http(&body("\"60000\"")), Ok(Outcome::Rule(0)));
    assert_eq!(worker.http(&post("[1, 2")), Err(ExtractError::JsonSyntax));
}

#[test]
fn a_head_says_how_the_connection_goes_on() {
    let head = |request: &str| {
        let mut parser = HeadParser::default();
        parser.read(request.as_bytes(), 16384, |_, _| {}).unwrap().unwrap()
    };
    let chunked = head("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\nExpect: 100-continue\r\n\r\nrest");
    assert_eq!((chunked.framing, chunked.expects_continue, chunked.keep_alive), (Framing::Chunked, true, true));
    assert!(!head("GET / HTTP/1.1\r\nHost: a\r\nConnection: foo, Close\r\n\r\n").keep_alive);
    assert!(!head("GET / HTTP/1.0\r\n\r\n").keep_alive);
    assert!(head("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").keep_alive);
    assert!(head("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").upgrade);
    assert_eq!(head("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n").framing, Framing::Length(12));
}

/// A conversation: what the client sends, what it is told before the decision, the outcome, and the server's part.
fn converse(
    worker: &Worker,
    protocol: Protocol,
    client: &str,
    piece: usize,
) -> (String, Result<Outcome, ExtractError>, Extraction) {
    let mut extraction = Extraction::new(protocol);
    let mut scratch = worker.program.scratch();
    let (mut told, mut length) = (String::new(), 0);
    loop {
        let buffer = &client.as_bytes()[..length];
        let outcome = extraction.advance(&worker.program, &worker.plan, &mut scratch, &Client, buffer, false);
        told.push_str(std::str::from_utf8(extraction.reply()).unwrap());
        extraction.reply().clear();
        if length == client.len() || outcome != Ok(Outcome::NeedMore) {
            return (told, outcome, extraction);
        }
        length = client.len().min(length + piece);
    }
}

/// Plays the server: its replies, and what it must be sent after each.
fn replay(
    extraction: &Extraction,
    client: &str,
    server: &[(&str, &str)],
    piece: usize,
) -> Result<String, ExtractError> {
    let mut replay = extraction.replay();
    for (said, sent) in server {
        let mut bytes = said.as_bytes();
        let mut progress = ReplayProgress::More;
        while !bytes.is_empty() {
            assert_eq!(progress, ReplayProgress::More, "{said:?} ends too early");
            let (taken, next) = replay.feed(&bytes[..piece.min(bytes.len())])?;
            progress = next;
            bytes = &bytes[taken..];
        }
        match progress {
            ReplayProgress::Send(span) => assert_eq!(&client[span.start as usize..span.end as usize], *sent),
            ReplayProgress::Done => assert_eq!(*sent, "", "after {said:?}"),
            ReplayProgress::More => panic!("{said:?} was not enough"),
        }
    }
    assert_eq!(replay.feed(b"for the client")?, (0, ReplayProgress::Done));
    Ok(client[replay.forward()..].to_owned())
}

#[test]
fn mail_is_routed_by_its_recipient() {
    let worker = Worker::new([
        term(Variable::SmtpTo, Relation::Eq, text("chow@cs.uccs.edu")),
        term(Variable::SmtpFrom, Relation::Suffix, text("@spam.example")),
        Expr::always(),
    ]);
    let client = "EHLO me\r\nNOOP\r\nRCPT TO:<a@b>\r\nmail from:<first@x>\r\nRSET\r\nSTARTTLS\r\n\
        MAIL FROM:<you@y> BODY=8BITMIME\r\nRCPT TO: <@relay:chow@cs.uccs.edu>\r\nDATA\r\n";
    let told = "220 localhost ESMTP\r\n250 localhost\r\n250 2.0.0 OK\r\n503 5.5.1 Say MAIL first\r\n250 2.1.0 OK\r\n\
        250 2.0.0 OK\r\n502 5.5.1 Not implemented\r\n250 2.1.0 OK\r\n";
    for piece in 1..client.len() {
        let (said, outcome, extraction) = converse(&worker, Protocol::Smtp, client, piece);
        assert_eq!((&said[..], outcome), (told, Ok(Outcome::Rule(0))));
        let server = [
            ("220-one\r\n220 two\r\n", "EHLO me\r\n"),
            ("250-x\r\n250-SIZE\r\n250 y\r\n", "MAIL FROM:<you@y> BODY=8BITMIME\r\n"),
            ("250 ok\r\n", ""),
        ];
        let rest = replay(&extraction, client, &server, piece).unwrap();
        assert_eq!(rest, "RCPT TO: <@relay:chow@cs.uccs.edu>\r\nDATA\r\n");
        let refused = [("220 hello\r\n", "EHLO me\r\n"), ("550 go away\r\n", "")];
        assert_eq!(replay(&extraction, client, &refused, piece), Err(ExtractError::ReplayRefused));
    }
    let by_sender = Worker::new([
        term(Variable::SmtpFrom, Relation::Eq, text("a@spam.example")),
        term(Variable::SmtpTo, Relation::Exists, Value::Nothing),
    ]);
    let client = "HELO me\r\nMAIL FROM:<a@spam.example>\r\n";
    let (said, outcome, extraction) = converse(&by_sender, Protocol::Smtp, client, 5);
    assert_eq!((&said[..], outcome), ("220 localhost ESMTP\r\n250 localhost\r\n", Ok(Outcome::Rule(0))));
    let rest = replay(&extraction, client, &[("220 x\r\n", "HELO me\r\n"), ("250 x\r\n", "")], 3).unwrap();
    assert_eq!(rest, "MAIL FROM:<a@spam.example>\r\n");
    let (said, outcome, _) = converse(&worker, Protocol::Smtp, "QUIT\r\n", 9);
    assert_eq!((&said[..], outcome), ("220 localhost ESMTP\r\n221 2.0.0 Bye\r\n", Err(ExtractError::DialogueEnded)));
}

#[test]
fn logins_are_routed_by_their_name() {
    let pop = Worker::new([term(Variable::PopUser, Relation::Eq, text("alice"))]);
    let client = "CAPA\r\nSTLS\r\nUSER alice\r\nPASS x\r\n";
    for piece in 1..client.len() {
        let (said, outcome, extraction) = converse(&pop, Protocol::Pop3, client, piece);
        let told = "+OK ready\r\n+OK\r\nUSER\r\n.\r\n-ERR log in with USER first\r\n";
        assert_eq!((&said[..], outcome), (told, Ok(Outcome::Rule(0))));
        assert_eq!(replay(&extraction, client, &[("+OK hi\r\n", "")], piece).unwrap(), "USER alice\r\nPASS x\r\n");
    }
    let (_, outcome, extraction) = converse(&pop, Protocol::Pop3, "APOP alice c4c9\r\n", 4);
    assert_eq!(outcome, Ok(Outcome::Rule(0)));
    assert_eq!(replay(&extraction, "", &[("-ERR busy\r\n", "")], 4), Err(ExtractError::ReplayRefused));

    let ftp = Worker::new([term(Variable::FtpUser, Relation::Eq, text("alice"))]);
    let client = "SYST\r\nAUTH TLS\r\nuser alice\r\n";
    let (said, outcome, extraction) = converse(&ftp, Protocol::Ftp, client, 3);
    assert_eq!(said, "220 localhost ready\r\n215 UNIX Type: L8\r\n502 not implemented\r\n");
    assert_eq!(outcome, Ok(Outcome::Rule(0)));
    let banner = "120 wait\r\n220-Hi\r\n 230 not the end\r\n220 go\r\n";
    assert_eq!(replay(&extraction, client, &[(banner, "")], 4).unwrap(), "user alice\r\n");

    let imap = Worker::new([term(Variable::ImapUser, Relation::Eq, text("al\"ice"))]);
    let caps = "a CAPABILITY\r\n";
    for (login, server, rest) in [
        ("b LOGIN \"al\\\"ice\" pw\r\n", vec![("* OK hi\r\n", "")], "b LOGIN \"al\\\"ice\" pw\r\n"),
        (
            "b LOGIN {6}\r\nal\"ice {2}\r\n",
            vec![("* OK hi\r\n", "b LOGIN {6}\r\n"), ("* 3 EXISTS\r\n+ ok\r\n", "")],
            "al\"ice {2}\r\n",
        ),
        ("b LOGIN {6+}\r\nal\"ice pw\r\n", vec![("* OK hi\r\n", "")], "b LOGIN {6+}\r\nal\"ice pw\r\n"),
        (
            "b AUTHENTICATE PLAIN AGFsImljZQBwdw==\r\n",
            vec![("* OK hi\r\n", "")],
            "b AUTHENTICATE PLAIN AGFsImljZQBwdw==\r\n",
        ),
        (
            "b authenticate plain\r\nAGFsImljZQBwdw==\r\n",
            vec![("* OK hi\r\n", "b authenticate plain\r\n"), ("+\r\n", "")],
            "AGFsImljZQBwdw==\r\n",
        ),
    ] {
        let client = [caps, login].concat();
        for piece in 1..client.len() {
            let (said, outcome, extraction) = converse(&imap, Protocol::Imap, &client, piece);
            assert!(said.starts_with("* OK IMAP4rev1 ready\r\n* CAPABILITY IMAP4rev1\r\na OK done\r\n"), "{said}");
            assert_eq!(outcome, Ok(Outcome::Rule(0)), "{login}");
            assert_eq!(replay(&extraction, &client, &server, piece).unwrap(), rest);
        }
    }
}

#[test]
fn dialogues_are_bounded() {
    let worker = Worker::new([term(Variable::SmtpTo, Relation::Exists, Value::Nothing)]);
    let run = |client: &str| converse(&worker, Protocol::Smtp, client, 100).1;
    assert_eq!(run(&"NOOP\r\n".repeat(40)), Err(ExtractError::TooManyCommands));
    assert_eq!(run(&"A".repeat(2000)), Err(ExtractError::LineTooLong));
    assert_eq!(run("HELO a\nMAIL"), Err(ExtractError::LineEnd));
}
