//! Unpacks a recorded tree into a folder and reads the machine from there.
//!
//! A tree is a text: `PATH: TEXT` is a file, `PATH: <<` one whose lines follow behind `| `, `PATH -> TARGET` a symbolic link,
//! `#` begins a comment.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use lcs_hwconf::machine::Machine;

static FOLDERS: AtomicU32 = AtomicU32::new(0);

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The machine of `tests/machines/NAME.tree`.
pub fn machine(name: &str) -> Machine {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/machines/{name}.tree"));
    let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
    let folder = Folder(std::env::temp_dir().join(format!("lcs-machine-{}-{number}", std::process::id())));
    unpack(&fs::read_to_string(&tree).unwrap_or_else(|e| panic!("{}: {e}", tree.display())), &folder.0);
    Machine::recorded(&folder.0).unwrap()
}

fn unpack(text: &str, root: &Path) {
    let mut lines = text.lines().filter(|line| !line.starts_with('#')).peekable();
    while let Some(line) = lines.next() {
        let place = |path: &str| {
            let place = root.join(path);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            place
        };
        if let Some((path, target)) = line.split_once(" -> ") {
            symlink(target, place(path)).unwrap();
            continue;
        }
        // A PCI address has colons, too: the one before a blank or the end of the line counts.
        let (path, content) = line
            .split_once(": ")
            .or_else(|| Some((line.strip_suffix(':')?, "")))
            .unwrap_or_else(|| panic!("not a line of a tree: {line}"));
        let mut content = content.to_owned();
        if content == "<<" {
            content.clear();
            while let Some(more) = lines.next_if(|line| line.starts_with('|')) {
                content += more.strip_prefix("| ").unwrap_or_default();
                content.push('\n');
            }
        }
        fs::write(place(path), content).unwrap();
    }
}
