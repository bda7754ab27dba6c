//! In which encoding an XML body is, and its way to UTF-8.

use super::error::ExtractError;

/// Encodings that are read. UTF-8 is read as it stands; the others are rewritten into a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Charset {
    Utf8,
    Latin1,
    Utf16Le,
    Utf16Be,
}

/// Bytes that an XML declaration may take.
const MAX_DECLARATION: usize = 256;

impl Charset {
    /// By its registered name.
    fn named(name: &[u8]) -> Result<Self, ExtractError> {
        let is = |names: &[&[u8]]| names.iter().any(|other| name.eq_ignore_ascii_case(other));
        if is(&[b"utf-8", b"utf8", b"us-ascii", b"ascii"]) {
            Ok(Self::Utf8)
        } else if is(&[b"iso-8859-1", b"iso_8859-1", b"latin1", b"l1"]) {
            Ok(Self::Latin1)
        } else if is(&[b"utf-16le"]) {
            Ok(Self::Utf16Le)
        } else if is(&[b"utf-16be"]) {
            Ok(Self::Utf16Be)
        } else {
            Err(ExtractError::XmlEncoding)
        }
    }

    /// What a `Content-Type` says. RFC 7303 section 3: it stands above the document's own declaration.
    pub(super) fn of_content_type(value: &[u8]) -> Result<Option<Self>, ExtractError> {
        for parameter in value.split(|&b| b == b';').skip(1) {
            let parameter = parameter.trim_ascii();
            if parameter.get(..8).is_some_and(|name| name.eq_ignore_ascii_case(b"charset=")) {
                let name = parameter[8..].trim_ascii();
                let name = name.strip_prefix(b"\"").and_then(|n| n.strip_suffix(b"\"")).unwrap_or(name);
                // `utf-16` leaves the order of bytes to the document.
                return if name.eq_ignore_ascii_case(b"utf-16") { Ok(None) } else { Self::named(name).map(Some) };
            }
        }
        Ok(None)
    }

    /// The document's encoding, and how many bytes of byte order mark it begins with; `None` if that takes more bytes.
    /// XML 1.0 appendix F.
    pub(super) fn detect(
        document: &[u8],
        end: bool,
        declared: Option<Self>,
    ) -> Result<Option<(Self, usize)>, ExtractError> {
        if document.len() < 4 && !end {
            return Ok(None);
        }
        match document {
            [0x00, 0x00, 0xfe, 0xff, ..] | [0xff, 0xfe, 0x00, 0x00, ..] | [0, 0, 0, b'<', ..] | [b'<', 0, 0, 0, ..] => {
                return Err(ExtractError::XmlEncoding);
            }
            [0xef, 0xbb, 0xbf, ..] => return Ok(Some((Self::Utf8, 3))),
            [0xfe, 0xff, ..] => return Ok(Some((Self::Utf16Be, 2))),
            [0xff, 0xfe, ..] => return Ok(Some((Self::Utf16Le, 2))),
            _ => {}
        }
        if let Some(declared) = declared {
            return Ok(Some((declared, 0)));
        }
        match document {
            [0, b'<', ..] => return Ok(Some((Self::Utf16Be, 0))),
            [b'<', 0, ..] => return Ok(Some((Self::Utf16Le, 0))),
            // EBCDIC
            [0x4c, 0x6f, 0xa7, 0x94, ..] => return Err(ExtractError::XmlEncoding),
            _ => {}
        }
        const OPENING: &[u8] = b"<?xml";
        if document.is_empty() || !document.starts_with(&OPENING[..OPENING.len().min(document.len())]) {
            return Ok(Some((Self::Utf8, 0)));
        }
        let head = &document[..document.len().min(MAX_DECLARATION)];
        let Some(close) = head.windows(2).position(|pair| pair == b"?>") else {
            return match document.len() >= MAX_DECLARATION || end {
                true => Err(ExtractError::XmlSyntax),
                false => Ok(None),
            };
        };
        const NAME: &[u8] = b"encoding";
        let Some(at) = head[..close].windows(NAME.len()).position(|name| name == NAME) else {
            return Ok(Some((Self::Utf8, 0)));
        };
        let rest = head[at + 8..close].trim_ascii_start();
        let rest = rest.strip_prefix(b"=").ok_or(ExtractError::XmlSyntax)?.trim_ascii_start();
        let (Some(&quote @ (b'"' | b'\'')), Some(name)) = (rest.first(), rest.get(1..)) else {
            return Err(ExtractError::XmlSyntax);
        };
        let length = memchr::memchr(quote, name).ok_or(ExtractError::XmlSyntax)?;
        match Self::named(&name[..length])? {
            // Sixteen bits a character, and yet we could read this.
            Self::Utf16Le | Self::Utf16Be => Err(ExtractError::XmlEncoding),
            charset => Ok(Some((charset, 0))),
        }
    }
}

