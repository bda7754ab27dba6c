//! An Ethernet switch that learns where link-layer addresses are.

use super::{Node, Outbox};
use lcs_dataplane::headers::{MacAddr, ethernet};
use lcs_dataplane::worker::Nanos;
use std::collections::BTreeMap;

/// Addresses that a switch learns at most; beyond that, frames to unknown ones are flooded.
pub const LEARNED: usize = 4096;

/// A learning switch without ageing: in a simulated network addresses move only when a test moves them, and the next frame teaches it.
#[derive(Debug, Default)]
pub struct Switch {
    nics: usize,
    learned: BTreeMap<MacAddr, usize>,
    /// Frames sent out of every other place because their destination was a group or not known.
    pub flooded: u64,
}

impl Switch {
    /// A switch with as many places as get connected.
    pub fn new() -> Self {
        Switch::default()
    }

    /// Where an address was last seen.
    pub fn place_of(&self, mac: MacAddr) -> Option<usize> {
        self.learned.get(&mac).copied()
    }
}

impl Node for Switch {
    fn connected(&mut self, nics: usize) {
        self.nics = nics;
    }

    fn receive(&mut self, nic: usize, frame: Vec<u8>, _now: Nanos, out: &mut Outbox) -> Option<Nanos> {
        let source = ethernet::source(&frame);
        if !source.is_group() && self.learned.get(&source) != Some(&nic) {
            if self.learned.len() < LEARNED || self.learned.contains_key(&source) {
                self.learned.insert(source, nic);
            }
        }
        let destination = ethernet::destination(&frame);
        match self.learned.get(&destination) {
            Some(&to) if !destination.is_group() => {
                if to == nic {
                    out.recycle(frame);
                } else {
                    out.send(to, frame);
                }
            }
            _ => {
                self.flooded += 1;
                for to in (0..self.nics).filter(|&to| to != nic) {
                    let mut copy = out.buffer();
                    copy.extend_from_slice(&frame);
                    out.send(to, copy);
                }
                out.recycle(frame);
            }
        }
        None
    }

    fn poll(&mut self, _now: Nanos, _out: &mut Outbox) -> Option<Nanos> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(to: u8, from: u8) -> Vec<u8> {
        let mut f = vec![0; 60];
        f[..6].copy_from_slice(&[if to == 0xff { 0xff } else { 2 }, 0, 0, 0, 0, to]);
        f[6..12].copy_from_slice(&[2, 0, 0, 0, 0, from]);
        f
    }

    #[test]
    fn floods_what_it_does_not_know_and_learns_also_when_an_address_moves() {
        let mut s = Switch::new();
        s.connected(3);
        let mut to = |nic, f| {
            let mut out = Outbox::default();
            s.receive(nic, f, 0, &mut out);
            out.take().map(|(n, _)| n).collect::<Vec<_>>()
        };
        assert_eq!(to(0, frame(2, 1)), [1, 2]);
        assert_eq!(to(1, frame(1, 2)), [0]);
        assert_eq!(to(0, frame(2, 1)), [1]);
        assert_eq!(to(0, frame(0xff, 1)), [1, 2]);
        assert_eq!(to(2, frame(1, 2)), [0]); // address 2 has moved
        assert_eq!(to(0, frame(2, 1)), [2]);
        assert_eq!(to(2, frame(2, 3)), [0usize; 0]); // it is where the frame came from
    }
}
