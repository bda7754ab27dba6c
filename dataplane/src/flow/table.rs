//! The table: entries, free list, and the addresses of IPv6 flows.

use super::entry::{Flow, FlowFlags, Place};
use super::finder::{AddressesV6, Finder};
use super::hash::Hasher;
use super::index::Index;
use super::interned::{Interned, SAME_AS_CLIENT};
use super::key::{Addresses, Key};
use super::slab::{Slab, Zeroable};
use crate::prefetch::{prefetch, prefetch_at};
use serde::{Deserialize, Serialize};

/// Why a flow was not added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableFull {
    /// All entries are in use.
    Entries,
    /// The index has no room near the key's hash.
    Index,
    /// The addresses of IPv6 servers exceed what the table keeps.
    Addresses,
    /// The server's side of the key is in use by another flow.
    TupleInUse,
}

/// What a table takes in memory, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Flow entries, with the links of their lists.
    pub entries: usize,
    /// Index buckets.
    pub index: usize,
    /// Client addresses of IPv6 flows.
    pub addresses_v6: usize,
}

#[inline]
fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

const NIL: u32 = u32::MAX;

/// A flow's neighbours on the one list that it is on: of a timer, or (`next` alone) of what is free. Apart from the entry, since no packet
/// of an established connection asks for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Links {
    pub(crate) next: u32,
    pub(crate) prev: u32,
}

impl Links {
    /// On no list.
    pub(crate) const NONE: Links = Links { next: NIL, prev: NIL };
}

// SAFETY: integers.
unsafe impl Zeroable for Links {}

/// The flow table of one worker.
#[derive(Debug)]
pub struct FlowTable {
    flows: Slab<Flow>,
    links: Slab<Links>,
    index: Index,
    /// Client addresses of IPv6 flows, by flow; a slab of its own, since not every flow has one.
    clients_v6: Slab<[u8; 16]>,
    interned: Interned,
    hasher: Hasher,
    free: u32,
    fresh: u32,
    used: usize,
}

impl FlowTable {
    /// A table for `capacity` flows (at least 1, at most 2³⁰), of which any number may be IPv6.
    /// All its memory is taken and touched here. `seed` keys the hash.
    pub fn new(capacity: usize, seed: u64) -> Self {
        let capacity = capacity.clamp(1, 1 << 30);
        FlowTable {
            flows: Slab::zeroed(capacity),
            links: Slab::zeroed(capacity),
            index: Index::new(capacity * 2),
            clients_v6: Slab::zeroed(capacity),
            interned: Interned::new(),
            hasher: Hasher::new(seed),
            free: NIL,
            fresh: 0,
            used: 0,
        }
    }

    /// Flows that fit.
    pub fn capacity(&self) -> usize {
        self.flows.len()
    }

