//! A worker's connections: their states, time-outs and counts. Shared by the stages; owned by one worker.

use crate::command::{Event, SegmentView, ServerStats};
use crate::snapshot::{NO_SLOT, NextHop, SLOTS, Snapshot, Via};
use crate::splice::Splices;
use crate::stages::fragment::Fragments;
use crate::stages::fragmentation::Oversized;
use crate::stages::hold::{Awaited, Holding};
use crate::stages::icmp::IcmpLimit;
use crate::stages::link::{Learned, OwnAddresses};
use crate::stages::reach::Reach;
use crate::stages::schedule::{Schedulers, SharedCounts};
use crate::stages::state::may_be_reopened;
use crate::stages::tunnel::{Outer, Paths};
use hashbrown::HashMap;
use lcs_dataplane::batch::{Batch, NO_FLOW, Places};
use lcs_dataplane::flow::{FlowFlags, FlowTable, Place, TcpState};
use lcs_dataplane::headers::MacAddr;
use lcs_dataplane::port::Capabilities;
use lcs_dataplane::spread::Spread;
use lcs_dataplane::timer::{Due, Timers};
use lcs_dataplane::{BURST, DropReason};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Rows of the next-hop table that the control thread fills. The rest are learned from frames of on-link clients.
pub const CONTROL_ROWS: usize = 49_152;
/// All rows.
pub(crate) const ROWS: usize = SLOTS;
/// Flows looked at by the timers between two batches: some microseconds at most.
const TIMER_BUDGET: usize = 64;
/// Events kept for the control thread at most.
const EVENTS: usize = 256;

/// How a worker is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Flows that its table holds.
    pub flows: usize,
    /// Fragmented packets that it follows at once.
    pub fragments: usize,
    /// Keys the hashes; the same for all workers where they steer in software.
    pub seed: u64,
    /// This worker's number.
    pub worker: u8,
    /// Number of workers. Above 1, a frame whose client endpoint belongs to another worker is handed over.
    pub workers: u8,
    /// What the port offers.
    pub capabilities: Capabilities,
}

impl Settings {
    /// How clients' endpoints are divided among the workers.
    #[inline]
    pub fn spread(&self) -> Spread {
        Spread { workers: self.workers, table: self.capabilities.rss_table }
    }

    /// Whether a client's endpoint belongs to this worker.
    #[inline]
    pub fn is_owner(&self, client: SocketAddr) -> bool {
        self.workers < 2 || self.spread().owner(client) == self.worker
    }
}

/// Traffic of one server, in the hot loop: `[0]` from clients, `[1]` to clients. Half a cache line.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(32))]
pub(crate) struct Traffic {
    pub(crate) packets: [u64; 2],
    pub(crate) bytes: [u64; 2],
}

/// Connections of one server.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Load {
    opened: u64,
    active: u32,
    inactive: u32,
}

