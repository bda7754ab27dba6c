//! Delayed binding: connections whose server is chosen by what the client asks for (tutorial, slides 34–40; SPLICING).
//!
//! The director answers the client's SYN ([`open`]), collects the request and lets the rules decide ([`decide`]), opens
//! the server's side ([`connect`]), delivers what it has collected ([`deliver`]), and from then on segments pass with
//! their numbers moved ([`pass`]), until the next request is to be decided. What no server can answer it answers itself
//! ([`answer`]); a client's connections to servers that are not in turn wait as [`leg`]s.
//!
//! Only frames that the fast path of [`super::forward`] has left come here.

mod answer;
mod away;
mod choose;
mod connect;
mod decide;
mod deliver;
mod direct;
mod guess;
mod handshake;
mod later;
mod leg;
mod migrate;
mod open;
mod pass;
mod path;
mod pool;
mod queueing;
mod read;
mod recall;
mod receive;
mod release;
mod stamps;
mod sticky;
mod timers;

pub(crate) use path::told;
pub(crate) use read::{GroupState, Progress, read};
pub(crate) use stamps::FAR_IN_POOL;

use super::connection::Connections;
use super::{forward, lookup, tunnel};
use crate::content::Content;
use crate::extract::MAX_SKIP;
use crate::snapshot::Snapshot;
use crate::splice::{Arrival, Binding, NIL};
use lcs_dataplane::batch::{Batch, NO_FLOW, Places};
use lcs_dataplane::flow::{Flow, FlowFlags, Key, Place, TcpState};
use lcs_dataplane::headers::options::{SynOptions, read_timestamps, repeats_timestamps};
use lcs_dataplane::headers::parse::{tcp_v4_checksum_ok, transport_checksum_ok};
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, RST, SYN, URG};
use lcs_dataplane::headers::tcp::{self, Tcp};
use lcs_dataplane::headers::{Kind, Parsed, protocol};
use lcs_dataplane::port::Port;
use lcs_dataplane::splice::{Payload, Segment};
use lcs_dataplane::worker::Nanos;
use lcs_dataplane::{BURST, DropReason, Verdict};

/// What the stage works with, for the frames of one batch.
pub(crate) struct Desk<'d, P> {
    c: &'d mut Connections,
    port: &'d mut P,
    /// Held by the caller, so that nothing is counted for each look at it.
    snapshot: &'d Snapshot,
    /// Places of the batch whose TCP checksum is known to be right, one bit each.
    verified: u32,
    now: Nanos,
    tick: u32,
    /// The place in the batch of the frame that is being served.
    at: usize,
    /// Whether a request that is decided now is gone on with behind the batch ([`later`]).
    defers: bool,
    /// When the server that is chosen next is opened ([`later`]).
    opens: later::Opens,
    /// The connection and the number of the reset that an old segment was answered with last ([`Desk::ends_stale`]).
    stale: Option<(u32, u32)>,
    /// Frames of the batch whose service is known ([`Connections::called`]).
    misses: Places,
}

/// Serves the frames of `misses` (clients of content services without a flow) and of `known` (spliced connections).
#[inline(never)]
pub(crate) fn bind<P: Port>(
    c: &mut Connections,
    port: &mut P,
    batch: &mut Batch,
    misses: Places,
    known: Places,
    now: Nanos,
    tick: u32,
) {
    let snapshot = c.snapshot.clone();
    let mut desk = Desk { misses, ..Desk::new(c, port, &snapshot, now, tick) };
    for i in Places::from_bits(misses.bits() | known.bits()).iter() {
        desk.at = i;
        batch.verdict[i] = desk.frame(batch, i);
    }
    desk.serve_deferred();
    desk.bury_orphans();
    desk.part_from_guesses();
}

