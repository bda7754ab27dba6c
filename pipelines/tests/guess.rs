//! Preallocation, segment by segment: a server is guessed before the request is there, and may be the wrong one.

mod director;

use director::{CLIENT, DIRECTOR, Director, ISN, SERVICE, SYN_OPTIONS, Sent, server_asked, url};
use lcs_dataplane::headers::build::{Packet, Transport};
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use lcs_pipelines::content::{Binding, Guess, Scheme, Switching};
use lcs_pipelines::matching::{Action, Expr, Rule};

const REQUEST: &[u8] = b"GET /a/long/enough/path HTTP/1.1\r\nHost: www.example.com\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Its server is guessed: always `s0`. A request for `/b` is for `s1`.
fn guessing(switching: Switching) -> Director {
    let scheme = Scheme::Preallocate(Guess::Server("s0".into()));
    let to = Action::Forward { server: 1, queue: None };
    let b = Rule { name: "b".into(), condition: url("/b"), action: to };
    Director::with(Binding { scheme, switching, ..Binding::default() }, &[b])
}

/// The same, and all other requests are for `s0`.
fn guessing_for_one() -> Director {
    let forward = |name: &str, condition, server| {
        let action = Action::Forward { server, queue: None };
        Rule { name: name.into(), condition, action }
    };
    let binding = Binding { scheme: Scheme::Preallocate(Guess::Server("s0".into())), ..Binding::default() };
    Director::with(binding, &[forward("b", url("/b"), 1), forward("a", Expr::always(), 0)])
}

const GUESSED: &str = "10.0.0.1:8080";
const OTHER: &str = "10.0.0.2:8080";
const SERVER_OPTIONS: &[u8] = &[2, 4, 5, 0xb4, 1, 3, 3, 6, 1, 1, 4, 2];
const OTHER_OPTIONS: &[u8] = &[2, 4, 5, 0xb4, 1, 3, 3, 4, 1, 1, 4, 2];
const FIRST: u32 = ISN.wrapping_add(1);

/// The handshake with the guessed server, whose first number is 7000.
fn shaken(d: &mut Director) {
    let syn = d.client(SYN, ISN, 0, b"");
    assert_eq!((syn.len(), syn[0].to.to_string(), syn[0].flags, syn[0].seq), (1, GUESSED.into(), SYN, ISN));
    let answer = d.says(GUESSED, CLIENT, SYN | ACK, 7000, FIRST, SERVER_OPTIONS, b"");
    assert_eq!((answer.len(), answer[0].to.to_string()), (1, CLIENT.into()));
    assert_eq!((answer[0].flags, answer[0].seq, answer[0].ack), (SYN | ACK, 7000, FIRST));
    let shaken = d.client(ACK, FIRST, 7001, b"");
    assert_eq!((shaken.len(), shaken[0].to.to_string(), shaken[0].ack), (1, GUESSED.into(), 7001));
}

#[test]
fn a_right_guess_leaves_nothing_to_rewrite() {
    for switching in [Switching::Request, Switching::Connection] {
        let mut d = guessing(switching);
        shaken(&mut d);
        let sent = d.client(ACK | PSH, FIRST, 7001, REQUEST);
        // One that a content worker decides is acknowledged meanwhile.
        assert!(sent.len() == 1 || d.content.is_some(), "the request and nothing else: {sent:?}");
        let data: Vec<&Sent> = sent.iter().filter(|s| !s.payload.is_empty()).collect();
        assert_eq!(data.len(), 1);
        assert_eq!((data[0].to.to_string(), data[0].seq, data[0].ack), (GUESSED.into(), FIRST, 7001));
        assert_eq!(data[0].payload, REQUEST);
        let end = FIRST.wrapping_add(REQUEST.len() as u32);
        let back = d.says(GUESSED, CLIENT, ACK | PSH, 7001, end, &[], RESPONSE);
        assert_eq!((back.len(), back[0].seq, back[0].ack, &back[0].payload[..]), (1, 7001, end, RESPONSE));
        // A request that comes in pieces, in disorder, is held until it can be decided.
        let mut d = guessing(switching);
        shaken(&mut d);
        let ahead = d.client(ACK | PSH, FIRST.wrapping_add(30), 7001, &REQUEST[30..]);
        let told = ahead.iter().find(|s| s.to.to_string() == CLIENT).expect("the client is told what is missing");
        assert!(told.ack == FIRST && ahead.iter().all(|s| s.payload.is_empty()), "{ahead:?}");
        let sent = d.client(ACK | PSH, FIRST, 7001, &REQUEST[..30]);
        let delivered: Vec<u8> =
            sent.iter().filter(|s| s.to.to_string() == GUESSED).flat_map(|s| s.payload.clone()).collect();
        assert_eq!(delivered, REQUEST);
    }
}

