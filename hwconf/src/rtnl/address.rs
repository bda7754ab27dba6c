//! Addresses, routes and neighbours.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::Rtnl;
use crate::error::{Error, Result};

/// A route to be added to the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route<'a> {
    /// Where to; `0.0.0.0/0` or `::/0` is the default route.
    pub to: IpNet,
    /// The next hop; none when the destination is on the link itself.
    pub via: Option<IpAddr>,
    /// The interface; may be left out where `via` tells it.
    pub dev: Option<&'a str>,
    /// The source address that local sockets take when they go this way.
    pub source: Option<IpAddr>,
}

/// A neighbour entry with a known hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its IP address.
    pub address: IpAddr,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Never forgotten and never asked for.
    pub permanent: bool,
}

fn family(address: &IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}

impl Rtnl {
    /// Gives a link an address, usable at once: an IPv6 address skips duplicate address detection.
    pub fn add_address(&self, link: &str, address: IpNet) -> Result<()> {
        let mut message = self.address_message(link, address)?;
        if address.addr().is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.change(
            &format!("add the address {address} to the interface {link}"),
            Message::NewAddress(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Takes an address from a link.
    pub fn delete_address(&self, link: &str, address: IpNet) -> Result<()> {
        let message = self.address_message(link, address)?;
        self.change(&format!("delete the address {address} of the interface {link}"), Message::DelAddress(message), 0)
    }

    fn address_message(&self, link: &str, address: IpNet) -> Result<AddressMessage> {
        let mut message = AddressMessage::default();
        message.header.family = family(&address.addr());
        message.header.prefix_len = address.prefix_len();
        message.header.index = self.link(link)?.index;
        message.header.scope = AddressScope::Universe;
        message.attributes.push(AddressAttribute::Local(address.addr()));
        message.attributes.push(AddressAttribute::Address(address.addr()));
        Ok(message)
    }

    /// The addresses of a link, without the link-local ones that the kernel makes by itself.
    pub fn addresses(&self, link: &str) -> Result<Vec<IpNet>> {
        let index = self.link(link)?.index;
        let answers = self.dump(
            &format!("list the addresses of the interface {link}"),
            Message::GetAddress(AddressMessage::default()),
        )?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                Message::NewAddress(message) if message.header.index == index => Some(message),
                _ => None,
            })
            .filter(|message| message.header.scope != AddressScope::Link)
            .filter_map(|message| {
                // `Local` is ours; `Address` is the other side's on a point-to-point link, and ours on IPv6.
                let local = message.attributes.iter().find_map(|a| match a {
                    AddressAttribute::Local(address) => Some(*address),
                    _ => None,
                });
                let any = message.attributes.iter().find_map(|a| match a {
                    AddressAttribute::Address(address) => Some(*address),
                    _ => None,
                });
                IpNet::new(local.or(any)?, message.header.prefix_len).ok()
            })
            .collect())
    }

    /// Adds a route to the main table, or replaces the one to the same destination.
    pub fn set_route(&self, route: &Route<'_>) -> Result<()> {
        let what = format!(
            "set the route to {}{}{}",
            route.to,
            route.via.map(|via| format!(" via {via}")).unwrap_or_default(),
            route.dev.map(|dev| format!(" on the interface {dev}")).unwrap_or_default()
        );
        if route.via.is_none() && route.dev.is_none() {
            return Err(Error::Invalid { what, mend: "give it a next hop, an interface, or both".into() });
        }
        let message = self.route_message(route)?;
        self.change(&what, Message::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Deletes a route from the main table.
    pub fn delete_route(&self, route: &Route<'_>) -> Result<()> {
        let message = self.route_message(route)?;
        self.change(&format!("delete the route to {}", route.to), Message::DelRoute(message), 0)
    }

    /// Indexes of the interfaces that a default route leads to, of IPv4 or IPv6 and in any table.
    pub fn default_route_links(&self) -> Result<BTreeSet<u32>> {
        let mut links = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut all = RouteMessage::default();
            all.header.address_family = family;
            for answer in self.dump("list the routes", Message::GetRoute(all))? {
                let Message::NewRoute(route) = answer else { continue };
                if route.header.destination_prefix_length > 0 || route.header.kind != RouteType::Unicast {
                    continue;
                }
                for attribute in route.attributes {
                    match attribute {
                        RouteAttribute::Oif(index) => {
                            links.insert(index);
                        }
                        RouteAttribute::MultiPath(hops) => links.extend(hops.iter().map(|hop| hop.interface_index)),
                        _ => {}
                    }
                }
            }
        }
        Ok(links)
    }

    pub(super) fn route_message(&self, route: &Route<'_>) -> Result<RouteMessage> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(&route.to.addr());
        message.header.destination_prefix_length = route.to.prefix_len();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = if route.via.is_some() { RouteScope::Universe } else { RouteScope::Link };
        message.header.kind = RouteType::Unicast;
        if route.to.prefix_len() > 0 {
            message.attributes.push(RouteAttribute::Destination(route_address(route.to.network())));
        }
        if let Some(via) = route.via {
            message.attributes.push(RouteAttribute::Gateway(route_address(via)));
        }
        if let Some(dev) = route.dev {
            message.attributes.push(RouteAttribute::Oif(self.link(dev)?.index));
        }
        if let Some(source) = route.source {
            message.attributes.push(RouteAttribute::PrefSource(route_address(source)));
        }
        Ok(message)
    }

    /// Sets a permanent neighbour entry: no ARP or neighbour discovery is done for it.
    pub fn set_neighbour(&self, link: &str, address: IpAddr, mac: [u8; 6]) -> Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(&address);
        message.header.ifindex = self.link(link)?.index;
        message.header.state = NeighbourState::Permanent;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![
            NeighbourAttribute::Destination(match address {
                IpAddr::V4(address) => NeighbourAddress::Inet(address),
                IpAddr::V6(address) => NeighbourAddress::Inet6(address),
            }),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        self.change(
            &format!("set the neighbour {address} on the interface {link}"),
            Message::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    /// The neighbours of a link whose hardware address is known.
    pub fn neighbours(&self, link: &str) -> Result<Vec<Neighbour>> {
        let index = self.link(link)?.index;
        let answers = self.dump(
            &format!("list the neighbours on the interface {link}"),
            Message::GetNeighbour(NeighbourMessage::default()),
        )?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                Message::NewNeighbour(message) if message.header.ifindex == index => Some(message),
                _ => None,
            })
            .filter(|message| {
                !matches!(
                    message.header.state,
                    NeighbourState::Incomplete | NeighbourState::Failed | NeighbourState::Noarp | NeighbourState::None
                )
            })
            .filter_map(|message| {
                let permanent = message.header.state == NeighbourState::Permanent;
                let (mut address, mut mac) = (None, None);
                for attribute in message.attributes {
                    match attribute {
                        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(v4.into()),
                        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(v6.into()),
                        NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.try_into().ok(),
                        _ => {}
                    }
                }
                Some(Neighbour { address: address?, mac: mac?, permanent })
            })
            .collect())
    }
}