/// Rewrites text as UTF-8 while it arrives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transcoder {
    charset: Charset,
    /// The first byte of a unit, and the first unit of a surrogate pair.
    byte: Option<u8>,
    high: Option<u16>,
}

impl Transcoder {
    pub(super) fn new(charset: Charset) -> Self {
        Self { charset, byte: None, high: None }
    }

    pub(super) fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), ExtractError> {
        let mut put = |c: char| out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        for &byte in bytes {
            let unit = match (self.charset, self.byte.take()) {
                (Charset::Utf8 | Charset::Latin1, _) => {
                    put(char::from(byte));
                    continue;
                }
                (_, None) => {
                    self.byte = Some(byte);
                    continue;
                }
                (Charset::Utf16Be, Some(first)) => u16::from_be_bytes([first, byte]),
                (Charset::Utf16Le, Some(first)) => u16::from_le_bytes([first, byte]),
            };
            match self.high.take() {
                Some(high) => {
                    let pair = char::decode_utf16([high, unit]).next();
                    put(pair.and_then(Result::ok).ok_or(ExtractError::XmlEncoding)?);
                }
                None if (0xd800..0xdc00).contains(&unit) => self.high = Some(unit),
                None => put(char::from_u32(unit.into()).ok_or(ExtractError::XmlEncoding)?),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_found() {
        let detect = |document: &[u8], declared| Charset::detect(document, false, declared);
        for (document, charset, mark) in [
            (&b"<a/>"[..], Charset::Utf8, 0),
            (b"\xef\xbb\xbf<a/>", Charset::Utf8, 3),
            (b"\xff\xfe<\0a\0", Charset::Utf16Le, 2),
            (b"\xfe\xff\0<\0a", Charset::Utf16Be, 2),
            (b"<\0a\0", Charset::Utf16Le, 0),
            (b"<?xml version='1.0' encoding = \"ISO-8859-1\"?><a/>", Charset::Latin1, 0),
            (b"<?xml version='1.0'?><a/>", Charset::Utf8, 0),
        ] {
            assert_eq!(detect(document, None), Ok(Some((charset, mark))), "{document:?}");
            for length in 0..document.len() {
                let early = detect(&document[..length], None).unwrap();
                assert!(early.is_none_or(|found| found == (charset, mark)), "{length} bytes of {document:?}");
            }
        }
        assert_eq!(detect(b"<?xml encoding='utf-8'?>", Some(Charset::Latin1)), Ok(Some((Charset::Latin1, 0))));
        assert_eq!(detect(b"<?xml encoding='Shift_JIS'?>", None), Err(ExtractError::XmlEncoding));
        assert_eq!(detect(b"\0\0\0<", None), Err(ExtractError::XmlEncoding));
        assert_eq!(detect(&[&b"<?xml "[..], &[b' '; 300]].concat(), None), Err(ExtractError::XmlSyntax));
        assert_eq!(Charset::of_content_type(b"text/xml; Charset=\"iso-8859-1\""), Ok(Some(Charset::Latin1)));
        assert_eq!(Charset::of_content_type(b"text/xml;charset=koi8-r"), Err(ExtractError::XmlEncoding));
    }

    #[test]
    fn text_is_rewritten_whatever_its_pieces() {
        let text = "a\u{e9}\u{20ac}\u{1f600}";
        for (charset, bytes) in [
            (Charset::Utf16Be, text.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>()),
            (Charset::Utf16Le, text.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ] {
            let (mut transcoder, mut out) = (Transcoder::new(charset), Vec::new());
            bytes.iter().for_each(|byte| transcoder.feed(&[*byte], &mut out).unwrap());
            assert_eq!(out, text.as_bytes());
        }
        let mut out = Vec::new();
        Transcoder::new(Charset::Latin1).feed(b"M\xfcller", &mut out).unwrap();
        assert_eq!(out, "M\u{fc}ller".as_bytes());
        assert!(Transcoder::new(Charset::Utf16Be).feed(&[0xdc, 0], &mut out).is_err());
    }
}
