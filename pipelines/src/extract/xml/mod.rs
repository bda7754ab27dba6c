//! Values out of an XML body, while it arrives, without building anything.
//!
//! A scanner, not a validating parser: it follows elements only as far as they lie on a path that some rule asks for,
//! and passes over everything else by counting tags. Namespace prefixes are ignored (local names are compared); a body
//! inside a SOAP envelope is also found by the paths it would have alone. The value of an element is its character data
//! up to its first child element, blanks around it removed, the five predefined entities and character references
//! decoded. Of several values for one path the first counts. Declared entities are refused, never expanded.

mod skip;
mod text;

use memchr::memchr;

use self::text::{decode, find, trimmed};
use super::error::ExtractError;
use super::paths::{MAX_DEPTH, PathPlan, Tracker};
use super::place::{Scan, Sink};
use crate::matching::VarId;

/// State between two pieces of a document.
#[derive(Debug, Default)]
pub(super) struct XmlScanner {
    tracker: Tracker,
    /// First byte not dealt with.
    at: usize,
    /// How far the end of the token at `at` has been looked for.
    scanned: usize,
    /// The quote inside which that search stands, or 0.
    quote: u8,
    /// Open elements below one that is on no path, that one included.
    skipped: usize,
    /// The root element has begun.
    rooted: bool,
    envelope: bool,
    /// Names of open followed elements, for their end tags.
    names: Vec<(u32, u32)>,
    capture: Option<Capture>,
    /// Variables that the open capture is the value of.
    claimed: Vec<VarId>,
}

/// The text of the innermost open element, as long as it is one's value.
#[derive(Debug, Clone, Copy)]
enum Capture {
    Empty,
    Span(usize, usize),
    /// Several pieces, or entities: copied, from here on.
    Decoded(usize),
}

