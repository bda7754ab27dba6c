//! Time-outs: a hashed timer wheel and a queue of half-open connections, both threaded through the flow table.
//!
//! Nothing is done per packet: a packet only writes its tick into [`crate::flow::Flow::last_seen`]. When a flow's slot comes up,
//! the owner says whether it has expired or when to look again. Time is injected, in ticks of 2²⁷ ns (about 134 ms).

use crate::flow::FlowTable;
use crate::flow::entry::LEASED;
use crate::flow::table::Links;

/// Nanoseconds in a tick, as a shift.
const SHIFT: u32 = 27;
/// Slots of the wheel: it reaches 16,384 ticks (2,199 s) ahead; a longer time-out is looked at once in between.
const SLOTS: u32 = 1 << 14;
const NIL: u32 = u32::MAX;
/// In `prev`: this is the first of a list, and the low bits say of which.
const HEAD: u32 = 1 << 31;
const QUEUE: u32 = HEAD | SLOTS;

/// The tick of a time in nanoseconds.
#[inline]
pub fn tick(now_ns: u64) -> u32 {
    (now_ns >> SHIFT) as u32
}

/// Ticks in a time-out, rounded up, at least 1.
pub fn ticks(timeout: std::time::Duration) -> u32 {
    let t = timeout.as_nanos().div_ceil(1 << SHIFT);
    u32::try_from(t).unwrap_or(u32::MAX / 4).clamp(1, u32::MAX / 4)
}

/// Seconds in a number of ticks.
pub fn seconds(ticks: u32) -> f64 {
    f64::from(ticks) * (1u64 << SHIFT) as f64 / 1e9
}

/// What the owner of a flow says when its slot comes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// It has expired and has been, or will be, removed by the owner.
    Expired,
    /// Look again at this tick.
    At(u32),
}

/// The wheel and the half-open queue of one worker.
#[derive(Debug)]
pub struct Timers {
    heads: Vec<u32>,
    /// The next tick to serve.
    cursor: u32,
    first: u32,
    last: u32,
    half_open: usize,
    /// Ticks in one unit of a queued flow's stamp.
    unit: u32,
}

impl Timers {
    /// Timers that start at tick `now`.
    pub fn new(now: u32) -> Self {
        Timers { heads: vec![NIL; SLOTS as usize], cursor: now, first: NIL, last: NIL, half_open: 0, unit: 1 }
    }

    /// Flows on the half-open queue.
    pub fn half_open(&self) -> usize {
        self.half_open
    }

    /// Puts a flow that is on no list on the wheel, to be looked at when tick `at` has come.
    pub fn schedule(&mut self, table: &mut FlowTable, flow: u32, at: u32) {
        let ahead = at.wrapping_sub(self.cursor);
        // In the past (as a difference) means now; beyond the wheel's reach means at its far end.
        let ahead = if ahead > u32::MAX / 2 { 0 } else { ahead.min(SLOTS - 1) };
        let slot = self.cursor.wrapping_add(ahead) & (SLOTS - 1);
        let next = self.heads[slot as usize];
        self.heads[slot as usize] = flow;
        *table.links(flow) = Links { next, prev: HEAD | slot };
        if next != NIL {
            table.links(next).prev = flow;
        }
    }

    /// Appends a flow that is on no list to the half-open queue. Its `last_seen` is the time of its queueing.
    pub fn queue(&mut self, table: &mut FlowTable, flow: u32) {
        let unit = self.unit;
        let entry = table.get_mut(flow);
        entry.spare = stamp(entry.last_seen, unit);
        *table.links(flow) = Links { next: NIL, prev: if self.last == NIL { QUEUE } else { self.last } };
        if self.last == NIL {
            self.first = flow;
        } else {
            table.links(self.last).next = flow;
        }
        self.last = flow;
        self.half_open += 1;
    }

    /// The oldest half-open flow.
    pub fn oldest_half_open(&self) -> Option<u32> {
        (self.first != NIL).then_some(self.first)
    }

    /// Takes a flow off its list. `queued` says that it is on the half-open queue.
    pub fn cancel(&mut self, table: &mut FlowTable, flow: u32, queued: bool) {
        let Links { next, prev } = std::mem::replace(table.links(flow), Links::NONE);
        if prev == NIL {
            return; // on no list
        }
        if queued {
            self.half_open -= 1;
            if next == NIL {
                self.last = if prev == QUEUE { NIL } else { prev };
            }
        }
        if prev & HEAD == 0 {
            table.links(prev).next = next;
        } else if prev == QUEUE {
            self.first = next;
        } else {
            self.heads[(prev & (SLOTS - 1)) as usize] = next;
        }
        if next != NIL {
            table.links(next).prev = prev;
        }
    }

