//! The index: from the hash of a key to the place of a flow, in one cache line most of the time.
//!
//! Partial-key cuckoo hashing over 64-byte buckets of eight (tag, place) pairs. A tag is 31 bits of the hash and a one (0 is
//! an empty slot), so a wrong candidate is met once in 2²⁸ look-ups. Each pair may stand in one of two buckets; the second is
//! computed from the first and the tag, so moving a pair needs no look at the flow.

use crate::prefetch::prefetch;

const SLOTS: usize = 8;
const EMPTY: u32 = 0;

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    tags: [u32; SLOTS],
    places: [u32; SLOTS],
}

/// The buckets.
#[derive(Debug)]
pub(super) struct Index {
    buckets: super::slab::Slab<Bucket>,
}

/// The buckets as a look-up loop wants them: the slice at hand, not behind the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct IndexReader<'t> {
    buckets: &'t [Bucket],
}

impl IndexReader<'_> {
    #[inline(always)]
    fn bucket(&self, hash: u64) -> &Bucket {
        let at = scaled(hash >> 32, self.buckets.len());
        debug_assert!(at < self.buckets.len());
        // SAFETY: an index has at least two buckets, and `scaled` gives less than their number for any value below 2³².
        unsafe { self.buckets.get_unchecked(at) }
    }

    #[inline(always)]
    pub(super) fn prefetch(&self, hash: u64) {
        prefetch(self.bucket(hash));
    }

    /// The place in the first bucket whose tag agrees, if any; a candidate that the caller verifies.
    #[inline(always)]
    pub(super) fn candidate(&self, hash: u64) -> Option<u32> {
        let bucket = self.bucket(hash);
        let mask = bucket.matching(tag(hash));
        (mask != 0).then(|| bucket.places[slot(mask)])
    }
}

/// A number below 2³² scaled to `0..n`: no power of two needed, no division.
#[inline(always)]
fn scaled(value: u64, n: usize) -> usize {
    ((value * n as u64) >> 32) as usize
}

/// The first slot of a mask of [`Bucket::matching`].
#[inline(always)]
fn slot(mask: u32) -> usize {
    (mask.trailing_zeros() / 2) as usize & (SLOTS - 1)
}

/// The pair found no room.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

#[inline(always)]
fn tag(hash: u64) -> u32 {
    hash as u32 | 1
}

impl Index {
    /// An index for `pairs` pairs, at most 5 of 8 slots filled at that number.
    pub(super) fn new(pairs: usize) -> Self {
        let buckets = (pairs / 5 + 2).min(u32::MAX as usize);
        Index { buckets: super::slab::Slab::zeroed(buckets) }
    }

    pub(super) fn bytes(&self) -> usize {
        self.buckets.len() * size_of::<Bucket>()
    }

    #[inline(always)]
    fn first(&self, hash: u64) -> usize {
        scaled(hash >> 32, self.buckets.len())
    }

    /// The other bucket for a tag: `other(other(b)) == b`.
    #[inline(always)]
    fn other(&self, bucket: usize, tag: u32) -> usize {
        let n = self.buckets.len();
        let spread = scaled(u64::from(tag.wrapping_mul(0x9e37_79b1)), n);
        let d = spread + n - bucket;
        if d >= n { d - n } else { d }
    }

