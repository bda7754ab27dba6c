//! The shortest text that satisfies tests side by side, or the proof that there is none.

use std::collections::HashMap;

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
    /// The text of an XML element or attribute: characters that XML allows, in UTF-8.
    XmlText,
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
            Domain::XmlText if byte < 0x20 && byte != b'\t' && byte != b'\n' => REFUSED,
            Domain::XmlText | Domain::JsonText => utf8(state, byte),
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
            Domain::XmlText | Domain::JsonText => state == 0,
        }
    }

    /// Whether `text` is one of the domain.
    pub fn allows(self, text: &[u8]) -> bool {
        let end = text.iter().fold(0, |state, byte| if state == REFUSED { REFUSED } else { self.step(state, *byte) });
        end != REFUSED && self.may_end(end)
    }

    fn split(self, split: &mut ByteSplit) {
        // Each byte's answer from every state tells it apart fully enough.
        for state in 0..8 {
            split.by(|byte| match self.step(state, byte) {
                REFUSED => 99,
                next => next as u16,
            });
        }
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

/// The shortest text of `domain` with which every component is content.
pub fn shortest(components: &[Component], domain: Domain) -> Answer<Vec<u8>> {
    let mut split = ByteSplit::new();
    domain.split(&mut split);
    components.iter().for_each(|c| c.split(&mut split));
    let bytes = split.representatives();

    type Key = (u32, Box<[State]>);
    let first: Key = (0, components.iter().map(Component::start).collect());
    // Breadth first: `queue` holds every state with the place it came from.
    let mut queue: Vec<(Key, usize, u8)> = vec![(first.clone(), 0, 0)];
    let mut seen: HashMap<Key, ()> = HashMap::from([(first, ())]);
    let mut at = 0;
    while at < queue.len() {
        let ((domain_state, states), _, _) = queue[at].clone();
        if domain.may_end(domain_state) && components.iter().zip(&states).all(|(c, s)| c.content(*s)) {
            return Answer::Yes(path(&queue, at));
        }
        for byte in &bytes {
            let next_domain = domain.step(domain_state, *byte);
            if next_domain == REFUSED {
                continue;
            }
            let next: Box<[State]> = components.iter().zip(&states).map(|(c, s)| c.step(*s, *byte)).collect();
            if components.iter().zip(&next).any(|(c, s)| c.hopeless(*s)) {
                continue;
            }
            let key = (next_domain, next);
            if seen.insert(key.clone(), ()).is_none() {
                if queue.len() == MAX_STATES {
                    return Answer::Undecided(format!("the texts' automata have more than {MAX_STATES} joint states"));
                }
                queue.push((key, at, *byte));
            }
        }
        at += 1;
    }
    Answer::No
}

fn path<K>(queue: &[(K, usize, u8)], mut at: usize) -> Vec<u8> {
    let mut text = Vec::new();
    while at != 0 {
        text.push(queue[at].2);
        at = queue[at].1;
    }
    text.reverse();
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::machine::{Literals, Machine, Place, Regex};
    use super::super::view::View;
    use super::*;

    fn literal(view: View, place: Place, text: &str, positive: bool) -> Component {
        let machine = Machine::Literals(Literals::new([text.as_bytes()].into_iter(), place, false));
        Component { view, machine: Some(Arc::new(machine)), positive }
    }

    fn regex(view: View, pattern: &str, positive: bool) -> Component {
        let machine = Machine::Regex(Box::new(Regex::new(&[pattern.to_owned()], false).unwrap()));
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
