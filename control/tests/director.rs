//! The director's core over real workers in one loop: what a user of `lcs` can see.

mod lab;

use lab::{HEAD, Lab, neighbours, service};
use lcs_control::protocol::{ConnectionFilter, FailureCode, Request, Response, ServerSettings, Stats};
use lcs_control::render;
use lcs_pipelines::command::TraceFilter;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

const SYN: u8 = 2;
const ACK: u8 = 16;

fn server(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, host)
}

fn weight(service: &str, server: &str, weight: u32) -> Request {
    Request::Weight { service: service.into(), server: server.into(), weight }
}

/// Opens connections from these client ports and returns who serves them.
fn open(lab: &mut Lab, ports: std::ops::Range<u16>) -> HashMap<u16, Ipv4Addr> {
    ports
        .map(|port| {
            let to = lab.client(10, port, SYN).expect("a new connection is served");
            assert!(lab.server(to, port, SYN | ACK), "its answer comes to the client");
            assert_eq!(lab.client(10, port, ACK), Some(to));
            (port, to)
        })
        .collect()
}

fn count(served: &HashMap<u16, Ipv4Addr>, host: u8) -> usize {
    served.values().filter(|s| **s == server(host)).count()
}

#[test]
fn connections_spread_as_weights_say_and_a_new_weight_acts_on_new_ones() {
    let mut lab = Lab::new(&format!("{HEAD}{}{}", neighbours(2), service("web", 10, &[(1, 1), (2, 1)])));
    let first = open(&mut lab, 1000..1100);
    assert_eq!((count(&first, 1), count(&first, 2)), (50, 50));
    let applied = lab.apply(weight("web", "s2", 4));
    assert_eq!((applied.workers, applied.changes[0].to_string().as_str()), (1, "~ web/s2: weight 1 → 4"));
    let second = open(&mut lab, 2000..2100);
    assert_eq!((count(&second, 1), count(&second, 2)), (20, 80));
    for (port, to) in first {
        assert_eq!(lab.client(10, port, ACK), Some(to), "an open connection stays where it is");
    }
    lab.check_buffers();
}

#[test]
fn what_a_port_loses_is_told_though_no_worker_has_seen_it() {
    let mut lab = Lab::new(&format!("{HEAD}{}{}", neighbours(1), service("web", 10, &[(1, 1)])));
    let Ok(Response::Stats(quiet)) = lab.ask(Request::Stats) else { panic!() };
    assert_eq!(quiet.total.losses, []);
    // A worker that does not take what comes, until the port has no buffer left.
    let overrun = |lab: &mut Lab| (0..600).filter(|_| !lab.workers[0].port_mut().inject(0, &[0; 60])).count() as u64;
    let lost = overrun(&mut lab);
    assert!(lost > 0);
    let Ok(Response::Stats(stats)) = lab.ask(Request::Stats) else { panic!() };
    let told = |stats: &Stats| stats.total.losses.iter().map(|l| (l.reason.clone(), l.frames)).collect::<Vec<_>>();
    assert_eq!(told(&stats), [("rx-no-buffer".to_owned(), lost)]);
    assert_eq!(stats.total.losses[0].interface, "eth0");
    assert_eq!(stats.total.received, 600 - lost, "they are not among those received");
    assert!(!render::stats(&stats, None).contains("nothing lost by the port"));
    let notices = |lab: &mut Lab| {
        let Ok(Response::Status(status)) = lab.ask(Request::Status) else { panic!() };
        let lost = status.notices.into_iter().map(|n| n.text).filter(|text| text.contains("rx-no-buffer"));
        lost.collect::<Vec<_>>()
    };
    let said = notices(&mut lab);
    assert!(said.len() == 1 && said[0].contains(&format!("eth0 has lost {lost} frames")), "{said:?}");
    // More within a minute is told behind it, all together.
    let more = overrun(&mut lab);
    assert_eq!(notices(&mut lab).len(), 1);
    let more = more + overrun(&mut lab);
    lab.advance(Duration::from_secs(61));
    let said = notices(&mut lab);
    assert!(said.len() == 2 && said[1].contains(&format!("eth0 has lost {more} frames")), "{said:?}");
    lab.check_buffers();
}

