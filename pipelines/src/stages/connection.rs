//! A worker's connections: their states, time-outs and counts. Shared by the stages; owned by one worker.

use crate::command::{Event, SegmentView, ServerStats};
use crate::snapshot::{NO_SLOT, NextHop, SLOTS, Snapshot, Via};
use crate::splice::Splices;
use crate::stages::fragment::Fragments;
use crate::stages::fragmentation::Oversized;
use crate::stages::hold::{Awaited, Holding};
use crate::stages::icmp::IcmpLimit;
use crate::stages::link::{Learned, OwnAddresses};
use crate::stages::schedule::{Schedulers, SharedCounts};
use crate::stages::tunnel::{Outer, Paths};
use hashbrown::HashMap;
use lcs_dataplane::DropReason;
use lcs_dataplane::batch::{Batch, NO_FLOW, Places};
use lcs_dataplane::flow::{Flow, FlowFlags, FlowTable, Place, TcpState};
use lcs_dataplane::headers::MacAddr;
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, RST, SYN};
use lcs_dataplane::port::Capabilities;
use lcs_dataplane::timer::{Due, Timers};
use std::collections::VecDeque;
use std::net::IpAddr;
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
    /// Connections that are switched by content.
    pub(crate) splices: Splices,
    /// Frames of a batch that the bind stage is to decide on: clients without a flow.
    pub(crate) unbound: Places,
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
            splices: Splices::new(settings.flows, settings.seed, settings.workers),
            unbound: Places::default(),
            looked_at: Places::default(),
            events: VecDeque::with_capacity(EVENTS),
            traced: 0,
            made: Vec::new(),
            said: HashMap::new(),
            snapshot,
            settings,
        }
    }

    /// Uses another snapshot from now on, and returns the old one.
    pub fn install(&mut self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        self.timeouts = snapshot.timeouts.ticks();
        self.own_addresses.install(&snapshot.interfaces);
        for (row, hop) in snapshot.next_hops.iter().enumerate().take(CONTROL_ROWS) {
            self.hops[row] = *hop;
        }
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
        let Settings { worker, workers, flows, .. } = self.settings;
        self.splices.migrations.install(&snapshot, worker, workers, flows);
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
            self.hops[at] = hop;
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
    pub(crate) fn evict_half_open(&mut self, batch: &mut Batch, hits: &mut Places) -> bool {
        let Some(flow) = self.timers.oldest_half_open() else { return false };
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
        splices.part(entry, table.keys(flow));
        splices.release(entry.extra, entry.service);
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

/// What a segment means for the connection's state.
#[derive(Clone, Copy)]
enum Segment {
    Syn,
    Fin,
    Reset,
    Other,
}

const fn segment(flags: u8) -> Segment {
    if flags & RST != 0 {
        Segment::Reset
    } else if flags & SYN != 0 {
        Segment::Syn
    } else if flags & FIN != 0 {
        Segment::Fin
    } else {
        Segment::Other
    }
}

/// The state after a segment from `side`. `both` says that the director sees both directions.
///
/// The director infers and does not police: a segment out of order moves the state as IPVS would move it, so
/// that a connection is never kept alive, nor cut, by what one side alone may send. RFC 9293 §3.3.2 is the model.
const fn next(state: TcpState, segment: Segment, side: usize, both: bool) -> TcpState {
    use TcpState::*;
    let client = side == Place::CLIENT;
    match (segment, state) {
        (_, Udp) => Udp,
        (Segment::Reset, TimeWait) if !client => TimeWait,
        (Segment::Reset, _) => Close,
        (Segment::Syn, Established) => Established,
        (Segment::Syn, _) if client => SynReceived,
        (Segment::Syn, None) => SynReceived,
        (Segment::Syn, s) => s,
        (Segment::Fin, SynReceived) => TimeWait,
        (Segment::Fin, Established | None) => {
            if client && both {
                CloseWait
            } else {
                FinWait
            }
        }
        // The second FIN.
        (Segment::Fin, FinWait) if client && both => TimeWait,
        (Segment::Fin, CloseWait) if !client => LastAck,
        (Segment::Fin, s) => s,
        (Segment::Other, SynReceived | None) if client => Established,
        (Segment::Other, LastAck) if client => TimeWait,
        (Segment::Other, s) => s,
    }
}

/// [`next`] for every case: `[both][side][flags & (FIN|SYN|RST)][state]`.
static NEXT: [[[[TcpState; 9]; 8]; 2]; 2] = {
    let mut table = [[[[TcpState::None; 9]; 8]; 2]; 2];
    let mut both = 0;
    while both < 2 {
        let mut side = 0;
        while side < 2 {
            let mut flags = 0;
            while flags < 8 {
                let mut s = 0;
                while s < 9 {
                    table[both][side][flags][s] = next(TcpState::ALL[s], segment(flags as u8), side, both == 1);
                    s += 1;
                }
                flags += 1;
            }
            side += 1;
        }
        both += 1;
    }
    table
};

/// Whether a client's SYN in this state begins another connection on the same ports. `both`: the server's segments are
/// seen too. Where they are not, the client's FIN is all that will ever be seen of the end, and its port may be in use
/// again long before the time-out (as IPVS's `conn_reuse_mode` 2 has it).
fn may_be_reopened(state: TcpState, both: bool) -> bool {
    match state {
        TcpState::TimeWait | TcpState::Close | TcpState::LastAck => true,
        TcpState::FinWait => !both,
        _ => false,
    }
}

/// The state after a segment with these TCP flags from `side`; `both` says that the director sees both directions.
#[inline(always)]
pub(crate) fn next_state(state: TcpState, tcp_flags: u8, side: usize, both: bool) -> TcpState {
    NEXT[usize::from(both)][side & 1][usize::from(tcp_flags & (FIN | SYN | RST))][state as usize]
}

/// Of what is noted of a connection that is not spliced: the server has answered the client's SYN.
const ANSWERED: u32 = 1;
/// The last reset came from the server.
const RESET_BY_SERVER: u32 = 2;
/// Where the state stands that a reset has ended.
const BEFORE_SHIFT: u32 = 2;
const BEFORE: u32 = 7 << BEFORE_SHIFT;
/// The rest, once the server has answered: its initial sequence number, of which these bits are not known.
const NOTES: u32 = ANSWERED | RESET_BY_SERVER | BEFORE;
/// How far beyond the server's initial number a client's first acknowledgement may be: what is sent before it comes.
const FIRST_WINDOW: u32 = 0xffff;

/// What is noted of a connection that is not spliced. Where it is translated, [`Flow::extra`] has it. Where it is not, the server is not
/// seen: then [`Flow::ip_difference`] has room for it, and `extra` may be the client's initial number (`bind/direct.rs`).
#[inline]
pub(crate) fn notes_of(flow: &Flow) -> u32 {
    if flow.flags.has(FlowFlags::TRANSLATED) { flow.extra } else { u32::from(flow.ip_difference) }
}

/// Keeps such notes.
#[inline]
pub(crate) fn note(flow: &mut Flow, notes: u32) {
    if flow.flags.has(FlowFlags::TRANSLATED) {
        flow.extra = notes;
    } else {
        flow.ip_difference = (notes & NOTES) as u16;
    }
}

/// State and notes ([`notes_of`]) of a connection that is not spliced, after a segment with these TCP flags from `side`. `numbers` gives
/// its sequence and acknowledgement number, and none where it was damaged on its way; they are asked for while the connection is
/// half-open only.
///
/// Three things go beyond [`next_state`], for those who send segments blindly or in masses:
/// - Where the server's segments are seen, a connection is half-open until the server has answered its SYN and the client has acknowledged
///   that answer. Who sends SYN and ACK (or FIN, or RST) without hearing the server takes the table no place that can't be taken
///   back: one in 65,536 of such acknowledgements is believed. Where the server is not seen (direct routing, tunnels), the client's
///   ACK is all there is to go by, as in IPVS.
/// - A client's SYN begins nothing on a connection that is not over, until the server has answered that it does.
/// - A reset makes the time-out short and takes nothing else, since its number can't be checked here; the connection's packets keep
///   their server. Whoever has sent it in earnest sends nothing else any more: another segment from the same side shows that it was
///   somebody else's, and the connection is again what it was. Where the server is not seen, only if it was established:
///   of a closing one nothing else can be known.
pub(crate) fn followed(
    flow: &Flow,
    tcp_flags: u8,
    side: usize,
    numbers: impl FnOnce() -> Option<[u32; 2]>,
) -> (TcpState, u32) {
    use TcpState::{Close, CloseWait, Established, FinWait, SynReceived};
    let (state, notes, both) = (flow.state, notes_of(flow), flow.flags.has(FlowFlags::TRANSLATED));
    let client = side == Place::CLIENT;
    let unchanged = (state, notes);
    if both && client && tcp_flags & (SYN | RST) == SYN {
        // One that is over is reopened by who finds it ([`super::lookup`]), or here, if it has ended in the same burst.
        let reopens = tcp_flags & (ACK | FIN) == 0 && may_be_reopened(state, both);
        return if reopens { (SynReceived, 0) } else { unchanged };
    }
    if both
        && !client
        && tcp_flags & (SYN | ACK | RST) == SYN | ACK
        && matches!(state, SynReceived | FinWait | CloseWait)
    {
        let Some([first, _]) = numbers() else { return unchanged };
        return (SynReceived, first & !NOTES | ANSWERED);
    }
    if both && client && state == SynReceived {
        // The server's number is known but for its last bits.
        let is_answer = |ack: u32| ack.wrapping_sub(notes & !NOTES) <= FIRST_WINDOW;
        let believed =
            notes & ANSWERED != 0 && tcp_flags & ACK != 0 && numbers().is_some_and(|[_, ack]| is_answer(ack));
        if !believed {
            return unchanged;
        }
    }
    if state == Close && tcp_flags & (SYN | FIN | RST) == 0 && client == (notes & RESET_BY_SERVER == 0) {
        let before = TcpState::ALL[((notes & BEFORE) >> BEFORE_SHIFT) as usize];
        let known = if both { before != TcpState::None } else { before == Established };
        return (if known { before } else { Close }, notes);
    }
    let next = next_state(state, tcp_flags, side, both);
    if tcp_flags & RST == 0 {
        return (next, notes);
    }
    let by = if client { 0 } else { RESET_BY_SERVER };
    let before = if state == Close { notes & BEFORE } else { (state as u32) << BEFORE_SHIFT & BEFORE };
    (next, notes & !(RESET_BY_SERVER | BEFORE) | by | before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lcs_dataplane::flow::Key;

    /// The server's initial number.
    const ISN: u32 = 0xffff_fffb;

    /// The same by [`followed`], with numbers as they should be.
    fn walk_noting(both: bool, segments: &[(u8, usize)]) -> Vec<TcpState> {
        let with_numbers: Vec<_> = segments
            .iter()
            .map(|&(flags, side)| (flags, side, Some(if side == 1 { [ISN, 0] } else { [7, ISN.wrapping_add(1)] })))
            .collect();
        walk_numbered(both, &with_numbers)
    }

    fn walk_numbered(both: bool, segments: &[(u8, usize, Option<[u32; 2]>)]) -> Vec<TcpState> {
        let mut table = FlowTable::new(1, 1);
        let flow = table.insert(6, &Key::V4 { addresses: 1, ports: 2 }, None).unwrap();
        let f = table.get_mut(flow);
        f.state = TcpState::SynReceived;
        f.flags.set(FlowFlags::TRANSLATED, both);
        segments
            .iter()
            .map(|&(flags, side, numbers)| {
                let (state, notes) = followed(f, flags, side, || numbers);
                f.state = state;
                note(f, notes);
                assert!(both || f.extra == 0, "it is the client's number");
                state
            })
            .collect()
    }

    #[test]
    fn only_who_has_heard_the_server_makes_a_connection_established() {
        use TcpState::*;
        let after = |flags, numbers| walk_numbered(true, &[(SYN | ACK, 1, Some([ISN, 8])), (flags, 0, numbers)])[1];
        for right in [1, 2, 1000, 65_000] {
            assert_eq!(after(ACK, Some([7, ISN.wrapping_add(right)])), Established);
        }
        for wrong in [1 << 31, 70_000, (-100_i32) as u32, (-32_i32) as u32] {
            assert_eq!(after(ACK, Some([7, ISN.wrapping_add(wrong)])), SynReceived, "{wrong}");
        }
        // Damaged; no acknowledgement at all; and what would make it leave the half-open ones otherwise.
        assert_eq!(after(ACK, Option::None), SynReceived);
        assert_eq!(after(0, Some([7, ISN.wrapping_add(1)])), SynReceived);
        for flags in [FIN | ACK, RST | ACK, FIN, RST] {
            assert_eq!(after(flags, Some([7, 123_456])), SynReceived);
        }
        // Of a server that answers anew, the newer number counts; not that of a damaged answer.
        let answers = |second| {
            let first = (SYN | ACK, 1, Some([ISN, 8]));
            walk_numbered(true, &[first, (SYN | ACK, 1, second), (ACK, 0, Some([7, 500_001]))])[2]
        };
        assert_eq!(answers(Some([500_000, 8])), Established);
        assert_eq!(answers(Option::None), SynReceived);
    }

    #[test]
    fn a_spoofed_syn_does_not_reopen_a_half_closed_connection() {
        use TcpState::*;
        let closing = [(SYN | ACK, 1), (ACK, 0)];
        for (fin, state) in [((FIN | ACK, 0), CloseWait), ((FIN | ACK, 1), FinWait)] {
            let after = |more: &[(u8, usize)]| walk_noting(true, &[&closing[..], &[fin], more].concat())[2..].to_vec();
            assert_eq!(after(&[(SYN, 0), (ACK, 1), (ACK, 0)]), [state; 4]);
            assert_eq!(after(&[(SYN | ACK, 0), (SYN | FIN, 0)]), [state; 3]);
            assert_eq!(after(&[(SYN, 0), (SYN | ACK, 1), (ACK, 0)])[1..], [state, SynReceived, Established]);
        }
    }

    #[test]
    fn a_reset_that_was_not_meant_gives_back_what_the_connection_was() {
        use TcpState::*;
        let open = [(SYN | ACK, 1), (ACK, 0)];
        let after = |both, more: &[(u8, usize)]| walk_noting(both, &[&open[..], more].concat())[2..].to_vec();
        assert_eq!(after(true, &[(FIN | ACK, 0), (RST, 0), (ACK, 0)]), [CloseWait, Close, CloseWait]);
        assert_eq!(after(true, &[(FIN | ACK, 1), (RST, 0), (RST, 0), (ACK, 0)]), [FinWait, Close, Close, FinWait]);
        // Half-open it was, and is.
        let s = [(SYN | ACK, 1), (RST | ACK, 0), (ACK, 0), (ACK, 0)];
        assert_eq!(walk_noting(true, &s), [SynReceived, Close, SynReceived, Established]);
        // Nothing but what is established comes back where the server is not seen.
        assert_eq!(after(false, &[(FIN | ACK, 0), (RST, 0), (ACK, 0)]), [FinWait, Close, Close]);
        assert_eq!(walk_noting(false, &[(RST, 0), (ACK, 0)]), [Close, Close]);
    }

    #[test]
    fn a_connection_is_half_open_until_its_server_has_answered() {
        use TcpState::*;
        let blind = [(ACK, 0), (FIN | ACK, 0), (RST, 0), (SYN, 0), (ACK, 0)];
        assert_eq!(walk_noting(true, &blind), [SynReceived; 5]);
        assert_eq!(walk_noting(false, &blind[..2]), [Established, FinWait]);
        // An acknowledgement of the server's is no answer; nor is a refusal.
        let s = [(ACK, 1), (ACK, 0), (SYN | ACK, 1), (ACK, 1), (ACK, 0)];
        assert_eq!(walk_noting(true, &s), [SynReceived, SynReceived, SynReceived, SynReceived, Established]);
        assert_eq!(walk_noting(true, &[(RST | ACK, 1), (ACK, 0)]), [Close, Close]);
        // Who guesses the acknowledgement wrong is refused by the server.
        assert_eq!(walk_noting(true, &[(SYN | ACK, 1), (ACK, 0), (RST, 1), (ACK, 0)])[2..], [Close, Close]);
        // A second connection on the same ports.
        let s = [(SYN | ACK, 1), (ACK, 0), (FIN | ACK, 0), (SYN, 0), (ACK, 0), (SYN | ACK, 1), (ACK, 0)];
        assert_eq!(walk_noting(true, &s)[2..], [CloseWait, CloseWait, CloseWait, SynReceived, Established]);
    }

    #[test]
    fn after_a_reset_another_segment_from_its_side_restores_the_connection() {
        use TcpState::*;
        for both in [false, true] {
            let open = [(SYN | ACK, 1), (ACK, 0)];
            let after = |more: &[(u8, usize)]| walk_noting(both, &[&open[..], more].concat())[2..].to_vec();
            assert_eq!(after(&[(RST, 0), (ACK, 0)]), [Close, Established]);
            assert_eq!(after(&[(RST, 0), (RST, 0), (FIN | ACK, 0), (SYN | ACK, 1)]), [Close; 4]);
        }
        let after =
            |more: &[(u8, usize)]| walk_noting(true, &[&[(SYN | ACK, 1), (ACK, 0)][..], more].concat())[2..].to_vec();
        // What the other side still has on its way does not.
        assert_eq!(after(&[(RST, 0), (ACK, 1), (ACK, 1)]), [Close; 3]);
        assert_eq!(after(&[(RST | ACK, 1), (ACK, 0), (ACK, 1)]), [Close, Close, Established]);
        assert_eq!(after(&[(RST, 0), (RST, 1), (ACK, 0), (ACK, 1)]), [Close, Close, Close, Established]);
    }

    /// Walks a connection through (flags, side) and returns the states on the way.
    fn walk(both: bool, segments: &[(u8, usize)]) -> Vec<TcpState> {
        let mut state = TcpState::None;
        segments
            .iter()
            .map(|&(flags, side)| {
                state = next_state(state, flags, side, both);
                state
            })
            .collect()
    }

    #[test]
    fn a_connection_closed_by_the_client() {
        use TcpState::*;
        let s = [(SYN, 0), (SYN | ACK, 1), (ACK, 0), (ACK, 1), (FIN | ACK, 0), (ACK, 1), (FIN | ACK, 1), (ACK, 0)];
        let want = [SynReceived, SynReceived, Established, Established, CloseWait, CloseWait, LastAck, TimeWait];
        assert_eq!(walk(true, &s), want);
    }

    #[test]
    fn a_connection_closed_by_the_server() {
        use TcpState::*;
        let s = [(SYN, 0), (SYN | ACK, 1), (ACK, 0), (FIN | ACK, 1), (ACK, 0), (FIN | ACK, 0), (ACK, 1)];
        assert_eq!(walk(true, &s), [SynReceived, SynReceived, Established, FinWait, FinWait, TimeWait, TimeWait]);
    }

    #[test]
    fn seen_from_one_side_only() {
        use TcpState::*;
        let s = [(SYN, 0), (ACK, 0), (ACK, 0), (FIN | ACK, 0), (ACK, 0), (RST, 0)];
        assert_eq!(walk(false, &s), [SynReceived, Established, Established, FinWait, FinWait, Close]);
    }

    #[test]
    fn a_closed_connection_gives_way_to_a_new_one_as_soon_as_its_end_is_seen() {
        use TcpState::*;
        let both_sides = [(SYN, 0), (SYN | ACK, 1), (ACK, 0), (FIN | ACK, 0), (FIN | ACK, 1), (ACK, 0)];
        let reopened: Vec<bool> = walk(true, &both_sides).into_iter().map(|s| may_be_reopened(s, true)).collect();
        assert_eq!(reopened, [false, false, false, false, true, true]);
        // The server closes, and waits for the client.
        assert!(!may_be_reopened(FinWait, true));
        let one_side = [(SYN, 0), (ACK, 0), (FIN | ACK, 0), (ACK, 0)];
        let reopened: Vec<bool> = walk(false, &one_side).into_iter().map(|s| may_be_reopened(s, false)).collect();
        assert_eq!(reopened, [false, false, true, true]);
    }

    #[test]
    fn a_reset_closes_and_a_stray_syn_does_not() {
        use TcpState::*;
        assert_eq!(
            walk(true, &[(SYN, 0), (ACK, 0), (SYN, 0), (RST, 1)]),
            [SynReceived, Established, Established, Close]
        );
        assert_eq!(walk(true, &[(SYN, 0), (RST | ACK, 1)]), [SynReceived, Close]);
    }
}
