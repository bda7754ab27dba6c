//! Opening the server's side (SPLICING, Opening the server side).

use super::super::schedule::{differences, free_source, server_endpoint};
use super::{Desk, syn_options};
use crate::extract::{Method, ReplayProgress};
use crate::snapshot::{Forward, Server};
use crate::splice::{Arrival, Binding, Entry, Phase, RTO_FIRST, TRIES};
use crate::tally::Refusal;
use lcs_dataplane::batch::Batch;
use lcs_dataplane::flow::{FlowFlags, Key, Place};
use lcs_dataplane::headers::options::{DEFAULT_MSS_V4, DEFAULT_MSS_V6, SynOptions};
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, RST, SYN};
use lcs_dataplane::port::Port;
use lcs_dataplane::splice::{Offsets, Payload, Segment};
use lcs_dataplane::{DropReason, Verdict};

/// A server's window where it has not been seen lately, bytes: the initial window that every sender may use (RFC 6928).
const CAUTIOUS_WINDOW: u32 = 14_600;
/// From a server's FIN to the reset of a client whose next request was acknowledged already, nanoseconds.
const LINGER: u64 = 1_000_000_000;
/// How long a server has to go along with a dialogue that is repeated to it, nanoseconds.
const GREETING: u64 = 20_000_000_000;
/// No segment is smaller than this, whatever the peer says.
const LEAST_MSS: u16 = 64;

/// The window scale of the server in turn.
fn server_scale(e: &Entry) -> u8 {
    let own = if e.offer().scale.is_some() { e.own_scale as i8 } else { 0 };
    (e.offsets.shift(Place::SERVER) + own).max(0) as u8
}

impl<'d, P: Port> Desk<'d, P> {
    /// The request is for a server other than the one that the connection is attached to, if any.
    pub(super) fn other_server(&mut self, flow: u32, b: &mut Binding, server: u16) {
        if self.is_direct_guess(flow) {
            let right = self.c.table.get(flow).server == server;
            if right && self.goes_on_directly(flow, b) {
                return;
            }
            if !right {
                self.guessed(flow, b.entry, false);
            }
            self.give_up_guess(flow, b, right);
        }
        if self.is_migrated(flow) && !self.falls_back(flow, b, server) {
            return self.migrate(flow, b, server);
        }
        if self.is_attached(flow) {
            if self.c.splices.get(b.entry).is_guess() {
                self.guessed(flow, b.entry, false);
                self.drop_guess(flow, b.entry);
            } else if self.has_lent(b.entry) {
                self.give_back(flow, b.entry);
            } else {
                self.park(flow, b);
            }
        }
        if let Some(leg) = self.leg_of(b.entry, server)
            && self.unpark(flow, b, leg)
        {
            self.c.splices.reused += 1;
            b.ack_floor = self.c.splices.get(b.entry).offsets.limit[Place::SERVER];
            self.begin_delivery(flow, b);
            self.deliver(flow, b);
            return;
        }
        if self.lend(flow, b, server) {
            self.begin_delivery(flow, b);
            self.deliver(flow, b);
            return;
        }
        self.open_server(flow, b, server);
    }

    /// Opens a connection to a server for a request.
    pub(super) fn open_server(&mut self, flow: u32, b: &mut Binding, server: u16) {
        if !self.defer_open(flow, server) {
            let attached = self.attach(flow, server);
            self.ask_server(flow, b, server, attached);
        }
    }

    /// Sends a server its SYN, or tries the next one if it could not be attached.
    #[inline]
    pub(super) fn ask_server(&mut self, flow: u32, b: &mut Binding, server: u16, attached: bool) {
        if attached {
            b.phase = Phase::Connect;
            b.rto = RTO_FIRST;
            b.retries = 0;
            b.timed = Some(self.now);
            b.sent = 0;
            b.delivered = 0;
            b.arm(self.now);
            self.send_syn(flow, b);
        } else {
            b.gave_up_on(server);
            self.next_server(flow, b);
        }
    }

    /// Whether a server is asked from the client's own endpoint, not from one of the director's.
    fn asks_as_client(&self, flow: u32, server: &Server) -> bool {
        server.forward == Forward::Nat && !self.is_migrated(flow)
    }

