//! Kernel TCP and UDP through the director, in network namespaces: what the demo plays, and what a network does to it.

mod support;

use lcs_hwconf::ethtool::Offload;
use lcs_hwconf::rtnl::{Route, VethEnd};
use lcs_hwconf::testbed::{Arms, ETH0, ETH1, Host, Plan};
use lcs_perf::demo::content::RuleFile;
use lcs_perf::demo::http::{Connection, Server};
use lcs_perf::demo::interrupt::Interrupt;
use lcs_perf::demo::load::{Load, LoadPlan, Tally};
use lcs_perf::demo::narrator::Narrator;
use lcs_perf::demo::root::director::Director;
use lcs_perf::demo::root::play::play;
use lcs_perf::demo::root::scene::{Scene, Setup};
use lcs_pipelines::snapshot::Forward;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use support::echo::{Echo, socket, there_and_back};
use support::{PATIENCE, eventually, root};

/// The servers, the clients and the network by themselves: what fails later is the director's doing.
#[test]
fn without_a_director_nothing_fails() {
    if !root("without_a_director_nothing_fails") {
        return;
    }
    for ipv6 in [false, true] {
        let setup = Setup { forward: Forward::Nat, ipv6, server_ipv6: ipv6 };
        let scene = Scene::build(setup, setup.plan()).unwrap();
        scene.bed().set_kernel_forwarding(true).unwrap();
        let plan = LoadPlan {
            to: scene.endpoint(1),
            parallel: 8,
            requests: 3,
            sizes: vec![0, 100, 1460, 10_000, 60_000],
            most: 120,
            patience: PATIENCE,
        };
        let load = scene.bed().client().run(|| Load::start(plan)).unwrap().unwrap();
        assert!(load.wait(120, PATIENCE, || false));
        let tally = load.stop().remove(0);
        assert_eq!((tally.requests, tally.failed), (360, 0), "{tally:?}");
        assert_eq!(tally.per_server.get("server2"), Some(&360), "{tally:?}");
        assert_eq!(tally.seen_as.get(&(scene.bed().client_address(0, ipv6), true)), Some(&120), "{tally:?}");
    }
}

#[test]
fn every_scenario_is_played_to_its_end() {
    if !root("every_scenario_is_played_to_its_end") {
        return;
    }
    for setup in Setup::ALL {
        let mut said = Vec::new();
        let scenario = play(setup, &mut Narrator::new(&mut said), &Interrupt::default()).unwrap();
        let said = String::from_utf8(said).unwrap();
        assert!(scenario.ok, "{} over {}:\n{said}", setup.name(), setup.ip());
        assert_eq!(scenario.failed, 0);
        println!("{said}\n{scenario:?}");
    }
}

/// What a host's kernel has counted under `name` in its table of TCP.
fn tcp_counter(host: &Host, name: &str) -> u64 {
    let table = host.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).unwrap().unwrap();
    let mut rows = table.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
    let at = names.split(' ').position(|n| n == name).unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}

/// A director that has just been started knows no server's link-layer address. The first client's SYN waits for it, and the client does
/// not have to send it again.
#[test]
fn the_first_client_after_a_start_has_nothing_to_repeat() {
    if !root("the_first_client_after_a_start_has_nothing_to_repeat") {
        return;
    }
    for forward in [Forward::Nat, Forward::FullNat, Forward::Dr, Forward::Tunnel] {
        for ipv6 in [false, true] {
            let setup = setup(forward, ipv6);
            let scene = Scene::build(setup, setup.plan()).unwrap();
            let mut director = Director::launch(&scene).unwrap();
            let outcome =
                client(scene.bed().client(), scene.service(), |connection| connection.get("/down/100", false));
            let drops = director.stats().unwrap().total.drops;
            assert!(outcome.is_ok(), "{} {ipv6}: {outcome:?} {drops:?}", setup.name());
            let repeated = tcp_counter(scene.bed().client(), "RetransSegs");
            assert_eq!(repeated, 0, "{} {ipv6}: {drops:?}", setup.name());
        }
    }
}

