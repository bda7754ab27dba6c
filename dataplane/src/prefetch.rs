//! Software prefetch: asking for a cache line some packets before it is needed.

/// Asks for the cache line that `place` starts in, for reading and writing soon. No effect on the program's result.
#[inline(always)]
pub fn prefetch<T>(place: &T) {
    prefetch_at(core::ptr::from_ref(place));
}

/// As [`prefetch`], for an address that may lie outside any object: one that turns out wrong costs nothing but the request.
#[inline(always)]
pub fn prefetch_at<T>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetch is a hint; it reads no memory that the program can observe and cannot fault.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
