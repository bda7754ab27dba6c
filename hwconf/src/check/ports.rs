//! Interfaces and devices: whether they are there, can do what is asked, and leave frames as they came.

use super::{Report, Severity};
use crate::asked::{Asked, Forwarding, PortKind, XdpWish};
use crate::ethtool::Offload;
use crate::machine::{Machine, Nic};
use crate::plan::{native, zero_copy};
use crate::profile::{self, Binding, Profile};

/// Largest MTU that a buffer of AF_XDP has room for: 4,096 bytes without 256 in front, an Ethernet header and a tag.
const MTU_BUFFER: u32 = 4096 - 256 - 18;
/// Largest MTU that DPDK's buffers have room for: 2,048 bytes without an Ethernet header and a tag.
const MTU_DPDK: u32 = 2048 - 18;
/// The usual MTU of Ethernet (RFC 894), which clients are taken to have.
const MTU_CLIENTS: u32 = 1500;
/// Descriptors of a ring under which a burst at line rate is likely to be lost.
const SMALL_RING: u32 = 512;

pub(super) fn af_xdp(machine: &Machine, asked: &Asked, report: &mut Report) {
    for name in &asked.interfaces {
        let Some(nic) = present(machine, name, report) else { continue };
        let profile = profile::of_nic(nic);
        state(nic, report);
        queues(nic, asked, report);
        xdp(machine, nic, profile.as_ref(), asked, report);
        joined(nic, profile.as_ref(), asked, report);
        veth(machine, nic, profile.as_ref(), asked, report);
        slot(machine, nic, asked, report);
        if profile.is_none() {
            report.unknown.push(format!(
                "{name}: no profile for its driver {}, so its known limits",
                crate::machine::told(nic.driver())
            ));
        }
        if let Some(rings) = nic.told.rings.filter(|rings| rings.rx < SMALL_RING && rings.rx_max > rings.rx) {
            report.find(
                Severity::Slower,
                "rings",
                name,
                format!("its receive ring has {} descriptors, and a burst at line rate may not find room", rings.rx),
                format!("ethtool -G {name} rx {}", rings.rx_max.min(4096)),
            );
        }
    }
    tunnel(machine, asked, report);
}

pub(super) fn dpdk(machine: &Machine, asked: &Asked, report: &mut Report) {
    let mut hardware = false;
    for device in &asked.devices {
        if let Some(name) = &device.interface {
            if let Some(nic) = present(machine, name, report) {
                let profile = profile::of_nic(nic);
                state(nic, report);
                joined(nic, profile.as_ref(), asked, report);
                veth(machine, nic, profile.as_ref(), asked, report);
                if nic.told.interface.link.mtu > MTU_DPDK {
                    buffer(nic, MTU_DPDK, report);
                }
            }
        } else if device.name.split(':').count() == 3 {
            hardware = true;
            pci(machine, &device.name, asked, report);
        }
    }
    hugepages(machine, asked, hardware, report);
    tunnel(machine, asked, report);
}

fn present<'a>(machine: &'a Machine, name: &str, report: &mut Report) -> Option<&'a Nic> {
    let nic = machine.nic(name);
    if nic.is_none() {
        let present: Vec<&str> = machine.nics.iter().map(Nic::name).collect();
        report.find(
            Severity::DoesNotRun,
            "interface-missing",
            name,
            "there is no such interface in this network namespace",
            format!(
                "name one of {}, or look in the right namespace: ip netns exec NAME lcs hw check …",
                present.join(", ")
            ),
        );
    }
    nic
}

fn state(nic: &Nic, report: &mut Report) {
    let (name, link) = (nic.name(), &nic.told.interface.link);
    if !link.up {
        let mend = format!("ip link set {name} up");
        report.find(Severity::DoesNotRun, "interface-down", name, "it is down", mend);
    } else if !link.running {
        let mend = "plug the cable in, or set the other end up";
        report.find(Severity::DoesNotRun, "interface-down", name, "it is up and has no carrier", mend);
    }
}

fn queues(nic: &Nic, asked: &Asked, report: &mut Report) {
    let (name, have, want) = (nic.name(), nic.told.interface.receive_queues as usize, asked.workers());
    if have == want {
        return;
    }
    let mend = match (nic.most_queues(), nic.told.interface.channels) {
        (Some(most), _) if (most as usize) < want => {
            format!("it can have {most} at most: name as many cores in [workers] cores")
        }
        (Some(_), Some(channels)) if channels.max_combined > 0 => format!("ethtool -L {name} combined {want}"),
        (Some(_), Some(_)) => format!("ethtool -L {name} rx {want} tx {want}"),
        _ => format!("its driver offers no way to change that: name {have} core(s) in [workers] cores"),
    };
    report.find(
        Severity::DoesNotRun,
        "queues",
        name,
        format!("it has {have} receive queue(s) in use for {want} worker(s), and every queue needs its worker"),
        mend,
    );
}

