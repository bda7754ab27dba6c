//! The control socket: where `lcs` commands reach the running director.
//!
//! A Unix socket that only its user may open (mode 0600), one JSON object a line ([`crate::protocol`]). Nothing that a
//! client does can disturb the director: lines are bounded, clients are bounded in number and in time, and a client
//! that is slow loses trace records, never the director's time.

mod client;
mod server;

pub use client::{Client, ClientError};
pub use server::{Incoming, Server, SocketError};

/// Clients at once; one more is told so and cut off.
pub const CLIENTS: usize = 64;
