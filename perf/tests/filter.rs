//! Filters between real TCP endpoints, over good links and bad ones: every byte compared at both ends, on the
//! filters' servers and at the clients.

use lcs_perf::network::content::filter::FilterSite;
use lcs_perf::network::content::{Class, Closing, ContentClient, ContentPlan, ContentSite, Exchange, Method, Script};
use lcs_perf::network::link::Faults;
use lcs_perf::network::site::Plan;
use lcs_perf::network::{MILLISECOND, SECOND};
use lcs_pipelines::snapshot::Forward;

/// Connections of one to three requests of one class each, with and without bodies, long and short answers.
fn load(plan: &ContentPlan, connections: u64, seed: u64) -> Vec<Script> {
    let to = plan.base.service();
    let mix = |n: u64| lcs_perf::network::random::mix(seed << 32 | n);
    let script = |n: u64| {
        let class = Class::SERVED[mix(n) as usize % Class::SERVED.len()];
        let exchanges = (0..1 + (mix(n) >> 8) % 3).map(|k| {
            let number = (class as u64) << 40 | n << 8 | k;
            let r = mix(n << 4 | k);
            let (method, body) = match r % 4 {
                0 => (Method::Post, (r >> 8) as u32 % 9_000),
                1 => (Method::Chunked, (r >> 8) as u32 % 3_000),
                _ if class.by_document() => (Method::Post, 700),
                _ => (Method::Get, 0),
            };
            let reply = [0, 600, 5_000, 40_000][(r >> 32) as usize % 4];
            Exchange { method, body, closing: Closing::Keep, ..Exchange::get(number, class, reply) }
        });
        Script { pause: (mix(n) >> 40) % 50 * MILLISECOND, ..Script::new(to, exchanges.collect()) }
    };
    (0..connections).map(script).collect()
}

fn play(forward: Forward, v6: bool, faults: Faults, seed: u64, connections: u64) {
    let what = format!("{forward:?}, IPv6 {v6}, seed {seed}");
    let mut base = Plan::new(forward, v6);
    base.seed = seed;
    (base.client_faults, base.server_faults) = (faults, faults);
    let plan = ContentPlan::new(base);
    let scripts = load(&plan, connections, seed);
    let wanted: u64 = scripts.iter().map(|s| s.exchanges.len() as u64).sum();
    let client = ContentClient::list(ContentSite::roster(&plan), 8, scripts).patience(300 * SECOND);
    let mut site = FilterSite::build(plan, vec![client]);
    // The first pongs.
    site.net.run_for(2 * SECOND);
    assert!(site.finish(20_000 * SECOND), "{what}: the load was not done");
    site.net.run_for(2_000 * SECOND);
    let mut wrong = vec![];
    let seen = &site.net[site.clients[0]].application::<ContentClient>().seen;
    wrong.extend(seen.failures.iter().map(ToString::to_string));
    let (answered, refused) = (seen.answered, seen.by_director.values().sum::<u64>());
    wrong.extend(site.living().flat_map(|s| &s.served.problems).map(ToString::to_string));
    for host in site.clients.iter().chain(&site.servers) {
        wrong.extend(site.net[*host].monitor().unwrap().findings.iter().take(2).cloned());
    }
    for id in std::iter::once(&site.director).chain(&site.filters) {
        wrong.extend(site.net[*id].check().err());
    }
    let (director, filters) = site.reports();
    for report in director.iter().chain(&filters) {
        if report.flows + report.content.connections + report.content.binding + report.content.buffered > 0 {
            wrong.push(format!("something is left: {} flows, {:?}", report.flows, report.content));
        }
    }
    let of = |reports: &[lcs_pipelines::command::Report]| {
        let n = reports.iter().flat_map(|r| r.content.services.iter().flatten()).map(|t| t.migrations);
        n.fold((0, 0), |sum, n| (sum.0 + n.sent, sum.1 + n.accepted))
    };
    let ((sent, accepted), (_, taken)) = (of(&director), of(&filters));
    assert!(wrong.is_empty(), "{what}: {wrong:#?}");
    assert_eq!(answered + refused, wanted, "{what}");
    if faults == Faults::NONE {
        assert_eq!((sent, accepted, taken, refused), (connections, connections, connections, 0), "{what}");
    }
    println!(
        "{what}: {answered} answers, {refused} refused; {sent} migrations sent, {accepted} accepted, {taken} taken"
    );
}

#[test]
fn every_answer_is_the_right_one_over_good_links() {
    for forward in [Forward::Dr, Forward::Tunnel] {
        for v6 in [false, true] {
            play(forward, v6, Faults::NONE, 1, 60);
        }
    }
}
#[test]
fn every_answer_is_the_right_one_over_bad_links() {
    let faults = Faults {
        delay: 300_000,
        jitter: 500_000,
        loss: 0.02,
        duplicate: 0.02,
        reorder: 0.03,
        hold: 2 * MILLISECOND,
        corrupt: 0.005,
        ..Faults::NONE
    };
    for seed in 1..=4 {
        play([Forward::Dr, Forward::Tunnel][seed as usize % 2], seed > 2, faults, seed, 150);
    }
}