#[test]
fn not_a_byte_goes_to_a_wrongly_guessed_server() {
    let request = b"GET /b/c HTTP/1.1\r\nHost: www.example.com\r\n\r\n";
    let mut d = guessing(Switching::Request);
    shaken(&mut d);
    let sent = d.client(ACK | PSH, FIRST, 7001, request);
    assert!(sent.iter().all(|s| s.payload.is_empty()), "{sent:?}");
    let reset = sent.iter().rfind(|s| s.to.to_string() == GUESSED).expect("the guessed server is let go");
    assert_eq!((reset.flags & RST, reset.seq), (RST, FIRST));
    let syn = sent.iter().find(|s| s.to.to_string() == OTHER).expect("the right one is asked");
    assert_eq!((syn.flags, syn.seq), (SYN, ISN));
    let delivered = d.says(OTHER, CLIENT, SYN | ACK, 90_000, FIRST, OTHER_OPTIONS, b"");
    let data: Vec<u8> = delivered.iter().flat_map(|s| s.payload.clone()).collect();
    assert_eq!(data, request);
    assert!(delivered.iter().all(|s| s.ack == 90_001), "in the right server's numbers");
    // The client goes on where the guessed server's numbers were; windows in the scale that it was told (6, here 4).
    let end = FIRST.wrapping_add(request.len() as u32);
    let back = d.says(OTHER, CLIENT, ACK | PSH, 90_001, end, &[], RESPONSE);
    assert_eq!((back[0].seq, back[0].ack, &back[0].payload[..]), (7001, end, RESPONSE));
    let b = &back[0].bytes;
    assert_eq!(u16::from_be_bytes([b[48], b[49]]), 60_000 >> 2);
}

#[test]
fn a_guessed_server_that_does_not_answer_is_done_without() {
    let mut d = guessing(Switching::Request);
    d.client(SYN, ISN, 0, b"");
    assert!(d.passes(1000).is_empty(), "the client sends its SYN again, not the director");
    let sent = d.client(SYN, ISN, 0, b"");
    let to = |sent: &[Sent], to: &str| sent.iter().find(|s| s.to.to_string() == to).cloned();
    assert_eq!(to(&sent, GUESSED).map(|s| s.flags), Some(RST));
    let answer = to(&sent, CLIENT).expect("the director answers");
    assert_eq!((answer.flags, answer.ack), (SYN | ACK, FIRST));
    let sent = d.client(ACK | PSH, FIRST, answer.seq.wrapping_add(1), REQUEST);
    assert!(sent.iter().any(|s| s.flags == SYN && s.to.port() == 8080));
    // One that refuses: at once.
    let mut d = guessing(Switching::Request);
    d.client(SYN, ISN, 0, b"");
    let sent = d.says(GUESSED, CLIENT, RST | ACK, 0, FIRST, &[], b"");
    assert_eq!((sent.len(), sent[0].to.to_string(), sent[0].flags), (1, CLIENT.into(), SYN | ACK));
    let sent = d.client(ACK | PSH, FIRST, sent[0].seq.wrapping_add(1), REQUEST);
    assert!(sent.iter().any(|s| s.flags == SYN && s.to.port() == 8080));
}

