//! TCP options (RFC 9293 §3.1, RFC 7323, RFC 2018): what a SYN offers, and where a segment's SACK edges stand.

use super::be32;

/// Option kinds (IANA).
pub mod kind {
    /// End of the list.
    pub const END: u8 = 0;
    /// No operation: padding.
    pub const NOP: u8 = 1;
    /// Maximum segment size, in SYNs only.
    pub const MSS: u8 = 2;
    /// Window scale, in SYNs only.
    pub const SCALE: u8 = 3;
    /// Selective acknowledgements permitted, in SYNs only.
    pub const SACK_PERMITTED: u8 = 4;
    /// Selective acknowledgement.
    pub const SACK: u8 = 5;
    /// Timestamps.
    pub const TIMESTAMPS: u8 = 8;
}

/// Largest window scale (RFC 7323 §2.3).
pub const MAX_SCALE: u8 = 14;
/// MSS of a peer that does not say (RFC 9293 §3.7.1), IPv4.
pub const DEFAULT_MSS_V4: u16 = 536;
/// The same for IPv6.
pub const DEFAULT_MSS_V6: u16 = 1220;

/// What the options of a SYN offer. Options that are not named here are not understood, so never echoed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SynOptions {
    /// Maximum segment size, bytes.
    pub mss: Option<u16>,
    /// Window scale, at most [`MAX_SCALE`].
    pub scale: Option<u8>,
    /// Whether selective acknowledgements are understood.
    pub sack: bool,
    /// Whether timestamps are offered.
    pub timestamps: bool,
}

/// Calls `each` with kind and offset of every well-formed option; stops at the first that is not.
pub fn for_each(options: &[u8], mut each: impl FnMut(u8, usize, &[u8])) {
    let mut at = 0;
    while let Some(&k) = options.get(at) {
        match k {
            kind::END => return,
            kind::NOP => at += 1,
            _ => {
                let Some(&length) = options.get(at + 1) else { return };
                let length = usize::from(length);
                let Some(body) = options.get(at + 2..at + length) else { return };
                each(k, at, body);
                at += length;
            }
        }
    }
}

/// Whether there is nothing among the options but SACK blocks and padding, all well-formed.
pub fn only_sack(options: &[u8]) -> bool {
    let mut at = 0;
    while let Some(&k) = options.get(at) {
        match k {
            kind::END => return true,
            kind::NOP => at += 1,
            kind::SACK => match options.get(at + 1).map(|length| usize::from(*length)) {
                Some(length) if length >= 10 && length % 8 == 2 && at + length <= options.len() => at += length,
                _ => return false,
            },
            _ => return false,
        }
    }
    true
}

impl SynOptions {
    /// Reads a SYN's options. A malformed one ends the reading; what came before it counts.
    pub fn read(options: &[u8]) -> Self {
        let mut o = SynOptions::default();
        for_each(options, |k, _, body| match (k, body) {
            (kind::MSS, &[a, b]) => o.mss = Some(u16::from_be_bytes([a, b])),
            (kind::SCALE, &[s]) => o.scale = Some(s.min(MAX_SCALE)),
            (kind::SACK_PERMITTED, &[]) => o.sack = true,
            (kind::TIMESTAMPS, b) if b.len() == 8 => o.timestamps = true,
            _ => {}
        });
        o
    }

    /// Writes the options, padded to a multiple of four bytes; returns how many there are. Timestamps are not written.
    pub fn write(&self, out: &mut [u8; 40]) -> usize {
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        if let Some(mss) = self.mss {
            let [a, b] = mss.to_be_bytes();
            put(&[kind::MSS, 4, a, b]);
        }
        if self.sack {
            put(&[kind::NOP, kind::NOP, kind::SACK_PERMITTED, 2]);
        }
        if let Some(scale) = self.scale {
            put(&[kind::NOP, kind::SCALE, 3, scale]);
        }
        at
    }
}

/// Rewrites every SACK edge by `change` (RFC 2018 §3), or blanks the blocks with NOPs where `change` is `None`.
/// Returns whether anything was there.
pub fn rewrite_sack(options: &mut [u8], change: Option<impl Fn(u32) -> u32>) -> bool {
    let mut found: Option<(usize, usize)> = None;
    for_each(options, |k, at, body| {
        if k == kind::SACK && found.is_none() {
            found = Some((at, body.len()));
        }
    });
    let Some((at, length)) = found else { return false };
    match change {
        None => options[at..at + 2 + length].fill(kind::NOP),
        Some(change) => {
            for edge in (at + 2..at + 2 + length / 4 * 4).step_by(4) {
                let new = change(be32(options, edge));
                options[edge..edge + 4].copy_from_slice(&new.to_be_bytes());
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn other_options_than_sack_are_seen() {
        let sack = [&[1, 1, 5, 10][..], &[0; 8]].concat();
        for (options, only) in [
            (&[][..], true),
            (&[1, 1, 1, 0], true),
            (&sack, true),
            (&sack[2..], true),
            (&sack[..11], false),
            (&[5, 2], false),
            (&[5], false),
            (&[1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0], false),
            (&[19, 18, 0, 0], false),
        ] {
            assert_eq!(only_sack(options), only, "{options:?}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for mss in [None, Some(536), Some(1460)] {
            for scale in [None, Some(0), Some(14)] {
                for sack in [false, true] {
                    let o = SynOptions { mss, scale, sack, timestamps: false };
                    let mut b = [0; 40];
                    let n = o.write(&mut b);
                    assert_eq!(n % 4, 0);
                    assert_eq!(SynOptions::read(&b[..n]), o);
                }
            }
        }
    }

    #[test]
    fn a_scale_beyond_14_counts_as_14() {
        assert_eq!(SynOptions::read(&[3, 3, 15, 0]).scale, Some(14)); // RFC 7323 §2.3
    }

    #[test]
    fn sack_edges_are_moved_or_blanked() {
        let mut o = [1, 1, 5, 10, 0, 0, 0, 9, 0xff, 0xff, 0xff, 0xff];
        assert!(rewrite_sack(&mut o, Some(|e: u32| e.wrapping_add(2))));
        assert_eq!(o, [1, 1, 5, 10, 0, 0, 0, 11, 0, 0, 0, 1]);
        assert!(rewrite_sack(&mut o, None::<fn(u32) -> u32>));
        assert_eq!(o, [1; 12]);
        assert!(!rewrite_sack(&mut o, None::<fn(u32) -> u32>));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut b in proptest::collection::vec(any::<u8>(), 0..=40)) {
            let n = b.len();
            SynOptions::read(&b);
            rewrite_sack(&mut b, Some(|e: u32| !e));
            rewrite_sack(&mut b, None::<fn(u32) -> u32>);
            prop_assert_eq!(b.len(), n);
        }
    }
}
