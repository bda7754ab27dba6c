//! `lcs perf placement`: which thread should decide requests (tutorial, slides 44 to 49).
//!
//! Two workers that do everything, each on a core of its own, against one port worker and one content worker on the same two
//! cores. Ports are in memory, and clients, servers and the traffic of layer 4 are played on the port workers' cores; only the
//! workers' own time counts. Capacity is measured with as many connections as keep the busier thread busy, delays with few.

mod arrangement;
mod ends;
pub mod plot;
mod report;

pub use report::{Advice, Figures};

use crate::decisions::Mix;
use crate::decisions::workload::request;
use crate::range::{OutOfRange, in_range};
use crate::summary::Summary;
use arrangement::{Arrangement, Done, Pace};
use lcs_dataplane::cycles::tsc_hz;
use lcs_hwconf::cores;
use lcs_pipelines::placement::DEPTH;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What the rules look at: what deciding costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rules {
    /// A hundred prefixes of the URL.
    Url,
    /// A hundred regular expressions over the URL.
    Regex,
    /// An element at the end of an XML body of so many bytes.
    Xml(usize),
}

impl Rules {
    /// Its name.
    pub fn name(self) -> String {
        match self {
            Rules::Url => "url".into(),
            Rules::Regex => "regex".into(),
            Rules::Xml(n) if n % 1000 == 0 => format!("xml {} KB", n / 1000),
            Rules::Xml(n) => format!("xml {n} B"),
        }
    }

    fn text(self) -> String {
        match self {
            Rules::Url => Mix::Url.rules(100),
            Rules::Regex => Mix::Regex.rules(100),
            // No request has this total: every document is read to its end.
            Rules::Xml(_) => "if (xml.purchase/totalAmount == 6) reject(403)\ndefault: routeTo(web)\n".into(),
        }
    }

    /// Requests that are sent in turn.
    fn requests(self) -> Vec<Vec<u8>> {
        let body = if let Rules::Xml(bytes) = self { Some(bytes) } else { None };
        (0..16).map(|n| request(n * 6, body)).collect()
    }
}

/// What to measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// The rules, in the order of what they cost.
    pub rules: Vec<Rules>,
    /// Shares of undecided requests among these and the packets of layer 4 beside them, above 0 and up to 1.
    pub shares: Vec<f64>,
    /// Requests of each connection, of which every one is decided.
    pub requests: usize,
    /// Connections open at once, of all port workers together, where capacity is measured.
    pub connections: usize,
    /// Places of the ring to the content worker.
    pub depth: usize,
    /// Rounds, in which all of these are measured in turn.
    pub rounds: usize,
    /// Seconds of a measurement.
    pub seconds: f64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            rules: vec![Rules::Url, Rules::Regex, Rules::Xml(1_000), Rules::Xml(10_000), Rules::Xml(100_000)],
            shares: vec![0.01, 0.1, 0.5, 1.0],
            requests: 4,
            connections: 64,
            depth: DEPTH,
            rounds: 9,
            seconds: 0.1,
        }
    }
}

/// What cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    /// A number out of its range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// A list without any value.
    #[error("{0} names no value; give at least one, or leave it out for the default")]
    Empty(&'static str),
    /// Two threads on one core would measure each other.
    #[error("this process may run on {0} core(s), and two threads that poll are compared with two: it needs two cores")]
    Cores(usize),
    /// The rules of the bench do not compile.
    #[error("the bench's own rules do not compile: {0}")]
    Rules(String),
    /// The cores are not told, or a thread could not be bound to one.
    #[error(transparent)]
    Machine(#[from] lcs_hwconf::Error),
    /// No delay could be measured.
    #[error(
        "{0}: no request was decided, or no packet passed, within ten seconds; other programs have the cores: stop them, or give --seconds more"
    )]
    Nothing(String),
    /// Nothing came out, or something was lost.
    #[error("{rules}: {answered} requests were answered and {dropped} frames dropped ({reasons}); nothing can be said")]
    Lost {
        /// Under which rules.
        rules: String,
        /// Requests that were answered.
        answered: u64,
        /// Frames that the director dropped.
        dropped: u64,
        /// By reason.
        reasons: String,
    },
}

