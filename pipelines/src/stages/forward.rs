//! Stage 5: what is rewritten, and where the frame goes.

use super::bind::{FAR_IN_POOL, intact};
use super::connection::Connections;
use super::fragmentation::{Cut, may_be_cut};
use super::hold::Awaited;
use super::state::{followed, next_state, note, notes_of};
use super::translate::{Translated, directed, splice_v4, translate_v4, translate_v6};
use super::{icmp, tunnel};
use crate::snapshot::NextHop;
use crate::splice::{Entries, NIL};
use lcs_dataplane::batch::{Batch, Places};
use lcs_dataplane::checksum::Difference;
use lcs_dataplane::flow::{Flow, FlowFlags, Place, TcpState};
use lcs_dataplane::headers::options::STAMPED_HEAD;
use lcs_dataplane::headers::tcp::flags::RST;
use lcs_dataplane::headers::{Kind, ethernet, protocol, tcp};
use lcs_dataplane::prefetch::prefetch_at;
use lcs_dataplane::{BURST, DropReason, Verdict};

/// Rewrites and addresses every frame in `hits`, whose flows are known, in order.
#[inline]
pub(crate) fn forward(c: &mut Connections, batch: &mut Batch, hits: Places, now: u32) {
    c.splices.settle(&mut c.table);
    let mut rest = hits.bits();
    while rest != 0 {
        let i = rest.trailing_zeros() as usize % BURST;
        let left = simple(c, batch, rest, now);
        if left == rest {
            if super::bind::is_spliced(c, batch, i) {
                c.splices.reads();
                c.looked_at.push(i);
            } else {
                batch.verdict[i] = forward_one(c, batch, i, now);
            }
            rest &= rest - 1;
        } else {
            rest = left;
        }
    }
}

/// Forwards frames over IPv4 among `places` whose flows are only [`super::lookup::candidates`], in order, up to the first one that is not
/// simple, or whose candidate is not its flow. Verifying where the entry is read anyway spares a pass, and gives the last
/// entries of a burst the time of the first ones' forwarding to arrive. Returns the places that are left.
#[inline]
pub(crate) fn forward_found(c: &mut Connections, batch: &mut Batch, places: Places, now: u32) -> Places {
    c.splices.settle(&mut c.table);
    let mut rest = places.bits();
    while rest != 0 {
        let left = simple(c, batch, rest, now);
        if left == rest {
            break;
        }
        rest = left;
    }
    Places::from_bits(rest)
}

/// Forwards simple frames from the first of `places` on, as many as go the same way. Returns the places that are left.
#[inline(always)]
fn simple(c: &mut Connections, batch: &mut Batch, places: u32, now: u32) -> u32 {
    match path(c, batch, places.trailing_zeros() as usize % BURST) {
        NAT_V4 => simple_run::<NAT_V4>(c, batch, places, now),
        NAT_V6 => simple_run::<NAT_V6>(c, batch, places, now),
        SPLICE_V4 => or_stamped::<SPLICE_V4, { SPLICE_V4 | STAMPED }>(c, batch, places, now),
        SPLICE_V6 => or_stamped::<SPLICE_V6, { SPLICE_V6 | STAMPED }>(c, batch, places, now),
        POOLED_V4 => or_stamped::<POOLED_V4, { POOLED_V4 | STAMPED }>(c, batch, places, now),
        POOLED_V6 => or_stamped::<POOLED_V6, { POOLED_V6 | STAMPED }>(c, batch, places, now),
        DIRECT_V4 => simple_run::<DIRECT_V4>(c, batch, places, now),
        DIRECT_V6 => simple_run::<DIRECT_V6>(c, batch, places, now),
        TUNNEL_V4 => simple_run::<TUNNEL_V4>(c, batch, places, now),
        _ => places,
    }
}

/// Frames of the way `HOW`, or, where the first of them has a header of [`STAMPED_OFFSET`], of the same way with timestamps.
#[inline(always)]
fn or_stamped<const HOW: u32, const WITH: u32>(c: &mut Connections, batch: &mut Batch, places: u32, now: u32) -> u32 {
    let at = if HOW & V6 != 0 { 66 } else { 46 };
    let first = &batch.frames[places.trailing_zeros() as usize % BURST];
    if first.bytes().get(at) == Some(&STAMPED_OFFSET) {
        simple_run::<WITH>(c, batch, places, now)
    } else {
        simple_run::<HOW>(c, batch, places, now)
    }
}

