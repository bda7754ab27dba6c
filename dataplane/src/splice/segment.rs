//! The director's own TCP segments.

use crate::checksum::pseudo_header;
use crate::flow::Key;
use crate::frame::Frame;
use crate::headers::{ethernet, ipv4, ipv6, protocol, tcp};
use std::net::{Ipv4Addr, Ipv6Addr};

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
    pub payload: &'s [u8],
}

impl Segment<'_> {
    /// Writes the whole frame, with every checksum right and DF set. `link` is destination and source address.
    /// `false`, with the frame's length unchanged or 0, when it does not fit the buffer.
    #[must_use]
    pub fn write(&self, frame: &mut Frame, link: &[u8; 12]) -> bool {
        let v6 = matches!(self.key, Key::V6 { .. });
        let ip = if v6 { ipv6::HEADER } else { ipv4::HEADER };
        let header = tcp::HEADER + self.options.len();
        let length = header + self.payload.len();
        let l4 = ethernet::HEADER + ip;
        let Ok(total) = u16::try_from(l4 + length) else { return false };
        if self.options.len() > 40 || !self.options.len().is_multiple_of(4) || !frame.set_len(total) {
            return false;
        }
        let b = frame.bytes_mut();
        b[..12].copy_from_slice(link);
        let (sum, ports) = match self.key {
            Key::V4 { addresses, ports } => {
                b[12..14].copy_from_slice(&ethernet::ethertype::IPV4.to_be_bytes());
                let a = addresses.to_ne_bytes();
                let (s, d) = (Ipv4Addr::new(a[0], a[1], a[2], a[3]), Ipv4Addr::new(a[4], a[5], a[6], a[7]));
                if !ipv4::write(&mut b[14..], 0, length, 0, ipv4::DF, 64, protocol::TCP, s, d) {
                    return false;
                }
                (pseudo_header(&a, protocol::TCP, length as u32), ports)
            }
            Key::V6 { addresses: a, ports } => {
                b[12..14].copy_from_slice(&ethernet::ethertype::IPV6.to_be_bytes());
                let (halves, _) = a.as_chunks::<16>();
                if !ipv6::write(
                    &mut b[14..],
                    0,
                    length,
                    protocol::TCP,
                    64,
                    Ipv6Addr::from(halves[0]),
                    Ipv6Addr::from(halves[1]),
                ) {
                    return false;
                }
                (pseudo_header(&a, protocol::TCP, length as u32), ports)
            }
        };
        let Some((t, rest)) = b.get_mut(l4..).and_then(|t| t.split_first_chunk_mut::<{ tcp::HEADER }>()) else {
            return false;
        };
        let offset = (header / 4) as u8 * 16;
        t[..4].copy_from_slice(&ports.to_ne_bytes());
        t[4..8].copy_from_slice(&self.seq.to_be_bytes());
        t[8..12].copy_from_slice(&self.ack.to_be_bytes());
        t[12] = offset;
        t[13] = self.flags;
        t[14..16].copy_from_slice(&self.window.to_be_bytes());
        t[18..].fill(0);
        let mut sum = sum
            .word32(ports)
            .word32(self.seq.to_be())
            .word32(self.ack.to_be())
            .number(u16::from_be_bytes([offset, self.flags]))
            .number(self.window);
        // Most segments have neither.
        if !rest.is_empty() {
            let (options, payload) = rest.split_at_mut(self.options.len());
            options.copy_from_slice(self.options);
            payload.copy_from_slice(self.payload);
            sum = sum.bytes(self.options).bytes(self.payload);
        }
        t[16..18].copy_from_slice(&sum.checksum().to_ne_bytes());
        true
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
                payload: b"odd",
            };
            let mut f = port.allocate().unwrap();
            assert!(segment.write(&mut f, &[1; 12]));
            let p = parse(f.bytes(), true).unwrap();
            assert!(transport_checksum_ok(f.bytes(), &p));
            let t = Tcp::parse(&f.bytes()[p.l4 as usize..p.end as usize]).unwrap();
            assert_eq!((t.seq().0, t.ack().0, t.window(), t.payload()), (0xffff_fff0, 7, 512, &b"odd"[..]));
            let big = Segment { payload: &[0; 3000], ..segment };
            assert!(!big.write(&mut f, &[1; 12]));
            port.release(f);
        }
    }
}
