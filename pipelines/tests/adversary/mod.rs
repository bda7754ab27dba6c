//! Clients and servers that send what they like, at connections that are switched by content. Used by the property test, the fuzz
//! target `splice` and the replay of its corpus.
//!
//! A program is a sequence of four bytes: what, who, and two arguments. Segments are built around the numbers that the
//! director has shown, so that most of them mean something; arguments move them away from there.
#![allow(dead_code)]

use lcs_dataplane::cycles::NoMeter;
use lcs_dataplane::headers::MacAddr;
use lcs_dataplane::headers::build::{Packet, Transport};
use lcs_dataplane::headers::tcp::Tcp;
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use lcs_dataplane::headers::{Kind, parse};
use lcs_dataplane::port::Port;
use lcs_dataplane::port::memory::MemoryPort;
use lcs_dataplane::worker::Worker;
use lcs_pipelines::command::{Acknowledgement, Command, Report};
use lcs_pipelines::content::{Binding, Content, Group, Guess, OnUnparsed, Pool, Scheme, Switching, SynPolicy};
use lcs_pipelines::extract::{Limits, Plan, Protocol};
use lcs_pipelines::layer4::Layer4;
use lcs_pipelines::matching::ir::DocPath;
use lcs_pipelines::matching::{self, Action, Expr, Relation, Rule, RuleSet, Stickiness, Term, Value, Variable};
use lcs_pipelines::snapshot::*;
use lcs_pipelines::stages::connection::Settings;
use lcs_pipelines::stages::schedule::SharedCounts;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

const DIRECTOR: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xd]);
const START: u64 = 1_000_000_000;
const BUFFERS: usize = 256;
const FLOWS: usize = 24;

/// What clients and servers say.
const REQUESTS: &[&[u8]] = &[
    b"GET /index.html HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /images/1.gif HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /images/1.gif HTTP/1.1\r\nHost: a\r\n\r\nGET /index.html HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /no HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD /images/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"POST /o HTTP/1.1\r\nHost: a\r\nContent-Type: text/xml\r\nContent-Length: 13\r\n\r\n<a><b>9</b></a>",
    b"POST /o HTTP/1.1\r\nHost: a\r\nContent-Type: text/xml\r\nExpect: 100-continue\r\nContent-Length: 15\r\n\r\n",
    b"<a><b>9</b></a>",
    b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n",
    b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    b"3\r\nabc\r\n0\r\n\r\n",
    b"POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r\n\r\nEHLO x\r\n",
    b"EHLO client\r\nMAIL FROM:<a@b>\r\n",
    b"RCPT TO:<c@d>\r\n",
    b"QUIT\r\n",
    b"G",
    b"ET / HTTP/1.1\r\nHost: a\r\n",
    b"\r\n",
];
const RESPONSES: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n",
    b"xxxxxxxxxxxxxxxxxxxx",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 304 Not Modified\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n",
    b"nonsense\n",
    b"220 server\r\n",
    b"250-a\r\n250 b\r\n",
    b"250 ok\r\n",
    b"554 no\r\n",
];

#[derive(Debug, Clone, Copy)]
struct End {
    me: SocketAddr,
    peer: SocketAddr,
    /// Next number to send; next one expected.
    next: u32,
    expected: u32,
}

struct Stage {
    worker: Worker<MemoryPort, Layer4, NoMeter>,
    snapshot: Snapshot,
    clients: BTreeMap<(SocketAddr, SocketAddr), End>,
    servers: BTreeMap<(SocketAddr, SocketAddr), End>,
    now: u64,
    last: Vec<u8>,
    generation: u64,
}

