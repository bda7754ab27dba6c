//! What the user sees and which keys change it. Neither a terminal nor a director is needed here: both are passed in.

use super::pages::{Order, Page, panels};
use super::panel::{Tone, clip};
use super::rates::{Rates, Sample, rates, same_director};
use lcs_control::render::{duration, number, scaled};
use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Wrap};
use std::time::Duration;

/// Smallest terminal that is drawn on.
const LEAST: (u16, u16) = (60, 10);
/// From this width on, panels stand in two columns.
const WIDE: u16 = 160;
/// Intervals that `+` and `-` step through, milliseconds.
const INTERVALS: [u64; 9] = [100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000];

/// What a key asks of the rest of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing more.
    None,
    /// End.
    Quit,
    /// Ask the director this often from now on.
    Interval(Duration),
}

/// What is shown, and how.
#[derive(Debug)]
pub struct View {
    page: Page,
    order: Order,
    scroll: usize,
    /// Lines that a page key moves.
    screenful: usize,
    paused: bool,
    interval: Duration,
    before: Option<Sample>,
    rates: Option<Rates>,
    /// Why the director does not answer.
    lost: Option<String>,
}

impl View {
    /// Nothing is known yet.
    pub fn new(interval: Duration) -> Self {
        View {
            page: Page::Overview,
            order: Order::default(),
            scroll: 0,
            screenful: 1,
            paused: false,
            interval,
            before: None,
            rates: None,
            lost: None,
        }
    }

    /// The director has answered, or why it has not.
    pub fn sampled(&mut self, sample: Result<Sample, String>) {
        match sample {
            Ok(now) => {
                self.lost = None;
                if let Some(before) = &self.before {
                    if (!self.paused || self.rates.is_none())
                        && let Some(r) = rates(&now, before)
                    {
                        self.rates = Some(r);
                    }
                    // What another director has counted says nothing about this one.
                    if !same_director(&now, before) {
                        self.rates = None;
                    }
                }
                self.before = Some(now);
            }
            Err(why) => self.lost = Some(why),
        }
    }

    /// A key was pressed.
    pub fn key(&mut self, key: KeyEvent) -> Action {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c' | 'd') if control => return Action::Quit,
            KeyCode::Char('q') | KeyCode::Esc => return Action::Quit,
            KeyCode::Tab | KeyCode::Right => self.turn_to(self.page.next()),
            KeyCode::BackTab | KeyCode::Left => self.turn_to(self.page.previous()),
            KeyCode::Char(c @ '1'..='4') => self.turn_to(Page::ALL[c as usize - '1' as usize]),
            KeyCode::Down | KeyCode::Char('j') => self.scroll = self.scroll.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.scroll = self.scroll.saturating_add(self.screenful),
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(self.screenful),
            KeyCode::Home => self.scroll = 0,
            KeyCode::End => self.scroll = usize::MAX,
            KeyCode::Char('p') => self.paused = !self.paused,
            KeyCode::Char('s') => self.order = self.order.next(),
            KeyCode::Char('+' | '=') => return self.step(INTERVALS.iter().find(|i| **i > self.milliseconds())),
            KeyCode::Char('-') => return self.step(INTERVALS.iter().rev().find(|i| **i < self.milliseconds())),
            _ => {}
        }
        Action::None
    }

    fn turn_to(&mut self, page: Page) {
        self.page = page;
        self.scroll = 0;
    }

    fn milliseconds(&self) -> u64 {
        u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX)
    }

    fn step(&mut self, to: Option<&u64>) -> Action {
        let Some(to) = to else { return Action::None };
        self.interval = Duration::from_millis(*to);
        Action::Interval(self.interval)
    }

    /// Draws all of it.
    pub fn draw(&mut self, frame: &mut Frame<'_>) {
        let area = frame.area();
        if area.width < LEAST.0 || area.height < LEAST.1 {
            let text = format!(
                "This terminal is {}x{}; lcs top needs {}x{} or more. q quits.",
                area.width, area.height, LEAST.0, LEAST.1
            );
            frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
            return;
        }
        let width = usize::from(area.width);
        let row = |y: u16, height: u16| Rect { y: area.y + y, height, ..area };
        frame.render_widget(Line::from(self.summary(width)), row(0, 1));
        frame.render_widget(self.tabs(), row(1, 1));
        let body = row(3, area.height - 4);
        self.screenful = usize::from(body.height).saturating_sub(1).max(1);
        let below = match &self.rates {
            Some(r) => {
                let (columns, below) = columns(self.page, r, self.order, body, self.scroll);
                self.scroll = self.scroll.min(columns.1);
                for (lines, area) in columns.0 {
                    frame.render_widget(Paragraph::new(lines), area);
                }
                below
            }
            None => {
                let text = match (&self.lost, &self.before) {
                    (Some(why), _) => format!("{why}\n\nTrying again every {}.", period(self.interval)),
                    (None, Some(_)) => "Measuring: rates need two readings.".to_owned(),
                    (None, None) => "Asking the director …".to_owned(),
                };
                frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), body);
                0
            }
        };
        frame.render_widget(self.help(below, width), row(area.height - 1, 1));
    }

    /// The first line: what the director does as a whole, or that it is gone.
    fn summary(&self, width: usize) -> Span<'static> {
        if let Some(why) = &self.lost {
            let old = if self.rates.is_some() { "; below is what was last seen" } else { "" };
            return Span::styled(clip(&format!("not reachable, trying again{old}: {why}"), width), Tone::Bad.style());
        }
        match &self.rates {
            Some(r) => Span::raw(clip(&summary(r), width)),
            None => Span::raw("lcs top"),
        }
    }

    fn tabs(&self) -> Line<'static> {
        let mut spans = Vec::new();
        for (i, page) in Page::ALL.into_iter().enumerate() {
            let style = if page == self.page { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
            spans.push(Span::styled(format!(" {} {} ", i + 1, page.name()), style));
        }
        if self.paused {
            spans.push(Span::styled("  PAUSED", Tone::Warn.style()));
        }
        Line::from(spans)
    }

    fn help(&self, below: usize, width: usize) -> Line<'static> {
        let mut text = if below > 0 { format!("↓ {below} more · ") } else { String::new() };
        text += &format!(
            "q quit · tab 1-4 page · ↑↓ scroll · p pause · +/- every {} · s sort: {}",
            period(self.interval),
            self.order.name()
        );
        Line::from(Span::styled(clip(&text, width), Tone::Dim.style()))
    }
}

