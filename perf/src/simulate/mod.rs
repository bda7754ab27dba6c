//! The seeded simulation: a site, a load and faults drawn from one number, and whether everything held that must hold.
//!
//! What must hold, for any seed: every request is answered with every byte right, as over a direct connection; every
//! received frame has one end and every buffer comes back; every connection ends and every table is empty when the
//! time-outs are over. An [`Outcome`] names its seed, and [`replay`] runs that one again with a capture.

pub mod content;

use crate::network::capture::Capture;
use crate::network::host::Host;
use crate::network::http::{Closing, HttpClient, HttpServer, Request, Script};
use crate::network::link::Faults;
use crate::network::random::Random;
use crate::network::sequence::Helped;
use crate::network::site::{Plan, Site};
use crate::network::stack::TcpSettings;
use crate::network::{Id, MILLISECOND, Network, SECOND};
use lcs_dataplane::cycles::NoMeter;
use lcs_dataplane::flow::TcpState;
use lcs_dataplane::verdict::DropReason;
use lcs_pipelines::snapshot::{Forward, Scheduler};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

/// Time that a run may take, simulated.
const LIMIT: u64 = 100_000 * SECOND;
/// Time after which a request without an answer counts as failed, simulated: more than TCP itself waits for its peer.
const PATIENCE: u64 = 2_000 * SECOND;
/// After the load: longer than a host's patience and a connection's longest time-out together.
const SETTLE: u64 = 2_400 * SECOND;
/// From one turn of the director without frames to the next after the load: most of a run's turns are waits for time-outs of
/// minutes.
const LEISURE: u64 = SECOND;

/// What came of one run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// The seed; with the same number of connections it gives the same run.
    pub seed: u64,
    /// What the seed chose, in words.
    pub site: String,
    /// Connections made.
    pub connections: u64,
    /// Requests answered with every byte right.
    pub answered: u64,
    /// Requests that were not.
    pub failed: u64,
    /// Bytes of response bodies.
    pub bytes: u64,
    /// Frames that the director received.
    pub frames: u64,
    /// Frames that the director dropped, by reason.
    pub drops: BTreeMap<&'static str, u64>,
    /// How often the hosts' stacks had to be helped: what was mended for them was not tried.
    pub helped: Helped,
    /// Simulated time, seconds.
    pub seconds: f64,
    /// What did not hold.
    pub problems: Vec<String>,
}

