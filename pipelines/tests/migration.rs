//! The scheme `filter`, both ends: a director and two filters on memory ports, with a client and the hosts' stacks played segment by
//! segment.

use lcs_dataplane::cycles::NoMeter;
use lcs_dataplane::headers::build::{Packet, Transport};
use lcs_dataplane::headers::parse::transport_checksum_ok;
use lcs_dataplane::headers::tcp::Tcp;
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use lcs_dataplane::headers::{MacAddr, parse};
use lcs_dataplane::port::Port;
use lcs_dataplane::port::memory::MemoryPort;
use lcs_dataplane::worker::Worker;
use lcs_dataplane::{DropReason, flow::TcpState};
use lcs_pipelines::command::{Acknowledgement, Command, FlowPage, Report};
use lcs_pipelines::content::{Binding, Channel, Content, Group, Receiver, Scheme, Switching};
use lcs_pipelines::extract::{Limits, Plan, Protocol};
use lcs_pipelines::layer4::Layer4;
use lcs_pipelines::matching::{self, Action, Expr, Rule, RuleSet, Stickiness};
use lcs_pipelines::migration::message::{Body, ChannelKey, Header};
use lcs_pipelines::placement::{self, ContentWorker};
use lcs_pipelines::snapshot::*;
use lcs_pipelines::stages::connection::Settings;
use lcs_pipelines::stages::schedule::SharedCounts;
use lcs_pipelines::tally::MigrationTally;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const MILLISECOND: u64 = 1_000_000;
const CLIENT: &str = "192.0.2.1:1000";
const SERVICE: &str = "198.51.100.1:80";
const ISN: u32 = 0xffff_ffe0;
const FIRST: u32 = ISN.wrapping_add(1);
/// The servers' initial number.
const SSEQ: u32 = 0xffff_fff0;
const SYN_OPTIONS: &[u8] = &[2, 4, 5, 0xb4, 1, 1, 4, 2, 1, 3, 3, 7];
const REQUEST: &[u8] = b"GET /a/path HTTP/1.1\r\nHost: www.example.com\r\n\r\n";

/// The director's address toward the servers, where it falls back.
const SOURCE: [u8; 4] = [10, 0, 0, 99];

const DIRECTOR: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xd]);
const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xc]);

fn wire(n: usize) -> MacAddr {
    MacAddr([2, 0, 0, 1, 0, n as u8])
}

fn arm(n: usize) -> MacAddr {
    MacAddr([2, 0, 0, 2, 0, n as u8])
}

fn stack(n: usize) -> MacAddr {
    MacAddr([2, 0, 0, 3, 0, n as u8])
}

/// A TCP segment as its receiver gets it.
#[derive(Debug, Clone, PartialEq)]
struct Segment {
    from: SocketAddr,
    to: SocketAddr,
    flags: u8,
    seq: u32,
    ack: u32,
    window: u16,
    options: Vec<u8>,
    payload: Vec<u8>,
}

fn segment(b: &[u8]) -> Segment {
    let p = parse(b, true).unwrap();
    assert!(transport_checksum_ok(b, &p), "a wrong checksum was sent");
    let t = Tcp::parse(&b[usize::from(p.l4)..usize::from(p.end)]).unwrap();
    let at = |from: usize| [b[from], b[from + 1], b[from + 2], b[from + 3]];
    Segment {
        from: (at(26), t.source_port()).into(),
        to: (at(30), t.destination_port()).into(),
        flags: t.flags(),
        seq: t.seq().0,
        ack: t.ack().0,
        window: t.window(),
        options: t.options().to_vec(),
        payload: t.payload().to_vec(),
    }
}

struct Node {
    worker: Worker<MemoryPort, Layer4, NoMeter>,
    /// Decides requests, in `split` placement.
    content: Option<ContentWorker<NoMeter>>,
}

/// `split.rs` runs these tests with content workers.
const SPLIT: bool = matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"split");

fn key() -> ChannelKey {
    ChannelKey::from_secret(b"a secret of sixteen bytes or more")
}

/// All requests go to one group; with `each`, every request is decided, and what begins with /a and /b is for one server each, /no for none.
fn content(scheme: Scheme, servers: Vec<u16>, each: bool) -> Content {
    let to = Action::RouteTo { group: 0, stickiness: Stickiness::Service };
    let mut rules = vec![Rule { name: "all".into(), condition: Expr::always(), action: to }];
    if each && servers.len() > 1 {
        let rule = |path: &str, action| {
            let value = matching::Value::Text(path.as_bytes().into());
            let (variable, relation) = (matching::Variable::Path, matching::Relation::Prefix);
            let term = matching::Term { variable, relation, value, ignore_case: false };
            Rule { name: path.into(), condition: Expr::Term(term), action }
        };
        let forward = |server| Action::Forward { server, queue: None };
        let no = Action::Reject { status: Some(403) };
        rules.splice(0..0, [rule("/a", forward(0)), rule("/b", forward(1)), rule("/no", no)]);
    }
    let switching = if each { Switching::Request } else { Switching::Connection };
    let program = matching::compile(&RuleSet { rules }).unwrap();
    Content {
        protocol: Protocol::Http,
        plan: Plan::new(&program, Limits::default()),
        program,
        groups: vec![Group { name: "g".into(), scheduler: Scheduler::Rr, servers }],
        binding: Binding { scheme, switching, ..Binding::default() },
    }
}

impl Node {
    fn new(
        macs: &[MacAddr],
        servers: Vec<Server>,
        hops: Vec<NextHop>,
        (scheme, each): (Scheme, bool),
        seed: u64,
        now: u64,
    ) -> Node {
        let falls_back = scheme.channel().is_some_and(|channel| channel.fallback);
        let sources: Vec<std::net::IpAddr> = falls_back.then(|| SOURCE.into()).into_iter().collect();
        let at: SocketAddr = SERVICE.parse().unwrap();
        let interfaces =
            macs.iter().enumerate().map(|(n, &mac)| Interface { name: format!("if{n}"), mac, mtu: 1500 }).collect();
        let mut s = Snapshot { interfaces, next_hops: hops, generation: 1, ..Snapshot::default() };
        let slots: Vec<u16> = (0..servers.len() as u16).collect();
        // What is not told otherwise goes to the clients' router, whose row is the last.
        let router = s.next_hops.len() as u16 - 1;
        s.routes.insert("0.0.0.0".parse().unwrap(), 0, Via::NextHop(router));
        s.servers = servers.into_iter().map(Some).collect();
        s.by_endpoint.insert((at.ip(), at.port(), 6), 0);
        s.own.insert(at.ip());
        s.services.push(Some(Service {
            name: "web".into(),
            address: at.ip(),
            port: at.port(),
            protocol: 6,
            scheduler: Scheduler::Rr,
            servers: slots.clone(),
            sources,
            source_ports: (2000, 2030),
            persistence: None,
            content: Some(Arc::new(content(scheme, slots, each))),
        }));
        let port = MemoryPort::new(macs.len() as u8, 64);
        let capabilities = port.capabilities();
        let settings = Settings { flows: 16, fragments: 4, seed, worker: 0, workers: 1, capabilities };
        let counts = Arc::new(SharedCounts::new(1, 4));
        let mut pipeline = Layer4::new(settings, Arc::clone(&counts), now);
        let snapshot = Arc::new(s);
        let mut content = None;
        if SPLIT {
            let (mut ports, mut ends) = placement::rings(1, 1);
            pipeline = pipeline.with_content_workers(ports.remove(0));
            let mut worker = ContentWorker::new(ends.remove(0), counts, NoMeter);
            worker.command(Command::Install(Arc::clone(&snapshot)));
            content = Some(worker);
        }
        let mut worker = Worker::new(port, pipeline, NoMeter);
        worker.command(Command::Install(snapshot), now);
        Node { worker, content }
    }

    /// A turn, until nothing is left to do.
    fn turn(&mut self, now: u64) {
        self.worker.poll(now);
        self.worker.between(now);
        while self.content.as_mut().is_some_and(|content| content.poll() > 0) {
            self.worker.poll(now);
            self.worker.between(now);
        }
    }

    fn director(forward: Forward, fallback: bool, each: bool, now: u64) -> Node {
        let server = |n: u8| Server {
            name: format!("s{n}"),
            service: 0,
            address: [10, 0, 0, n + 1].into(),
            port: 0,
            forward,
            weight: 1,
            state: ServerState::Up,
            next_hop: u16::from(n),
            tunnel_source: Some([10, 0, 0, 100].into()),
        };
        let hops = [wire(0), wire(1), ROUTER].map(|mac| NextHop::new(mac, DIRECTOR, 0, 1500));
        let (interval, timeout) = (Duration::from_secs(1), Duration::from_millis(3500));
        let channel = Channel { key: key(), port: 7411, interval, timeout, fallback };
        Node::new(&[DIRECTOR], vec![server(0), server(1)], hops.to_vec(), (Scheme::Filter(channel), each), 7, now)
    }

