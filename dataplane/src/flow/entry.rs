//! One flow: a cache line.

use serde::{Deserialize, Serialize};

/// A flow's number in the table, and which side of the connection a packet came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(pub u32);

impl Place {
    /// From the client toward the virtual service.
    pub const CLIENT: usize = 0;
    /// From the real server toward the director.
    pub const SERVER: usize = 1;

    /// The place of side `side` (0 or 1) of flow `flow`.
    #[inline]
    pub fn new(flow: u32, side: usize) -> Self {
        Place(flow << 1 | (side as u32 & 1))
    }

    /// The flow's number.
    #[inline]
    pub fn flow(self) -> u32 {
        self.0 >> 1
    }

    /// The side that sent the packet: [`Place::CLIENT`] or [`Place::SERVER`].
    #[inline]
    pub fn side(self) -> usize {
        self.0 as usize & 1
    }
}

/// What is special about a flow, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct FlowFlags(pub u8);

impl FlowFlags {
    /// The addresses are IPv6; [`Flow::addresses`] holds references.
    pub const V6: u8 = 1;
    /// Addresses or ports change on the way (NAT, full NAT).
    pub const TRANSLATED: u8 = 2;
    /// A tunnel header is put in front toward the server.
    pub const TUNNEL: u8 = 4;
    /// Counted as active at its server (otherwise inactive).
    pub const ACTIVE: u8 = 8;
    /// On the half-open list instead of the timer wheel.
    pub const HALF_OPEN: u8 = 16;
    /// Its server's connection goes back to a pool between two requests: numbers from before the present one must not pass.
    pub const POOLED: u8 = 32;
    /// Stays only for the server's late segments: a new SYN may replace it.
    pub const CLOSED: u8 = 64;
    /// Numbers change on the way as well: [`Flow::extra`] is the number of its splice.
    pub const SPLICED: u8 = 128;

    /// Whether a bit is set.
    #[inline]
    pub fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }

    /// Sets or clears a bit.
    #[inline]
    pub fn set(&mut self, bit: u8, on: bool) {
        if on {
            self.0 |= bit;
        } else {
            self.0 &= !bit;
        }
    }
}

/// State of a connection as the director infers it from the segments that pass; names as IPVS has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum TcpState {
    /// Nothing seen that opens a connection.
    #[default]
    None,
    /// The client's SYN was seen.
    SynReceived,
    /// Data may flow.
    Established,
    /// One side (or, where the director sees one direction only, the client) has sent FIN.
    FinWait,
    /// The client has sent FIN and the server may still send.
    CloseWait,
    /// Both have sent FIN; the last acknowledgement is awaited.
    LastAck,
    /// Closed in order; late segments may still come.
    TimeWait,
    /// Reset.
    Close,
    /// A UDP exchange.
    Udp,
}

impl TcpState {
    /// Every state, in the order of their numbers.
    pub const ALL: [TcpState; 9] = [
        TcpState::None,
        TcpState::SynReceived,
        TcpState::Established,
        TcpState::FinWait,
        TcpState::CloseWait,
        TcpState::LastAck,
        TcpState::TimeWait,
        TcpState::Close,
        TcpState::Udp,
    ];

    /// The state's name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            TcpState::None => "none",
            TcpState::SynReceived => "syn-received",
            TcpState::Established => "established",
            TcpState::FinWait => "fin-wait",
            TcpState::CloseWait => "close-wait",
            TcpState::LastAck => "last-ack",
            TcpState::TimeWait => "time-wait",
            TcpState::Close => "close",
            TcpState::Udp => "udp",
        }
    }
}

/// What of a flow is not needed to forward its packets: 16 bytes in an array of their own.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(16))]
pub(crate) struct Aside {
    pub(crate) next: u32,
    pub(crate) prev: u32,
    /// Packets from the client and from the server, modulo 2³², without what is pending.
    pub(crate) packets: [u32; 2],
}

// SAFETY: integers.
unsafe impl super::slab::Zeroable for Aside {}

/// Low bits of a flow's copy of the way to its server.
const DESTINATION_BITS: u32 = 48;

