//! Sets of whole numbers as closed ranges: numbers in half-billionths, ports, addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Disjoint closed ranges in ascending order, never adjacent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Ranges(Vec<(i128, i128)>);

impl Ranges {
    /// The union of closed ranges in any order; empty ones (low above high) are passed over.
    pub fn new(mut ranges: Vec<(i128, i128)>) -> Self {
        ranges.retain(|(low, high)| low <= high);
        ranges.sort_unstable();
        let mut merged: Vec<(i128, i128)> = Vec::with_capacity(ranges.len());
        for (low, high) in ranges {
            match merged.last_mut() {
                Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
                _ => merged.push((low, high)),
            }
        }
        Ranges(merged)
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (i128, i128)> + '_ {
        self.0.iter().copied()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, value: i128) -> bool {
        let at = self.0.partition_point(|(low, _)| *low <= value);
        at > 0 && self.0[at - 1].1 >= value
    }

    pub fn intersect(&self, other: &Ranges) -> Ranges {
        let (mut a, mut b, mut both) = (0, 0, Vec::new());
        while let (Some(x), Some(y)) = (self.0.get(a), other.0.get(b)) {
            let (low, high) = (x.0.max(y.0), x.1.min(y.1));
            if low <= high {
                both.push((low, high));
            }
            if x.1 < y.1 { a += 1 } else { b += 1 }
        }
        Ranges(both)
    }

    /// What of `low..=high` is not in the set.
    pub fn complement(&self, low: i128, high: i128) -> Ranges {
        let mut next = Some(low);
        let mut rest = Vec::new();
        for (from, to) in &self.0 {
            let Some(start) = next else { break };
            if *from > start {
                rest.push((start, (*from - 1).min(high)));
            }
            next = to.checked_add(1).map(|after| after.max(start));
        }
        if let Some(start) = next {
            rest.push((start, high));
        }
        Ranges::new(rest)
    }

    pub fn first(&self) -> Option<i128> {
        self.0.first().map(|range| range.0)
    }
}

/// A set of IPv4 and IPv6 addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Addresses {
    pub v4: Ranges,
    pub v6: Ranges,
}

const V4_MAX: i128 = u32::MAX as i128;

/// Addresses of version 6 in their order, moved so that they fit a signed number.
fn v6_key(address: u128) -> i128 {
    (address ^ (1 << 127)) as i128
}

impl Addresses {
    pub fn all() -> Self {
        Addresses { v4: Ranges::new(vec![(0, V4_MAX)]), v6: Ranges::new(vec![(i128::MIN, i128::MAX)]) }
    }

    pub fn new(networks: &[IpNet]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for net in networks {
            match net {
                IpNet::V4(n) => v4.push((i128::from(n.network().to_bits()), i128::from(n.broadcast().to_bits()))),
                IpNet::V6(n) => v6.push((v6_key(n.network().to_bits()), v6_key(n.broadcast().to_bits()))),
            }
        }
        Addresses { v4: Ranges::new(v4), v6: Ranges::new(v6) }
    }

    pub fn intersect(&self, other: &Addresses) -> Addresses {
        Addresses { v4: self.v4.intersect(&other.v4), v6: self.v6.intersect(&other.v6) }
    }

    pub fn complement(&self) -> Addresses {
        Addresses { v4: self.v4.complement(0, V4_MAX), v6: self.v6.complement(i128::MIN, i128::MAX) }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(a) => self.v4.contains(i128::from(a.to_bits())),
            IpAddr::V6(a) => self.v6.contains(v6_key(a.to_bits())),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// One IPv4 address of the set: `favourite` if it is in, else the first host of the first range.
    pub fn pick_v4(&self, favourite: Ipv4Addr) -> Option<Ipv4Addr> {
        if self.v4.contains(i128::from(favourite.to_bits())) {
            return Some(favourite);
        }
        self.v4.iter().next().map(|(low, high)| Ipv4Addr::from_bits(host_of(low, high) as u32))
    }

    /// One IPv6 address of the set, likewise.
    pub fn pick_v6(&self, favourite: Ipv6Addr) -> Option<Ipv6Addr> {
        if self.v6.contains(v6_key(favourite.to_bits())) {
            return Some(favourite);
        }
        self.v6.iter().next().map(|(low, high)| Ipv6Addr::from_bits((host_of(low, high) as u128) ^ (1 << 127)))
    }
}

/// The first address behind a network's own, where the range has one.
fn host_of(low: i128, high: i128) -> i128 {
    if low < high { low + 1 } else { low }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_merge_meet_and_leave_gaps() {
        let set = Ranges::new(vec![(5, 9), (1, 3), (4, 4), (20, 10), (30, 40)]);
        assert_eq!(set.iter().collect::<Vec<_>>(), [(1, 9), (30, 40)]);
        assert_eq!(set.complement(0, 50).iter().collect::<Vec<_>>(), [(0, 0), (10, 29), (41, 50)]);
        assert_eq!(set.intersect(&Ranges::new(vec![(8, 31)])).iter().collect::<Vec<_>>(), [(8, 9), (30, 31)]);
        assert!(set.contains(9) && !set.contains(10) && set.contains(30) && !set.contains(0));
        let all = Ranges::new(vec![(i128::MIN, i128::MAX)]);
        assert!(all.complement(i128::MIN, i128::MAX).is_empty());
        assert_eq!(Ranges::default().complement(3, 3).iter().collect::<Vec<_>>(), [(3, 3)]);
    }

    #[test]
    fn addresses_of_both_families() {
        let set = Addresses::new(&["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
        for (address, within) in [
            ("10.255.255.255", true),
            ("11.0.0.0", false),
            ("2001:db8:ffff::1", true),
            ("2001:db7:ffff::1", false),
            ("::ffff:10.0.0.1", false),
        ] {
            assert_eq!(set.contains(address.parse().unwrap()), within, "{address}");
            assert_eq!(set.complement().contains(address.parse().unwrap()), !within, "{address}");
        }
        assert_eq!(set.pick_v4("192.0.2.1".parse().unwrap()), Some("10.0.0.1".parse().unwrap()));
        assert_eq!(set.pick_v6("2001:db8::5".parse().unwrap()), Some("2001:db8::5".parse().unwrap()));
        assert!(set.intersect(&set.complement()).is_empty());
    }
}
