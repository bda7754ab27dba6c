//! The way back to the kernel for frames that were redirected and turn out not to be ours: an ICMP error
//! or a fragment for the director's own traffic, where a service has the director's own address.
//!
//! Such a frame enters the stack as if its interface had just received it: `bpf(2)` can run an XDP program on
//! "live" frames (`BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18), and one that says `XDP_PASS` hands them to the
//! interface's receive path. A TAP device would do it on any kernel, but there the frame would come in on
//! another interface, and fail reverse-path filters and connection tracking.
//!
//! In generic mode there is no such way: the filter sits above the point of entry, and would redirect the frame to us again.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Instant;

use super::asm::{Asm, Op, Reg};
use super::bpf;
use super::error::AfXdpError;
use super::program::{XDP_DROP, XDP_PASS};

/// Frames that may wait for their turn; more are refused.
const WAITING_MAX: usize = 8;

/// A frame handed over costs a system call, some 18 µs on the machine that this was written on, which is hundreds of frames
/// forwarded. So that nobody can stop a worker by sending such frames, no more than one part in this many of its time goes there.
const TIME_SHARE: u32 = 10;

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
    waiting: VecDeque<Waiting>,
    /// Slots not in use, kept for their memory, so that nothing is allocated per frame.
    spare: Vec<Waiting>,
    /// When the next frame may go.
    next: Instant,
    /// By interface index.
    refused: Vec<(u32, u64)>,
}

impl Exception {
    /// Loads the program. `longest` is the length of the longest frame there can be, in bytes.
    pub(super) fn new(queue: u32, longest: u32) -> Result<Self, AfXdpError> {
        let slot = || Waiting { ifindex: 0, bytes: Vec::with_capacity(longest as usize) };
        Ok(Exception {
            program: constant(XDP_PASS)?,
            queue,
            waiting: VecDeque::with_capacity(WAITING_MAX),
            spare: core::iter::repeat_with(slot).take(WAITING_MAX).collect(),
            next: Instant::now(),
            refused: Vec::new(),
        })
    }

    /// Whether this kernel and interface can do it, found by injecting a frame that is dropped at once.
    pub(super) fn works_on(&self, ifindex: u32) -> bool {
        constant(XDP_DROP).is_ok_and(|drop| bpf::inject(&drop, ifindex, self.queue, &[0; 64]).is_ok())
    }

    /// Keeps a copy of a frame for [`Self::drain`]; `false` when too many wait.
    #[must_use]
    pub(super) fn push(&mut self, ifindex: u32, frame: &[u8]) -> bool {
        let Some(mut slot) = self.spare.pop() else { return false };
        slot.ifindex = ifindex;
        slot.bytes.clear();
        slot.bytes.extend_from_slice(frame);
        self.waiting.push_back(slot);
        true
    }

    /// Whether frames wait.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Frames of an interface that the kernel did not take when they were handed to it.
    pub(super) fn refused(&self, ifindex: u32) -> u64 {
        self.refused.iter().find(|(of, _)| *of == ifindex).map_or(0, |(_, frames)| *frames)
    }

    /// Hands the next waiting frame to the kernel, if it is time for it.
    #[inline]
    pub(super) fn drain(&mut self) {
        if self.is_waiting() {
            self.hand_over();
        }
    }

    #[inline(never)]
    fn hand_over(&mut self) {
        let start = Instant::now();
        if start < self.next {
            return;
        }
        let Some(slot) = self.waiting.pop_front() else { return };
        if bpf::inject(&self.program, slot.ifindex, self.queue, &slot.bytes).is_err() {
            match self.refused.iter_mut().find(|(of, _)| *of == slot.ifindex) {
                Some((_, frames)) => *frames += 1,
                None => self.refused.push((slot.ifindex, 1)),
            }
        }
        self.spare.push(slot);
        self.next = start + start.elapsed() * TIME_SHARE;
    }
}
