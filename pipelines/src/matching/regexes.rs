//! All regexes of a program as one lazily built DFA, and the literals that a text must have before one is worth running.
//!
//! Running ten thousand patterns side by side makes states of ten thousand positions. Instead each pattern is filed
//! under a literal that its matches cannot lack; the substring and prefix matchers find the few candidates, and the DFA
//! is started at the candidate's own start state (`Anchored::Pattern`), so a state holds one pattern's positions only.

use regex_automata::hybrid::dfa::{Cache, Config, DFA};
use regex_automata::nfa::thompson;
use regex_automata::{Anchored, Input, MatchKind};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, Hir, HirKind, Look};

use super::lower::Problem;
use super::test::Case;

/// Bytes that the automaton of all regexes together may take.
pub const NFA_LIMIT: usize = 128 << 20;
/// Bytes that one pattern may take.
pub const PATTERN_LIMIT: usize = 1 << 20;
/// Bytes of lazily built DFA states that a worker keeps; when full it starts over. A very large automaton needs more
/// than this to hold even a few states; then it gets that minimum.
pub const CACHE_CAPACITY: usize = 4 << 20;
/// Literals that may stand for one pattern.
const MAX_LITERALS: usize = 16;
/// Shorter literals than this select too little to be looked for.
const MIN_LITERAL: usize = 2;

/// One parsed pattern.
#[derive(Debug)]
pub(super) struct PatternSyntax {
    hir: Hir,
    anchored: bool,
    pub(super) filter: Filter,
}

/// What a text must have for a pattern to be worth running: one of the literals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Filter {
    /// Nothing is known; every text must be tried.
    Any,
    Prefix(Vec<(Box<[u8]>, Case)>),
    Suffix(Vec<(Box<[u8]>, Case)>),
    Contains(Vec<(Box<[u8]>, Case)>),
}

impl PatternSyntax {
    pub(super) fn new(text: &[u8], ignore_case: bool) -> Result<Self, Problem> {
        let bad = |message: String| Problem::Regex(message);
        let text = std::str::from_utf8(text).map_err(|_| bad("it is not UTF-8".into()))?;
        let hir = ParserBuilder::new()
            .unicode(false)
            .utf8(false)
            .case_insensitive(ignore_case)
            .nest_limit(128)
            .build()
            .parse(text)
            .map_err(|error| bad(error.to_string()))?;
        if hir.properties().look_set().contains_word_unicode() {
            return Err(bad("Unicode word boundaries are not supported: write (?-u:\\b)".into()));
        }
        // Alone first, so that a pattern that explodes is named and does not take the others with it.
        thompson::Compiler::new()
            .configure(nfa_config(PATTERN_LIMIT))
            .build_from_hir(&hir)
            .map_err(|error| bad(error.to_string()))?;
        let anchored = hir.properties().look_set_prefix().contains(Look::Start);
        let filter = filter(&hir, anchored);
        Ok(Self { hir, anchored, filter })
    }
}

fn nfa_config(limit: usize) -> thompson::Config {
    thompson::Config::new().utf8(false).nfa_size_limit(Some(limit)).which_captures(thompson::WhichCaptures::None)
}

/// The automaton.
#[derive(Debug)]
pub(super) struct Regexes(DFA);

impl Regexes {
    pub(super) fn new(patterns: &[PatternSyntax]) -> Result<Option<Self>, Problem> {
        if patterns.is_empty() {
            return Ok(None);
        }
        let anywhere = Hir::repetition(regex_syntax::hir::Repetition {
            min: 0,
            max: None,
            greedy: false,
            sub: Box::new(Hir::dot(regex_syntax::hir::Dot::AnyByte)),
        });
        let hirs: Vec<Hir> = patterns
            .iter()
            .map(|pattern| match pattern.anchored {
                true => pattern.hir.clone(),
                false => Hir::concat(vec![anywhere.clone(), pattern.hir.clone()]),
            })
            .collect();
        let nfa = thompson::Compiler::new()
            .configure(nfa_config(NFA_LIMIT))
            .build_many_from_hir(&hirs)
            .map_err(|error| Problem::RegexSize(error.to_string()))?;
        DFA::builder()
            .configure(
                Config::new()
                    .match_kind(MatchKind::All)
                    .starts_for_each_pattern(true)
                    .cache_capacity(CACHE_CAPACITY)
                    .skip_cache_capacity_check(true),
            )
            .build_from_nfa(nfa)
            .map(|dfa| Some(Self(dfa)))
            .map_err(|error| Problem::RegexSize(error.to_string()))
    }

    pub(super) fn cache(&self) -> Cache {
        self.0.create_cache()
    }

