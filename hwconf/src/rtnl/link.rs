//! Links: veth pairs, bridges, and what can be set on any of them.

use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp,
    State,
};
use serde::{Deserialize, Serialize};

use super::Rtnl;
use crate::error::{Error, Result};
use crate::netns::Namespace;
use crate::sys::LONGEST_LINK_NAME;

/// A link as rtnetlink shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The kernel's number (`ifindex`), unique within its namespace.
    pub index: u32,
    /// The interface's name.
    pub name: String,
    /// `bridge`, `veth`, `tun`, …; none for hardware and the loopback.
    pub kind: Option<String>,
    /// Hardware address; none where the link has none of six bytes (TUN).
    pub mac: Option<[u8; 6]>,
    /// Largest payload of a frame in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Set up by the administrator (`IFF_UP`).
    pub up: bool,
    /// Has a carrier, and is ready to pass frames.
    pub running: bool,
    /// Receive queues that were allocated; [`crate::ethtool::Channels`] tells how many are in use.
    pub rx_queues: u32,
    /// Transmit queues that were allocated.
    pub tx_queues: u32,
    /// Index of the bridge that it's a port of.
    pub master: Option<u32>,
    /// Index of the link below (VLAN) or of a veth's other end.
    #[serde(default)]
    pub below: Option<u32>,
    /// The link of [`Self::below`] is in another network namespace, whose numbers are its own.
    #[serde(default)]
    pub below_elsewhere: bool,
    /// Number of an XDP program that somebody has attached.
    #[serde(default)]
    pub xdp_program: Option<u32>,
}

/// One end of a veth pair to be made.
#[derive(Clone, Copy, Debug)]
pub struct VethEnd<'a> {
    /// Its name, at most 15 bytes.
    pub name: &'a str,
    /// Where it's put; none for the namespace of the [`Rtnl`].
    pub namespace: Option<&'a Namespace>,
    /// Its hardware address; none for a random one.
    pub mac: Option<[u8; 6]>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Receive and transmit queues, at least 1. A native XDP program needs as many receive queues here as
    /// the other end has transmit queues.
    pub queues: u32,
}

impl VethEnd<'_> {
    fn attributes(&self) -> Result<Vec<LinkAttribute>> {
        check_name(self.name)?;
        if self.queues == 0 {
            return Err(Error::Invalid {
                what: format!("veth end {} with 0 queues", self.name),
                mend: "give it at least 1".into(),
            });
        }
        let mut attributes = vec![
            LinkAttribute::IfName(self.name.into()),
            LinkAttribute::Mtu(self.mtu),
            LinkAttribute::NumTxQueues(self.queues),
            LinkAttribute::NumRxQueues(self.queues),
        ];
        if let Some(mac) = self.mac {
            attributes.push(LinkAttribute::Address(mac.to_vec()));
        }
        if let Some(namespace) = self.namespace {
            attributes.push(LinkAttribute::NetNsFd(namespace.as_fd().as_raw_fd()));
        }
        Ok(attributes)
    }
}

impl Rtnl {
    /// Makes a veth pair, each end in its namespace, both down. It's gone as soon as either namespace is.
    pub fn create_veth(&self, a: &VethEnd<'_>, b: &VethEnd<'_>) -> Result<()> {
        let mut peer = LinkMessage::default();
        peer.attributes = b.attributes()?;
        let mut message = LinkMessage::default();
        message.attributes = a.attributes()?;
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        let what = format!("create the veth pair {}/{}", a.name, b.name);
        self.create(&what, message)
    }

