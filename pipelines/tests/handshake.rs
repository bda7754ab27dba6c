//! The handshake with a client that waits to be greeted, segment by segment: what is sent again, when, and to whom not.

mod director;

use director::{CLIENT, DIRECTOR, Director, ISN, SERVICE, SYN_OPTIONS, Sent};
use lcs_dataplane::headers::build::{Packet, Transport};
use lcs_dataplane::headers::tcp::flags::{ACK, PSH, RST, SYN};
use lcs_pipelines::command::Command;
use lcs_pipelines::content::{Binding, SynPolicy};
use lcs_pipelines::extract::Protocol;
use lcs_pipelines::matching::{Action, Expr, Relation, Rule, Stickiness, Term, Value, Variable};
use lcs_pipelines::snapshot::NextHop;

const FIRST: u32 = ISN.wrapping_add(1);
const POLICIES: [SynPolicy; 3] = [SynPolicy::State, SynPolicy::Cookie, SynPolicy::Auto];
/// What the director greets with.
const GREETING: &[u8] = b"220 localhost ESMTP\r\n";
/// Handshakes that are remembered at most.
const REMEMBERED: usize = 4096;

/// A director for mail, which is decided by recipient.
fn mail(binding: Binding) -> Director {
    let to = Action::RouteTo { group: 0, stickiness: Stickiness::Service };
    let value = Value::Text(b"a@b.example".to_vec().into());
    let condition = Expr::Term(Term { variable: Variable::SmtpTo, relation: Relation::Eq, value, ignore_case: false });
    Director::speaking(Protocol::Smtp, binding, &[Rule { name: "a".into(), condition, action: to }])
}

fn answering(syn: SynPolicy) -> Binding {
    Binding { syn, ..Binding::default() }
}

/// What is sent in so many seconds, with the millisecond of each.
fn waits(d: &mut Director, seconds: u64) -> Vec<(u64, Sent)> {
    let mut sent = vec![];
    for n in 1..=seconds * 50 {
        sent.extend(d.passes(20).into_iter().map(|s| (n * 20, s)));
    }
    sent
}

#[test]
fn a_syn_is_answered_again_until_the_handshake_is_given_up() {
    for syn in POLICIES {
        let mut d = mail(answering(syn));
        let answer = d.client(SYN, ISN, 0, b"").remove(0);
        assert_eq!((answer.flags, answer.ack), (SYN | ACK, FIRST));
        assert_eq!(d.report().content.handshakes, 1);
        let again = waits(&mut d, 200);
        for (_, s) in &again {
            assert_eq!(s.bytes, answer.bytes, "the same segment, byte for byte");
        }
        let at: Vec<u64> = again.iter().map(|(at, _)| *at).collect();
        let due = [1000, 3000, 7000, 15_000, 31_000];
        assert_eq!(at.len(), due.len(), "{syn:?}: {at:?}");
        assert!(at.iter().zip(due).all(|(at, due)| (due..due + 200).contains(at)), "{syn:?}: {at:?}");
        let content = d.report().content;
        assert_eq!((content.handshakes, content.handshakes_repeated, content.handshakes_unremembered), (0, 5, 0));
    }
}

#[test]
fn a_client_whose_acknowledgement_is_lost_is_greeted_all_the_same() {
    for syn in POLICIES {
        let mut d = mail(answering(syn));
        let answer = d.client(SYN, ISN, 0, b"").remove(0);
        // Its acknowledgement is lost, once more after the repetition, and then comes.
        let again = waits(&mut d, 4);
        assert_eq!(again.len(), 2, "{again:?}");
        let next = answer.seq.wrapping_add(1);
        let greeted = d.client(ACK, FIRST, next, b"");
        assert_eq!((greeted.len(), &greeted[0].payload[..], greeted[0].seq), (1, GREETING, next), "{syn:?}");
        assert_eq!(d.report().content.handshakes, 0, "it is over");
        let heard = next.wrapping_add(GREETING.len() as u32);
        let reply = d.client(ACK | PSH, FIRST, heard, b"EHLO me\r\n");
        let reply: Vec<u8> = reply.iter().flat_map(|s| s.payload.clone()).collect();
        assert!(reply.starts_with(b"250"), "{reply:?}");
        let heard = heard.wrapping_add(reply.len() as u32);
        d.client(ACK, FIRST.wrapping_add(9), heard, b"");
        assert!(waits(&mut d, 100).is_empty(), "nothing is repeated any more");
    }
}

