//! The in-process port: tests, benches, the simulator and the rootless demo stand on it.
//!
//! The harness that owns the port plays the wire: [`MemoryPort::inject`] puts a frame on an interface,
//! [`MemoryPort::take_sent`] takes what the worker transmitted. No thread, no clock.

use super::losses::{LossReason, Losses};
use super::{Capabilities, PoolCounts, Port};
use crate::batch::BURST;
use crate::frame::{Frame, HEADROOM};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::time::Duration;

/// Bytes of one buffer: an Ethernet frame of MTU 1,500 with room for two IPv6 headers and a tag in front.
const BUFFER: usize = 2048;
/// Bytes from one buffer to the next: a line more, so that the headers of a burst don't all fall into the same few sets of the cache.
const STRIDE: usize = BUFFER + 64;

/// A cache line, so that buffers begin on one.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "read through frames")] [u8; 64]);

/// A slab of buffers and the list of the free ones.
#[derive(Debug)]
struct Pool {
    /// Owned through a raw pointer (from a leaked box, freed in `Drop`), because frames alias into it.
    slab: NonNull<[Line]>,
    buffers: usize,
    free: Vec<u32>,
}

// SAFETY: the slab is plain memory owned by the pool; handles into it are the linear `Frame`s.
unsafe impl Send for Pool {}

impl Pool {
    fn new(buffers: usize) -> Self {
        let slab = Box::leak(vec![Line([0; 64]); buffers * STRIDE / size_of::<Line>()].into_boxed_slice());
        Pool { slab: NonNull::from(slab), buffers, free: (0..buffers as u32).rev().collect() }
    }

    fn take(&mut self, offset: u16) -> Option<Frame> {
        let index = self.free.pop()?;
        // SAFETY: `index < buffers`, so the buffer lies inside the slab; it was on the free list, so no
        // frame refers to it; `offset` is at most the buffer's size by the callers' constants.
        Some(unsafe {
            let head = self.slab.cast::<u8>().add(index as usize * STRIDE);
            Frame::from_raw(head, BUFFER as u16, offset, 0)
        })
    }

    fn give(&mut self, frame: Frame) {
        if frame.is_placeholder() {
            return;
        }
        let distance = (frame.head().as_ptr() as usize).wrapping_sub(self.slab.cast::<u8>().as_ptr() as usize);
        let index = distance / STRIDE;
        assert!(distance.is_multiple_of(STRIDE) && index < self.buffers, "a frame of another port was released here");
        self.free.push(index as u32);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `Box::leak` in `new` and is freed once, here.
        drop(unsafe { Box::from_raw(self.slab.as_ptr()) });
    }
}

/// A frame in a ring. (A tuple would let the compiler put the interface first and shift the frame off its alignment.)
#[derive(Debug)]
#[repr(C)]
struct Queued {
    frame: Frame,
    interface: u8,
}

/// An in-process port with one pool and up to 255 interfaces.
#[derive(Debug)]
pub struct MemoryPort {
    // Declared before the pool: frames in the rings must not outlive the slab.
    rx: VecDeque<Queued>,
    tx: Vec<Queued>,
    pool: Pool,
    interfaces: u8,
    tx_limit: usize,
    losses: Vec<Losses>,
}

impl MemoryPort {
    /// A port with `interfaces` interfaces over a pool of `buffers` buffers of 2,048 bytes. The transmit
    /// ring takes as many frames as there are buffers; see [`MemoryPort::limit_transmit`].
    pub fn new(interfaces: u8, buffers: usize) -> Self {
        MemoryPort {
            rx: VecDeque::with_capacity(buffers),
            tx: Vec::with_capacity(buffers),
            pool: Pool::new(buffers),
            interfaces,
            tx_limit: buffers,
            losses: vec![Losses::default(); interfaces.into()],
        }
    }

    /// Lets the transmit ring refuse frames beyond `frames`, as a slow device would.
    pub fn limit_transmit(&mut self, frames: usize) {
        self.tx_limit = frames;
    }

    /// Puts a frame on the wire toward the worker; `false` when the pool is empty or the frame is longer than a buffer, which counts as
    /// lost on the interface.
    #[must_use]
    pub fn inject(&mut self, interface: u8, bytes: &[u8]) -> bool {
        self.inject_with(interface, bytes.len(), |b| b.copy_from_slice(bytes))
    }

    /// As [`MemoryPort::inject`], with the `len` bytes written in place by `write`.
    #[must_use]
    pub fn inject_with(&mut self, interface: u8, len: usize, write: impl FnOnce(&mut [u8])) -> bool {
        debug_assert!(interface < self.interfaces);
        let Some(mut frame) = self.pool.take(HEADROOM) else { return self.lose(interface, LossReason::RxNoBuffer) };
        if !u16::try_from(len).is_ok_and(|len| frame.set_len(len)) {
            self.pool.give(frame);
            return self.lose(interface, LossReason::RxErrors);
        }
        write(frame.bytes_mut());
        self.rx.push_back(Queued { frame, interface });
        true
    }

    #[cold]
    fn lose(&mut self, interface: u8, reason: LossReason) -> bool {
        if let Some(losses) = self.losses.get_mut(usize::from(interface)) {
            losses.add(reason, 1);
        }
        false
    }

    /// Hands every transmitted frame to `sink` (interface, bytes), frees its buffer, and returns how many there were.
    pub fn take_sent(&mut self, mut sink: impl FnMut(u8, &[u8])) -> usize {
        let n = self.tx.len();
        for Queued { frame, interface } in self.tx.drain(..) {
            sink(interface, frame.bytes());
            self.pool.give(frame);
        }
        n
    }

    /// Frames injected and not yet received.
    pub fn waiting(&self) -> usize {
        self.rx.len()
    }
}