fn setup(forward: Forward, ipv6: bool) -> Setup {
    Setup { forward, ipv6, server_ipv6: ipv6 }
}

/// What a client in `host` gives, that runs one connection to `to`.
fn client<T: Send>(host: &Host, to: SocketAddr, action: impl FnOnce(&mut Connection) -> T + Send) -> T {
    host.run(|| action(&mut Connection::open(to, PATIENCE).unwrap())).unwrap()
}

#[test]
fn datagrams_and_their_fragments_come_back_from_every_server() {
    if !root("datagrams_and_their_fragments_come_back_from_every_server") {
        return;
    }
    for forward in [Forward::Nat, Forward::FullNat, Forward::Dr, Forward::Tunnel] {
        for ipv6 in [false, true] {
            let setup = setup(forward, ipv6);
            let scene = Scene::build(setup, setup.plan()).unwrap().with_datagrams();
            let mut director = Director::start(&scene).unwrap();
            let _echoes = Echo::everywhere(&scene);
            let mut servers = BTreeSet::new();
            for _ in 0..6 {
                let socket = socket(scene.bed().client(), ipv6);
                for length in [0, 1, 1000, 4000, 9000] {
                    if forward == Forward::Tunnel && length > 1400 && ipv6 {
                        // A fragment that is too big for the tunnel is lost: IPv6 says so, and the next one is smaller.
                        // Over IPv4 the director fragments it again.
                        let _ = socket.set_read_timeout(Some(Duration::from_millis(500)));
                        let lost = there_and_back(&socket, scene.service(), length);
                        assert!(lost.is_ok() || director.stats().unwrap().total.icmp_sent > 0, "{lost:?}");
                        socket.set_read_timeout(Some(PATIENCE)).unwrap();
                    }
                    match there_and_back(&socket, scene.service(), length) {
                        Ok(server) => servers.insert(server),
                        Err(error) => panic!(
                            "{length} bytes through {} over {}: {error}; {:?}",
                            setup.name(),
                            setup.ip(),
                            director.stats().unwrap().total
                        ),
                    };
                }
            }
            assert_eq!(servers.len(), 3, "{servers:?}");
        }
    }
}

/// Two arms of different MTU: the sender is told by the director itself.
#[test]
fn a_smaller_mtu_behind_the_director_is_told_to_the_sender() {
    if !root("a_smaller_mtu_behind_the_director_is_told_to_the_sender") {
        return;
    }
    for forward in [Forward::Nat, Forward::FullNat] {
        for ipv6 in [false, true] {
            for (narrow, upload) in [(ETH1, true), (ETH0, false)] {
                let setup = setup(forward, ipv6);
                let plan = Plan { arms: Arms::Two, ..Plan::default() };
                let scene = Scene::build(setup, plan).unwrap();
                scene.bed().director().rtnl().set_mtu(narrow, 1400).unwrap();
                let mut director = Director::start(&scene).unwrap();
                let outcome = client(scene.bed().client(), scene.service(), |connection| {
                    if upload { connection.put("/up/200000") } else { connection.get("/down/200000", false) }
                });
                let report = director.stats().unwrap().total;
                assert!(outcome.is_ok(), "{} {ipv6} upload {upload}: {outcome:?} {report:?}", setup.name());
                assert!(report.icmp_sent > 0, "{report:?}");
            }
        }
    }
}

