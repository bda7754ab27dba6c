//! Memory for connections that are switched by content: taken when a service first needs it, a piece at a time, since a million entries
//! filled at once would stop a worker's packets for longer than a device's queue lasts.

use super::entry::FREE;
use super::{BINDINGS, Splices};
use crate::snapshot::Snapshot;
use lcs_dataplane::splice::Stamps;

/// Entries that are filled at a time: 256 KiB of them.
const PIECE: usize = 4096;

/// What services need of this memory, of which there is as much as there can be flows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// One of them is switched by content.
    entries: bool,
    /// One of these agrees upon timestamps.
    stamps: bool,
}

impl Needs {
    /// What connections without timestamps need.
    #[cfg(test)]
    pub(crate) const ENTRIES: Needs = Needs { entries: true, stamps: false };

    /// What a snapshot's services need.
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut needs = Needs::default();
        for content in snapshot.services.iter().flatten().filter_map(|s| s.content.as_deref()) {
            needs.entries = true;
            needs.stamps |= content.binding.timestamps;
        }
        needs
    }

    /// Whether who has `other` has all of this.
    pub fn are_in(self, other: Needs) -> bool {
        (other.entries || !self.entries) && (other.stamps || !self.stamps)
    }

    /// Both.
    #[must_use]
    pub fn and(self, other: Needs) -> Self {
        Needs { entries: self.entries || other.entries, stamps: self.stamps || other.stamps }
    }
}

/// Adds at most a piece to what is to be `capacity` long; whether it is now. It is never moved.
fn lengthen<T: Copy>(all: &mut Vec<T>, capacity: usize, value: T) -> bool {
    if all.capacity() < capacity {
        all.reserve_exact(capacity - all.len());
    }
    all.resize((all.len() + PIECE).min(capacity), value);
    all.len() == capacity
}

impl Splices {
    /// Takes a piece of the memory that services need. Whether all of it is there.
    pub(crate) fn prepare(&mut self, needs: Needs) -> bool {
        (!needs.entries || self.lengthen_entries()) && (!needs.stamps || self.lengthen_stamps())
    }

    /// Takes all of it, so that no growth ever stops the packets.
    pub(crate) fn reserve(&mut self, needs: Needs) {
        while !self.prepare(needs) {}
    }

    fn lengthen_entries(&mut self) -> bool {
        if self.entries.len() == self.capacity {
            return true;
        }
        if self.entries.is_empty() {
            let bindings = BINDINGS.min(self.capacity);
            self.revoked.reserve_exact(self.capacity);
            self.slots.reserve_exact(bindings);
            self.owners.reserve_exact(bindings);
            self.queues.reserve(bindings);
            self.wheel.reserve(bindings);
        }
        lengthen(&mut self.entries, self.capacity, FREE)
    }

    fn lengthen_stamps(&mut self) -> bool {
        self.stamps.len() == self.capacity || lengthen(&mut self.stamps, self.capacity, Stamps::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Needs = Needs { entries: true, stamps: true };
    const ENTRIES: Needs = Needs::ENTRIES;

    #[test]
    fn memory_comes_in_pieces_and_never_moves() {
        let mut splices = Splices::new(10_000, 1, 1);
        assert!(splices.prepare(Needs::default()) && splices.entries.is_empty());
        assert!(!splices.prepare(ENTRIES));
        let at = splices.entries.as_ptr();
        let pieces = (2..).take_while(|_| !splices.prepare(ENTRIES)).last().unwrap() + 1;
        assert_eq!((pieces, splices.entries.len(), splices.entries.as_ptr()), (3, 10_000, at));
        assert!(splices.prepare(ENTRIES) && splices.stamps.is_empty());
        assert!(!splices.prepare(ALL));
        splices.reserve(ALL);
        assert_eq!((splices.stamps.len(), splices.entries.as_ptr()), (10_000, at));
    }

    #[test]
    fn needs_are_met_by_the_same_and_more() {
        let none = Needs::default();
        assert!(none.are_in(none) && none.are_in(ALL) && ENTRIES.are_in(ALL) && !ALL.are_in(ENTRIES));
        assert_eq!((none.and(ENTRIES), ENTRIES.and(ALL)), (ENTRIES, ALL));
    }
}
