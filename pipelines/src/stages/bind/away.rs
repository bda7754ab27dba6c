//! Requests that content workers have in hand: handing them out, and going on when they come back ([`crate::placement`]).

use super::Desk;
use super::read::Progress;
use crate::extract::Extraction;
use crate::placement::{Handed, Undecided};
use crate::splice::{Binding, Phase};
use lcs_dataplane::port::Port;

/// Requests gone on with in one turn: some tens of microseconds at most.
const A_TURN: usize = 32;

impl<P: Port> Desk<'_, P> {
    /// Hands a request to the content workers; where there are none, or their ring is full, its extraction comes back.
    pub(super) fn send_away(
        &mut self,
        b: &mut Binding,
        service: u16,
        extraction: Box<Extraction>,
    ) -> Result<(), Box<Extraction>> {
        let rules = self.c.splices.rules_of(service);
        match &mut self.c.splices.away {
            Some(away) => away.send(b, extraction, (service, rules), self.now),
            None => Err(extraction),
        }
    }

    /// Whether requests are decided elsewhere, and so none can be decided while its frame is held.
    pub(super) fn decides_elsewhere(&self) -> bool {
        self.c.splices.away.is_some()
    }

    /// Goes on with `first` and what else has come back. Returns how many requests there were.
    pub(super) fn come_back(&mut self, first: Box<Undecided>) -> usize {
        self.came_back(first);
        for n in 1..A_TURN {
            let Some(piece) = self.c.splices.away.as_mut().and_then(|away| away.receive(self.now)) else { return n };
            self.came_back(piece);
        }
        A_TURN
    }

    fn came_back(&mut self, piece: Box<Undecided>) {
        // Its connection may be gone, and the entry another's: the number of the errand is only its own.
        let Some(mut b) = self.c.splices.take(piece.entry) else {
            return self.end_errand(piece, |n| &mut n.ignored);
        };
        let its_own = b.errand == piece.errand;
        if its_own {
            b.errand = 0;
        }
        if its_own && b.phase == Phase::Collect {
            let flow = b.entry;
            // Nothing was acknowledged while nobody knew how much of it goes to a filter, or that it does not go to a guessed server.
            let untold = !b.may_ack || self.is_migrated(flow);
            self.goes_on(flow, &mut b, piece);
            if untold && b.may_ack && !b.done && b.phase != Phase::Answer {
                self.acknowledge(flow, &mut b);
            }
        } else {
            self.end_errand(piece, |n| &mut n.ignored);
        }
        self.c.splices.put(b);
    }

    /// A binding's request has come back.
    fn goes_on(&mut self, flow: u32, b: &mut Binding, mut piece: Box<Undecided>) {
        let service = self.c.table.get(flow).service;
        let (seen, end) = (piece.bytes.len(), piece.end);
        let same_rules = piece.service == service && piece.rules == self.c.splices.rules_of(service);
        if !same_rules || piece.generation != self.snapshot.generation {
            // What was found is a number of rules that are gone, or by servers' states that are. What they made the director say, it says again where it must.
            b.repeats = b.said;
            self.end_errand(piece, |n| &mut n.outdated);
            return self.collect_and_deliver(flow, b);
        }
        let (Some(extraction), Some(content)) = (piece.extraction.take(), self.content_of(flow)) else {
            self.end_errand(piece, |n| &mut n.outdated);
            return self.collect_and_deliver(flow, b);
        };
        if self.is_attached(flow) && self.c.splices.get(b.entry).until_close {
            // Its server has closed meanwhile, or will: no request after the one before is served here.
            self.c.splices.keep_extraction(extraction);
            return self.end_errand(piece, |n| &mut n.ignored);
        }
        match piece.progress {
            None => {
                // The content worker has another snapshot. Here is the right one.
                b.extraction = Some(extraction);
                self.end_errand(piece, |n| &mut n.unread);
                self.collect_here(flow, b);
            }
            Some(progress) => {
                if matches!(progress, Progress::More) {
                    b.seen = seen;
                    // What has been copied of it need not be copied again.
                    b.piece = Some(piece);
                    self.count_back(|n| &mut n.back);
                } else {
                    self.end_errand(piece, |n| &mut n.back);
                }
                self.progressed(flow, b, content, extraction, progress, seen);
                let more = b.buffer.len() > seen || b.fin != end;
                if b.phase == Phase::Collect && b.extraction.is_some() && !b.done && more {
                    self.collect(flow, b);
                }
            }
        }
        self.deliver_rest(flow, b);
    }

    fn collect_and_deliver(&mut self, flow: u32, b: &mut Binding) {
        self.collect(flow, b);
        self.deliver_rest(flow, b);
    }

    /// As after a client's segment: what has come since the decision goes to its server too.
    fn deliver_rest(&mut self, flow: u32, b: &mut Binding) {
        if b.phase == Phase::Deliver && !b.done {
            self.deliver(flow, b);
        }
    }

    fn end_errand(&mut self, piece: Box<Undecided>, of: impl FnOnce(&mut Handed) -> &mut u64) {
        self.c.splices.keep_piece(piece);
        self.count_back(of);
    }

    fn count_back(&mut self, of: impl FnOnce(&mut Handed) -> &mut u64) {
        if let Some(away) = &mut self.c.splices.away {
            *of(away.counts_mut()) += 1;
        }
    }
}
