//! Bodies that come behind their heads, and what is behind them.

use super::site::*;
use lcs_dataplane::headers::build::Packet;
use lcs_dataplane::headers::tcp::flags::{ACK, PSH, RST, SYN};
use lcs_pipelines::migration::message::{Body, Header, Migrate};
use lcs_pipelines::snapshot::*;
use std::time::Duration;

#[test]
fn a_body_that_comes_behind_goes_to_the_filter_and_what_comes_behind_it_does_not() {
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    let head = b"POST /a2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab";
    w.says(ACK | PSH, end, next, head);
    assert_eq!(payloads(&w.take_stack(0)), head);
    let at = end.wrapping_add(head.len() as u32);
    let rest = b"cde\r\n0\r\n\r\n";
    w.says(ACK | PSH, at, next, &[&rest[..], B].concat());
    assert_eq!(payloads(&w.take_stack(0)), rest);
    let at = at.wrapping_add(rest.len() as u32);
    let heard = w.stack_says(0, ACK | PSH, SSEQ.wrapping_add(44), at, REPLY);
    assert_eq!(heard[0].seq, next);
    let next = next.wrapping_add(43);
    w.says(ACK, at.wrapping_add(B.len() as u32), next, b"");
    w.passes(300);
    exchange(&mut w, 1, 9000, (at, next), B, REPLY);
}

/// A chunk of 64 bytes, and what ends the body and asks for more, of the same length.
fn chunk_and_smuggler() -> (Vec<u8>, Vec<u8>) {
    let chunk = [b"40\r\n".as_slice(), &[b'x'; 64]].concat();
    let mut smuggler = b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
    smuggler.resize(chunk.len() - 4, b'y');
    smuggler.extend(b"\r\n\r\n");
    (chunk, smuggler)
}

const CHUNKED: &[u8] = b"POST /a2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn what_a_filter_ignores_lets_no_request_pass_unread_while_it_waits() {
    let (chunk, smuggler) = chunk_and_smuggler();
    // While the response before is on its way.
    let mut w = World::each(Forward::Dr);
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let (end, next) = exchange(&mut w, 0, SSEQ, (FIRST, ack), REQUEST, &REPLY[..20]);
    w.says(ACK | PSH, end, next, CHUNKED);
    let at = end.wrapping_add(CHUNKED.len() as u32);
    w.says(ACK | PSH, at, next.wrapping_add(100_000), &chunk);
    w.says(ACK | PSH, at, next, &smuggler);
    let heard = w.stack_says(0, ACK | PSH, SSEQ.wrapping_add(21), end, &REPLY[20..]);
    assert_eq!(heard[0].seq, next);
    let next = next.wrapping_add(23);
    w.says(ACK, at, next, b"");
    let given = w.take_stack(0);
    assert!(!admits(&given) && payloads(&given).ends_with(CHUNKED), "{given:?}");
    // The body goes on, as it is.
    w.says(ACK | PSH, at, next, &chunk);
    assert_eq!(payloads(&w.take_stack(0)), chunk);
    // Read by now: its end can't come in other bytes of the same numbers; nor behind it.
    let at = at.wrapping_add(chunk.len() as u32);
    let [chunk, smuggler] = [[b"\r\n", chunk.as_slice()].concat(), [b"\r\n", smuggler.as_slice()].concat()];
    w.says(ACK | PSH, at, next.wrapping_add(100_000), &chunk);
    w.says(ACK | PSH, at, next, &smuggler);
    w.passes(3_000);
    assert!(!admits(&w.take_stack(0)));

    // While the server is being opened.
    let (chunk, smuggler) = chunk_and_smuggler();
    let mut w = World::each(Forward::Dr);
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, CHUNKED);
    let at = FIRST.wrapping_add(CHUNKED.len() as u32);
    w.says(ACK | PSH, at, ack.wrapping_add(100_000), &chunk);
    w.says(ACK | PSH, at, ack, &smuggler);
    w.stack_says(0, SYN | ACK, SSEQ, FIRST, b"");
    let given = w.take_stack(0);
    assert_eq!(payloads(&given), [CHUNKED, b"0\r\n\r\n"].concat());
    let end = at.wrapping_add(5);
    w.stack_says(0, ACK | PSH, SSEQ.wrapping_add(1), end, REPLY);
    w.says(ACK, end, ack.wrapping_add(43), b"");
    w.passes(1_000);
    assert!(!admits(&w.take_stack(0)));
}

