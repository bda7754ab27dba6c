//! Ports: where frames come from and go to.
//!
//! One trait, chosen when a worker is built, so that the worker's loop is compiled for its port.
//! A port belongs to one worker and may span several interfaces (a one-arm director has one, a two-arm
//! director two); frames of all its interfaces come from one buffer pool, so forwarding never copies.

#[cfg(target_os = "linux")]
pub mod af_xdp;
pub mod device;
#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod losses;
pub mod memory;
pub mod neighbours;
pub mod pcap;
#[cfg(target_os = "linux")]
pub mod tap;

use crate::batch::BURST;
use crate::frame::Frame;
use losses::Losses;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// What a port can do, asked once when the worker is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Number of interfaces, at least 1. They are numbered from 0 within the port.
    pub interfaces: u8,
    /// The device has verified IPv4 header checksums of received frames and dropped the wrong ones.
    pub verifies_ip_checksum: bool,
    /// Frames may arrive whose TCP or UDP checksum was left to an offload and covers the pseudo-header only (veth, TAP, virtio).
    pub partial_checksums: bool,
    /// A kernel behind the port answers ARP, NDP and ping for the director's addresses.
    pub kernel_answers: bool,
    /// [`Port::to_kernel`] works: frames that are not ours can be handed on.
    pub exception_path: bool,
    /// Entries of the devices' tables of receive queues, a power of two, where these name the owners' queues ([`crate::spread`]); otherwise 0.
    pub rss_table: u16,
    /// [`Port::to_kernel`] takes what answers ARP and neighbour solicitations of the control thread (see [`neighbours`]).
    pub neighbour_answers: bool,
}

/// Where a port's buffers are. `free + receiving + transmitting + held == total`, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolCounts {
    /// All buffers of the pool.
    pub total: usize,
    /// Buffers that `allocate` may hand out.
    pub free: usize,
    /// Buffers that the device holds, or has filled, for reception.
    pub receiving: usize,
    /// Buffers queued for, or in, transmission.
    pub transmitting: usize,
    /// Buffers in the hands of the worker: received or allocated, and neither transmitted nor released.
    pub held: usize,
}

/// A source and sink of frames.
///
/// None of the methods blocks except [`Port::wait`], and none but [`Port::flush`], [`Port::wait`] and [`Port::losses`] may
/// make a system call.
pub trait Port {
    /// What this port offers.
    fn capabilities(&self) -> Capabilities;

    /// Receives up to [`BURST`] frames into `frames[..n]`, with the number of the interface that each came
    /// in on in `interfaces[..n]`, and returns `n`. Interfaces are served fairly.
    fn receive(&mut self, frames: &mut [Frame; BURST], interfaces: &mut [u8; BURST]) -> usize;

    /// Queues `frame` for transmission on `interface`.
    ///
    /// # Errors
    /// Gives the frame back when the transmit ring is full or there is no such interface.
    fn transmit(&mut self, interface: u8, frame: Frame) -> Result<(), Frame>;

    /// Hands a frame that came in on `interface` to the kernel behind the port.
    ///
    /// # Errors
    /// Gives the frame back where there is no such path, or it is full.
    fn to_kernel(&mut self, interface: u8, frame: Frame) -> Result<(), Frame> {
        let _ = interface;
        Err(frame)
    }

    /// Whether [`Port::to_kernel`] has a way for such a frame when it is not full.
    fn leads_to_kernel(&self, interface: u8, frame: &[u8]) -> bool {
        let _ = (interface, frame);
        self.capabilities().exception_path
    }

    /// Makes everything queued visible to the device, wakes it if it asks for that, and reclaims sent buffers.
    fn flush(&mut self);

    /// Takes a buffer, as a frame of length 0 behind [`crate::frame::HEADROOM`]; `None` when the pool is empty.
    fn allocate(&mut self) -> Option<Frame>;

    /// Gives a buffer back to the pool.
    fn release(&mut self, frame: Frame);

    /// Sleeps until a frame can be received, `bell` can be read, or `timeout` is over; less long where a device can't wake anybody.
    /// A port without a device that could wake anybody sleeps for the time-out.
    fn wait(&mut self, timeout: Duration, bell: Option<BorrowedFd<'_>>);

    /// Adds to `losses[i]` what this port has lost by itself on interface `i` since it was opened: see [`losses`]. Asked when a report is
    /// made, not per packet: a device may take some microseconds, and the kernel a system call.
    fn losses(&self, losses: &mut [Losses]) {
        let _ = losses;
    }

    /// Where the buffers are.
    fn pool(&self) -> PoolCounts;
}
