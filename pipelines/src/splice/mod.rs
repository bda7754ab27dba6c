//! What a worker keeps about connections that are switched by content: an entry for each while it lasts, a [`Binding`]
//! while a request is being collected, decided and delivered, a [`Follow`] while the end of a message is being looked for.
//!
//! After a request has been delivered only the entry (64 bytes) stays beside the flow, and where timestamps were agreed upon,
//! these (36 bytes).

mod ahead;
mod binding;
mod counts;
mod entry;
pub(crate) mod farewell;
mod follow;
mod guess;
mod handshakes;
pub(crate) mod pool;
mod proven;
mod queue;
mod room;
pub(crate) mod sticky;
mod wheel;

pub(crate) use binding::{Arrival, Binding, Owed, Phase, RTO_FIRST, TRIES, Taken};
pub(crate) use entry::{ENTRY_BYTES, Entries, Entry};
use entry::{FREE, revoke};
pub(crate) use follow::{Follow, Seen};
pub(crate) use handshakes::Handshake;
pub(crate) use queue::Admission;
use queue::Queues;
pub use room::Needs;
use wheel::Wheel;

use crate::content::Content;
use crate::extract::{Extraction, Protocol};
use crate::matching::Scratch;
use crate::migration::Migrations;
use crate::placement::{Away, Undecided};
use crate::snapshot::Snapshot;
use crate::tally::Tally;
use lcs_dataplane::BURST;
use lcs_dataplane::flow::{Addresses, Flow, FlowTable, Key};
use lcs_dataplane::prefetch::prefetch_at;
use lcs_dataplane::splice::{Cookies, Offer, Stamps};
use lcs_dataplane::worker::Nanos;
use std::collections::VecDeque;
use std::sync::Arc;

/// No entry, binding or follower.
pub(crate) const NIL: u32 = u32::MAX;
/// Window scale that the director announces to clients: that of most servers, so that windows need no rewriting.
pub(crate) const OWN_SCALE: u8 = 7;
/// Bindings of one worker at most.
const BINDINGS: usize = 1 << 16;
/// Bytes of requests that one worker holds at most.
const BUFFERED: usize = 256 << 20;
/// Clients that are remembered to have been sent a cookie lately, at most: what is remembered is overwritten.
const COOKIED: usize = 1 << 14;
/// Places in which one client may stand.
const COOKIED_WAYS: usize = 4;
/// For how long, nanoseconds.
const COOKIED_FOR: Nanos = 30_000_000_000;
/// Boxes and extractions kept for the next connection.
const SPARE: usize = 256;

/// What there is now of one service.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    connections: u64,
    parked: u64,
    in_hand: u64,
    /// Counts up with every replacement of its rules.
    rules: u32,
}

#[derive(Debug)]
enum Slot {
    Free(u32),
    /// In the hands of the stage that works on it.
    Taken,
    Held(Box<Binding>),
}

/// A rule set, and room to evaluate it in.
type Lent = Box<(Arc<Content>, Scratch)>;

/// A request whose server is chosen and is to be opened.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) b: Box<Binding>,
    /// The place of the frame that has decided it.
    pub(crate) at: usize,
    pub(crate) server: u16,
    /// What the server's answers are known by, and the hash of that.
    pub(crate) back: Key,
    pub(crate) hash: u64,
}