impl XmlScanner {
    pub(super) fn reset(&mut self, plan: &PathPlan) {
        self.tracker.reset(plan);
        self.names.clear();
        self.claimed.clear();
        (self.at, self.scanned, self.quote, self.skipped) = (0, 0, 0, 0);
        (self.rooted, self.envelope, self.capture) = (false, false, None);
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
            if self.tracker.left() == 0 && self.claimed.is_empty() {
                return Ok(Scan::Complete);
            }
            if sink.hit {
                return Ok(Scan::Hit);
            }
            let step = if self.skipped > 0 { self.skip(document)? } else { self.token(plan, document, sink)? };
            match step {
                Step::On => {}
                Step::Starved if end => return Err(ExtractError::XmlSyntax),
                Step::Starved => return Ok(Scan::NeedMore),
                Step::Closed => return Ok(Scan::Complete),
            }
        }
    }

    fn starve(&mut self, scanned: usize) -> Result<Step, ExtractError> {
        self.scanned = scanned;
        Ok(Step::Starved)
    }

    fn consume(&mut self, to: usize) -> Result<Step, ExtractError> {
        self.at = to;
        self.scanned = to;
        self.quote = 0;
        Ok(Step::On)
    }

    /// Text up to the next markup, or one piece of markup.
    fn token(&mut self, plan: &PathPlan, document: &[u8], sink: &mut Sink<'_>) -> Result<Step, ExtractError> {
        if document.get(self.at) != Some(&b'<') {
            let Some(length) = memchr(b'<', &document[self.scanned..]) else { return self.starve(document.len()) };
            let to = self.scanned + length;
            if self.capture.is_some() {
                self.capture_text(document, self.at, to, true, sink)?;
            } else if !self.rooted && !document[self.at..to].trim_ascii().is_empty() {
                return Err(ExtractError::XmlSyntax);
            }
            return self.consume(to);
        }
        match document.get(self.at + 1) {
            None => self.starve(self.at),
            Some(b'/') => self.end_tag(document, sink),
            Some(b'!') => self.declaration(document, sink),
            Some(b'?') => match find(document, self.scanned.max(self.at + 2), b"?>") {
                Ok(to) => self.consume(to),
                Err(scanned) => self.starve(scanned),
            },
            Some(_) => self.start_tag(plan, document, sink),
        }
    }

    fn start_tag(&mut self, plan: &PathPlan, document: &[u8], sink: &mut Sink<'_>) -> Result<Step, ExtractError> {
        let Some(to) = self.tag_end(document, self.at)? else { return Ok(Step::Starved) };
        let tag = &document[self.at + 1..to - 1];
        let (tag, empty) = match tag {
            [tag @ .., b'/'] => (tag, true),
            tag => (tag, false),
        };
        let name_length = tag.iter().position(|b| b.is_ascii_whitespace()).unwrap_or(tag.len());
        let qualified = &tag[..name_length];
        let local = memchr(b':', qualified).map_or(qualified, |colon| &qualified[colon + 1..]);
        if local.is_empty() {
            return Err(ExtractError::XmlSyntax);
        }
        self.finish_capture(document, sink);
        let root = !self.rooted;
        self.rooted = true;
        if self.tracker.depth() >= MAX_DEPTH {
            return Err(ExtractError::Depth);
        }
        let mut alive = self.tracker.enter(plan, local);
        if root && local == b"Envelope" {
            self.envelope = true;
            if !alive {
                self.tracker.enter_idle();
                alive = true;
            }
        } else if self.envelope && local == b"Body" && self.tracker.depth() == 1 + usize::from(alive) {
            self.tracker.restart(plan, alive);
            alive = true;
        }
        if !alive {
            if root {
                // Nothing in the document is on a path.
                return Ok(Step::Closed);
            }
            self.skipped = usize::from(!empty);
            return self.consume(to);
        }
        if self.tracker.wants_attributes(plan) {
            self.attributes(plan, &tag[name_length..], self.at + 1 + name_length, sink)?;
        }
        self.tracker.claim(plan, &mut self.claimed);
        if !self.claimed.is_empty() {
            self.capture = Some(Capture::Empty);
        }
        let name_at = (self.at + 1) as u32;
        self.names.push((name_at, name_at + name_length as u32));
        if empty {
            self.finish_capture(document, sink);
            self.leave();
            if self.names.is_empty() {
                return Ok(Step::Closed);
            }
        }
        self.consume(to)
    }

    fn leave(&mut self) {
        self.tracker.leave();
        self.names.pop();
    }

    fn end_tag(&mut self, document: &[u8], sink: &mut Sink<'_>) -> Result<Step, ExtractError> {
        let from = self.scanned.max(self.at + 2);
        let Some(length) = memchr(b'>', &document[from..]) else { return self.starve(document.len()) };
        let to = from + length;
        let Some(&(start, end)) = self.names.last() else { return Err(ExtractError::XmlSyntax) };
        if *document[self.at + 2..to].trim_ascii_end() != document[start as usize..end as usize] {
            return Err(ExtractError::XmlSyntax);
        }
        self.finish_capture(document, sink);
        self.leave();
        if self.names.is_empty() {
            return Ok(Step::Closed);
        }
        self.consume(to + 1)
    }

    /// Comment, CDATA section or document type.
    fn declaration(&mut self, document: &[u8], sink: &mut Sink<'_>) -> Result<Step, ExtractError> {
        const CDATA: &[u8] = b"<![CDATA[";
        const COMMENT: &[u8] = b"<!--";
        let rest = &document[self.at..];
        let begins = |with: &[u8]| rest.len() < with.len() && with.starts_with(rest);
        if begins(CDATA) || begins(COMMENT) || begins(b"<!DOCTYPE") {
            return self.starve(self.at);
        }
        if rest.starts_with(COMMENT) {
            return match find(document, self.scanned.max(self.at + COMMENT.len()), b"-->") {
                Ok(to) => self.consume(to),
                Err(scanned) => self.starve(scanned),
            };
        }
        if rest.starts_with(CDATA) && self.rooted {
            return match find(document, self.scanned.max(self.at + CDATA.len()), b"]]>") {
                Ok(to) => {
                    if self.capture.is_some() {
                        self.capture_text(document, self.at + CDATA.len(), to - 3, false, sink)?;
                    }
                    self.consume(to)
                }
                Err(scanned) => self.starve(scanned),
            };
        }
        if !rest.starts_with(b"<!DOCTYPE") || self.rooted {
            return Err(ExtractError::XmlSyntax);
        }
        // An internal subset could declare entities that hold markup: two readers, two documents.
        let stop = |b: &u8| matches!(b, b'[' | b'>' | b'"' | b'\'');
        loop {
            let from = self.scanned.max(self.at + 9);
            let next = match self.quote {
                0 => document[from..].iter().position(stop),
                quote => memchr(quote, &document[from..]),
            };
            let Some(at) = next.map(|length| from + length) else { return self.starve(document.len()) };
            match (self.quote, document[at]) {
                (0, b'[') => return Err(ExtractError::XmlEntity),
                (0, b'>') => return self.consume(at + 1),
                (0, quote) => self.quote = quote,
                _ => self.quote = 0,
            }
            self.scanned = at + 1;
        }
    }

    fn capture_text(
        &mut self,
        document: &[u8],
        from: usize,
        to: usize,
        entities: bool,
        sink: &mut Sink<'_>,
    ) -> Result<(), ExtractError> {
        let text = &document[from..to];
        if text.is_empty() {
            return Ok(());
        }
        let entities = entities && memchr(b'&', text).is_some();
        match self.capture {
            Some(Capture::Empty) if !entities => self.capture = Some(Capture::Span(from, to)),
            capture => {
                let start = match capture {
                    Some(Capture::Decoded(start)) => start,
                    _ => sink.decoded.len(),
                };
                if let Some(Capture::Span(first, last)) = capture {
                    sink.decoded.extend_from_slice(&document[first..last]);
                }
                if entities {
                    decode(text, sink.decoded)?
                } else {
                    sink.decoded.extend_from_slice(text)
                }
                self.capture = Some(Capture::Decoded(start));
            }
        }
        Ok(())
    }

    fn finish_capture(&mut self, document: &[u8], sink: &mut Sink<'_>) {
        let Some(capture) = self.capture.take() else { return };
        let place = match capture {
            Capture::Empty => sink.document(self.at, self.at),
            Capture::Span(from, to) => {
                let (from, to) = trimmed(document, from, to);
                sink.document(from, to)
            }
            Capture::Decoded(start) => {
                let (from, to) = trimmed(sink.decoded, start, sink.decoded.len());
                sink.decoded.truncate(to);
                sink.decoded_since(from)
            }
        };
        for variable in self.claimed.drain(..) {
            sink.put(variable, place);
        }
    }

    fn attributes(
        &mut self,
        plan: &PathPlan,
        text: &[u8],
        base: usize,
        sink: &mut Sink<'_>,
    ) -> Result<(), ExtractError> {
        let mut rest = text;
        loop {
            rest = rest.trim_ascii_start();
            if rest.is_empty() {
                return Ok(());
            }
            let equals = memchr(b'=', rest).ok_or(ExtractError::XmlSyntax)?;
            let name = rest[..equals].trim_ascii_end();
            rest = rest[equals + 1..].trim_ascii_start();
            let (Some(&quote @ (b'"' | b'\'')), true) = (rest.first(), !name.is_empty()) else {
                return Err(ExtractError::XmlSyntax);
            };
            let length = memchr(quote, &rest[1..]).ok_or(ExtractError::XmlSyntax)?;
            let value = &rest[1..1 + length];
            if memchr(b'<', value).is_some() {
                return Err(ExtractError::XmlSyntax);
            }
            let start = base + (text.len() - rest.len()) + 1;
            rest = &rest[length + 2..];
            if name.starts_with(b"xmlns") {
                continue;
            }
            let local = memchr(b':', name).map_or(name, |colon| &name[colon + 1..]);
            let mut claimed = std::mem::take(&mut self.claimed);
            self.tracker.claim_attribute(plan, local, &mut claimed);
            if !claimed.is_empty() {
                let place = if memchr(b'&', value).is_some() {
                    let from = sink.decoded.len();
                    decode(value, sink.decoded)?;
                    sink.decoded_since(from)
                } else {
                    sink.document(start, start + length)
                };
                claimed.drain(..).for_each(|variable| sink.put(variable, place));
            }
            self.claimed = claimed;
        }
    }
}

