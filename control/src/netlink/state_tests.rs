//! The follower's decisions, against a made-up kernel and a made-up clock.

use super::super::change::Unresolved;
use super::super::fib::{Kind, Path, Route};
use super::super::message::{RouteAction, Table};
use super::super::tables::{Address, Reachability};
use super::*;
use lcs_dataplane::headers::MacAddr;
use std::net::IpAddr;

const D0: u32 = 2;
const OTHER: u32 = 3;
const SERVER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn link(name: &str, up: bool) -> Link {
    let mac = Some(MacAddr([2, 0, 0, 0, 0, 1]));
    Link { name: name.into(), mac, mtu: 1500, administratively_up: up, carrier: up, arp: true }
}

fn link_event(index: u32, name: &str, up: bool) -> Event {
    Event::Link { index, link: Some(link(name, up)) }
}

fn route_event(action: RouteAction, prefix: &str, length: u8, metric: u32, paths: &[(u32, Option<&str>)]) -> Event {
    let paths = paths.iter().map(|(interface, g)| Path { interface: *interface, gateway: g.map(ip) }).collect();
    let route = Route { kind: Kind::Unicast, metric, paths, mtu: None, source: None };
    Event::Route(RouteEvent { action, table: Table::Main, prefix: ip(prefix), length, route })
}

fn entry(reachability: Reachability, managed: bool) -> Neighbour {
    Neighbour { reachability, mac: Some(SERVER), managed, fixed: false }
}

fn neighbour_event(address: &str, neighbour: Option<Neighbour>) -> Event {
    Event::Neighbour { key: (D0, ip(address)), neighbour }
}

/// A kernel that holds these objects, and the follower of it.
struct Lab {
    state: State,
    now: Instant,
    /// What a dump gives.
    holds: Vec<Event>,
    /// Requests other than dumps, in order.
    asked: Vec<Request>,
    /// How many dumps are still said to be interrupted.
    interruptions: u32,
    /// Whether other requests are acknowledged at once.
    answers: Option<i32>,
}

impl Lab {
    fn new() -> Self {
        let now = Instant::now();
        Lab {
            state: State::new(vec!["d0".into()], now),
            now,
            holds: vec![
                link_event(1, "lo", true),
                link_event(D0, "d0", true),
                link_event(OTHER, "other", true),
                Event::Address {
                    address: Address { interface: D0, address: ip("10.0.0.1"), length: 24 },
                    state: Some((false, false)),
                },
                route_event(RouteAction::Add, "10.0.0.0", 24, 0, &[(D0, None)]),
            ],
            asked: vec![],
            interruptions: 0,
            answers: Some(0),
        }
    }

    fn synced() -> Self {
        let mut lab = Lab::new();
        lab.run();
        while lab.state.next_change().is_some() {}
        lab
    }

    fn hear(&mut self, event: Event) {
        self.state.handle(self.now, Incoming { sequence: 0, interrupted: false, body: Body::Event(event) });
    }

    /// Takes requests, and answers them, until there are none.
    fn run(&mut self) {
        self.state.tick(self.now);
        while let Some(request) = self.state.next_request(self.now) {
            let sequence = request.sequence;
            let What::Dump(dump) = request.what else {
                self.asked.push(request);
                if let Some(error) = self.answers {
                    self.state.handle(self.now, Incoming { sequence, interrupted: false, body: Body::Answer(error) });
                }
                continue;
            };
            let interrupted = self.interruptions > 0;
            self.interruptions = self.interruptions.saturating_sub(1);
            let belongs = |e: &&Event| match (e, dump) {
                (Event::Link { .. }, Dump::Links) | (Event::Address { .. }, Dump::Addresses) => true,
                (Event::Route(r), Dump::Routes { v4 }) => r.prefix.is_ipv4() == v4,
                (Event::Neighbour { key, .. }, Dump::Neighbours { v4 }) => key.1.is_ipv4() == v4,
                _ => false,
            };
            for event in self.holds.iter().filter(belongs).cloned().collect::<Vec<_>>() {
                self.state.handle(self.now, Incoming { sequence, interrupted, body: Body::Event(event) });
            }
            self.state.handle(self.now, Incoming { sequence, interrupted, body: Body::Done });
        }
    }

