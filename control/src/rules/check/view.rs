//! One test, run over the bytes of the text that carries its variable: the path and the query
//! parameters are parts of the URL, cookies of the `Cookie` field, the host of the `Host` field.
//! So tests of several of them are decided together, on one text.

use std::sync::Arc;

use super::machine::{ByteSplit, Fate, Machine};

/// Which part of the carrying text a test reads.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum View {
    /// All of it.
    Whole,
    /// A URL up to `?`.
    Path,
    /// The first parameter of that name in a URL, decoded.
    Query(String),
    /// A `Host` field without port and brackets.
    Host,
    /// The first cookie of that name in a `Cookie` field.
    Cookie(String),
}

/// A test of a part of a text, or of its presence, and how it must come out.
#[derive(Debug, Clone)]
pub struct Component {
    pub view: View,
    /// None asks only whether the part is there.
    pub machine: Option<Arc<Machine>>,
    /// Whether the test must hold, or must not.
    pub positive: bool,
}

/// Where a component stands: what it is doing, and the state of its automaton.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    mode: Mode,
    inner: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Mode {
    /// Before the part: before `?` of a URL, or before a bracket of a host.
    Before,
    /// Within the part.
    Within,
    /// Within the brackets of an address.
    Bracket,
    /// Within a value, behind `%` or behind `%` and one digit.
    Percent,
    PercentDigit(u8),
    /// Within a value, behind a blank.
    Blank,
    /// So many bytes of the wanted name have been seen.
    Name(u16),
    /// Within another parameter or cookie.
    Other,
    /// The part is complete: whether the test holds.
    Done(bool),
    /// A text that readers may understand differently: never in a witness.
    Doubtful,
}

impl Component {
    pub fn start(&self) -> State {
        let mode = match self.view {
            View::Whole | View::Path => Mode::Within,
            View::Query(_) | View::Host => Mode::Before,
            View::Cookie(_) => Mode::Name(0),
        };
        State { mode, inner: self.machine.as_ref().map_or(0, |m| m.start()) }
    }

    fn feed(&self, state: State, byte: u8, mode: Mode) -> State {
        State { mode, inner: self.machine.as_ref().map_or(0, |m| m.step(state.inner, byte)) }
    }

    fn done(&self, state: State) -> State {
        let holds = self.machine.as_ref().is_none_or(|m| m.accepts(state.inner));
        State { mode: if self.left_out(state) { Mode::Doubtful } else { Mode::Done(holds) }, inner: 0 }
    }

    fn left_out(&self, state: State) -> bool {
        self.machine.as_ref().is_some_and(|m| m.left_out(state.inner))
    }

    pub fn step(&self, state: State, byte: u8) -> State {
        if matches!(state.mode, Mode::Done(_) | Mode::Doubtful) {
            return state;
        }
        match &self.view {
            View::Whole => self.feed(state, byte, Mode::Within),
            View::Path if byte == b'?' => self.done(state),
            View::Path => self.feed(state, byte, Mode::Within),
            View::Host => match (state.mode, byte) {
                (Mode::Before, b'[') => State { mode: Mode::Bracket, ..state },
                (Mode::Bracket, b']') => self.done(state),
                (Mode::Bracket, _) => self.feed(state, byte, Mode::Bracket),
                (_, b':') => self.done(state),
                _ => self.feed(state, byte, Mode::Within),
            },
            View::Query(name) => self.query(state, byte, name.as_bytes()),
            View::Cookie(name) => self.cookie(state, byte, name.as_bytes()),
        }
    }

    fn query(&self, state: State, byte: u8, name: &[u8]) -> State {
        let to = |mode| State { mode, ..state };
        match (state.mode, byte) {
            (Mode::Before, b'?') => to(Mode::Name(0)),
            (Mode::Before, _) => state,
            (Mode::Name(seen), b'=') if usize::from(seen) == name.len() => to(Mode::Within),
            // A name without a value is left to its reader.
            (Mode::Name(seen), b'&') if usize::from(seen) == name.len() => to(Mode::Doubtful),
            (Mode::Name(_) | Mode::Other, b'&') => to(Mode::Name(0)),
            // An encoded name might be the wanted one.
            (Mode::Name(_), b'%' | b'+') => to(Mode::Doubtful),
            (Mode::Name(seen), _) if name.get(usize::from(seen)) == Some(&byte) => to(Mode::Name(seen + 1)),
            (Mode::Name(_) | Mode::Other, _) => to(Mode::Other),
            (Mode::Within, b'&') => self.done(state),
            (Mode::Within, b'%') => to(Mode::Percent),
            (Mode::Within, b'+') => self.feed(state, b' ', Mode::Within),
            (Mode::Within, _) => self.feed(state, byte, Mode::Within),
            (Mode::Percent, _) if byte.is_ascii_hexdigit() => to(Mode::PercentDigit(hex(byte))),
            (Mode::PercentDigit(high), _) if byte.is_ascii_hexdigit() => {
                self.feed(state, high << 4 | hex(byte), Mode::Within)
            }
            _ => to(Mode::Doubtful),
        }
    }

