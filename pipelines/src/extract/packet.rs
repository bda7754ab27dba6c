//! Variables that stand in the packet itself: addresses, ports, TTL, any bits of the IP header and what follows it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::matching::{Field, GroupId, Number, Variable};

/// What is known before the first byte of payload.
pub trait Connection {
    /// A variable of [`Class::Connection`](crate::matching::Class::Connection).
    fn field(&self, variable: &Variable) -> Field<'_>;
}

/// The state of the server groups, for `server_up` and `connections`.
pub trait Groups {
    /// Whether some server of the group is up.
    fn is_up(&self, group: GroupId) -> bool;
    /// Active connections of the group.
    fn connections(&self, group: GroupId) -> u64;
}

/// No groups: none is up, none has connections.
impl Groups for () {
    fn is_up(&self, _: GroupId) -> bool {
        false
    }
    fn connections(&self, _: GroupId) -> u64 {
        0
    }
}

/// Bytes of a packet that rules may look at, from the first one of its IP header: as far as `bitmatch` reaches in the rule language.
/// Wherever a request is read, it is read with so much of its last packet, so that it is decided alike.
pub const PACKET_BYTES: usize = 256;

/// The headers of one packet of the connection (its last with payload, say), and the groups.
#[derive(Debug, Clone, Copy)]
pub struct PacketFacts<'p, G> {
    /// From the first byte of the IP header to the end of the packet, or as far as is kept of it ([`PACKET_BYTES`]).
    pub packet: &'p [u8],
    /// The groups.
    pub groups: &'p G,
}

/// IPv6 extension headers that are passed over to find the transport.
const MAX_EXTENSIONS: usize = 8;

impl<G: Groups> Connection for PacketFacts<'_, G> {
    fn field(&self, variable: &Variable) -> Field<'_> {
        let number = |value: Option<u64>| value.map_or(Field::Absent, |value| Field::Number(Number::from(value)));
        let packet = self.packet;
        let byte = |at: usize| packet.get(at).map(|&b| u64::from(b));
        let v4 = match packet.first().map(|b| b >> 4) {
            Some(4) => true,
            Some(6) => false,
            _ => return self.group(variable),
        };
        match variable {
            Variable::IpSrc => address(packet, v4, if v4 { 12 } else { 8 }),
            Variable::IpDst => address(packet, v4, if v4 { 16 } else { 24 }),
            Variable::IpTtl => number(byte(if v4 { 8 } else { 7 })),
            Variable::IpTos if v4 => number(byte(1)),
            Variable::IpTos => number(byte(0).zip(byte(1)).map(|(a, b)| (a & 0xf) << 4 | b >> 4)),
            Variable::IpProto => number(transport(packet, v4).map(|(protocol, _)| protocol.into())),
            Variable::PortSrc => number(port(packet, v4, 0)),
            Variable::PortDst => number(port(packet, v4, 2)),
            Variable::Bits { offset, bits, mask } => number(self.bits(*offset, *bits).map(|value| value & mask)),
            _ => self.group(variable),
        }
    }
}

impl<G: Groups> PacketFacts<'_, G> {
    fn group(&self, variable: &Variable) -> Field<'_> {
        match variable {
            Variable::ServerUp(group) => Field::Number(u64::from(self.groups.is_up(*group)).into()),
            Variable::Connections(group) => Field::Number(self.groups.connections(*group).into()),
            _ => Field::Absent,
        }
    }

    /// Bits in network order; absent beyond the packet.
    fn bits(&self, offset: u32, bits: u8) -> Option<u64> {
        let (first, last) = (offset as usize, (offset as usize).checked_add(bits.into())?);
        let bytes = self.packet.get(first / 8..last.div_ceil(8))?;
        let value = bytes.iter().fold(0_u128, |sum, byte| sum << 8 | u128::from(*byte));
        let value = value >> ((8 - last % 8) % 8);
        Some((value & ((1_u128 << bits) - 1)) as u64)
    }
}

fn address(packet: &[u8], v4: bool, at: usize) -> Field<'static> {
    let address = if v4 {
        packet.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(|b| IpAddr::V4(Ipv4Addr::from(b)))
    } else {
        packet.get(at..at + 16).and_then(|b| <[u8; 16]>::try_from(b).ok()).map(|b| IpAddr::V6(Ipv6Addr::from(b)))
    };
    address.map_or(Field::Absent, Field::Address)
}