    fn filter(n: usize, tunnels: bool, now: u64) -> Node {
        let at: SocketAddr = SERVICE.parse().unwrap();
        let server = Server {
            name: "stack".into(),
            service: 0,
            address: at.ip(),
            port: at.port(),
            forward: Forward::Nat,
            weight: 1,
            state: ServerState::Up,
            next_hop: 0,
            tunnel_source: None,
        };
        let hops = vec![NextHop::new(stack(n), arm(n), 1, 1500), NextHop::new(ROUTER, wire(n), 0, 1500)];
        let listen = vec![([10, 0, 0, n as u8 + 1], 7411).into()];
        let receiver = Receiver { key: key(), listen, tunnels };
        Node::new(&[wire(n), arm(n)], vec![server], hops, (Scheme::Migrated(receiver), true), 100 + n as u64, now)
    }

    fn report(&mut self, now: u64) -> Report {
        match self.worker.command(Command::Report(Box::default()), now) {
            Acknowledgement::Report(r) => *r,
            other => panic!("{other:?}"),
        }
    }

    fn migrations(&mut self, now: u64) -> MigrationTally {
        self.report(now).content.services[0].as_ref().unwrap().migrations
    }

    fn dropped(&mut self, reason: DropReason, now: u64) -> u64 {
        self.report(now).counters.dropped[reason as usize]
    }
}

/// What is to be lost on the wire, by its frame.
type Loss = Box<dyn FnMut(&[u8]) -> bool>;

struct World {
    director: Node,
    filters: [Node; 2],
    now: u64,
    /// What has come to the client, and to the stacks.
    client: Vec<Segment>,
    stacks: [Vec<Segment>; 2],
    /// Every message between director and filters.
    messages: Vec<Vec<u8>>,
    lose: Loss,
    /// Hosts whose filters are off: what comes for their own addresses comes to their stacks.
    off: [bool; 2],
    hosts: [Vec<Segment>; 2],
}

fn is_message(frame: &[u8]) -> bool {
    frame[23] == 17
}

fn kind(frame: &[u8]) -> Option<u8> {
    is_message(frame).then(|| frame[14 + 28 + 5])
}

impl World {
    fn new() -> World {
        World::by(Forward::Dr)
    }

    fn by(forward: Forward) -> World {
        World::with(forward, false)
    }

    fn with(forward: Forward, fallback: bool) -> World {
        World::deciding(forward, fallback, false)
    }

    /// One that decides every request.
    fn each(forward: Forward) -> World {
        World::deciding(forward, false, true)
    }

    fn deciding(forward: Forward, fallback: bool, each: bool) -> World {
        let tunnels = forward == Forward::Tunnel;
        let now = 1_000 * MILLISECOND;
        let mut w = World {
            director: Node::director(forward, fallback, each, now),
            filters: [Node::filter(0, tunnels, now), Node::filter(1, tunnels, now)],
            now,
            client: vec![],
            stacks: [vec![], vec![]],
            messages: vec![],
            lose: Box::new(|_| false),
            off: [false; 2],
            hosts: [vec![], vec![]],
        };
        w.pump(vec![]);
        w
    }

    /// Delivers frames, and what comes of them, until nothing moves.
    fn pump(&mut self, mut frames: Vec<(u8, Vec<u8>)>) {
        for _ in 0..50 {
            for (interface, frame) in std::mem::take(&mut frames) {
                if is_message(&frame) {
                    self.messages.push(frame.clone());
                }
                if (self.lose)(&frame) {
                    continue;
                }
                let to = MacAddr(frame[..6].try_into().unwrap());
                let node = match to {
                    DIRECTOR => Some(&mut self.director),
                    ROUTER => {
                        self.client.push(segment(&frame));
                        None
                    }
                    _ => {
                        let n = usize::from(to.0[5]);
                        if to == stack(n) {
                            self.stacks[n].push(segment(&frame));
                            None
                        } else if !is_message(&frame) && frame[30..34] == [10, 0, 0, n as u8 + 1] && frame[23] == 6 {
                            self.hosts[n].push(segment(&frame));
                            None
                        } else {
                            Some(&mut self.filters[n]).filter(|_| !self.off[n])
                        }
                    }
                };
                if let Some(node) = node {
                    assert!(node.worker.port_mut().inject(interface, &frame));
                }
            }
            let [a, b] = &mut self.filters;
            for node in [&mut self.director, a, b] {
                node.turn(self.now);
                // Out of the arm it goes to the stack; all wires are interface 0.
                node.worker.port_mut().take_sent(|_, b| frames.push((0, b.to_vec())));
                let pool = node.worker.port().pool();
                assert_eq!(pool.free, pool.total, "a buffer leaked: {pool:?}");
            }
            if frames.is_empty() {
                return;
            }
        }
        panic!("it goes round for ever");
    }

    fn passes(&mut self, milliseconds: u64) {
        let end = self.now + milliseconds * MILLISECOND;
        while self.now < end {
            self.now = (self.now + 50 * MILLISECOND).min(end);
            self.pump(vec![]);
        }
    }

    fn frame(to: MacAddr, from: &str, at: &str, flags: u8, (seq, ack): (u32, u32), data: &[u8]) -> Vec<u8> {
        let mut p = Packet {
            destination_mac: to,
            source_mac: ROUTER,
            ..Packet::tcp(from.parse().unwrap(), at.parse().unwrap(), flags)
        }
        .payload(data);
        let options = if flags & SYN != 0 { SYN_OPTIONS.to_vec() } else { vec![] };
        p.transport = Transport::Tcp { flags, seq, ack, window: 60_000, options };
        p.frame()
    }

    /// The client says something; all of it goes through the director.
    fn says(&mut self, flags: u8, seq: u32, ack: u32, data: &[u8]) -> Vec<Segment> {
        let frame = World::frame(DIRECTOR, CLIENT, SERVICE, flags, (seq, ack), data);
        self.pump(vec![(0, frame)]);
        std::mem::take(&mut self.client)
    }

    /// A host's stack says something to the client: it goes out of its second arm.
    fn stack_says(&mut self, n: usize, flags: u8, seq: u32, ack: u32, data: &[u8]) -> Vec<Segment> {
        let mut frame = World::frame(arm(n), SERVICE, CLIENT, flags, (seq, ack), data);
        frame[6..12].copy_from_slice(&stack(n).0);
        assert!(self.filters[n].worker.port_mut().inject(1, &frame));
        self.pump(vec![]);
        std::mem::take(&mut self.client)
    }

    /// A host itself says something to the director, beside its filter.
    fn host_says(&mut self, n: usize, to: SocketAddr, flags: u8, (seq, ack): (u32, u32), data: &[u8]) -> Vec<Segment> {
        let frame = World::frame(DIRECTOR, &format!("10.0.0.{}:80", n + 1), &to.to_string(), flags, (seq, ack), data);
        self.pump(vec![(0, frame)]);
        std::mem::take(&mut self.client)
    }

    /// The handshake with the director; its initial number plus one.
    fn handshake(&mut self) -> u32 {
        let answer = self.says(SYN, ISN, 0, b"");
        assert_eq!((answer.len(), answer[0].flags, answer[0].ack), (1, SYN | ACK, FIRST));
        let ack = answer[0].seq.wrapping_add(1);
        assert!(self.says(ACK, FIRST, ack, b"").is_empty());
        ack
    }

    /// The stack that was sent a SYN.
    fn asked(&self) -> Option<usize> {
        (0..2).find(|&n| self.stacks[n].iter().any(|s| s.flags == SYN))
    }

    fn take_stack(&mut self, n: usize) -> Vec<Segment> {
        std::mem::take(&mut self.stacks[n])
    }

    fn state(&mut self) -> TcpState {
        let page = Box::new(FlowPage { cursor: 0, limit: 1024, flows: vec![] });
        match self.director.worker.command(Command::ListFlows(page), self.now) {
            Acknowledgement::Flows(page) => page.flows[0].state,
            other => panic!("{other:?}"),
        }
    }

    fn dropped(&mut self, n: usize, reason: DropReason) -> u64 {
        let now = self.now;
        self.filters[n].dropped(reason, now)
    }
}

/// A connection up to its first response, from the filter of host `n`.
fn serve(w: &mut World, n: usize, ack: u32) {
    let syn = w.take_stack(n);
    assert_eq!(syn.len(), 1, "{syn:?}");
    let s = &syn[0];
    assert_eq!((s.flags, s.seq, s.from, s.to), (SYN, ISN, CLIENT.parse().unwrap(), SERVICE.parse().unwrap()));
    assert_eq!(s.options, SYN_OPTIONS, "the stack is offered what the client has offered");
    assert!(w.stack_says(n, SYN | ACK, SSEQ, FIRST, b"").is_empty());
    let request: Vec<Segment> = w.take_stack(n);
    let bytes: Vec<u8> = request.iter().flat_map(|s| s.payload.clone()).collect();
    assert_eq!(bytes, REQUEST);
    assert!(request.iter().all(|s| s.ack == SSEQ.wrapping_add(1) && s.seq == FIRST));
    let end = FIRST.wrapping_add(REQUEST.len() as u32);
    let heard = w.stack_says(n, ACK | PSH, SSEQ.wrapping_add(1), end, b"HTTP/1.1 200 OK\r\n\r\nhello");
    assert_eq!(heard.len(), 1);
    let h = &heard[0];
    assert_eq!((h.seq, h.ack, h.from, h.to), (ack, end, SERVICE.parse().unwrap(), CLIENT.parse().unwrap()));
    assert_eq!(h.payload, b"HTTP/1.1 200 OK\r\n\r\nhello");
}