#[test]
fn a_reload_interrupts_nothing_and_a_removed_server_goes_when_its_connections_are_gone() {
    let both = format!("{HEAD}{}{}", neighbours(3), service("web", 10, &[(1, 1), (2, 1)]));
    let mut lab = Lab::new(&both);
    let before = open(&mut lab, 1000..1100);
    lab.write(&format!("{HEAD}{}{}", neighbours(3), service("web", 10, &[(2, 1), (3, 1)])));
    let applied = lab.apply(Request::Reload);
    let said: Vec<String> = applied.changes.iter().map(|c| c.subject.clone()).collect();
    assert_eq!(said, ["web/s1", "web/s3"]);
    for (port, to) in &before {
        assert_eq!(lab.client(10, *port, ACK), Some(*to), "an open connection stays where it is");
    }
    let after = open(&mut lab, 2000..2100);
    assert_eq!((count(&after, 1), count(&after, 2) > 0, count(&after, 3) > 0), (0, true, true));
    assert_eq!(lab.dropped(), 0);

    // It is there as long as it has connections.
    lab.advance(Duration::from_secs(2));
    assert_eq!(lab.control.model().counts().draining_servers, 1);
    let list = Request::Connections {
        filter: ConnectionFilter { server: Some("s1".into()), ..Default::default() },
        limit: 1000,
    };
    let Ok(Response::Connections(c)) = lab.ask(list.clone()) else { panic!() };
    assert_eq!((c.connections.len(), c.more), (50, false));
    // Then they time out, and it goes.
    for _ in 0..100 {
        lab.advance(Duration::from_secs(15));
    }
    lab.until(|l| l.control.model().counts().draining_servers == 0);
    let Ok(Response::Connections(c)) = lab.ask(list) else { panic!() };
    assert!(c.connections.is_empty());
    let Ok(Response::Status(status)) = lab.ask(Request::Status) else { panic!() };
    assert!(status.notices.iter().any(|n| n.text.contains("web/s1 has no connections left")), "{status:?}");
    lab.check_buffers();
}

#[test]
fn a_bad_file_is_refused_whole_and_changes_nothing() {
    let good = format!("{HEAD}{}{}", neighbours(2), service("web", 10, &[(1, 1), (2, 1)]));
    let mut lab = Lab::new(&good);
    let generation = lab.control.model().generation();
    let cases = [
        (good.replace("weight = 1", "wieght = 1"), "did you mean `weight`?"),
        (good.replace("[workers]", "[workers"), "not TOML"),
        (format!("{good}{}", service("other", 10, &[])), "are both on tcp 192.0.2.10:80"),
        (good.replace("flows = 4096", "flows = 8192"), "[workers] flows cannot change while the director runs"),
        (
            format!(
                "{good}{}",
                service("v6", 11, &[]).replace(
                    "servers = [",
                    "forward = \"tunnel\"\nservers = [\n{ name = \"t\", address = \"2001:db8::1\" },"
                )
            ),
            "no address to begin at",
        ),
    ];
    for (text, said) in cases {
        lab.write(&text);
        let failure = lab.ask(Request::Reload).unwrap_err();
        assert_eq!(failure.code, FailureCode::Refused);
        assert!(failure.message.contains(said), "{}", failure.message);
        assert_eq!(lab.control.model().generation(), generation);
    }
    open(&mut lab, 1000..1010);
    lab.write(&good);
    let applied = lab.apply(Request::Reload);
    assert!(applied.changes.is_empty() && applied.note.is_some(), "{applied:?}");
}

#[test]
fn a_drained_server_takes_no_new_connections_and_can_be_taken_up_again() {
    let mut lab = Lab::new(&format!("{HEAD}{}{}", neighbours(2), service("web", 10, &[(1, 1), (2, 1)])));
    let before = open(&mut lab, 1000..1010);
    lab.apply(Request::Drain { service: "web".into(), server: "s1".into() });
    let during = open(&mut lab, 2000..2010);
    assert_eq!(count(&during, 1), 0);
    for (port, to) in &before {
        assert_eq!(lab.client(10, *port, ACK), Some(*to));
    }
    let up = ServerSettings { state: Some(lcs_control::config::Admin::Up), ..Default::default() };
    lab.apply(Request::SetServer { service: "web".into(), server: "s1".into(), set: up });
    assert_eq!(count(&open(&mut lab, 3000..3010), 1), 5);
}

