//! One series at one point: a site on the in-process network, its clients' connections, and what was seen of them.

use super::load::{Load, rule_set};
use super::seen::{Counted, Seen, Spread, Taken};
use super::{Options, Point, SchemesError, Series};
use crate::network::content::{filter, rules};
use crate::network::host::Host;
use crate::network::http::{HttpClient, Request, Script};
use crate::network::link::Faults;
use crate::network::random::Random;
use crate::network::site::{Plan, Site};
use crate::network::stack::TcpSettings;
use crate::network::{BEGIN, Id, MILLISECOND, SECOND};
use lcs_dataplane::cycles::{Meter, tsc, tsc_hz};
use lcs_dataplane::worker::Nanos;
use lcs_pipelines::command::Report;
use lcs_pipelines::content::{Binding, Content, Guess, Pool, Scheme, Switching};
use lcs_pipelines::snapshot::{Forward, Scheduler};
use std::net::{IpAddr, SocketAddr};
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
/// An address of the director's in the servers' network of direct routing.
const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 200));
/// How long a host of the in-process network knows a neighbour that it does not hear of.
const KNOWN: Nanos = 60 * SECOND;
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

/// Runs one series at one point, once.
pub(super) fn run(options: &Options, series: Series, point: Point) -> Result<Taken, SchemesError> {
    let load = Load::new(options, series, point);
    let mut site = build(options, series, point, clients(&load, WARM_UP * options.clients))?;
    let settle = 20 * (options.rtt + options.server_rtt) + 100 * MILLISECOND;
    site.finish(LIMIT);
    site.net.run_for(settle);
    let ids = site.clients.clone();
    ask(&mut site, clients(&load, options.connections).into_iter().map(HttpClient::keep_answers));
    let before = report(&mut site);
    let traffic = site.net.traffic(site.director);
    let (begin, mut held, mut at) = (site.net.now(), 0, 0);
    let director = site.director;
    site.net.run(begin + LIMIT, |net| {
        held = held.max(net[director].workers().iter().map(|w| w.pipeline().buffered()).sum());
        // Those before have finished; the check is as cheap as one client's.
        while at < ids.len() && net[ids[at]].application::<HttpClient>().finished() {
            at += 1;
        }
        at == ids.len()
    });
    let seconds = last_answer(&site, &ids).saturating_sub(begin) as f64 / SECOND as f64;
    site.net.run_for(settle);
    let after = report(&mut site);
    let now = site.net.traffic(director);
    let mut seen = seen(options, &site, &ids, series, &load)?;
    let per = |n: u64, of: u64| n as f64 / of.max(1) as f64;
    let frames = [0, 1].map(|side| now[side].offered - traffic[side].offered);
    let bytes: u64 = (0..2).map(|side| now[side].offered_bytes - traffic[side].offered_bytes).sum();
    let counted = counted(&after).since(&counted(&before));
    let hits = if series == Series::Matching { options.connections } else { load.hits(options.connections) };
    seen.requests_per_second = if seconds > 0.0 { seen.requests as f64 / seconds } else { 0.0 };
    seen.segments_in = per(frames[0], seen.connections);
    seen.segments_out = per(frames[1], seen.connections);
    seen.bytes_per_request = per(bytes, seen.requests);
    seen.to_servers_per_request = per(counted.to_servers, seen.requests);
    seen.to_clients_per_request = per(counted.to_clients, seen.requests);
    let asked = options.connections * point.keepalive;
    seen.strays = counted.strays(series, options.connections as u64, hits as u64, asked as u64);
    seen.buffered_at_most = Some(held);
    let stages = costs(&before).into_iter().zip(costs(&after));
    let stages = stages.map(|((name, before), (_, after))| (name, after.saturating_sub(before))).collect();
    let cycles = after.counters.busy_cycles.saturating_sub(before.counters.busy_cycles);
    // Nobody asks whom a server has forgotten before it has an answer for them; forwarding and guesses wait alike then.
    let late = matches!(series, Series::ForwardDirect | Series::PreallocateDirect(_) | Series::Filter)
        && site.net.now().saturating_sub(BEGIN) > KNOWN;
    let note = late.then(|| {
        format!("{series}: the run took longer than a simulated minute, after which servers forget their clients' link-layer addresses; some answers waited for these.")
    });
    Ok(Taken { seen, times: vec![], cycles, stages, cpu: None, note })
}

