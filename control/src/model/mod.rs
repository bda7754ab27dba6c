//! The desired state and its slots: what the configuration and live changes want, as a snapshot that workers can use.
//!
//! Flows refer to services, servers and next hops by slot. So what stays the same from one configuration to the next
//! keeps its slot, and what goes keeps its slot until no worker has a flow for it: it *drains*. `LIFECYCLE.md` tells a
//! server's life. The model knows no thread and no socket; the director tells it what the workers have reported.

mod content;
mod difference;
mod health;
mod learn;
mod next_hops;
mod slots;
mod view;

pub use difference::{Change, Kind};
pub use view::{Counts, ServerView, ServiceView, SteeringSets};

use crate::config::{Admin, Neighbour, Route, Server, Service, check, endpoint_text};
use difference::published_port;
use lcs_pipelines::content::Scheme;
use lcs_pipelines::snapshot::{self, Endpoint, Forward, Interface, ServerState, Snapshot, Timeouts, WhenFull};
pub use next_hops::Learned;
use next_hops::NextHops;
use slots::Slots;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// What the director is, as seen from the network.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// The port's interfaces, in its numbering.
    pub interfaces: Vec<Interface>,
    /// Addresses where its tunnels begin, whatever the kernel would take; the first one of a family counts.
    pub given: Vec<IpAddr>,
    /// All of the director's own addresses.
    pub addresses: Vec<IpAddr>,
    /// Entries of the devices' tables of receive queues ([`lcs_dataplane::spread`]); 0 where that is not told.
    pub rss_table: u16,
}

/// A change that cannot be made. Nothing has been changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no service of this name.
    #[error("there is no service {0}; `lcs vs list` shows those that there are")]
    NoService(String),
    /// There is no server of this name.
    #[error("service {0} has no server {1}; `lcs rs list {0}` shows those that it has")]
    NoServer(String, String),
    /// There is a service of this name already.
    #[error("there is a service {0} already; change it with `lcs vs set {0}`")]
    ServiceExists(String),
    /// There is a server of this name already.
    #[error("service {0} has a server {1} already; change it with `lcs rs set {0}/{1}`")]
    ServerExists(String, String),
    /// Another service has the endpoint.
    #[error("{1} is taken by service {0}; give another address, port or protocol, or add servers to {0}")]
    EndpointTaken(String, String),
    /// The rules of a service forbid it.
    #[error("{0}")]
    Rule(check::Finding),
    /// Slots are used up.
    #[error(
        "no room for {wanted} more {what}: {draining} are still draining; wait for their connections to end (`lcs status`), or shorten the time-outs"
    )]
    Full {
        /// Of what.
        what: &'static str,
        /// How many more.
        wanted: usize,
        /// How many drain.
        draining: usize,
    },
    /// A tunnel has nowhere to begin.
    #[error(
        "the director has no address toward server {0}, for its tunnel or filter; add one of the server's family to [director] addresses and start again"
    )]
    NoTunnelSource(String),
}

#[derive(Debug)]
struct ServiceEntry {
    config: Service,
    /// Slots of its servers, in the configuration's order.
    servers: Vec<u16>,
    removed: bool,
    /// Its rules, compiled. None when it is removed: its servers' slots may have other owners before it is gone.
    content: Option<content::Published>,
}

impl ServiceEntry {
    /// Whether no new connection may be given to its servers: it is removed, or rules should decide and are not there.
    fn is_idle(&self) -> bool {
        self.removed || (self.config.content.is_some() && self.content.is_none())
    }
}

#[derive(Debug)]
struct ServerEntry {
    config: Server,
    service: u16,
    /// Port in the snapshot.
    port: u16,
    row: u16,
    /// Why it is down, if its checks say so.
    down: Option<String>,
    /// The first generation in which it takes no new connections, once it is removed.
    removed: Option<u64>,
}

impl ServerEntry {
    /// Whether this is the same server as far as a flow can tell.
    fn is(&self, service: &Service, server: &Server) -> bool {
        self.config.name == server.name
            && self.config.address == server.address
            && self.config.forward == server.forward
            && self.port == published_port(service, server)
    }
}

