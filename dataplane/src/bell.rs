//! Waking a worker that sleeps on its port for what comes another way: frames that another worker hands over to it.
//!
//! Whoever hands over pays a system call only where the other one sleeps, and then once for a batch.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// One worker's: it says when it sleeps, others ring, and the port's sleep ends when [`Bell::fd`] can be read.
#[derive(Debug)]
pub(crate) struct Bell {
    asleep: AtomicBool,
    event: File,
}

impl Bell {
    /// A bell, where the system has such a thing and a descriptor is left.
    #[cfg(target_os = "linux")]
    pub(crate) fn new() -> Option<Bell> {
        use std::os::fd::{FromRawFd, OwnedFd};
        // SAFETY: no memory is passed; a negative result is no descriptor.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return None;
        }
        // SAFETY: the descriptor was just made, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Some(Bell { asleep: AtomicBool::new(false), event: fd.into() })
    }

    /// There is none here.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn new() -> Option<Bell> {
        None
    }

    /// The worker is about to sleep. What others have done before they ring is to be looked at once more after this.
    pub(crate) fn sleeps(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        // Against the one in `ring`: either this worker sees what was handed over, or the other one that it sleeps.
        fence(Ordering::SeqCst);
    }

    /// The worker is awake.
    pub(crate) fn awake(&self) {
        if !self.asleep.swap(false, Ordering::Relaxed) {
            // Somebody has rung. Where he is not done yet, the next sleep ends at once, for nothing.
            let _ = (&self.event).read(&mut [0; 8]);
        }
    }

    /// Wakes the worker if it sleeps, after something was put where it will look.
    pub(crate) fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            // It can't be full: one is added for each sleep, and each waking takes them all.
            let _ = (&self.event).write(&1u64.to_ne_bytes());
        }
    }

    /// Can be read when somebody has rung.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Whether somebody has rung since the worker was awake last.
    #[cfg(test)]
    pub(crate) fn has_rung(&self) -> bool {
        (&self.event).read(&mut [0; 8]).is_ok()
    }
}
