//! What a service needs that is switched by content: its rules, compiled, and how connections are bound.

use crate::extract::{Limits, Plan, Protocol};
pub use crate::matching::Sticky;
use crate::matching::{Action, GroupId, Program, Stickiness};
use crate::migration::message::ChannelKey;
use crate::snapshot::Scheduler;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::Duration;

/// The rules of one service and everything that binding its connections depends on. Made by the control thread, shared
/// by all workers, never changed.
#[derive(Debug)]
pub struct Content {
    /// What the service's clients speak.
    pub protocol: Protocol,
    /// The rules. Groups are numbered as in `groups`, servers by their slots.
    pub program: Program,
    /// What the program asks requests for.
    pub plan: Plan,
    /// Groups of servers that rules may name.
    pub groups: Vec<Group>,
    /// How connections are bound.
    pub binding: Binding,
}

impl PartialEq for Content {
    /// Whether it is the same compilation: two that say the same are still two.
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Content {}

impl Content {
    /// The group of this number.
    pub fn group(&self, id: GroupId) -> Option<&Group> {
        self.groups.get(usize::from(id))
    }

    /// By what an action keeps a client with a server.
    pub fn sticky<'c>(&'c self, action: &'c Action) -> &'c Sticky {
        let Action::RouteTo { stickiness, .. } = action else { return &Sticky::None };
        match stickiness {
            Stickiness::Service => &self.binding.sticky,
            Stickiness::Sticky if self.binding.sticky == Sticky::None => &Sticky::Source,
            Stickiness::Sticky => &self.binding.sticky,
            Stickiness::NonSticky => &Sticky::None,
            Stickiness::By(how) => how,
        }
    }

    /// Whether some action keeps clients by a cookie that servers set.
    pub fn learns_cookies(&self) -> bool {
        let actions = (0..self.program.len() as u32).filter_map(|rule| self.program.rule(rule));
        actions.into_iter().any(|(_, action)| matches!(self.sticky(action), Sticky::SetCookie(_)))
    }
}

/// Servers that a rule may send requests to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name in rules and reports.
    pub name: String,
    /// How one of its servers is chosen where the rule does not say.
    pub scheduler: Scheduler,
    /// Slots of its servers.
    pub servers: Vec<u16>,
}

/// How a service's connections are bound to servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// When a connection gets its server.
    pub scheme: Scheme,
    /// How the director answers a client's SYN.
    pub syn: SynPolicy,
    /// What one decision is for.
    pub switching: Switching,
    /// What becomes of a request that can't be read.
    pub on_unparsed: OnUnparsed,
    /// How much of a request is read and held.
    pub limits: Limits,
    /// From the handshake to the first byte of a connection's first request, where clients speak first and the director has answered
    /// the handshake: who sends none by then is reset. Between requests, the flow's own time-out goes.
    pub first_byte: Duration,
    /// From the first byte of a request to its decision: what a client that sends a byte at a time gets.
    pub request: Duration,
    /// SYNs sent again to a server that does not answer, before the next one is tried.
    pub syn_retries: u8,
    /// Whether timestamps are agreed upon with clients that offer them (RFC 7323): every server has to know them. Under
    /// [`Scheme::Delayed`] and [`Scheme::Pooled`] only.
    pub timestamps: bool,
    /// MSS announced to clients at most, bytes.
    pub mss: u16,
    /// The window scale with which servers behind direct routing and tunnels answer a client that offers one: where they are
    /// guessed, their own answer is not seen. Without it, scaling is not offered to them.
    pub server_scale: Option<u8>,
    /// How a client is kept with a server where a rule does not say.
    pub sticky: Sticky,
    /// For how long a cookie that a server has set is remembered while nobody brings it back.
    pub sticky_timeout: Duration,
    /// Queues that rules may send requests through.
    pub queues: Vec<Queue>,
    /// Requests that leave all queues together; without it, each goes by its own rates only.
    pub queue_rate: Option<Rate>,
}

/// So many a second, with bursts: a token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens a second, at least 1.
    pub per_second: u64,
    /// Tokens that the bucket holds, at least 1.
    pub burst: u64,
}

/// A queue of requests. Rates and lengths are those of the director; each worker has an equal part of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Its name in rules and reports.
    pub name: String,
    /// Requests that may leave it.
    pub requests: Option<Rate>,
    /// Packets of these: as many as each fills at the service's MSS.
    pub packets: Option<Rate>,
    /// Where queues wait for a rate that they have in common, the highest goes first.
    pub priority: u8,
    /// Requests that may wait in it.
    pub length: u32,
    /// Packets of these that may wait in it.
    pub packet_length: Option<u64>,
    /// How long a request may wait.
    pub timeout: Duration,
}

impl Default for Queue {
    fn default() -> Self {
        Queue {
            name: String::new(),
            requests: None,
            packets: None,
            priority: 0,
            length: 128,
            packet_length: None,
            timeout: Duration::from_secs(10),
        }
    }
}

impl Default for Binding {
    fn default() -> Self {
        Binding {
            scheme: Scheme::Delayed,
            syn: SynPolicy::Auto,
            switching: Switching::Request,
            on_unparsed: OnUnparsed::Reset,
            limits: Limits::default(),
            first_byte: Duration::from_secs(30),
            request: Duration::from_secs(10),
            syn_retries: 3,
            timestamps: false,
            mss: 1460,
            server_scale: None,
            sticky: Sticky::None,
            sticky_timeout: Duration::from_secs(1800),
            queues: Vec::new(),
            queue_rate: None,
        }
    }
}

