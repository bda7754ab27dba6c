//! A decision for every request of a connection that a filter has, at the director (`migration/FILTER.md`, Every request).
//!
//! The client's bytes all pass the director, so it knows where requests end; where responses end only the filter knows. The
//! bytes of a later request are held, and never pass as segments: a request that is for the server in turn is given to its
//! filter by a message, so that what was read is what is taken. For any other the connection is asked back first, and from
//! then on it is one that has no server.

use super::Desk;
use super::decide::Progress;
use super::migrate::RTO_FILTER;
use crate::matching::Action;
use crate::migration::Ticket;
use crate::migration::message::{Body, REQUEST_MAX, Turn, Why};
use crate::snapshot::NO_SLOT;
use crate::splice::{Arrival, Binding, Phase, RTO_FIRST, Seen};
use crate::tally::Refusal;
use lcs_dataplane::batch::Batch;
use lcs_dataplane::flow::{FlowFlags, Place};
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, RST};
use lcs_dataplane::port::Port;
use lcs_dataplane::splice::Offsets;
use lcs_dataplane::worker::Nanos;
use lcs_dataplane::{DropReason, Verdict};

/// Between two questions that the client's acknowledgements give rise to, nanoseconds.
const AGAIN: Nanos = 10_000_000;
/// From one question to the next at most, while the answer is "not yet", nanoseconds.
const SELDOM: Nanos = 2_000_000_000;
/// Half of the numbers within which a filter takes one for new: a message that is sent again for longer gets a new one.
const OLD: u64 = 1 << 15;

/// How far a client's segment goes.
enum Reach {
    /// No further than the request in turn.
    Within,
    /// The next request begins at this offset of the frame, and number.
    Beyond(usize, u32),
    /// Something before it is missing.
    Gap,
    /// The request in turn is malformed: nobody can say where it ends.
    Malformed,
}

