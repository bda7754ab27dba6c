//! Netlink messages, read into what the tables understand, and the requests that are sent. No socket here.

use super::fib::{Kind, Path, Route};
use super::tables::{Address, Link, Neighbour, NeighbourKey, Reachability};
use lcs_dataplane::headers::MacAddr;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use std::net::IpAddr;

/// Number of the table that holds the director's own addresses (`RT_TABLE_LOCAL`).
const TABLE_LOCAL: u32 = 255;

/// What a message from the kernel says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Incoming {
    /// Sequence number of the request that it answers; 0 for most notifications.
    pub sequence: u32,
    /// The dump that it belongs to ran across a change, and may have missed something (`NLM_F_DUMP_INTR`).
    pub interrupted: bool,
    pub body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    Event(Event),
    /// The end of a dump.
    Done,
    /// The answer to a request; 0, or the positive error number.
    Answer(i32),
    /// Notifications were lost.
    Overrun,
    /// Nothing that is followed.
    Ignored,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    Link {
        index: u32,
        link: Option<Link>,
    },
    /// Secondary and link-local, or gone.
    Address {
        address: Address,
        state: Option<(bool, bool)>,
    },
    Route(RouteEvent),
    Neighbour {
        key: NeighbourKey,
        neighbour: Option<Neighbour>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    Local,
    Main,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RouteAction {
    /// New, in front of others of its metric.
    Add,
    /// New, behind others of its metric.
    Append,
    /// Instead of the first of its metric.
    Replace,
    Remove,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RouteEvent {
    pub action: RouteAction,
    pub table: Table,
    pub prefix: IpAddr,
    pub length: u8,
    pub route: Route,
}

/// One table of the kernel's, as it can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dump {
    Links,
    Addresses,
    Routes { v4: bool },
    Neighbours { v4: bool },
}

/// A request to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub sequence: u32,
    pub what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Dump(Dump),
    /// Find out the neighbour's link-layer address, and keep it (`NTF_USE` and, from Linux 5.16 on, `NTF_EXT_MANAGED`).
    Resolve {
        key: NeighbourKey,
        exists: bool,
    },
    /// Stop keeping it.
    Release(NeighbourKey),
}

/// Reads a message of the kernel's.
pub(super) fn read(message: NetlinkMessage<RouteNetlinkMessage>) -> Incoming {
    let (header, payload) = message.into_parts();
    let body = match payload {
        NetlinkPayload::Done(_) => Body::Done,
        NetlinkPayload::Error(e) => Body::Answer(e.raw_code().saturating_neg()),
        NetlinkPayload::Overrun(_) => Body::Overrun,
        NetlinkPayload::InnerMessage(m) => event(m, header.flags).map_or(Body::Ignored, Body::Event),
        _ => Body::Ignored,
    };
    Incoming { sequence: header.sequence_number, interrupted: header.flags & NLM_F_DUMP_INTR != 0, body }
}

fn event(message: RouteNetlinkMessage, flags: u16) -> Option<Event> {
    use RouteNetlinkMessage as M;
    match message {
        M::NewLink(m) => link(m, false),
        M::DelLink(m) => link(m, true),
        M::NewAddress(m) => address(&m, false),
        M::DelAddress(m) => address(&m, true),
        M::NewRoute(m) => {
            let action = match flags {
                f if f & NLM_F_REPLACE != 0 => RouteAction::Replace,
                f if f & NLM_F_APPEND != 0 => RouteAction::Append,
                _ => RouteAction::Add,
            };
            route(m, action)
        }
        M::DelRoute(m) => route(m, RouteAction::Remove),
        M::NewNeighbour(m) => neighbour(m, false),
        M::DelNeighbour(m) => neighbour(m, true),
        _ => None,
    }
}

