//! The demo without root: the same scenarios over the in-process network, with TCP endpoints of its own at both ends.
//!
//! The director is the same worker loop and pipeline as with root; only its port is in memory and time is the network's. What the control
//! thread would push through the rings is handed to the workers directly.

use super::interrupt::Interrupt;
use super::narrator::Narrator;
use super::report::{Check, Scenario, Stage};
use super::root::scene::{Setup, WEIGHTS};
use super::root::spread;
use crate::network::http::{HttpClient, Request, Script};
use crate::network::site::{Plan, Site};
use lcs_dataplane::DropReason;
use lcs_dataplane::cycles::{StageCost, Tsc};
use std::collections::BTreeMap;
use std::time::Instant;

/// Connections between two changes.
const CONNECTIONS: u64 = 240;
/// Connections going on at once.
const AT_ONCE: usize = 8;
/// Requests of one connection.
const REQUESTS: usize = 3;
/// Nanoseconds of the network's time in which a phase must be over.
const PHASE: u64 = 300_000_000_000;
/// Weights after the change.
const CHANGED: [u32; 3] = [1, 2, 3];

/// Plays the scenarios of `setups`, one after the other, as far as it's not interrupted.
pub fn run(setups: &[Setup], narrator: &mut Narrator<'_>, interrupt: &Interrupt) -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for setup in setups {
        if interrupt.is_set() {
            break;
        }
        narrator.scene(format_args!("{} over {}, in-process network", setup.name(), setup.ip()));
        let mut scenario = play(*setup, narrator);
        if let Some(mixed) = setup.mixed() {
            let family = if mixed.server_ipv6 { "IPv6" } else { "IPv4" };
            narrator.scene(format_args!("{} over {}, through {family}", setup.name(), setup.ip()));
            scenario.add(play(mixed, narrator), &format!("through {family}"));
        }
        scenarios.push(scenario);
    }
    scenarios
}

/// One site with a client that goes on through every change.
struct Played {
    site: Site<Tsc>,
    seen_before: BTreeMap<String, u64>,
}

impl Played {
    fn client(&self) -> &HttpClient {
        self.site.net[self.site.clients[0]].application::<HttpClient>()
    }

    /// Lets `n` more connections complete; `false` when they don't.
    fn more(&mut self, n: u64) -> bool {
        let id = self.site.clients[0];
        let wanted = self.client().seen.completed + n;
        let limit = self.site.net.now() + PHASE;
        let enough = |c: &HttpClient| c.seen.completed + c.seen.failed >= wanted;
        self.site.net.run(limit, |net| enough(net[id].application::<HttpClient>()));
        enough(self.client())
    }

    /// Begins to count afresh, after the connections that are under way.
    fn mark(&mut self) {
        self.more(AT_ONCE as u64 * 2);
        self.seen_before = self.client().seen.connections_per_server.clone();
    }

    /// Connections of each server since the mark.
    fn since(&self) -> BTreeMap<String, u64> {
        let now = &self.client().seen.connections_per_server;
        now.iter()
            .map(|(name, n)| (name.clone(), n - self.seen_before.get(name).copied().unwrap_or(0)))
            .filter(|(_, n)| *n > 0)
            .collect()
    }
}

