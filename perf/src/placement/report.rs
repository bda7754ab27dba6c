//! What `lcs perf placement` prints, and what follows from it.

use super::{Capacity, Latency, Options};
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
    /// The two cores; the content worker has the second.
    pub cores: Vec<usize>,
    /// What both carry, by rules and share.
    pub capacities: Vec<Capacity>,
    /// Delays, by rules.
    pub latencies: Vec<Latency>,
    /// What follows from all that.
    pub advice: Advice,
}

/// Which placement to use when, as these figures say.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Advice {
    /// A sentence each.
    pub sentences: Vec<String>,
}

/// Which of two is better, where the quartiles of their ratio leave no doubt.
fn side(ratio: &Summary) -> Option<bool> {
    let (low, high) = ratio.quartiles;
    if low > 1.0 {
        Some(true)
    } else if high < 1.0 {
        Some(false)
    } else {
        None
    }
}

fn range(values: impl Iterator<Item = f64> + Clone) -> String {
    let low = values.clone().fold(f64::INFINITY, f64::min);
    let high = values.fold(f64::NEG_INFINITY, f64::max);
    if format!("{low:.2}") == format!("{high:.2}") { format!("{low:.2}") } else { format!("{low:.2} to {high:.2}") }
}

fn percent(share: f64) -> String {
    format!("{} %", (share * 1000.0).round() / 10.0)
}

impl Advice {
    /// Draws what can be drawn from the figures, and nothing else.
    pub(super) fn of(figures: &Figures) -> Advice {
        let mut sentences = vec![];
        let all = figures.capacities.len();
        let cells = |won: Option<bool>| figures.capacities.iter().filter(move |c| side(&c.ratio) == won);
        let named = |won| {
            let names: Vec<String> =
                cells(won).map(|c| format!("{} at {}", c.rules.name(), percent(c.share))).collect();
            names.join(", ")
        };
        let (together, split) = (cells(Some(false)).count(), cells(Some(true)).count());
        if together > 0 {
            sentences.push(format!(
                "for throughput, run-to-completion carries more in {together} of {all} cells: split has {} of its requests \
                 a second there",
                range(cells(Some(false)).map(|c| c.ratio.median))
            ));
        }
        if split > 0 {
            sentences.push(format!(
                "for throughput, split carries more in {split} of {all} cells, {} times as much: {}",
                range(cells(Some(true)).map(|c| c.ratio.median)),
                named(Some(true))
            ));
        }
        if together + split < all {
            sentences.push(format!(
                "in {} of {all} cells neither is better beyond the spread of the rounds: {}",
                all - together - split,
                named(None)
            ));
        }
        let busier = |c: &Capacity| c.content_cycles.median / c.port_cycles.median.max(1.0);
        if let Some(even) = figures.capacities.iter().min_by(|a, b| {
            let off = |c: &Capacity| busier(c).ln().abs();
            off(a).total_cmp(&off(b))
        }) {
            sentences.push(format!(
                "split loads its two cores most evenly with {} at {}, where the content worker does {:.0} % of what the \
                 port worker does; the core that does less idles",
                even.rules.name(),
                percent(even.share),
                busier(even) * 100.0
            ));
        }
        for (what, won, ratio) in [
            ("split keeps packets of layer 4 from waiting behind requests", Some(false), true),
            ("packets of layer 4 wait longer in split", Some(true), true),
            ("a request is decided sooner in split", Some(false), false),
            ("a request is decided sooner in run-to-completion", Some(true), false),
        ] {
            let of = |l: &&Latency| side(if ratio { &l.packet_ratio } else { &l.decision_ratio }) == won;
            let found: Vec<&Latency> = figures.latencies.iter().filter(of).collect();
            if found.is_empty() {
                continue;
            }
            let one = |l: &&Latency| {
                let pick = |d: &super::Delays| if ratio { d.packet_p99.median } else { d.decision.median };
                let (a, b) = (pick(&l.run_to_completion), pick(&l.split));
                format!("{} ({:.1} µs, in run-to-completion {:.1} µs)", l.rules.name(), b / 1e3, a / 1e3)
            };
            let names: Vec<String> = found.iter().map(one).collect();
            let part = if ratio { "99 of 100" } else { "half of them" };
            sentences.push(format!("{what}, {part}: {}", names.join(", ")));
        }
        sentences.push(Self::conclusion(figures));
        Advice { sentences }
    }

