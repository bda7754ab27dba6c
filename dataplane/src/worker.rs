//! The worker: one core's loop of receive, process, transmit, run to completion.
//!
//! The loop itself has no policy and no clock of its own: [`Worker::poll`] is one turn at a given time, which is
//! what tests and the simulator call; [`Worker::run`] turns it on a thread with the real clock until told to stop.

use crate::batch::{BURST, Batch};
use crate::cycles::{Meter, Sampler, StageCost, Stopwatch, tsc, tsc_hz};
use crate::frame::Frame;
use crate::port::Port;
use crate::port::losses::Losses;
use crate::ring::{Handover, WorkerEnd};
use crate::verdict::{DropReason, Verdict};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Nanoseconds since an arbitrary start, never going backwards.
pub type Nanos = u64;

/// A pipeline: a fixed sequence of stages, run to completion over a batch.
pub trait Pipeline {
    /// What the control thread may ask.
    type Command: Send;
    /// What is answered; it carries back whatever memory the command replaced.
    type Acknowledgement: Send;
    /// What the pipeline says of its own accord.
    type Event: Send;

    /// Decides on every frame of the batch, and charges its stages on `watch`.
    /// `port` is for stages that need buffers of their own.
    fn process<P: Port, M: Meter>(&mut self, port: &mut P, batch: &mut Batch, now: Nanos, watch: &mut Stopwatch<'_, M>);

    /// Carries out a command, between two batches. Bounded: a long one must be asked for in parts.
    fn command(&mut self, command: Self::Command, counters: &Counters, now: Nanos) -> Self::Acknowledgement;

    /// Whether the answer to this command tells what the port has lost: the counters are brought up to date for it first.
    fn tells_losses(command: &Self::Command) -> bool {
        let _ = command;
        false
    }

    /// Serves timers, a bounded number a call. Returns whether more are due at once.
    fn housekeeping<P: Port>(&mut self, port: &mut P, now: Nanos) -> bool;

    /// Frames that the pipeline has held ([`Verdict::Hold`]) and that are to be processed again: puts them in place, with the
    /// interfaces that they came in on, and returns how many there are. Asked between two batches while any are held.
    fn released(&mut self, frames: &mut [Frame; BURST], interfaces: &mut [u8; BURST], now: Nanos) -> usize {
        let _ = (frames, interfaces, now);
        0
    }

    /// The next event to tell the control thread, if any.
    fn event(&mut self) -> Option<Self::Event>;

    /// Goes on with what other threads have given back, a bounded number a call, and charges it on `watch`. Returns how many
    /// pieces there were.
    #[inline(always)]
    fn resume<P: Port, M: Meter>(&mut self, _port: &mut P, _now: Nanos, _watch: &mut Stopwatch<'_, M>) -> usize {
        0
    }

    /// Whether other threads have work of this pipeline in hand, so that its worker should not fall asleep over the port.
    #[inline(always)]
    fn awaits(&self) -> bool {
        false
    }
}

/// What a worker counts besides its stages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Frames received from the port.
    pub received: u64,
    /// Bytes of these, without FCS.
    pub received_bytes: u64,
    /// Frames given to the port for transmission.
    pub forwarded: u64,
    /// Bytes of these.
    pub forwarded_bytes: u64,
    /// Frames that were for the director itself.
    pub consumed: u64,
    /// Frames handed to the kernel.
    pub to_kernel: u64,
    /// Frames handed over to other workers.
    pub handed_over: u64,
    /// Frames that other workers handed over to this one.
    pub taken_over: u64,
    /// Frames that the pipeline holds now, and that have no other verdict yet.
    #[serde(default)]
    pub held: u64,
    /// Frames dropped, by [`DropReason`].
    pub dropped: Vec<u64>,
    /// Frames that the port lost by itself, by interface: no worker has received these. As of the last report.
    #[serde(default)]
    pub losses: Vec<Losses>,
    /// Turns of the loop with at least one frame, or piece of work that other threads gave back.
    pub busy_turns: u64,
    /// Turns of the loop with none.
    pub idle_turns: u64,
    /// Cycles of the busy turns, extrapolated where turns are sampled (see [`crate::cycles`]).
    pub busy_cycles: u64,
    /// Times the worker slept.
    pub sleeps: u64,
    /// Events dropped because the control thread did not take them.
    pub events_lost: u64,
    /// Receiving: bursts, frames, cycles.
    pub receive: StageCost,
    /// Transmitting.
    pub transmit: StageCost,
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            received: 0,
            received_bytes: 0,
            forwarded: 0,
            forwarded_bytes: 0,
            consumed: 0,
            to_kernel: 0,
            handed_over: 0,
            taken_over: 0,
            held: 0,
            dropped: vec![0; DropReason::COUNT],
            losses: Vec::new(),
            busy_turns: 0,
            idle_turns: 0,
            busy_cycles: 0,
            sleeps: 0,
            events_lost: 0,
            receive: StageCost::default(),
            transmit: StageCost::default(),
        }
    }
}

