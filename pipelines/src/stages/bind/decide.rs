//! Collecting a request and letting the rules decide about it.

use super::super::connection::Connections;
use super::Desk;
use super::choose::candidates;
use super::read::GroupState;
pub(super) use super::read::{Progress, Read, is_up};
use crate::content::{Content, OnUnparsed, Sticky};
use crate::extract::{BodyFollower, ExtractError, Extraction, Method, PACKET_BYTES, Protocol, Replay};
use crate::matching::Action;
use crate::snapshot::Snapshot;
use crate::splice::{Arrival, Binding, Owed, Phase, Taken};
use crate::tally::Refusal;
use lcs_dataplane::batch::Batch;
use lcs_dataplane::flow::{FlowFlags, Place, TcpState};
use lcs_dataplane::headers::Kind;
use lcs_dataplane::headers::parse::tcp_v4_payload_sum;
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, RST};
use lcs_dataplane::port::Port;
use lcs_dataplane::{DropReason, Verdict};

/// Between two commands of a dialogue, nanoseconds.
const DIALOGUE: u64 = 300_000_000_000;

/// For how long a client may go on with a request that is not decided, nanoseconds.
pub(super) fn patience(content: &Content) -> u64 {
    if content.protocol.server_speaks_first() { DIALOGUE } else { content.binding.request.as_nanos() as u64 }
}

/// Reads `buffer` here and now, with the service's own room to evaluate rules in.
#[allow(clippy::too_many_arguments)]
fn read_here(
    c: &mut Connections,
    snapshot: &Snapshot,
    content: &Content,
    service: u16,
    extraction: &mut Extraction,
    buffer: &[u8],
    end: bool,
    packet: &[u8],
) -> Progress {
    // The scratch is lent out, so that the rules can ask for the state of the groups.
    let Some(mut scratch) = c.splices.lend_scratch(service) else { return Progress::Failed(ExtractError::NotHttp) };
    let groups = GroupState { content, snapshot, counts: &c.counts };
    let progress = super::read::read(&groups, &mut scratch.1, extraction, buffer, end, packet);
    c.splices.return_scratch(service, scratch);
    progress
}

/// Whether a client's segment belongs to the request that is being delivered: then it passes, and the server puts it in
/// order. What follows that request waits for its turn.
fn belongs_to_delivery(a: &Arrival, b: &Binding) -> bool {
    let waits = b.sendable() < b.buffer.len();
    let within = (a.end().wrapping_sub(b.start) as i32) as i64 <= b.sendable() as i64;
    !waits && !b.fin || a.flags & FIN == 0 && (a.len == 0 || within) || b.sends_fin()
}

/// As much of a frame's IP packet as rules may look at.
pub(super) fn packet_of(batch: &Batch, i: usize) -> &[u8] {
    packet_in(batch.frames[i].bytes(), usize::from(batch.l3[i]), usize::from(batch.end[i]))
}

/// The same of a frame's bytes, given where its packet begins and ends.
fn packet_in(frame: &[u8], l3: usize, end: usize) -> &[u8] {
    frame.get(l3..end.min(l3 + PACKET_BYTES)).unwrap_or(&[])
}

/// The sum of an intact segment's payload, as a checksum has it; `None` where it does not follow from the header alone.
fn payload_sum(batch: &Batch, i: usize, a: &Arrival) -> Option<u16> {
    if batch.kind[i] != Kind::Transport4 {
        return None;
    }
    let l4 = usize::from(batch.l4[i]);
    let header = batch.frames[i].bytes().get(l4..a.payload)?;
    tcp_v4_payload_sum(batch.addresses[i], usize::from(batch.end[i]).checked_sub(l4)?, header)
}

