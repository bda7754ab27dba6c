//! The director's core: owns the desired state, and sees to it that every worker has it.
//!
//! [`Control`] is a state machine without thread, clock or socket: requests are put in with [`Control::submit`], time
//! passes with [`Control::poll`], answers come out of [`Control::reply`]. The program turns it on the control thread,
//! between its socket and its workers' rings; tests and the demo without root turn it in the same loop as their workers.
//!
//! A change makes a new generation of the snapshot. Each worker is sent the latest one as soon as it has acknowledged the
//! one before, so that many quick changes become few snapshots, and a request that changes something is answered when
//! every worker uses a snapshot with the change in it. A weight alone travels as a command.

mod advance;
mod begin;
pub mod launch;
mod operation;
mod report;
mod requests;
mod steering;
mod workers;

pub use steering::{Steering, Unsteered};
pub use workers::{Ring, Rings, Said, Workers};

use crate::config::{Configuration, Invalid};
use crate::health::{self, Finding};
use crate::model::{Change, Environment, Learned, Model};
use crate::netlink::Target;
use crate::protocol::{Failure, FailureCode, Notice, Request, Response};
use ipnet::IpNet;
use lcs_dataplane::port::losses::Losses;
use lcs_dataplane::port::tap::TapWatch;
use lcs_pipelines::command::{Command, Needs};
use lcs_pipelines::snapshot::Interface;
use operation::{Operation, Pending, Purpose, Sent};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

/// How long a worker may take to acknowledge; it answers within milliseconds unless its core is taken away.
pub const ACKNOWLEDGE: Duration = Duration::from_secs(5);
/// How often is asked whether what drains has drained.
const DRAIN_INTERVAL: Duration = Duration::from_millis(250);
/// How long after a failure steering is tried again.
const STEER_AGAIN: Duration = Duration::from_secs(1);
/// Notices kept for `lcs status`.
const NOTICES: usize = 32;
/// Things that one worker may say in one turn.
const SAID: usize = 4096;
/// Time between two notices of the same subject.
const NOTICE_AGAIN: Duration = Duration::from_secs(60);
/// How often workers are told to go on with a trace.
const TRACE_AGAIN: Duration = Duration::from_secs(1);
/// Entries of a flow table that are looked at for one page.
const PAGE: u32 = 1024;

/// Number of a request under way.
pub type Ticket = u64;

/// Where the configuration comes from when it is read again.
pub type Source = Box<dyn FnMut() -> Result<Configuration, Invalid> + Send>;

/// What `lcs status` says of the director besides its state.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// The configuration file.
    pub configuration: String,
    /// The ports, in words.
    pub port: Vec<String>,
    /// Cores of the workers, and behind them those of the content workers.
    pub cores: Vec<Option<usize>>,
}

/// One answer.
#[derive(Debug)]
pub struct Reply {
    /// To which request.
    pub ticket: Ticket,
    /// Whether more answers to it follow.
    pub more: bool,
    /// The answer.
    pub result: Result<Response, Failure>,
}

/// How far a worker is.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    installed: u64,
    /// A snapshot is under way, or the memory for it.
    in_flight: bool,
    /// Memory that the worker has taken.
    memory: Needs,
    ended: bool,
}

/// The director's core.
pub struct Control<W, S> {
    model: Model,
    workers: W,
    steering: S,
    about: About,
    source: Option<Source>,
    taps: Vec<TapWatch>,
    running: Option<Configuration>,
    progress: Vec<Progress>,
    steered: u64,
    steered_sets: Option<crate::model::SteeringSets>,
    steer_again: Duration,
    steer_error: Option<String>,
    pending: BTreeMap<Ticket, Pending>,
    sent: HashMap<u64, (usize, Sent)>,
    next_ticket: Ticket,
    next_command: u64,
    tracing: Option<Ticket>,
    /// Workers that have not acknowledged the end of the last trace.
    untraced: usize,
    drain_at: Duration,
    spare_reports: Vec<report::Boxed>,
    replies: VecDeque<Reply>,
    notices: VecDeque<Notice>,
    unread: VecDeque<Notice>,
    noticed: HashMap<(u8, u64), Duration>,
    /// What ports had lost, by interface, as far as that was noted.
    losses_noted: Vec<Losses>,
    /// Cookies that workers have learned in this turn: worker, cookie, server.
    cookies: Vec<(usize, u64, u16)>,
    now: Duration,
}