/// Slots that a wanted service has already.
struct Plan {
    service: Option<u16>,
    servers: Vec<Option<u16>>,
}

/// The desired state.
#[derive(Debug)]
pub struct Model {
    environment: Environment,
    workers: usize,
    timeouts: Timeouts,
    when_full: WhenFull,
    services: Slots<ServiceEntry>,
    servers: Slots<ServerEntry>,
    next_hops: NextHops,
    /// Services that are not removed.
    by_name: HashMap<String, u16>,
    by_endpoint: HashMap<Endpoint, u16>,
    /// Removed servers.
    draining: Vec<u16>,
    /// Removed services.
    leaving: Vec<u16>,
    generation: u64,
    published: Option<Arc<Snapshot>>,
}

impl Model {
    /// How many workers there are; 1 until it is said.
    pub fn set_workers(&mut self, workers: usize) {
        self.workers = workers;
    }

    /// A model without services.
    pub fn new(environment: Environment) -> Self {
        Model {
            next_hops: NextHops::new(environment.interfaces.clone()),
            environment,
            workers: 1,
            timeouts: Timeouts::default(),
            when_full: WhenFull::default(),
            services: Slots::default(),
            servers: Slots::default(),
            by_name: HashMap::new(),
            by_endpoint: HashMap::new(),
            draining: Vec::new(),
            leaving: Vec::new(),
            generation: 1,
            published: None,
        }
    }

    /// Number of the desired state; it counts up with every change.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The next publication differs from the last one.
    pub fn touch(&mut self) {
        self.generation += 1;
        self.published = None;
    }

    /// The desired state as workers take it.
    pub fn snapshot(&mut self) -> Arc<Snapshot> {
        if let Some(snapshot) = &self.published {
            return Arc::clone(snapshot);
        }
        let snapshot = Arc::new(self.build());
        self.published = Some(Arc::clone(&snapshot));
        snapshot
    }

    fn build(&mut self) -> Snapshot {
        let (next_hops, routes) = self.next_hops.publish();
        let mut services = vec![None; self.services.span()];
        let mut own: hashbrown::HashSet<IpAddr> = self.environment.addresses.iter().copied().collect();
        for (slot, entry) in self.services.iter() {
            let s = &entry.config;
            own.insert(s.address);
            own.extend(&s.sources);
            services[usize::from(slot)] = Some(snapshot::Service {
                name: s.name.clone(),
                address: s.address,
                port: s.port,
                protocol: s.protocol.number(),
                scheduler: s.scheduler,
                servers: if entry.is_idle() { Vec::new() } else { entry.servers.clone() },
                sources: s.sources.clone(),
                source_ports: s.source_ports,
                content: entry.content.as_ref().map(|published| Arc::clone(&published.content)),
                persistence: s.persistence,
            });
        }
        let mut servers = vec![None; self.servers.span()];
        for (slot, entry) in self.servers.iter() {
            let s = &entry.config;
            let state = match (&entry.down, s.state) {
                _ if entry.removed.is_some() => ServerState::Draining,
                (Some(_), _) => ServerState::Down,
                (None, Admin::Up) => ServerState::Up,
                (None, _) => ServerState::Draining,
            };
            servers[usize::from(slot)] = Some(snapshot::Server {
                name: s.name.clone(),
                service: entry.service,
                address: s.address,
                port: entry.port,
                forward: s.forward,
                weight: s.weight,
                state,
                next_hop: entry.row,
                tunnel_source: (s.forward == Forward::Tunnel || self.is_filtered(entry.service))
                    .then(|| self.tunnel_source(entry.row, s.address))
                    .flatten(),
            });
        }
        Snapshot {
            generation: self.generation,
            services,
            servers,
            by_endpoint: self.by_endpoint.iter().map(|(e, s)| (*e, *s)).collect(),
            interfaces: self.environment.interfaces.clone(),
            next_hops,
            routes,
            own,
            timeouts: self.timeouts,
            when_full: self.when_full,
        }
    }

