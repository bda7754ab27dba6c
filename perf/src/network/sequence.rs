//! Mends two things in what `smoltcp` sends, bare acknowledgements with an old sequence number or a closed window, and
//! three in what it makes of what it receives.
//!
//! After a time-out `smoltcp` goes back to the first unacknowledged byte, and its bare ACKs carry that number instead
//! of SND.NXT (RFC 9293 §3.10.7.4 wants `<SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>`). The peer has received further and must
//! find such a segment unacceptable; when both ends have timed out, neither hears the other's acknowledgement and the
//! connection stands until it is given up.
//!
//! It also acknowledges before the application could read, so that a window closes and opens within one poll. A real
//! stack would say so once. If the two segments change places on the way, the sender believes in a closed window, and
//! `smoltcp` does not probe a window that closes over data in flight (RFC 9293 §3.8.6.1).
//!
//! When all but its FIN is acknowledged three times over, it is to send the FIN again at once (RFC 5681 §3.2); it finds no
//! data, sends nothing, and has by then stopped its timer: the FIN never comes again. The repetitions are kept from it.
//!
//! While its own window is closed it takes no acknowledgement that comes with data, so none with a probe of that window: what
//! it sends itself then counts as lost for ever, where RFC 9293 §3.10.7.4 wants it to accept valid acknowledgements all the
//! same. The acknowledgement is given to it without the data.
//!
//! It has one timer for retransmission and for probing a closed window, and forgets what it was for: an acknowledgement that
//! closes the window over data in flight has it probe instead of sending again, with nothing if all there is was sent; the one
//! that opens it again stops the timer; and a retransmission that comes due while the window is closed stops it, too (RFC 6298
//! §5.1, RFC 9293 §3.8.6.1). Whoever has said nothing for longer than any timer runs, though there is something, has lost it.
//! Three repetitions of the last acknowledgement have it send again (RFC 5681 §3.2), as if its peer had asked.

use super::SECOND;
use super::reshape::{option, without_payload};
use super::time_wait::Pair;
use lcs_dataplane::headers::build::{Packet, Transport};
use lcs_dataplane::headers::tcp::{Tcp, flags};
use lcs_dataplane::headers::{Kind, MacAddr, Parsed, SeqNumber, parse, protocol};
use lcs_dataplane::worker::Nanos;
use serde::Serialize;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

/// Connections that are followed at most; beyond that all are forgotten, and the next segment of each begins anew.
const FOLLOWED: usize = 8192;

/// Longer than a retransmission timer of `smoltcp` runs, which is a minute.
const SILENT: Nanos = 65 * SECOND;
/// Times that a stack is asked to send again without anything coming of it.
const TRIES: u8 = 12;
/// Window scale of a peer that has none (RFC 7323 §2.2), and the largest.
const NO_SCALE: u8 = 0;
const MOST_SCALE: u8 = 14;

/// Addresses and ports as they stand in a sent packet.
type Key = ([u8; 32], u32);

/// What a connection has sent, and been told.
#[derive(Debug, Clone, Copy)]
struct Sent {
    /// One past the highest sequence number.
    next: SeqNumber,
    /// The FIN's, and whether everything up to it was acknowledged.
    fin: Option<(SeqNumber, bool)>,
    /// The last acknowledgement that was sent, and the window that it announced.
    acked: SeqNumber,
    window: u16,
    /// The last acknowledgement that was received, and the window that it announced.
    heard: Option<(SeqNumber, u16)>,
    /// The peer's window scale.
    scale: u8,
    /// When it last sent anything but acknowledgements, or was last told that something had arrived.
    lively: Nanos,
    /// Times that it was asked to send again since.
    asked: u8,
}

impl Sent {
    /// The number of a segment without data: the next one, as far as the peer's window goes. What was sent beyond it, to see
    /// whether it is still closed, the peer has not taken, and it would not take this either.
    fn announced(&self) -> SeqNumber {
        let edge = self.heard.map(|(ack, window)| SeqNumber(ack.0.wrapping_add(u32::from(window) << self.scale)));
        edge.filter(|edge| self.next.after(*edge)).unwrap_or(self.next)
    }
}

