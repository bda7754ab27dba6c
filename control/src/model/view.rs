//! The desired state as others look at it: reports, and the filter in front of the workers.

use super::Model;
use crate::config::{Server, Service};
use lcs_dataplane::spread::Spread;
use lcs_pipelines::content::{Content, Scheme};
use lcs_pipelines::migration::channel_port;
use lcs_pipelines::snapshot::{Endpoint, Forward};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Number of UDP in the IP header.
const UDP: u8 = 17;

/// Which packets are for the director: what the XDP filter is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SteeringSets {
    /// Services, also removed ones that still have connections.
    pub services: Vec<Endpoint>,
    /// Full NAT: addresses toward the servers, with the protocols in use.
    pub sources: Vec<(IpAddr, u8)>,
    /// Servers whose replies come back: address, port (0 for any), protocol.
    pub replies: Vec<Endpoint>,
    /// Where messages between director and filters come, and at a filter what comes in tunnels: nothing else of these
    /// addresses.
    pub channels: Vec<Endpoint>,
    /// Servers behind tunnels: errors about tunnel packets to them are for the director.
    pub tunnels: Vec<IpAddr>,
    /// The director's own addresses.
    pub locals: Vec<IpAddr>,
}

impl Model {
    /// Which packets are for the director.
    pub fn steering(&self) -> SteeringSets {
        let mut sets = SteeringSets { locals: self.environment.addresses.clone(), ..SteeringSets::default() };
        let mut seen = HashSet::new();
        for (_, entry) in self.services.iter() {
            let protocol = entry.config.protocol.number();
            if seen.insert(entry.config.endpoint()) {
                sets.services.push(entry.config.endpoint());
            }
            sets.sources.extend(entry.config.sources.iter().map(|s| (*s, protocol)));
        }
        self.channels(&mut sets);
        let mut replies = HashSet::new();
        for (_, entry) in self.servers.iter().filter(|(_, e)| e.config.forward.replies_return()) {
            if let Some(service) = self.services.get(entry.service) {
                replies.insert((entry.config.address, entry.port, service.config.protocol.number()));
            }
        }
        sets.replies = replies.into_iter().collect();
        for list in [&mut sets.services, &mut sets.replies] {
            list.sort_unstable();
        }
        let tunnels = self.servers.iter().filter(|(_, e)| e.config.forward == Forward::Tunnel);
        sets.tunnels = tunnels.map(|(_, e)| e.config.address).collect();
        sets.sources.sort_unstable();
        sets.sources.dedup();
        sets.tunnels.sort_unstable();
        sets.tunnels.dedup();
        sets
    }

    /// Where messages between director and filters come.
    fn channels(&self, sets: &mut SteeringSets) {
        let mut ends = HashSet::new();
        for (_, entry) in self.servers.iter() {
            let Some(service) = self.services.get(entry.service) else { continue };
            match service.config.content.as_ref().map(|c| &c.binding.scheme) {
                Some(Scheme::Filter(channel)) => {
                    let Some(source) = self.tunnel_source(entry.row, entry.config.address) else { continue };
                    let workers = u8::try_from(self.workers).unwrap_or(u8::MAX);
                    let spread = Spread { workers, table: self.environment.rss_table };
                    let port = |worker| channel_port(source, channel.port.saturating_add(1), worker, spread);
                    ends.extend((0..workers).filter_map(port).map(|port| (source, port, UDP)));
                }
                Some(Scheme::Migrated(receiver)) => {
                    ends.extend(receiver.listen.iter().map(|at| (at.ip(), at.port(), UDP)));
                    if receiver.tunnels {
                        // IP within IP, of either family: protocols without ports.
                        ends.extend(receiver.listen.iter().flat_map(|at| [(at.ip(), 0, 4), (at.ip(), 0, 41)]));
                    }
                }
                _ => {}
            }
        }
        sets.channels = ends.into_iter().collect();
        sets.channels.sort_unstable();
    }

    /// Services and servers in slots, removed ones included.
    pub fn counts(&self) -> Counts {
        Counts {
            services: self.by_name.len(),
            servers: self.servers.len() - self.draining.len(),
            content_services: self.services().iter().filter(|s| s.content.is_some()).count(),
            draining_services: self.leaving.len(),
            draining_servers: self.draining.len(),
        }
    }

    /// Every service with its servers by slot, removed ones last: what reports are made of.
    pub fn view(&self) -> Vec<ServiceView<'_>> {
        let mut draining: HashMap<u16, Vec<u16>> = HashMap::new();
        for slot in &self.draining {
            if let Some(entry) = self.servers.get(*slot) {
                draining.entry(entry.service).or_default().push(*slot);
            }
        }
        let mut views: Vec<ServiceView<'_>> = self
            .services
            .iter()
            .map(|(slot, entry)| {
                let removed = draining.remove(&slot).unwrap_or_default();
                let servers = entry.servers.iter().copied().chain(removed);
                ServiceView {
                    slot,
                    service: &entry.config,
                    removed: entry.removed,
                    content: entry.content.as_ref().map(|published| &published.content),
                    servers: servers
                        .filter_map(|s| {
                            let e = self.servers.get(s)?;
                            Some(ServerView {
                                slot: s,
                                server: &e.config,
                                port: e.port,
                                removed: e.removed.is_some(),
                                down: e.down.as_deref(),
                                problem: self.next_hops.problem(e.row),
                            })
                        })
                        .collect(),
                }
            })
            .collect();
        views.sort_by(|a, b| (a.removed, &a.service.name).cmp(&(b.removed, &b.service.name)));
        views
    }

    /// Names of a service's and a server's slot, for a list of connections.
    pub fn names(&self, service: u16, server: u16) -> (Option<&str>, Option<&str>) {
        (
            self.services.get(service).map(|e| e.config.name.as_str()),
            self.servers.get(server).map(|e| e.config.name.as_str()),
        )
    }
}

/// How much there is of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Counts {
    /// Services.
    pub services: usize,
    /// Their servers.
    pub servers: usize,
    /// Services that are switched by content.
    #[serde(default)]
    pub content_services: usize,
    /// Removed services that still have connections.
    pub draining_services: usize,
    /// Removed servers that still have connections.
    pub draining_servers: usize,
}

/// A service in a slot.
#[derive(Debug)]
pub struct ServiceView<'a> {
    /// Its slot.
    pub slot: u16,
    /// What is wanted of it.
    pub service: &'a Service,
    /// Whether it is removed.
    pub removed: bool,
    /// What workers are given of its content.
    pub content: Option<&'a Arc<Content>>,
    /// Its servers; removed ones last.
    pub servers: Vec<ServerView<'a>>,
}

/// A server in a slot.
#[derive(Debug)]
pub struct ServerView<'a> {
    /// Its slot.
    pub slot: u16,
    /// What is wanted of it.
    pub server: &'a Server,
    /// Port in the snapshot.
    pub port: u16,
    /// Whether it is removed.
    pub removed: bool,
    /// Why its checks say that it is down, if they do.
    pub down: Option<&'a str>,
    /// Why packets cannot get there, if they cannot.
    pub problem: Option<&'a str>,
}
