//! What the director reads from files.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A rule file for as long as it is needed.
#[derive(Debug)]
pub struct RuleFile(PathBuf);

impl RuleFile {
    /// Writes one.
    ///
    /// # Errors
    /// When there is no room for it among the temporary files.
    pub fn write(text: &str) -> std::io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("lcs-demo-{}-{}.rules", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text)?;
        Ok(RuleFile(path))
    }

    /// Writes a secret, which nobody else may read.
    ///
    /// # Errors
    /// As [`RuleFile::write`].
    pub fn write_secret(text: &str) -> std::io::Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let file = RuleFile::write("")?;
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600))?;
        std::fs::write(file.path(), text)?;
        Ok(file)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for RuleFile {
    fn drop(&mut self) {
        // Gone already is gone.
        let _ = std::fs::remove_file(&self.0);
    }
}
