//! The way back to the kernel for frames that were redirected and turn out not to be ours: an ICMP error
//! or a fragment for the director's own traffic, where a service has the director's own address.
//!
//! Such a frame enters the stack as if its interface had just received it: `bpf(2)` can run an XDP program on
//! "live" frames (`BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18), and one that says `XDP_PASS` hands them to the
//! interface's receive path. A TAP device would do it on any kernel, but there the frame would come in on
//! another interface, and fail reverse-path filters and connection tracking.
//!
//! In generic mode there is no such way: the filter sits above the point of entry, and would redirect the frame to us again.

use std::os::fd::OwnedFd;

use super::asm::{Asm, Op, Reg};
use super::bpf;
use super::error::AfXdpError;
use super::program::{XDP_DROP, XDP_PASS};

/// Frames that wait for the next flush. One costs a system call of some microseconds, so that the share of a
/// worker's time that someone can take by sending such frames is bounded: more of them in a burst are refused.
const WAITING_MAX: usize = 4;

/// A program that gives every frame the same verdict.
fn constant(verdict: u32) -> Result<OwnedFd, AfXdpError> {
    let mut asm = Asm::<()>::new();
    asm.op(Op::Mov, Reg::R0, verdict as i32);
    asm.exit();
    bpf::load_program("lcs_verdict", &asm.finish().link(|()| 0)).map_err(AfXdpError::load)
}

/// A frame on its way to the kernel: a copy, so that its buffer is free at once.
struct Waiting {
    ifindex: u32,
    bytes: Vec<u8>,
}

/// One worker's way to the kernel.
pub(super) struct Exception {
    program: OwnedFd,
    queue: u32,
    /// Allocated once and used over and over; the first `used` of them wait.
    slots: [Waiting; WAITING_MAX],
    used: usize,
    refused: u64,
}

impl Exception {
    /// Loads the program. `longest` is the length of the longest frame there can be, in bytes.
    pub(super) fn new(queue: u32, longest: u32) -> Result<Self, AfXdpError> {
        let slots = core::array::from_fn(|_| Waiting { ifindex: 0, bytes: Vec::with_capacity(longest as usize) });
        Ok(Exception { program: constant(XDP_PASS)?, queue, slots, used: 0, refused: 0 })
    }

    /// Whether this kernel and interface can do it, found by injecting a frame that is dropped at once.
    pub(super) fn works_on(&self, ifindex: u32) -> bool {
        constant(XDP_DROP).is_ok_and(|drop| bpf::inject(&drop, ifindex, self.queue, &[0; 64]).is_ok())
    }

    /// Keeps a frame for [`Self::drain`]; `false` when too many wait.
    #[must_use]
    pub(super) fn push(&mut self, ifindex: u32, frame: &[u8]) -> bool {
        let Some(slot) = self.slots.get_mut(self.used) else { return false };
        slot.ifindex = ifindex;
        slot.bytes.clear();
        slot.bytes.extend_from_slice(frame);
        self.used += 1;
        true
    }

    /// Frames that the kernel did not take when they were handed to it.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Hands the waiting frames to the kernel, a system call each.
    #[inline]
    pub(super) fn drain(&mut self) {
        for slot in &self.slots[..self.used] {
            if bpf::inject(&self.program, slot.ifindex, self.queue, &slot.bytes).is_err() {
                self.refused += 1;
            }
        }
        self.used = 0;
    }
}
