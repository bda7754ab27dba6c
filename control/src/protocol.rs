//! What is said over the control socket: one JSON object a line, a request and its answer.
//!
//! ```text
//! → {"version":1,"request":{"op":"weight","service":"web","server":"s1","weight":3}}
//! ← {"version":1,"ok":{"kind":"applied","workers":2,"generation":7,"changes":[…],"note":null}}
//! ← {"version":1,"error":{"code":"not-found","message":"there is no service web; …"}}
//! ```
//!
//! A trace answers with many lines; all but the last have `"more":true`. Requests of one client are answered in order.

mod content;

pub use content::{
    AnswerCount, ContentCounts, ContentReport, GroupCount, GroupReport, GuessCount, NewContent, QueueCount,
    RefusalCount, RuleCount, ServerCount,
};

use crate::config::{Admin, Problem, Service};
use crate::model::{Change, Counts};
use ipnet::IpNet;
use lcs_dataplane::cycles::StageCost;
use lcs_dataplane::flow::TcpState;
use lcs_dataplane::port::tap::TapCounts;
use lcs_pipelines::command::{RequestState, ServerStats, TraceFilter, TraceRecord};
use lcs_pipelines::placement::{Decided, Handed};
use lcs_pipelines::snapshot::{Forward, Scheduler};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Version of what is said. A client of another version is told so.
pub const VERSION: u32 = 1;
/// Longest request, bytes; a longer one is refused and its client cut off.
pub const REQUEST_MAX: usize = 1 << 20;
/// Most connections in one answer.
pub const CONNECTIONS_MAX: u32 = 100_000;
/// Most mistakes of a file in one answer.
pub const PROBLEMS_MAX: usize = 100;
/// Most frames in one trace.
pub const TRACE_MAX: u32 = 100_000;

/// One line from a client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Call {
    /// [`VERSION`].
    pub version: u32,
    /// What is asked.
    pub request: Request,
}

/// One line to a client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    /// [`VERSION`].
    pub version: u32,
    /// Whether more lines of the same answer follow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// What was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ok: Option<Response>,
    /// Why it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// What a client may ask.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Request {
    /// How the director is.
    Status,
    /// What the workers have counted.
    Stats,
    /// The services and their servers.
    Services,
    /// The connections that match.
    Connections {
        /// Which.
        #[serde(default)]
        filter: ConnectionFilter,
        /// How many at most, up to [`CONNECTIONS_MAX`].
        limit: u32,
    },
    /// Add a service.
    AddService {
        /// The service.
        service: Box<Service>,
        /// How it is switched by content, if it is to be.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content: Option<NewContent>,
    },
    /// Change what is given of a service.
    SetService {
        /// Its name.
        service: String,
        /// The changes.
        set: ServiceSettings,
    },
    /// Remove a service.
    RemoveService {
        /// Its name.
        service: String,
    },
    /// Add a server to a service.
    AddServer {
        /// Name of the service.
        service: String,
        /// Name of the server.
        server: String,
        /// The address must be given; what else is not given has its default.
        set: ServerSettings,
    },
    /// Change what is given of a server.
    SetServer {
        /// Name of the service.
        service: String,
        /// Name of the server.
        server: String,
        /// The changes.
        set: ServerSettings,
    },
    /// Remove a server.
    RemoveServer {
        /// Name of the service.
        service: String,
        /// Name of the server.
        server: String,
    },
    /// Set a server's weight.
    Weight {
        /// Name of the service.
        service: String,
        /// Name of the server.
        server: String,
        /// The weight.
        weight: u32,
    },
    /// Let a server keep its connections and take no new ones.
    Drain {
        /// Name of the service.
        service: String,
        /// Name of the server.
        server: String,
    },
    /// Give a service that is switched by content other rules.
    LoadRules {
        /// Its name.
        service: String,
        /// Absolute path of the rule file, which the director reads.
        file: PathBuf,
    },
    /// Read the configuration file again.
    Reload,
    /// Trace the next frames that match.
    Trace {
        /// Which frames.
        #[serde(default)]
        filter: TraceFilter,
        /// How many, up to [`TRACE_MAX`].
        frames: u32,
    },
}

