//! What the document scanners' tests share.

use super::error::ExtractError;
use super::paths::PathPlan;
use super::place::{Place, Scan, Sink, Source};
use crate::matching::{Action, DocPath, Expr, Found, Relation, Rule, RuleSet, Term, Value, Variable, compile};

pub(super) type Values = Result<Vec<Option<Vec<u8>>>, ExtractError>;

type Scanner<'s> = dyn FnMut(&PathPlan, &[u8], bool, &mut Sink<'_>) -> Result<Scan, ExtractError> + 's;

/// The value of each path, with the document arriving in pieces.
pub(super) fn values(
    variable: &dyn Fn(DocPath) -> Variable,
    paths: &[&str],
    document: &[u8],
    piece: usize,
    scan: &mut Scanner<'_>,
) -> Values {
    let paths: Vec<DocPath> = paths.iter().map(|path| DocPath::parse(path).unwrap()).collect();
    let term = |path: &DocPath| Rule {
        name: "exists".into(),
        condition: Expr::Term(Term {
            variable: variable(path.clone()),
            relation: Relation::Exists,
            value: Value::Nothing,
            ignore_case: false,
        }),
        action: Action::Reject { status: None },
    };
    let program = compile(&RuleSet { rules: paths.iter().map(term).collect() }).unwrap();
    let id = |path: &DocPath| program.variable_id(&variable(path.clone())).unwrap();
    let plan = PathPlan::new(paths.iter().map(|path| (id(path), path)));
    let (mut found, mut decoded): (Vec<Found<Place>>, _) = (Vec::new(), Vec::new());
    let mut length = 0_usize;
    loop {
        length = document.len().min(length.saturating_add(piece));
        let mut sink =
            Sink { found: &mut found, decoded: &mut decoded, source: Source::Buffer, base: 0, wanted: &[], hit: false };
        let end = length == document.len();
        let mut scanned = scan(&plan, &document[..length], end, &mut sink)?;
        while scanned == Scan::Hit {
            scanned = scan(&plan, &document[..length], end, &mut sink)?;
        }
        if scanned == Scan::Complete {
            break;
        }
        assert!(!end, "a scanner must not ask for more than there is");
    }
    let value = |path| {
        let place = found.iter().find(|found| found.variable == id(path))?.place;
        let from = if place.source == Source::Decoded { &decoded } else { document };
        Some(from[place.start as usize..place.end as usize].to_vec())
    };
    Ok(paths.iter().map(value).collect())
}
