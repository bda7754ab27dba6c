//! What no server gets: each reason is counted by itself, and what a client is told is a proper answer.

mod director;

use director::{CLIENT, DIRECTOR, Director, ISN, SERVICE, Sent, url};
use lcs_dataplane::DropReason;
use lcs_dataplane::checksum::Sum;
use lcs_dataplane::headers::build::{Packet, Transport};
use lcs_dataplane::headers::tcp::flags::{ACK, PSH, RST, SYN};
use lcs_pipelines::content::Binding;
use lcs_pipelines::extract::{ExtractError, Protocol};
use lcs_pipelines::matching::{Action, DocPath, Expr, Relation, Rule, Term, Value, Variable};
use lcs_pipelines::tally::Refusal;

fn rule(name: &str, condition: Expr, status: Option<u16>) -> Rule {
    Rule { name: name.into(), condition, action: Action::Reject { status } }
}

/// What a client that sends this is told.
fn told(d: &mut Director, request: &[u8]) -> Vec<Sent> {
    let ack = d.handshake();
    let mut sent = vec![];
    for (i, piece) in request.chunks(1400).enumerate() {
        sent.extend(d.client(ACK | PSH, ISN.wrapping_add(1 + 1400 * i as u32), ack, piece));
    }
    sent.extend(d.passes(1));
    sent
}

#[test]
fn what_can_not_be_read_is_counted_by_what_is_wrong_with_it() {
    let value = Value::Text(b"x".to_vec().into());
    let path = DocPath::parse("a").expect("a path");
    let term = Term { variable: Variable::Xml(path), relation: Relation::Eq, value, ignore_case: false };
    let rules = [rule("xml", Expr::Term(term), Some(403))];
    let post = |head: &str, body: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n{body}").into_bytes();
    let xml = |body: &str| post(&format!("Content-Type: text/xml\r\nContent-Length: {}", body.len()), body);
    let mut giant = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
    giant.resize(20_000, b'x');
    let cases: [(ExtractError, u16, Vec<u8>); 6] = [
        (ExtractError::HeadTooLarge, 431, giant),
        (ExtractError::XmlEntity, 400, xml("<!DOCTYPE a [<!ENTITY b \"x\">]><a>&b;</a>")),
        (ExtractError::LengthAndEncoding, 400, post("Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n")),
        (ExtractError::Chunk, 400, post("Transfer-Encoding: chunked\r\nContent-Type: text/xml", "zz\r\n\r\n")),
        (ExtractError::FoldedHeader, 400, b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n".to_vec()),
        (ExtractError::Version, 505, b"GET / HTTP/3.1\r\nHost: a\r\n\r\n".to_vec()),
    ];
    for (why, status, request) in cases {
        let mut d = Director::with(Binding::default(), &rules);
        let sent = told(&mut d, &request);
        let answer: Vec<u8> = sent.iter().flat_map(|s| s.payload.clone()).collect();
        assert!(answer.starts_with(format!("HTTP/1.1 {status} ").as_bytes()), "{why:?}: {sent:?}");
        assert!(sent.iter().all(|s| s.flags != SYN), "{why:?}: no server is asked");
        let report = d.report();
        let tally = report.content.services[0].as_ref().expect("a service with rules");
        let counted: Vec<(ExtractError, u64)> =
            ExtractError::ALL.into_iter().zip(tally.errors).filter(|(_, n)| *n > 0).collect();
        assert_eq!(counted, [(why, 1)]);
        assert_eq!(tally.refusals[Refusal::Unreadable as usize], 1);
    }
}

#[test]
fn what_is_no_tls_is_counted_as_that() {
    let value = Value::Text(b"a.example".to_vec().into());
    let sni = Term { variable: Variable::TlsSni, relation: Relation::Eq, value, ignore_case: false };
    let mut d = Director::speaking(Protocol::Tls, Binding::default(), &[rule("sni", Expr::Term(sni), None)]);
    assert!(told(&mut d, b"GET / HTTP/1.1\r\n\r\n").iter().any(|s| s.flags & RST != 0));
    let report = d.report();
    let tally = report.content.services[0].as_ref().expect("a service with rules");
    assert_eq!(tally.errors[ExtractError::NotTls as usize], 1);
}

#[test]
fn a_status_is_sent_with_the_fields_and_the_phrase_that_belong_to_it() {
    for (status, line, field) in [
        (401, "401 Unauthorized", "WWW-Authenticate: Basic realm=\"refused\""),
        (405, "405 Method Not Allowed", "Allow:"),
        (451, "451 Unavailable For Legal Reasons", "Connection: close"),
        (599, "599 Internal Server Error", "Connection: close"),
    ] {
        let mut d = Director::with(Binding::default(), &[rule("r", url("/"), Some(status))]);
        let sent = told(&mut d, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer: Vec<u8> = sent.iter().flat_map(|s| s.payload.clone()).collect();
        let answer = String::from_utf8(answer).expect("text");
        assert!(answer.starts_with(&format!("HTTP/1.1 {line}\r\n")), "{answer}");
        assert!(answer.split("\r\n\r\n").next().is_some_and(|head| head.lines().any(|l| l == field)), "{answer}");
    }
}

#[test]
fn fragments_are_dropped_for_a_reason_of_their_own() {
    let mut d = Director::new();
    let ack = d.handshake();
    let request = b"GET /a/long/enough/path HTTP/1.1\r\nHost: www.example.com\r\n\r\n";
    let mut p =
        Packet { destination_mac: DIRECTOR, ..Packet::tcp(CLIENT.parse().unwrap(), SERVICE.parse().unwrap(), ACK) }
            .payload(request);
    p.transport = Transport::Tcp { flags: ACK | PSH, seq: ISN.wrapping_add(1), ack, window: 60_000, options: vec![] };
    let whole = p.frame();
    let fragment = |from: usize, to: usize, more: bool| {
        let mut f = [&whole[..34], &whole[34 + from..34 + to]].concat();
        f[16..18].copy_from_slice(&((20 + to - from) as u16).to_be_bytes());
        f[20..22].copy_from_slice(&((from / 8) as u16 | u16::from(more) << 13).to_be_bytes());
        f[24..26].fill(0);
        let sum = Sum::ZERO.bytes(&f[14..34]).checksum();
        f[24..26].copy_from_slice(&sum.to_ne_bytes());
        f
    };
    assert!(d.receives(&fragment(0, 40, true)).is_empty());
    assert!(d.receives(&fragment(40, whole.len() - 34, false)).is_empty());
    let dropped = |d: &mut Director, why: DropReason| d.report().counters.dropped[why as usize];
    assert_eq!((dropped(&mut d, DropReason::SplicedFragment), dropped(&mut d, DropReason::BadFragment)), (2, 0));
    // Whole, it is served.
    assert!(d.receives(&whole).iter().any(|s| s.flags == SYN));
}
