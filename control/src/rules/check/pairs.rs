//! Which pairs of rules could overlap, judged carrier by carrier and remembered, so that a thousand rules
//! do not cost a million full decisions.

use hashbrown::HashMap;

use super::super::ast::Protocol;
use super::assemble::Assembler;
use super::atom::{Atoms, Formula, Literal, Truths, join};
use super::cell::{Value, any_fits, frame, frames_differ};
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
    groups: Vec<Group>,
    known: HashMap<(usize, usize), bool>,
}

/// The terms of one alternative about one carrier.
struct Group {
    literals: Vec<Literal>,
    /// What texts that satisfy them begin and end with.
    frame: (Vec<u8>, Vec<u8>),
    /// A text that satisfies them, once it was looked for.
    sample: Option<Vec<u8>>,
    asked: bool,
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
        let (groups, atoms) = (&mut self.groups, self.atoms);
        let cells = by_carrier.into_iter().map(|(carrier, literals)| {
            let number = *numbers.entry(literals.clone()).or_insert_with(|| {
                let frame = frame(atoms, &literals).unwrap_or_default();
                groups.push(Group { literals, frame, sample: None, asked: false });
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
    groups: &mut [Group],
    known: &mut HashMap<(usize, usize), bool>,
    left: &[(usize, usize)],
    right: &[(usize, usize)],
) -> bool {
    let (mut i, mut j) = (0, 0);
    while let (Some(x), Some(y)) = (left.get(i), right.get(j)) {
        if x.0 == y.0 && x.1 != y.1 && !groups_fit(assembler, groups, known, x.0, (x.1.min(y.1), x.1.max(y.1))) {
            return false;
        }
        let (next_i, next_j) = (i + usize::from(x.0 <= y.0), j + usize::from(x.0 >= y.0));
        (i, j) = (next_i, next_j);
    }
    true
}

/// Whether two groups of terms about one carrier can hold together, as far as is certain.
fn groups_fit(
    assembler: &mut Assembler<'_>,
    groups: &mut [Group],
    known: &mut HashMap<(usize, usize), bool>,
    carrier: usize,
    pair: (usize, usize),
) -> bool {
    if frames_differ(&groups[pair.0].frame, &groups[pair.1].frame) {
        return false;
    }
    if let Some(known) = known.get(&pair) {
        return *known;
    }
    let atoms = assembler.atoms;
    let fits = match join(&groups[pair.0].literals, &groups[pair.1].literals) {
        None => false,
        Some(both) => {
            let text = both.iter().any(|l| matches!(atoms.atoms[l.atom()].truths, Truths::Text(_)));
            text && any_fits(atoms, carrier, &both, &guesses(assembler, groups, carrier, pair))
                || assembler.decide(carrier, &both) != Answer::No
        }
    };
    known.insert(pair, fits);
    fits
}

/// Texts that may satisfy both groups: what satisfies one, and one after the other.
fn guesses(assembler: &mut Assembler<'_>, groups: &mut [Group], carrier: usize, pair: (usize, usize)) -> Vec<Vec<u8>> {
    for at in [pair.0, pair.1] {
        if !groups[at].asked {
            groups[at].asked = true;
            if let Answer::Yes(Value::Text(text)) = assembler.decide(carrier, &groups[at].literals) {
                groups[at].sample = Some(text);
            }
        }
    }
    let (Some(a), Some(b)) = (&groups[pair.0].sample, &groups[pair.1].sample) else { return Vec::new() };
    vec![a.clone(), b.clone(), [&a[..], b].concat(), [&b[..], a].concat()]
}
