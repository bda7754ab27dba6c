//! The in-process network by itself, before any director stands in it: real TCP endpoints over good and bad links.

use lcs_perf::network::capture::Capture;
use lcs_perf::network::host::Host;
use lcs_perf::network::http::{Closing, HttpClient, HttpServer, Request, Script};
use lcs_perf::network::link::Faults;
use lcs_perf::network::stack::{Settings, TcpSettings};
use lcs_perf::network::switch::Switch;
use lcs_perf::network::udp::{UdpClient, UdpServer};
use lcs_perf::network::{Id, MILLISECOND, Network, SECOND};
use std::net::SocketAddr;

struct Pair {
    net: Network,
    client: Id<Host>,
    server: Id<Host>,
}

/// A client and a server on one switch; the faults are those of the client's link.
fn pair(seed: u64, faults: Faults, tcp: TcpSettings, client: HttpClient, server: HttpServer) -> Pair {
    let mut net = Network::new(seed);
    let settings = |n, addresses: &[&str]| Settings { tcp, ..Settings::new(n, addresses) };
    let client = Host::new(settings(1, &["192.0.2.1/24", "2001:db8::1/64"])).with(client);
    let server = Host::new(settings(2, &["192.0.2.2/24", "2001:db8::2/64"])).with(server);
    let (client, server) = (net.add("client", client), net.add("server", server));
    let switch = net.add("switch", Switch::new());
    net.connect(client, switch, faults);
    net.connect(server, switch, Faults::NONE);
    Pair { net, client, server }
}

impl Pair {
    fn seen(&self) -> &lcs_perf::network::http::client::Seen {
        &self.net[self.client].application::<HttpClient>().seen
    }

    fn finish(&mut self, time: u64) {
        let client = self.client;
        let limit = self.net.now() + time;
        let done = self.net.run(limit, |n| n[client].application::<HttpClient>().finished());
        assert!(done, "not finished: {:?}", self.net[client].application::<HttpClient>());
    }
}

const V4: &str = "192.0.2.2:80";
const V6: &str = "[2001:db8::2]:80";

fn to(target: &str) -> SocketAddr {
    target.parse().unwrap()
}

#[test]
fn requests_are_answered_over_both_families_and_each_way_of_closing() {
    for target in [V4, V6] {
        for closing in [Closing::Client, Closing::Server, Closing::Reset] {
            let scripts = (0..20)
                .map(|i| {
                    let requests = vec![
                        Request::get(&format!("/a/{}", i * 700)),
                        Request::post("/b/10", i * 900),
                        Request { method: "HEAD", ..Request::get("/c/5000") },
                        Request::get("/not-found"),
                    ];
                    Script { pipeline: 1 + i as usize % 4, closing, ..Script::new(to(target), requests) }
                })
                .collect();
            let mut p = pair(
                1,
                Faults::NONE,
                TcpSettings::default(),
                HttpClient::list(4, scripts).keep_answers(),
                HttpServer::new("s1", 80),
            );
            p.finish(60 * SECOND);
            let seen = p.seen();
            assert_eq!((seen.answered, seen.failed, seen.completed), (80, 0, 20), "{closing:?} {:?}", seen.failures);
            assert_eq!(seen.per_server["s1"], 80);
            assert_eq!(seen.answers.iter().filter(|a| a.status == 404).count(), 20);
            // Two links of 10 µs each way, and no answer is faster than a round trip.
            assert!(seen.answers.iter().all(|a| a.latency >= 40_000 && a.latency < SECOND));
            p.net.run_for(2 * SECOND);
            let served = p.net[p.server].application::<HttpServer>().served;
            assert_eq!((served.connections, served.requests, served.errors), (20, 80, 20));
            assert_eq!(p.net[p.server].application::<HttpServer>().active(), 0);
            // TIME-WAIT is where the first FIN came from.
            let waiting = [p.net[p.client].stack().waiting(), p.net[p.server].stack().waiting()];
            let want = match closing {
                Closing::Client => [20, 0],
                Closing::Server => [0, 20],
                Closing::Reset => [0, 0],
            };
            assert_eq!(waiting, want, "{closing:?}");
        }
    }
}

/// Ten connections of mixed requests over a link with every fault; a TCP whose options depend on the seed.
fn bad_link(seed: u64) -> Pair {
    let tcp = TcpSettings {
        receive_buffer: [2_000, 16_384, 200_000][seed as usize % 3],
        nagle: seed % 2 == 0,
        ack_delay: if seed % 4 < 2 { 10 * MILLISECOND } else { 0 },
        timestamps: seed % 5 < 2,
        reno: seed % 7 < 3,
        ..TcpSettings::default()
    };
    let target = to(if seed % 2 == 0 { V4 } else { V6 });
    let scripts = (0..10)
        .map(|i| {
            let requests = vec![Request::get(&format!("/x/{}", i * 3_000)), Request::post("/y/1", i * 2_000)];
            let closing = [Closing::Client, Closing::Server][i as usize % 2];
            Script { closing, pipeline: 2, ..Script::new(target, requests) }
        })
        .collect();
    let client = HttpClient::list(5, scripts).patience(600 * SECOND);
    pair(seed, Faults::all(0.03), tcp, client, HttpServer::new("s", 80))
}

