//! What the control thread may ask of a pipeline, and what comes back.

use crate::placement::{Decided, Handed};
use crate::snapshot::{Forward, NextHop, Snapshot};
pub use crate::splice::Needs;
use crate::tally::Tally;
use lcs_dataplane::cycles::StageCost;
use lcs_dataplane::flow::{Memory, TcpState};
use lcs_dataplane::verdict::Verdict;
use lcs_dataplane::worker::Counters;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A command to one worker's pipeline.
#[derive(Debug)]
pub enum Command {
    /// Use this snapshot from the next batch on.
    Install(Arc<Snapshot>),
    /// Take a piece of the memory that services switched by content need, before a snapshot with such services comes. To be sent again until all
    /// of it is there. Without it installing the snapshot takes the memory at once, and the worker stops for as long.
    Prepare(Needs),
    /// Set one server's weight. The control thread puts it in its next snapshot as well.
    SetWeight {
        /// Slot of the server.
        server: u16,
        /// New weight.
        weight: u32,
    },
    /// Set one row of the next hops.
    SetNextHop {
        /// Row; at most one more than there are.
        row: u16,
        /// The next hop.
        hop: NextHop,
    },
    /// Fill this report.
    Report(Box<Report>),
    /// List flows into this page.
    ListFlows(Box<FlowPage>),
    /// Remember which servers have set these cookies, as other workers have seen them.
    Learn(Vec<(u64, u16)>),
    /// Trace the next `frames` frames that match, replacing any trace that is on; 0 ends it.
    Trace {
        /// Which frames.
        filter: TraceFilter,
        /// How many.
        frames: u32,
    },
}

/// The answer to a [`Command`]. It carries back what the worker has let go of, to be freed by the control thread.
#[derive(Debug)]
pub enum Acknowledgement {
    /// The snapshot that was replaced.
    Installed(Option<Arc<Snapshot>>),
    /// Whether all of the memory that was asked for is there.
    Prepared(bool),
    /// Done.
    Done,
    /// Not done: there is no such slot or row.
    NoSuchSlot,
    /// The report, filled.
    Report(Box<Report>),
    /// The page, filled.
    Flows(Box<FlowPage>),
}

/// What a pipeline says of its own accord.
#[derive(Debug, Clone)]
pub enum Event {
    /// One traced frame.
    Trace(Box<TraceRecord>),
    /// A packet waits for this row's link-layer address (said at most once a second a row).
    NeedNextHop(u16),
    /// A connection was migrated here, and how its client is reached is not known: the client is on a link of this host's.
    NeedNeighbour(IpAddr),
    /// A server has set a cookie by which clients are kept with it; for the other workers.
    Cookie {
        /// What stands for service, cookie and value.
        key: u64,
        /// Slot of the server.
        server: u16,
    },
    /// A sender leaves its checksums to an offload (said at most once a second an interface). The frames were completed in software.
    PartialChecksums {
        /// Interface that they come in on.
        interface: u8,
        /// Source address of one of them.
        source: Option<IpAddr>,
    },
}

/// Counters of one server, in both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStats {
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes of these: IP packets, as received.
    pub bytes_in: u64,
    /// Packets to clients, where they come back through the director.
    pub packets_out: u64,
    /// Bytes of these.
    pub bytes_out: u64,
    /// Connections opened.
    pub connections: u64,
    /// Connections now that carry data (established TCP, UDP).
    pub active: u32,
    /// Connections now that don't (half-open, closing).
    pub inactive: u32,
}

