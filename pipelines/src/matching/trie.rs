//! Which of many prefixes (or, read backwards, suffixes) a text has: a trie that takes up to seven bytes a step.
//!
//! What a decision costs here is the cache lines that it touches, not its instructions. So a node compares at once what
//! all its keys have in common, and finds the bytes by which they differ in a hash table, a line of which holds whole
//! steps together with what they lead to: among ten thousand prefixes `/app0/` … `/app9999/` one line is read that ten
//! would not have needed.

use super::index::List;
use super::terms::Case;

/// Most bytes of a step: with their number they fill eight bytes.
const STRIDE: usize = 7;
/// The top bit of each byte.
const TOPS: u64 = 0x8080_8080_8080_8080;

/// From which end a text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Forward,
    Backward,
}

/// The trie.
#[derive(Debug)]
pub(super) struct Trie {
    nodes: Vec<Node>,
    /// The tables of the nodes, one behind the other.
    lines: Vec<Line>,
    /// Eight bytes at a time as [`Trie::bytes`] gives them; the last of a label filled up with zeros.
    labels: Vec<u64>,
    case: Case,
    direction: Direction,
}

/// Keys that agree so far.
#[derive(Debug, Clone, Copy, Default)]
struct Node {
    /// What all of them have next: where in `labels`, and how many bytes.
    label: (u32, u32),
    /// Under the key that ends behind the label.
    list: Option<List>,
    /// Number of the table's first slot.
    slots: u32,
    /// Slots less one; their number is a power of two.
    mask: u32,
    /// The top bit of byte n is set if the table has steps of n + 1 bytes.
    lengths: u64,
    /// Likewise, if they do not all end with the same byte.
    varied: u64,
    /// Byte n is the last byte of the steps of n + 1 bytes, if that is the same in all.
    last: u64,
}

/// A step: its bytes from the lowest on, and in the highest their number. 0 is none, and ends a search.
#[derive(Debug, Clone, Copy)]
struct Slot {
    step: u64,
    target: Target,
}

/// Where a step leads.
#[derive(Debug, Clone, Copy)]
enum Target {
    /// To the end of a key, and no further.
    List(List),
    /// On; such a step has [`STRIDE`] bytes.
    Node(u32),
}

/// Two slots, so that no slot lies across two cache lines.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line([Slot; 2]);

const EMPTY: Slot = Slot { step: 0, target: Target::Node(0) };

impl Trie {
    /// From keys (in lower case if `case` says folded; no two alike) and what stands under each.
    pub(super) fn new(keys: impl IntoIterator<Item = (Box<[u8]>, List)>, case: Case, direction: Direction) -> Self {
        let mut keys: Vec<(Box<[u8]>, List)> = keys.into_iter().collect();
        if direction == Direction::Backward {
            keys.iter_mut().for_each(|(key, _)| key.reverse());
        }
        keys.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut trie = Self { nodes: vec![Node::default()], lines: Vec::new(), labels: Vec::new(), case, direction };
        // Nodes yet to be made, the keys that reach them, and how much of these the way there has used up.
        let mut open = vec![(0, &keys[..], 0)];
        while let Some((node, keys, depth)) = open.pop() {
            let ([(low, _), ..], [.., (high, _)]) = (keys, keys) else { continue };
            let common = low[depth..].iter().zip(&high[depth..]).take_while(|(a, b)| a == b).count();
            let label = trie.label(&low[depth..depth + common]);
            let depth = depth + common;
            let (list, mut rest) = match keys {
                [(key, list), rest @ ..] if key.len() == depth => (Some(*list), rest),
                _ => (None, keys),
            };
            let mut steps = Vec::new();
            while let [(key, list), ..] = rest {
                let bytes = &key[depth..key.len().min(depth + STRIDE)];
                let same = match bytes.len() {
                    STRIDE => rest.partition_point(|(key, _)| key[depth..].starts_with(bytes)),
                    _ => 1,
                };
                let target = if same == 1 && key.len() == depth + bytes.len() {
                    Target::List(*list)
                } else {
                    let next = trie.nodes.len();
                    trie.nodes.push(Node::default());
                    open.push((next, &rest[..same], depth + STRIDE));
                    Target::Node(next as u32)
                };
                steps.push(Slot { step: step(word(bytes), bytes.len()), target });
                rest = &rest[same..];
            }
            trie.nodes[node] = Node { label, list, ..trie.table(&steps) };
        }
        trie
    }

    fn label(&mut self, bytes: &[u8]) -> (u32, u32) {
        let start = self.labels.len() as u32;
        self.labels.extend(bytes.chunks(8).map(word));
        (start, bytes.len() as u32)
    }

