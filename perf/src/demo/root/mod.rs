//! The demo with root: namespaces, kernel TCP at both ends, and the director on AF_XDP between them.

pub mod director;
pub mod play;
pub mod scene;
mod spread;

use std::io;
use std::net::SocketAddr;

/// What keeps a scenario from being played.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The network could not be built.
    #[error(transparent)]
    Network(#[from] lcs_hwconf::Error),
    /// A server did not start.
    #[error("start the server {name} on {address}: {source}")]
    Server {
        /// Its name.
        name: String,
        /// Where it was to listen.
        address: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A client's thread did not start.
    #[error("start a client: {0}")]
    Client(io::Error),
    /// Ctrl-C.
    #[error(transparent)]
    Interrupted(#[from] crate::demo::interrupt::Interrupted),
}

impl Error {
    /// Whether it is for want of privileges: then the demo can be played without root.
    pub fn is_permission(&self) -> bool {
        matches!(self, Error::Network(lcs_hwconf::Error::System { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied)
    }
}
