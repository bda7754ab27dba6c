//! Delivering to the server what was acknowledged to the client: ours to send again until the server has it.

use super::Desk;
use crate::splice::{Arrival, Binding, Phase};
use lcs_dataplane::flow::Place;
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, PSH};
use lcs_dataplane::port::Port;
use lcs_dataplane::splice::Segment;

impl<P: Port> Desk<'_, P> {
    /// What the server is told of the client's acknowledgements: never less than where its own numbers begin.
    fn ack_to_server(&self, b: &Binding) -> u32 {
        let ack = self.c.splices.get(b.entry).offsets.ack(Place::CLIENT, b.client_ack);
        if ack.wrapping_sub(b.ack_floor) as i32 >= 0 { ack } else { b.ack_floor }
    }

    /// Sends what the server's window has room for.
    pub(super) fn deliver(&mut self, flow: u32, b: &mut Binding) {
        let Some(key) = self.key_toward(flow, Place::SERVER) else { return };
        let offsets = self.c.splices.get(b.entry).offsets;
        let (ack, window) = (self.ack_to_server(b), offsets.window(Place::CLIENT, b.client_window));
        let total = b.to_send();
        let sendable = b.sendable();
        while b.sent < total {
            let from = (b.sent as usize).min(sendable);
            let room = (b.delivered + u64::from(b.server_window)).saturating_sub(b.sent) as usize;
            let n = (sendable - from).min(usize::from(b.server_mss)).min(room);
            let last = from + n == sendable;
            let fin = last && b.sends_fin() && (room > n || sendable == from);
            if n == 0 && !fin {
                break;
            }
            let flags = ACK | if last { PSH } else { 0 } | if fin { FIN } else { 0 };
            let seq = offsets.seq(Place::CLIENT, b.start.wrapping_add(from as u32));
            let payload = b.buffer.get(from..from + n).unwrap_or(&[]);
            self.send(flow, Place::SERVER, Segment { key, flags, seq, ack, window, options: &[], payload });
            b.sent += n as u64 + u64::from(fin);
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

    /// The server acknowledges: what it has is not ours any more.
    pub(super) fn server_acknowledges(&mut self, a: &Arrival, flow: u32, b: &mut Binding) {
        let _ = flow;
        let ack = self.c.splices.get(b.entry).offsets.ack(Place::SERVER, a.ack);
        let n = ack.wrapping_sub(b.start) as i32;
        if n < 0 {
            return;
        }
        let n = (n as u64).min(b.to_send());
        if n >= b.delivered {
            b.server_window = u32::from(a.window) << b.server_scale.min(14);
        }
        if n > b.delivered {
            b.delivered = n;
            b.sent = b.sent.max(n);
            b.measured(self.now);
            b.retries = 0;
            b.resend_at = u64::MAX;
        }
    }

    /// Whether all is delivered; then the next request's turn has come, or the binding's end.
    pub(super) fn delivered(&mut self, flow: u32, b: &mut Binding) {
        if b.phase != Phase::Deliver || b.delivered < b.to_send() {
            return;
        }
        if b.sendable() < b.buffer.len() {
            b.next_request();
            b.give_up(None);
            // What follows is acknowledged when its turn comes; so much is known to be delivered.
            self.collect(flow, b);
        } else if !b.out_pending() {
            b.done = true;
        }
    }

    /// A pure acknowledgement to the server, where the client's own segment does not go on.
    pub(super) fn acknowledge_server(&mut self, flow: u32, b: &Binding) {
        let Some(key) = self.key_toward(flow, Place::SERVER) else { return };
        let offsets = self.c.splices.get(b.entry).offsets;
        let sent = if b.phase == Phase::Deliver { b.sent } else { 0 };
        let segment = Segment {
            key,
            flags: ACK,
            seq: offsets.seq(Place::CLIENT, b.start.wrapping_add(sent as u32)),
            ack: self.ack_to_server(b),
            window: offsets.window(Place::CLIENT, b.client_window),
            options: &[],
            payload: &[],
        };
        self.send(flow, Place::SERVER, segment);
    }
}
