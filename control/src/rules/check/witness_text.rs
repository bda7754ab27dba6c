//! The shortest text that satisfies tests side by side, or the proof that there is none.

use std::hash::BuildHasher as _;
use std::sync::OnceLock;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use super::machine::ByteSplit;
use super::view::{Component, State};

/// States that are explored before a question is left undecided.
pub const MAX_STATES: usize = 60_000;

/// What a text may be at all, whatever the rules say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Domain {
    /// A request target in origin form, or `*`.
    Url,
    /// A field value: no control characters, no blanks at its ends (RFC 9110, 5.5).
    FieldValue,
    /// A token (RFC 9110, 5.6.2).
    Token,
    /// `1.0`, `1.1` and their like.
    Version,
    /// The text of an XML element: characters that XML allows, in UTF-8, without blanks at its ends.
    XmlText,
    /// The value of an XML attribute.
    XmlAttribute,
    /// The text of a JSON string, in UTF-8.
    JsonText,
    /// A mail address or a login name: printable, no blanks or angle brackets.
    Word,
}

const REFUSED: u32 = u32::MAX;

impl Domain {
    fn step(self, state: u32, byte: u8) -> u32 {
        let high = byte >= 0x80;
        match self {
            Domain::Url => match (state, byte) {
                (0, b'/') => 1,
                (0, b'*') => 2,
                (1, _) if (byte.is_ascii_graphic() && byte != b'#') || high => 1,
                _ => REFUSED,
            },
            // 0 at the start, 1 behind a visible byte, 2 behind a blank.
            Domain::FieldValue => match byte {
                b' ' | b'\t' if state != 0 => 2,
                _ if byte.is_ascii_graphic() || high => 1,
                _ => REFUSED,
            },
            Domain::Token if byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte) => 1,
            Domain::Version => match (state, byte) {
                (0, b'0'..=b'9') => 1,
                (1, b'.') => 2,
                (2, b'0'..=b'9') => 3,
                _ => REFUSED,
            },
            // XML 1.0, 2.2; a carriage return would be read as a line feed (2.11).
            Domain::XmlText | Domain::XmlAttribute if byte < 0x20 && byte != b'\t' && byte != b'\n' => REFUSED,
            // 0 at the start, 8 behind a blank, 9 behind another character.
            Domain::XmlText => match (state, byte) {
                (0, b' ' | b'\t' | b'\n') => REFUSED,
                (8 | 9, b' ' | b'\t' | b'\n') => 8,
                (0 | 8 | 9, _) => visible(utf8(0, byte)),
                _ => visible(utf8(state, byte)),
            },
            Domain::XmlAttribute | Domain::JsonText => utf8(state, byte),
            Domain::Word if byte.is_ascii_graphic() && !b"<>\"\\(){}".contains(&byte) => 1,
            Domain::Token | Domain::Word => REFUSED,
        }
    }

    fn may_end(self, state: u32) -> bool {
        match self {
            Domain::Url => state == 1 || state == 2,
            Domain::FieldValue => state != 2,
            Domain::Token | Domain::Word => state == 1,
            Domain::Version => state == 3,
            Domain::XmlText => state == 0 || state == 9,
            Domain::XmlAttribute | Domain::JsonText => state == 0,
        }
    }

    /// Whether `text` is one of the domain.
    pub fn allows(self, text: &[u8]) -> bool {
        let end = text.iter().fold(0, |state, byte| if state == REFUSED { REFUSED } else { self.step(state, *byte) });
        end != REFUSED && self.may_end(end)
    }

    /// The bytes that this domain may treat differently.
    fn split(self) -> &'static ByteSplit {
        const KINDS: [Domain; 8] = [
            Domain::Url,
            Domain::FieldValue,
            Domain::Token,
            Domain::Version,
            Domain::XmlText,
            Domain::XmlAttribute,
            Domain::JsonText,
            Domain::Word,
        ];
        static SPLITS: OnceLock<Vec<ByteSplit>> = OnceLock::new();
        let splits = SPLITS.get_or_init(|| {
            let split = |domain: &Domain| {
                let mut split = ByteSplit::new();
                // A byte's answers from every state tell it apart fully enough.
                for state in 0..10 {
                    split.by(|byte| match domain.step(state, byte) {
                        REFUSED => 99,
                        next => next as u16,
                    });
                }
                split
            };
            KINDS.iter().map(split).collect()
        });
        &splits[KINDS.iter().position(|kind| *kind == self).unwrap_or(0)]
    }
}

