//! Our director beside what is installed: the same traffic, in the same namespaces, in turns.
//!
//! One client, one director and three servers stand on a bridge ([`lcs_hwconf::testbed`]). The director has a core alone,
//! with its receive work; client, servers and switch share the others. Every round puts each subject in place, loads it and
//! takes it away, so that a slow spell of the machine does not fall on one of them alone.
//!
//! From here, processes of others are started (HAProxy, nginx, `nft`), in the director's namespace and nowhere else. The XDP
//! balancer is ours ([`lcs_dataplane::port::af_xdp::balancer`]): no other was found among Debian 12's packages (Katran and Cilium's
//! would bring tunnels and agents of their own).

mod bench;
mod configure;
mod program;
pub mod report;
mod subject;
pub(crate) mod traffic;
pub(crate) mod workload;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use lcs_hwconf::cores;
use serde::{Deserialize, Serialize};

use crate::bed::cpu::{self, Used, Watched};
use crate::bed::{self, CoresError};
use crate::demo::interrupt::{Interrupt, Interrupted};
use crate::demo::root;
use bench::Bench;
use report::{Cell, Figures, Row, Skipped, Slot};
use traffic::client::{self, Load};
use workload::Traffic;

pub(crate) use subject::find;
pub use subject::{Peer, Subject, Variant};
pub use workload::{Mode, Workload};

/// Before what counts.
const WARM_UP: Duration = Duration::from_millis(300);
/// For how long the core is looked at with nothing of ours on it.
const BASELINE: Duration = Duration::from_millis(400);

/// What to measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Who; those that aren't there are skipped.
    pub peers: Vec<Peer>,
    /// What rules are about.
    pub workloads: Vec<Workload>,
    /// What connections are used for.
    pub modes: Vec<Mode>,
    /// Rounds.
    pub rounds: usize,
    /// Seconds of load for each subject and round.
    pub seconds: f64,
    /// Connections at once.
    pub connections: usize,
    /// Bytes of a response's body.
    pub size: usize,
    /// Rules of [`Workload::Rules`].
    pub rules: usize,
    /// Bytes of a request's body, for [`Workload::Xml`].
    pub bodies: Vec<usize>,
    /// Whether each request of a connection is for another server than the one before.
    pub alternate: bool,
    /// Whether the kernel's stacks have their offloads; ours never has.
    pub best_offloads: bool,
    /// The director's core; the last one where none is named.
    pub core: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            peers: Peer::ALL.to_vec(),
            workloads: Workload::ALL.to_vec(),
            modes: Mode::ALL.to_vec(),
            rounds: 5,
            seconds: 2.0,
            connections: 64,
            size: 1024,
            rules: 1000,
            bodies: vec![1000, 10_000, 100_000],
            alternate: false,
            best_offloads: false,
            core: None,
        }
    }
}