/// How a frame's flow is forwarded, as the bits of [`PATH`]; 0 for a frame that is not simple, or without a candidate.
#[inline(always)]
fn path(c: &Connections, batch: &Batch, i: usize) -> u32 {
    if batch.simple >> i & 1 == 0 { 0 } else { c.table.summary(Place(batch.flow[i])) & PATH }
}

/// The bits of a flow's summary that choose the path of its packets: protocol, state, and how they are forwarded.
pub(crate) const PATH: u32 = 0xffff
    | ((FlowFlags::V6 | FlowFlags::TRANSLATED | FlowFlags::TUNNEL | FlowFlags::SPLICED | FlowFlags::POOLED) as u32)
        << 16;
/// The bit of a path that says IPv6.
const V6: u32 = (FlowFlags::V6 as u32) << 16;
/// And the one that says that the connection to the server is from a pool.
const POOLED: u32 = (FlowFlags::POOLED as u32) << 16;
/// Byte 12 of a TCP header without options, and of one with timestamps and no other.
const BARE_OFFSET: u8 = 0x50;
const STAMPED_OFFSET: u8 = 0x80;

/// Moves the numbers of a spliced connection's segment, and its timestamps where it has some, with the checksum for these and for its
/// ends, if it may go the way `HOW` without anybody looking at it. `rest` and `len`: what follows the first 20 bytes.
#[inline(always)]
fn passes<const HOW: u32>(
    flow: &mut Flow,
    entries: &mut Entries,
    place: Place,
    tcp: &mut [u8; 20],
    rest: &mut [u8],
    len: u16,
) -> bool {
    let ends = directed(flow.l4_difference, place.side());
    let (side, stamped, pooled) = (place.side(), HOW & STAMPED != 0, HOW & POOLED != 0);
    let (offset, options) = if stamped { (STAMPED_OFFSET, 12) } else { (BARE_OFFSET, 0) };
    let seq_end =
        u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]).wrapping_add(u32::from(len.wrapping_sub(options)));
    // Other options (SACK) go the other way.
    if tcp[12] != offset {
        return false;
    }
    if let (false, false, Some(lease)) = (stamped, pooled, flow.lease())
        && lease.passes(side, seq_end)
    {
        lease.rewrite(side, tcp, ends);
        return true;
    }
    let number = place.flow() as usize;
    let Some(e) = entries.all.get_mut(number) else { return false };
    // While it is being bound, the bind stage sees every segment, acknowledgements too; and all of a leg's.
    if e.binding != NIL || e.is_leg || !e.offsets.passes(side, seq_end) {
        return false;
    }
    if pooled && !e.is_within_request(side, tcp) {
        return false;
    }
    if !stamped {
        let ack = u32::from_be_bytes([tcp[8], tcp[9], tcp[10], tcp[11]]);
        e.lend(flow, side, seq_end, ack);
        e.offsets.rewrite(side, tcp, ends);
        *entries.read += 1;
        return true;
    }
    let (Some(s), Some((head, rest))) = (entries.stamps.get_mut(number), rest.split_first_chunk_mut::<4>()) else {
        return false;
    };
    let Some(option) = rest.first_chunk_mut::<8>() else { return false };
    if len < options || *head != STAMPED_HEAD || !e.stamped || !s.goes_on(side, option) {
        return false;
    }
    // How far a client's stamps may go until somebody looks.
    let value = u32::from_be_bytes([option[0], option[1], option[2], option[3]]);
    let lent = pooled && e.main != NIL;
    let far = !s.is_near(value) || lent && !s.is_near_heard(value, FAR_IN_POOL);
    if side == Place::CLIENT && far {
        return false;
    }
    let moved = s.translate(side, option);
    *entries.read += 1;
    e.offsets.rewrite(side, tcp, ends.plus(moved));
    true
}