/// Sleeps until `bell` can be read or `timeout` is over: what a port waits for that has no descriptor of its own.
fn sleep(timeout: Duration, bell: Option<BorrowedFd<'_>>) {
    let Some(bell) = bell else { return std::thread::sleep(timeout) };
    let mut polled = libc::pollfd { fd: bell.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // To whole milliseconds, upwards: rounded down, a worker would turn without a pause.
    let milliseconds = timeout.as_nanos().div_ceil(1_000_000);
    let milliseconds = libc::c_int::try_from(milliseconds).unwrap_or(libc::c_int::MAX);
    // SAFETY: the one entry is exclusively ours for the call, and the descriptor lives over it. A signal or an error only ends the
    // sleep early.
    unsafe { libc::poll(&mut polled, 1, milliseconds) };
}

impl Port for MemoryPort {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            interfaces: self.interfaces,
            verifies_ip_checksum: false,
            partial_checksums: false,
            kernel_answers: false,
            exception_path: false,
            rss_table: 0,
            neighbour_answers: false,
        }
    }

    #[inline]
    fn receive(&mut self, frames: &mut [Frame; BURST], interfaces: &mut [u8; BURST]) -> usize {
        let n = self.rx.len().min(BURST);
        for ((queued, place), interface) in self.rx.drain(..n).zip(frames).zip(interfaces) {
            *interface = queued.interface;
            *place = queued.frame;
        }
        n
    }

    #[inline]
    fn transmit(&mut self, interface: u8, frame: Frame) -> Result<(), Frame> {
        if self.tx.len() >= self.tx_limit || interface >= self.interfaces {
            return Err(frame);
        }
        self.tx.push(Queued { frame, interface });
        Ok(())
    }

    fn flush(&mut self) {}

    fn allocate(&mut self) -> Option<Frame> {
        self.pool.take(HEADROOM)
    }

    fn release(&mut self, frame: Frame) {
        self.pool.give(frame);
    }

    /// Nobody puts a frame on the wire while the worker has the port: what is waited for is the bell, or the time.
    fn wait(&mut self, timeout: Duration, bell: Option<BorrowedFd<'_>>) {
        if self.rx.is_empty() {
            sleep(timeout, bell);
        }
    }

    fn losses(&self, losses: &mut [Losses]) {
        losses.iter_mut().zip(&self.losses).for_each(|(sum, lost)| sum.join(lost));
    }

    fn pool(&self) -> PoolCounts {
        let (total, free) = (self.pool.buffers, self.pool.free.len());
        let (receiving, transmitting) = (self.rx.len(), self.tx.len());
        PoolCounts { total, free, receiving, transmitting, held: total - free - receiving - transmitting }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::time::Instant;

    #[test]
    fn a_frame_goes_round_and_its_buffer_comes_back() {
        let mut port = MemoryPort::new(2, 4);
        assert!(port.inject(1, b"frame"));
        let mut frames: [Frame; BURST] = Default::default();
        let mut interfaces = [0; BURST];
        assert_eq!(port.receive(&mut frames, &mut interfaces), 1);
        assert_eq!((frames[0].bytes(), interfaces[0]), (&b"frame"[..], 1));
        assert_eq!(port.pool().held, 1);
        port.transmit(0, std::mem::take(&mut frames[0])).unwrap();
        let mut sent = vec![];
        port.take_sent(|i, b| sent.push((i, b.to_vec())));
        assert_eq!(sent, [(0, b"frame".to_vec())]);
        assert_eq!(port.pool(), PoolCounts { total: 4, free: 4, ..Default::default() });
    }

    /// Half a minute: whoever is woken does not see the end of it.
    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn waiting_takes_the_time_given_and_no_longer_than_there_is_nothing_to_do() {
        let mut port = MemoryPort::new(1, 4);
        let begun = Instant::now();
        let short = Duration::from_millis(5);
        port.wait(short, None);
        assert!(begun.elapsed() >= short, "it does not spin");
        assert!(port.inject(0, b"frame"));
        port.wait(LONG, None);
        assert!(begun.elapsed() < LONG, "a frame can be received");
    }

    #[test]
    fn who_waits_is_woken_by_the_bell() {
        let (bell, mut rope) = std::io::pipe().unwrap();
        let mut port = MemoryPort::new(1, 4);
        let begun = Instant::now();
        let short = Duration::from_millis(5);
        port.wait(short, Some(bell.as_fd()));
        assert!(begun.elapsed() >= short, "nobody has rung");
        std::thread::scope(|scope| {
            scope.spawn(move || rope.write_all(b"!").unwrap());
            port.wait(LONG, Some(bell.as_fd()));
        });
        assert!(begun.elapsed() < LONG);
    }

    #[test]
    fn an_empty_pool_and_a_full_ring_refuse() {
        let mut port = MemoryPort::new(1, 1);
        port.limit_transmit(0);
        assert!(port.inject(0, b"a"));
        assert!(!port.inject(0, b"b"));
        assert!(port.allocate().is_none());
        let mut frames: [Frame; BURST] = Default::default();
        port.receive(&mut frames, &mut [0; BURST]);
        let frame = port.transmit(0, std::mem::take(&mut frames[0])).unwrap_err();
        port.release(frame);
        assert_eq!(port.pool().free, 1);
        assert!(!port.inject(0, &[0; 3000]) && !port.inject(0, &[0; 70_000]));
        assert_eq!(port.pool().free, 1);
        let mut losses = [Losses::default()];
        port.losses(&mut losses);
        let lost: Vec<_> = losses[0].iter().collect();
        assert_eq!(
            lost,
            [(LossReason::RxNoBuffer, 1), (LossReason::RxErrors, 2)],
            "the ring's refusal is the worker's to count"
        );
    }
}
