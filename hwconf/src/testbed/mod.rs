//! A network in a process: a client, a director and real servers, each in a namespace of its own, joined by a
//! switch (a bridge, in a namespace of its own too) with veths.
//!
//! ```text
//!   one arm                                      two arms
//!
//!   client    director   server1 … serverN       client   director    server1 … serverN
//!    eth0       eth0      eth0       eth0         eth0   eth0   eth1    eth0       eth0
//!      └──────────┴─────────┴──────────┘            └──────┘      └───────┴──────────┘
//!              bridge "lan"                        bridge "clients"  bridge "servers"
//! ```
//!
//! Clients and servers have different subnets, also on one bridge, so that a server's answer takes the way that its
//! routes say ([`Plan::return_path`]) and not a short cut. See [`addresses`] for who has which address.
//!
//! Offloads are as a director that sees frames needs them: transmit checksums (and with them segmentation) are off
//! wherever a veth sends, at hosts and at the switch's ports (which finish what a host left undone), so frames are
//! no longer than the MTU and carry full checksums; joining (GRO) is off at every end.
//!
//! Nothing has a name outside, so all of it is gone when the [`Testbed`] is dropped, and when the process ends in
//! whatever way (see [`crate::netns`]).

pub mod addresses;
mod host;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

pub use host::Host;

use crate::error::{Error, Result};
use crate::ethtool::Offload;
use crate::rtnl::{Link, Route, VethEnd};
use addresses::{CLIENT_NET, Place, SERVER_NET};

/// Whether clients and servers meet the director on one interface or on two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arms {
    /// One bridge; the director's `eth0` sees both.
    #[default]
    One,
    /// Two bridges; the director's `eth0` sees the clients, its `eth1` the servers.
    Two,
}

/// How a server's answers reach the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReturnPath {
    /// The director is the servers' default gateway (NAT, full NAT).
    #[default]
    Director,
    /// The clients' subnet is on the server's own link (direct routing, tunnel). Needs one arm.
    Direct,
}

/// What to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// One interface or two.
    pub arms: Arms,
    /// Real servers, 1 to 100.
    pub servers: u8,
    /// Addresses of the client, 1 to 50.
    pub clients: u8,
    /// Receive and transmit queues of the director's legs, 1 to 64. With several, the frames of a connection in one
    /// direction come on the queue that a hash chose, and those of the other direction on any other: a veth knows
    /// no receive-side scaling by endpoint.
    pub queues: u32,
    /// How answers reach the client.
    pub return_path: ReturnPath,
    /// MTU of the client's leg in bytes.
    pub client_mtu: u32,
    /// MTU of the director's legs in bytes.
    pub director_mtu: u32,
    /// MTU of the servers' legs in bytes.
    pub server_mtu: u32,
}

impl Default for Plan {
    /// One arm, three servers, one client, one queue, answers through the director, 1,500 bytes everywhere.
    fn default() -> Self {
        Plan {
            arms: Arms::One,
            servers: 3,
            clients: 1,
            queues: 1,
            return_path: ReturnPath::Director,
            client_mtu: 1500,
            director_mtu: 1500,
            server_mtu: 1500,
        }
    }
}

impl Plan {
    fn check(&self) -> Result<()> {
        let refuse = |what: String, mend: &str| Err(Error::Invalid { what, mend: mend.into() });
        if !(1..=100).contains(&self.servers) {
            return refuse(format!("a testbed with {} servers", self.servers), "give it 1 to 100");
        }
        if !(1..=50).contains(&self.clients) {
            return refuse(format!("a testbed with {} client addresses", self.clients), "give it 1 to 50");
        }
        if !(1..=64).contains(&self.queues) {
            return refuse(format!("a testbed with {} queues", self.queues), "give it 1 to 64");
        }
        for (leg, mtu) in [("client", self.client_mtu), ("director", self.director_mtu), ("server", self.server_mtu)] {
            // Below 1,280 the kernel takes IPv6 off the link (RFC 8200 §5); above 65,535 veth ends.
            if !(1280..=65_535).contains(&mtu) {
                return refuse(format!("an MTU of {mtu} on the {leg}'s leg"), "give it 1280 to 65535 bytes");
            }
        }
        if (self.arms, self.return_path) == (Arms::Two, ReturnPath::Direct) {
            return refuse(
                "a testbed with two arms and a direct return path".into(),
                "servers behind a second arm have no link to the client: take one arm, or answers through the director",
            );
        }
        Ok(())
    }
}

