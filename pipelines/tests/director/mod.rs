//! One director with one service that is switched by content, driven a segment at a time.
#![allow(dead_code)] // no test file uses all of it

use lcs_dataplane::cycles::NoMeter;
use lcs_dataplane::headers::build::{Packet, Transport, fill_icmp_checksum};
use lcs_dataplane::headers::parse::transport_checksum_ok;
use lcs_dataplane::headers::tcp::Tcp;
use lcs_dataplane::headers::tcp::flags::{ACK, SYN};
use lcs_dataplane::headers::{Kind, MacAddr, parse, protocol};
use lcs_dataplane::port::Port;
use lcs_dataplane::port::memory::MemoryPort;
use lcs_dataplane::worker::Worker;
use lcs_pipelines::command::{Acknowledgement, Command, Report};
use lcs_pipelines::content::{Binding, Content, Group};
use lcs_pipelines::extract::{Limits, Plan, Protocol};
use lcs_pipelines::layer4::Layer4;
use lcs_pipelines::matching::{self, Action, Expr, Relation, Rule, RuleSet, Stickiness, Term, Value, Variable};
use lcs_pipelines::placement::{self, ContentWorker};
use lcs_pipelines::snapshot::*;
use lcs_pipelines::stages::connection::Settings;
use lcs_pipelines::stages::schedule::SharedCounts;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub const DIRECTOR: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xd]);
pub const MILLISECOND: u64 = 1_000_000;
pub const CLIENT: &str = "192.0.2.1:1000";
pub const SERVICE: &str = "198.51.100.1:80";
pub const ISN: u32 = 0xffff_ffe0;
pub const SYN_OPTIONS: &[u8] = &[2, 4, 5, 0xb4, 1, 3, 3, 7, 1, 1, 4, 2];

/// A segment that the director has sent.
#[derive(Debug, Clone)]
pub struct Sent {
    pub bytes: Vec<u8>,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
    pub window: u16,
    /// The end of the tunnel that it goes through.
    pub tunnel: Option<std::net::Ipv4Addr>,
}

impl Sent {
    /// Takes a frame apart. Whatever the director sends has right checksums: those of all IP headers, and TCP's.
    pub fn read(whole: &[u8]) -> Sent {
        // IPv4 in IPv4 (RFC 2003), unwrapped as its end would.
        let wrapped = whole[12..14] == [8, 0] && whole[23] == protocol::IPIP;
        let tunnel = wrapped.then(|| {
            assert_eq!(ip_checksum(&whole[14..34]), 0, "of the tunnel's header: {whole:02x?}");
            [whole[30], whole[31], whole[32], whole[33]].into()
        });
        let b = &if wrapped { [&whole[..14], &whole[34..]].concat() } else { whole.to_vec() }[..];
        let p = parse(b, true).unwrap_or_else(|e| panic!("{e:?}: {b:02x?}"));
        assert_eq!(p.protocol, protocol::TCP);
        assert!(transport_checksum_ok(b, &p), "TCP's checksum is wrong: {b:02x?}");
        let t = Tcp::parse(&b[usize::from(p.l4)..usize::from(p.end)]).unwrap();
        let address = |n: usize| match p.kind {
            Kind::Transport4 => IpAddr::from(*b[26 + 4 * n..].first_chunk::<4>().unwrap()),
            _ => IpAddr::from(*b[22 + 16 * n..].first_chunk::<16>().unwrap()),
        };
        Sent {
            bytes: b.to_vec(),
            from: SocketAddr::new(address(0), t.source_port()),
            to: SocketAddr::new(address(1), t.destination_port()),
            flags: t.flags(),
            seq: t.seq().0,
            ack: t.ack().0,
            options: t.options().to_vec(),
            payload: t.payload().to_vec(),
            window: t.window(),
            tunnel,
        }
    }
}

/// The server whose SYN is among these segments.
pub fn server_asked(sent: &[Sent]) -> String {
    sent.iter().find(|s| s.flags == SYN).expect("a server is asked").to.to_string()
}

/// That a request's URL begins with this.
pub fn url(prefix: &str) -> Expr {
    let value = Value::Text(prefix.as_bytes().into());
    let relation = Relation::Prefix;
    Expr::Term(Term { variable: Variable::Url, relation, value, ignore_case: false })
}

/// The checksum of an IPv4 header, which is 0 where the one in it is right.
fn ip_checksum(header: &[u8]) -> u16 {
    u16::from_be(lcs_dataplane::checksum::Sum::ZERO.bytes(header).checksum())
}

pub struct Director {
    pub worker: Worker<MemoryPort, Layer4, NoMeter>,
    /// Decides requests, in `split` placement.
    pub content: Option<ContentWorker<NoMeter>>,
    pub now: u64,
    /// What it was told to do.
    pub snapshot: Arc<Snapshot>,
}

/// `split.rs` runs the other files' tests with content workers.
pub const SPLIT: bool = matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"split");

