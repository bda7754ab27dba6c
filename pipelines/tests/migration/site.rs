//! A director and two filters on memory ports, with a client and the hosts' stacks played segment by segment.

use lcs_dataplane::cycles::NoMeter;
use lcs_dataplane::headers::build::{Packet, Transport};
use lcs_dataplane::headers::parse::transport_checksum_ok;
use lcs_dataplane::headers::tcp::Tcp;
use lcs_dataplane::headers::tcp::flags::{ACK, PSH, RST, SYN};
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

pub const MILLISECOND: u64 = 1_000_000;
pub const CLIENT: &str = "192.0.2.1:1000";
pub const SERVICE: &str = "198.51.100.1:80";
pub const ISN: u32 = 0xffff_ffe0;
pub const FIRST: u32 = ISN.wrapping_add(1);
/// The servers' initial number.
pub const SSEQ: u32 = 0xffff_fff0;
pub const SYN_OPTIONS: &[u8] = &[2, 4, 5, 0xb4, 1, 1, 4, 2, 1, 3, 3, 7];
pub const REQUEST: &[u8] = b"GET /a/path HTTP/1.1\r\nHost: www.example.com\r\n\r\n";

/// The director's address toward the servers, where it falls back.
pub const SOURCE: [u8; 4] = [10, 0, 0, 99];

pub const DIRECTOR: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xd]);
pub const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xc]);

pub fn wire(n: usize) -> MacAddr {
    MacAddr([2, 0, 0, 1, 0, n as u8])
}

pub fn arm(n: usize) -> MacAddr {
    MacAddr([2, 0, 0, 2, 0, n as u8])
}

pub fn stack(n: usize) -> MacAddr {
    MacAddr([2, 0, 0, 3, 0, n as u8])
}

/// A TCP segment as its receiver gets it.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

pub fn segment(b: &[u8]) -> Segment {
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

pub struct Node {
    pub worker: Worker<MemoryPort, Layer4, NoMeter>,
    /// Decides requests, in `split` placement.
    content: Option<ContentWorker<NoMeter>>,
    snapshot: Arc<Snapshot>,
}

/// `split.rs` runs these tests with content workers.
const SPLIT: bool = matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"split");

pub fn key() -> ChannelKey {
    ChannelKey::from_secret(b"a secret of sixteen bytes or more")
}