#[test]
fn the_filter_answers_in_the_directors_numbers_and_the_director_only_forwards() {
    let mut w = World::new();
    let ack = w.handshake();
    let told = w.says(ACK | PSH, FIRST, ack, REQUEST);
    let end = FIRST.wrapping_add(REQUEST.len() as u32);
    assert!(told.iter().all(|s| s.ack == end && s.flags == ACK));
    let n = w.asked().expect("a stack is asked");
    assert!(w.stacks[1 - n].is_empty());
    let before = w.messages.len();
    serve(&mut w, n, ack);
    assert_eq!(w.messages[before..].iter().filter_map(|m| kind(m)).collect::<Vec<_>>(), [4], "accepted, once");
    // The client's acknowledgement goes through the director as it is, and the filter moves its number.
    let sent = w.director.report(w.now).content.segments_made;
    assert!(w.says(ACK, end, ack.wrapping_add(24), b"").is_empty());
    let s = w.take_stack(n).pop().unwrap();
    assert_eq!((s.seq, s.ack, s.window), (end, SSEQ.wrapping_add(25), 60_000));
    // The next request of the connection, too; and the end.
    w.says(ACK | PSH, end, ack.wrapping_add(24), b"GET /b HTTP/1.1\r\n\r\n");
    assert_eq!(w.take_stack(n)[0].payload, b"GET /b HTTP/1.1\r\n\r\n");
    w.says(ACK | FIN, end.wrapping_add(19), ack.wrapping_add(24), b"");
    assert_eq!(w.take_stack(n)[0].flags, ACK | FIN);
    let heard = w.stack_says(n, ACK | FIN, SSEQ.wrapping_add(25), end.wrapping_add(20), b"");
    assert_eq!((heard[0].flags, heard[0].seq), (ACK | FIN, ack.wrapping_add(24)));
    let now = w.now;
    let r = w.director.report(now);
    assert_eq!(r.content.segments_made, sent, "the director has made no more segments");
    assert_eq!((r.content.connections, r.content.binding, r.content.buffered), (0, 0, 0));
    assert_eq!(w.state(), TcpState::FinWait);
    let d = w.director.migrations(now);
    assert_eq!((d.sent, d.accepted, d.refused, d.unanswered, d.messages), (1, 1, 0, 0, 1));
    assert_eq!(d.bytes, 100 + REQUEST.len() as u64 + 32);
    let f = w.filters[n].migrations(now);
    assert_eq!((f.accepted, f.refused), (1, 0));
    assert_eq!(w.filters[n].report(now).content.buffered, 0);
}

#[test]
fn what_comes_through_a_tunnel_is_taken_out_of_it_and_fits_into_it() {
    let mut w = World::by(Forward::Tunnel);
    let answer = w.says(SYN, ISN, 0, b"");
    assert_eq!(answer[0].options[..4], [2, 4, 5, 0xa0], "1,440 bytes: a segment and two headers fit a link of 1,500");
    let ack = answer[0].seq.wrapping_add(1);
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let n = w.asked().expect("a stack is asked");
    serve(&mut w, n, ack);
    let end = FIRST.wrapping_add(REQUEST.len() as u32);
    let data = vec![b'x'; 1_440];
    assert!(w.says(ACK, end, ack.wrapping_add(24), &data).is_empty());
    let s = w.take_stack(n).pop().unwrap();
    assert_eq!((s.seq, s.ack, s.payload), (end, SSEQ.wrapping_add(25), data));
}

#[test]
fn each_message_may_be_lost_once() {
    for lost in [3, 4] {
        let mut w = World::new();
        let ack = w.handshake();
        let mut left = 1;
        w.lose = Box::new(move |frame| {
            let hit = kind(frame) == Some(lost) && left > 0;
            left -= i32::from(hit);
            hit
        });
        w.says(ACK | PSH, FIRST, ack, REQUEST);
        if lost == 3 {
            assert_eq!(w.asked(), None);
            w.passes(250);
        }
        let n = w.asked().expect("a stack is asked");
        serve(&mut w, n, ack);
        w.passes(250);
        let now = w.now;
        let d = w.director.migrations(now);
        assert_eq!((d.sent, d.accepted, d.unanswered, d.messages), (1, 1, 0, 2), "message {lost}");
        assert_eq!(w.filters[n].migrations(now).accepted, 1);
        assert!(w.stacks[n].iter().all(|s| s.flags & SYN == 0), "no second connection");
    }
}

#[test]
fn a_repeated_or_forged_message_opens_nothing_and_disturbs_nothing() {
    let mut w = World::new();
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let n = w.asked().unwrap();
    serve(&mut w, n, ack);
    let migrate = w.messages.iter().find(|m| kind(m) == Some(3)).unwrap().clone();
    let repeat = |w: &mut World| {
        w.pump(vec![(0, migrate.clone())]);
        assert!(w.stacks[n].is_empty(), "{:?}", w.stacks[n]);
    };
    repeat(&mut w);
    // Still the first connection's numbers.
    let end = FIRST.wrapping_add(REQUEST.len() as u32);
    let heard = w.stack_says(n, ACK, SSEQ.wrapping_add(25), end, b"more");
    assert_eq!(heard[0].seq, ack.wrapping_add(24));
    // After the end, too.
    w.stack_says(n, RST | ACK, SSEQ.wrapping_add(29), end, b"");
    w.passes(12_000);
    assert_eq!(w.filters[n].report(w.now).flows, 0);
    repeat(&mut w);
    assert_eq!(w.dropped(n, DropReason::StaleMigration), 2);
    // Another byte, another key, another session: nobody's.
    let mut forged = migrate.clone();
    forged[60] ^= 1;
    w.pump(vec![(0, forged)]);
    let mut out = vec![];
    let datagram = &migrate[42..];
    let (header, body) = Body::read(datagram, &key()).unwrap();
    for (header, key) in [
        (header, ChannelKey::from_secret(b"another")),
        (Header { session: header.session ^ 1, ..header }, key()),
        (Header { token: header.token ^ 1, number: 99, ..header }, key()),
    ] {
        body.write(&header, &key, &mut out);
        let frame = [&migrate[..42], &out].concat();
        w.pump(vec![(0, frame)]);
    }
    assert!(w.stacks[n].is_empty());
    assert_eq!(w.dropped(n, DropReason::BadMigration), 4);
}

#[test]
fn what_was_not_migrated_never_reaches_the_stack() {
    let mut w = World::new();
    for flags in [SYN, ACK | PSH, RST, FIN | ACK] {
        let frame = World::frame(wire(0), CLIENT, SERVICE, flags, (FIRST, 5), b"");
        w.pump(vec![(0, frame)]);
    }
    assert!(w.stacks[0].is_empty() && w.client.is_empty());
    assert_eq!(w.dropped(0, DropReason::NoFlow), 4);
}

#[test]
fn a_server_that_refuses_is_passed_over_and_a_silent_filter_too() {
    let mut w = World::new();
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let n = w.asked().unwrap();
    w.take_stack(n);
    w.stack_says(n, RST | ACK, 0, FIRST, b"");
    let now = w.now;
    assert_eq!(w.director.migrations(now).refused, 1);
    assert_eq!(w.filters[n].report(now).flows, 0);
    assert_eq!(w.asked(), Some(1 - n));
    serve(&mut w, 1 - n, ack);

    // One that is gone since its last pong is noticed by its silence.
    let mut w = World::new();
    let ack = w.handshake();
    w.off = [true; 2];
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    w.off = [false; 2];
    w.lose = {
        let first = w.messages.last().unwrap()[..6].to_vec();
        Box::new(move |frame| frame[..6] == first)
    };
    w.passes(3_500);
    let n = w.asked().expect("the other one is asked");
    serve(&mut w, n, ack);
    let now = w.now;
    assert_eq!(w.director.migrations(now).unanswered, 1);
}

#[test]
fn without_a_live_filter_the_client_is_told_at_once() {
    let mut w = World::new();
    w.off = [true; 2];
    w.passes(4_000);
    let ack = w.handshake();
    let heard = w.says(ACK | PSH, FIRST, ack, REQUEST);
    assert!(heard.iter().any(|s| s.payload.starts_with(b"HTTP/1.1 503 ")), "{heard:?}");
    // And they come back.
    w.off = [false; 2];
    w.passes(1_100);
    let frame = World::frame(DIRECTOR, "192.0.2.1:2000", SERVICE, SYN, (ISN, 0), b"");
    w.pump(vec![(0, frame)]);
    let ack = w.client.pop().unwrap().seq.wrapping_add(1);
    let frame = World::frame(DIRECTOR, "192.0.2.1:2000", SERVICE, ACK | PSH, (FIRST, ack), REQUEST);
    w.pump(vec![(0, frame)]);
    assert!(w.asked().is_some());
}

