//! Over real kernels: clients and servers of Linux, the director on AF_XDP on a core of its own, and on servers' hosts the filters that
//! `lcs filter` runs.
//!
//! Ways of forwarding need networks of their own ([`Beds`]): over NAT the director is the servers' gateway; over direct routing servers answer for the
//! service's address; and where there are filters, these stand between a server's interface and its stack. In every round each series
//! has a director of its own for as long as its connections take.

mod client;

use super::load::{Load, rule_set};
use super::seen::{Counted, Seen, Spread, Taken};
use super::{Measured, Options, Point, SchemesError, Series, saying};
use crate::bed::cpu::Used;
use crate::bed::{self, Alone};
use crate::demo::content::RuleFile;
use crate::demo::interrupt::{Interrupt, Interrupted};
use crate::demo::root::Error;
use crate::demo::root::director::Director;
use crate::network::random::{Random, mix};
use crate::peers::traffic::server::Server;
use crate::peers::workload::{Traffic, server_name};
use client::{Outcome, Work};
use lcs_control::config::XdpMode;
use lcs_control::protocol::Stats;
use lcs_control::run::filter::Filter;
use lcs_hwconf::stack_arm;
use lcs_hwconf::testbed::{ETH0, Host, Plan, ReturnPath, Testbed};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// The service's port, and that of servers which answer for it.
const PORT: u16 = 80;
/// Servers' port where the director maps ports.
const MAPPED_PORT: u16 = 8080;
/// Connections of each client before anything is measured: neighbours are known then, and clients' addresses proven.
const WARM_UP: usize = 2;
/// How long a network may take to fall silent behind the last answer.
const SILENCE: Duration = Duration::from_millis(400);
/// Requests that there are of each kind, guessed and other, in a round; connections share them.
const TARGETS: usize = 2;
/// Handshakes whose median is a server's round trip.
const HANDSHAKES: usize = 32;

impl From<Error> for SchemesError {
    fn from(error: Error) -> Self {
        if error.is_permission() { SchemesError::NotRoot } else { SchemesError::Real(error) }
    }
}

impl From<lcs_hwconf::Error> for SchemesError {
    fn from(error: lcs_hwconf::Error) -> Self {
        Error::from(error).into()
    }
}

/// Measures all cells in turns, each second round in the other order.
pub(super) fn measure(
    options: &Options,
    cells: &[(Series, Point)],
    interrupt: &Interrupt,
    progress: &mut dyn FnMut(&str),
) -> Result<Measured, SchemesError> {
    let (core, others) = bed::cores(options.core)?;
    progress("building the networks");
    let mut beds = Beds::build(core, others, interrupt.clone())?;
    let mut taken: Vec<Vec<Taken>> = cells.iter().map(|_| vec![]).collect();
    let (mut handshakes, mut unmeasured, mut first) = (vec![], vec![], None);
    let mut failed = vec![false; cells.len()];
    'rounds: for round in 0..options.rounds {
        handshakes.extend(beds.handshakes()?);
        for at in 0..cells.len() {
            let at = if round % 2 == 0 { at } else { cells.len() - 1 - at };
            // What has failed once is not tried again: it has not all of its rounds anyway.
            if failed[at] {
                continue;
            }
            if interrupt.is_set() {
                break 'rounds;
            }
            progress(&saying(&format!("round {} of {}", round + 1, options.rounds), at, cells));
            let (series, point) = cells[at];
            match beds.run(options, series, point, round) {
                Ok(round) => taken[at].push(round),
                Err(SchemesError::Interrupted(_)) => break 'rounds,
                // The others' figures are none the worse for it.
                Err(error @ (SchemesError::Lost { .. } | SchemesError::Misrouted { .. } | SchemesError::Real(_))) => {
                    unmeasured.push(format!("{series}, {point}: {error}"));
                    first.get_or_insert(error);
                    failed[at] = true;
                }
                Err(error) => return Err(error),
            }
        }
    }
    for (taken, _) in taken.iter_mut().zip(&failed).filter(|(_, failed)| **failed) {
        taken.clear();
    }
    if let Some(error) = first.filter(|_| failed.iter().all(|failed| *failed)) {
        return Err(error);
    }
    if taken.iter().zip(&failed).any(|(taken, failed)| taken.is_empty() && !failed) {
        return Err(Interrupted.into());
    }
    let server_rtt = Spread::of(handshakes).p50 as f64;
    let mut notes = beds.notes;
    notes.sort();
    notes.dedup();
    Measured::cut(&mut taken, options.rounds, &mut notes)?;
    Ok(Measured { taken, unmeasured, server_rtt, notes })
}

