//! What a port loses by itself: frames that no worker has seen, and frames that the device did not send after it had taken them.
//!
//! The device or the kernel counts these; a worker reads them when a report is made, never per packet. What the worker itself
//! drops, a full transmit ring among it, is in [`crate::DropReason`].

use serde::{Deserialize, Serialize};

/// Why a port lost a frame; the name is what `lcs stats` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LossReason {
    /// The receive queue was full.
    RxMissed,
    /// There was no buffer to receive into.
    RxNoBuffer,
    /// Received damaged, or longer than a buffer.
    RxErrors,
    /// Received with a wrong IPv4 header checksum, as the device found.
    RxBadChecksum,
    /// Refused by the device in transmission.
    TxErrors,
    /// Handed to the kernel, which refused it.
    KernelRefused,
}

impl LossReason {
    /// How many there are.
    pub const COUNT: usize = LossReason::ALL.len();

    /// Every reason, in the order of their numbers.
    pub const ALL: &'static [LossReason] = &[
        LossReason::RxMissed,
        LossReason::RxNoBuffer,
        LossReason::RxErrors,
        LossReason::RxBadChecksum,
        LossReason::TxErrors,
        LossReason::KernelRefused,
    ];

    /// The reason's name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            LossReason::RxMissed => "rx-missed",
            LossReason::RxNoBuffer => "rx-no-buffer",
            LossReason::RxErrors => "rx-errors",
            LossReason::RxBadChecksum => "rx-bad-checksum",
            LossReason::TxErrors => "tx-errors",
            LossReason::KernelRefused => "kernel-refused",
        }
    }

    /// One sentence for a user: what happened, and what to do where something can be done.
    pub const fn explanation(self) -> &'static str {
        match self {
            LossReason::RxMissed => {
                "The receive queue was full: the worker did not keep up, or its core was taken away for a moment."
            }
            LossReason::RxNoBuffer => {
                "No buffer was free to receive into (a DPDK driver may count each try): the worker did not keep up, or there are too few buffers."
            }
            LossReason::RxErrors => {
                "Received damaged, or longer than a buffer: switch off what joins frames (GRO, LRO, TSO at a veth's other end)."
            }
            LossReason::RxBadChecksum => "Received with a wrong IPv4 header checksum, as the device found.",
            LossReason::TxErrors => "The device could not send it.",
            LossReason::KernelRefused => {
                "Handed to the kernel, which refused it: longer than it takes that way, or its interface is gone."
            }
        }
    }
}

/// What one worker's port has lost on one interface since it was opened, in frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Losses([u64; LossReason::COUNT]);

impl Losses {
    /// Frames lost for one reason.
    pub fn of(&self, reason: LossReason) -> u64 {
        self.0[reason as usize]
    }

    /// Counts more frames.
    pub fn add(&mut self, reason: LossReason, frames: u64) {
        self.0[reason as usize] = self.0[reason as usize].saturating_add(frames);
    }

    /// Counts what another worker's port has lost.
    pub fn join(&mut self, more: &Losses) {
        more.iter().for_each(|(reason, frames)| self.add(reason, frames));
    }

    /// Reasons for which frames were lost, and how many.
    pub fn iter(&self) -> impl Iterator<Item = (LossReason, u64)> + '_ {
        LossReason::ALL.iter().copied().zip(self.0).filter(|(_, frames)| *frames > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_in_order_and_explain_themselves() {
        for (number, reason) in LossReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
            assert!(reason.explanation().ends_with('.'), "{reason:?}");
        }
        let mut sum = Losses::default();
        sum.add(LossReason::TxErrors, 2);
        let mut other = sum;
        other.add(LossReason::RxMissed, 1);
        sum.join(&other);
        assert_eq!(sum.iter().collect::<Vec<_>>(), [(LossReason::RxMissed, 1), (LossReason::TxErrors, 4)]);
    }
}