/// What one worker has counted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Generation of the snapshot in use.
    pub generation: u64,
    /// The worker's own counters.
    pub counters: Counters,
    /// Cost of each stage, by name, in the packet's order; receive and transmit are in `counters`.
    pub stages: Vec<(String, StageCost)>,
    /// Servers by slot.
    pub servers: Vec<ServerStats>,
    /// Flows by [`TcpState`].
    pub states: [u64; TcpState::ALL.len()],
    /// Flows in the table.
    pub flows: usize,
    /// Flows that fit.
    pub capacity: usize,
    /// Half-open flows.
    pub half_open: usize,
    /// Half-open flows that gave way to new ones.
    pub evicted: u64,
    /// Flows that expired.
    pub expired: u64,
    /// Fragmented packets being followed.
    pub fragments: usize,
    /// Frames whose checksum an offload had left unfinished, completed in software.
    pub checksums_completed: u64,
    /// ICMP messages that the director made.
    pub icmp_sent: u64,
    /// Fragments made of packets that exceeded their next hop's MTU.
    pub fragments_made: u64,
    /// Clients that keep their servers (persistence), by service slot: of all workers, in the first one's report.
    pub templates: Vec<u32>,
    /// Connections that are switched by content.
    pub content: ContentStats,
    /// Memory of the flow table, bytes.
    pub memory: Option<Memory>,
    /// Memory of what is kept of spliced connections beside it, bytes; taken with the first service that has rules.
    #[serde(default)]
    pub splice_memory: usize,
    /// Requests handed to content workers, where there are some.
    #[serde(default)]
    pub handed: Option<Handed>,
    /// A content worker's report: what it has decided, and besides the generation nothing else.
    #[serde(default)]
    pub decided: Option<Box<Decided>>,
}

/// What one worker has counted of connections that are switched by content.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ContentStats {
    /// Connections now, those to servers that are not in turn included.
    pub connections: usize,
    /// Connections now that are being bound: a request is collected, decided or delivered.
    pub binding: usize,
    /// Connections now whose messages are followed.
    pub following: usize,
    /// Bytes of requests held now.
    pub buffered: usize,
    /// Segments that the director made itself.
    pub segments_made: u64,
    /// SYN cookies that clients brought back.
    pub cookies_good: u64,
    /// Acknowledgements that were no cookie of ours, and were refused.
    pub cookies_bad: u64,
    /// Handshakes now whose SYN+ACK is sent again unless the client acknowledges it: of services whose servers speak first.
    #[serde(default)]
    pub handshakes: usize,
    /// SYN+ACKs sent again.
    #[serde(default)]
    pub handshakes_repeated: u64,
    /// Handshakes that found no room among these: their SYN+ACK was sent once.
    #[serde(default)]
    pub handshakes_unremembered: u64,
    /// Requests that could not be read.
    pub unreadable: u64,
    /// Requests for which no server was left.
    pub refused: u64,
    /// Requests that went on over a server's connection that was there already.
    pub reused: u64,
    /// By service slot: what was counted of each that is switched by content.
    pub services: Vec<Option<Tally>>,
}

/// A part of a worker's flow table.
#[derive(Debug, Clone, Default)]
pub struct FlowPage {
    /// In: the first entry to look at. Out: where to go on; [`FlowPage::END`] when the end was reached.
    pub cursor: u32,
    /// In: entries to look at, at most; kept small enough for the packet path by the worker (1,024).
    pub limit: u32,
    /// Out: the flows found.
    pub flows: Vec<FlowView>,
}

impl FlowPage {
    /// The cursor after the last entry.
    pub const END: u32 = u32::MAX;
}

/// What is being done for a connection that is switched by content and whose request is in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequestState {
    /// The client has sent nothing yet.
    Awaited,
    /// It is being collected and read.
    Collecting,
    /// A rule has taken it; the response before it is not over.
    Decided,
    /// It waits in the queue that its rule names.
    Queued,
    /// Its server is being connected to.
    Connecting,
    /// Its server's filter is being given it.
    Migrating,
    /// Its server, which speaks first, is being brought to where the client stands.
    Replaying,
    /// It is being delivered.
    Delivering,
    /// The director answers it itself.
    Answering,
    /// None: a connection to a server that waits for its client's next request there.
    Waiting,
    /// None: a connection to a server that waits for anybody's request.
    Pooled,
}

