//! Before stage 1, at a filter: the client's packet is taken out of the director's tunnel (RFC 2003, RFC 2473, RFC 4213).
//!
//! Only what is addressed to a tunnel's end is looked at, and what is not exactly IP within IP stays as it is: nobody knows
//! it, and it is dropped and counted as such. A tunnel's packets are no fragments: the director makes none.

use hashbrown::HashSet;
use lcs_dataplane::Frame;
use lcs_dataplane::batch::Batch;
use lcs_dataplane::checksum::Difference;
use lcs_dataplane::headers::{ethernet, ipv4, ipv6, protocol};
use std::net::{IpAddr, Ipv6Addr};

/// Congestion experienced (RFC 3168).
const CE: u8 = 3;

/// Takes what comes in tunnels to `ends` out of them.
#[inline(never)]
pub(crate) fn decapsulate(ends: &HashSet<IpAddr>, batch: &mut Batch) {
    for i in 0..batch.len.min(batch.frames.len()) {
        if let Some((outer, ethertype, ecn)) = outer(ends, batch.frames[i].bytes()) {
            unwrap(&mut batch.frames[i], outer, ethertype, ecn);
        }
    }
}

/// Bytes of the outer header, the inner packet's EtherType and the outer ECN field; `None` for what comes in no tunnel of ours.
fn outer(ends: &HashSet<IpAddr>, frame: &[u8]) -> Option<(u16, u16, u8)> {
    let kind = u16::from_be_bytes(*frame.get(12..)?.first_chunk()?);
    let packet = frame.get(ethernet::HEADER..)?;
    let (to, next, header, ecn) = match kind {
        ethernet::ethertype::IPV4 => {
            let ip = ipv4::Ipv4::parse(packet).ok()?;
            let fragment = u16::from_be_bytes(*packet.get(6..)?.first_chunk()?) & 0x3fff != 0;
            if fragment || !ip.checksum_ok() {
                return None;
            }
            let header = usize::from(packet.first()? & 15) * 4;
            (IpAddr::V4(ip.destination()), *packet.get(9)?, header, packet.get(1)? & 3)
        }
        ethernet::ethertype::IPV6 => {
            let to = Ipv6Addr::from(*packet.get(24..)?.first_chunk::<16>()?);
            (IpAddr::V6(to), *packet.get(6)?, ipv6::HEADER, packet.get(1)? >> 4 & 3)
        }
        _ => return None,
    };
    let version = packet.get(header)? >> 4;
    let ethertype = match (next, version) {
        (protocol::IPIP, 4) => ethernet::ethertype::IPV4,
        (protocol::IPV6, 6) => ethernet::ethertype::IPV6,
        _ => return None,
    };
    let inner = packet.get(header..)?;
    let least = if version == 4 { ipv4::HEADER } else { ipv6::HEADER };
    let inner_ecn = if version == 4 { inner.get(1)? & 3 } else { inner.get(1)? >> 4 & 3 };
    // RFC 6040 §4.2: who does not understand the mark must not lose the packet's fate to it silently.
    let lost = ecn == CE && inner_ecn == 0;
    (inner.len() >= least && !lost && ends.contains(&to)).then_some((header as u16, ethertype, ecn))
}

