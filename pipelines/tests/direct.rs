//! Guessed servers that answer their clients directly: `preallocate` over direct routing and tunnels. What such a server says
//! never comes here.

mod director;

use director::{CLIENT, DIRECTOR, Director, ISN, SERVICE, SYN_OPTIONS, Sent};
use lcs_dataplane::DropReason;
use lcs_dataplane::flow::TcpState;
use lcs_dataplane::headers::build::{Packet, Transport};
use lcs_dataplane::headers::parse;
use lcs_dataplane::headers::parse::transport_checksum_ok;
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use lcs_pipelines::command::{Acknowledgement, Command, Report};
use lcs_pipelines::content::{Binding, Guess, Scheme, Switching, SynPolicy};
use lcs_pipelines::matching::{self, Action, Expr, Rule};
use lcs_pipelines::snapshot::{Forward, Snapshot};
use lcs_pipelines::tally::GuessTally;
use std::sync::Arc;

const FIRST: u32 = ISN.wrapping_add(1);
const REQUEST: &[u8] = b"GET /a HTTP/1.1\r\nHost: www.example.com\r\n\r\n";
const OTHER_REQUEST: &[u8] = b"GET /b HTTP/1.1\r\nHost: www.example.com\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// The guessed server's first number: the client alone knows it.
const GUESSED: u32 = 0xffff_fff0;
/// What the right server can, and its first number.
const OPTIONS: &[u8] = &[2, 4, 5, 0xb4, 1, 3, 3, 4, 1, 1, 4, 2];
const RIGHT: u32 = 90_000;
/// The right server, at its own address, and who it is spoken to by.
const OTHER: &str = "10.0.0.2:80";

fn url(prefix: &str) -> Expr {
    let value = matching::Value::Text(prefix.as_bytes().into());
    let relation = matching::Relation::Prefix;
    Expr::Term(matching::Term { variable: matching::Variable::Url, relation, value, ignore_case: false })
}

/// Always `s0` is guessed. A request for `/b` is for `s1`. The client's address is proven.
fn guessing(forward: Forward, scale: Option<u8>) -> Director {
    let mut d = unproven(forward, scale);
    // A connection that is bound late, and comes to nothing.
    let answer = d.says(PROVES, SERVICE, SYN, 1, 0, SYN_OPTIONS, b"");
    assert_eq!((answer.len(), answer[0].flags), (1, SYN | ACK), "an address that is not proven: {answer:?}");
    d.says(PROVES, SERVICE, ACK, 2, answer[0].seq.wrapping_add(1), &[], b"");
    d.says(PROVES, SERVICE, RST, 2, 0, &[], b"");
    d
}

/// The same client, from another port.
const PROVES: &str = "192.0.2.1:999";

fn unproven(forward: Forward, server_scale: Option<u8>) -> Director {
    let scheme = Scheme::Preallocate(Guess::Server("s0".into()));
    let to = Action::Forward { server: 1, queue: None };
    let b = Rule { name: "b".into(), condition: url("/b"), action: to };
    // No cookies, however small the table.
    let syn = SynPolicy::State;
    let binding = Binding { scheme, syn, switching: Switching::Connection, server_scale, ..Binding::default() };
    Director::behind(forward, binding, &[b])
}

/// Whether a segment goes to this server as it came: from the client, to the service.
fn goes_directly(s: &Sent, server: u8) -> bool {
    let tunnel = s.tunnel.is_none_or(|end| end.octets() == [10, 0, 0, server + 1]);
    s.from.to_string() == CLIENT && s.to.to_string() == SERVICE && s.bytes[5] == server && tunnel
}

fn handshake(d: &mut Director) {
    let syn = d.client(SYN, ISN, 0, b"");
    assert_eq!((syn.len(), syn[0].flags, syn[0].seq), (1, SYN, ISN));
    assert!(goes_directly(&syn[0], 0), "{syn:?}");
    assert!(d.client(ACK, FIRST, GUESSED.wrapping_add(1), b"").is_empty(), "held until the request");
}

fn request(d: &mut Director, request: &[u8]) -> Vec<Sent> {
    d.client(ACK | PSH, FIRST, GUESSED.wrapping_add(1), request)
}

fn report(d: &mut Director) -> Box<Report> {
    match d.worker.command(Command::Report(Box::default()), d.now) {
        Acknowledgement::Report(r) => r,
        other => panic!("{other:?}"),
    }
}

fn guesses(d: &mut Director) -> GuessTally {
    report(d).content.services[0].as_ref().unwrap().guesses
}

/// Frames that each stage has worked on.
fn frames_by_stage(d: &mut Director) -> Vec<(String, u64)> {
    report(d).stages.iter().map(|(name, cost)| (name.clone(), cost.packets)).collect()
}

/// What so many acknowledgements on an established connection of layer 4 cost, in frames by stage.
fn frames_at_layer4(forward: Forward, n: u32) -> Vec<(String, u64)> {
    let mut d = Director::layer4(forward);
    d.client(SYN, ISN, 0, b"");
    d.client(ACK | PSH, FIRST, GUESSED.wrapping_add(1), REQUEST);
    acknowledgements(&mut d, n)
}

