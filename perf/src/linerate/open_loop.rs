//! A trial over real ports: frames leave when they are due by the wall clock, whatever becomes of them.
//!
//! A frame that cannot leave within a millisecond of its time is never sent: it counts as late, not as lost. A turn of this loop that takes
//! longer than [`GAP`] had lost its core: what came after it was a burst that no rate describes, so that a loss in such a trial says nothing
//! about the device, and a trial without one still does.

use super::clock::Schedule;
use super::histogram::Histogram;
use super::sizes::Size;
use super::trial::Trial;
use crate::traffic::Stamp;
use lcs_dataplane::batch::BURST;
use lcs_dataplane::cycles::{tsc, tsc_hz};
use std::time::{Duration, Instant};

/// Of so many frames one is a probe, in trials that measure latency.
const PROBE_EVERY: u64 = 16;
/// Seconds by which a frame may be late; what is later is not sent.
const LATE: f64 = 1e-3;
/// After the last frame of a trial, this long without another one ends it.
const SETTLE: Duration = Duration::from_millis(30);
/// Longest time that a trial waits for frames after its last was due, however many come: a device that repeats frames would never be done.
const PATIENCE: Duration = Duration::from_secs(2);
/// Seconds; a turn that takes longer was interrupted. System calls for 32 frames take some 50 µs.
const GAP: f64 = 500e-6;

/// Both ends of what is measured, in one thread's hands.
pub(super) trait Ends {
    /// A trial begins; its number is the upper eight bits of its probes' numbers.
    fn begin(&mut self, trial: u32, size: Size);

    /// Queues one frame of some flow; `false` where there was no room. A probe carries its stamp, another frame what it likes.
    fn send(&mut self, size: Size, stamp: Option<Stamp>) -> bool;

    /// Sends what was queued, and has the driver bring what there is.
    fn flush(&mut self);

    /// Takes at most a burst of what has come out, and hands the stamps of this trial's probes over. How many frames of this trial there were,
    /// and whether there may be more.
    fn take(&mut self, probe: &mut dyn FnMut(Stamp)) -> (u64, bool);

    /// Whether to end, with the trial unfinished.
    fn interrupted(&self) -> bool {
        false
    }

    /// The trial is over: adds what is known of single queues.
    fn end(&mut self, trial: &mut Trial);
}

/// Offers frames of `size` at `rate` a second for `seconds`; `number` tells this trial's frames from those before it.
pub(super) fn trial(ends: &mut impl Ends, number: u32, rate: f64, seconds: f64, size: Size, probes: bool) -> Trial {
    let hz = tsc_hz() as f64;
    let (late, gap) = ((LATE * hz) as u64, (GAP * hz) as u64);
    let number = number & 0xff;
    ends.begin(number, size);
    let ns = |cycles: u64| (cycles as f64 * 1e9 / hz) as u64 as u32;
    let mut histogram = Histogram::default();
    let (mut offered, mut skipped, mut refused, mut received, mut working) = (0u64, 0, 0, 0, 0);
    let (mut gaps, mut in_gaps) = (0, 0);
    let begin = tsc();
    let mut schedule = Schedule::new(0, (seconds * hz) as u64, hz / rate);
    let end = Instant::now() + Duration::from_secs_f64(seconds) + PATIENCE;
    let (mut last, mut before) = (Instant::now(), 0);
    loop {
        let now = tsc().wrapping_sub(begin);
        if now - before > gap {
            gaps += 1;
            in_gaps += now - before;
        }
        before = now;
        let mut burst = 0;
        if !schedule.over() {
            skipped += schedule.skip(now.saturating_sub(late));
        }
        while burst < BURST
            && let Some(due) = schedule.due(now)
        {
            burst += 1;
            offered += 1;
            let number = number << 24 | (offered as u32 & 0xff_ffff) | 2;
            let stamp = (probes && offered % PROBE_EVERY == 0).then(|| Stamp { number, due: ns(due) });
            refused += u64::from(!ends.send(size, stamp));
        }
        ends.flush();
        let mut came = 0;
        for _ in 0..4 {
            let (n, more) = ends.take(&mut |stamp| {
                histogram.note(u64::from(ns(tsc().wrapping_sub(begin)).wrapping_sub(stamp.due)));
            });
            came += n;
            if !more {
                break;
            }
        }
        received += came;
        if burst > 0 || came > 0 {
            working += tsc().wrapping_sub(begin) - now;
            last = Instant::now();
        }
        if schedule.over() && (last.elapsed() > SETTLE || last > end) || ends.interrupted() {
            break;
        }
    }
    let mut trial = Trial {
        rate,
        seconds,
        offered: offered + skipped,
        behind: refused + skipped,
        received,
        generator_cycles: working as f64 / (offered + skipped).max(1) as f64,
        forwarded_rate: received as f64 / seconds,
        gaps,
        gaps_ms: in_gaps as f64 / hz * 1e3,
        ..Trial::default()
    }
    .with_latency(&histogram);
    ends.end(&mut trial);
    trial
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wire of limited rate, on the wall clock.
    struct Wire {
        begun: Instant,
        carried: f64,
        sent: u64,
        arrived: u64,
        waiting: Vec<Option<Stamp>>,
        number: u32,
    }

    impl Ends for Wire {
        fn begin(&mut self, trial: u32, _: Size) {
            *self = Wire { begun: Instant::now(), number: trial, sent: 0, arrived: 0, waiting: vec![], ..*self };
        }

        fn send(&mut self, _: Size, stamp: Option<Stamp>) -> bool {
            self.sent += 1;
            if (self.arrived as f64) < self.begun.elapsed().as_secs_f64() * self.carried {
                self.arrived += 1;
                self.waiting.push(stamp);
            }
            true
        }

        fn flush(&mut self) {}

        fn take(&mut self, probe: &mut dyn FnMut(Stamp)) -> (u64, bool) {
            let n = self.waiting.len() as u64;
            self.waiting.drain(..).flatten().for_each(|stamp| {
                assert_eq!(stamp.number >> 24, self.number);
                probe(stamp);
            });
            (n, false)
        }

        fn end(&mut self, _: &mut Trial) {}
    }

    fn wire(carried: f64) -> Wire {
        Wire { begun: Instant::now(), carried, sent: 0, arrived: 0, waiting: vec![], number: 0 }
    }

    #[test]
    fn every_frame_is_sent_or_late_and_what_the_wire_does_not_carry_is_lost() {
        let mut wide = wire(f64::INFINITY);
        let trial = super::trial(&mut wide, 0x1ff, 10e3, 0.05, Size::Imix, true);
        // One more where the time was over only a moment later than the last frame's.
        assert!(trial.offered >= 500 && trial.lost() == 0, "{trial:?}");
        assert_eq!(wide.sent, trial.offered - trial.behind);
        assert!(trial.latency.is_some_and(|l| l.probes >= 25) || trial.behind > 0);
        let mut narrow = wire(2e3);
        let trial = super::trial(&mut narrow, 1, 10e3, 0.05, Size::Imix, false);
        assert_eq!((trial.lost(), trial.latency.is_none()), (narrow.sent - trial.received, true), "{trial:?}");
        // A machine that took the core away had fewer frames sent.
        assert!(trial.lost() > 300 || trial.gaps > 0, "{trial:?}");
    }
}
