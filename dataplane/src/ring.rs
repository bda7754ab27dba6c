//! Rings that join threads: commands and their acknowledgements, events, and frames handed over between workers.
//!
//! All are bounded `crossbeam-channel`s, and a worker touches them only between two batches. What a command
//! replaces travels back in its acknowledgement, so that memory is freed on the control thread alone.

use crate::bell::Bell;
use crate::frame::Frame;
use crate::port::Port;
use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};
use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Commands that may be under way to one worker.
pub const COMMANDS: usize = 256;
/// Events that may wait for the control thread; more are dropped and counted.
pub const EVENTS: usize = 1024;
/// Frames that may be under way from one worker to another.
pub const HANDOVER: usize = 256;
/// Bytes of the longest frame that can be handed over.
pub const HANDOVER_FRAME: usize = 2048 - 8;

/// A command with the number that its acknowledgement repeats.
#[derive(Debug)]
pub struct Numbered<T> {
    /// The number.
    pub id: u64,
    /// The command or the acknowledgement.
    pub what: T,
}

/// The control thread's ends of one worker's rings.
#[derive(Debug)]
pub struct ControlEnd<C, A, E> {
    commands: Sender<Numbered<C>>,
    /// Acknowledgements, in the order of the commands.
    pub acknowledgements: Receiver<Numbered<A>>,
    /// What the worker has to say of its own accord.
    pub events: Receiver<E>,
}

/// The worker's ends.
#[derive(Debug)]
pub struct WorkerEnd<C, A, E> {
    pub(crate) commands: Receiver<Numbered<C>>,
    pub(crate) acknowledgements: Sender<Numbered<A>>,
    pub(crate) events: Sender<E>,
}

impl<C, A, E> WorkerEnd<C, A, E> {
    /// Carries out at most so many commands and acknowledges them. Returns `false` when the control thread is gone.
    pub fn serve(&self, at_most: usize, mut carry_out: impl FnMut(C) -> A) -> bool {
        for _ in 0..at_most {
            if self.acknowledgements.is_full() {
                break; // the control thread is behind; the command waits in its ring
            }
            match self.commands.try_recv() {
                Ok(Numbered { id, what }) => {
                    let acknowledgement = carry_out(what);
                    if self.acknowledgements.send(Numbered { id, what: acknowledgement }).is_err() {
                        return false;
                    }
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        true
    }
}

/// A command that could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The ring is full: the worker has not taken the last 256 commands yet.
    #[error("the worker has {COMMANDS} commands waiting; try again when it has taken some")]
    Full,
    /// The worker has ended.
    #[error("the worker has ended")]
    Ended,
}

impl<C, A, E> ControlEnd<C, A, E> {
    /// Sends a command.
    ///
    /// # Errors
    /// Gives the command back with the reason.
    pub fn send(&self, id: u64, what: C) -> Result<(), (C, SendError)> {
        self.commands.try_send(Numbered { id, what }).map_err(|e| match e {
            TrySendError::Full(n) => (n.what, SendError::Full),
            TrySendError::Disconnected(n) => (n.what, SendError::Ended),
        })
    }
}

/// The rings of one worker.
pub fn rings<C, A, E>() -> (ControlEnd<C, A, E>, WorkerEnd<C, A, E>) {
    let (commands, take_commands) = bounded(COMMANDS);
    // As many places as commands can be unanswered at once (waiting, in work, or answered and not taken):
    // the control thread takes acknowledgements before it sends more.
    let (acknowledge, acknowledgements) = bounded(COMMANDS * 2);
    let (tell, events) = bounded(EVENTS);
    (
        ControlEnd { commands, acknowledgements, events },
        WorkerEnd { commands: take_commands, acknowledgements: acknowledge, events: tell },
    )
}

/// A frame on its way to the worker that owns its connection: a copy, because each worker has a pool of its own.
struct Handed {
    interface: u8,
    len: u16,
    bytes: [u8; HANDOVER_FRAME],
}

struct Lane {
    full: Sender<Box<Handed>>,
    empty: Receiver<Box<Handed>>,
    /// The other worker's.
    bell: Option<Arc<Bell>>,
    /// Something was sent since it was last woken.
    sent: Cell<bool>,
}

struct Arrival {
    full: Receiver<Box<Handed>>,
    empty: Sender<Box<Handed>>,
}

/// One worker's ends of the hand-over lanes: to every other worker and from every other worker.
/// The boxes circulate; nothing is allocated after the lanes are made.
pub struct Handover {
    lanes: Vec<Option<Lane>>,
    arrivals: Vec<Arrival>,
    bell: Option<Arc<Bell>>,
    /// Something was sent on some lane.
    sent: Cell<bool>,
    next: usize,
    /// Frames that were longer than a buffer of the port that took them.
    too_long: u64,
}

impl std::fmt::Debug for Handover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handover {{ workers: {} }}", self.lanes.len())
    }
}

