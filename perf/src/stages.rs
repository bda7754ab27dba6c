//! `lcs perf stages`: what each stage of a pipeline costs, over the memory port, with N established flows in random order.
//!
//! The pipeline is the one that `lcs run` uses, worker loop included; only the port is in memory. Frames are written between the timed
//! parts, so their headers are warm in the cache, as after a device's direct cache access; the flows are as cold as their number makes them.

mod beside;
mod guessed;
pub mod plot;

pub use beside::{Beside, BesideError, Peer, SMALL};
pub use guessed::{Against, against_forwarding};

use crate::neighbour::{Sharing, Watch};
use crate::pauses::{BareLoop, Pauses, Turns};
use crate::range::{OutOfRange, in_range};
use crate::summary::Summary;
use crate::traffic::Traffic;
pub use crate::traffic::snapshot;
use crate::wire::Wire;
use beside::Running;
use lcs_dataplane::cycles::{Meter, NoMeter, StageCost, Tsc, tsc, tsc_hz};
use lcs_dataplane::flow::Memory;
use lcs_dataplane::headers::tcp::flags::{ACK, SYN};
use lcs_dataplane::port::Port;
use lcs_dataplane::port::memory::MemoryPort;
use lcs_dataplane::ring::Handover;
use lcs_dataplane::worker::Worker;
use lcs_pipelines::command::{Acknowledgement, Command, Report};
use lcs_pipelines::layer4::{Layer4, STAGES};
use lcs_pipelines::snapshot::{Forward, Snapshot};
use lcs_pipelines::stages::connection::Settings;
use lcs_pipelines::stages::schedule::SharedCounts;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// What to measure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// How packets reach the servers.
    pub forward: Forward,
    /// Established flows.
    pub flows: usize,
    /// Bytes of a frame on the wire, FCS included (64 is the smallest Ethernet frame).
    pub size: usize,
    /// Rounds, each with a figure of its own.
    pub rounds: usize,
    /// Packets a round.
    pub packets: usize,
    /// Virtual services.
    pub services: usize,
    /// Real servers, spread over the services.
    pub servers: usize,
    /// IPv6 instead of IPv4.
    pub ipv6: bool,
    /// Flows that the table holds; the number of flows and a fifth more when 0.
    pub capacity: usize,
    /// Connections are bound by content and spliced; with NAT only. Measured against NAT in the same run.
    pub splice: bool,
    /// Connections are bound by guesses that were right, one decision a connection; with NAT and direct routing only. Measured
    /// against plain forwarding in the same run.
    #[serde(default)]
    pub preallocate: bool,
    /// Measure the cost of cycle accounting as well: every round runs once with and once without it.
    pub accounting: bool,
    /// Measure something else as well, in turns with what was asked for.
    #[serde(default)]
    pub beside: Option<Peer>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            forward: Forward::Nat,
            flows: 1_000_000,
            size: 64,
            rounds: 21,
            packets: 200_000,
            services: 1,
            servers: 3,
            ipv6: false,
            capacity: 0,
            splice: false,
            preallocate: false,
            accounting: false,
            beside: None,
        }
    }
}

/// What cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum StagesError {
    /// A number out of its range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// What is to be measured beside us.
    #[error(transparent)]
    Beside(#[from] BesideError),
    /// What is switched by content is measured with what the bench can play.
    #[error("--pipeline splice and --pipeline preallocate are measured over IPv4 only: leave out --ipv6")]
    Splice,
    /// A guess was not right, or not taken for it.
    #[error(
        "{kept} of {flows} connections that were guessed rightly are still looked at; the figures would be of others"
    )]
    Guessed {
        /// Connections.
        flows: usize,
        /// Those that are not of layer 4.
        kept: usize,
    },
    /// Frames did not come out.
    #[error("{lost} of {sent} frames were not forwarded ({reasons}); the figures would not be of forwarding")]
    Lost {
        /// Frames put in.
        sent: u64,
        /// Frames that did not come out.
        lost: u64,
        /// Their reasons.
        reasons: String,
    },
}

