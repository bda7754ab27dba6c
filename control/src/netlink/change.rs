//! What a follower of the kernel's tables is asked, and what it says.

use lcs_dataplane::headers::MacAddr;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

/// What is watched: an address whose next hop is looked up in the routes, or, with an interface, a neighbour on that link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Target {
    /// A real server, a client, or a gateway.
    pub address: IpAddr,
    /// Index of the link that `address` is on, where that is known: the gateway of a [`ClientRoute`] is on the
    /// route's own link, and an IPv6 gateway's link-local address means nothing without it.
    pub interface: Option<u32>,
}

impl Target {
    /// The neighbour `address` on the link with this index.
    pub fn on_link(address: IpAddr, interface: u32) -> Self {
        Target { address, interface: Some(interface) }
    }
}

impl From<IpAddr> for Target {
    fn from(address: IpAddr) -> Self {
        Target { address, interface: None }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.interface {
            None => write!(f, "{}", self.address),
            Some(index) => write!(f, "{} on interface {index}", self.address),
        }
    }
}

/// Where packets to a target go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// Index of the interface.
    pub interface: u32,
    /// Its name.
    pub name: String,
    /// Link-layer address of the target or of its gateway.
    pub destination: MacAddr,
    /// Link-layer address of the interface.
    pub source: MacAddr,
    /// The smaller of the link's MTU and the route's `mtu` metric: bytes of IP packet.
    pub mtu: u16,
    /// Address of the director that the kernel would send from: the route's, else one of the interface's.
    pub source_address: Option<IpAddr>,
    /// The gateway, where the target is not on the link itself.
    pub gateway: Option<IpAddr>,
}

/// A target's next hop, or why there is none.
pub type Resolution = Result<Hop, Unresolved>;

/// Why a target has no next hop. The text says what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case", tag = "reason")]
pub enum Unresolved {
    /// The kernel's tables have no route that can be used.
    #[error("{}; add a route (ip route add PREFIX via GATEWAY dev INTERFACE)", no_route(.refused.as_deref()))]
    NoRoute {
        /// The kind of the route that refuses: `blackhole`, `unreachable`, `prohibit`, `throw` or `encapsulated`.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        refused: Option<Cow<'static, str>>,
    },
    /// Nothing answers for the target's (or its gateway's) link-layer address.
    #[error("{}", no_neighbour(.neighbour, .interface, *.failed, .error.as_deref()))]
    NoNeighbour {
        /// The address that was asked for.
        neighbour: IpAddr,
        /// The interface that it was asked on.
        interface: String,
        /// The kernel has asked and got no answer; otherwise it is still asking. It is asked again in either case.
        failed: bool,
        /// The kernel refused to ask.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        error: Option<String>,
    },
    /// The interface is gone, set down, or has no carrier. It is followed and used as soon as it is back.
    #[error("interface {interface} {}", link_down(*.missing, *.administratively))]
    LinkDown {
        /// Its name, or its index where there is none of that index.
        interface: String,
        /// There is no such interface.
        missing: bool,
        /// It is set down; otherwise it has no carrier.
        administratively: bool,
    },
    /// The route leads through an interface that the director does not use.
    #[error(
        "the route leads through {interface}, which is none of the director's interfaces ({ours}); \
         change the route (ip route get ADDRESS shows it) or add {interface} to the configuration"
    )]
    WrongInterface {
        /// Where the route leads.
        interface: String,
        /// The director's interfaces.
        ours: String,
    },
    /// The address is not one host elsewhere.
    #[error("the address is {kind}, not that of another host; correct the address in the configuration")]
    NotAHost {
        /// `the director's own`, `a broadcast address`, `a multicast address` or `an anycast address`.
        kind: Cow<'static, str>,
    },
    /// The interface has no link-layer addresses to send to.
    #[error("interface {interface} is no Ethernet interface with ARP; use an Ethernet interface, or set arp on")]
    NotEthernet {
        /// Its name.
        interface: String,
    },
}

