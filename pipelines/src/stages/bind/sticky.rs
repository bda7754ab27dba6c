//! Keeping a client with the server that it has been with.

use super::Desk;
use crate::command::Event;
use crate::content::{Content, Sticky};
use crate::matching::Action;
use crate::splice::sticky::{Sessions, cookie_in, hash, suits};
use lcs_dataplane::port::Port;

/// A cookie that is in use is announced to the other workers so many times in its time-out, so that none forgets it.
const ANNOUNCED: u32 = 4;

impl<P: Port> Desk<'_, P> {
    /// The server that a request's cookie stands for. `head`: the request, from its first byte to its head's end at least.
    pub(super) fn server_of_cookie(
        &mut self,
        service: u16,
        content: &Content,
        action: &Action,
        servers: &[u16],
        head: &[u8],
        usable: &impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let sticky = content.sticky(action);
        let (Sticky::Cookie(name) | Sticky::SetCookie(name)) = sticky else { return None };
        let value = hash(cookie_in(head, name).filter(|value| !value.is_empty())?);
        if let Sticky::SetCookie(name) = sticky {
            let key = Sessions::key(service, hash(name.as_bytes()), value);
            let timeout = u32::try_from(content.binding.sticky_timeout.as_secs()).unwrap_or(u32::MAX);
            if let Some((server, idle)) = self.c.splices.sessions.find(key, timeout, self.now)
                && usable(server)
            {
                if idle > timeout / ANNOUNCED {
                    self.announce(key, server);
                }
                return Some(server);
            }
        }
        // Nobody remembers who has set it: every worker, and every director, makes the same of it.
        self.rendezvous(value, servers, usable)
    }

    /// The server that suits a client or a cookie best, of those that are usable.
    pub(super) fn rendezvous(&self, key: u64, servers: &[u16], usable: &impl Fn(u16) -> bool) -> Option<u16> {
        let snapshot = self.snapshot;
        let of = |s: u16| snapshot.servers.get(usize::from(s)).and_then(Option::as_ref);
        servers.iter().copied().filter(|&s| usable(s)).max_by_key(|&s| of(s).map_or(0, |server| suits(key, server)))
    }

    /// Hash of the name of the cookie that the response to a request is to be looked through for; 0 for none.
    pub(super) fn watches(content: &Content, action: &Action) -> u64 {
        match content.sticky(action) {
            Sticky::SetCookie(name) => hash(name.as_bytes()),
            _ => 0,
        }
    }

    /// The server in turn has set a cookie.
    pub(super) fn learn(&mut self, flow: u32, (name, value): (u64, u64)) {
        let f = self.c.table.get(flow);
        let (key, server) = (Sessions::key(f.service, name, value), f.server);
        if self.c.splices.sessions.learn(key, server, self.now) {
            self.announce(key, server);
        }
    }

    /// Tells the other workers: the same client's next connection may be one of theirs.
    fn announce(&mut self, key: u64, server: u16) {
        if self.c.settings.workers > 1 {
            // Where the control thread is behind, the others do without.
            self.c.push_event(Event::Cookie { key, server });
        }
    }
}
