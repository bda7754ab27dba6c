//! Later requests of a connection that was taken over, at a filter: taken from the director, or the connection is given back to
//! it (`migration/FILTER.md`, Every request).
//!
//! The filter follows requests and responses to their ends, as a director does that binds delayed. It gives a connection back
//! when a response is complete and its client has acknowledged all of it: then nothing of it is on the way.

use super::Desk;
use crate::content::Scheme;
use crate::migration::Ticket;
use crate::migration::message::{Body, Header, Migrate, Turn, Why};
use crate::splice::{Arrival, Binding, NIL, Phase, Taken};
use lcs_dataplane::batch::Batch;
use lcs_dataplane::flow::{Place, TcpState};
use lcs_dataplane::headers::tcp::flags::{ACK, FIN};
use lcs_dataplane::port::Port;
use lcs_dataplane::splice::{Payload, Segment};
use lcs_dataplane::{DropReason, Verdict};

impl<P: Port> Desk<'_, P> {
    /// Whether a flow's service is one that directors give connections of.
    pub(super) fn is_filter(&self, flow: u32) -> bool {
        self.content(self.c.table.get(flow).service).is_some_and(|c| matches!(c.binding.scheme, Scheme::Migrated(_)))
    }

    /// Takes what a client sends behind its first request while the server is being opened: as far as that request goes.
    pub(super) fn hold_body(&mut self, a: &Arrival, bytes: &[u8], flow: u32, b: &mut Binding) -> Taken {
        // An end behind it comes again.
        let taken = self.hold_bytes(&Arrival { flags: a.flags & !FIN, ..*a }, bytes, flow, b);
        // One that is malformed is found to be so when it is delivered.
        if b.extend().is_ok() && b.sendable() < b.buffer.len() {
            b.cut_off(b.sendable());
            b.forget_ahead();
            let held = b.holds();
            self.c.splices.buffered = (self.c.splices.buffered + held).saturating_sub(b.held);
            b.held = held;
        }
        taken
    }

    /// A client's data while a request waits for its turn: requests come in messages, and what follows of its body comes again.
    /// What the segment acknowledges counts, and what it has `earlier` than the request goes on.
    pub(super) fn body_waits(
        &mut self,
        batch: &mut Batch,
        i: usize,
        a: &Arrival,
        flow: u32,
        b: &mut Binding,
        (advances, earlier): (bool, bool),
    ) -> Verdict {
        let start = b.start;
        if advances && self.is_attached(flow) {
            self.acknowledge_server(flow, b);
        }
        match b.phase {
            Phase::Collect => self.collect(flow, b),
            Phase::Hold => self.hold(flow, b),
            _ => {}
        }
        if b.may_ack && !b.done && b.phase != Phase::Answer {
            self.acknowledge(flow, b);
        }
        if b.phase == Phase::Deliver && !b.done {
            self.deliver(flow, b);
        }
        let goes_on = earlier && !b.done && self.is_attached(flow) && b.phase != Phase::Connect;
        if goes_on && super::pass::shorten(batch, i, a.payload + start.wrapping_sub(a.seq) as usize) {
            return self.pass_and_look(batch, i, Place::new(flow, Place::CLIENT), b.entry);
        }
        Verdict::Drop(DropReason::OutOfOrder)
    }

    /// The next request of a connection that is here.
    pub(super) fn take_next(&mut self, header: &Header, m: &Migrate<'_>, bytes: &[u8]) -> Verdict {
        let ticket = Ticket::from(header);
        let flow = self.flow_of(&m.ends).filter(|&flow| self.is_attached(flow));
        let Some(flow) = flow.filter(|&f| self.c.splices.migrations.is_newer(f, ticket)) else {
            self.refuse_turn(header, m, Why::Over);
            return Verdict::Consume;
        };
        let entry = flow;
        let e = *self.c.splices.get(entry);
        if let Some(why) = self.keeps(flow, (m.start, m.next)) {
            if why == Why::NotYet {
                return self.not_yet(ticket, m, bytes);
            }
            self.refuse_turn(header, m, why);
            return Verdict::Consume;
        }
        if !self.c.splices.has_room(bytes.len()) {
            return self.not_yet(ticket, m, bytes);
        }
        let mut b = match self.c.splices.take(entry) {
            Some(b) => {
                let follows = b.phase != Phase::Deliver || b.cut == b.buffer.len() as u64;
                let collects = matches!(b.phase, Phase::Collect | Phase::Hold | Phase::Deliver);
                let room = self.room(self.c.table.get(flow).service) > b.buffer.len() + bytes.len();
                if !(collects && follows && room) || b.fin || b.next() != m.start {
                    self.c.splices.put(b);
                    return self.not_yet(ticket, m, bytes);
                }
                b
            }
            None => {
                let in_body = self.c.splices.follower(entry).is_some_and(|(_, f)| !f.request.is_done());
                if in_body || e.offsets.limit[Place::CLIENT] != m.start {
                    return self.not_yet(ticket, m, bytes);
                }
                let Some(mut b) = self.c.splices.bind(entry, self.c.table.get(flow).service) else {
                    return self.not_yet(ticket, m, bytes);
                };
                b.start = m.start;
                (b.client_ack, b.client_window) = (m.next, m.window);
                (b.may_ack, b.settled) = (false, false);
                b.ack_floor = e.offsets.ack(Place::CLIENT, m.next);
                b
            }
        };
        if m.next.wrapping_sub(b.client_ack) as i32 >= 0 {
            (b.client_ack, b.client_window) = (m.next, m.window);
        }
        self.settle(flow, &mut b);
        b.forget_ahead();
        b.buffer.extend_from_slice(bytes);
        b.fin = m.fin;
        let held = b.holds();
        self.c.splices.buffered = (self.c.splices.buffered + held).saturating_sub(b.held);
        b.held = held;
        if b.fin {
            self.moved_by(flow, FIN | ACK, Place::CLIENT);
        }
        self.c.splices.migrations.sessions.mark(header, self.now);
        self.c.splices.migrations.note_taken(entry, ticket);
        self.count_at(self.c.table.get(flow).service, |n| n.continued += 1);
        self.say_to_director(ticket, &Body::Accepted(m.ends));
        self.go_on(flow, &mut b);
        self.c.splices.put(b);
        Verdict::Consume
    }

    /// Goes on with what has come for a binding, and tells both sides what they wait for.
    fn go_on(&mut self, flow: u32, b: &mut Binding) {
        match b.phase {
            Phase::Collect => self.collect(flow, b),
            Phase::Hold => self.hold(flow, b),
            _ => {}
        }
        if b.done || b.phase == Phase::Answer {
            return;
        }
        if b.may_ack {
            self.acknowledge(flow, b);
        }
        if self.is_attached(flow) && b.phase != Phase::Connect {
            self.acknowledge_server(flow, b);
        }
    }

    fn refuse_turn(&mut self, header: &Header, m: &Migrate<'_>, why: Why) {
        self.c.splices.migrations.sessions.mark(header, self.now);
        self.say_to_director(Ticket::from(header), &Body::Refused(m.ends, why));
    }

    /// Why no request can follow on a connection whose client has sent `start` bytes and acknowledged `next`, if so.
    fn keeps(&mut self, flow: u32, (start, next): (u32, u32)) -> Option<Why> {
        let f = self.c.table.get(flow);
        let (entry, state) = (flow, f.state);
        let e = *self.c.splices.get(entry);
        if e.offsets.open {
            return Some(Why::Tunnel);
        }
        if !e.until_close {
            return None;
        }
        if !e.response_known || state != TcpState::Established {
            return Some(Why::Stays);
        }
        // Answered without the whole request, by a server that may yet wait for the rest of it: it will not answer another, and need not close.
        let end = e.offsets.seq(Place::SERVER, e.offsets.limit[Place::SERVER]);
        if (next.wrapping_sub(end) as i32) < 0 {
            return Some(Why::NotYet);
        }
        self.reset_server(flow, e.offsets.seq(Place::CLIENT, start), e.offsets.ack(Place::CLIENT, next));
        self.close(flow);
        Some(Why::Over)
    }

    /// What is before a request is still on its way, or there is no room for it yet: it counts as new when it comes again. What came in
    /// several messages is kept if there is room, so that one of them is enough: the director is told so.
    fn not_yet(&mut self, ticket: Ticket, m: &Migrate<'_>, bytes: &[u8]) -> Verdict {
        let kept = m.pieces() > 1 && self.c.splices.migrations.assemblies.keep(ticket, m, bytes, self.now);
        self.say_to_director(ticket, &Body::Refused(m.ends, if kept { Why::Kept } else { Why::NotYet }));
        Verdict::Consume
    }

    /// The director asks for a connection back. However often it asks, the answer is what is so now.
    pub(super) fn recalled(&mut self, header: &Header, turn: &Turn) -> Verdict {
        let ticket = Ticket::from(header);
        match self.c.splices.migrations.sessions.freshness(header) {
            None => return Verdict::Drop(DropReason::BadMigration),
            Some(crate::migration::Freshness::Old) => return Verdict::Drop(DropReason::StaleMigration),
            Some(_) => self.c.splices.migrations.sessions.mark(header, self.now),
        }
        let Some(flow) = self.flow_of(&turn.ends) else {
            self.say_to_director(ticket, &Body::Refused(turn.ends, Why::Over));
            return Verdict::Consume;
        };
        let entry = flow;
        let e = *self.c.splices.get(entry);
        if !self.is_attached(flow) {
            let [start, next] = e.numbers.map(|n| n.wrapping_add(1));
            let m = &self.c.splices.migrations;
            // It was asked again before the answer had come, with a number of its own.
            let again = (m.has_brought(entry, ticket) || m.is_newer(entry, ticket)) && start == turn.start;
            if again {
                self.c.splices.migrations.note_taken(entry, ticket);
                self.say_to_director(ticket, &Body::Released(Turn { next, ..*turn }));
                return Verdict::Consume;
            }
            return Verdict::Drop(DropReason::StaleMigration);
        }
        if !self.c.splices.migrations.is_newer(entry, ticket) {
            // It was asked before the present request was given; or by another session, whose director has been changed.
            if self.c.splices.migrations.is_of_session(entry, ticket) {
                return Verdict::Drop(DropReason::StaleMigration);
            }
            self.say_to_director(ticket, &Body::Refused(turn.ends, Why::Over));
            return Verdict::Consume;
        }
        let end = e.offsets.seq(Place::SERVER, e.offsets.limit[Place::SERVER]);
        let in_body = self.c.splices.follower(entry).is_some_and(|(_, f)| !f.request.is_done());
        let complete = e.response_known
            && !in_body
            && e.binding == NIL
            && e.offsets.limit[Place::CLIENT] == turn.start
            && turn.next.wrapping_sub(end) as i32 >= 0;
        let keeps = self.keeps(flow, (turn.start, turn.next));
        let refused = match self.c.table.get(flow).state {
            _ if keeps.is_some() => keeps,
            TcpState::Established if complete => None,
            _ => Some(Why::NotYet),
        };
        match refused {
            Some(why) => {
                self.say_to_director(ticket, &Body::Refused(turn.ends, why));
            }
            None => {
                self.release(flow, entry, turn.start, end);
                self.c.splices.migrations.note_taken(entry, ticket);
                self.say_to_director(ticket, &Body::Released(Turn { next: end, ..*turn }));
            }
        }
        Verdict::Consume
    }

    /// Lets go of a connection between two requests: its server is told that its client has closed. What was agreed stays known for a
    /// while, for a director that asks again.
    fn release(&mut self, flow: u32, entry: u32, start: u32, end: u32) {
        let service = self.c.table.get(flow).service;
        self.count_at(service, |n| n.recalled += 1);
        self.c.splices.unfollow(entry);
        if let Some(leg) = self.set_aside(flow, entry, start, true, false) {
            self.c.splices.link(entry, leg, service);
            self.close_leg(leg);
        }
        self.c.splices.get_mut(entry).numbers = [start, end].map(|n| n.wrapping_sub(1));
        self.c.moved(flow, TcpState::TimeWait, self.tick);
    }

    /// Closes a connection to a server that has nothing to say any more, and waits for the server's end.
    fn close_leg(&mut self, leg: u32) {
        let e = *self.c.splices.get(leg);
        let [seq, ack] = e.numbers;
        let Some(key) = self.key_toward(leg, Place::SERVER) else { return };
        let window = super::leg::LEG_WINDOW;
        let payload = Payload::NONE;
        self.send(leg, Place::SERVER, Segment { key, flags: FIN | ACK, seq, ack, window, options: &[], payload });
        let e = self.c.splices.get_mut(leg);
        e.numbers[0] = seq.wrapping_add(1);
        e.until_close = true;
        self.moved_by(leg, FIN | ACK, Place::CLIENT);
    }
}
