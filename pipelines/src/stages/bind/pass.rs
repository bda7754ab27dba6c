//! Segments that pass with their numbers moved, and what is seen of them on the way: where messages end.

use super::Desk;
use crate::extract::BodyFollower;
use crate::splice::{Arrival, Binding, Seen, Taken};
use crate::tally::Refusal;
use lcs_dataplane::batch::Batch;
use lcs_dataplane::checksum::Difference;
use lcs_dataplane::flow::{FlowFlags, Place, TcpState};
use lcs_dataplane::headers::options::only_known;
use lcs_dataplane::headers::tcp::Tcp;
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, RST, SYN, URG};
use lcs_dataplane::headers::{Kind, ipv4, parse};
use lcs_dataplane::port::Port;
use lcs_dataplane::{DropReason, Verdict};

/// What is to become of bytes that belong to the next request.
struct Tail {
    /// Where that request begins.
    seq: u32,
    /// Offset in the frame, and number, of its first byte that is here: later than `seq` if something is missing.
    from: usize,
    at: u32,
}

impl<P: Port> Desk<'_, P> {
    /// A client's segment of an attached connection. `b`: its binding, while the request before is being delivered.
    pub(super) fn pass_from_client(
        &mut self,
        batch: &mut Batch,
        i: usize,
        a: &Arrival,
        flow: u32,
        entry: u32,
    ) -> Verdict {
        if self.is_pooled(flow)
            && let Some(verdict) = self.over_pool(batch, i, a, flow, entry)
        {
            return verdict;
        }
        let mut none = None;
        self.client_passes(batch, i, a, flow, entry, &mut none)
    }

    /// The same while the connection has a binding that delivers.
    pub(super) fn pass_beside(
        &mut self,
        batch: &mut Batch,
        i: usize,
        a: &Arrival,
        flow: u32,
        b: &mut Binding,
    ) -> Verdict {
        let entry = b.entry;
        self.client_passes(batch, i, a, flow, entry, &mut Some(b))
    }

    fn client_passes(
        &mut self,
        batch: &mut Batch,
        i: usize,
        a: &Arrival,
        flow: u32,
        entry: u32,
        b: &mut Option<&mut Binding>,
    ) -> Verdict {
        let place = Place::new(flow, Place::CLIENT);
        if a.flags & RST != 0 {
            return self.reset_passes(batch, i, a, entry, place);
        }
        let e = self.c.splices.get(entry);
        let (offsets, limit) = (e.offsets, e.offsets.limit[Place::CLIENT]);
        if let Some(b) = b
            && (offsets.ack(Place::CLIENT, a.ack).wrapping_sub(b.ack_floor) as i32) < 0
        {
            // About what the server before has said: this one knows no such number.
            if a.len == 0 && a.flags & FIN == 0 {
                return Verdict::Drop(DropReason::OutOfWindow);
            }
            let floor = offsets.seq(Place::SERVER, b.ack_floor);
            set_ack(batch, i, floor, a.window);
        }
        if let Some(b) = b
            && a.len == 0
            && a.flags & (SYN | FIN) == 0
        {
            // The client has sent all that the director has taken from it. A server that has no room for that takes no
            // acknowledgement with a number from beyond its window either (RFC 9293 §3.10.7.4), and would wait for it for ever.
            let edge = b.start.wrapping_add((b.delivered + u64::from(b.server_window)) as u32);
            if a.seq.wrapping_sub(edge) as i32 > 0 {
                set_seq(batch, i, b.start.wrapping_add(b.sent_within_window() as u32));
            }
        }
        let e = self.c.splices.get(entry);
        if e.offsets.open || a.len == 0 || a.flags & SYN != 0 || limit.wrapping_sub(a.end()) as i32 >= 0 {
            return self.pass_and_look(batch, i, place, entry);
        }
        if !self.is_intact(batch, i) {
            return Verdict::Drop(DropReason::BadTcpChecksum);
        }
        let end = usize::from(batch.end[i]);
        let in_body = self.c.splices.follower(entry).is_some_and(|(_, f)| !f.request.is_done());
        let next = match self.c.splices.follower(entry) {
            Some((_, f)) if in_body => f.next[Place::CLIENT],
            _ => limit,
        };
        let skipped = next.wrapping_sub(a.seq) as i32;
        if skipped < 0 && (in_body || b.is_some() || !self.c.splices.get(entry).response_known) {
            return Verdict::Drop(DropReason::OutOfOrder);
        }
        let mut tail = if skipped < 0 {
            Tail { seq: next, from: a.payload, at: a.seq }
        } else {
            Tail { seq: next, from: a.payload + skipped as usize, at: next }
        };
        if in_body {
            if self.is_loose(entry) {
                // None of what follows could be read, ever.
                return self.end_both(batch, i, a, flow, entry, b);
            }
            let said = offsets.seq(Place::SERVER, offsets.limit[Place::SERVER]);
            // How far a response without a known end has come is not followed; no request comes behind it either.
            let ahead = !self.c.splices.get(entry).until_close && a.ack.wrapping_sub(said) as i32 > 0;
            if a.flags & ACK == 0 || ahead {
                // RFC 9293 §3.10.7.4: its server would not take it, and could be sent other bytes in its place.
                return Verdict::Drop(DropReason::OutOfWindow);
            }
            let stamped = self.c.splices.get(entry).stamped;
            if a.flags & URG != 0 || !is_plain(batch, i, stamped) || !self.is_sure(entry, a) {
                // The server could take other bytes in their place for the next ones.
                return Verdict::Drop(DropReason::OutOfOrder);
            }
            let rest = batch.frames[i].bytes().get(tail.from..end).unwrap_or(&[]);
            let Some((e, f)) = self.c.splices.follower(entry) else { return Verdict::Drop(DropReason::NoFlow) };
            let seen = f.request(rest, &mut e.offsets);
            e.follow_floor(Place::CLIENT, f.next[Place::CLIENT]);
            match seen {
                // Two servers might disagree about where this request ends.
                Err(_) => return self.end_both(batch, i, a, flow, entry, b),
                Ok(Seen::Ends(used)) if used < rest.len() => {
                    let seq = next.wrapping_add(used as u32);
                    tail = Tail { seq, from: tail.from + used, at: seq };
                }
                Ok(_) => {
                    let verdict = self.pass_and_look(batch, i, place, entry);
                    if verdict == Verdict::Forward {
                        self.refer(entry, a);
                    }
                    return verdict;
                }
            }
        } else if self.is_filter(flow) {
            // Its next request comes in a message of the director's, which has read it.
            return self.only_before(batch, i, a, place, &tail);
        } else if skipped == 0 && b.is_none() {
            // The whole segment is the next request: if it goes to the same server it may pass as it is.
            if let Some(verdict) = self.request_passes(batch, i, a, flow, entry) {
                return verdict;
            }
        }
        if self.is_filter(flow) {
            return self.only_before(batch, i, a, place, &tail);
        }
        self.next_begins(batch, i, a, flow, entry, &tail, b)
    }

    /// At a filter: what is in a segment before the next request passes, and no more.
    fn only_before(&mut self, batch: &mut Batch, i: usize, a: &Arrival, place: Place, tail: &Tail) -> Verdict {
        let before = tail.from > a.payload && shorten(batch, i, tail.from);
        if before { self.pass(batch, i, place) } else { Verdict::Drop(DropReason::OutOfOrder) }
    }

    /// The next request, whole in one segment and for the server in turn: nothing is buffered, nothing is answered.
    fn request_passes(&mut self, batch: &mut Batch, i: usize, a: &Arrival, flow: u32, entry: u32) -> Option<Verdict> {
        let e = self.c.splices.get(entry);
        if !e.response_known || e.until_close || a.flags & FIN != 0 {
            return None;
        }
        let response_end = e.offsets.limit[Place::SERVER];
        // What has been read must be what the server takes: a segment that it might ignore would let another one, with the
        // same numbers and other bytes, pass unread.
        let acknowledges = a.flags & ACK != 0 && a.ack == e.offsets.seq(Place::SERVER, response_end);
        let stamped = e.stamped;
        if !acknowledges || a.flags & URG != 0 || !is_plain(batch, i, stamped) || !self.is_sure(entry, a) {
            return None;
        }
        let read = self.read_in_place(batch, i, a, flow, entry)?;
        if read.body == BodyFollower::UntilClose {
            // Decided once and for all.
            self.c.splices.get_mut(entry).offsets.open = true;
            let verdict = self.pass_and_look(batch, i, Place::new(flow, Place::CLIENT), entry);
            if verdict != Verdict::Forward {
                self.c.splices.get_mut(entry).offsets.open = false;
            } else if !self.c.table.get(flow).flags.has(FlowFlags::CLOSED) {
                self.become_layer4(flow, entry);
            }
            return Some(verdict);
        }
        let request_end = a.seq.wrapping_add(read.length as u32);
        self.c.splices.follow(entry).begin(read.method, read.body, [request_end, response_end], read.watch);
        let e = self.c.splices.get_mut(entry);
        let before = std::mem::replace(&mut e.offsets.limit[Place::CLIENT], request_end);
        e.response_known = false;
        let verdict = self.pass_and_look(batch, i, Place::new(flow, Place::CLIENT), entry);
        if verdict != Verdict::Forward {
            // It has gone nowhere, so whatever comes with these numbers is still to be read.
            let e = self.c.splices.get_mut(entry);
            e.offsets.limit[Place::CLIENT] = before;
            e.response_known = true;
            self.c.splices.unfollow(entry);
        } else {
            self.refer(entry, a);
        }
        Some(verdict)
    }

    /// Bytes of the next request: they are held, and what was before them in the segment goes on.
    #[allow(clippy::too_many_arguments)]
    fn next_begins(
        &mut self,
        batch: &mut Batch,
        i: usize,
        a: &Arrival,
        flow: u32,
        entry: u32,
        tail: &Tail,
        b: &mut Option<&mut Binding>,
    ) -> Verdict {
        let end = usize::from(batch.end[i]);
        let bytes = batch.frames[i].bytes().get(tail.from..end).unwrap_or(&[]).to_vec();
        let rest = Arrival { seq: tail.at, len: bytes.len(), payload: tail.from, ..*a };
        if let Some(b) = b {
            // The one before is still being delivered; its buffer goes on with these bytes if nothing is missing between.
            if b.next() != tail.seq || b.cut != b.buffer.len() as u64 {
                return Verdict::Drop(DropReason::OutOfOrder);
            }
            if self.hold_bytes(&rest, &bytes, flow, b) == Taken::New {
                b.header.clear();
                b.header.extend_from_slice(super::decide::packet_of(batch, i));
            }
            if b.may_ack {
                self.acknowledge(flow, b);
            }
            self.acknowledge_server(flow, b);
            return Verdict::Consume;
        }
        if self.c.splices.get(entry).until_close {
            let state = self.c.table.get(flow).state;
            let e = self.c.splices.get(entry);
            let end = e.offsets.seq(Place::SERVER, e.offsets.limit[Place::SERVER]);
            let over = e.response_known && a.ack.wrapping_sub(end) as i32 >= 0;
            if over || matches!(state, TcpState::FinWait | TcpState::LastAck | TcpState::TimeWait) {
                // The server has closed, or has answered without the whole request: it will not answer this, and the client must know.
                return self.end_both(batch, i, a, flow, entry, b);
            }
            return Verdict::Drop(DropReason::OutOfOrder);
        }
        let o = self.c.splices.get(entry).offsets;
        let said = o.seq(Place::SERVER, o.limit[Place::SERVER]);
        if a.flags & ACK == 0 || a.ack.wrapping_sub(said) as i32 > 0 {
            // RFC 9293 §3.10.7.4: it acknowledges nothing, or what was never sent; its data does not count either.
            return Verdict::Drop(DropReason::OutOfWindow);
        }
        let before = tail.from > a.payload;
        let service = self.c.table.get(flow).service;
        let Some(mut b) = self.c.splices.bind(entry, service) else {
            self.c.splices.refuse(service, Refusal::TooMany);
            return Verdict::Drop(DropReason::RequestsFull);
        };
        b.start = tail.seq;
        if tail.at == tail.seq {
            self.read_stamps(a, &mut b);
        }
        b.client_ack = a.ack;
        b.client_window = a.window;
        b.may_ack = false;
        b.settled = false;
        b.header.extend_from_slice(super::decide::packet_of(batch, i));
        b.ack_floor = self.c.splices.get(entry).offsets.ack(Place::CLIENT, a.ack);
        self.settle(flow, &mut b);
        if b.settled
            && let Some(content) = self.content_of(flow)
        {
            b.give_up(Some(self.now + super::decide::patience(content)));
        }
        self.hold_bytes(&rest, &bytes, flow, &mut b);
        let verdict = if before && shorten(batch, i, tail.from) {
            self.pass_and_look(batch, i, Place::new(flow, Place::CLIENT), entry)
        } else {
            Verdict::Consume
        };
        self.collect(flow, &mut b);
        if !b.done && b.phase != crate::splice::Phase::Answer {
            if b.may_ack {
                self.acknowledge(flow, &mut b);
            }
            if verdict == Verdict::Consume && self.is_attached(flow) && b.phase != crate::splice::Phase::Connect {
                self.acknowledge_server(flow, &b);
            }
        }
        self.c.splices.put(b);
        verdict
    }

    /// Takes bytes into a binding's buffer.
    pub(super) fn hold_bytes(&mut self, a: &Arrival, bytes: &[u8], flow: u32, b: &mut Binding) -> Taken {
        let room = self.room(self.c.table.get(flow).service).saturating_sub(b.buffer.len());
        let room = if self.c.splices.has_room(bytes.len()) { room } else { 0 };
        let before = b.holds();
        let taken = b.take(a, bytes, a.flags & FIN != 0, room);
        if taken == Taken::New && b.fin {
            self.moved_by(flow, FIN | ACK, Place::CLIENT);
        }
        // What was kept beyond a gap may have been let go.
        let held = (b.held + b.holds()).saturating_sub(before);
        self.c.splices.buffered = (self.c.splices.buffered + held).saturating_sub(b.held);
        b.held = held;
        taken
    }

    /// Once the client has acknowledged the whole response before, the server has had the whole request before: what
    /// follows may be acknowledged, and the director's own words have their place.
    pub(super) fn settle(&mut self, flow: u32, b: &mut Binding) {
        let e = self.c.splices.get(b.entry);
        if b.settled || !self.is_attached(flow) || !e.response_known {
            return;
        }
        let end = e.offsets.seq(Place::SERVER, e.offsets.limit[Place::SERVER]);
        if b.client_ack.wrapping_sub(end) as i32 >= 0 {
            b.may_ack = true;
            b.settled = true;
            b.out_start = end;
        }
    }

    /// A server's segment of an attached connection.
    pub(super) fn pass_from_server(
        &mut self,
        batch: &mut Batch,
        i: usize,
        a: &Arrival,
        flow: u32,
        entry: u32,
        mut b: Option<&mut Binding>,
    ) -> Verdict {
        let place = Place::new(flow, Place::SERVER);
        if a.flags & (RST | FIN) != 0 && a.flags & SYN == 0 && self.c.splices.get(entry).is_guess() {
            return self.guess_ends(a, flow, entry);
        }
        if a.flags & RST != 0 {
            let verdict = self.reset_passes(batch, i, a, entry, place);
            if let Some(b) = b
                && verdict == Verdict::Forward
                && self.c.table.get(flow).flags.has(FlowFlags::CLOSED)
            {
                b.done = true;
            }
            return verdict;
        }
        if a.flags & SYN != 0 {
            if self.c.splices.get(entry).is_guess() {
                return self.acknowledge_guess(batch, i, flow, entry);
            }
            // The handshake's answer, sent again: the next acknowledgement that passes ends that.
            return Verdict::Drop(DropReason::OutOfWindow);
        }
        if a.len > 0 && self.is_pooled(flow) && self.is_of_before(Place::SERVER, a, entry) {
            return self.pooled_before(batch, i, flow, entry);
        }
        let e = self.c.splices.get(entry);
        let limit = e.offsets.limit[Place::SERVER];
        let known = e.offsets.open || e.until_close || a.len == 0 || limit.wrapping_sub(a.end()) as i32 >= 0;
        if !known {
            if !self.is_intact(batch, i) {
                return Verdict::Drop(DropReason::BadTcpChecksum);
            }
            let end = usize::from(batch.end[i]);
            let Some((e, f)) = self.c.splices.follower(entry).filter(|(e, _)| !e.response_known) else {
                // The response is over, and nobody has asked for more.
                return self.end_both(batch, i, a, flow, entry, &mut b);
            };
            let skipped = f.next[Place::SERVER].wrapping_sub(a.seq) as i32;
            if skipped < 0 {
                return Verdict::Drop(DropReason::OutOfOrder);
            }
            let rest = batch.frames[i].bytes().get(a.payload + skipped as usize..end).unwrap_or(&[]);
            let mut surplus = false;
            match f.response(rest, &mut e.offsets) {
                Ok(Seen::More) => {}
                // Where a response ends can't be said: it ends with the connection.
                Err(_) | Ok(Seen::UntilClose) => e.until_close = true,
                Ok(Seen::Tunnel) => e.offsets.open = true,
                Ok(Seen::Ends(used)) => {
                    e.response_known = true;
                    surplus = used < rest.len();
                    // An answer before the whole request is there: the rest may never be read, so nothing may follow it.
                    let lacks = e.offsets.limit[Place::CLIENT].wrapping_sub(e.offsets.ack(Place::SERVER, a.ack));
                    e.until_close |= !f.request.is_done() || lacks as i32 > 0;
                }
            }
            let cookie = f.cookie();
            let stays = e.offsets.open || e.until_close || f.response.closes();
            let endless = e.offsets.open || f.response.until_close();
            e.follow_floor(Place::SERVER, f.next[Place::SERVER]);
            if e.offsets.open || e.response_known && f.request.is_done() {
                self.c.splices.unfollow(entry);
            }
            if let Some(cookie) = cookie {
                self.learn(flow, cookie);
            }
            if stays {
                self.leaves_pool(entry);
            }
            if endless {
                // Nothing will show any more how far it has come.
                self.c.table.get_mut(flow).flags.set(FlowFlags::POOLED, false);
            }
            if surplus {
                return self.end_both(batch, i, a, flow, entry, &mut b);
            }
        }
        let verdict = self.pass_and_look(batch, i, place, entry);
        if !known && verdict == Verdict::Forward {
            // The rest of the response may need nobody.
            self.c.splices.lend(self.c.table.get_mut(flow), entry, Place::SERVER, a.end(), a.ack);
        }
        if a.flags & FIN != 0 && verdict == Verdict::Forward {
            self.c.splices.get_mut(entry).until_close = true;
            self.leaves_pool(entry);
        }
        if let Some(b) = b {
            if verdict == Verdict::Forward && b.may_ack {
                self.raise_ack(batch, i, b);
                if b.is_to_tell() && a.flags & ACK != 0 && self.is_intact(batch, i) {
                    b.tell(None);
                }
            }
            self.settle(flow, b);
        }
        verdict
    }

    /// A reset passes if its number can be right (RFC 5961 §3.2, in its sender's space) and it arrived whole.
    pub(super) fn reset_passes(
        &mut self,
        batch: &mut Batch,
        i: usize,
        a: &Arrival,
        entry: u32,
        place: Place,
    ) -> Verdict {
        /// How far from the number that is known one may be that is right: what is on the way at once.
        const NEAR: u32 = 1 << 20;
        if !self.is_intact(batch, i) {
            return Verdict::Drop(DropReason::BadTcpChecksum);
        }
        let e = self.c.splices.get(entry);
        let near = e.offsets.limit[place.side()].wrapping_sub(a.seq).wrapping_add(NEAR) <= 2 * NEAR;
        if e.offsets.open || near {
            return self.pass_and_look(batch, i, place, entry);
        }
        // Its receiver decides; here nothing ends by a guess.
        batch.tcp_flags[i] &= !RST;
        let verdict = self.pass_and_look(batch, i, place, entry);
        batch.tcp_flags[i] |= RST;
        verdict
    }

    /// Forwards a frame, and ends the connection's legs if that was its end.
    pub(super) fn pass_and_look(&mut self, batch: &mut Batch, i: usize, place: Place, entry: u32) -> Verdict {
        let verdict = self.pass(batch, i, place);
        if self.c.table.get(place.flow()).flags.has(FlowFlags::CLOSED) {
            self.end_legs(entry);
        }
        verdict
    }

    /// Resets both sides: what one of them says has no meaning that both would share.
    fn end_both(
        &mut self,
        batch: &Batch,
        i: usize,
        a: &Arrival,
        flow: u32,
        entry: u32,
        b: &mut Option<&mut Binding>,
    ) -> Verdict {
        let side = Place(batch.flow[i]).side();
        let o = self.c.splices.get(entry).offsets;
        // The numbers that each of them expects next, as far as this segment shows them.
        let (mine, other) = ((a.ack, a.seq), (o.seq(side, a.seq), o.ack(side, a.ack)));
        let (client, server) = if side == Place::CLIENT { (mine, other) } else { (other, mine) };
        self.reset_client(flow, client.0, client.1);
        self.reset_server(flow, server.0, server.1);
        if let Some(b) = b {
            b.done = true;
        }
        self.close(flow);
        Verdict::Drop(DropReason::BadFraming)
    }

    /// The director has acknowledged more than the server has: the client must not see that taken back.
    fn raise_ack(&mut self, batch: &mut Batch, i: usize, b: &Binding) {
        // As it stands in the frame now, in the client's numbers.
        let at = usize::from(batch.l4[i]) + 8;
        let Some(ack) = batch.frames[i].bytes().get(at..).and_then(|b| b.first_chunk()) else { return };
        if batch.tcp_flags[i] & ACK == 0 {
            return;
        }
        let flow = b.entry;
        let acknowledged = self.acknowledged(flow, b);
        let behind = acknowledged.wrapping_sub(u32::from_be_bytes(*ack)) as i32;
        if behind <= 0 {
            return;
        }
        // What it holds is in its own window; the server's, less what it lacks, would take back what was opened.
        let window = self.own_window(flow, b.buffer.len(), b.entry);
        set_ack(batch, i, acknowledged, window);
    }
}