/// When a connection gets its server (tutorial, slides 34 to 43; SCHEMES).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Scheme {
    /// When its request is decided: until then the director answers for the server.
    #[default]
    Delayed,
    /// With its SYN, by a guess that the request proves right or wrong. A wrong one is mended as [`Scheme::Delayed`] binds.
    Preallocate(Guess),
    /// When its request is decided, onto a connection to that server that is open already. It serves one request, and the next
    /// one of any client. HTTP over full NAT only.
    Pooled(Pool),
    /// As [`Scheme::Delayed`] until its request is decided; then the filter on the server's host takes it, and the director
    /// only forwards what the client sends. For servers behind direct routing and tunnels. `switching` is by connection.
    Filter(Channel),
    /// What a filter itself does: it serves connections that directors give it, and no others.
    Migrated(Receiver),
}

/// How a director speaks to the filters of a service's servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// The secret that they share.
    pub key: ChannelKey,
    /// UDP port on which filters listen, at their servers' addresses. The director speaks from the ports above it.
    pub port: u16,
    /// From one ping to the next.
    pub interval: Duration,
    /// A filter that has answered no ping for so long is gone.
    pub timeout: Duration,
    /// Whether connections to servers of which no filter takes them are bound as [`Scheme::Delayed`] binds, over full NAT with the
    /// service's sources, whatever way of forwarding the servers have. Otherwise they are refused.
    pub fallback: bool,
}

/// How a filter hears directors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    /// The secret that they share.
    pub key: ChannelKey,
    /// UDP endpoints on which it listens.
    pub listen: Vec<SocketAddr>,
    /// Whether it takes clients' packets out of tunnels to the addresses of these endpoints.
    pub tunnels: bool,
}

/// Connections to each server that are kept open for whoever asks next. Numbers are those of the director; each worker has
/// an equal part of them, and one connection at least.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Idle connections to each server that are opened ahead of requests.
    pub idle: u32,
    /// Idle connections to each server that are kept, at least `idle`.
    pub most: u32,
    /// A connection that nobody has used for so long is closed, as long as `idle` others stay.
    pub idle_timeout: Duration,
    /// A connection is closed when it has been open for so long.
    pub lifetime: Duration,
    /// Requests that one connection serves at most.
    pub requests: u32,
    /// An idle connection is asked so often whether it still stands.
    pub probe: Duration,
    /// MSS that servers are told, bytes, over IPv6 20 less: clients that offer less, or no SACK, get connections of their own.
    pub mss: u16,
}

impl Default for Pool {
    fn default() -> Self {
        Pool {
            idle: 4,
            most: 256,
            // Less than what nginx (75 s) and most others wait for the next request.
            idle_timeout: Duration::from_secs(50),
            lifetime: Duration::from_secs(600),
            requests: 1000,
            probe: Duration::from_secs(10),
            // What a SYN cookie remembers of 1,460.
            mss: 1440,
        }
    }
}

impl Scheme {
    /// Whether it goes by decisions that were made before.
    pub fn learns(&self) -> bool {
        matches!(self, Scheme::Preallocate(Guess::Client | Guess::Frequency))
    }

    /// Whether it guesses.
    pub fn guesses(&self) -> bool {
        matches!(self, Scheme::Preallocate(_))
    }

    /// Whether connections are given to filters, or this is one.
    pub fn migrates(&self) -> bool {
        matches!(self, Scheme::Filter(_) | Scheme::Migrated(_))
    }

    /// How filters are spoken to, where connections are given to them.
    pub fn channel(&self) -> Option<&Channel> {
        if let Scheme::Filter(channel) = self { Some(channel) } else { None }
    }

    /// The pool that it takes servers' connections from.
    pub fn pool(&self) -> Option<&Pool> {
        if let Scheme::Pooled(pool) = self { Some(pool) } else { None }
    }
}

/// How the server of a connection is guessed before it has asked for anything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Guess {
    /// The one that this client's last request was for; of a client that is not known, as [`Guess::Frequency`].
    #[default]
    Client,
    /// The one that most requests of late were for.
    Frequency,
    /// By a hash of the client's address and port, evenly.
    Hash,
    /// Always this one, by its name in the service.
    Server(String),
}

/// How the director answers a client's SYN (RFC 4987).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SynPolicy {
    /// With a cookie: a SYN costs no memory.
    Cookie,
    /// With an entry in the flow table.
    State,
    /// With an entry, until many connections are half open; then with cookies.
    #[default]
    Auto,
}

/// What one decision is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switching {
    /// Every request of a connection. HTTP only; other protocols are decided once.
    #[default]
    Request,
    /// The first request; all that follows on the connection goes to the same server.
    Connection,
}

/// What becomes of a request that can't be read, or exceeds what may be inspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUnparsed {
    /// The rule set's default takes it, as far as that is safe: ambiguous framing is refused all the same.
    Default,
    /// It is refused: with an HTTP status where the protocol is HTTP, else by RST.
    #[default]
    Reset,
}