/// Serves time-outs. Returns whether there may be more.
pub(crate) fn housekeeping<P: Port>(c: &mut Connections, port: &mut P, now: Nanos, tick: u32) -> bool {
    let nobody = c.splices.len() == 0 && c.splices.farewells.is_empty() && c.splices.handshakes.len() == 0;
    if nobody && c.splices.pools.is_empty() && !c.splices.migrations.is_on() {
        return false;
    }
    let snapshot = c.snapshot.clone();
    let mut desk = Desk::new(c, port, &snapshot, now, tick);
    let mut more = desk.serve_queues() | desk.timers() | desk.repeat_handshakes() | desk.ask_filters();
    if desk.c.silent_served != tick {
        // That looks at every service: once a tick is as often as something may come due.
        let rest = desk.end_silent();
        if !rest {
            desk.c.silent_served = tick;
        }
        more |= rest;
    }
    desk.look_after_pools();
    desk.bury_orphans();
    desk.part_from_guesses();
    more
}

/// Goes on with requests that content workers have given back. Returns how many there were.
#[inline(never)]
pub(crate) fn resume<P: Port>(c: &mut Connections, port: &mut P, now: Nanos, tick: u32) -> usize {
    // Asked in every turn while requests are away: most turns must not touch what all workers share.
    let Some(first) = c.splices.away.as_mut().and_then(|away| away.receive(now)) else { return 0 };
    let snapshot = c.snapshot.clone();
    let mut desk = Desk::new(c, port, &snapshot, now, tick);
    let n = desk.come_back(first);
    desk.bury_orphans();
    desk.part_from_guesses();
    n
}

/// Reads a TCP segment out of a frame that classification has parsed; `timed`: with its timestamps.
#[inline(always)]
fn arrival(batch: &Batch, i: usize, timed: bool) -> Option<Arrival> {
    let (l4, end) = (usize::from(batch.l4[i]), usize::from(batch.end[i]));
    let segment = batch.frames[i].bytes().get(l4..end)?;
    let [_, _, _, _, s, e, q, n, a, c, k, d, offset, flags, w, x, ..] = *segment.first_chunk::<{ tcp::HEADER }>()?;
    let header = usize::from(offset >> 4) * 4;
    let options = segment.get(tcp::HEADER..header)?;
    Some(Arrival {
        flags,
        seq: u32::from_be_bytes([s, e, q, n]),
        ack: u32::from_be_bytes([a, c, k, d]),
        window: u16::from_be_bytes([w, x]),
        payload: l4 + header,
        len: segment.len() - header,
        stamps: if timed && !options.is_empty() { read_timestamps(options) } else { None },
    })
}

/// Destination and source address of a frame that goes back where this one came from.
fn link_back(batch: &Batch, i: usize) -> [u8; 12] {
    let mut link = [0; 12];
    if let Some(b) = batch.frames[i].bytes().get(..12) {
        link[..6].copy_from_slice(&b[6..]);
        link[6..].copy_from_slice(&b[..6]);
    }
    link
}

/// What a SYN, or the answer to one, says in its options.
fn syn_options(batch: &Batch, i: usize) -> SynOptions {
    let tcp = batch.frames[i].bytes().get(usize::from(batch.l4[i])..usize::from(batch.end[i]));
    tcp.and_then(|t| Tcp::parse(t).ok()).map(|t| SynOptions::read(t.options())).unwrap_or_default()
}

/// Whether the TCP checksum is right. Whatever the director itself acts on must be.
#[inline]
pub(crate) fn intact(batch: &Batch, i: usize) -> bool {
    if batch.kind[i] == Kind::Transport4 && batch.protocol[i] == protocol::TCP {
        let segment = batch.frames[i].bytes().get(usize::from(batch.l4[i])..usize::from(batch.end[i]));
        return segment.is_some_and(|segment| tcp_v4_checksum_ok(batch.addresses[i], segment));
    }
    intact_other(batch, i)
}

