//! Whole requests against a plain reading of them: crates parse everything, the plain evaluator walks the rules.
//! The same bytes are then fed one by one, and the decision may come early but never change.

mod reference;

use std::collections::HashMap;

use lcs_pipelines::extract::{Connection, Extraction, Limits, Outcome, Plan, Protocol};
use lcs_pipelines::matching::ir::{Action, DocPath, Expr, Relation, Rule, RuleSet, Term, Value, Variable};
use lcs_pipelines::matching::{Field, compile};
use proptest::prelude::*;
use quick_xml::events::Event;
use reference::{Owned, Verdict};

struct Nobody;

impl Connection for Nobody {
    fn field(&self, _: &Variable) -> Field<'_> {
        Field::Absent
    }
}

/// An element with text before, between and after its children.
#[derive(Debug, Clone)]
struct Element {
    name: String,
    attribute: Option<String>,
    text: String,
    children: Vec<Element>,
    style: u8,
}

fn element() -> impl Strategy<Value = Element> {
    let name = prop_oneof![3 => "[ab]", 1 => "[ab]{2}"];
    let text = prop_oneof![Just(String::new()), " ?[0-9]{1,2}", "[x&<>\"\u{e9} ]{0,4}"];
    let leaf = (name, prop::option::of("[x&\"\u{e9}]{0,3}"), text, any::<u8>())
        .prop_map(|(name, attribute, text, style)| Element { name, attribute, text, children: Vec::new(), style });
    leaf.prop_recursive(5, 30, 4, |inner| {
        (inner.clone(), prop::collection::vec(inner, 0..4)).prop_map(|(mut parent, children)| {
            parent.children = children;
            parent
        })
    })
}

impl Element {
    fn write(&self, out: &mut String) {
        let prefix = if self.style & 1 == 1 { "n:" } else { "" };
        let space = if self.style & 2 == 2 { " \n" } else { "" };
        out.push_str(&format!("<{prefix}{}", self.name));
        if let Some(value) = &self.attribute {
            out.push_str(&format!(" z='>' k=\"{}\"", quick_xml::escape::escape(value)));
        }
        if self.text.is_empty() && self.children.is_empty() && self.style & 4 == 4 {
            out.push_str(&format!("{space}/>"));
            return;
        }
        out.push_str(&format!("{space}>"));
        match self.style >> 3 & 3 {
            0 => out.push_str(&quick_xml::escape::escape(&*self.text)),
            1 => out.push_str(&format!("<![CDATA[{}]]>", self.text)),
            2 => self.text.chars().for_each(|c| out.push_str(&format!("&#{};", c as u32))),
            _ => {
                let middle = self.text.char_indices().nth(1).map_or(0, |(at, _)| at);
                let (left, right) = self.text.split_at(middle);
                out.push_str(&format!("{}<!-- <a> --><?p <b>?>", quick_xml::escape::escape(left)));
                out.push_str(&format!("<![CDATA[{right}]]>"));
            }
        }
        for child in &self.children {
            child.write(out);
            out.push_str(if self.style & 32 == 32 { "\n tail " } else { "" });
        }
        out.push_str(&format!("</{prefix}{}{space}>", self.name));
    }
}

/// The tree as `quick-xml` reads it: local names, `k` attributes, and text up to the first child.
fn parse(document: &str) -> Element {
    let mut reader = quick_xml::Reader::from_str(document);
    let new = |start: &quick_xml::events::BytesStart<'_>| Element {
        name: start.local_name().as_ref().to_owned(),
        attribute: start
            .attributes()
            .map(Result::unwrap)
            .find(|a| a.key.as_ref() == "k")
            .map(|a| quick_xml::escape::unescape(&a.value).unwrap().into_owned()),
        text: String::new(),
        children: Vec::new(),
        style: 0,
    };
    let mut stack: Vec<Element> = Vec::new();
    let add = |stack: &mut Vec<Element>, text: &str| {
        if let Some(top) = stack.last_mut().filter(|top| top.children.is_empty()) {
            top.text.push_str(text);
        }
    };
    loop {
        let done = match reader.read_event().unwrap() {
            Event::Start(start) => {
                let element = new(&start);
                // A child has begun: no more text counts for its parent.
                stack.push(element);
                None
            }
            Event::Empty(start) => Some(new(&start)),
            Event::End(_) => stack.pop(),
            Event::Text(text) => {
                add(&mut stack, &text);
                None
            }
            Event::CData(text) => {
                add(&mut stack, &text);
                None
            }
            Event::GeneralRef(reference) => {
                let text = format!("&{};", &*reference);
                add(&mut stack, &quick_xml::escape::unescape(&text).unwrap());
                None
            }
            Event::Eof => panic!("no end"),
            _ => None,
        };
        if let Some(done) = done {
            match stack.last_mut() {
                Some(parent) => parent.children.push(done),
                None => return done,
            }
        }
    }
}

