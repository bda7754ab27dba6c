//! Frames between two ports that the user names, and how they are known again on the other side of whatever joins these.
//!
//! A device under test may rewrite addresses, ports and link layer, take hops off the TTL, and wrap the packet into another: what layer 4 leaves
//! alone is the sequence and acknowledgement numbers of TCP, and the payload of UDP. There a frame carries its trial, the queue that it left by,
//! whether it is a probe, and when it was due.

use crate::traffic::{Stamp, next_random};
use lcs_dataplane::checksum::{Difference, Sum};
use lcs_dataplane::headers::build::Packet;
use lcs_dataplane::headers::tcp::flags::ACK;
use lcs_dataplane::headers::{MacAddr, protocol};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Flows of one source address.
const PORTS: usize = 50_000;
/// In every number, so that other packets are not taken for ours.
const MARK: u32 = 0x5a00;
const MARKED: u32 = 0xff00;
const PROBE: u32 = 1;

/// What frames carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Each flow is opened by a SYN, and goes on with acknowledgements.
    Tcp,
    /// Datagrams.
    Udp,
}

/// What a frame says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// The trial, or the opening, that it is of.
    pub trial: u8,
    /// The queue that it left by.
    pub queue: u8,
    /// It was sent to measure latency.
    pub probe: bool,
    /// When it was due, ns, or which flow of a group it opens.
    pub word: u32,
}

/// How frames are written.
#[derive(Debug)]
pub(super) struct Flows {
    transport: Transport,
    from: IpAddr,
    to: SocketAddr,
    macs: (MacAddr, MacAddr),
    flows: usize,
    /// One for each size.
    templates: Vec<Vec<u8>>,
    random: u64,
}

impl Flows {
    /// So many flows between these ends; `macs` are source and destination.
    pub fn new(transport: Transport, from: IpAddr, to: SocketAddr, macs: (MacAddr, MacAddr), flows: usize) -> Self {
        Flows { transport, from, to, macs, flows, templates: vec![], random: 0x1234_5678_9abc_def1 }
    }

    /// Frames of these sizes from now on, bytes with FCS.
    pub fn set_sizes(&mut self, sizes: impl IntoIterator<Item = usize>) {
        let from = SocketAddr::new(self.from, 1);
        let packet = |size: usize| {
            let packet = match self.transport {
                Transport::Tcp => Packet::tcp(from, self.to, ACK),
                Transport::Udp => Packet::udp(from, self.to).payload(&[0; 8]),
            };
            let (source_mac, destination_mac) = self.macs;
            Packet { source_mac, destination_mac, ..packet }.sized(size.saturating_sub(4)).frame()
        };
        self.templates = sizes.into_iter().map(packet).collect();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.flows
    }

    /// Bytes of a frame of this size, without FCS.
    pub fn frame_len(&self, part: usize) -> usize {
        self.templates.get(part).map_or(0, Vec::len)
    }

    /// What they carry.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Addresses that packets come from.
    pub fn sources(&self) -> Vec<IpAddr> {
        (0..self.flows.div_ceil(PORTS)).map(|n| self.source(n)).collect()
    }

    fn source(&self, n: usize) -> IpAddr {
        match self.from {
            IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from(u32::from(a).wrapping_add(n as u32))),
            IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from(u128::from(a).wrapping_add(n as u128))),
        }
    }

    /// A flow that the prefetcher does not expect, and a number to choose a size by.
    pub fn any(&mut self) -> (usize, u64) {
        let r = next_random(&mut self.random);
        (((r >> 33) as usize) % self.flows, next_random(&mut self.random))
    }

    /// Writes a frame of flow `n` into `b`, which has the bytes of [`Self::frame_len`]; TCP with these flags. Its checksums are right.
    pub fn write(&self, b: &mut [u8], part: usize, n: usize, mark: Mark, flags: u8) {
        let Some(template) = self.templates.get(part).filter(|t| t.len() == b.len()) else { return };
        b.copy_from_slice(template);
        let number = u32::from(mark.trial) << 24 | u32::from(mark.queue) << 16 | MARK | u32::from(mark.probe);
        let mut words = [0; 8];
        words[..4].copy_from_slice(&number.to_be_bytes());
        words[4..].copy_from_slice(&mark.word.to_be_bytes());
        // Of the address only the last four bytes differ from flow to flow, unless a carry leaves them: sources are consecutive.
        let source = self.source(n / PORTS);
        let mut address = [0; 16];
        let (at, l4) = match source {
            IpAddr::V4(a) => {
                address[..4].copy_from_slice(&a.octets());
                (26..30, 34)
            }
            IpAddr::V6(a) => {
                address.copy_from_slice(&a.octets());
                (22..38, 54)
            }
        };
        let port = (1024 + n % PORTS) as u16;
        let (words_at, sum_at) = match self.transport {
            Transport::Tcp => (l4 + 4, l4 + 16),
            Transport::Udp => (l4 + 8, l4 + 6),
        };
        let mut change = Difference::NONE
            .replacing(&b[at.clone()], &address[..at.len()])
            .replacing(&b[l4..l4 + 2], &port.to_be_bytes())
            .replacing(&b[words_at..words_at + 8], &words);
        if self.transport == Transport::Tcp {
            change = change.replacing(&b[l4 + 12..l4 + 14], &[b[l4 + 12], flags]);
            b[l4 + 13] = flags;
        }
        b[at.clone()].copy_from_slice(&address[..at.len()]);
        b[l4..l4 + 2].copy_from_slice(&port.to_be_bytes());
        b[words_at..words_at + 8].copy_from_slice(&words);
        let sum = change.apply(u16::from_ne_bytes([b[sum_at], b[sum_at + 1]]));
        // RFC 768: a sum of zero is sent as all ones.
        let sum = if sum == 0 && self.transport == Transport::Udp { 0xffff } else { sum };
        b[sum_at..sum_at + 2].copy_from_slice(&sum.to_ne_bytes());
        if l4 == 34 {
            b[24..26].fill(0);
            let sum = Sum::ZERO.bytes(&b[14..34]).checksum();
            b[24..26].copy_from_slice(&sum.to_ne_bytes());
        }
    }

    /// What a frame that came in says of itself; `None` for one that is not of these flows. Looks behind one 802.1Q tag and one outer IP header.
    pub fn read(&self, frame: &[u8]) -> Option<Mark> {
        let two = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
        let (mut at, mut kind) = (14, two(12)?);
        if kind == 0x8100 {
            (at, kind) = (18, two(16)?);
        }
        let mut v6 = match kind {
            0x0800 => false,
            0x86dd => true,
            _ => return None,
        };
        for _ in 0..2 {
            let (next, behind) = if v6 {
                (*frame.get(at + 6)?, at + 40)
            } else {
                (*frame.get(at + 9)?, at + usize::from(frame.get(at)? & 0xf) * 4)
            };
            at = behind;
            match (next, self.transport) {
                (protocol::IPIP, _) => v6 = false,
                (protocol::IPV6, _) => v6 = true,
                (protocol::TCP, Transport::Tcp) => return Self::mark(frame, at + 4),
                (protocol::UDP, Transport::Udp) => return Self::mark(frame, at + 8),
                _ => return None,
            }
        }
        None
    }

    fn mark(frame: &[u8], at: usize) -> Option<Mark> {
        let words = frame.get(at..at + 8)?;
        let read = |at: usize| u32::from_be_bytes([words[at], words[at + 1], words[at + 2], words[at + 3]]);
        let number = read(0);
        (number & (MARKED | 0xfe) == MARK).then(|| Mark {
            trial: (number >> 24) as u8,
            queue: (number >> 16) as u8,
            probe: number & PROBE != 0,
            word: read(4),
        })
    }
}

