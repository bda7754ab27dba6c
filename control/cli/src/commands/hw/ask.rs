//! What a configuration, or a few names, ask of the machine.

use crate::outcome::Error;
use lcs_control::config::{Configuration, Copy, PortKind, XdpMode};
use lcs_dataplane::worker::Idle;
use lcs_hwconf::asked::{self, Asked, Forwarding};
use lcs_pipelines::snapshot::Forward;
use std::path::Path;

/// Buffers where a configuration says nothing, as `lcs run` takes them.
const BUFFERS: u32 = 4096;

pub fn of_file(file: &Path) -> Result<Asked, Error> {
    Ok(of(&Configuration::load(file)?))
}

pub fn of_names(interfaces: &[String], devices: &[String]) -> Asked {
    let kind = if devices.is_empty() { asked::PortKind::AfXdp } else { asked::PortKind::Dpdk };
    let devices = devices.iter().map(|name| asked::Device { name: name.clone(), interface: None }).collect();
    Asked { kind, interfaces: interfaces.to_vec(), devices, buffers: BUFFERS, ..Default::default() }
}

fn of(configuration: &Configuration) -> Asked {
    let port = &configuration.port;
    let devices: Vec<asked::Device> = port
        .devices
        .iter()
        .map(|device| {
            let arguments = device.arguments.as_deref().unwrap_or_default();
            let interface = arguments.split(',').find_map(|a| a.strip_prefix("iface="));
            // A TAP device makes its interface itself.
            let interface = interface.filter(|_| !device.name.starts_with("net_tap"));
            asked::Device { name: device.name.clone(), interface: interface.map(str::to_owned) }
        })
        .collect();
    let kind = match port.kind {
        PortKind::AfXdp => asked::PortKind::AfXdp,
        PortKind::Dpdk => asked::PortKind::Dpdk,
        PortKind::Memory => asked::PortKind::Memory,
    };
    let interfaces = match port.kind {
        PortKind::AfXdp => port.interfaces.clone(),
        PortKind::Dpdk => devices.iter().filter_map(|device| device.interface.clone()).collect(),
        PortKind::Memory => Vec::new(),
    };
    let xdp = match port.mode {
        XdpMode::Auto => asked::XdpWish::Auto,
        XdpMode::Native => asked::XdpWish::Native,
        XdpMode::Generic => asked::XdpWish::Generic,
    };
    let of_servers =
        configuration.services.iter().flat_map(|service| &service.servers).map(|server| match server.forward {
            Forward::Nat => Forwarding::Nat,
            Forward::FullNat => Forwarding::FullNat,
            Forward::Dr => Forwarding::Direct,
            Forward::Tunnel if server.address.is_ipv6() => Forwarding::Tunnel6,
            Forward::Tunnel => Forwarding::Tunnel4,
        });
    let by_content = configuration.services.iter().filter(|s| s.content.is_some()).map(|_| Forwarding::Content);
    Asked {
        kind,
        interfaces,
        devices,
        cores: configuration.workers.cores.clone(),
        poll: configuration.workers.idle == Idle::Poll,
        content: configuration.workers.content.as_ref().map(|content| asked::ContentWorkers {
            count: content.count,
            cores: content.cores.clone(),
            poll: content.idle == Idle::Poll,
        }),
        xdp,
        zero_copy: port.copy == Copy::ZeroCopy,
        buffers: port.buffers,
        no_huge: port.eal.iter().flatten().any(|argument| argument == "--no-huge"),
        forwarding: of_servers.chain(by_content).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_asks_for_what_hardware_has_a_say_in() {
        let text = "[workers]\ncores = [2, 3]\nidle = \"poll\"\nplacement = \"split\"\ncontent-cores = [5]\n\
            content-idle = \"adaptive\"\n[port]\nkind = \"dpdk\"\n\
            interfaces = [\"0000:3b:00.0\", \"net_af_packet0,iface=eth1\", \"net_tap0,iface=lcs0\"]\n\
            eal = [\"--no-huge\"]\n[director]\naddresses = [\"10.0.0.9\", \"2001:db8::9\"]\n\
            [[services]]\nname = \"web\"\naddress = \"192.0.2.1\"\nport = 80\nservers = [\
            { name = \"s1\", address = \"10.0.0.1\" }, { name = \"s2\", address = \"2001:db8::2\", forward = \"tunnel\" }]\n";
        let asked = of(&Configuration::parse("t.toml", text).unwrap_or_else(|e| panic!("{e}")));
        assert_eq!((asked.kind, asked.poll, asked.no_huge), (asked::PortKind::Dpdk, true, true));
        assert_eq!((asked.cores.as_slice(), asked.interfaces.as_slice()), (&[2, 3][..], &["eth1".to_owned()][..]));
        assert_eq!(asked.content, Some(asked::ContentWorkers { count: 1, cores: vec![5], poll: false }));
        assert_eq!(asked.all_cores().collect::<Vec<_>>(), [2, 3, 5]);
        assert_eq!(
            asked.devices.iter().map(|d| d.interface.as_deref()).collect::<Vec<_>>(),
            [None, Some("eth1"), None]
        );
        assert_eq!(asked.forwarding.into_iter().collect::<Vec<_>>(), [Forwarding::Nat, Forwarding::Tunnel6]);
    }
}
