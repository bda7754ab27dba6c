//! ARP over Ethernet for IPv4 (RFC 826).

use super::ethernet::{HEADER, MacAddr, ethertype};
use std::net::Ipv4Addr;

/// Bytes of an ARP packet for Ethernet and IPv4.
pub const PACKET: usize = 28;

/// An ARP packet for Ethernet and IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// 1 asks, 2 answers.
    pub operation: u16,
    /// Sender's link-layer address.
    pub sender_mac: MacAddr,
    /// Sender's address.
    pub sender: Ipv4Addr,
    /// Target's link-layer address; zero in a request.
    pub target_mac: MacAddr,
    /// Target's address.
    pub target: Ipv4Addr,
}

impl Arp {
    /// Reads the packet behind an Ethernet header; `None` when it is short or for other address families.
    pub fn parse(b: &[u8]) -> Option<Arp> {
        let b: &[u8; PACKET] = b.first_chunk()?;
        if b[..6] != [0, 1, 8, 0, 6, 4] {
            return None;
        }
        let mac = |at: usize| MacAddr([b[at], b[at + 1], b[at + 2], b[at + 3], b[at + 4], b[at + 5]]);
        let ip = |at: usize| Ipv4Addr::new(b[at], b[at + 1], b[at + 2], b[at + 3]);
        Some(Arp {
            operation: u16::from_be_bytes([b[6], b[7]]),
            sender_mac: mac(8),
            sender: ip(14),
            target_mac: mac(18),
            target: ip(24),
        })
    }

    /// The whole frame that carries this packet from `sender_mac` to `to`.
    pub fn frame(&self, to: MacAddr) -> [u8; HEADER + PACKET] {
        let mut f = [0; HEADER + PACKET];
        f[..6].copy_from_slice(&to.0);
        f[6..12].copy_from_slice(&self.sender_mac.0);
        f[12..14].copy_from_slice(&ethertype::ARP.to_be_bytes());
        f[14..20].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
        f[20..22].copy_from_slice(&self.operation.to_be_bytes());
        f[22..28].copy_from_slice(&self.sender_mac.0);
        f[28..32].copy_from_slice(&self.sender.octets());
        f[32..38].copy_from_slice(&self.target_mac.0);
        f[38..42].copy_from_slice(&self.target.octets());
        f
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let arp = Arp {
            operation: 1,
            sender_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            sender: Ipv4Addr::new(192, 0, 2, 1),
            target_mac: MacAddr::default(),
            target: Ipv4Addr::new(192, 0, 2, 2),
        };
        let frame = arp.frame(MacAddr::BROADCAST);
        assert_eq!(Arp::parse(&frame[14..]), Some(arp));
        assert_eq!(Arp::parse(&frame[14..41]), None);
    }
}
