//! One network interface, with everything that a port or a plan needs to know of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cores::read_number;
use crate::error::Result;
use crate::ethtool::{Channels, Driver, Ethtool, Offload};
use crate::netns::Namespace;
use crate::rtnl::{Link, Rtnl};

/// What is known of an interface, gathered from rtnetlink and its driver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    /// Index, name, addresses, state.
    #[serde(flatten)]
    pub link: Link,
    /// Its driver, if it has one.
    pub driver: Option<Driver>,
    /// Receive queues in use.
    pub receive_queues: u32,
    /// Transmit queues in use.
    pub transmit_queues: u32,
    /// What the driver says of its queues, where it does.
    pub channels: Option<Channels>,
    /// Speed in Mbit/s, where known.
    pub speed: Option<u32>,
    /// The offloads that decide what a frame looks like when we see it.
    pub offloads: BTreeMap<Offload, bool>,
    /// NUMA node of its PCI slot, where it has one.
    pub numa_node: Option<u32>,
}

/// Describes the interface `name` of the calling thread's network namespace.
pub fn interface(name: &str) -> Result<Interface> {
    let link = Rtnl::open()?.link(name)?;
    describe(&Ethtool::open()?, link)
}

/// Describes the interface `name` of `namespace`.
pub fn interface_in(namespace: &Namespace, name: &str) -> Result<Interface> {
    namespace.run(|| interface(name))?
}

/// Describes every interface of the calling thread's network namespace.
pub fn interfaces() -> Result<Vec<Interface>> {
    let ethtool = Ethtool::open()?;
    Rtnl::open()?.links()?.into_iter().map(|link| describe(&ethtool, link)).collect()
}

fn describe(ethtool: &Ethtool, link: Link) -> Result<Interface> {
    let name = link.name.as_str();
    let driver = ethtool.driver(name)?;
    let channels = ethtool.channels(name)?;
    let speed = ethtool.speed(name)?;
    let offloads =
        Offload::ALL.into_iter().filter_map(|offload| Some((offload, ethtool.offload(name, offload).ok()?))).collect();
    // By the PCI address and not by the interface's name: sysfs may show another namespace's interfaces.
    // The kernel writes −1 for "no node", which isn't a u32.
    let numa_node = driver
        .as_ref()
        .filter(|driver| !driver.bus.is_empty() && !driver.bus.contains('/'))
        .and_then(|driver| read_number(format!("/sys/bus/pci/devices/{}/numa_node", driver.bus)));
    // A driver without channels has all the queues that it allocated in use.
    let in_use = |allocated: u32, count: fn(&Channels) -> u32| {
        channels.as_ref().map(count).filter(|count| *count > 0).unwrap_or(allocated)
    };
    Ok(Interface {
        receive_queues: in_use(link.rx_queues, Channels::receive),
        transmit_queues: in_use(link.tx_queues, Channels::transmit),
        driver,
        channels,
        speed,
        offloads,
        numa_node,
        link,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_described() {
        let lo = interface("lo").unwrap();
        assert_eq!(lo.link.index, 1);
        assert_eq!((lo.receive_queues, lo.transmit_queues), (1, 1));
        assert_eq!(lo.speed, None);
        assert!(lo.offloads.contains_key(&Offload::Gro));
        assert!(interfaces().unwrap().iter().any(|i| i.link.name == "lo"));
    }
}
