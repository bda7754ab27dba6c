//! Placement: which thread decides a request (tutorial, slides 44 to 49; `PLACEMENT.md`).
//!
//! *Run to completion*: the worker that polls the port does everything. *Split*: port workers classify, look up and rewrite,
//! and own the flow table, the splices and the timers; the request that nothing is known about yet goes as a copy of its bytes
//! over a ring to a [`ContentWorker`], which reads it, evaluates the rules, and gives back what it has found. Which server
//! serves, the port worker says: it owns the schedulers, the queues, and what clients are kept with.
//!
//! What comes back names the connection by its entry and by the number of its errand, which is used once: a connection that
//! has died meanwhile, or has another owner, ignores it. Nothing is lost with a full ring: the port worker decides itself.

mod content_worker;

pub use content_worker::ContentWorker;

use crate::extract::Extraction;
use crate::splice::Binding;
use crate::stages::bind::Progress;
use lcs_dataplane::cycles::StageCost;
use lcs_dataplane::errand::{Intake, Outlet, errands};
use lcs_dataplane::worker::Nanos;
use serde::{Deserialize, Serialize};

/// Requests that one port worker may have out at once. More it decides itself.
pub const DEPTH: usize = 256;
/// Bytes of a request that a spare piece of work keeps room for.
const KEEP: usize = 16 << 10;

/// A request on its way to a content worker and back. Its memory is used again.
#[derive(Debug, Default)]
pub struct Undecided {
    /// Whose it is: the connection's entry, and a number that is used once.
    pub(crate) entry: u32,
    pub(crate) errand: u64,
    pub(crate) service: u16,
    /// Generation of the snapshot, and how often the service's rules had been replaced, when it went out.
    pub(crate) generation: u64,
    pub(crate) rules: u32,
    /// Sequence number of its first byte; what has come of it; whether nothing follows.
    pub(crate) start: u32,
    pub(crate) bytes: Vec<u8>,
    pub(crate) end: bool,
    /// The client's last packet with new data, as much of it as rules may look at.
    pub(crate) header: Vec<u8>,
    /// How far it has been read.
    pub(crate) extraction: Option<Box<Extraction>>,
    /// What was found; `None` by a content worker that has another snapshot.
    pub(crate) progress: Option<Progress>,
    pub(crate) sent_at: Nanos,
}

impl Undecided {
    /// Takes what has come of a request. What is here of it already stays.
    fn copy(&mut self, b: &Binding) {
        if self.start != b.start || self.bytes.len() > b.buffer.len() {
            self.bytes.clear();
            self.start = b.start;
        }
        let had = self.bytes.len();
        self.bytes.extend_from_slice(b.buffer.get(had..).unwrap_or_default());
        self.end = b.fin;
        self.header.clear();
        self.header.extend_from_slice(&b.header);
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEEP);
        self.start = 0;
        self.progress = None;
    }
}

/// A port worker's ends of the rings to the content workers.
pub type PortEnd = Outlet<Box<Undecided>>;
/// A content worker's ends of the rings of all port workers.
pub type ContentEnd = Intake<Box<Undecided>>;

/// Rings between port workers and content workers.
pub fn rings(port_workers: usize, content_workers: usize) -> (Vec<PortEnd>, Vec<ContentEnd>) {
    rings_of(port_workers, content_workers, DEPTH)
}

/// The same for so many requests of each port worker.
pub fn rings_of(port_workers: usize, content_workers: usize, depth: usize) -> (Vec<PortEnd>, Vec<ContentEnd>) {
    errands(port_workers, content_workers, depth)
}

/// What a port worker has counted of requests that it handed to content workers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Handed {
    /// Handed out; a request that comes in pieces may be handed out again with each.
    pub out: u64,
    /// Bytes of these that were copied.
    pub bytes: u64,
    /// Come back with a decision, an error, or the wish for more bytes.
    pub back: u64,
    /// Come back for a connection that was gone, had given up, or had another owner.
    pub ignored: u64,
    /// Come back with what rules say that were replaced meanwhile: read again.
    pub outdated: u64,
    /// Come back unread, since the content worker had another snapshot: decided here.
    pub unread: u64,
    /// Not handed out, since the ring was full: decided here.
    pub full: u64,
    /// Nanoseconds from handing out to taking back, of all.
    pub nanoseconds: u64,
    /// Out now.
    pub away: usize,
    /// The most that were out at once.
    pub deepest: usize,
    /// Places of the ring.
    pub depth: usize,
}

impl Handed {
    /// Adds another worker's counts.
    pub fn add(&mut self, more: &Handed) {
        self.out += more.out;
        self.bytes += more.bytes;
        self.back += more.back;
        self.ignored += more.ignored;
        self.outdated += more.outdated;
        self.unread += more.unread;
        self.full += more.full;
        self.nanoseconds += more.nanoseconds;
        self.away += more.away;
        self.deepest = self.deepest.max(more.deepest);
        self.depth = self.depth.max(more.depth);
    }