fn content(
    protocol: Protocol,
    servers: [u16; 2],
    syn: SynPolicy,
    on_unparsed: OnUnparsed,
    scheme: Scheme,
) -> Arc<Content> {
    let term = |variable, relation, value| Expr::Term(Term { variable, relation, value, ignore_case: false });
    let to = |group, stickiness| Action::RouteTo { group, stickiness };
    let prefix = |p: &str| term(Variable::Url, Relation::Prefix, Value::Text(p.as_bytes().into()));
    let rule = |name: &str, condition, action| Rule { name: name.into(), condition, action };
    let path = DocPath::parse("a/b").unwrap();
    let rules = match protocol {
        Protocol::Smtp => vec![
            rule(
                "to",
                term(Variable::SmtpTo, Relation::Eq, Value::Text(b"c@d".as_slice().into())),
                to(1, Stickiness::Service),
            ),
            rule("default", Expr::always(), to(0, Stickiness::Service)),
        ],
        _ => vec![
            rule("no", prefix("/no"), Action::Reject { status: Some(403) }),
            rule("images", prefix("/images"), to(1, Stickiness::Sticky)),
            rule(
                "xml",
                term(Variable::Xml(path), Relation::Gt, Value::Number(matching::Number::from(5u64))),
                Action::LoadBalance { group: 1, algorithm: "wlc".into() },
            ),
            rule("default", Expr::always(), to(0, Stickiness::Service)),
        ],
    };
    let program = matching::compile(&RuleSet { rules }).unwrap();
    let group = |name: &str, s: u16| Group { name: name.into(), scheduler: Scheduler::Rr, servers: vec![s] };
    let switching = if protocol == Protocol::Http { Switching::Request } else { Switching::Connection };
    Arc::new(Content {
        protocol,
        plan: Plan::new(&program, Limits { head: 400, body: 200, hello: 400 }),
        program,
        groups: vec![group("g0", servers[0]), group("g1", servers[1])],
        binding: Binding { scheme, syn, switching, on_unparsed, syn_retries: 1, ..Binding::default() },
    })
}

fn snapshot() -> Snapshot {
    let mut s = Snapshot {
        interfaces: vec![Interface { name: "if0".into(), mac: DIRECTOR, mtu: 1500 }],
        when_full: WhenFull::EvictHalfOpen,
        ..Snapshot::default()
    };
    let sites = [
        ("198.51.100.1:80", "10.0.0", Forward::Nat, Protocol::Http, SynPolicy::State, OnUnparsed::Reset),
        ("198.51.100.2:80", "10.0.1", Forward::FullNat, Protocol::Http, SynPolicy::Cookie, OnUnparsed::Default),
        ("198.51.100.3:25", "10.0.2", Forward::Nat, Protocol::Smtp, SynPolicy::Auto, OnUnparsed::Default),
        ("[2001:db8::1]:80", "fd00:", Forward::Nat, Protocol::Http, SynPolicy::Auto, OnUnparsed::Reset),
        ("198.51.100.5:80", "10.0.4", Forward::Nat, Protocol::Http, SynPolicy::State, OnUnparsed::Reset),
        ("198.51.100.6:443", "10.0.5", Forward::FullNat, Protocol::Tls, SynPolicy::State, OnUnparsed::Reset),
        ("198.51.100.7:80", "10.0.6", Forward::FullNat, Protocol::Http, SynPolicy::State, OnUnparsed::Reset),
    ];
    // So small that every limit is met.
    let pool = Pool {
        idle: 1,
        most: 2,
        idle_timeout: Duration::from_millis(300),
        lifetime: Duration::from_secs(2),
        requests: 5,
        probe: Duration::from_millis(200),
        mss: 536,
    };
    for (n, (at, net, forward, protocol, syn, on_unparsed)) in sites.into_iter().enumerate() {
        let scheme = match n {
            4 | 5 => Scheme::Preallocate(Guess::Hash),
            6 => Scheme::Pooled(pool.clone()),
            _ => Scheme::Delayed,
        };
        let at: SocketAddr = at.parse().unwrap();
        let dot = if at.is_ipv6() { ":" } else { "." };
        let slots = [2 * n as u16, 2 * n as u16 + 1];
        for k in 1..=2 {
            s.servers.push(Some(Server {
                name: format!("s{n}{k}"),
                service: n as u16,
                address: format!("{net}{dot}{k}").parse().unwrap(),
                port: 8080,
                forward,
                weight: 1,
                state: ServerState::Up,
                next_hop: s.next_hops.len() as u16,
                tunnel_source: None,
            }));
            s.next_hops.push(NextHop::new(MacAddr([2, 0, 0, 1, n as u8, k]), DIRECTOR, 0, 1500));
        }
        s.by_endpoint.insert((at.ip(), at.port(), 6), n as u16);
        s.own.insert(at.ip());
        s.services.push(Some(Service {
            name: format!("v{n}"),
            address: at.ip(),
            port: at.port(),
            protocol: 6,
            scheduler: Scheduler::Rr,
            servers: slots.to_vec(),
            sources: if forward == Forward::FullNat { vec!["10.9.0.1".parse().unwrap()] } else { vec![] },
            source_ports: (2000, 2030),
            persistence: None,
            content: Some(content(protocol, slots, syn, on_unparsed, scheme)),
        }));
    }
    s
}

