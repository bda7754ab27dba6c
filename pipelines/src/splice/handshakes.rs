//! Handshakes whose SYN+ACK may have to be sent again, of services whose servers speak first.
//!
//! There a client waits for a greeting: if its acknowledgement of the SYN+ACK is lost, it sends nothing that would bring it
//! again, so the SYN+ACK must be repeated (RFC 9293 §3.8.1, RFC 6298 §5). Where clients speak first, their requests carry
//! the acknowledgement, and nothing is remembered.
//!
//! What is remembered is what writing the segment again takes, and nothing is decided by it: a handshake is finished by the
//! flow or the cookie, as if it were not there. Room is made once; what finds none is not repeated.

use super::wheel::Wheel;
use lcs_dataplane::flow::Key;
use lcs_dataplane::splice::Offer;
use lcs_dataplane::worker::Nanos;

/// Handshakes that one worker remembers at most: what Linux lets wait at one listening socket (`net.core.somaxconn`).
const MOST: usize = 4096;
/// Places in which one handshake may stand.
const WAYS: usize = 8;
/// From a SYN+ACK to its first repetition (RFC 6298 §2.1); from then on twice as long each time.
const FIRST: Nanos = 1_000_000_000;
/// Repetitions: after 1, 3, 7, 15 and 31 s, as Linux has it (`net.ipv4.tcp_synack_retries`).
const REPEATS: u8 = 5;
/// The same while more than half of the room is taken. Linux, too, then lets the old go early: in a flood of SYNs, whoever
/// has not answered two repetitions will not answer five.
const REPEATS_CROWDED: u8 = 2;

/// A SYN that was answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Handshake {
    /// Of the client's packets, and its hash.
    pub(crate) key: Key,
    pub(crate) hash: u64,
    /// Initial sequence numbers: the client's, and ours.
    pub(crate) numbers: [u32; 2],
    pub(crate) offer: Offer,
    /// The client's timestamp, where timestamps are agreed upon.
    pub(crate) echo: Option<u32>,
    /// Whether it has a flow; otherwise the number is a cookie.
    pub(crate) has_flow: bool,
    /// The interface that it came in on; destination and source address of the answer's frame.
    pub(crate) interface: u8,
    pub(crate) link: [u8; 12],
}

#[derive(Debug, Clone, Copy)]
struct Place {
    handshake: Handshake,
    /// Times that it has been repeated.
    repeats: u8,
    due: Nanos,
}

/// Those of one worker.
#[derive(Debug)]
pub(crate) struct Handshakes {
    places: Vec<Option<Place>>,
    wheel: Wheel,
    used: usize,
    /// SYN+ACKs sent again.
    pub(crate) repeated: u64,
    /// Handshakes that found no room.
    pub(crate) unremembered: u64,
}

impl Default for Handshakes {
    fn default() -> Self {
        Handshakes { places: Vec::new(), wheel: Wheel::new(), used: 0, repeated: 0, unremembered: 0 }
    }
}

impl Handshakes {
    /// Makes room, once.
    pub(crate) fn reserve(&mut self) {
        if self.places.is_empty() {
            self.places = vec![None; MOST];
            self.wheel.reserve(MOST);
            (0..MOST).for_each(|_| self.wheel.grow());
        }
    }

    /// How many are remembered.
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    /// The places that a key may have.
    fn ways(&self, hash: u64) -> std::ops::Range<usize> {
        let at = hash as usize % (MOST / WAYS) * WAYS;
        at..(at + WAYS).min(self.places.len())
    }

    fn find(&self, hash: u64, key: &Key) -> Option<usize> {
        self.ways(hash).find(|&at| self.places[at].is_some_and(|p| p.handshake.key == *key))
    }

    /// A SYN has been answered. One that was answered before is answered again: what is remembered of it is renewed, and the
    /// wait for its acknowledgement begins anew, but for no more repetitions than before.
    pub(crate) fn remember(&mut self, handshake: Handshake, now: Nanos) {
        let known = self.find(handshake.hash, &handshake.key);
        let Some(at) = known.or_else(|| self.ways(handshake.hash).find(|&at| self.places[at].is_none())) else {
            self.unremembered += 1;
            return;
        };
        self.used += usize::from(known.is_none());
        let same = |p: &Place| p.handshake.numbers[0] == handshake.numbers[0];
        let repeats = self.places[at].as_ref().filter(|p| same(p)).map_or(0, |p| p.repeats);
        self.wait(at, handshake, repeats, now);
    }

    fn wait(&mut self, at: usize, handshake: Handshake, repeats: u8, now: Nanos) {
        let due = now + (FIRST << repeats);
        self.places[at] = Some(Place { handshake, repeats, due });
        self.wheel.set(at as u32, due);
    }

    /// The handshake of the client's packets with this key, whose initial number was `isn`, is over.
    pub(crate) fn forget(&mut self, hash: u64, key: &Key, isn: u32) {
        if let Some(at) = self.find(hash, key)
            && self.places[at].is_some_and(|p| p.handshake.numbers[0] == isn)
        {
            self.vacate(at);
        }
    }

