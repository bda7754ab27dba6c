//! What happens when nothing happens: segments sent again, servers given up on, clients that are too slow.

use super::Desk;
use crate::splice::{Binding, Phase};
use crate::tally::Refusal;
use lcs_dataplane::flow::Place;
use lcs_dataplane::port::Port;
use lcs_dataplane::timer::ticks;

/// Bindings looked at between two batches.
const BUDGET: usize = 32;
/// Times that data is sent again before the peer is taken for dead.
const RETRIES: u8 = 8;

impl<P: Port> Desk<'_, P> {
    /// Serves what is due. Returns whether there may be more.
    pub(super) fn timers(&mut self) -> bool {
        for _ in 0..BUDGET {
            let Some(mut b) = self.c.splices.due(self.now) else { return false };
            let flow = b.entry;
            self.time_out(flow, &mut b);
            self.c.splices.put(b);
        }
        true
    }

    /// Ends connections whose handshakes are complete and of whose clients no byte has come in the service's time for that. They are
    /// reset, for HTTP too: a client that has not asked takes a status for the answer to what it asks next. Returns whether there may be more.
    pub(super) fn end_silent(&mut self) -> bool {
        let mut budget = BUDGET;
        for slot in 0..self.c.timers.services() {
            // What has lost its rules meanwhile would not be served either.
            let patience = self.content(slot as u16).map_or(0, |c| ticks(c.binding.first_byte));
            while let Some(flow) = self.c.timers.longest_silent(slot) {
                if self.tick.wrapping_sub(self.c.table.get(flow).last_seen) < patience {
                    break;
                }
                if budget == 0 {
                    return true;
                }
                budget -= 1;
                let [client, director] = self.c.splices.get(flow).numbers.map(|n| n.wrapping_add(1));
                self.c.splices.refuse(slot as u16, Refusal::Silent);
                self.reset_client(flow, director, client);
                self.c.expired += 1;
                self.close(flow);
            }
        }
        false
    }

    fn time_out(&mut self, flow: u32, b: &mut Binding) {
        // While the director itself is at work for it, a connection is not idle, however long its client is silent.
        // One that waits for its peers is idle.
        if !matches!(b.phase, Phase::Collect | Phase::Hold) {
            self.c.table.get_mut(flow).last_seen = self.tick;
        }
        if self.is_direct_guess(flow) {
            return self.not_decided_in_time(flow, b);
        }
        if b.tell_at <= self.now {
            b.tell(None);
            if b.phase != Phase::Answer {
                self.acknowledge(flow, b);
            }
        }
        if b.give_up_at <= self.now {
            b.give_up(None);
            match b.phase {
                Phase::Collect | Phase::Hold if self.c.splices.get(b.entry).until_close => self.abort(flow, b),
                Phase::Collect if self.is_attached(flow) && !b.settled => {
                    // The response before is not over; the client has its time from then on.
                    b.give_up(Some(self.now + 1_000_000_000));
                }
                Phase::Replay => {
                    self.replay_failed(flow, b);
                }
                Phase::Collect => {
                    let service = self.c.table.get(flow).service;
                    self.c.splices.refuse(service, Refusal::TooSlow);
                    self.give_up_request(flow, b, 408);
                }
                Phase::Hold if b.queued => self.queue_timed_out(flow, b),
                Phase::Answer => self.abort(flow, b),
                _ => {}
            }
            return;
        }
        if b.resend_at > self.now {
            return;
        }
        if b.out_pending() && b.phase != Phase::Connect {
            if b.retries >= RETRIES {
                return self.abort(flow, b);
            }
            b.out_sent = 0;
            b.back_off(self.now);
            self.flush(flow, b);
            if b.phase != Phase::Deliver {
                return;
            }
        }
        match b.phase {
            Phase::Connect => {
                let service = self.c.table.get(flow).service;
                let most = self.content(service).map_or(3, |c| c.binding.syn_retries);
                if b.retries >= most {
                    let server = self.c.table.get(flow).server;
                    b.gave_up_on(server);
                    self.next_server(flow, b);
                } else {
                    b.back_off(self.now);
                    self.send_syn(flow, b);
                }
            }
            Phase::Deliver if b.lent && b.delivered == 0 && self.is_forgotten(flow, b) => self.afresh(flow, b),
            Phase::Migrate => self.filter_silent(flow, b),
            Phase::Recall => self.recall_silent(flow, b),
            Phase::Deliver | Phase::Replay => {
                if b.retries >= RETRIES {
                    let e = self.c.splices.get(b.entry);
                    let seq = e.offsets.seq(Place::CLIENT, b.start.wrapping_add(b.delivered as u32));
                    let ack =
                        if b.phase == Phase::Replay { b.ack_floor } else { e.offsets.ack(Place::CLIENT, b.client_ack) };
                    self.reset_server(flow, seq, ack);
                    return self.abort(flow, b);
                }
                // From the first byte that is not acknowledged, and one segment only, even into a closed window.
                let window = b.server_window;
                b.sent = b.delivered;
                b.server_window = u32::from(b.server_mss);
                self.deliver(flow, b);
                // Whether that was let in, its answer says; until then the window is what the server has said it is.
                b.server_window = window;
                b.back_off(self.now);
            }
            Phase::Collect | Phase::Hold | Phase::Answer => b.disarm(),
        }
    }
}
