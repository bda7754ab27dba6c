//! The director's pipeline: classify → lookup → schedule on a miss → forward.
//!
//! Services with rules go through `bind` instead of `schedule`, and again whenever a segment must be read.
//!
//! ```text
//! classify ─▶ lookup ─┬─ hit ──────────────────▶ forward
//!                     ├─ miss ─▶ schedule ──────▶   │
//!                     └─ neither TCP nor UDP ─▶ exceptions
//! ```

use crate::command::{Acknowledgement, Command, Event, FlowPage, FlowView, Report};
use crate::placement::{Away, PortEnd};
use crate::snapshot::Forward;
use crate::stages::classify::Classified;
use crate::stages::connection::{Connections, Settings};
use crate::stages::schedule::SharedCounts;
use crate::stages::{
    bind, classify, decapsulate, exceptions, forward, fragment, fragmentation, hold, link, lookup, schedule,
};
use crate::trace::Tracer;
use lcs_dataplane::Frame;
use lcs_dataplane::batch::{BURST, Batch, Places};
use lcs_dataplane::cycles::{Meter, StageCost, Stopwatch};
use lcs_dataplane::flow::{FlowFlags, Key, Place, TcpState};
use lcs_dataplane::port::Port;
use lcs_dataplane::timer;
use lcs_dataplane::worker::{Counters, Nanos, Pipeline};
use std::net::SocketAddr;
use std::sync::Arc;

/// Entries looked at for one page of flows, so that listing them delays packets by microseconds only.
const PAGE: u32 = 1024;

/// Names of the stages, in the packet's order.
pub const STAGES: [&str; 6] = ["classify", "lookup", "schedule", "exceptions", "forward", "bind"];

/// The layer-4 pipeline of one worker.
#[derive(Debug)]
pub struct Layer4 {
    connections: Connections,
    costs: [StageCost; STAGES.len()],
    tracer: Tracer,
}

impl Layer4 {
    /// A pipeline that knows no service yet; install a snapshot. `counts` is shared by all workers.
    pub fn new(settings: Settings, counts: Arc<SharedCounts>, now: Nanos) -> Self {
        Layer4 {
            connections: Connections::new(settings, counts, timer::tick(now)),
            costs: Default::default(),
            tracer: Tracer::default(),
        }
    }

    /// The same pipeline, which hands requests that are to be decided to content workers.
    #[must_use]
    pub fn with_content_workers(mut self, ring: PortEnd) -> Self {
        self.connections.splices.away = Some(Away::new(ring));
        self
    }

    /// Cost of each stage so far, in the order of [`STAGES`].
    pub fn costs(&self) -> &[StageCost; STAGES.len()] {
        &self.costs
    }

    /// Flows in the table.
    pub fn flows(&self) -> usize {
        self.connections.table.len()
    }

    /// Bytes of requests that are held now, of connections that are switched by content.
    pub fn buffered(&self) -> usize {
        self.connections.splices.buffered
    }

    /// Service and server (slots) of the flow that a frame of the last batch belongs to, as [`Batch::flow`] has it; `None` when
    /// it belongs to none.
    pub fn chosen(&self, place: Place) -> Option<(u16, u16)> {
        let table = &self.connections.table;
        table.keys(place.flow())?;
        let flow = table.get(place.flow());
        Some((flow.service, flow.server))
    }

    /// What chooses the path of a connection's established packets, as one word: protocol, state and how it is forwarded. Packets of two
    /// connections with the same word are forwarded by the same code. `None` when there is no flow of that client at that service.
    pub fn path(&self, client: SocketAddr, service: SocketAddr, protocol: u8) -> Option<u32> {
        let place = self.connections.table.find(&Key::new(client, service)?, protocol)?;
        Some(self.connections.table.summary(place) & forward::PATH)
    }

    fn report(&self, mut report: Box<Report>, counters: &Counters, now: Nanos) -> Box<Report> {
        let c = &self.connections;
        report.generation = c.snapshot.generation;
        report.counters.clone_from(counters);
        report.stages.clear();
        report.stages.extend(STAGES.iter().zip(&self.costs).map(|(name, cost)| ((*name).to_owned(), *cost)));
        report.servers.clear();
        report.servers.extend(c.server_stats());
        report.states = c.states;
        report.flows = c.table.len();
        report.capacity = c.table.capacity();
        report.half_open = c.timers.half_open();
        report.evicted = c.evicted;
        report.expired = c.expired;
        report.fragments = c.fragments.len();
        report.checksums_completed = c.checksums_completed;
        report.icmp_sent = c.icmp_sent;
        report.fragments_made = c.fragments_made;
        report.templates.clear();
        if c.settings.worker == 0 {
            c.counts.templates.count(&c.snapshot, timer::tick(now), &mut report.templates);
        }
        c.splices.report(&mut report.content, now);
        report.memory = Some(c.table.memory());
        report.splice_memory = c.splices.memory();
        report.handed = c.splices.away.as_ref().map(Away::counts);
        report.decided = None;
        report
    }

