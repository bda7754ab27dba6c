//! Bodies that a client can check byte by byte without being told what they are: a function of the path.
//!
//! A path is `/anything/SIZE`; the same path has the same bytes at every server, and another path has others, so that a
//! segment that was lost, doubled, moved or taken from another connection shows.

use std::ops::Range;

/// Largest body that is served, bytes.
pub const LARGEST: usize = 128 << 20;

/// The size that a path asks for: its last part. `None` where that is no number, or above [`LARGEST`].
pub fn size_of(path: &str) -> Option<usize> {
    let (before, size) = path.rsplit_once('/')?;
    let plain = !before.is_empty() && !size.is_empty() && size.bytes().all(|b| b.is_ascii_digit());
    size.parse().ok().filter(|size| plain && *size <= LARGEST)
}

/// The body of one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body {
    seed: u64,
    size: usize,
}

impl Body {
    /// The body of `path`, if it has one.
    pub fn of(path: &str) -> Option<Self> {
        let size = size_of(path)?;
        // FNV-1a.
        let seed =
            path.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        Some(Body { seed, size })
    }

    /// Its size in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Writes the bytes from `offset` on into `out`.
    pub fn write(&self, offset: usize, out: &mut [u8]) {
        let mut at = offset;
        let mut rest = out;
        while !rest.is_empty() {
            let word = self.word(at / 8).to_le_bytes();
            let part: Range<usize> = at % 8..8.min(at % 8 + rest.len());
            let (now, later) = rest.split_at_mut(part.len());
            at += part.len();
            now.copy_from_slice(&word[part]);
            rest = later;
        }
    }

    /// The first place where `found`, which begins at `offset`, differs: place, found and expected byte.
    pub fn difference(&self, offset: usize, found: &[u8]) -> Option<(usize, u8, u8)> {
        let mut expected = [0; 4096];
        for (index, chunk) in found.chunks(expected.len()).enumerate() {
            let from = offset + index * expected.len();
            let expected = &mut expected[..chunk.len()];
            self.write(from, expected);
            if chunk != expected {
                let at = chunk.iter().zip(&*expected).position(|(f, e)| f != e)?;
                return Some((from + at, chunk[at], expected[at]));
            }
        }
        None
    }

    /// SplitMix64 of the word's number.
    fn word(&self, number: usize) -> u64 {
        let mut z = self.seed.wrapping_add((number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_the_same_in_any_pieces_and_differs_by_path() {
        let body = Body::of("/a/1000").unwrap();
        let mut whole = vec![0; 1000];
        body.write(0, &mut whole);
        for step in [1, 3, 7, 8, 9, 500] {
            let mut pieces = vec![0; 1000];
            for (index, piece) in pieces.chunks_mut(step).enumerate() {
                body.write(index * step, piece);
            }
            assert_eq!(pieces, whole, "in steps of {step}");
        }
        let mut other = vec![0; 1000];
        Body::of("/b/1000").unwrap().write(0, &mut other);
        assert!(whole.iter().zip(&other).filter(|(a, b)| a == b).count() < 50);
    }

    #[test]
    fn one_wrong_byte_and_a_shift_are_found() {
        let body = Body::of("/a/10000").unwrap();
        let mut bytes = vec![0; 9000];
        body.write(1000, &mut bytes);
        assert_eq!(body.difference(1000, &bytes), None);
        bytes[7777] ^= 0x10;
        assert_eq!(body.difference(1000, &bytes), Some((8777, bytes[7777], bytes[7777] ^ 0x10)));
        assert!(body.difference(1001, &bytes[..100]).is_some());
    }

    #[test]
    fn only_paths_with_a_size_have_a_body() {
        assert_eq!(size_of("/x/0"), Some(0));
        assert_eq!(size_of("/x/y/17"), Some(17));
        for none in ["", "/", "/17", "/x/", "/x/+1", "/x/-1", "/x/1e3", "/x/99999999999999999999", "17"] {
            assert_eq!(size_of(none), None, "{none}");
        }
    }
}
