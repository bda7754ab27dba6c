//! Delivering to the server what was acknowledged to the client: ours to send again until the server has it.

use super::Desk;
use super::read::is_up;
use crate::extract::ReplayProgress;
use crate::splice::{Arrival, Binding, Phase};
use lcs_dataplane::batch::Batch;
use lcs_dataplane::flow::{Key, Place, TcpState};
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use lcs_dataplane::port::Port;
use lcs_dataplane::splice::{Offsets, Payload, Segment};
use lcs_dataplane::{DropReason, Verdict};

impl<P: Port> Desk<'_, P> {
    /// What the server is told of the client's acknowledgements: never less than where its own numbers begin.
    pub(super) fn ack_to_server(&self, b: &Binding) -> u32 {
        if b.phase == Phase::Replay {
            return b.ack_floor;
        }
        let e = self.c.splices.get(b.entry);
        let ack = e.offsets.ack(Place::CLIENT, b.client_ack);
        let said = e.offsets.limit[Place::SERVER];
        if !e.offsets.open && !e.until_close && ack.wrapping_sub(said) as i32 > 0 {
            // It is about what the director has said since, or about nothing.
            return said;
        }
        if ack.wrapping_sub(b.ack_floor) as i32 >= 0 { ack } else { b.ack_floor }
    }

    /// Sends what the server's window has room for.
    pub(super) fn deliver(&mut self, flow: u32, b: &mut Binding) {
        let Some(key) = self.key_toward(flow, Place::SERVER) else { return };
        let total = b.to_send();
        if b.sent < total {
            self.send_from(flow, key, b, total);
        }
        if b.sent > b.delivered || b.sent < total {
            if b.resend_at == u64::MAX {
                b.timed = Some(self.now);
                b.arm(self.now);
            }
        } else if !b.out_pending() {
            b.disarm();
        }
    }

    /// Sends on from what has been sent, as far as the server's window goes.
    fn send_from(&mut self, flow: u32, key: Key, b: &mut Binding, total: u64) {
        let offsets = self.c.splices.get(b.entry).offsets;
        let (ack, window) = (self.ack_to_server(b), offsets.window(Place::CLIENT, b.client_window));
        let sendable = b.sendable();
        let mss = usize::from(b.server_mss).saturating_sub(self.stamped_bytes(b.entry)).max(1);
        while b.sent < total {
            let from = (b.sent as usize).min(sendable);
            let room = (b.delivered + u64::from(b.server_window)).saturating_sub(b.sent) as usize;
            let n = (sendable - from).min(mss).min(room);
            let last = from + n == sendable;
            let fin = last && b.sends_fin() && (room > n || sendable == from);
            if n == 0 && !fin {
                break;
            }
            let flags = ACK | if last { PSH } else { 0 } | if fin { FIN } else { 0 };
            let seq = offsets.seq(Place::CLIENT, b.start.wrapping_add(from as u32));
            // What has come in one segment, and goes out in one, has the sum that it has come with.
            let sum = if from == 0 { b.sum_of(n) } else { None };
            let payload = Payload::summed(b.source().get(from..from + n).unwrap_or(&[]), sum);
            self.send(flow, Place::SERVER, Segment { key, flags, seq, ack, window, options: &[], payload });
            b.sent += n as u64 + u64::from(fin);
        }
    }

    /// The server acknowledges: what it has is not ours any more.
    pub(super) fn server_acknowledges(&self, a: &Arrival, b: &mut Binding) {
        let ack = self.c.splices.get(b.entry).offsets.ack(Place::SERVER, a.ack);
        let n = ack.wrapping_sub(b.start) as i32;
        if n < 0 {
            return;
        }
        let n = (n as u64).min(b.to_send());
        if n >= b.delivered {
            b.server_window = u32::from(a.window) << b.server_scale.min(14);
            if b.server_window == 0 && self.may_keep_waiting(b) {
                b.retries = 0;
            }
        }
        if n > b.delivered {
            b.delivered = n;
            b.taken_at = self.now;
            b.sent = b.sent.max(n);
            b.measured(self.now);
            b.retries = 0;
            b.resend_at = u64::MAX;
        }
        if b.server_window == 0 {
            // It has taken no more than that: when its window opens, the rest goes at once.
            b.sent = b.delivered;
            b.timed = None;
        }
    }

    /// Whether a server that answers with a closed window is waited for: it lives, and may keep it closed (RFC 9293 §3.8.6.1, MUST-37). Not
    /// for ever, not when it is not to be used any more, and not while what is held for such servers leaves little room for others.
    fn may_keep_waiting(&self, b: &Binding) -> bool {
        let idle = self.snapshot.timeouts.get(TcpState::Established).as_nanos() as u64;
        let server = self.c.table.get(b.entry).server;
        self.now.saturating_sub(b.taken_at) < idle && is_up(self.snapshot, server) && self.c.splices.has_room_to_spare()
    }

    /// Whether all is delivered; then the next request's turn has come, or the binding's end.
    pub(super) fn delivered(&mut self, flow: u32, b: &mut Binding) {
        if b.phase != Phase::Deliver || b.delivered < b.to_send() || b.lent {
            return;
        }
        if b.sendable() < b.buffer.len() {
            let n = b.sendable().min(b.held);
            b.next_request();
            b.held -= n;
            self.c.splices.buffered -= n;
            b.give_up(None);
            // What follows is acknowledged when its turn comes; so much is known to be delivered.
            self.collect(flow, b);
        } else if !b.out_pending() {
            if b.is_to_tell() {
                // What the server has said of it did not get through.
                self.acknowledge(flow, b);
            }
            b.done = true;
            if b.uncut {
                // As far as is known from here on: what a reset of the director's goes by.
                let end = b.start.wrapping_add(b.delivered as u32);
                self.c.splices.get_mut(b.entry).offsets.limit[Place::CLIENT] = end;
            }
        }
    }

    /// A pure acknowledgement to the server, where the client's own segment does not go on.
    pub(super) fn acknowledge_server(&mut self, flow: u32, b: &Binding) {
        let Some(key) = self.key_toward(flow, Place::SERVER) else { return };
        let offsets = self.c.splices.get(b.entry).offsets;
        let sent = if matches!(b.phase, Phase::Deliver | Phase::Replay) { b.sent_within_window() } else { 0 };
        let segment = Segment {
            key,
            flags: ACK,
            seq: offsets.seq(Place::CLIENT, b.start.wrapping_add(sent as u32)),
            ack: self.ack_to_server(b),
            window: offsets.window(Place::CLIENT, b.client_window),
            options: &[],
            payload: Payload::NONE,
        };
        self.send(flow, Place::SERVER, segment);
    }

    /// A server's segment while it is brought to where the client stands: its replies are for the director.
    pub(super) fn replaying(&mut self, batch: &Batch, i: usize, a: &Arrival, flow: u32, b: &mut Binding) -> Verdict {
        if !self.is_intact(batch, i) {
            return Verdict::Drop(DropReason::BadTcpChecksum);
        }
        if a.flags & (RST | FIN | SYN) != 0 {
            if a.flags & (RST | FIN) != 0 {
                return self.replay_failed(flow, b);
            }
            // Its answer to our SYN, sent again: our acknowledgement was lost.
            self.acknowledge_server(flow, b);
            return Verdict::Consume;
        }
        if a.flags & ACK != 0 {
            self.server_acknowledges(a, b);
        }
        self.server_stamps(b.entry, a);
        let skipped = b.ack_floor.wrapping_sub(a.seq) as i32;
        if skipped < 0 {
            return Verdict::Drop(DropReason::OutOfOrder);
        }
        let end = usize::from(batch.end[i]);
        let mut rest = batch.frames[i].bytes().get(a.payload + skipped as usize..end).unwrap_or(&[]);
        let new = a.len > 0;
        loop {
            match b.replay.feed(rest) {
                Err(_) => return self.replay_failed(flow, b),
                Ok((used, progress)) => {
                    rest = rest.get(used..).unwrap_or(&[]);
                    b.ack_floor = b.ack_floor.wrapping_add(used as u32);
                    match progress {
                        ReplayProgress::More => break,
                        ReplayProgress::Send(span) => {
                            let command = span.of(&b.buffer);
                            b.script.extend_from_slice(command);
                        }
                        ReplayProgress::Done => {
                            // What was not used is for the client; the server sends it again, since it is not acknowledged.
                            self.replayed(flow, b);
                            return Verdict::Consume;
                        }
                    }
                }
            }
        }
        let before = b.sent;
        self.deliver(flow, b);
        if new && b.sent == before {
            self.acknowledge_server(flow, b);
        }
        Verdict::Consume
    }

    /// The server stands where the client does: the numbers of both are known now.
    pub(super) fn replayed(&mut self, flow: u32, b: &mut Binding) {
        b.give_up(None);
        let forward = b.replay.forward().min(b.buffer.len());
        let sent = b.script.len() as u32;
        let first = b.start;
        b.go_on_behind(forward);
        let e = self.c.splices.get_mut(b.entry);
        let old = e.offsets;
        let server = old.seq(Place::CLIENT, first).wrapping_add(sent);
        let mut offsets = Offsets::new(server.wrapping_sub(b.start), b.out_end().wrapping_sub(b.ack_floor))
            .with_shifts(old.shift(Place::CLIENT), old.shift(Place::SERVER));
        offsets.blank_sack = old.blank_sack;
        offsets.limit = [b.start, b.ack_floor];
        e.offsets = offsets;
        let window = b.server_window;
        self.begin_delivery(flow, b);
        b.server_window = window;
        self.deliver(flow, b);
        if b.sent == 0 {
            self.acknowledge_server(flow, b);
        }
        self.delivered(flow, b);
    }

    /// The server does not go along: another one may.
    pub(super) fn replay_failed(&mut self, flow: u32, b: &mut Binding) -> Verdict {
        let server = self.c.table.get(flow).server;
        let next = b.start.wrapping_add(b.sent_within_window() as u32);
        let (seq, ack) = (self.c.splices.get(b.entry).offsets.seq(Place::CLIENT, next), b.ack_floor);
        self.reset_server(flow, seq, ack);
        b.script.clear();
        b.gave_up_on(server);
        self.next_server(flow, b);
        Verdict::Consume
    }
}