    fn list(&self, mut page: Box<FlowPage>, now: u32) -> Box<FlowPage> {
        page.flows.clear();
        let capacity = self.connections.table.capacity() as u32;
        let end = page.cursor.saturating_add(page.limit.clamp(1, PAGE)).min(capacity);
        for flow in page.cursor..end {
            page.flows.extend(self.view(flow, now));
        }
        page.cursor = if end >= capacity { FlowPage::END } else { end };
        page
    }

    fn view(&self, flow: u32, now: u32) -> Option<FlowView> {
        let c = &self.connections;
        let keys = c.table.keys(flow)?;
        let f = c.table.get(flow);
        let server = c.snapshot.servers.get(usize::from(f.server)).and_then(Option::as_ref);
        let idle = now.wrapping_sub(f.last_seen);
        let spliced = f.flags.has(FlowFlags::SPLICED);
        let service = c.snapshot.services.get(usize::from(f.service)).and_then(Option::as_ref);
        let content = service.and_then(|service| service.content.as_deref());
        let timeout = match content {
            Some(content) if spliced && c.splices.get(flow).acknowledged && f.state == TcpState::SynReceived => {
                timer::ticks(content.binding.first_byte)
            }
            _ => c.timeouts[f.state as usize],
        };
        let left = timeout.saturating_sub(idle);
        let virtual_address = keys.client.destination();
        let server_address = keys.server.map(|k| k.source()).or_else(|| {
            server.map(|s| {
                std::net::SocketAddr::new(s.address, if s.port == 0 { virtual_address.port() } else { s.port })
            })
        });
        let forward = if keys.hides_client() {
            Forward::FullNat
        } else if f.flags.has(FlowFlags::TRANSLATED) {
            Forward::Nat
        } else if f.flags.has(FlowFlags::TUNNEL) {
            Forward::Tunnel
        } else {
            Forward::Dr
        };
        Some(FlowView {
            protocol: f.protocol,
            client: keys.client.source(),
            virtual_address,
            local: keys.server.map(|k| k.destination()).filter(|l| *l != keys.client.source()),
            server_address,
            service: f.service,
            server: f.server,
            forward: server_address.map(|_| forward),
            request: if spliced { c.splices.request_state(flow, f.state) } else { None },
            state: f.state,
            expires: timer::seconds(left),
            packets_in: f.packets[Place::CLIENT],
            packets_out: f.packets[Place::SERVER],
        })
    }
}

impl Pipeline for Layer4 {
    type Command = Command;
    type Acknowledgement = Acknowledgement;
    type Event = Event;