/// Well-formed UTF-8 (Unicode 15, table 3-7): 0 between characters, else what must follow.
fn utf8(state: u32, byte: u8) -> u32 {
    match (state, byte) {
        (0, 0..=0x7f) => 0,
        (0, 0xc2..=0xdf) => 1,
        (0, 0xe0) => 2,
        (0, 0xe1..=0xec | 0xee..=0xef) => 3,
        (0, 0xed) => 4,
        (0, 0xf0) => 5,
        (0, 0xf1..=0xf3) => 6,
        (0, 0xf4) => 7,
        (1, 0x80..=0xbf) => 0,
        (2, 0xa0..=0xbf) | (3, 0x80..=0xbf) | (4, 0x80..=0x9f) => 1,
        (5, 0x90..=0xbf) | (6, 0x80..=0xbf) | (7, 0x80..=0x8f) => 3,
        _ => REFUSED,
    }
}

/// The state of [`Domain::XmlText`] behind a character, or within one.
fn visible(utf8: u32) -> u32 {
    if utf8 == 0 { 9 } else { utf8 }
}

/// Whether a question has an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    /// It has: this.
    Yes(T),
    /// It has none, for certain.
    No,
    /// The stated bound was reached first, or the question is outside what is decided.
    Undecided(String),
}

/// Whether every component is content with `text`.
pub fn content(components: &[Component], domain: Domain, text: &[u8]) -> bool {
    let ends = |c: &Component| c.content(text.iter().fold(c.start(), |state, byte| c.step(state, *byte)));
    domain.allows(text) && components.iter().all(ends)
}

/// A component's states, numbered as they are met, and its steps, remembered.
struct Walk<'a> {
    component: &'a Component,
    numbers: HashMap<State, u32>,
    states: Vec<State>,
    content: Vec<bool>,
    /// By state and byte class; `UNSEEN` until asked.
    next: Vec<u32>,
    width: usize,
}

const UNSEEN: u32 = u32::MAX;
const HOPELESS: u32 = u32::MAX - 1;

impl<'a> Walk<'a> {
    fn new(component: &'a Component, width: usize) -> Self {
        let mut walk = Walk {
            component,
            numbers: HashMap::new(),
            states: Vec::new(),
            content: Vec::new(),
            next: Vec::new(),
            width,
        };
        walk.number(component.start());
        walk
    }

    fn number(&mut self, state: State) -> u32 {
        let fresh = self.states.len() as u32;
        let number = *self.numbers.entry(state).or_insert(fresh);
        if number == fresh {
            self.states.push(state);
            self.content.push(self.component.content(state));
            self.next.resize(self.next.len() + self.width, UNSEEN);
        }
        number
    }

    fn step(&mut self, state: u32, class: usize, byte: u8) -> u32 {
        let at = state as usize * self.width + class;
        if self.next[at] == UNSEEN {
            let to = self.component.step(self.states[state as usize], byte);
            self.next[at] = if self.component.hopeless(to) { HOPELESS } else { self.number(to) };
        }
        self.next[at]
    }
}

