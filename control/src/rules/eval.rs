//! The reference evaluator: what a rule set means, term by term, with no cleverness. The compiled
//! program in `pipelines` must agree with it, the checker's witnesses are proved with it, and
//! [`explain`](super::explain) shows its reasons.

use std::borrow::Cow;
use std::net::IpAddr;

use regex_automata::meta::Regex;
use serde::Serialize;

use super::ast::{AddressRelation, Condition, RuleSet, Term, Test, TextRelation, Variable};
use super::decimal::Decimal;
use super::pattern;

/// What is known of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute<'a> {
    /// The bytes that would tell have not been seen yet.
    Unknown,
    /// The request does not have it.
    Absent,
    /// Text, as bytes.
    Text(Cow<'a, [u8]>),
    /// A number that is a number by nature, such as a port.
    Number(Decimal),
    /// An address.
    Address(IpAddr),
    /// Yes or no.
    Flag(bool),
}

/// Where the evaluator reads a request from.
pub trait Attributes {
    /// What is known of `variable` so far.
    fn get(&self, variable: &Variable) -> Attribute<'_>;
}

/// Three-valued truth: a term whose bytes have not come is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Truth {
    /// Holds.
    True,
    /// Does not hold.
    False,
    /// Cannot be told yet.
    Unknown,
}

impl Truth {
    /// The truth of a plain yes or no.
    pub fn from_bool(truth: bool) -> Truth {
        if truth { Truth::True } else { Truth::False }
    }
}

impl std::ops::Not for Truth {
    type Output = Truth;

    fn not(self) -> Truth {
        match self {
            Truth::True => Truth::False,
            Truth::False => Truth::True,
            Truth::Unknown => Truth::Unknown,
        }
    }
}

/// What a rule set says to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The rule with this index takes it.
    Rule(usize),
    /// No rule takes it; `default` does.
    Default,
    /// No rule takes it and there is no `default`.
    NoRule,
    /// The rule with this index cannot be told yet, and none above it fires.
    Waiting(usize),
}

/// A term made ready: its patterns compiled.
struct Ready {
    patterns: Vec<Regex>,
}

/// A rule set made ready for evaluation.
pub struct Evaluator<'a> {
    set: &'a RuleSet,
    /// By rule, by term from left to right.
    ready: Vec<Vec<Ready>>,
}

impl<'a> Evaluator<'a> {
    /// Compiles every pattern of the set.
    pub fn new(set: &'a RuleSet) -> Self {
        let ready = set.rules.iter().map(|rule| rule.condition.terms().into_iter().map(prepare).collect()).collect();
        Evaluator { set, ready }
    }

    /// The set that is evaluated.
    pub fn set(&self) -> &'a RuleSet {
        self.set
    }

    /// Which rule takes a request: the first that is true once every rule above it is false.
    pub fn verdict(&self, attributes: &dyn Attributes) -> Verdict {
        for index in 0..self.set.rules.len() {
            match self.rule(index, attributes) {
                Truth::True => return Verdict::Rule(index),
                Truth::Unknown => return Verdict::Waiting(index),
                Truth::False => {}
            }
        }
        if self.set.default.is_some() { Verdict::Default } else { Verdict::NoRule }
    }

    /// Whether the condition of rule `index` holds, taken by itself.
    pub fn rule(&self, index: usize, attributes: &dyn Attributes) -> Truth {
        let (Some(rule), Some(ready)) = (self.set.rules.get(index), self.ready.get(index)) else {
            return Truth::False;
        };
        let mut terms = ready.iter();
        condition(&rule.condition, &mut terms, attributes, true)
    }

    /// Every term of rule `index` with its truth, from left to right.
    pub fn terms(&self, index: usize, attributes: &dyn Attributes) -> Vec<(&'a Term, Truth)> {
        let (Some(rule), Some(ready)) = (self.set.rules.get(index), self.ready.get(index)) else {
            return Vec::new();
        };
        let terms = rule.condition.terms().into_iter().zip(ready);
        terms.map(|(t, ready)| (t, term(t, ready, &attributes.get(&t.variable)))).collect()
    }
}