    /// What was counted since `earlier`; what is there now stays.
    #[must_use]
    pub fn since(&self, earlier: &Handed) -> Handed {
        Handed {
            out: self.out.saturating_sub(earlier.out),
            bytes: self.bytes.saturating_sub(earlier.bytes),
            back: self.back.saturating_sub(earlier.back),
            ignored: self.ignored.saturating_sub(earlier.ignored),
            outdated: self.outdated.saturating_sub(earlier.outdated),
            unread: self.unread.saturating_sub(earlier.unread),
            full: self.full.saturating_sub(earlier.full),
            nanoseconds: self.nanoseconds.saturating_sub(earlier.nanoseconds),
            ..*self
        }
    }

    /// Nanoseconds from handing out to taking back, on average.
    pub fn wait(&self) -> f64 {
        let back = self.back + self.ignored + self.outdated + self.unread;
        if back == 0 { 0.0 } else { self.nanoseconds as f64 / back as f64 }
    }
}

impl Decided {
    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Decided) -> Decided {
        Decided {
            requests: self.requests.saturating_sub(earlier.requests),
            bytes: self.bytes.saturating_sub(earlier.bytes),
            decided: self.decided.saturating_sub(earlier.decided),
            more: self.more.saturating_sub(earlier.more),
            failed: self.failed.saturating_sub(earlier.failed),
            unread: self.unread.saturating_sub(earlier.unread),
            deepest: self.deepest,
            busy_turns: self.busy_turns.saturating_sub(earlier.busy_turns),
            idle_turns: self.idle_turns.saturating_sub(earlier.idle_turns),
            sleeps: self.sleeps.saturating_sub(earlier.sleeps),
            cost: self.cost.since(&earlier.cost),
        }
    }
}

/// What a content worker has counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Decided {
    /// Requests, or the pieces of them that there were, that were read.
    pub requests: u64,
    /// Bytes of requests in these.
    pub bytes: u64,
    /// A rule took it.
    pub decided: u64,
    /// More of it must come.
    pub more: u64,
    /// It cannot be read.
    pub failed: u64,
    /// Given back unread, since the port worker had another snapshot.
    pub unread: u64,
    /// Pieces that waited in the rings when one was taken, at most.
    pub deepest: usize,
    /// Turns of the loop that did something.
    pub busy_turns: u64,
    /// Turns with nothing to do.
    pub idle_turns: u64,
    /// Times that it slept.
    pub sleeps: u64,
    /// Reading and evaluating: requests and cycles.
    pub cost: StageCost,
}

/// A port worker's side: the ring, what is counted, boxes for the next request.
#[derive(Debug)]
pub(crate) struct Away {
    ring: PortEnd,
    counts: Handed,
    last: u64,
    // Boxes travel through the rings and back here, so that nothing of their size is moved.
    #[allow(clippy::vec_box)]
    spare: Vec<Box<Undecided>>,
}

impl Away {
    pub(crate) fn new(ring: PortEnd) -> Self {
        Away { ring, counts: Handed::default(), last: 0, spare: Vec::new() }
    }

    /// Hands a binding's request out; its extraction goes with it. Where that cannot be, the extraction comes back.
    pub(crate) fn send(
        &mut self,
        b: &mut Binding,
        extraction: Box<Extraction>,
        (service, rules): (u16, u32),
        now: Nanos,
    ) -> Result<(), Box<Extraction>> {
        if self.ring.away() >= self.ring.depth() {
            self.counts.full += 1;
            return Err(extraction);
        }
        let mut piece = b.piece.take().or_else(|| self.spare.pop()).unwrap_or_default();
        let had = piece.bytes.len();
        piece.copy(b);
        self.last += 1;
        (piece.entry, piece.errand, piece.service) = (b.entry, self.last, service);
        (piece.generation, piece.rules, piece.sent_at) = (b.generation, rules, now);
        piece.progress = None;
        piece.extraction = Some(extraction);
        let copied = piece.bytes.len().saturating_sub(had);
        match self.ring.send(piece) {
            Ok(()) => {
                b.errand = self.last;
                self.counts.out += 1;
                self.counts.bytes += copied as u64;
                self.counts.deepest = self.counts.deepest.max(self.ring.away());
                Ok(())
            }
            Err(mut piece) => {
                self.counts.full += 1;
                let extraction = piece.extraction.take();
                self.keep(piece);
                // It was put in above.
                extraction.map_or(Ok(()), Err)
            }
        }
    }

    /// The next one that has come back.
    #[inline]
    pub(crate) fn receive(&mut self, now: Nanos) -> Option<Box<Undecided>> {
        let piece = self.ring.receive()?;
        self.counts.nanoseconds += now.saturating_sub(piece.sent_at);
        Some(piece)
    }

    /// Keeps a box for another request.
    pub(crate) fn keep(&mut self, mut piece: Box<Undecided>) {
        if self.spare.len() < self.ring.depth() {
            piece.clear();
            self.spare.push(piece);
        }
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.ring.away() > 0
    }

    pub(crate) fn counts_mut(&mut self) -> &mut Handed {
        &mut self.counts
    }

    pub(crate) fn counts(&self) -> Handed {
        Handed { away: self.ring.away(), depth: self.ring.depth(), ..self.counts }
    }
}
