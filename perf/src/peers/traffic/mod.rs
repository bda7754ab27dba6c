//! The load and its servers: plain sockets of the kernel, many on one thread.

pub mod client;
mod message;
pub mod server;

/// Bytes read at once.
const CHUNK: usize = 64 << 10;
