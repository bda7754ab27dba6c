//! The file of the secret that a director and its filters share.

use lcs_pipelines::migration::message::ChannelKey;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Shortest secret, bytes.
const LEAST: usize = 16;
/// Longest, bytes.
const MOST: u64 = 4096;

/// Why a file is no key.
#[derive(Debug, thiserror::Error)]
pub enum BadKey {
    /// It can't be read.
    #[error("the key {file} cannot be read: {error}")]
    Unreadable {
        /// Its name.
        file: String,
        /// Why.
        error: std::io::Error,
    },
    /// Others may read it.
    #[error("the key {0} may be read by others than its owner")]
    Open(String),
    /// It is too short, or too long.
    #[error("the key {0} has {1} bytes; 16 to 4096 make a secret")]
    Length(String, usize),
}

impl BadKey {
    /// What to do about it.
    pub fn mend(&self) -> String {
        match self {
            BadKey::Open(file) => format!("chmod 600 {file}"),
            BadKey::Unreadable { file, .. } | BadKey::Length(file, _) => {
                format!(
                    "make one with `head -c 32 /dev/urandom | base64 > {file}; chmod 600 {file}`, and copy it to the servers"
                )
            }
        }
    }
}

/// Reads a key. White space around it does not count.
///
/// # Errors
/// When there is none, or it is no secret.
pub fn read(path: &Path) -> Result<ChannelKey, BadKey> {
    let name = path.display().to_string();
    let read = || {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path)?;
        let mode = file.metadata()?.mode();
        file.take(MOST + 1).read_to_end(&mut bytes)?;
        Ok((bytes, mode))
    };
    let (bytes, mode) = read().map_err(|error| BadKey::Unreadable { file: name.clone(), error })?;
    if mode & 0o077 != 0 {
        return Err(BadKey::Open(name));
    }
    let secret = bytes.trim_ascii();
    if secret.len() < LEAST || bytes.len() as u64 > MOST {
        return Err(BadKey::Length(name, secret.len()));
    }
    Ok(ChannelKey::from_secret(secret))
}
