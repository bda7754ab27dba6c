//! Clients that are slow, or silent: what each of them gets, and that it is counted and forgotten.

mod director;

use director::{CLIENT, Director, ISN, MILLISECOND, SERVICE, SYN_OPTIONS, Sent};
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use lcs_pipelines::content::{Binding, SynPolicy};
use lcs_pipelines::extract::Protocol;
use lcs_pipelines::matching::{Action, Expr, Relation, Rule, Term, Value, Variable};
use lcs_pipelines::tally::Refusal;
use std::time::Duration;

/// A second for the first byte, three from there to a decision.
fn impatient(syn: SynPolicy) -> Binding {
    Binding { first_byte: Duration::from_secs(1), request: Duration::from_secs(3), syn, ..Binding::default() }
}

/// What comes out while this time passes, and after how many milliseconds.
fn while_passing(d: &mut Director, milliseconds: u64) -> Vec<(u64, Sent)> {
    let begin = d.now;
    let mut sent = vec![];
    while d.now < begin + milliseconds * MILLISECOND {
        let came = d.passes(50);
        sent.extend(came.into_iter().map(|s| ((d.now - begin) / MILLISECOND, s)));
    }
    sent
}

fn refused(d: &mut Director, why: Refusal) -> u64 {
    d.report().content.services[0].as_ref().map_or(0, |tally| tally.refusals[why as usize])
}

#[test]
fn a_client_that_says_nothing_is_reset_after_the_time_for_its_first_byte() {
    for protocol in [Protocol::Http, Protocol::Tls] {
        for syn in [SynPolicy::State, SynPolicy::Cookie] {
            let mut d = Director::speaking(protocol, impatient(syn), &[]);
            let ack = d.handshake();
            assert_eq!(d.worker.pipeline().flows(), 1);
            let mut sent = while_passing(&mut d, 500);
            // What is no byte is no reason for more patience: a bare acknowledgement, the SYN once more.
            sent.extend((0..3).flat_map(|_| d.client(ACK, ISN.wrapping_add(1), ack, b"")).map(|s| (500, s)));
            let again = d.client(SYN, ISN, 0, b"");
            assert_eq!((again.len(), again[0].seq.wrapping_add(1)), (1, ack));
            assert_eq!(sent.len(), 0, "{sent:?}");
            let sent = while_passing(&mut d, 2_000);
            assert_eq!(sent.len(), 1, "{protocol:?} {syn:?}: {sent:?}");
            let (after, reset) = &sent[0];
            assert!((500..=800).contains(after), "{after} ms");
            assert_eq!(
                (reset.to.to_string().as_str(), reset.flags & RST, reset.seq, reset.ack),
                (CLIENT, RST, ack, ISN.wrapping_add(1))
            );
            assert_eq!((d.worker.pipeline().flows(), refused(&mut d, Refusal::Silent)), (0, 1));
            assert_eq!(refused(&mut d, Refusal::TooSlow), 0);
        }
    }
}

#[test]
fn a_request_has_its_own_time_from_its_first_byte_on() {
    // However much longer, or shorter, a silent one has.
    for first_byte in [1, 60] {
        let binding = Binding { first_byte: Duration::from_secs(first_byte), ..impatient(SynPolicy::Auto) };
        let mut d = Director::with(binding, &[]);
        let ack = d.handshake();
        assert!(while_passing(&mut d, 700).is_empty());
        d.client(ACK | PSH, ISN.wrapping_add(1), ack, b"G");
        let mut sent = while_passing(&mut d, 2_000);
        // Nor do more bytes of it buy more time, nor rules that are published meanwhile.
        d.client(ACK | PSH, ISN.wrapping_add(2), ack, b"E");
        d.publish(|_| {}, true);
        d.client(ACK | PSH, ISN.wrapping_add(3), ack, b"T");
        sent.retain(|(_, s)| !s.payload.is_empty() || s.flags & (FIN | RST) != 0);
        assert!(sent.is_empty(), "{sent:?}");
        let sent = while_passing(&mut d, 1_500);
        let (after, answer) = sent.iter().find(|(_, s)| !s.payload.is_empty()).expect("an answer");
        assert!(answer.payload.starts_with(b"HTTP/1.1 408 Request Timeout\r\n"));
        assert!((900..=1_200).contains(after), "{after} ms");
        assert_eq!((refused(&mut d, Refusal::Silent), refused(&mut d, Refusal::TooSlow)), (0, 1));
    }
}

#[test]
fn a_client_that_waits_for_a_greeting_is_not_silent() {
    let value = Value::Text(b"a@b.example".to_vec().into());
    let condition = Expr::Term(Term { variable: Variable::SmtpTo, relation: Relation::Eq, value, ignore_case: false });
    let rule = Rule { name: "a".into(), condition, action: Action::Reject { status: None } };
    let mut d = Director::speaking(Protocol::Smtp, impatient(SynPolicy::State), &[rule]);
    let answer = d.client(SYN, ISN, 0, b"");
    let ack = answer[0].seq.wrapping_add(1);
    let greeting = d.client(ACK, ISN.wrapping_add(1), ack, b"");
    assert!(greeting.iter().any(|s| s.payload.starts_with(b"220 ")), "{greeting:?}");
    let ack = ack.wrapping_add(greeting.iter().map(|s| s.payload.len() as u32).sum());
    d.client(ACK, ISN.wrapping_add(1), ack, b"");
    assert!(while_passing(&mut d, 5_000).iter().all(|(_, s)| s.flags & (FIN | RST) == 0));
    assert_eq!((d.worker.pipeline().flows(), refused(&mut d, Refusal::Silent)), (1, 0));
}

#[test]
fn silent_clients_give_way_where_there_is_no_room() {
    // Its flow table has 16 places.
    let binding = Binding { first_byte: Duration::from_secs(60), ..impatient(SynPolicy::State) };
    let mut d = Director::with(binding, &[]);
    let connect = |d: &mut Director, port: u16| {
        let client = format!("192.0.2.1:{port}");
        let answer = d.says(&client, SERVICE, SYN, ISN, 0, SYN_OPTIONS, b"");
        assert_eq!((answer.len(), answer[0].flags), (1, SYN | ACK), "{port}");
        let ack = answer[0].seq.wrapping_add(1);
        d.says(&client, SERVICE, ACK, ISN.wrapping_add(1), ack, &[], b"");
        ack
    };
    for port in 1000..1100 {
        connect(&mut d, port);
        d.passes(10);
    }
    let ack = connect(&mut d, 2000);
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let sent = d.says("192.0.2.1:2000", SERVICE, ACK | PSH, ISN.wrapping_add(1), ack, &[], request);
    assert!(sent.iter().any(|s| s.flags == SYN), "a server is asked: {sent:?}");
    assert!(d.worker.pipeline().flows() <= 16);
    // Those that were left are reset in their time, and nothing stays of them.
    while_passing(&mut d, 62_000);
    let silent = refused(&mut d, Refusal::Silent);
    assert!((10..=16).contains(&silent), "{silent}");
}
