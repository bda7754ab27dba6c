//! Decides: takes the kernel's messages, keeps its tables, and says what has changed. No socket, no clock.
//!
//! The caller hands in messages with [`State::handle`] and the time with [`State::tick`], then takes requests to send
//! from [`State::next_request`] and changes to tell from [`State::next_change`], until both give `None`.

use super::change::{Change, ClientRoute, InterfaceState, Limit, Resolution, RouteChange, Target};
use super::fib::{Fib, Outcome, Prefix};
use super::message::{Body, Dump, Event, Incoming, Request, RouteEvent, What};
use super::neighbours::Wanted;
use super::resolve::{Ours, Resolver, contains};
use super::tables::{Link, Neighbour, NeighbourKey, Tables};
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

/// Targets watched at most: as many as there are slots for servers and next hops.
const WATCHED: usize = 65_535;
/// How long a dump may say nothing before it is started anew.
const DUMP_PATIENCE: Duration = Duration::from_secs(5);
/// The kernel takes routes away in several steps; they are dumped once it is likely to be through.
const SETTLING: Duration = Duration::from_millis(50);
/// A dump that ran across a change is repeated after this time.
const AGAIN: Duration = Duration::from_millis(200);

/// Changed prefixes up to which only the targets within are looked at again.
const PREFIXES: usize = 32;

/// A full dump, in the order in which it is made: what later tables refer to comes first.
const EVERYTHING: [Dump; 6] = [
    Dump::Links,
    Dump::Addresses,
    Dump::Routes { v4: true },
    Dump::Routes { v4: false },
    Dump::Neighbours { v4: true },
    Dump::Neighbours { v4: false },
];
const ROUTES: [Dump; 2] = [Dump::Routes { v4: true }, Dump::Routes { v4: false }];

#[derive(Debug, Default)]
struct Watch {
    /// What was last found, and whether it has been said.
    resolution: Option<Resolution>,
    pending: bool,
    neighbour: Option<NeighbourKey>,
    /// The interface that the target was last reached through.
    interface: Option<String>,
}

#[derive(Debug)]
struct ActiveDump {
    dump: Dump,
    sequence: u32,
    interrupted: bool,
    heard: Instant,
}

/// The follower's state.
#[derive(Debug)]
pub(super) struct State {
    interfaces: Vec<String>,
    tables: Tables,
    fib: Fib,
    wanted: Wanted,
    watches: HashMap<Target, Watch>,
    /// Targets by the neighbour that they depend on.
    by_neighbour: HashMap<NeighbourKey, HashSet<Target>>,
    /// Targets whose resolution has changed and has not been said.
    pending: VecDeque<Target>,

    /// Mark of the dump going on, or of the last one.
    mark: u32,
    sequence: u32,
    active: Option<ActiveDump>,
    /// Dumps still to be made, and when.
    queue: VecDeque<(Instant, Dump)>,
    /// Dumps that have run to their end not once.
    missing: Vec<Dump>,
    /// Dumps in succession that ran across a change.
    interrupted: u32,
    say_synced: bool,

    /// Look at every target again.
    all_dirty: bool,
    dirty: HashSet<NeighbourKey>,
    /// Prefixes whose routes have changed, up to [`PREFIXES`]; all is dirty when there are more.
    dirty_prefixes: Vec<Prefix>,
    say_interfaces: bool,
    say_own: bool,
    limits: Vec<Limit>,
    limits_said: HashSet<Limit>,
    now: Instant,
}

impl State {
    /// A follower for a director with these interfaces, which begins with a full dump.
    pub fn new(interfaces: Vec<String>, now: Instant) -> Self {
        State {
            interfaces,
            tables: Tables::default(),
            fib: Fib::default(),
            wanted: Wanted::default(),
            watches: HashMap::new(),
            by_neighbour: HashMap::new(),
            pending: VecDeque::new(),
            mark: 0,
            sequence: 0,
            active: None,
            queue: EVERYTHING.map(|d| (now, d)).into(),
            missing: EVERYTHING.to_vec(),
            interrupted: 0,
            say_synced: true,
            all_dirty: true,
            dirty: HashSet::new(),
            dirty_prefixes: vec![],
            say_interfaces: true,
            say_own: true,
            limits: vec![],
            limits_said: HashSet::new(),
            now,
        }
    }

    /// Whether the kernel's tables are known.
    fn synced(&self) -> bool {
        self.missing.is_empty()
    }

