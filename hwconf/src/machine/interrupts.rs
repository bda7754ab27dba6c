//! Interrupts, and the cores that serve them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::tree::Tree;

/// One interrupt of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupt {
    /// Its number in `/proc/irq`.
    pub number: u32,
    /// The driver's name for it, e.g. `ice-ens1f0-TxRx-3`.
    pub name: String,
    /// The cores that it may come to.
    pub allowed: Option<Vec<usize>>,
    /// The cores that it does come to.
    pub effective: Option<Vec<usize>>,
    /// How often it came since the start, all cores together.
    pub count: u64,
}

impl Interrupt {
    /// The cores that it comes to, as closely as they are told.
    pub fn cores(&self) -> &[usize] {
        self.effective.as_ref().filter(|cores| !cores.is_empty()).or(self.allowed.as_ref()).map_or(&[], Vec::as_slice)
    }
}

/// All interrupts that have a number, by it.
pub(super) fn read(tree: &Tree) -> BTreeMap<u32, Interrupt> {
    let text = tree.text("proc/interrupts").unwrap_or_default();
    let columns = text.lines().next().map_or(0, |head| head.split_whitespace().count());
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let (number, rest) = line.split_once(':')?;
            let number: u32 = number.trim().parse().ok()?;
            let words: Vec<&str> = rest.split_whitespace().collect();
            // A count for each core, the controller and its own number (two words or more), the device's name.
            let counts = words.get(..columns)?;
            let at = |file: &str| tree.cores(&format!("proc/irq/{number}/{file}"));
            let interrupt = Interrupt {
                number,
                name: words.get(columns..).and_then(<[_]>::last).map(|name| (*name).to_owned()).unwrap_or_default(),
                allowed: at("smp_affinity_list"),
                effective: at("effective_affinity_list"),
                count: counts.iter().filter_map(|n| n.parse::<u64>().ok()).fold(0, u64::saturating_add),
            };
            Some((number, interrupt))
        })
        .collect()
}
