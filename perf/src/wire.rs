//! The other end of a port: where the benches put frames on the wire and take them off.

use lcs_dataplane::port::Port;
use lcs_dataplane::port::memory::MemoryPort;

/// A port whose wire is played by the same thread.
pub(crate) trait Wire: Port {
    /// Puts a frame of `len` bytes, written in place by `write`, on the wire toward the worker; `false` when there is no room.
    fn inject_with(&mut self, interface: u8, len: usize, write: impl FnOnce(&mut [u8])) -> bool;

    /// Hands every transmitted frame to `sink`, and returns how many there were.
    fn take_sent(&mut self, sink: impl FnMut(u8, &[u8])) -> usize;

    /// Frames put on the wire and not yet received.
    fn waiting(&self) -> usize;

    /// As `inject_with`, with the frame's bytes.
    fn inject(&mut self, interface: u8, bytes: &[u8]) -> bool {
        self.inject_with(interface, bytes.len(), |b| b.copy_from_slice(bytes))
    }
}

impl Wire for MemoryPort {
    fn inject_with(&mut self, interface: u8, len: usize, write: impl FnOnce(&mut [u8])) -> bool {
        MemoryPort::inject_with(self, interface, len, write)
    }

    fn take_sent(&mut self, sink: impl FnMut(u8, &[u8])) -> usize {
        MemoryPort::take_sent(self, sink)
    }

    fn waiting(&self) -> usize {
        MemoryPort::waiting(self)
    }
}
