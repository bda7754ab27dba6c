//! What director and filter say to each other, byte by byte. Parsing trusts nothing: every length is checked, and what is
//! not authenticated is not looked at.
//!
//! One message is one UDP datagram of at most a link's MTU, never fragmented. Numbers are in network byte order, and
//! bytes that are not named are zero.
//!
//! ```text
//! offset  header
//!      0  "LCSM"
//!      4  version (3)
//!      5  kind: 1 ping, 2 pong, 3 migrate, 4 accepted, 5 refused, 6 abort, 7 recall, 8 released
//!      8  session: of the director's worker with this filter, a number of the director's that nobody can guess
//!     16  token: chosen by the filter for the session; 0 in a ping of who does not know it yet
//!     24  number: counts up in the session; an answer repeats the number that it answers
//!     32  body: nothing (ping, pong) or
//!         ends of the connection (all others)
//!     32  client's address (IPv4 in the last four bytes)
//!     48  service's address
//!     64  client's port, service's port
//!     68  family: 4 or 6
//!     69  refused: why
//!         migrate only
//!     72  number of the request's first byte (CSEQ + 1 for a connection's first request)
//!     76  next number toward the client (DSEQ + 1, likewise)
//!     80  the client's window, as it stood in its last segment; the client's MSS
//!     84  flags: 1 the client scales windows, 2 it understands SACK, 4 its FIN follows the request's last byte,
//!         8 each request of the connection is decided anew, 16 the filter has the connection: this is its next request, and
//!         `next` is what the client has acknowledged
//!     85  the client's window scale; the window scale that it was told
//!     88  bytes of the request in all
//!     92  offset of this piece in them
//!     96  bytes of every piece but the last
//!    100  the piece
//!         recall and released
//!     72  number of the next request's first byte
//!     76  what the client has acknowledged (recall), the next number toward it (released)
//!     80  the client's window (recall)
//!   last 32 bytes: BLAKE3 of all before, keyed
//! ```

use lcs_dataplane::splice::Offer;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The format that this program speaks.
pub const VERSION: u8 = 3;
/// Bytes of a migration around its piece of the request.
pub const MIGRATE_OVERHEAD: usize = MIGRATE + TAG;
/// Bytes of a request that may be migrated at most: what a service may hold of one (head and body at their limits).
pub const REQUEST_MAX: usize = (64 << 10) + (1 << 20);
/// No piece but the last is smaller, bytes.
pub const PIECE_MIN: usize = 256;

const MAGIC: [u8; 4] = *b"LCSM";
const HEADER: usize = 32;
const ENDS: usize = 72;
const TURN: usize = 82;
const MIGRATE: usize = 100;
const TAG: usize = 32;

/// The secret that a director and its filters share.
#[derive(Clone, PartialEq, Eq)]
pub struct ChannelKey([u8; 32]);

impl ChannelKey {
    /// From a secret of any form; what it authenticates is this program's only.
    pub fn from_secret(secret: &[u8]) -> Self {
        ChannelKey(blake3::derive_key("lcs 2026 director and filter, migration channel v1", secret))
    }

    /// These bytes with what authenticates them, whatever they say.
    pub fn authenticate(&self, bytes: &[u8]) -> Vec<u8> {
        let tag = blake3::keyed_hash(&self.0, bytes);
        [bytes, tag.as_bytes()].concat()
    }
}

impl fmt::Debug for ChannelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChannelKey(…)")
    }
}

/// To which exchange a message belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// The director's worker with this filter.
    pub session: u64,
    /// What the filter calls it.
    pub token: u64,
    /// The message, or the one that is answered.
    pub number: u64,
}

/// The connection that a message is about. Both ends are of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub client: SocketAddr,
    /// The virtual service that it has called.
    pub service: SocketAddr,
}