impl Handover {
    /// Lanes between `workers` workers; element `i` of the result belongs to worker `i`.
    pub fn mesh(workers: usize) -> Vec<Handover> {
        let mut ends: Vec<Handover> = (0..workers)
            .map(|_| Handover {
                lanes: (0..workers).map(|_| None).collect(),
                arrivals: vec![],
                bell: Bell::new().map(Arc::new),
                sent: Cell::new(false),
                next: 0,
                too_long: 0,
            })
            .collect();
        for from in 0..workers {
            for to in (0..workers).filter(|&to| to != from) {
                let (full, take_full) = bounded(HANDOVER);
                let (empty, take_empty) = bounded(HANDOVER);
                for _ in 0..HANDOVER {
                    let handed = Box::new(Handed { interface: 0, len: 0, bytes: [0; HANDOVER_FRAME] });
                    // The ring has exactly this many places.
                    let _ = empty.try_send(handed);
                }
                let bell = ends[to].bell.clone();
                ends[from].lanes[to] = Some(Lane { full, empty: take_empty, bell, sent: Cell::new(false) });
                ends[to].arrivals.push(Arrival { full: take_full, empty });
            }
        }
        ends
    }

    /// Copies a frame to worker `to`; `false` when the lane is full, there is no such worker, or the frame is too long. A worker that
    /// sleeps finds it when [`Handover::wake`] was called.
    #[must_use]
    pub fn send(&self, to: usize, interface: u8, bytes: &[u8]) -> bool {
        let Some(lane) = self.lanes.get(to).and_then(Option::as_ref) else { return false };
        if bytes.len() > HANDOVER_FRAME {
            return false;
        }
        let Ok(mut handed) = lane.empty.try_recv() else { return false };
        handed.interface = interface;
        handed.len = bytes.len() as u16;
        handed.bytes[..bytes.len()].copy_from_slice(bytes);
        lane.sent.set(true);
        self.sent.set(true);
        lane.full.try_send(handed).is_ok()
    }

    /// Wakes the workers that sleep and have been sent something: once a batch.
    #[inline]
    pub fn wake(&self) {
        if self.sent.get() {
            self.wake_others();
        }
    }

    #[inline(never)]
    fn wake_others(&self) {
        self.sent.set(false);
        for lane in self.lanes.iter().flatten().filter(|lane| lane.sent.replace(false)) {
            if let Some(bell) = &lane.bell {
                bell.ring();
            }
        }
    }

    /// This worker is about to sleep: `false` where others have handed over something meanwhile. To be followed by
    /// [`Handover::awake`] in any case.
    #[must_use]
    pub fn sleeps(&self) -> bool {
        if let Some(bell) = &self.bell {
            bell.sleeps();
        }
        self.arrivals.iter().all(|arrival| arrival.full.is_empty())
    }

    /// It is awake.
    pub fn awake(&self) {
        if let Some(bell) = &self.bell {
            bell.awake();
        }
    }