fn link(message: LinkMessage, gone: bool) -> Option<Event> {
    let header = &message.header;
    // Bridges tell of their ports in messages of their own family; a port that leaves a bridge is not a link that goes.
    if header.interface_family != AddressFamily::Unspec {
        return None;
    }
    if gone {
        return Some(Event::Link { index: header.index, link: None });
    }
    let mut link = Link {
        name: String::new(),
        mac: None,
        mtu: 0,
        administratively_up: header.flags.contains(LinkFlags::Up),
        carrier: header.flags.contains(LinkFlags::LowerUp),
        arp: !header.flags.intersects(LinkFlags::Noarp | LinkFlags::Loopback),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(bytes) if header.link_layer_type == LinkLayerType::Ether => {
                link.mac = <[u8; 6]>::try_from(bytes).ok().map(MacAddr);
            }
            _ => {}
        }
    }
    // Some notifications (of wireless extensions) carry an event and no state.
    if link.name.is_empty() || link.mtu == 0 {
        return None;
    }
    Some(Event::Link { index: header.index, link: Some(link) })
}

fn address(message: &AddressMessage, gone: bool) -> Option<Event> {
    let header = &message.header;
    let mut local = None;
    let mut peer = None;
    let mut flags = AddressFlags::from_bits_retain(AddressHeaderFlags::bits(&header.flags).into());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(a) => local = Some(*a),
            AddressAttribute::Address(a) => peer = Some(*a),
            AddressAttribute::Flags(f) => flags = *f,
            _ => {}
        }
    }
    let address = Address { interface: header.index, address: local.or(peer)?, length: header.prefix_len };
    // An address that another host has is not ours.
    if gone || flags.contains(AddressFlags::Dadfailed) {
        return Some(Event::Address { address, state: None });
    }
    let unfit = AddressFlags::Deprecated | AddressFlags::Tentative | AddressFlags::Secondary;
    let state = (flags.intersects(unfit), header.scope == AddressScope::Link);
    Some(Event::Address { address, state: Some(state) })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(a) => ip(a),
        RouteAttribute::Via(RouteVia::Inet(a)) => Some((*a).into()),
        RouteAttribute::Via(RouteVia::Inet6(a)) => Some((*a).into()),
        _ => None,
    }
}

fn route(message: RouteMessage, action: RouteAction) -> Option<Event> {
    let RouteMessage { header, attributes, .. } = message;
    let v4 = match header.address_family {
        AddressFamily::Inet => true,
        AddressFamily::Inet6 => false,
        _ => return None,
    };
    // Learned exceptions, routes for one TOS, and routes for one source: not followed.
    if header.flags.contains(RouteFlags::Cloned) || (v4 && header.tos != 0) || header.source_prefix_length != 0 {
        return None;
    }
    let mut table = u32::from(header.table);
    let mut prefix: IpAddr = if v4 { [0; 4].into() } else { [0; 16].into() };
    let mut route = Route { kind: kind(header.kind), metric: 0, paths: vec![], mtu: None, source: None };
    let (mut oif, mut via, mut encapsulated) = (None, None, false);
    for attribute in &attributes {
        match attribute {
            RouteAttribute::Table(t) => table = *t,
            RouteAttribute::Destination(a) => prefix = ip(a)?,
            RouteAttribute::Priority(p) => route.metric = *p,
            RouteAttribute::PrefSource(a) => route.source = ip(a),
            RouteAttribute::Oif(i) => oif = Some(*i),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => via = gateway(attribute),
            RouteAttribute::EncapType(_) => encapsulated = true,
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|m| match m {
                    RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                    _ => None,
                });
            }
            RouteAttribute::MultiPath(hops) => {
                for hop in hops {
                    encapsulated |= hop.attributes.iter().any(|a| matches!(a, RouteAttribute::EncapType(_)));
                    let gateway = hop.attributes.iter().find_map(gateway);
                    route.paths.push(Path { interface: hop.interface_index, gateway });
                }
            }
            _ => {}
        }
    }
    if let (Some(interface), true) = (oif, route.paths.is_empty()) {
        route.paths.push(Path { interface, gateway: via });
    }
    route.paths.shrink_to_fit();
    if encapsulated && route.kind == Kind::Unicast {
        route.kind = Kind::Refused("encapsulated");
    }
    let table = match table {
        TABLE_LOCAL => Table::Local,
        t if t == u32::from(RouteHeader::RT_TABLE_MAIN) => Table::Main,
        _ => return None,
    };
    Some(Event::Route(RouteEvent { action, table, prefix, length: header.destination_prefix_length, route }))
}