fn xdp(machine: &Machine, nic: &Nic, profile: Option<&Profile>, asked: &Asked, report: &mut Report) {
    let (name, link) = (nic.name(), &nic.told.interface.link);
    if let Some(number) = link.xdp_program {
        report.find(
            Severity::DoesNotRun,
            "xdp",
            name,
            format!("the XDP program {number} is attached already: another director, or somebody else's"),
            format!("stop the one that attached it (bpftool prog show id {number}), or ip link set {name} xdp off"),
        );
    }
    if link.mtu > MTU_BUFFER {
        buffer(nic, MTU_BUFFER, report);
    }
    if asked.xdp == XdpWish::Generic {
        report.find(
            Severity::WrongFigure,
            "xdp",
            name,
            "the XDP program runs above the driver (mode = \"generic\"), after the kernel has made a packet of every frame",
            "mode = \"native\"",
        );
        return;
    }
    match native(nic, profile) {
        Some(true) => {}
        Some(false) if asked.xdp == XdpWish::Native => report.find(
            Severity::DoesNotRun,
            "xdp",
            name,
            "its driver has no XDP, and mode = \"native\" asks for it",
            "mode = \"auto\", or another card",
        ),
        Some(false) => report.find(
            Severity::WrongFigure,
            "xdp",
            name,
            "its driver has no XDP, so the program runs above it, after the kernel has made a packet of every frame",
            "another card, or DPDK",
        ),
        None => report.unknown.push(format!("{name}: whether XDP can run in the driver")),
    }
    match zero_copy(machine, nic, profile) {
        Some(false) if asked.zero_copy => report.find(
            Severity::DoesNotRun,
            "xdp",
            name,
            "its driver copies every frame with this kernel, and copy = \"zero-copy\" asks for none",
            "copy = \"auto\"",
        ),
        Some(false) => report.find(
            Severity::Slower,
            "xdp",
            name,
            "the kernel copies every frame between driver and buffer",
            "a card whose driver has AF_XDP zero-copy, or DPDK",
        ),
        Some(true) => {}
        None => report.unknown.push(format!("{name}: whether AF_XDP must copy frames")),
    }
    if let Some(most) = profile.and_then(|p| p.xdp.largest_mtu()).filter(|most| link.mtu > *most) {
        let severity = if asked.xdp == XdpWish::Native { Severity::DoesNotRun } else { Severity::WrongFigure };
        report.find(
            severity,
            "mtu-xdp",
            name,
            format!("its MTU is {}, and with more than {most} its driver takes no XDP program", link.mtu),
            format!("ip link set {name} mtu {most}"),
        );
    }
}

fn buffer(nic: &Nic, most: u32, report: &mut Report) {
    report.find(
        Severity::DoesNotRun,
        "mtu-buffer",
        nic.name(),
        format!("its MTU is {}, and a frame of more than {most} does not fit a buffer", nic.told.interface.link.mtu),
        format!("ip link set {} mtu {most}", nic.name()),
    );
}

/// Segments that this end joins before we see them.
fn joined(nic: &Nic, profile: Option<&Profile>, asked: &Asked, report: &mut Report) {
    let name = nic.name();
    for (feature, option) in [("rx-lro", "lro"), ("rx-gro-hw", "rx-gro-hw")] {
        if nic.feature(feature) {
            report.find(
                Severity::CorruptPacket,
                "joined-segments",
                name,
                format!(
                    "the card joins segments ({option}) to frames that are longer than a buffer, and these are dropped; no XDP in \
                     the driver meanwhile"
                ),
                format!("ethtool -K {name} {option} off"),
            );
        }
    }
    // In the driver we see frames before they are joined.
    let above = asked.xdp == XdpWish::Generic || native(nic, profile) == Some(false);
    let here = asked.kind == crate::asked::PortKind::Dpdk || above;
    if here && nic.offload(Offload::Gro) == Some(true) {
        report.find(
            Severity::CorruptPacket,
            "joined-segments",
            name,
            "the kernel joins segments (gro) before we see them, to frames that are longer than a buffer: these are dropped",
            format!("ethtool -K {name} gro off"),
        );
    }
}