/// What one worker knows and counts. No other thread reads or writes it, except the published counts.
#[derive(Debug)]
pub struct Connections {
    pub(crate) settings: Settings,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) table: FlowTable,
    pub(crate) timers: Timers,
    /// The tick at which silent clients were last looked for.
    pub(crate) silent_served: u32,
    pub(crate) timeouts: [u32; TcpState::ALL.len()],
    /// As many as a `u16` can number, so that no row needs a bounds check.
    pub(crate) hops: Box<[NextHop; 1 << 16]>,
    pub(crate) learned: Learned,
    pub(crate) own_addresses: OwnAddresses,
    pub(crate) full_batches: u32,
    pub(crate) schedulers: Schedulers,
    pub(crate) traffic: Vec<Traffic>,
    loads: Vec<Load>,
    pub(crate) counts: Arc<SharedCounts>,
    pub(crate) fragments: Fragments,
    pub(crate) icmp_limit: IcmpLimit,
    pub(crate) states: [u64; TcpState::ALL.len()],
    pub(crate) evicted: u64,
    pub(crate) expired: u64,
    pub(crate) icmp_sent: u64,
    pub(crate) checksums_completed: u64,
    /// Outer IPv4 headers by server slot.
    pub(crate) outers: Vec<Option<Outer>>,
    /// Identification of the last outer IPv4 header.
    pub(crate) ident: u16,
    /// Identification of the last outer IPv6 packet that was cut.
    pub(crate) fragment_ident: u32,
    /// Frames of a batch that are to be cut.
    pub(crate) oversized: Oversized,
    /// Fragments made of packets that were too big.
    pub(crate) fragments_made: u64,
    /// Frames that wait.
    pub(crate) holding: Holding,
    /// MTUs of tunnels' paths, by server slot.
    pub(crate) paths: Paths,
    /// What every server of a service that is switched by content has room for.
    pub(crate) reach: Reach,
    /// Connections that are switched by content.
    pub(crate) splices: Splices,
    /// Frames of a batch that the bind stage is to decide on: clients without a flow.
    pub(crate) unbound: Places,
    /// The service that each of them calls, by place; not of UDP.
    pub(crate) called: [u16; BURST],
    /// The endpoint and protocol that a client has called last, and the service there: the next one calls the same, mostly.
    called_last: Option<(SocketAddr, u8, u16)>,
    /// The same: spliced connections whose segments must be looked at.
    pub(crate) looked_at: Places,
    events: VecDeque<Event>,
    /// Places of the batch that are traced, one bit each, and what the director has sent because of them.
    pub(crate) traced: u32,
    pub(crate) made: Vec<(usize, SegmentView)>,
    said: HashMap<(u8, u16), u32>,
}

impl Connections {
    /// An empty worker at tick `now`, with a snapshot that knows no service.
    pub fn new(settings: Settings, counts: Arc<SharedCounts>, now: u32) -> Self {
        let snapshot = Arc::new(Snapshot::default());
        Connections {
            table: FlowTable::new(settings.flows, settings.seed),
            timers: Timers::new(now),
            silent_served: now,
            timeouts: snapshot.timeouts.ticks(),
            hops: no_hops(),
            learned: Learned::default(),
            own_addresses: OwnAddresses::default(),
            full_batches: 0,
            schedulers: Schedulers::default(),
            traffic: Vec::new(),
            loads: Vec::new(),
            counts,
            fragments: Fragments::new(settings.fragments),
            icmp_limit: IcmpLimit::new(now),
            states: [0; TcpState::ALL.len()],
            evicted: 0,
            expired: 0,
            icmp_sent: 0,
            checksums_completed: 0,
            outers: Vec::new(),
            // Workers share the director's address: each begins elsewhere.
            ident: 1 + (u32::from(settings.worker) * 0x1_0000 / u32::from(settings.workers.max(1))) as u16,
            fragment_ident: (settings.seed as u32) << 8 ^ u32::from(settings.worker) << 24,
            oversized: Oversized::default(),
            fragments_made: 0,
            holding: Holding::default(),
            paths: Paths::default(),
            reach: Reach::default(),
            splices: Splices::new(settings.flows, settings.seed, settings.workers),
            unbound: Places::default(),
            called: [NO_SLOT; BURST],
            called_last: None,
            looked_at: Places::default(),
            events: VecDeque::with_capacity(EVENTS),
            traced: 0,
            made: Vec::new(),
            said: HashMap::new(),
            snapshot,
            settings,
        }
    }

    /// The service that packets to this endpoint call ([`Snapshot::service_at`]).
    #[inline]
    pub(crate) fn service_at(&mut self, to: SocketAddr, protocol: u8) -> Option<u16> {
        match self.called_last {
            Some((endpoint, p, slot)) if endpoint == to && p == protocol => Some(slot),
            _ => {
                let slot = self.snapshot.service_at(to, protocol)?;
                self.called_last = Some((to, protocol, slot));
                Some(slot)
            }
        }
    }