/// The networks, one for each way of forwarding.
struct Beds {
    /// The director is the servers' gateway.
    nat: Testbed,
    /// Servers answer clients directly.
    direct: Testbed,
    /// The same, with room for filters between interfaces and stacks.
    filtered: Testbed,
    /// The director's core.
    core: usize,
    others: Vec<usize>,
    /// The window scale with which servers answer.
    server_scale: u32,
    interrupt: Interrupt,
    notes: Vec<String>,
}

impl Beds {
    fn build(core: usize, others: Vec<usize>, interrupt: Interrupt) -> Result<Self, SchemesError> {
        let mut notes = vec![];
        let mut build = |return_path| -> Result<Testbed, SchemesError> {
            let bed = Testbed::build(Plan { servers: 2, return_path, ..Plan::default() })?;
            for host in bed.hosts().skip(1) {
                host.namespace().sysctls(&[
                    // As many connections as there are ports, and those that were closed a second ago again.
                    ("net/ipv4/ip_local_port_range", "1024 65535"),
                    ("net/ipv4/tcp_max_tw_buckets", "4096"),
                    ("net/ipv4/tcp_max_syn_backlog", "16384"),
                    ("net/core/somaxconn", "16384"),
                    // What a connection lost is not remembered for those of later series.
                    ("net/ipv4/tcp_no_metrics_save", "1"),
                    // Series differ in whether they agree on them, and that is not the question.
                    ("net/ipv4/tcp_timestamps", "0"),
                ])?;
            }
            let service = service(&bed);
            bed.give_virtual_address(service.ip())?;
            if return_path == ReturnPath::Direct {
                bed.servers().iter().try_for_each(|host| host.add_hidden_address(service.ip()))?;
            }
            if let Err(e) = bed::receive_apart(&bed, core, &others, |_| servers_core(&others)) {
                notes.push(format!("receive work ran on the sender's core and not on the receiver's: {e}"));
            }
            Ok(bed)
        };
        let (nat, direct, filtered) =
            (build(ReturnPath::Director)?, build(ReturnPath::Direct)?, build(ReturnPath::Direct)?);
        let ends = [(service(&filtered).ip(), PORT)];
        for host in filtered.servers() {
            stack_arm::create(host.rtnl(), host.ethtool(), (stack_arm::FILTER_END, "lcs1"), &ends, 1500)?;
        }
        let server_scale = server_scale(&direct.servers()[0])?;
        Ok(Beds { nat, direct, filtered, core, others, server_scale, interrupt, notes })
    }

    fn bed(&self, series: Series) -> &Testbed {
        match series {
            Series::ForwardDirect | Series::PreallocateDirect(_) => &self.direct,
            Series::Filter => &self.filtered,
            _ => &self.nat,
        }
    }

    /// What a TCP handshake with a server takes from the director's host, with nothing else going on, ns.
    fn handshakes(&self) -> Result<Vec<u64>, SchemesError> {
        let traffic = Arc::new(Traffic::of([], 0));
        let at = SocketAddr::new(self.nat.server_address(0, false), MAPPED_PORT);
        let _server = Server::start(&self.nat.servers()[0], &[at], servers_core(&self.others), traffic)?;
        let one = |_| -> io::Result<u64> {
            let begun = Instant::now();
            let _connected = TcpStream::connect_timeout(&at, Duration::from_secs(5))?;
            Ok(begun.elapsed().as_nanos() as u64)
        };
        let core = self.core;
        let all = self.nat.director().run(move || {
            let _ = lcs_hwconf::cores::pin(core);
            (0..HANDSHAKES).map(one).collect::<io::Result<Vec<u64>>>()
        });
        Ok(all?.map_err(Error::Client)?)
    }