    /// Watches a target; its next hop is said as soon as it is known, or known not to be.
    /// What is too many is said, and not watched.
    pub fn watch(&mut self, target: Target) {
        if self.watches.contains_key(&target) {
            return;
        }
        if self.watches.len() >= WATCHED {
            return self.limit(Limit::Watched);
        }
        self.watches.insert(target, Watch::default());
        if self.synced() {
            self.evaluate(target);
        }
    }

    fn limit(&mut self, limit: Limit) {
        if self.limits_said.insert(limit) {
            self.limits.push(limit);
        }
    }

    /// Stops watching a target.
    pub fn unwatch(&mut self, target: Target) {
        if let Some(watch) = self.watches.remove(&target) {
            self.depend(target, watch.neighbour, None);
        }
    }

    /// The routes toward clients that have been said.
    pub fn client_routes(&self) -> Vec<ClientRoute> {
        self.fib.said()
    }

    /// The socket has been opened anew, or lost messages: everything is dumped again.
    pub fn resynchronise(&mut self, now: Instant, socket_is_new: bool) {
        self.now = now;
        if socket_is_new {
            self.active = None;
        }
        let tables = &self.tables;
        self.wanted.forget_under_way(now, |k| tables.neighbour(k));
        for dump in EVERYTHING {
            self.request_dump(dump, now);
        }
    }

    /// Nothing is needed any longer: releases what the kernel keeps for us.
    pub fn finish(&mut self) {
        self.watches.clear();
        self.by_neighbour.clear();
        self.wanted.release_all();
    }

    /// Whether [`State::finish`] is through.
    pub fn finished(&self) -> bool {
        !self.wanted.releasing()
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Instant) {
        self.now = now;
        while let Some(key) = self.wanted.expire(now) {
            self.dirty.insert(key);
        }
        if let Some(active) = &self.active
            && now >= active.heard + DUMP_PATIENCE
        {
            let dump = active.dump;
            self.active = None;
            self.request_dump(dump, now);
        }
    }

    /// When [`State::tick`] has something to do, or [`State::next_request`] something to send.
    pub fn deadline(&self) -> Option<Instant> {
        let dump = match &self.active {
            Some(active) => Some(active.heard + DUMP_PATIENCE),
            None => self.queue.iter().map(|(at, _)| *at).min(),
        };
        [dump, self.wanted.deadline()].into_iter().flatten().min()
    }

    /// Takes a message.
    pub fn handle(&mut self, now: Instant, incoming: Incoming) {
        self.now = now;
        let dumped = match &mut self.active {
            Some(active) if active.sequence == incoming.sequence => {
                active.heard = now;
                active.interrupted |= incoming.interrupted;
                true
            }
            _ => false,
        };
        match incoming.body {
            Body::Event(event) => self.event(event, dumped),
            Body::Done if dumped => self.dump_done(),
            Body::Answer(error) if dumped => self.dump_refused(error),
            Body::Answer(error) => {
                let tables = &self.tables;
                if let Some(key) = self.wanted.answered(now, incoming.sequence, error, |k| tables.neighbour(k)) {
                    self.dirty.insert(key);
                }
            }
            Body::Overrun => self.resynchronise(now, false),
            Body::Done | Body::Ignored => {}
        }
    }

    fn event(&mut self, event: Event, dumped: bool) {
        let result = match event {
            Event::Link { index, link } => self.link(index, link),
            Event::Address { address, state } => {
                let gone = state.is_none();
                self.tables.set_address(address, state, self.mark).map(|changed| {
                    if changed {
                        (self.say_own, self.all_dirty) = (true, true);
                        // The kernel does not tell of the IPv4 routes that go with an address.
                        if gone {
                            self.routes_went();
                        }
                    }
                })
            }
            Event::Route(event) => self.route(event, dumped),
            Event::Neighbour { key, neighbour } => self.neighbour(key, neighbour),
        };
        if let Err(limit) = result {
            self.limit(limit);
        }
    }

    fn link(&mut self, index: u32, link: Option<Link>) -> Result<(), Limit> {
        let after = link.clone();
        let before = self.tables.set_link(index, link, self.mark)?;
        if before != after {
            self.link_changed(index, before.as_ref(), after.as_ref());
        }
        Ok(())
    }

