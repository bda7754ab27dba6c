//! A director with real layer-4 workers over memory ports, turned in one loop, with clients and servers made of frames.
#![allow(dead_code)] // each test file uses a part

use lcs_control::config::{Configuration, Invalid};
use lcs_control::director::launch::{memory_environment, plan};
use lcs_control::director::{About, Control, Rings, Steering, Ticket};
use lcs_control::model::SteeringSets;
use lcs_control::protocol::{Applied, Failure, Request, Response};
use lcs_dataplane::cycles::NoMeter;
use lcs_dataplane::headers::MacAddr;
use lcs_dataplane::port::Port;
use lcs_dataplane::port::memory::MemoryPort;
use lcs_dataplane::worker::Worker;
use lcs_pipelines::layer4::Layer4;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const CLIENT_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xcc]);
const SECOND: u64 = 1_000_000_000;

/// Sets that were steered, in order, and whether to refuse.
#[derive(Default)]
pub struct Steered {
    pub sets: Vec<SteeringSets>,
    pub refuse: bool,
}

#[derive(Clone, Default)]
pub struct Recorder(pub Arc<Mutex<Steered>>);

impl Steering for Recorder {
    fn steer(&mut self, sets: &SteeringSets) -> Result<(), String> {
        let mut steered = self.0.lock().unwrap();
        if steered.refuse {
            return Err("the kernel says no".into());
        }
        steered.sets.push(sets.clone());
        Ok(())
    }
}

/// The file that `reload` reads.
pub type File = Arc<Mutex<String>>;

pub struct Lab {
    pub control: Control<Rings, Recorder>,
    pub workers: Vec<Worker<MemoryPort, Layer4, NoMeter>>,
    pub file: File,
    pub steered: Recorder,
    pub now: u64,
    /// Replies not yet asked for.
    replies: HashMap<Ticket, Vec<Result<Response, Failure>>>,
    /// Workers that do not run.
    pub stuck: Vec<usize>,
}

pub const HEAD: &str = "[port]\nkind = \"memory\"\ninterfaces = [\"eth0\"]\n[director]\naddresses = [\"10.0.0.254\"]\n\
                        [workers]\nflows = 4096\n";

/// Neighbour entries for servers 10.0.0.1 to 10.0.0.`n`.
pub fn neighbours(n: u8) -> String {
    (1..=n).map(|i| format!("[[neighbours]]\naddress = \"10.0.0.{i}\"\nmac = \"02:00:00:00:01:{i:02x}\"\n")).collect()
}

/// A NAT service on 192.0.2.`host`:80 with servers of these hosts and weights.
pub fn service(name: &str, host: u8, servers: &[(u8, u32)]) -> String {
    let mut text = format!("[[services]]\nname = \"{name}\"\naddress = \"192.0.2.{host}\"\nport = 80\nservers = [\n");
    for (server, weight) in servers {
        text += &format!("  {{ name = \"s{server}\", address = \"10.0.0.{server}\", weight = {weight} }},\n");
    }
    text + "]\n"
}

pub fn parse(text: &str) -> Result<Configuration, Invalid> {
    Configuration::parse("lab.toml", text)
}

impl Lab {
    pub fn new(text: &str) -> Self {
        let configuration = parse(text).unwrap_or_else(|e| panic!("{e}"));
        let file: File = Arc::new(Mutex::new(text.to_owned()));
        let (plans, rings) = plan(&configuration, 42);
        let workers = plans.into_iter().map(|p| p.build(MemoryPort::new(1, 512), NoMeter, SECOND)).collect();
        let steered = Recorder::default();
        let source = Arc::clone(&file);
        let about = About { configuration: "lab.toml".into(), port: vec!["memory".into()], cores: vec![] };
        let mut control = Control::new(rings, steered.clone(), memory_environment(&configuration), about)
            .with_source(Box::new(move || parse(&source.lock().unwrap())));
        control.configure(configuration).unwrap();
        let mut lab = Lab { control, workers, file, steered, now: SECOND, replies: HashMap::new(), stuck: Vec::new() };
        lab.until(|l| l.control.is_settled());
        lab
    }

    /// One turn of everything; a tenth of a millisecond passes.
    pub fn turn(&mut self) {
        self.now += 100_000;
        for (i, worker) in self.workers.iter_mut().enumerate() {
            if !self.stuck.contains(&i) {
                while worker.poll(self.now) > 0 {}
                assert!(worker.between(self.now));
            }
        }
        self.control.poll(Duration::from_nanos(self.now - SECOND));
        while let Some(reply) = self.control.reply() {
            let kept = self.replies.entry(reply.ticket).or_default();
            kept.push(reply.result);
            if !reply.more {
                kept.shrink_to_fit();
            }
        }
    }

