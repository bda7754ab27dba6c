//! `[[services]]`: reads them, and puts what [`super::check`] finds at its place in the file.

use super::check::{self, Place};
use super::read::{Placed, Problems, Section};
use super::{Admin, Protocol, Server, Service, WEIGHT_MAX, endpoint_text, switching};
use lcs_pipelines::snapshot::{Endpoint, Forward, Persistence, SLOTS, Scheduler};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;
use toml::de::DeValue;

/// Where the keys of one service stand.
#[derive(Default)]
struct Places(HashMap<(Place, &'static str), Range<usize>>);

impl Places {
    fn keep<T>(&mut self, place: Place, key: &'static str, value: Option<Placed<T>>) -> Option<T> {
        let placed = value?;
        self.0.insert((place, key), placed.span);
        Some(placed.value)
    }

    fn at(&self, place: Place, key: &'static str) -> Range<usize> {
        let fallbacks = [(place, key), (place, "name"), (place, ""), (Place::Service, "")];
        fallbacks.iter().find_map(|k| self.0.get(k)).cloned().unwrap_or(0..1)
    }
}

/// Reads every service of the document; rule files are looked for in the folder `beside`.
pub(super) fn read<'i>(document: &Section<'_, 'i>, problems: &Problems<'i>, beside: &Path) -> Vec<Service> {
    let mut services = Vec::new();
    let mut names: HashMap<String, usize> = HashMap::new();
    let mut endpoints: HashMap<Endpoint, (String, usize)> = HashMap::new();
    for section in document.tables("services", "a service") {
        let (service, places, unread) = read_service(section, beside);
        for finding in check::service_except(&service, &unread) {
            problems.borrow_mut().add(places.at(finding.place, finding.key), finding.what, finding.mend);
        }
        let at = places.at(Place::Service, "name");
        let line = problems.borrow().line(at.start);
        let read = |key| !unread.contains(&(Place::Service, key));
        let seen = read("address") && read("port");
        let first = read("name").then(|| names.insert(service.name.clone(), line)).flatten();
        if let Some(first) = first {
            let what = format!("there are two services named {}; the first is in line {first}", service.name);
            problems.borrow_mut().add(at, what, "give one of them another name");
        } else if seen && let Some((other, first)) = endpoints.insert(service.endpoint(), (service.name.clone(), line))
        {
            let what = format!(
                "services {other} (line {first}) and {} are both on {} {}",
                service.name,
                service.protocol,
                endpoint_text(service.address, service.port)
            );
            let mend = "give one of them another address, port or protocol, or make their servers one service";
            problems.borrow_mut().add(places.at(Place::Service, "address"), what, mend);
        }
        if unread.is_empty() {
            services.push(service);
        }
    }
    let servers: usize = services.iter().map(|s| s.servers.len()).sum();
    for (what, n) in [("services", services.len()), ("servers", servers)] {
        if n >= SLOTS {
            let mend = "remove some, or run several directors";
            problems.borrow_mut().add(0..1, format!("there are {n} {what}; fewer than {SLOTS} are possible"), mend);
        }
    }
    services
}

/// Keys that a service or a server must have and that could not be read. That has been said; their values mean nothing.
type Unread = HashSet<(Place, &'static str)>;

/// Stands for an address that could not be read.
const NO_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// The value, or what stands for one that could not be read.
fn or_unread<T>(value: Option<T>, place: Place, key: &'static str, instead: T, unread: &mut Unread) -> T {
    value.unwrap_or_else(|| {
        unread.insert((place, key));
        instead
    })
}

/// A service, as far as it can be read, so that what else is wrong with it is found in the same pass.
fn read_service(mut section: Section<'_, '_>, beside: &Path) -> (Service, Places, Unread) {
    let mut places = Places::default();
    let mut unread = Unread::new();
    places.0.insert((Place::Service, ""), section.span.start..section.span.start + 1);
    let me = Place::Service;
    let name = places.keep(me, "name", section.string("name"));
    if let Some(name) = &name {
        section.title = format!("service {name}");
    }
    section.require("name", "add name = \"…\": commands and reports call it by that");
    let protocol = places.keep(me, "protocol", section.word("protocol")).unwrap_or(Protocol::Tcp);
    let address = places.keep(me, "address", section.address("address"));
    section.require("address", "add address = \"…\": the address that clients connect to");
    let port = places.keep(me, "port", section.number("port", 0..=65_535));
    section.require("port", "add port = …: the port that clients connect to; 0 for every port");
    let scheduler = places.keep(me, "scheduler", section.word("scheduler")).unwrap_or(Scheduler::Wrr);
    let forward = places.keep(me, "forward", section.word("forward")).unwrap_or(Forward::Nat);
    let sources = section.addresses("sources");
    if let Some(first) = sources.first() {
        places.0.insert((me, "sources"), first.span.clone());
    }
    let ports = places.keep(me, "source-ports", section.ports("source-ports"));
    let check = places.keep(me, "check", super::health::read(&section));
    let persistence = places.keep(me, "persistence", read_persistence(&section));
    let mut servers = Vec::new();
    for server in section.tables("servers", "a server") {
        servers.push(read_server(server, servers.len(), forward, &mut places, &mut unread));
    }
    let written = switching::take(&section);
    section.finish();
    // Rules over a part of the servers' names would mislead.
    let named = !unread.iter().any(|(_, key)| *key == "name");
    let content = written.filter(|_| named).map(|written| {
        if let Some(span) = &written.groups_span {
            places.0.insert((me, "groups"), span.clone());
        }
        places.0.extend(written.places.iter().map(|(key, span)| ((me, *key), span.clone())));
        for (i, (_, span)) in written.groups.iter().enumerate() {
            places.0.insert((Place::Group(i), ""), span.clone());
        }
        written.read(beside, &section, servers.iter().map(|s| s.name.as_str()))
    });
    let service = Service {
        name: or_unread(name, me, "name", "without a name".to_owned(), &mut unread),
        protocol,
        address: or_unread(address, me, "address", NO_ADDRESS, &mut unread),
        port: or_unread(port, me, "port", 0, &mut unread) as u16,
        scheduler,
        forward,
        sources: sources.into_iter().map(|s| s.value).collect(),
        source_ports: ports.unwrap_or(Service::SOURCE_PORTS),
        servers,
        content,
        check,
        persistence,
    };
    (service, places, unread)
}

/// Reads `persistence`, a time or a table.
fn read_persistence(section: &Section<'_, '_>) -> Option<Placed<Persistence>> {
    let value = section.raw("persistence")?;
    let mut persistence = Persistence { timeout: DEFAULT_PERSISTENCE, mask4: 32, mask6: 128 };
    if matches!(value.get_ref(), DeValue::Table(_)) {
        let table = Section::from_value("`persistence`", value, section.problems())?;
        if let Some(timeout) = table.duration("timeout") {
            persistence.timeout = timeout.value;
        }
        for (key, bits, most) in [("mask4", &mut persistence.mask4, 32), ("mask6", &mut persistence.mask6, 128)] {
            if let Some(n) = table.number(key, 1..=most) {
                *bits = n.value as u8;
            }
        }
        table.finish();
    } else {
        persistence.timeout = section.duration("persistence")?.value;
    }
    Some(Placed { value: persistence, span: value.span() })
}

/// IPVS's.
const DEFAULT_PERSISTENCE: Duration = Duration::from_secs(300);

fn read_server(
    mut section: Section<'_, '_>,
    index: usize,
    default: Forward,
    places: &mut Places,
    unread: &mut Unread,
) -> Server {
    let me = Place::Server(index);
    places.0.insert((me, ""), section.span.start..section.span.start + 1);
    let name = places.keep(me, "name", section.string("name"));
    if let Some(name) = &name {
        section.title = format!("server {name}");
    }
    section.require("name", "add name = \"…\": commands and reports call it SERVICE/SERVER");
    let address = places.keep(me, "address", section.address("address"));
    section.require("address", "add address = \"…\": the server's own address");
    let port = places.keep(me, "port", section.number("port", 0..=65_535)).unwrap_or(0) as u16;
    let weight = places.keep(me, "weight", section.number("weight", 0..=u64::from(WEIGHT_MAX))).unwrap_or(1) as u32;
    let forward = places.keep(me, "forward", section.word("forward")).unwrap_or(default);
    let state = places.keep(me, "state", section.word("state")).unwrap_or(Admin::Up);
    section.finish();
    let name = or_unread(name, me, "name", "without a name".to_owned(), unread);
    let address = or_unread(address, me, "address", NO_ADDRESS, unread);
    Server { name, address, port, weight, forward, state }
}
