//! Whether what left in a frame's place was an answer to its sender, made in its buffer, and not the frame itself.

use lcs_dataplane::headers::tcp::flags::{ACK, FIN, RST, SYN};
use lcs_dataplane::headers::{Kind, Parsed, icmp, ipv4, ipv6, parse, protocol};
use std::net::{IpAddr, SocketAddr};

/// A frame as far as an answer is told by it.
struct Seen<'a> {
    parsed: Parsed,
    source: SocketAddr,
    destination: SocketAddr,
    /// From the transport header to the end of the packet.
    transport: &'a [u8],
}

impl<'a> Seen<'a> {
    fn new(frame: &'a [u8]) -> Option<Self> {
        let parsed = parse(frame, false).ok()?;
        let packet = frame.get(usize::from(parsed.l3)..)?;
        let (source, destination): (IpAddr, IpAddr) = match parsed.kind {
            Kind::Arp | Kind::Other => return None,
            Kind::Transport4 | Kind::First4 | Kind::Fragment4 | Kind::Icmp4 | Kind::Protocol4 => {
                let ip = ipv4::Ipv4::parse(packet).ok()?;
                (ip.source().into(), ip.destination().into())
            }
            Kind::Transport6 | Kind::First6 | Kind::Fragment6 | Kind::Icmp6 | Kind::Protocol6 => {
                let ip = ipv6::Ipv6::parse(packet).ok()?;
                (ip.source().into(), ip.destination().into())
            }
        };
        let [a, b, c, d] = parsed.ports.to_ne_bytes();
        Some(Seen {
            source: SocketAddr::new(source, u16::from_be_bytes([a, b])),
            destination: SocketAddr::new(destination, u16::from_be_bytes([c, d])),
            transport: frame.get(usize::from(parsed.l4)..usize::from(parsed.end))?,
            parsed,
        })
    }

    fn is_icmp(&self) -> bool {
        matches!(self.parsed.protocol, protocol::ICMP | protocol::ICMPV6)
    }
}

/// The answer in words, if `left`, which was sent in the place of `came`, is one: an ICMP message for what was none, or a packet from
/// where the frame was sent to, back to where it came from. What is forwarded is neither, whatever is rewritten of it.
pub(super) fn answered(came: &[u8], left: &[u8]) -> Option<String> {
    let (came, left) = (Seen::new(came)?, Seen::new(left)?);
    if left.is_icmp() && !came.is_icmp() {
        return Some(format!("{} to {}", icmp_words(&left), left.destination.ip()));
    }
    let back = left.source == came.destination && left.destination == came.source;
    if !back || left.parsed.protocol != came.parsed.protocol || came.source == came.destination {
        return None;
    }
    Some(match left.parsed.protocol {
        protocol::TCP => format!("{} to {}", tcp_words(left.parsed.tcp_flags), left.destination),
        protocol::ICMP | protocol::ICMPV6 => format!("{} to {}", icmp_words(&left), left.destination.ip()),
        other => format!("IP protocol {other} to {}", left.destination),
    })
}

fn tcp_words(flags: u8) -> &'static str {
    match flags {
        _ if flags & RST != 0 => "TCP RST",
        _ if flags & (SYN | ACK) == SYN | ACK => "TCP SYN-ACK",
        _ if flags & FIN != 0 => "TCP FIN",
        _ => "TCP segment",
    }
}

/// RFC 792 and RFC 1191 §4; RFC 4443 §3.
fn icmp_words(seen: &Seen<'_>) -> String {
    let Some(&[kind, code, .., c, d, e, f]) = seen.transport.first_chunk::<{ icmp::HEADER }>() else {
        return "ICMP message".to_owned();
    };
    if seen.parsed.protocol == protocol::ICMP {
        return match (kind, code) {
            (icmp::v4::UNREACHABLE, icmp::v4::FRAGMENTATION_NEEDED) => {
                format!("ICMP \"fragmentation needed\", MTU {}", u16::from_be_bytes([e, f]))
            }
            (icmp::v4::UNREACHABLE, icmp::v4::PORT_UNREACHABLE) => "ICMP \"port unreachable\"".to_owned(),
            (icmp::v4::TIME_EXCEEDED, _) => "ICMP \"time exceeded\"".to_owned(),
            (icmp::v4::ECHO_REPLY, _) => "ICMP echo reply".to_owned(),
            _ => format!("ICMP type {kind} code {code}"),
        };
    }
    match (kind, code) {
        (icmp::v6::TOO_BIG, _) => format!("ICMPv6 \"packet too big\", MTU {}", u32::from_be_bytes([c, d, e, f])),
        (icmp::v6::UNREACHABLE, icmp::v6::PORT_UNREACHABLE) => "ICMPv6 \"port unreachable\"".to_owned(),
        (icmp::v6::TIME_EXCEEDED, _) => "ICMPv6 \"time exceeded\"".to_owned(),
        (icmp::v6::ECHO_REPLY, _) => "ICMPv6 echo reply".to_owned(),
        _ => format!("ICMPv6 type {kind} code {code}"),
    }
}
