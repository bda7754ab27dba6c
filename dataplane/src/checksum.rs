//! Internet checksums (RFC 1071) and their incremental update (RFC 1624).
//!
//! Sums are kept in *memory order*: words are read with `from_ne_bytes`, which the one's complement sum
//! permits (RFC 1071 §2(B), byte-order independence), so that no byte is swapped on the fast path.

/// A one's complement sum that has not been folded, in memory order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The empty sum.
    pub const ZERO: Sum = Sum(0);

    /// Adds bytes; an odd last byte is padded with zero (RFC 1071 §4.1). Only the last slice added may be odd.
    #[inline]
    #[must_use]
    pub fn bytes(self, data: &[u8]) -> Self {
        let (blocks, mut tail) = data.as_chunks::<32>();
        let mut sum = fold32(self.0);
        if !blocks.is_empty() {
            sum += sum_blocks(blocks);
        }
        // By halves: a loop over what is so short is made more of than it is worth.
        if let Some((words, rest)) = tail.split_first_chunk::<16>() {
            let (words, _) = words.as_chunks::<8>();
            sum += fold32(u64::from_ne_bytes(words[0])) + fold32(u64::from_ne_bytes(words[1]));
            tail = rest;
        }
        if let Some((word, rest)) = tail.split_first_chunk::<8>() {
            sum += fold32(u64::from_ne_bytes(*word));
            tail = rest;
        }
        if let Some((word, rest)) = tail.split_first_chunk::<4>() {
            sum += u64::from(u32::from_ne_bytes(*word));
            tail = rest;
        }
        if let Some((word, rest)) = tail.split_first_chunk::<2>() {
            sum += u64::from(u16::from_ne_bytes(*word));
            tail = rest;
        }
        if let [last] = *tail {
            sum += u64::from(u16::from_ne_bytes([last, 0]));
        }
        Sum(sum)
    }

    /// Adds a 16-bit field as it stands in memory.
    #[inline]
    #[must_use]
    pub fn word(self, memory_order: u16) -> Self {
        Sum(self.0 + u64::from(memory_order))
    }

    /// Adds a number given in host order as a 16-bit field in network order.
    #[inline]
    #[must_use]
    pub fn number(self, host_order: u16) -> Self {
        self.word(host_order.to_be())
    }

    /// Adds a 32-bit field as it stands in memory.
    #[inline]
    #[must_use]
    pub fn word32(self, memory_order: u32) -> Self {
        Sum(self.0 + u64::from(memory_order))
    }

    /// Adds a 64-bit field as it stands in memory.
    #[inline]
    #[must_use]
    pub fn word64(self, memory_order: u64) -> Self {
        Sum(self.0 + fold32(memory_order))
    }

    /// Adds another sum.
    #[inline]
    #[must_use]
    pub fn plus(self, other: Sum) -> Self {
        Sum(fold32(self.0) + fold32(other.0))
    }

    /// The sum folded to 16 bits, in memory order.
    #[inline]
    pub fn fold(self) -> u16 {
        fold(self.0)
    }

    /// The checksum field for this sum, in memory order: the sum's complement.
    #[inline]
    pub fn checksum(self) -> u16 {
        !self.fold()
    }
}

/// The sum of blocks, folded to 33 bits. Eight 64-bit words at a time in one chain of carries, every second pair of blocks in a sum of its
/// own, so that two chains are under way at once. (Of sums of 16-bit halves side by side the compiler made more than four times as many instructions.)
fn sum_blocks(blocks: &[[u8; 32]]) -> u64 {
    let (fours, rest) = blocks.as_chunks::<4>();
    let (mut even, mut odd) = ((0, 0), (0, 0));
    for [first, second, third, fourth] in fours {
        even = add_blocks(even, [first, second]);
        odd = add_blocks(odd, [third, fourth]);
    }
    for block in rest {
        even = add_blocks(even, [block]);
    }
    let ((even, over), (odd, more)) = (even, odd);
    // 2⁶⁴ is 1 modulo 2¹⁶ − 1: a carry out of the last word counts as one.
    fold32(fold32(even) + fold32(odd) + over + more)
}