    #[inline]
    fn process<P: Port, M: Meter>(
        &mut self,
        port: &mut P,
        batch: &mut Batch,
        now: Nanos,
        watch: &mut Stopwatch<'_, M>,
    ) {
        let tick = timer::tick(now);
        let c = &mut self.connections;
        let [classify_cost, lookup_cost, schedule_cost, exceptions_cost, forward_cost, bind_cost] = &mut self.costs;
        let n = batch.len;

        if let Some(ends) = c.splices.migrations.tunnels() {
            decapsulate::decapsulate(ends, batch);
        }
        let mut classified = Classified::default();
        classify::classify(c, batch, &mut classified, tick);
        watch.lap(classify_cost, n);
        let tracing = self.tracer.is_on();
        if tracing {
            self.tracer.begin(c, batch, now);
            c.made.clear();
            c.traced = batch.traced;
        }

        let (mut hits, mut misses) = (Places::default(), Places::default());
        let known = classified.known();
        let looked_at = link::is_looked_at(c, batch);
        if !known.is_empty() {
            lookup::candidates(c, batch, known);
            watch.lap(lookup_cost, known.len());
        }
        // What is simple and established is forwarded at once; tracing and clients that have moved need the stages apart.
        let (mut v4, mut mine) = (classified.v4, Places::default());
        if !tracing && !looked_at && !v4.is_empty() {
            v4 = forward::forward_found(c, batch, v4, tick);
            let done = classified.v4.len() - v4.len();
            if done > 0 {
                watch.lap(forward_cost, done);
            }
            // What looks established and whose candidate is not its flow belongs to siblings more often than not: it is not looked up
            // further.
            if classify::is_steered(c, batch) {
                let unknown = lookup::unknown(c, batch, v4);
                mine = classify::steer_unknown(c, batch, unknown, tick);
                v4 = Places::from_bits(v4.bits() & !unknown.bits() | mine.bits());
            }
        }
        if !v4.is_empty() || !classified.v6.is_empty() {
            lookup::lookup(c, batch, v4, classified.v6, &mut hits, &mut misses);
            let unasked = Places::from_bits(misses.bits() & !mine.bits());
            let stay = classify::steer_unknown(c, batch, unasked, tick);
            misses = Places::from_bits(misses.bits() & mine.bits() | stay.bits());
            watch.lap_more(lookup_cost);
        }
        if tracing {
            self.tracer.step(c, batch, "lookup");
        }

        if !misses.is_empty() {
            schedule::schedule(c, batch, misses, &mut hits, tick);
            watch.lap(schedule_cost, misses.len());
            if tracing {
                self.tracer.step(c, batch, "schedule");
            }
        }
        if classified.firsts {
            fragment::remember(c, batch, &mut hits, tick);
        }
        if !classified.others.is_empty() {
            exceptions::exceptions(c, batch, classified.others, tick);
            watch.lap(exceptions_cost, classified.others.len());
        }

        if !hits.is_empty() {
            if looked_at {
                link::follow_clients(c, batch, &hits);
            }
            forward::forward(c, batch, hits, tick);
            watch.lap(forward_cost, hits.len());
        }
        let (unbound, looked_at) = (std::mem::take(&mut c.unbound), std::mem::take(&mut c.looked_at));
        if !unbound.is_empty() || !looked_at.is_empty() {
            bind::bind(c, port, batch, unbound, looked_at, now, tick);
            watch.lap(bind_cost, unbound.len() + looked_at.len());
        }
        if !c.oversized.is_empty() {
            fragmentation::fragment(c, port, batch);
        }
        if c.holding.is_asked() {
            hold::hold(c, port, batch, tick);
        }
        if tracing {
            self.tracer.step(c, batch, if unbound.is_empty() && looked_at.is_empty() { "forward" } else { "bind" });
            self.tracer.end(c, batch);
            c.traced = 0;
        }
    }

    fn tells_losses(command: &Command) -> bool {
        matches!(command, Command::Report(_))
    }

    fn command(&mut self, command: Command, counters: &Counters, now: Nanos) -> Acknowledgement {
        let c = &mut self.connections;
        let done = |ok: bool| if ok { Acknowledgement::Done } else { Acknowledgement::NoSuchSlot };
        match command {
            Command::Install(snapshot) => Acknowledgement::Installed(Some(c.install(snapshot))),
            Command::Prepare(needs) => Acknowledgement::Prepared(c.splices.prepare(needs)),
            Command::SetWeight { server, weight } => done(c.set_weight(server, weight)),
            Command::SetNextHop { row, hop } => done(c.set_next_hop(row, hop)),
            Command::Report(report) => Acknowledgement::Report(self.report(report, counters, now)),
            Command::ListFlows(page) => Acknowledgement::Flows(self.list(page, timer::tick(now))),
            Command::Learn(cookies) => {
                for (key, server) in cookies {
                    c.splices.sessions.learn(key, server, now);
                }
                Acknowledgement::Done
            }
            Command::Trace { filter, frames } => {
                self.tracer.set(filter, frames);
                Acknowledgement::Done
            }
        }
    }

    fn housekeeping<P: Port>(&mut self, port: &mut P, now: Nanos) -> bool {
        let tick = timer::tick(now);
        let more = self.connections.expire(tick);
        bind::housekeeping(&mut self.connections, port, now, tick) || more
    }

    fn released(&mut self, frames: &mut [Frame; BURST], interfaces: &mut [u8; BURST], now: Nanos) -> usize {
        self.connections.holding.release(frames, interfaces, timer::tick(now))
    }

    fn event(&mut self) -> Option<Event> {
        self.connections.event()
    }

    #[inline(always)]
    fn resume<P: Port, M: Meter>(&mut self, port: &mut P, now: Nanos, watch: &mut Stopwatch<'_, M>) -> usize {
        if !self.awaits() {
            return 0;
        }
        let n = bind::resume(&mut self.connections, port, now, timer::tick(now));
        if n > 0 {
            watch.lap(&mut self.costs[STAGES.len() - 1], n);
        }
        n
    }

    #[inline(always)]
    fn awaits(&self) -> bool {
        self.connections.splices.away.as_ref().is_some_and(Away::is_waiting)
    }
}