    fn conclusion(figures: &Figures) -> String {
        let carries = |rules, better| {
            let mut of = figures.capacities.iter().filter(|c| c.rules == rules);
            of.any(|c| side(&c.ratio) == Some(better))
        };
        let spares = |l: &Latency| side(&l.packet_ratio) == Some(false);
        let names = |of: Vec<String>| of.join(", ");
        let throughput = figures.latencies.iter().filter(|l| carries(l.rules, true) && !carries(l.rules, false));
        let throughput: Vec<String> = throughput.map(|l| l.rules.name()).collect();
        let delay: Vec<String> = figures.latencies.iter().filter(|l| spares(l)).map(|l| l.rules.name()).collect();
        match (throughput.is_empty(), delay.is_empty()) {
            (true, true) => "so, here: run-to-completion, whatever the rules are".to_owned(),
            (true, false) => format!(
                "so, here: run-to-completion for throughput; split where packets of layer 4 must not wait behind rules that \
                 cost as much as {}",
                names(delay)
            ),
            (false, true) => format!("so, here: split for {}, run-to-completion otherwise", names(throughput)),
            (false, false) => format!(
                "so, here: split for {}, and where packets of layer 4 must not wait behind {}; run-to-completion otherwise",
                names(throughput),
                names(delay)
            ),
        }
    }
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
                "two threads pinned to cores {}: two workers that do everything, against a port worker and a content worker",
                self.cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
            ),
            format!(
                "memory port, NAT, delayed binding for every request; connections of {} requests, {} at once, responses of \
                 1,000 B; packets of layer 4 on 1,024 flows make up the rest of the share; ring of {} places",
                o.requests, o.connections, o.depth
            ),
            "requests/s are in the workers' own time, clients and servers not counted; of split, what the busier of its two \
             threads carries"
                .to_owned(),
            "delays: one connection a core, and a packet of layer 4 each 2 µs of the workers' own time; of a decision, from the \
             request's last byte to the first segment to a server"
                .to_owned(),
            format!(
                "{} rounds of {} s, all interleaved; TSC {:.3} GHz; median (quartiles)",
                o.rounds,
                o.seconds,
                self.tsc_hz as f64 / 1e9
            ),
        ]
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for sentence in self.setting() {
            writeln!(f, "{sentence}")?;
        }
        writeln!(
            f,
            "\n{:<10} {:>9} {:>24} {:>24} {:>22} {:>10} {:>10} {:>10} {:>7}",
            "rules",
            "undecided",
            "run-to-compl., k req/s",
            "split, k req/s",
            "split/run-to-compl.",
            "cycles",
            "port",
            "content",
            "full"
        )?;
        for c in &self.capacities {
            writeln!(
                f,
                "{:<10} {:>9} {:>24} {:>24} {:>22} {:>10.0} {:>10.0} {:>10.0} {:>7}",
                c.rules.name(),
                percent(c.share),
                spread(&c.run_to_completion, 1e-3, 1),
                spread(&c.split, 1e-3, 1),
                spread(&c.ratio, 1.0, 2),
                c.cycles.median,
                c.port_cycles.median,
                c.content_cycles.median,
                percent(c.full),
            )?;
        }
        writeln!(
            f,
            "cycles: of a request and the packets of layer 4 beside it, in run-to-completion, and in split by thread"
        )?;
        writeln!(
            f,
            "\n{:<10} {:<18} {:>24} {:>12} {:>22} {:>26}",
            "rules", "placement", "decision p50, µs", "p99, µs", "packet p50, µs", "packet p99, µs"
        )?;
        for l in &self.latencies {
            for (name, d) in [("run-to-completion", &l.run_to_completion), ("split", &l.split)] {
                writeln!(
                    f,
                    "{:<10} {:<18} {:>24} {:>12.1} {:>22} {:>26}",
                    l.rules.name(),
                    name,
                    spread(&d.decision, 1e-3, 1),
                    d.decision_p99.median / 1e3,
                    spread(&d.packet, 1e-3, 2),
                    spread(&d.packet_p99, 1e-3, 2),
                )?;
            }
        }
        writeln!(f, "\nwhat follows:")?;
        for sentence in &self.advice.sentences {
            writeln!(f, "- {sentence}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Delays, Rules};
    use super::*;

    fn of(values: [f64; 3]) -> Summary {
        Summary::of(values.to_vec())
    }

    fn figures(ratios: &[(Rules, [f64; 3])], packets: &[(Rules, [f64; 3])]) -> Figures {
        let one = of([1000.0; 3]);
        let capacity = |(rules, ratio): &(Rules, [f64; 3])| Capacity {
            rules: *rules,
            share: 1.0,
            run_to_completion: one,
            cycles: one,
            split: one,
            port_cycles: one,
            content_cycles: one,
            ratio: of(*ratio),
            full: 0.0,
        };
        let delays = Delays { decision: one, decision_p99: one, packet: one, packet_p99: one };
        let latency = |(rules, ratio): &(Rules, [f64; 3])| Latency {
            rules: *rules,
            run_to_completion: delays.clone(),
            split: delays.clone(),
            packet_ratio: of(*ratio),
            decision_ratio: of([1.0; 3]),
        };
        let mut figures = Figures {
            options: Options::default(),
            tsc_hz: 1,
            cores: vec![0, 1],
            capacities: ratios.iter().map(capacity).collect(),
            latencies: packets.iter().map(latency).collect(),
            advice: Advice::default(),
        };
        figures.advice = Advice::of(&figures);
        figures
    }

    #[test]
    fn advice_follows_from_the_figures() {
        let xml = Rules::Xml(10_000);
        let last = |f: &Figures| f.advice.sentences.last().unwrap().clone();
        let f = figures(
            &[(Rules::Url, [0.5, 0.6, 0.7]), (xml, [1.2, 1.3, 1.4])],
            &[(Rules::Url, [0.9, 1.0, 1.1]), (xml, [0.1, 0.2, 0.3])],
        );
        assert!(
            f.to_string().contains("split carries more in 1 of 2 cells, 1.30 times as much: xml 10 KB at 100 %"),
            "{f}"
        );
        assert!(last(&f).contains("split for xml 10 KB, and where") && last(&f).ends_with("otherwise"), "{f}");
        // The other way round.
        let f = figures(
            &[(Rules::Url, [1.2, 1.3, 1.4]), (xml, [0.5, 0.6, 0.7])],
            &[(Rules::Url, [1.1, 1.2, 1.3]), (xml, [1.1, 1.2, 1.3])],
        );
        assert_eq!(last(&f), "so, here: split for url, run-to-completion otherwise");
        // A difference within the spread is none.
        let f = figures(&[(Rules::Url, [0.9, 1.0, 1.1])], &[(Rules::Url, [0.9, 1.0, 1.1])]);
        assert!(f.advice.sentences[0].starts_with("in 1 of 1 cells neither is better"), "{f}");
        assert_eq!(last(&f), "so, here: run-to-completion, whatever the rules are");
        // Throughput lost, delays won.
        let f = figures(&[(xml, [0.5, 0.6, 0.7])], &[(xml, [0.1, 0.2, 0.3])]);
        assert!(last(&f).contains("run-to-completion for throughput; split where"), "{f}");
    }
}