    /// A server, and the key of the packets of a flow's client.
    fn server_and_client(&self, flow: u32, server: u16) -> Option<(&'d Server, Key)> {
        let s = self.snapshot.servers.get(usize::from(server)).and_then(Option::as_ref)?;
        Some((s, self.c.table.key(flow, Place::CLIENT)?))
    }

    /// What a server's answers are known by, and the hash of it, where it is asked from its client's own endpoint.
    pub(super) fn key_as_client(&self, flow: u32, server: u16) -> Option<(Key, u64)> {
        let (s, client) = self.server_and_client(flow, server).filter(|(s, _)| self.asks_as_client(flow, s))?;
        let back = client.answered_by(server_endpoint(s, client.destination_port()))?;
        Some((back, back.hash(self.c.table.hasher(), self.c.table.get(flow).protocol)))
    }

    /// The same where it is asked from one of the director's own endpoints: replies of a server behind direct routing or a tunnel come back
    /// through us only if they are for us. (A service that has no addresses for that has no such servers, or the configuration refuses it.)
    /// Behind a filter a server answers directly, too; who comes here for it falls back.
    fn key_as_director(&mut self, flow: u32, server: u16) -> Option<(Key, u64)> {
        let (s, client) = self.server_and_client(flow, server).filter(|(s, _)| !self.asks_as_client(flow, s))?;
        let f = self.c.table.get(flow);
        let (protocol, service) = (f.protocol, f.service);
        let service = self.snapshot.services.get(usize::from(service)).and_then(Option::as_ref)?;
        let local = free_source(self.c, service, s, &client, protocol)?;
        let back = Key::new(server_endpoint(s, client.destination_port()), local)?;
        Some((back, back.hash(self.c.table.hasher(), protocol)))
    }

    /// Gives a flow a server's side. `false` when it can't have this one.
    pub(super) fn attach(&mut self, flow: u32, server: u16) -> bool {
        let back = self.key_as_client(flow, server).or_else(|| self.key_as_director(flow, server));
        back.is_some_and(|(back, hash)| self.attach_as(flow, server, &back, hash))
    }

    /// The same with the key of the server's packets, and its hash.
    pub(super) fn attach_as(&mut self, flow: u32, server: u16, back: &Key, hash: u64) -> bool {
        let Some((s, client)) = self.server_and_client(flow, server) else { return false };
        if self.c.table.attach_server_hashed(flow, back, hash).is_err() {
            return false;
        }
        let (ip, l4) = differences(&client, back);
        let f = self.c.table.get_mut(flow);
        f.next_hop[Place::SERVER] = s.next_hop;
        f.ip_difference = ip.bits();
        f.l4_difference = l4.bits();
        f.flags.set(FlowFlags::TRANSLATED, true);
        let (entry, service) = (flow, f.service);
        self.c.assign(flow, server, true);
        let pooled = s.forward == Forward::FullNat && self.pool_for(service, entry).is_some();
        self.c.table.get_mut(flow).flags.set(FlowFlags::POOLED, pooled);
        let own = self.asks_as_client(flow, s);
        let e = self.c.splices.get_mut(entry);
        let up = if own { e.up_to_server(server) } else { 0 };
        e.offsets = Offsets::new(up, 0);
        e.response_known = false;
        e.until_close = false;
        self.begin_stamps(flow, entry, s.forward);
        true
    }

    /// Sends the SYN, with the client's own number if that may be, so that its numbers need no change.
    pub(super) fn send_syn(&mut self, flow: u32, b: &Binding) {
        let e = self.c.splices.get(b.entry);
        let window = u32::from(b.client_window) << e.offer().scale.unwrap_or(0);
        let seq = e.offsets.seq(Place::CLIENT, b.start.wrapping_sub(1));
        self.send_syn_as(flow, b.entry, seq, u16::try_from(window).unwrap_or(u16::MAX));
    }

    /// Sends a SYN with this number and window, offering what the client has offered.
    pub(super) fn send_syn_as(&mut self, flow: u32, entry: u32, seq: u32, window: u16) {
        let offer = self.offer_to_server(flow, entry);
        let Some(key) = self.key_toward(flow, Place::SERVER) else { return };
        let timestamps = self.own_stamps(flow, Place::SERVER).map(|(value, _)| (value, 0));
        let ours = SynOptions { mss: Some(offer.mss), scale: offer.scale, sack: offer.sack, timestamps };
        let mut options = [0; 40];
        let n = ours.write(&mut options);
        let segment = Segment { key, flags: SYN, seq, ack: 0, window, options: &options[..n], payload: Payload::NONE };
        self.send(flow, Place::SERVER, segment);
    }

