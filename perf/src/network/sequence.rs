//! Mends two things in what `smoltcp` sends, bare acknowledgements with an old sequence number or a closed window, and
//! one in what it makes of repeated acknowledgements.
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

use lcs_dataplane::headers::tcp::{Tcp, flags};
use lcs_dataplane::headers::{Kind, Parsed, SeqNumber, parse, protocol};
use std::collections::HashMap;

/// Connections that are followed at most; beyond that all are forgotten, and the next segment of each begins anew.
const FOLLOWED: usize = 8192;

/// Addresses and ports as they stand in a sent packet.
type Key = ([u8; 32], u32);

/// What a connection has sent.
#[derive(Debug, Clone, Copy)]
struct Sent {
    /// One past the highest sequence number.
    next: SeqNumber,
    /// The FIN's, and whether everything up to it was acknowledged.
    fin: Option<(SeqNumber, bool)>,
}

/// What each connection has sent.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    sent: HashMap<Key, Sent>,
}

impl Sequences {
    /// Looks at a frame that is about to be sent, and mends it where necessary. `later` are those that follow it in the
    /// same poll. Returns whether to send it.
    pub fn sent(&mut self, frame: &mut [u8], later: &[Vec<u8>]) -> bool {
        let Some((parsed, key)) = connection(frame) else { return true };
        let l4 = usize::from(parsed.l4);
        let Some(Ok(tcp)) = frame.get(l4..usize::from(parsed.end)).map(Tcp::parse) else { return true };
        let (seq, len, kind) = (tcp.seq(), tcp.payload().len() as u32, tcp.flags());
        if len == 0 && kind == flags::ACK && tcp.window() == 0 {
            let opens = |f: &Vec<u8>| {
                let same = connection(f).filter(|(_, k)| *k == key);
                same.is_some_and(|(p, _)| {
                    f.get(usize::from(p.l4)..).map(Tcp::parse).is_some_and(|t| t.is_ok_and(|t| t.window() > 0))
                })
            };
            if later.iter().any(opens) {
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
            self.sent.insert(key, Sent { next: end, fin: None });
        } else if let Some(Sent { next, fin }) = self.sent.get_mut(&key) {
            if kind & flags::FIN != 0 && fin.is_none() {
                *fin = Some((SeqNumber(end.0.wrapping_sub(1)), false));
            }
            if counted == 0 && kind & flags::ACK != 0 && (next.0.wrapping_sub(seq.0) as i32) > 0 {
                frame[l4 + 4..l4 + 8].copy_from_slice(&next.0.to_be_bytes());
                parse::fill_transport_checksum(frame, &parsed);
            } else if (end.0.wrapping_sub(next.0) as i32) > 0 && len != 1 {
                // One byte may be a probe of a closed window: beyond it, not yet taken, and not to be counted.
                *next = end;
            }
        }
        true
    }

    /// Looks at a received frame. Returns whether the stack is to see it.
    pub fn received(&mut self, frame: &[u8]) -> bool {
        let Some((parsed, (addresses, ports))) = connection(frame) else { return true };
        let mut back = [0; 32];
        let half = if parsed.kind == Kind::Transport4 { 4 } else { 16 };
        back[..half].copy_from_slice(&addresses[half..2 * half]);
        back[half..2 * half].copy_from_slice(&addresses[..half]);
        let Some(Sent { fin: Some((fin, told)), .. }) = self.sent.get_mut(&(back, ports.rotate_left(16))) else {
            return true;
        };
        let Some(Ok(tcp)) = frame.get(usize::from(parsed.l4)..usize::from(parsed.end)).map(Tcp::parse) else {
            return true;
        };
        let bare = tcp.payload().is_empty() && tcp.flags() == flags::ACK;
        if !bare || tcp.ack() != *fin || !parse::transport_checksum_ok(frame, &parsed) {
            return true;
        }
        !std::mem::replace(told, true)
    }
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
                assert!(s.sent(&mut frame, &[]));
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
            s.sent(&mut frame(true, flags::SYN, (u32::MAX, 0), b""), &[]);
            s.sent(&mut frame(true, flags::ACK | flags::FIN, (0, 1), b"abc"), &[]);
            let mut told = |kind, ack, payload: &[u8]| s.received(&frame(false, kind, (1, ack), payload));
            assert!(told(flags::ACK, 2, b"") && told(flags::ACK, 2, b""));
            assert!(told(flags::ACK, 3, b"") && !told(flags::ACK, 3, b"") && !told(flags::ACK, 3, b""));
            assert!(told(flags::ACK, 3, b"data") && told(flags::ACK | flags::FIN, 3, b""));
            assert!(told(flags::ACK, 4, b"") && told(flags::ACK, 4, b""));
        }
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
        assert!(!s.sent(&mut ack(1, 0), &[ack(2, 5), ack(1, 5)]));
        assert!(s.sent(&mut ack(1, 0), &[ack(2, 5), ack(1, 0)]));
        assert!(s.sent(&mut ack(1, 5), &[ack(1, 5)]));
    }
}
