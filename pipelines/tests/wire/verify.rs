//! Checks the headers and checksums of a frame from scratch.

use super::{checksum, pseudo};

fn be16(b: &[u8], at: usize) -> usize {
    usize::from(b[at]) << 8 | usize::from(b[at + 1])
}

/// Checks lengths, versions and checksums of an Ethernet frame that carries one whole IP packet (or ARP). Transport checksums of
/// fragments are not looked at; those of the packet inside an ICMP error only where it is whole. Without `transport`, neither are those
/// that the director leaves as they came: of TCP and UDP, and of what an ICMP error quotes.
///
/// # Errors
/// What is wrong, in words.
pub fn frame(f: &[u8], transport: bool) -> Result<(), String> {
    if f.len() < 14 {
        return Err(format!("{} bytes are no Ethernet frame", f.len()));
    }
    let (kind, l3) = if be16(f, 12) == 0x8100 { (be16(f, 16), 18) } else { (be16(f, 12), 14) };
    match kind {
        0x0806 => Ok(()),
        0x0800 | 0x86dd => ip(&f[l3..], kind == 0x0800, transport, false),
        k => Err(format!("EtherType {k:04x}")),
    }
}

fn ip(p: &[u8], v4: bool, transport: bool, quoted: bool) -> Result<(), String> {
    let (s, d, protocol, body, fragment, whole);
    if v4 {
        if p.len() < 20 || p[0] >> 4 != 4 {
            return Err("no IPv4 header".into());
        }
        let (header, total) = (usize::from(p[0] & 15) * 4, be16(p, 2));
        if header < 20 || header > p.len() || total < header || (total > p.len() && !quoted) {
            return Err(format!("IPv4 header {header}, total {total}, {} bytes there", p.len()));
        }
        if checksum(&[&p[..header]]) != 0 {
            return Err("IPv4 header checksum".into());
        }
        whole = total <= p.len();
        (s, d, protocol, fragment) = (&p[12..16], &p[16..20], p[9], be16(p, 6) & 0x3fff != 0);
        body = &p[header..total.min(p.len())];
    } else {
        if p.len() < 40 || p[0] >> 4 != 6 {
            return Err("no IPv6 header".into());
        }
        let total = 40 + be16(p, 4);
        if total > p.len() && !quoted {
            return Err(format!("IPv6 packet of {total}, {} bytes there", p.len()));
        }
        whole = total <= p.len();
        let p = &p[..total.min(p.len())];
        let (mut next, mut at, mut cut) = (p[6], 40, false);
        loop {
            let len = match next {
                0 | 43 | 60 if at + 2 <= p.len() => usize::from(p[at + 1]) * 8 + 8,
                44 if at + 8 <= p.len() => {
                    cut |= be16(p, at + 2) & 0xfff9 != 0;
                    8
                }
                0 | 43 | 60 | 44 => return Err("IPv6 extension header cut short".into()),
                _ => break,
            };
            next = p[at];
            at += len;
            if cut || at > p.len() {
                break;
            }
        }
        (s, d, protocol, fragment) = (&p[8..24], &p[24..40], next, cut);
        body = &p[at.min(p.len())..];
    }
    if fragment || !whole {
        return Ok(());
    }
    let over = |protocol| pseudo(s, d, protocol, body.len());
    match protocol {
        4 => return ip(body, true, transport, quoted),
        41 => return ip(body, false, transport, quoted),
        6 | 17 if transport => {
            let at = if protocol == 6 { 16 } else { 6 };
            if body.len() < at + 2 {
                return Err("transport header cut short".into());
            }
            if protocol == 17 && be16(body, 6) == 0 && v4 {
                return Ok(());
            }
            if checksum(&[&over(protocol), body]) != 0 {
                return Err(format!("checksum of protocol {protocol}"));
            }
        }
        1 | 58 => {
            if body.len() < 8 {
                return Err("ICMP message cut short".into());
            }
            let bad = if protocol == 1 { checksum(&[body]) } else { checksum(&[&over(58), body]) } != 0;
            if bad {
                return Err("ICMP checksum".into());
            }
            let error = if protocol == 1 { matches!(body[0], 3 | 11 | 12) } else { body[0] < 128 };
            if error && !quoted && transport {
                return ip(&body[8..], body[8..].first().is_some_and(|b| b >> 4 == 4), transport, true)
                    .map_err(|e| format!("packet quoted in an ICMP error: {e}"));
            }
        }
        _ => {}
    }
    Ok(())
}
