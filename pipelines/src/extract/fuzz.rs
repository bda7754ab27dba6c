//! Entry points for fuzzing: pure functions of bytes that panic where something that must hold does not.
//!
//! What must hold everywhere: no panic, no endless loop, and the same outcome whether the bytes arrive in one piece or
//! one by one. The first byte of the input chooses among variants where there are any.

use std::sync::OnceLock;

use super::{
    BodyFollower, ClientHello, Connection, ExtractError, Extraction, Framing, Limits, Method, Outcome, Plan, Protocol,
    ReplayProgress, ResponseFollower, ResponseProgress, client_hello,
};
use crate::matching::ir::{Action, DocPath, Expr, Relation, Rule, RuleSet, Term, Value, Variable};
use crate::matching::{Field, Program, compile};

struct Nobody;

impl Connection for Nobody {
    fn field(&self, _: &Variable) -> Field<'_> {
        Field::Absent
    }
}

/// A program that asks for something of everything and never decides early.
fn program() -> &'static (Program, Plan) {
    static PROGRAM: OnceLock<(Program, Plan)> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let path = |text: &str| DocPath::parse(text).unwrap_or(DocPath { steps: Vec::new(), attribute: None });
        let mut variables = vec![
            Variable::Url,
            Variable::Query("q".into()),
            Variable::Host,
            Variable::Header("x".into()),
            Variable::Cookie("c".into()),
            Variable::SmtpFrom,
            Variable::SmtpTo,
            Variable::PopUser,
            Variable::ImapUser,
            Variable::FtpUser,
            Variable::TlsSni,
            Variable::TlsAlpn,
        ];
        for text in ["a", "a/b[2]", "//b", "a/@k", "//a//b/c"] {
            variables.push(Variable::Xml(path(text)));
        }
        for text in ["a", "a/b[2]", "//b", "//a//b/c"] {
            variables.push(Variable::Json(path(text)));
        }
        let rule = |variable: Variable| Rule {
            name: "R".into(),
            condition: Expr::Term(Term {
                variable,
                relation: Relation::Eq,
                value: Value::Text(b"magic".as_slice().into()),
                ignore_case: false,
            }),
            action: Action::Reject { status: None },
        };
        let rules = RuleSet { rules: variables.into_iter().map(rule).collect() };
        let program = compile(&rules).unwrap_or_else(|error| panic!("these rules are sound: {error}"));
        let plan = Plan::new(&program, Limits::default());
        (program, plan)
    })
}

/// Result, and what the client was told.
type Read = (Result<Outcome, ExtractError>, Vec<u8>);

fn read(protocol: Protocol, bytes: &[u8], piece: usize) -> Read {
    let (program, plan) = program();
    let (mut extraction, mut scratch) = (Extraction::new(protocol), program.scratch());
    let mut length = 0;
    loop {
        length = bytes.len().min(length + piece);
        let end = length == bytes.len();
        let outcome = extraction.advance(program, plan, &mut scratch, &Nobody, &bytes[..length], end);
        if end || outcome != Ok(Outcome::NeedMore) {
            let told = std::mem::take(extraction.reply());
            return (outcome, told);
        }
    }
}

fn in_pieces(protocol: Protocol, bytes: &[u8]) {
    let whole = read(protocol, bytes, bytes.len().max(1));
    for piece in [1, 13] {
        assert_eq!(read(protocol, bytes, piece), whole, "in pieces of {piece}");
    }
}

/// Whole HTTP requests, bodies included.
pub fn fuzz_http(bytes: &[u8]) {
    in_pieces(Protocol::Http, bytes);
}

/// XML bodies.
pub fn fuzz_xml(bytes: &[u8]) {
    in_pieces(Protocol::Http, &post("text/xml", bytes));
}

/// JSON bodies.
pub fn fuzz_json(bytes: &[u8]) {
    in_pieces(Protocol::Http, &post("application/json", bytes));
}