    /// Becomes readable when a sleeping worker is handed something; none where the system has no such thing.
    pub fn bell(&self) -> Option<BorrowedFd<'_>> {
        self.bell.as_ref().map(|bell| bell.fd())
    }

    /// Frames taken since the last call that were longer than a buffer of the port, and are gone.
    pub fn take_too_long(&mut self) -> u64 {
        std::mem::take(&mut self.too_long)
    }

    /// Fills `frames` with what other workers have handed over, in buffers of `port`; the lanes take turns.
    pub fn receive<P: Port, const N: usize>(
        &mut self,
        port: &mut P,
        frames: &mut [Frame; N],
        interfaces: &mut [u8; N],
    ) -> usize {
        let mut n = 0;
        let (before, from) = self.arrivals.split_at(self.next.min(self.arrivals.len()));
        for arrival in from.iter().chain(before) {
            // With no buffer free, frames wait in their lane, and a full lane is counted by its sender.
            while n < N
                && !arrival.full.is_empty()
                && let Some(mut frame) = port.allocate()
            {
                let handed = match arrival.full.try_recv() {
                    Ok(handed) => handed,
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => {
                        port.release(frame);
                        break;
                    }
                };
                if frame.set_len(handed.len) {
                    frame.bytes_mut().copy_from_slice(&handed.bytes[..usize::from(handed.len)]);
                    interfaces[n] = handed.interface;
                    frames[n] = frame;
                    n += 1;
                } else {
                    self.too_long += 1;
                    port.release(frame);
                }
                let _ = arrival.empty.try_send(handed);
            }
        }
        self.next = if self.next + 1 < self.arrivals.len() { self.next + 1 } else { 0 };
        n
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::memory::MemoryPort;

    #[test]
    fn with_no_buffer_free_frames_wait_and_are_not_lost() {
        let mut ends = Handover::mesh(2);
        let (mut b, a) = (ends.pop().unwrap(), ends.pop().unwrap());
        assert!(a.send(1, 0, b"one") && a.send(1, 0, b"two"));
        let mut port = MemoryPort::new(1, 1);
        let mut frames: [Frame; 32] = Default::default();
        let mut interfaces = [0; 32];
        for want in [b"one", b"two"] {
            assert_eq!(b.receive(&mut port, &mut frames, &mut interfaces), 1);
            assert_eq!(frames[0].bytes(), want);
            port.release(std::mem::take(&mut frames[0]));
        }
        // Longer than this port's buffers: counted, not lost without a word.
        assert!(a.send(1, 0, &[0; HANDOVER_FRAME]));
        assert_eq!(b.receive(&mut port, &mut frames, &mut interfaces), 0);
        assert_eq!((b.take_too_long(), b.take_too_long(), port.pool().free), (1, 0, 1));
    }

    #[test]
    fn a_worker_that_sleeps_is_woken_once_by_what_is_handed_over_to_it() {
        let ends = Handover::mesh(2);
        let (a, b) = (&ends[0], &ends[1]);
        let rung = || b.bell.as_ref().unwrap().has_rung();
        let send = || {
            assert!(a.send(1, 0, b"frame"));
            a.wake();
        };
        send();
        assert!(!rung(), "who is awake is not woken");
        assert!(!b.sleeps(), "there is something to take");
        b.awake();
        b.arrivals.iter().for_each(|arrival| while arrival.full.try_recv().is_ok() {});
        assert!(b.sleeps());
        a.wake();
        assert!(!rung(), "nothing was sent");
        send();
        send();
        assert!(rung() && !rung(), "once");
        b.awake();
        b.arrivals.iter().for_each(|arrival| while arrival.full.try_recv().is_ok() {});
        // Rung and not heard: waking up takes it away.
        assert!(b.sleeps());
        send();
        b.awake();
        assert!(!rung());
    }

    #[test]
    fn a_frame_reaches_the_other_worker_and_a_full_lane_refuses() {
        let mut ends = Handover::mesh(2);
        let (mut b, a) = (ends.pop().unwrap(), ends.pop().unwrap());
        assert!(!a.send(0, 0, b"self"));
        assert!(!a.send(1, 0, &[0; 4000]));
        for i in 0..HANDOVER {
            assert!(a.send(1, 1, &[i as u8; 60]));
        }
        assert!(!a.send(1, 1, b"one too many"));
        let mut port = MemoryPort::new(2, 64);
        let mut frames: [Frame; 32] = Default::default();
        let mut interfaces = [0; 32];
        let mut seen = 0;
        loop {
            let n = b.receive(&mut port, &mut frames, &mut interfaces);
            if n == 0 {
                break;
            }
            for (frame, interface) in frames.iter_mut().zip(interfaces).take(n) {
                assert_eq!((frame.bytes(), interface), (&[seen as u8; 60][..], 1));
                port.release(std::mem::take(frame));
                seen += 1;
            }
        }
        assert_eq!(seen, HANDOVER);
        assert!(a.send(1, 0, b"again"));
        assert_eq!(port.pool().free, 64);
    }
}
