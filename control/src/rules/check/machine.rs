//! Automata over bytes: one for each test of text, so that tests of one variable can be run side by
//! side and a text that satisfies them all be found.

use std::collections::HashMap;

use regex_automata::dfa::{Automaton as _, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::primitives::StateID;
use regex_automata::util::{start, syntax};
use regex_automata::{Anchored, MatchKind};

use super::super::ast::Relation;
use super::super::decimal::Decimal;
use super::super::pattern::{MAX_PATTERN_BYTES, MAX_PATTERN_DEPTH};
use super::number_machine::NumberMachine;

/// What is already certain of every continuation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It depends on what comes.
    Open,
    /// Accepted whatever comes.
    Always,
    /// Refused whatever comes.
    Never,
}

/// A deterministic automaton, with the bytes that it may treat differently.
#[derive(Debug)]
pub struct Machine {
    kind: Kind,
    split: ByteSplit,
}

/// States are numbers that mean something to the automaton only.
#[derive(Debug)]
enum Kind {
    /// Literal texts.
    Literals(Literals),
    /// Regular expressions.
    Regex(Box<Regex>),
    /// A comparison with a number.
    Number(NumberMachine),
}

impl Machine {
    fn new(kind: Kind) -> Self {
        let mut split = ByteSplit::new();
        match &kind {
            Kind::Literals(literals) => literals.split(&mut split),
            Kind::Regex(regex) => split.by(|byte| u16::from(regex.dfa.byte_classes().get(byte))),
            Kind::Number(_) => NumberMachine::split(&mut split),
        }
        Machine { kind, split }
    }

    /// Any of these texts, there.
    pub fn literals<'a>(texts: impl Iterator<Item = &'a [u8]>, place: Place, fold: bool) -> Self {
        Self::new(Kind::Literals(Literals::new(texts, place, fold)))
    }

    /// Any of these patterns, or why they cannot be had (too large, as a rule).
    pub fn regex(patterns: &[String], fold: bool) -> Result<Self, String> {
        Ok(Self::new(Kind::Regex(Box::new(Regex::new(patterns, fold)?))))
    }

    /// A comparison with a number.
    pub fn number(relation: Relation, constant: Decimal) -> Self {
        Self::new(Kind::Number(NumberMachine::new(relation, constant)))
    }

    pub fn start(&self) -> u32 {
        match &self.kind {
            Kind::Literals(_) => 0,
            Kind::Regex(regex) => regex.start,
            Kind::Number(number) => number.start(),
        }
    }

    pub fn step(&self, state: u32, byte: u8) -> u32 {
        match &self.kind {
            Kind::Literals(literals) => literals.step(state, byte),
            Kind::Regex(regex) => regex.step(state, byte),
            Kind::Number(number) => number.step(state, byte),
        }
    }

    /// Whether the text that ends here is accepted.
    pub fn accepts(&self, state: u32) -> bool {
        match &self.kind {
            Kind::Literals(literals) => literals.accepts(state),
            Kind::Regex(regex) => regex.accepts(state),
            Kind::Number(number) => number.accepts(state),
        }
    }

    pub fn fate(&self, state: u32) -> Fate {
        match &self.kind {
            Kind::Literals(_) | Kind::Regex(_) if state == ALWAYS => Fate::Always,
            Kind::Literals(_) if state == NEVER => Fate::Never,
            Kind::Regex(regex) if regex.is_dead(state) => Fate::Never,
            Kind::Number(number) => number.fate(state),
            _ => Fate::Open,
        }
    }

    /// Whether a text that comes here is outside what the automaton decides.
    pub fn left_out(&self, state: u32) -> bool {
        matches!(self.kind, Kind::Number(_)) && NumberMachine::left_out(state)
    }

    /// The bytes that this automaton may treat differently.
    pub fn split(&self) -> &ByteSplit {
        &self.split
    }

    /// Whether `text` is accepted.
    pub fn matches(&self, text: &[u8]) -> bool {
        self.accepts(text.iter().fold(self.start(), |state, byte| self.step(state, *byte)))
    }
}

const ALWAYS: u32 = u32::MAX;
const NEVER: u32 = u32::MAX - 1;

/// Where a literal must stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    Whole,
    Start,
    End,
    Anywhere,
}

/// Any of a set of literals, as a trie (for the whole text and its start) or as a trie with failure
/// links after Aho and Corasick 1975 (for its end and anywhere).
#[derive(Debug)]
struct Literals {
    place: Place,
    fold: bool,
    next: Vec<HashMap<u8, u32>>,
    fail: Vec<u32>,
    /// Whether a literal ends in this state, itself or through a failure link.
    ends: Vec<bool>,
}

