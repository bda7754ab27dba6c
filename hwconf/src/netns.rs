//! Network namespaces without a name.
//!
//! A namespace lives as long as something refers to it: a thread inside, a socket or device opened inside, or a
//! [`Namespace`] (which owns a descriptor). Nothing is bound below `/run/netns`, so when the process ends, even
//! by `SIGKILL`, the kernel takes the namespace apart, and its veths, bridges, addresses and routes vanish with it
//! (asynchronously, within about a second). Only a child process that was started inside and outlives us keeps it.
//!
//! The network namespace is a property of the *thread*. What that means inside:
//! - a socket, TUN device or BPF link belongs to the namespace of the thread that opened it, for ever;
//!   afterwards any thread may use it;
//! - a thread started from a thread inside is inside too;
//! - `/proc/sys/net` and `/proc/thread-self/net` show the calling thread's namespace (`/proc/net` shows that of the
//!   process's first thread);
//! - `/sys/class/net` shows the namespace in which sysfs was mounted, not ours: ask [`crate::links`] instead.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::panic;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use crate::error::{Error, Result};
use crate::sys;

const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace, kept alive by an open descriptor.
#[derive(Debug)]
pub struct Namespace {
    descriptor: OwnedFd,
}

impl Namespace {
    /// Makes a new, empty namespace: a loopback interface that is down, and nothing else.
    ///
    /// Needs `CAP_SYS_ADMIN`. The calling thread stays where it is.
    pub fn create() -> Result<Self> {
        in_thread("netns", || {
            sys::unshare_network().map_err(|e| Error::system("create a network namespace", e))?;
            Self::current()
        })?
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self> {
        let file = File::open(OWN)
            .map_err(|e| Error::system_mend(format!("open {OWN}"), e, "is /proc mounted? mount -t proc proc /proc"))?;
        Ok(Namespace { descriptor: file.into() })
    }

    /// A second reference to the same namespace.
    pub fn duplicate(&self) -> Result<Self> {
        let descriptor =
            self.descriptor.try_clone().map_err(|e| Error::system("duplicate a namespace's descriptor", e))?;
        Ok(Namespace { descriptor })
    }

    /// Moves the calling thread into the namespace, for the rest of its life or until it enters another.
    pub fn enter(&self) -> Result<()> {
        sys::enter_network(self.descriptor.as_fd()).map_err(|e| Error::system("enter a network namespace", e))
    }

    /// Runs `action` on a thread inside the namespace and waits for what it gives.
    ///
    /// A panic of `action` goes on in the caller.
    pub fn run<T: Send>(&self, action: impl FnOnce() -> T + Send) -> Result<T> {
        in_thread("netns", || {
            self.enter()?;
            Ok(action())
        })?
    }

    /// Starts a thread inside the namespace. The thread keeps the namespace alive while it runs.
    ///
    /// Returns when the thread has entered, so an error to enter is reported here and not by the thread.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        action: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>> {
        let own = self.duplicate()?;
        let (tell, entered) = mpsc::sync_channel(1);
        let failed = |e| Error::system(format!("start the thread {name}"), e);
        let thread = thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                let outcome = own.enter();
                drop(own);
                let inside = outcome.is_ok();
                // The spawner waits for exactly this message, so it's there to take it.
                let _ = tell.send(outcome);
                if !inside {
                    // Ends the thread without a word: the spawner reports the error and drops the handle.
                    panic::resume_unwind(Box::new(()));
                }
                action()
            })
            .map_err(failed)?;
        entered.recv().map_err(|_| failed(io::Error::other("it ended at once")))??;
        Ok(thread)
    }

    /// Writes a sysctl of this namespace, e.g. `sysctl("net/ipv4/conf/all/arp_ignore", "1")`.
    ///
    /// Only paths below `net/` are taken: the others belong to the whole machine.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        self.sysctls(&[(path, value)])
    }

    /// Writes several sysctls in order; stops at the first that fails.
    pub fn sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        for (path, _) in settings {
            sysctl_file(path)?;
        }
        self.run(|| {
            settings.iter().try_for_each(|(path, value)| {
                fs::write(sysctl_file(path)?, value).map_err(|e| sysctl_error(&format!("set {path}={value}"), e))
            })
        })?
    }

    /// Reads a sysctl of this namespace, without the final newline.
    pub fn read_sysctl(&self, path: &str) -> Result<String> {
        let file = sysctl_file(path)?;
        self.run(|| fs::read_to_string(file))?
            .map(|text| text.trim_end().to_owned())
            .map_err(|e| sysctl_error(&format!("read {path}"), e))
    }

    /// The kernel's number for this namespace, equal for two references to the same one.
    pub fn id(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;
        let path = format!("/proc/self/fd/{}", self.descriptor.as_raw_fd());
        let metadata = fs::metadata(path).map_err(|e| Error::system("identify a network namespace", e))?;
        Ok(metadata.ino())
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn sysctl_file(path: &str) -> Result<PathBuf> {
    let inside = path.starts_with("net/") && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if !inside {
        return Err(Error::Invalid {
            what: format!("sysctl \"{path}\""),
            mend: "name it as a path below net/, e.g. net/ipv4/ip_forward".into(),
        });
    }
    Ok(PathBuf::from("/proc/sys").join(path))
}

fn sysctl_error(what: &str, error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::ENOENT) => Error::system_mend(
            what,
            error,
            "this kernel has no such setting, or the interface in its path is missing (net/ipv6: is IPv6 off?)",
        ),
        _ => Error::system(what, error),
    }
}

fn in_thread<T: Send>(name: &str, action: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name(name.into())
            .spawn_scoped(scope, action)
            .map_err(|e| Error::system("start a thread", e))?;
        match thread.join() {
            Ok(value) => Ok(value),
            Err(panic) => panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sysctl_of_the_whole_machine_is_refused() {
        for path in ["kernel/panic", "net/../kernel/panic", "/proc/sys/net/x", "net//x", "net", ""] {
            let error = sysctl_file(path).unwrap_err().to_string();
            assert!(error.contains("below net/"), "{error}");
        }
        assert_eq!(sysctl_file("net/ipv4/ip_forward").unwrap(), PathBuf::from("/proc/sys/net/ipv4/ip_forward"));
    }
}
