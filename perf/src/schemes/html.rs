//! One page with everything: tables, plots, the machine, how it was made. It needs nothing from elsewhere.

use super::report::{COLUMNS, bytes, cells};
use super::svg::escape;
use super::{Figures, Row, Series, plot};
use std::fmt::Write;

const STYLE: &str = "body{font:15px/1.45 sans-serif;color:#111;max-width:72rem;margin:2rem auto;padding:0 1rem}\
table{border-collapse:collapse;margin:.5rem 0 1.5rem;font-variant-numeric:tabular-nums}\
th,td{padding:.2rem .6rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}\
th{white-space:normal;vertical-align:bottom}td.name,th.name{text-align:left}\
code,pre{background:#f4f4f4;padding:.1rem .3rem}pre{overflow:auto;padding:.6rem}\
figure{margin:1.5rem 0}figcaption{color:#444}svg{max-width:100%;height:auto}.wide{overflow:auto}";

/// The report of a run; `line` is the command line that made it.
pub fn report(figures: &Figures, line: &str) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>Binding schemes side by side</title><style>{STYLE}</style></head><body>\n\
         <h1>Binding schemes side by side</h1>\n"
    );
    // Writing into a string cannot fail.
    let _ = writeln!(page, "<p>Made by <code>{}</code> on {}.</p>", escape(line), escape(&machine()));
    for sentence in figures.setting() {
        let _ = writeln!(page, "<p>{}.</p>", escape(&sentence));
    }
    page.push_str("<ul>\n");
    for sentence in figures.pays() {
        let _ = writeln!(page, "<li>{}.</li>", escape(&sentence));
    }
    for note in &figures.notes {
        let _ = writeln!(page, "<li>{}</li>", escape(note));
    }
    page.push_str("</ul>\n<h2>Plots</h2>\n");
    for plot in plot::all(figures) {
        let _ = writeln!(page, "<figure>{}<figcaption>{}</figcaption></figure>", plot.svg, escape(&plot.caption));
    }
    page.push_str("<h2>Tables</h2>\n");
    for (what, points) in figures.dimensions() {
        let name = |n: usize| if what == "document size" { bytes(n) } else { n.to_string() };
        let rows = points
            .iter()
            .flat_map(|(n, point)| Series::MAIN.into_iter().filter_map(|s| Some((name(*n), figures.row(s, *point)?))));
        table(&mut page, &format!("By {what}"), rows);
    }
    let rates = figures.by_hit_rate().map(|(rate, row)| (format!("{rate} %"), row));
    table(&mut page, "By hit rate of the guess", rates);
    page.push_str("<h2>Configuration</h2>\n");
    let options = serde_json::to_string_pretty(&figures.options).unwrap_or_default();
    let _ = writeln!(page, "<pre>{}</pre>\n</body></html>", escape(&options));
    page
}

fn table<'f>(page: &mut String, caption: &str, rows: impl Iterator<Item = (String, &'f Row)>) {
    let _ = write!(
        page,
        "<h3>{}</h3>\n<div class=\"wide\"><table><tr><th></th><th class=\"name\">series</th>",
        escape(caption)
    );
    for column in COLUMNS {
        let _ = write!(page, "<th>{}</th>", escape(column));
    }
    page.push_str("</tr>\n");
    for (first, row) in rows {
        let _ = write!(page, "<tr><td>{}</td><td class=\"name\">{}</td>", escape(&first), row.series);
        for cell in cells(row) {
            let _ = write!(page, "<td>{}</td>", escape(&cell));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table></div>\n");
}

/// The processor, how many of its cores there are, and the system.
fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let model = model.unwrap_or("a processor that does not say its name");
    format!("{model}, {cores} cores, {} {}", std::env::consts::OS, kernel.trim())
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