#[test]
fn a_server_that_has_answered_early_and_does_not_close_costs_the_connection_and_no_more() {
    for request in [B, &b"GET /a3 HTTP/1.1\r\nHost: a\r\n\r\n"[..]] {
        for acknowledged in [true, false] {
            let mut w = World::each(Forward::Dr);
            let (end, next) = begun(&mut w, REPLY);
            let head = b"POST /a2 HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n";
            w.says(ACK | PSH, end, next, head);
            let at = end.wrapping_add(head.len() as u32);
            let early = b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n";
            let heard = w.stack_says(0, ACK | PSH, SSEQ.wrapping_add(44), at, early);
            assert_eq!((heard[0].seq, heard[0].payload.as_slice()), (next, &early[..]));
            let after = next.wrapping_add(early.len() as u32);
            // The server drains it.
            w.says(ACK | PSH, at, next, b"0123456789");
            let at = at.wrapping_add(10);
            assert!(payloads(&w.take_stack(0)).ends_with(b"0123456789"));
            let mut heard = w.says(ACK | PSH, at, if acknowledged { after } else { next }, request);
            if !acknowledged {
                assert!(heard.is_empty(), "{heard:?}");
                heard = w.says(ACK, at, after, b"");
                w.passes(1_000);
                heard.append(&mut w.client);
            }
            assert!(heard.iter().any(|s| s.flags & RST != 0 && s.seq == after), "{heard:?}");
            let old = w.take_stack(0);
            assert!(old.iter().any(|s| s.flags & RST != 0 && s.seq == at), "{old:?}");
            let now = w.now;
            assert_eq!((w.director.report(now).flows, w.filters[0].report(now).flows), (0, 0));
        }
    }
}

#[test]
fn a_filter_that_lacks_the_body_before_says_so_and_takes_the_next_request_later() {
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    w.says(ACK | PSH, end, next, CHUNKED);
    w.take_stack(0);
    let at = end.wrapping_add(CHUNKED.len() as u32);
    w.stack_says(0, ACK, SSEQ.wrapping_add(44), at, b"");
    w.lose = Box::new(|frame| !is_message(frame) && frame[..6] == wire(0).0);
    w.says(ACK | PSH, at, next, b"0\r\n\r\n");
    w.lose = Box::new(|_| false);
    let again: &[u8] = b"GET /a3 HTTP/1.1\r\nHost: a\r\n\r\n";
    w.says(ACK | PSH, at.wrapping_add(5), next, again);
    w.passes(10_000);
    assert!(w.client.iter().all(|s| s.flags & RST == 0), "{:?}", w.client);
    assert!(payloads(&w.take_stack(0)).is_empty());
    w.says(ACK | PSH, at, next, b"0\r\n\r\n");
    assert_eq!(payloads(&w.take_stack(0)), b"0\r\n\r\n");
    let after = at.wrapping_add(5);
    w.stack_says(0, ACK | PSH, SSEQ.wrapping_add(44), after, REPLY);
    w.says(ACK, after, next.wrapping_add(43), b"");
    w.passes(2_100);
    assert!(payloads(&w.take_stack(0)).starts_with(again));
    assert_eq!(w.director.migrations(w.now).unanswered, 0);
}