/// The entries, bindings and followers of one worker.
#[derive(Debug)]
pub struct Splices {
    entries: Vec<Entry>,
    /// Entries whose flows are to give their lease back. Each stands here once at most, but for those leased again meanwhile.
    revoked: Vec<u32>,
    /// Entries that were read since a batch began, and frames of that batch.
    read: u32,
    batch: u32,
    /// Timestamps of each entry that has them; none while no service agrees upon them.
    stamps: Vec<Stamps>,
    used: usize,
    capacity: usize,
    slots: Vec<Slot>,
    free_slots: u32,
    bound: usize,
    follows: Vec<Follow>,
    free_follows: Vec<u32>,
    wheel: Wheel,
    // Boxes go from here into slots and back, so that nothing of their size is ever moved.
    #[allow(clippy::vec_box)]
    spare: Vec<Box<Binding>>,
    #[allow(clippy::vec_box)]
    extractions: Vec<Box<Extraction>>,
    /// Bytes of requests held.
    pub(crate) buffered: usize,
    pub(crate) cookies: Cookies,
    /// Hash of a client and when it was sent a cookie.
    cookied: Vec<(u64, Nanos)>,
    /// Handshakes whose SYN+ACK may have to be sent again.
    pub(crate) handshakes: handshakes::Handshakes,
    /// By service slot: its rules, and room to evaluate them in.
    scratches: Vec<Option<Lent>>,
    /// Entries of requests that were decided in this batch and are gone on with behind it, and the place of the frame that
    /// decided each.
    pub(crate) decided: Vec<(u32, usize)>,
    /// Those of them whose servers are chosen, in that order, and opened when those of the whole batch are.
    pub(crate) opening: VecDeque<Opening>,
    /// Flows of legs whose connection is gone.
    pub(crate) orphans: Vec<u32>,
    /// Segments that the director made.
    pub(crate) sent: u64,
    /// Cookies that clients have brought back, and those that were none of ours.
    pub(crate) cookies_good: u64,
    pub(crate) cookies_bad: u64,
    /// By service slot: what was counted, and the state of now.
    tallies: Vec<Option<Tally>>,
    states: Vec<State>,
    /// By slot of bindings: whose it is.
    owners: Vec<u16>,
    queues: Queues,
    /// Which server has set which cookie.
    pub(crate) sessions: sticky::Sessions,
    /// What guesses go by.
    pub(crate) guesses: guess::Guesses,
    /// Clients whose addresses are their own.
    pub(crate) proven: proven::Proven,
    /// Guessed servers whose connections were forgotten.
    pub(crate) farewells: farewell::Farewells,
    /// Times that an endpoint of the director's own was looked for, to open a connection to a server from.
    pub(crate) sources_sought: u64,
    /// Servers' connections for whoever asks next.
    pub(crate) pools: pool::Pools,
    /// Requests that content workers have in hand, where there are content workers.
    pub(crate) away: Option<Away>,
    /// What is known of filters, or of directors where this is one.
    pub(crate) migrations: Migrations,
    /// Requests that could not be read.
    pub(crate) unparsed: u64,
    /// Requests for which no server was left.
    pub(crate) refused: u64,
    /// Requests that went on over a server's connection that was there already.
    pub(crate) reused: u64,
}

impl Splices {
    /// Room for `capacity` connections, on one of so many workers. `seed` keys the cookies.
    pub(crate) fn new(capacity: usize, seed: u64, workers: u8) -> Self {
        Splices {
            entries: Vec::new(),
            revoked: Vec::new(),
            read: 0,
            batch: 0,
            stamps: Vec::new(),
            used: 0,
            capacity,
            slots: Vec::new(),
            free_slots: NIL,
            bound: 0,
            follows: Vec::new(),
            free_follows: Vec::new(),
            wheel: Wheel::new(),
            spare: Vec::new(),
            extractions: Vec::new(),
            buffered: 0,
            cookied: Vec::new(),
            handshakes: handshakes::Handshakes::default(),
            cookies: Cookies::new([seed, seed.rotate_left(29) ^ 0x6c63_735f_636f_6f6b]),
            scratches: Vec::new(),
            decided: Vec::with_capacity(BURST),
            opening: VecDeque::with_capacity(BURST),
            orphans: Vec::new(),
            sent: 0,
            cookies_good: 0,
            cookies_bad: 0,
            tallies: Vec::new(),
            states: Vec::new(),
            owners: Vec::new(),
            queues: Queues::new(workers),
            sessions: sticky::Sessions::default(),
            guesses: guess::Guesses::default(),
            proven: proven::Proven::default(),
            farewells: farewell::Farewells::default(),
            sources_sought: 0,
            pools: pool::Pools::default(),
            migrations: Migrations::new(seed.rotate_left(41) ^ 0x6c63_735f_6d69_6772),
            away: None,
            unparsed: 0,
            refused: 0,
            reused: 0,
        }
    }