/// Gives the clients' hosts something new to do.
fn ask(site: &mut Site<Undisturbed>, clients: impl IntoIterator<Item = HttpClient>) {
    for (id, client) in site.clients.clone().into_iter().zip(clients) {
        *site.net[id].application_mut::<HttpClient>() = client;
        site.net.wake(id);
    }
}

fn costs(report: &Report) -> Vec<(String, u64)> {
    let inner = report.stages.iter().map(|(name, cost)| (name.clone(), cost.cycles));
    let receive = ("receive".to_owned(), report.counters.receive.cycles);
    let transmit = ("transmit".to_owned(), report.counters.transmit.cycles);
    std::iter::once(receive).chain(inner).chain(std::iter::once(transmit)).collect()
}

/// What the director has counted of servers, guesses, pools and filters.
fn counted(report: &Report) -> Counted {
    let mut sum = Counted::default();
    for server in &report.servers {
        sum.to_servers += server.bytes_in;
        sum.to_clients += server.bytes_out;
    }
    for tally in report.content.services.iter().flatten() {
        sum.add(tally.guesses, tally.pool, tally.migrations);
    }
    sum
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
    options: &Options,
    site: &Site<Undisturbed>,
    clients: &[Id<Host>],
    series: Series,
    load: &Load,
) -> Result<Seen, SchemesError> {
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
        if !series.is_indifferent()
            && let Some(a) = seen.answers.iter().find(|a| a.server != server(load, &a.path))
        {
            return Err(SchemesError::Misrouted { series, path: a.path.clone(), server: a.server.clone() });
        }
    }
    let lossy = options.loss + options.server_loss > 0.0;
    if failed > 0 && (!lossy || times.is_empty()) {
        let asked = requests + failed;
        let first = first.unwrap_or_default();
        return Err(SchemesError::Lost { series, size: load.point.size, failed, asked, first });
    }
    Ok(Seen {
        connections,
        requests,
        failed,
        strays: 0,
        response: Spread::of(times),
        requests_per_second: 0.0,
        segments_in: 0.0,
        segments_out: 0.0,
        bytes_per_request: 0.0,
        to_servers_per_request: 0.0,
        to_clients_per_request: 0.0,
        buffered_at_most: None,
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
        Series::Filter | Series::ForwardDirect | Series::PreallocateDirect(_) => Forward::Dr,
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
        Series::ForwardDirect => {
            let mut site = acquainted(options, plan);
            ask(&mut site, clients);
            return Ok(site);
        }
        // The site says what the channel to its filters is.
        Series::Filter => Scheme::Delayed,
        Series::Delayed => Scheme::Delayed,
        // As many as the clients may want at once, so that none has to wait for one.
        Series::Pooled => {
            Scheme::Pooled(Pool { idle: options.clients as u32, most: 2 * options.clients as u32, ..Pool::default() })
        }
        Series::Matching => Scheme::Preallocate(Guess::Hash),
        Series::Preallocate(_) | Series::PreallocateDirect(_) => Scheme::Preallocate(Guess::Server(GUESSED.to_owned())),
    };
    // Where rules are only evaluated, each is content with either server.
    let [guessed, other] = if series == Series::Matching { [vec![0, 1], vec![0, 1]] } else { [vec![0], vec![1]] };
    let groups = vec![("guessed".to_owned(), guessed), ("other".to_owned(), other)];
    let scheduler = plan.scheduler;
    let compile = |binding| rules::compile(&rule_set(point.rules), &groups, scheduler, binding);
    let direct = matches!(series, Series::PreallocateDirect(_));
    let switching = if direct { Switching::Connection } else { Switching::default() };
    let server_scale = direct.then_some(server_scale(tcp.receive_buffer));
    // Which compiles whatever the scheme is, or does not.
    let binding = Binding { scheme, switching, server_scale, ..Binding::default() };
    let content = compile(binding).map_err(SchemesError::Rules)?;
    if series == Series::Filter {
        let content = |binding| Content { binding, ..content };
        return filter::http_site(plan, &Undisturbed::new(), content, clients).ok_or(SchemesError::Silent);
    }
    let content = Arc::new(content);
    let publish = |site: &mut Site<Undisturbed>| {
        site.publish(|snapshot| {
            // Wrong guesses of servers that answer directly are mended from there.
            snapshot.own.extend(direct.then_some(SOURCE));
            for service in snapshot.services.iter_mut().flatten() {
                service.content = Some(Arc::clone(&content));
                service.sources.extend(direct.then_some(SOURCE));
            }
        });
    };
    if !direct {
        let mut site = Site::build(plan, Undisturbed::new(), clients);
        publish(&mut site);
        return Ok(site);
    }
    let mut site = acquainted(options, plan);
    publish(&mut site);
    ask(&mut site, clients);
    Ok(site)
}

