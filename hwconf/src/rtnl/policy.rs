//! Routing by source (policy routing): rules, and routes in tables of their own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::route::RouteAttribute;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use netlink_packet_route::{AddressFamily, IpProtocol};

use super::{Route, Rtnl};
use crate::error::Result;

/// Sends what comes from one TCP endpoint of this host through a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The packets' source address.
    pub from: IpAddr,
    /// Their TCP source port; none for every packet from the address.
    pub port: Option<u16>,
    /// Number of the table.
    pub table: u32,
}

impl Rtnl {
    /// Adds a rule.
    pub fn add_policy(&self, policy: &Policy) -> Result<()> {
        let mut message = RuleMessage::default();
        let v4 = policy.from.is_ipv4();
        message.header.family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.src_len = if v4 { 32 } else { 128 };
        message.header.action = RuleAction::ToTable;
        message.attributes.push(RuleAttribute::Source(policy.from));
        message.attributes.push(RuleAttribute::Table(policy.table));
        if let Some(port) = policy.port {
            message.attributes.push(RuleAttribute::IpProtocol(IpProtocol::Tcp));
            message.attributes.push(RuleAttribute::SourcePortRange(RulePortRange { start: port, end: port }));
        }
        let what = format!("route what comes from {} by table {}", policy.from, policy.table);
        self.change(&what, Message::NewRule(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Every rule that sends one source address to a table.
    pub fn policies(&self) -> Result<Vec<Policy>> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RuleMessage::default();
            message.header.family = family;
            let answers = self.dump("list the rules of policy routing", Message::GetRule(message))?;
            found.extend(answers.into_iter().filter_map(read));
        }
        Ok(found)
    }

    /// Sends everything that is routed by `table` out of a link, without a router.
    pub fn set_table(&self, table: u32, dev: &str, ipv6: bool) -> Result<()> {
        let any = if ipv6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        let to = IpNet::new_assert(any, 0);
        let mut message = self.route_message(&Route { to, via: None, dev: Some(dev), source: None })?;
        message.header.table = 0;
        message.attributes.push(RouteAttribute::Table(table));
        let what = format!("route table {table} out of the interface {dev}");
        self.change(&what, Message::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
    }
}

fn read(message: Message) -> Option<Policy> {
    let Message::NewRule(rule) = message else { return None };
    let from = rule.attributes.iter().find_map(|a| match a {
        RuleAttribute::Source(address) => Some(*address),
        _ => None,
    })?;
    let table = rule.attributes.iter().find_map(|a| match a {
        RuleAttribute::Table(table) => Some(*table),
        _ => None,
    });
    let port = rule.attributes.iter().find_map(|a| match a {
        RuleAttribute::SourcePortRange(range) if range.start == range.end => Some(range.start),
        _ => None,
    });
    Some(Policy { from, port, table: table.unwrap_or(u32::from(rule.header.table)) })
}