/// One connection, in one cache line of 64 bytes.
///
/// `[0]` of a pair is the client's side (source client, destination virtual service), `[1]` the server's
/// (source real server, destination the client, or the director's own address in full NAT). A packet
/// that matches side `s` leaves with the addresses and ports of side `1 - s`, swapped.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Flow {
    /// IPv4: source and destination address of each side's packets, as they stand in the packet.
    /// IPv6: references into the table; see [`super::FlowTable::addresses_v6`].
    pub addresses: [u64; 2],
    /// Source and destination port of each side's packets, as they stand in the packet.
    pub ports: [u32; 2],
    /// Next hop toward the client and toward the server: rows of the worker's next-hop table. While there is a `hop_copy`, the second
    /// is the row with the rest of that.
    pub(crate) next_hop: [u16; 2],
    /// Slot of the virtual service.
    pub service: u16,
    /// Slot of the real server.
    pub server: u16,
    /// What translation from client to server adds to the transport checksum: bits of a [`crate::checksum::Difference`].
    pub l4_difference: u16,
    /// What translation from client to server adds to the IPv4 header checksum, TTL decrement included in neither. A flow that
    /// is not translated has no use for it; the connection's owner keeps notes there.
    pub ip_difference: u16,
    /// Tick of the last packet.
    pub last_seen: u32,
    /// 0, or a copy of the way to the server: its row of the next hops in the high 16 bits, and below the link-layer destination as it stands in the
    /// frame, first byte lowest.
    pub(crate) hop_copy: u64,
    /// What the client's and the server's packets have counted since the last [`super::FlowTable::settle`].
    pub(crate) pending: [super::counts::Pending; 2],
    /// IP protocol; 0 in a free entry.
    pub protocol: u8,
    /// The connection's state.
    pub state: TcpState,
    /// Flags.
    pub flags: FlowFlags,
    /// When it was put on the half-open queue, coarsely.
    pub(crate) queued: u8,
    /// For the stage that owns the flow (splicing keeps its entry's number here).
    pub extra: u32,
}

impl Flow {
    /// Protocol, state and flags (low byte first) in one word, so that a packet's path is chosen by one comparison
    /// with a [`Flow::summary_of`].
    #[inline(always)]
    pub fn summary(&self) -> u32 {
        let at = core::ptr::from_ref(self).cast::<u8>();
        // One load: the compiler keeps the four bytes apart otherwise.
        // SAFETY: the four one-byte fields stand one after the other (checked below), inside `self`, all initialised; the
        // offset is a multiple of four, so the load is aligned.
        u32::from_le(unsafe { at.add(core::mem::offset_of!(Flow, protocol)).cast::<u32>().read() })
    }

    /// The [`Flow::summary`] of a flow with this protocol, state and flags.
    pub const fn summary_of(protocol: u8, state: TcpState, flags: u8) -> u32 {
        u32::from_le_bytes([protocol, state as u8, flags, 0])
    }

    /// The row of the next hop to side `to`.
    #[inline]
    pub fn next_hop(&self, to: usize) -> u16 {
        if to == Place::SERVER && self.hop_copy != 0 {
            (self.hop_copy >> DESTINATION_BITS) as u16
        } else {
            self.next_hop[to & 1]
        }
    }

    /// Sets the row of the next hop to side `to`; a copy of the way to the server ends with it.
    #[inline]
    pub fn set_next_hop(&mut self, to: usize, row: u16) {
        if to == Place::SERVER {
            self.hop_copy = 0;
        }
        self.next_hop[to & 1] = row;
    }

    /// The row that the copy of the way to the server goes with, where there is a copy.
    #[inline]
    pub fn copied_with(&self) -> Option<u16> {
        (self.hop_copy != 0).then_some(self.next_hop[Place::SERVER])
    }

    /// Copies the link-layer destination of the way to the server (as it stands in the frame) into the flow, so that its row is not needed.
    /// `rest` is a row with the rest of it, whose own destination is zero. A destination of zeros is not copied.
    pub fn copy_hop(&mut self, destination: [u8; 6], rest: u16) {
        let [a, b, c, d, e, f] = destination;
        let destination = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        if destination != 0 {
            self.hop_copy = u64::from(self.next_hop(Place::SERVER)) << DESTINATION_BITS | destination;
            self.next_hop[Place::SERVER] = rest;
        }
    }

