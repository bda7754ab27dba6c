//! UDP datagrams of the program's own.

use lcs_dataplane::Frame;
use lcs_dataplane::flow::Key;
use lcs_dataplane::headers::{ethernet, ipv4, ipv6, parse, protocol, udp};
use std::net::IpAddr;

/// Writes a whole frame with every checksum right and DF set. `link`: destination and source address. `false` when it does
/// not fit the buffer.
#[must_use]
pub(crate) fn write(frame: &mut Frame, link: &[u8; 12], key: &Key, payload: &[u8]) -> bool {
    let (from, to) = (key.source(), key.destination());
    let ip = if from.is_ipv6() { ipv6::HEADER } else { ipv4::HEADER };
    let length = udp::HEADER + payload.len();
    let l4 = ethernet::HEADER + ip;
    let Ok(total) = u16::try_from(l4 + length) else { return false };
    if !frame.set_len(total) {
        return false;
    }
    let b = frame.bytes_mut();
    b[..12].copy_from_slice(link);
    let (ethertype, written) = match (from.ip(), to.ip()) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            let done = ipv4::write(&mut b[14..], 0, length, 0, ipv4::DF, 64, protocol::UDP, s, d);
            (ethernet::ethertype::IPV4, done)
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            (ethernet::ethertype::IPV6, ipv6::write(&mut b[14..], 0, length, protocol::UDP, 64, s, d))
        }
        _ => return false,
    };
    b[12..14].copy_from_slice(&ethertype.to_be_bytes());
    b[l4 + udp::HEADER..].copy_from_slice(payload);
    if !written || !udp::write(&mut b[l4..], from.port(), to.port(), payload.len()) {
        return false;
    }
    parse(b, false).is_ok_and(|parsed| parse::fill_transport_checksum(b, &parsed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lcs_dataplane::headers::parse::transport_checksum_ok;
    use lcs_dataplane::port::Port;
    use lcs_dataplane::port::memory::MemoryPort;

    #[test]
    fn a_datagram_is_one_with_right_checksums() {
        let mut port = MemoryPort::new(1, 4);
        for (s, d) in [("192.0.2.1:7411", "198.51.100.1:7412"), ("[2001:db8::1]:7411", "[2001:db8::2]:7412")] {
            let key = Key::new(s.parse().unwrap(), d.parse().unwrap()).unwrap();
            let mut f = port.allocate().unwrap();
            assert!(write(&mut f, &[1; 12], &key, b"odd"));
            let p = parse(f.bytes(), true).unwrap();
            assert!(transport_checksum_ok(f.bytes(), &p));
            assert_eq!(p.protocol, protocol::UDP);
            assert_eq!(&f.bytes()[usize::from(p.l4) + 8..usize::from(p.end)], b"odd");
            assert!(!write(&mut f, &[1; 12], &key, &[0; 4000]));
            port.release(f);
        }
    }
}
