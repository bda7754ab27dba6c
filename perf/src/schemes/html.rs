//! One page with everything: tables, plots, the machine, how it was made. It needs nothing from elsewhere.

use super::report::{bytes, cells, columns};
use super::{Figures, Port, Row, Series, plot};
use crate::plot::Page;
use crate::plot::svg::escape;
use std::fmt::Write;

/// The report of a run; `line` is the command line that made it.
pub fn report(figures: &Figures, line: &str) -> String {
    let title = match figures.options.port {
        Port::Memory => "Binding schemes side by side",
        Port::AfXdp => "Binding schemes side by side, over real kernels: all times are real",
    };
    let mut page = Page::new(title, line);
    page.sentences(figures.setting());
    page.list(figures.pays().into_iter().map(|s| format!("{s}.")).chain(figures.notes.iter().cloned()));
    page.heading("What was to be reached");
    page.list(figures.verdicts.iter().map(ToString::to_string));
    page.heading("Plots");
    page.plots(&plot::all(figures));
    page.heading("Tables");
    for (what, points) in figures.dimensions() {
        let name = |n: usize| if what == "document size" { bytes(n) } else { n.to_string() };
        let rows = points
            .iter()
            .flat_map(|(n, point)| Series::MAIN.into_iter().filter_map(|s| Some((name(*n), figures.row(s, *point)?))));
        table(page.html(), &format!("By {what}"), figures.options.port, rows);
    }
    let rates = figures.by_hit_rate().map(|(rate, row)| (format!("{rate} %"), row));
    let directly = figures.by_hit_rate_directly().map(|(rate, row)| (format!("{rate} %"), row));
    table(page.html(), "By hit rate of the guess", figures.options.port, rates.chain(directly));
    page.heading("Configuration");
    page.text(&serde_json::to_string_pretty(&figures.options).unwrap_or_default());
    page.end()
}

fn table<'f>(page: &mut String, caption: &str, port: Port, rows: impl Iterator<Item = (String, &'f Row)>) {
    let _ = write!(
        page,
        "<h3>{}</h3>\n<div class=\"wide\"><table><tr><th></th><th class=\"name\">series</th>",
        escape(caption)
    );
    for column in columns(port) {
        let _ = write!(page, "<th>{}</th>", escape(column));
    }
    page.push_str("</tr>\n");
    for (first, row) in rows {
        let _ = write!(page, "<tr><td>{}</td><td class=\"name\">{}</td>", escape(&first), row.series);
        for cell in cells(row, port) {
            let _ = write!(page, "<td>{}</td>", escape(&cell));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table></div>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_stands_alone_and_shows_the_command_as_it_was() {
        let figures = super::super::measure(&super::super::tests::small(), |_| {}).unwrap();
        let page = report(&figures, "lcs perf schemes --plot \"<here>\"");
        assert!(page.contains("lcs perf schemes --plot &quot;&lt;here&gt;&quot;"));
        assert_eq!(page.matches("<svg").count(), plot::all(&figures).len());
        // Nothing is fetched: the only address is the name of SVG itself.
        assert_eq!(page.matches("http").count(), page.matches("http://www.w3.org/2000/svg").count());
        assert!(!page.contains("src=") && !page.contains("<link") && !page.contains("<script"));
        assert!(page.contains("<h3>By document size</h3>") && page.contains("20 kB"));
    }
}
