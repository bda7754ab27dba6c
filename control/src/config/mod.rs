//! The configuration: what a user writes in TOML, read, checked and given defaults.
//!
//! [`Configuration::load`] either gives a configuration in which everything holds that the rest of the program relies
//! on, or says everything that is wrong with the file, each with its place and its mend. [`check`] holds the rules of a
//! service, which live changes (`lcs vs`, `lcs rs`) obey as well. The keys are described in `CONFIGURATION.md`.

pub mod check;
mod content;
mod direct;
mod filter_key;
mod health;
mod problem;
mod read;
mod sections;
pub use sections::COALESCE;
mod services;
mod switching;
mod taps;

pub(crate) use content::forwards;
pub use content::{
    Content, FallbackWord, GROUPS_MAX, Group, HOST_NAME_MAX, QUEUES_MAX, SchemeWord, channel_text, guess_text,
    load_rules, names, pool_text,
};
pub use direct::needs;
pub use filter_key::{BadKey, read as read_filter_key};
pub(crate) use problem::nearest;
pub use problem::{Invalid, Problem};
pub use read::parse_seconds;

use ipnet::IpNet;
use lcs_dataplane::headers::MacAddr;
use lcs_dataplane::port::device::Device;
use lcs_dataplane::worker::Idle;
use lcs_pipelines::snapshot::{Forward, Persistence, Scheduler, Timeouts, WhenFull};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Longest name of a service or server, bytes.
pub const NAME_MAX: usize = 64;
/// Largest weight of a server.
pub const WEIGHT_MAX: u32 = 65_535;
/// Most workers of one director.
pub const WORKERS_MAX: usize = 64;
/// Most flows of one worker.
pub const FLOWS_MAX: usize = 1 << 30;
/// Most source addresses of one full-NAT service.
pub const SOURCES_MAX: usize = 256;
/// Longest configuration file, bytes.
pub const FILE_MAX: u64 = 64 << 20;

/// A commented configuration that is valid as it stands; what `lcs init` prints.
pub const EXAMPLE: &str = include_str!("example.toml");

/// A whole configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Configuration {
    /// The director itself.
    pub director: Director,
    /// Its workers.
    pub workers: Workers,
    /// Where frames come from and go to.
    pub port: Port,
    /// Idle time-outs of connections.
    pub timeouts: Timeouts,
    /// Neighbours that are given and not asked of the kernel.
    pub neighbours: Vec<Neighbour>,
    /// Routes that are given and not asked of the kernel.
    pub routes: Vec<Route>,
    /// The virtual services, in the file's order.
    pub services: Vec<Service>,
}

/// `[director]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Director {
    /// Path of the control socket.
    pub socket: PathBuf,
    /// The director's own addresses, in front of those of its interfaces: where its tunnels begin.
    pub addresses: Vec<IpAddr>,
}

/// `[workers]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workers {
    /// Cores, one worker each; worker `i` polls queue `i` of every interface. Empty: one worker, not pinned.
    pub cores: Vec<usize>,
    /// Connections that one worker can know at once.
    pub flows: usize,
    /// Fragmented packets that one worker can follow at once.
    pub fragments: usize,
    /// What a worker does when there is nothing to do.
    pub idle: Idle,
    /// What happens to a new connection when the flow table is full.
    pub when_full: WhenFull,
    /// Placement `split`: who decides requests. `None` for `run-to-completion`, where workers do it themselves.
    pub content: Option<ContentWorkers>,
}

/// The content workers of placement `split`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentWorkers {
    /// How many, at least 1.
    pub count: usize,
    /// Cores, one for each of them; empty: not pinned.
    pub cores: Vec<usize>,
    /// What one does when there is nothing to do.
    pub idle: Idle,
}

impl Workers {
    /// Number of workers, at least 1.
    pub fn count(&self) -> usize {
        self.cores.len().max(1)
    }
}

/// `[port]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Which kind.
    pub kind: PortKind,
    /// Names of the interfaces, numbered in this order.
    pub interfaces: Vec<String>,
    /// DPDK: the same as devices, with their arguments. Empty for other kinds.
    pub devices: Vec<Device>,
    /// DPDK: names of the devices that clients are on, where the devices are to spread frames by the client's endpoint; or none.
    pub clients: Vec<String>,
    /// DPDK: the kernel's TAP devices for what is not the director's, one for each interface and in their order; or none.
    pub taps: Vec<TapDevice>,
    /// DPDK: arguments of its environment; its own where there are none.
    pub eal: Option<Vec<String>>,
    /// Where the XDP program runs.
    pub mode: XdpMode,
    /// Whether the kernel copies frames.
    pub copy: Copy,
    /// Buffers for each interface and worker; a power of two.
    pub buffers: u32,
    /// AF_XDP: for how long frames may gather while a worker sleeps under load; at most 10 ms, zero for never.
    pub coalesce: Duration,
}

