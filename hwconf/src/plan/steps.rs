//! The commands of a plan. Each is left out where the machine is so already.

use super::{Goal, Ground, Step, looks_like_pci};
use crate::asked::PortKind;
use crate::cores::format_list;
use crate::ethtool::Offload;
use crate::machine::{Cpu, Nic};
use crate::profile::{Binding, HashFields, Profile, of_pci};
use crate::receive::CLIENT_KEY;

/// Longest exit from an idle state that a worker's core may have, microseconds: a frame of 64 bytes at 10 Gbit/s comes every 0.07,
/// and a ring of 512 is full after 35.
const LONGEST_EXIT_US: u64 = 10;
/// Ring sizes: bursts find room; or what a cache holds, so that frames don't grow cold.
const RING_THROUGHPUT: u32 = 4096;
const RING_LATENCY: u32 = 512;
/// Hugepages of 2 MiB for each NUMA node with a device: 2 GiB.
const HUGEPAGES: u64 = 1024;
const HUGEPAGE_BYTES: u64 = 2 << 20;

fn step(what: impl Into<String>, why: impl Into<String>, commands: Vec<String>) -> Option<Step> {
    (!commands.is_empty()).then(|| Step { what: what.into(), why: why.into(), commands, boot: false })
}

pub(super) fn steps(ground: &Ground<'_>, notes: &mut Vec<String>, warnings: &mut Vec<String>) -> Vec<Step> {
    let mut steps = Vec::new();
    steps.extend(boot(ground, notes));
    steps.extend(governor(ground, notes));
    steps.extend(idle_states(ground));
    for (at, (nic, profile)) in ground.nics.iter().enumerate() {
        if ground.asked.kind == PortKind::AfXdp {
            steps.extend(queues(ground, nic, notes));
            steps.extend(rings(ground, nic, notes));
            steps.extend(spread(ground, nic, profile.as_ref(), at, notes));
            steps.extend(offloads(ground, nic, notes));
            steps.extend(mtu(nic, profile.as_ref()));
            steps.extend(coalescing(ground, nic));
            steps.extend(interrupts(ground, nic));
        } else {
            steps.extend(offloads(ground, nic, notes));
        }
    }
    if ground.asked.kind == PortKind::AfXdp && ground.nics.iter().any(|(nic, _)| !nic.interrupts.is_empty()) {
        steps.extend(step(
            "irqbalance",
            "where it runs it moves interrupts back within ten seconds",
            vec!["systemctl disable --now irqbalance".into()],
        ));
    }
    if ground.asked.kind == PortKind::Dpdk {
        steps.extend(hugepages(ground));
        for device in ground.asked.devices.iter().filter(|device| looks_like_pci(&device.name)) {
            steps.extend(bind(ground, &device.name, notes, warnings));
        }
    }
    steps
}

/// Parameters of the kernel's command line.
fn boot(ground: &Ground<'_>, notes: &mut Vec<String>) -> Option<Step> {
    let kernel = &ground.machine.kernel;
    let cores = ground.all_cores();
    let free = ground.housekeeping.iter().any(|id| !cores.contains(id));
    if !free || ground.machine.cpus.iter().filter(|cpu| cpu.online).count() <= cores.len() {
        notes.push("cores are not isolated: the machine has none to spare".into());
        return None;
    }
    // With the other threads of the same cores, or the kernel would put something beside the worker.
    let mut isolate: Vec<usize> = cores
        .iter()
        .filter_map(|id| ground.machine.cpu(*id))
        .flat_map(|cpu| cpu.other_threads().chain([cpu.id]).collect::<Vec<_>>())
        .collect();
    isolate.sort_unstable();
    isolate.dedup();
    let isolated = |id: &usize| ground.machine.cpu(*id).is_some_and(|cpu| cpu.isolated);
    let tickless = |id: &usize| ground.machine.cpu(*id).is_some_and(|cpu| cpu.nohz_full);
    let list = format_list(&isolate);
    let mut parameters = Vec::new();
    if !isolate.iter().all(isolated) {
        parameters.push(format!("isolcpus=managed_irq,domain,{list}"));
    }
    if !isolate.iter().all(tickless) {
        parameters.push(format!("nohz_full={list}"));
        parameters.push(format!("rcu_nocbs={list}"));
    }
    if kernel.parameter("irqaffinity").is_none() {
        parameters.push(format!("irqaffinity={}", format_list(&ground.housekeeping)));
    }
    let hardware = ground.asked.devices.iter().filter(|device| looks_like_pci(&device.name));
    let by_vfio = hardware.clone().any(|device| {
        let binding = of_pci(ground.machine, &device.name).and_then(|profile| profile.dpdk).map(|dpdk| dpdk.binding);
        binding != Some(Binding::Stays)
    });
    if by_vfio && kernel.iommu_groups == 0 {
        let intel = ground.machine.processor.model.as_deref().is_some_and(|model| model.contains("Intel"));
        parameters.extend(intel.then(|| "intel_iommu=on".to_owned()));
        parameters.push("iommu=pt".into());
    }
    let step = step(
        "the kernel's command line",
        "nothing else is to run on the workers' cores: no task, no timer tick, no interrupt (in force at the next start)",
        parameters,
    )?;
    Some(Step { boot: true, ..step })
}

