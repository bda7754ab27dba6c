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
    /// Value and echo of the timestamps option.
    pub timestamps: Option<(u32, u32)>,
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

/// Bytes of the timestamps option, with the padding before it.
pub const STAMPED: usize = 12;
/// How the timestamps option begins where nothing else stands before it (RFC 7323 appendix A).
pub const STAMPED_HEAD: [u8; 4] = [kind::NOP, kind::NOP, kind::TIMESTAMPS, 10];

/// The timestamps option with its padding.
pub fn timestamps(value: u32, echo: u32) -> [u8; STAMPED] {
    let mut option = [0; STAMPED];
    option[..4].copy_from_slice(&STAMPED_HEAD);
    option[4..8].copy_from_slice(&value.to_be_bytes());
    option[8..].copy_from_slice(&echo.to_be_bytes());
    option
}

/// Where value and echo of a segment's timestamps option stand: eight bytes from this offset on. The first one counts.
pub fn find_timestamps(options: &[u8]) -> Option<usize> {
    if options.first_chunk() == Some(&STAMPED_HEAD) && options.len() >= STAMPED {
        return Some(4);
    }
    let mut found = None;
    for_each(options, |k, at, body| {
        if k == kind::TIMESTAMPS && body.len() == 8 && found.is_none() {
            found = Some(at + 2);
        }
    });
    found
}

/// Whether there is more than one timestamps option: receivers differ in which of them counts.
pub fn repeats_timestamps(options: &[u8]) -> bool {
    let mut found = 0;
    for_each(options, |k, _, body| found += u32::from(k == kind::TIMESTAMPS && body.len() == 8));
    found > 1
}

/// Value and echo of a segment's timestamps option.
pub fn read_timestamps(options: &[u8]) -> Option<(u32, u32)> {
    find_timestamps(options).map(|at| (be32(options, at), be32(options, at + 4)))
}

/// Whether there is nothing among the options but SACK blocks and padding, all well-formed; `stamped`: and one timestamps option.
pub fn only_known(options: &[u8], stamped: bool) -> bool {
    let (mut at, mut stamps) = (0, 0);
    while let Some(&k) = options.get(at) {
        match k {
            kind::END => break,
            kind::NOP => at += 1,
            kind::TIMESTAMPS if stamped && options.get(at + 1) == Some(&10) && at + 10 <= options.len() => {
                stamps += 1;
                at += 10;
            }
            kind::SACK => match options.get(at + 1).map(|length| usize::from(*length)) {
                Some(length) if length >= 10 && length % 8 == 2 && at + length <= options.len() => at += length,
                _ => return false,
            },
            _ => return false,
        }
    }
    stamps == u32::from(stamped)
}

impl SynOptions {
    /// Reads a SYN's options. A malformed one ends the reading; what came before it counts.
    pub fn read(options: &[u8]) -> Self {
        let mut o = SynOptions::default();
        let mut rest = options;
        loop {
            // By kind and length at once.
            rest = match *rest {
                [kind::NOP, ref rest @ ..] => rest,
                [kind::MSS, 4, a, b, ref rest @ ..] => {
                    o.mss = Some(u16::from_be_bytes([a, b]));
                    rest
                }
                [kind::SCALE, 3, s, ref rest @ ..] => {
                    o.scale = Some(s.min(MAX_SCALE));
                    rest
                }
                [kind::SACK_PERMITTED, 2, ref rest @ ..] => {
                    o.sack = true;
                    rest
                }
                [kind::TIMESTAMPS, 10, a, b, c, d, e, f, g, h, ref rest @ ..] => {
                    o.timestamps = Some((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])));
                    rest
                }
                [kind::END, ..] | [] | [_] | [_, 0 | 1, ..] => return o,
                [_, length, ..] => match rest.get(usize::from(length)..) {
                    Some(rest) => rest,
                    None => return o,
                },
            };
        }
    }

    /// Writes the options, padded to a multiple of four bytes; returns how many there are.
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
        if let Some((value, echo)) = self.timestamps {
            put(&timestamps(value, echo));
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
        let both = [&timestamps(1, 2)[..], &sack].concat();
        for (options, stamped) in [
            (&both[..], true),
            (&both[..12], true),
            (&both[2..], true),
            (&sack, false),
            (&[], false),
            (&both[..11], false),
        ] {
            assert_eq!(only_known(options, true), stamped, "{options:?}");
            assert!(!stamped || !only_known(options, false));
        }
        assert!(!only_known(&[timestamps(1, 2), timestamps(1, 2)].concat(), true), "which of them would count?");
        assert!(repeats_timestamps(&[timestamps(1, 2), timestamps(1, 2)].concat()));
        assert!(!repeats_timestamps(&both) && !repeats_timestamps(&sack), "one, none");
        assert!(!repeats_timestamps(&[&timestamps(1, 2)[..], &[0], &timestamps(1, 2)].concat()), "behind the end");
        assert_eq!(read_timestamps(&[&[3, 3, 7][..], &timestamps(1, 2)].concat()), Some((1, 2)));
        assert_eq!(read_timestamps(&[&[19, 4, 0, 0, 0][..], &timestamps(1, 2)].concat()), None, "behind the end");
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
            assert_eq!(only_known(options, false), only, "{options:?}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for mss in [None, Some(536), Some(1460)] {
            for scale in [None, Some(0), Some(14)] {
                for sack in [false, true] {
                    for timestamps in [None, Some((7, 0)), Some((u32::MAX, 9))] {
                        let o = SynOptions { mss, scale, sack, timestamps };
                        let mut b = [0; 40];
                        let n = o.write(&mut b);
                        assert_eq!(n % 4, 0);
                        assert_eq!(SynOptions::read(&b[..n]), o);
                    }
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
        fn a_syn_is_read_option_by_option(options in proptest::collection::vec(prop_oneof![
            3 => Just(vec![kind::NOP]),
            1 => Just(vec![kind::END]),
            3 => any::<[u8; 2]>().prop_map(|[a, b]| vec![kind::MSS, 4, a, b]),
            3 => any::<u8>().prop_map(|s| vec![kind::SCALE, 3, s]),
            3 => Just(vec![kind::SACK_PERMITTED, 2]),
            3 => any::<[u8; 8]>().prop_map(|b| [&[kind::TIMESTAMPS, 10][..], &b].concat()),
            1 => proptest::collection::vec(0u8..12, 1..6),
        ], 0..8), cut in 0usize..40) {
            let mut options = options.concat();
            options.truncate(cut);
            let mut o = SynOptions::default();
            for_each(&options, |k, _, body| match (k, body) {
                (kind::MSS, &[a, b]) => o.mss = Some(u16::from_be_bytes([a, b])),
                (kind::SCALE, &[s]) => o.scale = Some(s.min(MAX_SCALE)),
                (kind::SACK_PERMITTED, &[]) => o.sack = true,
                (kind::TIMESTAMPS, b) if b.len() == 8 => o.timestamps = Some((be32(b, 0), be32(b, 4))),
                _ => {}
            });
            prop_assert_eq!(SynOptions::read(&options), o);
        }

        #[test]
        fn any_bytes_are_survived(mut b in proptest::collection::vec(any::<u8>(), 0..=40)) {
            let n = b.len();
            SynOptions::read(&b);
            prop_assert!(find_timestamps(&b).is_none_or(|at| at + 8 <= n));
            let _ = (only_known(&b, true), only_known(&b, false));
            rewrite_sack(&mut b, Some(|e: u32| !e));
            rewrite_sack(&mut b, None::<fn(u32) -> u32>);
            prop_assert_eq!(b.len(), n);
        }
    }
}
