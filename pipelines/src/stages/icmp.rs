//! ICMP: errors translated both ways with the packet that they embed, errors of our own, and ping where no kernel answers.
//!
//! RFC 5508 §4 (NAT), RFC 792, RFC 4443. An error tells about a packet that we have sent: its embedded addresses are
//! those of one side of a flow, reversed. It is translated as that side's packets are, and the embedded packet becomes
//! what the other side had sent.

use super::classify::addresses_of;
use super::connection::Connections;
use super::exceptions::kernel_or;
use super::forward::forward_without_ports;
use super::neighbour;
use crate::snapshot::Forward;
use lcs_dataplane::batch::{Batch, NO_FLOW};
use lcs_dataplane::checksum::{Difference, Sum, pseudo_header};
use lcs_dataplane::flow::{FlowFlags, Key, Place};
use lcs_dataplane::headers::build::fill_icmp_checksum;
use lcs_dataplane::headers::parse::checksum_offset;
use lcs_dataplane::headers::{Kind, ethernet, icmp, ipv4, ipv6, protocol};
use lcs_dataplane::{DropReason, Frame, Verdict};
use std::net::{IpAddr, SocketAddr};

/// Errors that a worker sends at most, a second.
const RATE: u32 = 1000;
/// An ICMP error is at most 576 bytes (RFC 1812 §4.3.2.3), an ICMPv6 error at most 1,280 (RFC 4443 §3).
const MOST_V4: usize = 576 - ipv4::HEADER - icmp::HEADER;
const MOST_V6: usize = 1280 - ipv6::HEADER - icmp::HEADER;

/// A token bucket for errors of our own (RFC 1812 §4.3.2.8, RFC 4443 §2.4(f)).
#[derive(Debug)]
pub struct IcmpLimit {
    tokens: u32,
    at: u32,
}

impl IcmpLimit {
    /// A full bucket at tick `now`.
    pub fn new(now: u32) -> Self {
        IcmpLimit { tokens: RATE, at: now }
    }

    fn take(&mut self, now: u32) -> bool {
        // A tick is a little more than an eighth of a second.
        let ticks = now.wrapping_sub(self.at).min(8);
        self.at = now;
        self.tokens = (self.tokens + ticks * (RATE / 8)).min(RATE);
        let allowed = self.tokens > 0;
        self.tokens -= u32::from(allowed);
        allowed
    }
}

/// Key and transport protocol of packets from the side that an ICMP error comes from, of the connection that it is about: the embedded
/// packet's, reversed; for an error about a tunnel packet of ours, that of the client's packet inside.
pub(crate) fn connection_key(batch: &Batch, i: usize) -> Option<(Key, u8)> {
    let e = Embedded::find(batch, i)?;
    if matches!(e.transport, protocol::IPIP | protocol::IPV6) {
        return tunnelled_key(batch, i, &e);
    }
    Some((e.key.reversed(), e.transport))
}

/// Key and transport protocol of the packet inside the tunnel packet that an error embeds.
fn tunnelled_key(batch: &Batch, i: usize, e: &Embedded) -> Option<(Key, u8)> {
    let inner = batch.frames[i].bytes().get(e.l4..usize::from(batch.end[i]))?;
    let (header, transport, source, destination) = if e.transport == protocol::IPIP {
        let ip = ipv4::Ipv4::parse_embedded(inner).ok()?;
        (ip.header_len(), ip.protocol(), IpAddr::V4(ip.source()), IpAddr::V4(ip.destination()))
    } else {
        let ip = ipv6::Ipv6::parse_embedded(inner).ok()?;
        let chain = ip.chain().ok()?;
        (chain.offset, chain.protocol, IpAddr::V6(ip.source()), IpAddr::V6(ip.destination()))
    };
    let ports = inner.get(header..)?.first_chunk::<4>()?;
    let source = SocketAddr::new(source, u16::from_be_bytes([ports[0], ports[1]]));
    let destination = SocketAddr::new(destination, u16::from_be_bytes([ports[2], ports[3]]));
    Some((Key::new(source, destination)?, transport))
}

