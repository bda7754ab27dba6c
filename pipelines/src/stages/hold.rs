//! Frames that wait: for their next hop's link-layer address, as in a kernel's neighbour queue (RFC 1122 §2.3.2.2), and later
//! fragments for their first one. Few, and not for long; a full store changes nothing, the frame is dropped as if there were none.
//!
//! A frame is kept as it came. When what it waits for is there, or its time is over, it goes through the pipeline once more, from the
//! beginning; it is not held twice, so that it then has its verdict, and its reason if it is dropped.

use super::connection::Connections;
use super::fragment::Identity;
use lcs_dataplane::batch::{Batch, Places};
use lcs_dataplane::port::Port;
use lcs_dataplane::{BURST, DropReason, Frame, Verdict};
use std::collections::VecDeque;

/// Frames held at most for next hops, and as many for first fragments: neither takes the other's room. All in all half a megabyte.
const MOST: usize = 128;
/// Frames for one next hop: one that does not answer leaves room for others.
const OF_HOP: usize = 32;
/// Fragments of one packet: a UDP datagram of 65,535 bytes has 45 on Ethernet.
const OF_PACKET: usize = 48;
/// Of a port's buffers, one in so many may be held.
const SHARE: usize = 8;
/// Ticks for which a next hop is waited for: the kernel asks three times, a second apart. For a first fragment, which may itself wait
/// for its next hop, as long.
const PATIENCE: u32 = 23;

/// What a frame waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// The link-layer address of the next hop in this row.
    NextHop(u16),
    /// The first fragment of its packet.
    First(Identity),
}

impl Awaited {
    /// The same kind of thing.
    fn is_like(&self, other: &Awaited) -> bool {
        matches!((self, other), (Awaited::NextHop(_), Awaited::NextHop(_)) | (Awaited::First(_), Awaited::First(_)))
    }
}

#[derive(Debug)]
struct Held {
    frame: Frame,
    interface: u8,
    awaited: Awaited,
    since: u32,
    /// It is there.
    ready: bool,
}

/// The frames that a worker holds, in the order of their arrival.
#[derive(Debug)]
pub(crate) struct Holding {
    held: VecDeque<Held>,
    /// Frames of the batch that would be held rather than dropped.
    places: Places,
    awaited: [Awaited; BURST],
    /// Some are ready.
    ready: bool,
    /// The tick of the last look at all of them.
    looked: u32,
}

impl Default for Holding {
    fn default() -> Self {
        Holding {
            held: VecDeque::with_capacity(2 * MOST),
            places: Places::default(),
            awaited: [Awaited::NextHop(0); BURST],
            ready: false,
            looked: 0,
        }
    }
}

impl Holding {
    /// Frame `i`, which would be dropped for want of `awaited`, may wait for it.
    pub(crate) fn ask(&mut self, batch: &Batch, i: usize, awaited: Awaited) {
        if !batch.again {
            self.places.push(i);
            self.awaited[i % BURST] = awaited;
        }
    }

    /// Whether any frame of the batch may wait.
    pub(crate) fn is_asked(&self) -> bool {
        !self.places.is_empty()
    }

    /// What frames may have waited for is there.
    pub(crate) fn has_come(&mut self, awaited: &Awaited) {
        for held in self.held.iter_mut().filter(|h| h.awaited == *awaited) {
            (held.ready, self.ready) = (true, true);
        }
    }

    /// Any of the next hops may be there.
    pub(crate) fn look_at_hops(&mut self, resolved: impl Fn(u16) -> bool) {
        for held in &mut self.held {
            if matches!(held.awaited, Awaited::NextHop(row) if resolved(row)) {
                (held.ready, self.ready) = (true, true);
            }
        }
    }

    fn has_room(&self, awaited: &Awaited, buffers: usize) -> bool {
        let alike = self.held.iter().filter(|h| h.awaited.is_like(awaited)).count();
        let same = self.held.iter().filter(|h| h.awaited == *awaited).count();
        let most = if matches!(awaited, Awaited::NextHop(_)) { OF_HOP } else { OF_PACKET };
        alike < MOST && same < most && self.held.len() < buffers / SHARE
    }