    /// A server's segment while it is being connected to.
    pub(super) fn connecting(
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
        let next = self.c.splices.get(b.entry).offsets.seq(Place::CLIENT, b.start);
        if a.flags & ACK != 0 && (a.ack != next || a.flags & (SYN | RST) == 0) {
            if a.flags & RST == 0 && self.ends_stale(flow, a.ack) {
                // It still has an older connection: this ends it there, and our SYN, sent again, is welcome (RFC 9293 §3.10.7.3). Should
                // the number be that of our SYN by chance, it is no answer to that all the same, which would be a SYN itself.
                let Some(key) = self.key_toward(flow, Place::SERVER) else {
                    return Verdict::Drop(DropReason::NoFlow);
                };
                let segment =
                    Segment { key, flags: RST, seq: a.ack, ack: 0, window: 0, options: &[], payload: Payload::NONE };
                self.send(flow, Place::SERVER, segment);
                self.send_syn(flow, b);
            }
            return Verdict::Drop(DropReason::OutOfWindow);
        }
        match a.flags & (SYN | ACK | RST | FIN) {
            f if f & RST != 0 && f & ACK != 0 => {
                let up = self.c.splices.get(b.entry).offsets.seq(Place::CLIENT, 0);
                if up != 0 && b.retries == 0 && !self.is_pooled(flow) {
                    // It has had a SYN from here before. Where that was still half open, or closed to its last segment, this ends the old
                    // connection and refuses nothing (RFC 9293 §3.10.7.4): the next SYN is welcome.
                    b.retries = 1;
                    self.send_syn(flow, b);
                    return Verdict::Consume;
                }
                let server = self.c.table.get(flow).server;
                b.gave_up_on(server);
                self.next_server(flow, b);
                Verdict::Consume
            }
            f if f == SYN | ACK => {
                self.connected(batch, i, a, flow, b);
                Verdict::Consume
            }
            _ => Verdict::Drop(DropReason::OutOfWindow),
        }
    }

    /// The server has answered: what it can do, and how its numbers become the client's.
    fn connected(&mut self, batch: &Batch, i: usize, a: &Arrival, flow: u32, b: &mut Binding) {
        let o = syn_options(batch, i);
        if !self.join_stamps(flow, b.entry, o.timestamps) {
            self.lacks_stamps(flow);
            let server = self.c.table.get(flow).server;
            self.reset_server(flow, a.ack, a.seq.wrapping_add(1));
            b.gave_up_on(server);
            return self.next_server(flow, b);
        }
        let offer = self.c.splices.get(b.entry).offer();
        let own_scale = self.c.splices.get(b.entry).own_scale as i8;
        let pooled = self.is_pooled(flow);
        let (from_client, from_server) = match (offer.scale, o.scale) {
            _ if pooled => super::pool::shifts(self.c.splices.get(b.entry), o.scale),
            (Some(_), Some(theirs)) => (0, theirs as i8 - own_scale),
            (Some(clients), None) => (clients as i8, -own_scale),
            (None, _) => (0, 0),
        };
        let first = a.seq.wrapping_add(1);
        let (up, down) = (a.ack.wrapping_sub(b.start), b.out_end().wrapping_sub(first));
        let mut offsets = Offsets::new(up, down).with_shifts(from_client, from_server);
        offsets.blank_sack = offer.sack && !o.sack;
        offsets.limit = [b.start, first];
        self.c.splices.get_mut(b.entry).offsets = offsets;
        if pooled {
            self.enters_pool(flow, b, &o);
        }
        self.note_server(flow, b.entry, a.window, &o);
        b.ack_floor = first;
        b.measured(self.now);
        // Whatever an ICMP error has hastened: it is there.
        b.disarm();
        self.moved_by(flow, 0, Place::SERVER);
        if self.speaks_first(self.c.table.get(flow).service) {
            return self.begin_replay(a, flow, b);
        }
        self.begin_delivery(flow, b);
        if b.migration.is_some() && !b.uncut && b.cut < b.buffer.len() as u64 {
            // Its next request comes in a message of the director's, which has read it.
            b.cut_off(b.cut as usize);
            b.fin = false;
        }
        // The window of a SYN is never scaled.
        b.server_window = u32::from(a.window);
        self.deliver(flow, b);
        if let Some(ticket) = b.migration.take() {
            self.took(flow, b, ticket);
        }
        if b.phase == Phase::Deliver && b.sent == 0 {
            // Nothing to deliver yet (a body that is still coming): the handshake is ended all the same.
            self.acknowledge_server(flow, b);
        }
    }

