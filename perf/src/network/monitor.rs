//! Watches what a host receives for numbers that no correct peer can send: the host's own stack would forgive many.
//!
//! A peer (or what stands between) may acknowledge, wholly or in parts, only what was sent (RFC 9293 section 3.4, RFC
//! 2018), may send only into the window that was opened, may use only options that were offered (RFC 7323, RFC 2018),
//! may echo only time stamps that it got, and may leave none out once they are agreed upon; its own never go back.

use super::reshape::{option, sack_edges};
use super::time_wait::{Pair, segment};
use lcs_dataplane::headers::SeqNumber;
use lcs_dataplane::headers::tcp::{Tcp, flags};
use std::collections::HashMap;

/// Connections that are watched at most.
const WATCHED: usize = 65_536;
/// A time stamp that is so many ticks behind the latest was not overtaken on its way.
const LONG_AGO: u32 = 1 << 22;
/// Findings that are kept; all are counted.
const KEPT: usize = 8;

/// Kinds of the TCP options that are looked at.
mod kind {
    pub const WINDOW_SCALE: u8 = 3;
    pub const SACK_PERMITTED: u8 = 4;
    pub const TIMESTAMPS: u8 = 8;
}

/// What one host sent of one connection, as far as the peer's segments must agree with it.
#[derive(Debug, Clone, Copy)]
struct Known {
    first: SeqNumber,
    /// What its SYN acknowledged, if anything. Of two connections between the same ends a host that answers may give both the
    /// same first number: then only this tells a new one from a SYN that is sent again.
    answers: Option<SeqNumber>,
    /// The same of the connection between the same ends before this one: a late challenge (RFC 5961 section 4) acknowledges it.
    before: Option<SeqNumber>,
    /// One past the highest number sent.
    next: SeqNumber,
    /// The highest number that the window has been opened to.
    edge: Option<SeqNumber>,
    /// Our window scale, if we offered one, and whether the peer has offered its own.
    scale: Option<u8>,
    peer_scales: bool,
    sack: bool,
    /// First and latest time stamp sent.
    stamps: Option<(u32, u32)>,
    /// The peer's stamp that a receiver remembers (RFC 7323 section 4.3), and the last acknowledgement sent.
    recent: Option<u32>,
    acked: SeqNumber,
}

/// The watch on one host.
#[derive(Debug, Default)]
pub struct Monitor {
    connections: HashMap<Pair, Known>,
    /// What was found, at first.
    pub findings: Vec<String>,
    /// How much was found.
    pub found: u64,
    /// Segments that went beyond the window that had been opened. A client may never see one. A server may, of a client
    /// whose window was the director's until it had a server: they are as good as lost (RFC 9293 section 3.8.6).
    pub beyond: u64,
    /// Acknowledgements without data of less than the host's first number. A client may never see one. A server may: a
    /// client's of what another server has said, overtaken on its way, is a duplicate here as it would be there, and is
    /// ignored (RFC 9293 section 3.10.7.4).
    pub old: u64,
    /// Segments with new data that a receiver drops for the age of their stamps (RFC 7323 section 5.3). Rare where segments overtake
    /// one another, and none where they don't.
    pub stale: u64,
}