impl Director {
    /// One service, two servers, one rule, delayed binding.
    pub fn new() -> Self {
        Director::with(Binding::default(), &[])
    }

    /// The same with this binding, and rules before the one that takes all.
    pub fn with(binding: Binding, rules: &[Rule]) -> Self {
        Director::behind(Forward::Nat, binding, rules)
    }

    /// The same with servers reached in this way; where replies would not come back otherwise, from `10.0.0.100`.
    pub fn behind(forward: Forward, binding: Binding, rules: &[Rule]) -> Self {
        Director::placed(forward, binding, rules, SPLIT.then_some(placement::DEPTH))
    }

    /// The same without rules.
    pub fn layer4(forward: Forward) -> Self {
        Director::made(forward, None, &[], SPLIT.then_some(placement::DEPTH))
    }

    /// The same for clients that speak something else than HTTP.
    pub fn speaking(protocol: Protocol, binding: Binding, rules: &[Rule]) -> Self {
        Director::of(Forward::Nat, Some((protocol, binding)), rules, SPLIT.then_some(placement::DEPTH))
    }

    /// The same with a content worker behind a ring of so many places, or without.
    pub fn placed(forward: Forward, binding: Binding, rules: &[Rule], depth: Option<usize>) -> Self {
        Director::made(forward, Some(binding), rules, depth)
    }

    fn made(forward: Forward, binding: Option<Binding>, rules: &[Rule], depth: Option<usize>) -> Self {
        Director::of(forward, binding.map(|binding| (Protocol::Http, binding)), rules, depth)
    }

    fn of(forward: Forward, content: Option<(Protocol, Binding)>, rules: &[Rule], depth: Option<usize>) -> Self {
        let direct = matches!(forward, Forward::Dr | Forward::Tunnel);
        let mut s = Snapshot {
            interfaces: vec![Interface { name: "if0".into(), mac: DIRECTOR, mtu: 1500 }],
            when_full: WhenFull::EvictHalfOpen,
            ..Snapshot::default()
        };
        let at: SocketAddr = SERVICE.parse().unwrap();
        for n in 0..2u8 {
            s.servers.push(Some(Server {
                name: format!("s{n}"),
                service: 0,
                address: format!("10.0.0.{}", n + 1).parse().unwrap(),
                port: if direct { 80 } else { 8080 },
                forward,
                weight: 1,
                state: ServerState::Up,
                next_hop: u16::from(n),
                tunnel_source: (forward == Forward::Tunnel).then_some([10, 0, 0, 50].into()),
            }));
            s.next_hops.push(NextHop::new(MacAddr([2, 0, 0, 1, 0, n]), DIRECTOR, 0, 1500));
        }
        let to = Action::RouteTo { group: 0, stickiness: Stickiness::Service };
        let rule = Rule { name: "all".into(), condition: Expr::always(), action: to };
        let rules = rules.iter().cloned().chain([rule]).collect();
        let program = matching::compile(&RuleSet { rules }).unwrap();
        let content = content.map(|(protocol, binding)| Content {
            protocol,
            plan: Plan::new(&program, Limits::default()),
            program,
            groups: vec![Group { name: "g".into(), scheduler: Scheduler::Rr, servers: vec![0, 1] }],
            binding,
        });
        s.by_endpoint.insert((at.ip(), at.port(), 6), 0);
        s.own.insert(at.ip());
        let sources = if forward != Forward::Nat { vec![[10, 0, 0, 100].into()] } else { vec![] };
        s.own.extend(&sources);
        s.services.push(Some(Service {
            name: "web".into(),
            address: at.ip(),
            port: at.port(),
            protocol: 6,
            scheduler: Scheduler::Rr,
            servers: vec![0, 1],
            sources,
            source_ports: (2000, 2030),
            persistence: None,
            content: content.map(Arc::new),
        }));
        let port = MemoryPort::new(1, 64);
        let settings =
            Settings { flows: 16, fragments: 4, seed: 7, worker: 0, workers: 1, capabilities: port.capabilities() };
        let now = 1_000 * MILLISECOND;
        let counts = Arc::new(SharedCounts::new(1, 4));
        let mut pipeline = Layer4::new(settings, Arc::clone(&counts), now);
        let mut content = None;
        if let Some(depth) = depth {
            let (mut ports, mut ends) = placement::rings_of(1, 1, depth);
            pipeline = pipeline.with_content_workers(ports.remove(0));
            content = Some(ContentWorker::new(ends.remove(0), counts, NoMeter));
        }
        let worker = Worker::new(port, pipeline, NoMeter);
        let mut director = Director { worker, content, snapshot: Arc::new(s), now };
        director.publish(|_| {}, true);
        director
    }

    /// Publishes a changed snapshot to the port worker and, if so wanted, to the content worker.
    pub fn publish(&mut self, change: impl FnOnce(&mut Snapshot), everywhere: bool) {
        let snapshot = Arc::make_mut(&mut self.snapshot);
        change(snapshot);
        snapshot.generation += 1;
        let snapshot = Arc::clone(&self.snapshot);
        self.worker.command(Command::Install(Arc::clone(&snapshot)), self.now);
        if let Some(content) = self.content.as_mut().filter(|_| everywhere) {
            content.command(Command::Install(snapshot));
        }
    }

