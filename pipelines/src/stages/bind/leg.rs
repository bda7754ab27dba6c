//! Connections to servers that are not in turn: kept for a later request of the same client (SPLICING, Keep-alive).
//!
//! A leg is silent: everything that its server has sent was acknowledged by the client before the connection went on to
//! another server. What still comes is a segment sent again, a probe, or the server's end.

use super::super::schedule::differences;
use super::Desk;
use crate::snapshot::NO_SLOT;
use crate::splice::{Arrival, Binding, NIL, pool};
use lcs_dataplane::batch::Batch;
use lcs_dataplane::flow::{Addresses, FlowFlags, Place, TcpState};
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, RST};
use lcs_dataplane::port::Port;
use lcs_dataplane::splice::{Offsets, Payload, Segment};
use lcs_dataplane::{DropReason, Verdict};

/// Legs of one connection at most; the one parked longest ago gives way.
const LEGS: usize = 16;
/// The window that a server is told that is not in turn, not scaled: it has nothing to send.
pub(super) const LEG_WINDOW: u16 = 512;

impl<P: Port> Desk<'_, P> {
    /// Puts the connection to the server in turn aside. The response before is over, so nothing of it is on the way.
    pub(super) fn park(&mut self, flow: u32, b: &Binding) {
        let room = self.legs(b.entry).count() < LEGS;
        if let Some(leg) = self.set_aside(flow, b.entry, b.start, room, false) {
            let service = self.c.table.get(flow).service;
            self.c.splices.link(b.entry, leg, service);
        }
    }

    /// Gives the server's side of a flow a flow and an entry of its own, whose number it returns. `start`: the next number of the
    /// client. Where there is no room, it is reset instead. `pool`: it is nobody's from now on, and no work for its server.
    pub(super) fn set_aside(
        &mut self,
        flow: u32,
        entry_number: u32,
        start: u32,
        room: bool,
        pool: bool,
    ) -> Option<u32> {
        let entry = *self.c.splices.get(entry_number);
        let next = [entry.offsets.seq(Place::CLIENT, start), entry.offsets.limit[Place::SERVER]];
        let f = *self.c.table.get(flow);
        if let Some(key) = self.key_toward(flow, Place::SERVER) {
            // The client's last acknowledgement may have come with the request that goes elsewhere.
            let [seq, ack] = next;
            let window = LEG_WINDOW;
            self.send(
                flow,
                Place::SERVER,
                Segment { key, flags: ACK, seq, ack, window, options: &[], payload: Payload::NONE },
            );
        }
        let parked = room.then(|| self.c.table.insert_beside(flow).ok()).flatten().and_then(|beside| {
            match self.c.splices.insert(beside, f.service, next, entry.offer()) {
                Some(leg) => Some((beside, leg)),
                None => {
                    self.c.table.remove(beside);
                    None
                }
            }
        });
        let Some((beside, leg)) = parked else {
            self.reset_server(flow, next[0], next[1]);
            return None;
        };
        if self.c.table.move_server(flow, beside).is_err() {
            self.c.splices.release(leg, f.service);
            self.c.table.remove(beside);
            self.reset_server(flow, next[0], next[1]);
            return None;
        }
        self.c.unassign(flow);
        let m = self.c.table.get_mut(flow);
        m.flags.set(FlowFlags::TRANSLATED, false);
        let l = self.c.table.get_mut(beside);
        l.next_hop = if pool { [f.next_hop[Place::SERVER]; 2] } else { f.next_hop };
        l.service = f.service;
        l.server = NO_SLOT;
        l.flags.set(FlowFlags::TRANSLATED, true);
        l.flags.set(FlowFlags::SPLICED, true);
        self.c.opened(beside, TcpState::Established, self.tick);
        self.c.table.get_mut(beside).flags.set(FlowFlags::ACTIVE, !pool);
        self.c.assign(beside, f.server, false);
        self.set_stamps_aside(entry_number, leg, pool);
        let e = self.c.splices.get_mut(leg);
        e.offsets = entry.offsets;
        (e.server_mss, e.server_window) = (entry.server_mss, entry.server_window);
        Some(leg)
    }

    /// Takes a leg into use again; both directions carry an offset from now on. `false` when that is not possible.
    pub(super) fn unpark(&mut self, flow: u32, b: &Binding, leg: u32) -> bool {
        let l = *self.c.splices.get(leg);
        let shifts = (l.offsets.shift(Place::CLIENT), l.offsets.shift(Place::SERVER));
        if !self.adopt(flow, b, leg, shifts, l.offsets.blank_sack, false) {
            return false;
        }
        self.c.close(leg);
        self.c.table.get_mut(flow).flags.set(FlowFlags::POOLED, false);
        true
    }

    /// Gives a flow the server's side of a leg, whose own flow is left without. `pool`: it was another client's before.
    /// `false` when that is not possible.
    pub(super) fn adopt(
        &mut self,
        flow: u32,
        b: &Binding,
        leg: u32,
        shifts: (i8, i8),
        blank_sack: bool,
        pool: bool,
    ) -> bool {
        let l = *self.c.splices.get(leg);
        if self.c.table.move_server(leg, flow).is_err() {
            return false;
        }
        let beside = *self.c.table.get(leg);
        self.c.unassign(leg);
        // A pool's was another client's before.
        let difference = match self.c.table.keys(flow) {
            Some(Addresses { client, server: Some(back) }) => differences(&client, &back),
            _ => return false,
        };
        let m = self.c.table.get_mut(flow);
        m.next_hop[Place::SERVER] = beside.next_hop[Place::SERVER];
        m.ip_difference = difference.0.bits();
        m.l4_difference = difference.1.bits();
        m.flags.set(FlowFlags::TRANSLATED, true);
        self.c.assign(flow, beside.server, false);
        let (up, down) = (l.numbers[0].wrapping_sub(b.start), b.out_end().wrapping_sub(l.numbers[1]));
        let mut offsets = Offsets::new(up, down).with_shifts(shifts.0, shifts.1);
        offsets.blank_sack = blank_sack;
        offsets.limit = [b.start, l.numbers[1]];
        let e = self.c.splices.get_mut(b.entry);
        e.offsets = offsets;
        (e.server_mss, e.server_window) = (l.server_mss, l.server_window);
        self.adopt_stamps(flow, b.entry, leg, pool);
        true
    }

    fn legs(&self, entry: u32) -> impl Iterator<Item = u32> + '_ {
        let first = self.c.splices.get(entry).legs;
        std::iter::successors((first != NIL).then_some(first), |&leg| {
            let next = self.c.splices.get(leg).legs;
            (next != NIL).then_some(next)
        })
    }

    /// The server of a leg that may be used.
    pub(super) fn leg_to(&self, entry: u32, usable: &impl Fn(u16) -> bool) -> Option<u16> {
        self.legs(entry).map(|leg| self.c.table.get(leg).server).find(|&s| usable(s))
    }

    /// The leg to a server.
    pub(super) fn leg_of(&self, entry: u32, server: u16) -> Option<u32> {
        self.legs(entry).find(|&leg| self.c.table.get(leg).server == server)
    }

    /// A server's segment on a leg.
    pub(super) fn leg(&mut self, batch: &mut Batch, i: usize, a: &Arrival, flow: u32, leg: u32) -> Verdict {
        if !self.is_intact(batch, i) {
            return Verdict::Drop(DropReason::BadTcpChecksum);
        }
        if let Some(id) = pool::unmarked(self.c.splices.get(leg).main)
            && let Some(verdict) = self.pooled(batch, i, a, flow, leg, id)
        {
            return verdict;
        }
        let [next, expected] = self.c.splices.get(leg).numbers;
        let Some(key) = self.key_toward(flow, Place::SERVER) else { return Verdict::Drop(DropReason::NoFlow) };
        if a.flags & RST != 0 {
            if a.seq == expected {
                self.close(flow);
            }
            return Verdict::Consume;
        }
        self.server_stamps(leg, a);
        let on = Place::new(flow, Place::SERVER);
        let beyond = a.end().wrapping_sub(expected) as i32 > 0;
        if a.flags & FIN != 0 && a.end() == expected && self.c.splices.get(leg).until_close {
            // Closed by both ends.
            let (ack, window) = (expected.wrapping_add(1), LEG_WINDOW);
            let segment = Segment { key, flags: ACK, seq: next, ack, window, options: &[], payload: Payload::NONE };
            let verdict = self.answer_in_place(batch, i, &segment);
            self.close(flow);
            return verdict;
        }
        if a.flags & FIN != 0 || beyond {
            // It closes, or says what nobody asked for: there is no client to tell.
            let ack = a.end().wrapping_add(u32::from(a.flags & FIN != 0));
            let segment =
                Segment { key, flags: RST | ACK, seq: next, ack, window: 0, options: &[], payload: Payload::NONE };
            let verdict = self.answer_on(batch, i, on, segment);
            self.close(flow);
            return verdict;
        }
        if a.len > 0 || a.seq != expected {
            // Sent again, or a probe (RFC 9293 §3.8.4).
            let window = LEG_WINDOW;
            let segment =
                Segment { key, flags: ACK, seq: next, ack: expected, window, options: &[], payload: Payload::NONE };
            return self.answer_on(batch, i, on, segment);
        }
        Verdict::Consume
    }

    /// Resets the legs of a connection that has ended.
    pub(super) fn end_legs(&mut self, entry: u32) {
        loop {
            let leg = self.c.splices.get(entry).legs;
            if leg == NIL {
                return;
            }
            self.end_leg(leg);
        }
    }

    /// Resets a leg and forgets it.
    pub(super) fn end_leg(&mut self, flow: u32) {
        let Some(key) = self.key_toward(flow, Place::SERVER) else { return self.close(flow) };
        let [seq, ack] = self.c.splices.get(flow).numbers;
        self.send(
            flow,
            Place::SERVER,
            Segment { key, flags: RST | ACK, seq, ack, window: 0, options: &[], payload: Payload::NONE },
        );
        self.close(flow);
    }

    /// Ends the legs whose connections are gone.
    pub(super) fn bury_orphans(&mut self) {
        while let Some(flow) = self.c.splices.orphans.pop() {
            let is = self.c.table.keys(flow).is_some() && {
                let f = self.c.table.get(flow);
                f.flags.has(FlowFlags::SPLICED) && {
                    let e = self.c.splices.get(flow);
                    e.is_leg && e.main == NIL
                }
            };
            if is {
                self.end_leg(flow);
            }
        }
    }
}