    /// Flows in the table.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.used
    }

    /// What the table takes in memory.
    pub fn memory(&self) -> Memory {
        Memory {
            entries: self.flows.len() * (size_of::<Flow>() + size_of::<Links>()),
            index: self.index.bytes(),
            addresses_v6: self.clients_v6.len() * 16,
        }
    }

    /// The hash that the table uses.
    #[inline]
    pub fn hasher(&self) -> &Hasher {
        &self.hasher
    }

    /// Asks for the index bucket of a hash.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// Asks for the second index bucket of a hash.
    #[inline(always)]
    pub fn prefetch_second(&self, hash: u64) {
        self.index.prefetch_second(hash);
    }

    /// Asks for the entry that the `n`-th next flow will take, 0 for the next, as far as that is known.
    #[inline]
    pub fn prefetch_free(&self, n: usize) {
        let flow = if self.free == NIL { self.fresh as usize + n } else { self.free as usize };
        self.prefetch_listed(flow as u32);
    }

    /// Asks for a flow's entry.
    #[inline(always)]
    pub fn prefetch_flow(&self, place: Place) {
        if let Some(flow) = self.flows.get(place.flow() as usize) {
            prefetch(flow);
        }
    }

    /// Asks for the client address of an IPv6 flow whose entry is at hand.
    #[inline]
    pub fn prefetch_addresses(&self, place: Place) {
        if let Some(a) =
            self.flows.get(place.flow() as usize).and_then(|f| self.clients_v6.get(f.addresses[0] as u32 as usize))
        {
            prefetch(a);
        }
    }

    /// The place that the first bucket offers for a hash; to be verified by one of the `matches`.
    #[inline(always)]
    pub fn candidate(&self, hash: u64) -> Option<Place> {
        self.index.candidate(hash).map(Place)
    }

    /// The place that the second bucket offers for a hash; to be verified as that of [`FlowTable::candidate`].
    #[inline]
    pub fn candidate_second(&self, hash: u64) -> Option<Place> {
        self.index.candidate_second(hash).map(Place)
    }

    /// The [`Flow::summary`] at a place that has not been verified; 0 where there is no flow.
    #[inline(always)]
    pub fn summary(&self, place: Place) -> u32 {
        self.flows.get(place.flow() as usize).map_or(0, Flow::summary)
    }

    /// Whether `place` is the IPv4 flow and side of a packet.
    #[inline(always)]
    pub fn matches_v4(&self, place: Place, addresses: u64, ports: u32, protocol: u8) -> bool {
        let Some(f) = self.flows.get(place.flow() as usize) else { return false };
        let s = place.side();
        f.addresses[s] == addresses && f.ports[s] == ports && f.protocol == protocol && !f.is_v6()
    }

    /// Whether `place` is the IPv6 flow and side of a packet; `addresses` are source and destination.
    #[inline]
    pub fn matches_v6(&self, place: Place, addresses: &[u8; 32], ports: u32, protocol: u8) -> bool {
        let Some(f) = self.flows.get(place.flow() as usize) else { return false };
        if f.ports[place.side()] != ports || f.protocol != protocol || !f.is_v6() {
            return false;
        }
        let (halves, _) = addresses.as_chunks::<16>();
        let (source, destination) = self.side_v6(f, place.side());
        halves[0] == *source && halves[1] == *destination
    }

    /// Source and destination of one side's packets of an IPv6 flow.
    #[inline]
    fn side_v6(&self, f: &Flow, side: usize) -> (&[u8; 16], &[u8; 16]) {
        AddressesV6 { clients: &self.clients_v6, interned: &self.interned.addresses }.of(f, side)
    }

    /// Source and destination address (32 bytes, as on the wire) of one side's packets of an IPv6 flow.
    #[inline]
    pub fn addresses_v6(&self, flow: u32, side: usize) -> [u8; 32] {
        let mut out = [0; 32];
        let (source, destination) = self.side_v6(&self.flows[flow as usize], side);
        out[..16].copy_from_slice(source);
        out[16..].copy_from_slice(destination);
        out
    }

    /// The table as a look-up loop wants it.
    #[inline(always)]
    pub fn finder(&self) -> Finder<'_> {
        Finder {
            hasher: self.hasher,
            index: self.index.reader(),
            flows: &self.flows,
            clients_v6: &self.clients_v6,
            interned: &self.interned.addresses,
        }
    }

    /// The entries, and what to find the addresses of IPv6 flows with.
    #[inline(always)]
    pub fn flows_mut(&mut self) -> (&mut [Flow], AddressesV6<'_>) {
        (&mut self.flows, AddressesV6 { clients: &self.clients_v6, interned: &self.interned.addresses })
    }

    /// Finds the flow and side of a key by looking at every candidate.
    #[inline]
    pub fn find(&self, key: &Key, protocol: u8) -> Option<Place> {
        self.find_hashed(key, protocol, key.hash(&self.hasher, protocol))
    }

    /// As [`FlowTable::find`], for a hash that is known.
    #[inline]
    pub fn find_hashed(&self, key: &Key, protocol: u8, hash: u64) -> Option<Place> {
        self.index
            .find(hash, |p| match key {
                Key::V4 { addresses, ports } => self.matches_v4(Place(p), *addresses, *ports, protocol),
                Key::V6 { addresses, ports } => self.matches_v6(Place(p), addresses, *ports, protocol),
            })
            .map(Place)
    }

    /// A flow.
    ///
    /// # Panics
    /// When `flow` is not below the capacity; numbers that the table gave out never are.
    #[inline(always)]
    pub fn get(&self, flow: u32) -> &Flow {
        &self.flows[flow as usize]
    }

    /// A flow, mutable.
    ///
    /// # Panics
    /// As [`FlowTable::get`].
    #[inline(always)]
    pub fn get_mut(&mut self, flow: u32) -> &mut Flow {
        &mut self.flows[flow as usize]
    }

    /// Asks for a flow's entry and its links; `flow` may be none.
    #[inline]
    pub(crate) fn prefetch_listed(&self, flow: u32) {
        prefetch_at(self.flows.as_ptr().wrapping_add(flow as usize));
        prefetch_at(self.links.as_ptr().wrapping_add(flow as usize));
    }

    /// A flow's neighbours on its list.
    #[inline]
    pub(crate) fn links(&mut self, flow: u32) -> &mut Links {
        &mut self.links[flow as usize]
    }

    /// Adds a flow whose client's packets have key `client`, and whose server's packets, if they come back
    /// through the director, have key `server`. The caller has made sure that `client` is new. The entry is
    /// zero but for addresses, ports, protocol and the family flag.
    ///
    /// # Errors
    /// What is full, or that the server's key is in use; the table is as before then.
    pub fn insert(&mut self, protocol: u8, client: &Key, server: Option<&Key>) -> Result<u32, TableFull> {
        self.insert_hashed(protocol, client, client.hash(&self.hasher, protocol), server)
    }

    /// As [`FlowTable::insert`], for a client's key whose hash is known.
    ///
    /// # Errors
    /// As [`FlowTable::insert`].
    pub fn insert_hashed(
        &mut self,
        protocol: u8,
        client: &Key,
        hash: u64,
        server: Option<&Key>,
    ) -> Result<u32, TableFull> {
        debug_assert_eq!(hash, client.hash(&self.hasher, protocol));
        let back = server.map_or(0, |key| key.hash(&self.hasher, protocol));
        if let Some(key) = server
            && self.used < self.flows.len()
            && self.find_hashed(key, protocol, back).is_some()
        {
            return Err(TableFull::TupleInUse);
        }
        let flow = self.insert_entry(protocol, client, server)?;
        if self.index.insert(hash, Place::new(flow, Place::CLIENT).0).is_err() {
            self.release(flow);
            return Err(TableFull::Index);
        }
        if server.is_some() && self.index.insert(back, Place::new(flow, Place::SERVER).0).is_err() {
            self.index.remove(hash, Place::new(flow, Place::CLIENT).0);
            self.release(flow);
            return Err(TableFull::Index);
        }
        Ok(flow)
    }

    /// An entry with these keys, in no index.
    fn insert_entry(&mut self, protocol: u8, client: &Key, server: Option<&Key>) -> Result<u32, TableFull> {
        if self.used == self.flows.len() {
            return Err(TableFull::Entries);
        }
        let flow = if self.free == NIL { self.fresh } else { self.free };
        let addresses = match (client, server) {
            (Key::V4 { addresses, .. }, Some(Key::V4 { addresses: back, .. })) => [*addresses, *back],
            (Key::V4 { addresses, .. }, _) => [*addresses, 0],
            (Key::V6 { addresses, .. }, server) => {
                self.reference(flow, addresses, server).ok_or(TableFull::Addresses)?
            }
        };
        if self.free == NIL {
            self.fresh += 1;
        } else {
            self.free = self.links[flow as usize].next;
        }
        let flags = FlowFlags(if matches!(client, Key::V6 { .. }) { FlowFlags::V6 } else { 0 });
        let ports = [client.ports(), server.map_or(0, Key::ports)];
        self.flows[flow as usize] = Flow::new(protocol, flags, addresses, ports);
        self.links[flow as usize] = Links::NONE;
        self.used += 1;
        Ok(flow)
    }

    /// Gives a flow that has no server's side one: packets with key `server` belong to it from now on.
    ///
    /// # Errors
    /// As [`FlowTable::insert`]; the flow is as before then.
    pub fn attach_server(&mut self, flow: u32, server: &Key) -> Result<(), TableFull> {
        let protocol = self.flows.get(flow as usize).map_or(0, |f| f.protocol);
        self.attach_server_hashed(flow, server, server.hash(&self.hasher, protocol))
    }

    /// As [`FlowTable::attach_server`], for a key whose hash is known.
    ///
    /// # Errors
    /// As [`FlowTable::insert`]; the flow is as before then.
    pub fn attach_server_hashed(&mut self, flow: u32, server: &Key, hash: u64) -> Result<(), TableFull> {
        let Some(keys) = self.keys(flow).filter(|k| k.server.is_none()) else { return Err(TableFull::TupleInUse) };
        let protocol = self.flows[flow as usize].protocol;
        debug_assert_eq!(hash, server.hash(&self.hasher, protocol));
        if self.find_hashed(server, protocol, hash).is_some() {
            return Err(TableFull::TupleInUse);
        }
        let back = match (&keys.client, server) {
            (Key::V4 { .. }, Key::V4 { addresses, .. }) => *addresses,
            (Key::V6 { addresses: client, .. }, Key::V6 { addresses, .. }) => {
                let source = self.interned.take(&addresses[..16]).ok_or(TableFull::Addresses)?;
                let own = if addresses[16..] == client[..16] {
                    SAME_AS_CLIENT
                } else if let Some(own) = self.interned.take(&addresses[16..]) {
                    own
                } else {
                    self.interned.give(source);
                    return Err(TableFull::Addresses);
                };
                pair(source, own)
            }
            _ => return Err(TableFull::TupleInUse),
        };
        if self.index.insert(hash, Place::new(flow, Place::SERVER).0).is_err() {
            if matches!(server, Key::V6 { .. }) {
                self.give_v6(back);
            }
            return Err(TableFull::Index);
        }
        let entry = &mut self.flows[flow as usize];
        entry.addresses[1] = back;
        entry.ports[1] = server.ports();
        Ok(())
    }

    /// Takes a flow's server's side away; packets of that side belong to no flow from now on.
    pub fn detach_server(&mut self, flow: u32) {
        let Some(server) = self.key(flow, Place::SERVER) else { return };
        let entry = &mut self.flows[flow as usize];
        let hash = server.hash(&self.hasher, entry.protocol);
        self.index.remove(hash, Place::new(flow, Place::SERVER).0);
        let back = entry.addresses[1];
        entry.ports[1] = 0;
        entry.addresses[1] = if entry.is_v6() { pair(SAME_AS_CLIENT, SAME_AS_CLIENT) } else { 0 };
        if entry.is_v6() {
            self.give_v6(back);
        }
    }

    /// Moves the server's side of one flow to another that has none, as [`FlowTable::detach_server`] and
    /// [`FlowTable::attach_server`] would, but it can't fail half-way.
    ///
    /// # Errors
    /// [`TableFull::TupleInUse`] when `from` has no server's side or `to` has one; nothing has changed then.
    pub fn move_server(&mut self, from: u32, to: u32) -> Result<(), TableFull> {
        let Some(server) = self.key(from, Place::SERVER) else { return Err(TableFull::TupleInUse) };
        if self.keys(to).is_none_or(|k| k.server.is_some())
            || self.flows[to as usize].is_v6() != self.flows[from as usize].is_v6()
        {
            return Err(TableFull::TupleInUse);
        }
        let hash = server.hash(&self.hasher, self.flows[from as usize].protocol);
        if !self.index.replace(hash, Place::new(from, Place::SERVER).0, Place::new(to, Place::SERVER).0) {
            return Err(TableFull::TupleInUse);
        }
        let entry = &mut self.flows[from as usize];
        let (addresses, ports) = (entry.addresses[1], entry.ports[1]);
        entry.ports[1] = 0;
        entry.addresses[1] = if entry.is_v6() { pair(SAME_AS_CLIENT, SAME_AS_CLIENT) } else { 0 };
        let entry = &mut self.flows[to as usize];
        (entry.addresses[1], entry.ports[1]) = (addresses, ports);
        Ok(())
    }

    /// Adds a flow that only its server's packets are found by: a server's connection that a client's connection has
    /// besides its own. It has the client's addresses of flow `of`, and no server's side yet.
    ///
    /// # Errors
    /// As [`FlowTable::insert`].
    pub fn insert_beside(&mut self, of: u32) -> Result<u32, TableFull> {
        let Some(keys) = self.keys(of) else { return Err(TableFull::Entries) };
        self.insert_apart(self.flows[of as usize].protocol, &keys.client)
    }

    /// A flow that no packet finds, for a server's side ([`FlowTable::attach_server`], [`FlowTable::move_server`]). `client` says
    /// what its client's side would be, and whether it is IPv6.
    ///
    /// # Errors
    /// When there is no room.
    pub fn insert_apart(&mut self, protocol: u8, client: &Key) -> Result<u32, TableFull> {
        self.insert_entry(protocol, client, None)
    }

    fn give_v6(&mut self, back: u64) {
        self.interned.give(back as u32);
        self.interned.give((back >> 32) as u32);
    }

    /// Keeps the addresses of IPv6 flow `flow`: the client's at the flow's own place, the others interned.
    fn reference(&mut self, flow: u32, client: &[u8; 32], server: Option<&Key>) -> Option<[u64; 2]> {
        let service = self.interned.take(&client[16..])?;
        let back = match server {
            Some(Key::V6 { addresses, .. }) => {
                let Some(source) = self.interned.take(&addresses[..16]) else {
                    self.interned.give(service);
                    return None;
                };
                let own = if addresses[16..] == client[..16] {
                    SAME_AS_CLIENT
                } else if let Some(own) = self.interned.take(&addresses[16..]) {
                    own
                } else {
                    self.interned.give(service);
                    self.interned.give(source);
                    return None;
                };
                pair(source, own)
            }
            _ => pair(SAME_AS_CLIENT, SAME_AS_CLIENT),
        };
        self.clients_v6[flow as usize].copy_from_slice(&client[..16]);
        Some([pair(flow, service), back])
    }

    /// Removes a flow that is on no timer list. Nothing happens when it is free already.
    pub fn remove(&mut self, flow: u32) {
        let Some(keys) = self.keys(flow) else { return };
        let protocol = self.flows[flow as usize].protocol;
        let hash = keys.client.hash(&self.hasher, protocol);
        self.index.remove(hash, Place::new(flow, Place::CLIENT).0);
        if let Some(server) = keys.server {
            let hash = server.hash(&self.hasher, protocol);
            self.index.remove(hash, Place::new(flow, Place::SERVER).0);
        }
        self.release(flow);
    }

    fn release(&mut self, flow: u32) {
        let entry = &mut self.flows[flow as usize];
        if entry.is_v6() {
            for id in [(entry.addresses[0] >> 32) as u32, entry.addresses[1] as u32, (entry.addresses[1] >> 32) as u32]
            {
                self.interned.give(id);
            }
        }
        entry.protocol = 0;
        entry.addresses = [0; 2];
        self.links[flow as usize].next = self.free;
        self.free = flow;
        self.used -= 1;
    }

    /// The keys of both sides of a flow; `None` when the entry is free or out of range.
    pub fn keys(&self, flow: u32) -> Option<Addresses> {
        Some(Addresses { client: self.key(flow, Place::CLIENT)?, server: self.key(flow, Place::SERVER) })
    }

    /// The key of the packets of one side of a flow; `None` when the entry is free or out of range, or has no server's side.
    #[inline]
    pub fn key(&self, flow: u32, side: usize) -> Option<Key> {
        let side = side & 1;
        let f = self.flows.get(flow as usize).filter(|f| f.protocol != 0)?;
        let (addresses, ports) = (f.addresses[side], f.ports[side]);
        // Translated flows have a server's side in the index; direct routing and tunnels do not.
        let none = if f.is_v6() { pair(SAME_AS_CLIENT, SAME_AS_CLIENT) } else { 0 };
        if side == Place::SERVER && ports == 0 && addresses == none {
            return None;
        }
        Some(match f.is_v6() {
            true => Key::V6 { addresses: self.addresses_v6(flow, side), ports },
            false => Key::V4 { addresses, ports },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap as Model;
    use std::net::SocketAddr;

    fn key(s: &str, d: &str) -> Key {
        Key::new(s.parse().unwrap(), d.parse().unwrap()).unwrap()
    }

    #[test]
    fn both_sides_find_the_same_flow() {
        let mut t = FlowTable::new(4, 1);
        for (c, v, w, r) in [
            ("192.0.2.1:1000", "198.51.100.1:80", "198.51.100.2:80", "10.0.0.1:8080"),
            ("[2001:db8::1]:1000", "[2001:db8:1::1]:80", "[2001:db8:1::2]:80", "[fd00::1]:8080"),
        ] {
            let (client, server) = (key(c, v), key(r, c));
            let flow = t.insert(6, &client, Some(&server)).unwrap();
            assert_eq!(t.find(&client, 6), Some(Place::new(flow, 0)));
            assert_eq!(t.find(&server, 6), Some(Place::new(flow, 1)));
            assert_eq!(t.find(&client, 17), None);
            assert_eq!(t.keys(flow), Some(Addresses { client, server: Some(server) }));
            assert_eq!(t.insert(6, &key(c, w), Some(&server)).err(), Some(TableFull::TupleInUse));
            t.remove(flow);
            assert_eq!((t.find(&client, 6), t.find(&server, 6), t.keys(flow)), (None, None, None));
        }
        assert_eq!(t.len(), 0);
        assert!(t.interned.by_address.is_empty());
    }

    #[test]
    fn a_full_table_says_so() {
        let mut t = FlowTable::new(2, 1);
        let k = |i: u16| {
            Key::new(SocketAddr::from(([192, 0, 2, 1], i)), SocketAddr::from(([198, 51, 100, 1], 80))).unwrap()
        };
        let first = t.insert(6, &k(1), None).unwrap();
        t.insert(6, &k(2), None).unwrap();
        assert_eq!(t.insert(6, &k(3), None), Err(TableFull::Entries));
        t.remove(first);
        assert!(t.insert(6, &k(3), None).is_ok());
        let m = t.memory();
        assert_eq!((m.entries, m.addresses_v6), (144, 32));
    }

    #[test]
    fn state_per_flow_stays_under_128_bytes() {
        let t = FlowTable::new(100_000, 1);
        let m = t.memory();
        assert!((m.entries + m.index + m.addresses_v6) / t.capacity() <= 128, "{m:?}");
    }

    #[test]
    fn a_servers_side_comes_goes_and_moves() {
        for (c, v, a, b) in [
            ("192.0.2.1:1000", "198.51.100.1:80", "10.0.0.1:8080", "10.0.0.2:8080"),
            ("[2001:db8::1]:1000", "[2001:db8:1::1]:80", "[fd00::1]:8080", "[fd00::2]:8080"),
        ] {
            let mut t = FlowTable::new(4, 1);
            let (client, first, second) = (key(c, v), key(a, c), key(b, c));
            let flow = t.insert(6, &client, None).unwrap();
            t.attach_server(flow, &first).unwrap();
            assert_eq!(t.find(&first, 6), Some(Place::new(flow, 1)));
            assert_eq!(t.attach_server(flow, &second), Err(TableFull::TupleInUse));
            let beside = t.insert_beside(flow).unwrap();
            assert_eq!(t.find(&client, 6), Some(Place::new(flow, 0)));
            t.move_server(flow, beside).unwrap();
            assert_eq!(t.find(&first, 6), Some(Place::new(beside, 1)));
            assert_eq!(t.attach_server(flow, &first), Err(TableFull::TupleInUse));
            t.attach_server(flow, &second).unwrap();
            assert_eq!(t.keys(flow), Some(Addresses { client, server: Some(second) }));
            assert_eq!(t.keys(beside), Some(Addresses { client, server: Some(first) }));
            assert_eq!(t.move_server(beside, flow), Err(TableFull::TupleInUse));
            t.detach_server(flow);
            assert_eq!(t.find(&second, 6), None);
            t.remove(beside);
            assert_eq!((t.find(&first, 6), t.find(&client, 6)), (None, Some(Place::new(flow, 0))));
            t.remove(flow);
            assert_eq!((t.find(&client, 6), t.len()), (None, 0));
            assert!(t.interned.by_address.is_empty());
        }
    }

    proptest! {
        #[test]
        fn behaves_as_a_map(ops in proptest::collection::vec((0u16..60, any::<bool>(), any::<bool>()), 1..300)) {
            let mut t = FlowTable::new(32, 3);
            let mut model: Model<(u16, bool), u32> = Model::new();
            for (n, v6, add) in ops {
                let (client, server) = if v6 {
                    (key(&format!("[2001:db8::{n:x}]:5"), "[2001:db8:1::1]:80"), key("[fd00::1]:80", &format!("[2001:db8::{n:x}]:5")))
                } else {
                    (key(&format!("192.0.2.{n}:5"), "198.51.100.1:80"), key("10.0.0.1:80", &format!("192.0.2.{n}:5")))
                };
                if add && !model.contains_key(&(n, v6)) {
                    match t.insert(6, &client, Some(&server)) {
                        Ok(flow) => { model.insert((n, v6), flow); }
                        Err(e) => { prop_assert_eq!(e, TableFull::Entries); prop_assert_eq!(model.len(), 32); }
                    }
                } else if let Some(flow) = model.remove(&(n, v6)) {
                    t.remove(flow);
                }
                prop_assert_eq!(t.len(), model.len());
                prop_assert_eq!(t.find(&client, 6).map(Place::flow), model.get(&(n, v6)).copied());
                prop_assert_eq!(t.find(&server, 6).map(Place::flow), model.get(&(n, v6)).copied());
            }
        }
    }
}