/// So many acknowledgements of a response; what they have cost, in frames by stage.
fn acknowledgements(d: &mut Director, n: u32) -> Vec<(String, u64)> {
    let before = frames_by_stage(d);
    let end = FIRST.wrapping_add(REQUEST.len() as u32);
    for n in 0..n {
        let sent = d.client(ACK, end, GUESSED.wrapping_add(1 + 1000 * n), b"");
        assert!(sent.len() == 1 && sent[0].flags == ACK && sent[0].to.to_string() == SERVICE, "{sent:?}");
    }
    let after = frames_by_stage(d);
    before.into_iter().zip(after).map(|((name, b), (_, a))| (name, a - b)).collect()
}

const WAYS: [Forward; 2] = [Forward::Dr, Forward::Tunnel];

#[test]
fn a_right_guess_is_a_connection_of_layer_4_from_the_request_on() {
    for forward in WAYS {
        let mut d = guessing(forward, Some(7));
        handshake(&mut d);
        let sent = request(&mut d, REQUEST);
        assert_eq!(sent.len(), 1, "the request and nothing else: {sent:?}");
        assert!(goes_directly(&sent[0], 0) && sent[0].payload == REQUEST);
        assert_eq!((sent[0].seq, sent[0].ack), (FIRST, GUESSED.wrapping_add(1)));
        // What follows is not looked at: the same stages, as often, as on a connection that never had rules.
        let cost = acknowledgements(&mut d, 10);
        assert_eq!(cost, frames_at_layer4(forward, 10), "{forward:?}");
        assert!(
            cost.iter().all(|(name, frames)| (*frames > 0) == ["classify", "lookup", "forward"].contains(&&name[..]))
        );
        let n = guesses(&mut d);
        assert_eq!((n.made, n.right, n.wrong, n.undecided, n.none), (1, 1, 0, 0, 1));
        assert_eq!(report(&mut d).content.buffered, 0);
    }
}

#[test]
fn what_the_server_is_offered_is_what_can_be_kept() {
    // MSS, timestamps, an unknown option (34: a cookie), window scale, SACK.
    let offered: &[u8] = &[2, 4, 5, 0xb4, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 34, 2, 1, 3, 3, 9, 1, 1, 4, 2];
    for (scale, kept) in [(None, [1, 1, 1]), (Some(7), [3, 3, 9])] {
        for forward in WAYS {
            let mut d = guessing(forward, scale);
            let mut p = Packet {
                destination_mac: DIRECTOR,
                ..Packet::tcp(CLIENT.parse().unwrap(), SERVICE.parse().unwrap(), SYN)
            }
            .payload(b"GET / HTTP/1.1\r\n");
            // With ECN asked for, and data that would be read by nobody.
            p.transport =
                Transport::Tcp { flags: SYN | 0xc0, seq: ISN, ack: 0, window: 60_000, options: offered.to_vec() };
            let sent = d.receives(&p.frame());
            let want = [&[2, 4, 5, 0xb4][..], &[1; 10], &[1, 1, 1], &kept, &[1, 1, 4, 2]].concat();
            assert_eq!((sent.len(), sent[0].flags, &sent[0].options[..]), (1, SYN, &want[..]));
            assert!(sent[0].payload.is_empty() && sent[0].window == 60_000);
            let b = &sent[0].bytes;
            assert!(transport_checksum_ok(b, &parse(b, true).unwrap()));
        }
    }
}

