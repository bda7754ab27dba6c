//! `lcs perf connections`: what whole client connections cost the director, over the memory port.
//!
//! Handshake, requests, responses, close: both ends are played by a stateless responder that answers each frame of the
//! director as a kernel would; only the worker's turns are timed, so the ends cost nothing in the figures. The pipeline
//! is the one that `lcs run` uses.

use crate::neighbour::{Sharing, Watch};
use crate::range::{OutOfRange, in_range};
use crate::summary::Summary;
use hashbrown::HashMap;
use lcs_dataplane::cycles::{StageCost, Tsc, tsc, tsc_hz};
use lcs_dataplane::headers::MacAddr;
use lcs_dataplane::headers::build::{Packet, Transport};
use lcs_dataplane::headers::tcp::Tcp;
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use lcs_dataplane::port::Port;
use lcs_dataplane::port::memory::MemoryPort;
use lcs_dataplane::worker::Worker;
use lcs_pipelines::command::{Acknowledgement, Command, Report};
use lcs_pipelines::content::{self, Binding, Content, Group, SynPolicy};
use lcs_pipelines::extract::{Limits, Plan, Protocol};
use lcs_pipelines::layer4::{Layer4, STAGES};
use lcs_pipelines::matching::{self, Action, Expr, Relation, Rule, RuleSet, Stickiness, Term, Value, Variable};
use lcs_pipelines::snapshot::{Forward, Interface, NextHop, Scheduler, Server, ServerState, Service, Snapshot};
use lcs_pipelines::stages::connection::Settings;
use lcs_pipelines::stages::schedule::SharedCounts;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// How a connection finds its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// By its first SYN, without reading anything: layer-4 NAT.
    Nat,
    /// By its request: delayed binding and splice.
    Delayed,
}

/// What to measure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// How connections find their servers.
    pub scheme: Scheme,
    /// Connections a round.
    pub connections: usize,
    /// Connections that are open at once.
    pub at_once: usize,
    /// Requests of each connection; the server closes after the last.
    pub requests: usize,
    /// Whether every second request of a connection is for the other group.
    pub alternate: bool,
    /// Bytes of a request, head included.
    pub request: usize,
    /// Bytes of a response, head included.
    pub response: usize,
    /// Rounds.
    pub rounds: usize,
    /// Answer SYNs with cookies.
    pub cookies: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            scheme: Scheme::Delayed,
            connections: 20_000,
            at_once: 256,
            requests: 1,
            alternate: false,
            request: 1000,
            response: 1000,
            rounds: 11,
            cookies: false,
        }
    }
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionsError {
    /// A number out of its range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// Connections did not come to their end.
    #[error("{done} of {asked} responses arrived ({reasons}); the figures would not be of whole connections")]
    Lost {
        /// Responses that should have arrived.
        asked: usize,
        /// Responses that did.
        done: usize,
        /// What was dropped, by reason.
        reasons: String,
    },
    /// The rules of the bench do not compile.
    #[error("the bench's own rules do not compile: {0}")]
    Rules(#[from] matching::CompileError),
}

/// Cost of one stage.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StageFigure {
    /// Name.
    pub name: String,
    /// TSC cycles for each connection.
    pub cycles_per_connection: Summary,
}

/// What was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figures {
    /// What was asked.
    pub options: Options,
    /// TSC cycles a second.
    pub tsc_hz: u64,
    /// Stages, in the packet's order.
    pub stages: Vec<StageFigure>,
    /// The whole worker loop, timers included: TSC cycles a connection.
    pub cycles_per_connection: Summary,
    /// The same by whether the core was shared with another hardware thread; none where that can't be seen.
    #[serde(default)]
    pub sharing: Option<Sharing>,
    /// Thousands of connections a second on one core.
    pub thousand_connections_per_second: f64,
    /// Nanoseconds a request: the connection's cost over its requests.
    pub ns_per_request: Summary,
    /// Frames that the director received and sent, a connection.
    pub frames_per_connection: (f64, f64),
    /// Bytes of state that a connection has after its request is delivered: flow, index and splice.
    pub bytes_per_connection: f64,
}

pub(crate) const DIRECTOR: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const CLIENTS: u32 = 0x0a00_0001;
const SERVICE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const SERVERS: u32 = 0xac10_0001;
const START: u64 = 1_000_000_000;