    /// Frames that are to be looked at again, into `frames` and `interfaces`. Returns how many there are.
    pub(crate) fn release(&mut self, frames: &mut [Frame; BURST], interfaces: &mut [u8; BURST], now: u32) -> usize {
        if self.held.is_empty() || !self.ready && self.looked == now {
            return 0;
        }
        let mut n = 0;
        let mut at = 0;
        while at < self.held.len() && n < BURST {
            let held = &self.held[at];
            if !held.ready && now.wrapping_sub(held.since) < PATIENCE {
                at += 1;
                continue;
            }
            if let Some(held) = self.held.remove(at) {
                (frames[n], interfaces[n]) = (held.frame, held.interface);
                n += 1;
            }
        }
        if at == self.held.len() {
            // All were looked at.
            (self.ready, self.looked) = (false, now);
        }
        n
    }
}

/// Takes the frames out of the batch that may wait and that there is room for.
#[inline(never)]
pub(crate) fn hold<P: Port>(c: &mut Connections, port: &P, batch: &mut Batch, now: u32) {
    let buffers = port.pool().total;
    for i in std::mem::take(&mut c.holding.places).iter() {
        let awaited = c.holding.awaited[i];
        let dropped = matches!(
            (batch.verdict[i], awaited),
            (Verdict::Drop(DropReason::NextHopUnresolved), Awaited::NextHop(_))
                | (Verdict::Drop(DropReason::FragmentUnknown), Awaited::First(_))
        );
        if !dropped || !c.holding.has_room(&awaited, buffers) {
            continue;
        }
        // A later frame of the batch may have brought it.
        let ready = match awaited {
            Awaited::NextHop(row) => c.hops[usize::from(row)].resolved,
            Awaited::First(id) => c.fragments.is_followed(&id, c.settings.worker),
        };
        c.holding.ready |= ready;
        batch.verdict[i] = Verdict::Hold;
        let (frame, interface) = (std::mem::take(&mut batch.frames[i]), batch.rx[i]);
        c.holding.held.push_back(Held { frame, interface, awaited, since: now, ready });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> Awaited {
        Awaited::First(("192.0.2.1".parse().unwrap(), "198.51.100.1".parse().unwrap(), n, 17))
    }

    fn put(h: &mut Holding, awaited: Awaited, interface: u8, since: u32) -> bool {
        let room = h.has_room(&awaited, 4096);
        if room {
            h.held.push_back(Held { frame: Frame::default(), interface, awaited, since, ready: false });
        }
        room
    }

    fn released(h: &mut Holding, now: u32) -> Vec<u8> {
        let (mut frames, mut interfaces) = (Default::default(), [0; BURST]);
        let n = h.release(&mut frames, &mut interfaces, now);
        interfaces[..n].to_vec()
    }

    #[test]
    fn frames_come_back_in_order_when_what_they_wait_for_is_there_or_their_time_is_over() {
        let mut h = Holding::default();
        for (n, awaited) in
            [Awaited::NextHop(7), id(1), Awaited::NextHop(8), Awaited::NextHop(7)].into_iter().enumerate()
        {
            // The first fragment has been waited for a little longer.
            assert!(put(&mut h, awaited, n as u8, u32::MAX - 2 - u32::from(n == 1)));
        }
        assert!(released(&mut h, u32::MAX - 2).is_empty());
        h.has_come(&Awaited::NextHop(7));
        h.has_come(&id(2));
        assert_eq!(released(&mut h, u32::MAX - 2), [0, 3]);
        assert!(released(&mut h, u32::MAX - 1).is_empty());
        assert_eq!(released(&mut h, PATIENCE - 4), [1]);
        h.look_at_hops(|row| row == 9);
        assert_eq!(released(&mut h, PATIENCE - 3), [2]);
        assert_eq!(h.held.len(), 0);
    }

    #[test]
    fn neither_kind_takes_the_others_room_nor_one_of_a_kind_all() {
        let mut h = Holding::default();
        let taken = (0..OF_HOP + 5).filter(|_| put(&mut h, Awaited::NextHop(1), 0, 0)).count();
        assert_eq!(taken, OF_HOP);
        let taken = (0..1000).filter(|n| put(&mut h, id(*n), 0, 0)).count();
        assert_eq!(taken, MOST);
        assert!(put(&mut h, Awaited::NextHop(2), 0, 0));
        assert!(!h.has_room(&Awaited::NextHop(2), 64), "of few buffers few are held");
        // All at once: in bursts.
        let back: Vec<usize> = std::iter::repeat_with(|| released(&mut h, 100).len()).take_while(|n| *n > 0).collect();
        assert_eq!((back.iter().sum::<usize>(), back[0]), (MOST + OF_HOP + 1, BURST));
    }
}