#[test]
fn a_wrong_guess_costs_the_guessed_server_a_reset_and_the_client_nothing() {
    for forward in WAYS {
        for scale in [None, Some(6)] {
            let mut d = guessing(forward, scale);
            handshake(&mut d);
            let sent = request(&mut d, OTHER_REQUEST);
            assert!(sent.iter().all(|s| s.payload.is_empty()), "{sent:?}");
            // The guessed server has seen a SYN only: it expects this number, and the reset acknowledges nothing.
            let reset = sent.iter().find(|s| goes_directly(s, 0)).expect("the guessed server is let go");
            assert_eq!((reset.flags, reset.seq, reset.ack), (RST, FIRST, 0));
            // The right one is asked at its own address, from the director's, with the client's number.
            let syn = sent.iter().find(|s| s.to.to_string() == OTHER).expect("the right one is asked");
            assert_eq!((syn.flags, syn.seq, syn.tunnel), (SYN, ISN, None));
            assert_eq!(syn.from.ip().to_string(), "10.0.0.100");
            let scaled = syn.options.windows(2).any(|o| o == [3, 3]);
            assert_eq!(scaled, scale.is_some(), "it is offered what the client has agreed with the first: {syn:?}");
            let ack = sent.iter().find(|s| s.to.to_string() == CLIENT).expect("the client is not left to wait");
            let end = FIRST.wrapping_add(OTHER_REQUEST.len() as u32);
            assert_eq!((ack.seq, ack.ack), (GUESSED.wrapping_add(1), end));
            let local = syn.from.to_string();
            let options = if scaled { OPTIONS } else { &[2, 4, 5, 0xb4, 1, 1, 4, 2] };
            let sent = d.says(OTHER, &local, SYN | ACK, RIGHT, FIRST, options, b"");
            let data: Vec<u8> = sent.iter().flat_map(|s| s.payload.clone()).collect();
            assert_eq!(data, OTHER_REQUEST);
            assert!(sent.iter().all(|s| s.ack == RIGHT + 1 && s.to.to_string() == OTHER), "{sent:?}");
            assert_eq!(report(&mut d).content.buffered, OTHER_REQUEST.len(), "the server has not acknowledged it");
            // In the client's numbers the response begins where the guessed server's would have begun, across the wrap; its window
            // in the scale that the client was told (6, where this server has 4).
            let back = d.says(OTHER, &local, ACK | PSH, RIGHT + 1, end, &[], RESPONSE);
            assert_eq!((back.len(), back[0].seq, back[0].ack), (1, GUESSED.wrapping_add(1), end));
            assert_eq!((&back[0].payload[..], back[0].to.to_string()), (RESPONSE, CLIENT.into()));
            assert_eq!(back[0].window, if scaled { 60_000 >> 2 } else { 60_000 });
            let next = GUESSED.wrapping_add(1 + RESPONSE.len() as u32);
            let up = d.client(ACK, end, next, b"");
            assert_eq!((up.len(), up[0].seq, up[0].ack), (1, end, RIGHT + 1 + RESPONSE.len() as u32));
            assert_eq!((up[0].window, up[0].to.to_string()), (60_000, OTHER.into()));
            // SACK edges, too.
            let edges: Vec<u8> =
                [next.wrapping_add(100), next.wrapping_add(200)].iter().flat_map(|e| e.to_be_bytes()).collect();
            let sack = [&[1, 1, 5, 10][..], &edges].concat();
            let up = d.says(CLIENT, SERVICE, ACK, end, next, &sack, b"");
            let base = RIGHT + 1 + RESPONSE.len() as u32;
            let moved: Vec<u8> = [base + 100, base + 200].iter().flat_map(|e| e.to_be_bytes()).collect();
            assert_eq!(up[0].options[4..], moved);
            let n = guesses(&mut d);
            assert_eq!((n.made, n.right, n.wrong), (1, 0, 1));
            assert_eq!(report(&mut d).content.buffered, 0);
        }
    }
}

/// The request comes in pieces: what was held for a right guess goes on when it is decided.
#[test]
fn a_request_in_pieces_is_held_and_nothing_of_it_is_acknowledged() {
    for forward in WAYS {
        for (text, right) in [(REQUEST, true), (OTHER_REQUEST, false)] {
            let mut d = guessing(forward, None);
            handshake(&mut d);
            // The later piece first; whatever is undecided stays here.
            let at = |n: usize| FIRST.wrapping_add(n as u32);
            assert!(d.client(ACK | PSH, at(5), GUESSED.wrapping_add(1), &text[5..]).is_empty());
            let sent = d.client(ACK | PSH, FIRST, GUESSED.wrapping_add(1), &text[..5]);
            let direct: Vec<&Sent> = sent.iter().filter(|s| goes_directly(s, 0)).collect();
            if right {
                let data: Vec<u8> = direct.iter().flat_map(|s| s.payload.clone()).collect();
                assert_eq!((data.as_slice(), direct.len(), sent.len()), (text, 1, 1), "{sent:?}");
                assert_eq!(
                    (direct[0].seq, direct[0].ack, direct[0].flags),
                    (FIRST, GUESSED.wrapping_add(1), ACK | PSH)
                );
                let b = &direct[0].bytes;
                assert!(transport_checksum_ok(b, &parse(b, true).unwrap()));
                assert_eq!(acknowledgements(&mut d, 3), frames_at_layer4(forward, 3));
            } else {
                assert!(direct.iter().all(|s| s.flags == RST && s.payload.is_empty()), "{sent:?}");
                assert!(sent.iter().any(|s| s.to.to_string() == OTHER && s.flags == SYN));
            }
            assert_eq!(report(&mut d).content.buffered, if right { 0 } else { text.len() });
        }
    }
}

#[test]
fn a_client_that_waits_for_an_acknowledgement_gets_it_from_the_director() {
    for forward in WAYS {
        let mut d = guessing(forward, Some(7));
        handshake(&mut d);
        assert!(d.client(ACK | PSH, FIRST, GUESSED.wrapping_add(1), &REQUEST[..5]).is_empty());
        assert!(d.passes(30).is_empty(), "not yet");
        let sent: Vec<Sent> = (0..3).flat_map(|_| d.passes(10)).collect();
        assert_eq!(sent.len(), 2, "{sent:?}");
        assert!(goes_directly(&sent[0], 0) && (sent[0].flags, sent[0].seq) == (RST, FIRST));
        let ack = FIRST.wrapping_add(5);
        assert_eq!((sent[1].to.to_string(), sent[1].flags, sent[1].ack), (CLIENT.into(), ACK, ack));
        // Bound late, whoever it is for.
        let sent = d.client(ACK | PSH, ack, GUESSED.wrapping_add(1), &REQUEST[5..]);
        let syn = sent.iter().find(|s| s.flags == SYN).expect("a server is asked");
        assert_eq!((syn.from.ip().to_string(), syn.seq), ("10.0.0.100".into(), ISN));
        let n = guesses(&mut d);
        assert_eq!((n.made, n.right, n.wrong, n.undecided), (1, 0, 0, 1));
    }
}

