//! Values between the ranges of two rules that neither takes: `> 50000` beside `> 0 && < 50000` leaves out
//! exactly 50000.

use std::collections::HashSet;

use super::super::ast::{Relation, Variable};
use super::super::decimal::Decimal;
use super::atom::{Atoms, Formula, Literal, Truths, join};
use super::ranges::Ranges;

/// Alternatives into which a condition is multiplied out; wider ones are passed over.
const MAX_ALTERNATIVES: usize = 64;
/// Candidates that are looked at.
const MAX_CANDIDATES: usize = 200;

/// Values that two rules may leave out.
pub struct Candidate {
    /// The rule whose range ends below them.
    pub below: usize,
    /// The rule whose range begins above them.
    pub above: usize,
    /// The values, in words.
    pub values: String,
    /// The values as terms, together with what else both rules ask.
    pub cube: Vec<Literal>,
}

/// One rule's range of one variable, and what else that alternative of the rule asks.
struct Piece {
    low: i128,
    high: i128,
    rule: usize,
    rest: Vec<Literal>,
}

/// Finds the holes between ranges. Adds the terms that describe them to `atoms`.
pub fn candidates(atoms: &mut Atoms, formulas: &[Formula]) -> Vec<Candidate> {
    let alternatives: Vec<Vec<Vec<Literal>>> =
        formulas.iter().map(|f| f.alternatives(MAX_ALTERNATIVES).unwrap_or_default()).collect();
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    for carrier in 0..atoms.carriers.len() {
        // One variable may be compared with numbers though its carrier holds others too (query.id in a URL).
        let variables: HashSet<Variable> = atoms
            .atoms
            .iter()
            .filter(|a| a.carrier == carrier && is_range(&a.truths))
            .map(|a| a.variable.clone())
            .collect();
        for variable in variables {
            let pieces = pieces(atoms, &alternatives, &variable);
            for (below, above, low, high) in holes(&pieces) {
                let Some(rest) = join(&below.rest, &above.rest) else { continue };
                let like = atoms.atoms.iter().position(|a| a.variable == variable && is_range(&a.truths));
                let Some(like) = like else { continue };
                let (cube, values) = describe(atoms, like, low, high);
                let Some(cube) = join(&rest, &cube) else { continue };
                if seen.insert(cube.clone()) && found.len() < MAX_CANDIDATES {
                    found.push(Candidate { below: below.rule, above: above.rule, values, cube });
                }
            }
        }
    }
    found.sort_by_key(|c| (c.below, c.above));
    found
}

fn is_range(truths: &Truths) -> bool {
    matches!(truths, Truths::Integers(_) | Truths::Numbers(_))
}

fn pieces(atoms: &Atoms, alternatives: &[Vec<Vec<Literal>>], variable: &Variable) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (rule, cubes) in alternatives.iter().enumerate() {
        for cube in cubes {
            let about = |l: &&Literal| {
                let atom = &atoms.atoms[l.atom()];
                atom.variable == *variable && is_range(&atom.truths) && l.positive()
            };
            let mut set: Option<Ranges> = None;
            for literal in cube.iter().filter(about) {
                if let Truths::Integers(r) | Truths::Numbers(r) = &atoms.atoms[literal.atom()].truths {
                    set = Some(set.map_or(r.clone(), |s| s.intersect(r)));
                }
            }
            let Some(set) = set else { continue };
            let rest: Vec<Literal> = cube.iter().filter(|l| !about(l)).copied().collect();
            pieces.extend(set.iter().map(|(low, high)| Piece { low, high, rule, rest: rest.clone() }));
        }
    }
    pieces.sort_by_key(|p| (p.low, p.high));
    pieces
}

/// The spans between the union of the pieces, each with a piece that ends below it and one that begins
/// above it. Single values on either side suggest nothing.
fn holes(pieces: &[Piece]) -> Vec<(&Piece, &Piece, i128, i128)> {
    let mut holes = Vec::new();
    let mut reach: Option<&Piece> = None;
    let mut wide = false;
    for (at, piece) in pieces.iter().enumerate() {
        if let Some(last) = reach.filter(|last| piece.low > last.high.saturating_add(1)) {
            // The run above: does it hold more than single values?
            let mut end = piece.high;
            let mut run = pieces[at..].iter().take_while(|p| {
                let joined = p.low <= end.saturating_add(1);
                end = end.max(p.high);
                joined
            });
            if wide && run.any(|p| p.low < p.high) {
                holes.push((last, piece, last.high + 1, piece.low - 1));
            }
            wide = false;
        }
        wide |= piece.low < piece.high;
        if reach.is_none_or(|last| piece.high > last.high) {
            reach = Some(piece);
        }
    }
    holes
}

/// The values `low..=high` (half-billionths, or whole numbers) as terms and in words.
fn describe(atoms: &mut Atoms, like: usize, low: i128, high: i128) -> (Vec<Literal>, String) {
    let variable = atoms.atoms[like].variable.to_string();
    let whole = matches!(atoms.atoms[like].truths, Truths::Integers(_));
    let (from, to, above, below) = if whole {
        (Decimal::from_integer(low), Decimal::from_integer(high), false, false)
    } else {
        // Odd steps lie between the numbers that a rule can hold: there the bound itself is left out.
        let (above, below) = (low % 2 != 0, high % 2 != 0);
        (Decimal::from_steps(low - i128::from(above)), Decimal::from_steps(high + i128::from(below)), above, below)
    };
    if from == to {
        let atom = atoms.number_atom(like, Relation::Equal, from);
        return (vec![Literal::new(atom, true)], format!("exactly {variable} == {from}"));
    }
    let lower = if above { Relation::Greater } else { Relation::GreaterOrEqual };
    let upper = if below { Relation::Less } else { Relation::LessOrEqual };
    let atom_low = atoms.number_atom(like, lower, from);
    let atom_high = atoms.number_atom(like, upper, to);
    let cube = vec![Literal::new(atom_low, true), Literal::new(atom_high, true)];
    let words = format!("{variable} {} {from} && {variable} {} {to}", lower.symbol(), upper.symbol());
    (cube, words)
}