impl Monitor {
    /// Notes what a sent frame says.
    pub fn sent(&mut self, frame: &[u8]) {
        let Some(((peer, own), tcp, len)) = segment(frame) else { return };
        let pair = (own, peer);
        let kind = tcp.flags();
        let options = tcp.options();
        let stamp = stamps(&tcp).map(|s| s.0);
        let counted = len as u32 + u32::from(kind & flags::SYN != 0) + u32::from(kind & flags::FIN != 0);
        let end = SeqNumber(tcp.seq().0.wrapping_add(counted));
        let answers = (kind & flags::ACK != 0).then_some(tcp.ack());
        let again = |k: &Known| k.first == tcp.seq() && k.answers == answers;
        if kind & flags::SYN != 0 && !self.connections.get(&pair).is_some_and(again) {
            if self.connections.len() >= WATCHED {
                self.connections.clear();
            }
            // What the peer's SYN offered is known by now if this one answers it.
            let last = self.connections.get(&pair).map(|b| b.first);
            let before = self.connections.get(&pair).filter(|_| kind & flags::ACK != 0);
            let scale = option(options, kind::WINDOW_SCALE).and_then(|(at, _)| options.get(at + 2).copied());
            let peer_scales = before.is_some_and(|b| b.peer_scales);
            let recent = before.and_then(|b| b.recent);
            let known = Known {
                first: tcp.seq(),
                answers,
                before: last,
                next: end,
                edge: None,
                scale,
                peer_scales,
                sack: option(options, kind::SACK_PERMITTED).is_some(),
                stamps: stamp.map(|s| (s, s)),
                recent,
                acked: tcp.ack(),
            };
            self.connections.insert(pair, known);
        }
        let Some(known) = self.connections.get_mut(&pair) else { return };
        if end.after(known.next) {
            known.next = end;
        }
        if let (Some((_, latest)), Some(stamp)) = (&mut known.stamps, stamp) {
            *latest = stamp;
        }
        if kind & flags::ACK != 0 && kind & flags::RST == 0 {
            known.acked = tcp.ack();
            // The window in a SYN is not scaled (RFC 7323 section 2.2).
            let scale = if kind & flags::SYN != 0 || !known.peer_scales { 0 } else { known.scale.unwrap_or(0) };
            let edge = SeqNumber(tcp.ack().0.wrapping_add(u32::from(tcp.window()) << scale.min(14)));
            if known.edge.is_none_or(|e| edge.after(e)) {
                known.edge = Some(edge);
            }
        }
    }

    /// Looks at a received frame. One with a wrong checksum is left to the stack.
    pub fn received(&mut self, frame: &[u8]) {
        let Some((pair, tcp, len)) = segment(frame) else { return };
        let kind = tcp.flags();
        let opens = kind & (flags::SYN | flags::ACK) == flags::SYN;
        if opens {
            let peer_scales = option(tcp.options(), kind::WINDOW_SCALE).is_some();
            // Nothing has been sent yet, or what was belongs to a connection that is over.
            let none = SeqNumber(0);
            let new = Known {
                first: none,
                answers: None,
                before: None,
                next: none,
                edge: None,
                scale: None,
                peer_scales,
                sack: false,
                stamps: None,
                recent: None,
                acked: none,
            };
            let known = self.connections.entry(pair).or_insert(new);
            known.peer_scales = peer_scales;
            known.recent = stamps(&tcp).map(|s| s.0);
            return;
        }
        let Some(known) = self.connections.get_mut(&pair) else { return };
        if kind & flags::SYN != 0 {
            known.peer_scales = option(tcp.options(), kind::WINDOW_SCALE).is_some();
            known.recent = stamps(&tcp).map(|s| s.0);
        }
        let mut past = None;
        if let (Some(_), Some(recent), true) = (known.stamps, known.recent, kind & flags::RST == 0) {
            match stamps(&tcp) {
                None => past = Some("a segment without time stamps, which were agreed upon".to_owned()),
                Some((value, _)) => {
                    let behind = recent.wrapping_sub(value);
                    let new = SeqNumber(tcp.seq().0.wrapping_add(len as u32)).after(known.acked);
                    if (behind as i32) > LONG_AGO as i32 || behind == 1 << 31 {
                        past = Some(format!("a time stamp of {behind} ticks ago"));
                    } else if (behind as i32) > 0 {
                        self.stale += u64::from(len > 0 && new);
                    } else if !tcp.seq().after(known.acked) {
                        known.recent = Some(value);
                    }
                }
            }
        }
        let known = *known;
        if let Some(edge) = known.edge.filter(|_| len > 0) {
            // A probe of a closed window is one byte (RFC 9293 section 3.8.6.1).
            self.beyond += u64::from(SeqNumber(tcp.seq().0.wrapping_add(len as u32)).since(edge) > 1);
        }
        let bare = len == 0 && kind == flags::ACK && known.next != known.first;
        let challenge = known.before.is_some_and(|before| tcp.ack().0 == before.0.wrapping_add(1));
        let old = bare && (challenge || tcp.ack().since(known.first) < 0);
        self.old += u64::from(old);
        if let Some(what) = past.or_else(|| wrong(&known, &tcp, old)) {
            self.found += 1;
            if self.findings.len() < KEPT {
                self.findings.push(format!("{} from {} received {what}", pair.0, pair.1));
            }
        }
    }
}

