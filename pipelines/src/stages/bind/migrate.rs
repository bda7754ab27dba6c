//! Giving a decided connection to the filter on its server's host, at the director (`migration/FILTER.md`; tutorial, slide 54).
//!
//! Until the filter has taken it, what the client sends goes on to it unread: behind the message that brings the
//! connection it finds it there, and before it nothing acknowledges it. From then on the flow is one of layer 4.

use super::Desk;
use crate::content::Channel;
use crate::migration::message::{Body, Ends, Header, MIGRATE_OVERHEAD, Migrate, PIECE_MIN, REQUEST_MAX, Why};
use crate::migration::{Ticket, write};
use crate::snapshot::Forward;
use crate::splice::{Arrival, Binding, Phase};
use crate::tally::{MigrationTally, Refusal};
use lcs_dataplane::batch::Batch;
use lcs_dataplane::flow::{FlowFlags, Key, Place, TcpState};
use lcs_dataplane::headers::tcp::flags::{ACK, RST};
use lcs_dataplane::headers::{ipv4, ipv6, protocol, udp};
use lcs_dataplane::port::Port;
use lcs_dataplane::worker::Nanos;
use lcs_dataplane::{DropReason, Verdict};

/// From a migration to its first repetition, nanoseconds: a filter is near.
pub(super) const RTO_FILTER: Nanos = 200_000_000;
/// Filters asked between two batches.
const PINGS: usize = 32;

