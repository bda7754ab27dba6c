//! The second arm of a filter on a real server: a veth pair between it and the host's own stack, and the rules by which the
//! stack's answers of a virtual service go out of it.
//!
//! ```text
//!   wire ── eth0 ── filter ── lcs0 ═ lcs1 ── the host's stack, with the virtual address on its loopback
//! ```
//!
//! Both ends have the same link-layer address and `lcs1` asks for none (`arp off`), so that the stack addresses its frames to
//! `lcs0` without a neighbour entry, whatever the clients' addresses.

use std::net::IpAddr;

use crate::error::{Error, Result};
use crate::ethtool::{Ethtool, Offload};
use crate::rtnl::{Policy, Rtnl, VethEnd};

/// The filter's end, where no other name is given.
pub const FILTER_END: &str = "lcs0";
/// The table by which the stack's answers are routed.
pub const TABLE: u32 = 7411;
/// Locally administered, the same for both ends.
const MAC: [u8; 6] = [0x02, 0x6c, 0x63, 0x73, 0x00, 0x01];

/// Makes the arm in the namespace of `rtnl` and `ethtool`, for these services. The virtual addresses are not given to the host.
///
/// # Errors
/// When the kernel refuses, or there are such links already.
pub fn create(
    rtnl: &Rtnl,
    ethtool: &Ethtool,
    (filter_end, stack_end): (&str, &str),
    services: &[(IpAddr, u16)],
    mtu: u32,
) -> Result<()> {
    let end = |name| VethEnd { name, namespace: None, mac: Some(MAC), mtu, queues: 1 };
    rtnl.create_veth(&end(filter_end), &end(stack_end))?;
    for name in [filter_end, stack_end] {
        ethtool.set_offload(name, Offload::Gro, false)?;
        ethtool.set_offload(name, Offload::TxChecksum, false)?;
    }
    rtnl.set_arp(stack_end, false)?;
    rtnl.set_up(filter_end, true)?;
    rtnl.set_up(stack_end, true)?;
    for ipv6 in [false, true] {
        if services.iter().any(|(address, _)| address.is_ipv6() == ipv6) {
            rtnl.set_table(TABLE, stack_end, ipv6)?;
        }
    }
    services.iter().try_for_each(|&(from, port)| rtnl.add_policy(&Policy { from, port: Some(port), table: TABLE }))
}

/// The name of the stack's end.
///
/// # Errors
/// What is missing or wrong of the arm, with the commands that make it.
pub fn check(rtnl: &Rtnl, filter_end: &str, services: &[(IpAddr, u16)]) -> Result<String> {
    let wrong = |what: String| Err(Error::Invalid { what, mend: mend(filter_end, services) });
    let links = rtnl.links()?;
    let Some(ours) = links.iter().find(|l| l.name == filter_end) else {
        return wrong(format!("there is no interface {filter_end} toward this host's own stack"));
    };
    let Some(theirs) = ours.below.and_then(|index| links.iter().find(|l| l.index == index)) else {
        return wrong(format!("the interface {filter_end} is no end of a veth pair whose other end is this host's"));
    };
    if ours.mac != theirs.mac {
        return wrong(format!("{filter_end} and {} have different link-layer addresses", theirs.name));
    }
    for link in [ours, theirs] {
        if !link.up {
            return wrong(format!("the interface {} is down", link.name));
        }
    }
    let policies = rtnl.policies()?;
    let mut own = Vec::new();
    for link in &links {
        own.extend(rtnl.addresses(&link.name)?.into_iter().map(|net| net.addr()));
    }
    for &(address, port) in services {
        if !own.contains(&address) {
            return wrong(format!("{address} is no address of this host, so its stack would not serve it"));
        }
        if !policies.iter().any(|p| p.from == address && p.port.is_none_or(|p| p == port)) {
            return wrong(format!("answers from {address} would not go through the filter: no rule routes them"));
        }
    }
    Ok(theirs.name.clone())
}

/// The commands that make an arm.
fn mend(filter_end: &str, services: &[(IpAddr, u16)]) -> String {
    let stack_end = format!("{}1", filter_end.trim_end_matches(|c: char| c.is_ascii_digit()));
    let stack_end = if stack_end == filter_end { format!("{filter_end}s") } else { stack_end };
    let mac = MAC.map(|b| format!("{b:02x}")).join(":");
    let mut lines = vec![
        format!("ip link add {filter_end} address {mac} type veth peer name {stack_end} address {mac}"),
        format!("ip link set {stack_end} arp off"),
        format!("ethtool -K {stack_end} tx off gro off"),
        format!("sysctl -w net.ipv4.conf.{stack_end}.rp_filter=2"),
        format!("ip link set {filter_end} up"),
        format!("ip link set {stack_end} up"),
    ];
    for (v6, ip) in [(false, "ip"), (true, "ip -6")] {
        let of = |s: &&(IpAddr, u16)| s.0.is_ipv6() == v6;
        for (address, port) in services.iter().filter(of) {
            let length = if v6 { 128 } else { 32 };
            lines.push(format!("{ip} address replace {address}/{length} dev lo"));
            lines.push(format!("{ip} rule add from {address} ipproto tcp sport {port} lookup {TABLE}"));
        }
        if services.iter().any(|s| of(&s)) {
            lines.push(format!("{ip} route replace default dev {stack_end} table {TABLE}"));
        }
    }
    format!("as root:\n  {}", lines.join("\n  "))
}