    /// Notes what a server's SYN+ACK says of its segments and window.
    pub(super) fn note_server(&mut self, flow: u32, entry: u32, window: u16, o: &SynOptions) {
        let f = self.c.table.get(flow);
        let (headers, default) = if f.is_v6() { (60, DEFAULT_MSS_V6) } else { (40, DEFAULT_MSS_V4) };
        let path = self.c.hops[usize::from(f.next_hop[Place::SERVER])].mtu.saturating_sub(headers).max(LEAST_MSS);
        let e = self.c.splices.get_mut(entry);
        e.server_window = window.max(1).ilog2() as u8;
        e.server_mss = o.mss.unwrap_or(default).clamp(LEAST_MSS, path);
    }

    /// A server that speaks first: it is greeted back by the director until it stands where the client does.
    fn begin_replay(&mut self, a: &Arrival, flow: u32, b: &mut Binding) {
        b.phase = Phase::Replay;
        b.replay = b.replay_from_start;
        b.script.clear();
        (b.sent, b.delivered) = (0, 0);
        b.taken_at = self.now;
        let e = self.c.splices.get(b.entry);
        b.server_mss = e.server_mss;
        b.server_scale = server_scale(e);
        b.server_window = u32::from(a.window);
        b.disarm();
        b.give_up(Some(self.now + GREETING));
        if let Ok((_, ReplayProgress::Done)) = b.replay.feed(&[]) {
            return self.replayed(flow, b);
        }
        self.acknowledge_server(flow, b);
    }

    /// A request that is decided and whose server stands: its messages are followed, and what is buffered is sent.
    pub(super) fn begin_delivery(&mut self, flow: u32, b: &mut Binding) {
        if let Err(e) = b.extend() {
            // Its body, of which more has come since the decision, is malformed.
            self.c.splices.refuse_unreadable(self.c.table.get(flow).service, e);
            return self.give_up_request(flow, b, e.status());
        }
        if let Some((group, server)) = b.toward.take()
            && let Some(tally) = self.c.splices.tally(self.c.table.get(flow).service)
        {
            tally.sent(group, server);
        }
        if b.uncut || !b.keep_alive || b.request.0 == Method::Head {
            // Nobody can have it after this client: it will close, or what follows a response without a body would be taken
            // for another's.
            self.leaves_pool(b.entry);
        }
        if b.uncut {
            self.c.table.get_mut(flow).flags.set(FlowFlags::POOLED, false);
        }
        b.phase = Phase::Deliver;
        b.sent = 0;
        b.delivered = 0;
        b.taken_at = self.now;
        let (method, body) = b.request;
        let request_end = b.start.wrapping_add(b.cut as u32);
        let e = self.c.splices.get_mut(b.entry);
        b.server_mss = e.server_mss;
        b.server_window = CAUTIOUS_WINDOW.min(1 << e.server_window);
        b.server_scale = server_scale(e);
        let first = e.offsets.limit[Place::SERVER];
        e.until_close = false;
        if let Some(s) = self.c.splices.stamps(b.entry) {
            s.restart();
        }
        let e = self.c.splices.get_mut(b.entry);
        if b.uncut {
            e.offsets.open = true;
            e.response_known = false;
            self.c.splices.unfollow(b.entry);
        } else {
            e.offsets.open = false;
            e.offsets.limit[Place::CLIENT] = request_end;
            e.response_known = false;
            self.c.splices.follow(b.entry).begin(method, body, [request_end, first], b.watch);
        }
        if b.uncut || b.cut > b.buffer.len() as u64 {
            self.pass_ahead(flow, b);
        }
    }

