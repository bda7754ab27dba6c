//! What has passed for each real server, counted by the packet.

/// Packets and bytes, modulo 2³²: `[0]` from clients, `[1]` to clients. Four servers' to a cache line: with thousands of
/// servers, what is counted for them must stay near, though every packet is another one's.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(16))]
struct Low {
    packets: [u32; 2],
    bytes: [u32; 2],
}

/// The traffic of every server of a worker, by slot.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    low: Vec<Low>,
    /// How often each of [`Low`] has gone round.
    high: Vec<Low>,
}

/// The traffic at hand, for the duration of one loop over a batch.
pub(crate) struct Counting<'t> {
    low: &'t mut [Low],
    high: &'t mut [Low],
}

impl Traffic {
    /// Room for so many servers; what is counted of those that there are stays.
    pub(crate) fn resize(&mut self, servers: usize) {
        self.low.resize(servers, Low::default());
        self.high.resize(servers, Low::default());
    }

    /// A server's slot has a new owner.
    pub(crate) fn clear(&mut self, server: usize) {
        for half in [&mut self.low, &mut self.high] {
            if let Some(half) = half.get_mut(server) {
                *half = Low::default();
            }
        }
    }

    /// Packets and bytes of every server.
    pub(crate) fn iter(&self) -> impl Iterator<Item = ([u64; 2], [u64; 2])> + '_ {
        let whole = |high: [u32; 2], low: [u32; 2]| [0, 1].map(|n| u64::from(high[n]) << 32 | u64::from(low[n]));
        self.high.iter().zip(&self.low).map(move |(h, l)| (whole(h.packets, l.packets), whole(h.bytes, l.bytes)))
    }

    /// Counts a packet of `bytes` bytes that `side` has sent. A server that there is no more counts nothing.
    #[inline]
    pub(crate) fn count(&mut self, server: usize, side: usize, bytes: u32) {
        self.counting().count(server, side, bytes);
    }

    /// See [`Counting`].
    #[inline(always)]
    pub(crate) fn counting(&mut self) -> Counting<'_> {
        Counting { low: &mut self.low, high: &mut self.high }
    }
}

impl Counting<'_> {
    /// Servers that there is room for.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.low.len()
    }

    /// Asks for what is counted of a server.
    #[inline(always)]
    pub(crate) fn prefetch(&self, server: u16) {
        lcs_dataplane::prefetch::prefetch_at(self.low.as_ptr().wrapping_add(usize::from(server)));
    }

    /// See [`Traffic::count`].
    #[inline(always)]
    pub(crate) fn count(&mut self, server: usize, side: usize, bytes: u32) {
        let Some(low) = self.low.get_mut(server) else { return };
        // Indexed, not branched on: which side sent a packet is as good as random.
        let side = side & 1;
        let (packets, bytes) = (low.packets[side].overflowing_add(1), low.bytes[side].overflowing_add(bytes));
        (low.packets[side], low.bytes[side]) = (packets.0, bytes.0);
        if packets.1 | bytes.1 {
            self.carry(server, side, [packets.1, bytes.1]);
        }
    }

    #[cold]
    #[inline(never)]
    fn carry(&mut self, server: usize, side: usize, [packets, bytes]: [bool; 2]) {
        if let Some(high) = self.high.get_mut(server) {
            high.packets[side] = high.packets[side].wrapping_add(packets.into());
            high.bytes[side] = high.bytes[side].wrapping_add(bytes.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_on_beyond_32_bits() {
        let mut t = Traffic::default();
        t.resize(2);
        t.low[1].packets[1] = u32::MAX - 1;
        for _ in 0..70_000 {
            t.count(1, 1, 65_535);
        }
        t.count(1, 0, 40);
        t.count(7, 0, 40);
        let (packets, bytes) = t.iter().nth(1).unwrap();
        assert_eq!(packets, [1, u64::from(u32::MAX) - 1 + 70_000]);
        assert_eq!(bytes, [40, 70_000 * 65_535]);
        t.resize(3);
        assert_eq!(t.iter().nth(1).unwrap().1, bytes);
        t.clear(1);
        assert!(t.iter().all(|(packets, bytes)| (packets, bytes) == ([0; 2], [0; 2])));
    }
}
