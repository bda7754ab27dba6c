//! One look at a frame: what it is, and the numbers that decide where it goes.

use super::ethernet::{self, ethertype};
use super::{be16, ipv4, ipv6, protocol};
use crate::checksum::Sum;
use crate::verdict::DropReason;

/// What a frame is, as far as the packet path must tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Kind {
    /// Not IP and not ARP, or a stack of tags.
    #[default]
    Other,
    /// ARP.
    Arp,
    /// TCP or UDP over IPv4, whole.
    Transport4,
    /// TCP or UDP over IPv6, whole.
    Transport6,
    /// ICMP over IPv4.
    Icmp4,
    /// ICMPv6.
    Icmp6,
    /// The first fragment of a TCP or UDP packet over IPv4, with its ports.
    First4,
    /// The first fragment of a TCP or UDP packet over IPv6, with its ports.
    First6,
    /// A later fragment over IPv4.
    Fragment4,
    /// A later fragment over IPv6.
    Fragment6,
    /// Another protocol over IPv4.
    Protocol4,
    /// Another protocol over IPv6.
    Protocol6,
}

/// What [`parse`] found. Offsets are in bytes from the start of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parsed {
    /// What the frame is.
    pub kind: Kind,
    /// Offset of the IP (or ARP) header.
    pub l3: u8,
    /// IP protocol behind all extension headers.
    pub protocol: u8,
    /// TCP flags; 0 for everything else.
    pub tcp_flags: u8,
    /// Offset of the transport header.
    pub l4: u16,
    /// Offset of the end of the IP packet: less than the frame's length when Ethernet padded it.
    pub end: u16,
    /// IPv4: source and destination address as they stand in the packet. IPv6: not set.
    pub addresses: u64,
    /// Source and destination port as they stand in the packet; 0 where there are none.
    pub ports: u32,
}

/// The numbers of a plain frame: untagged IPv4 without options, whole, TCP. Its IP header stands at 14, its TCP header at 34.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plain {
    /// TCP flags.
    pub tcp_flags: u8,
    /// Offset of the end of the IP packet.
    pub end: u16,
    /// Source and destination address as they stand in the packet.
    pub addresses: u64,
    /// Source and destination port as they stand in the packet.
    pub ports: u32,
}

/// Looks whether a frame is the common case, in one bounds check. `None` says only that [`parse`] must look.
#[inline(always)]
pub fn plain(frame: &[u8], verify: bool) -> Option<Plain> {
    let b = frame.first_chunk::<54>()?;
    let kind = u32::from_be_bytes([b[12], b[13], b[14], b[23]]);
    let fragment = u16::from_be_bytes([b[20], b[21]]) & (ipv4::MF | ipv4::OFFSET);
    let end = ethernet::HEADER + usize::from(u16::from_be_bytes([b[16], b[17]]));
    let data = 34 + usize::from(b[46] >> 4) * 4;
    let good = kind == 0x0800_4506 && fragment == 0 && data >= 54 && data <= end && end <= frame.len();
    if !good || (verify && !header_checksum_ok(b)) {
        return None;
    }
    Some(Plain {
        tcp_flags: b[47],
        end: end as u16,
        addresses: u64::from_ne_bytes([b[26], b[27], b[28], b[29], b[30], b[31], b[32], b[33]]),
        ports: u32::from_ne_bytes([b[34], b[35], b[36], b[37]]),
    })
}

/// Looks at a frame. `verify` asks for the IPv4 header checksum, for ports that don't verify it.
///
/// # Errors
/// The reason to drop the frame: too short, contradicting itself, or with a wrong header checksum.
#[inline]
pub fn parse(frame: &[u8], verify: bool) -> Result<Parsed, DropReason> {
    match plain(frame, verify) {
        Some(p) => Ok(Parsed {
            kind: Kind::Transport4,
            l3: ethernet::HEADER as u8,
            protocol: protocol::TCP,
            tcp_flags: p.tcp_flags,
            l4: 34,
            end: p.end,
            addresses: p.addresses,
            ports: p.ports,
        }),
        None => parse_any(frame, verify),
    }
}

#[inline(always)]
fn header_checksum_ok(b: &[u8; 54]) -> bool {
    let w = |at: usize| u64::from(u32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]));
    let s = w(14) + w(18) + w(22) + w(26) + w(30);
    let (half, carry) = (s as u32).overflowing_add((s >> 32) as u32);
    let half = half.wrapping_add(u32::from(carry));
    half.wrapping_add(half.rotate_left(16)) >= 0xffff_0000
}

