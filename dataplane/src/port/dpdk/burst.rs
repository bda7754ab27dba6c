//! Bursts between frames and a device's queue, straight to DPDK and without allocation.

use super::environment::Lease;
use crate::batch::BURST;
use crate::frame::Frame;
use capsule_ffi::{self as ffi, lcs_refused, lcs_view};
use std::ptr::NonNull;

/// A packet pool of the environment.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    raw: NonNull<ffi::rte_mempool>,
    total: usize,
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
        Some(Pool { raw, total, lease: lease.clone() })
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
        let mut view = lcs_view::default();
        // SAFETY: the pool is in being (its lease), and `view` is ours.
        let failed = unsafe { ffi::lcs_alloc(self.raw.as_ptr(), &raw mut view) };
        if failed != 0 {
            return None;
        }
        // SAFETY: the buffer was in the pool, so nobody else has it.
        unsafe { frame(view) }
    }

    /// Keeps every pool in being until the process ends: for frames that outlive their port.
    pub(super) fn keep(&self) {
        self.lease.keep();
    }
}

/// Gives a buffer back to the pool that it came from.
#[inline]
pub(super) fn free(frame: Frame) {
    if !frame.is_placeholder() {
        // SAFETY: the frame's head is an mbuf's buffer (only `frame` makes frames of a DPDK port, and the port
        // refuses others), and the frame was its only handle.
        unsafe { ffi::lcs_free(frame.head().as_ptr().cast()) };
    }
}

/// # Safety
/// The view is of a buffer that nobody else has a handle on, whose pool outlives the frame.
#[inline]
unsafe fn frame(view: lcs_view) -> Option<Frame> {
    let head = NonNull::new(view.head.cast::<u8>())?;
    // SAFETY: the caller's promise; DPDK zeroes its memory, so the buffer is initialised, and lcs_rx_burst has checked that
    // offset and length lie within the capacity.
    Some(unsafe { Frame::from_raw(head, view.capacity, view.offset, view.len) })
}

/// One queue pair of a device. There is one handle on each, so that no two threads use it at once.
#[derive(Debug)]
pub(super) struct Queue {
    device: u16,
    queue: u16,
    views: [lcs_view; BURST],
    refused: lcs_refused,
    /// Frames that are queued, and not yet taken by the device; in order from `first` on.
    staged: Vec<lcs_view>,
    first: usize,
    /// Keeps the device started.
    _lease: Lease,
}

// SAFETY: the pointers in `views` and `staged` are buffers that this queue alone holds; nothing of a queue pair is
// bound to a thread.
unsafe impl Send for Queue {}

/// Frames that may wait for the device: more than one turn of a worker makes.
const STAGED: usize = 1024;

impl Queue {
    /// # Safety
    /// The device is started and has this queue pair, and there is no other handle on it.
    pub(super) unsafe fn new(device: u16, queue: u16, lease: &Lease) -> Self {
        Queue {
            device,
            queue,
            views: [lcs_view::default(); BURST],
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
        // SAFETY: `new` was promised that the queue exists and that this is its only handle; `views` has room for a burst.
        let n = unsafe {
            ffi::lcs_rx_burst(self.device, self.queue, self.views.as_mut_ptr(), wanted, &raw mut self.refused)
        };
        let n = usize::from(n).min(frames.len());
        for (place, view) in frames.iter_mut().zip(&self.views[..n]) {
            // SAFETY: the device has let go of the buffer, and nobody else has it.
            *place = unsafe { frame(*view) }.unwrap_or_default();
        }
        n
    }

    /// Sends a burst as it was received; returns how many packets.
    pub(super) fn reflect(&mut self) -> usize {
        // SAFETY: the queue exists and this is its only handle; the packets never leave the call.
        usize::from(unsafe { ffi::lcs_reflect(self.device, self.queue, BURST as u16) })
    }

    /// Queues a frame; gives it back when there is no room.
    #[inline]
    pub(super) fn stage(&mut self, frame: Frame) -> Result<(), Frame> {
        if self.staged.len() >= STAGED || frame.is_placeholder() {
            return Err(frame);
        }
        self.staged.push(lcs_view {
            head: frame.head().as_ptr().cast(),
            offset: frame.offset(),
            len: frame.len() as u16,
            capacity: frame.capacity() as u16,
            spare: 0,
        });
        Ok(())
    }

    /// Frames that the device has not taken yet.
    pub(super) fn staged(&self) -> usize {
        self.staged.len() - self.first
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
            // SAFETY: the queue exists and this is its only handle; every view was a frame, whose handle ended in `stage`.
            let sent = unsafe { ffi::lcs_tx_burst(self.device, self.queue, rest.as_ptr(), n) };
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
        for view in self.staged.drain(self.first..) {
            // SAFETY: the view is of a buffer that nobody else has a handle on.
            if let Some(frame) = unsafe { frame(view) } {
                free(frame);
            }
        }
    }
}