/// Cost of one stage.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StageFigure {
    /// Name.
    pub name: String,
    /// TSC cycles for each packet that passed the pipeline (not only those that the stage saw).
    pub cycles_per_packet: Summary,
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
    /// Whole worker loop, established flows: TSC cycles a packet.
    pub cycles_per_packet: Summary,
    /// The same by whether the core was shared with another hardware thread; none where that can't be seen.
    #[serde(default)]
    pub sharing: Option<Sharing>,
    /// The same in nanoseconds.
    pub ns_per_packet: Summary,
    /// Millions of packets a second on this core.
    pub mpps: Summary,
    /// Whole worker loop, first packets of new flows: TSC cycles each; where flows are opened by a packet alone.
    pub new_flow_cycles: Option<Summary>,
    /// Millions of new flows a second on this core; the same.
    pub new_flows_mps: Option<f64>,
    /// Turns of the loop while the table was filled.
    pub filling: Pauses,
    /// Turns of the loop while all flows expired.
    pub expiring: Pauses,
    /// What the machine itself does to a loop on this core.
    pub bare_loop: BareLoop,
    /// Bytes of state a flow: entry, index, and address for IPv6.
    pub bytes_per_flow: f64,
    /// Splicing: ratio of its cost to NAT's, by round.
    pub splice_ratio: Option<Summary>,
    /// Right guesses: ratio of their cost to plain forwarding's, by round.
    #[serde(default)]
    pub preallocate_ratio: Option<Summary>,
    /// Ratio of the cost with cycle accounting to that without, by round; present when asked for.
    pub accounting_ratio: Option<Summary>,
    /// What was measured in turns with it; present when asked for.
    #[serde(default)]
    pub beside: Option<Beside>,
}

/// Frames put on the wire at a time: eight bursts.
pub(crate) const GROUP: usize = 256;
/// Servers at most, and services, which have one each at least.
const SERVERS: usize = 49_152;
/// The worker's time while flows are open.
pub(crate) const NOW: u64 = 1_000_000_000;
/// When all flows have been idle for longer than any time-out.
const LATER: u64 = NOW + 3_600_000_000_000;

pub(crate) struct Bench<P, M> {
    pub(crate) worker: Worker<P, Layer4, M>,
    pub(crate) traffic: Traffic,
    options: Options,
}

/// A worker over `port`, of this number among so many, that has the snapshot.
pub(crate) fn worker<P: Port, M: Meter>(
    o: &Options,
    port: P,
    meter: M,
    (worker, workers): (u8, u8),
    snapshot: Snapshot,
) -> Worker<P, Layer4, M> {
    let settings = Settings {
        flows: if o.capacity == 0 { o.flows + o.flows / 5 } else { o.capacity },
        fragments: 1024,
        seed: 1,
        worker,
        workers,
        capabilities: port.capabilities(),
    };
    let counts = Arc::new(SharedCounts::new(usize::from(workers), o.servers));
    let mut worker = Worker::new(port, Layer4::new(settings, counts, NOW), meter);
    worker.command(Command::Install(Arc::new(snapshot)), NOW);
    worker
}

impl<M: Meter> Bench<MemoryPort, M> {
    fn new(o: &Options, meter: M) -> Self {
        Self::on(o, MemoryPort::new(1, GROUP * if o.splice || o.preallocate { 4 } else { 2 }), meter)
    }

    /// Over the memory port, with all flows open.
    #[cfg(feature = "dpdk")]
    pub(crate) fn in_memory(o: &Options, meter: M) -> Result<Self, StagesError> {
        let mut bench = Self::new(o, meter);
        bench.fill()?;
        Ok(bench)
    }
}

impl<P: Wire, M: Meter> Bench<P, M> {
    /// The port, between two rounds: nothing is on the wire then.
    #[cfg(feature = "dpdk")]
    pub(crate) fn port_mut(&mut self) -> &mut P {
        self.worker.port_mut()
    }