    fn link_changed(&mut self, index: u32, before: Option<&Link>, after: Option<&Link>) {
        (self.say_interfaces, self.all_dirty) = (true, true);
        self.fib.link_changed(index);
        let up = |l: Option<&Link>| l.is_some_and(Link::up);
        match (up(before), up(after)) {
            (false, true) => self.wanted.link_up(self.now, index),
            (true, false) => self.wanted.link_down(index),
            _ => {}
        }
        if before.is_some_and(|l| l.administratively_up) && !after.is_some_and(|l| l.administratively_up) {
            self.routes_went();
        }
    }

    /// The kernel has removed routes without telling.
    fn routes_went(&mut self) {
        for dump in ROUTES {
            self.request_dump(dump, self.now + SETTLING);
        }
    }

    fn route(&mut self, event: RouteEvent, dumped: bool) -> Result<(), Limit> {
        let prefix = (event.prefix, event.length);
        let outcome = self.fib.apply(event, dumped, self.mark)?;
        if outcome == Outcome::Nothing {
            return Ok(());
        }
        if self.dirty_prefixes.len() < PREFIXES {
            self.dirty_prefixes.push(prefix);
        } else {
            self.all_dirty = true;
        }
        if outcome == Outcome::Ambiguous {
            self.request_dump(Dump::Routes { v4: prefix.0.is_ipv4() }, self.now + SETTLING);
        }
        Ok(())
    }

    fn neighbour(&mut self, key: NeighbourKey, neighbour: Option<Neighbour>) -> Result<(), Limit> {
        let before = self.tables.set_neighbour(key, neighbour, self.mark)?;
        self.neighbour_changed(key, before, neighbour);
        Ok(())
    }

    fn neighbour_changed(&mut self, key: NeighbourKey, before: Option<Neighbour>, after: Option<Neighbour>) {
        let link_up = self.tables.link(key.0).is_some_and(Link::up);
        if self.wanted.changed(self.now, &key, before, after.as_ref(), link_up) {
            self.dirty.insert(key);
        }
    }

    /// Makes sure that a dump is made at `at`, or before.
    fn request_dump(&mut self, dump: Dump, at: Instant) {
        match self.queue.iter_mut().find(|(_, d)| *d == dump) {
            Some((planned, _)) => *planned = at.min(*planned),
            None => self.queue.push_back((at, dump)),
        }
    }

    fn dump_done(&mut self) {
        let Some(ActiveDump { dump, interrupted, .. }) = self.active.take() else { return };
        self.missing.retain(|d| *d != dump);
        if interrupted {
            // Where routes change all the time this may go on for ever: what was heard counts, and it is tried more rarely.
            self.interrupted = (self.interrupted + 1).min(8);
            self.request_dump(dump, self.now + AGAIN * (1 << self.interrupted));
        } else {
            self.interrupted = 0;
            self.sweep(dump);
        }
    }

    fn dump_refused(&mut self, error: i32) {
        let Some(ActiveDump { dump, .. }) = self.active.take() else { return };
        if error == 0 {
            self.missing.retain(|d| *d != dump);
        } else {
            self.request_dump(dump, self.now + AGAIN);
        }
    }

    /// Removes what the dump that has just ended did not mention.
    fn sweep(&mut self, dump: Dump) {
        match dump {
            Dump::Links => {
                let gone = self.tables.sweep_links(self.mark);
                for (index, link) in gone {
                    self.link_changed(index, Some(&link), None);
                }
            }
            Dump::Addresses => {
                if self.tables.sweep_addresses(self.mark) {
                    (self.say_own, self.all_dirty) = (true, true);
                }
            }
            Dump::Routes { v4 } => self.all_dirty |= self.fib.sweep(v4, self.mark),
            Dump::Neighbours { v4 } => {
                for (key, before) in self.tables.sweep_neighbours(v4, self.mark) {
                    self.neighbour_changed(key, Some(before), None);
                }
            }
        }
    }

    /// What to send to the kernel next.
    pub fn next_request(&mut self, now: Instant) -> Option<Request> {
        self.now = now;
        let sequence = self.sequence.wrapping_add(1).max(1);
        if self.active.is_none()
            && let Some(at) = self.queue.iter().position(|(at, _)| *at <= now)
            && let Some((_, dump)) = self.queue.remove(at)
        {
            self.mark = self.mark.wrapping_add(1);
            self.sequence = sequence;
            self.active = Some(ActiveDump { dump, sequence, interrupted: false, heard: now });
            return Some(Request { sequence, what: What::Dump(dump) });
        }
        let tables = &self.tables;
        let link_up = |index| tables.link(index).is_some_and(Link::up);
        let what = self.wanted.next_request(now, sequence, |k| tables.neighbour(k), link_up)?;
        self.sequence = sequence;
        Some(Request { sequence, what })
    }

