//! Which rule takes a request, and why each rule above it does not, term by term.

use std::fmt;

use serde::Serialize;

use super::ast::Protocol;
use super::eval::{Attribute, Attributes, Evaluator, Truth, Verdict};
use super::span::Position;
use super::trial::{Decided, Reading};

/// Why a rule set decided as it did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The rule file.
    pub file: String,
    /// What was decided; nothing if the request is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Why it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// The action, if there is one.
    pub action: Option<String>,
    /// Every rule that was asked, in order; the last is the one that decided.
    pub rules: Vec<RuleReason>,
    /// What more there is to say, in sentences.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
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

/// Explains a verdict, which whoever asks has from the program, by what the request was found to hold. Without a verdict,
/// those rules are shown that are false, and the one that is not.
pub fn explain(evaluator: &Evaluator<'_>, attributes: &dyn Attributes, verdict: Option<Verdict>) -> Explanation {
    let set = evaluator.set();
    let action = match verdict {
        Some(Verdict::Rule(index)) => set.rules.get(index).map(|rule| rule.action.to_string()),
        Some(Verdict::Default) => set.default.as_ref().map(|d| d.action.to_string()),
        _ => None,
    };
    let asked = match verdict.unwrap_or_else(|| evaluator.verdict(attributes)) {
        Verdict::Rule(index) | Verdict::Waiting(index) => index + 1,
        Verdict::Default | Verdict::NoRule => set.rules.len(),
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
    Explanation { file: set.file.clone(), verdict, refused: None, action, rules, notes: Vec::new() }
}

impl Explanation {
    /// Explains what became of a request of a service that reads as `reading` says.
    pub fn of(evaluator: &Evaluator<'_>, decided: &Decided, reading: &Reading) -> Self {
        let mut explanation = explain(evaluator, &decided.attributes, decided.verdict.as_ref().ok().copied());
        explanation.notes.clone_from(&decided.notes);
        if let Err(error) = &decided.verdict {
            explanation.refused = Some(error.to_string());
            let default = evaluator.set().default.as_ref().filter(|_| decided.given_away);
            explanation.action = default.map(|default| default.action.to_string());
            explanation.verdict = default.map(|_| Verdict::Default);
            let note = match reading.protocol {
                _ if decided.given_away => "on-unparsed = \"default\": the connection goes there whole".to_owned(),
                Some(Protocol::Http) => format!("the client is answered {}", error.status()),
                _ => "the connection is reset".to_owned(),
            };
            explanation.notes.insert(0, note);
        }
        explanation
    }

    /// Whether the request is taken by a rule or by `default`, and can be read.
    pub fn is_taken(&self) -> bool {
        self.refused.is_none() && matches!(self.verdict, Some(Verdict::Rule(_) | Verdict::Default))
    }
}

/// A value as an explanation shows it.
fn shown(value: &Attribute<'_>) -> String {
    match value {
        Attribute::Unknown => "not read".into(),
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
        if let Some(why) = &self.refused {
            writeln!(f, "the request cannot be read: {why}")?;
        }
        match (self.verdict, &self.action) {
            (Some(Verdict::Rule(_)), Some(action)) => write!(f, "=> {action}")?,
            (Some(Verdict::Default), Some(action)) => write!(f, "=> default: {action}")?,
            (Some(Verdict::Waiting(_)), _) => write!(f, "=> more of the request is needed")?,
            (None, _) => write!(f, "=> refused")?,
            _ => write!(f, "=> no rule takes it, and there is no default")?,
        }
        self.notes.iter().try_for_each(|note| write!(f, "\n   {note}"))
    }
}
