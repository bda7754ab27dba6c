//! Filters that are gone, silent or full, and servers that refuse: who is asked instead, and what is not asked twice.

use super::site::*;
use lcs_dataplane::headers::tcp::flags::{ACK, PSH, RST, SYN};
use lcs_dataplane::worker::Pipeline;
use lcs_pipelines::command::Event;
use lcs_pipelines::migration::message::{Body, Why};
use lcs_pipelines::snapshot::*;
use std::time::Duration;

#[test]
fn a_server_that_refuses_is_passed_over_and_a_silent_filter_too() {
    let mut w = World::new();
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let n = w.asked().unwrap();
    w.take_stack(n);
    w.stack_says(n, RST | ACK, 0, FIRST, b"");
    let now = w.now;
    assert_eq!(w.director.migrations(now).refused, 1);
    assert_eq!(w.filters[n].report(now).flows, 0);
    assert_eq!(w.asked(), Some(1 - n));
    serve(&mut w, 1 - n, ack);

    // One that is gone since its last pong is noticed by its silence.
    let mut w = World::new();
    let ack = w.handshake();
    w.off = [true; 2];
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    w.off = [false; 2];
    w.lose = {
        let first = w.messages.last().unwrap()[..6].to_vec();
        Box::new(move |frame| frame[..6] == first)
    };
    w.passes(3_500);
    let n = w.asked().expect("the other one is asked");
    serve(&mut w, n, ack);
    let now = w.now;
    assert_eq!(w.director.migrations(now).unanswered, 1);
}

#[test]
fn without_a_live_filter_the_client_is_told_at_once() {
    let mut w = World::new();
    w.off = [true; 2];
    w.passes(4_000);
    let ack = w.handshake();
    let heard = w.says(ACK | PSH, FIRST, ack, REQUEST);
    assert!(heard.iter().any(|s| s.payload.starts_with(b"HTTP/1.1 503 ")), "{heard:?}");
    // And they come back.
    w.off = [false; 2];
    w.passes(1_100);
    let frame = World::frame(DIRECTOR, "192.0.2.1:2000", SERVICE, SYN, (ISN, 0), b"");
    w.pump(vec![(0, frame)]);
    let ack = w.client.pop().unwrap().seq.wrapping_add(1);
    let frame = World::frame(DIRECTOR, "192.0.2.1:2000", SERVICE, ACK | PSH, (FIRST, ack), REQUEST);
    w.pump(vec![(0, frame)]);
    assert!(w.asked().is_some());
}

#[test]
fn a_request_that_may_have_been_served_is_not_sent_twice() {
    let mut w = World::new();
    let ack = w.handshake();
    w.off = [true; 2];
    w.says(ACK | PSH, FIRST, ack, b"POST /buy HTTP/1.1\r\nContent-Length: 2\r\n\r\nxy");
    let mut heard = vec![];
    for _ in 0..40 {
        w.passes(100);
        heard.append(&mut w.client);
    }
    assert!(heard.iter().any(|s| s.payload.starts_with(b"HTTP/1.1 504 ")), "{heard:?}");
}

