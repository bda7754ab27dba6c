//! A bad cable between real kernels: frames of a host are lost, doubled and overtaken by seeded draws.
//!
//! The kernel's `netem` does this where it is built in; a relay of our own does it everywhere, by the same model as the
//! links of the in-process network ([`Faults`]). It stands in the switch's namespace where a cable was cut
//! ([`Testbed::cut`]) and carries whole frames between the two ends with packet sockets, each way with faults of its own.
//!
//! What is drawn is one thing, what the relay or the kernel lost because the machine was too slow another
//! ([`Carried::overload`]): a test says both, so that a slow machine is not taken for a bad link.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lcs_dataplane::worker::Nanos;
use lcs_hwconf::packet::{self, Direction, PacketSocket};
use lcs_hwconf::testbed::{Host, Testbed};
use lcs_hwconf::{Error, Result};

use crate::network::link::{self, Faults, LinkCounts};
use crate::network::random::Random;

/// Longest frame: an IP packet of 65,535 bytes and its Ethernet header with a tag.
const LONGEST: usize = 65_535 + 18;
/// Frames that are taken from one end before the other has its turn.
const BURST: usize = 64;
/// Frames of one direction that may be held or delayed at once; what is more is dropped and counted.
const HELD: usize = 16_384;
/// Buffers kept for reuse.
const SPARE: usize = 256;

/// What became of the frames of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// What was drawn: by chance, and by the rate and queue where there are such.
    pub link: LinkCounts,
    /// Sent on; twice for a frame that was doubled.
    pub sent: u64,
    /// Dropped by the kernel before the relay took them, or because too many were on their way: it was too slow.
    pub missed: u64,
    /// Not taken by the next interface: its receiver was too slow, or the frame exceeds its MTU.
    pub refused: u64,
}

impl Carried {
    /// Frames that were lost without having been drawn.
    pub fn overload(&self) -> u64 {
        self.missed + self.refused
    }

    /// Adds what became of other frames.
    pub fn add(&mut self, other: &Carried) {
        self.link.add(&other.link);
        self.sent += other.sent;
        self.missed += other.missed;
        self.refused += other.refused;
    }
}

/// A bad cable; it ends when this is dropped, and then carries nothing.
#[derive(Debug)]
pub struct Relay {
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<Result<()>>>,
    carried: Arc<Mutex<[Carried; 2]>>,
}

impl Relay {
    /// Cuts the cable of `host`'s interface `link` and carries its frames from then on: from the host with the faults
    /// `from`, to it with the faults `to`. The same `seed` draws the same fates for the same frames in the same order.
    pub fn start(bed: &Testbed, host: &Host, link: &str, [from, to]: [Faults; 2], seed: u64) -> Result<Self> {
        let [near, far] = bed.cut(host, link)?;
        let namespace = bed.switch().namespace();
        let (near, far) = (PacketSocket::open(namespace, &near)?, PacketSocket::open(namespace, &far)?);
        let mut random = Random::new(seed);
        let ways = [Way::new(from, random.fork()), Way::new(to, random.fork())];
        let failed = |e| Error::system("open a socket pair for a relay", e);
        let (stop, stopped) = UnixStream::pair().map_err(failed)?;
        let carried = Arc::new(Mutex::new([Carried::default(); 2]));
        let counts = Arc::clone(&carried);
        let thread = bed
            .switch()
            .spawn(&format!("relay {}", host.name()), move || carry(&[near, far], ways, &stopped, &counts))?;
        Ok(Relay { stop: Some(stop), thread: Some(thread), carried })
    }

    /// What became of the frames from the host and to the host.
    pub fn carried(&self) -> [Carried; 2] {
        *lock(&self.carried)
    }

    /// Ends it, and gives what became of the frames, or the error that it ended with by itself.
    pub fn stop(mut self) -> Result<[Carried; 2]> {
        self.end()?;
        Ok(self.carried())
    }

    fn end(&mut self) -> Result<()> {
        drop(self.stop.take());
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(outcome)) => outcome,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // Whoever wants the error calls `stop`.
            let _ = self.end();
        }
    }
}

fn lock(carried: &Mutex<[Carried; 2]>) -> MutexGuard<'_, [Carried; 2]> {
    // They are replaced as a whole.
    carried.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Carries frames between two ends until `stopped` is closed: `ways[n]` leads from `ends[n]` to the other.
fn carry(
    ends: &[PacketSocket; 2],
    mut ways: [Way; 2],
    stopped: &UnixStream,
    carried: &Mutex<[Carried; 2]>,
) -> Result<()> {
    let begin = Instant::now();
    let now = || begin.elapsed().as_nanos() as Nanos;
    let mut buffer = vec![0; LONGEST];
    let mut ready = [true; 2];
    loop {
        for side in [0, 1] {
            if ready[side] {
                ways[side].take(&ends[side], now(), &mut buffer)?;
            }
            ways[side].send(&ends[1 - side], now());
        }
        *lock(carried) = [ways[0].carried(), ways[1].carried()];
        let next = ways.iter().filter_map(Way::next).min();
        let wait = next.map(|at| Duration::from_nanos(at.saturating_sub(now())));
        let [near, far, end] = packet::wait_any([ends[0].as_fd(), ends[1].as_fd(), stopped.as_fd()], wait)?;
        if end {
            return Ok(());
        }
        ready = [near, far];
    }
}