    /// Makes a bridge that only forwards: no spanning tree, no multicast snooping, and as every new bridge no VLANs,
    /// so that a new port passes frames at once.
    pub fn create_bridge(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Bridge),
                LinkInfo::Data(InfoData::Bridge(vec![
                    InfoBridge::StpState(BridgeStpState::Disabled),
                    InfoBridge::ForwardDelay(0),
                    InfoBridge::MulticastSnooping(false),
                ])),
            ]),
        ];
        self.create(&format!("create the bridge {name}"), message)
    }

    fn create(&self, what: &str, message: LinkMessage) -> Result<()> {
        self.change(what, Message::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// The link of this name.
    pub fn link(&self, name: &str) -> Result<Link> {
        check_name(name)?;
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        let what = format!("look up the interface {name}");
        let answers = match self.get(&what, Message::GetLink(message)) {
            Err(error) if error.errno() == Some(libc::ENODEV) => {
                return Err(self.no_such_link(name));
            }
            other => other?,
        };
        answers.into_iter().find_map(read).ok_or_else(|| self.no_such_link(name))
    }

    /// Every link of the namespace, in the order of their indexes.
    pub fn links(&self) -> Result<Vec<Link>> {
        let mut links: Vec<Link> = self
            .dump("list the interfaces", Message::GetLink(LinkMessage::default()))?
            .into_iter()
            .filter_map(read)
            .collect();
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    fn no_such_link(&self, name: &str) -> Error {
        let present = match self.links() {
            Ok(links) => links.into_iter().map(|link| link.name).collect::<Vec<_>>().join(", "),
            Err(_) => "unknown".into(),
        };
        Error::NoSuchLink { name: name.into(), present }
    }

    /// Sets a link up or down.
    pub fn set_up(&self, name: &str, up: bool) -> Result<()> {
        let what = format!("set the interface {name} {}", if up { "up" } else { "down" });
        self.set(&what, name, |message| {
            message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
            message.header.change_mask = LinkFlags::Up;
        })
    }

    /// Has neighbours asked for on a link, or not: then frames go to the link's own address.
    pub fn set_arp(&self, name: &str, arp: bool) -> Result<()> {
        let what = format!("set ARP of the interface {name} {}", if arp { "on" } else { "off" });
        self.set(&what, name, |message| {
            message.header.flags = if arp { LinkFlags::empty() } else { LinkFlags::Noarp };
            message.header.change_mask = LinkFlags::Noarp;
        })
    }

    /// Sets the MTU in bytes, without the Ethernet header.
    pub fn set_mtu(&self, name: &str, mtu: u32) -> Result<()> {
        self.set(&format!("set the MTU of the interface {name} to {mtu}"), name, |message| {
            message.attributes.push(LinkAttribute::Mtu(mtu));
        })
    }

    /// Sets the hardware address.
    pub fn set_mac(&self, name: &str, mac: [u8; 6]) -> Result<()> {
        self.set(&format!("set the hardware address of the interface {name} to {mac:02x?}"), name, |message| {
            message.attributes.push(LinkAttribute::Address(mac.to_vec()));
        })
    }

    /// Makes a link a port of a bridge, or (`None`) takes it out of the one it's in.
    pub fn set_master(&self, name: &str, bridge: Option<&str>) -> Result<()> {
        let (what, index) = match bridge {
            Some(bridge) => (format!("make the interface {name} a port of {bridge}"), self.link(bridge)?.index),
            None => (format!("take the interface {name} out of its bridge"), 0),
        };
        self.set(&what, name, |message| message.attributes.push(LinkAttribute::Controller(index)))
    }

    /// Deletes a link; of a veth pair, both ends.
    pub fn delete_link(&self, name: &str) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = self.link(name)?.index;
        self.change(&format!("delete the interface {name}"), Message::DelLink(message), 0)
    }

    fn set(&self, what: &str, name: &str, fill: impl FnOnce(&mut LinkMessage)) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = self.link(name)?.index;
        fill(&mut message);
        self.change(what, Message::SetLink(message), 0)
    }
}

fn check_name(name: &str) -> Result<()> {
    let good = !name.is_empty()
        && name.len() <= LONGEST_LINK_NAME
        && !matches!(name, "." | "..")
        && !name.bytes().any(|b| b == b'/' || b == b':' || b == 0 || b.is_ascii_whitespace());
    if good {
        return Ok(());
    }
    Err(Error::Invalid {
        what: format!("interface name \"{name}\""),
        mend: format!("use 1 to {LONGEST_LINK_NAME} bytes without space, \"/\" or \":\""),
    })
}

fn read(message: Message) -> Option<Link> {
    let Message::NewLink(message) = message else {
        return None;
    };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: None,
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        running: false,
        rx_queues: 1,
        tx_queues: 1,
        master: None,
        below: None,
        below_elsewhere: false,
        xdp_program: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::NumRxQueues(queues) => link.rx_queues = queues,
            LinkAttribute::NumTxQueues(queues) => link.tx_queues = queues,
            LinkAttribute::Controller(index) => link.master = Some(index),
            LinkAttribute::Link(index) => link.below = Some(index).filter(|index| *index != 0),
            LinkAttribute::LinkNetNsId(_) => link.below_elsewhere = true,
            LinkAttribute::Xdp(facts) => {
                link.xdp_program = facts.into_iter().find_map(|fact| match fact {
                    LinkXdp::ProgId(number) => Some(number),
                    _ => None,
                });
            }
            // The loopback and TUN devices stay "unknown" for ever and work.
            LinkAttribute::OperState(state) => link.running = link.up && matches!(state, State::Up | State::Unknown),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_the_kernel_would_cut_is_refused() {
        for name in ["", ".", "..", "a/b", "a b", "a:b", "sixteen-bytes-it"] {
            assert!(check_name(name).unwrap_err().to_string().contains(name), "{name}");
        }
        check_name("fifteen-bytes-i").unwrap();
    }

    #[test]
    fn the_loopback_is_found_and_a_missing_link_is_answered_with_what_there_is() {
        let rtnl = Rtnl::open().unwrap();
        let lo = rtnl.link("lo").unwrap();
        assert_eq!((lo.index, lo.mac), (1, Some([0; 6])));
        assert!(rtnl.links().unwrap().contains(&lo));
        let error = rtnl.link("no-such-link").unwrap_err().to_string();
        assert!(error.contains("\"no-such-link\"") && error.contains("lo"), "{error}");
    }
}