enum Step {
    On,
    Starved,
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extract::testing::{self, Values};
    use crate::matching::Variable;
    use proptest::prelude::*;

    fn values(paths: &[&str], document: &[u8], piece: usize) -> Values {
        let mut scanner = XmlScanner::default();
        let mut fresh = true;
        testing::values(&Variable::Xml, paths, document, piece, &mut |plan, document, end, sink| {
            if std::mem::take(&mut fresh) {
                scanner.reset(plan);
            }
            scanner.scan(plan, document, end, sink)
        })
    }

    /// The same in every piece size.
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

    const PURCHASE: &str = "<?xml version=\"1.0\"?>\n<!-- an order -->\n<purchase id='p<1' x:kind=\"a&amp;b\">\n\
        <customerName>CCL</customerName><customerID>111222333</customerID>\n\
        <item><productID>309121544</productID><productName>IBM Thinkpad T21</productName>\
        <unitPrice>5000</unitPrice><noOfUnits>10</noOfUnits><subTotal>50000</subTotal></item>\n\
        <item><productID a=\"1>2\">309121538</productID><productName>Intel wireless LAN PC Card</productName>\
        <unitPrice>200</unitPrice><noOfUnits>10</noOfUnits><subTotal> 2000\n</subTotal></item>\n\
        <empty/><note>a <![CDATA[<b> & ]]>c &lt;&#x41;&#66;</note><totalAmount>52000</totalAmount>\n</purchase>\n";

