//! Reshapes a host's TCP on the wire: initial sequence numbers just before the wrap, and segments cut into pieces that
//! may overlap. To the host's stack and to its peer it is all ordinary TCP; what stands between them sees the rare cases.

use super::random::Random;
use super::time_wait::{Pair, segment};
use lcs_dataplane::checksum::Sum;
use lcs_dataplane::headers::tcp::flags;
use lcs_dataplane::headers::{Kind, Parsed, ethernet, parse};
use std::collections::HashMap;

/// Connections that are followed at most; a host opens far fewer within the life of one.
const FOLLOWED: usize = 65_536;
/// Pieces of one segment, at most; what is left goes in the last.
const PIECES: usize = 64;

/// What is done to a host's segments.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Settings {
    /// Probability that a connection's sequence numbers begin shortly before the wrap.
    pub wrap: f64,
    /// Probability that a segment with payload is cut.
    pub cut: f64,
    /// Longest piece, bytes; pieces are 1 to so many bytes long.
    pub piece: usize,
    /// Probability that a piece begins with bytes that the piece before it has brought.
    pub overlap: f64,
}

/// What a host's segments go through.
#[derive(Debug)]
pub struct Reshape {
    settings: Settings,
    random: Random,
    /// By our and the peer's endpoint: the stack's initial sequence number, and what is added to it on the wire.
    shifts: HashMap<Pair, (u32, u32)>,
    /// Segments that were cut.
    pub cut: u64,
    /// Connections that begin shortly before the wrap.
    pub wrapping: u64,
}

impl Reshape {
    /// With these settings.
    pub fn new(settings: Settings, seed: u64) -> Self {
        Reshape { settings, random: Random::new(seed), shifts: HashMap::new(), cut: 0, wrapping: 0 }
    }

    /// Reshapes a frame that is to be sent; the frames that are sent in its place.
    pub fn sent(&mut self, mut frame: Vec<u8>) -> Vec<Vec<u8>> {
        let Some(((peer, own), tcp, len)) = segment(&frame) else { return vec![frame] };
        let (seq, kind) = (tcp.seq().0, tcp.flags());
        let pair = (own, peer);
        if kind & flags::SYN != 0 {
            self.open(pair, seq);
        }
        let shift = self.shifts.get(&pair).map_or(0, |s| s.1);
        let Ok(parsed) = parse(&frame, false) else { return vec![frame] };
        if shift != 0 {
            let at = usize::from(parsed.l4) + 4;
            frame[at..at + 4].copy_from_slice(&seq.wrapping_add(shift).to_be_bytes());
            parse::fill_transport_checksum(&mut frame, &parsed);
        }
        let plain = kind & (flags::SYN | flags::RST) == 0;
        if plain && len > 1 && self.random.chance(self.settings.cut) {
            self.cut += 1;
            return self.pieces(&frame, &parsed, seq.wrapping_add(shift), len);
        }
        vec![frame]
    }

    /// Shifts the numbers in a received frame back. One with a wrong checksum stays as it is, for the stack to drop.
    pub fn received(&mut self, frame: &mut [u8]) {
        if self.shifts.is_empty() {
            return;
        }
        let Some((pair, tcp, _)) = segment(frame) else { return };
        let Some(&(_, shift)) = self.shifts.get(&pair).filter(|s| s.1 != 0 && tcp.flags() & flags::ACK != 0) else {
            return;
        };
        let ack = tcp.ack().0.wrapping_sub(shift);
        let header = tcp.header_len();
        let Ok(parsed) = parse(frame, false) else { return };
        let l4 = usize::from(parsed.l4);
        frame[l4 + 8..l4 + 12].copy_from_slice(&ack.to_be_bytes());
        for at in sack_edges(&frame[l4 + 20..l4 + header]) {
            let at = l4 + 20 + at;
            let edge = frame[at..at + 4].first_chunk().map_or(0, |e| u32::from_be_bytes(*e));
            frame[at..at + 4].copy_from_slice(&edge.wrapping_sub(shift).to_be_bytes());
        }
        parse::fill_transport_checksum(frame, &parsed);
    }

    /// Decides on the numbers of a connection that opens; a SYN that comes again keeps its own.
    fn open(&mut self, pair: Pair, isn: u32) {
        if self.shifts.get(&pair).is_some_and(|s| s.0 == isn) {
            return;
        }
        if self.shifts.len() >= FOLLOWED {
            self.shifts.clear();
        }
        let mut shift = 0;
        if self.random.chance(self.settings.wrap) {
            let before = [1, 4, 400, 3_000, 60_000][self.random.below(5) as usize];
            let first = 0u32.wrapping_sub(1 + self.random.below(before) as u32);
            shift = first.wrapping_sub(isn);
            self.wrapping += 1;
        }
        self.shifts.insert(pair, (isn, shift));
    }

