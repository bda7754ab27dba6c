//! Next hops as established flows use them: each flow keeps its own copy of the way to its server.
//!
//! With thousands of servers, the row of a flow's server is one more cold line for each packet of a client. So the server's link-layer
//! address is copied into the flow's line, which the packet needs anyway, and the rest (own address, interface, MTU), which few
//! ways differ in, is a *link*: a row of its own that many flows share. When the row that a copy was made of changes, its link is no longer
//! resolved, so that each flow that goes by it leaves the short way with its next packet, and copies anew. So a packet need not ask whether its copy holds.

use super::connection::{CONTROL_ROWS, Sweep};
use crate::snapshot::{NO_SLOT, NextHop};
use lcs_dataplane::flow::{Flow, Place};

/// Links at most. A flow whose way needs one more goes by its row.
const LINKS: usize = 256;
/// The row of the first link; they are the last that a `u16` can number.
pub(crate) const LINKS_FROM: usize = (1 << 16) - LINKS;

/// Rows of next hops, and behind them the links: next hops without a destination.
pub(crate) type Hops = [NextHop; 1 << 16];

/// What a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// No flow goes by it.
    Free,
    /// Flows go by it.
    Used,
    /// A row has changed that flows by it have copied. They may not be made to go by it again by its being another's.
    Stale,
    /// The same, and flows by it are being looked for.
    Leaving,
}

/// Which links there are.
#[derive(Debug)]
pub(crate) struct Links {
    links: [Link; LINKS],
    /// The sweep after which no flow goes by those that are leaving.
    leave: Option<u64>,
}

impl Default for Links {
    fn default() -> Self {
        Links { links: [Link::Free; LINKS], leave: None }
    }
}

/// What all flows have in common whose ways differ in the destination only.
fn without_destination(mut hop: NextHop) -> NextHop {
    hop.addresses[..6].fill(0);
    hop
}

impl Links {
    /// A row of the control thread's is another one from now on.
    pub(crate) fn set(&mut self, hops: &mut Hops, row: usize, hop: NextHop) {
        let before = std::mem::replace(&mut hops[row], hop);
        // Nobody copies what is not resolved.
        if before == hop || !before.resolved {
            return;
        }
        let before = without_destination(before);
        for (link, row) in self.links.iter_mut().zip(&mut hops[LINKS_FROM..]) {
            if *link == Link::Used && *row == before {
                *link = Link::Stale;
                row.resolved = false;
            }
        }
    }

    /// Whether a flow goes by a link that is none any more.
    pub(crate) fn is_stale(hops: &Hops, flow: &Flow) -> bool {
        flow.copied_with().is_some_and(|row| !hops[usize::from(row)].resolved)
    }

    /// Copies the way to the server of an established flow ahead of its next packets, where it can be copied.
    #[inline]
    pub(crate) fn keep(&mut self, hops: &mut Hops, sweep: &mut Sweep, flow: &mut Flow) {
        if flow.copied_with().is_none_or(|row| !hops[usize::from(row)].resolved) {
            self.copy(hops, sweep, flow);
        }
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn copy(&mut self, hops: &mut Hops, sweep: &mut Sweep, flow: &mut Flow) {
        flow.forget_copy();
        let row = usize::from(flow.next_hop(Place::SERVER));
        let hop = hops[row];
        if row < CONTROL_ROWS
            && hop.resolved
            && flow.server != NO_SLOT
            && let Some(link) = self.link(hops, sweep, &without_destination(hop))
            && let Some(destination) = hop.addresses.first_chunk()
        {
            flow.copy_hop(*destination, link);
        }
    }

    /// The row of the link that is `way`; `None` when there is none and none to be had.
    fn link(&mut self, hops: &mut Hops, sweep: &mut Sweep, way: &NextHop) -> Option<u16> {
        if self.leave.is_some_and(|number| sweep.is_done(number)) {
            self.leave = None;
            self.all(Link::Leaving, Link::Free);
        }
        let rows = &mut hops[LINKS_FROM..];
        // Only those in use are resolved.
        let known = rows.iter().position(|row| row == way);
        let at = known.or_else(|| {
            let free = self.links.iter().position(|link| *link == Link::Free)?;
            self.links[free] = Link::Used;
            rows[free] = *way;
            Some(free)
        });
        if at.is_none() && self.leave.is_none() && self.links.contains(&Link::Stale) {
            // One that is another's before all flows have left it would lead them astray.
            self.all(Link::Stale, Link::Leaving);
            self.leave = Some(sweep.ask());
        }
        at.map(|at| (LINKS_FROM + at) as u16)
    }

    fn all(&mut self, from: Link, to: Link) {
        for link in self.links.iter_mut().filter(|link| **link == from) {
            *link = to;
        }
    }
}

/// The first twelve bytes of a frame on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    /// Eight of them, the first one lowest.
    head: u64,
    tail: [u8; 4],
}

impl Addresses {
    /// Those of a row, and over them what [`Flow::way`] says.
    #[inline(always)]
    pub(crate) fn of(hop: &NextHop, over: u64) -> Self {
        let [a, b, c, d, e, f, g, h, tail @ ..] = hop.addresses;
        Addresses { head: u64::from_le_bytes([a, b, c, d, e, f, g, h]) | over, tail }
    }

    /// Writes them.
    #[inline(always)]
    pub(crate) fn put<const N: usize>(self, frame: &mut [u8; N]) {
        const { assert!(N >= 12) };
        frame[..8].copy_from_slice(&self.head.to_le_bytes());
        frame[8..12].copy_from_slice(&self.tail);
    }
}

pub(crate) fn no_hops() -> Box<Hops> {
    match vec![NextHop::default(); 1 << 16].into_boxed_slice().try_into() {
        Ok(hops) => hops,
        Err(_) => unreachable!("the vector has this length"),
    }
}
