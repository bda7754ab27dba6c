//! What is kept of each spliced connection for as long as it lasts.

use super::{NIL, OWN_SCALE};
use crate::extract::MAX_SKIP;
use lcs_dataplane::flow::{Flow, FlowFlags, Place};
use lcs_dataplane::splice::{Offer, Offsets, Stamps};

/// One spliced connection, or one idle connection to a server beside it (a *leg*): of the flow that has the entry's number. 64 bytes.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Entry {
    /// From one side's numbers to the other's. `limit` of the server's side is the end of the response where it is known.
    pub(crate) offsets: Offsets,
    /// Initial sequence numbers: the client's, and ours toward the client; over a pool, as if the connection had begun with
    /// the present request. A leg: the next number toward the server, and the next one expected from it.
    pub(crate) numbers: [u32; 2],
    /// Number of its binding.
    pub(crate) binding: u32,
    /// Number of its follower.
    pub(crate) follow: u32,
    /// First leg of a connection; the next one of a leg.
    pub(crate) legs: u32,
    /// A leg: the entry of its connection. An idle connection of a pool, or a client's that has one: which
    /// ([`super::pool::marked`]).
    pub(crate) main: u32,
    /// What the client's SYN offered: its MSS and window scale, and whether SACK blocks may be sent. With a guessed server,
    /// less what that one has refused.
    pub(crate) client_mss: u16,
    client_scale: u8,
    sack: bool,
    /// Whether timestamps were agreed upon with the client: then they are in `Splices::stamps`.
    pub(crate) stamped: bool,
    /// The window scale that the client was told.
    pub(crate) own_scale: u8,
    /// MSS toward its server. With [`LET_GO`], which server that was.
    pub(crate) server_mss: u16,
    /// Whether its response's end is known: it is `offsets.limit` of the server's side.
    pub(crate) response_known: bool,
    /// The response ends with the connection: no more requests are taken.
    pub(crate) until_close: bool,
    /// It is a leg.
    pub(crate) is_leg: bool,
    /// It is some flow's: the one of its own number.
    pub(super) used: bool,
    /// The flow has a [lease](lcs_dataplane::splice::Lease).
    pub(super) leased: bool,
    /// While it is half open: its client has acknowledged the answer to its SYN, and its first byte is awaited.
    pub(crate) acknowledged: bool,
    /// The largest power of two in its server's window in the handshake: an idle server has room for so much at least.
    /// [`DIRECT`] where the server is guessed and its answer is not seen, [`LET_GO`] where a guessed one has been let go and none
    /// has answered since.
    pub(crate) server_window: u8,
}

/// What stands for a server's window that is not seen; no window is so large.
const DIRECT: u8 = u8::MAX;
/// What stands for the window of nobody, after a server that knows the connection's initial number.
const LET_GO: u8 = u8::MAX - 1;

/// `client_scale` of a client that has offered none.
const NO_SCALE: u8 = u8::MAX;

/// No connection's.
pub(super) const FREE: Entry = Entry {
    offsets: Offsets::NONE,
    numbers: [0; 2],
    binding: NIL,
    follow: NIL,
    legs: NIL,
    main: NIL,
    client_mss: 0,
    client_scale: NO_SCALE,
    sack: false,
    stamped: false,
    own_scale: OWN_SCALE,
    server_mss: 536,
    response_known: true,
    until_close: false,
    is_leg: false,
    used: false,
    leased: false,
    acknowledged: false,
    server_window: 9,
};

impl Entry {
    /// That of a connection that begins with these numbers, whose client has offered this.
    pub(super) fn new(numbers: [u32; 2], offer: Offer) -> Self {
        let mut entry = Entry { numbers, used: true, ..FREE };
        entry.set_offer(offer);
        entry
    }

    /// What the client's SYN offered.
    pub(crate) fn offer(&self) -> Offer {
        let scale = (self.client_scale != NO_SCALE).then_some(self.client_scale);
        Offer { mss: self.client_mss, scale, sack: self.sack }
    }

    /// Notes what was offered, or is left of it.
    pub(crate) fn set_offer(&mut self, offer: Offer) {
        (self.client_mss, self.sack) = (offer.mss, offer.sack);
        self.client_scale = offer.scale.unwrap_or(NO_SCALE);
    }