fn kind(kind: RouteType) -> Kind {
    match kind {
        RouteType::Unicast => Kind::Unicast,
        RouteType::Local => Kind::NotAHost("the director's own"),
        RouteType::Broadcast => Kind::NotAHost("a broadcast address"),
        RouteType::Multicast => Kind::NotAHost("a multicast address"),
        RouteType::Anycast => Kind::NotAHost("an anycast address"),
        RouteType::BlackHole => Kind::Refused("blackhole"),
        RouteType::Unreachable => Kind::Refused("unreachable"),
        RouteType::Prohibit => Kind::Refused("prohibit"),
        RouteType::Throw => Kind::Refused("throw"),
        _ => Kind::Refused("unknown"),
    }
}

fn neighbour(message: NeighbourMessage, gone: bool) -> Option<Event> {
    let header = &message.header;
    // The forwarding tables of bridges speak of link-layer addresses only; proxies are no neighbours.
    if header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let mut to = None;
    let mut mac = None;
    let mut managed = false;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => to = Some(IpAddr::from(*a)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => to = Some(IpAddr::from(*a)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = <[u8; 6]>::try_from(&bytes[..]).ok().map(MacAddr),
            NeighbourAttribute::ExtFlags(f) => managed = f.contains(NeighbourExtFlags::Managed),
            _ => {}
        }
    }
    let key = (header.ifindex, to?);
    if gone {
        return Some(Event::Neighbour { key, neighbour: None });
    }
    let reachability = match header.state {
        NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp => Reachability::Fresh,
        NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe => Reachability::Stale,
        NeighbourState::Failed => Reachability::Failed,
        _ => Reachability::Incomplete,
    };
    let fixed = matches!(header.state, NeighbourState::Permanent | NeighbourState::Noarp)
        || header.flags.contains(NeighbourFlags::ExtLearned);
    Some(Event::Neighbour { key, neighbour: Some(Neighbour { reachability, mac, managed, fixed }) })
}

fn family(v4: bool) -> AddressFamily {
    if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// The message that makes a request.
pub(super) fn write(request: Request) -> NetlinkMessage<RouteNetlinkMessage> {
    use RouteNetlinkMessage as M;
    let (message, flags) = match request.what {
        What::Dump(dump) => {
            let message = match dump {
                Dump::Links => M::GetLink(LinkMessage::default()),
                Dump::Addresses => M::GetAddress(AddressMessage::default()),
                Dump::Routes { v4 } => {
                    let mut m = RouteMessage::default();
                    m.header.address_family = family(v4);
                    M::GetRoute(m)
                }
                Dump::Neighbours { v4 } => {
                    let mut m = NeighbourMessage::default();
                    m.header.family = family(v4);
                    M::GetNeighbour(m)
                }
            };
            (message, NLM_F_DUMP)
        }
        What::Resolve { key, exists } => {
            let mut m = neighbour_message(key);
            m.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
            // An entry that somebody else has made meanwhile may be permanent: don't touch it before we know.
            (M::NewNeighbour(m), NLM_F_ACK | if exists { NLM_F_REPLACE } else { NLM_F_CREATE | NLM_F_EXCL })
        }
        What::Release(key) => (M::NewNeighbour(neighbour_message(key)), NLM_F_ACK | NLM_F_REPLACE),
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = request.sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    message
}

fn neighbour_message((interface, address): NeighbourKey) -> NeighbourMessage {
    let mut m = NeighbourMessage::default();
    m.header.family = family(address.is_ipv4());
    m.header.ifindex = interface;
    m.header.flags = NeighbourFlags::Use;
    m.header.kind = RouteType::Unspec;
    m.attributes.push(NeighbourAttribute::Destination(address.into()));
    m
}
