//! Charts as SVG text: lines over an axis, and stacked bars. Few elements, which a plotting library would not make fewer.

use std::fmt::Write;

const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 420.0;
/// Edges of what is plotted. Right of it stands the legend.
const LEFT: f64 = 80.0;
const RIGHT: f64 = 660.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 360.0;

/// How an axis maps values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// In proportion; a vertical axis begins at 0.
    Linear,
    /// In proportion, about the values only: for differences that are small against them. The axis must say so.
    Near,
    /// By the logarithm; values above 0 only.
    Log,
}

/// One line of a chart.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub name: String,
    pub colour: &'static str,
    /// A line without points of its own: a level to compare with.
    pub level: bool,
    pub points: Vec<(f64, f64)>,
}

/// Lines over a horizontal axis.
#[derive(Debug, Clone)]
pub(crate) struct Chart {
    pub title: String,
    pub x_label: &'static str,
    pub y_label: &'static str,
    pub x_scale: Scale,
    pub y_scale: Scale,
    pub x_ticks: Vec<(f64, String)>,
    pub lines: Vec<Line>,
    /// A place on the horizontal axis, and what is there.
    pub mark: Option<(f64, String)>,
}

/// Maps values of one axis to places.
struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn new(scale: Scale, low: f64, high: f64, from: f64, to: f64) -> Self {
        // One value only stands in the middle.
        let (low, high) = match scale {
            _ if high > low => (low, high),
            Scale::Linear | Scale::Near => (low - 1.0, low + 1.0),
            Scale::Log => (low / 2.0, low * 2.0),
        };
        Axis { scale, low, high, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        let of = |v: f64| if self.scale == Scale::Log { v.max(f64::MIN_POSITIVE).ln() } else { v };
        let share = (of(value) - of(self.low)) / (of(self.high) - of(self.low));
        self.from + share * (self.to - self.from)
    }

    /// Round values within the axis, some five of them.
    fn ticks(&self) -> Vec<f64> {
        if self.scale == Scale::Log {
            let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
            let all: Vec<f64> = decades.flat_map(|d| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(d))).collect();
            let within = |v: &f64| (self.low..=self.high).contains(v);
            let fine: Vec<f64> = all.iter().copied().filter(within).collect();
            return if fine.len() > 9 { all.into_iter().step_by(3).filter(within).collect() } else { fine };
        }
        let rough = (self.high - self.low) / 5.0;
        let decade = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * decade).find(|s| *s >= rough).unwrap_or(rough);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        (first..=last.min(first + 20)).map(|n| n as f64 * step).collect()
    }
}

/// A number with as many digits as it needs.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1e6 => format!("{}M", value / 1e6),
        v if v >= 1e4 => format!("{}k", value / 1e3),
        _ => format!("{}", (value * 1e6).round() / 1e6),
    }
}

/// Text as XML and HTML want it.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// An SVG document that grows. Writing into a string cannot fail, so what `write!` returns says nothing.
struct Canvas(String);

