//! The way to a kernel for ports that have none behind them: what is not ours goes to a TAP device, and what the kernel
//! sends there goes out of the port, so that a machine whose card DPDK has taken stays reachable.
//!
//! One thread an interface sits between the device and the workers, because every frame given to the kernel is a system
//! call in which the kernel runs its stack. A worker copies a frame into a slot and passes it on by a ring; it makes no
//! system call but for one, in [`crate::port::Port::flush`], where the thread sleeps. Everything is bounded: slots are
//! made once, a worker passes on no more than a rate, and reads back no more than what lies ready. What exceeds a bound
//! is dropped and counted ([`TapCounts`]), so whoever floods the director with frames for its kernel takes from a worker
//! a look at a clock and at the frame's addresses for each. Answers to what the kernel has begun itself (health checks), and
//! what its neighbours answer, have a rate and slots of their own, which no flood of anything else can take.

use crate::cycles::{tsc, tsc_hz};
use crate::headers::ethernet::{self, MacAddr};
use crate::port::neighbours::is_answer;
use crossbeam_channel::{Receiver, Sender, bounded};
use lcs_hwconf::cores;
use lcs_hwconf::tap::Tap;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::thread::JoinHandle;
use std::time::Duration;

/// Frames of one worker that may wait for the kernel, and frames of the kernel that may wait for the port.
const SLOTS: usize = 256;
/// Of a worker's, those that only answers to the kernel may have.
const RESERVED: usize = 32;
/// Conversations that the kernel has begun and that are remembered.
const BEGUN: usize = 1024;
/// Frames that the thread moves in one direction before it looks at the other.
const TURN: usize = 32;
/// Frames of the kernel that a worker sends between two of its batches at most.
const SENT_AT_ONCE: usize = 8;
/// Bytes that a frame has besides its MTU: Ethernet, two VLAN tags.
const LINK: usize = ethernet::HEADER + 8;
/// Longest sleep of the thread. Something wakes it earlier; this bounds what a wake-up that never comes would cost.
const SLEEP: Duration = Duration::from_millis(100);
/// The same while there is no room for what the kernel sends.
const NAP: Duration = Duration::from_millis(1);
/// Pause of the thread while something has come lately: for that long nobody needs to wake it.
const DOZE: Duration = Duration::from_micros(50);
/// Such pauses without a frame before it sleeps.
const DOZES: u32 = 20;

/// Frames a second at least that answers to what the kernel has begun may always take.
const OWN_LEAST: u32 = 100;

/// How much passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TapOptions {
    /// The link-layer address that frames for the kernel have; zero for any.
    pub mac: MacAddr,
    /// The device's MTU in bytes.
    pub mtu: u16,
    /// Frames that each worker passes to the kernel a second at most, and that the kernel sends at most for each worker; at
    /// least 1. A tenth of it, at least 100, is there besides for what the kernel has begun.
    pub rate: u32,
}

/// What has passed, and what has not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TapCounts {
    /// Frames that the kernel was given.
    pub to_kernel: u64,
    /// Frames of the kernel that were given to the port.
    pub from_kernel: u64,
    /// Frames for the kernel dropped because there were more of them than the rate allows.
    pub over_rate: u64,
    /// Frames for the kernel dropped because those before them had not been taken yet.
    pub behind: u64,
    /// Frames of either direction dropped because they are longer than the device's MTU was at the start.
    pub too_long: u64,
    /// Frames for the kernel that it refused: its device is down or gone.
    pub refused: u64,
    /// Frames of the kernel dropped because the port had no buffer or no room for them, or there were more than the rate
    /// allows.
    pub unsent: u64,
}

impl TapCounts {
    /// Frames dropped, of both directions.
    pub fn dropped(&self) -> u64 {
        self.over_rate + self.behind + self.too_long + self.refused + self.unsent
    }

