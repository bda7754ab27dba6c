//! What must hold of a virtual service, wherever it comes from: the configuration file or a live change.

use super::{NAME_MAX, SOURCES_MAX, Service, WEIGHT_MAX, Word, endpoint_text};
use lcs_pipelines::snapshot::{Forward, SLOTS};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;

/// Which part of a service a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// The service itself.
    Service,
    /// Its server of this number.
    Server(usize),
    /// Its group of this number.
    Group(usize),
}

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub place: Place,
    /// Which key.
    pub key: &'static str,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub mend: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.what, self.mend)
    }
}

/// Checks a name of a service or server.
///
/// # Errors
/// What is wrong with it, and the mend.
pub fn name(kind: &str, name: &str) -> Result<(), (String, String)> {
    let mend = format!("use 1 to {NAME_MAX} letters, digits, '-', '_' and '.', beginning with a letter or digit");
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let what = if name.is_empty() {
        format!("the name of a {kind} is empty")
    } else if name.len() > NAME_MAX {
        format!("the name of a {kind} is {} bytes long", name.len())
    } else if let Some(c) = name.chars().find(|c| !good(*c)) {
        format!("the name {name:?} has {c:?} in it")
    } else if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        format!("the name {name:?} begins with a mark")
    } else {
        return Ok(());
    };
    Err((what, mend))
}

/// Everything that is wrong with a service by itself. Names and endpoints of other services are not looked at.
pub fn service(s: &Service) -> Vec<Finding> {
    service_except(s, &HashSet::new())
}