#[test]
fn a_reset_ends_it_if_its_number_is_right() {
    for syn in POLICIES {
        let mut d = mail(answering(syn));
        d.client(SYN, ISN, 0, b"");
        d.client(RST, FIRST.wrapping_add(1), 0, b"");
        assert_eq!(waits(&mut d, 2).len(), 1, "a guess ends nothing");
        d.client(RST, FIRST, 0, b"");
        assert_eq!((waits(&mut d, 100).len(), d.report().content.handshakes), (0, 0), "{syn:?}");
    }
}

#[test]
fn another_connection_from_the_same_port_takes_its_place() {
    for syn in POLICIES {
        let mut d = mail(answering(syn));
        d.client(SYN, ISN, 0, b"");
        waits(&mut d, 2);
        let answer = d.client(SYN, ISN.wrapping_add(90_000), 0, b"").remove(0);
        let again = waits(&mut d, 100);
        assert_eq!(again.len(), 5, "{syn:?}: {again:?}");
        assert!(again.iter().all(|(_, s)| s.bytes == answer.bytes));
    }
}

#[test]
fn a_half_open_connection_that_is_gone_is_not_answered_for() {
    let mut d = mail(answering(SynPolicy::State));
    d.client(SYN, ISN, 0, b"");
    // The table has room for 16: this one gives way.
    for n in 0..16 {
        d.says(&format!("192.0.2.9:{}", 2000 + n), SERVICE, SYN, ISN, 0, SYN_OPTIONS, b"");
    }
    let again = waits(&mut d, 2);
    assert_eq!(again.len(), 16);
    assert!(again.iter().all(|(_, s)| s.to.to_string() != CLIENT));
    // Nor one whose service speaks something else by now.
    let other = Director::new().snapshot.services.clone();
    d.publish(|s| s.services = other, true);
    assert!(waits(&mut d, 100).is_empty());
    assert_eq!(d.report().content.handshakes, 0);
}

#[test]
fn where_the_client_speaks_first_nothing_is_remembered() {
    for syn in POLICIES {
        let mut d = Director::with(answering(syn), &[]);
        d.client(SYN, ISN, 0, b"");
        assert_eq!(d.report().content.handshakes, 0);
        assert!(waits(&mut d, 100).is_empty());
    }
}

