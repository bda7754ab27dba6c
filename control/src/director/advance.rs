//! How requests come to an end: what workers are sent, what they say, and what is made of it.

use super::operation::{Operation, Pending, Purpose, Sent};
use super::{
    ACKNOWLEDGE, Control, PAGE, Progress, Reply, STEER_AGAIN, Steering, TRACE_AGAIN, Ticket, Workers, report, requests,
};
use crate::protocol::{
    Applied, Connections, ContentWorkerStatus, Failure, FailureCode, Response, Services, Status, TraceEnd, Traced,
    WorkerStatus,
};
use crate::render::counted;
use lcs_dataplane::port::losses::Losses;
use lcs_dataplane::ring::SendError;
use lcs_pipelines::command::{Acknowledgement, Command, Event, FlowPage, Needs, Report, TraceFilter};

impl<W: Workers, S: Steering> Control<W, S> {
    /// Sends one command; remembers what its acknowledgement is for.
    pub(super) fn tell(&mut self, worker: usize, command: Command, sent: Sent) -> bool {
        let id = self.next_command;
        self.next_command += 1;
        match self.workers.send(worker, id, command) {
            Ok(()) => {
                self.sent.insert(id, (worker, sent));
                true
            }
            Err(SendError::Full) => false,
            Err(SendError::Ended) => {
                self.worker_ended(worker);
                false
            }
        }
    }

    /// Sends every worker a command; `false` when one of them has no room for it.
    pub(super) fn tell_all(&mut self, command: impl Fn() -> Command, sent: Sent) -> bool {
        (0..self.progress.len()).all(|worker| self.tell(worker, command(), sent))
    }

    /// Sends the workers what they lack, and ends what has come to pass.
    pub(super) fn advance(&mut self) {
        for worker in 0..self.progress.len() {
            let Progress { installed, in_flight, ended, memory } = self.progress[worker];
            if installed < self.model.generation() && !in_flight && !ended {
                let snapshot = self.model.snapshot();
                let needs = Needs::of(&snapshot);
                // A worker that has nothing to do yet takes its memory at once.
                let (command, sent) = if installed > 0 && !needs.are_in(memory) {
                    (Command::Prepare(needs), Sent::Prepare(needs))
                } else {
                    let generation = snapshot.generation;
                    (Command::Install(snapshot), Sent::Install(generation, needs))
                };
                self.progress[worker].in_flight = self.tell(worker, command, sent);
            }
        }
        self.steer();
        let tickets: Vec<Ticket> = self.pending.keys().copied().collect();
        for ticket in tickets {
            self.push(ticket);
        }
    }

    pub(super) fn steer(&mut self) {
        let oldest = self.oldest();
        if oldest <= self.steered || oldest == u64::MAX || self.now < self.steer_again {
            return;
        }
        let sets = self.model.steering();
        if self.steered_sets.as_ref() == Some(&sets) {
            self.steered = oldest;
            return;
        }
        match self.steering.steer(&sets) {
            Ok(()) => {
                self.steered = oldest;
                self.steered_sets = Some(sets);
                self.steer_error = None;
            }
            Err(error) => {
                self.steer_again = self.now + STEER_AGAIN;
                self.note_of((2, 0), |_| format!("the XDP filter could not be set and is tried again: {error}"));
                self.steer_error = Some(error);
            }
        }
    }

