//! What one carrier must be: all terms of a conjunction that read the same text, number or address,
//! decided together.

use super::super::ast::{Kind, Variable};
use super::super::decimal::Decimal;
use super::atom::{Atoms, Carrier, Literal, Truths, number_machine, view};
use super::ranges::{Addresses, Ranges};
use super::view::{Component, View};
use super::witness_text::{Answer, content, shortest};

/// A value for a carrier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Absent,
    Text(Vec<u8>),
    Integer(u64),
    /// Any of these.
    Addresses(Addresses),
    Flag(bool),
}

/// Values that read well in a witness, tried before others are looked for.
fn favourites(carrier: &Carrier) -> &'static [&'static [u8]] {
    match carrier {
        Carrier::Header(name) if name == "host" => &[b"www.example.com"],
        Carrier::Header(name) if name == "content-type" => &[b"text/xml", b"application/json"],
        Carrier::Variable(Variable::Method) => &[b"GET", b"POST", b"PUT", b"HEAD", b"DELETE"],
        Carrier::Variable(Variable::HttpVersion) => &[b"1.1", b"1.0"],
        Carrier::Variable(Variable::SmtpFrom) => &[b"sender@example.com"],
        Carrier::Variable(Variable::SmtpTo) => &[b"user@example.com"],
        _ => &[],
    }
}

/// How the carrier may be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Absent where the terms allow it and no favourite fits.
    Free,
    /// Present.
    Required,
}

/// A value for `carrier` for which every one of `literals` (all of them about it) holds, and with
/// which `extra` is content.
pub fn solve(
    atoms: &Atoms,
    carrier: usize,
    literals: &[Literal],
    presence: Presence,
    extra: &[Component],
) -> Answer<Value> {
    let kind = &atoms.carriers[carrier];
    let variable = literals.first().map(|literal| &atoms.atoms[literal.atom()].variable);
    match variable.map(Variable::kind) {
        Some(Kind::Flag) => {
            let up = literals.iter().all(|l| l.positive());
            let down = literals.iter().all(|l| !l.positive());
            return if up || down { Answer::Yes(Value::Flag(up)) } else { Answer::No };
        }
        Some(Kind::Integer { max }) => return integer(atoms, kind, literals, i128::from(max)),
        Some(Kind::Address) => {
            let mut set = Addresses::all();
            for literal in literals {
                if let Truths::Addresses(truth) = &atoms.atoms[literal.atom()].truths {
                    set = set.intersect(&if literal.positive() { truth.clone() } else { truth.complement() });
                }
            }
            return if set.is_empty() { Answer::No } else { Answer::Yes(Value::Addresses(set)) };
        }
        Some(Kind::Text) | None => {}
    }
    text(atoms, kind, literals, presence, extra)
}

/// A number of the packet or of a group. Packets are taken to be long enough for every `bitmatch`.
fn integer(atoms: &Atoms, carrier: &Carrier, literals: &[Literal], max: i128) -> Answer<Value> {
    let Carrier::Variable(variable) = carrier else { return Answer::No };
    let mut set = Ranges::new(vec![(0, max)]);
    for literal in literals {
        match &atoms.atoms[literal.atom()].truths {
            Truths::Integers(truth) if literal.positive() => set = set.intersect(truth),
            Truths::Integers(truth) => set = set.intersect(&truth.complement(0, max)),
            _ if !literal.positive() => return Answer::No,
            _ => {}
        }
    }
    if let Variable::Bitmatch { mask, .. } = variable {
        return masked(&set, *mask);
    }
    let favourite = match variable {
        Variable::IpTtl => 64,
        Variable::IpProto => 6,
        Variable::PortDst => 80,
        Variable::PortSrc => 40_000,
        _ => 0,
    };
    let chosen = if set.contains(favourite) { Some(favourite) } else { set.first() };
    match chosen.and_then(|n| u64::try_from(n).ok()) {
        Some(n) => Answer::Yes(Value::Integer(n)),
        None => Answer::No,
    }
}