#[test]
fn every_byte_comes_through_a_bad_link_with_any_options() {
    let mut events = 0;
    for seed in 0..60u64 {
        let mut p = bad_link(seed);
        p.finish(3600 * SECOND);
        let seen = p.seen();
        if (seen.answered, seen.failed) != (20, 0) {
            let failures = seen.failures.clone();
            let path = format!("{}/bad-link-{seed}.pcapng", env!("CARGO_TARGET_TMPDIR"));
            let mut again = bad_link(seed);
            again.net.capture(Capture::new(Box::new(std::fs::File::create(&path).unwrap()), 1_000_000));
            again.finish(3600 * SECOND);
            again.net.take_capture().unwrap().finish().unwrap();
            panic!("seed {seed}: {failures:?}; its frames are in {path}");
        }
        events += p.net.events();
        p.net.run_for(120 * SECOND);
        assert_eq!(p.net[p.server].application::<HttpServer>().active(), 0, "seed {seed}");
        assert_eq!(p.net[p.client].stack().in_use(), 0);
    }
    assert!(events > 10_000, "{events}");
}

#[test]
fn a_seed_replays_its_run_exactly() {
    let run = |seed| {
        let scripts = (0..5).map(|i| Script::new(to(V4), vec![Request::get(&format!("/{}", 5_000 * i))])).collect();
        let client = HttpClient::list(3, scripts).keep_answers();
        let mut p = pair(seed, Faults::all(0.05), TcpSettings::default(), client, HttpServer::new("s", 80));
        p.finish(3600 * SECOND);
        (p.net.now(), p.net.events(), p.seen().answers.clone())
    };
    assert_eq!(run(11), run(11));
    assert_ne!(run(11), run(12));
}

#[test]
fn a_request_may_come_a_byte_a_segment() {
    let script = Script { piece: 1, ..Script::new(to(V4), vec![Request::get("/slow/100")]) };
    let mut p =
        pair(1, Faults::NONE, TcpSettings::default(), HttpClient::list(1, vec![script]), HttpServer::new("s", 80));
    let link = p.net.link_of(p.client).unwrap();
    p.finish(600 * SECOND);
    assert_eq!(p.seen().answered, 1);
    let offered = p.net.counts(link)[0].offered;
    assert!(offered > "GET /slow/100 HTTP/1.1\r\nHost: 192.0.2.2\r\n\r\n".len() as u64, "{offered} segments");
}

#[test]
fn failures_are_told_apart() {
    use lcs_perf::network::http::Why;
    // Nothing listens on that port.
    let one = |target: &str| vec![Script::new(to(target), vec![Request::get("/1"), Request::get("/2")])];
    let client = HttpClient::list(1, one("192.0.2.2:81"));
    let mut p = pair(1, Faults::NONE, TcpSettings::default(), client, HttpServer::new("s", 80));
    p.finish(10 * SECOND);
    assert_eq!(p.seen().failures[0].why, Why::Closed { unanswered: 2 });
    assert_eq!((p.seen().failed, p.seen().answered), (2, 0));
    // Nobody has that address.
    let client = HttpClient::list(1, one("192.0.2.99:80")).patience(5 * SECOND);
    let mut p = pair(1, Faults::NONE, TcpSettings::default(), client, HttpServer::new("s", 80));
    p.finish(10 * SECOND);
    assert_eq!(p.seen().failures[0].why, Why::TimedOut);
    // The link goes down in the middle.
    let script = Script { pause: SECOND, ..one(V4).remove(0) };
    let client = HttpClient::list(1, vec![script]).patience(5 * SECOND);
    let mut p = pair(1, Faults::NONE, TcpSettings::default(), client, HttpServer::new("s", 80));
    p.net.run_for(SECOND / 2);
    assert_eq!(p.seen().answered, 1);
    let link = p.net.link_of(p.client).unwrap();
    p.net.set_up(link, false);
    p.finish(60 * SECOND);
    assert_eq!((p.seen().failed, &p.seen().failures[0].why), (1, &Why::TimedOut));
}

#[test]
fn udp_goes_both_ways_also_in_fragments() {
    // The stack's fragmenter holds one datagram, so only one socket sends those.
    for (target, sockets, size) in [("192.0.2.2:53", 10, 100), ("[2001:db8::2]:53", 10, 100), ("192.0.2.2:53", 1, 4000)]
    {
        let mut net = Network::new(5);
        let client = Host::new(Settings::new(1, &["192.0.2.1/24", "2001:db8::1/64"])).with(UdpClient::new(
            to(target),
            sockets,
            200 / u64::from(sockets),
            size,
        ));
        let server = Host::new(Settings::new(2, &["192.0.2.2/24", "2001:db8::2/64"])).with(UdpServer::new("u1", 53));
        let (client, server) = (net.add("client", client), net.add("server", server));
        net.connect(client, server, Faults::NONE);
        let limit = net.now() + 10 * SECOND;
        let done = net.run(limit, |n| n[client].application::<UdpClient>().finished(n.now()));
        let c = net[client].application::<UdpClient>();
        assert!(done, "{c:?}");
        assert_eq!((c.sent, c.wrong, c.doubled), (200, 0, 0), "{target} {size}");
        assert_eq!(c.lost(), 0, "{target} {size}");
        assert_eq!(c.per_server["u1"], 200);
        assert_eq!(net[server].application::<UdpServer>().answered, 200);
    }
}