impl RequestState {
    /// All of them.
    pub const ALL: [RequestState; 11] = [
        RequestState::Awaited,
        RequestState::Collecting,
        RequestState::Decided,
        RequestState::Queued,
        RequestState::Connecting,
        RequestState::Migrating,
        RequestState::Replaying,
        RequestState::Delivering,
        RequestState::Answering,
        RequestState::Waiting,
        RequestState::Pooled,
    ];

    /// Its name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            RequestState::Awaited => "awaited",
            RequestState::Collecting => "collecting",
            RequestState::Decided => "decided",
            RequestState::Queued => "queued",
            RequestState::Connecting => "connecting",
            RequestState::Migrating => "migrating",
            RequestState::Replaying => "replaying",
            RequestState::Delivering => "delivering",
            RequestState::Answering => "answering",
            RequestState::Pooled => "pooled",
            RequestState::Waiting => "waiting",
        }
    }
}

/// One connection, for a user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlowView {
    /// IP protocol.
    pub protocol: u8,
    /// Client.
    pub client: SocketAddr,
    /// Virtual service that the client talks to.
    pub virtual_address: SocketAddr,
    /// The director's address toward the server; the client's where it is kept.
    pub local: Option<SocketAddr>,
    /// Real server; none while none is chosen.
    pub server_address: Option<SocketAddr>,
    /// Slot of the service.
    pub service: u16,
    /// Slot of the server; [`crate::snapshot::NO_SLOT`] while none is chosen.
    pub server: u16,
    /// How packets reach the server.
    pub forward: Option<Forward>,
    /// What is being done for it, if its request is in hand.
    pub request: Option<RequestState>,
    /// State.
    pub state: TcpState,
    /// Seconds until it is forgotten if nothing comes.
    pub expires: f64,
    /// Packets from the client.
    pub packets_in: u32,
    /// Packets from the server.
    pub packets_out: u32,
}

/// Which frames to trace. An absent part matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceFilter {
    /// Source or destination address.
    pub address: Option<IpAddr>,
    /// Source or destination port, host order.
    pub port: Option<u16>,
    /// IP protocol.
    pub protocol: Option<u8>,
    /// Only frames that are dropped.
    #[serde(default)]
    pub drops_only: bool,
}

/// Where a TCP segment goes or comes from, as the director sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// To a service.
    FromClient,
    /// From a service's address.
    ToClient,
    /// To anybody else.
    ToServer,
    /// From anybody else.
    FromServer,
}

/// A TCP segment, as far as a diagram shows it. Numbers in host order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentView {
    /// Which way it goes.
    pub way: Way,
    /// Who has sent it.
    pub source: SocketAddr,
    /// Whom it is for.
    pub destination: SocketAddr,
    /// Its flags, as they stand in the header.
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Bytes of payload.
    pub payload: u32,
}

/// What happened to one traced frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TraceRecord {
    /// When, in the worker's nanoseconds.
    pub at: u64,
    /// Interface that it came in on.
    pub interface: u8,
    /// The frame as it came, in words: addresses, ports, flags, length.
    pub frame: String,
    /// What each stage decided, in order: stage and decision.
    pub steps: Vec<(String, String)>,
    /// The verdict and its reason, as [`Verdict`] prints them.
    pub verdict: String,
    /// The frame as it left, in words, if it did.
    pub sent: Option<String>,
    /// The frame as it came, if it is a TCP segment.
    #[serde(default)]
    pub segment: Option<SegmentView>,
    /// The frame as it left, likewise.
    #[serde(default)]
    pub sent_segment: Option<SegmentView>,
    /// Segments of its own that the director has sent because of it.
    #[serde(default)]
    pub made: Vec<SegmentView>,
}

impl TraceRecord {
    /// Ends the record.
    pub fn end(&mut self, verdict: Verdict) {
        self.verdict = verdict.to_string();
    }
}
