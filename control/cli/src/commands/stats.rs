//! `lcs stats`

use super::flame;
use crate::Common;
use crate::endpoint::period;
use crate::outcome::{Error, Outcome, ask, connect, json};
use lcs_control::protocol::{Request, Response, Stats};
use lcs_control::render;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

/// See packets, cycles by stage, and drops with their reasons.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sudo lcs stats                  since the start
  sudo lcs stats --watch          every second, with rates
  sudo lcs stats --watch 5 --json one object an interval, for programs
  sudo lcs stats --flame f.svg --for 30s --interval 200ms
                                  a picture: cycles per packet by stage over time")]
pub struct Args {
    /// Show what happens, again every so many seconds.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = clap::value_parser!(u32).range(1..=3600))]
    watch: Option<u32>,
    /// Look for a while, and write a picture (SVG): cycles per packet by stage over time, a band for each worker. Ctrl-C ends before.
    #[arg(long, value_name = "FILE", conflicts_with = "watch")]
    flame: Option<PathBuf>,
    /// With --flame: how long to look.
    #[arg(long = "for", value_name = "TIME", default_value = "10s", value_parser = period, requires = "flame")]
    long: Duration,
    /// With --flame: how often.
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = period, requires = "flame")]
    interval: Duration,
}

pub fn run(common: &Common, args: &Args) -> Outcome {
    if let Some(file) = &args.flame {
        return flame::run(common, file, args.long, args.interval);
    }
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