    /// What to say next.
    pub fn next_change(&mut self) -> Option<Change> {
        if !self.synced() {
            return None;
        }
        self.settle();
        if let Some(limit) = self.limits.pop() {
            return Some(Change::LimitReached(limit));
        }
        if std::mem::take(&mut self.say_interfaces) {
            return Some(Change::Interfaces(self.interface_states()));
        }
        if std::mem::take(&mut self.say_own) {
            return Some(Change::OwnAddresses(self.tables.own()));
        }
        let ours = Ours { interfaces: &self.interfaces, tables: &self.tables };
        if let Some(((prefix, length), route)) = self.fib.next_said(|prefix, route| ours.client_route(prefix, route)) {
            return Some(Change::Route(RouteChange { prefix, length, route }));
        }
        while let Some(target) = self.pending.pop_front() {
            let Some(watch) = self.watches.get_mut(&target) else { continue };
            if std::mem::take(&mut watch.pending)
                && let Some(resolution) = watch.resolution.clone()
            {
                return Some(Change::NextHop { target, resolution });
            }
        }
        std::mem::take(&mut self.say_synced).then_some(Change::Synced)
    }

    /// Whether [`State::next_change`] has something to say.
    pub fn has_change(&mut self) -> bool {
        if !self.synced() {
            return false;
        }
        self.settle();
        self.say_interfaces
            || self.say_own
            || self.say_synced
            || !self.limits.is_empty()
            || !self.pending.is_empty()
            || self.fib.has_pending()
    }

    fn interface_states(&self) -> Vec<InterfaceState> {
        let state = |name: &String| match self.tables.link_named(name) {
            Some((index, l)) => {
                InterfaceState { name: name.clone(), index: Some(index), mac: l.mac, mtu: l.mtu, up: l.up() }
            }
            None => InterfaceState { name: name.clone(), index: None, mac: None, mtu: 0, up: false },
        };
        self.interfaces.iter().map(state).collect()
    }

    /// Looks again at the targets that may have changed.
    fn settle(&mut self) {
        let (dirty, prefixes) = (std::mem::take(&mut self.dirty), std::mem::take(&mut self.dirty_prefixes));
        let targets: Vec<Target> = if std::mem::take(&mut self.all_dirty) {
            self.watches.keys().copied().collect()
        } else {
            let routed = |t: &&Target| {
                t.interface.is_none() && prefixes.iter().any(|(prefix, length)| contains(*prefix, *length, t.address))
            };
            let routed =
                if prefixes.is_empty() { vec![] } else { self.watches.keys().filter(routed).copied().collect() };
            dirty.iter().filter_map(|k| self.by_neighbour.get(k)).flatten().copied().chain(routed).collect()
        };
        for target in targets {
            self.evaluate(target);
        }
    }

    fn evaluate(&mut self, target: Target) {
        let Some(watch) = self.watches.get(&target) else { return };
        let ours = Ours { interfaces: &self.interfaces, tables: &self.tables };
        let resolver = Resolver { ours, fib: &self.fib, wanted: &self.wanted, now: self.now };
        let found = resolver.resolve(target, watch.interface.as_deref());
        let before = watch.neighbour;
        self.depend(target, before, found.neighbour);
        let Some(watch) = self.watches.get_mut(&target) else { return };
        watch.neighbour = found.neighbour;
        if let Ok(hop) = &found.resolution
            && watch.interface.as_ref() != Some(&hop.name)
        {
            watch.interface = Some(hop.name.clone());
        }
        if watch.resolution.as_ref() != Some(&found.resolution) {
            watch.resolution = Some(found.resolution);
            if !watch.pending {
                watch.pending = true;
                self.pending.push_back(target);
            }
        }
    }

    /// `target` depends on another neighbour than before.
    fn depend(&mut self, target: Target, before: Option<NeighbourKey>, after: Option<NeighbourKey>) {
        if before == after {
            return;
        }
        if let Some(key) = after {
            self.by_neighbour.entry(key).or_default().insert(target);
            self.wanted.add(self.now, key, self.tables.neighbour(&key));
        }
        if let Some(key) = before {
            if let Some(targets) = self.by_neighbour.get_mut(&key) {
                targets.remove(&target);
                if targets.is_empty() {
                    self.by_neighbour.remove(&key);
                }
            }
            self.wanted.remove(&key);
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