    /// Turns until something holds; a minute of the lab's time at most.
    pub fn until(&mut self, mut holds: impl FnMut(&Lab) -> bool) {
        for _ in 0..600_000 {
            if holds(self) {
                return;
            }
            self.turn();
        }
        panic!("it does not come to pass");
    }

    pub fn advance(&mut self, time: Duration) {
        self.now += time.as_nanos() as u64;
        self.turn();
    }

    /// Asks, and turns until there is an answer.
    pub fn ask(&mut self, request: Request) -> Result<Response, Failure> {
        let ticket = self.control.submit(request);
        self.until(|l| l.replies.contains_key(&ticket));
        self.replies.remove(&ticket).unwrap().pop().unwrap()
    }

    pub fn answers(&mut self, ticket: Ticket) -> Vec<Result<Response, Failure>> {
        self.replies.remove(&ticket).unwrap_or_default()
    }

    pub fn apply(&mut self, request: Request) -> Applied {
        match self.ask(request) {
            Ok(Response::Applied(applied)) => applied,
            other => panic!("{other:?}"),
        }
    }

    pub fn write(&self, text: &str) {
        *self.file.lock().unwrap() = text.to_owned();
    }

    /// Sends a client's segment to 192.0.2.`host`:80 and returns the server that it comes out for, if it does.
    pub fn client(&mut self, host: u8, port: u16, flags: u8) -> Option<Ipv4Addr> {
        let worker = usize::from(port) % self.workers.len();
        let frame = tcp(
            (Ipv4Addr::new(198, 51, 100, 7), port),
            (Ipv4Addr::new(192, 0, 2, host), 80),
            flags,
            MacAddr([2, 0x6c, 0x63, 0x73, 0, 1]),
            CLIENT_MAC,
        );
        assert!(self.workers[worker].port_mut().inject(0, &frame));
        self.turn();
        let mut out = None;
        for worker in &mut self.workers {
            worker.port_mut().take_sent(|_, b| {
                assert!(out.is_none(), "one frame becomes one");
                out = Some(Ipv4Addr::new(b[30], b[31], b[32], b[33]));
            });
        }
        // What one worker has handed over, the other takes up in its next turn.
        if out.is_none() && self.workers.len() > 1 {
            self.turn();
            for worker in &mut self.workers {
                worker.port_mut().take_sent(|_, b| out = Some(Ipv4Addr::new(b[30], b[31], b[32], b[33])));
            }
        }
        out
    }

    /// A server's segment to the client's port; whether it came to the client.
    pub fn server(&mut self, from: Ipv4Addr, port: u16, flags: u8) -> bool {
        let worker = usize::from(port) % self.workers.len();
        let frame = tcp(
            (from, 80),
            (Ipv4Addr::new(198, 51, 100, 7), port),
            flags,
            MacAddr([2, 0x6c, 0x63, 0x73, 0, 1]),
            CLIENT_MAC,
        );
        assert!(self.workers[worker].port_mut().inject(0, &frame));
        let mut came = false;
        // What one worker has handed over, the other takes up in its next turn.
        for _ in 0..2 {
            self.turn();
            for worker in &mut self.workers {
                worker.port_mut().take_sent(|_, _| came = true);
            }
        }
        came
    }

    /// Frames dropped by all workers.
    pub fn dropped(&self) -> u64 {
        self.workers.iter().map(|w| w.counters().dropped_total()).sum()
    }

    /// No buffer is lost.
    pub fn check_buffers(&mut self) {
        for worker in &mut self.workers {
            worker.port_mut().take_sent(|_, _| {});
            let pool = worker.port().pool();
            assert_eq!((pool.free, pool.held), (pool.total, 0));
        }
    }
}

fn sum(bytes: &[u8], mut s: u32) -> u32 {
    for pair in bytes.chunks(2) {
        s += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    s
}

fn fold(mut s: u32) -> u16 {
    while s > 0xffff {
        s = (s & 0xffff) + (s >> 16);
    }
    !(s as u16)
}

/// A TCP segment without payload.
pub fn tcp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), flags: u8, dst: MacAddr, src: MacAddr) -> Vec<u8> {
    let mut f = Vec::with_capacity(54);
    f.extend_from_slice(&dst.0);
    f.extend_from_slice(&src.0);
    f.extend_from_slice(&[8, 0, 0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0]);
    f.extend_from_slice(&from.0.octets());
    f.extend_from_slice(&to.0.octets());
    let checksum = fold(sum(&f[14..34], 0));
    f[24..26].copy_from_slice(&checksum.to_be_bytes());
    f.extend_from_slice(&from.1.to_be_bytes());
    f.extend_from_slice(&to.1.to_be_bytes());
    f.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    let checksum = fold(sum(&f[34..54], sum(&f[26..34], 6 + 20)));
    f[50..52].copy_from_slice(&checksum.to_be_bytes());
    f
}