fn frame(e: &End, flags: u8, seq: u32, ack: u32, window: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut p = Packet { destination_mac: DIRECTOR, ..Packet::tcp(e.me, e.peer, flags) }.payload(payload);
    p.transport = Transport::Tcp { flags, seq, ack, window, options: options.to_vec() };
    p.frame()
}

/// Moves a number as an argument says: most often not at all.
fn moved(number: u32, how: u8) -> u32 {
    match how >> 4 {
        0..=9 => number,
        10 => number.wrapping_sub(1),
        11 => number.wrapping_add(1),
        12 => number.wrapping_sub(u32::from(how & 15) * 7),
        13 => number.wrapping_add(u32::from(how & 15) * 7),
        14 => number.wrapping_add(0x8000_0000),
        _ => number ^ 0x1234_5678,
    }
}

const FLAGS: [u8; 16] = [
    ACK,
    ACK | PSH,
    ACK | PSH,
    ACK,
    ACK | PSH,
    ACK | FIN,
    FIN,
    RST,
    RST | ACK,
    SYN,
    SYN | ACK,
    SYN | FIN,
    0,
    ACK | PSH | FIN,
    ACK | PSH,
    0xff,
];
const OPTIONS: [&[u8]; 4] =
    [&[], &[], &[1, 1, 5, 10, 0, 0, 0, 9, 0, 0, 0, 20], &[2, 4, 5, 0xb4, 3, 3, 7, 0, 4, 2, 8, 10]];
const WINDOWS: [u16; 4] = [65_535, 512, 0, 3];

impl Stage {
    fn new() -> Self {
        let port = MemoryPort::new(1, BUFFERS);
        let settings =
            Settings { flows: FLOWS, fragments: 4, seed: 7, worker: 0, workers: 1, capabilities: port.capabilities() };
        let mut worker = Worker::new(port, Layer4::new(settings, Arc::new(SharedCounts::new(1, 16)), START), NoMeter);
        let mut snapshot = snapshot();
        // The pool is filled once the control thread gives its service back.
        for pooled in snapshot.services.iter_mut().skip(6).flatten() {
            pooled.content = None;
        }
        worker.command(Command::Install(Arc::new(snapshot.clone())), START);
        Stage {
            worker,
            snapshot,
            clients: BTreeMap::new(),
            servers: BTreeMap::new(),
            now: START,
            last: vec![],
            generation: 0,
        }
    }

    fn put(&mut self, frame: Vec<u8>) {
        let _ = self.worker.port_mut().inject(0, &frame);
        self.last = frame;
        self.turn();
    }

    /// One turn, and what the ends learn from what the director sends.
    fn turn(&mut self) {
        self.worker.poll(self.now);
        self.worker.between(self.now);
        let mut seen: Vec<Vec<u8>> = vec![];
        self.worker.port_mut().take_sent(|_, b| seen.push(b.to_vec()));
        for b in seen {
            self.learn(&b);
        }
        // Damage may make a fragment of a frame, which waits for its first one for three seconds.
        let held = self.worker.counters().held as usize;
        let pool = self.worker.port().pool();
        assert_eq!((pool.free, pool.held), (pool.total - held, held), "a buffer is lost");
    }

    fn learn(&mut self, b: &[u8]) {
        let parsed = parse(b, true).expect("the director sends well-formed frames");
        if !matches!(parsed.kind, Kind::Transport4 | Kind::Transport6) {
            return;
        }
        let bytes = &b[usize::from(parsed.l4)..usize::from(parsed.end)];
        let t = Tcp::parse(bytes).expect("the director sends well-formed segments");
        let ip = |at: usize, n: usize| -> IpAddr {
            let l3 = usize::from(parsed.l3);
            match b[l3 + at..l3 + at + n] {
                [a, b, c, d] => IpAddr::from([a, b, c, d]),
                ref long => IpAddr::from(<[u8; 16]>::try_from(long).unwrap()),
            }
        };
        let (from, to) = if parsed.kind == Kind::Transport4 { (ip(12, 4), ip(16, 4)) } else { (ip(8, 16), ip(24, 16)) };
        let (from, to) = (SocketAddr::new(from, t.source_port()), SocketAddr::new(to, t.destination_port()));
        let counted = u32::from(t.flags() & SYN != 0) + u32::from(t.flags() & FIN != 0);
        let end = t.seq().0.wrapping_add(t.payload().len() as u32).wrapping_add(counted);
        let toward_server = self.snapshot.servers.iter().flatten().any(|s| s.address == to.ip());
        let ends = if toward_server { &mut self.servers } else { &mut self.clients };
        let e = ends.entry((to, from)).or_insert(End { me: to, peer: from, next: 0xffff_fff0, expected: end });
        e.expected = end;
        if t.flags() & ACK != 0 && toward_server {
            e.next = t.ack().0;
        }
        while self.servers.len() > 32 {
            self.servers.pop_first();
        }
    }

