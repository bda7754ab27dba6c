use super::*;
use crate::config::Protocol;
use lcs_pipelines::snapshot::{NextHop, Scheduler};
use proptest::prelude::*;
use std::collections::BTreeMap;

pub(crate) fn environment() -> Environment {
    Environment {
        interfaces: vec![Interface { name: "eth0".into(), mac: "02:00:00:00:00:01".parse().unwrap(), mtu: 1500 }],
        given: vec![],
        addresses: vec!["10.0.0.254".parse().unwrap(), "2001:db8::fe".parse().unwrap()],
        rss_table: 0,
    }
}

fn server(name: &str, host: u8) -> Server {
    Server {
        name: name.into(),
        address: IpAddr::from([10, 0, 0, host]),
        port: 8080,
        weight: 1,
        forward: Forward::Nat,
        state: Admin::Up,
    }
}

fn service(name: &str, host: u8, servers: Vec<Server>) -> Service {
    Service {
        name: name.into(),
        protocol: Protocol::Tcp,
        address: IpAddr::from([192, 0, 2, host]),
        port: 80,
        scheduler: Scheduler::Wrr,
        forward: Forward::Nat,
        sources: vec![],
        source_ports: Service::SOURCE_PORTS,
        persistence: None,
        servers,
        content: None,
        check: None,
    }
}

fn slots(model: &Model) -> BTreeMap<String, u16> {
    let mut all = BTreeMap::new();
    for view in model.view().iter().filter(|v| !v.removed) {
        all.insert(view.service.name.clone(), view.slot);
        for s in view.servers.iter().filter(|s| !s.removed) {
            all.insert(format!("{}/{}", view.service.name, s.server.name), s.slot);
        }
    }
    all
}

#[test]
fn a_server_that_is_down_takes_nothing_new_until_it_is_back() {
    let mut m = Model::new(environment());
    let mut web = service("web", 1, vec![server("s1", 1), server("s2", 2)]);
    web.check = Some(crate::config::Check::new(crate::config::CheckKind::Tcp));
    m.apply(&[web.clone(), service("dns", 2, vec![server("s1", 3)])]).unwrap();
    let targets = m.checks();
    let asked: Vec<_> =
        targets.iter().map(|(t, _)| (t.service.as_str(), t.server.as_str(), t.endpoint.to_string())).collect();
    assert_eq!(asked, [("web", "s1", "10.0.0.1:8080".into()), ("web", "s2", "10.0.0.2:8080".into())]);
    let finding = |server: &str, down: Option<&str>| crate::health::Finding {
        service: "web".into(),
        server: server.into(),
        down: down.map(str::to_owned),
    };
    let states = |m: &mut Model| -> BTreeMap<String, ServerState> {
        m.snapshot().servers.iter().flatten().filter(|s| s.service == 0).map(|s| (s.name.clone(), s.state)).collect()
    };
    let before = m.generation();
    assert!(m.set_health(&finding("s1", Some("refused"))).is_some());
    assert!(m.set_health(&finding("s1", Some("no answer"))).is_none(), "down as before");
    assert!(m.set_health(&finding("s9", Some("refused"))).is_none());
    assert_eq!(m.generation(), before + 1);
    assert_eq!(states(&mut m), [("s1".into(), ServerState::Down), ("s2".into(), ServerState::Up)].into());
    // A change of something else leaves it down; one that ends the checks does not.
    web.servers[0].weight = 7;
    m.apply(&[web.clone()]).unwrap();
    assert_eq!(states(&mut m)["s1"], ServerState::Down);
    assert!(m.set_health(&finding("s1", None)).is_some_and(|c| c.detail == "up again"));
    assert_eq!(states(&mut m)["s1"], ServerState::Up);
    m.set_health(&finding("s2", Some("refused")));
    let down = |m: &Model| m.checks().into_iter().map(|(t, down)| (t.server, down)).collect::<Vec<_>>();
    assert_eq!(down(&m), [("s1".into(), false), ("s2".into(), true)]);
    // On another address the service's servers are others, and nothing is known of them yet.
    let mut moved = web.clone();
    moved.address = IpAddr::from([192, 0, 2, 9]);
    m.apply(&[moved]).unwrap();
    assert_eq!(down(&m), [("s1".into(), false), ("s2".into(), false)]);
    m.apply(&[web.clone()]).unwrap();
    assert_eq!(down(&m), [("s1".into(), false), ("s2".into(), true)], "those from before, which have not drained");
    web.check = None;
    m.apply(&[web]).unwrap();
    assert_eq!(states(&mut m)["s2"], ServerState::Up);
}

