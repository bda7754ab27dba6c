//! Recorded machines, from reading their trees to plans and findings. Their trees are in `machines`.

mod recorded;
mod support;

use std::collections::BTreeSet;

use lcs_hwconf::asked::{Asked, ContentWorkers, Device, Forwarding, PortKind, XdpWish};
use lcs_hwconf::check::{self, Report, Severity};
use lcs_hwconf::ethtool::{Ethtool, Offload};
use lcs_hwconf::machine::{Interrupt, Machine};
use lcs_hwconf::netns::Namespace;
use lcs_hwconf::plan::{self, Goal, Plan};
use lcs_hwconf::receive::CLIENT_KEY;
use lcs_hwconf::rtnl::{Rtnl, VethEnd};
use recorded::machine;

fn af_xdp(interfaces: &[&str], cores: &[usize]) -> Asked {
    Asked {
        interfaces: interfaces.iter().map(|name| (*name).to_owned()).collect(),
        cores: cores.to_vec(),
        poll: true,
        buffers: 4096,
        forwarding: BTreeSet::from([Forwarding::Nat]),
        ..Default::default()
    }
}

fn dpdk(addresses: &[&str], cores: &[usize]) -> Asked {
    let devices = addresses.iter().map(|a| Device { name: (*a).to_owned(), interface: None }).collect();
    Asked { kind: PortKind::Dpdk, devices, ..af_xdp(&[], cores) }
}

fn places<'a>(report: &'a Report, code: &str) -> Vec<&'a str> {
    report.findings.iter().filter(|f| f.code == code).map(|f| f.place.as_str()).collect()
}

fn commands(plan: &Plan) -> Vec<&str> {
    plan.steps.iter().flat_map(|step| &step.commands).map(String::as_str).collect()
}

const E810: &str = "two-sockets-e810";
const PORTS: [&str; 2] = ["ens1f0", "ens1f1"];

#[test]
fn a_server_is_read_with_its_sockets_and_cards() {
    let m = machine(E810);
    assert_eq!((m.cpus.len(), m.nodes.len(), m.nics.len(), m.pci.len()), (16, 2, 3, 2));
    let cpu = m.cpu(13).unwrap();
    assert_eq!((cpu.package, cpu.node, cpu.siblings.as_deref()), (Some(1), Some(1), Some(&[5, 13][..])));
    assert_eq!(cpu.governor.as_deref(), Some("powersave"));
    assert_eq!(cpu.idle_states.iter().map(|s| s.exit_us).max(), Some(170));
    assert_eq!(cpu.caches.iter().map(|c| c.bytes >> 10).collect::<Vec<_>>(), [48, 32, 2048, 30720]);
    assert_eq!(m.nodes[1].memory, Some(131_072_000 * 1024));
    assert_eq!(m.clock.tsc_invariant, Some(true));
    assert!(m.kernel.virtualisation.is_empty());
    let nic = m.nic("ens1f1").unwrap();
    assert_eq!((nic.node(), nic.most_queues(), nic.interrupts.len()), (Some(1), Some(64), 9));
    assert_eq!(nic.pci.as_ref().unwrap().driver.as_deref(), Some("ice"));
    let third = &nic.interrupts[3];
    assert_eq!((third.name.as_str(), third.cores(), third.count), ("ice-ens1f1-TxRx-3", &[7][..], 17));
}

#[test]
fn a_virtual_machine_does_not_tell_all_and_nothing_is_made_up() {
    let m = machine("vm-virtio");
    assert!(!m.kernel.virtualisation.is_empty());
    assert!(m.cpus.iter().all(|cpu| cpu.governor.is_none() && cpu.frequency.is_none()));
    let nic = m.nic("eth0").unwrap();
    // Its slot says −1, which is no node, and its speed is unknown.
    assert_eq!((nic.node(), nic.told.interface.speed, nic.told.rss.as_ref()), (None, None, None));
    assert_eq!(
        nic.interrupts.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(),
        ["virtio2-config", "virtio2-input.0", "virtio2-output.0"]
    );
    assert_eq!(nic.queue_interrupts().len(), 2);
    let report = check::check(&m, &af_xdp(&["eth0"], &[1]));
    assert!(report.unknown.iter().any(|unknown| unknown.contains("governor")), "{:?}", report.unknown);
    assert!(report.has("virtual-machine") && report.has("joined-segments") && !report.has("governor"));
}

