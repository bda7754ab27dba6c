//! What a service needs that is switched by content: its rules, compiled, and how connections are bound.

use crate::extract::{Limits, Plan, Protocol};
use crate::matching::{GroupId, Program};
use crate::snapshot::Scheduler;
use serde::{Deserialize, Serialize};
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
    /// How the director answers a client's SYN.
    pub syn: SynPolicy,
    /// What one decision is for.
    pub switching: Switching,
    /// What becomes of a request that can't be read.
    pub on_unparsed: OnUnparsed,
    /// How much of a request is read and held.
    pub limits: Limits,
    /// From the handshake to the first byte of a request.
    pub first_byte: Duration,
    /// From the first byte of a request to its decision: what a client that sends a byte at a time gets.
    pub request: Duration,
    /// SYNs sent again to a server that does not answer, before the next one is tried.
    pub syn_retries: u8,
    /// MSS announced to clients at most, bytes.
    pub mss: u16,
}

impl Default for Binding {
    fn default() -> Self {
        Binding {
            syn: SynPolicy::Auto,
            switching: Switching::Request,
            on_unparsed: OnUnparsed::Reset,
            limits: Limits::default(),
            first_byte: Duration::from_secs(30),
            request: Duration::from_secs(10),
            syn_retries: 3,
            mss: 1460,
        }
    }
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