/// Every other frame.
#[inline(never)]
fn parse_any(frame: &[u8], verify: bool) -> Result<Parsed, DropReason> {
    if frame.len() < ethernet::HEADER {
        return Err(DropReason::Truncated);
    }
    let (mut kind, mut l3) = (be16(frame, 12), ethernet::HEADER);
    if kind == ethertype::VLAN {
        if frame.len() < ethernet::HEADER + ethernet::TAG {
            return Err(DropReason::Truncated);
        }
        (kind, l3) = (be16(frame, 16), ethernet::HEADER + ethernet::TAG);
    }
    let packet = &frame[l3..];
    let mut out = Parsed { l3: l3 as u8, end: frame.len().min(0xffff) as u16, ..Parsed::default() };
    match kind {
        ethertype::ARP => out.kind = Kind::Arp,
        ethertype::IPV4 => {
            let ip = ipv4::Ipv4::parse(packet)?;
            if verify && !ip.checksum_ok() {
                return Err(DropReason::BadIpChecksum);
            }
            out.l4 = (l3 + ip.header_len()) as u16;
            out.end = u16::try_from(l3 + ip.total_len()).map_err(|_| DropReason::BadHeader)?;
            out.protocol = ip.protocol();
            out.addresses = packet[12..].first_chunk().map_or(0, |a| u64::from_ne_bytes(*a));
            let transport = matches!(out.protocol, protocol::TCP | protocol::UDP);
            out.kind = if ip.flags() & ipv4::OFFSET != 0 {
                Kind::Fragment4
            } else if ip.flags() & ipv4::MF != 0 {
                if transport { Kind::First4 } else { Kind::Protocol4 }
            } else {
                match out.protocol {
                    protocol::TCP | protocol::UDP => Kind::Transport4,
                    protocol::ICMP => Kind::Icmp4,
                    _ => Kind::Protocol4,
                }
            };
        }
        ethertype::IPV6 => {
            let ip = ipv6::Ipv6::parse(packet)?;
            let chain = ip.chain()?;
            out.l4 = u16::try_from(l3 + chain.offset).map_err(|_| DropReason::BadHeader)?;
            out.end = u16::try_from(l3 + ipv6::HEADER + ip.payload_len()).map_err(|_| DropReason::BadHeader)?;
            out.protocol = chain.protocol;
            // An atomic fragment (offset 0, no more) is a whole packet (RFC 6946).
            out.kind = match (chain.fragment, chain.protocol) {
                (Some(f), _) if f.offset != 0 => Kind::Fragment6,
                (Some(f), protocol::TCP | protocol::UDP) if f.more => Kind::First6,
                (Some(f), _) if f.more => Kind::Protocol6,
                (_, protocol::TCP | protocol::UDP) => Kind::Transport6,
                (_, protocol::ICMPV6) => Kind::Icmp6,
                _ => Kind::Protocol6,
            };
        }
        _ => return Ok(out),
    }
    match out.kind {
        Kind::Transport4 | Kind::Transport6 => transport(&mut out, frame)?,
        // RFC 1858 §3: a first fragment must hold what decides about the packet, here the whole header.
        Kind::First4 | Kind::First6 => transport(&mut out, frame).map_err(|_| DropReason::BadFragment)?,
        _ => {}
    }
    Ok(out)
}

/// Reads ports and TCP flags of a whole transport packet.
fn transport(out: &mut Parsed, frame: &[u8]) -> Result<(), DropReason> {
    let l4 = frame.get(usize::from(out.l4)..usize::from(out.end)).ok_or(DropReason::Truncated)?;
    if out.protocol == protocol::TCP {
        out.tcp_flags = super::tcp::Tcp::parse(l4)?.flags();
    } else if l4.len() < super::udp::HEADER {
        return Err(DropReason::Truncated);
    }
    out.ports = l4.first_chunk().map_or(0, |p| u32::from_ne_bytes(*p));
    Ok(())
}

/// Whether the transport checksum is only the pseudo-header's sum, as an offloading sender leaves it
/// (veth, TAP, virtio): it equals that sum, and the full sum is wrong.
pub fn checksum_is_partial(frame: &[u8], parsed: &Parsed) -> bool {
    let Some((field, pseudo, segment)) = transport_checksum(frame, parsed) else { return false };
    field == pseudo.fold() && pseudo.bytes(segment).fold() != 0xffff
}

/// The checksum field (memory order), the pseudo-header's sum, and the transport segment.
fn transport_checksum<'a>(frame: &'a [u8], parsed: &Parsed) -> Option<(u16, Sum, &'a [u8])> {
    let l3 = usize::from(parsed.l3);
    let addresses = match parsed.kind {
        Kind::Transport4 => frame.get(l3 + 12..l3 + 20)?,
        Kind::Transport6 => frame.get(l3 + 8..l3 + 40)?,
        _ => return None,
    };
    let segment = frame.get(usize::from(parsed.l4)..usize::from(parsed.end))?;
    let at = checksum_offset(parsed.protocol);
    let field = u16::from_ne_bytes(*segment.get(at..)?.first_chunk()?);
    Some((field, crate::checksum::pseudo_header(addresses, parsed.protocol, segment.len() as u32), segment))
}

/// Whether the transport checksum is right (or absent, for UDP over IPv4).
pub fn transport_checksum_ok(frame: &[u8], parsed: &Parsed) -> bool {
    let Some((field, pseudo, segment)) = transport_checksum(frame, parsed) else { return false };
    if field == 0 && parsed.protocol == protocol::UDP && parsed.kind == Kind::Transport4 {
        return true;
    }
    pseudo.bytes(segment).fold() == 0xffff
}

/// Computes the transport checksum anew; `false` when the frame is no whole TCP or UDP packet.
pub fn fill_transport_checksum(frame: &mut [u8], parsed: &Parsed) -> bool {
    let Some((field, pseudo, segment)) = transport_checksum(frame, parsed) else { return false };
    let sum = pseudo.bytes(segment).word(!field);
    let checksum = match (sum.checksum(), parsed.protocol) {
        (0, protocol::UDP) => 0xffff,
        (c, _) => c,
    };
    let at = usize::from(parsed.l4) + checksum_offset(parsed.protocol);
    frame[at..at + 2].copy_from_slice(&checksum.to_ne_bytes());
    true
}

/// Offset of the checksum within the transport header: 16 for TCP, 6 for UDP.
#[inline]
pub fn checksum_offset(transport: u8) -> usize {
    if transport == protocol::TCP { 16 } else { 6 }
}
