//! A connection is given to a filter, and answered by it.

use super::site::*;
use lcs_dataplane::DropReason;
use lcs_dataplane::flow::TcpState;
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use lcs_pipelines::snapshot::*;

#[test]
fn the_filter_answers_in_the_directors_numbers_and_the_director_only_forwards() {
    let mut w = World::new();
    let ack = w.handshake();
    let told = w.says(ACK | PSH, FIRST, ack, REQUEST);
    let end = FIRST.wrapping_add(REQUEST.len() as u32);
    assert!(told.iter().all(|s| s.ack == end && s.flags == ACK));
    let n = w.asked().expect("a stack is asked");
    assert!(w.stacks[1 - n].is_empty());
    let before = w.messages.len();
    serve(&mut w, n, ack);
    assert_eq!(w.messages[before..].iter().filter_map(|m| kind(m)).collect::<Vec<_>>(), [4], "accepted, once");
    // The client's acknowledgement goes through the director as it is, and the filter moves its number.
    let sent = w.director.report(w.now).content.segments_made;
    assert!(w.says(ACK, end, ack.wrapping_add(24), b"").is_empty());
    let s = w.take_stack(n).pop().unwrap();
    assert_eq!((s.seq, s.ack, s.window), (end, SSEQ.wrapping_add(25), 60_000));
    // The next request of the connection, too; and the end.
    w.says(ACK | PSH, end, ack.wrapping_add(24), b"GET /b HTTP/1.1\r\n\r\n");
    assert_eq!(w.take_stack(n)[0].payload, b"GET /b HTTP/1.1\r\n\r\n");
    w.says(ACK | FIN, end.wrapping_add(19), ack.wrapping_add(24), b"");
    assert_eq!(w.take_stack(n)[0].flags, ACK | FIN);
    let heard = w.stack_says(n, ACK | FIN, SSEQ.wrapping_add(25), end.wrapping_add(20), b"");
    assert_eq!((heard[0].flags, heard[0].seq), (ACK | FIN, ack.wrapping_add(24)));
    let now = w.now;
    let r = w.director.report(now);
    assert_eq!(r.content.segments_made, sent, "the director has made no more segments");
    assert_eq!((r.content.connections, r.content.binding, r.content.buffered), (0, 0, 0));
    assert_eq!(w.state(), TcpState::FinWait);
    let d = w.director.migrations(now);
    assert_eq!((d.sent, d.accepted, d.refused, d.unanswered, d.messages), (1, 1, 0, 0, 1));
    assert_eq!(d.bytes, 100 + REQUEST.len() as u64 + 32);
    let f = w.filters[n].migrations(now);
    assert_eq!((f.accepted, f.refused), (1, 0));
    assert_eq!(w.filters[n].report(now).content.buffered, 0);
}

#[test]
fn what_comes_through_a_tunnel_is_taken_out_of_it_and_fits_into_it() {
    let mut w = World::by(Forward::Tunnel);
    let answer = w.says(SYN, ISN, 0, b"");
    assert_eq!(answer[0].options[..4], [2, 4, 5, 0xa0], "1,440 bytes: a segment and two headers fit a link of 1,500");
    let ack = answer[0].seq.wrapping_add(1);
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let n = w.asked().expect("a stack is asked");
    serve(&mut w, n, ack);
    let end = FIRST.wrapping_add(REQUEST.len() as u32);
    let data = vec![b'x'; 1_440];
    assert!(w.says(ACK, end, ack.wrapping_add(24), &data).is_empty());
    let s = w.take_stack(n).pop().unwrap();
    assert_eq!((s.seq, s.ack, s.payload), (end, SSEQ.wrapping_add(25), data));
}

#[test]
fn each_message_may_be_lost_once() {
    for lost in [3, 4] {
        let mut w = World::new();
        let ack = w.handshake();
        let mut left = 1;
        w.lose = Box::new(move |frame| {
            let hit = kind(frame) == Some(lost) && left > 0;
            left -= i32::from(hit);
            hit
        });
        w.says(ACK | PSH, FIRST, ack, REQUEST);
        if lost == 3 {
            assert_eq!(w.asked(), None);
            w.passes(250);
        }
        let n = w.asked().expect("a stack is asked");
        serve(&mut w, n, ack);
        w.passes(250);
        let now = w.now;
        let d = w.director.migrations(now);
        assert_eq!((d.sent, d.accepted, d.unanswered, d.messages), (1, 1, 0, 2), "message {lost}");
        assert_eq!(w.filters[n].migrations(now).accepted, 1);
        assert!(w.stacks[n].iter().all(|s| s.flags & SYN == 0), "no second connection");
    }
}

