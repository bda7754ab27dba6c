//! Workers made from the configuration: as turns of one loop, or as pinned threads.

use super::{Ring, Rings};
use crate::config::Configuration;
use crate::model::Environment;
use lcs_dataplane::cycles::Meter;
use lcs_dataplane::headers::MacAddr;
use lcs_dataplane::port::Port;
use lcs_dataplane::ring::{Handover, WorkerEnd, rings};
use lcs_dataplane::worker::{Clock, Idle, Nanos, Worker};
use lcs_pipelines::command::{Acknowledgement, Command, Event};
use lcs_pipelines::layer4::Layer4;
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
    idle: Idle,
}

/// Plans for the configuration's workers, and the director's ends of their rings. `seed` keys the hashes; it must
/// not be guessable where packets come from strangers.
pub fn plan(configuration: &Configuration, seed: u64) -> (Vec<Plan>, Rings) {
    let count = configuration.workers.count();
    let counts = Arc::new(SharedCounts::new(count, SLOTS));
    let mut lanes = if count > 1 { Handover::mesh(count).into_iter().map(Some).collect() } else { vec![None] };
    let mut directors: Vec<Ring> = Vec::with_capacity(count);
    let plans = (0..count)
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
                        neighbour_answers: false,
                    },
                },
                counts: Arc::clone(&counts),
                ring,
                handover: lanes[number].take(),
                idle: configuration.workers.idle,
            }
        })
        .collect();
    (plans, Rings::new(directors))
}

impl Plan {
    /// The worker, whose memory is taken here: by the thread that will use it, so that it lies near its core.
    pub fn build<P: Port, M: Meter>(self, port: P, meter: M, now: Nanos) -> Worker<P, Layer4, M> {
        let settings = Settings { capabilities: port.capabilities(), ..self.settings };
        let pipeline = Layer4::new(settings, self.counts, now);
        let worker = Worker::new(port, pipeline, meter).with_rings(self.ring).with_idle(self.idle);
        match self.handover {
            Some(handover) => worker.with_handover(handover),
            None => worker,
        }
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
    }
}

/// Workers on threads of their own.
#[derive(Debug)]
pub struct Threads<W> {
    stop: Arc<AtomicBool>,
    handles: Vec<JoinHandle<W>>,
}

impl<P: Port + Send + 'static, M: Meter + Clone + Send + 'static> Threads<Worker<P, Layer4, M>> {
    /// Starts a thread for each plan and port, pinned to the core of the same number in `cores` where there is one.
    /// Returns when all of them run.
    ///
    /// # Errors
    /// In words, when a thread cannot be started or pinned; those that were started have ended then.
    pub fn start(plans: Vec<Plan>, ports: Vec<P>, meter: &M, cores: &[usize]) -> Result<Self, String> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Threads { stop: Arc::clone(&stop), handles: Vec::with_capacity(plans.len()) };
        let (ready, started) = mpsc::channel::<Result<(), String>>();
        for (plan, port) in plans.into_iter().zip(ports) {
            let (stop, meter, ready) = (Arc::clone(&stop), meter.clone(), ready.clone());
            let core = cores.get(plan.number).copied();
            let name = format!("lcs-worker-{}", plan.number);
            let body = move || {
                let pinned = core.map_or(Ok(()), |c| lcs_hwconf::cores::pin(c).map_err(|e| e.to_string()));
                if pinned.is_err() {
                    stop.store(true, Ordering::Relaxed);
                }
                let worker = plan.build(port, meter, Clock::start().now());
                let _ = ready.send(pinned);
                drop(ready); // whoever waits for it must not wait for the worker's end
                worker.run(&stop)
            };
            let spawned = std::thread::Builder::new().name(name).spawn(body);
            match spawned {
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
