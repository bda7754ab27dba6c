//! `lcs perf linerate`: how many frames a second the director carries without loss, and how long a frame takes through it.
//!
//! Methods are those of RFC 2544: a rate is offered for some time whatever becomes of the frames (open loop); what does not come out is
//! lost; the highest rate without loss is the throughput (section 26.1, here NDR, no-drop rate), the highest with a given loss ratio the
//! PDR (partial-drop rate). Latency is measured at shares of the NDR (section 26.2) by probes among the load.
//!
//! On a machine that others share no rate is without loss for long, and which one a search finds depends on when it asks. On the memory port, where
//! time can be taken as it comes, the search goes up and down about the rate at which half of the trials lose nothing, in shares of what is carried at
//! that moment ([`Method::UpAndDown`], `staircase.rs`), and time in which a neighbour disturbed is set aside (`looks.rs`). Elsewhere, and for single
//! trials, it is a bisection (`search.rs`).
//!
//! On the memory port generator, director and sink are one thread, and time is the director's alone: see `clock.rs`. A frame that is due
//! while the receive queue is full is lost, as a card would lose it. What the generator costs is shown, and a reflector without any pipeline
//! is measured in the same run, so that its limit is not taken for the director's.

mod clock;
#[cfg(all(feature = "dpdk", target_os = "linux"))]
mod dpdk;
mod flows;
mod histogram;
mod looks;
mod memory;
mod open_loop;
pub mod plot;
#[cfg(target_os = "linux")]
pub mod ports;
pub mod reflector;
mod report;
mod search;
mod seen;
mod sizes;
mod staircase;
mod trial;
#[cfg(target_os = "linux")]
pub mod veth;

pub use flows::Transport;
pub use histogram::{Histogram, Latency};
pub use report::{Figures, Ratio};
pub use search::{Found, Limit, Search, Searcher};
pub use sizes::{IMIX, RFC_2544, Size, WIRE_OVERHEAD};
pub use staircase::Half;
pub use trial::{QueueCounts, Trial};

pub(crate) use clock::{Schedule, VirtualClock};

use crate::range::{OutOfRange, in_range};
use crate::stages::{self, Bench, StagesError};
use crate::summary::Summary;
use crate::traffic::Traffic;
use lcs_dataplane::batch::BURST;
use lcs_dataplane::cycles::{Meter, Tsc, tsc_hz};
use lcs_dataplane::port::memory::MemoryPort;
use lcs_dataplane::worker::{Pipeline, Worker};
use lcs_pipelines::snapshot::Forward;
use memory::Memory;
use reflector::Reflector;
use seen::Seen;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::{Duration, Instant};

/// What frames pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// The director's pipeline, packets reaching the servers in this way.
    Director(Forward),
    /// Nothing: frames go out as they came in.
    Reflector,
    /// Whatever joins two ports that the user names.
    Device,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Subject::Director(Forward::Nat) => "NAT",
            Subject::Director(Forward::FullNat) => "full NAT",
            Subject::Director(Forward::Dr) => "direct routing",
            Subject::Director(Forward::Tunnel) => "tunnel",
            Subject::Reflector => "reflector",
            Subject::Device => "device",
        })
    }
}

/// What to measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// What frames pass.
    pub subject: Subject,
    /// Established flows, met in random order.
    pub flows: usize,
    /// Sizes of frames.
    pub sizes: Vec<Size>,
    /// Loss ratio of the PDR.
    pub loss: f64,
    /// How the rates are searched.
    pub search: Search,
    /// Searches, of which median and spread are shown.
    pub rounds: usize,
    /// Frames that wait in a receive queue at most, on the memory port.
    pub descriptors: usize,
    /// IPv6 instead of IPv4.
    pub ipv6: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            subject: Subject::Director(Forward::Nat),
            flows: 100_000,
            sizes: vec![Size::Bytes(64), Size::Imix],
            loss: 0.001,
            search: Search { seconds: 0.02, resolution: 0.005, agree: 2, budget: Duration::from_secs(100) },
            rounds: 3,
            descriptors: 1024,
            ipv6: false,
        }
    }
}