    fn vacate(&mut self, at: usize) {
        self.places[at] = None;
        self.wheel.clear(at as u32);
        self.used -= 1;
    }

    /// Looks at the next one whose time it may be. Within: that one, if its SYN+ACK is to be sent again now; should it be over,
    /// it is to be forgotten instead.
    pub(crate) fn due(&mut self, now: Nanos) -> Option<Option<Handshake>> {
        let at = self.wheel.due(now)? as usize;
        let Some(p) = self.places[at] else { return Some(None) };
        if p.due > now {
            // It was beyond the wheel's reach.
            self.wheel.set(at as u32, p.due);
            return Some(None);
        }
        let most = if self.used * 2 > MOST { REPEATS_CROWDED } else { REPEATS };
        if p.repeats >= most {
            self.vacate(at);
            return Some(None);
        }
        if p.repeats + 1 == REPEATS {
            // The last one: there is nothing left to wait for.
            self.vacate(at);
        } else {
            self.wait(at, p.handshake, p.repeats + 1, now);
        }
        Some(Some(p.handshake))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    fn handshake(n: u32) -> Handshake {
        let [_, a, b, c] = n.to_be_bytes();
        let key = Key::new(([10, a, b, c], 1000).into(), ([192, 0, 2, 1], 25).into()).unwrap();
        Handshake {
            key,
            hash: u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20,
            numbers: [n, 7],
            offer: Offer { mss: 1460, scale: None, sack: true },
            echo: None,
            has_flow: false,
            interface: 0,
            link: [0; 12],
        }
    }

    /// Seconds at which something is repeated, up to `until`, asked every 10 ms.
    fn repeats(h: &mut Handshakes, from: Nanos, until: Nanos) -> Vec<f64> {
        let mut at = vec![];
        for now in (from..until).step_by(10_000_000) {
            while let Some(due) = h.due(now) {
                at.extend(due.map(|_| now as f64 / SECOND as f64));
            }
        }
        at
    }

    fn new() -> Handshakes {
        let mut h = Handshakes::default();
        h.reserve();
        h
    }

    #[test]
    fn a_handshake_is_repeated_as_linux_does_and_then_forgotten() {
        let mut h = new();
        h.remember(handshake(1), 0);
        let at = repeats(&mut h, 0, 100 * SECOND);
        let times: Vec<f64> = at.iter().map(|t| t.round()).collect();
        assert_eq!(times, [1.0, 3.0, 7.0, 15.0, 31.0]);
        assert!(at.iter().zip(&times).all(|(at, t)| (0.0..0.2).contains(&(at - t))), "never early: {at:?}");
        assert_eq!((h.len(), h.unremembered), (0, 0));
    }

    #[test]
    fn a_syn_that_comes_again_makes_no_more_repetitions_and_another_one_begins_anew() {
        let mut h = new();
        h.remember(handshake(1), 0);
        assert_eq!(repeats(&mut h, 0, 2 * SECOND).len(), 1);
        h.remember(handshake(1), 2 * SECOND);
        // The next one would have been at 3 s.
        let at: Vec<f64> = repeats(&mut h, 2 * SECOND, 100 * SECOND).iter().map(|t| t.round()).collect();
        assert_eq!(at, [4.0, 8.0, 16.0, 32.0]);
        let mut h = new();
        h.remember(handshake(1), 0);
        assert_eq!(repeats(&mut h, 0, 4 * SECOND).len(), 2);
        h.remember(Handshake { numbers: [99, 8], ..handshake(1) }, 4 * SECOND);
        assert_eq!((h.len(), repeats(&mut h, 4 * SECOND, 100 * SECOND).len()), (1, 5));
    }

    #[test]
    fn what_is_over_is_not_repeated() {
        let mut h = new();
        let one = handshake(1);
        h.remember(one, 0);
        h.forget(one.hash, &one.key, 99);
        assert_eq!(h.len(), 1, "that was another connection");
        h.forget(one.hash, &one.key, 1);
        assert_eq!((h.len(), repeats(&mut h, 0, 100 * SECOND).len()), (0, 0));
    }

    #[test]
    fn a_flood_finds_no_more_room_than_there_is_and_is_repeated_twice() {
        let mut h = new();
        for n in 0..1_000_000 {
            h.remember(handshake(n), 0);
        }
        assert_eq!((h.len(), h.unremembered), (MOST, 1_000_000 - MOST as u64));
        assert_eq!(h.places.capacity(), MOST);
        let n = repeats(&mut h, 0, 100 * SECOND).len();
        // The second half is not crowded any more.
        assert!(n <= MOST * usize::from(REPEATS_CROWDED) + MOST / 2 * usize::from(REPEATS), "{n}");
        assert_eq!(h.len(), 0);
    }

    #[test]
    fn without_room_nothing_is_remembered() {
        let mut h = Handshakes::default();
        let one = handshake(1);
        h.remember(one, 0);
        h.forget(one.hash, &one.key, 1);
        assert!(h.due(SECOND * 9).is_none());
        assert_eq!(h.len(), 0);
    }
}
