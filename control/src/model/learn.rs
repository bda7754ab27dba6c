//! What the model learns from the kernel: next hops, routes, addresses, interfaces.

use super::{Learned, Model};
use crate::netlink::Target;
use ipnet::IpNet;
use lcs_pipelines::snapshot::{Interface, NextHop};
use std::net::IpAddr;

impl Model {
    /// What next hops are wanted for, with their rows: servers and routers.
    pub fn targets(&self) -> impl Iterator<Item = (u16, Target)> {
        self.next_hops.targets()
    }

    /// The router toward an address that the configuration gives a route for; without one, the address is on a link.
    pub fn router_toward(&self, address: IpAddr) -> Option<IpAddr> {
        self.next_hops.router_toward(address)
    }

    /// Counts up when [`Model::targets`] change.
    pub fn targets_version(&self) -> u64 {
        self.next_hops.version()
    }

    /// What a row leads to.
    pub fn target(&self, row: u16) -> Option<Target> {
        self.next_hops.target(row)
    }

    /// Learns the next hop toward a target; returns its row when the workers must be told.
    pub fn learn_next_hop(&mut self, target: Target, learned: Learned) -> Option<u16> {
        let (row, changed, moved) = self.next_hops.learn(target, learned)?;
        if moved {
            // Where a tunnel begins is told with a snapshot only.
            self.touch();
            return None;
        }
        self.published = None;
        changed.then_some(row)
    }

    /// The next hop of a row.
    pub fn next_hop(&self, row: u16) -> Option<NextHop> {
        self.next_hops.hop(row)
    }

    /// Why a row has no next hop, and what to do about it; `None` when it has one.
    pub fn problem(&self, row: u16) -> Option<&str> {
        self.next_hops.problem(row)
    }

    /// Learns a route toward clients: through a router, on the link itself (`Some(None)`), or that there is none.
    ///
    /// # Errors
    /// How many routes can be learned, when this is one more.
    pub fn learn_route(&mut self, to: IpNet, via: Option<Option<Target>>) -> Result<(), usize> {
        if self.next_hops.learn_route(to, via)? {
            self.touch();
        }
        Ok(())
    }

    /// A client is on a link of this host's: how it is reached is to be found out. Clients and routers are followed together,
    /// some thousand at most; further ones are not.
    pub fn learn_neighbour(&mut self, client: std::net::IpAddr) {
        // One that is no router any more has a row of its own all the same.
        let _ = self.learn_route(IpNet::from(client), Some(Some(Target::from(client))));
    }

    /// The director's own addresses are these now, besides those that the configuration gives.
    pub fn learn_addresses(&mut self, learned: &[IpAddr]) {
        let mut addresses = self.environment.given.clone();
        addresses.extend(learned.iter().filter(|a| !self.environment.given.contains(a)));
        if addresses != self.environment.addresses {
            self.environment.addresses = addresses;
            self.touch();
        }
    }

    /// The port's interfaces have other link-layer addresses or another MTU now; their number stays.
    pub fn learn_interfaces(&mut self, interfaces: Vec<Interface>) {
        if interfaces != self.environment.interfaces && interfaces.len() == self.environment.interfaces.len() {
            self.environment.interfaces.clone_from(&interfaces);
            self.next_hops.set_interfaces(interfaces);
            self.touch();
        }
    }

    /// The port's interfaces.
    pub fn interfaces(&self) -> &[Interface] {
        &self.environment.interfaces
    }
}
