//! Values inside header fields and query strings.

use memchr::memchr;

use super::error::Span;
use crate::matching::Class;

/// Whether a body of this media type is one that rules can look into.
pub(super) fn document_kind(media_type: &[u8]) -> Option<Class> {
    let end = memchr(b';', media_type).unwrap_or(media_type.len());
    let name = media_type[..end].trim_ascii();
    let slash = memchr(b'/', name)?;
    let subtype = &name[slash + 1..];
    let is = |kind: &[u8], suffix: &[u8]| {
        let ends = subtype.len() > suffix.len() && subtype[subtype.len() - suffix.len()..].eq_ignore_ascii_case(suffix);
        subtype.eq_ignore_ascii_case(kind) || ends
    };
    if is(b"xml", b"+xml") {
        Some(Class::Xml)
    } else if is(b"json", b"+json") {
        Some(Class::Json)
    } else {
        None
    }
}

/// RFC 6265 section 4.2.1, read as leniently as servers do.
pub(super) fn read_cookies(value: Span, buffer: &[u8], mut put: impl FnMut(&[u8], Span)) {
    let mut at = value.start as usize;
    for pair in value.of(buffer).split(|&b| b == b';') {
        let start = at + (pair.len() - pair.trim_ascii_start().len());
        at += pair.len() + 1;
        let pair = pair.trim_ascii();
        if let Some(equals) = memchr(b'=', pair) {
            put(&pair[..equals], Span::new(start + equals + 1, start + pair.len()));
        }
    }
}

pub(super) fn needs_decoding(text: &[u8]) -> bool {
    memchr::memchr2(b'%', b'+', text).is_some()
}

/// Appends text with `+` and `%XX` decoded; a `%` that begins no such pair stands for itself.
pub(super) fn decode_form(text: &[u8], out: &mut Vec<u8>) {
    let hex = |at: usize| text.get(at).and_then(|&b| (b as char).to_digit(16));
    let mut at = 0;
    while at < text.len() {
        match (text[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                at += 2;
            }
            (b'+', ..) => out.push(b' '),
            (byte, ..) => out.push(byte),
        }
        at += 1;
    }
}
