//! Guessing a connection's server before its client has asked for anything (tutorial, slides 41–43; SCHEMES, `preallocate`).
//!
//! The handshake runs end to end, with the server's own numbers, so that a right guess leaves nothing to rewrite: from then
//! on the connection is like one between two requests. The first request proves the guess. Not a byte of it goes to a wrong
//! server: that one is reset, and the right one is connected to as with delayed binding, the guessed server's numbers
//! standing for the director's.
//!
//! Only what every server can keep is passed on of the SYN's options (MSS, window scale, SACK), since another server may
//! have to keep it. Timestamps are not: they would have to be the guessed server's, and the director's where it is wrong.

use super::choose::candidates;
use super::decide::is_up;
use super::leg::LEG_WINDOW;
use super::open::SynAck;
use super::{Desk, syn_options};
use crate::content::{Content, Guess, Scheme, Sticky};
use crate::splice::sticky::{hash, hash_address};
use crate::splice::{Arrival, OWN_SCALE};
use lcs_dataplane::batch::Batch;
use lcs_dataplane::flow::{FlowFlags, Key, Place};
use lcs_dataplane::headers::options::SynOptions;
use lcs_dataplane::headers::tcp::flags::{ACK, RST, SYN};
use lcs_dataplane::port::Port;
use lcs_dataplane::splice::{Offer, Offsets, Payload, Segment};
use lcs_dataplane::{DropReason, Verdict};

/// A client that sends its SYN again after so many ticks (an eighth of a second each) without an answer of the guessed server
/// is answered by the director.
pub(super) const UNANSWERED: u32 = 4;
/// With so many connections half open on a worker, no more are opened at servers by a guess: a flood of SYNs is for the
/// director alone.
const HALF_OPEN: usize = 1024;