impl<P: Port> Desk<'_, P> {
    /// The first data (or FIN) of a client: from here on the connection counts as established.
    pub(super) fn first_data(&mut self, batch: &mut Batch, i: usize, a: &Arrival, flow: u32, entry: u32) -> Verdict {
        let service = self.c.table.get(flow).service;
        let Some(content) = self.content_of(flow) else {
            // The service is gone, or is no longer switched by content: nothing was promised yet.
            self.close(flow);
            return self.refuse_in_place(batch, i, a);
        };
        if self.is_direct_guess(flow)
            && let Some(verdict) = self.request_goes_directly(batch, i, a, flow, entry)
        {
            return verdict;
        }
        let Some(mut b) = self.c.splices.bind(entry, service) else {
            self.c.splices.refuse(service, Refusal::TooMany);
            return Verdict::Drop(DropReason::RequestsFull);
        };
        let numbers = self.c.splices.get(entry).numbers;
        self.handshake_is_over(flow, numbers[0]);
        b.start = numbers[0].wrapping_add(1);
        b.out_start = numbers[1].wrapping_add(1);
        b.client_ack = b.out_start;
        b.give_up(Some(self.now + patience(content)));
        if self.is_direct_guess(flow) {
            self.wait_for_decision(&mut b);
        }
        if self.c.table.get(flow).state == TcpState::SynReceived {
            self.c.moved(flow, TcpState::Established, self.tick);
        }
        let verdict = self.bound_from_client(batch, i, a, flow, &mut b);
        self.c.splices.put(b);
        verdict
    }

    /// A client's segment while its connection is being bound.
    pub(super) fn bound_from_client(
        &mut self,
        batch: &mut Batch,
        i: usize,
        a: &Arrival,
        flow: u32,
        b: &mut Binding,
    ) -> Verdict {
        if !self.is_intact(batch, i) {
            return Verdict::Drop(DropReason::BadTcpChecksum);
        }
        match b.phase {
            Phase::Migrate => return self.passes_to_filter(batch, i, a, flow, b),
            Phase::Recall => return self.beside_message(batch, i, a, flow, b),
            _ => {}
        }
        let f = self.c.table.get_mut(flow);
        f.last_seen = self.tick;
        f.packets[Place::CLIENT] = f.packets[Place::CLIENT].wrapping_add(1);
        if a.flags & RST != 0 {
            return self.reset_by_client(batch, i, a, flow, b);
        }
        if a.flags & ACK == 0 {
            return Verdict::Drop(DropReason::OutOfWindow);
        }
        // Of the request before, what comes late is for its server to judge: the director may have read on without it.
        let before = a.len > 0 && a.end().wrapping_sub(b.start) as i32 <= 0;
        if !before && self.is_old(a, b) {
            if b.may_ack {
                self.acknowledge(flow, b);
            }
            return Verdict::Drop(DropReason::OutOfWindow);
        }
        if self.guess_has_spoken(flow, a.ack, b) {
            self.end_spoken(flow, a.ack, b);
            return Verdict::Consume;
        }
        if self.is_ahead(flow, a.ack, b) {
            // RFC 9293 §3.10.7.4: of what was never sent; its data does not count either.
            if b.may_ack {
                self.acknowledge(flow, b);
            }
            return Verdict::Drop(DropReason::OutOfWindow);
        }
        // An old, delayed acknowledgement must not move the window back (RFC 9293 §3.10.7.4).
        let advances = a.ack.wrapping_sub(b.client_ack) as i32;
        let was_settled = b.settled;
        if advances >= 0 {
            b.client_ack = a.ack;
            b.client_window = a.window;
            if a.seq.wrapping_sub(b.next()) as i32 <= 0 {
                self.read_stamps(a, b);
            }
            self.settle(flow, b);
        }
        if b.out_pending() && b.acknowledge_out(a.ack) {
            self.said(flow, b);
            if b.done {
                return Verdict::Consume;
            }
        }
        if a.len > 0 && self.is_pooled(flow) && self.is_attached(flow) && self.is_of_before(Place::CLIENT, a, b.entry) {
            // For a server that had the connection before: this one must not see it.
            self.acknowledge(flow, b);
            return Verdict::Consume;
        }
        if b.phase == Phase::Deliver && a.len > 0 && b.out_of_hand(a) {
            // Of these bytes the server gets the copy that was read, and no other; what they acknowledge it may know.
            if b.may_ack {
                self.acknowledge(flow, b);
            }
            if advances > 0 {
                self.acknowledge_server(flow, b);
            }
            return Verdict::Consume;
        }
        let spans = b.start.wrapping_sub(a.seq) as i32 > 0 && a.end().wrapping_sub(b.start) as i32 > 0;
        if b.phase == Phase::Deliver && spans {
            // Of the request before, the server may lack what the segment begins with.
            if !super::pass::shorten(batch, i, a.payload + b.start.wrapping_sub(a.seq) as usize) {
                return Verdict::Drop(DropReason::BadHeader);
            }
            return self.pass_and_look(batch, i, Place::new(flow, Place::CLIENT), b.entry);
        }
        if b.phase == Phase::Deliver && belongs_to_delivery(a, b) {
            // What follows what we deliver goes straight on; the server puts it in order.
            return self.pass_beside(batch, i, a, flow, b);
        }
        // What comes before the request that is being collected belongs to the one before, and its server may lack it.
        let start = b.start;
        let earlier = start.wrapping_sub(a.seq) as i32 > 0
            && a.len > 0
            && !b.may_ack
            && self.is_attached(flow)
            && matches!(b.phase, Phase::Collect | Phase::Hold);
        if earlier && a.end().wrapping_sub(b.start) as i32 <= 0 && a.flags & FIN == 0 {
            return self.pass_and_look(batch, i, Place::new(flow, Place::CLIENT), b.entry);
        }
        let end = usize::from(batch.end[i]);
        let payload = batch.frames[i].bytes().get(a.payload..end).unwrap_or(&[]);
        let service = self.c.table.get(flow).service;
        if b.phase == Phase::Answer {
            return self.answered(a, payload.len(), flow, b);
        }
        let one_by_one = a.len > 0 && self.is_filter(flow) && !b.uncut;
        if one_by_one && b.phase != Phase::Connect {
            return self.body_waits(batch, i, a, flow, b, (advances > 0, earlier));
        }
        let before = b.buffer.len();
        let nothing = payload.is_empty() && a.flags & FIN == 0;
        let fills = b.ahead().next().is_some();
        let taken = if one_by_one { self.hold_body(a, payload, flow, b) } else { self.hold_bytes(a, payload, flow, b) };
        let grown = b.buffer.len() - before;
        if taken == Taken::New && grown > 0 {
            b.header.clear();
            b.header.extend_from_slice(packet_of(batch, i));
            if before == 0 {
                // Alone in the buffer, whole.
                let alone = !fills && a.seq == b.start && grown == a.len;
                b.note_sum(if alone { payload_sum(batch, i, a) } else { None });
            }
        }
        if taken == Taken::New && b.phase == Phase::Collect && self.speaks_first(service) {
            // A dialogue takes as long as it takes, if only it goes on (RFC 5321 §4.5.3.2).
            b.give_up(Some(self.now + DIALOGUE));
        }
        // The segment does not go on; its acknowledgement does, repeated ones too: one before may have been lost.
        let to_tell = advances > 0 || nothing && advances == 0;
        if to_tell && self.is_attached(flow) && matches!(b.phase, Phase::Collect | Phase::Hold | Phase::Deliver) {
            self.acknowledge_server(flow, b);
        }
        // What was held back until the response before was over may go on now, even if this segment brings nothing else.
        let now_settled = b.settled && !was_settled;
        let mut verdict = Verdict::Consume;
        match taken {
            Taken::New => {}
            Taken::Ahead | Taken::Gap => {
                // At once, so that the client sees what is missing (RFC 5681 §4.2).
                if b.may_ack {
                    self.acknowledge(flow, b);
                }
                if taken == Taken::Gap {
                    verdict = Verdict::Drop(DropReason::OutOfOrder);
                }
                if !now_settled {
                    return verdict;
                }
            }
            Taken::Old if nothing => {}
            Taken::Old if earlier => {}
            Taken::Old => {
                let full = before + 1 >= self.room(service) || !self.c.splices.has_room(payload.len());
                if b.may_ack {
                    self.acknowledge(flow, b);
                }
                if !now_settled && (b.phase != Phase::Collect || !full) {
                    return verdict;
                }
            }
        }
        match b.phase {
            Phase::Collect => {
                self.defers = !self.is_attached(flow);
                self.collect(flow, b);
                self.defers = false;
            }
            Phase::Hold => self.hold(flow, b),
            // The rest of the request follows as the server takes it.
            Phase::Connect | Phase::Migrate | Phase::Recall | Phase::Replay | Phase::Deliver | Phase::Answer => {}
        }
        let told = matches!(taken, Taken::Ahead | Taken::Gap);
        let owed = taken == Taken::New || now_settled && !b.buffer.is_empty() && !told;
        if owed && b.deferred {
            b.owed = if taken == Taken::New && !fills && b.may_ack { Owed::Soon } else { Owed::AtOnce };
        } else if owed && b.may_ack && !b.done && b.phase != Phase::Answer {
            self.acknowledge(flow, b);
        }
        if b.phase == Phase::Deliver && !b.done {
            self.deliver(flow, b);
        }
        let earlier = earlier && !b.done && self.is_attached(flow) && b.phase != Phase::Connect;
        if earlier && super::pass::shorten(batch, i, a.payload + start.wrapping_sub(a.seq) as usize) {
            return self.pass_and_look(batch, i, Place::new(flow, Place::CLIENT), b.entry);
        }
        verdict
    }

    /// Whether a client's acknowledgement is of more than it can have been sent, as far as that is known.
    fn is_ahead(&self, flow: u32, ack: u32, b: &Binding) -> bool {
        let ahead_of = |end: u32| ack.wrapping_sub(end) as i32 > 0;
        let e = self.c.splices.get(b.entry);
        let by_server = self.is_attached(flow) && !matches!(b.phase, Phase::Connect | Phase::Replay);
        if by_server && (e.offsets.open || e.until_close) {
            return false;
        }
        let told = b.settled && !ahead_of(b.out_end());
        let answered = by_server && !ahead_of(e.offsets.seq(Place::SERVER, e.offsets.limit[Place::SERVER]));
        !told && !answered
    }

    /// The client resets its connection while it is being bound.
    fn reset_by_client(&mut self, batch: &mut Batch, i: usize, a: &Arrival, flow: u32, b: &mut Binding) -> Verdict {
        if b.phase == Phase::Deliver {
            let verdict = self.pass_beside(batch, i, a, flow, b);
            b.done = verdict == Verdict::Forward && self.c.table.get(flow).flags.has(FlowFlags::CLOSED);
            return verdict;
        }
        let window = self.room(self.c.table.get(flow).service) as u32;
        let ahead = a.seq.wrapping_sub(b.next());
        if ahead != 0 && (b.may_ack || a.seq != b.start) {
            // RFC 5961 §3.2: in the window a challenge, else nothing.
            if ahead < window && b.may_ack {
                self.acknowledge(flow, b);
            }
            return Verdict::Drop(DropReason::OutOfWindow);
        }
        if self.is_direct_guess(flow) {
            self.address_denies(flow);
            self.give_up_guess(flow, b, false);
        }
        if b.phase == Phase::Connect {
            self.address_denies(flow);
        }
        if self.is_attached(flow) {
            let offsets = self.c.splices.get(b.entry).offsets;
            let seq = offsets.seq(Place::CLIENT, b.start.wrapping_add(b.sent as u32));
            let ack = if b.phase == Phase::Connect { 0 } else { offsets.ack(Place::CLIENT, b.client_ack) };
            self.reset_server(flow, seq, ack);
        }
        b.done = true;
        self.close(flow);
        Verdict::Consume
    }

    /// Reads on in what has been collected, and acts on a decision.
    pub(super) fn collect(&mut self, flow: u32, b: &mut Binding) {
        self.collect_by(flow, b, true);
    }

    /// The same without any content worker.
    pub(super) fn collect_here(&mut self, flow: u32, b: &mut Binding) {
        self.collect_by(flow, b, false);
    }

    fn collect_by(&mut self, flow: u32, b: &mut Binding, elsewhere: bool) {
        let service = self.c.table.get(flow).service;
        let Some(content) = self.content_of(flow) else {
            if self.is_attached(flow) && !b.settled {
                return;
            }
            self.c.splices.refuse(service, Refusal::Withdrawn);
            return self.give_up_request(flow, b, 503);
        };
        let waits = self.is_attached(flow) && !b.settled;
        if self.is_attached(flow) && self.c.splices.get(b.entry).until_close {
            return;
        }
        if waits && !self.c.splices.get(b.entry).response_known {
            return;
        }
        if b.buffer.is_empty() && !b.fin && !content.protocol.server_speaks_first() {
            return;
        }
        if b.buffer.is_empty() && b.fin && !content.protocol.server_speaks_first() {
            // It closes without having asked (any more).
            return self.closed_without_request(flow, b);
        }
        let generation = self.snapshot.generation;
        if b.errand != 0 {
            // A content worker has it; what has come since is looked at when it comes back.
            return;
        }
        let mut extraction = match b.extraction.take() {
            Some(e) if b.generation == generation => e,
            Some(mut e) => {
                // Other rules ask for other things: from the beginning.
                e.reset(content.protocol);
                b.repeats = b.said;
                e
            }
            None => self.c.splices.extraction(content.protocol),
        };
        b.generation = generation;
        if b.give_up_at == u64::MAX {
            b.give_up(Some(self.now + patience(content)));
        }
        if elsewhere {
            match self.send_away(b, service, extraction) {
                Ok(()) => return,
                Err(back) => extraction = back,
            }
        }
        let snapshot = self.snapshot;
        let progress = read_here(self.c, snapshot, content, service, &mut extraction, &b.buffer, b.fin, &b.header);
        let seen = b.buffer.len();
        self.progressed(flow, b, content, extraction, progress, seen);
    }

    /// Acts on what reading `seen` bytes has come to; more may be here meanwhile.
    pub(super) fn progressed(
        &mut self,
        flow: u32,
        b: &mut Binding,
        content: &Content,
        mut extraction: Box<Extraction>,
        progress: Progress,
        seen: usize,
    ) {
        let service = self.c.table.get(flow).service;
        let waits = self.is_attached(flow) && !b.settled;
        if !extraction.reply().is_empty() {
            let reply = std::mem::take(extraction.reply());
            let again = b.repeats.min(reply.len());
            b.repeats -= again;
            b.said += reply.len() - again;
            if again < reply.len() {
                self.say_to_client(flow, b, &reply[again..]);
            }
        }
        if matches!(progress, Progress::More) && extraction.awaits_continue() && !b.continued && !waits {
            b.continued = true;
            if self.is_direct_guess(flow) {
                // What the director says, the guessed server would have to say again.
                self.give_up_guess(flow, b, true);
            }
            self.say_to_client(flow, b, b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        match progress {
            Progress::More => {
                b.extraction = Some(extraction);
                if !waits && seen >= self.room(service) {
                    self.unreadable(flow, b, content, ExtractError::BodyTooLarge);
                }
            }
            Progress::Decided(read) => {
                self.c.splices.keep_extraction(extraction);
                self.decided(flow, b, read);
            }
            Progress::Failed(e) => {
                self.c.splices.keep_extraction(extraction);
                if waits {
                    // Said when the response before is over.
                    return;
                }
                self.unreadable(flow, b, content, e);
            }
        }
    }

    /// A request that can't be read.
    fn unreadable(&mut self, flow: u32, b: &mut Binding, content: &Content, e: ExtractError) {
        let default = content.binding.on_unparsed == OnUnparsed::Default
            && !e.is_ambiguous()
            && !content.protocol.server_speaks_first();
        // Only a connection that has asked nothing yet can be given away whole.
        let asked = self.is_attached(flow) && !self.c.splices.get(b.entry).is_guess();
        if default && !asked && !content.program.is_empty() {
            let rule = content.program.len() as u32 - 1;
            let replay = Replay::nothing();
            let (method, body) = (Method::Other, BodyFollower::UntilClose);
            let (repeatable, keep_alive) = (false, false);
            let read = Read { rule, method, length: u64::MAX, body, replay, watch: 0, repeatable, keep_alive };
            self.c.splices.unparsed += 1;
            return self.decided(flow, b, read);
        }
        self.c.splices.refuse_unreadable(self.c.table.get(flow).service, e);
        if let Some(ticket) = b.migration.take() {
            return self.decline(flow, b, ticket);
        }
        if content.protocol == Protocol::Http {
            self.give_up_request(flow, b, e.status());
        } else {
            self.abort(flow, b);
        }
    }

    /// Reads, here, what is held of a request.
    pub(super) fn read_on(
        &mut self,
        content: &Content,
        service: u16,
        extraction: &mut Extraction,
        b: &Binding,
    ) -> Progress {
        let snapshot = self.snapshot;
        read_here(self.c, snapshot, content, service, extraction, &b.buffer, b.fin, &b.header)
    }

    /// A rule has taken the request.
    pub(super) fn decided(&mut self, flow: u32, b: &mut Binding, read: Read) {
        if let Some(piece) = b.piece.take() {
            // The copy of its bytes is not needed any more.
            self.c.splices.keep_piece(piece);
        }
        self.note_decision(flow, b, read);
        b.phase = Phase::Hold;
        if !self.defer(b) {
            self.hold(flow, b);
        }
    }

    /// Notes what is known of a request that a rule has taken.
    pub(super) fn note_decision(&mut self, flow: u32, b: &mut Binding, read: Read) {
        let service = self.c.table.get(flow).service;
        self.c.splices.hit(service, read.rule);
        if let Some(content) = self.content(service) {
            self.learn_rule(flow, content, read.rule);
        }
        b.rule = read.rule;
        b.rules = self.c.splices.rules_of(service);
        b.give_up(None);
        b.uncut = read.body == BodyFollower::UntilClose;
        b.cut = read.length;
        b.request = (read.method, read.body);
        (b.repeatable, b.keep_alive) = (read.repeatable, read.keep_alive);
        b.replay_from_start = read.replay;
    }

    /// Goes on with a decided request as soon as the response before it allows.
    pub(super) fn hold(&mut self, flow: u32, b: &mut Binding) {
        if b.phase != Phase::Hold || b.queued {
            return;
        }
        let service = self.c.table.get(flow).service;
        let Some(content) = self.content_of(flow) else {
            if self.is_attached(flow) && !b.settled {
                return;
            }
            self.c.splices.refuse(service, Refusal::Withdrawn);
            return self.give_up_request(flow, b, 503);
        };
        if b.rules != self.c.splices.rules_of(service) {
            // Its rule is a number of rules that are gone.
            b.phase = Phase::Collect;
            b.repeats = b.said;
            return self.collect(flow, b);
        }
        let attached = self.is_attached(flow);
        if attached && self.c.splices.get(b.entry).until_close {
            return;
        }
        if attached && !self.c.splices.get(b.entry).response_known {
            return;
        }
        self.settle(flow, b);
        // The response before it is over when the client has acknowledged its last byte.
        let over = !attached || b.settled;
        let action = content.program.rule(b.rule).map(|(_, action)| action);
        let target = match action {
            Some(Action::Reject { status }) if over => {
                self.count_answer(service, content, status.unwrap_or(0));
                return self.rejected(flow, b, content, *status);
            }
            Some(Action::Redirect { status, url }) if over => {
                self.count_answer(service, content, *status);
                return self.redirected(flow, b, content, *status, url);
            }
            Some(Action::Reject { .. } | Action::Redirect { .. }) => return,
            Some(action) => self.choose(flow, b, content, action),
            None => None,
        };
        let Some(server) = target else {
            if over {
                self.c.splices.refuse(service, Refusal::NoServer);
                self.give_up_request(flow, b, 503);
            }
            return;
        };
        if let Some(action @ Action::Forward { queue: Some(_), .. }) = action
            && !(over && self.passes_queue(flow, b, content, action))
        {
            return;
        }
        b.watch = action.map_or(0, |action| Self::watches(content, action));
        b.toward = Some((action.and_then(Action::group), server));
        if attached && self.c.table.get(flow).server == server {
            if !over && b.extend().is_err() {
                // Its body, of which more has come since the decision, is malformed: said when the response before is over.
                b.phase = Phase::Collect;
                return;
            }
            return self.same_server(flow, b);
        }
        if over {
            self.other_server(flow, b, server);
        }
    }

    /// Counts what a rule answers itself; other protocols than HTTP have no statuses.
    fn count_answer(&mut self, service: u16, content: &Content, status: u16) {
        let status = if content.protocol == Protocol::Http { status } else { 0 };
        if let Some(tally) = self.c.splices.tally(service) {
            tally.answered(status);
        }
    }

    /// The request is for the server that the connection is attached to.
    fn same_server(&mut self, flow: u32, b: &mut Binding) {
        if self.c.splices.get(b.entry).is_guess() {
            self.guessed(flow, b.entry, true);
        } else {
            self.c.splices.reused += 1;
            self.pool_again(flow, b.entry);
        }
        if b.settled {
            // What the director itself has said moves the server's numbers on.
            let end = b.out_end();
            let e = self.c.splices.get_mut(b.entry);
            e.offsets.move_down(end.wrapping_sub(e.offsets.limit[Place::SERVER]));
            b.ack_floor = e.offsets.limit[Place::SERVER];
        }
        self.begin_delivery(flow, b);
        self.deliver(flow, b);
    }

    pub(super) fn speaks_first(&self, service: u16) -> bool {
        self.content(service).is_some_and(|c| c.protocol.server_speaks_first())
    }

    /// Whether a client's segment is a whole request for the server in turn, so that it can pass as it is. `None`: no.
    pub(super) fn read_in_place(
        &mut self,
        batch: &mut Batch,
        i: usize,
        a: &Arrival,
        flow: u32,
        entry: u32,
    ) -> Option<Read> {
        if self.decides_elsewhere() {
            return None;
        }
        let (l3, end) = (usize::from(batch.l3[i]), usize::from(batch.end[i]));
        // Rules look at headers and payload where they stand in the frame.
        let frame = std::mem::take(&mut batch.frames[i]);
        let bytes = frame.bytes();
        let payload = bytes.get(a.payload..end).unwrap_or(&[]);
        let read = self.read_packet(flow, entry, payload, packet_in(bytes, l3, end));
        batch.frames[i] = frame;
        read
    }

    fn read_packet(&mut self, flow: u32, entry: u32, payload: &[u8], packet: &[u8]) -> Option<Read> {
        let service = self.c.table.get(flow).service;
        let content = self.content_of(flow)?;
        let mut extraction = self.c.splices.extraction(content.protocol);
        let snapshot = self.snapshot;
        let progress = read_here(self.c, snapshot, content, service, &mut extraction, payload, false, packet);
        self.c.splices.keep_extraction(extraction);
        let Progress::Decided(mut read) = progress else { return None };
        let guess = self.c.splices.get(entry).is_guess();
        if read.length < payload.len() as u64 || read.body == BodyFollower::UntilClose && !guess {
            return None;
        }
        let present = self.c.table.get(flow).server;
        let action = content.program.rule(read.rule)?.1;
        let (servers, ..) = candidates(content, action)?;
        if guess && *content.sticky(action) == Sticky::Source {
            return None;
        }
        if !servers.contains(&present) || !is_up(snapshot, present) || self.c.splices.get(entry).until_close {
            return None;
        }
        let usable = |s: u16| servers.contains(&s) && is_up(snapshot, s);
        let kept = self.server_of_cookie(service, content, action, servers, payload, &usable);
        if kept.is_some_and(|server| server != present) {
            return None;
        }
        read.watch = Self::watches(content, action);
        // Of what follows the first request, nothing is known.
        let length = if read.body == BodyFollower::UntilClose { payload.len() as u64 } else { read.length };
        if !self.passes_queue_at_once(service, content, action, length) {
            return None;
        }
        if let Some(tally) = self.c.splices.tally(service) {
            tally.decided(read.rule);
            tally.sent(action.group(), present);
        }
        self.learn_rule(flow, content, read.rule);
        if guess {
            self.guessed(flow, entry, true);
        } else {
            self.c.splices.reused += 1;
        }
        Some(read)
    }
}
