//! What is counted of services, what there is of them now, and the way of requests through their queues.

use super::{Admission, Binding, NIL, Phase, Slot, Splices, State};
use crate::command::{ContentStats, RequestState};
use crate::extract::ExtractError;
use crate::tally::{Refusal, Tally};
use lcs_dataplane::flow::TcpState;
use lcs_dataplane::worker::Nanos;

impl Splices {
    /// Puts what has been counted in a report.
    pub(crate) fn report(&self, stats: &mut ContentStats, now: Nanos) {
        let mut services = std::mem::take(&mut stats.services);
        services.resize_with(self.tallies.len(), || None);
        for (slot, (to, from)) in services.iter_mut().zip(&self.tallies).enumerate() {
            to.clone_from(from);
            if let Some((to, state)) = to.as_mut().zip(self.states.get(slot)) {
                (to.connections, to.parked, to.in_hand) = (state.connections, state.parked, state.in_hand);
                (to.pool.idle, to.pool.lent) = self.pools.counts(slot as u16);
                to.queues.clear();
                to.queues.extend(self.queues.tallies(slot));
                to.migrations.live = self.migrations.filters.live_of(slot as u16, now);
            }
        }
        *stats = ContentStats {
            connections: self.used,
            binding: self.bound,
            following: self.follows.len() - self.free_follows.len(),
            buffered: self.buffered,
            segments_made: self.sent,
            cookies_good: self.cookies_good,
            cookies_bad: self.cookies_bad,
            handshakes: self.handshakes.len(),
            handshakes_repeated: self.handshakes.repeated,
            handshakes_unremembered: self.handshakes.unremembered,
            unreadable: self.unparsed,
            refused: self.refused,
            reused: self.reused,
            services,
        };
    }

    /// What is counted of a service.
    pub(crate) fn tally(&mut self, service: u16) -> Option<&mut Tally> {
        self.tallies.get_mut(usize::from(service))?.as_mut()
    }

    /// Counts a request that a rule has taken.
    pub(crate) fn hit(&mut self, service: u16, rule: u32) {
        if let Some(tally) = self.tally(service) {
            tally.decided(rule);
        }
    }

    /// Counts a request that no server gets.
    pub(crate) fn refuse(&mut self, service: u16, why: Refusal) {
        self.refused += u64::from(why == Refusal::NoServer);
        self.unparsed += u64::from(matches!(why, Refusal::Unreadable | Refusal::TooSlow));
        if let Some(tally) = self.tally(service) {
            tally.refusals[why as usize] += 1;
        }
    }

    /// Counts a request that no server gets because it can't be read.
    pub(crate) fn refuse_unreadable(&mut self, service: u16, e: ExtractError) {
        self.refuse(service, Refusal::Unreadable);
        if let Some(tally) = self.tally(service) {
            tally.errors[e as usize] += 1;
        }
    }

    /// How often a service's rules have been replaced: what was decided before that is decided again.
    pub(crate) fn rules_of(&self, service: u16) -> u32 {
        self.state(service).rules
    }

    pub(super) fn state(&self, service: u16) -> State {
        self.states.get(usize::from(service)).copied().unwrap_or_default()
    }

    pub(super) fn state_mut(&mut self, service: u16) -> &mut State {
        let at = usize::from(service);
        if at >= self.states.len() {
            self.states.resize(at + 1, State::default());
        }
        &mut self.states[at]
    }

    /// What is being done for a connection. `None`: nothing.
    pub(crate) fn request_state(&self, entry: u32, state: TcpState) -> Option<RequestState> {
        let e = self.entries.get(entry as usize)?;
        if e.is_leg {
            let pooled = super::pool::unmarked(e.main).is_some();
            return Some(if pooled { RequestState::Pooled } else { RequestState::Waiting });
        }
        let Some(Slot::Held(b)) = self.slots.get(e.binding as usize) else {
            return (state == TcpState::SynReceived).then_some(RequestState::Awaited);
        };
        Some(match b.phase {
            Phase::Collect if b.buffer.is_empty() => RequestState::Awaited,
            Phase::Collect => RequestState::Collecting,
            Phase::Hold if b.queued => RequestState::Queued,
            Phase::Hold => RequestState::Decided,
            Phase::Connect => RequestState::Connecting,
            Phase::Migrate | Phase::Recall => RequestState::Migrating,
            Phase::Replay => RequestState::Replaying,
            Phase::Deliver => RequestState::Delivering,
            Phase::Answer => RequestState::Answering,
        })
    }

    /// A decided request comes to a queue of its service; where it waits, it comes out of [`Splices::released`] later.
    pub(crate) fn admit(&mut self, b: &Binding, service: u16, queue: u16, packets: u32, now: Nanos) -> Admission {
        let admission = self.queues.admit(service, queue, packets, now);
        if admission == Admission::Waits {
            let slot = self.entries.get(b.entry as usize).map_or(NIL, |e| e.binding);
            self.queues.wait(slot, service, queue, packets, now);
        }
        admission
    }

    /// Has a request pass its queue if it can at once.
    pub(crate) fn admit_at_once(&mut self, service: u16, queue: u16, packets: u32, now: Nanos) -> bool {
        self.queues.would_pass(service, queue, now)
            && self.queues.admit(service, queue, packets, now) == Admission::Passed
    }

    /// A request has waited for too long.
    pub(crate) fn leave_queue(&mut self, b: &Binding) {
        let slot = self.entries.get(b.entry as usize).map_or(NIL, |e| e.binding);
        self.queues.give_up(slot);
    }

    /// The next binding that has waited in a queue and goes on, in the caller's hands; and whether it has passed the queue.
    pub(crate) fn released(&mut self, now: Nanos) -> Option<(Box<Binding>, bool)> {
        loop {
            let (slot, passed) = match self.queues.revised() {
                Some(slot) => (slot, false),
                None => (self.queues.release(now)?, true),
            };
            match self.slots.get_mut(slot as usize).map(|held| std::mem::replace(held, Slot::Taken)) {
                Some(Slot::Held(b)) => return Some((b, passed)),
                Some(other) => self.slots[slot as usize] = other,
                None => {}
            }
        }
    }
}
