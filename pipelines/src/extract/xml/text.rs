//! Character data and the ends of things.

use memchr::memchr;

use crate::extract::error::ExtractError;

/// One past the needle, which ends in `>`, or from where to look once there is more.
pub(super) fn find(document: &[u8], from: usize, needle: &[u8]) -> Result<usize, usize> {
    let from = from.min(document.len());
    let mut at = from;
    while let Some(length) = memchr(b'>', &document[at..]) {
        at += length + 1;
        if document[from..at].ends_with(needle) {
            return Ok(at);
        }
    }
    Err(from.max((document.len() + 1).saturating_sub(needle.len())))
}

pub(super) fn trimmed(bytes: &[u8], from: usize, to: usize) -> (usize, usize) {
    let text = &bytes[from..to];
    let start = from + (text.len() - text.trim_ascii_start().len());
    (start, start + bytes[start..to].trim_ascii_end().len())
}

/// Appends text with its references decoded: the predefined entities, `&#10;`, `&#xA;`.
pub(super) fn decode(text: &[u8], out: &mut Vec<u8>) -> Result<(), ExtractError> {
    let mut rest = text;
    while let Some(ampersand) = memchr(b'&', rest) {
        out.extend_from_slice(&rest[..ampersand]);
        rest = &rest[ampersand + 1..];
        // The longest reference is `#x10FFFF`.
        let end = rest.iter().take(10).position(|&b| b == b';').ok_or(ExtractError::XmlEntity)?;
        let (name, after) = (&rest[..end], &rest[end + 1..]);
        let character = match name {
            b"amp" => '&',
            b"lt" => '<',
            b"gt" => '>',
            b"quot" => '"',
            b"apos" => '\'',
            [b'#', b'x', digits @ ..] => reference(digits, 16).ok_or(ExtractError::XmlEntity)?,
            [b'#', digits @ ..] => reference(digits, 10).ok_or(ExtractError::XmlEntity)?,
            _ => return Err(ExtractError::XmlEntity),
        };
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        rest = after;
    }
    out.extend_from_slice(rest);
    Ok(())
}

fn reference(digits: &[u8], radix: u32) -> Option<char> {
    if digits.is_empty() {
        return None;
    }
    let number = digits
        .iter()
        .try_fold(0_u32, |sum, &digit| sum.checked_mul(radix)?.checked_add((digit as char).to_digit(radix)?))?;
    char::from_u32(number).filter(|&c| c != '\0')
}
