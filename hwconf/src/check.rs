//! What on a machine would make a measured figure wrong, a packet corrupt or a director slower than it need be.
//!
//! A pure function of a [`Machine`] and of what is [`Asked`]. What the machine does not tell is said as unknown, and is no finding.

mod cores;
mod ports;
mod spread;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::asked::{Asked, PortKind};
use crate::machine::Machine;

/// How bad it is; the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The director does not start, or nothing passes.
    DoesNotRun,
    /// Packets are lost or come out other than they should.
    CorruptPacket,
    /// A figure differs from one run to the next, or is not one of the director.
    WrongFigure,
    /// All is well and could be faster.
    Slower,
}

impl Severity {
    /// All of them, the worst first.
    pub const ALL: [Severity; 4] =
        [Severity::DoesNotRun, Severity::CorruptPacket, Severity::WrongFigure, Severity::Slower];
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::DoesNotRun => "does not run",
            Severity::CorruptPacket => "corrupt packet",
            Severity::WrongFigure => "wrong figure",
            Severity::Slower => "slower",
        })
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// A word for it that stays the same between versions, for scripts.
    pub code: String,
    /// The interface, device or core.
    pub place: String,
    /// What is the matter.
    pub what: String,
    /// What to do about it.
    pub mend: String,
}

/// Everything that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The findings, the worst first.
    pub findings: Vec<Finding>,
    /// What could not be looked at, because the machine does not tell.
    pub unknown: Vec<String>,
}

impl Report {
    fn find(
        &mut self,
        severity: Severity,
        code: &str,
        place: impl Into<String>,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.findings.push(Finding {
            severity,
            code: code.to_owned(),
            place: place.into(),
            what: what.into(),
            mend: mend.into(),
        });
    }

    /// Leaves out findings by their codes.
    pub fn ignore(&mut self, codes: &[String]) {
        self.findings.retain(|finding| !codes.contains(&finding.code));
    }

    /// Whether there is a finding of this code.
    pub fn has(&self, code: &str) -> bool {
        self.findings.iter().any(|finding| finding.code == code)
    }
}

/// All codes of findings, with what each is about.
pub const CODES: [(&str, &str); 30] = [
    ("clock", "the clock, or the counter of cycles"),
    ("core-interrupts", "a worker's core that serves interrupts, the card's or another device's"),
    ("core-missing", "a worker's core that is not there"),
    ("core-shared", "two workers on one physical core"),
    ("core-zero", "a worker on core 0"),
    ("driver-binding", "a device that DPDK cannot take from its driver"),
    ("governor", "a frequency governor that clocks down"),
    ("hand-over", "frames that are handed from worker to worker"),
    ("hand-over-length", "frames too long to be handed over"),
    ("hugepages", "no or too few hugepages"),
    ("idle", "workers that nap"),
    ("idle-states", "idle states that take long to leave"),
    ("interface-down", "an interface that is down or has no carrier"),
    ("interface-missing", "an interface or device that is not there"),
    ("joined-segments", "received segments that are joined"),
    ("mtu-buffer", "an MTU that no buffer has room for"),
    ("mtu-tunnel", "an MTU without room for a tunnel's header"),
    ("mtu-xdp", "an MTU that keeps XDP out of the driver"),
    ("not-isolated", "a worker's core that other tasks may use"),
    ("not-pinned", "a worker on no particular core"),
    ("numa", "a card that is on another NUMA node than its worker"),
    ("one-queue", "frames that all come to one of several queues"),
    ("partial-checksums", "checksums that nobody has finished"),
    ("pcie", "a slot with fewer or slower lanes than the card has"),
    ("queues", "another number of queues than of workers"),
    ("rings", "small rings"),
    ("segments", "segments that a sender leaves to be cut later"),
    ("sibling-busy", "a worker's physical core that other tasks may use"),
    ("virtual-machine", "a virtual machine"),
    ("xdp", "XDP that is somebody else's, or not in the driver"),
];

/// Looks the machine over for what is asked of it.
pub fn check(machine: &Machine, asked: &Asked) -> Report {
    let mut report = Report::default();
    cores::check(machine, asked, &mut report);
    match asked.kind {
        PortKind::AfXdp => {
            ports::af_xdp(machine, asked, &mut report);
            spread::check(machine, asked, &mut report);
        }
        PortKind::Dpdk => {
            ports::dpdk(machine, asked, &mut report);
            spread::check(machine, asked, &mut report);
        }
        PortKind::Memory => {}
    }
    report.findings.sort_by_key(|finding| finding.severity);
    report
}
