//! Workers made from the configuration: as turns of one loop, or as pinned threads.

use super::{Ring, Rings};
use crate::config::{Configuration, ContentWorkers};
use crate::model::Environment;
use lcs_dataplane::cycles::Meter;
use lcs_dataplane::headers::MacAddr;
use lcs_dataplane::port::Port;
use lcs_dataplane::ring::{Handover, WorkerEnd, rings};
use lcs_dataplane::worker::{Clock, Idle, Nanos, Worker};
use lcs_pipelines::command::{Acknowledgement, Command, Event};
use lcs_pipelines::layer4::Layer4;
use lcs_pipelines::placement::{self, ContentEnd, ContentWorker, PortEnd};
use lcs_pipelines::snapshot::{Interface, SLOTS};
use lcs_pipelines::stages::connection::Settings;
use lcs_pipelines::stages::schedule::SharedCounts;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

/// Everything that one worker needs but its port.
#[derive(Debug)]
pub struct Plan {
    number: usize,
    settings: Settings,
    counts: Arc<SharedCounts>,
    ring: WorkerEnd<Command, Acknowledgement, Event>,
    handover: Option<Handover>,
    content: Option<PortEnd>,
    idle: Idle,
}

/// Everything that one content worker needs.
#[derive(Debug)]
pub struct ContentPlan {
    number: usize,
    core: Option<usize>,
    ends: ContentEnd,
    counts: Arc<SharedCounts>,
    ring: WorkerEnd<Command, Acknowledgement, Event>,
    idle: Idle,
}

/// Plans for all threads that take a part in the packets' work.
#[derive(Debug)]
pub struct Plans {
    /// Those that poll the ports.
    pub ports: Vec<Plan>,
    /// Those that decide requests; none where the port workers do it.
    pub content: Vec<ContentPlan>,
    /// The director's ends of their rings.
    pub rings: Rings,
}

/// Plans for the configuration's workers in placement `run-to-completion`, whatever it says, and the director's ends of
/// their rings: for one loop that turns them all. `seed` keys the hashes; it must not be guessable where packets come from
/// strangers.
pub fn plan(configuration: &Configuration, seed: u64) -> (Vec<Plan>, Rings) {
    let plans = plans_in(configuration, None, seed);
    (plans.ports, plans.rings)
}

/// Plans for the configuration's workers, content workers included. `seed` as for [`plan`].
pub fn plans(configuration: &Configuration, seed: u64) -> Plans {
    plans_in(configuration, configuration.workers.content.as_ref(), seed)
}

fn plans_in(configuration: &Configuration, content: Option<&ContentWorkers>, seed: u64) -> Plans {
    let count = configuration.workers.count();
    let (mut outlets, ends) = match content {
        Some(content) => {
            let (outlets, ends) = placement::rings(count, content.count);
            (outlets.into_iter().map(Some).collect(), ends)
        }
        None => ((0..count).map(|_| None).collect::<Vec<Option<PortEnd>>>(), Vec::new()),
    };
    let counts = Arc::new(SharedCounts::new(count, SLOTS));
    let mut lanes = if count > 1 { Handover::mesh(count).into_iter().map(Some).collect() } else { vec![None] };
    let mut directors: Vec<Ring> = Vec::with_capacity(count);
    let ports = (0..count)
        .map(|number| {
            let (director, ring) = rings();
            directors.push(director);
            Plan {
                number,
                settings: Settings {
                    flows: configuration.workers.flows,
                    fragments: configuration.workers.fragments,
                    seed,
                    worker: number as u8,
                    workers: count as u8,
                    // Those of the port, when there is one.
                    capabilities: lcs_dataplane::port::Capabilities {
                        interfaces: 1,
                        verifies_ip_checksum: false,
                        partial_checksums: false,
                        kernel_answers: false,
                        exception_path: false,
                        rss_table: 0,
                        neighbour_answers: false,
                    },
                },
                counts: Arc::clone(&counts),
                ring,
                handover: lanes[number].take(),
                content: outlets[number].take(),
                idle: configuration.workers.idle,
            }
        })
        .collect();
    let content: Vec<ContentPlan> = ends
        .into_iter()
        .enumerate()
        .map(|(number, ends)| {
            let (director, ring) = rings();
            directors.push(director);
            let core = content.and_then(|c| c.cores.get(number)).copied();
            let idle = content.map_or(Idle::Adaptive, |c| c.idle);
            ContentPlan { number, core, ends, counts: Arc::clone(&counts), ring, idle }
        })
        .collect();
    let rings = Rings::new(directors).with_content_workers(content.len());
    Plans { ports, content, rings }
}

impl Plan {
    /// The worker, whose memory is taken here: by the thread that will use it, so that it lies near its core.
    pub fn build<P: Port, M: Meter>(self, port: P, meter: M, now: Nanos) -> Worker<P, Layer4, M> {
        let settings = Settings { capabilities: port.capabilities(), ..self.settings };
        let mut pipeline = Layer4::new(settings, self.counts, now);
        if let Some(ring) = self.content {
            pipeline = pipeline.with_content_workers(ring);
        }
        let worker = Worker::new(port, pipeline, meter).with_rings(self.ring).with_idle(self.idle);
        match self.handover {
            Some(handover) => worker.with_handover(handover),
            None => worker,
        }
    }
}

