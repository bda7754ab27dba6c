//! Terms after compilation: one test of one value, cheap enough to run alone.

use std::net::IpAddr;

use hashbrown::HashSet;
use ipnet::IpNet;
use memchr::memmem;

use super::number::Number;

/// What is known of a variable at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field<'a> {
    /// The bytes that say so have not arrived.
    Unknown,
    /// The request has no such thing.
    Absent,
    /// A text value.
    Text(&'a [u8]),
    /// A number.
    Number(Number),
    /// An address.
    Address(IpAddr),
}

impl<'a> Field<'a> {
    /// The value as a number, if it is one.
    pub(super) fn number(self) -> Option<Number> {
        match self {
            Self::Text(text) => Number::parse(text),
            Self::Number(number) => Some(number),
            Self::Unknown | Self::Absent | Self::Address(_) => None,
        }
    }

    /// The value as an address, if it is one (`X-Forwarded-For` and `Host` carry them as text).
    pub(super) fn address(self) -> Option<IpAddr> {
        match self {
            Self::Text(text) if text.len() <= 45 => std::str::from_utf8(text.trim_ascii()).ok()?.parse().ok(),
            Self::Address(address) => Some(address),
            _ => None,
        }
    }

    pub(super) fn text(self) -> Option<&'a [u8]> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Closed intervals of numbers, ascending, apart from each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Ranges(Vec<(Number, Number)>);

impl Ranges {
    pub(super) fn new(mut ranges: Vec<(Number, Number)>) -> Self {
        ranges.retain(|(low, high)| low <= high);
        ranges.sort_unstable();
        let mut merged: Vec<(Number, Number)> = Vec::with_capacity(ranges.len());
        for (low, high) in ranges {
            match merged.last_mut() {
                Some(last) if low <= last.1.next() => last.1 = last.1.max(high),
                _ => merged.push((low, high)),
            }
        }
        Self(merged)
    }

    pub(super) fn as_slice(&self) -> &[(Number, Number)] {
        &self.0
    }

    pub(super) fn contain(&self, number: Number) -> bool {
        let after = self.0.partition_point(|(low, _)| *low <= number);
        after > 0 && self.0[after - 1].1 >= number
    }

    pub(super) fn intersect(&self, other: &Self) -> Self {
        let (mut i, mut j, mut both) = (0, 0, Vec::new());
        while let (Some(a), Some(b)) = (self.0.get(i), other.0.get(j)) {
            let (low, high) = (a.0.max(b.0), a.1.min(b.1));
            if low <= high {
                both.push((low, high));
            }
            if a.1 < b.1 { i += 1 } else { j += 1 }
        }
        Self(both)
    }
}

/// How two texts are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Case {
    /// Byte by byte.
    Exact,
    /// ASCII letters folded; the constant is held in lower case.
    Folded,
}

/// One test. Identical tests of one variable are one term.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Test {
    Exists,
    /// Equal to one of these (sorted).
    Texts(Vec<Box<[u8]>>, Case),
    Numbers(Ranges),
    /// In one of these.
    Networks(Vec<IpNet>),
    Prefix(Box<[u8]>, Case),
    Suffix(Box<[u8]>, Case),
    Contains(Box<[u8]>, Case),
    /// A pattern of the program's regex automaton.
    Regex(u32),
}

/// A [`Test`] made ready to run.
#[derive(Debug)]
pub(super) enum Runner {
    Exists,
    Text(Box<[u8]>, Case),
    Texts(HashSet<Box<[u8]>>, Case),
    Numbers(Ranges),
    Networks(Vec<IpNet>),
    Prefix(Box<[u8]>, Case),
    Suffix(Box<[u8]>, Case),
    Contains(Box<memmem::Finder<'static>>),
    ContainsFolded(Box<[u8]>),
    Regex(u32),
}

impl Runner {
    pub(super) fn new(test: &Test) -> Self {
        match test {
            Test::Exists => Self::Exists,
            Test::Texts(texts, case) if texts.len() == 1 => Self::Text(texts[0].clone(), *case),
            Test::Texts(texts, case) => Self::Texts(texts.iter().cloned().collect(), *case),
            Test::Numbers(ranges) => Self::Numbers(ranges.clone()),
            Test::Networks(networks) => Self::Networks(networks.clone()),
            Test::Prefix(text, case) => Self::Prefix(text.clone(), *case),
            Test::Suffix(text, case) => Self::Suffix(text.clone(), *case),
            Test::Contains(text, Case::Exact) => Self::Contains(Box::new(memmem::Finder::new(text).into_owned())),
            Test::Contains(text, Case::Folded) => Self::ContainsFolded(text.clone()),
            Test::Regex(pattern) => Self::Regex(*pattern),
        }
    }