/// Elements that a path names, in document order.
fn select(below: &[Element], steps: &[lcs_pipelines::matching::ir::Step], out: &mut Vec<*const Element>) {
    use lcs_pipelines::matching::ir::Axis;
    let [step, rest @ ..] = steps else { return };
    let mut nth = 0;
    for element in below {
        if element.name == *step.name {
            nth += 1;
            if step.index.is_none_or(|index| index == nth) {
                if rest.is_empty() {
                    out.push(element);
                } else {
                    select(&element.children, rest, out);
                }
            }
        }
    }
    if step.axis == Axis::Descendant {
        below.iter().for_each(|element| select(&element.children, steps, out));
    }
}

fn in_order(root: &Element, wanted: &[*const Element]) -> Option<Element> {
    if wanted.contains(&(root as *const _)) {
        return Some(root.clone());
    }
    root.children.iter().find_map(|child| in_order(child, wanted))
}

/// First in document order; for an attribute, the first element that has it.
fn lookup(root: &Element, path: &DocPath) -> Owned {
    let mut found = Vec::new();
    select(std::slice::from_ref(root), &path.steps, &mut found);
    if path.attribute.is_some() {
        fn has(element: &Element, wanted: &[*const Element]) -> Option<String> {
            let own = wanted.contains(&(element as *const _)).then(|| element.attribute.clone()).flatten();
            own.or_else(|| element.children.iter().find_map(|child| has(child, wanted)))
        }
        return has(root, &found).map_or(Owned::Absent, |value| Owned::Text(value.into_bytes()));
    }
    in_order(root, &found).map_or(Owned::Absent, |element| {
        let text = element.text.trim_matches([' ', '\n', '\t', '\r']);
        Owned::Text(text.as_bytes().to_vec())
    })
}

const PATHS: [&str; 14] = [
    "a",
    "a/b",
    "//b",
    "a/b[2]",
    "a//a",
    "//a/b",
    "//a[2]",
    "b/@k",
    "//b/@k",
    "a/a/b",
    "//a//b[1]",
    "aa",
    "//ab",
    "a//b[2]/a",
];

fn term() -> impl Strategy<Value = Term> {
    let xml = prop::sample::select(&PATHS[..]).prop_map(|path| Variable::Xml(DocPath::parse(path).unwrap()));
    let variable = prop_oneof![
        4 => xml,
        1 => Just(Variable::Path),
        1 => Just(Variable::Url),
        1 => Just(Variable::Header("x".into())),
        1 => Just(Variable::Cookie("c".into())),
        1 => Just(Variable::Query("q".into())),
        1 => Just(Variable::Host),
    ];
    let number = (0_i64..100).prop_map(|n| Value::Number(n.into()));
    let text = prop_oneof!["[x]{0,2}", "/[ab]?", "[0-9]{1,2}"].prop_map(|t| Value::Text(t.into_bytes().into()));
    let test = prop_oneof![
        (prop_oneof![Just(Relation::Lt), Just(Relation::Ge), Just(Relation::Ne)], number),
        (prop_oneof![Just(Relation::Eq), Just(Relation::Prefix), Just(Relation::Contains), Just(Relation::Ne)], text),
        (Just(Relation::Exists), Just(Value::Nothing)),
    ];
    (variable, test).prop_map(|(variable, (relation, value))| Term { variable, relation, value, ignore_case: false })
}

