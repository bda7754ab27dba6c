//! One series at one point: a site on the in-process network, its clients' connections, and what was seen of them.

use super::{Options, Point, SchemesError, Series};
use crate::network::content::{filter, rules};
use crate::network::host::Host;
use crate::network::http::{HttpClient, Request, Script};
use crate::network::link::Faults;
use crate::network::random::{Random, mix};
use crate::network::site::{Plan, Site};
use crate::network::stack::TcpSettings;
use crate::network::{Id, MILLISECOND, SECOND};
use lcs_dataplane::cycles::{Meter, tsc, tsc_hz};
use lcs_dataplane::worker::Nanos;
use lcs_pipelines::command::Report;
use lcs_pipelines::content::{Binding, Content, Guess, Pool, Scheme};
use lcs_pipelines::snapshot::{Forward, Scheduler};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;

/// The server that every guess is for, and the one that the other requests are for.
const GUESSED: &str = "s1";
const OTHER: &str = "s2";
/// Between the director and its switches, there and back: the shortest round trip that a site can have.
pub(super) const SHORTEST: Nanos = 2 * Faults::NONE.delay;
/// Of a client's link: what a document takes is seen.
const CLIENT_RATE: u64 = 1_000_000_000;
/// Connections of each client before anything is measured: neighbours are known then, and what is built once is.
const WARM_UP: usize = 2;
/// In which everything must be done.
const LIMIT: Nanos = 3_600 * SECOND;

/// The time-stamp counter without the time in which this thread did not have its core.
///
/// The simulator has seconds of its own work around each millisecond of the director's, so that being interrupted falls on
/// few turns, and then a thousandfold. A turn of 32 frames takes some µs: whatever lies [`Undisturbed::GAP`] behind the
/// reading before it is the machine's, and is left out.
#[derive(Debug, Clone)]
struct Undisturbed {
    last: u64,
    sum: u64,
    gap: u64,
}

impl Undisturbed {
    /// In seconds: a hundred times what a stage takes for a burst, a tenth of what a scheduler gives away at least.
    const GAP: f64 = 100e-6;

    fn new() -> Self {
        Undisturbed { last: tsc(), sum: 0, gap: (tsc_hz() as f64 * Self::GAP) as u64 }
    }
}

impl Meter for Undisturbed {
    #[inline]
    fn read(&mut self) -> u64 {
        let now = tsc();
        let passed = now.wrapping_sub(self.last);
        self.last = now;
        if passed < self.gap {
            self.sum += passed;
        }
        self.sum
    }
}

/// Times, ns.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Their mean.
    pub mean: f64,
    /// The middle one.
    pub p50: Nanos,
    /// What one of a hundred exceeds.
    pub p99: Nanos,
    /// The longest.
    pub max: Nanos,
}