/// A site of direct routing at layer 4 in which every server knows every client's link-layer address, because each client has asked it
/// for something without the director. Otherwise it would have to look for it, in this stack for one client a second: a guess
/// would be given up meanwhile, a forwarded connection be late.
fn acquainted(options: &Options, plan: Plan) -> Site<Undisturbed> {
    let port = plan.service().port();
    let servers: Vec<_> = (0..plan.weights.len()).map(|n| SocketAddr::new(plan.server_address(n), port)).collect();
    let ask_all = |_| {
        let scripts = servers.iter().map(|&server| Script::new(server, vec![Request::get("/k0/0-0/100")]));
        HttpClient::list(1, scripts.collect())
    };
    let mut site = Site::build(plan, Undisturbed::new(), (0..options.clients).map(ask_all).collect());
    site.finish(LIMIT);
    site
}

/// The window scale with which a stack of the in-process network answers: as much of its buffer as 16 bits do not hold.
fn server_scale(receive_buffer: usize) -> u8 {
    (usize::BITS - receive_buffer.leading_zeros()).saturating_sub(16) as u8
}

/// The clients' applications, with so many connections between them.
fn clients(load: &Load, connections: usize) -> Vec<HttpClient> {
    let target = Plan::new(Forward::Nat, false).service();
    let mut random = Random::new(load.seed);
    let all = load.connections(connections, &mut random);
    let mut script = |(n, guessed): (usize, bool)| {
        // All requests of a connection are for one server: what a guess costs or saves is paid at its first.
        let requests = (0..load.point.keepalive).map(|k| Request::get(&load.path(guessed, n, k, &mut random)));
        Script::new(target, requests.collect())
    };
    all.into_iter().map(|scripts| HttpClient::list(1, scripts.into_iter().map(&mut script).collect())).collect()
}

/// The server that a path's rule names.
fn server(load: &Load, path: &str) -> &'static str {
    if load.is_for_guessed(path) { GUESSED } else { OTHER }
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
                    assert_eq!(server(&load, &path) == GUESSED, guessed, "{path} of {rules} rules");
                }
                let options = Options { connections: 40, clients: 4, rounds: 1, ..Options::default() };
                let taken = Load { clients: 4, ..load };
                let mut site = build(&options, Series::Delayed, point, clients(&taken, 40)).unwrap();
                assert!(site.finish(LIMIT));
                let of = |id: &Id<Host>| {
                    let seen = &site.net[*id].application::<HttpClient>().seen;
                    seen.per_server.get(GUESSED).copied().unwrap_or(0)
                };
                assert_eq!(site.clients.iter().map(of).sum::<u64>(), expected);
            }
        }
    }
}