    fn cookie(&self, state: State, byte: u8, name: &[u8]) -> State {
        let to = |mode| State { mode, ..state };
        match (state.mode, byte) {
            (Mode::Name(0), b' ') => state,
            (Mode::Name(seen), b'=') if usize::from(seen) == name.len() => to(Mode::Within),
            (Mode::Name(seen), b';') if usize::from(seen) == name.len() => to(Mode::Doubtful),
            (Mode::Name(_) | Mode::Other, b';') => to(Mode::Name(0)),
            // Blanks around a name are not in RFC 6265's grammar.
            (Mode::Name(_), b' ' | b'\t') => to(Mode::Doubtful),
            (Mode::Name(seen), _) if name.get(usize::from(seen)) == Some(&byte) => to(Mode::Name(seen + 1)),
            (Mode::Name(_) | Mode::Other, _) => to(Mode::Other),
            // Nor are blanks or quotes around a value.
            (Mode::Blank, b';') => to(Mode::Doubtful),
            (Mode::Within, b';') => self.done(state),
            (Mode::Within, b' ' | b'\t' | b'"') if self.at_start(state) => to(Mode::Doubtful),
            (Mode::Within | Mode::Blank, b' ' | b'\t') => self.feed(state, byte, Mode::Blank),
            _ => self.feed(state, byte, Mode::Within),
        }
    }

    fn at_start(&self, state: State) -> bool {
        self.machine.as_ref().is_some_and(|m| m.start() == state.inner)
    }

    /// Whether the component is content if the text ends here.
    pub fn content(&self, state: State) -> bool {
        let accepted = || self.machine.as_ref().is_none_or(|m| m.accepts(state.inner)) && !self.left_out(state);
        let holds = match state.mode {
            Mode::Done(holds) => holds,
            Mode::Within => accepted(),
            // An empty host is a host; a query or cookie that never came is absent.
            Mode::Before if self.view == View::Host => accepted(),
            Mode::Before | Mode::Other => false,
            Mode::Name(seen) => match &self.view {
                View::Query(name) | View::Cookie(name) if usize::from(seen) == name.len() => return false,
                _ => false,
            },
            Mode::Bracket | Mode::Percent | Mode::PercentDigit(_) | Mode::Blank | Mode::Doubtful => return false,
        };
        holds == self.positive && !(state.mode == Mode::Within && self.left_out(state))
    }

    /// Whether no continuation can make the component content.
    pub fn hopeless(&self, state: State) -> bool {
        match state.mode {
            Mode::Done(holds) => holds != self.positive,
            Mode::Doubtful => true,
            // Once within the part its presence is certain, and its automaton may be too.
            Mode::Within | Mode::Bracket | Mode::Blank => {
                let fate = self.machine.as_ref().map_or(Fate::Always, |m| m.fate(state.inner));
                self.left_out(state) || fate == if self.positive { Fate::Never } else { Fate::Always }
            }
            _ => false,
        }
    }

    /// Splits the bytes that this component may treat differently.
    pub fn split(&self, split: &mut ByteSplit) {
        if let Some(machine) = &self.machine {
            split.meet(machine.split());
        }
        let special: &[u8] = match self.view {
            View::Whole => b"",
            View::Path => b"?",
            View::Host => b"[]:",
            View::Query(_) => b"?&=%+",
            View::Cookie(_) => b"; =\t\"",
        };
        let name: &[u8] = match &self.view {
            View::Query(name) | View::Cookie(name) => name.as_bytes(),
            _ => b"",
        };
        let hex = matches!(self.view, View::Query(_));
        split.by(|byte| {
            let apart = special.contains(&byte) || name.contains(&byte) || (hex && byte.is_ascii_hexdigit());
            if apart { u16::from(byte) + 1 } else { 0 }
        });
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => (digit & 0xdf) - b'A' + 10,
    }
}