/// No bit of a path: segments have timestamps, and no other option.
const STAMPED: u32 = 1 << 31;
const STAMPED_V4: u32 = SPLICE_V4 | STAMPED;
const STAMPED_V6: u32 = SPLICE_V6 | STAMPED;
const POOLED_STAMPED_V4: u32 = POOLED_V4 | STAMPED;
const POOLED_STAMPED_V6: u32 = POOLED_V6 | STAMPED;
const NAT_V4: u32 = Flow::summary_of(protocol::TCP, TcpState::Established, FlowFlags::TRANSLATED);
const NAT_V6: u32 = Flow::summary_of(protocol::TCP, TcpState::Established, FlowFlags::TRANSLATED | FlowFlags::V6);
const SPLICE_V4: u32 =
    Flow::summary_of(protocol::TCP, TcpState::Established, FlowFlags::TRANSLATED | FlowFlags::SPLICED);
const SPLICE_V6: u32 =
    Flow::summary_of(protocol::TCP, TcpState::Established, FlowFlags::TRANSLATED | FlowFlags::SPLICED | FlowFlags::V6);
const POOLED_V4: u32 = SPLICE_V4 | POOLED;
const POOLED_V6: u32 = SPLICE_V6 | POOLED;
const DIRECT_V4: u32 = Flow::summary_of(protocol::TCP, TcpState::Established, 0);
const DIRECT_V6: u32 = Flow::summary_of(protocol::TCP, TcpState::Established, FlowFlags::V6);
const TUNNEL_V4: u32 = Flow::summary_of(protocol::TCP, TcpState::Established, FlowFlags::TUNNEL);

/// Up to this many servers, what is kept for them stays in the first-level cache by itself.
const NEAR: usize = 64;