/// One direction: what is on its way, by the time of its arrival, and in the order of coming where that is the same.
#[derive(Debug)]
struct Way {
    direction: link::Direction,
    on_the_way: BinaryHeap<Reverse<(Nanos, u64, Vec<u8>)>>,
    number: u64,
    spare: Vec<Vec<u8>>,
    counts: Carried,
}

impl Way {
    fn new(faults: Faults, random: Random) -> Self {
        let direction = link::Direction::new(faults, random);
        Way {
            direction,
            on_the_way: BinaryHeap::new(),
            number: 0,
            spare: Vec::with_capacity(SPARE),
            counts: Carried::default(),
        }
    }

    /// Takes what has come to `end`, at most a burst, and draws what becomes of it.
    fn take(&mut self, end: &PacketSocket, now: Nanos, buffer: &mut [u8]) -> Result<()> {
        self.counts.missed += end.missed()?;
        for _ in 0..BURST {
            match end.receive(buffer)? {
                None => break,
                // What the switch's own kernel says on its port is no traffic of the cable's.
                Some((_, Direction::Sent)) => {}
                Some((length, Direction::Received)) => self.offer(&mut buffer[..length], now),
            }
        }
        Ok(())
    }

    fn offer(&mut self, frame: &mut [u8], now: Nanos) {
        let arrivals = self.direction.offer(now, frame);
        for at in [arrivals.first, arrivals.second].into_iter().flatten() {
            if self.on_the_way.len() >= HELD {
                self.counts.missed += 1;
                continue;
            }
            let mut copy = self.spare.pop().unwrap_or_default();
            copy.extend_from_slice(frame);
            self.number += 1;
            self.on_the_way.push(Reverse((at, self.number, copy)));
        }
    }

    /// Sends what has arrived by `now`.
    fn send(&mut self, end: &PacketSocket, now: Nanos) {
        while let Some(frame) = self.arrived(now) {
            match end.send(&frame) {
                Ok(()) => self.counts.sent += 1,
                // No room there, or a frame longer than that link's MTU: lost, as on any cable.
                Err(_) => self.counts.refused += 1,
            }
            self.recycle(frame);
        }
    }

    /// The next frame that has arrived by `now`.
    fn arrived(&mut self, now: Nanos) -> Option<Vec<u8>> {
        if self.next()? > now {
            return None;
        }
        self.on_the_way.pop().map(|Reverse((_, _, frame))| frame)
    }

    fn recycle(&mut self, mut frame: Vec<u8>) {
        if self.spare.len() < SPARE {
            frame.clear();
            self.spare.push(frame);
        }
    }

    /// When the next frame arrives.
    fn next(&self) -> Option<Nanos> {
        self.on_the_way.peek().map(|Reverse((at, _, _))| *at)
    }

    fn carried(&self) -> Carried {
        Carried { link: self.direction.counts, ..self.counts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offers numbered frames, one a microsecond, and gives the numbers of those that arrive, in their order.
    fn pass(faults: Faults, frames: u32) -> (Vec<u32>, Carried) {
        let mut way = Way::new(faults, Random::new(7));
        let mut arrived = vec![];
        for number in 0..frames {
            let now = Nanos::from(number) * 1_000;
            way.offer(&mut [&number.to_be_bytes()[..], &[0x5a; 60]].concat(), now);
            while let Some(frame) = way.arrived(now) {
                assert_eq!(frame[4..], [0x5a; 60]);
                arrived.push(u32::from_be_bytes(frame[..4].try_into().unwrap()));
                way.recycle(frame);
            }
        }
        while let Some(frame) = way.arrived(Nanos::MAX) {
            arrived.push(u32::from_be_bytes(frame[..4].try_into().unwrap()));
        }
        (arrived, way.carried())
    }

    #[test]
    fn a_good_cable_passes_every_frame_in_order_at_once() {
        let (arrived, carried) = pass(Faults { delay: 0, ..Faults::NONE }, 1_000);
        assert!(arrived.iter().copied().eq(0..1_000));
        assert_eq!((carried.link.offered, carried.overload()), (1_000, 0));
    }

    #[test]
    fn every_frame_arrives_but_the_lost_ones_and_again_the_doubled_ones() {
        let faults = Faults { delay: 0, loss: 0.05, duplicate: 0.03, reorder: 0.1, hold: 40_000, ..Faults::NONE };
        let (arrived, Carried { link, missed, .. }) = pass(faults, 10_000);
        assert!((400..600).contains(&link.lost) && (200..400).contains(&link.duplicated), "{link:?}");
        assert_eq!(arrived.len() as u64, 10_000 - link.lost + link.duplicated);
        let late = arrived.windows(2).filter(|pair| pair[1] < pair[0]).count() as u64;
        assert!(late > link.reordered / 2 && late <= link.reordered, "{late} {link:?}");
        let mut once = arrived.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!((once.len() as u64, missed), (10_000 - link.lost, 0));
    }

    #[test]
    fn what_is_held_is_bounded_and_what_is_more_is_counted() {
        let (arrived, carried) = pass(Faults { delay: u64::MAX / 2, ..Faults::NONE }, HELD as u32 + 100);
        assert_eq!((arrived.len(), carried.overload()), (HELD, 100));
    }
}