/// What a veth's other end leaves undone, because there is no wire between.
fn veth(machine: &Machine, nic: &Nic, profile: Option<&Profile>, asked: &Asked, report: &mut Report) {
    let name = nic.name();
    if nic.driver() != Some("veth") {
        return;
    }
    let Some(peer) = machine.veth_peer(nic) else {
        report.unknown.push(format!(
            "{name}: the offloads of its other end, which is in another network namespace: look there with `ethtool -k IF`, where tx, tso \
             and gso must be off"
        ));
        return;
    };
    if peer.offload(Offload::TxChecksum) == Some(true) {
        report.find(
            Severity::WrongFigure,
            "partial-checksums",
            peer.name(),
            format!(
                "frames from there come to {name} with unfinished checksums, and the director finishes each of them: no wire \
                 asks for that"
            ),
            format!("ethtool -K {} tx off", peer.name()),
        );
    }
    let above = asked.xdp == XdpWish::Generic || native(nic, profile) == Some(false);
    let whole = above || asked.kind == crate::asked::PortKind::Dpdk;
    let leaves = |offload| peer.offload(offload) == Some(true);
    if whole && (leaves(Offload::Tso) || leaves(Offload::Gso)) {
        report.find(
            Severity::CorruptPacket,
            "segments",
            peer.name(),
            format!("segments are left to be cut later (tso, gso) and come to {name} as frames of up to 64 KiB, which are dropped"),
            format!("ethtool -K {} tso off gso off", peer.name()),
        );
    }
}

/// The card's slot.
fn slot(machine: &Machine, nic: &Nic, asked: &Asked, report: &mut Report) {
    numa(machine, nic.name(), nic.node(), asked, report);
    if let Some(pci) = &nic.pci {
        lanes(nic.name(), pci, report);
    }
}

fn numa(machine: &Machine, place: &str, node: Option<u32>, asked: &Asked, report: &mut Report) {
    let Some(node) = node else {
        if machine.nodes.len() > 1 {
            report.unknown.push(format!("{place}: its NUMA node"));
        }
        return;
    };
    let away: Vec<String> = asked
        .cores
        .iter()
        .filter_map(|id| machine.cpu(*id))
        .filter(|cpu| cpu.node.is_some_and(|other| other != node))
        .map(|cpu| cpu.id.to_string())
        .collect();
    let near = machine.nodes.iter().find(|n| n.id == node).map(|n| crate::cores::format_list(&n.cpus));
    if asked.kind == PortKind::Dpdk && !away.is_empty() && away.len() == asked.cores.len() {
        // A pool of buffers is made for each node that has a worker, and a device takes its node's.
        report.find(
            Severity::DoesNotRun,
            "numa",
            place,
            format!(
                "it is on NUMA node {node}, and no worker is (core(s) {}): DPDK has no buffers there, and the device does not start",
                away.join(", ")
            ),
            format!("take at least one core of that node, better all: {}", crate::machine::told(near)),
        );
        return;
    }
    if !away.is_empty() {
        report.find(
            Severity::Slower,
            "numa",
            place,
            format!(
                "it is on NUMA node {node}, and the workers on core(s) {} are not: every frame crosses between sockets",
                away.join(", ")
            ),
            format!("take cores of that node: {}", crate::machine::told(near)),
        );
    }
}

fn lanes(place: &str, pci: &crate::machine::Pci, report: &mut Report) {
    if let Some((now, most)) = pci.lanes.filter(|(now, most)| now < most) {
        report.find(
            Severity::Slower,
            "pcie",
            place,
            format!("its slot gives {now} lanes of the {most} that the card has"),
            "put it into a wider slot, or see how the firmware splits this one",
        );
    }
    if let Some((now, most)) = pci.lane_speed.as_ref().filter(|(now, most)| now != most) {
        report.find(
            Severity::Slower,
            "pcie",
            place,
            format!("its lanes run at {now}, and the card could do {most}"),
            "put it into a faster slot, or see the firmware's settings",
        );
    }
}

