//! When frames should gather: what network cards call adaptive interrupt coalescing, for a worker that sleeps.
//!
//! Whoever sleeps is woken by the first frame, and pays for that: an interrupt or a kernel thread on its way, two switches of
//! context, a timer programmed. (Of the time samples of a director's core under load, on veth in a virtual machine, the larger
//! part was there.) With many clients the frames behind it come microseconds later, one wake-up each. So when so many frames come
//! that several would gather, its queue's NAPI is told to look again after a while instead of having the next frame wake it. How many
//! come is what counts, not how many a worker finds at a time: who is woken by each finds one, and is too busy with
//! being woken for there ever to be two. If the frames that gather are few all the same, or clearly fewer come than before, because each client
//! waits for an answer before it says more, the time was lost to them: every frame wakes the worker at once again, and the next attempt comes
//! later. (Four clients that gathering has brought into step are always found together; only that they say less betrays them.)

use std::time::Duration;

/// When so many times the frames come that came when it was not worthwhile, it is tried at once.
const MANY_TIMES: u64 = 4;
/// Time between two decisions.
const PERIOD: Duration = Duration::from_millis(50);
/// Frames, of those that come now, in the time for which they would gather, from which on it is tried.
const SEVERAL: u64 = 3;
/// Frames at a time that must be found when they do.
const WORTHWHILE: u64 = 4;
/// Sleeps of a period below which there is nothing to save.
const RARE: u64 = 25;
/// From the end of a gathering that was not worthwhile to the next attempt; twice as long after each.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(32);
/// Periods after which a setting is made again, in case the interface has been down and has lost it.
const AGAIN: u32 = 20;

/// Decides from what a worker finds when it looks.
#[derive(Debug)]
pub(super) struct Coalescing {
    /// For how long frames gather.
    time: Duration,
    /// Frames that may: half of what there is room for.
    most: u64,
    /// Beginning of the period.
    since: Duration,
    sleeps: u64,
    /// Times that there were frames, and how many.
    found: u64,
    frames: u64,
    gathering: bool,
    /// Periods since it was set.
    periods: u32,
    not_before: Duration,
    pause: Duration,
    /// Frames a second when it was tried last, and then, slowly, of late.
    tried: u64,
}

impl Coalescing {
    /// Decides on frames that would gather for `time`, where there is room for so many.
    pub(super) fn new(time: Duration, room: u64) -> Self {
        Coalescing {
            time,
            most: room / 2,
            since: Duration::ZERO,
            sleeps: 0,
            found: 0,
            frames: 0,
            gathering: false,
            periods: 0,
            not_before: Duration::ZERO,
            pause: PAUSE,
            tried: 0,
        }
    }

    /// The worker has found `frames`, at least one, when it looked.
    #[inline]
    pub(super) fn found(&mut self, frames: usize) {
        self.found += 1;
        self.frames += frames as u64;
    }

    /// The worker is about to sleep at time `now`. What is to be set, when that is due.
    #[inline]
    pub(super) fn sleeps(&mut self, now: Duration) -> Option<bool> {
        self.sleeps += 1;
        if now < self.since + PERIOD { None } else { self.decide(now) }
    }

    #[cold]
    fn decide(&mut self, now: Duration) -> Option<bool> {
        let rate = self.rate(now);
        let gathering = if self.gathering {
            let worthwhile = self.found > 0 && self.frames >= WORTHWHILE * self.found;
            worthwhile && rate >= self.tried / 4 * 3 && self.expected(rate) <= self.most
        } else {
            let due = now >= self.not_before || rate >= self.tried.saturating_mul(MANY_TIMES);
            due && self.sleeps >= RARE && (SEVERAL..=self.most).contains(&self.expected(rate))
        };
        if self.gathering && gathering {
            self.pause = PAUSE;
            // What becomes less by and by has other reasons.
            self.tried = self.tried - self.tried / 8 + rate / 8;
        } else if self.gathering {
            self.not_before = now + self.pause;
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        } else if gathering {
            self.tried = rate;
        }
        let changed = gathering != self.gathering;
        self.periods += 1;
        let set = changed || gathering && self.periods >= AGAIN;
        if set {
            self.periods = 0;
        }
        self.gathering = gathering;
        (self.sleeps, self.found, self.frames) = (0, 0, 0);
        self.since = now;
        set.then_some(gathering)
    }

    /// Frames a second in this period.
    fn rate(&self, now: Duration) -> u64 {
        let nanoseconds = (now - self.since).as_nanos().max(1);
        u64::try_from(u128::from(self.frames) * 1_000_000_000 / nanoseconds).unwrap_or(u64::MAX)
    }

    /// Frames that come in the time for which they would gather.
    fn expected(&self, rate: u64) -> u64 {
        u64::try_from(u128::from(rate) * self.time.as_nanos() / 1_000_000_000).unwrap_or(u64::MAX)
    }

    /// For how long frames gather.
    pub(super) fn time(&self) -> Duration {
        self.time
    }

