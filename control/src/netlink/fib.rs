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
        // Most prefixes have one route: room for four would be most of the table's memory.
        self.routes.reserve_exact(1);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn event(action: RouteAction, prefix: &str, length: u8, metric: u32, interface: u32) -> RouteEvent {
        let paths = vec![Path { interface, gateway: None }];
        let route = Route { kind: Kind::Unicast, metric, paths, mtu: None, source: None };
        RouteEvent { action, table: Table::Main, prefix: ip(prefix), length, route }
    }

    fn interfaces(fib: &Fib, address: &str) -> Vec<u32> {
        fib.lookup(ip(address)).map(|r| r.paths[0].interface).collect()
    }

    #[test]
    fn the_longest_prefix_and_the_lowest_metric_come_first() {
        let mut fib = Fib::default();
        for (prefix, length, metric, interface) in [
            ("0.0.0.0", 0, 5, 1),
            ("10.0.0.0", 8, 9, 2),
            ("10.0.0.0", 8, 3, 3),
            ("10.1.0.0", 16, 0, 4),
            ("::", 0, 0, 5),
        ] {
            fib.apply(event(RouteAction::Add, prefix, length, metric, interface), false, 0).unwrap();
        }
        assert_eq!(interfaces(&fib, "192.0.2.1"), [1]);
        assert_eq!(interfaces(&fib, "10.200.0.1"), [3, 2]);
        assert_eq!(interfaces(&fib, "10.1.255.255"), [4]);
        assert_eq!(interfaces(&fib, "2001:db8::1"), [5]);
        let mut local = event(RouteAction::Add, "10.1.0.1", 32, 0, 6);
        local.table = Table::Local;
        local.route.kind = Kind::NotAHost("the director's own");
        fib.apply(local, false, 0).unwrap();
        assert_eq!(interfaces(&fib, "10.1.0.1"), [6]);
        let too_long = event(RouteAction::Add, "10.1.0.1", 33, 0, 7);
        assert_eq!(fib.apply(too_long, false, 0), Ok(Outcome::Nothing));
    }

    #[test]
    fn routes_of_one_metric_are_added_appended_replaced_and_removed_as_the_kernel_does() {
        let mut fib = Fib::default();
        let mut apply = |action, interface, expected: &[u32]| {
            let outcome = fib.apply(event(action, "10.0.0.0", 8, 0, interface), false, 0).unwrap();
            assert_eq!(interfaces(&fib, "10.0.0.1"), expected);
            outcome
        };
        assert_eq!(apply(RouteAction::Add, 1, &[1]), Outcome::Changed);
        assert_eq!(apply(RouteAction::Append, 2, &[1, 2]), Outcome::Changed);
        assert_eq!(apply(RouteAction::Add, 3, &[3, 1, 2]), Outcome::Changed);
        assert_eq!(apply(RouteAction::Append, 2, &[3, 1, 2]), Outcome::Nothing);
        assert_eq!(apply(RouteAction::Replace, 4, &[4, 1, 2]), Outcome::Changed);
        assert_eq!(apply(RouteAction::Remove, 1, &[4, 2]), Outcome::Changed);
        assert_eq!(apply(RouteAction::Remove, 9, &[4, 2]), Outcome::Ambiguous);
        assert_eq!(apply(RouteAction::Remove, 4, &[2]), Outcome::Changed);
        // One path of it, it seems: what is left of it is only known from a dump.
        assert_eq!(apply(RouteAction::Remove, 9, &[]), Outcome::Ambiguous);
        assert_eq!(apply(RouteAction::Remove, 9, &[]), Outcome::Nothing);
    }

    #[test]
    fn a_dump_brings_the_kernels_order_and_sweeps_the_rest() {
        let mut fib = Fib::default();
        for interface in [1, 2, 3] {
            fib.apply(event(RouteAction::Append, "10.0.0.0", 8, 0, interface), false, 1).unwrap();
        }
        fib.apply(event(RouteAction::Add, "11.0.0.0", 8, 0, 1), false, 1).unwrap();
        fib.apply(event(RouteAction::Add, "2001:db8::", 32, 0, 1), false, 1).unwrap();
        for interface in [3, 1] {
            fib.apply(event(RouteAction::Add, "10.0.0.0", 8, 0, interface), true, 2).unwrap();
        }
        assert!(fib.sweep(true, 2));
        assert_eq!(interfaces(&fib, "10.0.0.1"), [3, 1]);
        assert!(interfaces(&fib, "11.0.0.1").is_empty());
        assert_eq!(interfaces(&fib, "2001:db8::1"), [1], "the other family has its own dump");
        assert!(!fib.sweep(true, 2));
        assert_eq!(fib.routes, 3);
    }

    #[test]
    fn a_prefix_is_said_when_its_best_route_changes_and_its_place_is_given_up_with_it() {
        let mut fib = Fib::default();
        let export = |(prefix, length): Prefix, route: &Route| {
            let Path { interface, gateway } = route.paths[0];
            Some(ClientRoute { prefix, length, gateway, interface, name: String::new(), mtu: None })
        };
        let prefix = (ip("10.0.0.0"), 8);
        fib.apply(event(RouteAction::Add, "10.0.0.0", 8, 5, 1), false, 0).unwrap();
        assert_eq!(fib.next_said(export).unwrap().1.unwrap().interface, 1);
        fib.apply(event(RouteAction::Add, "10.0.0.0", 8, 9, 2), false, 0).unwrap();
        assert_eq!(fib.next_said(export), None, "a worse route");
        fib.apply(event(RouteAction::Remove, "10.0.0.0", 8, 5, 1), false, 0).unwrap();
        assert_eq!(fib.next_said(export).unwrap().1.unwrap().interface, 2);
        fib.link_changed(2);
        assert_eq!(fib.next_said(export), None);
        fib.apply(event(RouteAction::Remove, "10.0.0.0", 8, 9, 2), false, 0).unwrap();
        assert_eq!(fib.next_said(export), Some((prefix, None)));
        assert!(fib.families.iter().all(Vec::is_empty));
        assert_eq!(fib.routes, 0);
    }
}