impl Canvas {
    fn new(title: &str) -> Self {
        let mut c = Canvas(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
        ));
        let _ = writeln!(c.0, "<title>{}</title>", escape(title));
        c.text(LEFT, 26.0, "start", "#111", &format!("<tspan font-size=\"16\">{}</tspan>", escape(title)));
        c
    }

    /// Text that is escaped already.
    fn text(&mut self, x: f64, y: f64, anchor: &str, colour: &str, text: &str) {
        let _ = writeln!(
            self.0,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{text}</text>"
        );
    }

    fn line(&mut self, a: (f64, f64), b: (f64, f64), colour: &str, more: &str) {
        let _ = writeln!(
            self.0,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" {more}/>",
            a.0, a.1, b.0, b.1
        );
    }

    fn labels(&mut self, x_label: &str, y_label: &str) {
        self.text((LEFT + RIGHT) / 2.0, BOTTOM + 44.0, "middle", "#333", &escape(x_label));
        let (x, y) = (20.0, (TOP + BOTTOM) / 2.0);
        let turned = format!("<tspan>{}</tspan>", escape(y_label));
        let _ = writeln!(
            self.0,
            "<text transform=\"translate({x},{y}) rotate(-90)\" text-anchor=\"middle\" fill=\"#333\">{turned}</text>"
        );
    }

    /// Horizontal lines with their values.
    fn rungs(&mut self, axis: &Axis) {
        for value in axis.ticks() {
            let y = axis.place(value);
            self.line((LEFT, y), (RIGHT, y), "#ddd", "");
            self.text(LEFT - 8.0, y + 4.0, "end", "#333", &number(value));
        }
        self.line((LEFT, TOP), (LEFT, BOTTOM), "#333", "");
        self.line((LEFT, BOTTOM), (RIGHT, BOTTOM), "#333", "");
    }

    fn legend(&mut self, at: usize, colour: &str, dashed: bool, name: &str) {
        let y = TOP + 10.0 + 22.0 * at as f64;
        let more = if dashed { "stroke-width=\"2\" stroke-dasharray=\"6 4\"" } else { "stroke-width=\"4\"" };
        self.line((RIGHT + 16.0, y), (RIGHT + 38.0, y), colour, more);
        self.text(RIGHT + 46.0, y + 4.0, "start", "#111", &escape(name));
    }

    fn end(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}

impl Chart {
    /// The chart as an SVG document.
    pub fn svg(&self) -> String {
        let mut canvas = Canvas::new(&self.title);
        let all = |pick: fn(&(f64, f64)) -> f64| self.lines.iter().flat_map(|l| l.points.iter()).map(pick);
        let least = all(|p| p.0).fold(f64::INFINITY, f64::min);
        let most = all(|p| p.0).fold(f64::NEG_INFINITY, f64::max);
        let x = Axis::new(self.x_scale, least, most, LEFT + 12.0, RIGHT - 12.0);
        let highest = all(|p| p.1).fold(f64::MIN_POSITIVE, f64::max);
        let lowest = all(|p| p.1).fold(f64::INFINITY, f64::min).max(f64::MIN_POSITIVE);
        let (low, high) = match self.y_scale {
            Scale::Linear => (0.0, highest * 1.08),
            Scale::Near => (lowest - 0.2 * (highest - lowest), highest + 0.1 * (highest - lowest)),
            Scale::Log => (lowest / 1.3, highest * 1.3),
        };
        let y = Axis::new(self.y_scale, low, high, BOTTOM, TOP);
        canvas.rungs(&y);
        for (value, label) in &self.x_ticks {
            let at = x.place(*value);
            canvas.line((at, BOTTOM), (at, BOTTOM + 5.0), "#333", "");
            canvas.text(at, BOTTOM + 20.0, "middle", "#333", &escape(label));
        }
        canvas.labels(self.x_label, self.y_label);
        for (at, line) in self.lines.iter().enumerate() {
            let places: Vec<_> = line.points.iter().map(|p| (x.place(p.0), y.place(p.1))).collect();
            let path: Vec<String> = places.iter().map(|p| format!("{:.1},{:.1}", p.0, p.1)).collect();
            let dashes = if line.level { " stroke-dasharray=\"6 4\"" } else { "" };
            let _ = writeln!(
                canvas.0,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{dashes}/>",
                path.join(" "),
                line.colour
            );
            for ((px, py), (vx, vy)) in places.iter().zip(&line.points).filter(|_| !line.level) {
                let shown = format!("{}: {} at {}", line.name, number(*vy), number(*vx));
                let _ = writeln!(
                    canvas.0,
                    "<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"3.5\" fill=\"{}\"><title>{}</title></circle>",
                    line.colour,
                    escape(&shown)
                );
            }
            canvas.legend(at, line.colour, line.level, &line.name);
        }
        if let Some((value, what)) = &self.mark {
            let at = x.place(*value);
            canvas.line((at, TOP), (at, BOTTOM), "#111", "stroke-width=\"1.5\" stroke-dasharray=\"2 3\"");
            let anchor = if at > (LEFT + RIGHT) / 2.0 { "end" } else { "start" };
            let beside = if anchor == "end" { at - 6.0 } else { at + 6.0 };
            canvas.text(beside, BOTTOM - 8.0, anchor, "#111", &escape(what));
        }
        canvas.end()
    }
}

