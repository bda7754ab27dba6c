//! The seeded simulation of switching by content: what [`super`] is for layer 4.
//!
//! What must hold, for any seed: every request is answered by a server of the group that the rules name (or by the
//! director, where they say so), with every byte right; no server gets a byte that is not part of a request for its
//! group, and none a request twice; no host receives a number that no correct peer can send; every received frame has
//! one end and every buffer comes back; every connection ends and every table is empty when the time-outs are over.

use super::{LIMIT, Outcome, PATIENCE, SETTLE, helped, tcp, wire};
use crate::network::capture::Capture;
use crate::network::content::{
    Class, Closing, ContentClient, ContentPlan, ContentServer, ContentSite, Ending, Exchange, Framing, Health, Method,
    Roster, Script,
};
use crate::network::host::Host;
use crate::network::random::Random;
use crate::network::site::{self, Plan, SERVER_PORT};
use crate::network::stack::Settings;
use crate::network::switch::Switch;
use crate::network::{Id, MILLISECOND, Network, SECOND, reshape};
use lcs_dataplane::flow::TcpState;
use lcs_dataplane::verdict::DropReason;
use lcs_pipelines::content::{Binding, Guess, Pool, Scheme, Switching, SynPolicy};
use lcs_pipelines::snapshot::{Forward, Scheduler};
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// Runs one seed with this many connections through the director.
pub fn run(seed: u64, connections: u64, faults: bool) -> Outcome {
    Run::new(seed, connections, faults).play()
}

/// Runs one seed again and captures up to a million frames.
///
/// # Errors
/// When the capture cannot be written.
pub fn replay(seed: u64, connections: u64, faults: bool, capture: Capture) -> std::io::Result<Outcome> {
    let mut run = Run::new(seed, connections, faults);
    run.site.net.capture(capture);
    let outcome = run.play();
    run.site.net.take_capture().map_or(Ok(()), Capture::finish)?;
    Ok(outcome)
}

/// Runs a like load from the clients to one server with no director between: what fails here is the harness's own fault.
pub fn direct(seed: u64, connections: u64, faults: bool) -> Outcome {
    Direct::new(seed, connections, faults).play()
}

/// As [`direct`], with a capture.
///
/// # Errors
/// When the capture cannot be written.
pub fn replay_direct(seed: u64, connections: u64, faults: bool, capture: Capture) -> std::io::Result<Outcome> {
    let mut direct = Direct::new(seed, connections, faults);
    direct.net.capture(capture);
    let outcome = direct.play();
    direct.net.take_capture().map_or(Ok(()), Capture::finish)?;
    Ok(outcome)
}

/// Clients and one server on a switch.
struct Direct {
    outcome: Outcome,
    net: Network,
    clients: Vec<Id<Host>>,
    server: Id<Host>,
}

impl Direct {
    fn new(seed: u64, connections: u64, faults: bool) -> Self {
        let mut random = Random::new(seed);
        let mut plan = plan(&mut random, seed, faults);
        // Client and server are on one link.
        plan.base.forward = Forward::Dr;
        let base = &plan.base;
        let name = "alone";
        let settings = Settings { services: vec![], ..site::server_settings(base, 0) };
        let to = SocketAddr::new(base.server_address(0), SERVER_PORT);
        let mut net = Network::new(seed);
        let switch = net.add("switch", Switch::new());
        let server = ContentServer::new(name, SERVER_PORT, &Class::SERVED).backlog(base.backlog).thinks(plan.thinks);
        let server = net.add(name, Host::new(settings).reshaped(plan.server_wire).watched().with(server));
        net.connect(server, switch, base.server_faults);
        let roster = Rc::new(Roster::alone(name));
        let load = Load { to, classes: &Class::SERVED, ends_others: false, alike: false };
        let clients = clients(&mut random, connections, &roster, &load).into_iter().enumerate();
        let clients = clients
            .map(|(n, client)| {
                let host = Host::new(site::client_settings(base, n)).reshaped(plan.client_wire).watched().with(client);
                let host = net.add(&format!("client{}", n + 1), host);
                net.connect(host, switch, base.client_faults);
                host
            })
            .collect();
        let outcome = Outcome { seed, site: format!("no director, {}", describe(&plan)), ..Outcome::default() };
        Direct { outcome, net, clients, server }
    }

