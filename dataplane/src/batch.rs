//! A batch: up to 32 frames and what the stages have found out about them, as a structure of arrays.

use crate::frame::Frame;
use crate::headers::Kind;
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
    /// The frames were handed over by a sibling: they are this worker's, whatever steering says.
    pub from_sibling: bool,
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
            from_sibling: false,
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
        self.from_sibling = from_sibling;
    }

    /// Decides to drop frame `i`.
    #[inline]
    pub fn drop(&mut self, i: usize, reason: DropReason) {
        self.verdict[i] = Verdict::Drop(reason);
    }
}

/// A list of places of a batch, in ascending order: which frames a stage works on.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    len: usize,
    items: [u8; BURST],
}

impl Default for Places {
    fn default() -> Self {
        Places { len: 0, items: [0; BURST] }
    }
}

impl Places {
    /// Appends place `i`. A list holds each place once, so there is always room.
    #[inline(always)]
    pub fn push(&mut self, i: usize) {
        self.items[self.len & (BURST - 1)] = i as u8;
        self.len += 1;
    }

    /// How many.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The places, each below [`BURST`].
    #[inline(always)]
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        // The mask changes nothing and spares every user the bounds check.
        self.items[..self.len.min(BURST)].iter().map(|&i| usize::from(i) & (BURST - 1))
    }
}
