//! The load and its servers: plain sockets of the kernel, many on one thread.

pub mod client;
pub mod message;
pub mod server;

/// Bytes read at once.
pub const CHUNK: usize = 64 << 10;