    fn play(&mut self) -> Outcome {
        let Direct { net, clients, server, .. } = self;
        let mut outcome = std::mem::take(&mut self.outcome);
        let begin = net.now();
        let over = |n: &Network| clients.iter().all(|c| n[*c].application::<ContentClient>().finished());
        if !net.run(begin + LIMIT, over) {
            outcome.problems.push(format!("the load was not done after {} simulated seconds", LIMIT / SECOND));
        }
        outcome.seconds = (net.now() - begin) as f64 / SECOND as f64;
        net.run_for(SETTLE);
        ends(net, clients, &[*server], 0, &mut outcome);
        outcome.helped = helped(net, clients.iter().chain([&*server]));
        outcome
    }
}

struct Run {
    outcome: Outcome,
    faults: bool,
    site: ContentSite,
    changes: Random,
    live: bool,
}

impl Run {
    fn new(seed: u64, connections: u64, faults: bool) -> Self {
        let mut random = Random::new(seed);
        let plan = plan(&mut random, seed, faults);
        let alike = plan.binding.switching == Switching::Connection;
        let load = Load { to: plan.base.service(), classes: &Class::ALL, ends_others: true, alike };
        let roster = ContentSite::roster(&plan);
        let clients = clients(&mut random, connections, &roster, &load);
        let live = random.chance(0.4);
        let changed = if live { ", changed while it runs" } else { "" };
        let site = format!("{:?} {}{changed}", plan.base.forward, describe(&plan));
        let outcome = Outcome { seed, site, ..Outcome::default() };
        Run { outcome, faults, site: ContentSite::build(plan, clients), changes: random.fork(), live }
    }

    fn play(&mut self) -> Outcome {
        let begin = self.site.net.now();
        let mut finished = false;
        while !finished && self.site.net.now() < begin + LIMIT {
            finished = self.site.finish(MILLISECOND * self.changes.between(1, 400));
            if self.live && !finished {
                self.change();
            }
        }
        let mut outcome = std::mem::take(&mut self.outcome);
        if !finished {
            outcome.problems.push(format!("the load was not done after {} simulated seconds", LIMIT / SECOND));
        }
        outcome.seconds = (self.site.net.now() - begin) as f64 / SECOND as f64;
        if self.site.plan.binding.scheme.pool().is_some() {
            // What waits for the next request is let go.
            (0..self.site.plan.servers().len()).for_each(|n| self.site.drain(n as u16, true));
        }
        let director = self.site.director;
        self.site.net[director].set_period(super::LEISURE);
        self.site.net.run_for(SETTLE);
        self.settled(&mut outcome);
        let healths = self.site.plan.servers();
        let living: Vec<_> =
            self.site.servers.iter().zip(healths).filter(|s| s.1.2 == Health::Lives).map(|(id, _)| *id).collect();
        let repeated = self.repeated();
        ends(&self.site.net, &self.site.clients, &living, repeated, &mut outcome);
        outcome.helped = helped(&self.site.net, self.site.clients.iter().chain(&self.site.servers));
        let hosts = self.site.clients.iter().chain(&living);
        let stale: u64 = hosts.filter_map(|host| Some(self.site.net[*host].monitor()?.stale)).sum();
        if stale > 0 && !self.faults {
            outcome.problems.push(format!("{stale} segments would have been dropped for the age of their time stamps"));
        }
        outcome
    }

    /// Requests that the director has sent again on another connection, since nothing came back on a shared one.
    fn repeated(&mut self) -> usize {
        let reports = self.site.reports();
        let services = reports.iter().flat_map(|report| report.content.services.iter().flatten());
        services.map(|tally| tally.pool.repeated as usize).sum()
    }

