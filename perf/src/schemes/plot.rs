//! The plots of a run.

use super::{Figures, Pays, Point, Row, Series, report};
use crate::network::MILLISECOND;
pub use crate::plot::Plot;
use crate::plot::svg::{Bars, Chart, Line, Scale};

/// Distinct for those who do not see all colours too (Okabe and Ito).
fn colour(series: Series) -> &'static str {
    match series {
        Series::Forward => "#555555",
        Series::Matching => "#cc79a7",
        Series::Delayed => "#e69f00",
        Series::Pooled => "#009e73",
        Series::Filter => "#56b4e9",
        Series::Preallocate(0) => "#d55e00",
        Series::Preallocate(_) => "#0072b2",
        Series::ForwardDirect => "#999999",
        Series::PreallocateDirect(0) => "#8b4513",
        Series::PreallocateDirect(_) => "#332288",
    }
}

const STAGES: [&str; 9] =
    ["#999999", "#56b4e9", "#0072b2", "#e69f00", "#cc79a7", "#009e73", "#d55e00", "#444444", "#f0e442"];

fn cycles(row: &Row) -> f64 {
    row.cycles.per_connection.median
}

/// Every plot that the run has at least two points for.
pub fn all(figures: &Figures) -> Vec<Plot> {
    let [(_, sizes), (_, rules), (_, keepalives)] = figures.dimensions();
    let labelled = |points: &[(usize, Point)], label: fn(usize) -> String| -> Vec<(f64, String)> {
        points.iter().map(|(n, _)| (*n as f64, label(*n))).collect()
    };
    let mut plots = vec![];
    let typical = |row: &Row| figures.typical(row) / MILLISECOND as f64;
    let real = figures.is_real();
    let mut add = |name, caption: &str, chart: Chart| {
        plots.push(Plot { name, caption: caption.to_owned(), svg: chart.svg() });
    };
    if sizes.len() > 1 {
        let chart = Chart {
            title: "Response time by document size".into(),
            x_label: "document (logarithmic)",
            y_label: if real {
                "median response time, real ms (logarithmic)"
            } else {
                "mean response time, simulated ms (logarithmic)"
            },
            x_scale: Scale::Log,
            y_scale: Scale::Log,
            x_ticks: labelled(&sizes, report::bytes),
            lines: lines(figures, &sizes, typical),
            mark: None,
        };
        let time = if real { "in real time, between kernels" } else { "in simulated time" };
        let caption = format!("From the client's SYN to the last byte of the response, {time}.");
        add("response-by-size", &caption, chart);
    }
    let mut by_rate = |name, title, y_label, value: fn(&Row) -> f64, pays| {
        if let Some(chart) = by_hit_rate(figures, title, y_label, value, pays) {
            add(name, &format!("Preallocation beside delayed binding and forwarding: it pays {pays}."), chart);
        }
    };
    by_rate(
        "response-by-hit-rate",
        "Response time by hit rate of the guess",
        if real {
            "median response time, real ms; not from 0"
        } else {
            "mean response time with the director's work, ms; not from 0"
        },
        |row| row.timed().median / MILLISECOND as f64,
        figures.pays_by_time(),
    );
    by_rate(
        "cycles-by-hit-rate",
        "Director's cycles by hit rate of the guess",
        "TSC cycles a connection; not from 0",
        cycles,
        figures.break_even.cycles,
    );
    if rules.len() > 1 {
        let chart = Chart {
            title: "Director's cycles by number of rules".into(),
            x_label: "rules (logarithmic)",
            y_label: "TSC cycles a connection",
            x_scale: Scale::Log,
            y_scale: Scale::Linear,
            x_ticks: labelled(&rules, |n| n.to_string()),
            lines: lines(figures, &rules, cycles),
            mark: None,
        };
        add("cycles-by-rules", "Median over the rounds. Forwarding reads no rules: its line shows the noise.", chart);
    }
    if keepalives.len() > 1 {
        let chart = Chart {
            title: "Response time of a request by requests of a connection".into(),
            x_label: "requests of a connection (logarithmic)",
            y_label: if real {
                "median response time / requests, real ms"
            } else {
                "mean response time / requests, simulated ms"
            },
            x_scale: Scale::Log,
            y_scale: Scale::Linear,
            x_ticks: labelled(&keepalives, |n| n.to_string()),
            lines: lines(figures, &keepalives, |row| typical(row) / row.point.keepalive as f64),
            mark: None,
        };
        add("response-by-keepalive", "The handshake and the guess are shared by all requests of a connection.", chart);
    }
    plots.push(by_stage(figures));
    plots
}

