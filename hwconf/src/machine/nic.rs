//! Network interfaces and the PCI devices behind them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Interrupt;
use super::tree::Tree;
use crate::error::Result;
use crate::ethtool::{Ethtool, Offload};
use crate::links::Interface;
use crate::receive::{FlowType, Rings, Rss};
use crate::rtnl::Rtnl;
use crate::xdp::XdpAbilities;

/// What netlink and the driver tell of an interface, by system calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// Name, driver, queues, MTU, offloads.
    #[serde(flatten)]
    pub interface: Interface,
    /// Sizes of its rings.
    #[serde(default)]
    pub rings: Option<Rings>,
    /// How frames are spread over the queues.
    #[serde(default)]
    pub rss: Option<Rss>,
    /// What is hashed for that, by kind of packet, in the letters of [`crate::receive`].
    #[serde(default)]
    pub hash_fields: BTreeMap<FlowType, String>,
    /// Features beyond the offloads that change what frames look like or where they go, by the kernel's names.
    #[serde(default)]
    pub features: BTreeMap<String, bool>,
    /// What it can do with XDP.
    #[serde(default)]
    pub xdp: Option<XdpAbilities>,
    /// How many addresses it has, link-local ones not counted.
    #[serde(default)]
    pub addresses: Option<usize>,
    /// A default route leads to it.
    #[serde(default)]
    pub default_route: Option<bool>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Nic {
    /// What netlink and the driver tell.
    #[serde(flatten)]
    pub told: Told,
    /// The PCI device behind it.
    pub pci: Option<Pci>,
    /// Its interrupts, in ascending order.
    pub interrupts: Vec<Interrupt>,
}

impl Nic {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.told.interface.link.name
    }

    /// The kernel driver's name.
    pub fn driver(&self) -> Option<&str> {
        self.told.interface.driver.as_ref().map(|driver| driver.name.as_str())
    }

    /// NUMA node of its slot.
    pub fn node(&self) -> Option<u32> {
        self.told.interface.numa_node.or_else(|| self.pci.as_ref().and_then(|pci| pci.node))
    }

    /// Whether an offload is on.
    pub fn offload(&self, offload: Offload) -> Option<bool> {
        self.told.interface.offloads.get(&offload).copied()
    }

    /// Whether a feature of [`Told::features`] is on.
    pub fn feature(&self, name: &str) -> bool {
        self.told.features.get(name).copied().unwrap_or(false)
    }

    /// The most queues that it can have of each direction; `None` where the driver does not tell.
    pub fn most_queues(&self) -> Option<u32> {
        let channels = self.told.interface.channels.as_ref()?;
        Some(if channels.max_combined > 0 { channels.max_combined } else { channels.max_rx.min(channels.max_tx) })
            .filter(|queues| *queues > 0)
    }

    /// Interrupts that frames cause: those with a queue's number in their names, or all where none has one.
    pub fn queue_interrupts(&self) -> Vec<&Interrupt> {
        let of_queue = |i: &&Interrupt| {
            let name = i.name.to_ascii_lowercase();
            name.contains("rx") || name.contains("input") || name.contains("output") || name.contains("comp")
        };
        let queues: Vec<&Interrupt> = self.interrupts.iter().filter(of_queue).collect();
        if queues.is_empty() { self.interrupts.iter().collect() } else { queues }
    }
}

/// A network device on PCI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pci {
    /// Its address, as `0000:3b:00.0`.
    pub address: String,
    /// Vendor and device, hexadecimal, as `8086:1592`.
    pub id: String,
    /// The driver that has it (`ice`, `vfio-pci`); none where it is free.
    pub driver: Option<String>,
    /// NUMA node of its slot.
    pub node: Option<u32>,
    /// The logical processors next to it.
    pub cpus: Option<Vec<usize>>,
    /// Lanes in use and at most.
    pub lanes: Option<(u32, u32)>,
    /// Speed of a lane in use and at most, as the kernel writes it (`16.0 GT/s PCIe`).
    pub lane_speed: Option<(String, String)>,
    /// It is behind an IOMMU, as `vfio-pci` wants it.
    pub iommu: bool,
}

