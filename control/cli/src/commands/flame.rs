//! `lcs stats --flame`: the director's counters for a while, and their picture.

use crate::Common;
use crate::outcome::{Error, Outcome, connect, json};
use lcs_control::protocol::{Request, Response};
use lcs_control::render::{Flame, INTERVALS_MAX};
use lcs_control::socket::{Client, ClientError};
use lcs_perf::demo::interrupt::Interrupt;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest sleep before Ctrl-C is noticed.
const TICK: Duration = Duration::from_millis(50);

pub fn run(common: &Common, file: &Path, long: Duration, interval: Duration) -> Outcome {
    let intervals = (long.as_secs_f64() / interval.as_secs_f64()).ceil();
    if intervals > INTERVALS_MAX as f64 {
        return Err(Error::Usage(format!(
            "{intervals} intervals are more than the {INTERVALS_MAX} that a picture shows; make --interval at least {:.1}s, or --for shorter",
            (long.as_secs_f64() / INTERVALS_MAX as f64 * 10.0).ceil() / 10.0
        )));
    }
    if interval > long {
        return Err(Error::Usage("--interval is longer than --for: there would be nothing to draw".to_owned()));
    }
    let mut client = connect(common)?;
    let interrupt = Interrupt::on_signals()?;
    let mut flame = Flame::default();
    let looked = look(&mut client, &mut flame, long, interval, &interrupt);
    let Some(svg) = flame.svg() else {
        looked?;
        return Err(Error::Failed("interrupted before there were two readings; nothing was written".to_owned()));
    };
    // What was seen is drawn also where the director went away meanwhile.
    std::fs::write(file, svg).map_err(|e| Error::Failed(format!("{} cannot be written: {e}", file.display())))?;
    looked?;
    let text = if common.json {
        json(&serde_json::json!({ "file": file, "intervals": flame.intervals() }))?
    } else {
        format!("{}: {} intervals\n", file.display(), flame.intervals())
    };
    Ok(io::stdout().write_all(text.as_bytes())?)
}

fn look(
    client: &mut Client,
    flame: &mut Flame,
    long: Duration,
    interval: Duration,
    interrupt: &Interrupt,
) -> Result<(), Error> {
    let begun = Instant::now();
    let progress = Progress { terminal: io::stderr().is_terminal() };
    let mut due = Duration::ZERO;
    loop {
        match client.call(Request::Stats)? {
            Response::Stats(stats) if flame.add(&stats) => {}
            Response::Stats(_) => {
                return Err(Error::Failed("the director's counters went back: it was started anew".to_owned()));
            }
            other => return Err(ClientError::Strange(format!("unexpected: {other:?}")).into()),
        }
        progress.say(begun.elapsed(), long);
        if due >= long {
            return Ok(());
        }
        due = (due + interval).min(long);
        // Where an answer took longer than the interval, readings are not made up for.
        due = due.max(begun.elapsed().min(long));
        while let Some(left) = due.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
            if interrupt.is_set() {
                return Ok(());
            }
            std::thread::sleep(left.min(TICK));
        }
    }
}

/// What is said on standard error meanwhile: one line that is written over on a terminal, a line now and at the end elsewhere.
struct Progress {
    terminal: bool,
}

impl Progress {
    fn say(&self, gone: Duration, long: Duration) {
        let text = format!("looking: {:.0} of {:.0} s", gone.as_secs_f64().min(long.as_secs_f64()), long.as_secs_f64());
        if self.terminal {
            eprint!("\r\x1b[K{text}");
        } else if gone < TICK || gone >= long {
            eprintln!("{text}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}