/// Bars of parts that lie on each other.
#[derive(Debug, Clone)]
pub(crate) struct Bars {
    pub title: String,
    pub y_label: &'static str,
    /// Names of the parts, from the bottom.
    pub parts: Vec<(String, &'static str)>,
    /// Each bar's name and parts.
    pub bars: Vec<(String, Vec<f64>)>,
}

impl Bars {
    /// The chart as an SVG document.
    pub fn svg(&self) -> String {
        let mut canvas = Canvas::new(&self.title);
        let highest = self.bars.iter().map(|(_, v)| v.iter().sum::<f64>()).fold(1.0, f64::max);
        let y = Axis::new(Scale::Linear, 0.0, highest * 1.08, BOTTOM, TOP);
        canvas.rungs(&y);
        canvas.labels("", self.y_label);
        let room = (RIGHT - LEFT) / self.bars.len().max(1) as f64;
        for (n, (name, values)) in self.bars.iter().enumerate() {
            let (left, width) = (LEFT + room * (n as f64 + 0.2), room * 0.6);
            let mut sum = 0.0;
            for ((part, colour), value) in self.parts.iter().zip(values) {
                let (from, to) = (y.place(sum), y.place(sum + value));
                sum += value;
                let shown = format!("{name}, {part}: {value:.0}");
                let _ = writeln!(
                    canvas.0,
                    "<rect x=\"{left:.1}\" y=\"{to:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{colour}\">\
                     <title>{}</title></rect>",
                    from - to,
                    escape(&shown)
                );
            }
            let middle = left + width / 2.0;
            canvas.text(middle, y.place(sum) - 6.0, "middle", "#111", &number(sum.round()));
            // A comma of a name is where it is broken.
            for (line, part) in name.split(", ").enumerate() {
                canvas.text(middle, BOTTOM + 20.0 + 16.0 * line as f64, "middle", "#333", &escape(part));
            }
        }
        // As they lie on each other.
        for (at, (name, colour)) in self.parts.iter().rev().enumerate() {
            canvas.legend(at, colour, false, name);
        }
        canvas.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_maps_its_ends_and_its_ticks_are_round() {
        let axis = Axis::new(Scale::Log, 1.0, 1000.0, 0.0, 300.0);
        assert!((axis.place(10.0) - 100.0).abs() < 1e-9);
        assert!(axis.ticks().contains(&100.0));
        let axis = Axis::new(Scale::Linear, 0.0, 4.3, 300.0, 0.0);
        assert_eq!(axis.ticks(), [0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(axis.place(0.0), 300.0);
        // One value is no range, and must not divide by it.
        assert!(Axis::new(Scale::Linear, 5.0, 5.0, 0.0, 10.0).place(5.0).is_finite());
    }

    #[test]
    fn text_cannot_leave_its_element() {
        assert_eq!(escape("<a href=\"x\">&'"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
        let bars = Bars {
            title: "a < b".into(),
            y_label: "y",
            parts: vec![("p&q".into(), "#000")],
            bars: vec![("one, two".into(), vec![3.0])],
        };
        let svg = bars.svg();
        assert!(svg.contains("a &lt; b") && svg.contains("p&amp;q") && !svg.contains("a < b"));
        assert!(svg.contains(">one</text>") && svg.contains(">two</text>"));
    }
}