    /// Sends what an operation has not been able to send, and ends it if it is complete.
    fn push(&mut self, ticket: Ticket) {
        let Some(mut pending) = self.pending.remove(&ticket) else { return };
        let finished = match &mut pending.operation {
            Operation::Apply { generation, changes, note } => {
                (self.oldest() >= *generation && self.steered >= *generation).then(|| {
                    Ok(Response::Applied(Applied {
                        workers: self.progress.len(),
                        generation: *generation,
                        changes: std::mem::take(changes),
                        note: note.take(),
                    }))
                })
            }
            Operation::Weight { missing, changes } => (*missing == 0).then(|| {
                Ok(Response::Applied(Applied {
                    workers: self.progress.len(),
                    generation: self.model.generation(),
                    changes: std::mem::take(changes),
                    note: Some(requests::NOT_WRITTEN.to_owned()),
                }))
            }),
            Operation::Gather { purpose, reports, unasked } => {
                unasked.retain(|w| {
                    let report = self.spare_reports.pop().unwrap_or_default();
                    !self.tell(*w, Command::Report(report), Sent::Operation(ticket))
                });
                if reports.iter().all(Option::is_some) {
                    let reports: Vec<report::Boxed> = reports.iter_mut().filter_map(Option::take).collect();
                    let purpose = *purpose;
                    self.gathered(ticket, purpose, reports);
                    return;
                }
                None
            }
            Operation::List(listing) => {
                if listing.worker >= self.progress.len() || listing.more {
                    let connections = std::mem::take(&mut listing.found);
                    Some(Ok(Response::Connections(Connections { connections, more: listing.more })))
                } else {
                    if !listing.asked {
                        let page = FlowPage { cursor: listing.cursor, limit: PAGE, flows: Vec::new() };
                        listing.asked =
                            self.tell(listing.worker, Command::ListFlows(Box::new(page)), Sent::Operation(ticket));
                    }
                    None
                }
            }
            Operation::Trace { filter, frames, seen, unasked, again, .. } => {
                if self.now >= *again {
                    // Each worker counts for itself, and counts records that were lost on the way here too.
                    *again = self.now + TRACE_AGAIN;
                    *unasked = (0..self.progress.len()).collect();
                }
                unasked.retain(|w| {
                    let command = Command::Trace { filter: filter.clone(), frames: *frames - *seen };
                    !self.tell(*w, command, Sent::Operation(ticket))
                });
                None
            }
        };
        match finished {
            Some(result) => self.answer(ticket, result),
            None => {
                self.pending.insert(ticket, pending);
            }
        }
    }

    /// Notes what ports have lost since that was noted last.
    fn notice_losses(&mut self, reports: &[report::Boxed]) {
        let reports: Vec<&Report> = reports.iter().map(|r| &**r).collect();
        let lost = report::lost(&reports);
        self.losses_noted.resize(lost.len().max(self.losses_noted.len()), Losses::default());
        for (number, lost) in lost.iter().enumerate() {
            for (reason, frames) in lost.iter() {
                let more = frames.saturating_sub(self.losses_noted[number].of(reason));
                let subject = (5, (number as u64) << 8 | reason as u64);
                let said = more > 0
                    && self.note_of(subject, |control| {
                        let name = report::interface_name(control.model.interfaces(), number);
                        let frames = counted(more as usize, "frame");
                        format!("{name} has lost {frames}, {}: {}", reason.name(), reason.explanation())
                    });
                if said {
                    self.losses_noted[number].add(reason, more);
                }
            }
        }
    }

    fn gathered(&mut self, ticket: Ticket, purpose: Purpose, reports: Vec<report::Boxed>) {
        self.notice_losses(&reports);
        let response = match purpose {
            Purpose::Stats => {
                let taps = report::taps(&self.taps);
                let filter = self.steering.counts();
                Some(Response::Stats(Box::new(report::stats(&self.model, &reports, taps, filter, self.now))))
            }
            Purpose::Services => {
                Some(Response::Services(Services { services: report::services(&self.model, &reports) }))
            }
            Purpose::Status => Some(Response::Status(Box::new(self.status(&reports)))),
            Purpose::Draining => {
                let generation = reports.iter().map(|r| r.generation).min().unwrap_or(0);
                for name in self.model.drained(generation, |slot| report::flows_of(&reports, slot)) {
                    self.note(format!("{name} has no connections left and is gone"));
                }
                None
            }
        };
        // What a spare report still holds of old contents is to be freed here, not by the worker that fills it again.
        self.spare_reports.extend(reports.into_iter().map(|mut report| {
            report.content.services.clear();
            report.decided = None;
            report
        }));
        self.spare_reports.truncate(2 * self.progress.len());
        if let Some(response) = response {
            self.answer(ticket, Ok(response));
        }
    }

    fn status(&self, reports: &[report::Boxed]) -> Status {
        let worker = |(worker, r): (usize, &report::Boxed)| WorkerStatus {
            worker,
            core: self.about.cores.get(worker).copied().flatten(),
            generation: r.generation,
            flows: r.flows,
            capacity: r.capacity,
            memory: r.memory.map_or(0, |m| m.entries + m.index + m.addresses_v6) + r.splice_memory,
        };
        let content = |(number, r): (usize, &report::Boxed)| ContentWorkerStatus {
            core: self.about.cores.get(number).copied().flatten(),
            generation: r.generation,
        };
        Status {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: self.now.as_secs_f64(),
            configuration: self.about.configuration.clone(),
            generation: self.model.generation(),
            port: self.about.port.clone(),
            counts: self.model.counts(),
            workers: reports.iter().enumerate().filter(|(_, r)| r.decided.is_none()).map(worker).collect(),
            content_workers: reports.iter().enumerate().filter(|(_, r)| r.decided.is_some()).map(content).collect(),
            notices: self.notices.iter().cloned().collect(),
        }
    }

