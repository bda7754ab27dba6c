//! Fragments: the first one decides, the later ones follow it through a bounded table. Those that come before it wait (see `hold.rs`).

use super::connection::Connections;
use super::hold::Awaited;
use hashbrown::HashMap;
use lcs_dataplane::DropReason;
use lcs_dataplane::batch::{Batch, NO_FLOW, Places};
use lcs_dataplane::flow::Place;
use lcs_dataplane::headers::{Kind, ipv4, ipv6};
use std::collections::VecDeque;
use std::net::IpAddr;

/// Ticks for which later fragments may follow the first: about 30 s, as Linux reassembles (RFC 791 suggests 15 s, RFC 8200 allows 60 s).
const LIFETIME: u32 = 224;

/// What the fragments of one packet have in common (RFC 791 §3.2; RFC 8200 §4.5, where the protocol is not part of it).
pub(crate) type Identity = (IpAddr, IpAddr, u32, u8);

#[derive(Debug, Clone, Copy)]
struct Followed {
    /// The flow and side, or [`NO_FLOW`] where only the owner is known.
    place: u32,
    /// Ports of the first fragment: a flow that was replaced meanwhile has others.
    ports: u32,
    /// Worker that owns the connection.
    owner: u8,
    born: u32,
}

/// The fragmented packets that a worker follows.
#[derive(Debug)]
pub struct Fragments {
    limit: usize,
    table: HashMap<Identity, Followed>,
    /// In order of birth, so that expiry is one look at the front.
    order: VecDeque<(Identity, u32)>,
}

impl Fragments {
    /// A table for `limit` packets.
    pub fn new(limit: usize) -> Self {
        Fragments { limit, table: HashMap::with_capacity(limit), order: VecDeque::with_capacity(limit) }
    }

    /// Packets being followed.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    fn put(&mut self, id: Identity, followed: Followed) -> bool {
        if let Some(known) = self.table.get_mut(&id) {
            // The same first fragment again, or the identification was used again: the newer one counts.
            *known = Followed { born: known.born, ..followed };
            return true;
        }
        if self.table.len() >= self.limit || self.order.len() >= self.limit * 2 {
            return false;
        }
        self.order.push_back((id, followed.born));
        self.table.insert(id, followed);
        true
    }

    pub(crate) fn set_owner(&mut self, id: Identity, owner: u8, now: u32) {
        let known = self.table.get(&id).copied();
        let (place, ports) = known.map_or((NO_FLOW, 0), |k| (k.place, k.ports));
        self.put(id, Followed { place, ports, owner, born: now });
    }

    /// Whether the first fragment of a packet has gone its way from here, from worker `me`, or is another worker's.
    pub(crate) fn is_followed(&self, id: &Identity, me: u8) -> bool {
        self.table.get(id).is_some_and(|f| f.place != NO_FLOW || f.owner != me)
    }

    pub(crate) fn owner(&self, id: &Identity) -> Option<u8> {
        self.table.get(id).map(|f| f.owner)
    }

    /// Forgets what is older than the lifetime; at most 64 a call.
    pub(crate) fn expire(&mut self, now: u32) {
        for _ in 0..64 {
            match self.order.front() {
                Some((_, born)) if now.wrapping_sub(*born) >= LIFETIME && now.wrapping_sub(*born) <= u32::MAX / 2 => {}
                _ => return,
            }
            if let Some((id, born)) = self.order.pop_front()
                && self.table.get(&id).is_some_and(|f| f.born == born)
            {
                self.table.remove(&id);
            }
        }
    }
}

/// What the fragments of this frame's packet have in common.
pub(crate) fn identity(batch: &Batch, i: usize) -> Option<Identity> {
    let (source, destination) = super::classify::addresses_of(batch, i)?;
    let packet = batch.frames[i].bytes().get(usize::from(batch.l3[i])..)?;
    match batch.kind[i] {
        Kind::First4 | Kind::Fragment4 => {
            let ip = ipv4::Ipv4::parse(packet).ok()?;
            Some((source, destination, u32::from(ip.ident()), ip.protocol()))
        }
        Kind::First6 | Kind::Fragment6 => {
            let ident = ipv6::Ipv6::parse(packet).ok()?.chain().ok()?.fragment?.ident;
            Some((source, destination, ident, 0))
        }
        _ => None,
    }
}

/// Remembers the flows of the first fragments among `hits`. A first fragment that can't be remembered is not forwarded:
/// the rest of its packet could not follow.
pub(crate) fn remember(c: &mut Connections, batch: &mut Batch, hits: &mut Places, now: u32) {
    let mut kept = Places::default();
    for i in hits.iter() {
        if matches!(batch.kind[i], Kind::First4 | Kind::First6) {
            let followed =
                Followed { place: batch.flow[i], ports: batch.ports[i], owner: c.settings.worker, born: now };
            let Some(id) = identity(batch, i).filter(|id| c.fragments.put(*id, followed)) else {
                batch.drop(i, DropReason::FragmentTableFull);
                continue;
            };
            c.holding.has_come(&Awaited::First(id));
        }
        kept.push(i);
    }
    *hits = kept;
}

/// The flow that a later fragment follows. While its first fragment is not known, it may wait for it.
pub(crate) fn follow(c: &mut Connections, batch: &Batch, i: usize) -> Result<Place, DropReason> {
    let id = identity(batch, i).ok_or(DropReason::BadFragment)?;
    let Some(followed) = c.fragments.table.get(&id).filter(|f| f.place != NO_FLOW) else {
        c.holding.ask(batch, i, Awaited::First(id));
        return Err(DropReason::FragmentUnknown);
    };
    let place = Place(followed.place);
    // The flow may have been replaced since: it must still be the one with these addresses and ports.
    let key =
        c.table.keys(place.flow()).and_then(|k| if place.side() == Place::CLIENT { Some(k.client) } else { k.server });
    let same = key.is_some_and(|k| {
        k.source().ip() == id.0
            && k.destination().ip() == id.1
            && c.table.get(place.flow()).ports[place.side()] == followed.ports
    });
    if same { Ok(place) } else { Err(DropReason::FragmentUnknown) }
}