/// Forwards the simple frames ([`Batch::simple`]: every offset is known and the state stays) of established connections
/// that go the way `HOW`, up to the first frame that is different. Returns the places that are left. What it does is what
/// [`forward_one`] would do.
#[inline(never)]
fn simple_run<const HOW: u32>(c: &mut Connections, batch: &mut Batch, places: u32, now: u32) -> u32 {
    let Connections { table, traffic, hops, outers, ident, splices, .. } = c;
    let (flows, v6) = table.flows_mut();
    let (traffic, hops, outers) = (&mut traffic[..], &**hops, &outers[..]);
    let mut entries = splices.entries();
    let later = places & !batch.simple;
    let mut rest = places & batch.simple;
    // Up to the first frame that is not simple.
    if later != 0 {
        rest &= (later & later.wrapping_neg()) - 1;
    }
    let beyond = places & !rest;
    let far = traffic.len() > NEAR;
    while rest != 0 {
        let i = rest.trailing_zeros() as usize % BURST;
        let next = Place(batch.flow[(i + 3) % BURST]);
        if far && let Some(flow) = flows.get(next.flow() as usize) {
            prefetch_at(traffic.as_ptr().wrapping_add(usize::from(flow.server)));
            prefetch_at(&raw const hops[usize::from(flow.next_hop[1 - next.side()])]);
        }
        let place = Place(batch.flow[i]);
        let side = place.side();
        let Some(flow) = flows.get_mut(place.flow() as usize) else { break };
        let hop = &hops[usize::from(flow.next_hop[1 - side])];
        let end = batch.end[i];
        let len = end.wrapping_sub(ethernet::HEADER as u16);
        let server = usize::from(flow.server);
        let (true, true, Some(traffic)) = (hop.resolved, len <= hop.mtu, traffic.get_mut(server)) else { break };
        // A frame's flow over IPv4 may be a candidate that nobody has verified (`forward_found`); with it verified, this is true.
        let verified = match HOW & V6 {
            0 => flow.addresses[side] == batch.addresses[i] && flow.ports[side] == batch.ports[i],
            _ => batch.kind[i] == Kind::Transport6,
        };
        if flow.summary() & PATH != HOW & !STAMPED || !verified {
            break;
        }
        let frame = &mut batch.frames[i];
        match HOW {
            NAT_V4 => {
                let Some(b) = frame.bytes_mut().first_chunk_mut::<54>() else { break };
                b[..12].copy_from_slice(&hop.addresses);
                b[22] = b[22].wrapping_sub(1);
                let sum = u16::from_ne_bytes([b[24], b[25]]);
                b[24..26].copy_from_slice(&directed(flow.ip_difference, side).apply_with_ttl(sum).to_ne_bytes());
                b[26..34].copy_from_slice(&flow.addresses[1 - side].rotate_left(32).to_ne_bytes());
                b[34..38].copy_from_slice(&flow.ports[1 - side].rotate_left(16).to_ne_bytes());
                let sum = u16::from_ne_bytes([b[50], b[51]]);
                b[50..52].copy_from_slice(&directed(flow.l4_difference, side).apply(sum).to_ne_bytes());
            }
            SPLICE_V4 | POOLED_V4 | STAMPED_V4 | POOLED_STAMPED_V4 => {
                // As NAT; and the numbers move (SPLICING, In the splice), and the timestamps where there are some.
                let Some((b, rest)) = frame.bytes_mut().split_first_chunk_mut::<54>() else { break };
                let (ip, tcp) = b.split_at_mut(34);
                let (Some(ip), Some(tcp)) = (ip.first_chunk_mut::<34>(), tcp.first_chunk_mut::<20>()) else { break };
                if !passes::<HOW>(flow, &mut entries, place, tcp, rest, end - 54) {
                    break;
                }
                ip[..12].copy_from_slice(&hop.addresses);
                splice_v4(ip, tcp, flow, side);
            }
            SPLICE_V6 | POOLED_V6 | STAMPED_V6 | POOLED_STAMPED_V6 => {
                let Some((b, rest)) = frame.bytes_mut().split_first_chunk_mut::<74>() else { break };
                let (ip, tcp) = b.split_at_mut(54);
                let (Some(ip), Some(tcp)) = (ip.first_chunk_mut::<54>(), tcp.first_chunk_mut::<20>()) else { break };
                if !passes::<HOW>(flow, &mut entries, place, tcp, rest, end - 74) {
                    break;
                }
                let (source, destination) = v6.of(flow, 1 - side);
                ip[..12].copy_from_slice(&hop.addresses);
                ip[21] = ip[21].wrapping_sub(1);
                ip[22..38].copy_from_slice(destination);
                ip[38..54].copy_from_slice(source);
                tcp[..4].copy_from_slice(&flow.ports[1 - side].rotate_left(16).to_ne_bytes());
            }
            DIRECT_V4 | DIRECT_V6 => {
                // Direct routing: only the link-layer address changes (tutorial, slide 26).
                let Some(b) = frame.bytes_mut().first_chunk_mut::<12>() else { break };
                *b = hop.addresses;
            }
            TUNNEL_V4 => {
                let Some(Some(outer)) = outers.get(server) else { break };
                let next = ident.wrapping_add(1);
                if !outer.put(frame, end, hop, next) {
                    break;
                }
                *ident = next;
            }
            NAT_V6 => {
                let Some(b) = frame.bytes_mut().first_chunk_mut::<74>() else { break };
                let (source, destination) = v6.of(flow, 1 - side);
                b[..12].copy_from_slice(&hop.addresses);
                b[21] = b[21].wrapping_sub(1);
                b[22..38].copy_from_slice(destination);
                b[38..54].copy_from_slice(source);
                b[54..58].copy_from_slice(&flow.ports[1 - side].rotate_left(16).to_ne_bytes());
                let sum = u16::from_ne_bytes([b[70], b[71]]);
                b[70..72].copy_from_slice(&directed(flow.l4_difference, side).apply(sum).to_ne_bytes());
            }
            _ => break,
        }
        flow.last_seen = now;
        // Indexed, not branched on: which side sent a packet is as good as random.
        flow.packets[side] = flow.packets[side].wrapping_add(1);
        traffic.packets[side] += 1;
        traffic.bytes[side] += u64::from(len);
        batch.tx[i] = hop.interface;
        batch.verdict[i] = Verdict::Forward;
        rest &= rest - 1;
    }
    rest | beyond
}

