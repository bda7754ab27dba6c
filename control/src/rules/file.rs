//! Rule files: read whole, within their limit, with the lists beside them.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::ast::RuleSet;
use super::context::{Context, ListsIn, Names};
use super::diagnostic::Errors;
use super::parse::{MAX_FILE, parse};

/// Why a rule file gives no rule set.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{file}: cannot be read: {error} ({})", mend(.error))]
    Unreadable {
        /// The file.
        file: String,
        /// Why not.
        error: io::Error,
    },
    /// It is no rule set.
    #[error(transparent)]
    Errors(#[from] Errors),
}

/// What to do about a file that cannot be read.
pub(crate) fn mend(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "name an existing file",
        io::ErrorKind::InvalidData => "save it as UTF-8 text",
        io::ErrorKind::FileTooLarge => "split the set between services, or move long lists of values into @files",
        io::ErrorKind::InvalidInput => "name a regular file",
        _ => "make it readable for this user",
    }
}

/// The text of a file that is no longer than `limit` bytes.
///
/// # Errors
/// When it is none, or is longer, or no UTF-8.
pub fn read_text(path: &Path, limit: usize) -> Result<String, FileError> {
    let read = || {
        // A pipe or device might never end, and whoever reads may have others waiting.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > limit {
            let what = format!("it is longer than {} MiB", limit >> 20);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
        }
        text_of(bytes)
    };
    read().map_err(|error| FileError::Unreadable { file: path.display().to_string(), error })
}

/// Bytes as text.
///
/// # Errors
/// When they are no UTF-8: the message names the first line that is not.
pub(super) fn text_of(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let (before, rest) = error.as_bytes().split_at(good);
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        let byte = rest.first().copied().unwrap_or(0);
        io::Error::new(io::ErrorKind::InvalidData, format!("line {line} is not UTF-8: it has the byte {byte:#04x}"))
    })
}

/// Reads a rule set from a file; `@file` lists are looked for beside it.
///
/// # Errors
/// When the file cannot be read, or is no rule set; errors name it by its path.
pub fn read_file(path: &Path, names: Option<&Names>, require_default: bool) -> Result<RuleSet, FileError> {
    let text = read_text(path, MAX_FILE)?;
    let lists = ListsIn(path.parent().unwrap_or(Path::new("")).to_owned());
    let file = path.display().to_string();
    Ok(parse(&text, &Context { file: &file, lists: Some(&lists), names, require_default })?)
}