/// What keeps the figures from being taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeersError {
    /// An option is out of range.
    #[error("{what} of {value}: take {mend}")]
    Range {
        /// Which.
        what: &'static str,
        /// Its value.
        value: String,
        /// The values that can be taken.
        mend: &'static str,
    },
    /// Not root.
    #[error("network namespaces, AF_XDP and pinned kernel threads need root: `sudo lcs perf peers`")]
    NotRoot,
    /// One core only.
    #[error("the director needs a core alone and clients and servers another, but this process may run on {0} only")]
    Cores(String),
    /// A program of others can't be used.
    #[error("{program}: {what}")]
    Program {
        /// Its name.
        program: String,
        /// What is wrong.
        what: String,
    },
    /// No room for configurations.
    #[error("write a configuration among the temporary files: {0}")]
    Folder(io::Error),
    /// The client can't wait for its sockets.
    #[error("the client: {0}")]
    Client(io::Error),
    /// The network, a server or our director.
    #[error(transparent)]
    Root(#[from] root::Error),
    /// Ctrl-C.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

impl From<lcs_hwconf::Error> for PeersError {
    fn from(error: lcs_hwconf::Error) -> Self {
        PeersError::Root(error.into())
    }
}

impl Options {
    fn check(&self) -> Result<(), PeersError> {
        let range = |what, value: String, mend| Err(PeersError::Range { what, value, mend });
        if !(1..=1000).contains(&self.rounds) {
            return range("a number of rounds", self.rounds.to_string(), "1 to 1000");
        }
        if !(0.1..=600.0).contains(&self.seconds) {
            return range("a time", format!("{} s", self.seconds), "0.1 to 600 seconds");
        }
        if !(1..=10_000).contains(&self.connections) {
            return range("a number of connections", self.connections.to_string(), "1 to 10000");
        }
        if self.size > 10_000_000 {
            return range("a response", format!("{} bytes", self.size), "0 to 10000000 bytes");
        }
        if !(3..=100_000).contains(&self.rules) {
            return range("a number of rules", self.rules.to_string(), "3 to 100000");
        }
        // Our own limit for a body in which values are looked for is 1 MiB.
        match self.bodies.iter().find(|bytes| !(300..=1_000_000).contains(*bytes)) {
            Some(bytes) => range("a request's body", format!("{bytes} bytes"), "300 to 1000000 bytes"),
            None => Ok(()),
        }
    }

    /// The director's core and the others'.
    fn cores(&self) -> Result<(usize, Vec<usize>), PeersError> {
        bed::cores(self.core).map_err(|e| match e {
            CoresError::Few(which) => PeersError::Cores(which),
            CoresError::Foreign(core) => {
                PeersError::Range { what: "a core", value: core.to_string(), mend: "one that this process may run on" }
            }
            CoresError::System(e) => e.into(),
        })
    }

    /// The cells: what, how and with bodies of how many bytes.
    fn cells(&self) -> Vec<(Workload, Mode, usize)> {
        let mut cells = vec![];
        for &workload in &self.workloads {
            let bodies = if workload == Workload::Xml { self.bodies.as_slice() } else { &[0] };
            for &body in bodies {
                cells.extend(self.modes.iter().map(|mode| (workload, *mode, body)));
            }
        }
        cells
    }
}

/// Measures; `progress` is told what comes next. An interrupted measurement gives what it has.
///
/// # Errors
/// When an option is out of range, or the network can't be built. A subject that fails is told in the figures.
pub fn measure(
    options: &Options,
    interrupt: &Interrupt,
    mut progress: impl FnMut(&str),
) -> Result<Figures, PeersError> {
    options.check()?;
    let (core, others) = options.cores()?;
    let (mut peers, mut skipped) = (vec![], vec![]);
    for &peer in &options.peers {
        match peer.missing() {
            Some(why) => skipped.push(Skipped { peer, workload: None, why }),
            None => peers.push(peer),
        }
    }
    progress("building the network");
    let bench = match Bench::build(core, others, options) {
        Err(PeersError::Root(error)) if error.is_permission() => return Err(PeersError::NotRoot),
        other => other?,
    };
    let mut notes = bench.notes.clone();
    let mut cells = vec![];
    for (workload, mode, body) in options.cells() {
        if interrupt.is_set() {
            break;
        }
        let (subjects, not) = Subject::of(&peers, workload, mode);
        for (peer, why) in not {
            if !skipped.iter().any(|s: &Skipped| s.peer == peer && s.workload == Some(workload)) {
                skipped.push(Skipped { peer, workload: Some(workload), why });
            }
        }
        let traffic = Traffic::new(workload, mode, options.rules, body, options.size, options.alternate);
        let cell = measure_cell(options, &bench, &subjects, Arc::new(traffic), interrupt, &mut notes, &mut |what| {
            let size = if body > 0 { format!(" {body} B") } else { String::new() };
            progress(&format!("{}{size}, {}: {what}", workload.name(), mode.name()));
        })?;
        cells.push(Cell { workload, mode, body, rows: cell });
    }
    notes.dedup();
    Ok(Figures { options: options.clone(), core, cells, skipped, notes, interrupted: interrupt.is_set() })
}

fn measure_cell(
    options: &Options,
    bench: &Bench,
    subjects: &[Subject],
    traffic: Arc<Traffic>,
    interrupt: &Interrupt,
    notes: &mut Vec<String>,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<Row>, PeersError> {
    let servers = bench.serve(&traffic)?;
    let mut slots: Vec<Vec<Option<Slot>>> = vec![vec![]; subjects.len()];
    let mut failures: Vec<BTreeMap<String, u64>> = vec![BTreeMap::new(); subjects.len()];
    for round in 0..options.rounds {
        for (at, subject) in subjects.iter().enumerate() {
            if interrupt.is_set() {
                break;
            }
            progress(&format!("round {} of {}, {subject}", round + 1, options.rounds));
            match measure_slot(options, bench, *subject, &traffic, interrupt, notes) {
                Ok(slot) => slots[at].push(Some(slot)),
                Err(PeersError::Interrupted(_)) => break,
                // Its place is kept, so that rounds stay side by side.
                Err(error) => {
                    *failures[at].entry(format!("not measured: {error}")).or_default() += 1;
                    slots[at].push(None);
                }
            }
        }
    }
    drop(servers);
    Ok(report::rows(subjects, &slots, failures))
}

fn measure_slot(
    options: &Options,
    bench: &Bench,
    subject: Subject,
    traffic: &Arc<Traffic>,
    interrupt: &Interrupt,
    notes: &mut Vec<String>,
) -> Result<Slot, PeersError> {
    let alone = Watched { core: bench.core(), niced: cpu::is_niced(), ..Watched::default() };
    let baseline = cpu::baseline(&alone, BASELINE);
    let mut placed = bench.place(subject, traffic, interrupt)?;
    notes.append(&mut placed.notes);
    let load = Load {
        to: bench.destinations(subject.peer),
        switched: subject.peer.reads(),
        connections: options.connections,
        warm_up: WARM_UP,
        window: Duration::from_secs_f64(options.seconds),
    };
    let before = placed.stats()?;
    let watched = placed.watched.clone();
    let mut moments = vec![];
    let outcome = bench.bed().client().run(|| {
        // Elsewhere it would be slower, not wrong.
        let _ = cores::pin(bench.client_core());
        client::run(&load, traffic, interrupt, || moments.push(watched.look()))
    })?;
    let mut outcome = outcome.map_err(PeersError::Client)?;
    let after = placed.stats()?;
    if let Some(why) = placed.ended() {
        *outcome.errors.entry(why).or_default() += 1;
    }
    interrupt.check()?;
    let [first, last] = moments.as_slice() else { return Err(Interrupted.into()) };
    let mut slot = Slot::new(&outcome, &Used::between(first, last), baseline);
    if let (Some((before, _)), Some((after, hz))) = (before, after) {
        slot.own(&before, &after, hz, outcome.total);
    }
    Ok(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_out_of_range_are_refused_with_their_mend() {
        let good = Options::default();
        good.check().unwrap();
        for (options, named) in [
            (Options { rounds: 0, ..good.clone() }, "rounds of 0"),
            (Options { seconds: f64::NAN, ..good.clone() }, "NaN"),
            (Options { connections: 0, ..good.clone() }, "connections of 0"),
            (Options { rules: 2, ..good.clone() }, "rules of 2"),
            (Options { bodies: vec![1000, 5], ..good.clone() }, "5 bytes"),
            (Options { size: usize::MAX, ..good.clone() }, "response"),
        ] {
            let error = options.check().unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("take"), "{error}");
        }
    }

    #[test]
    fn there_is_a_cell_for_each_workload_mode_and_body() {
        assert_eq!(Options::default().cells().len(), 2 + 2 + 6);
        let one = Options { workloads: vec![Workload::Rules], modes: vec![Mode::Close], ..Options::default() };
        assert_eq!(one.cells(), [(Workload::Rules, Mode::Close, 0)]);
    }
}