    #[inline(always)]
    pub(super) fn reader(&self) -> IndexReader<'_> {
        IndexReader { buckets: &self.buckets }
    }

    #[inline(always)]
    pub(super) fn prefetch(&self, hash: u64) {
        self.reader().prefetch(hash);
    }

    #[inline(always)]
    pub(super) fn prefetch_second(&self, hash: u64) {
        prefetch(&self.buckets[self.other(self.first(hash), tag(hash))]);
    }

    /// See [`IndexReader::candidate`].
    #[inline(always)]
    pub(super) fn candidate(&self, hash: u64) -> Option<u32> {
        self.reader().candidate(hash)
    }

    /// The place in the second bucket whose tag agrees, if any.
    #[inline]
    pub(super) fn candidate_second(&self, hash: u64) -> Option<u32> {
        let t = tag(hash);
        let bucket = &self.buckets[self.other(self.first(hash), t)];
        let mask = bucket.matching(t);
        (mask != 0).then(|| bucket.places[slot(mask)])
    }

    /// Every candidate of both buckets, until `accept` takes one.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut accept: impl FnMut(u32) -> bool) -> Option<u32> {
        let t = tag(hash);
        let first = self.first(hash);
        for b in [first, self.other(first, t)] {
            let bucket = &self.buckets[b];
            let mut mask = bucket.matching(t);
            while mask != 0 {
                let place = bucket.places[slot(mask)];
                if accept(place) {
                    return Some(place);
                }
                mask &= mask - 1;
            }
        }
        None
    }

    /// Adds a pair. The caller has made sure that the key is new.
    pub(super) fn insert(&mut self, hash: u64, place: u32) -> Result<(), Full> {
        let t = tag(hash);
        let first = self.first(hash);
        let second = self.other(first, t);
        for b in [first, second] {
            if self.buckets[b].put(t, place) {
                return Ok(());
            }
        }
        // Both full: move one resident to its other bucket. Two levels make failure rarer than 1 in 10⁹ at our load.
        for b in [first, second] {
            for slot in 0..SLOTS {
                let (resident, at) = (self.buckets[b].tags[slot], self.buckets[b].places[slot]);
                let to = self.other(b, resident);
                if to != b && (self.buckets[to].put(resident, at) || self.shift(to, resident, at)) {
                    self.buckets[b].tags[slot] = t;
                    self.buckets[b].places[slot] = place;
                    return Ok(());
                }
            }
        }
        Err(Full)
    }

    /// Makes room in `bucket` by moving one of its residents on, and puts the pair there.
    fn shift(&mut self, bucket: usize, t: u32, place: u32) -> bool {
        for slot in 0..SLOTS {
            let (resident, at) = (self.buckets[bucket].tags[slot], self.buckets[bucket].places[slot]);
            let to = self.other(bucket, resident);
            if to != bucket && self.buckets[to].put(resident, at) {
                self.buckets[bucket].tags[slot] = t;
                self.buckets[bucket].places[slot] = place;
                return true;
            }
        }
        false
    }

    /// Bucket and slot of a pair.
    fn locate(&self, hash: u64, place: u32) -> Option<(usize, usize)> {
        let t = tag(hash);
        let first = self.first(hash);
        for b in [first, self.other(first, t)] {
            let bucket = &self.buckets[b];
            let mut mask = bucket.matching(t);
            while mask != 0 {
                let slot = slot(mask);
                if bucket.places[slot] == place {
                    return Some((b, slot));
                }
                mask &= mask - 1;
            }
        }
        None
    }

    /// Changes the place of a pair; `false` when it is not there.
    pub(super) fn replace(&mut self, hash: u64, place: u32, with: u32) -> bool {
        let found = self.locate(hash, place);
        if let Some((bucket, slot)) = found {
            self.buckets[bucket].places[slot] = with;
        }
        found.is_some()
    }

    /// Removes the pair; `false` when it is not there.
    pub(super) fn remove(&mut self, hash: u64, place: u32) -> bool {
        let found = self.locate(hash, place);
        if let Some((bucket, slot)) = found {
            self.buckets[bucket].tags[slot] = EMPTY;
        }
        found.is_some()
    }
}

impl Bucket {
    /// Bit `2 * slot` for each slot whose tag is `tag`.
    #[inline(always)]
    fn matching(&self, tag: u32) -> u32 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: SSE2 is part of x86_64; the two unaligned loads read the 32 bytes of `tags`.
        unsafe {
            use core::arch::x86_64::*;
            let want = _mm_set1_epi32(tag as i32);
            let at = self.tags.as_ptr().cast::<__m128i>();
            let low = _mm_cmpeq_epi32(_mm_loadu_si128(at), want);
            let high = _mm_cmpeq_epi32(_mm_loadu_si128(at.add(1)), want);
            _mm_movemask_epi8(_mm_packs_epi32(low, high)) as u32 & 0x5555
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self.tags.iter().enumerate().fold(0, |mask, (i, t)| mask | u32::from(*t == tag) << (2 * i))
        }
    }

    fn put(&mut self, tag: u32, place: u32) -> bool {
        let mask = self.matching(EMPTY);
        if mask == 0 {
            return false;
        }
        let slot = slot(mask);
        self.tags[slot] = tag;
        self.places[slot] = place;
        true
    }
}

// SAFETY: all bit patterns are valid and zero is an empty bucket.
unsafe impl super::slab::Zeroable for Bucket {}

#[cfg(test)]
mod tests {
    use super::super::Hasher;
    use super::*;

    #[test]
    fn holds_its_stated_number_of_pairs_and_more() {
        let hasher = Hasher::new(7);
        let n = 100_000u32;
        let mut index = Index::new(n as usize);
        // Neighbouring addresses and ports, as real clients have.
        let hash = |i: u32| hasher.v4(u64::from(i / 1000) << 24 | 0x0001, (i % 1000) << 16 | 0x5000, 6);
        for i in 0..n + n / 5 {
            assert_eq!(index.insert(hash(i), i), Ok(()), "{i}");
        }
        for i in 0..n + n / 5 {
            assert_eq!(index.find(hash(i), |p| p == i), Some(i));
        }
        let first = (0..n).filter(|&i| index.candidate(hash(i)) == Some(i)).count();
        assert!(first > n as usize * 9 / 10, "{first} of {n} in the first bucket");
        for i in 0..n + n / 5 {
            assert!(index.remove(hash(i), i));
            assert!(!index.remove(hash(i), i));
        }
    }

    #[test]
    fn full_is_said_and_loses_nothing() {
        let hasher = Hasher::new(1);
        let mut index = Index::new(10);
        let hash = |i: u32| hasher.v4(u64::from(i), 0, 6);
        let mut held = vec![];
        for i in 0..1000 {
            if index.insert(hash(i), i).is_ok() {
                held.push(i);
            }
        }
        assert!(held.len() < 1000);
        for i in held {
            assert_eq!(index.find(hash(i), |p| p == i), Some(i));
        }
    }
}
