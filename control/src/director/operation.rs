//! Operations: requests that wait for workers.

use super::report;
use crate::model::{Change, Model};
use crate::protocol::{Connection, ConnectionFilter};
use lcs_pipelines::command::{FlowView, Needs, RequestState, TraceFilter};
use std::time::Duration;

/// What is to be made of the workers' reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Status,
    Stats,
    Services,
    /// For the director itself: whether what drains has drained.
    Draining,
}

/// A request that waits for workers.
#[derive(Debug)]
pub(super) enum Operation {
    /// For every worker to use this generation or a later one.
    Apply { generation: u64, changes: Vec<Change>, note: Option<String> },
    /// For this many workers to have taken a weight.
    Weight { missing: usize, changes: Vec<Change> },
    /// For every worker's report.
    Gather { purpose: Purpose, reports: Vec<Option<report::Boxed>>, unasked: Vec<usize> },
    /// For pages of flows, worker by worker.
    List(Box<Listing>),
    /// For frames to pass.
    Trace {
        filter: TraceFilter,
        frames: u32,
        seen: u32,
        unasked: Vec<usize>,
        /// Workers that have begun: what others say belongs to the trace before.
        started: Vec<bool>,
        /// When to tell the workers to go on.
        again: Duration,
    },
}

/// A list of connections being made.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) filter: ConnectionFilter,
    pub(super) limit: usize,
    pub(super) worker: usize,
    pub(super) cursor: u32,
    /// Whether a page is under way.
    pub(super) asked: bool,
    pub(super) found: Vec<Connection>,
    pub(super) more: bool,
}

impl Listing {
    /// Takes a flow if it matches. Returns `false` when the list is full.
    pub(super) fn take(&mut self, model: &Model, flow: &FlowView) -> bool {
        let (service, server) = model.names(flow.service, flow.server);
        let is = |wanted: &Option<String>, name: Option<&str>| wanted.as_deref().is_none_or(|w| Some(w) == name);
        let f = &self.filter;
        let matches = is(&f.service, service)
            && is(&f.server, server)
            && (is(&f.state, Some(flow.state.name())) || is(&f.state, flow.request.map(RequestState::name)))
            && f.client.is_none_or(|net| net.contains(&flow.client.ip()));
        if !matches {
            return true;
        }
        if self.found.len() >= self.limit {
            self.more = true;
            return false;
        }
        let name = |n: Option<&str>| n.unwrap_or("?").to_owned();
        self.found.push(Connection {
            worker: self.worker,
            protocol: if flow.protocol == 6 { "tcp" } else { "udp" }.to_owned(),
            client: flow.client,
            virtual_address: flow.virtual_address,
            local: flow.local,
            service: name(service),
            server: flow.server_address.map(|_| name(server)),
            server_address: flow.server_address,
            forward: flow.forward,
            state: flow.state,
            request: flow.request,
            expires: flow.expires,
            packets_in: flow.packets_in,
            packets_out: flow.packets_out,
        });
        true
    }
}

/// An operation and until when it may wait.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) operation: Operation,
    /// `None` for a trace, which waits as long as its client does.
    pub(super) deadline: Option<Duration>,
}

/// What an acknowledgement is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    Install(u64, Needs),
    /// Memory for a snapshot that is to come.
    Prepare(Needs),
    Operation(u64),
    /// Nobody waits for it.
    Nothing,
    /// The end of a trace.
    TraceOff,
}
