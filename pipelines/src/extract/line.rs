//! Lines of a message's head: where they end, what they are made of, and what may not stand in them.

use memchr::memchr;
use wide::u8x16;

use super::error::ExtractError;

/// Bytes looked at at a time, and of a long line.
const LANE: usize = 16;
const LANES: usize = 4 * LANE;

/// Length of the line that `bytes` begin with, its CR LF not counted, if it is all there and has no control character, not even a
/// tab: nearly every line. `None` says only that it must be looked at more closely.
pub(super) fn plain_line(bytes: &[u8]) -> Option<usize> {
    let (near, far) = bytes.split_at(bytes.len().min(LANES));
    let end = first_control(near).or_else(|| {
        let (blocks, _) = far.as_chunks::<LANES>();
        let clean = LANES * blocks.iter().take_while(|block| are_printable(block)).count();
        first_control(&far[clean..]).map(|at| LANES + clean + at)
    })?;
    (bytes[end..].first_chunk() == Some(b"\r\n")).then_some(end)
}

fn first_control(bytes: &[u8]) -> Option<usize> {
    let least = |lane: u8x16| lane.min(u8x16::splat(0x1f)).simd_eq(lane);
    first(bytes, |lane| (least(lane) | lane.simd_eq(u8x16::splat(0x7f))).to_bitmask(), |b| b.is_ascii_control())
}

/// Where a byte stands first. For what is short, mostly: `memchr` takes longer to begin.
pub(super) fn find(byte: u8, bytes: &[u8]) -> Option<usize> {
    first(bytes, |lane| lane.simd_eq(u8x16::splat(byte)).to_bitmask(), |b| b == byte)
}

/// Where the first byte stands that `is` is true of; `among` says the same of many, one bit each.
#[inline(always)]
fn first(bytes: &[u8], among: impl Fn(u8x16) -> u32, is: impl Fn(u8) -> bool) -> Option<usize> {
    let (lanes, rest) = bytes.as_chunks::<LANE>();
    for (n, lane) in lanes.iter().enumerate() {
        let hits = among(u8x16::new(*lane));
        if hits != 0 {
            return Some(n * LANE + hits.trailing_zeros() as usize);
        }
    }
    rest.iter().position(|&b| is(b)).map(|at| lanes.len() * LANE + at)
}

/// Whether all are printable characters of ASCII. Of other blocks, and what is behind them, each lane is looked at.
#[inline(always)]
fn are_printable(bytes: &[u8; LANES]) -> bool {
    let (lanes, _) = bytes.as_chunks::<LANE>();
    let mut most = u8x16::splat(0);
    for lane in lanes {
        // From the blank to the tilde; what is below the blank becomes larger than any of these.
        most = most.max(u8x16::new(*lane) - u8x16::splat(b' '));
    }
    most.max(u8x16::splat(b'~' - b' ')).simd_eq(u8x16::splat(b'~' - b' ')).all()
}

/// RFC 9110 section 5.6.2.
pub(super) fn is_token(byte: u8) -> bool {
    TOKEN[byte as usize]
}

static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8,
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z'
            | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
        byte += 1;
    }
    table
};

/// Name of a field line, and where in the line its value stands, blanks removed.
pub(super) fn split_field(line: &[u8]) -> Result<(&[u8], (usize, usize)), ExtractError> {
    let (name, (from, to)) = plain_field(line)?;
    if has_control(&line[from..to]) {
        let carriage_return = memchr(b'\r', &line[from..to]).is_some();
        return Err(if carriage_return { ExtractError::LineEnd } else { ExtractError::HeaderValue });
    }
    Ok((name, (from, to)))
}

/// [`split_field`] for a [`plain_line`], of which no value can be wrong. Not empty.
pub(super) fn plain_field(line: &[u8]) -> Result<(&[u8], (usize, usize)), ExtractError> {
    if matches!(line[0], b' ' | b'\t') {
        return Err(ExtractError::FoldedHeader);
    }
    let colon = match common_name(line) {
        Some(colon) => colon,
        None => line.iter().position(|&b| !is_token(b)).ok_or(ExtractError::HeaderName)?,
    };
    if colon == 0 || line[colon] != b':' {
        return Err(ExtractError::HeaderName);
    }
    let (mut from, mut to) = (colon + 1, line.len());
    while from < to && matches!(line[from], b' ' | b'\t') {
        from += 1;
    }
    while from < to && matches!(line[to - 1], b' ' | b'\t') {
        to -= 1;
    }
    Ok((&line[..colon], (from, to)))
}

/// Whether a field's name is this one, which is in lower case and made of letters and hyphens. The name is a token: of those, only a
/// capital becomes a letter, and none a hyphen, by the bit that is set here.
#[inline]
pub(super) fn is_named<const N: usize>(name: &[u8], lower: &[u8; N]) -> bool {
    <[u8; N]>::try_from(name).is_ok_and(|name| name.map(|b| b | 0x20) == *lower)
}

/// Length of a name that is followed by a colon, if both stand in the line's first sixteen bytes and the name is made
/// of letters, digits and hyphens. Nearly all are.
#[inline]
fn common_name(line: &[u8]) -> Option<usize> {
    let bytes = u8x16::new(*line.first_chunk()?);
    let usual = usual(bytes);
    let colon = bytes.simd_eq(u8x16::splat(b':')).to_bitmask().trailing_zeros();
    let first_unusual = (!usual.to_bitmask()).trailing_zeros();
    (colon == first_unusual && colon < 16).then_some(colon as usize)
}

