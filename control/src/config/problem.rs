//! What is wrong with a configuration, shown at its place: file, line, column, the line itself, and the mend.

use crate::rules::Diagnostic;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;

/// Problems reported of one file at most; a file with more is probably not a configuration of ours.
const SHOWN: usize = 20;
/// Characters of a line that an excerpt shows at most.
const EXCERPT: usize = 160;

/// One mistake in a configuration file, or in a rule file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Where it is not the configuration file itself: the rule file. In answers of a director always there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub mend: String,
    /// The line.
    pub excerpt: String,
    /// Characters of the line that are meant, at least 1.
    pub width: usize,
}

impl Problem {
    /// With no more of a long line than a report shows of it.
    pub(crate) fn shortened(mut self) -> Self {
        if let Some((end, _)) = self.excerpt.char_indices().nth(EXCERPT) {
            self.excerpt.truncate(end);
        }
        self
    }
}

impl From<Diagnostic> for Problem {
    fn from(error: Diagnostic) -> Self {
        Problem {
            file: Some(error.file),
            line: error.position.line,
            column: error.position.column,
            what: error.message,
            mend: error.mend.unwrap_or_else(|| "see control/RULES.md for the language".to_owned()),
            excerpt: error.line_text.replace('\t', " "),
            width: error.width,
        }
    }
}

/// A configuration that is not valid, with everything that is wrong with it, in the file's order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct Invalid {
    /// The file.
    pub file: String,
    /// The mistakes, at least one.
    pub problems: Vec<Problem>,
}

impl Invalid {
    /// The mistakes, each with the name of its file.
    pub(crate) fn into_named_problems(self) -> impl Iterator<Item = Problem> {
        let file = self.file;
        self.problems.into_iter().map(move |p| Problem { file: p.file.or_else(|| Some(file.clone())), ..p })
    }

    /// A file that could not even be read.
    pub fn unreadable(file: &str, error: &std::io::Error) -> Self {
        let mend = match error.kind() {
            std::io::ErrorKind::NotFound => "name an existing file with -c, or write one: lcs init > lcs.toml",
            std::io::ErrorKind::InvalidData => "save it as UTF-8 text",
            _ => "make it readable for this user",
        };
        let problem = Problem {
            file: None,
            line: 0,
            column: 0,
            what: format!("cannot be read: {error}"),
            mend: mend.to_owned(),
            excerpt: String::new(),
            width: 1,
        };
        Invalid { file: file.to_owned(), problems: vec![problem] }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, p) in self.problems.iter().take(SHOWN).enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            let file = p.file.as_ref().unwrap_or(&self.file);
            if p.line == 0 {
                write!(f, "error: {file}: {}\n  = mend: {}", p.what, p.mend)?;
                continue;
            }
            let number = p.line.to_string();
            let gutter = " ".repeat(number.len());
            writeln!(f, "error: {}", p.what)?;
            writeln!(f, "{gutter}--> {file}:{}:{}", p.line, p.column)?;
            writeln!(f, "{gutter} |")?;
            if p.column <= EXCERPT {
                let line: String = p.excerpt.chars().take(EXCERPT).collect();
                let width = p.width.min(EXCERPT - p.column + 1);
                writeln!(f, "{number} | {line}")?;
                writeln!(f, "{gutter} | {}{}", " ".repeat(p.column - 1), "^".repeat(width))?;
            }
            write!(f, "{gutter} = mend: {}", p.mend)?;
        }
        match self.problems.len() {
            n if n > SHOWN => write!(f, "\n\n{} more mistakes are not shown", n - SHOWN),
            _ => Ok(()),
        }
    }
}

/// Collects mistakes by their byte range in the text.
#[derive(Debug)]
pub(super) struct Collector<'a> {
    text: &'a str,
    found: Vec<Found>,
}

#[derive(Debug)]
struct Found {
    span: Range<usize>,
    what: What,
}