#[test]
fn what_stays_keeps_its_slot_and_what_goes_drains() {
    let mut m = Model::new(environment());
    m.apply(&[service("web", 1, vec![server("s1", 1), server("s2", 2)]), service("dns", 2, vec![server("s1", 3)])])
        .unwrap();
    let before = slots(&m);
    let mut heavier = server("s2", 2);
    heavier.weight = 9;
    let changes = m.apply(&[service("web", 1, vec![heavier, server("s3", 4)])]).unwrap();
    let said: Vec<String> = changes.iter().map(|c| format!("{:?} {}", c.kind, c.subject)).collect();
    assert_eq!(said, ["Removed dns", "Removed web/s1", "Changed web/s2", "Added web/s3"]);
    let after = slots(&m);
    assert_eq!((after["web"], after["web/s2"]), (before["web"], before["web/s2"]));
    assert!(!before.values().any(|s| *s == after["web/s3"] && before["web/s1"] == *s));

    let snapshot = m.snapshot();
    let gone = snapshot.servers[usize::from(before["web/s1"])].as_ref().unwrap();
    assert_eq!(gone.state, ServerState::Draining);
    assert_eq!(snapshot.by_endpoint.len(), 1);
    assert_eq!(
        snapshot.services[usize::from(before["web"])].as_ref().unwrap().servers,
        [after["web/s2"], after["web/s3"]]
    );
    assert!(snapshot.services[usize::from(before["dns"])].is_some(), "its flows still need it");

    // Nobody has taken the new generation: nothing is let go, even with no flows at all.
    assert!(m.drained(m.generation() - 1, |_| 0).is_empty());
    let busy = before["web/s1"];
    assert_eq!(m.drained(m.generation(), |s| u64::from(s == busy)), ["dns/s1"]);
    assert!(m.snapshot().services[usize::from(before["dns"])].is_none());
    assert_eq!(m.drained(m.generation(), |_| 0), ["web/s1"]);
    assert!(!m.is_draining());
}

#[test]
fn a_server_that_returns_while_draining_keeps_its_slot() {
    let mut m = Model::new(environment());
    let both = [service("web", 1, vec![server("s1", 1), server("s2", 2)])];
    m.apply(&both).unwrap();
    let before = slots(&m);
    m.apply(&[service("web", 1, vec![server("s2", 2)])]).unwrap();
    assert!(m.is_draining());
    let changes = m.apply(&both).unwrap();
    assert!(changes[0].detail.contains("keeps its connections"), "{changes:?}");
    assert_eq!(slots(&m), before);
    assert!(!m.is_draining());
    // And a whole service.
    m.apply(&[]).unwrap();
    assert_eq!(m.counts().draining_servers, 2);
    m.apply(&both).unwrap();
    assert_eq!(slots(&m), before);
    assert!(m.apply(&both).unwrap().is_empty(), "nothing to change");
}

#[test]
fn a_server_that_moves_is_another_server() {
    let mut m = Model::new(environment());
    m.apply(&[service("web", 1, vec![server("s1", 1)])]).unwrap();
    let before = slots(&m);
    m.apply(&[service("web", 1, vec![server("s1", 9)])]).unwrap();
    let after = slots(&m);
    assert_eq!(before["web"], after["web"]);
    assert_ne!(before["web/s1"], after["web/s1"]);
    let replies = m.steering().replies;
    assert_eq!(replies.len(), 2, "replies of both must still come back: {replies:?}");
}

#[test]
fn errors_about_tunnel_packets_are_asked_for_as_long_as_such_packets_may_leave() {
    let mut m = Model::new(environment());
    let behind_a_tunnel = |host| Server { forward: Forward::Tunnel, port: 0, ..server(&format!("t{host}"), host) };
    let services = |hosts: &[u8]| {
        let servers = hosts.iter().map(|host| behind_a_tunnel(*host)).chain([server("s1", 1)]);
        [service("web", 1, servers.collect())]
    };
    m.apply(&services(&[2, 3])).unwrap();
    let sets = m.steering();
    let ends = [2, 3].map(|host| server("", host).address);
    assert_eq!(sets.tunnels, ends);
    assert_eq!(sets.replies.iter().map(|r| r.0).collect::<Vec<_>>(), [server("", 1).address]);
    m.apply(&services(&[3])).unwrap();
    assert_eq!(m.steering().tunnels, ends, "the removed server drains");
    m.drained(m.generation(), |_| 0);
    assert_eq!(m.steering().tunnels, ends[1..]);
}