#[test]
fn a_machine_survives_json() {
    for name in [E810, "vm-virtio", "veth"] {
        let m = machine(name);
        let text = serde_json::to_string(&m).unwrap();
        assert_eq!(serde_json::from_str::<Machine>(&text).unwrap(), m, "{name}");
    }
}

#[test]
fn this_machine_is_read() {
    let m = Machine::here().unwrap();
    assert!(m.cpus.iter().any(|cpu| cpu.online));
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(m.kernel.release.as_deref(), Some(release.trim()));
    assert!(m.nic("lo").is_some());
    assert_eq!(serde_json::from_str::<Machine>(&serde_json::to_string(&m).unwrap()).unwrap(), m);
}

#[test]
fn a_folder_that_is_no_machine_is_refused_with_its_name() {
    let error = Machine::recorded(std::path::Path::new("/proc/self/task")).unwrap_err().to_string();
    assert!(error.contains("/proc/self/task") && error.contains("is /sys mounted"), "{error}");
}

#[test]
fn a_server_as_it_comes_is_full_of_findings() {
    let m = machine(E810);
    // Two workers on the cards' socket, on two threads of one core, and one on the other socket.
    let report = check::check(&m, &Asked { poll: false, ..af_xdp(&PORTS, &[1, 5, 13]) });
    assert_eq!(places(&report, "queues"), PORTS);
    assert_eq!(places(&report, "core-shared"), ["cores 5 and 13"]);
    assert_eq!(places(&report, "governor"), ["core 1", "core 5", "core 13"]);
    assert_eq!(places(&report, "idle-states"), ["core 1", "core 5", "core 13"]);
    assert_eq!(places(&report, "numa"), PORTS);
    assert!(
        report
            .findings
            .iter()
            .filter(|f| f.code == "numa")
            .all(|f| f.what.contains("core(s) 1 are") && f.mend.contains("4-7,12-15"))
    );
    // Queue 1's interrupt is on core 5 and queue 5's on core 13, of both ports; core 1 has none.
    assert_eq!(places(&report, "core-interrupts"), ["core 5", "core 13", "core 5", "core 13"]);
    assert_eq!(places(&report, "not-isolated"), ["cores 1,5,13"]);
    assert!(report.has("hand-over"));
    assert!(!report.has("virtual-machine") && !report.has("partial-checksums") && !report.has("clock"));
    // The worst stands first.
    assert!(report.findings.is_sorted_by_key(|f| f.severity));
    assert_eq!(report.findings[0].severity, Severity::DoesNotRun);
}

/// The machine after what a plan for it says.
fn set_up(mut m: Machine, plan: &Plan) -> Machine {
    for worker in &plan.workers {
        let threads: Vec<usize> = m.cpu(worker.core).unwrap().siblings.clone().unwrap();
        for cpu in m.cpus.iter_mut().filter(|cpu| threads.contains(&cpu.id)) {
            (cpu.isolated, cpu.nohz_full, cpu.governor) = (true, true, Some("performance".into()));
            cpu.idle_states.iter_mut().for_each(|state| state.disabled = state.exit_us > 10);
        }
    }
    let elsewhere = plan.housekeeping[0];
    m.interrupts.iter_mut().for_each(|interrupt| interrupt.effective = Some(vec![elsewhere]));
    for nic in m.nics.iter_mut().filter(|nic| PORTS.contains(&nic.told.interface.link.name.as_str())) {
        nic.told.interface.receive_queues = plan.workers.len() as u32;
        nic.told.interface.offloads.values_mut().for_each(|on| *on = false);
        nic.interrupts.iter_mut().for_each(|interrupt| interrupt.effective = Some(vec![elsewhere]));
        let fields = if nic.told.interface.link.name == PORTS[0] { "sf" } else { "dn" };
        nic.told.hash_fields.values_mut().for_each(|told| *told = fields.to_owned());
        let rss = nic.told.rss.as_mut().unwrap();
        rss.key = CLIENT_KEY.repeat(rss.key.len() / 2);
        (0..).zip(&mut rss.indirection).for_each(|(n, queue)| *queue = n % plan.workers.len() as u32);
    }
    m
}