    /// Uses another snapshot from now on, and returns the old one.
    pub fn install(&mut self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        self.timeouts = snapshot.timeouts.ticks();
        self.own_addresses.install(&snapshot.interfaces);
        for (row, hop) in snapshot.next_hops.iter().enumerate().take(CONTROL_ROWS) {
            self.hops[row] = *hop;
        }
        self.reach.install(&snapshot, &self.hops[..]);
        let hops = &self.hops;
        self.holding.look_at_hops(|row| hops[usize::from(row)].resolved);
        self.traffic.resize(snapshot.servers.len(), Traffic::default());
        self.loads.resize(snapshot.servers.len(), Load::default());
        let mut gone = Vec::new();
        for (slot, server) in snapshot.servers.iter().enumerate() {
            // A slot that changes hands starts counting from nothing.
            let before = self.snapshot.servers.get(slot).and_then(Option::as_ref).map(|s| &s.name);
            if before != server.as_ref().map(|s| &s.name) {
                self.traffic[slot] = Traffic::default();
                self.loads[slot].opened = 0;
                if before.is_some() {
                    gone.push(slot as u16);
                }
            }
        }
        self.splices.sessions.forget(&gone);
        self.paths.install(snapshot.servers.len(), &gone);
        self.counts.templates.install(&snapshot, &gone);
        self.outers.clear();
        self.outers.extend(snapshot.servers.iter().map(|s| s.as_ref().and_then(Outer::new)));
        self.schedulers.install(&self.snapshot, &snapshot);
        self.splices.install(&snapshot);
        self.timers.reserve(snapshot.services.len());
        let Settings { worker, flows, .. } = self.settings;
        self.splices.migrations.install(&snapshot, worker, self.settings.spread(), flows);
        self.called_last = None;
        std::mem::replace(&mut self.snapshot, snapshot)
    }

    /// Sets one server's weight; `false` when there is no such server.
    pub fn set_weight(&mut self, server: u16, weight: u32) -> bool {
        self.schedulers.set_weight(&self.snapshot, server, weight)
    }

    /// Sets one row of the next hops; `false` when it is not the control thread's to set.
    pub fn set_next_hop(&mut self, row: u16, hop: NextHop) -> bool {
        let at = usize::from(row);
        if at < CONTROL_ROWS {
            let before = std::mem::replace(&mut self.hops[at], hop);
            if before.mtu != hop.mtu {
                self.reach.look_at(row, &self.hops[..]);
            }
            if hop.resolved {
                self.holding.has_come(&Awaited::NextHop(row));
            }
        }
        at < CONTROL_ROWS
    }

    /// The row through which to answer a client: its route's router, or where its frame came from.
    ///
    /// # Errors
    /// [`DropReason::NextHopTableFull`] when the frame comes from one more neighbour than are kept.
    pub(crate) fn row_to_client(
        &mut self,
        client: IpAddr,
        interface: u8,
        source: MacAddr,
        own: MacAddr,
    ) -> Result<u16, DropReason> {
        if let Some(Via::NextHop(row)) = self.snapshot.routes.lookup(client) {
            return Ok(row);
        }
        self.learn(interface, source, own)
    }

    /// Tells the control thread something, at most once a second for the same subject. Never waits.
    pub(crate) fn say(&mut self, subject: (u8, u16), now: u32, event: Event) {
        const SECOND: u32 = 8;
        if self.said.get(&subject).is_some_and(|&t| now.wrapping_sub(t) < SECOND) || self.events.len() >= EVENTS {
            return;
        }
        if self.said.len() > 4096 {
            self.said.clear();
        }
        self.said.insert(subject, now);
        self.events.push_back(event);
    }

    /// Queues a trace record; `false` when the control thread is behind.
    pub(crate) fn push_event(&mut self, event: Event) -> bool {
        let room = self.events.len() < EVENTS;
        if room {
            self.events.push_back(event);
        }
        room
    }

    /// The next event for the control thread.
    pub fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Counts a new flow at its server and puts it on its time-out list.
    pub(crate) fn opened(&mut self, flow: u32, state: TcpState, now: u32) {
        let entry = self.table.get_mut(flow);
        entry.state = state;
        entry.last_seen = now;
        let (server, active) = (entry.server, is_active(state));
        self.learned.hold(entry.next_hop[0]);
        entry.flags.set(FlowFlags::ACTIVE, active);
        entry.flags.set(FlowFlags::HALF_OPEN, state == TcpState::SynReceived);
        if state == TcpState::SynReceived {
            self.timers.queue(&mut self.table, flow);
        } else {
            let at = now.wrapping_add(self.timeouts[state as usize]);
            self.timers.schedule(&mut self.table, flow, at);
        }
        self.states[state as usize] += 1;
        if let Some(load) = self.loads.get_mut(usize::from(server)) {
            load.opened += 1;
            *(if active { &mut load.active } else { &mut load.inactive }) += 1;
        }
        self.publish(server);
    }