#[test]
fn a_request_that_may_have_been_served_is_not_sent_twice() {
    let mut w = World::new();
    let ack = w.handshake();
    w.off = [true; 2];
    w.says(ACK | PSH, FIRST, ack, b"POST /buy HTTP/1.1\r\nContent-Length: 2\r\n\r\nxy");
    let mut heard = vec![];
    for _ in 0..40 {
        w.passes(100);
        heard.append(&mut w.client);
    }
    assert!(heard.iter().any(|s| s.payload.starts_with(b"HTTP/1.1 504 ")), "{heard:?}");
}

#[test]
fn a_request_of_several_messages_is_put_together() {
    let mut w = World::new();
    let ack = w.handshake();
    let mut request = b"POST / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
    request.resize(4_000, b'x');
    request.extend(b"\r\n\r\n");
    // The rule needs the head; more than one message's worth is held by then.
    for (at, part) in request.chunks(1_400).enumerate() {
        w.says(ACK, FIRST.wrapping_add(at as u32 * 1_400), ack, part);
        if at == 0 {
            // "all" takes it at once: as soon as the method is read.
            break;
        }
    }
    let first = w.messages.iter().filter(|m| kind(m) == Some(3)).count();
    assert_eq!(first, 2, "1,400 bytes and what is around them are two messages of a link of 1,500");
    let n = w.asked().expect("a stack is asked");
    w.take_stack(n);
    w.stack_says(n, SYN | ACK, SSEQ, FIRST, b"");
    for (at, part) in request.chunks(1_400).enumerate().skip(1) {
        w.says(ACK, FIRST.wrapping_add(at as u32 * 1_400), ack, part);
    }
    let bytes: Vec<u8> = w.take_stack(n).iter().flat_map(|s| s.payload.clone()).collect();
    assert!(bytes == request, "{} bytes of {}", bytes.len(), request.len());
}

#[test]
fn what_the_client_sends_meanwhile_is_not_lost() {
    let mut w = World::new();
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let n = w.asked().unwrap();
    let syn = w.take_stack(n);
    assert_eq!(syn.len(), 1);
    // The stack has not answered yet.
    let end = FIRST.wrapping_add(REQUEST.len() as u32);
    let heard = w.says(ACK | PSH, end, ack, b"more of it");
    assert!(heard.is_empty(), "nobody may acknowledge it: the server may still refuse: {heard:?}");
    w.stack_says(n, SYN | ACK, SSEQ, FIRST, b"");
    let bytes: Vec<u8> = w.take_stack(n).iter().flat_map(|s| s.payload.clone()).collect();
    assert_eq!(bytes, [REQUEST, b"more of it"].concat());
}

#[test]
fn a_client_that_resets_meanwhile_leaves_nothing_behind() {
    let mut w = World::new();
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let n = w.asked().unwrap();
    w.take_stack(n);
    let end = FIRST.wrapping_add(REQUEST.len() as u32);
    w.says(RST, end, 0, b"");
    let now = w.now;
    assert_eq!((w.director.report(now).flows, w.filters[n].report(now).flows), (0, 0));
    assert!(w.take_stack(n).iter().any(|s| s.flags & RST != 0));
}

/// A connection over full NAT up to its first response, from host `n` itself; where its server's peer is.
fn serve_directly(w: &mut World, n: usize, ack: u32) -> SocketAddr {
    let syn = std::mem::take(&mut w.hosts[n]);
    assert_eq!(syn.len(), 1, "{syn:?}");
    let s = &syn[0];
    assert_eq!((s.flags, s.seq, s.to), (SYN, ISN, ([10, 0, 0, n as u8 + 1], 80).into()));
    assert_eq!((s.from.ip(), s.options.as_slice()), (SOURCE.into(), SYN_OPTIONS));
    let peer = s.from;
    assert!(w.host_says(n, peer, SYN | ACK, (SSEQ, FIRST), b"").is_empty());
    let bytes: Vec<u8> = std::mem::take(&mut w.hosts[n]).iter().flat_map(|s| s.payload.clone()).collect();
    assert_eq!(bytes, REQUEST);
    let end = FIRST.wrapping_add(REQUEST.len() as u32);
    let heard = w.host_says(n, peer, ACK | PSH, (SSEQ.wrapping_add(1), end), b"HTTP/1.1 200 OK\r\n\r\nhello");
    assert_eq!((heard[0].seq, heard[0].from, heard[0].payload.len()), (ack, SERVICE.parse().unwrap(), 24));
    peer
}

#[test]
fn without_a_live_filter_the_server_itself_is_asked_over_full_nat() {
    for forward in [Forward::Dr, Forward::Tunnel] {
        let mut w = World::with(forward, true);
        w.off = [true; 2];
        w.passes(4_000);
        let ack = w.handshake();
        w.says(ACK | PSH, FIRST, ack, REQUEST);
        let n = (0..2).find(|&n| !w.hosts[n].is_empty()).expect("a host is asked");
        let peer = serve_directly(&mut w, n, ack);
        let end = FIRST.wrapping_add(REQUEST.len() as u32);
        // What follows goes the same way, in both directions.
        w.says(ACK | PSH, end, ack.wrapping_add(24), b"GET /b HTTP/1.1\r\n\r\n");
        let s = std::mem::take(&mut w.hosts[n]).pop().unwrap();
        assert_eq!((s.from, s.seq, s.ack, s.payload.len()), (peer, end, SSEQ.wrapping_add(25), 19));
        let now = w.now;
        let d = w.director.migrations(now);
        assert_eq!((d.sent, d.fallback, d.live), (0, 1, 0));
        // They answer again: the next connection is given to one of them, and this one goes on as it is.
        w.off = [false; 2];
        w.passes(1_100);
        let heard = w.host_says(n, peer, ACK, (SSEQ.wrapping_add(25), end.wrapping_add(19)), b"more");
        assert_eq!((heard[0].seq, heard[0].payload.as_slice()), (ack.wrapping_add(24), &b"more"[..]));
        let frame = World::frame(DIRECTOR, "192.0.2.1:2000", SERVICE, SYN, (ISN, 0), b"");
        w.pump(vec![(0, frame)]);
        let other = w.client.pop().unwrap().seq.wrapping_add(1);
        let frame = World::frame(DIRECTOR, "192.0.2.1:2000", SERVICE, ACK | PSH, (FIRST, other), REQUEST);
        w.pump(vec![(0, frame)]);
        assert!(w.asked().is_some() && w.hosts.iter().all(Vec::is_empty), "{:?}", w.hosts);
        let d = w.director.migrations(now);
        assert_eq!((d.sent, d.fallback), (1, 1));
    }
}

#[test]
fn who_can_be_given_to_a_filter_is_and_a_filter_that_falls_silent_leaves_its_server_to_full_nat() {
    let mut w = World::with(Forward::Dr, true);
    // One filter is gone: all go to the other one.
    w.off = [true, false];
    w.passes(4_000);
    for port in 2000..2004 {
        let from = format!("192.0.2.1:{port}");
        w.pump(vec![(0, World::frame(DIRECTOR, &from, SERVICE, SYN, (ISN, 0), b""))]);
        let ack = w.client.pop().unwrap().seq.wrapping_add(1);
        w.pump(vec![(0, World::frame(DIRECTOR, &from, SERVICE, ACK | PSH, (FIRST, ack), REQUEST))]);
        assert_eq!(w.take_stack(1).len(), 1);
        let answer = World::frame(arm(1), SERVICE, &from, SYN | ACK, (SSEQ, FIRST), b"");
        assert!(w.filters[1].worker.port_mut().inject(1, &answer));
        w.pump(vec![]);
        w.take_stack(1);
    }
    assert!(w.hosts.iter().all(Vec::is_empty));
    // It does not answer any more, and nobody knows it yet.
    w.client.clear();
    w.off = [true, true];
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    for _ in 0..50 {
        w.passes(100);
        if w.hosts.iter().any(|h| !h.is_empty()) {
            break;
        }
    }
    let n = (0..2).find(|&n| !w.hosts[n].is_empty()).expect("a host is asked");
    serve_directly(&mut w, n, ack);
    let now = w.now;
    let d = w.director.migrations(now);
    assert_eq!((d.unanswered, d.fallback), (1, 1));
}

#[test]
fn a_request_that_may_have_been_served_is_not_sent_over_full_nat_either() {
    let mut w = World::with(Forward::Dr, true);
    let ack = w.handshake();
    w.off = [true; 2];
    w.says(ACK | PSH, FIRST, ack, b"POST /buy HTTP/1.1\r\nContent-Length: 2\r\n\r\nxy");
    let mut heard = vec![];
    for _ in 0..40 {
        w.passes(100);
        heard.append(&mut w.client);
    }
    assert!(heard.iter().any(|s| s.payload.starts_with(b"HTTP/1.1 504 ")), "{heard:?}");
    assert!(w.hosts.iter().all(Vec::is_empty));
}

