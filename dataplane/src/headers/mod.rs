//! Header views: zero-copy, checked once when they are made.
//!
//! Every length comes from the packet's own field (IPv4 IHL, TCP data offset, IPv6 extension lengths).
//! Multi-byte fields are read and written in network order; accessors return host order unless their name says `_raw`.

pub mod arp;
pub mod build;
pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod options;
pub mod parse;
pub mod seq;
pub mod tcp;
pub mod udp;

pub use ethernet::MacAddr;
pub use parse::{Kind, Parsed, parse};
pub use seq::SeqNumber;

/// IP protocol numbers (IANA).
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP (RFC 2003).
    pub const IPIP: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP (RFC 2473, RFC 4213).
    pub const IPV6: u8 = 41;
    /// IPv6 fragment header; also stands for "a fragment" of either family in filters.
    pub const FRAGMENT: u8 = 44;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
}

/// Reads a big-endian `u16` at `at`; 0 when the bytes are not there (callers have checked).
#[inline]
pub(crate) fn be16(b: &[u8], at: usize) -> u16 {
    b.get(at..at + 2).map_or(0, |s| u16::from_be_bytes([s[0], s[1]]))
}

/// Reads a big-endian `u32` at `at`; 0 when the bytes are not there (callers have checked).
#[inline]
pub(crate) fn be32(b: &[u8], at: usize) -> u32 {
    b.get(at..at + 4).map_or(0, |s| u32::from_be_bytes([s[0], s[1], s[2], s[3]]))
}

/// Writes a big-endian `u16` at `at`; nothing when the place is not there (callers have checked).
#[inline]
pub(crate) fn put16(b: &mut [u8], at: usize, v: u16) {
    if let Some(s) = b.get_mut(at..at + 2) {
        s.copy_from_slice(&v.to_be_bytes());
    }
}
