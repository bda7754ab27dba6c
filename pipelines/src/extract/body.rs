//! Where an HTTP/1.x body ends, from its head's framing fields or from its chunks, byte by byte if need be.

use super::error::ExtractError;
use super::line::is_named;

/// How a message's body ends (RFC 9112 section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// There is none.
    #[default]
    None,
    /// After so many bytes.
    Length(u64),
    /// With its last chunk and trailers.
    Chunked,
    /// With the connection. Responses only.
    UntilClose,
}

/// What a head's framing fields have said so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FramingFields {
    length: Option<u64>,
    chunked: bool,
}

impl FramingFields {
    /// Takes note of a field, if it is one of these.
    #[inline]
    pub(super) fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), ExtractError> {
        // Nearly all names are of other lengths.
        if matches!(name.len(), 14 | 17) { self.take(name, value) } else { Ok(()) }
    }

    #[inline(never)]
    fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(), ExtractError> {
        match name.len() {
            14 if is_named(name, b"content-length") => {
                if self.length.is_some() {
                    return Err(ExtractError::Length);
                }
                self.length = Some(length(value)?);
            }
            17 if is_named(name, b"transfer-encoding") => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(ExtractError::Encoding);
                }
                self.chunked = true;
            }
            14 if name.eq_ignore_ascii_case(b"content_length") => return Err(ExtractError::FramingName),
            17 if name.eq_ignore_ascii_case(b"transfer_encoding") => return Err(ExtractError::FramingName),
            _ => {}
        }
        Ok(())
    }

    fn declared(self, minor: u8) -> Result<Option<Framing>, ExtractError> {
        match (self.length, self.chunked) {
            (Some(_), true) => Err(ExtractError::LengthAndEncoding),
            // RFC 9112 section 6.1: treat the framing as faulty.
            (None, true) if minor == 0 => Err(ExtractError::Encoding),
            (None, true) => Ok(Some(Framing::Chunked)),
            (Some(length), false) => Ok(Some(Framing::Length(length))),
            (None, false) => Ok(None),
        }
    }

    /// The framing of a request.
    pub(super) fn request(self, minor: u8) -> Result<Framing, ExtractError> {
        Ok(match self.declared(minor)? {
            None | Some(Framing::Length(0)) => Framing::None,
            Some(framing) => framing,
        })
    }

    /// The framing of a response that may have a body.
    pub(super) fn response(self, minor: u8) -> Result<Framing, ExtractError> {
        Ok(self.declared(minor)?.unwrap_or(Framing::UntilClose))
    }
}

/// One number: RFC 9110 section 8.6 without leading zeros, which some readers take for octal.
fn length(value: &[u8]) -> Result<u64, ExtractError> {
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return Err(ExtractError::Length);
    }
    if value[0] == b'0' && value.len() > 1 {
        return Err(ExtractError::Length);
    }
    Ok(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// Bytes of chunk extensions in one chunk.
pub const MAX_CHUNK_EXTENSION: u16 = 256;
/// Bytes of the trailer section.
pub const MAX_TRAILERS: u16 = 8 << 10;

/// Bytes that are passed over at once at most: far enough below 2³¹ that sequence numbers stay comparable.
pub const MAX_SKIP: u32 = 1 << 30;

/// Follows a body to its end through segments of any size, in a few bytes of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFollower {
    /// The end has been reached.
    Done,
    /// So many bytes are still to come.
    Length(u64),
    /// In the middle of chunks.
    Chunked(ChunkState),
    /// Ends with the connection.
    UntilClose,
}