/// Where the packet that an error embeds stands in the frame.
struct Embedded {
    key: Key,
    transport: u8,
    /// Offset of its IP header in the frame.
    l3: usize,
    /// Offset of its transport header.
    l4: usize,
}

impl Embedded {
    fn find(batch: &Batch, i: usize) -> Option<Embedded> {
        let l3 = usize::from(batch.l4[i]) + icmp::HEADER;
        let whole = batch.frames[i].bytes().get(..usize::from(batch.end[i]))?;
        let packet = whole.get(l3..)?;
        let (header, transport, source, destination) = match batch.kind[i] {
            Kind::Icmp4 => {
                let ip = ipv4::Ipv4::parse_embedded(packet).ok()?;
                if ip.flags() & ipv4::OFFSET != 0 {
                    return None; // no ports in a later fragment
                }
                (ip.header_len(), ip.protocol(), IpAddr::V4(ip.source()), IpAddr::V4(ip.destination()))
            }
            Kind::Icmp6 => {
                let ip = ipv6::Ipv6::parse_embedded(packet).ok()?;
                let chain = ip.chain().ok()?;
                if chain.fragment.is_some_and(|f| f.offset != 0) {
                    return None;
                }
                (chain.offset, chain.protocol, IpAddr::V6(ip.source()), IpAddr::V6(ip.destination()))
            }
            _ => return None,
        };
        let ports = match transport {
            protocol::TCP | protocol::UDP => *packet.get(header..)?.first_chunk::<4>()?,
            _ => [0; 4],
        };
        let source = SocketAddr::new(source, u16::from_be_bytes([ports[0], ports[1]]));
        let destination = SocketAddr::new(destination, u16::from_be_bytes([ports[2], ports[3]]));
        Some(Embedded { key: Key::new(source, destination)?, transport, l3, l4: l3 + header })
    }
}

fn message(batch: &Batch, i: usize) -> Option<&[u8]> {
    batch.frames[i].bytes().get(usize::from(batch.l4[i])..usize::from(batch.end[i])).filter(|m| m.len() >= icmp::HEADER)
}

/// An ICMP message over IPv4.
pub(crate) fn receive_v4(c: &mut Connections, batch: &mut Batch, i: usize, now: u32) -> Verdict {
    let Some(m) = message(batch, i) else { return Verdict::Drop(DropReason::BadIcmp) };
    let (kind, good) = (m[0], Sum::ZERO.bytes(m).fold() == 0xffff);
    if !good {
        return Verdict::Drop(DropReason::BadIcmp);
    }
    match kind {
        // A redirect is for the host that it is addressed to: relayed, it would name a router of another link.
        icmp::v4::REDIRECT => kernel_or(c, DropReason::IcmpUnrelated),
        _ if icmp::is_error_v4(kind) => translate(c, batch, i, now),
        _ => other(c, batch, i, kind),
    }
}

/// An ICMPv6 message.
pub(crate) fn receive_v6(c: &mut Connections, batch: &mut Batch, i: usize, now: u32) -> Verdict {
    let l3 = usize::from(batch.l3[i]);
    let bad = Verdict::Drop(DropReason::BadIcmp);
    let Some(m) = message(batch, i) else { return bad };
    let Some(addresses) = batch.frames[i].bytes().get(l3 + 8..l3 + 40) else { return bad };
    let kind = m[0];
    if pseudo_header(addresses, protocol::ICMPV6, m.len() as u32).bytes(m).fold() != 0xffff {
        return bad;
    }
    if icmp::is_error_v6(kind) {
        translate(c, batch, i, now)
    } else if kind == icmp::v6::NEIGHBOUR_SOLICITATION && !c.settings.capabilities.kernel_answers {
        neighbour::solicitation(c, batch, i)
    } else if kind == icmp::v6::NEIGHBOUR_ADVERTISEMENT && c.settings.capabilities.neighbour_answers {
        Verdict::Kernel
    } else {
        other(c, batch, i, kind)
    }
}