/// Both placements with the same rules and share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Capacity {
    /// What was decided by.
    pub rules: Rules,
    /// Share of undecided requests.
    pub share: f64,
    /// Requests/s of two workers that do everything.
    pub run_to_completion: Summary,
    /// Cycles of theirs for a request and the packets beside it.
    pub cycles: Summary,
    /// Requests/s of a port worker and a content worker: as many as the busier of the two carries.
    pub split: Summary,
    /// Cycles of the port worker for a request and the packets beside it.
    pub port_cycles: Summary,
    /// Cycles of the content worker for a request.
    pub content_cycles: Summary,
    /// Split over run-to-completion, by round.
    pub ratio: Summary,
    /// Part of the requests that found the ring full, and were decided by the port worker.
    pub full: f64,
}

/// Delays of one placement, nanoseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delays {
    /// From a request's last byte to the first segment to its server: half of them were faster.
    pub decision: Summary,
    /// 99 of 100 were faster.
    pub decision_p99: Summary,
    /// From when a packet of layer 4 was due to when it was sent on: half of them.
    pub packet: Summary,
    /// 99 of 100.
    pub packet_p99: Summary,
}

/// Both placements' delays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// What was decided by.
    pub rules: Rules,
    /// Two workers that do everything, each with one connection.
    pub run_to_completion: Delays,
    /// A port worker with two connections, and a content worker.
    pub split: Delays,
    /// The delay of packets (99 of 100) in split over that in run-to-completion, by round.
    pub packet_ratio: Summary,
    /// The same of a decision's delay (half of them).
    pub decision_ratio: Summary,
}

fn check(o: &Options) -> Result<(), PlacementError> {
    if o.rules.is_empty() {
        return Err(PlacementError::Empty("--rules"));
    }
    if o.shares.is_empty() {
        return Err(PlacementError::Empty("--shares"));
    }
    for rules in &o.rules {
        if let Rules::Xml(bytes) = rules {
            in_range("the size of a document", *bytes, 200, 500_000)?;
        }
    }
    for share in &o.shares {
        in_range("--shares", *share, 0.001, 1.0)?;
    }
    in_range("--requests", o.requests, 1, 1_000)?;
    in_range("--connections", o.connections, 2, 512)?;
    in_range("--depth", o.depth, 1, DEPTH)?;
    in_range("--rounds", o.rounds, 1, 1_000)?;
    in_range("--seconds", o.seconds, 0.01, 60.0)?;
    Ok(())
}

/// One frame in so many requests may be dropped, and so many in any case.
const DROPS: u64 = 500;
const FEW: u64 = 64;

/// What a round gives for one share.
#[derive(Default)]
struct Samples {
    rates: [Vec<f64>; 2],
    cycles: Vec<f64>,
    port: Vec<f64>,
    content: Vec<f64>,
    ratios: Vec<f64>,
    full: u64,
    requests: u64,
}

/// What rounds give for the delays: of both placements, decision and packet, half and 99 of 100.
#[derive(Default)]
struct DelaySamples {
    of: [[Vec<f64>; 4]; 2],
    packet: Vec<f64>,
    decision: Vec<f64>,
}

