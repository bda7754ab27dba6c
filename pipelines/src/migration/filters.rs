//! A director's side: which servers have a live filter. A worker asks each every `interval`, and takes one for gone that has
//! not answered for `timeout`.

use super::channel_port;
use super::message::{ChannelKey, Header};
use crate::content::Scheme;
use crate::snapshot::Snapshot;
use hashbrown::HashMap;
use lcs_dataplane::spread::Spread;
use lcs_dataplane::worker::Nanos;
use std::net::SocketAddr;

/// The filter of one server.
#[derive(Debug)]
pub(crate) struct Filter {
    /// Where it listens.
    pub(crate) at: SocketAddr,
    /// Whence this worker speaks to it.
    pub(crate) from: SocketAddr,
    pub(crate) key: ChannelKey,
    interval: Nanos,
    timeout: Nanos,
    /// Slot of its server's service.
    service: u16,
    session: u64,
    token: u64,
    /// The last number used.
    number: u64,
    /// The ping that is out, and when the next one goes.
    ping: u64,
    next_ping: Nanos,
    /// When it has last answered a ping.
    heard: Option<Nanos>,
}

impl Filter {
    /// Whether connections may be given to it.
    pub(crate) fn is_live(&self, now: Nanos) -> bool {
        self.heard.is_some_and(|heard| now.saturating_sub(heard) < self.timeout)
    }

    /// When it will count as gone if nothing more is heard of it.
    pub(crate) fn live_until(&self) -> Option<Nanos> {
        self.heard.map(|heard| heard.saturating_add(self.timeout))
    }

    /// The header of a message of its own.
    pub(crate) fn header(&mut self) -> Header {
        self.number += 1;
        self.header_of(self.number)
    }

    /// The header of the message of this number, sent again.
    pub(crate) fn header_of(&self, number: u64) -> Header {
        Header { session: self.session, token: self.token, number }
    }

    /// The header of a message that was sent with this ticket, sent again; `None` where the filter, or what is known of it, is
    /// another one by now: the message would count as new.
    pub(crate) fn again(&self, ticket: &super::Ticket) -> Option<Header> {
        (self.session == ticket.session && self.token == ticket.token).then(|| self.header_of(ticket.number))
    }

    /// Numbers used after a message's.
    pub(crate) fn used_since(&self, ticket: &super::Ticket) -> u64 {
        self.number.saturating_sub(ticket.number)
    }

    /// It has not answered: it counts as gone until it answers a ping, unless it has just answered one. Then what is missing is
    /// not the filter, but its way to the client or its host's server.
    pub(crate) fn missed(&mut self, now: Nanos) {
        self.heard = self.heard.filter(|&heard| now.saturating_sub(heard) <= 2 * self.interval);
    }
}

/// The filters of a director's servers, by slot.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    seed: u64,
    made: u64,
    filters: Vec<Option<Filter>>,
    by_session: HashMap<u64, u16>,
    /// No ping goes before this.
    next_ping: Nanos,
}

impl Filters {
    pub(crate) fn new(seed: u64) -> Self {
        Filters { seed, ..Filters::default() }
    }

    pub(super) fn install(&mut self, snapshot: &Snapshot, worker: u8, spread: Spread) {
        let Filters { seed, made, filters, by_session, next_ping } = self;
        filters.resize_with(snapshot.servers.len(), || None);
        for (place, server) in filters.iter_mut().zip(&snapshot.servers) {
            let wanted = server.as_ref().and_then(|server| {
                let service = snapshot.services.get(usize::from(server.service))?.as_ref()?;
                let Scheme::Filter(channel) = &service.content.as_deref()?.binding.scheme else { return None };
                let source = server.tunnel_source?;
                // Not the filters' own port: a filter may run beside a director.
                let port = channel_port(source, channel.port.saturating_add(1), worker, spread)?;
                let (at, from) = (SocketAddr::new(server.address, channel.port), SocketAddr::new(source, port));
                Some((channel, at, from, server.service))
            });
            let Some((channel, at, from, service)) = wanted else {
                *place = None;
                continue;
            };
            let (interval, timeout) = (channel.interval.as_nanos() as Nanos, channel.timeout.as_nanos() as Nanos);
            match place {
                Some(f) if f.at == at && f.from == from && f.key == channel.key && f.service == service => {
                    (f.interval, f.timeout) = (interval, timeout);
                }
                _ => {
                    *made += 1;
                    *place = Some(Filter {
                        at,
                        from,
                        key: channel.key.clone(),
                        interval,
                        timeout,
                        service,
                        session: super::secret_number(*seed, &[0, *made, worker.into()]),
                        token: 0,
                        number: 0,
                        ping: 0,
                        next_ping: 0,
                        heard: None,
                    });
                }
            }
        }
        by_session.clear();
        let slots = filters.iter().enumerate().filter_map(|(slot, f)| Some((f.as_ref()?.session, slot as u16)));
        by_session.extend(slots);
        *next_ping = 0;
    }

    /// Every filter, with its server's slot.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u16, &Filter)> {
        self.filters.iter().enumerate().filter_map(|(slot, f)| Some((slot as u16, f.as_ref()?)))
    }

    /// The filter of a server.
    pub(crate) fn get(&self, server: u16) -> Option<&Filter> {
        self.filters.get(usize::from(server))?.as_ref()
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self, server: u16) -> Option<&mut Filter> {
        self.filters.get_mut(usize::from(server))?.as_mut()
    }

    /// Live filters of a service.
    pub(crate) fn live_of(&self, service: u16, now: Nanos) -> u64 {
        self.iter().filter(|(_, f)| f.service == service && f.is_live(now)).count() as u64
    }

    /// The server whose filter has answered.
    pub(crate) fn of_session(&self, session: u64) -> Option<u16> {
        self.by_session.get(&session).copied()
    }

    /// The next server whose filter is to be asked now, with the message's header.
    pub(crate) fn due(&mut self, now: Nanos) -> Option<(u16, Header)> {
        if now < self.next_ping {
            return None;
        }
        let mut next = Nanos::MAX;
        for (slot, place) in self.filters.iter_mut().enumerate() {
            let Some(f) = place else { continue };
            if f.next_ping <= now {
                f.next_ping = now + f.interval;
                let header = f.header();
                f.ping = header.number;
                return Some((slot as u16, header));
            }
            next = next.min(f.next_ping);
        }
        self.next_ping = next;
        None
    }

    /// A pong has come; `false` when it answers no ping that is out.
    pub(crate) fn pong(&mut self, header: &Header, now: Nanos) -> bool {
        let Some(f) = self.of_session(header.session).and_then(|slot| self.get_mut(slot)) else { return false };
        if header.number != f.ping || f.ping == 0 {
            return false;
        }
        f.ping = 0;
        f.token = header.token;
        f.heard = Some(now);
        true
    }
}