/// Ping for our own addresses, and what is the kernel's.
fn other(c: &Connections, batch: &mut Batch, i: usize, kind: u8) -> Verdict {
    let v6 = batch.kind[i] == Kind::Icmp6;
    let addresses = addresses_of(batch, i);
    let own = addresses.is_some_and(|(_, to)| c.snapshot.own.contains(&to));
    let echo = if v6 { icmp::v6::ECHO_REQUEST } else { icmp::v4::ECHO_REQUEST };
    if !own || kind != echo || c.settings.capabilities.kernel_answers {
        return kernel_or(c, if own { DropReason::Protocol } else { DropReason::NotForUs });
    }
    if !addresses.is_some_and(|(from, _)| super::schedule::may_send(c, from)) {
        return Verdict::Drop(DropReason::BadSource); // RFC 1122 §3.2.2.6
    }
    let (l3, l4, end) = (usize::from(batch.l3[i]), usize::from(batch.l4[i]), usize::from(batch.end[i]));
    let b = batch.frames[i].bytes_mut();
    let mut addresses = [0; 12];
    addresses[..6].copy_from_slice(&ethernet::source(b).0);
    addresses[6..].copy_from_slice(&ethernet::destination(b).0);
    ethernet::set_addresses(b, &addresses);
    let (at, n, ttl) = if v6 { (l3 + 8, 16, l3 + 7) } else { (l3 + 12, 4, l3 + 8) };
    if b.len() < at + 2 * n || b.len() < end || end < l4 + icmp::HEADER {
        return Verdict::Drop(DropReason::BadIcmp);
    }
    b[at..at + 2 * n].rotate_left(n);
    b[l4] = if v6 { icmp::v6::ECHO_REPLY } else { icmp::v4::ECHO_REPLY };
    // Anew and not by difference: the reply to a ping of zeros is all zero, the one message whose checksum equation 3
    // of RFC 1624 gets wrong (0 for 0xffff).
    let mut pair = [0; 32];
    if v6 {
        pair.copy_from_slice(&b[at..at + 2 * n]);
    }
    fill_icmp_checksum(&mut b[l4..end], v6.then_some(&pair[..]));
    b[ttl] = 64;
    if !v6 && let Some(mut ip) = b.get_mut(l3..).and_then(|p| ipv4::Ipv4::parse(p).ok()) {
        ip.fill_checksum();
    }
    batch.tx[i] = batch.rx[i];
    Verdict::Forward
}

/// Translates an error about one of our connections' packets, and sends it to who caused it.
fn translate(c: &mut Connections, batch: &mut Batch, i: usize, now: u32) -> Verdict {
    let Some(e) = Embedded::find(batch, i) else { return kernel_or(c, DropReason::IcmpUnrelated) };
    if matches!(e.transport, protocol::IPIP | protocol::IPV6) {
        return from_tunnel(c, batch, i, &e, now);
    }
    // Packets of the side that the error comes from have the embedded packet's addresses, reversed.
    let place = c.table.find(&e.key.reversed(), e.transport);
    let Some(place) = place else { return kernel_or(c, DropReason::IcmpUnrelated) };
    batch.flow[i] = place.0;
    let flow = *c.table.get(place.flow());
    if flow.flags.has(FlowFlags::SPLICED)
        && let Some(error) = path_error(batch, i)
        && super::bind::told(c, place, embedded_seq(batch, i, &e), error)
    {
        return Verdict::Consume;
    }
    if !flow.flags.has(FlowFlags::TRANSLATED) {
        if flow.flags.has(FlowFlags::SPLICED) && flow.server == crate::snapshot::NO_SLOT {
            // There is nobody behind the director yet who could be told.
            return Verdict::Drop(DropReason::IcmpUnrelated);
        }
        return forward_without_ports(c, batch, i, place, now);
    }
    let side = place.side();
    let keys = c.table.keys(place.flow());
    let other = keys.and_then(|k| if side == Place::CLIENT { k.server } else { Some(k.client) });
    let Some(other) = other else { return Verdict::Drop(DropReason::IcmpUnrelated) };
    let hop = c.hops[usize::from(flow.next_hop[1 - side])];
    if !hop.resolved {
        return Verdict::Drop(DropReason::NextHopUnresolved);
    }
    let offsets = flow.flags.has(FlowFlags::SPLICED).then(|| c.splices.get(place.flow()).offsets);
    let v6 = batch.kind[i] == Kind::Icmp6;
    let (l3, l4, end) = (usize::from(batch.l3[i]), usize::from(batch.l4[i]), usize::from(batch.end[i]));
    // A server must not learn of routers' addresses that it can't reach in full NAT, a client nothing of our inside.
    let hide = side == Place::SERVER || keys.is_some_and(|k| k.hides_client());
    let b = batch.frames[i].bytes_mut();
    if b[if v6 { l3 + 7 } else { l3 + 8 }] <= 1 {
        return Verdict::Drop(DropReason::TtlExpired);
    }
    rewrite_embedded(b, &e, &other, end, v6);
    if let Some(offsets) = offsets
        && let Some(segment) = b.get_mut(e.l4..end)
    {
        offsets.rewrite_embedded(1 - side, segment);
    }
    let (local, peer) = (other.destination().ip(), other.source().ip());
    match (local, peer) {
        (IpAddr::V4(local), IpAddr::V4(peer)) => {
            let Ok(mut ip) = ipv4::Ipv4::parse(&mut b[l3..]) else { return Verdict::Drop(DropReason::BadHeader) };
            let ttl = ip.ttl();
            ip.set_ttl(ttl - 1);
            ip.set_destination(peer);
            if hide {
                ip.set_source(local);
            }
            ip.fill_checksum();
            fill_icmp_checksum(&mut b[l4..end], None);
        }
        (IpAddr::V6(local), IpAddr::V6(peer)) => {
            b[l3 + 7] -= 1;
            b[l3 + 24..l3 + 40].copy_from_slice(&peer.octets());
            if hide {
                b[l3 + 8..l3 + 24].copy_from_slice(&local.octets());
            }
            let mut addresses = [0; 32];
            addresses.copy_from_slice(&b[l3 + 8..l3 + 40]);
            fill_icmp_checksum(&mut b[l4..end], Some(&addresses));
        }
        _ => return Verdict::Drop(DropReason::IcmpUnrelated),
    }
    ethernet::set_addresses(b, &hop.addresses);
    batch.tx[i] = hop.interface;
    Verdict::Forward
}