    /// A bench over `port`, which has nothing on the wire.
    pub(crate) fn on(o: &Options, port: P, meter: M) -> Self {
        Bench { worker: worker(o, port, meter, (0, 1), snapshot(o)), traffic: Traffic::new(o), options: o.clone() }
    }

    /// The bench of the worker of a number among so many.
    pub(crate) fn among(o: &Options, port: P, meter: M, number: (u8, u8), handover: Option<Handover>) -> Self {
        let mut worker = worker(o, port, meter, number, snapshot(o));
        if let Some(handover) = handover {
            worker = worker.with_handover(handover);
        }
        Bench { worker, traffic: Traffic::new(o), options: o.clone() }
    }

    /// What was asked for.
    pub(crate) fn options(&self) -> &Options {
        &self.options
    }
    /// Runs the worker over everything on the wire; returns the cycles.
    fn drain(&mut self, turns: &mut Turns) -> u64 {
        let mut sum = 0;
        while self.worker.port().waiting() > 0 {
            let worker = &mut self.worker;
            sum += turns.time(|| {
                worker.poll(NOW);
            });
        }
        sum
    }

    /// Lets all flows expire, as the worker does between batches; returns the turns.
    fn expire(&mut self) -> Turns {
        let mut turns = Turns::with_capacity(self.options.flows / 32 + 1024);
        while self.worker.pipeline().flows() > 0 {
            let worker = &mut self.worker;
            turns.time(|| {
                worker.poll(LATER);
                worker.between(LATER);
            });
        }
        turns
    }

    /// Opens all flows; returns the cycles for each new flow, by group, and the turns.
    pub(crate) fn fill(&mut self) -> Result<(Vec<f64>, Turns), StagesError> {
        let flows = self.options.flows;
        let mut costs = Vec::with_capacity(flows / GROUP + 1);
        if self.options.splice {
            let mut n = 0;
            while n < flows {
                let group = GROUP.min(flows - n);
                self.splice(n, n + group)?;
                n += group;
            }
            return Ok((vec![], Turns::with_capacity(1)));
        }
        if self.options.preallocate {
            let kept = self.guess_all()?;
            if kept > 0 {
                return Err(StagesError::Guessed { flows, kept });
            }
            return Ok((vec![], Turns::with_capacity(1)));
        }
        let mut turns = Turns::with_capacity(flows / 32 + 1024);
        let mut n = 0;
        while n < flows {
            let group = GROUP.min(flows - n);
            for k in n..n + group {
                let _ = self.traffic.inject(self.worker.port_mut(), 0, self.traffic.client_side(k), SYN, None, 0);
            }
            let cycles = self.drain(&mut turns);
            costs.push(cycles as f64 / group as f64);
            let traffic = &mut self.traffic;
            let sent = self.worker.port_mut().take_sent(|_, b| traffic.opened(b));
            if sent != group {
                return Err(self.lost(group as u64, sent as u64));
            }
            n += group;
        }
        // The server's answer, where the director sees it, and the client's second packet establish each connection.
        let mut establishing = Turns::default();
        for flags in [SYN | ACK, ACK] {
            let mut n = 0;
            while n < flows {
                let group = GROUP.min(flows - n);
                for k in n..n + group {
                    let client = flags == ACK;
                    let pair = if client { Some(self.traffic.client_side(k)) } else { self.traffic.server_side(k) };
                    if let Some(pair) = pair {
                        let _ = self.traffic.inject(self.worker.port_mut(), 0, pair, flags, None, 0);
                    }
                }
                self.drain(&mut establishing);
                self.worker.port_mut().take_sent(|_, _| {});
                n += group;
            }
        }
        Ok((costs, turns))
    }