/// The same for what is no TCP over IPv4.
#[inline(never)]
fn intact_other(batch: &Batch, i: usize) -> bool {
    let parsed = Parsed {
        kind: batch.kind[i],
        l3: batch.l3[i],
        l4: batch.l4[i],
        end: batch.end[i],
        protocol: batch.protocol[i],
        tcp_flags: batch.tcp_flags[i],
        addresses: batch.addresses[i],
        ports: batch.ports[i],
    };
    matches!(batch.kind[i], Kind::Transport4 | Kind::Transport6)
        && transport_checksum_ok(batch.frames[i].bytes(), &parsed)
}

impl<'d, P: Port> Desk<'d, P> {
    fn new(c: &'d mut Connections, port: &'d mut P, snapshot: &'d Snapshot, now: Nanos, tick: u32) -> Self {
        let (defers, opens, misses) = (false, later::Opens::Now, Places::default());
        Desk { c, port, snapshot, verified: 0, now, tick, at: 0, defers, opens, stale: None, misses }
    }

    fn frame(&mut self, batch: &mut Batch, i: usize) -> Verdict {
        if !matches!(batch.kind[i], Kind::Transport4 | Kind::Transport6) {
            // A part of a request in each of two fragments would be seen by the server only.
            return Verdict::Drop(DropReason::SplicedFragment);
        }
        if batch.protocol[i] == protocol::UDP {
            return self.message(batch, i);
        }
        let Some(a) = arrival(batch, i, self.c.splices.agrees_stamps()) else {
            return Verdict::Drop(DropReason::BadHeader);
        };
        let Some(place) = self.place_of(batch, i) else { return self.open(batch, i, &a) };
        batch.flow[i] = place.0;
        let flow = self.c.table.get(place.flow());
        if !flow.flags.has(FlowFlags::SPLICED) {
            if a.flags & (SYN | ACK | RST | FIN) == SYN && place.side() == Place::CLIENT {
                return self.syn_over_layer4(batch, i, &a, place.flow());
            }
            return forward::forward_one(self.c, batch, i, self.tick);
        }
        let entry = place.flow();
        if a.flags & (SYN | FIN | RST) != 0 && !self.is_intact(batch, i) {
            // What changes a connection's state must be what its sender said.
            return Verdict::Drop(DropReason::BadTcpChecksum);
        }
        if self.c.splices.get(entry).is_leg {
            return self.leg(batch, i, &a, place.flow(), entry);
        }
        if place.side() == Place::CLIENT {
            self.by_client(batch, i, &a, place.flow(), entry)
        } else {
            self.by_server(batch, i, &a, place.flow(), entry)
        }
    }

    /// The flow and side of a frame: what look-up has found, unless a frame before this one has ended the flow, or made one.
    fn place_of(&self, batch: &Batch, i: usize) -> Option<Place> {
        let place = Place(batch.flow[i]);
        if place.0 != NO_FLOW && lookup::is_of(self.c, batch, i, place) {
            return Some(place);
        }
        let key = super::schedule::key_of(batch, i)?;
        self.c.table.find_hashed(&key, batch.protocol[i], batch.hash[i])
    }

