//! One look at a frame: what it is, and the numbers that decide where it goes.

use super::ethernet::{self, ethertype};
use super::{be16, ipv4, ipv6, protocol, tcp};
use crate::checksum::{Sum, pseudo_header};
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
    /// TTL.
    pub ttl: u8,
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
    // Two overlapping words, each compared under a mask: EtherType, version and header length in one;
    // more-fragments, fragment offset and protocol in the other.
    const FIRST: (u64, u64) =
        (u64::from_ne_bytes([0xff, 0xff, 0xff, 0, 0, 0, 0, 0]), u64::from_ne_bytes([0x08, 0x00, 0x45, 0, 0, 0, 0, 0]));
    const SECOND: (u64, u64) = (
        u64::from_ne_bytes([0, 0, 0, 0, (ipv4::MF | ipv4::OFFSET).to_be_bytes()[0], 0xff, 0, 0xff]),
        u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, protocol::TCP]),
    );
    let b = frame.first_chunk::<54>()?;
    let (first, second) = (word64(b, 12), word64(b, 16));
    let end = ethernet::HEADER + usize::from(u16::from_be_bytes([b[16], b[17]]));
    let data = 34 + usize::from(b[46] & 0xf0) / 4;
    let wrong = ((first & FIRST.0) ^ FIRST.1) | ((second & SECOND.0) ^ SECOND.1);
    if wrong != 0 || data < 54 || data > end || end > frame.len() || (verify && !header_checksum_ok(b)) {
        return None;
    }
    Some(Plain {
        tcp_flags: b[47],
        ttl: b[22],
        end: end as u16,
        addresses: word64(b, 26),
        ports: u32::from_ne_bytes(load(b, 34)),
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

/// The numbers of a plain frame over IPv6: untagged, no extension header, TCP. Its IP header stands at 14, its TCP header at 54.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plain6 {
    /// TCP flags.
    pub tcp_flags: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Offset of the end of the IP packet.
    pub end: u16,
    /// Source and destination port as they stand in the packet.
    pub ports: u32,
}

/// [`plain`] for IPv6.
#[inline(always)]
pub fn plain6(frame: &[u8]) -> Option<Plain6> {
    const KIND: (u64, u64) =
        (u64::from_ne_bytes([0xff, 0xff, 0xf0, 0, 0, 0, 0, 0]), u64::from_ne_bytes([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0]));
    let b = frame.first_chunk::<74>()?;
    let end = 54 + usize::from(u16::from_be_bytes([b[18], b[19]]));
    let data = 54 + usize::from(b[66] & 0xf0) / 4;
    if word64(b, 12) & KIND.0 != KIND.1 || b[20] != protocol::TCP || data < 74 || data > end || end > frame.len() {
        return None;
    }
    Some(Plain6 {
        tcp_flags: b[67],
        hop_limit: b[21],
        end: u16::try_from(end).ok()?,
        ports: u32::from_ne_bytes(load(b, 54)),
    })
}

/// `N` bytes from `at` on, as one load. (Bytes gathered one by one are kept apart by the compiler where some are used alone.)
#[inline(always)]
fn load<const N: usize, const M: usize>(b: &[u8; M], at: usize) -> [u8; N] {
    *b[at..].first_chunk().unwrap_or(&[0; N])
}

#[inline(always)]
fn word64<const M: usize>(b: &[u8; M], at: usize) -> u64 {
    u64::from_ne_bytes(load(b, at))
}

#[inline(always)]
fn header_checksum_ok(b: &[u8; 54]) -> bool {
    let (s, carry) = word64(b, 14).overflowing_add(word64(b, 22));
    let (s, more) = s.overflowing_add(u64::from(u32::from_ne_bytes(load(b, 30))));
    // Carries come round: two of them at most, and then the sum is far from overflowing again.
    let s = (s & 0xffff_ffff) + (s >> 32) + u64::from(carry) + u64::from(more);
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
            let offset = ip.flags() & ipv4::OFFSET;
            out.kind = if offset != 0 {
                not_over_header(out.protocol, offset * 8)?;
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
                (Some(f), protocol) if f.offset != 0 => {
                    not_over_header(protocol, f.offset)?;
                    Kind::Fragment6
                }
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

/// Refuses a later fragment that would overwrite the TCP header by which the first was judged (RFC 1858 §4.2, RFC 3128).
fn not_over_header(transport: u8, offset: u16) -> Result<(), DropReason> {
    let over = transport == protocol::TCP && usize::from(offset) < super::tcp::HEADER;
    if over { Err(DropReason::BadFragment) } else { Ok(()) }
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
#[inline]
fn transport_checksum<'a>(frame: &'a [u8], parsed: &Parsed) -> Option<(u16, Sum, &'a [u8])> {
    let l3 = usize::from(parsed.l3);
    let segment = frame.get(usize::from(parsed.l4)..usize::from(parsed.end))?;
    let length = segment.len() as u32;
    let pseudo = match parsed.kind {
        Kind::Transport4 => pseudo_header(frame.get(l3 + 12..)?.first_chunk::<8>()?, parsed.protocol, length),
        Kind::Transport6 => pseudo_header(frame.get(l3 + 8..)?.first_chunk::<32>()?, parsed.protocol, length),
        _ => return None,
    };
    let at = checksum_offset(parsed.protocol);
    let field = u16::from_ne_bytes(*segment.get(at..)?.first_chunk()?);
    Some((field, pseudo, segment))
}

/// Whether the transport checksum is right (or absent, for UDP over IPv4).
#[inline]
pub fn transport_checksum_ok(frame: &[u8], parsed: &Parsed) -> bool {
    let Some((field, pseudo, segment)) = transport_checksum(frame, parsed) else { return false };
    if field == 0 && parsed.protocol == protocol::UDP && parsed.kind == Kind::Transport4 {
        return true;
    }
    pseudo.bytes(segment).fold() == 0xffff
}

/// The same for a TCP segment over IPv4, whole, between these addresses as they stand in the packet.
#[inline]
pub fn tcp_v4_checksum_ok(addresses: u64, segment: &[u8]) -> bool {
    let Some((header, rest)) = segment.split_first_chunk() else { return false };
    let sum = tcp_v4_sum(addresses, segment.len(), header);
    // Most segments are a header and no more.
    let sum = if rest.is_empty() { sum } else { sum.bytes(rest) };
    sum.fold() == 0xffff
}

/// The sum of pseudo-header and of a TCP header without its options, of a segment of that length.
#[inline(always)]
fn tcp_v4_sum(addresses: u64, length: usize, header: &[u8; tcp::HEADER]) -> Sum {
    let pseudo = Sum::ZERO.word64(addresses).word32((length as u32).to_be()).number(u16::from(protocol::TCP));
    pseudo.word64(word64(header, 0)).word64(word64(header, 8)).word32(u32::from_ne_bytes(load(header, 16)))
}

/// The one's complement sum of a TCP segment's payload, folded, in memory order, from its header alone: over IPv4, with the checksum
/// known to be right ([`tcp_v4_checksum_ok`]). `header` is its options, too; `length` that of the whole segment.
#[inline]
pub fn tcp_v4_payload_sum(addresses: u64, length: usize, header: &[u8]) -> Option<u16> {
    let (header, options) = header.split_first_chunk()?;
    let sum = tcp_v4_sum(addresses, length, header);
    let sum = if options.is_empty() { sum } else { sum.bytes(options) };
    Some(!sum.fold())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::build::{Packet, Transport};
    use crate::headers::tcp::flags::ACK;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_segment_is_summed_like_any_packet(payload in proptest::collection::vec(any::<u8>(), 0..100), damage in 0usize..200) {
            let packet = Packet::tcp("192.0.2.1:1000".parse().unwrap(), "198.51.100.1:80".parse().unwrap(), ACK);
            let mut frame = packet.payload(&payload).frame();
            if let Some(b) = frame.get_mut(34 + damage) {
                *b ^= 0x20;
            }
            let damaged = damage < frame.len() - 34;
            let Ok(p) = parse(&frame, true) else { return Ok(()) };
            let right = tcp_v4_checksum_ok(p.addresses, &frame[34..usize::from(p.end)]);
            prop_assert_eq!(right, !damaged);
            prop_assert_eq!(right, transport_checksum_ok(&frame, &p));
        }

        #[test]
        fn what_a_segment_carries_has_the_sum_that_its_header_says(
            payload in proptest::collection::vec(any::<u8>(), 0..100), zero: bool, options in 0usize..=10,
        ) {
            let payload = if zero { vec![0; payload.len()] } else { payload };
            let mut packet = Packet::tcp("192.0.2.1:1000".parse().unwrap(), "198.51.100.1:80".parse().unwrap(), ACK);
            if let Transport::Tcp { options: o, .. } = &mut packet.transport {
                *o = vec![1; options * 4];
            }
            let frame = packet.payload(&payload).frame();
            let p = parse(&frame, true).unwrap();
            let (segment, header) = (&frame[34..usize::from(p.end)], 20 + 4 * options);
            let sum = tcp_v4_payload_sum(p.addresses, segment.len(), &segment[..header]).unwrap();
            // As good as any other in a sum with something else.
            prop_assert_eq!(Sum::ZERO.word(1).word(sum).fold(), Sum::ZERO.word(1).bytes(&payload).fold());
        }

        /// Whatever the short cuts accept, the whole parser accepts, with the same numbers; and they accept what is plain.
        #[test]
        fn the_short_cuts_agree_with_the_parser(
            v6: bool,
            size in 54usize..120,
            edits in proptest::collection::vec((12usize..80, any::<u8>()), 0..3),
            verify: bool,
            cut in 0usize..30,
        ) {
            let (from, to) = if v6 { ("[2001:db8::1]:1000", "[2001:db8::2]:80") } else { ("192.0.2.1:1000", "198.51.100.1:80") };
            let packet = Packet::tcp(from.parse().unwrap(), to.parse().unwrap(), ACK);
            let mut frame = packet.sized(size).frame();
            let whole = edits.is_empty() && cut == 0;
            for (at, value) in edits {
                if let Some(b) = frame.get_mut(at) {
                    *b = value;
                }
            }
            frame.truncate(frame.len() - cut.min(frame.len()));
            let any = parse_any(&frame, verify);
            if let Some(p) = plain(&frame, verify) {
                let any = any.unwrap();
                prop_assert_eq!(parse(&frame, verify).unwrap(), any);
                prop_assert_eq!((any.kind, any.l4, p.ttl), (Kind::Transport4, 34, frame[22]));
            } else if let Some(p) = plain6(&frame) {
                let want = Parsed {
                    kind: Kind::Transport6, l3: 14, protocol: protocol::TCP, tcp_flags: p.tcp_flags, l4: 54, end: p.end,
                    addresses: 0, ports: p.ports,
                };
                prop_assert_eq!((any.unwrap(), p.hop_limit), (want, frame[21]));
            } else {
                prop_assert!(!whole, "a plain frame was not taken for one");
            }
        }
    }
}
