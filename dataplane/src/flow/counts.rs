//! What flows count: in their own lines, until somebody settles it.

use super::entry::Flow;
use super::table::FlowTable;

/// Packets (the high 8 bits) and their bytes (the low 24) that are counted in a flow and nowhere else yet: one addition a packet, in a line
/// that is at hand. 255 packets of 65,535 bytes don't overflow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub(crate) struct Pending(pub(crate) u32);

impl Pending {
    /// One packet of no bytes.
    const PACKET: u32 = 1 << 24;
    /// From here on it is time to settle.
    const MANY: u32 = 1 << 31;

    pub(crate) fn packets(self) -> u32 {
        self.0 >> 24
    }

    pub(crate) fn bytes(self) -> u32 {
        self.0 & (Pending::PACKET - 1)
    }
}

/// What has passed since it was asked last, by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Passed {
    /// Packets from the client and from the server.
    pub packets: [u32; 2],
    /// Bytes of these.
    pub bytes: [u32; 2],
}

impl Flow {
    /// Counts a packet of `bytes` bytes from side `side`. `true` asks for [`super::FlowTable::settle`] before this side has sent 127
    /// packets more.
    #[inline(always)]
    #[must_use]
    pub fn count(&mut self, side: usize, bytes: u16) -> bool {
        let pending = &mut self.pending[side];
        pending.0 = pending.0.wrapping_add(Pending::PACKET | u32::from(bytes));
        pending.0 >= Pending::MANY
    }
}

impl FlowTable {
    /// Every flow in the table has a number below this one.
    #[inline]
    pub fn reach(&self) -> u32 {
        self.reach
    }

    /// Lets [`FlowTable::reach`] fall as far as there is no flow, past `most` entries at most.
    pub fn lower_reach(&mut self, most: u32) {
        let least = self.reach.saturating_sub(most);
        while self.reach > least && self.flows[self.reach as usize - 1].protocol == 0 {
            self.reach -= 1;
        }
    }

    /// What a flow's packets have counted since this was asked last; `None` when nothing has, or there is no such flow.
    #[inline]
    pub fn settle(&mut self, flow: u32) -> Option<Passed> {
        let entry = self.flows.get_mut(flow as usize).filter(|f| f.pending != [Pending(0); 2])?;
        let pending = std::mem::take(&mut entry.pending);
        let passed = Passed { packets: pending.map(Pending::packets), bytes: pending.map(Pending::bytes) };
        self.count_aside(flow, passed.packets);
        Some(passed)
    }

    /// Counts packets of a flow that are counted nowhere else.
    #[inline]
    pub fn count_aside(&mut self, flow: u32, packets: [u32; 2]) {
        let all = &mut self.aside[flow as usize].packets;
        *all = [all[0].wrapping_add(packets[0]), all[1].wrapping_add(packets[1])];
    }

    /// Packets of a flow from the client and from the server, modulo 2³².
    pub fn packets(&self, flow: u32) -> [u32; 2] {
        let (pending, settled) = (self.flows[flow as usize].pending, self.aside[flow as usize].packets);
        [0, 1].map(|side| settled[side].wrapping_add(pending[side].packets()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Key;
    use std::net::SocketAddr;

    fn k(n: u16) -> Key {
        Key::new(SocketAddr::from(([192, 0, 2, 1], n)), SocketAddr::from(([198, 51, 100, 1], 80))).unwrap()
    }

    #[test]
    fn the_reach_falls_to_the_highest_flow_that_is_left() {
        let mut t = FlowTable::new(100, 1);
        let flows: Vec<u32> = (0..100).map(|n| t.insert(6, &k(n), None).unwrap()).collect();
        let reach = |t: &mut FlowTable, most| {
            t.lower_reach(most);
            t.reach()
        };
        assert_eq!(reach(&mut t, 1000), 100);
        (20..100).filter(|n| *n != 50).for_each(|n| t.remove(flows[n]));
        assert_eq!((reach(&mut t, 30), reach(&mut t, 30), reach(&mut t, 30)), (70, 51, 51));
        t.remove(flows[50]);
        assert_eq!(reach(&mut t, 1000), 20);
        // Who comes now has a number of those that have gone, or the next one.
        for n in 0..80 {
            let flow = t.insert(6, &k(200 + n), None).unwrap();
            assert!(flow < reach(&mut t, 1000));
        }
        (0..300).filter_map(|n| t.find(&k(n), 6)).collect::<Vec<_>>().into_iter().for_each(|p| t.remove(p.flow()));
        assert_eq!((reach(&mut t, 1000), t.len()), (0, 0));
    }

    #[test]
    fn what_is_counted_is_settled_once_and_never_forgotten() {
        let mut t = FlowTable::new(2, 1);
        let flow = t.insert(6, &k(1), None).unwrap();
        assert_eq!(t.settle(flow), None);
        // As many and as large as there may be before somebody has seen to it.
        let asked: Vec<bool> = (0..255).map(|_| t.get_mut(flow).count(1, u16::MAX)).collect();
        assert_eq!(asked.iter().position(|asked| *asked), Some(127));
        assert!(asked[127..].iter().all(|asked| *asked) && !t.get_mut(flow).count(0, 40));
        t.count_aside(flow, [7, 0]);
        assert_eq!(t.packets(flow), [8, 255]);
        assert_eq!(t.settle(flow), Some(Passed { packets: [1, 255], bytes: [40, 255 * 65_535] }));
        assert_eq!((t.settle(flow), t.packets(flow)), (None, [8, 255]));
        assert_eq!((t.settle(1), t.settle(2)), (None, None));
    }
}