/// The processors of the workers that poll queues.
fn workers<'a>(ground: &'a Ground<'_>) -> impl Iterator<Item = &'a Cpu> {
    ground.workers.iter().filter_map(|worker| ground.machine.cpu(worker.core))
}

/// Those of all workers.
fn all_workers<'a>(ground: &'a Ground<'_>) -> impl Iterator<Item = &'a Cpu> {
    ground.all_cores().into_iter().filter_map(|core| ground.machine.cpu(core))
}

fn governor(ground: &Ground<'_>, notes: &mut Vec<String>) -> Option<Step> {
    if all_workers(ground).all(|cpu| cpu.governor.is_none()) {
        notes.push(
            "the frequency governor is not told by this machine (a virtual machine's host decides): nothing to set"
                .into(),
        );
    }
    let commands = all_workers(ground)
        .filter(|cpu| cpu.governor.as_deref().is_some_and(|governor| governor != "performance"))
        .map(|cpu| format!("echo performance > /sys/devices/system/cpu/cpu{}/cpufreq/scaling_governor", cpu.id))
        .collect();
    step("the workers' frequency", "a core that clocks down between bursts gives another figure each time", commands)
}

fn idle_states(ground: &Ground<'_>) -> Option<Step> {
    // A worker that always polls never idles.
    let deep = |cpu: &Cpu| {
        let id = cpu.id;
        let states = cpu.idle_states.iter().filter(|state| !state.disabled && state.exit_us > LONGEST_EXIT_US);
        states
            .map(|state| format!("echo 1 > /sys/devices/system/cpu/cpu{id}/cpuidle/state{}/disable", state.number))
            .collect::<Vec<_>>()
    };
    step(
        "the workers' idle states",
        format!(
            "a core that takes more than {LONGEST_EXIT_US} µs to wake up lets its ring run over, or adds that to a frame's latency"
        ),
        all_workers(ground).flat_map(deep).collect(),
    )
}

fn queues(ground: &Ground<'_>, nic: &Nic, notes: &mut Vec<String>) -> Option<Step> {
    let (name, wanted) = (nic.name(), ground.workers.len() as u32);
    let interface = &nic.told.interface;
    if interface.receive_queues == wanted {
        return None;
    }
    let Some(channels) = interface.channels.filter(|_| nic.most_queues().is_some()) else {
        notes.push(format!(
            "{name} has {} receive queues and its driver offers no way to change that; as many workers must poll it",
            interface.receive_queues
        ));
        return None;
    };
    let command = match channels.max_combined {
        0 => format!("ethtool -L {name} rx {wanted} tx {wanted}"),
        _ => format!("ethtool -L {name} combined {wanted}"),
    };
    step(format!("queues of {name}"), "worker i polls queue i, and every queue must have a worker", vec![command])
}

