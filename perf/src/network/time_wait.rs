//! Connections in TIME-WAIT, kept as two endpoints and a time instead of a socket each.
//!
//! An end system that opens thousands of connections a second has hundreds of thousands in TIME-WAIT, and a socket
//! set is searched from end to end for every segment. What such a connection must still do is little (RFC 9293
//! §3.10.7.4): acknowledge a FIN that comes again, and let go for a new SYN (RFC 9293 §3.10.7.4, RFC 1122 §4.2.2.13).

use lcs_dataplane::headers::build::Packet;
use lcs_dataplane::headers::options::{read_timestamps, timestamps};
use lcs_dataplane::headers::tcp::{Tcp, flags};
use lcs_dataplane::headers::{ethernet, ipv4, ipv6, parse, protocol};
use lcs_dataplane::worker::Nanos;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

/// How long a connection stays: twice the maximum segment lifetime, of 5 s in this network.
pub const TIME_WAIT: Nanos = 10_000_000_000;

/// Our endpoint and the peer's.
pub type Pair = (SocketAddr, SocketAddr);

/// What to do with a received frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is for no connection here.
    NotOurs,
    /// It has been dealt with; nothing is sent.
    Ignore,
    /// Send this frame.
    Acknowledge(Vec<u8>),
}

/// The connections in TIME-WAIT of one host.
#[derive(Debug, Default)]
pub struct TimeWaits {
    until: HashMap<Pair, Nanos>,
    order: VecDeque<(Nanos, Pair)>,
}

impl TimeWaits {
    /// Puts a connection in.
    pub fn insert(&mut self, pair: Pair, now: Nanos) {
        self.until.insert(pair, now + TIME_WAIT);
        self.order.push_back((now + TIME_WAIT, pair));
    }

    /// Whether a connection is in TIME-WAIT.
    pub fn contains(&self, pair: &Pair) -> bool {
        self.until.contains_key(pair)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.until.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.until.is_empty()
    }

    /// Lets go of those whose time is over.
    pub fn expire(&mut self, now: Nanos) {
        while let Some(&(at, pair)) = self.order.front().filter(|(at, _)| *at <= now) {
            self.order.pop_front();
            if self.until.get(&pair) == Some(&at) {
                self.until.remove(&pair);
            }
        }
    }

    /// Looks at a received frame.
    pub fn receive(&mut self, frame: &[u8]) -> Answer {
        if self.until.is_empty() {
            return Answer::NotOurs;
        }
        let Some((pair, tcp, len)) = segment(frame) else { return Answer::NotOurs };
        if !self.until.contains_key(&pair) {
            return Answer::NotOurs;
        }
        if tcp.flags() & (flags::SYN | flags::ACK | flags::RST) == flags::SYN {
            self.until.remove(&pair);
            return Answer::NotOurs;
        }
        // The acknowledgement of a FIN that comes again repeats the last one: its sender has already acknowledged ours.
        if tcp.flags() & (flags::FIN | flags::ACK | flags::RST) != flags::FIN | flags::ACK {
            return Answer::Ignore;
        }
        let mut reply = Packet::tcp(pair.0, pair.1, flags::ACK);
        reply.source_mac = ethernet::destination(frame);
        reply.destination_mac = ethernet::source(frame);
        if let lcs_dataplane::headers::build::Transport::Tcp { seq, ack, options, .. } = &mut reply.transport {
            // As late as the peer knows of: no earlier than what was said before.
            let stamps = read_timestamps(tcp.options());
            options.extend(stamps.iter().flat_map(|(value, echo)| timestamps(*echo, *value)));
            *seq = tcp.ack().0;
            *ack = tcp.seq().0.wrapping_add(len as u32).wrapping_add(1);
        }
        Answer::Acknowledge(reply.frame())
    }
}

/// The endpoints of a connection that a frame would open: ours and the peer's.
pub(super) fn opening(frame: &[u8]) -> Option<Pair> {
    let parsed = parse(frame, false).ok().filter(|p| p.protocol == protocol::TCP)?;
    if parsed.tcp_flags & (flags::SYN | flags::ACK | flags::RST) != flags::SYN {
        return None;
    }
    segment(frame).map(|(pair, ..)| pair)
}

/// The TCP segment in a frame whose checksum is right: its endpoints as the receiver sees them, its header, and the length of its payload.
pub(super) fn segment(frame: &[u8]) -> Option<(Pair, Tcp<&[u8]>, usize)> {
    let parsed = parse(frame, true).ok()?;
    if parsed.protocol != protocol::TCP || !parse::transport_checksum_ok(frame, &parsed) {
        return None;
    }
    let packet = &frame[usize::from(parsed.l3)..];
    let (source, destination) = match parsed.kind {
        lcs_dataplane::headers::Kind::Transport4 => {
            let ip = ipv4::Ipv4::parse(packet).ok()?;
            (ip.source().into(), ip.destination().into())
        }
        lcs_dataplane::headers::Kind::Transport6 => {
            let ip = ipv6::Ipv6::parse(packet).ok()?;
            (ip.source().into(), ip.destination().into())
        }
        _ => return None,
    };
    let tcp = Tcp::parse(frame.get(usize::from(parsed.l4)..usize::from(parsed.end))?).ok()?;
    let len = usize::from(parsed.end - parsed.l4) - tcp.header_len();
    let pair = (SocketAddr::new(destination, tcp.destination_port()), SocketAddr::new(source, tcp.source_port()));
    Some((pair, tcp, len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lcs_dataplane::headers::build::Transport;

    #[test]
    fn acknowledges_a_fin_again_and_gives_way_to_a_new_connection() {
        let (ours, peer): (SocketAddr, SocketAddr) =
            ("192.0.2.1:80".parse().unwrap(), "192.0.2.2:40000".parse().unwrap());
        let mut t = TimeWaits::default();
        t.insert((ours, peer), 0);
        let mut fin = Packet::tcp(peer, ours, flags::FIN | flags::ACK).payload(b"last");
        if let Transport::Tcp { seq, ack, .. } = &mut fin.transport {
            (*seq, *ack) = (u32::MAX - 1, 77);
        }
        let Answer::Acknowledge(frame) = t.receive(&fin.frame()) else { panic!("no answer") };
        let ((to, from), tcp, len) = segment(&frame).unwrap();
        assert_eq!((from, to, len, tcp.flags()), (ours, peer, 0, flags::ACK));
        assert_eq!((tcp.seq().0, tcp.ack().0), (77, 3)); // the sequence number wrapped
        assert_eq!(t.receive(&Packet::tcp(peer, ours, flags::ACK).frame()), Answer::Ignore);
        let mut broken = fin.frame();
        *broken.last_mut().unwrap() ^= 1;
        assert_eq!(t.receive(&broken), Answer::NotOurs);
        assert_eq!(t.receive(&Packet::tcp(peer, ours, flags::SYN).frame()), Answer::NotOurs);
        assert!(!t.contains(&(ours, peer)));
    }

    #[test]
    fn a_connection_is_forgotten_when_its_own_time_is_over() {
        let pair: Pair = ("[2001:db8::1]:80".parse().unwrap(), "[2001:db8::2]:4".parse().unwrap());
        let mut t = TimeWaits::default();
        t.insert(pair, 0);
        t.insert(pair, 5); // reopened and closed again: the later time counts
        t.expire(TIME_WAIT);
        assert!(t.contains(&pair));
        t.expire(TIME_WAIT + 5);
        assert!(t.is_empty() && t.order.is_empty());
    }
}