    fn pass(&mut self, milliseconds: u64) {
        self.now += Duration::from_millis(milliseconds);
        self.run();
    }

    /// Runs, and gives what is said about next hops: the link-layer address, or the reason's name.
    fn said(&mut self) -> Vec<(IpAddr, Result<MacAddr, &'static str>)> {
        self.run();
        let mut said = vec![];
        while let Some(change) = self.state.next_change() {
            if let Change::NextHop { target, resolution } = change {
                said.push((target.address, resolution.map(|h| h.destination).map_err(|e| e.name())));
            }
        }
        said
    }

    /// The requests since the last call, by what they ask and for whom.
    fn requests(&mut self) -> Vec<(&'static str, IpAddr)> {
        let name = |r: &Request| match r.what {
            What::Resolve { key, exists: false } => ("create", key.1),
            What::Resolve { key, exists: true } => ("probe", key.1),
            What::Release(key) => ("release", key.1),
            What::Dump(_) => unreachable!("dumps are answered in run"),
        };
        self.asked.drain(..).map(|r| name(&r)).collect()
    }
}

#[test]
fn nothing_is_said_before_everything_is_known() {
    let mut lab = Lab::new();
    lab.state.watch(ip("10.0.0.2").into());
    lab.holds.push(neighbour_event("10.0.0.2", Some(entry(Reachability::Fresh, true))));
    assert_eq!(lab.state.next_change(), None);
    lab.run();
    let said: Vec<_> = std::iter::from_fn(|| lab.state.next_change()).collect();
    assert!(matches!(&said[0], Change::Interfaces(i) if i[0].up && i[0].index == Some(D0)), "{said:?}");
    assert!(matches!(&said[1], Change::OwnAddresses(a) if *a == [ip("10.0.0.1")]), "{said:?}");
    assert!(matches!(&said[2], Change::Route(r) if r.route.is_some()), "{said:?}");
    assert!(matches!(&said[3], Change::NextHop { resolution: Ok(h), .. } if h.destination == SERVER), "{said:?}");
    assert_eq!(said[4..], [Change::Synced]);
    assert_eq!(lab.requests(), [], "the entry is managed already: nothing to ask");
}

#[test]
fn a_missing_neighbour_is_asked_for_again_and_again_more_rarely() {
    let mut lab = Lab::synced();
    lab.state.watch(ip("10.0.0.2").into());
    assert_eq!(lab.said(), [(ip("10.0.0.2"), Err("no-neighbour"))]);
    assert_eq!(lab.requests(), [("create", ip("10.0.0.2"))]);
    let mut at = vec![];
    for second in 1..=40 {
        lab.pass(1000);
        // The kernel gives up after three seconds.
        lab.hear(neighbour_event("10.0.0.2", Some(Neighbour { mac: None, ..entry(Reachability::Failed, true) })));
        at.extend(lab.requests().into_iter().map(|(kind, _)| (kind, second)));
    }
    assert_eq!(
        at,
        [("probe", 1), ("probe", 3), ("probe", 7), ("probe", 15), ("probe", 23), ("probe", 31), ("probe", 39)]
    );
    assert_eq!(lab.said(), [(ip("10.0.0.2"), Err("no-neighbour"))], "said again once, as failed");
    lab.hear(neighbour_event("10.0.0.2", Some(entry(Reachability::Fresh, true))));
    assert_eq!(lab.said(), [(ip("10.0.0.2"), Ok(SERVER))]);
    lab.pass(60_000);
    assert_eq!(lab.requests(), []);
}

