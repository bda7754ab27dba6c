//! Terms as the checker sees them: numbered, each with the set of values for which it is true, and
//! conditions over them with negations pushed down to the terms.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::ast::{AddressRelation, Condition, Kind, Protocol, Relation, Term, Test, TextRelation, Variable};
use super::super::decimal::Decimal;
use super::super::eval::Attribute;
use super::machine::{Machine, Place};
use super::ranges::{Addresses, Ranges};
use super::view::View;
use super::witness_text::Domain;

/// A term, or its negation: `2 · number + negated`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Literal(u32);

impl Literal {
    pub fn new(atom: usize, positive: bool) -> Self {
        Literal((atom as u32) << 1 | u32::from(!positive))
    }

    pub fn atom(self) -> usize {
        (self.0 >> 1) as usize
    }

    pub fn positive(self) -> bool {
        self.0 & 1 == 0
    }

    pub fn negated(self) -> Self {
        Literal(self.0 ^ 1)
    }
}

/// What a term is true for.
#[derive(Debug, Clone)]
pub enum Truths {
    /// Presence.
    Present,
    /// `server_up`.
    Up,
    /// Whole numbers, of a variable that is one by nature.
    Integers(Ranges),
    /// Numbers in half-billionths, of a text that reads as one.
    Numbers(Ranges),
    Addresses(Addresses),
    /// Texts.
    Text(TextSet),
}

/// The texts for which a term is true.
#[derive(Debug, Clone)]
pub struct TextSet {
    /// None where the automaton would be too large: then why.
    pub machine: Result<Arc<Machine>, String>,
    /// All of them, if they are few and case counts.
    pub listed: Option<Vec<Vec<u8>>>,
    /// What each begins with, as far as it is known; case counts.
    pub prefix: Vec<u8>,
    /// What each ends with, as far as it is known; case counts.
    pub suffix: Vec<u8>,
}

/// One distinct term.
#[derive(Debug)]
pub struct Atom {
    pub variable: Variable,
    pub truths: Truths,
    pub carrier: usize,
    /// Numbers only: how to ask the same of a text.
    pub comparison: Option<(Relation, Decimal)>,
}

/// What carries the value of one or more variables, so that their terms are decided together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Carrier {
    /// The request target: url, path, query.
    Url,
    /// A header field; with `host` also host, with `cookie` also the cookies.
    Header(String),
    /// Any other variable, by itself.
    Variable(Variable),
}

impl Carrier {
    pub fn of(variable: &Variable) -> Carrier {
        match variable {
            Variable::Url | Variable::Path | Variable::Query(_) => Carrier::Url,
            Variable::Host => Carrier::Header("host".into()),
            Variable::Cookie(_) => Carrier::Header("cookie".into()),
            Variable::Header(name) => Carrier::Header(name.clone()),
            Variable::Xml(path) => {
                // The first of a name is the same whether it is counted or not, where nothing stands below it.
                let mut path = path.clone();
                if let Some(last) = path.steps.last_mut()
                    && last.index == Some(1)
                    && !last.anywhere
                {
                    last.index = None;
                }
                if let Some(root) = path.steps.first_mut()
                    && !root.anywhere
                {
                    root.index = None;
                }
                Carrier::Variable(Variable::Xml(path))
            }
            other => Carrier::Variable(other.clone()),
        }
    }

    pub fn protocol(&self) -> Option<Protocol> {
        match self {
            Carrier::Url | Carrier::Header(_) => Some(Protocol::Http),
            Carrier::Variable(variable) => variable.protocol(),
        }
    }

    pub fn domain(&self) -> Domain {
        match self {
            Carrier::Url => Domain::Url,
            Carrier::Header(_) => Domain::FieldValue,
            Carrier::Variable(Variable::Method) => Domain::Token,
            Carrier::Variable(Variable::HttpVersion) => Domain::Version,
            Carrier::Variable(Variable::Xml(path)) if path.is_attribute() => Domain::XmlAttribute,
            Carrier::Variable(Variable::Xml(_)) => Domain::XmlText,
            Carrier::Variable(Variable::Json(_)) => Domain::JsonText,
            Carrier::Variable(_) => Domain::Word,
        }
    }

    /// Whether every message of its protocol has it.
    pub fn always_present(&self) -> bool {
        match self {
            Carrier::Url | Carrier::Variable(Variable::Method | Variable::HttpVersion) => true,
            Carrier::Variable(Variable::PopUser | Variable::ImapUser | Variable::FtpUser) => true,
            Carrier::Variable(variable) => variable.always_present() || variable.protocol().is_none(),
            Carrier::Header(_) => false,
        }
    }
}

