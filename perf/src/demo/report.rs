//! What the demo found, for people and for programs.

use std::collections::BTreeMap;

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
    /// `nat`, `fullnat`, `dr` or `tun`; the tunnels through the other family are `tun-4in6` and `tun-6in4`.
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
    /// What the worker spent on a frame from its reception to its transmission, time-stamp cycles: the sum of the stages.
    pub cycles_per_packet: f64,
    /// The stages in the packet's order. Each is divided by the packets that *it* worked on.
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
