//! Bodies that can be made and checked at any offset without keeping them: a pattern that depends on the path.

use crate::network::random::mix;

/// The sixty-four bits of a body's pattern, from the path that asks for it (FNV-1a).
pub fn salt(path: &str) -> u64 {
    hash(path.as_bytes())
}

/// FNV-1a over bytes; what a server reports of a request head, so that a client knows that it came through unchanged.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The size that a path asks for: the digits that its last segment begins with (`/lcs1/4096`, `/images/512.gif`, `/9?x=1`), in bytes.
pub fn size(path: &str) -> Option<u64> {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let last = path.rsplit('/').next().unwrap_or_default();
    let digits = last.len() - last.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    last[..digits].parse().ok()
}

/// Writes the body from `offset` on.
pub fn fill(salt: u64, offset: u64, out: &mut [u8]) {
    let mut at = offset;
    let mut rest = out;
    while !rest.is_empty() {
        let word = word(salt, at);
        let skip = (at % 8) as usize;
        let n = rest.len().min(8 - skip);
        let (now, later) = rest.split_at_mut(n);
        now.copy_from_slice(&word[skip..skip + n]);
        rest = later;
        at += n as u64;
    }
}

/// Compares a piece of a body at `offset`; the offset of the first wrong byte where there is one.
pub fn check(salt: u64, offset: u64, data: &[u8]) -> Result<(), u64> {
    let mut at = offset;
    let mut rest = data;
    while !rest.is_empty() {
        let word = word(salt, at);
        let skip = (at % 8) as usize;
        let n = rest.len().min(8 - skip);
        if rest[..n] != word[skip..skip + n] {
            let wrong = (0..n).find(|&i| rest[i] != word[skip + i]).unwrap_or(0);
            return Err(at + wrong as u64);
        }
        rest = &rest[n..];
        at += n as u64;
    }
    Ok(())
}

#[inline]
fn word(salt: u64, at: u64) -> [u8; 8] {
    mix(salt ^ (at / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_piece_is_a_piece_of_the_whole_and_one_wrong_byte_is_found() {
        let s = salt("/lcs1/100");
        let mut whole = [0; 100];
        fill(s, 0, &mut whole);
        for (from, to) in [(0, 100), (3, 4), (7, 33), (8, 16), (99, 100), (5, 5)] {
            let mut piece = vec![0; to - from];
            fill(s, from as u64, &mut piece);
            assert_eq!(piece, whole[from..to]);
            assert_eq!(check(s, from as u64, &piece), Ok(()));
        }
        whole[61] ^= 1;
        assert_eq!(check(s, 0, &whole), Err(61));
        assert_eq!(check(s, 57, &whole[57..]), Err(61));
        assert_ne!(check(salt("/lcs2/100"), 0, &whole[..8]), Ok(()));
    }

    #[test]
    fn the_path_says_how_much() {
        for (path, want) in [
            ("/lcs1/4096", Some(4096)),
            ("/images/512.gif?x=7/9", Some(512)),
            ("/0", Some(0)),
            ("/index.html", None),
            ("/", None),
            ("/99999999999999999999999", None),
        ] {
            assert_eq!(size(path), want, "{path}");
        }
    }
}
