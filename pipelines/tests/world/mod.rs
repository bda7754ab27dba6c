//! A director on the memory port, set up by lines of text. Interface 0 is the clients' side, 1 the servers'.
//!
//! ```text
//! worker flows=8 fragments=4                                  before everything else
//! when-full evict-half-open | refuse
//! interface if1 mtu=1400
//! service web tcp 198.51.100.1:80 rr [sources=10.9.0.1,10.9.0.2 ports=2000-2003] [persistent=60s/32]
//! server s1 of web 10.0.0.1:8080 nat [weight=1] [state=up] [mtu=1500] [if=1] [from=10.9.0.1] [unresolved]
//! route 192.0.2.0/24 via r1 | link                            r1 is a router; it gets an address of its own
//! timeout established 10s
//! own 10.9.0.7
//! weight s1 3            a command, not a new snapshot
//! resolve s1 | unresolve s1
//! remove s1              drains: out of its service, in its slot
//! forget s1              its slot becomes empty
//! ```
#![allow(dead_code)]

use crate::wire::packet::{Mac, mac};
use lcs_dataplane::DropReason;
use lcs_dataplane::cycles::NoMeter;
use lcs_dataplane::flow::TcpState;
use lcs_dataplane::headers::MacAddr;
use lcs_dataplane::port::Port;
use lcs_dataplane::port::memory::MemoryPort;
use lcs_dataplane::worker::{Nanos, Worker};
use lcs_pipelines::command::{Acknowledgement, Command, FlowPage, FlowView, Report};
use lcs_pipelines::layer4::Layer4;
use lcs_pipelines::snapshot::*;
use lcs_pipelines::stages::connection::Settings;
use lcs_pipelines::stages::schedule::SharedCounts;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Link-layer address of the client (or its router) on interface 0.
pub const CLIENT: Mac = [2, 0, 0, 0, 0xc0, 1];
/// Start of the worlds' time.
pub const START: Nanos = 1_000_000_000;
const BUFFERS: usize = 128;

pub fn interface_mac(i: u8) -> Mac {
    [2, 0, 0, 0, 0, i]
}

pub struct World {
    pub snapshot: Snapshot,
    pub settings: Settings,
    pub worker: Worker<MemoryPort, Layer4, NoMeter>,
    /// Routers by name, with the row that each has.
    routers: Vec<(String, u16)>,
    names: Vec<String>,
    pub now: Nanos,
}

/// A worker without services; `siblings` is the number of workers and this one's number.
pub fn bare(settings: &Settings, counts: &Arc<SharedCounts>) -> Worker<MemoryPort, Layer4, NoMeter> {
    let port = MemoryPort::new(2, BUFFERS);
    Worker::new(port, Layer4::new(settings.clone(), counts.clone(), START), NoMeter)
}

pub fn settings(flows: usize, fragments: usize) -> Settings {
    let capabilities = MemoryPort::new(2, 1).capabilities();
    Settings { flows, fragments, seed: 42, worker: 0, workers: 1, capabilities }
}

impl Default for World {
    fn default() -> Self {
        let interface = |i: u8| Interface { name: format!("if{i}"), mac: MacAddr(interface_mac(i)), mtu: 1500 };
        let settings = settings(64, 16);
        let worker = bare(&settings, &Arc::new(SharedCounts::new(1, 64)));
        let snapshot = Snapshot { interfaces: vec![interface(0), interface(1)], ..Default::default() };
        World { snapshot, settings, worker, routers: vec![], names: vec![], now: START }
    }
}

fn attribute<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words.iter().find_map(|w| w.strip_prefix(name).and_then(|r| r.strip_prefix('=')))
}

fn numeral<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is no number that fits here"))
}

pub fn seconds(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?}: write a time such as 0.5s");
    let n: f64 = text.strip_suffix('s').ok_or_else(bad)?.parse().map_err(|_| bad())?;
    Duration::try_from_secs_f64(n).map_err(|_| bad())
}

fn endpoint(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .or_else(|_| text.trim_matches(['[', ']']).parse::<IpAddr>().map(|a| SocketAddr::new(a, 0)))
        .map_err(|_| format!("{text:?}: write an address, with a port as in 192.0.2.1:80 or [2001:db8::1]:80"))
}