#[test]
fn a_plan_that_was_followed_leaves_no_findings() {
    let m = machine(E810);
    let plan = plan::plan(&m, &af_xdp(&PORTS, &[]), Goal::Throughput).unwrap();
    let cores: Vec<usize> = plan.workers.iter().map(|worker| worker.core).collect();
    // On the cards' node, a physical core each, half of them for the kernel's part.
    assert_eq!(cores, [4, 5]);
    assert!(plan.workers.iter().all(|w| w.node == Some(1) && w.interrupts.is_some_and(|core| [6, 7].contains(&core))));
    let m = set_up(m, &plan);
    let report = check::check(&m, &af_xdp(&PORTS, &cores));
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
    // One card alone that spreads otherwise, and frames are handed over again.
    let mut other = m;
    let servers = other.nics.iter_mut().find(|nic| nic.told.interface.link.name == PORTS[1]).unwrap();
    servers.told.rss.as_mut().unwrap().key[3] = 0;
    let report = check::check(&other, &af_xdp(&PORTS, &cores));
    let codes: Vec<&str> = report.findings.iter().map(|f| f.code.as_str()).collect();
    assert_eq!(codes, ["hand-over"], "{:#?}", report.findings);
}

#[test]
fn a_plan_says_commands_for_this_machine() {
    let m = machine(E810);
    let plan = plan::plan(&m, &af_xdp(&PORTS, &[]), Goal::Throughput).unwrap();
    let commands = commands(&plan);
    for expected in [
        "isolcpus=managed_irq,domain,4-5,12-13",
        "nohz_full=4-5,12-13",
        "echo performance > /sys/devices/system/cpu/cpu4/cpufreq/scaling_governor",
        "echo 1 > /sys/devices/system/cpu/cpu5/cpuidle/state3/disable",
        "ethtool -L ens1f0 combined 2",
        "ethtool -G ens1f1 rx 4096 tx 4096",
        // The first interface is the clients'.
        "ethtool -N ens1f0 rx-flow-hash tcp4 sf",
        "ethtool -N ens1f1 rx-flow-hash tcp4 dn",
        &format!("ethtool -X ens1f0 hkey 6d:5a{} equal 2", ":6d:5a".repeat(25)),
        "ethtool -K ens1f0 gro off",
        "echo 6 > /proc/irq/100/smp_affinity_list   # ice-ens1f0-TxRx-0",
    ] {
        assert!(commands.contains(&expected), "{expected} is not in {commands:#?}");
    }
    // Nothing for idle states that are left quickly, and no hugepages: AF_XDP needs none.
    assert!(!commands.iter().any(|c| c.contains("cpuidle/state2") || c.contains("hugepages")));
    assert!(plan.steps.iter().all(|step| !step.why.is_empty()));
    assert!(plan.configuration.contains("cores = [4, 5]") && plan.configuration.contains("copy = \"zero-copy\""));

    let latency = plan::plan(&m, &af_xdp(&PORTS, &[]), Goal::Latency).unwrap();
    assert!(latency.configuration.contains("idle = \"poll\""));
    assert!(self::commands(&latency).contains(&"ethtool -C ens1f0 adaptive-rx off rx-usecs 0"));
    assert!(self::commands(&latency).contains(&"ethtool -G ens1f0 rx 512 tx 512"));
}