    /// Carries the connections `from..to`, whose SYNs are answered, to where their responses pass: the request is delivered, and
    /// a response has begun whose end is far away, and has gone on by a segment. Sequence numbers are such that the template's segments
    /// are right.
    fn splice(&mut self, from: usize, to: usize) -> Result<(), StagesError> {
        use crate::connections::frame;
        use lcs_dataplane::headers::tcp::flags::PSH;
        let request = b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n";
        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
        let mut quiet = Turns::default();
        let numbers = |b: &[u8]| {
            let at = |at: usize| u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
            (at(38), at(42), b[47])
        };
        for k in from..to {
            let (client, service) = self.traffic.client_side(k);
            let _ = self.worker.port_mut().inject(0, &frame(client, service, SYN, 0, 0, &[]));
        }
        self.drain(&mut quiet);
        let mut firsts = vec![];
        self.worker.port_mut().take_sent(|_, b| firsts.push(numbers(b).0));
        for (k, isn) in (from..to).zip(&firsts) {
            let (client, service) = self.traffic.client_side(k);
            let (flags, ack) = (ACK | PSH, isn.wrapping_add(1));
            let _ = self.worker.port_mut().inject(0, &frame(client, service, flags, 1, ack, request));
        }
        self.drain(&mut quiet);
        // A SYN for every connection, in order; between them what is acknowledged to the clients.
        let before = self.traffic.open();
        let traffic = &mut self.traffic;
        let mut answers = vec![];
        self.worker.port_mut().take_sent(|_, b| {
            if numbers(b).2 & SYN == 0 {
                return;
            }
            let at = |at: usize| u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
            let port = |at: usize| u16::from_be_bytes([b[at], b[at + 1]]);
            traffic.opened(b);
            let (server, client) = (IpAddr::V4(Ipv4Addr::from(at(30))), IpAddr::V4(Ipv4Addr::from(at(26))));
            answers.push((SocketAddr::new(server, port(36)), SocketAddr::new(client, port(34))));
        });
        let opened = self.traffic.open() - before;
        if opened != to - from {
            return Err(self.lost((to - from) as u64, opened as u64));
        }
        for (server, client) in &answers {
            let _ = self.worker.port_mut().inject(0, &frame(*server, *client, SYN | ACK, 0, 1, &[]));
        }
        self.drain(&mut quiet);
        self.worker.port_mut().take_sent(|_, _| {});
        let more = 1 + response.len() as u32;
        for (seq, payload) in [(1, &response[..]), (more, &[b'x'; 100])] {
            for (server, client) in &answers {
                let ack = 1 + request.len() as u32;
                let _ = self.worker.port_mut().inject(0, &frame(*server, *client, ACK | PSH, seq, ack, payload));
            }
            self.drain(&mut quiet);
            self.worker.port_mut().take_sent(|_, _| {});
        }
        Ok(())
    }

    fn lost(&self, sent: u64, got: u64) -> StagesError {
        use lcs_dataplane::DropReason;
        let counters = self.worker.counters();
        let reasons: Vec<String> = DropReason::ALL
            .iter()
            .filter(|r| counters.dropped_for(**r) > 0)
            .map(|r| format!("{r}: {}", counters.dropped_for(*r)))
            .collect();
        StagesError::Lost { sent, lost: sent - got, reasons: reasons.join(", ") }
    }

    /// One round over established flows in random order, from both sides where replies come back. Returns cycles a packet.
    pub(crate) fn round(&mut self) -> Result<f64, StagesError> {
        let o = self.options.clone();
        let (mut cycles, mut packets) = (0, 0);
        let mut turns = Turns::with_capacity(o.packets / 32 + 8);
        while packets < o.packets {
            for _ in 0..GROUP {
                let pair = self.traffic.any(o.flows);
                let ok = self.traffic.inject(self.worker.port_mut(), 0, pair, ACK, None, 0);
                debug_assert!(ok);
            }
            cycles += self.drain(&mut turns);
            let sent = self.worker.port_mut().take_sent(|_, _| {});
            if sent != GROUP {
                return Err(self.lost(GROUP as u64, sent as u64));
            }
            packets += GROUP;
        }
        Ok(cycles as f64 / packets as f64)
    }

