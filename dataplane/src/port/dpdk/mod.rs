//! The DPDK port (cargo feature `dpdk`): devices polled from user space, for line rate.
//!
//! `capsule` initialises the EAL and sets up packet pools and devices ([`environment`]); the bursts go straight to DPDK,
//! because capsule's allocate a vector each ([`burst`]). One port a worker: queue `i` of every device. No kernel stands
//! behind a device, so ARP and neighbour discovery are the director's own: requests are answered by the pipeline, and what
//! answers ours reaches the control thread by a [`NeighbourLane`]. What is not the director's can be handed to a kernel by TAP
//! devices ([`crate::port::tap`]), and then the answers to neighbour discovery are for both: each takes what it has asked for.
//!
//! What devices, drivers and hugepages need is told in `hwconf/DPDK.md`.

mod burst;
mod environment;
mod error;
mod preflight;

pub use crate::port::device::Device;
pub use environment::{DEFAULT_ARGUMENTS, DeviceState, Environment, Options};
pub use error::DpdkError;

use super::losses::{LossReason, Losses};
use super::neighbours::{self, NeighbourEnd, NeighbourLane, is_answer};
use super::tap::TapEnd;
use super::{Capabilities, PoolCounts, Port};
use crate::batch::BURST;
use crate::frame::Frame;
use crate::headers::parse;
use crate::headers::parse::{checksum_is_partial, fill_transport_checksum};
use burst::{Pool, Queue};
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Longest sleep of an idle worker: devices are polled, nothing wakes it, and what comes meanwhile waits in the device's queue
/// (at 64-byte frames and 10 Gbit/s 744 of its 1,024 descriptors).
const NAP: Duration = Duration::from_micros(50);

/// One worker's queues, one of each device.
#[derive(Debug)]
pub struct DpdkPort {
    /// Declared before the pool: what they hold goes back to it.
    queues: Vec<Queue>,
    pool: Pool,
    capabilities: Capabilities,
    /// The device that is asked first next time.
    next: usize,
    held: usize,
    registered: bool,
    neighbours: Option<NeighbourEnd>,
    /// The ways to the kernel, one for each interface; or none at all.
    taps: Vec<TapEnd>,
}

/// Starts DPDK, and opens a port for each worker. Once for each process.
///
/// # Errors
/// What is missing, and what to run.
pub fn open(options: &Options) -> Result<(Environment, Vec<DpdkPort>), DpdkError> {
    let (environment, pool, queues) = Environment::start(options)?;
    let capabilities = Capabilities {
        interfaces: options.devices.len() as u8,
        verifies_ip_checksum: environment.devices().iter().all(|d| d.verifies_ip_checksum),
        partial_checksums: options.devices.iter().any(preflight::has_partial_checksums),
        kernel_answers: false,
        exception_path: false,
        rss_table: table(environment.devices()),
        neighbour_answers: false,
    };
    let ports = queues.into_iter().map(|queues| DpdkPort {
        queues,
        pool: pool.clone(),
        capabilities,
        next: 0,
        held: 0,
        registered: false,
        neighbours: None,
        taps: vec![],
    });
    let ports = ports.collect();
    Ok((environment, ports))
}

/// Entries of the devices' tables, where all spread frames by the client's endpoint and have as many; otherwise 0.
fn table(devices: &[DeviceState]) -> u16 {
    let mut tables = devices.iter().map(|device| device.by_client.as_ref()?.as_ref().ok());
    let first = tables.next().flatten().copied();
    first.filter(|first| tables.all(|table| table == Some(first))).unwrap_or(0)
}

impl DpdkPort {
    /// Opens a lane by which the control thread asks for neighbours' addresses through this port, and hears answers.
    /// Frames of the lane pass the port's first worker only; give one to each worker, as answers may come in on any queue.
    pub fn neighbour_lane(&mut self) -> NeighbourLane {
        let (lane, end) = neighbours::lane();
        self.neighbours = Some(end);
        self.capabilities.neighbour_answers = true;
        lane
    }

    /// Gives the port a kernel for what is not the director's: this worker's end of a TAP device for each interface, in order.
    /// The kernel's frames leave by the port whose ends they come out of, the first worker's.
    ///
    /// # Panics
    /// When there are not as many ends as interfaces: a mistake of the caller.
    pub fn join_kernel(&mut self, ends: Vec<TapEnd>) {
        assert_eq!(ends.len(), self.queues.len(), "one TAP device for each interface");
        self.taps = ends;
        self.capabilities.exception_path = true;
    }

    /// Packets that devices brought and that were freed at once: with a wrong IPv4 header checksum, and in a shape that is
    /// never asked for (several buffers, or someone else's).
    pub fn refused(&self) -> (u64, u64) {
        self.queues.iter().map(Queue::refused).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
    }

    /// What a device counts as lost of all its queues (`rte_eth_stats`), where this port has the first of them; otherwise nothing.
    pub fn device_losses(&self, interface: u8) -> Losses {
        self.queues.get(usize::from(interface)).map_or(Losses::default(), Queue::device_losses)
    }

    /// Sends a burst of the first device as it was received, without a frame being made of any: what a device costs by itself,
    /// for measurement. Returns how many packets there were.
    pub fn reflect(&mut self) -> usize {
        if !self.registered {
            self.register();
        }
        self.queues.first_mut().map_or(0, Queue::reflect)
    }

    #[cold]
    #[inline(never)]
    fn register(&mut self) {
        self.registered = true;
        environment::register_thread();
    }

