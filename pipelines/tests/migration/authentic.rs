//! Messages and segments that are repeated, forged or out of place.

use super::site::*;
use lcs_dataplane::DropReason;
use lcs_dataplane::headers::build::Packet;
use lcs_dataplane::headers::tcp::flags::{ACK, PSH, RST, SYN};
use lcs_pipelines::migration::message::{Body, ChannelKey, Header};
use lcs_pipelines::snapshot::*;
use std::net::SocketAddr;

#[test]
fn a_repeated_or_forged_message_opens_nothing_and_disturbs_nothing() {
    let mut w = World::new();
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let n = w.asked().unwrap();
    serve(&mut w, n, ack);
    let migrate = w.messages.iter().find(|m| kind(m) == Some(3)).unwrap().clone();
    let repeat = |w: &mut World| {
        w.pump(vec![(0, migrate.clone())]);
        assert!(w.stacks[n].is_empty(), "{:?}", w.stacks[n]);
    };
    repeat(&mut w);
    // Still the first connection's numbers.
    let end = FIRST.wrapping_add(REQUEST.len() as u32);
    let heard = w.stack_says(n, ACK, SSEQ.wrapping_add(25), end, b"more");
    assert_eq!(heard[0].seq, ack.wrapping_add(24));
    // After the end, too.
    w.stack_says(n, RST | ACK, SSEQ.wrapping_add(29), end, b"");
    w.passes(12_000);
    assert_eq!(w.filters[n].report(w.now).flows, 0);
    repeat(&mut w);
    assert_eq!(w.dropped(n, DropReason::StaleMigration), 2);
    // Another byte, another key, another session: nobody's.
    let mut forged = migrate.clone();
    forged[60] ^= 1;
    w.pump(vec![(0, forged)]);
    let mut out = vec![];
    let datagram = &migrate[42..];
    let (header, body) = Body::read(datagram, &key()).unwrap();
    for (header, key) in [
        (header, ChannelKey::from_secret(b"another")),
        (Header { session: header.session ^ 1, ..header }, key()),
        (Header { token: header.token ^ 1, number: 99, ..header }, key()),
    ] {
        body.write(&header, &key, &mut out);
        let frame = [&migrate[..42], &out].concat();
        w.pump(vec![(0, frame)]);
    }
    assert!(w.stacks[n].is_empty());
    assert_eq!(w.dropped(n, DropReason::BadMigration), 4);
}

#[test]
fn a_filter_takes_later_requests_from_its_director_only() {
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    w.take_stack(0);
    // Past the director.
    w.pump(vec![(0, World::frame(wire(0), CLIENT, SERVICE, ACK | PSH, (end, next), B))]);
    assert!(payloads(&w.take_stack(0)).is_empty());
}

#[test]
fn a_message_that_comes_back_to_its_sender_means_nothing() {
    let mut w = World::new();
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let n = w.asked().unwrap();
    serve(&mut w, n, ack);
    let (mut at_director, mut at_filters) = (0, 0);
    for message in w.messages.clone() {
        let back = reflected(&message);
        at_director += u64::from(back[..6] == DIRECTOR.0);
        at_filters += u64::from(back[..6] != DIRECTOR.0);
        w.pump(vec![(0, back)]);
    }
    assert!(w.client.is_empty() && w.stacks.iter().all(Vec::is_empty));
    assert!(at_director > 2 && at_filters > 2);
    let now = w.now;
    assert_eq!(w.director.dropped(DropReason::BadMigration, now), at_director);
    let dropped: u64 = (0..2).map(|n| w.dropped(n, DropReason::BadMigration)).sum();
    assert_eq!(dropped, at_filters);
}

