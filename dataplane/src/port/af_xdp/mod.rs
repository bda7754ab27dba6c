//! The AF_XDP port: frames straight from a Linux driver, with no driver to bind and the kernel's stack beside it.
//!
//! One XDP program per interface ([`XdpFilter`]; its source is `program.rs`) redirects what is ours into the sockets of the workers;
//! everything else goes up the kernel's stack as if we were not there. A worker owns one pool of buffers (UMEM),
//! shared by its sockets: one per interface, all on the worker's queue number. So a frame received on one
//! interface is transmitted on another without a copy of ours, and nothing is shared between workers.
//!
//! ```text
//!            XdpFilter (process)                     AfXdpPort (worker, queue q)
//!   services, replies, locals, counters     pool ─┬─ socket on interface 0, queue q: fill, rx, tx, completion
//!            │ one program per interface          └─ socket on interface 1, queue q: fill, rx, tx, completion
//!        Attached ×n ── XSKMAP[q] ────────────────▶
//! ```
//!
//! # Why bindings of our own
//!
//! Weighed in November 2026 against `xdp` 0.8.0 and `xsk-rs` 0.11.0. `xdp` needs no C, but its sockets can't share a UMEM between
//! interfaces (its list of features says so, and `bind` always passes no shared descriptor), which two-arm forwarding without
//! a copy stands on; and loading and attaching a program is left to another crate. `xsk-rs` shares a UMEM, but
//! through libxdp, libbpf, libelf and zlib, built from C with bindgen (so clang), against the promise that
//! building needs no other package; its ring operations are `unsafe` for the caller; and libxdp loads
//! a program of its own unless it is told not to. What is left to write is what is in this folder: four rings, a dozen socket options, seven
//! commands of one system call. It is kernel ABI and doesn't move.
//!
//! # What it needs
//!
//! Linux 5.10 (UMEM shared between interfaces; `bpf_link` for XDP is of 5.9), `CAP_NET_ADMIN`, `CAP_NET_RAW`, `CAP_BPF` and
//! `CAP_IPC_LOCK`, or root. Frames longer than a buffer (TSO or GRO aggregates, which a generic-mode program may
//! be handed) are dropped by the kernel and counted: LRO, and on veth peers TSO, must be off.
//!
//! Of this folder the packet path touches `umem.rs`, `ring.rs` and the wake-up calls of `socket.rs`; the rest is set-up, control and,
//! in `exception.rs`, the bounded way back to the kernel, which works in the network namespace of the thread that flushes.

mod asm;
pub mod balancer;
mod bpf;
mod coalesce;
mod error;
mod exception;
mod filter;
mod program;
mod ring;
mod socket;
mod umem;

use core::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

pub use error::{AfXdpError, Refusal};
pub use filter::{
    Attached, FILTER_KEYS_MAX, FILTER_LOCALS_MAX, FilterChange, FilterCounts, FilterKey, FilterVerdict, ModePreference,
    QUEUES_MAX, XdpFilter, XdpMode,
};
pub use socket::SocketStatistics;

use super::losses::{LossReason, Losses};
use super::{Capabilities, PoolCounts, Port};
use crate::batch::BURST;
use crate::frame::Frame;
use coalesce::Coalescing;
use exception::Exception;
use lcs_hwconf::links::Interface;
use lcs_hwconf::napi::{Deferral, Napi};
use socket::{CopyFlag, RingSizes, Socket};
use umem::{RECEIVE_HEADROOM, Umem};

/// Fewest and most buffers per interface.
const FRAMES: core::ops::RangeInclusive<u32> = 256..=1 << 17;

/// Buffers given to the kernel at a time, so that its index is written once a burst and not once a frame.
const REFILL: u32 = BURST as u32;

/// Calls of `flush` for which a driver that could not be woken up (its interface is down) is left alone.
const KICK_PAUSE: u16 = 1024;

/// Ethernet header and one 802.1Q tag, which the MTU does not count.
const LINK_HEADERS: u32 = 14 + 4;

/// An Ethernet header: the least that can be transmitted.
const FRAME_MIN: usize = 14;

/// Longest time that frames gather; a peer's shortest retransmission time-out should be far beyond it (RFC 6298: 1 s, Linux 200 ms).
const COALESCE_MAX: Duration = Duration::from_millis(10);

/// Frames that a driver keeps at least until it is asked for them: a veth's 256, whatever `ethtool -g` says of others.
const DRIVER_RING: u64 = 256;
/// In place of a bell's descriptor: the kernel passes over it (poll(2)).
const NO_BELL: libc::c_int = -1;