fn unwrap(frame: &mut Frame, outer: u16, ethertype: u16, ecn: u8) {
    let Some(link) = frame.bytes().first_chunk::<12>().copied() else { return };
    if !frame.pull_front(outer) {
        return;
    }
    let b = frame.bytes_mut();
    b[..12].copy_from_slice(&link);
    b[12..14].copy_from_slice(&ethertype.to_be_bytes());
    if ecn != CE {
        return;
    }
    if ethertype == ethernet::ethertype::IPV6 {
        b[15] |= CE << 4;
    } else {
        let old = [b[14], b[15]];
        b[15] |= CE;
        let d = Difference::NONE.replacing(&old, &b[14..16]);
        let sum = u16::from_ne_bytes([b[24], b[25]]);
        b[24..26].copy_from_slice(&d.apply(sum).to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lcs_dataplane::headers::build::Packet;
    use lcs_dataplane::headers::parse;
    use lcs_dataplane::port::Port;
    use lcs_dataplane::port::memory::MemoryPort;
    use proptest::prelude::*;

    fn inner(v6: bool) -> Vec<u8> {
        let (from, to) = if v6 { ("[2001:db8::1]:1", "[2001:db8::2]:80") } else { ("192.0.2.1:1", "198.51.100.1:80") };
        Packet::tcp(from.parse().unwrap(), to.parse().unwrap(), 0x10).payload(b"data").frame()
    }

    fn wrapped(v6: bool, outer_v6: bool, tos: u8) -> Vec<u8> {
        let inner = inner(v6);
        let payload = inner.len() - 14;
        let next = if v6 { protocol::IPV6 } else { protocol::IPIP };
        let mut header = vec![0; if outer_v6 { 40 } else { 20 }];
        let ethertype = if outer_v6 {
            let (s, d) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
            assert!(ipv6::write(&mut header, tos, payload, next, 64, s, d));
            ethernet::ethertype::IPV6
        } else {
            let (s, d) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
            assert!(ipv4::write(&mut header, tos, payload, 1, ipv4::DF, 64, next, s, d));
            ethernet::ethertype::IPV4
        };
        [&inner[..12], &ethertype.to_be_bytes(), &header, &inner[14..]].concat()
    }

    fn through(bytes: &[u8]) -> Vec<u8> {
        let ends = HashSet::from(["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()]);
        let mut port = MemoryPort::new(1, 4);
        let mut batch = Batch::default();
        assert!(port.inject(0, bytes));
        let n = port.receive(&mut batch.frames, &mut batch.rx);
        batch.start(n, false);
        decapsulate(&ends, &mut batch);
        let out = batch.frames[0].bytes().to_vec();
        port.release(std::mem::take(&mut batch.frames[0]));
        out
    }

    #[test]
    fn every_family_within_every_family_is_what_it_was() {
        for (v6, outer_v6) in [(false, false), (false, true), (true, false), (true, true)] {
            assert_eq!(through(&wrapped(v6, outer_v6, 0)), inner(v6), "{v6} within {outer_v6}");
        }
        // No tunnel, or one to somebody else.
        let plain = inner(false);
        assert_eq!(through(&plain), plain);
        let mut other = wrapped(false, true, 0);
        other[14 + 39] = 3;
        assert_eq!(through(&other), other);
    }

    #[test]
    fn a_mark_of_congestion_is_kept_or_the_packet_is_lost() {
        for v6 in [false, true] {
            let marked = wrapped(v6, false, CE);
            assert_eq!(through(&marked), marked, "its sender does not understand ECN");
            let mut bytes = wrapped(v6, false, CE);
            // The inner packet is of who does.
            if v6 {
                bytes[34 + 1] |= 2 << 4;
            } else {
                bytes[34 + 1] |= 2;
                bytes[34 + 10..34 + 12].fill(0);
                let sum = lcs_dataplane::checksum::Sum::ZERO.bytes(&bytes[34..54]).checksum();
                bytes[34 + 10..34 + 12].copy_from_slice(&sum.to_ne_bytes());
            }
            let out = through(&bytes);
            assert!(parse(&out, true).is_ok());
            assert_eq!(if v6 { out[15] >> 4 & 3 } else { out[15] & 3 }, CE);
        }
    }

    proptest! {
        #[test]
        fn nothing_from_the_network_panics(mut bytes in prop::collection::vec(any::<u8>(), 14..120), shape in 0u8..4) {
            if shape < 3 {
                let w = wrapped(shape & 1 == 1, shape & 2 == 2, 0);
                let n = w.len().min(bytes.len());
                let keep = (bytes[0] as usize % 60).min(n);
                bytes[..keep].copy_from_slice(&w[..keep]);
            }
            through(&bytes);
        }
    }
}