    /// Lets go of what is held beyond a gap in a body that still comes: from here on the client's segments pass, and the
    /// server puts them in order. Sent once: the client has it still, and no acknowledgement covers it before the server's.
    fn pass_ahead(&mut self, flow: u32, b: &mut Binding) {
        let Some(key) = self.key_toward(flow, Place::SERVER) else { return };
        let offsets = self.c.splices.get(b.entry).offsets;
        let (ack, window) = (self.ack_to_server(b), offsets.window(Place::CLIENT, b.client_window));
        let mss = usize::from(b.server_mss).saturating_sub(self.stamped_bytes(b.entry)).max(1);
        for (from, bytes) in b.ahead() {
            let end = from.wrapping_sub(b.start) as usize + bytes.len();
            if !b.uncut && end as u64 > b.cut {
                break;
            }
            for (n, payload) in bytes.chunks(mss).enumerate() {
                let seq = offsets.seq(Place::CLIENT, from.wrapping_add((n * mss) as u32));
                let segment = Segment { key, flags: ACK, seq, ack, window, options: &[], payload: payload.into() };
                self.send(flow, Place::SERVER, segment);
            }
        }
        b.forget_ahead();
    }

    /// Tries the next server, after the one in turn did not answer or refused.
    pub(super) fn next_server(&mut self, flow: u32, b: &mut Binding) {
        self.detach(flow);
        if let Some(ticket) = b.migration.take() {
            return self.decline(flow, b, ticket);
        }
        b.disarm();
        if b.tries >= TRIES {
            self.c.splices.refuse(self.c.table.get(flow).service, Refusal::NoServer);
            return self.give_up_request(flow, b, 503);
        }
        b.phase = Phase::Hold;
        self.hold(flow, b);
    }

    /// A server's segment while its connection is bound or being bound.
    pub(super) fn bound_from_server(
        &mut self,
        batch: &mut Batch,
        i: usize,
        a: &Arrival,
        flow: u32,
        b: &mut Binding,
    ) -> Verdict {
        if b.phase == Phase::Connect {
            let f = self.c.table.get_mut(flow);
            f.last_seen = self.tick;
            return self.connecting(batch, i, a, flow, b);
        }
        if b.phase == Phase::Replay {
            self.c.table.get_mut(flow).last_seen = self.tick;
            return self.replaying(batch, i, a, flow, b);
        }
        if b.lent && b.phase == Phase::Deliver {
            if !self.is_intact(batch, i) {
                return Verdict::Drop(DropReason::BadTcpChecksum);
            }
            if self.has_closed(a, b) {
                self.afresh(flow, b);
                return Verdict::Consume;
            }
        }
        if a.flags & RST == 0 && a.flags & ACK != 0 && b.phase == Phase::Deliver && self.is_intact(batch, i) {
            self.server_acknowledges(a, b);
        }
        let entry = b.entry;
        let verdict = self.pass_from_server(batch, i, a, flow, entry, Some(b));
        if b.done || self.c.table.get(flow).flags.has(FlowFlags::CLOSED) && b.phase != Phase::Deliver {
            b.done = true;
            return verdict;
        }
        if a.flags & FIN != 0 && verdict == Verdict::Forward && matches!(b.phase, Phase::Collect | Phase::Hold) {
            // The server has closed: the client is told, and asks again elsewhere. What was acknowledged to it of another
            // request will not be answered, so its connection is reset when it has taken what is on the way.
            if b.may_ack && !b.buffer.is_empty() {
                b.give_up(Some(self.now + LINGER));
            } else {
                b.done = true;
            }
            return verdict;
        }
        if matches!(b.phase, Phase::Collect | Phase::Hold) && self.c.splices.get(entry).offsets.open {
            // A tunnel from here on: what was taken for the next request is its first bytes.
            b.uncut = true;
            self.begin_delivery(flow, b);
        }
        match b.phase {
            Phase::Deliver => {
                self.deliver(flow, b);
                self.delivered(flow, b);
            }
            Phase::Collect => self.collect(flow, b),
            Phase::Hold => self.hold(flow, b),
            Phase::Connect | Phase::Migrate | Phase::Recall | Phase::Replay | Phase::Answer => {}
        }
        verdict
    }
}