/// Transport protocol, and where its header begins.
fn transport(packet: &[u8], v4: bool) -> Option<(u8, usize)> {
    if v4 {
        return Some((*packet.get(9)?, usize::from(packet.first()? & 0xf) * 4));
    }
    let (mut next, mut at) = (*packet.get(6)?, 40);
    for _ in 0..MAX_EXTENSIONS {
        // RFC 8200 section 4: hop-by-hop, routing, destination options; fragment headers are eight bytes long.
        match next {
            0 | 43 | 60 => {
                next = *packet.get(at)?;
                at += 8 + usize::from(*packet.get(at + 1)?) * 8;
            }
            44 => {
                next = *packet.get(at)?;
                at += 8;
            }
            _ => break,
        }
    }
    Some((next, at))
}

fn port(packet: &[u8], v4: bool, offset: usize) -> Option<u64> {
    let (protocol, at) = transport(packet, v4)?;
    // TCP, UDP, DCCP, SCTP, UDP-Lite
    if !matches!(protocol, 6 | 17 | 33 | 132 | 136) {
        return None;
    }
    let bytes = packet.get(at + offset..at + offset + 2)?;
    Some(u64::from(bytes[0]) << 8 | u64::from(bytes[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(packet: &[u8], variable: Variable) -> Option<Number> {
        match (PacketFacts { packet, groups: &() }).field(&variable) {
            Field::Number(number) => Some(number),
            Field::Absent => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn variables_of_an_ipv4_packet_with_options() {
        let mut packet = vec![0; 24 + 20];
        packet[0] = 0x46;
        packet[1] = 0xb8;
        packet[8] = 64;
        packet[9] = 6;
        packet[12..20].copy_from_slice(&[203, 0, 113, 7, 192, 0, 2, 1]);
        packet[24..28].copy_from_slice(&[0x9c, 0x40, 0, 80]);
        let facts = PacketFacts { packet: &packet, groups: &() };
        assert_eq!(facts.field(&Variable::IpSrc), Field::Address("203.0.113.7".parse().unwrap()));
        assert_eq!(facts.field(&Variable::IpDst), Field::Address("192.0.2.1".parse().unwrap()));
        for (variable, value) in [
            (Variable::IpTtl, 64),
            (Variable::IpTos, 0xb8),
            (Variable::IpProto, 6),
            (Variable::PortSrc, 40000),
            (Variable::PortDst, 80),
            // The tutorial's bitmatch(64, 8, 0xff).
            (Variable::Bits { offset: 64, bits: 8, mask: 0xff }, 64),
            (Variable::Bits { offset: 4, bits: 4, mask: 0xf }, 6),
            (Variable::Bits { offset: 5, bits: 3, mask: 0xf }, 6),
            (Variable::Bits { offset: 62, bits: 4, mask: 0xf }, 1),
        ] {
            assert_eq!(number(&packet, variable.clone()), Some(value.into()), "{variable:?}");
        }
        let wide = Variable::Bits { offset: 96, bits: 64, mask: u64::MAX };
        assert_eq!(number(&packet, wide), Some(0xcb00_7107_c000_0201_u64.into()));
        assert_eq!(number(&packet, Variable::Bits { offset: 44 * 8 - 1, bits: 2, mask: 3 }), None);
        assert_eq!(number(&packet[..26], Variable::PortDst), None);
        assert_eq!(number(&[], Variable::IpTtl), None);
    }

    #[test]
    fn ports_behind_ipv6_extension_headers() {
        let mut packet = vec![0; 40 + 8 + 16 + 20];
        packet[0] = 0x6a;
        packet[1] = 0x50;
        packet[6] = 0;
        packet[7] = 63;
        packet[40] = 60;
        packet[48] = 6;
        packet[49] = 1;
        packet[64..68].copy_from_slice(&[1, 0, 0, 25]);
        assert_eq!(number(&packet, Variable::PortDst), Some(25.into()));
        assert_eq!(number(&packet, Variable::IpProto), Some(6.into()));
        assert_eq!(number(&packet, Variable::IpTtl), Some(63.into()));
        assert_eq!(number(&packet, Variable::IpTos), Some(0xa5.into()));
        packet[49] = 255;
        assert_eq!(number(&packet, Variable::PortDst), None);
    }
}