    /// What has passed since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &TapCounts) -> TapCounts {
        TapCounts {
            to_kernel: self.to_kernel.saturating_sub(earlier.to_kernel),
            from_kernel: self.from_kernel.saturating_sub(earlier.from_kernel),
            over_rate: self.over_rate.saturating_sub(earlier.over_rate),
            behind: self.behind.saturating_sub(earlier.behind),
            too_long: self.too_long.saturating_sub(earlier.too_long),
            refused: self.refused.saturating_sub(earlier.refused),
            unsent: self.unsent.saturating_sub(earlier.unsent),
        }
    }

    /// The reasons for drops with their counts, in words.
    pub fn reasons(&self) -> [(&'static str, u64); 5] {
        [
            ("over the rate", self.over_rate),
            ("the kernel was behind", self.behind),
            ("longer than the MTU", self.too_long),
            ("the TAP device is down or gone", self.refused),
            ("no room in the port, or the kernel over the rate", self.unsent),
        ]
    }
}

/// A worker's own counts: nobody else writes them, so they need no read-modify-write, and stand on lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct WorkerCounts {
    over_rate: AtomicU64,
    behind: AtomicU64,
    too_long: AtomicU64,
    sent: AtomicU64,
    unsent: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

#[derive(Debug)]
struct Shared {
    workers: Vec<WorkerCounts>,
    to_kernel: AtomicU64,
    refused: AtomicU64,
    /// Frames of the kernel that were too long, and that were over the rate.
    cut: AtomicU64,
    excess: AtomicU64,
    /// Tags of the conversations that the kernel has begun, each where its own value puts it; the later one stays.
    begun: Vec<AtomicU64>,
    /// Keys the tags: nobody outside can know which conversations share a place.
    key: RandomState,
    /// The device can be read no more.
    gone: AtomicBool,
    /// The thread is asleep, or is about to be.
    asleep: AtomicBool,
    stop: AtomicBool,
    /// A byte written here wakes it.
    wake: UnixStream,
}

impl Shared {
    /// A conversation's tag, never zero.
    fn tag(&self, c: &Conversation<'_>) -> u64 {
        self.key.hash_one(c) | 1 << 63
    }

    fn place(&self, tag: u64) -> Option<&AtomicU64> {
        self.begun.get(tag as usize % BEGUN)
    }

    /// Remembers what the kernel begins by this frame.
    fn begin(&self, frame: &[u8]) {
        if let Some((conversation, true)) = conversation(frame, true) {
            let tag = self.tag(&conversation);
            if let Some(place) = self.place(tag) {
                place.store(tag, Ordering::Relaxed);
            }
        }
    }

    /// What a frame for the kernel answers: something that it has begun, or its question for a neighbour.
    fn answered(&self, frame: &[u8]) -> Option<Answers> {
        if is_answer(frame) {
            return Some(Answers::Neighbour);
        }
        let (conversation, _) = conversation(frame, false)?;
        let tag = self.tag(&conversation);
        let known = self.place(tag)?.load(Ordering::Relaxed) == tag;
        known.then_some(if conversation.protocol == 6 { Answers::Tcp } else { Answers::Udp })
    }

    /// Wakes the thread if it sleeps. The fence pairs with the one in [`Mover::sleep`]: either the thread sees what was
    /// put into its ring, or we see that it sleeps.
    fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::SeqCst) {
            // A full pipe has bytes enough in it to wake anyone.
            let _ = (&self.wake).write(&[1]);
        }
    }
}

/// What the kernel has asked for. Each has a rate of its own: somebody who has a UDP service of the kernel answer him takes
/// nothing from health checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    Tcp,
    Udp,
    Neighbour,
}

/// Who speaks with whom, in the same words for both directions.
#[derive(Debug, Hash, PartialEq, Eq)]
struct Conversation<'a> {
    protocol: u8,
    remote: &'a [u8],
    remote_port: &'a [u8],
    local_port: &'a [u8],
}

