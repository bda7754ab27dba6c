//! What is seen without a search: variables that the service's clients never send, paths of which only the first place counts,
//! and conditions whose cost follows the number of rules.

use std::collections::BTreeMap;

use lcs_pipelines::matching::{Cost, MAX_ALTERNATIVES};

use super::super::ast::{Protocol, RuleSet, Term, Variable};
use super::super::compile::{AnyNumber, compile};
use super::super::span::Position;
use super::{Checker, FindingKind, Place};

/// Rules that a finding about many of them names.
const SHOWN: usize = 8;
/// Patterns that are run on every value are worth a word from so many on.
const PATTERNS: usize = 8;

/// Terms about variables that clients of a protocol never send, by rule: each variable once.
fn never_there(set: &RuleSet, spoken: Protocol) -> impl Iterator<Item = (usize, &Term)> {
    set.rules.iter().enumerate().flat_map(move |(index, rule)| {
        let mut terms = rule.condition.terms();
        terms.retain(|term| term.variable.protocol().is_some_and(|protocol| protocol != spoken));
        let mut seen: Vec<&Variable> = Vec::new();
        terms.retain(|term| {
            let new = !seen.contains(&&term.variable);
            seen.push(&term.variable);
            new
        });
        terms.into_iter().map(move |term| (index, term))
    })
}

/// What a service's rules ask for and its clients never send: the rule, where it asks, and a sentence about it.
pub fn unspoken(set: &RuleSet, spoken: Protocol) -> Vec<(usize, Position, String)> {
    let asked = never_there(set, spoken).map(|(index, term)| {
        let (variable, other) = (&term.variable, term.variable.protocol().unwrap_or(spoken));
        let what = format!(
            "{} asks for {variable}, which is never there: this service speaks {spoken}; give the rule to a service that speaks \
             {other}, or remove it",
            set.rule_name(index)
        );
        (index, set.lines.position(term.span.start), what)
    });
    asked.collect()
}

impl Checker<'_> {
    /// Variables of other protocols than the one that the service's clients speak.
    pub(super) fn unspoken(&mut self, spoken: Protocol) {
        for (index, position, message) in unspoken(self.set, spoken) {
            let place = Place { position, ..self.place(index) };
            self.find_at(FindingKind::NeverThere, message, vec![place], None);
        }
    }

    /// Paths that may select several places, of which only the first is looked at.
    pub(super) fn first_only(&mut self) {
        let set = self.set;
        let mut rules: BTreeMap<&Variable, Vec<usize>> = BTreeMap::new();
        for (index, rule) in set.rules.iter().enumerate() {
            for term in rule.condition.terms() {
                if let Variable::Xml(selector) | Variable::Json(selector) = &term.variable
                    && selector.steps.iter().any(|step| step.anywhere)
                {
                    let of = rules.entry(&term.variable).or_default();
                    if of.last() != Some(&index) {
                        of.push(index);
                    }
                }
            }
        }
        for (variable, rules) in rules {
            let message = format!(
                "{variable} is the first such place of a document, whatever stands in later ones: where there may be several, \
                 write the path from the root, with the number of the element"
            );
            self.find(FindingKind::FirstOnly, message, &rules[..rules.len().min(SHOWN)], None);
        }
    }

    /// Conditions whose cost follows the number of rules, as the compiled program has them.
    pub(super) fn costs(&mut self) {
        // What cannot be compiled has been said, or will be.
        let Ok(program) = compile(self.set, &AnyNumber) else { return };
        for cost in [Cost::Pattern, Cost::Alternatives, Cost::Shared] {
            let rules: Vec<usize> = program
                .costs()
                .iter()
                .filter(|(_, c)| *c == cost)
                .map(|(rule, _)| *rule as usize)
                .filter(|rule| *rule < self.set.rules.len())
                .collect();
            let least = if cost == Cost::Pattern { PATTERNS } else { 1 };
            if rules.len() < least {
                continue;
            }
            let (first, others) = (self.name(rules[0]), rules.len() - 1);
            let who = match others {
                0 => first,
                1 => format!("{first} and {}", self.name(rules[1])),
                _ => format!("{first} and {others} other rules"),
            };
            let message = match cost {
                Cost::Pattern => format!(
                    "{who} have patterns that no two bytes in a row are sure to match, so each is run on every value: put a text \
                     of two bytes or more into them, or make one pattern of those with one action: a|b"
                ),
                Cost::Alternatives => format!(
                    "{who}: more than {MAX_ALTERNATIVES} combinations of terms, so the condition is evaluated whole for every \
                     request: split it into several rules, or put its values into a list: in @file"
                ),
                Cost::Shared => format!(
                    "{who} are looked at one by one, because what each asks is asked by many of them: let each ask for \
                     something of its own (== or prefix), or make one rule of those with one action"
                ),
            };
            self.find(FindingKind::Cost, message, &rules[..rules.len().min(SHOWN)], None);
        }
    }
}