/// A service with two groups of servers: what begins with `/images` goes to one, the rest to the other.
pub(crate) fn snapshot(scheme: Scheme, cookies: bool) -> Result<Snapshot, ConnectionsError> {
    let mut s = Snapshot {
        interfaces: vec![Interface { name: "memory0".into(), mac: DIRECTOR, mtu: 1500 }],
        ..Snapshot::default()
    };
    for n in 0..4u16 {
        s.next_hops.push(NextHop::new(MacAddr([2, 0, 0, 1, 0, n as u8]), DIRECTOR, 0, 1500));
        s.servers.push(Some(Server {
            name: format!("server{n}"),
            service: 0,
            address: IpAddr::V4(Ipv4Addr::from(SERVERS + u32::from(n))),
            port: 8080,
            forward: Forward::Nat,
            weight: 1,
            state: ServerState::Up,
            next_hop: n,
            tunnel_source: None,
        }));
    }
    let content = match scheme {
        Scheme::Nat => None,
        Scheme::Delayed => {
            let to = |group| Action::RouteTo { group, stickiness: Stickiness::Service };
            let images = Expr::Term(Term {
                variable: Variable::Url,
                relation: Relation::Prefix,
                value: Value::Text(b"/images".as_slice().into()),
                ignore_case: false,
            });
            let program = matching::compile(&RuleSet {
                rules: vec![
                    Rule { name: "images".into(), condition: images, action: to(1) },
                    Rule { name: "default".into(), condition: Expr::always(), action: to(0) },
                ],
            })?;
            let group = |name: &str, servers: &[u16]| Group {
                name: name.to_owned(),
                scheduler: Scheduler::Rr,
                servers: servers.to_vec(),
            };
            let syn = if cookies { SynPolicy::Cookie } else { SynPolicy::State };
            Some(Arc::new(Content {
                protocol: Protocol::Http,
                plan: Plan::new(&program, Limits::default()),
                program,
                groups: vec![group("pages", &[0, 1]), group("images", &[2, 3])],
                binding: Binding { syn, ..Binding::default() },
            }))
        }
    };
    s.by_endpoint.insert((IpAddr::V4(SERVICE), 80, 6), 0);
    s.own.insert(IpAddr::V4(SERVICE));
    s.services.push(Some(Service {
        name: "web".into(),
        address: IpAddr::V4(SERVICE),
        port: 80,
        protocol: 6,
        scheduler: Scheduler::Rr,
        servers: vec![0, 1, 2, 3],
        sources: vec![],
        source_ports: (1024, 65535),
        persistence: None,
        content,
    }));
    Ok(s)
}

/// Makes every service of a snapshot one that is switched by content, to the servers that it has, any of which is right.
pub(crate) fn switch_by_content(s: &mut Snapshot, scheme: content::Scheme, switching: content::Switching) {
    for service in s.services.iter_mut().flatten() {
        let action = Action::RouteTo { group: 0, stickiness: Stickiness::Service };
        let rules = RuleSet { rules: vec![Rule { name: "default".into(), condition: Expr::always(), action }] };
        // A set of one rule without terms always compiles.
        let Ok(program) = matching::compile(&rules) else { continue };
        let servers = service.servers.clone();
        service.content = Some(Arc::new(Content {
            protocol: Protocol::Http,
            plan: Plan::new(&program, Limits::default()),
            program,
            groups: vec![Group { name: "all".into(), scheduler: Scheduler::Rr, servers }],
            binding: Binding { scheme: scheme.clone(), switching, syn: SynPolicy::State, ..Binding::default() },
        }));
    }
}

/// A request and a response of these sizes, for a path.
fn messages(o: &Options) -> (Vec<[Vec<u8>; 2]>, [Vec<u8>; 2]) {
    let request = |path: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: lcs\r\nX-Padding: \r\n\r\n");
        let pad = "x".repeat(o.request.saturating_sub(head.len()));
        head.replace("X-Padding: ", &format!("X-Padding: {pad}")).into_bytes()
    };
    let response = |close: bool| {
        let close = if close { "Connection: close\r\n" } else { "" };
        let head = |n: usize| format!("HTTP/1.1 200 OK\r\nServer: bench\r\n{close}Content-Length: {n}\r\n\r\n");
        let body = o.response.saturating_sub(head(o.response).len());
        let mut bytes = head(body).into_bytes();
        bytes.resize(bytes.len() + body, b'y');
        bytes
    };
    (vec![[request("/index.html"), request("/images/1.gif")]], [response(false), response(true)])
}