    /// A node with a table of these steps.
    fn table(&mut self, steps: &[Slot]) -> Node {
        if steps.is_empty() {
            return Node::default();
        }
        let mask = (steps.len() + steps.len() / 2).next_power_of_two().max(2) - 1;
        let mut node = Node { slots: 2 * self.lines.len() as u32, mask: mask as u32, ..Node::default() };
        self.lines.resize(self.lines.len() + mask.div_ceil(2), Line([EMPTY; 2]));
        for slot in steps {
            let at = 8 * ((slot.step >> 56) - 1);
            let (top, last) = (0x80 << at, slot.step & 0xff << at);
            if node.lengths & top != 0 && node.last & 0xff << at != last {
                node.varied |= top;
            }
            node.lengths |= top;
            node.last = node.last & !(0xff << at) | last;
            // At least a quarter of the slots is empty.
            let place = node.search(slot.step).find(|&(line, half)| self.lines[line].0[half].step == 0);
            if let Some((line, half)) = place {
                self.lines[line].0[half] = *slot;
            }
        }
        node
    }

    /// Calls `found` for each key that the text begins (or ends) with.
    pub(super) fn walk(&self, text: &[u8], mut found: impl FnMut(List)) {
        let mut node = &self.nodes[0];
        let mut depth = 0;
        loop {
            let (start, length) = (node.label.0 as usize, node.label.1 as usize);
            if length > text.len() - depth || !self.has(text, depth, start, length) {
                return;
            }
            depth += length;
            if let Some(list) = node.list {
                found(list);
            }
            if depth == text.len() {
                return;
            }
            let bytes = self.bytes(text, depth);
            let mut ends = node.ends(bytes) & TOPS >> (8 * (8 - (text.len() - depth).min(8)));
            let mut next = None;
            while ends != 0 {
                let length = ends.trailing_zeros() as usize / 8 + 1;
                ends &= ends - 1;
                match self.find(node, step(bytes, length)) {
                    Some(Target::List(list)) => found(list),
                    Some(Target::Node(node)) => next = Some(node),
                    None => {}
                }
            }
            let Some(next) = next else { return };
            depth += STRIDE;
            node = &self.nodes[next as usize];
        }
    }

    /// Whether a label stands at a place of the text, which goes on for as long as it.
    fn has(&self, text: &[u8], depth: usize, start: usize, length: usize) -> bool {
        let words = &self.labels[start..start + length.div_ceil(8)];
        words.iter().enumerate().all(|(n, word)| {
            let differ = self.bytes(text, depth + 8 * n) ^ word;
            differ << (8 * (8 - (length - 8 * n).min(8))) == 0
        })
    }

    /// Eight bytes of a text behind its first `depth` (less than it has), in the order of reading from the lowest on and
    /// in lower case if need be; zeros where the text is used up.
    fn bytes(&self, text: &[u8], depth: usize) -> u64 {
        let bytes = match self.direction {
            Direction::Forward => {
                let rest = &text[depth..];
                match (rest.first_chunk(), text.last_chunk()) {
                    (Some(chunk), _) => u64::from_le_bytes(*chunk),
                    (None, Some(chunk)) => u64::from_le_bytes(*chunk) >> (8 * (8 - rest.len())),
                    (None, None) => word(rest),
                }
            }
            Direction::Backward => {
                let rest = &text[..text.len() - depth];
                match (rest.last_chunk(), text.first_chunk()) {
                    (Some(chunk), _) => u64::from_be_bytes(*chunk),
                    (None, Some(chunk)) => u64::from_be_bytes(*chunk) >> (8 * (8 - rest.len())),
                    (None, None) => rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)),
                }
            }
        };
        if self.case == Case::Folded { lower(bytes) } else { bytes }
    }

    fn find(&self, node: &Node, step: u64) -> Option<Target> {
        for (line, half) in node.search(step) {
            let slot = &self.lines[line].0[half];
            if slot.step == step {
                return Some(slot.target);
            }
            if slot.step == 0 {
                return None;
            }
        }
        None
    }
}

impl Node {
    /// The lengths of steps that these bytes could begin with, judged by their last bytes: as [`Node::lengths`].
    fn ends(&self, bytes: u64) -> u64 {
        let differ = bytes ^ self.last;
        let same = !(((differ & !TOPS) + !TOPS) | differ) & TOPS;
        (same | self.varied) & self.lengths
    }

    /// Where a step may be, in the order of looking: the other slot of a line is the next. Line and slot of it.
    fn search(&self, step: u64) -> impl Iterator<Item = (usize, usize)> + use<> {
        // Folded multiplication: the high half of the product has something of every bit.
        let product = u128::from(step) * 0x9e37_79b9_7f4a_7c15;
        let home = (product >> 64) as u32 ^ product as u32;
        let (first, mask) = (self.slots as usize, self.mask);
        (0..=mask).map(move |turn| {
            let slot = first + ((home ^ turn) & mask) as usize;
            (slot / 2, slot % 2)
        })
    }
}

