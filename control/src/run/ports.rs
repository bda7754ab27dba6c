//! Opening the ports that the configuration names.

use crate::config::{Configuration, Copy, XdpMode};
use crate::model::Environment;
use lcs_dataplane::headers::MacAddr;
use lcs_dataplane::port::af_xdp::{
    AfXdpPort, Attached, CopyPreference, InterfaceReport, ModePreference, PortOptions, XdpFilter, XdpMode as Mode,
};
#[cfg(feature = "dpdk")]
use lcs_dataplane::port::tap::{TapEnd, TapOptions, TapThread};
use lcs_hwconf::ethtool::Ethtool;
use lcs_hwconf::rtnl::Rtnl;
#[cfg(feature = "dpdk")]
use lcs_hwconf::tap::{Tap, TapPlan};
use lcs_pipelines::snapshot::Interface;

/// AF_XDP ports, one for each worker.
pub(super) struct AfXdp {
    pub(super) ports: Vec<AfXdpPort>,
    pub(super) filter: XdpFilter,
    /// Dropping these detaches the XDP program.
    pub(super) attached: Vec<Attached>,
    pub(super) environment: Environment,
    /// The interfaces in words.
    pub(super) words: Vec<String>,
    /// What is to be known of them besides.
    pub(super) notes: Vec<String>,
}

/// Opens them. The tables of the XDP program are empty: every frame is still the kernel's.
pub(super) fn open(configuration: &Configuration) -> Result<AfXdp, String> {
    let settings = &configuration.port;
    let workers = configuration.workers.count();
    let filter = XdpFilter::load().map_err(|e| e.to_string())?;
    let preference = match settings.mode {
        XdpMode::Auto => ModePreference::Auto,
        XdpMode::Native => ModePreference::Native,
        XdpMode::Generic => ModePreference::Generic,
    };
    let copy = match settings.copy {
        Copy::Auto => CopyPreference::Auto,
        Copy::Copy => CopyPreference::Copy,
        Copy::ZeroCopy => CopyPreference::ZeroCopy,
    };
    let rtnl = Rtnl::open().map_err(|e| e.to_string())?;
    let mut attached = Vec::new();
    let mut environment = Environment {
        given: configuration.director.addresses.clone(),
        addresses: configuration.director.addresses.clone(),
        ..Default::default()
    };
    for name in &settings.interfaces {
        let interface = lcs_hwconf::links::interface(name).map_err(|e| e.to_string())?;
        if interface.receive_queues as usize != workers {
            return Err(queues(name, interface.receive_queues as usize, workers));
        }
        let mac = interface.link.mac.ok_or_else(|| format!("{name} is no Ethernet interface; name one that is"))?;
        environment.interfaces.push(Interface {
            name: name.clone(),
            mac: MacAddr(mac),
            mtu: u16::try_from(interface.link.mtu).unwrap_or(u16::MAX),
        });
        for net in rtnl.addresses(name).map_err(|e| e.to_string())? {
            if !environment.addresses.contains(&net.addr()) {
                environment.addresses.push(net.addr());
            }
        }
        attached.push(filter.attach(&interface, preference).map_err(|e| e.to_string())?);
    }
    // Read once, so that all workers have the same.
    let rss_table = table(&settings.interfaces, workers);
    environment.rss_table = rss_table;
    let options = PortOptions { frames: settings.buffers, copy, coalesce: settings.coalesce, rss_table };
    let references: Vec<&Attached> = attached.iter().collect();
    let mut ports = Vec::with_capacity(workers);
    for queue in 0..workers {
        ports.push(AfXdpPort::open(&references, queue as u32, &options).map_err(|e| e.to_string())?);
    }
    let words = ports.first().map(|p| p.interfaces().map(|i| i.to_string()).collect()).unwrap_or_default();
    let notes = ports.first().map(|p| p.interfaces().filter_map(|i| one_way(&i)).collect()).unwrap_or_default();
    Ok(AfXdp { ports, filter, attached, environment, words, notes })
}