    /// Gives a flow a server, in the counts; `new`: a connection to it is opened by this.
    pub(crate) fn assign(&mut self, flow: u32, server: u16, new: bool) {
        let f = self.table.get_mut(flow);
        f.server = server;
        let active = f.flags.has(FlowFlags::ACTIVE);
        if let Some(load) = self.loads.get_mut(usize::from(server)) {
            load.opened += u64::from(new);
            *(if active { &mut load.active } else { &mut load.inactive }) += 1;
        }
        self.publish(server);
    }

    /// Takes a flow's server away, in the counts.
    pub(crate) fn unassign(&mut self, flow: u32) {
        let f = self.table.get_mut(flow);
        let (server, active) = (std::mem::replace(&mut f.server, NO_SLOT), f.flags.has(FlowFlags::ACTIVE));
        if let Some(load) = self.loads.get_mut(usize::from(server)) {
            let count = if active { &mut load.active } else { &mut load.inactive };
            *count = count.saturating_sub(1);
        }
        self.publish(server);
    }

    /// The client of a half-open flow has completed the handshake: it has its service's time for its first byte. It still gives way
    /// when the table is full, by its age among those that have not.
    pub(crate) fn awaits_request(&mut self, flow: u32, now: u32) {
        self.timers.cancel(&mut self.table, flow, true);
        self.table.get_mut(flow).last_seen = now;
        if !self.timers.wait(&mut self.table, flow) {
            self.timers.queue(&mut self.table, flow);
        }
    }

    /// Moves a flow to another state: its count, its list, its deadline.
    #[inline(never)]
    pub(crate) fn moved(&mut self, flow: u32, state: TcpState, now: u32) {
        let entry = self.table.get_mut(flow);
        let (old, server, queued) = (entry.state, entry.server, entry.flags.has(FlowFlags::HALF_OPEN));
        let (was, active) = (entry.flags.has(FlowFlags::ACTIVE), is_active(state));
        entry.state = state;
        entry.flags.set(FlowFlags::ACTIVE, active);
        entry.flags.set(FlowFlags::CLOSED, may_be_reopened(state, entry.flags.has(FlowFlags::TRANSLATED)));
        entry.flags.set(FlowFlags::HALF_OPEN, state == TcpState::SynReceived);
        self.states[old as usize] -= 1;
        self.states[state as usize] += 1;
        if was != active {
            if let Some(load) = self.loads.get_mut(usize::from(server)) {
                let (up, down) = if active {
                    (&mut load.active, &mut load.inactive)
                } else {
                    (&mut load.inactive, &mut load.active)
                };
                *up += 1;
                *down = down.saturating_sub(1);
            }
            self.publish(server);
        }
        // A longer time-out is found when the old one comes up; a shorter one must move now.
        if state == TcpState::SynReceived {
            self.timers.cancel(&mut self.table, flow, queued);
            self.timers.queue(&mut self.table, flow);
        } else if queued || self.timeouts[state as usize] < self.timeouts[old as usize] {
            self.timers.cancel(&mut self.table, flow, queued);
            let at = now.wrapping_add(self.timeouts[state as usize]);
            self.timers.schedule(&mut self.table, flow, at);
        }
    }

    /// Forgets a flow.
    pub(crate) fn close(&mut self, flow: u32) {
        let queued = self.table.get(flow).flags.has(FlowFlags::HALF_OPEN);
        self.timers.cancel(&mut self.table, flow, queued);
        let server =
            uncount(&mut self.table, &mut self.loads, &mut self.states, &mut self.learned, &mut self.splices, flow);
        self.publish(server);
    }

