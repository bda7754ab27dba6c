//! What the pipeline is measured in turns with: on the same core, over the same number of flows, in bursts of the same size.
//!
//! One is a director of layer 4 as it is usually written on DPDK. The program is `rte_hash.c` beside this file. It is built where it
//! runs, so that it is made for the same processor, and neither this crate nor its users need DPDK for anything else. The others are the
//! pipeline itself: with as few services and servers as a small site has, and with NAT, for what is to be no dearer.

use super::{Bench, Options, StagesError};
use crate::folder::Folder;
use crate::neighbour::Sharing;
use crate::peers::find;
use crate::summary::Summary;
use lcs_dataplane::cycles::Tsc;
use lcs_dataplane::port::memory::MemoryPort;
use lcs_hwconf::cores;
use lcs_pipelines::snapshot::Forward;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// What there is to measure beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// `rte_hash` of DPDK, an array of flows and prefetch: NAT of established TCP over IPv4, and nothing else.
    RteHash,
    /// The same pipeline over as many flows of a [`SMALL`] site, so that only the number of services and servers differs.
    Small,
    /// The same pipeline over as many flows by NAT, so that only the way to the servers differs.
    Nat,
}

/// Services and servers of [`Peer::Small`].
pub const SMALL: (usize, usize) = (1, 3);

/// Why there is nothing beside.
#[derive(Debug, thiserror::Error)]
pub enum BesideError {
    /// The peer does not do what is to be measured.
    #[error("--beside rte-hash does NAT over IPv4 with 64-byte frames for one service: leave out {0}, or --beside")]
    Other(&'static str),
    /// A program that builds it is not there.
    #[error(
        "--beside rte-hash is built where it runs, and {0} is not installed: on Debian, apt-get install gcc pkg-config libdpdk-dev"
    )]
    Missing(&'static str),
    /// It did not build.
    #[error("rte_hash.c does not build here (DPDK 22.11 is what it was written for): {0}")]
    Build(String),
    /// It did not run.
    #[error("the program of rte_hash.c ended: {0}")]
    Ended(String),
    /// The core that both are to run on.
    #[error(transparent)]
    Core(#[from] lcs_hwconf::Error),
    /// Files, processes or pipes.
    #[error("can't run the program of rte_hash.c: {0}")]
    Run(#[from] io::Error),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Beside {
    /// What was measured beside.
    pub peer: Peer,
    /// TSC cycles a packet of its whole loop.
    pub cycles_per_packet: Summary,
    /// Our cost to its, round by round: each has both twice, in the order ours, its, its, ours.
    pub ratio: Summary,
    /// The same by whether the core was shared with another hardware thread.
    pub sharing: Option<Sharing>,
}

impl fmt::Display for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (c, r) = (&self.cycles_per_packet, &self.ratio);
        match self.peer {
            Peer::RteHash => f.write_str("rte_hash loop in C")?,
            Peer::Small => write!(f, "the same with {} service and {} servers", SMALL.0, SMALL.1)?,
            Peer::Nat => f.write_str("the same by NAT")?,
        }
        write!(
            f,
            ": {:.1} cycles/packet ({:.1} – {:.1}); ours / its, interleaved: {:.3} ({:.3} – {:.3})",
            c.median, c.quartiles.0, c.quartiles.1, r.median, r.quartiles.0, r.quartiles.1
        )?;
        self.sharing.map_or(Ok(()), |sharing| write!(f, "\nours / its, {}", sharing.with(3)))
    }
}

/// Whether the peer can be given the same work.
///
/// # Errors
/// [`BesideError::Other`] names the option that it does not know.
pub(super) fn check(peer: Peer, o: &Options) -> Result<(), BesideError> {
    if peer != Peer::RteHash {
        return Ok(());
    }
    let unknown = [
        (o.forward != Forward::Nat || o.splice || o.preallocate, "--pipeline"),
        (o.ipv6, "--ipv6"),
        (o.size != 64, "--size"),
        (o.services != 1, "--services"),
    ];
    unknown.into_iter().find(|(other, _)| *other).map_or(Ok(()), |(_, option)| Err(BesideError::Other(option)))
}

/// A peer with all flows open.
pub(super) enum Running {
    RteHash(RteHash),
    Pipeline(Box<Bench<MemoryPort, Tsc>>),
}

impl Running {
    /// Starts it; it runs on the core that this thread runs on.
    pub fn start(peer: Peer, o: &Options) -> Result<Self, StagesError> {
        check(peer, o)?;
        Ok(match peer {
            Peer::RteHash => Running::RteHash(RteHash::start(o)?),
            Peer::Small => Self::pipeline(Options { services: SMALL.0, servers: SMALL.1, ..o.clone() })?,
            Peer::Nat => {
                Self::pipeline(Options { forward: Forward::Nat, splice: false, preallocate: false, ..o.clone() })?
            }
        })
    }

    fn pipeline(o: Options) -> Result<Self, StagesError> {
        let mut bench = Bench::new(&o, Tsc);
        bench.fill()?;
        Ok(Running::Pipeline(Box::new(bench)))
    }

    /// One round; TSC cycles a packet.
    pub fn round(&mut self) -> Result<f64, StagesError> {
        Ok(match self {
            Running::RteHash(program) => program.round()?,
            Running::Pipeline(bench) => bench.round()?,
        })
    }
}

