//! The kernel, its clock, its mitigations, and what it runs on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::tree::Tree;

/// The kernel that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// As `uname -r`.
    pub release: Option<String>,
    /// What it was started with.
    pub command_line: Option<String>,
    /// Who chooses idle states, and by what driver.
    pub idle_governor: Option<String>,
    /// The driver of idle states.
    pub idle_driver: Option<String>,
    /// What says that this is a virtual machine; empty where nothing does, which is no proof.
    pub virtualisation: Vec<String>,
    /// Number of IOMMU groups; 0: no IOMMU is in use.
    pub iommu_groups: usize,
}

impl Kernel {
    /// The first two numbers of the release, for comparing: `(6, 1)`.
    pub fn version(&self) -> Option<(u32, u32)> {
        let release = self.release.as_deref()?;
        let mut parts = release.split(|c: char| !c.is_ascii_digit());
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }

    /// The value of a kernel parameter `name=value`, the last one given.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let line = self.command_line.as_deref()?;
        line.split_whitespace().filter_map(|word| word.split_once('=')).rfind(|(n, _)| *n == name).map(|(_, v)| v)
    }
}

/// The clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// The clock source in use.
    pub source: Option<String>,
    /// Those that could be.
    pub available: Vec<String>,
    /// The time stamp counter goes at one rate whatever the frequency (`constant_tsc`) and in every idle state
    /// (`nonstop_tsc`).
    pub tsc_invariant: Option<bool>,
}

const IDLE: &str = "sys/devices/system/cpu/cpuidle";
const CLOCK: &str = "sys/devices/system/clocksource/clocksource0";
const FLAWS: &str = "sys/devices/system/cpu/vulnerabilities";

pub(super) fn read(tree: &Tree) -> Kernel {
    Kernel {
        release: tree.text("proc/sys/kernel/osrelease"),
        command_line: tree.text("proc/cmdline"),
        idle_governor: tree
            .text(&format!("{IDLE}/current_governor"))
            .or_else(|| tree.text(&format!("{IDLE}/current_governor_ro"))),
        idle_driver: tree.text(&format!("{IDLE}/current_driver")),
        virtualisation: virtualisation(tree),
        iommu_groups: tree.names("sys/kernel/iommu_groups").len(),
    }
}

fn virtualisation(tree: &Tree) -> Vec<String> {
    let mut signs = Vec::new();
    if super::cpu::processor(tree).flag("hypervisor") == Some(true) {
        signs.push("the processor has the flag \"hypervisor\"".to_owned());
    }
    if let Some(kind) = tree.text("sys/hypervisor/type") {
        signs.push(format!("/sys/hypervisor/type is {kind}"));
    }
    if let Some(clock) =
        clock(tree).available.iter().find(|c| matches!(c.as_str(), "kvm-clock" | "xen") || c.starts_with("hyperv"))
    {
        signs.push(format!("the clock source {clock} is offered"));
    }
    let id = |file: &str| tree.text(&format!("sys/class/dmi/id/{file}"));
    let names = [id("sys_vendor"), id("product_name")];
    let known = ["QEMU", "KVM", "VMware", "VirtualBox", "Xen", "Virtual Machine", "Google Compute Engine", "Bochs"];
    let names = names.iter().flatten().map(String::as_str).collect::<Vec<_>>().join(" ");
    if known.iter().any(|known| names.contains(known)) {
        signs.push(format!("the firmware calls the machine {names}"));
    }
    signs
}

pub(super) fn clock(tree: &Tree) -> Clock {
    let available = tree.text(&format!("{CLOCK}/available_clocksource")).unwrap_or_default();
    let processor = super::cpu::processor(tree);
    Clock {
        source: tree.text(&format!("{CLOCK}/current_clocksource")),
        available: available.split_whitespace().map(str::to_owned).collect(),
        // Other processors than x86 have no such flags, and none of the counters that they speak of.
        tsc_invariant: processor
            .flag("tsc")
            .filter(|tsc| *tsc)
            .and_then(|_| Some(processor.flag("constant_tsc")? && processor.flag("nonstop_tsc")?)),
    }
}

pub(super) fn mitigations(tree: &Tree) -> BTreeMap<String, String> {
    let one = |name: String| Some((name.clone(), tree.text(&format!("{FLAWS}/{name}"))?));
    tree.names(FLAWS).into_iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_and_parameters_are_read() {
        let kernel = |release: &str, line: &str| Kernel {
            release: Some(release.into()),
            command_line: Some(line.into()),
            ..Default::default()
        };
        assert_eq!(kernel("6.1.0-18-amd64", "").version(), Some((6, 1)));
        assert_eq!(kernel("5.14", "").version(), Some((5, 14)));
        assert_eq!(kernel("next", "").version(), None);
        let k = kernel("6.1", "quiet isolcpus=1 isolcpus=managed_irq,2-3 root=UUID=a=b");
        assert_eq!(
            (k.parameter("isolcpus"), k.parameter("root"), k.parameter("quiet")),
            (Some("managed_irq,2-3"), Some("UUID=a=b"), None)
        );
    }
}