    fn by_client(&mut self, batch: &mut Batch, i: usize, a: &Arrival, flow: u32, entry: u32) -> Verdict {
        let waits = self.c.splices.get(entry).is_direct() && self.c.splices.get(entry).binding == NIL;
        if self.c.table.get(flow).state == TcpState::SynReceived || waits {
            if let Some(verdict) = self.half_open(batch, i, a, flow, entry) {
                return verdict;
            }
        } else if a.flags & SYN != 0 {
            return self.challenge(batch, i, flow, entry);
        }
        match self.c.splices.take(entry) {
            Some(mut b) => {
                let verdict = self.bound_from_client(batch, i, a, flow, &mut b);
                self.c.splices.put(b);
                verdict
            }
            None if self.is_led(flow) => self.led_passes(batch, i, a, flow, entry),
            None if !self.is_attached(flow) => {
                if self.is_filter(flow) {
                    // It was given back, or its server's side is gone; what still comes is late.
                    return Verdict::Drop(DropReason::NoFlow);
                }
                if self.is_pooled(flow) && self.c.table.get(flow).state == TcpState::Established {
                    return self.between_requests(batch, i, a, flow, entry);
                }
                match self.c.table.get(flow).state {
                    TcpState::SynReceived | TcpState::Established => self.first_data(batch, i, a, flow, entry),
                    // It is over; its end is acknowledged again.
                    _ if a.len > 0 || a.flags & FIN != 0 => self.challenge(batch, i, flow, entry),
                    _ => Verdict::Consume,
                }
            }
            None => self.pass_from_client(batch, i, a, flow, entry),
        }
    }

    fn by_server(&mut self, batch: &mut Batch, i: usize, a: &Arrival, flow: u32, entry: u32) -> Verdict {
        if self.c.table.get(flow).state == TcpState::SynReceived && self.c.splices.get(entry).binding == NIL {
            return self.guess_answers(batch, i, a, flow, entry);
        }
        match self.c.splices.take(entry) {
            Some(mut b) => {
                let verdict = self.bound_from_server(batch, i, a, flow, &mut b);
                self.c.splices.put(b);
                verdict
            }
            None => self.pass_from_server(batch, i, a, flow, entry, None),
        }
    }

    /// [`intact`], looked at once for each frame.
    fn is_intact(&mut self, batch: &Batch, i: usize) -> bool {
        let bit = 1 << (i % BURST);
        if self.verified & bit == 0 && intact(batch, i) {
            self.verified |= bit;
        }
        self.verified & bit != 0
    }

    /// Whether a connection has a server's side at present.
    fn is_attached(&self, flow: u32) -> bool {
        self.c.table.get(flow).flags.has(FlowFlags::TRANSLATED)
    }