impl Port {
    /// Whether a kernel stands behind the port: it can be asked to connect to servers there.
    pub fn has_kernel(&self) -> bool {
        self.kind == PortKind::AfXdp || !self.taps.is_empty()
    }
}

/// One of `[[port.taps]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapDevice {
    /// Its name.
    pub name: String,
    /// The kernel's addresses on it, with the length of the network's prefix.
    pub addresses: Vec<IpNet>,
    /// Frames that each worker hands to the kernel a second at most, and that the kernel sends at most for each worker.
    pub rate: u32,
    /// Whether the kernel may forward IPv4 from it to other interfaces.
    pub forward: bool,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $word)] $variant,)+ }

        impl Word for $name {
            const ALL: &'static [(&'static str, Self)] = &[$(($word, $name::$variant),)+];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(s: &str) -> Result<Self, String> {
                Self::from_word(s)
            }
        }
    };
}

/// A choice that is written as one of a few words.
pub trait Word: Sized + PartialEq + core::marker::Copy + 'static {
    /// The words and what they stand for.
    const ALL: &'static [(&'static str, Self)];

    /// The word for this choice.
    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, v)| *v == self).map_or("", |(w, _)| w)
    }

    /// The choice of this word.
    ///
    /// # Errors
    /// Names the words that there are.
    fn from_word(word: &str) -> Result<Self, String> {
        Self::ALL.iter().find(|(w, _)| *w == word).map(|(_, v)| *v).ok_or_else(|| {
            let words: Vec<&str> = Self::ALL.iter().map(|(w, _)| *w).collect();
            format!("{word:?} is none of {}", words.join(", "))
        })
    }
}

words! {
    /// Which threads decide requests.
    Placement {
        /// Those that poll the ports.
        RunToCompletion = "run-to-completion",
        /// Threads of their own.
        Split = "split",
    }
}

words! {
    /// Kind of port.
    PortKind {
        /// Frames straight from the Linux driver.
        AfXdp = "af-xdp",
        /// Devices of DPDK, polled from user space. Needs a program that was built with the feature `dpdk`.
        Dpdk = "dpdk",
        /// An in-process network, for tests, demonstration and captures.
        Memory = "memory",
    }
}

words! {
    /// Where the XDP program runs.
    XdpMode {
        /// In the driver where it can, otherwise in the kernel's generic hook.
        Auto = "auto",
        /// In the driver or not at all.
        Native = "native",
        /// In the generic hook: works with every driver, slower.
        Generic = "generic",
    }
}

words! {
    /// Whether the kernel copies frames between driver and buffers.
    Copy {
        /// Without a copy where the drivers can.
        Auto = "auto",
        /// With a copy.
        Copy = "copy",
        /// Without a copy or not at all.
        ZeroCopy = "zero-copy",
    }
}

words! {
    /// What a health check asks for.
    CheckKind {
        /// A TCP handshake.
        Tcp = "tcp",
        /// An HTTP response with a good status.
        Http = "http",
    }
}

/// `check` of a service: how it is found out whether its servers are there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Check {
    /// What is asked for.
    pub kind: CheckKind,
    /// From one question to the next.
    pub interval: Duration,
    /// How long an answer may take; at most `interval`.
    pub timeout: Duration,
    /// Good answers in a row that bring a server back.
    pub rise: u32,
    /// Bad or missing answers in a row that take it out.
    pub fall: u32,
    /// Port that is asked; the server's where none is given.
    pub port: Option<u16>,
    /// HTTP: what is asked for.
    pub path: String,
    /// HTTP: the `Host` field; the server's endpoint where none is given.
    pub host: Option<String>,
    /// HTTP: first and last status that is good.
    pub status: (u16, u16),
}

impl Check {
    /// A check every two seconds, with one second to answer: three failures take a server out, two answers bring it back.
    pub fn new(kind: CheckKind) -> Self {
        Check {
            kind,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
            port: None,
            path: "/".to_owned(),
            host: None,
            status: (200, 399),
        }
    }
}

words! {
    /// Transport protocol of a service.
    Protocol {
        /// TCP.
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
    }
}

words! {
    /// What a user wants of a server.
    Admin {
        /// To take new connections.
        Up = "up",
        /// To keep its connections and take no new ones.
        Draining = "draining",
    }
}

impl Protocol {
    /// Number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }
}

impl Word for Scheduler {
    const ALL: &'static [(&'static str, Self)] =
        &[("rr", Scheduler::Rr), ("wrr", Scheduler::Wrr), ("lc", Scheduler::Lc), ("wlc", Scheduler::Wlc)];
}

