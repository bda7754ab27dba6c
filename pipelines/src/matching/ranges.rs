//! Which of many number ranges hold a number, and which of many networks hold an address.

use std::net::IpAddr;

use ipnet::IpNet;

use super::index::List;
use super::number::Number;

/// A segment tree: a point lies in `log n` nodes, each with the list of the ranges that cover it whole.
#[derive(Debug)]
pub(super) struct RangeTree {
    /// Where slots begin, ascending. Slot `i` ends where slot `i + 1` begins; the last has no end.
    points: Vec<Number>,
    nodes: Vec<Option<List>>,
}

/// Range ends, and which nodes each range goes to; lists are filled in once it is known what lies in each node.
pub(super) struct RangePlan {
    points: Vec<Number>,
}

impl RangePlan {
    pub(super) fn new<'a>(ranges: impl IntoIterator<Item = &'a (Number, Number)>) -> Self {
        let mut points = Vec::new();
        for &(low, high) in ranges {
            points.push(low);
            if high != Number::MAX {
                points.push(high.next());
            }
        }
        points.sort_unstable();
        points.dedup();
        Self { points }
    }

    /// The nodes that together cover the range.
    pub(super) fn nodes(&self, (low, high): (Number, Number)) -> Vec<usize> {
        let slots = self.points.len();
        let slot = |number| self.points.partition_point(|p| *p < number);
        let mut left = slot(low) + slots;
        let mut right = if high == Number::MAX { slots } else { slot(high.next()) } + slots;
        let mut nodes = Vec::new();
        while left < right {
            if left % 2 == 1 {
                nodes.push(left);
                left += 1;
            }
            if right % 2 == 1 {
                right -= 1;
                nodes.push(right);
            }
            left /= 2;
            right /= 2;
        }
        nodes
    }

    pub(super) fn tree(self, lists: impl IntoIterator<Item = (usize, List)>) -> RangeTree {
        let mut nodes = vec![None; self.points.len() * 2];
        for (node, list) in lists {
            nodes[node] = Some(list);
        }
        RangeTree { points: self.points, nodes }
    }
}

impl RangeTree {
    /// Calls `found` with lists that together name every range that holds the number.
    pub(super) fn walk(&self, number: Number, mut found: impl FnMut(List)) {
        let after = self.points.partition_point(|p| *p <= number);
        if after == 0 {
            return;
        }
        let mut node = after - 1 + self.points.len();
        while node > 0 {
            if let Some(list) = self.nodes[node] {
                found(list);
            }
            node /= 2;
        }
    }
}

/// Longest-prefix table: the innermost network of every stretch of addresses, and each network's next outer one.
#[derive(Debug)]
pub(super) struct Networks {
    v4: Family,
    v6: Family,
}

#[derive(Debug, Default)]
struct Family {
    /// First address of each stretch, and its innermost network.
    stretches: Vec<(u128, Option<u32>)>,
    networks: Vec<(List, Option<u32>)>,
}

impl Networks {
    pub(super) fn new(networks: impl IntoIterator<Item = (IpNet, List)>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (network, list) in networks {
            let range = (number(network.network()), number(network.broadcast()));
            match network {
                IpNet::V4(_) => v4.push((range, list)),
                IpNet::V6(_) => v6.push((range, list)),
            }
        }
        Self { v4: Family::new(v4), v6: Family::new(v6) }
    }

    pub(super) fn walk(&self, address: IpAddr, mut found: impl FnMut(List)) {
        let family = match address {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        let after = family.stretches.partition_point(|(first, _)| *first <= number(address));
        let mut network = after.checked_sub(1).and_then(|stretch| family.stretches[stretch].1);
        while let Some(index) = network {
            let (list, outer) = family.networks[index as usize];
            found(list);
            network = outer;
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

impl Family {
    fn new(mut networks: Vec<((u128, u128), List)>) -> Self {
        // Outer before inner where both begin at one address.
        networks.sort_unstable_by_key(|((first, last), _)| (*first, std::cmp::Reverse(*last)));
        let mut family = Self::default();
        let mut open: Vec<(u128, u32)> = Vec::new();
        for ((first, last), list) in networks {
            family.close(&mut open, Some(first));
            let index = family.networks.len() as u32;
            family.networks.push((list, open.last().map(|(_, outer)| *outer)));
            family.stretch(first, Some(index));
            open.push((last, index));
        }
        family.close(&mut open, None);
        family
    }

    /// Ends the open networks that do not reach `until`.
    fn close(&mut self, open: &mut Vec<(u128, u32)>, until: Option<u128>) {
        while let Some(&(last, _)) = open.last() {
            if until.is_some_and(|until| last >= until) {
                return;
            }
            open.pop();
            if let Some(next) = last.checked_add(1) {
                self.stretch(next, open.last().map(|(_, outer)| *outer));
            }
        }
    }

    fn stretch(&mut self, first: u128, network: Option<u32>) {
        match self.stretches.last_mut() {
            Some(last) if last.0 == first => last.1 = network,
            _ => self.stretches.push((first, network)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::index::Posting;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    fn list(n: u32) -> List {
        List::One(Posting::new(n, n))
    }

    fn number_of(list: List) -> u32 {
        list.of(&[])[0].rule
    }

    proptest! {
        #[test]
        fn a_number_is_found_in_its_ranges(
            ranges in proptest::collection::vec((-20_i64..20, -20_i64..20), 0..20),
            open in proptest::collection::vec((-20_i64..20, any::<bool>()), 0..6),
            number in -25_i64..25,
        ) {
            let mut all: Vec<(Number, Number)> =
                ranges.iter().filter(|(l, h)| l <= h).map(|&(l, h)| (l.into(), h.into())).collect();
            for &(end, up) in &open {
                all.push(if up { (end.into(), Number::MAX) } else { (Number::MIN, end.into()) });
            }
            let plan = RangePlan::new(&all);
            let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
            for (index, range) in all.iter().enumerate() {
                plan.nodes(*range).into_iter().for_each(|node| members.entry(node).or_default().push(index));
            }
            let tree = plan.tree(members.keys().map(|&node| (node, list(node as u32))));
            let number = Number::from(number);
            let mut found: Vec<usize> = Vec::new();
            tree.walk(number, |l| found.extend(&members[&(number_of(l) as usize)]));
            found.sort_unstable();
            let expected: Vec<usize> =
                (0..all.len()).filter(|&i| all[i].0 <= number && number <= all[i].1).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn an_address_is_found_in_its_networks(
            networks in proptest::collection::btree_set((0_u32..64, 24_u8..=32), 0..30),
            address in 0_u32..80,
        ) {
            // The last 256 addresses there are, so that the end of the space is covered too.
            let at = |n: u32| Ipv4Addr::from(0xffff_ff00_u32 | (n * 4));
            let networks: std::collections::BTreeSet<IpNet> = networks
                .iter()
                .map(|&(n, length)| ipnet::Ipv4Net::new(at(n), length).unwrap().trunc().into())
                .collect();
            let table = Networks::new(networks.iter().copied().zip((0..).map(list)));
            let address = IpAddr::from(Ipv4Addr::from(0xffff_ff00_u32 + address * 3));
            let mut found = Vec::new();
            table.walk(address, |l| found.push(number_of(l)));
            found.sort_unstable();
            let expected: Vec<u32> =
                networks.iter().zip(0..).filter(|(n, _)| n.contains(&address)).map(|(_, i)| i).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