#[test]
fn a_server_that_refuses_its_filter_is_not_asked_a_second_time() {
    let mut w = World::with(Forward::Dr, true);
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let n = w.asked().unwrap();
    w.take_stack(n);
    w.stack_says(n, RST | ACK, 0, FIRST, b"");
    assert_eq!(w.asked(), Some(1 - n));
    w.take_stack(1 - n);
    let heard = w.stack_says(1 - n, RST | ACK, 0, FIRST, b"");
    assert!(heard.iter().any(|s| s.payload.starts_with(b"HTTP/1.1 503 ")), "{heard:?}");
    assert!(w.hosts.iter().all(Vec::is_empty));
}

const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
const B: &[u8] = b"GET /b HTTP/1.1\r\nHost: b\r\n\r\n";

fn payloads(segments: &[Segment]) -> Vec<u8> {
    segments.iter().flat_map(|s| s.payload.clone()).collect()
}

/// The host `n` is given `request` at `start`, its server answers with `reply`; `next` toward the client. Returns the numbers after both.
fn exchange(w: &mut World, n: usize, sseq: u32, (start, next): (u32, u32), request: &[u8], reply: &[u8]) -> (u32, u32) {
    let syn = w.take_stack(n).into_iter().find(|s| s.flags == SYN).expect("a SYN");
    assert_eq!((syn.seq, syn.from), (start.wrapping_sub(1), CLIENT.parse().unwrap()));
    assert!(w.stack_says(n, SYN | ACK, sseq, start, b"").iter().all(|s| s.payload.is_empty()));
    assert_eq!(payloads(&w.take_stack(n)), request);
    let end = start.wrapping_add(request.len() as u32);
    let heard = w.stack_says(n, ACK | PSH, sseq.wrapping_add(1), end, reply);
    assert_eq!((heard[0].seq, heard[0].ack, heard[0].payload.as_slice()), (next, end, reply));
    (end, next.wrapping_add(reply.len() as u32))
}

/// A connection whose first request, for server 0, is answered.
fn begun(w: &mut World, reply: &[u8]) -> (u32, u32) {
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    exchange(w, 0, SSEQ, (FIRST, ack), REQUEST, reply)
}

fn kinds(w: &World, from: usize) -> Vec<u8> {
    w.messages[from..].iter().filter_map(|m| kind(m)).filter(|k| *k > 2).collect()
}

#[test]
fn a_later_request_goes_to_the_filter_of_the_server_that_the_rules_choose() {
    for forward in [Forward::Dr, Forward::Tunnel] {
        let mut w = World::each(forward);
        let (end, next) = begun(&mut w, REPLY);
        let before = w.messages.len();
        // The acknowledgement of the response comes with the request.
        w.says(ACK | PSH, end, next, B);
        assert_eq!(kinds(&w, before), [7, 8, 3]);
        let old = w.take_stack(0);
        assert!(payloads(&old).is_empty(), "no byte of it is for this server");
        let fin = old.last().unwrap();
        assert_eq!((fin.flags, fin.seq, fin.ack), (FIN | ACK, end, SSEQ.wrapping_add(44)));
        let (end, next) = exchange(&mut w, 1, 9000, (end, next), B, REPLY);
        // The old server closes, too.
        assert!(w.stack_says(0, FIN | ACK, SSEQ.wrapping_add(44), fin.seq.wrapping_add(1), b"").is_empty());
        let last = w.take_stack(0).pop().unwrap();
        assert_eq!((last.flags, last.seq, last.ack), (ACK, fin.seq.wrapping_add(1), SSEQ.wrapping_add(45)));
        // And back.
        w.says(ACK | PSH, end, next, REQUEST);
        let (end, next) = exchange(&mut w, 0, 77, (end, next), REQUEST, REPLY);
        w.says(ACK, end, next, b"");
        let now = w.now;
        let d = w.director.migrations(now);
        assert_eq!((d.sent, d.accepted, d.recalled, d.continued, d.refused, d.unanswered), (3, 3, 2, 0, 0, 0));
        let [a, b] = [0, 1].map(|n| w.filters[n].migrations(now));
        assert_eq!((a.accepted, a.recalled, b.accepted, b.recalled), (2, 1, 1, 1));
        assert_eq!((w.director.report(now).content.buffered, w.director.report(now).content.binding), (0, 0));
    }
}

#[test]
fn a_later_request_for_the_same_server_is_given_to_its_filter_as_it_was_read_and_no_otherwise() {
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    let again: &[u8] = b"GET /a2 HTTP/1.1\r\nHost: a\r\n\r\n";
    let before = w.messages.len();
    let told = w.says(ACK | PSH, end, next, again);
    assert_eq!(kinds(&w, before), [3, 4]);
    assert!(told.iter().any(|s| s.ack == end.wrapping_add(again.len() as u32)), "{told:?}");
    let given = w.take_stack(0);
    assert_eq!((payloads(&given).as_slice(), given[0].seq, given[0].ack), (again, end, SSEQ.wrapping_add(44)));
    // The same numbers with other bytes.
    let other: &[u8] = b"GET /b2 HTTP/1.1\r\nHost: a\r\n\r\n";
    w.says(ACK | PSH, end, next, other);
    assert!(!payloads(&w.take_stack(0)).windows(3).any(|b| b == b"/b2") && w.take_stack(1).is_empty());
    let after = end.wrapping_add(again.len() as u32);
    let heard = w.stack_says(0, ACK | PSH, SSEQ.wrapping_add(44), after, REPLY);
    assert_eq!((heard[0].seq, heard[0].ack), (next, after));
    let now = w.now;
    let d = w.director.migrations(now);
    assert_eq!((d.sent, d.continued, d.recalled), (1, 1, 0));
}

#[test]
fn nothing_of_a_request_for_another_server_moves_before_the_response_is_complete_and_acknowledged() {
    let mut w = World::each(Forward::Dr);
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let (end, next) = exchange(&mut w, 0, SSEQ, (FIRST, ack), REQUEST, &REPLY[..40]);
    // Complete at the client, as far as it knows; three bytes are still to come.
    assert!(w.says(ACK | PSH, end, next, B).is_empty());
    w.passes(1_000);
    assert!(w.take_stack(1).is_empty() && payloads(&w.take_stack(0)).is_empty());
    let heard = w.stack_says(0, ACK | PSH, SSEQ.wrapping_add(41), end, &REPLY[40..]);
    assert_eq!(heard[0].seq, next);
    w.passes(1_000);
    assert!(w.take_stack(1).is_empty(), "the client has not acknowledged it");
    w.says(ACK, end, next.wrapping_add(3), b"");
    w.passes(100);
    exchange(&mut w, 1, 9000, (end, next.wrapping_add(3)), B, REPLY);
    assert_eq!(w.director.migrations(w.now).unanswered, 0);
}

#[test]
fn each_message_of_a_recall_may_be_lost_once_and_all_may_come_again() {
    for lost in [7, 8, 3, 4] {
        let mut w = World::each(Forward::Dr);
        let (end, next) = begun(&mut w, REPLY);
        let mut left = 1;
        w.lose = Box::new(move |frame| {
            let hit = kind(frame) == Some(lost) && left > 0;
            left -= i32::from(hit);
            hit
        });
        w.says(ACK | PSH, end, next, B);
        w.passes(300);
        let (end, next) = exchange(&mut w, 1, 9000, (end, next), B, REPLY);
        w.passes(300);
        w.lose = Box::new(|_| false);
        w.says(ACK, end, next, b"");
        w.take_stack(0);
        w.take_stack(1);
        // Everything that was ever said, once more.
        for message in w.messages.clone() {
            w.pump(vec![(0, message)]);
        }
        assert!(w.take_stack(0).is_empty() && w.take_stack(1).is_empty() && w.client.is_empty());
        let d = w.director.migrations(w.now);
        assert_eq!((d.sent, d.accepted, d.recalled, d.unanswered), (2, 2, 1, 0), "message {lost}");
        // It lives.
        w.says(ACK | PSH, end, next, b"GET /b2 HTTP/1.1\r\nHost: b\r\n\r\n");
        assert_eq!(payloads(&w.take_stack(1)), b"GET /b2 HTTP/1.1\r\nHost: b\r\n\r\n");
    }
}

#[test]
fn a_connection_whose_responses_end_cannot_be_told_stays_and_takes_no_other_request() {
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, b"HTTP/1.1 200 OK\r\n\r\nhello");
    for request in [B, &b"GET /a2 HTTP/1.1\r\nHost: a\r\n\r\n"[..]] {
        w.says(ACK | PSH, end, next, request);
        w.passes(500);
        assert!(payloads(&w.take_stack(0)).is_empty() && w.take_stack(1).is_empty());
    }
    let heard = w.stack_says(0, FIN | ACK, SSEQ.wrapping_add(25), end, b"more");
    assert_eq!((heard[0].seq, heard[0].flags, heard[0].payload.as_slice()), (next, FIN | ACK, &b"more"[..]));
}

