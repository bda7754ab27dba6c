//! What to change on a machine so that a director can show what it is worth: which core polls which queue, and the commands for
//! the rest, to be reviewed. Nothing is run from here.

mod steps;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::asked::{Asked, PortKind};
use crate::error::{Error, Result};
use crate::machine::{Cpu, Machine, Nic};
use crate::profile::{self, Profile};

/// What the machine is to be good at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    /// Packets a second.
    #[default]
    Throughput,
    /// Little time, and always the same, from one interface to the other.
    Latency,
}

/// A worker, its core and its queues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Its number; it is also that of its queue on every interface.
    pub worker: usize,
    /// Its logical processor.
    pub core: usize,
    /// The NUMA node of that.
    pub node: Option<u32>,
    /// The processor on which the kernel serves its queues' interrupts; none with DPDK, which has none.
    pub interrupts: Option<usize>,
    /// Interfaces or devices whose queue of that number it polls.
    pub polls: Vec<String>,
}

/// Something to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What it is about, e.g. `queues of ens1f0`.
    pub what: String,
    /// Why.
    pub why: String,
    /// Commands for a shell of root; kernel parameters where [`Step::boot`] is set.
    pub commands: Vec<String>,
    /// These are parameters of the kernel's command line, in force from the next start of the machine on.
    #[serde(default)]
    pub boot: bool,
}

/// A plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What it is for.
    pub goal: Goal,
    /// Which core polls which queue.
    pub workers: Vec<Assignment>,
    /// Cores of the workers that decide on requests and poll no queue; none where there are no such, or they are not pinned.
    #[serde(default)]
    pub content: Vec<usize>,
    /// What running the commands would cut off: to be read before any of it is run.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Processors for everything else: the kernel, interrupts, the control thread.
    pub housekeeping: Vec<usize>,
    /// What to change, in this order.
    pub steps: Vec<Step>,
    /// The `[workers]` and `[port]` of a configuration that follow.
    pub configuration: String,
    /// What could not be planned, and why.
    pub notes: Vec<String>,
}

/// What is planned with, put together once.
struct Ground<'a> {
    machine: &'a Machine,
    asked: &'a Asked,
    goal: Goal,
    /// The interfaces and what is known of them.
    nics: Vec<(&'a Nic, Option<Profile>)>,
    workers: Vec<Assignment>,
    housekeeping: Vec<usize>,
}

/// Plans for the interfaces and devices that `asked` names. Its cores are kept where it names some; otherwise they are chosen.
///
/// # Errors
/// When an interface or device is missing, or when there is none.
pub fn plan(machine: &Machine, asked: &Asked, goal: Goal) -> Result<Plan> {
    let mut nics = Vec::new();
    for name in &asked.interfaces {
        let nic = machine.nic(name).ok_or_else(|| Error::NoSuchLink {
            name: name.clone(),
            present: machine.nics.iter().map(Nic::name).collect::<Vec<_>>().join(", "),
        })?;
        nics.push((nic, profile::of_nic(nic)));
    }
    for device in &asked.devices {
        if looks_like_pci(&device.name) && machine.pci(&device.name).is_none() {
            let present = machine.pci.iter().map(|pci| pci.address.as_str()).collect::<Vec<_>>().join(", ");
            return Err(Error::Invalid {
                what: format!("no network device at {}", device.name),
                mend: format!("this machine has: {present}"),
            });
        }
    }
    if nics.is_empty() && asked.devices.is_empty() {
        return Err(Error::Invalid {
            what: "there is nothing to plan for".into(),
            mend: "name interfaces (--interfaces eth0,eth1) or a configuration with a port of kind af-xdp or dpdk"
                .into(),
        });
    }

    let mut notes = Vec::new();
    let nodes = nodes_of(machine, asked, &nics);
    let node = nodes.iter().next().copied();
    if nodes.len() > 1 {
        notes.push(format!(
            "the interfaces are on NUMA nodes {}: a worker polls all of them, so it is a node away from some; put both cards in \
             slots of one socket",
            nodes.iter().map(u32::to_string).collect::<Vec<_>>().join(" and ")
        ));
    }
    if nodes.is_empty() && machine.nodes.len() > 1 {
        notes.push("no interface tells its NUMA node: the cores are of node 0".into());
    }
    let limit = queue_limit(&nics);
    if let Some((queues, name)) = &limit {
        notes.push(format!(
            "{name} has {queues} queue(s) of each direction at most, so there can be no more workers than that"
        ));
    }
    let (workers, housekeeping) = place(machine, asked, node, limit.map(|(queues, _)| queues), &mut notes);
    let ground = Ground { machine, asked, goal, nics, workers, housekeeping };
    let mut warnings = Vec::new();
    let steps = steps::steps(&ground, &mut notes, &mut warnings);
    Ok(Plan {
        goal,
        configuration: ground.configuration(),
        content: asked.content_cores().to_vec(),
        warnings,
        steps,
        notes,
        housekeeping: ground.housekeeping,
        workers: ground.workers,
    })
}