#[test]
fn a_guessed_server_that_goes_away_takes_no_client_with_it() {
    for (flags, seq) in [(FIN | ACK, 7001), (RST, 7001)] {
        // Before the request, and while it is collected.
        for early in [0, 30] {
            let mut d = guessing(Switching::Request);
            shaken(&mut d);
            d.client(ACK | PSH, FIRST, 7001, &REQUEST[..early]);
            let sent = d.says(GUESSED, CLIENT, flags, seq, FIRST, &[], b"");
            assert!(sent.iter().all(|s| s.to.to_string() != CLIENT), "{sent:?}");
            let sent = d.client(ACK | PSH, FIRST.wrapping_add(early as u32), 7001, &REQUEST[early..]);
            let syn = sent.iter().find(|s| s.flags == SYN).unwrap_or_else(|| panic!("{flags} {early}: {sent:?}"));
            let server = syn.to.to_string();
            let delivered = d.says(&server, CLIENT, SYN | ACK, 400, syn.seq.wrapping_add(1), SYN_OPTIONS, b"");
            let data: Vec<u8> = delivered.iter().flat_map(|s| s.payload.clone()).collect();
            assert_eq!(data, REQUEST);
        }
    }
    // It cannot be reached at all: the client hears nothing of that, and the director answers its next SYN.
    let mut d = guessing(Switching::Request);
    let syn = d.client(SYN, ISN, 0, b"").remove(0);
    assert!(d.icmp(3, 3, 0, &syn).is_empty());
    let sent = d.client(SYN, ISN, 0, b"");
    assert!(sent.iter().any(|s| s.to.to_string() == CLIENT && s.flags == SYN | ACK), "{sent:?}");
}

/// Ends the guessed server's connection before the request. Whether it had answered.
fn let_go(d: &mut Director, how: &str) -> bool {
    let sent = match how {
        "closes" => {
            shaken(d);
            d.says(GUESSED, CLIENT, FIN | ACK, 7001, FIRST, &[], b"")
        }
        "resets" => {
            shaken(d);
            d.says(GUESSED, CLIENT, RST, 7001, 0, &[], b"")
        }
        "refuses" => {
            d.client(SYN, ISN, 0, b"");
            d.says(GUESSED, CLIENT, RST | ACK, 0, FIRST, &[], b"")
        }
        _ => {
            d.client(SYN, ISN, 0, b"");
            d.passes(1000);
            d.client(SYN, ISN, 0, b"")
        }
    };
    assert!(sent.iter().all(|s| s.to.to_string() != GUESSED || s.flags & RST != 0), "{how}: {sent:?}");
    matches!(how, "closes" | "resets")
}

#[test]
fn a_server_that_is_asked_again_is_asked_beyond_what_it_has_seen() {
    for how in ["closes", "resets", "refuses", "is silent"] {
        let mut d = guessing_for_one();
        let mut sent = vec![];
        let answered = let_go(&mut d, how);
        let ack = if answered {
            7001
        } else {
            // The director has answered, or does now.
            d.passes(1000);
            sent.extend(d.client(SYN, ISN, 0, b""));
            sent.iter().rfind(|s: &&Sent| s.to.to_string() == CLIENT).unwrap().seq.wrapping_add(1)
        };
        let sent = d.client(ACK | PSH, FIRST, ack, REQUEST);
        let syn = sent.iter().find(|s| s.flags == SYN).unwrap_or_else(|| panic!("{how}: {sent:?}"));
        // RFC 1122 §4.2.2.13, and Linux's stricter way of it: what was seen ends at FIRST.
        assert_eq!((syn.to.to_string(), syn.seq), (GUESSED.into(), FIRST.wrapping_add(1)), "{how}");
        // What its old connection has sent, late, is none of the new one's.
        let first = syn.seq.wrapping_add(1);
        for flags in [SYN | ACK, ACK, FIN | ACK] {
            let told = d.says(GUESSED, CLIENT, flags, 7000, FIRST, &[], b"");
            let told: Vec<_> = told.iter().map(|s| (s.to.to_string(), s.flags, s.seq)).collect();
            assert_eq!(told, [(GUESSED.into(), RST, FIRST), (GUESSED.into(), SYN, syn.seq)], "{how} {flags}");
        }
        assert!(d.says(GUESSED, CLIENT, RST | ACK, 0, FIRST, &[], b"").is_empty(), "an old refusal is none");
        // As Linux says it where its old connection is half open still (or in FIN-WAIT-2): that is over then, and nothing refused.
        let told = d.says(GUESSED, CLIENT, RST | ACK, 0, first, &[], b"");
        let told: Vec<_> = told.iter().map(|s| (s.to.to_string(), s.flags, s.seq)).collect();
        assert_eq!(told, [(GUESSED.into(), SYN, syn.seq)], "{how}");
        // From here on both directions carry an offset.
        let delivered = d.says(GUESSED, CLIENT, SYN | ACK, 90_000, first, SERVER_OPTIONS, b"");
        assert!(delivered.iter().all(|s| s.to.to_string() == GUESSED), "{how}: {delivered:?}");
        let data: Vec<u8> = delivered.iter().flat_map(|s| s.payload.clone()).collect();
        assert_eq!((data, delivered[0].seq, delivered[0].ack), (REQUEST.to_vec(), first, 90_001));
        let n = REQUEST.len() as u32;
        let back = d.says(GUESSED, CLIENT, ACK | PSH, 90_001, first.wrapping_add(n), &[], RESPONSE);
        let end = FIRST.wrapping_add(n);
        assert_eq!((back.len(), back[0].seq, back[0].ack, &back[0].payload[..]), (1, ack, end, RESPONSE), "{how}");
        let heard = ack.wrapping_add(RESPONSE.len() as u32);
        let told = d.client(ACK, end, heard, b"");
        let heard = 90_001 + RESPONSE.len() as u32;
        assert_eq!((told.len(), told[0].seq, told[0].ack), (1, first.wrapping_add(n), heard), "{how}");
    }
}