/// Both ends of all connections: answers each frame of the director as the ends' kernels would.
pub(crate) struct Ends {
    requests: [Vec<u8>; 2],
    responses: [Vec<u8>; 2],
    alternate: bool,
    /// Requests that a client has still to send, by its endpoint; and the number of the one in turn.
    left: HashMap<SocketAddr, (usize, usize)>,
    /// By server and client: requests of the connection so far, to know the last.
    last: HashMap<SocketAddr, usize>,
    total: usize,
    /// Responses that have arrived.
    pub done: usize,
    /// Clients keep their connections after the first response, and this is what each would send with.
    held: Option<Vec<Held>>,
}

/// A client, its service, and the sequence and acknowledgement number of the client's next segment.
pub(crate) type Held = (SocketAddr, SocketAddr, u32, u32);

/// A segment of the director's.
pub(crate) struct Seen {
    /// Who has sent it.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// Its flags.
    pub flags: u8,
    /// Its numbers.
    pub seq: u32,
    pub ack: u32,
    /// Bytes of payload.
    pub payload: usize,
}

/// Reads an IPv4 frame that the director has sent.
pub(crate) fn seen(b: &[u8]) -> Option<Seen> {
    let l4 = b.get(34..)?;
    let total = usize::from(u16::from_be_bytes([*b.get(16)?, *b.get(17)?]));
    let t = Tcp::parse(l4.get(..total.checked_sub(20)?)?).ok()?;
    let ip = |at: usize| Ipv4Addr::new(b[at], b[at + 1], b[at + 2], b[at + 3]);
    Some(Seen {
        from: SocketAddr::new(IpAddr::V4(ip(26)), t.source_port()),
        to: SocketAddr::new(IpAddr::V4(ip(30)), t.destination_port()),
        flags: t.flags(),
        seq: t.seq().0,
        ack: t.ack().0,
        payload: t.payload().len(),
    })
}

/// Connections of one client's address.
const OF_A_CLIENT: usize = 50_000;

/// The client of the connection of this number, and the service.
pub(crate) fn client(k: usize) -> (SocketAddr, SocketAddr) {
    let client = Ipv4Addr::from(CLIENTS + (k / OF_A_CLIENT) as u32);
    let client = SocketAddr::new(IpAddr::V4(client), 1024 + (k % OF_A_CLIENT) as u16);
    (client, SocketAddr::new(IpAddr::V4(SERVICE), 80))
}

/// The number of a client's connection; `None` for whoever is no client.
pub(crate) fn number(client: SocketAddr) -> Option<usize> {
    let IpAddr::V4(address) = client.ip() else { return None };
    let (address, port) = (u32::from(address).checked_sub(CLIENTS)?, client.port().checked_sub(1024)?);
    (address < 1 << 20).then(|| address as usize * OF_A_CLIENT + usize::from(port))
}

/// A frame toward the director.
pub(crate) fn frame(from: SocketAddr, to: SocketAddr, flags: u8, seq: u32, ack: u32, payload: &[u8]) -> Vec<u8> {
    let options = if flags & SYN != 0 { vec![2, 4, 5, 0xb4, 1, 1, 4, 2, 1, 3, 3, 7] } else { vec![] };
    let mut p = Packet { destination_mac: DIRECTOR, ..Packet::tcp(from, to, flags) }.payload(payload);
    // A SYN's window is not scaled; 512 << 7 is 64 KiB.
    let window = if flags & SYN != 0 { 65_535 } else { 512 };
    p.transport = Transport::Tcp { flags, seq, ack, window, options };
    p.frame()
}

impl Ends {
    /// Ends that have no connection yet.
    pub fn new(o: &Options) -> Self {
        let (mut requests, responses) = messages(o);
        Ends {
            requests: requests.remove(0),
            responses,
            alternate: o.alternate,
            left: HashMap::new(),
            last: HashMap::new(),
            total: o.requests,
            done: 0,
            held: None,
        }
    }

