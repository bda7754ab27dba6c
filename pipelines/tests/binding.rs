//! Delayed binding, segment by segment: what the director's own TCP does when the network does not keep order, or says no.

mod director;

use director::{CLIENT, DIRECTOR, Director, ISN, SERVICE, SYN_OPTIONS, Sent, server_asked, url};
use lcs_dataplane::headers::MacAddr;
use lcs_dataplane::headers::build::{Packet, Transport};
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, PSH, RST, SYN, URG};
use lcs_pipelines::content::{Binding, Switching};
use lcs_pipelines::matching::{Action, Expr, Rule};

const REQUEST: &[u8] = b"GET /a/long/enough/path HTTP/1.1\r\nHost: www.example.com\r\n\r\n";

#[test]
fn a_request_that_comes_out_of_order_is_kept_and_told_so() {
    let mut d = Director::new();
    let ack = d.handshake();
    let first = ISN.wrapping_add(1);
    let at = |n: usize| first.wrapping_add(n as u32);
    // Its end first, then a part of the middle: each is told at once what is missing.
    let told = d.client(ACK | PSH, at(40), ack, &REQUEST[40..]);
    assert_eq!((told.len(), told[0].ack, told[0].to), (1, first, CLIENT.parse().unwrap()));
    let block = |from: usize, to: usize| [at(from).to_be_bytes(), at(to).to_be_bytes()].concat();
    assert_eq!(told[0].options, [&[1, 1, 5, 10][..], &block(40, REQUEST.len())].concat());
    let told = d.client(ACK | PSH, at(10), ack, &REQUEST[10..20]);
    assert_eq!(told[0].options, [&[1, 1, 5, 18][..], &block(10, 20), &block(40, REQUEST.len())].concat());
    // What is missing, a byte too much on either side.
    let told = d.client(ACK | PSH, first, ack, &REQUEST[..11]);
    assert_eq!(told.last().map(|t| t.ack), Some(at(20)));
    let sent = d.client(ACK | PSH, at(19), ack, &REQUEST[19..41]);
    let syn = sent.iter().find(|s| s.flags == SYN).expect("the request is whole: a server is asked");
    assert_eq!(syn.seq, ISN);
    let delivered = d.says(&syn.to.to_string(), CLIENT, SYN | ACK, 5000, first, SYN_OPTIONS, b"");
    let data: Vec<u8> = delivered.iter().flat_map(|s| s.payload.clone()).collect();
    assert_eq!(data, REQUEST);
}

/// A segment of the client's: flags, number of the first byte counted from the request's beginning, payload.
type Piece<'p> = (u8, usize, &'p [u8]);

