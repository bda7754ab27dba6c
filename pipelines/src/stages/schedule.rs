//! Stage 3, on a miss: which server a new connection gets.
//!
//! Least-connection schedulers look at the connections of *all* workers. Each worker publishes its own counts with plain stores
//! into memory that only it writes; the others read them when they schedule. A count is therefore stale by the time a store takes to
//! become visible to another core (well under a microsecond), and by connections being opened in the same instant elsewhere: with W
//! workers, up to W − 1 connections may go to the same least-loaded server before any of the workers sees the others' choice.

use super::connection::{Connections, Settings};
use super::hold::Awaited;
use super::persistence::{self, Template, Templates};
use crate::command::Event;
use crate::snapshot::{Forward, NO_SLOT, Scheduler, Server, ServerState, Service, Snapshot, WhenFull};
use hashbrown::HashMap;
use lcs_dataplane::batch::{Batch, Places};
use lcs_dataplane::checksum::Difference;
use lcs_dataplane::flow::{FlowFlags, Key, TableFull, TcpState};
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, RST, SYN};
use lcs_dataplane::headers::{Kind, ethernet, protocol};
use lcs_dataplane::{BURST, DropReason, Verdict};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

/// What workers share: connections by worker and server, each cell written by one worker only; and the clients that keep their servers.
#[derive(Debug)]
pub struct SharedCounts {
    /// `[worker][server]`: active in the high, inactive in the low 32 bits.
    cells: Vec<Vec<AtomicU64>>,
    pub(crate) templates: Templates,
}

impl SharedCounts {
    /// Counts for `workers` workers and server slots below `slots`.
    pub fn new(workers: usize, slots: usize) -> Self {
        let cells = (0..workers).map(|_| (0..slots).map(|_| AtomicU64::new(0)).collect()).collect();
        SharedCounts { cells, templates: Templates::default() }
    }

    pub(crate) fn publish(&self, worker: u8, server: u16, active: u32, inactive: u32) {
        if let Some(cell) = self.cells.get(usize::from(worker)).and_then(|w| w.get(usize::from(server))) {
            cell.store(u64::from(active) << 32 | u64::from(inactive), Ordering::Relaxed);
        }
    }

    /// Active and inactive connections of a server over all workers.
    pub fn of(&self, server: u16) -> (u64, u64) {
        self.cells.iter().filter_map(|w| w.get(usize::from(server))).fold((0, 0), |(a, i), cell| {
            let v = cell.load(Ordering::Relaxed);
            (a + (v >> 32), i + (v & 0xffff_ffff))
        })
    }
}

/// The turn of weighted round-robin: earliest deadline first. A server that is chosen gets its next deadline one
/// `SCALE / weight` later, so choices interleave as evenly as the weights allow.
type Turn = Reverse<(u64, u32, u16)>;

/// One unit of virtual time for weight 1.
const SCALE: u64 = 1 << 32;

/// Scheduling state of one service.
#[derive(Debug, Default)]
struct State {
    /// Where round-robin, and ties of least-connection, go on.
    turn: usize,
    /// Weighted round-robin's queue; built when it is first needed and after a change of weights.
    queue: BinaryHeap<Turn>,
    built: bool,
    order: u32,
    /// A group's: rules may ask for another scheduler than the one before.
    used_by: Option<Scheduler>,
}

/// Scheduling state of one worker, by service slot.
#[derive(Debug, Default)]
pub struct Schedulers {
    states: Vec<State>,
    /// Of the groups of content services.
    groups: HashMap<(u16, u16), State>,
    /// Weights by server slot: 0 where the server takes no new connections.
    weights: Vec<u32>,
}

fn usable_weight(server: &Server) -> u32 {
    if server.state == ServerState::Up { server.weight } else { 0 }
}