/// Whether every server takes a frame's TCP segment if its numbers are right: it will arrive, and has no options that
/// could make it be ignored; timestamps are looked at apart.
pub(super) fn is_plain(batch: &Batch, i: usize, stamped: bool) -> bool {
    /// Routers that may stand before a server, with some to spare.
    const HOPS: u8 = 32;
    let (l3, l4) = (usize::from(batch.l3[i]), usize::from(batch.l4[i]));
    let b = batch.frames[i].bytes();
    let (header, hops) = if matches!(batch.kind[i], Kind::Transport6) { (40, l3 + 7) } else { (20, l3 + 8) };
    let Some(Ok(t)) = b.get(l4..usize::from(batch.end[i])).map(Tcp::parse) else { return false };
    l4 - l3 == header && b.get(hops).is_some_and(|n| *n >= HOPS) && only_known(t.options(), stamped)
}

/// Writes an acknowledgement number and a window into a segment.
fn set_ack(batch: &mut Batch, i: usize, ack: u32, window: u16) {
    edit(batch, i, |numbers| {
        numbers[4..8].copy_from_slice(&ack.to_be_bytes());
        numbers[10..].copy_from_slice(&window.to_be_bytes());
    });
}

/// Writes a sequence number into a segment.
fn set_seq(batch: &mut Batch, i: usize, seq: u32) {
    edit(batch, i, |numbers| numbers[..4].copy_from_slice(&seq.to_be_bytes()));
}