#[test]
fn a_repeated_acknowledgement_goes_on_since_the_server_repeats_its_answer() {
    for forward in WAYS {
        let mut d = guessing(forward, Some(7));
        handshake(&mut d);
        for _ in 0..2 {
            assert!(d.passes(1000).is_empty());
            let sent = d.client(ACK, FIRST, GUESSED.wrapping_add(1), b"");
            assert!(sent.len() == 1 && goes_directly(&sent[0], 0) && sent[0].flags == ACK, "{sent:?}");
        }
        // The handshake's answer again, late: nobody is told anything.
        assert!(d.client(SYN, ISN, 0, b"").is_empty());
        let sent = request(&mut d, OTHER_REQUEST);
        let reset = sent.iter().find(|s| goes_directly(s, 0)).unwrap();
        assert_eq!((reset.flags, reset.seq), (RST, FIRST));
        assert!(sent.iter().any(|s| s.to.to_string() == OTHER));
    }
}

/// The network doubles the server's answer, so the client acknowledges twice: neither goes on, or the guessed server might get one behind the
/// reset that ends a wrong guess.
#[test]
fn a_copy_of_an_acknowledgement_is_held_like_the_first() {
    for forward in WAYS {
        let mut d = guessing(forward, Some(7));
        handshake(&mut d);
        assert!(d.client(ACK, FIRST, GUESSED.wrapping_add(1), b"").is_empty());
        let sent = request(&mut d, OTHER_REQUEST);
        let direct: Vec<_> = sent.iter().filter(|s| goes_directly(s, 0)).map(|s| (s.flags, s.seq)).collect();
        assert_eq!(direct, [(RST, FIRST)]);
        assert!(sent.iter().any(|s| s.to.to_string() == OTHER));
    }
}

#[test]
fn a_guess_that_nobody_answers_is_the_directors_to_answer() {
    for forward in WAYS {
        let mut d = guessing(forward, Some(6));
        let sent = d.client(SYN, ISN, 0, b"");
        assert!(sent.len() == 1 && goes_directly(&sent[0], 0));
        // A copy of it in the network.
        let sent = d.client(SYN, ISN, 0, b"");
        assert!(sent.len() == 1 && goes_directly(&sent[0], 0));
        assert!(d.passes(1000).is_empty());
        let sent = d.client(SYN, ISN, 0, b"");
        assert_eq!(sent.len(), 2, "{sent:?}");
        assert!(goes_directly(&sent[0], 0) && (sent[0].flags, sent[0].seq) == (RST, FIRST));
        let (own, answer) = (sent[1].seq, &sent[1]);
        assert_eq!((answer.to.to_string(), answer.flags, answer.ack), (CLIENT.into(), SYN | ACK, FIRST));
        assert!(answer.options.windows(3).any(|o| o == [3, 3, 6]), "the scale that the server would have said");
        // Again, and no other number.
        let sent = d.client(SYN, ISN, 0, b"");
        assert_eq!((sent.len(), sent[0].seq, sent[0].flags), (1, own, SYN | ACK));
        assert_eq!(guesses(&mut d).unanswered, 1);
        // Whichever answer the client has heard, its connection is bound late.
        let mut d2 = guessing(forward, Some(6));
        d2.client(SYN, ISN, 0, b"");
        d2.passes(1000);
        d2.client(SYN, ISN, 0, b"");
        for (d, number) in [(&mut d, own), (&mut d2, GUESSED)] {
            assert!(d.client(ACK, FIRST, number.wrapping_add(1), b"").is_empty());
            let sent = d.client(ACK | PSH, FIRST, number.wrapping_add(1), OTHER_REQUEST);
            assert!(sent.iter().all(|s| !goes_directly(s, 0) && !goes_directly(s, 1)), "{sent:?}");
            let local = sent.iter().find(|s| s.to.to_string() == OTHER).unwrap().from.to_string();
            let sent = d.says(OTHER, &local, SYN | ACK, RIGHT, FIRST, OPTIONS, b"");
            assert!(sent.iter().any(|s| s.payload == OTHER_REQUEST));
            let end = FIRST.wrapping_add(OTHER_REQUEST.len() as u32);
            let back = d.says(OTHER, &local, ACK | PSH, RIGHT + 1, end, &[], RESPONSE);
            assert_eq!(back[0].seq, number.wrapping_add(1));
        }
    }
}

