//! What can go wrong while an AF_XDP port is set up, as sentences that say what to do about it.
//! Nothing here happens on the packet path: there, errors are counted.

use core::fmt;
use std::io;

use thiserror::Error;

use super::bpf::LoadError;
use super::filter::XdpMode;

/// Why the driver did not take the XDP program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    errno: i32,
}

impl Refusal {
    pub(super) fn new(error: &io::Error) -> Self {
        Refusal { errno: error.raw_os_error().unwrap_or(0) }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno {
            libc::EOPNOTSUPP => f.write_str("the driver has no native XDP"),
            libc::EINVAL | libc::ERANGE => {
                f.write_str("the driver has native XDP but not with the interface as it is set: often the MTU is too large or LRO is on")
            }
            libc::ENOMEM | libc::ENOSPC => f.write_str("the driver has native XDP but no queues or memory left for it"),
            errno => write!(f, "the driver refused native XDP: {}", io::Error::from_raw_os_error(errno)),
        }
    }
}

/// An AF_XDP port, or its XDP program, could not be set up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AfXdpError {
    /// The process lacks the capabilities.
    #[error(
        "{what} is not permitted: run as root, or with the capabilities {capabilities} (in a container, also allow the bpf system call)"
    )]
    Permission {
        /// What was refused.
        what: String,
        /// What it needs.
        capabilities: &'static str,
    },
    /// The kernel does not have it.
    #[error("this kernel has no {what}: Linux 5.10 or later with CONFIG_BPF_SYSCALL and CONFIG_XDP_SOCKETS is needed")]
    Unsupported {
        /// What is missing.
        what: &'static str,
    },
    /// The interface went away.
    #[error(
        "{interface} is not in this network namespace any more ({error}): `ip link` shows the interfaces there are"
    )]
    NoInterface {
        /// Its name.
        interface: String,
        /// The kernel's error.
        error: io::Error,
    },
    /// An interface's frames do not fit a chunk.
    #[error(
        "{interface} has MTU {mtu}, and a frame must fit one buffer: set it to {limit} or less with `ip link set {interface} mtu {limit}`"
    )]
    Mtu {
        /// The interface.
        interface: String,
        /// Its MTU.
        mtu: u32,
        /// The largest that works.
        limit: u32,
    },
    /// The port's options make no sense.
    #[error("{0}")]
    Options(String),
    /// A table of the XDP program would overflow.
    #[error(
        "{wanted} entries for the XDP program's table {table}, which has room for {limit}: use any-port services, or fewer of them"
    )]
    TableFull {
        /// The table.
        table: &'static str,
        /// Its size.
        limit: usize,
        /// What was asked for.
        wanted: usize,
    },
    /// A map of the XDP program could not be made, read or changed.
    #[error("the XDP program's table {table}: {error}")]
    Map {
        /// The table.
        table: &'static str,
        /// The kernel's error.
        error: io::Error,
    },
    /// The verifier refused the program.
    #[error("the kernel did not load the XDP program ({error}); please report this with the verifier's words:\n{log}")]
    Load {
        /// The kernel's error.
        error: io::Error,
        /// The verifier's log.
        log: String,
    },
    /// There is another XDP program on the interface.
    #[error(
        "another XDP program is attached to {interface}, perhaps by another instance of this one: stop what attached it \
         (`bpftool net` shows it), or remove it with `ip link set dev {interface} xdp off`, or for a link `bpftool link detach`"
    )]
    Occupied {
        /// The interface.
        interface: String,
    },
    /// The program could not be attached.
    #[error("the XDP program was not attached to {interface} in {mode} mode: {error}{hint}")]
    Attach {
        /// The interface.
        interface: String,
        /// The mode tried last.
        mode: XdpMode,
        /// The kernel's error.
        error: io::Error,
        /// What else is known, or what to do.
        hint: String,
    },
    /// The program could not be run on a frame.
    #[error("the XDP program did not run on a frame of {len} bytes (14 to about 3500 are possible): {error}")]
    TestRun {
        /// Length of the frame.
        len: usize,
        /// The kernel's error.
        error: io::Error,
    },
    /// Not enough memory, or not enough of it may be locked.
    #[error(
        "{bytes} bytes of packet buffers were not registered ({error}): give the process the capability CAP_IPC_LOCK or raise \
         the limit on locked memory (`ulimit -l`, LimitMEMLOCK= in a unit), or use fewer frames"
    )]
    Memory {
        /// Size of the pool.
        bytes: usize,
        /// The kernel's error.
        error: io::Error,
    },
    /// A balancer without servers, or with too many.
    #[error("an XDP balancer has 1 to {most} servers, not {servers}")]
    Balancer {
        /// How many were given.
        servers: usize,
        /// How many there may be.
        most: usize,
    },
    /// A queue has a socket already.
    #[error(
        "queue {queue} of {interface} is taken by another AF_XDP socket: stop the program that has it, or use another queue"
    )]
    QueueTaken {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// There is no such queue, or the driver refuses it.
    #[error(
        "queue {queue} of {interface} was not opened: {error}; `ethtool -l {interface}` shows how many queues it has, and a worker \
         needs a receive and a transmit queue of the same number"
    )]
    Bind {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// The kernel's error.
        error: io::Error,
    },
    /// A socket operation of set-up failed.
    #[error("an AF_XDP socket could not be set up: {0}")]
    Socket(io::Error),
}