#[test]
fn every_worker_acknowledges_and_one_that_does_not_is_named() {
    let text = format!("{HEAD}cores = [0, 1]\n{}{}", neighbours(2), service("web", 10, &[(1, 1), (2, 1)]));
    let mut lab = Lab::new(&text);
    assert_eq!(lab.apply(weight("web", "s1", 3)).workers, 2);
    open(&mut lab, 1000..1050);
    lab.stuck = vec![1];
    let failure = lab.ask(weight("web", "s1", 5)).unwrap_err();
    assert_eq!(failure.code, FailureCode::Timeout);
    assert!(failure.message.contains("worker 1 has not acknowledged"), "{}", failure.message);
    assert!(failure.message.contains("1 of 2 workers have the change"), "{}", failure.message);
    let failure = lab.ask(Request::RemoveServer { service: "web".into(), server: "s2".into() }).unwrap_err();
    assert!(failure.message.contains("worker 1"), "{}", failure.message);
    // It comes back and gets everything that it has missed.
    lab.stuck.clear();
    lab.until(|l| l.control.is_settled());
    assert_eq!(count(&open(&mut lab, 2000..2050), 2), 0);
}

#[test]
fn a_worker_that_ends_is_named_and_nothing_hangs() {
    let mut lab = Lab::new(&format!("{HEAD}{}{}", neighbours(1), service("web", 10, &[(1, 1)])));
    let ticket = lab.control.submit(Request::Trace { filter: TraceFilter::default(), frames: 5 });
    lab.turn();
    lab.workers.clear();
    lab.turn();
    assert_eq!(lab.control.ended().as_deref(), Some("worker 0 has ended"));
    assert_eq!(lab.answers(ticket).pop().unwrap().unwrap_err().code, FailureCode::Internal);
    assert!(lab.ask(Request::Status).unwrap_err().message.contains("worker 0 has ended"));
}

#[test]
fn steering_follows_the_services_and_keeps_what_drains() {
    let mut lab = Lab::new(&format!("{HEAD}{}{}", neighbours(2), service("web", 10, &[(1, 1), (2, 1)])));
    open(&mut lab, 1000..1010);
    let last = |lab: &Lab| lab.steered.0.lock().unwrap().sets.last().cloned().unwrap();
    assert_eq!((last(&lab).services.len(), last(&lab).replies.len(), last(&lab).locals.len()), (1, 2, 1));
    lab.apply(Request::RemoveService { service: "web".into() });
    assert_eq!((last(&lab).services.len(), last(&lab).replies.len()), (1, 2), "its connections live on");
    for _ in 0..100 {
        lab.advance(Duration::from_secs(15));
    }
    lab.until(|l| last(l).services.is_empty() && last(l).replies.is_empty());

    // A refusal is told to who asked, and tried again.
    lab.steered.0.lock().unwrap().refuse = true;
    lab.write(&format!("{HEAD}{}", service("new", 11, &[(1, 1)])));
    let failure = lab.ask(Request::Reload).unwrap_err();
    assert!(failure.message.contains("the kernel says no"), "{}", failure.message);
    lab.steered.0.lock().unwrap().refuse = false;
    lab.until(|l| l.control.is_settled());
    assert_eq!(last(&lab).services.len(), 1);
}