fn rings(ground: &Ground<'_>, nic: &Nic, notes: &mut Vec<String>) -> Option<Step> {
    let name = nic.name();
    let Some(rings) = nic.told.rings.filter(|rings| rings.rx_max > 0) else {
        notes.push(format!("ring sizes of {name}: not told by this machine"));
        return None;
    };
    let (wish, why) = match ground.goal {
        Goal::Throughput => (RING_THROUGHPUT, "a burst waits in the ring and not in the card, which drops it"),
        Goal::Latency => {
            (RING_LATENCY, "a short ring stays in the cache, and frames that would be late are dropped early")
        }
    };
    let (rx, tx) = (wish.min(rings.rx_max), wish.min(rings.tx_max));
    if (rings.rx, rings.tx) == (rx, tx) {
        return None;
    }
    step(format!("rings of {name}"), why, vec![format!("ethtool -G {name} rx {rx} tx {tx}")])
}

/// Receive-side scaling by the client's endpoint, where the device can.
fn spread(
    ground: &Ground<'_>,
    nic: &Nic,
    profile: Option<&Profile>,
    at: usize,
    notes: &mut Vec<String>,
) -> Option<Step> {
    let name = nic.name();
    let workers = ground.workers.len();
    if workers < 2 {
        return None;
    }
    let mut commands = Vec::new();
    let two_arms = ground.nics.len() == 2;
    let by_client = profile.is_some_and(|p| p.rss.fields == HashFields::Any) && two_arms;
    // s and f: the source's address and port; d and n: the destination's.
    let fields = match (by_client, at) {
        (true, 0) => "sf",
        (true, _) => "dn",
        (false, _) => "sdfn",
    };
    if profile.is_none_or(|p| p.rss.fields != HashFields::None) && !nic.told.hash_fields.is_empty() {
        for kind in crate::receive::FlowType::ALL {
            // The order of the letters says nothing.
            let told = nic.told.hash_fields.get(&kind);
            if told.is_none_or(|told| told != fields) {
                commands.push(format!("ethtool -N {name} rx-flow-hash {} {fields}", kind.name()));
            }
        }
    } else {
        notes.push(format!(
            "what {name} spreads frames by is not told by this machine or cannot be set{}",
            profile.map(|p| format!(" ({})", p.rss.note)).unwrap_or_default()
        ));
    }
    match &nic.told.rss {
        Some(rss) if by_client && !rss.key.is_empty() && !rss.names_owners(workers as u32) => {
            // Under this key the card's queue is the one that the director takes for the owner's.
            let key: Vec<String> =
                CLIENT_KEY.iter().cycle().take(rss.key.len()).map(|byte| format!("{byte:02x}")).collect();
            let function = if rss.function.as_deref() == Some("toeplitz") { "" } else { " hfunc toeplitz" };
            let plain = if rss.symmetric { " xfrm none" } else { "" };
            commands.push(format!("ethtool -X {name}{function}{plain} hkey {} equal {workers}", key.join(":")));
        }
        Some(rss) if !rss.indirection.is_empty() && rss.queues() != (0..workers as u32).collect::<Vec<_>>() => {
            commands.push(format!("ethtool -X {name} equal {workers}"));
        }
        _ => {}
    }
    if by_client && nic.told.rss.as_ref().is_none_or(|rss| rss.key.is_empty()) {
        notes.push(format!(
            "the driver of {name} tells no RSS key: unless its key is {:02x}:{:02x} over and over, frames are handed over in software",
            CLIENT_KEY[0], CLIENT_KEY[1]
        ));
    }
    if !two_arms && at == 0 {
        notes.push(
            "clients and servers on one interface: no hash by fields takes a connection's source in one direction and its destination \
             in the other, so frames are spread by both ends and handed over in software"
                .into(),
        );
    }
    let why = match (by_client, at) {
        (true, 0) => "by the source alone, which is the client here (the first interface is taken for the clients')",
        (true, _) => {
            "by the destination alone, which is the client here (all interfaces but the first are taken for the servers')"
        }
        (false, _) => "by addresses and ports of both ends, so that all queues get a share",
    };
    step(format!("spreading on {name}"), why, commands)
}

