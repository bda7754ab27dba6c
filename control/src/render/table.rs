//! Tables of text, and numbers that are easy to read.

/// Columns that are aligned when they are shown: numbers right, words left.
#[derive(Debug, Default)]
pub struct Table {
    head: Vec<String>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns; a name that begins with `>` is a column of numbers.
    pub fn new(columns: &[&str]) -> Self {
        Table {
            head: columns.iter().map(|c| c.trim_start_matches('>').to_owned()).collect(),
            right: columns.iter().map(|c| c.starts_with('>')).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as lines, each ended.
    pub fn show(&self) -> String {
        let mut widths: Vec<usize> = self.head.iter().map(|h| h.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut out = String::new();
        for row in std::iter::once(&self.head).chain(&self.rows) {
            let mut line = String::new();
            for (i, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[i].saturating_sub(cell.chars().count()));
                line += if i > 0 { "  " } else { "" };
                line += &if self.right[i] { pad + cell } else { format!("{cell}{pad}") };
            }
            out += line.trim_end();
            out.push('\n');
        }
        out
    }
}

/// `1,234,567`.
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `1.5 GB`.
pub fn bytes(n: u64) -> String {
    scaled(n as f64, "B")
}

/// `2.34 M` and a unit.
pub fn scaled(n: f64, unit: &str) -> String {
    let steps = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    match steps.iter().find(|(s, _)| n >= *s) {
        Some((s, prefix)) => format!("{:.2} {prefix}{unit}", n / s),
        None => format!("{n:.0} {unit}").trim_end().to_owned(),
    }
}

/// `3 d 4 h`, `5 min 6 s`, `7 s`.
pub fn duration(seconds: f64) -> String {
    let s = seconds as u64;
    match (s / 86_400, s / 3600 % 24, s / 60 % 60, s % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, ..) => format!("{d} d {h} h"),
    }
}

/// `12.3 %`.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_readable() {
        let mut t = Table::new(&["name", ">frames"]);
        t.row(["a".into(), number(1_234_567)]);
        t.row(["längst".into(), number(1)]);
        assert_eq!(t.show(), "name       frames\na       1,234,567\nlängst          1\n");
        assert_eq!((number(0), number(999), number(1000)), ("0".into(), "999".into(), "1,000".into()));
        assert_eq!((bytes(1500), bytes(12)), ("1.50 kB".into(), "12 B".into()));
        assert_eq!(
            (duration(7.9), duration(366.0), duration(90_000.0)),
            ("7 s".into(), "6 min 6 s".into(), "1 d 1 h".into())
        );
    }
}
