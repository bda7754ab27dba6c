//! The packet buffers of one worker: memory shared with the kernel, cut into chunks, and the list of free ones.
//!
//! A chunk is at any time in exactly one place: on the free list, with the kernel (in a fill or receive
//! ring, or in a transmit or completion ring), or held by the pipeline as a [`Frame`]. The kernel gives each
//! chunk back once for each time it was given it, which is what makes a frame the only handle on its chunk.

use core::ptr::{self, NonNull};
use std::io;

use crate::frame::Frame;

/// What the kernel keeps free in front of a received frame (`XDP_PACKET_HEADROOM`), without being asked.
/// It is left to us when the frame arrives, so asking for headroom of our own would only waste room.
pub(super) const RECEIVE_HEADROOM: u32 = 256;

/// Size and alignment of a huge page where there are any; a pool aligned to it is backed by fewer TLB entries.
const HUGE_PAGE: usize = 2 << 20;

/// A private anonymous mapping, unmapped on drop.
struct Region {
    start: NonNull<u8>,
    len: usize,
}

impl Region {
    fn new(len: usize) -> io::Result<Self> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Region { start, len })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: this is exactly the mapping that `new` made, and `Umem` sees to it that no frame over it is left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// The chunks of one worker, registered with the kernel by its first socket.
pub(super) struct Umem {
    /// `None` only within `drop`, when frames are still held and the memory must outlive the pool.
    region: Option<Region>,
    base: NonNull<u8>,
    /// A power of two, so that no address is divided by it at run time.
    chunk_size: u32,
    chunk_shift: u32,
    chunks: u32,
    /// Indices of free chunks; the last one freed is reused first, as it is likely still in the cache.
    free: Vec<u32>,
    /// Chunks that the pipeline holds as frames.
    held: u32,
}

// SAFETY: the mapping belongs to this value alone and may be used from any one thread.
unsafe impl Send for Umem {}

