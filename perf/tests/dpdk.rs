//! Kernel TCP through the director on DPDK: what the demo plays on AF_XDP, on sockets of DPDK (`net_af_packet`, `net_af_xdp`). The kernel
//! has no address on the director's interface, so ARP and neighbour discovery are the director's own, in both directions.
//!
//! DPDK is started once for each process, so every scenario runs in a process of its own.
#![cfg(feature = "dpdk")]

mod support;

use lcs_dataplane::headers::build::fill_icmp_checksum;
use lcs_hwconf::testbed::{ETH0, Host};
use lcs_perf::demo::content::RuleFile;
use lcs_perf::demo::http::{Connection, Failure};
use lcs_perf::demo::load::{Load, LoadPlan};
use lcs_perf::demo::root::director::Director;
use lcs_perf::demo::root::scene::{Scene, Setup};
use lcs_pipelines::snapshot::Forward;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};
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

/// A director on a device of this driver, instead of the scene's AF_XDP port.
fn director(scene: &Scene, driver: &str) -> Director {
    silence(scene.bed().director());
    Director::start_on(scene.bed().director(), |socket| {
        let text = scene.configuration(socket);
        let (from, to) = (
            format!("kind = \"af-xdp\"\ninterfaces = [\"{ETH0}\"]"),
            format!(
                "kind = \"dpdk\"\ninterfaces = [\"{driver}0,iface={ETH0}\"]\n\
                 eal = [\"--no-huge\", \"--no-shconf\", \"--no-telemetry\", \"-m\", \"128\"]"
            ),
        );
        assert!(text.contains(&from), "{text}");
        text.replace(&from, &to)
    })
    .unwrap_or_else(|e| panic!("{e}"))
}

/// 60 connections of 3 requests each, through the director.
fn play(driver: &str, forward: Forward, ipv6: bool) {
    let setup = Setup { forward, ipv6, server_ipv6: ipv6 };
    let scene = Scene::build(setup, setup.plan()).expect("a scene");
    let bed = scene.bed();
    let mut director = director(&scene, driver);
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
    assert!(log.iter().any(|l| l.contains(&format!("{driver}0: DPDK, driver {driver}"))), "{log:?}");
    director.stop().expect("an end without an error");
}

/// A ping from outside, and its answer: the payload that came back.
fn ping(from: &Host, to: Ipv4Addr, payload: &[u8]) -> bool {
    let socket = from.run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).expect("a raw socket"));
    let mut socket = socket.expect("the client's namespace");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a time-out");
    let mut request = vec![0; 8 + payload.len()];
    request[0] = 8;
    request[8..].copy_from_slice(payload);
    fill_icmp_checksum(&mut request, None);
    let deadline = Instant::now() + PATIENCE;
    let mut packet = [0; 2048];
    while Instant::now() < deadline {
        // The first may go while the client does not know the link-layer address yet.
        let _ = socket.send_to(&request, &SockAddr::from(SocketAddr::from((to, 0))));
        while let Ok(n) = socket.read(&mut packet) {
            if n == 20 + request.len() && packet[12..16] == to.octets() && packet[20] == 0 && &packet[28..n] == payload
            {
                return true;
            }
        }
    }
    false
}

/// The machine behind the director stays reachable: its kernel answers ping and TCP at an address that is no service's, and checks
/// the servers' health from there, while the service goes on.
#[test]
fn the_kernel_behind_the_port_is_reached_through_its_tap_device() {
    const NAME: &str = "the_kernel_behind_the_port_is_reached_through_its_tap_device";
    if !root(NAME) {
        return;
    }
    alone(NAME, || {
        let setup = Setup { forward: Forward::Nat, ipv6: false, server_ipv6: false };
        let check = "check = { kind = \"tcp\", interval = \"1s\", fall = 1, rise = 1 }\n";
        let mut scene = Scene::build(setup, setup.plan()).expect("a scene").with_keys(check);
        let bed = scene.bed();
        silence(bed.director());
        // One address in each of the networks; neither is the director's own.
        let outer = Ipv4Addr::new(10, 80, 0, 2);
        let taps = format!(
            "kind = \"dpdk\"\ninterfaces = [\"net_af_packet0,iface={ETH0}\"]\n\
             eal = [\"--no-huge\", \"--no-shconf\", \"--no-telemetry\", \"-m\", \"128\"]\n\
             [[port.taps]]\nname = \"lcs7\"\naddresses = [\"{outer}/24\", \"10.80.1.2/24\"]\nrate = 5000\n"
        );
        let mut director = Director::start_on(bed.director(), |socket| {
            let from = format!("kind = \"af-xdp\"\ninterfaces = [\"{ETH0}\"]");
            let text = scene.configuration(socket);
            assert!(text.contains(&from), "{text}");
            text.replace(&from, &taps)
        })
        .unwrap_or_else(|e| panic!("{e}"));
        let tap = bed.director().rtnl().link("lcs7").expect("the TAP device");
        assert_eq!(tap.mac, bed.director().rtnl().link(ETH0).expect("the leg").mac);
        // The kernel answers, by the device's own path: to the director these are strangers.
        assert!(ping(bed.client(), outer, &[7; 1200]), "{:?}", director.stats());
        let listener = bed.director().run(|| TcpListener::bind((outer, 2222)).expect("a listener")).expect("inside");
        let greet = std::thread::spawn(move || listener.accept().map(|(mut s, _)| s.write_all(b"hello")));
        let said = bed.client().run(|| {
            let mut stream = TcpStream::connect_timeout(&(outer, 2222).into(), PATIENCE).expect("a connection");
            stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
            let mut said = String::new();
            stream.read_to_string(&mut said).map(|_| said)
        });
        assert_eq!(said.expect("inside").expect("what it says"), "hello");
        greet.join().expect("a thread").expect("accepted").expect("written");
        // A closed port is refused by the kernel, as on any machine.
        let refused = bed.client().run(|| TcpStream::connect_timeout(&(outer, 2223).into(), PATIENCE)).expect("inside");
        assert_eq!(refused.expect_err("nobody listens").kind(), std::io::ErrorKind::ConnectionRefused);
        // The director still answers for its own: the kernel does not even have that address.
        let IpAddr::V4(own) = scene.service().ip() else { panic!("IPv4 was asked for") };
        assert!(ping(bed.client(), own, &[9; 64]), "{:?}", director.stats());
        let plan = LoadPlan {
            to: scene.service(),
            parallel: 4,
            requests: 2,
            sizes: vec![0, 10_000],
            most: 20,
            patience: PATIENCE,
        };
        let load = bed.client().run(|| Load::start(plan)).expect("the client").expect("a load");
        assert!(load.wait(20, PATIENCE, || false), "{:?}", director.stats());
        let tally = load.stop().remove(0);
        let stats = director.stats().expect("counters");
        assert_eq!((tally.requests, tally.failed), (40, 0), "{tally:?} {stats:?}");
        // Servers are asked by this way: who ends is found to be down, and nobody else.
        scene.end_server(0);
        let deadline = Instant::now() + PATIENCE;
        let stats = loop {
            let stats = director.stats().expect("counters");
            let down: Vec<bool> = stats.services[0].servers.iter().map(|s| s.down.is_some()).collect();
            if down == [true, false, false] {
                break stats;
            }
            assert!(Instant::now() < deadline, "{down:?} {stats:?}");
            std::thread::yield_now();
        };
        let bed = scene.bed();
        let [tap] = stats.taps.as_slice() else { panic!("{stats:?}") };
        assert_eq!((tap.name.as_str(), tap.counts.refused), ("lcs7", 0), "{tap:?}");
        assert!(tap.counts.to_kernel >= 8 && tap.counts.from_kernel >= 8, "{tap:?}");
        assert!(stats.total.to_kernel >= tap.counts.to_kernel, "{stats:?}");
        director.stop().expect("an end without an error");
        assert!(bed.director().rtnl().link("lcs7").is_err(), "the device goes with the director");
    });
}

