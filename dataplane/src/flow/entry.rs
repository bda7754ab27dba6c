//! One flow: a cache line.

use crate::splice::Lease;
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
    /// Numbers change on the way as well; how is kept beside the flow, and in its [`Lease`].
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
    /// Next hop toward the client and toward the server: rows of the worker's next-hop table.
    pub next_hop: [u16; 2],
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
    /// With [`LEASED`], its splice's limits ([`Lease`]).
    limit: [u32; 2],
    /// Packets from the client and from the server, modulo 2³².
    pub packets: [u32; 2],
    /// IP protocol; 0 in a free entry.
    pub protocol: u8,
    /// The connection's state.
    pub state: TcpState,
    /// Flags.
    pub flags: FlowFlags,
    /// While it is half open, when it was queued ([`crate::timer`]); or [`LEASED`] and the shift of a [`Lease`].
    pub(crate) spare: u8,
    /// For the stage that owns the flow. A spliced flow's is taken by its [`Lease`].
    pub extra: u32,
}

/// In [`Flow::spare`]: the flow has a [`Lease`].
pub(crate) const LEASED: u8 = 1 << 7;

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

    /// Whether the addresses are IPv6.
    #[inline]
    pub fn is_v6(&self) -> bool {
        self.flags.has(FlowFlags::V6)
    }

    /// An entry with nothing but these; the rest is zero.
    pub(crate) fn new(protocol: u8, flags: FlowFlags, addresses: [u64; 2], ports: [u32; 2]) -> Self {
        Flow {
            addresses,
            ports,
            next_hop: [0; 2],
            service: 0,
            server: 0,
            l4_difference: 0,
            ip_difference: 0,
            last_seen: 0,
            limit: [0; 2],
            packets: [0; 2],
            protocol,
            state: TcpState::None,
            flags,
            spare: 0,
            extra: 0,
        }
    }

    /// What a spliced flow knows of its splice by itself, if anything.
    #[inline(always)]
    pub fn lease(&self) -> Option<Lease> {
        // The shift is in the low seven bits, with its sign.
        let shift = (self.spare << 1) as i8 >> 1;
        (self.spare & LEASED != 0).then_some(Lease { down: self.extra, limit: self.limit, shift })
    }

    /// Gives a spliced flow a lease, unless it is half open. Returns whether it has one.
    #[inline]
    pub fn lend(&mut self, lease: Lease) -> bool {
        if self.flags.has(FlowFlags::HALF_OPEN) {
            return false;
        }
        (self.extra, self.limit) = (lease.down, lease.limit);
        self.spare = LEASED | lease.shift as u8 & !LEASED;
        true
    }

    /// Takes a flow's lease away, if it has one.
    #[inline]
    pub fn end_lease(&mut self) {
        if self.spare & LEASED != 0 {
            self.spare = 0;
        }
    }
}

// SAFETY: all-zero bytes are a valid `Flow`: `TcpState` 0 is `None`, everything else is integers.
unsafe impl super::slab::Zeroable for Flow {}

const _: () = {
    use core::mem::offset_of;
    let first = offset_of!(Flow, protocol);
    assert!(size_of::<Flow>() == 64 && first % 4 == 0);
    assert!(offset_of!(Flow, state) == first + 1 && size_of::<TcpState>() == 1);
    assert!(offset_of!(Flow, flags) == first + 2 && offset_of!(Flow, spare) == first + 3);
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
}