    /// The pieces of a segment with `len` bytes of payload.
    fn pieces(&mut self, frame: &[u8], parsed: &Parsed, seq: u32, len: usize) -> Vec<Vec<u8>> {
        let end = usize::from(parsed.end);
        let payload = end - len;
        let mut pieces = vec![];
        let mut at = 0;
        while at < len {
            let mut n = 1 + self.random.below(self.settings.piece.max(1) as u64) as usize;
            if pieces.len() + 1 == PIECES {
                n = len;
            }
            n = n.min(len - at);
            let from = if self.random.chance(self.settings.overlap) {
                at - self.random.below(at.min(20) as u64 + 1) as usize
            } else {
                at
            };
            let last = at + n == len;
            let mut piece = frame[..payload].to_vec();
            piece.extend_from_slice(&frame[payload + from..payload + at + n]);
            let l4 = usize::from(parsed.l4);
            piece[l4 + 4..l4 + 8].copy_from_slice(&seq.wrapping_add(from as u32).to_be_bytes());
            if !last {
                piece[l4 + 13] &= !(flags::FIN | flags::PSH);
            }
            shorten(&mut piece, parsed);
            pieces.push(piece);
            at += n;
        }
        pieces
    }
}

/// Takes the FIN of a segment that brings data too, and makes it a segment of its own: smoltcp leaves a FIN out of a
/// segment's length, and so never takes one behind data that it has already (RFC 9293 §3.10.7.4 counts it).
pub(super) fn take_fin(frame: &mut Vec<u8>) -> Option<Vec<u8>> {
    let (_, tcp, len) = segment(frame)?;
    if tcp.flags() & (flags::FIN | flags::SYN | flags::RST) != flags::FIN || len == 0 {
        return None;
    }
    let end = tcp.seq().0.wrapping_add(len as u32);
    let parsed = parse(frame, false).ok()?;
    let (l4, whole) = (usize::from(parsed.l4), usize::from(parsed.end));
    frame.truncate(whole);
    let mut fin = frame[..whole - len].to_vec();
    fin[l4 + 4..l4 + 8].copy_from_slice(&end.to_be_bytes());
    shorten(&mut fin, &parsed);
    frame[l4 + 13] &= !flags::FIN;
    shorten(frame, &parsed);
    Some(fin)
}

/// A segment's acknowledgement without its data and its FIN.
pub(super) fn without_payload(frame: &[u8]) -> Option<Vec<u8>> {
    let (_, _, len) = segment(frame)?;
    let parsed = parse(frame, false).ok()?;
    let mut bare = frame[..usize::from(parsed.end) - len].to_vec();
    bare[usize::from(parsed.l4) + 13] &= !(flags::FIN | flags::PSH);
    shorten(&mut bare, &parsed);
    Some(bare)
}

/// Makes the lengths and checksums of a packet right for its bytes.
fn shorten(frame: &mut [u8], whole: &Parsed) {
    let l3 = usize::from(whole.l3);
    let length = frame.len() - l3;
    if whole.kind == Kind::Transport4 {
        frame[l3 + 2..l3 + 4].copy_from_slice(&(length as u16).to_be_bytes());
        frame[l3 + 10..l3 + 12].fill(0);
        let checksum = Sum::ZERO.bytes(&frame[l3..usize::from(whole.l4)]).checksum();
        frame[l3 + 10..l3 + 12].copy_from_slice(&checksum.to_ne_bytes());
    } else {
        frame[l3 + 4..l3 + 6].copy_from_slice(&((length - lcs_dataplane::headers::ipv6::HEADER) as u16).to_be_bytes());
    }
    debug_assert!(l3 == ethernet::HEADER, "hosts send no VLAN tags");
    if let Ok(parsed) = parse(frame, false) {
        parse::fill_transport_checksum(frame, &parsed);
    }
}

/// Where the edges of SACK blocks stand in TCP options (RFC 2018 section 3).
pub(super) fn sack_edges(options: &[u8]) -> Vec<usize> {
    option(options, 5).map_or(vec![], |(at, len)| (0..(len - 2) / 4).map(|n| at + 2 + n * 4).collect())
}

