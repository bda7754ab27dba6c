//! Next hops, routes and addresses followed in real namespaces. Needs root; says so and passes without it.

use ipnet::IpNet;
use lcs_control::netlink::{Change, Changes, ClientRoute, Hop, NextHops, Resolution, Target, Unresolved};
use lcs_dataplane::headers::MacAddr;
use lcs_hwconf::netns::Namespace;
use lcs_hwconf::rtnl::{Route, Rtnl, VethEnd};
use std::collections::HashMap;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

/// How long anything may take that happens by itself. A server that does not answer is given up after 3 s by the kernel.
const PATIENCE: Duration = Duration::from_secs(20);

const SERVER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const DIRECTOR: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// A director and a server on one link: `10.0.0.1/24`, `fd00::1/64` on `d0`, and the same with 2 on `s0`.
struct Bed {
    director: Namespace,
    on_director: Rtnl,
    on_server: Rtnl,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

impl Bed {
    /// `None`, and a word, where namespaces can't be made.
    fn new(test: &str) -> Option<Bed> {
        let director = match Namespace::create() {
            Ok(namespace) => namespace,
            Err(error) if error.errno() == Some(1) => {
                eprintln!("{test} is skipped: {error}");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let server = Namespace::create().unwrap();
        server.sysctl("net/ipv4/conf/default/arp_notify", "1").unwrap();
        let on_director = Rtnl::open_in(&director).unwrap();
        let on_server = Rtnl::open_in(&server).unwrap();
        on_director
            .create_veth(
                &VethEnd { name: "d0", namespace: None, mac: Some(DIRECTOR.0), mtu: 1500, queues: 1 },
                &VethEnd { name: "s0", namespace: Some(&server), mac: Some(SERVER.0), mtu: 1500, queues: 1 },
            )
            .unwrap();
        for (rtnl, name, host) in [(&on_director, "d0", 1), (&on_server, "s0", 2)] {
            rtnl.set_up(name, true).unwrap();
            rtnl.add_address(name, net(&format!("10.0.0.{host}/24"))).unwrap();
            rtnl.add_address(name, net(&format!("fd00::{host}/64"))).unwrap();
        }
        Some(Bed { director, on_director, on_server })
    }

    /// Runs `test` with a follower in the director's namespace.
    fn follow(&self, interfaces: &[&str], test: impl AsyncFnOnce(Seen) + Send) {
        let interfaces: Vec<String> = interfaces.iter().map(|i| (*i).to_owned()).collect();
        self.director
            .run(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let (next_hops, changes) = NextHops::start(&interfaces).unwrap();
                    let mut seen = Seen { next_hops, changes, hops: HashMap::new(), own: vec![], up: vec![] };
                    while !matches!(seen.next().await, Change::Synced) {}
                    test(seen).await;
                });
            })
            .unwrap();
    }

    fn set_route(&self, to: &str, via: Option<&str>) {
        let route = Route { to: net(to), via: via.map(ip), dev: Some("d0"), source: None };
        self.on_director.set_route(&route).unwrap();
    }

    fn delete_route(&self, to: &str, via: &str) {
        let route = Route { to: net(to), via: Some(ip(via)), dev: Some("d0"), source: None };
        self.on_director.delete_route(&route).unwrap();
    }

    /// Runs `ip` in the director's namespace; `None` where there is no such program.
    fn ip_command(&self, arguments: &str) -> Option<String> {
        let run = || Command::new("ip").args(arguments.split(' ')).output();
        match self.director.run(run).unwrap() {
            Ok(output) => {
                assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
                Some(String::from_utf8(output.stdout).unwrap())
            }
            Err(error) => {
                eprintln!("the rest is skipped: ip: {error}");
                None
            }
        }
    }
}

/// A follower, and what it has said.
struct Seen {
    next_hops: NextHops,
    changes: Changes,
    hops: HashMap<Target, Resolution>,
    own: Vec<IpAddr>,
    up: Vec<bool>,
}

impl Seen {
    async fn next(&mut self) -> Change {
        let change = tokio::time::timeout(PATIENCE, self.changes.next()).await;
        let change = change.unwrap_or_else(|_| panic!("nothing changes any more; known: {:?}", self.hops)).unwrap();
        match &change {
            Change::NextHop { target, resolution } => drop(self.hops.insert(*target, resolution.clone())),
            Change::OwnAddresses(own) => self.own.clone_from(own),
            Change::Interfaces(all) => self.up = all.iter().map(|i| i.up).collect(),
            _ => {}
        }
        change
    }

    async fn watch(&mut self, target: impl Into<Target>) -> Target {
        let target = target.into();
        self.next_hops.watch(target).await.unwrap();
        target
    }

