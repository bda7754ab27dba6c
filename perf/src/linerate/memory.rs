//! The memory port as a device under test: a receive queue of so many descriptors that frames arrive in by their schedule.
//!
//! Time is cut into slices of [`Looks::SECONDS`]. Those in which the machine interrupted, or the worker recovered from that, are set aside, and on
//! demand those in which a neighbour disturbed: neither what was offered then nor what was lost is counted, and the trial takes so much longer.
//! Behind a disturbance the queue is brought to what waited in it before, as if the disturbance had never been: were it left as it is, what it
//! holds would be lost in slices that nobody disturbed; were it emptied, a rate that is beyond the worker would hold where disturbances are many.

use super::clock::{Schedule, VirtualClock};
use super::histogram::Histogram;
use super::looks::Looks;
use super::sizes::Size;
use super::trial::Trial;
use crate::traffic::{Stamp, Traffic};
use lcs_dataplane::DropReason;
use lcs_dataplane::cycles::{Meter, tsc, tsc_hz};
use lcs_dataplane::headers::tcp::flags::ACK;
use lcs_dataplane::port::memory::MemoryPort;
use lcs_dataplane::worker::{Pipeline, Worker};
use std::time::Instant;

/// Of so many frames one is a probe, in trials that measure latency.
const PROBE_EVERY: u64 = 16;
/// Busy turns after which timers and commands are served, as in the worker's own loop.
const BUSY_TURNS: u32 = 8;
/// The pipeline's time at the clock's 0: that of [`crate::stages`] when flows were opened.
const START: u64 = 1_000_000_000;

/// A trial may take so many times its seconds until as many have passed undisturbed; then it ends as it is.
const PATIENCE: u64 = 20;
/// Of these seconds, the share that a trial must have had.
const ENOUGH: f64 = 0.99;

/// What a trial has seen since the last look at the core.
#[derive(Default)]
struct Slice {
    begin: u64,
    injected: u64,
    missed: u64,
    forwarded: u64,
    /// The machine interrupted, or the worker still suffered from that.
    recovering: bool,
    /// Latencies of probes, ns.
    probes: Vec<u64>,
}

/// What slices come to.
#[derive(Default)]
struct Sum {
    injected: u64,
    missed: u64,
    forwarded: u64,
    cycles: u64,
}

impl Sum {
    fn add(&mut self, slice: &Slice, now: u64) {
        self.injected += slice.injected;
        self.missed += slice.missed;
        self.forwarded += slice.forwarded;
        self.cycles += now - slice.begin;
    }
}

/// A worker on the memory port, with its generator and its sink.
pub(crate) struct Memory<L: Pipeline, M> {
    pub worker: Worker<MemoryPort, L, M>,
    pub traffic: Traffic,
    pub flows: usize,
    pub descriptors: usize,
    /// Sets slices aside in which somebody else used the core's other hardware thread, or the last-level cache more than usual.
    pub apart: bool,
    /// Trials end by then.
    pub until: Option<Instant>,
    looks: Looks,
    clock: VirtualClock,
    busy: u32,
}

