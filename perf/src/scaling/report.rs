//! What `lcs perf scaling` prints.

use super::{HandOver, Model, Options, Row};
use crate::summary::Summary;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// What was asked.
    pub options: Options,
    /// TSC cycles a second.
    pub tsc_hz: u64,
    /// Cores, in the order in which workers take them.
    pub cores: Vec<usize>,
    /// By number of workers.
    pub rows: Vec<Row>,
    /// What handing frames over costs.
    pub hand_overs: Vec<HandOver>,
    /// What more cores would give; absent when one worker was not measured.
    pub model: Option<Model>,
}

fn spread(s: &Summary, by: f64, digits: usize) -> String {
    let s = s.scaled(by);
    format!("{:.digits$} ({:.digits$} – {:.digits$})", s.median, s.quartiles.0, s.quartiles.1)
}

impl Figures {
    /// What was measured and how, a sentence each.
    pub fn setting(&self) -> Vec<String> {
        let o = &self.options;
        vec![
            format!(
                "{:?} over {} on the memory port, {} flows of each worker in random order, {} B frames (FCS counted), {} rounds of {} s",
                o.forward,
                if o.ipv6 { "IPv6" } else { "IPv4" },
                o.flows,
                o.size,
                o.rounds,
                o.seconds
            ),
            format!(
                "workers are pinned to cores {} in this order, each with its generator, whose time is not counted",
                self.cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            ),
            format!("TSC {:.3} GHz; median (quartiles) of the rounds, which are interleaved", self.tsc_hz as f64 / 1e9),
        ]
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for sentence in self.setting() {
            writeln!(f, "{sentence}")?;
        }
        let none = || "–".to_owned();
        writeln!(
            f,
            "\n{:<20} {:>22} {:>22} {:>22} {:>30} {:>22}",
            "workers",
            "Mpps, all together",
            "cycles/packet",
            "to one worker",
            "of these, cores not shared",
            "by the wall clock"
        )?;
        for r in &self.rows {
            writeln!(
                f,
                "{:<20} {:>22} {:>22} {:>22} {:>30} {:>22}",
                match (r.workers, r.steered) {
                    (1, _) => "1".to_owned(),
                    (n, true) => format!("{n} of one director"),
                    (n, false) => format!("{n} directors of 1"),
                },
                spread(&r.rate, 1e-6, 2),
                spread(&r.cycles, 1.0, 1),
                r.ratio.as_ref().map_or_else(none, |s| spread(s, 1.0, 3)),
                r.ratio_alone.as_ref().map_or_else(none, |s| format!("{} in {}", spread(s, 1.0, 3), s.rounds)),
                r.wall_ratio.as_ref().map_or_else(none, |s| spread(s, 1.0, 3)),
            )?;
        }
        if !self.hand_overs.is_empty() {
            writeln!(
                f,
                "\n{:<8} {:>12} {:>24} {:>30}",
                "workers", "handed over", "cycles/packet", "cycles more a handed frame"
            )?;
        }
        for h in &self.hand_overs {
            writeln!(
                f,
                "{:<8} {:>10.1} % {:>24} {:>30}",
                h.workers,
                h.share * 100.0,
                spread(&h.cycles, 1.0, 1),
                h.extra.as_ref().map_or_else(none, |s| spread(s, 1.0, 0)),
            )?;
        }
        let Some(m) = &self.model else { return Ok(()) };
        writeln!(
            f,
            "\nmodel: {:.2} Mpps of one worker, contention {:.2} % a worker{}",
            m.one / 1e6,
            m.contention * 100.0,
            m.hand_over.map_or(String::new(), |c| format!(", {c:.0} cycles a frame handed over"))
        )?;
        writeln!(f, "{:<8} {:>22} {:>26}", "workers", "Mpps, RSS that fits", "Mpps, spread regardless")?;
        for need in &m.needs {
            let handed = need.handed_over.map_or_else(none, |r| format!("{:.1}", r / 1e6));
            writeln!(f, "{:<8} {:>22.1} {handed:>26}", need.workers, need.fitting / 1e6)?;
        }
        for t in &m.targets {
            let workers = |n: Option<usize>| n.map_or("more than can be had".to_owned(), |n| format!("{n} workers"));
            writeln!(
                f,
                "{}, {:.1} Mpps: {}; spread regardless: {}",
                t.name,
                t.rate / 1e6,
                workers(t.fitting),
                if m.hand_over.is_some() { workers(t.handed_over) } else { "not measured".to_owned() }
            )?;
        }
        for c in &m.checks {
            writeln!(
                f,
                "held against what it was not fitted to: {} workers, {:.0} % handed over: {:.0} cycles a frame predicted, {:.0} measured ({:+.1} %)",
                c.workers,
                c.share * 100.0,
                c.predicted,
                c.measured,
                c.error() * 100.0
            )?;
        }
        writeln!(f, "it assumes:")?;
        for assumption in &m.assumptions {
            writeln!(f, "- {assumption}")?;
        }
        Ok(())
    }
}