/// What to do with a received frame.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// A frame that the stack is to see before it.
    pub first: Option<Vec<u8>>,
    /// Whether the stack is not to see it.
    pub hidden: bool,
}

/// How often a stack was helped, by what was mended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Helped {
    /// Bare acknowledgements that it has sent with an old sequence number.
    pub numbers: u64,
    /// Closed windows that it opened again in the same poll, and that were not sent.
    pub windows: u64,
    /// Repeated acknowledgements of all but its FIN, which it did not see.
    pub fins: u64,
    /// Acknowledgements that came with a probe of its closed window, and that it was given without that.
    pub probes: u64,
    /// Times that it was silent though something was to be sent, and was roused.
    pub rouses: u64,
}

impl Helped {
    /// Adds what another stack was helped with.
    pub fn add(&mut self, more: &Helped) {
        self.numbers += more.numbers;
        self.windows += more.windows;
        self.fins += more.fins;
        self.probes += more.probes;
        self.rouses += more.rouses;
    }
}

impl fmt::Display for Helped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Helped { numbers, windows, fins, probes, rouses } = self;
        write!(
            f,
            "{numbers} old numbers put right, {windows} closed windows kept back, {fins} acknowledgements of all but a FIN hidden, "
        )?;
        write!(f, "{probes} taken out of window probes, {rouses} rouses")
    }
}

/// What each connection has sent.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    sent: HashMap<Key, Sent>,
    /// What was mended.
    pub helped: Helped,
}

impl Sequences {
    /// Looks at a frame that is about to be sent, and mends it where necessary. `later` are those that follow it in the
    /// same poll. Returns whether to send it.
    pub fn sent(&mut self, frame: &mut [u8], later: &[Vec<u8>], now: Nanos) -> bool {
        let Some((parsed, key)) = connection(frame) else { return true };
        let l4 = usize::from(parsed.l4);
        let Some(Ok(tcp)) = frame.get(l4..usize::from(parsed.end)).map(Tcp::parse) else { return true };
        let (seq, len, kind) = (tcp.seq(), tcp.payload().len() as u32, tcp.flags());
        let (ack, window) = (tcp.ack(), tcp.window());
        if len == 0 && kind == flags::ACK && window == 0 {
            let opens = |f: &Vec<u8>| {
                let same = connection(f).filter(|(_, k)| *k == key);
                same.is_some_and(|(p, _)| {
                    f.get(usize::from(p.l4)..).map(Tcp::parse).is_some_and(|t| t.is_ok_and(|t| t.window() > 0))
                })
            };
            if later.iter().any(opens) {
                self.helped.windows += 1;
                return false;
            }
        }
        let counted = len + u32::from(kind & flags::SYN != 0) + u32::from(kind & flags::FIN != 0);
        let end = SeqNumber(seq.0.wrapping_add(counted));
        if kind & flags::RST != 0 {
            self.sent.remove(&key);
        } else if kind & flags::SYN != 0 {
            if self.sent.len() >= FOLLOWED {
                self.sent.clear();
            }
            // What the peer's SYN has said is known by now if this one answers it.
            let scale = self.sent.get(&key).filter(|_| kind & flags::ACK != 0).map_or(NO_SCALE, |s| s.scale);
            self.sent.insert(key, Sent { next: end, acked: ack, window, scale, lively: now, ..SILENCE });
        } else if let Some(s) = self.sent.get_mut(&key) {
            (s.acked, s.window) = (ack, window);
            if counted > 0 {
                s.lively = now;
            }
            if let Some((fin, told)) = &mut s.fin
                && fin.since(seq) > 0
                && len > 0
            {
                // It has not understood that all this has arrived.
                *told = false;
            }
            if kind & flags::FIN != 0 && s.fin.is_none() {
                s.fin = Some((SeqNumber(end.0.wrapping_sub(1)), false));
            }
            if counted == 0 && kind & flags::ACK != 0 {
                let next = s.announced();
                if next != seq && s.next.since(seq) >= 0 {
                    frame[l4 + 4..l4 + 8].copy_from_slice(&next.0.to_be_bytes());
                    parse::fill_transport_checksum(frame, &parsed);
                    self.helped.numbers += 1;
                }
            } else if end.since(s.next) > 0 && len != 1 {
                // One byte may be a probe of a closed window: beyond it, not yet taken, and not to be counted.
                s.next = end;
            }
        }
        true
    }

