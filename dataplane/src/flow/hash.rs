//! Hashing connection keys: keyed, so that a client can't choose where its connections land.

/// A keyed hash of connection keys: multilinear in secret odd multipliers (so that any two keys chosen without
/// knowing them collide with probability near 2⁻³²), then one round of mixing so that all 64 bits can be used.
///
/// Not cryptographic. The multipliers are drawn at start, so a peer can't aim at a bucket.
#[derive(Debug, Clone, Copy)]
pub struct Hasher {
    keys: [u64; 5],
}

#[inline(always)]
fn mixed(h: u64) -> u64 {
    let h = (h ^ (h >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    h ^ (h >> 32)
}

impl Hasher {
    /// A hasher whose keys come from `seed`; the same seed gives the same hashes.
    pub fn new(seed: u64) -> Self {
        // SplitMix64, whose outputs are a permutation of the counter.
        let mut state = seed;
        let keys = std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) | 1
        });
        Hasher { keys }
    }

    /// Hash of an IPv4 key: both addresses, both ports and the protocol, as they stand in the packet.
    #[inline(always)]
    pub fn v4(&self, addresses: u64, ports: u32, protocol: u8) -> u64 {
        let low = u64::from(ports) | u64::from(protocol) << 32;
        mixed(addresses.wrapping_mul(self.keys[0]).wrapping_add(low.wrapping_mul(self.keys[1])))
    }

    /// Hash of an IPv6 key: source and destination address (32 bytes), both ports and the protocol, as they stand in the packet.
    #[inline]
    pub fn v6(&self, addresses: &[u8; 32], ports: u32, protocol: u8) -> u64 {
        let low = u64::from(ports) | u64::from(protocol) << 32;
        let (words, _) = addresses.as_chunks::<8>();
        let sum = words.iter().zip(&self.keys[1..]).fold(low.wrapping_mul(self.keys[0]), |sum, (w, k)| {
            sum.wrapping_add(u64::from_ne_bytes(*w).wrapping_mul(*k))
        });
        mixed(sum)
    }
}