#[test]
fn given_cores_are_kept() {
    let plan = plan::plan(&machine(E810), &af_xdp(&PORTS, &[6, 7, 3]), Goal::Throughput).unwrap();
    assert_eq!(plan.workers.iter().map(|w| w.core).collect::<Vec<_>>(), [6, 7, 3]);
    // Isolated with their other threads, and those are nobody's housekeepers.
    assert!(plan.housekeeping.iter().all(|id| ![3, 6, 7, 11, 14, 15].contains(id)));
}

#[test]
fn a_plan_for_dpdk_binds_and_takes_hugepages_on_the_right_node() {
    let m = machine(E810);
    let plan = plan::plan(&m, &dpdk(&["0000:b1:00.0"], &[]), Goal::Throughput).unwrap();
    let commands = commands(&plan);
    for expected in [
        "intel_iommu=on",
        "echo 1024 > /sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages",
        "ip link set ens1f0 down",
        "dpdk-devbind.py --bind=vfio-pci 0000:b1:00.0",
    ] {
        assert!(commands.contains(&expected), "{expected} is not in {commands:#?}");
    }
    // Core 0 is not taken, and DPDK has no interrupts to serve.
    assert_eq!(plan.workers.iter().map(|w| w.core).collect::<Vec<_>>(), [4, 5, 6, 7]);
    assert!(plan.workers.iter().all(|w| w.interrupts.is_none()));
    assert!(plan.configuration.contains("kind = \"dpdk\"") && plan.configuration.contains("\"0000:b1:00.0\""));
}

#[test]
fn dpdk_without_its_preparations_does_not_run() {
    let m = machine(E810);
    let report = check::check(&m, &dpdk(&["0000:b1:00.0", "0000:c1:00.0"], &[4]));
    assert_eq!(places(&report, "driver-binding"), ["0000:b1:00.0"]);
    assert_eq!(places(&report, "interface-missing"), ["0000:c1:00.0"]);
    assert_eq!(places(&report, "hugepages"), ["the machine"]);

    // Hugepages on the wrong node are of no use.
    let mut m = m;
    m.pci[0].driver = Some("vfio-pci".into());
    m.hugepages[0].free = 1024;
    m.nodes[0].hugepages[0].free = 1024;
    let report = check::check(&m, &dpdk(&["0000:b1:00.0"], &[4]));
    assert_eq!(places(&report, "hugepages"), ["NUMA node 1"]);
    assert!(!report.has("driver-binding"));
    let report = check::check(&m, &dpdk(&["0000:b1:00.0"], &[2]));
    assert!(!report.has("hugepages") && places(&report, "numa") == ["0000:b1:00.0"]);
    // Without a worker on its node it has no buffers; with one of several it is only slower for the others.
    let numa = |cores: &[usize]| {
        let report = check::check(&m, &dpdk(&["0000:b1:00.0"], cores));
        report.findings.into_iter().find(|f| f.code == "numa").map(|f| f.severity)
    };
    assert_eq!(numa(&[2, 3]), Some(Severity::DoesNotRun));
    assert_eq!(numa(&[2, 4]), Some(Severity::Slower));
    assert_eq!(numa(&[4, 5]), None);
    // Bound away, it is still known for what it is.
    assert!(report.unknown.iter().all(|unknown| !unknown.contains("no profile")), "{:?}", report.unknown);
}

#[test]
fn a_veth_tells_on_its_other_end() {
    let m = machine("veth");
    let report = check::check(&m, &af_xdp(&["lb0", "lb1"], &[1]));
    // The end that sends is the one to be changed, and the one in another namespace is not guessed at.
    assert_eq!(places(&report, "partial-checksums"), ["host0"]);
    assert!(report.unknown.iter().any(|u| u.starts_with("lb1: the offloads of its other end")));
    // In the driver, a veth has its other end cut segments itself.
    assert!(!report.has("segments") && !report.has("joined-segments"));

    let above = Asked { xdp: XdpWish::Generic, ..af_xdp(&["lb0"], &[1]) };
    let report = check::check(&m, &above);
    assert_eq!((places(&report, "segments"), places(&report, "joined-segments")), (vec!["host0"], vec!["lb0"]));
    assert_eq!(report.findings[0].severity, Severity::CorruptPacket);

    let mut m = m;
    m.nics.iter_mut().for_each(|nic| nic.told.interface.offloads.values_mut().for_each(|on| *on = false));
    let report = check::check(&m, &above);
    assert!(!report.has("partial-checksums") && !report.has("segments") && !report.has("joined-segments"));
}