    pub(super) fn acknowledged(&mut self, id: u64, what: Acknowledgement) {
        let Some((worker, sent)) = self.sent.remove(&id) else { return };
        match sent {
            Sent::Prepare(needs) => {
                let progress = &mut self.progress[worker];
                progress.in_flight = false;
                if matches!(what, Acknowledgement::Prepared(true)) {
                    progress.memory = progress.memory.and(needs);
                }
                // Large tables take their time, piece by piece, and who waits for a change waits for them.
                for pending in self.pending.values_mut() {
                    if matches!(pending.operation, Operation::Apply { .. }) {
                        pending.deadline = Some(self.now + ACKNOWLEDGE);
                    }
                }
            }
            Sent::Install(generation, needs) => {
                // `what` carries the worker's old snapshot, which is freed here when no other worker has it.
                let progress = &mut self.progress[worker];
                progress.in_flight = false;
                progress.installed = progress.installed.max(generation);
                progress.memory = progress.memory.and(needs);
                let oldest = self.oldest();
                self.model.settle(oldest);
            }
            Sent::TraceOff => self.untraced = self.untraced.saturating_sub(1),
            Sent::Nothing => {}
            Sent::Operation(ticket) => self.acknowledged_for(ticket, worker, what),
        }
    }

    fn acknowledged_for(&mut self, ticket: Ticket, worker: usize, what: Acknowledgement) {
        let Some(pending) = self.pending.get_mut(&ticket) else { return };
        match (&mut pending.operation, what) {
            (Operation::Weight { missing, .. }, Acknowledgement::Done) => *missing = missing.saturating_sub(1),
            (Operation::Weight { changes, .. }, Acknowledgement::NoSuchSlot) => {
                // The worker's snapshot is another than we thought: give it a new one, with the weight in it.
                let changes = std::mem::take(changes);
                self.model.touch();
                self.wait_for_change(ticket, changes, Some(requests::NOT_WRITTEN.to_owned()));
            }
            (Operation::Trace { started, .. }, _) => started[worker] = true,
            (Operation::Gather { reports, .. }, Acknowledgement::Report(report)) => reports[worker] = Some(report),
            (Operation::List(listing), Acknowledgement::Flows(page)) => {
                listing.asked = false;
                listing.cursor = page.cursor;
                let all = page.flows.iter().all(|flow| listing.take(&self.model, flow));
                if all && page.cursor == FlowPage::END {
                    listing.worker += 1;
                    listing.cursor = 0;
                }
                pending.deadline = Some(self.now + ACKNOWLEDGE);
                // The next page is asked for at once: a large table has thousands.
                self.push(ticket);
            }
            _ => {}
        }
    }

    pub(super) fn heard(&mut self, worker: usize, event: Event) {
        match event {
            Event::Trace(record) => {
                let Some(ticket) = self.tracing else { return };
                let Some(Pending { operation: Operation::Trace { frames, seen, started, .. }, .. }) =
                    self.pending.get_mut(&ticket)
                else {
                    return;
                };
                if !started[worker] {
                    return; // of the trace before this one
                }
                *seen += 1;
                let (seen, frames) = (*seen, *frames);
                let result = Ok(Response::Trace(Box::new(Traced { worker, record: *record })));
                self.replies.push_back(Reply { ticket, more: true, result });
                if seen >= frames {
                    self.pending.remove(&ticket);
                    self.answer(ticket, Ok(Response::TraceEnd(TraceEnd { frames: seen, lost: 0 })));
                    self.end_trace();
                }
            }
            Event::Cookie { key, server } => self.cookies.push((worker, key, server)),
            Event::NeedNeighbour(client) => self.model.learn_neighbour(client),
            Event::NeedNextHop(row) => {
                let Some(target) = self.model.target(row) else { return };
                if let Some(problem) = self.model.problem(row).map(str::to_owned) {
                    self.note_of((0, u64::from(row)), |_| format!("packets to {target} are dropped: {problem}"));
                }
            }
            Event::PartialChecksums { interface, source } => {
                self.note_of((1, u64::from(interface)), |control| {
                    let from = source.map_or("somebody".to_owned(), |s| s.to_string());
                    let name = control.model.interfaces().get(usize::from(interface)).map_or("?", |i| &i.name);
                    format!(
                        "{from} leaves its checksums to an offload (seen on {name}); they are completed in software. \
                         `ethtool -K INTERFACE tx off` at the sender's end makes that unnecessary"
                    )
                });
            }
        }
    }

