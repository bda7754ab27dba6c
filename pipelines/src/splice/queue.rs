//! Named queues: requests that wait for a token, first come first served within a queue, queues by priority.
//!
//! Rates are token buckets in the form of the generic cell rate algorithm (ITU-T I.371, annex A): a bucket is the time at
//! which it is full again. A request leaves when the bucket is not overdrawn, and pays all its packets at once, those
//! that are still to come included; what it overdraws, the next ones wait for. Waiting requests are linked through one
//! table that has a place for every binding, so that nothing is allocated.

use super::NIL;
use crate::content::{Binding, Rate};
use crate::tally::QueueTally;
use lcs_dataplane::worker::Nanos;
use std::collections::VecDeque;

/// Fractions of a nanosecond that buckets reckon in, as a shift.
const FRACTION: u32 = 10;
/// In no queue.
const NONE: u16 = u16::MAX;
/// Taken out of its queue, to be decided anew.
const REVISED: u16 = u16::MAX - 1;

/// A rate with bursts, as one worker's part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    /// Time for one token, and for all of a burst but one; in fractions of a nanosecond.
    interval: u128,
    tolerance: u128,
    /// When it is full again.
    full_at: u128,
}

impl Bucket {
    fn new(rate: Rate, workers: u64) -> Self {
        let interval = (1_000_000_000u128 << FRACTION) * u128::from(workers) / u128::from(rate.per_second.max(1));
        let burst = (rate.burst / workers).max(1);
        Bucket { interval, tolerance: interval * u128::from(burst - 1), full_at: 0 }
    }

    /// When the next request may pass.
    fn opens(&self) -> Nanos {
        let at = self.full_at.saturating_sub(self.tolerance);
        Nanos::try_from(at.div_ceil(1 << FRACTION)).unwrap_or(Nanos::MAX)
    }

    fn pay(&mut self, tokens: u64, now: Nanos) {
        let now = u128::from(now) << FRACTION;
        self.full_at = self.full_at.max(now) + self.interval * u128::from(tokens);
    }
}

/// One queue of one service.
#[derive(Debug)]
struct Queue {
    name: Box<str>,
    priority: u8,
    requests: Option<Bucket>,
    packets: Option<Bucket>,
    /// Requests and packets that may wait.
    length: u64,
    packet_length: u64,
    head: u32,
    tail: u32,
    tally: QueueTally,
}

impl Queue {
    /// When a request may leave it, as far as its own rates go.
    fn opens(&self) -> Nanos {
        let of = |bucket: &Option<Bucket>| bucket.as_ref().map_or(0, Bucket::opens);
        of(&self.requests).max(of(&self.packets))
    }

    fn pass(&mut self, packets: u64, now: Nanos) {
        if let Some(bucket) = &mut self.requests {
            bucket.pay(1, now);
        }
        if let Some(bucket) = &mut self.packets {
            bucket.pay(packets, now);
        }
        self.tally.passed += 1;
        self.tally.passed_packets += packets;
    }
}

/// The queues of one service.
#[derive(Debug, Default)]
struct Service {
    queues: Vec<Queue>,
    /// Numbers of the queues, highest priority first.
    order: Vec<u16>,
    /// The rate of all of them together.
    together: Option<Bucket>,
    waiting: usize,
}

impl Service {
    fn opens_together(&self) -> Nanos {
        self.together.as_ref().map_or(0, Bucket::opens)
    }

    fn pass(&mut self, queue: u16, packets: u64, now: Nanos) {
        self.queues[usize::from(queue)].pass(packets, now);
        if let Some(bucket) = &mut self.together {
            bucket.pay(1, now);
        }
    }
}

/// A binding's place in a queue.
#[derive(Debug, Clone, Copy)]
struct Link {
    next: u32,
    prev: u32,
    service: u16,
    queue: u16,
    packets: u32,
    since: Nanos,
}

/// What becomes of a request at its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It goes on at once.
    Passed,
    /// It has to wait.
    Waits,
    /// There is no room for it.
    Full,
}

/// All queues of one worker.
#[derive(Debug)]
pub(super) struct Queues {
    workers: u64,
    services: Vec<Service>,
    links: Vec<Link>,
    /// Requests whose queue was replaced.
    revised: VecDeque<u32>,
    waiting: usize,
    /// Nothing can leave before.
    next: Nanos,
}

