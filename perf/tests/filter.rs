//! Filters between real TCP endpoints, over good links and bad ones: every byte compared at both ends, on the
//! filters' servers and at the clients.

use lcs_dataplane::flow::TcpState;
use lcs_perf::network::content::filter::FilterSite;
use lcs_perf::network::content::{Class, Closing, ContentClient, ContentPlan, ContentSite, Exchange, Method, Script};
use lcs_perf::network::link::Faults;
use lcs_perf::network::random::Random;
use lcs_perf::network::site::Plan;
use lcs_perf::network::stack::TcpSettings;
use lcs_perf::network::{MILLISECOND, SECOND};
use lcs_pipelines::content::Switching;
use lcs_pipelines::snapshot::Forward;
use lcs_pipelines::tally::MigrationTally;
use std::time::Duration;

/// Connections of one to three requests of one class each, with and without bodies, long and short answers. Where every request is
/// decided, of up to five of any classes, some of them pipelined, some in pieces.
fn load(plan: &ContentPlan, connections: u64, seed: u64) -> Vec<Script> {
    let each = plan.binding.switching == Switching::Request;
    let to = plan.base.service();
    let mix = |n: u64| lcs_perf::network::random::mix(seed << 32 | n);
    let script = |n: u64| {
        let of = |n: u64| Class::SERVED[n as usize % Class::SERVED.len()];
        let exchanges = (0..1 + (mix(n) >> 8) % if each { 5 } else { 3 }).map(|k| {
            // Every second one stays where it is.
            let class = if each { of(mix(n) + k / 2) } else { of(mix(n)) };
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
        let mut script = Script::new(to, exchanges.collect());
        script.pause = (mix(n) >> 40) % 50 * MILLISECOND;
        if each {
            script.pipeline = [1, 1, 2, 3][(mix(n) >> 20) as usize % 4];
            script.piece = [0, 0, 0, 37][(mix(n) >> 24) as usize % 4];
        }
        script
    };
    (0..connections).map(script).collect()
}

/// Buffers, delays and options of all kinds.
fn tcp(random: &mut Random) -> TcpSettings {
    TcpSettings {
        receive_buffer: [4_000, 16_384, 60_000, 150_000][random.below(4) as usize],
        send_buffer: [2_000, 16_384, 60_000][random.below(3) as usize],
        nagle: random.chance(0.5),
        ack_delay: [0, 10, 40][random.below(3) as usize] * MILLISECOND,
        timestamps: random.chance(0.5),
        // Without it `smoltcp` stops for good once a window closes over what it has in flight.
        reno: true,
        patience: 600 * SECOND,
    }
}

fn play(forward: Forward, v6: bool, faults: Faults, seed: u64, connections: u64) {
    play_by((Switching::Connection, false), forward, v6, faults, seed, connections);
}

/// `falls_back`: of every second pair of servers no filter is there.
fn play_by(
    (switching, falls_back): (Switching, bool),
    forward: Forward,
    v6: bool,
    faults: Faults,
    seed: u64,
    connections: u64,
) {
    let what = format!("{switching:?}, fallback {falls_back}, {forward:?}, IPv6 {v6}, seed {seed}");
    let mut base = Plan::new(forward, v6);
    base.seed = seed;
    (base.client_faults, base.server_faults) = (faults, faults);
    if faults.any() {
        // Two flipped bits in one packet, on two links, may cancel out in the checksum.
        let side = if seed & 2 == 0 { &mut base.client_faults } else { &mut base.server_faults };
        side.corrupt = 0.0;
        // A flipped bit may look like a FIN to a director that does not verify checksums of what it only forwards.
        base.timeouts.set(TcpState::Close, base.timeouts.get(TcpState::Established));
        let mut random = Random::new(seed);
        (base.client_tcp, base.server_tcp) = (tcp(&mut random), tcp(&mut random));
        base.backlog = 80;
    }
    let mut plan = ContentPlan::new(base);
    plan.binding.switching = switching;
    if faults.any() {
        // Clients are slow over such links, not idle.
        plan.binding.request = Duration::from_secs(6_000);
        plan.binding.first_byte = Duration::from_secs(300);
        plan.binding.syn_retries = 5;
    }
    let scripts = load(&plan, connections, seed);
    let gone: Vec<usize> = (0..plan.servers().len()).filter(|n| falls_back && n % 4 < 2).collect();
    let wanted: u64 = scripts.iter().map(|s| s.exchanges.len() as u64).sum();
    let client = ContentClient::list(ContentSite::roster(&plan), 8, scripts).patience(300 * SECOND);
    let mut site = FilterSite::build_without(plan, vec![client], &gone);
    assert!(site.open(100 * SECOND), "{what}: not every filter was heard of");
    assert!(site.finish(20_000 * SECOND), "{what}: the load was not done");
    site.net.run_for(2_000 * SECOND);
    let mut wrong = vec![];
    let seen = &site.net[site.clients[0]].application::<ContentClient>().seen;
    wrong.extend(seen.failures.iter().map(ToString::to_string));
    let refused = seen.by_director.values().sum::<u64>() + seen.excused + seen.cut_short;
    let answered = seen.answered;
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
        n.fold(MigrationTally::default(), |mut sum, n| {
            sum.add(&n);
            sum
        })
    };
    let (d, f) = (of(&director), of(&filters));
    let (sent, accepted, taken) = (d.sent, d.accepted, f.accepted);
    assert!(wrong.is_empty(), "{what}: {wrong:#?}");
    assert_eq!(answered + refused, wanted, "{what}");
    assert_eq!(d.fallback > 0, falls_back, "{what}: {d:?}");
    if !faults.any() && falls_back {
        assert_eq!((accepted, taken, refused), (sent, sent, 0), "{what}");
        assert!(sent > 0 && (switching == Switching::Connection || d.recalled > 0), "{what}: {d:?}");
    } else if !faults.any() && switching == Switching::Connection {
        assert_eq!((sent, accepted, taken, refused), (connections, connections, connections, 0), "{what}");
    } else if !faults.any() {
        assert_eq!((accepted, taken, refused), (sent, sent, 0), "{what}");
        assert_eq!((d.recalled, d.continued), (f.recalled, f.continued), "{what}");
        assert_eq!(sent - connections, d.recalled, "{what}: whatever was taken back was given again");
        assert_eq!(sent + d.continued, wanted, "{what}: every request was given once");
        assert!(d.recalled > 0 && d.continued > 0, "{what}: {d:?}");
    }
    assert!(refused <= 2 + wanted / 50, "{what}: {refused} refused");
    println!(
        "{what}: {answered} answers, {refused} refused; {sent} migrations sent, {accepted} accepted, {taken} taken; \
         {} continued, {} recalled, {} fell back",
        d.continued, d.recalled, d.fallback
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
fn every_request_goes_where_the_rules_say_over_good_links() {
    for forward in [Forward::Dr, Forward::Tunnel] {
        for v6 in [false, true] {
            play_by((Switching::Request, false), forward, v6, Faults::NONE, 1, 60);
        }
    }
}

#[test]
fn every_request_goes_where_the_rules_say_over_bad_links() {
    for seed in 1..=6 {
        let mut random = Random::new(seed ^ 0x7eca11);
        let faults = wire(&mut random);
        let forward = [Forward::Dr, Forward::Tunnel][seed as usize % 2];
        play_by((Switching::Request, false), forward, random.chance(0.5), faults, seed, 60);
    }
}

#[test]
fn where_no_filter_is_the_servers_are_reached_all_the_same() {
    for switching in [Switching::Connection, Switching::Request] {
        for forward in [Forward::Dr, Forward::Tunnel] {
            play_by((switching, true), forward, false, Faults::NONE, 1, 60);
            play_by((switching, true), forward, true, Faults::NONE, 2, 60);
        }
        for seed in 1..=3 {
            let mut random = Random::new(seed ^ 0xfa11);
            let faults = wire(&mut random);
            let forward = [Forward::Dr, Forward::Tunnel][seed as usize % 2];
            play_by((switching, true), forward, random.chance(0.5), faults, seed, 60);
        }
    }
}

/// A wire on which some of everything happens, or nothing but delay.
fn wire(random: &mut Random) -> Faults {
    let mut probability = || if random.chance(0.5) { random.below(1000) as f64 / 1000.0 * 0.04 } else { 0.0 };
    let (loss, duplicate, reorder, corrupt) = (probability(), probability(), probability(), probability());
    Faults {
        delay: random.between(1_000, 20 * MILLISECOND),
        jitter: random.below(5 * MILLISECOND),
        hold: random.between(1, 50 * MILLISECOND),
        loss,
        duplicate,
        reorder,
        corrupt,
        ..Faults::NONE
    }
}

#[test]
fn every_answer_is_the_right_one_over_bad_links() {
    for seed in 1..=12 {
        let mut random = Random::new(seed ^ 0xf117e5);
        let faults = wire(&mut random);
        play([Forward::Dr, Forward::Tunnel][seed as usize % 2], random.chance(0.5), faults, seed, 60);
    }
}

#[test]
fn answers_that_come_late_are_no_less_right() {
    let faults = Faults { delay: 300_000, jitter: 500_000, ..Faults::NONE };
    for forward in [Forward::Dr, Forward::Tunnel] {
        for v6 in [false, true] {
            play(forward, v6, faults, 1, 60);
        }
    }
}
