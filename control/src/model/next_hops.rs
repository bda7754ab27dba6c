//! Rows of the next hops: one for each server address and each router, found by target, kept while anything refers to it.

use super::slots::Slots;
use crate::config::{Neighbour, Route};
use crate::netlink::Target;
use ipnet::IpNet;
use lcs_pipelines::snapshot::{Interface, NextHop, Routes, Via};
use lcs_pipelines::stages::connection::CONTROL_ROWS;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// Rows that routers may take. Their rows are not reused, because flows toward clients may refer to them for long.
const ROUTERS_MAX: usize = 4096;
/// Routes toward clients that are learned at most.
const ROUTES_MAX: usize = 65_536;

/// What was learned about a target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Learned {
    /// The next hop; unresolved where there is none.
    pub hop: NextHop,
    /// The director's address toward the target.
    pub source: Option<IpAddr>,
    /// Why there is no next hop, and what to do about it.
    pub problem: Option<String>,
}

#[derive(Debug)]
struct Row {
    target: Target,
    /// Servers that use it.
    servers: usize,
    /// A router's row is kept for good.
    router: bool,
    /// What the configuration says, which is not overruled.
    given: Option<NextHop>,
    learned: Learned,
}

impl Row {
    fn hop(&self) -> NextHop {
        self.given.unwrap_or(self.learned.hop)
    }
}

/// The rows, and the routes toward clients.
#[derive(Debug)]
pub(super) struct NextHops {
    rows: Slots<Row>,
    by_target: HashMap<Target, u16>,
    routers: usize,
    interfaces: Vec<Interface>,
    neighbours: Vec<Neighbour>,
    given: Vec<Route>,
    learned: BTreeMap<IpNet, Option<Target>>,
    /// Counts up when a row is taken or given back.
    version: u64,
}

impl NextHops {
    pub(super) fn new(interfaces: Vec<Interface>) -> Self {
        NextHops {
            rows: Slots::new(CONTROL_ROWS),
            by_target: HashMap::new(),
            routers: 0,
            interfaces,
            neighbours: Vec::new(),
            given: Vec::new(),
            learned: BTreeMap::new(),
            version: 0,
        }
    }