    /// Serves what is due at tick `now`, at most `budget` flows, so that a call is bounded however many expire at once.
    /// `due` decides; it must remove an expired flow from `table` itself (it is on no list by then).
    /// Returns how many flows were looked at.
    pub fn advance(
        &mut self,
        table: &mut FlowTable,
        now: u32,
        budget: usize,
        mut due: impl FnMut(&mut FlowTable, u32) -> Due,
    ) -> usize {
        let mut served = 0;
        while served < budget && now.wrapping_sub(self.cursor) <= u32::MAX / 2 {
            let slot = (self.cursor & (SLOTS - 1)) as usize;
            let flow = self.heads[slot];
            if flow == NIL {
                if self.cursor == now {
                    break;
                }
                self.cursor = self.cursor.wrapping_add(1);
                continue;
            }
            self.cancel(table, flow, false);
            served += 1;
            // What comes up next is on its way meanwhile.
            table.prefetch_listed(self.heads[slot]);
            match due(table, flow) {
                Due::Expired => {}
                // Not before the next tick, or this call would not end.
                Due::At(at) => {
                    let ahead = at.wrapping_sub(self.cursor);
                    let at = if ahead == 0 || ahead > u32::MAX / 2 { self.cursor.wrapping_add(1) } else { at };
                    self.schedule(table, flow, at);
                }
            }
        }
        served
    }

    /// Serves the head of the half-open queue: what is idle for `timeout` ticks is taken off and given to `expire`, which must remove
    /// it from `table`. A flow whose peer has tried again since it was queued goes to the end, so that it does not
    /// keep those behind it; the walk stops at the first that was queued and not seen again less than `timeout` ago.
    pub fn advance_half_open(
        &mut self,
        table: &mut FlowTable,
        now: u32,
        timeout: u32,
        budget: usize,
        mut expire: impl FnMut(&mut FlowTable, u32),
    ) -> usize {
        let mut served = 0;
        // 128 units reach over two time-outs: by then the flow would have come up.
        self.unit = timeout.div_ceil(64).max(1);
        // Every flow at most once a call, or a queue of refreshed flows would be walked for ever.
        let budget = budget.min(self.half_open);
        while served < budget && self.first != NIL {
            let flow = self.first;
            let idle = now.wrapping_sub(table.get(flow).last_seen);
            if idle < timeout || idle > u32::MAX / 2 {
                let entry = table.get(flow);
                if entry.spare != stamp(entry.last_seen, self.unit) {
                    self.cancel(table, flow, true);
                    self.queue(table, flow);
                    served += 1;
                    continue;
                }
                break;
            }
            self.cancel(table, flow, true);
            expire(table, flow);
            served += 1;
        }
        served
    }
}

/// When a flow was queued, in as few bits as tell whether it was seen again since, and which no lease has.
fn stamp(tick: u32, unit: u32) -> u8 {
    (tick / unit) as u8 & !LEASED
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Key;
    use proptest::prelude::*;
    use std::net::SocketAddr;

    fn table(n: u16) -> (FlowTable, Vec<u32>) {
        let mut t = FlowTable::new(usize::from(n), 1);
        let flows = (0..n)
            .map(|i| {
                let c = SocketAddr::from(([192, 0, 2, 1], i + 1));
                t.insert(6, &Key::new(c, SocketAddr::from(([198, 51, 100, 1], 80))).unwrap(), None).unwrap()
            })
            .collect();
        (t, flows)
    }

    proptest! {
        #[test]
        fn every_flow_comes_up_at_its_tick(deadlines in proptest::collection::vec(0u32..40_000, 1..50), start: u32) {
            let (mut t, flows) = table(deadlines.len() as u16);
            let mut timers = Timers::new(start);
            for (f, d) in flows.iter().zip(&deadlines) {
                timers.schedule(&mut t, *f, start.wrapping_add(*d));
            }
            let mut seen = vec![];
            for step in (0..45_000u32).step_by(7) {
                let now = start.wrapping_add(step);
                while timers.advance(&mut t, now, 3, |_, f| {
                    let d = deadlines[f as usize];
                    if d <= step { seen.push((f, step)); Due::Expired } else { Due::At(start.wrapping_add(d)) }
                }) > 0 {}
            }
            prop_assert_eq!(seen.len(), flows.len());
            for (f, step) in seen {
                prop_assert!(step - deadlines[f as usize] < 14, "{} {}", step, deadlines[f as usize]);
            }
        }
    }

    #[test]
    fn cancelling_keeps_the_others() {
        let (mut t, flows) = table(5);
        let mut timers = Timers::new(10);
        for f in &flows {
            timers.schedule(&mut t, *f, 12);
        }
        for i in [4, 0, 2] {
            timers.cancel(&mut t, flows[i], false);
        }
        let mut seen = vec![];
        timers.advance(&mut t, 20, 100, |_, f| {
            seen.push(f);
            Due::Expired
        });
        seen.sort_unstable();
        assert_eq!(seen, [flows[1], flows[3]]);
    }

    #[test]
    fn the_half_open_queue_is_served_in_order() {
        let (mut t, flows) = table(4);
        let mut timers = Timers::new(0);
        for (i, f) in flows.iter().enumerate() {
            t.get_mut(*f).last_seen = i as u32;
            timers.queue(&mut t, *f);
        }
        assert_eq!(timers.oldest_half_open(), Some(flows[0]));
        t.get_mut(flows[0]).last_seen = 9; // the client has sent its SYN again
        timers.cancel(&mut t, flows[2], true);
        let mut gone = vec![];
        timers.advance_half_open(&mut t, 11, 10, 100, |_, f| gone.push(f));
        assert_eq!(gone, [flows[1]]);
        timers.advance_half_open(&mut t, 30, 10, 100, |_, f| gone.push(f));
        assert_eq!(gone, [flows[1], flows[3], flows[0]]);
        assert_eq!((timers.half_open(), timers.oldest_half_open()), (0, None));
    }
}
