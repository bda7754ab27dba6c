//! The scheme `filter`: a connection is decided by the director and served, numbers moved, by the *filter* on its real
//! server's host (tutorial, slide 54; `FILTER.md`). This room is what both ends know of each other; what they do with
//! connections is in `stages/bind`.
//!
//! [`message`] is the wire format, `Filters` what a director's worker knows of its servers' filters, `Sessions` and
//! `Assemblies` what a filter knows of its directors.

mod assembly;
mod datagram;
mod filters;
pub mod message;
mod sessions;
mod silent;

pub(crate) use assembly::{Assemblies, Put};
pub(crate) use datagram::write;
pub(crate) use filters::Filters;
pub(crate) use sessions::{Freshness, Sessions};
pub(crate) use silent::SilentClients;

use crate::content::Scheme;
use crate::snapshot::{Forward, Snapshot};
use hashbrown::HashSet;
use lcs_dataplane::headers::{ipv4, ipv6};
use lcs_dataplane::spread::Spread;
use message::ChannelKey;
use std::net::{IpAddr, SocketAddr};

/// The UDP port on which filters listen where none is given.
pub const PORT: u16 = 7411;
/// Ports above the first that are tried to find each worker one of its own.
const PORTS: u16 = 4096;

/// The UDP port from which a director's worker speaks to filters: the first from `first` on whose answers are steered to it.
/// `None` when there is none among some thousand.
pub fn channel_port(address: IpAddr, first: u16, worker: u8, spread: Spread) -> Option<u16> {
    let last = first.saturating_add(PORTS);
    (first..=last).find(|&port| spread.workers < 2 || spread.owner(SocketAddr::new(address, port)) == worker)
}

/// The message of one migration, known to both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Ticket {
    pub(crate) session: u64,
    pub(crate) token: u64,
    pub(crate) number: u64,
}

impl From<&message::Header> for Ticket {
    fn from(header: &message::Header) -> Self {
        Ticket { session: header.session, token: header.token, number: header.number }
    }
}

/// A number that nobody can guess who does not know the seed, and that does not tell it.
fn secret_number(seed: u64, what: &[u64]) -> u64 {
    let key = blake3::derive_key("LCS 2026-11 numbers of the migration channel", &seed.to_be_bytes());
    let bytes: Vec<u8> = what.iter().flat_map(|n| n.to_be_bytes()).collect();
    let hash = blake3::keyed_hash(&key, &bytes);
    hash.as_bytes().first_chunk().map_or(1, |b| u64::from_be_bytes(*b)).max(1)
}

/// What one worker knows of migrations, as director, as filter or as neither.
#[derive(Debug, Default)]
pub(crate) struct Migrations {
    /// Endpoints on which messages come.
    ears: HashSet<SocketAddr>,
    /// Those of a filter: directors speak to it there.
    listens: HashSet<SocketAddr>,
    /// Where tunnels end, at a filter.
    tunnels: HashSet<IpAddr>,
    /// By service slot: bytes that the largest tunnel header adds toward its servers.
    overheads: Vec<u16>,
    /// The keys in use, each once.
    pub(crate) keys: Vec<ChannelKey>,
    pub(crate) filters: Filters,
    pub(crate) sessions: Sessions,
    pub(crate) assemblies: Assemblies,
    /// At a filter: clients of which the kernel was asked.
    pub(crate) silent: SilentClients,
    /// At a filter, by entry: what has brought the connection. Empty elsewhere.
    taken: Vec<Ticket>,
    /// Where messages are written before they are framed.
    pub(crate) scratch: Vec<u8>,
}

impl Migrations {
    /// `seed` makes sessions and tokens that nobody can guess.
    pub(crate) fn new(seed: u64) -> Self {
        Migrations { filters: Filters::new(seed), sessions: Sessions::new(seed), ..Migrations::default() }
    }

