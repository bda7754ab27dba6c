//! Two pinned threads: two workers that do everything, or a port worker and a content worker.

use super::ends::{BESIDE_SERVICE, Ends};
use super::{Options, PlacementError, Rules};
use crate::connections;
use crate::linerate::VirtualClock;
use crate::network::content::rules;
use lcs_dataplane::DropReason;
use lcs_dataplane::cycles::{Tsc, tsc_hz};
use lcs_dataplane::flow::TcpState;
use lcs_dataplane::port::Port;
use lcs_dataplane::port::memory::MemoryPort;
use lcs_dataplane::worker::{Clock, Worker};
use lcs_hwconf::cores;
use lcs_pipelines::command::{Acknowledgement, Command, Report};
use lcs_pipelines::content::{Binding, SynPolicy};
use lcs_pipelines::extract::Limits;
use lcs_pipelines::layer4::Layer4;
use lcs_pipelines::placement::{ContentWorker, PortEnd, rings_of};
use lcs_pipelines::snapshot::{Scheduler, Snapshot};
use lcs_pipelines::stages::connection::Settings;
use lcs_pipelines::stages::schedule::SharedCounts;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

/// Seconds; a turn that takes longer was interrupted: the largest document takes a tenth of that.
const GAP: f64 = 2e-3;
/// Established flows of layer 4.
const FLOWS: usize = 1024;
/// Frames of layer 4 put in between two turns.
const A_TURN: usize = 32;
/// Of layer 4, a frame each so many nanoseconds of the workers' time, over all of them, where delays are measured.
const EVERY: f64 = 2_000.0;

/// How long the first answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How much is sent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// As much as is carried, with such a share of undecided requests.
    Share(f64),
    /// One connection a core, and frames of layer 4 at equal distances of the workers' own time.
    Few,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Done {
    /// Requests that were answered, by all; and the sum of each port worker's in its own time, requests/s.
    pub requests: u64,
    rate: f64,
    /// Cycles of the port workers' turns that did something; of the content worker's.
    busy: u64,
    pub content: u64,
    /// Requests that found the ring full.
    pub full: u64,
    pub dropped: u64,
    pub reasons: String,
    pub decisions: Vec<f64>,
    pub packets: Vec<f64>,
}

impl Done {
    /// Requests/s in the workers' own time: with a content worker, of the busier of the two.
    pub fn rate(&self) -> f64 {
        let content = self.requests as f64 * tsc_hz() as f64 / self.content.max(1) as f64;
        if self.content > 0 { self.rate.min(content) } else { self.rate }
    }

    /// Cycles of the port workers for a request and the frames beside it.
    pub fn cycles(&self) -> f64 {
        self.busy as f64 / self.requests.max(1) as f64
    }
}

/// A worker with a port, and the network around it.
struct Member {
    worker: Worker<MemoryPort, Layer4, Tsc>,
    ends: Ends,
    clock: VirtualClock,
    time: Clock,
    core: usize,
    dropped: u64,
    full: u64,
}

/// Two threads' worth.
pub(super) struct Arrangement {
    members: Vec<Member>,
    content: Option<(ContentWorker<Tsc>, usize)>,
    connections: usize,
    every: f64,
}

fn snapshot(rules: Rules) -> Result<Snapshot, PlacementError> {
    let mut s =
        connections::snapshot(connections::Scheme::Nat, false).map_err(|e| PlacementError::Rules(e.to_string()))?;
    let binding =
        Binding { syn: SynPolicy::State, limits: Limits { body: 1 << 20, ..Limits::default() }, ..Binding::default() };
    let groups = vec![("web".to_owned(), vec![0, 1, 2, 3])];
    let content = rules::compile(&rules.text(), &groups, Scheduler::Rr, binding).map_err(PlacementError::Rules)?;
    let Some(Some(service)) = s.services.first_mut() else { return Ok(s) };
    service.content = Some(Arc::new(content));
    let address = IpAddr::V4(BESIDE_SERVICE);
    let mut beside = service.clone();
    (beside.name, beside.address, beside.content, beside.servers) = ("beside".into(), address, None, vec![4]);
    s.services.push(Some(beside));
    if let Some(Some(server)) = s.servers.first().cloned() {
        s.servers.push(Some(lcs_pipelines::snapshot::Server { name: "beside".into(), service: 1, ..server }));
    }
    s.by_endpoint.insert((address, 80, 6), 1);
    s.own.insert(address);
    // Thousands of connections end within a measurement.
    for state in [TcpState::FinWait, TcpState::TimeWait, TcpState::CloseWait, TcpState::LastAck, TcpState::Close] {
        s.timeouts.set(state, Duration::from_secs(3));
    }
    Ok(s)
}