impl Schedulers {
    /// Follows a new snapshot. Services whose servers and weights did not change keep their turn.
    pub(crate) fn install(&mut self, old: &Snapshot, new: &Snapshot) {
        let weights: Vec<u32> = new.servers.iter().map(|s| s.as_ref().map_or(0, usable_weight)).collect();
        self.states.resize_with(new.services.len(), State::default);
        for (slot, service) in new.services.iter().enumerate() {
            let Some(service) = service else { continue };
            let same = old.services.get(slot).and_then(Option::as_ref).is_some_and(|o| {
                o.scheduler == service.scheduler
                    && o.servers == service.servers
                    && o.servers.iter().all(|&s| self.weights.get(usize::from(s)) == weights.get(usize::from(s)))
            });
            if !same {
                self.states[slot].built = false;
            }
        }
        if self.weights != weights || old.generation != new.generation {
            self.groups.clear();
        }
        self.weights = weights;
    }

    pub(crate) fn set_weight(&mut self, snapshot: &Snapshot, server: u16, weight: u32) -> bool {
        let Some(Some(entry)) = snapshot.servers.get(usize::from(server)) else { return false };
        let Some(place) = self.weights.get_mut(usize::from(server)) else { return false };
        *place = if entry.state == ServerState::Up { weight } else { 0 };
        if let Some(state) = self.states.get_mut(usize::from(entry.service)) {
            state.built = false;
        }
        self.groups.values_mut().for_each(|state| state.built = false);
        true
    }

    /// What a server's weight comes to under a scheduler: 0 where it takes no new connections.
    pub(crate) fn weight(&self, scheduler: Scheduler, server: u16) -> u32 {
        let weight = self.weights.get(usize::from(server)).copied().unwrap_or(0);
        if matches!(scheduler, Scheduler::Rr | Scheduler::Lc) { weight.min(1) } else { weight }
    }

    /// Chooses a server for a new connection of the service in `slot`; [`NO_SLOT`] when none takes any.
    pub(crate) fn choose(&mut self, slot: u16, service: &Service, counts: &SharedCounts) -> u16 {
        match self.states.get_mut(usize::from(slot)) {
            Some(state) => state.choose(&self.weights, service.scheduler, &service.servers, counts),
            None => NO_SLOT,
        }
    }

    /// Chooses a server of a group of a content service; [`NO_SLOT`] when none takes any.
    pub(crate) fn choose_in(
        &mut self,
        service: u16,
        group: u16,
        scheduler: Scheduler,
        servers: &[u16],
        counts: &SharedCounts,
    ) -> u16 {
        let state = self.groups.entry((service, group)).or_default();
        if state.used_by != Some(scheduler) {
            *state = State { used_by: Some(scheduler), ..State::default() };
        }
        state.choose(&self.weights, scheduler, servers, counts)
    }
}

impl State {
    /// Chooses one of `servers`; [`NO_SLOT`] when none takes any.
    fn choose(&mut self, weights: &[u32], scheduler: Scheduler, servers: &[u16], counts: &SharedCounts) -> u16 {
        let n = servers.len();
        if n == 0 {
            return NO_SLOT;
        }
        let state = self;
        let weight = |s: u16| weights.get(usize::from(s)).copied().unwrap_or(0);
        match scheduler {
            Scheduler::Rr => {
                for _ in 0..n {
                    state.turn = (state.turn + 1) % n;
                    if weight(servers[state.turn]) > 0 {
                        return servers[state.turn];
                    }
                }
                NO_SLOT
            }
            Scheduler::Wrr => {
                if !state.built {
                    state.built = true;
                    state.queue.clear();
                    let from = state.turn;
                    state.queue.extend((0..n).map(|i| (from + i) % n).filter_map(|i| {
                        let s = servers[i];
                        (weight(s) > 0).then(|| {
                            state.order = state.order.wrapping_add(1);
                            Reverse((SCALE / u64::from(weight(s)), state.order, s))
                        })
                    }));
                }
                // Long before the deadlines reach the end of their range, all go back by the earliest.
                if let Some(&Reverse((earliest, _, _))) = state.queue.peek()
                    && earliest > u64::MAX / 2
                {
                    let later = state.queue.drain().map(|Reverse((d, o, s))| Reverse((d - earliest, o, s)));
                    state.queue = later.collect::<Vec<_>>().into();
                }
                let Some(mut first) = state.queue.peek_mut() else { return NO_SLOT };
                let Reverse((deadline, _, server)) = *first;
                state.order = state.order.wrapping_add(1);
                *first =
                    Reverse((deadline.saturating_add(SCALE / u64::from(weight(server).max(1))), state.order, server));
                server
            }
            Scheduler::Lc | Scheduler::Wlc => {
                let weighted = scheduler == Scheduler::Wlc;
                state.turn = (state.turn + 1) % n;
                let mut best: Option<(u64, u64, u16)> = None;
                for i in 0..n {
                    let s = servers[(state.turn + i) % n];
                    let w = match (weight(s), weighted) {
                        (0, _) => continue,
                        (w, true) => u64::from(w),
                        (_, false) => 1,
                    };
                    let (active, inactive) = counts.of(s);
                    // As IPVS: an active connection counts as 256 inactive ones.
                    let load = active * 256 + inactive;
                    // load / w < best / best_w, without division.
                    if best.is_none_or(|(b, bw, _)| u128::from(load) * u128::from(bw) < u128::from(b) * u128::from(w)) {
                        best = Some((load, w, s));
                    }
                }
                best.map_or(NO_SLOT, |(_, _, s)| s)
            }
        }
    }
}