#[test]
fn nat_over_ipv4() {
    if root("nat_over_ipv4") {
        alone("nat_over_ipv4", || play("net_af_packet", Forward::Nat, false));
    }
}

#[test]
fn nat_over_ipv6() {
    if root("nat_over_ipv6") {
        alone("nat_over_ipv6", || play("net_af_packet", Forward::Nat, true));
    }
}

#[test]
fn full_nat_over_ipv4() {
    if root("full_nat_over_ipv4") {
        alone("full_nat_over_ipv4", || play("net_af_packet", Forward::FullNat, false));
    }
}

#[test]
fn direct_routing_over_ipv6() {
    if root("direct_routing_over_ipv6") {
        alone("direct_routing_over_ipv6", || play("net_af_packet", Forward::Dr, true));
    }
}

#[test]
fn tunnels_over_ipv4() {
    if root("tunnels_over_ipv4") {
        alone("tunnels_over_ipv4", || play("net_af_packet", Forward::Tunnel, false));
    }
}

#[test]
fn nat_over_ipv4_by_dpdks_own_af_xdp_sockets() {
    if root("nat_over_ipv4_by_dpdks_own_af_xdp_sockets") {
        alone("nat_over_ipv4_by_dpdks_own_af_xdp_sockets", || play("net_af_xdp", Forward::Nat, false));
    }
}

/// Requests of one connection are read, and answered by two servers in turn; every byte is compared.
fn switch_by_content(forward: Forward, ipv6: bool) {
    let rules = "up: if (prefix(url, \"/up\")) forward(server1)\ndefault: forward(server2)\n";
    let rules = RuleFile::write(rules).expect("a file of rules");
    let setup = Setup { forward, ipv6, server_ipv6: ipv6 };
    let scene = Scene::build(setup, setup.plan()).expect("a scene");
    let scene = scene.with_keys(format!("rules = {:?}", rules.path().display().to_string()));
    let mut director = director(&scene, "net_af_packet");
    let answers = scene.bed().client().run(|| {
        let mut connection = Connection::open(scene.service(), PATIENCE)?;
        for _ in 0..20 {
            connection.put("/up/30000")?;
            connection.get("/down/50000", false)?;
        }
        Ok::<(), Failure>(())
    });
    let stats = director.stats().expect("counters");
    assert!(matches!(answers, Ok(Ok(()))), "{answers:?} {stats:?}");
    director.stop().expect("an end without an error");
}

#[test]
fn requests_are_switched_by_content_over_ipv4() {
    if root("requests_are_switched_by_content_over_ipv4") {
        alone("requests_are_switched_by_content_over_ipv4", || switch_by_content(Forward::Nat, false));
    }
}

#[test]
fn requests_are_switched_by_content_over_ipv6() {
    if root("requests_are_switched_by_content_over_ipv6") {
        alone("requests_are_switched_by_content_over_ipv6", || switch_by_content(Forward::FullNat, true));
    }
}

/// `lcs perf linerate` from one device to another; without hugepages.
fn linerate(tx: &str, rx: &str) -> Result<lcs_perf::linerate::Figures, lcs_perf::linerate::LinerateError> {
    use lcs_perf::linerate::{Options, Search, Size, Transport, ports};
    let o = Options {
        flows: 100,
        sizes: vec![Size::Bytes(64), Size::Imix],
        search: Search { seconds: 0.05, resolution: 0.1, agree: 1, budget: std::time::Duration::from_secs(20) },
        rounds: Some(1),
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
