//! Stage 2: which known connection a frame belongs to.
//!
//! Short passes over the batch, so that each asks for the memory that the next one reads: the index buckets
//! are already on their way (classification asked for them); `candidates` finds candidates and asks for
//! their entries; whoever reads an entry first verifies it: `forward_found` for the simple frames of
//! established connections, `lookup` for all others.

use super::connection::Connections;
use lcs_dataplane::DropReason;
use lcs_dataplane::batch::{Batch, NO_FLOW, Places};
use lcs_dataplane::flow::{Flow, FlowFlags, Key, Place};
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, RST, SYN};
use lcs_dataplane::headers::{Kind, protocol};

/// Notes for each frame in `places` which flow it may belong to ([`NO_FLOW`] stays where there is none), and asks for the flow's entry.
#[inline]
pub(crate) fn candidates(c: &mut Connections, batch: &mut Batch, places: Places) {
    let spliced = c.splices.asks(places.len() as u32);
    let finder = c.table.finder();
    let mut second = 0u32;
    for i in places.iter() {
        match finder.candidate(batch.hash[i]) {
            Some(place) => {
                batch.flow[i] = place.0;
                finder.prefetch_flow(place);
                if spliced {
                    c.splices.prefetch(place.flow());
                }
            }
            None => {
                second |= 1 << i;
                c.table.prefetch_second(batch.hash[i]);
            }
        }
    }
    for i in Places::from_bits(second).iter() {
        if let Some(place) = c.table.candidate_second(batch.hash[i]) {
            batch.flow[i] = place.0;
            finder.prefetch_flow(place);
        }
    }
}

/// Finds the flows of the frames in `v4` and `v6`, whose [`candidates`] are known; the rest goes to `misses`.
#[inline]
pub(crate) fn lookup(
    c: &mut Connections,
    batch: &mut Batch,
    v4: Places,
    v6: Places,
    hits: &mut Places,
    misses: &mut Places,
) {
    let finder = c.table.finder();
    // A frame without a candidate has `NO_FLOW`, which is no flow's place.
    let mut found = 0;
    for i in Places::from_bits(v4.bits() & batch.simple).iter() {
        if finder.is_tcp_v4(Place(batch.flow[i]), batch.addresses[i], batch.ports[i]) {
            found |= 1u32 << i;
        }
    }
    let simple6 = Places::from_bits(v6.bits() & batch.simple);
    for i in simple6.iter() {
        finder.prefetch_addresses(Place(batch.flow[i]));
    }
    for i in simple6.iter() {
        if let Some(b) = batch.frames[i].bytes().first_chunk::<54>()
            && let Some(addresses) = b[22..].first_chunk::<32>()
            && finder.is_tcp_v6(Place(batch.flow[i]), addresses, batch.ports[i])
        {
            found |= 1u32 << i;
        }
    }
    *hits = Places::from_bits(found);
    let rest = Places::from_bits((v4.bits() | v6.bits()) & !found);
    if !rest.is_empty() {
        lookup_other(c, batch, rest, hits, misses);
    }
}

/// The simple frames in `v4` that do not belong to the flow that their candidate names.
pub(crate) fn unknown(c: &Connections, batch: &Batch, v4: Places) -> Places {
    let finder = c.table.finder();
    let mut unknown = Places::default();
    for i in Places::from_bits(v4.bits() & batch.simple).iter() {
        if !finder.is_tcp_v4(Place(batch.flow[i]), batch.addresses[i], batch.ports[i]) {
            unknown.push(i);
        }
    }
    unknown
}

/// Frames that open or close a connection, that are no plain TCP, or whose first candidate was none.
#[inline(never)]
fn lookup_other(c: &mut Connections, batch: &mut Batch, rest: Places, hits: &mut Places, misses: &mut Places) {
    let mut left = Places::default();
    for i in rest.iter() {
        let place = Place(batch.flow[i]);
        if place.0 != NO_FLOW && is_of(c, batch, i, place) {
            keep(c, batch, place, i, hits, misses);
        } else {
            left.push(i);
        }
    }
    if !left.is_empty() {
        second_bucket(c, batch, left, hits, misses);
    }
}