impl<P: Port> Desk<'_, P> {
    /// Sends a SYN on to a guessed server. `None`: there is none, and the director is to answer.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn preallocate(
        &mut self,
        batch: &mut Batch,
        i: usize,
        a: &Arrival,
        slot: u16,
        content: &Content,
        key: &Key,
        offer: Offer,
    ) -> Option<Verdict> {
        let Scheme::Preallocate(guess) = &content.binding.scheme else { return None };
        // A client that was sent a cookie may bring that back: it must not be told another number.
        if self.c.timers.half_open() >= HALF_OPEN || self.c.splices.was_sent_cookie(batch.hash[i], self.now) {
            return None;
        }
        let Some(server) = self.guess(slot, content, guess, key) else {
            if let Some(tally) = self.c.splices.tally(slot) {
                tally.guesses.none += 1;
            }
            return None;
        };
        let direct = self.answers_directly(server);
        if direct && !self.c.splices.proven.is(key.source().ip(), self.now) {
            // Who merely pretends to be there is answered by the director, which knows what it has said.
            if let Some(tally) = self.c.splices.tally(slot) {
                tally.guesses.none += 1;
            }
            return None;
        }
        let flow = match self.enter(batch, i, slot, key, [a.seq, 0], offer) {
            Ok(flow) => flow,
            Err(reason) => return Some(Verdict::Drop(reason)),
        };
        let entry = flow;
        if !direct && !self.attach(flow, server) {
            return Some(self.answer_syn(batch, i, flow, entry));
        }
        if let Some(tally) = self.c.splices.tally(slot) {
            tally.guesses.made += 1;
        }
        if direct {
            return Some(self.lead_to_guess(batch, i, a, flow, entry, server, content.binding.server_scale));
        }
        self.send_syn_as(flow, entry, a.seq, a.window);
        Some(Verdict::Consume)
    }

    /// The server that a client is likely to ask for.
    fn guess(&mut self, slot: u16, content: &Content, guess: &Guess, key: &Key) -> Option<u16> {
        let snapshot = self.snapshot;
        let of = |s: u16| snapshot.servers.get(usize::from(s)).and_then(Option::as_ref);
        let usable = |s: u16| is_up(snapshot, s);
        let service = snapshot.services.get(usize::from(slot)).and_then(Option::as_ref)?;
        let client = key.source();
        let (address, rules) = (hash_address(client.ip()), self.c.splices.rules_of(slot));
        let guesses = &self.c.splices.guesses;
        let rule = match guess {
            Guess::Server(name) => {
                let named = |s: &u16| of(*s).is_some_and(|server| server.name == *name);
                return service.servers.iter().copied().find(named).filter(|&s| usable(s));
            }
            Guess::Hash => {
                let mut bytes = [0; 10];
                bytes[..8].copy_from_slice(&address.to_ne_bytes());
                bytes[8..].copy_from_slice(&client.port().to_ne_bytes());
                return self.rendezvous(hash(&bytes), &service.servers, &usable);
            }
            Guess::Client => guesses.last(address, slot, rules).or_else(|| guesses.most(slot, rules)),
            Guess::Frequency => guesses.most(slot, rules),
        };
        // The rule is guessed; who of its group serves is chosen as always.
        let (_, action) = content.program.rule(rule?)?;
        let (servers, group, scheduler) = candidates(content, action)?;
        if *content.sticky(action) == Sticky::Source {
            return self.rendezvous(address, servers, &usable);
        }
        self.scheduled(slot, (servers, group, scheduler), &usable)
    }

    /// A rule has taken a request: what later guesses go by.
    pub(super) fn learn_rule(&mut self, flow: u32, content: &Content, rule: u32) {
        let serves = || content.program.rule(rule).is_some_and(|(_, action)| candidates(content, action).is_some());
        if !content.binding.scheme.learns() || !serves() {
            return;
        }
        let service = self.c.table.get(flow).service;
        let Some(key) = self.c.table.key(flow, Place::CLIENT) else { return };
        let rules = self.c.splices.rules_of(service);
        self.c.splices.guesses.learn(hash_address(key.source().ip()), service, rules, rule);
    }

    /// The director answers a SYN itself, in its place: nobody has.
    fn answer_syn(&mut self, batch: &mut Batch, i: usize, flow: u32, entry: u32) -> Verdict {
        let Some(key) = super::super::schedule::key_of(batch, i) else { return Verdict::Drop(DropReason::BadHeader) };
        let (numbers, offer) = self.own_numbers(entry, &key);
        let slot = self.c.table.get(flow).service;
        self.syn_ack_in_place(batch, i, &SynAck { slot, key, numbers, offer, stamps: None })
    }

    /// Gives a connection an initial number of the director's own.
    fn own_numbers(&mut self, entry: u32, key: &Key) -> ([u32; 2], Offer) {
        let e = *self.c.splices.get(entry);
        let isn = self.c.splices.cookies.make(key, e.numbers[0], e.offer(), self.now);
        let e = self.c.splices.get_mut(entry);
        e.numbers[1] = isn;
        e.own_scale = OWN_SCALE;
        e.response_known = true;
        (e.numbers, e.offer())
    }

    /// Takes a guessed server away, which has seen a handshake at most.
    pub(super) fn drop_guess(&mut self, flow: u32, entry: u32) {
        let e = *self.c.splices.get(entry);
        let next = e.numbers[0].wrapping_add(1);
        if let Some(key) = self.key_toward(flow, Place::SERVER) {
            // Where it has not answered, no acknowledgement of ours could be right.
            let (flags, ack) = if e.response_known { (RST | ACK, e.offsets.limit[Place::SERVER]) } else { (RST, 0) };
            self.send(
                flow,
                Place::SERVER,
                Segment { key, flags, seq: next, ack, window: 0, options: &[], payload: Payload::NONE },
            );
        }
        self.let_go_of_guess(flow, entry);
    }

    /// The same when it knows already, or has been told.
    fn let_go_of_guess(&mut self, flow: u32, entry: u32) {
        let server = self.c.table.get(flow).server;
        self.detach(flow);
        self.c.splices.get_mut(entry).let_go_of_guess(server);
    }

    /// The first request has proved a guess right or wrong.
    pub(super) fn guessed(&mut self, flow: u32, entry: u32, right: bool) {
        debug_assert!(self.c.splices.get(entry).is_guess());
        if let Some(tally) = self.c.splices.tally(self.c.table.get(flow).service) {
            *(if right { &mut tally.guesses.right } else { &mut tally.guesses.wrong }) += 1;
        }
    }

    /// The guessed server ends its connection before it was asked for anything: the client does without it.
    pub(super) fn guess_ends(&mut self, a: &Arrival, flow: u32, entry: u32) -> Verdict {
        if a.flags & RST != 0 && a.seq != self.c.splices.get(entry).offsets.limit[Place::SERVER] {
            return Verdict::Drop(DropReason::OutOfWindow);
        }
        self.unanswered(flow);
        if a.flags & RST != 0 {
            self.let_go_of_guess(flow, entry);
        } else {
            self.drop_guess(flow, entry);
        }
        Verdict::Consume
    }

    pub(super) fn unanswered(&mut self, flow: u32) {
        if let Some(tally) = self.c.splices.tally(self.c.table.get(flow).service) {
            tally.guesses.unanswered += 1;
        }
    }

    /// A client's segment while its handshake with a guessed server runs. `None`: go on with it.
    pub(super) fn half_open_guess(
        &mut self,
        batch: &mut Batch,
        i: usize,
        a: &Arrival,
        flow: u32,
        entry: u32,
    ) -> Option<Verdict> {
        let e = *self.c.splices.get(entry);
        let next = e.numbers[0].wrapping_add(1);
        let answered = e.response_known;
        if a.flags & RST != 0 {
            // RFC 5961 §3.2: exactly the next number, or it is a guess.
            if a.seq != next {
                return Some(Verdict::Drop(DropReason::OutOfWindow));
            }
            self.drop_guess(flow, entry);
            self.close(flow);
            return Some(Verdict::Consume);
        }
        if a.flags & SYN != 0 {
            if a.flags & ACK != 0 {
                return Some(self.refuse_in_place(batch, i, a));
            }
            if a.seq != e.numbers[0] {
                // Another connection from the same port.
                self.drop_guess(flow, entry);
                self.close(flow);
                return Some(self.open(batch, i, a));
            }
            let waited = self.tick.wrapping_sub(self.c.table.get(flow).last_seen);
            if !answered && waited >= UNANSWERED {
                self.unanswered(flow);
                self.drop_guess(flow, entry);
                self.c.table.get_mut(flow).last_seen = self.tick;
                return Some(self.answer_syn(batch, i, flow, entry));
            }
            // Its server answers again, if it has answered.
            self.send_syn_as(flow, entry, a.seq, a.window);
            return Some(Verdict::Consume);
        }
        if a.flags & ACK == 0 {
            return Some(Verdict::Drop(DropReason::NoFlow));
        }
        if !answered {
            return Some(Verdict::Drop(DropReason::OutOfWindow));
        }
        if a.ack != e.numbers[1].wrapping_add(1) {
            return Some(self.refuse_in_place(batch, i, a));
        }
        self.address_is_proven(flow);
        self.moved_by(flow, 0, Place::CLIENT);
        None
    }

    /// A server's segment before the client has ended the handshake.
    pub(super) fn guess_answers(&mut self, batch: &mut Batch, i: usize, a: &Arrival, flow: u32, entry: u32) -> Verdict {
        let e = *self.c.splices.get(entry);
        let (next, answered) = (e.numbers[0].wrapping_add(1), e.response_known);
        if !self.is_intact(batch, i) {
            return Verdict::Drop(DropReason::BadTcpChecksum);
        }
        if a.flags & (RST | ACK) == ACK && a.ack != next {
            // It still has an older connection: this ends it there. The client, which sends its SYN again, is answered by the
            // director.
            if !self.ends_stale(flow, a.ack) {
                return Verdict::Drop(DropReason::OutOfWindow);
            }
            let Some(key) = self.key_toward(flow, Place::SERVER) else { return Verdict::Drop(DropReason::NoFlow) };
            let segment =
                Segment { key, flags: RST, seq: a.ack, ack: 0, window: 0, options: &[], payload: Payload::NONE };
            return self.answer_in_place(batch, i, &segment);
        }
        if a.flags & (SYN | ACK | RST) == SYN | ACK {
            // Also a second answer with another number: the first has not reached the client, or it will say so.
            self.pass_answer(batch, i, a, flow, entry);
            return Verdict::Consume;
        }
        if answered {
            return self.pass_from_server(batch, i, a, flow, entry, None);
        }
        if a.flags & (RST | ACK) == RST | ACK && a.ack == next {
            // It refuses. Another one will not.
            self.unanswered(flow);
            self.let_go_of_guess(flow, entry);
            if let Some(key) = self.c.table.key(flow, Place::CLIENT) {
                let (numbers, offer) = self.own_numbers(entry, &key);
                let ours =
                    SynOptions { mss: None, scale: offer.scale.map(|_| OWN_SCALE), sack: offer.sack, timestamps: None };
                let window = u16::try_from(self.room(self.c.table.get(flow).service)).unwrap_or(u16::MAX);
                self.send_syn_ack(flow, numbers[1], numbers[0].wrapping_add(1), window, ours);
            }
            return Verdict::Consume;
        }
        Verdict::Drop(DropReason::OutOfWindow)
    }

    /// The guessed server's answer: what it can do, and its number, are the connection's from now on.
    fn pass_answer(&mut self, batch: &Batch, i: usize, a: &Arrival, flow: u32, entry: u32) {
        let o = syn_options(batch, i);
        self.note_server(flow, entry, a.window, &o);
        let e = self.c.splices.get_mut(entry);
        let offer = e.offer();
        let theirs = o.scale.filter(|_| offer.scale.is_some());
        // With a larger one than the director's, a window of the director's own could come to nothing.
        let scale = theirs.map(|theirs| theirs.min(OWN_SCALE));
        e.set_offer(Offer { scale: offer.scale.filter(|_| scale.is_some()), sack: offer.sack && o.sack, ..offer });
        e.own_scale = scale.unwrap_or(0);
        e.numbers[1] = a.seq;
        e.offsets = Offsets::new(0, 0).with_shifts(0, theirs.unwrap_or(0) as i8 - e.own_scale as i8);
        e.offsets.limit = e.numbers.map(|n| n.wrapping_add(1));
        e.response_known = true;
        let options = SynOptions { mss: o.mss, scale, sack: e.offer().sack, timestamps: None };
        let ack = e.numbers[0].wrapping_add(1);
        self.send_syn_ack(flow, a.seq, ack, a.window, options);
    }

    /// Sends a SYN+ACK to the client. No larger MSS than every server's path has.
    pub(super) fn send_syn_ack(&mut self, flow: u32, seq: u32, ack: u32, window: u16, options: SynOptions) {
        let Some(key) = self.key_toward(flow, Place::CLIENT) else { return };
        let f = self.c.table.get(flow);
        let (service, v6) = (f.service, f.is_v6());
        let interface = self.c.hops[usize::from(f.next_hop[Place::CLIENT])].interface;
        let most = self.own_mss(service, interface, v6);
        let mss = Some(options.mss.unwrap_or(most).min(most));
        let mut written = [0; 40];
        let n = SynOptions { mss, ..options }.write(&mut written);
        let segment =
            Segment { key, flags: SYN | ACK, seq, ack, window, options: &written[..n], payload: Payload::NONE };
        self.send(flow, Place::CLIENT, segment);
    }

    /// A guessed server repeats its answer: the client's acknowledgement was lost on the way to it. Its window is told by
    /// the client's next segment.
    pub(super) fn acknowledge_guess(&mut self, batch: &mut Batch, i: usize, flow: u32, entry: u32) -> Verdict {
        let [seq, ack] = self.c.splices.get(entry).offsets.limit;
        let Some(key) = self.key_toward(flow, Place::SERVER) else { return Verdict::Drop(DropReason::NoFlow) };
        let segment = Segment { key, flags: ACK, seq, ack, window: LEG_WINDOW, options: &[], payload: Payload::NONE };
        self.answer_in_place(batch, i, &segment)
    }

    /// A connection of which nothing has to be looked at or rewritten any more is one of layer 4.
    pub(super) fn become_layer4(&mut self, flow: u32, entry: u32) {
        let e = self.c.splices.get(entry);
        if !(e.offsets.open && e.offsets.is_identity() && e.legs == crate::splice::NIL && !e.is_leg) {
            return;
        }
        self.c.splices.release(entry, self.c.table.get(flow).service);
        let f = self.c.table.get_mut(flow);
        f.flags.set(FlowFlags::SPLICED, false);
        // The entry's number is none of layer 4's notes.
        f.extra = 0;
    }
}
