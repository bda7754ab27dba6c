//! The network that all subjects stand in, and how each is put in place and taken away again.

use std::net::{IpAddr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use lcs_control::protocol::WorkerStats;
use lcs_dataplane::port::af_xdp::ModePreference;
use lcs_dataplane::port::af_xdp::balancer::{self, AttachedProgram, BalancerCounts, Target, XdpBalancer};
use lcs_hwconf::ethtool::Offload;
use lcs_hwconf::testbed::{ETH0, Host, Plan, Testbed};
use lcs_hwconf::{links, steering};

use super::configure::{self, Site};
use super::program::{self, Program};
use super::subject::{Peer, Subject};
use super::traffic::server::Server;
use super::workload::{GROUPS, Traffic};
use super::{Options, PeersError};
use crate::bed::cpu::{self, Watched};
use crate::bed::{self, Alone};
use crate::demo::interrupt::Interrupt;
use crate::folder::Folder;

/// The service's port.
const PORT: u16 = 80;
/// Servers' port for the first peer; each has its own, so that none meets connections that another has left behind.
const FIRST_SERVER_PORT: u16 = 8080;
/// How long a program may take until it serves.
const PATIENCE: Duration = Duration::from_secs(10);

/// The network.
#[derive(Debug)]
pub struct Bench {
    bed: Testbed,
    /// The director's core.
    core: usize,
    /// The core of clients and servers; where there are more, each has one.
    others: Vec<usize>,
    best_offloads: bool,
    connections: usize,
    /// What could not be had.
    pub notes: Vec<String>,
}

impl Bench {
    /// Builds it. Needs root.
    pub fn build(core: usize, others: Vec<usize>, options: &Options) -> Result<Self, PeersError> {
        let bed = Testbed::build(Plan { servers: GROUPS.len() as u8, ..Plan::default() })?;
        for host in bed.hosts().skip(1) {
            // As many connections as there are ports, and those that were closed a second ago again.
            host.namespace().sysctls(&[
                ("net/ipv4/ip_local_port_range", "1024 65535"),
                ("net/ipv4/tcp_tw_reuse", "1"),
                ("net/ipv4/tcp_max_syn_backlog", "16384"),
                ("net/core/somaxconn", "16384"),
            ])?;
        }
        let mut bench = Bench {
            bed,
            core,
            others,
            best_offloads: options.best_offloads,
            connections: options.connections,
            notes: vec![],
        };
        for peer in Peer::ALL {
            bench.bed.give_virtual_address(bench.service(peer).ip())?;
        }
        if let Err(e) =
            bed::receive_apart(&bench.bed, bench.core, &bench.others, |at| bed::server_core(&bench.others, at))
        {
            bench.notes.push(format!("receive work runs on the sender's core and not on the receiver's: {e}"));
        }
        Ok(bench)
    }

    /// The director's core.
    pub fn core(&self) -> usize {
        self.core
    }

    /// The client's core.
    pub fn client_core(&self) -> usize {
        self.others[0]
    }

    /// The network's hosts.
    pub fn bed(&self) -> &Testbed {
        &self.bed
    }

    fn number(peer: Peer) -> u8 {
        Peer::ALL.iter().position(|p| *p == peer).unwrap_or(0) as u8
    }

    /// What clients of a peer connect to.
    fn service(&self, peer: Peer) -> SocketAddr {
        SocketAddr::new(self.bed.virtual_address(Self::number(peer), false), PORT)
    }

    /// Where a peer stands.
    pub fn site(&self, peer: Peer) -> Site {
        let port = FIRST_SERVER_PORT + u16::from(Self::number(peer));
        let servers = (0..GROUPS.len() as u8).map(|at| SocketAddr::new(self.bed.server_address(at, false), port));
        Site { service: self.service(peer), servers: servers.collect() }
    }

    /// Where its clients go.
    pub fn destinations(&self, peer: Peer) -> Vec<SocketAddr> {
        let site = self.site(peer);
        if peer == Peer::Forward { site.servers } else { vec![site.service] }
    }

    /// Starts the servers for the traffic of a cell.
    pub fn serve(&self, traffic: &Arc<Traffic>) -> Result<Vec<Server>, PeersError> {
        let start = |(at, host)| {
            let addresses: Vec<SocketAddr> = Peer::ALL.iter().map(|peer| self.site(*peer).servers[at]).collect();
            Ok(Server::start(host, &addresses, bed::server_core(&self.others, at), Arc::clone(traffic))?)
        };
        self.bed.servers().iter().enumerate().map(start).collect()
    }

    /// Puts a subject in place and waits until it serves.
    pub fn place(&self, subject: Subject, traffic: &Traffic, interrupt: &Interrupt) -> Result<Placed<'_>, PeersError> {
        let site = self.site(subject.peer);
        let frames = matches!(subject.peer, Peer::Ours | Peer::Xdp) || !self.best_offloads;
        self.set_offloads(!frames)?;
        self.bed.set_kernel_forwarding(matches!(subject.peer, Peer::Forward | Peer::Nftables | Peer::Ipvs))?;
        let folder = Folder::create().map_err(PeersError::Folder)?;
        let write = |files: &[configure::File]| folder.write(files).map_err(PeersError::Folder);
        let in_folder = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let mut placed =
            Placed { bench: self, inside: Inside::Kernel, watched: bed::watched(self.core), notes: vec![] };
        match subject.peer {
            Peer::Forward => {}
            Peer::Nftables => {
                write(&[("nftables.conf", configure::nftables(&site))])?;
                // A table that is half made goes, too.
                placed.inside = Inside::Nftables;
                program::run(self.bed.director(), "nft", &["-f".into(), in_folder("nftables.conf")])?;
            }
            Peer::Ipvs => {
                placed.inside = Inside::Ipvs;
                for call in configure::ipvs(&site) {
                    program::run(self.bed.director(), "ipvsadm", &call)?;
                }
            }
            Peer::Haproxy => {
                write(&configure::haproxy(&site, traffic, subject.variant, self.connections, folder.path()))?;
                let arguments = ["-db".into(), "-f".into(), in_folder("haproxy.cfg")];
                placed.run("haproxy", &arguments, folder, site.service, interrupt)?;
            }
            Peer::Nginx => {
                let files = configure::nginx(&site, traffic, folder.path());
                write(&files.unwrap_or_default())?;
                let arguments =
                    ["-e".into(), "stderr".into(), "-p".into(), in_folder(""), "-c".into(), in_folder("nginx.conf")];
                placed.run("nginx", &arguments, folder, site.service, interrupt)?;
            }
            Peer::Xdp => placed.balance(&site)?,
            Peer::Ours => {
                write(&[("rules", configure::rules(&traffic.rules))])?;
                placed.direct(&site, &folder.path().join("rules"))?;
            }
        }
        Ok(placed)
    }

    /// As frames must be for a director that sees them, or as they are from the start.
    fn set_offloads(&self, on: bool) -> Result<(), lcs_hwconf::Error> {
        for host in self.bed.hosts().skip(1) {
            host.ethtool().set_offload(ETH0, Offload::TxChecksum, on)?;
            self.bed.switch().ethtool().set_offload(host.name(), Offload::TxChecksum, on)?;
        }
        Ok(())
    }
}