#[test]
fn a_veth_made_here_is_found_with_its_other_end_and_mended() {
    if !support::root("a_veth_made_here_is_found_with_its_other_end_and_mended") {
        return;
    }
    let (here, there) = (Namespace::create().unwrap(), Namespace::create().unwrap());
    let rtnl = Rtnl::open_in(&here).unwrap();
    let end = |name| VethEnd { name, namespace: None, mac: None, mtu: 1500, queues: 1 };
    rtnl.create_veth(&end("lb0"), &end("host0")).unwrap();
    rtnl.create_veth(&end("lb1"), &VethEnd { namespace: Some(&there), ..end("host1") }).unwrap();
    ["lb0", "host0", "lb1"].iter().for_each(|name| rtnl.set_up(name, true).unwrap());
    support::eventually("a carrier", || rtnl.link("lb0").unwrap().running);

    let look = || here.run(Machine::here).unwrap().unwrap();
    let m = look();
    assert_eq!(m.veth_peer(m.nic("lb0").unwrap()).map(|peer| peer.name()), Some("host0"));
    assert_eq!(m.veth_peer(m.nic("lb1").unwrap()).map(|peer| peer.name()), None);
    let report = check::check(&m, &af_xdp(&["lb0", "lb1"], &[0]));
    assert_eq!(places(&report, "partial-checksums"), ["host0"]);
    assert_eq!(places(&report, "interface-down"), ["lb1"]);
    assert!(report.unknown.iter().any(|u| u.starts_with("lb1: the offloads of its other end")));

    Ethtool::open_in(&here).unwrap().set_offload("host0", Offload::TxChecksum, false).unwrap();
    assert!(!check::check(&look(), &af_xdp(&["lb0"], &[0])).has("partial-checksums"));
}

fn with_content(asked: Asked, cores: &[usize]) -> Asked {
    let content = ContentWorkers { count: cores.len().max(1), cores: cores.to_vec(), poll: false };
    Asked { content: Some(content), ..asked }
}

#[test]
fn content_workers_are_planned_for_and_looked_at_like_others() {
    let m = machine(E810);
    let plan = plan::plan(&m, &with_content(af_xdp(&PORTS, &[]), &[4]), Goal::Throughput).unwrap();
    assert_eq!((plan.content.as_slice(), plan.workers[0].core), (&[4][..], 5), "its core is not given away");
    assert!(plan.workers.iter().all(|w| w.core != 4 && w.interrupts != Some(4)));
    assert!(!plan.housekeeping.contains(&4) && !plan.housekeeping.contains(&12));
    assert!(plan.configuration.contains("placement = \"split\"\ncontent-cores = [4]\ncontent-idle = \"adaptive\"\n"));
    let commands = commands(&plan);
    assert!(commands.iter().any(|c| c.starts_with("isolcpus=managed_irq,domain,4-")), "{commands:#?}");
    assert!(commands.contains(&"echo performance > /sys/devices/system/cpu/cpu4/cpufreq/scaling_governor"));
    let unpinned = plan::plan(&m, &with_content(af_xdp(&PORTS, &[5]), &[]), Goal::Latency).unwrap();
    assert!(unpinned.configuration.contains("placement = \"split\"\ncontent-workers = 1\ncontent-idle = \"poll\"\n"));

    let report = check::check(&m, &with_content(af_xdp(&PORTS, &[5]), &[0, 13, 99]));
    assert_eq!(places(&report, "core-zero"), ["core 0"]);
    assert_eq!(places(&report, "core-missing"), ["core 99"]);
    assert_eq!(places(&report, "core-shared"), ["cores 5 and 13"]);
    // The worker polls, the content workers sleep.
    assert_eq!(places(&report, "idle-states"), ["core 0", "core 13"]);
    let report = check::check(&m, &with_content(af_xdp(&PORTS, &[5]), &[]));
    assert_eq!(places(&report, "not-pinned"), ["[workers] content-cores"]);
}

