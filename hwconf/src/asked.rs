//! What a configuration asks of the machine: the part of it that hardware has a say in. Whoever has read a configuration fills it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// How a port reaches its interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortKind {
    /// AF_XDP, through the kernel's driver.
    #[default]
    AfXdp,
    /// DPDK, past the kernel.
    Dpdk,
    /// An in-process network: no hardware at all.
    Memory,
}

/// How packets reach a server, as far as the machine is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forwarding {
    /// Both directions come through the director, addresses are changed.
    Nat,
    /// The same with the director's own address towards servers.
    FullNat,
    /// Direct routing: one direction only.
    Direct,
    /// Wrapped in an outer IPv4 header.
    Tunnel4,
    /// Wrapped in an outer IPv6 header.
    Tunnel6,
    /// Switched by content: the director speaks TCP to both sides.
    Content,
}

impl Forwarding {
    /// Bytes that it adds to a packet: an outer IP header.
    pub fn overhead(self) -> u32 {
        match self {
            Forwarding::Tunnel4 => 20,
            Forwarding::Tunnel6 => 40,
            _ => 0,
        }
    }

    /// Whether both directions of a connection come through the director.
    pub fn both_directions(self) -> bool {
        matches!(self, Forwarding::Nat | Forwarding::FullNat | Forwarding::Content)
    }
}

/// Where an XDP program is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum XdpWish {
    /// In the driver where it can.
    #[default]
    Auto,
    /// In the driver or not at all.
    Native,
    /// In the kernel's generic hook.
    Generic,
}

/// A DPDK device that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its name: a PCI address or that of a virtual device.
    pub name: String,
    /// The kernel's interface that a virtual device stands on (`iface=`).
    pub interface: Option<String>,
}

/// Workers that decide on requests and poll no port (`[workers] placement = "split"`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentWorkers {
    /// How many.
    pub count: usize,
    /// Their cores; empty: they are not pinned.
    pub cores: Vec<usize>,
    /// They never sleep.
    pub poll: bool,
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// How the port reaches its interfaces.
    pub kind: PortKind,
    /// Interfaces of the kernel, in the configuration's order; with DPDK those behind virtual devices.
    pub interfaces: Vec<String>,
    /// Devices of DPDK.
    pub devices: Vec<Device>,
    /// The workers' cores; empty: one worker that is not pinned.
    pub cores: Vec<usize>,
    /// Workers never sleep.
    pub poll: bool,
    /// Content workers, where requests are decided apart from the packets' way.
    pub content: Option<ContentWorkers>,
    /// Where the XDP program is wanted.
    pub xdp: XdpWish,
    /// Frames must not be copied by the kernel.
    pub zero_copy: bool,
    /// Buffers for each interface and worker.
    pub buffers: u32,
    /// DPDK's environment is told to do without hugepages.
    pub no_huge: bool,
    /// All ways in which packets are forwarded.
    pub forwarding: BTreeSet<Forwarding>,
}

impl Asked {
    /// Number of workers, at least 1.
    pub fn workers(&self) -> usize {
        self.cores.len().max(1)
    }

    /// Cores of the content workers; none where there are no such workers, or they are not pinned.
    pub fn content_cores(&self) -> &[usize] {
        self.content.as_ref().map_or(&[], |content| &content.cores)
    }

    /// The cores of all workers.
    pub fn all_cores(&self) -> impl Iterator<Item = usize> + '_ {
        self.cores.iter().chain(self.content_cores()).copied()
    }
}
