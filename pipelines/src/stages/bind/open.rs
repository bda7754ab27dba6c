//! The handshake with the client, before any server is known.
//!
//! Only what can be kept is promised (SPLICING, Handshake with the client): an MSS that every path has, window scale
//! (translated once the server's is known), SACK (blanked where the server refuses it), and timestamps where the service says
//! that all its servers know them. MPTCP, TFO, MD5, AO and ECN are not echoed, so not negotiated.

use super::super::schedule::{key_of, may_send};
use super::{Desk, syn_options};
use crate::content::{Scheme, SynPolicy};
use crate::snapshot::{NO_SLOT, WhenFull};
use crate::splice::{Arrival, OWN_SCALE};
use lcs_dataplane::batch::Batch;
use lcs_dataplane::flow::{FlowFlags, Key, Place, TableFull, TcpState};
use lcs_dataplane::headers::ethernet;
use lcs_dataplane::headers::options::{DEFAULT_MSS_V4, DEFAULT_MSS_V6, SynOptions};
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, RST, SYN};
use lcs_dataplane::port::Port;
use lcs_dataplane::splice::{Offer, Payload, Segment};
use lcs_dataplane::{BURST, DropReason, Verdict};

/// Share of the flow table that may be half open before SYNs are answered with cookies: one in so many.
const HALF_OPEN_SHARE: usize = 8;

/// No path is taken to carry segments of less, bytes: the lowest plateau in use (RFC 1191 §7.1) less headers.
const LEAST_OWN_MSS: u16 = 256;

/// The director's answer to a SYN.
pub(super) struct SynAck {
    /// Slot of the service that is called.
    pub(super) slot: u16,
    /// The key of the client's packets.
    pub(super) key: Key,
    /// The client's initial number, and the director's.
    pub(super) numbers: [u32; 2],
    /// What the client offers.
    pub(super) offer: Offer,
    /// Value and echo, where timestamps are agreed upon.
    pub(super) stamps: Option<(u32, u32)>,
}