/// The same for datagrams over IPv4 in fragments that have no DF: they are fragmented again, and put together by the kernel at the end.
#[test]
fn datagrams_without_df_pass_a_smaller_mtu_behind_the_director() {
    if !root("datagrams_without_df_pass_a_smaller_mtu_behind_the_director") {
        return;
    }
    for forward in [Forward::Nat, Forward::FullNat] {
        let plan = Plan { arms: Arms::Two, ..Plan::default() };
        let scene = Scene::build(setup(forward, false), plan).unwrap().with_datagrams();
        scene.bed().director().rtnl().set_mtu(ETH1, 1000).unwrap();
        // The link's other end drops what is longer, as any link's does.
        scene.bed().servers().iter().for_each(|server| server.rtnl().set_mtu(ETH0, 1000).unwrap());
        let mut director = Director::start(&scene).unwrap();
        let _echoes = Echo::everywhere(&scene);
        let socket = socket(scene.bed().client(), false);
        for length in [100, 2000, 9000, 30_000] {
            let outcome = there_and_back(&socket, scene.service(), length);
            let report = director.stats().unwrap().total;
            assert!(outcome.is_ok(), "{length} bytes, {forward:?}: {outcome:?} {report:?}");
            assert!(length == 100 || report.fragments_made > 0, "{report:?}");
        }
    }
}

/// IPv6 has to pass a tunnel even where 1,280 bytes and an outer header are more than the link takes.
#[test]
fn an_upload_through_a_tunnel_over_a_link_of_1280_bytes_completes() {
    if !root("an_upload_through_a_tunnel_over_a_link_of_1280_bytes_completes") {
        return;
    }
    for server_ipv6 in [false, true] {
        let setup = Setup { forward: Forward::Tunnel, ipv6: true, server_ipv6 };
        let scene = Scene::build(setup, setup.plan()).unwrap();
        for host in [scene.bed().director(), scene.bed().client()] {
            host.rtnl().set_mtu(ETH0, 1280).unwrap();
        }
        let mut director = Director::start(&scene).unwrap();
        let outcome = client(scene.bed().client(), scene.service(), |connection| connection.put("/up/200000"));
        let report = director.stats().unwrap().total;
        assert!(outcome.is_ok(), "{setup:?}: {outcome:?} {report:?}");
        assert!(report.fragments_made > 100, "{report:?}");
    }
}

/// A tunnel takes 20 or 40 bytes from the path's MTU: the client learns it.
#[test]
fn an_upload_through_a_tunnel_completes() {
    if !root("an_upload_through_a_tunnel_completes") {
        return;
    }
    for ipv6 in [false, true] {
        for server_ipv6 in [false, true] {
            let setup = Setup { forward: Forward::Tunnel, ipv6, server_ipv6 };
            let scene = Scene::build(setup, setup.plan()).unwrap();
            let mut director = Director::start(&scene).unwrap();
            let outcome = client(scene.bed().client(), scene.service(), |connection| connection.put("/up/200000"));
            let report = director.stats().unwrap().total;
            assert!(outcome.is_ok(), "{setup:?}: {outcome:?} {report:?}");
            assert!(report.icmp_sent > 0, "{report:?}");
        }
    }
}

/// A router between director and server has a smaller MTU on its far side, and tells the tunnel's source, an address of the director's
/// own: the director has to tell the client, whose segments may not be fragmented.
#[test]
fn a_smaller_mtu_on_the_way_to_a_tunnels_end_is_told_to_the_client() {
    if !root("a_smaller_mtu_on_the_way_to_a_tunnels_end_is_told_to_the_client") {
        return;
    }
    for ipv6 in [false, true] {
        for server_ipv6 in [false, true] {
            let setup = Setup { forward: Forward::Tunnel, ipv6, server_ipv6 };
            let scene = Scene::build(setup, Plan { servers: 1, ..setup.plan() }).unwrap();
            // The client's host is the router, too: the one that has no address of the service.
            let far = far_client(&scene, 1400);
            let service = scene.service();
            far.add_hidden_address(service.ip()).unwrap();
            let _end = far.decapsulate().unwrap();
            let _server = far.run(|| Server::start("far", service)).unwrap().unwrap();
            let near = format!("address = \"{}\"", scene.bed().server_address(0, server_ipv6));
            let beyond = format!("address = \"{}\"", if server_ipv6 { "fd80:0:0:9::2" } else { "10.80.9.2" });
            let mut director = Director::start_on(scene.bed().director(), |socket| {
                scene.configuration(socket).replace(&near, &beyond)
            })
            .unwrap();
            let outcome = client(scene.bed().client(), service, |connection| connection.put("/up/200000"));
            let report = director.stats().unwrap().total;
            assert!(outcome.is_ok(), "{setup:?}: {outcome:?} {report:?}");
            assert!(report.icmp_sent > 0, "{report:?}");
        }
    }
}

