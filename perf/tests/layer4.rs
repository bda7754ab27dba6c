//! Real TCP through the layer-4 pipeline in every way of forwarding, over both families, in the in-process network.

use lcs_dataplane::cycles::NoMeter;
use lcs_dataplane::port::memory::MemoryPort;
use lcs_dataplane::verdict::DropReason;
use lcs_dataplane::worker::Worker;
use lcs_perf::network::http::{Closing, HttpClient, HttpServer, Request, Script};
use lcs_perf::network::site::{Plan, Site};
use lcs_perf::network::{MILLISECOND, SECOND};
use lcs_pipelines::layer4::Layer4;
use lcs_pipelines::snapshot::{Forward, Scheduler};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Every way of forwarding: the way, the clients' family, whether the tunnel is of the other family.
const WAYS: [(Forward, bool, bool); 10] = [
    (Forward::Nat, false, false),
    (Forward::Nat, true, false),
    (Forward::FullNat, false, false),
    (Forward::FullNat, true, false),
    (Forward::Dr, false, false),
    (Forward::Dr, true, false),
    (Forward::Tunnel, false, false),
    (Forward::Tunnel, true, false),
    (Forward::Tunnel, false, true),
    (Forward::Tunnel, true, true),
];

/// A client of `n` connections with two requests each.
fn client(to: SocketAddr, n: u64) -> HttpClient {
    HttpClient::new(4, move |i| {
        let requests = vec![Request::get(&format!("/a/{}", i * 100)), Request::post("/b/7", i * 50)];
        let closing = [Closing::Client, Closing::Server][i as usize % 2];
        (i < n).then(|| Script { closing, ..Script::new(to, requests) })
    })
}

fn counts<const N: usize>(of: [(&str, u64); N]) -> BTreeMap<String, u64> {
    of.into_iter().map(|(name, n)| (name.to_owned(), n)).collect()
}

/// The load is over: what it held comes back, and nothing is left when the time-outs are over.
fn settles(site: &mut Site<NoMeter>, what: &str) {
    site.net.run_for(5 * SECOND);
    for server in site.servers.clone() {
        assert_eq!(site.net[server].application::<HttpServer>().active(), 0, "{what}");
    }
    site.net.run_for(1000 * SECOND);
    for report in site.reports() {
        assert_eq!((report.flows, report.half_open), (0, 0), "{what}: {:?}", report.states);
        assert_eq!(report.states, [0; 9], "{what}");
        assert!(report.servers.iter().all(|s| (s.active, s.inactive) == (0, 0)), "{what}: {:?}", report.servers);
    }
    site.net[site.director].check().unwrap();
}

#[test]
fn every_request_is_answered_and_servers_share_as_their_weights_say() {
    for (forward, v6, cross) in WAYS {
        for (workers, scatter) in [(1, false), (3, true), (3, false)] {
            let what = format!("{forward:?} v6 {v6} cross {cross} workers {workers} scattered {scatter}");
            let plan = Plan { cross, workers, scatter, ..Plan::new(forward, v6) };
            let client = client(plan.service(), 120);
            let mut site = Site::build(plan, NoMeter, vec![client]);
            assert!(site.finish(100 * SECOND), "{what}");
            let seen = &site.net[site.clients[0]].application::<HttpClient>().seen;
            assert_eq!((seen.answered, seen.failed), (240, 0), "{what}: {:?}", seen.failures);
            let wanted = counts([("s1", 20), ("s2", 40), ("s3", 60)]);
            if workers == 1 {
                assert_eq!(seen.connections_per_server, wanted, "{what}");
            } else {
                // Each worker has a turn of its own, so that the shares are off by less than a round a worker.
                for (server, n) in &wanted {
                    let got = seen.connections_per_server[server];
                    assert!(got.abs_diff(*n) <= 3 * 3, "{what}: {:?}", seen.connections_per_server);
                }
                let workers = site.net[site.director].workers();
                let of = |w: &Worker<MemoryPort, Layer4, NoMeter>| (w.counters().handed_over, w.counters().taken_over);
                // Cards that hash the client's endpoint bring every frame to its owner, sources that the director has chosen included.
                let handed = |w: &Worker<MemoryPort, Layer4, NoMeter>| {
                    if scatter { of(w).0 > 0 && of(w).1 > 0 } else { of(w) == (0, 0) }
                };
                assert!(workers.iter().all(handed), "{what}: {:?}", workers.iter().map(of).collect::<Vec<_>>());
                let carried: Vec<u64> = workers.iter().map(|w| w.counters().forwarded).collect();
                assert!(carried.iter().all(|n| *n > 50), "{what}: {carried:?}");
            }
            let opened: u64 = site.reports().iter().flat_map(|r| &r.servers).map(|s| s.connections).sum();
            assert_eq!(opened, 120, "{what}");
            for worker in site.net[site.director].workers() {
                assert_eq!(worker.counters().dropped_for(DropReason::NoFlow), 0, "{what}");
            }
            let tunnelled = forward == Forward::Tunnel;
            assert_eq!(site.net[site.servers[0]].decapsulated > 0, tunnelled, "{what}");
            settles(&mut site, &what);
        }
    }
}

