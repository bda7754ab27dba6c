//! A link: two directions, each with a rate, a delay, and its own seeded faults.

use super::random::Random;
use lcs_dataplane::worker::Nanos;
use serde::{Deserialize, Serialize};

/// How one direction of a link treats frames. Probabilities are per frame, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Bits per second; 0 for endless.
    pub rate: u64,
    /// Bytes that may wait for the transmitter before frames are dropped at the tail; 0 for endless. Only with a rate.
    pub queue: u64,
    /// Propagation delay, ns.
    pub delay: Nanos,
    /// Added to the delay, evenly distributed from 0 to this, ns. Frames don't overtake each other by it.
    pub jitter: Nanos,
    /// Probability that a frame is lost.
    pub loss: f64,
    /// Probability that a frame arrives twice.
    pub duplicate: f64,
    /// Probability that a frame is held back and overtaken.
    pub reorder: f64,
    /// How long such a frame is held back, at most, ns.
    pub hold: Nanos,
    /// Probability that one bit behind the link-layer header of an IP frame is flipped. One only, which every
    /// Internet checksum notices; ARP, which has none, is spared.
    pub corrupt: f64,
}

impl Default for Faults {
    fn default() -> Self {
        Faults::NONE
    }
}

impl Faults {
    /// A perfect wire of 10 µs.
    pub const NONE: Faults = Faults {
        rate: 0,
        queue: 0,
        delay: 10_000,
        jitter: 0,
        loss: 0.0,
        duplicate: 0.0,
        reorder: 0.0,
        hold: 0,
        corrupt: 0.0,
    };

    /// A bad wire: everything happens to some frames. `p` is the probability of each fault.
    pub fn all(p: f64) -> Faults {
        Faults {
            delay: 200_000,
            jitter: 100_000,
            loss: p,
            duplicate: p,
            reorder: p,
            hold: 2_000_000,
            corrupt: p,
            ..Faults::NONE
        }
    }

    /// Whether frames can get lost, late or changed.
    pub fn any(&self) -> bool {
        self.loss + self.duplicate + self.reorder + self.corrupt > 0.0 || (self.rate > 0 && self.queue > 0)
    }
}

/// What happened to the frames of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkCounts {
    /// Frames offered.
    pub offered: u64,
    /// Bytes of these, without FCS.
    pub offered_bytes: u64,
    /// Lost by chance, or because the link was down.
    pub lost: u64,
    /// Dropped at the tail of the transmitter's queue.
    pub overflowed: u64,
    /// Delivered twice.
    pub duplicated: u64,
    /// Held back.
    pub reordered: u64,
    /// Delivered with a flipped bit.
    pub corrupted: u64,
}

impl LinkCounts {
    /// Counts another direction's frames as well.
    pub(crate) fn add(&mut self, other: &LinkCounts) {
        self.offered += other.offered;
        self.offered_bytes += other.offered_bytes;
        self.lost += other.lost;
        self.overflowed += other.overflowed;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.corrupted += other.corrupted;
    }

    /// What befell the frame that was counted between `self` and `after`, in words; nothing for the ordinary.
    pub(crate) fn what_since(&self, after: &LinkCounts) -> &'static str {
        if after.lost > self.lost {
            "lost"
        } else if after.overflowed > self.overflowed {
            "dropped at the transmitter's full queue"
        } else if after.corrupted > self.corrupted {
            "one bit flipped"
        } else if after.duplicated > self.duplicated {
            "delivered twice"
        } else if after.reordered > self.reordered {
            "held back"
        } else {
            ""
        }
    }
}

/// One direction of a link.
#[derive(Debug)]
pub(crate) struct Direction {
    pub faults: Faults,
    pub up: bool,
    pub counts: LinkCounts,
    random: Random,
    busy_until: Nanos,
    last_arrival: Nanos,
}

/// When the copies of a frame arrive: none, one or two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Arrivals {
    pub first: Option<Nanos>,
    pub second: Option<Nanos>,
}

impl Direction {
    pub fn new(faults: Faults, random: Random) -> Self {
        Direction { faults, up: true, counts: LinkCounts::default(), random, busy_until: 0, last_arrival: 0 }
    }