fn prepare(term: &Term) -> Ready {
    let patterns = match &term.test {
        Test::Text { relation: TextRelation::Regex, values, ignore_case } => {
            let ignore_case = *ignore_case || term.variable.ignores_case();
            // The parser has compiled each once; one that fails under the implied /i matches nothing.
            values.values().iter().filter_map(|p| pattern::compile(p, ignore_case).ok()).collect()
        }
        _ => Vec::new(),
    };
    Ready { patterns }
}

/// `live` is false where the answer is known and terms are only passed over.
fn condition<'r>(
    node: &Condition,
    terms: &mut impl Iterator<Item = &'r Ready>,
    attributes: &dyn Attributes,
    live: bool,
) -> Truth {
    match node {
        Condition::And(parts) => parts.iter().fold(Truth::True, |sum, part| {
            match (sum, condition(part, terms, attributes, live && sum != Truth::False)) {
                (Truth::False, _) | (_, Truth::False) => Truth::False,
                (Truth::True, Truth::True) => Truth::True,
                _ => Truth::Unknown,
            }
        }),
        Condition::Or(parts) => parts.iter().fold(Truth::False, |sum, part| {
            match (sum, condition(part, terms, attributes, live && sum != Truth::True)) {
                (Truth::True, _) => Truth::True,
                (_, Truth::True) => Truth::True,
                (Truth::False, Truth::False) => Truth::False,
                _ => Truth::Unknown,
            }
        }),
        Condition::Not(inner) => !condition(inner, terms, attributes, live),
        Condition::Term(t) => match terms.next() {
            Some(ready) if live => term(t, ready, &attributes.get(&t.variable)),
            _ => Truth::False,
        },
    }
}

fn term(term: &Term, ready: &Ready, value: &Attribute<'_>) -> Truth {
    match value {
        Attribute::Unknown => Truth::Unknown,
        Attribute::Absent => Truth::False,
        value => Truth::from_bool(holds(term, ready, value)),
    }
}

fn holds(term: &Term, ready: &Ready, value: &Attribute<'_>) -> bool {
    let number = match value {
        Attribute::Text(text) => Decimal::from_request(text),
        Attribute::Number(number) => Some(*number),
        _ => None,
    };
    match &term.test {
        Test::Exists => true,
        Test::Holds => *value == Attribute::Flag(true),
        Test::Number { relation, value } => number.is_some_and(|number| relation.holds(&number, value)),
        Test::NumberIn(values) => number.is_some_and(|number| values.values().contains(&number)),
        Test::Address { relation, values } => {
            let Attribute::Address(address) = value else { return false };
            let within = values.values().iter().any(|net| net.contains(address));
            within != (*relation == AddressRelation::NotEqual)
        }
        Test::Text { relation, values, ignore_case } => {
            let Attribute::Text(text) = value else { return false };
            let fold = *ignore_case || term.variable.ignores_case();
            let any = |test: &dyn Fn(&[u8]) -> bool| values.values().iter().any(|v| test(v.as_bytes()));
            match relation {
                TextRelation::Equal | TextRelation::In => any(&|v| same(text, v, fold)),
                TextRelation::NotEqual => !any(&|v| same(text, v, fold)),
                TextRelation::Prefix => any(&|v| text.len() >= v.len() && same(&text[..v.len()], v, fold)),
                TextRelation::Suffix => any(&|v| text.len() >= v.len() && same(&text[text.len() - v.len()..], v, fold)),
                TextRelation::Contains => any(&|v| v.is_empty() || text.windows(v.len()).any(|w| same(w, v, fold))),
                TextRelation::Regex => ready.patterns.iter().any(|p| p.is_match(text.as_ref())),
            }
        }
    }
}