/// Why a filter does not take a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It serves no such service.
    UnknownService,
    /// The server on its host refuses connections.
    ServerRefused,
    /// The server on its host does not answer.
    ServerSilent,
    /// It has no room for another connection or request.
    Full,
    /// The connection is over, and the message an old one.
    Over,
    /// Recall: the request or the response in turn is not complete, or the client has not acknowledged all of it. A later request:
    /// what is before it is still on its way, or there is no room for it.
    NotYet,
    /// Its response ends with the connection: no other request follows.
    Stays,
    /// It is a tunnel from its last request on, not HTTP any more.
    Tunnel,
    /// The way to the client is not known: the client, on the filter's own link, or the router toward it does not answer there.
    NoWay,
    /// A later request: as [`Why::NotYet`], and the filter keeps all of it. Its first message alone asks for it again.
    Kept,
}

impl Why {
    const ALL: [Why; 10] = [
        Why::UnknownService,
        Why::ServerRefused,
        Why::ServerSilent,
        Why::Full,
        Why::Over,
        Why::NotYet,
        Why::Stays,
        Why::Tunnel,
        Why::NoWay,
        Why::Kept,
    ];
}

/// A connection on its way to a server, with a piece of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrate<'m> {
    /// The connection.
    pub ends: Ends,
    /// Number of the request's first byte.
    pub start: u32,
    /// The next number toward the client.
    pub next: u32,
    /// The client's window, unscaled.
    pub window: u16,
    /// What the client has offered.
    pub offer: Offer,
    /// The window scale that the client was told; 0 where it does not scale.
    pub own_scale: u8,
    /// The client has closed behind the request.
    pub fin: bool,
    /// Each request of the connection is decided anew: the filter follows where they and their responses end.
    pub one_by_one: bool,
    /// The filter has the connection already: this is the next request on it, and `next` is what the client has acknowledged.
    pub continues: bool,
    /// Bytes of the request in all, at most [`REQUEST_MAX`].
    pub total: u32,
    /// Where this piece begins: a multiple of `piece`.
    pub offset: u32,
    /// Bytes of every piece but the last, at least [`PIECE_MIN`].
    pub piece: u16,
    /// The piece.
    pub bytes: &'m [u8],
}

/// Where a connection stands between two requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// The connection.
    pub ends: Ends,
    /// Number of the next request's first byte.
    pub start: u32,
    /// What the client has acknowledged; in answer, the next number toward it.
    pub next: u32,
    /// The client's window, unscaled.
    pub window: u16,
}

/// What is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'m> {
    /// Are you there?
    Ping,
    /// Yes.
    Pong,
    /// Take this connection.
    Migrate(Migrate<'m>),
    /// It is mine: the server on this host has answered.
    Accepted(Ends),
    /// It is not, and nothing of it was delivered.
    Refused(Ends, Why),
    /// Forget it.
    Abort(Ends),
    /// Give it back: its next request may be for another server.
    Recall(Turn),
    /// It is yours again.
    Released(Turn),
}

fn put_address(out: &mut [u8], address: IpAddr) {
    match address {
        IpAddr::V4(a) => out[12..16].copy_from_slice(&a.octets()),
        IpAddr::V6(a) => out[..16].copy_from_slice(&a.octets()),
    }
}

fn array<const N: usize>(b: &[u8], at: usize) -> Option<[u8; N]> {
    b.get(at..).and_then(<[u8]>::first_chunk).copied()
}

fn be16(b: &[u8], at: usize) -> Option<u16> {
    array(b, at).map(u16::from_be_bytes)
}

fn be32(b: &[u8], at: usize) -> Option<u32> {
    array(b, at).map(u32::from_be_bytes)
}

fn be64(b: &[u8], at: usize) -> Option<u64> {
    array(b, at).map(u64::from_be_bytes)
}

impl Ends {
    fn read(b: &[u8]) -> Option<Ends> {
        let (client, service): ([u8; 16], [u8; 16]) = (array(b, 32)?, array(b, 48)?);
        let ip = |a: [u8; 16]| match *b.get(68)? {
            4 if a[..12] == [0; 12] => Some(IpAddr::V4(Ipv4Addr::new(a[12], a[13], a[14], a[15]))),
            6 => Some(IpAddr::V6(Ipv6Addr::from(a))),
            _ => None,
        };
        Some(Ends {
            client: SocketAddr::new(ip(client)?, be16(b, 64)?),
            service: SocketAddr::new(ip(service)?, be16(b, 66)?),
        })
    }

