//! What a machine is, as a value: read once, and then planned with ([`crate::plan`]) and looked over ([`crate::check`]) without
//! asking again.
//!
//! It has two sources. Files of `/sys` and `/proc` are read below a root folder, so that a recorded tree serves as well. What only
//! system calls tell (netlink, `SIOCETHTOOL`) is in [`Told`], which a recorded tree has in the file `answers.json`.
//!
//! What the machine does not tell is `None` or left out, never guessed.

mod cpu;
mod interrupts;
mod kernel;
mod memory;
mod nic;
mod tree;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use cpu::{Cache, Cpu, IdleState, Processor};
pub use interrupts::Interrupt;
pub use kernel::{Clock, Kernel};
pub use memory::{Hugepages, Node};
pub use nic::{Nic, Pci, Told};

use crate::error::{Error, Result};
use tree::Tree;

/// The file of a recorded tree that holds the answers of netlink and of the drivers: a list of [`Told`], as JSON.
pub const ANSWERS: &str = "answers.json";

/// A machine, as far as it tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The kernel that runs, and how it was started.
    pub kernel: Kernel,
    /// The processor; all sockets of a machine have the same.
    pub processor: Processor,
    /// Its logical processors, in ascending order of their numbers.
    pub cpus: Vec<Cpu>,
    /// NUMA nodes; empty where the machine tells none.
    pub nodes: Vec<Node>,
    /// Hugepages of the whole machine.
    pub hugepages: Vec<Hugepages>,
    /// The network interfaces of this network namespace.
    pub nics: Vec<Nic>,
    /// Interrupts of all devices, those of the interfaces among them, in ascending order.
    #[serde(default)]
    pub interrupts: Vec<Interrupt>,
    /// Network devices on PCI, also those that no kernel interface shows because DPDK has them.
    pub pci: Vec<Pci>,
    /// The clock.
    pub clock: Clock,
    /// What the kernel does about flaws of the processor, by the flaw's name.
    pub mitigations: BTreeMap<String, String>,
}

impl Machine {
    /// This machine, seen from the network namespace of the calling thread.
    ///
    /// # Errors
    /// When `/proc`, `/sys` or netlink cannot be read at all. What a driver does not tell is no error.
    pub fn here() -> Result<Self> {
        Self::gather(&Tree::new(Path::new("/")), nic::ask()?)
    }

    /// The machine whose `/sys` and `/proc` were recorded in the folder `root`, with the answers of its drivers in [`ANSWERS`]
    /// (none without that file).
    ///
    /// # Errors
    /// When there is no such tree, or when the answers cannot be read.
    pub fn recorded(root: &Path) -> Result<Self> {
        let file = root.join(ANSWERS);
        let told = match std::fs::read_to_string(&file) {
            Ok(text) => serde_json::from_str(&text).map_err(|e| Error::Invalid {
                what: format!("{}: {e}", file.display()),
                mend: "it should hold a list of what each interface's driver told".into(),
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(Error::system(format!("read {}", file.display()), e)),
        };
        Self::gather(&Tree::new(root), told)
    }

    fn gather(tree: &Tree, told: Vec<Told>) -> Result<Self> {
        let cpus = cpu::read(tree)?;
        let interrupts = interrupts::read(tree);
        Ok(Machine {
            kernel: kernel::read(tree),
            processor: cpu::processor(tree),
            nodes: memory::nodes(tree),
            hugepages: memory::hugepages(tree, "sys/kernel/mm/hugepages"),
            nics: nic::read(tree, told, &interrupts),
            interrupts: interrupts.into_values().collect(),
            pci: nic::pci_devices(tree),
            clock: kernel::clock(tree),
            mitigations: kernel::mitigations(tree),
            cpus,
        })
    }

    /// The interface of this name.
    pub fn nic(&self, name: &str) -> Option<&Nic> {
        self.nics.iter().find(|nic| nic.name() == name)
    }

    /// The logical processor of this number.
    pub fn cpu(&self, id: usize) -> Option<&Cpu> {
        self.cpus.iter().find(|cpu| cpu.id == id)
    }

    /// The PCI device at this address, as `0000:3b:00.0`.
    pub fn pci(&self, address: &str) -> Option<&Pci> {
        self.pci.iter().find(|pci| pci.address == address)
    }

    /// The interface and those that stand on it, directly or not: bonds and bridges that it is a port of, VLANs.
    pub fn with_uppers<'a>(&'a self, nic: &'a Nic) -> Vec<&'a Nic> {
        let mut group = vec![nic];
        let mut at = 0;
        while let Some(below) = group.get(at).map(|nic| &nic.told.interface.link) {
            let stands_on = |other: &&Nic| {
                let link = &other.told.interface.link;
                let on_top = link.below == Some(below.index) && !link.below_elsewhere && other.driver() != Some("veth");
                (below.master == Some(link.index) || on_top)
                    && !group.iter().any(|seen| seen.told.interface.link.index == link.index)
            };
            let uppers: Vec<&Nic> = self.nics.iter().filter(stands_on).collect();
            group.extend(uppers);
            at += 1;
        }
        group
    }

    /// The other end of a veth, where it is in the same network namespace.
    pub fn veth_peer(&self, nic: &Nic) -> Option<&Nic> {
        let link = &nic.told.interface.link;
        let index = link.below.filter(|_| !link.below_elsewhere && nic.driver() == Some("veth"))?;
        self.nics.iter().find(|other| other.told.interface.link.index == index)
    }
}

/// Says what is known, and "not told by this machine" otherwise.
pub fn told<T: std::fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| NOT_TOLD.to_owned(), |value| value.to_string())
}

/// What is said in the place of what the machine keeps to itself.
pub const NOT_TOLD: &str = "not told by this machine";
