//! Rows of the next hops: one for each server address and each router, found by address, kept while anything refers to it.

use super::slots::Slots;
use crate::config::{Neighbour, Route};
use lcs_pipelines::snapshot::{Interface, NextHop, Routes, Via};
use lcs_pipelines::stages::connection::CONTROL_ROWS;
use std::collections::HashMap;
use std::net::IpAddr;

/// Rows that routers may take. Their rows are not reused, because flows toward clients may refer to them for long.
const ROUTERS_MAX: usize = 4096;

#[derive(Debug)]
struct Row {
    target: IpAddr,
    /// Servers that use it.
    servers: usize,
    /// A router's row is kept for good.
    router: bool,
    /// What the configuration says, which is not overruled.
    given: Option<NextHop>,
    /// What was learned.
    learned: NextHop,
}

impl Row {
    fn hop(&self) -> NextHop {
        self.given.unwrap_or(self.learned)
    }
}

/// The rows, and the routes toward clients.
#[derive(Debug, Default)]
pub(super) struct NextHops {
    rows: Slots<Row>,
    by_target: HashMap<IpAddr, u16>,
    routers: usize,
    interfaces: Vec<Interface>,
    neighbours: Vec<Neighbour>,
    given_routes: Vec<Route>,
    learned_routes: Vec<Route>,
}

impl NextHops {
    pub(super) fn new(interfaces: Vec<Interface>) -> Self {
        NextHops { interfaces, rows: Slots::new(CONTROL_ROWS), ..NextHops::default() }
    }

    pub(super) fn available(&self) -> usize {
        self.rows.available()
    }

    /// The row for a server at `target`, counted once more; `None` when there is no free row.
    pub(super) fn take(&mut self, target: IpAddr) -> Option<u16> {
        let row = self.row(target, false)?;
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
        }
    }

    fn row(&mut self, target: IpAddr, router: bool) -> Option<u16> {
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
        let given = self.given(target);
        let row = self.rows.insert(Row { target, servers: 0, router, given, learned: NextHop::default() })?;
        self.routers += usize::from(router);
        self.by_target.insert(target, row);
        Some(row)
    }

    /// What the configuration says about `target`: its own neighbour entry, or that of the router toward it.
    fn given(&self, target: IpAddr) -> Option<NextHop> {
        let find = |address: IpAddr| self.neighbours.iter().find(|n| n.address == address);
        let neighbour = find(target).or_else(|| {
            let route = self.given_routes.iter().filter(|r| r.to.contains(&target)).max_by_key(|r| r.to.prefix_len());
            find(route?.via?)
        })?;
        let interface = self.interfaces.get(usize::from(neighbour.interface))?;
        Some(NextHop::new(neighbour.mac, interface.mac, neighbour.interface, interface.mtu))
    }

    /// Replaces what the configuration says. Returns whether anything changed.
    pub(super) fn configure(&mut self, neighbours: &[Neighbour], routes: &[Route]) -> bool {
        if self.neighbours == neighbours && self.given_routes == routes {
            return false;
        }
        self.neighbours = neighbours.to_vec();
        self.given_routes = routes.to_vec();
        let targets: Vec<(u16, IpAddr)> = self.targets().collect();
        for (row, target) in targets {
            let given = self.given(target);
            if let Some(entry) = self.rows.get_mut(row) {
                entry.given = given;
            }
        }
        true
    }

    /// Replaces the routes that were learned. Returns whether anything changed.
    pub(super) fn learn_routes(&mut self, routes: Vec<Route>) -> bool {
        let changed = self.learned_routes != routes;
        self.learned_routes = routes;
        changed
    }

    /// Learns the next hop toward `target`; returns its row when that changes anything.
    /// What the configuration gives is not overruled.
    pub(super) fn learn(&mut self, target: IpAddr, hop: NextHop) -> Option<u16> {
        let row = *self.by_target.get(&target)?;
        let entry = self.rows.get_mut(row)?;
        let before = entry.hop();
        entry.learned = hop;
        (entry.hop() != before).then_some(row)
    }

    pub(super) fn hop(&self, row: u16) -> Option<NextHop> {
        Some(self.rows.get(row)?.hop())
    }

    pub(super) fn target(&self, row: u16) -> Option<IpAddr> {
        Some(self.rows.get(row)?.target)
    }

    /// Every row in use and the address that it leads to.
    pub(super) fn targets(&self) -> impl Iterator<Item = (u16, IpAddr)> {
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
        let all: Vec<Route> = self.learned_routes.iter().chain(&self.given_routes).cloned().collect();
        for route in all {
            let via = match route.via {
                None => Some(Via::OnLink),
                Some(router) => self.row(router, true).map(Via::NextHop),
            };
            if let Some(via) = via {
                routes.insert(route.to.addr(), route.to.prefix_len(), via);
            }
        }
        let mut table = vec![NextHop::default(); self.rows.span()];
        for (row, entry) in self.rows.iter() {
            table[usize::from(row)] = entry.hop();
        }
        debug_assert!(table.len() <= CONTROL_ROWS);
        (table, routes)
    }
}
