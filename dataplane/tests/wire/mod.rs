//! Frames for the tests, built byte by byte from the RFCs and independent of the crate's own header views.
#![allow(dead_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// Whether the tests may open interfaces and load programs; says so when they may not.
pub fn root(test: &str) -> bool {
    // SAFETY: reads an identifier of the process.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("{test}: skipped, as it needs root");
    }
    root
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Puts an 802.1Q tag into a frame.
pub fn tagged(mut frame: Vec<u8>, vlan: u16) -> Vec<u8> {
    let tag = [0x81, 0, (vlan >> 8) as u8, vlan as u8];
    frame.splice(12..12, tag);
    frame
}

/// The internet checksum (RFC 1071), the slow and obvious way.
pub fn checksum(bytes: &[u8]) -> u16 {
    let sum: u64 =
        bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))).sum();
    !(0..4).fold(sum, |sum, _| (sum & 0xffff) + (sum >> 16)) as u16
}

pub fn ipv4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, options: &[u8], fragment: u16, payload: &[u8]) -> Vec<u8> {
    assert!(options.len().is_multiple_of(4));
    let header_len = 20 + options.len();
    let mut packet = vec![0x40 | (header_len / 4) as u8, 0];
    packet.extend(((header_len + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(options);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

pub fn ipv6(src: Ipv6Addr, dst: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(payload);
    packet
}

/// An IP packet of the addresses' family, without options.
pub fn packet(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ipv4(src, dst, protocol, &[], 0, payload),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ipv6(src, dst, protocol, payload),
        _ => panic!("one family"),
    }
}

/// An Ethernet frame around an IP packet.
pub fn frame(packet: Vec<u8>) -> Vec<u8> {
    ethernet(if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd }, &packet)
}

/// The first bytes of a TCP or UDP header, and `len` bytes of payload; checksums are not looked at by the program.
pub fn ports(src: u16, dst: u16, len: usize) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(src.to_be_bytes());
    header.extend(dst.to_be_bytes());
    header.extend(((8 + len) as u16).to_be_bytes());
    header.extend([0; 2]);
    header.extend((0..len).map(|i| i as u8));
    header
}

/// A whole frame from endpoint to endpoint.
pub fn transport(src: (&str, u16), dst: (&str, u16), protocol: u8) -> Vec<u8> {
    frame(packet(ip(src.0), ip(dst.0), protocol, &ports(src.1, dst.1, 32)))
}