#[test]
fn a_server_that_remembers_the_connection_at_the_very_number_of_the_syn_is_reset() {
    let mut d = Director::new();
    let ack = d.handshake();
    let sent = d.client(ACK | PSH, FIRST, ack, REQUEST);
    let syn = sent.iter().find(|s| s.flags == SYN).unwrap().clone();
    let server = syn.to.to_string();
    // Its old connection expects the number after the SYN's, so that its challenge (RFC 5961 §4.2) seems to acknowledge that.
    for flags in [ACK, FIN | ACK] {
        let told = d.says(&server, CLIENT, flags, 700, FIRST, &[], b"");
        let told: Vec<_> = told.iter().map(|s| (s.to.to_string(), s.flags, s.seq)).collect();
        assert_eq!(told, [(server.clone(), RST, FIRST), (server.clone(), SYN, ISN)]);
    }
    let delivered = d.says(&server, CLIENT, SYN | ACK, 5000, FIRST, SYN_OPTIONS, b"");
    let data: Vec<u8> = delivered.iter().flat_map(|s| s.payload.clone()).collect();
    assert_eq!(data, REQUEST);
}

#[test]
fn old_segments_of_a_server_in_one_burst_are_answered_with_one_reset() {
    let told = |d: &mut Director, acks: &[u32]| -> Vec<_> {
        acks.iter().for_each(|ack| d.puts(GUESSED, CLIENT, ACK, 700, *ack, &[], b"old"));
        d.turn().iter().map(|s| (s.to.to_string(), s.flags, s.seq)).collect()
    };
    let (reset, syn) = (|ack| (GUESSED.to_owned(), RST, ack), (GUESSED.to_owned(), SYN, ISN));
    let one =
        Rule { name: "one".into(), condition: Expr::always(), action: Action::Forward { server: 0, queue: None } };
    let mut d = Director::with(Binding::default(), &[one]);
    let ack = d.handshake();
    assert_eq!(server_asked(&d.client(ACK | PSH, FIRST, ack, REQUEST)), GUESSED);
    assert_eq!(told(&mut d, &[900, 900, 900]), [reset(900), syn.clone()]);
    assert_eq!(told(&mut d, &[900]), [reset(900), syn.clone()], "the reset was lost");
    assert_eq!(
        told(&mut d, &[900, 910]),
        [reset(900), syn.clone(), reset(910), syn],
        "what it expects now, it knows best"
    );
    // The same while a guessed server is asked.
    let mut d = guessing(Switching::default());
    assert_eq!(server_asked(&d.client(SYN, ISN, 0, b"")), GUESSED);
    assert_eq!(told(&mut d, &[900, 900]), [reset(900)]);
    assert_eq!(told(&mut d, &[900]), [reset(900)]);
}

