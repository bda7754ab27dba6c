//! Guessing a server that answers its clients directly: `preallocate` over direct routing and tunnels (SCHEMES).
//!
//! What such a server says, the director does not see. Its number is known by what the client acknowledges; of what the two
//! may agree on, only that is offered which every server keeps (MSS, SACK) or which is configured (the window scale). The
//! client's first acknowledgement is held with its first data, so that a server that was guessed wrong has seen a SYN and
//! nothing else, and forgets it with the reset. A right guess is a connection of layer 4 from the request on. A wrong one is
//! mended by full NAT, as with delayed binding, the guessed server's number standing for the director's.
//!
//! Nothing is acknowledged to a client before the decision: whoever acknowledges must deliver, and the guessed server's
//! acknowledgements are not seen. What is not decided by then is bound late.

use super::Desk;
use super::guess::UNANSWERED;
use super::pass::shorten;
use crate::content::Switching;
use crate::extract::BodyFollower;
use crate::snapshot::{Forward, NO_SLOT};
use crate::splice::{Arrival, Binding};
use lcs_dataplane::batch::Batch;
use lcs_dataplane::flow::{FlowFlags, Place, TcpState};
use lcs_dataplane::headers::options::{SynOptions, kind};
use lcs_dataplane::headers::parse::{fill_transport_checksum, parse};
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, PSH, RST, SYN, URG};
use lcs_dataplane::headers::{ipv4, ipv6};
use lcs_dataplane::port::Port;
use lcs_dataplane::splice::{Offer, Offsets, Payload, Segment};
use lcs_dataplane::worker::Nanos;
use lcs_dataplane::{DropReason, Verdict};

/// How long a request may be held without being acknowledged, nanoseconds: as long as receivers delay acknowledgements, so
/// that no client takes it for lost (RFC 9293 §3.8.6.3 allows 500 ms; Linux waits 40).
pub(super) const HELD: Nanos = 40_000_000;

/// What a server may have said before it was asked for anything, bytes: no window is larger (RFC 7323 §2.3).
const SPOKEN: u32 = 1 << 30;