impl<W: Workers, S: Steering> Control<W, S> {
    /// A director without services.
    pub fn new(workers: W, steering: S, environment: Environment, about: About) -> Self {
        let count = workers.count();
        let mut model = Model::new(environment);
        model.set_workers(count - workers.content_workers().min(count));
        Control {
            model,
            workers,
            steering,
            about,
            source: None,
            taps: Vec::new(),
            running: None,
            progress: vec![Progress::default(); count],
            steered: 0,
            steered_sets: None,
            steer_again: Duration::ZERO,
            steer_error: None,
            pending: BTreeMap::new(),
            sent: HashMap::new(),
            next_ticket: 1,
            next_command: 1,
            tracing: None,
            untraced: 0,
            drain_at: Duration::ZERO,
            spare_reports: Vec::new(),
            replies: VecDeque::new(),
            notices: VecDeque::new(),
            unread: VecDeque::new(),
            noticed: HashMap::new(),
            losses_noted: Vec::new(),
            cookies: Vec::new(),
            now: Duration::ZERO,
        }
    }

    /// Reads the configuration from here at [`Request::Reload`].
    #[must_use]
    pub fn with_source(mut self, source: Source) -> Self {
        self.source = Some(source);
        self
    }

    /// Tells in [`Request::Stats`] what has passed these TAP devices.
    #[must_use]
    pub fn with_taps(mut self, taps: Vec<TapWatch>) -> Self {
        self.taps = taps;
        self
    }

    /// The desired state.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The workers.
    pub fn workers_mut(&mut self) -> &mut W {
        &mut self.workers
    }

    /// Makes a configuration the desired state: everything of it or, with an error, nothing.
    ///
    /// # Errors
    /// When there is no room, or when it changes what cannot be changed while running.
    pub fn configure(&mut self, new: Configuration) -> Result<Vec<Change>, Failure> {
        if let Some(old) = &self.running {
            let fixed = needs_restart(old, &new);
            if !fixed.is_empty() {
                let message = format!(
                    "{} cannot change while the director runs; put the old value back, or start the director again",
                    fixed.join(" and ")
                );
                return Err(Failure::new(FailureCode::Refused, message));
            }
        }
        let mut changes = self.model.apply(&new.services)?;
        changes.extend(self.model.set_settings(&new.timeouts, new.workers.when_full, &new.neighbours, &new.routes));
        self.running = Some(new);
        Ok(changes)
    }

    /// Puts a request in. Its answers come out of [`Control::reply`] with the ticket that is returned.
    pub fn submit(&mut self, request: Request) -> Ticket {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        if let Some(worker) = self.progress.iter().position(|p| p.ended) {
            let failure = Failure::new(FailureCode::Internal, format!("{} has ended", self.name(worker)));
            self.answer(ticket, Err(failure));
            return ticket;
        }
        if let Err(failure) = self.begin(ticket, request) {
            self.answer(ticket, Err(failure));
        }
        self.advance();
        ticket
    }

    /// The client of a request is gone.
    pub fn cancel(&mut self, ticket: Ticket) {
        self.pending.remove(&ticket);
        if self.tracing == Some(ticket) {
            self.end_trace();
        }
    }

    /// The next answer, if there is one.
    pub fn reply(&mut self) -> Option<Reply> {
        self.replies.pop_front()
    }

    /// The next thing that somebody should know, for a log.
    pub fn notice(&mut self) -> Option<Notice> {
        self.unread.pop_front()
    }

    /// Whether something is under way, so that the next [`Control::poll`] should come soon.
    pub fn is_busy(&self) -> bool {
        !self.replies.is_empty() || !self.pending.is_empty() || !self.is_settled()
    }

    /// Whether every worker has the desired state, and what stands in front of them too.
    pub fn is_settled(&self) -> bool {
        self.oldest() >= self.model.generation() && self.steered >= self.model.generation()
    }

    /// A worker that has ended, if one has: its share of the packets is lost, so the director should end as well.
    pub fn ended(&self) -> Option<String> {
        let worker = self.progress.iter().position(|p| p.ended)?;
        Some(format!("{} has ended", self.name(worker)))
    }

    /// One turn at time `now` since the start: takes what the workers say, sends them what they lack, ends what has
    /// waited too long.
    pub fn poll(&mut self, now: Duration) {
        self.now = now;
        for worker in 0..self.progress.len() {
            for _ in 0..SAID {
                match self.workers.poll(worker) {
                    Some(Said::Event(event)) => self.heard(worker, event),
                    Some(Said::Acknowledged(id, what)) => self.acknowledged(id, what),
                    Some(Said::Ended) => {
                        self.worker_ended(worker);
                        break;
                    }
                    None => break,
                }
            }
        }
        self.spread_cookies();
        self.expire();
        if self.model.is_draining() && now >= self.drain_at {
            self.drain_at = now + DRAIN_INTERVAL;
            let asked = self
                .pending
                .values()
                .any(|p| matches!(p.operation, Operation::Gather { purpose: Purpose::Draining, .. }));
            if !asked {
                let ticket = self.next_ticket;
                self.next_ticket += 1;
                self.gather(ticket, Purpose::Draining);
            }
        }
        self.advance();
    }