/// Changes bytes 4 to 15 of a segment's header (both numbers, flags, window), and its checksum by as much.
fn edit(batch: &mut Batch, i: usize, change: impl FnOnce(&mut [u8; 12])) {
    let l4 = usize::from(batch.l4[i]);
    let Some(h) = batch.frames[i].bytes_mut().get_mut(l4..l4 + 20) else { return };
    let Some(numbers) = h[4..].first_chunk_mut::<12>() else { return };
    let old = *numbers;
    change(numbers);
    let d = Difference::NONE.replacing(&old, &numbers[..]);
    let sum = u16::from_ne_bytes([h[16], h[17]]);
    h[16..18].copy_from_slice(&d.apply(sum).to_ne_bytes());
}

/// Cuts a frame's payload off from byte `to` on, and makes its lengths and checksums anew. `false` when it can't be.
pub(super) fn shorten(batch: &mut Batch, i: usize, to: usize) -> bool {
    let (l3, l4) = (usize::from(batch.l3[i]), usize::from(batch.l4[i]));
    let v6 = matches!(batch.kind[i], Kind::Transport6);
    let Ok(end) = u16::try_from(to) else { return false };
    let frame = &mut batch.frames[i];
    if to < l4 + 20 || !frame.set_len(end) {
        return false;
    }
    batch.end[i] = end;
    let b = frame.bytes_mut();
    // No FIN: it comes after what was cut off.
    b[l4 + 13] &= !FIN;
    batch.tcp_flags[i] &= !FIN;
    if v6 {
        b[l3 + 4..l3 + 6].copy_from_slice(&((to - l3 - 40) as u16).to_be_bytes());
    } else {
        b[l3 + 2..l3 + 4].copy_from_slice(&((to - l3) as u16).to_be_bytes());
        if let Ok(mut ip) = ipv4::Ipv4::parse(&mut b[l3..]) {
            ip.fill_checksum();
        }
    }
    let Ok(parsed) = parse(b, false) else { return false };
    parse::fill_transport_checksum(b, &parsed)
}