/// A new connection between choosing and entering.
#[derive(Clone, Copy)]
struct Opening {
    place: usize,
    service: u16,
    server: u16,
    client: Key,
    back: Option<Key>,
    /// Full NAT: where the search for a source goes on if the one in `back` is in use.
    next_source: u64,
    /// The client is to keep the server.
    template: Option<Template>,
}

/// Gives every new connection among `misses` a server and an entry, and appends it to `hits`.
pub(crate) fn schedule(c: &mut Connections, batch: &mut Batch, misses: Places, hits: &mut Places, now: u32) {
    // Two passes, so that the index buckets of the server's side are on their way while the others are being chosen.
    let mut openings: [Option<Opening>; BURST] = [None; BURST];
    let mut n = 0;
    for i in misses.iter() {
        match choose(c, batch, i, now) {
            Ok(opening) => {
                if let Some(back) = &opening.back {
                    let hash = back.hash(c.table.hasher(), batch.protocol[i]);
                    c.table.prefetch(hash);
                    c.table.prefetch_second(hash);
                }
                c.table.prefetch_free(n);
                openings[n] = Some(opening);
                n += 1;
            }
            // The bind stage answers for the server.
            Err(Verdict::Consume) => c.unbound.push(i),
            Err(verdict) => batch.verdict[i] = verdict,
        }
    }
    for opening in openings[..n].iter().flatten() {
        match open(c, batch, hits, opening, now) {
            Ok(place) => {
                batch.flow[opening.place] = place;
                hits.push(opening.place);
            }
            Err(reason) => batch.drop(opening.place, reason),
        }
    }
}

/// The packet's key, as it stands in the frame.
pub(crate) fn key_of(batch: &Batch, i: usize) -> Option<Key> {
    match batch.kind[i] {
        Kind::Transport4 | Kind::First4 => Some(Key::V4 { addresses: batch.addresses[i], ports: batch.ports[i] }),
        Kind::Transport6 | Kind::First6 => {
            let at = usize::from(batch.l3[i]) + 8;
            let addresses = *batch.frames[i].bytes().get(at..)?.first_chunk::<32>()?;
            Some(Key::V6 { addresses, ports: batch.ports[i] })
        }
        _ => None,
    }
}