    fn report(&mut self) -> Box<Report> {
        match self.worker.command(Command::Report(Box::default()), self.now) {
            Acknowledgement::Report(r) => r,
            other => panic!("a report was asked for, not {other:?}"),
        }
    }

    fn client(&mut self, who: u8) -> (SocketAddr, SocketAddr) {
        let service = usize::from(who & 7) % self.snapshot.services.len();
        let to = self.snapshot.services[service].as_ref().map(|s| SocketAddr::new(s.address, s.port)).unwrap();
        let port = 0x3e8 + u16::from(who >> 3 & 7);
        let me = if to.is_ipv6() { "2001:db8:9::1".parse().unwrap() } else { IpAddr::from([192, 0, 2, 1]) };
        (SocketAddr::new(me, port), to)
    }

    fn step(&mut self, [what, who, a, b]: [u8; 4]) {
        match what % 8 {
            0 => {
                let (me, peer) = self.client(who);
                let isn = [1, 0xffff_fff0, 0x7fff_ffff, 77][usize::from(a & 3)];
                let e = End { me, peer, next: u32::wrapping_add(isn, 1), expected: 0 };
                self.clients.insert((me, peer), e);
                let options: &[u8] = if b & 1 == 0 { &[2, 4, 5, 0xb4, 1, 3, 3, 7, 1, 1, 4, 2] } else { &[] };
                self.put(frame(&e, SYN, isn, 0, WINDOWS[usize::from(b >> 1 & 3)], options, &[]));
            }
            1 | 2 => {
                let (me, peer) = self.client(who);
                let Some(e) = self.clients.get(&(me, peer)).copied() else { return };
                let flags = FLAGS[usize::from(a & 15)];
                let payload = if what % 8 == 1 { REQUESTS[usize::from(b) % REQUESTS.len()] } else { &[] };
                let (seq, ack) = (moved(e.next, a), moved(e.expected, if what % 8 == 2 { b } else { 0 }));
                let window = if what % 8 == 2 { WINDOWS[usize::from(b & 3)] } else { 512 };
                self.put(frame(&e, flags, seq, ack, window, OPTIONS[usize::from(a & 3)], payload));
                if a >> 4 < 10 && flags & (SYN | RST) == 0 {
                    let e = self.clients.entry((me, peer)).or_insert(e);
                    e.next = e.next.wrapping_add(payload.len() as u32 + u32::from(flags & FIN != 0));
                }
            }
            3 | 4 => {
                let n = self.servers.len();
                if n == 0 {
                    return;
                }
                let Some((key, e)) = self.servers.iter().nth(usize::from(who) % n).map(|(k, e)| (*k, *e)) else {
                    return;
                };
                let flags = if what % 8 == 4 && a & 15 == 0 { SYN | ACK } else { FLAGS[usize::from(a & 15)] };
                let payload = if what % 8 == 3 { RESPONSES[usize::from(b) % RESPONSES.len()] } else { &[] };
                let syn = flags & SYN != 0;
                let seq = if syn { e.next.wrapping_sub(1) } else { moved(e.next, a) };
                let options: &[u8] = if syn { &[2, 4, 5, 0xb4] } else { OPTIONS[usize::from(b & 3)] };
                let ack = moved(e.expected, if what % 8 == 4 { b } else { 0 });
                self.put(frame(&e, flags, seq, ack, WINDOWS[usize::from(b >> 2 & 3)], options, payload));
                if a >> 4 < 10 && flags & (SYN | RST) == 0 {
                    let e = self.servers.entry(key).or_insert(e);
                    e.next = e.next.wrapping_add(payload.len() as u32 + u32::from(flags & FIN != 0));
                }
            }
            5 => {
                self.now +=
                    [1_000_000, 210_000_000, 1_100_000_000, 11_000_000_000, 130_000_000_000][usize::from(a % 5)];
                self.turn();
            }
            6 => {
                // The control thread changes its mind.
                self.generation += 1;
                self.snapshot.generation = self.generation;
                let service = usize::from(who & 7) % self.snapshot.services.len();
                let slots = [2 * service as u16, 2 * service as u16 + 1];
                match a % 5 {
                    0 => {
                        let fresh = snapshot();
                        self.snapshot.services[service] = fresh.services[service].clone();
                        self.snapshot.servers = fresh.servers;
                    }
                    1 => {
                        if let Some(s) = &mut self.snapshot.services[service] {
                            s.content = None;
                        }
                    }
                    2 => {
                        if let Some(s) = &mut self.snapshot.servers[usize::from(slots[usize::from(b & 1)])] {
                            s.state = if b & 2 == 0 { ServerState::Draining } else { ServerState::Up };
                        }
                    }
                    3 => self.snapshot.servers[usize::from(slots[usize::from(b & 1)])] = None,
                    _ => {}
                }
                self.worker.command(Command::Install(Arc::new(self.snapshot.clone())), self.now);
            }
            _ => {
                // The last frame again, damaged or whole.
                let mut frame = self.last.clone();
                if let Some(byte) = frame.get_mut(14 + usize::from(a)) {
                    *byte ^= b;
                }
                self.put(frame);
            }
        }
        let report = self.report();
        let c = &report.content;
        assert!(c.binding <= c.connections && c.connections <= report.flows, "{c:?}, {} flows", report.flows);
        assert!(c.buffered <= FLOWS * 4096, "{c:?}");
    }