/// What can be set of a service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ServiceSettings {
    /// Address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Port, 0 for every port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Scheduler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
    /// How packets reach servers that are added from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward: Option<Forward>,
    /// Full NAT: source addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sources: Option<Vec<IpAddr>>,
    /// Full NAT: first and last source port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_ports: Option<(u16, u16)>,
}

/// What can be set of a server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ServerSettings {
    /// Address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Port, 0 to keep the client's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// How packets get there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward: Option<Forward>,
    /// Whether it takes new connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<Admin>,
    /// The groups that it is in, where its service is switched by content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<String>>,
}

/// Which connections to list. An absent part matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ConnectionFilter {
    /// Name of the service.
    pub service: Option<String>,
    /// Name of the server.
    pub server: Option<String>,
    /// The client is in this network.
    pub client: Option<IpNet>,
    /// State, by name.
    pub state: Option<String>,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Stats`].
    Stats(Box<Stats>),
    /// To [`Request::Services`].
    Services(Services),
    /// To [`Request::Connections`].
    Connections(Connections),
    /// To everything that changes something.
    Applied(Applied),
    /// To [`Request::Trace`], once for each frame.
    Trace(Box<Traced>),
    /// To [`Request::Trace`], at its end.
    TraceEnd(TraceEnd),
}

/// Why something is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureCode {
    /// The request is not one.
    BadRequest,
    /// Another version is spoken.
    Version,
    /// There is no such service or server.
    NotFound,
    /// It breaks a rule, or there is no room for it. Nothing was changed.
    Refused,
    /// Something else is in the way; try again.
    Busy,
    /// A worker has not answered in time. What was asked may still come to pass.
    Timeout,
    /// Something failed that should not.
    Internal,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of.
    pub code: FailureCode,
    /// What is wrong, and what to do about it.
    pub message: String,
    /// The mistakes of the file that was to be read, each with its place; the message shows them, too. No more than [`PROBLEMS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

impl Failure {
    /// A refusal.
    pub fn new(code: FailureCode, message: impl Into<String>) -> Self {
        Failure { code, message: message.into(), problems: Vec::new() }
    }

    /// A refusal of a file: `report` shows its mistakes as a reader wants them, `problems` tells programs.
    pub fn of_file(report: impl Into<String>, problems: impl IntoIterator<Item = Problem>) -> Self {
        let problems = problems.into_iter().take(PROBLEMS_MAX).map(Problem::shortened).collect();
        Failure { code: FailureCode::Refused, message: report.into(), problems }
    }
}

/// A change that all workers have taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Applied {
    /// On how many workers.
    pub workers: usize,
    /// Number of the state that they have now.
    pub generation: u64,
    /// What has changed.
    pub changes: Vec<Change>,
    /// What a user should know besides.
    pub note: Option<String>,
}

/// How the director is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// Version of the program.
    pub program: String,
    /// Process number.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime: f64,
    /// The configuration file.
    pub configuration: String,
    /// Number of the desired state.
    pub generation: u64,
    /// Its ports, in words.
    pub port: Vec<String>,
    /// How many services and servers there are.
    pub counts: Counts,
    /// The workers.
    pub workers: Vec<WorkerStatus>,
    /// The content workers, where placement is `split`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub content_workers: Vec<ContentWorkerStatus>,
    /// What was noticed lately, oldest first.
    pub notices: Vec<Notice>,
}

/// How a worker is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct WorkerStatus {
    /// Its number.
    pub worker: usize,
    /// Its core, if it is pinned.
    pub core: Option<usize>,
    /// Number of the state that it has.
    pub generation: u64,
    /// Connections.
    pub flows: usize,
    /// Connections that fit.
    pub capacity: usize,
    /// Bytes of the flow table.
    pub memory: usize,
}