    /// Where a tunnel to `server` begins: where the configuration says, else where the kernel would send from.
    fn tunnel_source(&self, row: u16, server: IpAddr) -> Option<IpAddr> {
        let given = self.environment.given.iter().copied().find(|a| a.is_ipv4() == server.is_ipv4());
        given.or_else(|| self.next_hops.source(row)).or_else(|| self.own_address(server))
    }

    /// Whether a service's servers have filters.
    fn is_filtered(&self, service: u16) -> bool {
        let content = self.services.get(service).and_then(|e| e.config.content.as_ref());
        content.is_some_and(|c| matches!(c.binding.scheme, Scheme::Filter(_)))
    }

    /// The director's address of the family of `like`.
    fn own_address(&self, like: IpAddr) -> Option<IpAddr> {
        // A link-local address is no place for a tunnel to begin: its other end may be on another link.
        let usable =
            |a: &IpAddr| a.is_ipv4() == like.is_ipv4() && !matches!(a, IpAddr::V6(a) if a.is_unicast_link_local());
        self.environment.addresses.iter().copied().find(usable)
    }

    /// Makes `wanted` the desired services, all or nothing. They have passed [`check::service`], and no two of them
    /// share a name or an endpoint, as a [`crate::config::Configuration`] ensures.
    ///
    /// # Errors
    /// When there are not slots enough, or a tunnel has nowhere to begin; nothing is changed then.
    pub fn apply(&mut self, wanted: &[Service]) -> Result<Vec<Change>, Refused> {
        let plans: Vec<Plan> = wanted.iter().map(|s| self.plan(s)).collect();
        self.admit(wanted.iter().zip(&plans))?;
        let names: HashSet<&str> = wanted.iter().map(|s| s.name.as_str()).collect();
        let mut gone: Vec<String> = self.by_name.keys().filter(|n| !names.contains(n.as_str())).cloned().collect();
        gone.sort_unstable();
        let mut changes = Vec::new();
        for name in gone {
            self.retire_service(&name, &mut changes);
        }
        // Endpoints may wander from one service to another: those that move are given up before any is taken.
        for (service, plan) in wanted.iter().zip(&plans) {
            if plan.service.is_none() || self.by_name.get(&service.name).copied() != plan.service {
                self.retire_service(&service.name, &mut changes);
            }
        }
        for (service, plan) in wanted.iter().zip(plans) {
            self.settle_service(service, plan, &mut changes);
        }
        Ok(self.changed(changes))
    }

    /// Adds a service or replaces the one of the same name.
    ///
    /// # Errors
    /// When the service breaks a rule, its endpoint is taken, or there is no slot; nothing is changed then.
    pub fn put_service(&mut self, wanted: &Service) -> Result<Vec<Change>, Refused> {
        if let Some(finding) = check::service(wanted).into_iter().next() {
            return Err(Refused::Rule(finding));
        }
        if let Some(&owner) = self.by_endpoint.get(&wanted.endpoint()) {
            let owner = self.services.get(owner).map_or("", |s| s.config.name.as_str());
            if owner != wanted.name {
                let endpoint = endpoint_text(wanted.address, wanted.port);
                return Err(Refused::EndpointTaken(owner.to_owned(), format!("{} {endpoint}", wanted.protocol)));
            }
        }
        let plan = self.plan(wanted);
        self.admit(std::iter::once((wanted, &plan)))?;
        let mut changes = Vec::new();
        if plan.service.is_none() || self.by_name.get(&wanted.name).copied() != plan.service {
            self.retire_service(&wanted.name, &mut changes);
        }
        self.settle_service(wanted, plan, &mut changes);
        Ok(self.changed(changes))
    }