impl World {
    /// A world from such lines.
    pub fn of(lines: &[&str]) -> World {
        let mut world = World::default();
        for line in lines {
            if let Err(e) = world.line(line) {
                panic!("{line}: {e}");
            }
        }
        world.install();
        world
    }

    fn slot(&self, server: &str) -> Result<u16, String> {
        self.names
            .iter()
            .position(|n| n == server)
            .map(|i| i as u16)
            .ok_or_else(|| format!("there is no server {server:?}"))
    }

    fn router(&mut self, name: &str) -> u16 {
        if let Some((_, row)) = self.routers.iter().find(|(n, _)| n == name) {
            return *row;
        }
        let row = self.snapshot.next_hops.len() as u16;
        self.snapshot.next_hops.push(NextHop::new(
            MacAddr([2, 0, 0, 0, 2, row as u8]),
            MacAddr(interface_mac(0)),
            0,
            1500,
        ));
        self.routers.push((name.to_owned(), row));
        row
    }

    /// The link-layer address of a server, a router, `client`, `if0`, `if1`, or one in digits.
    pub fn mac(&self, name: &str) -> Result<Mac, String> {
        if let Some(slot) = self.names.iter().position(|n| n == name) {
            return Ok([2, 0, 0, 0, 1, slot as u8 + 1]);
        }
        if let Some((_, row)) = self.routers.iter().find(|(n, _)| n == name) {
            return Ok([2, 0, 0, 0, 2, *row as u8]);
        }
        match name {
            "client" => Ok(CLIENT),
            "if0" => Ok(interface_mac(0)),
            "if1" => Ok(interface_mac(1)),
            _ => mac(name),
        }
    }