/// `0000:3b:00.0` and not `net_ring0`.
fn looks_like_pci(name: &str) -> bool {
    name.split(':').count() == 3
}

fn nodes_of(machine: &Machine, asked: &Asked, nics: &[(&Nic, Option<Profile>)]) -> BTreeSet<u32> {
    let of_devices = asked.devices.iter().filter_map(|device| machine.pci(&device.name)?.node);
    nics.iter().filter_map(|(nic, _)| nic.node()).chain(of_devices).collect()
}

/// The fewest queues that an interface can have, with its name; `None` where none tells.
fn queue_limit(nics: &[(&Nic, Option<Profile>)]) -> Option<(usize, String)> {
    let of_one = |(nic, profile): &(&Nic, Option<Profile>)| {
        let most = nic.most_queues()? as usize;
        let half = profile.as_ref().is_some_and(|p| p.xdp.half_of_queues);
        Some((if half { (most / 2).max(1) } else { most }, nic.name().to_owned()))
    };
    nics.iter().filter_map(of_one).min()
}

/// Most workers of a director.
const MOST_WORKERS: usize = 64;

/// Chooses the workers' cores and those for the rest.
fn place(
    machine: &Machine,
    asked: &Asked,
    node: Option<u32>,
    limit: Option<usize>,
    notes: &mut Vec<String>,
) -> (Vec<Assignment>, Vec<usize>) {
    let online: Vec<&Cpu> = machine.cpus.iter().filter(|cpu| cpu.online).collect();
    // One logical processor of each physical core: its other threads would share the worker's caches and units.
    let first_thread = |cpu: &&&Cpu| cpu.siblings.as_ref().is_none_or(|list| list.first() == Some(&cpu.id));
    let near: Vec<usize> =
        online.iter().filter(first_thread).filter(|cpu| node.is_none() || cpu.node == node).map(|cpu| cpu.id).collect();
    // Core 0 takes what the kernel cannot put elsewhere, so it is the last choice.
    let content = asked.content_cores();
    let mut free: Vec<usize> = near.iter().copied().filter(|id| *id != 0 && !content.contains(id)).collect();
    // Those that are isolated already are the ones that somebody has set aside for this.
    free.sort_by_key(|id| (!machine.cpu(*id).is_some_and(|cpu| cpu.isolated), *id));
    if free.is_empty() {
        free = near.iter().copied().filter(|id| !content.contains(id)).collect();
    }
    if free.is_empty() {
        if !content.is_empty() && asked.cores.is_empty() {
            notes.push(
                "content-cores are all cores that there are here: a worker shares one with a content worker".into(),
            );
        }
        free = near;
    }

    let interrupts_wanted = asked.kind == PortKind::AfXdp;
    let (mut cores, servers): (Vec<usize>, Vec<usize>) = if !asked.cores.is_empty() {
        let servers = free.iter().copied().filter(|id| !asked.cores.contains(id)).collect();
        (asked.cores.clone(), servers)
    } else {
        // With AF_XDP the kernel's driver works for each queue as hard as the worker does: half of the cores are for it.
        let most = if interrupts_wanted { free.len().div_ceil(2) } else { free.len() };
        let count = most.min(limit.unwrap_or(MOST_WORKERS)).clamp(1, MOST_WORKERS);
        let mut cores: Vec<usize> = free.iter().copied().take(count).collect();
        cores.sort_unstable();
        (cores, free.iter().copied().skip(count).collect())
    };
    if let Some(limit) = limit.filter(|limit| cores.len() > *limit) {
        notes.push(format!("{} cores were given and {limit} can be used, a queue each", cores.len()));
        cores.truncate(limit);
    }

    let busy: BTreeSet<usize> = cores
        .iter()
        .chain(content)
        .filter_map(|id| machine.cpu(*id))
        .flat_map(|cpu| cpu.other_threads().chain([cpu.id]).collect::<Vec<_>>())
        .collect();
    let mut housekeeping: Vec<usize> = online.iter().map(|cpu| cpu.id).filter(|id| !busy.contains(id)).collect();
    if housekeeping.is_empty() {
        notes.push(
            "no core is left for the kernel, interrupts and the control thread: a figure from this machine is one of the machine \
             as much as of the director"
                .into(),
        );
        let own = |id: &usize| cores.contains(id) || content.contains(id);
        housekeeping = online.iter().map(|cpu| cpu.id).filter(|id| !own(id)).collect();
    }
    let server_of = |worker: usize| {
        let choices = if servers.is_empty() { &housekeeping } else { &servers };
        choices.get(worker % choices.len().max(1)).copied()
    };
    let polls: Vec<String> = match asked.kind {
        PortKind::Dpdk => asked.devices.iter().map(|device| device.name.clone()).collect(),
        _ => asked.interfaces.clone(),
    };
    let workers = cores
        .iter()
        .enumerate()
        .map(|(worker, core)| Assignment {
            worker,
            core: *core,
            node: machine.cpu(*core).and_then(|cpu| cpu.node),
            interrupts: if interrupts_wanted { server_of(worker) } else { None },
            polls: polls.clone(),
        })
        .collect();
    (workers, housekeeping)
}