/// A value in `set` that has no bit outside `mask`: the smallest such value of each range.
fn masked(set: &Ranges, mask: u64) -> Answer<Value> {
    for (low, high) in set.iter() {
        let (Ok(low), Ok(high)) = (u64::try_from(low), u64::try_from(high)) else { continue };
        if let Some(value) = next_masked(low, mask).filter(|value| *value <= high) {
            return Answer::Yes(Value::Integer(value));
        }
    }
    Answer::No
}

/// The smallest number from `low` on that has no bit outside `mask`.
fn next_masked(low: u64, mask: u64) -> Option<u64> {
    let foreign = low & !mask;
    if foreign == 0 {
        return Some(low);
    }
    // The highest foreign bit must be passed: raise the lowest clear mask bit above it, drop all below.
    let top = 63 - foreign.leading_zeros();
    let raised = (top + 1..64).find(|bit| mask >> bit & 1 == 1 && low >> bit & 1 == 0)?;
    Some((low >> raised | 1) << raised & mask)
}

fn text(
    atoms: &Atoms,
    carrier: &Carrier,
    literals: &[Literal],
    presence: Presence,
    extra: &[Component],
) -> Answer<Value> {
    let may_be_absent =
        presence == Presence::Free && !carrier.always_present() && literals.iter().all(|literal| !literal.positive());
    let plain = literals.iter().all(|l| matches!(atoms.atoms[l.atom()].truths, Truths::Present | Truths::Numbers(_)));
    let whole = matches!(carrier, Carrier::Variable(_));
    if plain && whole && extra.is_empty() && favourites(carrier).is_empty() {
        return numbers(atoms, carrier, literals, may_be_absent);
    }
    let components = match components(atoms, literals, extra) {
        Ok(components) => components,
        Err(_) if may_be_absent => return Answer::Yes(Value::Absent),
        Err(why) => return Answer::Undecided(why),
    };
    let domain = carrier.domain();
    let favourite = favourites(carrier).iter().find(|text| content(&components, domain, text));
    if let Some(favourite) = favourite {
        return Answer::Yes(Value::Text(favourite.to_vec()));
    }
    if may_be_absent {
        return Answer::Yes(Value::Absent);
    }
    let Some((prefix, suffix)) = frame(atoms, literals) else { return Answer::No };
    if let Some(listed) = listed(atoms, literals) {
        let fits = listed.iter().find(|text| content(&components, domain, text));
        return fits.map_or(Answer::No, |text| Answer::Yes(Value::Text(text.clone())));
    }
    match shortest(&components, domain) {
        Answer::Yes(text) => Answer::Yes(Value::Text(text)),
        Answer::No => Answer::No,
        // Too large to search; perhaps beginning and end are all that is asked.
        Answer::Undecided(why) => {
            let text = [prefix, suffix].concat();
            if content(&components, domain, &text) { Answer::Yes(Value::Text(text)) } else { Answer::Undecided(why) }
        }
    }
}

/// Whether one of `guesses` satisfies all terms of one carrier: a quick look before a search.
pub fn any_fits(atoms: &Atoms, carrier: usize, literals: &[Literal], guesses: &[Vec<u8>]) -> bool {
    let Ok(components) = components(atoms, literals, &[]) else { return false };
    guesses.iter().any(|text| content(&components, atoms.carriers[carrier].domain(), text))
}