/// How a content worker is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ContentWorkerStatus {
    /// Its core, if it is pinned.
    pub core: Option<usize>,
    /// Number of the state that it has.
    pub generation: u64,
}

/// Something that was noticed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Notice {
    /// Seconds since the start.
    pub at: f64,
    /// What.
    pub text: String,
}

/// What the workers have counted since they started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Stats {
    /// Seconds since the start.
    pub uptime: f64,
    /// Cycles in a second.
    pub tsc_hz: u64,
    /// All workers together.
    pub total: WorkerStats,
    /// Each worker.
    pub workers: Vec<WorkerStats>,
    /// Each content worker, where placement is `split`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub content_workers: Vec<Decided>,
    /// Services and servers.
    pub services: Vec<ServiceReport>,
    /// The kernel's TAP devices, where the port has such.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taps: Vec<TapReport>,
    /// What the XDP program has seen, where the port is AF_XDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<FilterReport>,
}

/// What the XDP program has decided on, on all interfaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FilterReport {
    /// Frames left to the kernel.
    pub passed: u64,
    /// Frames redirected to a worker, those among them that then found no room.
    pub redirected: u64,
}

/// What has passed a TAP device of the kernel's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TapReport {
    /// The device's name.
    pub name: String,
    /// Frames in both directions, and drops by reason.
    #[serde(flatten)]
    pub counts: TapCounts,
}

/// What a worker, or all of them, has counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct WorkerStats {
    /// Frames received.
    pub received: u64,
    /// Bytes of these.
    pub received_bytes: u64,
    /// Frames sent on.
    pub forwarded: u64,
    /// Bytes of these.
    pub forwarded_bytes: u64,
    /// Frames for the director itself.
    pub consumed: u64,
    /// Frames handed to the kernel.
    pub to_kernel: u64,
    /// Frames handed over to other workers.
    pub handed_over: u64,
    /// Frames taken over from other workers.
    pub taken_over: u64,
    /// Frames dropped.
    pub dropped: u64,
    /// Frames dropped by reason, those that happened.
    pub drops: Vec<Drops>,
    /// Frames that the ports lost by themselves, by interface and reason, those that happened: not among those received.
    #[serde(default)]
    pub losses: Vec<Losses>,
    /// Turns of the loop with frames.
    pub busy_turns: u64,
    /// Turns without.
    pub idle_turns: u64,
    /// Times that it slept.
    pub sleeps: u64,
    /// Events that the control thread was too slow for.
    pub events_lost: u64,
    /// Cycles from reception to transmission, all stages.
    pub cycles: u64,
    /// The same for each packet.
    pub cycles_per_packet: f64,
    /// The stages, in the packet's order.
    pub stages: Vec<Stage>,
    /// Connections.
    pub flows: usize,
    /// Connections that fit.
    pub capacity: usize,
    /// Half-open connections.
    pub half_open: usize,
    /// Half-open connections that gave way to new ones.
    pub evicted: u64,
    /// Connections that timed out.
    pub expired: u64,
    /// Connections by state.
    pub states: BTreeMap<String, u64>,
    /// Fragmented packets being followed.
    pub fragments: usize,
    /// Frames whose checksum was completed in software.
    pub checksums_completed: u64,
    /// ICMP messages made.
    pub icmp_sent: u64,
    /// Frames that are held now: until their next hop's address is known, or their first fragment comes.
    #[serde(default)]
    pub held: u64,
    /// Fragments made of packets that exceeded their next hop's MTU.
    #[serde(default)]
    pub fragments_made: u64,
    /// Answers to SYNs that were sent again, where servers speak first.
    #[serde(default)]
    pub handshakes_repeated: u64,
    /// Handshakes there for which nothing would be sent again: there was no room for more.
    #[serde(default)]
    pub handshakes_unremembered: u64,
    /// Requests handed to content workers, where there are some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handed: Option<Handed>,
}

