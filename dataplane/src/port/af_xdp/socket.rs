//! One AF_XDP socket: one queue of one interface, with its four rings.

use core::ptr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::error::AfXdpError;
use super::ring::{Consumer, Producer};
use super::umem::Umem;
use crate::port::losses::{LossReason, Losses};

/// How long a queue may stay taken by a socket that was just closed: the kernel takes it down in the background.
const QUEUE_RELEASE: Duration = Duration::from_secs(2);

/// System calls per flush, each of which moves up to 32 frames in copy mode (the kernel's own batch);
/// more than a burst on each of a few interfaces ever needs, so that a backlog is worked off without stalling the worker.
const KICKS_MAX: u32 = 8;

/// Counters that the kernel keeps per socket (`struct xdp_statistics`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketStatistics {
    /// Received frames dropped because they were longer than a buffer, or, where the kernel copies, for want of a buffer.
    pub receive_dropped: u64,
    /// Received frames dropped because the receive ring was full.
    pub receive_ring_full: u64,
    /// Received frames dropped because there was no free buffer.
    pub receive_no_buffer: u64,
    /// Descriptors in the fill ring that the kernel found invalid. Anything but 0 is an error of ours.
    pub fill_invalid: u64,
    /// Descriptors in the transmit ring that the kernel found invalid. Anything but 0 is an error of ours.
    pub transmit_invalid: u64,
    /// System calls by which we had to wake the kernel up.
    pub wakeups: u64,
    /// Of these, those answered with an error (the interface is down, no buffers now, …); they are repeated later.
    pub wakeup_errors: u64,
}

impl SocketStatistics {
    /// Adds the frames lost to `losses`.
    pub(super) fn add_to(&self, losses: &mut Losses, zero_copy: bool) {
        losses.add(LossReason::RxMissed, self.receive_ring_full);
        losses.add(LossReason::RxNoBuffer, self.receive_no_buffer);
        // A kernel that copies counts a frame without a buffer twice.
        let twice = if zero_copy { 0 } else { self.receive_no_buffer };
        losses.add(LossReason::RxErrors, self.receive_dropped.saturating_sub(twice));
        losses.add(LossReason::TxErrors, self.transmit_invalid);
    }
}

/// How the kernel moves frames between the driver and our memory. Both flags unset: the kernel tries without
/// a copy first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CopyFlag {
    Either,
    Copy,
    ZeroCopy,
}

/// How many entries each ring has; powers of two.
#[derive(Clone, Copy)]
pub(super) struct RingSizes {
    pub(super) receive: u32,
    pub(super) transmit: u32,
}

pub(super) struct Socket {
    pub(super) fill: Producer<u64>,
    pub(super) completion: Consumer<u64>,
    pub(super) receive: Consumer<libc::xdp_desc>,
    pub(super) transmit: Producer<libc::xdp_desc>,
    zero_copy: bool,
    wakeups: u64,
    wakeup_errors: u64,
    /// The interface was removed; the socket is of no more use.
    lost: bool,
    fd: OwnedFd,
}

