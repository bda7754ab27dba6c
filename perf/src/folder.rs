//! Folders for what another program reads.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A folder among the temporary files, gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Makes one.
    pub fn create() -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("lcs-perf-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        // Not one that was there before: someone else might own it.
        fs::create_dir(&path)?;
        Ok(Folder(path))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes files into it: their names and texts.
    pub fn write<N: AsRef<Path>, T: AsRef<[u8]>>(&self, files: &[(N, T)]) -> io::Result<()> {
        files.iter().try_for_each(|(name, text)| fs::write(self.0.join(name), text))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Gone already is gone.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_with_all_that_is_in_it() {
        let folder = Folder::create().unwrap();
        let path = folder.path().to_owned();
        folder.write(&[("a", "1"), ("b", "2")]).unwrap();
        assert_eq!(fs::read_to_string(path.join("b")).unwrap(), "2");
        drop(folder);
        assert!(!path.exists());
    }
}