/// What is to be known of an interface from which the kernel gets nothing back that was redirected.
fn one_way(interface: &InterfaceReport) -> Option<String> {
    let why = match interface.mode {
        _ if interface.gives_back => return None,
        Mode::Generic => "the XDP program runs above the driver (generic mode)",
        Mode::Native => "the kernel can't be given frames back (it needs Linux 5.18)",
    };
    Some(format!(
        "{}: {why}, so what is redirected and turns out not to be the director's is dropped: fragments and ICMP errors for the \
         machine itself where a service has its address. Services on addresses of their own lose nothing by it",
        interface.name
    ))
}

/// Entries of the cards' tables of receive queues, where every card is set up to name the owners' queues. Tables of different sizes agree
/// where the workers are a power of two.
fn table(interfaces: &[String], workers: usize) -> u16 {
    let Ok(ethtool) = Ethtool::open() else { return 0 };
    let entries = |name: &String| {
        let rss = ethtool.rss(name).ok().flatten()?;
        let entries = u16::try_from(rss.indirection.len()).ok()?;
        rss.names_owners(workers as u32).then_some(entries)
    };
    let tables: Option<Vec<u16>> = interfaces.iter().map(entries).collect();
    let tables = tables.unwrap_or_default();
    let alike = workers.is_power_of_two() || tables.iter().all(|entries| Some(entries) == tables.first());
    tables.first().copied().filter(|_| alike).unwrap_or(0)
}

/// What a program that was built without DPDK says when it is asked for it.
pub const WITHOUT_DPDK: &str = "this lcs was built without DPDK: install what it needs (`apt-get install -y libdpdk-dev \
    libclang-dev libpcap-dev libnuma-dev pkg-config`), and build it with `cargo build --release --features dpdk`";

/// DPDK ports, one for each worker.
#[cfg(feature = "dpdk")]
pub(super) struct Dpdk {
    pub(super) ports: Vec<lcs_dataplane::port::dpdk::DpdkPort>,
    /// DPDK itself, to be dropped after the ports.
    pub(super) dpdk: lcs_dataplane::port::dpdk::Environment,
    pub(super) lanes: Vec<lcs_dataplane::port::neighbours::NeighbourLane>,
    pub(super) environment: Environment,
    pub(super) words: Vec<String>,
    /// The kernel's devices; they are gone when these are dropped.
    pub(super) taps: Vec<TapThread>,
}

/// Starts DPDK, and opens them.
#[cfg(feature = "dpdk")]
pub(super) fn open_dpdk(configuration: &Configuration) -> Result<Dpdk, String> {
    use lcs_dataplane::port::dpdk::{DpdkPort, Options, open};
    let settings = &configuration.port;
    let options = Options {
        devices: settings.devices.clone(),
        cores: configuration.workers.cores.clone(),
        buffers: settings.buffers,
        arguments: settings.eal.clone(),
        clients: settings.clients.clone(),
    };
    let (dpdk, mut ports) = open(&options).map_err(|e| e.to_string())?;
    let interfaces: Vec<Interface> =
        dpdk.devices().iter().map(|d| Interface { name: d.name.clone(), mac: d.mac, mtu: d.mtu }).collect();
    let given = configuration.director.addresses.clone();
    let mut addresses = given.clone();
    // Where it asks from in IPv6 when it has no other address; neighbours ask for it in their turn.
    addresses.extend(interfaces.iter().map(|i| std::net::IpAddr::V6(super::resolver::link_local(i.mac))));
    let words = dpdk.devices().iter().map(|d| {
        let checks =
            if d.verifies_ip_checksum { "the device checks IPv4 headers" } else { "IPv4 headers are checked here" };
        let spread = match &d.by_client {
            None => String::new(),
            Some(Ok(_)) if d.is_clients => "; frames are spread by their source, which is the client".to_owned(),
            Some(Ok(_)) => "; frames are spread by their destination, which is the client".to_owned(),
            Some(Err(why)) => format!(
                "; it does not spread frames by the client's endpoint ({why}): those that come to the wrong worker are handed over"
            ),
        };
        format!(
            "{}: DPDK, driver {}, {}, MTU {}, {} queues; {checks}{spread}",
            d.name,
            d.driver,
            d.mac,
            d.mtu,
            ports.len()
        )
    });
    let mut words: Vec<String> = words.collect();
    let taps = open_taps(configuration, &interfaces, &mut ports, &mut words)?;
    let lanes = ports.iter_mut().map(DpdkPort::neighbour_lane).collect();
    let rss_table = ports.first().map_or(0, |port| lcs_dataplane::port::Port::capabilities(port).rss_table);
    let environment = Environment { interfaces, addresses, given, rss_table };
    Ok(Dpdk { ports, dpdk, lanes, environment, words, taps })
}