    fn report(&mut self) -> Box<Report> {
        match self.worker.command(Command::Report(Box::default()), NOW) {
            Acknowledgement::Report(report) => report,
            _ => Box::default(),
        }
    }
}

pub(crate) fn check(o: &Options) -> Result<(), StagesError> {
    if let Some(peer) = o.beside {
        beside::check(peer, o)?;
    }
    let guessable = matches!(o.forward, Forward::Nat | Forward::Dr);
    if (o.splice && (o.ipv6 || o.forward != Forward::Nat)) || (o.preallocate && (o.ipv6 || !guessable)) {
        return Err(StagesError::Splice);
    }
    in_range("--flows", o.flows, 1, 50_000_000)?;
    in_range("--size", o.size, if o.ipv6 { 78 } else { 64 }, 1518)?;
    in_range("--rounds", o.rounds, 1, 10_000)?;
    in_range("--packets", o.packets, 1, 1_000_000_000)?;
    in_range("--services", o.services, 1, SERVERS)?;
    in_range("--servers", o.servers, o.services, SERVERS)?;
    if o.capacity != 0 {
        in_range("--capacity", o.capacity, o.flows, 1 << 30)?;
    }
    Ok(())
}

/// Measures. `progress` is told what is being done.
///
/// # Errors
/// Options out of range, or frames that the pipeline did not forward.
pub fn measure(o: &Options, mut progress: impl FnMut(&str)) -> Result<Figures, StagesError> {
    check(o)?;
    let hz = tsc_hz();
    progress(&format!("opening {} flows and letting them expire", o.flows));
    let mut first = Bench::new(o, Tsc);
    let (_, first_filling) = first.fill()?;
    let first_expiring = first.expire();
    drop(first);
    progress("opening them again");
    let started = tsc();
    let mut bench = Bench::new(o, Tsc);
    let (fill, filling) = bench.fill()?;
    let took = tsc() - started;
    // The second half: the table is as full as it will be.
    let new_flow_cycles = (!fill.is_empty()).then(|| Summary::of(fill[fill.len() / 2..].to_vec()));
    let mut silent = if o.accounting {
        progress("opening them again for the run without accounting");
        let mut silent = Bench::new(o, NoMeter);
        silent.fill()?;
        Some(silent)
    } else {
        None
    };
    let mut nat = if o.splice || o.preallocate {
        progress("opening as many flows that are forwarded only");
        let mut nat = Bench::new(&Options { splice: false, preallocate: false, ..o.clone() }, Tsc);
        nat.fill()?;
        nat.round()?;
        Some(nat)
    } else {
        None
    };
    let mut peer = if let Some(peer) = o.beside {
        progress("opening as many flows in what is measured beside");
        let mut running = Running::start(peer, o)?;
        running.round()?;
        Some((peer, running, vec![], vec![]))
    } else {
        None
    };
    let mut ratios_to_plain = vec![];
    bench.round()?;
    let mut whole = vec![];
    let (mut watch, mut beside_us) = (Watch::default(), Watch::default());
    let mut ratios = vec![];
    let names: Vec<&str> = std::iter::once("receive").chain(STAGES).chain(std::iter::once("transmit")).collect();
    let mut stages: Vec<Vec<f64>> = vec![vec![]; names.len()];
    let costs = |r: &Report| -> Vec<StageCost> {
        let inner = r.stages.iter().map(|(_, c)| *c);
        std::iter::once(r.counters.receive).chain(inner).chain(std::iter::once(r.counters.transmit)).collect()
    };
    for round in 0..o.rounds {
        progress(&format!("round {} of {}", round + 1, o.rounds));
        let before = bench.report();
        let cost = watch.round(|| bench.round())?;
        let after = bench.report();
        whole.push(cost);
        let packets = (after.counters.received - before.counters.received) as f64;
        for ((into, b), a) in stages.iter_mut().zip(costs(&before)).zip(costs(&after)) {
            into.push(a.since(&b).cycles as f64 / packets);
        }
        if let Some(nat) = &mut nat {
            // In the order measured, plain, plain, measured, so that drift cancels out.
            let (first, second) = (nat.round()?, nat.round()?);
            ratios_to_plain.push((cost + bench.round()?) / (first + second));
        }
        if let Some((_, peer, its, ratios)) = &mut peer {
            let (first, second, again) =
                beside_us.round(|| -> Result<_, StagesError> { Ok((peer.round()?, peer.round()?, bench.round()?)) })?;
            ratios.push((cost + again) / (first + second));
            its.extend([first, second]);
        }
        if let Some(silent) = &mut silent {
            // Two more, in the other order, so that drift cancels out.
            let without = silent.round()?;
            let without_again = silent.round()?;
            let again = bench.round()?;
            ratios.push((cost + again) / (without + without_again));
        }
    }
    let report = bench.report();
    progress("letting them expire");
    let expiring = bench.expire();
    drop(bench);
    let bytes = report.memory.map_or(0.0, |m: Memory| {
        let v6 = if o.ipv6 { m.addresses_v6 } else { 0 };
        ((m.entries + m.index + v6) as f64 / report.capacity as f64)
            + if o.splice { lcs_pipelines::SPLICE_BYTES as f64 } else { 0.0 }
    });
    let sharing = watch.sort(&whole);
    let cycles = Summary::of(whole);
    let inverse = |s: &Summary| Summary {
        median: hz as f64 / s.median / 1e6,
        min: hz as f64 / s.max / 1e6,
        max: hz as f64 / s.min / 1e6,
        quartiles: (hz as f64 / s.quartiles.1 / 1e6, hz as f64 / s.quartiles.0 / 1e6),
        rounds: s.rounds,
    };
    Ok(Figures {
        options: o.clone(),
        tsc_hz: hz,
        stages: names
            .iter()
            .zip(stages)
            .map(|(name, v)| StageFigure { name: (*name).to_owned(), cycles_per_packet: Summary::of(v) })
            .collect(),
        cycles_per_packet: cycles,
        sharing,
        ns_per_packet: cycles.scaled(1e9 / hz as f64),
        mpps: inverse(&cycles),
        new_flow_cycles,
        new_flows_mps: new_flow_cycles.map(|n| hz as f64 / n.median / 1e6),
        filling: Pauses::of(&first_filling, &filling, hz),
        expiring: Pauses::of(&first_expiring, &expiring, hz),
        bare_loop: BareLoop::run(took, hz),
        bytes_per_flow: bytes,
        splice_ratio: o.splice.then(|| Summary::of(ratios_to_plain.clone())),
        preallocate_ratio: o.preallocate.then(|| Summary::of(ratios_to_plain)),
        accounting_ratio: (!ratios.is_empty()).then(|| Summary::of(ratios)),
        beside: peer.map(|(peer, _, its, ratios)| Beside {
            peer,
            cycles_per_packet: Summary::of(its),
            sharing: beside_us.sort(&ratios),
            ratio: Summary::of(ratios),
        }),
    })
}