    /// Learns the next hop toward a server or router and tells the workers.
    pub fn learn_next_hop(&mut self, target: Target, learned: Learned) {
        let hop = learned.hop;
        let Some(row) = self.model.learn_next_hop(target, learned) else { return };
        if !self.tell_all(|| Command::SetNextHop { row, hop }, Sent::Nothing) {
            self.model.touch();
        }
    }

    /// Learns a route toward clients, as [`Model::learn_route`] does.
    pub fn learn_route(&mut self, to: IpNet, via: Option<Option<Target>>) {
        if let Err(limit) = self.model.learn_route(to, via) {
            self.note_of((3, 0), |_| {
                format!(
                    "the kernel has more than {limit} routes; the rest are not followed, and answers to clients behind \
                     them go where their packets came from"
                )
            });
        }
    }

    /// The director's own addresses are these now, besides those that the configuration gives.
    pub fn learn_addresses(&mut self, learned: &[IpAddr]) {
        self.model.learn_addresses(learned);
    }

    /// The interfaces have other link-layer addresses or another MTU now.
    pub fn learn_interfaces(&mut self, interfaces: Vec<Interface>) {
        self.model.learn_interfaces(interfaces);
    }

    /// Servers that are to be checked, and whether they count as down.
    pub fn checks(&self) -> Vec<(health::Target, bool)> {
        self.model.checks()
    }

    /// A server could not be checked, for want of something on this side.
    pub fn could_not_check(&mut self, why: &str) {
        self.note_of((4, 0), |_| format!("servers cannot be checked and count as before: {why}"));
    }

    /// The name of a TAP device that is gone: no server can be checked by it any more.
    pub fn gone_tap(&self) -> Option<String> {
        self.taps.iter().find(|tap| tap.gone()).map(|tap| tap.name().to_owned())
    }

    /// A server's checks have come to something.
    pub fn learn_health(&mut self, finding: &Finding) {
        if let Some(change) = self.model.set_health(finding) {
            self.note(format!("{} is {}", change.subject, change.detail));
            self.advance();
        }
    }

    /// Notes something for the log and for `lcs status`.
    pub fn note(&mut self, text: impl Into<String>) {
        let notice = Notice { at: self.now.as_secs_f64(), text: text.into() };
        for list in [&mut self.notices, &mut self.unread] {
            if list.len() >= NOTICES {
                list.pop_front();
            }
            list.push_back(notice.clone());
        }
    }

    /// Notes something about a subject, at most once a minute. Returns whether it did.
    fn note_of(&mut self, subject: (u8, u64), text: impl FnOnce(&Self) -> String) -> bool {
        let now = self.now;
        if self.noticed.get(&subject).is_some_and(|at| now < *at + NOTICE_AGAIN) {
            return false;
        }
        self.noticed.retain(|_, at| now < *at + NOTICE_AGAIN);
        self.noticed.insert(subject, now);
        let text = text(self);
        self.note(text);
        true
    }

    fn name(&self, worker: usize) -> String {
        let core = self.about.cores.get(worker).copied().flatten();
        let core = core.map_or(String::new(), |core| format!(" (core {core})"));
        match worker.checked_sub(self.port_workers()) {
            None => format!("worker {worker}{core}"),
            Some(content) => format!("content worker {content}{core}"),
        }
    }

    /// Workers that have a port and connections: the first ones.
    fn port_workers(&self) -> usize {
        self.progress.len().saturating_sub(self.workers.content_workers())
    }

    fn answer(&mut self, ticket: Ticket, result: Result<Response, Failure>) {
        self.replies.push_back(Reply { ticket, more: false, result });
    }

    fn oldest(&self) -> u64 {
        self.progress.iter().map(|p| p.installed).min().unwrap_or(u64::MAX)
    }

    fn wait(&mut self, ticket: Ticket, operation: Operation) {
        let deadline = (!matches!(operation, Operation::Trace { .. })).then(|| self.now + ACKNOWLEDGE);
        self.pending.insert(ticket, Pending { operation, deadline });
    }
}

impl<W, S> std::fmt::Debug for Control<W, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Control {{ generation: {}, workers: {} }}", self.model.generation(), self.progress.len())
    }
}

/// Keys that differ and are fixed while the director runs.
fn needs_restart(old: &Configuration, new: &Configuration) -> Vec<&'static str> {
    let (a, b) = (&old.workers, &new.workers);
    [
        ("[director] socket", old.director.socket != new.director.socket),
        ("[director] addresses", old.director.addresses != new.director.addresses),
        ("[workers] cores", a.cores != b.cores),
        ("[workers] flows", a.flows != b.flows),
        ("[workers] fragments", a.fragments != b.fragments),
        ("[workers] idle", a.idle != b.idle),
        ("[workers] placement, content-workers, content-cores or content-idle", a.content != b.content),
        ("[port]", old.port != new.port),
    ]
    .into_iter()
    .filter_map(|(key, differs)| differs.then_some(key))
    .collect()
}