/// The conversation that a TCP or UDP frame of the kernel (`outwards`) or for it belongs to, and whether such a frame begins one:
/// a SYN, or any datagram. `None` for everything else: later fragments, IPv6 with extension headers.
fn conversation(frame: &[u8], outwards: bool) -> Option<(Conversation<'_>, bool)> {
    let packet = ethernet_payload(frame)?;
    let (protocol, source, destination, l4) = match packet {
        ([8, 0], ip) => {
            let fragment = u16::from_be_bytes([*ip.get(6)?, *ip.get(7)?]) & 0x1fff;
            let header = usize::from(*ip.first()? & 15) * 4;
            if fragment != 0 || header < 20 {
                return None;
            }
            (*ip.get(9)?, ip.get(12..16)?, ip.get(16..20)?, ip.get(header..)?)
        }
        ([0x86, 0xdd], ip) => (*ip.get(6)?, ip.get(8..24)?, ip.get(24..40)?, ip.get(40..)?),
        _ => return None,
    };
    let begins = match protocol {
        6 => l4.get(13)? & 0x12 == 2,
        17 => true,
        _ => return None,
    };
    let (from, to) = (l4.get(..2)?, l4.get(2..4)?);
    let (remote, remote_port, local_port) = if outwards { (destination, to, from) } else { (source, from, to) };
    Some((Conversation { protocol, remote, remote_port, local_port }, begins))
}

/// The EtherType behind up to two VLAN tags, and what follows it.
fn ethernet_payload(frame: &[u8]) -> Option<([u8; 2], &[u8])> {
    let mut rest = frame.get(12..)?;
    for _ in 0..3 {
        let (kind, behind) = rest.split_first_chunk::<2>()?;
        match kind {
            [0x81, 0] | [0x88, 0xa8] => rest = behind.get(2..)?,
            _ => return Some((*kind, behind)),
        }
    }
    None
}

/// Whether the kernel asks for a neighbour's link-layer address: an ARP request or a neighbour solicitation.
fn asks_for_neighbour(frame: &[u8]) -> bool {
    match ethernet_payload(frame) {
        Some(([8, 6], arp)) => arp.get(6..8) == Some(&[0, 1]),
        Some(([0x86, 0xdd], ip)) => ip.get(6) == Some(&58) && ip.get(40) == Some(&135),
        _ => false,
    }
}

/// A frame on its way. Its memory has the size of the longest frame and never grows.
#[derive(Debug)]
struct Slot {
    /// Whose it is.
    worker: usize,
    bytes: Vec<u8>,
}

/// A rate, kept by the time-stamp counter: a token bucket of a tenth of a second.
#[derive(Debug, Clone, Copy)]
struct Rate {
    /// Cycles that a frame costs.
    cost: u64,
    /// Cycles saved at most.
    most: u64,
    saved: u64,
    at: u64,
}

impl Rate {
    /// A full bucket at `now`, for `rate` frames in `hz` cycles.
    fn new(rate: u32, hz: u64, now: u64) -> Self {
        let cost = (hz / u64::from(rate.max(1))).max(1);
        let most = (hz / 10).max(cost);
        Rate { cost, most, saved: most, at: now }
    }

    fn take(&mut self, now: u64) -> bool {
        // A counter that goes back (another core's) is no gain, and no loss.
        let passed = now.wrapping_sub(self.at);
        if passed < u64::MAX / 2 {
            self.saved = self.saved.saturating_add(passed).min(self.most);
            self.at = now;
        }
        let enough = self.saved >= self.cost;
        if enough {
            self.saved -= self.cost;
        }
        enough
    }
}

/// A worker's end of the way to one interface's TAP device.
#[derive(Debug)]
pub struct TapEnd {
    worker: usize,
    mac: MacAddr,
    rate: Rate,
    /// For each of [`Answers`] when the rate is used up.
    own: [Rate; 3],
    spare: Receiver<Slot>,
    full: Sender<Slot>,
    /// The first worker's: what the kernel sends, and where its slots go back.
    sent: Option<(Receiver<Slot>, Sender<Slot>)>,
    shared: Arc<Shared>,
    /// Something was put into the ring since the thread was last woken.
    pushed: bool,
}

impl TapEnd {
    /// Whether a frame could be the kernel's at all: it is for the interface's own address or a group's, or for a
    /// virtual router's (RFC 9568 §7.3), which the kernel may be. A switch that floods, or a device in promiscuous mode, brings
    /// others.
    pub fn is_for_kernel(&self, frame: &[u8]) -> bool {
        let Some(to) = frame.first_chunk::<6>().map(|to| MacAddr(*to)) else { return false };
        to.is_group() || self.mac.is_zero() || to == self.mac || matches!(to.0, [0, 0, 0x5e, 0, 1 | 2, _])
    }

