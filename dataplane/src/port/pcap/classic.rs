//! Classic pcap: one header of 24 bytes, then records of 16 bytes and a frame each.

use super::read::{Captured, ETHERNET, Input, LONGEST, Problem, ReadError, without_fcs};

/// What the file's header says.
#[derive(Debug, Clone)]
pub(super) struct Classic {
    big_endian: bool,
    /// Nanoseconds in a unit of the fraction of a second.
    unit: u64,
    /// Bytes of FCS at the end of each frame.
    fcs: u32,
}

impl Classic {
    pub const HEADER: usize = 24;
    const RECORD: usize = 16;

    /// `None` when `magic`, the first four bytes as a big-endian number, is of another format.
    pub fn new(bytes: &[u8], magic: u32) -> Result<Option<Self>, ReadError> {
        let (big_endian, unit) = match magic {
            0xa1b2_c3d4 => (true, 1000),
            0xd4c3_b2a1 => (false, 1000),
            0xa1b2_3c4d => (true, 1),
            0x4d3c_b2a1 => (false, 1),
            _ => return Ok(None),
        };
        let input = Input { bytes, offset: 0, big_endian };
        input.get("the file's header", 0, Self::HEADER)?;
        let version = input.u16("the version", 4)?;
        if version != 2 {
            return Err(input.error(4, Problem::Version { format: "pcap", version }));
        }
        let network = input.u32("the link type", 20)?;
        let link_type = network as u16;
        if link_type != ETHERNET {
            return Err(input.error(20, Problem::LinkType(link_type)));
        }
        // Bit 26 says that the four bits above hold the FCS's length in 16-bit words.
        let fcs = if network & 1 << 26 == 0 { 0 } else { (network >> 28) * 2 };
        Ok(Some(Classic { big_endian, unit, fcs }))
    }

    /// The record at `at`, which is moved behind it.
    pub fn next<'a>(&mut self, bytes: &'a [u8], at: &mut usize) -> Result<Option<Captured<'a>>, ReadError> {
        let offset = *at;
        let input = Input { bytes: bytes.get(offset..).unwrap_or_default(), offset, big_endian: self.big_endian };
        if input.bytes.is_empty() {
            return Ok(None);
        }
        input.get("a record's header", 0, Self::RECORD)?;
        let seconds = u64::from(input.u32("the time", 0)?);
        let fraction = u64::from(input.u32("the time", 4)?);
        let captured = input.u32("the captured length", 8)?;
        let length = input.u32("the length", 12)?;
        if captured > LONGEST {
            return Err(input.error(8, Problem::FrameLength(captured)));
        }
        let frame = input.get("a frame", Self::RECORD, captured as usize)?;
        *at = offset + Self::RECORD + frame.len();
        let (frame, length) = without_fcs(frame, length, self.fcs);
        Ok(Some(Captured {
            at: seconds * 1_000_000_000 + fraction * self.unit,
            interface: 0,
            name: None,
            bytes: frame,
            length,
            offset: offset as u64,
        }))
    }
}