fn post(kind: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// TLS handshakes: as records, and as a bare message.
pub fn fuzz_tls(bytes: &[u8]) {
    in_pieces(Protocol::Tls, bytes);
    if let Ok(ClientHello { sni, alpn, session_id, ticket }) = client_hello(bytes) {
        for span in [sni, alpn, session_id, ticket].into_iter().flatten() {
            assert!(span.start <= span.end && span.end as usize <= bytes.len());
        }
    }
}

/// Dialogues of the protocol that the first byte chooses.
pub fn fuzz_dialogue(bytes: &[u8]) {
    let [choice, bytes @ ..] = bytes else { return };
    let protocols = [Protocol::Smtp, Protocol::Pop3, Protocol::Imap, Protocol::Ftp];
    in_pieces(protocols[usize::from(choice % 4)], bytes);
}

/// A server's side of a replay: the first byte chooses the protocol, the rest is what the server says.
pub fn fuzz_replay(bytes: &[u8]) {
    let [choice, bytes @ ..] = bytes else { return };
    let (protocol, client): (_, &[u8]) = match choice % 4 {
        0 => (Protocol::Smtp, b"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"),
        1 => (Protocol::Pop3, b"USER a\r\n"),
        2 => (Protocol::Imap, b"a LOGIN {1}\r\na {1}\r\n"),
        _ => (Protocol::Ftp, b"USER a\r\n"),
    };
    let (program, plan) = program();
    let play = |piece: usize| {
        let (mut extraction, mut scratch) = (Extraction::new(protocol), program.scratch());
        let outcome = extraction.advance(program, plan, &mut scratch, &Nobody, client, false);
        assert_eq!(outcome, Ok(Outcome::NoRule));
        let (mut replay, mut at, mut sent) = (extraction.replay(), 0, Vec::new());
        while at < bytes.len() {
            let (taken, progress) = replay.feed(&bytes[at..bytes.len().min(at + piece)])?;
            at += taken;
            match progress {
                ReplayProgress::More => {}
                ReplayProgress::Send(span) => sent.push(span),
                ReplayProgress::Done => return Ok((at, sent)),
            }
        }
        Ok::<_, ExtractError>((at, sent))
    };
    let whole = play(bytes.len().max(1));
    assert_eq!(play(1), whole);
}

/// Where a response ends: the first byte chooses the request's method.
pub fn fuzz_response(bytes: &[u8]) {
    let [choice, bytes @ ..] = bytes else { return };
    let method = [Method::Other, Method::Head, Method::Connect][usize::from(choice % 3)];
    let follow = |piece: usize| {
        let (mut follower, mut at) = (ResponseFollower::new(method), 0);
        while at < bytes.len() {
            let (taken, progress) = follower.feed(&bytes[at..bytes.len().min(at + piece)])?;
            at += taken;
            if progress != ResponseProgress::More {
                return Ok((at, progress));
            }
        }
        Ok::<_, ExtractError>((at, ResponseProgress::More))
    };
    let whole = follow(bytes.len().max(1));
    // In pieces less of a long line is remembered, so more is refused; what is accepted must be the same.
    if let Ok(pieces) = follow(1) {
        assert_eq!(Ok(pieces), whole);
    }
}

/// Chunked bodies.
pub fn fuzz_chunks(bytes: &[u8]) {
    let follow = |piece: usize| {
        let (mut follower, mut at, mut content) = (BodyFollower::new(Framing::Chunked), 0, Vec::new());
        while at < bytes.len() && !follower.is_done() {
            at += follower
                .feed(&bytes[at..bytes.len().min(at + piece)], |data| content.extend_from_slice(data))
                .map_err(|error| (error, content.len()))?;
        }
        Ok::<_, (ExtractError, usize)>((at, content))
    };
    assert_eq!(follow(1), follow(bytes.len().max(1)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Pieces that mean something to the parsers, so that random sequences get somewhere.
    fn soup(words: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
        let word = prop_oneof![
            8 => prop::sample::select(words).prop_map(|word| word.as_bytes().to_vec()),
            1 => prop::collection::vec(any::<u8>(), 0..6),
        ];
        prop::collection::vec(word, 0..24).prop_map(|words| words.concat())
    }

    const HTTP: &[&str] = &[
        "GET ",
        "POST ",
        "/a?q=1",
        " HTTP/1.1",
        "\r\n",
        "\r\n\r\n",
        "Host: a\r\n",
        "X: magic\r\n",
        "Cookie: c=%2;c=2\r\n",
        "Content-Type: text/xml\r\n",
        "Content-Type: application/json\r\n",
        "Content-Length: 9\r\n",
        "Content-Length: ",
        "Transfer-Encoding: chunked\r\n",
        "POST /a HTTP/1.1\r\nHost: a\r\n",
        "5\r\n",
        "0\r\n\r\n",
        "<a>",
        "</a>",
        "1",
        " ",
        "\n",
        ":",
        "http://h/",
        "Content-Type: text/xml; charset=utf-16\r\n",
        "\u{0}",
    ];
    const XML: &[&str] = &[
        "<a>",
        "</a>",
        "<b>",
        "</b>",
        "<c/>",
        "<b k='1'",
        " k=\"&lt;\">",
        "/>",
        ">",
        "<!--",
        "-->",
        "<![CDATA[",
        "]]>",
        "<?",
        "?>",
        "&amp;",
        "&#x41;",
        "&",
        "text",
        " ",
        "<?xml version='1.0' encoding='ISO-8859-1'?>",
        "<?xml",
        "<!DOCTYPE a",
        "[",
        "\"",
        "<Envelope>",
        "<Body>",
        "</Body>",
        "<x:a y:k='v'>",
        "</x:a>",
        "<",
        "\u{feff}",
        "\u{0}",
    ];
    const JSON: &[&str] = &[
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"a\"",
        "\"b\"",
        "\"c\"",
        "\"\\u00e9\"",
        "\"\\",
        "\"",
        "1",
        "-1.5e3",
        "true",
        "null",
        " ",
        "{\"a\":",
        "[{\"b\":",
        "\u{feff}",
        "\\ud800",
        "0",
    ];
    const LINES: &[&str] = &[
        "EHLO a\r\n",
        "HELO b\r\n",
        "MAIL FROM:<a@b>\r\n",
        "RCPT TO:<c@d>\r\n",
        "RSET\r\n",
        "NOOP\r\n",
        "USER a\r\n",
        "CAPA\r\n",
        "a LOGIN ",
        "\"b\" ",
        "{3}\r\n",
        "{3+}\r\n",
        "xyz",
        "\r\n",
        "b CAPABILITY\r\n",
        "c AUTHENTICATE PLAIN\r\n",
        "AGEAYg==\r\n",
        "MAIL FROM:<\"a>\"@b",
        ">",
        "220 a\r\n",
        "220-a\r\n",
        "250 a\r\n",
        "+OK\r\n",
        "* OK\r\n",
        "+ \r\n",
        "* x\r\n",
        "\n",
    ];
    const RESPONSES: &[&str] = &[
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 100 C\r\n",
        "HTTP/1.0 304\r\n",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "\r\n",
        "abc",
        "3\r\n",
        "0\r\n\r\n",
        "Connection: close\r\n",
        "HTTP/1.1 101 S\r\n\r\n",
        " ",
        "\n",
        "X:",
        "1234567890123456789012345678901234567890123456789012345678901234567890",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn http(bytes in soup(HTTP)) { fuzz_http(&bytes); }
        #[test]
        fn xml(bytes in soup(XML)) { fuzz_xml(&bytes); }
        #[test]
        fn json(bytes in soup(JSON)) { fuzz_json(&bytes); }
        #[test]
        fn dialogues(choice: u8, bytes in soup(LINES)) {
            fuzz_dialogue(&[&[choice], &bytes[..]].concat());
            fuzz_replay(&[&[choice], &bytes[..]].concat());
        }
        #[test]
        fn responses(choice: u8, bytes in soup(RESPONSES)) {
            fuzz_response(&[&[choice], &bytes[..]].concat());
            fuzz_chunks(&bytes);
        }
        #[test]
        fn hellos(bytes in prop::collection::vec(any::<u8>(), 0..80), lengths in prop::collection::vec(0_u8..60, 3)) {
            let mut stream = vec![22, 3, 1, 0, lengths[0], 1, 0, 0, lengths[1]];
            stream.extend_from_slice(&bytes);
            fuzz_tls(&stream);
            fuzz_tls(&stream[5..]);
        }
    }
}
