//! On which core a link's receive work runs, for links without interrupts of their own such as veths, and how threads that
//! aren't ours are pinned.
//!
//! A veth has no hardware: what one end sends is received at the other end in the sender's own context, on the sender's
//! core. To have hosts on cores of their own, as they would be on machines of their own, that work is steered: by receive
//! packet steering (RPS, `Documentation/networking/scaling.rst`) where the kernel's stack receives, and by a pinned NAPI
//! thread where an XDP program does, which comes before RPS.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::netns::Namespace;
use crate::sys;

/// How long the kernel may take to start its thread; microseconds in practice.
const PATIENCE: Duration = Duration::from_secs(2);
const LINKS: &str = "/sys/class/net";

/// Has the kernel's stack receive what comes on `links` of `namespace` on `core`, by RPS; with `None` on the core where it
/// comes in, as from the start.
pub fn receive_on(namespace: &Namespace, links: &[&str], core: Option<usize>) -> Result<()> {
    let mask = mask(core);
    with_sysfs(namespace, || {
        for link in links {
            for queue in receive_queues(link)? {
                write(&queue.join("rps_cpus"), &mask)?;
            }
        }
        Ok(())
    })
}

/// Has NAPI of `link` run in a kernel thread (one a queue) on `core` instead of in the sender's context, and gives the
/// threads' numbers. To be called while an XDP program is attached: without one a veth has no NAPI, which is an error. The
/// link keeps the setting for the next program, whose threads would not be pinned: [`poll_in_place`] undoes it.
pub fn poll_in_thread(namespace: &Namespace, link: &str, core: usize) -> Result<Vec<u32>> {
    let before = kernel_threads("napi/");
    let queues = with_sysfs(namespace, || {
        write(&Path::new(LINKS).join(link).join("threaded"), "1")?;
        Ok(receive_queues(link)?.len())
    })?;
    let deadline = Instant::now() + PATIENCE;
    // The kernel names them "napi/LINK-NUMBER" and cuts the name at 15 characters.
    let prefix: String = format!("napi/{link}-").chars().take(15).collect();
    loop {
        let started: Vec<u32> = kernel_threads(&prefix).into_iter().filter(|id| !before.contains(id)).collect();
        if started.len() >= queues {
            started.iter().try_for_each(|id| pin_thread(*id, core))?;
            return Ok(started);
        }
        if Instant::now() > deadline {
            return Err(Error::Timeout {
                what: format!("a thread of the kernel for {link}"),
                seconds: PATIENCE.as_secs(),
                mend: "is an XDP program attached to it?".into(),
            });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Undoes [`poll_in_thread`]: NAPI of `link` runs where frames come in again.
pub fn poll_in_place(namespace: &Namespace, link: &str) -> Result<()> {
    with_sysfs(namespace, || write(&Path::new(LINKS).join(link).join("threaded"), "0"))
}

/// Pins a thread by its number, of whatever process or of the kernel.
pub fn pin_thread(id: u32, core: usize) -> Result<()> {
    sys::pin_thread(id, core).map_err(|e| Error::system(format!("pin the thread {id} to core {core}"), e))
}

/// Has the program that `command` will start killed when the *thread* that starts it ends, in whatever way. For programs
/// started inside a namespace, which would keep it alive.
pub fn end_with_thread(command: &mut Command) {
    sys::end_with_thread(command);
}

/// Numbers of the kernel's own threads whose name begins with `prefix`.
pub fn kernel_threads(prefix: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter(|id| name_of_kernel_thread(*id).is_some_and(|name| name.starts_with(prefix))).collect()
}

fn name_of_kernel_thread(id: u32) -> Option<String> {
    // The kernel's own threads have no program and so no command line.
    let line = fs::read(format!("/proc/{id}/cmdline")).ok()?;
    let name = fs::read_to_string(format!("/proc/{id}/comm")).ok()?;
    line.is_empty().then(|| name.trim_end().to_owned())
}

/// Runs `action` where `/sys` shows `namespace`. The mount is the thread's own and goes with it.
fn with_sysfs<T: Send>(namespace: &Namespace, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    namespace.run(|| {
        sys::mount_own_sysfs().map_err(|e| Error::system("mount /sys for a network namespace", e))?;
        action()
    })?
}

fn receive_queues(link: &str) -> Result<Vec<PathBuf>> {
    let folder = Path::new(LINKS).join(link).join("queues");
    let entries = fs::read_dir(&folder).map_err(|e| Error::system(format!("read {}", folder.display()), e))?;
    let is_receive = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("rx-"));
    Ok(entries.flatten().map(|entry| entry.path()).filter(is_receive).collect())
}

fn write(file: &Path, value: &str) -> Result<()> {
    fs::write(file, value).map_err(|e| Error::system(format!("write {value} to {}", file.display()), e))
}

/// The kernel's form: hexadecimal words of 32 cores with commas between, the highest first.
fn mask(core: Option<usize>) -> String {
    let Some(core) = core else { return "0".into() };
    let mut text = format!("{:x}", 1u32 << (core % 32));
    for _ in 0..core / 32 {
        text.push_str(",00000000");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_written_as_the_kernel_reads_it() {
        assert_eq!(mask(None), "0");
        assert_eq!(mask(Some(0)), "1");
        assert_eq!(mask(Some(31)), "80000000");
        assert_eq!(mask(Some(32)), "1,00000000");
        assert_eq!(mask(Some(69)), "20,00000000,00000000");
    }

    #[test]
    fn a_program_of_ours_is_no_thread_of_the_kernel() {
        assert!(name_of_kernel_thread(std::process::id()).is_none());
    }
}
