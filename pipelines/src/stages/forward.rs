//! Stage 5: what is rewritten, and where the frame goes.

use super::connection::{Connections, next_state};
use super::{icmp, tunnel};
use lcs_dataplane::batch::{Batch, Places};
use lcs_dataplane::checksum::Difference;
use lcs_dataplane::flow::{Flow, FlowFlags, Place};
use lcs_dataplane::headers::parse::checksum_offset;
use lcs_dataplane::headers::{Kind, ethernet, protocol};
use lcs_dataplane::{DropReason, Frame, Verdict};

/// Rewrites and addresses every frame in `hits`, whose flows are known.
#[inline]
pub(crate) fn forward(c: &mut Connections, batch: &mut Batch, hits: &Places, now: u32) {
    for i in hits.iter() {
        batch.verdict[i] = forward_one(c, batch, i, now);
    }
}

#[inline(always)]
fn forward_one(c: &mut Connections, batch: &mut Batch, i: usize, now: u32) -> Verdict {
    let place = Place(batch.flow[i]);
    let side = place.side();
    let flow = c.table.get_mut(place.flow());
    flow.last_seen = now;
    flow.packets[side] = flow.packets[side].wrapping_add(1);
    let (row, flags, server) = (flow.next_hop[1 - side], flow.flags, usize::from(flow.server));
    let addresses = flow.addresses[1 - side];
    let ports = flow.ports[1 - side];
    let (ip_difference, l4_difference) = (directed(flow.ip_difference, side), directed(flow.l4_difference, side));
    if batch.protocol[i] == protocol::TCP {
        let state = next_state(flow.state, batch.tcp_flags[i], side, flags.has(FlowFlags::TRANSLATED));
        if state != flow.state {
            c.moved(place.flow(), state, now);
        }
    }
    let len = batch.end[i] - u16::from(batch.l3[i]);
    if let Some(traffic) = c.traffic.get_mut(server) {
        // Indexed, not branched on: which side sent a packet is as good as random.
        traffic.packets[side] += 1;
        traffic.bytes[side] += u64::from(len);
    }
    let hop = &c.hops[usize::from(row)];
    if !hop.resolved {
        return unresolved(c, row, now);
    }
    // Almost every packet of a NAT service: untagged, without options, TCP, within the MTU. Every offset is known.
    let plain = batch.kind[i] == Kind::Transport4 && batch.l4[i] == 34 && batch.protocol[i] == protocol::TCP;
    if plain
        && flags.0 & (FlowFlags::TRANSLATED | FlowFlags::TUNNEL) == FlowFlags::TRANSLATED
        && len <= hop.mtu
        && let Some(b) = batch.frames[i].bytes_mut().first_chunk_mut::<54>()
        && b[22] > 1
    {
        b[..12].copy_from_slice(&hop.addresses);
        b[22] -= 1;
        let sum = u16::from_ne_bytes([b[24], b[25]]);
        b[24..26].copy_from_slice(&ip_difference.apply_with_ttl(sum).to_ne_bytes());
        b[26..34].copy_from_slice(&addresses.rotate_left(32).to_ne_bytes());
        b[34..38].copy_from_slice(&ports.rotate_left(16).to_ne_bytes());
        let sum = u16::from_ne_bytes([b[50], b[51]]);
        b[50..52].copy_from_slice(&l4_difference.apply(sum).to_ne_bytes());
        batch.tx[i] = hop.interface;
        return Verdict::Forward;
    }
    if flags.has(FlowFlags::TUNNEL) {
        let (mtu, interface, addresses) = (hop.mtu, hop.interface, hop.addresses);
        return tunnel::encapsulate(c, batch, i, server, mtu, interface, &addresses, now);
    }
    if !flags.has(FlowFlags::TRANSLATED) && len <= hop.mtu {
        // Direct routing: only the link-layer address changes (tutorial, slide 26).
        ethernet::set_addresses(batch.frames[i].bytes_mut(), &hop.addresses);
        batch.tx[i] = hop.interface;
        return Verdict::Forward;
    }
    forward_other(c, batch, i, place, now)
}

/// Translation with options, tags, UDP or IPv6; and what is too big.
#[inline(never)]
fn forward_other(c: &mut Connections, batch: &mut Batch, i: usize, place: Place, now: u32) -> Verdict {
    let side = place.side();
    let flow = c.table.get(place.flow());
    let hop = c.hops[usize::from(flow.next_hop[1 - side])];
    if batch.end[i] - u16::from(batch.l3[i]) > hop.mtu {
        return icmp::too_big(c, batch, i, hop.mtu, now);
    }
    let (l3, l4, transport) = (batch.l3[i], batch.l4[i], batch.protocol[i]);
    let done = match batch.kind[i] {
        Kind::Transport4 | Kind::First4 => translate_v4(&mut batch.frames[i], l3, l4, transport, flow, side),
        _ => {
            let swapped = c.table.addresses_v6(place.flow(), 1 - side);
            translate_v6(&mut batch.frames[i], l3, l4, transport, flow, side, &swapped)
        }
    };
    match done {
        Translated::Done => {}
        Translated::TtlExpired => return icmp::ttl_expired(c, batch, i, now),
        Translated::Malformed => return Verdict::Drop(DropReason::BadHeader),
    }
    ethernet::set_addresses(batch.frames[i].bytes_mut(), &hop.addresses);
    batch.tx[i] = hop.interface;
    Verdict::Forward
}

#[inline(never)]
fn unresolved(c: &mut Connections, row: u16, now: u32) -> Verdict {
    c.say((1, row), now, crate::command::Event::NeedNextHop(row));
    Verdict::Drop(DropReason::NextHopUnresolved)
}