#[test]
fn a_client_that_ends_it_ends_the_guessed_servers_side() {
    for forward in WAYS {
        // It resets the connection: by the exact number, or not at all.
        let mut d = guessing(forward, None);
        handshake(&mut d);
        assert!(d.client(RST, FIRST.wrapping_add(1), 0, b"").is_empty());
        let sent = d.client(RST, FIRST, 0, b"");
        assert!(sent.len() == 1 && goes_directly(&sent[0], 0) && sent[0].flags == RST, "{sent:?}");
        // It opens another one from the same port, of the first of which it has heard nothing: first the end of the old one, then
        // the new one.
        let mut d = guessing(forward, None);
        d.client(SYN, ISN, 0, b"");
        let sent = d.client(SYN, ISN.wrapping_add(50_000), 0, b"");
        let told: Vec<(u8, u32)> = sent.iter().filter(|s| goes_directly(s, 0)).map(|s| (s.flags, s.seq)).collect();
        assert_eq!(told, [(RST, FIRST), (SYN, ISN.wrapping_add(50_000))]);
        // It closes without a request: the director closes, too, in the server's number.
        let mut d = guessing(forward, None);
        handshake(&mut d);
        let sent = d.client(FIN | ACK, FIRST, GUESSED.wrapping_add(1), b"");
        assert!(sent.iter().any(|s| goes_directly(s, 0) && s.flags == RST), "{sent:?}");
        let fin = sent.iter().find(|s| s.to.to_string() == CLIENT && s.flags & FIN != 0).expect("it is closed");
        assert_eq!((fin.seq, fin.ack), (GUESSED.wrapping_add(1), FIRST.wrapping_add(1)));
        // While its request is collected.
        let mut d = guessing(forward, None);
        handshake(&mut d);
        assert!(request(&mut d, &REQUEST[..5]).is_empty());
        let sent = d.client(RST, FIRST.wrapping_add(5), 0, b"");
        assert!(sent.len() == 1 && goes_directly(&sent[0], 0), "{sent:?}");
        assert_eq!((sent[0].flags, sent[0].seq), (RST, FIRST), "of the five bytes it has none");
        assert_eq!(report(&mut d).content.buffered, 0);
    }
}

#[test]
fn a_guess_that_is_forgotten_is_a_guess_that_is_reset() {
    for forward in [Forward::Dr, Forward::Tunnel, Forward::Nat] {
        // By its time-out: 60 s.
        let made = || if forward == Forward::Nat { unproven(forward, None) } else { guessing(forward, None) };
        let mut d = made();
        let to_guessed = |s: &Sent| match forward {
            Forward::Nat => s.to.to_string() == "10.0.0.1:8080",
            _ => goes_directly(s, 0),
        };
        let begin = |d: &mut Director| {
            d.client(SYN, ISN, 0, b"");
        };
        begin(&mut d);
        let sent: Vec<Sent> = (0..70).flat_map(|_| d.passes(1000)).collect();
        assert_eq!(sent.len(), 1, "{forward:?} {sent:?}");
        assert!(to_guessed(&sent[0]) && (sent[0].flags, sent[0].seq) == (RST, FIRST), "{sent:?}");
        assert_eq!(report(&mut d).flows, 0);
        // Because the table (16) is full of others that came later.
        let mut d = made();
        begin(&mut d);
        let mut resets = vec![];
        for n in 0..16 {
            let other = format!("198.18.0.{}:1000", n + 1);
            let sent = d.says(&other, SERVICE, SYN, 1, 0, SYN_OPTIONS, b"");
            resets.extend(sent.into_iter().filter(|s| to_guessed(s) && s.flags & RST != 0 && s.seq == FIRST));
        }
        assert_eq!(resets.len(), 1, "{forward:?}");
    }
    // Over NAT the server's number is known, and said.
    let mut d = unproven(Forward::Nat, None);
    d.client(SYN, ISN, 0, b"");
    d.says("10.0.0.1:8080", CLIENT, SYN | ACK, 7000, FIRST, OPTIONS, b"");
    let sent: Vec<Sent> = (0..70).flat_map(|_| d.passes(1000)).collect();
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert_eq!((sent[0].flags, sent[0].seq, sent[0].ack), (RST | ACK, FIRST, 7001));
}

#[test]
fn who_only_pretends_to_be_there_is_answered_by_the_director() {
    for forward in WAYS {
        let mut d = unproven(forward, Some(7));
        let sent = d.client(SYN, ISN, 0, b"");
        assert_eq!((sent.len(), sent[0].to.to_string(), sent[0].flags), (1, CLIENT.into(), SYN | ACK));
        // Whatever number it makes up is refused; it has proven nothing.
        let refused = d.client(ACK | PSH, FIRST, sent[0].seq.wrapping_add(99), OTHER_REQUEST);
        assert!(refused.iter().all(|s| s.to.to_string() == CLIENT && s.flags & RST != 0), "{refused:?}");
        let sent = d.says("192.0.2.1:1001", SERVICE, SYN, 9, 0, SYN_OPTIONS, b"");
        assert_eq!((sent.len(), sent[0].flags), (1, SYN | ACK));
        d.says("192.0.2.1:1001", SERVICE, ACK, 10, sent[0].seq.wrapping_add(1), &[], b"");
        let sent = d.says("192.0.2.1:1002", SERVICE, SYN, 9, 0, SYN_OPTIONS, b"");
        assert_eq!((sent.len(), sent[0].flags, sent[0].bytes[5]), (1, SYN, 0));
        assert_eq!(guesses(&mut d).none, 2);
        // For ten minutes.
        d.passes(11 * 60_000);
        let sent = d.says("192.0.2.1:1003", SERVICE, SYN, 9, 0, SYN_OPTIONS, b"");
        assert_eq!((sent.len(), sent[0].flags), (1, SYN | ACK));
    }
}