/// Segments of the client's in one burst.
fn burst(d: &mut Director, ack: u32, segments: &[Piece<'_>]) -> Vec<Sent> {
    for &(flags, at, payload) in segments {
        d.puts(CLIENT, SERVICE, flags, ISN.wrapping_add(1 + at as u32), ack, &[], payload);
    }
    d.turn()
}

#[test]
fn what_comes_in_one_burst_with_a_request_counts_as_if_it_came_after() {
    let (whole, first) = (REQUEST.len(), ISN.wrapping_add(1));
    let next = b"GET /next HTTP/1.1\r\n";
    let bursts: [(&[Piece<'_>], usize); 5] = [
        (&[(ACK | PSH, 0, REQUEST)], 0),
        (&[(ACK, 0, &REQUEST[..9]), (ACK | PSH, 9, &REQUEST[9..])], 0),
        (&[(ACK | PSH, 0, REQUEST), (ACK | PSH, 0, REQUEST)], 0),
        (&[(ACK | PSH, 0, REQUEST), (ACK | PSH, 20, b"other bytes"), (ACK, whole, b"")], 0),
        (&[(ACK | PSH, 0, REQUEST), (ACK | PSH, whole, next)], next.len()),
    ];
    for (segments, more) in bursts {
        let mut d = Director::new();
        let ack = d.handshake();
        let sent = burst(&mut d, ack, segments);
        let asked: Vec<_> = sent.iter().filter(|s| s.flags == SYN).collect();
        assert_eq!((asked.len(), asked[0].seq), (1, ISN), "{segments:?}");
        let server = server_asked(&sent);
        // At the latest after what a delayed acknowledgement may take.
        let later = d.passes(60);
        let told = to_client(sent.iter().chain(&later)).into_iter().map(|(_, ack, _)| ack.wrapping_sub(first)).max();
        assert_eq!(told, Some((whole + more) as u32), "{segments:?}");
        let delivered = d.says(&server, CLIENT, SYN | ACK, 5000, first, SYN_OPTIONS, b"");
        let data: Vec<u8> = delivered.iter().flat_map(|s| s.payload.clone()).collect();
        assert_eq!(data, REQUEST, "{segments:?}");
    }
}

/// What of these segments goes to the client: flags, acknowledgement, bytes of payload.
fn to_client<'s>(sent: impl IntoIterator<Item = &'s Sent>) -> Vec<(u8, u32, usize)> {
    sent.into_iter().filter(|s| s.to.to_string() == CLIENT).map(|s| (s.flags, s.ack, s.payload.len())).collect()
}

#[test]
fn a_whole_request_is_acknowledged_by_its_server_or_soon() {
    let (first, end) = (ISN.wrapping_add(1), ISN.wrapping_add(1 + REQUEST.len() as u32));
    // What a content worker decides is acknowledged before it is decided.
    let at_once = vec![(ACK, end, 0); usize::from(director::SPLIT)];
    let mut d = Director::new();
    let ack = d.handshake();
    let sent = d.client(ACK | PSH, first, ack, REQUEST);
    assert_eq!(to_client(&sent), at_once);
    // A server that takes its time: the director does not.
    let soon: Vec<Sent> = (0..3).flat_map(|_| d.passes(20)).collect();
    assert_eq!([at_once.clone(), to_client(&soon)].concat(), [(ACK, end, 0)]);
    assert!((0..10).all(|_| to_client(&d.passes(20)).is_empty()), "once");

    let mut d = Director::new();
    let ack = d.handshake();
    let server = server_asked(&d.client(ACK | PSH, first, ack, REQUEST));
    d.says(&server, CLIENT, SYN | ACK, 5000, first, SYN_OPTIONS, b"");
    let back = d.says(&server, CLIENT, ACK, 5001, end, &[], b"");
    assert_eq!(to_client(&back), [(ACK, end, 0)], "the server's own passes");
    assert!((0..10).all(|_| d.passes(20).is_empty()), "and is enough");

    // While a body is to come, its client may wait for the acknowledgement.
    let mut d = Director::new();
    let ack = d.handshake();
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n";
    let sent = d.client(ACK | PSH, first, ack, head);
    assert_eq!(to_client(&sent), [(ACK, first.wrapping_add(head.len() as u32), 0)]);
    for body in [&b""[..], b"5\r\nhello\r\n", b"5"] {
        let mut d = Director::new();
        let ack = d.handshake();
        let request = [b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", body].concat();
        let sent = d.client(ACK | PSH, first, ack, &request);
        assert_eq!(to_client(&sent), [(ACK, first.wrapping_add(request.len() as u32), 0)], "{body:?}");
    }
}

#[test]
fn an_acknowledgement_is_not_put_off_where_its_client_recovers_from_loss() {
    let (first, end) = (ISN.wrapping_add(1), ISN.wrapping_add(1 + REQUEST.len() as u32));
    // A gap is filled.
    let mut d = Director::new();
    let ack = d.handshake();
    assert_eq!(to_client(&d.client(ACK | PSH, first.wrapping_add(9), ack, &REQUEST[9..])), [(ACK, first, 0)]);
    assert_eq!(to_client(&d.client(ACK, first, ack, &REQUEST[..9])), [(ACK, end, 0)]);
    // Sent again: told then, and not once more.
    let mut d = Director::new();
    let ack = d.handshake();
    d.client(ACK | PSH, first, ack, REQUEST);
    assert_eq!(to_client(&d.client(ACK | PSH, first, ack, REQUEST)), [(ACK, end, 0)]);
    assert!((0..10).all(|_| to_client(&d.passes(20)).is_empty()), "once");
}

#[test]
fn a_client_is_told_that_its_request_is_there_when_what_its_server_said_of_it_is_lost() {
    let (first, end) = (ISN.wrapping_add(1), ISN.wrapping_add(1 + REQUEST.len() as u32));
    let response = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789";
    let mut d = Director::new();
    let ack = d.handshake();
    let asked = d.client(ACK | PSH, first, ack, REQUEST);
    let (server, mut back) = (server_asked(&asked), to_client(&asked));
    d.says(&server, CLIENT, SYN | ACK, 5000, first, SYN_OPTIONS, b"");
    // The response's first segment does not come.
    back.extend(to_client(&d.says(&server, CLIENT, ACK | PSH, 5021, end, &[], &response[20..])));
    back.extend((0..5).flat_map(|_| to_client(&d.passes(20))));
    assert!(back.iter().any(|(_, acknowledged, _)| *acknowledged == end), "{back:?}");
}

#[test]
fn a_client_that_resets_in_one_burst_with_its_request_leaves_nothing() {
    let mut d = Director::new();
    let ack = d.handshake();
    let sent = burst(&mut d, ack, &[(ACK | PSH, 0, REQUEST), (RST, REQUEST.len(), b"")]);
    // If a server was asked, it is told.
    let (syns, resets) = (sent.iter().filter(|s| s.flags == SYN), sent.iter().filter(|s| s.flags & RST != 0));
    assert_eq!(syns.count(), resets.count());
    assert_eq!(d.worker.pipeline().flows(), 0);
}

#[test]
fn a_server_that_can_not_be_reached_is_passed_over_at_once() {
    let mut d = Director::new();
    let ack = d.handshake();
    let sent = d.client(ACK | PSH, ISN.wrapping_add(1), ack, REQUEST);
    let syn = sent.iter().find(|s| s.flags == SYN).unwrap().clone();
    // An error about a number that was never sent is nobody's.
    let mut forged = syn.clone();
    forged.bytes[38] ^= 1;
    assert!(d.icmp(3, 1, 0, &forged).iter().all(|s| s.flags & SYN == 0));
    assert!(d.passes(40).is_empty());
    assert!(d.icmp(3, 1, 0, &syn).is_empty(), "the client is told nothing");
    let next: Vec<Sent> = (0..3).flat_map(|_| d.passes(20)).filter(|s| s.to.to_string() != CLIENT).collect();
    assert_eq!((next.len(), next[0].flags), (1, SYN));
    assert_ne!(next[0].to, syn.to);
}

#[test]
fn what_is_delivered_fits_the_path() {
    let mut d = Director::new();
    let ack = d.handshake();
    let first = ISN.wrapping_add(1);
    let mut request = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
    request.resize(1400, b'x');
    request.extend(b"\r\n\r\n");
    let server = server_asked(&d.client(ACK | PSH, first, ack, &request));
    let delivered = d.says(&server, CLIENT, SYN | ACK, 5000, first, SYN_OPTIONS, b"");
    let whole = delivered.iter().find(|s| !s.payload.is_empty()).unwrap().clone();
    assert_eq!(whole.payload, request);
    assert!(d.icmp(3, 4, 600, &whole).is_empty(), "the client did not send it");
    let mut again = vec![];
    let mut seq = first;
    // Each acknowledgement lets the next piece go.
    for _ in 0..10 {
        for s in d.passes(20) {
            assert!(s.payload.len() <= 560, "an MTU of 600 carries no segment of {}", s.payload.len());
            assert_eq!(s.seq, first.wrapping_add(again.len() as u32));
            seq = s.seq.wrapping_add(s.payload.len() as u32);
            again.extend(s.payload);
        }
        for s in d.says(&server, CLIENT, ACK, 5001, seq, &[], b"") {
            if s.to.to_string() == server && !s.payload.is_empty() {
                assert!(s.payload.len() <= 560);
                seq = s.seq.wrapping_add(s.payload.len() as u32);
                again.extend(s.payload);
            }
        }
    }
    assert_eq!(again, request);
}

/// A server's segment with this window.
fn server_says(d: &mut Director, server: &str, flags: u8, ack: u32, window: u16, payload: &[u8]) -> Vec<Sent> {
    let (from, to) = (server.parse().unwrap(), CLIENT.parse().unwrap());
    let (seq, options) = if flags & SYN != 0 { (5000, SYN_OPTIONS.to_vec()) } else { (5001, vec![]) };
    let mut p = Packet { destination_mac: DIRECTOR, ..Packet::tcp(from, to, flags) }.payload(payload);
    p.transport = Transport::Tcp { flags, seq, ack, window, options };
    d.receives(&p.frame())
}

/// A connection whose server has closed its window after twenty bytes of the request; that server, and the first number of the director's.
fn closed_window() -> (Director, String, u32) {
    let mut d = Director::with(Binding { switching: Switching::Connection, ..Binding::default() }, &[]);
    let ack = d.handshake();
    let first = ISN.wrapping_add(1);
    let server = server_asked(&d.client(ACK | PSH, first, ack, REQUEST));
    let delivered = server_says(&mut d, &server, SYN | ACK, first, 20, b"");
    let bytes: Vec<u8> = delivered.iter().flat_map(|s| s.payload.clone()).collect();
    assert_eq!(bytes, REQUEST[..20]);
    (d, server, ack)
}

#[test]
fn an_acknowledgement_passes_with_a_number_that_a_closed_window_takes() {
    let (mut d, server, ack) = closed_window();
    let (first, end) = (ISN.wrapping_add(1), ISN.wrapping_add(1 + REQUEST.len() as u32));
    let answer = b"HTTP/1.1 200 OK\r\n";
    let back = server_says(&mut d, &server, ACK, first.wrapping_add(20), 0, answer);
    assert_eq!((back.len(), &back[0].payload[..], back[0].ack), (1, &answer[..], end), "the rest is the director's");
    let told = d.client(ACK, end, ack.wrapping_add(answer.len() as u32), b"");
    let told: Vec<_> = told.iter().filter(|s| s.to.to_string() == server).map(|s| (s.seq, s.ack)).collect();
    assert_eq!(told, [(first.wrapping_add(20), 5001 + answer.len() as u32)]);
}

#[test]
fn an_acknowledgement_stays_within_a_closed_window_between_a_probe_and_its_answer() {
    let (mut d, server, ack) = closed_window();
    let first = ISN.wrapping_add(1);
    let (edge, end) = (first.wrapping_add(20), first.wrapping_add(REQUEST.len() as u32));
    let answer = b"HTTP/1.1 200 OK\r\n";
    server_says(&mut d, &server, ACK, edge, 0, answer);
    let probe = (0..1000).flat_map(|_| d.passes(20)).find(|s| s.to.to_string() == server).expect("it is probed");
    assert_eq!((probe.seq, &probe.payload[..]), (edge, &REQUEST[20..]));
    // The client reads on meanwhile: the server, whose window is closed for all that is known, takes no number beyond it
    // (RFC 9293 §3.10.7.4), and this must arrive.
    for n in [5, 10, answer.len() as u32] {
        let told = d.client(ACK, end, ack.wrapping_add(n), b"");
        let told: Vec<_> = told.iter().filter(|s| s.to.to_string() == server).map(|s| (s.seq, s.ack)).collect();
        assert_eq!(told, [(edge, 5001 + n)]);
    }
    // It opened before the probe, and has taken that.
    server_says(&mut d, &server, ACK, end, 60_000, b"");
    let told = d.client(ACK, end, ack.wrapping_add(answer.len() as u32), b"");
    assert_eq!((told.len(), told[0].seq), (1, end));
}

#[test]
fn a_server_may_keep_its_window_closed_as_long_as_it_answers() {
    let (mut d, server, _) = closed_window();
    let first = ISN.wrapping_add(1);
    server_says(&mut d, &server, ACK, first.wrapping_add(20), 0, b"");
    let mut probes = 0;
    for _ in 0..40 {
        for sent in d.passes(17_000) {
            assert_eq!((sent.to.to_string(), sent.flags & RST), (server.clone(), 0), "{sent:?}");
            assert_eq!(sent.seq, first.wrapping_add(20));
            probes += 1;
            server_says(&mut d, &server, ACK, first.wrapping_add(20), 0, b"");
        }
    }
    assert!(probes > 20, "{probes}");
    let rest = server_says(&mut d, &server, ACK, first.wrapping_add(20), 60_000, b"");
    let bytes: Vec<u8> = rest.iter().filter(|s| s.to.to_string() == server).flat_map(|s| s.payload.clone()).collect();
    assert_eq!(bytes, REQUEST[20..]);
    // Who does not answer is given up.
    let (mut d, server, _) = closed_window();
    let sent: Vec<Sent> = (0..20).flat_map(|_| d.passes(17_000)).collect();
    let resets: Vec<_> = sent.iter().filter(|s| s.flags & RST != 0).map(|s| s.to.to_string()).collect();
    assert!(resets.contains(&server) && resets.contains(&CLIENT.to_owned()), "{resets:?}");
}

/// A segment that passes a bound connection loses a hop like any other, and goes nowhere with its last one.
#[test]
fn a_bound_connection_is_no_way_round_the_hop_limit() {
    for ttl in [0, 1, 2] {
        let mut d = Director::new();
        let ack = d.handshake();
        let first = ISN.wrapping_add(1);
        let server = server_asked(&d.client(ACK | PSH, first, ack, REQUEST));
        d.says(&server, CLIENT, SYN | ACK, 5000, first, SYN_OPTIONS, b"");
        let end = first.wrapping_add(REQUEST.len() as u32);
        assert!(!d.says(&server, CLIENT, ACK, 5001, end, &[], b"").iter().any(|s| s.flags & RST != 0));
        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun";
        let sent = d.says(&server, CLIENT, ACK | PSH, 5001, end, &[], response);
        let told = sent.first().expect("the response goes on");
        let acked = told.seq.wrapping_add(response.len() as u32);
        let mut p = Packet {
            destination_mac: DIRECTOR,
            ttl,
            ..Packet::tcp(CLIENT.parse().unwrap(), SERVICE.parse().unwrap(), ACK)
        };
        p.transport = Transport::Tcp { flags: ACK, seq: end, ack: acked, window: 500, options: vec![] };
        let frames = d.receives_whole(&p.frame());
        match ttl {
            2 => assert_eq!(frames.iter().map(|b| (b[23], b[22])).collect::<Vec<_>>(), [(6, 1)]),
            // ICMP, to the client: time exceeded (RFC 792).
            _ => assert!(frames.iter().all(|b| b[23] == 1 && b[34] == 11), "{frames:?}"),
        }
    }
}

#[test]
fn a_damaged_reset_ends_nothing() {
    let mut d = Director::new();
    let ack = d.handshake();
    let first = ISN.wrapping_add(1);
    let server = server_asked(&d.client(ACK | PSH, first, ack, REQUEST));
    d.says(&server, CLIENT, SYN | ACK, 5000, first, SYN_OPTIONS, b"");
    let end = first.wrapping_add(REQUEST.len() as u32);
    let response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    assert_eq!(d.says(&server, CLIENT, ACK | PSH, 5001, end, &[], response).len(), 1);
    let mut p =
        Packet { destination_mac: DIRECTOR, ..Packet::tcp(CLIENT.parse().unwrap(), SERVICE.parse().unwrap(), RST) };
    p.transport = Transport::Tcp { flags: RST, seq: end, ack: 0, window: 0, options: vec![] };
    let mut frame = p.frame();
    frame[50] ^= 0x10;
    assert!(d.receives(&frame).is_empty());
    let fin = d.says(&server, CLIENT, FIN | ACK, 5001 + response.len() as u32, end, &[], b"");
    assert_eq!(fin.len(), 1, "the connection is still there");
}

/// A connection whose first request is answered; the server, and the numbers after request and response.
fn answered(d: &mut Director) -> (String, u32, u32, u32) {
    let ack = d.handshake();
    let first = ISN.wrapping_add(1);
    let server = server_asked(&d.client(ACK | PSH, first, ack, REQUEST));
    d.says(&server, CLIENT, SYN | ACK, 5000, first, SYN_OPTIONS, b"");
    (server, first.wrapping_add(REQUEST.len() as u32), ack, 5001)
}

const FIRST: u32 = ISN.wrapping_add(1);
const OTHER: &str = "10.0.0.2:8080";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn a_held_request_goes_on_when_its_repetition_says_that_the_response_before_has_come() {
    let to = |server| Action::Forward { server, queue: None };
    let rule = |prefix: &str, server| Rule { name: prefix.into(), condition: url(prefix), action: to(server) };
    let mut d = Director::with(Binding::default(), &[rule("/a", 0), rule("/b", 1)]);
    let (server, next, ack, from_server) = answered(&mut d);
    let request = b"GET /b HTTP/1.1\r\nHost: www.example.com\r\n\r\n";
    // Asked before the answer has come: it waits.
    assert!(d.client(ACK | PSH, next, ack, request).iter().all(|s| s.payload.is_empty()));
    let passed = d.says(&server, CLIENT, ACK | PSH, from_server, next, &[], RESPONSE);
    assert_eq!(passed.iter().filter(|s| s.payload == RESPONSE).count(), 1);
    // Nothing in this segment is new but that the response has come.
    let sent = d.client(ACK | PSH, next, ack.wrapping_add(RESPONSE.len() as u32), request);
    assert_eq!(server_asked(&sent), OTHER);
}

#[test]
fn a_damaged_frame_does_not_turn_the_answers_of_a_client_aside() {
    let mut d = Director::new();
    let (server, next, ack, from_server) = answered(&mut d);
    let mut p =
        Packet { destination_mac: DIRECTOR, ..Packet::tcp(CLIENT.parse().unwrap(), SERVICE.parse().unwrap(), ACK) };
    p.transport = Transport::Tcp { flags: ACK, seq: next, ack, window: 60_000, options: vec![] };
    let own = p.source_mac;
    p.source_mac = MacAddr([2, 0, 0, 7, 7, 7]);
    let mut frame = p.frame();
    // Another client's address has become this one's, and the checksum says so.
    frame[50] ^= 1;
    d.receives(&frame);
    let answer = |d: &mut Director, at: usize| {
        let seq = from_server + at as u32;
        let passed = d.says(&server, CLIENT, ACK | PSH, seq, next, &[], &RESPONSE[at..at + 10]);
        passed[0].bytes[..6].to_vec()
    };
    assert_eq!(answer(&mut d, 0), own.0);
    frame[50] ^= 1;
    d.receives(&frame);
    assert_eq!(answer(&mut d, 10), p.source_mac.0, "a client that has moved is followed");
}

#[test]
fn urgent_bytes_of_a_body_do_not_pass() {
    let mut d = Director::new();
    let ack = d.handshake();
    let head = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n";
    let first = ISN.wrapping_add(1);
    let sent = d.client(ACK | PSH, first, ack, head);
    let server = server_asked(&sent);
    d.says(&server, CLIENT, SYN | ACK, 5000, first, SYN_OPTIONS, b"");
    let body = first.wrapping_add(head.len() as u32);
    d.says(&server, CLIENT, ACK, 5001, body, &[], b"");
    // A server that keeps urgent bytes aside would take the first of the next request for the last of this body.
    assert!(d.client(ACK | PSH | URG, body, ack, b"01").is_empty());
    assert!(d.client(ACK | URG, body, ack, b"").is_empty(), "nor does word of urgent bytes that are still to come");
    assert_eq!(d.client(ACK | PSH, body, ack, b"0123")[0].payload, b"0123");
}

#[test]
fn over_ipv6_every_segment_is_whole_too() {
    const FROM: &str = "[2001:db8::1]:1000";
    const AT: &str = "[2001:db8::100]:80";
    let to = |server: u16| Action::Forward { server, queue: None };
    let rule = |name: &str, condition, server| Rule { name: name.into(), condition, action: to(server) };
    let rules = [rule("b", url("/b"), 1), rule("a", Expr::always(), 0)];
    let mut d = Director::with(Binding::default(), &rules);
    let at: std::net::SocketAddr = AT.parse().unwrap();
    d.publish(
        |s| {
            s.by_endpoint.insert((at.ip(), at.port(), 6), 0);
            s.own.insert(at.ip());
            s.services[0].as_mut().unwrap().address = at.ip();
            for (n, server) in s.servers.iter_mut().flatten().enumerate() {
                server.address = format!("fd00::{}", n + 1).parse().unwrap();
            }
        },
        true,
    );
    // Every segment that is sent is looked at where it is taken apart: what is counted here is that all kinds are there.
    let answer = d.says(FROM, AT, SYN, ISN, 0, SYN_OPTIONS, b"").remove(0);
    let mut heard = answer.seq.wrapping_add(1);
    assert_eq!((answer.from, answer.to.to_string(), answer.ack), (at, FROM.into(), FIRST));
    d.says(FROM, AT, ACK, FIRST, heard, &[], b"");
    let mut seq = FIRST;
    let mut first_numbers = vec![];
    // To the one, to the other, and back over the connection that was kept: then both directions carry an offset.
    for (n, (path, server)) in [("/a", 1), ("/b", 2), ("/a", 1)].into_iter().enumerate() {
        let server = format!("[fd00::{server}]:8080");
        let request = format!("GET {path} HTTP/1.1\r\nHost: www.example.com\r\n\r\n").into_bytes();
        let end = seq.wrapping_add(request.len() as u32);
        // Its end first: a SACK block.
        let mut sent = d.says(FROM, AT, ACK | PSH, seq.wrapping_add(20), heard, &[], &request[20..]);
        sent.extend(d.says(FROM, AT, ACK | PSH, seq, heard, &[], &request[..20]));
        assert!(n > 0 || sent.iter().any(|s| s.to.to_string() == FROM && s.options.starts_with(&[1, 1, 5, 10])));
        if let Some(syn) = sent.iter().find(|s| s.flags == SYN).cloned() {
            assert_eq!((syn.to.to_string(), syn.seq), (server.clone(), seq.wrapping_sub(1)));
            first_numbers.push(5000 + 1000 * n as u32 + 1);
            sent = d.says(&server, FROM, SYN | ACK, first_numbers[n] - 1, seq, SYN_OPTIONS, b"");
        }
        let data: Vec<&Sent> = sent.iter().filter(|s| s.to.to_string() == server && !s.payload.is_empty()).collect();
        assert_eq!(data.iter().flat_map(|s| s.payload.clone()).collect::<Vec<u8>>(), request, "{path}: {sent:?}");
        let taken = data[0].seq.wrapping_add(request.len() as u32);
        let from = first_numbers[n % 2] + if n == 2 { RESPONSE.len() as u32 } else { 0 };
        let back = d.says(&server, FROM, ACK | PSH, from, taken, &[], RESPONSE);
        assert_eq!((back.len(), back[0].seq, back[0].ack, &back[0].payload[..]), (1, heard, end, RESPONSE), "{path}");
        heard = heard.wrapping_add(RESPONSE.len() as u32);
        seq = end;
        let told = d.says(FROM, AT, ACK, seq, heard, &[1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 9], b"");
        assert_eq!((told.len(), told[0].seq, told[0].ack), (1, taken, from + RESPONSE.len() as u32));
    }
    let sent = d.says(FROM, AT, RST, seq, 0, &[], b"");
    assert_eq!(sent.iter().filter(|s| s.flags & RST != 0).count(), 2, "both servers hear of the end");
}