/// The name of the only, or client-side, interface of every host.
pub const ETH0: &str = "eth0";
/// The name of the director's server-side interface where it has two arms.
pub const ETH1: &str = "eth1";

const DIRECTOR: &str = "director";

/// A built network. Dropping it takes it down.
#[derive(Debug)]
pub struct Testbed {
    plan: Plan,
    switch: Host,
    client: Host,
    director: Host,
    servers: Vec<Host>,
}

impl Testbed {
    /// Builds what `plan` says and waits until every link passes frames. Needs root.
    pub fn build(plan: Plan) -> Result<Self> {
        plan.check()?;
        let switch = Host::create("switch")?;
        // The switch has no business with IP: without it, no router solicitations from its ports.
        switch.namespace().sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        let bed = Testbed {
            plan,
            switch,
            client: Host::create("client")?,
            director: Host::create(DIRECTOR)?,
            servers: (1..=plan.servers).map(|n| Host::create(&format!("server{n}"))).collect::<Result<_>>()?,
        };
        let (client_bridge, server_bridge) = match plan.arms {
            Arms::One => ("lan", "lan"),
            Arms::Two => ("clients", "servers"),
        };
        bed.add_bridge(client_bridge)?;
        bed.plug(&bed.client, ETH0, client_bridge, Place::Client(0), plan.client_mtu)?;
        for client in 1..plan.clients {
            bed.client.add_addresses(ETH0, Place::Client(client))?;
        }
        bed.plug(&bed.director, ETH0, client_bridge, Place::DirectorToClients, plan.director_mtu)?;
        match plan.arms {
            Arms::One => bed.director.add_addresses(ETH0, Place::DirectorToServers)?,
            Arms::Two => {
                bed.add_bridge(server_bridge)?;
                bed.plug(&bed.director, ETH1, server_bridge, Place::DirectorToServers, plan.director_mtu)?;
            }
        }
        for (server, at) in bed.servers.iter().zip(0..) {
            bed.plug(server, ETH0, server_bridge, Place::Server(at), plan.server_mtu)?;
        }
        bed.set_routes()?;
        bed.hosts().try_for_each(Host::wait_until_running)?;
        Ok(bed)
    }

    fn add_bridge(&self, name: &str) -> Result<()> {
        self.switch.rtnl().create_bridge(name)?;
        self.switch.rtnl().set_up(name, true)
    }

    /// Joins `host` to a bridge by a veth whose end in the host is `link`.
    fn plug(&self, host: &Host, link: &str, bridge: &str, place: Place, mtu: u32) -> Result<()> {
        let port = port_of(host, link);
        // Several queues elsewhere would leave their mark on the frame, and the switch would take the mark for a
        // receive queue and not hash: all frames would meet on the director's first queue.
        let queues = if host.name() == DIRECTOR { self.plan.queues } else { 1 };
        let inside = VethEnd { name: link, namespace: Some(host.namespace()), mac: Some(place.mac()), mtu, queues };
        let outside = VethEnd { name: &port, namespace: None, mac: None, mtu, queues };
        self.switch.rtnl().create_veth(&outside, &inside)?;
        for (ethtool, name) in [(host.ethtool(), link), (self.switch.ethtool(), port.as_str())] {
            ethtool.set_offload(name, Offload::Gro, false)?;
            ethtool.set_offload(name, Offload::TxChecksum, false)?;
        }
        self.switch.rtnl().set_master(&port, Some(bridge))?;
        self.switch.rtnl().set_up(&port, true)?;
        host.rtnl().set_up(link, true)?;
        host.add_addresses(link, place)
    }

    /// Cuts the cable of `host`'s interface `link`: no frame passes any more between the host and its bridge, until
    /// somebody carries frames between the two ends that are left. They stand in the switch's namespace
    /// ([`Self::switch`]), offloads off as everywhere: the first leads to the host, the second to the bridge.
    pub fn cut(&self, host: &Host, link: &str) -> Result<[String; 2]> {
        let (switch, port) = (&self.switch, port_of(host, link));
        let Link { master, mtu, .. } = switch.rtnl().link(&port)?;
        let bridge = switch.rtnl().links()?.into_iter().find(|link| Some(link.index) == master);
        let Some(bridge) = bridge.map(|bridge| bridge.name) else {
            return Err(Error::Invalid {
                what: format!("cut the cable of {} at {link}", host.name()),
                mend: "it has been cut already: cut each once".into(),
            });
        };
        let (end, patch) = (format!("x-{port}"), format!("y-{port}"));
        let veth = |name| VethEnd { name, namespace: None, mac: None, mtu, queues: 1 };
        switch.rtnl().create_veth(&veth(&end), &veth(&patch))?;
        switch.rtnl().set_master(&port, None)?;
        switch.rtnl().set_master(&patch, Some(&bridge))?;
        for name in [&end, &patch] {
            switch.ethtool().set_offload(name, Offload::Gro, false)?;
            switch.ethtool().set_offload(name, Offload::TxChecksum, false)?;
            switch.rtnl().set_up(name, true)?;
        }
        switch.wait_until_running()?;
        Ok([port, end])
    }