#[test]
fn a_long_request_that_a_filter_cannot_take_yet_is_sent_to_it_once() {
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    w.says(ACK | PSH, end, next, CHUNKED);
    w.take_stack(0);
    let at = end.wrapping_add(CHUNKED.len() as u32);
    w.stack_says(0, ACK, SSEQ.wrapping_add(44), at, b"");
    w.lose = Box::new(|frame| !is_message(frame) && frame[..6] == wire(0).0);
    w.says(ACK | PSH, at, next, b"0\r\n\r\n");
    w.lose = Box::new(|_| false);
    // A segment's worth, and what is around it, are two messages.
    let mut long = b"GET /a3 HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
    long.resize(1_440, b'x');
    long.extend(b"\r\n\r\n");
    let given = |w: &World| w.messages.iter().filter(|m| kind(m) == Some(3)).count();
    let before = given(&w);
    w.says(ACK | PSH, at.wrapping_add(5), next, &long);
    assert_eq!(given(&w), before + 2);
    let (start, answers) = (given(&w), |w: &World| w.messages.iter().filter(|m| kind(m) == Some(5)).count());
    let said = answers(&w);
    w.passes(10_000);
    let asked = given(&w) - start;
    assert!((4..=7).contains(&asked) && answers(&w) - said == asked, "{asked} messages, each answered");
    w.says(ACK | PSH, at, next, b"0\r\n\r\n");
    let after = at.wrapping_add(5);
    w.stack_says(0, ACK | PSH, SSEQ.wrapping_add(44), after, REPLY);
    w.says(ACK, after, next.wrapping_add(43), b"");
    w.passes(2_100);
    assert!(payloads(&w.take_stack(0)).ends_with(&long));
    assert_eq!(w.director.migrations(w.now).unanswered, 0);
}

#[test]
fn what_a_server_lacks_of_a_request_comes_again_whatever_else_is_in_the_segment() {
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    w.says(ACK | PSH, end, next, CHUNKED);
    let at = end.wrapping_add(CHUNKED.len() as u32);
    w.stack_says(0, ACK, SSEQ.wrapping_add(44), at, b"");
    let tail: &[u8] = b"0\r\n\r\n";
    w.says(ACK | PSH, at, next, tail);
    w.says(ACK | PSH, at.wrapping_add(5), next, CHUNKED);
    w.take_stack(0);
    // The server has not got it; nothing of the next request goes with it.
    w.says(ACK | PSH, at, next, &[tail, CHUNKED, b"5\r\nabcde"].concat());
    assert_eq!(payloads(&w.take_stack(0)), tail);
    let after = at.wrapping_add(5);
    w.stack_says(0, ACK | PSH, SSEQ.wrapping_add(44), after, REPLY);
    let next = next.wrapping_add(43);
    let body = after.wrapping_add(CHUNKED.len() as u32);
    w.says(ACK | PSH, body, next, b"5\r\nabcde");
    w.says(ACK | PSH, body, next, b"5\r\nabcde");
    let given = payloads(&w.take_stack(0));
    assert!(given.starts_with(CHUNKED) && given.ends_with(b"5\r\nabcde"), "{given:?}");
}

/// A connection whose filter lacks the end of the body before: where that body ends, the next number toward the client.
fn lacking(w: &mut World) -> (u32, u32) {
    let (end, next) = begun(w, REPLY);
    w.says(ACK | PSH, end, next, CHUNKED);
    w.take_stack(0);
    let at = end.wrapping_add(CHUNKED.len() as u32);
    w.stack_says(0, ACK, SSEQ.wrapping_add(44), at, b"");
    w.lose = Box::new(|frame| !is_message(frame) && frame[..6] == wire(0).0);
    w.says(ACK | PSH, at, next, b"0\r\n\r\n");
    w.lose = Box::new(|_| false);
    (at.wrapping_add(5), next)
}