    /// A client will open a connection with so many requests.
    pub fn expect(&mut self, client: SocketAddr, requests: usize) {
        self.left.insert(client, (requests, 0));
        self.last.remove(&client);
    }

    /// From now on connections have so many requests, and clients wait after their first response.
    pub fn hold(&mut self, requests: usize) {
        self.total = requests;
        self.held = Some(vec![]);
    }

    /// Clients wait no longer; who waited is returned, for its next request to be sent.
    pub fn release(&mut self) -> Vec<Held> {
        self.held.take().unwrap_or_default()
    }

    /// A client's request.
    pub fn request(&self) -> &[u8] {
        &self.requests[0]
    }

    /// Forgets connections that did not come to their end.
    pub fn forget(&mut self) {
        self.left.clear();
        self.last.clear();
    }

    /// What the end that gets `b` sends for it.
    pub fn answer(&mut self, b: &[u8], mut send: impl FnMut(Vec<u8>)) {
        let Some(s) = seen(b) else { return };
        let fin = s.flags & FIN != 0;
        let end = s.seq.wrapping_add(s.payload as u32).wrapping_add(u32::from(fin));
        if s.flags & RST != 0 {
            return;
        }
        if matches!(s.to.ip(), IpAddr::V4(a) if u32::from(a) >> 16 == SERVERS >> 16) {
            // The server's kernel.
            if s.flags & SYN != 0 {
                send(frame(s.to, s.from, SYN | ACK, s.seq ^ 0x5a5a_0000, s.seq.wrapping_add(1), &[]));
            } else if s.payload > 0 {
                let n = self.last.entry(s.from).or_insert(0);
                *n += 1;
                let last = *n >= self.total;
                let flags = ACK | PSH | if last { FIN } else { 0 };
                send(frame(s.to, s.from, flags, s.ack, end, &self.responses[usize::from(last)]));
            } else if fin {
                send(frame(s.to, s.from, ACK, s.ack, end, &[]));
            }
            return;
        }
        // The client's.
        if s.flags & SYN != 0 {
            let (seq, ack) = (s.ack, s.seq.wrapping_add(1));
            send(frame(s.to, s.from, ACK, seq, ack, &[]));
            send(frame(s.to, s.from, ACK | PSH, seq, ack, &self.requests[0]));
            return;
        }
        if s.payload > 0 {
            self.done += 1;
            let Some((left, turn)) = self.left.get_mut(&s.to) else { return };
            *left = left.saturating_sub(1);
            if *left > 0 && !fin {
                if let Some(held) = &mut self.held {
                    held.push((s.to, s.from, s.ack, end));
                    send(frame(s.to, s.from, ACK, s.ack, end, &[]));
                    return;
                }
                *turn += 1;
                let which = usize::from(self.alternate && *turn % 2 == 1);
                send(frame(s.to, s.from, ACK | PSH, s.ack, end, &self.requests[which]));
                return;
            }
        }
        if fin {
            self.left.remove(&s.to);
            self.last.remove(&s.to);
            send(frame(s.to, s.from, ACK | FIN, s.ack, end, &[]));
        } else if s.payload > 0 {
            send(frame(s.to, s.from, ACK, s.ack, end, &[]));
        }
    }
}

struct Bench {
    worker: Worker<MemoryPort, Layer4, Tsc>,
    ends: Ends,
    options: Options,
    next: usize,
    now: u64,
    cycles: u64,
    wire: Vec<Vec<u8>>,
}

impl Bench {
    fn new(o: &Options) -> Result<Self, ConnectionsError> {
        let port = MemoryPort::new(1, (o.at_once * 8).max(1024));
        let settings = Settings {
            flows: o.connections * 3 + o.at_once * 4,
            fragments: 64,
            seed: 1,
            worker: 0,
            workers: 1,
            capabilities: port.capabilities(),
        };
        let mut worker = Worker::new(port, Layer4::new(settings, Arc::new(SharedCounts::new(1, 4)), START), Tsc);
        worker.command(Command::Install(Arc::new(snapshot(o.scheme, o.cookies)?)), START);
        let ends = Ends::new(o);
        Ok(Bench { worker, ends, options: o.clone(), next: 0, now: START, cycles: 0, wire: vec![] })
    }