impl Queues {
    /// Of one of so many workers: each has its part of the rates and lengths.
    pub(super) fn new(workers: u8) -> Self {
        let workers = u64::from(workers.max(1));
        Queues { workers, services: vec![], links: vec![], revised: VecDeque::new(), waiting: 0, next: Nanos::MAX }
    }

    /// Room for so many bindings, so that none of them is waited for.
    pub(super) fn reserve(&mut self, places: usize) {
        self.links.reserve_exact(places);
    }

    /// One more binding.
    pub(super) fn grow(&mut self) {
        self.links.push(Link { next: NIL, prev: NIL, service: 0, queue: NONE, packets: 0, since: 0 });
    }

    /// Gives a service the queues of its content. What waits is decided anew, in the order in which it would have left;
    /// a queue that has the name of one before has that one's counts, and what it has overdrawn.
    pub(super) fn install(&mut self, service: u16, binding: Option<&Binding>) {
        let at = usize::from(service);
        if at >= self.services.len() {
            self.services.resize_with(at + 1, Service::default);
        }
        let mut old = std::mem::take(&mut self.services[at]);
        for queue in &old.order {
            let mut place = std::mem::replace(&mut old.queues[usize::from(*queue)].head, NIL);
            while let Some(link) = self.links.get_mut(place as usize) {
                self.revised.push_back(place);
                link.queue = REVISED;
                link.prev = NIL;
                place = std::mem::replace(&mut link.next, NIL);
                self.waiting -= 1;
            }
        }
        let Some(binding) = binding else { return };
        let bucket = |rate: Option<Rate>, before: Option<Bucket>| {
            let new = rate.map(|rate| Bucket::new(rate, self.workers));
            new.map(|new| Bucket { full_at: before.map_or(0, |b| b.full_at), ..new })
        };
        let queues: Vec<Queue> = binding
            .queues
            .iter()
            .map(|q| {
                let before = old.queues.iter().find(|b| *b.name == *q.name);
                let tally = before.map_or_else(QueueTally::default, |b| QueueTally {
                    waiting: 0,
                    waiting_packets: 0,
                    ..b.tally
                });
                Queue {
                    name: q.name.as_str().into(),
                    priority: q.priority,
                    requests: bucket(q.requests, before.and_then(|b| b.requests)),
                    packets: bucket(q.packets, before.and_then(|b| b.packets)),
                    length: (u64::from(q.length) / self.workers).max(u64::from(q.length > 0)),
                    packet_length: q.packet_length.map_or(u64::MAX, |n| (n / self.workers).max(1)),
                    head: NIL,
                    tail: NIL,
                    tally,
                }
            })
            .collect();
        let mut order: Vec<u16> = (0..queues.len() as u16).collect();
        order.sort_by_key(|q| std::cmp::Reverse(queues[usize::from(*q)].priority));
        let together = bucket(binding.queue_rate, old.together);
        self.services[at] = Service { queues, order, together, waiting: 0 };
    }

    /// A request of so many packets comes to a queue. Where it has to wait, [`Queues::wait`] is to follow.
    pub(super) fn admit(&mut self, service: u16, queue: u16, packets: u32, now: Nanos) -> Admission {
        let Some(s) = self.services.get_mut(usize::from(service)) else { return Admission::Passed };
        let Some(q) = s.queues.get(usize::from(queue)) else { return Admission::Passed };
        let rank = q.priority;
        // Those who came before, and those who are more important and wait for nothing but the common rate.
        let ahead = |other: &Queue| other.head != NIL && other.priority >= rank && other.opens() <= now;
        let free = q.head == NIL
            && q.opens() <= now
            && s.opens_together() <= now
            && (s.together.is_none() || !s.queues.iter().any(ahead));
        if free {
            s.pass(queue, u64::from(packets), now);
            return Admission::Passed;
        }
        let q = &mut s.queues[usize::from(queue)];
        // One that is alone may wait however large it is, or it could never pass.
        let room = q.tally.waiting < q.length
            && (q.tally.waiting == 0 || q.tally.waiting_packets + u64::from(packets) <= q.packet_length);
        if room {
            return Admission::Waits;
        }
        q.tally.full += 1;
        Admission::Full
    }

    /// Whether a request that comes to a queue now would pass at once.
    pub(super) fn would_pass(&self, service: u16, queue: u16, now: Nanos) -> bool {
        let Some(s) = self.services.get(usize::from(service)) else { return true };
        s.waiting == 0 && s.opens_together() <= now && s.queues.get(usize::from(queue)).is_none_or(|q| q.opens() <= now)
    }