    /// Looks at a received frame.
    pub fn received(&mut self, frame: &[u8], now: Nanos) -> Heard {
        let as_it_is = Heard::default();
        let Some((parsed, (addresses, ports))) = connection(frame) else { return as_it_is };
        let mut back = [0; 32];
        let half = if parsed.kind == Kind::Transport4 { 4 } else { 16 };
        back[..half].copy_from_slice(&addresses[half..2 * half]);
        back[half..2 * half].copy_from_slice(&addresses[..half]);
        let key = (back, ports.rotate_left(16));
        let Some(Ok(tcp)) = frame.get(usize::from(parsed.l4)..usize::from(parsed.end)).map(Tcp::parse) else {
            return as_it_is;
        };
        let kind = tcp.flags();
        // Of what the stack drops, nothing must be believed to have been told: neither checksum may be wrong.
        let followed = kind & flags::SYN != 0 || self.sent.contains_key(&key);
        if !followed || parse(frame, true).is_err() || !parse::transport_checksum_ok(frame, &parsed) {
            return as_it_is;
        }
        if kind & flags::SYN != 0 {
            let options = tcp.options();
            let scale = option(options, 3).and_then(|(at, _)| options.get(at + 2).copied());
            if self.sent.len() < FOLLOWED {
                self.sent.entry(key).or_insert(SILENCE).scale = scale.unwrap_or(NO_SCALE).min(MOST_SCALE);
            }
        }
        let Some(s) = self.sent.get_mut(&key).filter(|_| kind & (flags::ACK | flags::RST) == flags::ACK) else {
            return as_it_is;
        };
        // The window in a SYN is not scaled.
        let window = if kind & flags::SYN != 0 { tcp.window() >> s.scale } else { tcp.window() };
        let said = (tcp.ack(), window);
        let (len, before) = (tcp.payload().len(), s.heard);
        if s.window == 0 && tcp.seq().after(s.acked) {
            // From beyond a closed window, and nothing that the stack would take.
            return as_it_is;
        }
        if before.is_none_or(|(ack, _)| said.0.since(ack) >= 0) {
            s.heard = Some(said);
            if before.is_none_or(|(ack, _)| said.0.after(ack)) {
                (s.lively, s.asked) = (now, 0);
            }
        }
        if len == 0 && kind == flags::ACK {
            let hidden = match &mut s.fin {
                Some((fin, told)) if said.0 == *fin => std::mem::replace(told, true),
                _ => false,
            };
            self.helped.fins += u64::from(hidden);
            return Heard { hidden, ..as_it_is };
        }
        let to_closed = len > 0 && s.window == 0 && tcp.seq() == s.acked && kind & flags::SYN == 0;
        let news = before != s.heard && s.heard == Some(said);
        let first = (to_closed && news).then(|| without_payload(frame)).flatten();
        self.helped.probes += u64::from(first.is_some());
        Heard { first, ..as_it_is }
    }