#[test]
fn a_tunnel_is_no_http_any_more_and_stays_where_it_is() {
    let mut w = World::each(Forward::Dr);
    let ack = w.handshake();
    let request = b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    w.says(ACK | PSH, FIRST, ack, request);
    let reply = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let (end, next) = exchange(&mut w, 0, SSEQ, (FIRST, ack), request, reply);
    // What looks like a request for another server is not one.
    w.says(ACK | PSH, end, next, B);
    assert!(payloads(&w.take_stack(0)).is_empty());
    // It was not acknowledged: it is sent again.
    w.says(ACK | PSH, end, next, B);
    assert_eq!(payloads(&w.take_stack(0)), B);
    w.says(ACK | PSH, end.wrapping_add(B.len() as u32), next, b"\0\x01anything");
    assert_eq!(payloads(&w.take_stack(0)), b"\0\x01anything");
    assert!(w.take_stack(1).is_empty());
}

#[test]
fn the_director_answers_later_requests_itself_in_the_right_numbers() {
    for (request, status) in
        [(&b"GET /no HTTP/1.1\r\nHost: a\r\n\r\n"[..], "403"), (b"\x01\x02\x03 nothing\r\n\r\n", "400")]
    {
        let mut w = World::each(Forward::Dr);
        let (end, next) = begun(&mut w, REPLY);
        let heard = w.says(ACK | PSH, end, next, request);
        let answer = heard.iter().find(|s| !s.payload.is_empty()).expect(status);
        assert!(answer.payload.starts_with(format!("HTTP/1.1 {status} ").as_bytes()), "{answer:?}");
        assert_eq!((answer.seq, answer.ack), (next, end.wrapping_add(request.len() as u32)));
        assert!(payloads(&w.take_stack(0)).is_empty() && w.take_stack(1).is_empty());
    }
}

#[test]
fn a_later_request_in_pieces_is_acknowledged_once_the_connection_is_back() {
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    let told = w.says(ACK | PSH, end, next, &B[..9]);
    assert!(told.iter().any(|s| s.ack == end.wrapping_add(9) && s.seq == next), "{told:?}");
    w.says(ACK | PSH, end.wrapping_add(9), next, &B[9..]);
    exchange(&mut w, 1, 9000, (end, next), B, REPLY);
}

#[test]
fn requests_that_come_together_are_given_one_by_one() {
    let mut w = World::each(Forward::Dr);
    let ack = w.handshake();
    let told = w.says(ACK | PSH, FIRST, ack, &[REQUEST, B].concat());
    let end = FIRST.wrapping_add(REQUEST.len() as u32);
    assert!(told.iter().all(|s| s.ack == end), "no more is acknowledged than one filter is given: {told:?}");
    let (end, next) = exchange(&mut w, 0, SSEQ, (FIRST, ack), REQUEST, REPLY);
    assert!(w.take_stack(1).is_empty());
    w.says(ACK, end.wrapping_add(B.len() as u32), next, b"");
    w.passes(100);
    exchange(&mut w, 1, 9000, (end, next), B, REPLY);
}

#[test]
fn a_body_that_comes_behind_goes_to_the_filter_and_what_comes_behind_it_does_not() {
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    let head = b"POST /a2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab";
    w.says(ACK | PSH, end, next, head);
    assert_eq!(payloads(&w.take_stack(0)), head);
    let at = end.wrapping_add(head.len() as u32);
    let rest = b"cde\r\n0\r\n\r\n";
    w.says(ACK | PSH, at, next, &[&rest[..], B].concat());
    assert_eq!(payloads(&w.take_stack(0)), rest);
    let at = at.wrapping_add(rest.len() as u32);
    let heard = w.stack_says(0, ACK | PSH, SSEQ.wrapping_add(44), at, REPLY);
    assert_eq!(heard[0].seq, next);
    let next = next.wrapping_add(43);
    w.says(ACK, at.wrapping_add(B.len() as u32), next, b"");
    w.passes(300);
    exchange(&mut w, 1, 9000, (at, next), B, REPLY);
}

#[test]
fn a_filter_that_is_gone_when_it_is_asked_costs_the_connection() {
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    w.off = [true, false];
    w.says(ACK | PSH, end, next, B);
    let mut heard = vec![];
    for _ in 0..40 {
        w.passes(100);
        heard.append(&mut w.client);
    }
    assert!(heard.iter().any(|s| s.flags & RST != 0 && s.seq == next), "{heard:?}");
    assert_eq!(w.director.report(w.now).flows, 0);
    assert!(w.take_stack(1).is_empty());
}

#[test]
fn a_filter_takes_later_requests_from_its_director_only() {
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    w.take_stack(0);
    // Past the director.
    w.pump(vec![(0, World::frame(wire(0), CLIENT, SERVICE, ACK | PSH, (end, next), B))]);
    assert!(payloads(&w.take_stack(0)).is_empty());
}

/// The message in a frame, said again with another header, from and to these places if they are given.
fn resaid(frame: &[u8], change: impl FnOnce(Header) -> Header) -> Vec<u8> {
    let mut out = vec![];
    let (header, body) = Body::read(&frame[42..], &key()).unwrap();
    body.write(&change(header), &key(), &mut out);
    [&frame[..42], &out].concat()
}

/// A frame with a datagram's ends changed, from its sender back to it.
fn reflected(frame: &[u8]) -> Vec<u8> {
    let at = |from: usize| [frame[from], frame[from + 1], frame[from + 2], frame[from + 3]];
    let port = |from: usize| u16::from_be_bytes([frame[from], frame[from + 1]]);
    let mac = |from: usize| MacAddr(frame[from..from + 6].try_into().unwrap());
    let p = Packet {
        destination_mac: mac(6),
        source_mac: mac(0),
        ..Packet::udp((at(30), port(36)).into(), (at(26), port(34)).into())
    };
    p.payload(&frame[42..]).frame()
}

#[test]
fn a_message_that_comes_back_to_its_sender_means_nothing() {
    let mut w = World::new();
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let n = w.asked().unwrap();
    serve(&mut w, n, ack);
    let (mut at_director, mut at_filters) = (0, 0);
    for message in w.messages.clone() {
        let back = reflected(&message);
        at_director += u64::from(back[..6] == DIRECTOR.0);
        at_filters += u64::from(back[..6] != DIRECTOR.0);
        w.pump(vec![(0, back)]);
    }
    assert!(w.client.is_empty() && w.stacks.iter().all(Vec::is_empty));
    assert!(at_director > 2 && at_filters > 2);
    let now = w.now;
    assert_eq!(w.director.dropped(DropReason::BadMigration, now), at_director);
    let dropped: u64 = (0..2).map(|n| w.dropped(n, DropReason::BadMigration)).sum();
    assert_eq!(dropped, at_filters);
}

#[test]
fn an_answer_counts_from_the_filter_that_was_asked_and_with_the_ticket_that_was_sent() {
    let mut w = World::new();
    let ack = w.handshake();
    w.lose = Box::new(|frame| kind(frame) == Some(4));
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let n = w.asked().unwrap();
    w.take_stack(n);
    w.stack_says(n, SYN | ACK, SSEQ, FIRST, b"");
    let accepted = w.messages.iter().find(|m| kind(m) == Some(4)).unwrap().clone();
    w.lose = Box::new(|_| false);
    let taken = |w: &mut World| w.director.migrations(w.now).accepted;
    // Another token, another number.
    for change in [|h: Header| Header { token: h.token ^ 1, ..h }, |h: Header| Header { number: h.number + 1, ..h }] {
        w.pump(vec![(0, resaid(&accepted, change))]);
        assert_eq!(taken(&mut w), 0);
    }
    // From the other server's address.
    let ends = |host: u8| ([10, 0, 0, host], 7411).into();
    let port = u16::from_be_bytes([accepted[36], accepted[37]]);
    let by = |from: SocketAddr| {
        let to = ([10, 0, 0, 100], port).into();
        let p = Packet { destination_mac: DIRECTOR, source_mac: wire(n), ..Packet::udp(from, to) };
        p.payload(&accepted[42..]).frame()
    };
    w.pump(vec![(0, by(ends(2 - n as u8)))]);
    assert_eq!(taken(&mut w), 0);
    w.pump(vec![(0, by(ends(n as u8 + 1)))]);
    assert_eq!(taken(&mut w), 1);
}

#[test]
fn a_client_that_acknowledges_what_only_the_server_can_have_said_proves_that_it_was_taken() {
    let mut w = World::new();
    let ack = w.handshake();
    w.lose = Box::new(|frame| kind(frame) == Some(4));
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let n = w.asked().unwrap();
    serve(&mut w, n, ack);
    let end = FIRST.wrapping_add(REQUEST.len() as u32);
    assert_eq!(w.director.migrations(w.now).accepted, 0);
    w.says(ACK, end, ack.wrapping_add(24), b"");
    assert_eq!(w.take_stack(n).pop().unwrap().ack, SSEQ.wrapping_add(25));
    w.passes(4_000);
    let now = w.now;
    let d = w.director.migrations(now);
    assert_eq!((d.accepted, d.unanswered, d.messages), (1, 0, 1));
}