    /// Obeys one line. Changes of the snapshot act at the next [`World::install`].
    pub fn line(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["worker", rest @ ..] => {
                let get = |name| attribute(rest, name).map_or(Ok(16), numeral);
                self.settings = settings(get("flows")?, get("fragments")?);
                self.worker = bare(&self.settings, &Arc::new(SharedCounts::new(1, 64)));
            }
            ["when-full", "evict-half-open"] => self.snapshot.when_full = WhenFull::EvictHalfOpen,
            ["when-full", "refuse"] => self.snapshot.when_full = WhenFull::Refuse,
            ["interface", name, rest @ ..] => {
                let i = self.snapshot.interfaces.iter_mut().find(|i| i.name == *name).ok_or("if0 or if1")?;
                i.mtu = attribute(rest, "mtu").map_or(Ok(1500), numeral)?;
            }
            ["timeout", state, time] => {
                let states = TcpState::ALL;
                let known = || states.map(TcpState::name).join(" ");
                let state = states
                    .into_iter()
                    .find(|s| s.name() == *state)
                    .ok_or_else(|| format!("the states are: {}", known()))?;
                self.snapshot.timeouts.set(state, seconds(time)?);
            }
            ["own", address] => {
                self.snapshot.own.insert(endpoint(address)?.ip());
            }
            ["route", prefix, via @ ..] => {
                let (address, length) = prefix.split_once('/').ok_or("write PREFIX/LENGTH")?;
                let via = match via {
                    ["link"] => Via::OnLink,
                    ["via", router] => Via::NextHop(self.router(router)),
                    _ => return Err("write: route PREFIX/LENGTH via ROUTER, or: … link".into()),
                };
                self.snapshot.routes.insert(endpoint(address)?.ip(), numeral(length)?, via);
            }
            ["service", name, transport, at, scheduler, rest @ ..] => {
                self.service(name, transport, at, scheduler, rest)?
            }
            ["server", name, "of", service, at, forward, rest @ ..] => self.server(name, service, at, forward, rest)?,
            ["weight", server, weight] => {
                let command = Command::SetWeight { server: self.slot(server)?, weight: numeral(weight)? };
                self.acknowledged(command)?;
            }
            ["resolve" | "unresolve", server] => {
                let slot = self.slot(server)?;
                let row =
                    self.snapshot.servers[usize::from(slot)].as_ref().map(|s| s.next_hop).ok_or("it is forgotten")?;
                let hop = &mut self.snapshot.next_hops[usize::from(row)];
                hop.resolved = words[0] == "resolve";
                let command = Command::SetNextHop { row, hop: *hop };
                self.acknowledged(command)?;
            }
            ["remove" | "forget", server] => {
                let slot = self.slot(server)?;
                for service in self.snapshot.services.iter_mut().flatten() {
                    service.servers.retain(|s| *s != slot);
                }
                let entry = &mut self.snapshot.servers[usize::from(slot)];
                match (words[0], entry) {
                    ("remove", Some(entry)) => entry.state = ServerState::Draining,
                    (_, entry) => *entry = None,
                }
            }
            _ => return Err("no such line; see pipelines/tests/vectors/README.md".into()),
        }
        Ok(())
    }

    fn acknowledged(&mut self, command: Command) -> Result<(), String> {
        match self.worker.command(command, self.now) {
            Acknowledgement::Done => Ok(()),
            other => Err(format!("the worker answered {other:?}")),
        }
    }

    fn service(&mut self, name: &str, transport: &str, at: &str, scheduler: &str, rest: &[&str]) -> Result<(), String> {
        let endpoint = endpoint(at)?;
        let protocol = match transport {
            "tcp" => 6,
            "udp" => 17,
            _ => return Err(format!("{transport:?}: tcp or udp")),
        };
        let scheduler = match scheduler {
            "rr" => Scheduler::Rr,
            "wrr" => Scheduler::Wrr,
            "lc" => Scheduler::Lc,
            "wlc" => Scheduler::Wlc,
            _ => return Err(format!("{scheduler:?}: rr, wrr, lc or wlc")),
        };
        let sources = attribute(rest, "sources").map_or(Ok(vec![]), |list| {
            list.split(',').map(|a| a.parse::<IpAddr>().map_err(|_| format!("{a:?} is no address"))).collect()
        })?;
        let source_ports = match attribute(rest, "ports") {
            Some(p) => {
                let (a, b) = p.split_once('-').ok_or("ports=FIRST-LAST")?;
                (numeral(a)?, numeral(b)?)
            }
            None => (1024, 65535),
        };
        let persistence = attribute(rest, "persistent").map(|p| -> Result<_, String> {
            let (time, mask) = p.split_once('/').ok_or("persistent=TIME/BITS")?;
            Ok(Persistence { timeout: seconds(time)?, mask4: numeral(mask)?, mask6: numeral(mask)? })
        });
        self.snapshot.own.insert(endpoint.ip());
        self.snapshot.own.extend(sources.iter().copied());
        let slot = self.snapshot.services.len() as u16;
        self.snapshot.by_endpoint.insert((endpoint.ip(), endpoint.port(), protocol), slot);
        self.snapshot.services.push(Some(Service {
            name: name.to_owned(),
            address: endpoint.ip(),
            port: endpoint.port(),
            protocol,
            scheduler,
            servers: vec![],
            sources,
            source_ports,
            content: None,
            persistence: persistence.transpose()?,
        }));
        Ok(())
    }

    fn server(&mut self, name: &str, service: &str, at: &str, forward: &str, rest: &[&str]) -> Result<(), String> {
        let endpoint = endpoint(at)?;
        let of = self.snapshot.services.iter().position(|s| s.as_ref().is_some_and(|s| s.name == service));
        let of = of.ok_or_else(|| format!("there is no service {service:?}"))?;
        let slot = self.names.iter().position(|n| n == name).unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.snapshot.servers.push(None);
            self.names.len() - 1
        });
        let forward = match forward {
            "nat" => Forward::Nat,
            "fullnat" => Forward::FullNat,
            "dr" => Forward::Dr,
            "tunnel" => Forward::Tunnel,
            _ => return Err(format!("{forward:?}: nat, fullnat, dr or tunnel")),
        };
        let state = match attribute(rest, "state").unwrap_or("up") {
            "up" => ServerState::Up,
            "draining" => ServerState::Draining,
            "down" => ServerState::Down,
            s => return Err(format!("{s:?}: up, draining or down")),
        };
        let interface = attribute(rest, "if").map_or(Ok(1), numeral)?;
        let mtu = attribute(rest, "mtu").map_or(Ok(1500), numeral)?;
        let mut hop = NextHop::new(MacAddr(self.mac(name)?), MacAddr(interface_mac(interface)), interface, mtu);
        hop.resolved = !rest.contains(&"unresolved");
        let row = match &self.snapshot.servers[slot] {
            Some(known) => {
                self.snapshot.next_hops[usize::from(known.next_hop)] = hop;
                known.next_hop
            }
            None => {
                self.snapshot.next_hops.push(hop);
                self.snapshot.next_hops.len() as u16 - 1
            }
        };
        let tunnel_source = match attribute(rest, "from") {
            Some(a) => Some(a.parse().map_err(|_| format!("{a:?} is no address"))?),
            None => None,
        };
        self.snapshot.own.extend(tunnel_source);
        self.snapshot.servers[slot] = Some(Server {
            name: name.to_owned(),
            service: of as u16,
            address: endpoint.ip(),
            port: endpoint.port(),
            forward,
            weight: attribute(rest, "weight").map_or(Ok(1), numeral)?,
            state,
            next_hop: row,
            tunnel_source,
        });
        if let Some(service) = &mut self.snapshot.services[of]
            && !service.servers.contains(&(slot as u16))
        {
            service.servers.push(slot as u16);
        }
        Ok(())
    }

    /// Publishes the snapshot as it is now.
    pub fn install(&mut self) {
        self.snapshot.generation += 1;
        self.worker.command(Command::Install(Arc::new(self.snapshot.clone())), self.now);
    }

    /// Lets time pass, serving timers as a worker does.
    pub fn advance(&mut self, by: Duration) {
        let end = self.now + by.as_nanos() as Nanos;
        while self.now < end {
            self.now = (self.now + 500_000_000).min(end);
            self.idle();
        }
    }

    /// What has gone out since the last burst: of frames that were held.
    pub fn sent(&mut self) -> Vec<(u8, Vec<u8>)> {
        let mut sent = vec![];
        self.worker.port_mut().take_sent(|i, b| sent.push((i, b.to_vec())));
        sent
    }

    /// Turns without frames.
    pub fn idle(&mut self) {
        for _ in 0..4 {
            self.worker.between(self.now);
        }
    }

    /// One burst through the worker: what was sent, in order.
    pub fn burst(&mut self, frames: &[(u8, Vec<u8>)]) -> Vec<(u8, Vec<u8>)> {
        for (interface, bytes) in frames {
            assert!(self.worker.port_mut().inject(*interface, bytes), "a frame of {} bytes", bytes.len());
        }
        self.worker.poll(self.now);
        let mut sent = vec![];
        self.worker.port_mut().take_sent(|i, b| sent.push((i, b.to_vec())));
        let pool = self.worker.port().pool();
        let held = self.worker.counters().held as usize;
        assert_eq!(pool.free + held, pool.total, "a buffer leaked: {pool:?}, {held} held");
        sent
    }

    /// What the worker has counted, servers' packets and bytes up to now among it.
    pub fn report(&mut self) -> Report {
        let mut report = Report { traffic: true, ..Report::default() };
        while !report.settled {
            report = self.ask(report);
        }
        report
    }

    /// What the worker answers when it is asked for a report once.
    pub fn ask(&mut self, report: Report) -> Report {
        match self.worker.command(Command::Report(Box::new(report)), self.now) {
            Acknowledgement::Report(r) => *r,
            other => panic!("{other:?}"),
        }
    }

    pub fn flows(&mut self) -> Vec<FlowView> {
        flows(&mut self.worker, self.now)
    }

    pub fn server_slot(&self, name: &str) -> usize {
        self.slot(name).map_or_else(|e| panic!("{e}"), usize::from)
    }
}

/// Every flow of a worker.
pub fn flows(worker: &mut Worker<MemoryPort, Layer4, NoMeter>, now: Nanos) -> Vec<FlowView> {
    let (mut all, mut cursor) = (vec![], 0);
    while cursor != FlowPage::END {
        let page = Box::new(FlowPage { cursor, limit: 1024, flows: vec![] });
        match worker.command(Command::ListFlows(page), now) {
            Acknowledgement::Flows(page) => {
                cursor = page.cursor;
                all.extend(page.flows);
            }
            other => panic!("{other:?}"),
        }
    }
    all
}

/// Frames that ended, by how: must grow by one for each frame.
pub fn ended(c: &lcs_dataplane::worker::Counters) -> u64 {
    c.forwarded + c.consumed + c.to_kernel + c.handed_over + c.held + c.dropped_total()
}

pub fn drop_reason(name: &str) -> Result<DropReason, String> {
    DropReason::from_name(name).ok_or_else(|| {
        format!(
            "{name:?} is no drop reason: {}",
            DropReason::ALL.iter().map(|r| r.name()).collect::<Vec<_>>().join(" ")
        )
    })
}