/// Seconds of a trial by default where the search is a bisection.
pub const BISECTED_SECONDS: f64 = 0.2;

/// How rates are searched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Between a rate that held and one that did not: the highest that holds.
    #[default]
    Bisection,
    /// A step up when a trial holds, a step down when it does not, in shares of the capacity at that moment: the rate at which half of the trials hold.
    UpAndDown,
}

/// Shares of the NDR at which latency is measured.
pub const LOADS: [f64; 3] = [0.5, 0.9, 1.0];

/// What cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum LinerateError {
    /// A number out of its range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// Options without any value.
    #[error("--sizes names no size; give at least one, such as 64 or imix")]
    NoSize,
    /// The flows could not be opened.
    #[error(transparent)]
    Flows(#[from] StagesError),
    /// Frames that the director does not send on at any rate: the loss would say nothing about what it carries.
    #[error(
        "of {offered} frames ({size}) the director did not send on {lost} ({reasons}), whatever their rate: leave this size out of --sizes, or give --sizes smaller ones"
    )]
    NotCarried {
        /// Their size.
        size: Size,
        /// Frames that were offered.
        offered: u64,
        /// Of these, frames that were dropped or answered.
        lost: u64,
        /// Why, and how many each.
        reasons: String,
    },
    /// What cannot be measured over this port.
    #[error("{0}")]
    Port(&'static str),
    /// The ports, or what is to be sent between them, are not in order.
    #[error("{0}")]
    Named(String),
    /// Not one frame came out.
    #[error(
        "of {names}, sent {tries} times, not one frame came out: does the device forward them there? Frames are known by their source, so that a device that changes it (full NAT), or puts them into tunnels, needs --arrive ADDRESS; if it routes, name it with --gateway; if it serves UDP, say --protocol udp"
    )]
    Nothing {
        /// Ports and destination.
        names: String,
        /// How often.
        tries: usize,
    },
    /// More came out than went in.
    #[error(
        "{received} frames came out of {sent}: the device repeats them, or gives back buffers that nobody has filled (net_null does), and what it loses cannot be told"
    )]
    Repeated {
        /// Frames that were sent.
        sent: u64,
        /// Frames of this trial that came.
        received: u64,
    },
    /// Asked to end.
    #[error("interrupted")]
    Interrupted,
    /// DPDK does not start.
    #[cfg(feature = "dpdk")]
    #[error(transparent)]
    Dpdk(#[from] lcs_dataplane::port::dpdk::DpdkError),
    /// Connections did not come up through the port.
    #[error(
        "{opened} of {asked} connections were opened; frames were lost between generator and director: is another program on these cores?"
    )]
    Opening {
        /// Connections that came up.
        opened: usize,
        /// Connections that should have.
        asked: usize,
    },
    /// The port does not open.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    AfXdp(#[from] lcs_dataplane::port::af_xdp::AfXdpError),
    /// Namespaces, links or cores.
    #[error(transparent)]
    Machine(#[from] lcs_hwconf::Error),
}

/// One size of frames through one subject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What frames passed.
    pub subject: Subject,
    /// Their size.
    pub size: Size,
    /// Frames/s that came out while more were offered than could be carried.
    pub saturated: Summary,
    /// How rates were searched.
    #[serde(default)]
    pub method: Method,
    /// No-drop rate, frames/s, by search; absent for the reflector that is measured beside a director. Where there are searches with
    /// disturbed time set aside and others, it is of the first.
    pub ndr: Option<Summary>,
    /// Rate with the loss ratio that was allowed, of the same searches.
    pub pdr: Option<Summary>,
    /// Of searches up and down, and of the same searches: these two as shares of what came out while more was offered than could be carried.
    #[serde(default)]
    pub shares: Option<[Summary; 2]>,
    /// Of searches up and down: those that set aside the time in which a neighbour disturbed, and those that counted it, as too little was
    /// left without it.
    #[serde(default)]
    pub alone: Option<Rates>,
    /// See [`Row::alone`].
    #[serde(default)]
    pub counted: Option<Rates>,
    /// Of each round, NDR and PDR as they were found.
    pub searches: Vec<[Found; 2]>,
    /// Of each round, what the search saw of neighbours; empty where device and generator stand on other cores.
    #[serde(default)]
    pub neighbours: Vec<Neighbours>,
    /// Seconds that each of these searches took.
    pub search_seconds: Vec<f64>,
    /// Cycles of generator and sink, a frame.
    pub generator_cycles: Summary,
    /// At these shares of the median NDR: what a trial with probes has seen.
    pub loads: Vec<(f64, Trial)>,
    /// Turns that the machine interrupted, left out of the clock, in all trials that count; and their time, ms.
    pub interruptions: (u64, f64),
    /// Frames lost in the time that was set aside, which no rate counts.
    pub set_aside: u64,
    /// Turns in which the generator had lost its core, over real ports, in all trials; and their time, ms.
    #[serde(default)]
    pub gaps: (u64, f64),
}

