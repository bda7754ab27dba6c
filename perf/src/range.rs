//! What a command says of an option's value that it can't work with.

use std::fmt::Display;

/// A number out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is {given}; it must be between {least} and {most}")]
pub struct OutOfRange {
    /// Option.
    pub what: &'static str,
    /// Its value.
    pub given: String,
    /// Smallest that works.
    pub least: String,
    /// Largest that works.
    pub most: String,
}

/// Checks a value. One that can't be compared (not a number) is out of every range.
pub(crate) fn in_range<T: PartialOrd + Display>(
    what: &'static str,
    given: T,
    least: T,
    most: T,
) -> Result<(), OutOfRange> {
    if given >= least && given <= most {
        return Ok(());
    }
    Err(OutOfRange { what, given: given.to_string(), least: least.to_string(), most: most.to_string() })
}
