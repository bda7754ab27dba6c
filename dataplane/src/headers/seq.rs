//! TCP sequence numbers: arithmetic modulo 2³², comparison by distance (RFC 9293 §3.4, after RFC 1982).

use core::fmt;
use core::ops::{Add, Sub};

/// A TCP sequence number. It has no `Ord`: which of two numbers is later depends on the wrap, so say
/// [`SeqNumber::before`] or [`SeqNumber::after`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SeqNumber(pub u32);

impl SeqNumber {
    /// Bytes from `earlier` to this number, negative when this one is before it. Meaningful within ±2³¹.
    #[inline]
    pub fn since(self, earlier: SeqNumber) -> i32 {
        self.0.wrapping_sub(earlier.0) as i32
    }

    /// Whether this number comes before `other`.
    #[inline]
    pub fn before(self, other: SeqNumber) -> bool {
        self.since(other) < 0
    }

    /// Whether this number comes after `other`.
    #[inline]
    pub fn after(self, other: SeqNumber) -> bool {
        self.since(other) > 0
    }
}

impl Add<u32> for SeqNumber {
    type Output = SeqNumber;
    #[inline]
    fn add(self, n: u32) -> SeqNumber {
        SeqNumber(self.0.wrapping_add(n))
    }
}

impl Sub<u32> for SeqNumber {
    type Output = SeqNumber;
    #[inline]
    fn sub(self, n: u32) -> SeqNumber {
        SeqNumber(self.0.wrapping_sub(n))
    }
}

impl fmt::Debug for SeqNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_survives_the_wrap() {
        let (a, b) = (SeqNumber(u32::MAX - 1), SeqNumber(u32::MAX - 1) + 10);
        assert_eq!(b.0, 8);
        assert!(a.before(b) && b.after(a) && !a.after(b));
        assert_eq!((b.since(a), a.since(b)), (10, -10));
        assert_eq!(b - 10, a);
    }
}