    /// Puts what the ends have sent on the wire, runs the worker over it, and lets the ends answer. `false` when all is quiet.
    fn exchange(&mut self) -> bool {
        let sent = std::mem::take(&mut self.wire);
        for frame in &sent {
            let _ = self.worker.port_mut().inject(0, frame);
        }
        self.now += 100_000;
        while self.worker.port().waiting() > 0 {
            let begin = tsc();
            self.worker.poll(self.now);
            self.cycles += tsc().wrapping_sub(begin);
        }
        let begin = tsc();
        self.worker.between(self.now);
        self.cycles += tsc().wrapping_sub(begin);
        let (ends, wire) = (&mut self.ends, &mut self.wire);
        self.worker.port_mut().take_sent(|_, b| ends.answer(b, |f| wire.push(f)));
        !self.wire.is_empty()
    }

    /// Opens connections, so many at once, and carries them to their end. Returns cycles a connection.
    fn round(&mut self) -> Result<f64, ConnectionsError> {
        let o = self.options.clone();
        self.cycles = 0;
        let asked = o.connections * o.requests;
        self.ends.done = 0;
        let mut opened = 0;
        while opened < o.connections {
            let n = o.at_once.min(o.connections - opened);
            for _ in 0..n {
                let k = self.next;
                self.next += 1;
                let (client, service) = client(k);
                self.ends.expect(client, o.requests);
                self.wire.push(frame(client, service, SYN, k as u32 * 7919, 0, &[]));
            }
            opened += n;
            // A connection takes some ten exchanges and each request two; more is a dialogue that does not end.
            let most = 100 + 10 * o.requests;
            if !(0..most).any(|_| !self.exchange()) {
                break;
            }
        }
        let cycles = self.cycles;
        let done = self.ends.done;
        if done < asked {
            let counters = self.worker.counters();
            let reasons: Vec<String> = lcs_dataplane::DropReason::ALL
                .iter()
                .filter(|r| counters.dropped_for(**r) > 0)
                .map(|r| format!("{r}: {}", counters.dropped_for(*r)))
                .collect();
            return Err(ConnectionsError::Lost { asked, done, reasons: reasons.join(", ") });
        }
        // What is left in TIME-WAIT goes before the next round, untimed.
        self.now += 200_000_000_000;
        while self.worker.pipeline().flows() > 0 {
            self.worker.between(self.now);
            self.now += 1_000_000;
        }
        self.worker.port_mut().take_sent(|_, _| {});
        Ok(cycles as f64 / o.connections as f64)
    }

    fn report(&mut self) -> Box<Report> {
        match self.worker.command(Command::Report(Box::default()), self.now) {
            Acknowledgement::Report(report) => report,
            _ => Box::default(),
        }
    }
}

