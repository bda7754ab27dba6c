//! The simulator's source of chance: SplitMix64.
//!
//! Our own, because a seed that someone wrote down must replay the same run for ever, whatever a crate's next
//! version does. Not for keys or anything that an adversary must not guess.

/// A seeded sequence (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

/// The generator's finishing function: every bit of `z` changes about half the bits of the result.
#[inline]
pub fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Random {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next 64 bits.
    #[inline]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A sequence of its own, so that what one part draws does not shift what another gets.
    pub fn fork(&mut self) -> Random {
        Random(self.next())
    }

    /// A number below `n`; 0 when `n` is 0. The bias is below `n` / 2⁶⁴.
    #[inline]
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// A number in `low..=high`; `low` when the range is empty.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// True with this probability (0 to 1). Nothing is drawn for 0.
    #[inline]
    pub fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && ((self.next() >> 11) as f64) < probability * (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_published_sequence() {
        // The first outputs for seed 1234567 as the reference implementation prints them (Vigna, splitmix64.c).
        let mut r = Random::new(1_234_567);
        let got: Vec<u64> = (0..3).map(|_| r.next()).collect();
        assert_eq!(got, [6457827717110365317, 3203168211198807973, 9817491932198370423]);
    }

    #[test]
    fn stays_in_range_and_hits_its_probability() {
        let mut r = Random::new(7);
        let mut hits = 0;
        for _ in 0..10_000 {
            assert!(r.below(3) < 3);
            assert!((5..=9).contains(&r.between(5, 9)));
            hits += u32::from(r.chance(0.25));
        }
        assert!((2300..2700).contains(&hits), "{hits}");
        assert_eq!(r.below(0), 0);
        assert!(!r.chance(0.0));
        assert!(r.chance(1.0));
    }
}