const DEVICES: &str = "sys/bus/pci/devices";
/// Class of network controllers in the upper byte.
const NETWORK: &str = "0x02";

pub(super) fn pci_devices(tree: &Tree) -> Vec<Pci> {
    let is_network = |address: &String| {
        tree.text(&format!("{DEVICES}/{address}/class")).is_some_and(|class| class.starts_with(NETWORK))
    };
    tree.names(DEVICES).into_iter().filter(is_network).filter_map(|address| pci(tree, &address)).collect()
}

fn pci(tree: &Tree, address: &str) -> Option<Pci> {
    let at = |file: &str| format!("{DEVICES}/{address}/{file}");
    let hexadecimal = |file: &str| Some(tree.text(&at(file))?.trim_start_matches("0x").to_owned());
    Some(Pci {
        address: address.to_owned(),
        id: format!("{}:{}", hexadecimal("vendor")?, hexadecimal("device")?),
        driver: tree.link(&at("driver")),
        // The kernel writes −1 for "no node", which isn't a u32.
        node: tree.number(&at("numa_node")),
        cpus: tree.cores(&at("local_cpulist")).filter(|list| !list.is_empty()),
        // 255 lanes is how some devices say that they don't know.
        lanes: tree
            .number(&at("current_link_width"))
            .zip(tree.number(&at("max_link_width")))
            .filter(|(now, most)| (1..=32).contains(now) && (1..=32).contains(most)),
        lane_speed: tree
            .text(&at("current_link_speed"))
            .zip(tree.text(&at("max_link_speed")))
            .filter(|(now, most)| !now.starts_with("Unknown") && !most.starts_with("Unknown")),
        iommu: tree.exists(&at("iommu_group")) || tree.link(&at("iommu_group")).is_some(),
    })
}

/// Joins what was told with what the tree knows.
pub(super) fn read(tree: &Tree, told: Vec<Told>, interrupts: &BTreeMap<u32, Interrupt>) -> Vec<Nic> {
    told.into_iter()
        .map(|told| {
            // By the PCI address and not by the interface's name: sysfs may show another namespace's interfaces.
            let address = told.interface.driver.as_ref().map(|driver| driver.bus.as_str());
            let pci = address.filter(|bus| !bus.is_empty() && !bus.contains('/')).and_then(|bus| pci(tree, bus));
            let numbers = pci.as_ref().map(|pci| tree.numbered(&format!("{DEVICES}/{}/msi_irqs", pci.address), ""));
            let interrupts = numbers
                .unwrap_or_default()
                .into_iter()
                .filter_map(|number| interrupts.get(&u32::try_from(number).ok()?).cloned())
                .collect();
            Nic { told, pci, interrupts }
        })
        .collect()
}

/// Features that are told beside the offloads.
const FEATURES: [&str; 7] =
    ["rx-lro", "rx-gro-hw", "rx-gro-list", "rx-udp-gro-forwarding", "rx-ntuple-filter", "rx-hashing", "hw-tc-offload"];

/// Asks netlink and the drivers of the calling thread's network namespace.
pub(super) fn ask() -> Result<Vec<Told>> {
    let ethtool = Ethtool::open()?;
    // An older kernel, or one that lets only root ask: nothing is told.
    let mut abilities = crate::xdp::abilities().unwrap_or_default();
    let rtnl = Rtnl::open()?;
    let default_routes = rtnl.default_route_links().ok();
    let one = |interface: Interface| {
        let name = interface.link.name.as_str();
        let mut features = ethtool.features(name).unwrap_or_default();
        features.retain(|feature, _| FEATURES.contains(&feature.as_str()));
        Told {
            rings: ethtool.rings(name).ok().flatten(),
            rss: ethtool.rss(name).ok().flatten(),
            hash_fields: ethtool.hash_fields(name),
            features,
            xdp: abilities.remove(&interface.link.index),
            addresses: rtnl.addresses(name).ok().map(|addresses| addresses.len()),
            default_route: default_routes.as_ref().map(|links| links.contains(&interface.link.index)),
            interface,
        }
    };
    Ok(crate::links::interfaces()?.into_iter().map(one).collect())
}