fn offloads(ground: &Ground<'_>, nic: &Nic, notes: &mut Vec<String>) -> Option<Step> {
    let name = nic.name();
    let mut commands = Vec::new();
    if nic.feature("rx-lro") {
        commands.push(format!("ethtool -K {name} lro off"));
    }
    if nic.feature("rx-gro-hw") {
        commands.push(format!("ethtool -K {name} rx-gro-hw off"));
    }
    if nic.offload(Offload::Gro) == Some(true) {
        commands.push(format!("ethtool -K {name} gro off"));
    }
    if nic.driver() == Some("veth") {
        match ground.machine.veth_peer(nic) {
            Some(peer) if peer.offload(Offload::TxChecksum) != Some(false) => {
                commands.push(format!("ethtool -K {} tx off", peer.name()));
            }
            Some(_) => {}
            None => notes.push(format!(
                "the other end of {name} is in another network namespace: run `ethtool -K IF tx off` there, for its own name IF"
            )),
        }
    }
    step(
        format!("offloads of {name}"),
        "joined segments are longer than a buffer, and unfinished checksums cost what no wire costs",
        commands,
    )
}

fn mtu(nic: &Nic, profile: Option<&Profile>) -> Option<Step> {
    let (name, most) = (nic.name(), profile?.xdp.largest_mtu()?);
    let command = (nic.told.interface.link.mtu > most).then(|| format!("ip link set {name} mtu {most}"));
    step(format!("MTU of {name}"), "a program in the driver wants a frame in one buffer", command.into_iter().collect())
}

fn coalescing(ground: &Ground<'_>, nic: &Nic) -> Option<Step> {
    if nic.interrupts.is_empty() || ground.goal != Goal::Latency {
        return None;
    }
    step(
        format!("interrupts of {}", nic.name()),
        "the card is not to wait for more frames before it says that there is one",
        vec![format!("ethtool -C {} adaptive-rx off rx-usecs 0", nic.name())],
    )
}

/// The queue that an interrupt belongs to: the number at the end of its name, in front of an `@` (`mlx5_comp3@pci:…`).
pub(crate) fn queue_of(name: &str) -> Option<usize> {
    let name = name.split('@').next().unwrap_or(name);
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    name[name.len() - digits..].parse().ok()
}

fn interrupts(ground: &Ground<'_>, nic: &Nic) -> Option<Step> {
    let command = |interrupt: &&crate::machine::Interrupt| {
        let queue = queue_of(&interrupt.name)?;
        let core = ground.workers.get(queue)?.interrupts?;
        (interrupt.cores() != [core])
            .then(|| format!("echo {core} > /proc/irq/{}/smp_affinity_list   # {}", interrupt.number, interrupt.name))
    };
    step(
        format!("interrupts' cores of {}", nic.name()),
        "the kernel's part of a queue is done on the core of its interrupt: near the worker, but not on its core",
        nic.queue_interrupts().iter().filter_map(command).collect(),
    )
}

