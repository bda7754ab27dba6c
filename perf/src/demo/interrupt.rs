//! Ctrl-C: the first one asks to end, and everything is taken down in order; another one ends at once.
//!
//! Nothing of the demo outlives its process in any case (see `lcs_hwconf::netns`): this is for a clean end and a summary
//! of what was done until then.

use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Signals that come together are one: `timeout` and some shells signal a process and its group.
const TOGETHER: Duration = Duration::from_millis(300);

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
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let told = interrupt.clone();
        thread::Builder::new().name("signals".into()).spawn(move || {
            let mut first = None;
            for signal in signals.forever() {
                told.set();
                if first.get_or_insert_with(Instant::now).elapsed() > TOGETHER {
                    // As a shell says of a process that a signal ended.
                    process::exit(128 + signal);
                }
            }
        })?;
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
