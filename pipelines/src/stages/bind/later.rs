//! Requests that a batch has decided: their servers are chosen and asked when the whole batch has been read.
//!
//! To read a request and to open a server's side for it are about as much code as a core's cache for instructions holds.
//! One after the other for each request, each would put the other out of that cache every time.

use super::Desk;
use super::direct::HELD;
use crate::splice::{Binding, Opening, Owed, Phase};
use lcs_dataplane::BURST;
use lcs_dataplane::flow::Key;
use lcs_dataplane::port::Port;

/// Whether servers that are chosen now are opened behind those that other requests of the batch have chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Opens {
    /// At once.
    #[default]
    Now,
    /// Behind, if nothing hangs on it.
    Later,
    /// This one is to be; and what its answers are known by, with the hash of that.
    Asked(u16, Key, u64),
}

impl<P: Port> Desk<'_, P> {
    /// Puts a decided request off until the batch has been read, if that may be: then it is in [`Phase::Hold`] until then, and
    /// its client's bytes are acknowledged then.
    pub(super) fn defer(&mut self, b: &mut Binding) -> bool {
        let may = self.defers && self.c.splices.decided.len() < BURST;
        if may {
            b.deferred = true;
            self.c.splices.decided.push((b.entry, self.at));
        }
        may
    }

    /// Goes on with what was put off, in the order in which it was decided. Another frame of the same connection may have gone
    /// on with it before, or ended it.
    pub(super) fn serve_deferred(&mut self) {
        if self.c.splices.decided.is_empty() {
            return;
        }
        for n in 0..self.c.splices.decided.len() {
            let (entry, at) = self.c.splices.decided[n];
            let Some(mut b) = self.c.splices.take(entry) else { continue };
            if std::mem::take(&mut b.deferred) {
                self.at = at;
                let flow = self.c.splices.get(entry).flow;
                self.opens_later = Opens::Later;
                self.hold(flow, &mut b);
                if let Opens::Asked(server, back, hash) = std::mem::take(&mut self.opens_later) {
                    self.c.splices.opening.push(Opening { b, at, server, back, hash });
                    continue;
                }
                self.pay(flow, &mut b);
            }
            self.c.splices.put(b);
        }
        self.c.splices.decided.clear();
        self.open_chosen();
    }

    /// Opens the servers that were put off ([`Desk::opens_behind`]).
    pub(super) fn open_chosen(&mut self) {
        let (before, later) = (self.at, std::mem::take(&mut self.opens_later));
        let mut opening = std::mem::take(&mut self.c.splices.opening);
        for Opening { mut b, at, server, back, hash } in opening.drain(..) {
            self.at = at;
            let flow = self.c.splices.get(b.entry).flow;
            if self.c.splices.is_in_hand(b.entry) {
                let attached = self.attach_as(flow, server, &back, hash);
                self.ask_server(flow, &mut b, server, attached);
                self.pay(flow, &mut b);
            }
            self.c.splices.put(b);
        }
        self.c.splices.opening = opening;
        (self.at, self.opens_later) = (before, later);
    }

    /// Acknowledges what a client is owed for the request that is gone on with.
    #[inline]
    fn pay(&mut self, flow: u32, b: &mut Binding) {
        let owed = std::mem::take(&mut b.owed);
        if owed == Owed::Soon && self.server_may_tell(flow, b) {
            b.tell(Some(self.now + HELD));
        } else if owed != Owed::Nothing && b.may_ack && !b.done && b.phase != Phase::Answer {
            self.acknowledge(flow, b);
        }
    }

    /// Whether a server is opened behind the others that the batch asks for: then it is asked for here. What says whether its key is
    /// taken is on its way meanwhile; that lies anywhere in the index, and nothing can be done before it is there.
    pub(super) fn opens_behind(&mut self, flow: u32, server: u16) -> bool {
        if self.opens_later != Opens::Later {
            return false;
        }
        let Some((back, hash)) = self.key_of_server(flow, server) else { return false };
        self.c.table.prefetch(hash);
        self.c.table.prefetch_second(hash);
        self.opens_later = Opens::Asked(server, back, hash);
        true
    }

    /// Whether the acknowledgement of a request may be left for a while to its server's first segment, which passes with it:
    /// all of it is here and on its way, so that nothing that its client has still to send of it waits for the acknowledgement.
    fn server_may_tell(&self, flow: u32, b: &Binding) -> bool {
        let on_its_way = matches!(b.phase, Phase::Connect | Phase::Deliver) && !self.is_migrated(flow);
        on_its_way
            && b.may_ack
            && !b.done
            && !b.uncut
            && !b.fin
            && b.request.1.is_done()
            && b.cut == b.buffer.len() as u64
    }
}
