//! Kernel TCP through the director on DPDK: what the demo plays on AF_XDP, on a packet socket of DPDK (`net_af_packet`). The kernel
//! has no address on the director's interface, so ARP and neighbour discovery are the director's own, in both directions.
//!
//! DPDK is started once for each process, so every scenario runs in a process of its own.
#![cfg(feature = "dpdk")]

mod support;

use lcs_hwconf::testbed::{ETH0, Host};
use lcs_perf::demo::load::{Load, LoadPlan};
use lcs_perf::demo::root::director::Director;
use lcs_perf::demo::root::scene::{Scene, Setup};
use lcs_pipelines::snapshot::Forward;
use std::process::Command;
use support::{PATIENCE, root};

const CHILD: &str = "LCS_DPDK_TEST";

/// Runs `body` in a process that has not seen DPDK yet.
fn alone(name: &str, body: impl FnOnce()) {
    if std::env::var(CHILD).is_ok_and(|n| n == name) {
        return body();
    }
    let program = std::env::current_exe().expect("this program");
    let child = Command::new(program).args([name, "--exact", "--nocapture"]).env(CHILD, name).output();
    let child = child.expect("a process");
    let said = format!("{}\n{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert!(child.status.success() && said.contains("1 passed"), "{}:\n{said}", child.status);
    print!("{said}");
}

/// Takes the kernel's addresses off the director's interface: from here on nobody but us answers there.
fn silence(host: &Host) {
    host.namespace().sysctl(&format!("net/ipv6/conf/{ETH0}/disable_ipv6"), "1").expect("no IPv6");
    for net in host.rtnl().addresses(ETH0).expect("addresses") {
        host.rtnl().delete_address(ETH0, net).expect("an address taken");
    }
    assert_eq!(host.rtnl().addresses(ETH0).expect("addresses"), []);
}

/// 60 connections of 3 requests each, through the director.
fn play(forward: Forward, ipv6: bool) {
    let setup = Setup { forward, ipv6, server_ipv6: ipv6 };
    let scene = Scene::build(setup, setup.plan()).expect("a scene");
    let bed = scene.bed();
    silence(bed.director());
    let mut director = Director::start_on(bed.director(), |socket| {
        let text = scene.configuration(socket);
        let (from, to) = (
            format!("kind = \"af-xdp\"\ninterfaces = [\"{ETH0}\"]"),
            format!(
                "kind = \"dpdk\"\ninterfaces = [\"net_af_packet0,iface={ETH0}\"]\n\
                 eal = [\"--no-huge\", \"--no-shconf\", \"--no-telemetry\", \"-m\", \"128\"]"
            ),
        );
        assert!(text.contains(&from), "{text}");
        text.replace(&from, &to)
    })
    .unwrap_or_else(|e| panic!("{e}"));
    let plan = LoadPlan {
        to: scene.service(),
        parallel: 8,
        requests: 3,
        sizes: vec![0, 100, 1460, 10_000, 60_000],
        most: 60,
        patience: PATIENCE,
    };
    let load = bed.client().run(|| Load::start(plan)).expect("the client").expect("a load");
    assert!(load.wait(60, PATIENCE, || false), "{:?}", director.stats());
    let tally = load.stop().remove(0);
    let stats = director.stats().expect("counters");
    assert_eq!((tally.requests, tally.failed), (180, 0), "{tally:?} {stats:?}");
    assert_eq!(tally.per_server.len(), 3, "{tally:?}");
    assert_eq!(tally.seen_as.get(&scene.seen_as()), Some(&60), "{tally:?}");
    let log = director.log();
    assert!(log.iter().any(|l| l.contains("net_af_packet0: DPDK, driver net_af_packet")), "{log:?}");
    director.stop().expect("an end without an error");
}

#[test]
fn nat_over_ipv4() {
    if root("nat_over_ipv4") {
        alone("nat_over_ipv4", || play(Forward::Nat, false));
    }
}

#[test]
fn nat_over_ipv6() {
    if root("nat_over_ipv6") {
        alone("nat_over_ipv6", || play(Forward::Nat, true));
    }
}

#[test]
fn full_nat_over_ipv4() {
    if root("full_nat_over_ipv4") {
        alone("full_nat_over_ipv4", || play(Forward::FullNat, false));
    }
}

#[test]
fn direct_routing_over_ipv6() {
    if root("direct_routing_over_ipv6") {
        alone("direct_routing_over_ipv6", || play(Forward::Dr, true));
    }
}

#[test]
fn tunnels_over_ipv4() {
    if root("tunnels_over_ipv4") {
        alone("tunnels_over_ipv4", || play(Forward::Tunnel, false));
    }
}

/// `lcs perf linerate` from one device to another; without hugepages.
fn linerate(tx: &str, rx: &str) -> Result<lcs_perf::linerate::Figures, lcs_perf::linerate::LinerateError> {
    use lcs_perf::linerate::{Options, Search, Size, Transport, ports};
    let o = Options {
        flows: 100,
        sizes: vec![Size::Bytes(64), Size::Imix],
        search: Search { seconds: 0.05, resolution: 0.1, agree: 1, budget: std::time::Duration::from_secs(20) },
        rounds: 1,
        ..Options::default()
    };
    let between = ports::Between {
        tx: tx.parse().expect("a name"),
        rx: rx.parse().expect("a name"),
        transport: Transport::Tcp,
        to: "198.19.0.1:80".parse().expect("an address"),
        from: None,
        gateway: None,
        arrive: vec![],
        speed: Some(10e9),
        eal: Some(["--no-huge", "--no-shconf", "--no-telemetry", "-m", "128"].map(str::to_owned).to_vec()),
    };
    ports::measure(&o, &between, &lcs_perf::demo::interrupt::Interrupt::default(), |_| {})
}

#[test]
fn linerate_over_a_ring_finds_a_rate() {
    if root("linerate_over_a_ring_finds_a_rate") {
        alone("linerate_over_a_ring_finds_a_rate", || {
            // What a ring device is given it gives back.
            let figures = linerate("dpdk:net_ring0", "dpdk:net_ring0").unwrap_or_else(|e| panic!("{e}"));
            assert_eq!((figures.port.as_str(), figures.rows.len(), figures.line_rate), ("dpdk", 2, Some(10e9)));
            for row in &figures.rows {
                assert!(row.saturated.median > 1e5, "{figures}");
                for (_, trial) in &row.loads {
                    let q = trial.queues[0];
                    assert_eq!((q.sent, q.received), (trial.offered - trial.behind, trial.received), "{trial:?}");
                    assert_eq!(q.lost, q.sent - q.received, "{trial:?}");
                }
            }
            assert!(figures.to_string().contains("of link"), "{figures}");
        });
    }
}

#[test]
fn linerate_through_a_device_that_makes_frames_up_is_refused() {
    if root("linerate_through_a_device_that_makes_frames_up_is_refused") {
        alone("linerate_through_a_device_that_makes_frames_up_is_refused", || {
            // It gives buffers as they are, without end, and in some stand frames that were sent: no rate may come of that.
            let said = linerate("dpdk:net_null0", "dpdk:net_null1").expect_err("nothing was forwarded").to_string();
            assert!(said.contains("the device repeats them") || said.contains("not one frame came out"), "{said}");
        });
    }
}