#[test]
fn interrupts_of_devices_that_nobody_asked_about_are_found_where_they_come() {
    let mut m = machine("vm-virtio");
    let disk = |number, name: &str, count| Interrupt {
        number,
        name: name.into(),
        allowed: Some(vec![0, 1]),
        effective: Some(vec![1]),
        count,
    };
    m.interrupts.extend([disk(50, "nvme0q2", 81), disk(51, "ahci", 0)]);
    let told = |asked: &Asked| {
        let report = check::check(&m, asked);
        let found = report.findings.into_iter().filter(|f| f.code == "core-interrupts");
        found.map(|f| (f.place, f.what)).collect::<Vec<_>>()
    };
    // The disk's, which come; not the idle one's; and without AF_XDP on it the card's as well.
    let memory = Asked { kind: PortKind::Memory, ..af_xdp(&[], &[1]) };
    let found = told(&memory);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].1.contains("50 (nvme0q2, 81 times") && found[0].1.contains("38 (virtio2-input.0, 10175 times"));
    assert!(!found[0].1.contains("ahci"), "{found:?}");
    // The port's own queue is a finding of its own, and stands once.
    let found = told(&af_xdp(&["eth0"], &[1]));
    assert_eq!(found.iter().filter(|(place, what)| place == "core 1" && what.contains("virtio2-input.0")).count(), 1);
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn a_plan_warns_before_it_takes_the_way_in_from_the_kernel() {
    let mut m = machine(E810);
    let warnings = |m: &Machine, devices: &[&str]| {
        let plan = plan::plan(m, &dpdk(devices, &[]), Goal::Throughput).unwrap();
        let why: Vec<String> =
            plan.steps.into_iter().map(|step| step.why).filter(|why| why.contains("WARNING")).collect();
        assert_eq!(why.len(), plan.warnings.len(), "it stands at the commands, too");
        plan.warnings
    };
    let nic = |m: &mut Machine, at: usize, addresses, default_route| {
        (m.nics[at].told.addresses, m.nics[at].told.default_route) = (Some(addresses), Some(default_route));
    };
    assert!(warnings(&m, &["0000:b1:00.0"]).is_empty(), "an older recording does not tell");
    (0..3).for_each(|at| nic(&mut m, at, 0, false));
    assert!(warnings(&m, &["0000:b1:00.0"]).is_empty(), "it has no address");
    nic(&mut m, 1, 1, false);
    let told = warnings(&m, &["0000:b1:00.0"]);
    assert!(told[0].starts_with("ens1f0 (0000:b1:00.0) has the only address"), "{told:?}");
    nic(&mut m, 2, 1, false);
    assert!(warnings(&m, &["0000:b1:00.0"]).is_empty(), "there is another way in");
    assert_eq!(warnings(&m, &["0000:b1:00.0", "0000:b1:00.1"]).len(), 2, "which goes, too");
    nic(&mut m, 1, 1, true);
    assert!(warnings(&m, &["0000:b1:00.0"])[0].contains("has the default route"));
    // A bridge has the address, and the card is its port.
    nic(&mut m, 1, 0, false);
    nic(&mut m, 2, 0, false);
    let mut bridge = m.nics[1].clone();
    let link = &mut bridge.told.interface.link;
    (link.index, link.name, link.kind) = (9, "br0".into(), Some("bridge".into()));
    (bridge.pci, bridge.told.addresses, bridge.told.default_route) = (None, Some(1), Some(true));
    m.nics[1].told.interface.link.master = Some(9);
    m.nics.push(bridge);
    assert!(warnings(&m, &["0000:b1:00.0"])[0].contains("has the default route, through br0"));
}