#[derive(Debug)]
enum Inside<'a> {
    Kernel,
    Nftables,
    Ipvs,
    // The folder goes behind the program that has its files open.
    Program(Program, #[allow(dead_code)] Folder),
    Director(Box<Alone<'a>>),
    Xdp(Box<Xdp>),
}

/// The XDP balancer in place.
#[derive(Debug)]
struct Xdp {
    balancer: XdpBalancer,
    /// What it had sent on when it was last looked at.
    seen: BalancerCounts,
    /// It on the director's leg, and what has the leg's other end take what it sends.
    _attached: [AttachedProgram; 2],
}

/// A subject in place; it's taken away when this is dropped.
#[derive(Debug)]
pub struct Placed<'a> {
    bench: &'a Bench,
    inside: Inside<'a>,
    /// Whose time counts.
    pub watched: Watched,
    /// What is not as it should be.
    pub notes: Vec<String>,
}

impl Placed<'_> {
    fn run(
        &mut self,
        name: &str,
        arguments: &[String],
        folder: Folder,
        service: SocketAddr,
        interrupt: &Interrupt,
    ) -> Result<(), PeersError> {
        let mut program = Program::start(self.bench.bed.director(), self.bench.core, name, arguments, folder.path())?;
        let deadline = Instant::now() + PATIENCE;
        let failed = |what| PeersError::Program { program: name.into(), what };
        loop {
            interrupt.check()?;
            if self.bench.bed.client().run(|| TcpStream::connect_timeout(&service, PATIENCE).is_ok())? {
                break;
            }
            if let Some(why) = program.ended() {
                return Err(failed(why));
            }
            if Instant::now() > deadline {
                return Err(failed(format!("it does not serve after {} s", PATIENCE.as_secs())));
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.watched.process = cpu::threads(program.process);
        self.inside = Inside::Program(program, folder);
        Ok(())
    }

    fn direct(&mut self, site: &Site, rules: &Path) -> Result<(), PeersError> {
        let (bed, core) = (&self.bench.bed, self.bench.core);
        let own: IpAddr = bed.director_inner_address(false);
        let text = |socket: &str| configure::director(site, own, ETH0, core, rules, socket);
        let mut alone = Alone::start(bed, core, text)?;
        self.watched = std::mem::take(&mut alone.watched);
        self.notes.extend(alone.note.take().map(|note| format!("ours: {note}")));
        self.inside = Inside::Director(Box::new(alone));
        Ok(())
    }

    /// Puts the XDP balancer on the director's leg, in its driver.
    fn balance(&mut self, site: &Site) -> Result<(), PeersError> {
        let (bed, core) = (&self.bench.bed, self.bench.core);
        let failed = |what: String| PeersError::Program { program: "the XDP balancer".into(), what };
        let v4 = |endpoint: SocketAddr| match endpoint {
            SocketAddr::V4(endpoint) => Ok(endpoint),
            SocketAddr::V6(_) => Err(failed("it knows IPv4 only".into())),
        };
        let mac = |host: &Host| -> Result<[u8; 6], PeersError> {
            let link = host.rtnl().link(ETH0)?;
            link.mac.ok_or_else(|| failed(format!("{ETH0} of {} has no link-layer address", host.name())))
        };
        let servers = site.servers.iter().zip(bed.servers());
        let servers = servers.map(|(at, host)| Ok(Target { endpoint: v4(*at)?, mac: mac(host)? }));
        let servers: Vec<Target> = servers.collect::<Result<_, PeersError>>()?;
        let service: SocketAddrV4 = v4(site.service)?;
        let balancer = XdpBalancer::load(service, &servers, mac(bed.client())?).map_err(|e| failed(e.to_string()))?;
        let other_end = bed.director().name();
        let receives: Result<AttachedProgram, PeersError> = bed.switch().run(|| {
            let interface = links::interface(other_end)?;
            balancer::attach_pass(&interface).map_err(|e| failed(e.to_string()))
        })?;
        let sends: Result<AttachedProgram, PeersError> = bed.director().run(|| {
            let interface = links::interface(ETH0)?;
            balancer.attach(&interface, ModePreference::Native).map_err(|e| failed(e.to_string()))
        })?;
        self.inside =
            Inside::Xdp(Box::new(Xdp { balancer, seen: BalancerCounts::default(), _attached: [sends?, receives?] }));
        // As for our director: the program runs in NAPI, which a veth runs on the sender's core. And the other end's NAPI,
        // which would run here, is the switch's work.
        let rest = self.bench.others[0];
        let threads = steering::poll_in_thread(bed.director().namespace(), ETH0, core);
        let threads = threads.and_then(|ids| {
            steering::poll_in_thread(bed.switch().namespace(), other_end, rest)?;
            Ok(ids)
        });
        match threads {
            Ok(ids) => self.watched.kernel.extend(ids.into_iter().map(|id| (id, id))),
            Err(e) => self.notes.push(format!("xdp: its work ran on the senders' core and isn't counted: {e}")),
        }
        Ok(())
    }

    /// What our director has counted, and cycles in a second.
    pub fn stats(&mut self) -> Result<Option<(WorkerStats, u64)>, PeersError> {
        let Inside::Director(director) = &mut self.inside else { return Ok(None) };
        let stats = director.director.stats()?;
        Ok(Some((stats.total, stats.tsc_hz)))
    }

    /// Why the subject is no longer there, if it isn't.
    pub fn ended(&mut self) -> Option<String> {
        match &mut self.inside {
            Inside::Program(program, _) => program.ended(),
            Inside::Xdp(xdp) => match xdp.balancer.counts() {
                // What went past it was not its doing.
                Ok(counts) if counts.to_servers == xdp.seen.to_servers || counts.to_clients == xdp.seen.to_clients => {
                    Some("no packet passed the XDP program".into())
                }
                Ok(counts) => {
                    xdp.seen = counts;
                    None
                }
                Err(e) => Some(e.to_string()),
            },
            _ => None,
        }
    }
}

impl Drop for Placed<'_> {
    fn drop(&mut self) {
        let director = self.bench.bed.director();
        // What can't be taken away goes with the namespace.
        let _ = match &self.inside {
            Inside::Nftables => {
                let words = ["delete", "table", "ip", configure::TABLE].map(str::to_owned);
                program::run(director, "nft", &words)
            }
            Inside::Ipvs => program::run(director, "ipvsadm", &["-C".to_owned()]),
            Inside::Xdp(_) => {
                let _ = steering::poll_in_place(self.bench.bed.switch().namespace(), director.name());
                let _ = steering::poll_in_place(director.namespace(), ETH0);
                Ok(())
            }
            _ => Ok(()),
        };
    }
}