    /// Frames that have a stack send again which has lost its timer: one that has something to send, as `pair` says it has, and
    /// has been silent for longer than any timer runs. For the host of this link-layer address.
    pub fn rouse(&mut self, (own, peer): Pair, mac: MacAddr, now: Nanos) -> Vec<Vec<u8>> {
        let Some(s) = self.sent.get_mut(&key_of((own, peer))) else { return vec![] };
        let Some((ack, window)) = s.heard.filter(|(ack, _)| s.next.after(*ack)) else { return vec![] };
        if now < s.lively + SILENT || s.asked >= TRIES {
            return vec![];
        }
        (s.lively, s.asked) = (now, s.asked + 1);
        self.helped.rouses += 1;
        let acked = s.acked.0;
        // Another window first: it ends what was counted of repetitions, and has the stack look at its timer again.
        let windows = [window ^ 1, window, window, window, window];
        let segment = |window| {
            let mut packet = Packet::tcp(peer, own, flags::ACK);
            packet.destination_mac = mac;
            if let Transport::Tcp { seq, ack: to, window: open, .. } = &mut packet.transport {
                (*seq, *to, *open) = (acked, ack.0, window);
            }
            packet.frame()
        };
        windows.map(segment).into()
    }
}

/// Nothing is known.
const SILENCE: Sent = Sent {
    next: SeqNumber(0),
    fin: None,
    acked: SeqNumber(0),
    window: u16::MAX,
    heard: None,
    scale: NO_SCALE,
    lively: 0,
    asked: 0,
};

/// The key of what our end of a connection sends.
fn key_of((own, peer): Pair) -> Key {
    let mut addresses = [0; 32];
    match (own.ip(), peer.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            addresses[..4].copy_from_slice(&a.octets());
            addresses[4..8].copy_from_slice(&b.octets());
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            addresses[..16].copy_from_slice(&a.octets());
            addresses[16..].copy_from_slice(&b.octets());
        }
        _ => {}
    }
    let ([a, b], [c, d]) = (own.port().to_be_bytes(), peer.port().to_be_bytes());
    (addresses, u32::from_ne_bytes([a, b, c, d]))
}

