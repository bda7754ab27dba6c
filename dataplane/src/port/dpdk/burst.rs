//! Bursts between frames and a device's queue, straight to DPDK and without allocation.

use super::environment::Lease;
use crate::batch::BURST;
use crate::frame::Frame;
use crate::port::losses::{LossReason, Losses};
use capsule_ffi::{self as ffi, lcs_refused, lcs_view};
use std::ops::Range;
use std::ptr::NonNull;

/// A packet pool of the environment.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    raw: NonNull<ffi::rte_mempool>,
    total: usize,
    /// Addresses that this pool and its siblings on other nodes lie in: a frame's head is in there, or is not of DPDK.
    range: Range<usize>,
    /// Keeps the pool in being.
    lease: Lease,
}

// SAFETY: a mempool may be used from any number of threads at once (its ring is multi-producer and multi-consumer, and
// its caches belong to registered threads); the lease keeps it in being.
unsafe impl Send for Pool {}

impl Pool {
    /// Finds a pool by its name.
    pub(super) fn find(name: &std::ffi::CStr, lease: &Lease) -> Option<Self> {
        // SAFETY: the lease says that the EAL is initialised; the name ends in zero.
        let raw = NonNull::new(unsafe { ffi::rte_mempool_lookup(name.as_ptr()) })?;
        // SAFETY: a pool that was looked up is in being, and it is not freed while there is a lease.
        let total = unsafe { raw.as_ref() }.size as usize;
        let (mut first, mut end) = (0, 0);
        // SAFETY: as above; both places are ours.
        unsafe { ffi::lcs_pool_range(raw.as_ptr(), &raw mut first, &raw mut end) };
        Some(Pool { raw, total, range: first..end, lease: lease.clone() })
    }

    /// Takes a sibling's frames for DPDK's too: a device may bring them.
    pub(super) fn with_sibling(mut self, sibling: &Pool) -> Self {
        self.range = self.range.start.min(sibling.range.start)..self.range.end.max(sibling.range.end);
        self
    }

    /// Whether a frame is of DPDK. (Between two chunks of a pool lies nothing but what DPDK has reserved.)
    #[inline]
    pub(super) fn owns(&self, frame: &Frame) -> bool {
        !frame.is_placeholder() && self.range.contains(&frame.head().as_ptr().addr())
    }

    /// The NUMA node that it is on, -1 for any.
    pub(super) fn node(&self) -> i32 {
        // SAFETY: as in `find`.
        unsafe { self.raw.as_ref() }.socket_id
    }

    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// Buffers in the pool and its caches.
    pub(super) fn free(&self) -> usize {
        // SAFETY: as in `find`; counting only reads.
        unsafe { ffi::rte_mempool_avail_count(self.raw.as_ptr()) as usize }
    }

    /// Takes a buffer, as a frame of length 0 behind the headroom.
    pub(super) fn allocate(&self) -> Option<Frame> {
        let mut frame = Frame::default();
        // SAFETY: the pool is in being (its lease). The view is written whole where there is a buffer, and then it is of one
        // that was in the pool, so that nobody else has it; see `Frame as view` for the layout.
        let failed = unsafe { ffi::lcs_alloc(self.raw.as_ptr(), (&raw mut frame).cast()) };
        (failed == 0).then_some(frame)
    }

    /// Keeps every pool in being until the process ends: for frames that outlive their port.
    pub(super) fn keep(&self) {
        self.lease.keep();
    }
}

/// Gives a buffer back to the pool that it came from.
///
/// # Safety
/// The frame is of DPDK ([`Pool::owns`]).
#[inline]
pub(super) unsafe fn free(frame: Frame) {
    // SAFETY: the frame's head is an mbuf's buffer, by the caller's promise, and the frame was its only handle.
    unsafe { ffi::lcs_free(frame.head().as_ptr().cast()) };
}

// Frame as view: a frame is laid out as the C part's view is, and a view is a frame when its buffer has no other handle, offset
// and length lie within the capacity (lcs_rx_burst checks it), and the head is not null (it is an address in an mbuf). DPDK zeroes
// its memory, so buffers are initialised.
const _: () = {
    assert!(size_of::<Frame>() == size_of::<lcs_view>() && align_of::<Frame>() == align_of::<lcs_view>());
    assert!(cfg!(target_endian = "little"));
};