impl<P: Port> Desk<'_, P> {
    /// Whether a flow's service gives its connections to filters.
    pub(super) fn is_migrated(&self, flow: u32) -> bool {
        self.channel(flow).is_some()
    }

    /// How a flow's service speaks to filters, where it gives its connections to them.
    fn channel(&self, flow: u32) -> Option<&Channel> {
        self.content(self.c.table.get(flow).service)?.binding.scheme.channel()
    }

    /// Whether a connection to a server is bound over full NAT instead of being given to its filter.
    pub(super) fn falls_back(&mut self, flow: u32, b: &Binding, server: u16) -> bool {
        if !self.channel(flow).is_some_and(|c| c.fallback) {
            return false;
        }
        let filter = self.c.splices.migrations.filters.get(server);
        let takes = filter.is_some_and(|f| f.is_live(self.now)) && !b.has_tried(server) && b.sendable() <= REQUEST_MAX;
        if !takes {
            self.count(flow, |n| n.fallback += 1);
        }
        !takes
    }

    /// Asks filters whether they are there. Returns whether there may be more to ask.
    pub(super) fn ask_filters(&mut self) -> bool {
        if !self.c.splices.migrations.is_on() {
            return false;
        }
        for _ in 0..PINGS {
            let Some((server, header)) = self.c.splices.migrations.filters.due(self.now) else { return false };
            self.tell(server, &header, &Body::Ping);
        }
        true
    }

    /// Sends a message to a server's filter. Returns its bytes; 0 where it could not be sent.
    pub(super) fn tell(&mut self, server: u16, header: &Header, body: &Body<'_>) -> usize {
        let snapshot = self.snapshot;
        let Some(s) = snapshot.servers.get(usize::from(server)).and_then(Option::as_ref) else { return 0 };
        let m = &mut self.c.splices.migrations;
        let Some(filter) = m.filters.get(server) else { return 0 };
        let Some(key) = Key::new(filter.from, filter.at) else { return 0 };
        body.write(header, &filter.key, &mut m.scratch);
        let hop = self.c.hops[usize::from(s.next_hop)];
        if !hop.resolved {
            self.c.say((1, s.next_hop), self.tick, crate::command::Event::NeedNextHop(s.next_hop));
            return 0;
        }
        self.send_datagram(hop.interface, &hop.addresses, &key)
    }

    /// Sends what stands in the scratch. Like a network, it may lose it. Returns its bytes.
    pub(super) fn send_datagram(&mut self, interface: u8, link: &[u8; 12], key: &Key) -> usize {
        let Some(mut frame) = self.port.allocate() else { return 0 };
        let payload = &self.c.splices.migrations.scratch;
        let length = payload.len();
        if !write(&mut frame, link, key, payload) {
            self.port.release(frame);
            return 0;
        }
        match self.port.transmit(interface, frame) {
            Ok(()) => length,
            Err(frame) => {
                self.port.release(frame);
                0
            }
        }
    }

    pub(super) fn count(&mut self, flow: u32, of: impl FnOnce(&mut MigrationTally)) {
        if let Some(tally) = self.c.splices.tally(self.c.table.get(flow).service) {
            of(&mut tally.migrations);
        }
    }

    /// The ends of a flow, for messages.
    pub(super) fn ends(&self, flow: u32) -> Option<Ends> {
        let keys = self.c.table.keys(flow)?;
        Some(Ends { client: keys.client.source(), service: keys.client.destination() })
    }

    /// The request is for this server: its filter is given the connection.
    pub(super) fn migrate(&mut self, flow: u32, b: &mut Binding, server: u16) {
        if b.out_pending() {
            // The client has not got what the director itself has said; it would look for it at the filter.
            return;
        }
        if let Err(e) = b.extend() {
            // Its body, of which more has come since the decision, is malformed.
            self.c.splices.refuse_unreadable(self.c.table.get(flow).service, e);
            return self.give_up_request(flow, b, e.status());
        }
        let now = self.now;
        let header = match self.c.splices.migrations.filters.get_mut(server) {
            Some(filter) if filter.is_live(now) && b.sendable() <= REQUEST_MAX => filter.header(),
            _ => {
                b.gave_up_on_filter(server);
                return self.next_server(flow, b);
            }
        };
        if self.is_attached(flow) {
            // Over full NAT, while no filter took it.
            self.park(flow, b);
        }
        self.lead(flow, server);
        if !b.uncut {
            self.follow_request(b);
        }
        if let Some((group, server)) = b.toward.take()
            && let Some(tally) = self.c.splices.tally(self.c.table.get(flow).service)
        {
            tally.sent(group, server);
        }
        self.count(flow, |n| n.sent += 1);
        // What lies beyond a gap was not acknowledged: the client sends it again (RFC 2018 §8).
        b.forget_ahead();
        b.phase = Phase::Migrate;
        b.migration = Some(Ticket::from(&header));
        b.rto = RTO_FILTER;
        b.retries = 0;
        b.timed = Some(now);
        b.sent = 0;
        b.known_whole = false;
        self.send_migration(flow, b, &header);
        b.arm(now);
        self.see_to_it(b, server);
    }

    /// Looks no later than when the filter counts as gone, so that its silence is waited for once and not twice; but not before the time
    /// that any filter has for an answer.
    fn see_to_it(&self, b: &mut Binding, server: u16) {
        if !b.settled {
            // Nobody else can be asked.
            return;
        }
        if let Some(end) = self.c.splices.migrations.filters.get(server).and_then(|f| f.live_until()) {
            b.resend_at = b.resend_at.min(end.max(self.now + RTO_FILTER));
        }
    }

    /// Has what the client sends go to a server as it is.
    pub(super) fn lead(&mut self, flow: u32, server: u16) {
        let snapshot = self.snapshot;
        let Some(s) = snapshot.servers.get(usize::from(server)).and_then(Option::as_ref) else { return };
        self.c.assign(flow, server, true);
        let f = self.c.table.get_mut(flow);
        f.next_hop[Place::SERVER] = s.next_hop;
        f.flags.set(FlowFlags::TUNNEL, s.forward == Forward::Tunnel);
    }

    /// Takes that back.
    pub(super) fn lead_no_more(&mut self, flow: u32, b: &mut Binding) {
        b.migration = None;
        b.timed = None;
        b.disarm();
        self.c.splices.unfollow(b.entry);
        self.c.unassign(flow);
        self.c.table.get_mut(flow).flags.set(FlowFlags::TUNNEL, false);
    }

    /// Sends the connection, in as many messages as the link needs.
    pub(super) fn send_migration(&mut self, flow: u32, b: &Binding, header: &Header) {
        self.send_pieces(flow, b, header, usize::MAX);
    }

    /// Sends the first message only: the filter has said that it has all of them.
    fn send_front(&mut self, flow: u32, b: &Binding, header: &Header) {
        self.send_pieces(flow, b, header, 1);
    }

    fn send_pieces(&mut self, flow: u32, b: &Binding, header: &Header, most: usize) {
        let Some(ends) = self.ends(flow) else { return };
        let f = self.c.table.get(flow);
        let server = f.server;
        let hop = self.c.hops[usize::from(f.next_hop[Place::SERVER])];
        let v6 = self.c.splices.migrations.filters.get(server).is_some_and(|f| f.at.is_ipv6());
        let around = if v6 { ipv6::HEADER } else { ipv4::HEADER } + udp::HEADER + MIGRATE_OVERHEAD;
        let piece = usize::from(hop.mtu).saturating_sub(around).max(PIECE_MIN);
        let e = self.c.splices.get(b.entry);
        let offer = e.offer();
        let whole = Migrate {
            ends,
            start: b.start,
            next: if b.settled { b.out_end() } else { b.client_ack },
            window: b.client_window,
            own_scale: if offer.scale.is_some() { e.own_scale } else { 0 },
            offer,
            fin: b.sends_fin(),
            one_by_one: !b.uncut,
            continues: !b.settled,
            total: b.sendable() as u32,
            offset: 0,
            piece: u16::try_from(piece).unwrap_or(u16::MAX),
            bytes: &[],
        };
        let (mut messages, mut sent) = (0, 0);
        for n in 0..whole.pieces().min(most) {
            let from = n * usize::from(whole.piece);
            let to = (from + usize::from(whole.piece)).min(b.sendable());
            let bytes = b.buffer.get(from..to).unwrap_or(&[]);
            let body = Body::Migrate(Migrate { offset: from as u32, bytes, ..whole });
            messages += 1;
            sent += self.tell(server, header, &body);
        }
        self.count(flow, |n| {
            n.messages += messages;
            n.bytes += sent as u64;
        });
    }

    /// A client's segment while the filter is being given its connection.
    pub(super) fn passes_to_filter(
        &mut self,
        batch: &mut Batch,
        i: usize,
        a: &Arrival,
        flow: u32,
        b: &mut Binding,
    ) -> Verdict {
        if !b.settled {
            return self.beside_message(batch, i, a, flow, b);
        }
        if a.flags & RST != 0 {
            // RFC 5961 §3.2: exactly the next number, or it is a guess. What the client has sent since is known to the filter only.
            if a.seq != b.next() {
                return self.pass(batch, i, Place::new(flow, Place::CLIENT));
            }
            let verdict = self.pass(batch, i, Place::new(flow, Place::CLIENT));
            self.abort_migration(flow, b);
            b.done = true;
            self.close(flow);
            return verdict;
        }
        if a.flags & ACK != 0 && a.ack.wrapping_sub(b.out_end()) as i32 > 0 {
            // It has heard what only the filter's server can have said: the filter's answer was lost.
            self.count(flow, |n| n.accepted += 1);
            self.migrated(flow, b);
            if b.uncut {
                return self.pass(batch, i, Place::new(flow, Place::CLIENT));
            }
            return self.led_behind(batch, i, a, flow, b);
        }
        if !b.uncut {
            return self.beside_message(batch, i, a, flow, b);
        }
        if a.end().wrapping_sub(b.next()) as i32 > 0 {
            // These bytes nobody here has; whoever acknowledges them has them.
            b.sent = 1;
        }
        self.pass(batch, i, Place::new(flow, Place::CLIENT))
    }

    /// Tells the filter to forget a connection.
    pub(super) fn abort_migration(&mut self, flow: u32, b: &Binding) {
        let (Some(ticket), Some(ends)) = (b.migration, self.ends(flow)) else { return };
        let server = self.c.table.get(flow).server;
        let Some(filter) = self.c.splices.migrations.filters.get(server) else { return };
        let Some(header) = filter.again(&ticket) else { return };
        self.tell(server, &header, &Body::Abort(ends));
    }

    /// The filter has not answered in time.
    pub(super) fn filter_silent(&mut self, flow: u32, b: &mut Binding) {
        let service = self.c.table.get(flow).service;
        let most = self.content(service).map_or(3, |c| c.binding.syn_retries);
        let server = self.c.table.get(flow).server;
        let filter = self.c.splices.migrations.filters.get(server);
        let header = b.migration.and_then(|t| filter?.again(&t));
        // One that is another one by now has answered: a ping.
        let silent = header.is_some();
        // Whatever became of its pings, each message is sent a second time. Where nobody else can be asked, all the times.
        let gone = b.settled && b.retries > 0 && filter.is_none_or(|f| !f.is_live(self.now));
        if let Some(sent) = b.timed.filter(|sent| silent && !gone && self.now < sent.saturating_add(b.rto)) {
            // Looked after early, and it has answered a ping since: it has its time.
            b.resend_at = sent.saturating_add(b.rto);
            return self.see_to_it(b, server);
        }
        if let Some(header) = header.filter(|_| b.retries < most && !gone) {
            b.back_off(self.now);
            b.timed = Some(self.now);
            self.see_to_it(b, server);
            let known = std::mem::take(&mut b.known_whole);
            return if known { self.send_front(flow, b, &header) } else { self.send_migration(flow, b, &header) };
        }
        if !b.settled {
            return if silent { self.lost(flow, b) } else { self.over(flow, b) };
        }
        self.unanswered_migration(flow, b, silent);
    }

    /// Nobody knows whether the server has had the request. `silent`: nothing was heard of its filter either.
    fn unanswered_migration(&mut self, flow: u32, b: &mut Binding, silent: bool) {
        let f = self.c.table.get(flow);
        let (service, server, now) = (f.service, f.server, self.now);
        self.count(flow, |n| n.unanswered += 1);
        if let Some(filter) = self.c.splices.migrations.filters.get_mut(server).filter(|_| silent) {
            filter.missed(now);
        }
        self.abort_migration(flow, b);
        self.lead_no_more(flow, b);
        b.gave_up_on_filter(server);
        if b.sent == 0 && may_be_repeated(b.buffer.get(..b.sendable()).unwrap_or(&[])) {
            return self.next_server(flow, b);
        }
        // The server may have had it (RFC 9110 §9.2.2).
        self.c.splices.refuse(service, Refusal::NoServer);
        self.give_up_request(flow, b, 504);
    }

    /// A message of a filter's.
    pub(super) fn by_filter(&mut self, header: &Header, body: &Body<'_>) -> Verdict {
        let (ends, refused) = match body {
            Body::Pong => {
                let known = self.c.splices.migrations.filters.pong(header, self.now);
                return if known { Verdict::Consume } else { Verdict::Drop(DropReason::StaleMigration) };
            }
            Body::Accepted(ends) => (ends, None),
            Body::Refused(ends, why) => (ends, Some(*why)),
            Body::Released(turn) => (&turn.ends, None),
            Body::Ping | Body::Migrate(_) | Body::Abort(_) | Body::Recall(_) => {
                return Verdict::Drop(DropReason::BadMigration);
            }
        };
        let stale = Verdict::Drop(DropReason::StaleMigration);
        let place = Key::new(ends.client, ends.service).and_then(|key| self.c.table.find(&key, protocol::TCP));
        let Some(flow) = place.map(Place::flow) else { return stale };
        let f = self.c.table.get(flow);
        if !f.flags.has(FlowFlags::SPLICED) {
            return stale;
        }
        let (server, entry) = (f.server, flow);
        let ticket = Ticket::from(header);
        let Some(mut b) = self.c.splices.take(entry) else { return stale };
        let asked = match body {
            Body::Released(turn) => b.phase == Phase::Recall && turn.start == b.start,
            Body::Accepted(_) => b.phase == Phase::Migrate,
            _ => matches!(b.phase, Phase::Migrate | Phase::Recall),
        };
        if !asked || b.migration != Some(ticket) {
            self.c.splices.put(b);
            return stale;
        }
        match refused {
            None if let Body::Released(turn) = body => self.released(flow, &mut b, turn),
            Some(why) if !b.settled => self.not_released(flow, &mut b, why),
            // The server may have had it, and be through with it.
            Some(Why::Over) => self.unanswered_migration(flow, &mut b, false),
            Some(why) => {
                self.count(flow, |n| n.refused += 1);
                self.lead_no_more(flow, &mut b);
                match why {
                    Why::ServerRefused | Why::ServerSilent => b.gave_up_on(server),
                    _ => b.gave_up_on_filter(server),
                }
                self.next_server(flow, &mut b);
            }
            None => {
                if b.settled {
                    self.count(flow, |n| n.accepted += 1);
                }
                self.migrated(flow, &mut b);
            }
        }
        self.c.splices.put(b);
        Verdict::Consume
    }

    /// The connection is the filter's.
    fn migrated(&mut self, flow: u32, b: &mut Binding) {
        if b.uncut { self.give_away(flow, b) } else { self.request_taken(flow, b) }
    }

    /// From here on the connection is one of layer 4, whose server answers directly.
    pub(super) fn give_away(&mut self, flow: u32, b: &Binding) {
        let service = self.c.table.get(flow).service;
        self.c.splices.release(b.entry, service);
        let f = self.c.table.get_mut(flow);
        f.flags.set(FlowFlags::SPLICED, false);
        f.last_seen = self.tick;
        if b.fin && f.state != TcpState::FinWait {
            self.c.moved(flow, TcpState::FinWait, self.tick);
        }
    }
}

/// Whether a request may be sent a second time although a server may have had it: HTTP's safe methods (RFC 9110 §9.2.1).
fn may_be_repeated(request: &[u8]) -> bool {
    let safe = [&b"GET "[..], b"HEAD ", b"OPTIONS "].iter().any(|method| request.starts_with(method));
    // One head, and nothing behind it that would be sent a second time with it.
    safe && memchr::memmem::find(request, b"\r\n\r\n").is_some_and(|at| at + 4 == request.len())
}