/// Longest sleep while frames wait to be sent or handed to the kernel: nothing says when they can go.
const BACKLOG_WAIT: Duration = Duration::from_millis(1);

/// Whether frames may be, or must be, moved between driver and buffer without a copy by the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CopyPreference {
    /// Without a copy where all the port's drivers can, otherwise with one.
    #[default]
    Auto,
    /// With a copy.
    Copy,
    /// Without a copy, or not at all.
    ZeroCopy,
}

/// How a port is built.
#[derive(Clone, Copy, Debug)]
pub struct PortOptions {
    /// Buffers per interface, a power of two from 256 to 131,072. Half of them wait for frames to be
    /// received, a quarter may be in transmission, a quarter is left for the pipeline to hold. So an
    /// interface that is down keeps its own share from circulating, and no more.
    pub frames: u32,
    /// Copying.
    pub copy: CopyPreference,
    /// For how long frames may gather while the worker sleeps under load; zero: never, each wakes it. At most 10 ms.
    pub coalesce: Duration,
    /// Entries of the cards' tables of receive queues, where these name the owners' queues ([`crate::spread`]); otherwise 0.
    pub rss_table: u16,
}

impl Default for PortOptions {
    fn default() -> Self {
        PortOptions { frames: 4096, copy: CopyPreference::Auto, coalesce: Duration::from_micros(200), rss_table: 0 }
    }
}

/// What was chosen for one interface of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceReport {
    /// Its name.
    pub name: String,
    /// Where the XDP program runs.
    pub mode: XdpMode,
    /// Why the driver refused it, when it was asked and did.
    pub native_refusal: Option<Refusal>,
    /// Whether the driver moves frames without a copy.
    pub zero_copy: bool,
    /// The interface was removed while in use; this port receives and transmits nothing on it any more,
    /// even when one of the same name is made. The port must be opened again.
    pub lost: bool,
    /// For how long frames may gather under load; none where that is off, or the kernel or the driver can't be told.
    pub coalesce: Option<Duration>,
    /// Whether a frame that was redirected and turns out not to be ours can be given back to the kernel. In generic mode, and by kernels
    /// before 5.18, it is dropped.
    pub gives_back: bool,
}

impl fmt::Display for InterfaceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let copy = if self.zero_copy { "zero-copy" } else { "copy" };
        write!(f, "{}: {} XDP, {copy} mode", self.name, self.mode)?;
        if let Some(refusal) = &self.native_refusal {
            write!(f, " ({refusal})")?;
        }
        if let Some(time) = self.coalesce {
            write!(f, "; frames gather for {} µs under load", time.as_micros())?;
        }
        if self.lost { f.write_str("; removed") } else { Ok(()) }
    }
}

/// One interface of a port: its socket and the number of chunks that the kernel has through it.
struct Link {
    socket: Socket,
    receiving: u32,
    receive_target: u32,
    transmitting: u32,
    transmit_limit: u32,
    ifindex: u32,
    /// Whether frames can be handed to the kernel as received here.
    exception: bool,
    partial_checksums: bool,
    /// Calls of `flush` before the driver is asked again to look at the fill ring.
    pause: u16,
    /// Where it can be told how long frames gather.
    napi: Option<Napi>,
    report: InterfaceReport,
}

impl Link {
    fn refill(&mut self, umem: &mut Umem) {
        if self.receiving + REFILL <= self.receive_target {
            while self.receiving < self.receive_target
                && let Some(address) = umem.take()
            {
                // The ring has as many places as the target, so that there is always one.
                if !self.socket.fill.push(address) {
                    umem.put(address);
                    break;
                }
                self.receiving += 1;
            }
            self.socket.fill.publish();
        }
    }

    /// Has the driver go on where it asks for that: with an empty fill ring it stops looking at it.
    #[inline]
    fn kick(&mut self) {
        self.socket.kick_transmit();
        if self.pause > 0 {
            self.pause -= 1;
        } else if !self.socket.kick_fill() {
            self.pause = KICK_PAUSE;
        }
    }

    /// Takes transmitted chunks back.
    #[inline]
    fn reclaim(&mut self, umem: &mut Umem) {
        if self.transmitting == 0 {
            return;
        }
        while let Some(address) = self.socket.completion.pop() {
            umem.put(address);
            self.transmitting -= 1;
        }
        self.socket.completion.release();
    }
}

/// One worker's port: one queue on each of its interfaces, over one pool of buffers.
pub struct AfXdpPort {
    // Declared before the pool: the kernel lets go of the memory when the sockets close.
    links: Vec<Link>,
    /// Each socket, and last the bell of whoever waits.
    poll: Vec<libc::pollfd>,
    /// The interface that `receive` asks first, in turn, so that none starves the others.
    turn: usize,
    exception: Option<Exception>,
    umem: Umem,
    coalescing: Coalescing,
    opened: Instant,
    rss_table: u16,
}

