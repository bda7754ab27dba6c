//! `lcs perf cps`: how many connections a second the director opens, serves and closes without failing one, how many it holds at once, and how
//! long a connect takes.
//!
//! `lcs perf connections` says what a connection costs: as many as it is told are open at once, and each waits for the last. Here connections
//! come by a schedule whether the ones before have ended or not (open loop), through a receive queue that loses what it has no room for, and no
//! end repeats a lost frame: a rate holds when every connection gets its response. The ends, their frames and the search are those of
//! `connections` and `linerate`; time is the worker's own, as on `linerate`'s memory port.

use crate::connections::{self, ConnectionsError, Ends, Scheme, client, frame, seen};
use crate::linerate::{Found, Histogram, Latency, Limit, Schedule, Search, Searcher, Trial, VirtualClock};
use crate::range::in_range;
use crate::summary::Summary;
use lcs_dataplane::DropReason;
use lcs_dataplane::batch::BURST;
use lcs_dataplane::cycles::{Tsc, tsc_hz};
use lcs_dataplane::headers::tcp::flags::{ACK, PSH, SYN};
use lcs_dataplane::port::Port;
use lcs_dataplane::port::memory::MemoryPort;
use lcs_dataplane::worker::{Nanos, Worker};
use lcs_pipelines::command::{Acknowledgement, Command, Report};
use lcs_pipelines::layer4::Layer4;
use lcs_pipelines::stages::connection::Settings;
use lcs_pipelines::stages::schedule::SharedCounts;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// What to measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// How connections find their servers.
    pub scheme: Scheme,
    /// Bytes of a request, head included.
    pub request: usize,
    /// Bytes of a response, head included.
    pub response: usize,
    /// Connections that are to be open at once; 0 leaves that out.
    pub concurrent: usize,
    /// What an end takes for its answer, ns of the worker's time.
    pub delay: Nanos,
    /// How the rate is searched.
    pub search: Search,
    /// Searches, of which median and spread are shown.
    pub rounds: usize,
    /// Frames that wait in the receive queue at most.
    pub descriptors: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            scheme: Scheme::Delayed,
            request: 200,
            response: 1000,
            concurrent: 100_000,
            delay: 100_000,
            search: Search { seconds: 0.1, resolution: 0.02, agree: 2, budget: std::time::Duration::from_secs(100) },
            rounds: 3,
            descriptors: 1024,
        }
    }
}

/// Connections that were held at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Concurrent {
    /// Connections that were opened, each with a response.
    pub opened: usize,
    /// Flows in the table then.
    pub flows: usize,
    /// Of these connections, those that got another response after all had been opened.
    pub answered: usize,
    /// Bytes of state of each.
    pub bytes: f64,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// What was asked.
    pub options: Options,
    /// TSC cycles a second.
    pub tsc_hz: u64,
    /// Connections/s without a failed one, by search.
    pub rate: Summary,
    /// The searches.
    pub searches: Vec<Found>,
    /// Connections/s with so many always open, one opened when one ends.
    pub closed_loop: Summary,
    /// Of the closed loop.
    pub at_once: usize,
    /// From the SYN's time to the SYN-ACK at the client, ns, at half the rate and at nine tenths: share, and latency.
    pub connect: Vec<(f64, Latency)>,
    /// Connections held at once; absent when not asked for.
    pub concurrent: Option<Concurrent>,
    /// Turns that the machine interrupted, left out of the clock.
    pub interruptions: u64,
}

/// Connections open at once in the closed loop.
const AT_ONCE: usize = 256;
/// Longest turn that can be the worker's own, s: a burst of handshakes, requests and closes.
const GAP: f64 = 150e-6;
/// The worker's time at the clock's 0.
const START: Nanos = 1_000_000_000;
/// What is left of a trial's connections is gone after this.
const LATER: Nanos = 200_000_000_000;
/// Connections of one trial at most: the table is made for them.
const MOST: usize = 400_000;

/// The worker, both ends, and the frames between them.
struct Site {
    worker: Worker<MemoryPort, Layer4, Tsc>,
    ends: Ends,
    clock: VirtualClock,
    /// What must be added to the clock, as idle time was passed over.
    passed: Nanos,
    /// Frames on their way to the director, and when they are there, cycles.
    wire: VecDeque<(u64, Vec<u8>)>,
    descriptors: usize,
    delay: u64,
    busy: u32,
    /// The first connection of the trial, and when each was due.
    first: usize,
    due: Vec<u64>,
    overflow: u64,
    set_aside: u64,
    connect: Histogram,
}