    /// Takes a server out of its group's turn or back into it, or replaces the rules by the same.
    fn change(&mut self) {
        let servers = self.site.plan.servers();
        let n = self.changes.below(servers.len() as u64) as usize;
        match self.changes.below(3) {
            0 => self.site.reload(),
            1 => self.site.drain(n as u16, false),
            _ => {
                // The first that lives in a group stays.
                let first = servers.iter().position(|s| s.1 == servers[n].1 && s.2 == Health::Lives);
                if first != Some(n) {
                    self.site.drain(n as u16, true);
                }
            }
        }
    }

    /// What the director must have got rid of.
    fn settled(&mut self, outcome: &mut Outcome) {
        for (n, report) in self.site.reports().into_iter().enumerate() {
            if report.flows + report.half_open > 0 || report.states.iter().any(|&s| s > 0) {
                let (flows, half) = (report.flows, report.half_open);
                let what =
                    format!("worker {n} still has {flows} flows, {half} half open, by state {:?}", report.states);
                outcome.problems.push(what);
            }
            for (server, stats) in report.servers.iter().enumerate() {
                if stats.active + stats.inactive > 0 {
                    let what = format!("worker {n} still counts connections of server {server}: {stats:?}");
                    outcome.problems.push(what);
                }
            }
            if let Some(handed) = report.handed.filter(|h| h.away > 0) {
                outcome.problems.push(format!("worker {n} still has requests away: {handed:?}"));
            }
            if report.fragments > 0 {
                outcome.problems.push(format!("worker {n} still follows {} fragmented packets", report.fragments));
            }
        }
        let director = &self.site.net[self.site.director];
        if let Err(problem) = director.check() {
            outcome.problems.push(problem);
        }
        if director.overruns > 0 {
            outcome.problems.push(format!("{} frames found no buffer", director.overruns));
        }
        for worker in director.workers() {
            outcome.frames += worker.counters().received;
            for reason in DropReason::ALL {
                let n = worker.counters().dropped_for(*reason);
                if n > 0 {
                    *outcome.drops.entry(reason.name()).or_default() += n;
                }
            }
        }
    }
}

/// What the hosts have seen. So many requests may have come twice.
fn ends(net: &Network, clients: &[Id<Host>], servers: &[Id<Host>], repeated: usize, outcome: &mut Outcome) {
    let problems = &mut outcome.problems;
    let mut excused = 0;
    for client in clients {
        let seen = &net[*client].application::<ContentClient>().seen;
        outcome.connections += seen.connections;
        outcome.answered += seen.answered + seen.by_director.values().sum::<u64>();
        outcome.failed += seen.failed;
        outcome.bytes += seen.bytes;
        excused += seen.excused;
        problems.extend(seen.failures.iter().map(ToString::to_string));
    }
    // A lost SYN is repeated; that all repetitions to all servers of a group are lost is rare even on these links.
    if excused > 1 + outcome.answered / 200 {
        problems.push(format!("{excused} times no server was said to be there, of {} answers", outcome.answered));
    }
    let mut arrived = HashSet::new();
    let mut twice: Vec<u64> = vec![];
    for server in servers {
        let server = net[*server].application::<ContentServer>();
        problems.extend(server.served.problems.iter().map(ToString::to_string));
        if server.active() > 0 {
            problems.push(format!("{} connections of a server have not ended", server.active()));
        }
        twice.extend(server.served.exchanges.iter().filter(|&&e| !arrived.insert(e)));
    }
    problems.extend(twice.iter().skip(repeated).map(|e| format!("exchange {e:x} arrived twice")));
    for client in clients {
        if let Some(monitor) = net[*client].monitor().filter(|m| m.beyond > 0) {
            problems.push(format!("a client got {} segments that went beyond its window", monitor.beyond));
        }
        if let Some(monitor) = net[*client].monitor().filter(|m| m.old > 0) {
            problems.push(format!("a client got {} acknowledgements of less than it ever sent", monitor.old));
        }
    }
    for host in clients.iter().chain(servers) {
        if let Some(monitor) = net[*host].monitor().filter(|m| m.found > 0) {
            problems.push(format!("{} impossible segments, at first: {:?}", monitor.found, monitor.findings));
        }
    }
}

