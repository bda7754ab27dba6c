//! Tunnel: an outer IP header in front of the client's packet (RFC 2003 IPv4 in IPv4, RFC 2473 IPv4 and IPv6 in IPv6,
//! RFC 4213 IPv6 in IPv4).

use super::connection::Connections;
use super::fragmentation::{Cut, IPV6_MIN, may_be_cut};
use super::hops::Addresses;
use super::icmp;
use crate::snapshot::Server;
use lcs_dataplane::batch::Batch;
use lcs_dataplane::checksum::{Sum, ttl_decrement};
use lcs_dataplane::headers::{Kind, ethernet, ipv4, ipv6, protocol};
use lcs_dataplane::{DropReason, Frame, Verdict};
use std::net::IpAddr;

/// TTL of the outer header: enough to reach the tunnel's end (RFC 2003 §3.1).
const OUTER_TTL: u8 = 64;

/// The outer header from the director to one server, for IPv4 in IPv4: what is the same for every packet is written once. All zeros for
/// a server that has none. Half a cache line, so that with thousands of servers a packet touches one line of these.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(32))]
pub(crate) struct Outer {
    header: [u8; ipv4::HEADER],
    sum: Sum,
}

impl Outer {
    /// The header toward `server`, if that is what its packets get.
    pub(crate) fn new(server: &Server) -> Outer {
        let (Some(IpAddr::V4(from)), IpAddr::V4(to)) = (server.tunnel_source, server.address) else {
            return Outer::default();
        };
        let mut header = [0; ipv4::HEADER];
        if !ipv4::write(&mut header, 0, 0, 0, 0, OUTER_TTL, protocol::IPIP, from, to) {
            return Outer::default();
        }
        // Length and checksum are each packet's own.
        header[2..4].fill(0);
        header[10..12].fill(0);
        Outer { header, sum: Sum::ZERO.bytes(&header) }
    }

    /// Does to a simple IPv4 frame ([`Batch::simple`]) that ends at `end` what [`encapsulate`] would do; `false`, and nothing
    /// changed, when there is no header, no room, or the packet would exceed the MTU.
    #[inline(always)]
    pub(crate) fn put(&self, frame: &mut Frame, end: u16, mtu: u16, to: Addresses, ident: u16) -> bool {
        const OVERHEAD: u16 = ipv4::HEADER as u16;
        let total = end.wrapping_sub(ethernet::HEADER as u16).wrapping_add(OVERHEAD);
        if self.header[0] == 0 || total > mtu || total < OVERHEAD || frame.headroom() < ipv4::HEADER || frame.len() < 54
        {
            return false;
        }
        // Ethernet padding must not travel inside the tunnel.
        if !frame.set_len(end) || !frame.push_front(OVERHEAD) {
            return false;
        }
        let Some(b) = frame.bytes_mut().first_chunk_mut::<54>() else { return false };
        let (tos, df) = (b[35], b[40] & (ipv4::DF >> 8) as u8);
        b[42] = b[42].wrapping_sub(1);
        let inner = u16::from_ne_bytes([b[44], b[45]]);
        b[44..46].copy_from_slice(&ttl_decrement().apply(inner).to_ne_bytes());
        to.put(b);
        b[12..14].copy_from_slice(&ethernet::ethertype::IPV4.to_be_bytes());
        // Put together as one number: bytes gathered one by one would be stored one by one.
        let first = u64::from(self.header[0]) << 56
            | u64::from(tos) << 48
            | u64::from(total) << 32
            | u64::from(ident) << 16
            | u64::from(df) << 8;
        let sum = self.sum.number(u16::from(tos)).number(total).number(ident).number(u16::from(df) << 8);
        b[14..22].copy_from_slice(&first.to_be_bytes());
        b[22..34].copy_from_slice(&self.header[8..]);
        b[24..26].copy_from_slice(&sum.checksum().to_ne_bytes());
        true
    }
}

const _: () = assert!(size_of::<Outer>() == 32);