#[test]
fn a_guess_is_given_up_for_what_the_director_itself_says() {
    for forward in WAYS {
        // No rule is for a method that does not exist: 400, in the guessed server's numbers.
        let mut d = guessing(forward, None);
        handshake(&mut d);
        let sent = request(&mut d, b"\0\0\0\0 / HTTP/1.1\r\n\r\n");
        assert!(sent.iter().filter(|s| goes_directly(s, 0)).all(|s| s.flags == RST && s.seq == FIRST), "{sent:?}");
        let said: Vec<&Sent> = sent.iter().filter(|s| s.to.to_string() == CLIENT && !s.payload.is_empty()).collect();
        assert!(said[0].payload.starts_with(b"HTTP/1.1 400") && said[0].seq == GUESSED.wrapping_add(1), "{sent:?}");
        assert_eq!(guesses(&mut d).wrong, 1);
    }
}

/// Frames dropped for their number.
fn out_of_window(d: &mut Director) -> u64 {
    report(d).counters.dropped[DropReason::OutOfWindow as usize]
}

/// Numbers that a client may begin its next connection with: later ones than before, and earlier ones.
const NEXT: [u32; 2] = [ISN.wrapping_add(70_000), ISN.wrapping_sub(70_000)];

/// The client begins another connection from its port, and asks for `/b`: the rules decide, and not the guess.
fn is_decided_anew(d: &mut Director, isn: u32) {
    let sent = d.client(SYN, isn, 0, b"");
    assert!(sent.len() == 1 && goes_directly(&sent[0], 0) && (sent[0].flags, sent[0].seq) == (SYN, isn), "{sent:?}");
    // Only what a guess is offered: it is one, and no segment of the old connection.
    assert_eq!(sent[0].options, [2, 4, 5, 0xb4, 1, 1, 1, 1, 1, 1, 4, 2]);
    let first = isn.wrapping_add(1);
    assert!(d.client(ACK, first, 5001, b"").is_empty());
    let sent = d.client(ACK | PSH, first, 5001, OTHER_REQUEST);
    let decided = sent.iter().all(|s| s.payload.is_empty()) && sent.iter().any(|s| s.to.to_string() == OTHER);
    assert!(decided, "{sent:?}");
    let n = guesses(d);
    assert_eq!((n.made, n.right, n.wrong), (2, 1, 1));
}

#[test]
fn a_new_connection_from_the_same_port_is_decided_anew() {
    for (forward, isn) in WAYS.into_iter().flat_map(|forward| NEXT.map(|isn| (forward, isn))) {
        let mut d = guessing(forward, None);
        handshake(&mut d);
        assert!(goes_directly(&request(&mut d, REQUEST)[0], 0));
        // A copy of the first SYN, late: the connection stands.
        let before = out_of_window(&mut d);
        assert!(d.client(SYN, ISN, 0, b"").is_empty());
        assert_eq!(out_of_window(&mut d), before + 1);
        assert_eq!(acknowledgements(&mut d, 3), frames_at_layer4(forward, 3));
        // The server has ended it unseen, and the client comes again.
        let sent = d.client(SYN, isn, 0, b"");
        assert_eq!((sent.len(), sent[0].to.to_string(), sent[0].flags, sent[0].ack), (1, CLIENT.into(), ACK, FIRST));
        // Who knows the old connection says nothing to that, and goes on.
        assert_eq!(acknowledgements(&mut d, 3), frames_at_layer4(forward, 3));
        let sent = d.client(RST, FIRST, 0, b"");
        assert!(sent.len() == 1 && goes_directly(&sent[0], 0) && sent[0].flags == RST);
        is_decided_anew(&mut d, isn);
    }
}

#[test]
fn a_client_that_has_closed_its_connection_begins_another_one_at_once() {
    for (forward, isn) in WAYS.into_iter().flat_map(|forward| NEXT.map(|isn| (forward, isn))) {
        // After the request, or with it.
        for with_it in [false, true] {
            let mut d = guessing(forward, None);
            handshake(&mut d);
            let acked = GUESSED.wrapping_add(1);
            let flags = ACK | PSH | if with_it { FIN } else { 0 };
            let sent = d.client(flags, FIRST, acked, REQUEST);
            assert!(sent.len() == 1 && goes_directly(&sent[0], 0) && sent[0].payload == REQUEST, "{sent:?}");
            assert_eq!(sent[0].flags, flags);
            let end = FIRST.wrapping_add(REQUEST.len() as u32);
            if !with_it {
                let sent = d.client(FIN | ACK, end, acked, b"");
                assert!(sent.len() == 1 && goes_directly(&sent[0], 0) && sent[0].flags == FIN | ACK, "{sent:?}");
            }
            let states = report(&mut d).states;
            assert_eq!((states[TcpState::FinWait as usize], states[TcpState::CloseWait as usize]), (1, 0));
            // What it still acknowledges goes on; its first SYN, late, does not.
            let sent = d.client(ACK, end.wrapping_add(1), acked.wrapping_add(30), b"");
            assert!(sent.len() == 1 && goes_directly(&sent[0], 0), "{sent:?}");
            let before = out_of_window(&mut d);
            assert!(d.client(SYN, ISN, 0, b"").is_empty());
            assert_eq!(out_of_window(&mut d), before + 1);
            is_decided_anew(&mut d, isn);
        }
    }
}