/// A router between client and director has a smaller MTU on its far side, and tells the service's address: the director
/// has to tell the server.
#[test]
fn a_smaller_mtu_on_the_way_to_the_client_is_told_to_the_server() {
    if !root("a_smaller_mtu_on_the_way_to_the_client_is_told_to_the_server") {
        return;
    }
    for forward in [Forward::Nat, Forward::FullNat] {
        for ipv6 in [false, true] {
            let setup = setup(forward, ipv6);
            let scene = Scene::build(setup, setup.plan()).unwrap();
            let far = far_client(&scene, 1300);
            let mut director = Director::start(&scene).unwrap();
            let outcome = client(&far, scene.service(), |connection| connection.get("/down/200000", false));
            assert!(outcome.is_ok(), "{} {ipv6}: {outcome:?} {:?}", setup.name(), director.stats().unwrap().total);
        }
    }
}

/// A host behind the client's, which routes to it over a link of `mtu` bytes. The host itself thinks it has 1,500.
fn far_client(scene: &Scene, mtu: u32) -> Host {
    let (router, far) = (scene.bed().client(), Host::create("far").unwrap());
    let inside = VethEnd { name: ETH0, namespace: Some(far.namespace()), mac: None, mtu: 1500, queues: 1 };
    let outside = VethEnd { name: "far", namespace: None, mac: None, mtu, queues: 1 };
    router.rtnl().create_veth(&outside, &inside).unwrap();
    router.rtnl().set_up("far", true).unwrap();
    far.rtnl().set_up(ETH0, true).unwrap();
    router.namespace().sysctls(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")]).unwrap();
    for (gateway, host, everything) in
        [("10.80.9.1/24", "10.80.9.2/24", "0.0.0.0/0"), ("fd80:0:0:9::1/64", "fd80:0:0:9::2/64", "::/0")]
    {
        let gateway: ipnet::IpNet = gateway.parse().unwrap();
        router.rtnl().add_address("far", gateway).unwrap();
        far.rtnl().add_address(ETH0, host.parse().unwrap()).unwrap();
        let route = Route { to: everything.parse().unwrap(), via: Some(gateway.addr()), dev: Some(ETH0), source: None };
        far.rtnl().set_route(&route).unwrap();
        // The director's way back, for its kernel and for the pipeline alike.
        let client = scene.bed().client_address(0, gateway.addr().is_ipv6());
        let back = Route { to: gateway.trunc(), via: Some(client), dev: Some(ETH0), source: None };
        scene.bed().director().rtnl().set_route(&back).unwrap();
    }
    for (host, link) in [(&far, ETH0), (router, "far")] {
        host.ethtool().set_offload(link, Offload::TxChecksum, false).unwrap();
        host.ethtool().set_offload(link, Offload::Gro, false).unwrap();
        eventually("a carrier", || host.rtnl().link(link).unwrap().running);
    }
    far
}

/// A load of connections in the background, and what came of it.
fn under_load(scene: &Scene, action: impl FnOnce(&Load)) -> Tally {
    let plan = LoadPlan {
        to: scene.service(),
        parallel: 8,
        requests: 3,
        sizes: vec![0, 100, 1460, 10_000, 60_000],
        most: u64::MAX,
        patience: PATIENCE,
    };
    let load = scene.bed().client().run(|| Load::start(plan)).unwrap().unwrap();
    assert!(load.wait(50, PATIENCE, || false), "nothing comes through at the beginning");
    action(&load);
    load.next_phase();
    assert!(load.wait(50, PATIENCE, || false), "nothing comes through at the end");
    let mut sum = Tally::default();
    load.stop().iter().for_each(|tally| sum.add(tally));
    sum
}

#[test]
fn an_interface_that_goes_down_and_comes_back_costs_no_request() {
    if !root("an_interface_that_goes_down_and_comes_back_costs_no_request") {
        return;
    }
    for ipv6 in [false, true] {
        let setup = setup(Forward::Nat, ipv6);
        let scene = Scene::build(setup, setup.plan()).unwrap();
        let host = scene.bed().director();
        // Else the kernel forgets IPv6 addresses with the link, as it does on any host.
        host.namespace().sysctl("net/ipv6/conf/eth0/keep_addr_on_down", "1").unwrap();
        let _director = Director::start(&scene).unwrap();
        // The interface itself, then the other end of its cable.
        for (end, link) in [(host, ETH0), (scene.bed().switch(), "director")] {
            let tally = under_load(&scene, |load| {
                end.rtnl().set_up(link, false).unwrap();
                load.next_phase();
                assert!(!load.wait(9, Duration::from_millis(300), || false), "the interface is down");
                end.rtnl().set_up(link, true).unwrap();
            });
            assert_eq!(tally.failed, 0, "{tally:?}");
        }
    }
}

/// Two workers, each with a queue of its own: the kernel spreads connections, and hardly ever both ways of one to the same
/// queue, so that frames are handed over between the workers.
#[test]
fn two_workers_on_two_queues_serve_every_request() {
    if !root("two_workers_on_two_queues_serve_every_request") {
        return;
    }
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("two_workers_on_two_queues_serve_every_request: skipped, this machine has one core");
        return;
    }
    let rules =
        RuleFile::write("one: if (suffix(url, \"/100\")) forward(server1)\ndefault: loadBalance(all, rr)\n").unwrap();
    let groups = "groups = { all = [\"server1\", \"server2\", \"server3\"] }";
    let content = format!("rules = {:?}\n{groups}", rules.path().display().to_string());
    let mut handed_over = 0;
    for (forward, keys) in [
        (Forward::Nat, ""),
        (Forward::FullNat, ""),
        (Forward::Dr, ""),
        (Forward::Tunnel, ""),
        (Forward::Nat, &content[..]),
        (Forward::FullNat, &content[..]),
    ] {
        for ipv6 in [false, true] {
            let setup = setup(forward, ipv6);
            let scene = Scene::build(setup, Plan { queues: 2, ..setup.plan() }).unwrap().with_keys(keys);
            let mut director = Director::start_on(scene.bed().director(), |socket| {
                scene.configuration(socket).replace("[workers]\n", "[workers]\ncores = [0, 1]\n")
            })
            .unwrap();
            let tally = under_load(&scene, |_| ());
            let stats = director.stats().unwrap();
            assert_eq!((tally.failed, tally.per_server.len()), (0, 3), "{setup:?} {keys}: {tally:?} {:?}", stats.total);
            for worker in &stats.workers {
                assert!(worker.received > 50, "{setup:?}: a worker has nothing to do: {worker:?}");
            }
            handed_over += stats.total.handed_over;
        }
    }
    assert!(handed_over > 0, "no connection was ever on two queues");
}