    /// Whether frames are to gather.
    pub(super) fn gathering(&self) -> bool {
        self.gathering
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays `time` in which the worker sleeps every `gap`, and finds `frames` at a time: the first of each when every frame wakes it, the
    /// second when they gather; what was set in it.
    fn play_by(
        c: &mut Coalescing,
        now: &mut Duration,
        time: Duration,
        gap: [Duration; 2],
        frames: [usize; 2],
    ) -> Vec<bool> {
        let end = *now + time;
        let mut set = Vec::new();
        while *now < end {
            let how = usize::from(c.gathering());
            *now += gap[how];
            if frames[0] > 0 {
                c.found(frames[how]);
            }
            set.extend(c.sleeps(*now));
        }
        set
    }

    fn play(c: &mut Coalescing, now: &mut Duration, time: Duration, gap: Duration, frames: [usize; 2]) -> Vec<bool> {
        play_by(c, now, time, [gap; 2], frames)
    }

    const TIME: Duration = Duration::from_micros(200);
    const ROOM: u64 = 256;
    const OFTEN: Duration = Duration::from_micros(200);
    const SHORT: Duration = Duration::from_millis(500);

    #[test]
    fn frames_of_many_clients_gather_and_those_of_one_do_not() {
        let (mut c, mut t) = (Coalescing::new(TIME, ROOM), Duration::from_secs(1));
        assert_eq!(play(&mut c, &mut t, SHORT, OFTEN, [1, 1]), Vec::<bool>::new(), "one client, one frame each time");
        assert_eq!(play(&mut c, &mut t, SHORT, OFTEN, [3, 20]), vec![true]);
        assert!(c.gathering());
        assert_eq!(play(&mut c, &mut t, SHORT, OFTEN, [1, 1]), vec![false]);
    }

    #[test]
    fn clients_who_wait_for_answers_lose_little_by_attempts() {
        let (mut c, mut t) = (Coalescing::new(TIME, ROOM), Duration::from_secs(1));
        // Three clients: three frames at a time, however long one waits.
        let set = play(&mut c, &mut t, Duration::from_secs(60), OFTEN, [3, 3]);
        let attempts = set.iter().filter(|gathering| **gathering).count();
        assert!((3..=6).contains(&attempts), "{attempts} attempts a minute, of 50 ms each");
        assert!(!c.gathering());
    }

    #[test]
    fn clients_who_say_less_when_their_frames_gather_are_left_alone() {
        let (mut c, mut t) = (Coalescing::new(TIME, ROOM), Duration::from_secs(1));
        // Four clients in step: found together, a round trip longer.
        let gaps = [Duration::from_micros(10), Duration::from_micros(400)];
        let set = play_by(&mut c, &mut t, Duration::from_secs(60), gaps, [1, 4]);
        let attempts = set.iter().filter(|gathering| **gathering).count();
        assert!((3..=6).contains(&attempts) && !c.gathering(), "{attempts} attempts a minute, of 50 ms each");
        // Many more come: not one of the long pauses is waited for.
        let gaps = [Duration::from_micros(2), Duration::from_micros(200)];
        assert_eq!(play_by(&mut c, &mut t, SHORT, gaps, [1, 100]), vec![true]);
        // Load that goes down by and by.
        for percent in (40..100).rev() {
            let gap = Duration::from_micros(20_000 / percent);
            assert!(!play(&mut c, &mut t, SHORT, gap, [100, 100]).contains(&false), "{percent} %");
        }
    }

    #[test]
    fn what_there_is_no_room_for_does_not_gather() {
        let (mut c, mut t) = (Coalescing::new(TIME, ROOM), Duration::from_secs(1));
        assert_eq!(play(&mut c, &mut t, SHORT, Duration::from_micros(10), [8, 32]), Vec::<bool>::new());
        assert_eq!(play(&mut c, &mut t, SHORT, Duration::from_micros(10), [4, 6]), vec![true]);
        assert_eq!(play(&mut c, &mut t, SHORT, Duration::from_micros(10), [8, 16]), vec![false]);
    }

    #[test]
    fn frames_that_each_wake_the_worker_gather_when_there_are_many() {
        let (mut c, mut t) = (Coalescing::new(TIME, ROOM), Duration::from_secs(1));
        assert_eq!(play(&mut c, &mut t, SHORT, Duration::from_micros(25), [1, 8]), vec![true]);
    }

    #[test]
    fn frames_that_may_not_gather_never_do() {
        let (mut c, mut t) = (Coalescing::new(Duration::ZERO, ROOM), Duration::from_secs(1));
        assert_eq!(play(&mut c, &mut t, SHORT, OFTEN, [32, 32]), Vec::<bool>::new());
    }

    #[test]
    fn little_traffic_is_left_alone_and_silence_ends_it() {
        let (mut c, mut t) = (Coalescing::new(TIME, ROOM), Duration::from_secs(1));
        assert_eq!(
            play(&mut c, &mut t, SHORT, Duration::from_millis(5), [32, 32]),
            Vec::<bool>::new(),
            "ten sleeps a period"
        );
        assert_eq!(play(&mut c, &mut t, SHORT, OFTEN, [20, 20]), vec![true]);
        assert_eq!(play(&mut c, &mut t, SHORT, Duration::from_millis(5), [0, 0]), vec![false]);
    }

    #[test]
    fn what_was_set_is_set_again_from_time_to_time() {
        let (mut c, mut t) = (Coalescing::new(TIME, ROOM), Duration::from_secs(1));
        let set = play(&mut c, &mut t, PERIOD * (1 + 3 * AGAIN), OFTEN, [20, 20]);
        assert!((3..=4).contains(&set.len()) && set.iter().all(|gathering| *gathering), "{set:?}");
    }
}
