//! One page with everything: sentences, plots, tables, the machine, how it was made. It needs nothing from elsewhere.

use super::svg::escape;
use std::fmt::Write;

const STYLE: &str = "body{font:15px/1.45 sans-serif;color:#111;max-width:72rem;margin:2rem auto;padding:0 1rem}\
table{border-collapse:collapse;margin:.5rem 0 1.5rem;font-variant-numeric:tabular-nums}\
th,td{padding:.2rem .6rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}\
th{white-space:normal;vertical-align:bottom}td.name,th.name{text-align:left}\
code,pre{background:#f4f4f4;padding:.1rem .3rem}pre{overflow:auto;padding:.6rem}\
figure{margin:1.5rem 0}figcaption{color:#444}svg{max-width:100%;height:auto}.wide{overflow:auto}";

/// A plot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plot {
    /// Name of its file, without the ending.
    pub name: &'static str,
    /// What it shows, in a sentence.
    pub caption: String,
    /// An SVG document.
    pub svg: String,
}

/// A page that grows. Writing into a string cannot fail, so what `write!` returns says nothing.
#[derive(Debug)]
pub(crate) struct Page(String);

impl Page {
    /// With its title, the command line that made it and the machine.
    pub fn new(title: &str, line: &str) -> Self {
        let title = escape(title);
        let mut page = Page(format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\">\
             <title>{title}</title><style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n"
        ));
        let _ = writeln!(page.0, "<p>Made by <code>{}</code> on {}.</p>", escape(line), escape(&machine()));
        page
    }

    /// A paragraph for each sentence, without its full stop.
    pub fn sentences(&mut self, sentences: impl IntoIterator<Item = String>) {
        for sentence in sentences {
            let _ = writeln!(self.0, "<p>{}.</p>", escape(&sentence));
        }
    }

    /// A list.
    pub fn list(&mut self, items: impl IntoIterator<Item = String>) {
        self.0.push_str("<ul>\n");
        for item in items {
            let _ = writeln!(self.0, "<li>{}</li>", escape(&item));
        }
        self.0.push_str("</ul>\n");
    }

    /// A heading.
    pub fn heading(&mut self, text: &str) {
        let _ = writeln!(self.0, "<h2>{}</h2>", escape(text));
    }

    /// Plots with their captions.
    pub fn plots(&mut self, plots: &[Plot]) {
        for plot in plots {
            let _ = writeln!(self.0, "<figure>{}<figcaption>{}</figcaption></figure>", plot.svg, escape(&plot.caption));
        }
    }

    /// Text as a terminal shows it.
    pub fn text(&mut self, text: &str) {
        let _ = writeln!(self.0, "<pre>{}</pre>", escape(text));
    }

    /// More of it, as HTML.
    pub fn html(&mut self) -> &mut String {
        &mut self.0
    }

    /// The rest of a report: the figures as a terminal shows them, the settings, and the end.
    pub fn figures<F: std::fmt::Display, O: serde::Serialize>(mut self, figures: &F, options: &O) -> String {
        self.heading("Figures");
        self.text(&figures.to_string());
        self.heading("Settings");
        self.text(&serde_json::to_string_pretty(options).unwrap_or_default());
        self.end()
    }

    /// The page.
    pub fn end(mut self) -> String {
        self.0.push_str("</body></html>\n");
        self.0
    }
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