    #[test]
    fn the_tutorials_purchase() {
        let purchase = PURCHASE.replace("p<1", "p1");
        let paths = [
            "purchase/totalAmount",
            "purchase/customerName",
            "purchase/item[2]/subTotal",
            "purchase/item/subTotal",
            "//subTotal",
            "purchase/@id",
            "purchase/@kind",
            "purchase/empty",
            "purchase/note",
            "purchase//productName",
            "//item[2]/productID/@a",
            "purchase/item[3]/subTotal",
            "purchase/missing",
            "totalAmount",
            "purchase",
        ];
        let expected = [
            Some("52000"),
            Some("CCL"),
            Some("2000"),
            Some("50000"),
            Some("50000"),
            Some("p1"),
            Some("a&b"),
            Some(""),
            Some("a <b> & c <AB"),
            Some("IBM Thinkpad T21"),
            Some("1>2"),
            None,
            None,
            None,
            Some(""),
        ];
        assert_eq!(all(&paths, &purchase), texts(&expected));
        assert_eq!(all(&["purchase/@id"], PURCHASE), Err(ExtractError::XmlSyntax), "`<` in an attribute");
    }

    #[test]
    fn inside_soap_and_with_namespaces() {
        let soap = "<s:Envelope xmlns:s='http://x'><s:Header><purchase><totalAmount>1</totalAmount></purchase>\
            </s:Header><s:Body><p:purchase><p:totalAmount>7</p:totalAmount></p:purchase></s:Body></s:Envelope>";
        let paths = ["purchase/totalAmount", "Envelope/Body/purchase/totalAmount", "//totalAmount"];
        assert_eq!(all(&paths, soap), texts(&[Some("7"), Some("7"), Some("1")]));
    }

    #[test]
    fn the_order_of_the_intel_example() {
        let order = "<order><Amount><Value currency='USD'>12000</Value></Amount><x><Amount><Value>3</Value></Amount></x></order>";
        assert_eq!(all(&["//Amount/Value", "//x//Value"], order), texts(&[Some("12000"), Some("3")]));
    }