/// Measures. `progress` is told what is being done.
///
/// # Errors
/// Options out of range, or connections that did not come to their end.
pub fn measure(o: &Options, mut progress: impl FnMut(&str)) -> Result<Figures, ConnectionsError> {
    in_range("--connections", o.connections, 1, 10_000_000)?;
    in_range("--at-once", o.at_once, 1, 20_000)?;
    in_range("--requests", o.requests, 1, 100_000)?;
    in_range("--request", o.request, 120, 1400)?;
    in_range("--response", o.response, 120, 1400)?;
    in_range("--rounds", o.rounds, 1, 10_000)?;
    let hz = tsc_hz();
    let mut bench = Bench::new(o)?;
    progress("warming up");
    bench.round()?;
    let names: Vec<&str> = std::iter::once("receive").chain(STAGES).chain(std::iter::once("transmit")).collect();
    let costs = |r: &Report| -> Vec<StageCost> {
        let inner = r.stages.iter().map(|(_, c)| *c);
        std::iter::once(r.counters.receive).chain(inner).chain(std::iter::once(r.counters.transmit)).collect()
    };
    let mut whole = vec![];
    let mut watch = Watch::default();
    let mut stages: Vec<Vec<f64>> = vec![vec![]; names.len()];
    let mut frames = (0.0, 0.0);
    for round in 0..o.rounds {
        progress(&format!("round {} of {}", round + 1, o.rounds));
        let before = bench.report();
        whole.push(watch.round(|| bench.round())?);
        let after = bench.report();
        let n = o.connections as f64;
        for ((into, b), a) in stages.iter_mut().zip(costs(&before)).zip(costs(&after)) {
            into.push(a.since(&b).cycles as f64 / n);
        }
        let made = after.content.segments_made - before.content.segments_made;
        frames = (
            (after.counters.received - before.counters.received) as f64 / n,
            (after.counters.forwarded - before.counters.forwarded + made) as f64 / n,
        );
    }
    let report = bench.report();
    let per_flow = report.memory.map_or(0.0, |m| (m.entries + m.index) as f64 / report.capacity as f64);
    let splice = if o.scheme == Scheme::Delayed { lcs_pipelines::SPLICE_BYTES } else { 0 };
    let sharing = watch.sort(&whole);
    let cycles = Summary::of(whole);
    Ok(Figures {
        options: o.clone(),
        tsc_hz: hz,
        stages: names
            .iter()
            .zip(stages)
            .map(|(name, v)| StageFigure { name: (*name).to_owned(), cycles_per_connection: Summary::of(v) })
            .collect(),
        thousand_connections_per_second: hz as f64 / cycles.median / 1e3,
        ns_per_request: cycles.scaled(1e9 / hz as f64 / o.requests as f64),
        cycles_per_connection: cycles,
        sharing,
        frames_per_connection: frames,
        bytes_per_connection: per_flow + splice as f64,
    })
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let o = &self.options;
        writeln!(
            f,
            "{}: connections with {} request(s) of {} B and response(s) of {} B{}, {} at once, {} rounds of {}{}",
            match o.scheme {
                Scheme::Nat => "layer-4 NAT",
                Scheme::Delayed => "delayed binding",
            },
            o.requests,
            o.request,
            o.response,
            if o.alternate { ", to two groups in turn" } else { "" },
            o.at_once,
            o.rounds,
            o.connections,
            if o.cookies { ", SYN cookies" } else { "" },
        )?;
        writeln!(f, "TSC {:.3} GHz; cycles are TSC cycles; median (quartiles)", self.tsc_hz as f64 / 1e9)?;
        writeln!(f, "\n{:<12} {:>17} {:>20} {:>8}", "stage", "cycles/connection", "quartiles", "share")?;
        for stage in &self.stages {
            let s = &stage.cycles_per_connection;
            let share = 100.0 * s.median / self.cycles_per_connection.median;
            let quartiles = format!("{:.0} – {:.0}", s.quartiles.0, s.quartiles.1);
            writeln!(f, "{:<12} {:>17.0} {quartiles:>20} {share:>7.1}%", stage.name, s.median)?;
        }
        let s = &self.cycles_per_connection;
        let quartiles = format!("{:.0} – {:.0}", s.quartiles.0, s.quartiles.1);
        writeln!(f, "{:<12} {:>17.0} {quartiles:>20} {:>7.1}%", "whole loop", s.median, 100.0)?;
        if let Some(sharing) = &self.sharing {
            writeln!(f, "{sharing}")?;
        }
        let n = &self.ns_per_request;
        writeln!(f, "\n{:.0} thousand connections/s on one core", self.thousand_connections_per_second)?;
        writeln!(f, "{:.0} ns a request ({:.0} – {:.0})", n.median, n.quartiles.0, n.quartiles.1)?;
        writeln!(
            f,
            "{:.1} frames received and {:.1} sent a connection",
            self.frames_per_connection.0, self.frames_per_connection.1
        )?;
        write!(f, "state after the request: {:.1} bytes a connection", self.bytes_per_connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_response_of_the_bench_arrives() {
        for (scheme, requests, alternate, cookies) in [
            (Scheme::Nat, 1, false, false),
            (Scheme::Delayed, 1, false, false),
            (Scheme::Delayed, 1, false, true),
            (Scheme::Delayed, 8, false, false),
            (Scheme::Delayed, 8, true, false),
        ] {
            let o = Options {
                scheme,
                connections: 300,
                at_once: 50,
                requests,
                alternate,
                cookies,
                rounds: 1,
                ..Options::default()
            };
            let f = measure(&o, |_| {}).unwrap_or_else(|e| panic!("{o:?}: {e}"));
            assert!(f.cycles_per_connection.median > 0.0);
        }
    }
}