/// Where a TCP option of this kind stands, and its length.
pub(super) fn option(options: &[u8], kind: u8) -> Option<(usize, usize)> {
    let mut at = 0;
    while let Some(&found) = options.get(at) {
        match found {
            0 => return None,
            1 => at += 1,
            _ => {
                let len = usize::from(*options.get(at + 1)?);
                if len < 2 || at + len > options.len() {
                    return None;
                }
                if found == kind {
                    return Some((at, len));
                }
                at += len;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use lcs_dataplane::headers::build::{Packet, Transport};
    use lcs_dataplane::headers::tcp::Tcp;
    use std::net::SocketAddr;

    fn frame(from: SocketAddr, to: SocketAddr, kind: u8, numbers: (u32, u32), sack: &[u32], payload: &[u8]) -> Vec<u8> {
        let mut p = Packet::tcp(from, to, kind).payload(payload);
        if let Transport::Tcp { seq, ack, options, .. } = &mut p.transport {
            (*seq, *ack) = numbers;
            if !sack.is_empty() {
                options.extend([1, 1, 5, 2 + 4 * sack.len() as u8]);
                options.extend(sack.iter().flat_map(|e| e.to_be_bytes()));
            }
        }
        p.frame()
    }

    #[test]
    fn a_fin_behind_data_comes_apart() {
        let (own, peer) = ("192.0.2.1:9".parse().unwrap(), "192.0.2.2:80".parse().unwrap());
        let mut whole = frame(own, peer, flags::ACK | flags::FIN, (100, 7), &[], b"abc");
        let fin = take_fin(&mut whole).expect("it has one");
        let of = |frame: &[u8]| segment(frame).map(|(_, t, len)| (t.seq().0, t.flags(), len)).expect("a whole segment");
        assert_eq!((of(&whole), of(&fin)), ((100, flags::ACK, 3), (103, flags::ACK | flags::FIN, 0)));
        assert!(take_fin(&mut whole).is_none() && take_fin(&mut fin.clone()).is_none());
    }

    #[test]
    fn numbers_wrap_on_the_wire_and_nowhere_else_and_pieces_make_the_whole() {
        for (own, peer) in [("192.0.2.1:9", "192.0.2.2:80"), ("[2001:db8::1]:9", "[2001:db8::2]:80")] {
            let (own, peer) = (own.parse().unwrap(), peer.parse().unwrap());
            let settings = Settings { wrap: 1.0, cut: 1.0, piece: 30, overlap: 0.5 };
            let mut r = Reshape::new(settings, 3);
            let syn = r.sent(frame(own, peer, flags::SYN, (1000, 0), &[], b""));
            let isn = segment(&syn[0]).unwrap().1.seq().0;
            assert!(isn > u32::MAX - 60_001);
            let again = r.sent(frame(own, peer, flags::SYN, (1000, 0), &[], b""));
            assert_eq!(again, syn);
            let text: Vec<u8> = (0..200).collect();
            let pieces = r.sent(frame(own, peer, flags::ACK | flags::FIN, (1001, 5), &[], &text));
            assert!(pieces.len() > 3);
            let mut got = vec![0; 200];
            for (n, piece) in pieces.iter().enumerate() {
                let (_, tcp, len) = segment(piece).expect("right checksums");
                let at = tcp.seq().0.wrapping_sub(isn).wrapping_sub(1) as usize;
                got[at..at + len].copy_from_slice(tcp.payload());
                assert_eq!(tcp.flags() & flags::FIN != 0, n + 1 == pieces.len());
            }
            assert_eq!(got, text);
            let ack = isn.wrapping_add(51);
            let sack = [isn.wrapping_add(61), isn.wrapping_add(71)];
            let mut back = frame(peer, own, flags::ACK, (5, ack), &sack, b"x");
            r.received(&mut back);
            let parsed = parse(&back, true).unwrap();
            assert!(parse::transport_checksum_ok(&back, &parsed));
            let tcp = Tcp::parse(&back[usize::from(parsed.l4)..]).unwrap();
            assert_eq!((tcp.seq().0, tcp.ack().0), (5, 1051));
            let edges: Vec<u32> = sack_edges(tcp.options())
                .into_iter()
                .map(|at| u32::from_be_bytes(*tcp.options()[at..].first_chunk().unwrap()))
                .collect();
            assert_eq!(edges, [1061, 1071]);
            // One that was damaged on the way stays damaged.
            let mut broken = frame(peer, own, flags::ACK, (5, ack), &[], b"x");
            *broken.last_mut().unwrap() ^= 1;
            let before = broken.clone();
            r.received(&mut broken);
            assert_eq!(broken, before);
        }
    }
}