    /// Passes a copy of a frame on to the kernel; `false` when it was dropped, and counted.
    pub fn push(&mut self, frame: &[u8]) -> bool {
        self.push_at(frame, tsc())
    }

    fn push_at(&mut self, frame: &[u8], now: u64) -> bool {
        let Some(counts) = self.shared.workers.get(self.worker) else { return false };
        if !self.rate.take(now) {
            let own = self.shared.answered(frame).and_then(|answer| self.own.get_mut(answer as usize));
            if !own.is_some_and(|own| own.take(now)) {
                count(&counts.over_rate);
                return false;
            }
        } else if self.spare.len() <= RESERVED && self.shared.answered(frame).is_none() {
            count(&counts.behind);
            return false;
        }
        let Ok(mut slot) = self.spare.try_recv() else {
            count(&counts.behind);
            return false;
        };
        slot.bytes.clear();
        let fits = frame.len() <= slot.bytes.capacity();
        if fits {
            slot.bytes.extend_from_slice(frame);
        } else {
            // It goes round empty, and comes back.
            count(&counts.too_long);
        }
        // There is a place for every slot; an end that is gone takes the slot with it.
        let passed = self.full.try_send(slot).is_ok();
        self.pushed = true;
        passed && fits
    }

    /// Whether the kernel has sent something. Cheap enough for every burst.
    #[inline]
    pub fn has_frames(&self) -> bool {
        self.sent.as_ref().is_some_and(|(frames, _)| !frames.is_empty())
    }

    /// Takes a few frames of the kernel; `send` says whether there was room for each.
    pub fn take(&mut self, mut send: impl FnMut(&[u8]) -> bool) {
        let (Some((frames, back)), Some(counts)) = (&self.sent, self.shared.workers.get(self.worker)) else { return };
        for slot in frames.try_iter().take(SENT_AT_ONCE) {
            count(if send(&slot.bytes) { &counts.sent } else { &counts.unsent });
            let _ = back.try_send(slot);
        }
    }

    /// Wakes the thread where it sleeps and there is something for it.
    #[inline]
    pub fn flush(&mut self) {
        if self.pushed {
            self.pushed = false;
            self.shared.wake();
        }
    }
}

/// What has passed a TAP device; for reports. It may outlive the device.
#[derive(Debug, Clone)]
pub struct TapWatch {
    name: String,
    shared: Arc<Shared>,
}

impl TapWatch {
    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the device is gone: nothing passes it any more until the director is started again.
    pub fn gone(&self) -> bool {
        self.shared.gone.load(Ordering::Relaxed)
    }

    /// What has passed since the start.
    pub fn counts(&self) -> TapCounts {
        let sum = |of: fn(&WorkerCounts) -> &AtomicU64| -> u64 {
            self.shared.workers.iter().map(|w| of(w).load(Ordering::Relaxed)).sum()
        };
        TapCounts {
            to_kernel: self.shared.to_kernel.load(Ordering::Relaxed),
            from_kernel: sum(|w| &w.sent),
            over_rate: sum(|w| &w.over_rate),
            behind: sum(|w| &w.behind),
            too_long: sum(|w| &w.too_long) + self.shared.cut.load(Ordering::Relaxed),
            refused: self.shared.refused.load(Ordering::Relaxed),
            unsent: sum(|w| &w.unsent) + self.shared.excess.load(Ordering::Relaxed),
        }
    }
}

/// The thread between a TAP device and the workers. Dropping this ends it, and closes the device.
pub struct TapThread {
    watch: TapWatch,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for TapThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TapThread").field("watch", &self.watch).finish_non_exhaustive()
    }
}

