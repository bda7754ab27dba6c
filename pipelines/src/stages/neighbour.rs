//! ARP, neighbour discovery and ping for our own addresses, on ports that have no kernel to answer them.

use super::connection::Connections;
use super::exceptions::kernel_or;
use lcs_dataplane::batch::Batch;
use lcs_dataplane::headers::arp::{self, Arp};
use lcs_dataplane::headers::build::fill_icmp_checksum;
use lcs_dataplane::headers::ethernet::{self, MacAddr};
use lcs_dataplane::headers::{icmp, ipv6};
use lcs_dataplane::{DropReason, Verdict};
use std::net::{IpAddr, Ipv6Addr};

fn own_mac(c: &Connections, interface: u8) -> Option<MacAddr> {
    c.snapshot.interfaces.get(usize::from(interface)).map(|i| i.mac)
}

/// Answers an ARP request for one of our addresses (RFC 826); other ARP is the kernel's.
pub(crate) fn arp(c: &Connections, batch: &mut Batch, i: usize) -> Verdict {
    if c.settings.capabilities.kernel_answers {
        return kernel_or(c, DropReason::NotForUs);
    }
    let l3 = usize::from(batch.l3[i]);
    let Some(request) = batch.frames[i].bytes().get(l3..).and_then(Arp::parse) else {
        return Verdict::Drop(DropReason::BadNeighbour);
    };
    if request.operation == 2 && c.settings.capabilities.neighbour_answers {
        return Verdict::Kernel;
    }
    let Some(mac) = own_mac(c, batch.rx[i]) else { return kernel_or(c, DropReason::NotForUs) };
    if request.operation != 1 || !c.snapshot.own.contains(&IpAddr::V4(request.target)) {
        return kernel_or(c, DropReason::NotForUs);
    }
    let answer = Arp {
        operation: 2,
        sender_mac: mac,
        sender: request.target,
        target_mac: request.sender_mac,
        target: request.sender,
    }
    .frame(request.sender_mac);
    let frame = &mut batch.frames[i];
    // The answer keeps the request's tag, which stands between the addresses and the EtherType.
    let b = frame.bytes_mut();
    b[..12].copy_from_slice(&answer[..12]);
    b[l3..l3 + arp::PACKET].copy_from_slice(&answer[ethernet::HEADER..]);
    batch.tx[i] = batch.rx[i];
    Verdict::Forward
}

/// Answers a neighbour solicitation for one of our addresses (RFC 4861 §7.2.4).
pub(crate) fn solicitation(c: &Connections, batch: &mut Batch, i: usize) -> Verdict {
    let bad = Verdict::Drop(DropReason::BadNeighbour);
    let (l3, l4, end) = (usize::from(batch.l3[i]), usize::from(batch.l4[i]), usize::from(batch.end[i]));
    let Some(mac) = own_mac(c, batch.rx[i]) else { return kernel_or(c, DropReason::NotForUs) };
    let frame = &mut batch.frames[i];
    let b = frame.bytes();
    // §7.1.1: hop limit 255, code 0, 24 bytes or more.
    if l4 != l3 + ipv6::HEADER || end < l4 + 24 || b.len() < end || b[l3 + 7] != 255 || b[l4 + 1] != 0 {
        return bad;
    }
    let read = |at: usize| b[at..at + 16].first_chunk::<16>().map_or(Ipv6Addr::UNSPECIFIED, |a| Ipv6Addr::from(*a));
    let (from, target) = (read(l3 + 8), read(l4 + 8));
    if !c.snapshot.own.contains(&IpAddr::V6(target)) {
        return kernel_or(c, DropReason::NotForUs);
    }
    // Duplicate address detection asks from the unspecified address and is answered to all nodes (§7.2.4).
    let detecting = from.is_unspecified();
    // The question of our own kernel that a switch or device has sent back: an answer would take the address from it.
    if detecting && c.snapshot.interfaces.iter().any(|interface| interface.mac == ethernet::source(b)) {
        return Verdict::Drop(DropReason::NotForUs);
    }
    let to = if detecting { Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1) } else { from };
    let to_mac = if detecting { MacAddr([0x33, 0x33, 0, 0, 0, 1]) } else { ethernet::source(b) };
    if !frame.set_len((l4 + 32) as u16) {
        return bad;
    }
    let b = frame.bytes_mut();
    b[..6].copy_from_slice(&to_mac.0);
    b[6..12].copy_from_slice(&mac.0);
    if !ipv6::write(&mut b[l3..], 0, 32, 58, 255, target, to) {
        return bad;
    }
    let message = &mut b[l4..];
    message[..8].copy_from_slice(&[icmp::v6::NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0]);
    // Solicited (unless detecting) and override; not a router.
    message[4] = if detecting { 0x20 } else { 0x60 };
    message[8..24].copy_from_slice(&target.octets());
    message[24] = 2; // target link-layer address, in units of 8 bytes
    message[25] = 1;
    message[26..32].copy_from_slice(&mac.0);
    let mut addresses = [0; 32];
    addresses[..16].copy_from_slice(&target.octets());
    addresses[16..].copy_from_slice(&to.octets());
    fill_icmp_checksum(message, Some(&addresses));
    batch.tx[i] = batch.rx[i];
    Verdict::Forward
}
