//! `lcs top`: `rates` says what happened between two samples, `pages` and `panel` what of it is shown, `view` which keys change
//! that, `sample` asks the director; here is what they have to do with a terminal.

mod pages;
mod panel;
mod rates;
mod sample;
mod view;
#[cfg(test)]
mod view_tests;

use crate::Common;
use crate::endpoint::period;
use crate::outcome::{Error, Outcome, connect, json};
use lcs_perf::demo::interrupt::Interrupt;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use sample::{Sampler, sample};
use std::io::{self, IsTerminal, Write};
use std::time::Duration;
use view::{Action, View};

/// Longest wait for a key before samples and signals are looked at.
const TICK: Duration = Duration::from_millis(50);
/// Width of what is printed where there is no terminal.
const PRINTED: usize = 160;

/// Watch a running director: workers, stages, services and servers, connections, drops, decisions by rule.
///
/// Rates are means of the last interval. Where the output is no terminal, or with --once, one frame is printed as text.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sudo lcs top
  sudo lcs top --interval 500ms
  sudo lcs top --once --interval 5s     one frame as text, of five seconds
  sudo lcs top --json                   the same as an object, for programs

Keys: q quit, tab or 1 to 4 pages, arrows and page keys scroll, p pause, + and - interval, s sort.
busy is the part of a worker's time in which it had packets; batch the mean number of packets that it takes at once.")]
pub struct Args {
    /// How often, and over how long rates are taken: 500ms, 2s, 1m.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = period)]
    interval: Duration,
    /// Print one frame as text, after one interval, and end.
    #[arg(long)]
    once: bool,
}

pub fn run(common: &Common, args: &Args) -> Outcome {
    let mut client = connect(common)?;
    if args.once || common.json || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let before = sample(&mut client)?;
        std::thread::sleep(args.interval);
        let now = sample(&mut client)?;
        let rates = rates::rates(&now, &before)
            .ok_or_else(|| Error::Failed("the director was started anew meanwhile; try again".to_owned()))?;
        let text = if common.json { json(&rates)? } else { text(&rates) };
        return Ok(io::stdout().write_all(text.as_bytes())?);
    }
    let interrupt = Interrupt::on_signals()?;
    let sampler = Sampler::start(common, client, args.interval);
    let mut screen = Screen::open()?;
    let mut view = View::new(args.interval);
    let mut changed = true;
    while !interrupt.is_set() {
        while let Ok(sample) = sampler.samples.try_recv() {
            view.sampled(sample);
            changed = true;
        }
        if changed {
            screen.0.draw(|frame| view.draw(frame))?;
            changed = false;
        }
        if !event::poll(TICK)? {
            continue;
        }
        match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => match view.key(key) {
                Action::Quit => break,
                Action::Interval(interval) => sampler.every(interval),
                Action::None => {}
            },
            // What else is heard is a new size, which drawing finds out by itself.
            _ => {}
        }
        changed = true;
    }
    Ok(())
}

/// Everything as text.
fn text(rates: &rates::Rates) -> String {
    let mut out = view::summary(rates) + "\n";
    for panel in pages::all(rates, pages::Order::Configured) {
        out.push('\n');
        out += &panel::text(&panel.lines(PRINTED));
    }
    out
}

/// The terminal while it is ours: raw, on its second screen. It is given back when this is dropped, and on a panic before
/// the panic is told (ratatui's hook).
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> io::Result<Self> {
        match ratatui::try_init() {
            Ok(terminal) => Ok(Screen(terminal)),
            Err(e) => {
                ratatui::restore();
                Err(e)
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}
