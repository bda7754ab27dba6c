//! Links, addresses and neighbours as the kernel has them.
//!
//! A full dump renews what is still there and then sweeps away what the dump did not mention; notifications that arrive
//! meanwhile count as mentioned. So a table is usable throughout, and what was missed in an overrun is put right.

use super::change::Limit;
use lcs_dataplane::headers::MacAddr;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

const LINKS: usize = 65_536;
const ADDRESSES: usize = 65_536;
const NEIGHBOURS: usize = 262_144;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub name: String,
    /// `None` where it is no Ethernet interface.
    pub mac: Option<MacAddr>,
    pub mtu: u32,
    /// Set up.
    pub administratively_up: bool,
    pub carrier: bool,
    /// Resolves link-layer addresses.
    pub arp: bool,
}

impl Link {
    pub fn up(&self) -> bool {
        self.administratively_up && self.carrier
    }
}

/// An address of the director's, on one interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address {
    pub interface: u32,
    pub address: IpAddr,
    pub length: u8,
}

/// What is known about an address, beside its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AddressState {
    /// The order of arrival: the kernel prefers the first.
    pub order: u64,
    /// Not to be chosen as a source: secondary, deprecated or tentative.
    pub secondary: bool,
    pub link_local: bool,
}

/// An address on a link.
pub(super) type NeighbourKey = (u32, IpAddr);

/// How far the kernel is with a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reachability {
    /// Asked for, not known.
    Incomplete,
    /// Known, and confirmed lately or by decree.
    Fresh,
    /// Known, and not confirmed lately.
    Stale,
    /// Asked for without an answer.
    Failed,
}

/// An entry of the neighbour table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Neighbour {
    pub reachability: Reachability,
    pub mac: Option<MacAddr>,
    /// The kernel keeps it resolved of its own accord (`NTF_EXT_MANAGED`).
    pub managed: bool,
    /// Permanent, without ARP, or learned by another daemon: not ours to touch.
    pub fixed: bool,
}

impl Neighbour {
    /// The link-layer address, while it may be used.
    pub fn usable(&self) -> Option<MacAddr> {
        match self.reachability {
            Reachability::Fresh | Reachability::Stale => self.mac.filter(|m| !m.is_group() && !m.is_zero()),
            Reachability::Incomplete | Reachability::Failed => None,
        }
    }
}

/// The three tables. `mark` is that of the dump going on, or of the last one.
#[derive(Debug, Default)]
pub(super) struct Tables {
    links: HashMap<u32, (Link, u32)>,
    addresses: BTreeMap<Address, (AddressState, u32)>,
    neighbours: HashMap<NeighbourKey, (Neighbour, u32)>,
    arrivals: u64,
}

impl Tables {
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.get(&index).map(|(l, _)| l)
    }

    pub fn link_named(&self, name: &str) -> Option<(u32, &Link)> {
        self.links.iter().find(|(_, (l, _))| l.name == name).map(|(i, (l, _))| (*i, l))
    }

    pub fn neighbour(&self, key: &NeighbourKey) -> Option<&Neighbour> {
        self.neighbours.get(key).map(|(n, _)| n)
    }

    /// Every address of the director's, without loopback ones.
    pub fn own(&self) -> Vec<IpAddr> {
        let all: BTreeSet<IpAddr> = self.addresses.keys().map(|a| a.address).filter(|a| !a.is_loopback()).collect();
        all.into_iter().collect()
    }

    /// The addresses on one link, in the kernel's order.
    pub fn on_link(&self, interface: u32) -> Vec<(Address, AddressState)> {
        let first = Address { interface, address: IpAddr::from([0, 0, 0, 0]), length: 0 };
        let mut found: Vec<_> = self
            .addresses
            .range(first..)
            .take_while(|(a, _)| a.interface == interface)
            .map(|(a, (s, _))| (*a, *s))
            .collect();
        found.sort_by_key(|(_, s)| s.order);
        found
    }

    /// Sets or removes a link; gives what was there.
    pub fn set_link(&mut self, index: u32, link: Option<Link>, mark: u32) -> Result<Option<Link>, Limit> {
        Ok(match link {
            Some(link) => {
                if self.links.len() >= LINKS && !self.links.contains_key(&index) {
                    return Err(Limit::Links);
                }
                self.links.insert(index, (link, mark))
            }
            None => self.links.remove(&index),
        }
        .map(|(l, _)| l))
    }

    /// Sets or removes an address; says whether anything changed.
    pub fn set_address(&mut self, address: Address, state: Option<(bool, bool)>, mark: u32) -> Result<bool, Limit> {
        let Some((secondary, link_local)) = state else { return Ok(self.addresses.remove(&address).is_some()) };
        if let Some((known, seen)) = self.addresses.get_mut(&address) {
            *seen = mark;
            let changed = (known.secondary, known.link_local) != (secondary, link_local);
            (known.secondary, known.link_local) = (secondary, link_local);
            return Ok(changed);
        }
        if self.addresses.len() >= ADDRESSES {
            return Err(Limit::Links);
        }
        self.arrivals += 1;
        self.addresses.insert(address, (AddressState { order: self.arrivals, secondary, link_local }, mark));
        Ok(true)
    }

    /// Sets or removes a neighbour; gives what was there.
    pub fn set_neighbour(
        &mut self,
        key: NeighbourKey,
        neighbour: Option<Neighbour>,
        mark: u32,
    ) -> Result<Option<Neighbour>, Limit> {
        Ok(match neighbour {
            Some(neighbour) => {
                if self.neighbours.len() >= NEIGHBOURS && !self.neighbours.contains_key(&key) {
                    return Err(Limit::Neighbours);
                }
                self.neighbours.insert(key, (neighbour, mark))
            }
            None => self.neighbours.remove(&key),
        }
        .map(|(n, _)| n))
    }

    /// Removes the links that the dump `mark` did not mention; gives them.
    pub fn sweep_links(&mut self, mark: u32) -> Vec<(u32, Link)> {
        self.links.extract_if(|_, (_, seen)| *seen != mark).map(|(i, (l, _))| (i, l)).collect()
    }

    /// Removes the addresses that the dump `mark` did not mention; says whether there were any.
    pub fn sweep_addresses(&mut self, mark: u32) -> bool {
        let before = self.addresses.len();
        self.addresses.retain(|_, (_, seen)| *seen == mark);
        self.addresses.len() != before
    }

    /// Removes the neighbours of one family that the dump `mark` did not mention; gives them.
    pub fn sweep_neighbours(&mut self, v4: bool, mark: u32) -> Vec<(NeighbourKey, Neighbour)> {
        self.neighbours
            .extract_if(|(_, a), (_, seen)| a.is_ipv4() == v4 && *seen != mark)
            .map(|(k, (n, _))| (k, n))
            .collect()
    }
}