/// Opens the kernel's TAP devices, and gives every port its ends of them.
#[cfg(feature = "dpdk")]
fn open_taps(
    configuration: &Configuration,
    interfaces: &[Interface],
    ports: &mut [lcs_dataplane::port::dpdk::DpdkPort],
    words: &mut Vec<String>,
) -> Result<Vec<TapThread>, String> {
    let workers = &configuration.workers;
    let mut busy = workers.cores.clone();
    busy.extend(workers.content.iter().flat_map(|content| &content.cores));
    let mut threads = vec![];
    let mut ends: Vec<Vec<TapEnd>> = ports.iter().map(|_| vec![]).collect();
    for (tap, interface) in configuration.port.taps.iter().zip(interfaces) {
        let Interface { name: behind, mac, mtu } = interface;
        // The interface's own address: the card takes no frames for another.
        let plan = TapPlan {
            name: tap.name.clone(),
            mac: (!mac.is_zero()).then_some(mac.0),
            mtu: u32::from(*mtu),
            addresses: tap.addresses.clone(),
            forward: tap.forward,
        };
        let device = Tap::open(&plan).map_err(|e| e.to_string())?;
        let options = TapOptions { mac: *mac, mtu: *mtu, rate: tap.rate };
        let (thread, of_workers) = TapThread::start(device, &options, ports.len(), &busy)
            .map_err(|e| format!("the thread of the TAP device {} cannot be started: {e}", tap.name))?;
        threads.push(thread);
        for (of_worker, end) in ends.iter_mut().zip(of_workers) {
            of_worker.push(end);
        }
        let addresses: Vec<String> = tap.addresses.iter().map(ToString::to_string).collect();
        let addresses = if addresses.is_empty() { "no address given".to_owned() } else { addresses.join(", ") };
        let what = format!("TAP device of the kernel for {behind}: {addresses}; at most {} frames/s", tap.rate);
        words.push(format!("{}: {what}", tap.name));
    }
    let taps = &configuration.port.taps;
    if let Some(tap) = taps.first().filter(|_| taps.iter().all(|t| t.addresses.is_empty()))
        && configuration.services.iter().any(|s| s.check.is_some())
    {
        words.push(format!(
            "servers cannot be checked before a TAP device has an address: give [[port.taps]] `addresses`, or run \
             `ip address add ADDRESS/LENGTH dev {}`",
            tap.name
        ));
    }
    if !threads.is_empty() {
        for (port, ends) in ports.iter_mut().zip(ends) {
            port.join_kernel(ends);
        }
    }
    Ok(threads)
}

/// Frames on a queue that no worker polls would go past the director.
fn queues(name: &str, queues: usize, workers: usize) -> String {
    format!(
        "{name} has {queues} receive queues, and there are {workers} workers, one a queue; set the interface to \
         {workers} (`ethtool -L {name} combined {workers}`, or rx {workers}), or give [workers] cores {queues} cores"
    )
}
