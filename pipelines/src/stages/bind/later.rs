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

/// When the server that is chosen next is opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Opens {
    /// At once.
    #[default]
    Now,
    /// When all requests of the batch have chosen theirs, if nothing hangs on it.
    Later,
    /// This one was chosen, and is opened then; with what its answers are known by, and the hash of that.
    Deferred(u16, Key, u64),
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
            let (flow, at) = self.c.splices.decided[n];
            let Some(mut b) = self.c.splices.take(flow) else { continue };
            if std::mem::take(&mut b.deferred) {
                self.at = at;
                self.opens = Opens::Later;
                self.hold(flow, &mut b);
                if let Opens::Deferred(server, back, hash) = std::mem::take(&mut self.opens) {
                    self.c.splices.opening.push_back(Opening { b, at, server, back, hash });
                    continue;
                }
                self.pay(flow, &mut b);
            }
            self.c.splices.put(b);
        }
        self.c.splices.decided.clear();
        self.open_deferred();
    }

    /// Opens the servers that were put off ([`Desk::defer_open`]), in the order in which they were chosen. One whose key is taken by now gives way
    /// to another, which is chosen and opened at once.
    pub(super) fn open_deferred(&mut self) {
        let before = self.at;
        self.opens = Opens::Now;
        while let Some(Opening { mut b, at, server, back, hash }) = self.c.splices.opening.pop_front() {
            self.at = at;
            // Only frames end the connections of other clients, and all frames of the batch have been read: it is as it was.
            debug_assert!(self.c.splices.is_in_hand(b.entry) && b.phase == Phase::Hold);
            let flow = b.entry;
            let attached = self.attach_as(flow, server, &back, hash);
            self.ask_server(flow, &mut b, server, attached);
            self.pay(flow, &mut b);
            self.c.splices.put(b);
        }
        self.at = before;
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

    /// Puts the opening of a server off until all requests of the batch have chosen theirs, if that may be. What says whether its key is
    /// taken is on its way meanwhile; that lies anywhere in the index, and nothing can be done before it is there.
    pub(super) fn defer_open(&mut self, flow: u32, server: u16) -> bool {
        if self.opens != Opens::Later {
            return false;
        }
        // One of the director's own sources is taken when the server is opened: another request would find it free until then.
        let Some((back, hash)) = self.key_as_client(flow, server) else { return false };
        self.c.table.prefetch(hash);
        self.c.table.prefetch_second(hash);
        self.opens = Opens::Deferred(server, back, hash);
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