fn play(setup: Setup, narrator: &mut Narrator<'_>) -> Scenario {
    let begun = Instant::now();
    let mut plan = Plan::new(setup.forward, setup.ipv6);
    plan.cross = setup.server_ipv6 != setup.ipv6;
    plan.weights = WEIGHTS.to_vec();
    let target = plan.service();
    let sizes = [200u64, 1_000, 20_000, 3];
    let client = HttpClient::new(AT_ONCE, move |n| {
        let requests = (0..REQUESTS).map(|k| Request::get(&format!("/{}", sizes[(n as usize + k) % sizes.len()])));
        Some(Script::new(target, requests.collect()))
    });
    let mut stage = Played { site: Site::build(plan, Tsc, vec![client]), seen_before: BTreeMap::new() };
    let mut checks = Vec::new();
    let mut check = |narrator: &mut Narrator<'_>, name: &str, outcome: Result<String, String>| {
        let (ok, detail) = outcome.map_or_else(|e| (false, e), |d| (true, d));
        let check = Check { name: name.into(), ok, detail };
        narrator.check(&check);
        checks.push(check);
    };
    let named = |weights: [u32; 3]| [("s1", weights[0]), ("s2", weights[1]), ("s3", weights[2])];

    narrator.step("requests over connections that come and go");
    let done = stage.more(CONNECTIONS);
    let spread = if done { spread::compare(&stage.since(), &named(WEIGHTS)) } else { Err(late(&stage)) };
    check(narrator, "connections spread as the weights say", spread);

    narrator.step(format_args!("weights {CHANGED:?} while requests go on"));
    for (server, weight) in CHANGED.iter().enumerate() {
        stage.site.set_weight(server as u16, *weight);
    }
    stage.mark();
    let done = stage.more(CONNECTIONS);
    let spread = if done { spread::compare(&stage.since(), &named(CHANGED)) } else { Err(late(&stage)) };
    check(narrator, "a weight changed while they run acts", spread);

    narrator.step("s3 removed while requests go on");
    stage.site.remove_server(2);
    stage.mark();
    let done = stage.more(CONNECTIONS);
    let left = [CHANGED[0], CHANGED[1], 0];
    let spread = if done { spread::compare(&stage.since(), &named(left)) } else { Err(late(&stage)) };
    check(narrator, "a removed server gets no more connections", spread);

    let id = stage.site.clients[0];
    stage.site.net[id].application_mut::<HttpClient>().stop();
    stage.site.net.wake(id);
    let ended = stage.site.finish(PHASE);
    let seen = stage.client().seen.clone();
    let requests = seen.answered + seen.failed;
    let answered = format!("{} of {requests}, {} bytes compared one by one", seen.answered, seen.bytes);
    let all = seen.failed == 0 && ended && seen.answered > 0;
    let failures: Vec<String> = seen.failures.iter().take(3).map(|f| format!("{f:?}")).collect();
    check(
        narrator,
        "every request is answered, every byte right",
        if all { Ok(answered) } else { Err(format!("{answered}; {}", failures.join("; "))) },
    );
    let reports = stage.site.reports();
    let out: u64 = reports.iter().flat_map(|r| &r.servers).map(|s| s.packets_out).sum();
    let direct = !setup.forward.replies_return();
    let way = format!("{out} packets of replies through the director");
    let name = if direct { "replies go past the director" } else { "replies come back through the director" };
    check(narrator, name, if (out == 0) == direct { Ok(way) } else { Err(way) });

    let mut scenario = Scenario {
        name: setup.name().into(),
        port: "memory".into(),
        ip: setup.ip().into(),
        requests,
        failed: seen.failed,
        per_server: seen.per_server,
        seconds: begun.elapsed().as_secs_f64(),
        ok: checks.iter().all(|c| c.ok),
        checks,
        ..Scenario::default()
    };
    costs(&mut scenario, &reports);
    scenario
}

fn late(stage: &Played) -> String {
    format!("connections did not complete in time: {:?}", stage.client().seen.failures.first())
}

/// Costs and drops, from what the workers have counted.
fn costs(scenario: &mut Scenario, reports: &[lcs_pipelines::command::Report]) {
    let mut stages: Vec<(String, StageCost)> = Vec::new();
    let mut add = |name: &str, cost: &StageCost| match stages.iter_mut().find(|(n, _)| n == name) {
        Some((_, sum)) => {
            sum.packets += cost.packets;
            sum.cycles += cost.cycles;
        }
        None => stages.push((name.to_owned(), *cost)),
    };
    for report in reports {
        add("receive", &report.counters.receive);
        report.stages.iter().for_each(|(name, cost)| add(name, cost));
        add("transmit", &report.counters.transmit);
        scenario.packets += report.counters.received;
        for reason in DropReason::ALL {
            let frames = report.counters.dropped_for(*reason);
            if frames > 0 {
                *scenario.drops.entry(reason.name().into()).or_default() += frames;
            }
        }
    }
    let packets = scenario.packets.max(1) as f64;
    let port = |name: &str| matches!(name, "receive" | "transmit");
    let sum = |of_port: bool| {
        stages.iter().filter(|(n, _)| port(n) == of_port).map(|(_, c)| c.cycles as f64).sum::<f64>() / packets
    };
    (scenario.cycles_per_packet, scenario.port_cycles_per_packet) = (sum(false), sum(true));
    scenario.stages = stages
        .into_iter()
        .map(|(name, cost)| Stage { name, cycles_per_packet: cost.per_packet(), packets: cost.packets })
        .collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_goes_as_it_should() {
        let scenarios = run(&Setup::ALL, &mut Narrator::new(std::io::sink()), &Interrupt::default());
        assert_eq!(scenarios.len(), 8);
        for s in scenarios {
            assert!(s.ok, "{} over {}: {:?} {:?}", s.name, s.ip, s.checks, s.drops);
        }
    }
}
