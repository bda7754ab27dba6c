//! The checker: duplicates, conflicts, rules that never fire, gaps between ranges, each with both places
//! and a request that shows it.
//!
//! Conflicts are decided by joint satisfiability over all variables of both conditions. Conditions become
//! alternatives of conjunctions; each conjunction is split by the carrier of its variables (the URL, one
//! header field, one path of the body, one number); carriers are decided by ranges or by running
//! automata side by side, and put together into one connection, which the reference evaluator then
//! confirms. What passes a stated bound is reported as undecided, never passed over.

mod assemble;
mod atom;
mod body;
mod cell;
mod gaps;
mod machine;
mod number_machine;
mod pairs;
mod plain;
mod ranges;
mod report;
mod search;
mod view;
mod witness;
mod witness_text;

pub use plain::unspoken;
pub use report::{Finding, FindingKind, Place, Report, Severity, Witness};

use super::ast::{Protocol, RuleSet, Variable};
use super::connection::Connection;
use super::eval::{Evaluator, Truth};
use assemble::Assembler;
use atom::{Atoms, Formula};
use pairs::Overlaps;
use search::Search;
use witness_text::Answer;

/// The smallest document in which given paths have given values, if there is one.
pub(super) fn build_document(xml: bool, wanted: &[body::Wanted<'_>]) -> Option<super::document::Node> {
    body::build(xml, wanted, true)
}

/// What the checker is asked.
#[derive(Debug, Clone)]
pub struct CheckOptions {
    /// Potential conflicts that are shown; further overlapping pairs are counted.
    pub max_conflicts: usize,
    /// What the clients of the service that uses the set speak, if that is known.
    pub spoken: Option<Protocol>,
}

impl Default for CheckOptions {
    fn default() -> Self {
        CheckOptions { max_conflicts: 1_000, spoken: None }
    }
}

/// Everything that the steps of a check share.
struct Checker<'a> {
    set: &'a RuleSet,
    evaluator: Evaluator<'a>,
    formulas: &'a [Formula],
    negations: &'a [Formula],
    findings: Vec<Finding>,
}

/// Checks a rule set.
pub fn check(set: &RuleSet, options: &CheckOptions) -> Report {
    let mut atoms = Atoms::default();
    let formulas: Vec<Formula> = set.rules.iter().map(|rule| atoms.formula(&rule.condition)).collect();
    let gaps = gaps::candidates(&mut atoms, &formulas);
    let negations: Vec<Formula> = formulas.iter().map(Formula::negated).collect();
    let mut checker = Checker {
        set,
        evaluator: Evaluator::new(set),
        formulas: &formulas,
        negations: &negations,
        findings: Vec::new(),
    };
    let mut assembler = Assembler::new(&atoms);
    let live = checker.satisfiable(&mut assembler);
    let same = checker.same_conditions(&live);
    let mut overlaps = Overlaps::new(&atoms, &formulas);
    let hidden = checker.shadowed(&mut assembler, &mut overlaps, &live, &same);
    let omitted_pairs = checker.conflicts(&mut assembler, &mut overlaps, &live, &hidden, options.max_conflicts);
    checker.gaps(&mut assembler, gaps);
    if let Some(spoken) = options.spoken {
        checker.unspoken(spoken);
    }
    checker.first_only();
    checker.costs();
    let mut findings = checker.findings;
    let order = |f: &Finding| (f.kind, f.places.iter().map(|p| p.index).collect::<Vec<_>>());
    findings.sort_by_key(order);
    Report { file: set.file.clone(), rules: set.rules.len(), findings, omitted_pairs }
}

/// How one rule's condition relates to an earlier one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hidden {
    No,
    /// It has the same condition as the rule with this index.
    Same(usize),
    /// It can never fire.
    Shadowed,
}

