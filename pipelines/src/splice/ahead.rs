//! What has come of a client beyond a gap: kept until what lies before it has come (RFC 9293 §3.10.7.4).

use super::binding::KEEP;
use lcs_dataplane::headers::options::kind;

/// Pieces beyond a gap that are kept for one connection at most.
pub(super) const PIECES: usize = 8;

/// Bytes that have come before others that precede them.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// In the order of `pieces`, without gaps.
    bytes: Vec<u8>,
    /// First number and length of each, in order; they do not overlap, and some byte is missing before the first.
    pieces: Vec<(u32, usize)>,
    /// The number of the client's FIN, if it has come.
    fin: Option<u32>,
}

impl Ahead {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEEP);
        self.pieces.clear();
        self.fin = None;
    }

    /// Keeps the parts of a segment of which there is no copy yet (the first copy wins). `next` is the number in order.
    /// `false` when a part of it had no place.
    pub(super) fn keep(&mut self, next: u32, seq: u32, payload: &[u8]) -> bool {
        let offset = |n: u32| n.wrapping_sub(next) as usize;
        let (mut from, end) = (offset(seq), offset(seq) + payload.len());
        let first = from;
        let (mut at, mut i) = (0, 0);
        while from < end {
            // Up to the piece that is there, or to the end.
            let (start, length) = self.pieces.get(i).map_or((end, 0), |&(s, n)| (offset(s), n));
            if start > from {
                if self.pieces.len() > PIECES {
                    return false;
                }
                let part = &payload[from - first..start.min(end) - first];
                self.bytes.splice(at..at, part.iter().copied());
                from += part.len();
                at += part.len();
                // Segments that follow one another are one piece: how many there are does not count, only how many gaps.
                match i.checked_sub(1).and_then(|before| self.pieces.get_mut(before)) {
                    Some((seq, length)) if offset(*seq) + *length == from - part.len() => {
                        *length += part.len();
                        continue;
                    }
                    _ => self.pieces.insert(i, (next.wrapping_add((from - part.len()) as u32), part.len())),
                }
            } else {
                from = from.max(start + length);
                at += length;
            }
            i += 1;
        }
        true
    }

    /// Whether there is room for a segment that begins with this number: for one more piece, or behind one.
    pub(super) fn takes(&self, seq: u32) -> bool {
        let ends_at = |&(from, length): &(u32, usize)| from.wrapping_add(length as u32);
        self.pieces.len() < PIECES || self.pieces.iter().any(|piece| ends_at(piece) == seq)
    }

    /// Notes the number of the client's FIN. The first one counts.
    pub(super) fn ends_at(&mut self, fin: u32) {
        self.fin.get_or_insert(fin);
    }

    /// Bytes that are kept.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether neither bytes are kept nor a FIN.
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.fin.is_none()
    }

    /// Number and bytes of each piece, in order.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let mut at = 0;
        self.pieces.iter().map(move |&(seq, length)| {
            at += length;
            (seq, &self.bytes[at - length..at])
        })
    }

    /// Moves what has come in order into `buffer`; returns whether the FIN is next.
    pub(super) fn drain(&mut self, mut next: u32, buffer: &mut Vec<u8>) -> bool {
        let mut used = 0;
        let mut pieces = 0;
        while let Some(&(seq, length)) = self.pieces.get(pieces).filter(|p| p.0 == next) {
            next = seq.wrapping_add(length as u32);
            used += length;
            pieces += 1;
        }
        buffer.extend(self.bytes.drain(..used));
        self.pieces.drain(..pieces);
        self.fin == Some(next)
    }

    /// A SACK option about the pieces (RFC 2018 §3), padded to a multiple of four bytes; its length.
    pub(super) fn sack(&self, out: &mut [u8; 28]) -> usize {
        let mut blocks = 0;
        let mut last: Option<(u32, u32)> = None;
        let mut put = |(from, to): (u32, u32)| {
            if blocks < 3 {
                let at = 4 + 8 * blocks;
                out[at..at + 4].copy_from_slice(&from.to_be_bytes());
                out[at + 4..at + 8].copy_from_slice(&to.to_be_bytes());
                blocks += 1;
            }
        };
        for &(seq, length) in &self.pieces {
            let end = seq.wrapping_add(length as u32);
            last = match last {
                Some((from, to)) if to == seq => Some((from, end)),
                other => {
                    other.into_iter().for_each(&mut put);
                    Some((seq, end))
                }
            };
        }
        last.into_iter().for_each(&mut put);
        if blocks == 0 {
            return 0;
        }
        out[..4].copy_from_slice(&[kind::NOP, kind::NOP, kind::SACK, 2 + 8 * blocks as u8]);
        4 + 8 * blocks
    }
}