pub fn view(variable: &Variable) -> View {
    match variable {
        Variable::Path => View::Path,
        Variable::Query(name) => View::Query(name.clone()),
        Variable::Host => View::Host,
        Variable::Cookie(name) => View::Cookie(name.clone()),
        _ => View::Whole,
    }
}

/// A condition with negations at its terms only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Formula {
    Literal(Literal),
    And(Vec<Formula>),
    Or(Vec<Formula>),
}

impl Formula {
    pub fn negated(&self) -> Formula {
        match self {
            Formula::Literal(literal) => Formula::Literal(literal.negated()),
            Formula::And(parts) => Formula::Or(parts.iter().map(Formula::negated).collect()),
            Formula::Or(parts) => Formula::And(parts.iter().map(Formula::negated).collect()),
        }
    }

    /// Sorted, without repetition, so that two ways of writing one condition are equal.
    fn canonical(self) -> Formula {
        let (and, parts) = match self {
            Formula::And(parts) => (true, parts),
            Formula::Or(parts) => (false, parts),
            literal => return literal,
        };
        let mut flat = Vec::new();
        for part in parts.into_iter().map(Formula::canonical) {
            match part {
                Formula::And(inner) if and => flat.extend(inner),
                Formula::Or(inner) if !and => flat.extend(inner),
                part => flat.push(part),
            }
        }
        flat.sort();
        flat.dedup();
        match flat.len() {
            1 => flat.remove(0),
            _ if and => Formula::And(flat),
            _ => Formula::Or(flat),
        }
    }

    /// The alternatives of this condition, each a sorted conjunction; none if there would be more
    /// than `limit`. Alternatives with a term and its negation are left out.
    pub fn alternatives(&self, limit: usize) -> Option<Vec<Vec<Literal>>> {
        match self {
            Formula::Literal(literal) => Some(vec![vec![*literal]]),
            Formula::Or(parts) => {
                let mut all = Vec::new();
                for part in parts {
                    all.extend(part.alternatives(limit)?);
                    if all.len() > limit {
                        return None;
                    }
                }
                all.sort();
                all.dedup();
                Some(all)
            }
            Formula::And(parts) => {
                let mut all = vec![Vec::new()];
                for part in parts {
                    let right = part.alternatives(limit)?;
                    if all.len() * right.len() > limit * 4 {
                        return None;
                    }
                    let joined = all.iter().flat_map(|left| right.iter().filter_map(|r| join(left, r)));
                    all = joined.collect();
                    all.sort();
                    all.dedup();
                    if all.len() > limit {
                        return None;
                    }
                }
                Some(all)
            }
        }
    }
}

/// Both conjunctions as one, sorted; none if they contradict each other outright.
pub fn join(a: &[Literal], b: &[Literal]) -> Option<Vec<Literal>> {
    let mut both = [a, b].concat();
    both.sort_unstable();
    both.dedup();
    let contradictory = both.windows(2).any(|w| w[0].negated() == w[1]);
    (!contradictory).then_some(both)
}

/// Every distinct term and carrier of a rule set.
#[derive(Debug, Default)]
pub struct Atoms {
    pub atoms: Vec<Atom>,
    pub carriers: Vec<Carrier>,
    known: HashMap<(Variable, Test), usize>,
    numbers: HashMap<(usize, Variable, Ranges), usize>,
    carrier_numbers: HashMap<Carrier, usize>,
}

/// Lists up to this long are tried one by one.
const MAX_LISTED: usize = 64;

impl Atoms {
    pub fn formula(&mut self, condition: &Condition) -> Formula {
        self.push_down(condition, true).canonical()
    }

    fn push_down(&mut self, condition: &Condition, positive: bool) -> Formula {
        match condition {
            Condition::Not(inner) => self.push_down(inner, !positive),
            Condition::And(parts) | Condition::Or(parts) => {
                let inner: Vec<Formula> = parts.iter().map(|part| self.push_down(part, positive)).collect();
                if matches!(condition, Condition::And(_)) == positive {
                    Formula::And(inner)
                } else {
                    Formula::Or(inner)
                }
            }
            Condition::Term(term) => {
                let formula = self.term(term);
                if positive { formula } else { formula.negated() }
            }
        }
    }

    /// A term; `!=` becomes presence and not equal.
    fn term(&mut self, term: &Term) -> Formula {
        let literal = |atom, positive| Formula::Literal(Literal::new(atom, positive));
        match &term.test {
            Test::Text { relation: TextRelation::NotEqual, values, ignore_case } => {
                let equal =
                    Test::Text { relation: TextRelation::Equal, values: values.clone(), ignore_case: *ignore_case };
                let present = self.atom(&term.variable, &Test::Exists);
                let equal = self.atom(&term.variable, &equal);
                Formula::And(vec![literal(present, true), literal(equal, false)])
            }
            Test::Address { relation: AddressRelation::NotEqual, values } => {
                let within = Test::Address { relation: AddressRelation::In, values: values.clone() };
                literal(self.atom(&term.variable, &within), false)
            }
            // A few numbers are as many comparisons, which can also be asked of a text.
            Test::NumberIn(values) if values.values().len() <= MAX_LISTED => {
                let equal = |value: &Decimal| Test::Number { relation: Relation::Equal, value: *value };
                let atoms = values.values().iter().map(|v| literal(self.atom(&term.variable, &equal(v)), true));
                Formula::Or(atoms.collect())
            }
            test => literal(self.atom(&term.variable, test), true),
        }
    }

