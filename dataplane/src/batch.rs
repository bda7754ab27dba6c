//! A batch: up to 32 frames and what the stages have found out about them, as a structure of arrays.

use crate::frame::Frame;
use crate::headers::{Kind, protocol};
use crate::verdict::{DropReason, Verdict};

/// Frames in a batch at most: enough to hide memory latency, few enough for the first-level cache.
pub const BURST: usize = 32;

/// No flow.
pub const NO_FLOW: u32 = u32::MAX;

/// Frames and their metadata. Places from `len` on hold placeholders and stale metadata.
#[derive(Debug)]
pub struct Batch {
    /// Frames in use.
    pub len: usize,
    /// The frames.
    pub frames: [Frame; BURST],
    /// Interface that the frame came in on, numbered within the port.
    pub rx: [u8; BURST],
    /// Interface to send on (`Forward`), or worker to hand over to (`HandOver`).
    pub tx: [u8; BURST],
    /// What becomes of the frame. Set to a drop by [`Batch::start`], so that a forgotten frame is counted, not sent.
    pub verdict: [Verdict; BURST],
    /// What the frame is.
    pub kind: [Kind; BURST],
    /// Offset of the IP header, bytes.
    pub l3: [u8; BURST],
    /// Offset of the transport header, bytes.
    pub l4: [u16; BURST],
    /// Offset of the end of the IP packet, bytes.
    pub end: [u16; BURST],
    /// IP protocol.
    pub protocol: [u8; BURST],
    /// TCP flags.
    pub tcp_flags: [u8; BURST],
    /// IPv4 source and destination as they stand in the packet.
    pub addresses: [u64; BURST],
    /// Source and destination port as they stand in the packet.
    pub ports: [u32; BURST],
    /// Hash of the connection's key.
    pub hash: [u64; BURST],
    /// The flow and the side of it that sent the frame, as [`crate::flow::Place`] bits; [`NO_FLOW`] when unknown.
    pub flow: [u32; BURST],
    /// Places whose frame is being traced, one bit each.
    pub traced: u32,
    /// Places whose frame needs no more than a rewrite at known offsets, one bit each: untagged, without options or extension
    /// headers, whole, TCP without SYN, FIN, RST and URG, TTL above 1.
    pub simple: u32,
    /// The frames were handed over by a sibling: they are this worker's, whatever steering says.
    pub from_sibling: bool,
    /// The frames were held and are looked at again, for the last time. Set by the worker after [`Batch::start`].
    pub again: bool,
}

impl Default for Batch {
    fn default() -> Self {
        Batch {
            len: 0,
            frames: Default::default(),
            rx: [0; BURST],
            tx: [0; BURST],
            verdict: [Verdict::Consume; BURST],
            kind: [Kind::Other; BURST],
            l3: [0; BURST],
            l4: [0; BURST],
            end: [0; BURST],
            protocol: [0; BURST],
            tcp_flags: [0; BURST],
            addresses: [0; BURST],
            ports: [0; BURST],
            hash: [0; BURST],
            flow: [NO_FLOW; BURST],
            traced: 0,
            simple: 0,
            from_sibling: false,
            again: false,
        }
    }
}

impl Batch {
    /// Begins a batch of `len` frames that a port has put in place.
    #[inline]
    pub fn start(&mut self, len: usize, from_sibling: bool) {
        self.len = len.min(BURST);
        self.verdict = [Verdict::Drop(DropReason::NotForUs); BURST];
        self.flow = [NO_FLOW; BURST];
        self.traced = 0;
        self.simple = 0;
        // What almost every frame is: a few wide stores here spare classification four narrow ones a frame.
        self.kind = [Kind::Transport4; BURST];
        self.l3 = [14; BURST];
        self.l4 = [34; BURST];
        self.protocol = [protocol::TCP; BURST];
        self.from_sibling = from_sibling;
        self.again = false;
    }

    /// Decides to drop frame `i`.
    #[inline]
    pub fn drop(&mut self, i: usize, reason: DropReason) {
        self.verdict[i] = Verdict::Drop(reason);
    }
}

/// Places of a batch, one bit each, met in ascending order: which frames a stage works on.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Places(u32);

impl Places {
    /// The places whose bits are set.
    #[inline(always)]
    pub fn from_bits(bits: u32) -> Self {
        Places(bits)
    }

    /// One bit for each place.
    #[inline(always)]
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Adds place `i`.
    #[inline(always)]
    pub fn push(&mut self, i: usize) {
        self.0 |= 1 << (i & (BURST - 1));
    }

    /// Whether place `i` is one of them.
    #[inline(always)]
    pub fn contains(self, i: usize) -> bool {
        self.0 >> (i & (BURST - 1)) & 1 != 0
    }

    /// How many.
    #[inline]
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The places, each below [`BURST`].
    #[inline(always)]
    pub fn iter(self) -> PlacesIter {
        PlacesIter(self.0)
    }
}

/// The places of [`Places::iter`].
#[derive(Debug, Clone)]
pub struct PlacesIter(u32);

impl Iterator for PlacesIter {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let i = self.0.trailing_zeros() as usize & (BURST - 1);
        self.0 &= self.0 - 1;
        Some(i)
    }
}

const _: () = assert!(BURST == 32, "the sets of places are 32 bits");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_in_ascending_order_and_once() {
        let mut p = Places::default();
        for i in [31, 0, 7, 7] {
            p.push(i);
        }
        assert_eq!(p.iter().collect::<Vec<_>>(), [0, 7, 31]);
        assert_eq!((p.len(), p.is_empty(), p.bits()), (3, false, 1 << 31 | 1 << 7 | 1));
    }
}
