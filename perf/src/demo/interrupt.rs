//! Ctrl-C: the first one asks to end, and everything is taken down in order; the second ends at once.
//!
//! Nothing of the demo outlives its process in any case (see `lcs_hwconf::netns`): this is for a clean end and a summary
//! of what was done until then.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// The demo was asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Whether the demo is asked to end. Clones are of the same.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    asked: Arc<AtomicBool>,
}

impl Interrupt {
    /// Takes SIGINT, SIGTERM and SIGHUP for the rest of the process's life.
    pub fn on_signals() -> io::Result<Self> {
        let interrupt = Interrupt::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // In this order: a signal finds the flag as the one before it left it.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&interrupt.asked))?;
            flag::register(signal, Arc::clone(&interrupt.asked))?;
        }
        Ok(interrupt)
    }

    /// Whether to end.
    pub fn is_set(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Goes on only where it's not to end.
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.is_set() { Err(Interrupted) } else { Ok(()) }
    }

    /// Asks to end.
    pub fn set(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }
}