    fn carrier(&mut self, variable: &Variable) -> usize {
        let carrier = Carrier::of(variable);
        if let Some(known) = self.carrier_numbers.get(&carrier) {
            return *known;
        }
        self.carriers.push(carrier.clone());
        self.carrier_numbers.insert(carrier, self.carriers.len() - 1);
        self.carriers.len() - 1
    }

    /// The number of the carrier, if any term reads it.
    pub fn known_carrier(&self, carrier: &Carrier) -> Option<usize> {
        self.carrier_numbers.get(carrier).copied()
    }

    /// The number of a term; terms that mean the same have one number.
    fn atom(&mut self, variable: &Variable, test: &Test) -> usize {
        let (variable, test) = (plain(variable), plain_test(variable, test));
        if let Some(known) = self.known.get(&(variable.clone(), test.clone())) {
            return *known;
        }
        let carrier = self.carrier(&variable);
        let (truths, comparison) = truths(&variable, &test);
        let number = match &truths {
            Truths::Integers(ranges) | Truths::Numbers(ranges) => {
                let key = (carrier, variable.clone(), ranges.clone());
                *self.numbers.entry(key).or_insert(self.atoms.len())
            }
            _ => self.atoms.len(),
        };
        if number == self.atoms.len() {
            self.atoms.push(Atom { variable: variable.clone(), truths, carrier, comparison });
        }
        self.known.insert((variable, test), number);
        number
    }

    /// The term that compares the variable of atom `like` with a number.
    pub fn number_atom(&mut self, like: usize, relation: Relation, value: Decimal) -> usize {
        let variable = self.atoms[like].variable.clone();
        self.atom(&variable, &Test::Number { relation, value })
    }
}

/// The variable by which terms are compared: what carries it, where that is a variable.
fn plain(variable: &Variable) -> Variable {
    match Carrier::of(variable) {
        Carrier::Variable(variable) => variable,
        _ => variable.clone(),
    }
}

/// The test in one of the ways in which it can be written.
fn plain_test(variable: &Variable, test: &Test) -> Test {
    use super::super::ast::Operand;
    match test {
        Test::Text { relation, values, ignore_case } => {
            let fold = *ignore_case || variable.ignores_case();
            let relation = if *relation == TextRelation::In { TextRelation::Equal } else { *relation };
            let regex = relation == TextRelation::Regex;
            let lower = |text: &String| if fold && !regex { text.to_ascii_lowercase() } else { text.clone() };
            let mut texts: Vec<String> = values.values().iter().map(lower).collect();
            texts.sort_unstable();
            texts.dedup();
            let letters = texts.iter().any(|text| text.bytes().any(|b| b.is_ascii_alphabetic()));
            Test::Text { relation, values: Operand::Several(texts), ignore_case: fold && letters }
        }
        Test::Address { relation, values } => {
            let relation = if *relation == AddressRelation::Equal { AddressRelation::In } else { *relation };
            let mut networks = values.values().to_vec();
            networks.sort_unstable();
            networks.dedup();
            Test::Address { relation, values: Operand::Several(networks) }
        }
        other => other.clone(),
    }
}

fn truths(variable: &Variable, test: &Test) -> (Truths, Option<(Relation, Decimal)>) {
    let integer_max = match variable.kind() {
        Kind::Integer { max } => Some(i128::from(max)),
        _ => None,
    };
    let numbers = |ranges: Vec<(i128, i128)>| match integer_max {
        // Whole numbers are counted as such, within what the variable can be.
        Some(max) => {
            let one = Decimal::from_integer(1).steps();
            let whole = ranges
                .into_iter()
                .map(|(low, high)| (low.div_euclid(one) + i128::from(low.rem_euclid(one) != 0), high.div_euclid(one)));
            Truths::Integers(Ranges::new(whole.collect()).intersect(&Ranges::new(vec![(0, max)])))
        }
        None => Truths::Numbers(Ranges::new(ranges)),
    };
    match test {
        Test::Exists => (Truths::Present, None),
        Test::Holds => (Truths::Up, None),
        Test::Number { relation, value } => {
            let (min, max, at) = (Decimal::MIN.steps(), Decimal::MAX.steps(), value.steps());
            let ranges = match relation {
                Relation::Equal => vec![(at, at)],
                Relation::NotEqual => vec![(min, at - 1), (at + 1, max)],
                Relation::Less => vec![(min, at - 1)],
                Relation::LessOrEqual => vec![(min, at)],
                Relation::Greater => vec![(at + 1, max)],
                Relation::GreaterOrEqual => vec![(at, max)],
            };
            (numbers(ranges), Some((*relation, *value)))
        }
        Test::NumberIn(values) => (numbers(values.values().iter().map(|v| (v.steps(), v.steps())).collect()), None),
        Test::Address { values, .. } => (Truths::Addresses(Addresses::new(values.values())), None),
        Test::Text { relation, values, ignore_case } => {
            (Truths::Text(text_set(*relation, values.values(), *ignore_case)), None)
        }
    }
}