    /// Removes a service; its connections are kept until they end.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn remove_service(&mut self, name: &str) -> Result<Vec<Change>, Refused> {
        if !self.by_name.contains_key(name) {
            return Err(Refused::NoService(name.to_owned()));
        }
        let mut changes = Vec::new();
        self.retire_service(name, &mut changes);
        Ok(self.changed(changes))
    }

    /// Sets the settings that are not about services.
    pub fn set_settings(
        &mut self,
        timeouts: &Timeouts,
        when_full: WhenFull,
        neighbours: &[Neighbour],
        routes: &[Route],
    ) -> Vec<Change> {
        let mut changes = difference::timeouts(&self.timeouts, timeouts);
        changes.extend(difference::when_full(self.when_full, when_full));
        self.timeouts = *timeouts;
        self.when_full = when_full;
        if self.next_hops.configure(neighbours, routes) {
            changes.push(Change::new(Kind::Changed, "neighbours and routes", "as the file gives them"));
        }
        if !changes.is_empty() {
            self.touch();
        }
        changes
    }

    /// Sets a server's weight without a new generation: the workers are told by a command. Returns the server's slot.
    ///
    /// # Errors
    /// When there is no such server, or the weight is out of range.
    pub fn set_weight(&mut self, service: &str, server: &str, weight: u32) -> Result<u16, Refused> {
        let (_, slot) = self.find(service, server)?;
        if weight > crate::config::WEIGHT_MAX {
            return Err(Refused::Rule(check::Finding {
                place: check::Place::Service,
                key: "weight",
                what: format!("weight {weight} is out of range"),
                mend: format!("give a weight from 0 to {}", crate::config::WEIGHT_MAX),
            }));
        }
        if let Some(entry) = self.servers.get_mut(slot) {
            entry.config.weight = weight;
        }
        if let Some(config) = self.config_of(service, server) {
            config.weight = weight;
        }
        self.published = None;
        Ok(slot)
    }

    fn config_of(&mut self, service: &str, server: &str) -> Option<&mut Server> {
        let slot = *self.by_name.get(service)?;
        self.services.get_mut(slot)?.config.servers.iter_mut().find(|s| s.name == server)
    }

    /// The service's entry and the server's slot.
    fn find(&self, service: &str, server: &str) -> Result<(&ServiceEntry, u16), Refused> {
        let none = || Refused::NoService(service.to_owned());
        let entry = self.by_name.get(service).and_then(|s| self.services.get(*s)).ok_or_else(none)?;
        let slot =
            entry.servers.iter().copied().find(|s| self.servers.get(*s).is_some_and(|e| e.config.name == server));
        match slot {
            Some(slot) => Ok((entry, slot)),
            None => Err(Refused::NoServer(service.to_owned(), server.to_owned())),
        }
    }

    /// A service that is not removed, as it is wanted now.
    pub fn service(&self, name: &str) -> Option<&Service> {
        Some(&self.services.get(*self.by_name.get(name)?)?.config)
    }

    /// Every service that is not removed, by name.
    pub fn services(&self) -> Vec<&Service> {
        let mut all: Vec<&Service> =
            self.by_name.values().filter_map(|s| Some(&self.services.get(*s)?.config)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn changed(&mut self, changes: Vec<Change>) -> Vec<Change> {
        if !changes.is_empty() {
            self.touch();
        }
        changes
    }

    /// Which slots a wanted service and its servers can keep or take up again.
    fn plan(&self, wanted: &Service) -> Plan {
        let fits = |slot: u16| {
            self.services.get(slot).is_some_and(|e| {
                let old = &e.config;
                old.name == wanted.name
                    && old.endpoint() == wanted.endpoint()
                    // A connection that uses a source address which is no longer given keeps it, and its old service.
                    && old.sources.iter().all(|s| wanted.sources.contains(s))
            })
        };
        let current = self.by_name.get(&wanted.name).copied().filter(|s| fits(*s));
        let service = current.or_else(|| self.leaving.iter().copied().rev().find(|s| fits(*s)));
        let Some(slot) = service else {
            return Plan { service: None, servers: vec![None; wanted.servers.len()] };
        };
        let of_service = self.services.get(slot).map_or(&[][..], |e| &e.servers);
        // Current servers first: they are what a draining one of the same name was replaced by.
        let mut candidates: HashMap<&str, Vec<u16>> = HashMap::new();
        let drained = self.draining.iter().copied().filter(|s| self.servers.get(*s).is_some_and(|e| e.service == slot));
        for s in of_service.iter().copied().chain(drained) {
            if let Some(entry) = self.servers.get(s) {
                candidates.entry(&entry.config.name).or_default().push(s);
            }
        }
        let find = |server: &Server| {
            let same = |s: &&u16| self.servers.get(**s).is_some_and(|e| e.is(wanted, server));
            candidates.get(server.name.as_str())?.iter().find(same).copied()
        };
        Plan { service, servers: wanted.servers.iter().map(find).collect() }
    }

    /// Whether there is room for what is new in these plans.
    fn admit<'a>(&self, plans: impl Iterator<Item = (&'a Service, &'a Plan)>) -> Result<(), Refused> {
        let (mut services, mut servers) = (0, 0);
        for (service, plan) in plans {
            services += usize::from(plan.service.is_none());
            servers += plan.servers.iter().filter(|s| s.is_none()).count();
            let filtered = service.content.as_ref().is_some_and(|c| matches!(c.binding.scheme, Scheme::Filter(_)));
            let homeless =
                |s: &&Server| (filtered || s.forward == Forward::Tunnel) && self.own_address(s.address).is_none();
            if let Some(s) = service.servers.iter().find(homeless) {
                return Err(Refused::NoTunnelSource(format!("{}/{}", service.name, s.name)));
            }
        }
        if services > self.services.available() {
            return Err(Refused::Full { what: "services", wanted: services, draining: self.leaving.len() });
        }
        if servers > self.servers.available().min(self.next_hops.available()) {
            return Err(Refused::Full { what: "servers", wanted: servers, draining: self.draining.len() });
        }
        Ok(())
    }

    fn retire_service(&mut self, name: &str, changes: &mut Vec<Change>) {
        let Some(slot) = self.by_name.remove(name) else { return };
        let Some(entry) = self.services.get_mut(slot) else { return };
        entry.removed = true;
        entry.content = None;
        self.by_endpoint.remove(&entry.config.endpoint());
        changes.push(Change::service_removed(&entry.config));
        for server in std::mem::take(&mut entry.servers) {
            self.retire_server(server);
        }
        self.leaving.push(slot);
    }

    fn retire_server(&mut self, slot: u16) {
        let generation = self.generation + 1;
        if let Some(entry) = self.servers.get_mut(slot) {
            entry.removed = Some(generation);
            self.draining.push(slot);
        }
    }

    /// Makes a service as wanted, keeping the slots of its plan.
    fn settle_service(&mut self, wanted: &Service, plan: Plan, changes: &mut Vec<Change>) {
        let current = plan.service.is_some_and(|s| self.by_name.get(&wanted.name) == Some(&s));
        let before_changes = changes.len();
        let slot = match plan.service {
            Some(slot) => slot,
            None => {
                let entry = ServiceEntry { config: wanted.clone(), servers: Vec::new(), removed: false, content: None };
                // `admit` has counted the slots.
                let Some(slot) = self.services.insert(entry) else { return };
                slot
            }
        };
        if current {
            let old = self.services.get(slot).map(|e| &e.config);
            changes.extend(old.and_then(|old| difference::service(old, wanted)));
        } else {
            changes.push(Change::service_added(wanted));
            self.leaving.retain(|s| *s != slot);
            self.by_name.insert(wanted.name.clone(), slot);
            self.by_endpoint.insert(wanted.endpoint(), slot);
        }
        let before = self.services.get(slot).map(|e| e.servers.clone()).unwrap_or_default();
        let kept: HashSet<u16> = plan.servers.iter().flatten().copied().collect();
        for old in before.iter().copied().filter(|s| !kept.contains(s)) {
            if let Some(entry) = self.servers.get(old) {
                changes.push(Change::server_removed(&wanted.name, &entry.config));
            }
            self.retire_server(old);
        }
        let mut servers = Vec::with_capacity(wanted.servers.len());
        let mut slots = HashMap::with_capacity(wanted.servers.len());
        for (server, planned) in wanted.servers.iter().zip(plan.servers) {
            if let Some(slot) = self.settle_server(slot, wanted, server, planned, !current, changes) {
                servers.push(slot);
                slots.insert(server.name.as_str(), slot);
            }
        }
        if current && before != servers && changes.len() == before_changes {
            changes.push(Change::new(Kind::Changed, &wanted.name, "order of its servers"));
        }
        if let Some(entry) = self.services.get_mut(slot) {
            entry.config = wanted.clone();
            let before = entry.content.take();
            let compiled = wanted.content.as_ref().map(|c| content::publish(c, wanted.scheduler, &slots, before));
            match compiled.transpose() {
                Ok(published) => entry.content = published,
                // See `is_idle`.
                Err(errors) => {
                    let detail = format!("it takes no connections, because its rules cannot be compiled: {errors}");
                    changes.push(Change::new(Kind::Changed, &wanted.name, detail));
                }
            }
            entry.servers = servers;
            entry.removed = false;
        }
    }

    /// Makes a server as wanted. `quiet`: its service is new, so that the service's line says enough.
    fn settle_server(
        &mut self,
        service_slot: u16,
        service: &Service,
        server: &Server,
        planned: Option<u16>,
        quiet: bool,
        changes: &mut Vec<Change>,
    ) -> Option<u16> {
        if let Some(slot) = planned {
            let entry = self.servers.get_mut(slot)?;
            if entry.removed.take().is_some() {
                self.draining.retain(|s| *s != slot);
                changes.push(Change::server_added(service, server, true));
            } else {
                changes.extend(difference::server(&service.name, &entry.config, server));
            }
            entry.config = server.clone();
            if service.check.is_none() {
                entry.down = None;
            }
            return Some(slot);
        }
        let row = self.next_hops.take(server.address)?;
        let port = published_port(service, server);
        let entry = ServerEntry { config: server.clone(), service: service_slot, port, row, down: None, removed: None };
        let slot = self.servers.insert(entry)?;
        if !quiet {
            changes.push(Change::server_added(service, server, false));
        }
        Some(slot)
    }

    /// Whether anything drains.
    pub fn is_draining(&self) -> bool {
        !self.draining.is_empty() || !self.leaving.is_empty()
    }

    /// Every worker reports for `generation` or a later one; `flows` are the connections of all of them to a server's
    /// slot. Servers and services that have none any more are let go. Returns the names of these servers.
    pub fn drained(&mut self, generation: u64, flows: impl Fn(u16) -> u64) -> Vec<String> {
        let next = self.generation + 1;
        let mut released = Vec::new();
        let mut keep = Vec::with_capacity(self.draining.len());
        for slot in std::mem::take(&mut self.draining) {
            let ready = self.servers.get(slot).is_some_and(|e| e.removed.is_some_and(|g| g <= generation));
            if !ready || flows(slot) > 0 {
                keep.push(slot);
            } else if let Some(entry) = self.servers.vacate(slot, next) {
                self.next_hops.give(entry.row, next);
                let service = self.services.get(entry.service).map_or("", |s| s.config.name.as_str());
                released.push(format!("{service}/{}", entry.config.name));
            }
        }
        self.draining = keep;
        let busy: HashSet<u16> = self.draining.iter().filter_map(|s| self.servers.get(*s)).map(|e| e.service).collect();
        let (leaving, gone): (Vec<u16>, Vec<u16>) = self.leaving.iter().partition(|s| busy.contains(s));
        for slot in &gone {
            self.services.vacate(*slot, next);
        }
        self.leaving = leaving;
        if !released.is_empty() || !gone.is_empty() {
            self.touch();
        }
        released
    }

    /// Every worker uses the snapshot of `generation` or a later one: slots that are not in it are free.
    pub fn settle(&mut self, generation: u64) {
        self.services.settle(generation);
        self.servers.settle(generation);
        self.next_hops.settle(generation);
    }
}

#[cfg(test)]
mod tests;