/// It comes, and then the request behind it is taken.
fn made_up(w: &mut World, (after, next): (u32, u32), waits: &[u8]) {
    assert!(w.client.iter().all(|s| s.flags & RST == 0), "{:?}", w.client);
    assert!(payloads(&w.take_stack(0)).is_empty());
    w.says(ACK | PSH, after.wrapping_sub(5), next, b"0\r\n\r\n");
    w.stack_says(0, ACK | PSH, SSEQ.wrapping_add(44), after, REPLY);
    w.says(ACK, after, next.wrapping_add(43), b"");
    w.passes(4_100);
    assert!(payloads(&w.take_stack(0)).starts_with(&[b"0\r\n\r\n", waits].concat()));
    assert_eq!(w.director.migrations(w.now).unanswered, 0);
}

/// A request of two messages: a segment's worth, and what is around it.
fn long() -> Vec<u8> {
    let mut long = b"GET /a3 HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
    long.resize(1_440, b'x');
    long.extend(b"\r\n\r\n");
    long
}

#[test]
fn a_request_that_waits_outlasts_a_filter_that_answers_no_ping() {
    for waits in [b"GET /a3 HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), long()] {
        let mut w = World::each(Forward::Dr);
        let at = lacking(&mut w);
        w.says(ACK | PSH, at.0, at.1, &waits);
        w.lose = Box::new(|frame| kind(frame) == Some(2));
        w.passes(8_000);
        assert_eq!(w.director.migrations(w.now).live, 0);
        w.lose = Box::new(|_| false);
        made_up(&mut w, at, &waits);
    }
}

#[test]
fn a_request_that_waits_for_very_long_is_still_asked_for_with_a_number_that_counts() {
    let mut w = World::asking(Duration::from_millis(2), Forward::Dr, false, true);
    let (at, waits) = (lacking(&mut w), long());
    w.says(ACK | PSH, at.0, at.1, &waits);
    // As many messages as a filter looks back, and more.
    for _ in 0..70_000 {
        w.now += 2 * MILLISECOND;
        w.messages.clear();
        w.pump(vec![]);
    }
    made_up(&mut w, at, &waits);
}

#[test]
fn a_later_request_that_finds_no_room_to_be_put_together_is_taken_when_there_is() {
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    // Requests of which a first piece came, and never another one.
    let given = w.messages.iter().find(|m| kind(m) == Some(3)).unwrap().clone();
    let (header, Body::Migrate(m)) = Body::read(&given[42..], &key()).unwrap() else { panic!() };
    let (from, to) = (([10, 0, 0, 100], u16::from_be_bytes([given[34], given[35]])), ([10, 0, 0, 1], 7411));
    for n in 1..=256 {
        let mut out = vec![];
        let piece = Body::Migrate(Migrate { total: 3_000, offset: 0, piece: 1_000, bytes: &[b'x'; 1_000], ..m });
        piece.write(&Header { number: header.number + 1_000 + n, ..header }, &key(), &mut out);
        let frame = Packet { destination_mac: wire(0), source_mac: DIRECTOR, ..Packet::udp(from.into(), to.into()) };
        w.pump(vec![(0, frame.payload(&out).frame())]);
    }
    let long = long();
    let mut heard = w.says(ACK | PSH, end, next, &long);
    w.passes(5_000);
    heard.append(&mut w.client);
    assert!(heard.iter().all(|s| s.flags & RST == 0), "{heard:?}");
    assert!(payloads(&w.take_stack(0)).is_empty());
    let asked = numbers(&w, 5).len();
    assert!((3..=6).contains(&asked), "{asked} answers: one for each time that it was asked");
    // Those are forgotten.
    w.passes(18_000);
    assert!(payloads(&w.take_stack(0)).starts_with(&long));
    assert_eq!(w.director.migrations(w.now).unanswered, 0);
}

#[test]
fn a_request_that_waits_is_taken_on_a_link_whose_mtu_has_changed() {
    let mut w = World::each(Forward::Dr);
    let at = lacking(&mut w);
    let waits = long();
    w.says(ACK | PSH, at.0, at.1, &waits);
    w.passes(1_000);
    let now = w.now;
    w.director.reinstall(now, |s| s.next_hops[0].mtu = 1_000);
    w.passes(8_000);
    made_up(&mut w, at, &waits);
}
