//! pcapng: blocks, of which section headers, interface descriptions and the three kinds of packet blocks are read.

use super::read::{Captured, ETHERNET, Input, LONGEST, Problem, ReadError, without_fcs};

const INTERFACE: u32 = 1;
/// Obsolete, and still found.
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// Options of an interface description.
const NAME: u16 = 2;
const RESOLUTION: u16 = 9;
const FCS_LENGTH: u16 = 13;
const OFFSET: u16 = 14;

const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// A block's type and length, and its length again at the end.
const FRAME: usize = 12;

#[derive(Debug, Clone, Copy)]
struct Interface<'a> {
    link_type: u16,
    snaplen: u32,
    name: Option<&'a str>,
    /// Units of time in a second: ten to the power of this, or with the highest bit set two to the power of the rest.
    resolution: u8,
    /// Seconds to add to each time.
    offset: i64,
    fcs: u32,
}

/// The section that is being read.
#[derive(Debug, Clone, Default)]
pub(super) struct Ng<'a> {
    big_endian: bool,
    interfaces: Vec<Interface<'a>>,
    /// Time of the last frame.
    last: u64,
}

impl<'a> Ng<'a> {
    /// Type of a section header, the same in both byte orders.
    pub const SECTION: u32 = 0x0a0d_0d0a;

