//! The plots and the page of `lcs perf placement --plot`.

use super::{Figures, Rules};
use crate::plot::svg::{Chart, Line, Scale};
use crate::plot::{COLOURS, Page, Plot};

/// Throughput by share of undecided requests, and delays by what a rule costs.
pub fn all(figures: &Figures) -> Vec<Plot> {
    let names: Vec<(f64, String)> =
        figures.options.rules.iter().enumerate().map(|(n, rules)| (n as f64, rules.name())).collect();
    let ratio = Chart {
        title: "Requests/s of split over run-to-completion".into(),
        x_label: "share of undecided requests among these and packets of layer 4 (logarithmic)",
        y_label: "ratio (logarithmic)",
        x_scale: Scale::Log,
        y_scale: Scale::Log,
        x_ticks: figures.options.shares.iter().map(|s| (*s, format!("{} %", (s * 1000.0).round() / 10.0))).collect(),
        lines: by_rules(figures),
        mark: None,
    };
    let line = |at: usize, name: &str, points: Vec<(f64, f64)>| Line {
        name: name.to_owned(),
        colour: COLOURS[at % COLOURS.len()],
        level: at > 1,
        points,
    };
    let of = |pick: fn(&super::Latency) -> f64| {
        figures.latencies.iter().enumerate().map(|(n, l)| (n as f64, pick(l) / 1e3)).collect::<Vec<_>>()
    };
    let delays = |title: &str, y_label, lines| Chart {
        title: title.into(),
        x_label: "what rules look at",
        y_label,
        x_scale: Scale::Linear,
        y_scale: Scale::Log,
        x_ticks: names.clone(),
        lines,
        mark: None,
    };
    let packets = delays(
        "Delay of a packet of layer 4 beside requests",
        "µs (logarithmic)",
        vec![
            line(0, "run-to-compl., p99", of(|l| l.run_to_completion.packet_p99.median)),
            line(1, "split, p99", of(|l| l.split.packet_p99.median)),
            line(2, "run-to-compl., p50", of(|l| l.run_to_completion.packet.median)),
            line(3, "split, p50", of(|l| l.split.packet.median)),
        ],
    );
    let decisions = delays(
        "Delay of a decision",
        "µs (logarithmic)",
        vec![
            line(0, "run-to-compl., p50", of(|l| l.run_to_completion.decision.median)),
            line(1, "split, p50", of(|l| l.split.decision.median)),
        ],
    );
    let caption = |s: &str| s.to_owned();
    vec![
        Plot {
            name: "placement-throughput",
            caption: caption(
                "Above 1 a port worker and a content worker carry more than two workers that do everything.",
            ),
            svg: ratio.svg(),
        },
        Plot {
            name: "placement-packets",
            caption: caption("From when a packet of layer 4 was due to when it was sent on, in the workers' own time."),
            svg: packets.svg(),
        },
        Plot {
            name: "placement-decisions",
            caption: caption("From a request's last byte to the first segment to a server."),
            svg: decisions.svg(),
        },
    ]
}

fn by_rules(figures: &Figures) -> Vec<Line> {
    let points = |rules: Rules| {
        let cells = figures.capacities.iter().filter(|c| c.rules == rules);
        cells.map(|c| (c.share, c.ratio.median)).collect::<Vec<_>>()
    };
    let shares = &figures.options.shares;
    let ends = [shares.iter().copied().fold(1.0, f64::min), shares.iter().copied().fold(0.0, f64::max)];
    let even = Line {
        name: "the same".into(),
        colour: COLOURS[5],
        level: true,
        points: ends.map(|share| (share, 1.0)).to_vec(),
    };
    let line = |(n, rules): (usize, &Rules)| Line {
        name: rules.name(),
        colour: COLOURS[n % 5],
        level: false,
        points: points(*rules),
    };
    figures.options.rules.iter().enumerate().map(line).chain([even]).collect()
}

/// The report of a run; `line` is the command line that made it.
pub fn page(figures: &Figures, line: &str) -> String {
    let mut page = Page::new("Placement", line);
    page.sentences(figures.setting());
    page.heading("What follows");
    page.list(figures.advice.sentences.clone());
    page.plots(&all(figures));
    page.heading("Figures");
    page.text(&figures.to_string());
    page.heading("Settings");
    page.text(&serde_json::to_string_pretty(&figures.options).unwrap_or_default());
    page.end()
}