    /// Runs one series at one point, once.
    fn run(&mut self, options: &Options, series: Series, point: Point, round: usize) -> Result<Taken, SchemesError> {
        let load = Load::new(options, series, point);
        let mut random = Random::new(load.seed ^ mix(round as u64 + 1));
        let targets = [true, false].into_iter().flat_map(|guessed| (0..TARGETS).map(move |n| (guessed, n)));
        let targets = targets.map(|(guessed, n)| (load.path(guessed, n, 0, &mut random), usize::from(!guessed)));
        let targets: Vec<(String, usize)> = targets.collect();
        let traffic = Arc::new(Traffic::of(targets, point.size));
        let (rules, key) = (
            RuleFile::write(&rule_set(point.rules)).map_err(Error::Client)?,
            RuleFile::write_secret("the bench's own secret").map_err(Error::Client)?,
        );
        let bed = self.bed(series);
        let serve = |(at, host): (usize, &Host)| {
            let addresses = [endpoint(bed, series, at)];
            Server::start(host, &addresses, servers_core(&self.others), Arc::clone(&traffic))
        };
        let _servers: Vec<Server> = bed.servers().iter().enumerate().map(serve).collect::<Result<_, _>>()?;
        let filters = if series == Series::Filter { self.filters(key.path())? } else { vec![] };
        let text = |socket: &str| self.configuration(series, options.clients, rules.path(), key.path(), socket);
        let mut alone = Alone::start(bed, self.core, text)?;
        if !filters.is_empty() {
            alone.director.wait_for_filters(filters.len() as u64)?;
        }
        let mut scripts = |connections: usize| -> Vec<Vec<Vec<usize>>> {
            let clients = load.connections(connections, &mut random);
            let one = |(n, guessed): (usize, bool)| {
                let first = if guessed { 0 } else { TARGETS };
                (0..point.keepalive).map(|k| first + (n + k) % TARGETS).collect()
            };
            clients.into_iter().map(|script| script.into_iter().map(one).collect()).collect()
        };
        let (switched, to) = (!series.is_indifferent(), service(bed));
        let interrupt = &self.interrupt;
        let warm = Work { interrupt, to, traffic: &traffic, scripts: scripts(WARM_UP * options.clients), switched };
        let work = Work { interrupt, to, traffic: &traffic, scripts: scripts(options.connections), switched };
        // What failed cannot be divided away: its frames and cycles are in the counters.
        let outcome = client::run(bed.client(), self.others[0], &warm)?;
        interrupt.check()?;
        whole(series, point, outcome)?;
        settle(bed)?;
        let before = Look::at(bed, &mut alone)?;
        let first = alone.watched.look();
        let outcome = client::run(bed.client(), self.others[0], &work)?;
        interrupt.check()?;
        let outcome = whole(series, point, outcome)?;
        let used = Used::between(&first, &alone.watched.look());
        settle(bed)?;
        let after = Look::at(bed, &mut alone)?;
        let note = alone.note.take();
        drop((alone, filters));
        self.notes.extend(note);
        taken((series, point), &load, options, outcome, &used, (&before, &after))
    }

    /// The filters of the servers' hosts.
    fn filters(&self, key: &Path) -> Result<Vec<Director>, SchemesError> {
        let start = |host: &Host| {
            let core = servers_core(&self.others);
            let filter = Filter {
                interface: ETH0.into(),
                stack: stack_arm::FILTER_END.into(),
                services: vec![service(&self.filtered)],
                key_file: key.into(),
                listen: vec![],
                port: lcs_pipelines::migration::PORT,
                tunnels: false,
                socket: PathBuf::new(),
                flows: 65_536,
                core: Some(core),
                mode: XdpMode::Auto,
            };
            // Its threads stay off the director's core.
            bed::pinned(core, || Director::start_filter(host, filter))
        };
        Ok(self.filtered.servers().iter().map(start).collect::<Result<_, _>>()?)
    }

    /// The director's configuration, as a user would write it.
    fn configuration(&self, series: Series, clients: usize, rules: &Path, key: &Path, socket: &str) -> String {
        let bed = self.bed(series);
        let (own, service) = (bed.director_inner_address(false), service(bed));
        let forward = match series {
            Series::Filter | Series::ForwardDirect | Series::PreallocateDirect(_) => "dr",
            Series::Pooled => "fullnat",
            _ => "nat",
        };
        let mut text = format!(
            "[director]\nsocket = \"{socket}\"\naddresses = [\"{own}\"]\n\n\
             [workers]\ncores = [{core}]\nflows = 65536\nidle = \"adaptive\"\n\n\
             [port]\nkind = \"af-xdp\"\ninterfaces = [\"{ETH0}\"]\n\n\
             [[services]]\nname = \"schemes\"\naddress = \"{}\"\nport = {PORT}\nscheduler = \"rr\"\nforward = \"{forward}\"\n",
            service.ip(),
            core = self.core,
        );
        let guessed = server_name(0);
        let by_server = format!("binding = \"preallocate\"\nguess = \"server\"\nguess-server = \"{guessed}\"\n");
        let keys = match series {
            Series::Forward | Series::ForwardDirect => String::new(),
            Series::Matching => "binding = \"preallocate\"\nguess = \"hash\"\n".into(),
            Series::Delayed => "binding = \"delayed\"\n".into(),
            Series::Preallocate(_) => by_server,
            Series::PreallocateDirect(_) => format!(
                "{by_server}switching = \"connection\"\nsources = [\"{own}\"]\nserver-wscale = {}\n",
                self.server_scale
            ),
            // As many as the clients may want at once, so that none has to wait for one.
            Series::Pooled => format!(
                "binding = \"pooled\"\nsources = [\"{own}\"]\npool = {{ idle = {clients}, most = {} }}\n",
                2 * clients
            ),
            Series::Filter => {
                format!("binding = \"filter\"\nfilter-key = {:?}\nfilter-interval = \"200ms\"\n", key.to_string_lossy())
            }
        };
        if !keys.is_empty() {
            // Where rules are only evaluated, each is content with either server.
            let groups = if series == Series::Matching {
                let both = format!("[\"{guessed}\", \"{}\"]", server_name(1));
                format!("guessed = {both}, other = {both}")
            } else {
                format!("guessed = [\"{guessed}\"], other = [\"{}\"]", server_name(1))
            };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "rules = {:?}\ngroups = {{ {groups} }}", rules.to_string_lossy());
            text += &keys;
        }
        text.push_str("servers = [\n");
        for (at, _) in bed.servers().iter().enumerate() {
            let port = if forward == "dr" { String::new() } else { format!(", port = {MAPPED_PORT}") };
            let address = bed.server_address(at as u8, false);
            let _ = writeln!(text, "  {{ name = \"{}\", address = \"{address}\"{port} }},", server_name(at));
        }
        text.push_str("]\n");
        text
    }
}

