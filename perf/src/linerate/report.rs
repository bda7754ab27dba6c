//! What `lcs perf linerate` prints.

use super::ports::Between;
use super::{Limit, Options, QueueCounts, Row, Size, Subject, Summary, Trial, flows};
use crate::traffic::server_mtu;
use lcs_pipelines::snapshot::Forward;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// What was asked.
    pub options: Options,
    /// Between which ports, where somebody named them.
    #[serde(default)]
    pub between: Option<Between>,
    /// Speed of the slower link, bits/s, where it is known.
    #[serde(default)]
    pub line_rate: Option<f64>,
    /// What frames came over.
    pub port: String,
    /// TSC cycles a second.
    pub tsc_hz: u64,
    /// Sizes, and for each the subjects.
    pub rows: Vec<Row>,
    /// The director against the reflector on the same interfaces, where both were searched.
    pub ratios: Vec<Ratio>,
    /// What else a reader must know.
    pub notes: Vec<String>,
}

/// The director's rate to the reflector's, by round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Size of frames.
    pub size: Size,
    /// While more was offered than could be carried.
    pub saturated: Summary,
    /// Without loss.
    pub ndr: Summary,
    /// With the loss that was allowed.
    pub pdr: Summary,
    /// What a frame costs the reflector, to what it costs the director: cycles of their turns, the kernel's part of them included, and
    /// without the time in which another program had the core. What the rates would be to each other if each had its core alone.
    pub cost: Summary,
}

/// Millions, with its quartiles.
fn mega(s: &Summary) -> String {
    format!("{:.3} ({:.3} – {:.3})", s.median / 1e6, s.quartiles.0 / 1e6, s.quartiles.1 / 1e6)
}

fn us(ns: u64) -> String {
    format!("{:.1}", ns as f64 / 1e3)
}

impl Figures {
    /// What was measured and how, a sentence each.
    pub fn setting(&self) -> Vec<String> {
        let o = &self.options;
        let sentence = format!(
            "{} over {} on port {}, {} flows in random order; sizes count the FCS",
            o.subject,
            if o.ipv6 { "IPv6" } else { "IPv4" },
            self.port,
            o.flows
        );
        let rounds = match o.rounds {
            Some(rounds) => format!("{rounds} round(s)"),
            None if self.port == "memory" => format!(
                "rounds until the median is known to {} % or {} s are over",
                o.precision * 100.0,
                o.search.budget.as_secs()
            ),
            None => format!("{} rounds", o.fixed_rounds()),
        };
        let search = format!(
            "trials of {} s, resolution {} %, {rounds}; a rate is judged by {}",
            o.search.seconds,
            o.search.resolution * 100.0,
            if o.search.agree > 1 { "the majority of up to three trials" } else { "one trial" }
        );
        let mut all = vec![sentence, search];
        if self.port == "memory" {
            all.push(format!(
                "a receive queue of {} descriptors; time is the worker's own: it stands still while generator and sink work",
                o.descriptors
            ));
        }
        if o.subject == Subject::Director(Forward::Tunnel) {
            all.push(format!(
                "the way to the servers has an MTU of {} bytes, so that the largest frame fits behind the tunnel's header",
                server_mtu(&flows(o, Forward::Tunnel))
            ));
        }
        all
    }

