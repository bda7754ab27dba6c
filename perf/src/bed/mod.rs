//! What is measured over real kernels stands on this: a testbed in which the director has a core alone, with its receive
//! work, and everybody else shares the others.

pub mod cpu;

use std::thread;

use lcs_hwconf::testbed::{ETH0, Testbed};
use lcs_hwconf::{cores, steering};

use crate::demo::root::{Error, director::Director};
use cpu::Watched;

/// Why cores can't be given out.
#[derive(Debug, thiserror::Error)]
pub enum CoresError {
    /// One core only: its number.
    #[error("the director needs a core alone and clients and servers another, but this process may run on {0} only")]
    Few(String),
    /// It was asked for one that isn't ours.
    #[error("this process may not run on core {0}: name one that it may run on")]
    Foreign(usize),
    /// The machine doesn't say.
    #[error(transparent)]
    System(#[from] lcs_hwconf::Error),
}

/// The director's core, `asked` or the last one, and the others'. There is at least one of these.
pub fn cores(asked: Option<usize>) -> Result<(usize, Vec<usize>), CoresError> {
    let available: Vec<usize> = cores::available()?.into_iter().map(|core| core.id).collect();
    let (Some(last), 2..) = (available.last(), available.len()) else {
        return Err(CoresError::Few(format!("core {}", cores::format_list(&available))));
    };
    let core = asked.unwrap_or(*last);
    if !available.contains(&core) {
        return Err(CoresError::Foreign(core));
    }
    Ok((core, available.into_iter().filter(|other| *other != core).collect()))
}

/// The core of the server number `at`: the first of the others is the client's where there are several.
pub fn server_core(others: &[usize], at: usize) -> usize {
    others[(at + 1) % others.len()]
}

/// What comes to the director is received on its core, what comes to a server on the one that `of_server` says for its number, everything
/// else on the first of the others.
pub fn receive_apart(
    bed: &Testbed,
    core: usize,
    others: &[usize],
    of_server: impl Fn(usize) -> usize,
) -> Result<(), lcs_hwconf::Error> {
    let rest = others[0];
    steering::receive_on(bed.director().namespace(), &[ETH0], Some(core))?;
    steering::receive_on(bed.client().namespace(), &[ETH0], Some(rest))?;
    let mut ports: Vec<&str> = vec![bed.client().name(), bed.director().name()];
    for (at, server) in bed.servers().iter().enumerate() {
        steering::receive_on(server.namespace(), &[ETH0], Some(of_server(at)))?;
        ports.push(server.name());
    }
    steering::receive_on(bed.switch().namespace(), &ports, Some(rest))
}

/// Whose time is the director's core's, before anybody is there.
pub fn watched(core: usize) -> Watched {
    // The kernel's own threads of the core count whoever they work for.
    let softirq = steering::kernel_threads(&format!("ksoftirqd/{core}"));
    let kernel = softirq.into_iter().map(|id| (id, id)).collect();
    Watched { core, niced: cpu::is_niced(), kernel, ..Watched::default() }
}

/// Starts something whose threads are to stay on `core`: they inherit the core of the one that starts them.
pub fn pinned<T: Send>(core: usize, start: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    thread::scope(|scope| {
        let start = || {
            cores::pin(core)?;
            start()
        };
        scope.spawn(start).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Our director on AF_XDP, alone on its core; it ends when this is dropped.
#[derive(Debug)]
pub struct Alone<'b> {
    bed: &'b Testbed,
    /// The director.
    pub director: Director,
    /// Whose time is its.
    pub watched: Watched,
    /// What isn't as it should be.
    pub note: Option<String>,
}

impl<'b> Alone<'b> {
    /// Starts it with the configuration that `text` writes for a control socket's name, and returns when it has the way to every server.
    pub fn start(bed: &'b Testbed, core: usize, text: impl FnOnce(&str) -> String + Send) -> Result<Self, Error> {
        let before = cpu::threads(std::process::id());
        let director = pinned(core, || Director::start_on(bed.director(), text))?;
        let mut alone = Alone { bed, director, watched: watched(core), note: None };
        // Frames reach an AF_XDP socket in NAPI, which a veth runs on the sender's core: it's work of the director's.
        match steering::poll_in_thread(bed.director().namespace(), ETH0, core) {
            Ok(ids) => alone.watched.kernel.extend(ids.into_iter().map(|id| (id, id))),
            Err(e) => {
                alone.note = Some(format!("its receive work ran on the senders' core and isn't counted: {e}"));
            }
        }
        let now = cpu::threads(std::process::id());
        alone.watched.process = now.into_iter().filter(|thread| !before.contains(thread)).collect();
        Ok(alone)
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        // What can't be taken away goes with the namespace.
        let _ = steering::poll_in_place(self.bed.director().namespace(), ETH0);
    }
}