#[test]
fn without_a_live_filter_the_server_itself_is_asked_over_full_nat() {
    for forward in [Forward::Dr, Forward::Tunnel] {
        let mut w = World::with(forward, true);
        w.off = [true; 2];
        w.passes(4_000);
        let ack = w.handshake();
        w.says(ACK | PSH, FIRST, ack, REQUEST);
        let n = (0..2).find(|&n| !w.hosts[n].is_empty()).expect("a host is asked");
        let peer = serve_directly(&mut w, n, ack);
        let end = FIRST.wrapping_add(REQUEST.len() as u32);
        // What follows goes the same way, in both directions.
        w.says(ACK | PSH, end, ack.wrapping_add(24), b"GET /b HTTP/1.1\r\n\r\n");
        let s = std::mem::take(&mut w.hosts[n]).pop().unwrap();
        assert_eq!((s.from, s.seq, s.ack, s.payload.len()), (peer, end, SSEQ.wrapping_add(25), 19));
        let now = w.now;
        let d = w.director.migrations(now);
        assert_eq!((d.sent, d.fallback, d.live), (0, 1, 0));
        // They answer again: the next connection is given to one of them, and this one goes on as it is.
        w.off = [false; 2];
        w.passes(1_100);
        let heard = w.host_says(n, peer, ACK, (SSEQ.wrapping_add(25), end.wrapping_add(19)), b"more");
        assert_eq!((heard[0].seq, heard[0].payload.as_slice()), (ack.wrapping_add(24), &b"more"[..]));
        let frame = World::frame(DIRECTOR, "192.0.2.1:2000", SERVICE, SYN, (ISN, 0), b"");
        w.pump(vec![(0, frame)]);
        let other = w.client.pop().unwrap().seq.wrapping_add(1);
        let frame = World::frame(DIRECTOR, "192.0.2.1:2000", SERVICE, ACK | PSH, (FIRST, other), REQUEST);
        w.pump(vec![(0, frame)]);
        assert!(w.asked().is_some() && w.hosts.iter().all(Vec::is_empty), "{:?}", w.hosts);
        let d = w.director.migrations(now);
        assert_eq!((d.sent, d.fallback), (1, 1));
    }
}

#[test]
fn who_can_be_given_to_a_filter_is_and_a_filter_that_falls_silent_leaves_its_server_to_full_nat() {
    let mut w = World::with(Forward::Dr, true);
    // One filter is gone: all go to the other one.
    w.off = [true, false];
    w.passes(4_000);
    for port in 2000..2004 {
        let from = format!("192.0.2.1:{port}");
        w.pump(vec![(0, World::frame(DIRECTOR, &from, SERVICE, SYN, (ISN, 0), b""))]);
        let ack = w.client.pop().unwrap().seq.wrapping_add(1);
        w.pump(vec![(0, World::frame(DIRECTOR, &from, SERVICE, ACK | PSH, (FIRST, ack), REQUEST))]);
        assert_eq!(w.take_stack(1).len(), 1);
        let answer = World::frame(arm(1), SERVICE, &from, SYN | ACK, (SSEQ, FIRST), b"");
        assert!(w.filters[1].worker.port_mut().inject(1, &answer));
        w.pump(vec![]);
        w.take_stack(1);
    }
    assert!(w.hosts.iter().all(Vec::is_empty));
    // It does not answer any more, and nobody knows it yet.
    w.client.clear();
    w.off = [true, true];
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    for _ in 0..50 {
        w.passes(100);
        if w.hosts.iter().any(|h| !h.is_empty()) {
            break;
        }
    }
    let n = (0..2).find(|&n| !w.hosts[n].is_empty()).expect("a host is asked");
    serve_directly(&mut w, n, ack);
    let now = w.now;
    let d = w.director.migrations(now);
    assert_eq!((d.unanswered, d.fallback), (1, 1));
}

#[test]
fn a_request_that_may_have_been_served_is_not_sent_over_full_nat_either() {
    let mut w = World::with(Forward::Dr, true);
    let ack = w.handshake();
    w.off = [true; 2];
    w.says(ACK | PSH, FIRST, ack, b"POST /buy HTTP/1.1\r\nContent-Length: 2\r\n\r\nxy");
    let mut heard = vec![];
    for _ in 0..40 {
        w.passes(100);
        heard.append(&mut w.client);
    }
    assert!(heard.iter().any(|s| s.payload.starts_with(b"HTTP/1.1 504 ")), "{heard:?}");
    assert!(w.hosts.iter().all(Vec::is_empty));
}