#[test]
fn a_weight_acts_at_once_and_a_removed_server_keeps_what_it_has() {
    for (forward, v6, cross) in WAYS {
        let what = format!("{forward:?} v6 {v6} cross {cross}");
        let plan = Plan { cross, weights: vec![1, 1, 1], ..Plan::new(forward, v6) };
        let to = plan.service();
        // Long connections that live through every change, and short ones that show it.
        let long = HttpClient::new(6, move |i| {
            let requests = (0..20).map(|n| Request::get(&format!("/long/{}", n * 500))).collect();
            (i < 6).then(|| Script { pause: 400 * MILLISECOND, ..Script::new(to, requests) })
        });
        let short = HttpClient::new(4, move |_| Some(Script::new(to, vec![Request::get("/short/900")])));
        let mut site = Site::build(plan, NoMeter, vec![long, short.interval(MILLISECOND)]);
        let (long, short) = (site.clients[0], site.clients[1]);
        let mut before = BTreeMap::new();
        let mut since = |site: &Site<NoMeter>| {
            let now = &site.net[short].application::<HttpClient>().seen.connections_per_server;
            let of = |s: &str| now.get(s).copied().unwrap_or(0) - before.get(s).copied().unwrap_or(0u64);
            let parts = [of("s1"), of("s2"), of("s3")];
            before = now.clone();
            parts
        };
        // Until every host has asked for its neighbours, of which it asks for one a second.
        site.net.run_for(4 * SECOND);
        since(&site);
        site.net.run_for(500 * MILLISECOND);
        let [a, b, c] = since(&site);
        assert!(a > 90 && a.abs_diff(b) <= 4 && b.abs_diff(c) <= 4, "{what}: {a} {b} {c}");
        site.set_weight(0, 6);
        site.net.run_for(500 * MILLISECOND);
        let [a, b, c] = since(&site);
        // Those that were open when the weight changed answer after it.
        assert!((b * 6).abs_diff(a) <= 36 && b.abs_diff(c) <= 4 && b > 30, "{what}: {a} {b} {c}");
        site.remove_server(0);
        site.net.run_for(50 * MILLISECOND);
        since(&site);
        site.net.run_for(500 * MILLISECOND);
        let [a, b, c] = since(&site);
        assert!(a == 0 && b > 100 && b.abs_diff(c) <= 4, "{what}: {a} {b} {c}");
        site.net[short].application_mut::<HttpClient>().stop();
        assert!(site.finish(100 * SECOND), "{what}");
        for client in [long, short] {
            let seen = &site.net[client].application::<HttpClient>().seen;
            assert_eq!(seen.failed, 0, "{what}: {:?}", seen.failures);
        }
        let seen = &site.net[long].application::<HttpClient>().seen;
        assert_eq!(seen.per_server, counts([("s1", 40), ("s2", 40), ("s3", 40)]), "{what}");
        settles(&mut site, &what);
    }
}

#[test]
fn least_connections_go_to_the_server_that_has_least() {
    let plan = Plan { weights: vec![1, 1], scheduler: Scheduler::Lc, ..Plan::new(Forward::Nat, false) };
    let to = plan.service();
    // Of four connections two hold on to their server for a second; what is short goes on around them.
    let client = HttpClient::new(4, move |i| {
        let pause = if i % 10 < 2 { SECOND } else { 0 };
        (i < 100).then(|| Script { pause, ..Script::new(to, vec![Request::get("/1"), Request::get("/2")]) })
    });
    let mut site = Site::build(plan, NoMeter, vec![client]);
    assert!(site.finish(200 * SECOND));
    let seen = &site.net[site.clients[0]].application::<HttpClient>().seen;
    assert_eq!((seen.completed, seen.failed), (100, 0));
    let (a, b) = (seen.connections_per_server["s1"], seen.connections_per_server["s2"]);
    assert!(a.abs_diff(b) <= 20, "{a} {b}");
    settles(&mut site, "lc");
}

#[test]
fn a_server_whose_link_is_down_holds_up_nobody_else() {
    let plan = Plan::new(Forward::Nat, false);
    let to = plan.service();
    let client =
        HttpClient::new(8, move |i| (i < 60).then(|| Script::new(to, vec![Request::get(&format!("/{}", i * 10))])));
    let mut site = Site::build(plan, NoMeter, vec![client.patience(3 * SECOND)]);
    let link = site.server_links[0];
    site.net.set_up(link, false);
    assert!(site.finish(200 * SECOND));
    let seen = &site.net[site.clients[0]].application::<HttpClient>().seen;
    // A sixth of the connections were for that server.
    assert_eq!((seen.completed, seen.failed), (50, 10));
    assert_eq!(seen.per_server, counts([("s2", 20), ("s3", 30)]));
    site.net.set_up(link, true);
    settles(&mut site, "link");
}
