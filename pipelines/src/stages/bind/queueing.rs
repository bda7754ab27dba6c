//! Requests that rules send through a queue: they wait here, decided and held, until the queue lets them go.

use super::Desk;
use crate::content::Content;
use crate::matching::Action;
use crate::splice::{Admission, Binding, Phase};
use crate::tally::Refusal;
use lcs_dataplane::port::Port;

/// Requests that leave their queues between two batches.
const BUDGET: usize = 32;

/// Bytes that a request pays for of a body that has not come yet, at most: what is only promised must not shut a queue for long.
const PROMISED: u64 = 64 << 10;

/// How many packets a request of so many bytes fills.
fn packets(content: &Content, bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(u64::from(content.binding.mss.max(1)))).unwrap_or(u32::MAX).max(1)
}

impl<P: Port> Desk<'_, P> {
    /// Whether a decided request may go on to its server now. Otherwise it waits in its queue, or has been refused.
    pub(super) fn passes_queue(&mut self, flow: u32, b: &mut Binding, content: &Content, action: &Action) -> bool {
        let Action::Forward { queue: Some(queue), .. } = action else { return true };
        if b.admitted {
            return true;
        }
        let service = self.c.table.get(flow).service;
        // Bytes of its body that are still to come have their length in `cut`.
        let bytes = if b.uncut { b.buffer.len() as u64 } else { b.cut.min(b.buffer.len() as u64 + PROMISED) };
        match self.c.splices.admit(b, service, *queue, packets(content, bytes), self.now) {
            Admission::Passed => {
                b.admitted = true;
                true
            }
            Admission::Waits => {
                let patience = content.binding.queues.get(usize::from(*queue)).map(|q| q.timeout);
                b.queued = true;
                b.give_up(patience.map(|patience| self.now.saturating_add(patience.as_nanos() as u64)));
                false
            }
            Admission::Full => {
                self.c.splices.refuse(service, Refusal::QueueFull);
                self.give_up_request(flow, b, 503);
                false
            }
        }
    }

    /// Whether a request that passes as it is may do so past its queue.
    pub(super) fn passes_queue_at_once(
        &mut self,
        service: u16,
        content: &Content,
        action: &Action,
        bytes: u64,
    ) -> bool {
        match action {
            Action::Forward { queue: Some(queue), .. } => {
                let bytes = bytes.min(PROMISED);
                self.c.splices.admit_at_once(service, *queue, packets(content, bytes), self.now)
            }
            _ => true,
        }
    }

    /// Lets go of requests whose turn has come. Returns whether there may be more.
    pub(super) fn serve_queues(&mut self) -> bool {
        for _ in 0..BUDGET {
            let Some((mut b, passed)) = self.c.splices.released(self.now) else { return false };
            let flow = b.entry;
            b.queued = false;
            if b.phase == Phase::Hold {
                b.admitted |= passed;
                if !(self.is_attached(flow) && self.c.splices.get(b.entry).until_close) {
                    b.give_up(None);
                }
                self.hold(flow, &mut b);
            }
            self.c.splices.put(b);
        }
        true
    }

    /// A request has waited for as long as it may.
    pub(super) fn queue_timed_out(&mut self, flow: u32, b: &mut Binding) {
        b.queued = false;
        self.c.splices.leave_queue(b);
        self.c.splices.refuse(self.c.table.get(flow).service, Refusal::QueueTimeout);
        self.give_up_request(flow, b, 503);
    }
}