#[test]
fn a_server_that_refuses_its_filter_is_not_asked_a_second_time() {
    let mut w = World::with(Forward::Dr, true);
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let n = w.asked().unwrap();
    w.take_stack(n);
    w.stack_says(n, RST | ACK, 0, FIRST, b"");
    assert_eq!(w.asked(), Some(1 - n));
    w.take_stack(1 - n);
    let heard = w.stack_says(1 - n, RST | ACK, 0, FIRST, b"");
    assert!(heard.iter().any(|s| s.payload.starts_with(b"HTTP/1.1 503 ")), "{heard:?}");
    assert!(w.hosts.iter().all(Vec::is_empty));
}

#[test]
fn only_one_head_by_itself_is_asked_for_a_second_time() {
    for (request, again) in [(REQUEST.to_vec(), true), ([REQUEST, b"POST /buy"].concat(), false)] {
        let mut w = World::new();
        let ack = w.handshake();
        w.off = [true; 2];
        w.says(ACK | PSH, FIRST, ack, &request);
        let first = w.messages.iter().find(|m| kind(m) == Some(3)).unwrap()[..6].to_vec();
        w.off = [false; 2];
        w.lose = Box::new(move |frame| frame[..6] == first);
        w.passes(3_500);
        assert_eq!(w.asked().is_some(), again);
        assert_eq!(w.client.iter().any(|s| s.payload.starts_with(b"HTTP/1.1 504 ")), !again);
    }
}

#[test]
fn a_connection_over_full_nat_goes_to_a_filter_for_another_servers_request() {
    let mut w = World::deciding(Forward::Dr, true, true);
    w.off = [true; 2];
    w.passes(4_000);
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let syn = std::mem::take(&mut w.hosts[0]);
    let peer = syn[0].from;
    w.host_says(0, peer, SYN | ACK, (SSEQ, FIRST), b"");
    assert_eq!(payloads(&std::mem::take(&mut w.hosts[0])), REQUEST);
    let end = FIRST.wrapping_add(REQUEST.len() as u32);
    assert_eq!(w.host_says(0, peer, ACK | PSH, (SSEQ.wrapping_add(1), end), REPLY)[0].seq, ack);
    let next = ack.wrapping_add(43);
    w.says(ACK, end, next, b"");
    w.off = [false; 2];
    w.passes(1_100);
    w.says(ACK | PSH, end, next, B);
    let (end, next) = exchange(&mut w, 1, 9000, (end, next), B, REPLY);
    assert!(payloads(&std::mem::take(&mut w.hosts[0])).is_empty());
    // Back on the connection that is there still, or by its filter: where it is answered, the numbers are right.
    w.says(ACK | PSH, end, next, REQUEST);
    exchange(&mut w, 0, 77, (end, next), REQUEST, REPLY);
    let d = w.director.migrations(w.now);
    assert_eq!((d.fallback, d.sent, d.accepted, d.recalled), (1, 2, 2, 1));
}

#[test]
fn a_filter_that_is_gone_is_not_waited_for_once_that_is_known() {
    let mut w = World::with(Forward::Dr, true);
    w.passes(1_000);
    w.off = [true; 2];
    // Some 3 s after its last pong a filter is still asked, and half a second later it counts as gone.
    w.passes(2_900);
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    assert!(w.hosts.iter().all(Vec::is_empty));
    w.passes(800);
    let n = (0..2).find(|&n| !w.hosts[n].is_empty()).expect("over full NAT");
    serve_directly(&mut w, n, ack);
    assert_eq!(w.director.migrations(w.now).unanswered, 1);
}

