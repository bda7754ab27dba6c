//! Fixed arrays on huge pages, mapped and touched once: what packets look things up in.
//!
//! A table of a hundred megabytes misses the translation of its addresses at nearly every packet. On huge pages a miss takes fewer steps, and
//! fewer of these miss themselves.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Types for which all-zero bytes are a value.
///
/// # Safety
/// All-zero bytes must be a valid value of the type, and the type must need no drop.
pub unsafe trait Zeroable: Copy {}

// SAFETY: integers.
unsafe impl Zeroable for [u8; 16] {}

/// A fixed array on huge pages where the kernel gives them, touched when it is made: no page fault on the packet path.
#[derive(Debug)]
pub struct Slab<T> {
    at: NonNull<T>,
    len: usize,
    mapped: usize,
}

// SAFETY: a slab owns its memory exclusively, as a `Box<[T]>` does.
unsafe impl<T: Send> Send for Slab<T> {}

impl<T: Copy> Slab<T> {
    /// `len` copies of a value. All its memory is taken and touched here.
    pub fn filled(len: usize, value: T) -> Self {
        let (at, mapped) = map::<T>(len);
        for i in 0..len {
            // SAFETY: `i < len`, and the mapping is long enough for `len` values and aligned for them.
            unsafe { at.add(i).write(value) };
        }
        Slab { at, len, mapped }
    }
}

impl<T: Zeroable> Slab<T> {
    /// `len` values of zero bytes.
    pub fn zeroed(len: usize) -> Self {
        // Fresh pages are zero, which is a valid `T`.
        let (at, mapped) = map(len);
        Slab { at, len, mapped }
    }
}

/// A mapping of fresh pages for `len` values, touched, and its length in bytes.
fn map<T>(len: usize) -> (NonNull<T>, usize) {
    const HUGE: usize = 2 << 20;
    const { assert!(align_of::<T>() <= 4096) };
    let Some(bytes) = len.checked_mul(size_of::<T>()).filter(|bytes| *bytes < isize::MAX as usize / 2) else {
        // More than there can be; says so as any other allocation does.
        std::alloc::handle_alloc_error(std::alloc::Layout::new::<T>());
    };
    let mapped = if bytes >= HUGE { bytes.next_multiple_of(HUGE) } else { bytes.max(1).next_multiple_of(4096) };
    // SAFETY: an anonymous private mapping of `mapped` bytes at an address of the kernel's choice; the result is checked. Whatever is done to it
    // stays within it.
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
        (NonNull::new_unchecked(at.cast()), mapped)
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