/// Which bytes are letters, digits and hyphens.
#[inline(always)]
fn usual(bytes: u8x16) -> u8x16 {
    let within = |bytes: u8x16, first: u8, last: u8| {
        let offset = bytes - u8x16::splat(first);
        offset.min(u8x16::splat(last - first)).simd_eq(offset)
    };
    let letter = within(bytes | u8x16::splat(0x20), b'a', b'z');
    letter | within(bytes, b'0', b'9') | bytes.simd_eq(u8x16::splat(b'-'))
}

/// Whether the first `length` bytes of `bytes` are letters, digits, hyphens and dots, as those of nearly every host are. `false`
/// says only that they must be looked at more closely: sixteen bytes are looked at at a time, which may not be there.
pub(super) fn is_usual_host(bytes: &[u8], length: usize) -> bool {
    let mut at = 0;
    while at < length {
        let Some(lane) = bytes.get(at..).and_then(|bytes| bytes.first_chunk()) else { return false };
        let lane = u8x16::new(*lane);
        let usual = usual(lane) | lane.simd_eq(u8x16::splat(b'.'));
        if ((!usual.to_bitmask()).trailing_zeros() as usize) < LANE.min(length - at) {
            return false;
        }
        at += LANE;
    }
    true
}

/// Whether a field value has a control character other than a tab. Nearly none has, and nearly none has a tab: those are looked at again.
pub(super) fn has_control(value: &[u8]) -> bool {
    let control = |b: &u8| (*b < 0x20 && *b != b'\t') || *b == 0x7f;
    may_have_control(value) && value.iter().any(control)
}

/// Whether a value has any control character, tabs included. Sixteen bytes at a time.
#[inline]
fn may_have_control(value: &[u8]) -> bool {
    let (blocks, _) = value.as_chunks::<16>();
    let end = match value.last_chunk::<16>() {
        // Together with bytes that are in a block already.
        Some(end) => *end,
        None => {
            let mut end = [b' '; 16];
            end[..value.len()].copy_from_slice(value);
            end
        }
    };
    let end = u8x16::new(end);
    let delete = |bytes: u8x16| bytes.simd_eq(u8x16::splat(0x7f));
    let (mut least, mut deletes) = (end, delete(end));
    for block in blocks {
        let bytes = u8x16::new(*block);
        least = least.min(bytes);
        deletes |= delete(bytes);
    }
    (least.min(u8x16::splat(0x1f)).simd_eq(least) | deletes).to_bitmask() != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn plain_lines_are_whole_and_without_control_characters(
            bytes in prop::collection::vec(prop_oneof![8 => 0x20u8..0x7f, 1 => any::<u8>(), 1 => Just(b'\r'), 1 => Just(b'\n')], 0..70),
            before in 0usize..200,
            ends: bool,
        ) {
            let mut bytes = [vec![b'x'; before], bytes].concat();
            if ends {
                bytes.extend_from_slice(b"\r\nmore");
            }
            let end = bytes.iter().position(u8::is_ascii_control);
            let whole = end.filter(|&end| bytes[end..].starts_with(b"\r\n"));
            prop_assert_eq!(plain_line(&bytes), whole);
            prop_assert_eq!(find(b' ', &bytes), bytes.iter().position(|&b| b == b' '));
        }

        #[test]
        fn tokens_are_compared_without_regard_to_case(name in prop::collection::vec(any::<u8>().prop_filter("token", |&b| is_token(b)), 4)) {
            for lower in [b"host", b"a-bc", b"-z--"] {
                prop_assert_eq!(is_named(&name, lower), name.eq_ignore_ascii_case(lower));
            }
            let upper: Vec<u8> = name.iter().map(u8::to_ascii_uppercase).collect();
            let lower: [u8; 4] = std::array::from_fn(|i| if name[i].is_ascii_alphabetic() { name[i] | 0x20 } else { b'-' });
            prop_assert_eq!(is_named(&upper, &lower), upper.eq_ignore_ascii_case(&lower));
        }

        #[test]
        fn names_are_seen_as_tokens(line in prop::collection::vec(prop::sample::select(&b"azAZ09-_:: @[`{/\x80"[..]), 1..24)) {
            let end = line.iter().position(|&b| !is_token(b));
            if let Some(colon) = common_name(&line) {
                prop_assert_eq!(Some(colon), end);
                prop_assert_eq!(line[colon], b':');
            }
        }

        #[test]
        fn usual_hosts_are_names(text in prop::collection::vec(prop::sample::select(&b"azAZ09-.az09az_:#@[ "[..]), 0..40), length in 0usize..40) {
            let length = length.min(text.len());
            let usual = text[..length].iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
            if is_usual_host(&text, length) {
                prop_assert!(usual);
            } else {
                prop_assert!(!usual || text.len() < length.next_multiple_of(16));
            }
        }

        #[test]
        fn control_characters_are_seen(value in prop::collection::vec(any::<u8>(), 0..90)) {
            let plain = value.iter().any(|&b| b.is_ascii_control() && b != b'\t');
            prop_assert_eq!(has_control(&value), plain);
            let clean: Vec<u8> = value.iter().map(|b| b | 0x20).filter(|&b| b != 0x7f).collect();
            prop_assert!(!has_control(&clean));
        }
    }
}