impl Outcome {
    /// Whether everything held.
    pub fn ok(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { seed, site, connections, answered, failed, bytes, frames, seconds, .. } = self;
        write!(f, "seed {seed}: {site}: {connections} connections, {answered} requests answered and {failed} not, ")?;
        write!(f, "{bytes} bytes, {frames} frames, {seconds:.1} simulated seconds")?;
        for (reason, n) in &self.drops {
            write!(f, "; {n} dropped: {reason}")?;
        }
        if self.helped != Helped::default() {
            write!(f, "; stacks helped: {}", self.helped)?;
        }
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

/// Whether a seed's links have faults: all but every eighth do.
pub fn has_faults(seed: u64) -> bool {
    !seed.is_multiple_of(8)
}

/// Runs one seed with about this many connections. With `faults`, links lose, double, reorder, delay and change frames.
pub fn run(seed: u64, connections: u64, faults: bool) -> Outcome {
    Run::new(seed, connections, faults).play()
}

/// Runs one seed again and captures up to a million frames.
pub fn replay(seed: u64, connections: u64, faults: bool, capture: Capture) -> std::io::Result<Outcome> {
    let mut run = Run::new(seed, connections, faults);
    run.site.net.capture(capture);
    let (outcome, capture) = run.play_captured();
    capture.map_or(Ok(()), Capture::finish)?;
    Ok(outcome)
}

struct Run {
    seed: u64,
    site: Site<NoMeter>,
    described: String,
    changes: Random,
    live: bool,
}

impl Run {
    fn new(seed: u64, connections: u64, faults: bool) -> Self {
        let mut random = Random::new(seed);
        let plan = plan(&mut random, seed, faults);
        let hosts = 1 + random.below(3);
        let live = random.chance(0.5);
        let described = describe(&plan, hosts, live);
        let to = plan.service();
        let clients = (0..hosts)
            .map(|n| {
                let share = connections / hosts + u64::from(n < connections % hosts);
                let at_once = 1 + random.below(24) as usize;
                let mut random = random.fork();
                let pieces = plan.client_tcp.nagle;
                let script = move |i| (i < share).then(|| script(&mut random, to, pieces));
                HttpClient::new(at_once, script).patience(PATIENCE)
            })
            .collect();
        let changes = random.fork();
        Run { seed, site: Site::build(plan, NoMeter, clients), described, changes, live }
    }

    fn play(self) -> Outcome {
        self.play_captured().0
    }

    fn play_captured(mut self) -> (Outcome, Option<Capture>) {
        let mut problems = vec![];
        let begin = self.site.net.now();
        // Under load weights change now and then, and servers leave and come back.
        let mut finished = false;
        while !finished && self.site.net.now() < begin + LIMIT {
            finished = self.site.finish(MILLISECOND * self.changes.between(1, 400));
            if self.live && !finished {
                self.change();
            }
        }
        if !finished {
            problems.push(format!("the load was not done after {} simulated seconds", LIMIT / SECOND));
        }
        let seconds = (self.site.net.now() - begin) as f64 / SECOND as f64;
        self.settle(&mut problems);
        let net = &self.site.net;
        let (mut connections, mut answered, mut failed, mut bytes) = (0, 0, 0, 0);
        for client in &self.site.clients {
            let seen = &net[*client].application::<HttpClient>().seen;
            connections += seen.connections;
            answered += seen.answered;
            failed += seen.failed;
            bytes += seen.bytes;
            problems.extend(seen.failures.iter().map(ToString::to_string));
        }
        let (mut frames, mut drops) = (0, BTreeMap::new());
        for worker in net[self.site.director].workers() {
            frames += worker.counters().received;
            for reason in DropReason::ALL {
                let n = worker.counters().dropped_for(*reason);
                if n > 0 {
                    *drops.entry(reason.name()).or_default() += n;
                }
            }
        }
        if net[self.site.director].overruns > 0 {
            problems.push(format!("{} frames found no buffer", net[self.site.director].overruns));
        }
        let helped = helped(net, self.site.clients.iter().chain(&self.site.servers));
        let Run { seed, described: site, .. } = self;
        let outcome =
            Outcome { seed, site, connections, answered, failed, bytes, frames, drops, helped, seconds, problems };
        (outcome, self.site.net.take_capture())
    }

    /// Changes one server's weight, takes it out of its service, or puts it back. One server always stays.
    fn change(&mut self) {
        let servers = self.site.plan.weights.len() as u64;
        let server = self.changes.below(servers) as u16;
        match self.changes.below(3) {
            0 => {
                let weight = self.changes.between(u64::from(server == 0), 5) as u32;
                self.site.set_weight(server, weight);
            }
            1 if server > 0 => self.site.remove_server(server),
            _ => self.site.restore_server(server),
        }
    }

    /// Waits until the time-outs are over, and looks whether anything is left.
    fn settle(&mut self, problems: &mut Vec<String>) {
        let director = self.site.director;
        self.site.net[director].set_period(LEISURE);
        self.site.net.run_for(SETTLE);
        for server in &self.site.servers {
            let host = &self.site.net[*server];
            let left = host.application::<HttpServer>().active();
            if left > 0 {
                problems.push(format!("{left} connections of a server have not ended"));
            }
        }
        for (n, report) in self.site.reports().into_iter().enumerate() {
            if report.flows + report.half_open > 0 || report.states.iter().any(|&s| s > 0) {
                problems.push(format!("worker {n} still has {} flows, by state {:?}", report.flows, report.states));
            }
            for (server, stats) in report.servers.iter().enumerate() {
                if stats.active + stats.inactive > 0 {
                    problems.push(format!("worker {n} still counts connections of server {server}: {stats:?}"));
                }
            }
            if report.fragments > 0 {
                problems.push(format!("worker {n} still follows {} fragmented packets", report.fragments));
            }
        }
        if let Err(problem) = self.site.net[self.site.director].check() {
            problems.push(problem);
        }
    }
}

/// How often these hosts' stacks had to be helped.
fn helped<'h>(net: &Network, hosts: impl Iterator<Item = &'h Id<Host>>) -> Helped {
    let mut sum = Helped::default();
    hosts.for_each(|host| sum.add(&net[*host].helped()));
    sum
}

/// A site, as the seed has it.
fn plan(random: &mut Random, seed: u64, faults: bool) -> Plan {
    let forward = [Forward::Nat, Forward::FullNat, Forward::Dr, Forward::Tunnel][random.below(4) as usize];
    let mut plan = Plan::new(forward, random.chance(0.5));
    plan.seed = seed;
    plan.cross = random.chance(0.5) && forward == Forward::Tunnel;
    plan.weights = (0..random.between(1, 5)).map(|_| random.between(1, 4) as u32).collect();
    plan.scheduler = [Scheduler::Rr, Scheduler::Wrr, Scheduler::Lc, Scheduler::Wlc][random.below(4) as usize];
    plan.workers = random.between(1, 4) as u8;
    plan.scatter = plan.workers > 1;
    plan.backlog = 80;
    plan.client_tcp = tcp(random);
    plan.server_tcp = tcp(random);
    if faults {
        plan.client_faults = wire(random);
        plan.server_faults = wire(random);
        // One flipped bit is always noticed; two in one packet, on two links, may cancel out in the checksum.
        if random.chance(0.5) {
            plan.client_faults.corrupt = 0.0;
        } else {
            plan.server_faults.corrupt = 0.0;
        }
        // A flipped bit may make a segment look like a FIN or RST. The hosts notice and go on, up to a minute later;
        // a layer-4 director that does not verify checksums has taken the connection for closed.
        plan.timeouts.set(TcpState::Close, plan.timeouts.get(TcpState::Established));
    }
    plan
}

fn tcp(random: &mut Random) -> TcpSettings {
    let settings = TcpSettings {
        receive_buffer: [4_000, 16_384, 60_000, 150_000][random.below(4) as usize],
        send_buffer: [2_000, 16_384, 60_000][random.below(3) as usize],
        nagle: random.chance(0.5),
        ack_delay: [0, 10, 40][random.below(3) as usize] * MILLISECOND,
        timestamps: random.chance(0.5),
        // Without it, `smoltcp` stops for good once a window closes over what it has in flight and opens again by less: it has
        // exchanged its retransmission timer for a window probe's, and that for none.
        reno: true,
        // Retransmissions are up to 60 s apart; a bad wire may swallow several.
        patience: 600 * SECOND,
    };
    // Was once drawn for `reno`: seeds go on meaning what they meant.
    random.chance(0.5);
    settings
}

fn wire(random: &mut Random) -> Faults {
    let mut probability = || if random.chance(0.5) { random.below(1000) as f64 / 1000.0 * 0.04 } else { 0.0 };
    let (loss, duplicate, reorder, corrupt) = (probability(), probability(), probability(), probability());
    let rate = if random.chance(0.2) { random.between(2, 100) * 1_000_000 } else { 0 };
    Faults {
        rate,
        queue: random.between(8_000, 64_000),
        delay: random.between(1_000, 20 * MILLISECOND),
        jitter: random.below(5 * MILLISECOND),
        loss,
        duplicate,
        reorder,
        hold: random.below(30 * MILLISECOND),
        corrupt,
    }
}

/// One connection's script.
fn script(random: &mut Random, to: SocketAddr, pieces: bool) -> Script {
    // Mostly one request, sometimes many: most connections of the world are short.
    let requests = if random.chance(0.7) { 1 } else { random.between(2, 8) };
    let size = |random: &mut Random| match random.below(10) {
        0..=5 => random.below(2_000),
        6..=8 => random.below(12_000),
        _ => random.below(60_000),
    };
    let requests = (0..requests)
        .map(|_| {
            let path = format!("/{:x}/{}", random.below(1 << 20), size(random));
            match random.below(8) {
                0 => Request { method: "HEAD", ..Request::get(&path) },
                1 | 2 => Request::post(&path, size(random)),
                _ => Request::get(&path),
            }
        })
        .collect();
    Script {
        closing: [Closing::Client, Closing::Server][random.below(2) as usize],
        pipeline: if random.chance(0.2) { random.between(2, 5) as usize } else { 1 },
        pause: if random.chance(0.2) { random.below(2 * SECOND) } else { 0 },
        piece: if !pieces && random.chance(0.02) { random.between(1, 40) as usize } else { 0 },
        ..Script::new(to, requests)
    }
}

fn describe(plan: &Plan, clients: u64, live: bool) -> String {
    format!(
        "{:?}{} over {}, {:?} weights {:?}, {} workers, {clients} clients{}",
        plan.forward,
        if plan.cross { " through the other family" } else { "" },
        if plan.v6 { "IPv6" } else { "IPv4" },
        plan.scheduler,
        plan.weights,
        plan.workers,
        if live { ", changed while it runs" } else { "" },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_outcome_again() {
        let one = run(5, 30, true);
        assert_eq!(one, run(5, 30, true));
        assert_ne!(one.frames, run(6, 30, true).frames);
        assert!(one.connections == 30 && one.bytes > 0 && one.frames > 100, "{one}");
    }
}