/// A site, as the seed has it.
fn plan(random: &mut Random, seed: u64, faults: bool) -> ContentPlan {
    let forward = [Forward::Nat, Forward::FullNat][random.below(2) as usize];
    let mut base = Plan::new(forward, random.chance(0.5));
    base.seed = seed;
    base.scheduler = [Scheduler::Rr, Scheduler::Wrr, Scheduler::Lc, Scheduler::Wlc][random.below(4) as usize];
    base.workers = if random.chance(0.3) { 2 } else { 1 };
    base.scatter = base.workers > 1;
    base.backlog = 80;
    base.flows = 8192;
    base.client_tcp = tcp(random);
    base.server_tcp = tcp(random);
    if faults {
        base.client_faults = wire(random);
        base.server_faults = wire(random);
        // One flipped bit is always noticed; two in one packet, on two links, may cancel out in the checksum.
        if random.chance(0.5) {
            base.client_faults.corrupt = 0.0;
        } else {
            base.server_faults.corrupt = 0.0;
        }
        // As for layer 4: a flipped bit may look like a FIN or RST to a director that does not verify checksums.
        base.timeouts.set(TcpState::Close, base.timeouts.get(TcpState::Established));
        // Hosts repeat themselves every 60 s in the end: two repetitions that are lost are not the end of a connection of which one
        // side has closed, as IPVS's 60 and 120 s would have it.
        for half in [TcpState::FinWait, TcpState::CloseWait] {
            base.timeouts.set(half, base.timeouts.get(TcpState::Established));
        }
    }
    let mut plan = ContentPlan::new(base);
    for (class, servers) in &mut plan.groups {
        let living = *class != Class::Down;
        *servers = (0..random.between(1, 3))
            .map(|n| match random.below(8) {
                0 => Health::Refuses,
                1 => Health::Dead,
                _ if living => Health::Lives,
                _ if n == 0 => Health::Refuses,
                _ => Health::Dead,
            })
            .collect();
        if living {
            let at = random.below(servers.len() as u64) as usize;
            servers[at] = Health::Lives;
        }
    }
    plan.thinks = if random.chance(0.3) { random.below(200 * MILLISECOND) } else { 0 };
    plan.client_wire = reshaping(random, faults);
    plan.server_wire = reshaping(random, faults);
    // Draws of its own, so that the seeds of before mean what they meant.
    let mut scheme = Random::new(seed ^ 0x9ce5_5e5c);
    plan.binding = Binding {
        scheme: match scheme.below(8) {
            0 | 1 => Scheme::Preallocate(Guess::Client),
            2 => Scheme::Preallocate(Guess::Frequency),
            3 => Scheme::Preallocate(Guess::Hash),
            4 | 5 if forward == Forward::FullNat => Scheme::Pooled(Pool {
                idle: scheme.below(4) as u32,
                most: scheme.between(1, 9) as u32,
                idle_timeout: Duration::from_millis(scheme.between(1, 20_000)),
                lifetime: Duration::from_millis(scheme.between(100, 60_000)),
                requests: scheme.between(1, 30) as u32,
                probe: Duration::from_millis(scheme.between(100, 5_000)),
                mss: 1460,
            }),
            _ => Scheme::Delayed,
        },
        syn: [SynPolicy::Cookie, SynPolicy::State, SynPolicy::Auto][random.below(3) as usize],
        // Clients that send a byte at a time over links that lose them are slow, not idle.
        request: Duration::from_secs(6_000),
        first_byte: Duration::from_secs(300),
        syn_retries: if faults { 5 } else { 2 },
        ..Binding::default()
    };
    // The same again.
    let mut more = Random::new(seed ^ 0xd12e_c7ed);
    if plan.binding.scheme.guesses() {
        if more.chance(0.2) {
            let server = format!("s{}", 1 + more.below(plan.servers().len() as u64));
            plan.binding.scheme = Scheme::Preallocate(Guess::Server(server));
        }
        if more.chance(0.5) {
            answer_directly(&mut plan, &mut more);
        }
    }
    if plan.binding.scheme.pool().is_none() && more.chance(0.3) {
        plan.binding.switching = Switching::Connection;
    }
    let may = matches!(plan.binding.scheme, Scheme::Delayed | Scheme::Pooled(_)) && plan.base.server_tcp.timestamps;
    // A damaged stamp is read before anybody looks at the checksum, and believed (README, limits): not over links that damage.
    let damages = plan.base.client_faults.corrupt > 0.0 || plan.base.server_faults.corrupt > 0.0;
    plan.binding.timestamps = may && scheme.chance(0.7) && !damages;
    let mut placement = Random::new(seed ^ 0x5b11_7e50);
    plan.content_workers = if placement.chance(0.4) { placement.between(1, 3) as usize } else { 0 };
    plan
}

