//! A small document tree for witnesses and tests: what `xml.` and `json.` paths select in it, and how
//! it is written.

use super::ast::{Selector, Step};

/// An element of XML, or a member of JSON (repeated members of one name are the elements of an array).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// The name.
    pub name: String,
    /// Attributes; XML only.
    pub attributes: Vec<(String, Vec<u8>)>,
    /// The element's own text, or the member's scalar value.
    pub text: Vec<u8>,
    /// What it holds.
    pub children: Vec<Node>,
    /// JSON: an array even where it has one element.
    pub array: bool,
}

impl Node {
    /// An empty element.
    pub fn new(name: &str) -> Self {
        Node { name: name.to_owned(), ..Node::default() }
    }

    /// The value that a path selects first, in document order. The node itself is the document: the
    /// path's first step selects among its children.
    pub fn select(&self, selector: &Selector) -> Option<&[u8]> {
        let mut best: Option<(usize, &[u8])> = None;
        let mut order = 0;
        self.search(&selector.steps, &mut order, &mut |order, text| {
            if best.is_none_or(|(first, _)| order < first) {
                best = Some((order, text));
            }
        });
        best.map(|(_, text)| text)
    }

    /// Reports every value that `steps` select below this node, with its place in document order.
    /// `order` counts nodes passed, so a node has one number however it is reached.
    fn search<'a>(&'a self, steps: &[Step], order: &mut usize, report: &mut impl FnMut(usize, &'a [u8])) {
        let Some((step, rest)) = steps.split_first() else { return };
        let start = *order;
        if step.attribute {
            if let Some((_, value)) = self.attributes.iter().find(|(name, _)| *name == step.name) {
                report(start, value);
            }
            return;
        }
        let mut count = 0;
        for child in &self.children {
            *order += 1;
            let here = *order;
            if child.name == step.name {
                count += 1;
                if step.index.is_none_or(|index| index == count) {
                    if rest.is_empty() {
                        report(here, &child.text);
                    } else {
                        let mut below = here;
                        child.search(rest, &mut below, report);
                    }
                }
            }
            if step.anywhere {
                let mut below = here;
                child.search(steps, &mut below, report);
            }
            *order = here + child.size();
        }
    }

    /// The nodes below this one.
    fn size(&self) -> usize {
        self.children.iter().map(|child| 1 + child.size()).sum()
    }

    /// This element as XML. Text is escaped so that a parser reads back the same bytes.
    pub fn to_xml(&self, out: &mut Vec<u8>) {
        out.push(b'<');
        out.extend(self.name.bytes());
        for (name, value) in &self.attributes {
            out.extend(format!(" {name}=\"").bytes());
            escape_xml(value, true, out);
            out.push(b'"');
        }
        out.push(b'>');
        escape_xml(&self.text, false, out);
        self.children.iter().for_each(|child| child.to_xml(out));
        out.extend(format!("</{}>", self.name).bytes());
    }

    /// The value of this member as JSON.
    pub fn to_json(&self, out: &mut Vec<u8>) {
        if self.children.is_empty() {
            if is_json_number(&self.text) {
                out.extend(&self.text);
            } else {
                json_string(&self.text, out);
            }
            return;
        }
        out.push(b'{');
        let mut written: Vec<&str> = Vec::new();
        for child in &self.children {
            if written.contains(&child.name.as_str()) {
                continue;
            }
            if !written.is_empty() {
                out.push(b',');
            }
            written.push(&child.name);
            json_string(child.name.as_bytes(), out);
            out.push(b':');
            let same: Vec<&Node> = self.children.iter().filter(|other| other.name == child.name).collect();
            let array = same.len() > 1 || child.array;
            if array {
                out.push(b'[');
            }
            for (at, node) in same.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                node.to_json(out);
            }
            if array {
                out.push(b']');
            }
        }
        out.push(b'}');
    }
}

fn escape_xml(text: &[u8], attribute: bool, out: &mut Vec<u8>) {
    for byte in text {
        match byte {
            b'&' => out.extend(b"&amp;"),
            b'<' => out.extend(b"&lt;"),
            b'>' => out.extend(b"&gt;"),
            b'"' if attribute => out.extend(b"&quot;"),
            b'\t' | b'\n' | b'\r' if attribute => out.extend(format!("&#{byte};").bytes()),
            b'\r' => out.extend(b"&#13;"),
            byte => out.push(*byte),
        }
    }
}

fn json_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text {
        match byte {
            b'"' => out.extend(b"\\\""),
            b'\\' => out.extend(b"\\\\"),
            0..=0x1f | 0x7f => out.extend(format!("\\u{byte:04x}").bytes()),
            byte => out.push(*byte),
        }
    }
    out.push(b'"');
}

/// RFC 8259, section 6, without exponents.
fn is_json_number(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let (whole, fraction) = match digits.iter().position(|b| *b == b'.') {
        Some(at) => (&digits[..at], Some(&digits[at + 1..])),
        None => (digits, None),
    };
    let all_digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    all_digits(whole) && (whole.len() == 1 || whole[0] != b'0') && fraction.is_none_or(all_digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, text: &str, children: Vec<Node>) -> Node {
        Node { text: text.into(), children, ..Node::new(name) }
    }

    fn step(path: &str) -> Selector {
        let source = format!("if (exists(xml.{path})) reject");
        let set = crate::rules::parse(&source, &crate::rules::Context::named("t")).unwrap();
        match &set.rules[0].condition.terms()[0].variable {
            crate::rules::Variable::Xml(selector) => selector.clone(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn paths_select_the_first_in_document_order() {
        let item = |total: &str| node("item", "", vec![node("subTotal", total, vec![])]);
        let mut purchase = node("purchase", "", vec![item("1"), node("x", "", vec![]), item("2")]);
        purchase.children[2].attributes.push(("id".into(), b"b".to_vec()));
        let document = node("", "", vec![purchase]);
        for (path, expected) in [
            ("purchase/item/subTotal", Some("1")),
            ("purchase/item[2]/subTotal", Some("2")),
            ("purchase/item[3]/subTotal", None),
            ("//subTotal", Some("1")),
            ("purchase//item[2]/subTotal", Some("2")),
            ("purchase/item/@id", Some("b")),
            ("purchase/x", Some("")),
            ("item", None),
        ] {
            assert_eq!(document.select(&step(path)), expected.map(str::as_bytes), "{path}");
        }
        // An inner match that comes earlier in the document comes first.
        let inner = node("x", "", vec![node("y", "inner", vec![])]);
        let outer = node("x", "", vec![inner, node("y", "outer", vec![])]);
        assert_eq!(node("", "", vec![outer]).select(&step("//x/y")), Some(b"inner".as_slice()));
    }

    #[test]
    fn documents_are_written_with_escapes() {
        let mut tree = node("a", "<&>", vec![node("b", "1.5", vec![]), node("b", "x\"", vec![])]);
        tree.attributes.push(("c".into(), b"\"".to_vec()));
        let (mut xml, mut json) = (Vec::new(), Vec::new());
        tree.to_xml(&mut xml);
        assert_eq!(xml, b"<a c=\"&quot;\">&lt;&amp;&gt;<b>1.5</b><b>x\"</b></a>");
        tree.to_json(&mut json);
        assert_eq!(json, b"{\"b\":[1.5,\"x\\\"\"]}");
    }
}