    /// What the port worker has counted.
    pub fn report(&mut self) -> Report {
        match self.worker.command(Command::Report(Box::default()), self.now) {
            Acknowledgement::Report(report) => *report,
            other => panic!("{other:?}"),
        }
    }

    /// One frame in, what comes out.
    pub fn receives(&mut self, frame: &[u8]) -> Vec<Sent> {
        assert!(self.worker.port_mut().inject(0, frame));
        self.turn()
    }

    /// The same, whatever comes out, as it is.
    pub fn receives_whole(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        assert!(self.worker.port_mut().inject(0, frame));
        self.worker.poll(self.now);
        let mut sent = vec![];
        self.worker.port_mut().take_sent(|_, b| sent.push(b.to_vec()));
        sent
    }

    pub fn passes(&mut self, milliseconds: u64) -> Vec<Sent> {
        self.now += milliseconds * MILLISECOND;
        self.turn()
    }

    /// A turn of all workers, until none has anything left to do.
    pub fn turn(&mut self) -> Vec<Sent> {
        self.worker.poll(self.now);
        self.worker.between(self.now);
        while self.content.as_mut().is_some_and(|content| content.poll() > 0) {
            self.worker.poll(self.now);
            self.worker.between(self.now);
        }
        self.sent()
    }

    /// A turn of the port worker alone.
    pub fn port_turn(&mut self) -> Vec<Sent> {
        self.worker.poll(self.now);
        self.worker.between(self.now);
        self.sent()
    }

    /// What has been sent since it was last asked.
    pub fn sent(&mut self) -> Vec<Sent> {
        let mut sent = vec![];
        self.worker.port_mut().take_sent(|_, whole| sent.push(Sent::read(whole)));
        sent
    }

    /// Puts a segment into the burst of the next turn.
    #[allow(clippy::too_many_arguments)] // a segment has so many parts
    pub fn puts(&mut self, from: &str, to: &str, flags: u8, seq: u32, ack: u32, options: &[u8], payload: &[u8]) {
        let mut p =
            Packet { destination_mac: DIRECTOR, ..Packet::tcp(from.parse().unwrap(), to.parse().unwrap(), flags) }
                .payload(payload);
        p.transport = Transport::Tcp { flags, seq, ack, window: 60_000, options: options.to_vec() };
        assert!(self.worker.port_mut().inject(0, &p.frame()));
    }

    /// One segment in, what comes out.
    #[allow(clippy::too_many_arguments)] // a segment has so many parts
    pub fn says(
        &mut self,
        from: &str,
        to: &str,
        flags: u8,
        seq: u32,
        ack: u32,
        options: &[u8],
        payload: &[u8],
    ) -> Vec<Sent> {
        self.puts(from, to, flags, seq, ack, options, payload);
        self.turn()
    }

    pub fn client(&mut self, flags: u8, seq: u32, ack: u32, payload: &[u8]) -> Vec<Sent> {
        self.says(CLIENT, SERVICE, flags, seq, ack, if flags == SYN { SYN_OPTIONS } else { &[] }, payload)
    }

    /// The handshake; the director's initial number plus one.
    pub fn handshake(&mut self) -> u32 {
        let answer = self.client(SYN, ISN, 0, b"");
        assert_eq!((answer.len(), answer[0].flags, answer[0].ack), (1, SYN | ACK, ISN.wrapping_add(1)));
        let ack = answer[0].seq.wrapping_add(1);
        assert!(self.client(ACK, ISN.wrapping_add(1), ack, b"").is_empty());
        ack
    }

    /// An ICMP error from a router about a segment that the director has sent.
    pub fn icmp(&mut self, kind: u8, code: u8, word: u32, about: &Sent) -> Vec<Sent> {
        let mut frame = about.bytes[..34].to_vec();
        frame[..6].copy_from_slice(&DIRECTOR.0);
        frame[6..12].copy_from_slice(&[2, 0, 0, 1, 0, 9]);
        let embedded = &about.bytes[14..14 + 28];
        let length = (20 + 8 + embedded.len()) as u16;
        frame[16..18].copy_from_slice(&length.to_be_bytes());
        frame[23] = 1;
        // From a router, to who has sent it.
        frame.copy_within(26..30, 30);
        frame[26..30].copy_from_slice(&[10, 0, 0, 254]);
        frame[24..26].fill(0);
        let sum = lcs_dataplane::checksum::Sum::ZERO.bytes(&frame[14..34]).checksum();
        frame[24..26].copy_from_slice(&sum.to_ne_bytes());
        frame.extend([kind, code, 0, 0]);
        frame.extend(word.to_be_bytes());
        frame.extend(embedded);
        fill_icmp_checksum(&mut frame[34..], None);
        self.receives(&frame)
    }
}