    /// Waits until what is known of `target` is as wanted.
    async fn until(&mut self, target: Target, wanted: impl Fn(&Resolution) -> bool) -> Resolution {
        loop {
            if let Some(known) = self.hops.get(&target)
                && wanted(known)
            {
                return known.clone();
            }
            self.next().await;
        }
    }

    async fn resolved(&mut self, target: Target) -> Hop {
        self.until(target, Result::is_ok).await.unwrap()
    }

    async fn through(&mut self, target: Target, mac: MacAddr) -> Hop {
        self.until(target, |r| r.as_ref().is_ok_and(|h| h.destination == mac)).await.unwrap()
    }

    async fn unresolved(&mut self, target: Target, name: &str) -> Unresolved {
        self.until(target, |r| r.as_ref().is_err_and(|e| e.name() == name)).await.unwrap_err()
    }

    async fn routes(&self) -> Vec<ClientRoute> {
        let mut routes = self.next_hops.client_routes().await.unwrap();
        routes.sort_by_key(|r| (r.prefix, r.length));
        routes
    }
}

#[test]
fn a_neighbour_is_resolved_kept_and_followed_when_its_mac_changes() {
    let Some(bed) = Bed::new("a_neighbour_is_resolved_kept_and_followed_when_its_mac_changes") else { return };
    bed.follow(&["d0"], async |mut seen| {
        for address in ["10.0.0.2", "fd00::2"] {
            let target = seen.watch(ip(address)).await;
            let hop = seen.resolved(target).await;
            assert_eq!((hop.destination, hop.source, hop.mtu), (SERVER, DIRECTOR, 1500));
            assert_eq!((hop.name.as_str(), hop.gateway), ("d0", None));
            assert_eq!(hop.source_address, Some(ip(&address.replace('2', "1"))));
        }
        let moved = MacAddr([2, 0, 0, 0, 0, 0x22]);
        bed.on_server.set_mac("s0", moved.0).unwrap();
        seen.through(ip("10.0.0.2").into(), moved).await;

        // The kernel keeps it for us, and no longer when we have gone.
        let Some(text) = bed.ip_command("neigh show 10.0.0.2") else { return };
        assert!(text.contains("managed"), "{text}");
        seen.next_hops.unwatch(ip("10.0.0.2")).await.unwrap();
        seen.next_hops.stop().await;
        while seen.changes.next().await.is_some() {}
        for address in ["10.0.0.2", "fd00::2"] {
            let text = bed.ip_command(&format!("neigh show {address}")).unwrap();
            assert!(!text.contains("managed") && text.contains("lladdr"), "{text}");
        }
    });
}

#[test]
fn an_interface_goes_down_and_comes_back() {
    let Some(bed) = Bed::new("an_interface_goes_down_and_comes_back") else { return };
    bed.follow(&["d0"], async |mut seen| {
        let target = seen.watch(ip("10.0.0.2")).await;
        seen.resolved(target).await;
        bed.on_director.set_up("d0", false).unwrap();
        let why = seen.unresolved(target, "link-down").await.to_string();
        assert_eq!(why, "interface d0 is down; set it up (ip link set INTERFACE up)");
        bed.on_director.set_up("d0", true).unwrap();
        assert_eq!(seen.resolved(target).await.destination, SERVER);
        assert_eq!(seen.up, [true]);

        bed.on_server.set_up("s0", false).unwrap();
        let why = seen.unresolved(target, "link-down").await.to_string();
        assert!(why.contains("no carrier"), "{why}");
        bed.on_server.set_up("s0", true).unwrap();
        assert_eq!(seen.resolved(target).await.destination, SERVER);
        assert!(seen.routes().await.iter().any(|r| r.prefix == ip("10.0.0.0")), "its network is back");

        bed.on_director.delete_link("d0").unwrap();
        let gone = |r: &Resolution| matches!(r, Err(Unresolved::LinkDown { missing: true, .. }));
        let why = seen.until(target, gone).await.unwrap_err().to_string();
        assert!(why.starts_with("interface d0 does not exist"), "{why}");
    });
}