    /// Puts a binding at the end of a queue.
    pub(super) fn wait(&mut self, place: u32, service: u16, queue: u16, packets: u32, now: Nanos) {
        self.leave(place);
        let Some(s) = self.services.get_mut(usize::from(service)) else { return };
        let Some(q) = s.queues.get_mut(usize::from(queue)) else { return };
        let tail = std::mem::replace(&mut q.tail, place);
        self.links[place as usize] = Link { next: NIL, prev: tail, service, queue, packets, since: now };
        match self.links.get_mut(tail as usize) {
            Some(link) => link.next = place,
            None => q.head = place,
        }
        q.tally.waiting += 1;
        q.tally.waiting_packets += u64::from(packets);
        self.next = self.next.min(q.opens());
        s.waiting += 1;
        self.waiting += 1;
    }

    /// Takes a binding out of its queue, if it is in one.
    pub(super) fn leave(&mut self, place: u32) {
        let Some(link) = self.links.get_mut(place as usize) else { return };
        let Link { next, prev, service, queue, packets, .. } = *link;
        (link.next, link.prev, link.queue) = (NIL, NIL, NONE);
        if matches!(queue, NONE | REVISED) {
            return;
        }
        let s = &mut self.services[usize::from(service)];
        let q = &mut s.queues[usize::from(queue)];
        match self.links.get_mut(prev as usize) {
            Some(p) => p.next = next,
            None => q.head = next,
        }
        match self.links.get_mut(next as usize) {
            Some(n) => n.prev = prev,
            None => q.tail = prev,
        }
        q.tally.waiting -= 1;
        q.tally.waiting_packets -= u64::from(packets);
        s.waiting -= 1;
        self.waiting -= 1;
        // Who stands first now may be another.
        self.next = 0;
    }

    /// A binding that has waited for too long leaves its queue.
    pub(super) fn give_up(&mut self, place: u32) {
        let Some(link) = self.links.get(place as usize).copied() else { return };
        let service = self.services.get_mut(usize::from(link.service));
        if let Some(q) = service.and_then(|s| s.queues.get_mut(usize::from(link.queue))) {
            q.tally.timed_out += 1;
        }
        self.leave(place);
    }

    /// The next binding whose queue was replaced.
    pub(super) fn revised(&mut self) -> Option<u32> {
        while let Some(place) = self.revised.pop_front() {
            // It may have ended meanwhile, and its place may be another's.
            if self.links.get(place as usize).is_some_and(|link| link.queue == REVISED) {
                self.links[place as usize].queue = NONE;
                return Some(place);
            }
        }
        None
    }

    /// The next binding whose turn has come; it has paid.
    pub(super) fn release(&mut self, now: Nanos) -> Option<u32> {
        if self.waiting == 0 || now < self.next {
            return None;
        }
        let mut next = Nanos::MAX;
        for service in 0..self.services.len() {
            let s = &mut self.services[service];
            if s.waiting == 0 {
                continue;
            }
            let together = s.opens_together();
            // Of those of the highest priority that may go, the one that has waited longest.
            let mut first: Option<(u16, Nanos)> = None;
            for &queue in &s.order {
                let q = &s.queues[usize::from(queue)];
                if q.head == NIL {
                    continue;
                }
                if first.is_some_and(|(f, _)| s.queues[usize::from(f)].priority != q.priority) {
                    break;
                }
                let opens = q.opens().max(together);
                if opens > now {
                    next = next.min(opens);
                    continue;
                }
                let since = self.links[q.head as usize].since;
                if first.is_none_or(|(_, before)| since < before) {
                    first = Some((queue, since));
                }
            }
            if let Some((queue, since)) = first {
                let q = &mut s.queues[usize::from(queue)];
                let place = q.head;
                let packets = self.links[place as usize].packets;
                q.tally.delayed += 1;
                q.tally.waited += now.saturating_sub(since);
                s.pass(queue, u64::from(packets), now);
                self.leave(place);
                return Some(place);
            }
        }
        self.next = next;
        None
    }

    /// What was counted of a service's queues, in the content's order.
    pub(super) fn tallies(&self, service: usize) -> impl Iterator<Item = QueueTally> + '_ {
        self.services.get(service).into_iter().flat_map(|s| s.queues.iter().map(|q| q.tally))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content;
    use proptest::prelude::*;

