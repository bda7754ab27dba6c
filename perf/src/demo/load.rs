//! A closed-loop load of real connections: so many at a time, each with its requests, counted by phase.
//!
//! A phase is what its maker says it is (as configured, after a weight was changed, …). A connection counts for the phase
//! in which it was *begun*: the scheduler's decision of that moment is what is looked at.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::http::{Connection, Failure};

/// What is kept of the texts of failures: the first ones.
const FAILURES: usize = 8;
/// A client's thread needs a chunk of a body twice.
const STACK: usize = 256 << 10;
/// How often a wait looks whether it's to be given up.
const LOOK: Duration = Duration::from_millis(20);

/// What to load with.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// The service.
    pub to: SocketAddr,
    /// Connections at a time.
    pub parallel: usize,
    /// Requests of a connection, one after the other.
    pub requests: usize,
    /// Sizes of the bodies in bytes, in turn.
    pub sizes: Vec<usize>,
    /// Connections of a phase at most; then the load waits for the next phase.
    pub most: u64,
    /// How long an answer may keep silent.
    pub patience: Duration,
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests sent, or meant to be sent on a connection that failed before.
    pub requests: u64,
    /// Requests that were not answered rightly.
    pub failed: u64,
    /// Connections that were ended.
    pub connections: u64,
    /// Answered requests by server.
    pub per_server: BTreeMap<String, u64>,
    /// Connections by server.
    pub connections_per_server: BTreeMap<String, u64>,
    /// Clients' addresses as the servers see them, and whether the port is the client's own too.
    pub seen_as: BTreeMap<(IpAddr, bool), u64>,
    /// Bytes of bodies, all compared.
    pub bytes: u64,
    /// The first failures.
    pub failures: Vec<String>,
}

impl Tally {
    /// Adds another.
    pub fn add(&mut self, other: &Tally) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.connections += other.connections;
        self.bytes += other.bytes;
        for (sum, part) in [
            (&mut self.per_server, &other.per_server),
            (&mut self.connections_per_server, &other.connections_per_server),
        ] {
            for (server, count) in part {
                *sum.entry(server.clone()).or_default() += count;
            }
        }
        for (seen, count) in &other.seen_as {
            *self.seen_as.entry(*seen).or_default() += count;
        }
        let room = FAILURES.saturating_sub(self.failures.len());
        self.failures.extend(other.failures.iter().take(room).cloned());
    }

    /// Counts a request that was answered.
    pub fn answered(&mut self, server: &str, bytes: usize) {
        self.requests += 1;
        self.bytes += bytes as u64;
        *self.per_server.entry(server.into()).or_default() += 1;
    }

    /// Counts `requests` that failed together.
    pub fn failed(&mut self, requests: u64, failure: &Failure) {
        self.requests += requests;
        self.failed += requests;
        if self.failures.len() < FAILURES {
            self.failures.push(failure.to_string());
        }
    }
}

/// A running load; it ends when this is dropped.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    plan: LoadPlan,
    stop: AtomicBool,
    phase: AtomicUsize,
    begun: AtomicU64,
    tallies: Mutex<Vec<Tally>>,
    changed: Condvar,
}

