//! The picture and the page of `lcs perf stages --plot`: a packet's cycles, stage upon stage.

use super::Figures;
use crate::plot::svg::Bars;
use crate::plot::{Page, Plot};

/// Distinct for those who do not see all colours too (Okabe and Ito).
const STAGES: [&str; 9] =
    ["#999999", "#56b4e9", "#0072b2", "#e69f00", "#cc79a7", "#009e73", "#d55e00", "#444444", "#f0e442"];

/// Every plot of the run.
pub fn all(figures: &Figures) -> Vec<Plot> {
    let stages = |of: fn(&crate::summary::Summary) -> f64| -> Vec<f64> {
        figures.stages.iter().map(|s| of(&s.cycles_per_packet)).collect()
    };
    let bars = Bars {
        title: format!("{}: cycles a packet by stage", figures.subject()),
        y_label: "TSC cycles a packet",
        parts: figures.stages.iter().map(|s| s.name.clone()).zip(STAGES.into_iter().cycle()).collect(),
        bars: vec![
            ("first quartile, of each stage".to_owned(), stages(|s| s.quartiles.0)),
            ("median, of each stage".to_owned(), stages(|s| s.median)),
            ("third quartile, of each stage".to_owned(), stages(|s| s.quartiles.1)),
        ],
    };
    let whole = &figures.cycles_per_packet;
    let caption = format!(
        "Over {} rounds, each stage by itself, so that their sum need not be the whole loop's {:.1} ({:.1} – {:.1}) cycles, which has the loop's own work in it, too.",
        whole.rounds, whole.median, whole.quartiles.0, whole.quartiles.1
    );
    vec![Plot { name: "cycles-by-stage", caption, svg: bars.svg() }]
}

/// The report of a run; `line` is the command line that made it.
pub fn page(figures: &Figures, line: &str) -> String {
    let mut page = Page::new("Cycles by stage", line);
    page.heading("Plots");
    page.plots(&all(figures));
    page.figures(figures, &figures.options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::{Options, measure};

    #[test]
    fn every_stage_lies_on_the_one_before_it_and_the_page_stands_alone() {
        let o = Options { flows: 200, rounds: 3, packets: 2000, ..Options::default() };
        let figures = measure(&o, |_| {}).unwrap();
        let plots = all(&figures);
        let svg = &plots[0].svg;
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        for stage in &figures.stages {
            let shown = format!("median, of each stage, {}: {:.0}<", stage.name, stage.cycles_per_packet.median);
            assert!(svg.contains(&shown), "{shown} in {svg}");
        }
        let page = page(&figures, "lcs perf stages --plot \"<here>\"");
        assert!(page.contains("&lt;here&gt;") && page.contains("whole loop") && page.contains("cores"));
        assert!(!page.contains("src=") && !page.contains("<link") && !page.contains("<script"));
    }
}