/// What is wrong with a segment from the peer, if anything. `old`: its acknowledgement is counted apart ([`Monitor::old`]).
fn wrong(known: &Known, tcp: &Tcp<&[u8]>, old: bool) -> Option<String> {
    let kind = tcp.flags();
    let options = tcp.options();
    let since = |n: SeqNumber| n.since(known.first);
    let sent = since(known.next);
    if kind & flags::ACK != 0 && kind & flags::RST == 0 {
        let ack = since(tcp.ack());
        if (ack < 0 || ack > sent) && !old {
            return Some(format!("an acknowledgement of {ack} where {sent} had been sent, flags {kind:#x}"));
        }
        let edges = sack_edges(options);
        if !edges.is_empty() && !known.sack {
            return Some("selective acknowledgements that it has not permitted".into());
        }
        for block in edges.chunks_exact(2) {
            let edge =
                |at: usize| options[at..].first_chunk().map_or(SeqNumber(0), |e| SeqNumber(u32::from_be_bytes(*e)));
            let (left, right) = (since(edge(block[0])), since(edge(block[1])));
            if left >= right || left < 0 && !old || right > sent {
                return Some(format!("a selective acknowledgement of {left} to {right} where {sent} had been sent"));
            }
        }
    }
    if kind & flags::SYN != 0 {
        for (offered, kind, name) in [
            (known.scale.is_some(), kind::WINDOW_SCALE, "window scale"),
            (known.sack, kind::SACK_PERMITTED, "SACK permitted"),
            (known.stamps.is_some(), kind::TIMESTAMPS, "time stamps"),
        ] {
            if !offered && option(options, kind).is_some() {
                return Some(format!("{name} in a SYN-ACK without having offered it"));
            }
        }
    }
    if let Some((_, echo)) = stamps(tcp).filter(|_| kind & flags::ACK != 0 && kind & flags::RST == 0) {
        match known.stamps {
            Some((first, last)) if echo.wrapping_sub(first) <= last.wrapping_sub(first) => {}
            sent => return Some(format!("the echo {echo} of a time stamp that it never sent: {sent:?}")),
        }
    }
    None
}

