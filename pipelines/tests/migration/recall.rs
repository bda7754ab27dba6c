//! A decision for every request: connections that are given back.

use super::site::*;
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, PSH, RST};
use lcs_pipelines::migration::message::Header;
use lcs_pipelines::snapshot::*;

#[test]
fn a_later_request_goes_to_the_filter_of_the_server_that_the_rules_choose() {
    for forward in [Forward::Dr, Forward::Tunnel] {
        let mut w = World::each(forward);
        let (end, next) = begun(&mut w, REPLY);
        let before = w.messages.len();
        // The acknowledgement of the response comes with the request.
        w.says(ACK | PSH, end, next, B);
        assert_eq!(kinds(&w, before), [7, 8, 3]);
        let old = w.take_stack(0);
        assert!(payloads(&old).is_empty(), "no byte of it is for this server");
        let fin = old.last().unwrap();
        assert_eq!((fin.flags, fin.seq, fin.ack), (FIN | ACK, end, SSEQ.wrapping_add(44)));
        let (end, next) = exchange(&mut w, 1, 9000, (end, next), B, REPLY);
        // The old server closes, too.
        assert!(w.stack_says(0, FIN | ACK, SSEQ.wrapping_add(44), fin.seq.wrapping_add(1), b"").is_empty());
        let last = w.take_stack(0).pop().unwrap();
        assert_eq!((last.flags, last.seq, last.ack), (ACK, fin.seq.wrapping_add(1), SSEQ.wrapping_add(45)));
        // And back.
        w.says(ACK | PSH, end, next, REQUEST);
        let (end, next) = exchange(&mut w, 0, 77, (end, next), REQUEST, REPLY);
        w.says(ACK, end, next, b"");
        let now = w.now;
        let d = w.director.migrations(now);
        assert_eq!((d.sent, d.accepted, d.recalled, d.continued, d.refused, d.unanswered), (3, 3, 2, 0, 0, 0));
        let [a, b] = [0, 1].map(|n| w.filters[n].migrations(now));
        assert_eq!((a.accepted, a.recalled, b.accepted, b.recalled), (2, 1, 1, 1));
        assert_eq!((w.director.report(now).content.buffered, w.director.report(now).content.binding), (0, 0));
    }
}

#[test]
fn a_later_request_for_the_same_server_is_given_to_its_filter_as_it_was_read_and_no_otherwise() {
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    let again: &[u8] = b"GET /a2 HTTP/1.1\r\nHost: a\r\n\r\n";
    let before = w.messages.len();
    let told = w.says(ACK | PSH, end, next, again);
    assert_eq!(kinds(&w, before), [3, 4]);
    assert!(told.iter().any(|s| s.ack == end.wrapping_add(again.len() as u32)), "{told:?}");
    let given = w.take_stack(0);
    assert_eq!((payloads(&given).as_slice(), given[0].seq, given[0].ack), (again, end, SSEQ.wrapping_add(44)));
    // The same numbers with other bytes.
    let other: &[u8] = b"GET /b2 HTTP/1.1\r\nHost: a\r\n\r\n";
    w.says(ACK | PSH, end, next, other);
    assert!(!payloads(&w.take_stack(0)).windows(3).any(|b| b == b"/b2") && w.take_stack(1).is_empty());
    let after = end.wrapping_add(again.len() as u32);
    let heard = w.stack_says(0, ACK | PSH, SSEQ.wrapping_add(44), after, REPLY);
    assert_eq!((heard[0].seq, heard[0].ack), (next, after));
    let now = w.now;
    let d = w.director.migrations(now);
    assert_eq!((d.sent, d.continued, d.recalled), (1, 1, 0));
}

#[test]
fn nothing_of_a_request_for_another_server_moves_before_the_response_is_complete_and_acknowledged() {
    let mut w = World::each(Forward::Dr);
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let (end, next) = exchange(&mut w, 0, SSEQ, (FIRST, ack), REQUEST, &REPLY[..40]);
    // Complete at the client, as far as it knows; three bytes are still to come.
    assert!(w.says(ACK | PSH, end, next, B).is_empty());
    w.passes(1_000);
    assert!(w.take_stack(1).is_empty() && payloads(&w.take_stack(0)).is_empty());
    let heard = w.stack_says(0, ACK | PSH, SSEQ.wrapping_add(41), end, &REPLY[40..]);
    assert_eq!(heard[0].seq, next);
    w.passes(1_000);
    assert!(w.take_stack(1).is_empty(), "the client has not acknowledged it");
    w.says(ACK, end, next.wrapping_add(3), b"");
    w.passes(100);
    exchange(&mut w, 1, 9000, (end, next.wrapping_add(3)), B, REPLY);
    assert_eq!(w.director.migrations(w.now).unanswered, 0);
}

