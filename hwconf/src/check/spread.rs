//! How frames are spread over the workers.
//!
//! The owner of a connection goes by a hash of the client's endpoint, the one that a card has which hashes the source on the clients' side and the
//! destination on the servers', under the key that the plan gives it. A frame that another worker received is copied through a ring to its owner.

use super::{Report, Severity};
use crate::asked::{Asked, Forwarding, PortKind};
use crate::machine::Machine;
use crate::receive::FlowType;

/// Longest frame that is handed over, bytes.
const LONGEST: u32 = 2040;
/// Ethernet header and one 802.1Q tag.
const LINK_HEADERS: u32 = 18;

pub(super) fn check(machine: &Machine, asked: &Asked, report: &mut Report) {
    let workers = asked.workers();
    if workers < 2 {
        return;
    }
    let both = asked.forwarding.iter().copied().any(Forwarding::both_directions);
    let fields = |name: &str| {
        let nic = machine.nic(name)?;
        let symmetric = nic.told.rss.as_ref().is_some_and(|rss| rss.symmetric);
        let told = nic.told.hash_fields.get(&FlowType::Tcp4)?;
        Some(if symmetric { format!("{told}, symmetric") } else { told.clone() })
    };
    let told: Vec<String> =
        asked.interfaces.iter().map(|name| format!("{name} by {}", crate::machine::told(fields(name)))).collect();
    long_frames(machine, asked, report);
    one_queue(machine, asked, report);
    if asked.kind != PortKind::Dpdk && fits(machine, asked, both) {
        return;
    }
    let spread = match asked.kind {
        PortKind::Dpdk => "devices spread frames by addresses and ports of both sides, unless `clients` asks them for better and the log says that \
                            they do it"
            .to_owned(),
        _ => format!("frames of tcp4 are spread on {}", told.join("; on ")),
    };
    let split = if both { " The two directions of a connection come to different queues." } else { "" };
    report.find(
        Severity::Slower,
        "hand-over",
        "[workers] cores",
        format!(
            "with {workers} workers about {} of {workers} frames come to a worker that does not own their connection (the owner \
             goes by the client's endpoint alone, under a key that repeats itself), and are copied through a ring; {spread}.{split}",
            workers - 1
        ),
        "`lcs hw plan` says how a card that can is told to name the owners' queues; elsewhere for what one core can do take one worker; for several, say the number of workers with the figure, and look at `hand-over` and \
         `handover-full` in `lcs stats`",
    );
}

/// Whether every interface brings frames to the worker that owns their connection: the first one is the clients'.
fn fits(machine: &Machine, asked: &Asked, both: bool) -> bool {
    let workers = asked.workers() as u32;
    let fits = |(at, name): (usize, &String)| {
        let told = &machine.nic(name)?.told;
        let rss = told.rss.as_ref().filter(|rss| rss.names_owners(workers))?;
        let fields = if at == 0 { "sf" } else { "dn" };
        let all = FlowType::ALL.iter().all(|kind| told.hash_fields.get(kind).is_some_and(|f| f == fields));
        all.then_some(rss.indirection.len())
    };
    let tables: Vec<Option<usize>> = asked.interfaces.iter().enumerate().map(fits).collect();
    // With one interface the clients' fields are hashed, which is right where servers do not answer through it.
    let arms = if both { asked.interfaces.len() > 1 } else { !asked.interfaces.is_empty() };
    // Tables of different sizes name the same queues where these are a power of two.
    let alike = workers.is_power_of_two() || tables.iter().all(|table| *table == tables[0]);
    arms && alike && tables.iter().all(Option::is_some)
}

/// Frames that no ring between workers takes.
fn long_frames(machine: &Machine, asked: &Asked, report: &mut Report) {
    let links = asked.interfaces.iter().filter_map(|name| machine.nic(name)).map(|nic| &nic.told.interface.link);
    for link in links.filter(|link| link.mtu.saturating_add(LINK_HEADERS) > LONGEST) {
        report.find(
            Severity::CorruptPacket,
            "hand-over-length",
            &link.name,
            format!(
                "its MTU is {}, and frames of more than {LONGEST} bytes cannot be handed over between workers: they are dropped",
                link.mtu
            ),
            format!("ip link set {} mtu {}, or one worker", link.name, LONGEST - LINK_HEADERS),
        );
    }
}

/// Tables that leave workers without frames.
fn one_queue(machine: &Machine, asked: &Asked, report: &mut Report) {
    let workers = asked.workers();
    for nic in asked.interfaces.iter().filter_map(|name| machine.nic(name)) {
        let Some(rss) = nic.told.rss.as_ref().filter(|rss| !rss.indirection.is_empty()) else { continue };
        if rss.queues().len() == 1 && nic.told.interface.receive_queues > 1 {
            report.find(
                Severity::WrongFigure,
                "one-queue",
                nic.name(),
                format!("its RSS table sends every frame to queue {}", rss.indirection[0]),
                format!("ethtool -X {} equal {workers}", nic.name()),
            );
        }
    }
}