    fn put(&self, out: &mut [u8]) {
        put_address(&mut out[32..48], self.client.ip());
        put_address(&mut out[48..64], self.service.ip());
        out[64..66].copy_from_slice(&self.client.port().to_be_bytes());
        out[66..68].copy_from_slice(&self.service.port().to_be_bytes());
        out[68] = if self.client.is_ipv4() { 4 } else { 6 };
    }
}

impl Turn {
    fn read(b: &[u8]) -> Option<Turn> {
        Some(Turn { ends: Ends::read(b)?, start: be32(b, 72)?, next: be32(b, 76)?, window: be16(b, 80)? })
    }

    fn put(&self, out: &mut [u8]) {
        self.ends.put(out);
        out[72..76].copy_from_slice(&self.start.to_be_bytes());
        out[76..80].copy_from_slice(&self.next.to_be_bytes());
        out[80..82].copy_from_slice(&self.window.to_be_bytes());
    }
}

impl<'m> Migrate<'m> {
    fn read(b: &'m [u8]) -> Option<Migrate<'m>> {
        let flags = *b.get(84)?;
        let (scale, own_scale) = (*b.get(85)?, *b.get(86)?);
        let (total, offset, piece) = (be32(b, 88)?, be32(b, 92)?, be16(b, 96)?);
        let bytes = b.get(MIGRATE..)?;
        // RFC 7323 §2.3: no scale above 14.
        let sound = flags & !31 == 0 && scale <= 14 && own_scale <= 14 && total as usize <= REQUEST_MAX;
        let rest = total.checked_sub(offset)?;
        let whole = rest.min(u32::from(piece)) as usize == bytes.len();
        let empty = rest == 0 && total > 0;
        if !sound || !whole || empty || usize::from(piece) < PIECE_MIN || offset % u32::from(piece) != 0 {
            return None;
        }
        Some(Migrate {
            ends: Ends::read(b)?,
            start: be32(b, 72)?,
            next: be32(b, 76)?,
            window: be16(b, 80)?,
            offer: Offer { mss: be16(b, 82)?.max(64), scale: (flags & 1 != 0).then_some(scale), sack: flags & 2 != 0 },
            own_scale,
            fin: flags & 4 != 0,
            one_by_one: flags & 8 != 0,
            continues: flags & 16 != 0,
            total,
            offset,
            piece,
            bytes,
        })
    }

    fn put(&self, out: &mut [u8]) {
        self.ends.put(out);
        out[72..76].copy_from_slice(&self.start.to_be_bytes());
        out[76..80].copy_from_slice(&self.next.to_be_bytes());
        out[80..82].copy_from_slice(&self.window.to_be_bytes());
        out[82..84].copy_from_slice(&self.offer.mss.to_be_bytes());
        let flags = [self.offer.scale.is_some(), self.offer.sack, self.fin, self.one_by_one, self.continues];
        out[84] = flags.iter().enumerate().fold(0, |byte, (n, flag)| byte | u8::from(*flag) << n);
        out[85] = self.offer.scale.unwrap_or(0);
        out[86] = self.own_scale;
        out[88..92].copy_from_slice(&self.total.to_be_bytes());
        out[92..96].copy_from_slice(&self.offset.to_be_bytes());
        out[96..98].copy_from_slice(&self.piece.to_be_bytes());
        out[MIGRATE..].copy_from_slice(self.bytes);
    }

    /// Pieces of the request in all, at least one.
    pub fn pieces(&self) -> usize {
        (self.total as usize).div_ceil(usize::from(self.piece)).max(1)
    }
}

impl<'m> Body<'m> {
    fn kind(&self) -> u8 {
        match self {
            Body::Ping => 1,
            Body::Pong => 2,
            Body::Migrate(_) => 3,
            Body::Accepted(_) => 4,
            Body::Refused(..) => 5,
            Body::Abort(_) => 6,
            Body::Recall(_) => 7,
            Body::Released(_) => 8,
        }
    }