#[test]
fn timestamps_are_those_of_the_repetition() {
    let mut d = mail(Binding { timestamps: true, ..answering(SynPolicy::Cookie) });
    let stamp = |value: u32, echo: u32| [&[1, 1, 8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat();
    let syn = [SYN_OPTIONS, &stamp(77, 0)].concat();
    let answer = d.says(CLIENT, SERVICE, SYN, ISN, 0, &syn, b"").remove(0);
    let read = |s: &Sent| {
        let at = s.options.windows(2).position(|w| w == [8, 10]).expect("it has timestamps");
        let number = |at: usize| u32::from_be_bytes(s.options[at..at + 4].try_into().unwrap());
        (number(at + 2), number(at + 6))
    };
    let (first, echo) = read(&answer);
    let (at, again) = waits(&mut d, 2).remove(0);
    let (second, echo_again) = read(&again);
    assert_eq!((echo, echo_again, second.wrapping_sub(first)), (77, 77, at as u32));
    let greeted = d.says(CLIENT, SERVICE, ACK, FIRST, again.seq.wrapping_add(1), &stamp(90, second), b"");
    assert_eq!((&greeted[0].payload[..], read(&greeted[0]).1), (GREETING, 90));
}

#[test]
fn a_flood_of_syns_is_neither_remembered_nor_repeated_without_bound() {
    for (syn, v6) in [(SynPolicy::Cookie, false), (SynPolicy::Auto, false), (SynPolicy::Auto, true)] {
        let mut d = mail(answering(syn));
        let service = if v6 { "[2001:db8::100]:80" } else { SERVICE };
        d.publish(
            |s| {
                let at: std::net::SocketAddr = service.parse().unwrap();
                s.by_endpoint.insert((at.ip(), at.port(), 6), 0);
                s.own.insert(at.ip());
                s.services[0].as_mut().unwrap().address = at.ip();
            },
            true,
        );
        let flood: u64 = 3 * REMEMBERED as u64;
        let mut answers = 0;
        for n in 0..flood {
            let from = match v6 {
                false => format!("203.0.{}.{}:1024", n / 250, 1 + n % 250),
                true => format!("[2001:db8:1::{n:x}]:1024"),
            };
            let mut p = Packet {
                destination_mac: DIRECTOR,
                ..Packet::tcp(from.parse().unwrap(), service.parse().unwrap(), SYN)
            };
            p.transport =
                Transport::Tcp { flags: SYN, seq: n as u32, ack: 0, window: 60_000, options: SYN_OPTIONS.to_vec() };
            answers += d.receives(&p.frame()).len() as u64;
        }
        assert_eq!(answers, flood, "each is answered once");
        let content = d.report().content;
        assert!(content.handshakes <= REMEMBERED && content.handshakes > REMEMBERED * 3 / 4, "{content:?}");
        assert_eq!(content.handshakes_unremembered, flood - content.handshakes as u64);
        let mut again = 0;
        for _ in 0..100_000 / 20 {
            d.now += 20 * director::MILLISECOND;
            d.worker.poll(d.now);
            let mut before = usize::MAX;
            while again != before {
                before = again;
                d.worker.between(d.now);
                again += d.sent().len();
            }
        }
        // Two for each, and five for those that are left when it has thinned out.
        assert!(again <= REMEMBERED * 2 + REMEMBERED / 2 * 3, "{again}");
        let content = d.report().content;
        assert_eq!((content.handshakes, content.handshakes_repeated), (0, again as u64));
        // Whoever comes then is served as ever.
        if !v6 {
            let answer = d.client(SYN, ISN, 0, b"").remove(0);
            assert_eq!(waits(&mut d, 2).len(), 1);
            let greeted = d.client(ACK, FIRST, answer.seq.wrapping_add(1), b"");
            assert_eq!(greeted[0].payload, GREETING);
        }
    }
}

/// The MSS that a client is told which calls from this port.
fn mss_told(d: &mut Director, port: u16) -> u16 {
    let client = format!("192.0.2.1:{port}");
    let answer = d.says(&client, SERVICE, SYN, ISN, 0, SYN_OPTIONS, b"");
    assert_eq!((answer.len(), &answer[0].options[..2]), (1, &[2u8, 4][..]));
    u16::from_be_bytes([answer[0].options[2], answer[0].options[3]])
}

#[test]
fn the_mss_that_is_announced_is_what_every_server_has_room_for() {
    for syn in POLICIES {
        let mut d = Director::with(answering(syn), &[]);
        assert_eq!(mss_told(&mut d, 1001), 1460);
        // Either server may be chosen.
        d.publish(|s| s.next_hops[1].mtu = 1400, true);
        assert_eq!(mss_told(&mut d, 1002), 1360);
        // Next hops change without a new snapshot.
        let mut set = |row: u16, mtu: u16, port: u16| {
            let hop = NextHop { mtu, ..d.snapshot.next_hops[usize::from(row)] };
            d.worker.command(Command::SetNextHop { row, hop }, d.now);
            mss_told(&mut d, port)
        };
        assert_eq!(set(0, 1300, 1003), 1260);
        assert_eq!(set(0, 9000, 1004), 1360);
        assert_eq!(set(1, 9000, 1005), 1460, "no more than the client's own link carries");
        // What is not resolved says nothing.
        assert_eq!(set(1, 0, 1006), 1460);
    }
}