#[test]
fn only_one_head_by_itself_is_asked_for_a_second_time() {
    for (request, again) in [(REQUEST.to_vec(), true), ([REQUEST, b"POST /buy"].concat(), false)] {
        let mut w = World::new();
        let ack = w.handshake();
        w.off = [true; 2];
        w.says(ACK | PSH, FIRST, ack, &request);
        let first = w.messages.iter().find(|m| kind(m) == Some(3)).unwrap()[..6].to_vec();
        w.off = [false; 2];
        w.lose = Box::new(move |frame| frame[..6] == first);
        w.passes(3_500);
        assert_eq!(w.asked().is_some(), again);
        assert_eq!(w.client.iter().any(|s| s.payload.starts_with(b"HTTP/1.1 504 ")), !again);
    }
}

#[test]
fn a_reset_that_may_be_right_for_the_filter_goes_to_it() {
    let mut w = World::new();
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let n = w.asked().unwrap();
    w.take_stack(n);
    // Beyond what the director knows: the client may have sent more.
    let end = FIRST.wrapping_add(REQUEST.len() as u32);
    w.says(RST, end.wrapping_add(100), 0, b"");
    assert_eq!(w.director.report(w.now).flows, 1, "the director does not end it by a guess");
    let n_flows = w.filters[n].report(w.now).flows;
    assert_eq!(n_flows, 1);
    serve_after(&mut w, n, ack);
}

/// The same as [`serve`], behind the SYN.
fn serve_after(w: &mut World, n: usize, ack: u32) {
    assert!(w.stack_says(n, SYN | ACK, SSEQ, FIRST, b"").is_empty());
    assert_eq!(payloads(&w.take_stack(n)), REQUEST);
    let end = FIRST.wrapping_add(REQUEST.len() as u32);
    assert_eq!(w.stack_says(n, ACK | PSH, SSEQ.wrapping_add(1), end, b"hello")[0].seq, ack);
    // Once the filter has it, a reset goes to the server, which is told to whom it belongs.
    w.says(RST, end, 0, b"");
    assert!(w.take_stack(n).iter().any(|s| s.flags & RST != 0 && s.seq == end));
}

#[test]
fn a_connection_over_full_nat_goes_to_a_filter_for_another_servers_request() {
    let mut w = World::deciding(Forward::Dr, true, true);
    w.off = [true; 2];
    w.passes(4_000);
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let syn = std::mem::take(&mut w.hosts[0]);
    let peer = syn[0].from;
    w.host_says(0, peer, SYN | ACK, (SSEQ, FIRST), b"");
    assert_eq!(payloads(&std::mem::take(&mut w.hosts[0])), REQUEST);
    let end = FIRST.wrapping_add(REQUEST.len() as u32);
    assert_eq!(w.host_says(0, peer, ACK | PSH, (SSEQ.wrapping_add(1), end), REPLY)[0].seq, ack);
    let next = ack.wrapping_add(43);
    w.says(ACK, end, next, b"");
    w.off = [false; 2];
    w.passes(1_100);
    w.says(ACK | PSH, end, next, B);
    let (end, next) = exchange(&mut w, 1, 9000, (end, next), B, REPLY);
    assert!(payloads(&std::mem::take(&mut w.hosts[0])).is_empty());
    // Back on the connection that is there still, or by its filter: where it is answered, the numbers are right.
    w.says(ACK | PSH, end, next, REQUEST);
    exchange(&mut w, 0, 77, (end, next), REQUEST, REPLY);
    let d = w.director.migrations(w.now);
    assert_eq!((d.fallback, d.sent, d.accepted, d.recalled), (1, 2, 2, 1));
}

#[test]
fn no_more_is_acknowledged_than_a_filter_is_given_after_a_recall_either() {
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    let told = w.says(ACK | PSH, end, next, &[B, REQUEST].concat());
    let after = end.wrapping_add(B.len() as u32);
    assert!(told.iter().any(|s| s.ack == after), "{told:?}");
    assert!(told.iter().all(|s| after.wrapping_sub(s.ack) as i32 >= 0), "{told:?}");
    exchange(&mut w, 1, 9000, (end, next), B, REPLY);
}

/// A chunk of 64 bytes, and what ends the body and asks for more, of the same length.
fn chunk_and_smuggler() -> (Vec<u8>, Vec<u8>) {
    let chunk = [b"40\r\n".as_slice(), &[b'x'; 64]].concat();
    let mut smuggler = b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
    smuggler.resize(chunk.len() - 4, b'y');
    smuggler.extend(b"\r\n\r\n");
    (chunk, smuggler)
}

const CHUNKED: &[u8] = b"POST /a2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

fn admits(segments: &[Segment]) -> bool {
    payloads(segments).windows(6).any(|b| b == b"/admin")
}

#[test]
fn what_a_filter_ignores_lets_no_request_pass_unread_while_it_waits() {
    let (chunk, smuggler) = chunk_and_smuggler();
    // While the response before is on its way.
    let mut w = World::each(Forward::Dr);
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let (end, next) = exchange(&mut w, 0, SSEQ, (FIRST, ack), REQUEST, &REPLY[..20]);
    w.says(ACK | PSH, end, next, CHUNKED);
    let at = end.wrapping_add(CHUNKED.len() as u32);
    w.says(ACK | PSH, at, next.wrapping_add(100_000), &chunk);
    w.says(ACK | PSH, at, next, &smuggler);
    let heard = w.stack_says(0, ACK | PSH, SSEQ.wrapping_add(21), end, &REPLY[20..]);
    assert_eq!(heard[0].seq, next);
    let next = next.wrapping_add(23);
    w.says(ACK, at, next, b"");
    let given = w.take_stack(0);
    assert!(!admits(&given) && payloads(&given).ends_with(CHUNKED), "{given:?}");
    // The body goes on, as it is.
    w.says(ACK | PSH, at, next, &chunk);
    assert_eq!(payloads(&w.take_stack(0)), chunk);
    // Read by now: its end can't come in other bytes of the same numbers; nor behind it.
    let at = at.wrapping_add(chunk.len() as u32);
    let [chunk, smuggler] = [[b"\r\n", chunk.as_slice()].concat(), [b"\r\n", smuggler.as_slice()].concat()];
    w.says(ACK | PSH, at, next.wrapping_add(100_000), &chunk);
    w.says(ACK | PSH, at, next, &smuggler);
    w.passes(3_000);
    assert!(!admits(&w.take_stack(0)));

    // While the server is being opened.
    let (chunk, smuggler) = chunk_and_smuggler();
    let mut w = World::each(Forward::Dr);
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, CHUNKED);
    let at = FIRST.wrapping_add(CHUNKED.len() as u32);
    w.says(ACK | PSH, at, ack.wrapping_add(100_000), &chunk);
    w.says(ACK | PSH, at, ack, &smuggler);
    w.stack_says(0, SYN | ACK, SSEQ, FIRST, b"");
    let given = w.take_stack(0);
    assert_eq!(payloads(&given), [CHUNKED, b"0\r\n\r\n"].concat());
    let end = at.wrapping_add(5);
    w.stack_says(0, ACK | PSH, SSEQ.wrapping_add(1), end, REPLY);
    w.says(ACK, end, ack.wrapping_add(43), b"");
    w.passes(1_000);
    assert!(!admits(&w.take_stack(0)));
}

