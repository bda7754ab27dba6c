//! The kernel's routes, tables `local` and `main`, by longest prefix.

use super::change::{ClientRoute, Limit};
use super::message::{RouteAction, RouteEvent, Table};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Routes kept at most, of both families and tables: twice a full Internet table.
const ROUTES: usize = 2_097_152;

/// What a route does with packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Unicast,
    /// Delivered or answered by this machine, or to many: not one host elsewhere. Holds the words for the user.
    NotAHost(&'static str),
    /// Refused; holds the kind's name.
    Refused(&'static str),
}

/// One path of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Path {
    pub interface: u32,
    pub gateway: Option<IpAddr>,
}

/// One route of a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub kind: Kind,
    pub metric: u32,
    /// More than one for an equal-cost multipath route.
    pub paths: Vec<Path>,
    pub mtu: Option<u32>,
    pub source: Option<IpAddr>,
}

/// The routes of one prefix.
#[derive(Debug, Default)]
struct Slot {
    /// Lowest metric first; at equal metric in the kernel's order. With each the mark of the dump that last mentioned it.
    routes: Vec<(Route, u32)>,
    /// What was last said about the prefix.
    said: Option<ClientRoute>,
    /// Waits in [`Fib::pending`].
    pending: bool,
}

/// Prefix and length, naming a slot of the table `main`.
pub(super) type Prefix = (IpAddr, u8);

/// Slots by prefix length, longest first.
type Lengths = Vec<(u8, HashMap<u128, Slot>)>;

#[derive(Debug, Default)]
pub(super) struct Fib {
    /// By [`place`].
    families: [Lengths; 4],
    routes: usize,
    /// Prefixes of `main` about which something may have to be said.
    pending: std::collections::VecDeque<Prefix>,
}

fn place(table: Table, v4: bool) -> usize {
    usize::from(table == Table::Main) * 2 + usize::from(v4)
}

fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(a) => (u128::from(u32::from(a)), 32),
        IpAddr::V6(a) => (u128::from(a), 128),
    }
}

fn masked(address: u128, width: u8, length: u8) -> u128 {
    let host = width - length;
    if host == 128 { 0 } else { address >> host << host }
}

fn address(bits: u128, v4: bool) -> IpAddr {
    if v4 { Ipv4Addr::from(bits as u32).into() } else { Ipv6Addr::from(bits).into() }
}

/// What a change of a route leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Nothing,
    Changed,
    /// The kernel's message does not say which of several routes is meant: dump the routes again.
    Ambiguous,
}

impl Fib {
    /// Takes a notification, or one message of a dump.
    pub fn apply(&mut self, event: RouteEvent, dumped: bool, mark: u32) -> Result<Outcome, Limit> {
        let (key, width) = bits(event.prefix);
        if event.length > width {
            return Ok(Outcome::Nothing);
        }
        let key = masked(key, width, event.length);
        let lengths = &mut self.families[place(event.table, width == 32)];
        let at = lengths.partition_point(|(l, _)| *l > event.length);
        let present = lengths.get(at).is_some_and(|(l, _)| *l == event.length);
        if event.action == RouteAction::Remove && !present {
            return Ok(Outcome::Nothing);
        }
        if event.action != RouteAction::Remove && self.routes >= ROUTES {
            return Err(Limit::Routes);
        }
        if !present {
            lengths.insert(at, (event.length, HashMap::new()));
        }
        let slot = lengths[at].1.entry(key).or_default();
        let before = slot.routes.len();
        let outcome = slot.apply(event.route, event.action, width == 128, dumped, mark);
        self.routes = self.routes + slot.routes.len() - before;
        if outcome != Outcome::Nothing && event.table == Table::Main {
            slot.queue(&mut self.pending, (address(key, width == 32), event.length));
        }
        if slot.routes.is_empty() && !slot.pending {
            lengths[at].1.remove(&key);
            if lengths[at].1.is_empty() {
                lengths.remove(at);
            }
        }
        Ok(outcome)
    }

    /// Removes the routes of one family that the dump `mark` did not mention; says whether there were any.
    pub fn sweep(&mut self, v4: bool, mark: u32) -> bool {
        let before = self.routes;
        for table in [Table::Local, Table::Main] {
            for (length, slots) in &mut self.families[place(table, v4)] {
                for (key, slot) in slots.iter_mut() {
                    let had = slot.routes.len();
                    slot.routes.retain(|(_, seen)| *seen == mark);
                    self.routes -= had - slot.routes.len();
                    if had != slot.routes.len() && table == Table::Main {
                        slot.queue(&mut self.pending, (address(*key, v4), *length));
                    }
                }
                slots.retain(|_, s| !s.routes.is_empty() || s.pending);
            }
            self.families[place(table, v4)].retain(|(_, slots)| !slots.is_empty());
        }
        self.routes != before
    }