#[test]
fn a_request_that_is_too_long_for_the_way_is_sent_back_and_decided_when_it_comes_again() {
    for (forward, length) in [(Forward::Dr, 1461), (Forward::Tunnel, 1450)] {
        let mut d = guessing(forward, None);
        handshake(&mut d);
        let mut long = b"GET /a HTTP/1.1\r\nHost: www.example.com\r\nX: ".to_vec();
        long.resize(length - 4, b'x');
        long.extend(b"\r\n\r\n");
        let mut p = Packet {
            destination_mac: DIRECTOR,
            ..Packet::tcp(CLIENT.parse().unwrap(), SERVICE.parse().unwrap(), ACK | PSH)
        }
        .payload(&long);
        let ack = GUESSED.wrapping_add(1);
        p.transport = Transport::Tcp { flags: ACK | PSH, seq: FIRST, ack, window: 60_000, options: vec![] };
        assert!(d.worker.port_mut().inject(0, &p.frame()));
        if director::SPLIT {
            // It is held until it is decided, and goes on in segments that fit.
            let sent = d.turn();
            assert!(sent.len() == 2 && sent.iter().all(|s| goes_directly(s, 0)), "{sent:?}");
            assert_eq!(sent.iter().flat_map(|s| s.payload.clone()).collect::<Vec<u8>>(), long);
            continue;
        }
        d.worker.poll(d.now);
        let mut sent = vec![];
        d.worker.port_mut().take_sent(|_, b| sent.push((b[23], b[34], b[35])));
        assert_eq!(sent, [(1, 3, 4)], "an ICMP error: fragmentation needed");
        // Whatever comes in its place has been read by nobody yet.
        let sent = request(&mut d, OTHER_REQUEST);
        assert!(sent.iter().all(|s| s.payload.is_empty()), "{forward:?} {sent:?}");
        assert!(sent.iter().any(|s| s.to.to_string() == OTHER && s.flags == SYN), "{sent:?}");
    }
}

#[test]
fn a_stray_syn_does_not_end_a_guess_that_its_client_holds_for_established() {
    for (forward, isn) in WAYS.into_iter().flat_map(|forward| NEXT.map(|isn| (forward, isn))) {
        let mut d = guessing(forward, None);
        handshake(&mut d);
        let r = report(&mut d);
        assert_eq!((r.half_open, r.states[TcpState::Established as usize]), (0, 1));
        let challenge = |d: &mut Director| {
            let sent = d.client(SYN, isn, 0, b"");
            assert_eq!(sent.len(), 1, "{sent:?}");
            assert_eq!((sent[0].to.to_string(), sent[0].flags, sent[0].ack), (CLIENT.into(), ACK, FIRST));
            assert_eq!(sent[0].seq, GUESSED.wrapping_add(1));
        };
        challenge(&mut d);
        let sent = request(&mut d, REQUEST);
        assert!(sent.len() == 1 && goes_directly(&sent[0], 0) && sent[0].payload == REQUEST, "{sent:?}");
        // A client that has forgotten it resets it, and has lost its good name by that: it is answered by the director.
        let mut d = guessing(forward, None);
        handshake(&mut d);
        challenge(&mut d);
        let sent = d.client(RST, FIRST, 0, b"");
        assert!(sent.len() == 1 && goes_directly(&sent[0], 0) && (sent[0].flags, sent[0].seq) == (RST, FIRST));
        let sent = d.client(SYN, isn, 0, b"");
        assert_eq!((sent.len(), sent[0].to.to_string(), sent[0].flags), (1, CLIENT.into(), SYN | ACK));
    }
}

/// A connection of which nothing is asked is as little half open as at layer 4, so it does not give way to a flood.
#[test]
fn an_idle_client_of_a_guess_keeps_its_place() {
    for forward in WAYS {
        let mut d = guessing(forward, None);
        handshake(&mut d);
        for n in 0..20 {
            let sent = d.says(&format!("198.18.0.{}:1000", n + 1), SERVICE, SYN, 1, 0, SYN_OPTIONS, b"");
            assert!(sent.iter().all(|s| !goes_directly(s, 0)), "{sent:?}");
        }
        assert!((0..70).all(|_| d.passes(1000).is_empty()), "nor does it expire as a half-open one");
        let sent = request(&mut d, REQUEST);
        assert!(sent.len() == 1 && goes_directly(&sent[0], 0) && sent[0].payload == REQUEST, "{sent:?}");
    }
}