fn same(a: &[u8], b: &[u8], fold: bool) -> bool {
    if fold { a.eq_ignore_ascii_case(b) } else { a == b }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::rules::{Context, parse};

    struct Map(HashMap<String, Attribute<'static>>);

    impl Attributes for Map {
        fn get(&self, variable: &Variable) -> Attribute<'_> {
            self.0.get(&variable.to_string()).cloned().unwrap_or(Attribute::Absent)
        }
    }

    fn map(values: &[(&str, Attribute<'static>)]) -> Map {
        Map(values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
    }

    fn text(value: &'static str) -> Attribute<'static> {
        Attribute::Text(Cow::Borrowed(value.as_bytes()))
    }

    fn truth(condition: &str, values: &[(&str, Attribute<'static>)]) -> Truth {
        let source = format!("if ({condition}) reject");
        let set = parse(&source, &Context::named("test")).unwrap();
        Evaluator::new(&set).rule(0, &map(values))
    }

    #[test]
    fn an_absent_variable_makes_its_term_false_and_the_negation_true() {
        for term in ["xml.a > 5", "xml.a != \"x\"", "xml.a != 5", "exists(xml.a)", "regex(xml.a, \"\")"] {
            assert_eq!(truth(term, &[]), Truth::False, "{term}");
            assert_eq!(truth(&format!("!({term})"), &[]), Truth::True, "{term}");
        }
        // Text where a number is compared is as good as absent.
        assert_eq!(truth("xml.a != 5", &[("xml.a", text("CCL"))]), Truth::False);
        assert_eq!(truth("xml.a != \"5\"", &[("xml.a", text("CCL"))]), Truth::True);
    }

    #[test]
    fn numbers_compare_as_decimals() {
        for (value, greater) in
            [("5000", false), ("5000.0", false), ("5000.01", true), (" 50000\n", true), ("-9", false)]
        {
            assert_eq!(truth("xml.a > 5000", &[("xml.a", text(value))]), Truth::from_bool(greater), "{value}");
        }
        assert_eq!(truth("xml.a in (1, 2.50)", &[("xml.a", text("2.5"))]), Truth::True);
    }

    #[test]
    fn text_relations_with_and_without_case() {
        let url = [("url", text("/A/pic.GIF"))];
        for (term, expected) in [
            ("suffix(url, gif)", false),
            ("suffix(url, \"gif\"/i)", true),
            ("prefix(url, \"/A/\")", true),
            ("contains(url, \"IC\"/i)", true),
            ("regex(url, \"pic.[a-z]+$\"/i)", true),
            ("regex(url, \"^pic\")", false),
            ("url in (\"/x\", \"/a/pic.gif\")/i", true),
            ("prefix(url, (\"/b\", \"/A\"))", true),
        ] {
            assert_eq!(truth(term, &url), Truth::from_bool(expected), "{term}");
        }
        assert_eq!(truth("host == \"Www.Example\"", &[("host", text("wWW.example"))]), Truth::True);
    }

    #[test]
    fn addresses_and_servers() {
        let source = [("ip.src", Attribute::Address("203.0.113.9".parse().unwrap()))];
        assert_eq!(truth("ip.src in 203.0.113.0/24", &source), Truth::True);
        assert_eq!(truth("ip.src in 2001:db8::/32", &source), Truth::False);
        assert_eq!(truth("ip.src != 203.0.113.9", &source), Truth::False);
        assert_eq!(truth("server_up(web)", &[("server_up(web)", Attribute::Flag(false))]), Truth::False);
    }

    #[test]
    fn unknown_terms_decide_nothing_and_false_ones_everything() {
        let values = [("url", Attribute::Unknown), ("method", text("GET"))];
        assert_eq!(truth("url == a && method == GET", &values), Truth::Unknown);
        assert_eq!(truth("url == a && method == PUT", &values), Truth::False);
        assert_eq!(truth("url == a || method == GET", &values), Truth::True);
        assert_eq!(truth("!(url == a)", &values), Truth::Unknown);
    }

    #[test]
    fn a_rule_fires_only_once_every_rule_above_it_is_false() {
        let source = "if (xml.a > 5) reject\nif (method == GET) reject\ndefault: reject\n";
        let set = parse(source, &Context::named("test")).unwrap();
        let evaluator = Evaluator::new(&set);
        let early = map(&[("xml.a", Attribute::Unknown), ("method", text("GET"))]);
        assert_eq!(evaluator.verdict(&early), Verdict::Waiting(0));
        assert_eq!(evaluator.verdict(&map(&[("method", text("GET"))])), Verdict::Rule(1));
        assert_eq!(evaluator.verdict(&map(&[("method", text("PUT"))])), Verdict::Default);
    }
}
