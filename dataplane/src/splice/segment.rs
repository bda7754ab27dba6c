//! The director's own TCP segments.

use crate::checksum::{Sum, pseudo_header};
use crate::flow::Key;
use crate::frame::Frame;
use crate::headers::{ethernet, ipv4, ipv6, protocol, tcp};
use std::net::Ipv6Addr;

/// TTL, or hop limit, of the director's own segments.
const TTL: u8 = 64;

/// A segment to be written into a frame. Numbers are those of its receiver's space.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'s> {
    /// Source and destination.
    pub key: Key,
    /// Flag bits.
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Window, as it stands in the header.
    pub window: u16,
    /// Options, a multiple of four bytes.
    pub options: &'s [u8],
    /// Payload.
    pub payload: Payload<'s>,
}

/// Bytes of a segment, and their sum where that is known already.
#[derive(Debug, Clone, Copy)]
pub struct Payload<'s> {
    bytes: &'s [u8],
    sum: Option<u16>,
}

impl<'s> Payload<'s> {
    /// None.
    pub const NONE: Payload<'static> = Payload { bytes: &[], sum: None };

    /// Bytes of which `sum` is the one's complement sum, folded, in memory order, if it is known. A wrong one makes a wrong checksum.
    pub fn summed(bytes: &'s [u8], sum: Option<u16>) -> Self {
        Payload { bytes, sum }
    }
}

impl<'s> From<&'s [u8]> for Payload<'s> {
    fn from(bytes: &'s [u8]) -> Self {
        Payload { bytes, sum: None }
    }
}