    const MS: Nanos = 1_000_000;

    fn queue(name: &str, priority: u8, per_second: u64, burst: u64, length: u32) -> content::Queue {
        content::Queue {
            name: name.into(),
            priority,
            requests: (per_second > 0).then_some(Rate { per_second, burst }),
            length,
            ..content::Queue::default()
        }
    }

    fn queues(workers: u8, list: Vec<content::Queue>, together: Option<Rate>) -> Queues {
        let mut q = Queues::new(workers);
        (0..64).for_each(|_| q.grow());
        q.install(0, Some(&Binding { queues: list, queue_rate: together, ..Binding::default() }));
        q
    }

    /// A request comes; it waits in `place` if it has to.
    fn come(q: &mut Queues, place: u32, queue: u16, packets: u32, now: Nanos) -> Admission {
        let admission = q.admit(0, queue, packets, now);
        if admission == Admission::Waits {
            q.wait(place, 0, queue, packets, now);
        }
        admission
    }

    #[test]
    fn a_burst_passes_the_rest_waits_in_turn_and_what_is_beyond_is_refused() {
        let mut q = queues(1, vec![queue("slow", 0, 100, 3, 2)], None);
        let now = 5_000 * MS;
        let all: Vec<_> = (0..6).map(|place| come(&mut q, place, 0, 1, now)).collect();
        use Admission::{Full, Passed, Waits};
        assert_eq!(all, [Passed, Passed, Passed, Waits, Waits, Full]);
        assert_eq!(q.release(now + 9 * MS), None);
        assert_eq!(q.release(now + 10 * MS), Some(3));
        assert_eq!(q.release(now + 10 * MS), None);
        // Somebody waits, so who comes now does, too, though a token may be there.
        assert_eq!(come(&mut q, 6, 0, 1, now + 20 * MS), Waits);
        assert_eq!(
            (q.release(now + 20 * MS), q.release(now + 30 * MS), q.release(now + 99 * MS)),
            (Some(4), Some(6), None)
        );
        let t = q.tallies(0).next().unwrap();
        assert_eq!((t.passed, t.delayed, t.full, t.waiting, t.waited), (6, 3, 1, 0, 40 * MS));
        // Long after, the burst is there again, and no more than it.
        let later = now + 100_000 * MS;
        let again: Vec<_> = (0..4).map(|place| come(&mut q, place, 0, 1, later)).collect();
        assert_eq!(again, [Passed, Passed, Passed, Waits]);
    }

    #[test]
    fn a_request_of_many_packets_passes_and_is_paid_for_afterwards() {
        let list = vec![content::Queue {
            packets: Some(Rate { per_second: 1000, burst: 10 }),
            packet_length: Some(8),
            ..queue("bulk", 0, 0, 0, 9)
        }];
        let mut q = queues(1, list, None);
        let now = 1_000 * MS;
        assert_eq!(come(&mut q, 0, 0, 500, now), Admission::Passed);
        assert_eq!(come(&mut q, 1, 0, 20, now), Admission::Waits, "one may wait however large it is");
        assert_eq!(come(&mut q, 2, 0, 1, now), Admission::Full, "packets that wait are bounded");
        assert_eq!(q.release(now + 490 * MS), None);
        assert_eq!(q.release(now + 491 * MS), Some(1));
    }

    #[test]
    fn under_a_common_rate_the_higher_priority_goes_first() {
        let list = vec![queue("low", 1, 0, 0, 10), queue("high", 6, 0, 0, 10), queue("capped", 7, 1, 1, 10)];
        let mut q = queues(1, list, Some(Rate { per_second: 100, burst: 1 }));
        let now = 1_000 * MS;
        assert_eq!(come(&mut q, 0, 2, 1, now), Admission::Passed);
        for (place, queue) in [(1, 0), (2, 0), (3, 1), (4, 2)] {
            assert_eq!(come(&mut q, place, queue, 1, now), Admission::Waits);
        }
        // A token of all is there, and so is one that came before.
        assert_eq!(come(&mut q, 5, 1, 1, now + 10 * MS), Admission::Waits);
        let left: Vec<_> = (1..=4).map(|n| q.release(now + n * 10 * MS)).collect();
        assert_eq!(left, [Some(3), Some(5), Some(1), Some(2)], "the one with a rate of its own holds up nobody");
        assert_eq!(q.release(now + 999 * MS), None);
        assert_eq!(q.release(now + 1_000 * MS), Some(4));
    }