    fn len(&self) -> usize {
        match self {
            Body::Ping | Body::Pong => HEADER,
            Body::Migrate(m) => MIGRATE + m.bytes.len(),
            Body::Accepted(_) | Body::Refused(..) | Body::Abort(_) => ENDS,
            Body::Recall(_) | Body::Released(_) => TURN,
        }
    }

    /// Writes a message into `out`, which is cleared before, with its authentication.
    pub fn write(&self, header: &Header, key: &ChannelKey, out: &mut Vec<u8>) {
        out.clear();
        out.resize(self.len(), 0);
        out[..4].copy_from_slice(&MAGIC);
        out[4] = VERSION;
        out[5] = self.kind();
        out[8..16].copy_from_slice(&header.session.to_be_bytes());
        out[16..24].copy_from_slice(&header.token.to_be_bytes());
        out[24..32].copy_from_slice(&header.number.to_be_bytes());
        match self {
            Body::Ping | Body::Pong => {}
            Body::Migrate(m) => m.put(out),
            Body::Accepted(ends) | Body::Abort(ends) => ends.put(out),
            Body::Recall(turn) | Body::Released(turn) => turn.put(out),
            Body::Refused(ends, why) => {
                ends.put(out);
                out[69] = *why as u8 + 1;
            }
        }
        let tag = blake3::keyed_hash(&key.0, out);
        out.extend_from_slice(tag.as_bytes());
    }