/// Frames that a port lost by itself on one interface, for one reason. A worker's are of its own queue; but a DPDK device counts those of all
/// its queues together, with the first worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// The interface's name.
    pub interface: String,
    /// The reason.
    pub reason: String,
    /// How many.
    pub frames: u64,
    /// What it means.
    pub explanation: String,
}

/// Frames dropped for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// The reason.
    pub reason: String,
    /// How many.
    pub frames: u64,
    /// What it means.
    pub explanation: String,
}

/// Cost of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// Cycles for each packet that it worked on.
    pub cycles_per_packet: f64,
    /// Its part of all cycles, 0 to 1.
    pub share: f64,
    /// What was measured.
    pub cost: StageCost,
}

/// The services.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Services {
    /// By name; removed ones that still have connections last.
    pub services: Vec<ServiceReport>,
}

/// A service and how it does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ServiceReport {
    /// Its name.
    pub name: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Address.
    pub address: IpAddr,
    /// Port, 0 for every port.
    pub port: u16,
    /// Scheduler.
    pub scheduler: Scheduler,
    /// `up`, or `removed` while it still has connections.
    pub state: String,
    /// Whether its clients keep their servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<PersistenceReport>,
    /// How it is switched by content, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<ContentReport>,
    /// Its servers.
    pub servers: Vec<ServerReport>,
    /// Sum over its servers.
    pub stats: ServerStats,
}

/// How long clients of a service keep their servers, and how many do now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PersistenceReport {
    /// Seconds after a client's last connection was opened.
    pub timeout: f64,
    /// Bits of an IPv4 address that make a client.
    pub mask4: u8,
    /// Bits of an IPv6 address.
    pub mask6: u8,
    /// Clients that keep their servers now.
    pub templates: u64,
}

/// A server and how it does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ServerReport {
    /// Its name.
    pub name: String,
    /// Address.
    pub address: IpAddr,
    /// Port, 0 where the client's is kept.
    pub port: u16,
    /// How packets get there.
    pub forward: Forward,
    /// Weight.
    pub weight: u32,
    /// `up`, `draining`, `down`, or `removed` while it still has connections.
    pub state: String,
    /// Why its checks say that it is down, if they do.
    #[serde(default)]
    pub down: Option<String>,
    /// Why packets cannot get there, and what to do about it, if they cannot.
    pub problem: Option<String>,
    /// What was counted.
    pub stats: ServerStats,
}

/// Connections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Connections {
    /// Those that match.
    pub connections: Vec<Connection>,
    /// Whether there may be more.
    pub more: bool,
}

/// A connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Connection {
    /// Its worker.
    pub worker: usize,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Client.
    pub client: SocketAddr,
    /// What the client talks to.
    pub virtual_address: SocketAddr,
    /// The director's address toward the server, in full NAT.
    pub local: Option<SocketAddr>,
    /// Name of the service.
    pub service: String,
    /// Name of the server; none while none is chosen.
    pub server: Option<String>,
    /// The server's address.
    pub server_address: Option<SocketAddr>,
    /// How packets get there.
    pub forward: Option<Forward>,
    /// State.
    pub state: TcpState,
    /// What is being done for its request, where it is switched by content and one is in hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestState>,
    /// Seconds until it is forgotten if nothing comes.
    pub expires: f64,
    /// Packets from the client.
    pub packets_in: u32,
    /// Packets from the server.
    pub packets_out: u32,
}

/// One traced frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Traced {
    /// Worker that it went through.
    pub worker: usize,
    /// What happened.
    pub record: TraceRecord,
}

/// The end of a trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceEnd {
    /// Frames shown.
    pub frames: u32,
    /// Frames that matched while the client was too slow to take them.
    pub lost: u64,
}