/// The connection of a TCP segment.
fn connection(frame: &[u8]) -> Option<(Parsed, Key)> {
    let parsed = parse(frame, false).ok().filter(|p| p.protocol == protocol::TCP)?;
    let l3 = usize::from(parsed.l3);
    let mut addresses = [0; 32];
    match parsed.kind {
        Kind::Transport4 => addresses[..8].copy_from_slice(frame.get(l3 + 12..l3 + 20)?),
        Kind::Transport6 => addresses.copy_from_slice(frame.get(l3 + 8..l3 + 40)?),
        _ => return None,
    }
    Some((parsed, (addresses, parsed.ports)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lcs_dataplane::headers::build::{Packet, Transport};
    use lcs_dataplane::headers::parse::transport_checksum_ok;

    #[test]
    fn a_bare_acknowledgement_carries_the_highest_number_sent() {
        for (from, to) in [("192.0.2.1:9", "192.0.2.2:80"), ("[2001:db8::1]:9", "[2001:db8::2]:80")] {
            let mut s = Sequences::default();
            let mut sent = |seq: u32, kind: u8, payload: &[u8]| {
                let mut p = Packet::tcp(from.parse().unwrap(), to.parse().unwrap(), kind).payload(payload);
                if let Transport::Tcp { seq: at, .. } = &mut p.transport {
                    *at = seq;
                }
                let mut frame = p.frame();
                assert!(s.sent(&mut frame, &[], 0));
                let parsed = parse(&frame, true).unwrap();
                assert!(transport_checksum_ok(&frame, &parsed));
                Tcp::parse(&frame[usize::from(parsed.l4)..]).unwrap().seq().0
            };
            assert_eq!(sent(u32::MAX, flags::SYN, b""), u32::MAX);
            assert_eq!(sent(0, flags::ACK, b"12345"), 0);
            assert_eq!(sent(0, flags::ACK, b""), 5); // went back, but has sent up to 5
            assert_eq!(sent(0, flags::ACK, b"12"), 0); // a repetition stays what it is
            assert_eq!(sent(5, flags::ACK | flags::FIN, b""), 5);
            assert_eq!(sent(5, flags::ACK, b""), 6);
            assert_eq!(sent(3, flags::RST | flags::ACK, b""), 3);
            assert_eq!(sent(2, flags::ACK, b""), 2); // a connection that it knows nothing of
            assert_eq!(s.helped, Helped { numbers: 2, ..Helped::default() });
        }
    }

    #[test]
    fn an_acknowledgement_of_all_but_the_fin_is_told_once() {
        for (from, to) in [("192.0.2.1:9", "192.0.2.2:80"), ("[2001:db8::1]:9", "[2001:db8::2]:80")] {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            let frame = |there: bool, kind: u8, numbers: (u32, u32), payload: &[u8]| {
                let mut p = if there { Packet::tcp(from, to, kind) } else { Packet::tcp(to, from, kind) };
                p = p.payload(payload);
                if let Transport::Tcp { seq, ack, .. } = &mut p.transport {
                    (*seq, *ack) = numbers;
                }
                p.frame()
            };
            let mut s = Sequences::default();
            s.sent(&mut frame(true, flags::SYN, (u32::MAX, 0), b""), &[], 0);
            s.sent(&mut frame(true, flags::ACK | flags::FIN, (0, 1), b"abc"), &[], 0);
            let mut told = |kind, ack, payload: &[u8]| !s.received(&frame(false, kind, (1, ack), payload), 0).hidden;
            assert!(told(flags::ACK, 2, b"") && told(flags::ACK, 2, b""));
            assert!(told(flags::ACK, 3, b"") && !told(flags::ACK, 3, b"") && !told(flags::ACK, 3, b""));
            assert!(told(flags::ACK, 3, b"data") && told(flags::ACK | flags::FIN, 3, b""));
            assert!(told(flags::ACK, 4, b"") && told(flags::ACK, 4, b""));
            assert_eq!(s.helped, Helped { fins: 2, ..Helped::default() });
        }
    }

    const OWN: &str = "192.0.2.1:9";
    const PEER: &str = "192.0.2.2:80";

    /// A segment from `OWN` to `PEER` or back.
    fn segment(there: bool, kind: u8, numbers: (u32, u32), window: u16, payload: &[u8]) -> Vec<u8> {
        let (own, peer) = (OWN.parse().unwrap(), PEER.parse().unwrap());
        let mut p = if there { Packet::tcp(own, peer, kind) } else { Packet::tcp(peer, own, kind) };
        p = p.payload(payload);
        if let Transport::Tcp { seq, ack, window: open, .. } = &mut p.transport {
            (*seq, *ack, *open) = (numbers.0, numbers.1, window);
        }
        p.frame()
    }

    /// Sequence number, acknowledgement, window and length of payload.
    fn read(frame: &[u8]) -> (u32, u32, u16, usize) {
        let parsed = parse(frame, true).unwrap();
        assert!(transport_checksum_ok(frame, &parsed));
        let tcp = Tcp::parse(&frame[usize::from(parsed.l4)..usize::from(parsed.end)]).unwrap();
        (tcp.seq().0, tcp.ack().0, tcp.window(), tcp.payload().len())
    }

    /// A connection whose host has sent ten bytes from 1 on, and has been told a window of 100 at 1.
    fn ten_sent() -> Sequences {
        let mut s = Sequences::default();
        s.sent(&mut segment(true, flags::SYN, (0, 0), 900, b""), &[], 0);
        s.received(&segment(false, flags::SYN | flags::ACK, (499, 1), 100, b""), 0);
        s.sent(&mut segment(true, flags::ACK, (1, 500), 900, &[0; 10]), &[], 0);
        s
    }

    #[test]
    fn who_is_silent_for_longer_than_a_timer_runs_is_asked_again_as_long_as_something_is_on_the_way() {
        let mut s = ten_sent();
        let pair = (OWN.parse().unwrap(), PEER.parse().unwrap());
        let mac = MacAddr([2; 6]);
        assert!(s.rouse(pair, mac, SILENT - 1).is_empty());
        let asked = s.rouse(pair, mac, SILENT);
        let asked: Vec<_> = asked.iter().map(|f| read(f)).collect();
        let same = (500, 1, 100, 0);
        assert_eq!(asked, [(500, 1, 101, 0), same, same, same, same]);
        assert!(s.rouse(pair, mac, SILENT + 1).is_empty(), "not at once again");
        // A part arrives, then everything.
        s.received(&segment(false, flags::ACK, (500, 5), 100, b""), 2 * SILENT);
        assert!(s.rouse(pair, mac, 3 * SILENT - 1).is_empty());
        assert_eq!(read(&s.rouse(pair, mac, 3 * SILENT)[1]), (500, 5, 100, 0));
        s.received(&segment(false, flags::ACK, (500, 11), 100, b""), 3 * SILENT);
        assert!(s.rouse(pair, mac, 9 * SILENT).is_empty());
        // Nor for ever.
        let mut s = ten_sent();
        let times = (1..100).filter(|n| !s.rouse(pair, mac, n * SILENT).is_empty()).count();
        assert_eq!(times, usize::from(TRIES));
        assert_eq!(s.helped, Helped { rouses: u64::from(TRIES), ..Helped::default() });
    }

    #[test]
    fn a_probe_of_a_closed_window_brings_its_acknowledgement() {
        let mut s = ten_sent();
        let probe = |seq, ack| segment(false, flags::ACK | flags::FIN, (seq, ack), 100, b"?");
        assert_eq!(s.received(&probe(500, 5), 0), Heard::default(), "while the window is open");
        s.sent(&mut segment(true, flags::ACK, (11, 500), 0, b""), &[], 0);
        let first = s.received(&probe(500, 11), 0).first.expect("it acknowledges more than the one before");
        assert_eq!(read(&first), (500, 11, 100, 0));
        assert_eq!(s.received(&probe(500, 11), 0), Heard::default(), "as before");
        assert_eq!(s.received(&probe(501, 12), 0), Heard::default(), "beyond the window");
        assert_eq!(s.helped, Helped { probes: 1, ..Helped::default() });
    }

    #[test]
    fn a_bare_acknowledgement_stays_within_the_peers_window() {
        let mut s = ten_sent();
        s.received(&segment(false, flags::ACK, (500, 5), 0, b""), 0);
        let mut ack = segment(true, flags::ACK, (11, 500), 900, b"");
        s.sent(&mut ack, &[], 0);
        assert_eq!(read(&ack).0, 5);
        s.received(&segment(false, flags::ACK, (500, 5), 4, b""), 0);
        s.sent(&mut ack, &[], 0);
        assert_eq!(read(&ack).0, 9);
    }

    #[test]
    fn a_damaged_header_tells_nothing() {
        let mut s = ten_sent();
        s.sent(&mut segment(true, flags::ACK | flags::FIN, (11, 500), 900, b""), &[], 0);
        let told = segment(false, flags::ACK, (500, 11), 100, b"");
        let mut damaged = told.clone();
        // The time to live: the checksum of IP is wrong then, and that of TCP is right.
        damaged[22] ^= 1;
        assert!(!s.received(&damaged, 0).hidden && !s.received(&told, 0).hidden);
        assert!(s.received(&told, 0).hidden);
    }

    #[test]
    fn a_window_that_opens_in_the_same_poll_was_never_closed() {
        let ack = |port: u16, open: u16| {
            let to = "192.0.2.2:80".parse().unwrap();
            let mut p = Packet::tcp(([192, 0, 2, 1], port).into(), to, flags::ACK);
            if let Transport::Tcp { window, .. } = &mut p.transport {
                *window = open;
            }
            p.frame()
        };
        let mut s = Sequences::default();
        assert!(!s.sent(&mut ack(1, 0), &[ack(2, 5), ack(1, 5)], 0));
        assert!(s.sent(&mut ack(1, 0), &[ack(2, 5), ack(1, 0)], 0));
        assert!(s.sent(&mut ack(1, 5), &[ack(1, 5)], 0));
        assert_eq!(s.helped, Helped { windows: 1, ..Helped::default() });
    }
}