    /// Sends what the control thread has to say.
    fn speak(&mut self) {
        while let Some(said) = self.neighbours.as_ref().and_then(NeighbourEnd::said) {
            // What finds no room is asked again.
            let _ = self.send_copy(said.interface, said.bytes());
        }
    }

    /// Sends what the kernel has sent.
    #[inline(never)]
    fn send_for_kernel(&mut self) {
        let mut taps = std::mem::take(&mut self.taps);
        for (interface, tap) in taps.iter_mut().enumerate() {
            tap.take(|bytes| self.send_copy(interface as u8, bytes));
        }
        self.taps = taps;
    }

    /// Queues a copy of a frame; `false` where there is no room for it.
    fn send_copy(&mut self, interface: u8, bytes: &[u8]) -> bool {
        let Some(mut frame) = self.allocate() else { return false };
        if !u16::try_from(bytes.len()).is_ok_and(|len| frame.set_len(len)) {
            self.release(frame);
            return false;
        }
        frame.bytes_mut().copy_from_slice(bytes);
        match self.transmit(interface, frame) {
            Ok(()) => true,
            Err(frame) => {
                self.release(frame);
                false
            }
        }
    }
}

impl Port for DpdkPort {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    #[inline]
    fn receive(&mut self, frames: &mut [Frame; BURST], interfaces: &mut [u8; BURST]) -> usize {
        if !self.registered {
            self.register();
        }
        let count = self.queues.len();
        let mut n = 0;
        for _ in 0..count {
            let at = self.next;
            self.next = if at + 1 == count { 0 } else { at + 1 };
            let got = self.queues[at].receive(&mut frames[n..]);
            interfaces[n..n + got].fill(at as u8);
            n += got;
            if n == BURST {
                break;
            }
        }
        self.held += n;
        n
    }

    #[inline]
    fn transmit(&mut self, interface: u8, frame: Frame) -> Result<(), Frame> {
        let Some(queue) = self.queues.get_mut(usize::from(interface)) else { return Err(frame) };
        if !self.pool.owns(&frame) {
            return Err(frame);
        }
        // SAFETY: the frame is of DPDK.
        unsafe { queue.stage(frame)? };
        self.held -= 1;
        Ok(())
    }

    fn to_kernel(&mut self, interface: u8, mut frame: Frame) -> Result<(), Frame> {
        let answer = is_answer(frame.bytes());
        let heard = answer && self.neighbours.as_ref().is_some_and(|end| end.hear(interface, frame.bytes()));
        let tap = self.taps.get_mut(usize::from(interface)).filter(|tap| tap.is_for_kernel(frame.bytes()));
        let taken = tap.is_some_and(|tap| {
            if self.capabilities.partial_checksums {
                complete(&mut frame);
            }
            tap.push(frame.bytes())
        });
        if !heard && !taken {
            return Err(frame);
        }
        self.release(frame);
        Ok(())
    }

    fn leads_to_kernel(&self, interface: u8, frame: &[u8]) -> bool {
        self.taps.get(usize::from(interface)).is_some_and(|tap| tap.is_for_kernel(frame))
    }

    #[inline]
    fn flush(&mut self) {
        if self.neighbours.as_ref().is_some_and(NeighbourEnd::has_something_to_say) {
            self.speak();
        }
        if !self.taps.is_empty() {
            if self.taps.iter().any(TapEnd::has_frames) {
                self.send_for_kernel();
            }
            self.taps.iter_mut().for_each(TapEnd::flush);
        }
        for queue in &mut self.queues {
            queue.flush();
        }
    }

    fn allocate(&mut self) -> Option<Frame> {
        let frame = self.pool.allocate()?;
        self.held += 1;
        Some(frame)
    }

    fn release(&mut self, frame: Frame) {
        let ours = self.pool.owns(&frame);
        debug_assert!(ours || frame.is_placeholder(), "a frame of another port");
        if ours {
            self.held -= 1;
            // SAFETY: the frame is of DPDK. (One of another port stays where it is: its own pool still counts it.)
            unsafe { burst::free(frame) };
        }
    }

    fn wait(&mut self, timeout: Duration, _bell: Option<BorrowedFd<'_>>) {
        std::thread::sleep(timeout.min(NAP));
    }

    fn losses(&self, losses: &mut [Losses]) {
        for (queue, losses) in self.queues.iter().zip(losses) {
            losses.join(&queue.device_losses());
            let (checksum, shape) = queue.refused();
            losses.add(LossReason::RxBadChecksum, checksum);
            losses.add(LossReason::RxErrors, shape);
        }
    }

    /// The pool is shared by all workers, and what a device holds for transmission cannot be told from what it holds for
    /// reception: `receiving` is everything that is elsewhere.
    fn pool(&self) -> PoolCounts {
        let (total, free) = (self.pool.total(), self.pool.free());
        let transmitting: usize = self.queues.iter().map(Queue::staged).sum();
        let receiving = total.saturating_sub(free + transmitting + self.held);
        PoolCounts { total, free, receiving, transmitting, held: self.held }
    }
}

/// Completes a transport checksum that its sender has left to an offload (the other end of a veth or TAP): the kernel would drop it.
fn complete(frame: &mut Frame) {
    if let Ok(parsed) = parse(frame.bytes(), false)
        && checksum_is_partial(frame.bytes(), &parsed)
    {
        fill_transport_checksum(frame.bytes_mut(), &parsed);
    }
}

impl Drop for DpdkPort {
    fn drop(&mut self) {
        // Frames that are still held point into the pool, which then stays until the process ends.
        if self.held > 0 {
            self.pool.keep();
        }
    }
}
