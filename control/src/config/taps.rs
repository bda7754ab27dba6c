//! `[[port.taps]]`: the kernel's interfaces in place of those that DPDK has taken.

use super::check::unusable;
use super::read::Section;
use super::{Port, PortKind, TapDevice};
use ipnet::IpNet;

/// Frames a second where none are given: 240 Mbit/s of full length.
const RATE: u32 = 20_000;
/// Addresses of one device.
const ADDRESSES_MAX: usize = 16;

/// Reads them from `[port]`, whose kind and interfaces are known already.
pub(super) fn read(section: &Section<'_, '_>, port: &Port) -> Vec<TapDevice> {
    let mut taps: Vec<TapDevice> = Vec::new();
    let Some(value) = section.raw("taps") else { return taps };
    let span = value.span();
    match port.kind {
        PortKind::Dpdk => {}
        PortKind::AfXdp => {
            let what = "`taps` are for DPDK: on AF_XDP the kernel keeps its interfaces, and gets there what is not the director's";
            section.problem(span, what, "remove [[port.taps]], or set kind = \"dpdk\"");
            return taps;
        }
        PortKind::Memory => {
            let what = "`taps` are for DPDK: nothing comes from outside on a memory port";
            section.problem(span, what, "remove [[port.taps]], or set kind = \"dpdk\"");
            return taps;
        }
    }
    let sections = section.tables("taps", "a TAP device");
    if sections.len() != port.interfaces.len() {
        let (taps, interfaces) = (sections.len(), port.interfaces.len());
        let what = format!("[port] has {taps} TAP devices, and {interfaces} interfaces that they are for");
        section.problem(span, what, "write one [[port.taps]] for each of `interfaces`, in their order, or none at all");
    }
    for (at, tap) in sections.iter().enumerate() {
        let name = tap.string("name");
        let name_span = name.as_ref().map_or(tap.span.clone(), |n| n.span.clone());
        let name = name.map_or(format!("lcs{at}"), |n| n.value);
        let bad = |c: char| c == '/' || c == '%' || c == ':' || c.is_whitespace() || c.is_control();
        if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.contains(bad) {
            let what = format!("{name:?} is no name for an interface");
            tap.problem(name_span, what, "use 1 to 15 bytes without '/', ':', '%' and blanks, such as \"lcs0\"");
        } else if taps.iter().any(|t| t.name == name) {
            tap.problem(name_span, format!("two TAP devices have the name {name}"), "give each a name of its own");
        }
        let rate = tap.number("rate", 1..=10_000_000).map_or(RATE, |rate| rate.value as u32);
        let addresses = addresses(tap, &taps);
        let forward = tap.flag("forward").is_some_and(|forward| forward.value);
        tap.finish();
        taps.push(TapDevice { name, addresses, rate, forward });
    }
    taps
}

fn addresses(tap: &Section<'_, '_>, others: &[TapDevice]) -> Vec<IpNet> {
    let mut addresses: Vec<IpNet> = Vec::new();
    let Some(list) = tap.strings("addresses") else { return addresses };
    if list.value.len() > ADDRESSES_MAX {
        let what = format!("`addresses` has {} addresses; {ADDRESSES_MAX} are possible", list.value.len());
        tap.problem(list.span, what, "give the others with `ip address add` when the director runs");
        return addresses;
    }
    for text in list.value {
        let Ok(net) = text.value.parse::<IpNet>() else {
            let what = format!("{:?} is no address with the length of its network's prefix", text.value);
            tap.problem(text.span, what, "write \"192.0.2.10/24\" or \"2001:db8::10/64\"");
            continue;
        };
        let is_network = net.addr() == net.network() && net.prefix_len() + 1 < net.max_prefix_len();
        if let Some(why) = unusable(net.addr()) {
            tap.problem(text.span, format!("{} is {why}", net.addr()), "give an address of this machine");
        } else if is_network && net.addr().is_ipv4() {
            tap.problem(
                text.span,
                format!("{net} is a network, not an address in it"),
                "give an address of this machine",
            );
        } else if addresses.iter().chain(others.iter().flat_map(|t| &t.addresses)).any(|a| a.addr() == net.addr()) {
            tap.problem(text.span, format!("{} is given twice", net.addr()), "remove one");
        } else {
            addresses.push(net);
        }
    }
    addresses
}