impl Counters {
    /// Frames dropped for `reason`.
    pub fn dropped_for(&self, reason: DropReason) -> u64 {
        self.dropped.get(reason as usize).copied().unwrap_or(0)
    }

    /// Frames dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }
}

/// What a worker does when there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Idle {
    /// Never sleeps: the lowest latency, one whole core.
    Poll,
    /// Spins for some turns, then sleeps on the port until a frame comes (or 5 ms pass, for timers and commands).
    Adaptive,
}

/// Empty turns before an adaptive worker sleeps: some 6 µs, about what sleeping and waking up take. One that spins for longer never sleeps
/// where frames come singly every 25 µs, and a port has no occasion to let them gather.
const SPIN_TURNS: u32 = 32;
/// The same when frames come many at a time: the next ones gather while it sleeps, and looking for each costs more.
const SPIN_TURNS_BUSY: u32 = 4;
/// Frames at a time that are many.
const MANY: usize = 4;
/// Longest sleep: bounds how late a timer or a command is served.
pub const SLEEP: Duration = Duration::from_millis(5);
/// Commands served between two batches, so that many of them delay packets by little each.
pub const COMMANDS_A_TURN: usize = 4;

/// One worker: a port, a pipeline, and their counters.
#[derive(Debug)]
pub struct Worker<P, L: Pipeline, M> {
    port: P,
    pipeline: L,
    meter: M,
    batch: Box<Batch>,
    counters: Counters,
    rings: Option<WorkerEnd<L::Command, L::Acknowledgement, L::Event>>,
    handover: Option<Handover>,
    idle: Idle,
    sampler: Sampler,
}

impl<P: Port, L: Pipeline, M: Meter> Worker<P, L, M> {
    /// A worker without rings or hand-over, as tests and benches use it.
    pub fn new(port: P, pipeline: L, meter: M) -> Self {
        let losses = vec![Losses::default(); port.capabilities().interfaces.into()];
        Worker {
            port,
            pipeline,
            meter,
            batch: Box::default(),
            counters: Counters { losses, ..Counters::default() },
            rings: None,
            handover: None,
            idle: Idle::Poll,
            sampler: Sampler::default(),
        }
    }

    /// The same worker with rings to the control thread.
    #[must_use]
    pub fn with_rings(mut self, rings: WorkerEnd<L::Command, L::Acknowledgement, L::Event>) -> Self {
        self.rings = Some(rings);
        self
    }

    /// The same worker with hand-over lanes to its siblings.
    #[must_use]
    pub fn with_handover(mut self, handover: Handover) -> Self {
        self.handover = Some(handover);
        self
    }

    /// The same worker with this idle policy.
    #[must_use]
    pub fn with_idle(mut self, idle: Idle) -> Self {
        self.idle = idle;
        self
    }

    /// The port.
    pub fn port(&self) -> &P {
        &self.port
    }

    /// The port, for the harness that plays the wire.
    pub fn port_mut(&mut self) -> &mut P {
        &mut self.port
    }

    /// The pipeline.
    pub fn pipeline(&self) -> &L {
        &self.pipeline
    }