impl<L: Pipeline, M: Meter> Memory<L, M> {
    /// Over a port that has more buffers than `descriptors`.
    pub fn new(worker: Worker<MemoryPort, L, M>, traffic: Traffic, flows: usize, descriptors: usize) -> Self {
        let clock = VirtualClock::new(VirtualClock::GAP, flows);
        Memory { worker, traffic, flows, descriptors, apart: false, until: None, looks: Looks::new(), clock, busy: 0 }
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

    /// Puts a frame of any flow into the receive queue.
    #[inline]
    fn inject(&mut self, size: Size, stamp: Option<Stamp>) -> bool {
        let pair = self.traffic.any(self.flows);
        let part = size.pick(self.traffic.random());
        self.traffic.inject(self.worker.port_mut(), 0, pair, ACK, stamp, part)
    }

    /// Offers frames of `size` at `rate` a second until `seconds` of the worker's time have passed undisturbed, and waits for the last to come out.
    pub fn trial(&mut self, rate: f64, seconds: f64, size: Size, probes: bool) -> Trial {
        let hz = tsc_hz() as f64;
        let sizes: Vec<usize> = size.parts().iter().map(|p| p.0).collect();
        self.traffic.set_sizes(&sizes);
        let (interruptions, left_out) = (self.clock.interruptions, self.clock.left_out);
        let dropped = self.worker.counters().dropped.clone();
        let (begin, asked) = (self.clock.cycles(), (seconds * hz) as u64);
        let mut schedule = Schedule::new(begin, begin + asked, hz / rate);
        let (mut received, mut answered, mut sent) = (0u64, 0u64, 0);
        let (mut counted, mut aside) = (Sum::default(), Sum::default());
        let mut histogram = Histogram::default();
        let mut slice = Slice { begin, ..Slice::default() };
        // Frames that waited when the last slice that counts ended; nothing is offered until as few wait again; no more time is left.
        let (mut level, mut restoring, mut cut) = (0, false, false);
        self.looks.begin(size.mean() as u64);
        let started = tsc();
        loop {
            let now = self.clock.cycles();
            let waiting = self.worker.port().waiting();
            if restoring {
                schedule.skip(now);
                if waiting <= level {
                    restoring = false;
                    while !cut && self.worker.port().waiting() < level && self.inject(size, None) {
                        slice.injected += 1;
                    }
                    aside.add(&slice, now);
                    slice = Slice { begin: now, ..Slice::default() };
                    if !cut {
                        schedule.end_at(now + asked.saturating_sub(counted.cycles));
                        schedule.skip(now);
                    }
                }
            }
            while !restoring && self.worker.port().waiting() < self.descriptors {
                let Some(due) = schedule.due(now) else { break };
                sent += 1;
                let stamp = (probes && sent % PROBE_EVERY == 0)
                    .then(|| Stamp { number: (sent as u32) | 2, due: (due as f64 * 1e9 / hz) as u64 as u32 });
                if self.inject(size, stamp) {
                    slice.injected += 1;
                } else {
                    slice.missed += 1;
                }
            }
            if self.worker.port().waiting() >= self.descriptors {
                slice.missed += schedule.skip(now);
            }
            slice.recovering |= self.clock.recovering();
            let over = schedule.over() && self.worker.port().waiting() == 0;
            if let Some(look) = self.looks.ended(over) {
                let disturbed = restoring || slice.recovering || self.apart && look.disturbed();
                if disturbed {
                    aside.add(&slice, now);
                } else {
                    counted.add(&slice, now);
                    level = self.worker.port().waiting();
                    slice.probes.drain(..).for_each(|ns| histogram.note(ns));
                }
                slice.probes.clear();
                slice = Slice { begin: now, probes: slice.probes, ..Slice::default() };
                let late = now - begin > asked.saturating_mul(PATIENCE)
                    || self.until.is_some_and(|until| Instant::now() > until);
                if late && !cut {
                    cut = true;
                    schedule.end_at(now);
                } else if disturbed && !cut {
                    schedule.end_at(now + asked.saturating_sub(counted.cycles));
                    schedule.skip(now);
                    let goes_on = self.clock.recovering() || self.apart && self.looks.last().disturbed();
                    restoring |= !goes_on;
                }
                if over && schedule.over() {
                    break;
                }
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
            slice.forwarded += sent;
            slice.recovering |= recovering;
        }
        let cycles = self.clock.cycles() - begin;
        let worker_cycles = cycles + self.clock.left_out - left_out;
        let elapsed = tsc().wrapping_sub(started);
        let all = counted.injected + aside.injected + counted.missed + aside.missed;
        // Of what came out, what was offered in slices that are set aside; all that is in the queue comes out.
        let of_aside = aside.injected.min(received);
        let answers_of_aside = (aside.injected - of_aside).min(answered);
        let now = self.worker.counters();
        let reasons = DropReason::ALL.iter().zip(now.dropped.iter().zip(&dropped));
        let share = |of: u32| f64::from(of) / f64::from(self.looks.looks.max(1));
        Trial {
            rate,
            seconds,
            offered: counted.injected + counted.missed,
            behind: 0,
            received: received - of_aside,
            answered: answered - answers_of_aside,
            overflow: vec![counted.missed],
            dropped: reasons.filter(|(_, (a, b))| a > b).map(|(r, (a, b))| (r.to_string(), a - b)).collect(),
            generator_cycles: elapsed.saturating_sub(worker_cycles) as f64 / all.max(1) as f64,
            interruptions: self.clock.interruptions - interruptions,
            interrupted_ms: (self.clock.left_out - left_out) as f64 / hz * 1e3,
            set_aside: aside.missed,
            shared: share(self.looks.shared),
            evicted: share(self.looks.evicted),
            gaps: 0,
            gaps_ms: 0.0,
            queues: vec![],
            disturbed: aside.cycles as f64 / cycles.max(1) as f64,
            short: (counted.cycles as f64) < ENOUGH * asked as f64,
            forwarded_rate: counted.forwarded as f64 * hz / counted.cycles.max(1) as f64,
            latency: None,
        }
        .with_latency(&histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linerate::reflector::Reflector;
    use crate::stages;
    use lcs_dataplane::cycles::Tsc;
    use std::time::Duration;

    fn reflector() -> Memory<Reflector, Tsc> {
        let worker = Worker::new(MemoryPort::new(1, 2048), Reflector { interfaces: 1 }, Tsc);
        let flows = stages::Options { flows: 500, size: 64, ..Default::default() };
        Memory::new(worker, Traffic::new(&flows), 500, 256)
    }

    /// Where neighbours disturb all the time nothing is counted, neither as offered nor as lost, and the trial ends all the same.
    #[test]
    fn what_is_set_aside_is_in_no_number() {
        if cfg!(not(target_arch = "x86_64")) {
            println!("skipped: what_is_set_aside_is_in_no_number needs a processor whose cache can be looked at");
            return;
        }
        let mut device = reflector();
        device.apart = true;
        device.looks.expect(64, 1);
        let trial = device.trial(1e9, 0.005, Size::Bytes(64), true);
        assert!(trial.short && trial.evicted == 1.0 && trial.disturbed == 1.0, "{trial:?}");
        assert_eq!((trial.offered, trial.received, trial.lost(), &trial.latency), (0, 0, 0, &None), "{trial:?}");
        assert!(trial.set_aside > 0 && trial.holds(0.0).is_none(), "{trial:?}");
        assert_eq!(device.worker.port().waiting(), 0);
        // The same counts where it is not to be set aside.
        device.apart = false;
        let trial = device.trial(1e9, 0.005, Size::Bytes(64), false);
        assert!(trial.short || trial.lost() > 0 && trial.evicted == 1.0, "{trial:?}");
    }

    #[test]
    fn a_trial_ends_when_it_must() {
        let mut device = reflector();
        let begun = Instant::now();
        device.until = Some(begun + Duration::from_millis(20));
        let trial = device.trial(1e6, 100.0, Size::Bytes(64), false);
        assert!(trial.short && trial.is_void() && begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        assert_eq!(device.worker.port().waiting(), 0);
    }
}