fn rules() -> impl Strategy<Value = RuleSet> {
    let condition = (prop::collection::vec((term(), any::<bool>()), 1..4)).prop_map(|terms| {
        let literal = |(term, negated)| if negated { Expr::Not(Box::new(Expr::Term(term))) } else { Expr::Term(term) };
        Expr::And(terms.into_iter().map(literal).collect())
    });
    prop::collection::vec(condition, 1..12).prop_map(|conditions| RuleSet {
        rules: conditions
            .into_iter()
            .map(|condition| Rule { name: "R".into(), condition, action: Action::Reject { status: None } })
            .collect(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn bytes_to_decision(
        rules in rules(),
        root in element(),
        path in "/[ab]{0,2}",
        query in prop::option::of("q=[x0-9]{0,2}"),
        header in prop::option::of("[x0-9]{0,2}"),
        cookie in prop::option::of("c=[x0-9]{0,2}"),
        chunk in prop::option::of(1_usize..40),
    ) {
        let mut body = String::from("<?xml version=\"1.0\"?>\n<!-- x -->");
        root.write(&mut body);
        let mut request = format!("POST {path}");
        if let Some(query) = &query {
            request.push_str(&format!("?{query}"));
        }
        request.push_str(" HTTP/1.1\r\nHost: x\r\nContent-Type: text/xml; charset=utf-8\r\n");
        if let Some(header) = &header {
            request.push_str(&format!("X: {header}\r\n"));
        }
        if let Some(cookie) = &cookie {
            request.push_str(&format!("Cookie: a=1; {cookie}\r\n"));
        }
        let mut request = match chunk {
            None => format!("{request}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes(),
            Some(size) => {
                let mut request = format!("{request}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
                for chunk in body.as_bytes().chunks(size) {
                    request.extend([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
                }
                request.extend_from_slice(b"0\r\n\r\n");
                request
            }
        };
        request.extend_from_slice(b"GET /next");

        // The plain reading.
        let mut fields = [httparse::EMPTY_HEADER; 16];
        let mut head = httparse::Request::new(&mut fields);
        prop_assert!(head.parse(&request).unwrap().is_complete());
        let fields: HashMap<String, Vec<u8>> =
            head.headers.iter().map(|h| (h.name.to_ascii_lowercase(), h.value.to_vec())).collect();
        let parsed = parse(&body);
        let text = |value: Option<Vec<u8>>| value.map_or(Owned::Absent, Owned::Text);
        let get = |variable: &Variable| match variable {
            Variable::Path => text(Some(path.clone().into_bytes())),
            Variable::Url => text(head.path.map(|url| url.as_bytes().to_vec())),
            Variable::Host => text(fields.get("host").cloned()),
            Variable::Header(name) => text(fields.get(&**name).cloned()),
            Variable::Cookie(_) => text(cookie.as_ref().map(|c| c.as_bytes()[2..].to_vec())),
            Variable::Query(_) => text(query.as_ref().map(|q| q.as_bytes()[2..].to_vec())),
            Variable::Xml(path) => lookup(&parsed, path),
            other => panic!("{other:?}"),
        };
        let expected = match reference::decide(&rules, &get) {
            Verdict::Rule(rule) => Outcome::Rule(rule),
            _ => Outcome::NoRule,
        };

        let program = compile(&rules).unwrap();
        let plan = Plan::new(&program, Limits::default());
        let mut scratch = program.scratch();
        let mut extraction = Extraction::new(Protocol::Http);
        // One worker's room and one state serve request after request.
        for piece in [request.len(), 1, 7] {
            extraction.reset(Protocol::Http);
            let mut length = 0;
            let outcome = loop {
                length = request.len().min(length + piece);
                let outcome =
                    extraction.advance(&program, &plan, &mut scratch, &Nobody, &request[..length], false).unwrap();
                if outcome != Outcome::NeedMore || length == request.len() {
                    break outcome;
                }
            };
            prop_assert_eq!(outcome, expected, "in pieces of {} of {}", piece, String::from_utf8_lossy(&request));
        }
    }
}
