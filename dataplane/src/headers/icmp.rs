//! ICMP (RFC 792) and ICMPv6 (RFC 4443): which messages are errors, and where the embedded packet is.

/// Bytes in front of the embedded packet of an error, in both families.
pub const HEADER: usize = 8;

/// ICMP (IPv4) types.
pub mod v4 {
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Code of "fragmentation needed and DF set"; the next hop's MTU is in bytes 6 and 7 (RFC 1191 §4).
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// Code of "port unreachable".
    pub const PORT_UNREACHABLE: u8 = 3;
    /// Source quench (deprecated by RFC 6633).
    pub const SOURCE_QUENCH: u8 = 4;
    /// Redirect.
    pub const REDIRECT: u8 = 5;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
}

/// ICMPv6 types.
pub mod v6 {
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 1;
    /// Code of "port unreachable".
    pub const PORT_UNREACHABLE: u8 = 4;
    /// Packet too big; the MTU is in bytes 4 to 7.
    pub const TOO_BIG: u8 = 2;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 3;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 128;
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 129;
    /// Neighbour solicitation (RFC 4861 §4.3).
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    /// Neighbour advertisement (RFC 4861 §4.4).
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
}

/// Whether an ICMP (IPv4) type is an error that embeds a packet: unreachable, source quench, redirect, time exceeded, parameter problem.
pub fn is_error_v4(kind: u8) -> bool {
    matches!(kind, 3 | 4 | 5 | 11 | 12)
}

/// Whether an ICMPv6 type is an error (RFC 4443 §2.1: the high bit is clear).
pub fn is_error_v6(kind: u8) -> bool {
    kind & 0x80 == 0
}