impl Site {
    fn new(o: &Options, flows: usize) -> Result<Self, ConnectionsError> {
        let port = MemoryPort::new(1, o.descriptors + 32 * BURST);
        let settings =
            Settings { flows, fragments: 64, seed: 1, worker: 0, workers: 1, capabilities: port.capabilities() };
        let mut worker = Worker::new(port, Layer4::new(settings, Arc::new(SharedCounts::new(1, 4)), START), Tsc);
        worker.command(Command::Install(Arc::new(connections::snapshot(o.scheme, false)?)), START);
        let of = connections::Options {
            scheme: o.scheme,
            request: o.request,
            response: o.response,
            ..connections::Options::default()
        };
        Ok(Site {
            worker,
            ends: Ends::new(&of),
            clock: VirtualClock::new(GAP, 0),
            passed: 0,
            wire: VecDeque::new(),
            descriptors: o.descriptors,
            delay: (o.delay as f64 * tsc_hz() as f64 / 1e9) as u64,
            busy: 0,
            first: 0,
            due: vec![],
            overflow: 0,
            set_aside: 0,
            connect: Histogram::default(),
        })
    }

    fn now(&self) -> Nanos {
        START + self.passed + self.clock.ns()
    }

    /// A client sends its SYN, which was due at `due`.
    fn open(&mut self, due: u64, requests: usize) {
        let k = self.first + self.due.len();
        self.due.push(due);
        let (client, service) = client(k);
        self.ends.expect(client, requests);
        self.arrive(&frame(client, service, SYN, k as u32 * 7919, 0, &[]));
    }

    fn arrive(&mut self, frame: &[u8]) {
        let full = self.worker.port().waiting() >= self.descriptors;
        if full || !self.worker.port_mut().inject(0, frame) {
            self.overflow += 1;
            self.set_aside += u64::from(self.clock.recovering());
        }
    }

    /// What is due by now arrives, the worker takes a turn, and the ends answer. `false` when nothing is under way.
    fn step(&mut self) -> bool {
        let now = self.clock.cycles();
        while let Some((due, _)) = self.wire.front()
            && *due <= now
            && let Some((_, frame)) = self.wire.pop_front()
        {
            self.arrive(&frame);
        }
        let (time, worker, busy) = (self.now(), &mut self.worker, &mut self.busy);
        self.clock.turn(|| {
            if worker.poll(time) > 0 {
                *busy += 1;
                if *busy < 8 {
                    return;
                }
            }
            *busy = 0;
            worker.between(time);
        });
        let out = self.clock.cycles();
        let per_ns = 1e9 / tsc_hz() as f64;
        let Site { worker, ends, wire, delay, connect, due, first, .. } = self;
        worker.port_mut().take_sent(|_, b| {
            if let Some(s) = seen(b)
                && s.flags & (SYN | ACK) == SYN | ACK
                && let Some(begin) = connections::number(s.to).and_then(|k| due.get(k.checked_sub(*first)?))
            {
                connect.note((out.saturating_sub(*begin) as f64 * per_ns) as u64);
            }
            ends.answer(b, |frame| wire.push_back((out + *delay, frame)));
        });
        !self.wire.is_empty() || self.worker.port().waiting() > 0
    }

    fn begin(&mut self) {
        self.first += self.due.len();
        self.due.clear();
        self.ends.done = 0;
        (self.overflow, self.set_aside) = (0, 0);
        self.connect = Histogram::default();
    }

    /// Lets everything of the trial expire, untimed.
    fn settle(&mut self) {
        self.passed += LATER;
        let deadline = self.now() + LATER;
        while self.worker.pipeline().flows() > 0 && self.now() < deadline {
            let now = self.now();
            self.worker.between(now);
            self.passed += 1_000_000;
        }
        self.worker.port_mut().take_sent(|_, _| {});
        self.wire.clear();
        self.ends.forget();
    }