    /// Makes room for a new flow by closing the oldest half-open one; `false` when there is none.
    pub(crate) fn evict_half_open(&mut self, batch: &mut Batch, hits: &mut Places, now: u32) -> bool {
        let Some(flow) = self.timers.oldest_half_open(&self.table, now) else { return false };
        self.close_within(flow, batch, hits);
        self.evicted += 1;
        true
    }

    /// Forgets a flow in the middle of a batch. Frames that have found it already must not be forwarded by it: its entry
    /// may be another connection's before they are.
    pub(crate) fn close_within(&mut self, flow: u32, batch: &mut Batch, hits: &mut Places) {
        self.close(flow);
        let mut others = Places::default();
        for i in hits.iter() {
            if Place(batch.flow[i]).flow() == flow {
                batch.flow[i] = NO_FLOW;
                batch.drop(i, DropReason::NoFlow);
            } else {
                others.push(i);
            }
        }
        *hits = others;
    }

    /// Counters of every server, by slot.
    pub(crate) fn server_stats(&self) -> impl Iterator<Item = ServerStats> + '_ {
        self.traffic.iter().zip(&self.loads).map(|(t, l)| ServerStats {
            packets_in: t.packets[0],
            bytes_in: t.bytes[0],
            packets_out: t.packets[1],
            bytes_out: t.bytes[1],
            connections: l.opened,
            active: l.active,
            inactive: l.inactive,
        })
    }

    fn publish(&self, server: u16) {
        if let Some(load) = self.loads.get(usize::from(server)) {
            self.counts.publish(self.settings.worker, server, load.active, load.inactive);
        }
    }

    /// Serves the time-outs, a bounded number a call. Returns whether there may be more.
    pub fn expire(&mut self, now: u32) -> bool {
        let Connections { table, timers, timeouts, loads, states, learned, counts, settings, expired, splices, .. } =
            self;
        let mut gone = |table: &mut FlowTable, flow: u32| {
            let server = uncount(table, loads, states, learned, splices, flow);
            *expired += 1;
            if let Some(s) = loads.get(usize::from(server)) {
                counts.publish(settings.worker, server, s.active, s.inactive);
            }
        };
        let looked = timers.advance(table, now, TIMER_BUDGET, |table, flow| {
            let entry = table.get(flow);
            let timeout = timeouts[entry.state as usize];
            let idle = now.wrapping_sub(entry.last_seen);
            if idle < timeout {
                return Due::At(entry.last_seen.wrapping_add(timeout));
            }
            gone(table, flow);
            Due::Expired
        });
        let half_open = timeouts[TcpState::SynReceived as usize];
        let more = timers.advance_half_open(table, now, half_open, TIMER_BUDGET, &mut gone);
        self.fragments.expire(now);
        looked == TIMER_BUDGET || more == TIMER_BUDGET
    }
}

fn no_hops() -> Box<[NextHop; 1 << 16]> {
    match vec![NextHop::default(); 1 << 16].into_boxed_slice().try_into() {
        Ok(hops) => hops,
        Err(_) => unreachable!("the vector has this length"),
    }
}

/// Takes a flow that is on no list out of the counts and the table. Returns its server.
fn uncount(
    table: &mut FlowTable,
    loads: &mut [Load],
    states: &mut [u64; TcpState::ALL.len()],
    learned: &mut Learned,
    splices: &mut Splices,
    flow: u32,
) -> u16 {
    let entry = table.get(flow);
    if entry.flags.has(FlowFlags::SPLICED) {
        splices.part(flow, entry, table.keys(flow));
        splices.release(flow, entry.service);
    }
    learned.release(entry.next_hop[0]);
    let (server, state, active) = (entry.server, entry.state, entry.flags.has(FlowFlags::ACTIVE));
    states[state as usize] -= 1;
    if let Some(load) = loads.get_mut(usize::from(server)) {
        let count = if active { &mut load.active } else { &mut load.inactive };
        *count = count.saturating_sub(1);
    }
    table.remove(flow);
    server
}

fn is_active(state: TcpState) -> bool {
    matches!(state, TcpState::Established | TcpState::Udp)
}
