//! A lane between the control thread and a port that has no kernel behind it: what is asked of neighbours goes out through
//! the port, and their answers come back. Bounded in both directions; what does not fit is dropped, and asked again.

use crate::headers::ethernet::{self, HEADER, ethertype};
use crate::headers::{icmp, ipv6, protocol};
use crossbeam_channel::{Receiver, Sender, bounded};

/// Frames that wait in one direction at most.
const DEPTH: usize = 256;
/// Bytes of a frame that are taken along: an advertisement over IPv6 with its options.
const BYTES: usize = 96;

/// A frame of ARP or neighbour discovery.
#[derive(Debug, Clone, Copy)]
pub struct NeighbourFrame {
    /// Number of the interface within the port.
    pub interface: u8,
    len: u8,
    bytes: [u8; BYTES],
}

impl NeighbourFrame {
    /// A frame, or as much of it as is taken along (96 bytes).
    pub fn new(interface: u8, frame: &[u8]) -> Self {
        let len = frame.len().min(BYTES);
        let mut bytes = [0; BYTES];
        bytes[..len].copy_from_slice(&frame[..len]);
        NeighbourFrame { interface, len: len as u8, bytes }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// The control thread's end.
#[derive(Debug)]
pub struct NeighbourLane {
    say: Sender<NeighbourFrame>,
    heard: Receiver<NeighbourFrame>,
}

/// The port's end.
#[derive(Debug)]
pub struct NeighbourEnd {
    said: Receiver<NeighbourFrame>,
    hear: Sender<NeighbourFrame>,
}

/// A lane.
pub fn lane() -> (NeighbourLane, NeighbourEnd) {
    let (say, said) = bounded(DEPTH);
    let (hear, heard) = bounded(DEPTH);
    (NeighbourLane { say, heard }, NeighbourEnd { said, hear })
}

impl NeighbourLane {
    /// Has a frame sent; `false` when the lane is full or the port is gone.
    pub fn say(&self, frame: NeighbourFrame) -> bool {
        self.say.try_send(frame).is_ok()
    }

    /// The next answer.
    pub fn heard(&self) -> Option<NeighbourFrame> {
        self.heard.try_recv().ok()
    }
}

impl NeighbourEnd {
    /// The next frame to be sent.
    pub fn said(&self) -> Option<NeighbourFrame> {
        self.said.try_recv().ok()
    }

    /// Whether there is one. Cheap enough for every burst.
    #[inline]
    pub fn has_something_to_say(&self) -> bool {
        !self.said.is_empty()
    }

    /// Takes a frame to the control thread; `false` when the lane is full.
    pub fn hear(&self, interface: u8, frame: &[u8]) -> bool {
        self.hear.try_send(NeighbourFrame::new(interface, frame)).is_ok()
    }
}

/// Whether a frame may be an answer that the control thread waits for: an ARP answer, or a neighbour advertisement that is
/// for the director alone. A look only: what it says is checked by whoever reads it.
pub fn is_answer(frame: &[u8]) -> bool {
    let Some(&kind) = frame.get(12..).and_then(<[u8]>::first_chunk::<2>) else { return false };
    match u16::from_be_bytes(kind) {
        ethertype::ARP => frame.get(HEADER + 6..HEADER + 8) == Some(&[0, 2]),
        ethertype::IPV6 => {
            let advertisement = frame.get(HEADER + ipv6::HEADER) == Some(&icmp::v6::NEIGHBOUR_ADVERTISEMENT);
            advertisement
                && frame.get(HEADER + 6) == Some(&protocol::ICMPV6)
                && !ethernet::destination(frame).is_group()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_questions_and_from_what_is_cut() {
        let arp = |operation: u8| {
            let mut frame = vec![2; 42];
            frame[12..14].copy_from_slice(&[8, 6]);
            frame[20..22].copy_from_slice(&[0, operation]);
            frame
        };
        let icmp = |to: u8, kind: u8| {
            let mut frame = vec![2; 14 + 40 + 32];
            frame[0] = to;
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            frame[20] = 58;
            frame[54] = kind;
            frame
        };
        let mut tagged = arp(2);
        tagged.splice(12..12, [0x81, 0, 0, 7]);
        let mut tcp = icmp(2, 136);
        tcp[20] = 6;
        let table = [
            ("an ARP answer", arp(2), true),
            ("an ARP question", arp(1), false),
            ("an ARP answer that is cut", arp(2)[..21].to_vec(), false),
            ("a tagged ARP answer", tagged, false),
            ("an advertisement", icmp(2, 136), true),
            ("an advertisement to a group", icmp(0x33, 136), false),
            ("a solicitation", icmp(2, 135), false),
            ("an advertisement that is cut", icmp(2, 136)[..54].to_vec(), false),
            ("TCP that looks like one", tcp, false),
            ("an address only", vec![2; 12], false),
            ("nothing", vec![], false),
        ];
        for (what, frame, wanted) in table {
            assert_eq!(is_answer(&frame), wanted, "{what}");
        }
    }

    #[test]
    fn frames_pass_both_ways_and_what_does_not_fit_is_dropped() {
        let (lane, end) = lane();
        assert!(!end.has_something_to_say());
        assert!(lane.say(NeighbourFrame::new(1, b"who has")));
        assert!(end.has_something_to_say());
        let said = end.said().unwrap();
        assert_eq!((said.interface, said.bytes()), (1, &b"who has"[..]));
        for n in 0..DEPTH {
            assert!(end.hear(0, &[n as u8; 200]));
        }
        assert!(!end.hear(0, b"one more"));
        assert_eq!(lane.heard().unwrap().bytes(), [0; BYTES]);
        drop(end);
        assert!(!lane.say(NeighbourFrame::new(0, b"")));
    }
}
