//! Logical processors: where they lie, what they share, how they save power.

use serde::{Deserialize, Serialize};

use super::tree::Tree;
use crate::error::{Error, Result};

/// The processor's model, and the abilities that matter to us.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processor {
    /// As it calls itself.
    pub model: Option<String>,
    /// Processor flags of `/proc/cpuinfo`, as written there; empty where it has none.
    pub flags: Vec<String>,
    /// Whether simultaneous multithreading is in use.
    pub smt: Option<bool>,
}

impl Processor {
    /// Whether a flag is there; `None` where the machine tells no flags at all.
    pub fn flag(&self, name: &str) -> Option<bool> {
        (!self.flags.is_empty()).then(|| self.flags.iter().any(|flag| flag == name))
    }
}

/// A logical processor as the kernel numbers it: a core, or a thread of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// The kernel's number, as `[workers] cores` takes it.
    pub id: usize,
    /// In use by the kernel.
    pub online: bool,
    /// Socket (physical package).
    pub package: Option<i32>,
    /// Physical core within the package.
    pub core: Option<i32>,
    /// The logical processors of the same physical core, itself included.
    pub siblings: Option<Vec<usize>>,
    /// NUMA node.
    pub node: Option<u32>,
    /// Kept free of ordinary tasks (`isolcpus=`).
    pub isolated: bool,
    /// Kept free of the timer's tick while one task runs (`nohz_full=`).
    pub nohz_full: bool,
    /// Its caches.
    pub caches: Vec<Cache>,
    /// What decides on its frequency (`performance`, `powersave`, …).
    pub governor: Option<String>,
    /// The driver behind the governor (`intel_pstate`, …).
    pub frequency_driver: Option<String>,
    /// Lowest and highest frequency that the governor may choose, kHz.
    pub frequency: Option<(u64, u64)>,
    /// Its idle states (C-states), the lightest first.
    pub idle_states: Vec<IdleState>,
}

impl Cpu {
    /// The other logical processors of its physical core; empty also where the machine does not tell.
    pub fn other_threads(&self) -> impl Iterator<Item = usize> {
        self.siblings.iter().flatten().copied().filter(|id| *id != self.id)
    }
}

/// One cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// 1, 2, 3, …
    pub level: u32,
    /// `Data`, `Instruction` or `Unified`.
    pub kind: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// The logical processors that share it.
    pub shared: Vec<usize>,
}

/// One idle state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleState {
    /// The kernel's number of it.
    pub number: usize,
    /// Its name (`C1E`, `C6`, …).
    pub name: String,
    /// How long leaving it takes, microseconds.
    pub exit_us: u64,
    /// Not to be entered.
    pub disabled: bool,
}

const CPU: &str = "sys/devices/system/cpu";

pub(super) fn read(tree: &Tree) -> Result<Vec<Cpu>> {
    let ids = tree.numbered(CPU, "cpu");
    if ids.is_empty() {
        return Err(Error::Invalid {
            what: format!("no processor in {}", tree.place(CPU).display()),
            mend: "is /sys mounted, and the folder the root of a machine's tree?".into(),
        });
    }
    let isolated = tree.cores(&format!("{CPU}/isolated")).unwrap_or_default();
    let tickless = tree.cores(&format!("{CPU}/nohz_full")).unwrap_or_default();
    let online = tree.cores(&format!("{CPU}/online"));
    Ok(ids
        .into_iter()
        .map(|id| {
            let at = |file: &str| format!("{CPU}/cpu{id}/{file}");
            Cpu {
                id,
                online: online.as_ref().is_none_or(|online| online.contains(&id)),
                package: tree.number(&at("topology/physical_package_id")).filter(|n: &i32| *n >= 0),
                core: tree.number(&at("topology/core_id")).filter(|n: &i32| *n >= 0),
                siblings: tree.cores(&at("topology/thread_siblings_list")).filter(|list| !list.is_empty()),
                node: tree.numbered(&at(""), "node").first().and_then(|n| u32::try_from(*n).ok()),
                isolated: isolated.contains(&id),
                nohz_full: tickless.contains(&id),
                caches: caches(tree, id),
                governor: tree.text(&at("cpufreq/scaling_governor")),
                frequency_driver: tree.text(&at("cpufreq/scaling_driver")),
                frequency: tree
                    .number(&at("cpufreq/scaling_min_freq"))
                    .zip(tree.number(&at("cpufreq/scaling_max_freq"))),
                idle_states: idle_states(tree, id),
            }
        })
        .collect())
}

fn caches(tree: &Tree, cpu: usize) -> Vec<Cache> {
    let folder = format!("{CPU}/cpu{cpu}/cache");
    let one = |index: usize| {
        let at = |file: &str| format!("{folder}/index{index}/{file}");
        Some(Cache {
            level: tree.number(&at("level"))?,
            kind: tree.text(&at("type"))?,
            bytes: size(&tree.text(&at("size"))?)?,
            shared: tree.cores(&at("shared_cpu_list")).unwrap_or_default(),
        })
    };
    tree.numbered(&folder, "index").into_iter().filter_map(one).collect()
}

/// `512K`, `32M` in bytes.
fn size(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let scale: u64 = match unit {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(scale)
}

fn idle_states(tree: &Tree, cpu: usize) -> Vec<IdleState> {
    let folder = format!("{CPU}/cpu{cpu}/cpuidle");
    let one = |number: usize| {
        let at = |file: &str| format!("{folder}/state{number}/{file}");
        Some(IdleState {
            number,
            name: tree.text(&at("name"))?,
            exit_us: tree.number(&at("latency"))?,
            disabled: tree.number::<u64>(&at("disable")).is_some_and(|n| n != 0),
        })
    };
    tree.numbered(&folder, "state").into_iter().filter_map(one).collect()
}

pub(super) fn processor(tree: &Tree) -> Processor {
    let info = tree.text("proc/cpuinfo").unwrap_or_default();
    let field = |names: &[&str]| {
        info.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| names.contains(&name.trim()))
            .map(|(_, v)| v.trim())
    };
    Processor {
        model: field(&["model name", "Model"]).map(str::to_owned),
        // "Features" is what Arm calls them.
        flags: field(&["flags", "Features"])
            .map(|f| f.split_whitespace().map(str::to_owned).collect())
            .unwrap_or_default(),
        smt: tree.number::<u8>(&format!("{CPU}/smt/active")).map(|n| n != 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_caches_have_units() {
        assert_eq!((size("32K"), size("48M"), size("512")), (Some(32 << 10), Some(48 << 20), Some(512)));
        assert_eq!((size("K"), size("3G"), size("")), (None, None, None));
    }
}
