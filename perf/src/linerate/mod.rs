//! `lcs perf linerate`: how many frames a second the director carries without loss, and how long a frame takes through it.
//!
//! Methods are those of RFC 2544: a rate is offered for some time whatever becomes of the frames (open loop); what does not come out is
//! lost; the highest rate without loss is the throughput (section 26.1, here NDR, no-drop rate), the highest with a given loss ratio the
//! PDR (partial-drop rate). Latency is measured at shares of the NDR (section 26.2) by probes among the load.
//!
//! On the memory port generator, director and sink are one thread, and time is the director's alone: see `clock.rs`. A frame that is due
//! while the receive queue is full is lost, as a card would lose it. What the generator costs is shown, and a reflector without any pipeline
//! is measured in the same run, so that its limit is not taken for the director's.

mod clock;
#[cfg(all(feature = "dpdk", target_os = "linux"))]
mod dpdk;
mod flows;
mod histogram;
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
mod trial;
#[cfg(target_os = "linux")]
pub mod veth;

pub use flows::Transport;
pub use histogram::{Histogram, Latency};
pub use report::{Figures, Ratio};
pub use search::{Found, Limit, Search, Searcher};
pub use sizes::{IMIX, RFC_2544, Size, WIRE_OVERHEAD};
pub use trial::{QueueCounts, Trial};

pub(crate) use clock::{Schedule, VirtualClock};

use crate::range::{OutOfRange, in_range};
use crate::stages::{self, Bench, StagesError};
use crate::summary::{Summary, median_interval};
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
use std::time::Duration;

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
    /// Searches, of which median and spread are shown; none: on the memory port as many as [`Options::precision`] asks for, elsewhere three.
    pub rounds: Option<usize>,
    /// Without a number of rounds these go on until the median is known to so small a share of it: the width of its 95 % confidence interval.
    pub precision: f64,
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
            search: Search { seconds: 0.2, resolution: 0.005, agree: 2, budget: Duration::from_secs(100) },
            rounds: None,
            precision: 0.05,
            descriptors: 1024,
            ipv6: false,
        }
    }
}

impl Options {
    /// Rounds where their number was not left open.
    fn fixed_rounds(&self) -> usize {
        self.rounds.unwrap_or(ROUNDS)
    }

    /// Whether searches that found `rates` and took so many seconds each are enough.
    fn enough(&self, rates: &[f64], seconds: &[f64]) -> bool {
        if let Some(rounds) = self.rounds {
            return rates.len() >= rounds;
        }
        let (sum, longest) = (seconds.iter().sum::<f64>(), seconds.iter().copied().fold(0.0, f64::max));
        let precise = median_interval(rates).is_some_and(|(from, to)| {
            let median = Summary::of(rates.to_vec()).median;
            median > 0.0 && to - from <= self.precision * median
        });
        // No new one that would not end in time, as far as that is known.
        !rates.is_empty() && (precise || sum + longest > self.search.budget.as_secs_f64())
    }
}

/// Rounds over real ports where nobody says how many.
const ROUNDS: usize = 3;

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
    /// No-drop rate, frames/s, by search; absent for the reflector that is measured beside a director.
    pub ndr: Option<Summary>,
    /// Between these the median of such searches lies with 95 % confidence; absent for fewer than six.
    #[serde(default)]
    pub ndr_interval: Option<(f64, f64)>,
    /// This from searches that set aside what was lost while somebody else used the core's other hardware thread, and from those that could not,
    /// because somebody did too much of the time, or it left too little. Absent where device and generator stand on other cores.
    pub alone: Option<Summary>,
    /// See [`Row::alone`].
    pub shared: Option<Summary>,
    /// Rate with the loss ratio that was allowed.
    pub pdr: Option<Summary>,
    /// Of each round, NDR and PDR as they were found.
    pub searches: Vec<[Found; 2]>,
    /// Seconds that each of these searches took.
    pub search_seconds: Vec<f64>,
    /// Cycles of generator and sink, a frame.
    pub generator_cycles: Summary,
    /// At these shares of the median NDR: what a trial with probes has seen.
    pub loads: Vec<(f64, Trial)>,
    /// Turns that the machine interrupted, left out of the clock, in all trials; and their time, ms.
    pub interruptions: (u64, f64),
    /// Frames lost while the worker recovered from these, which no rate counts.
    pub set_aside: u64,
    /// Turns in which the generator had lost its core, over real ports, in all trials; and their time, ms.
    #[serde(default)]
    pub gaps: (u64, f64),
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

    /// Whether it runs on the calling thread's core, and can tell what is lost while that is shared.
    fn runs_here(&self) -> bool {
        false
    }

    /// From now on sets aside what is lost while the core is shared, or does not; nothing where the device runs elsewhere.
    fn set_apart(&mut self, _apart: bool) {}
}

