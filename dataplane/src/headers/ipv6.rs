//! IPv6 (RFC 8200) and its extension headers.

use super::{be16, protocol};
use crate::verdict::DropReason;
use std::net::Ipv6Addr;

/// Bytes of the fixed header.
pub const HEADER: usize = 40;
/// Extension headers that we walk at most; a packet with more is refused as malformed.
pub const MAX_EXTENSIONS: usize = 8;

/// A checked view of a packet that starts with an IPv6 header.
#[derive(Debug, Clone, Copy)]
pub struct Ipv6<T> {
    bytes: T,
}

/// Where the extension headers of a packet end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// Protocol of what follows the extension headers.
    pub protocol: u8,
    /// Bytes from the start of the IPv6 header to it.
    pub offset: usize,
    /// The fragment header, when there is one.
    pub fragment: Option<Fragment>,
}

/// What a fragment header says (RFC 8200 §4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Offset in bytes.
    pub offset: u16,
    /// Whether more fragments follow.
    pub more: bool,
    /// Identification.
    pub ident: u32,
}

impl<T: AsRef<[u8]>> Ipv6<T> {
    /// Checks version and payload length.
    ///
    /// # Errors
    /// [`DropReason::Truncated`] when the bytes end before the packet, [`DropReason::BadHeader`] for another version.
    #[inline]
    pub fn parse(bytes: T) -> Result<Self, DropReason> {
        let view = Self::parse_embedded(bytes)?;
        if view.bytes.as_ref().len() < HEADER + view.payload_len() {
            return Err(DropReason::Truncated);
        }
        Ok(view)
    }

    /// As [`Ipv6::parse`], for the packet embedded in an ICMPv6 error, which may be cut anywhere.
    ///
    /// # Errors
    /// As [`Ipv6::parse`], but the bytes need hold only the fixed header.
    #[inline]
    pub fn parse_embedded(bytes: T) -> Result<Self, DropReason> {
        let b = bytes.as_ref();
        if b.len() < HEADER {
            return Err(DropReason::Truncated);
        }
        if b[0] >> 4 != 6 {
            return Err(DropReason::BadHeader);
        }
        Ok(Ipv6 { bytes })
    }

    /// Payload length in bytes, extension headers included.
    #[inline]
    pub fn payload_len(&self) -> usize {
        usize::from(be16(self.bytes.as_ref(), 4))
    }

    /// Traffic class: DSCP and ECN.
    pub fn traffic_class(&self) -> u8 {
        let b = self.bytes.as_ref();
        b[0] << 4 | b[1] >> 4
    }

    /// Next header after the fixed one.
    #[inline]
    pub fn next_header(&self) -> u8 {
        self.bytes.as_ref()[6]
    }

    /// Hop limit.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.bytes.as_ref()[7]
    }

    /// Source address.
    pub fn source(&self) -> Ipv6Addr {
        address(self.bytes.as_ref(), 8)
    }

    /// Destination address.
    pub fn destination(&self) -> Ipv6Addr {
        address(self.bytes.as_ref(), 24)
    }

    /// Walks the extension headers.
    ///
    /// # Errors
    /// [`DropReason::Truncated`] when the packet ends inside one, [`DropReason::BadHeader`] after [`MAX_EXTENSIONS`] of them.
    pub fn chain(&self) -> Result<Chain, DropReason> {
        let b = self.bytes.as_ref();
        let end = b.len().min(HEADER + self.payload_len());
        let (mut next, mut at, mut fragment) = (self.next_header(), HEADER, None);
        for _ in 0..=MAX_EXTENSIONS {
            let len = match next {
                // Hop-by-hop, routing and destination options count 8-byte units after the first.
                0 | 43 | 60 => usize::from(*b.get(at + 1).ok_or(DropReason::Truncated)?) * 8 + 8,
                // The authentication header counts 4-byte units, less two (RFC 4302 §2.2).
                51 => usize::from(*b.get(at + 1).ok_or(DropReason::Truncated)?) * 4 + 8,
                protocol::FRAGMENT => 8,
                _ => return Ok(Chain { protocol: next, offset: at, fragment }),
            };
            let header = b.get(at..at + len).filter(|_| at + len <= end).ok_or(DropReason::Truncated)?;
            if next == protocol::FRAGMENT {
                let word = be16(header, 2);
                let found = Fragment { offset: word & !7, more: word & 1 != 0, ident: super::be32(header, 4) };
                fragment = Some(found);
                if found.offset != 0 {
                    // What follows is the middle of a payload, not a header.
                    return Ok(Chain { protocol: header[0], offset: at + 8, fragment });
                }
            }
            next = header[0];
            at += len;
        }
        Err(DropReason::BadHeader)
    }
}

fn address(b: &[u8], at: usize) -> Ipv6Addr {
    Ipv6Addr::from(b.get(at..at + 16).and_then(|s| <[u8; 16]>::try_from(s).ok()).unwrap_or_default())
}

/// Writes a fixed header in the first 40 bytes of `b`. `payload` is in bytes.
///
/// Returns `false`, with nothing written, when `b` is shorter than that or the payload exceeds 65,535 bytes.
pub fn write(
    b: &mut [u8],
    traffic_class: u8,
    payload: usize,
    next_header: u8,
    hop_limit: u8,
    source: Ipv6Addr,
    destination: Ipv6Addr,
) -> bool {
    let Ok(payload) = u16::try_from(payload) else { return false };
    let Some(h) = b.first_chunk_mut::<HEADER>() else { return false };
    *h = [0; HEADER];
    h[0] = 0x60 | traffic_class >> 4;
    h[1] = traffic_class << 4;
    h[4..6].copy_from_slice(&payload.to_be_bytes());
    h[6] = next_header;
    h[7] = hop_limit;
    h[8..24].copy_from_slice(&source.octets());
    h[24..40].copy_from_slice(&destination.octets());
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut b = vec![0; HEADER];
        assert!(write(&mut b, 0xb8, payload.len(), next, 64, Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST));
        b.extend(payload);
        b
    }

    #[test]
    fn walks_extensions_to_the_transport_header() {
        let mut payload = vec![60, 0, 0, 0, 0, 0, 0, 0]; // hop-by-hop
        payload.extend([44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // destination options, 16 bytes
        payload.extend([6, 0, 0, 1, 0, 0, 0, 9]); // first fragment
        payload.extend([0; 20]);
        let p = packet(0, &payload);
        let v = Ipv6::parse(&p[..]).unwrap();
        assert_eq!(v.traffic_class(), 0xb8);
        let chain = v.chain().unwrap();
        assert_eq!((chain.protocol, chain.offset), (6, 40 + 32));
        assert_eq!(chain.fragment, Some(Fragment { offset: 0, more: true, ident: 9 }));
    }

    #[test]
    fn a_chain_that_runs_out_of_the_packet_or_never_ends_is_refused() {
        assert_eq!(Ipv6::parse(&packet(0, &[6, 200])[..]).unwrap().chain(), Err(DropReason::Truncated));
        assert_eq!(Ipv6::parse(&packet(0, &[])[..]).unwrap().chain(), Err(DropReason::Truncated));
        let endless: Vec<u8> = [60, 0, 0, 0, 0, 0, 0, 0].repeat(20);
        assert_eq!(Ipv6::parse(&packet(60, &endless)[..]).unwrap().chain(), Err(DropReason::BadHeader));
    }
}