impl Figures {
    /// What packets passed, in a few words.
    fn subject(&self) -> String {
        let o = &self.options;
        let how = match (o.splice, o.preallocate) {
            (true, _) => "Splice".to_owned(),
            (_, true) => format!("Right guesses over {:?}", o.forward),
            _ => format!("{:?}", o.forward),
        };
        format!("{how} over {}, {} flows", if o.ipv6 { "IPv6" } else { "IPv4" }, o.flows)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let o = &self.options;
        writeln!(
            f,
            "{} in random order, {} B frames, {} services, {} servers, {} rounds of {} packets",
            self.subject(),
            o.size,
            o.services,
            o.servers,
            o.rounds,
            o.packets
        )?;
        writeln!(f, "TSC {:.3} GHz; cycles are TSC cycles; median (quartiles)", self.tsc_hz as f64 / 1e9)?;
        writeln!(f, "\n{:<12} {:>14} {:>20} {:>8}", "stage", "cycles/packet", "quartiles", "share")?;
        for stage in &self.stages {
            let s = &stage.cycles_per_packet;
            let share = 100.0 * s.median / self.cycles_per_packet.median;
            let quartiles = format!("{:.1} – {:.1}", s.quartiles.0, s.quartiles.1);
            writeln!(f, "{:<12} {:>14.1} {quartiles:>20} {share:>7.1}%", stage.name, s.median)?;
        }
        let s = &self.cycles_per_packet;
        let quartiles = format!("{:.1} – {:.1}", s.quartiles.0, s.quartiles.1);
        writeln!(f, "{:<12} {:>14.1} {quartiles:>20} {:>7.1}%", "whole loop", s.median, 100.0)?;
        if let Some(sharing) = &self.sharing {
            writeln!(f, "{sharing}")?;
        }
        writeln!(f, "\n{:.1} ns/packet, {:.2} Mpps on one core", self.ns_per_packet.median, self.mpps.median)?;
        if let (Some(n), Some(mps)) = (&self.new_flow_cycles, self.new_flows_mps) {
            writeln!(
                f,
                "new flow: {:.0} cycles ({:.0} – {:.0}), {mps:.2} M new flows/s",
                n.median, n.quartiles.0, n.quartiles.1
            )?;
        }
        writeln!(f, "turns while filling: {}", self.filling)?;
        writeln!(f, "turns while expiring: {}", self.expiring)?;
        writeln!(f, "{}", self.bare_loop)?;
        write!(f, "state: {:.1} bytes a flow", self.bytes_per_flow)?;
        if let Some(r) = &self.splice_ratio {
            write!(f, "\nsplice / NAT, interleaved: {:.3} ({:.3} – {:.3})", r.median, r.quartiles.0, r.quartiles.1)?;
        }
        if let Some(r) = &self.preallocate_ratio {
            let (r, low, high) = (r.median, r.quartiles.0, r.quartiles.1);
            write!(f, "\nright guess / plain forwarding, interleaved: {r:.3} ({low:.3} – {high:.3})")?;
        }
        if let Some(beside) = &self.beside {
            write!(f, "\n{beside}")?;
        }
        if let Some(r) = &self.accounting_ratio {
            let percent = |v: f64| (v - 1.0) * 100.0;
            write!(
                f,
                "\ncycle accounting: {:+.1} % ({:+.1} – {:+.1})",
                percent(r.median),
                percent(r.quartiles.0),
                percent(r.quartiles.1)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_forwards_every_frame_of_the_bench() {
        for forward in [Forward::Nat, Forward::FullNat, Forward::Dr, Forward::Tunnel] {
            for ipv6 in [false, true] {
                let o = Options {
                    forward,
                    flows: 1000,
                    size: 90,
                    rounds: 1,
                    packets: 2000,
                    services: 2,
                    servers: 5,
                    ipv6,
                    ..Options::default()
                };
                let figures = measure(&o, |_| {}).unwrap_or_else(|e| panic!("{forward:?} {ipv6}: {e}"));
                assert!(figures.bytes_per_flow <= 128.0, "{figures}");
                assert_eq!(figures.stages.len(), STAGES.len() + 2);
            }
        }
    }

    #[test]
    fn impossible_options_are_named() {
        let o = Options { size: 20, ..Options::default() };
        assert!(measure(&o, |_| {}).unwrap_err().to_string().contains("--size is 20"));
        for packets in [0, usize::MAX] {
            let told = measure(&Options { packets, ..Options::default() }, |_| {}).unwrap_err().to_string();
            assert_eq!(told, format!("--packets is {packets}; it must be between 1 and 1000000000"));
        }
        // Each service has a server.
        let told = measure(&Options { services: 60_000, servers: 60_000, ..Options::default() }, |_| {}).unwrap_err();
        assert_eq!(told.to_string(), "--services is 60000; it must be between 1 and 49152");
    }
}