#[test]
fn stats_services_and_connections_agree_with_what_happened() {
    let text = format!("{HEAD}cores = [0, 1]\n{}{}", neighbours(2), service("web", 10, &[(1, 1), (2, 3)]));
    let mut lab = Lab::new(&text);
    let served = open(&mut lab, 1000..1080);
    assert_eq!(lab.client(99, 5, SYN), None, "no such service");
    let Ok(Response::Stats(stats)) = lab.ask(Request::Stats) else { panic!() };
    assert_eq!((stats.workers.len(), stats.total.received, stats.total.forwarded), (2, 241, 240));
    assert_eq!((stats.total.dropped, stats.total.drops[0].reason.as_str()), (1, "not-for-us"));
    assert!(!stats.total.drops[0].explanation.is_empty());
    assert_eq!((stats.total.flows, stats.total.states["established"]), (80, 80));
    let names: Vec<&str> = stats.total.stages.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["receive", "classify", "lookup", "schedule", "exceptions", "forward", "bind", "transmit"]);
    let Ok(Response::Services(services)) = lab.ask(Request::Services) else { panic!() };
    let web = &services.services[0];
    assert_eq!(web.servers[1].stats.connections as usize, count(&served, 2));
    assert_eq!((web.stats.active, web.stats.packets_in, &web.servers[0].problem), (80, 160, &None));
    let list = |limit, client: &str| Request::Connections {
        filter: ConnectionFilter { client: Some(client.parse().unwrap()), ..Default::default() },
        limit,
    };
    let Ok(Response::Connections(c)) = lab.ask(list(1000, "198.51.100.0/24")) else { panic!() };
    assert_eq!((c.connections.len(), c.more), (80, false));
    for c in &c.connections {
        assert_eq!(std::net::IpAddr::V4(served[&c.client.port()]), c.server_address.unwrap().ip());
        assert_eq!((c.service.as_str(), c.server_address.unwrap().port()), ("web", 80));
    }
    let Ok(Response::Connections(c)) = lab.ask(list(10, "198.51.100.0/24")) else { panic!() };
    assert_eq!((c.connections.len(), c.more), (10, true));
    let Ok(Response::Connections(c)) = lab.ask(list(10, "203.0.113.0/24")) else { panic!() };
    assert!(c.connections.is_empty());
}

#[test]
fn a_trace_shows_the_next_frames_ends_by_itself_and_is_one_at_a_time() {
    let mut lab = Lab::new(&format!("{HEAD}{}{}", neighbours(1), service("web", 10, &[(1, 1)])));
    let filter = TraceFilter { port: Some(80), ..TraceFilter::default() };
    let ticket = lab.control.submit(Request::Trace { filter: filter.clone(), frames: 3 });
    let second = lab.ask(Request::Trace { filter: filter.clone(), frames: 3 }).unwrap_err();
    assert_eq!(second.code, FailureCode::Busy);
    for port in 1000..1010 {
        lab.client(10, port, SYN);
    }
    let answers = lab.answers(ticket);
    assert_eq!(answers.len(), 4);
    for answer in &answers[..3] {
        let Ok(Response::Trace(traced)) = answer else { panic!("{answer:?}") };
        assert_eq!(traced.record.verdict, "forward");
        assert!(traced.record.steps.iter().any(|(stage, _)| stage == "schedule"), "{traced:?}");
    }
    assert!(matches!(&answers[3], Ok(Response::TraceEnd(end)) if end.frames == 3));
    // Its client goes away: the trace is off.
    let ticket = lab.control.submit(Request::Trace { filter, frames: 3 });
    lab.turn();
    lab.control.cancel(ticket);
    lab.until(|l| !l.control.is_busy());
    lab.client(10, 2000, SYN);
    assert!(lab.answers(ticket).is_empty());
}

#[test]
fn a_trace_names_the_server_that_a_segments_addresses_do_not() {
    for forward in ["dr", "tunnel"] {
        let services =
            service("web", 10, &[(1, 1)]).replace("port = 80\n", &format!("port = 80\nforward = \"{forward}\"\n"));
        let mut lab = Lab::new(&format!("{HEAD}{}{services}", neighbours(1)));
        let ticket = lab.control.submit(Request::Trace { filter: TraceFilter::default(), frames: 1 });
        lab.turn();
        lab.client(10, 1000, SYN);
        let answers = lab.answers(ticket);
        let Some(Ok(Response::Trace(traced))) = answers.first() else { panic!("{forward}: {answers:?}") };
        let (came, sent) = (traced.record.segment.as_ref().unwrap(), traced.record.sent_segment.as_ref().unwrap());
        assert_eq!(sent.destination.ip(), std::net::IpAddr::V4(server(1)), "{forward}: {traced:?}");
        assert_eq!((sent.source, sent.seq, sent.destination.port()), (came.source, came.seq, came.destination.port()));
        let frame = traced.record.sent.as_deref().unwrap_or_default();
        assert_eq!(frame.contains("192.0.2.10:80"), forward == "dr", "as it was sent: {frame}");
    }
}