    /// When nobody sends any more, everything ends.
    fn end(&mut self) {
        for _ in 0..3000 {
            self.now += 2_000_000_000;
            self.turn();
            if self.worker.pipeline().flows() == 0 {
                break;
            }
        }
        assert_eq!(self.worker.counters().held, 0, "a frame waits for ever");
        let report = self.report();
        let c = &report.content;
        assert_eq!(
            (report.flows, c.connections, c.binding, c.following, c.buffered),
            (0, 0, 0, 0, 0),
            "something never ends"
        );
    }
}

/// What a program has reached, to see that programs reach anything.
#[derive(Debug, Default, Clone, Copy)]
pub struct Reached {
    /// Requests that a rule has taken.
    pub decided: u64,
    /// Frames forwarded.
    pub forwarded: u64,
    /// Requests that went on over a connection that was there.
    pub reused: u64,
}

/// Runs a program.
pub fn run(program: &[u8]) {
    reached(program);
}

/// Runs a program and says what it has reached.
pub fn reached(program: &[u8]) -> Reached {
    let mut stage = Stage::new();
    let (steps, _) = program.as_chunks::<4>();
    for step in steps.iter().take(400) {
        stage.step(*step);
    }
    let report = stage.report();
    stage.end();
    Reached {
        decided: report.content.services.iter().flatten().flat_map(|tally| &tally.rules).sum(),
        forwarded: report.counters.forwarded,
        reused: report.content.reused,
    }
}

/// Programs to begin with: whole exchanges.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![];
    for service in 0..4u8 {
        for (request, response) in [(0u8, 0u8), (1, 4), (2, 0), (5, 0), (6, 3), (8, 6), (10, 5), (13, 7), (15, 10)] {
            let mut p = vec![0, service, 1, 0, 2, service, 0, 0, 1, service, 1, request, 4, 0, 0, 0, 3, 0, 1, response];
            p.extend([2, service, 0, 0, 1, service, 1, request + 1, 4, 1, 0, 0, 3, 0, 1, response, 3, 1, 1, response]);
            p.extend([5, 0, 1, 0, 2, service, 5, 0, 4, 0, 5, 0, 4, 1, 5, 0]);
            seeds.push(p);
        }
    }
    // Over a pool: a request on a connection that was opened ahead, one on the same from another client, the server's end.
    for (request, response) in [(0u8, 0u8), (1, 4), (2, 0), (5, 0), (8, 6)] {
        let mut p = vec![6, 6, 0, 0, 5, 0, 0, 0, 4, 0, 0, 0, 4, 1, 0, 0, 0, 6, 0, 0, 2, 6, 0, 0, 1, 6, 1, request];
        p.extend([3, 0, 1, response, 3, 1, 1, response, 2, 6, 0, 0, 0, 14, 0, 0, 2, 14, 0, 0, 1, 14, 1, 0]);
        p.extend([3, 0, 1, response, 3, 1, 1, response, 2, 14, 0, 0, 4, 0, 5, 0, 4, 1, 5, 0, 5, 0, 1, 0]);
        seeds.push(p);
    }
    seeds
}