impl ContentPlan {
    /// The content worker.
    pub fn build<M: Meter>(self, meter: M) -> ContentWorker<M> {
        ContentWorker::new(self.ends, self.counts, meter).with_rings(self.ring).with_idle(self.idle)
    }
}

/// What a director over memory ports is, as seen from their network: interfaces with made-up link-layer addresses
/// (`02:6c:63:73:00:01` and so on) and an MTU of 1,500 bytes.
pub fn memory_environment(configuration: &Configuration) -> Environment {
    let interface = |(i, name): (usize, &String)| Interface {
        name: name.clone(),
        mac: MacAddr([0x02, 0x6c, 0x63, 0x73, 0, i as u8 + 1]),
        mtu: 1500,
    };
    Environment {
        interfaces: configuration.port.interfaces.iter().enumerate().map(interface).collect(),
        given: configuration.director.addresses.clone(),
        addresses: configuration.director.addresses.clone(),
        rss_table: 0,
    }
}

/// Workers on threads of their own.
#[derive(Debug)]
pub struct Threads<W> {
    stop: Arc<AtomicBool>,
    handles: Vec<JoinHandle<W>>,
}

/// What a thread does: says that it is ready, then works until it is told to stop.
type Body<W> = Box<dyn FnOnce(&mut dyn FnMut(), &AtomicBool) -> W + Send>;

impl<P: Port + Send + 'static, M: Meter + Clone + Send + 'static> Threads<Worker<P, Layer4, M>> {
    /// Starts a thread for each plan and port, pinned to the core of the same number in `cores` where there is one.
    /// Returns when all of them run.
    ///
    /// # Errors
    /// In words, when a thread cannot be started or pinned; those that were started have ended then.
    pub fn start(plans: Vec<Plan>, ports: Vec<P>, meter: &M, cores: &[usize]) -> Result<Self, String> {
        let bodies = plans.into_iter().zip(ports).map(|(plan, port)| {
            let (number, meter) = (plan.number, meter.clone());
            let body: Body<Worker<P, Layer4, M>> = Box::new(move |ready, stop| {
                let worker = plan.build(port, meter, Clock::start().now());
                ready();
                worker.run(stop)
            });
            (format!("lcs-worker-{number}"), cores.get(number).copied(), body)
        });
        Threads::spawn(bodies.collect())
    }
}

impl<M: Meter + Clone + Send + 'static> Threads<ContentWorker<M>> {
    /// Starts a thread for each content worker, pinned as its plan says. Returns when all of them run.
    ///
    /// # Errors
    /// As [`Threads::start`].
    pub fn start_content(plans: Vec<ContentPlan>, meter: &M) -> Result<Self, String> {
        let bodies = plans.into_iter().map(|plan| {
            let (number, core, meter) = (plan.number, plan.core, meter.clone());
            let body: Body<ContentWorker<M>> = Box::new(move |ready, stop| {
                let worker = plan.build(meter);
                ready();
                worker.run(stop)
            });
            (format!("lcs-content-{number}"), core, body)
        });
        Threads::spawn(bodies.collect())
    }
}

impl<W: Send + 'static> Threads<W> {
    fn spawn(bodies: Vec<(String, Option<usize>, Body<W>)>) -> Result<Self, String> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Threads { stop: Arc::clone(&stop), handles: Vec::with_capacity(bodies.len()) };
        let (ready, started) = mpsc::channel::<Result<(), String>>();
        for (name, core, body) in bodies {
            let (stop, ready) = (Arc::clone(&stop), ready.clone());
            let thread = move || {
                let pinned = core.map_or(Ok(()), |c| lcs_hwconf::cores::pin(c).map_err(|e| e.to_string()));
                if pinned.is_err() {
                    stop.store(true, Ordering::Relaxed);
                }
                // Whoever waits for it must not wait for the worker's end.
                let mut say = Some((ready, pinned));
                body(&mut || drop(say.take().map(|(ready, pinned)| ready.send(pinned))), &stop)
            };
            match std::thread::Builder::new().name(name).spawn(thread) {
                Ok(handle) => threads.handles.push(handle),
                Err(e) => {
                    threads.stop();
                    return Err(format!("a worker's thread cannot be started: {e}"));
                }
            }
        }
        drop(ready);
        let expected = threads.handles.len();
        let mut seen = 0;
        for result in started {
            seen += usize::from(result.is_ok());
            if let Err(e) = result {
                threads.stop();
                return Err(e);
            }
        }
        if seen < expected {
            threads.stop();
            return Err("a worker ended before it began; is there memory enough for [workers] flows?".to_owned());
        }
        Ok(threads)
    }
}

impl<W> Threads<W> {
    /// Ends the workers and gives them back, for a last look at their counters; those that failed are left out.
    pub fn stop(&mut self) -> Vec<W> {
        self.stop.store(true, Ordering::Relaxed);
        self.handles.drain(..).filter_map(|h| h.join().ok()).collect()
    }
}

impl<W> Drop for Threads<W> {
    fn drop(&mut self) {
        self.stop();
    }
}