    /// Follows a new snapshot.
    pub(crate) fn install(&mut self, snapshot: &Snapshot, worker: u8, spread: Spread, flows: usize) {
        self.ears.clear();
        self.listens.clear();
        self.keys.clear();
        self.tunnels.clear();
        self.filters.install(snapshot, worker, spread);
        self.overheads.clear();
        self.overheads.resize(snapshot.services.len(), 0);
        for (slot, _) in self.filters.iter() {
            let Some(server) = snapshot.servers.get(usize::from(slot)).and_then(Option::as_ref) else { continue };
            let header = match (server.forward, server.address) {
                (Forward::Tunnel, IpAddr::V4(_)) => ipv4::HEADER as u16,
                (Forward::Tunnel, IpAddr::V6(_)) => ipv6::HEADER as u16,
                _ => 0,
            };
            if let Some(most) = self.overheads.get_mut(usize::from(server.service)) {
                *most = header.max(*most);
            }
        }
        self.ears.extend(self.filters.iter().map(|(_, filter)| filter.from));
        let mut keys: Vec<ChannelKey> = self.filters.iter().map(|(_, filter)| filter.key.clone()).collect();
        let contents = snapshot.services.iter().flatten().filter_map(|service| service.content.as_deref());
        for content in contents {
            if let Scheme::Migrated(receiver) = &content.binding.scheme {
                if self.taken.is_empty() {
                    self.taken = vec![Ticket::default(); flows];
                }
                if receiver.tunnels {
                    self.tunnels.extend(receiver.listen.iter().map(SocketAddr::ip));
                }
                self.ears.extend(&receiver.listen);
                self.listens.extend(&receiver.listen);
                keys.push(receiver.key.clone());
            }
        }
        for key in keys {
            if !self.keys.contains(&key) {
                self.keys.push(key);
            }
        }
    }

    /// Whether anything is migrated here.
    pub(crate) fn is_on(&self) -> bool {
        !self.ears.is_empty()
    }

    /// Notes what has brought a connection.
    pub(crate) fn note_taken(&mut self, entry: u32, ticket: Ticket) {
        if let Some(place) = self.taken.get_mut(entry as usize) {
            *place = ticket;
        }
    }

    /// Whether a message was sent after the one that has brought a connection, or its last request, by the same worker.
    pub(crate) fn is_newer(&self, entry: u32, ticket: Ticket) -> bool {
        let before = self.taken.get(entry as usize);
        before.is_some_and(|t| (t.session, t.token) == (ticket.session, ticket.token) && t.number < ticket.number)
    }

    /// Whether a message is of the session that has brought a connection.
    pub(crate) fn is_of_session(&self, entry: u32, ticket: Ticket) -> bool {
        let before = self.taken.get(entry as usize);
        before.is_some_and(|t| (t.session, t.token) == (ticket.session, ticket.token))
    }

    /// Whether this message has brought a connection, or has ended it.
    pub(crate) fn has_brought(&self, entry: u32, ticket: Ticket) -> bool {
        self.taken.get(entry as usize) == Some(&ticket)
    }

    /// Where tunnels end, if any do.
    #[inline]
    pub(crate) fn tunnels(&self) -> Option<&HashSet<IpAddr>> {
        Some(&self.tunnels).filter(|ends| !ends.is_empty())
    }

    /// Bytes that a tunnel adds to what clients of a service send.
    pub(crate) fn overhead(&self, service: u16) -> u16 {
        self.overheads.get(usize::from(service)).copied().unwrap_or(0)
    }

    /// Whether it is an endpoint of a filter.
    pub(crate) fn listens(&self, at: SocketAddr) -> bool {
        self.listens.contains(&at)
    }

    /// Whether a message of this session, with this key, comes from that session's filter to the worker that it answers.
    pub(crate) fn is_filters(&self, session: u64, key: &ChannelKey, from: SocketAddr, to: SocketAddr) -> bool {
        let filter = self.filters.of_session(session).and_then(|slot| self.filters.get(slot));
        filter.is_some_and(|f| f.key == *key && f.at == from && f.from == to)
    }

    /// Whether messages come on this endpoint.
    pub(crate) fn hears(&self, at: SocketAddr) -> bool {
        self.ears.contains(&at)
    }
}
