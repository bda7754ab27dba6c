//! IPv4 (RFC 791).

use super::{be16, put16};
use crate::checksum::Sum;
use crate::verdict::DropReason;
use std::net::Ipv4Addr;

/// Bytes of a header without options.
pub const HEADER: usize = 20;
/// Don't-fragment bit of the flags word.
pub const DF: u16 = 0x4000;
/// More-fragments bit of the flags word.
pub const MF: u16 = 0x2000;
/// Fragment offset, in units of 8 bytes, of the flags word.
pub const OFFSET: u16 = 0x1fff;

/// A checked view of a packet that starts with an IPv4 header.
#[derive(Debug, Clone, Copy)]
pub struct Ipv4<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Ipv4<T> {
    /// Checks version, header length and total length. Bytes beyond the total length (Ethernet padding) are ignored.
    ///
    /// # Errors
    /// [`DropReason::Truncated`] when the bytes end before the packet, [`DropReason::BadHeader`] for a
    /// version other than 4, a header length under 20, or a total length under the header's.
    #[inline]
    pub fn parse(bytes: T) -> Result<Self, DropReason> {
        let view = Ipv4 { bytes };
        let b = view.bytes.as_ref();
        if b.len() < HEADER {
            return Err(DropReason::Truncated);
        }
        let (header, total) = (view.header_len(), view.total_len());
        if b[0] >> 4 != 4 || header < HEADER || total < header {
            return Err(DropReason::BadHeader);
        }
        if b.len() < total {
            return Err(DropReason::Truncated);
        }
        Ok(view)
    }

    /// As [`Ipv4::parse`], for the packet embedded in an ICMP error, which may be cut after the header and 8 bytes (RFC 792).
    ///
    /// # Errors
    /// As [`Ipv4::parse`], but the bytes need hold only the header.
    pub fn parse_embedded(bytes: T) -> Result<Self, DropReason> {
        let view = Ipv4 { bytes };
        let b = view.bytes.as_ref();
        if b.len() < HEADER {
            return Err(DropReason::Truncated);
        }
        let header = view.header_len();
        if b[0] >> 4 != 4 || header < HEADER {
            return Err(DropReason::BadHeader);
        }
        if b.len() < header {
            return Err(DropReason::Truncated);
        }
        Ok(view)
    }

