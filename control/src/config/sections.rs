//! The document and its sections, all but the services.

use super::check::unusable;
use super::problem::{Collector, Invalid};
use super::read::{Problems, Section};
use super::{
    Configuration, ContentWorkers, Copy, Director, FLOWS_MAX, Neighbour, Placement, Port, PortKind, Route, WORKERS_MAX,
    Word, Workers, XdpMode, default_socket, services, taps,
};
use ipnet::IpNet;
use lcs_dataplane::flow::TcpState;
use lcs_dataplane::port::device::Device;
use lcs_dataplane::worker::Idle;
use lcs_pipelines::snapshot::{Forward, Timeouts, WhenFull};
use std::cell::RefCell;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::de::{DeTable, DeValue};

/// Flows of one worker where none are given: 64 MiB of entries.
const FLOWS: usize = 1 << 20;
/// Fragmented packets of one worker where none are given.
const FRAGMENTS: usize = 4096;
/// Buffers of an interface where none are given.
const BUFFERS: u32 = 4096;
/// For how long frames gather under load: a few times what waking up costs, and little beside what clients wait anyway.
pub const COALESCE: Duration = Duration::from_micros(200);
/// Longest path of a Unix socket: `sun_path` without its final zero.
const SOCKET_PATH_MAX: usize = 107;

pub(super) fn parse(file: &str, text: &str) -> Result<Configuration, Invalid> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let problems: Problems<'_> = RefCell::new(Collector::new(text));
    for error in &errors {
        let span = error.span().unwrap_or(0..1);
        let message = error.message().trim().replace('\n', "; ");
        problems.borrow_mut().add(span, format!("this is not TOML: {message}"), "see https://toml.io for the notation");
    }
    if !errors.is_empty() {
        return Err(problems.into_inner().finish(file));
    }
    let root = Section::new("the configuration", 0..1, document.get_ref(), &problems);
    let director = director(root.table("director"));
    let workers = workers(root.table("workers"));
    let port = port(&root);
    let timeouts = timeouts(root.table("timeouts"));
    let neighbours = neighbours(&root, &port);
    let routes = routes(&root);
    let beside = Path::new(file).parent().unwrap_or(Path::new(""));
    let services = services::read(&root, &problems, beside);
    tunnel_sources(&root, &port, &director, &services);
    checkers(&root, &port, &services);
    tap_addresses(&root, &port, &services);
    root.finish();
    drop(root);
    let problems = problems.into_inner();
    if !problems.is_empty() {
        return Err(problems.finish(file));
    }
    Ok(Configuration { director, workers, port, timeouts, neighbours, routes, services })
}

fn director(section: Option<Section<'_, '_>>) -> Director {
    let mut director = Director { socket: default_socket(), addresses: Vec::new() };
    let Some(section) = section else { return director };
    if let Some(socket) = section.string("socket") {
        if socket.value.is_empty() || socket.value.len() > SOCKET_PATH_MAX || socket.value.contains('\0') {
            let what = format!("the path of a Unix socket has 1 to {SOCKET_PATH_MAX} bytes");
            section.problem(socket.span, what, "give a shorter path, such as \"/run/lcs.sock\"");
        }
        director.socket = PathBuf::from(socket.value);
    }
    for address in section.addresses("addresses") {
        if let Some(why) = unusable(address.value) {
            section.problem(address.span, format!("{} is {why}", address.value), "give an address of the director");
        } else if director.addresses.contains(&address.value) {
            section.problem(address.span, format!("{} is given twice", address.value), "remove one");
        } else {
            director.addresses.push(address.value);
        }
    }
    section.finish();
    director
}

fn workers(section: Option<Section<'_, '_>>) -> Workers {
    let mut workers = Workers {
        cores: Vec::new(),
        flows: FLOWS,
        fragments: FRAGMENTS,
        idle: Idle::Adaptive,
        when_full: WhenFull::Refuse,
        content: None,
    };
    let Some(section) = section else { return workers };
    if let Some(value) = section.raw("cores") {
        match cores("cores", value.get_ref()) {
            Ok(cores) => workers.cores = cores,
            Err(what) => {
                let mend = "write a list of different cores, cores = [2, 3] or cores = \"2-5\"; `lscpu -e` shows them";
                section.problem(value.span(), what, mend);
            }
        }
    }
    if let Some(flows) = section.number("flows", 1..=FLOWS_MAX as u64) {
        workers.flows = flows.value as usize;
    }
    if let Some(fragments) = section.number("fragments", 1..=1 << 20) {
        workers.fragments = fragments.value as usize;
    }
    if let Some(idle) = section.word("idle") {
        workers.idle = idle.value;
    }
    if let Some(when_full) = section.word("when-full") {
        workers.when_full = when_full.value;
    }
    workers.content = content_workers(&section, &workers);
    section.finish();
    workers
}