/// The joint states met so far, without repetition, each with the one that it came from.
struct Joint {
    stride: usize,
    keys: Vec<u32>,
    from: Vec<(u32, u8)>,
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Joint {
    fn new(stride: usize) -> Self {
        let hasher = DefaultHashBuilder::default();
        Joint { stride, keys: Vec::new(), from: Vec::new(), table: HashTable::new(), hasher }
    }

    fn key(&self, at: u32) -> &[u32] {
        &self.keys[at as usize * self.stride..][..self.stride]
    }

    fn insert(&mut self, key: &[u32], from: u32, byte: u8) {
        let hash = self.hasher.hash_one(key);
        let Joint { keys, table, stride, hasher, .. } = self;
        let key_of = |at: u32| &keys[at as usize * *stride..][..*stride];
        if table.find(hash, |at| key_of(*at) == key).is_some() {
            return;
        }
        table.insert_unique(hash, self.from.len() as u32, |at| hasher.hash_one(key_of(*at)));
        self.keys.extend_from_slice(key);
        self.from.push((from, byte));
    }

    fn text(&self, mut at: u32) -> Vec<u8> {
        let mut text = Vec::new();
        while at != 0 {
            let (from, byte) = self.from[at as usize];
            text.push(byte);
            at = from;
        }
        text.reverse();
        text
    }
}

/// The shortest text of `domain` with which every component is content.
pub fn shortest(components: &[Component], domain: Domain) -> Answer<Vec<u8>> {
    let mut split = domain.split().clone();
    components.iter().for_each(|c| c.split(&mut split));
    let bytes = split.representatives();
    let mut walks: Vec<Walk<'_>> = components.iter().map(|c| Walk::new(c, bytes.len())).collect();
    if components.iter().any(|c| c.hopeless(c.start())) {
        return Answer::No;
    }
    // Breadth first, so that the first text that will do is a shortest one.
    let mut joint = Joint::new(components.len() + 1);
    let mut key = vec![0; components.len() + 1];
    joint.insert(&key, 0, 0);
    let mut at = 0;
    while (at as usize) < joint.from.len() {
        let here = joint.key(at).to_vec();
        let states = &here[1..];
        if domain.may_end(here[0]) && walks.iter().zip(states).all(|(walk, state)| walk.content[*state as usize]) {
            return Answer::Yes(joint.text(at));
        }
        for (class, byte) in bytes.iter().enumerate() {
            key[0] = domain.step(here[0], *byte);
            if key[0] == REFUSED {
                continue;
            }
            let possible = walks.iter_mut().zip(states).zip(&mut key[1..]).all(|((walk, state), next)| {
                *next = walk.step(*state, class, *byte);
                *next != HOPELESS
            });
            if possible {
                joint.insert(&key, at, *byte);
            }
        }
        if joint.from.len() > MAX_STATES {
            return Answer::Undecided(format!("the texts' automata have more than {MAX_STATES} joint states"));
        }
        at += 1;
    }
    Answer::No
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::machine::{Machine, Place};
    use super::super::view::View;
    use super::*;

    fn literal(view: View, place: Place, text: &str, positive: bool) -> Component {
        let machine = Machine::literals([text.as_bytes()].into_iter(), place, false);
        Component { view, machine: Some(Arc::new(machine)), positive }
    }

    fn regex(view: View, pattern: &str, positive: bool) -> Component {
        let machine = Machine::regex(&[pattern.to_owned()], false).unwrap();
        Component { view, machine: Some(Arc::new(machine)), positive }
    }

    fn found(components: &[Component], domain: Domain) -> Option<String> {
        match shortest(components, domain) {
            Answer::Yes(text) => Some(String::from_utf8(text).unwrap()),
            Answer::No => None,
            Answer::Undecided(why) => panic!("{why}"),
        }
    }

    #[test]
    fn texts_for_path_and_query_and_url_together() {
        let components = [
            literal(View::Path, Place::End, ".asp", true),
            literal(View::Query("id".into()), Place::Whole, "a b", true),
            literal(View::Whole, Place::End, "gif", true),
        ];
        assert_eq!(found(&components, Domain::Url).unwrap(), "/.asp?id=a+b&gif");
        let never = [literal(View::Path, Place::Anywhere, "?", true)];
        assert_eq!(found(&never, Domain::Url), None);
    }

    #[test]
    fn a_negated_parameter_may_be_absent_and_a_repeated_one_counts_once() {
        let absent = [literal(View::Query("a".into()), Place::Whole, "1", false)];
        assert_eq!(found(&absent, Domain::Url).unwrap(), "/");
        let both = [
            literal(View::Query("a".into()), Place::Whole, "1", true),
            literal(View::Query("a".into()), Place::Whole, "2", true),
        ];
        assert_eq!(found(&both, Domain::Url), None);
    }

    #[test]
    fn host_and_host_field_together() {
        let components =
            [literal(View::Host, Place::Whole, "a.b", true), literal(View::Whole, Place::End, ":8080", true)];
        assert_eq!(found(&components, Domain::FieldValue).unwrap(), "a.b:8080");
        let six = [literal(View::Host, Place::Whole, "::1", true)];
        assert_eq!(found(&six, Domain::FieldValue).unwrap(), "[::1]");
    }

    #[test]
    fn cookies_together() {
        let components = [
            literal(View::Cookie("a".into()), Place::Whole, "1", true),
            literal(View::Cookie("b".into()), Place::Start, "x", true),
        ];
        assert_eq!(found(&components, Domain::FieldValue).unwrap(), "a=1;b=x");
    }

    #[test]
    fn patterns_meet() {
        let components = [regex(View::Whole, "^/purchase", true), regex(View::Whole, "\\.gif$", true)];
        assert_eq!(found(&components, Domain::Url).unwrap(), "/purchase.gif");
        let never = [regex(View::Whole, "^/a", true), regex(View::Whole, "^/b", true)];
        assert_eq!(found(&never, Domain::Url), None);
        let without = [regex(View::Whole, "^/(a|b)$", true), regex(View::Whole, "^/a", false)];
        assert_eq!(found(&without, Domain::Url).unwrap(), "/b");
    }

    #[test]
    fn too_large_a_question_is_left_undecided() {
        // Each remembers a different window of the last bytes: the product has millions of states.
        let components: Vec<Component> =
            (10..16).map(|n| regex(View::Whole, &format!("^[ab]*a[ab]{{{n}}}$"), n % 2 == 0)).collect();
        let none = [&components[..], &[regex(View::Whole, "c", true)]].concat();
        assert!(matches!(shortest(&none, Domain::FieldValue), Answer::Undecided(_) | Answer::No));
    }
}