/// What an ICMP error says about the way of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PathError {
    /// Its receiver, or the way there, does not exist (RFC 1122 §4.2.3.9: hard, or soft).
    Unreachable,
    /// It was larger than the given MTU, which may be 0 where a router does not say (RFC 1191 §5).
    TooBig(u32),
}

/// What a checked ICMP error says, as far as a TCP endpoint acts on it.
fn path_error(batch: &Batch, i: usize) -> Option<PathError> {
    let m = message(batch, i)?;
    match (batch.kind[i], m[0], m[1]) {
        (Kind::Icmp4, icmp::v4::UNREACHABLE, icmp::v4::FRAGMENTATION_NEEDED) => {
            Some(PathError::TooBig(u32::from(u16::from_be_bytes([m[6], m[7]]))))
        }
        (Kind::Icmp6, icmp::v6::TOO_BIG, _) => Some(PathError::TooBig(u32::from_be_bytes([m[4], m[5], m[6], m[7]]))),
        (Kind::Icmp4, icmp::v4::UNREACHABLE, _) | (Kind::Icmp6, icmp::v6::UNREACHABLE, _) => {
            Some(PathError::Unreachable)
        }
        _ => None,
    }
}

/// The sequence number of the segment that an error embeds: among the eight bytes that RFC 792 promises.
fn embedded_seq(batch: &Batch, i: usize, e: &Embedded) -> Option<u32> {
    let end = usize::from(batch.end[i]);
    batch.frames[i].bytes().get(e.l4 + 4..end)?.first_chunk().map(|b| u32::from_be_bytes(*b))
}