impl TapThread {
    /// Starts it, and gives each of `workers` workers its end; the first one's is where the kernel's frames come out.
    /// `avoid` are the workers' cores: where there is another, the thread runs there.
    ///
    /// # Errors
    /// When the operating system has no thread or no socket for it.
    pub fn start(
        device: Tap,
        options: &TapOptions,
        workers: usize,
        avoid: &[usize],
    ) -> io::Result<(Self, Vec<TapEnd>)> {
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            workers: (0..workers).map(|_| WorkerCounts::default()).collect(),
            to_kernel: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            cut: AtomicU64::new(0),
            excess: AtomicU64::new(0),
            begun: (0..BEGUN).map(|_| AtomicU64::new(0)).collect(),
            key: RandomState::new(),
            gone: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            wake,
        });
        let size = usize::from(options.mtu) + LINK;
        let slots = |worker, size| {
            let (put, take) = bounded(SLOTS);
            for _ in 0..SLOTS {
                let _ = put.try_send(Slot { worker, bytes: Vec::with_capacity(size) });
            }
            (put, take)
        };
        let (full, filled) = bounded(SLOTS * workers.max(1));
        // One byte more than a frame may have: what fills it was cut.
        let (back, spare) = slots(0, size + 1);
        let (say, said) = bounded(SLOTS);
        let (hz, now) = (tsc_hz(), tsc());
        let own = Rate::new((options.rate / 10).max(OWN_LEAST), hz, now);
        let mut backs = vec![];
        let mut sent = Some((said, back));
        let ends = (0..workers).map(|worker| {
            let (put, take) = slots(worker, size);
            backs.push(put);
            TapEnd {
                worker,
                mac: options.mac,
                rate: Rate::new(options.rate, hz, now),
                own: [own; 3],
                spare: take,
                full: full.clone(),
                sent: sent.take(),
                shared: Arc::clone(&shared),
                pushed: false,
            }
        });
        let ends = ends.collect();
        let watch = TapWatch { name: device.name().to_owned(), shared: Arc::clone(&shared) };
        // As much as all workers pass in: answers to these find room.
        let rate = Rate::new(options.rate.saturating_mul(u32::try_from(workers).unwrap_or(u32::MAX)), hz, now);
        let mover = Mover { device, shared, filled, backs, spare, say, rate, own, woken, size, held: None };
        let core = quiet_core(avoid);
        let thread = std::thread::Builder::new().name(format!("tap-{}", watch.name)).spawn(move || {
            if let Some(core) = core {
                // Elsewhere it would be no less right.
                let _ = cores::pin(core);
            }
            mover.run();
        })?;
        Ok((TapThread { watch, thread: Some(thread) }, ends))
    }

    /// What has passed.
    pub fn watch(&self) -> &TapWatch {
        &self.watch
    }
}

impl Drop for TapThread {
    fn drop(&mut self) {
        self.watch.shared.stop.store(true, Ordering::SeqCst);
        self.watch.shared.wake();
        if let Some(thread) = self.thread.take() {
            // A thread that has failed has closed the device as well.
            let _ = thread.join();
        }
    }
}

/// A core that this process may use and no worker has.
fn quiet_core(avoid: &[usize]) -> Option<usize> {
    if avoid.is_empty() {
        return None;
    }
    let available = cores::available().ok()?;
    available.into_iter().map(|core| core.id).find(|id| !avoid.contains(id))
}

/// What the thread has.
struct Mover {
    device: Tap,
    shared: Arc<Shared>,
    /// Frames of the workers, and where each one's slots go back.
    filled: Receiver<Slot>,
    backs: Vec<Sender<Slot>>,
    /// Slots for frames of the kernel, and where they go.
    spare: Receiver<Slot>,
    say: Sender<Slot>,
    /// How many of these.
    rate: Rate,
    /// For what the kernel begins, and its questions for neighbours, when the rate is used up.
    own: Rate,
    woken: UnixStream,
    /// Bytes of the longest frame.
    size: usize,
    /// A slot that had nothing to carry.
    held: Option<Slot>,
}

/// Why no more was read from the device.
#[derive(PartialEq)]
enum Pause {
    /// There is nothing.
    Empty,
    /// There may be more.
    None,
    /// There is no room for it yet, or the device is gone.
    Full,
}

impl Mover {
    fn run(mut self) {
        let mut idle = 0;
        while !self.shared.stop.load(Ordering::SeqCst) {
            let moved = self.feed_kernel();
            let (heard, pause) = self.hear_kernel();
            idle = if moved + heard > 0 { 0 } else { u32::saturating_add(idle, 1) };
            if moved == TURN || pause == Pause::None {
                continue;
            }
            // A steady trickle would have a worker wake us for every frame: while it lasts, we wake by ourselves.
            if idle <= DOZES {
                std::thread::sleep(DOZE);
            } else {
                self.sleep(pause == Pause::Empty);
            }
        }
    }