fn choose(c: &mut Connections, batch: &Batch, i: usize, now: u32) -> Result<Opening, Verdict> {
    let client = key_of(batch, i).ok_or(Verdict::Drop(DropReason::BadHeader))?;
    let to = client.destination();
    let transport = batch.protocol[i];
    let Some(slot) = c.service_at(to, transport) else {
        // What directors and filters say to each other is the bind stage's.
        let channel = transport == protocol::UDP && c.splices.migrations.hears(to);
        return Err(if channel { Verdict::Consume } else { not_ours(c, batch, i) });
    };
    if batch.from_sibling && !c.settings.is_owner(client.source()) {
        // A sibling that did not know the service yet took it for another packet. Its owner gets the next one; a flow here would keep
        // it from that.
        return Err(Verdict::Drop(DropReason::NoFlow));
    }
    if c.snapshot.services.get(usize::from(slot)).and_then(Option::as_ref).is_some_and(|s| s.content.is_some()) {
        c.called[i % BURST] = slot;
        return Err(Verdict::Consume);
    }
    let flags = batch.tcp_flags[i];
    if transport == protocol::TCP && flags & (SYN | ACK | RST | FIN) != SYN {
        return Err(Verdict::Drop(DropReason::NoFlow));
    }
    if !may_send(c, client.source().ip()) {
        return Err(Verdict::Drop(DropReason::BadSource));
    }
    let none = Verdict::Drop(DropReason::NoServer);
    let Connections { snapshot, schedulers, counts, settings, .. } = c;
    let service = snapshot.services.get(usize::from(slot)).and_then(Option::as_ref).ok_or(none)?;
    let (chosen, template) = match &service.persistence {
        None => (schedulers.choose(slot, service, counts), None),
        Some(p) => {
            let of = (slot, service, p);
            let chosen = persistence::choose(&counts.templates, schedulers, snapshot, of, client.source().ip(), now)
                .ok_or(none)?;
            (chosen.0, Some(chosen.1))
        }
    };
    let server = snapshot.servers.get(usize::from(chosen)).and_then(Option::as_ref).ok_or(none)?;
    let mut next_source = 0;
    let back = match server.forward {
        Forward::Dr | Forward::Tunnel => None,
        // A server of another family can't be reached by translation; the configuration refuses it.
        Forward::Nat => Some(Key::new(server_endpoint(server, to.port()), client.source()).ok_or(none)?),
        Forward::FullNat => {
            let mut sources = Sources::new(service, batch.hash[i], settings, 0);
            let local = sources.next();
            next_source = sources.next;
            let local = local.ok_or(Verdict::Drop(DropReason::PortsExhausted))?;
            Some(Key::new(server_endpoint(server, to.port()), local).ok_or(none)?)
        }
    };
    Ok(Opening { place: i, service: slot, server: chosen, client, back, next_source, template })
}

/// What becomes of a packet that no service is for.
fn not_ours(c: &Connections, batch: &Batch, i: usize) -> Verdict {
    if c.settings.capabilities.exception_path {
        Verdict::Kernel
    } else if batch.protocol[i] == protocol::TCP && batch.tcp_flags[i] & SYN == 0 {
        // Most likely a server's segment of a connection that has timed out here.
        Verdict::Drop(DropReason::NoFlow)
    } else {
        Verdict::Drop(DropReason::NotForUs)
    }
}

/// Whether another host may have this source address (RFC 1122 §3.2.1.3, RFC 4291 §2.7). None has one of ours.
pub(crate) fn may_send(c: &Connections, a: IpAddr) -> bool {
    let host = match a {
        IpAddr::V4(a) => !(a.is_multicast() || a.octets()[0] == 0 || a.is_broadcast() || a.is_loopback()),
        IpAddr::V6(a) => !(a.is_multicast() || a.is_unspecified() || a.is_loopback()),
    };
    host && !c.snapshot.own.contains(&a)
}

pub(crate) fn server_endpoint(server: &Server, virtual_port: u16) -> SocketAddr {
    SocketAddr::new(server.address, if server.port == 0 { virtual_port } else { server.port })
}

/// Source ports tried for a full-NAT connection before it is refused.
const PORT_TRIES: usize = 32;
/// Sources looked at for each of these and each worker at most: whose a source is goes by a linear hash, which may leave a worker few of a small
/// or odd range.
const LOOKS: u64 = 4;

/// Sources of the director to try toward a server, in order, whose replies belong to this worker.
///
/// Nothing is looked up here: whether a source is free shows when the connection is entered, with the memory of the first one asked for
/// by then. While most sources are free, the first one is.
struct Sources<'s> {
    service: &'s Service,
    start: u64,
    next: u64,
    /// Those that were this worker's.
    own: usize,
    settings: &'s Settings,
}

impl<'s> Sources<'s> {
    /// Where to start follows from the client (by its keyed hash), so that its connections spread over sources without
    /// a counter to guess. `next` is where an earlier search stopped, or 0.
    fn new(service: &'s Service, hash: u64, settings: &'s Settings, next: u64) -> Self {
        Sources { service, start: hash, next, own: 0, settings }
    }
}