/// Adds blocks to a sum and the carries out of it.
#[inline(always)]
fn add_blocks<const N: usize>((sum, carries): (u64, u64), blocks: [&[u8; 32]; N]) -> (u64, u64) {
    let (mut sum, mut carry) = (sum, false);
    for block in blocks {
        for word in block.as_chunks::<8>().0 {
            (sum, carry) = sum.carrying_add(u64::from_ne_bytes(*word), carry);
        }
    }
    (sum, carries + u64::from(carry))
}

#[inline(always)]
fn fold32(sum: u64) -> u64 {
    (sum & 0xffff_ffff) + (sum >> 32)
}

/// Folds by adding halves with the carry brought round: 64 to 32 bits, then 32 to 16 by one rotation.
#[inline(always)]
fn fold(sum: u64) -> u16 {
    let (half, carry) = (sum as u32).overflowing_add((sum >> 32) as u32);
    let half = half.wrapping_add(u32::from(carry));
    (half.wrapping_add(half.rotate_left(16)) >> 16) as u16
}

/// What a set of replaced words adds to a checksum: the sum of `~m + m'` of RFC 1624 equation 3, folded.
///
/// For one connection and direction the replaced words are constant, so this is computed once and kept with
/// the connection; the other direction's difference is [`Difference::reversed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Difference(u16);

impl Difference {
    /// Nothing changed.
    pub const NONE: Difference = Difference(0);

    /// The difference made by replacing `old` by `new` (of equal, even length; memory order).
    #[inline]
    #[must_use]
    pub fn replacing(self, old: &[u8], new: &[u8]) -> Self {
        debug_assert!(old.len() == new.len() && old.len().is_multiple_of(2));
        let negative = !Sum::ZERO.bytes(old).fold();
        Difference(fold(u64::from(self.0) + u64::from(negative) + u64::from(Sum::ZERO.bytes(new).fold())))
    }

    /// The difference made by replacing one 16-bit field (memory order).
    #[inline]
    #[must_use]
    pub fn replacing_word(self, old: u16, new: u16) -> Self {
        Difference(fold(u64::from(self.0) + u64::from(!old) + u64::from(new)))
    }

    /// The difference made by replacing one 32-bit field (memory order).
    #[inline]
    #[must_use]
    pub fn replacing_word32(self, old: u32, new: u32) -> Self {
        Difference(fold(u64::from(self.0) + u64::from(!old) + u64::from(new)))
    }

    /// The difference made by putting the old words back: the one's complement negation.
    #[inline]
    #[must_use]
    pub fn reversed(self) -> Self {
        Difference(!self.0)
    }

    /// Both differences, one after the other.
    #[inline]
    #[must_use]
    pub fn plus(self, other: Difference) -> Self {
        Difference(fold(u64::from(self.0) + u64::from(other.0)))
    }

    /// The 16 bits to store, in memory order.
    #[inline]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The difference that [`Difference::bits`] stored.
    #[inline]
    pub const fn from_bits(bits: u16) -> Self {
        Difference(bits)
    }

    /// Updates a checksum field (memory order). RFC 1624 equation 3: `HC' = ~(~HC + ~m + m')`.
    ///
    /// For UDP a result of 0 must be sent as 0xffff (RFC 768) and a field of 0 must not be updated at all; see [`Difference::apply_udp`].
    #[inline]
    pub fn apply(self, checksum: u16) -> u16 {
        let s = u32::from(!checksum) + u32::from(self.0);
        !((s + (s >> 16)) as u16)
    }

    /// [`Difference::apply`] for an IPv4 header whose TTL is decremented as well.
    #[inline(always)]
    pub fn apply_with_ttl(self, checksum: u16) -> u16 {
        let s = u32::from(!checksum) + u32::from(self.0) + u32::from(ttl_decrement().0);
        !fold(u64::from(s))
    }