    /// Tells every worker the cookies that the others have learned. One that has no room for them does without: it goes
    /// by the cookie's value then.
    pub(super) fn spread_cookies(&mut self) {
        let cookies = std::mem::take(&mut self.cookies);
        if cookies.is_empty() {
            return;
        }
        for worker in 0..self.port_workers() {
            let others = cookies.iter().filter(|(from, ..)| *from != worker);
            let others: Vec<(u64, u16)> = others.map(|(_, key, server)| (*key, *server)).collect();
            if !others.is_empty() {
                self.tell(worker, Command::Learn(others), Sent::Nothing);
            }
        }
    }

    pub(super) fn end_trace(&mut self) {
        self.tracing = None;
        for worker in 0..self.progress.len() {
            let off = Command::Trace { filter: TraceFilter::default(), frames: 0 };
            // Where there is no room, the worker ends the trace by itself when it has seen its frames.
            self.untraced += usize::from(self.tell(worker, off, Sent::TraceOff));
        }
    }

    pub(super) fn expire(&mut self) {
        let late: Vec<Ticket> =
            self.pending.iter().filter(|(_, p)| p.deadline.is_some_and(|d| d <= self.now)).map(|(t, _)| *t).collect();
        for ticket in late {
            let Some(pending) = self.pending.remove(&ticket) else { continue };
            let (silent, changes) = match &pending.operation {
                Operation::Apply { generation, .. } => {
                    let behind = |w: &usize| self.progress[*w].installed < *generation;
                    ((0..self.progress.len()).filter(behind).collect(), true)
                }
                Operation::Weight { .. } => (self.silent(ticket), true),
                _ => (self.silent(ticket), false),
            };
            if matches!(pending.operation, Operation::Gather { purpose: Purpose::Draining, .. }) {
                continue;
            }
            let message = self.late(&silent, changes);
            self.answer(ticket, Err(Failure::new(FailureCode::Timeout, message)));
        }
    }

    /// Workers that owe an answer to this request.
    fn silent(&self, ticket: Ticket) -> Vec<usize> {
        let mut silent: Vec<usize> =
            self.sent.values().filter(|(_, s)| *s == Sent::Operation(ticket)).map(|(w, _)| *w).collect();
        silent.sort_unstable();
        silent
    }

    fn late(&self, silent: &[usize], changes: bool) -> String {
        let seconds = ACKNOWLEDGE.as_secs();
        let all = self.progress.len();
        if silent.is_empty() {
            return match &self.steer_error {
                Some(error) => format!("all {all} workers have the change, but the XDP filter refuses it: {error}"),
                None => format!("no answer within {seconds} s; the director is overloaded, try again"),
            };
        }
        let names: Vec<String> = silent.iter().map(|w| self.name(*w)).collect();
        let names = names.join(", ");
        if changes {
            format!(
                "{names} has not acknowledged within {seconds} s; {} of {all} workers have the change, and the others \
                 take it as soon as they can. Is something else running on that core?",
                all - silent.len()
            )
        } else {
            format!("{names} has not answered within {seconds} s. Is something else running on that core?")
        }
    }

    pub(super) fn worker_ended(&mut self, worker: usize) {
        if self.progress[worker].ended {
            return;
        }
        self.progress[worker].ended = true;
        let text = format!("{} has ended", self.name(worker));
        self.note(text.clone());
        let tickets: Vec<Ticket> = self.pending.keys().copied().collect();
        for ticket in tickets {
            if let Some(pending) = self.pending.remove(&ticket)
                && !matches!(pending.operation, Operation::Gather { purpose: Purpose::Draining, .. })
            {
                self.answer(ticket, Err(Failure::new(FailureCode::Internal, text.clone())));
            }
        }
        self.tracing = None;
    }
}