/// At most eight bytes, the first the lowest.
fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// The first `length` bytes, 1 to [`STRIDE`], as a step.
fn step(bytes: u64, length: usize) -> u64 {
    bytes & !(u64::MAX << (8 * length)) | (length as u64) << 56
}

/// Eight bytes with ASCII letters in lower case.
fn lower(bytes: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let low = bytes & !TOPS;
    let from_a = low + ONES * (0x80 - b'A' as u64);
    let beyond_z = low + ONES * (0x7f - b'Z' as u64);
    bytes | (from_a & !beyond_z & !bytes & TOPS) >> 2
}

#[cfg(test)]
mod tests {
    use super::super::index::Posting;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// The numbers of the keys, in their order, that a text has.
    fn hits(keys: &BTreeSet<Vec<u8>>, case: Case, direction: Direction, text: &[u8]) -> Vec<u32> {
        let numbered = keys.iter().zip(0..).map(|(key, n)| (key.as_slice().into(), List::One(Posting::new(n, n))));
        let trie = Trie::new(numbered, case, direction);
        let mut hits = Vec::new();
        trie.walk(text, |list| hits.extend(list.of(&[]).iter().map(|posting| posting.rule)));
        hits.sort_unstable();
        hits
    }

    fn expected(keys: &BTreeSet<Vec<u8>>, case: Case, direction: Direction, text: &[u8]) -> Vec<u32> {
        let text = if case == Case::Folded { text.to_ascii_lowercase() } else { text.to_vec() };
        let fits = |key: &[u8]| match direction {
            Direction::Forward => text.starts_with(key),
            Direction::Backward => text.ends_with(key),
        };
        keys.iter().zip(0..).filter(|(key, _)| fits(key)).map(|(_, n)| n).collect()
    }

    fn check(keys: &[Vec<u8>], text: &[u8]) {
        for case in [Case::Exact, Case::Folded] {
            let fold = |key: &Vec<u8>| if case == Case::Folded { key.to_ascii_lowercase() } else { key.clone() };
            let keys: BTreeSet<Vec<u8>> = keys.iter().map(fold).collect();
            for direction in [Direction::Forward, Direction::Backward] {
                let (got, wanted) = (hits(&keys, case, direction, text), expected(&keys, case, direction, text));
                assert_eq!(got, wanted, "{case:?} {direction:?} {keys:?} {text:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn finds_exactly_the_keys_that_fit(
            keys in proptest::collection::vec("[abA]{0,6}", 0..40),
            text in "[abA]{0,10}",
        ) {
            check(&keys.into_iter().map(String::into_bytes).collect::<Vec<_>>(), text.as_bytes());
        }

        /// Keys that are pieces of the text and of each other, over several steps, of bytes where folding has its edges
        /// and of zeros, with which unused room is filled.
        #[test]
        fn long_keys_and_odd_bytes(
            text in proptest::collection::vec(proptest::sample::select(&b"\0\x01\x07@AZ[`az{\x7f\x80\xc1\xda\xff"[..]), 0..60),
            cuts in proptest::collection::vec((0_usize..60, 0_usize..60, any::<bool>()), 0..60),
        ) {
            let keys: Vec<Vec<u8>> = cuts
                .into_iter()
                .map(|(place, zeros, front)| {
                    let place = place.min(text.len());
                    let mut key = if front { text[..place].to_vec() } else { text[place..].to_vec() };
                    // Some fit but for what follows.
                    key.resize(key.len() + zeros / 50, 0);
                    key
                })
                .collect();
            check(&keys, &text);
        }
    }

    #[test]
    fn ten_thousand_keys_and_texts_that_just_miss_them() {
        let keys: BTreeSet<Vec<u8>> = (0..10_000).map(|n| format!("/app{n}/").into_bytes()).collect();
        let trie = Trie::new(
            keys.iter().zip(0..).map(|(key, n)| (key.as_slice().into(), List::One(Posting::new(n, n)))),
            Case::Exact,
            Direction::Forward,
        );
        let count = |text: &str| {
            let mut count = 0;
            trie.walk(text.as_bytes(), |_| count += 1);
            count
        };
        for n in 0..10_000 {
            assert_eq!(count(&format!("/app{n}/page")), 1, "{n}");
            assert_eq!(count(&format!("/app{n}")), 0, "{n}");
            assert_eq!(count(&format!("/app0{n}/")), 0, "{n}");
        }
        // No node but the root, and a table that is half full at least.
        assert_eq!(trie.nodes.len(), 1);
        assert!(trie.lines.len() * 2 <= 20_000);
    }

    #[test]
    fn folding_eight_bytes_is_folding_each() {
        for byte in 0..=u8::MAX {
            let text = [byte, b'A', byte, 0xff, byte, 0, b'Z', byte];
            assert_eq!(lower(word(&text)), word(&text.to_ascii_lowercase()), "{byte}");
        }
    }
}