#[test]
fn a_kernel_that_does_not_keep_neighbours_is_asked_whenever_they_are_stale() {
    let mut lab = Lab::synced();
    lab.state.watch(ip("10.0.0.2").into());
    lab.run();
    lab.hear(neighbour_event("10.0.0.2", Some(entry(Reachability::Fresh, false))));
    assert_eq!(lab.said(), [(ip("10.0.0.2"), Ok(SERVER))]);
    lab.requests();
    lab.pass(30_000);
    assert_eq!(lab.requests(), []);
    lab.hear(neighbour_event("10.0.0.2", Some(entry(Reachability::Stale, false))));
    assert_eq!(lab.said(), [], "a stale entry is still used");
    assert_eq!(lab.requests(), [("probe", ip("10.0.0.2"))]);
    lab.hear(neighbour_event("10.0.0.2", Some(entry(Reachability::Fresh, false))));
    lab.pass(30_000);
    assert_eq!(lab.requests(), []);
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let mut lab = Lab::synced();
    let fixed = Neighbour { fixed: true, ..entry(Reachability::Fresh, false) };
    lab.hear(neighbour_event("10.0.0.2", Some(fixed)));
    lab.hear(neighbour_event("10.0.0.3", Some(entry(Reachability::Fresh, true))));
    for address in ["10.0.0.2", "10.0.0.3"] {
        lab.state.watch(ip(address).into());
    }
    assert_eq!(lab.said().len(), 2);
    lab.state.unwatch(ip("10.0.0.2").into());
    lab.state.finish();
    lab.pass(10_000);
    assert_eq!(lab.requests(), [], "permanent, and managed by somebody else");
}

#[test]
fn what_was_made_managed_is_given_back_unless_it_is_needed_again() {
    let mut lab = Lab::synced();
    lab.hear(neighbour_event("10.0.0.2", Some(entry(Reachability::Fresh, false))));
    let (target, gateway) = (ip("10.0.0.2").into(), Target::on_link(ip("10.0.0.2"), D0));
    lab.state.watch(target);
    lab.state.watch(gateway);
    lab.run();
    lab.hear(neighbour_event("10.0.0.2", Some(entry(Reachability::Fresh, true))));
    assert_eq!(lab.requests(), [("probe", ip("10.0.0.2"))], "one request for both");
    lab.state.unwatch(target);
    lab.run();
    assert_eq!(lab.requests(), [], "one still needs it");
    lab.state.unwatch(gateway);
    lab.state.watch(target);
    lab.run();
    assert_eq!(lab.requests(), [], "needed again before it was given back");
    lab.state.finish();
    assert!(!lab.state.finished());
    lab.run();
    assert_eq!(lab.requests(), [("release", ip("10.0.0.2"))]);
    assert!(lab.state.finished());
}

#[test]
fn a_dropped_entry_is_used_for_a_moment_and_a_failed_one_is_not() {
    let mut lab = Lab::synced();
    lab.hear(neighbour_event("10.0.0.2", Some(entry(Reachability::Fresh, true))));
    lab.state.watch(ip("10.0.0.2").into());
    assert_eq!(lab.said(), [(ip("10.0.0.2"), Ok(SERVER))]);
    lab.hear(neighbour_event("10.0.0.2", None));
    assert_eq!(lab.said(), []);
    assert_eq!(lab.requests(), [("create", ip("10.0.0.2"))]);
    assert!(lab.state.deadline().is_some());
    lab.pass(1900);
    assert_eq!(lab.said(), []);
    lab.pass(200);
    assert_eq!(lab.said(), [(ip("10.0.0.2"), Err("no-neighbour"))]);

    lab.hear(neighbour_event("10.0.0.2", Some(entry(Reachability::Fresh, true))));
    lab.hear(neighbour_event("10.0.0.2", Some(entry(Reachability::Failed, true))));
    assert_eq!(lab.said(), [(ip("10.0.0.2"), Err("no-neighbour"))], "this time it has failed");
    lab.hear(neighbour_event("10.0.0.2", None));
    lab.run();
    assert_eq!(lab.said(), []);
}

