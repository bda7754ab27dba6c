//! NUMA nodes and hugepages.

use serde::{Deserialize, Serialize};

use super::tree::Tree;

/// A NUMA node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The kernel's number.
    pub id: u32,
    /// Its logical processors.
    pub cpus: Vec<usize>,
    /// Its memory, bytes.
    pub memory: Option<u64>,
    /// What of it is free, bytes.
    pub free: Option<u64>,
    /// Distance to each node in the kernel's measure: 10 to itself.
    pub distances: Vec<u32>,
    /// Its hugepages.
    pub hugepages: Vec<Hugepages>,
}

/// Hugepages of one size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hugepages {
    /// Size of a page, bytes.
    pub size: u64,
    /// How many there are.
    pub total: u64,
    /// How many of them nobody uses.
    pub free: u64,
}

const NODES: &str = "sys/devices/system/node";

pub(super) fn nodes(tree: &Tree) -> Vec<Node> {
    let one = |id: usize| {
        let at = |file: &str| format!("{NODES}/node{id}/{file}");
        let memory = tree.text(&at("meminfo")).unwrap_or_default();
        // "Node 0 MemTotal:       18573528 kB"
        let figure = |name: &str| {
            let line = memory.lines().find(|line| line.contains(name))?;
            line.split_whitespace().nth(3)?.parse::<u64>().ok()?.checked_mul(1024)
        };
        let distances = tree.text(&at("distance")).unwrap_or_default();
        Some(Node {
            id: u32::try_from(id).ok()?,
            cpus: tree.cores(&at("cpulist")).unwrap_or_default(),
            memory: figure(" MemTotal:"),
            free: figure(" MemFree:"),
            distances: distances.split_whitespace().filter_map(|d| d.parse().ok()).collect(),
            hugepages: hugepages(tree, &at("hugepages")),
        })
    };
    tree.numbered(NODES, "node").into_iter().filter_map(one).collect()
}

/// The hugepages that a folder `hugepages` tells of, the smallest first.
pub(super) fn hugepages(tree: &Tree, folder: &str) -> Vec<Hugepages> {
    let one = |name: &String| {
        let kilobytes: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let figure = |file: &str| tree.number(&format!("{folder}/{name}/{file}"));
        Some(Hugepages {
            size: kilobytes.checked_mul(1024)?,
            total: figure("nr_hugepages")?,
            free: figure("free_hugepages")?,
        })
    };
    let mut pages: Vec<Hugepages> = tree.names(folder).iter().filter_map(one).collect();
    pages.sort_by_key(|pages| pages.size);
    pages
}