const BPF_CAPABILITIES: &str = "CAP_BPF and CAP_NET_ADMIN (before Linux 5.8: CAP_SYS_ADMIN)";

impl AfXdpError {
    pub(super) fn map(table: &'static str, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                AfXdpError::Permission { what: format!("the BPF map {table}"), capabilities: BPF_CAPABILITIES }
            }
            Some(libc::ENOSYS) => AfXdpError::Unsupported { what: "bpf system call" },
            _ => AfXdpError::Map { table, error },
        }
    }

    pub(super) fn load(LoadError { error, log }: LoadError) -> Self {
        match error.raw_os_error() {
            // EACCES is also what the verifier says of a bad memory access; then it leaves a log.
            Some(libc::EPERM | libc::EACCES) if log.is_empty() => {
                AfXdpError::Permission { what: "loading an XDP program".to_owned(), capabilities: BPF_CAPABILITIES }
            }
            _ => AfXdpError::Load { error, log },
        }
    }

    pub(super) fn attach(interface: &str, mode: XdpMode, error: io::Error, native_refusal: Option<Refusal>) -> Self {
        let interface = interface.to_owned();
        match error.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => AfXdpError::Occupied { interface },
            Some(libc::EPERM | libc::EACCES) => AfXdpError::Permission {
                what: format!("attaching an XDP program to {interface}"),
                capabilities: BPF_CAPABILITIES,
            },
            Some(libc::ENODEV) => AfXdpError::NoInterface { interface, error },
            _ => {
                let hint = match (&native_refusal, mode) {
                    (Some(refusal), _) => format!(" (and before that, {refusal})"),
                    (None, XdpMode::Native) => {
                        format!(" ({}): let the mode be chosen, or insist on generic", Refusal::new(&error))
                    }
                    (None, XdpMode::Generic) => String::new(),
                };
                AfXdpError::Attach { interface, mode, error, hint }
            }
        }
    }

    pub(super) fn socket(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                AfXdpError::Permission { what: "an AF_XDP socket".to_owned(), capabilities: "CAP_NET_RAW" }
            }
            Some(libc::EAFNOSUPPORT) => AfXdpError::Unsupported { what: "AF_XDP" },
            Some(libc::ENOPROTOOPT) => AfXdpError::Unsupported { what: "AF_XDP option that is needed" },
            _ => AfXdpError::Socket(error),
        }
    }

    pub(super) fn bind(interface: &str, queue: u32, error: io::Error) -> Self {
        let interface = interface.to_owned();
        match error.raw_os_error() {
            Some(libc::EBUSY) => AfXdpError::QueueTaken { interface, queue },
            Some(libc::ENODEV) => AfXdpError::NoInterface { interface, error },
            _ => AfXdpError::Bind { interface, queue, error },
        }
    }
}