/// What came of a translation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Translated {
    /// Rewritten.
    Done,
    /// The TTL would reach 0; nothing was changed.
    TtlExpired,
    /// The headers are not where they were said to be; nothing was changed.
    Malformed,
}

/// The difference for packets of `side`, from the one for packets of the client.
#[inline(always)]
pub(crate) fn directed(bits: u16, side: usize) -> Difference {
    // Reversing is complementing: all ones for side 1, nothing for side 0.
    Difference::from_bits(bits ^ 0u16.wrapping_sub(side as u16))
}

/// IPv4: addresses, ports, TTL, and both checksums by RFC 1624 equation 3.
#[inline]
fn translate_v4(frame: &mut Frame, l3: u8, l4: u16, transport: u8, flow: &Flow, side: usize) -> Translated {
    let addresses = flow.addresses[1 - side].rotate_left(32).to_ne_bytes();
    let ports = flow.ports[1 - side].rotate_left(16).to_ne_bytes();
    let (ip_difference, l4_difference) = (directed(flow.ip_difference, side), directed(flow.l4_difference, side));
    let b = frame.bytes_mut();
    let (l3, l4) = (usize::from(l3), usize::from(l4));
    let at = l4 + checksum_offset(transport);
    if b.len() < at + 2 || l4 < l3 + 20 {
        return Translated::Malformed;
    }
    if b[l3 + 8] <= 1 {
        return Translated::TtlExpired;
    }
    b[l3 + 8] -= 1;
    b[l3 + 12..l3 + 20].copy_from_slice(&addresses);
    b[l4..l4 + 4].copy_from_slice(&ports);
    let sum = u16::from_ne_bytes([b[l3 + 10], b[l3 + 11]]);
    b[l3 + 10..l3 + 12].copy_from_slice(&ip_difference.apply_with_ttl(sum).to_ne_bytes());
    apply_transport(b, at, transport, l4_difference);
    Translated::Done
}

/// IPv6: addresses, ports, hop limit, and the transport checksum.
#[inline]
fn translate_v6(
    frame: &mut Frame,
    l3: u8,
    l4: u16,
    transport: u8,
    flow: &Flow,
    side: usize,
    other: &[u8; 32],
) -> Translated {
    let ports = flow.ports[1 - side].rotate_left(16).to_ne_bytes();
    let (l3, l4) = (usize::from(l3), usize::from(l4));
    let at = l4 + checksum_offset(transport);
    let b = frame.bytes_mut();
    if b.len() < at + 2 || l4 < l3 + 40 {
        return Translated::Malformed;
    }
    if b[l3 + 7] <= 1 {
        return Translated::TtlExpired;
    }
    b[l3 + 7] -= 1;
    b[l3 + 8..l3 + 24].copy_from_slice(&other[16..]);
    b[l3 + 24..l3 + 40].copy_from_slice(&other[..16]);
    b[l4..l4 + 4].copy_from_slice(&ports);
    apply_transport(b, at, transport, directed(flow.l4_difference, side));
    Translated::Done
}

/// Updates the transport checksum at `at`, which is within `b`.
#[inline(always)]
fn apply_transport(b: &mut [u8], at: usize, transport: u8, difference: Difference) {
    let sum = u16::from_ne_bytes([b[at], b[at + 1]]);
    let sum = if transport == protocol::UDP { difference.apply_udp(sum) } else { difference.apply(sum) };
    b[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
}

/// Forwards a later fragment, or an ICMP error of a connection whose packets are not translated: by the flow's next hop,
/// with the addresses rewritten where the flow is translated and `translate` asks for it. No ports, no transport checksum.
pub(crate) fn forward_without_ports(
    c: &mut Connections,
    batch: &mut Batch,
    i: usize,
    place: Place,
    now: u32,
) -> Verdict {
    let side = place.side();
    let flow = c.table.get_mut(place.flow());
    flow.last_seen = now;
    let flow = *flow;
    let row = flow.next_hop[1 - side];
    let hop = c.hops[usize::from(row)];
    if !hop.resolved {
        return unresolved(c, row, now);
    }
    if flow.flags.has(FlowFlags::TUNNEL) {
        return tunnel::encapsulate(c, batch, i, usize::from(flow.server), hop.mtu, hop.interface, &hop.addresses, now);
    }
    if batch.end[i] - u16::from(batch.l3[i]) > hop.mtu {
        return icmp::too_big(c, batch, i, hop.mtu, now);
    }
    if flow.flags.has(FlowFlags::TRANSLATED) {
        let l3 = usize::from(batch.l3[i]);
        let v6 = flow.is_v6();
        let swapped = c.table.addresses_v6(place.flow(), 1 - side);
        let b = batch.frames[i].bytes_mut();
        let (ttl, header) = if v6 { (l3 + 7, l3 + 40) } else { (l3 + 8, l3 + 20) };
        if b.len() < header {
            return Verdict::Drop(DropReason::Truncated);
        }
        if b[ttl] <= 1 {
            return icmp::ttl_expired(c, batch, i, now);
        }
        b[ttl] -= 1;
        if v6 {
            b[l3 + 8..l3 + 24].copy_from_slice(&swapped[16..]);
            b[l3 + 24..l3 + 40].copy_from_slice(&swapped[..16]);
        } else {
            b[l3 + 12..l3 + 20].copy_from_slice(&flow.addresses[1 - side].rotate_left(32).to_ne_bytes());
            let sum = u16::from_ne_bytes([b[l3 + 10], b[l3 + 11]]);
            let d = directed(flow.ip_difference, side);
            b[l3 + 10..l3 + 12].copy_from_slice(&d.apply_with_ttl(sum).to_ne_bytes());
        }
    }
    ethernet::set_addresses(batch.frames[i].bytes_mut(), &hop.addresses);
    batch.tx[i] = hop.interface;
    Verdict::Forward
}