#[test]
fn a_refusal_of_the_kernel_is_told() {
    for (error, words) in [(1, "CAP_NET_ADMIN"), (105, "gc_thresh3"), (22, "Invalid argument")] {
        let mut lab = Lab::synced();
        lab.answers = Some(error);
        lab.state.watch(ip("10.0.0.2").into());
        lab.run();
        let last = std::iter::from_fn(|| lab.state.next_change()).last();
        let Some(Change::NextHop { resolution: Err(why @ Unresolved::NoNeighbour { .. }), .. }) = last else {
            panic!("{last:?}");
        };
        assert!(why.to_string().contains(words), "{why}");
    }
}

#[test]
fn an_entry_that_appears_while_it_is_asked_for_is_probed_instead() {
    let mut lab = Lab::synced();
    lab.answers = Some(17);
    lab.state.watch(ip("10.0.0.2").into());
    lab.run();
    lab.answers = Some(0);
    lab.pass(1000);
    assert_eq!(lab.requests(), [("create", ip("10.0.0.2")), ("probe", ip("10.0.0.2"))]);
}

#[test]
fn requests_without_an_answer_are_few_and_an_overrun_forgets_them() {
    let mut lab = Lab::synced();
    lab.answers = None;
    for n in 2..=200 {
        lab.state.watch(IpAddr::from([10, 0, 0, n]).into());
    }
    lab.run();
    assert_eq!(lab.requests().len(), 64);
    lab.pass(60_000);
    assert_eq!(lab.requests().len(), 0);
    lab.answers = Some(0);
    lab.state.handle(lab.now, Incoming { sequence: 0, interrupted: false, body: Body::Overrun });
    lab.run();
    assert_eq!(lab.requests().len(), 199);
}

#[test]
fn after_an_overrun_what_is_gone_is_gone_and_what_came_is_there() {
    let mut lab = Lab::synced();
    for address in ["10.0.0.2", "10.0.0.3", "172.16.0.2"] {
        lab.state.watch(ip(address).into());
    }
    lab.hear(neighbour_event("10.0.0.2", Some(entry(Reachability::Fresh, true))));
    lab.hear(route_event(RouteAction::Add, "172.16.0.0", 16, 0, &[(D0, Some("10.0.0.2"))]));
    lab.said();
    // Lost: one neighbour goes, the other comes, the route goes.
    lab.holds.push(neighbour_event("10.0.0.3", Some(entry(Reachability::Fresh, true))));
    lab.state.handle(lab.now, Incoming { sequence: 0, interrupted: false, body: Body::Overrun });
    lab.pass(0);
    lab.pass(3000);
    let mut said = lab.said();
    said.sort();
    let expected =
        [(ip("10.0.0.2"), Err("no-neighbour")), (ip("10.0.0.3"), Ok(SERVER)), (ip("172.16.0.2"), Err("no-route"))];
    assert_eq!(said, expected);
    assert_eq!(lab.state.client_routes().len(), 1);
}

#[test]
fn an_interrupted_dump_takes_nothing_away_and_is_repeated() {
    let mut lab = Lab::synced();
    lab.hear(route_event(RouteAction::Add, "172.16.0.0", 16, 0, &[(D0, Some("10.0.0.2"))]));
    lab.said();
    lab.interruptions = 6;
    lab.state.handle(lab.now, Incoming { sequence: 0, interrupted: false, body: Body::Overrun });
    lab.said();
    assert_eq!(lab.state.client_routes().len(), 2);
    lab.pass(60_000);
    lab.said();
    assert_eq!(lab.state.client_routes().len(), 1);
    assert!(lab.state.deadline().is_none(), "it comes to rest");
}