#[test]
fn an_answer_counts_from_the_filter_that_was_asked_and_with_the_ticket_that_was_sent() {
    let mut w = World::new();
    let ack = w.handshake();
    w.lose = Box::new(|frame| kind(frame) == Some(4));
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let n = w.asked().unwrap();
    w.take_stack(n);
    w.stack_says(n, SYN | ACK, SSEQ, FIRST, b"");
    let accepted = w.messages.iter().find(|m| kind(m) == Some(4)).unwrap().clone();
    w.lose = Box::new(|_| false);
    let taken = |w: &mut World| w.director.migrations(w.now).accepted;
    // Another token, another number.
    for change in [|h: Header| Header { token: h.token ^ 1, ..h }, |h: Header| Header { number: h.number + 1, ..h }] {
        w.pump(vec![(0, resaid(&accepted, change))]);
        assert_eq!(taken(&mut w), 0);
    }
    // From the other server's address.
    let ends = |host: u8| ([10, 0, 0, host], 7411).into();
    let port = u16::from_be_bytes([accepted[36], accepted[37]]);
    let by = |from: SocketAddr| {
        let to = ([10, 0, 0, 100], port).into();
        let p = Packet { destination_mac: DIRECTOR, source_mac: wire(n), ..Packet::udp(from, to) };
        p.payload(&accepted[42..]).frame()
    };
    w.pump(vec![(0, by(ends(2 - n as u8)))]);
    assert_eq!(taken(&mut w), 0);
    w.pump(vec![(0, by(ends(n as u8 + 1)))]);
    assert_eq!(taken(&mut w), 1);
}

#[test]
fn a_forged_syn_is_challenged_with_nothing_that_only_the_filter_can_have_got() {
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    w.says(ACK | PSH, end, next, b"POST /a2 HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
    let heard = w.says(SYN, end.wrapping_add(500), 0, b"");
    assert_eq!((heard.len(), heard[0].flags), (1, ACK));
    assert!(end.wrapping_sub(heard[0].ack) as i32 >= 0, "{heard:?}");
}

#[test]
fn a_challenge_stays_near_however_long_a_connection_is_the_filters() {
    /// Bytes of a body that are let pass unread at once.
    const MAX_SKIP: u32 = 1 << 30;
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    let head = b"POST /a2 HTTP/1.1\r\nHost: a\r\nContent-Length: 6000000000\r\n\r\n";
    w.says(ACK | PSH, end, next, head);
    let mut at = end.wrapping_add(head.len() as u32);
    for _ in 0..5 {
        // The next byte that is looked at; those before it are let pass.
        at = at.wrapping_add(MAX_SKIP);
        w.says(ACK | PSH, at, next, b"x");
        at = at.wrapping_add(1);
    }
    let heard = w.says(SYN, at, 0, b"");
    let behind = at.wrapping_sub(heard[0].ack) as i32;
    assert!(heard[0].flags == ACK && (0..1 << 30).contains(&behind), "{behind} {heard:?}");
}

#[test]
fn a_director_with_another_session_is_told_that_the_connection_is_not_its_own() {
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    w.says(ACK | PSH, end, next.wrapping_sub(1), B);
    let of = |w: &World, of: u8| w.messages.iter().rfind(|m| kind(m) == Some(of)).unwrap().clone();
    let read = |m: &[u8]| Body::read(&m[42..], &key()).unwrap().0;
    let ping = w.messages.iter().rfind(|m| kind(m) == Some(1) && m[..6] == wire(0).0).unwrap().clone();
    w.pump(vec![(0, resaid(&ping, |h| Header { session: h.session ^ 1, number: 1, ..h }))]);
    let token = read(&of(&w, 2)).token;
    let recall = of(&w, 7);
    w.pump(vec![(0, resaid(&recall, |h| Header { session: h.session ^ 1, number: 2, token }))]);
    let answer = read(&of(&w, 5));
    assert_eq!((answer.session, answer.number), (read(&ping).session ^ 1, 2));
    // It means nothing to the connection.
    w.says(ACK, end, next, b"");
    w.passes(500);
    exchange(&mut w, 1, 9000, (end, next), B, REPLY);
}