/// Whether frame `i` belongs to that flow and side.
#[inline]
pub(crate) fn is_of(c: &Connections, batch: &Batch, i: usize, place: Place) -> bool {
    if matches!(batch.kind[i], Kind::Transport4 | Kind::First4) {
        return c.table.matches_v4(place, batch.addresses[i], batch.ports[i], batch.protocol[i]);
    }
    match super::schedule::key_of(batch, i) {
        Some(Key::V6 { addresses, ports }) => c.table.matches_v6(place, &addresses, ports, batch.protocol[i]),
        _ => false,
    }
}

/// Takes a verified flow, unless a client opens a new connection over one that is closed.
fn keep(c: &mut Connections, batch: &mut Batch, place: Place, i: usize, hits: &mut Places, misses: &mut Places) {
    let flow = c.table.get(place.flow());
    let opens = batch.tcp_flags[i] & (SYN | ACK | RST | FIN) == SYN && place.side() == Place::CLIENT;
    let decided = opens && was_decided(c, flow);
    let closed = flow.flags.has(FlowFlags::CLOSED);
    let again = opens && (closed || decided) && batch.protocol[i] == protocol::TCP;
    if again && is_newer(c, batch, i, place, decided) {
        if closed {
            reopen(c, batch, place, i, hits, misses);
        } else {
            // The bind stage asks the client which connection it knows.
            batch.flow[i] = NO_FLOW;
            misses.push(i);
        }
        return;
    }
    if again && decided {
        // The first SYN again, whose answer the client has acknowledged long ago.
        batch.drop(i, DropReason::OutOfWindow);
        return;
    }
    batch.flow[i] = place.0;
    hits.push(i);
}

/// Whether a flow of layer 4 was given to its server by what its client asked for, and that server answers unseen
/// (`bind/direct.rs`): its end may be unseen, too, and whatever the client asks for on a new connection is to be decided anew. Its
/// client's initial number is [`Flow::extra`].
pub(crate) fn was_decided(c: &Connections, flow: &Flow) -> bool {
    if flow.flags.has(FlowFlags::SPLICED) || flow.flags.has(FlowFlags::TRANSLATED) {
        return false;
    }
    let service = c.snapshot.services.get(usize::from(flow.service)).and_then(Option::as_ref);
    service.and_then(|s| s.content.as_ref()).is_some_and(|content| content.binding.scheme.guesses())
}

/// Whether a SYN's number is beyond what is known of the connection before (RFC 9293 §3.6.1), where anything is: a late copy of
/// the old SYN must not end what is still being acknowledged. Where the server answers unseen, the number says nothing: a client may
/// choose any (RFC 6528), and there is nothing left to be protected that the client does not know better (`bind/direct.rs` asks it).
/// Only its own SYN is no new one.
fn is_newer(c: &Connections, batch: &Batch, i: usize, place: Place, decided: bool) -> bool {
    let flow = c.table.get(place.flow());
    let spliced = flow.flags.has(FlowFlags::SPLICED);
    if !spliced && !decided {
        return true;
    }
    let at = usize::from(batch.l4[i]) + 4;
    let Some(b) = batch.frames[i].bytes().get(at..at + 4) else { return false };
    let seq = u32::from_be_bytes([b[0], b[1], b[2], b[3]]);
    if !spliced {
        return seq != flow.extra;
    }
    let e = c.splices.get(place.flow());
    let last = if flow.flags.has(FlowFlags::TRANSLATED) { e.offsets.limit[Place::CLIENT] } else { e.numbers[0] };
    e.offsets.open || seq.wrapping_sub(last) as i32 > 0
}

/// RFC 9293 §3.6.1: a new SYN may reopen a connection in TIME-WAIT. It is scheduled afresh.
#[inline(never)]
fn reopen(c: &mut Connections, batch: &mut Batch, place: Place, i: usize, hits: &mut Places, misses: &mut Places) {
    c.close_within(place.flow(), batch, hits);
    batch.flow[i] = NO_FLOW;
    misses.push(i);
}

#[inline(never)]
fn second_bucket(c: &mut Connections, batch: &mut Batch, left: Places, hits: &mut Places, misses: &mut Places) {
    for i in left.iter() {
        batch.flow[i] = NO_FLOW;
        let found = super::schedule::key_of(batch, i)
            .and_then(|key| c.table.find_hashed(&key, batch.protocol[i], batch.hash[i]));
        match found {
            Some(place) => keep(c, batch, place, i, hits, misses),
            None => misses.push(i),
        }
    }
}