#[test]
fn a_dump_that_never_ends_is_started_anew() {
    let mut state = State::new(vec![], Instant::now());
    let start = Instant::now();
    let first = state.next_request(start).unwrap();
    assert_eq!(first.what, What::Dump(Dump::Links));
    assert_eq!(state.next_request(start), None);
    let later = state.deadline().unwrap();
    state.tick(later);
    let dumps: Vec<_> = std::iter::from_fn(|| {
        let request = state.next_request(later)?;
        state.handle(later, Incoming { sequence: request.sequence, interrupted: false, body: Body::Done });
        Some(request.what)
    })
    .collect();
    assert_eq!(dumps.len(), 6);
    assert!(dumps.contains(&What::Dump(Dump::Links)));
    assert!(state.has_change());
}

#[test]
fn a_link_that_goes_down_is_the_reason_even_when_its_routes_have_gone() {
    let mut lab = Lab::synced();
    lab.holds.push(neighbour_event("10.0.0.2", Some(entry(Reachability::Fresh, true))));
    lab.hear(neighbour_event("10.0.0.2", Some(entry(Reachability::Fresh, true))));
    lab.hear(route_event(RouteAction::Add, "0.0.0.0", 0, 10, &[(D0, Some("10.0.0.2"))]));
    lab.hear(route_event(RouteAction::Add, "0.0.0.0", 0, 20, &[(OTHER, Some("10.1.0.2"))]));
    lab.state.watch(ip("10.0.0.2").into());
    lab.state.watch(ip("192.0.2.1").into());
    assert_eq!(lab.said().len(), 2);
    // The kernel takes the routes of the interface away without a word, and the other default route is left.
    lab.holds.retain(|e| !matches!(e, Event::Route(_) | Event::Link { index: D0, .. } | Event::Neighbour { .. }));
    lab.holds.push(link_event(D0, "d0", false));
    lab.holds.push(route_event(RouteAction::Add, "0.0.0.0", 0, 20, &[(OTHER, Some("10.1.0.2"))]));
    lab.hear(link_event(D0, "d0", false));
    let mut said = lab.said();
    said.sort();
    assert_eq!(said, [(ip("10.0.0.2"), Err("link-down")), (ip("192.0.2.1"), Err("link-down"))]);
    lab.pass(100);
    assert_eq!(lab.said(), [], "still the same reason when the routes were dumped");
    assert_eq!(lab.state.client_routes(), []);
}

#[test]
fn of_several_paths_the_first_that_is_up_and_ours_counts() {
    let mut lab = Lab::synced();
    let paths = [(OTHER, Some("10.1.0.2")), (D0, Some("10.0.0.2")), (D0, Some("10.0.0.3"))];
    lab.hear(route_event(RouteAction::Add, "192.0.2.0", 24, 0, &paths));
    lab.hear(neighbour_event("10.0.0.2", Some(entry(Reachability::Fresh, true))));
    lab.state.watch(ip("192.0.2.1").into());
    assert_eq!(lab.said(), [(ip("192.0.2.1"), Ok(SERVER))]);
    let route = lab.state.client_routes().into_iter().find(|r| r.prefix == ip("192.0.2.0")).unwrap();
    assert_eq!((route.gateway, route.interface), (Some(ip("10.0.0.2")), D0));
}

#[test]
fn a_route_that_flaps_between_two_readings_is_not_said() {
    let mut lab = Lab::synced();
    let default = |action| route_event(action, "0.0.0.0", 0, 0, &[(D0, Some("10.0.0.2"))]);
    for _ in 0..1000 {
        lab.hear(default(RouteAction::Add));
        lab.hear(default(RouteAction::Remove));
    }
    assert_eq!(lab.state.next_change(), None);
    lab.hear(default(RouteAction::Add));
    assert!(matches!(lab.state.next_change(), Some(Change::Route(r)) if r.route.is_some()));
}