#[test]
fn a_forged_syn_is_challenged_with_nothing_that_only_the_filter_can_have_got() {
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    w.says(ACK | PSH, end, next, b"POST /a2 HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
    let heard = w.says(SYN, end.wrapping_add(500), 0, b"");
    assert_eq!((heard.len(), heard[0].flags), (1, ACK));
    assert!(end.wrapping_sub(heard[0].ack) as i32 >= 0, "{heard:?}");
}

#[test]
fn a_challenge_stays_near_however_long_a_connection_is_the_filters() {
    /// Bytes of a body that are let pass unread at once.
    const MAX_SKIP: u32 = 1 << 30;
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    let head = b"POST /a2 HTTP/1.1\r\nHost: a\r\nContent-Length: 6000000000\r\n\r\n";
    w.says(ACK | PSH, end, next, head);
    let mut at = end.wrapping_add(head.len() as u32);
    for _ in 0..5 {
        // The next byte that is looked at; those before it are let pass.
        at = at.wrapping_add(MAX_SKIP);
        w.says(ACK | PSH, at, next, b"x");
        at = at.wrapping_add(1);
    }
    let heard = w.says(SYN, at, 0, b"");
    let behind = at.wrapping_sub(heard[0].ack) as i32;
    assert!(heard[0].flags == ACK && (0..1 << 30).contains(&behind), "{behind} {heard:?}");
}

#[test]
fn acknowledgements_do_not_use_up_the_questions() {
    let mut w = World::each(Forward::Dr);
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let (end, next) = exchange(&mut w, 0, SSEQ, (FIRST, ack), REQUEST, &REPLY[..40]);
    w.says(ACK | PSH, end, next.wrapping_sub(40), B);
    // The filter's answers are lost for some time, and the client goes on to acknowledge.
    w.lose = Box::new(|frame| kind(frame) == Some(5));
    for n in 1..=40 {
        w.now += 3 * MILLISECOND;
        let heard = w.says(ACK, end, next.wrapping_sub(40).wrapping_add(n), b"");
        assert!(heard.is_empty(), "{heard:?}");
    }
    w.lose = Box::new(|_| false);
    w.stack_says(0, ACK | PSH, SSEQ.wrapping_add(41), end, &REPLY[40..]);
    w.says(ACK, end, next.wrapping_add(3), b"");
    w.passes(300);
    exchange(&mut w, 1, 9000, (end, next.wrapping_add(3)), B, REPLY);
    assert_eq!(w.director.migrations(w.now).unanswered, 0);

    // Silence ends it all the same.
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    w.lose = Box::new(|frame| matches!(kind(frame), Some(2 | 5 | 8)));
    w.says(ACK | PSH, end, next.wrapping_sub(43), B);
    let mut heard = vec![];
    for n in 0..8_000u32 {
        w.now += 5 * MILLISECOND;
        heard.extend(w.says(ACK, end, next.wrapping_sub(43).wrapping_add(n % 43), b""));
    }
    assert!(heard.iter().any(|s| s.flags & RST != 0));
}

#[test]
fn a_server_that_has_answered_early_and_does_not_close_costs_the_connection_and_no_more() {
    for request in [B, &b"GET /a3 HTTP/1.1\r\nHost: a\r\n\r\n"[..]] {
        for acknowledged in [true, false] {
            let mut w = World::each(Forward::Dr);
            let (end, next) = begun(&mut w, REPLY);
            let head = b"POST /a2 HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n";
            w.says(ACK | PSH, end, next, head);
            let at = end.wrapping_add(head.len() as u32);
            let early = b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n";
            let heard = w.stack_says(0, ACK | PSH, SSEQ.wrapping_add(44), at, early);
            assert_eq!((heard[0].seq, heard[0].payload.as_slice()), (next, &early[..]));
            let after = next.wrapping_add(early.len() as u32);
            // The server drains it.
            w.says(ACK | PSH, at, next, b"0123456789");
            let at = at.wrapping_add(10);
            assert!(payloads(&w.take_stack(0)).ends_with(b"0123456789"));
            let mut heard = w.says(ACK | PSH, at, if acknowledged { after } else { next }, request);
            if !acknowledged {
                assert!(heard.is_empty(), "{heard:?}");
                heard = w.says(ACK, at, after, b"");
                w.passes(1_000);
                heard.append(&mut w.client);
            }
            assert!(heard.iter().any(|s| s.flags & RST != 0 && s.seq == after), "{heard:?}");
            let old = w.take_stack(0);
            assert!(old.iter().any(|s| s.flags & RST != 0 && s.seq == at), "{old:?}");
            let now = w.now;
            assert_eq!((w.director.report(now).flows, w.filters[0].report(now).flows), (0, 0));
        }
    }
}

#[test]
fn a_filter_that_lacks_the_body_before_says_so_and_takes_the_next_request_later() {
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    w.says(ACK | PSH, end, next, CHUNKED);
    w.take_stack(0);
    let at = end.wrapping_add(CHUNKED.len() as u32);
    w.stack_says(0, ACK, SSEQ.wrapping_add(44), at, b"");
    w.lose = Box::new(|frame| !is_message(frame) && frame[..6] == wire(0).0);
    w.says(ACK | PSH, at, next, b"0\r\n\r\n");
    w.lose = Box::new(|_| false);
    let again: &[u8] = b"GET /a3 HTTP/1.1\r\nHost: a\r\n\r\n";
    w.says(ACK | PSH, at.wrapping_add(5), next, again);
    w.passes(10_000);
    assert!(w.client.iter().all(|s| s.flags & RST == 0), "{:?}", w.client);
    assert!(payloads(&w.take_stack(0)).is_empty());
    w.says(ACK | PSH, at, next, b"0\r\n\r\n");
    assert_eq!(payloads(&w.take_stack(0)), b"0\r\n\r\n");
    let after = at.wrapping_add(5);
    w.stack_says(0, ACK | PSH, SSEQ.wrapping_add(44), after, REPLY);
    w.says(ACK, after, next.wrapping_add(43), b"");
    w.passes(2_100);
    assert!(payloads(&w.take_stack(0)).starts_with(again));
    assert_eq!(w.director.migrations(w.now).unanswered, 0);
}

/// The numbers of all messages of one kind.
fn numbers(w: &World, of: u8) -> Vec<u64> {
    let of = w.messages.iter().filter(|m| kind(m) == Some(of));
    of.map(|m| Body::read(&m[42..], &key()).unwrap().0.number).collect()
}

#[test]
fn a_question_that_is_asked_for_long_does_not_grow_old() {
    let mut w = World::each(Forward::Dr);
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let (end, next) = exchange(&mut w, 0, SSEQ, (FIRST, ack), REQUEST, &REPLY[..40]);
    w.says(ACK | PSH, end, next, B);
    w.passes(10_000);
    let asked = numbers(&w, 7);
    assert!(asked.len() > 4 && asked.windows(2).all(|n| n[0] < n[1]), "{asked:?}");
    w.stack_says(0, ACK | PSH, SSEQ.wrapping_add(41), end, &REPLY[40..]);
    let next = next.wrapping_add(3);
    // The answer to a question was on its way when the next one went.
    w.lose = Box::new(|frame| kind(frame) == Some(8));
    w.says(ACK, end, next, b"");
    w.passes(100);
    let question = w.messages.iter().rfind(|m| kind(m) == Some(7)).unwrap().clone();
    w.pump(vec![(0, resaid(&question, |h| Header { number: h.number + 1_000, ..h }))]);
    let asked = numbers(&w, 7);
    assert_eq!(numbers(&w, 8).last(), asked.last(), "{asked:?}");
}

#[test]
fn a_client_that_resets_while_its_connection_is_asked_back_leaves_nothing_behind() {
    let mut w = World::each(Forward::Dr);
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    let (end, next) = exchange(&mut w, 0, SSEQ, (FIRST, ack), REQUEST, &REPLY[..40]);
    w.says(ACK | PSH, end, next, B);
    w.passes(1_000);
    // The reset itself does not arrive.
    w.lose = Box::new(|frame| !is_message(frame) && frame[..6] == wire(0).0);
    w.says(RST, end, 0, b"");
    let now = w.now;
    assert_eq!((w.director.report(now).flows, w.filters[0].report(now).flows), (0, 0));
}

#[test]
fn a_director_with_another_session_is_told_that_the_connection_is_not_its_own() {
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    w.says(ACK | PSH, end, next.wrapping_sub(1), B);
    let of = |w: &World, of: u8| w.messages.iter().rfind(|m| kind(m) == Some(of)).unwrap().clone();
    let read = |m: &[u8]| Body::read(&m[42..], &key()).unwrap().0;
    let ping = w.messages.iter().rfind(|m| kind(m) == Some(1) && m[..6] == wire(0).0).unwrap().clone();
    w.pump(vec![(0, resaid(&ping, |h| Header { session: h.session ^ 1, number: 1, ..h }))]);
    let token = read(&of(&w, 2)).token;
    let recall = of(&w, 7);
    w.pump(vec![(0, resaid(&recall, |h| Header { session: h.session ^ 1, number: 2, token }))]);
    let answer = read(&of(&w, 5));
    assert_eq!((answer.session, answer.number), (read(&ping).session ^ 1, 2));
    // It means nothing to the connection.
    w.says(ACK, end, next, b"");
    w.passes(500);
    exchange(&mut w, 1, 9000, (end, next), B, REPLY);
}

#[test]
fn what_a_server_lacks_of_a_request_comes_again_whatever_else_is_in_the_segment() {
    let mut w = World::each(Forward::Dr);
    let (end, next) = begun(&mut w, REPLY);
    w.says(ACK | PSH, end, next, CHUNKED);
    let at = end.wrapping_add(CHUNKED.len() as u32);
    w.stack_says(0, ACK, SSEQ.wrapping_add(44), at, b"");
    let tail: &[u8] = b"0\r\n\r\n";
    w.says(ACK | PSH, at, next, tail);
    w.says(ACK | PSH, at.wrapping_add(5), next, CHUNKED);
    w.take_stack(0);
    // The server has not got it; nothing of the next request goes with it.
    w.says(ACK | PSH, at, next, &[tail, CHUNKED, b"5\r\nabcde"].concat());
    assert_eq!(payloads(&w.take_stack(0)), tail);
    let after = at.wrapping_add(5);
    w.stack_says(0, ACK | PSH, SSEQ.wrapping_add(44), after, REPLY);
    let next = next.wrapping_add(43);
    let body = after.wrapping_add(CHUNKED.len() as u32);
    w.says(ACK | PSH, body, next, b"5\r\nabcde");
    w.says(ACK | PSH, body, next, b"5\r\nabcde");
    let given = payloads(&w.take_stack(0));
    assert!(given.starts_with(CHUNKED) && given.ends_with(b"5\r\nabcde"), "{given:?}");
}
