//! One trial: frames offered at a constant rate for some time, and what became of them.

use super::histogram::{Histogram, Latency};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What one trial has seen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Frames/s that were due.
    pub rate: f64,
    /// For how long, s.
    pub seconds: f64,
    /// Frames that were due in this time.
    pub offered: u64,
    /// Of these, frames that the generator could not send at their time: not lost, never offered.
    pub behind: u64,
    /// Frames that came out at the other end.
    pub received: u64,
    /// What came out beside them: what the director itself has to say, such as ICMP errors about frames that it does not send on.
    #[serde(default)]
    pub answered: u64,
    /// Frames that found a receive queue full, by queue.
    pub overflow: Vec<u64>,
    /// Frames that the director dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Cycles of the generator and sink, a frame.
    pub generator_cycles: f64,
    /// Turns that the machine interrupted, left out of the clock.
    pub interruptions: u64,
    /// Time of these, ms.
    pub interrupted_ms: f64,
    /// Frames that were lost while the worker recovered from an interruption, or had to share its core; in none of the numbers above.
    pub set_aside: u64,
    /// Share of the trial's time in which what was lost was set aside.
    pub disturbed: f64,
    /// Frames/s that came out in the rest of it.
    pub forwarded_rate: f64,
    /// Share of looks at the worker's core that found it shared with another hardware thread, set aside or not.
    #[serde(default)]
    pub shared: f64,
    /// Turns of the generator in which it had lost its core, over real ports.
    #[serde(default)]
    pub gaps: u64,
    /// Time of these, ms.
    #[serde(default)]
    pub gaps_ms: f64,
    /// By queue, over ports that somebody named.
    #[serde(default)]
    pub queues: Vec<QueueCounts>,
    /// Of the probes; absent where none were sent.
    pub latency: Option<Latency>,
}

/// What one queue has seen in a trial.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueCounts {
    /// Frames that left by this queue.
    pub sent: u64,
    /// Of these, frames that came out nowhere.
    pub lost: u64,
    /// Frames that came in by this queue.
    pub received: u64,
    /// Frames for which this queue had no room: the receiving end's loss, and not the device's.
    pub missed: u64,
}

impl Trial {
    /// Share of frames that may be late before the trial says nothing about the device.
    pub const BEHIND: f64 = 0.01;

    /// Share of a trial's time that may be disturbed before the trial says nothing about the device.
    pub const DISTURBED: f64 = 0.5;

    /// A loss so far beyond the goal that no second trial is asked, and no interruption explains it.
    pub const CLEAR: f64 = 0.02;

    /// Whether the trial says nothing about the device.
    pub fn is_void(&self) -> bool {
        self.behind_ratio() > Self::BEHIND || self.disturbed > Self::DISTURBED
    }

    /// Whether the loss is at most `goal`; `None` where the trial cannot tell: it is void, the generator had lost its core before it lost so much,
    /// or the receiving end itself did.
    pub fn holds(&self, goal: f64) -> Option<bool> {
        if self.is_void() {
            return None;
        }
        if self.loss() <= goal {
            return Some(true);
        }
        let of_the_device = self.lost().saturating_sub(self.missed()) as f64 / self.judged();
        if of_the_device <= goal {
            return None;
        }
        (self.gaps == 0 || self.is_clear(goal)).then_some(false)
    }

    /// Whether the loss is so far beyond `goal` that no second trial need be asked.
    pub fn is_clear(&self, goal: f64) -> bool {
        !self.is_void() && self.loss() > goal + Self::CLEAR
    }

    /// Frames that the receiving end had no room for.
    pub fn missed(&self) -> u64 {
        self.queues.iter().map(|q| q.missed).sum()
    }

    /// Frames that were sent and did not come out.
    pub fn lost(&self) -> u64 {
        (self.offered - self.behind.min(self.offered)).saturating_sub(self.received)
    }

    /// These, as a share of what was sent in the time that was not disturbed.
    pub fn loss(&self) -> f64 {
        self.lost() as f64 / self.judged()
    }

    /// Frames that were sent in the time that was not disturbed, at least one.
    fn judged(&self) -> f64 {
        let sent = (self.offered - self.behind.min(self.offered) + self.set_aside) as f64;
        (sent * (1.0 - self.disturbed)).max(1.0)
    }

    /// Share of frames that the generator could not send at their time.
    pub fn behind_ratio(&self) -> f64 {
        self.behind as f64 / self.offered.max(1) as f64
    }

    pub(crate) fn with_latency(self, histogram: &Histogram) -> Self {
        Trial { latency: (histogram.count() > 0).then(|| histogram.summary()), ..self }
    }
}