/// Value and echo of the time-stamp option.
fn stamps(tcp: &Tcp<&[u8]>) -> Option<(u32, u32)> {
    let options = tcp.options();
    let (at, len) = option(options, kind::TIMESTAMPS)?;
    let number = |at: usize| Some(u32::from_be_bytes(*options.get(at..)?.first_chunk()?));
    (len == 10).then_some((number(at + 2)?, number(at + 6)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lcs_dataplane::headers::build::{Packet, Transport};

    fn frame(to_peer: bool, kind: u8, numbers: (u32, u32), options: &[u8], payload: &[u8]) -> Vec<u8> {
        let (own, peer) = ("192.0.2.1:9".parse().unwrap(), "192.0.2.2:80".parse().unwrap());
        let mut p = if to_peer { Packet::tcp(own, peer, kind) } else { Packet::tcp(peer, own, kind) };
        p = p.payload(payload);
        if let Transport::Tcp { seq, ack, window, options: o, .. } = &mut p.transport {
            (*seq, *ack, *window) = (numbers.0, numbers.1, 100);
            o.extend(options);
        }
        p.frame()
    }

    const ISN: u32 = u32::MAX - 2;

    /// What is found in a segment that comes when ten bytes have been sent and the window reaches to 600.
    fn found(kind: u8, numbers: (u32, u32), options: &[u8], payload: &[u8]) -> Option<String> {
        let mut m = Monitor::default();
        m.sent(&frame(true, flags::SYN, (ISN, 0), &[4, 2, 1, 1], b""));
        m.received(&frame(false, flags::SYN | flags::ACK, (499, ISN.wrapping_add(1)), &[4, 2, 1, 1], b""));
        m.sent(&frame(true, flags::ACK, (ISN.wrapping_add(1), 500), &[], b"0123456789"));
        m.received(&frame(false, kind, numbers, options, payload));
        m.findings.pop().or((m.beyond > 0).then(|| "beyond the window".into()))
    }

    #[test]
    fn what_a_correct_peer_sends_is_passed_and_what_it_cannot_send_is_found() {
        let sack = |left: u32, right: u32| {
            let mut o = vec![1, 1, 5, 10];
            o.extend(ISN.wrapping_add(left).to_be_bytes());
            o.extend(ISN.wrapping_add(right).to_be_bytes());
            o
        };
        let at = |n: u32| (500, ISN.wrapping_add(n));
        assert_eq!(found(flags::ACK, at(11), &[], b"answer"), None);
        assert_eq!(found(flags::ACK, at(1), &sack(4, 11), &[0; 100]), None);
        assert!(found(flags::ACK, at(12), &[], b"").unwrap().contains("acknowledgement of 12 where 11"));
        assert!(found(flags::ACK, at(1), &sack(4, 12), b"").unwrap().contains("selective"));
        assert!(found(flags::ACK, at(1), &sack(5, 4), b"").unwrap().contains("selective"));
        assert!(found(flags::ACK, at(11), &[], &[0; 102]).unwrap().contains("beyond the window"));
        let stamps = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1];
        assert!(found(flags::ACK, at(11), &stamps, b"").unwrap().contains("never sent"));
        assert!(found(flags::SYN | flags::ACK, at(1), &[1, 3, 3, 2], b"").unwrap().contains("window scale"));
    }

    #[test]
    fn a_connection_that_begins_with_the_number_of_the_one_before_is_another() {
        let stamps = |value: u32, echo: u32| [&[1, 1, 8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat();
        let mut m = Monitor::default();
        // The first has no time stamps, and ends at once.
        m.received(&frame(false, flags::SYN, (100, 0), &stamps(1, 0), b""));
        m.sent(&frame(true, flags::SYN | flags::ACK, (ISN, 101), &[], b""));
        m.received(&frame(false, flags::SYN, (900, 0), &stamps(2, 0), b""));
        m.sent(&frame(true, flags::SYN | flags::ACK, (ISN, 901), &stamps(7, 2), b""));
        m.received(&frame(false, flags::ACK, (901, ISN.wrapping_add(1)), &stamps(3, 7), b""));
        assert_eq!(m.findings, [""; 0]);
        // The same again is the same connection, whose clock has gone on meanwhile.
        m.sent(&frame(true, flags::ACK, (ISN.wrapping_add(1), 901), &stamps(9, 3), b""));
        m.sent(&frame(true, flags::SYN | flags::ACK, (ISN, 901), &stamps(12, 3), b""));
        m.received(&frame(false, flags::ACK, (901, ISN.wrapping_add(1)), &stamps(4, 9), b""));
        assert_eq!(m.findings, [""; 0]);
        m.received(&frame(false, flags::ACK, (901, ISN.wrapping_add(1)), &stamps(5, 6), b""));
        assert!(m.findings[0].contains("never sent"));
    }

    #[test]
    fn the_peers_clock_must_go_on() {
        let stamps = |value: u32, echo: u32| [&[1, 1, 8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat();
        let mut m = Monitor::default();
        m.sent(&frame(true, flags::SYN, (ISN, 0), &stamps(7, 0), b""));
        m.received(&frame(false, flags::SYN | flags::ACK, (499, ISN.wrapping_add(1)), &stamps(10, 7), b""));
        m.sent(&frame(true, flags::ACK, (ISN.wrapping_add(1), 500), &stamps(8, 10), b""));
        let mut from_peer = |seq: u32, options: &[u8]| {
            m.received(&frame(false, flags::ACK, (seq, ISN.wrapping_add(1)), options, b"data"));
            (m.stale, m.findings.pop())
        };
        assert_eq!(from_peer(500, &stamps(20, 8)), (0, None));
        assert_eq!(from_peer(504, &stamps(20, 8)), (0, None));
        assert_eq!(from_peer(508, &stamps(19, 8)), (1, None));
        assert_eq!(from_peer(490, &stamps(19, 8)), (1, None), "what is old may look so");
        assert!(from_peer(508, &stamps(20u32.wrapping_sub(1 << 23), 8)).1.unwrap().contains("ticks ago"));
        assert!(from_peer(508, &[]).1.unwrap().contains("without time stamps"));
    }
}