/// A client whose kernel leaves its checksums to a device that does not fill them in.
#[test]
fn checksums_left_to_an_offload_are_completed_and_told() {
    if !root("checksums_left_to_an_offload_are_completed_and_told") {
        return;
    }
    for forward in [Forward::Nat, Forward::FullNat, Forward::Dr, Forward::Tunnel] {
        for ipv6 in [false, true] {
            let setup = setup(forward, ipv6);
            let scene = Scene::build(setup, setup.plan()).unwrap();
            let mut director = Director::start(&scene).unwrap();
            // At the client, and at the switch's port, which would finish the frames in its stead.
            for (host, link) in [(scene.bed().client(), ETH0), (scene.bed().switch(), "director")] {
                host.ethtool().set_offload(link, Offload::TxChecksum, true).unwrap();
            }
            let tally = under_load(&scene, |_| ());
            assert_eq!(tally.failed, 0, "{tally:?}");
            let report = director.stats().unwrap().total;
            let told: Vec<_> = director.status().unwrap().notices.into_iter().map(|notice| notice.text).collect();
            assert!(report.checksums_completed > 50, "{} {ipv6} {report:?} {told:?}", setup.name());
            let client = scene.bed().client_address(0, ipv6);
            assert!(told.iter().any(|text| text.contains(&client.to_string()) && text.contains("eth0")), "{told:?}");
        }
    }
}