/// Where in the chunks of RFC 9112 section 7.1 a body stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkState {
    /// In a chunk's size, so many digits read.
    Size {
        /// Value so far.
        size: u64,
        /// Digits so far.
        digits: u8,
    },
    /// In a chunk extension.
    Extension {
        /// The chunk's size.
        size: u64,
        /// Bytes of extension so far.
        seen: u16,
    },
    /// Before the LF that ends the size line.
    SizeLf(u64),
    /// In the data, so many bytes to come.
    Data(u64),
    /// Before the CR after the data.
    DataCr,
    /// Before the LF after the data.
    DataLf,
    /// In the trailer section: bytes so far, and whether the line is empty so far.
    Trailer {
        /// Bytes so far.
        seen: u16,
        /// Nothing on this line yet.
        empty: bool,
    },
    /// Before the LF of a trailer line.
    TrailerLf {
        /// Bytes so far.
        seen: u16,
        /// The line is empty, so this ends the body.
        last: bool,
    },
}

impl BodyFollower {
    /// At the first byte after the head.
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::None | Framing::Length(0) => Self::Done,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(ChunkState::Size { size: 0, digits: 0 }),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Whether the body is complete.
    pub fn is_done(&self) -> bool {
        *self == Self::Done
    }

    /// Passes over bytes whose content does not matter for where the body ends, as if they had been fed: the rest of a body of
    /// known length, or of a chunk. Says how many, at most 2³⁰ at once.
    pub fn skip(&mut self) -> u32 {
        let left = match self {
            Self::Length(left) | Self::Chunked(ChunkState::Data(left)) => left,
            _ => return 0,
        };
        let skipped = (*left).min(u64::from(MAX_SKIP));
        *left -= skipped;
        if *left == 0 {
            *self = match self {
                Self::Chunked(_) => Self::Chunked(ChunkState::DataCr),
                _ => Self::Done,
            };
        }
        skipped as u32
    }