#[test]
fn a_route_change_is_followed() {
    let Some(bed) = Bed::new("a_route_change_is_followed") else { return };
    let other = MacAddr([2, 0, 0, 0, 0, 9]);
    bed.on_director.set_neighbour("d0", ip("10.0.0.9"), other.0).unwrap();
    bed.follow(&["d0"], async |mut seen| {
        let target = seen.watch(ip("192.0.2.1")).await;
        let why = seen.unresolved(target, "no-route").await.to_string();
        assert!(why.contains("ip route add"), "{why}");

        bed.set_route("192.0.2.0/24", Some("10.0.0.2"));
        let hop = seen.resolved(target).await;
        assert_eq!((hop.destination, hop.gateway), (SERVER, Some(ip("10.0.0.2"))));
        bed.set_route("192.0.2.0/24", Some("10.0.0.9"));
        assert_eq!(seen.through(target, other).await.gateway, Some(ip("10.0.0.9")));
        let Some(text) = bed.ip_command("neigh show 10.0.0.9") else { return };
        assert!(text.contains("PERMANENT"), "what the administrator set is left alone: {text}");

        // A longer prefix, an mtu, a lower metric, several paths, a refusal.
        bed.ip_command("route add 192.0.2.0/28 via 10.0.0.2 dev d0 mtu 1300").unwrap();
        let hop = seen.through(target, SERVER).await;
        assert_eq!(hop.mtu, 1300);
        bed.ip_command("route del 192.0.2.0/28").unwrap();
        assert_eq!(seen.through(target, other).await.mtu, 1500);
        bed.ip_command("route add 192.0.2.1/32 metric 100 nexthop via 10.0.0.2 nexthop via 10.0.0.9").unwrap();
        seen.through(target, SERVER).await;
        bed.ip_command("route add blackhole 192.0.2.1/32 metric 50").unwrap();
        let why = seen.unresolved(target, "no-route").await.to_string();
        assert!(why.contains("blackhole"), "{why}");
    });
}

#[test]
fn a_server_that_does_not_answer_is_reported_and_found_when_it_does() {
    let Some(bed) = Bed::new("a_server_that_does_not_answer_is_reported_and_found_when_it_does") else { return };
    // A confirmed entry counts for 0.5 to 1.5 s, not for 15 to 45.
    for (name, value) in [("base_reachable_time_ms", "1000"), ("delay_first_probe_time", "1")] {
        bed.director.sysctl(&format!("net/ipv4/neigh/d0/{name}"), value).unwrap();
    }
    bed.follow(&["d0"], async |mut seen| {
        let target = seen.watch(ip("10.0.0.77")).await;
        let why = seen.unresolved(target, "no-neighbour").await.to_string();
        assert_eq!(why, "waiting for 10.0.0.77 to tell its link-layer address on d0");
        let failed = |r: &Resolution| matches!(r, Err(Unresolved::NoNeighbour { failed: true, .. }));
        let why = seen.until(target, failed).await.unwrap_err().to_string();
        assert!(why.contains("does not answer ARP on d0") && why.contains("see that the machine is up"), "{why}");
        bed.on_server.add_address("s0", net("10.0.0.77/24")).unwrap();
        assert_eq!(seen.resolved(target).await.destination, SERVER);

        // When it goes, the kernel's own probes find out.
        bed.on_server.delete_address("s0", net("10.0.0.77/24")).unwrap();
        seen.until(target, failed).await.unwrap_err();
    });
}

#[test]
fn an_entry_that_is_deleted_is_resolved_anew_without_a_gap() {
    let Some(bed) = Bed::new("an_entry_that_is_deleted_is_resolved_anew_without_a_gap") else { return };
    bed.follow(&["d0"], async |mut seen| {
        let target = seen.watch(ip("10.0.0.2")).await;
        seen.resolved(target).await;
        let Some(before) = bed.ip_command("neigh show 10.0.0.2") else { return };
        bed.ip_command("neigh del 10.0.0.2 dev d0").unwrap();
        // A change that comes after it, to see that none was told for the target.
        let other = seen.watch(ip("fd00::2")).await;
        seen.resolved(other).await;
        while !bed.ip_command("neigh show 10.0.0.2").unwrap().contains("managed") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(before.contains("managed"), "{before}");
        while let Some(change) = seen.changes.try_next() {
            assert!(!matches!(&change, Change::NextHop { target: t, .. } if *t == target), "{change:?}");
        }
        assert!(seen.hops[&target].is_ok());
    });
}