#[test]
fn each_message_of_a_recall_may_be_lost_once_and_all_may_come_again() {
    for lost in [7, 8, 3, 4] {
        let mut w = World::each(Forward::Dr);
        let (end, next) = begun(&mut w, REPLY);
        let mut left = 1;
        w.lose = Box::new(move |frame| {
            let hit = kind(frame) == Some(lost) && left > 0;
            left -= i32::from(hit);
            hit
        });
        w.says(ACK | PSH, end, next, B);
        w.passes(300);
        let (end, next) = exchange(&mut w, 1, 9000, (end, next), B, REPLY);
        w.passes(300);
        w.lose = Box::new(|_| false);
        w.says(ACK, end, next, b"");
        w.take_stack(0);
        w.take_stack(1);
        // Everything that was ever said, once more.
        for message in w.messages.clone() {
            w.pump(vec![(0, message)]);
        }
        assert!(w.take_stack(0).is_empty() && w.take_stack(1).is_empty() && w.client.is_empty());
        let d = w.director.migrations(w.now);
        assert_eq!((d.sent, d.accepted, d.recalled, d.unanswered), (2, 2, 1, 0), "message {lost}");
        // It lives.
        w.says(ACK | PSH, end, next, b"GET /b2 HTTP/1.1\r\nHost: b\r\n\r\n");
        assert_eq!(payloads(&w.take_stack(1)), b"GET /b2 HTTP/1.1\r\nHost: b\r\n\r\n");
    }
}

#[test]
fn a_connection_whose_responses_end_cannot_be_told_stays_and_takes_no_other_request() {
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, b"HTTP/1.1 200 OK\r\n\r\nhello");
    for request in [B, &b"GET /a2 HTTP/1.1\r\nHost: a\r\n\r\n"[..]] {
        w.says(ACK | PSH, end, next, request);
        w.passes(500);
        assert!(payloads(&w.take_stack(0)).is_empty() && w.take_stack(1).is_empty());
    }
    let heard = w.stack_says(0, FIN | ACK, SSEQ.wrapping_add(25), end, b"more");
    assert_eq!((heard[0].seq, heard[0].flags, heard[0].payload.as_slice()), (next, FIN | ACK, &b"more"[..]));
}

#[test]
fn a_tunnel_is_no_http_any_more_and_stays_where_it_is() {
    let mut w = World::each(Forward::Dr);
    let ack = w.handshake();
    let request = b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    w.says(ACK | PSH, FIRST, ack, request);
    let reply = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let (end, next) = exchange(&mut w, 0, SSEQ, (FIRST, ack), request, reply);
    // What looks like a request for another server is not one.
    w.says(ACK | PSH, end, next, B);
    assert!(payloads(&w.take_stack(0)).is_empty());
    // It was not acknowledged: it is sent again.
    w.says(ACK | PSH, end, next, B);
    assert_eq!(payloads(&w.take_stack(0)), B);
    w.says(ACK | PSH, end.wrapping_add(B.len() as u32), next, b"\0\x01anything");
    assert_eq!(payloads(&w.take_stack(0)), b"\0\x01anything");
    assert!(w.take_stack(1).is_empty());
}

#[test]
fn the_director_answers_later_requests_itself_in_the_right_numbers() {
    for (request, status) in
        [(&b"GET /no HTTP/1.1\r\nHost: a\r\n\r\n"[..], "403"), (b"\x01\x02\x03 nothing\r\n\r\n", "400")]
    {
        let mut w = World::each(Forward::Dr);
        let (end, next) = begun(&mut w, REPLY);
        let heard = w.says(ACK | PSH, end, next, request);
        let answer = heard.iter().find(|s| !s.payload.is_empty()).expect(status);
        assert!(answer.payload.starts_with(format!("HTTP/1.1 {status} ").as_bytes()), "{answer:?}");
        assert_eq!((answer.seq, answer.ack), (next, end.wrapping_add(request.len() as u32)));
        assert!(payloads(&w.take_stack(0)).is_empty() && w.take_stack(1).is_empty());
    }
}

#[test]
fn a_later_request_in_pieces_is_acknowledged_once_the_connection_is_back() {
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    let told = w.says(ACK | PSH, end, next, &B[..9]);
    assert!(told.iter().any(|s| s.ack == end.wrapping_add(9) && s.seq == next), "{told:?}");
    w.says(ACK | PSH, end.wrapping_add(9), next, &B[9..]);
    exchange(&mut w, 1, 9000, (end, next), B, REPLY);
}

#[test]
fn requests_that_come_together_are_given_one_by_one() {
    let mut w = World::each(Forward::Dr);
    let ack = w.handshake();
    let told = w.says(ACK | PSH, FIRST, ack, &[REQUEST, B].concat());
    let end = FIRST.wrapping_add(REQUEST.len() as u32);
    assert!(told.iter().all(|s| s.ack == end), "no more is acknowledged than one filter is given: {told:?}");
    let (end, next) = exchange(&mut w, 0, SSEQ, (FIRST, ack), REQUEST, REPLY);
    assert!(w.take_stack(1).is_empty());
    w.says(ACK, end.wrapping_add(B.len() as u32), next, b"");
    w.passes(100);
    exchange(&mut w, 1, 9000, (end, next), B, REPLY);
}