/// Rates of some of the searches of a row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// No-drop rate, frames/s.
    pub ndr: Summary,
    /// Rate with the loss ratio that was allowed.
    pub pdr: Summary,
    /// These as shares of the capacity.
    pub shares: [Summary; 2],
}

/// What one search saw of others on its machine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Neighbours {
    /// Whether it set aside the time in which they disturbed.
    pub apart: bool,
    /// Share of the worker's time that was set aside, for them or for interruptions.
    pub set_aside: f64,
    /// Share of looks at the core that found it shared with another hardware thread.
    pub shared: f64,
    /// Share of looks that found more evicted from the last-level cache than usual.
    pub evicted: f64,
    /// Times that more than could be carried was offered, with a trial for each rate behind it.
    pub turns: usize,
}

/// Something that frames are sent through.
trait Device {
    /// A trial; `probes` measures latency.
    fn trial(&mut self, rate: f64, seconds: f64, size: Size, probes: bool) -> Result<Trial, LinerateError>;
    /// Has all flows open, before each search.
    fn ready(&mut self) -> Result<(), LinerateError> {
        Ok(())
    }

    /// More than can be carried, frames/s.
    fn most(&self, size: Size) -> f64;

    /// Whether its time is its own, so that a trial can go on until enough of it was undisturbed.
    fn own_time(&self) -> bool {
        false
    }

    /// Sets aside the time in which neighbours disturb, or no longer, where time is its own.
    fn set_apart(&mut self, _apart: bool) {}

    /// Trials end by then, where time is its own.
    fn end_by(&mut self, _until: Instant) {}
}

impl<L: Pipeline, M: Meter> Device for Memory<L, M> {
    fn trial(&mut self, rate: f64, seconds: f64, size: Size, probes: bool) -> Result<Trial, LinerateError> {
        Ok(Memory::trial(self, rate, seconds, size, probes))
    }

    fn most(&self, _: Size) -> f64 {
        // A frame each 8 cycles.
        tsc_hz() as f64 / 8.0
    }

    fn own_time(&self) -> bool {
        true
    }

    fn set_apart(&mut self, apart: bool) {
        self.apart = apart;
    }

    fn end_by(&mut self, until: Instant) {
        self.until = Some(until);
    }
}

fn check(o: &Options) -> Result<(), LinerateError> {
    if o.sizes.is_empty() {
        return Err(LinerateError::NoSize);
    }
    for (size, _) in o.sizes.iter().flat_map(|s| s.parts()) {
        // IPv6 and TCP alone fill 78 bytes with FCS.
        in_range("--sizes", size, if o.ipv6 { 78 } else { 64 }, 1518)?;
    }
    in_range("--flows", o.flows, 1, 50_000_000)?;
    in_range("--loss", o.loss, 1e-6, 0.5)?;
    in_range("--seconds", o.search.seconds, 0.01, 600.0)?;
    in_range("--resolution", o.search.resolution, 1e-4, 0.2)?;
    in_range("--budget", o.search.budget.as_secs_f64(), 1.0, 86_400.0)?;
    in_range("--rounds", o.rounds, 1, 1_000)?;
    in_range("--descriptors", o.descriptors, BURST, 65_536)?;
    Ok(())
}

