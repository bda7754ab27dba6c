//! Building whole frames: for tests, load generation, and the director's own answers. Not for the fast path.

use super::ethernet::{self, MacAddr, ethertype};
use super::{ipv4, ipv6, parse, protocol};
use crate::checksum::{Sum, pseudo_header};
use std::net::{IpAddr, SocketAddr};

/// A packet to be put into bytes.
#[derive(Debug, Clone)]
pub struct Packet {
    /// Link-layer source.
    pub source_mac: MacAddr,
    /// Link-layer destination.
    pub destination_mac: MacAddr,
    /// Source address and port.
    pub source: SocketAddr,
    /// Destination address and port, of the same family.
    pub destination: SocketAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
    /// The don't-fragment bit (IPv4).
    pub dont_fragment: bool,
    /// What it carries.
    pub transport: Transport,
    /// Payload behind the transport header.
    pub payload: Vec<u8>,
}

/// Transport header of a [`Packet`].
#[derive(Debug, Clone)]
pub enum Transport {
    /// TCP: flags, sequence, acknowledgement, window, and options (a multiple of 4 bytes, at most 40).
    Tcp {
        /// Flag bits.
        flags: u8,
        /// Sequence number.
        seq: u32,
        /// Acknowledgement number.
        ack: u32,
        /// Window, not scaled.
        window: u16,
        /// Options.
        options: Vec<u8>,
    },
    /// UDP, with checksum.
    Udp,
    /// Another protocol: the payload is all there is.
    Raw(u8),
}

impl Packet {
    /// A TCP segment with the usual defaults.
    pub fn tcp(source: SocketAddr, destination: SocketAddr, flags: u8) -> Self {
        let transport = Transport::Tcp { flags, seq: 1, ack: 1, window: 65535, options: vec![] };
        Packet { transport, ..Packet::udp(source, destination) }
    }

    /// A UDP datagram with the usual defaults.
    pub fn udp(source: SocketAddr, destination: SocketAddr) -> Self {
        Packet {
            source_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            destination_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            source,
            destination,
            ttl: 64,
            tos: 0,
            dont_fragment: true,
            transport: Transport::Udp,
            payload: vec![],
        }
    }

    /// The same packet with this payload.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// The same packet padded with a payload to `len` bytes on the wire without FCS (60 for the smallest Ethernet frame).
    #[must_use]
    pub fn sized(mut self, len: usize) -> Self {
        let now = self.frame().len();
        let grow = self.payload.len() + len.saturating_sub(now);
        self.payload.resize(grow, 0);
        self
    }

    /// The frame's bytes, every checksum right.
    ///
    /// # Panics
    /// When the families of source and destination differ, or the packet exceeds 65,535 bytes.
    pub fn frame(&self) -> Vec<u8> {
        let (proto, mut l4) = match &self.transport {
            Transport::Tcp { flags, seq, ack, window, options } => {
                let mut h = Vec::with_capacity(20 + options.len());
                h.extend(self.source.port().to_be_bytes());
                h.extend(self.destination.port().to_be_bytes());
                h.extend(seq.to_be_bytes());
                h.extend(ack.to_be_bytes());
                h.push((((20 + options.len()) / 4) as u8) << 4);
                h.push(*flags);
                h.extend(window.to_be_bytes());
                h.extend([0; 4]);
                h.extend(options);
                (protocol::TCP, h)
            }
            Transport::Udp => {
                let mut h = vec![0; 8];
                assert!(super::udp::write(&mut h, self.source.port(), self.destination.port(), self.payload.len()));
                (protocol::UDP, h)
            }
            Transport::Raw(p) => (*p, vec![]),
        };
        l4.extend(&self.payload);
        let mut f = vec![0; ethernet::HEADER];
        f[..6].copy_from_slice(&self.destination_mac.0);
        f[6..12].copy_from_slice(&self.source_mac.0);
        let kind = if self.source.is_ipv4() { ethertype::IPV4 } else { ethertype::IPV6 };
        f[12..14].copy_from_slice(&kind.to_be_bytes());
        let written = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                f.resize(ethernet::HEADER + ipv4::HEADER, 0);
                let flags = if self.dont_fragment { ipv4::DF } else { 0 };
                ipv4::write(&mut f[14..], self.tos, l4.len(), 0, flags, self.ttl, proto, s, d)
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                f.resize(ethernet::HEADER + ipv6::HEADER, 0);
                ipv6::write(&mut f[14..], self.tos, l4.len(), proto, self.ttl, s, d)
            }
            _ => panic!("source and destination are of different families"),
        };
        assert!(written, "the packet exceeds 65,535 bytes");
        f.extend(&l4);
        if let Ok(parsed) = parse(&f, false) {
            parse::fill_transport_checksum(&mut f, &parsed);
        }
        f
    }
}

/// Fills the checksum of an ICMP message (`bytes` from its type on), with the pseudo-header for ICMPv6.
pub fn fill_icmp_checksum(bytes: &mut [u8], addresses_v6: Option<&[u8]>) {
    if bytes.len() < 4 {
        return;
    }
    bytes[2..4].fill(0);
    let start = addresses_v6.map_or(Sum::ZERO, |a| pseudo_header(a, protocol::ICMPV6, bytes.len() as u32));
    let c = start.bytes(bytes).checksum();
    bytes[2..4].copy_from_slice(&c.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;
    use crate::headers::parse::{checksum_is_partial, transport_checksum_ok};

    #[test]
    fn what_is_built_parses_with_right_checksums() {
        for (s, d) in [("192.0.2.1:1000", "198.51.100.1:80"), ("[2001:db8::1]:1000", "[2001:db8::2]:80")] {
            let (s, d): (SocketAddr, SocketAddr) = (s.parse().unwrap(), d.parse().unwrap());
            for p in [Packet::tcp(s, d, 0x18), Packet::udp(s, d)] {
                let mut f = p.payload(b"hello").frame();
                let parsed = parse(&f, true).unwrap();
                assert!(matches!(parsed.kind, Kind::Transport4 | Kind::Transport6));
                assert!(transport_checksum_ok(&f, &parsed));
                assert!(!checksum_is_partial(&f, &parsed));
                // What a sender with transmit offload leaves in the field: the pseudo-header's sum.
                let at = usize::from(parsed.l4) + parse::checksum_offset(parsed.protocol);
                let l3 = usize::from(parsed.l3);
                let addresses = if s.is_ipv4() { &f[l3 + 12..l3 + 20] } else { &f[l3 + 8..l3 + 40] };
                let pseudo = pseudo_header(addresses, parsed.protocol, u32::from(parsed.end - parsed.l4)).fold();
                f[at..at + 2].copy_from_slice(&pseudo.to_ne_bytes());
                assert!(checksum_is_partial(&f, &parsed));
                assert!(parse::fill_transport_checksum(&mut f, &parsed));
                assert!(transport_checksum_ok(&f, &parsed));
            }
        }
    }
}