#[test]
fn what_cannot_be_a_next_hop_is_explained() {
    let Some(bed) = Bed::new("what_cannot_be_a_next_hop_is_explained") else { return };
    bed.on_director.create_bridge("other").unwrap();
    bed.on_director.set_up("other", true).unwrap();
    bed.on_director.add_address("other", net("172.16.0.1/24")).unwrap();
    bed.follow(&["d0", "d1"], async |mut seen| {
        let cases = [
            ("172.16.0.9", "wrong-interface", "through other, which is none of the director's interfaces (d0, d1)"),
            ("10.0.0.1", "not-a-host", "the director's own"),
            ("172.16.0.1", "not-a-host", "the director's own"),
            ("10.0.0.255", "not-a-host", "a broadcast address"),
            ("fd00::1", "not-a-host", "the director's own"),
            ("ff02::1", "not-a-host", "a multicast address"),
            ("2001:db8::1", "no-route", "add a route"),
        ];
        for (address, name, words) in cases {
            let target = seen.watch(ip(address)).await;
            let why = seen.unresolved(target, name).await.to_string();
            assert!(why.contains(words), "{address}: {why}");
        }
        assert_eq!(seen.up, [true, false]);
    });
}

#[test]
fn routes_toward_clients_and_own_addresses_are_told() {
    let Some(bed) = Bed::new("routes_toward_clients_and_own_addresses_are_told") else { return };
    bed.set_route("0.0.0.0/0", Some("10.0.0.2"));
    bed.set_route("2001:db8::/32", Some("fd00::2"));
    bed.follow(&["d0"], async |mut seen| {
        let told: Vec<_> = seen.routes().await.into_iter().map(|r| (r.prefix, r.length, r.gateway)).collect();
        let expected = [
            (ip("0.0.0.0"), 0, Some(ip("10.0.0.2"))),
            (ip("10.0.0.0"), 24, None),
            (ip("2001:db8::"), 32, Some(ip("fd00::2"))),
            (ip("fd00::"), 64, None),
        ];
        assert_eq!(told, expected);
        for address in ["10.0.0.1", "fd00::1"] {
            assert!(seen.own.contains(&ip(address)), "{:?}", seen.own);
        }
        // The gateway is watched on the route's own link.
        let target = seen.routes().await[0].target().unwrap();
        let gateway = seen.watch(target).await;
        assert_eq!(seen.resolved(gateway).await.destination, SERVER);

        bed.delete_route("0.0.0.0/0", "10.0.0.2");
        let default_gone = |c: &Change| matches!(c, Change::Route(r) if r.length == 0 && r.route.is_none());
        while !default_gone(&seen.next().await) {}
        assert_eq!(seen.routes().await.len(), 3);

        bed.on_director.add_address("d0", net("10.0.0.50/24")).unwrap();
        while !seen.own.contains(&ip("10.0.0.50")) {
            seen.next().await;
        }
        // IPv4 routes go with their interface, and the kernel does not tell.
        bed.on_director.set_up("d0", false).unwrap();
        while !seen.routes().await.is_empty() {
            seen.next().await;
        }
    });
}

#[test]
fn a_link_local_gateway_is_resolved_on_its_link() {
    let Some(bed) = Bed::new("a_link_local_gateway_is_resolved_on_its_link") else { return };
    bed.on_server.add_address("s0", net("fe80::2/64")).unwrap();
    bed.on_director.add_address("d0", net("fe80::1/64")).unwrap();
    bed.set_route("2001:db8::/32", Some("fe80::2"));
    bed.follow(&["d0"], async |mut seen| {
        let route = seen.routes().await.into_iter().find(|r| r.length == 32).unwrap();
        let gateway = seen.watch(route.target().unwrap()).await;
        let hop = seen.resolved(gateway).await;
        assert_eq!(hop.destination, SERVER);
        assert!(matches!(hop.source_address, Some(IpAddr::V6(a)) if a.is_unicast_link_local()), "{hop:?}");
        let server = seen.watch(ip("2001:db8::5")).await;
        let hop = seen.resolved(server).await;
        assert_eq!((hop.destination, hop.source_address), (SERVER, Some(ip("fd00::1"))));
    });
}

#[test]
fn lost_notifications_are_made_good() {
    let Some(bed) = Bed::new("lost_notifications_are_made_good") else { return };
    let prefix = |n: u32| format!("100.{}.{}.0/24", n >> 8, n & 255);
    const ROUTES: u32 = 12_000;
    bed.follow(&["d0"], async |mut seen| {
        let target = seen.watch(ip("100.7.7.7")).await;
        seen.unresolved(target, "no-route").await;
        let before = seen.routes().await.len();
        // The follower shares this thread: it hears nothing of this until it is through, and not of all of it then.
        (0..ROUTES).for_each(|n| bed.set_route(&prefix(n), Some("10.0.0.2")));
        seen.resolved(target).await;
        while seen.routes().await.len() < before + ROUTES as usize {
            seen.next().await;
        }
        (0..ROUTES).for_each(|n| bed.delete_route(&prefix(n), "10.0.0.2"));
        seen.unresolved(target, "no-route").await;
        while seen.routes().await.len() > before {
            seen.next().await;
        }
    });
}