    /// Reads a message. `None`: it is none of this version, or not made with this key.
    pub fn read(datagram: &'m [u8], key: &ChannelKey) -> Option<(Header, Body<'m>)> {
        let (b, tag) = datagram.split_last_chunk::<TAG>()?;
        // Cheap and public first, so that noise costs no hash.
        if b.len() < HEADER || b[..4] != MAGIC || b[4] != VERSION || b[6..8] != [0; 2] {
            return None;
        }
        // Compared in constant time.
        if blake3::keyed_hash(&key.0, b) != blake3::Hash::from_bytes(*tag) {
            return None;
        }
        let header = Header { session: be64(b, 8)?, token: be64(b, 16)?, number: be64(b, 24)? };
        let body = match b[5] {
            1 => Body::Ping,
            2 => Body::Pong,
            3 => Body::Migrate(Migrate::read(b)?),
            4 => Body::Accepted(Ends::read(b)?),
            5 => {
                let why = usize::from(*b.get(69)?).checked_sub(1).and_then(|n| Why::ALL.get(n))?;
                Body::Refused(Ends::read(b)?, *why)
            }
            6 => Body::Abort(Ends::read(b)?),
            7 => Body::Recall(Turn::read(b)?),
            8 => Body::Released(Turn::read(b)?),
            _ => return None,
        };
        (body.len() == b.len()).then_some((header, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> ChannelKey {
        ChannelKey::from_secret(b"a secret of sixteen bytes or more")
    }

    fn ends(v6: bool, a: u32, port: u16) -> Ends {
        let ip = |n: u32| {
            if v6 { IpAddr::V6(Ipv6Addr::from(u128::from(n) << 64 | 1)) } else { IpAddr::V4(Ipv4Addr::from(n)) }
        };
        Ends { client: SocketAddr::new(ip(a), port), service: SocketAddr::new(ip(!a), 80) }
    }

    prop_compose! {
        fn migrate()(
            v6: bool, a: u32, port: u16, start: u32, next: u32, window: u16, mss in 64u16..9000,
            scale in proptest::option::of(0u8..=14), sack: bool, fin: bool, kinds: [bool; 2], own_scale in 0u8..=14,
            piece in 256u16..1400, total in 0u32..5000, index in 0u32..20,
        ) -> (Migrate<'static>, usize) {
            let offset = (index * u32::from(piece)).min(total.saturating_sub(1) / u32::from(piece) * u32::from(piece));
            let length = (total - offset).min(u32::from(piece)) as usize;
            let m = Migrate {
                ends: ends(v6, a, port), start, next, window, offer: Offer { mss, scale, sack }, own_scale, fin, total,
                one_by_one: kinds[0], continues: kinds[1],
                offset, piece, bytes: &[],
            };
            (m, length)
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read((m, length) in migrate(), session: u64, token: u64, number: u64, why in 0usize..8) {
            let bytes: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let m = Migrate { bytes: &bytes, ..m };
            let header = Header { session, token, number };
            let mut out = vec![];
            let e = m.ends;
            let turn = Turn { ends: e, start: m.start, next: m.next, window: m.window };
            for body in [
                Body::Ping, Body::Pong, Body::Migrate(m), Body::Accepted(e), Body::Refused(e, Why::ALL[why]), Body::Abort(e),
                Body::Recall(turn), Body::Released(turn),
            ] {
                body.write(&header, &key(), &mut out);
                prop_assert_eq!(Body::read(&out, &key()), Some((header, body)));
                prop_assert_eq!(Body::read(&out, &ChannelKey::from_secret(b"another secret")), None);
            }
        }

        #[test]
        fn one_bit_makes_it_another_message_that_nobody_has_made((m, length) in migrate(), at: prop::sample::Index, bit in 0u8..8) {
            let bytes = vec![7; length];
            let mut out = vec![];
            Body::Migrate(Migrate { bytes: &bytes, ..m }).write(&Header::default(), &key(), &mut out);
            let at = at.index(out.len());
            out[at] ^= 1 << bit;
            prop_assert_eq!(Body::read(&out, &key()), None);
        }

        /// Whatever an owner of the key may send: it is taken or not, and what is taken keeps its bounds.
        #[test]
        fn anything_authentic_is_read_within_bounds(mut b in proptest::collection::vec(any::<u8>(), 0..400), kind in 0u8..11, framed: bool) {
            if framed && b.len() >= HEADER {
                b[..4].copy_from_slice(&MAGIC);
                b[4] = VERSION;
                b[5] = kind;
                b[6..8].fill(0);
                if b.len() > 98 {
                    b[84] &= 31;
                    b[85..87].fill(3);
                    b[88..92].copy_from_slice(&300u32.to_be_bytes());
                    b[92..96].fill(0);
                    b[96..98].copy_from_slice(&256u16.to_be_bytes());
                    b[68] = 6;
                }
            }
            let tag = blake3::keyed_hash(&key().0, &b);
            b.extend_from_slice(tag.as_bytes());
            if let Some((_, Body::Migrate(m))) = Body::read(&b, &key()) {
                prop_assert!(m.total as usize <= REQUEST_MAX && m.offset as usize + m.bytes.len() <= m.total as usize);
                prop_assert!(m.pieces() <= REQUEST_MAX / PIECE_MIN);
            }
            // And cut off anywhere, it is nothing.
            for n in 0..b.len() {
                prop_assert_eq!(Body::read(&b[..n], &key()), None);
            }
        }
    }

    #[test]
    fn the_layout_is_as_documented() {
        let mut out = vec![];
        let m = Migrate {
            ends: Ends { client: "192.0.2.1:4660".parse().unwrap(), service: "198.51.100.7:80".parse().unwrap() },
            start: 0x0102_0304,
            next: 0x0506_0708,
            window: 0x1122,
            offer: Offer { mss: 1460, scale: Some(9), sack: true },
            own_scale: 7,
            fin: false,
            one_by_one: true,
            continues: false,
            total: 3,
            offset: 0,
            piece: 1000,
            bytes: b"abc",
        };
        Body::Migrate(m).write(&Header { session: 1, token: 2, number: 3 }, &key(), &mut out);
        assert_eq!(out.len(), 100 + 3 + 32);
        assert_eq!(&out[..8], b"LCSM\x03\x03\0\0");
        assert_eq!((out[15], out[23], out[31]), (1, 2, 3));
        assert_eq!(out[44..48], [192, 0, 2, 1]);
        assert_eq!(out[60..72], [198, 51, 100, 7, 0x12, 0x34, 0, 80, 4, 0, 0, 0]);
        assert_eq!(out[72..88], [1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x22, 0x05, 0xb4, 11, 9, 7, 0]);
        assert_eq!(out[88..103], [0, 0, 0, 3, 0, 0, 0, 0, 0x03, 0xe8, 0, 0, b'a', b'b', b'c']);
    }
}
