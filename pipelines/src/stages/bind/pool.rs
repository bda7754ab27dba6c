//! Pooled binding: a request goes out on a connection to its server that is open already, and when the response is complete
//! and acknowledged, the connection waits for the next request of any client (SPLICING, Keep-alive, last paragraph).
//!
//! Both directions carry offsets. A number from before the present request belongs to another client, or to another
//! server: no data with such a number passes. What goes out on a connection that had stood idle is kept until the first
//! byte of the response comes, and only what may be sent twice goes out on one, so that a server that closes it just then
//! costs nobody anything.

use super::super::schedule::{free_source, server_endpoint};
use super::decide::is_up;
use super::leg::LEG_WINDOW;
use super::stamps::agrees;
use super::{Desk, syn_options};
use crate::command::Event;
use crate::content::Pool;
use crate::splice::pool::{Doing, Pooled, marked, unmarked};
use crate::splice::{Arrival, Binding, Entry, OWN_SCALE};
use crate::tally::PoolTally;
use lcs_dataplane::batch::Batch;
use lcs_dataplane::flow::{FlowFlags, Key, Place, TcpState};
use lcs_dataplane::headers::options::SynOptions;
use lcs_dataplane::headers::protocol::TCP;
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, RST, SYN};
use lcs_dataplane::port::Port;
use lcs_dataplane::splice::{Offer, Payload, Segment, Stamps};
use lcs_dataplane::worker::Nanos;
use lcs_dataplane::{DropReason, Verdict};
use std::net::SocketAddr;

/// Between two looks at the pools, and pools looked after in one of them.
const LOOK: (Nanos, usize) = (1_000_000, 16);
/// Of one pool, at one look: connections opened, and idle ones looked at.
const AT_ONCE: usize = 8;
/// How long a server has to answer a connection that is opened ahead.
const PATIENCE: Nanos = 3_000_000_000;
/// Signs of life that a server may owe.
const PROBES: u8 = 3;
/// When a SYN of these is sent again.
const AGAIN: Nanos = 1_000_000_000;
/// Times that a request is sent again on a connection that had stood idle, before the server is taken to have forgotten it.
const RETRIES: u8 = 4;

/// What is done to windows between this client and a server that was told the director's own scale, and whose own is
/// `theirs`; `None` where neither of these two scales.
pub(super) fn shifts(e: &Entry, theirs: Option<u8>) -> (i8, i8) {
    let clients = e.offer().scale.unwrap_or(0) as i8;
    let own = if e.offer().scale.is_some() { e.own_scale as i8 } else { 0 };
    match theirs {
        Some(theirs) => (clients - OWN_SCALE as i8, theirs.min(14) as i8 - own),
        None => (clients, -own),
    }
}

/// MSS that a pool tells servers.
fn mss(pool: &Pool, v6: bool) -> u16 {
    // The header is 20 bytes longer.
    if v6 { pool.mss - 20 } else { pool.mss }
}