#[test]
fn what_was_not_migrated_never_reaches_the_stack() {
    let mut w = World::new();
    for flags in [SYN, ACK | PSH, RST, FIN | ACK] {
        let frame = World::frame(wire(0), CLIENT, SERVICE, flags, (FIRST, 5), b"");
        w.pump(vec![(0, frame)]);
    }
    assert!(w.stacks[0].is_empty() && w.client.is_empty());
    assert_eq!(w.dropped(0, DropReason::NoFlow), 4);
}

#[test]
fn a_request_of_several_messages_is_put_together() {
    let mut w = World::new();
    let ack = w.handshake();
    let mut request = b"POST / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
    request.resize(4_000, b'x');
    request.extend(b"\r\n\r\n");
    // The rule needs the head; more than one message's worth is held by then.
    for (at, part) in request.chunks(1_400).enumerate() {
        w.says(ACK, FIRST.wrapping_add(at as u32 * 1_400), ack, part);
        if at == 0 {
            // "all" takes it at once: as soon as the method is read.
            break;
        }
    }
    let first = w.messages.iter().filter(|m| kind(m) == Some(3)).count();
    assert_eq!(first, 2, "1,400 bytes and what is around them are two messages of a link of 1,500");
    let n = w.asked().expect("a stack is asked");
    w.take_stack(n);
    w.stack_says(n, SYN | ACK, SSEQ, FIRST, b"");
    for (at, part) in request.chunks(1_400).enumerate().skip(1) {
        w.says(ACK, FIRST.wrapping_add(at as u32 * 1_400), ack, part);
    }
    let bytes: Vec<u8> = w.take_stack(n).iter().flat_map(|s| s.payload.clone()).collect();
    assert!(bytes == request, "{} bytes of {}", bytes.len(), request.len());
}

#[test]
fn what_the_client_sends_meanwhile_is_not_lost() {
    let mut w = World::new();
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let n = w.asked().unwrap();
    let syn = w.take_stack(n);
    assert_eq!(syn.len(), 1);
    // The stack has not answered yet.
    let end = FIRST.wrapping_add(REQUEST.len() as u32);
    let heard = w.says(ACK | PSH, end, ack, b"more of it");
    assert!(heard.is_empty(), "nobody may acknowledge it: the server may still refuse: {heard:?}");
    w.stack_says(n, SYN | ACK, SSEQ, FIRST, b"");
    let bytes: Vec<u8> = w.take_stack(n).iter().flat_map(|s| s.payload.clone()).collect();
    assert_eq!(bytes, [REQUEST, b"more of it"].concat());
}

#[test]
fn a_client_that_resets_meanwhile_leaves_nothing_behind() {
    let mut w = World::new();
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let n = w.asked().unwrap();
    w.take_stack(n);
    let end = FIRST.wrapping_add(REQUEST.len() as u32);
    w.says(RST, end, 0, b"");
    let now = w.now;
    assert_eq!((w.director.report(now).flows, w.filters[n].report(now).flows), (0, 0));
    assert!(w.take_stack(n).iter().any(|s| s.flags & RST != 0));
}

#[test]
fn a_client_that_acknowledges_what_only_the_server_can_have_said_proves_that_it_was_taken() {
    let mut w = World::new();
    let ack = w.handshake();
    w.lose = Box::new(|frame| kind(frame) == Some(4));
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let n = w.asked().unwrap();
    serve(&mut w, n, ack);
    let end = FIRST.wrapping_add(REQUEST.len() as u32);
    assert_eq!(w.director.migrations(w.now).accepted, 0);
    w.says(ACK, end, ack.wrapping_add(24), b"");
    assert_eq!(w.take_stack(n).pop().unwrap().ack, SSEQ.wrapping_add(25));
    w.passes(4_000);
    let now = w.now;
    let d = w.director.migrations(now);
    assert_eq!((d.accepted, d.unanswered, d.messages), (1, 0, 1));
}

#[test]
fn a_reset_that_may_be_right_for_the_filter_goes_to_it() {
    let mut w = World::new();
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let n = w.asked().unwrap();
    w.take_stack(n);
    // Beyond what the director knows: the client may have sent more.
    let end = FIRST.wrapping_add(REQUEST.len() as u32);
    w.says(RST, end.wrapping_add(100), 0, b"");
    assert_eq!(w.director.report(w.now).flows, 1, "the director does not end it by a guess");
    let n_flows = w.filters[n].report(w.now).flows;
    assert_eq!(n_flows, 1);
    serve_after(&mut w, n, ack);
}