impl<L: Pipeline, M: Meter> Device for Memory<L, M> {
    fn trial(&mut self, rate: f64, seconds: f64, size: Size, probes: bool) -> Result<Trial, LinerateError> {
        Ok(Memory::trial(self, rate, seconds, size, probes))
    }

    fn most(&self, _: Size) -> f64 {
        // A frame each 8 cycles.
        tsc_hz() as f64 / 8.0
    }

    fn runs_here(&self) -> bool {
        true
    }

    fn set_apart(&mut self, apart: bool) {
        self.apart = apart;
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
    in_range("--rounds", o.fixed_rounds(), 1, 1_000)?;
    in_range("--precision", o.precision, 1e-4, 1.0)?;
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
        carried(&device.trial(device.most(*size), o.search.seconds, *size, false)?, *size)?;
    }
    // Sizes in turns, so that an hour in which the machine is slower does not fall on one of them alone.
    for round in 1.. {
        let mut searched = false;
        for (size, [of_device, of_bare]) in o.sizes.iter().zip(&mut seen) {
            let rates: Vec<f64> = of_device.searches.iter().map(|[ndr, _]| ndr.rate).collect();
            // Elsewhere than here a search takes minutes, and nobody waits for as many as a narrow interval needs.
            let enough =
                if device.runs_here() { o.enough(&rates, &of_device.seconds) } else { rates.len() >= o.fixed_rounds() };
            if enough {
                continue;
            }
            searched = true;
            let so_far = match Summary::of(rates) {
                none if none.rounds == 0 => String::new(),
                s => format!("; so far {:.2} Mpps ({:.2} – {:.2})", s.median / 1e6, s.min / 1e6, s.max / 1e6),
            };
            let of = o.rounds.map_or_else(String::new, |n| format!(" of {n}"));
            progress(&format!("round {round}{of}, {size}: searching{so_far}"));
            device.ready()?;
            of_device.search(device, o, *size)?;
            if let Some(bare) = &mut bare {
                progress(&format!("round {round}{of}, {size}: the reflector"));
                of_bare.saturate(*bare, o, *size)?;
            }
        }
        if !searched {
            break;
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
            rounds: Some(1),
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
                assert_eq!((trial.offered, trial.set_aside), (1000, 0), "{forward:?} {ipv6}: {trial:?}");
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
    fn rounds_go_on_until_the_median_is_known_or_the_time_is_over() {
        let open = Options { rounds: None, ..Options::default() };
        let rates = |spread: f64| -> Vec<f64> { (0..8).map(|n| 10e6 * (1.0 + spread * f64::from(n) / 8.0)).collect() };
        let (near, far) = (rates(0.02), rates(0.5));
        assert!(!open.enough(&near[..5], &[1.0; 5]) && open.enough(&near, &[1.0; 8]));
        assert!(!open.enough(&far, &[5.0; 8]) && open.enough(&far, &[12.0; 8]));
        // However long it takes there is one; and as many as were asked for, whatever they say.
        assert!(!open.enough(&[], &[]) && open.enough(&far[..1], &[90.0]) && !open.enough(&far[..1], &[40.0]));
        let asked = Options { rounds: Some(7), ..open };
        assert!(!asked.enough(&near[..6], &[90.0; 6]) && asked.enough(&far[..7], &[1.0; 7]));
    }

    #[test]
    fn options_out_of_range_are_named() {
        for (o, what) in [
            (Options { sizes: vec![Size::Bytes(60)], ..quick() }, "--sizes is 60; it must be between 64"),
            (Options { sizes: vec![], ..quick() }, "--sizes"),
            (Options { descriptors: 1, ..quick() }, "--descriptors is 1"),
            (Options { loss: 0.0, ..quick() }, "--loss is 0"),
            (Options { flows: 0, ..quick() }, "--flows"),
            (Options { rounds: Some(0), ..quick() }, "--rounds is 0"),
            (Options { precision: 0.0, ..quick() }, "--precision is 0"),
        ] {
            assert!(measure(&o, |_| {}).unwrap_err().to_string().contains(what), "{what}");
        }
    }
}