/// Measures. `progress` is told what is being done.
///
/// # Errors
/// Options out of range, fewer than two cores, or frames that were lost.
pub fn measure(o: &Options, mut progress: impl FnMut(&str)) -> Result<Figures, PlacementError> {
    check(o)?;
    let available: Vec<usize> = cores::available()?.into_iter().map(|c| c.id).collect();
    // The last cores first: the first one usually has the machine's own work.
    let mut last = available.iter().rev().copied();
    let (Some(a), Some(b)) = (last.next(), last.next()) else { return Err(PlacementError::Cores(available.len())) };
    let on = [a, b];
    let mut pairs = vec![];
    for rules in &o.rules {
        progress(&format!("setting up {}", rules.name()));
        let pair = [Arrangement::together(o, *rules, on)?, Arrangement::split(o, *rules, on)?];
        let samples: Vec<Samples> = o.shares.iter().map(|_| Samples::default()).collect();
        pairs.push((*rules, pair, samples, DelaySamples::default()));
    }
    let time = Duration::from_secs_f64(o.seconds);
    // The first round warms up.
    for round in 0..=o.rounds {
        for (rules, pair, samples, delays) in &mut pairs {
            progress(&format!("round {round} of {}, {}", o.rounds, rules.name()));
            for (share, samples) in o.shares.iter().zip(samples) {
                let mut done = [Done::default(), Done::default()];
                // Who begins changes from round to round.
                for n in [round % 2, 1 - round % 2] {
                    done[n] = pair[n].run(time, Pace::Share(*share))?;
                    lost(*rules, &done[n])?;
                }
                if round > 0 {
                    samples.add(&done);
                }
            }
            let mut done = [Done::default(), Done::default()];
            for n in [round % 2, 1 - round % 2] {
                done[n] = pair[n].run(time, Pace::Few)?;
                lost(*rules, &done[n])?;
                if done[n].decisions.is_empty() || done[n].packets.is_empty() {
                    return Err(PlacementError::Nothing(rules.name()));
                }
            }
            if round > 0 {
                delays.add(&mut done);
            }
        }
    }
    let mut figures = Figures {
        options: o.clone(),
        tsc_hz: tsc_hz(),
        cores: on.to_vec(),
        capacities: vec![],
        latencies: vec![],
        advice: Advice::default(),
    };
    for (rules, _, samples, delays) in pairs {
        for (share, samples) in o.shares.iter().zip(samples) {
            figures.capacities.push(samples.end(rules, *share));
        }
        figures.latencies.push(delays.end(rules));
    }
    figures.advice = Advice::of(&figures);
    Ok(figures)
}

fn lost(rules: Rules, done: &Done) -> Result<(), PlacementError> {
    // Time-outs that come up while another program has the core make segments that nobody needs.
    if done.requests > 0 && done.dropped <= (done.requests / DROPS).max(FEW) {
        return Ok(());
    }
    let (answered, dropped, reasons) = (done.requests, done.dropped, done.reasons.clone());
    Err(PlacementError::Lost { rules: rules.name(), answered, dropped, reasons })
}

impl Samples {
    fn add(&mut self, [together, split]: &[Done; 2]) {
        let rates = [together.rate(), split.rate()];
        for (samples, rate) in self.rates.iter_mut().zip(rates) {
            samples.push(rate);
        }
        self.ratios.push(rates[1] / rates[0]);
        self.cycles.push(together.cycles());
        self.port.push(split.cycles());
        self.content.push(split.content as f64 / split.requests.max(1) as f64);
        self.full += split.full;
        self.requests += split.requests;
    }

    fn end(self, rules: Rules, share: f64) -> Capacity {
        let [together, split] = self.rates.map(Summary::of);
        Capacity {
            rules,
            share,
            run_to_completion: together,
            cycles: Summary::of(self.cycles),
            split,
            port_cycles: Summary::of(self.port),
            content_cycles: Summary::of(self.content),
            ratio: Summary::of(self.ratios),
            full: self.full as f64 / self.requests.max(1) as f64,
        }
    }
}

/// The value below which such a part of them lies.
fn quantile(values: &mut [f64], part: f64) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let at = ((values.len() - 1) as f64 * part).round() as usize;
    *values.select_nth_unstable_by(at, f64::total_cmp).1
}

impl DelaySamples {
    fn add(&mut self, done: &mut [Done; 2]) {
        let ns = 1e9 / tsc_hz() as f64;
        let of = done.each_mut().map(|done| {
            let (decisions, packets) = (&mut done.decisions, &mut done.packets);
            [quantile(decisions, 0.5), quantile(decisions, 0.99), quantile(packets, 0.5), quantile(packets, 0.99)]
                .map(|cycles| cycles * ns)
        });
        for (samples, of) in self.of.iter_mut().zip(of) {
            for (samples, value) in samples.iter_mut().zip(of) {
                samples.push(value);
            }
        }
        self.decision.push(of[1][0] / of[0][0].max(1.0));
        self.packet.push(of[1][3] / of[0][3].max(1.0));
    }

    fn end(self, rules: Rules) -> Latency {
        let [run_to_completion, split] = self.of.map(|of| {
            let [decision, decision_p99, packet, packet_p99] = of.map(Summary::of);
            Delays { decision, decision_p99, packet, packet_p99 }
        });
        Latency {
            rules,
            run_to_completion,
            split,
            packet_ratio: Summary::of(self.packet),
            decision_ratio: Summary::of(self.decision),
        }
    }
}
