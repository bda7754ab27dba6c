//! Reading captures: classic pcap and pcapng, from memory, without copying frames.
//!
//! Written here rather than taken from a crate: two small formats, of which only what carries Ethernet frames is needed, and
//! every complaint has to name its byte. Formats: draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng.
//! Whatever the bytes are, reading ends: each step goes forward by at least one record's header.

use super::classic::Classic;
use super::ng::Ng;

/// Bytes of a captured frame at most (libpcap's own limit).
pub(super) const LONGEST: u32 = 262_144;
/// Link type of Ethernet (`LINKTYPE_ETHERNET`).
pub(super) const ETHERNET: u16 = 1;

/// What is wrong with a capture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The first four bytes are of neither format.
    #[error("no pcap or pcapng file (it begins with {magic:08x}); is it compressed? uncompress it first")]
    NotACapture {
        /// The first four bytes, as a big-endian number.
        magic: u32,
    },
    /// A version that this reader does not know.
    #[error("{format} version {version} is not known; rewrite the file with a current editcap or tcpdump")]
    Version {
        /// `pcap` or `pcapng`.
        format: &'static str,
        /// Major version.
        version: u16,
    },
    /// The file ends too early.
    #[error("{what} needs {needs} bytes, and {has} are left; the file was cut short")]
    CutShort {
        /// The part of the file.
        what: &'static str,
        /// Bytes that it needs.
        needs: u64,
        /// Bytes that are left in the file, or in the block that it is in.
        has: u64,
    },
    /// Frames that are not Ethernet frames.
    #[error(
        "frames of link type {0}, not Ethernet (1); capture on an Ethernet interface (tcpdump -i eth0, not -i any)"
    )]
    LinkType(u16),
    /// A frame longer than any capture has.
    #[error("a frame of {0} captured bytes; no capture has more than 262144, so the file is damaged before this place")]
    FrameLength(u32),
    /// A pcapng block whose length can't be.
    #[error("a block of {0} bytes; it must be a multiple of 4 from 12 on, so the file is damaged before this place")]
    BlockLength(u32),
    /// A pcapng block that gives another length at its end.
    #[error("a block of {begin} bytes says at its end that it has {end}; the file is damaged here")]
    BlockEnd {
        /// Length at its beginning.
        begin: u32,
        /// Length at its end.
        end: u32,
    },
    /// A pcapng section whose byte order can't be told.
    #[error("byte-order magic {0:08x} of a section is neither 1a2b3c4d nor 4d3c2b1a; the file is damaged here")]
    ByteOrder(u32),
    /// A pcapng frame of an interface that was not described.
    #[error("a frame of interface {interface}, and {described} were described before it; the file is damaged here")]
    NoInterface {
        /// Its interface.
        interface: u32,
        /// Interfaces described so far.
        described: usize,
    },
}

/// A capture that can't be read, or not to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset}: {problem}")]
pub struct ReadError {
    /// Offset in the file of the part that is wrong.
    pub offset: u64,
    /// What is wrong.
    pub problem: Problem,
}

/// A captured frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Captured<'a> {
    /// Nanoseconds since 1970. A frame without a time (pcapng simple packet block) has that of the frame before it.
    pub at: u64,
    /// Interface, numbered in the order of description from 0 in each section; 0 in classic pcap.
    pub interface: u32,
    /// Name of the interface, where the capture tells it.
    pub name: Option<&'a str>,
    /// The frame, from the Ethernet destination address on, without FCS.
    pub bytes: &'a [u8],
    /// Its length on the wire, bytes; more than `bytes` holds when the capture kept only its beginning.
    pub length: u32,
    /// Offset of its record in the file.
    pub offset: u64,
}

impl Captured<'_> {
    /// Whether the capture kept only the frame's beginning.
    pub fn is_truncated(&self) -> bool {
        (self.bytes.len() as u64) < u64::from(self.length)
    }
}

/// Reads a capture frame by frame. After an error it is at its end.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    format: Format<'a>,
    at: usize,
    ended: bool,
}

#[derive(Debug, Clone)]
enum Format<'a> {
    Classic(Classic),
    Ng(Ng<'a>),
}

impl<'a> Reader<'a> {
    /// A reader of a whole file's bytes.
    ///
    /// # Errors
    /// When they are no capture, or one of a version or link type that can't be read.
    pub fn new(bytes: &'a [u8]) -> Result<Self, ReadError> {
        let input = Input { bytes, offset: 0, big_endian: true };
        let magic = input.u32("a capture's first bytes", 0)?;
        let (format, at) = match magic {
            Ng::SECTION => (Format::Ng(Ng::default()), 0),
            magic => match Classic::new(bytes, magic)? {
                Some(classic) => (Format::Classic(classic), Classic::HEADER),
                None => return Err(ReadError { offset: 0, problem: Problem::NotACapture { magic } }),
            },
        };
        Ok(Reader { bytes, format, at, ended: false })
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<Captured<'a>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = match &mut self.format {
            Format::Classic(classic) => classic.next(self.bytes, &mut self.at),
            Format::Ng(ng) => ng.next(self.bytes, &mut self.at),
        };
        self.ended = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

/// Reads a whole capture.
///
/// # Errors
/// As [`Reader`]'s, wherever in the file.
pub fn read(bytes: &[u8]) -> Result<Vec<Captured<'_>>, ReadError> {
    Reader::new(bytes)?.collect()
}

/// Bytes with their place in the file and their byte order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input<'a> {
    pub bytes: &'a [u8],
    pub offset: usize,
    pub big_endian: bool,
}

impl<'a> Input<'a> {
    pub fn error(&self, at: usize, problem: Problem) -> ReadError {
        ReadError { offset: self.offset.saturating_add(at) as u64, problem }
    }

    /// `length` bytes at `at`; `what` they are, for the complaint.
    pub fn get(&self, what: &'static str, at: usize, length: usize) -> Result<&'a [u8], ReadError> {
        let found = self.bytes.get(at..).and_then(|rest| rest.get(..length));
        found.ok_or_else(|| {
            let has = self.bytes.len().saturating_sub(at) as u64;
            self.error(at, Problem::CutShort { what, needs: length as u64, has })
        })
    }

    pub fn u16(&self, what: &'static str, at: usize) -> Result<u16, ReadError> {
        let b = self.get(what, at, 2)?;
        Ok(if self.big_endian { u16::from_be_bytes([b[0], b[1]]) } else { u16::from_le_bytes([b[0], b[1]]) })
    }

    pub fn u32(&self, what: &'static str, at: usize) -> Result<u32, ReadError> {
        let b = self.get(what, at, 4)?;
        let b = [b[0], b[1], b[2], b[3]];
        Ok(if self.big_endian { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) })
    }

    pub fn u64(&self, what: &'static str, at: usize) -> Result<u64, ReadError> {
        let (a, b) = (u64::from(self.u32(what, at)?), u64::from(self.u32(what, at.saturating_add(4))?));
        Ok(if self.big_endian { a << 32 | b } else { b << 32 | a })
    }
}

/// A frame of which `bytes` were captured and that was `length` long, without the `fcs` bytes at its end.
pub(super) fn without_fcs(bytes: &[u8], length: u32, fcs: u32) -> (&[u8], u32) {
    let length = length.max(bytes.len() as u32);
    let shorter = length.saturating_sub(fcs);
    (bytes.get(..shorter as usize).unwrap_or(bytes), shorter)
}