impl Iterator for Sources<'_> {
    type Item = SocketAddr;

    fn next(&mut self) -> Option<SocketAddr> {
        let (first, last) = self.service.source_ports;
        let ports = u64::from(last.checked_sub(first)?) + 1;
        let addresses = self.service.sources.len() as u64;
        let all = ports * addresses;
        let most = LOOKS * PORT_TRIES as u64 * u64::from(self.settings.workers.max(1));
        while self.own < PORT_TRIES && self.next < all.min(most) {
            // The step is a prime above any `all`, so that no endpoint is tried twice before every one was tried.
            let at = (self.start % all + self.next * 4_294_967_311) % all;
            self.next += 1;
            let local = SocketAddr::new(self.service.sources[(at / ports) as usize], first + (at % ports) as u16);
            if self.settings.is_owner(local) {
                self.own += 1;
                return Some(local);
            }
        }
        None
    }
}

/// A source of the director that is free toward the server: for who needs it before the connection is entered.
///
/// Each time another one, from where the client's keyed hash begins (RFC 6056 §3.3.3): what is still on the way of a connection that
/// has just ended there, and whose numbers the same client's next one goes on with, must not meet that one.
pub(crate) fn free_source(
    c: &mut Connections,
    service: &Service,
    server: &Server,
    client: &Key,
    transport: u8,
) -> Option<SocketAddr> {
    let to = server_endpoint(server, client.destination().port());
    c.splices.sources_sought = c.splices.sources_sought.wrapping_add(1);
    let start = client.hash(c.table.hasher(), transport).wrapping_add(c.splices.sources_sought);
    Sources::new(service, start, &c.settings, 0)
        .take(PORT_TRIES)
        .find(|local| Key::new(to, *local).is_some_and(|key| c.table.find(&key, transport).is_none()))
}

/// Enters a connection in the table. Returns its place.
fn open(c: &mut Connections, batch: &mut Batch, hits: &mut Places, o: &Opening, now: u32) -> Result<u32, DropReason> {
    let i = o.place;
    let transport = batch.protocol[i];
    // An earlier frame of the same batch may have opened it.
    if let Some(place) = c.table.find_hashed(&o.client, transport, batch.hash[i]) {
        return Ok(place.0);
    }
    let server = c.snapshot.servers.get(usize::from(o.server)).and_then(Option::as_ref).ok_or(DropReason::NoServer)?;
    let (row, forward) = (server.next_hop, server.forward);
    if !c.hops[usize::from(row)].resolved {
        c.say((1, row), now, Event::NeedNextHop(row));
        c.holding.ask(batch, i, Awaited::NextHop(row));
        return Err(DropReason::NextHopUnresolved);
    }
    let frame = batch.frames[i].bytes();
    let (from, own) = (ethernet::source(frame), ethernet::destination(frame));
    let to_client = c.row_to_client(o.client.source().ip(), batch.rx[i], from, own)?;
    let (flow, back) = enter(c, batch, hits, o, now)?;
    let differences = back.map(|back| differences(&o.client, &back));
    let entry = c.table.get_mut(flow);
    entry.service = o.service;
    entry.server = o.server;
    entry.next_hop = [to_client, row];
    if let Some((ip, l4)) = differences {
        entry.ip_difference = ip.bits();
        entry.l4_difference = l4.bits();
    }
    entry.flags.set(FlowFlags::TRANSLATED, forward.replies_return());
    entry.flags.set(FlowFlags::TUNNEL, forward == Forward::Tunnel);
    let state = if transport == protocol::TCP { TcpState::SynReceived } else { TcpState::Udp };
    c.opened(flow, state, now);
    if let Some(template) = &o.template {
        c.counts.templates.put(template, now);
    }
    Ok(lcs_dataplane::flow::Place::new(flow, 0).0)
}