    /// Ends the copy of the way to the server.
    pub fn forget_copy(&mut self) {
        self.set_next_hop(Place::SERVER, self.next_hop(Place::SERVER));
    }

    /// The way of a packet that side `from` has sent: a row, and what is to be laid (by or) over the first eight bytes of its addresses, the
    /// first one lowest.
    #[inline(always)]
    pub fn way(&self, from: usize) -> (u16, u64) {
        // Which side sent a packet is as good as random: masked, not branched on. All ones for the client's.
        let mask = (from as u64).wrapping_sub(1) >> (64 - DESTINATION_BITS);
        (self.next_hop[1 - from], self.hop_copy & mask)
    }

    /// Whether the addresses are IPv6.
    #[inline]
    pub fn is_v6(&self) -> bool {
        self.flags.has(FlowFlags::V6)
    }
}

// SAFETY: all-zero bytes are a valid `Flow`: `TcpState` 0 is `None`, everything else is integers.
unsafe impl super::slab::Zeroable for Flow {}

const _: () = {
    use core::mem::offset_of;
    let first = offset_of!(Flow, protocol);
    assert!(size_of::<Flow>() == 64 && first % 4 == 0);
    assert!(offset_of!(Flow, state) == first + 1 && size_of::<TcpState>() == 1);
    assert!(offset_of!(Flow, flags) == first + 2 && offset_of!(Flow, queued) == first + 3);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_protocol_state_and_flags() {
        let mut t = super::super::FlowTable::new(1, 1);
        let key = super::super::Key::V4 { addresses: 1, ports: 2 };
        let flow = t.insert(6, &key, None).unwrap();
        let f = t.get_mut(flow);
        f.state = TcpState::CloseWait;
        f.flags.set(FlowFlags::TUNNEL, true);
        assert_eq!(f.summary(), Flow::summary_of(6, TcpState::CloseWait, FlowFlags::TUNNEL));
    }

    #[test]
    fn a_copied_way_stands_for_the_row_until_it_is_forgotten_or_the_row_is_another() {
        let mut t = super::super::FlowTable::new(1, 1);
        let flow = t.insert(6, &super::super::Key::V4 { addresses: 1, ports: 2 }, None).unwrap();
        let f = t.get_mut(flow);
        f.set_next_hop(Place::CLIENT, 7);
        f.set_next_hop(Place::SERVER, 49_151);
        assert_eq!((f.way(Place::CLIENT), f.way(Place::SERVER), f.copied_with()), ((49_151, 0), (7, 0), None));
        let destination = [0xff, 2, 3, 4, 5, 0xfe];
        for _ in 0..2 {
            f.copy_hop(destination, 65_300);
            assert_eq!(
                (f.next_hop(Place::CLIENT), f.next_hop(Place::SERVER), f.copied_with()),
                (7, 49_151, Some(65_300))
            );
            let (row, over) = f.way(Place::CLIENT);
            assert_eq!((row, over.to_le_bytes()), (65_300, [0xff, 2, 3, 4, 5, 0xfe, 0, 0]));
            assert_eq!(f.way(Place::SERVER), (7, 0));
        }
        f.set_next_hop(Place::CLIENT, 8);
        assert_eq!((f.copied_with(), f.way(Place::SERVER)), (Some(65_300), (8, 0)));
        f.forget_copy();
        assert_eq!((f.way(Place::CLIENT), f.copied_with()), ((49_151, 0), None));
        f.copy_hop(destination, 65_300);
        f.set_next_hop(Place::SERVER, 9);
        assert_eq!((f.way(Place::CLIENT), f.next_hop(Place::SERVER), f.copied_with()), ((9, 0), 9, None));
        // A row of 0 is one as well; zeros are no destination.
        f.set_next_hop(Place::SERVER, 0);
        f.copy_hop([0; 6], 65_300);
        assert_eq!(f.copied_with(), None);
        f.copy_hop(destination, 65_300);
        assert_eq!((f.next_hop(Place::SERVER), f.copied_with()), (0, Some(65_300)));
    }
}