    /// Whether a segment on a connection from a pool belongs to the present request and its response, and is not the
    /// acknowledgement with which that ends.
    #[inline(always)]
    pub(crate) fn is_within_request(&self, side: usize, tcp: &[u8; 20]) -> bool {
        let seq = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let after = |n: u32, first: u32| n.wrapping_sub(first) as i32 > 0;
        if side == Place::SERVER {
            return after(self.offsets.seq(side, seq), self.numbers[1]);
        }
        let end = self.offsets.seq(Place::SERVER, self.offsets.limit[Place::SERVER]);
        after(seq, self.numbers[0])
            && !(self.response_known && u32::from_be_bytes([tcp[8], tcp[9], tcp[10], tcp[11]]) == end)
    }

    /// What a side has sent is known up to `next`, in its own numbers: what lies far behind cannot come any more, and what is
    /// compared with must stay near.
    pub(crate) fn follow_floor(&mut self, side: usize, next: u32) {
        /// More than may be skipped at once, and then may be on the way.
        const BEHIND: u32 = MAX_SKIP + MAX_SKIP / 2;
        let next = if side == Place::SERVER { self.offsets.seq(side, next) } else { next };
        if next.wrapping_sub(self.numbers[side]) > BEHIND {
            self.numbers[side] = next.wrapping_sub(BEHIND);
        }
    }

    /// Whether its server was guessed, answers the client directly, and nothing is decided yet: what is known of its numbers
    /// is what the client has acknowledged (then `response_known`).
    pub(crate) fn is_direct(&self) -> bool {
        self.server_window == DIRECT
    }

    /// Notes that it is so, or not any more.
    pub(crate) fn set_direct(&mut self, direct: bool) {
        self.server_window = if direct { DIRECT } else { FREE.server_window };
    }

    /// Notes that a server is let go which was guessed, and so has had a SYN with the client's initial number.
    pub(crate) fn let_go_of_guess(&mut self, server: u16) {
        (self.server_window, self.server_mss) = (LET_GO, server);
    }

    /// What is added to the client's numbers for a server that is going to be asked from the client's own endpoint, so that it
    /// gets none that it has seen (RFC 9293 §3.4.1, RFC 1122 §4.2.2.13: larger than the largest of the connection before). One
    /// that was let go with its guess has seen one; since any other was left, the client has gone on by a request at least.
    pub(crate) fn up_to_server(&self, server: u16) -> u32 {
        // In TIME-WAIT, Linux takes none but those beyond the next one.
        if (self.server_window, self.server_mss) == (LET_GO, server) { 2 } else { 0 }
    }

    /// See [`super::Splices::lend`].
    #[inline(always)]
    pub(crate) fn lend(&mut self, flow: &mut Flow, side: usize, end: u32, ack: u32) {
        /// Bytes that are to come at least: for less, it is not worth its writing.
        const WORTH: i32 = 4 << 10;
        let o = &self.offsets;
        let left = |side: usize, from: u32| o.limit[side].wrapping_sub(from) as i32;
        let far = o.open || left(side & 1, end).max(left(1 - (side & 1), o.ack(side, ack))) >= WORTH;
        if !far || self.binding != NIL || self.is_leg || self.stamped || flow.flags.has(FlowFlags::POOLED) {
            return;
        }
        if let Some(lease) = self.offsets.lease(side, end, ack) {
            self.leased = flow.lend(lease);
        }
    }

    /// Whether its server was guessed and nothing has passed yet but the handshake. (Of another connection's: its server
    /// has not got a byte, and the numbers say so by chance once in 2³².)
    pub(crate) fn is_guess(&self) -> bool {
        let first = self.numbers.map(|n| n.wrapping_add(1));
        self.response_known
            && !self.until_close
            && !self.offsets.open
            && self.follow == NIL
            && self.offsets.limit == first
    }
}

/// The entries as the fast path has them, which counts those that it has read.
pub(crate) struct Entries<'s> {
    pub(crate) all: &'s mut [Entry],
    pub(crate) stamps: &'s mut [Stamps],
    pub(crate) read: &'s mut u32,
}

/// An entry whose flow has no lease any more.
#[inline]
pub(super) fn revoke<'e>(e: &'e mut Entry, number: u32, revoked: &mut Vec<u32>) -> &'e mut Entry {
    if e.leased {
        e.leased = false;
        revoked.push(number);
    }
    e
}

/// Bytes of an [`Entry`].
pub(crate) const ENTRY_BYTES: usize = size_of::<Entry>();
const _: () = assert!(ENTRY_BYTES <= 64);
