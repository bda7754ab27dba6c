//! The workers' cores, the clock, and the machine as a whole.

use std::collections::BTreeSet;

use super::{Report, Severity};
use crate::asked::{Asked, PortKind};
use crate::cores::format_list;
use crate::machine::{Cpu, Interrupt, Machine};

/// Longest exit from an idle state that a worker's core may have, microseconds: as [`crate::plan`] has it.
const LONGEST_EXIT_US: u64 = 10;

pub(super) fn check(machine: &Machine, asked: &Asked, report: &mut Report) {
    whole(machine, report);
    if asked.cores.is_empty() {
        report.find(
            Severity::WrongFigure,
            "not-pinned",
            "[workers] cores",
            "the worker is on whatever core the kernel likes, and moves",
            "name a core: cores = [2]; `lcs hw plan` chooses one",
        );
    }
    if asked.content.as_ref().is_some_and(|content| content.cores.is_empty()) {
        report.find(
            Severity::WrongFigure,
            "not-pinned",
            "[workers] content-cores",
            "the content workers are on whatever cores the kernel likes, the workers' among them, and move",
            "name cores that no worker has: content-cores = [3]",
        );
    }
    let mut workers = Vec::new();
    for id in asked.all_cores() {
        match machine.cpu(id) {
            Some(cpu) if cpu.online => workers.push(cpu),
            cpu => {
                let online: Vec<usize> = machine.cpus.iter().filter(|c| c.online).map(|c| c.id).collect();
                let state = if cpu.is_some() { "is offline" } else { "does not exist" };
                report.find(
                    Severity::DoesNotRun,
                    "core-missing",
                    format!("core {id}"),
                    format!("it {state}"),
                    format!("take one of {}", format_list(&online)),
                );
            }
        }
    }
    sharing(machine, asked, &workers, report);
    power(asked, &workers, report);
    interrupts(machine, asked, report);
    others_interrupts(machine, asked, report);
}

fn whole(machine: &Machine, report: &mut Report) {
    if machine.clock.tsc_invariant == Some(false) {
        report.find(
            Severity::WrongFigure,
            "clock",
            "time stamp counter",
            "it is not the same in all frequencies and idle states, so cycles per packet are no measure of time",
            "compare packets a second only",
        );
    } else if machine.clock.tsc_invariant.is_none() {
        report.unknown.push("whether the time stamp counter always goes at one rate".into());
    }
    if let Some(source) = machine.clock.source.as_deref().filter(|s| matches!(*s, "hpet" | "acpi_pm" | "jiffies")) {
        report.find(
            Severity::WrongFigure,
            "clock",
            "clock source",
            format!("it is {source}, and reading it takes a microsecond or is coarse"),
            "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource; `dmesg` says why the kernel left it",
        );
    }
    if !machine.kernel.virtualisation.is_empty() {
        report.find(
            Severity::WrongFigure,
            "virtual-machine",
            "the machine",
            format!(
                "it is a virtual one ({}): its cores may be taken away at any time, and its devices are somebody's program",
                machine.kernel.virtualisation.join("; ")
            ),
            "take a machine of its own for a figure that others can repeat, or say with the figure what the host is",
        );
    }
}

fn sharing(machine: &Machine, asked: &Asked, workers: &[&Cpu], report: &mut Report) {
    let others_online = machine.cpus.iter().filter(|cpu| cpu.online).count() > workers.len();
    let mut seen: BTreeSet<(usize, usize)> = BTreeSet::new();
    for cpu in workers {
        let place = format!("core {}", cpu.id);
        for sibling in cpu.other_threads() {
            if asked.all_cores().any(|core| core == sibling) {
                if seen.insert((cpu.id.min(sibling), cpu.id.max(sibling))) {
                    report.find(
                        Severity::WrongFigure,
                        "core-shared",
                        format!("cores {} and {sibling}", cpu.id),
                        "they are two threads of one physical core, so that two workers share its caches and units",
                        "give each worker a physical core of its own (`lcs hw show` lists the threads)",
                    );
                }
            } else if let Some(other) = machine.cpu(sibling).filter(|other| other.online && !other.isolated) {
                report.find(
                    Severity::Slower,
                    "sibling-busy",
                    &place,
                    format!(
                        "its other thread, {}, may run other tasks, which take caches and units from the worker",
                        other.id
                    ),
                    format!(
                        "isolate it as well (isolcpus=), or echo 0 > /sys/devices/system/cpu/cpu{}/online",
                        other.id
                    ),
                );
            }
        }
        if cpu.siblings.is_none() {
            report.unknown.push(format!("which other threads {place} has"));
        }
        if cpu.id == 0 && others_online {
            report.find(
                Severity::WrongFigure,
                "core-zero",
                &place,
                "the kernel does on core 0 what it cannot do elsewhere",
                "take another core for the worker",
            );
        }
    }
    // One finding for all of them: the parameter takes a list, and counts once.
    let mut open: Vec<usize> = workers.iter().filter(|cpu| !cpu.isolated).map(|cpu| cpu.id).collect();
    open.sort_unstable();
    if !open.is_empty() {
        let list = format_list(&open);
        report.find(
            Severity::WrongFigure,
            "not-isolated",
            format!("cores {list}"),
            "other tasks and the kernel's timer may run there",
            format!("start the machine with isolcpus=managed_irq,domain,{list} nohz_full={list} rcu_nocbs={list}"),
        );
    }
}