fn pci(machine: &Machine, address: &str, asked: &Asked, report: &mut Report) {
    let Some(pci) = machine.pci(address) else {
        let present: Vec<&str> = machine.pci.iter().map(|pci| pci.address.as_str()).collect();
        let mend = if present.is_empty() {
            "this machine has none".to_owned()
        } else {
            format!("it has {}", present.join(", "))
        };
        report.find(
            Severity::DoesNotRun,
            "interface-missing",
            address,
            "there is no network device at this address",
            mend,
        );
        return;
    };
    let profile = profile::of_pci(machine, address);
    let stays = profile.as_ref().and_then(|p| p.dpdk.as_ref()).is_some_and(|dpdk| dpdk.binding == Binding::Stays);
    let taken = matches!(pci.driver.as_deref(), Some("vfio-pci" | "uio_pci_generic" | "igb_uio"));
    if !stays && !taken {
        report.find(
            Severity::DoesNotRun,
            "driver-binding",
            address,
            format!("{} has it, and DPDK needs it bound to vfio-pci", crate::machine::told(pci.driver.as_deref())),
            format!("modprobe vfio-pci; dpdk-devbind.py --bind=vfio-pci {address} (its interface goes away)"),
        );
    }
    if stays && pci.driver.is_none() {
        report.find(
            Severity::DoesNotRun,
            "driver-binding",
            address,
            "no driver has it, and DPDK shares it with the kernel's",
            "dpdk-devbind.py --bind=mlx5_core, and install libibverbs (rdma-core)",
        );
    }
    if profile.is_none() {
        report.unknown.push(format!("{address}: no profile for {}, so its known limits", pci.id));
    }
    numa(machine, address, pci.node, asked, report);
    lanes(address, pci, report);
}

/// A buffer of DPDK: 2,048 bytes, headroom and its description.
const BUFFER_BYTES: u64 = 2304;
/// What DPDK takes beside the packet pool: rings, its own tables.
const BESIDE_BYTES: u64 = 32 << 20;

fn hugepages(machine: &Machine, asked: &Asked, hardware: bool, report: &mut Report) {
    if asked.no_huge {
        if hardware {
            report.find(
                Severity::WrongFigure,
                "hugepages",
                "[port] eal",
                "--no-huge puts packets into ordinary pages, which costs a miss of the TLB for almost every packet",
                "eal = [\"--in-memory\"], with hugepages: `lcs hw plan` has the command",
            );
        }
        return;
    }
    let pairs = (asked.devices.len() * asked.workers()) as u64;
    let pool = (u64::from(asked.buffers) * pairs).saturating_mul(BUFFER_BYTES).saturating_add(BESIDE_BYTES);
    let bytes = |pages: &[crate::machine::Hugepages]| {
        pages.iter().map(|p| p.size.saturating_mul(p.free)).fold(0, u64::saturating_add)
    };
    let mend =
        "sysctl -w vm.nr_hugepages=1024 (2 GiB), or eal = [\"--no-huge\", \"--no-shconf\", \"-m\", \"256\"] for a try";
    if bytes(&machine.hugepages) < pool {
        report.find(
            Severity::DoesNotRun,
            "hugepages",
            "the machine",
            format!(
                "{} MiB of hugepages are free, and DPDK's packet pool wants about {} MiB",
                bytes(&machine.hugepages) >> 20,
                pool >> 20
            ),
            mend,
        );
        return;
    }
    let mut nodes: Vec<u32> = asked.cores.iter().filter_map(|id| machine.cpu(*id)?.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    for node in machine.nodes.iter().filter(|node| nodes.contains(&node.id) && bytes(&node.hugepages) < pool) {
        report.find(
            Severity::DoesNotRun,
            "hugepages",
            format!("NUMA node {}", node.id),
            "workers are on it, and its hugepages are too few for their packet pool",
            format!("echo 1024 > /sys/devices/system/node/node{}/hugepages/hugepages-2048kB/nr_hugepages", node.id),
        );
    }
}

/// Room for an outer header.
fn tunnel(machine: &Machine, asked: &Asked, report: &mut Report) {
    let Some(forwarding) = asked.forwarding.iter().copied().max_by_key(|f| f.overhead()).filter(|f| f.overhead() > 0)
    else {
        return;
    };
    let overhead = forwarding.overhead();
    let family = if forwarding == Forwarding::Tunnel6 { "IPv6" } else { "IPv4" };
    let links = || asked.interfaces.iter().filter_map(|name| machine.nic(name)).map(|nic| &nic.told.interface.link);
    // Which of them the servers are on is the routing table's business: the one with the most room is taken.
    let Some(roomy) = links().max_by_key(|link| link.mtu) else {
        report
            .unknown
            .push(format!("whether the devices' MTU has room for the tunnels' {family} header of {overhead} bytes"));
        return;
    };
    if roomy.mtu < MTU_CLIENTS + overhead {
        report.find(
            Severity::CorruptPacket,
            "mtu-tunnel",
            &roomy.name,
            format!(
                "tunnels wrap packets in {overhead} bytes of {family}, and its MTU of {} has no room for that around a client's \
                 {MTU_CLIENTS}: such packets are answered with \"too big\", or lost where they may be fragmented",
                roomy.mtu
            ),
            format!(
                "ip link set {} mtu {}, on the switch and the servers as well; or lower the clients' MTU",
                roomy.name,
                MTU_CLIENTS + overhead
            ),
        );
    }
}
