//! What the demo found, for people and for programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};

use serde::Serialize;

/// Everything that was played.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Whether every check of every scenario was passed.
    pub ok: bool,
    /// The scenarios, in the order in which they were played.
    pub scenarios: Vec<Scenario>,
    /// What it was played on.
    pub host: Host,
    /// How long it took, seconds.
    pub seconds: f64,
    /// Whether it was interrupted before the end.
    pub interrupted: bool,
}

impl Display for Report {
    /// A table with a line for each scenario, and whatever was not as it should be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers: BTreeSet<&str> =
            self.scenarios.iter().flat_map(|s| s.per_server.keys()).map(String::as_str).collect();
        write!(f, "{:11} {:8} {:>8} {:>6}", "scenario", "clients", "requests", "failed")?;
        servers.iter().try_for_each(|server| write!(f, " {server:>8}"))?;
        writeln!(f, " {:>8} {:>13}  checks", "packets", "cycles/packet")?;
        for s in &self.scenarios {
            write!(f, "{:11} {:8} {:8} {:6}", s.name, s.ip, s.requests, s.failed)?;
            servers.iter().try_for_each(|n| write!(f, " {:8}", s.per_server.get(*n).copied().unwrap_or(0)))?;
            let passed = s.checks.iter().filter(|check| check.ok).count();
            let mark = if s.ok { '✓' } else { '✗' };
            writeln!(f, " {:8} {:13.0}  {passed}/{} {mark}", s.packets, s.cycles_per_packet, s.checks.len())?;
        }
        for s in &self.scenarios {
            for check in s.checks.iter().filter(|check| !check.ok) {
                writeln!(f, "✗ {} over {}: {}: {}", s.name, s.ip, check.name, check.detail)?;
            }
            if !s.drops.is_empty() {
                let drops: Vec<String> = s.drops.iter().map(|(reason, frames)| format!("{frames} {reason}")).collect();
                writeln!(f, "{} over {}: frames dropped by the director: {}", s.name, s.ip, drops.join(", "))?;
            }
        }
        if let Some(s) = self.scenarios.first() {
            let how: Vec<&str> =
                [&s.port, &s.mode, &s.copy].map(String::as_str).into_iter().filter(|t| !t.is_empty()).collect();
            writeln!(f, "port: {}; kernel {}, {} cores", how.join(", "), self.host.kernel, self.host.cores)?;
        }
        let end = match (self.interrupted, self.ok) {
            (true, _) => "interrupted",
            (false, true) => "ok",
            (false, false) => "not ok",
        };
        writeln!(f, "{end}, {:.1} s", self.seconds)
    }
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Host {
    /// The kernel's release, where it can be read.
    pub kernel: String,
    /// Cores that the demo could use.
    pub cores: usize,
}

impl Host {
    /// This one.
    pub fn this() -> Self {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
        Host { kernel, cores: std::thread::available_parallelism().map_or(1, usize::from) }
    }
}

/// One way to forward, with clients of one family.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Scenario {
    /// One of [`super::SCENARIOS`].
    pub name: String,
    /// The director's port: `af_xdp` or `memory`.
    pub port: String,
    /// The clients' family: `ipv4` or `ipv6`.
    pub ip: String,
    /// Whether every check was passed.
    pub ok: bool,
    /// Requests sent.
    pub requests: u64,
    /// Requests without a right answer.
    pub failed: u64,
    /// Answered requests by server.
    pub per_server: BTreeMap<String, u64>,
    /// What the pipeline spent on a frame, time-stamp cycles: its stages together, without the port's.
    pub cycles_per_packet: f64,
    /// What the port spent on a frame, time-stamp cycles. On a veth, to transmit is to run the receiver's kernel.
    pub port_cycles_per_packet: f64,
    /// The stages in the packet's order, the port's (`receive`, `transmit`) too. Each is divided by the packets that
    /// *it* worked on.
    pub stages: Vec<Stage>,
    /// Frames that the director received.
    pub packets: u64,
    /// Frames that the director dropped, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Where the port's frames come from, e.g. `native`; empty where there is nothing to say.
    pub mode: String,
    /// `copy` or `zero-copy`; empty where there is nothing to say.
    pub copy: String,
    /// What was looked at.
    pub checks: Vec<Check>,
    /// How long it took, seconds.
    pub seconds: f64,
}

impl Scenario {
    /// Counts a variant in: its requests and checks, named by `how`. Costs stay those of the scenario itself.
    pub fn add(&mut self, variant: Scenario, how: &str) {
        self.ok &= variant.ok;
        self.requests += variant.requests;
        self.failed += variant.failed;
        for (server, requests) in variant.per_server {
            *self.per_server.entry(server).or_default() += requests;
        }
        for (reason, frames) in variant.drops {
            *self.drops.entry(reason).or_default() += frames;
        }
        self.checks.extend(variant.checks.into_iter().map(|c| Check { name: format!("{how}: {}", c.name), ..c }));
        self.seconds += variant.seconds;
    }
}

/// What one stage costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// Time-stamp cycles per packet that came to it.
    pub cycles_per_packet: f64,
    /// Packets that came to it.
    pub packets: u64,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What should be.
    pub name: String,
    /// Whether it is.
    pub ok: bool,
    /// What was seen.
    pub detail: String,
}
