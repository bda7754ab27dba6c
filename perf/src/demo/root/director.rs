//! The director of a scene: what `lcs run` runs, in the director's namespace, with a configuration from memory; and its
//! control socket, through which it's asked and changed as by `lcs` commands.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lcs_control::config::Configuration;
use lcs_control::protocol::{Applied, Request, Response, ServiceReport, Stats, Status};
use lcs_control::run::{self, RunError};
use lcs_control::socket::Client;
use lcs_hwconf::testbed::Host;
use lcs_pipelines::snapshot::Forward;
use tokio::sync::oneshot;

use super::Error;
use super::scene::Scene;

/// How long the director may take to start and to know every server's link-layer address.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running director; it ends when this is dropped.
#[derive(Debug)]
pub struct Director {
    client: Client,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), RunError>>>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Director {
    /// Starts the director of `scene`, and returns when it serves packets and has the way to every server.
    pub fn start(scene: &Scene) -> Result<Self, Error> {
        let director = Self::launch(scene)?;
        director.wait_for_servers()
    }

    /// Starts the director of `scene`, and returns when it serves packets.
    pub fn launch(scene: &Scene) -> Result<Self, Error> {
        Self::launch_on(scene.bed().director(), |socket| scene.configuration(socket))
    }

    /// Starts a director on `host` with the configuration that `text` writes for a control socket's name, and returns
    /// when it serves packets and has the way to every server.
    pub fn start_on(host: &Host, text: impl FnOnce(&str) -> String) -> Result<Self, Error> {
        Self::launch_on(host, text)?.wait_for_servers()
    }

    fn launch_on(host: &Host, text: impl FnOnce(&str) -> String) -> Result<Self, Error> {
        let socket = socket_name();
        let name = "the demo's configuration";
        let configuration = Configuration::parse(name, &text(&socket.to_string_lossy()))
            .map_err(|e| Error::Director(Box::new(e.into())))?;
        let make = || Ok(run::Director { configuration, source: None, name: name.into(), log: Box::new(|_| {}) });
        Self::launch_made(host, &socket, make)
    }

    /// Starts the filter of a real server, and returns when it serves packets.
    pub fn start_filter(host: &Host, filter: run::filter::Filter) -> Result<Self, Error> {
        let socket = socket_name();
        let filter = run::filter::Filter { socket: socket.clone(), ..filter };
        Self::launch_made(host, &socket, move || filter.director())?.wait_for_servers()
    }

    fn launch_made(
        host: &Host,
        socket: &Path,
        make: impl FnOnce() -> Result<run::Director, RunError> + Send + 'static,
    ) -> Result<Self, Error> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, ready) = mpsc::sync_channel(1);
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&log);
        let thread = host.spawn("control", move || {
            let director = run::Director { log: Box::new(move |line| lock(&lines).push(line.to_owned())), ..make()? };
            let stop = async {
                // Dropped or sent: either is the end.
                let _ = stopped.await;
            };
            director.run_until(stop, move || {
                // Whoever waits for it is there, or has given up.
                let _ = tell.send(());
            })
        })?;
        // Whether it's ready, has failed (which drops its end) or hangs.
        if ready.recv_timeout(PATIENCE).is_err() {
            drop(stop);
            return Err(match thread.join() {
                Ok(Err(error)) => Error::Director(Box::new(error)),
                Ok(Ok(())) => Error::Late { what: "the director's start", log: lock(&log).join("; ") },
                Err(panic) => std::panic::resume_unwind(panic),
            });
        }
        let client = connect(host, socket)?;
        Ok(Director { client, stop: Some(stop), thread: Some(thread), log })
    }

    /// Waits until so many filters have answered it, and to be sure that all have.
    pub fn wait_for_filters(&mut self, filters: u64) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let services = self.stats()?.services;
            let live = services.iter().filter_map(|s| s.content.as_ref()?.counts.as_ref()?.migrations);
            let live: u64 = live.map(|n| n.live).sum();
            if live >= filters {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Error::Late { what: "the filters' answers", log: format!("{live} of {filters}") });
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until no connection is open and nothing is in hand for any, and says what is kept all the same. What waits
    /// for its time-out is over.
    ///
    /// # Errors
    /// [`Error::Late`] when something is left after `patience`.
    pub fn wait_until_empty(&mut self, patience: Duration) -> Result<String, Error> {
        let deadline = Instant::now() + patience;
        loop {
            let stats = self.stats()?;
            // Where servers do not answer through the director, the client's end is all that it sees. Elsewhere a connection that only
            // one side has closed is not over.
            let servers = stats.services.iter().flat_map(|service| &service.servers);
            let unseen = servers.map(|server| server.forward).any(|f| matches!(f, Forward::Dr | Forward::Tunnel));
            let is_over = |state: &str| matches!(state, "time-wait" | "close") || unseen && state == "fin-wait";
            let open: u64 =
                stats.total.states.iter().filter(|(state, _)| !is_over(state)).map(|(_, flows)| flows).sum();
            let counts: Vec<_> = stats.services.iter().filter_map(|s| s.content.as_ref()?.counts.as_ref()).collect();
            let kept: u64 = counts.iter().map(|c| c.parked + c.in_hand).sum::<u64>() + stats.total.held;
            let pools = counts.iter().filter_map(|c| c.pool.as_ref());
            let (idle, lent) = pools.fold((0, 0), |(idle, lent), pool| (idle + pool.idle, lent + pool.lent));
            // What stands in a pool is nobody's.
            if open == idle && kept + lent == 0 {
                return Ok(format!("no connection open but {idle} in pools, nothing parked, in hand or held"));
            }
            if Instant::now() > deadline {
                let states = &stats.total.states;
                let log = format!("{kept} parked, in hand or held; {idle} idle and {lent} lent in pools; {states:?}");
                return Err(Error::Late { what: "the end of every connection", log });
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until nothing stands between the director and its servers, and every worker has been told.
    fn wait_for_servers(mut self) -> Result<Self, Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let services = self.services()?;
            let problem = services.iter().flat_map(|s| &s.servers).find_map(|s| s.problem.clone());
            let problem = match problem {
                Some(problem) => problem,
                None => {
                    let status = self.status()?;
                    if status.workers.iter().all(|worker| worker.generation == status.generation) {
                        return Ok(self);
                    }
                    "a worker does not have the latest state yet".into()
                }
            };
            if Instant::now() > deadline {
                return Err(Error::Late { what: "the way to every server", log: problem });
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks what `lcs` commands ask.
    pub fn ask(&mut self, request: Request) -> Result<Response, Error> {
        Ok(self.client.call(request)?)
    }

    /// `lcs weight`: returns when every worker has taken it.
    pub fn set_weight(&mut self, service: &str, server: &str, weight: u32) -> Result<Applied, Error> {
        self.change(Request::Weight { service: service.into(), server: server.into(), weight })
    }

    /// `lcs rs del`: returns when every worker has taken it.
    pub fn remove_server(&mut self, service: &str, server: &str) -> Result<Applied, Error> {
        self.change(Request::RemoveServer { service: service.into(), server: server.into() })
    }

    fn change(&mut self, request: Request) -> Result<Applied, Error> {
        match self.ask(request)? {
            Response::Applied(applied) => Ok(applied),
            other => Err(Error::strange(&other)),
        }
    }

    /// `lcs stats`.
    pub fn stats(&mut self) -> Result<Stats, Error> {
        match self.ask(Request::Stats)? {
            Response::Stats(stats) => Ok(*stats),
            other => Err(Error::strange(&other)),
        }
    }

    /// `lcs vs`: the services and their servers.
    pub fn services(&mut self) -> Result<Vec<ServiceReport>, Error> {
        match self.ask(Request::Services)? {
            Response::Services(services) => Ok(services.services),
            other => Err(Error::strange(&other)),
        }
    }

    /// `lcs status`.
    pub fn status(&mut self) -> Result<Status, Error> {
        match self.ask(Request::Status)? {
            Response::Status(status) => Ok(*status),
            other => Err(Error::strange(&other)),
        }
    }

    /// What the director has logged.
    pub fn log(&self) -> Vec<String> {
        lock(&self.log).clone()
    }

    /// Ends the director.
    pub fn stop(mut self) -> Result<(), Error> {
        self.end().map_err(|error| Error::Director(Box::new(error)))
    }

    fn end(&mut self) -> Result<(), RunError> {
        drop(self.stop.take());
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(outcome)) => outcome,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Director {
    fn drop(&mut self) {
        if !thread::panicking() {
            // Whoever wants the error calls `stop`.
            let _ = self.end();
        }
    }
}

fn lock(lines: &Mutex<Vec<String>>) -> MutexGuard<'_, Vec<String>> {
    // A line is pushed whole or not at all.
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A name in the kernel's own space of names for sockets: nothing is left in the file system, however we end. The
/// space is that of the director's namespace, so that no one outside reaches it.
fn socket_name() -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    PathBuf::from(format!("@lcs-demo-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
}

fn connect(director: &Host, socket: &Path) -> Result<Client, Error> {
    Ok(director.run(|| Client::connect(socket))??)
}
