//! Requests that a batch has decided: their servers are chosen and asked when the whole batch has been read.
//!
//! To read a request and to open a server's side for it are about as much code as a core's cache for instructions holds.
//! One after the other for each request, each would put the other out of that cache every time.

use super::Desk;
use crate::splice::{Binding, Phase};
use lcs_dataplane::BURST;
use lcs_dataplane::port::Port;
use lcs_dataplane::worker::Nanos;

/// How long, nanoseconds. Less than half a second by RFC 9293 §3.8.6.3, and than any client waits before it sends again.
const DELAY: Nanos = 40_000_000;

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
        for n in 0..self.c.splices.decided.len() {
            let (entry, at) = self.c.splices.decided[n];
            let Some(mut b) = self.c.splices.take(entry) else { continue };
            if std::mem::take(&mut b.deferred) {
                self.at = at;
                let flow = self.c.splices.get(entry).flow;
                self.hold(flow, &mut b);
                if self.server_may_tell(flow, &b) {
                    b.tell(Some(self.now + DELAY));
                } else if b.may_ack && !b.done && b.phase != Phase::Answer {
                    self.acknowledge(flow, &b);
                }
            }
            self.c.splices.put(b);
        }
        self.c.splices.decided.clear();
    }

    /// Whether the acknowledgement of a request may be left for a while to its server's first segment, which passes with it:
    /// all of it is here and on its way, so that nothing that the client has still to send waits for it.
    fn server_may_tell(&self, flow: u32, b: &Binding) -> bool {
        let on_its_way = matches!(b.phase, Phase::Connect | Phase::Deliver) && !self.is_migrated(flow);
        on_its_way && b.may_ack && !b.done && !b.uncut && !b.fin && b.cut == b.buffer.len() as u64
    }
}
