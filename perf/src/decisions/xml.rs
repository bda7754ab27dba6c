//! How fast documents are read: a path at the document's end, and one that is known at its beginning.

use super::workload::request;
use super::{DecisionsError, Subject};
use crate::neighbour::{COLUMNS, Sharing, Watch, columns};
use crate::summary::Summary;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Requests that are decided in turn.
const REQUESTS: usize = 16;
/// Timed slices a round and size.
const SLICES: usize = 5;

/// What to measure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct XmlOptions {
    /// Bytes of a document.
    pub sizes: Vec<usize>,
    /// Rounds, each with figures of its own for every size.
    pub rounds: usize,
}

impl Default for XmlOptions {
    fn default() -> Self {
        XmlOptions { sizes: vec![1_000, 10_000, 100_000], rounds: 15 }
    }
}

/// One size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct XmlRow {
    /// Bytes of the request, head included.
    pub bytes: usize,
    /// GB/s, where a rule asks for `purchase/totalAmount`, which stands at the end.
    pub at_the_end: Summary,
    /// The same by whether the core was shared; absent where that can't be told.
    pub sharing: Option<Sharing>,
    /// ns, where a rule asks for `purchase/customerName`, the root's first child.
    pub first_child: Summary,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct XmlFigures {
    /// With what.
    pub options: XmlOptions,
    /// Size by size.
    pub rows: Vec<XmlRow>,
}

/// Measures; `progress` is told what comes next.
///
/// # Errors
/// When an option is out of range, or a request is not decided as it should be.
pub fn measure(options: &XmlOptions, mut progress: impl FnMut(&str)) -> Result<XmlFigures, DecisionsError> {
    let range = |what, value, mend| Err(DecisionsError::Range { what, value, mend });
    if let Some(&n) = options.sizes.iter().find(|n| !(200..=10_000_000).contains(*n)) {
        return range("a size of", n, "200 to 10000000 bytes");
    }
    if !(1..=10_000).contains(&options.rounds) {
        return range("a number of rounds", options.rounds, "1 to 10000");
    }
    // The n-th request's total is n × 10 + 5: the rule takes one of them, and the others go through to the end.
    let mut end = Subject::new("if (xml.purchase/totalAmount == 5) routeTo(web)\ndefault: reject\n", 16 << 20)?;
    let mut first =
        Subject::new("if (xml.purchase/customerName == \"customer0\") routeTo(web)\ndefault: reject\n", 16 << 20)?;
    let takes = |place: usize| usize::from(place > 0);
    let mut subjects = Vec::new();
    for &size in &options.sizes {
        let requests: Vec<Vec<u8>> = (0..REQUESTS).map(|n| request(n, Some(size))).collect();
        end.check(&requests, takes)?;
        first.check(&requests, takes)?;
        let bytes = requests.iter().map(Vec::len).sum::<usize>() as f64 / REQUESTS as f64;
        subjects.push((requests, bytes, Vec::new(), Vec::new(), Watch::default()));
    }
    for round in 0..options.rounds {
        progress(&format!("round {} of {}", round + 1, options.rounds));
        for (requests, bytes, at_the_end, first_child, watch) in &mut subjects {
            at_the_end.push(*bytes / watch.round(|| end.time(requests, SLICES)));
            first_child.push(first.time(requests, SLICES));
        }
    }
    let rows = subjects.into_iter().map(|(_, bytes, at_the_end, first_child, watch)| XmlRow {
        bytes: bytes.round() as usize,
        sharing: watch.sort(&at_the_end),
        at_the_end: Summary::of(at_the_end),
        first_child: Summary::of(first_child),
    });
    Ok(XmlFigures { options: options.clone(), rows: rows.collect() })
}

impl fmt::Display for XmlFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "HTTP requests with an XML body, head and decision included; {} rounds, each the best of {SLICES} slices; sizes \
             interleaved; median (quartiles)",
            self.options.rounds
        )?;
        writeln!(f, "{COLUMNS}")?;
        writeln!(f)?;
        writeln!(
            f,
            "{:>9}  {:>26} {:>7} {:>7}  {:>26}",
            "bytes", "path at the end, GB/s", "alone", "shared", "root's first child, ns"
        )?;
        for row in &self.rows {
            let (e, c) = (row.at_the_end, row.first_child);
            writeln!(
                f,
                "{:>9}  {:>26} {}  {:>26}",
                row.bytes,
                format!("{:.2} ({:.2} – {:.2})", e.median, e.quartiles.0, e.quartiles.1),
                columns(row.sharing.as_ref(), 2),
                format!("{:.0} ({:.0} – {:.0})", c.median, c.quartiles.0, c.quartiles.1)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_gives_both_figures() {
        let figures = measure(&XmlOptions { sizes: vec![500, 5_000], rounds: 2 }, |_| {}).unwrap();
        assert_eq!(figures.rows.len(), 2);
        assert!(figures.rows.iter().all(|r| r.at_the_end.min > 0.0 && r.first_child.min > 0.0));
        assert!(figures.rows[1].bytes > figures.rows[0].bytes + 4_000);
        assert!(measure(&XmlOptions { sizes: vec![1], rounds: 2 }, |_| {}).is_err());
    }
}