    #[test]
    fn each_of_several_workers_has_its_part() {
        let mut q = queues(4, vec![queue("slow", 0, 100, 8, 8)], None);
        let all: Vec<_> = (0..6).map(|place| come(&mut q, place, 0, 1, 0)).collect();
        use Admission::{Full, Passed, Waits};
        assert_eq!(all, [Passed, Passed, Waits, Waits, Full, Full]);
        assert_eq!((q.release(39 * MS), q.release(40 * MS)), (None, Some(2)));
    }

    #[test]
    fn a_replacement_keeps_counts_and_debts_by_name_and_decides_anew_what_waits() {
        let mut q = queues(1, vec![queue("a", 1, 10, 1, 5), queue("b", 5, 10, 1, 5)], None);
        for (place, queue) in [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1)] {
            come(&mut q, place, queue, 1, 0);
        }
        q.leave(2);
        let new = Binding { queues: vec![queue("c", 0, 1, 1, 5), queue("a", 1, 10, 1, 5)], ..Binding::default() };
        q.install(0, Some(&new));
        assert_eq!(q.release(5_000 * MS), None);
        assert_eq!((q.revised(), q.revised(), q.revised()), (Some(4), Some(1), None));
        let counts: Vec<_> = q.tallies(0).map(|t| (t.passed, t.waiting)).collect();
        assert_eq!(counts, [(0, 0), (1, 0)]);
        assert_eq!(come(&mut q, 1, 1, 1, 50 * MS), Admission::Waits, "a's token is spent");
        assert_eq!(q.release(100 * MS), Some(1));
        // One that ended before it was looked at again.
        come(&mut q, 7, 1, 1, 100 * MS);
        q.install(0, None);
        q.leave(7);
        assert_eq!(q.revised(), None);
        assert_eq!(come(&mut q, 8, 1, 1, 100 * MS), Admission::Passed, "no queue, no waiting");
    }

    proptest! {
        #[test]
        fn rates_and_lengths_hold_whatever_comes(
            steps in proptest::collection::vec((0u8..4, 0u32..64, 0u16..3, 1u32..5, 0u64..40), 1..400),
        ) {
            let list = vec![queue("a", 1, 50, 4, 6), queue("b", 2, 80, 1, 3), queue("c", 2, 0, 0, 9)];
            let mut q = queues(1, list, Some(Rate { per_second: 100, burst: 2 }));
            let (mut now, mut waiting, mut passed) = (0, std::collections::HashMap::new(), [0u64; 3]);
            for (what, place, queue, packets, wait) in steps {
                now += wait * MS;
                match what {
                    0 | 1 if !waiting.contains_key(&place) => match come(&mut q, place, queue, packets, now) {
                        Admission::Waits => _ = waiting.insert(place, queue),
                        Admission::Passed => passed[usize::from(queue)] += 1,
                        Admission::Full => {}
                    },
                    2 => {
                        q.leave(place);
                        waiting.remove(&place);
                    }
                    _ => if let Some(place) = q.release(now) {
                        let queue = waiting.remove(&place);
                        prop_assert!(queue.is_some());
                        passed[usize::from(queue.unwrap())] += 1;
                    },
                }
                let t: Vec<_> = q.tallies(0).collect();
                prop_assert_eq!(t.iter().map(|t| t.waiting).sum::<u64>(), waiting.len() as u64);
                prop_assert!(t.iter().zip([6, 3, 9]).all(|(t, most)| t.waiting <= most));
                prop_assert!(t.iter().zip(passed).all(|(t, n)| t.passed == n));
                let seconds = now as f64 / 1e9;
                prop_assert!(passed[0] as f64 <= 4.0 + 50.0 * seconds && passed[1] as f64 <= 1.0 + 80.0 * seconds);
                prop_assert!(passed.iter().sum::<u64>() as f64 <= 2.0 + 100.0 * seconds);
            }
            // All that waits comes out.
            let mut left = 0;
            for _ in 0..400 {
                now += 20 * MS;
                while q.release(now).is_some() { left += 1; }
            }
            prop_assert_eq!(left, waiting.len());
            prop_assert!(q.tallies(0).all(|t| t.waiting == 0 && t.waiting_packets == 0));
        }
    }
}
