//! The memory port as a device under test: a receive queue of so many descriptors that frames arrive in by their schedule.

use super::clock::{Schedule, VirtualClock};
use super::histogram::Histogram;
use super::sizes::Size;
use super::trial::Trial;
use crate::neighbour::Slices;
use crate::traffic::{Stamp, Traffic};
use lcs_dataplane::DropReason;
use lcs_dataplane::cycles::{Meter, tsc, tsc_hz};
use lcs_dataplane::headers::tcp::flags::ACK;
use lcs_dataplane::port::memory::MemoryPort;
use lcs_dataplane::worker::{Pipeline, Worker};

/// Of so many frames one is a probe, in trials that measure latency.
const PROBE_EVERY: u64 = 16;
/// Busy turns after which timers and commands are served, as in the worker's own loop.
const BUSY_TURNS: u32 = 8;
/// The pipeline's time at the clock's 0: that of [`crate::stages`] when flows were opened.
const START: u64 = 1_000_000_000;

/// Slices for which a queue may still be full of what came while the core was shared.
const BACKLOG: u32 = 8;

/// What a trial has seen since the last look at the core.
#[derive(Default)]
struct Slice {
    missed: u64,
    forwarded: u64,
    cycles: u64,
    /// Latencies of probes, ns.
    probes: Vec<u64>,
}

/// A worker on the memory port, with its generator and its sink.
pub(crate) struct Memory<L: Pipeline, M> {
    pub worker: Worker<MemoryPort, L, M>,
    pub traffic: Traffic,
    pub flows: usize,
    pub descriptors: usize,
    /// Sets aside what is lost while somebody else uses the core's other hardware thread.
    pub apart: bool,
    clock: VirtualClock,
    busy: u32,
}

impl<L: Pipeline, M: Meter> Memory<L, M> {
    /// Over a port that has more buffers than `descriptors`.
    pub fn new(worker: Worker<MemoryPort, L, M>, traffic: Traffic, flows: usize, descriptors: usize) -> Self {
        let clock = VirtualClock::new(VirtualClock::GAP, flows);
        Memory { worker, traffic, flows, descriptors, apart: false, clock, busy: 0 }
    }

    /// The worker's own time so far, ns.
    #[cfg(test)]
    pub fn worker_ns(&self) -> u64 {
        self.clock.ns()
    }

    /// A turn of the worker's loop, as [`Worker::run`] has it.
    #[inline]
    fn turn(&mut self) {
        let (worker, busy) = (&mut self.worker, &mut self.busy);
        let now = START + self.clock.ns();
        self.clock.turn(|| {
            if worker.poll(now) > 0 {
                *busy += 1;
                if *busy < BUSY_TURNS {
                    return;
                }
            }
            *busy = 0;
            worker.between(now);
        });
    }

    /// Offers frames of `size` at `rate` a second for `seconds` of the worker's time, and waits for the last to come out.
    pub fn trial(&mut self, rate: f64, seconds: f64, size: Size, probes: bool) -> Trial {
        let hz = tsc_hz() as f64;
        let sizes: Vec<usize> = size.parts().iter().map(|p| p.0).collect();
        self.traffic.set_sizes(&sizes);
        let (interruptions, left_out) = (self.clock.interruptions, self.clock.left_out);
        let dropped = self.worker.counters().dropped.clone();
        let begin = self.clock.cycles();
        let mut schedule = Schedule::new(begin, begin + (seconds * hz) as u64, hz / rate);
        let (mut offered, mut overflow, mut received, mut answered, mut sent) = (0, 0, 0, 0, 0);
        let (mut set_aside, mut undisturbed, mut undisturbed_cycles) = (0, 0, 0);
        let mut histogram = Histogram::default();
        let (mut slices, mut slice, mut backlog) = (Slices::begin(), Slice::default(), 0);
        let started = tsc();
        loop {
            let now = self.clock.cycles();
            while self.worker.port().waiting() < self.descriptors {
                let Some(due) = schedule.due(now) else { break };
                offered += 1;
                sent += 1;
                let stamp = (probes && sent % PROBE_EVERY == 0)
                    .then(|| Stamp { number: (sent as u32) | 2, due: (due as f64 * 1e9 / hz) as u64 as u32 });
                let pair = self.traffic.any(self.flows);
                let part = size.pick(self.traffic.random());
                if !self.traffic.inject(self.worker.port_mut(), 0, pair, ACK, stamp, part) {
                    overflow += 1;
                }
            }
            if self.worker.port().waiting() >= self.descriptors {
                let missed = schedule.skip(now);
                if self.clock.recovering() {
                    set_aside += missed;
                } else {
                    slice.missed += missed;
                }
            }
            let over = schedule.over() && self.worker.port().waiting() == 0;
            let looked = slices.ended();
            if over || looked.is_some() {
                // The rest of a slice at the trial's end is as its beginning was.
                let alone = looked.unwrap_or_else(|| slices.is_alone());
                let Slice { missed, forwarded, cycles, probes } = &mut slice;
                if self.apart && (!alone || backlog > 0) {
                    set_aside += *missed;
                    probes.clear();
                } else {
                    offered += *missed;
                    overflow += *missed;
                    undisturbed += *forwarded;
                    undisturbed_cycles += *cycles;
                    probes.drain(..).for_each(|ns| histogram.note(ns));
                }
                (*missed, *forwarded, *cycles) = (0, 0, 0);
                let emptied = self.worker.port().waiting() < self.descriptors / 4;
                backlog = match alone {
                    false => BACKLOG,
                    true if emptied => 0,
                    true => backlog.saturating_sub(1),
                };
            }
            if over {
                break;
            }
            self.turn();
            let (out, recovering) = (self.clock.ns(), self.clock.recovering());
            let traffic = &self.traffic;
            let mut sent = 0;
            let came = self.worker.port_mut().take_sent(|_, b| {
                sent += u64::from(traffic.carries(b));
                if probes
                    && !recovering
                    && let Some(stamp) = traffic.stamp_of(b)
                {
                    slice.probes.push(u64::from((out as u32).wrapping_sub(stamp.due)));
                }
            }) as u64;
            received += sent;
            answered += came - sent;
            if !recovering {
                slice.forwarded += sent;
                slice.cycles += self.clock.cycles() - now;
            }
        }
        let worker_cycles = self.clock.cycles() - begin + self.clock.left_out - left_out;
        let elapsed = tsc().wrapping_sub(started);
        let now = self.worker.counters();
        let reasons = DropReason::ALL.iter().zip(now.dropped.iter().zip(&dropped));
        Trial {
            rate,
            seconds,
            offered,
            behind: 0,
            received,
            answered,
            overflow: vec![overflow],
            dropped: reasons.filter(|(_, (a, b))| a > b).map(|(r, (a, b))| (r.to_string(), a - b)).collect(),
            generator_cycles: elapsed.saturating_sub(worker_cycles) as f64 / offered.max(1) as f64,
            interruptions: self.clock.interruptions - interruptions,
            interrupted_ms: (self.clock.left_out - left_out) as f64 / hz * 1e3,
            set_aside,
            shared: f64::from(slices.shared) / f64::from(slices.looks.max(1)),
            gaps: 0,
            gaps_ms: 0.0,
            queues: vec![],
            disturbed: 1.0 - (undisturbed_cycles as f64 / (self.clock.cycles() - begin).max(1) as f64).min(1.0),
            forwarded_rate: undisturbed as f64 * hz / undisturbed_cycles.max(1) as f64,
            latency: None,
        }
        .with_latency(&histogram)
    }
}
