//! A machine as text.

use lcs_control::render::{Table, number};
use lcs_hwconf::cores::format_list;
use lcs_hwconf::machine::{Cache, Cpu, Hugepages, Machine, NOT_TOLD, Nic, Pci, told};
use lcs_hwconf::profile;
use std::fmt::Write as _;

pub fn text(machine: &Machine) -> String {
    let mut text = String::new();
    overview(machine, &mut text);
    text += "\nProcessors\n";
    text += &indented(&processors(machine));
    text += "\nMemory\n";
    memory(machine, &mut text);
    text += "\nInterfaces\n";
    machine.nics.iter().filter(|nic| nic.name() != "lo").for_each(|nic| interface(machine, nic, &mut text));
    let unseen: Vec<&Pci> = machine
        .pci
        .iter()
        .filter(|pci| !machine.nics.iter().any(|nic| nic.pci.as_ref().is_some_and(|own| own.address == pci.address)))
        .collect();
    if !unseen.is_empty() {
        text += "\nNetwork devices without an interface here\n";
        for pci in unseen {
            let profile =
                profile::of_pci(machine, &pci.address).map(|p| format!("; profile {}", p.name)).unwrap_or_default();
            let _ = writeln!(
                text,
                "  {} ({}): driver {}{profile}",
                pci.address,
                pci.id,
                pci.driver.as_deref().unwrap_or("none")
            );
        }
    }
    text += "\nMitigations\n";
    machine.mitigations.iter().filter(|(_, state)| *state != "Not affected").for_each(|(flaw, state)| {
        let _ = writeln!(text, "  {flaw}: {state}");
    });
    let spared = machine.mitigations.values().filter(|state| *state == "Not affected").count();
    let _ = writeln!(text, "  not affected by {spared} others");
    text
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

fn list_or_none(cores: Vec<usize>) -> String {
    if cores.is_empty() { "none".to_owned() } else { format_list(&cores) }
}

fn overview(machine: &Machine, text: &mut String) {
    let kernel = &machine.kernel;
    let ids =
        |which: fn(&Cpu) -> bool| machine.cpus.iter().filter(|cpu| which(cpu)).map(|cpu| cpu.id).collect::<Vec<_>>();
    let virtualisation = match kernel.virtualisation.as_slice() {
        [] => "nothing says that this is a virtual machine".to_owned(),
        signs => signs.join("; "),
    };
    let governors = |cpu: &Cpu| cpu.governor.clone();
    let mut frequency: Vec<String> = machine.cpus.iter().filter_map(governors).collect();
    frequency.sort();
    frequency.dedup();
    let idle = machine.cpus.first().map(|cpu| {
        let state = |s: &lcs_hwconf::machine::IdleState| {
            format!("{} {} µs{}", s.name, s.exit_us, if s.disabled { " (disabled)" } else { "" })
        };
        cpu.idle_states.iter().map(state).collect::<Vec<_>>().join(", ")
    });
    let yes = |value: Option<bool>| told(value.map(|v| if v { "yes" } else { "no" }));
    let rows = [
        ("kernel", told(kernel.release.as_deref())),
        ("command line", told(kernel.command_line.as_deref())),
        ("virtualisation", virtualisation),
        ("processor", told(machine.processor.model.as_deref())),
        ("online cores", list_or_none(ids(|cpu| cpu.online))),
        ("isolated cores", list_or_none(ids(|cpu| cpu.isolated))),
        ("cores without a tick", list_or_none(ids(|cpu| cpu.nohz_full))),
        ("SMT in use", yes(machine.processor.smt)),
        ("frequency governor", told((!frequency.is_empty()).then(|| frequency.join(", ")))),
        (
            "idle driver, governor",
            format!("{}, {}", told(kernel.idle_driver.as_deref()), told(kernel.idle_governor.as_deref())),
        ),
        ("idle states (core 0)", told(idle.filter(|states| !states.is_empty()))),
        ("clock source", told(machine.clock.source.as_deref())),
        ("TSC invariant", yes(machine.clock.tsc_invariant)),
        ("IOMMU groups", kernel.iommu_groups.to_string()),
    ];
    text.push_str("Machine\n");
    for (name, value) in rows {
        let _ = writeln!(text, "  {name:<22} {value}");
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 30 && b.is_multiple_of(1 << 30) => format!("{} GiB", b >> 30),
        b if b >= 10 << 30 => format!("{:.1} GiB", b as f64 / f64::from(1 << 30)),
        b if b >= 1 << 20 => format!("{} MiB", b >> 20),
        b => format!("{} KiB", b >> 10),
    }
}

fn processors(machine: &Machine) -> String {
    let mut table = Table::new(&[
        ">core",
        ">socket",
        ">physical",
        "threads",
        ">node",
        "L1d",
        "L2",
        "L3 (shared by)",
        "governor",
        "state",
    ]);
    let dash = |value: Option<String>| value.unwrap_or_else(|| "?".to_owned());
    for cpu in &machine.cpus {
        let cache = |level: u32| cpu.caches.iter().find(move |c: &&Cache| c.level == level && c.kind != "Instruction");
        let l3 = cache(3).map(|c| format!("{} ({})", size(c.bytes), format_list(&c.shared)));
        let mut state = vec![if cpu.online { "online" } else { "offline" }];
        state.extend(cpu.isolated.then_some("isolated"));
        state.extend(cpu.nohz_full.then_some("no tick"));
        table.row([
            cpu.id.to_string(),
            dash(cpu.package.map(|n| n.to_string())),
            dash(cpu.core.map(|n| n.to_string())),
            dash(cpu.siblings.as_deref().map(format_list)),
            dash(cpu.node.map(|n| n.to_string())),
            dash(cache(1).map(|c| size(c.bytes))),
            dash(cache(2).map(|c| size(c.bytes))),
            dash(l3),
            dash(cpu.governor.clone()),
            state.join(", "),
        ]);
    }
    table.show() + "? " + NOT_TOLD + "\n"
}

fn hugepages(pages: &[Hugepages]) -> String {
    let one = |p: &Hugepages| format!("{} × {} ({} free)", p.total, size(p.size), p.free);
    if pages.is_empty() { NOT_TOLD.to_owned() } else { pages.iter().map(one).collect::<Vec<_>>().join(", ") }
}

fn memory(machine: &Machine, text: &mut String) {
    if machine.nodes.is_empty() {
        let _ = writeln!(text, "  NUMA nodes: {NOT_TOLD}\n  hugepages: {}", hugepages(&machine.hugepages));
    }
    for node in &machine.nodes {
        let distances = node.distances.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        let _ = writeln!(
            text,
            "  node {}: cores {}, {} of memory, {} free; distances {}; hugepages {}",
            node.id,
            format_list(&node.cpus),
            told(node.memory.map(size)),
            told(node.free.map(size)),
            told((!distances.is_empty()).then_some(distances)),
            hugepages(&node.hugepages),
        );
    }
}

fn interface(machine: &Machine, nic: &Nic, text: &mut String) {
    let interface = &nic.told.interface;
    let link = &interface.link;
    let state = match (link.up, link.running) {
        (false, _) => "down",
        (true, false) => "up, no carrier",
        (true, true) => "up",
    };
    let _ = writeln!(text, "  {}: {state}", nic.name());
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "    {name:<14} {value}");
    };
    let driver = interface.driver.as_ref().map(|driver| {
        let firmware =
            if driver.firmware.is_empty() { String::new() } else { format!(", firmware {}", driver.firmware) };
        format!("{} {}{firmware}", driver.name, driver.version)
    });
    row("driver", told(driver));
    row("profile", profile::of_nic(nic).map_or_else(|| "none for this driver".to_owned(), |p| p.name));
    let address = nic.pci.as_ref().map(|pci| {
        let lanes = pci.lanes.map(|(now, most)| format!(", {now} of {most} lanes")).unwrap_or_default();
        let speed = pci.lane_speed.as_ref().map(|(now, most)| format!(" at {now} of {most}")).unwrap_or_default();
        format!("{} ({}){lanes}{speed}", pci.address, pci.id)
    });
    row("PCI", address.unwrap_or_else(|| "no PCI device".to_owned()));
    row("NUMA node", told(nic.node()));
    row("speed", told(interface.speed.map(|speed| format!("{} Mbit/s", number(speed.into())))));
    row("MTU", link.mtu.to_string());
    let most = nic.most_queues().map(|most| format!(" of {most}")).unwrap_or_default();
    row("queues", format!("{} receive, {} transmit{most}", interface.receive_queues, interface.transmit_queues));
    let rings = nic.told.rings.map(|r| format!("receive {} of {}, transmit {} of {}", r.rx, r.rx_max, r.tx, r.tx_max));
    row("rings", told(rings));
    let fields =
        nic.told.hash_fields.iter().map(|(kind, fields)| format!("{} {fields}", kind.name())).collect::<Vec<_>>();
    let rss = nic.told.rss.as_ref().map(|rss| {
        let queues: Vec<usize> = rss.queues().into_iter().map(|q| q as usize).collect();
        let table = match rss.indirection.len() {
            0 => format!("its table {NOT_TOLD}"),
            n => format!("table of {n} over queues {}", format_list(&queues)),
        };
        let function = rss.function.as_deref().map(|f| format!(", {f}")).unwrap_or_default();
        format!("{table}{function}{}", if rss.symmetric { ", symmetric" } else { "" })
    });
    row("RSS", told(rss));
    row("RSS fields", told((!fields.is_empty()).then(|| fields.join(", "))));
    let xdp = nic.told.xdp.map(|xdp| {
        let can = [(xdp.native, "in the driver"), (xdp.redirect, "redirect"), (xdp.zero_copy, "AF_XDP zero-copy")];
        let can: Vec<&str> = can.into_iter().filter(|(can, _)| *can).map(|(_, word)| word).collect();
        if can.is_empty() { "above the driver only".to_owned() } else { can.join(", ") }
    });
    let program = link.xdp_program.map(|id| format!("; program {id} is attached")).unwrap_or_default();
    row("XDP", told(xdp) + &program);
    let on: Vec<&str> = interface
        .offloads
        .iter()
        .filter(|(_, on)| **on)
        .map(|(offload, _)| offload.name())
        .chain(nic.told.features.iter().filter(|(_, on)| **on).map(|(name, _)| name.as_str()))
        .collect();
    row("offloads on", if on.is_empty() { "none".to_owned() } else { on.join(", ") });
    if nic.driver() == Some("veth") {
        let peer = machine.veth_peer(nic).map_or("in another network namespace", Nic::name);
        row("other end", peer.to_owned());
    }
    match nic.interrupts.as_slice() {
        [] => row("interrupts", "none".to_owned()),
        interrupts => interrupts.iter().enumerate().for_each(|(at, interrupt)| {
            let cores = Some(interrupt.cores()).filter(|cores| !cores.is_empty()).map(format_list);
            let what = format!(
                "{} {} on core {}, came {}",
                interrupt.number,
                interrupt.name,
                told(cores),
                number(interrupt.count)
            );
            row(if at == 0 { "interrupts" } else { "" }, what);
        }),
    }
}
