//! The control socket: where `lcs` commands reach the running director.
//!
//! A Unix socket that only its user may open (mode 0600), one JSON object a line ([`crate::protocol`]). Nothing that a
//! client does can disturb the director: lines are bounded, clients are bounded in number and in time, and a client
//! that is slow loses trace records, never the director's time.
//!
//! A path that begins with `@` names a socket in the kernel's own space of names (unix(7), "abstract"): it leaves nothing
//! in the file system, and is seen in one network namespace only. It has no mode; that its clients are of the
//! director's user, or root, is asked of the kernel.

mod client;
mod server;

pub use client::{Client, ClientError};
pub use server::{Incoming, Server, SocketError};

/// Clients at once; one more is told so and cut off.
pub const CLIENTS: usize = 64;

/// The name of an abstract socket, if `path` is one.
fn abstract_address(path: &std::path::Path) -> Option<std::io::Result<std::os::unix::net::SocketAddr>> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    let name = path.as_os_str().as_bytes().strip_prefix(b"@")?;
    Some(std::os::unix::net::SocketAddr::from_abstract_name(name))
}