impl Spread {
    fn of(mut times: Vec<Nanos>) -> Spread {
        times.sort_unstable();
        let at = |q: f64| times.get(((times.len() as f64 - 1.0) * q).round() as usize).copied().unwrap_or(0);
        let mean = times.iter().sum::<Nanos>() as f64 / times.len().max(1) as f64;
        Spread { mean, p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}

/// What was seen in simulated time, and counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Simulated {
    /// Connections that were carried out.
    pub connections: u64,
    /// Requests that were answered.
    pub requests: u64,
    /// Requests that were not: where links lose frames, a connection may be given up.
    pub failed: u64,
    /// From a client's SYN to the last byte of the connection's last response, ns.
    pub response: Spread,
    /// Answers a second of simulated time, all clients together. The director takes no simulated time but 2 µs to gather
    /// a burst, so it is the network's round trips that bound this.
    pub requests_per_second: f64,
    /// Frames that came to the director, a connection.
    pub segments_in: f64,
    /// Frames that it sent.
    pub segments_out: f64,
    /// Bytes of these and those, a request; link-layer header included, FCS not.
    pub bytes_per_request: f64,
    /// Bytes of requests that the director held at once, at most.
    pub buffered_at_most: usize,
}

impl Simulated {
    /// Frames through the director a connection, in and out.
    pub fn segments(&self) -> f64 {
        self.segments_in + self.segments_out
    }
}

/// What one round has seen.
#[derive(Debug)]
pub(super) struct Taken {
    pub simulated: Simulated,
    /// Of the director's busy turns.
    pub cycles: u64,
    pub stages: Vec<(String, u64)>,
}

/// Runs one series at one point, once.
pub(super) fn run(options: &Options, series: Series, point: Point) -> Result<Taken, SchemesError> {
    let load = Load::new(options, series, point);
    let mut site = build(options, series, point, load.clients(WARM_UP * options.clients))?;
    let settle = 20 * (options.rtt + options.server_rtt) + 100 * MILLISECOND;
    site.finish(LIMIT);
    site.net.run_for(settle);
    let clients = site.clients.clone();
    for (id, client) in clients.iter().zip(load.clients(options.connections)) {
        *site.net[*id].application_mut::<HttpClient>() = client.keep_answers();
        site.net.wake(*id);
    }
    let before = report(&mut site);
    let traffic = site.net.traffic(site.director);
    let (begin, mut held, mut at) = (site.net.now(), 0, 0);
    let director = site.director;
    site.net.run(begin + LIMIT, |net| {
        held = held.max(net[director].workers().iter().map(|w| w.pipeline().buffered()).sum());
        // Those before have finished; the check is as cheap as one client's.
        while at < clients.len() && net[clients[at]].application::<HttpClient>().finished() {
            at += 1;
        }
        at == clients.len()
    });
    let seconds = last_answer(&site, &clients).saturating_sub(begin) as f64 / SECOND as f64;
    site.net.run_for(settle);
    let after = report(&mut site);
    let now = site.net.traffic(director);
    let mut simulated = seen(&site, &clients, series, &load)?;
    let per = |n: u64, of: u64| n as f64 / of.max(1) as f64;
    let frames = [0, 1].map(|side| now[side].offered - traffic[side].offered);
    let bytes: u64 = (0..2).map(|side| now[side].offered_bytes - traffic[side].offered_bytes).sum();
    simulated.requests_per_second = if seconds > 0.0 { simulated.requests as f64 / seconds } else { 0.0 };
    simulated.segments_in = per(frames[0], simulated.connections);
    simulated.segments_out = per(frames[1], simulated.connections);
    simulated.bytes_per_request = per(bytes, simulated.requests);
    simulated.buffered_at_most = held;
    let stages = costs(&before).into_iter().zip(costs(&after));
    let stages = stages.map(|((name, before), (_, after))| (name, after.saturating_sub(before))).collect();
    let cycles = after.counters.busy_cycles.saturating_sub(before.counters.busy_cycles);
    Ok(Taken { simulated, cycles, stages })
}

fn costs(report: &Report) -> Vec<(String, u64)> {
    let inner = report.stages.iter().map(|(name, cost)| (name.clone(), cost.cycles));
    let receive = ("receive".to_owned(), report.counters.receive.cycles);
    let transmit = ("transmit".to_owned(), report.counters.transmit.cycles);
    std::iter::once(receive).chain(inner).chain(std::iter::once(transmit)).collect()
}

fn report(site: &mut Site<Undisturbed>) -> Report {
    // One worker.
    site.reports().pop().unwrap_or_default()
}

fn last_answer(site: &Site<Undisturbed>, clients: &[Id<Host>]) -> Nanos {
    let last = |id: &Id<Host>| site.net[*id].application::<HttpClient>().seen.answers.last().map(|a| a.at);
    clients.iter().filter_map(last).max().unwrap_or(0)
}

/// What the clients have seen.
fn seen(
    site: &Site<Undisturbed>,
    clients: &[Id<Host>],
    series: Series,
    load: &Load,
) -> Result<Simulated, SchemesError> {
    let (mut times, mut requests, mut failed, mut connections) = (vec![], 0, 0, 0);
    let mut first = None;
    for id in clients {
        let seen = &site.net[*id].application::<HttpClient>().seen;
        failed += seen.failed;
        requests += seen.answered;
        connections += seen.connections;
        first = first.or_else(|| seen.failures.first().map(ToString::to_string));
        // One connection at a time: its answers follow each other, each later than the one before by its own latency.
        for answers in seen.answers.chunk_by(|a, b| a.local == b.local) {
            if answers.len() == load.point.keepalive {
                times.push(answers.iter().map(|a| a.latency).sum());
            }
        }
        if !matches!(series, Series::Forward | Series::Matching)
            && let Some(a) = seen.answers.iter().find(|a| a.server != load.server(&a.path))
        {
            return Err(SchemesError::Misrouted { series, path: a.path.clone(), server: a.server.clone() });
        }
    }
    if failed > 0 && (!load.lossy || times.is_empty()) {
        let asked = requests + failed;
        let first = first.unwrap_or_default();
        return Err(SchemesError::Lost { series, size: load.point.size, failed, asked, first });
    }
    Ok(Simulated {
        connections,
        requests,
        failed,
        response: Spread::of(times),
        requests_per_second: 0.0,
        segments_in: 0.0,
        segments_out: 0.0,
        bytes_per_request: 0.0,
        buffered_at_most: 0,
    })
}

/// The site of a series, with these clients.
fn build(
    options: &Options,
    series: Series,
    point: Point,
    clients: Vec<HttpClient>,
) -> Result<Site<Undisturbed>, SchemesError> {
    let link = |rate, rtt: Nanos, loss| Faults {
        rate,
        // The rest of the way is the director's own link to its switch.
        delay: (rtt - SHORTEST) / 2,
        loss,
        ..Faults::NONE
    };
    let forward = match series {
        Series::Pooled => Forward::FullNat,
        Series::Filter => Forward::Dr,
        _ => Forward::Nat,
    };
    // Without congestion control: its first window is two segments of 536 B in this stack, ten times less than in today's
    // kernels (RFC 6928), and would put round trips of its own into documents of a few kB.
    let tcp = TcpSettings { receive_buffer: 256 << 10, send_buffer: 256 << 10, ..TcpSettings::default() };
    let plan = Plan {
        seed: options.seed,
        weights: vec![1, 1],
        scheduler: Scheduler::Rr,
        flows: 4 * options.connections + 4096,
        client_tcp: tcp,
        server_tcp: tcp,
        backlog: 4 * options.clients,
        client_faults: link(CLIENT_RATE, options.rtt, options.loss),
        // Without a bound: series differ in how their connections are spread over the servers, and that is not the question.
        server_faults: link(0, options.server_rtt, options.server_loss),
        ..Plan::new(forward, false)
    };
    let scheme = match series {
        Series::Forward => return Ok(Site::build(plan, Undisturbed::new(), clients)),
        // The site says what the channel to its filters is.
        Series::Filter => Scheme::Delayed,
        Series::Delayed => Scheme::Delayed,
        // As many as the clients may want at once, so that none has to wait for one.
        Series::Pooled => {
            Scheme::Pooled(Pool { idle: options.clients as u32, most: 2 * options.clients as u32, ..Pool::default() })
        }
        Series::Matching => Scheme::Preallocate(Guess::Hash),
        Series::Preallocate(_) => Scheme::Preallocate(Guess::Server(GUESSED.to_owned())),
    };
    // Where rules are only evaluated, each is content with either server.
    let [guessed, other] = if series == Series::Matching { [vec![0, 1], vec![0, 1]] } else { [vec![0], vec![1]] };
    let groups = vec![("guessed".to_owned(), guessed), ("other".to_owned(), other)];
    let scheduler = plan.scheduler;
    let compile = |binding| rules::compile(&rule_set(point.rules), &groups, scheduler, binding);
    // Which compiles whatever the scheme is, or does not.
    let content = compile(Binding { scheme, ..Binding::default() }).map_err(SchemesError::Rules)?;
    if series == Series::Filter {
        let content = |binding| Content { binding, ..content };
        return filter::http_site(plan, &Undisturbed::new(), content, clients).ok_or(SchemesError::Silent);
    }
    let content = Arc::new(content);
    let mut site = Site::build(plan, Undisturbed::new(), clients);
    site.publish(|snapshot| {
        for service in snapshot.services.iter_mut().flatten() {
            service.content = Some(Arc::clone(&content));
        }
    });
    Ok(site)
}

/// So many rules about the beginning of a path, each second one for the server that is guessed; what none takes is for the other.
fn rule_set(rules: usize) -> String {
    let mut text = String::new();
    for n in 0..rules {
        let group = if n % 2 == 0 { "guessed" } else { "other" };
        text.push_str(&format!("r{n}: if (prefix(url, \"/k{n}/\")) routeTo({group})\n"));
    }
    text.push_str("default: routeTo(other)\n");
    text
}

/// What clients ask.
struct Load {
    point: Point,
    /// Connections of a hundred that are for the server that is guessed.
    share: u8,
    lossy: bool,
    clients: usize,
    seed: u64,
    target: SocketAddr,
}

impl Load {
    fn new(options: &Options, series: Series, point: Point) -> Self {
        // Where nothing is guessed, both servers get as much.
        let share = if let Series::Preallocate(percent) = series { percent } else { 50 };
        let seed = mix(options.seed ^ mix((point.size + 1) as u64 ^ mix((point.rules + 1) as u64)));
        let lossy = options.loss + options.server_loss > 0.0;
        let target = Plan::new(Forward::Nat, false).service();
        Load { point, share, lossy, clients: options.clients, seed, target }
    }