#[test]
fn a_server_left_and_asked_again_gets_higher_numbers() {
    let mut d = guessing_for_one();
    shaken(&mut d);
    let other = b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n";
    // Guessed wrong: reset.
    d.client(ACK | PSH, FIRST, 7001, other);
    let next = FIRST.wrapping_add(other.len() as u32);
    d.says(OTHER, CLIENT, SYN | ACK, 90_000, FIRST, OTHER_OPTIONS, b"");
    d.says(OTHER, CLIENT, ACK | PSH, 90_001, next, &[], RESPONSE);
    let heard = 7001 + RESPONSE.len() as u32;
    let sent = d.client(ACK | PSH, next, heard, REQUEST);
    let syn = sent.iter().find(|s| s.flags == SYN).expect("the first one is asked for this");
    assert_eq!((syn.to.to_string(), syn.seq), (GUESSED.into(), next.wrapping_sub(1)));
    assert!(syn.seq.wrapping_sub(FIRST) as i32 > 0, "it has seen FIRST - 1, and expects FIRST");
    // The other one, idle, closes, is reset, and asked again for what comes then.
    d.says(GUESSED, CLIENT, SYN | ACK, 40_000, next, SERVER_OPTIONS, b"");
    let end = next.wrapping_add(REQUEST.len() as u32);
    d.says(GUESSED, CLIENT, ACK | PSH, 40_001, end, &[], RESPONSE);
    let from_other = 90_001 + RESPONSE.len() as u32;
    let reset = d.says(OTHER, CLIENT, FIN | ACK, from_other, next, &[], b"");
    assert_eq!((reset.len(), reset[0].to.to_string(), reset[0].flags & RST), (1, OTHER.into(), RST));
    let sent = d.client(ACK | PSH, end, heard + RESPONSE.len() as u32, other);
    let syn = sent.iter().find(|s| s.flags == SYN).expect("a new connection to the other one");
    assert_eq!((syn.to.to_string(), syn.seq), (OTHER.into(), end.wrapping_sub(1)));
    assert!(syn.seq.wrapping_sub(next) as i32 > 0, "it expects `next`");
}

#[test]
fn what_a_server_may_ignore_does_not_open_the_way_for_other_bytes() {
    let other = b"GET /b/long/enough/path HTTP/1.1\r\nHost: www.example.com\r\n\r\n";
    assert_eq!(other.len(), REQUEST.len());
    // No ACK bit; an acknowledgement of what was never sent; an option that makes servers drop it; too few hops to go.
    type Change = fn(&mut Packet);
    let changes: [Change; 4] = [
        |p| {
            if let Transport::Tcp { flags, .. } = &mut p.transport {
                *flags = PSH;
            }
        },
        |p| {
            if let Transport::Tcp { ack, .. } = &mut p.transport {
                *ack += 5000;
            }
        },
        |p| {
            if let Transport::Tcp { options, .. } = &mut p.transport {
                options.extend([19, 18]);
                options.extend([7; 16]);
                options.extend([1, 1]);
            }
        },
        |p| p.ttl = 3,
    ];
    for switching in [Switching::Request, Switching::Connection] {
        for change in changes {
            let mut d = guessing(switching);
            shaken(&mut d);
            let mut p = Packet {
                destination_mac: DIRECTOR,
                ..Packet::tcp(CLIENT.parse().unwrap(), SERVICE.parse().unwrap(), ACK)
            }
            .payload(REQUEST);
            p.transport = Transport::Tcp { flags: ACK | PSH, seq: FIRST, ack: 7001, window: 60_000, options: vec![] };
            change(&mut p);
            let mut sent = d.receives(&p.frame());
            sent.extend(d.client(ACK | PSH, FIRST, 7001, other));
            // Whatever reaches the guessed server is the request that was read for it.
            for s in sent.iter().filter(|s| s.to.to_string() == GUESSED && !s.payload.is_empty()) {
                assert_eq!(s.payload, REQUEST, "{s:?}");
                assert!(s.flags & ACK != 0 && s.ack == 7001 && s.options.is_empty(), "{s:?}");
            }
        }
    }
}
