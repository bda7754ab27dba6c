//! Requests that a batch has decided: their servers are chosen and asked when the whole batch has been read.
//!
//! To read a request and to open a server's side for it are about as much code as a core's cache for instructions holds.
//! One after the other for each request, each would put the other out of that cache every time.

use super::Desk;
use super::direct::HELD;
use crate::splice::{Binding, Owed, Phase};
use lcs_dataplane::BURST;
use lcs_dataplane::port::Port;

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
                let flow = entry;
                self.hold(flow, &mut b);
                let owed = std::mem::take(&mut b.owed);
                if owed == Owed::Soon && self.server_may_tell(flow, &b) {
                    b.tell(Some(self.now + HELD));
                } else if owed != Owed::Nothing && b.may_ack && !b.done && b.phase != Phase::Answer {
                    self.acknowledge(flow, &mut b);
                }
            }
            self.c.splices.put(b);
        }
        self.c.splices.decided.clear();
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
