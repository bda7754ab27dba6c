//! What a connection is known by: its packets' addresses and ports.

use super::hash::Hasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Source and destination of a packet, as they stand in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// IPv4.
    V4 {
        /// Source and destination address.
        addresses: u64,
        /// Source and destination port.
        ports: u32,
    },
    /// IPv6.
    V6 {
        /// Source and destination address.
        addresses: [u8; 32],
        /// Source and destination port.
        ports: u32,
    },
}

impl Key {
    /// The key of packets from `source` to `destination`; `None` when their families differ.
    #[inline]
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Option<Key> {
        let mut p = [0; 4];
        p[..2].copy_from_slice(&source.port().to_be_bytes());
        p[2..].copy_from_slice(&destination.port().to_be_bytes());
        let ports = u32::from_ne_bytes(p);
        match (source.ip(), destination.ip()) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                let mut a = [0; 8];
                a[..4].copy_from_slice(&s.octets());
                a[4..].copy_from_slice(&d.octets());
                Some(Key::V4 { addresses: u64::from_ne_bytes(a), ports })
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                let mut a = [0; 32];
                a[..16].copy_from_slice(&s.octets());
                a[16..].copy_from_slice(&d.octets());
                Some(Key::V6 { addresses: a, ports })
            }
            _ => None,
        }
    }

    pub(super) fn ports(&self) -> u32 {
        match self {
            Key::V4 { ports, .. } | Key::V6 { ports, .. } => *ports,
        }
    }

    /// The key of packets the other way.
    #[inline]
    #[must_use]
    pub fn reversed(&self) -> Key {
        match self {
            Key::V4 { addresses, ports } => {
                Key::V4 { addresses: addresses.rotate_left(32), ports: ports.rotate_left(16) }
            }
            Key::V6 { addresses, ports } => {
                let mut turned = *addresses;
                turned.rotate_left(16);
                Key::V6 { addresses: turned, ports: ports.rotate_left(16) }
            }
        }
    }

    /// Source address and port.
    #[inline]
    pub fn source(&self) -> SocketAddr {
        self.endpoint(0)
    }

    /// Destination address and port.
    #[inline]
    pub fn destination(&self) -> SocketAddr {
        self.endpoint(1)
    }

    /// The key of packets that another host answers this packet's sender with, from that address and port; `None` when the families differ.
    #[inline]
    pub fn answered_by(&self, host: SocketAddr) -> Option<Key> {
        let p = self.ports().to_ne_bytes();
        let [a, b] = host.port().to_be_bytes();
        let ports = u32::from_ne_bytes([a, b, p[0], p[1]]);
        Some(match (self, host.ip()) {
            (Key::V4 { addresses, .. }, IpAddr::V4(by)) => {
                let (from, [c, d, e, f, ..]) = (by.octets(), addresses.to_ne_bytes());
                let addresses = u64::from_ne_bytes([from[0], from[1], from[2], from[3], c, d, e, f]);
                Key::V4 { addresses, ports }
            }
            (Key::V6 { addresses, .. }, IpAddr::V6(by)) => {
                let mut turned = [0; 32];
                turned[..16].copy_from_slice(&by.octets());
                turned[16..].copy_from_slice(&addresses[..16]);
                Key::V6 { addresses: turned, ports }
            }
            _ => return None,
        })
    }

    /// Port that packets go to, host order.
    #[inline]
    pub fn destination_port(&self) -> u16 {
        let p = self.ports().to_ne_bytes();
        u16::from_be_bytes([p[2], p[3]])
    }

    /// Whether packets go to this address and port.
    #[inline]
    pub fn is_to(&self, address: IpAddr, port: u16) -> bool {
        let same = match (self, address) {
            (Key::V4 { addresses, .. }, IpAddr::V4(a)) => addresses.to_ne_bytes()[4..] == a.octets(),
            (Key::V6 { addresses, .. }, IpAddr::V6(a)) => addresses[16..] == a.octets(),
            _ => false,
        };
        same && self.ports().to_ne_bytes()[2..] == port.to_be_bytes()
    }

    #[inline]
    fn endpoint(&self, which: usize) -> SocketAddr {
        let p = self.ports().to_ne_bytes();
        let port = u16::from_be_bytes([p[which * 2], p[which * 2 + 1]]);
        let ip = match self {
            Key::V4 { addresses, .. } => {
                let a = addresses.to_ne_bytes();
                let at = which * 4;
                IpAddr::V4(Ipv4Addr::new(a[at], a[at + 1], a[at + 2], a[at + 3]))
            }
            Key::V6 { addresses, .. } => {
                let (halves, _) = addresses.as_chunks::<16>();
                IpAddr::V6(Ipv6Addr::from(halves[which]))
            }
        };
        SocketAddr::new(ip, port)
    }

    /// The key's hash.
    #[inline]
    pub fn hash(&self, hasher: &Hasher, protocol: u8) -> u64 {
        match self {
            Key::V4 { addresses, ports } => hasher.v4(*addresses, *ports, protocol),
            Key::V6 { addresses, ports } => hasher.v6(addresses, *ports, protocol),
        }
    }
}

/// The four addresses of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The client's packets: from the client to the virtual service.
    pub client: Key,
    /// The server's packets, where they come back through the director.
    pub server: Option<Key>,
}

impl Addresses {
    /// Whether the server sees an address of the director in the client's place (full NAT).
    pub fn hides_client(&self) -> bool {
        self.server.is_some_and(|server| server.destination() != self.client.source())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_way_is_source_and_destination_swapped() {
        for (s, d) in [("192.0.2.1:1000", "198.51.100.1:80"), ("[2001:db8::1]:1000", "[2001:db8::2]:80")] {
            let (s, d) = (s.parse().unwrap(), d.parse().unwrap());
            let key = Key::new(s, d).unwrap();
            assert_eq!(key.reversed(), Key::new(d, s).unwrap());
            assert_eq!((key.source(), key.destination()), (s, d));
            let server = SocketAddr::new(d.ip(), 8080);
            assert_eq!(key.answered_by(server), Key::new(server, s));
            let other_family: SocketAddr = if d.is_ipv4() { "[::1]:80" } else { "127.0.0.1:80" }.parse().unwrap();
            assert_eq!(key.answered_by(other_family), None);
            assert_eq!(key.destination_port(), d.port());
            assert!(key.is_to(d.ip(), d.port()) && !key.is_to(s.ip(), d.port()) && !key.is_to(d.ip(), s.port()));
        }
    }
}