/// The bench of `lcs perf stages` that makes the flows.
fn flows(o: &Options, forward: Forward) -> stages::Options {
    stages::Options { forward, flows: o.flows, ipv6: o.ipv6, size: if o.ipv6 { 78 } else { 64 }, ..Default::default() }
}

/// Measures on the memory port. `progress` is told what is being done.
///
/// # Errors
/// Options out of range, or flows that could not be opened.
pub fn measure(o: &Options, mut progress: impl FnMut(&str)) -> Result<Figures, LinerateError> {
    check(o)?;
    let buffers = o.descriptors + 8 * BURST;
    let forward = if let Subject::Director(forward) = o.subject { forward } else { Forward::Nat };
    let flows = flows(o, forward);
    let bare = Worker::new(MemoryPort::new(1, buffers), Reflector { interfaces: 1 }, Tsc);
    // Frames come back from it without a tunnel's header.
    let bare_flows = stages::Options { forward: Forward::Nat, ..flows.clone() };
    let mut bare = Memory::new(bare, Traffic::new(&bare_flows), o.flows, o.descriptors);
    let rows = if o.subject == Subject::Reflector {
        run(&mut bare, None::<&mut Memory<Reflector, Tsc>>, o, &mut progress)?
    } else {
        progress(&format!("opening {} flows", o.flows));
        let mut bench = Bench::on(&flows, MemoryPort::new(1, buffers.max(2 * stages::GROUP)), Tsc);
        bench.fill()?;
        let mut director = Memory::new(bench.worker, bench.traffic, o.flows, o.descriptors);
        run(&mut director, Some(&mut bare), o, &mut progress)?
    };
    Ok(Figures {
        options: o.clone(),
        between: None,
        line_rate: None,
        port: "memory".to_owned(),
        tsc_hz: tsc_hz(),
        rows,
        ratios: vec![],
        notes: vec![],
    })
}

/// Refuses a size of which the director drops or answers frames: what it has taken from the queue it must send on, or the search would look for
/// a rate at which it does.
fn carried(trial: &Trial, size: Size) -> Result<(), LinerateError> {
    let mut reasons: Vec<String> = trial.dropped.iter().map(|(reason, n)| format!("dropped, {reason}: {n}")).collect();
    if trial.answered > 0 {
        reasons.push(format!("answered with an ICMP error: {}", trial.answered));
    }
    if reasons.is_empty() {
        return Ok(());
    }
    let lost = trial.dropped.values().sum::<u64>() + trial.answered;
    Err(LinerateError::NotCarried { size, offered: trial.offered, lost, reasons: reasons.join(", ") })
}

/// Seconds of the first trial of a size at least: what is usual of the cache is learnt from it.
const WARM: f64 = 0.2;