    /// Header length in bytes, options included.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.bytes.as_ref()[0] & 0x0f) * 4
    }

    /// Total length in bytes, header included.
    #[inline]
    pub fn total_len(&self) -> usize {
        usize::from(be16(self.bytes.as_ref(), 2))
    }

    /// Type of service: DSCP and ECN.
    pub fn tos(&self) -> u8 {
        self.bytes.as_ref()[1]
    }

    /// Identification.
    pub fn ident(&self) -> u16 {
        be16(self.bytes.as_ref(), 4)
    }

    /// The word of flags and fragment offset.
    #[inline]
    pub fn flags(&self) -> u16 {
        be16(self.bytes.as_ref(), 6)
    }

    /// Whether the packet may not be fragmented.
    pub fn dont_fragment(&self) -> bool {
        self.flags() & DF != 0
    }

    /// Time to live.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.bytes.as_ref()[8]
    }

    /// Protocol of the payload.
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.bytes.as_ref()[9]
    }

    /// Source address.
    pub fn source(&self) -> Ipv4Addr {
        let b = self.bytes.as_ref();
        Ipv4Addr::new(b[12], b[13], b[14], b[15])
    }

    /// Destination address.
    pub fn destination(&self) -> Ipv4Addr {
        let b = self.bytes.as_ref();
        Ipv4Addr::new(b[16], b[17], b[18], b[19])
    }

    /// Whether the header's checksum is right.
    #[inline]
    pub fn checksum_ok(&self) -> bool {
        Sum::ZERO.bytes(&self.bytes.as_ref()[..self.header_len()]).fold() == 0xffff
    }

    /// The payload, without padding; what there is of it in an embedded packet.
    pub fn payload(&self) -> &[u8] {
        let b = self.bytes.as_ref();
        let header = self.header_len();
        &b[header..self.total_len().clamp(header, b.len())]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ipv4<T> {
    /// Sets the TTL, without the checksum.
    pub fn set_ttl(&mut self, ttl: u8) {
        self.bytes.as_mut()[8] = ttl;
    }

    /// Sets the source address, without the checksum.
    pub fn set_source(&mut self, a: Ipv4Addr) {
        self.bytes.as_mut()[12..16].copy_from_slice(&a.octets());
    }

    /// Sets the destination address, without the checksum.
    pub fn set_destination(&mut self, a: Ipv4Addr) {
        self.bytes.as_mut()[16..20].copy_from_slice(&a.octets());
    }

    /// Sets the total length, without the checksum.
    pub fn set_total_len(&mut self, len: u16) {
        put16(self.bytes.as_mut(), 2, len);
    }

    /// Sets flags and fragment offset, without the checksum.
    pub fn set_flags(&mut self, flags: u16) {
        put16(self.bytes.as_mut(), 6, flags);
    }

    /// Computes the header checksum anew.
    pub fn fill_checksum(&mut self) {
        put16(self.bytes.as_mut(), 10, 0);
        let header = self.header_len();
        let c = Sum::ZERO.bytes(&self.bytes.as_ref()[..header]).checksum();
        self.bytes.as_mut()[10..12].copy_from_slice(&c.to_ne_bytes());
    }
}

/// Writes a header without options in the first 20 bytes of `b`, checksum included. `payload` is the payload's length in bytes.
///
/// Returns `false`, with nothing written, when `b` is shorter than that or the packet would exceed 65,535 bytes.
#[allow(clippy::too_many_arguments)]
#[inline]
pub fn write(
    b: &mut [u8],
    tos: u8,
    payload: usize,
    ident: u16,
    flags: u16,
    ttl: u8,
    protocol: u8,
    source: Ipv4Addr,
    destination: Ipv4Addr,
) -> bool {
    let Ok(total) = u16::try_from(payload + HEADER) else { return false };
    let Some(h) = b.first_chunk_mut::<HEADER>() else { return false };
    *h = [0; HEADER];
    h[0] = 0x45;
    h[1] = tos;
    h[2..4].copy_from_slice(&total.to_be_bytes());
    h[4..6].copy_from_slice(&ident.to_be_bytes());
    h[6..8].copy_from_slice(&flags.to_be_bytes());
    h[8] = ttl;
    h[9] = protocol;
    h[12..16].copy_from_slice(&source.octets());
    h[16..20].copy_from_slice(&destination.octets());
    // Of the numbers, not of the bytes: most of them are the same for every packet of a caller.
    let sum = Sum::ZERO
        .number(0x4500 | u16::from(tos))
        .number(total)
        .number(ident)
        .number(flags)
        .number(u16::from_be_bytes([ttl, protocol]))
        .word32(u32::from_ne_bytes(source.octets()))
        .word32(u32::from_ne_bytes(destination.octets()));
    h[10..12].copy_from_slice(&sum.checksum().to_ne_bytes());
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_come_from_the_packet() {
        let mut b = [0u8; 40];
        let (s, d) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
        assert!(write(&mut b, 0, 8, 1, DF, 64, 17, s, d));
        let v = Ipv4::parse(&b[..]).unwrap();
        assert!(v.checksum_ok());
        assert_eq!((v.total_len(), v.payload().len(), v.source(), v.destination()), (28, 8, s, d));
        assert_eq!(Ipv4::parse(&b[..27]).unwrap_err(), DropReason::Truncated);
        b[0] = 0x46;
        assert_eq!(Ipv4::parse(&b[..]).unwrap().payload().len(), 4);
        b[0] = 0x44;
        assert_eq!(Ipv4::parse(&b[..]).unwrap_err(), DropReason::BadHeader);
        b[0] = 0x48; // header longer than the total length
        assert_eq!(Ipv4::parse(&b[..]).unwrap_err(), DropReason::BadHeader);
    }
}
