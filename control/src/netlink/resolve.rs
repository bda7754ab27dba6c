//! From a target to its next hop: route, interface, neighbour.

use super::change::{ClientRoute, Hop, Resolution, Target, Unresolved};
use super::fib::{Fib, Kind, Path, Prefix, Route};
use super::neighbours::Wanted;
use super::tables::{Link, NeighbourKey, Tables};
use std::net::IpAddr;
use std::time::Instant;

/// The director's interfaces among the kernel's links.
#[derive(Clone, Copy)]
pub(super) struct Ours<'a> {
    /// Names of the director's interfaces.
    pub interfaces: &'a [String],
    pub tables: &'a Tables,
}

/// What a resolution is made from.
pub(super) struct Resolver<'a> {
    pub ours: Ours<'a>,
    pub fib: &'a Fib,
    pub wanted: &'a Wanted,
    pub now: Instant,
}

/// What was found out about a target.
pub(super) struct Found {
    pub resolution: Resolution,
    /// The neighbour that it depends on, and that has to be kept resolved.
    pub neighbour: Option<NeighbourKey>,
}

impl<'a> Ours<'a> {
    fn has(self, link: &Link) -> bool {
        self.interfaces.contains(&link.name)
    }

    /// The director's interface that stands behind an index.
    fn link(self, index: u32) -> Option<&'a Link> {
        self.tables.link(index).filter(|l| self.has(l))
    }

    /// Of several paths the first that is ours and up, else the first.
    fn path(self, route: &Route) -> Option<Path> {
        let usable = |p: &&Path| self.link(p.interface).is_some_and(Link::up);
        route.paths.iter().find(usable).or_else(|| route.paths.first()).copied()
    }

    /// What a route means for clients: `None` where it does not lead through one of the director's interfaces.
    pub fn client_route(self, (prefix, length): Prefix, route: &Route) -> Option<ClientRoute> {
        // Link-local clients are answered on the link that they come from.
        if route.kind != Kind::Unicast || is_link_local(prefix) {
            return None;
        }
        let Path { interface, gateway } = self.path(route)?;
        let name = self.link(interface)?.name.clone();
        Some(ClientRoute { prefix, length, gateway, interface, name, mtu: route.mtu })
    }
}