/// All sizes and rounds through `device`; beside it, saturated, through `bare`.
fn run<B: Device>(
    device: &mut impl Device,
    mut bare: Option<&mut B>,
    o: &Options,
    progress: &mut impl FnMut(&str),
) -> Result<Vec<Row>, LinerateError> {
    let mut seen: Vec<[Seen; 2]> = o.sizes.iter().map(|_| Default::default()).collect();
    progress("warming up");
    device.ready()?;
    for size in &o.sizes {
        device.end_by(Instant::now() + o.search.budget / seen::BESIDE);
        carried(&device.trial(device.most(*size), o.search.seconds.max(WARM), *size, false)?, *size)?;
    }
    for round in 0..o.rounds {
        for (size, [of_device, of_bare]) in o.sizes.iter().zip(&mut seen) {
            progress(&format!("round {} of {}, {size}: searching", round + 1, o.rounds));
            device.ready()?;
            of_device.search(device, o, *size)?;
            if let Some(bare) = &mut bare {
                progress(&format!("round {} of {}, {size}: the reflector", round + 1, o.rounds));
                bare.set_apart(o.search.agree > 1);
                bare.end_by(Instant::now() + o.search.budget / seen::BESIDE);
                of_bare.saturate(*bare, o, *size)?;
            }
        }
    }
    let mut rows = vec![];
    for (size, [mut of_device, of_bare]) in o.sizes.iter().zip(seen) {
        progress(&format!("{size}: latency"));
        of_device.loads(device, o, *size)?;
        rows.push(of_device.row(o.subject, *size));
        if bare.is_some() {
            rows.push(of_bare.row(Subject::Reflector, *size));
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quick() -> Options {
        Options {
            flows: 500,
            sizes: vec![Size::Bytes(90), Size::Imix],
            search: Search { seconds: 0.01, resolution: 0.1, agree: 1, budget: Duration::from_secs(20) },
            rounds: 1,
            ..Options::default()
        }
    }

    /// Frames through the director, with all flows open.
    fn director(forward: Forward, ipv6: bool) -> Memory<lcs_pipelines::layer4::Layer4, Tsc> {
        let flows = flows(&Options { ipv6, ..quick() }, forward);
        let mut bench = Bench::on(&flows, MemoryPort::new(1, 2 * stages::GROUP), Tsc);
        bench.fill().unwrap_or_else(|e| panic!("{forward:?} {ipv6}: {e}"));
        Memory::new(bench.worker, bench.traffic, flows.flows, 256)
    }

    const MODES: [(Forward, bool); 8] = [
        (Forward::Nat, false),
        (Forward::Nat, true),
        (Forward::FullNat, false),
        (Forward::FullNat, true),
        (Forward::Dr, false),
        (Forward::Dr, true),
        (Forward::Tunnel, false),
        (Forward::Tunnel, true),
    ];

    /// A trial in which every frame must be accounted for and no probe can have taken longer than all of it.
    fn sound(device: &mut Memory<lcs_pipelines::layer4::Layer4, Tsc>, rate: f64, size: Size) -> Trial {
        let before = device.worker_ns();
        let trial = device.trial(rate, 0.01, size, true);
        let took = device.worker_ns() - before;
        let dropped: u64 = trial.dropped.values().sum();
        assert_eq!(trial.offered, trial.received + trial.answered + trial.overflow[0] + dropped, "{trial:?}");
        if let Some(l) = &trial.latency {
            assert!(l.probes > 0 && l.p50 > 0 && l.p50 <= l.p99 && l.p99 <= l.max, "{l:?}");
            assert!(l.max <= took, "{} ns in a trial of {took} ns: {l:?}", l.max);
        }
        trial
    }

    #[test]
    fn every_mode_forwards_and_the_frames_of_a_trial_add_up() {
        for (forward, ipv6) in MODES {
            let mut device = director(forward, ipv6);
            let smallest = if ipv6 { Size::Bytes(78) } else { Size::Imix };
            for size in [smallest, Size::Bytes(1518)] {
                let trial = sound(&mut device, 100e3, size);
                // An interruption ends a slice and begins one anew, with a frame more or less.
                let most = trial.interruptions + u64::from(trial.short) * 1000;
                assert!(trial.offered.abs_diff(1000) <= most && trial.set_aside == 0, "{forward:?} {ipv6}: {trial:?}");
                let full = sound(&mut device, 1e9, size);
                assert!(full.overflow[0] + full.set_aside > 0, "{forward:?} {ipv6}: {full:?}");
                for trial in [trial, full] {
                    carried(&trial, size).unwrap_or_else(|e| panic!("{forward:?} {ipv6}: {e}"));
                    assert!(trial.received > 0, "{forward:?} {ipv6}: {trial:?}");
                }
            }
        }
    }

    #[test]
    fn frames_larger_than_the_mtu_are_refused_and_the_answers_to_them_are_neither_frames_nor_probes() {
        // What the port takes and no link here carries.
        let size = Size::Bytes(1600);
        for (forward, ipv6) in MODES {
            let trial = sound(&mut director(forward, ipv6), 100e3, size);
            assert!(trial.answered > 0, "{forward:?} {ipv6}: {trial:?}");
            assert_eq!((trial.received, &trial.latency), (0, &None), "{forward:?} {ipv6}: {trial:?}");
            let said = carried(&trial, size).unwrap_err().to_string();
            assert!(said.contains("1600 B") && said.contains("--sizes") && said.contains("ICMP"), "{said}");
        }
    }

    #[test]
    fn tunnels_carry_the_mix_and_the_reflector_beside_them() {
        let o = Options { subject: Subject::Director(Forward::Tunnel), sizes: vec![Size::Imix], ..quick() };
        let figures = measure(&o, |_| {}).unwrap();
        assert!(figures.rows.iter().all(|r| r.saturated.median > 0.0), "{figures}");
        assert!(figures.to_string().contains("1520"), "{figures}");
    }

    #[test]
    fn a_search_has_a_rate_or_says_why_not() {
        let o = Options { subject: Subject::Director(Forward::Nat), ..quick() };
        let figures = measure(&o, |_| {}).unwrap();
        for row in figures.rows.iter().filter(|r| r.subject == o.subject) {
            let (ndr, limit) = (row.searches[0][0].rate, row.searches[0][0].limit);
            if matches!(limit, Limit::Machine | Limit::Time) {
                println!("skipped: the machine was too busy for {}", row.size);
                continue;
            }
            assert!(ndr > 1e4 && row.loads.len() == LOADS.len(), "{figures}");
        }
    }

    #[test]
    fn a_search_up_and_down_ends_in_its_time_and_says_what_it_set_aside() {
        let search = Search { seconds: 0.01, resolution: 0.05, agree: 2, budget: Duration::from_secs(3) };
        let o = Options { sizes: vec![Size::Bytes(64)], search, rounds: 2, ..quick() };
        let figures = measure(&o, |_| {}).unwrap();
        let row = &figures.rows[0];
        assert_eq!((row.method, row.neighbours.len(), row.searches.len()), (Method::UpAndDown, 2, 2));
        // A trial that is under way is given up; what was in the queue still comes out.
        assert!(row.search_seconds.iter().all(|seconds| *seconds < 10.0), "{:?}", row.search_seconds);
        let said = figures.to_string();
        assert!(said.contains("half of the trials hold") && said.contains("is set aside (medians"), "{said}");
        for [ndr, pdr] in &row.searches {
            assert!(pdr.rate >= ndr.rate, "{said}");
            if let Some(half) = ndr.half {
                assert!((ndr.rate / (half.share * half.capacity) - 1.0).abs() < 1e-9, "{half:?}");
                assert!(half.quarters.0 <= half.share && half.share <= half.quarters.1, "{half:?}");
            }
        }
        if row.ndr.is_none_or(|ndr| ndr.median == 0.0) {
            println!("skipped: the machine was too busy for a rate");
            return;
        }
        assert_eq!(row.loads.len(), LOADS.len());
        assert!(said.contains("of what it carries saturated"), "{said}");
    }

    #[test]
    fn a_queue_that_is_full_loses_and_says_so() {
        let flows = flows(&quick(), Forward::Nat);
        let worker = Worker::new(MemoryPort::new(1, 256), Reflector { interfaces: 1 }, Tsc);
        let mut device = Memory::new(worker, Traffic::new(&flows), 500, 64);
        let trial = device.trial(8e8, 0.01, Size::Bytes(64), false);
        assert_eq!(trial.lost(), trial.overflow[0]);
        assert!(trial.is_void() || trial.loss() > 0.1, "{trial:?}");
        assert!(trial.generator_cycles > 0.0, "{trial:?}");
        assert_eq!(device.worker.port().waiting(), 0);
    }

    #[test]
    fn options_out_of_range_are_named() {
        for (o, what) in [
            (Options { sizes: vec![Size::Bytes(60)], ..quick() }, "--sizes is 60; it must be between 64"),
            (Options { sizes: vec![], ..quick() }, "--sizes"),
            (Options { descriptors: 1, ..quick() }, "--descriptors is 1"),
            (Options { loss: 0.0, ..quick() }, "--loss is 0"),
            (Options { flows: 0, ..quick() }, "--flows"),
        ] {
            assert!(measure(&o, |_| {}).unwrap_err().to_string().contains(what), "{what}");
        }
    }
}