impl Word for Forward {
    const ALL: &'static [(&'static str, Self)] =
        &[("nat", Forward::Nat), ("fullnat", Forward::FullNat), ("dr", Forward::Dr), ("tunnel", Forward::Tunnel)];
}

impl Word for Idle {
    const ALL: &'static [(&'static str, Self)] = &[("poll", Idle::Poll), ("adaptive", Idle::Adaptive)];
}

impl Word for WhenFull {
    const ALL: &'static [(&'static str, Self)] =
        &[("refuse", WhenFull::Refuse), ("evict-half-open", WhenFull::EvictHalfOpen)];
}

/// One of `[[neighbours]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Address.
    pub address: IpAddr,
    /// Its link-layer address.
    pub mac: MacAddr,
    /// Number of the interface that it is on, within the port.
    pub interface: u8,
}

/// One of `[[routes]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destinations.
    pub to: IpNet,
    /// Router; without one, the destinations are on the link itself.
    pub via: Option<IpAddr>,
}

/// A virtual service: one of `[[services]]`, and what `lcs vs` changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Service {
    /// Its name, without `/`.
    pub name: String,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Address that clients talk to.
    pub address: IpAddr,
    /// Port that clients talk to; 0 for every port.
    pub port: u16,
    /// How a server is chosen for a new connection.
    pub scheduler: Scheduler,
    /// How packets reach servers that do not say otherwise.
    pub forward: Forward,
    /// Full NAT: the director's addresses toward the servers.
    #[serde(default)]
    pub sources: Vec<IpAddr>,
    /// Full NAT: first and last source port.
    pub source_ports: (u16, u16),
    /// The servers.
    #[serde(default)]
    pub servers: Vec<Server>,
    /// How it is switched by content; by its clients' SYN where there is none. Given by the file only.
    #[serde(skip)]
    pub content: Option<Content>,
    /// How its servers' health is found out; where there is none, they count as up.
    #[serde(default)]
    pub check: Option<Check>,
    /// Whether a client keeps its server, at layer 4.
    #[serde(default)]
    pub persistence: Option<Persistence>,
}

impl Service {
    /// Source ports where none are given: those that no well-known service has.
    pub const SOURCE_PORTS: (u16, u16) = (1024, 65_535);

    /// What clients' packets are addressed to.
    pub fn endpoint(&self) -> lcs_pipelines::snapshot::Endpoint {
        (self.address, self.port, self.protocol.number())
    }

    /// The server of this name.
    pub fn server(&self, name: &str) -> Option<&Server> {
        self.servers.iter().find(|s| s.name == name)
    }
}

/// A real server of a service, and what `lcs rs` changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Server {
    /// Its name within the service, without `/`.
    pub name: String,
    /// Address.
    pub address: IpAddr,
    /// Port; 0 keeps the port that the client talks to.
    pub port: u16,
    /// Share of new connections; 0 for none.
    pub weight: u32,
    /// How packets get there.
    pub forward: Forward,
    /// Whether it is wanted to take new connections.
    pub state: Admin,
}

/// The control socket where none is named: `/run/lcs.sock` for root, `lcs.sock` in the working directory for others.
pub fn default_socket() -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    // The owner of this process's directory in /proc is the process's user.
    let root = std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0);
    PathBuf::from(if root { "/run/lcs.sock" } else { "lcs.sock" })
}

/// Writes an endpoint the usual way: `192.0.2.1:80`, `[2001:db8::1]:80`, and `*` for every port.
pub fn endpoint_text(address: IpAddr, port: u16) -> String {
    let port = if port == 0 { "*".to_owned() } else { port.to_string() };
    match address {
        IpAddr::V4(a) => format!("{a}:{port}"),
        IpAddr::V6(a) => format!("[{a}]:{port}"),
    }
}

impl Configuration {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, Invalid> {
        use std::io::Read;
        let name = path.display().to_string();
        let read = || {
            let mut text = String::new();
            std::fs::File::open(path)?.take(FILE_MAX + 1).read_to_string(&mut text)?;
            if text.len() as u64 > FILE_MAX {
                return Err(std::io::Error::other(format!("it is longer than {} MiB", FILE_MAX >> 20)));
            }
            Ok(text)
        };
        let text = read().map_err(|e| Invalid::unreadable(&name, &e))?;
        Self::parse(&name, &text)
    }

    /// Reads and checks a text; `file` is how errors name it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(file: &str, text: &str) -> Result<Self, Invalid> {
        sections::parse(file, text)
    }
}

#[cfg(test)]
mod tests;
