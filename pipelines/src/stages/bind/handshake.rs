//! Handshakes with clients that wait for a greeting: the SYN+ACK is sent again until it is acknowledged (RFC 9293 §3.8.1).
//!
//! Where clients speak first, their requests bring the acknowledgement, and nothing here is done.

use super::open::SynAck;
use super::{Desk, link_back};
use crate::splice::Handshake;
use lcs_dataplane::batch::Batch;
use lcs_dataplane::flow::{FlowFlags, Key, Place, TcpState};
use lcs_dataplane::headers::protocol;
use lcs_dataplane::port::Port;

/// Handshakes looked at between two batches.
const BUDGET: usize = 32;

impl<P: Port> Desk<'_, P> {
    /// A SYN is about to be answered in its place: the answer is repeated if need be. `has_flow`: it has a flow, not a cookie.
    pub(super) fn handshake_begins(&mut self, batch: &Batch, i: usize, answer: &SynAck, has_flow: bool) {
        let SynAck { slot, key, numbers, offer, stamps } = *answer;
        if !self.speaks_first(slot) {
            return;
        }
        let hash = batch.hash[i];
        let echo = stamps.map(|(_, echo)| echo);
        let (interface, link) = (batch.rx[i], link_back(batch, i));
        let handshake = Handshake { key, hash, numbers, offer, echo, has_flow, interface, link };
        self.c.splices.handshakes.remember(handshake, self.now);
    }

    /// The client whose initial number was `isn` has acknowledged the answer to its SYN and is served, or refuses it: one that has not
    /// sent any, as in a flood with others' addresses, resets what it is sent.
    pub(super) fn handshake_ends(&mut self, key: &Key, isn: u32) {
        if self.c.splices.handshakes.len() > 0 {
            let hash = key.hash(self.c.table.hasher(), protocol::TCP);
            self.c.splices.handshakes.forget(hash, key, isn);
        }
    }

    /// The same of a connection that has a flow.
    pub(super) fn handshake_is_over(&mut self, flow: u32, isn: u32) {
        if let Some(key) = self.c.table.key(flow, Place::CLIENT) {
            self.handshake_ends(&key, isn);
        }
    }

    /// Sends again what is due. Returns whether there may be more.
    pub(super) fn repeat_handshakes(&mut self) -> bool {
        for _ in 0..BUDGET {
            match self.c.splices.handshakes.due(self.now) {
                None => return false,
                Some(None) => {}
                Some(Some(h)) => self.repeat_handshake(&h),
            }
        }
        true
    }

    fn repeat_handshake(&mut self, h: &Handshake) {
        let slot = self.snapshot.service_at(h.key.destination(), protocol::TCP);
        let Some((slot, content)) =
            slot.filter(|slot| self.speaks_first(*slot)).and_then(|slot| Some((slot, self.content(slot)?)))
        else {
            return self.c.splices.handshakes.forget(h.hash, &h.key, h.numbers[0]);
        };
        if !self.is_half_open(h) {
            return self.c.splices.handshakes.forget(h.hash, &h.key, h.numbers[0]);
        }
        let stamps = h.echo.and_then(|echo| self.answers_stamps(content, &h.key, Some((echo, 0))));
        let mut options = [0; 40];
        let answer = SynAck { slot, key: h.key, numbers: h.numbers, offer: h.offer, stamps };
        let segment = self.syn_ack(&answer, h.interface, &mut options);
        if self.put_out(h.interface, &h.link, None, &segment).is_some() {
            self.c.splices.handshakes.repeated += 1;
        }
    }

    /// Whether the handshake is where it was: with its own flow, or, of a cookie, without any or with one that could not be served yet.
    fn is_half_open(&self, h: &Handshake) -> bool {
        let Some(place) = self.c.table.find_hashed(&h.key, protocol::TCP, h.hash) else { return !h.has_flow };
        let f = self.c.table.get(place.flow());
        place.side() == Place::CLIENT
            && f.flags.has(FlowFlags::SPLICED)
            && f.state == TcpState::SynReceived
            && self.c.splices.get(place.flow()).numbers == h.numbers
    }
}