    /// Whether the pattern matches somewhere in the text.
    pub(super) fn matches(&self, cache: &mut Cache, pattern: u32, text: &[u8]) -> bool {
        let Ok(pattern) = regex_automata::PatternID::try_from(pattern as usize) else { return false };
        let input = Input::new(text).anchored(Anchored::Pattern(pattern)).earliest(true);
        // No quit bytes are configured and the cache may be cleared as often as need be, so this cannot fail.
        matches!(self.0.try_search_fwd(cache, &input), Ok(Some(_)))
    }
}

/// The best required literals of a pattern.
fn filter(hir: &Hir, anchored: bool) -> Filter {
    let parts = match hir.kind() {
        HirKind::Concat(parts) => &parts[..],
        _ => std::slice::from_ref(hir),
    };
    let ends = hir.properties().look_set_suffix().contains(Look::End);
    let is = |part: Option<&Hir>, look| matches!(part.map(Hir::kind), Some(HirKind::Look(l)) if *l == look);
    let (mut prefix, mut suffix) = (None, None);
    if anchored && is(parts.first(), Look::Start) {
        prefix = run(&parts[1..], false);
    }
    if ends && is(parts.last(), Look::End) {
        suffix = run(&parts[..parts.len() - 1], true);
    }
    let inner = required(hir);
    let (p, s, i) = (score(prefix.as_ref()), score(suffix.as_ref()), score(inner.as_ref()));
    match (prefix, suffix, inner) {
        (Some(prefix), ..) if p > 0 && p >= s && p + 2 >= i => Filter::Prefix(prefix),
        (_, Some(suffix), _) if s > 0 && s + 2 >= i => Filter::Suffix(suffix),
        (.., Some(inner)) if i > 0 => Filter::Contains(inner),
        _ => Filter::Any,
    }
}

type Literals = Vec<(Box<[u8]>, Case)>;

/// Length of the shortest literal; 0 if it is not worth looking for.
fn score(literals: Option<&Literals>) -> usize {
    let shortest = literals.and_then(|list| list.iter().map(|(text, _)| text.len()).min()).unwrap_or(0);
    if shortest < MIN_LITERAL { 0 } else { shortest }
}

/// The literals with which these parts in a row must begin (or, reversed, end).
fn run(parts: &[Hir], reversed: bool) -> Option<Literals> {
    let mut ordered: Vec<&Hir> = parts.iter().collect();
    if reversed {
        ordered.reverse();
    }
    let mut texts: Vec<Vec<u8>> = vec![Vec::new()];
    let mut case = Case::Exact;
    for part in ordered {
        let Some((more, more_case)) = exact(part) else { break };
        if texts.len() * more.len() > MAX_LITERALS {
            break;
        }
        case = case.max(more_case);
        texts = texts
            .iter()
            .flat_map(|old| {
                more.iter().map(move |new| if reversed { [&new[..], old].concat() } else { [&old[..], new].concat() })
            })
            .collect();
    }
    Some(texts.into_iter().map(|text| held(text, case)).collect())
}

fn held(text: Vec<u8>, case: Case) -> (Box<[u8]>, Case) {
    let text = if case == Case::Folded { text.to_ascii_lowercase() } else { text };
    (text.into(), case)
}

/// All texts that the part matches, if they are few.
fn exact(hir: &Hir) -> Option<(Vec<Vec<u8>>, Case)> {
    match hir.kind() {
        HirKind::Empty => Some((vec![Vec::new()], Case::Exact)),
        HirKind::Literal(literal) => Some((vec![literal.0.to_vec()], Case::Exact)),
        HirKind::Capture(capture) => exact(&capture.sub),
        HirKind::Class(class) => {
            let bytes = class_bytes(class)?;
            // `[Aa]` is the letter in any case.
            if let [upper, lower] = bytes[..] {
                if upper.is_ascii_uppercase() && upper.to_ascii_lowercase() == lower {
                    return Some((vec![vec![lower]], Case::Folded));
                }
            }
            Some((bytes.into_iter().map(|byte| vec![byte]).collect(), Case::Exact))
        }
        HirKind::Concat(parts) => {
            let mut all = (vec![Vec::new()], Case::Exact);
            for part in parts {
                let (more, case) = exact(part)?;
                if all.0.len() * more.len() > MAX_LITERALS {
                    return None;
                }
                all.1 = all.1.max(case);
                all.0 = all.0.iter().flat_map(|old| more.iter().map(move |new| [&old[..], new].concat())).collect();
            }
            Some(all)
        }
        HirKind::Alternation(parts) => {
            let mut all = (Vec::new(), Case::Exact);
            for part in parts {
                let (mut more, case) = exact(part)?;
                all.0.append(&mut more);
                all.1 = all.1.max(case);
            }
            (all.0.len() <= MAX_LITERALS).then_some(all)
        }
        HirKind::Look(_) | HirKind::Repetition(_) => None,
    }
}