impl<P: Port> Desk<'_, P> {
    /// Whether a flow's connection to its server comes from a pool, or is to go to one; between two requests, whether it was so.
    pub(super) fn is_pooled(&self, flow: u32) -> bool {
        self.c.table.get(flow).flags.has(FlowFlags::POOLED)
    }

    fn pool_tally(&mut self, service: u16) -> Option<&mut PoolTally> {
        Some(&mut self.c.splices.tally(service)?.pool)
    }

    /// The pool of a service, if this client can do all that its connections have been opened with.
    pub(super) fn pool_for(&self, service: u16, entry: u32) -> Option<&Pool> {
        let pool = self.content(service)?.binding.scheme.pool()?;
        let e = self.c.splices.get(entry);
        let offer = e.offer();
        let v6 = self.c.table.get(entry).is_v6();
        let same = e.stamped == self.content(service).is_some_and(agrees);
        (same && offer.sack && offer.mss >= mss(pool, v6)).then_some(pool)
    }

    /// What the SYN to a server offers: what the client has offered, or what every client of a pool can do.
    pub(super) fn offer_to_server(&self, flow: u32, entry: u32) -> Offer {
        let offer = self.c.splices.get(entry).offer();
        if !self.is_pooled(flow) {
            return offer;
        }
        let f = self.c.table.get(flow);
        let pool = self.content(f.service).and_then(|content| content.binding.scheme.pool());
        let mss = pool.map_or(offer.mss, |pool| mss(pool, f.is_v6()).min(offer.mss));
        Offer { mss, scale: Some(OWN_SCALE), sack: true }
    }

    /// Whether a client's connection to its server is to go back to a pool.
    pub(super) fn has_lent(&self, entry: u32) -> bool {
        unmarked(self.c.splices.get(entry).main).is_some()
    }

    /// A share of a number of the director's: what this worker has of it.
    fn share(&self, n: u32) -> usize {
        n.div_ceil(u32::from(self.c.settings.workers.max(1))) as usize
    }

    /// Where a service's server is, if it may be used by full NAT.
    fn pool_endpoint(&self, service: u16, server: u16) -> Option<SocketAddr> {
        let service = self.snapshot.services.get(usize::from(service)).and_then(Option::as_ref)?;
        let server = self.snapshot.servers.get(usize::from(server)).and_then(Option::as_ref)?;
        (server.forward == crate::snapshot::Forward::FullNat).then(|| server_endpoint(server, service.port))
    }

    /// Gives a request an open connection to its server. `false`: there is none, or this request must have one of its own.
    pub(super) fn lend(&mut self, flow: u32, b: &mut Binding, server: u16) -> bool {
        let service = self.c.table.get(flow).service;
        if self.pool_for(service, b.entry).is_none() {
            return false;
        }
        let whole = !b.uncut && b.cut <= b.buffer.len() as u64;
        let Some(to) = self.pool_endpoint(service, server).filter(|_| b.repeatable && whole) else { return false };
        while let Some(id) = self.c.splices.pools.latest(service, server) {
            let Some(&Pooled { entry: leg, scale, sack, requests, mss, .. }) = self.c.splices.pools.get(id) else {
                return false;
            };
            let e = self.c.splices.get(b.entry);
            if mss > e.offer().mss || e.stamped != self.c.splices.get(leg).stamped {
                // From before the setting was changed.
                return false;
            }
            // A slot may have a new owner.
            let is_there = self.c.table.keys(leg).and_then(|keys| keys.server).is_some_and(|k| k.source() == to);
            let e = self.c.splices.get(b.entry);
            let (shifts, blank) = (shifts(e, scale), e.offer().sack && !sack);
            if !is_there || !self.adopt(flow, b, leg, shifts, blank, true) {
                self.end_leg(leg);
                continue;
            }
            self.c.splices.pools.now(id, Doing::Lent, b.entry, self.now);
            self.c.close(leg);
            if let Some(connection) = self.c.splices.pools.get_mut(id) {
                connection.requests = requests.saturating_add(1);
            }
            self.c.table.get_mut(flow).flags.set(FlowFlags::POOLED, true);
            self.begins_with(b, id);
            b.ack_floor = self.c.splices.get(b.entry).offsets.limit[Place::SERVER];
            b.lent = true;
            self.c.splices.reused += 1;
            self.pool_tally(service).into_iter().for_each(|tally| tally.reused += 1);
            return true;
        }
        false
    }

    /// From the present request on, the connection to the server is this client's.
    fn begins_with(&mut self, b: &Binding, id: u32) {
        let numbers = [b.start, b.out_end()].map(|next| next.wrapping_sub(1));
        let e = self.c.splices.get_mut(b.entry);
        (e.numbers, e.main) = (numbers, marked(id));
    }

    /// A connection that was opened for a request will go to the pool.
    pub(super) fn enters_pool(&mut self, flow: u32, b: &Binding, o: &SynOptions) {
        let f = self.c.table.get(flow);
        let (service, server) = (f.service, f.server);
        let connection = Pooled {
            doing: Doing::Lent,
            service,
            server,
            entry: b.entry,
            opened: self.now,
            since: self.now,
            asked: self.now,
            unanswered: 0,
            requests: 1,
            scale: o.scale,
            sack: o.sack,
            mss: self.offer_to_server(flow, b.entry).mss,
        };
        match self.c.splices.pools.add(connection) {
            Some(id) => {
                self.begins_with(b, id);
                self.pool_tally(service).into_iter().for_each(|tally| tally.fresh += 1);
            }
            // As many as may be: it stays with its client.
            None => self.c.table.get_mut(flow).flags.set(FlowFlags::POOLED, false),
        }
    }

    /// Another request goes out on the connection before it has been given back.
    pub(super) fn pool_again(&mut self, flow: u32, entry: u32) {
        let id = unmarked(self.c.splices.get(entry).main).filter(|_| self.is_pooled(flow));
        if let Some(connection) = id.and_then(|id| self.c.splices.pools.get_mut(id)) {
            connection.requests = connection.requests.saturating_add(1);
        }
    }

    /// A connection stays with its client to its end. What it was before is remembered: numbers of then do not pass still.
    pub(super) fn leaves_pool(&mut self, entry: u32) {
        if let Some(id) = unmarked(self.c.splices.get(entry).main) {
            self.c.splices.pools.gone(id, entry);
            self.c.splices.get_mut(entry).main = crate::splice::NIL;
        }
    }

    /// The response is complete, and its client has it: the connection to the server waits for whoever asks next.
    pub(super) fn give_back(&mut self, flow: u32, entry: u32) {
        let e = *self.c.splices.get(entry);
        let Some(id) = unmarked(e.main) else { return };
        let f = self.c.table.get(flow);
        let (service, server) = (f.service, f.server);
        let start = e.offsets.limit[Place::CLIENT];
        let end = e.offsets.seq(Place::SERVER, e.offsets.limit[Place::SERVER]);
        let leg = self.set_aside(flow, entry, start, true, true);
        self.c.table.get_mut(flow).flags.set(FlowFlags::POOLED, true);
        let m = self.c.splices.get_mut(entry);
        m.numbers = [start, end].map(|next| next.wrapping_sub(1));
        m.main = crate::splice::NIL;
        let Some(leg) = leg else { return };
        self.c.splices.pool(leg, service, id);
        self.c.splices.pools.now(id, Doing::Idle, leg, self.now);
        let idle = self.c.splices.pools.of(service, server).map_or(0, |pool| pool.idle.len());
        let over = match (self.pool_settings(service, server), self.c.splices.pools.get(id)) {
            (Some(pool), Some(c)) => c.requests >= pool.requests || idle > self.share(pool.most.max(pool.idle)),
            _ => true,
        };
        if over {
            self.retire(id);
        }
    }

    /// How a pool is to be kept, if it is to be kept at all.
    fn pool_settings(&mut self, service: u16, server: u16) -> Option<Pool> {
        let wanted = self.c.splices.pools.of(service, server).is_some_and(|pool| pool.wanted);
        let pool = self.content(service)?.binding.scheme.pool()?;
        (wanted && is_up(self.snapshot, server) && self.pool_endpoint(service, server).is_some()).then(|| pool.clone())
    }

    /// Whether a segment's data begins before the present request, in its sender's numbers.
    pub(super) fn is_of_before(&self, side: usize, a: &Arrival, entry: u32) -> bool {
        let e = self.c.splices.get(entry);
        let seq = if side == Place::SERVER { e.offsets.seq(side, a.seq) } else { a.seq };
        (seq.wrapping_sub(e.numbers[side].wrapping_add(1)) as i32) < 0
    }

    /// Data that a server sends again from before the present request: another client has it.
    pub(super) fn pooled_before(&mut self, batch: &mut Batch, i: usize, flow: u32, entry: u32) -> Verdict {
        let Some(key) = self.key_toward(flow, Place::SERVER) else { return Verdict::Drop(DropReason::NoFlow) };
        if !self.is_intact(batch, i) {
            return Verdict::Drop(DropReason::BadTcpChecksum);
        }
        let e = self.c.splices.get(entry);
        let seq = e.offsets.seq(Place::CLIENT, e.numbers[0].wrapping_add(1));
        let ack = e.offsets.ack(Place::CLIENT, e.numbers[1].wrapping_add(1));
        let segment = Segment { key, flags: ACK, seq, ack, window: LEG_WINDOW, options: &[], payload: Payload::NONE };
        self.answer_on(batch, i, Place::new(flow, Place::SERVER), segment)
    }

    /// A client's segment on a connection from a pool, while nothing is being bound. `None`: it passes like any other.
    pub(super) fn over_pool(
        &mut self,
        batch: &mut Batch,
        i: usize,
        a: &Arrival,
        flow: u32,
        entry: u32,
    ) -> Option<Verdict> {
        let e = *self.c.splices.get(entry);
        if a.flags & (RST | SYN) != 0 || a.flags & ACK == 0 || e.until_close || e.offsets.open {
            return None;
        }
        let end = e.offsets.seq(Place::SERVER, e.offsets.limit[Place::SERVER]);
        let established = self.c.table.get(flow).state == TcpState::Established;
        let over = self.has_lent(entry) && e.response_known && a.ack == end && established;
        let of_before = a.len > 0 && self.is_of_before(Place::CLIENT, a, entry);
        if !(over || of_before) {
            return None;
        }
        if !self.is_intact(batch, i) {
            return Some(Verdict::Drop(DropReason::BadTcpChecksum));
        }
        if !over {
            return Some(self.challenge(batch, i, flow, entry));
        }
        self.last_stamps(entry, a, e.offsets.limit[Place::CLIENT]);
        self.give_back(flow, entry);
        Some(self.between_requests(batch, i, a, flow, entry))
    }

    /// A client's segment while it has no server. What is not new gets the answer that is due (RFC 9293 §3.10.7.4), and holds
    /// nothing: a client may be silent between two requests for as long as connections may be idle.
    pub(super) fn between_requests(
        &mut self,
        batch: &mut Batch,
        i: usize,
        a: &Arrival,
        flow: u32,
        entry: u32,
    ) -> Verdict {
        if !self.is_intact(batch, i) {
            return Verdict::Drop(DropReason::BadTcpChecksum);
        }
        let [next, said] = self.c.splices.get(entry).numbers.map(|n| n.wrapping_add(1));
        let end = a.end().wrapping_add(u32::from(a.flags & FIN != 0));
        let new = end.wrapping_sub(next) as i32 > 0;
        let within = (a.seq.wrapping_sub(next) as i32) < self.room(self.c.table.get(flow).service) as i32;
        if a.flags & RST != 0 {
            // RFC 5961 §3.2: exactly the next number, or it is asked.
            if a.seq != next {
                return self.challenge(batch, i, flow, entry);
            }
            self.close(flow);
            return Verdict::Consume;
        }
        self.c.table.get_mut(flow).last_seen = self.tick;
        if a.flags & SYN == 0 && new && within {
            return self.first_data(batch, i, a, flow, entry);
        }
        if a.flags & SYN == 0 && a.len == 0 && a.seq == next && a.ack == said {
            return Verdict::Consume;
        }
        self.challenge(batch, i, flow, entry)
    }

    /// Whether a segment says that the server had closed the connection before it could answer. What begins an answer ends
    /// the time in which the request may be sent again.
    pub(super) fn has_closed(&self, a: &Arrival, b: &mut Binding) -> bool {
        let o = self.c.splices.get(b.entry).offsets;
        let expected = o.limit[Place::SERVER];
        if a.flags & RST != 0 {
            return a.seq == expected;
        }
        if a.len > 0 && a.end().wrapping_sub(expected) as i32 > 0 {
            // What comes before a byte of the request has does not answer it: a farewell that has crossed it.
            let heard = o.ack(Place::SERVER, a.ack).wrapping_sub(b.start) as i32 > 0;
            b.lent = !heard;
            return !heard;
        }
        a.len == 0 && a.flags & FIN != 0 && a.seq == expected
    }

    /// Whether a server that is silent to a request on a connection that had stood idle has lost that one, or itself.
    pub(super) fn is_forgotten(&self, flow: u32, b: &Binding) -> bool {
        b.retries >= RETRIES || b.retries > 0 && !is_up(self.snapshot, self.c.table.get(flow).server)
    }

    /// Sends a request again, on a connection of its own.
    pub(super) fn afresh(&mut self, flow: u32, b: &mut Binding) {
        let f = self.c.table.get(flow);
        let (service, server) = (f.service, f.server);
        self.pool_tally(service).into_iter().for_each(|tally| tally.repeated += 1);
        let o = self.c.splices.get(b.entry).offsets;
        let seq = o.seq(Place::CLIENT, b.start.wrapping_add(b.sent as u32));
        self.reset_server(flow, seq, o.limit[Place::SERVER]);
        self.c.splices.unfollow(b.entry);
        b.lent = false;
        b.disarm();
        if is_up(self.snapshot, server) {
            self.open_server(flow, b, server);
        } else {
            b.gave_up_on(server);
            self.next_server(flow, b);
        }
    }

    /// Closes an idle connection.
    fn retire(&mut self, id: u32) {
        let Some(&Pooled { entry: leg, service, .. }) = self.c.splices.pools.get(id) else { return };
        let e = self.c.splices.get_mut(leg);
        let (flow, [seq, ack]) = (leg, e.numbers);
        e.numbers[0] = seq.wrapping_add(1);
        self.c.splices.pools.now(id, Doing::Closing, leg, self.now);
        self.pool_tally(service).into_iter().for_each(|tally| tally.retired += 1);
        if let Some(key) = self.key_toward(flow, Place::SERVER) {
            let flags = FIN | ACK;
            let segment = Segment { key, flags, seq, ack, window: LEG_WINDOW, options: &[], payload: Payload::NONE };
            self.send(flow, Place::SERVER, segment);
        }
        self.c.moved(flow, TcpState::FinWait, self.tick);
    }

    /// A server's segment on a connection of a pool that no client has. `None`: as on any connection that waits.
    pub(super) fn pooled(
        &mut self,
        batch: &mut Batch,
        i: usize,
        a: &Arrival,
        flow: u32,
        leg: u32,
        id: u32,
    ) -> Option<Verdict> {
        let connection = *self.c.splices.pools.get(id)?;
        let [next, expected] = self.c.splices.get(leg).numbers;
        let key = self.key_toward(flow, Place::SERVER)?;
        let service = connection.service;
        match connection.doing {
            Doing::Opening if a.flags & ACK != 0 && a.ack != next => {
                if a.flags & RST != 0 {
                    return Some(Verdict::Drop(DropReason::OutOfWindow));
                }
                // It still has an older connection from there: this ends it, and the next one will have another source.
                let segment =
                    Segment { key, flags: RST, seq: a.ack, ack: 0, window: 0, options: &[], payload: Payload::NONE };
                let verdict = self.answer_in_place(batch, i, &segment);
                self.c.close(flow);
                Some(verdict)
            }
            Doing::Opening if a.flags & (SYN | ACK | RST) == SYN | ACK => {
                let o = syn_options(batch, i);
                if o.timestamps.is_none() && self.c.splices.get(leg).stamped {
                    self.lacks_stamps(flow);
                    let ack = a.seq.wrapping_add(1);
                    let segment = Segment {
                        key,
                        flags: RST | ACK,
                        seq: next,
                        ack,
                        window: 0,
                        options: &[],
                        payload: Payload::NONE,
                    };
                    let verdict = self.answer_in_place(batch, i, &segment);
                    self.opening_failed(service, connection.server, flow);
                    return Some(verdict);
                }
                if let (Some((value, _)), Some(s)) = (o.timestamps, self.c.splices.stamps(leg)) {
                    *s = Stamps::aside(0, s.said[Place::SERVER], value);
                }
                self.note_server(flow, leg, a.window, &o);
                let ack = a.seq.wrapping_add(1);
                self.c.splices.get_mut(leg).numbers[1] = ack;
                self.c.splices.pools.now(id, Doing::Idle, leg, self.now);
                if let Some(c) = self.c.splices.pools.get_mut(id) {
                    (c.scale, c.sack, c.opened) = (o.scale, o.sack, self.now);
                }
                if let Some(pool) = self.c.splices.pools.of(service, connection.server) {
                    pool.answered();
                }
                self.pool_tally(service).into_iter().for_each(|tally| tally.opened += 1);
                let segment = Segment {
                    key,
                    flags: ACK,
                    seq: next,
                    ack,
                    window: LEG_WINDOW,
                    options: &[],
                    payload: Payload::NONE,
                };
                Some(self.answer_on(batch, i, Place::new(flow, Place::SERVER), segment))
            }
            Doing::Opening if a.flags & (ACK | RST) == ACK | RST => {
                self.opening_failed(service, connection.server, flow);
                Some(Verdict::Consume)
            }
            Doing::Opening => Some(Verdict::Drop(DropReason::OutOfWindow)),
            Doing::Closing if a.flags & (FIN | RST) == FIN && a.len == 0 && a.seq == expected => {
                let ack = expected.wrapping_add(1);
                let segment =
                    Segment { key, flags: ACK, seq: next, ack, window: 0, options: &[], payload: Payload::NONE };
                let verdict = self.answer_on(batch, i, Place::new(flow, Place::SERVER), segment);
                self.c.close(flow);
                Some(verdict)
            }
            Doing::Closing => None,
            Doing::Idle | Doing::Lent => {
                let ends = a.flags & FIN != 0 || a.flags & RST != 0 && a.seq == expected;
                if ends {
                    self.pool_tally(service).into_iter().for_each(|tally| tally.lost += 1);
                } else if let Some(c) = self.c.splices.pools.get_mut(id) {
                    (c.asked, c.unanswered) = (self.now, 0);
                    self.c.table.get_mut(flow).last_seen = self.tick;
                }
                None
            }
        }
    }

    /// A connection that was being opened ahead is not to be had.
    fn opening_failed(&mut self, service: u16, server: u16, flow: u32) {
        let none = |pool: &&mut crate::splice::pool::Pool| pool.idle.is_empty() && pool.lent == 0;
        if let Some(pool) = self.c.splices.pools.of(service, server).filter(none) {
            pool.refused(self.now);
        }
        self.pool_tally(service).into_iter().for_each(|tally| tally.failed += 1);
        self.c.close(flow);
    }

    /// Opens what is missing, closes what is too many or too old, asks the others whether they stand.
    pub(super) fn look_after_pools(&mut self) {
        if self.c.splices.pools.is_empty() || self.now < self.c.splices.pools.next_at {
            return;
        }
        self.c.splices.pools.next_at = self.now + LOOK.0;
        for _ in 0..self.c.splices.pools.len().min(LOOK.1) {
            if let Some(at) = self.c.splices.pools.turn() {
                self.look_after_pool(at);
            }
        }
    }

    fn look_after_pool(&mut self, at: usize) {
        let Some(pool) = self.c.splices.pools.pool(at) else { return };
        let (service, server, not_before) = (pool.service, pool.server, pool.not_before);
        while let Some(&id) = self.c.splices.pools.pool(at).and_then(|pool| pool.opening.front()) {
            let Some(&Pooled { since, entry, .. }) = self.c.splices.pools.get(id) else { break };
            if since + PATIENCE > self.now {
                break;
            }
            self.opening_failed(service, server, entry);
        }
        for n in 0..AT_ONCE {
            let Some(&id) = self.c.splices.pools.pool(at).and_then(|pool| pool.opening.get(n)) else { break };
            let Some(c) = self.c.splices.pools.get_mut(id).filter(|c| c.unanswered == 0) else { continue };
            if c.since + AGAIN <= self.now {
                c.unanswered = 1;
                let leg = c.entry;
                let e = *self.c.splices.get(leg);
                self.send_syn_as(leg, leg, e.numbers[0].wrapping_sub(1), u16::MAX);
            }
        }
        let settings = self.pool_settings(service, server);
        for _ in 0..AT_ONCE {
            let Some(pool) = self.c.splices.pools.pool(at) else { return };
            pool.cursor = if pool.cursor + 1 < pool.idle.len() { pool.cursor + 1 } else { 0 };
            let (idle, Some(&id)) = (pool.idle.len(), pool.idle.get(pool.cursor)) else { break };
            self.look_after_idle(id, idle, settings.as_ref());
        }
        let Some(settings) = settings.filter(|_| self.now >= not_before) else { return };
        for _ in 0..AT_ONCE {
            let Some(pool) = self.c.splices.pools.pool(at) else { return };
            if pool.idle.len() + pool.opening.len() >= self.share(settings.idle) {
                return;
            }
            if self.open_ahead(service, server, &settings).is_none() {
                // For want of a source, a next hop or room: not at once again.
                if let Some(pool) = self.c.splices.pools.pool(at) {
                    pool.not_before = self.now + 100 * LOOK.0;
                }
                return;
            }
        }
    }

    /// One of so many idle connections: is it to stay, and does it stand?
    fn look_after_idle(&mut self, id: u32, idle: usize, settings: Option<&Pool>) {
        let Some(&c) = self.c.splices.pools.get(id) else { return };
        let Some(pool) = settings else { return self.retire(id) };
        let since = |then: Nanos| self.now.saturating_sub(then);
        let v6 = self.c.table.get(c.entry).is_v6();
        let spare = idle > self.share(pool.idle) && since(c.since) >= pool.idle_timeout.as_nanos() as u64;
        let stamped = self.content(c.service).is_some_and(agrees);
        let other = c.mss > mss(pool, v6) || stamped != self.c.splices.get(c.entry).stamped;
        if spare || other || since(c.opened) >= pool.lifetime.as_nanos() as u64 {
            return self.retire(id);
        }
        if since(c.asked) < pool.probe.as_nanos() as u64 {
            return;
        }
        let e = self.c.splices.get(c.entry);
        let (flow, [next, ack]) = (c.entry, e.numbers);
        if c.unanswered >= PROBES {
            self.pool_tally(c.service).into_iter().for_each(|tally| tally.lost += 1);
            return self.end_leg(flow);
        }
        if let Some(c) = self.c.splices.pools.get_mut(id) {
            (c.asked, c.unanswered) = (self.now, c.unanswered + 1);
        }
        let Some(key) = self.key_toward(flow, Place::SERVER) else { return };
        // RFC 9293 §3.8.4: a number that it has acknowledged already makes it answer.
        let (seq, window) = (next.wrapping_sub(1), LEG_WINDOW);
        self.send(
            flow,
            Place::SERVER,
            Segment { key, flags: ACK, seq, ack, window, options: &[], payload: Payload::NONE },
        );
    }

    /// Sends a SYN to a server that nobody has asked for yet. `None` when that is not possible now.
    fn open_ahead(&mut self, service: u16, server: u16, pool: &Pool) -> Option<()> {
        let snapshot = self.snapshot;
        let of = snapshot.services.get(usize::from(service)).and_then(Option::as_ref)?;
        let s = snapshot.servers.get(usize::from(server)).and_then(Option::as_ref)?;
        if self.c.table.len() > self.c.table.capacity() / 4 * 3 {
            // What room is left is for clients.
            return None;
        }
        if !self.c.hops[usize::from(s.next_hop)].resolved {
            self.c.say((1, s.next_hop), self.tick, Event::NeedNextHop(s.next_hop));
            return None;
        }
        // In the place of a client's, none of which has the same.
        let n = self.c.splices.sources_sought;
        let client = Key::new(SocketAddr::new(of.address, n as u16), SocketAddr::new(of.address, of.port))?;
        let local = free_source(self.c, of, s, &client, TCP)?;
        let back = Key::new(server_endpoint(s, of.port), local)?;
        let flow = self.c.table.insert_apart(TCP, &client).ok()?;
        let v6 = self.c.table.get(flow).is_v6();
        let offer = Offer { mss: mss(pool, v6), scale: Some(OWN_SCALE), sack: true };
        let isn = self.c.splices.cookies.make(&back, n as u32, offer, self.now);
        let leg = self
            .c
            .table
            .attach_server(flow, &back)
            .ok()
            .and_then(|()| self.c.splices.insert(flow, service, [isn.wrapping_add(1), 0], offer));
        let Some(leg) = leg else {
            self.c.table.remove(flow);
            return None;
        };
        let f = self.c.table.get_mut(flow);
        f.next_hop = [s.next_hop; 2];
        f.service = service;
        f.server = crate::snapshot::NO_SLOT;
        f.flags.set(FlowFlags::TRANSLATED, true);
        f.flags.set(FlowFlags::SPLICED, true);
        if self.content(service).is_some_and(agrees) {
            self.stamp_ahead(flow, leg);
        }
        self.c.opened(flow, TcpState::Established, self.tick);
        self.c.table.get_mut(flow).flags.set(FlowFlags::ACTIVE, false);
        self.c.assign(flow, server, true);
        let connection = Pooled {
            doing: Doing::Opening,
            service,
            server,
            entry: leg,
            opened: self.now,
            since: self.now,
            asked: self.now,
            unanswered: 0,
            requests: 0,
            scale: None,
            sack: false,
            mss: offer.mss,
        };
        let Some(id) = self.c.splices.pools.add(connection) else {
            self.c.close(flow);
            return None;
        };
        self.c.splices.pool(leg, service, id);
        self.send_syn_as(flow, leg, isn, u16::MAX);
        Some(())
    }
}
