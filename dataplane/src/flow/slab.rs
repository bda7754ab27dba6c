//! The memory of the table: fixed arrays, mapped and touched once.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Types for which all-zero bytes are a value.
///
/// # Safety
/// All-zero bytes must be a valid value of the type, and the type must need no drop.
pub(super) unsafe trait Zeroable: Copy {}

// SAFETY: integers.
unsafe impl Zeroable for [u8; 16] {}

/// A fixed array on huge pages where the kernel gives them, touched when it is made: no page fault on the packet path.
#[derive(Debug)]
pub(super) struct Slab<T> {
    at: NonNull<T>,
    len: usize,
    mapped: usize,
}

// SAFETY: a slab owns its memory exclusively, as a `Box<[T]>` does.
unsafe impl<T: Send> Send for Slab<T> {}

impl<T: Zeroable> Slab<T> {
    pub(super) fn zeroed(len: usize) -> Self {
        const HUGE: usize = 2 << 20;
        let bytes = (len * size_of::<T>()).max(1);
        let mapped = if bytes >= HUGE { bytes.next_multiple_of(HUGE) } else { bytes.next_multiple_of(4096) };
        // SAFETY: an anonymous private mapping of `mapped` bytes at an address of the kernel's choice; the
        // result is checked. Page alignment satisfies every `T` here, and fresh pages are zero, which is a valid `T`.
        unsafe {
            let at = libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            if at == libc::MAP_FAILED {
                std::alloc::handle_alloc_error(std::alloc::Layout::from_size_align_unchecked(mapped, 4096));
            }
            // Advice only: small pages work as well, slower.
            libc::madvise(at, mapped, libc::MADV_HUGEPAGE);
            if libc::madvise(at, mapped, libc::MADV_POPULATE_WRITE) != 0 {
                for page in (0..mapped).step_by(4096) {
                    at.cast::<u8>().add(page).write_volatile(0);
                }
            }
            Slab { at: NonNull::new_unchecked(at.cast()), len, mapped }
        }
    }
}

impl<T> Deref for Slab<T> {
    type Target = [T];
    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `len` initialised elements at `at`, owned by the slab.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Slab<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }
}

impl<T> Drop for Slab<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `zeroed` with this length and is unmapped once.
        unsafe {
            libc::munmap(self.at.as_ptr().cast(), self.mapped);
        }
    }
}