/// Any frame of a known flow.
#[inline(never)]
pub(crate) fn forward_one(c: &mut Connections, batch: &mut Batch, i: usize, now: u32) -> Verdict {
    let place = Place(batch.flow[i]);
    let side = place.side();
    let flow = c.table.get_mut(place.flow());
    flow.last_seen = now;
    let (row, flags, server) = (flow.next_hop[1 - side], flow.flags, usize::from(flow.server));
    if !c.hops[usize::from(row)].resolved {
        return unresolved(c, batch, i, row, now);
    }
    flow.packets[side] = flow.packets[side].wrapping_add(1);
    if batch.protocol[i] == protocol::TCP {
        let tcp_flags = batch.tcp_flags[i];
        let spliced = flags.has(FlowFlags::SPLICED);
        let (state, notes) = if spliced {
            (next_state(flow.state, tcp_flags, side, flags.has(FlowFlags::TRANSLATED)), 0)
        } else {
            followed(flow, tcp_flags, side, || numbers(batch, i))
        };
        let moves = state != flow.state;
        let noted = !spliced && notes != notes_of(flow);
        // A reset that was damaged on its way ends nothing at its receiver, so nothing here (a spliced one was looked at).
        if (moves || noted) && (tcp_flags & RST == 0 || spliced || intact(batch, i)) {
            if noted {
                note(c.table.get_mut(place.flow()), notes);
            }
            if moves {
                c.moved(place.flow(), state, now);
            }
        }
    }
    let len = batch.end[i] - u16::from(batch.l3[i]);
    if let Some(traffic) = c.traffic.get_mut(server) {
        // Indexed, not branched on: which side sent a packet is as good as random.
        traffic.packets[side] += 1;
        traffic.bytes[side] += u64::from(len);
    }
    let hop = &c.hops[usize::from(row)];
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
    if flags.has(FlowFlags::SPLICED) && len <= hop.mtu && splice_plain(c, batch, i, place, hop) {
        return Verdict::Forward;
    }
    forward_other(c, batch, i, place, now)
}

/// Sends on a plain segment of a spliced connection that the bind stage has looked at, as on the short way. `false`, with nothing done, where
/// something about it is unusual.
#[inline]
fn splice_plain(c: &Connections, batch: &mut Batch, i: usize, place: Place, hop: &NextHop) -> bool {
    if batch.kind[i] != Kind::Transport4 || batch.l4[i] != 34 || batch.l3[i] != ethernet::HEADER as u8 {
        return false;
    }
    let flow = c.table.get(place.flow());
    let Some((ip, rest)) = batch.frames[i].bytes_mut().split_first_chunk_mut::<34>() else { return false };
    let Some(tcp) = rest.first_chunk_mut::<{ tcp::HEADER }>() else { return false };
    if ip[22] <= 1 || tcp[12] & 0xf0 != BARE_OFFSET {
        return false;
    }
    ip[..12].copy_from_slice(&hop.addresses);
    c.splices.get(place.flow()).offsets.rewrite(place.side(), tcp, directed(flow.l4_difference, place.side()));
    splice_v4(ip, tcp, flow, place.side());
    batch.tx[i] = hop.interface;
    true
}

/// Sequence and acknowledgement number of a TCP segment that has come as it was sent.
fn numbers(batch: &Batch, i: usize) -> Option<[u32; 2]> {
    let at = usize::from(batch.l4[i]) + 4;
    let b = batch.frames[i].bytes().get(at..)?.first_chunk::<8>().filter(|_| intact(batch, i))?;
    let [s, e, q, n, a, c, k, d] = *b;
    Some([u32::from_be_bytes([s, e, q, n]), u32::from_be_bytes([a, c, k, d])])
}

/// Translation with options, tags, UDP or IPv6, and what is too big.
#[inline(never)]
fn forward_other(c: &mut Connections, batch: &mut Batch, i: usize, place: Place, now: u32) -> Verdict {
    let side = place.side();
    let flow = c.table.get(place.flow());
    let hop = c.hops[usize::from(flow.next_hop[1 - side])];
    let too_long = batch.end[i] - u16::from(batch.l3[i]) > hop.mtu;
    if too_long && !may_be_cut(batch, i) {
        return icmp::too_big(c, batch, i, hop.mtu, now);
    }
    if !flow.flags.has(FlowFlags::TRANSLATED) {
        // Direct routing, of what is too long: only then it comes here.
        return addressed(c, batch, i, &hop, too_long);
    }
    let (l3, l4, transport) = (batch.l3[i], batch.l4[i], batch.protocol[i]);
    let entry = place.flow();
    let spliced = flow.flags.has(FlowFlags::SPLICED).then(|| c.splices.get(entry).offsets);
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
    if let Some(offsets) = spliced
        && let Some(segment) = batch.frames[i].bytes_mut().get_mut(usize::from(l4)..)
        && !offsets.rewrite_with_options(side, segment, Difference::NONE, c.splices.stamps(entry))
    {
        return Verdict::Drop(DropReason::BadHeader);
    }
    addressed(c, batch, i, &hop, too_long)
}