    fn set_routes(&self) -> Result<()> {
        let everything: [IpNet; 2] =
            [IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0), IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0)];
        match self.plan.return_path {
            ReturnPath::Director => {
                for to in everything {
                    let ipv6 = to.addr().is_ipv6();
                    let via = Some(Place::DirectorToClients.address(ipv6));
                    self.client.rtnl().set_route(&Route { to, via, dev: Some(ETH0), source: None })?;
                    let via = Some(Place::DirectorToServers.address(ipv6));
                    for server in &self.servers {
                        server.rtnl().set_route(&Route { to, via, dev: Some(ETH0), source: None })?;
                    }
                }
            }
            ReturnPath::Direct => {
                for ipv6 in [false, true] {
                    let on_link = |to| Route { to, via: None, dev: Some(ETH0), source: None };
                    self.client.rtnl().set_route(&on_link(addresses::subnet(SERVER_NET, ipv6)))?;
                    for server in &self.servers {
                        server.rtnl().set_route(&on_link(addresses::subnet(CLIENT_NET, ipv6)))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// What was built.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The client.
    pub fn client(&self) -> &Host {
        &self.client
    }

    /// The director.
    pub fn director(&self) -> &Host {
        &self.director
    }

    /// The real servers; the first is `server1`.
    pub fn servers(&self) -> &[Host] {
        &self.servers
    }

    /// The switch; its ports are named as the hosts (`client`, `director`, `director-eth1`, `server1`, …).
    pub fn switch(&self) -> &Host {
        &self.switch
    }

    /// Address of the client number `at`, from 0.
    pub fn client_address(&self, at: u8, ipv6: bool) -> IpAddr {
        Place::Client(at).address(ipv6)
    }

    /// Address of the server number `at`, from 0.
    pub fn server_address(&self, at: u8, ipv6: bool) -> IpAddr {
        Place::Server(at).address(ipv6)
    }

    /// The director's own address towards the clients.
    pub fn director_address(&self, ipv6: bool) -> IpAddr {
        Place::DirectorToClients.address(ipv6)
    }

    /// The director's own address towards the servers: their gateway, and its source in full NAT and tunnels.
    pub fn director_inner_address(&self, ipv6: bool) -> IpAddr {
        Place::DirectorToServers.address(ipv6)
    }

    /// A virtual address in the clients' subnet, number `at` from 0; nobody has it until it's given to someone.
    pub fn virtual_address(&self, at: u8, ipv6: bool) -> IpAddr {
        Place::Virtual(at).address(ipv6)
    }

    /// Lets the director's kernel answer ARP and neighbour discovery for a virtual address.
    pub fn give_virtual_address(&self, address: IpAddr) -> Result<()> {
        self.director.rtnl().add_address(ETH0, IpNet::from(address))
    }

    /// Lets the director's kernel forward, or not. It doesn't from the start.
    pub fn set_kernel_forwarding(&self, on: bool) -> Result<()> {
        let value = if on { "1" } else { "0" };
        self.director.namespace().sysctls(&[("net/ipv4/ip_forward", value), ("net/ipv6/conf/all/forwarding", value)])
    }

    /// Every host, the switch first.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        [&self.switch, &self.client, &self.director].into_iter().chain(&self.servers)
    }
}

/// The name of the switch's port that the interface `link` of `host` is plugged into.
fn port_of(host: &Host, link: &str) -> String {
    if link == ETH0 { host.name().to_owned() } else { format!("{}-{link}", host.name()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_impossible_plan_is_refused_with_its_mend() {
        let good = Plan::default();
        good.check().unwrap();
        for (plan, named) in [
            (Plan { servers: 0, ..good }, "0 servers"),
            (Plan { clients: 51, ..good }, "51 client"),
            (Plan { queues: 0, ..good }, "0 queues"),
            (Plan { server_mtu: 1279, ..good }, "server's leg"),
            (Plan { arms: Arms::Two, return_path: ReturnPath::Direct, ..good }, "two arms"),
        ] {
            let error = plan.check().unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