/// Placement, and the content workers where it is `split`.
fn content_workers(section: &Section<'_, '_>, workers: &Workers) -> Option<ContentWorkers> {
    let placement = section.word::<Placement>("placement");
    let number = section.number("content-workers", 1..=WORKERS_MAX as u64);
    let idle = section.word::<Idle>("content-idle");
    let mut content = ContentWorkers { count: 1, cores: Vec::new(), idle: workers.idle };
    let mut given = [number.as_ref().map(|n| n.span.clone()), idle.as_ref().map(|i| i.span.clone()), None];
    if let Some(value) = section.raw("content-cores") {
        given[2] = Some(value.span());
        match cores("content-cores", value.get_ref()) {
            Ok(cores) => content.cores = cores,
            Err(what) => {
                let mend = "write a list of different cores, content-cores = [4, 5] or content-cores = \"4-5\"";
                section.problem(value.span(), what, mend);
            }
        }
        if let Some(number) = &number {
            let mend = "give content-cores for pinned threads, or content-workers for threads that are not pinned";
            section.problem(number.span.clone(), "`content-workers` and `content-cores` are both given", mend);
        }
        if let Some(core) = content.cores.iter().find(|core| workers.cores.contains(core)) {
            let what = format!("core {core} is in `cores` and in `content-cores`");
            let mend = "give each thread a core of its own: two that poll on one core wait for each other's time slice";
            section.problem(value.span(), what, mend);
        }
    }
    content.count = number.map_or(content.cores.len().max(1), |n| n.value as usize);
    if let Some(idle) = idle {
        content.idle = idle.value;
    }
    if placement.is_some_and(|p| p.value == Placement::Split) {
        return Some(content);
    }
    let keys = ["content-workers", "content-idle", "content-cores"];
    for (key, span) in keys.into_iter().zip(given).filter_map(|(key, span)| span.map(|span| (key, span))) {
        let what = format!("`{key}` is given, and there are no content workers in placement \"run-to-completion\"");
        section.problem(span, what, "add placement = \"split\", or remove the key");
    }
    None
}

fn cores(key: &str, value: &DeValue<'_>) -> Result<Vec<usize>, String> {
    let cores: Vec<usize> = match value {
        DeValue::String(s) => lcs_hwconf::cores::parse_list(s).map_err(|e| format!("`{key}`: {e}"))?,
        DeValue::Array(list) => list
            .iter()
            .map(|v| v.get_ref().as_integer().and_then(|i| usize::from_str_radix(i.as_str(), i.radix()).ok()))
            .collect::<Option<_>>()
            .ok_or_else(|| format!("`{key}` has something in it that is no core's number"))?,
        _ => return Err(format!("`{key}` is neither a list nor a string")),
    };
    if cores.is_empty() || cores.len() > WORKERS_MAX {
        return Err(format!("`{key}` names {} cores; 1 to {WORKERS_MAX} are possible", cores.len()));
    }
    let mut sorted = cores.clone();
    sorted.sort_unstable();
    match sorted.windows(2).find(|w| w[0] == w[1]) {
        Some(twice) => Err(format!("`{key}` names core {} twice", twice[0])),
        None => Ok(cores),
    }
}