impl Umem {
    /// Maps `chunks` chunks of `chunk_size` bytes, a power of two.
    pub(super) fn new(chunks: u32, chunk_size: u32) -> io::Result<Self> {
        assert!(
            chunk_size.is_power_of_two() && chunk_size <= 1 << 15,
            "chunks must be powers of two that a frame can count"
        );
        let len = chunks as usize * chunk_size as usize;
        let region = Region::new(len + HUGE_PAGE)?;
        let skip = region.start.as_ptr().align_offset(HUGE_PAGE);
        // SAFETY: `skip` is less than HUGE_PAGE, by which the mapping is longer than `len`.
        let base = unsafe { region.start.add(skip) };
        // SAFETY: the range lies in our mapping. Only advice: where there are no huge pages it does nothing.
        unsafe { libc::madvise(base.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
        // SAFETY: the range lies in our mapping, and nobody else has seen it. Writing makes the pages exist
        // now, when a lack of memory still is an error of set-up.
        unsafe { ptr::write_bytes(base.as_ptr(), 0, len) };
        Ok(Umem {
            region: Some(region),
            base,
            chunk_size,
            chunk_shift: chunk_size.ilog2(),
            chunks,
            free: (0..chunks).rev().collect(),
            held: 0,
        })
    }

    /// Start of the memory, for registration.
    pub(super) fn address(&self) -> u64 {
        self.base.as_ptr().expose_provenance() as u64
    }

    /// Size of the memory in bytes.
    pub(super) fn len(&self) -> usize {
        self.chunks as usize * self.chunk_size as usize
    }

    pub(super) fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    pub(super) fn chunks(&self) -> u32 {
        self.chunks
    }

    pub(super) fn free(&self) -> u32 {
        self.free.len() as u32
    }

    pub(super) fn held(&self) -> u32 {
        self.held
    }

    /// Takes a free chunk for the kernel to receive into; its address, relative to the memory's start.
    #[inline]
    pub(super) fn take(&mut self) -> Option<u64> {
        self.free.pop().map(|chunk| u64::from(chunk) << self.chunk_shift)
    }

    /// Puts a chunk back on the free list that the kernel is done with. `address` may point anywhere into it.
    #[inline]
    pub(super) fn put(&mut self, address: u64) {
        let chunk = (address >> self.chunk_shift) as u32;
        debug_assert!(chunk < self.chunks && self.free.len() < self.chunks as usize);
        self.free.push(chunk);
    }

    /// A frame that the kernel received into one of our chunks, or `None` for a descriptor that lies
    /// outside the memory, which would be an error of the kernel.
    #[inline]
    pub(super) fn received(&mut self, address: u64, len: u32) -> Option<Frame> {
        let offset = (address & u64::from(self.chunk_size - 1)) as u32;
        if address >= self.len() as u64 || len > self.chunk_size - offset {
            return None;
        }
        self.held += 1;
        // SAFETY: the chunk lies in the mapping (checked above), its bytes were initialised by `new`, and
        // a received chunk is in no ring and not on the free list, so this is its only handle. `drop` keeps
        // the mapping when a frame outlives the pool.
        Some(unsafe {
            let head = self.base.add((address - u64::from(offset)) as usize);
            Frame::from_raw(head, self.chunk_size as u16, offset as u16, len as u16)
        })
    }

    /// A frame of length 0 in a free chunk, with the headroom of a received one.
    #[inline]
    pub(super) fn allocate(&mut self) -> Option<Frame> {
        let address = self.take()?;
        self.received(address + u64::from(RECEIVE_HEADROOM), 0)
    }

    /// The frame's address relative to the memory's start, or the frame itself when it is not of this pool.
    #[inline]
    fn address_of(&self, frame: &Frame) -> Option<u64> {
        let distance = frame.head().as_ptr().addr().wrapping_sub(self.base.as_ptr().addr());
        (!frame.is_placeholder() && distance < self.len()).then(|| distance as u64 + u64::from(frame.offset()))
    }

    /// Turns a frame into the descriptor fields by which the kernel transmits it: address and length.
    #[inline]
    pub(super) fn surrender(&mut self, frame: Frame) -> Result<(u64, u32), Frame> {
        match self.address_of(&frame) {
            Some(address) => {
                self.held -= 1;
                Ok((address, frame.len() as u32))
            }
            None => Err(frame),
        }
    }

    /// Frees the chunk of a frame. A frame of another pool is let go of: its own pool still counts it.
    #[inline]
    pub(super) fn release(&mut self, frame: Frame) {
        let address = self.address_of(&frame);
        debug_assert!(address.is_some() || frame.is_placeholder(), "a frame of another pool");
        if let Some(address) = address {
            self.held -= 1;
            self.put(address - u64::from(frame.offset()));
        }
    }
}

impl Drop for Umem {
    fn drop(&mut self) {
        // Frames that are still held point into the mapping; it then stays until the process ends.
        if self.held > 0 {
            core::mem::forget(self.region.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_found_again_from_any_address_in_it() {
        let mut umem = Umem::new(4, 2048).expect("memory");
        let chunks: Vec<u64> = std::iter::from_fn(|| umem.take()).collect();
        assert_eq!(chunks, [0, 2048, 4096, 6144]);
        umem.put(2048 + 300);
        assert_eq!((umem.free(), umem.take()), (1, Some(2048)));
    }

    #[test]
    fn a_frame_is_surrendered_where_it_starts() {
        let mut umem = Umem::new(2, 2048).expect("memory");
        let mut frame = umem.allocate().expect("a chunk");
        assert!(frame.set_len(60));
        frame.bytes_mut().fill(7);
        assert!(frame.push_front(20));
        assert_eq!(umem.held(), 1);
        let (address, len) = umem.surrender(frame).expect("a frame of this pool");
        assert_eq!((address, len), (u64::from(RECEIVE_HEADROOM) - 20, 80));
        assert_eq!((umem.held(), umem.free()), (0, 1));
        umem.put(address);
        assert_eq!(umem.free(), 2);
    }

    #[test]
    fn a_frame_of_another_pool_comes_back() {
        let mut ours = Umem::new(2, 2048).expect("memory");
        let mut theirs = Umem::new(2, 2048).expect("memory");
        let frame = theirs.allocate().expect("a chunk");
        let back = ours.surrender(frame).expect_err("not ours");
        theirs.release(back);
        assert_eq!((theirs.held(), theirs.free(), ours.free()), (0, 2, 2));
    }

    #[test]
    fn a_frame_may_outlive_its_pool() {
        let mut umem = Umem::new(2, 2048).expect("memory");
        let mut frame = umem.allocate().expect("a chunk");
        assert!(frame.set_len(100));
        drop(umem);
        frame.bytes_mut().fill(1);
        assert!(frame.bytes().iter().all(|&byte| byte == 1));
    }

    #[test]
    fn descriptors_outside_the_memory_are_refused() {
        let mut umem = Umem::new(2, 2048).expect("memory");
        assert!(umem.received(4096, 60).is_none());
        assert!(umem.received(2048 + 256, 2000).is_none());
        assert_eq!(umem.held(), 0);
    }
}