/// Puts the outer header in front of a frame of the director's own, whose next hop's addresses it has already. `false`, and the
/// frame is not to be sent, when that is not possible.
pub(crate) fn wrap(c: &mut Connections, frame: &mut Frame, server: u16) -> bool {
    let Some(Some(server)) = c.snapshot.servers.get(usize::from(server)) else { return false };
    let (to, from) = (server.address, server.tunnel_source);
    let overhead = if to.is_ipv6() { ipv6::HEADER } else { ipv4::HEADER };
    let inner = frame.len().saturating_sub(ethernet::HEADER);
    let Some(v6) = frame.bytes().get(12..14).map(|t| t == ethernet::ethertype::IPV6.to_be_bytes()) else {
        return false;
    };
    if !frame.push_front(overhead as u16) {
        return false;
    }
    let b = frame.bytes_mut();
    b.copy_within(overhead..overhead + 12, 0);
    let next = if v6 { protocol::IPV6 } else { protocol::IPIP };
    let (written, ethertype) = match (from, to) {
        (Some(IpAddr::V4(from)), IpAddr::V4(to)) => {
            c.ident = c.ident.wrapping_add(1);
            let outer = &mut b[ethernet::HEADER..];
            let done = ipv4::write(outer, 0, inner, c.ident, ipv4::DF, OUTER_TTL, next, from, to);
            (done, ethernet::ethertype::IPV4)
        }
        (Some(IpAddr::V6(from)), IpAddr::V6(to)) => {
            let done = ipv6::write(&mut b[ethernet::HEADER..], 0, inner, next, OUTER_TTL, from, to);
            (done, ethernet::ethertype::IPV6)
        }
        _ => (false, 0),
    };
    b[12..14].copy_from_slice(&ethertype.to_be_bytes());
    written
}

/// Puts the outer header in front of frame `i`, whose flow goes to a server behind a tunnel.
///
/// TOS: copied, ECN included (RFC 6040 §4.1, normal mode). TTL: the inner one is decremented, the outer one set afresh. DF: copied from an
/// inner IPv4 header and set for an inner IPv6 packet that its sender could make smaller: of more than 1,280 bytes (RFC 4213 §3.2).
#[allow(clippy::too_many_arguments)]
#[inline]
pub(crate) fn encapsulate(
    c: &mut Connections,
    batch: &mut Batch,
    i: usize,
    server: usize,
    mtu: u16,
    interface: u8,
    addresses: &[u8; 12],
    now: u32,
) -> Verdict {
    let server_slot = server;
    let Some(Some(server)) = c.snapshot.servers.get(server_slot) else { return Verdict::Drop(DropReason::NoServer) };
    let (to, from) = (server.address, server.tunnel_source);
    let l3 = usize::from(batch.l3[i]);
    let inner_len = usize::from(batch.end[i]) - l3;
    let overhead = if to.is_ipv6() { ipv6::HEADER } else { ipv4::HEADER };
    let mtu = if to.is_ipv6() { c.paths.mtu(server_slot, mtu, now) } else { mtu };
    let inner_v6 = matches!(batch.kind[i], Kind::Transport6 | Kind::First6 | Kind::Fragment6 | Kind::Icmp6);
    let small = inner_len <= usize::from(IPV6_MIN);
    let too_long = inner_len + overhead > usize::from(mtu);
    if too_long && !(if inner_v6 { small } else { may_be_cut(batch, i) }) {
        return icmp::too_big(c, batch, i, mtu.saturating_sub(overhead as u16), now);
    }
    let frame = &mut batch.frames[i];
    let ttl_at = if inner_v6 { l3 + 7 } else { l3 + 8 };
    let b = frame.bytes_mut();
    if b.len() < l3 + 20 {
        return Verdict::Drop(DropReason::Truncated);
    }
    if b[ttl_at] <= 1 {
        return icmp::ttl_expired(c, batch, i, now);
    }
    let (tos, df) = if inner_v6 {
        (b[l3] << 4 | b[l3 + 1] >> 4, if small { 0 } else { ipv4::DF })
    } else {
        (b[l3 + 1], u16::from_be_bytes([b[l3 + 6], b[l3 + 7]]) & ipv4::DF)
    };
    // Ethernet padding must not travel inside the tunnel.
    if frame.len() > l3 + inner_len && !frame.set_len((l3 + inner_len) as u16) {
        return Verdict::Drop(DropReason::BadHeader);
    }
    if !frame.push_front(overhead as u16) {
        return Verdict::Drop(DropReason::NoHeadroom);
    }
    let b = frame.bytes_mut();
    let inner = l3 + overhead;
    b[inner + ttl_at - l3] -= 1;
    if !inner_v6 {
        let sum = u16::from_ne_bytes([b[inner + 10], b[inner + 11]]);
        b[inner + 10..inner + 12].copy_from_slice(&ttl_decrement().apply(sum).to_ne_bytes());
    }
    // What stands between the addresses and the EtherType (a tag) moves to the front with them.
    b.copy_within(overhead..overhead + l3, 0);
    ethernet::set_addresses(b, addresses);
    let next = if inner_v6 { protocol::IPV6 } else { protocol::IPIP };
    let (written, ethertype) = match (from, to) {
        (Some(IpAddr::V4(from)), IpAddr::V4(to)) => {
            c.ident = c.ident.wrapping_add(1);
            let done = ipv4::write(&mut b[l3..], tos, inner_len, c.ident, df, OUTER_TTL, next, from, to);
            (done, ethernet::ethertype::IPV4)
        }
        (Some(IpAddr::V6(from)), IpAddr::V6(to)) => {
            (ipv6::write(&mut b[l3..], tos, inner_len, next, OUTER_TTL, from, to), ethernet::ethertype::IPV6)
        }
        _ => (false, 0),
    };
    if !written {
        return Verdict::Drop(DropReason::NextHopUnresolved);
    }
    b[l3 - 2..l3].copy_from_slice(&ethertype.to_be_bytes());
    batch.tx[i] = interface;
    if too_long {
        let cut = match (inner_v6, to) {
            (false, _) => Cut::V4(inner as u16),
            (true, IpAddr::V4(_)) => Cut::V4(l3 as u16),
            (true, IpAddr::V6(_)) => Cut::V6,
        };
        c.oversized.mark(i, cut, mtu);
    }
    Verdict::Forward
}

