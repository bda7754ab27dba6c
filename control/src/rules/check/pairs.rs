//! Which pairs of rules could overlap, judged carrier by carrier and remembered, so that a thousand rules
//! do not cost a million full decisions.

use std::collections::HashMap;

use super::super::ast::Protocol;
use super::assemble::Assembler;
use super::atom::{Atoms, Formula, Literal, join};
use super::witness_text::Answer;

/// Alternatives into which a condition is multiplied out; wider ones are judged as a whole.
const MAX_ALTERNATIVES: usize = 64;

/// One alternative of a condition, by carrier.
struct Alternative {
    /// Carrier, and the number of its group of terms.
    cells: Vec<(usize, usize)>,
    /// The protocol that it needs.
    protocol: Option<Protocol>,
}

/// Judges pairs.
pub struct Overlaps<'a> {
    atoms: &'a Atoms,
    /// By rule; none where there are too many.
    rules: Vec<Option<Vec<Alternative>>>,
    /// Groups of terms of one carrier, numbered.
    groups: Vec<Vec<Literal>>,
    known: HashMap<(usize, usize), bool>,
}

impl<'a> Overlaps<'a> {
    pub fn new(atoms: &'a Atoms, formulas: &[Formula]) -> Self {
        let mut overlaps = Overlaps { atoms, rules: Vec::new(), groups: Vec::new(), known: HashMap::new() };
        let mut numbers: HashMap<Vec<Literal>, usize> = HashMap::new();
        for formula in formulas {
            let alternatives = formula.alternatives(MAX_ALTERNATIVES);
            let rule =
                alternatives.map(|all| all.iter().map(|cube| overlaps.alternative(cube, &mut numbers)).collect());
            overlaps.rules.push(rule);
        }
        overlaps
    }

    fn alternative(&mut self, cube: &[Literal], numbers: &mut HashMap<Vec<Literal>, usize>) -> Alternative {
        let mut by_carrier: std::collections::BTreeMap<usize, Vec<Literal>> = Default::default();
        for literal in cube {
            by_carrier.entry(self.atoms.atoms[literal.atom()].carrier).or_default().push(*literal);
        }
        let protocol = by_carrier
            .iter()
            .filter(|(_, literals)| literals.iter().any(|l| l.positive()))
            .find_map(|(carrier, _)| self.atoms.carriers[*carrier].protocol());
        let groups = &mut self.groups;
        let cells = by_carrier.into_iter().map(|(carrier, literals)| {
            let number = *numbers.entry(literals.clone()).or_insert_with(|| {
                groups.push(literals);
                groups.len() - 1
            });
            (carrier, number)
        });
        Alternative { cells: cells.collect(), protocol }
    }

    /// Whether no single carrier keeps the two rules apart. True may still turn out to be no overlap;
    /// false is certain.
    pub fn possible(&mut self, assembler: &mut Assembler<'_>, a: usize, b: usize) -> bool {
        let Overlaps { rules, groups, known, .. } = self;
        let (Some(left), Some(right)) = (&rules[a], &rules[b]) else { return true };
        left.iter().any(|x| {
            right.iter().any(|y| {
                let protocols_fit = x.protocol.is_none() || y.protocol.is_none() || x.protocol == y.protocol;
                protocols_fit && cells_fit(assembler, groups, known, &x.cells, &y.cells)
            })
        })
    }
}

fn cells_fit(
    assembler: &mut Assembler<'_>,
    groups: &[Vec<Literal>],
    known: &mut HashMap<(usize, usize), bool>,
    left: &[(usize, usize)],
    right: &[(usize, usize)],
) -> bool {
    let (mut i, mut j) = (0, 0);
    while let (Some(x), Some(y)) = (left.get(i), right.get(j)) {
        if x.0 == y.0 {
            let key = (x.1.min(y.1), x.1.max(y.1));
            let fits = x.1 == y.1
                || *known.entry(key).or_insert_with(|| match join(&groups[key.0], &groups[key.1]) {
                    Some(both) => assembler.decide(x.0, &both) != Answer::No,
                    None => false,
                });
            if !fits {
                return false;
            }
        }
        match x.0.cmp(&y.0) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                i += 1;
                j += 1;
            }
        }
    }
    true
}