/// Has the servers of a site answer their clients themselves, where they are guessed.
fn answer_directly(plan: &mut ContentPlan, random: &mut Random) {
    plan.base.forward = [Forward::Dr, Forward::Tunnel][random.below(2) as usize];
    plan.binding.switching = Switching::Connection;
    // As `smoltcp` has it.
    let bits = usize::BITS - plan.base.server_tcp.receive_buffer.leading_zeros();
    plan.binding.server_scale = random.chance(0.5).then_some(bits.saturating_sub(16) as u8);
    // Nobody stands between a client and the reset of a server that refuses it.
    let refusing = plan.groups.iter_mut().flat_map(|(_, servers)| servers).filter(|health| **health == Health::Refuses);
    refusing.for_each(|health| *health = Health::Dead);
}

fn reshaping(random: &mut Random, faults: bool) -> reshape::Settings {
    // Every segment that a bad wire takes from among many small ones costs a time-out: a body would take an hour.
    let piece = if faults { [30, 60, 100, 1000] } else { [1, 7, 100, 1000] };
    reshape::Settings {
        wrap: if random.chance(0.5) { 0.7 } else { 0.0 },
        cut: if random.chance(0.4) { 0.3 } else { 0.0 },
        piece: piece[random.below(4) as usize],
        overlap: if random.chance(0.5) { 0.3 } else { 0.0 },
    }
}

/// What clients do, and to whom.
#[derive(Debug, Clone, Copy)]
struct Load {
    to: SocketAddr,
    classes: &'static [Class],
    /// Whether there is somebody who makes an end of connections that stall.
    ends_others: bool,
    /// Whether all that is asked for on a connection is for the same servers.
    alike: bool,
}

/// The clients of a site: so many connections in all.
fn clients(random: &mut Random, connections: u64, roster: &Rc<Roster>, load: &Load) -> Vec<ContentClient> {
    let hosts = 1 + random.below(3);
    (0..hosts)
        .map(|n| {
            let share = connections / hosts + u64::from(n < connections % hosts);
            let at_once = 1 + random.below(24) as usize;
            let mut random = random.fork();
            let load = *load;
            let script = move |i| (i < share).then(|| script(&mut random, &load));
            ContentClient::new(Rc::clone(roster), at_once, script).patience(PATIENCE)
        })
        .collect()
}

/// One connection's script.
fn script(random: &mut Random, load: &Load) -> Script {
    let requests = if random.chance(0.4) { 1 } else { random.between(2, 9) };
    // Two classes in turn, one only, or any.
    let pair = [0, 1].map(|_| load.classes[random.below(load.classes.len() as u64) as usize]);
    let drawn = random.below(3);
    let manner = if load.alike { 1 } else { drawn };
    let mut exchanges: Vec<Exchange> = (0..requests)
        .map(|n| {
            let class = match manner {
                0 => pair[n as usize % 2],
                1 => pair[0],
                _ => load.classes[random.below(load.classes.len() as u64) as usize],
            };
            exchange(random, class)
        })
        .collect();
    let last = exchanges.len() - 1;
    for e in &mut exchanges[..last] {
        e.closing = Closing::Keep;
        if e.framing == Framing::UntilClose {
            e.framing = Framing::Length;
        }
    }
    let ending = match random.below(20) {
        0..=13 => Ending::Close,
        14..=16 => Ending::HalfClose,
        17 => Ending::Reset { sent: random.below(2_000) as usize, received: 0 },
        18 => Ending::Reset { sent: 0, received: 1 + random.below(20_000) as usize },
        _ if load.ends_others => Ending::Stall(random.below(3) as usize * random.below(80) as usize),
        _ => Ending::Close,
    };
    Script {
        pipeline: if random.chance(0.3) { random.between(2, 9) as usize } else { 1 },
        pause: if random.chance(0.2) { random.below(2 * SECOND) } else { 0 },
        piece: if random.chance(0.05) { random.between(30, 900) as usize } else { 0 },
        ending,
        ..Script::new(load.to, exchanges)
    }
}

