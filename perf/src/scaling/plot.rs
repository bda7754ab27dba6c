//! The plot and the page of `lcs perf scaling --plot`.

use super::Figures;
use crate::plot::svg::{Chart, Line, Scale};
use crate::plot::{COLOURS, Page, Plot};

/// Packets a second by number of workers: measured, and by the model.
pub fn all(figures: &Figures) -> Vec<Plot> {
    let Some(model) = &figures.model else { return vec![] };
    let line = |at: usize, name: &str, level, points: Vec<(f64, f64)>| Line {
        name: name.to_owned(),
        colour: COLOURS[at],
        level,
        points,
    };
    let of = |steered: bool| {
        let rows = figures.rows.iter().filter(|r| r.steered == steered);
        rows.map(|r| (r.workers as f64, r.rate.median / 1e6)).collect::<Vec<_>>()
    };
    let mut lines = vec![line(0, "measured", false, of(true))];
    if !of(false).is_empty() {
        lines.push(line(1, "directors of one", false, of(false)));
    }
    lines.push(line(
        2,
        "model, RSS fits",
        true,
        model.needs.iter().map(|n| (n.workers as f64, n.fitting / 1e6)).collect(),
    ));
    let regardless = model.needs.iter().filter_map(|n| Some((n.workers as f64, n.handed_over? / 1e6)));
    let regardless: Vec<_> = regardless.collect();
    if !regardless.is_empty() {
        lines.push(line(3, "model, handed over", true, regardless));
    }
    for (at, target) in model.targets.iter().enumerate() {
        let ends = [1.0, model.needs.last().map_or(1.0, |n| n.workers as f64)];
        lines.push(line(4 + at, &target.name, true, ends.map(|n| (n, target.rate / 1e6)).to_vec()));
    }
    let ticks = [1, 2, 4, 8, 16, 32].map(|n: usize| (n as f64, n.to_string())).to_vec();
    let chart = Chart {
        title: "Packets a second by workers".into(),
        x_label: "workers (logarithmic)",
        y_label: "Mpps (logarithmic)",
        x_scale: Scale::Log,
        y_scale: Scale::Log,
        x_ticks: ticks,
        lines,
        mark: None,
    };
    let caption =
        "Points are measured; dashed lines are the model's, whose assumptions stand below, and links.".to_owned();
    vec![Plot { name: "scaling", caption, svg: chart.svg() }]
}

/// The report of a run; `line` is the command line that made it.
pub fn page(figures: &Figures, line: &str) -> String {
    let mut page = Page::new("Scaling", line);
    page.sentences(figures.setting());
    page.plots(&all(figures));
    page.figures(figures, &figures.options)
}