fn power(asked: &Asked, workers: &[&Cpu], report: &mut Report) {
    let mut silent = Vec::new();
    for cpu in workers {
        let place = format!("core {}", cpu.id);
        match cpu.governor.as_deref() {
            Some("performance") => {}
            Some(governor) => report.find(
                Severity::WrongFigure,
                "governor",
                &place,
                format!("the governor {governor} chooses its frequency by load, so that it depends on what ran before"),
                format!("echo performance > /sys/devices/system/cpu/cpu{}/cpufreq/scaling_governor", cpu.id),
            ),
            None => silent.push(cpu.id),
        }
        let deep: Vec<&str> = cpu
            .idle_states
            .iter()
            .filter(|state| !state.disabled && state.exit_us > LONGEST_EXIT_US)
            .map(|state| state.name.as_str())
            .collect();
        // A worker that polls never idles.
        let polls = match &asked.content {
            Some(content) if content.cores.contains(&cpu.id) => content.poll,
            _ => asked.poll,
        };
        if !deep.is_empty() && !polls {
            report.find(
                Severity::WrongFigure,
                "idle-states",
                &place,
                format!(
                    "while the worker sleeps the core may go to {}, which take more than {LONGEST_EXIT_US} µs to leave",
                    deep.join(", ")
                ),
                "[workers] idle = \"poll\" (content-idle for content workers), or disable them: `lcs hw plan` has the commands",
            );
        }
    }
    if !silent.is_empty() {
        report.unknown.push(format!("the frequency governor of cores {}", format_list(&silent)));
    }
    if asked.kind == PortKind::Dpdk && !asked.poll {
        report.find(
            Severity::Slower,
            "idle",
            "[workers] idle",
            "with DPDK a worker without work naps for 50 µs, in which a small ring runs over",
            "idle = \"poll\"",
        );
    }
}

fn interrupts(machine: &Machine, asked: &Asked, report: &mut Report) {
    if asked.kind != PortKind::AfXdp {
        return;
    }
    for nic in asked.interfaces.iter().filter_map(|name| machine.nic(name)) {
        for cpu in asked.all_cores() {
            let here: Vec<String> = nic
                .queue_interrupts()
                .into_iter()
                .filter(|interrupt| interrupt.cores().contains(&cpu))
                .map(|interrupt| format!("{} ({})", interrupt.number, interrupt.name))
                .collect();
            if !here.is_empty() {
                report.find(
                    Severity::WrongFigure,
                    "core-interrupts",
                    format!("core {cpu}"),
                    format!(
                        "{}'s interrupt {} may come there: the kernel's part of the work takes turns with the worker, and which part a \
                         figure shows is chance",
                        nic.name(),
                        here.join(", ")
                    ),
                    format!(
                        "echo OTHER > /proc/irq/{}/smp_affinity_list, with a core beside the worker's; `lcs hw plan` has the commands",
                        here.first().and_then(|h| h.split(' ').next()).unwrap_or("N")
                    ),
                );
            }
        }
    }
}

/// Interrupts that a finding names.
const NAMED: usize = 6;

/// Interrupts of all other devices, as far as they come at all: each takes the core from its worker for microseconds, whatever port it has.
fn others_interrupts(machine: &Machine, asked: &Asked, report: &mut Report) {
    // Those of the port's own queues have been said, by interface.
    let said: BTreeSet<u32> = match asked.kind {
        PortKind::AfXdp => asked.interfaces.iter().filter_map(|name| machine.nic(name)).collect(),
        _ => Vec::new(),
    }
    .into_iter()
    .flat_map(|nic| nic.queue_interrupts())
    .map(|interrupt| interrupt.number)
    .collect();
    for cpu in asked.all_cores() {
        let comes = |interrupt: &&Interrupt| {
            interrupt.count > 0 && interrupt.cores().contains(&cpu) && !said.contains(&interrupt.number)
        };
        let here: Vec<&Interrupt> = machine.interrupts.iter().filter(comes).collect();
        let Some(first) = here.first() else { continue };
        let words = |i: &&Interrupt| format!("{} ({}, {} times since the start)", i.number, i.name, i.count);
        let mut named: Vec<String> = here.iter().take(NAMED).map(words).collect();
        if here.len() > NAMED {
            named.push(format!("and {} more", here.len() - NAMED));
        }
        report.find(
            Severity::WrongFigure,
            "core-interrupts",
            format!("core {cpu}"),
            format!("other devices' interrupts may come there, and do come: {}", named.join(", ")),
            format!(
                "echo OTHER > /proc/irq/{}/smp_affinity_list, with a core that no worker has; one that cannot be moved is its driver's \
                 (managed): isolcpus=managed_irq,… keeps those away",
                first.number
            ),
        );
    }
}