    /// Connections and legs.
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    /// Bytes of what [`Splices::reserve`] and timestamps take: all that grows with the capacity. Requests that are held are not in it.
    pub(crate) fn memory(&self) -> usize {
        self.entries.capacity() * ENTRY_BYTES
            + self.revoked.capacity() * size_of::<u32>()
            + self.stamps.capacity() * size_of::<Stamps>()
            + self.slots.capacity() * size_of::<Slot>()
            + self.owners.capacity() * size_of::<u16>()
    }

    /// Follows a new snapshot: the rules of its services.
    pub(crate) fn install(&mut self, snapshot: &Snapshot) {
        // All but the first time it is there already: `Command::Prepare` came before.
        self.reserve(Needs::of(snapshot));
        if !self.entries.is_empty() && self.cookied.is_empty() {
            self.cookied = vec![(0, 0); COOKIED];
        }
        let greets = |content: &Content| content.protocol.server_speaks_first();
        if snapshot.services.iter().flatten().filter_map(|s| s.content.as_deref()).any(greets) {
            self.handshakes.reserve();
        }
        self.pools.install(snapshot);
        self.scratches.resize_with(snapshot.services.len(), || None);
        self.tallies.resize_with(snapshot.services.len(), || None);
        self.states.resize(self.states.len().max(snapshot.services.len()), State::default());
        for (slot, service) in snapshot.services.iter().enumerate() {
            let content = service.as_ref().and_then(|s| s.content.as_ref());
            let same = match (&self.scratches[slot], content) {
                (Some(old), Some(new)) => Arc::ptr_eq(&old.0, new),
                (None, None) => true,
                _ => false,
            };
            if !same {
                self.scratches[slot] = content.map(|c| Box::new((c.clone(), c.program.scratch())));
                self.states[slot].rules += 1;
                self.queues.install(slot as u16, content.map(|c| &c.binding));
                if content.is_some_and(|content| content.learns_cookies()) {
                    self.sessions.reserve();
                }
                if content.is_some_and(|content| content.binding.scheme.learns()) {
                    self.guesses.reserve(slot);
                }
                if content.is_some_and(|content| content.binding.scheme.guesses()) {
                    self.proven.reserve();
                }
                let before = self.tallies[slot].take();
                self.tallies[slot] = content.map(|content| {
                    let mut tally = Tally::new(content);
                    before.iter().for_each(|before| tally.add(before));
                    tally
                });
            }
        }
    }

    /// Lends out the room to evaluate a service's rules in; to be given back.
    pub(crate) fn lend_scratch(&mut self, service: u16) -> Option<Lent> {
        self.scratches.get_mut(usize::from(service)).and_then(Option::take)
    }

    /// Gives it back.
    pub(crate) fn return_scratch(&mut self, service: u16, scratch: Lent) {
        if let Some(place) = self.scratches.get_mut(usize::from(service)) {
            *place = Some(scratch);
        }
    }

    /// The entry of a flow: it has the flow's own number, so that both can be asked for at once. `None` while no service is
    /// switched by content.
    pub(crate) fn insert(&mut self, flow: u32, service: u16, numbers: [u32; 2], offer: Offer) -> Option<u32> {
        *self.entries.get_mut(flow as usize)? = Entry::new(numbers, offer);
        self.used += 1;
        self.state_mut(service).connections += 1;
        Some(flow)
    }

    /// Asks for the entry of a flow, which may be none.
    #[inline(always)]
    pub(crate) fn prefetch(&self, flow: u32) {
        prefetch_at(self.entries.as_ptr().wrapping_add(flow as usize));
        if !self.stamps.is_empty() {
            prefetch_at(self.stamps.as_ptr().wrapping_add(flow as usize));
        }
    }

    /// The places of a client, known by its hash, among those that were sent a cookie.
    fn cookied(&self, hash: u64) -> std::ops::Range<usize> {
        let at = hash as usize % (COOKIED / COOKIED_WAYS) * COOKIED_WAYS;
        at..(at + COOKIED_WAYS).min(self.cookied.len())
    }

