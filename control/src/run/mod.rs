//! The running director: one control thread with everything that waits (socket, signals, netlink, the workers' rings).

mod checks;
pub mod filter;
mod follow;
mod ports;
#[cfg_attr(not(feature = "dpdk"), allow(dead_code, reason = "only ports without a kernel resolve for themselves"))]
mod resolver;

use crate::config::{Configuration, Invalid, PortKind};
use crate::director::launch::{Plans, Threads, memory_environment, plans};
use crate::director::{About, Control, Rings, Source, Steering, Ticket, Unsteered};
use crate::model::Environment;
use crate::protocol::{Answer, Failure, Request, Response, VERSION};
use crate::render::counted;
use crate::socket::{Incoming, Server, SocketError};
use follow::Follower;
use lcs_dataplane::cycles::Tsc;
use lcs_dataplane::port::Port;
use lcs_dataplane::port::memory::MemoryPort;
use lcs_dataplane::port::tap::TapWatch;
pub use ports::WITHOUT_DPDK;
use resolver::Resolver;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Time between two turns of the director's core while something is under way.
const BUSY_TURN: Duration = Duration::from_millis(1);
/// Otherwise.
const IDLE_TURN: Duration = Duration::from_millis(20);

/// The director cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is not valid.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The control socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The services cannot be set up.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// A port cannot be opened.
    #[error("the port cannot be opened: {0}")]
    Port(String),
    /// A worker cannot be started, or has ended.
    #[error("{0}")]
    Worker(String),
    /// The operating system refuses something.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        error: std::io::Error,
    },
    /// The kernel's tables cannot be followed.
    #[error("the kernel's routes and neighbours cannot be followed: {0}")]
    Netlink(String),
}

/// A director to be run.
pub struct Director {
    /// Its configuration.
    pub configuration: Configuration,
    /// Where the configuration came from, to be read again by `lcs reload` and SIGHUP.
    pub source: Option<Source>,
    /// How reports name it.
    pub name: String,
    /// Where to say what happens, a line each.
    pub log: Box<dyn FnMut(&str)>,
}

