//! What the control thread publishes: services, servers, next hops, routes, time-outs. Immutable once published.
//!
//! Services, servers and next hops are known by *slots*: small numbers that the control thread gives out and does not
//! reuse while any flow refers to them, so that a flow stays valid from one snapshot to the next.

use crate::content::Content;
use hashbrown::{HashMap, HashSet};
use lcs_dataplane::flow::TcpState;
use lcs_dataplane::headers::MacAddr;
use lcs_dataplane::timer;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Services, servers or next hops at most: slots are 16 bits, and the last number means "none".
pub const SLOTS: usize = 65_535;
/// No slot.
pub const NO_SLOT: u16 = u16::MAX;

/// Everything that a worker needs to know to decide about packets.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Counts up with every publication.
    pub generation: u64,
    /// Virtual services by slot. A removed service stays as long as it has flows, without being in `by_endpoint`.
    pub services: Vec<Option<Service>>,
    /// Real servers by slot. A removed server stays as long as it has flows, with state [`ServerState::Draining`].
    pub servers: Vec<Option<Server>>,
    /// Which service a packet from a client is for.
    pub by_endpoint: HashMap<Endpoint, u16>,
    /// The director's interfaces, numbered as in the port.
    pub interfaces: Vec<Interface>,
    /// Next hops by row.
    pub next_hops: Vec<NextHop>,
    /// Routes toward clients.
    pub routes: Routes,
    /// Addresses that belong to the director: services, full-NAT sources, its own. Where no kernel answers ARP, NDP and ping for them, we do.
    pub own: HashSet<IpAddr>,
    /// Idle time-outs.
    pub timeouts: Timeouts,
    /// What to do when the flow table is full.
    pub when_full: WhenFull,
}

impl Snapshot {
    /// The service that packets to this endpoint are for: the one on its port, or else the one on every port.
    #[inline]
    pub fn service_at(&self, to: SocketAddr, protocol: u8) -> Option<u16> {
        let by = &self.by_endpoint;
        by.get(&(to.ip(), to.port(), protocol)).or_else(|| by.get(&(to.ip(), 0, protocol))).copied()
    }
}

/// Destination of a client's packets: address, port (host order; 0 for a service on every port), IP protocol.
pub type Endpoint = (IpAddr, u16, u8);

/// A virtual service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name in commands and reports.
    pub name: String,
    /// Address.
    pub address: IpAddr,
    /// Port, host order; 0 for every port.
    pub port: u16,
    /// IP protocol: 6 or 17.
    pub protocol: u8,
    /// How a server is chosen for a new connection.
    pub scheduler: Scheduler,
    /// Slots of its servers, in the configuration's order.
    pub servers: Vec<u16>,
    /// Full NAT: the director's addresses toward the servers, of the servers' family. Empty for the other modes.
    pub sources: Vec<IpAddr>,
    /// Full NAT: first and last source port, host order.
    pub source_ports: (u16, u16),
    /// Where connections are bound by what the client asks for: the rules. `None`: by the client's SYN.
    pub content: Option<Arc<Content>>,
    /// Whether, and for how long, a client's connections all go to the same server. Not of services with content.
    pub persistence: Option<Persistence>,
}

/// For how long, and for whom, the server of one connection is the server of the next ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Persistence {
    /// How long after the last connection was opened.
    pub timeout: Duration,
    /// Leading bits of an IPv4 address that make a client: 32 for each address by itself.
    pub mask4: u8,
    /// Those of an IPv6 address.
    pub mask6: u8,
}

impl Persistence {
    /// The address that stands for a client.
    pub fn client(&self, address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V4(a) => IpAddr::V4((u32::from(a) & mask4(self.mask4.min(32))).into()),
            IpAddr::V6(a) => IpAddr::V6((u128::from(a) & mask6(self.mask6.min(128))).into()),
        }
    }
}

/// A real server of one service. The same machine in two services is two servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its name in commands and reports.
    pub name: String,
    /// Slot of its service.
    pub service: u16,
    /// Address.
    pub address: IpAddr,
    /// Port, host order; 0 to keep the client's (services on every port, direct routing, tunnels).
    pub port: u16,
    /// How packets get there.
    pub forward: Forward,
    /// Share of new connections; 0 for none.
    pub weight: u32,
    /// Whether it takes new connections.
    pub state: ServerState,
    /// Row of the next hop toward it.
    pub next_hop: u16,
    /// The director's address of the server's family: in the outer header of a tunnel, and toward the server's filter.
    pub tunnel_source: Option<IpAddr>,
}

/// How packets reach a real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Forward {
    /// Destination rewritten; the server's replies must come back through the director.
    Nat,
    /// Destination and source rewritten: the server answers the director.
    FullNat,
    /// Only the link-layer destination is rewritten; the server answers the client.
    Dr,
    /// Wrapped in an outer IP header; the server answers the client.
    Tunnel,
}

impl Forward {
    /// Whether the server's packets come back through the director.
    pub fn replies_return(self) -> bool {
        matches!(self, Forward::Nat | Forward::FullNat)
    }
}

/// Whether a server takes new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerState {
    /// Takes new connections as its weight says.
    Up,
    /// Takes no new connections and keeps those it has.
    Draining,
    /// Takes none: a health check has failed. Those it has are kept.
    Down,
}

/// How a server is chosen for a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheduler {
    /// Round-robin: weights above 0 count the same.
    Rr,
    /// Weighted round-robin, interleaved.
    Wrr,
    /// Least connections: weights above 0 count the same.
    Lc,
    /// Weighted least connections.
    Wlc,
}

