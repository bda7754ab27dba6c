//! Which of many prefixes (or, read backwards, suffixes) a text has: a radix tree in two flat arrays.

use wide::u8x16;

use super::index::List;
use super::terms::Case;

/// Bytes searched at a time.
const LANE: usize = 16;

/// From which end a text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Forward,
    Backward,
}

/// The tree. Children of a node stand in a row, so that their first bytes can be searched as one slice.
#[derive(Debug)]
pub(super) struct Trie {
    nodes: Vec<Node>,
    /// First byte of each node's label, and [`LANE`] more.
    firsts: Vec<u8>,
    labels: Vec<u8>,
    case: Case,
    direction: Direction,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    label: (u32, u32),
    children: (u32, u32),
    list: Option<List>,
}

impl Trie {
    /// From keys (in lower case if `case` says folded) and what stands under each.
    pub(super) fn new(keys: impl IntoIterator<Item = (Box<[u8]>, List)>, case: Case, direction: Direction) -> Self {
        let mut keys: Vec<(Box<[u8]>, List)> = keys.into_iter().collect();
        if direction == Direction::Backward {
            keys.iter_mut().for_each(|(key, _)| key.reverse());
        }
        keys.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let root = Node { label: (0, 0), children: (0, 0), list: None };
        let mut trie = Self { nodes: vec![root], firsts: vec![0], labels: Vec::new(), case, direction };
        // Keys that reach a node, and how much of them its path has used up.
        let mut open = vec![(0, 0..keys.len(), 0)];
        while let Some((node, mut range, depth)) = open.pop() {
            if keys.get(range.start).is_some_and(|(key, _)| !range.is_empty() && key.len() == depth) {
                trie.nodes[node].list = Some(keys[range.start].1);
                range.start += 1;
            }
            let first_child = trie.nodes.len();
            while !range.is_empty() {
                let byte = keys[range.start].0[depth];
                let same = keys[range.clone()].partition_point(|(key, _)| key[depth] == byte);
                let group = range.start..range.start + same;
                let (low, high) = (&keys[group.start].0[depth..], &keys[group.end - 1].0[depth..]);
                let common = low.iter().zip(high).take_while(|(a, b)| a == b).count();
                let start = trie.labels.len() as u32;
                trie.labels.extend_from_slice(&low[..common]);
                open.push((trie.nodes.len(), group.clone(), depth + common));
                trie.nodes.push(Node { label: (start, start + common as u32), ..root });
                trie.firsts.push(byte);
                range.start = group.end;
            }
            trie.nodes[node].children = (first_child as u32, trie.nodes.len() as u32);
        }
        trie.firsts.resize(trie.nodes.len() + LANE, 0);
        trie
    }

    /// Calls `found` for each key that the text begins (or ends) with.
    pub(super) fn walk(&self, text: &[u8], mut found: impl FnMut(List)) {
        let mut node = self.nodes[0];
        let mut depth = 0;
        let at = |place: usize| {
            let byte = match self.direction {
                Direction::Forward => text[place],
                Direction::Backward => text[text.len() - 1 - place],
            };
            if self.case == Case::Folded { byte.to_ascii_lowercase() } else { byte }
        };
        loop {
            if let Some(list) = node.list {
                found(list);
            }
            if depth == text.len() {
                return;
            }
            let (start, end) = (node.children.0 as usize, node.children.1 as usize);
            let Some(child) = search(&self.firsts, start, end, at(depth)) else { return };
            node = self.nodes[child];
            let label = &self.labels[node.label.0 as usize..node.label.1 as usize];
            if label.len() > text.len() - depth {
                return;
            }
            let same = match (self.direction, self.case) {
                (Direction::Forward, Case::Exact) if label.len() > 8 => text[depth..depth + label.len()] == *label,
                _ => (1..label.len()).all(|i| at(depth + i) == label[i]),
            };
            if !same {
                return;
            }
            depth += label.len();
        }
    }
}

/// Where in `bytes[range]`, which holds no byte twice, a byte stands. `bytes` goes on for at least a lane behind it.
fn search(bytes: &[u8], start: usize, end: usize, byte: u8) -> Option<usize> {
    let mut at = start;
    while at < end {
        let lane = bytes.get(at..at + LANE).and_then(|lane| <[u8; LANE]>::try_from(lane).ok())?;
        let hits = u8x16::new(lane).simd_eq(u8x16::splat(byte)).to_bitmask();
        let hit = at + hits.trailing_zeros() as usize;
        if hits != 0 {
            return (hit < end).then_some(hit);
        }
        at += LANE;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hits(trie: &Trie, text: &[u8]) -> Vec<u32> {
        let mut hits = Vec::new();
        trie.walk(text, |list| hits.push(list.start));
        hits.sort_unstable();
        hits
    }

    proptest! {
        #[test]
        fn finds_exactly_the_keys_that_fit(
            keys in proptest::collection::btree_set("[abA]{0,6}", 0..40),
            text in "[abA]{0,10}",
            folded: bool,
            backward: bool,
        ) {
            let case = if folded { Case::Folded } else { Case::Exact };
            let fold = |s: &str| if folded { s.to_ascii_lowercase() } else { s.to_owned() };
            let keys: std::collections::BTreeSet<String> = keys.iter().map(|k| fold(k)).collect();
            let numbered = || keys.iter().zip(0_u32..);
            let direction = if backward { Direction::Backward } else { Direction::Forward };
            let trie = Trie::new(
                numbered().map(|(key, n)| (key.as_bytes().into(), List { start: n, end: n + 1 })),
                case,
                direction,
            );
            let text = &text;
            let fits = |key: &str| if backward { fold(text).ends_with(key) } else { fold(text).starts_with(key) };
            let expected: Vec<u32> = numbered().filter(|(key, _)| fits(key)).map(|(_, n)| n).collect();
            prop_assert_eq!(hits(&trie, text.as_bytes()), expected);
        }
    }
}