impl Literals {
    fn new<'a>(texts: impl Iterator<Item = &'a [u8]>, place: Place, fold: bool) -> Self {
        let mut trie = Literals { place, fold, next: vec![HashMap::new()], fail: vec![0], ends: vec![false] };
        for text in texts {
            let mut at = 0usize;
            for byte in text {
                let byte = if fold { byte.to_ascii_lowercase() } else { *byte };
                let fresh = trie.next.len() as u32;
                let to = *trie.next[at].entry(byte).or_insert(fresh);
                if to == fresh {
                    trie.next.push(HashMap::new());
                    trie.fail.push(0);
                    trie.ends.push(false);
                }
                at = to as usize;
            }
            trie.ends[at] = true;
        }
        if matches!(place, Place::End | Place::Anywhere) {
            trie.link();
        }
        trie
    }

    fn link(&mut self) {
        let mut queue: std::collections::VecDeque<u32> = self.next[0].values().copied().collect();
        while let Some(state) = queue.pop_front() {
            let fail = self.fail[state as usize];
            self.ends[state as usize] |= self.ends[fail as usize];
            let edges: Vec<(u8, u32)> = self.next[state as usize].iter().map(|(b, to)| (*b, *to)).collect();
            for (byte, to) in edges {
                self.fail[to as usize] = self.follow(fail, byte);
                queue.push_back(to);
            }
        }
    }

    /// The state behind the longest suffix that is in the trie.
    fn follow(&self, mut state: u32, byte: u8) -> u32 {
        loop {
            if let Some(to) = self.next[state as usize].get(&byte) {
                return *to;
            }
            if state == 0 {
                return 0;
            }
            state = self.fail[state as usize];
        }
    }

    fn step(&self, state: u32, byte: u8) -> u32 {
        if state >= NEVER {
            return state;
        }
        // An empty literal is found before the first byte.
        if self.ends[state as usize] && matches!(self.place, Place::Start | Place::Anywhere) {
            return ALWAYS;
        }
        let byte = if self.fold { byte.to_ascii_lowercase() } else { byte };
        match self.place {
            Place::Whole | Place::Start => {
                let to = self.next[state as usize].get(&byte).copied().unwrap_or(NEVER);
                let found = self.place == Place::Start && to != NEVER && self.ends[to as usize];
                if found { ALWAYS } else { to }
            }
            Place::End => self.follow(state, byte),
            Place::Anywhere => {
                let to = self.follow(state, byte);
                if self.ends[to as usize] { ALWAYS } else { to }
            }
        }
    }

    fn accepts(&self, state: u32) -> bool {
        state == ALWAYS || (state != NEVER && self.ends[state as usize])
    }

    fn split(&self, split: &mut ByteSplit) {
        let mut used = [false; 256];
        for edges in &self.next {
            for byte in edges.keys() {
                used[usize::from(*byte)] = true;
            }
        }
        split.by(|byte| {
            let byte = if self.fold { byte.to_ascii_lowercase() } else { byte };
            if used[usize::from(byte)] { u16::from(byte) + 1 } else { 0 }
        });
    }
}

/// Any of a set of patterns, found anywhere unless anchored.
#[derive(Debug)]
struct Regex {
    dfa: dense::DFA<Vec<u32>>,
    start: u32,
}

/// The most memory that the automaton of one pattern may take while it is checked, in bytes.
pub const MAX_DFA_BYTES: usize = 8 << 20;

impl Regex {
    fn new(patterns: &[String], fold: bool) -> Result<Self, String> {
        let config = dense::Config::new()
            .match_kind(MatchKind::All)
            .start_kind(StartKind::Unanchored)
            .accelerate(false)
            .dfa_size_limit(Some(MAX_DFA_BYTES))
            .determinize_size_limit(Some(2 * MAX_DFA_BYTES));
        let syntax =
            syntax::Config::new().unicode(false).utf8(false).case_insensitive(fold).nest_limit(MAX_PATTERN_DEPTH);
        let limit = MAX_PATTERN_BYTES.saturating_mul(patterns.len().max(1)).min(64 << 20);
        let nfa = thompson::Config::new().utf8(false).nfa_size_limit(Some(limit));
        let dfa = dense::Builder::new()
            .configure(config)
            .syntax(syntax)
            .thompson(nfa)
            .build_many(patterns)
            .map_err(|error| error.to_string())?;
        let start =
            dfa.start_state(&start::Config::new().anchored(Anchored::No)).map_err(|error| error.to_string())?.as_u32();
        Ok(Regex { dfa, start })
    }

    fn id(state: u32) -> StateID {
        // Every state here came from the automaton as a 32-bit number.
        StateID::new(state as usize).unwrap_or(StateID::ZERO)
    }

    fn step(&self, state: u32, byte: u8) -> u32 {
        if state == ALWAYS {
            return ALWAYS;
        }
        let to = self.dfa.next_state(Self::id(state), byte);
        // A match is reported one byte late; once found it stays found.
        if self.dfa.is_match_state(to) { ALWAYS } else { to.as_u32() }
    }

    fn accepts(&self, state: u32) -> bool {
        state == ALWAYS || self.dfa.is_match_state(self.dfa.next_eoi_state(Self::id(state)))
    }

    fn is_dead(&self, state: u32) -> bool {
        self.dfa.is_dead_state(Self::id(state))
    }
}