    /// A client was sent a cookie. The one longest ago in its places is forgotten.
    pub(crate) fn cookie_sent(&mut self, hash: u64, now: Nanos) {
        let places = self.cookied(hash);
        let place = self.cookied.get_mut(places).unwrap_or_default().iter_mut();
        if let Some(place) = place.min_by_key(|place| if place.0 == hash { 0 } else { place.1 }) {
            *place = (hash, now);
        }
    }

    /// Whether it was sent one lately. A flood of SYNs makes this forget.
    pub(crate) fn was_sent_cookie(&self, hash: u64, now: Nanos) -> bool {
        let places = self.cookied.get(self.cookied(hash)).unwrap_or_default();
        places.iter().any(|&(h, at)| h == hash && at > 0 && now < at + COOKIED_FOR)
    }

    /// The entries, for the fast path.
    #[inline(always)]
    pub(crate) fn entries(&mut self) -> Entries<'_> {
        Entries { all: &mut self.entries, stamps: &mut self.stamps, read: &mut self.read }
    }

    /// Whether some service agrees upon timestamps, or has: where none does, nobody asks for those of a segment.
    #[inline]
    pub(crate) fn agrees_stamps(&self) -> bool {
        !self.stamps.is_empty()
    }

    /// Gives an entry timestamps.
    pub(crate) fn stamp(&mut self, entry: u32, stamps: Stamps) {
        if let Some(s) = self.stamps.get_mut(entry as usize) {
            *s = stamps;
            self.get_mut(entry).stamped = true;
        }
    }

    /// The timestamps of an entry that has some.
    #[inline]
    pub(crate) fn stamps(&mut self, entry: u32) -> Option<&mut Stamps> {
        if !self.entries.get(entry as usize)?.stamped {
            return None;
        }
        self.stamps.get_mut(entry as usize)
    }

    #[inline]
    pub(crate) fn get(&self, entry: u32) -> &Entry {
        &self.entries[entry as usize]
    }

    /// An entry that may change: its flow's lease ends.
    #[inline]
    pub(crate) fn get_mut(&mut self, entry: u32) -> &mut Entry {
        revoke(&mut self.entries[entry as usize], entry, &mut self.revoked)
    }

    /// Lends a flow what it needs for segments that nobody has to look at, if that is worth while: many more are to come. `end` and
    /// `ack` are of a segment of `side` that has passed.
    #[inline]
    pub(crate) fn lend(&mut self, flow: &mut Flow, entry: u32, side: usize, end: u32, ack: u32) {
        if let Some(e) = self.entries.get_mut(entry as usize) {
            e.lend(flow, side, end, ack);
        }
    }

    /// Takes the leases back that have ended since the last time.
    #[inline]
    pub(crate) fn settle(&mut self, table: &mut FlowTable) {
        while let Some(entry) = self.revoked.pop() {
            if !self.entries[entry as usize].leased {
                table.get_mut(entry).end_lease();
            }
        }
    }

    /// An entry is going to be read.
    #[inline]
    pub(crate) fn reads(&mut self) {
        self.read += 1;
    }

    /// Whether the entries of a batch of so many frames are to be asked for: not where less than one in eight of the batch before has had
    /// to be read, since the others are of flows that are not spliced, or have a lease. Those few are then waited for.
    #[inline]
    pub(crate) fn asks(&mut self, frames: u32) -> bool {
        let (read, of) = (std::mem::take(&mut self.read), std::mem::replace(&mut self.batch, frames));
        self.used > 0 && read * 8 >= of
    }

    /// A flow is about to be forgotten: whether its server must be told.
    pub(crate) fn part(&mut self, number: u32, flow: &Flow, keys: Option<Addresses>) {
        if let Some(e) = self.entries.get(number as usize).filter(|e| e.used) {
            self.farewells.note(flow, keys, e);
        }
    }

    /// Forgets an entry whose flow is gone, with all that belongs to it. Its legs become orphans.
    pub(crate) fn release(&mut self, entry: u32, service: u16) {
        let Some(e) = self.entries.get(entry as usize).copied().filter(|e| e.used) else { return };
        if let Some(id) = pool::unmarked(e.main) {
            self.pools.gone(id, entry);
        } else if e.is_leg {
            self.state_mut(service).parked -= 1;
            self.unlink(entry);
        }
        if !e.is_leg {
            self.state_mut(service).connections -= 1;
            let mut leg = e.legs;
            while leg != NIL {
                self.orphans.push(leg);
                let l = self.get_mut(leg);
                l.main = NIL;
                leg = std::mem::replace(&mut l.legs, NIL);
            }
        }
        self.unbind(entry);
        self.unfollow(entry);
        *self.get_mut(entry) = FREE;
        self.used -= 1;
    }

    /// Takes a leg off its connection's list.
    fn unlink(&mut self, leg: u32) {
        let (main, next) = (self.entries[leg as usize].main, self.entries[leg as usize].legs);
        if self.entries.len() <= main as usize {
            return;
        }
        let m = self.get_mut(main);
        if m.legs == leg {
            m.legs = next;
            return;
        }
        let mut at = m.legs;
        while at != NIL {
            let e = self.get_mut(at);
            if e.legs == leg {
                e.legs = next;
                return;
            }
            at = e.legs;
        }
    }

    /// Puts a leg on its connection's list.
    pub(crate) fn link(&mut self, main: u32, leg: u32, service: u16) {
        let state = self.state_mut(service);
        state.connections -= 1;
        state.parked += 1;
        let first = std::mem::replace(&mut self.get_mut(main).legs, leg);
        let e = self.get_mut(leg);
        (e.legs, e.main, e.is_leg) = (first, main, true);
    }

    /// Makes an entry that of an idle connection of a pool.
    pub(crate) fn pool(&mut self, leg: u32, service: u16, id: u32) {
        self.state_mut(service).connections -= 1;
        let e = self.get_mut(leg);
        (e.main, e.is_leg) = (pool::marked(id), true);
    }

    /// A binding for an entry, in the caller's hands; `None` when there are as many as may be.
    pub(crate) fn bind(&mut self, entry: u32, service: u16) -> Option<Box<Binding>> {
        let slot = if self.free_slots != NIL {
            let slot = self.free_slots;
            let Slot::Free(next) = self.slots[slot as usize] else { return None };
            self.free_slots = next;
            slot
        } else if self.slots.len() < BINDINGS.min(self.capacity) {
            self.slots.push(Slot::Taken);
            self.owners.push(service);
            self.queues.grow();
            self.wheel.grow();
            self.slots.len() as u32 - 1
        } else {
            return None;
        };
        self.slots[slot as usize] = Slot::Taken;
        self.get_mut(entry).binding = slot;
        self.bound += 1;
        self.owners[slot as usize] = service;
        self.state_mut(service).in_hand += 1;
        let mut b = self.spare.pop().unwrap_or_default();
        b.entry = entry;
        Some(b)
    }

    /// Takes an entry's binding into the caller's hands.
    pub(crate) fn take(&mut self, entry: u32) -> Option<Box<Binding>> {
        let slot = self.slots.get_mut(self.entries[entry as usize].binding as usize)?;
        match std::mem::replace(slot, Slot::Taken) {
            Slot::Held(b) => Some(b),
            other => {
                *slot = other;
                None
            }
        }
    }

    /// Whether an entry has a binding that is in a caller's hands.
    pub(crate) fn is_in_hand(&self, entry: u32) -> bool {
        let slot = self.entries.get(entry as usize).map_or(NIL, |e| e.binding);
        matches!(self.slots.get(slot as usize), Some(Slot::Taken))
    }

    /// Gives a binding back, to be kept until it is done.
    pub(crate) fn put(&mut self, b: Box<Binding>) {
        let slot = self.entries.get(b.entry as usize).map_or(NIL, |e| e.binding);
        match self.slots.get_mut(slot as usize) {
            Some(held @ Slot::Taken) if !b.done => {
                self.wheel.set(slot, b.deadline());
                *held = Slot::Held(b);
            }
            Some(Slot::Taken) => {
                self.free_slot(b.entry);
                self.recycle(b);
            }
            // Its flow was closed meanwhile.
            _ => self.recycle(b),
        }
    }

    fn free_slot(&mut self, entry: u32) {
        let slot = std::mem::replace(&mut self.get_mut(entry).binding, NIL);
        if let Some(s) = self.slots.get_mut(slot as usize) {
            *s = Slot::Free(self.free_slots);
            self.free_slots = slot;
            self.bound -= 1;
            self.queues.leave(slot);
            let service = self.owners[slot as usize];
            self.state_mut(service).in_hand -= 1;
            self.wheel.clear(slot);
        }
    }

    fn unbind(&mut self, entry: u32) {
        if self.entries[entry as usize].binding == NIL {
            return;
        }
        let b = self.take(entry);
        self.free_slot(entry);
        if let Some(b) = b {
            self.recycle(b);
        }
    }

    fn recycle(&mut self, mut b: Box<Binding>) {
        self.buffered -= b.held;
        if let Some(e) = b.extraction.take() {
            self.keep_extraction(e);
        }
        if let Some(piece) = b.piece.take() {
            self.keep_piece(piece);
        }
        b.clear();
        if self.spare.len() < SPARE {
            self.spare.push(b);
        }
    }

    /// An extraction before its first byte.
    pub(crate) fn extraction(&mut self, protocol: Protocol) -> Box<Extraction> {
        match self.extractions.pop() {
            Some(mut e) => {
                e.reset(protocol);
                e
            }
            None => Box::new(Extraction::new(protocol)),
        }
    }

    /// Keeps an extraction for another request.
    pub(crate) fn keep_extraction(&mut self, e: Box<Extraction>) {
        if self.extractions.len() < SPARE {
            self.extractions.push(e);
        }
    }

    /// Keeps what a request travelled in for another one.
    pub(crate) fn keep_piece(&mut self, mut piece: Box<Undecided>) {
        if let Some(e) = piece.extraction.take() {
            self.keep_extraction(e);
        }
        if let Some(away) = &mut self.away {
            away.keep(piece);
        }
    }

    /// Whether less than half of the room for requests is taken.
    pub(crate) fn has_room_to_spare(&self) -> bool {
        self.has_room(self.buffered)
    }

    /// Whether so many more bytes of requests may be held. With content workers there may be a copy of each.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        let copies = 1 + usize::from(self.away.is_some());
        (self.buffered + bytes) * copies <= BUFFERED
    }

    /// Follows the messages of a connection from now on. What follows them is to be told of which ([`Follow::begin`]).
    pub(crate) fn follow(&mut self, entry: u32) -> &mut Follow {
        let mut id = self.entries[entry as usize].follow;
        if id as usize >= self.follows.len() {
            id = self.free_follows.pop().unwrap_or_else(|| {
                self.follows.push(Follow::default());
                self.follows.len() as u32 - 1
            });
            self.get_mut(entry).follow = id;
        }
        &mut self.follows[id as usize]
    }

    /// The follower of an entry.
    pub(crate) fn follower(&mut self, entry: u32) -> Option<(&mut Entry, &mut Follow)> {
        let f = self.follows.get_mut(self.entries[entry as usize].follow as usize)?;
        Some((revoke(&mut self.entries[entry as usize], entry, &mut self.revoked), f))
    }

    /// There is nothing left to follow.
    pub(crate) fn unfollow(&mut self, entry: u32) {
        let id = std::mem::replace(&mut self.get_mut(entry).follow, NIL);
        if id != NIL {
            self.free_follows.push(id);
        }
    }

    /// The next binding that is due, in the caller's hands.
    pub(crate) fn due(&mut self, now: Nanos) -> Option<Box<Binding>> {
        while let Some(slot) = self.wheel.due(now) {
            match std::mem::replace(&mut self.slots[slot as usize], Slot::Taken) {
                Slot::Held(b) if b.deadline() <= now => return Some(b),
                Slot::Held(b) => {
                    self.wheel.set(slot, b.deadline());
                    self.slots[slot as usize] = Slot::Held(b);
                }
                other => self.slots[slot as usize] = other,
            }
        }
        None
    }
}
