//! Next hops as established flows use them: each flow keeps its own copy of the way to its server.
//!
//! With thousands of servers, the row of a flow's server is one more cold line for each packet of a client. So the server's link-layer
//! address is copied into the flow's line, which the packet needs anyway, and the rest (own address, interface, MTU), which few
//! ways differ in, is a *link* that many flows share. A copy holds for one epoch: whenever a row changes, a new one begins, and each
//! flow copies again with its next packet.

use super::connection::CONTROL_ROWS;
use crate::snapshot::{NO_SLOT, NextHop};
use lcs_dataplane::flow::{Flow, FlowTable, Place};

/// Links at most. A flow whose way needs one more uses its row.
const LINKS: usize = 256;
/// The row of the first link; they are the last that a `u16` can number.
pub(crate) const LINKS_FROM: usize = (1 << 16) - LINKS;

/// Rows of next hops, and behind them the links: next hops without a destination.
pub(crate) type Hops = [NextHop; 1 << 16];

/// A flow's copy has the destination's address in the low bits, as it stands in the frame, and the epoch above them.
const EPOCH: u32 = 48;
const DESTINATION: u64 = (1 << EPOCH) - 1;
/// Changes of rows within which every flow is looked at for an old copy.
const ROUND: usize = 1 << 15;

/// What flows have copied, and until when it holds.
#[derive(Debug)]
pub(crate) struct Copies {
    /// The epoch's number in its place in a flow's copy. Epochs go round; none is 0.
    epoch: u64,
    links: usize,
    /// The next flow to be looked at.
    cursor: usize,
}

impl Default for Copies {
    fn default() -> Self {
        Copies { epoch: 1 << EPOCH, links: 0, cursor: 0 }
    }
}

impl Copies {
    /// A row has changed: no copy holds any more.
    pub(crate) fn forget(&mut self, table: &mut FlowTable) {
        self.epoch = self.epoch.checked_add(1 << EPOCH).unwrap_or(1 << EPOCH);
        self.links = 0;
        // A copy must not wait until its epoch's number comes again.
        let flows = table.capacity();
        for _ in 0..=flows / ROUND {
            table.get_mut(self.cursor as u32).hop_copy = 0;
            self.cursor = (self.cursor + 1) % flows;
        }
    }

    /// Copies the way to a flow's server; `false` when it can't be copied, or the flow has none.
    #[cold]
    #[inline(never)]
    fn make(&mut self, hops: &mut Hops, flow: &mut Flow) -> bool {
        let row = usize::from(flow.next_hop[Place::SERVER]);
        let hop = hops[row];
        if row >= CONTROL_ROWS || !hop.resolved || flow.server == NO_SLOT {
            return false;
        }
        let mut link = hop;
        link.addresses[..6].fill(0);
        let links = &mut hops[LINKS_FROM..];
        let at = match links[..self.links].iter().position(|l| *l == link) {
            Some(at) => at,
            None if self.links < LINKS => {
                links[self.links] = link;
                self.links += 1;
                self.links - 1
            }
            None => return false,
        };
        flow.hop_copy = self.epoch | first(&hop) & DESTINATION;
        flow.hop_link = at as u8;
        true
    }

    /// Copies the way to the server of an established flow ahead of its next packets, where it can be copied.
    #[inline]
    pub(crate) fn keep(&mut self, hops: &mut Hops, flow: &mut Flow) {
        if flow.hop_copy & !DESTINATION != self.epoch {
            self.make(hops, flow);
        }
    }

    /// The next hop of a packet that side `side` of an established flow has sent; `None` when it has no server.
    #[inline(always)]
    pub(crate) fn of(&mut self, hops: &mut Hops, flow: &mut Flow, side: usize) -> Option<NextHop> {
        let mut destination = flow.hop_copy ^ self.epoch;
        if destination & !DESTINATION != 0 {
            if !self.make(hops, flow) {
                let hop = hops[usize::from(flow.next_hop[1 - side])];
                return (flow.server != NO_SLOT).then_some(hop);
            }
            destination = flow.hop_copy ^ self.epoch;
        }
        // Which side sent a packet is as good as random: chosen by masks, not branched on. All ones for the client's.
        let mask = (side as u64).wrapping_sub(1);
        let link = (LINKS_FROM as u16 | u16::from(flow.hop_link)) & mask as u16;
        let hop = &hops[usize::from(flow.next_hop[Place::CLIENT] & !mask as u16 | link)];
        // A link's destination is zero.
        let mut addresses = hop.addresses;
        addresses[..8].copy_from_slice(&(first(hop) | destination & mask).to_le_bytes());
        Some(NextHop { addresses, ..*hop })
    }
}

/// The first eight bytes of a next hop's addresses, the first one lowest.
#[inline(always)]
fn first(hop: &NextHop) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = hop.addresses;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

pub(crate) fn no_hops() -> Box<Hops> {
    match vec![NextHop::default(); 1 << 16].into_boxed_slice().try_into() {
        Ok(hops) => hops,
        Err(_) => unreachable!("the vector has this length"),
    }
}