/// Sends a frame that is ready to its next hop, in pieces where it is too long.
fn addressed(c: &mut Connections, batch: &mut Batch, i: usize, hop: &NextHop, too_long: bool) -> Verdict {
    ethernet::set_addresses(batch.frames[i].bytes_mut(), &hop.addresses);
    batch.tx[i] = hop.interface;
    if too_long {
        c.oversized.mark(i, Cut::V4(batch.l3[i].into()), hop.mtu);
    }
    Verdict::Forward
}

/// Nothing was changed in the frame or counted of it yet: it may wait and come again. Not what the bind stage has read.
#[inline(never)]
fn unresolved(c: &mut Connections, batch: &Batch, i: usize, row: u16, now: u32) -> Verdict {
    c.say((1, row), now, crate::command::Event::NeedNextHop(row));
    if !c.table.get(Place(batch.flow[i]).flow()).flags.has(FlowFlags::SPLICED) {
        c.holding.ask(batch, i, Awaited::NextHop(row));
    }
    Verdict::Drop(DropReason::NextHopUnresolved)
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
        return unresolved(c, batch, i, row, now);
    }
    if flow.flags.has(FlowFlags::TUNNEL) {
        return tunnel::encapsulate(c, batch, i, usize::from(flow.server), hop.mtu, hop.interface, &hop.addresses, now);
    }
    let too_long = batch.end[i] - u16::from(batch.l3[i]) > hop.mtu;
    if too_long && !may_be_cut(batch, i) {
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
    addressed(c, batch, i, &hop, too_long)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Forward, Scheduler, Server, ServerState, Service, Snapshot};
    use crate::stages::connection::Settings;
    use crate::stages::schedule::{SharedCounts, schedule};
    use crate::stages::{classify, lookup};
    use lcs_dataplane::checksum::Sum;
    use lcs_dataplane::headers::MacAddr;
    use lcs_dataplane::headers::build::Packet;
    use lcs_dataplane::headers::tcp::flags::{ACK, SYN};
    use lcs_dataplane::port::Port;
    use lcs_dataplane::port::memory::MemoryPort;
    use proptest::prelude::*;
    use std::net::SocketAddr;
    use std::sync::Arc;

    const CLIENTS: u16 = 6;

    /// What became of a frame: verdict, interface, bytes.
    type Outcome = (Verdict, u8, Vec<u8>);

    /// The stages over a port in memory. `general` takes the short cuts away.
    struct Bench {
        port: MemoryPort,
        c: Connections,
        general: bool,
    }

    impl Bench {
        fn new(forward: Forward, v6: bool, general: bool) -> Self {
            let address = |v4: &str, six: &str| if v6 { six.parse().unwrap() } else { v4.parse().unwrap() };
            let mut s = Snapshot::default();
            let service = address("198.51.100.1", "2001:db8:1::1");
            s.by_endpoint.insert((service, 80, 6), 0);
            s.services.push(Some(Service {
                name: "web".into(),
                address: service,
                port: 80,
                protocol: 6,
                scheduler: Scheduler::Rr,
                servers: vec![0, 1],
                sources: vec![address("172.31.0.1", "fd01::1")],
                source_ports: (1024, 65535),
                persistence: None,
                content: None,
            }));
            // The second server's path takes small packets only.
            for (n, mtu) in [(0u8, 1500), (1, 100)] {
                s.next_hops.push(NextHop::new(MacAddr([2, 0, 0, 1, 0, n]), MacAddr([2, 0, 0, 0, 0, 2]), n, mtu));
                s.servers.push(Some(Server {
                    name: format!("s{n}"),
                    service: 0,
                    address: address(&format!("10.0.0.{n}"), &format!("fd00::{n}")),
                    port: if forward.replies_return() { 8080 } else { 0 },
                    forward,
                    weight: 1,
                    state: ServerState::Up,
                    next_hop: u16::from(n),
                    tunnel_source: (forward == Forward::Tunnel).then(|| address("172.31.0.1", "fd01::1")),
                }));
            }
            let port = MemoryPort::new(2, 64);
            let capabilities = port.capabilities();
            let settings = Settings { flows: 64, fragments: 16, seed: 1, worker: 0, workers: 1, capabilities };
            let mut c = Connections::new(settings, Arc::new(SharedCounts::new(1, 2)), 1);
            c.install(Arc::new(s));
            Bench { port, c, general }
        }

        /// One batch through all stages.
        fn turn(&mut self, frames: &[Vec<u8>]) -> Vec<Outcome> {
            let Bench { port, c, general } = self;
            let mut batch = Batch::default();
            for f in frames {
                assert!(port.inject(0, f));
            }
            let n = port.receive(&mut batch.frames, &mut batch.rx);
            batch.start(n, false);
            let mut classified = classify::Classified::default();
            classify::classify(c, &mut batch, &mut classified, 7);
            if *general {
                batch.simple = 0;
            }
            let (mut hits, mut misses) = Default::default();
            lookup::candidates(c, &mut batch, classified.known());
            let v4 = if *general { classified.v4 } else { forward_found(c, &mut batch, classified.v4, 7) };
            lookup::lookup(c, &mut batch, v4, classified.v6, &mut hits, &mut misses);
            schedule(c, &mut batch, misses, &mut hits, 7);
            forward(c, &mut batch, hits, 7);
            let out = (0..n).map(|i| (batch.verdict[i], batch.tx[i], batch.frames[i].bytes().to_vec())).collect();
            for frame in &mut batch.frames[..n] {
                port.release(std::mem::take(frame));
            }
            out
        }

        /// What the worker has counted: of servers, and of each flow.
        fn state(&self) -> String {
            let flows: Vec<_> = (0..CLIENTS.into())
                .map(|n| self.c.table.get(n))
                .map(|f| (f.packets, f.state, f.last_seen, f.flags))
                .collect();
            format!("{flows:?} {:?} {}", self.c.server_stats().collect::<Vec<_>>(), self.c.ident)
        }
    }

    fn client_packet(n: u16, v6: bool, flags: u8) -> Packet {
        let (from, to) = if v6 {
            (format!("[2001:db8::{n:x}]:5000"), "[2001:db8:1::1]:80")
        } else {
            (format!("192.0.2.{n}:5000"), "198.51.100.1:80")
        };
        Packet::tcp(from.parse().unwrap(), to.parse().unwrap(), flags)
    }

    /// The ends of a TCP frame without options, swapped: those of the answer.
    fn answer_ends(frame: &[u8], v6: bool) -> (SocketAddr, SocketAddr) {
        let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        if v6 {
            let ip = |at: usize| std::net::IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap());
            (SocketAddr::new(ip(38), port(56)), SocketAddr::new(ip(22), port(54)))
        } else {
            let ip = |at: usize| std::net::IpAddr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).unwrap());
            (SocketAddr::new(ip(30), port(36)), SocketAddr::new(ip(26), port(34)))
        }
    }

    /// One connection by NAT, and its server's SYN+ACK.
    fn established(v6: bool) -> (Bench, Packet) {
        let mut bench = Bench::new(Forward::Nat, v6, false);
        let sent = bench.turn(&[client_packet(0, v6, SYN).frame()]);
        let mut answer = client_packet(0, v6, SYN | ACK);
        (answer.source, answer.destination) = answer_ends(&sent[0].2, v6);
        bench.turn(&[answer.frame()]);
        bench.turn(&[client_packet(0, v6, ACK).frame()]);
        assert_eq!(bench.c.table.get(0).state, TcpState::Established);
        (bench, answer)
    }

    /// A spliced flow that has many bytes to come passes its second segment without its entry, and hears when that changes.
    #[test]
    fn a_leased_flow_does_not_ask_for_its_entry() {
        use lcs_dataplane::headers::build::Transport;
        use lcs_dataplane::splice::{Offer, Offsets};
        let (mut bench, answer) = established(false);
        let splices = &mut bench.c.splices;
        splices.reserve(crate::splice::Needs::ENTRIES);
        splices.insert(0, 0, [0; 2], Offer { mss: 1460, scale: None, sack: false });
        let e = splices.get_mut(0);
        e.offsets = Offsets::new(0, 1000);
        e.offsets.limit = [0, 1 << 20];
        bench.c.table.get_mut(0).flags.set(FlowFlags::SPLICED, true);
        let mut segment = answer.payload(&[1; 100]);
        segment.transport = Transport::Tcp { flags: ACK, seq: 1, ack: 0, window: 9, options: vec![] };
        for (reads, limit) in [(true, 1 << 20), (false, 1 << 20), (true, 1 << 19), (false, 1 << 19)] {
            if bench.c.splices.get(0).offsets.limit[1] != limit {
                bench.c.splices.get_mut(0).offsets.limit[1] = limit;
            }
            let out = bench.turn(&[segment.frame()]);
            assert_eq!((out[0].0, &out[0].2[38..42]), (Verdict::Forward, &1001u32.to_be_bytes()[..]));
            assert_eq!(bench.c.splices.asks(1), reads, "{limit}");
        }
    }

    #[test]
    fn a_candidate_of_the_other_family_is_none() {
        let (mut bench, _) = established(true);
        // A packet over IPv4 whose hash leads there.
        let Bench { port, c, .. } = &mut bench;
        let mut batch = Batch::default();
        let frame = client_packet(1, false, ACK).sized(120).frame();
        assert!(port.inject(0, &frame));
        let n = port.receive(&mut batch.frames, &mut batch.rx);
        batch.start(n, false);
        let mut classified = classify::Classified::default();
        classify::classify(c, &mut batch, &mut classified, 7);
        batch.flow[0] = Place::new(0, Place::CLIENT).0;
        assert_eq!(forward_found(c, &mut batch, classified.v4, 7).bits(), 1);
        assert_eq!(batch.frames[0].bytes(), frame);
        port.release(std::mem::take(&mut batch.frames[0]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// The runs over simple frames do, byte for byte and count for count, what the general path does.
        #[test]
        fn the_short_way_is_the_long_way(
            forward in prop::sample::select(vec![Forward::Nat, Forward::FullNat, Forward::Dr, Forward::Tunnel]),
            v6: bool,
            frames in prop::collection::vec(
                (0..CLIENTS + 1, any::<bool>(), prop_oneof![4 => Just(ACK), 1 => any::<u8>()], prop_oneof![4 => Just(64u8), 1 => 0u8..3],
                 54usize..130, 0usize..8, prop::option::weighted(0.2, (12usize..80, any::<u8>())), any::<bool>()),
                1..32,
            ),
        ) {
            let mut short = Bench::new(forward, v6, false);
            let mut long = Bench::new(forward, v6, true);
            let of_all = |flags| -> Vec<Vec<u8>> { (0..CLIENTS).map(|n| client_packet(n, v6, flags).frame()).collect() };
            let opened = short.turn(&of_all(SYN));
            prop_assert_eq!(&opened, &long.turn(&of_all(SYN)));
            prop_assert!(opened.iter().all(|(v, _, _)| *v == Verdict::Forward));
            if forward.replies_return() {
                let answers: Vec<Vec<u8>> = (0..CLIENTS).map(|n| {
                    let mut packet = client_packet(n, v6, SYN | ACK);
                    (packet.source, packet.destination) = answer_ends(&opened[usize::from(n)].2, v6);
                    packet.frame()
                }).collect();
                prop_assert_eq!(short.turn(&answers), long.turn(&answers));
            }
            prop_assert_eq!(short.turn(&of_all(ACK)), long.turn(&of_all(ACK)));
            prop_assert!((0..CLIENTS).all(|n| short.c.table.get(n.into()).state == TcpState::Established));
            let frames: Vec<Vec<u8>> = frames.into_iter().map(|(n, answer, flags, ttl, size, padding, edit, mend)| {
                let mut packet = client_packet(n, v6, flags);
                if answer && forward.replies_return() && n < CLIENTS {
                    (packet.source, packet.destination) = answer_ends(&opened[usize::from(n)].2, v6);
                }
                packet.ttl = ttl;
                let mut frame = packet.sized(size).frame();
                frame.extend(std::iter::repeat_n(0xaa, padding));
                if let Some((at, value)) = edit && at < frame.len() {
                    frame[at] = value;
                    if mend && !v6 && frame.len() >= 34 {
                        frame[24..26].fill(0);
                        let sum = Sum::ZERO.bytes(&frame[14..34]).checksum();
                        frame[24..26].copy_from_slice(&sum.to_ne_bytes());
                    }
                }
                frame
            }).collect();
            prop_assert_eq!(short.turn(&frames), long.turn(&frames));
            prop_assert_eq!(short.state(), long.state());
        }
    }
}