    #[test]
    fn nesting_of_the_same_name() {
        let nested = "<a>1<a>2<b>x</b></a><b>y</b></a>";
        assert_eq!(
            all(&["//a", "a/a", "//b", "a/b", "//a[1]/b"], nested),
            texts(&[Some("1"), Some("2"), Some("x"), Some("y"), Some("x"),])
        );
    }

    #[test]
    fn what_is_refused() {
        let deep = "<a>".repeat(300);
        for (document, error) in [
            ("<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>", ExtractError::XmlEntity),
            ("<a>&x;</a>", ExtractError::XmlEntity),
            ("<a>&#0;</a>", ExtractError::XmlEntity),
            ("<a>&amp</a>", ExtractError::XmlEntity),
            ("plain", ExtractError::XmlSyntax),
            ("<a><b></a>", ExtractError::XmlSyntax),
            ("<a>", ExtractError::XmlSyntax),
            ("<a", ExtractError::XmlSyntax),
            ("<a><!x></a>", ExtractError::XmlSyntax),
            ("<a><c></b></a", ExtractError::XmlSyntax),
            (&deep, ExtractError::Depth),
        ] {
            assert_eq!(all(&["a/b", "a", "//z"], document), Err(error), "{document:?}");
        }
        assert_eq!(values(&["a/b"], deep.as_bytes(), 7), Err(ExtractError::Depth), "in what is skipped too");
        assert_eq!(all(&["a"], "<!DOCTYPE a SYSTEM \"x[>\"><a>1</a>"), texts(&[Some("1")]));
        assert_eq!(all(&["b"], "<a>&undefined;<"), texts(&[None]), "a value that nobody asks for is not looked at");
    }

    /// Balanced markup of all kinds.
    fn soup(choices: &[u8]) -> String {
        let (mut out, mut open) = (String::new(), Vec::new());
        for choice in choices {
            match choice % 12 {
                0..=3 => {
                    let name =
                        ["b", "item", "n:subTotal", "a-rather-long-name-of-an-element"][usize::from(choice / 12 % 4)];
                    out.push_str(&format!("<{name}>"));
                    open.push(name);
                }
                4..=6 => out.push_str(&open.pop().map_or(String::new(), |name| format!("</{name} >"))),
                7 => out.push_str("<e/><e k='/'/><e k=\"/>\" />"),
                8 => out.push_str("<!-- </b> --><?p </b>?><![CDATA[</b></x>]]>"),
                9 => out.push_str("<e k='>' l=\">'>\">text</e>"),
                10 => out.push_str("some text > of / no \"interest'"),
                _ => out.push_str(&" ".repeat(usize::from(choice / 4))),
            }
        }
        open.iter().rev().for_each(|name| out.push_str(&format!("</{name}>")));
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn markup_of_any_kind_is_read_alike_in_any_pieces(
            pieces in prop::collection::vec(prop::sample::select(&["<", ">", "/", "!", "?", "\"", "'", "<b>", "</b>", "<e/>", "<b ", "</b ", "text", " "][..]), 0..200),
            piece in 1_usize..300,
        ) {
            let document = format!("<r><skip><c>{}</c></skip><b>v</b></r>", pieces.concat());
            let paths = ["r/b", "r/skip/none/none"];
            let whole = values(&paths, document.as_bytes(), usize::MAX);
            prop_assert_eq!(&whole, &values(&paths, document.as_bytes(), piece), "in pieces of {}: {}", piece, document);
            prop_assert_eq!(&whole, &values(&paths, document.as_bytes(), 1), "in single bytes: {}", document);
        }

        #[test]
        fn what_is_passed_over_is_passed_over_whole(choices in prop::collection::vec(any::<u8>(), 0..120), piece in 1_usize..300) {
            let document = format!("<r><skip>{}</skip><b>v</b></r>", soup(&choices));
            for piece in [piece, usize::MAX] {
                let found = values(&["r/b", "r/skip/none/none"], document.as_bytes(), piece);
                prop_assert_eq!(&found, &texts(&[Some("v"), None]), "{}", document);
            }
        }
    }
}