/// Classes of bytes that no automaton of a group tells apart.
#[derive(Debug, Clone)]
pub struct ByteSplit {
    class: [u16; 256],
    count: u16,
}

impl ByteSplit {
    /// All bytes alike.
    pub fn new() -> Self {
        ByteSplit { class: [0; 256], count: 1 }
    }

    /// Splits further: bytes with different answers are told apart from now on.
    pub fn by(&mut self, answer: impl Fn(u8) -> u16) {
        let mut answers = [0u16; 256];
        let mut order: Vec<u16> = Vec::with_capacity(256);
        for byte in 0..=255u8 {
            answers[usize::from(byte)] = answer(byte);
            order.push(answers[usize::from(byte)]);
        }
        order.sort_unstable();
        order.dedup();
        if order.len() == 1 {
            return;
        }
        let wide = answers.map(|answer| order.partition_point(|a| *a < answer) as u16);
        self.meet(&ByteSplit { class: wide, count: order.len() as u16 });
    }

    /// Splits further: bytes that `other` tells apart are told apart from now on.
    pub fn meet(&mut self, other: &ByteSplit) {
        if other.count == 1 {
            return;
        }
        // Both numberings are dense, so the pair of them is a small table.
        let mut table = vec![u16::MAX; usize::from(self.count) * usize::from(other.count)];
        let mut fresh = 0;
        for (class, theirs) in self.class.iter_mut().zip(&other.class) {
            let slot = &mut table[usize::from(*class) * usize::from(other.count) + usize::from(*theirs)];
            if *slot == u16::MAX {
                *slot = fresh;
                fresh += 1;
            }
            *class = *slot;
        }
        self.count = fresh;
    }

    /// One byte of each class, the most readable one, in order of readability.
    pub fn representatives(&self) -> Vec<u8> {
        let mut seen = [false; 256];
        let mut chosen = Vec::new();
        for byte in readable_order() {
            let class = usize::from(self.class[usize::from(byte)]);
            if !seen[class] {
                seen[class] = true;
                chosen.push(byte);
            }
        }
        chosen
    }
}

/// All bytes, those first that read well in a witness.
fn readable_order() -> impl Iterator<Item = u8> {
    let first = (b'a'..=b'z').chain(b'0'..=b'9').chain(*b"/-_.").chain(b'A'..=b'Z').chain(*b"=?&:;@,+%");
    let listed = |b: &u8| b.is_ascii_alphanumeric() || b"/-_.=?&:;@,+%".contains(b);
    let rest = (0x21..=0x7eu8).chain([b' ', b'\t']).filter(move |b| !listed(b));
    first.chain(rest).chain((0..=255u8).filter(|b| (!(0x21..=0x7e).contains(b)) && *b != b' ' && *b != b'\t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literals(texts: &[&str], place: Place, fold: bool) -> Machine {
        Machine::literals(texts.iter().map(|t| t.as_bytes()), place, fold)
    }

    #[test]
    fn literal_machines_agree_with_plain_string_functions() {
        let texts = ["", "a", "ab", "ba", "aba", "bab", "abab", "babab", "c", "abc", "cab", "aab"];
        let sets: [&[&str]; 6] = [&["ab"], &["a", "bab"], &["abab", "ba", "c"], &[""], &["aab", "ab"], &[]];
        for set in sets {
            for text in texts {
                let b = text.as_bytes();
                let check = |place, expected: bool| {
                    assert_eq!(literals(set, place, false).matches(b), expected, "{set:?} {place:?} {text:?}");
                };
                check(Place::Whole, set.contains(&text));
                check(Place::Start, set.iter().any(|s| text.starts_with(s)));
                check(Place::End, set.iter().any(|s| text.ends_with(s)));
                check(Place::Anywhere, set.iter().any(|s| text.contains(s)));
            }
        }
        assert!(literals(&["GIF"], Place::End, true).matches(b"a.gIf"));
    }

    #[test]
    fn regex_machines_agree_with_the_matcher() {
        for pattern in ["^/purchase", "gif$", "a.c", "^$", "", "(ab|cd)+x", "^[^?]*\\.jpe?g(\\?|$)", "\\bab\\b"] {
            let machine = Machine::regex(&[pattern.to_owned()], false).unwrap();
            let matcher = super::super::super::pattern::compile(pattern, false).unwrap();
            for text in [
                "",
                "/purchase",
                "/x/purchase",
                "a.gif",
                "gif?",
                "abc",
                "ac",
                "ababx",
                "cdx",
                "/a.jpg?x",
                "x ab",
                "xab",
            ] {
                assert_eq!(machine.matches(text.as_bytes()), matcher.is_match(text.as_bytes()), "{pattern} {text}");
            }
        }
    }

    #[test]
    fn representatives_are_readable_and_one_a_class() {
        let mut split = ByteSplit::new();
        split.by(|b| u16::from(b == b'q'));
        assert_eq!(split.representatives(), [b'a', b'q']);
        assert_eq!(readable_order().count(), 256);
    }
}