    /// Connections at a rate for some time: how many got their response.
    fn trial(&mut self, rate: f64, seconds: f64) -> Trial {
        self.begin();
        let hz = tsc_hz() as f64;
        let seconds = seconds.min(MOST as f64 / rate);
        let (interruptions, left_out) = (self.clock.interruptions, self.clock.left_out);
        let dropped = self.worker.counters().dropped.clone();
        let begin = self.clock.cycles();
        let end = begin + (seconds * hz) as u64;
        let mut schedule = Schedule::new(begin, end, hz / rate);
        let mut disturbed = 0;
        // What has not come to its end a while after the last SYN does not come any more.
        let limit = end + (hz as u64) + 100 * self.delay;
        while {
            while let Some(due) = schedule.due(self.clock.cycles()) {
                self.open(due, 1);
            }
            let (before, recovering) = (self.clock.cycles(), self.clock.recovering());
            let busy = self.step();
            disturbed += if recovering { self.clock.cycles() - before } else { 0 };
            (busy || !schedule.over()) && self.clock.cycles() < limit
        } {}
        let offered = self.due.len() as u64;
        let counters = self.worker.counters();
        let reasons = DropReason::ALL.iter().zip(counters.dropped.iter().zip(&dropped));
        let trial = Trial {
            rate,
            seconds,
            offered,
            // A frame that an interruption has cost is one connection at most.
            received: (self.ends.done as u64 + self.set_aside).min(offered),
            overflow: vec![self.overflow],
            dropped: reasons.filter(|(_, (a, b))| a > b).map(|(r, (a, b))| (r.to_string(), a - b)).collect(),
            interruptions: self.clock.interruptions - interruptions,
            interrupted_ms: (self.clock.left_out - left_out) as f64 / hz * 1e3,
            set_aside: self.set_aside,
            disturbed: disturbed as f64 / (self.clock.cycles() - begin).max(1) as f64,
            forwarded_rate: self.ends.done as f64 / seconds,
            ..Trial::default()
        };
        self.settle();
        trial
    }

    /// So many connections always open; connections/s.
    fn closed_loop(&mut self, seconds: f64) -> f64 {
        self.begin();
        let hz = tsc_hz() as f64;
        let begin = self.clock.cycles();
        let end = begin + (seconds * hz) as u64;
        while self.clock.cycles() < end && self.due.len() < MOST {
            while self.due.len() - self.ends.done < AT_ONCE.min(self.descriptors / 2) {
                self.open(self.clock.cycles(), 1);
            }
            if !self.step() {
                break;
            }
        }
        let rate = self.ends.done as f64 * hz / (self.clock.cycles() - begin).max(1) as f64;
        while self.step() {}
        self.settle();
        rate
    }

    /// Opens so many connections, keeps all of them, and asks once more in each.
    fn concurrent(&mut self, connections: usize, scheme: Scheme) -> Concurrent {
        self.begin();
        self.ends.hold(2);
        let group = (self.descriptors / 4).clamp(1, AT_ONCE);
        while self.due.len() < connections {
            for _ in 0..group.min(connections - self.due.len()) {
                self.open(self.clock.cycles(), 2);
            }
            while self.step() {}
        }
        let opened = self.ends.done;
        let report = self.report();
        let per_flow = report.memory.map_or(0.0, |m| (m.entries + m.index) as f64 / report.capacity.max(1) as f64);
        let splice = if scheme == Scheme::Delayed { lcs_pipelines::SPLICE_BYTES } else { 0 };
        let held = self.ends.release();
        for group in held.chunks(group) {
            for (from, to, seq, ack) in group {
                let request = frame(*from, *to, ACK | PSH, *seq, *ack, self.ends.request());
                self.arrive(&request);
            }
            while self.step() {}
        }
        let answered = self.ends.done - opened;
        self.settle();
        Concurrent { opened, flows: report.flows, answered, bytes: per_flow + splice as f64 }
    }

    fn report(&mut self) -> Box<Report> {
        let now = self.now();
        match self.worker.command(Command::Report(Box::default()), now) {
            Acknowledgement::Report(report) => report,
            _ => Box::default(),
        }
    }
}

fn check(o: &Options) -> Result<(), ConnectionsError> {
    in_range("--request", o.request, 120, 1400)?;
    in_range("--response", o.response, 120, 1400)?;
    in_range("--concurrent", o.concurrent, 0, 10_000_000)?;
    in_range("--rounds", o.rounds, 1, 1000)?;
    in_range("--descriptors", o.descriptors, BURST, 65_536)?;
    in_range("--delay in µs", (o.delay / 1000) as usize, 0, 100_000)?;
    in_range("--resolution", o.search.resolution, 1e-4, 0.2)?;
    in_range("--seconds", o.search.seconds, 0.01, 60.0)?;
    Ok(())
}