/// One queue pair of a device. There is one handle on each, so that no two threads use it at once.
#[derive(Debug)]
pub(super) struct Queue {
    device: u16,
    queue: u16,
    refused: lcs_refused,
    /// Frames that are queued, and not yet taken by the device; in order from `first` on.
    staged: Vec<Frame>,
    first: usize,
    /// Keeps the device started.
    _lease: Lease,
}

/// Frames that may wait for the device: more than one turn of a worker makes.
const STAGED: usize = 1024;

impl Queue {
    /// # Safety
    /// The device is started and has this queue pair, and there is no other handle on it.
    pub(super) unsafe fn new(device: u16, queue: u16, lease: &Lease) -> Self {
        Queue {
            device,
            queue,
            refused: lcs_refused::default(),
            staged: Vec::with_capacity(STAGED),
            first: 0,
            _lease: lease.clone(),
        }
    }

    /// Receives up to `frames.len()` frames, at most a burst.
    #[inline]
    pub(super) fn receive(&mut self, frames: &mut [Frame]) -> usize {
        let wanted = frames.len().min(BURST) as u16;
        // SAFETY: `new` was promised that the queue exists and that this is its only handle; as many views are written as
        // there are places, each whole, of buffers that the device has let go of and nobody else has; see `Frame as view`.
        let n = unsafe {
            ffi::lcs_rx_burst(self.device, self.queue, frames.as_mut_ptr().cast(), wanted, &raw mut self.refused)
        };
        usize::from(n)
    }

    /// Sends a burst as it was received; returns how many packets.
    pub(super) fn reflect(&mut self) -> usize {
        // SAFETY: the queue exists and this is its only handle; the packets never leave the call.
        usize::from(unsafe { ffi::lcs_reflect(self.device, self.queue, BURST as u16) })
    }

    /// Queues a frame; gives it back when there is no room.
    ///
    /// # Safety
    /// The frame is of DPDK ([`Pool::owns`]).
    #[inline]
    pub(super) unsafe fn stage(&mut self, frame: Frame) -> Result<(), Frame> {
        if self.staged.len() >= STAGED {
            return Err(frame);
        }
        self.staged.push(frame);
        Ok(())
    }

    /// Frames that the device has not taken yet.
    pub(super) fn staged(&self) -> usize {
        self.staged.len() - self.first
    }

    /// What the device counts as lost. That is of all its queues: only the handle of the first one knows, so that no frame is counted for
    /// each worker. Nothing where the driver does not count.
    pub(super) fn device_losses(&self) -> Losses {
        let mut losses = Losses::default();
        let mut stats = ffi::rte_eth_stats::default();
        // SAFETY: the lease keeps the device started; the statistics are written into a place of ours. The drivers that are known read
        // counters here and change nothing, so that other queues' threads are not disturbed.
        if self.queue == 0 && unsafe { ffi::rte_eth_stats_get(self.device, &raw mut stats) } == 0 {
            losses.add(LossReason::RxMissed, stats.imissed);
            losses.add(LossReason::RxNoBuffer, stats.rx_nombuf);
            losses.add(LossReason::RxErrors, stats.ierrors);
            losses.add(LossReason::TxErrors, stats.oerrors);
        }
        losses
    }

    /// Packets that were freed at once: with a wrong checksum, and of a shape that cannot be.
    pub(super) fn refused(&self) -> (u64, u64) {
        (self.refused.checksum, self.refused.shape)
    }

    /// Lets the device take what it has room for.
    #[inline]
    pub(super) fn flush(&mut self) {
        while self.first < self.staged.len() {
            let rest = &self.staged[self.first..];
            let n = rest.len().min(2 * BURST) as u16;
            // SAFETY: the queue exists and this is its only handle; the frames are of mbufs (`stage` was promised it), and
            // those that were sent are forgotten below.
            let sent = unsafe { ffi::lcs_tx_burst(self.device, self.queue, rest.as_ptr().cast(), n) };
            self.first += usize::from(sent);
            if sent < n {
                break;
            }
        }
        if self.first == self.staged.len() {
            self.staged.clear();
            self.first = 0;
        } else if self.first > 0 {
            // The device is full: rare, and then the rest moves to the front, so that there is room behind it.
            self.staged.drain(..self.first);
            self.first = 0;
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        for frame in self.staged.drain(self.first..) {
            // SAFETY: `stage` was promised it.
            unsafe { free(frame) };
        }
    }
}