#[test]
fn interfaces_that_cannot_serve_are_named() {
    let mut m = machine(E810);
    for nic in &mut m.nics {
        let link = &mut nic.told.interface.link;
        match link.name.as_str() {
            "ens1f0" => (link.up, link.running) = (false, false),
            "ens1f1" => (link.mtu, link.xdp_program) = (9000, Some(7)),
            _ => {}
        }
    }
    let report = check::check(&m, &af_xdp(&["ens1f0", "ens1f1", "ens9"], &[4]));
    assert_eq!(places(&report, "interface-down"), ["ens1f0"]);
    assert_eq!(places(&report, "interface-missing"), ["ens9"]);
    assert_eq!(places(&report, "xdp"), ["ens1f1"]);
    assert_eq!((places(&report, "mtu-buffer"), places(&report, "mtu-xdp")), (vec!["ens1f1"], vec!["ens1f1"]));
    let error = plan::plan(&m, &af_xdp(&["ens9"], &[]), Goal::Throughput).unwrap_err().to_string();
    assert!(error.contains("ens9") && error.contains("ens1f0"), "{error}");
}

#[test]
fn a_kernel_too_old_for_zero_copy_is_found() {
    let mut m = machine(E810);
    m.nics.iter_mut().filter_map(|nic| nic.told.interface.driver.as_mut()).for_each(|d| d.name = "mlx5_core".into());
    let asked = Asked { zero_copy: true, ..af_xdp(&PORTS, &[4]) };
    assert!(!check::check(&m, &asked).has("xdp"));
    m.kernel.release = Some("5.15.0-91-generic".into());
    assert_eq!(places(&check::check(&m, &asked), "xdp"), PORTS);
    assert!(plan::plan(&m, &asked, Goal::Throughput).unwrap().configuration.contains("copy = \"auto\""));
}

#[test]
fn a_tunnel_needs_room_for_its_header() {
    let tunnel = |forwarding| Asked { forwarding: BTreeSet::from([forwarding]), ..af_xdp(&PORTS, &[4]) };
    let mut m = machine(E810);
    let report = check::check(&m, &tunnel(Forwarding::Tunnel4));
    assert!(report.findings.iter().any(|f| f.code == "mtu-tunnel" && f.mend.contains("mtu 1520")));
    // The servers' link has room: the clients' need not have it.
    m.nics[2].told.interface.link.mtu = 1520;
    assert!(!check::check(&m, &tunnel(Forwarding::Tunnel4)).has("mtu-tunnel"));
    assert!(check::check(&m, &tunnel(Forwarding::Tunnel6)).has("mtu-tunnel"));
    assert!(!check::check(&m, &tunnel(Forwarding::Direct)).has("mtu-tunnel"));
}

#[test]
fn every_finding_has_a_listed_code_and_a_mend() {
    let mut seen = BTreeSet::new();
    for name in [E810, "vm-virtio", "veth"] {
        let m = machine(name);
        for asked in [
            af_xdp(&["eth0", "ens1f0", "lb0"], &[0, 1, 8, 99]),
            Asked { xdp: XdpWish::Generic, zero_copy: true, poll: false, ..af_xdp(&["eth0", "lb0"], &[]) },
            Asked { poll: false, no_huge: true, ..dpdk(&["0000:b1:00.0"], &[0, 1]) },
        ] {
            for finding in check::check(&m, &asked).findings {
                assert!(!finding.what.is_empty() && !finding.mend.is_empty() && !finding.place.is_empty());
                seen.insert(finding.code);
            }
        }
    }
    for code in &seen {
        assert!(check::CODES.iter().any(|(known, _)| known == code), "{code} is not listed");
    }
    assert!(seen.contains("core-missing") && seen.contains("not-pinned") && seen.contains("core-zero"), "{seen:?}");
}