fn text_set(relation: TextRelation, texts: &[String], fold: bool) -> TextSet {
    let bytes = || texts.iter().map(|t| t.as_bytes());
    let literals = |place| Ok(Arc::new(Machine::literals(bytes(), place, fold)));
    let known = |texts: &mut dyn Iterator<Item = Vec<u8>>| if fold { Vec::new() } else { shared_start(texts) };
    let starts = || known(&mut bytes().map(<[u8]>::to_vec));
    let ends = || {
        let mut end = known(&mut bytes().map(|text| text.iter().rev().copied().collect()));
        end.reverse();
        end
    };
    let none = Vec::new;
    let (machine, listed, prefix, suffix) = match relation {
        TextRelation::Equal | TextRelation::In | TextRelation::NotEqual => {
            let listed = (!fold && texts.len() <= MAX_LISTED).then(|| bytes().map(<[u8]>::to_vec).collect());
            (literals(Place::Whole), listed, starts(), ends())
        }
        TextRelation::Prefix => (literals(Place::Start), None, starts(), none()),
        TextRelation::Suffix => (literals(Place::End), None, none(), ends()),
        TextRelation::Contains => (literals(Place::Anywhere), None, none(), none()),
        TextRelation::Regex => {
            let (prefix, suffix) = match texts {
                [one] if !fold => anchored(one),
                _ => (none(), none()),
            };
            (Machine::regex(texts, fold).map(Arc::new), None, prefix, suffix)
        }
    };
    TextSet { machine, listed, prefix, suffix }
}

/// What all texts begin with.
fn shared_start(texts: &mut dyn Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let Some(mut shared) = texts.next() else { return Vec::new() };
    for text in texts {
        let same = shared.iter().zip(&text).take_while(|(a, b)| a == b).count();
        shared.truncate(same);
    }
    shared
}

/// The literals with which every text that the pattern matches begins and ends.
fn anchored(pattern: &str) -> (Vec<u8>, Vec<u8>) {
    use regex_syntax::hir::{Hir, HirKind, Look};
    let none = (Vec::new(), Vec::new());
    let parser = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build().parse(pattern);
    let Ok(hir) = parser else { return none };
    let HirKind::Concat(parts) = hir.kind() else { return none };
    let literal = |part: &Hir| match part.kind() {
        HirKind::Literal(literal) => literal.0.to_vec(),
        _ => Vec::new(),
    };
    let prefix = match parts.as_slice() {
        [look, next, ..] if *look.kind() == HirKind::Look(Look::Start) => literal(next),
        _ => Vec::new(),
    };
    let suffix = match parts.as_slice() {
        [.., last, look] if *look.kind() == HirKind::Look(Look::End) => literal(last),
        _ => Vec::new(),
    };
    (prefix, suffix)
}

/// The automaton that asks a number's question of a text.
pub fn number_machine(atom: &Atom) -> Option<Arc<Machine>> {
    let (relation, value) = atom.comparison?;
    Some(Arc::new(Machine::number(relation, value)))
}

impl Atom {
    /// Whether the term is true of a value.
    pub fn holds(&self, value: &Attribute<'_>) -> bool {
        let number = match value {
            Attribute::Text(text) => Decimal::from_request(text),
            Attribute::Number(number) => Some(*number),
            _ => None,
        };
        match (&self.truths, value) {
            (_, Attribute::Absent | Attribute::Unknown) => false,
            (Truths::Present, _) => true,
            (Truths::Up, value) => *value == Attribute::Flag(true),
            (Truths::Integers(ranges), _) => number.and_then(Decimal::integer).is_some_and(|n| ranges.contains(n)),
            (Truths::Numbers(ranges), _) => number.is_some_and(|n| ranges.contains(n.steps())),
            (Truths::Addresses(set), Attribute::Address(address)) => set.contains(*address),
            (Truths::Text(set), Attribute::Text(text)) => set.machine.as_ref().is_ok_and(|m| m.matches(text)),
            _ => false,
        }
    }
}