/// A new AF_XDP socket, not bound to anything.
pub(super) fn open() -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; the descriptor is new and ours alone.
    unsafe {
        let fd = libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

fn set_option<T>(fd: &OwnedFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of `value`, which outlives the call.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, ptr::from_ref(value).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Reads an option. The kernel may write fewer bytes than `T` has (an older kernel); the rest stays zero.
fn option<T>(fd: &OwnedFd, name: libc::c_int, zero: T) -> io::Result<T> {
    let mut value = zero;
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `value`; the `T`s used here are structures of integers.
    let result =
        unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_XDP, name, ptr::from_mut(&mut value).cast(), &mut len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

const NO_OFFSETS: libc::xdp_ring_offset = libc::xdp_ring_offset { producer: 0, consumer: 0, desc: 0, flags: 0 };

impl Socket {
    /// Opens a socket on a queue. The first of a worker registers the memory; the others are given the
    /// first as `share`, and use the same memory with rings of their own.
    pub(super) fn bind(
        umem: &Umem,
        share: Option<&Socket>,
        (interface, ifindex, queue): (&str, u32, u32),
        sizes: RingSizes,
        copy: CopyFlag,
    ) -> Result<Self, AfXdpError> {
        let fd = open().map_err(AfXdpError::socket)?;
        if share.is_none() {
            let registration = libc::xdp_umem_reg {
                addr: umem.address(),
                len: umem.len() as u64,
                chunk_size: umem.chunk_size(),
                headroom: 0,
                flags: 0,
                tx_metadata_len: 0,
            };
            set_option(&fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &registration).map_err(|error| {
                match error.raw_os_error() {
                    Some(libc::ENOBUFS | libc::ENOMEM | libc::EPERM) => AfXdpError::Memory { bytes: umem.len(), error },
                    _ => AfXdpError::socket(error),
                }
            })?;
        }
        for (name, size) in [
            (libc::XDP_UMEM_FILL_RING, sizes.receive),
            (libc::XDP_UMEM_COMPLETION_RING, sizes.transmit),
            (libc::XDP_RX_RING, sizes.receive),
            (libc::XDP_TX_RING, sizes.transmit),
        ] {
            set_option(&fd, libc::SOL_XDP, name, &size).map_err(AfXdpError::socket)?;
        }
        // In copy mode each frame on its way is charged to the socket's send buffer, whose default holds
        // fewer than the ring. Best effort: a smaller buffer only makes the ring drain in more steps.
        let send_buffer = (sizes.transmit as libc::c_int).saturating_mul(4096);
        _ = set_option(&fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &send_buffer);

        let offsets = option(
            &fd,
            libc::XDP_MMAP_OFFSETS,
            libc::xdp_mmap_offsets { rx: NO_OFFSETS, tx: NO_OFFSETS, fr: NO_OFFSETS, cr: NO_OFFSETS },
        )
        .map_err(AfXdpError::socket)?;
        let fill = Producer::map(&fd, libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t, &offsets.fr, sizes.receive);
        let completion =
            Consumer::map(&fd, libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t, &offsets.cr, sizes.transmit);
        let receive = Consumer::map(&fd, libc::XDP_PGOFF_RX_RING, &offsets.rx, sizes.receive);
        let transmit = Producer::map(&fd, libc::XDP_PGOFF_TX_RING, &offsets.tx, sizes.transmit);
        let mut socket = Socket {
            fill: fill.map_err(AfXdpError::socket)?,
            completion: completion.map_err(AfXdpError::socket)?,
            receive: receive.map_err(AfXdpError::socket)?,
            transmit: transmit.map_err(AfXdpError::socket)?,
            zero_copy: false,
            wakeups: 0,
            wakeup_errors: 0,
            lost: false,
            fd,
        };

        // A socket that shares memory takes copying and need-wakeup over from the first, and may say neither.
        let (flags, shared_fd) = match (share, copy) {
            (Some(first), _) => (libc::XDP_SHARED_UMEM, first.fd.as_raw_fd() as u32),
            (None, CopyFlag::Either) => (libc::XDP_USE_NEED_WAKEUP, 0),
            (None, CopyFlag::Copy) => (libc::XDP_USE_NEED_WAKEUP | libc::XDP_COPY, 0),
            (None, CopyFlag::ZeroCopy) => (libc::XDP_USE_NEED_WAKEUP | libc::XDP_ZEROCOPY, 0),
        };
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: flags,
            sxdp_ifindex: ifindex,
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: shared_fd,
        };
        socket.bind_to(&address).map_err(|error| AfXdpError::bind(interface, queue, error))?;
        let options =
            option(&socket.fd, libc::XDP_OPTIONS, libc::xdp_options { flags: 0 }).map_err(AfXdpError::socket)?;
        socket.zero_copy = options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0;
        Ok(socket)
    }

    fn bind_to(&self, address: &libc::sockaddr_xdp) -> io::Result<()> {
        let deadline = Instant::now() + QUEUE_RELEASE;
        loop {
            // SAFETY: the kernel reads one `sockaddr_xdp`, which outlives the call.
            let result = unsafe {
                libc::bind(
                    self.fd.as_raw_fd(),
                    ptr::from_ref(address).cast(),
                    size_of::<libc::sockaddr_xdp>() as libc::socklen_t,
                )
            };
            if result == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() >= deadline {
                return Err(error);
            }
            // Set-up only, and the only thing to wait for is a work item of the kernel.
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(super) fn zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Whether the interface was removed from under the socket.
    pub(super) fn lost(&self) -> bool {
        self.lost
    }

    /// Has the kernel work off the transmit ring, if it asks for that.
    pub(super) fn kick_transmit(&mut self) {
        let mut backlog = self.transmit.backlog();
        for _ in 0..KICKS_MAX {
            if backlog == 0 || self.lost || !self.transmit.needs_wakeup() {
                return;
            }
            // SAFETY: no buffer and no address are passed.
            let result =
                unsafe { libc::sendto(self.fd.as_raw_fd(), ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0) };
            let went_well = self.woken(result);
            let left = self.transmit.backlog();
            // The kernel stops with EAGAIN after each batch of its own, so what counts is whether it went on.
            if left == backlog || (self.zero_copy && went_well) {
                return;
            }
            backlog = left;
        }
    }

    /// Has the driver look at the fill ring again, if it asks for that. `false` when it could not.
    pub(super) fn kick_fill(&mut self) -> bool {
        if self.lost || !self.fill.needs_wakeup() {
            return true;
        }
        // SAFETY: no buffer and no address are passed.
        let result = unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
        self.woken(result)
    }

    /// Books a wake-up call. Every error is passing (interface down, queue busy, no memory now) except that
    /// the interface is gone; the rings keep what they hold, and the next call goes on from there.
    fn woken(&mut self, result: libc::ssize_t) -> bool {
        self.wakeups += 1;
        if result >= 0 {
            return true;
        }
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::EAGAIN) => return true,
            Some(libc::ENXIO | libc::ENODEV | libc::EBADF) => self.lost = true,
            _ => {}
        }
        self.wakeup_errors += 1;
        false
    }

    pub(super) fn statistics(&self) -> io::Result<SocketStatistics> {
        let zero = libc::xdp_statistics {
            rx_dropped: 0,
            rx_invalid_descs: 0,
            tx_invalid_descs: 0,
            rx_ring_full: 0,
            rx_fill_ring_empty_descs: 0,
            tx_ring_empty_descs: 0,
        };
        let kernel = option(&self.fd, libc::XDP_STATISTICS, zero)?;
        Ok(SocketStatistics {
            receive_dropped: kernel.rx_dropped,
            receive_ring_full: kernel.rx_ring_full,
            receive_no_buffer: kernel.rx_fill_ring_empty_descs,
            fill_invalid: kernel.rx_invalid_descs,
            transmit_invalid: kernel.tx_invalid_descs,
            wakeups: self.wakeups,
            wakeup_errors: self.wakeup_errors,
        })
    }
}