impl Ground<'_> {
    /// The cores that workers poll from.
    fn cores(&self) -> Vec<usize> {
        self.workers.iter().map(|worker| worker.core).collect()
    }

    /// These, and those of the content workers.
    fn all_cores(&self) -> Vec<usize> {
        [self.cores().as_slice(), self.asked.content_cores()].concat()
    }

    /// The keys of `[workers]` that are about content workers.
    fn placement(&self) -> String {
        let Some(content) = &self.asked.content else { return String::new() };
        let cores: Vec<String> = content.cores.iter().map(usize::to_string).collect();
        let which = match cores.is_empty() {
            true => format!("content-workers = {}", content.count),
            false => format!("content-cores = [{}]", cores.join(", ")),
        };
        let idle = if self.goal == Goal::Latency || content.poll { "poll" } else { "adaptive" };
        format!("placement = \"split\"\n{which}\ncontent-idle = \"{idle}\"\n")
    }

    /// The `[workers]` and `[port]` of a configuration.
    fn configuration(&self) -> String {
        let list = |values: &[String]| format!("[{}]", values.join(", "));
        let quoted = |values: Vec<&str>| list(&values.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>());
        let cores: Vec<String> = self.cores().iter().map(usize::to_string).collect();
        // A worker that sleeps has to be woken up, which takes longer than anything that it does with a frame.
        let idle = if self.goal == Goal::Latency || self.asked.kind == PortKind::Dpdk { "poll" } else { "adaptive" };
        let mut text =
            format!("[workers]\ncores = {}\nidle = \"{idle}\"\n{}\n[port]\n", list(&cores), self.placement());
        match self.asked.kind {
            PortKind::Dpdk => {
                let devices: Vec<String> = self.asked.devices.iter().map(|device| self.device_text(device)).collect();
                let eal = if self.asked.no_huge {
                    "[\"--no-huge\", \"--no-shconf\", \"-m\", \"256\"]"
                } else {
                    "[\"--in-memory\"]"
                };
                let devices = quoted(devices.iter().map(String::as_str).collect());
                let _ = write!(text, "kind = \"dpdk\"\ninterfaces = {devices}\neal = {eal}\n");
            }
            _ => {
                let names = quoted(self.asked.interfaces.iter().map(String::as_str).collect());
                let native = self.nics.iter().all(|(nic, profile)| native(nic, profile.as_ref()) == Some(true));
                let zero_copy =
                    self.nics.iter().all(|(nic, profile)| zero_copy(self.machine, nic, profile.as_ref()) == Some(true));
                let mode = if native { "native" } else { "auto" };
                let copy = if zero_copy { "zero-copy" } else { "auto" };
                let _ = write!(
                    text,
                    "kind = \"af-xdp\"\ninterfaces = {names}\nmode = \"{mode}\"\ncopy = \"{copy}\"\nbuffers = {}\n",
                    if self.goal == Goal::Latency { 2048 } else { 8192 }
                );
            }
        }
        text
    }

    /// A device with the arguments that its profile wants.
    fn device_text(&self, device: &crate::asked::Device) -> String {
        let profile = profile::of_pci(self.machine, &device.name);
        let arguments = profile.and_then(|p| p.dpdk).map(|dpdk| dpdk.arguments).unwrap_or_default();
        match &device.interface {
            Some(interface) => format!("{},iface={interface}", device.name),
            None => [vec![device.name.clone()], arguments].concat().join(","),
        }
    }
}

/// Whether a program can run in the driver: the kernel's word, or else the profile's.
pub(crate) fn native(nic: &Nic, profile: Option<&Profile>) -> Option<bool> {
    nic.told.xdp.map(|xdp| xdp.native && xdp.redirect).or(profile.map(|p| p.xdp.native))
}

/// Whether frames need not be copied: the kernel's word, or else the profile's; but not by a kernel that is too old for it.
pub(crate) fn zero_copy(machine: &Machine, nic: &Nic, profile: Option<&Profile>) -> Option<bool> {
    let from = profile.and_then(|p| p.xdp.zero_copy_from);
    if from.zip(machine.kernel.version()).is_some_and(|(from, is)| is < from) {
        return Some(false);
    }
    nic.told.xdp.map(|xdp| xdp.zero_copy).or(profile.map(|p| p.xdp.zero_copy))
}