#[test]
fn a_service_that_moves_gives_its_endpoint_to_another() {
    let mut m = Model::new(environment());
    m.apply(&[service("a", 1, vec![server("s1", 1)]), service("b", 2, vec![server("s1", 2)])]).unwrap();
    let before = slots(&m);
    m.apply(&[service("a", 2, vec![server("s1", 1)]), service("b", 1, vec![server("s1", 2)])]).unwrap();
    let (after, snapshot) = (slots(&m), m.snapshot());
    assert_ne!((before["a"], before["b"]), (after["a"], after["b"]));
    let at = |h: u8| snapshot.by_endpoint[&(IpAddr::from([192, 0, 2, h]), 80, 6)];
    assert_eq!((at(2), at(1)), (after["a"], after["b"]));
}

#[test]
fn live_changes_obey_the_rules_and_change_nothing_when_refused() {
    let mut m = Model::new(environment());
    m.apply(&[service("web", 1, vec![server("s1", 1)])]).unwrap();
    let (generation, before) = (m.generation(), slots(&m));
    let clash = service("other", 1, vec![]);
    assert!(matches!(m.put_service(&clash), Err(Refused::EndpointTaken(owner, _)) if owner == "web"));
    let mut bad = service("web", 1, vec![server("s1", 1), server("s1", 2)]);
    assert!(matches!(m.put_service(&bad), Err(Refused::Rule(f)) if f.what.contains("two servers named s1")));
    bad.servers.truncate(1);
    bad.servers[0].port = 1;
    bad.servers[0].forward = Forward::Dr;
    assert!(matches!(m.put_service(&bad), Err(Refused::Rule(_))));
    assert!(matches!(m.set_weight("web", "s9", 1), Err(Refused::NoServer(..))));
    assert!(matches!(m.set_weight("x", "s1", 1), Err(Refused::NoService(_))));
    assert!(matches!(m.set_weight("web", "s1", 70_000), Err(Refused::Rule(_))));
    assert!(matches!(m.remove_service("x"), Err(Refused::NoService(_))));
    assert_eq!((m.generation(), slots(&m)), (generation, before));
}

#[test]
fn a_weight_travels_alone_and_stands_in_the_next_snapshot() {
    let mut m = Model::new(environment());
    m.apply(&[service("web", 1, vec![server("s1", 1)])]).unwrap();
    let generation = m.generation();
    let slot = m.set_weight("web", "s1", 7).unwrap();
    assert_eq!(m.generation(), generation);
    assert_eq!(m.snapshot().servers[usize::from(slot)].as_ref().unwrap().weight, 7);
    assert_eq!(m.service("web").unwrap().servers[0].weight, 7);
    // The file says 1: a reload takes it back, and says so.
    let changes = m.apply(&[service("web", 1, vec![server("s1", 1)])]).unwrap();
    assert_eq!(changes[0].to_string(), "~ web/s1: weight 7 → 1");
}

#[test]
fn given_neighbours_resolve_servers_and_are_not_overruled() {
    let mut m = Model::new(environment());
    let mac = |s: &str| s.parse().unwrap();
    let neighbours = [
        Neighbour { address: IpAddr::from([10, 0, 0, 1]), mac: mac("02:00:00:00:00:11"), interface: 0 },
        Neighbour { address: IpAddr::from([10, 0, 0, 100]), mac: mac("02:00:00:00:00:99"), interface: 0 },
    ];
    let routes = [Route { to: "10.0.0.0/28".parse().unwrap(), via: Some(IpAddr::from([10, 0, 0, 100])) }];
    m.set_settings(&Timeouts::default(), WhenFull::Refuse, &neighbours, &routes);
    m.apply(&[service("web", 1, vec![server("s1", 1), server("s2", 2), server("s3", 200)])]).unwrap();
    let snapshot = m.snapshot();
    let hop = |i: usize| snapshot.next_hops[usize::from(snapshot.servers[i].as_ref().unwrap().next_hop)];
    assert_eq!(&hop(0).addresses[..6], &[2, 0, 0, 0, 0, 0x11]);
    assert_eq!(&hop(1).addresses[..6], &[2, 0, 0, 0, 0, 0x99], "through the router");
    assert!(!hop(2).resolved);
    let learned = NextHop::new(mac("02:00:00:00:00:77"), mac("02:00:00:00:00:01"), 0, 1500);
    let learn = |m: &mut Model, host: u8| {
        m.learn_next_hop(IpAddr::from([10, 0, 0, host]).into(), Learned { hop: learned, ..Learned::default() })
    };
    assert_eq!(learn(&mut m, 1), None);
    let row = learn(&mut m, 200).unwrap();
    assert_eq!((m.next_hop(row), m.problem(row)), (Some(learned), None));
    assert_eq!(learn(&mut m, 200), None);
    assert_eq!(m.snapshot().next_hops[usize::from(row)], learned);
}