    /// The clients, with so many connections between them, of which exactly the share is for the server that is guessed.
    fn clients(&self, connections: usize) -> Vec<HttpClient> {
        let hits = (connections * usize::from(self.share) + 50) / 100;
        let mut random = Random::new(self.seed);
        let mut guessed: Vec<bool> = (0..connections).map(|n| n < hits).collect();
        for n in (1..connections).rev() {
            guessed.swap(n, random.below(n as u64 + 1) as usize);
        }
        let mut scripts: Vec<Vec<Script>> = (0..self.clients).map(|_| vec![]).collect();
        for (n, guessed) in guessed.into_iter().enumerate() {
            // All requests of a connection are for one server: what a guess costs or saves is paid at its first.
            let requests = (0..self.point.keepalive).map(|k| Request::get(&self.path(guessed, n, k, &mut random)));
            scripts[n % self.clients].push(Script::new(self.target, requests.collect()));
        }
        scripts.into_iter().map(|scripts| HttpClient::list(1, scripts)).collect()
    }

    fn path(&self, guessed: bool, connection: usize, request: usize, random: &mut Random) -> String {
        let Point { rules, size, .. } = self.point;
        // Rules with an even number are for the server that is guessed; behind the odd ones comes the default.
        let rule = if guessed {
            2 * random.below(rules.div_ceil(2) as u64)
        } else {
            2 * random.below(rules as u64 / 2 + 1) + 1
        };
        format!("/k{rule}/{connection}-{request}/{size}")
    }