/// Turns the embedded packet into the one that the other side had sent: its key is `other`.
fn rewrite_embedded(b: &mut [u8], e: &Embedded, other: &Key, end: usize, v6: bool) {
    let at = if v6 { e.l3 + 8 } else { e.l3 + 12 };
    let mut addresses = [0u8; 32];
    let (n, ports) = match other {
        Key::V4 { addresses: a, ports: p } => {
            addresses[..8].copy_from_slice(&a.to_ne_bytes());
            (8, p.to_ne_bytes())
        }
        Key::V6 { addresses: a, ports: p } => {
            addresses.copy_from_slice(a);
            (32, p.to_ne_bytes())
        }
    };
    let (Some(old), Some(old_ports)) = (b.get(at..at + n), b.get(e.l4..e.l4 + 4)) else { return };
    let change = Difference::NONE.replacing(old, &addresses[..n]);
    let transport = change.replacing(old_ports, &ports);
    b[at..at + n].copy_from_slice(&addresses[..n]);
    b[e.l4..e.l4 + 4].copy_from_slice(&ports);
    if !v6 {
        let sum = u16::from_ne_bytes([b[e.l3 + 10], b[e.l3 + 11]]);
        b[e.l3 + 10..e.l3 + 12].copy_from_slice(&change.apply(sum).to_ne_bytes());
    }
    // RFC 792 promises 8 bytes of the transport header: UDP's checksum is among them, TCP's may be cut off.
    let sum_at = e.l4 + checksum_offset(e.transport);
    if sum_at + 2 <= end.min(b.len()) {
        let sum = u16::from_ne_bytes([b[sum_at], b[sum_at + 1]]);
        let sum = if e.transport == protocol::UDP { transport.apply_udp(sum) } else { transport.apply(sum) };
        b[sum_at..sum_at + 2].copy_from_slice(&sum.to_ne_bytes());
    }
}

/// An error about a tunnel packet of ours, relayed to the client whose packet was inside (RFC 2003 §4, RFC 2473 §8).
fn from_tunnel(c: &mut Connections, batch: &mut Batch, i: usize, e: &Embedded, now: u32) -> Verdict {
    let unrelated = Verdict::Drop(DropReason::IcmpUnrelated);
    // The kernel may have tunnels of its own to the same host.
    let not_ours = kernel_or(c, DropReason::IcmpUnrelated);
    let outer_v6 = batch.kind[i] == Kind::Icmp6;
    let (l3, l4, end) = (usize::from(batch.l3[i]), usize::from(batch.l4[i]), usize::from(batch.end[i]));
    let b = batch.frames[i].bytes();
    let Some((key, transport)) = tunnelled_key(batch, i, e) else { return not_ours };
    let destination = key.destination();
    let place = c.table.find(&key, transport);
    let Some(place) = place.filter(|p| c.table.get(p.flow()).flags.has(FlowFlags::TUNNEL)) else { return not_ours };
    // Someone who guesses an inner packet must at least know which server it went to.
    let snapshot = c.snapshot.clone();
    let flow = *c.table.get(place.flow());
    let server = snapshot.servers.get(usize::from(flow.server)).and_then(Option::as_ref);
    if !server.is_some_and(|s| s.forward == Forward::Tunnel && s.address == e.key.destination().ip()) {
        return not_ours;
    }
    let (kind, code) = (b[l4], b[l4 + 1]);
    if !outer_v6 && kind == icmp::v4::SOURCE_QUENCH {
        return unrelated; // RFC 2003 §4.2: not relayed
    }
    let overhead = if outer_v6 { ipv6::HEADER } else { ipv4::HEADER } as u32;
    let too_big = match (outer_v6, kind, code) {
        (false, icmp::v4::UNREACHABLE, icmp::v4::FRAGMENTATION_NEEDED) => {
            Some(u32::from(u16::from_be_bytes([b[l4 + 6], b[l4 + 7]])))
        }
        (true, icmp::v6::TOO_BIG, _) => Some(u32::from_be_bytes([b[l4 + 4], b[l4 + 5], b[l4 + 6], b[l4 + 7]])),
        _ => None,
    };
    let inner_v6 = e.transport == protocol::IPV6;
    if let Some(mtu) = too_big.filter(|_| outer_v6) {
        c.paths.learn(flow.server, mtu, now);
    }
    if too_big.is_some() && !is_to_be_told(&b[e.l4..end], inner_v6) {
        // The next one is cut before it leaves.
        return Verdict::Consume;
    }
    let (kind, code, word) = match (too_big, inner_v6) {
        // RFC 1191 §5: a router that does not say its MTU; the smallest plateau that carries a 576-byte datagram is told.
        (Some(mtu), false) => {
            (icmp::v4::UNREACHABLE, icmp::v4::FRAGMENTATION_NEEDED, mtu.saturating_sub(overhead).clamp(576, 0xffff))
        }
        (Some(mtu), true) => (icmp::v6::TOO_BIG, 0, mtu.saturating_sub(overhead).max(1280)),
        // Whatever happened to the tunnel, to the client the host behind it is unreachable (RFC 2003 §4.2, §4.5).
        (None, false) => (icmp::v4::UNREACHABLE, 1, 0),
        (None, true) => (icmp::v6::UNREACHABLE, 3, 0),
    };
    let hop = c.hops[usize::from(flow.next_hop[0])];
    if !hop.resolved {
        return Verdict::Drop(DropReason::NextHopUnresolved);
    }
    if !c.icmp_limit.take(now) {
        return unrelated;
    }
    // Bring the inner packet to the front, behind the Ethernet header.
    let cut = (e.l4 - l3) as u16;
    let inner_len = end - e.l4;
    let frame = &mut batch.frames[i];
    let mut header = [0u8; 18];
    header[..l3].copy_from_slice(&frame.bytes()[..l3]);
    let ethertype = if inner_v6 { ethernet::ethertype::IPV6 } else { ethernet::ethertype::IPV4 };
    header[l3 - 2..l3].copy_from_slice(&ethertype.to_be_bytes());
    if !frame.pull_front(cut) {
        return unrelated;
    }
    frame.bytes_mut()[..l3].copy_from_slice(&header[..l3]);
    batch.flow[i] = NO_FLOW;
    if !build(frame, l3, inner_len, inner_v6, kind, code, word, destination.ip(), &hop.addresses) {
        return unrelated;
    }
    c.icmp_sent += 1;
    batch.tx[i] = hop.interface;
    Verdict::Forward
}