#[test]
fn a_tunnel_without_an_address_to_begin_at_is_refused() {
    let mut e = environment();
    e.addresses.remove(1);
    let mut m = Model::new(e);
    let mut s = server("s1", 1);
    (s.forward, s.address, s.port) = (Forward::Tunnel, "2001:db8::1".parse().unwrap(), 0);
    let refused = m.apply(&[service("web", 1, vec![s.clone()])]);
    assert_eq!(refused, Err(Refused::NoTunnelSource("web/s1".into())));
    s.address = IpAddr::from([10, 0, 0, 1]);
    m.apply(&[service("web", 1, vec![s])]).unwrap();
    let server = m.snapshot().servers[0].clone().unwrap();
    assert_eq!((server.tunnel_source, server.port), (Some(IpAddr::from([10, 0, 0, 254])), 0));
    // The kernel would send from another address; and then the configuration says which.
    let other = Some(IpAddr::from([10, 0, 0, 253]));
    m.learn_next_hop(IpAddr::from([10, 0, 0, 1]).into(), Learned { source: other, ..Learned::default() });
    assert_eq!(m.snapshot().servers[0].as_ref().unwrap().tunnel_source, other);
    m.environment.given = vec![IpAddr::from([10, 0, 0, 252])];
    m.touch();
    assert_eq!(m.snapshot().servers[0].as_ref().unwrap().tunnel_source, Some(IpAddr::from([10, 0, 0, 252])));
}

/// A server as a flow knows it: who it is for, and where its packets go.
type Identity = (String, IpAddr, String, IpAddr, u16);

/// Plays workers that take snapshots late, keep flows, and report; and checks that no flow is ever misled.
#[derive(Default)]
struct World {
    installed: u64,
    /// Flows by server slot, with what the slot meant when they were opened.
    flows: BTreeMap<u16, (u64, Identity)>,
}

impl World {
    fn identity(snapshot: &Snapshot, slot: u16) -> Option<Identity> {
        let s = snapshot.servers.get(usize::from(slot))?.as_ref()?;
        let service = snapshot.services[usize::from(s.service)].as_ref().expect("a server's service is there");
        Some((service.name.clone(), service.address, s.name.clone(), s.address, s.port))
    }

    fn install(&mut self, m: &mut Model) {
        let snapshot = m.snapshot();
        for (slot, (n, was)) in &self.flows {
            let is = Self::identity(&snapshot, *slot);
            assert_eq!(is.as_ref(), Some(was), "slot {slot} with {n} flows changed its owner");
        }
        let mut seen = std::collections::HashSet::new();
        for service in snapshot.services.iter().flatten() {
            for s in &service.servers {
                assert!(seen.insert(*s), "slot {s} is shared");
                let server = snapshot.servers[usize::from(*s)].as_ref().expect("a listed server is there");
                assert!(usize::from(server.next_hop) < snapshot.next_hops.len());
            }
        }
        for slot in snapshot.by_endpoint.values() {
            assert!(snapshot.services[usize::from(*slot)].is_some());
        }
        self.installed = snapshot.generation;
        m.settle(self.installed);
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// A whole configuration: of each possible service, its servers as bits, and a variant.
    Apply(Vec<(u8, u8)>),
    Put(u8, u8, u8),
    Remove(u8),
    Weight(u8, u8, u32),
    Install,
    Open(u8),
    Close(u8),
    Report,
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => proptest::collection::vec((any::<u8>(), 0u8..6), 4).prop_map(Step::Apply),
        4 => (0u8..4, any::<u8>(), 0u8..6).prop_map(|(s, b, v)| Step::Put(s, b, v)),
        1 => (0u8..4).prop_map(Step::Remove),
        2 => (0u8..4, 0u8..5, 0u32..9).prop_map(|(s, r, w)| Step::Weight(s, r, w)),
        4 => Just(Step::Install),
        4 => any::<u8>().prop_map(Step::Open),
        4 => any::<u8>().prop_map(Step::Close),
        3 => Just(Step::Report),
    ]
}