/// Only numbers are asked for: no automaton is needed.
fn numbers(atoms: &Atoms, carrier: &Carrier, literals: &[Literal], may_be_absent: bool) -> Answer<Value> {
    if may_be_absent {
        return Answer::Yes(Value::Absent);
    }
    let (min, max) = (Decimal::MIN.steps(), Decimal::MAX.steps());
    let mut set = Ranges::new(vec![(min, max)]);
    let mut is_number = false;
    for literal in literals {
        match &atoms.atoms[literal.atom()].truths {
            Truths::Numbers(truth) if literal.positive() => {
                is_number = true;
                set = set.intersect(truth);
            }
            Truths::Numbers(truth) => set = set.intersect(&truth.complement(min, max)),
            _ if !literal.positive() => return Answer::No,
            _ => {}
        }
    }
    if !is_number {
        // Present, and not one of those numbers: a text will do, where the carrier may be one.
        let text: &[u8] = b"a";
        if carrier.domain().allows(text) {
            return Answer::Yes(Value::Text(text.to_vec()));
        }
    }
    let written = set.iter().map(|(low, high)| {
        let number = Decimal::shortest_between(Decimal::from_steps(low), Decimal::from_steps(high));
        number.to_string()
    });
    // The shortest to write; of equals the first, so that witnesses stay near the smallest bound.
    match written.min_by_key(|text| (text.starts_with('-'), text.len())) {
        Some(text) if carrier.domain().allows(text.as_bytes()) => Answer::Yes(Value::Text(text.into_bytes())),
        Some(text) => Answer::Undecided(format!("{text} may not be a value here")),
        None => Answer::No,
    }
}

fn components(atoms: &Atoms, literals: &[Literal], extra: &[Component]) -> Result<Vec<Component>, String> {
    let mut components = extra.to_vec();
    for literal in literals {
        let atom = &atoms.atoms[literal.atom()];
        let machine = match &atom.truths {
            Truths::Text(set) => Some(set.machine.clone()?),
            Truths::Numbers(_) => match number_machine(atom) {
                Some(machine) => Some(machine),
                None => return Err("a long list of numbers stands beside other tests of the same text".into()),
            },
            _ => None,
        };
        components.push(Component { view: view(&atom.variable), machine, positive: literal.positive() });
    }
    Ok(components)
}

/// What every text that satisfies a group of terms begins and ends with; none if that contradicts
/// itself.
pub fn frame(atoms: &Atoms, literals: &[Literal]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (mut prefix, mut suffix): (&[u8], &[u8]) = (b"", b"");
    for literal in literals.iter().filter(|l| l.positive()) {
        let atom = &atoms.atoms[literal.atom()];
        let Truths::Text(set) = &atom.truths else { continue };
        let view = view(&atom.variable);
        // A path is the beginning of its URL.
        if matches!(view, View::Whole | View::Path) {
            prefix = longer(prefix, &set.prefix, |long, short| long.starts_with(short))?;
        }
        if view == View::Whole {
            suffix = longer(suffix, &set.suffix, |long, short| long.ends_with(short))?;
        }
    }
    Some((prefix.to_vec(), suffix.to_vec()))
}

/// The longer of two, if it continues the other.
fn longer<'a>(a: &'a [u8], b: &'a [u8], continues: impl Fn(&[u8], &[u8]) -> bool) -> Option<&'a [u8]> {
    let (long, short) = if a.len() < b.len() { (b, a) } else { (a, b) };
    continues(long, short).then_some(long)
}

/// Whether what two groups of terms ask for at the beginning and the end of a text cannot both be.
pub fn frames_differ(a: &(Vec<u8>, Vec<u8>), b: &(Vec<u8>, Vec<u8>)) -> bool {
    longer(&a.0, &b.0, |long, short| long.starts_with(short)).is_none()
        || longer(&a.1, &b.1, |long, short| long.ends_with(short)).is_none()
}

/// The texts to which one term limits the carrier, if there is such a term.
fn listed<'a>(atoms: &'a Atoms, literals: &[Literal]) -> Option<&'a [Vec<u8>]> {
    literals.iter().filter(|l| l.positive()).find_map(|literal| {
        let atom = &atoms.atoms[literal.atom()];
        match &atom.truths {
            Truths::Text(set) if view(&atom.variable) == View::Whole => set.listed.as_deref(),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masked_numbers_are_the_next_that_the_mask_allows() {
        for mask in [0b1u64, 0b1010, 0b1100, 0b0110_0001] {
            for low in 0..200u64 {
                let expected = (low..512).find(|n| n & !mask == 0);
                assert_eq!(next_masked(low, mask), expected, "{low} {mask:b}");
            }
        }
        assert_eq!(next_masked(u64::MAX, u64::MAX), Some(u64::MAX));
        assert_eq!(next_masked(u64::MAX, u64::MAX - 1), None);
    }
}