impl From<Mark> for Stamp {
    fn from(mark: Mark) -> Stamp {
        Stamp { number: u32::from(mark.trial) << 24 | 2, due: mark.word }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lcs_dataplane::headers::tcp::flags::SYN;

    const MACS: (MacAddr, MacAddr) = (MacAddr([2, 0, 0, 0, 0, 7]), MacAddr([2, 0, 0, 0, 0, 8]));

    /// The sum over a transport header, payload and pseudo-header: zero in one's complement when the checksum is right.
    fn sum(frame: &[u8], v6: bool, transport: Transport) -> u16 {
        let (addresses, l4) = if v6 { (22..54, 54) } else { (26..34, 34) };
        let end = if v6 {
            54 + usize::from(u16::from_be_bytes([frame[18], frame[19]]))
        } else {
            14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]))
        };
        let protocol = match transport {
            Transport::Tcp => 6,
            Transport::Udp => 17,
        };
        let length = ((end - l4) as u16).to_be_bytes();
        Sum::ZERO.bytes(&frame[addresses]).bytes(&[0, protocol]).bytes(&length).bytes(&frame[l4..end]).checksum()
    }

    #[test]
    fn frames_have_right_checksums_and_are_known_again_behind_tags_and_tunnels() {
        for (from, to, smallest) in [("198.18.0.250", "198.19.0.1:80", 64), ("2001:2::ffff:fff0", "[2001:2::1]:80", 78)]
        {
            for transport in [Transport::Tcp, Transport::Udp] {
                let to: SocketAddr = to.parse().unwrap();
                let mut flows = Flows::new(transport, from.parse().unwrap(), to, MACS, 2_000_000);
                flows.set_sizes([smallest, 1518]);
                assert_eq!((flows.sources().len(), flows.frame_len(1)), (40, 1514));
                for (n, part) in [(0, 0), (49_999, 1), (50_000, 0), (1_999_999, 1)] {
                    let mark = Mark { trial: 200, queue: 7, probe: n == 0, word: 0xfeed_f00d };
                    let mut b = vec![0; flows.frame_len(part)];
                    flows.write(&mut b, part, n, mark, SYN);
                    let v6 = to.is_ipv6();
                    assert_eq!((&b[..6], sum(&b, v6, transport)), (&MACS.1.0[..], 0), "{transport:?} {n} {b:x?}");
                    assert!(v6 || Sum::ZERO.bytes(&b[14..34]).checksum() == 0);
                    assert_eq!(flows.read(&b), Some(mark));
                    let tagged = [&b[..12], &[0x81, 0, 0, 5], &b[12..]].concat();
                    assert_eq!(flows.read(&tagged), Some(mark));
                    let mut outer = [0u8; 20];
                    (outer[0], outer[9]) = (0x45, if v6 { 41 } else { 4 });
                    let tunnelled = [&b[..12], &[8, 0], &outer[..], &b[14..]].concat();
                    assert_eq!(flows.read(&tunnelled), Some(mark));
                    for cut in 0..b.len().min(60) {
                        let _ = flows.read(&b[..cut]);
                    }
                }
                let mut foreign = vec![0; flows.frame_len(0)];
                flows.write(&mut foreign, 0, 1, Mark { trial: 0, queue: 0, probe: false, word: 0 }, ACK);
                foreign[if to.is_ipv6() { 54 } else { 34 } + 4..].fill(0x11);
                assert_eq!(flows.read(&foreign), None);
                assert_eq!(flows.read(&[0x45; 80]), None);
            }
        }
    }
}