/// Service `i` with the servers in `bits`; the variant moves its endpoint, its servers' ports or its scheduler.
fn variant(i: u8, bits: u8, variant: u8) -> Service {
    let servers = (0..5).filter(|b| bits & (1 << b) != 0).map(|b| {
        let mut s = server(&format!("s{b}"), 1 + b);
        s.port = if variant == 3 { 81 } else { 80 };
        s.weight = u32::from(bits >> 5);
        s
    });
    let mut s = service(&format!("v{i}"), 10 + i, servers.collect());
    // Endpoint variants are disjoint between services, so that `apply` may take them unasked.
    s.port = if variant == 1 { 81 } else { 80 };
    s.scheduler = if variant == 2 { Scheduler::Lc } else { Scheduler::Rr };
    s
}

fn play(steps: &[Step]) {
    let (mut m, mut w) = (Model::new(environment()), World::default());
    w.install(&mut m);
    let mut usable: Arc<Snapshot> = m.snapshot();
    for step in steps {
        let before = slots(&m);
        let configs: BTreeMap<String, Service> =
            m.services().into_iter().map(|s| (s.name.clone(), s.clone())).collect();
        match step {
            Step::Apply(list) => {
                let wanted: Vec<Service> = list
                    .iter()
                    .enumerate()
                    .filter(|(_, (bits, _))| bits & 1 == 1 || bits & 2 == 2)
                    .map(|(i, (bits, v))| variant(i as u8, *bits, *v))
                    .collect();
                m.apply(&wanted).unwrap();
                let names: Vec<&str> = m.services().iter().map(|s| s.name.as_str()).collect();
                assert_eq!(names, wanted.iter().map(|s| s.name.as_str()).collect::<Vec<_>>());
            }
            Step::Put(i, bits, v) => {
                m.put_service(&variant(*i, *bits, *v)).unwrap();
            }
            Step::Remove(i) => {
                let _ = m.remove_service(&format!("v{i}"));
            }
            Step::Weight(i, r, weight) => {
                let _ = m.set_weight(&format!("v{i}"), &format!("s{r}"), *weight);
            }
            Step::Install => {
                w.install(&mut m);
                usable = m.snapshot();
            }
            Step::Open(n) => {
                let open: Vec<u16> = usable.services.iter().flatten().flat_map(|s| s.servers.clone()).collect();
                if !open.is_empty() {
                    let slot = open[usize::from(*n) % open.len()];
                    let identity = World::identity(&usable, slot).unwrap();
                    w.flows.entry(slot).or_insert((0, identity)).0 += 1;
                }
            }
            Step::Close(n) => {
                let all: Vec<u16> = w.flows.keys().copied().collect();
                if !all.is_empty() {
                    w.flows.remove(&all[usize::from(*n) % all.len()]);
                }
            }
            Step::Report => {
                m.drained(w.installed, |s| w.flows.get(&s).map_or(0, |(n, _)| *n));
            }
        }
        // What is the same service and the same server before and after has kept its slot.
        let after = slots(&m);
        for now in m.services() {
            let Some(was) = configs.get(&now.name) else { continue };
            if was.endpoint() != now.endpoint() {
                continue;
            }
            assert_eq!(before[&now.name], after[&now.name]);
            for s in &now.servers {
                let key = format!("{}/{}", now.name, s.name);
                if was.server(&s.name).is_some_and(|o| (o.address, o.port, o.forward) == (s.address, s.port, s.forward))
                {
                    assert_eq!(before[&key], after[&key], "{key}");
                }
            }
        }
    }
    // In the end everything that was let go is free again.
    m.apply(&[]).unwrap();
    w.install(&mut m);
    m.drained(w.installed, |_| 0);
    w.flows.clear();
    w.install(&mut m);
    assert_eq!(m.counts(), Counts::default());
    assert_eq!((m.servers.available(), m.services.available()), (snapshot::SLOTS, snapshot::SLOTS));
    assert_eq!(m.targets().count(), 0);
    assert!(m.snapshot().servers.iter().all(Option::is_none));
}

proptest! {
    // 100 histories of 100 changes.
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn ten_thousand_changes_never_mislead_a_flow(steps in proptest::collection::vec(steps(), 100)) {
        play(&steps);
    }
}
