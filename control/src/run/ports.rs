//! Opening the ports that the configuration names.

use crate::config::{Configuration, Copy, XdpMode};
use crate::model::Environment;
use lcs_dataplane::headers::MacAddr;
use lcs_dataplane::port::af_xdp::{AfXdpPort, Attached, CopyPreference, ModePreference, PortOptions, XdpFilter};
use lcs_hwconf::rtnl::Rtnl;
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
    let mut environment = Environment { addresses: configuration.director.addresses.clone(), ..Default::default() };
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
    let options = PortOptions { frames: settings.buffers, copy };
    let references: Vec<&Attached> = attached.iter().collect();
    let mut ports = Vec::with_capacity(workers);
    for queue in 0..workers {
        ports.push(AfXdpPort::open(&references, queue as u32, &options).map_err(|e| e.to_string())?);
    }
    let words = ports.first().map(|p| p.interfaces().map(|i| i.to_string()).collect()).unwrap_or_default();
    Ok(AfXdp { ports, filter, attached, environment, words })
}

/// Frames on a queue that no worker polls would go past the director.
fn queues(name: &str, queues: usize, workers: usize) -> String {
    format!(
        "{name} has {queues} receive queues, and there are {workers} workers, one a queue; set the interface to \
         {workers} (`ethtool -L {name} combined {workers}`, or rx {workers}), or give [workers] cores {queues} cores"
    )
}
