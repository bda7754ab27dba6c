//! Packets in words, for tests: [`packet`] reads and builds them, [`verify`] checks what was forwarded.
//! All of it is written from the RFCs and shares no code with the crates under test.
#![allow(dead_code)]

pub mod packet;
pub mod verify;

/// The checksum of RFC 1071 §4.1, byte by byte, in host order.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let all: Vec<u8> = parts.concat();
    let mut sum = 0u32;
    for pair in all.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The pseudo-header of TCP, UDP (both families) and ICMPv6.
pub fn pseudo(source: &[u8], destination: &[u8], protocol: u8, length: usize) -> Vec<u8> {
    let mut p = [source, destination].concat();
    p.extend((length as u32).to_be_bytes());
    p.extend([0, 0, 0, protocol]);
    p
}