/// Finds the connection's keys a place in the table, making room where the policy says so, and in full NAT with another source
/// of the director while the one chosen is in use. Returns the flow and the key of the server's packets.
fn enter(
    c: &mut Connections,
    batch: &mut Batch,
    hits: &mut Places,
    o: &Opening,
    now: u32,
) -> Result<(u32, Option<Key>), DropReason> {
    let (transport, hash) = (batch.protocol[o.place], batch.hash[o.place]);
    let mut back = o.back;
    let (mut tries, mut next_source) = (1, o.next_source);
    let mut may_evict = c.snapshot.when_full == WhenFull::EvictHalfOpen;
    loop {
        return match c.table.insert_hashed(transport, &o.client, hash, back.as_ref()) {
            Ok(flow) => Ok((flow, back)),
            Err(TableFull::Entries) if may_evict && c.evict_half_open(batch, hits, now) => {
                may_evict = false;
                continue;
            }
            Err(TableFull::TupleInUse) => {
                if tries >= PORT_TRIES {
                    return Err(DropReason::PortsExhausted);
                }
                tries += 1;
                back = Some(another_source(c, o, hash, &mut next_source)?);
                continue;
            }
            Err(TableFull::Entries | TableFull::Addresses) => Err(DropReason::FlowTableFull),
            Err(TableFull::Index) => Err(DropReason::FlowIndexFull),
        };
    }
}

/// The key of the server's packets with the director's next source.
fn another_source(c: &Connections, o: &Opening, hash: u64, next_source: &mut u64) -> Result<Key, DropReason> {
    let service = c.snapshot.services.get(usize::from(o.service)).and_then(Option::as_ref);
    let server = c.snapshot.servers.get(usize::from(o.server)).and_then(Option::as_ref);
    let (Some(service), Some(server)) = (service, server) else { return Err(DropReason::NoServer) };
    if server.forward != Forward::FullNat {
        return Err(DropReason::TupleInUse);
    }
    let mut sources = Sources::new(service, hash, &c.settings, *next_source);
    let local = sources.next().ok_or(DropReason::PortsExhausted)?;
    *next_source = sources.next;
    Key::new(server_endpoint(server, o.client.destination().port()), local).ok_or(DropReason::PortsExhausted)
}

