//! What the parser needs to know beyond the text: list files, and the names that exist.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::PathBuf;

use super::file::text_of;

/// The largest list file, in bytes.
pub const MAX_LIST_BYTES: u64 = 16 << 20;
/// The most entries of a list file.
pub const MAX_LIST_ENTRIES: usize = 500_000;

/// Where `@file` lists are read from.
pub trait ReadList {
    /// The text of the list that a rule names `@name`, or why it cannot be had.
    fn read(&self, name: &str) -> Result<String, String>;
}

/// Lists in files, relative to the folder of the rule file.
#[derive(Debug, Clone)]
pub struct ListsIn(pub PathBuf);

impl ReadList for ListsIn {
    fn read(&self, name: &str) -> Result<String, String> {
        let path = self.0.join(name);
        let shown = path.display();
        let file = std::fs::File::open(&path).map_err(|error| format!("{shown}: {error}"))?;
        let mut bytes = Vec::new();
        file.take(MAX_LIST_BYTES + 1).read_to_end(&mut bytes).map_err(|error| format!("{shown}: {error}"))?;
        if bytes.len() as u64 > MAX_LIST_BYTES {
            return Err(format!("{shown}: longer than {MAX_LIST_BYTES} bytes"));
        }
        text_of(bytes).map_err(|error| format!("{shown}: {error}"))
    }
}

/// No lists: every `@file` is an error.
#[derive(Debug, Clone, Copy)]
pub struct NoLists;

impl ReadList for NoLists {
    fn read(&self, _name: &str) -> Result<String, String> {
        Err("list files are not available here".into())
    }
}

/// The names that a rule may use. Where a set is not given, any name will do.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Server groups: `routeTo`, `loadBalance`, `server_up`, `connections`.
    pub groups: Option<BTreeSet<String>>,
    /// Servers: `forward`.
    pub servers: Option<BTreeSet<String>>,
    /// Named queues: the second argument of `forward`.
    pub queues: Option<BTreeSet<String>>,
    /// Schedulers: the second argument of `loadBalance`.
    pub algorithms: Option<BTreeSet<String>>,
}

/// What a rule set is read against.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// What errors and findings call the file.
    pub file: &'a str,
    /// Where list files are; with none they are not read and stay empty, which is right for printing only.
    pub lists: Option<&'a dyn ReadList>,
    /// The names that exist.
    pub names: Option<&'a Names>,
    /// A service uses the set, so `default` is compulsory.
    pub require_default: bool,
}

impl<'a> Context<'a> {
    /// A file by name, without lists, any name, no compulsory default.
    pub fn named(file: &'a str) -> Self {
        Context { file, lists: Some(&NoLists), names: None, require_default: false }
    }
}