/// The same of a service of which these keys could not be read, and have values that mean nothing: nothing is found that is about them.
pub(super) fn service_except(s: &Service, unread: &HashSet<(Place, &'static str)>) -> Vec<Finding> {
    let read = |place: Place, key: &'static str| !unread.contains(&(place, key));
    let (address_read, port_read) = (read(Place::Service, "address"), read(Place::Service, "port"));
    let mut found = Vec::new();
    let mut add = |place, key, what: String, mend: &str| {
        found.push(Finding { place, key, what, mend: mend.to_owned() });
    };
    let label = &s.name;
    if read(Place::Service, "name")
        && let Err((what, mend)) = name("service", label)
    {
        add(Place::Service, "name", what, &mend);
    }
    if let Some(why) = unusable(s.address).filter(|_| address_read) {
        add(Place::Service, "address", format!("{} is {why}", s.address), "give the address that clients connect to");
    }
    let full_nat = s.forward == Forward::FullNat || s.servers.iter().any(|r| r.forward == Forward::FullNat);
    if full_nat && s.sources.is_empty() {
        let mend = "give it addresses of the director, in the servers' network, that nothing else uses: sources = [\"…\"] in the file, \
                    --source ADDRESS with `lcs vs add` and `lcs vs set`";
        add(Place::Service, "sources", format!("service {label} uses full NAT and has no source address"), mend);
    }
    if s.sources.len() > SOURCES_MAX {
        let what = format!("service {label} has {} source addresses", s.sources.len());
        add(Place::Service, "sources", what, &format!("at most {SOURCES_MAX} are possible"));
    }
    for (i, source) in s.sources.iter().enumerate() {
        if let Some(why) = unusable(*source) {
            add(Place::Service, "sources", format!("the source address {source} is {why}"), "give a unicast address");
        } else if address_read && source.is_ipv4() != s.address.is_ipv4() {
            let what =
                format!("the source address {source} is {}, and service {label} is {}", v(*source), v(s.address));
            add(Place::Service, "sources", what, "full NAT keeps the address family; give a source of the same family");
        }
        if s.sources[..i].contains(source) {
            add(Place::Service, "sources", format!("the source address {source} is given twice"), "remove one");
        }
    }
    if let Some((what, mend)) = super::health::problem(s).filter(|_| port_read) {
        add(Place::Service, "check", what, mend);
    }
    let (first, last) = s.source_ports;
    if first == 0 || first > last {
        let what = format!("{first}-{last} is no range of source ports");
        add(Place::Service, "source-ports", what, "write first-last, from 1 to 65535");
    }
    if s.servers.len() >= SLOTS {
        let what = format!("service {label} has {} servers", s.servers.len());
        add(Place::Service, "servers", what, &format!("fewer than {SLOTS} servers are possible in all"));
    }
    let mut names: HashMap<&str, usize> = HashMap::new();
    let mut endpoints: HashMap<(IpAddr, u16), &str> = HashMap::new();
    for (i, server) in s.servers.iter().enumerate() {
        let place = Place::Server(i);
        let (name_read, own_address_read) = (read(place, "name"), read(place, "address"));
        if name_read && let Err((what, mend)) = name("server", &server.name) {
            add(place, "name", what, &mend);
        }
        if name_read && names.insert(&server.name, i).is_some() {
            let what = format!("service {label} has two servers named {}", server.name);
            add(place, "name", what, "give one of them another name");
        }
        if server.weight > WEIGHT_MAX {
            let what = format!("weight {} is out of range", server.weight);
            add(place, "weight", what, &format!("write a weight from 0 to {WEIGHT_MAX}"));
        }
        if !own_address_read {
            // It has been said what is wrong with it.
        } else if let Some(why) = unusable(server.address) {
            add(place, "address", format!("{} is {why}", server.address), "give the server's own address");
        } else if !address_read {
            // There is nothing to compare it with.
        } else if server.address == s.address {
            let what = format!("server {} has the address of its service, {}", server.name, s.address);
            add(place, "address", what, "give the address that the server has on its own interface");
        } else if server.forward != Forward::Tunnel && server.address.is_ipv4() != s.address.is_ipv4() {
            let what =
                format!("server {} is {}, and its service {label} is {}", server.name, v(server.address), v(s.address));
            let mend = "give it an address of the service's family, or forward = \"tunnel\", which may mix families";
            add(place, "address", what, mend);
        }
        if port_read && server.port != 0 && server.port != s.port {
            if matches!(server.forward, Forward::Dr | Forward::Tunnel) {
                let what = format!(
                    "server {} has port {}, and {} cannot change the port from {}",
                    server.name,
                    server.port,
                    server.forward.word(),
                    port_text(s.port)
                );
                add(place, "port", what, "leave `port` out, or use forward = \"nat\" or \"fullnat\"");
            } else if s.port == 0 {
                let what = format!(
                    "server {} has port {}, and its service {label} is on every port",
                    server.name, server.port
                );
                add(
                    place,
                    "port",
                    what,
                    "leave `port` out, so that each connection keeps its port, or give the service a port",
                );
            }
        }
        let port = if server.port == 0 { s.port } else { server.port };
        // Where one of the ports is the service's, it must be known.
        let comparable = own_address_read && name_read && (port_read || server.port != 0);
        if comparable && let Some(other) = endpoints.insert((server.address, port), &server.name) {
            let what = format!(
                "servers {other} and {} of service {label} are both {}",
                server.name,
                endpoint_text(server.address, port)
            );
            add(place, "address", what, "remove one of them, and give the other the sum of their weights");
        }
    }
    if s.persistence.is_some() && s.content.is_some() {
        let what = format!("service {label} has `persistence`, and rules that choose its servers");
        add(
            Place::Service,
            "persistence",
            what,
            "write sticky = \"source\" instead: it keeps clients with their servers where rules decide",
        );
    }
    if let Some(content) = s.content.as_ref().filter(|_| unread.is_empty()) {
        super::content::check(s, content, &mut found);
    }
    found
}

fn port_text(port: u16) -> String {
    if port == 0 { "every port".to_owned() } else { port.to_string() }
}

fn v(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Whether an address can be a host's on the network.
pub fn usable(address: IpAddr) -> bool {
    unusable(address).is_none()
}

/// Why an address can be no host's on the network, if it cannot.
pub(crate) fn unusable(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        Some("the unspecified address")
    } else if address.is_multicast() {
        Some("a multicast address")
    } else if address.is_loopback() {
        Some("a loopback address, which never comes over a network")
    } else if matches!(address, IpAddr::V4(a) if a.is_broadcast()) {
        Some("the broadcast address")
    } else if matches!(address, IpAddr::V6(a) if a.is_unicast_link_local()) {
        Some("a link-local address, which is not unique without its link")
    } else {
        None
    }
}