/// What translation from the client's packets to the server's adds to the IPv4 header's and the transport's checksum.
pub(crate) fn differences(client: &Key, back: &Key) -> (Difference, Difference) {
    let ports = |d: Difference, old: u32, new: u32| d.replacing_word32(old, new.rotate_left(16));
    match (client, back) {
        (Key::V4 { addresses, ports: p }, Key::V4 { addresses: b, ports: q }) => {
            // The packet leaves with the back key's destination as source and source as destination.
            let ip = Difference::NONE.replacing(&addresses.to_ne_bytes(), &b.rotate_left(32).to_ne_bytes());
            (ip, ports(ip, *p, *q))
        }
        (Key::V6 { addresses, ports: p }, Key::V6 { addresses: b, ports: q }) => {
            let mut swapped = *b;
            swapped.rotate_left(16);
            let d = Difference::NONE.replacing(addresses, &swapped);
            (Difference::NONE, ports(d, *p, *q))
        }
        _ => (Difference::NONE, Difference::NONE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(scheduler: Scheduler, weights: &[u32]) -> (Snapshot, Schedulers, SharedCounts) {
        let mut snapshot = Snapshot::default();
        snapshot.services.push(Some(Service {
            name: "web".into(),
            address: "192.0.2.1".parse().unwrap(),
            port: 80,
            protocol: 6,
            scheduler,
            servers: (0..weights.len() as u16).collect(),
            sources: vec![],
            source_ports: (1, 2),
            persistence: None,
            content: None,
        }));
        for (i, w) in weights.iter().enumerate() {
            snapshot.servers.push(Some(Server {
                name: format!("s{i}"),
                service: 0,
                address: "10.0.0.1".parse().unwrap(),
                port: 80,
                forward: Forward::Nat,
                weight: *w,
                state: ServerState::Up,
                next_hop: 0,
                tunnel_source: None,
            }));
        }
        let mut schedulers = Schedulers::default();
        schedulers.install(&Snapshot::default(), &snapshot);
        (snapshot, schedulers, SharedCounts::new(2, weights.len()))
    }

    fn choices(snapshot: &Snapshot, s: &mut Schedulers, counts: &SharedCounts, n: usize) -> Vec<u16> {
        let service = snapshot.services[0].as_ref().unwrap();
        (0..n).map(|_| s.choose(0, service, counts)).collect()
    }

    fn tally(choices: &[u16], servers: usize) -> Vec<usize> {
        (0..servers).map(|s| choices.iter().filter(|&&c| usize::from(c) == s).count()).collect()
    }

    #[test]
    fn round_robin_skips_weight_zero() {
        let (snapshot, mut s, counts) = service(Scheduler::Rr, &[5, 0, 1]);
        assert_eq!(tally(&choices(&snapshot, &mut s, &counts, 100), 3), [50, 0, 50]);
    }

    #[test]
    fn weighted_round_robin_interleaves_by_weight() {
        let (snapshot, mut s, counts) = service(Scheduler::Wrr, &[3, 2, 1]);
        let c = choices(&snapshot, &mut s, &counts, 600);
        assert_eq!(tally(&c, 3), [300, 200, 100]);
        // No server is chosen more often than its share in any window of one round, give or take one.
        for window in c.windows(6) {
            let t = tally(window, 3);
            assert!((2..=4).contains(&t[0]) && (1..=3).contains(&t[1]) && t[2] <= 2, "{window:?}");
        }
        assert!(s.set_weight(&snapshot, 0, 0));
        assert_eq!(tally(&choices(&snapshot, &mut s, &counts, 300), 3), [0, 200, 100]);
        assert!(s.set_weight(&snapshot, 1, 0) && s.set_weight(&snapshot, 2, 0));
        assert_eq!(choices(&snapshot, &mut s, &counts, 1), [NO_SLOT]);
        assert!(!s.set_weight(&snapshot, 9, 1));
    }

    #[test]
    fn weighted_round_robin_keeps_its_shares_after_any_number_of_choices() {
        let (snapshot, mut s, counts) = service(Scheduler::Wrr, &[3, 1]);
        choices(&snapshot, &mut s, &counts, 1);
        // As after some 10⁹ choices: the deadlines near the end of their range.
        let queue = std::mem::take(&mut s.states[0].queue);
        s.states[0].queue = queue
            .into_iter()
            .map(|Reverse((d, o, server))| Reverse((d + (u64::MAX - 20 * SCALE), o, server)))
            .collect();
        assert_eq!(tally(&choices(&snapshot, &mut s, &counts, 4000), 2), [3000, 1000]);
    }

    #[test]
    fn least_connection_counts_every_worker() {
        let (snapshot, mut s, counts) = service(Scheduler::Wlc, &[1, 1]);
        counts.publish(1, 0, 10, 0); // the other worker's connections
        assert_eq!(choices(&snapshot, &mut s, &counts, 3), [1, 1, 1]);
        counts.publish(0, 1, 11, 0);
        assert_eq!(choices(&snapshot, &mut s, &counts, 1), [0]);
        let (snapshot, mut s, counts) = service(Scheduler::Wlc, &[3, 1]);
        let mut load = [0; 2];
        for _ in 0..400 {
            let server = choices(&snapshot, &mut s, &counts, 1)[0];
            load[usize::from(server)] += 1;
            counts.publish(0, server, load[usize::from(server)], 0);
        }
        assert!((295..=305).contains(&load[0]), "{load:?}");
    }

    #[test]
    fn least_connection_without_weights() {
        let (snapshot, mut s, counts) = service(Scheduler::Lc, &[3, 1, 0]);
        let mut load = [0; 3];
        for _ in 0..400 {
            let server = choices(&snapshot, &mut s, &counts, 1)[0];
            load[usize::from(server)] += 1;
            counts.publish(0, server, load[usize::from(server)], 0);
        }
        assert_eq!(load, [200, 200, 0]);
    }

    #[test]
    fn an_unchanged_service_keeps_its_turn() {
        let (snapshot, mut s, counts) = service(Scheduler::Wrr, &[1, 1]);
        let before = choices(&snapshot, &mut s, &counts, 1)[0];
        let again = Snapshot { generation: 2, ..snapshot.clone() };
        s.install(&snapshot, &again);
        assert_ne!(choices(&again, &mut s, &counts, 1)[0], before);
    }
}