/// The director as a whole, in one line.
pub fn summary(r: &Rates) -> String {
    format!(
        "lcs {}, up {}: busy {:.0} %, {} packets/s, {:.0} cycles/packet, {} connections; process {}",
        r.program,
        duration(r.uptime),
        r.total.busy * 100.0,
        scaled(r.total.packets, "").trim_end(),
        r.total.cycles_per_packet,
        number(r.total.flows as u64),
        r.pid,
    )
}

fn period(d: Duration) -> String {
    if d.subsec_millis() == 0 { format!("{} s", d.as_secs()) } else { format!("{} ms", d.as_millis()) }
}

type Columns = (Vec<(Vec<Line<'static>>, Rect)>, usize);

/// The panels of a page in one or two columns: what of them can be seen and where, the furthest that they can be scrolled,
/// and how many lines are below what can be seen.
fn columns(page: Page, r: &Rates, order: Order, area: Rect, scroll: usize) -> (Columns, usize) {
    let two = area.width >= WIDE;
    let gap = 3;
    let width = if two { (area.width - gap) / 2 } else { area.width };
    let mut columns: Vec<Vec<Line<'static>>> = vec![Vec::new(); if two { 2 } else { 1 }];
    let panels = panels(page, r, order);
    // One panel alone has the whole width.
    let (width, last) = if panels.len() == 1 { (area.width, 0) } else { (width, columns.len() - 1) };
    for (i, panel) in panels.iter().enumerate() {
        // The first half left, the second right.
        let column = &mut columns[(i * 2 / panels.len()).min(last)];
        if !column.is_empty() {
            column.push(Line::default());
        }
        column.extend(panel.lines(usize::from(width)));
    }
    let longest = columns.iter().map(Vec::len).max().unwrap_or(0);
    let furthest = longest.saturating_sub(usize::from(area.height));
    let scroll = scroll.min(furthest);
    let seen = columns.into_iter().enumerate().map(|(i, lines)| {
        let x = area.x + u16::try_from(i).unwrap_or(0) * (width + gap);
        let lines = lines.into_iter().skip(scroll).take(area.height.into()).collect();
        (lines, Rect { x, width: width.min(area.right().saturating_sub(x)), ..area })
    });
    ((seen.collect(), furthest), furthest - scroll)
}