impl Checker<'_> {
    fn place(&self, index: usize) -> Place {
        let rule = &self.set.rules[index];
        let name = rule.name.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
        Place {
            rule: self.set.rule_name(index),
            index,
            position: self.set.lines.position(rule.span.start),
            text: format!("{name}if ({}) {}", rule.condition, rule.action),
        }
    }

    fn find(&mut self, kind: FindingKind, message: String, rules: &[usize], witness: Option<Witness>) {
        let places = rules.iter().map(|index| self.place(*index)).collect();
        self.find_at(kind, message, places, witness);
    }

    fn find_at(&mut self, kind: FindingKind, message: String, places: Vec<Place>, witness: Option<Witness>) {
        self.findings.push(Finding { kind, severity: kind.severity(), message, places, witness });
    }

    fn witness(&self, connection: &Connection, rules: &[usize]) -> Witness {
        let terms = rules.iter().flat_map(|index| self.set.rules[*index].condition.terms());
        Witness::new(connection, terms.map(|term| &term.variable).collect::<Vec<&Variable>>().into_iter())
    }

    fn name(&self, index: usize) -> String {
        self.set.rule_name(index)
    }

    /// Which rules can be true at all.
    fn satisfiable(&mut self, assembler: &mut Assembler<'_>) -> Vec<bool> {
        let mut live = Vec::with_capacity(self.formulas.len());
        for (index, formula) in self.formulas.iter().enumerate() {
            let answer = Search::new(assembler, self.formulas, self.negations, &[]).run(Vec::new(), vec![formula]);
            match &answer {
                Answer::Yes(connection) => {
                    debug_assert_eq!(self.evaluator.rule(index, connection), Truth::True, "{}", self.place(index).text);
                }
                Answer::No => {
                    let message = format!("no request can satisfy {}", self.name(index));
                    self.find(FindingKind::Unsatisfiable, message, &[index], None);
                }
                Answer::Undecided(why) => {
                    let message = format!("whether any request satisfies {}: {why}", self.name(index));
                    self.find(FindingKind::Undecided, message, &[index], None);
                }
            }
            live.push(answer != Answer::No);
        }
        live
    }

    /// For each rule the first earlier one whose condition is written the same, order aside.
    fn same_conditions(&self, live: &[bool]) -> Vec<Option<usize>> {
        let mut first = std::collections::HashMap::new();
        let earlier = |(index, formula): (usize, &Formula)| {
            let known = *first.entry(formula.clone()).or_insert(index);
            (known != index && live[index]).then_some(known)
        };
        self.formulas.iter().enumerate().map(earlier).collect()
    }

    /// A request that satisfies rule `index` and one of `others`, which take it.
    fn example(&self, assembler: &mut Assembler<'_>, index: usize, others: &[usize]) -> Option<Witness> {
        let mut search = Search::new(assembler, self.formulas, self.negations, &[]);
        let Answer::Yes(connection) = search.run(Vec::new(), vec![&self.formulas[index]]) else { return None };
        let confirmed = self.evaluator.rule(index, &connection) == Truth::True
            && others.iter().any(|other| self.evaluator.rule(*other, &connection) == Truth::True);
        let about: Vec<usize> = [&[index], others].concat();
        confirmed.then(|| self.witness(&connection, &about))
    }

    fn report_same(&mut self, assembler: &mut Assembler<'_>, index: usize, other: usize) {
        let witness = self.example(assembler, index, &[other]);
        let (rule, first) = (&self.set.rules[index], &self.set.rules[other]);
        if rule.action == first.action {
            let message = format!("{} says the same as {}", self.name(index), self.name(other));
            self.find(FindingKind::Duplicate, message, &[index, other], witness);
        } else {
            let message = format!(
                "{} and {} have one condition and two actions: {} always wins, {} never happens",
                self.name(other),
                self.name(index),
                first.action,
                rule.action
            );
            self.find(FindingKind::AbsoluteConflict, message, &[index, other], witness);
        }
    }

    /// Rules that never fire, and pairs that mean the same however they are written.
    fn shadowed(
        &mut self,
        assembler: &mut Assembler<'_>,
        overlaps: &mut Overlaps<'_>,
        live: &[bool],
        same: &[Option<usize>],
    ) -> Vec<Hidden> {
        let mut hidden = vec![Hidden::No; live.len()];
        for index in 0..live.len() {
            if !live[index] {
                continue;
            }
            if let Some(other) = same[index] {
                hidden[index] = Hidden::Same(other);
                self.report_same(assembler, index, other);
                continue;
            }
            let above: Vec<usize> = (0..index)
                .filter(|other| live[*other] && same[*other].is_none() && overlaps.possible(assembler, *other, index))
                .collect();
            if above.is_empty() {
                continue;
            }
            let mut search = Search::new(assembler, self.formulas, self.negations, &above);
            match search.run(Vec::new(), vec![&self.formulas[index]]) {
                Answer::Yes(_) => {}
                Answer::No => {
                    let met = search.met();
                    hidden[index] = self.why_shadowed(assembler, index, &met);
                }
                Answer::Undecided(why) => {
                    let message = format!("whether {} is left anything by the rules above it: {why}", self.name(index));
                    self.find(FindingKind::Undecided, message, &[index], None);
                }
            }
        }
        hidden
    }

    /// Reports a rule that never fires: as the same as one above it, if it is.
    fn why_shadowed(&mut self, assembler: &mut Assembler<'_>, index: usize, met: &[usize]) -> Hidden {
        let (formulas, negations) = (self.formulas, self.negations);
        for other in met {
            let within = |assembler: &mut Assembler<'_>, inner: usize, outer: usize| {
                let conditions = vec![&formulas[inner], &negations[outer]];
                Search::new(assembler, formulas, negations, &[]).run(Vec::new(), conditions) == Answer::No
            };
            if within(assembler, *other, index) && within(assembler, index, *other) {
                self.report_same(assembler, index, *other);
                return Hidden::Same(*other);
            }
        }
        let names: Vec<String> = met.iter().map(|other| self.name(*other)).collect();
        let (by, verb) = match names.as_slice() {
            [one] => (one.clone(), "takes"),
            [most @ .., last] => (format!("{} and {last}", most.join(", ")), "take"),
            [] => ("the rules above it".to_owned(), "take"),
        };
        let message = format!("{} never fires: {by} {verb} everything that it matches", self.name(index));
        let above: Vec<usize> = (0..index).collect();
        let witness = self.example(assembler, index, if met.is_empty() { &above } else { met });
        let mut rules = vec![index];
        rules.extend(met.iter().take(8));
        self.find(FindingKind::Shadowed, message, &rules, witness);
        Hidden::Shadowed
    }

    /// Pairs that some request satisfies both of, with different actions. Returns how many were not shown.
    fn conflicts(
        &mut self,
        assembler: &mut Assembler<'_>,
        overlaps: &mut Overlaps<'_>,
        live: &[bool],
        hidden: &[Hidden],
        limit: usize,
    ) -> usize {
        let (mut shown, mut omitted) = (0, 0);
        for lower in 0..live.len() {
            for upper in 0..lower {
                let differ = self.set.rules[upper].action != self.set.rules[lower].action;
                if !differ
                    || !live[upper]
                    || !live[lower]
                    || matches!(hidden[lower], Hidden::Same(other) if other == upper)
                {
                    continue;
                }
                // A repetition conflicts as its original does.
                if matches!(hidden[upper], Hidden::Same(_)) || matches!(hidden[lower], Hidden::Same(_)) {
                    continue;
                }
                if !overlaps.possible(assembler, upper, lower) {
                    continue;
                }
                if shown >= limit {
                    omitted += 1;
                    continue;
                }
                let conditions = vec![&self.formulas[upper], &self.formulas[lower]];
                let answer = Search::new(assembler, self.formulas, self.negations, &[]).run(Vec::new(), conditions);
                shown += usize::from(answer != Answer::No);
                self.conflict(upper, lower, answer);
            }
        }
        omitted
    }

    fn conflict(&mut self, upper: usize, lower: usize, answer: Answer<Connection>) {
        let (first, second) = (self.name(upper), self.name(lower));
        match answer {
            Answer::No => {}
            Answer::Yes(connection) => {
                let both = [upper, lower].map(|index| self.evaluator.rule(index, &connection));
                if both == [Truth::True; 2] {
                    let message = format!(
                        "a request can satisfy both {first} and {second}; {first} wins, so it gets {}, not {}",
                        self.set.rules[upper].action, self.set.rules[lower].action
                    );
                    let witness = self.witness(&connection, &[upper, lower]);
                    self.find(FindingKind::PotentialConflict, message, &[upper, lower], Some(witness));
                } else {
                    debug_assert!(false, "the evaluator refuses a witness for {first} and {second}: {connection:?}");
                    let message = format!("whether {first} and {second} overlap: the witness was not confirmed");
                    self.find(FindingKind::Undecided, message, &[upper, lower], None);
                }
            }
            Answer::Undecided(why) => {
                let message = format!("whether a request can satisfy both {first} and {second}: {why}");
                self.find(FindingKind::Undecided, message, &[upper, lower], None);
            }
        }
    }

    fn gaps(&mut self, assembler: &mut Assembler<'_>, candidates: Vec<gaps::Candidate>) {
        let all: Vec<usize> = (0..self.formulas.len()).collect();
        for gap in candidates {
            let mut search = Search::new(assembler, self.formulas, self.negations, &all);
            let Answer::Yes(connection) = search.run(gap.cube.clone(), Vec::new()) else { continue };
            let rest = if self.set.default.is_some() { "only `default` takes it" } else { "no rule takes it" };
            let message =
                format!("{} and {} leave out {}: {rest}", self.name(gap.below), self.name(gap.above), gap.values,);
            let witness = self.witness(&connection, &[gap.below, gap.above]);
            self.find(FindingKind::Gap, message, &[gap.below, gap.above], Some(witness));
        }
    }
}