/// One exchange of a class.
fn exchange(random: &mut Random, class: Class) -> Exchange {
    let size = |random: &mut Random| match random.below(12) {
        0..=6 => random.below(2_000) as u32,
        7..=10 => random.below(12_000) as u32,
        _ => random.below(100_000) as u32,
    };
    let post = if random.chance(0.5) { Method::Post } else { Method::Chunked };
    let method = match random.below(8) {
        _ if class.by_document() => post,
        0 => Method::Head,
        1..=3 => post,
        _ => Method::Get,
    };
    let body = match method {
        Method::Get | Method::Head => 0,
        // What decides stands at the end. More would take a bad wire longer than servers wait.
        _ if class.by_document() => [600, 3_000, 12_000, 30_000][random.below(4) as usize],
        _ => size(random),
    };
    let framing = match random.below(12) {
        0..=5 => Framing::Length,
        6..=8 => Framing::Chunked,
        9 => Framing::NoContent,
        10 => Framing::NotModified,
        _ => Framing::UntilClose,
    };
    Exchange {
        number: random.draw(),
        class,
        method,
        body,
        framing,
        interim: random.chance(0.05),
        reply: size(random),
        closing: [Closing::Keep, Closing::Asked, Closing::Server][random.below(3) as usize],
        session: 0,
        returning: false,
    }
}

fn describe(plan: &ContentPlan) -> String {
    let base = &plan.base;
    let groups: BTreeMap<_, String> = plan
        .groups
        .iter()
        .map(|(class, servers)| {
            let letter = |h: &Health| match h {
                Health::Lives => '+',
                Health::Refuses => 'r',
                Health::Dead => '-',
            };
            (class.name(), servers.iter().map(letter).collect())
        })
        .collect();
    format!(
        "over {}, {:?}, {:?} by {:?}, {:?}, {}, {} workers, {} content workers, groups {groups:?}, wires {:?} and {:?}",
        if base.v6 { "IPv6" } else { "IPv4" },
        base.scheduler,
        plan.binding.scheme,
        plan.binding.switching,
        plan.binding.syn,
        if plan.binding.timestamps { "timestamps" } else { "no timestamps" },
        base.workers,
        plan.content_workers,
        plan.client_wire,
        plan.server_wire,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_director_every_seed_holds() {
        let mut answered = 0;
        for seed in 0..40 {
            let outcome = direct(seed, 20, super::super::has_faults(seed));
            assert!(outcome.ok(), "{outcome}");
            answered += outcome.answered;
        }
        assert!(answered > 1500, "{answered}");
    }

    #[test]
    fn seeds_draw_every_way_of_guessing_and_deciding() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..2000 {
            let plan = plan(&mut Random::new(seed), seed, super::super::has_faults(seed));
            let (forward, binding) = (plan.base.forward, &plan.binding);
            let guess = match &binding.scheme {
                Scheme::Preallocate(Guess::Server(_)) => "server",
                Scheme::Preallocate(Guess::Hash) => "hash",
                Scheme::Preallocate(Guess::Client) => "client",
                Scheme::Preallocate(Guess::Frequency) => "frequency",
                _ => "none",
            };
            assert!(plan.base.two_armed() || guess != "none", "seed {seed}: replies would not come back");
            seen.insert((format!("{forward:?}"), guess, binding.switching == Switching::Connection));
        }
        for forward in ["Nat", "FullNat", "Dr", "Tunnel"] {
            for guess in ["server", "hash", "client", "frequency"] {
                assert!(seen.contains(&(forward.to_owned(), guess, true)), "{forward} {guess}: {seen:?}");
            }
        }
        assert!(
            seen.contains(&("Nat".to_owned(), "none", true)) && seen.contains(&("FullNat".to_owned(), "none", true))
        );
    }
}