impl Segment<'_> {
    /// Writes the whole frame, with every checksum right and DF set. `link` is destination and source address.
    /// `false`, with the frame's length unchanged or 0, when it does not fit the buffer.
    #[must_use]
    pub fn write(&self, frame: &mut Frame, link: &[u8; 12]) -> bool {
        let header = tcp::HEADER + self.options.len();
        let length = header + self.payload.bytes.len();
        if self.options.len() > 40 || !self.options.len().is_multiple_of(4) {
            return false;
        }
        let Key::V4 { addresses, ports } = self.key else { return self.write_v6(frame, link, length) };
        let Ok(total) = u16::try_from(ethernet::HEADER + ipv4::HEADER + length) else { return false };
        if !frame.set_len(total) {
            return false;
        }
        let Some((h, rest)) = frame.bytes_mut().split_first_chunk_mut::<54>() else { return false };
        let packet = total - ethernet::HEADER as u16;
        h[..12].copy_from_slice(link);
        h[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 0]);
        h[16..18].copy_from_slice(&packet.to_be_bytes());
        h[18..24].copy_from_slice(&[0, 0, 0x40, 0, TTL, protocol::TCP]);
        let sum = Sum::ZERO.word64(addresses);
        let ip = sum.number(0x4500).number(packet).number(ipv4::DF).number(u16::from_be_bytes([TTL, protocol::TCP]));
        h[24..26].copy_from_slice(&ip.checksum().to_ne_bytes());
        h[26..34].copy_from_slice(&addresses.to_ne_bytes());
        let pseudo = sum.number(packet - ipv4::HEADER as u16).number(u16::from(protocol::TCP));
        if let Some(t) = h.last_chunk_mut() {
            self.write_tcp(t, rest, ports, pseudo);
        }
        true
    }

    #[inline(never)]
    fn write_v6(&self, frame: &mut Frame, link: &[u8; 12], length: usize) -> bool {
        const L4: usize = ethernet::HEADER + ipv6::HEADER;
        let (Key::V6 { addresses: a, ports }, Ok(total)) = (self.key, u16::try_from(L4 + length)) else { return false };
        if !frame.set_len(total) {
            return false;
        }
        let Some((h, rest)) = frame.bytes_mut().split_first_chunk_mut::<{ L4 + tcp::HEADER }>() else { return false };
        h[..12].copy_from_slice(link);
        h[12..14].copy_from_slice(&ethernet::ethertype::IPV6.to_be_bytes());
        let (halves, _) = a.as_chunks::<16>();
        let (source, destination) = (Ipv6Addr::from(halves[0]), Ipv6Addr::from(halves[1]));
        if !ipv6::write(&mut h[14..], 0, length, protocol::TCP, TTL, source, destination) {
            return false;
        }
        if let Some(t) = h.last_chunk_mut() {
            self.write_tcp(t, rest, ports, pseudo_header(&a, protocol::TCP, length as u32));
        }
        true
    }

    /// Writes the TCP header, and options and payload in what is behind it.
    #[inline(always)]
    fn write_tcp(&self, t: &mut [u8; tcp::HEADER], rest: &mut [u8], ports: u32, pseudo: Sum) {
        let offset = ((tcp::HEADER + self.options.len()) / 4) as u8 * 16;
        t[..4].copy_from_slice(&ports.to_ne_bytes());
        t[4..8].copy_from_slice(&self.seq.to_be_bytes());
        t[8..12].copy_from_slice(&self.ack.to_be_bytes());
        t[12] = offset;
        t[13] = self.flags;
        t[14..16].copy_from_slice(&self.window.to_be_bytes());
        t[18..].fill(0);
        let mut sum = pseudo
            .word32(ports)
            .word32(self.seq.to_be())
            .word32(self.ack.to_be())
            .number(u16::from_be_bytes([offset, self.flags]))
            .number(self.window);
        let mut rest = rest;
        // Word by word: there are few, and mostly none.
        for word in self.options.as_chunks::<4>().0 {
            let Some((place, behind)) = rest.split_first_chunk_mut::<4>() else { return };
            *place = *word;
            sum = sum.word32(u32::from_ne_bytes(*word));
            rest = behind;
        }
        if !rest.is_empty() {
            rest.copy_from_slice(self.payload.bytes);
            sum = match self.payload.sum {
                Some(known) => sum.word(known),
                None => sum.bytes(self.payload.bytes),
            };
        }
        t[16..18].copy_from_slice(&sum.checksum().to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::parse::transport_checksum_ok;
    use crate::headers::{parse, tcp::Tcp};
    use crate::port::Port;
    use crate::port::memory::MemoryPort;

    #[test]
    fn what_is_written_parses_with_right_checksums() {
        let mut port = MemoryPort::new(1, 4);
        for (s, d) in [("192.0.2.1:1000", "198.51.100.1:80"), ("[2001:db8::1]:1000", "[2001:db8::2]:80")] {
            let key = Key::new(s.parse().unwrap(), d.parse().unwrap()).unwrap();
            let segment = Segment {
                key,
                flags: tcp::flags::ACK,
                seq: 0xffff_fff0,
                ack: 7,
                window: 512,
                options: &[2, 4, 5, 0xb4],
                payload: b"odd"[..].into(),
            };
            let mut f = port.allocate().unwrap();
            assert!(segment.write(&mut f, &[1; 12]));
            let p = parse(f.bytes(), true).unwrap();
            assert!(transport_checksum_ok(f.bytes(), &p));
            let t = Tcp::parse(&f.bytes()[p.l4 as usize..p.end as usize]).unwrap();
            assert_eq!((t.seq().0, t.ack().0, t.window(), t.payload()), (0xffff_fff0, 7, 512, &b"odd"[..]));
            let known = Sum::ZERO.bytes(b"odd").fold();
            let (written, n) = (f.bytes().to_vec(), f.len());
            assert!(Segment { payload: Payload::summed(b"odd", Some(known)), ..segment }.write(&mut f, &[1; 12]));
            assert_eq!((f.bytes(), f.len()), (&written[..], n));
            let big = Segment { payload: [0; 3000][..].into(), ..segment };
            assert!(!big.write(&mut f, &[1; 12]));
            port.release(f);
        }
    }
}