/// Drivers of virtual machines that have a PCI address, and yet hand over frames of a neighbour on the same
/// host whose checksum nobody has completed.
const PARAVIRTUAL: [&str; 3] = ["virtio_net", "vmxnet3", "hv_netvsc"];

/// Whether frames may come in with the transport checksum left to an offload. Not from a wire, that is from the driver of a real
/// device; but GRO, which a generic-mode program comes after, leaves such checksums too.
fn partial_checksums(attached: &Attached) -> bool {
    let wire = |interface: &Interface| {
        interface.driver.as_ref().is_some_and(|driver| {
            // A PCI address, as in 0000:3b:00.0.
            driver.bus.split(':').count() == 3 && !PARAVIRTUAL.contains(&driver.name.as_str())
        })
    };
    attached.mode() == XdpMode::Generic || !wire(attached.interface())
}

impl AfXdpPort {
    /// Opens queue `queue` of each interface; within the port they are numbered in the order given.
    ///
    /// The calling thread must be in the interfaces' network namespace. The port may then move to another thread.
    ///
    /// # Errors
    /// When the options are out of range, an MTU does not fit a buffer, the queue does not exist or is
    /// taken, or the process may not: the error says which and what to do.
    pub fn open(interfaces: &[&Attached], queue: u32, options: &PortOptions) -> Result<Self, AfXdpError> {
        if interfaces.is_empty() || interfaces.len() > u8::MAX.into() {
            return Err(AfXdpError::Options(format!(
                "a port has 1 to 255 interfaces, and {} are given: name those that clients and servers are on",
                interfaces.len()
            )));
        }
        if !options.frames.is_power_of_two() || !FRAMES.contains(&options.frames) {
            return Err(AfXdpError::Options(format!(
                "{} frames per interface: take a power of two from {} to {}",
                options.frames,
                FRAMES.start(),
                FRAMES.end()
            )));
        }
        if queue >= QUEUES_MAX {
            return Err(AfXdpError::Options(format!(
                "queue {queue}: queues 0 to {} can have a worker",
                QUEUES_MAX - 1
            )));
        }
        let chunk_size = chunk_size(interfaces)?;
        let generic = interfaces.iter().any(|attached| attached.mode() == XdpMode::Generic);
        let copy = match options.copy {
            // Only a program in the driver can hand frames over without a copy.
            CopyPreference::Auto if generic => CopyFlag::Copy,
            CopyPreference::Auto => CopyFlag::Either,
            CopyPreference::Copy => CopyFlag::Copy,
            CopyPreference::ZeroCopy => CopyFlag::ZeroCopy,
        };
        let frames = options.frames;
        let (umem, sockets) = match Self::sockets(interfaces, queue, frames, chunk_size, copy) {
            // The first driver moves frames without a copy and another one can't: all share one memory, so all copy.
            Err((error, true)) if copy == CopyFlag::Either => {
                Self::sockets(interfaces, queue, frames, chunk_size, CopyFlag::Copy).map_err(|_| error)?
            }
            other => other.map_err(|(error, _)| error)?,
        };

        let poll = sockets
            .iter()
            .map(|socket| socket.fd().as_raw_fd())
            .chain([NO_BELL])
            .map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 })
            .collect();
        // Where it can't be had, frames for the kernel are dropped and counted: no reason not to start.
        let exception = Exception::new(queue, chunk_size).ok();
        let can_inject = |attached: &Attached| {
            attached.mode() == XdpMode::Native
                && exception.as_ref().is_some_and(|exception| exception.works_on(attached.interface().link.index))
        };
        let links = sockets.into_iter().zip(interfaces).map(|(socket, attached)| {
            let index = attached.interface().link.index;
            let napi = (!options.coalesce.is_zero()).then(|| Napi::find(index, queue).ok()).flatten();
            let gives_back = can_inject(attached);
            Link {
                receiving: 0,
                receive_target: frames / 2,
                transmitting: 0,
                transmit_limit: frames / 4,
                pause: 0,
                ifindex: attached.interface().link.index,
                exception: gives_back,
                partial_checksums: partial_checksums(attached),
                report: InterfaceReport {
                    coalesce: napi.is_some().then_some(options.coalesce),
                    name: attached.interface().link.name.clone(),
                    mode: attached.mode(),
                    native_refusal: attached.native_refusal().cloned(),
                    zero_copy: socket.zero_copy(),
                    lost: false,
                    gives_back,
                },
                napi,
                socket,
            }
        });
        let links = links.collect();
        let mut port = AfXdpPort {
            links,
            poll,
            turn: 0,
            exception,
            umem,
            coalescing: Coalescing::new(options.coalesce.min(COALESCE_MAX), u64::from(frames / 2).min(DRIVER_RING)),
            opened: Instant::now(),
            rss_table: options.rss_table,
        };
        for (link, attached) in port.links.iter_mut().zip(interfaces) {
            link.refill(&mut port.umem);
            link.kick();
            // Last, when there are buffers: from here on frames arrive.
            attached.register(queue, link.socket.fd())?;
        }
        Ok(port)
    }

    /// The pool and the sockets; with an error, whether sockets before the failed one are without a copy.
    fn sockets(
        interfaces: &[&Attached],
        queue: u32,
        frames: u32,
        chunk_size: u32,
        copy: CopyFlag,
    ) -> Result<(Umem, Vec<Socket>), (AfXdpError, bool)> {
        let chunks = frames * interfaces.len() as u32;
        let bytes = chunks as usize * chunk_size as usize;
        let umem = Umem::new(chunks, chunk_size).map_err(|error| (AfXdpError::Memory { bytes, error }, false))?;
        let sizes = RingSizes { receive: frames / 2, transmit: frames / 4 };
        let mut sockets: Vec<Socket> = Vec::with_capacity(interfaces.len());
        for attached in interfaces {
            let interface = attached.interface();
            let place = (interface.link.name.as_str(), interface.link.index, queue);
            let socket = Socket::bind(&umem, sockets.first(), place, sizes, copy)
                .map_err(|error| (error, sockets.first().is_some_and(Socket::zero_copy)))?;
            sockets.push(socket);
        }
        Ok((umem, sockets))
    }

    /// Has frames gather, or wake the worker each, as they did when the port was opened.
    #[cold]
    fn coalesce(&mut self, gather: bool) {
        for napi in self.links.iter_mut().filter_map(|link| link.napi.as_mut()) {
            let deferral =
                if gather { Deferral { hard_irqs: 1, flush: self.coalescing.time() } } else { napi.before() };
            // Refused while the interface is down or gone; it is tried again within a second.
            _ = napi.set(deferral);
        }
    }

    /// What was chosen for each interface.
    pub fn interfaces(&self) -> impl Iterator<Item = InterfaceReport> {
        self.links.iter().map(|link| InterfaceReport { lost: link.socket.lost(), ..link.report.clone() })
    }

    /// Frames given to [`Port::to_kernel`] that the kernel then did not take: too long for it (about 3,300 bytes), or the
    /// interface is gone.
    pub fn kernel_refusals(&self) -> u64 {
        self.links.iter().map(|link| self.refused_on(link)).sum()
    }

    fn refused_on(&self, link: &Link) -> u64 {
        self.exception.as_ref().map_or(0, |exception| exception.refused(link.ifindex))
    }

    /// Counters of one interface's socket; one system call.
    ///
    /// # Errors
    /// When there is no interface of this number, or the kernel refuses.
    pub fn statistics(&self, interface: u8) -> Result<SocketStatistics, AfXdpError> {
        let link = self.links.get(usize::from(interface)).ok_or_else(|| {
            AfXdpError::Options(format!(
                "the port has {} interfaces, and number {interface} is not one",
                self.links.len()
            ))
        })?;
        link.socket.statistics().map_err(AfXdpError::socket)
    }
}