/// Names of the servers that the director has no way to.
fn unreachable(director: &mut Director) -> Vec<String> {
    let services = director.services().unwrap();
    services.iter().flat_map(|s| &s.servers).filter(|s| s.problem.is_some()).map(|s| s.name.clone()).collect()
}

#[test]
fn a_server_that_is_gone_stops_no_other_and_is_found_when_it_is_back() {
    if !root("a_server_that_is_gone_stops_no_other_and_is_found_when_it_is_back") {
        return;
    }
    for ipv6 in [false, true] {
        let setup = setup(Forward::Nat, ipv6);
        let scene = Scene::build(setup, setup.plan()).unwrap();
        let switch = scene.bed().switch().rtnl();
        switch.set_up("server2", false).unwrap();
        let mut director = Director::launch(&scene).unwrap();
        // The kernel asks three times, a second apart, before it gives up.
        eventually("the servers that are there", || unreachable(&mut director) == ["server2"]);

        let plan = LoadPlan {
            to: scene.service(),
            parallel: 6,
            requests: 2,
            sizes: vec![100, 30_000],
            most: 60,
            patience: Duration::from_millis(500),
        };
        let load = scene.bed().client().run(|| Load::start(plan)).unwrap().unwrap();
        assert!(load.wait(60, PATIENCE, || false));
        let tally = load.stop().remove(0);
        // A third of the connections is for the server that is gone; every other one is served.
        assert_eq!(tally.connections_per_server.keys().collect::<Vec<_>>(), ["server1", "server3"], "{tally:?}");
        assert_eq!(tally.requests - tally.failed, 2 * tally.connections_per_server.values().sum::<u64>(), "{tally:?}");
        assert!((30..=50).contains(&tally.connections_per_server.values().sum::<u64>()), "{tally:?}");
        assert!(tally.failures.iter().all(|failure| failure.starts_with("connect to")), "{tally:?}");
        let stats = director.stats().unwrap().total;
        assert!(stats.drops.iter().all(|d| d.reason == "next-hop-unresolved"), "{:?}", stats.drops);
        // Those that waited for it are given up after three seconds, and counted.
        eventually("no frame that waits", || director.stats().unwrap().total.held == 0);
        let drops = director.stats().unwrap().total.drops;
        assert_eq!(drops.iter().map(|d| d.reason.as_str()).collect::<Vec<_>>(), ["next-hop-unresolved"]);
        let notices = director.status().unwrap().notices;
        let address = scene.bed().server_address(1, ipv6).to_string();
        assert!(notices.iter().any(|notice| notice.text.contains(&address)), "{notices:?}");

        switch.set_up("server2", true).unwrap();
        eventually("the server that is back", || unreachable(&mut director).is_empty());
        let tally = under_load(&scene, |_| ());
        assert_eq!((tally.failed, tally.per_server.len()), (0, 3), "{tally:?}");
    }
}