impl<P: Port> Desk<'_, P> {
    /// Whether a connection is a filter's whose requests are decided one by one.
    pub(super) fn is_led(&self, flow: u32) -> bool {
        let f = self.c.table.get(flow);
        let answers_unseen =
            f.flags.has(FlowFlags::SPLICED) && !f.flags.has(FlowFlags::TRANSLATED) && f.server != NO_SLOT;
        // A connection to a guessed server that answers directly looks the same until it is bound.
        answers_unseen && self.is_migrated(flow) && !self.c.splices.get(flow).is_direct()
    }

    /// From here on the connection's present request is this one, as far as the client's bytes go.
    pub(super) fn follow_request(&mut self, b: &Binding) {
        let end = b.start.wrapping_add(b.cut as u32);
        let (method, body) = b.request;
        let e = self.c.splices.get_mut(b.entry);
        e.offsets = Offsets::new(0, 0);
        e.offsets.limit = [end, 0];
        e.follow_floor(Place::CLIENT, end);
        (e.response_known, e.until_close) = (false, false);
        if body.is_done() {
            self.c.splices.unfollow(b.entry);
        } else {
            self.c.splices.follow(b.entry).begin(method, body, [end, 0], 0);
        }
    }

    /// How far a segment goes; what it brings of a body is read.
    fn reach(&mut self, batch: &Batch, i: usize, a: &Arrival, entry: u32) -> Reach {
        let limit = self.c.splices.get(entry).offsets.limit[Place::CLIENT];
        if limit.wrapping_sub(a.end()) as i32 >= 0 {
            return Reach::Within;
        }
        let body = self.c.splices.follower(entry).filter(|(_, f)| !f.request.is_done());
        let next = body.as_ref().map_or(limit, |(_, f)| f.next[Place::CLIENT]);
        let skipped = next.wrapping_sub(a.seq) as i32;
        if skipped < 0 {
            return Reach::Gap;
        }
        let from = a.payload + skipped as usize;
        if a.flags & ACK == 0 {
            // No receiver takes what it brings (RFC 9293 §3.10.7.4).
            return Reach::Gap;
        }
        let Some((e, f)) = body else { return Reach::Beyond(from, next) };
        let rest = batch.frames[i].bytes().get(from..usize::from(batch.end[i])).unwrap_or(&[]);
        let seen = f.request(rest, &mut e.offsets);
        e.follow_floor(Place::CLIENT, f.next[Place::CLIENT]);
        match seen {
            Err(_) => Reach::Malformed,
            Ok(Seen::Ends(used)) if used < rest.len() => Reach::Beyond(from + used, next.wrapping_add(used as u32)),
            Ok(_) => Reach::Within,
        }
    }

    /// A client's segment while the filter has its connection, and no later request is in hand.
    pub(super) fn led_passes(&mut self, batch: &mut Batch, i: usize, a: &Arrival, flow: u32, entry: u32) -> Verdict {
        let place = Place::new(flow, Place::CLIENT);
        if a.flags & RST != 0 {
            return self.led_reset(batch, i, a, flow, entry);
        }
        if a.len == 0 {
            return self.pass(batch, i, place);
        }
        if !self.is_intact(batch, i) {
            return Verdict::Drop(DropReason::BadTcpChecksum);
        }
        let (from, seq) = match self.reach(batch, i, a, entry) {
            Reach::Within => return self.pass(batch, i, place),
            Reach::Gap => return Verdict::Drop(DropReason::OutOfOrder),
            Reach::Malformed => {
                // The filter finds the same, and knows the numbers with which to end both sides.
                let verdict = self.pass(batch, i, place);
                self.close(flow);
                return verdict;
            }
            Reach::Beyond(from, seq) => (from, seq),
        };
        if self.c.splices.get(entry).until_close {
            // Its server will close, and the client asks again elsewhere.
            return Verdict::Drop(DropReason::OutOfOrder);
        }
        let service = self.c.table.get(flow).service;
        let Some(mut b) = self.c.splices.bind(entry, service) else {
            self.c.splices.refuse(service, Refusal::TooMany);
            return Verdict::Drop(DropReason::RequestsFull);
        };
        b.start = seq;
        (b.client_ack, b.client_window) = (a.ack, a.window);
        (b.may_ack, b.settled) = (false, false);
        b.header.extend_from_slice(super::decide::packet_of(batch, i));
        let verdict = self.front_passes(batch, i, a, (from, seq), flow, &mut b);
        self.ask(flow, &mut b);
        self.c.splices.put(b);
        verdict
    }

    /// Holds a segment's bytes from offset `from` on, and lets pass what is before them.
    fn front_passes(
        &mut self,
        batch: &mut Batch,
        i: usize,
        a: &Arrival,
        (from, seq): (usize, u32),
        flow: u32,
        b: &mut Binding,
    ) -> Verdict {
        let bytes = batch.frames[i].bytes().get(from..usize::from(batch.end[i])).unwrap_or(&[]).to_vec();
        let rest = Arrival { seq, len: bytes.len(), payload: from, ..*a };
        self.hold_bytes(&rest, &bytes, flow, b);
        if from > a.payload && super::pass::shorten(batch, i, from) {
            return self.pass(batch, i, Place::new(flow, Place::CLIENT));
        }
        self.c.table.get_mut(flow).last_seen = self.tick;
        Verdict::Consume
    }

    /// A client's reset goes on to the filter; it ends the connection here if its number can be right.
    fn led_reset(&mut self, batch: &mut Batch, i: usize, a: &Arrival, flow: u32, entry: u32) -> Verdict {
        let place = Place::new(flow, Place::CLIENT);
        let verdict = self.reset_passes(batch, i, a, entry, place);
        if self.c.table.get(flow).flags.has(FlowFlags::CLOSED) {
            self.c.splices.unfollow(entry);
        }
        verdict
    }

    /// A later request has begun: it is given to the filter that has the connection, or the connection is asked back.
    pub(super) fn ask(&mut self, flow: u32, b: &mut Binding) {
        b.give_up(None);
        if let Some(server) = self.for_present(flow, b) {
            return self.give_next(flow, b, server);
        }
        self.recall(flow, b);
    }

    /// The server in turn, if all of the rules' decision is there and is for it, and its filter answers.
    fn for_present(&mut self, flow: u32, b: &mut Binding) -> Option<u16> {
        let content = self.content_of(flow)?;
        let (service, present) = (self.c.table.get(flow).service, self.c.table.get(flow).server);
        let filter = self.c.splices.migrations.filters.get(present);
        if b.buffer.is_empty() || !filter.is_some_and(|f| f.is_live(self.now)) {
            return None;
        }
        let mut extraction = self.c.splices.extraction(content.protocol);
        let progress = self.read_on(content, service, &mut extraction, b);
        self.c.splices.keep_extraction(extraction);
        let Progress::Decided(read) = progress else { return None };
        let action = content.program.rule(read.rule)?.1;
        if matches!(action, Action::Forward { queue: Some(_), .. }) {
            return None;
        }
        self.note_decision(flow, b, read);
        let fits = b.extend().is_ok() && !b.uncut && b.sendable() <= REQUEST_MAX;
        let group = action.group();
        let chosen = self.choose_known(flow, b, content, action).filter(|server| fits && *server == present)?;
        b.toward = Some((group, chosen));
        Some(chosen)
    }

    /// Gives the filter that has the connection its next request.
    fn give_next(&mut self, flow: u32, b: &mut Binding, server: u16) {
        let Some(header) = self.c.splices.migrations.filters.get_mut(server).map(|f| f.header()) else {
            return self.recall(flow, b);
        };
        if let Some((group, server)) = b.toward.take()
            && let Some(tally) = self.c.splices.tally(self.c.table.get(flow).service)
        {
            tally.sent(group, server);
        }
        self.count(flow, |n| n.continued += 1);
        self.follow_request(b);
        self.begin_asking(b, Phase::Migrate, Ticket::from(&header));
        self.send_migration(flow, b, &header);
    }

    fn begin_asking(&mut self, b: &mut Binding, phase: Phase, ticket: Ticket) {
        b.phase = phase;
        b.migration = Some(ticket);
        b.rto = RTO_FILTER;
        b.retries = 0;
        b.sent = 0;
        b.known_whole = false;
        b.timed = Some(self.now);
        b.arm(self.now);
    }

    /// Asks the filter for its connection.
    fn recall(&mut self, flow: u32, b: &mut Binding) {
        let server = self.c.table.get(flow).server;
        b.toward = None;
        let Some(header) = self.c.splices.migrations.filters.get_mut(server).map(|f| f.header()) else {
            return self.over(flow, b);
        };
        self.begin_asking(b, Phase::Recall, Ticket::from(&header));
        self.send_recall(flow, b);
    }

    /// Sends the question, again with the client's latest acknowledgement. `false`: who is asked is another one by now.
    fn send_recall(&mut self, flow: u32, b: &mut Binding) -> bool {
        let server = self.c.table.get(flow).server;
        let filter = self.c.splices.migrations.filters.get(server);
        let header = b.migration.and_then(|ticket| filter?.again(&ticket));
        let (Some(header), Some(ends)) = (header, self.ends(flow)) else { return false };
        b.timed = Some(self.now);
        let turn = Turn { ends, start: b.start, next: b.client_ack, window: b.client_window };
        let sent = self.tell(server, &header, &Body::Recall(turn));
        self.count(flow, |n| {
            n.messages += 1;
            n.bytes += sent as u64;
        });
        true
    }

    /// No answer yet.
    pub(super) fn recall_silent(&mut self, flow: u32, b: &mut Binding) {
        let f = self.c.table.get(flow);
        let (service, server) = (f.service, f.server);
        let live = self.c.splices.migrations.filters.get(server).is_some_and(|f| f.is_live(self.now));
        if live && b.timed.is_some_and(|sent| self.now.saturating_sub(sent) < b.rto) {
            // The client's acknowledgements have given rise to a question meanwhile, or to this one: it has its time.
            if !self.send_recall(flow, b) {
                return self.over(flow, b);
            }
            return b.arm(self.now);
        }
        let most = self.content(service).map_or(3, |c| c.binding.syn_retries);
        if b.retries >= most {
            return self.lost(flow, b);
        }
        if !self.send_recall(flow, b) {
            return self.over(flow, b);
        }
        let sent = b.timed;
        b.back_off(self.now);
        b.timed = sent;
    }

    /// A client's segment while a message about its later request, or about a first one that is not the only one, is on its way.
    pub(super) fn beside_message(
        &mut self,
        batch: &mut Batch,
        i: usize,
        a: &Arrival,
        flow: u32,
        b: &mut Binding,
    ) -> Verdict {
        let place = Place::new(flow, Place::CLIENT);
        if a.flags & RST != 0 {
            let verdict = self.led_reset(batch, i, a, flow, b.entry);
            if self.c.table.get(flow).flags.has(FlowFlags::CLOSED) {
                self.abort_migration(flow, b);
                b.done = true;
                self.close(flow);
            }
            return verdict;
        }
        let advances = a.flags & ACK != 0 && a.ack.wrapping_sub(b.client_ack) as i32 > 0;
        if advances && !b.settled {
            (b.client_ack, b.client_window) = (a.ack, a.window);
            if b.phase == Phase::Recall {
                self.ask_soon(flow, b);
            }
        }
        let fin = u32::from(a.flags & FIN != 0);
        let after_start = a.end().wrapping_add(fin).wrapping_sub(b.start) as i32 > 0;
        if a.len as u32 + fin == 0 || !after_start && !b.settled {
            return self.pass(batch, i, place);
        }
        let skipped = b.start.wrapping_sub(a.seq) as i32;
        if b.phase == Phase::Recall {
            let from = a.payload + skipped.max(0) as usize;
            let seq = if skipped > 0 { b.start } else { a.seq };
            return self.front_passes(batch, i, a, (from, seq), flow, b);
        }
        if skipped > 0 {
            if b.settled || !super::pass::shorten(batch, i, a.payload + skipped as usize) {
                return Verdict::Drop(DropReason::OutOfOrder);
            }
            return self.pass(batch, i, place);
        }
        let behind = b.next().wrapping_sub(a.seq) as i32;
        if behind > 0 || b.fin {
            // The message has these bytes; what comes behind them in the segment is sent again.
            return Verdict::Consume;
        }
        // Behind the message: more of the same request's body, and then the next one.
        let beyond = b.sendable() < b.buffer.len();
        let (from, seq) = if beyond {
            (a.payload, a.seq)
        } else {
            match self.reach(batch, i, a, b.entry) {
                Reach::Within => {
                    // These bytes nobody here has; whoever acknowledges them has them.
                    b.sent = 1;
                    return self.pass(batch, i, place);
                }
                Reach::Beyond(from, seq) => (from, seq),
                Reach::Gap | Reach::Malformed => return Verdict::Drop(DropReason::OutOfOrder),
            }
        };
        if behind < 0 || seq != b.next() {
            // Bytes of the body are missing here, not at the filter: what is behind them is sent again.
            if !beyond && from > a.payload && super::pass::shorten(batch, i, from) {
                b.sent = 1;
                return self.pass(batch, i, place);
            }
            return Verdict::Drop(DropReason::OutOfOrder);
        }
        self.front_passes(batch, i, a, (from, seq), flow, b)
    }

    /// A client's segment that proves that the filter has taken its request: what it brings of the next one is sent again.
    pub(super) fn led_behind(&mut self, batch: &mut Batch, i: usize, a: &Arrival, flow: u32, b: &Binding) -> Verdict {
        let within = a.len == 0 || matches!(self.reach(batch, i, a, b.entry), Reach::Within);
        if within && b.done {
            return self.pass(batch, i, Place::new(flow, Place::CLIENT));
        }
        Verdict::Drop(DropReason::OutOfOrder)
    }

    /// The client has acknowledged more: that may have been what was missing.
    fn ask_soon(&mut self, flow: u32, b: &mut Binding) {
        if b.timed.is_none_or(|sent| self.now.saturating_sub(sent) >= AGAIN) {
            self.send_recall(flow, b);
        } else {
            b.resend_at = b.resend_at.min(self.now + AGAIN);
        }
    }

    /// The filter has taken a request of a connection whose requests are decided one by one.
    pub(super) fn request_taken(&mut self, flow: u32, b: &mut Binding) {
        b.migration = None;
        b.disarm();
        let more = b.sendable() < b.buffer.len() || b.fin && !b.sends_fin();
        if !more {
            b.done = true;
            if b.fin {
                self.moved_by(flow, FIN | ACK, Place::CLIENT);
            }
            return;
        }
        let n = b.sendable().min(b.held);
        b.next_request();
        b.may_ack = false;
        b.held -= n;
        self.c.splices.buffered -= n;
        self.ask(flow, b);
    }

    /// The connection is the director's again, and has no server: whatever its next request is for, it can be bound.
    pub(super) fn released(&mut self, flow: u32, b: &mut Binding, turn: &Turn) {
        self.count(flow, |n| n.recalled += 1);
        self.lead_no_more(flow, b);
        let e = self.c.splices.get_mut(b.entry);
        e.numbers = [turn.start.wrapping_sub(1), turn.next.wrapping_sub(1)];
        e.offsets = Offsets::new(0, 0);
        (e.response_known, e.until_close) = (true, false);
        (b.may_ack, b.settled) = (true, true);
        (b.out_start, b.out_sent) = (turn.next, 0);
        if turn.next.wrapping_sub(b.client_ack) as i32 > 0 {
            b.client_ack = turn.next;
        }
        b.rto = RTO_FIRST;
        b.timed = None;
        if b.cut > 0 {
            b.phase = Phase::Hold;
            self.hold(flow, b);
        } else {
            b.phase = Phase::Collect;
            self.collect(flow, b);
        }
        // Not before: of what is held, it depends on the decision how much may be acknowledged.
        if !b.done && b.phase != Phase::Answer {
            self.acknowledge(flow, b);
        }
    }

    /// The filter keeps a connection, or has none. What is held is for nobody then.
    pub(super) fn not_released(&mut self, flow: u32, b: &mut Binding, why: Why) {
        match why {
            Why::NotYet | Why::Kept => {
                // What it waits for mostly shows in what the client acknowledges; a client that does not must cost little.
                b.rto = (b.rto * 2).min(SELDOM);
                b.retries = 0;
                b.arm(self.now);
                b.known_whole = why == Why::Kept && b.phase == Phase::Migrate;
                if b.phase == Phase::Recall || self.grows_old(flow, b) {
                    self.renew_ticket(flow, b);
                    // What is kept is kept under its number.
                    b.known_whole = false;
                }
            }
            Why::Stays | Why::Tunnel => {
                // What was held was not acknowledged: the client sends it again.
                b.done = true;
                if why == Why::Stays {
                    self.c.splices.get_mut(b.entry).until_close = true;
                } else {
                    self.give_away(flow, b);
                }
            }
            _ => self.over(flow, b),
        }
    }

    /// Whether the number of a message that is sent again will soon count as had: so many were used since.
    fn grows_old(&self, flow: u32, b: &Binding) -> bool {
        let filter = self.c.splices.migrations.filters.get(self.c.table.get(flow).server);
        filter.zip(b.migration).is_some_and(|(filter, ticket)| filter.used_since(&ticket) > OLD)
    }

    /// A question that is asked for a long time is asked with new numbers: an old one would count as had.
    fn renew_ticket(&mut self, flow: u32, b: &mut Binding) {
        let server = self.c.table.get(flow).server;
        let Some(filter) = self.c.splices.migrations.filters.get_mut(server) else { return };
        // Of another session it would not be understood.
        if b.migration.is_some_and(|ticket| filter.again(&ticket).is_some()) {
            b.migration = Some(Ticket::from(&filter.header()));
        }
    }

    /// The filter has not answered.
    pub(super) fn lost(&mut self, flow: u32, b: &mut Binding) {
        let (server, now) = (self.c.table.get(flow).server, self.now);
        if let Some(filter) = self.c.splices.migrations.filters.get_mut(server) {
            filter.missed(now);
        }
        self.over(flow, b);
    }

    /// Nobody knows any more where the connection stands.
    pub(super) fn over(&mut self, flow: u32, b: &mut Binding) {
        self.count(flow, |n| n.unanswered += 1);
        self.reset_client(flow, b.client_ack, b.next());
        b.done = true;
        self.close(flow);
    }
}
