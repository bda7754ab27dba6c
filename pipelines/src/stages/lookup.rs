//! Stage 2: which known connection a frame belongs to.
//!
//! Three short passes over the batch, so that each asks for the memory that the next one reads: the index buckets
//! are already on their way (classification asked for them); the first pass finds candidates and asks for
//! their entries, the second verifies them, the third looks in the second bucket for the few that are left.

use super::connection::Connections;
use lcs_dataplane::batch::{Batch, NO_FLOW, Places};
use lcs_dataplane::flow::{FlowFlags, Place};
use lcs_dataplane::headers::protocol;
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, RST, SYN};
use lcs_dataplane::prefetch::prefetch;

/// Finds the flows of the frames in `v4` and `v6`; the rest goes to `misses`.
#[inline]
pub(crate) fn lookup(
    c: &mut Connections,
    batch: &mut Batch,
    v4: &Places,
    v6: &Places,
    hits: &mut Places,
    misses: &mut Places,
) {
    for i in v4.iter().chain(v6.iter()) {
        match c.table.candidate(batch.hash[i]) {
            Some(place) => {
                batch.flow[i] = place.0;
                c.table.prefetch_flow(place);
            }
            None => c.table.prefetch_second(batch.hash[i]),
        }
    }
    let mut left = Places::default();
    for i in v4.iter() {
        let place = Place(batch.flow[i]);
        let found =
            place.0 != NO_FLOW && c.table.matches_v4(place, batch.addresses[i], batch.ports[i], batch.protocol[i]);
        if found { keep(c, batch, place, i, hits, misses) } else { left.push(i) }
    }
    if !v6.is_empty() {
        for i in v6.iter() {
            if batch.flow[i] != NO_FLOW {
                c.table.prefetch_addresses(Place(batch.flow[i]));
            }
        }
        for i in v6.iter() {
            let place = Place(batch.flow[i]);
            let at = usize::from(batch.l3[i]) + 8;
            let found = place.0 != NO_FLOW
                && batch.frames[i]
                    .bytes()
                    .get(at..)
                    .and_then(|b| b.first_chunk::<32>())
                    .is_some_and(|a| c.table.matches_v6(place, a, batch.ports[i], batch.protocol[i]));
            if found { keep(c, batch, place, i, hits, misses) } else { left.push(i) }
        }
    }
    if !left.is_empty() {
        second_bucket(c, batch, &left, hits, misses);
    }
}

/// Takes a verified flow, unless a client opens a new connection over one that is closed.
#[inline(always)]
fn keep(c: &mut Connections, batch: &mut Batch, place: Place, i: usize, hits: &mut Places, misses: &mut Places) {
    let flow = c.table.get(place.flow());
    if let Some(traffic) = c.traffic.get(usize::from(flow.server)) {
        prefetch(traffic);
    }
    let opens = batch.tcp_flags[i] & (SYN | ACK | RST | FIN) == SYN;
    if opens && flow.flags.has(FlowFlags::CLOSED) && batch.protocol[i] == protocol::TCP {
        reopen(c, batch, place, i, misses);
        return;
    }
    batch.flow[i] = place.0;
    hits.push(i);
}

/// RFC 9293 §3.6.1: a new SYN may reopen a connection in TIME-WAIT. It is scheduled afresh.
#[inline(never)]
fn reopen(c: &mut Connections, batch: &mut Batch, place: Place, i: usize, misses: &mut Places) {
    c.close(place.flow());
    batch.flow[i] = NO_FLOW;
    misses.push(i);
}

#[inline(never)]
fn second_bucket(c: &mut Connections, batch: &mut Batch, left: &Places, hits: &mut Places, misses: &mut Places) {
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