impl std::fmt::Debug for Director {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Director").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Director {
    /// A director from a file, which logs to the standard error stream.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn from_file(path: &Path) -> Result<Self, Invalid> {
        let again: PathBuf = path.to_owned();
        Ok(Director {
            configuration: Configuration::load(path)?,
            source: Some(Box::new(move || Configuration::load(&again))),
            name: path.display().to_string(),
            log: Box::new(|line| eprintln!("lcs: {line}")),
        })
    }

    /// Runs until SIGTERM or SIGINT. SIGHUP reads the configuration again.
    ///
    /// # Errors
    /// When the director cannot start, or a worker has failed. Nothing is left behind in either case.
    pub fn run(self) -> Result<(), RunError> {
        block_on(async {
            let mut terminate = signals(SignalKind::terminate())?;
            let mut interrupt = signals(SignalKind::interrupt())?;
            let hangup = signals(SignalKind::hangup())?;
            let stop = async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            };
            self.serve(stop, Some(hangup), || {}).await
        })
    }

    /// Runs on the calling thread until `stop` is there, without touching signals; `ready` is called when packets are served.
    ///
    /// # Errors
    /// As [`Director::run`].
    pub fn run_until(self, stop: impl Future<Output = ()>, ready: impl FnOnce()) -> Result<(), RunError> {
        block_on(self.serve(stop, None, ready))
    }

    async fn serve(
        mut self,
        stop: impl Future<Output = ()>,
        hangup: Option<tokio::signal::unix::Signal>,
        ready: impl FnOnce(),
    ) -> Result<(), RunError> {
        let (server, incoming) = Server::open(&self.configuration.director.socket)?;
        let interfaces = self.configuration.port.interfaces.clone();
        let rest = Rest { incoming, hangup, stop, ready };
        let result = match self.configuration.port.kind {
            PortKind::AfXdp => {
                let opened = ports::open(&self.configuration).map_err(RunError::Port)?;
                for words in &opened.words {
                    (self.log)(words);
                }
                let follower = Follower::start(&interfaces).map_err(|e| RunError::Netlink(e.to_string()))?;
                let ports = Opened {
                    ports: opened.ports,
                    steering: opened.filter,
                    environment: opened.environment,
                    words: opened.words,
                    notes: opened.notes,
                    follower: Some(follower),
                    resolver: None,
                    taps: vec![],
                };
                let result = self.direct(ports, rest).await;
                drop(opened.attached); // from here on every frame is the kernel's again
                result
            }
            #[cfg(not(feature = "dpdk"))]
            PortKind::Dpdk => Err(RunError::Port(WITHOUT_DPDK.to_owned())),
            #[cfg(feature = "dpdk")]
            PortKind::Dpdk => {
                let opened = ports::open_dpdk(&self.configuration).map_err(RunError::Port)?;
                for words in &opened.words {
                    (self.log)(words);
                }
                let given = opened.environment.given.clone();
                let resolver = Resolver::new(opened.lanes, opened.environment.interfaces.clone(), given);
                let ports = Opened {
                    ports: opened.ports,
                    steering: Unsteered,
                    environment: opened.environment,
                    words: opened.words,
                    notes: vec![],
                    follower: None,
                    resolver: Some(resolver),
                    taps: opened.taps.iter().map(|tap| tap.watch().clone()).collect(),
                };
                let result = self.direct(ports, rest).await;
                drop(opened.taps); // nothing passes any more
                drop(opened.dpdk); // after the ports, which are gone with the workers
                result
            }
            PortKind::Memory => {
                let count = self.configuration.workers.count();
                let port = |_| MemoryPort::new(interfaces.len() as u8, self.configuration.port.buffers as usize);
                let ports = Opened {
                    ports: (0..count).map(port).collect(),
                    steering: Unsteered,
                    environment: memory_environment(&self.configuration),
                    words: vec!["memory: no frame comes from outside".to_owned()],
                    notes: vec![],
                    follower: None,
                    resolver: None,
                    taps: vec![],
                };
                self.direct(ports, rest).await
            }
        };
        drop(server);
        result
    }

    /// Starts the workers, and turns the director's core until the end.
    async fn direct<P: Port + Send + 'static, S: Steering>(
        &mut self,
        opened: Opened<P, S>,
        rest: Rest<impl Future<Output = ()>, impl FnOnce()>,
    ) -> Result<(), RunError> {
        let configuration = self.configuration.clone();
        let cores = configuration.workers.cores.clone();
        let Plans { ports: plans, content, rings } = plans(&configuration, seed());
        let content_cores = configuration.workers.content.as_ref().map_or(Vec::new(), |c| c.cores.clone());
        let count = plans.len();
        let placed = |cores: &[usize], count: usize| (0..count).map(|i| cores.get(i).copied()).collect::<Vec<_>>();
        let about = About {
            configuration: self.name.clone(),
            port: opened.words,
            cores: [placed(&cores, count), placed(&content_cores, content.len())].concat(),
        };
        let socket = configuration.director.socket.display().to_string();
        let mut control = Control::new(rings, opened.steering, opened.environment, about).with_taps(opened.taps);
        if let Some(source) = self.source.take() {
            control = control.with_source(source);
        }
        opened.notes.into_iter().for_each(|note| control.note(note));
        control.configure(configuration)?;
        // They are there before the first request, and until after the last.
        let deciding = content.len();
        let mut content = Threads::start_content(content, &Tsc).map_err(RunError::Worker)?;
        let mut threads = Threads::start(plans, opened.ports, &Tsc, &cores).map_err(RunError::Worker)?;
        let on = if cores.is_empty() {
            String::new()
        } else {
            format!(" on cores {}", lcs_hwconf::cores::format_list(&cores))
        };
        let beside = match (deciding, content_cores.is_empty()) {
            (0, _) => String::new(),
            (1, true) => ", 1 content worker".to_owned(),
            (n, true) => format!(", {n} content workers"),
            (1, false) => format!(", 1 content worker on core {}", lcs_hwconf::cores::format_list(&content_cores)),
            (n, false) => format!(", {n} content workers on cores {}", lcs_hwconf::cores::format_list(&content_cores)),
        };
        (self.log)(&format!("{}{on}{beside}; control socket {socket}", counted(count, "worker")));
        let result = self.turn(&mut control, (opened.follower, opened.resolver), rest).await;
        threads.stop();
        content.stop();
        (self.log)(match &result {
            Ok(()) => "ended",
            Err(_) => "ended with an error",
        });
        result
    }

    async fn turn<S: Steering>(
        &mut self,
        control: &mut Control<Rings, S>,
        (mut follower, mut resolver): (Option<Follower>, Option<Resolver>),
        rest: Rest<impl Future<Output = ()>, impl FnOnce()>,
    ) -> Result<(), RunError> {
        let Rest { mut incoming, mut hangup, stop, ready } = rest;
        let mut ready = Some(ready);
        let start = Instant::now();
        let mut clients = Clients::default();
        let mut checker = checks::Checker::default();
        tokio::pin!(stop);
        loop {
            control.poll(start.elapsed());
            checker.turn(control, start.elapsed());
            clients.answer(control, &mut self.log);
            while let Some(notice) = control.notice() {
                (self.log)(&notice.text);
            }
            if let Some(worker) = control.ended() {
                return Err(RunError::Worker(format!("{worker}; its packets would be lost, so the director ends")));
            }
            if control.is_settled()
                && let Some(ready) = ready.take()
            {
                ready();
            }
            if let Some(r) = &mut resolver {
                r.turn(control, start.elapsed());
            }
            if let Some(f) = &mut follower
                && f.watch(control).await.is_err()
            {
                return Err(RunError::Netlink("the follower has ended".to_owned()));
            }
            let nap = if control.is_busy() { BUSY_TURN } else { IDLE_TURN };
            tokio::select! {
                () = &mut stop => break,
                Some(call) = incoming.recv() => clients.submit(control, call),
                Some(()) = hung_up(&mut hangup) => {
                    (self.log)("SIGHUP: reading the configuration again");
                    clients.reload = Some(control.submit(Request::Reload));
                }
                change = changed(&mut follower) => match (change, &mut follower) {
                    (Some(change), Some(f)) => f.apply(control, change),
                    _ => return Err(RunError::Netlink("the follower has ended".to_owned())),
                },
                () = tokio::time::sleep(nap) => {}
            }
        }
        if let Some(f) = follower {
            f.stop().await;
        }
        Ok(())
    }
}