impl Resolver<'_> {
    /// The next hop of `target`; `before` is the interface that it was last reached through, if any.
    pub fn resolve(&self, target: Target, before: Option<&str>) -> Found {
        match self.place(target, before) {
            Ok((neighbour, route)) => {
                Found { resolution: self.hop(target, neighbour, route), neighbour: Some(neighbour) }
            }
            Err(reason) => Found { resolution: Err(reason), neighbour: None },
        }
    }

    /// The neighbour to send to, on one of the director's interfaces that is up, and the route that leads there.
    fn place(&self, target: Target, before: Option<&str>) -> Result<(NeighbourKey, Option<&Route>), Unresolved> {
        let (path, route) = match target.interface {
            Some(interface) => (Path { interface, gateway: None }, None),
            None => {
                let (path, route) = self.route(target.address).map_err(|e| self.down_instead(target, before, e))?;
                (path, Some(route))
            }
        };
        let Some(link) = self.ours.tables.link(path.interface) else {
            return Err(missing(before.map_or_else(|| format!("number {}", path.interface), str::to_owned)));
        };
        if !self.ours.has(link) {
            let wrong =
                Unresolved::WrongInterface { interface: link.name.clone(), ours: self.ours.interfaces.join(", ") };
            return Err(self.down_instead(target, before, wrong));
        }
        if !link.up() {
            return Err(link_down(link));
        }
        if link.mac.is_none() || !link.arp {
            return Err(Unresolved::NotEthernet { interface: link.name.clone() });
        }
        Ok(((path.interface, path.gateway.unwrap_or(target.address)), route))
    }

    fn route(&self, address: IpAddr) -> Result<(Path, &Route), Unresolved> {
        // Every link has a route for link-local addresses: without a link given, one of ours is meant.
        let ours = |r: &&Route| r.paths.iter().any(|p| self.ours.link(p.interface).is_some());
        let on_ours = is_link_local(address).then(|| self.fib.lookup(address).find(ours)).flatten();
        let Some(route) = on_ours.or_else(|| self.fib.lookup(address).next()) else {
            return Err(Unresolved::NoRoute { refused: None });
        };
        match route.kind {
            Kind::NotAHost(kind) => Err(Unresolved::NotAHost { kind: kind.into() }),
            Kind::Refused(kind) => Err(Unresolved::NoRoute { refused: Some(kind.into()) }),
            Kind::Unicast => match self.ours.path(route) {
                Some(path) => Ok((path, route)),
                None => Err(Unresolved::NoRoute { refused: None }),
            },
        }
    }

    /// When an interface goes down, the kernel takes its routes away, so that there is no route, or another one: say
    /// that the interface is down, which is why.
    fn down_instead(&self, target: Target, before: Option<&str>, reason: Unresolved) -> Unresolved {
        if matches!(reason, Unresolved::NotAHost { .. }) {
            return reason;
        }
        let on_its_network =
            |index| self.ours.tables.on_link(index).iter().any(|(a, _)| contains(a.address, a.length, target.address));
        let down = self.ours.interfaces.iter().find_map(|name| match self.ours.tables.link_named(name) {
            Some((index, link)) => {
                (!link.up() && (before == Some(name) || on_its_network(index))).then(|| link_down(link))
            }
            None => (before == Some(name)).then(|| missing(name.clone())),
        });
        down.unwrap_or(reason)
    }

    fn hop(&self, target: Target, neighbour: NeighbourKey, route: Option<&Route>) -> Resolution {
        let (interface, next) = neighbour;
        let Some((link, source)) = self.ours.tables.link(interface).and_then(|l| Some((l, l.mac?))) else {
            return Err(Unresolved::NoRoute { refused: None });
        };
        let known = match self.ours.tables.neighbour(&neighbour) {
            Some(entry) => entry.usable().or_else(|| {
                // An entry made anew, in place of one that was dropped: the grace holds until it has failed.
                self.wanted.last_known(self.now, &neighbour)
            }),
            None => self.wanted.last_known(self.now, &neighbour),
        };
        let Some(destination) = known else {
            let trouble = self.wanted.trouble(&neighbour);
            return Err(Unresolved::NoNeighbour {
                neighbour: next,
                interface: link.name.clone(),
                failed: trouble.failed,
                error: trouble.error,
            });
        };
        let mtu = route.and_then(|r| r.mtu).map_or(link.mtu, |m| m.min(link.mtu));
        Ok(Hop {
            interface,
            name: link.name.clone(),
            destination,
            source,
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
            source_address: route.and_then(|r| r.source).or_else(|| self.source(interface, target.address, next)),
            gateway: (next != target.address).then_some(next),
        })
    }

    /// The address to send from: on the next hop's network if there is one, of a wide enough scope, not deprecated.
    fn source(&self, interface: u32, target: IpAddr, next: IpAddr) -> Option<IpAddr> {
        let addresses = self.ours.tables.on_link(interface);
        let candidates = || {
            addresses.iter().filter(|(a, s)| {
                a.address.is_ipv4() == target.is_ipv4() && (target.is_ipv4() || s.link_local == is_link_local(target))
            })
        };
        let near = candidates().find(|(a, s)| !s.secondary && contains(a.address, a.length, next));
        near.or_else(|| candidates().find(|(_, s)| !s.secondary))
            .or_else(|| candidates().next())
            .map(|(a, _)| a.address)
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(a) if a.is_unicast_link_local())
}

fn missing(interface: String) -> Unresolved {
    Unresolved::LinkDown { interface, missing: true, administratively: false }
}

fn link_down(link: &Link) -> Unresolved {
    let administratively = !link.administratively_up;
    Unresolved::LinkDown { interface: link.name.clone(), missing: false, administratively }
}

/// Whether the first `length` bits of both are the same.
pub(super) fn contains(network: IpAddr, length: u8, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(n), IpAddr::V4(a)) => (u32::from(n) ^ u32::from(a)).leading_zeros() >= u32::from(length.min(32)),
        (IpAddr::V6(n), IpAddr::V6(a)) => (u128::from(n) ^ u128::from(a)).leading_zeros() >= u32::from(length.min(128)),
        _ => false,
    }
}
