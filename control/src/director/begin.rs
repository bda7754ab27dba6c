//! How a request begins: what it changes, and what it then waits for.

use super::operation::{Listing, Operation, Purpose, Sent};
use super::{Control, Steering, TRACE_AGAIN, Ticket, Workers, requests};
use crate::model::{Change, Kind};
use crate::protocol::{CONNECTIONS_MAX, Failure, FailureCode, Request, TRACE_MAX};
use lcs_pipelines::command::{Command, RequestState, TraceFilter};

impl<W: Workers, S: Steering> Control<W, S> {
    pub(super) fn begin(&mut self, ticket: Ticket, request: Request) -> Result<(), Failure> {
        let model = &mut self.model;
        let changes = match request {
            Request::Status => {
                self.gather(ticket, Purpose::Status);
                return Ok(());
            }
            Request::Stats => {
                self.gather(ticket, Purpose::Stats);
                return Ok(());
            }
            Request::Services => {
                self.gather(ticket, Purpose::Services);
                return Ok(());
            }
            Request::Connections { filter, limit } => return self.begin_list(ticket, filter, limit),
            Request::Trace { filter, frames } => return self.begin_trace(ticket, filter, frames),
            Request::Weight { service, server, weight } => return self.begin_weight(ticket, &service, &server, weight),
            Request::Reload => return self.begin_reload(ticket),
            Request::AddService { service, content } => {
                let kernel = self.running.as_ref().is_none_or(|c| c.port.has_kernel());
                requests::add_service(model, *service, content, kernel)?
            }
            Request::SetService { service, set } => requests::set_service(model, &service, &set)?,
            Request::RemoveService { service } => requests::remove_service(model, &service)?,
            Request::AddServer { service, server, set } => requests::add_server(model, &service, &server, &set)?,
            Request::SetServer { service, server, set } => requests::set_server(model, &service, &server, &set)?,
            Request::RemoveServer { service, server } => requests::remove_server(model, &service, &server)?,
            Request::LoadRules { service, file } => requests::load_rules(model, &service, &file)?,
            Request::Drain { service, server } => {
                let set = crate::protocol::ServerSettings {
                    state: Some(crate::config::Admin::Draining),
                    ..Default::default()
                };
                requests::set_server(model, &service, &server, &set)?
            }
        };
        self.wait_for_change(ticket, changes, Some(requests::NOT_WRITTEN.to_owned()));
        Ok(())
    }

    pub(super) fn wait_for_change(&mut self, ticket: Ticket, changes: Vec<Change>, note: Option<String>) {
        let generation = self.model.generation();
        self.wait(ticket, Operation::Apply { generation, changes, note });
    }

    fn begin_reload(&mut self, ticket: Ticket) -> Result<(), Failure> {
        let Some(source) = &mut self.source else {
            return Err(Failure::new(FailureCode::Refused, "this director was not started from a file"));
        };
        let new = source().map_err(|invalid| {
            let report = format!("{invalid}\n\nnothing was changed; the director runs on");
            Failure::of_file(report, invalid.into_named_problems())
        })?;
        let changes = self.configure(new)?;
        let note = if changes.is_empty() { "the file says what is running".to_owned() } else { String::new() };
        self.wait_for_change(ticket, changes, Some(note).filter(|n| !n.is_empty()));
        Ok(())
    }

    fn begin_weight(&mut self, ticket: Ticket, service: &str, server: &str, weight: u32) -> Result<(), Failure> {
        let before = self.model.service(service).and_then(|s| s.server(server)).map(|s| s.weight);
        let slot = self.model.set_weight(service, server, weight)?;
        let detail = format!("weight {} → {weight}", before.unwrap_or(weight));
        let changes = vec![Change { kind: Kind::Changed, subject: format!("{service}/{server}"), detail }];
        let settled = self.progress.iter().all(|p| !p.in_flight && p.installed == self.model.generation());
        if settled && self.tell_all(|| Command::SetWeight { server: slot, weight }, Sent::Operation(ticket)) {
            let missing = self.progress.len();
            self.wait(ticket, Operation::Weight { missing, changes });
        } else {
            // A snapshot is on its way, or a ring is full: the weight goes with the next snapshot.
            self.model.touch();
            self.wait_for_change(ticket, changes, Some(requests::NOT_WRITTEN.to_owned()));
        }
        Ok(())
    }

    fn begin_list(
        &mut self,
        ticket: Ticket,
        filter: crate::protocol::ConnectionFilter,
        limit: u32,
    ) -> Result<(), Failure> {
        if limit == 0 || limit > CONNECTIONS_MAX {
            let message = format!("{limit} connections; ask for 1 to {CONNECTIONS_MAX}");
            return Err(Failure::new(FailureCode::BadRequest, message));
        }
        let states = lcs_dataplane::flow::TcpState::ALL.iter().map(|s| s.name());
        let names: Vec<&str> = states.chain(RequestState::ALL.iter().map(|s| s.name())).collect();
        if let Some(state) = filter.state.as_deref().filter(|s| !names.contains(s)) {
            let message = format!("there is no state {state:?}; known are {}", names.join(", "));
            return Err(Failure::new(FailureCode::BadRequest, message));
        }
        let listing = Listing {
            filter,
            limit: limit as usize,
            worker: 0,
            cursor: 0,
            asked: false,
            found: Vec::new(),
            more: false,
        };
        self.wait(ticket, Operation::List(Box::new(listing)));
        Ok(())
    }

    fn begin_trace(&mut self, ticket: Ticket, filter: TraceFilter, frames: u32) -> Result<(), Failure> {
        if frames == 0 || frames > TRACE_MAX {
            let message = format!("{frames} frames; ask for 1 to {TRACE_MAX}");
            return Err(Failure::new(FailureCode::BadRequest, message));
        }
        if self.tracing.is_some() || self.untraced > 0 {
            let message = "another client is tracing; try again when it has ended";
            return Err(Failure::new(FailureCode::Busy, message));
        }
        self.tracing = Some(ticket);
        let count = self.progress.len();
        let (unasked, started) = ((0..count).collect(), vec![false; count]);
        let again = self.now + TRACE_AGAIN;
        self.wait(ticket, Operation::Trace { filter, frames, seen: 0, unasked, started, again });
        Ok(())
    }

    pub(super) fn gather(&mut self, ticket: Ticket, purpose: Purpose) {
        let count = self.progress.len();
        let reports = (0..count).map(|_| None).collect();
        self.wait(ticket, Operation::Gather { purpose, reports, unasked: (0..count).collect() });
    }
}
