//! A host of the testbed: a namespace with what is needed to set it up.

use std::net::IpAddr;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::addresses::Place;
use crate::decapsulator::Decapsulator;
use crate::error::{Error, Result};
use crate::ethtool::Ethtool;
use crate::netns::Namespace;
use crate::rtnl::Rtnl;

/// How long links may take to pass frames; milliseconds in practice.
const PATIENCE: Duration = Duration::from_secs(10);

/// A network namespace that plays a host.
#[derive(Debug)]
pub struct Host {
    name: String,
    namespace: Namespace,
    rtnl: Rtnl,
    ethtool: Ethtool,
}

impl Host {
    /// A host with a loopback, and no other interface.
    ///
    /// It's quiet and takes what a tunnel or a director brings it: no duplicate address detection, router
    /// solicitation or redirects, and no reverse-path filter.
    pub fn create(name: &str) -> Result<Self> {
        let namespace = Namespace::create()?;
        namespace.sysctls(&[
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv4/conf/all/send_redirects", "0"),
            ("net/ipv4/conf/default/send_redirects", "0"),
            ("net/ipv4/conf/all/accept_redirects", "0"),
            ("net/ipv4/conf/default/accept_redirects", "0"),
            ("net/ipv4/ip_forward", "0"),
            ("net/ipv6/conf/all/disable_ipv6", "0"),
            ("net/ipv6/conf/default/disable_ipv6", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"),
            ("net/ipv6/conf/default/router_solicitations", "0"),
            ("net/ipv6/conf/all/accept_redirects", "0"),
            ("net/ipv6/conf/default/accept_redirects", "0"),
        ])?;
        let rtnl = Rtnl::open_in(&namespace)?;
        let ethtool = Ethtool::open_in(&namespace)?;
        rtnl.set_up("lo", true)?;
        Ok(Host { name: name.into(), namespace, rtnl, ethtool })
    }

    /// Its name, for messages and threads; no one outside this process knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its links, addresses, routes and neighbours.
    pub fn rtnl(&self) -> &Rtnl {
        &self.rtnl
    }

    /// The drivers of its links.
    pub fn ethtool(&self) -> &Ethtool {
        &self.ethtool
    }

    /// Runs `action` on a thread in this host and waits for it; see [`Namespace::run`].
    pub fn run<T: Send>(&self, action: impl FnOnce() -> T + Send) -> Result<T> {
        self.namespace.run(action)
    }

    /// Starts a thread in this host, named after host and `task`; see [`Namespace::spawn`].
    pub fn spawn<T: Send + 'static>(
        &self,
        task: &str,
        action: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>> {
        self.namespace.spawn(&format!("{} {task}", self.name), action)
    }

    /// Makes a virtual address one of this host's own without telling the network, as a real server behind direct
    /// routing or a tunnel needs it: packets to the address are accepted, but ARP and neighbour discovery for it
    /// stay unanswered, so that clients find the director.
    ///
    /// The address stands on the loopback. IPv4: `arp_ignore` 1 answers only for addresses of the interface asked,
    /// and `arp_announce` 2 keeps the address out of our own questions. IPv6 needs no setting: the kernel answers a
    /// neighbour solicitation only for an address of the interface that it came in on, and hasn't joined the
    /// address's solicited-node group there.
    pub fn add_hidden_address(&self, address: IpAddr) -> Result<()> {
        if address.is_ipv4() {
            self.namespace
                .sysctls(&[("net/ipv4/conf/all/arp_ignore", "1"), ("net/ipv4/conf/all/arp_announce", "2")])?;
        }
        self.rtnl.add_address("lo", IpNet::from(address))
    }

    /// Lets this host accept IP-in-IP of every kind that is addressed to it; the inner destination must be one of
    /// its addresses ([`Self::add_hidden_address`]).
    pub fn decapsulate(&self) -> Result<Decapsulator> {
        Decapsulator::start(&self.namespace, "tunnel0")
    }

    pub(super) fn add_addresses(&self, link: &str, place: Place) -> Result<()> {
        [false, true].into_iter().try_for_each(|ipv6| self.rtnl.add_address(link, place.interface_address(ipv6)))
    }

    /// Waits until every link that is up passes frames.
    pub(super) fn wait_until_running(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let waiting = self.rtnl.links()?.into_iter().find(|link| link.up && !link.running);
            let Some(link) = waiting else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(Error::Timeout {
                    what: format!("a carrier on the interface {} of {}", link.name, self.name),
                    seconds: PATIENCE.as_secs(),
                    mend: "is its other end up?".into(),
                });
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}