/// All requests go to one group; with `each`, every request is decided, and what begins with /a and /b is for one server each, /no for none.
pub fn content(scheme: Scheme, servers: Vec<u16>, each: bool) -> Content {
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
    pub fn new(
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
        worker.command(Command::Install(Arc::clone(&snapshot)), now);
        Node { worker, content, snapshot }
    }

    /// Installs the snapshot once more, changed.
    pub fn reinstall(&mut self, now: u64, change: impl FnOnce(&mut Snapshot)) {
        let snapshot = Arc::make_mut(&mut self.snapshot);
        change(snapshot);
        snapshot.generation += 1;
        self.worker.command(Command::Install(Arc::clone(&self.snapshot)), now);
        if let Some(content) = &mut self.content {
            content.command(Command::Install(Arc::clone(&self.snapshot)));
        }
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

    /// One that asks its filters once an interval, and takes one for gone that is silent for three and a half.
    pub fn director(interval: Duration, forward: Forward, fallback: bool, each: bool, now: u64) -> Node {
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
        let timeout = interval * 7 / 2;
        let channel = Channel { key: key(), port: 7411, interval, timeout, fallback };
        Node::new(&[DIRECTOR], vec![server(0), server(1)], hops.to_vec(), (Scheme::Filter(channel), each), 7, now)
    }

    pub fn filter(n: usize, tunnels: bool, now: u64) -> Node {
        Node::filter_behind(NextHop::new(ROUTER, wire(n), 0, 1500), n, tunnels, now)
    }

    /// One that reaches clients by this way.
    pub fn filter_behind(way: NextHop, n: usize, tunnels: bool, now: u64) -> Node {
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
        let hops = vec![NextHop::new(stack(n), arm(n), 1, 1500), way];
        let listen = vec![([10, 0, 0, n as u8 + 1], 7411).into()];
        let receiver = Receiver { key: key(), listen, tunnels };
        Node::new(&[wire(n), arm(n)], vec![server], hops, (Scheme::Migrated(receiver), true), 100 + n as u64, now)
    }

    pub fn report(&mut self, now: u64) -> Report {
        match self.worker.command(Command::Report(Box::default()), now) {
            Acknowledgement::Report(r) => *r,
            other => panic!("{other:?}"),
        }
    }

    pub fn migrations(&mut self, now: u64) -> MigrationTally {
        self.report(now).content.services[0].as_ref().unwrap().migrations
    }

    pub fn dropped(&mut self, reason: DropReason, now: u64) -> u64 {
        self.report(now).counters.dropped[reason as usize]
    }
}

/// What is to be lost on the wire, by its frame.
pub type Loss = Box<dyn FnMut(&[u8]) -> bool>;

pub struct World {
    pub director: Node,
    pub filters: [Node; 2],
    pub now: u64,
    /// What has come to the client, and to the stacks.
    pub client: Vec<Segment>,
    pub stacks: [Vec<Segment>; 2],
    /// Every message between director and filters.
    pub messages: Vec<Vec<u8>>,
    pub lose: Loss,
    /// Hosts whose filters are off: what comes for their own addresses comes to their stacks.
    pub off: [bool; 2],
    pub hosts: [Vec<Segment>; 2],
}

pub fn is_message(frame: &[u8]) -> bool {
    frame[23] == 17
}

pub fn kind(frame: &[u8]) -> Option<u8> {
    is_message(frame).then(|| frame[14 + 28 + 5])
}

impl World {
    pub fn new() -> World {
        World::by(Forward::Dr)
    }

    pub fn by(forward: Forward) -> World {
        World::with(forward, false)
    }

    pub fn with(forward: Forward, fallback: bool) -> World {
        World::deciding(forward, fallback, false)
    }

    /// One that decides every request.
    pub fn each(forward: Forward) -> World {
        World::deciding(forward, false, true)
    }

    pub fn deciding(forward: Forward, fallback: bool, each: bool) -> World {
        World::asking(Duration::from_secs(1), forward, fallback, each)
    }

    /// One whose filters are asked once an interval whether they are there.
    pub fn asking(interval: Duration, forward: Forward, fallback: bool, each: bool) -> World {
        let tunnels = forward == Forward::Tunnel;
        let now = 1_000 * MILLISECOND;
        let mut w = World {
            director: Node::director(interval, forward, fallback, each, now),
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
    pub fn pump(&mut self, mut frames: Vec<(u8, Vec<u8>)>) {
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

    pub fn passes(&mut self, milliseconds: u64) {
        let end = self.now + milliseconds * MILLISECOND;
        while self.now < end {
            self.now = (self.now + 50 * MILLISECOND).min(end);
            self.pump(vec![]);
        }
    }

    pub fn frame(to: MacAddr, from: &str, at: &str, flags: u8, (seq, ack): (u32, u32), data: &[u8]) -> Vec<u8> {
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
    pub fn says(&mut self, flags: u8, seq: u32, ack: u32, data: &[u8]) -> Vec<Segment> {
        let frame = World::frame(DIRECTOR, CLIENT, SERVICE, flags, (seq, ack), data);
        self.pump(vec![(0, frame)]);
        std::mem::take(&mut self.client)
    }

    /// A host's stack says something to the client: it goes out of its second arm.
    pub fn stack_says(&mut self, n: usize, flags: u8, seq: u32, ack: u32, data: &[u8]) -> Vec<Segment> {
        let mut frame = World::frame(arm(n), SERVICE, CLIENT, flags, (seq, ack), data);
        frame[6..12].copy_from_slice(&stack(n).0);
        assert!(self.filters[n].worker.port_mut().inject(1, &frame));
        self.pump(vec![]);
        std::mem::take(&mut self.client)
    }

    /// A host itself says something to the director, beside its filter.
    pub fn host_says(
        &mut self,
        n: usize,
        to: SocketAddr,
        flags: u8,
        (seq, ack): (u32, u32),
        data: &[u8],
    ) -> Vec<Segment> {
        let frame = World::frame(DIRECTOR, &format!("10.0.0.{}:80", n + 1), &to.to_string(), flags, (seq, ack), data);
        self.pump(vec![(0, frame)]);
        std::mem::take(&mut self.client)
    }

    /// The handshake with the director; its initial number plus one.
    pub fn handshake(&mut self) -> u32 {
        let answer = self.says(SYN, ISN, 0, b"");
        assert_eq!((answer.len(), answer[0].flags, answer[0].ack), (1, SYN | ACK, FIRST));
        let ack = answer[0].seq.wrapping_add(1);
        assert!(self.says(ACK, FIRST, ack, b"").is_empty());
        ack
    }

    /// The stack that was sent a SYN.
    pub fn asked(&self) -> Option<usize> {
        (0..2).find(|&n| self.stacks[n].iter().any(|s| s.flags == SYN))
    }

    pub fn take_stack(&mut self, n: usize) -> Vec<Segment> {
        std::mem::take(&mut self.stacks[n])
    }

    pub fn state(&mut self) -> TcpState {
        let page = Box::new(FlowPage { cursor: 0, limit: 1024, flows: vec![] });
        match self.director.worker.command(Command::ListFlows(page), self.now) {
            Acknowledgement::Flows(page) => page.flows[0].state,
            other => panic!("{other:?}"),
        }
    }

    pub fn dropped(&mut self, n: usize, reason: DropReason) -> u64 {
        let now = self.now;
        self.filters[n].dropped(reason, now)
    }
}

/// A connection up to its first response, from the filter of host `n`.
pub fn serve(w: &mut World, n: usize, ack: u32) {
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

/// A connection over full NAT up to its first response, from host `n` itself; where its server's peer is.
pub fn serve_directly(w: &mut World, n: usize, ack: u32) -> SocketAddr {
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

pub const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
pub const B: &[u8] = b"GET /b HTTP/1.1\r\nHost: b\r\n\r\n";

pub fn payloads(segments: &[Segment]) -> Vec<u8> {
    segments.iter().flat_map(|s| s.payload.clone()).collect()
}

/// The host `n` is given `request` at `start`, its server answers with `reply`; `next` toward the client. Returns the numbers after both.
pub fn exchange(
    w: &mut World,
    n: usize,
    sseq: u32,
    (start, next): (u32, u32),
    request: &[u8],
    reply: &[u8],
) -> (u32, u32) {
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
pub fn begun(w: &mut World, reply: &[u8]) -> (u32, u32) {
    let ack = w.handshake();
    w.says(ACK | PSH, FIRST, ack, REQUEST);
    exchange(w, 0, SSEQ, (FIRST, ack), REQUEST, reply)
}

pub fn kinds(w: &World, from: usize) -> Vec<u8> {
    w.messages[from..].iter().filter_map(|m| kind(m)).filter(|k| *k > 2).collect()
}

/// The message in a frame, said again with another header, from and to these places if they are given.
pub fn resaid(frame: &[u8], change: impl FnOnce(Header) -> Header) -> Vec<u8> {
    let mut out = vec![];
    let (header, body) = Body::read(&frame[42..], &key()).unwrap();
    body.write(&change(header), &key(), &mut out);
    [&frame[..42], &out].concat()
}

/// A frame with a datagram's ends changed, from its sender back to it.
pub fn reflected(frame: &[u8]) -> Vec<u8> {
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

/// The same as [`serve`], behind the SYN.
pub fn serve_after(w: &mut World, n: usize, ack: u32) {
    assert!(w.stack_says(n, SYN | ACK, SSEQ, FIRST, b"").is_empty());
    assert_eq!(payloads(&w.take_stack(n)), REQUEST);
    let end = FIRST.wrapping_add(REQUEST.len() as u32);
    assert_eq!(w.stack_says(n, ACK | PSH, SSEQ.wrapping_add(1), end, b"hello")[0].seq, ack);
    // Once the filter has it, a reset goes to the server, which is told to whom it belongs.
    w.says(RST, end, 0, b"");
    assert!(w.take_stack(n).iter().any(|s| s.flags & RST != 0 && s.seq == end));
}

pub fn admits(segments: &[Segment]) -> bool {
    payloads(segments).windows(6).any(|b| b == b"/admin")
}

/// The numbers of all messages of one kind.
pub fn numbers(w: &World, of: u8) -> Vec<u64> {
    let of = w.messages.iter().filter(|m| kind(m) == Some(of));
    of.map(|m| Body::read(&m[42..], &key()).unwrap().0.number).collect()
}

/// A filter's answer to a message.
pub fn answer(frame: &[u8], body: &Body<'_>) -> Vec<u8> {
    let (header, _) = Body::read(&frame[42..], &key()).unwrap();
    let mut out = vec![];
    body.write(&header, &key(), &mut out);
    reflected(&[&frame[..42], &out].concat())
}