impl Member {
    fn new(
        o: &Options,
        rules: Rules,
        core: usize,
        snapshot: &Arc<Snapshot>,
        counts: Arc<SharedCounts>,
        ring: Option<PortEnd>,
    ) -> Self {
        let mut ends = Ends::new(rules, o.requests);
        let port = MemoryPort::new(1, (o.connections * (3 * ends.segments() + 8)).max(4096));
        let settings = Settings {
            flows: 1 << 17,
            fragments: 64,
            seed: 1,
            worker: 0,
            workers: 1,
            capabilities: port.capabilities(),
        };
        let time = Clock::start();
        let mut pipeline = Layer4::new(settings, counts, time.now());
        if let Some(ring) = ring {
            pipeline = pipeline.with_content_workers(ring);
        }
        let mut worker = Worker::new(port, pipeline, Tsc);
        worker.command(Command::Install(Arc::clone(snapshot)), time.now());
        for frame in ends.open_beside(FLOWS) {
            let _ = worker.port_mut().inject(0, &frame);
            worker.poll(time.now());
            worker.port_mut().take_sent(|_, _| {});
        }
        Member { worker, ends, clock: VirtualClock::new(GAP, FLOWS), time, core, dropped: 0, full: 0 }
    }

    /// Plays the network for some time.
    fn run(&mut self, time: Duration, pace: Pace, every: f64) -> Done {
        let started = Instant::now();
        let mut done = Done::default();
        let (mut credit, mut due) = (0.0, self.clock.cycles() as f64);
        let answered = self.ends.answered;
        self.ends.forget_times();
        let beside = if let Pace::Share(share) = pace { (1.0 - share) / share } else { 0.0 };
        let mut turns = 0u32;
        self.ends.decisions.clear();
        self.ends.packets.clear();
        // Where other programs have the core, a large document may take longer than that. The first answer may be to what was asked
        // before, and says nothing of delays.
        let enough = |ends: &Ends| match pace {
            Pace::Share(_) => ends.answered > answered,
            Pace::Few => !ends.decisions.is_empty() && !ends.packets.is_empty(),
        };
        let patience = |enough| if enough { time } else { time.max(PATIENCE) };
        while started.elapsed() < patience(enough(&self.ends)) {
            self.ends.open();
            let port = self.worker.port_mut();
            // Requests wait for the packets that belong beside those before them, so that the share is what was asked for.
            while credit < A_TURN as f64
                && let Some(next) = self.ends.wire.pop_front()
            {
                if !port.inject(0, &next.bytes) {
                    self.ends.wire.push_front(next);
                    break;
                }
                if let Some(client) = next.ends_request_of {
                    self.ends.asks(client);
                    credit += beside;
                }
            }
            for _ in 0..A_TURN {
                let at = match pace {
                    Pace::Share(_) if credit >= 1.0 => 0,
                    Pace::Few if due <= self.clock.cycles() as f64 => due as u64,
                    _ => break,
                };
                if !port.inject(0, self.ends.beside(at)) {
                    break;
                }
                credit -= 1.0;
                due += every;
            }
            turns += 1;
            let (worker, now, before) = (&mut self.worker, self.time.now(), self.clock.cycles());
            let did = self.clock.turn(|| {
                let n = worker.poll(now);
                // As the worker's own loop does.
                if n == 0 || turns.is_multiple_of(8) {
                    worker.between(now);
                }
                n
            });
            if did > 0 {
                done.busy += self.clock.cycles() - before;
            }
            let (ends, own) = (&mut self.ends, self.clock.cycles());
            self.worker.port_mut().take_sent(|_, b| ends.receives(b, own));
        }
        done.requests = self.ends.answered - answered;
        done.rate = done.requests as f64 * tsc_hz() as f64 / done.busy.max(1) as f64;
        done.decisions = std::mem::take(&mut self.ends.decisions);
        done.packets = std::mem::take(&mut self.ends.packets);
        self.count(&mut done);
        done
    }

