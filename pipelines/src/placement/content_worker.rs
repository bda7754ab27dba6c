//! A content worker: takes requests from the port workers' rings, reads them as far as the rules need it, gives back what it
//! has found. It owns nothing of a connection.
//!
//! [`ContentWorker::poll`] and [`ContentWorker::between`] are its turns, which tests and the simulator call;
//! [`ContentWorker::run`] turns it on a thread until told to stop.

use super::{ContentEnd, Decided, Undecided};
use crate::command::{Acknowledgement, Command, Event, FlowPage};
use crate::content::Content;
use crate::matching::Scratch;
use crate::snapshot::Snapshot;
use crate::stages::bind::{GroupState, Progress, read};
use crate::stages::schedule::SharedCounts;
use lcs_dataplane::cycles::Meter;
use lcs_dataplane::ring::WorkerEnd;
use lcs_dataplane::worker::{COMMANDS_A_TURN, Idle, SLEEP};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Empty turns before an adaptive content worker sleeps: nobody wakes it, so that sleeping costs what it sleeps too long.
const SPIN_TURNS: u32 = 256;

/// Requests read in one turn: then commands are looked at again.
const REQUESTS_A_TURN: usize = 32;

/// A content worker.
#[derive(Debug)]
pub struct ContentWorker<M> {
    ends: ContentEnd,
    meter: M,
    counts: Arc<SharedCounts>,
    snapshot: Arc<Snapshot>,
    /// By service slot: its rules, and room to evaluate them in.
    scratches: Vec<Option<(Arc<Content>, Scratch)>>,
    rings: Option<WorkerEnd<Command, Acknowledgement, Event>>,
    idle: Idle,
    counted: Decided,
}

impl<M: Meter> ContentWorker<M> {
    /// A content worker that knows no rules yet: give it the port workers' snapshots. `counts` are the port workers', for
    /// rules that ask for connections.
    pub fn new(ends: ContentEnd, counts: Arc<SharedCounts>, meter: M) -> Self {
        ContentWorker {
            ends,
            meter,
            counts,
            snapshot: Arc::default(),
            scratches: Vec::new(),
            rings: None,
            idle: Idle::Poll,
            counted: Decided::default(),
        }
    }

    /// The same with rings to the control thread.
    #[must_use]
    pub fn with_rings(mut self, rings: WorkerEnd<Command, Acknowledgement, Event>) -> Self {
        self.rings = Some(rings);
        self
    }

    /// The same with this idle policy.
    #[must_use]
    pub fn with_idle(mut self, idle: Idle) -> Self {
        self.idle = idle;
        self
    }

    /// What it has counted.
    pub fn counted(&self) -> &Decided {
        &self.counted
    }

    /// Carries out a command. What is about connections is the port workers': there are none here.
    pub fn command(&mut self, command: Command) -> Acknowledgement {
        match command {
            Command::Install(snapshot) => Acknowledgement::Installed(Some(self.install(snapshot))),
            // Its memory is that of connections.
            Command::Prepare(_) => Acknowledgement::Prepared(true),
            Command::Report(mut report) => {
                *report = Default::default();
                report.generation = self.snapshot.generation;
                report.decided = Some(Box::new(self.counted.clone()));
                Acknowledgement::Report(report)
            }
            Command::ListFlows(mut page) => {
                page.flows.clear();
                page.cursor = FlowPage::END;
                Acknowledgement::Flows(page)
            }
            Command::SetWeight { .. } | Command::SetNextHop { .. } | Command::Learn(_) | Command::Trace { .. } => {
                Acknowledgement::Done
            }
        }
    }

    fn install(&mut self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        self.scratches.resize_with(snapshot.services.len(), || None);
        for (place, service) in self.scratches.iter_mut().zip(&snapshot.services) {
            let content = service.as_ref().and_then(|s| s.content.as_ref());
            let same = match (&*place, content) {
                (Some((old, _)), Some(new)) => Arc::ptr_eq(old, new),
                (None, None) => true,
                _ => false,
            };
            if !same {
                *place = content.map(|c| (Arc::clone(c), c.program.scratch()));
            }
        }
        std::mem::replace(&mut self.snapshot, snapshot)
    }

    /// One turn: reads what waits, a bounded number. Returns how many there were.
    pub fn poll(&mut self) -> usize {
        self.poll_at_most(REQUESTS_A_TURN)
    }

    /// The same with at most so many.
    pub fn poll_at_most(&mut self, most: usize) -> usize {
        let mut n = 0;
        while n < most
            && let Some((worker, mut piece)) = self.ends.take()
        {
            if n == 0 {
                self.counted.deepest = self.counted.deepest.max(self.ends.waiting() + 1);
            }
            let begin = self.meter.read();
            self.decide(&mut piece);
            let cycles = self.meter.read().wrapping_sub(begin);
            self.counted.cost.charge(1, cycles);
            self.ends.give_back(worker, piece);
            n += 1;
        }
        if n > 0 {
            self.counted.busy_turns += 1;
        } else {
            self.counted.idle_turns += 1;
        }
        n
    }

    fn decide(&mut self, piece: &mut Undecided) {
        let place = self.scratches.get_mut(usize::from(piece.service)).and_then(Option::as_mut);
        // The state of servers and groups is that of one snapshot, and rules are numbered in it.
        let same = piece.generation == self.snapshot.generation;
        let (Some((content, scratch)), Some(extraction), true) = (place, &mut piece.extraction, same) else {
            self.counted.unread += 1;
            return;
        };
        let groups = GroupState { content, snapshot: &self.snapshot, counts: &self.counts };
        let progress = read(&groups, scratch, extraction, &piece.bytes, piece.end, &piece.header);
        self.counted.requests += 1;
        self.counted.bytes += piece.bytes.len() as u64;
        *match progress {
            Progress::More => &mut self.counted.more,
            Progress::Decided(_) => &mut self.counted.decided,
            Progress::Failed(_) => &mut self.counted.failed,
        } += 1;
        piece.progress = Some(progress);
    }

    /// Commands. Returns `false` when the control thread is gone.
    pub fn between(&mut self) -> bool {
        let Some(rings) = self.rings.take() else { return true };
        let there = rings.serve(COMMANDS_A_TURN, |command| self.command(command));
        self.rings = Some(rings);
        there
    }

    /// Turns until `stop` is set or the control thread is gone. Gives the worker back, for a last look at what it counted.
    pub fn run(mut self, stop: &AtomicBool) -> Self {
        let mut empty = 0_u32;
        while !stop.load(Ordering::Relaxed) {
            empty = if self.poll() > 0 { 0 } else { empty.saturating_add(1) };
            if !self.between() {
                break;
            }
            if self.idle == Idle::Adaptive && empty > SPIN_TURNS {
                self.counted.sleeps += 1;
                self.ends.wait(SLEEP);
                empty = SPIN_TURNS;
            } else if empty > 0 {
                std::hint::spin_loop();
            }
        }
        self
    }
}
