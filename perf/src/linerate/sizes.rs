//! Sizes of frames: RFC 2544, section 9.1, and the simple Internet mix. All count the 4 bytes of the FCS.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Sizes that RFC 2544 asks for on Ethernet.
pub const RFC_2544: [usize; 7] = [64, 128, 256, 512, 1024, 1280, 1518];

/// The simple Internet mix: sizes, and frames of each among twelve.
pub const IMIX: [(usize, usize); 3] = [(64, 7), (594, 4), (1518, 1)];

/// Preamble, start of frame and the gap between two frames: what a frame takes of a wire beside its own bytes.
pub const WIRE_OVERHEAD: f64 = 20.0;

/// How large frames are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    /// All of so many bytes, FCS included.
    Bytes(usize),
    /// [`IMIX`].
    Imix,
}

impl Size {
    /// The different sizes, bytes with FCS, and the share of each in twelfths.
    pub fn parts(self) -> Vec<(usize, usize)> {
        match self {
            Size::Bytes(n) => vec![(n, 12)],
            Size::Imix => IMIX.to_vec(),
        }
    }

    /// Mean bytes of a frame, FCS included.
    pub fn mean(self) -> f64 {
        let parts = self.parts();
        let frames: usize = parts.iter().map(|p| p.1).sum();
        parts.iter().map(|(size, n)| size * n).sum::<usize>() as f64 / frames as f64
    }

    /// Which of the parts the frame of a random number is.
    pub fn pick(self, random: u64) -> usize {
        match self {
            Size::Bytes(_) => 0,
            Size::Imix => match (((random >> 8) & 0xffff) * 12) >> 16 {
                0..7 => 0,
                7..11 => 1,
                _ => 2,
            },
        }
    }

    /// Bits/s on the wire, preamble and gap included, of so many frames/s.
    pub fn wire_bits(self, frames: f64) -> f64 {
        frames * (self.mean() + WIRE_OVERHEAD) * 8.0
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Size::Bytes(n) => f.pad(&format!("{n} B")),
            Size::Imix => f.pad("IMIX"),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("imix") {
            return Ok(Size::Imix);
        }
        let size = text.parse().map_err(|_| "write a number of bytes with FCS, such as 64, or imix".to_owned());
        size.map(Size::Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_is_seven_to_four_to_one() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut seen = [0usize; 3];
        for _ in 0..120_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            seen[Size::Imix.pick(random)] += 1;
        }
        for (seen, (_, share)) in seen.iter().zip(IMIX) {
            let expected = share as f64 * 10_000.0;
            assert!((*seen as f64 - expected).abs() < 600.0, "{seen} of {expected}");
        }
        assert!((Size::Imix.mean() - 361.833).abs() < 0.001);
        // 64 B at 14.88 Mpps are 10 Gbit/s.
        assert!((Size::Bytes(64).wire_bits(14_880_952.0) - 1e10).abs() < 1e3);
        assert_eq!(("imix".parse(), "1518".parse()), (Ok(Size::Imix), Ok(Size::Bytes(1518))));
        assert!("64B".parse::<Size>().unwrap_err().contains("such as 64"));
    }
}
