//! Time-outs: a hashed timer wheel, a queue of half-open connections, and for each service one of clients that have not sent
//! anything yet, all threaded through the flow table.
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
/// In `prev`: this is the first of a list, and the low bits say of which: slots of the wheel, the half-open queue, the silent by service.
const HEAD: u32 = 1 << 31;
const QUEUE: u32 = HEAD | SLOTS;
const SILENT: u32 = QUEUE + 1;

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

/// A queue of flows, first in first out.
#[derive(Debug, Clone, Copy)]
struct Queue {
    first: u32,
    last: u32,
}

impl Queue {
    const EMPTY: Queue = Queue { first: NIL, last: NIL };

    /// Appends a flow that is on no list. `head` says in `prev` that this queue's first it is.
    fn push(&mut self, table: &mut FlowTable, flow: u32, head: u32) {
        *table.links(flow) = Links { next: NIL, prev: if self.last == NIL { head } else { self.last } };
        if self.last == NIL {
            self.first = flow;
        } else {
            table.links(self.last).next = flow;
        }
        self.last = flow;
    }
}

/// The wheel and the queues of one worker.
#[derive(Debug)]
pub struct Timers {
    heads: Vec<u32>,
    /// The next tick to serve.
    cursor: u32,
    queue: Queue,
    /// By service slot.
    silent: Vec<Queue>,
    /// Flows on all queues.
    half_open: usize,
    /// Ticks in one unit of a queued flow's stamp.
    unit: u32,
}

impl Timers {
    /// Timers that start at tick `now`.
    pub fn new(now: u32) -> Self {
        let (heads, silent) = (vec![NIL; SLOTS as usize], Vec::new());
        Timers { heads, cursor: now, queue: Queue::EMPTY, silent, half_open: 0, unit: 1 }
    }

    /// Makes room for services: so many slots, of which none is taken away again.
    pub fn reserve(&mut self, services: usize) {
        self.silent.resize(self.silent.len().max(services), Queue::EMPTY);
    }

    /// Flows that are half open, and those whose clients have not sent anything since their handshake.
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
        self.queue.push(table, flow, QUEUE);
        self.half_open += 1;
    }

    /// Appends a flow that is on no list to those of its service whose clients have completed their handshake and sent nothing yet. Its
    /// `last_seen` is the time of that, and stays. `false`: there is no room for that service ([`Timers::reserve`]).
    pub fn wait(&mut self, table: &mut FlowTable, flow: u32) -> bool {
        let slot = table.get(flow).service;
        let Some(queue) = self.silent.get_mut(usize::from(slot)) else { return false };
        queue.push(table, flow, SILENT + u32::from(slot));
        self.half_open += 1;
        true
    }

    /// The flow of this service that has waited longest for its client's first byte.
    pub fn longest_silent(&self, service: usize) -> Option<u32> {
        self.silent.get(service).map(|q| q.first).filter(|&flow| flow != NIL)
    }

    /// Slots of services that there is room for.
    pub fn services(&self) -> usize {
        self.silent.len()
    }

    /// The flow to give up first where there is no room: the oldest of those that are half open and of those whose clients are silent, so that
    /// neither kind keeps the other out. That takes a look at each service.
    pub fn oldest_half_open(&self, table: &FlowTable, now: u32) -> Option<u32> {
        if self.half_open == 0 {
            return None;
        }
        let firsts = [&self.queue].into_iter().chain(&self.silent).map(|q| q.first).filter(|&flow| flow != NIL);
        firsts.max_by_key(|&flow| now.wrapping_sub(table.get(flow).last_seen))
    }

    /// Takes a flow off its list. `queued` says that it is on a queue, half open or silent.
    pub fn cancel(&mut self, table: &mut FlowTable, flow: u32, queued: bool) {
        let Links { next, prev } = std::mem::replace(table.links(flow), Links::NONE);
        if prev == NIL {
            return; // on no list
        }
        if prev & HEAD == 0 {
            table.links(prev).next = next;
        }
        if queued {
            self.half_open -= 1;
            let slot = usize::from(table.get(flow).service);
            // Only its first and its last know which queue it is.
            let queue = match self.silent.get_mut(slot) {
                Some(queue) if queue.first == flow || queue.last == flow => Some(queue),
                _ if self.queue.first == flow || self.queue.last == flow => Some(&mut self.queue),
                _ => None,
            };
            if let Some(queue) = queue {
                if prev & HEAD != 0 {
                    queue.first = next;
                }
                if next == NIL {
                    queue.last = if prev & HEAD != 0 { NIL } else { prev };
                }
            }
        } else if prev & HEAD != 0 {
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
        while served < budget && self.queue.first != NIL {
            let flow = self.queue.first;
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
        assert_eq!(timers.oldest_half_open(&t, 5), Some(flows[0]));
        t.get_mut(flows[0]).last_seen = 9; // the client has sent its SYN again
        timers.cancel(&mut t, flows[2], true);
        let mut gone = vec![];
        timers.advance_half_open(&mut t, 11, 10, 100, |_, f| gone.push(f));
        assert_eq!(gone, [flows[1]]);
        timers.advance_half_open(&mut t, 30, 10, 100, |_, f| gone.push(f));
        assert_eq!(gone, [flows[1], flows[3], flows[0]]);
        assert_eq!((timers.half_open(), timers.oldest_half_open(&t, 30)), (0, None));
    }

    #[test]
    fn silent_clients_wait_by_service_and_give_way_by_age() {
        let (mut t, flows) = table(6);
        let mut timers = Timers::new(0);
        timers.reserve(2);
        for (i, f) in flows.iter().enumerate() {
            let entry = t.get_mut(*f);
            (entry.last_seen, entry.service) = (i as u32, [1, 0, 0, 0, 1, 0][i]);
            if i == 5 {
                timers.queue(&mut t, *f);
            } else {
                assert!(timers.wait(&mut t, *f));
            }
        }
        assert_eq!([0, 1, 2].map(|s| timers.longest_silent(s)), [Some(flows[1]), Some(flows[0]), None]);
        assert_eq!(timers.half_open(), 6);
        let mut order = vec![];
        timers.cancel(&mut t, flows[3], true);
        while let Some(f) = timers.oldest_half_open(&t, 9) {
            timers.cancel(&mut t, f, true);
            order.push(f);
        }
        assert_eq!(order, [0, 1, 2, 4, 5].map(|i| flows[i]));
        assert_eq!(timers.half_open(), 0);
        // Their places can be taken again, and a service without room takes none.
        assert!(timers.wait(&mut t, flows[1]));
        assert_eq!((timers.longest_silent(0), timers.oldest_half_open(&t, 9)), (Some(flows[1]), Some(flows[1])));
        t.get_mut(flows[2]).service = 2;
        assert!(!timers.wait(&mut t, flows[2]));
    }
}