/// Whether the sender of a packet that was too big for its tunnel can do something about it: one that may be fragmented, or is as
/// small as IPv6 packets have to be, is the director's to cut (RFC 2473 §7.1, §7.2, §8).
fn is_to_be_told(packet: &[u8], v6: bool) -> bool {
    if v6 {
        ipv6::Ipv6::parse_embedded(packet)
            .is_ok_and(|ip| ipv6::HEADER + ip.payload_len() > usize::from(super::fragmentation::IPV6_MIN))
    } else {
        ipv4::Ipv4::parse_embedded(packet).is_ok_and(|ip| ip.dont_fragment())
    }
}

/// Tells the sender that its packet exceeds `mtu` (RFC 1191 §4, RFC 8201), or drops it where that may not be told.
#[inline(never)]
pub(crate) fn too_big(c: &mut Connections, batch: &mut Batch, i: usize, mtu: u16, now: u32) -> Verdict {
    let l3 = usize::from(batch.l3[i]);
    let v6 = matches!(batch.kind[i], Kind::Transport6 | Kind::First6 | Kind::Fragment6 | Kind::Icmp6);
    if v6 {
        return answer(c, batch, i, icmp::v6::TOO_BIG, 0, u32::from(mtu).max(1280), DropReason::TooBig, now);
    }
    let whole = batch.frames[i].bytes().get(l3..).and_then(|p| ipv4::Ipv4::parse(p).ok());
    if !whole.is_some_and(|ip| ip.dont_fragment()) {
        return Verdict::Drop(DropReason::TooBig);
    }
    let (kind, code) = (icmp::v4::UNREACHABLE, icmp::v4::FRAGMENTATION_NEEDED);
    answer(c, batch, i, kind, code, u32::from(mtu), DropReason::TooBig, now)
}

/// Tells the sender that its packet's TTL or hop limit is used up.
#[inline(never)]
pub(crate) fn ttl_expired(c: &mut Connections, batch: &mut Batch, i: usize, now: u32) -> Verdict {
    let v6 = matches!(batch.kind[i], Kind::Transport6 | Kind::First6 | Kind::Fragment6 | Kind::Icmp6);
    let kind = if v6 { icmp::v6::TIME_EXCEEDED } else { icmp::v4::TIME_EXCEEDED };
    answer(c, batch, i, kind, 0, 0, DropReason::TtlExpired, now)
}