    fn limits(row: &Row) -> String {
        let mut said: Vec<&str> = row
            .searches
            .iter()
            .flatten()
            .filter_map(|f| match f.limit {
                Limit::Loss => None,
                Limit::Offered => Some("more could not be offered"),
                Limit::Generator => Some("the generator fell behind its schedule: its limit, not the subject's"),
                Limit::Machine => Some("the machine interrupted too often to tell: is another program on this core?"),
                Limit::Time => Some("time was over before the resolution was reached"),
                Limit::Never => Some("no rate held"),
            })
            .collect();
        said.sort_unstable();
        said.dedup();
        said.join("; ")
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for sentence in self.setting() {
            writeln!(f, "{sentence}")?;
        }
        writeln!(f, "TSC {:.3} GHz; Mpps: median (quartiles) of the rounds", self.tsc_hz as f64 / 1e9)?;
        let pdr = format!("PDR at {} %", self.options.loss * 100.0);
        // Of the link's speed, where it is known.
        let share = |text: String| if self.line_rate.is_some() { format!(" {text:>9}") } else { String::new() };
        writeln!(
            f,
            "\n{:<6} {:<15} {:>24} {:>24} {:>24} {:>8}{} {:>10}",
            "frame",
            "subject",
            "saturated",
            "NDR, no loss",
            pdr,
            "Gbit/s",
            share("of link".to_owned()),
            "generator"
        )?;
        for row in &self.rows {
            let rate = |s: &Option<Summary>| s.as_ref().map_or("–".to_owned(), mega);
            let bits =
                row.ndr.as_ref().map_or("–".to_owned(), |s| format!("{:.2}", row.size.wire_bits(s.median) / 1e9));
            let of_link =
                share(row.ndr.as_ref().zip(self.line_rate).map_or("–".to_owned(), |(s, line)| {
                    format!("{:.1} %", row.size.wire_bits(s.median) / line * 100.0)
                }));
            let generator = if row.searches.is_empty() {
                "–".to_owned()
            } else {
                format!("{:.0} cyc", row.generator_cycles.median)
            };
            writeln!(
                f,
                "{:<6} {:<15} {:>24} {:>24} {:>24} {bits:>8}{of_link} {generator:>10}",
                row.size,
                row.subject,
                mega(&row.saturated),
                rate(&row.ndr),
                rate(&row.pdr),
            )?;
        }
        writeln!(
            f,
            "\n{:<6} {:<15} {:>9} {:>9} {:>10} {:>8} {:>8} {:>8} {:>8} {:>8}",
            "frame", "subject", "of NDR", "Mpps", "lost", "p50 µs", "p99", "p99.9", "max", "probes"
        )?;
        for row in &self.rows {
            for (share, trial) in &row.loads {
                // Without any where somebody disturbed all of its probes.
                let [p50, p99, p999, max, probes] = match &trial.latency {
                    Some(l) => [us(l.p50), us(l.p99), us(l.p999), us(l.max), l.probes.to_string()],
                    None => ["–", "–", "–", "–", "0"].map(str::to_owned),
                };
                writeln!(
                    f,
                    "{:<6} {:<15} {:>8}% {:>9.3} {:>10} {:>8} {:>8} {:>8} {:>8} {:>8}",
                    row.size,
                    row.subject,
                    share * 100.0,
                    trial.rate / 1e6,
                    trial.lost(),
                    p50,
                    p99,
                    p999,
                    max,
                    probes
                )?;
                for (n, lost) in trial.overflow.iter().enumerate().filter(|(_, n)| **n > 0) {
                    writeln!(f, "       queue {n} was full for {lost} frames")?;
                }
                for (n, q) in trial.queues.iter().enumerate().filter(|(_, q)| **q != QueueCounts::default()) {
                    write!(f, "       queue {n}: sent {}, of these lost {}; received {}", q.sent, q.lost, q.received)?;
                    if q.missed > 0 {
                        write!(f, "; no room for {}: the receiving end's loss, not the device's", q.missed)?;
                    }
                    writeln!(f)?;
                }
                if trial.gaps > 0 {
                    writeln!(
                        f,
                        "       the generator lost its core {} times, for {:.1} ms",
                        trial.gaps, trial.gaps_ms
                    )?;
                }
                for (reason, n) in &trial.dropped {
                    writeln!(f, "       dropped, {reason}: {n}")?;
                }
                if trial.answered > 0 {
                    writeln!(f, "       answered with an ICMP error: {}", trial.answered)?;
                }
            }
        }
        writeln!(f)?;
        for row in self.rows.iter().filter(|r| !r.searches.is_empty()) {
            let took = Summary::of(row.search_seconds.clone());
            let within = |s: Summary| if s.median > 0.0 { (s.max - s.min) / s.median * 100.0 } else { 0.0 };
            let spread = row.ndr.map_or(0.0, within);
            write!(
                f,
                "{} {}: a search took {:.0} s at most; NDR lay within {spread:.1} % in {} round(s)",
                row.size, row.subject, took.max, took.rounds
            )?;
            if let Some(((from, to), ndr)) = row.ndr_interval.zip(row.ndr) {
                write!(
                    f,
                    ", its median with 95 % confidence between {:.2} and {:.2} Mpps ({:.1} %)",
                    from / 1e6,
                    to / 1e6,
                    if ndr.median > 0.0 { (to - from) / ndr.median * 100.0 } else { 0.0 }
                )?;
            }
            let of = |s: Summary| format!("{:.2} Mpps, within {:.1} % in {}", s.median / 1e6, within(s), s.rounds);
            if let Some(alone) = row.alone {
                write!(
                    f,
                    "; with what was lost while somebody else used the core's other hardware thread set aside: {}",
                    of(alone)
                )?;
            }
            if let Some(shared) = row.shared {
                write!(f, "; with it counted, since there was too much of it or too little time: {}", of(shared))?;
            }
            if row.gaps.0 > 0 {
                let (n, ms) = row.gaps;
                write!(
                    f,
                    "; the generator lost its core {n} times, for {ms:.0} ms: what was lost in a trial with that says nothing, unless it was more than {} %",
                    Trial::CLEAR * 100.0
                )?;
            }
            if row.interruptions.0 > 0 {
                let (n, ms) = row.interruptions;
                write!(
                    f,
                    "; the machine interrupted {n} turns for {ms:.0} ms, which is left out, and {} frames lost while the caches filled again behind these, or the core was shared, are not counted",
                    row.set_aside
                )?;
            }
            let limits = Self::limits(row);
            writeln!(f, "{}{limits}", if limits.is_empty() { "" } else { "; " })?;
        }
        for r in &self.ratios {
            let of = |s: &Summary| format!("{:.3} ({:.3} – {:.3})", s.median, s.quartiles.0, s.quartiles.1);
            writeln!(
                f,
                "{}: director to reflector, by round: saturated {}, NDR {}, PDR {}; by cycles a frame, undisturbed {}",
                r.size,
                of(&r.saturated),
                of(&r.ndr),
                of(&r.pdr),
                of(&r.cost)
            )?;
        }
        if self.rows.iter().any(|r| r.subject == Subject::Reflector) && self.options.subject != Subject::Reflector {
            writeln!(f, "the reflector is port and loop without a pipeline: what can be shown here at most")?;
        }
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        Ok(())
    }
}
