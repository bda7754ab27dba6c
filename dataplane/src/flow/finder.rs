//! The table as a loop over a batch reads it.

use super::entry::{Flow, FlowFlags, Place, TcpState};
use super::hash::Hasher;
use super::index::IndexReader;
use super::interned::SAME_AS_CLIENT;
use crate::prefetch::prefetch_at;

/// A table's slices at hand, for the duration of one loop over a batch: what is behind `&FlowTable` would be
/// loaded again for every packet.
#[derive(Debug, Clone, Copy)]
pub struct Finder<'t> {
    pub(super) hasher: Hasher,
    pub(super) index: IndexReader<'t>,
    pub(super) flows: &'t [Flow],
    pub(super) clients_v6: &'t [[u8; 16]],
    pub(super) interned: &'t [[u8; 16]],
}

impl Finder<'_> {
    /// The table's hash.
    #[inline(always)]
    pub fn hasher(&self) -> &Hasher {
        &self.hasher
    }

    /// See [`FlowTable::prefetch`](super::FlowTable::prefetch).
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// See [`FlowTable::candidate`](super::FlowTable::candidate).
    #[inline(always)]
    pub fn candidate(&self, hash: u64) -> Option<Place> {
        self.index.candidate(hash).map(Place)
    }

    /// See [`FlowTable::prefetch_flow`](super::FlowTable::prefetch_flow).
    #[inline(always)]
    pub fn prefetch_flow(&self, place: Place) {
        prefetch_at(self.flows.as_ptr().wrapping_add(place.flow() as usize));
    }

    /// Whether `place` is the flow and side of a TCP packet over IPv4. A place that is none is not.
    #[inline(always)]
    pub fn is_tcp_v4(&self, place: Place, addresses: u64, ports: u32) -> bool {
        let Some(f) = self.flows.get(place.flow() as usize) else { return false };
        let s = place.side();
        f.addresses[s] == addresses && f.ports[s] == ports && f.summary() & FAMILY == TCP_V4
    }

    /// See [`FlowTable::prefetch_addresses`](super::FlowTable::prefetch_addresses).
    #[inline(always)]
    pub fn prefetch_addresses(&self, place: Place) {
        if let Some(f) = self.flows.get(place.flow() as usize) {
            prefetch_at(self.clients_v6.as_ptr().wrapping_add(f.addresses[0] as u32 as usize));
        }
    }

    /// Whether `place` is the flow and side of a TCP packet over IPv6. A place that is none is not.
    #[inline(always)]
    pub fn is_tcp_v6(&self, place: Place, addresses: &[u8; 32], ports: u32) -> bool {
        let Some(f) = self.flows.get(place.flow() as usize) else { return false };
        if f.ports[place.side()] != ports || f.summary() & FAMILY != TCP_V6 {
            return false;
        }
        let (halves, _) = addresses.as_chunks::<16>();
        let at = AddressesV6 { clients: self.clients_v6, interned: self.interned };
        let (source, destination) = at.of(f, place.side());
        u128::from_ne_bytes(halves[0]) == u128::from_ne_bytes(*source)
            && u128::from_ne_bytes(halves[1]) == u128::from_ne_bytes(*destination)
    }
}

/// The bits of a [`Flow::summary`] that say which packets can be a flow's.
const FAMILY: u32 = Flow::summary_of(0xff, TcpState::None, FlowFlags::V6);
const TCP_V4: u32 = Flow::summary_of(6, TcpState::None, 0);
const TCP_V6: u32 = Flow::summary_of(6, TcpState::None, FlowFlags::V6);

/// Where the addresses of IPv6 flows stand.
#[derive(Debug, Clone, Copy)]
pub struct AddressesV6<'t> {
    pub(super) clients: &'t [[u8; 16]],
    pub(super) interned: &'t [[u8; 16]],
}

impl<'t> AddressesV6<'t> {
    /// Source and destination of one side's packets of an IPv6 flow, as on the wire.
    #[inline(always)]
    pub fn of(&self, f: &Flow, side: usize) -> (&'t [u8; 16], &'t [u8; 16]) {
        let interned = |id: u32| self.interned.get(id as usize).unwrap_or(&[0; 16]);
        let (low, high) = (f.addresses[side] as u32, (f.addresses[side] >> 32) as u32);
        let client = self.clients.get(f.addresses[0] as u32 as usize).unwrap_or(&[0; 16]);
        if side == Place::CLIENT {
            (client, interned(high))
        } else {
            (interned(low), if high == SAME_AS_CLIENT { client } else { interned(high) })
        }
    }
}
