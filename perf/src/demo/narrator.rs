//! What the demo says while it plays.

use std::fmt::{self, Display};
use std::io::Write;

use super::report::Check;

/// Writes a line for every step and every check. A reader that has gone away is no reason to stop.
pub struct Narrator<'a> {
    out: Box<dyn Write + 'a>,
}

impl fmt::Debug for Narrator<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Narrator")
    }
}

impl<'a> Narrator<'a> {
    /// Speaks to `out`.
    pub fn new(out: impl Write + 'a) -> Self {
        Narrator { out: Box::new(out) }
    }

    /// A heading: what is played now.
    pub fn scene(&mut self, title: impl Display) {
        let _ = writeln!(self.out, "{title}");
    }

    /// A step: what is done now.
    pub fn step(&mut self, what: impl Display) {
        let _ = writeln!(self.out, "  … {what}");
    }

    /// What a check found.
    pub fn check(&mut self, check: &Check) {
        let mark = if check.ok { '✓' } else { '✗' };
        let _ = writeln!(self.out, "  {mark} {}: {}", check.name, check.detail);
    }
}
