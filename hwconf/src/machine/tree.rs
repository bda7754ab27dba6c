//! Reading small files below a root folder, the live one or a recorded one.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Longest file that is read; `/proc/interrupts` of a machine with many cores is the longest by far.
const LONGEST: u64 = 16 << 20;

/// A folder with `sys` and `proc` in it.
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    pub(super) fn new(root: &Path) -> Self {
        Tree { root: root.to_owned() }
    }

    /// Where `path` is, for errors.
    pub(super) fn place(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// A file's text without the blanks around it; none where it is missing, unreadable or empty.
    ///
    /// Many files of `/sys` exist and give an error when read: that is a machine that does not tell.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        let mut bytes = Vec::new();
        File::open(self.root.join(path)).ok()?.take(LONGEST).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// A file's text as a number, where it is one.
    pub(super) fn number<T: FromStr>(&self, path: &str) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// A file's text as a list of cores; an empty file is an empty list.
    pub(super) fn cores(&self, path: &str) -> Option<Vec<usize>> {
        let text = fs::read_to_string(self.root.join(path)).ok()?;
        crate::cores::parse_list(text.trim()).ok()
    }

    /// Names of a folder's entries, sorted; none where it is missing.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.join(path)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Numbers of a folder's entries that are called `prefix` and a number, ascending.
    pub(super) fn numbered(&self, path: &str, prefix: &str) -> Vec<usize> {
        let mut numbers: Vec<usize> =
            self.names(path).iter().filter_map(|name| name.strip_prefix(prefix)?.parse().ok()).collect();
        numbers.sort_unstable();
        numbers
    }

    /// The last part of what a symbolic link points to, which need not exist.
    pub(super) fn link(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.root.join(path)).ok()?;
        target.file_name()?.to_str().map(str::to_owned)
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }
}
