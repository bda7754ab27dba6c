//! A request that one condition takes and others do not, or the proof that there is none.
//!
//! A tableau: conjunctions are taken apart, disjunctions tried branch by branch. Conditions that must not
//! hold are added only once a candidate request satisfies them, so a rule below a thousand others costs
//! a few steps, not a thousand automata side by side.

use super::super::connection::Connection;
use super::super::eval::{Attribute, Attributes};
use super::assemble::Assembler;
use super::atom::{Formula, Literal};
use super::witness_text::Answer;

/// Conjunctions that are tried for one question before it is left undecided.
pub const MAX_STEPS: usize = 4_000;

/// The state of one question.
pub struct Search<'a, 'b, 'm> {
    assembler: &'b mut Assembler<'m>,
    formulas: &'a [Formula],
    negations: &'a [Formula],
    /// Rules that the request must not satisfy.
    exclude: &'b [usize],
    steps: usize,
    undecided: Option<String>,
    /// The excluded rules that candidates ran into.
    met: Vec<usize>,
}

impl<'a, 'b, 'm> Search<'a, 'b, 'm> {
    /// `formulas` are the conditions of the rules, `negations` their negations.
    pub fn new(
        assembler: &'b mut Assembler<'m>,
        formulas: &'a [Formula],
        negations: &'a [Formula],
        exclude: &'b [usize],
    ) -> Self {
        Search { assembler, formulas, negations, exclude, steps: 0, undecided: None, met: Vec::new() }
    }

    /// The excluded rules that took candidates: where the answer is no, together they take everything.
    pub fn met(mut self) -> Vec<usize> {
        self.met.sort_unstable();
        self.met.dedup();
        self.met
    }

    /// A connection that satisfies `cube`, all of `conditions` and none of the excluded rules.
    pub fn run(&mut self, cube: Vec<Literal>, conditions: Vec<&'a Formula>) -> Answer<Connection> {
        match self.branch(cube, conditions) {
            Some(connection) => Answer::Yes(connection),
            None => match self.undecided.take() {
                Some(why) => Answer::Undecided(why),
                None => Answer::No,
            },
        }
    }

    fn branch(&mut self, cube: Vec<Literal>, pending: Vec<&'a Formula>) -> Option<Connection> {
        self.branch_with(cube, pending, &[])
    }

    /// Takes `pending` apart into the cube; `choices` are disjunctions still to be made true.
    fn branch_with(
        &mut self,
        mut cube: Vec<Literal>,
        mut pending: Vec<&'a Formula>,
        choices: &[&'a [Formula]],
    ) -> Option<Connection> {
        let mut open: Vec<&'a [Formula]> = choices.to_vec();
        while let Some(formula) = pending.pop() {
            match formula {
                Formula::Literal(literal) => {
                    if cube.contains(&literal.negated()) {
                        return None;
                    }
                    if !cube.contains(literal) {
                        cube.push(*literal);
                    }
                }
                Formula::And(parts) => pending.extend(parts),
                Formula::Or(parts) => open.push(parts),
            }
        }
        self.steps += 1;
        if self.steps > MAX_STEPS {
            self.undecided = Some(format!("more than {MAX_STEPS} combinations of terms"));
            return None;
        }
        if !self.possible(&cube) {
            return None;
        }
        // A choice that is already made is none; the narrowest of the others fails soonest.
        open.retain(|parts| !parts.iter().any(|part| matches!(part, Formula::Literal(l) if cube.contains(l))));
        open.sort_by_key(|parts| std::cmp::Reverse(parts.len()));
        let Some(parts) = open.pop() else { return self.leaf(cube) };
        for part in parts {
            if let Some(connection) = self.branch_with(cube.clone(), vec![part], &open) {
                return Some(connection);
            }
            if self.steps > MAX_STEPS {
                return None;
            }
        }
        None
    }

    /// Whether every carrier by itself can satisfy its terms.
    fn possible(&mut self, cube: &[Literal]) -> bool {
        self.assembler.cells(cube).iter().all(|(carrier, literals)| {
            let mut sorted = literals.clone();
            sorted.sort_unstable();
            *self.assembler.cell(*carrier, &sorted) != Answer::No
        })
    }

    fn leaf(&mut self, mut cube: Vec<Literal>) -> Option<Connection> {
        cube.sort_unstable();
        let connection = match self.assembler.assemble(&cube) {
            Answer::Yes(connection) => connection,
            Answer::No => return None,
            Answer::Undecided(why) => {
                self.undecided = Some(why);
                return None;
            }
        };
        let mut truths = vec![None; self.assembler.atoms.atoms.len()];
        let taken = self.exclude.iter().find(|rule| self.holds(&self.formulas[**rule], &connection, &mut truths));
        let Some(rule) = taken.copied() else { return Some(connection) };
        self.met.push(rule);
        self.branch(cube, vec![&self.negations[rule]])
    }

    fn holds(&self, formula: &Formula, connection: &Connection, truths: &mut [Option<bool>]) -> bool {
        match formula {
            Formula::And(parts) => parts.iter().all(|part| self.holds(part, connection, truths)),
            Formula::Or(parts) => parts.iter().any(|part| self.holds(part, connection, truths)),
            Formula::Literal(literal) => {
                let atom = &self.assembler.atoms.atoms[literal.atom()];
                let truth = *truths[literal.atom()].get_or_insert_with(|| {
                    let value: Attribute<'_> = connection.get(&atom.variable);
                    atom.holds(&value)
                });
                truth == literal.positive()
            }
        }
    }
}