    fn count(&mut self, done: &mut Done) {
        let c = self.worker.counters();
        let dropped = c.dropped_total();
        done.dropped = dropped - std::mem::replace(&mut self.dropped, dropped);
        if done.dropped > 0 {
            let named = DropReason::ALL.iter().filter(|r| c.dropped_for(**r) > 0);
            let named: Vec<String> = named.map(|r| format!("{} {}", r.name(), c.dropped_for(*r))).collect();
            done.reasons = named.join(", ");
        }
        if let Acknowledgement::Report(report) =
            self.worker.command(Command::Report(Box::<Report>::default()), self.time.now())
        {
            let full = report.handed.map_or(0, |h| h.full);
            done.full = full - std::mem::replace(&mut self.full, full);
        }
    }
}

impl Arrangement {
    /// A worker on each core that does everything.
    pub fn together(o: &Options, rules: Rules, on: [usize; 2]) -> Result<Self, PlacementError> {
        let snapshot = Arc::new(snapshot(rules)?);
        let member = |core| Member::new(o, rules, core, &snapshot, Arc::new(SharedCounts::new(1, 8)), None);
        let members = on.into_iter().map(member).collect();
        Ok(Arrangement { members, content: None, connections: o.connections, every: EVERY })
    }

    /// A port worker on the first core, a content worker on the second.
    pub fn split(o: &Options, rules: Rules, on: [usize; 2]) -> Result<Self, PlacementError> {
        let snapshot = Arc::new(snapshot(rules)?);
        let counts = Arc::new(SharedCounts::new(1, 8));
        let (ring, ends) = rings_of(1, 1, o.depth);
        let member = |ring| Member::new(o, rules, on[0], &snapshot, Arc::clone(&counts), Some(ring));
        let members = ring.into_iter().map(member).collect();
        let content = ends.into_iter().next().map(|ends| {
            let mut worker = ContentWorker::new(ends, Arc::clone(&counts), Tsc);
            worker.command(Command::Install(Arc::clone(&snapshot)));
            (worker, on[1])
        });
        Ok(Arrangement { members, content, connections: o.connections, every: EVERY })
    }

    /// All threads at once, for some time.
    pub fn run(&mut self, time: Duration, pace: Pace) -> Result<Done, PlacementError> {
        let ports = self.members.len();
        let at_once = match pace {
            Pace::Share(_) => self.connections / ports,
            Pace::Few => 2 / ports,
        };
        let every = self.every * ports as f64 * tsc_hz() as f64 / 1e9;
        let (stop, barrier) = (AtomicBool::new(false), Barrier::new(ports + usize::from(self.content.is_some())));
        let (members, content) = (&mut self.members, &mut self.content);
        let (done, decided) = thread::scope(|scope| {
            let (stop, barrier) = (&stop, &barrier);
            let decide = content.as_mut().map(|(worker, core)| {
                scope.spawn(move || {
                    let pinned = cores::pin(*core);
                    // Whoever failed must not leave the others waiting at the barrier.
                    barrier.wait();
                    pinned.map(|()| decide(worker, stop))
                })
            });
            let threads: Vec<_> = members
                .iter_mut()
                .map(|member| {
                    scope.spawn(move || {
                        let pinned = cores::pin(member.core);
                        barrier.wait();
                        member.ends.at_once = at_once;
                        pinned.map(|()| member.run(time, pace, every))
                    })
                })
                .collect();
            let join = |t: thread::ScopedJoinHandle<'_, Result<Done, lcs_hwconf::Error>>| {
                t.join().unwrap_or_else(|e| std::panic::resume_unwind(e))
            };
            let done: Vec<_> = threads.into_iter().map(join).collect();
            stop.store(true, Ordering::Relaxed);
            let decided = decide.map(|t| t.join().unwrap_or_else(|e| std::panic::resume_unwind(e)));
            (done, decided)
        });
        let mut sum = Done { content: decided.transpose()?.unwrap_or(0), ..Done::default() };
        for done in done {
            let done = done?;
            sum.requests += done.requests;
            sum.rate += done.rate;
            sum.busy += done.busy;
            sum.full += done.full;
            sum.dropped += done.dropped;
            sum.reasons += &done.reasons;
            sum.decisions.extend(done.decisions);
            sum.packets.extend(done.packets);
        }
        Ok(sum)
    }
}

/// A content worker's thread. Returns the cycles of its turns that did something.
fn decide(worker: &mut ContentWorker<Tsc>, stop: &AtomicBool) -> u64 {
    let mut clock = VirtualClock::new(GAP, FLOWS);
    let mut busy = 0;
    while !stop.load(Ordering::Relaxed) {
        let before = clock.cycles();
        if clock.turn(|| worker.poll()) > 0 {
            busy += clock.cycles() - before;
        } else {
            std::hint::spin_loop();
        }
    }
    busy
}