#[derive(Debug)]
enum What {
    Here {
        what: String,
        mend: String,
    },
    /// In a file that is named here.
    There(Problem),
}

impl<'a> Collector<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Collector { text, found: Vec::new() }
    }

    pub(super) fn add(&mut self, span: Range<usize>, what: impl Into<String>, mend: impl Into<String>) {
        self.found.push(Found { span, what: What::Here { what: what.into(), mend: mend.into() } });
    }

    /// A mistake in another file, which is named at `span`.
    pub(super) fn add_there(&mut self, span: Range<usize>, problem: Problem) {
        self.found.push(Found { span, what: What::There(problem) });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Line, from 1, of a byte.
    pub(super) fn line(&self, at: usize) -> usize {
        self.text.get(..at).map_or(0, |before| before.matches('\n').count()) + 1
    }

    pub(super) fn finish(mut self, file: &str) -> Invalid {
        self.found.sort_by_key(|found| found.span.start);
        let found = std::mem::take(&mut self.found);
        let place = |found: Found| match found.what {
            What::Here { what, mend } => self.place(found.span, what, mend),
            What::There(problem) => problem,
        };
        let problems = found.into_iter().map(place).collect();
        Invalid { file: file.to_owned(), problems }
    }

    fn place(&self, span: Range<usize>, what: String, mend: String) -> Problem {
        let mut start = span.start.min(self.text.len());
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let line_start = self.text[..start].rfind('\n').map_or(0, |i| i + 1);
        let rest = &self.text[line_start..];
        let excerpt = rest.split('\n').next().unwrap_or_default().trim_end_matches('\r');
        let end = span.end.clamp(start, (line_start + excerpt.len()).max(start));
        let width = self.text.get(start..end).map_or(1, |s| s.chars().count()).max(1);
        Problem {
            file: None,
            line: self.line(start),
            column: self.text[line_start..start].chars().count() + 1,
            what,
            mend,
            // A tab would move the mark away from its place.
            excerpt: excerpt.replace('\t', " "),
            width,
        }
    }
}

/// The known word nearest to `word`, if one is near enough to be what was meant.
pub(crate) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_lowercase().replace('_', "-");
    known
        .iter()
        .map(|k| (distance(&lower, k), *k))
        .filter(|(d, k)| *d <= 1 + k.len() / 4)
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// Edits (insert, delete, replace, swap neighbours) from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = match (i, j) {
                (0, _) => j,
                (_, 0) => i,
                _ => {
                    let cost = usize::from(a[i - 1] != b[j - 1]);
                    let mut d = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + cost);
                    if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                        d = d.min(rows[i - 2][j - 2] + 1);
                    }
                    d
                }
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_finds_its_neighbour_and_a_strange_one_none() {
        let known = ["scheduler", "servers", "sources", "source-ports", "port"];
        assert_eq!(nearest("shceduler", &known), Some("scheduler"));
        assert_eq!(nearest("source_ports", &known), Some("source-ports"));
        assert_eq!(nearest("prot", &known), Some("port"));
        assert_eq!(nearest("colour", &known), None);
    }

    #[test]
    fn the_mark_stands_under_the_place_also_behind_wide_characters_and_at_the_end() {
        let text = "a = 1\nnäme = \"x\"\n";
        let mut c = Collector::new(text);
        let at = text.find("\"x\"").unwrap();
        c.add(at..at + 3, "wrong", "mend it");
        c.add(text.len()..text.len() + 5, "ends", "go on");
        let invalid = c.finish("f.toml");
        assert_eq!((invalid.problems[0].line, invalid.problems[0].column, invalid.problems[0].width), (2, 8, 3));
        assert_eq!((invalid.problems[1].line, invalid.problems[1].column), (3, 1));
        let shown = invalid.to_string();
        assert!(shown.contains(" --> f.toml:2:8\n  |\n2 | näme = \"x\"\n  |        ^^^\n  = mend: mend it"), "{shown}");
    }
}