/// What differs between kinds of ports.
struct Opened<P, S> {
    ports: Vec<P>,
    steering: S,
    environment: Environment,
    words: Vec<String>,
    /// What is to be known of the ports besides.
    notes: Vec<String>,
    follower: Option<Follower>,
    resolver: Option<Resolver>,
    taps: Vec<TapWatch>,
}

/// What the control thread waits for besides its workers.
struct Rest<F, R> {
    incoming: mpsc::Receiver<Incoming>,
    hangup: Option<tokio::signal::unix::Signal>,
    stop: F,
    ready: R,
}

/// Clients that wait for answers.
#[derive(Default)]
struct Clients {
    waiting: HashMap<Ticket, Waiting>,
    /// A reload that a signal asked for.
    reload: Option<Ticket>,
}

struct Waiting {
    answers: mpsc::Sender<Answer>,
    /// Trace records that it was too slow for.
    lost: u64,
}

impl Clients {
    fn submit<S: Steering>(&mut self, control: &mut Control<Rings, S>, call: Incoming) {
        let ticket = control.submit(call.request);
        self.waiting.insert(ticket, Waiting { answers: call.answers, lost: 0 });
    }

    /// Hands answers to their clients, and gives up what clients that are gone have asked for.
    fn answer<S: Steering>(&mut self, control: &mut Control<Rings, S>, log: &mut dyn FnMut(&str)) {
        while let Some(reply) = control.reply() {
            if self.reload == Some(reply.ticket) {
                self.reload = None;
                log_reload(&reply.result, log);
                continue;
            }
            let Some(waiting) = self.waiting.get_mut(&reply.ticket) else { continue };
            let (mut ok, error) = match reply.result {
                Ok(response) => (Some(response), None),
                Err(failure) => (None, Some(failure)),
            };
            // The last answer always finds a place.
            if reply.more && waiting.answers.capacity() <= 1 {
                waiting.lost += 1;
                continue;
            }
            if let Some(Response::TraceEnd(end)) = &mut ok {
                end.lost = waiting.lost;
            }
            let _ = waiting.answers.try_send(Answer { version: VERSION, more: reply.more, ok, error });
            if !reply.more {
                self.waiting.remove(&reply.ticket);
            }
        }
        self.waiting.retain(|ticket, waiting| {
            let there = !waiting.answers.is_closed();
            if !there {
                control.cancel(*ticket);
            }
            there
        });
    }
}

fn log_reload(result: &Result<Response, Failure>, log: &mut dyn FnMut(&str)) {
    match result {
        Ok(Response::Applied(applied)) if applied.changes.is_empty() => log("reloaded: nothing has changed"),
        Ok(Response::Applied(applied)) => {
            let (changes, workers) = (counted(applied.changes.len(), "change"), counted(applied.workers, "worker"));
            log(&format!("reloaded: {changes} on {workers}"));
            for change in &applied.changes {
                log(&change.to_string());
            }
        }
        Ok(_) => {}
        Err(failure) => log(&format!("the configuration was not reloaded: {failure}")),
    }
}

async fn hung_up(signal: &mut Option<tokio::signal::unix::Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}

async fn changed(follower: &mut Option<Follower>) -> Option<crate::netlink::Change> {
    match follower {
        Some(follower) => follower.next().await,
        None => std::future::pending().await,
    }
}

fn signals(kind: SignalKind) -> Result<tokio::signal::unix::Signal, RunError> {
    signal(kind).map_err(|error| RunError::System { what: "signals cannot be caught", error })
}

/// Runs on this thread alone.
fn block_on(work: impl Future<Output = Result<(), RunError>>) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| RunError::System { what: "the control thread cannot be set up", error })?;
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

/// A number that strangers cannot guess: it keys the hashes of the flow tables.
fn seed() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}