/// A line for each of the main series over a dimension.
fn lines(figures: &Figures, points: &[(usize, Point)], value: impl Fn(&Row) -> f64) -> Vec<Line> {
    let line = |series: Series| {
        let of = |(n, point): &(usize, Point)| Some((*n as f64, value(figures.row(series, *point)?)));
        let points = points.iter().filter_map(of).collect();
        Line { name: series.to_string(), colour: colour(series), level: false, points }
    };
    Series::MAIN.map(line).to_vec()
}

fn by_hit_rate(
    figures: &Figures,
    title: &str,
    y_label: &'static str,
    value: fn(&Row) -> f64,
    pays: Pays,
) -> Option<Chart> {
    let curve: Vec<_> = figures.by_hit_rate().map(|(rate, row)| (rate, value(row))).collect();
    let ends = [curve.first()?.0, curve.last()?.0];
    let level = |series: Series| {
        let at = value(figures.row(series, figures.base)?);
        let points = ends.map(|rate| (rate, at)).to_vec();
        Some(Line { name: series.to_string(), colour: colour(series), level: true, points })
    };
    let guess = Line { name: "preallocate".into(), colour: "#0072b2", level: false, points: curve.clone() };
    let mark = if let Pays::From(rate) = pays { Some((rate, format!("break-even {rate:.1} %"))) } else { None };
    (curve.len() > 1).then(|| Chart {
        title: title.to_owned(),
        x_label: "right guesses, percent of connections",
        y_label,
        x_scale: Scale::Linear,
        y_scale: Scale::Near,
        x_ticks: curve.iter().map(|(rate, _)| (*rate, format!("{rate} %"))).collect(),
        lines: [Some(guess), level(Series::Delayed), level(Series::Forward)].into_iter().flatten().collect(),
        mark,
    })
}

fn by_stage(figures: &Figures) -> Plot {
    let rows: Vec<&Row> = Series::MAIN.iter().filter_map(|s| figures.row(*s, figures.base)).collect();
    let names = rows.first().map(|r| r.cycles.stages.iter().map(|s| s.name.clone()).collect::<Vec<_>>());
    let bars = Bars {
        title: "Director's cycles a connection by stage".into(),
        y_label: "TSC cycles a connection",
        parts: names.unwrap_or_default().into_iter().zip(STAGES.into_iter().cycle()).collect(),
        bars: rows
            .iter()
            .map(|r| (r.series.to_string(), r.cycles.stages.iter().map(|s| s.per_connection.median).collect()))
            .collect(),
    };
    let caption = "Medians of each stage; their sum need not be the median of the whole.".to_owned();
    Plot { name: "cycles-by-stage", caption, svg: bars.svg() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plot_has_its_series_and_nothing_that_is_no_number() {
        let figures = super::super::measure(&super::super::tests::small(), |_| {}).unwrap();
        let plots = all(&figures);
        let names: Vec<_> = plots.iter().map(|p| p.name).collect();
        // One number of rules is no line.
        let expected = [
            "response-by-size",
            "response-by-hit-rate",
            "cycles-by-hit-rate",
            "response-by-keepalive",
            "cycles-by-stage",
        ];
        assert_eq!(names, expected);
        for plot in &plots {
            assert!(plot.svg.contains("delayed") && plot.svg.ends_with("</svg>\n"), "{}", plot.name);
            assert!(!plot.svg.contains("NaN") && !plot.svg.contains("inf"), "{}: {}", plot.name, plot.svg);
        }
        let points = plots[0].svg.matches("<circle").count();
        assert_eq!(points, 2 * Series::MAIN.len());
    }
}