impl<P: Port> Desk<'_, P> {
    /// Whether a server answers its clients directly.
    pub(super) fn answers_directly(&self, server: u16) -> bool {
        let s = self.snapshot.servers.get(usize::from(server)).and_then(Option::as_ref);
        s.is_some_and(|s| matches!(s.forward, Forward::Dr | Forward::Tunnel))
    }

    /// Whether a flow has a guessed server that answers directly, and nothing is decided yet.
    pub(super) fn is_direct_guess(&self, flow: u32) -> bool {
        let f = self.c.table.get(flow);
        f.flags.has(FlowFlags::SPLICED) && f.server != NO_SLOT && self.c.splices.get(flow).is_direct()
    }

    /// The client has acknowledged a number that the director knows: its address is its own.
    pub(super) fn address_is_proven(&mut self, flow: u32) {
        if let Some(key) = self.c.table.key(flow, Place::CLIENT) {
            self.c.splices.proven.prove(key.source().ip(), self.now);
        }
    }

    /// The address resets what a guess was made for: perhaps it never asked for it, and somebody else writes it on SYNs. It is to
    /// prove itself again.
    pub(super) fn address_denies(&mut self, flow: u32) {
        if let Some(key) = self.c.table.key(flow, Place::CLIENT) {
            self.c.splices.proven.forget(key.source().ip());
        }
    }

    /// Sends a SYN on to a guessed server, with what is offered cut down to what can be kept.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn lead_to_guess(
        &mut self,
        batch: &mut Batch,
        i: usize,
        a: &Arrival,
        flow: u32,
        entry: u32,
        server: u16,
        scale: Option<u8>,
    ) -> Verdict {
        self.lead(flow, server);
        let e = self.c.splices.get_mut(entry);
        let offer = e.offer();
        e.set_offer(Offer { scale: offer.scale.filter(|_| scale.is_some()), ..offer });
        e.own_scale = scale.unwrap_or(0);
        e.response_known = false;
        e.set_direct(true);
        self.pass_syn(batch, i, a, flow, entry)
    }

    fn pass_syn(&mut self, batch: &mut Batch, i: usize, a: &Arrival, flow: u32, entry: u32) -> Verdict {
        let scales = self.c.splices.get(entry).offer().scale.is_some();
        // Data of a SYN (RFC 7413) would be read by nobody before the server has it.
        if !shorten(batch, i, a.payload) || !narrow(batch, i, scales) {
            return Verdict::Drop(DropReason::BadHeader);
        }
        self.pass(batch, i, Place::new(flow, Place::CLIENT))
    }

    /// Takes the guessed server away, which has seen a SYN at most (or a repeated acknowledgement). A reset with the number that
    /// follows the SYN ends that in every state; an acknowledgement of the director's could only be wrong.
    fn drop_direct(&mut self, flow: u32, entry: u32) {
        if self.c.table.get(flow).server == NO_SLOT {
            return;
        }
        if let Some(keys) = self.c.table.keys(flow) {
            let seq = self.c.splices.get(entry).numbers[0].wrapping_add(1);
            let segment =
                Segment { key: keys.client, flags: RST, seq, ack: 0, window: 0, options: &[], payload: Payload::NONE };
            self.send(flow, Place::SERVER, segment);
        }
        self.c.unassign(flow);
        self.c.table.get_mut(flow).flags.set(FlowFlags::TUNNEL, false);
    }

    /// Goes on without the guessed server: from here on the connection is one that is bound late. `undecided`: whether the guess
    /// was right is not known in time.
    pub(super) fn give_up_guess(&mut self, flow: u32, b: &mut Binding, undecided: bool) {
        if undecided && let Some(tally) = self.c.splices.tally(self.c.table.get(flow).service) {
            tally.guesses.undecided += 1;
        }
        self.drop_direct(flow, b.entry);
        self.c.splices.get_mut(b.entry).set_direct(false);
        b.may_ack = true;
        b.disarm();
    }

    /// A client's segment before its first data, while its server is guessed. `None`: go on with it.
    pub(super) fn half_open_direct(
        &mut self,
        batch: &mut Batch,
        i: usize,
        a: &Arrival,
        flow: u32,
        entry: u32,
    ) -> Option<Verdict> {
        let e = *self.c.splices.get(entry);
        let next = e.numbers[0].wrapping_add(1);
        let guessed = self.c.table.get(flow).server != NO_SLOT;
        if a.flags & RST != 0 {
            // RFC 5961 §3.2: exactly the next number, or it is a guess.
            if a.seq != next {
                return Some(Verdict::Drop(DropReason::OutOfWindow));
            }
            if guessed {
                self.address_denies(flow);
            }
            self.drop_direct(flow, entry);
            self.close(flow);
            return Some(Verdict::Consume);
        }
        if a.flags & SYN != 0 {
            if a.flags & ACK != 0 {
                return Some(self.refuse_in_place(batch, i, a));
            }
            if a.seq != e.numbers[0] && self.c.table.get(flow).state == TcpState::Established {
                // RFC 5961 §4: anybody can send one. Who has forgotten the connection resets it.
                return Some(self.challenge(batch, i, flow, entry));
            }
            if a.seq != e.numbers[0] {
                // Another connection from the same port, and perhaps for the same server.
                self.drop_direct(flow, entry);
                self.close(flow);
                return Some(self.open(batch, i, a));
            }
            if e.response_known {
                // It has been answered: this one is late.
                return Some(Verdict::Drop(DropReason::OutOfWindow));
            }
            let waited = self.tick.wrapping_sub(self.c.table.get(flow).last_seen);
            if guessed && waited < UNANSWERED {
                return Some(self.pass_syn(batch, i, a, flow, entry));
            }
            return Some(self.answer_for_guess(flow, entry, guessed));
        }
        if a.flags & ACK == 0 {
            return Some(Verdict::Drop(DropReason::NoFlow));
        }
        if a.seq.wrapping_sub(next) as usize > self.room(self.c.table.get(flow).service) {
            return Some(Verdict::Drop(DropReason::OutOfWindow));
        }
        // What it acknowledges is the number of whoever has answered: the guessed server, or the director in its place.
        let first = a.ack;
        let repeated = e.response_known && e.numbers[1].wrapping_add(1) == first;
        if !guessed && !e.response_known && e.numbers[1].wrapping_add(1) == first {
            // The director's own number, after all.
            self.address_is_proven(flow);
        }
        let e = self.c.splices.get_mut(entry);
        e.numbers[1] = first.wrapping_sub(1);
        e.offsets = Offsets::new(0, 0);
        e.offsets.limit = [next, first];
        e.response_known = true;
        if a.len > 0 || a.flags & FIN != 0 {
            if !guessed {
                e.set_direct(false);
            }
            return None;
        }
        if guessed && self.c.table.get(flow).state == TcpState::SynReceived {
            // As at layer 4: for its client it is established, however long that takes to ask for something.
            self.c.moved(flow, TcpState::Established, self.tick);
        }
        let since = self.tick.wrapping_sub(self.c.table.get(flow).last_seen);
        if guessed && repeated && since >= UNANSWERED {
            // The server repeats its answer, since the acknowledgement of it is held: it waits no longer. A copy that comes sooner is the
            // network's, and is held too: what ends a wrong guess, in the same batch, would arrive before it, and the server, which knows the
            // connection no more then, would reset the client for it.
            return Some(self.pass(batch, i, Place::new(flow, Place::CLIENT)));
        }
        let f = self.c.table.get_mut(flow);
        f.packets[Place::CLIENT] = f.packets[Place::CLIENT].wrapping_add(1);
        Some(Verdict::Consume)
    }

    /// The client sends its SYN again: nobody has answered, and the director does. Should the server's answer come to the client
    /// after all, it goes on with that one's number.
    fn answer_for_guess(&mut self, flow: u32, entry: u32, guessed: bool) -> Verdict {
        let Some(key) = self.c.table.key(flow, Place::CLIENT) else {
            return Verdict::Drop(DropReason::NoFlow);
        };
        if guessed {
            self.unanswered(flow);
            self.drop_direct(flow, entry);
            let e = *self.c.splices.get(entry);
            let isn = self.c.splices.cookies.make(&key, e.numbers[0], e.offer(), self.now);
            self.c.splices.get_mut(entry).numbers[1] = isn;
        }
        self.c.table.get_mut(flow).last_seen = self.tick;
        let e = *self.c.splices.get(entry);
        let offer = e.offer();
        let scale = offer.scale.map(|_| e.own_scale);
        let ours = SynOptions { mss: None, scale, sack: offer.sack, timestamps: None };
        let window = u16::try_from(self.room(self.c.table.get(flow).service)).unwrap_or(u16::MAX);
        self.send_syn_ack(flow, e.numbers[1], e.numbers[0].wrapping_add(1), window, ours);
        Verdict::Consume
    }

    /// Whether the guessed server may still be left alone with its client: other rules, or another way to it, may have come since.
    fn may_go_directly(&self, flow: u32) -> bool {
        let once = self.content_of(flow).is_some_and(|c| c.binding.switching == Switching::Connection);
        once && self.answers_directly(self.c.table.get(flow).server)
    }

    /// The first data of a client whose server is guessed: where it is enough to decide by, and for that server, it goes on as
    /// it came, and the connection is one of layer 4. `None`: it must be held.
    pub(super) fn request_goes_directly(
        &mut self,
        batch: &mut Batch,
        i: usize,
        a: &Arrival,
        flow: u32,
        entry: u32,
    ) -> Option<Verdict> {
        if !self.may_go_directly(flow) {
            return None;
        }
        let first = self.c.splices.get(entry).numbers[0].wrapping_add(1);
        if a.seq != first || a.flags & (FIN | URG) != 0 || !super::pass::is_plain(batch, i, false) {
            return None;
        }
        let read = self.read_in_place(batch, i, a, flow, entry)?;
        debug_assert_eq!(read.body, BodyFollower::UntilClose, "nothing is followed whose answer is not seen");
        let errors = self.c.icmp_sent;
        let verdict = self.pass(batch, i, Place::new(flow, Place::CLIENT));
        if verdict != Verdict::Forward || self.c.icmp_sent != errors {
            // It has gone nowhere, or back as an error (too long for the tunnel): whatever comes in its place is to be decided.
            return Some(verdict);
        }
        // Wherever this copy gets to: the client sends it again until the server has it.
        self.is_of_layer4(flow, entry);
        Some(verdict)
    }

    /// What is held is for the guessed server: it is sent on, and the connection is one of layer 4. `false`: it can't be.
    pub(super) fn goes_on_directly(&mut self, flow: u32, b: &mut Binding) -> bool {
        let e = *self.c.splices.get(b.entry);
        let said = b.out_pending() || b.out_start != e.numbers[1].wrapping_add(1);
        if said || !b.uncut || !self.may_go_directly(flow) {
            return false;
        }
        let Some(key) = self.c.table.key(flow, Place::CLIENT) else { return false };
        self.guessed(flow, b.entry, true);
        if let Some((group, server)) = b.toward.take()
            && let Some(tally) = self.c.splices.tally(self.c.table.get(flow).service)
        {
            tally.sent(group, server);
        }
        let size = self.segment_size(flow);
        let mut rest = &b.buffer[..];
        let mut seq = b.start;
        loop {
            let (payload, left) = rest.split_at(rest.len().min(size));
            rest = left;
            let last = rest.is_empty();
            let flags = ACK | if last { PSH } else { 0 } | if last && b.fin { FIN } else { 0 };
            let (ack, window) = (b.client_ack, b.client_window);
            self.send(
                flow,
                Place::SERVER,
                Segment { key, flags, seq, ack, window, options: &[], payload: payload.into() },
            );
            seq = seq.wrapping_add(payload.len() as u32);
            if last {
                break;
            }
        }
        b.done = true;
        self.is_of_layer4(flow, b.entry);
        if b.fin {
            // The client's end is all that will be seen of it, as at layer 4; so far it was the director that had been told.
            self.c.moved(flow, TcpState::FinWait, self.tick);
        }
        true
    }

    /// Payload of a segment that the way to a guessed server carries, bytes. What that server can take is between it and its
    /// client; no service's servers take less than the service's MSS.
    fn segment_size(&self, flow: u32) -> usize {
        let f = self.c.table.get(flow);
        let hop = self.c.hops[usize::from(f.next_hop[Place::SERVER])];
        let server = self.snapshot.servers.get(usize::from(f.server)).and_then(Option::as_ref);
        let outer = match server.filter(|_| f.flags.has(FlowFlags::TUNNEL)) {
            Some(s) if s.address.is_ipv6() => ipv6::HEADER,
            Some(_) => ipv4::HEADER,
            None => 0,
        };
        let headers = outer + if f.is_v6() { 60 } else { 40 };
        let most = self.content(f.service).map_or(536, |c| c.binding.mss);
        usize::from(most).min(usize::from(hop.mtu).saturating_sub(headers)).max(64)
    }

    /// From here on nobody looks at it, but at a SYN with another number than its own ([`Desk::syn_over_layer4`]).
    fn is_of_layer4(&mut self, flow: u32, entry: u32) {
        let service = self.c.table.get(flow).service;
        let first = self.c.splices.get(entry).numbers[0];
        self.c.splices.release(entry, service);
        let f = self.c.table.get_mut(flow);
        f.flags.set(FlowFlags::SPLICED, false);
        f.extra = first;
        // Nothing is noted of it yet.
        f.ip_difference = 0;
        f.last_seen = self.tick;
    }

    /// A client's SYN where its last connection from that port has been given to a server that answers unseen. If it is a new one,
    /// the client knows nothing of the old one, and says so to an acknowledgement of that (RFC 5961 §4.2); then it is over.
    pub(super) fn syn_over_layer4(&mut self, batch: &mut Batch, i: usize, a: &Arrival, flow: u32) -> Verdict {
        let f = self.c.table.get(flow);
        let old = f.extra;
        if !super::super::lookup::was_decided(self.c, f) {
            return self.pass(batch, i, Place::new(flow, Place::CLIENT));
        }
        if a.seq == old {
            // Late: its answer has been acknowledged.
            return Verdict::Drop(DropReason::OutOfWindow);
        }
        let back = super::super::schedule::key_of(batch, i).map(|k| k.reversed());
        let Some(key) = back else { return Verdict::Drop(DropReason::BadHeader) };
        let ack = old.wrapping_add(1);
        self.answer_in_place(
            batch,
            i,
            &Segment { key, flags: ACK, seq: 0, ack, window: 0, options: &[], payload: Payload::NONE },
        )
    }

    /// Whether a client acknowledges what only its guessed server can have said, before it was asked: more than the handshake.
    pub(super) fn guess_has_spoken(&self, flow: u32, ack: u32, b: &Binding) -> bool {
        let ahead = ack.wrapping_sub(b.out_end());
        self.is_direct_guess(flow) && (1..=SPOKEN).contains(&ahead)
    }

    /// What it has said is not the director's to go on from (it tires of waiting, or closes): both are told that it is over, so that
    /// the client comes again.
    pub(super) fn end_spoken(&mut self, flow: u32, ack: u32, b: &mut Binding) {
        self.drop_direct(flow, b.entry);
        self.reset_client(flow, ack, b.next());
        b.done = true;
        self.close(flow);
    }

    /// A binding whose guessed server is not to get what comes before it is decided.
    pub(super) fn wait_for_decision(&mut self, b: &mut Binding) {
        b.may_ack = false;
        b.resend_at = self.now + HELD;
    }

    /// A client may wait for the acknowledgement of what it has sent before it sends the rest: it gets it, from the director.
    pub(super) fn not_decided_in_time(&mut self, flow: u32, b: &mut Binding) {
        self.give_up_guess(flow, b, true);
        self.acknowledge(flow, b);
    }

    /// Resets the guessed servers of connections that were forgotten.
    pub(super) fn part_from_guesses(&mut self) {
        while let Some(f) = self.c.splices.farewells.next() {
            let flags = RST | if f.ack.is_some() { ACK } else { 0 };
            let (seq, ack) = (f.seq, f.ack.unwrap_or(0));
            let segment = Segment { key: f.key, flags, seq, ack, window: 0, options: &[], payload: Payload::NONE };
            self.emit(f.hop, f.tunnel.then_some(f.server), &segment);
        }
    }
}

