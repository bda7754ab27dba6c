//! Values out of a JSON body (RFC 8259), while it arrives, without building anything.
//!
//! Paths are those of XML: a member is a child element, and an array is its member repeated, so `item[2]/subTotal`
//! reads the second element of `"item": [...]`. Arrays directly inside arrays count as one. A value is a string with its
//! escapes decoded, a number or literal as written, and nothing for an object. Of several values for one path (repeated
//! keys included) the first counts. Nesting is bounded; a subtree that is on no path is passed over.

use memchr::memchr2;

use super::error::ExtractError;
use super::paths::{MAX_DEPTH, PathPlan, Tracker};
use super::place::{Scan, Sink};
use crate::matching::VarId;

/// State between two pieces of a document.
#[derive(Debug, Default)]
pub(super) struct JsonScanner {
    tracker: Tracker,
    /// First byte not dealt with.
    at: usize,
    /// How far the end of the token at `at` has been looked for.
    scanned: usize,
    expect: Expect,
    /// The last key read.
    key: Key,
    open: Vec<Container>,
    /// Open containers in a subtree that is on no path.
    skipped: usize,
    name: Vec<u8>,
    claimed: Vec<VarId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Expect {
    #[default]
    Start,
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    Colon,
    CommaOrEnd,
}

/// Where in the document a key stands, without its quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Key {
    /// The root has none.
    #[default]
    None,
    Span(usize, usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Container {
    Object {
        framed: bool,
    },
    /// Of values that are each its owner's member of this name.
    Array(Key),
}

/// A token's end is not there yet.
struct Starved;

type Token<T> = Result<Result<T, Starved>, ExtractError>;

impl JsonScanner {
    pub(super) fn reset(&mut self, plan: &PathPlan) {
        self.tracker.reset(plan);
        self.open.clear();
        self.claimed.clear();
        (self.at, self.scanned, self.skipped) = (0, 0, 0);
        (self.expect, self.key) = (Expect::Start, Key::None);
    }

    /// Reads on in a document that has grown. `end` says that it will not grow any more.
    pub(super) fn scan(
        &mut self,
        plan: &PathPlan,
        document: &[u8],
        end: bool,
        sink: &mut Sink<'_>,
    ) -> Result<Scan, ExtractError> {
        sink.hit = false;
        loop {
            if self.tracker.left() == 0 {
                return Ok(Scan::Complete);
            }
            if sink.hit {
                return Ok(Scan::Hit);
            }
            let step = if self.skipped > 0 { self.skip(document)? } else { self.step(plan, document, end, sink)? };
            match step {
                Ok(true) => {}
                Ok(false) => return Ok(Scan::Complete),
                Err(Starved) if end => return Err(ExtractError::JsonSyntax),
                Err(Starved) => return Ok(Scan::NeedMore),
            }
        }
    }

    fn consume(&mut self, to: usize) {
        self.at = to;
        self.scanned = to;
    }

    /// One token. False at the document's end.
    fn step(&mut self, plan: &PathPlan, document: &[u8], end: bool, sink: &mut Sink<'_>) -> Token<bool> {
        if self.expect == Expect::Start {
            // RFC 8259 section 8.1: a byte order mark may be ignored.
            const MARK: &[u8] = b"\xef\xbb\xbf";
            if document.starts_with(MARK) {
                self.consume(MARK.len());
            } else if MARK.starts_with(document) {
                return Ok(Err(Starved));
            }
            self.expect = Expect::Value;
        }
        while document.get(self.at).is_some_and(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n')) {
            self.consume(self.at + 1);
        }
        let Some(&byte) = document.get(self.at) else { return Ok(Err(Starved)) };
        let bad = Err(ExtractError::JsonSyntax);
        match (self.expect, byte) {
            (Expect::KeyOrEnd | Expect::CommaOrEnd, b'}') => match self.open.pop() {
                Some(Container::Object { framed }) => {
                    if framed {
                        self.tracker.leave();
                    }
                    self.consume(self.at + 1);
                    Ok(Ok(self.value_ended()))
                }
                _ => bad,
            },
            (Expect::ValueOrEnd | Expect::CommaOrEnd, b']') => match self.open.pop() {
                Some(Container::Array(_)) => {
                    self.consume(self.at + 1);
                    Ok(Ok(self.value_ended()))
                }
                _ => bad,
            },
            (Expect::CommaOrEnd, b',') => {
                self.expect = match self.open.last() {
                    Some(Container::Object { .. }) => Expect::Key,
                    _ => Expect::Value,
                };
                self.consume(self.at + 1);
                Ok(Ok(true))
            }
            (Expect::Key | Expect::KeyOrEnd, b'"') => {
                let Some(to) = self.string_end(document)? else { return Ok(Err(Starved)) };
                self.key = Key::Span(self.at + 1, to - 1);
                self.expect = Expect::Colon;
                self.consume(to);
                Ok(Ok(true))
            }
            (Expect::Colon, b':') => {
                self.expect = Expect::Value;
                self.consume(self.at + 1);
                Ok(Ok(true))
            }
            (Expect::Value | Expect::ValueOrEnd, _) => self.value(plan, document, end, byte, sink),
            _ => bad,
        }
    }

    fn value(&mut self, plan: &PathPlan, document: &[u8], end: bool, first: u8, sink: &mut Sink<'_>) -> Token<bool> {
        let key = match self.open.last() {
            Some(Container::Array(key)) => *key,
            Some(Container::Object { .. }) => self.key,
            None => Key::None,
        };
        if matches!(first, b'{' | b'[') && self.open.len() >= MAX_DEPTH {
            return Err(ExtractError::Depth);
        }
        if first == b'[' {
            self.open.push(Container::Array(key));
            self.expect = Expect::ValueOrEnd;
            self.consume(self.at + 1);
            return Ok(Ok(true));
        }
        let to = match first {
            b'{' => self.at + 1,
            b'"' => match self.string_end(document)? {
                Some(to) => to,
                None => return Ok(Err(Starved)),
            },
            b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => {
                let rest = &document[self.at..];
                let length =
                    rest.iter().position(|b| !matches!(b, b'+' | b'-' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'E'));
                match length {
                    None if !end => return Ok(Err(Starved)),
                    length => self.at + length.unwrap_or(rest.len()),
                }
            }
            _ => return Err(ExtractError::JsonSyntax),
        };
        let text = &document[self.at..to];
        let word = matches!(text, b"true" | b"false" | b"null");
        if first != b'{' && first != b'"' && !word && !is_number(text) {
            return Err(ExtractError::JsonSyntax);
        }
        let alive = match key {
            Key::None => true,
            Key::Span(from, to) => {
                let raw = &document[from..to];
                self.name.clear();
                let name = match memchr::memchr(b'\\', raw) {
                    None => raw,
                    Some(_) => {
                        unescape(raw, &mut self.name)?;
                        &self.name
                    }
                };
                let alive = self.tracker.enter(plan, name);
                if alive {
                    self.tracker.claim(plan, &mut self.claimed);
                }
                alive
            }
        };
        if !self.claimed.is_empty() {
            let place = match first {
                b'{' => sink.document(to, to),
                b'"' if memchr::memchr(b'\\', text).is_some() => {
                    let start = sink.decoded.len();
                    unescape(&text[1..text.len() - 1], sink.decoded)?;
                    sink.decoded_since(start)
                }
                b'"' => sink.document(self.at + 1, to - 1),
                _ => sink.document(self.at, to),
            };
            self.claimed.drain(..).for_each(|variable| sink.put(variable, place));
        }
        let framed = alive && key != Key::None;
        self.consume(to);
        if first == b'{' {
            if alive {
                self.open.push(Container::Object { framed });
                self.expect = Expect::KeyOrEnd;
            } else {
                self.skipped = 1;
            }
            return Ok(Ok(true));
        }
        if framed {
            self.tracker.leave();
        }
        Ok(Ok(self.value_ended()))
    }

    /// False if that was the whole document.
    fn value_ended(&mut self) -> bool {
        self.expect = Expect::CommaOrEnd;
        !self.open.is_empty()
    }

    /// One past the closing quote of the string at `at`; remembers how far it got.
    fn string_end(&mut self, document: &[u8]) -> Result<Option<usize>, ExtractError> {
        let mut from = self.scanned.max(self.at + 1);
        loop {
            let Some(length) = document.get(from..).and_then(|rest| memchr2(b'"', b'\\', rest)) else {
                self.scanned = from.max(document.len());
                return Ok(None);
            };
            from += length;
            if document[from] == b'"' {
                return Ok(Some(from + 1));
            }
            if from + 1 >= document.len() {
                self.scanned = from;
                return Ok(None);
            }
            from += 2;
        }
    }

    /// Passes over an object that is on no path.
    fn skip(&mut self, document: &[u8]) -> Token<bool> {
        while let Some(&byte) = document.get(self.at) {
            match byte {
                b'"' => {
                    let Some(to) = self.string_end(document)? else { return Ok(Err(Starved)) };
                    self.consume(to);
                    continue;
                }
                b'{' | b'[' => {
                    self.skipped += 1;
                    if self.open.len() + self.skipped > MAX_DEPTH {
                        return Err(ExtractError::Depth);
                    }
                }
                b'}' | b']' => {
                    self.skipped -= 1;
                    if self.skipped == 0 {
                        self.consume(self.at + 1);
                        return Ok(Ok(self.value_ended()));
                    }
                }
                _ => {}
            }
            self.consume(self.at + 1);
        }
        Ok(Err(Starved))
    }
}

/// RFC 8259 section 6.
fn is_number(text: &[u8]) -> bool {
    let digits = |text: &[u8]| text.iter().take_while(|b| b.is_ascii_digit()).count();
    let mut rest = text.strip_prefix(b"-").unwrap_or(text);
    let whole = digits(rest);
    if whole == 0 || (whole > 1 && rest[0] == b'0') {
        return false;
    }
    rest = &rest[whole..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let length = digits(fraction);
        if length == 0 {
            return false;
        }
        rest = &fraction[length..];
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = exponent.strip_prefix(b"+").or_else(|| exponent.strip_prefix(b"-")).unwrap_or(exponent);
        let length = digits(exponent);
        return length > 0 && length == exponent.len();
    }
    rest.is_empty()
}

/// Appends a string's content with its escapes decoded (RFC 8259 section 7).
fn unescape(text: &[u8], out: &mut Vec<u8>) -> Result<(), ExtractError> {
    let bad = ExtractError::JsonSyntax;
    let unit = |at: usize| -> Result<u32, ExtractError> {
        let digits = text.get(at..at + 4).ok_or(bad)?;
        digits.iter().try_fold(0, |sum, &digit| Ok(sum << 4 | (digit as char).to_digit(16).ok_or(bad)?))
    };
    let mut at = 0;
    while at < text.len() {
        if text[at] != b'\\' {
            out.push(text[at]);
            at += 1;
            continue;
        }
        let byte = match text.get(at + 1).ok_or(bad)? {
            escaped @ (b'"' | b'\\' | b'/') => *escaped,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let first = unit(at + 2)?;
                at += 6;
                let mut code = first;
                if (0xd800..0xdc00).contains(&first) && text.get(at..at + 2) == Some(b"\\u") {
                    let second = unit(at + 2)?;
                    if (0xdc00..0xe000).contains(&second) {
                        code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                        at += 6;
                    }
                }
                // A surrogate alone is no character.
                let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            _ => return Err(bad),
        };
        out.push(byte);
        at += 2;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extract::testing::{self, Values};
    use crate::matching::Variable;
    use proptest::prelude::*;

    fn values(paths: &[&str], document: &[u8], piece: usize) -> Values {
        let mut scanner = JsonScanner::default();
        let mut fresh = true;
        testing::values(&Variable::Json, paths, document, piece, &mut |plan, document, end, sink| {
            if std::mem::take(&mut fresh) {
                scanner.reset(plan);
            }
            scanner.scan(plan, document, end, sink)
        })
    }

    fn all(paths: &[&str], document: &str) -> Values {
        let whole = values(paths, document.as_bytes(), usize::MAX);
        for piece in 1..document.len().min(40) {
            assert_eq!(values(paths, document.as_bytes(), piece), whole, "in pieces of {piece}");
        }
        whole
    }

    fn texts(list: &[Option<&str>]) -> Values {
        Ok(list.iter().map(|text| text.map(|t| t.as_bytes().to_vec())).collect())
    }

    #[test]
    fn the_purchase_as_json() {
        let purchase = r#"{"purchase": {"customerName": "C\"C\u00e9\ud83d\ude00L", "skip": {"a": "}\\", "b": [1, {}]},
            "item": [{"subTotal": 50000, "p": null}, {"subTotal": -2e3}, 7], "tot\u0061lAmount": 52000.5,
            "paid": false, "deep": [[1, 2], [3]], "none": [], "totalAmount": 1}, "z": 0}"#;
        let paths = [
            "purchase/totalAmount",
            "purchase/customerName",
            "purchase/item[2]/subTotal",
            "purchase/item/subTotal",
            "purchase/item[3]",
            "//p",
            "purchase/paid",
            "purchase/deep[3]",
            "purchase/none",
            "purchase/skip",
            "z",
            "missing",
        ];
        let expected = [
            Some("52000.5"),
            Some("C\"C\u{e9}\u{1f600}L"),
            Some("-2e3"),
            Some("50000"),
            Some("7"),
            Some("null"),
            Some("false"),
            Some("3"),
            None,
            Some(""),
            Some("0"),
            None,
        ];
        assert_eq!(all(&paths, purchase), texts(&expected));
        assert_eq!(all(&["a"], r#"[{"b": 1}, {"a": 2}]"#), texts(&[Some("2")]), "a list of documents");
        assert_eq!(all(&["a"], "\u{feff} 12 "), texts(&[None]));
    }

    #[test]
    fn what_is_refused() {
        let deep = "[".repeat(300);
        for (document, error) in [
            ("", ExtractError::JsonSyntax),
            ("{", ExtractError::JsonSyntax),
            ("{a: 1}", ExtractError::JsonSyntax),
            (r#"{"a" 1}"#, ExtractError::JsonSyntax),
            (r#"{"a": 01}"#, ExtractError::JsonSyntax),
            (r#"{"a": "\x"}"#, ExtractError::JsonSyntax),
            (r#"{"z": 1,}"#, ExtractError::JsonSyntax),
            (r#"{"z": [1}"#, ExtractError::JsonSyntax),
            (r#"{"z": truth}"#, ExtractError::JsonSyntax),
            (r#"{"z": 1"#, ExtractError::JsonSyntax),
            ("<a/>", ExtractError::JsonSyntax),
            (&deep, ExtractError::Depth),
        ] {
            assert_eq!(all(&["a", "b"], document), Err(error), "{document:?}");
        }
        let skipped = format!("{{\"x\":{{\"y\":{deep}");
        assert_eq!(all(&["a"], &skipped), Err(ExtractError::Depth));
    }

    fn tree() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            any::<i32>().prop_map(serde_json::Value::from),
            "[a\"\\\\é\n]{0,3}".prop_map(serde_json::Value::from),
            Just(serde_json::Value::Null),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
                prop::collection::btree_map("[ab]", inner, 0..3)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    /// Values of a path of members, arrays spread out, in document order.
    fn reference(value: &serde_json::Value, path: &[&str], out: &mut Vec<String>) {
        use serde_json::Value as J;
        match (value, path) {
            (J::Array(list), _) => list.iter().for_each(|value| reference(value, path, out)),
            (J::Object(_), []) => out.push(String::new()),
            (J::String(text), []) => out.push(text.clone()),
            (other, []) => out.push(other.to_string()),
            (J::Object(map), [first, rest @ ..]) => {
                if let Some(value) = map.get(*first) {
                    reference(value, rest, out);
                }
            }
            _ => {}
        }
    }

    proptest! {
        #[test]
        fn the_same_as_a_parser(tree in tree(), pretty: bool, piece in 1_usize..20) {
            let text = if pretty { serde_json::to_string_pretty(&tree) } else { serde_json::to_string(&tree) }.unwrap();
            let paths = ["a", "b", "a/b", "a/a/b", "b/a"];
            let expected: Vec<Option<Vec<u8>>> = paths.iter().map(|path| {
                let mut all = Vec::new();
                reference(&tree, &path.split('/').collect::<Vec<_>>(), &mut all);
                all.into_iter().next().map(String::into_bytes)
            }).collect();
            prop_assert_eq!(values(&paths, text.as_bytes(), piece), Ok(expected));
        }
    }
}