#[test]
fn a_filter_that_is_gone_when_it_is_asked_costs_the_connection() {
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    w.off = [true, false];
    w.says(ACK | PSH, end, next, B);
    let mut heard = vec![];
    for _ in 0..40 {
        w.passes(100);
        heard.append(&mut w.client);
    }
    assert!(heard.iter().any(|s| s.flags & RST != 0 && s.seq == next), "{heard:?}");
    assert_eq!(w.director.report(w.now).flows, 0);
    assert!(w.take_stack(1).is_empty());
}

#[test]
fn no_more_is_acknowledged_than_a_filter_is_given_after_a_recall_either() {
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    let told = w.says(ACK | PSH, end, next, &[B, REQUEST].concat());
    let after = end.wrapping_add(B.len() as u32);
    assert!(told.iter().any(|s| s.ack == after), "{told:?}");
    assert!(told.iter().all(|s| after.wrapping_sub(s.ack) as i32 >= 0), "{told:?}");
    exchange(&mut w, 1, 9000, (end, next), B, REPLY);
}

#[test]
fn acknowledgements_do_not_use_up_the_questions() {
    let mut w = World::each(Forward::Dr);
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let (end, next) = exchange(&mut w, 0, SSEQ, (FIRST, ack), REQUEST, &REPLY[..40]);
    w.says(ACK | PSH, end, next.wrapping_sub(40), B);
    // The filter's answers are lost for some time, and the client goes on to acknowledge.
    w.lose = Box::new(|frame| kind(frame) == Some(5));
    for n in 1..=40 {
        w.now += 3 * MILLISECOND;
        let heard = w.says(ACK, end, next.wrapping_sub(40).wrapping_add(n), b"");
        assert!(heard.is_empty(), "{heard:?}");
    }
    w.lose = Box::new(|_| false);
    w.stack_says(0, ACK | PSH, SSEQ.wrapping_add(41), end, &REPLY[40..]);
    w.says(ACK, end, next.wrapping_add(3), b"");
    w.passes(300);
    exchange(&mut w, 1, 9000, (end, next.wrapping_add(3)), B, REPLY);
    assert_eq!(w.director.migrations(w.now).unanswered, 0);

    // Silence ends it all the same.
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    w.lose = Box::new(|frame| matches!(kind(frame), Some(2 | 5 | 8)));
    w.says(ACK | PSH, end, next.wrapping_sub(43), B);
    let mut heard = vec![];
    for n in 0..8_000u32 {
        w.now += 5 * MILLISECOND;
        heard.extend(w.says(ACK, end, next.wrapping_sub(43).wrapping_add(n % 43), b""));
    }
    assert!(heard.iter().any(|s| s.flags & RST != 0));
}

#[test]
fn a_question_that_is_asked_for_long_does_not_grow_old() {
    let mut w = World::each(Forward::Dr);
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let (end, next) = exchange(&mut w, 0, SSEQ, (FIRST, ack), REQUEST, &REPLY[..40]);
    w.says(ACK | PSH, end, next, B);
    w.passes(10_000);
    let asked = numbers(&w, 7);
    assert!(asked.len() > 4 && asked.windows(2).all(|n| n[0] < n[1]), "{asked:?}");
    w.stack_says(0, ACK | PSH, SSEQ.wrapping_add(41), end, &REPLY[40..]);
    let next = next.wrapping_add(3);
    // The answer to a question was on its way when the next one went.
    w.lose = Box::new(|frame| kind(frame) == Some(8));
    w.says(ACK, end, next, b"");
    w.passes(100);
    let question = w.messages.iter().rfind(|m| kind(m) == Some(7)).unwrap().clone();
    w.pump(vec![(0, resaid(&question, |h| Header { number: h.number + 1_000, ..h }))]);
    let asked = numbers(&w, 7);
    assert_eq!(numbers(&w, 8).last(), asked.last(), "{asked:?}");
}

#[test]
fn a_client_that_resets_while_its_connection_is_asked_back_leaves_nothing_behind() {
    let mut w = World::each(Forward::Dr);
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let (end, next) = exchange(&mut w, 0, SSEQ, (FIRST, ack), REQUEST, &REPLY[..40]);
    w.says(ACK | PSH, end, next, B);
    w.passes(1_000);
    // The reset itself does not arrive.
    w.lose = Box::new(|frame| !is_message(frame) && frame[..6] == wire(0).0);
    w.says(RST, end, 0, b"");
    let now = w.now;
    assert_eq!((w.director.report(now).flows, w.filters[0].report(now).flows), (0, 0));
}