/// Takes out of a SYN what no other server could keep: all options but MSS, SACK and, where it is known what comes of it, the
/// window scale; and ECN (RFC 3168 §6.1.1). `false` when it can't be read.
fn narrow(batch: &mut Batch, i: usize, scales: bool) -> bool {
    let l4 = usize::from(batch.l4[i]);
    let b = batch.frames[i].bytes_mut();
    let Some(header) = b.get_mut(l4..l4 + 20) else { return false };
    header[12] &= 0xf0;
    header[13] &= SYN;
    let length = usize::from(header[12] >> 4) * 4;
    let Some(options) = b.get_mut(l4 + 20..l4 + length) else { return false };
    let mut at = 0;
    while let Some(&k) = options.get(at) {
        let n = match k {
            kind::END => break,
            kind::NOP => 1,
            _ => options.get(at + 1).map_or(0, |n| usize::from(*n)),
        };
        if n == 0 || k != kind::NOP && n < 2 || at + n > options.len() {
            options[at..].fill(kind::NOP);
            break;
        }
        if !(k == kind::MSS || k == kind::SACK_PERMITTED || k == kind::SCALE && scales) {
            options[at..at + n].fill(kind::NOP);
        }
        at += n;
    }
    let Ok(parsed) = parse(b, false) else { return false };
    fill_transport_checksum(b, &parsed)
}
