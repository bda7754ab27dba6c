//! Long transfers and failing servers through the director, between real kernels in network namespaces.

mod support;

use lcs_hwconf::testbed::{ETH0, Host};
use lcs_perf::demo::content::RuleFile;
use lcs_perf::demo::http::Connection;
use lcs_perf::demo::load::{Load, LoadPlan};
use lcs_perf::demo::root::director::Director;
use lcs_perf::demo::root::scene::{SERVICE, Scene, Setup};
use lcs_pipelines::snapshot::Forward;
use std::net::SocketAddr;
use std::time::Duration;
use support::{PATIENCE, eventually, root};

/// Bytes of a long transfer.
const LONG: usize = 100_000_000;

fn client<T: Send>(host: &Host, to: SocketAddr, action: impl FnOnce(&mut Connection) -> T + Send) -> T {
    host.run(|| action(&mut Connection::open(to, PATIENCE).unwrap())).unwrap()
}

/// Numbers wrap, windows fill and the kernels' buffers grow; every byte is compared at its receiver.
#[test]
fn a_hundred_megabytes_each_way_through_a_splice() {
    if !root("a_hundred_megabytes_each_way_through_a_splice") {
        return;
    }
    let rules = RuleFile::write("up: if (prefix(url, \"/up\")) forward(server1)\ndefault: forward(server2)\n").unwrap();
    for (forward, ipv6, mtu) in [
        (Forward::Nat, false, 1500),
        (Forward::FullNat, true, 1500),
        // Small packets of the client's link: the servers learn of it by the MSS.
        (Forward::FullNat, false, 576),
        (Forward::Nat, true, 1280),
    ] {
        let setup = Setup { forward, ipv6, server_ipv6: ipv6 };
        let scene = Scene::build(setup, setup.plan()).unwrap();
        let scene = scene.with_keys(format!("rules = {:?}", rules.path().display().to_string()));
        scene.bed().client().rtnl().set_mtu(ETH0, mtu).unwrap();
        let mut director = Director::start(&scene).unwrap();
        let outcome = client(scene.bed().client(), scene.service(), |connection| {
            // One connection, two servers, and back to the first.
            let up = connection.put(&format!("/up/{LONG}"));
            let down = connection.get(&format!("/down/{LONG}"), false);
            (up.map(|_| ()), down.map(|_| ()), connection.put("/up/100").map(|_| ()))
        });
        let total = director.stats().unwrap().total;
        assert!(matches!(outcome, (Ok(()), Ok(()), Ok(()))), "{forward:?} {ipv6} {mtu}: {outcome:?} {total:?}");
        assert!(total.received > (2 * LONG / mtu as usize) as u64, "{total:?}");
    }
}

/// A server that ends is found by its checks, and comes back.
#[test]
fn a_server_that_does_not_answer_its_checks_takes_nothing_until_it_does() {
    if !root("a_server_that_does_not_answer_its_checks_takes_nothing_until_it_does") {
        return;
    }
    for (forward, kind) in [(Forward::Nat, "http"), (Forward::Dr, "tcp"), (Forward::FullNat, "tcp")] {
        let setup = Setup { forward, ipv6: false, server_ipv6: false };
        let check = format!(
            "check = {{ kind = \"{kind}\", interval = 0.2, timeout = 0.2, fall = 2, path = \"/up/0\", port = 9090 }}"
        )
        .replace(", path = \"/up/0\"", if kind == "http" { ", path = \"/check/0\"" } else { "" });
        // In direct routing a server listens on the service's address, so each has a port of its own for checks.
        let mut scene = Scene::build(setup, setup.plan()).unwrap().with_keys(check);
        let checked = |at: u8| SocketAddr::new(scene.bed().server_address(at, false), 9090);
        let answer = |scene: &Scene, at: u8, to| {
            let host = &scene.bed().servers()[usize::from(at)];
            host.run(|| lcs_perf::demo::http::Server::start(host.name(), to)).unwrap().unwrap()
        };
        let mut answering: Vec<_> = (0..3).map(|at| Some(answer(&scene, at, checked(at)))).collect();
        let second = checked(1);
        let mut director = Director::start(&scene).unwrap();
        let state = |director: &mut Director| {
            let services = director.services().unwrap();
            services[0].servers.iter().map(|s| (s.state.clone(), s.down.clone())).nth(1).unwrap()
        };
        assert_eq!(state(&mut director).0, "up");
        answering[1] = None;
        scene.end_server(1);
        eventually("the server to be found out", || state(&mut director).0 == "down");
        let why = state(&mut director).1.unwrap_or_default();
        assert!(why.contains("Connection refused"), "{why}");
        let tally = load(&scene, 30);
        assert_eq!(tally.failed, 0, "{tally:?}");
        assert_eq!(tally.per_server.keys().collect::<Vec<_>>(), ["server1", "server3"], "{tally:?}");
        assert!(
            director
                .status()
                .unwrap()
                .notices
                .iter()
                .any(|n| n.text.starts_with(&format!("{SERVICE}/server2 is down")))
        );
        scene.start_server(1).unwrap();
        answering[1] = Some(answer(&scene, 1, second));
        eventually("the server to be back", || state(&mut director).0 == "up");
        let tally = load(&scene, 30);
        assert_eq!((tally.failed, tally.per_server.len()), (0, 3), "{tally:?}");
    }
}

/// Requests in connections of three, and what came of them.
fn load(scene: &Scene, connections: u64) -> lcs_perf::demo::load::Tally {
    let plan = LoadPlan {
        to: scene.service(),
        parallel: 6,
        requests: 3,
        sizes: vec![0, 1460],
        most: 3 * connections,
        patience: Duration::from_secs(5),
    };
    let load = scene.bed().client().run(|| Load::start(plan)).unwrap().unwrap();
    assert!(load.wait(3 * connections, PATIENCE, || false));
    load.stop().remove(0)
}