#[test]
fn unknown_names_and_bad_numbers_are_refused_with_a_mend() {
    let mut lab = Lab::new(&format!("{HEAD}{}{}", neighbours(1), service("web", 10, &[(1, 1)])));
    let name = |s: &str| s.to_owned();
    let none = Request::RemoveServer { service: name("wbe"), server: name("s1") };
    let failure = lab.ask(none).unwrap_err();
    assert_eq!(failure.code, FailureCode::NotFound);
    assert!(failure.message.contains("did you mean web?"), "{failure}");
    let cases = [
        (Request::Connections { filter: ConnectionFilter::default(), limit: 0 }, FailureCode::BadRequest),
        (Request::Trace { filter: TraceFilter::default(), frames: 0 }, FailureCode::BadRequest),
        (
            Request::Connections {
                filter: ConnectionFilter { state: Some(name("open")), ..Default::default() },
                limit: 1,
            },
            FailureCode::BadRequest,
        ),
        (weight("web", "s9", 1), FailureCode::NotFound),
        (weight("web", "s1", 70_000), FailureCode::Refused),
        (
            Request::AddServer { service: name("web"), server: name("s1"), set: ServerSettings::default() },
            FailureCode::Refused,
        ),
        (
            Request::AddServer { service: name("web"), server: name("s2"), set: ServerSettings::default() },
            FailureCode::BadRequest,
        ),
    ];
    for (request, code) in cases {
        let failure = lab.ask(request.clone()).unwrap_err();
        assert_eq!(failure.code, code, "{request:?}: {failure}");
    }
}

#[test]
fn ten_thousand_changes_under_load_lose_no_packet() {
    let text = format!("{HEAD}cores = [0, 1]\n{}{}", neighbours(4), service("web", 10, &[(1, 1), (2, 1)]));
    let mut lab = Lab::new(&text);
    let open = open(&mut lab, 1000..1064);
    let names = |i: u32| (format!("v{}", i % 7), format!("s{}", 3 + i % 2));
    let mut tickets = Vec::new();
    let mut refused = 0;
    for i in 0..10_000u32 {
        let (other, server_name) = names(i);
        let address = Some(std::net::IpAddr::V4(server(3 + (i % 2) as u8)));
        let request = match i % 10 {
            0 => Request::AddServer {
                service: "web".into(),
                server: server_name,
                set: ServerSettings { address, weight: Some(2), ..Default::default() },
            },
            5 => Request::RemoveServer { service: "web".into(), server: names(i + 1).1 },
            1 => Request::AddService {
                service: Box::new(
                    lab::parse(&format!("{HEAD}{}", service(&other, 20 + (i % 7) as u8, &[(3, 1)])))
                        .unwrap()
                        .services
                        .remove(0),
                ),
                content: None,
            },
            6 => Request::RemoveService { service: other },
            3 => Request::SetService {
                service: "web".into(),
                set: lcs_control::protocol::ServiceSettings {
                    scheduler: Some(if i % 20 == 3 {
                        lcs_pipelines::snapshot::Scheduler::Wlc
                    } else {
                        lcs_pipelines::snapshot::Scheduler::Wrr
                    }),
                    ..Default::default()
                },
            },
            _ => weight("web", if i % 2 == 0 { "s1" } else { "s2" }, 1 + i % 9),
        };
        tickets.push(lab.control.submit(request));
        if i % 4 == 0 {
            let port = 1000 + (i / 4 % 64) as u16;
            assert_eq!(lab.client(10, port, ACK), Some(open[&port]), "change {i}: an open connection stays");
        }
        if i % 40 == 0 {
            let to = lab.client(10, 10_000 + (i / 40) as u16, SYN);
            assert!(to.is_some(), "change {i}: a new connection is served");
        }
        if tickets.len() >= 64 {
            let waiting = std::mem::take(&mut tickets);
            lab.until(|l| !l.control.is_busy());
            for ticket in waiting {
                match lab.answers(ticket).pop() {
                    Some(Ok(Response::Applied(_))) => {}
                    // Adding what is there and removing what is not are refused; nothing else may be.
                    Some(Err(f)) if matches!(f.code, FailureCode::Refused | FailureCode::NotFound) => refused += 1,
                    other => panic!("change {i}: {other:?}"),
                }
            }
        }
    }
    lab.until(|l| l.control.is_settled());
    assert_eq!(lab.dropped(), 0, "no packet is lost");
    assert!(refused < 4_000, "most changes are made: {refused} were refused");
    for (port, to) in open {
        assert_eq!(lab.client(10, port, ACK), Some(to));
    }
    lab.check_buffers();
}
