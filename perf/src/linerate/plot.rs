//! The plots and the page of `lcs perf linerate --plot`.

use super::{Figures, Row, Size};
use crate::plot::svg::{Chart, Line, Scale};
use crate::plot::{COLOURS, Page, Plot};
use crate::summary::Summary;

/// Percentiles of a latency plot.
const SHOWN: [f64; 5] = [50.0, 90.0, 99.0, 99.9, 99.99];

/// Every plot that the run has points for.
pub fn all(figures: &Figures) -> Vec<Plot> {
    by_size(figures).into_iter().chain(latency(figures)).collect()
}

/// Rates over the size of frames, where there are two of them.
fn by_size(figures: &Figures) -> Option<Plot> {
    let rows: Vec<(f64, &Row)> = figures
        .rows
        .iter()
        .filter(|r| r.subject == figures.options.subject)
        .filter_map(|r| if let Size::Bytes(n) = r.size { Some((n as f64, r)) } else { None })
        .collect();
    let line = |at: usize, name: &str, of: fn(&Row) -> Option<Summary>| {
        let points: Vec<_> = rows.iter().filter_map(|(n, r)| Some((*n, of(r)?.median / 1e6))).collect();
        Line { name: name.to_owned(), colour: COLOURS[at], level: false, points }
    };
    let chart = Chart {
        title: format!("{} on port {}: rate by frame size", figures.options.subject, figures.port),
        x_label: "bytes of a frame, FCS included (logarithmic)",
        y_label: "Mpps",
        x_scale: Scale::Log,
        y_scale: Scale::Linear,
        x_ticks: rows.iter().map(|(n, _)| (*n, n.to_string())).collect(),
        lines: vec![
            line(0, "no loss (NDR)", |r| r.ndr),
            line(1, &format!("{} % loss (PDR)", figures.options.loss * 100.0), |r| r.pdr),
            line(2, "saturated", |r| Some(r.saturated)),
        ],
        mark: None,
    };
    let caption = "Medians over the rounds.".to_owned();
    (rows.len() > 1).then(|| Plot { name: "rate-by-size", caption, svg: chart.svg() })
}

/// Latency by percentile of the first size, for each load.
fn latency(figures: &Figures) -> Option<Plot> {
    let row = figures.rows.iter().find(|r| r.subject == figures.options.subject && !r.loads.is_empty())?;
    // As many nines as a percentile has: 90 is one, 99 two.
    let place = |percent: f64| -(1.0 - percent / 100.0).log10();
    let lines = row.loads.iter().zip(COLOURS).filter_map(|((share, trial), colour)| {
        let of = trial.latency.as_ref()?;
        let points = of.percentiles.iter().filter(|(p, _)| SHOWN.contains(p));
        let points = points.map(|(p, ns)| (place(*p), *ns as f64 / 1e3)).collect();
        Some(Line { name: format!("{:.0} % of NDR", share * 100.0), colour, level: false, points })
    });
    let chart = Chart {
        title: format!("{} on port {}, {}: latency", figures.options.subject, figures.port, row.size),
        x_label: "percent of the probes",
        y_label: "µs (logarithmic)",
        x_scale: Scale::Linear,
        y_scale: Scale::Log,
        x_ticks: SHOWN.iter().map(|p| (place(*p), p.to_string())).collect(),
        lines: lines.collect(),
        mark: None,
    };
    let caption = "So many percent of the probes among the load were as fast or faster.".to_owned();
    Some(Plot { name: "latency", caption, svg: chart.svg() })
}

/// The report of a run; `line` is the command line that made it.
pub fn page(figures: &Figures, line: &str) -> String {
    let mut page = Page::new("Line rate", line);
    page.sentences(figures.setting());
    page.heading("Plots");
    page.plots(&all(figures));
    page.figures(figures, &figures.options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linerate::{Options, Search, measure};
    use std::time::Duration;

    #[test]
    fn plots_have_points_and_the_page_stands_alone() {
        let o = Options {
            flows: 200,
            sizes: vec![Size::Bytes(64), Size::Bytes(512), Size::Imix],
            search: Search { seconds: 0.01, resolution: 0.2, agree: 1, budget: Duration::from_secs(20) },
            rounds: Some(1),
            ..Options::default()
        };
        let figures = measure(&o, |_| {}).unwrap();
        if figures.rows[0].loads.is_empty() {
            println!("skipped: the machine was too busy for a rate");
            return;
        }
        let plots = all(&figures);
        assert_eq!(plots.iter().map(|p| p.name).collect::<Vec<_>>(), ["rate-by-size", "latency"]);
        // Two sizes with three rates each.
        assert_eq!(plots[0].svg.matches("<circle").count(), 6);
        assert!(plots.iter().all(|p| !p.svg.contains("NaN") && !p.svg.contains("inf")), "{plots:?}");
        let page = page(&figures, "lcs perf linerate --plot \"<here>\"");
        assert!(page.contains("&lt;here&gt;") && page.contains("descriptors") && page.contains("IMIX"));
        assert!(!page.contains("src=") && !page.contains("<link") && !page.contains("<script"));
    }
}