fn port(root: &Section<'_, '_>) -> Port {
    let mut port = Port {
        kind: PortKind::AfXdp,
        interfaces: Vec::new(),
        devices: Vec::new(),
        clients: Vec::new(),
        eal: None,
        taps: Vec::new(),
        mode: XdpMode::Auto,
        copy: Copy::Auto,
        buffers: BUFFERS,
        coalesce: COALESCE,
    };
    let Some(section) = root.table("port") else {
        root.require("port", "add [port] with interfaces = [\"eth0\"]: those that clients and servers are on");
        return port;
    };
    if let Some(kind) = section.word("kind") {
        port.kind = kind.value;
    }
    match section.strings("interfaces") {
        Some(list) => {
            if list.value.is_empty() || list.value.len() > 16 {
                let what = format!("`interfaces` names {} interfaces; 1 to 16 are possible", list.value.len());
                section.problem(list.span, what, "name those that clients and servers are on: interfaces = [\"eth0\"]");
            }
            for mut name in list.value {
                if port.kind == PortKind::Dpdk {
                    match Device::parse(&name.value) {
                        Ok(device) => {
                            name.value.clone_from(&device.name);
                            port.devices.push(device);
                        }
                        Err(what) => {
                            let mend =
                                "`dpdk-devbind.py --status` shows PCI addresses; hwconf/DPDK.md has virtual devices";
                            section.problem(name.span, what, mend);
                            continue;
                        }
                    }
                } else if name.value.is_empty() || name.value.len() > 15 || name.value.contains(['/', ' ', '\0']) {
                    let what = format!("{:?} is no name of an interface", name.value);
                    section.problem(name.span, what, "`ip link` shows their names");
                    continue;
                }
                if port.interfaces.contains(&name.value) {
                    section.problem(name.span, format!("interface {} is named twice", name.value), "remove one");
                } else {
                    port.interfaces.push(name.value);
                }
            }
        }
        None => section.require("interfaces", "add interfaces = [\"eth0\"]: those that clients and servers are on"),
    }
    if let Some(list) = section.strings("eal") {
        if port.kind != PortKind::Dpdk {
            section.problem(list.span, "`eal` has arguments for DPDK", "set kind = \"dpdk\", or remove `eal`");
        }
        port.eal = Some(list.value.into_iter().map(|argument| argument.value).collect());
    }
    if let Some(list) = section.strings("clients") {
        if port.kind != PortKind::Dpdk {
            let mend = "remove `clients`; `lcs hw plan` says how the kernel's driver is told";
            section.problem(list.span, "`clients` has devices of DPDK spread frames by the client's endpoint", mend);
        }
        for name in list.value {
            if port.kind == PortKind::Dpdk && !port.interfaces.contains(&name.value) {
                let what = format!("{:?} is none of `interfaces`", name.value);
                section.problem(
                    name.span,
                    what,
                    format!("name one of {}, without its arguments", port.interfaces.join(", ")),
                );
            }
            port.clients.push(name.value);
        }
    }
    port.taps = taps::read(&section, &port);
    if let Some(mode) = section.word::<XdpMode>("mode") {
        port.mode = mode.value;
    }
    if let Some(copy) = section.word::<Copy>("copy") {
        port.copy = copy.value;
        if copy.value == Copy::ZeroCopy && port.mode == XdpMode::Generic {
            let what = "zero-copy needs the XDP program in the driver, and mode is \"generic\"";
            section.problem(copy.span, what, "set mode = \"auto\" or copy = \"auto\"");
        }
    }
    if let Some(buffers) = section.number("buffers", 256..=1 << 17) {
        if buffers.value.is_power_of_two() {
            port.buffers = buffers.value as u32;
        } else {
            let near = buffers.value.next_power_of_two();
            section.problem(buffers.span, format!("{} is no power of two", buffers.value), format!("write {near}"));
        }
    }
    if let Some(coalesce) = section.number("coalesce-us", 0..=10_000) {
        if port.kind != PortKind::AfXdp {
            let what = "`coalesce-us` is for the kernel's receive queues";
            section.problem(coalesce.span, what, "set kind = \"af-xdp\", or remove `coalesce-us`");
        }
        port.coalesce = Duration::from_micros(coalesce.value);
    }
    section.finish();
    port
}

fn timeouts(section: Option<Section<'_, '_>>) -> Timeouts {
    let Some(section) = section else { return Timeouts::default() };
    let mut timeouts = section.word::<Preset>("preset").map_or(Preset::Ipvs, |p| p.value).timeouts();
    for state in TcpState::ALL {
        if let Some(time) = section.duration(state.name()) {
            timeouts.set(state, time.value);
        }
    }
    section.finish();
    timeouts
}

/// Ready-made time-outs.
#[derive(Debug, Clone, core::marker::Copy, PartialEq, Eq)]
enum Preset {
    Ipvs,
    Rfc5382,
}

impl Word for Preset {
    const ALL: &'static [(&'static str, Self)] = &[("ipvs", Preset::Ipvs), ("rfc5382", Preset::Rfc5382)];
}

impl Preset {
    fn timeouts(self) -> Timeouts {
        let mut timeouts = Timeouts::default();
        if self == Preset::Rfc5382 {
            // RFC 5382 REQ-5: established 2 h 4 min, everything transitory 4 min; RFC 4787 REQ-5: UDP 5 min.
            for state in TcpState::ALL {
                timeouts.set(state, Duration::from_secs(240));
            }
            timeouts.set(TcpState::Established, Duration::from_secs(7440));
            timeouts.set(TcpState::Udp, Duration::from_secs(300));
        }
        timeouts
    }
}