    /// The routes of the longest prefix of one table that holds `address`.
    fn longest(&self, table: Table, address: IpAddr) -> Option<&Slot> {
        let (key, width) = bits(address);
        self.families[place(table, width == 32)]
            .iter()
            .filter_map(|(l, slots)| slots.get(&masked(key, width, *l)))
            .find(|s| !s.routes.is_empty())
    }

    /// The routes for an address, best first: those of the longest prefix in `local`, else in `main` (as the kernel's
    /// standard rules have it). Empty when there is none.
    pub fn lookup(&self, address: IpAddr) -> impl Iterator<Item = &Route> {
        self.longest(Table::Local, address)
            .or_else(|| self.longest(Table::Main, address))
            .into_iter()
            .flat_map(|s| s.routes.iter().map(|(r, _)| r))
    }

    /// Looks again at every prefix that has a path through `interface`.
    pub fn link_changed(&mut self, interface: u32) {
        for v4 in [false, true] {
            for (length, slots) in &mut self.families[place(Table::Main, v4)] {
                for (key, slot) in slots.iter_mut() {
                    let concerned = slot.said.as_ref().is_some_and(|r| r.interface == interface)
                        || slot.routes.iter().any(|(r, _)| r.paths.iter().any(|p| p.interface == interface));
                    if concerned {
                        slot.queue(&mut self.pending, (address(*key, v4), *length));
                    }
                }
            }
        }
    }

    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The next prefix of `main` whose route toward clients is not what was last said; `export` makes a client route
    /// of the best route, or none.
    pub fn next_said(
        &mut self,
        export: impl Fn(Prefix, &Route) -> Option<ClientRoute>,
    ) -> Option<(Prefix, Option<ClientRoute>)> {
        while let Some(prefix) = self.pending.pop_front() {
            let (key, width) = bits(prefix.0);
            let lengths = &mut self.families[place(Table::Main, width == 32)];
            let Some(at) = lengths.iter().position(|(l, _)| *l == prefix.1) else { continue };
            let Some(slot) = lengths[at].1.get_mut(&key) else { continue };
            slot.pending = false;
            let now = slot.routes.first().and_then(|(r, _)| export(prefix, r));
            let changed = now != slot.said;
            slot.said.clone_from(&now);
            if slot.routes.is_empty() {
                lengths[at].1.remove(&key);
                if lengths[at].1.is_empty() {
                    lengths.remove(at);
                }
            }
            if changed {
                return Some((prefix, now));
            }
        }
        None
    }

    /// Every route toward clients that has been said.
    pub fn said(&self) -> Vec<ClientRoute> {
        let main = [place(Table::Main, true), place(Table::Main, false)];
        let slots = main.into_iter().flat_map(|p| &self.families[p]).flat_map(|(_, slots)| slots.values());
        slots.filter_map(|s| s.said.clone()).collect()
    }
}

impl Slot {
    fn queue(&mut self, pending: &mut std::collections::VecDeque<Prefix>, prefix: Prefix) {
        if !self.pending {
            self.pending = true;
            pending.push_back(prefix);
        }
    }

    fn apply(&mut self, route: Route, action: RouteAction, v6: bool, dumped: bool, mark: u32) -> Outcome {
        let known = self.routes.iter().position(|(r, _)| *r == route);
        let group = |routes: &[(Route, u32)]| {
            let first = routes.partition_point(|(r, _)| r.metric < route.metric);
            first..routes.partition_point(|(r, _)| r.metric <= route.metric)
        };
        if action == RouteAction::Remove {
            let range = group(&self.routes);
            return match known {
                Some(at) => {
                    self.routes.remove(at);
                    Outcome::Changed
                }
                None if range.is_empty() => Outcome::Nothing,
                // One path of a multipath route, or a route whose metrics were changed without our knowledge.
                None if range.len() == 1 => {
                    self.routes.remove(range.start);
                    Outcome::Ambiguous
                }
                None => Outcome::Ambiguous,
            };
        }
        if let Some(at) = known {
            // A dump lists the routes of one metric in the kernel's order, so what it mentions goes to the end.
            let mut entry = self.routes.remove(at);
            entry.1 = mark;
            let to = if dumped { group(&self.routes).end } else { at };
            self.routes.insert(to, entry);
            return if to == at { Outcome::Nothing } else { Outcome::Changed };
        }
        let range = group(&self.routes);
        // IPv6 tells of a new path of a multipath route as of a new route.
        let ambiguous = v6 && !dumped && !range.is_empty() && action != RouteAction::Replace;
        match action {
            RouteAction::Replace if !range.is_empty() => self.routes[range.start] = (route, mark),
            RouteAction::Add if !dumped => self.routes.insert(range.start, (route, mark)),
            _ => self.routes.insert(range.end, (route, mark)),
        }
        if ambiguous { Outcome::Ambiguous } else { Outcome::Changed }
    }
}