impl Drop for AfXdpPort {
    fn drop(&mut self) {
        if self.coalescing.gathering() {
            self.coalesce(false);
        }
    }
}

/// The buffer size that the largest MTU needs: 2,048 bytes or, for more than 1,774, 4,096.
fn chunk_size(interfaces: &[&Attached]) -> Result<u32, AfXdpError> {
    let limit = |chunk: u32| chunk - RECEIVE_HEADROOM - LINK_HEADERS;
    let largest = interfaces.iter().map(|attached| &attached.interface().link).max_by_key(|link| link.mtu);
    match largest {
        Some(interface) if interface.mtu > limit(4096) => {
            Err(AfXdpError::Mtu { interface: interface.name.clone(), mtu: interface.mtu, limit: limit(4096) })
        }
        Some(interface) if interface.mtu > limit(2048) => Ok(4096),
        _ => Ok(2048),
    }
}

impl Port for AfXdpPort {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            interfaces: self.links.len() as u8,
            verifies_ip_checksum: false,
            partial_checksums: self.links.iter().any(|link| link.partial_checksums),
            kernel_answers: true,
            exception_path: self.links.iter().all(|link| link.exception),
            rss_table: self.rss_table,
            neighbour_answers: false,
        }
    }

    #[inline]
    fn receive(&mut self, frames: &mut [Frame; BURST], interfaces: &mut [u8; BURST]) -> usize {
        let mut received = 0;
        let links = self.links.len();
        let mut number = self.turn;
        for _ in 0..links {
            let link = &mut self.links[number];
            while received < BURST
                && let Some(descriptor) = link.socket.receive.pop()
            {
                link.receiving -= 1;
                if let Some(frame) = self.umem.received(descriptor.addr, descriptor.len) {
                    frames[received] = frame;
                    interfaces[received] = number as u8;
                    received += 1;
                }
            }
            link.socket.receive.release();
            link.refill(&mut self.umem);
            number = if number + 1 == links { 0 } else { number + 1 };
        }
        self.turn = if self.turn + 1 == links { 0 } else { self.turn + 1 };
        if received > 0 {
            self.coalescing.found(received);
        }
        received
    }

    #[inline]
    fn transmit(&mut self, interface: u8, frame: Frame) -> Result<(), Frame> {
        let Some(link) = self.links.get_mut(usize::from(interface)) else { return Err(frame) };
        if link.transmitting == link.transmit_limit {
            link.reclaim(&mut self.umem);
        }
        // The kernel discards a descriptor that it finds invalid without completing it, so none may reach it.
        if link.transmitting == link.transmit_limit || frame.len() < FRAME_MIN || link.socket.lost() {
            return Err(frame);
        }
        let (addr, len) = self.umem.surrender(frame)?;
        let queued = link.socket.transmit.push(libc::xdp_desc { addr, len, options: 0 });
        debug_assert!(queued, "the ring has as many places as the limit");
        link.transmitting += 1;
        Ok(())
    }

    fn to_kernel(&mut self, interface: u8, frame: Frame) -> Result<(), Frame> {
        let (Some(exception), Some(link)) = (&mut self.exception, self.links.get(usize::from(interface))) else {
            return Err(frame);
        };
        if !link.exception || frame.len() < FRAME_MIN || !exception.push(link.ifindex, frame.bytes()) {
            return Err(frame);
        }
        self.umem.release(frame);
        Ok(())
    }

    #[inline]
    fn flush(&mut self) {
        if let Some(exception) = &mut self.exception {
            exception.drain();
        }
        for link in &mut self.links {
            link.socket.transmit.publish();
            // Before the kick: the kernel sends only what it has a completion place for.
            link.reclaim(&mut self.umem);
            link.kick();
        }
    }

    #[inline]
    fn allocate(&mut self) -> Option<Frame> {
        self.umem.allocate()
    }

    #[inline]
    fn release(&mut self, frame: Frame) {
        self.umem.release(frame);
    }

    fn wait(&mut self, timeout: Duration, bell: Option<BorrowedFd<'_>>) {
        if let Some(gather) = self.coalescing.sleeps(self.opened.elapsed()) {
            self.coalesce(gather);
        }
        let backlog = self.links.iter_mut().any(|link| !link.socket.lost() && link.socket.transmit.backlog() > 0);
        let exception = self.exception.as_ref().is_some_and(Exception::is_waiting);
        let timeout = if backlog || exception { timeout.min(BACKLOG_WAIT) } else { timeout };
        let timeout = libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        if let Some(last) = self.poll.last_mut() {
            last.fd = bell.map_or(NO_BELL, |bell| bell.as_raw_fd());
        }
        // SAFETY: the array and the time live over the call, and so do the descriptors; no signal mask is given. A signal or an error
        // only ends the sleep early, which the caller sees as no frames.
        unsafe { libc::ppoll(self.poll.as_mut_ptr(), self.poll.len() as libc::nfds_t, &timeout, core::ptr::null()) };
    }

    fn losses(&self, losses: &mut [Losses]) {
        for (link, losses) in self.links.iter().zip(losses) {
            if let Ok(statistics) = link.socket.statistics() {
                statistics.add_to(losses, link.socket.zero_copy());
            }
            losses.add(LossReason::KernelRefused, self.refused_on(link));
        }
    }

    fn pool(&self) -> PoolCounts {
        let sum = |count: fn(&Link) -> u32| self.links.iter().map(|link| count(link) as usize).sum();
        PoolCounts {
            total: self.umem.chunks() as usize,
            free: self.umem.free() as usize,
            receiving: sum(|link| link.receiving),
            transmitting: sum(|link| link.transmitting),
            held: self.umem.held() as usize,
        }
    }
}
