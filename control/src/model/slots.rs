//! Slots: small numbers that flows refer to, given out so that none is reused while anyone may still mean its old owner.
//!
//! A slot is *used*, then *vacated* (its owner is gone, but a worker may not have taken the snapshot without it yet),
//! then *free*. The lowest free slot is given out first, so that the tables that are indexed by slots stay short.

use lcs_pipelines::snapshot::SLOTS;
use std::collections::{BTreeSet, VecDeque};

/// Values by slot.
#[derive(Debug)]
pub(super) struct Slots<T> {
    entries: Vec<Option<T>>,
    free: BTreeSet<u16>,
    /// Slots with the generation of the first snapshot that they are not in; oldest first.
    vacated: VecDeque<(u64, u16)>,
    used: usize,
    limit: usize,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots::new(SLOTS)
    }
}

impl<T> Slots<T> {
    /// Slots below `limit`, all free.
    pub(super) fn new(limit: usize) -> Self {
        let limit = limit.min(SLOTS);
        Slots { entries: Vec::new(), free: BTreeSet::new(), vacated: VecDeque::new(), used: 0, limit }
    }

    /// Slots that could be given out now.
    pub(super) fn available(&self) -> usize {
        self.free.len() + (self.limit - self.entries.len())
    }

    /// Puts a value in a free slot; `None` when there is none.
    pub(super) fn insert(&mut self, value: T) -> Option<u16> {
        let slot = match self.free.pop_first() {
            Some(slot) => slot,
            None if self.entries.len() < self.limit => {
                self.entries.push(None);
                (self.entries.len() - 1) as u16
            }
            None => return None,
        };
        self.entries[usize::from(slot)] = Some(value);
        self.used += 1;
        Some(slot)
    }

    /// Takes a value out. The slot is not given out again before [`Slots::settle`] with `generation` or a later one.
    pub(super) fn vacate(&mut self, slot: u16, generation: u64) -> Option<T> {
        let value = self.entries.get_mut(usize::from(slot))?.take()?;
        self.vacated.push_back((generation, slot));
        self.used -= 1;
        Some(value)
    }

    /// Every worker uses the snapshot of `generation` or a later one.
    pub(super) fn settle(&mut self, generation: u64) {
        while let Some(&(vacated, slot)) = self.vacated.front() {
            if vacated > generation {
                break;
            }
            self.vacated.pop_front();
            self.free.insert(slot);
        }
    }

    pub(super) fn get(&self, slot: u16) -> Option<&T> {
        self.entries.get(usize::from(slot))?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: u16) -> Option<&mut T> {
        self.entries.get_mut(usize::from(slot))?.as_mut()
    }

    /// Used slots in ascending order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, &T)> {
        self.entries.iter().enumerate().filter_map(|(i, e)| Some((i as u16, e.as_ref()?)))
    }

    /// Used slots.
    pub(super) fn len(&self) -> usize {
        self.used
    }

    /// Slots that were ever given out: the length of a table indexed by them.
    pub(super) fn span(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vacated_slot_waits_for_its_generation() {
        let mut s = Slots::default();
        let slots: Vec<u16> = (0..4).map(|i| s.insert(i).unwrap()).collect();
        assert_eq!(slots, [0, 1, 2, 3]);
        assert_eq!(s.vacate(1, 7), Some(1));
        assert_eq!(s.vacate(1, 7), None);
        assert_eq!(s.insert(9), Some(4));
        s.settle(6);
        assert_eq!(s.insert(9), Some(5));
        s.settle(7);
        assert_eq!(s.insert(9), Some(1));
        assert_eq!((s.len(), s.span()), (6, 6));
    }

    #[test]
    fn there_is_an_end_to_slots() {
        let mut s = Slots::default();
        for i in 0..SLOTS {
            assert_eq!(s.insert(()), Some(i as u16));
        }
        assert_eq!((s.insert(()), s.available()), (None, 0));
        s.vacate(9, 1);
        assert_eq!(s.insert(()), None);
        s.settle(1);
        assert_eq!(s.insert(()), Some(9));
    }
}