#[test]
fn a_client_that_does_not_answer_on_a_filters_link_is_waited_for_once() {
    let mut w = World::with(Forward::Dr, true);
    let now = w.now;
    w.filters = [0, 1].map(|n| Node::filter_behind(NextHop::default(), n, false, now));
    w.passes(2_100);
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    // The second filter has its own kernel to ask.
    w.passes(4_000);
    let seen = (kinds(&w, 0), w.director.migrations(w.now), &w.client);
    let n = (0..2).find(|&n| !w.hosts[n].is_empty()).unwrap_or_else(|| panic!("over full NAT: {seen:?}"));
    serve_directly(&mut w, n, ack);
    assert_eq!((w.director.migrations(w.now).refused, w.director.migrations(w.now).unanswered), (2, 0));

    // From another port, a moment later: nobody waits.
    let other = "192.0.2.1:2000";
    let frame = |flags, numbers, data: &[u8]| (0, World::frame(DIRECTOR, other, SERVICE, flags, numbers, data));
    w.pump(vec![frame(SYN, (ISN, 0), b"")]);
    let ack = w.client.pop().unwrap().seq.wrapping_add(1);
    w.pump(vec![frame(ACK | PSH, (FIRST, ack), REQUEST)]);
    assert!(w.hosts.iter().flatten().any(|s| s.flags == SYN), "{:?}", w.hosts);
    assert_eq!(w.director.migrations(w.now).refused, 4);
}

#[test]
fn a_live_filter_has_its_time_however_often_it_is_pinged() {
    for interval in [100, 1_000] {
        let mut w = World::asking(Duration::from_millis(interval), Forward::Dr, false, false);
        let ack = w.handshake();
        // It answers pings, and nothing else comes to it.
        w.lose = Box::new(|frame| kind(frame) == Some(3));
        let from = w.now;
        w.says(ACK | PSH, FIRST, ack, REQUEST);
        let given = |w: &World| w.messages.iter().filter(|m| kind(m) == Some(3)).count();
        let first = w.messages.iter().rfind(|m| kind(m) == Some(3)).unwrap()[..6].to_vec();
        w.passes(2_900);
        let to_it = w.messages.iter().filter(|m| kind(m) == Some(3) && m[..6] == first).count();
        assert_eq!((given(&w), to_it), (4, 4), "after 0, 0.2, 0.6 and 1.4 s");
        w.lose = Box::new(|_| false);
        while w.asked().is_none() && w.now < from + 4_000 * MILLISECOND {
            w.passes(50);
        }
        let waited = (w.now - from) / MILLISECOND;
        // Time goes in steps of 50 ms here, and each of the four waits ends with one.
        assert!((3_000..=3_200).contains(&waited), "{waited} ms");
        assert_eq!(w.director.migrations(w.now).live, 2);
    }
}

#[test]
fn a_filter_that_has_said_that_a_connection_is_over_is_there() {
    let mut w = World::new();
    w.lose = Box::new(|frame| kind(frame) == Some(2));
    w.passes(2_900);
    let ack = w.handshake();
    w.lose = Box::new(|frame| matches!(kind(frame), Some(2 | 3)));
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let given = w.messages.iter().rfind(|m| kind(m) == Some(3)).unwrap().clone();
    let (_, Body::Migrate(m)) = Body::read(&given[42..], &key()).unwrap() else { panic!() };
    w.pump(vec![(0, answer(&given, &Body::Refused(m.ends, Why::Over)))]);
    let d = w.director.migrations(w.now);
    assert_eq!((d.unanswered, d.live), (1, 2));

    // Asked back, too.
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    w.lose = Box::new(|frame| kind(frame) == Some(2));
    w.passes(2_900);
    w.lose = Box::new(|frame| matches!(kind(frame), Some(2 | 7)));
    w.says(ACK | PSH, end, next, B);
    let asked = w.messages.iter().rfind(|m| kind(m) == Some(7)).unwrap().clone();
    let (_, Body::Recall(turn)) = Body::read(&asked[42..], &key()).unwrap() else { panic!() };
    w.pump(vec![(0, answer(&asked, &Body::Refused(turn.ends, Why::Over)))]);
    assert!(w.client.iter().any(|s| s.flags & RST != 0));
    let d = w.director.migrations(w.now);
    assert_eq!((d.unanswered, d.live), (1, 2));
}

