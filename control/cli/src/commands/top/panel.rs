//! A table with a title, laid out for a width: as styled lines for a terminal, as text for a pipe.

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

/// What a cell wants to be noticed for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tone {
    /// Nothing.
    #[default]
    Plain,
    /// All is well.
    Good,
    /// Look here.
    Warn,
    /// Something is wrong.
    Bad,
    /// Less important.
    Dim,
}

impl Tone {
    /// How it is drawn: colours of the terminal's own palette, so that they fit its background.
    pub fn style(self) -> Style {
        match self {
            Tone::Plain => Style::new(),
            Tone::Good => Style::new().fg(Color::Green),
            Tone::Warn => Style::new().fg(Color::Yellow),
            Tone::Bad => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
            Tone::Dim => Style::new().add_modifier(Modifier::DIM),
        }
    }
}

/// One cell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell that is noticed.
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Cell { text: text.into(), tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Cell { text: text.into(), tone: Tone::Plain }
    }
}

/// A table.
#[derive(Debug, Clone, Default)]
pub struct Panel {
    title: String,
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

#[derive(Debug, Clone)]
struct Column {
    head: String,
    right: bool,
    /// How soon it is left out where there is no room: 0 never, 9 first.
    spare: u8,
}

/// Columns between columns.
const GAP: usize = 2;

impl Panel {
    /// A table with these columns. Before a column's name may stand a digit, how soon it is left out where there is no room
    /// (9 first, none or 0 never), and then `>` for a column of numbers.
    pub fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        let column = |c: &&str| {
            let (spare, rest) = match c.as_bytes().first() {
                Some(d) if d.is_ascii_digit() => (d - b'0', &c[1..]),
                _ => (0, *c),
            };
            Column { head: rest.trim_start_matches('>').to_owned(), right: rest.starts_with('>'), spare }
        };
        Panel { title: title.into(), columns: columns.iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Adds one line of text, where there is no row or after them.
    pub fn say(&mut self, text: impl Into<String>) {
        self.rows.push(vec![Cell::toned(text, Tone::Dim)]);
    }

    /// Widths of the columns that fit into `width`; 0 for one that is left out.
    fn widths(&self, width: usize) -> Vec<usize> {
        let mut widths: Vec<usize> = self.columns.iter().map(|c| c.head.chars().count()).collect();
        for row in self.rows.iter().filter(|r| r.len() > 1) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.chars().count());
            }
        }
        loop {
            let shown = widths.iter().filter(|w| **w > 0).count();
            let wanted = widths.iter().sum::<usize>() + GAP * shown.saturating_sub(1);
            if wanted <= width {
                return widths;
            }
            let least = (0..widths.len()).filter(|i| widths[*i] > 0).max_by_key(|i| self.columns[*i].spare);
            match least {
                Some(i) if self.columns[i].spare > 0 => widths[i] = 0,
                _ => break,
            }
        }
        // Even what is never left out is too wide: the widest gives.
        let shown = widths.iter().filter(|w| **w > 0).count();
        while widths.iter().sum::<usize>() + GAP * shown.saturating_sub(1) > width {
            match widths.iter_mut().max() {
                Some(widest) if *widest > 1 => *widest -= 1,
                _ => break,
            }
        }
        widths
    }

    /// The title, the head and the rows, each at most `width` wide.
    pub fn lines(&self, width: usize) -> Vec<Line<'static>> {
        let bold = Style::new().add_modifier(Modifier::BOLD).fg(Color::Cyan);
        let mut lines = vec![Line::from(Span::styled(clip(&self.title, width), bold))];
        let widths = self.widths(width);
        if self.rows.iter().any(|r| r.len() > 1) {
            let head: Vec<Cell> = self.columns.iter().map(|c| Cell::toned(c.head.clone(), Tone::Dim)).collect();
            lines.push(self.line(&head, &widths));
        }
        for row in &self.rows {
            lines.push(match row.as_slice() {
                [only] => Line::from(Span::styled(clip(&only.text, width), only.tone.style())),
                cells => self.line(cells, &widths),
            });
        }
        lines
    }

    fn line(&self, cells: &[Cell], widths: &[usize]) -> Line<'static> {
        let mut spans = Vec::with_capacity(cells.len() * 2);
        for ((column, cell), width) in self.columns.iter().zip(cells).zip(widths).filter(|(_, w)| **w > 0) {
            if !spans.is_empty() {
                spans.push(Span::raw(" ".repeat(GAP)));
            }
            let text = clip(&cell.text, *width);
            let pad = " ".repeat(width.saturating_sub(text.chars().count()));
            let text = if column.right { pad + &text } else { text + &pad };
            spans.push(Span::styled(text, cell.tone.style()));
        }
        Line::from(spans)
    }
}

/// `text`, cut to `width` with a mark where it was.
pub fn clip(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(width.saturating_sub(1)).collect();
    if width > 0 {
        out.push('…');
    }
    out
}

/// Lines without their style.
pub fn text(lines: &[Line<'_>]) -> String {
    let mut out = String::new();
    for line in lines {
        let line: String = line.spans.iter().map(|s| s.content.as_ref()).collect();
        out += line.trim_end();
        out.push('\n');
    }
    out
}

/// A bar for a share of 0 to 1, `width` wide, in eighths of a column.
pub fn bar(share: f64, width: usize) -> String {
    let eighths = (share.clamp(0.0, 1.0) * width as f64 * 8.0).round() as usize;
    let parts = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let mut out = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        out.push(parts[eighths % 8]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel() -> Panel {
        let mut p = Panel::new("servers", &["server", "9address", ">weight", "3state"]);
        p.row(["web/s1".into(), "10.0.0.1:8080".into(), "1".into(), Cell::toned("up", Tone::Good)]);
        p.say("that is all");
        p
    }

    #[test]
    fn columns_are_left_out_in_their_order_and_then_cut() {
        let wide = text(&panel().lines(80));
        assert_eq!(
            wide,
            "servers\nserver  address        weight  state\nweb/s1  10.0.0.1:8080       1  up\nthat is all\n"
        );
        assert_eq!(text(&panel().lines(30)), "servers\nserver  weight  state\nweb/s1       1  up\nthat is all\n");
        assert_eq!(text(&panel().lines(14)), "servers\nserver  weight\nweb/s1       1\nthat is all\n");
        assert_eq!(text(&panel().lines(8)), "servers\nse…  we…\nwe…    1\nthat is…\n");
        assert!(panel().lines(0).iter().all(|l| l.width() < 8));
    }

    #[test]
    fn bars_are_as_long_as_their_share() {
        assert_eq!((bar(0.5, 4), bar(0.53125, 4), bar(7.0, 2)), ("██".into(), "██▏".into(), "██".into()));
        assert_eq!((bar(0.0, 4), bar(f64::NAN, 4)), (String::new(), String::new()));
    }
}