    /// The pipeline, mutable.
    pub fn pipeline_mut(&mut self) -> &mut L {
        &mut self.pipeline
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Carries out a command at once, as a harness without rings does.
    pub fn command(&mut self, command: L::Command, now: Nanos) -> L::Acknowledgement {
        let Worker { port, pipeline, counters, .. } = self;
        carry_out(port, pipeline, counters, command, now)
    }

    /// One turn: receive a burst, process it, transmit; then what siblings handed over, and what other threads give back.
    /// Returns how many frames and pieces there were.
    #[inline]
    pub fn poll(&mut self, now: Nanos) -> usize {
        let Worker { port, pipeline, meter, batch, counters, handover, sampler, .. } = self;
        let mut watch = sampler.start(meter);
        let begin = watch.reading();
        let n = port.receive(&mut batch.frames, &mut batch.rx);
        sampler.seen(n);
        let mut total = n;
        if n > 0 {
            watch.lap(&mut counters.receive, n);
            counters.received += n as u64;
            counters.received_bytes += batch.frames[..n].iter().map(|frame| frame.len() as u64).sum::<u64>();
            batch.start(n, false);
            serve(port, pipeline, batch, counters, handover.as_ref(), now, &mut watch);
        }
        if let Some(lanes) = handover {
            let n = lanes.receive(port, &mut batch.frames, &mut batch.rx);
            let lost = lanes.take_too_long();
            if lost > 0 {
                counters.taken_over += lost;
                counters.dropped[DropReason::NoBuffer as usize] += lost;
            }
            if n > 0 {
                watch.lap(&mut counters.receive, n);
                counters.taken_over += n as u64;
                batch.start(n, true);
                serve(port, pipeline, batch, counters, handover.as_ref(), now, &mut watch);
                total += n;
            }
        }
        let resumed = pipeline.resume(port, now, &mut watch);
        if resumed > 0 {
            port.flush();
            watch.lap(&mut counters.transmit, 0);
            total += resumed;
        }
        if total > 0 {
            counters.busy_turns += 1;
            counters.busy_cycles += watch.reading().wrapping_sub(begin).wrapping_mul(watch.weight());
        } else {
            counters.idle_turns += 1;
        }
        total
    }

    /// Timers, commands and events: what is done between two batches. Returns `false` when the control thread is gone.
    pub fn between(&mut self, now: Nanos) -> bool {
        self.pipeline.housekeeping(&mut self.port, now);
        // Sends what housekeeping made, and lets a port go on with what its device had no room for before.
        self.port.flush();
        let there = self.obey(now);
        while self.counters.held > 0 && self.again(now) == BURST {}
        there
    }

    /// Processes frames that were held. Returns how many.
    #[inline(never)]
    fn again(&mut self, now: Nanos) -> usize {
        let Worker { port, pipeline, meter, batch, counters, handover, sampler, .. } = self;
        let n = pipeline.released(&mut batch.frames, &mut batch.rx, now).min(BURST);
        if n > 0 {
            counters.held = counters.held.saturating_sub(n as u64);
            batch.start(n, false);
            batch.again = true;
            serve(port, pipeline, batch, counters, handover.as_ref(), now, &mut sampler.start(meter));
        }
        n
    }

    /// Commands and events. Returns `false` when the control thread is gone.
    fn obey(&mut self, now: Nanos) -> bool {
        let Some(rings) = &self.rings else { return true };
        let (port, pipeline, counters) = (&self.port, &mut self.pipeline, &mut self.counters);
        if !rings.serve(COMMANDS_A_TURN, |command| carry_out(port, pipeline, counters, command, now)) {
            return false;
        }
        while let Some(event) = self.pipeline.event() {
            if rings.events.try_send(event).is_err() {
                self.counters.events_lost += 1;
            }
        }
        true
    }

    /// Turns until `stop` is set or the control thread is gone. Gives the worker back, for a last look at its counters.
    pub fn run(mut self, stop: &AtomicBool) -> Self {
        let clock = Clock::start();
        let mut empty = 0u32;
        let mut turns = 0u32;
        // The largest of the last batches, halved with each.
        let mut at_a_time = 0;
        while !stop.load(Ordering::Relaxed) {
            let now = clock.now();
            let frames = self.poll(now);
            if frames > 0 {
                at_a_time = frames.max(at_a_time / 2);
                empty = 0;
                turns += 1;
                // Under load the rings and timers are looked at every few batches: still within microseconds.
                if turns < 8 {
                    continue;
                }
            }
            turns = 0;
            if !self.between(now) {
                break;
            }
            empty = empty.saturating_add(1);
            let spin = if at_a_time >= MANY { SPIN_TURNS_BUSY } else { SPIN_TURNS };
            if self.idle == Idle::Adaptive && empty > spin && !self.pipeline.awaits() {
                self.sleep();
            }
        }
        self
    }

    /// Sleeps until there is something to do on the port, in the lanes of its siblings, or by the clock.
    fn sleep(&mut self) {
        let lanes = self.handover.as_ref();
        if lanes.is_none_or(Handover::sleeps) {
            self.counters.sleeps += 1;
            self.port.wait(SLEEP, lanes.and_then(Handover::bell));
        }
        if let Some(lanes) = lanes {
            lanes.awake();
        }
    }
}

/// Has the pipeline carry out a command, with counters that are up to date for it.
fn carry_out<P: Port, L: Pipeline>(
    port: &P,
    pipeline: &mut L,
    counters: &mut Counters,
    command: L::Command,
    now: Nanos,
) -> L::Acknowledgement {
    if L::tells_losses(&command) {
        counters.losses.fill(Losses::default());
        port.losses(&mut counters.losses);
    }
    pipeline.command(command, counters, now)
}

/// Takes a batch that has been started through the pipeline and to its end.
#[inline(always)]
fn serve<P: Port, L: Pipeline, M: Meter>(
    port: &mut P,
    pipeline: &mut L,
    batch: &mut Batch,
    counters: &mut Counters,
    handover: Option<&Handover>,
    now: Nanos,
    watch: &mut Stopwatch<'_, M>,
) {
    pipeline.process(port, batch, now, watch);
    transmit(port, batch, counters, handover);
    watch.lap(&mut counters.transmit, batch.len);
}

/// Ends every frame of a batch as its verdict says, and counts it.
#[inline]
fn transmit<P: Port>(port: &mut P, batch: &mut Batch, counters: &mut Counters, handover: Option<&Handover>) {
    let n = batch.len.min(BURST);
    let (mut bytes, mut unsent_bytes, mut unsent) = (0, 0, 0);
    for i in 0..n {
        let len = batch.frames[i].len();
        bytes += len;
        let frame = std::mem::take(&mut batch.frames[i]);
        if batch.verdict[i] == Verdict::Forward {
            let Err(frame) = port.transmit(batch.tx[i], frame) else { continue };
            refused(port, frame, counters);
        } else {
            end(port, batch, i, frame, counters, handover);
        }
        unsent += 1;
        unsent_bytes += len;
    }
    port.flush();
    if let Some(handover) = handover {
        handover.wake();
    }
    counters.forwarded += (n - unsent) as u64;
    counters.forwarded_bytes += (bytes - unsent_bytes) as u64;
}

#[cold]
#[inline(never)]
fn refused<P: Port>(port: &mut P, frame: Frame, counters: &mut Counters) {
    counters.dropped[DropReason::TransmitFull as usize] += 1;
    port.release(frame);
}

/// Ends a frame that is not forwarded.
#[inline(never)]
fn end<P: Port>(
    port: &mut P,
    batch: &Batch,
    i: usize,
    frame: Frame,
    counters: &mut Counters,
    handover: Option<&Handover>,
) {
    match batch.verdict[i] {
        Verdict::Drop(reason) => counters.dropped[reason as usize] += 1,
        Verdict::Consume | Verdict::Forward => counters.consumed += 1,
        Verdict::Hold => {
            counters.held += 1;
            return;
        }
        Verdict::Kernel => match port.to_kernel(batch.rx[i], frame) {
            Ok(()) => {
                counters.to_kernel += 1;
                return;
            }
            Err(frame) => {
                let reason = no_kernel(port, batch.rx[i], frame.bytes());
                counters.dropped[reason as usize] += 1;
                port.release(frame);
                return;
            }
        },
        Verdict::HandOver => {
            let to = usize::from(batch.tx[i]);
            if handover.is_some_and(|h| h.send(to, batch.rx[i], frame.bytes())) {
                counters.handed_over += 1;
            } else {
                counters.dropped[DropReason::HandoverFull as usize] += 1;
            }
        }
    }
    port.release(frame);
}

/// Why a port did not take a frame for the kernel.
fn no_kernel<P: Port>(port: &P, interface: u8, frame: &[u8]) -> DropReason {
    if port.leads_to_kernel(interface, frame) { DropReason::KernelBusy } else { DropReason::NotForUs }
}

/// Nanoseconds from the time-stamp counter: one reading and one multiplication, no system call.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: u64,
    /// Nanoseconds per cycle, with 32 fractional bits.
    scale: u64,
}

impl Clock {
    /// A clock that begins at 1 s, so that no time is 0. The first call of a process measures the counter for 20 ms.
    pub fn start() -> Self {
        Clock { start: tsc(), scale: ((1_000_000_000u128 << 32) / u128::from(tsc_hz().max(1))) as u64 }
    }

    /// Now.
    #[inline]
    pub fn now(&self) -> Nanos {
        let cycles = tsc().wrapping_sub(self.start);
        1_000_000_000 + ((u128::from(cycles) * u128::from(self.scale)) >> 32) as u64
    }
}
