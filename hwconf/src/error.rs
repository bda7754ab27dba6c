//! What can go wrong while asking or changing the machine, each with its mend.

use std::io;

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the machine or of what was asked of it; its text names the thing and says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused. `what` names the action and the thing it was done to.
    #[error("{what}: {source}{}", advice(.mend))]
    System {
        /// Action and object, e.g. "create the veth pair eth0/client".
        what: String,
        /// The kernel's answer, with its extended message where it gave one.
        source: io::Error,
        /// What to do about it; empty when the kernel's answer says it all.
        mend: String,
    },
    /// No network interface of this name in the namespace that was asked.
    #[error("no interface \"{name}\" in this network namespace; it has: {present}")]
    NoSuchLink {
        /// The name that was asked for.
        name: String,
        /// The names that there are.
        present: String,
    },
    /// A core that this process may not use, or that isn't there.
    #[error("core {core} can't be used: {why}; this process may run on cores {allowed}")]
    Core {
        /// The core's number.
        core: usize,
        /// What stands in the way.
        why: String,
        /// The cores that could be used instead, as a list ("0-3,8").
        allowed: String,
    },
    /// A value that can't be right, found before the kernel was asked.
    #[error("{what}: {mend}")]
    Invalid {
        /// The value and where it stands.
        what: String,
        /// What it should be.
        mend: String,
    },
    /// The kernel answered in a way that this crate can't read.
    #[error("{what}: the kernel's answer can't be read ({detail}); report this with `uname -r`")]
    Answer {
        /// What was asked.
        what: String,
        /// What was wrong with the answer.
        detail: String,
    },
    /// A condition that should come about by itself did not.
    #[error("{what} did not come about within {seconds} s; {mend}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        seconds: u64,
        /// What to look at.
        mend: String,
    },
}

fn advice(mend: &str) -> String {
    if mend.is_empty() { String::new() } else { format!("; {mend}") }
}

impl Error {
    /// A refusal of the kernel, with the mend that its error number suggests.
    pub fn system(what: impl Into<String>, source: io::Error) -> Self {
        let mend = match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => "run as root, or with CAP_NET_ADMIN, CAP_NET_RAW and CAP_SYS_ADMIN",
            Some(libc::EROFS) => "/proc/sys is mounted read-only here; remount it: mount -o remount,rw /proc/sys",
            Some(libc::EOPNOTSUPP) => "this kernel or driver doesn't offer it",
            Some(libc::EMFILE | libc::ENFILE) => "raise the limit of open files: ulimit -n 65536",
            Some(libc::ENOSPC | libc::EUSERS) => {
                "the limit of network namespaces is reached: sysctl user.max_net_namespaces"
            }
            Some(libc::ENOBUFS | libc::ENOMEM) => "the kernel is out of memory for this",
            _ => "",
        };
        Error::System { what: what.into(), source, mend: mend.into() }
    }

    /// A refusal of the kernel whose mend the caller knows better than the error number.
    pub fn system_mend(what: impl Into<String>, source: io::Error, mend: impl Into<String>) -> Self {
        Error::System { what: what.into(), source, mend: mend.into() }
    }

    /// The kernel's error number, if it was the kernel that refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::System { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_thing_and_the_mend() {
        let text = Error::system("create the bridge br0", io::Error::from_raw_os_error(libc::EPERM)).to_string();
        assert!(text.starts_with("create the bridge br0: "), "{text}");
        assert!(text.contains("run as root"), "{text}");
    }

    #[test]
    fn no_mend_leaves_no_dangling_separator() {
        let text = Error::system("x", io::Error::from_raw_os_error(libc::EEXIST)).to_string();
        assert!(!text.ends_with("; "), "{text}");
    }
}