    /// The server that a path's rule names.
    fn server(&self, path: &str) -> &'static str {
        let rule = path.trim_start_matches("/k").split('/').next().and_then(|n| n.parse::<usize>().ok());
        if rule.is_some_and(|n| n % 2 == 0 && n < self.point.rules) { GUESSED } else { OTHER }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_has_exactly_its_share_of_requests_for_the_guessed_server() {
        for (percent, expected) in [(0, 0), (25, 10), (100, 40)] {
            for rules in [1, 2, 7] {
                let point = Point { size: 100, rules, keepalive: 1 };
                let load = Load::new(&Options::default(), Series::Preallocate(percent), point);
                let mut random = Random::new(3);
                let paths = |guessed| (0..50).map(move |n| (guessed, n));
                for (guessed, n) in paths(true).chain(paths(false)) {
                    let path = load.path(guessed, n, 0, &mut random);
                    assert_eq!(load.server(&path) == GUESSED, guessed, "{path} of {rules} rules");
                }
                let options = Options { connections: 40, clients: 4, rounds: 1, ..Options::default() };
                let taken = Load { clients: 4, ..load };
                let mut site = build(&options, Series::Delayed, point, taken.clients(40)).unwrap();
                assert!(site.finish(LIMIT));
                let of = |id: &Id<Host>| {
                    let seen = &site.net[*id].application::<HttpClient>().seen;
                    seen.per_server.get(GUESSED).copied().unwrap_or(0)
                };
                assert_eq!(site.clients.iter().map(of).sum::<u64>(), expected);
            }
        }
    }

    #[test]
    fn a_spread_takes_the_nearest_rank() {
        let s = Spread::of((1..=100).rev().collect());
        assert_eq!((s.mean, s.p50, s.p99, s.max), (50.5, 51, 99, 100));
        assert_eq!(Spread::of(vec![]).max, 0);
    }
}