/// MTUs of the paths to tunnels' ends where they are less than the next hop's, as routers on the way have said. Only of IPv6
/// paths: over IPv4 routers fragment what the director sends without DF, and the client is told of the rest.
#[derive(Debug, Default)]
pub(crate) struct Paths(Vec<Path>);

#[derive(Debug, Clone, Copy, Default)]
struct Path {
    /// 0 where nothing is known.
    mtu: u16,
    learned: u32,
}

/// Ticks after which a larger packet is tried again: ten minutes (RFC 8201 §4).
const FORGET: u32 = 4471;

impl Paths {
    /// Follows a snapshot of `servers` slots, of which those in `gone` have changed hands.
    pub(crate) fn install(&mut self, servers: usize, gone: &[u16]) {
        self.0.resize(servers, Path::default());
        for slot in gone {
            if let Some(path) = self.0.get_mut(usize::from(*slot)) {
                *path = Path::default();
            }
        }
    }

    /// A router says that the path to a server takes `mtu` bytes. No IPv6 path takes less than 1,280, and no router makes one
    /// take more than was known (RFC 8201 §4).
    pub(crate) fn learn(&mut self, server: u16, mtu: u32, now: u32) {
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX).max(IPV6_MIN);
        if let Some(path) = self.0.get_mut(usize::from(server)) {
            let known = path.mtu != 0 && now.wrapping_sub(path.learned) < FORGET;
            if !known || mtu <= path.mtu {
                *path = Path { mtu, learned: now };
            }
        }
    }

    /// The MTU of the path to a server whose next hop takes `mtu` bytes.
    fn mtu(&self, server: usize, mtu: u16, now: u32) -> u16 {
        match self.0.get(server) {
            Some(path) if path.mtu != 0 && now.wrapping_sub(path.learned) < FORGET => mtu.min(path.mtu),
            _ => mtu,
        }
    }
}