fn neighbours(root: &Section<'_, '_>, port: &Port) -> Vec<Neighbour> {
    let mut neighbours: Vec<Neighbour> = Vec::new();
    for section in root.tables("neighbours", "a neighbour") {
        let address = section.address("address");
        let mac = section.mac("mac");
        section.require("address", "add address = \"…\"");
        section.require("mac", "add mac = \"02:00:00:00:00:01\"");
        let interface = match section.string("interface") {
            None => Some(0),
            Some(name) => {
                let at = port.interfaces.iter().position(|i| *i == name.value);
                if at.is_none() {
                    let mend = format!("name one of [port] interfaces: {}", port.interfaces.join(", "));
                    section.problem(name.span, format!("there is no interface {}", name.value), mend);
                }
                at.map(|i| i as u8)
            }
        };
        section.finish();
        let (Some(address), Some(mac), Some(interface)) = (address, mac, interface) else { continue };
        if mac.value.is_group() || mac.value.is_zero() {
            let what = format!("{} is no single station's link-layer address", mac.value);
            section.problem(mac.span, what, "give the neighbour's own; `ip neighbour` shows it");
        }
        if neighbours.iter().any(|n| n.address == address.value) {
            section.problem(address.span, format!("neighbour {} is given twice", address.value), "remove one");
        }
        neighbours.push(Neighbour { address: address.value, mac: mac.value, interface });
    }
    neighbours
}

fn routes(root: &Section<'_, '_>) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    for section in root.tables("routes", "a route") {
        let to = section.string("to");
        section.require("to", "add to = \"0.0.0.0/0\" (or another network)");
        let via = section.address("via");
        section.finish();
        let Some(to) = to else { continue };
        let Ok(net) = to.value.parse::<IpNet>() else {
            let what = format!("{:?} is no network", to.value);
            section.problem(to.span, what, "write address/length, such as \"198.51.100.0/24\" or \"::/0\"");
            continue;
        };
        if let Some(via) = via.as_ref().filter(|v| v.value.is_ipv4() != net.addr().is_ipv4()) {
            let what = format!("the router {} is not of the family of {net}", via.value);
            section.problem(via.span.clone(), what, "give a router of the same family");
        }
        let route = Route { to: net.trunc(), via: via.map(|v| v.value) };
        if routes.iter().any(|r| r.to == route.to) {
            section.problem(to.span, format!("there are two routes to {}", route.to), "remove one");
        }
        routes.push(route);
    }
    routes
}

/// Health checks are asked by the kernel, which must be behind the port.
fn checkers(root: &Section<'_, '_>, port: &Port, services: &[super::Service]) {
    let checked = services.iter().find(|s| s.check.is_some());
    if let Some(service) = checked.filter(|_| !port.has_kernel()) {
        let what =
            format!("service {} has a `check`, and the port has no kernel that could ask its servers", service.name);
        root.problem(0..1, what, "remove the check, use [port] kind = \"af-xdp\", or with DPDK give it [[port.taps]]");
    }
}

/// Everything to an address of full NAT is the director's: a kernel that had it on a TAP device would get no answer there.
fn tap_addresses(root: &Section<'_, '_>, port: &Port, services: &[super::Service]) {
    for tap in &port.taps {
        for address in tap.addresses.iter().map(|net| net.addr()) {
            let Some(service) = services.iter().find(|s| s.sources.contains(&address)) else { continue };
            let what = format!(
                "{address} is the kernel's on TAP device {}, and one of the `sources` of service {}",
                tap.name, service.name
            );
            root.problem(
                0..1,
                what,
                "give one of them another address: what comes to `sources` is the director's alone",
            );
        }
    }
}

/// Where there is no kernel behind the port, nobody can be asked for the addresses where tunnels begin.
fn tunnel_sources(root: &Section<'_, '_>, port: &Port, director: &Director, services: &[super::Service]) {
    if port.kind == PortKind::AfXdp {
        return;
    }
    let of_family = |a: IpAddr| director.addresses.iter().any(|d| d.is_ipv4() == a.is_ipv4());
    let lacking = |s: &super::Service| {
        s.servers.iter().find(|r| r.forward == Forward::Tunnel && !of_family(r.address)).map(|r| r.name.clone())
    };
    for service in services {
        if let Some(server) = lacking(service) {
            let what = format!("the tunnel to server {}/{server} has no address to begin at", service.name);
            let mend = "add an address of the server's family to [director] addresses";
            root.problem(0..1, what, mend);
        }
    }
}