/// Measures. `progress` is told what is being done.
///
/// # Errors
/// Options out of range.
pub fn measure(o: &Options, mut progress: impl FnMut(&str)) -> Result<Figures, ConnectionsError> {
    check(o)?;
    progress("warming up");
    let mut site = Site::new(o, MOST + MOST / 2)?;
    site.closed_loop(o.search.seconds);
    let (mut closed, mut searches) = (vec![], vec![]);
    for round in 0..o.rounds {
        progress(&format!("round {} of {}", round + 1, o.rounds));
        let rate = site.closed_loop(o.search.seconds);
        closed.push(rate);
        let mut searcher =
            Searcher::new(o.search, |rate, seconds| Ok::<_, ConnectionsError>(site.trial(rate, seconds)));
        searches.push(searcher.find(0.0, 2.0 * rate, 0.9 * rate, 0.0)?);
    }
    let rate = Summary::of(searches.iter().map(|f| f.rate).collect());
    let mut connect = vec![];
    for share in [0.5, 0.9] {
        progress(&format!("connect at {} % of the rate", share * 100.0));
        if rate.median > 0.0 {
            site.trial(rate.median * share, 2.0 * o.search.seconds);
            connect.push((share, site.connect.summary()));
        }
    }
    let interruptions = site.clock.interruptions;
    drop(site);
    let concurrent = if o.concurrent > 0 {
        progress(&format!("holding {} connections", o.concurrent));
        Some(Site::new(o, o.concurrent + o.concurrent / 5 + 1024)?.concurrent(o.concurrent, o.scheme))
    } else {
        None
    };
    let at_once = AT_ONCE.min(o.descriptors / 2);
    let closed_loop = Summary::of(closed);
    Ok(Figures {
        options: o.clone(),
        tsc_hz: tsc_hz(),
        rate,
        searches,
        closed_loop,
        at_once,
        connect,
        concurrent,
        interruptions,
    })
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let o = &self.options;
        writeln!(
            f,
            "{}: connections with a request of {} B and a response of {} B; an end answers after {} µs; {} descriptors",
            match o.scheme {
                Scheme::Nat => "layer-4 NAT",
                Scheme::Delayed => "delayed binding",
            },
            o.request,
            o.response,
            o.delay as f64 / 1e3,
            o.descriptors
        )?;
        writeln!(
            f,
            "memory port, one worker, whose time alone counts; trials of {} s, resolution {} %; median (quartiles) of {} round(s)\n",
            o.search.seconds,
            o.search.resolution * 100.0,
            o.rounds
        )?;
        let of = |s: &Summary| format!("{:.0} ({:.0} – {:.0})", s.median, s.quartiles.0, s.quartiles.1);
        writeln!(f, "connections/s without a failed one   {}", of(&self.rate))?;
        for limit in self.searches.iter().map(|s| s.limit).filter(|l| *l != Limit::Loss) {
            writeln!(f, "  a search ended otherwise than with a failed connection: {limit:?}")?;
        }
        writeln!(f, "connections/s, {:>3} always open      {}", self.at_once, of(&self.closed_loop))?;
        for (share, l) in &self.connect {
            let us = |ns: u64| format!("{:.1}", ns as f64 / 1e3);
            writeln!(
                f,
                "connect at {:.0} % of that              p50 {} µs, p99 {}, p99.9 {}, max {} ({} connections)",
                share * 100.0,
                us(l.p50),
                us(l.p99),
                us(l.p999),
                us(l.max),
                l.probes
            )?;
        }
        if let Some(c) = &self.concurrent {
            writeln!(
                f,
                "held at once                         {} of {}, {} flows, {:.1} bytes each; {} answered once more, {} failed",
                c.opened,
                o.concurrent,
                c.flows,
                c.bytes,
                c.answered,
                o.concurrent - c.answered.min(o.concurrent)
            )?;
        }
        if self.interruptions > 0 {
            writeln!(f, "the machine interrupted {} turns, which are left out", self.interruptions)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quick(scheme: Scheme) -> Options {
        let search = Search { seconds: 0.02, resolution: 0.1, agree: 1, ..Options::default().search };
        Options { scheme, search, rounds: 1, concurrent: 700, ..Options::default() }
    }

    #[test]
    fn connections_come_by_their_schedule_and_all_that_are_held_answer_again() {
        for scheme in [Scheme::Nat, Scheme::Delayed] {
            let figures = measure(&quick(scheme), |_| {}).unwrap();
            assert!(figures.rate.median > 100.0 || figures.searches[0].limit == Limit::Machine, "{figures}");
            let c = figures.concurrent.as_ref().unwrap();
            assert_eq!((c.opened, c.flows >= 700, c.answered), (700, true, 700), "{figures}");
            assert!(figures.connect.iter().all(|(_, l)| l.probes > 0 && l.p50 <= l.max), "{figures}");
        }
    }

    #[test]
    fn a_rate_that_the_worker_cannot_carry_loses_connections_and_the_site_is_good_afterwards() {
        let mut site = Site::new(&Options { descriptors: 64, ..quick(Scheme::Delayed) }, MOST).unwrap();
        let trial = site.trial(50e6, 0.002);
        assert!(trial.overflow[0] >= trial.lost() && (trial.lost() > 1000 || trial.is_void()), "{trial:?}");
        let trial = site.trial(1000.0, 0.02);
        assert_eq!((trial.offered, trial.lost()), (20, 0), "{trial:?}");
    }
}
