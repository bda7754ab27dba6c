//! What translation changes in a frame, and in its checksums (RFC 1624 equation 3).

use lcs_dataplane::Frame;
use lcs_dataplane::checksum::Difference;
use lcs_dataplane::flow::Flow;
use lcs_dataplane::headers::parse::checksum_offset;
use lcs_dataplane::headers::{protocol, tcp};

/// What came of a translation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Translated {
    /// Rewritten.
    Done,
    /// The TTL would reach 0; nothing was changed.
    TtlExpired,
    /// The headers are not where they were said to be; nothing was changed.
    Malformed,
}

/// The difference for packets of `side`, from the one for packets of the client.
#[inline(always)]
pub(super) fn directed(bits: u16, side: usize) -> Difference {
    // Reversing is complementing: all ones for side 1, nothing for side 0.
    Difference::from_bits(bits ^ 0u16.wrapping_sub(side as u16))
}

/// IPv4: addresses, ports, TTL, and both checksums by RFC 1624 equation 3.
#[inline]
pub(super) fn translate_v4(frame: &mut Frame, l3: u8, l4: u16, transport: u8, flow: &Flow, side: usize) -> Translated {
    let addresses = flow.addresses[1 - side].rotate_left(32).to_ne_bytes();
    let ports = flow.ports[1 - side].rotate_left(16).to_ne_bytes();
    let (ip_difference, l4_difference) = (directed(flow.ip_difference, side), directed(flow.l4_difference, side));
    let b = frame.bytes_mut();
    let (l3, l4) = (usize::from(l3), usize::from(l4));
    let at = l4 + checksum_offset(transport);
    if b.len() < at + 2 || l4 < l3 + 20 {
        return Translated::Malformed;
    }
    if b[l3 + 8] <= 1 {
        return Translated::TtlExpired;
    }
    b[l3 + 8] -= 1;
    b[l3 + 12..l3 + 20].copy_from_slice(&addresses);
    b[l4..l4 + 4].copy_from_slice(&ports);
    let sum = u16::from_ne_bytes([b[l3 + 10], b[l3 + 11]]);
    b[l3 + 10..l3 + 12].copy_from_slice(&ip_difference.apply_with_ttl(sum).to_ne_bytes());
    apply_transport(b, at, transport, l4_difference);
    Translated::Done
}

/// IPv6: addresses, ports, hop limit, and the transport checksum.
#[inline]
pub(super) fn translate_v6(
    frame: &mut Frame,
    l3: u8,
    l4: u16,
    transport: u8,
    flow: &Flow,
    side: usize,
    other: &[u8; 32],
) -> Translated {
    let ports = flow.ports[1 - side].rotate_left(16).to_ne_bytes();
    let (l3, l4) = (usize::from(l3), usize::from(l4));
    let at = l4 + checksum_offset(transport);
    let b = frame.bytes_mut();
    if b.len() < at + 2 || l4 < l3 + 40 {
        return Translated::Malformed;
    }
    if b[l3 + 7] <= 1 {
        return Translated::TtlExpired;
    }
    b[l3 + 7] -= 1;
    b[l3 + 8..l3 + 24].copy_from_slice(&other[16..]);
    b[l3 + 24..l3 + 40].copy_from_slice(&other[..16]);
    b[l4..l4 + 4].copy_from_slice(&ports);
    apply_transport(b, at, transport, directed(flow.l4_difference, side));
    Translated::Done
}

/// Updates the transport checksum at `at`, which is within `b`.
#[inline(always)]
fn apply_transport(b: &mut [u8], at: usize, transport: u8, difference: Difference) {
    let sum = u16::from_ne_bytes([b[at], b[at + 1]]);
    let sum = if transport == protocol::UDP { difference.apply_udp(sum) } else { difference.apply(sum) };
    b[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
}

/// Addresses, ports and TTL of a segment of a spliced connection over IPv4, whose headers have no options. `ip` is all that stands before
/// the TCP header. The TCP checksum is another's, with the numbers'.
#[inline(always)]
pub(super) fn splice_v4(ip: &mut [u8; 34], tcp: &mut [u8; tcp::HEADER], flow: &Flow, side: usize) {
    ip[22] = ip[22].wrapping_sub(1);
    let sum = u16::from_ne_bytes([ip[24], ip[25]]);
    ip[24..26].copy_from_slice(&directed(flow.ip_difference, side).apply_with_ttl(sum).to_ne_bytes());
    ip[26..34].copy_from_slice(&flow.addresses[1 - side].rotate_left(32).to_ne_bytes());
    tcp[..4].copy_from_slice(&flow.ports[1 - side].rotate_left(16).to_ne_bytes());
}