fn class_bytes(class: &Class) -> Option<Vec<u8>> {
    let ranges: Vec<(u32, u32)> = match class {
        Class::Bytes(class) => class.ranges().iter().map(|r| (r.start().into(), r.end().into())).collect(),
        Class::Unicode(class) => class.ranges().iter().map(|r| (r.start().into(), r.end().into())).collect(),
    };
    let mut bytes = Vec::new();
    for (start, end) in ranges {
        // Beyond ASCII a Unicode class is several bytes long.
        if end >= 0x80 || end - start >= 4 || bytes.len() >= 4 {
            return None;
        }
        bytes.extend((start..=end).map(|byte| byte as u8));
    }
    (!bytes.is_empty()).then_some(bytes)
}

/// Literals of which every match has at least one inside it.
fn required(hir: &Hir) -> Option<Literals> {
    match hir.kind() {
        HirKind::Literal(literal) => Some(vec![held(literal.0.to_vec(), Case::Exact)]),
        HirKind::Capture(capture) => required(&capture.sub),
        HirKind::Repetition(repetition) if repetition.min > 0 => required(&repetition.sub),
        HirKind::Alternation(parts) => {
            let mut all = Vec::new();
            for part in parts {
                all.append(&mut required(part)?);
            }
            (all.len() <= MAX_LITERALS).then_some(all)
        }
        HirKind::Concat(parts) => {
            let mut best: Option<Literals> = None;
            let mut consider = |candidate: Option<Literals>| {
                if score(candidate.as_ref()) > score(best.as_ref()) {
                    best = candidate;
                }
            };
            for (start, part) in parts.iter().enumerate() {
                consider(required(part));
                if exact(part).is_some() {
                    consider(run(&parts[start..], false));
                }
            }
            best
        }
        HirKind::Class(_) => exact(hir).map(|(texts, case)| texts.into_iter().map(|t| held(t, case)).collect()),
        HirKind::Empty | HirKind::Look(_) | HirKind::Repetition(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> PatternSyntax {
        PatternSyntax::new(text.as_bytes(), false).unwrap()
    }

    fn one(text: &str, case: Case) -> Vec<(Box<[u8]>, Case)> {
        vec![(text.as_bytes().into(), case)]
    }

    #[test]
    fn each_pattern_is_filed_under_what_it_cannot_lack() {
        assert_eq!(parsed("^/app17/[a-z]+\\.php$").filter, Filter::Prefix(one("/app17/", Case::Exact)));
        assert_eq!(parsed("[a-z]+\\.html$").filter, Filter::Suffix(one(".html", Case::Exact)));
        assert_eq!(parsed("a.*session=(x|y)[0-9]+").filter, {
            Filter::Contains(vec![held(b"session=x".to_vec(), Case::Exact), held(b"session=y".to_vec(), Case::Exact)])
        });
        assert_eq!(parsed("(?i)^/Admin").filter, Filter::Prefix(one("/admin", Case::Folded)));
        assert_eq!(parsed("foo|[0-9]+").filter, Filter::Any);
        assert_eq!(parsed("(abc)*").filter, Filter::Any);
        assert_eq!(parsed("(?m)^abc").filter, Filter::Contains(one("abc", Case::Exact)));
    }

    #[test]
    fn patterns_run_one_by_one_and_honour_anchors() {
        let patterns: Vec<_> =
            ["^/purchase", "purchase$", "a.c", "(?i)ÄB|xyz", "^$", "\\bfoo\\b"].iter().map(|p| parsed(p)).collect();
        let regexes = Regexes::new(&patterns).unwrap().unwrap();
        let mut cache = regexes.cache();
        let mut hits = |text: &[u8]| -> Vec<u32> {
            (0..6).filter(|&pattern| regexes.matches(&mut cache, pattern, text)).collect()
        };
        assert_eq!(hits(b"/purchase"), [0, 1]);
        assert_eq!(hits(b"/x/purchase.cgi"), [0_u32; 0]);
        assert_eq!(hits(b"xx a\xffc XYZ"), [2, 3]);
        assert_eq!(hits(b""), [4]);
        assert_eq!(hits(b"/foo/"), [5]);
    }

    #[test]
    fn bad_patterns_are_refused() {
        for text in ["(", "[a", "a{1000}{1000}", "(?u)\\b"] {
            assert!(matches!(PatternSyntax::new(text.as_bytes(), false), Err(Problem::Regex(_))), "{text}");
        }
    }
}
