//! Which rule takes a request, and why each rule above it does not, term by term.

use std::fmt;

use serde::Serialize;

use super::ast::RuleSet;
use super::eval::{Attribute, Attributes, Evaluator, Truth, Verdict};
use super::span::Position;

/// Why a rule set decided as it did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The rule file.
    pub file: String,
    /// What was decided.
    pub verdict: Verdict,
    /// The action, if there is one.
    pub action: Option<String>,
    /// Every rule that was asked, in order; the last is the one that decided.
    pub rules: Vec<RuleReason>,
}

/// What one rule said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleReason {
    /// The rule's name.
    pub rule: String,
    /// Where it stands.
    #[serde(flatten)]
    pub position: Position,
    /// Whether it holds.
    pub truth: Truth,
    /// Its terms, from left to right.
    pub terms: Vec<TermReason>,
}

/// What one term said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TermReason {
    /// The term, in canonical form.
    pub term: String,
    /// Whether it holds.
    pub truth: Truth,
    /// What the request has there.
    pub value: String,
}

/// Bytes of a value that are shown.
const SHOWN: usize = 80;

/// Explains the decision of a rule set on one request.
pub fn explain(set: &RuleSet, attributes: &dyn Attributes) -> Explanation {
    let evaluator = Evaluator::new(set);
    let verdict = evaluator.verdict(attributes);
    let (asked, action) = match verdict {
        Verdict::Rule(index) => (index + 1, set.rules.get(index).map(|rule| rule.action.to_string())),
        Verdict::Waiting(index) => (index + 1, None),
        Verdict::Default => (set.rules.len(), set.default.as_ref().map(|d| d.action.to_string())),
        Verdict::NoRule => (set.rules.len(), None),
    };
    let reason = |(index, rule): (usize, &super::ast::Rule)| RuleReason {
        rule: set.rule_name(index),
        position: set.lines.position(rule.span.start),
        truth: evaluator.rule(index, attributes),
        terms: evaluator
            .terms(index, attributes)
            .into_iter()
            .map(|(term, truth)| TermReason {
                term: term.to_string(),
                truth,
                value: shown(&attributes.get(&term.variable)),
            })
            .collect(),
    };
    let rules = set.rules.iter().enumerate().take(asked).map(reason).collect();
    Explanation { file: set.file.clone(), verdict, action, rules }
}

/// A value as an explanation shows it.
fn shown(value: &Attribute<'_>) -> String {
    match value {
        Attribute::Unknown => "not seen yet".into(),
        Attribute::Absent => "absent".into(),
        Attribute::Text(text) => {
            let cut = &text[..text.len().min(SHOWN)];
            format!("\"{}\"{}", cut.escape_ascii(), if cut.len() < text.len() { "…" } else { "" })
        }
        Attribute::Number(number) => number.to_string(),
        Attribute::Address(address) => address.to_string(),
        Attribute::Flag(flag) => flag.to_string(),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for rule in &self.rules {
            let outcome = match rule.truth {
                Truth::True => "takes it",
                Truth::False => "does not match",
                Truth::Unknown => "cannot be told yet",
            };
            writeln!(f, "{}:{}: {} {outcome}", self.file, rule.position.line, rule.rule)?;
            for term in &rule.terms {
                let mark = match term.truth {
                    Truth::True => "true   ",
                    Truth::False => "false  ",
                    Truth::Unknown => "unknown",
                };
                writeln!(f, "    {mark}  {}    ({})", term.term, term.value)?;
            }
        }
        match (self.verdict, &self.action) {
            (Verdict::Rule(_), Some(action)) => write!(f, "=> {action}"),
            (Verdict::Default, Some(action)) => write!(f, "=> default: {action}"),
            (Verdict::Waiting(_), _) => write!(f, "=> more of the request is needed"),
            _ => write!(f, "=> no rule takes it, and there is no default"),
        }
    }
}