    /// The rules of a flow's service.
    fn content(&self, service: u16) -> Option<&'d Content> {
        self.snapshot.services.get(usize::from(service)).and_then(Option::as_ref).and_then(|s| s.content.as_deref())
    }

    /// The rules of a flow's service, if it is still the service that its client has called: a slot may have a new owner.
    fn content_of(&self, flow: u32) -> Option<&'d Content> {
        let slot = usize::from(self.c.table.get(flow).service);
        let service = self.snapshot.services.get(slot).and_then(Option::as_ref)?;
        let same = self.c.table.key(flow, Place::CLIENT)?.is_to(service.address, service.port);
        service.content.as_deref().filter(|_| same)
    }

    /// The key of packets that the director sends to the client (`side` 0) or to the server (1) of a flow.
    fn key_toward(&self, flow: u32, side: usize) -> Option<Key> {
        Some(self.c.table.key(flow, side & 1)?.reversed())
    }

    /// Sends a segment of the director's own to one side of a flow. Like a network, it may lose it: when there is no
    /// buffer, no next hop or no room in the ring, a time-out sends it again.
    fn send(&mut self, flow: u32, side: usize, segment: Segment<'_>) {
        let mut room = [0; 40];
        let stamped = if segment.flags & SYN == 0 { self.with_stamps(flow, side, &segment, &mut room) } else { None };
        let segment = stamped.as_ref().unwrap_or(&segment);
        let f = self.c.table.get(flow);
        let tunnel = side == Place::SERVER && f.flags.has(FlowFlags::TUNNEL);
        let (row, server) = (f.next_hop[side & 1], f.server);
        let Some(length) = self.emit(row, tunnel.then_some(server), segment) else { return };
        // Toward the server it counts as the client's, as if it had been forwarded.
        let from = 1 - (side & 1);
        let flow = self.c.table.get_mut(flow);
        flow.packets[from] = flow.packets[from].wrapping_add(1);
        if let Some(t) = self.c.traffic.get_mut(usize::from(server)) {
            t.packets[from] += 1;
            t.bytes[from] += length.saturating_sub(14) as u64;
        }
    }

    /// Sends a segment to a next hop, through the tunnel to a server where one is named. Returns its frame's length, without
    /// what the tunnel adds.
    fn emit(&mut self, row: u16, tunnel: Option<u16>, segment: &Segment<'_>) -> Option<usize> {
        let hop = self.c.hops[usize::from(row)];
        if !hop.resolved {
            self.c.say((1, row), self.tick, crate::command::Event::NeedNextHop(row));
            return None;
        }
        self.put_out(hop.interface, &hop.addresses, tunnel, segment)
    }

    /// The same with what stands in the frame's first 12 bytes.
    fn put_out(&mut self, interface: u8, link: &[u8; 12], tunnel: Option<u16>, segment: &Segment<'_>) -> Option<usize> {
        let mut frame = self.port.allocate()?;
        if !segment.write(&mut frame, link) {
            self.port.release(frame);
            return None;
        }
        let length = frame.len();
        let traced = self.c.traced & 1 << (self.at % BURST) != 0;
        let view = if traced { crate::trace::view(self.c, frame.bytes(), false) } else { None };
        if tunnel.is_some_and(|server| !tunnel::wrap(self.c, &mut frame, server)) {
            self.port.release(frame);
            return None;
        }
        match self.port.transmit(interface, frame) {
            Ok(()) => {
                self.c.made.extend(view.map(|view| (self.at, view)));
                self.c.splices.sent += 1;
                Some(length)
            }
            Err(frame) => {
                self.port.release(frame);
                None
            }
        }
    }

    /// Puts a segment without payload in the place of the frame that it answers.
    fn answer_in_place(&mut self, batch: &mut Batch, i: usize, segment: &Segment<'_>) -> Verdict {
        let link = link_back(batch, i);
        if !segment.write(&mut batch.frames[i], &link) {
            return Verdict::Drop(DropReason::NoBuffer);
        }
        batch.tx[i] = batch.rx[i];
        self.c.splices.sent += 1;
        Verdict::Forward
    }

    /// The same for the connection of a flow, with its timestamps if it has some.
    fn answer_on(&mut self, batch: &mut Batch, i: usize, place: Place, segment: Segment<'_>) -> Verdict {
        let mut room = [0; 40];
        let stamped = self.with_stamps(place.flow(), place.side(), &segment, &mut room);
        self.answer_in_place(batch, i, stamped.as_ref().unwrap_or(&segment))
    }

    /// Whether a server's segment of an older connection is to be answered with a reset of that number: it was not yet, in this batch, and one
    /// ends that connection.
    fn ends_stale(&mut self, flow: u32, seq: u32) -> bool {
        self.stale.replace((flow, seq)) != Some((flow, seq))
    }

    /// A reset for a segment that belongs to no connection (RFC 9293 §3.10.7.1), in its place.
    fn refuse_in_place(&mut self, batch: &mut Batch, i: usize, a: &Arrival) -> Verdict {
        if a.flags & RST != 0 {
            return Verdict::Drop(DropReason::NoFlow);
        }
        let Some(key) = super::schedule::key_of(batch, i).map(|k| k.reversed()) else {
            return Verdict::Drop(DropReason::BadHeader);
        };
        let counted = u32::from(a.flags & SYN != 0) + u32::from(a.flags & FIN != 0);
        let (flags, seq, ack) =
            if a.flags & ACK != 0 { (RST, a.ack, 0) } else { (RST | ACK, 0, a.end().wrapping_add(counted)) };
        let segment = Segment { key, flags, seq, ack, window: 0, options: &[], payload: Payload::NONE };
        self.answer_in_place(batch, i, &segment)
    }

    /// A challenge ACK (RFC 5961 §4.2): what the peer says can't be right, or it would not say it.
    fn challenge(&mut self, batch: &mut Batch, i: usize, flow: u32, entry: u32) -> Verdict {
        let e = self.c.splices.get(entry);
        let first = e.numbers[0].wrapping_add(1);
        let (o, limit) = (e.offsets, e.offsets.limit[Place::CLIENT]);
        // While a request is on its way, only where it will end is known. An old acknowledgement does: who lives
        // ignores it, who has forgotten the connection resets it.
        // (Where it is not known yet, it seems to be behind the first.)
        let far = (MAX_SKIP..1 << 31).contains(&limit.wrapping_sub(first));
        let old = if far { limit.wrapping_sub(MAX_SKIP) } else { first };
        let (seq, ack) = if self.is_attached(flow) {
            (o.seq(Place::SERVER, o.limit[Place::SERVER]), if e.response_known { limit } else { old })
        } else {
            // What a filter's server has said, and has got, is not known here.
            (e.numbers[1].wrapping_add(1), if self.is_led(flow) { old } else { first })
        };
        let Some(key) = self.key_toward(flow, Place::CLIENT) else { return Verdict::Drop(DropReason::NoFlow) };
        let window = self.own_window(flow, 0, entry);
        let segment = Segment { key, flags: ACK, seq, ack, window, options: &[], payload: Payload::NONE };
        self.answer_on(batch, i, Place::new(flow, Place::CLIENT), segment)
    }

    /// Bytes of a request that are held for one connection of a service at most.
    fn room(&self, service: u16) -> usize {
        let limits = self.content(service).map_or_else(Default::default, |c| c.binding.limits);
        limits.head.max(limits.hello) + limits.body
    }

    /// The window to announce to the client, with `held` bytes of its request held already.
    fn own_window(&self, flow: u32, held: usize, entry: u32) -> u16 {
        let room = self.room(self.c.table.get(flow).service).saturating_sub(held);
        let e = self.c.splices.get(entry);
        let scale = if e.offer().scale.is_some() { e.own_scale } else { 0 };
        u16::try_from(room >> scale).unwrap_or(u16::MAX)
    }

    /// How far what is held of a client's may be acknowledged. A filter is given one request at a time, and acknowledges no
    /// more than that: what was acknowledged already of the next one would be taken back.
    fn acknowledged(&self, flow: u32, b: &Binding) -> u32 {
        let next = b.next();
        if b.errand != 0 && self.is_migrated(flow) {
            // Whose the rest is will be known when it comes back.
            return b.start.wrapping_add(b.seen.min(b.buffer.len()) as u32);
        }
        if b.uncut || b.cut == 0 || b.cut >= b.buffer.len() as u64 + u64::from(b.fin) || !self.is_migrated(flow) {
            return next;
        }
        b.start.wrapping_add(b.to_send() as u32)
    }

    /// Acknowledges to the client what is held of its request, if that may be.
    fn acknowledge(&mut self, flow: u32, b: &mut Binding) {
        if b.errand != 0 && self.is_migrated(flow) {
            // When it is back: how much may be, nobody knows yet.
            return;
        }
        let Some(key) = self.key_toward(flow, Place::CLIENT).filter(|_| b.may_ack && b.settled) else { return };
        b.tell(None);
        let window = self.own_window(flow, b.buffer.len(), b.entry);
        let (seq, ack) = (self.client_next(b), self.acknowledged(flow, b));
        let mut options = [0; 28];
        let n = if self.c.splices.get(b.entry).offer().sack { b.sack(&mut options) } else { 0 };
        let options = &options[..n];
        self.send(flow, Place::CLIENT, Segment { key, flags: ACK, seq, ack, window, options, payload: Payload::NONE });
    }

    /// The next number toward the client, as far as the director knows it.
    fn client_next(&self, b: &Binding) -> u32 {
        let next = b.out_start.wrapping_add(b.out_sent as u32);
        // What a server has said meanwhile, the client has acknowledged, or will not mind.
        if !b.settled || b.client_ack.wrapping_sub(next) as i32 > 0 { b.client_ack } else { next }
    }

    /// Resets the client and forgets the connection.
    fn reset_client(&mut self, flow: u32, seq: u32, ack: u32) {
        if let Some(key) = self.key_toward(flow, Place::CLIENT) {
            let flags = RST | ACK;
            self.send(
                flow,
                Place::CLIENT,
                Segment { key, flags, seq, ack, window: 0, options: &[], payload: Payload::NONE },
            );
        }
    }

    /// Resets the server's side of a flow, if it has one, and takes it away.
    fn reset_server(&mut self, flow: u32, seq: u32, ack: u32) {
        if let Some(key) = self.key_toward(flow, Place::SERVER) {
            let flags = RST | ACK;
            self.send(
                flow,
                Place::SERVER,
                Segment { key, flags, seq, ack, window: 0, options: &[], payload: Payload::NONE },
            );
        }
        self.detach(flow);
    }

    /// Takes the server's side away from a flow.
    fn detach(&mut self, flow: u32) {
        if !self.is_attached(flow) {
            return;
        }
        let entry = flow;
        self.leaves_pool(entry);
        self.c.table.get_mut(flow).flags.set(FlowFlags::POOLED, false);
        self.c.table.detach_server(flow);
        self.c.unassign(flow);
        self.c.table.get_mut(flow).flags.set(FlowFlags::TRANSLATED, false);
        if let Some(s) = self.c.splices.stamps(entry) {
            s.leave();
        }
    }

    /// Moves a connection's state as a segment from `side` moves it.
    fn moved_by(&mut self, flow: u32, flags: u8, side: usize) {
        let f = self.c.table.get_mut(flow);
        f.last_seen = self.tick;
        let state = super::state::next_state(f.state, flags, side, true);
        if state != f.state {
            self.c.moved(flow, state, self.tick);
        }
    }

    /// Forwards a frame as the fast path would, with its numbers moved.
    #[inline]
    fn pass(&mut self, batch: &mut Batch, i: usize, place: Place) -> Verdict {
        batch.flow[i] = place.0;
        let entry = place.flow();
        if place.side() == Place::CLIENT
            && batch.tcp_flags[i] & (URG | RST) == URG
            && !self.c.splices.get(entry).offsets.open
        {
            // A server may take urgent bytes out of the stream (RFC 6093 §2): it would find the end of the request elsewhere.
            return Verdict::Drop(DropReason::BadFraming);
        }
        if self.c.splices.get(entry).stamped
            && let Some(a) = arrival(batch, i, true)
        {
            if !self.stamps_go_on(place, entry, &a) && !self.is_intact(batch, i) {
                return Verdict::Drop(DropReason::BadTcpChecksum);
            }
            if place.side() == Place::CLIENT {
                let options = batch.frames[i].bytes().get(usize::from(batch.l4[i]) + 20..a.payload);
                if options.is_none_or(repeats_timestamps) {
                    // Which of them would count?
                    return Verdict::Drop(DropReason::BadHeader);
                }
                self.look_at_stamps(place.flow(), entry, &a);
            }
        }
        forward::forward_one(self.c, batch, i, self.tick)
    }

    /// Forgets a connection, with its binding and legs.
    fn close(&mut self, flow: u32) {
        self.c.close(flow);
    }
}

/// Whether a frame whose flow is known belongs to a spliced connection: then this stage decides about it.
pub(crate) fn is_spliced(c: &Connections, batch: &Batch, i: usize) -> bool {
    c.table.summary(Place(batch.flow[i % BURST])) & SPLICED != 0
}

/// The bit of a flow's summary that says so.
const SPLICED: u32 = Flow::summary_of(0, TcpState::None, FlowFlags::SPLICED);
