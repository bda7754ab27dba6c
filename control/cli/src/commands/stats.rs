//! `lcs stats`

use crate::Common;
use crate::outcome::{Error, Outcome, ask, connect, json};
use lcs_control::protocol::{Request, Response, Stats};
use lcs_control::render;
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// See packets, cycles by stage, and drops with their reasons.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sudo lcs stats                  since the start
  sudo lcs stats --watch          every second, with rates
  sudo lcs stats --watch 5 --json one object an interval, for programs")]
pub struct Args {
    /// Show what happens, again every so many seconds.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = clap::value_parser!(u32).range(1..=3600))]
    watch: Option<u32>,
}

pub fn run(common: &Common, args: &Args) -> Outcome {
    let Some(seconds) = args.watch else { return ask(common, Request::Stats, render::response) };
    let mut client = connect(common)?;
    let mut read = || -> Result<Stats, Error> {
        match client.call(Request::Stats)? {
            Response::Stats(stats) => Ok(*stats),
            other => Err(Error::Usage(format!("unexpected answer: {other:?}"))),
        }
    };
    let mut before = read()?;
    let clear = if std::io::stdout().is_terminal() { "\x1b[2J\x1b[H" } else { "" };
    loop {
        std::thread::sleep(Duration::from_secs(seconds.into()));
        let now = read()?;
        let difference = render::since(&now, &before);
        let text = match common.json {
            true => json(&difference)?,
            false => format!("{clear}{}\n", render::stats(&difference, Some(difference.uptime))),
        };
        let mut out = std::io::stdout();
        out.write_all(text.as_bytes())?;
        out.flush()?;
        before = now;
    }
}