    /// As [`Difference::apply`], for UDP, where 0 in the field means that there is no checksum (RFC 768).
    #[inline]
    pub fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 {
            return 0;
        }
        match self.apply(checksum) {
            0 => 0xffff,
            c => c,
        }
    }
}

/// Decrements a TTL in the 16-bit word (memory order) that it shares with the protocol, as a difference for the header checksum.
#[inline(always)]
pub fn ttl_decrement() -> Difference {
    // The TTL is the first (high) byte of the word: subtracting 0x0100 in network order.
    Difference(!0x0100u16.to_be())
}

/// The pseudo-header sum of TCP and UDP over IPv4 (RFC 9293 §3.1) or IPv6 (RFC 8200 §8.1).
///
/// `addresses` are source and destination as they stand in the header (8 or 32 bytes), `length` is that of
/// transport header and payload.
#[inline]
pub fn pseudo_header(addresses: &[u8], protocol: u8, length: u32) -> Sum {
    Sum::ZERO.bytes(addresses).word32(length.to_be()).number(u16::from(protocol))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The checksum as RFC 1071 §4.1 writes it, in network order.
    fn reference(data: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in data.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        }
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn rfc1624_section_4_example() {
        // "HC = 0xDD2F, m = 0x5555, m' = 0x3285": equation 3 gives 0x0000, where equation 2 (RFC 1141) failed.
        let d = Difference::NONE.replacing_word(0x5555u16.to_be(), 0x3285u16.to_be());
        assert_eq!(u16::from_be(d.apply(0xdd2fu16.to_be())), 0x0000);
    }

    proptest! {
        #[test]
        fn sum_is_the_rfc1071_sum(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(u16::from_be(Sum::ZERO.bytes(&data).checksum()), reference(&data));
        }

        #[test]
        fn long_sums_are_the_rfc1071_sum(mut data in proptest::collection::vec(any::<u8>(), 0..20_000), full: bool) {
            if full {
                data.fill(0xff);
            }
            prop_assert_eq!(u16::from_be(Sum::ZERO.word(7).bytes(&data).fold()), {
                let mut with = 7u16.to_ne_bytes().to_vec();
                with.extend(&data);
                !reference(&with)
            });
        }

        #[test]
        fn incremental_equals_recomputed(
            mut data in proptest::collection::vec(any::<u8>(), 20..60),
            new in proptest::array::uniform8(any::<u8>()),
        ) {
            data[0] |= 1; // no header sums to zero
            let before = Sum::ZERO.bytes(&data).checksum();
            let old: [u8; 8] = data[12..20].try_into().unwrap();
            data[12..20].copy_from_slice(&new);
            let d = Difference::NONE.replacing(&old, &new);
            let after = Sum::ZERO.bytes(&data).checksum();
            prop_assert_eq!(d.apply(before), after);
            prop_assert_eq!(d.reversed().apply(after), before);
        }

        #[test]
        fn ttl(ttl in 1u8.., proto: u8, rest in proptest::array::uniform8(any::<u8>())) {
            let mut data = vec![ttl, proto];
            data.extend(rest);
            let before = Sum::ZERO.bytes(&data).checksum();
            data[0] -= 1;
            let after = Sum::ZERO.bytes(&data).checksum();
            let got = ttl_decrement().apply(before);
            prop_assert_eq!(Difference::NONE.apply_with_ttl(before), got);
            // 0 and 0xffff are the same number; only an all-zero header could tell them apart.
            prop_assert!(got == after || (got ^ after) == 0xffff && (got == 0 || after == 0));
        }

        #[test]
        fn udp_never_becomes_none(c in 1u16.., old: u16, new: u16) {
            let got = Difference::NONE.replacing_word(old, new).apply_udp(c);
            prop_assert_ne!(got, 0);
            prop_assert_eq!(Difference::NONE.replacing_word(old, new).apply_udp(0), 0);
        }
    }
}