    fn feed_kernel(&mut self) -> usize {
        let mut moved = 0;
        for slot in self.filled.try_iter().take(TURN) {
            if !slot.bytes.is_empty() {
                let outcome = self.device.send(&slot.bytes);
                count(if outcome.is_ok() { &self.shared.to_kernel } else { &self.shared.refused });
            }
            if let Some(back) = self.backs.get(slot.worker) {
                // A worker that is gone needs no slots.
                let _ = back.try_send(slot);
            }
            moved += 1;
        }
        moved
    }

    /// Frames that were read, and why no more.
    fn hear_kernel(&mut self) -> (usize, Pause) {
        for heard in 0..TURN {
            if self.shared.gone.load(Ordering::Relaxed) {
                return (heard, Pause::Full);
            }
            let Some(mut slot) = self.held.take().or_else(|| self.spare.try_recv().ok()) else {
                return (heard, Pause::Full);
            };
            slot.bytes.resize(self.size + 1, 0);
            let read = self.device.receive(&mut slot.bytes);
            match read {
                Ok(Some(len)) if len > self.size => {
                    count(&self.shared.cut);
                    self.held = Some(slot);
                }
                Ok(Some(len)) => {
                    slot.bytes.truncate(len);
                    if self.may_leave(&slot.bytes, tsc()) {
                        self.shared.begin(&slot.bytes);
                        // There is a place for every slot.
                        let _ = self.say.try_send(slot);
                    } else {
                        count(&self.shared.excess);
                        self.held = Some(slot);
                    }
                }
                Ok(None) => {
                    self.held = Some(slot);
                    return (heard, Pause::Empty);
                }
                Err(_) => {
                    self.held = Some(slot);
                    self.shared.gone.store(true, Ordering::Relaxed);
                }
            }
        }
        (TURN, Pause::None)
    }

    /// Takes a frame of the kernel from the rate; what begins a connection, and questions for neighbours, from their own where it
    /// is used up, so that no flood of answers keeps health checks in.
    fn may_leave(&mut self, frame: &[u8], now: u64) -> bool {
        let urgent = || match conversation(frame, true) {
            Some((conversation, begins)) => begins && conversation.protocol == 6,
            None => asks_for_neighbour(frame),
        };
        self.rate.take(now) || urgent() && self.own.take(now)
    }

    /// Sleeps until a worker has something, or (where `frames` can be taken) the kernel.
    fn sleep(&mut self, frames: bool) {
        self.shared.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if self.filled.is_empty() && !self.shared.stop.load(Ordering::SeqCst) {
            let gone = self.shared.gone.load(Ordering::Relaxed);
            let timeout = if frames || gone { SLEEP } else { NAP };
            if self.device.wait(frames, &self.woken, timeout).is_err() {
                std::thread::sleep(NAP);
            }
        }
        self.shared.asleep.store(false, Ordering::SeqCst);
        let mut bytes = [0; 64];
        while matches!(self.woken.read(&mut bytes), Ok(n) if n == bytes.len()) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_lets_a_tenth_of_a_second_through_at_once_and_then_its_share() {
        let mut rate = Rate::new(100, 1_000_000, 0);
        assert_eq!((0..100).filter(|_| rate.take(0)).count(), 10);
        assert!(!rate.take(9_999) && rate.take(10_000) && !rate.take(10_000));
        // A counter that went back changes nothing, and a long time fills the bucket once.
        assert!(!rate.take(5_000));
        assert_eq!((0..100).filter(|_| rate.take(1 << 40)).count(), 10);
        // Less than one in a tenth of a second is one at a time.
        let mut slow = Rate::new(1, 1_000_000, 0);
        assert!(slow.take(0) && !slow.take(999_999) && slow.take(1_000_000));
    }

    #[test]
    fn the_thread_is_kept_off_the_workers_cores_where_there_is_another() {
        let here: Vec<usize> = cores::available().unwrap().iter().map(|c| c.id).collect();
        assert_eq!(quiet_core(&here), None);
        assert_eq!(quiet_core(&[]), None);
        if let [first, second, ..] = here[..] {
            assert_eq!(quiet_core(&[first]), Some(second));
        }
    }
}
