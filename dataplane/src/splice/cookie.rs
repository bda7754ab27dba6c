//! Initial sequence numbers that remember what a SYN said, so that a SYN needs no memory (RFC 4987 §3.6, RFC 6528).

use crate::flow::Key;
use siphasher::sip::SipHasher24;
use std::hash::Hasher as _;

/// What a client's SYN offered, as far as a cookie keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// The client's MSS, rounded down to a class.
    pub mss: u16,
    /// Its window scale; `None` when it offered none.
    pub scale: Option<u8>,
    /// Whether it understands SACK.
    pub sack: bool,
}

/// MSS classes: what is common on the Internet, each a safe choice for everything up to the next.
const CLASSES: [u16; 4] = [64, 536, 1220, 1440];
/// Nanoseconds in a cookie's time step, as a shift: about 69 s.
const STEP: u32 = 36;
/// Nanoseconds between two timestamps.
const MILLISECOND: u64 = 1_000_000;
/// `scale` of a client that offered none.
const NO_SCALE: u32 = 15;
/// Bits of what a cookie says: 2 of time, 2 of MSS, 4 of scale, 1 of SACK. The other 23 authenticate it.
const DATA: u32 = 9;

/// Makes and checks cookies. The key changes with every time step; a cookie is good for one to two of them.
#[derive(Debug, Clone)]
pub struct Cookies {
    secret: [u64; 2],
}

impl Cookies {
    /// With this secret, which no client may guess. The same for all workers, so that any can check what another has made.
    pub fn new(secret: [u64; 2]) -> Self {
        Cookies { secret }
    }

    /// The initial sequence number for a client's SYN with number `isn`, at `now` in nanoseconds.
    pub fn make(&self, key: &Key, isn: u32, offer: Offer, now: u64) -> u32 {
        let class = CLASSES.iter().rposition(|&c| c <= offer.mss).unwrap_or(0) as u32;
        let scale = offer.scale.map_or(NO_SCALE, |s| u32::from(s.min(14)));
        let step = now >> STEP;
        let data = (step as u32 & 3) << 7 | class << 5 | scale << 1 | u32::from(offer.sack);
        self.tag(key, isn, data, step) << DATA | data
    }

    /// What the SYN offered to which this number was the answer; `None` when it was not made by us, or too long ago.
    pub fn check(&self, key: &Key, isn: u32, cookie: u32, now: u64) -> Option<Offer> {
        let data = cookie & ((1 << DATA) - 1);
        let current = now >> STEP;
        let age = (current as u32).wrapping_sub(data >> 7) & 3;
        let step = current.checked_sub(u64::from(age)).filter(|_| age <= 1)?;
        if self.tag(key, isn, data, step) != cookie >> DATA {
            return None;
        }
        let scale = data >> 1 & 15;
        Some(Offer {
            mss: CLASSES[(data >> 5 & 3) as usize],
            scale: (scale != NO_SCALE).then_some(scale as u8),
            sack: data & 1 != 0,
        })
    }

    /// The clock of the timestamps that the director sends on a connection: milliseconds from a beginning that is
    /// the connection's own and secret, so that it tells nobody how long the director has been up, and that two of its
    /// connections are the director's (RFC 7323 §5.4, §7.1). It runs on over all connections with these ends.
    pub fn clock(&self, key: &Key, now: u64) -> u32 {
        let beginning = self.hash(key, u64::MAX, !self.secret[0]);
        ((now / MILLISECOND) as u32).wrapping_add(beginning as u32)
    }

    /// Whether a client has brought back, in the echo of its timestamp, what its SYN was answered with: then
    /// timestamps were agreed upon. As long ago as a cookie is good for.
    pub fn echoes(&self, key: &Key, echo: u32, now: u64) -> bool {
        u64::from(self.clock(key, now).wrapping_sub(echo)) <= (2 << STEP) / MILLISECOND
    }

    fn tag(&self, key: &Key, isn: u32, data: u32, step: u64) -> u32 {
        (self.hash(key, u64::from(isn) << 32 | u64::from(data), self.secret[0] ^ step) >> DATA) as u32 >> DATA
    }

    fn hash(&self, key: &Key, more: u64, secret: u64) -> u64 {
        let mut h = SipHasher24::new_with_keys(secret, self.secret[1]);
        match key {
            Key::V4 { addresses, ports } => {
                h.write_u64(*addresses);
                h.write_u32(*ports);
            }
            Key::V6 { addresses, ports } => {
                h.write(addresses);
                h.write_u32(*ports);
            }
        }
        h.write_u64(more);
        h.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(port: u16) -> Key {
        Key::new(([192, 0, 2, 1], port).into(), ([198, 51, 100, 1], 80).into()).unwrap()
    }

    proptest! {
        #[test]
        fn a_cookie_is_good_for_its_connection_and_time_only(
            port: u16, isn: u32, mss in 500u16..1500, scale in proptest::option::of(0u8..=14), sack: bool,
            start in 0u64..1 << 60,
        ) {
            let c = Cookies::new([1, 2]);
            let cookie = c.make(&key(port), isn, Offer { mss, scale, sack }, start);
            let got = c.check(&key(port), isn, cookie, start + (1 << STEP) - 1).unwrap();
            prop_assert!(got.mss <= mss.max(64) && got.scale == scale && got.sack == sack);
            prop_assert_eq!(c.check(&key(port), isn, cookie, start + (2 << STEP)), None);
            prop_assert_eq!(Cookies::new([1, 3]).check(&key(port), isn, cookie, start), None);
        }
    }

    #[test]
    fn a_clock_is_its_connections_own_and_runs_on() {
        let c = Cookies::new([1, 2]);
        let now = 5_000 * MILLISECOND;
        let at = |port, now| c.clock(&key(port), now);
        assert_eq!(at(1, now + 7 * MILLISECOND), at(1, now).wrapping_add(7));
        assert!(at(1, now).abs_diff(at(2, now)) > 1000 && at(1, now).abs_diff(5_000) > 1000);
        assert!(c.echoes(&key(1), at(1, now), now) && c.echoes(&key(1), at(1, now), now + (1 << STEP)));
        assert!(!c.echoes(&key(1), at(1, now).wrapping_add(1), now) && !c.echoes(&key(2), at(1, now), now));
        assert!(!c.echoes(&key(1), at(1, now), now + (3 << STEP)));
    }

    #[test]
    fn guessing_hits_as_rarely_as_23_bits_say() {
        let c = Cookies::new([7, 9]);
        let hits =
            (0..1u32 << 20).filter(|n| c.check(&key(1), 5, n.wrapping_mul(0x9e37_79b1), 1 << 40).is_some()).count();
        assert!(hits <= 3, "{hits}");
    }
}