/// Makes the frame an error about itself, sent back to where it came from; or drops it where no error may be sent
/// (about an ICMP error, a later fragment, or to an address that is no host: RFC 1122 §3.2.2).
#[allow(clippy::too_many_arguments)]
fn answer(
    c: &mut Connections,
    batch: &mut Batch,
    i: usize,
    kind: u8,
    code: u8,
    word: u32,
    reason: DropReason,
    now: u32,
) -> Verdict {
    let drop = Verdict::Drop(reason);
    if !matches!(batch.kind[i], Kind::Transport4 | Kind::Transport6 | Kind::First4 | Kind::First6) {
        return drop;
    }
    let Some((source, destination)) = addresses_of(batch, i) else { return drop };
    let own = if c.snapshot.own.contains(&destination) {
        Some(destination)
    } else {
        // A server's packet to the client: the service it belongs to speaks.
        c.table.keys(Place(batch.flow[i]).flow()).map(|k| k.client.destination().ip())
    };
    let Some(own) = own.filter(|a| a.is_ipv4() == source.is_ipv4() && !source.is_multicast()) else { return drop };
    if !c.icmp_limit.take(now) {
        return drop;
    }
    let l3 = usize::from(batch.l3[i]);
    let len = usize::from(batch.end[i]) - l3;
    let frame = &mut batch.frames[i];
    let mut addresses = [0; 12];
    addresses[..6].copy_from_slice(&ethernet::source(frame.bytes()).0);
    addresses[6..].copy_from_slice(&ethernet::destination(frame.bytes()).0);
    if !build(frame, l3, len, source.is_ipv6(), kind, code, word, own, &addresses) {
        return Verdict::Drop(DropReason::NoHeadroom);
    }
    c.icmp_sent += 1;
    batch.tx[i] = batch.rx[i];
    Verdict::Forward
}

/// Puts IP and ICMP headers in front of the `len` bytes of IP packet at `l3`, whose source becomes the destination.
#[allow(clippy::too_many_arguments)]
fn build(
    frame: &mut Frame,
    l3: usize,
    len: usize,
    v6: bool,
    kind: u8,
    code: u8,
    word: u32,
    own: IpAddr,
    addresses: &[u8; 12],
) -> bool {
    let (ip, most) = if v6 { (ipv6::HEADER, MOST_V6) } else { (ipv4::HEADER, MOST_V4) };
    let kept = len.min(most);
    let grow = ip + icmp::HEADER;
    let mut link = [0u8; 18];
    if l3 > link.len() || frame.len() < l3 + kept || !frame.set_len((l3 + kept) as u16) {
        return false;
    }
    link[..l3].copy_from_slice(&frame.bytes()[..l3]);
    if !frame.push_front(grow as u16) {
        return false;
    }
    let b = frame.bytes_mut();
    b[..l3].copy_from_slice(&link[..l3]);
    ethernet::set_addresses(b, addresses);
    let inner = l3 + grow;
    let message_len = icmp::HEADER + kept;
    let m = l3 + ip;
    b[m] = kind;
    b[m + 1] = code;
    b[m + 2..m + 4].fill(0);
    b[m + 4..m + 8].copy_from_slice(&word.to_be_bytes());
    match own {
        IpAddr::V4(own) if !v6 => {
            let Some(to) = b.get(inner + 12..inner + 16).and_then(|s| <[u8; 4]>::try_from(s).ok()) else {
                return false;
            };
            fill_icmp_checksum(&mut b[m..], None);
            ipv4::write(&mut b[l3..], 0xc0, message_len, 0, 0, 64, protocol::ICMP, own, to.into())
        }
        IpAddr::V6(own) if v6 => {
            let Some(to) = b.get(inner + 8..inner + 24).and_then(|s| <[u8; 16]>::try_from(s).ok()) else {
                return false;
            };
            let mut pair = [0; 32];
            pair[..16].copy_from_slice(&own.octets());
            pair[16..].copy_from_slice(&to);
            fill_icmp_checksum(&mut b[m..], Some(&pair));
            ipv6::write(&mut b[l3..], 0, message_len, protocol::ICMPV6, 64, own, to.into())
        }
        _ => false,
    }
}