    /// Decides the fate of a frame offered at `now`; may flip a bit of it.
    pub fn offer(&mut self, now: Nanos, frame: &mut [u8]) -> Arrivals {
        let f = self.faults;
        self.counts.offered += 1;
        self.counts.offered_bytes += frame.len() as u64;
        if !self.up || self.random.chance(f.loss) {
            self.counts.lost += 1;
            return Arrivals::default();
        }
        let mut sent = now;
        if f.rate > 0 {
            let begin = self.busy_until.max(now);
            // What is still waiting, in bytes, from the time that it takes.
            let backlog = u128::from(begin - now) * u128::from(f.rate) / 8_000_000_000;
            if f.queue > 0 && backlog > u128::from(f.queue) {
                self.counts.overflowed += 1;
                return Arrivals::default();
            }
            // Preamble, FCS and the gap between frames take 24 bytes of the wire.
            let bits = (frame.len() as u128 + 24) * 8;
            sent = begin + (bits * 1_000_000_000 / u128::from(f.rate)) as Nanos;
            self.busy_until = sent;
        }
        if self.random.chance(f.corrupt) && flip(frame, &mut self.random) {
            self.counts.corrupted += 1;
        }
        let first = self.arrival(sent);
        let second = self.random.chance(f.duplicate).then(|| {
            self.counts.duplicated += 1;
            self.arrival(sent)
        });
        Arrivals { first: Some(first), second }
    }

    fn arrival(&mut self, sent: Nanos) -> Nanos {
        let f = self.faults;
        let at = sent + f.delay + if f.jitter > 0 { self.random.below(f.jitter + 1) } else { 0 };
        if self.random.chance(f.reorder) {
            self.counts.reordered += 1;
            return at + 1 + self.random.below(f.hold + 1);
        }
        self.last_arrival = at.max(self.last_arrival);
        self.last_arrival
    }
}

/// Flips one bit behind the link-layer header of an IP frame.
fn flip(frame: &mut [u8], random: &mut Random) -> bool {
    let is_ip = matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]));
    let Some(body) = frame.get_mut(14..).filter(|b| is_ip && !b.is_empty()) else { return false };
    let bit = random.below(body.len() as u64 * 8) as usize;
    body[bit / 8] ^= 1 << (bit % 8);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direction(faults: Faults) -> Direction {
        Direction::new(faults, Random::new(3))
    }

    #[test]
    fn a_rate_spaces_frames_and_a_short_queue_overflows() {
        let mut d = direction(Faults { rate: 1_000_000_000, queue: 3_000, delay: 5, ..Faults::NONE });
        let at: Vec<_> = (0..5).map(|_| d.offer(0, &mut [0; 1226]).first).collect();
        // 1,250 bytes on the wire take 10 µs at 1 Gbit/s; the fourth waits behind 3,750 bytes.
        assert_eq!(at, [Some(10_005), Some(20_005), Some(30_005), None, None]);
        assert_eq!(d.counts.overflowed, 2);
        assert_eq!(d.offer(40_000, &mut [0; 1226]).first, Some(50_005));
    }

    #[test]
    fn jitter_keeps_the_order_and_reordering_does_not() {
        let mut d = direction(Faults { delay: 0, jitter: 10_000, ..Faults::NONE });
        let at: Vec<_> = (0..500).map(|i| d.offer(i, &mut [0; 60]).first.unwrap()).collect();
        assert!(at.is_sorted());
        assert!(at[0] < 10_000 && at.iter().any(|&a| a > 5_000));
        d.faults = Faults { reorder: 0.2, hold: 50_000, ..Faults::NONE };
        let at: Vec<_> = (0..500).map(|i| d.offer(20_000 + i, &mut [0; 60]).first.unwrap()).collect();
        assert!(!at.is_sorted());
        assert!((50..150).contains(&d.counts.reordered));
    }

    #[test]
    fn corruption_flips_exactly_one_bit_of_ip_and_none_of_arp() {
        let mut d = direction(Faults { corrupt: 1.0, ..Faults::NONE });
        for kind in [[0x08, 0x00], [0x86, 0xdd], [0x08, 0x06]] {
            let mut frame = [0u8; 60];
            frame[12..14].copy_from_slice(&kind);
            let before = frame;
            d.offer(0, &mut frame);
            let flipped: u32 = frame.iter().zip(before).map(|(a, b)| (a ^ b).count_ones()).sum();
            assert_eq!(flipped, u32::from(kind != [0x08, 0x06]));
            assert_eq!(frame[..14], before[..14]);
        }
    }

    #[test]
    fn a_link_that_is_down_loses_everything() {
        let mut d = direction(Faults::NONE);
        d.up = false;
        assert_eq!(d.offer(0, &mut [0; 60]), Arrivals::default());
        assert_eq!(d.counts.lost, 1);
    }
}