impl<P: Port> Desk<'_, P> {
    /// A frame to a content service that belongs to no flow.
    pub(super) fn open(&mut self, batch: &mut Batch, i: usize, a: &Arrival) -> Verdict {
        let Some(key) = key_of(batch, i) else { return Verdict::Drop(DropReason::BadHeader) };
        // Nearly always the schedule stage has found it.
        let slot = if self.misses.contains(i) {
            Some(self.c.called[i % BURST])
        } else {
            self.snapshot.service_at(key.destination(), batch.protocol[i])
        };
        let Some(slot) = slot else { return Verdict::Drop(DropReason::NoFlow) };
        let Some(content) = self.content(slot) else { return Verdict::Drop(DropReason::NoFlow) };
        if matches!(content.binding.scheme, Scheme::Migrated(_)) {
            // Never answered, not even by a reset: what brings the connection may be on its way still.
            return Verdict::Drop(DropReason::NoFlow);
        }
        if !may_send(self.c, key.source().ip()) {
            return Verdict::Drop(DropReason::BadSource);
        }
        if !self.is_intact(batch, i) {
            return Verdict::Drop(DropReason::BadTcpChecksum);
        }
        let half_open = self.c.timers.half_open();
        let full = self.c.table.len() >= self.c.table.capacity();
        let cookies = match content.binding.syn {
            SynPolicy::Cookie => true,
            SynPolicy::State => false,
            SynPolicy::Auto => half_open >= self.c.table.capacity() / HALF_OPEN_SHARE || full,
        };
        match a.flags & (SYN | ACK | RST | FIN) {
            SYN => {
                let offer = self.offer(batch, i, &key);
                if !cookies && let Some(verdict) = self.preallocate(batch, i, a, slot, content, &key, offer) {
                    return verdict;
                }
                let isn = self.c.splices.cookies.make(&key, a.seq, offer, self.now);
                let stamps = self.answers_stamps(content, &key, a.stamps);
                if cookies {
                    self.c.splices.cookie_sent(batch.hash[i], self.now);
                } else {
                    match self.enter(batch, i, slot, &key, [a.seq, isn], offer) {
                        Ok(flow) => self.stamp(flow, stamps),
                        Err(reason) => return Verdict::Drop(reason),
                    }
                }
                let answer = SynAck { slot, key, numbers: [a.seq, isn], offer, stamps };
                self.handshake_begins(batch, i, &answer, !cookies);
                self.syn_ack_in_place(batch, i, &answer)
            }
            RST => {
                self.handshake_ends(&key, a.seq.wrapping_sub(1));
                Verdict::Drop(DropReason::NoFlow)
            }
            flags if flags & SYN != 0 || flags & ACK == 0 => Verdict::Drop(DropReason::NoFlow),
            _ => {
                let numbers = [a.seq.wrapping_sub(1), a.ack.wrapping_sub(1)];
                // A cookie may have been given before the policy went back to states.
                let offer = match content.binding.syn {
                    SynPolicy::State => None,
                    _ => self.c.splices.cookies.check(&key, numbers[0], numbers[1], self.now),
                };
                let Some(offer) = offer else {
                    if self.c.splices.was_sent_cookie(batch.hash[i], self.now) {
                        // A later segment has overtaken the one that brings the cookie back; both will be sent again.
                        return Verdict::Drop(DropReason::OutOfOrder);
                    }
                    self.c.splices.cookies_bad += 1;
                    return self.refuse_in_place(batch, i, a);
                };
                self.c.splices.cookies_good += 1;
                match self.enter(batch, i, slot, &key, numbers, offer) {
                    Ok(flow) => {
                        let stamps = self.brought_stamps(&key, a);
                        self.stamp(flow, stamps);
                        self.by_client(batch, i, a, flow, flow)
                    }
                    Err(reason) => Verdict::Drop(reason),
                }
            }
        }
    }

    /// What a SYN offers.
    fn offer(&self, batch: &Batch, i: usize, key: &Key) -> Offer {
        let options = syn_options(batch, i);
        let default = if matches!(key, Key::V4 { .. }) { DEFAULT_MSS_V4 } else { DEFAULT_MSS_V6 };
        // Less than 64 bytes a segment is no path but an attack on our patience (as Linux's tcp_min_snd_mss has it, a little wider).
        Offer { mss: options.mss.unwrap_or(default).max(64), scale: options.scale, sack: options.sack }
    }

    /// Answers a SYN in its own frame.
    pub(super) fn syn_ack_in_place(&mut self, batch: &mut Batch, i: usize, answer: &SynAck) -> Verdict {
        let mut options = [0; 40];
        let segment = self.syn_ack(answer, batch.rx[i], &mut options);
        self.answer_in_place(batch, i, &segment)
    }

    /// The answer to a SYN that came in on this interface. Its options are written to `options`.
    pub(super) fn syn_ack<'o>(&self, answer: &SynAck, interface: u8, options: &'o mut [u8; 40]) -> Segment<'o> {
        let SynAck { slot, key, numbers, offer, stamps } = *answer;
        let ours = SynOptions {
            mss: Some(self.own_mss(slot, interface, matches!(key, Key::V6 { .. }))),
            scale: offer.scale.map(|_| OWN_SCALE),
            sack: offer.sack,
            timestamps: stamps,
        };
        let n = ours.write(options);
        // The window of a SYN is never scaled (RFC 7323 §2.2).
        let window = u16::try_from(self.room(slot)).unwrap_or(u16::MAX);
        Segment {
            key: key.reversed(),
            flags: SYN | ACK,
            seq: numbers[1],
            ack: numbers[0].wrapping_add(1),
            window,
            options: &options[..n],
            payload: Payload::NONE,
        }
    }

    /// The MSS that a client of a service on this interface is told: what its own link carries and every server's that it may get, less
    /// headers (RFC 9293 §3.7.1).
    pub(super) fn own_mss(&self, slot: u16, interface: u8, v6: bool) -> u16 {
        let mtu = self.snapshot.interfaces.get(usize::from(interface)).map_or(1500, |f| f.mtu);
        let most = self.content(slot).map_or(1460, |c| c.binding.mss);
        let headers = if v6 { 60 } else { 40 };
        let here = mtu.saturating_sub(self.c.splices.migrations.overhead(slot)).min(self.c.reach.of(slot));
        most.min(here.saturating_sub(headers)).max(LEAST_OWN_MSS)
    }

    /// A flow and an entry for a connection whose client has sent a SYN or brought back a cookie. It stays on the list of
    /// half-open connections until the client has sent something, so that it gives way when the table is full.
    pub(super) fn enter(
        &mut self,
        batch: &Batch,
        i: usize,
        slot: u16,
        key: &Key,
        numbers: [u32; 2],
        offer: Offer,
    ) -> Result<u32, DropReason> {
        let frame = batch.frames[i].bytes();
        let (from, own) = (ethernet::source(frame), ethernet::destination(frame));
        let to_client = self.c.row_to_client(key.source().ip(), batch.rx[i], from, own)?;
        let protocol = batch.protocol[i];
        let flow = match self.c.table.insert(protocol, key, None) {
            Err(TableFull::Entries) if self.snapshot.when_full == WhenFull::EvictHalfOpen => {
                let Some(oldest) = self.c.timers.oldest_half_open(&self.c.table, self.tick) else {
                    return Err(DropReason::FlowTableFull);
                };
                self.c.close(oldest);
                self.c.evicted += 1;
                self.c.table.insert(protocol, key, None)
            }
            other => other,
        }
        .map_err(|full| match full {
            TableFull::Index => DropReason::FlowIndexFull,
            _ => DropReason::FlowTableFull,
        })?;
        if self.c.splices.insert(flow, slot, numbers, offer).is_none() {
            self.c.table.remove(flow);
            return Err(DropReason::FlowTableFull);
        }
        let f = self.c.table.get_mut(flow);
        f.service = slot;
        f.server = NO_SLOT;
        f.next_hop = [to_client, 0];
        f.flags.set(FlowFlags::SPLICED, true);
        self.c.opened(flow, TcpState::SynReceived, self.tick);
        Ok(flow)
    }

    /// A segment of a client that has sent nothing yet. `None`: go on with it.
    pub(super) fn half_open(
        &mut self,
        batch: &mut Batch,
        i: usize,
        a: &Arrival,
        flow: u32,
        entry: u32,
    ) -> Option<Verdict> {
        let numbers = self.c.splices.get(entry).numbers;
        if !self.is_intact(batch, i) {
            return Some(Verdict::Drop(DropReason::BadTcpChecksum));
        }
        if self.is_attached(flow) {
            return self.half_open_guess(batch, i, a, flow, entry);
        }
        if self.c.splices.get(entry).is_direct() {
            return self.half_open_direct(batch, i, a, flow, entry);
        }
        let next = numbers[0].wrapping_add(1);
        if a.flags & RST != 0 {
            // RFC 5961 §3.2: exactly the next number, or it is a guess.
            if a.seq == next {
                self.handshake_is_over(flow, numbers[0]);
                self.close(flow);
                return Some(Verdict::Consume);
            }
            return Some(Verdict::Drop(DropReason::OutOfWindow));
        }
        if a.flags & SYN != 0 {
            if a.flags & ACK != 0 {
                return Some(self.refuse_in_place(batch, i, a));
            }
            if a.seq != numbers[0] {
                // Another connection from the same port; nothing of the old one is lost.
                self.close(flow);
                return Some(self.open(batch, i, a));
            }
            let key = super::super::schedule::key_of(batch, i)?;
            let (slot, offer) = (self.c.table.get(flow).service, self.c.splices.get(entry).offer());
            if !self.c.splices.get(entry).acknowledged {
                // (One that was has its time for the first byte, and gets no more of it by an old SYN.)
                self.c.table.get_mut(flow).last_seen = self.tick;
            }
            let stamped = self.c.splices.get(entry).stamped;
            let stamps = self.content(slot).and_then(|c| self.answers_stamps(c, &key, a.stamps.filter(|_| stamped)));
            // A SYN that comes again may have lost what the first one offered.
            self.c.splices.get_mut(entry).stamped = false;
            self.stamp(flow, stamps);
            let answer = SynAck { slot, key, numbers, offer, stamps };
            self.handshake_begins(batch, i, &answer, true);
            return Some(self.syn_ack_in_place(batch, i, &answer));
        }
        if a.flags & ACK == 0 {
            return Some(Verdict::Drop(DropReason::NoFlow));
        }
        if a.ack != numbers[1].wrapping_add(1) {
            return Some(self.refuse_in_place(batch, i, a));
        }
        self.address_is_proven(flow);
        if let (Some(stamps), true, Some(s)) = (a.stamps, a.seq == next, self.c.splices.stamps(entry)) {
            s.read(stamps);
        }
        if a.len == 0 && a.flags & FIN == 0 {
            // The handshake is done. A protocol in which the server speaks first is greeted at once.
            if !self.speaks_first(self.c.table.get(flow).service) {
                self.c.table.get_mut(flow).packets[Place::CLIENT] += 1;
                if !self.c.splices.get(entry).acknowledged {
                    self.c.splices.get_mut(entry).acknowledged = true;
                    self.c.awaits_request(flow, self.tick);
                }
                return Some(Verdict::Consume);
            }
        }
        None
    }
}