/// An interface of the director.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its link-layer address.
    pub mac: MacAddr,
    /// Its MTU, bytes of IP packet.
    pub mtu: u16,
}

/// Where a packet goes on the link. 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NextHop {
    /// Link-layer destination and source address, as they stand in the frame.
    pub addresses: [u8; 12],
    /// Interface, numbered as in the port.
    pub interface: u8,
    /// Whether the addresses are known.
    pub resolved: bool,
    /// Largest IP packet on the path, bytes.
    pub mtu: u16,
}

impl NextHop {
    /// A resolved next hop.
    pub fn new(destination: MacAddr, source: MacAddr, interface: u8, mtu: u16) -> Self {
        let mut addresses = [0; 12];
        addresses[..6].copy_from_slice(&destination.0);
        addresses[6..].copy_from_slice(&source.0);
        NextHop { addresses, interface, resolved: true, mtu }
    }
}

/// What a route says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// Through the router in this row of the next hops.
    NextHop(u16),
    /// On the link itself: the answer goes to the link-layer address that the client's frame came from.
    OnLink,
}

/// Routes toward clients, longest prefix first. Where none matches, the answer goes to where the client's frame came from.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    v4: Vec<(u8, HashMap<u32, Via>)>,
    v6: Vec<(u8, HashMap<u128, Via>)>,
}

impl Routes {
    /// Adds a route for the first `length` bits of `prefix`; a later one for the same prefix replaces it.
    /// A length beyond the family's is taken as its longest.
    pub fn insert(&mut self, prefix: IpAddr, length: u8, via: Via) {
        match prefix {
            IpAddr::V4(a) => {
                let length = length.min(32);
                let key = u32::from(a) & mask4(length);
                table(&mut self.v4, length).insert(key, via);
            }
            IpAddr::V6(a) => {
                let length = length.min(128);
                let key = u128::from(a) & mask6(length);
                table(&mut self.v6, length).insert(key, via);
            }
        }
    }

    /// The route for an address.
    pub fn lookup(&self, address: IpAddr) -> Option<Via> {
        match address {
            IpAddr::V4(a) => self.v4.iter().find_map(|(l, t)| t.get(&(u32::from(a) & mask4(*l))).copied()),
            IpAddr::V6(a) => self.v6.iter().find_map(|(l, t)| t.get(&(u128::from(a) & mask6(*l))).copied()),
        }
    }
}

fn table<K>(tables: &mut Vec<(u8, HashMap<K, Via>)>, length: u8) -> &mut HashMap<K, Via> {
    let at = tables.partition_point(|(l, _)| *l > length);
    if tables.get(at).is_none_or(|(l, _)| *l != length) {
        tables.insert(at, (length, HashMap::new()));
    }
    &mut tables[at].1
}

fn mask4(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

fn mask6(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

/// What happens to a new connection when the flow table is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// It is refused: its first packet is dropped.
    #[default]
    Refuse,
    /// The oldest half-open connection gives way; where there is none, it is refused.
    EvictHalfOpen,
}

/// Idle time-outs by connection state. The defaults are IPVS's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    by_state: [Duration; TcpState::ALL.len()],
}

impl Default for Timeouts {
    fn default() -> Self {
        let mut t = Timeouts { by_state: [Duration::from_secs(2); TcpState::ALL.len()] };
        for (state, seconds) in [
            (TcpState::None, 2),
            (TcpState::SynReceived, 60),
            (TcpState::Established, 900),
            (TcpState::FinWait, 120),
            (TcpState::CloseWait, 60),
            (TcpState::LastAck, 30),
            (TcpState::TimeWait, 120),
            (TcpState::Close, 10),
            (TcpState::Udp, 300),
        ] {
            t.set(state, Duration::from_secs(seconds));
        }
        t
    }
}

impl Timeouts {
    /// The idle time after which a flow in `state` is forgotten.
    pub fn get(&self, state: TcpState) -> Duration {
        self.by_state[state as usize]
    }

    /// Sets it.
    pub fn set(&mut self, state: TcpState, timeout: Duration) {
        self.by_state[state as usize] = timeout;
    }

    /// The time-outs in ticks of the timer wheel, by state.
    pub fn ticks(&self) -> [u32; TcpState::ALL.len()] {
        self.by_state.map(timer::ticks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins() {
        let mut r = Routes::default();
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        r.insert(ip("0.0.0.0"), 0, Via::NextHop(1));
        r.insert(ip("10.0.0.0"), 8, Via::NextHop(2));
        r.insert(ip("10.1.2.3"), 24, Via::OnLink);
        r.insert(ip("2001:db8::"), 32, Via::NextHop(3));
        assert_eq!(r.lookup(ip("192.0.2.1")), Some(Via::NextHop(1)));
        assert_eq!(r.lookup(ip("10.9.9.9")), Some(Via::NextHop(2)));
        assert_eq!(r.lookup(ip("10.1.2.200")), Some(Via::OnLink));
        assert_eq!(r.lookup(ip("2001:db8:1::1")), Some(Via::NextHop(3)));
        assert_eq!(r.lookup(ip("2001:db9::1")), None);
        r.insert(ip("::"), 0, Via::NextHop(4));
        assert_eq!(r.lookup(ip("2001:db9::1")), Some(Via::NextHop(4)));
    }
}