    /// Whether a present value passes. `fold` is room for a folded copy; `regex` runs one pattern.
    pub(super) fn passes(&self, field: Field<'_>, fold: &mut Vec<u8>, regex: impl FnOnce(u32, &[u8]) -> bool) -> bool {
        let on_text = |check: &dyn Fn(&[u8]) -> bool| field.text().is_some_and(check);
        match self {
            Self::Exists => true,
            Self::Text(text, Case::Exact) => on_text(&|value| *value == **text),
            Self::Text(text, Case::Folded) => on_text(&|value| value.eq_ignore_ascii_case(text)),
            Self::Texts(texts, Case::Exact) => on_text(&|value| texts.contains(value)),
            Self::Texts(texts, Case::Folded) => field.text().is_some_and(|value| texts.contains(folded(value, fold))),
            Self::Numbers(ranges) => field.number().is_some_and(|number| ranges.contain(number)),
            Self::Networks(networks) => field.address().is_some_and(|a| networks.iter().any(|n| n.contains(&a))),
            Self::Prefix(text, Case::Exact) => on_text(&|value| value.starts_with(text)),
            Self::Prefix(text, Case::Folded) => {
                on_text(&|value| value.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text)))
            }
            Self::Suffix(text, Case::Exact) => on_text(&|value| value.ends_with(text)),
            Self::Suffix(text, Case::Folded) => on_text(&|value| {
                value.len() >= text.len() && value[value.len() - text.len()..].eq_ignore_ascii_case(text)
            }),
            Self::Contains(finder) => on_text(&|value| finder.find(value).is_some()),
            Self::ContainsFolded(text) => {
                field.text().is_some_and(|value| memmem::find(folded(value, fold), text).is_some())
            }
            Self::Regex(pattern) => field.text().is_some_and(|value| regex(*pattern, value)),
        }
    }
}

/// The value with ASCII letters in lower case, in `room`.
pub(super) fn folded<'r>(value: &[u8], room: &'r mut Vec<u8>) -> &'r [u8] {
    room.clear();
    room.extend(value.iter().map(u8::to_ascii_lowercase));
    room
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(list: &[(i64, i64)]) -> Ranges {
        Ranges::new(list.iter().map(|&(low, high)| (low.into(), high.into())).collect())
    }

    #[test]
    fn ranges_merge_and_intersect() {
        let merged = ranges(&[(5, 9), (1, 3), (8, 12), (20, 10)]);
        assert_eq!(merged, ranges(&[(1, 3), (5, 12)]));
        assert!(merged.contain(3.into()) && !merged.contain(4.into()) && merged.contain(12.into()));
        assert!(!merged.contain(13.into()) && !merged.contain(0.into()));
        assert_eq!(merged.intersect(&ranges(&[(2, 6), (11, 40)])), ranges(&[(2, 3), (5, 6), (11, 12)]));
        assert!(merged.intersect(&ranges(&[(4, 4)])).as_slice().is_empty());
    }

    #[test]
    fn runners_by_kind() {
        let run = |test: Test, field| Runner::new(&test).passes(field, &mut Vec::new(), |_, _| false);
        let text = |t: &str| t.as_bytes().into();
        assert!(run(Test::Suffix(text(".gif"), Case::Folded), Field::Text(b"/A.GIF")));
        assert!(!run(Test::Suffix(text("long.gif"), Case::Folded), Field::Text(b"gif")));
        assert!(run(Test::Contains(text("lcs1"), Case::Folded), Field::Text(b"/LCS1/")));
        assert!(run(Test::Texts(vec![text("a"), text("b")], Case::Folded), Field::Text(b"B")));
        assert!(run(Test::Networks(vec!["10.0.0.0/8".parse().unwrap()]), Field::Text(b" 10.1.2.3")));
        assert!(!run(Test::Networks(vec!["10.0.0.0/8".parse().unwrap()]), Field::Text(b"ten")));
        assert!(run(Test::Numbers(ranges(&[(5, 5)])), Field::Text(b"5.0")));
        assert!(!run(Test::Numbers(ranges(&[(5, 5)])), Field::Text(b"five")));
    }
}