    /// The next packet from `at` on, which is moved behind it.
    pub fn next(&mut self, bytes: &'a [u8], at: &mut usize) -> Result<Option<Captured<'a>>, ReadError> {
        while *at < bytes.len() {
            let offset = *at;
            let rest = Input { bytes: &bytes[offset..], offset, big_endian: self.big_endian };
            let (kind, body, length) = self.block(rest)?;
            *at = offset + length;
            let packet = match kind {
                Self::SECTION => {
                    self.section(body)?;
                    None
                }
                INTERFACE => {
                    self.interface(body)?;
                    None
                }
                ENHANCED_PACKET => Some(self.timed(body, body.u32("an interface number", 0)?)?),
                PACKET => Some(self.timed(body, u32::from(body.u16("an interface number", 0)?))?),
                SIMPLE_PACKET => Some(self.simple(body)?),
                _ => None,
            };
            if let Some(mut packet) = packet {
                packet.offset = offset as u64;
                return Ok(Some(packet));
            }
        }
        Ok(None)
    }

    /// The block at the beginning of `rest`: its type, its body, its length.
    fn block(&self, mut rest: Input<'a>) -> Result<(u32, Input<'a>, usize), ReadError> {
        rest.get("a block's header", 0, FRAME)?;
        let mut kind = rest.u32("a block's type", 0)?;
        // A section header may change the byte order, and is the same in both.
        if kind == Self::SECTION {
            rest.big_endian = true;
            let magic = rest.u32("a section's byte-order magic", 8)?;
            rest.big_endian = match magic {
                BYTE_ORDER => true,
                m if m.swap_bytes() == BYTE_ORDER => false,
                m => return Err(rest.error(8, Problem::ByteOrder(m))),
            };
            kind = Self::SECTION;
        }
        let length = rest.u32("a block's length", 4)?;
        if length < FRAME as u32 || !length.is_multiple_of(4) {
            return Err(rest.error(4, Problem::BlockLength(length)));
        }
        let whole = rest.get("a block", 0, length as usize)?;
        let end = rest.u32("a block's length", whole.len() - 4)?;
        if end != length {
            return Err(rest.error(whole.len() - 4, Problem::BlockEnd { begin: length, end }));
        }
        let body = Input { bytes: &whole[8..whole.len() - 4], offset: rest.offset + 8, big_endian: rest.big_endian };
        Ok((kind, body, whole.len()))
    }

    fn section(&mut self, body: Input<'a>) -> Result<(), ReadError> {
        let version = body.u16("a section's version", 4)?;
        if version != 1 {
            return Err(body.error(4, Problem::Version { format: "pcapng", version }));
        }
        self.big_endian = body.big_endian;
        self.interfaces.clear();
        Ok(())
    }

    fn interface(&mut self, body: Input<'a>) -> Result<(), ReadError> {
        let link_type = body.u16("an interface's link type", 0)?;
        let snaplen = body.u32("an interface's snaplen", 4)?;
        let mut interface = Interface { link_type, snaplen, name: None, resolution: 6, offset: 0, fcs: 0 };
        let mut at = 8;
        while at < body.bytes.len() {
            let (code, length) = (body.u16("an option", at)?, usize::from(body.u16("an option", at + 2)?));
            if code == 0 {
                break;
            }
            let value = body.get("an option's value", at + 4, length)?;
            match (code, length) {
                (NAME, _) => interface.name = std::str::from_utf8(value).ok(),
                (RESOLUTION, 1) => interface.resolution = value[0],
                (FCS_LENGTH, 1) => interface.fcs = u32::from(value[0]),
                (OFFSET, 8) => interface.offset = body.u64("an interface's time offset", at + 4)? as i64,
                _ => {}
            }
            at += 4 + length.next_multiple_of(4);
        }
        self.interfaces.push(interface);
        Ok(())
    }

    fn described(&self, body: Input<'a>, interface: u32) -> Result<Interface<'a>, ReadError> {
        let found = usize::try_from(interface).ok().and_then(|i| self.interfaces.get(i)).copied();
        let described = self.interfaces.len();
        let found = found.ok_or_else(|| body.error(0, Problem::NoInterface { interface, described }))?;
        if found.link_type != ETHERNET {
            return Err(body.error(0, Problem::LinkType(found.link_type)));
        }
        Ok(found)
    }

    /// An enhanced packet, or an obsolete one, which has the same fields from the time on.
    fn timed(&mut self, body: Input<'a>, number: u32) -> Result<Captured<'a>, ReadError> {
        let interface = self.described(body, number)?;
        let high = u64::from(body.u32("a packet's time", 4)?);
        let low = u64::from(body.u32("a packet's time", 8)?);
        let captured = body.u32("a packet's captured length", 12)?;
        let length = body.u32("a packet's length", 16)?;
        if captured > LONGEST {
            return Err(body.error(12, Problem::FrameLength(captured)));
        }
        let frame = body.get("a packet's frame", 20, captured as usize)?;
        self.last = nanoseconds(high << 32 | low, interface.resolution, interface.offset);
        Ok(self.captured(number, interface, frame, length))
    }

    fn simple(&mut self, body: Input<'a>) -> Result<Captured<'a>, ReadError> {
        let interface = self.described(body, 0)?;
        let length = body.u32("a packet's length", 0)?;
        let captured = if interface.snaplen == 0 { length } else { length.min(interface.snaplen) };
        if captured > LONGEST {
            return Err(body.error(0, Problem::FrameLength(captured)));
        }
        let frame = body.get("a packet's frame", 4, captured as usize)?;
        Ok(self.captured(0, interface, frame, length))
    }

    fn captured(&self, number: u32, interface: Interface<'a>, frame: &'a [u8], length: u32) -> Captured<'a> {
        let (bytes, length) = without_fcs(frame, length, interface.fcs);
        Captured { at: self.last, interface: number, name: interface.name, bytes, length, offset: 0 }
    }
}

/// A time in nanoseconds since 1970, at the ends of what fits where it does not.
fn nanoseconds(units: u64, resolution: u8, offset: i64) -> u64 {
    let exponent = u32::from(resolution & 0x7f);
    let units = i128::from(units);
    let nanoseconds = if resolution & 0x80 != 0 {
        (units * 1_000_000_000) >> exponent
    } else if exponent <= 9 {
        units * 10i128.pow(9 - exponent)
    } else {
        10i128.checked_pow(exponent - 9).map_or(0, |unit| units / unit)
    };
    let total = nanoseconds + i128::from(offset) * 1_000_000_000;
    u64::try_from(total.max(0)).unwrap_or(u64::MAX)
}