/// The core of all servers and filters: series differ in how many servers answer, and shall not in how many cores do.
fn servers_core(others: &[usize]) -> usize {
    bed::server_core(others, 0)
}

fn service(bed: &Testbed) -> SocketAddr {
    SocketAddr::new(bed.virtual_address(0, false), PORT)
}

/// Where a server listens.
fn endpoint(bed: &Testbed, series: Series, at: usize) -> SocketAddr {
    match series {
        Series::Filter => service(bed),
        // Right guesses come to the service's address, wrong ones to a server's own.
        Series::ForwardDirect | Series::PreallocateDirect(_) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT),
        _ => SocketAddr::new(bed.server_address(at as u8, false), MAPPED_PORT),
    }
}

/// The window scale with which a Linux host answers: by the largest buffer that it may give a connection (`tcp_select_initial_window`).
fn server_scale(host: &Host) -> Result<u32, SchemesError> {
    let largest = host.run(|| {
        let last = |file: &str| -> Option<u64> {
            fs::read_to_string(format!("/proc/sys/net/{file}")).ok()?.split_ascii_whitespace().last()?.parse().ok()
        };
        last("ipv4/tcp_rmem").max(last("core/rmem_max"))
    })?;
    // What it falls back to is the usual one.
    Ok(largest.filter(|n| *n > 0).map_or(7, |n| n.ilog2().saturating_sub(15).min(14)))
}

/// A moment: what the director and the kernel at its interface have counted.
struct Look {
    stats: Stats,
    frames: [[u64; 2]; 2],
}

impl Look {
    fn at(bed: &Testbed, alone: &mut Alone<'_>) -> Result<Self, SchemesError> {
        Ok(Look { stats: alone.director.stats()?, frames: frames(bed.director())? })
    }

    fn counted(&self) -> Counted {
        let mut sum = Counted::default();
        for service in &self.stats.services {
            for server in &service.servers {
                sum.to_servers += server.stats.bytes_in;
                sum.to_clients += server.stats.bytes_out;
            }
            let counts = service.content.as_ref().and_then(|content| content.counts.as_ref());
            let (guesses, pool, migrations) =
                counts.map_or((None, None, None), |c| (c.guesses.as_ref().map(|g| g.counts), c.pool, c.migrations));
            sum.add(guesses.unwrap_or_default(), pool.unwrap_or_default(), migrations.unwrap_or_default());
        }
        sum
    }
}

/// Frames and bytes that the kernel counted at a host's interface: received, sent.
fn frames(host: &Host) -> Result<[[u64; 2]; 2], SchemesError> {
    let text = host.run(|| fs::read_to_string("/proc/thread-self/net/dev"))?.map_err(Error::Client)?;
    read_frames(&text, ETH0).ok_or_else(|| {
        let what = "the counters of the director's interface";
        SchemesError::Real(Error::Late { what, log: text })
    })
}

