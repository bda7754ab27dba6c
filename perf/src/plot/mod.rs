//! Charts and pages: what the commands with `--plot` write.

mod page;
pub(crate) mod svg;

pub(crate) use page::Page;
pub use page::Plot;

/// Colours that those who do not see all of them can tell apart, too (Okabe and Ito).
pub(crate) const COLOURS: [&str; 6] = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#555555"];
