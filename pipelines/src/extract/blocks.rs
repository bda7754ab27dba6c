//! Sixty-four bytes at a time: where in a block markup begins and where a tag may end.

use wide::u8x16;

/// Bytes in a block.
pub(super) const BLOCK: usize = 64;

/// One bit a byte, the first byte's lowest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Markup {
    /// `<`
    pub(super) open: u64,
    /// `>`, `<`, `"` or `'`
    pub(super) stop: u64,
}

/// Marks a block.
#[inline]
pub(super) fn markup(block: &[u8; BLOCK]) -> Markup {
    let (mut open, mut stop) = (0, 0);
    let splat = |byte: u8| u8x16::splat(byte);
    for (place, bytes) in block.as_chunks::<16>().0.iter().enumerate() {
        let bytes = u8x16::new(*bytes);
        let less = bytes.simd_eq(splat(b'<'));
        let other = bytes.simd_eq(splat(b'>')) | bytes.simd_eq(splat(b'"')) | bytes.simd_eq(splat(b'\''));
        open |= u64::from(less.to_bitmask()) << (16 * place);
        stop |= u64::from((less | other).to_bitmask()) << (16 * place);
    }
    Markup { open, stop }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn marks_are_where_the_bytes_are(bytes in prop::collection::vec(prop::sample::select(&b"<>\"'a\x80\xff/"[..]), BLOCK)) {
            let marks = markup(bytes[..].try_into().unwrap());
            for (place, byte) in bytes.iter().enumerate() {
                prop_assert_eq!(marks.open >> place & 1 == 1, *byte == b'<');
                prop_assert_eq!(marks.stop >> place & 1 == 1, b"<>\"'".contains(byte));
            }
        }
    }
}