fn hugepages(ground: &Ground<'_>) -> Option<Step> {
    if ground.asked.no_huge {
        return None;
    }
    let mut nodes: Vec<Option<u32>> = workers(ground).map(|cpu| cpu.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let command = |node: Option<u32>| {
        let node = node.filter(|_| !ground.machine.nodes.is_empty());
        let pages = match node {
            Some(id) => ground.machine.nodes.iter().find(|n| n.id == id).map(|n| n.hugepages.as_slice()),
            None => Some(ground.machine.hugepages.as_slice()),
        };
        let free: u64 =
            pages.unwrap_or_default().iter().map(|p| p.free.saturating_mul(p.size)).fold(0, u64::saturating_add);
        (free < HUGEPAGES * HUGEPAGE_BYTES).then(|| match node {
            Some(id) => {
                format!("echo {HUGEPAGES} > /sys/devices/system/node/node{id}/hugepages/hugepages-2048kB/nr_hugepages")
            }
            None => format!("sysctl -w vm.nr_hugepages={HUGEPAGES}"),
        })
    };
    step(
        "hugepages",
        "DPDK's packet pools lie in them, on the workers' NUMA node: one entry of the TLB for 2 MiB and not for 4 KiB",
        nodes.into_iter().filter_map(command).collect(),
    )
}

/// What cannot be reached any more when DPDK takes a card away from the kernel; `None` where that is nothing that matters, or is not told.
fn cut_off(ground: &Ground<'_>, nic: &Nic) -> Option<String> {
    let machine = ground.machine;
    let has_address = |nic: &Nic| machine.with_uppers(nic).iter().any(|nic| nic.told.addresses.is_some_and(|n| n > 0));
    let through = |upper: &Nic| match upper.name() == nic.name() {
        true => String::new(),
        false => format!(", through {}", upper.name()),
    };
    if let Some(upper) = machine.with_uppers(nic).into_iter().find(|nic| nic.told.default_route == Some(true)) {
        return Some(format!("has the default route{}", through(upper)));
    }
    let given = |nic: &Nic| {
        let address = nic.pci.as_ref().map(|pci| pci.address.as_str());
        ground.asked.devices.iter().any(|device| Some(device.name.as_str()) == address)
    };
    // Bridges of containers and the like have addresses, too, and lead nowhere by themselves.
    let is_card = |nic: &&Nic| nic.told.interface.link.kind.is_none() && nic.name() != "lo";
    let another = machine.nics.iter().filter(is_card).any(|other| !given(other) && has_address(other));
    let own = machine.with_uppers(nic).into_iter().find(|nic| nic.told.addresses.is_some_and(|n| n > 0))?;
    (!another).then(|| format!("has the only address that this machine is reached at{}", through(own)))
}

fn bind(ground: &Ground<'_>, address: &str, notes: &mut Vec<String>, warnings: &mut Vec<String>) -> Option<Step> {
    let pci = ground.machine.pci(address)?;
    let profile = of_pci(ground.machine, address);
    let Some(dpdk) = profile.as_ref().and_then(|profile| profile.dpdk.as_ref()) else {
        notes.push(format!(
            "there is no profile for {address} ({}): see DPDK's list of drivers for what it wants",
            pci.id
        ));
        return None;
    };
    notes.push(format!("{address}: {}", dpdk.note));
    if dpdk.binding == Binding::Stays || pci.driver.as_deref() == Some("vfio-pci") {
        return None;
    }
    let nic = ground.machine.nics.iter().find(|nic| nic.pci.as_ref().is_some_and(|pci| pci.address == address));
    let interface = nic.map(|nic| format!("ip link set {} down", nic.name()));
    let mut why = "DPDK polls the card itself; the kernel loses sight of it".to_owned();
    if let Some((nic, what)) = nic.and_then(|nic| Some((nic, cut_off(ground, nic)?))) {
        let warning = format!(
            "{} ({address}) {what}: who is logged in over it is cut off by these commands, and nobody gets in again over the network. Keep \
             another interface for management, or have a console at hand",
            nic.name()
        );
        why = format!("{why}. WARNING: {warning}");
        warnings.push(warning);
    }
    let mut commands = vec!["modprobe vfio-pci".to_owned()];
    if ground.machine.kernel.iommu_groups == 0 {
        commands.push(
            "echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode   # only where there is no IOMMU at all"
                .into(),
        );
    }
    commands.extend(interface);
    commands.push(format!("dpdk-devbind.py --bind=vfio-pci {address}"));
    step(format!("the driver of {address}"), why, commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_names_its_queue() {
        for (name, queue) in [
            ("ice-ens1f0-TxRx-3", Some(3)),
            ("virtio2-input.0", Some(0)),
            ("mlx5_comp12@pci:0000:3b:00.0", Some(12)),
            ("mlx5_async0@pci:0000:3b:00.0", Some(0)),
            ("eth0-Tx-Rx-7", Some(7)),
            ("virtio2-config", None),
            ("", None),
        ] {
            assert_eq!(queue_of(name), queue, "{name}");
        }
    }
}