/// The running program.
pub(super) struct RteHash {
    child: Child,
    /// Closed first: the program ends when it can read no more.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl RteHash {
    /// Builds it and starts it on the first core that this thread may run on, which this thread keeps to from now on.
    fn start(o: &Options) -> Result<Self, BesideError> {
        // Gone when the program runs: it needs no file then, and an interrupt leaves none.
        let folder = Folder::create()?;
        let program = build(&folder)?;
        let core = cores::available()?.first().map_or(0, |core| core.id);
        cores::pin(core)?;
        let mut command = Command::new(program);
        command.args([o.flows.to_string(), o.packets.to_string(), o.servers.to_string()]);
        // Its tables are in memory of its own; this is for the frames.
        command.args(["--no-huge", "--no-shconf", "--no-pci", "--no-telemetry", "--log-level", "error", "-m", "64"]);
        command.args(["--lcores", &format!("0@{core}")]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let output = output.map(BufReader::new).ok_or_else(|| BesideError::Ended("it has no output".to_owned()))?;
        let mut peer = RteHash { child, input, output };
        match peer.line()?.as_str() {
            "ready" => Ok(peer),
            other => Err(peer.ended(other)),
        }
    }

    fn round(&mut self) -> Result<f64, BesideError> {
        if let Some(input) = &mut self.input {
            // A program that has ended says why below.
            let _ = input.write_all(b"\n").and_then(|()| input.flush());
        }
        let line = self.line()?;
        line.parse().map_err(|_| self.ended(&line))
    }

    fn line(&mut self) -> Result<String, BesideError> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// It said something else than it should, or nothing: what it complained of.
    fn ended(&mut self, said: &str) -> BesideError {
        self.input = None;
        let mut complaint = String::new();
        if let Some(errors) = &mut self.child.stderr {
            let _ = io::Read::read_to_string(errors, &mut complaint);
        }
        BesideError::Ended(format!("{said} {}", complaint.trim()).trim().to_owned())
    }
}

impl Drop for RteHash {
    fn drop(&mut self) {
        self.input = None;
        // Gone already is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Compiles the program for this processor; its path.
fn build(folder: &Folder) -> Result<std::path::PathBuf, BesideError> {
    let compiler = find("cc").ok_or(BesideError::Missing("cc"))?;
    let flags = find("pkg-config").ok_or(BesideError::Missing("pkg-config"))?;
    let flags = Command::new(flags).args(["--cflags", "--libs", "libdpdk"]).output()?;
    if !flags.status.success() {
        return Err(BesideError::Missing("libdpdk"));
    }
    folder.write(&[("rte_hash.c", include_str!("rte_hash.c"))])?;
    let program = folder.path().join("rte_hash");
    let built = Command::new(compiler)
        .current_dir(folder.path())
        .args(["-O3", "-march=native", "-o", "rte_hash", "rte_hash.c"])
        .args(String::from_utf8_lossy(&flags.stdout).split_whitespace())
        .output()?;
    if !built.status.success() || !Path::exists(&program) {
        let said = String::from_utf8_lossy(&built.stderr);
        return Err(BesideError::Build(said.lines().find(|line| line.contains("error")).unwrap_or(&said).to_owned()));
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_peer_does_not_do_is_named() {
        for (o, option) in [
            (Options { forward: Forward::Dr, ..Options::default() }, "--pipeline"),
            (Options { ipv6: true, ..Options::default() }, "--ipv6"),
            (Options { size: 128, ..Options::default() }, "--size"),
        ] {
            assert!(check(Peer::RteHash, &o).unwrap_err().to_string().contains(option), "{o:?}");
            check(Peer::Small, &o).unwrap();
            check(Peer::Nat, &o).unwrap();
        }
        check(Peer::RteHash, &Options::default()).unwrap();
    }

    /// Each round has both twice, and what is printed and what a program reads say the same.
    #[test]
    fn a_large_site_is_measured_in_turns_with_a_small_one() {
        let o = Options {
            flows: 600,
            rounds: 3,
            packets: 2048,
            services: 4,
            servers: 100,
            beside: Some(Peer::Small),
            ..Options::default()
        };
        let figures = super::super::measure(&o, |_| {}).unwrap();
        let beside = figures.beside.clone().unwrap();
        assert_eq!((beside.peer, beside.ratio.rounds, beside.cycles_per_packet.rounds), (Peer::Small, 3, 6));
        assert!(beside.ratio.min > 0.0 && beside.cycles_per_packet.min > 1.0, "{beside:?}");
        let shown = format!("ours / its, interleaved: {:.3}", beside.ratio.median);
        assert!(figures.to_string().contains(&shown), "{figures}");
        assert!(figures.to_string().contains("the same with 1 service and 3 servers"), "{figures}");
        let json = serde_json::to_value(&figures).unwrap();
        assert_eq!(json["beside"]["peer"], "small");
        assert_eq!(json["beside"]["ratio"]["median"], beside.ratio.median);
        assert_eq!(json["options"]["servers"], 100);
    }

    #[test]
    fn direct_routing_is_measured_in_turns_with_nat() {
        let o = Options { forward: Forward::Dr, flows: 600, rounds: 3, packets: 2048, ..Options::default() };
        let figures = super::super::measure(&Options { beside: Some(Peer::Nat), ..o }, |_| {}).unwrap();
        assert!(figures.beside.as_ref().unwrap().ratio.min > 0.0, "{figures:?}");
        assert!(figures.to_string().contains("the same by NAT: "), "{figures}");
    }

    /// It verifies its own checksums before it says that it is ready.
    #[test]
    fn the_peer_forwards_every_frame() {
        let o = Options { flows: 1000, packets: 2048, ..Options::default() };
        match RteHash::start(&o) {
            Ok(mut peer) => assert!(peer.round().unwrap() > 1.0),
            Err(e @ BesideError::Missing(_)) => eprintln!("the_peer_forwards_every_frame: skipped: {e}"),
            Err(e) => panic!("{e}"),
        }
    }
}
