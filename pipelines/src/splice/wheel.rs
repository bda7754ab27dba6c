//! Deadlines of bindings: a hashed wheel with a grain of 17 ms, intrusive, so that setting one allocates nothing.

use super::NIL;
use lcs_dataplane::worker::Nanos;

/// Nanoseconds in a slot of the wheel, as a shift: 16.8 ms.
const SHIFT: u32 = 24;
const SLOTS: u64 = 512;

#[derive(Debug, Clone, Copy)]
struct Link {
    next: u32,
    prev: u32,
    slot: u32,
}

#[derive(Debug)]
pub(super) struct Wheel {
    heads: Vec<u32>,
    links: Vec<Link>,
    cursor: u64,
    armed: usize,
}

impl Wheel {
    pub(super) fn new() -> Self {
        Wheel { heads: vec![NIL; SLOTS as usize], links: Vec::new(), cursor: 0, armed: 0 }
    }

    /// Room for so many places, so that none of them is waited for.
    pub(super) fn reserve(&mut self, places: usize) {
        self.links.reserve_exact(places);
    }

    /// One more place.
    pub(super) fn grow(&mut self) {
        self.links.push(Link { next: NIL, prev: NIL, slot: NIL });
    }

    /// Sets or moves the deadline of a place. One beyond the wheel's reach (8.6 s) comes up early and is set again.
    pub(super) fn set(&mut self, place: u32, deadline: Nanos) {
        if deadline == Nanos::MAX {
            return self.clear(place);
        }
        let at = (deadline >> SHIFT).max(self.cursor);
        let slot = (at.min(self.cursor + SLOTS - 1) % SLOTS) as u32;
        if self.links[place as usize].slot == slot {
            return;
        }
        self.clear(place);
        let first = std::mem::replace(&mut self.heads[slot as usize], place);
        self.links[place as usize] = Link { next: first, prev: NIL, slot };
        if first != NIL {
            self.links[first as usize].prev = place;
        }
        self.armed += 1;
    }

    /// Takes a place's deadline away.
    pub(super) fn clear(&mut self, place: u32) {
        let Link { next, prev, slot } = self.links[place as usize];
        if slot == NIL {
            return;
        }
        match self.links.get_mut(prev as usize) {
            Some(p) => p.next = next,
            None => self.heads[slot as usize] = next,
        }
        if let Some(n) = self.links.get_mut(next as usize) {
            n.prev = prev;
        }
        self.links[place as usize] = Link { next: NIL, prev: NIL, slot: NIL };
        self.armed -= 1;
    }

    /// The next place whose slot has passed; it has no deadline any more.
    pub(super) fn due(&mut self, now: Nanos) -> Option<u32> {
        let current = now >> SHIFT;
        if self.armed == 0 {
            self.cursor = self.cursor.max(current);
            return None;
        }
        // Once round shows every slot.
        self.cursor = self.cursor.max(current.saturating_sub(SLOTS));
        loop {
            let head = self.heads[(self.cursor % SLOTS) as usize];
            // A slot is served when it is over, so that nothing in it comes early.
            if self.cursor >= current {
                return None;
            }
            if head != NIL {
                self.clear(head);
                return Some(head);
            }
            self.cursor += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_deadline_comes_up_in_time_and_never_early(
            deadlines in proptest::collection::vec(0u64..20_000_000_000, 1..60), start in 0u64..1 << 50,
        ) {
            let mut w = Wheel::new();
            let mut left: Vec<Option<u64>> = vec![];
            while w.due(start).is_some() {}
            for (i, d) in deadlines.iter().enumerate() {
                w.grow();
                left.push(Some(start + d));
                w.set(i as u32, start + d);
            }
            for step in 0..400u64 {
                let now = start + step * 60_000_000;
                while let Some(place) = w.due(now) {
                    let at = left[place as usize].unwrap();
                    if at > now { w.set(place, at); } else { left[place as usize] = None; }
                }
                for l in left.iter().flatten() {
                    prop_assert!(*l + (1 << SHIFT) >= now, "late: {} at {}", l, now);
                }
            }
            prop_assert!(left.iter().all(Option::is_none));
            prop_assert_eq!(w.armed, 0);
        }
    }
}