impl Unresolved {
    /// The reason's name in commands and reports.
    pub fn name(&self) -> &'static str {
        match self {
            Unresolved::NoRoute { .. } => "no-route",
            Unresolved::NoNeighbour { .. } => "no-neighbour",
            Unresolved::LinkDown { .. } => "link-down",
            Unresolved::WrongInterface { .. } => "wrong-interface",
            Unresolved::NotAHost { .. } => "not-a-host",
            Unresolved::NotEthernet { .. } => "not-ethernet",
        }
    }
}

fn no_route(refused: Option<&str>) -> String {
    match refused {
        None => "no route to the address".into(),
        Some("encapsulated") => "the route to the address wraps packets in a way that the director can't".into(),
        Some(kind) => format!("the route to the address refuses packets (type {kind})"),
    }
}

fn no_neighbour(neighbour: &IpAddr, interface: &str, failed: bool, error: Option<&str>) -> String {
    if let Some(error) = error {
        return format!("the kernel would not look for {neighbour} on {interface}: {error}");
    }
    if failed {
        return format!(
            "{neighbour} does not answer {} on {interface} (asked again every few seconds); \
             see that the machine is up, on this link, and has this address",
            if neighbour.is_ipv4() { "ARP" } else { "neighbour discovery" }
        );
    }
    format!("waiting for {neighbour} to tell its link-layer address on {interface}")
}

fn link_down(missing: bool, administratively: bool) -> &'static str {
    match (missing, administratively) {
        (true, _) => "does not exist; create it, or correct the configuration",
        (false, true) => "is down; set it up (ip link set INTERFACE up)",
        (false, false) => "has no carrier; see to the cable, the switch port, or the other end",
    }
}

/// A route toward clients through one of the director's interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientRoute {
    /// First address of the prefix.
    pub prefix: IpAddr,
    /// Length of the prefix, bits.
    pub length: u8,
    /// The router, or `None` where clients are on the link itself.
    pub gateway: Option<IpAddr>,
    /// Index of the interface.
    pub interface: u32,
    /// Its name.
    pub name: String,
    /// The route's `mtu` metric, where it has one.
    pub mtu: Option<u32>,
}

impl ClientRoute {
    /// What to watch to learn the gateway's link-layer address; `None` for an on-link route.
    pub fn target(&self) -> Option<Target> {
        self.gateway.map(|g| Target::on_link(g, self.interface))
    }
}

/// One prefix's route toward clients is new, different or gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteChange {
    /// First address of the prefix.
    pub prefix: IpAddr,
    /// Length of the prefix, bits.
    pub length: u8,
    /// The route, or `None` when it is gone.
    pub route: Option<ClientRoute>,
}

/// One of the director's interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceState {
    /// Its name.
    pub name: String,
    /// Its index; `None` while there is no such interface.
    pub index: Option<u32>,
    /// Its link-layer address; `None` where it is no Ethernet interface.
    pub mac: Option<MacAddr>,
    /// Its MTU, bytes of IP packet.
    pub mtu: u32,
    /// Set up and has a carrier.
    pub up: bool,
}

/// A table that is larger than what is kept of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// More than 2,097,152 routes.
    Routes,
    /// More than 262,144 neighbours.
    Neighbours,
    /// More than 65,536 links or addresses.
    Links,
    /// More than 65,535 watched targets.
    Watched,
}

/// What has changed. What changes again before it is read is said once, as it is then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The director's interfaces, all of them, in the order in which they were given.
    Interfaces(Vec<InterfaceState>),
    /// The director's own addresses, all of them, on every interface, without loopback ones; ascending.
    OwnAddresses(Vec<IpAddr>),
    /// A route toward clients.
    Route(RouteChange),
    /// A watched target's next hop.
    NextHop {
        /// The target.
        target: Target,
        /// Its next hop, or why there is none.
        resolution: Resolution,
    },
    /// Everything that the kernel's tables held at the start has been said.
    Synced,
    /// A table is larger than what is kept: what comes on top is ignored. Said once a table.
    LimitReached(Limit),
}
