//! The rule language's meaning, written as plainly as it can be: one rule after the other, three values.

#![allow(dead_code, reason = "each test that includes this uses a part of it")]

use std::net::IpAddr;

use lcs_pipelines::matching::ir::{Expr, Relation, RuleSet, Term, Value, Variable};
use lcs_pipelines::matching::{Field, Number};

/// Kleene's truth: `None` is unknown.
pub type Truth = Option<bool>;

pub fn expr(expr_: &Expr, get: &dyn Fn(&Variable) -> Owned) -> Truth {
    match expr_ {
        Expr::And(list) => {
            let all: Vec<Truth> = list.iter().map(|e| expr(e, get)).collect();
            if all.contains(&Some(false)) { Some(false) } else { (!all.contains(&None)).then_some(true) }
        }
        Expr::Or(list) => {
            let all: Vec<Truth> = list.iter().map(|e| expr(e, get)).collect();
            if all.contains(&Some(true)) { Some(true) } else { (!all.contains(&None)).then_some(false) }
        }
        Expr::Not(inner) => expr(inner, get).map(|truth| !truth),
        Expr::Term(t) => term(t, &get(&t.variable)),
    }
}

/// What a variable is.
#[derive(Debug, Clone, PartialEq)]
pub enum Owned {
    Unknown,
    Absent,
    Text(Vec<u8>),
    Number(u64),
    Address(IpAddr),
}

impl Owned {
    pub fn field(&self) -> Field<'_> {
        match self {
            Self::Unknown => Field::Unknown,
            Self::Absent => Field::Absent,
            Self::Text(text) => Field::Text(text),
            Self::Number(number) => Field::Number((*number).into()),
            Self::Address(address) => Field::Address(*address),
        }
    }
}

fn term(term: &Term, value: &Owned) -> Truth {
    let value = match value {
        Owned::Unknown => return None,
        Owned::Absent => return Some(false),
        value => value,
    };
    let folds = term.ignore_case || matches!(term.variable, Variable::Host | Variable::TlsSni);
    let fold = |text: &[u8]| if folds { text.to_ascii_lowercase() } else { text.to_vec() };
    let number = match value {
        Owned::Text(text) => Number::parse(text),
        Owned::Number(number) => Some((*number).into()),
        _ => None,
    };
    let address = match value {
        Owned::Text(text) => std::str::from_utf8(text).ok().and_then(|t| t.trim().parse().ok()),
        Owned::Address(address) => Some(*address),
        _ => None,
    };
    let equals = |constant: &Value| match constant {
        Value::Number(c) => number == Some(*c),
        Value::Text(c) => match value {
            Owned::Text(text) => fold(text) == fold(c),
            Owned::Number(_) => number == Number::parse(c),
            _ => std::str::from_utf8(c).ok().and_then(|c| c.parse::<IpAddr>().ok()) == address,
        },
        Value::Network(net) => address.is_some_and(|address| net.contains(&address)),
        _ => false,
    };
    let text = |check: &dyn Fn(&[u8], &[u8]) -> bool| match (value, &term.value) {
        (Owned::Text(value), Value::Text(c)) => check(&fold(value), &fold(c)),
        _ => false,
    };
    let order = |check: &dyn Fn(Number, Number) -> bool| match (number, &term.value) {
        (Some(number), Value::Number(c)) => check(number, *c),
        _ => false,
    };
    Some(match term.relation {
        Relation::Exists => true,
        Relation::Eq => equals(&term.value),
        Relation::Ne => match &term.value {
            Value::Number(c) => number.is_some_and(|number| number != *c),
            other => !equals(other),
        },
        Relation::In => match &term.value {
            Value::List(list) => list.iter().any(equals),
            one => equals(one),
        },
        Relation::Lt => order(&|a, b| a < b),
        Relation::Le => order(&|a, b| a <= b),
        Relation::Gt => order(&|a, b| a > b),
        Relation::Ge => order(&|a, b| a >= b),
        Relation::Prefix => text(&|value, c| value.starts_with(c)),
        Relation::Suffix => text(&|value, c| value.ends_with(c)),
        Relation::Contains => text(&|value, c| c.is_empty() || value.windows(c.len()).any(|w| w == c)),
        Relation::Regex => match (value, &term.value) {
            (Owned::Text(value), Value::Text(pattern)) => {
                let pattern = std::str::from_utf8(pattern).unwrap();
                regex_automata::hybrid::regex::Regex::builder()
                    .syntax(
                        regex_automata::util::syntax::Config::new().unicode(false).utf8(false).case_insensitive(folds),
                    )
                    .thompson(regex_automata::nfa::thompson::Config::new().utf8(false))
                    .build(pattern)
                    .map(|regex| regex.is_match(&mut regex.create_cache(), &value[..]))
                    .unwrap()
            }
            _ => false,
        },
    })
}

/// What the rules say: a rule, or that one of them is not known yet, or that none is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Rule(u32),
    Unknown,
    NoRule,
}

pub fn decide(rules: &RuleSet, get: &dyn Fn(&Variable) -> Owned) -> Verdict {
    for (rule, index) in rules.rules.iter().zip(0..) {
        match expr(&rule.condition, get) {
            Some(true) => return Verdict::Rule(index),
            Some(false) => {}
            None => return Verdict::Unknown,
        }
    }
    Verdict::NoRule
}