    /// Takes the next bytes; says how many of them belong to the body. `data` is given its content, without chunking.
    pub fn feed(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> Result<usize, ExtractError> {
        match self {
            Self::Done => Ok(0),
            Self::UntilClose => {
                data(bytes);
                Ok(bytes.len())
            }
            Self::Length(left) => {
                let taken = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                data(&bytes[..taken]);
                *left -= taken as u64;
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(taken)
            }
            Self::Chunked(state) => {
                let mut at = 0;
                while at < bytes.len() {
                    if let ChunkState::Data(left) = state {
                        let taken = usize::try_from(*left).map_or(bytes.len() - at, |left| left.min(bytes.len() - at));
                        data(&bytes[at..at + taken]);
                        at += taken;
                        *left -= taken as u64;
                        if *left == 0 {
                            *state = ChunkState::DataCr;
                        }
                        continue;
                    }
                    match state.step(bytes[at])? {
                        Some(next) => *state = next,
                        None => {
                            *self = Self::Done;
                            return Ok(at + 1);
                        }
                    }
                    at += 1;
                }
                Ok(at)
            }
        }
    }
}

impl ChunkState {
    /// The state after a byte outside the data; `None` after the body's last.
    fn step(self, byte: u8) -> Result<Option<Self>, ExtractError> {
        let bad = Err(ExtractError::Chunk);
        Ok(Some(match (self, byte) {
            (Self::Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                // Fifteen digits cannot overflow.
                if digits == 15 {
                    return bad;
                }
                let digit = (byte as char).to_digit(16).map_or(0, u64::from);
                Self::Size { size: size << 4 | digit, digits: digits + 1 }
            }
            (Self::Size { digits: 0, .. }, _) => return bad,
            (Self::Size { size, .. }, b'\r') => Self::SizeLf(size),
            (Self::Size { size, .. }, b';') => Self::Extension { size, seen: 0 },
            (Self::Extension { size, .. }, b'\r') => Self::SizeLf(size),
            (Self::Extension { size, seen }, b'\t' | b' '..=0x7e | 0x80..) if seen < MAX_CHUNK_EXTENSION => {
                Self::Extension { size, seen: seen + 1 }
            }
            (Self::SizeLf(0), b'\n') => Self::Trailer { seen: 0, empty: true },
            (Self::SizeLf(size), b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Size { size: 0, digits: 0 },
            (Self::Trailer { seen, .. } | Self::TrailerLf { seen, .. }, _) if seen >= MAX_TRAILERS => {
                return Err(ExtractError::TrailersTooLarge);
            }
            (Self::Trailer { seen, empty }, b'\r') => Self::TrailerLf { seen: seen + 1, last: empty },
            // A trailer line may not begin with a blank: that would be a folded field.
            (Self::Trailer { empty: true, .. }, b' ' | b'\t' | b':') => return bad,
            (Self::Trailer { seen, .. }, b'\t' | b' '..=0x7e | 0x80..) => {
                Self::Trailer { seen: seen + 1, empty: false }
            }
            (Self::TrailerLf { last: true, .. }, b'\n') => return Ok(None),
            (Self::TrailerLf { seen, .. }, b'\n') => Self::Trailer { seen: seen + 1, empty: true },
            _ => return bad,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(framing: Framing, bytes: &[u8], piece: usize) -> Result<(usize, Vec<u8>, bool), ExtractError> {
        let mut follower = BodyFollower::new(framing);
        let (mut used, mut content) = (0, Vec::new());
        for part in bytes.chunks(piece) {
            let taken = follower.feed(part, |data| content.extend_from_slice(data))?;
            used += taken;
            if taken < part.len() {
                break;
            }
        }
        Ok((used, content, follower.is_done()))
    }

    #[test]
    fn chunks_in_pieces_of_any_size() {
        let body = b"4\r\nWiki\r\n6;a=\"b\"\r\npedia \r\nE\r\nin \r\n\r\nchunks.\r\n0\r\nX-T: 1\r\n\r\nGET /next";
        let end = body.len() - b"GET /next".len();
        for piece in 1..=body.len() {
            let result = follow(Framing::Chunked, body, piece).unwrap();
            assert_eq!(result, (end, b"Wikipedia in \r\n\r\nchunks.".to_vec(), true), "pieces of {piece}");
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for body in [
            &b"\r\n"[..],
            b"-1\r\n",
            b"0x4\r\nWiki",
            b" 4\r\nWiki",
            b"4 \r\nWiki",
            b"4\nWiki",
            b"4\r\rWiki",
            b"4\r\nWikiX",
            b"4\r\nWiki\n",
            b"4;a\nb\r\nWiki",
            b"1000000000000000\r\n",
            b"0\r\n\nX",
            b"0\r\n folded: 1\r\n\r\n",
            b"0\r\nA: b\n\r\n",
            b"g\r\n",
        ] {
            for piece in [1, body.len()] {
                assert_eq!(follow(Framing::Chunked, body, piece), Err(ExtractError::Chunk), "{body:?}");
            }
        }
        let trailers = [&b"0\r\n"[..], &b"A: b\r\n".repeat(2000)].concat();
        assert_eq!(follow(Framing::Chunked, &trailers, 7), Err(ExtractError::TrailersTooLarge));
        let extension = [&b"1;"[..], &[b'x'; 300]].concat();
        assert_eq!(follow(Framing::Chunked, &extension, 7), Err(ExtractError::Chunk));
    }

    #[test]
    fn a_length_is_one_plain_number() {
        for (value, result) in [
            (&b"0"[..], Ok(0)),
            (b"42", Ok(42)),
            (b"042", Err(ExtractError::Length)),
            (b"+42", Err(ExtractError::Length)),
            (b"-1", Err(ExtractError::Length)),
            (b"", Err(ExtractError::Length)),
            (b"4 2", Err(ExtractError::Length)),
            (b"42, 42", Err(ExtractError::Length)),
            (b"0x2a", Err(ExtractError::Length)),
            (b"9999999999999999999", Err(ExtractError::Length)),
        ] {
            assert_eq!(length(value), result, "{value:?}");
        }
    }
}
