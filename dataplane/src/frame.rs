//! A frame: a linear handle on one buffer of a port's pool.
//!
//! A frame is made by the port that owns the buffer and ends in `transmit` or `release` of the same
//! port. It is deliberately not `Clone`: two handles on one buffer would be two mutable views.
//! Nothing is freed when a frame is dropped; [`crate::port::PoolCounts`] shows a leak, and tests assert on it.

use core::fmt;
use core::ptr::NonNull;

/// Bytes kept free in front of a received frame, so that a tunnel header or a splice can grow it in place.
pub const HEADROOM: u16 = 128;

/// One Ethernet frame in a pool buffer. 16 bytes, so that a burst of 32 fits in eight cache lines.
///
/// [`Frame::default`] is a zero-length frame that belongs to no pool; it fills the unused places of a burst.
#[must_use = "a frame that is neither transmitted nor released leaks its buffer"]
#[repr(C)] // the DPDK port's C part fills and reads frames in place
pub struct Frame {
    head: NonNull<u8>,
    offset: u16,
    len: u16,
    capacity: u16,
    /// Nothing, and 0; with it, moving a frame is one 16-byte load and store.
    _spare: u16,
}

// SAFETY: a frame is the only handle on its buffer, and the buffer is plain memory that outlives the
// port's loan of it; moving the handle to another thread moves that exclusive access with it.
unsafe impl Send for Frame {}

impl Default for Frame {
    fn default() -> Self {
        Frame { head: NonNull::dangling(), offset: 0, len: 0, capacity: 0, _spare: 0 }
    }
}

impl Frame {
    /// Makes a frame over `capacity` bytes at `head`, of which `len` bytes from `offset` are the frame.
    ///
    /// # Safety
    /// `head` must be valid for reads and writes of `capacity` initialised bytes until the frame is
    /// given back to its port, and no other handle on these bytes may be used meanwhile.
    /// `offset + len` must not exceed `capacity`.
    #[inline]
    pub unsafe fn from_raw(head: NonNull<u8>, capacity: u16, offset: u16, len: u16) -> Self {
        debug_assert!(offset as usize + len as usize <= capacity as usize);
        Frame { head, offset, len, capacity, _spare: 0 }
    }

    /// Start of the buffer (not of the frame): what a port recognises its buffer by.
    #[inline]
    pub fn head(&self) -> NonNull<u8> {
        self.head
    }

    /// Bytes from the start of the buffer to the start of the frame.
    #[inline]
    pub fn offset(&self) -> u16 {
        self.offset
    }

    /// Length of the frame in bytes, without FCS.
    #[inline]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Size of the buffer in bytes.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// Whether this is the placeholder that belongs to no pool.
    #[inline]
    pub fn is_placeholder(&self) -> bool {
        self.capacity == 0
    }

    /// Asks for the frame's first cache line.
    #[inline(always)]
    pub fn prefetch(&self) {
        crate::prefetch::prefetch_at(self.head.as_ptr().wrapping_add(self.offset as usize));
    }

    /// The frame's bytes, from the Ethernet destination address on.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `from_raw` promised `capacity` valid bytes at `head`, and every method keeps
        // `offset + len <= capacity`; the placeholder has length 0 and a dangling, aligned pointer.
        unsafe { core::slice::from_raw_parts(self.head.as_ptr().add(self.offset as usize), self.len as usize) }
    }

    /// The frame's bytes, mutable.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`; `&mut self` on the only handle makes the access exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.head.as_ptr().add(self.offset as usize), self.len as usize) }
    }

    /// Bytes by which [`Frame::push_front`] can still grow the frame.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.offset as usize
    }

    /// Bytes by which [`Frame::set_len`] can still grow the frame.
    #[inline]
    pub fn tailroom(&self) -> usize {
        (self.capacity - self.offset - self.len) as usize
    }

    /// Grows the frame by `n` bytes at its front; `false` (and nothing changed) when the headroom is short.
    /// The new bytes hold whatever the buffer held.
    #[inline]
    #[must_use]
    pub fn push_front(&mut self, n: u16) -> bool {
        if n > self.offset {
            return false;
        }
        self.offset -= n;
        self.len += n;
        true
    }

    /// Shrinks the frame by `n` bytes at its front; `false` (and nothing changed) when it is shorter than that.
    #[inline]
    #[must_use]
    pub fn pull_front(&mut self, n: u16) -> bool {
        if n > self.len {
            return false;
        }
        self.offset += n;
        self.len -= n;
        true
    }

    /// Sets the length, keeping the front; `false` (and nothing changed) when the buffer is too small.
    #[inline]
    #[must_use]
    pub fn set_len(&mut self, len: u16) -> bool {
        if len > self.capacity - self.offset {
            return false;
        }
        self.len = len;
        true
    }

    /// Puts the frame at `offset` with length 0, for building a new frame in an old buffer;
    /// `false` (and nothing changed) when the buffer is too small.
    #[inline]
    #[must_use]
    pub fn reset(&mut self, offset: u16) -> bool {
        if offset > self.capacity {
            return false;
        }
        self.offset = offset;
        self.len = 0;
        true
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame {{ offset: {}, len: {}, capacity: {} }}", self.offset, self.len, self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(buffer: &mut [u8; 64], offset: u16, len: u16) -> Frame {
        // SAFETY: the buffer outlives the frame in every test and is not touched meanwhile.
        unsafe { Frame::from_raw(NonNull::new(buffer.as_mut_ptr()).unwrap(), 64, offset, len) }
    }

    #[test]
    fn grows_and_shrinks_within_the_buffer_only() {
        let mut buffer = [7u8; 64];
        let mut f = frame(&mut buffer, 16, 20);
        assert_eq!((f.headroom(), f.len(), f.tailroom()), (16, 20, 28));
        assert!(f.push_front(16));
        assert!(!f.push_front(1));
        assert_eq!(f.len(), 36);
        assert!(!f.pull_front(37));
        assert!(f.pull_front(36));
        assert_eq!(f.len(), 0);
        assert!(!f.set_len(29));
        assert!(f.set_len(28));
        f.bytes_mut().fill(1);
        assert_eq!(buffer[35..], {
            let mut want = [7u8; 29];
            want[1..].fill(1);
            want
        });
    }

    #[test]
    fn the_placeholder_is_empty_and_cannot_grow() {
        let mut f = Frame::default();
        assert!(f.is_placeholder());
        assert_eq!(f.bytes(), b"");
        assert!(!f.push_front(1));
        assert!(!f.set_len(1));
        assert_eq!(core::mem::size_of::<Frame>(), 16);
    }
}