impl Shared {
    fn tallies(&self) -> MutexGuard<'_, Vec<Tally>> {
        // Each change is whole before the lock is given back.
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load {
    /// Starts it in the calling thread's namespace, in phase 0.
    pub fn start(plan: LoadPlan) -> io::Result<Self> {
        let parallel = plan.parallel;
        let mut load = Load {
            shared: Arc::new(Shared {
                plan,
                stop: AtomicBool::new(false),
                phase: AtomicUsize::new(0),
                begun: AtomicU64::new(0),
                tallies: Mutex::new(vec![Tally::default()]),
                changed: Condvar::new(),
            }),
            threads: Vec::with_capacity(parallel),
        };
        for number in 0..parallel {
            let shared = Arc::clone(&load.shared);
            let thread = thread::Builder::new().name(format!("client {number}")).stack_size(STACK);
            load.threads.push(thread.spawn(move || shared.run())?);
        }
        Ok(load)
    }

    /// Connections that are begun from now on count for a new phase.
    pub fn next_phase(&self) {
        let mut tallies = self.shared.tallies();
        tallies.push(Tally::default());
        self.shared.begun.store(0, Ordering::SeqCst);
        self.shared.phase.store(tallies.len() - 1, Ordering::SeqCst);
        self.shared.changed.notify_all();
    }

    /// Waits until this phase has ended `connections`. `false` when `patience` passed first, or `give_up` says so.
    pub fn wait(&self, connections: u64, patience: Duration, give_up: impl Fn() -> bool) -> bool {
        let deadline = Instant::now() + patience;
        let mut tallies = self.shared.tallies();
        loop {
            if tallies.last().is_some_and(|tally| tally.connections >= connections) {
                return true;
            }
            if Instant::now() > deadline || give_up() {
                return false;
            }
            tallies = self
                .shared
                .changed
                .wait_timeout(tallies, LOOK)
                .map_or_else(|e| e.into_inner().0, |(tallies, _)| tallies);
        }
    }

    /// Ends the load, once every connection that was begun is through, and gives what was counted by phase.
    pub fn stop(mut self) -> Vec<Tally> {
        self.end();
        std::mem::take(&mut *self.shared.tallies())
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A panic there was printed by its thread, and shows in what was not counted.
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn run(&self) {
        while !self.stop.load(Ordering::SeqCst) {
            let number = self.begun.fetch_add(1, Ordering::SeqCst);
            let phase = self.phase.load(Ordering::SeqCst);
            if number >= self.plan.most {
                // Enough for this phase.
                let tallies = self.tallies();
                drop(self.changed.wait_timeout(tallies, LOOK));
                continue;
            }
            let tally = self.connection(phase, number);
            let mut tallies = self.tallies();
            if let Some(sum) = tallies.get_mut(phase) {
                sum.add(&tally);
            }
            drop(tallies);
            self.changed.notify_all();
        }
    }

    /// One connection from its beginning to its end.
    fn connection(&self, phase: usize, number: u64) -> Tally {
        let LoadPlan { to, requests, ref sizes, patience, .. } = self.plan;
        let mut tally = Tally { connections: 1, ..Tally::default() };
        let mut connection = match Connection::open(to, patience) {
            Ok(connection) => connection,
            Err(failure) => {
                tally.failed(requests as u64, &failure);
                return tally;
            }
        };
        for request in 0..requests {
            let size = sizes.get((number as usize + request) % sizes.len().max(1)).copied().unwrap_or_default();
            let path = format!("/{phase}/{number}/{request}/{size}");
            // Every other connection is closed by the server, the rest by the client.
            let close = number.is_multiple_of(2) && request + 1 == requests;
            match connection.get(&path, close) {
                Ok(answer) => {
                    if request == 0 {
                        *tally.connections_per_server.entry(answer.server.clone()).or_default() += 1;
                        let own_port = answer.peer.port() == connection.local().port();
                        *tally.seen_as.entry((answer.peer.ip(), own_port)).or_default() += 1;
                    }
                    tally.answered(&answer.server, answer.size);
                }
                Err(failure) => {
                    tally.failed((requests - request) as u64, &failure);
                    break;
                }
            }
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::http::Server;

    #[test]
    fn connections_count_for_the_phase_they_were_begun_in_and_failures_are_kept() {
        let server = Server::start("s1", "127.0.0.1:0".parse().unwrap()).unwrap();
        let plan = LoadPlan {
            to: server.address(),
            parallel: 3,
            requests: 4,
            sizes: vec![0, 10, 20_000],
            most: 20,
            patience: Duration::from_secs(5),
        };
        let load = Load::start(plan).unwrap();
        let patience = Duration::from_secs(20);
        assert!(load.wait(20, patience, || false));
        // No more than the plan's most, so that waiting for one more is in vain.
        assert!(!load.wait(21, Duration::from_millis(100), || false));
        load.next_phase();
        assert!(load.wait(20, patience, || false));
        drop(server);
        load.next_phase();
        assert!(load.wait(1, patience, || false));
        let [first, second, last] = &load.stop()[..] else { panic!("three phases") };
        for tally in [first, second] {
            assert_eq!((tally.connections, tally.requests, tally.failed), (20, 80, 0), "{tally:?}");
            assert_eq!(tally.per_server["s1"], 80);
            assert_eq!(tally.seen_as[&("127.0.0.1".parse().unwrap(), true)], 20);
        }
        assert!(last.failed > 0 && last.failed == last.requests, "{last:?}");
        assert!(last.failures[0].starts_with("connect to 127.0.0.1"), "{last:?}");
    }
}