    pub(super) fn available(&self) -> usize {
        self.rows.available()
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// The row for a server at `address`, counted once more; `None` when there is no free row.
    pub(super) fn take(&mut self, address: IpAddr) -> Option<u16> {
        let row = self.row(address.into(), false)?;
        self.rows.get_mut(row)?.servers += 1;
        Some(row)
    }

    /// A server has let go of its row.
    pub(super) fn give(&mut self, row: u16, generation: u64) {
        let Some(entry) = self.rows.get_mut(row) else { return };
        entry.servers -= 1;
        if entry.servers == 0 && !entry.router {
            let target = entry.target;
            self.rows.vacate(row, generation);
            self.by_target.remove(&target);
            self.version += 1;
        }
    }

    fn row(&mut self, target: Target, router: bool) -> Option<u16> {
        if let Some(&row) = self.by_target.get(&target) {
            let entry = self.rows.get_mut(row)?;
            if router && !entry.router {
                entry.router = true;
                self.routers += 1;
            }
            return Some(row);
        }
        if router && self.routers >= ROUTERS_MAX {
            return None;
        }
        let given = self.given(target.address);
        let row = self.rows.insert(Row { target, servers: 0, router, given, learned: Learned::default() })?;
        self.routers += usize::from(router);
        self.by_target.insert(target, row);
        self.version += 1;
        Some(row)
    }

    /// What the configuration says about `target`: its own neighbour entry, or that of the router toward it.
    fn given(&self, target: IpAddr) -> Option<NextHop> {
        let find = |address: IpAddr| self.neighbours.iter().find(|n| n.address == address);
        let neighbour = find(target).or_else(|| find(self.router_toward(target)?))?;
        let interface = self.interfaces.get(usize::from(neighbour.interface))?;
        Some(NextHop::new(neighbour.mac, interface.mac, neighbour.interface, interface.mtu))
    }

    /// The router of the narrowest given route to `address`.
    pub(super) fn router_toward(&self, address: IpAddr) -> Option<IpAddr> {
        self.given.iter().filter(|r| r.to.contains(&address)).max_by_key(|r| r.to.prefix_len())?.via
    }

    /// Replaces the interfaces: they have other addresses or another MTU now.
    pub(super) fn set_interfaces(&mut self, interfaces: Vec<Interface>) {
        self.interfaces = interfaces;
        self.regive();
    }

    /// Replaces what the configuration says. Returns whether anything changed.
    pub(super) fn configure(&mut self, neighbours: &[Neighbour], routes: &[Route]) -> bool {
        if self.neighbours == neighbours && self.given == routes {
            return false;
        }
        self.neighbours = neighbours.to_vec();
        self.given = routes.to_vec();
        self.regive();
        true
    }

    fn regive(&mut self) {
        let targets: Vec<(u16, Target)> = self.targets().collect();
        for (row, target) in targets {
            let given = self.given(target.address);
            if let Some(entry) = self.rows.get_mut(row) {
                entry.given = given;
            }
        }
    }

    /// Learns a route, or that there is none. Returns whether anything changed; `Err` when there are too many.
    pub(super) fn learn_route(&mut self, to: IpNet, via: Option<Option<Target>>) -> Result<bool, usize> {
        match via {
            None => Ok(self.learned.remove(&to).is_some()),
            Some(_) if self.learned.len() >= ROUTES_MAX && !self.learned.contains_key(&to) => Err(ROUTES_MAX),
            Some(router) => Ok(self.learned.insert(to, router) != Some(router)),
        }
    }

    /// Learns the next hop toward `target`; returns its row when that changes anything for the workers, and whether
    /// the director's address toward it has changed.
    pub(super) fn learn(&mut self, target: Target, learned: Learned) -> Option<(u16, bool, bool)> {
        let row = *self.by_target.get(&target)?;
        let entry = self.rows.get_mut(row)?;
        let (before, source) = (entry.hop(), entry.learned.source);
        entry.learned = learned;
        Some((row, entry.hop() != before, entry.learned.source != source))
    }

    pub(super) fn hop(&self, row: u16) -> Option<NextHop> {
        Some(self.rows.get(row)?.hop())
    }

    /// The director's address toward a row's target, where it was learned.
    pub(super) fn source(&self, row: u16) -> Option<IpAddr> {
        self.rows.get(row)?.learned.source
    }

    /// Why a row has no next hop; `None` when it has one.
    pub(super) fn problem(&self, row: u16) -> Option<&str> {
        let entry = self.rows.get(row)?;
        if entry.hop().resolved {
            return None;
        }
        Some(entry.learned.problem.as_deref().unwrap_or("its link-layer address is not known yet"))
    }

    pub(super) fn target(&self, row: u16) -> Option<Target> {
        Some(self.rows.get(row)?.target)
    }

    /// Every row in use and what it leads to.
    pub(super) fn targets(&self) -> impl Iterator<Item = (u16, Target)> {
        self.rows.iter().map(|(row, entry)| (row, entry.target))
    }

    pub(super) fn settle(&mut self, generation: u64) {
        self.rows.settle(generation);
    }

    /// The table and the routes as workers take them. A route whose router gets no row is left out: answers to its
    /// clients then go where their packets came from.
    pub(super) fn publish(&mut self) -> (Vec<NextHop>, Routes) {
        let mut routes = Routes::default();
        // Given routes come last, so that they replace learned ones of the same prefix.
        let given = self.given.iter().map(|r| (r.to, r.via.map(Target::from)));
        let all: Vec<(IpNet, Option<Target>)> = self.learned.iter().map(|(to, via)| (*to, *via)).chain(given).collect();
        for (to, via) in all {
            let via = match via {
                None => Some(Via::OnLink),
                Some(router) => self.row(router, true).map(Via::NextHop),
            };
            if let Some(via) = via {
                routes.insert(to.addr(), to.prefix_len(), via);
            }
        }
        let mut table = vec![NextHop::default(); self.rows.span()];
        for (row, entry) in self.rows.iter() {
            table[usize::from(row)] = entry.hop();
        }
        (table, routes)
    }
}