#[test]
fn a_message_is_sent_a_second_time_even_if_its_filter_is_about_to_count_as_gone() {
    for left in [10, 100] {
        let mut w = World::new();
        w.lose = Box::new(|frame| kind(frame) == Some(2));
        w.now += (3_500 - left) * MILLISECOND;
        let ack = w.handshake();
        let mut lost = false;
        w.lose = Box::new(move |frame| {
            let first = kind(frame) == Some(3) && !lost;
            lost |= first;
            first || kind(frame) == Some(2)
        });
        w.says(ACK | PSH, FIRST, ack, REQUEST);
        let first = usize::from(w.messages.iter().find(|m| kind(m) == Some(3)).expect("given")[5]);
        w.passes(150);
        assert_eq!((w.asked(), w.director.migrations(w.now).live), (None, 0));
        w.passes(100);
        assert_eq!(w.asked(), Some(first));
        serve(&mut w, first, ack);
        w.passes(1_000);
        let d = w.director.migrations(w.now);
        assert_eq!((d.accepted, d.unanswered), (1, 0));
    }
}

/// A client's connection from this port, up to its request.
fn calls(w: &mut World, port: u16) {
    let from = format!("192.0.2.1:{port}");
    w.client.clear();
    w.pump(vec![(0, World::frame(DIRECTOR, &from, SERVICE, SYN, (ISN, 0), b""))]);
    let ack = w.client.pop().unwrap().seq.wrapping_add(1);
    w.pump(vec![(0, World::frame(DIRECTOR, &from, SERVICE, ACK | PSH, (FIRST, ack), REQUEST))]);
}

#[test]
fn a_client_that_has_answered_has_its_time_again_when_its_way_is_lost() {
    // Behind a router, and on the filters' own link, where what is known of a client is a route of its own.
    for on_link in [false, true] {
        let mut w = World::with(Forward::Dr, true);
        let now = w.now;
        let way = |w: &mut World, n: usize, known: bool| {
            let now = w.now;
            w.filters[n].reinstall(now, |s| {
                let hop = NextHop::new(ROUTER, wire(n), 0, 1500);
                s.next_hops[1] = if known { hop } else { NextHop::default() };
                if on_link {
                    s.routes.insert("0.0.0.0".parse().unwrap(), 0, Via::OnLink);
                    let via = if known { Via::NextHop(1) } else { Via::OnLink };
                    s.routes.insert("192.0.2.1".parse().unwrap(), 32, via);
                }
            });
        };
        w.filters = [0, 1].map(|n| Node::filter_behind(NextHop::default(), n, false, now));
        (0..2).for_each(|n| way(&mut w, n, false));
        w.passes(2_100);
        // Each of the filters twice.
        for port in 2_000..2_004 {
            calls(&mut w, port);
            assert_eq!(w.asked(), None);
            let n = usize::from(w.messages.iter().rfind(|m| kind(m) == Some(3)).expect("given")[5]);
            let said = std::iter::from_fn(|| w.filters[n].worker.pipeline_mut().event()).last();
            let asks = match said {
                Some(Event::NeedNeighbour(client)) => on_link && client.to_string() == "192.0.2.1",
                Some(Event::NeedNextHop(1)) => !on_link,
                _ => false,
            };
            assert!(asks, "{said:?}");
            way(&mut w, n, true);
            w.passes(250);
            assert_eq!(w.asked(), Some(n), "the message that came again finds the way");
            let answer = World::frame(arm(n), SERVICE, &format!("192.0.2.1:{port}"), SYN | ACK, (SSEQ, FIRST), b"");
            assert!(w.filters[n].worker.port_mut().inject(1, &answer));
            w.pump(vec![]);
            assert!(payloads(&w.take_stack(n)).starts_with(REQUEST));
            // Lost again, long before the filter would have forgotten that it had asked.
            w.passes(1_500);
            (0..2).for_each(|n| way(&mut w, n, false));
        }
        let now = w.now;
        assert_eq!([0, 1].map(|n| w.filters[n].migrations(now).refused), [0, 0]);
    }
}