/// Reads an interface's line of `/proc/net/dev`: received frames and bytes, sent ones.
fn read_frames(text: &str, interface: &str) -> Option<[[u64; 2]; 2]> {
    let (_, counts) =
        text.lines().find_map(|line| line.split_once(':').filter(|(name, _)| name.trim() == interface))?;
    let counts: Vec<u64> = counts.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect();
    // Eight columns of what was received, bytes first, and as many of what was sent.
    Some([[*counts.get(1)?, *counts.first()?], [*counts.get(9)?, *counts.get(8)?]])
}

/// Waits until nothing moves any more, or for as long as there is patience: filters' heartbeats never end.
fn settle(bed: &Testbed) -> Result<(), SchemesError> {
    let deadline = Instant::now() + SILENCE;
    let mut before = frames(bed.director())?;
    while Instant::now() < deadline {
        thread::sleep(Duration::from_millis(30));
        let now = frames(bed.director())?;
        if now == before {
            break;
        }
        before = now;
    }
    Ok(())
}

/// What came of clients whose every request was answered, by the server that its rule names.
fn whole(series: Series, point: Point, outcome: Outcome) -> Result<Outcome, SchemesError> {
    if let Some((path, server)) = outcome.misrouted {
        return Err(SchemesError::Misrouted { series, path, server });
    }
    if outcome.failed > 0 || outcome.times.is_empty() {
        let (failed, asked) = (outcome.failed, outcome.answered + outcome.failed);
        let first = outcome.first.unwrap_or_default();
        return Err(SchemesError::Lost { series, size: point.size, failed, asked, first });
    }
    Ok(outcome)
}

/// What a round has taken of a cell.
fn taken(
    (series, point): (Series, Point),
    load: &Load,
    options: &Options,
    outcome: Outcome,
    used: &Used,
    (before, after): (&Look, &Look),
) -> Result<Taken, SchemesError> {
    let (requests, connections) = (outcome.answered, outcome.times.len() as u64);
    let per = |n: u64, of: u64| n as f64 / of.max(1) as f64;
    let since = |side: usize, what: usize| after.frames[side][what].saturating_sub(before.frames[side][what]);
    let counted = after.counted().since(&before.counted());
    let begun = options.connections;
    let hits = if series == Series::Matching { begun } else { load.hits(begun) };
    let seen = Seen {
        connections,
        requests,
        failed: outcome.failed,
        strays: counted.strays(series, begun as u64, hits as u64, (begun * point.keepalive) as u64),
        response: Spread::of(outcome.times.clone()),
        requests_per_second: requests as f64 / outcome.took.as_secs_f64().max(1e-9),
        segments_in: per(since(0, 0), connections),
        segments_out: per(since(1, 0), connections),
        bytes_per_request: per(since(0, 1) + since(1, 1), requests),
        to_servers_per_request: per(counted.to_servers, requests),
        to_clients_per_request: per(counted.to_clients, requests),
        buffered_at_most: None,
    };
    let stages = before.stats.total.stages.iter().zip(&after.stats.total.stages);
    let stages = stages.map(|(b, a)| (a.name.clone(), a.cost.cycles.saturating_sub(b.cost.cycles))).collect();
    let cycles = after.stats.total.cycles.saturating_sub(before.stats.total.cycles);
    let each = |seconds: f64| seconds.max(0.0) * 1e6 / requests.max(1) as f64;
    let cpu = Some([each(used.process), each(used.kernel)]);
    Ok(Taken { seen, times: outcome.times, cycles, stages, cpu, note: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_in_which_a_request_failed_is_none() {
        let point = Point { size: 100, rules: 1, keepalive: 1 };
        let good = || Outcome { times: vec![5, 7], answered: 2, ..Outcome::default() };
        assert_eq!(whole(Series::Delayed, point, good()).unwrap().answered, 2);
        let failed = Outcome { failed: 1, first: Some("connect: timed out".into()), ..good() };
        let said = whole(Series::Delayed, point, failed).unwrap_err().to_string();
        assert!(said.contains("1 of 3 requests") && said.contains("timed out"), "{said}");
        let astray = Outcome { misrouted: Some(("/x".into(), "s2".into())), ..good() };
        assert!(whole(Series::Delayed, point, astray).unwrap_err().to_string().contains("answered by s2"));
    }

    #[test]
    fn an_interfaces_counters_are_read_whatever_stands_around_them() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs\n    \
                    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0\n  \
                    eth0:    1234      12    0    0    0     0          0         0     5678      34    0    0    0     0       0          0\n";
        assert_eq!(read_frames(text, "eth0"), Some([[12, 1234], [34, 5678]]));
        assert_eq!(read_frames(text, "eth1"), None);
        assert_eq!(read_frames("eth0: 1 2 3\n", "eth0"), None);
    }
}