#[test]
fn a_guessed_server_that_speaks_before_it_is_asked_ends_the_connection() {
    for forward in WAYS {
        let mut d = guessing(forward, None);
        handshake(&mut d);
        assert!(request(&mut d, &REQUEST[..5]).is_empty());
        // The client acknowledges ten bytes that were said meanwhile.
        let ack = GUESSED.wrapping_add(11);
        let sent = d.client(ACK | PSH, FIRST.wrapping_add(5), ack, &REQUEST[5..]);
        assert_eq!(sent.len(), 2, "{sent:?}");
        assert!(goes_directly(&sent[0], 0) && (sent[0].flags, sent[0].seq) == (RST, FIRST), "{sent:?}");
        let told = (sent[1].to.to_string(), sent[1].flags, sent[1].seq, sent[1].ack);
        assert_eq!(told, (CLIENT.into(), RST | ACK, ack, FIRST.wrapping_add(5)));
        let r = report(&mut d);
        assert_eq!((r.flows, r.content.buffered), (0, 0));
        // A number that can't be is none of its.
        let mut d = guessing(forward, None);
        handshake(&mut d);
        assert!(request(&mut d, &REQUEST[..5]).is_empty());
        assert!(d.client(ACK | PSH, FIRST.wrapping_add(5), ack.wrapping_add(1 << 30), &REQUEST[5..]).is_empty());
        assert_eq!(report(&mut d).content.buffered, 5);
    }
}

/// The rules change while a guess is open.
#[test]
fn a_guess_whose_server_does_not_answer_directly_any_more_is_bound_late() {
    for (forward, pieces) in WAYS.into_iter().flat_map(|forward| [1, 2].map(|pieces| (forward, pieces))) {
        let mut d = guessing(forward, None);
        handshake(&mut d);
        let at = if pieces == 2 { 5 } else { 0 };
        if pieces == 2 {
            assert!(request(&mut d, &REQUEST[..at]).is_empty());
        }
        let other = Director::behind(Forward::FullNat, Binding::default(), &[]).snapshot;
        let mut s = Snapshot::clone(&other);
        s.generation += 1;
        d.worker.command(Command::Install(Arc::new(s)), d.now);
        let sent = d.client(ACK | PSH, FIRST.wrapping_add(at as u32), GUESSED.wrapping_add(1), &REQUEST[at..]);
        // Where the tunnel is gone, nobody can be told through it.
        let told: Vec<(u8, u32)> = sent.iter().filter(|s| goes_directly(s, 0)).map(|s| (s.flags, s.seq)).collect();
        assert_eq!(told, if forward == Forward::Dr { vec![(RST, FIRST)] } else { vec![] }, "{forward:?} {sent:?}");
        assert!(sent.iter().all(|s| s.payload.is_empty()), "{sent:?}");
        let syn = sent.iter().find(|s| s.flags == SYN).expect("a server is asked");
        assert_eq!((syn.from.ip().to_string(), syn.seq), ("10.0.0.100".into(), ISN));
    }
}

/// Whatever the number's last bits: nothing else is noted there.
#[test]
fn a_reset_that_was_not_meant_leaves_the_connection_and_the_number_that_it_began_with() {
    for forward in WAYS {
        for isn in ISN..ISN + 4 {
            let mut d = guessing(forward, None);
            let first = isn.wrapping_add(1);
            d.client(SYN, isn, 0, b"");
            d.client(ACK, first, GUESSED.wrapping_add(1), b"");
            assert!(goes_directly(&d.client(ACK | PSH, first, GUESSED.wrapping_add(1), REQUEST)[0], 0));
            let established = |d: &mut Director| report(d).states[TcpState::Established as usize];
            assert_eq!(established(&mut d), 1);
            for _ in 0..2 {
                d.client(RST, 77, 0, b"");
                // A copy of the first SYN, late, is known by that number and goes nowhere.
                let dropped = d.worker.counters().dropped_for(DropReason::OutOfWindow);
                assert!(d.client(SYN, isn, 0, b"").is_empty());
                assert_eq!(d.worker.counters().dropped_for(DropReason::OutOfWindow), dropped + 1);
                assert_eq!(acknowledgements(&mut d, 3), frames_at_layer4(forward, 3));
                assert_eq!((established(&mut d), guesses(&mut d).made), (1, 1), "{isn:x}");
            }
            d.client(RST, 77, 0, b"");
            assert_eq!(established(&mut d), 0);
            assert_eq!(acknowledgements(&mut d, 3), frames_at_layer4(forward, 3));
            assert_eq!(established(&mut d), 1);
        }
    }
}

#[test]
fn the_directors_answer_to_head_has_no_body_where_only_the_beginning_was_read() {
    let action = Action::Reject { status: Some(403) };
    let rule = Rule { name: "no".into(), condition: url("/a"), action };
    let mut d = Director::with(Binding { switching: Switching::Connection, ..Binding::default() }, &[rule]);
    let ack = d.handshake();
    let sent = d.client(ACK | PSH, FIRST, ack, b"HEAD /a HTTP/1.1\r\nHost: www.example.com\r\n\r\n");
    let said: Vec<u8> = sent.iter().flat_map(|s| s.payload.clone()).collect();
    assert!(said.starts_with(b"HTTP/1.1 403") && said.ends_with(b"\r\n\r\n"), "{:?}", String::from_utf8_lossy(&said));
}
