//! All regexes of a program as one lazily built DFA, and the literals that a text must have before one is worth running.
//!
//! Running ten thousand patterns side by side makes states of ten thousand positions. Instead each pattern is filed
//! under a literal that its matches cannot lack; the substring and prefix matchers find the few candidates, and the DFA
//! is started at the candidate's own start state (`Anchored::Pattern`), so a state holds one pattern's positions only.
//! A literal at an anchored beginning is compared by itself and the automaton runs on what follows: ten thousand
//! patterns that differ in their first words become one. Patterns that are nothing but a literal are no regexes at all.

use hashbrown::HashMap;
use regex_automata::hybrid::dfa::{Cache, Config, DFA};
use regex_automata::nfa::thompson;
use regex_automata::{Anchored, Input, MatchKind, PatternID};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, Hir, HirKind, Look};

use super::lower::Problem;
use super::terms::Case;

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
    /// Literal that the text must begin with.
    prefix: Box<[u8]>,
    /// What follows it, or may stand anywhere if the pattern is not anchored.
    hir: Hir,
    anchored: bool,
    pub(super) filter: Filter,
}

/// A pattern, or the plain comparison that it is.
#[derive(Debug)]
pub(super) enum Pattern {
    Prefix(Box<[u8]>),
    Suffix(Box<[u8]>),
    Equal(Box<[u8]>),
    Contains(Box<[u8]>),
    Syntax(PatternSyntax),
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
    pub(super) fn parse(text: &[u8], ignore_case: bool) -> Result<Pattern, Problem> {
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
        let literal = |hir: &Hir| match hir.kind() {
            HirKind::Literal(literal) => Some(Box::from(&literal.0[..])),
            _ => None,
        };
        let is = |hir: &Hir, look| matches!(hir.kind(), HirKind::Look(l) if *l == look);
        let parts = match hir.kind() {
            HirKind::Concat(parts) => &parts[..],
            _ => std::slice::from_ref(&hir),
        };
        let plain = match parts {
            [text] => literal(text).map(Pattern::Contains),
            [start, text] if is(start, Look::Start) => literal(text).map(Pattern::Prefix),
            [text, end] if is(end, Look::End) => literal(text).map(Pattern::Suffix),
            [start, text, end] if is(start, Look::Start) && is(end, Look::End) => literal(text).map(Pattern::Equal),
            _ => None,
        };
        if let Some(plain) = plain {
            return Ok(plain);
        }
        let anchored = hir.properties().look_set_prefix().contains(Look::Start);
        let filter = filter(&hir, anchored);
        let prefix = match parts {
            [start, text, ..] if is(start, Look::Start) => literal(text),
            _ => None,
        };
        let rest = if prefix.is_some() { Hir::concat(parts[2..].to_vec()) } else { hir };
        Ok(Pattern::Syntax(Self { prefix: prefix.unwrap_or_default(), hir: rest, anchored, filter }))
    }
}

fn nfa_config(limit: usize) -> thompson::Config {
    thompson::Config::new().utf8(false).nfa_size_limit(Some(limit)).which_captures(thompson::WhichCaptures::None)
}

/// The automaton.
#[derive(Debug)]
pub(super) struct Regexes {
    dfa: DFA,
    /// By pattern: what the text must begin with, and which of the automaton's patterns must follow.
    patterns: Vec<(Box<[u8]>, PatternID)>,
}

impl Regexes {
    pub(super) fn new(syntaxes: &[PatternSyntax]) -> Result<Option<Self>, Problem> {
        if syntaxes.is_empty() {
            return Ok(None);
        }
        let too_many = |error: &dyn std::fmt::Display| Problem::RegexSize(error.to_string());
        let anywhere = Hir::repetition(regex_syntax::hir::Repetition {
            min: 0,
            max: None,
            greedy: false,
            sub: Box::new(Hir::dot(regex_syntax::hir::Dot::AnyByte)),
        });
        let mut hirs: Vec<Hir> = Vec::new();
        let mut ids: HashMap<(String, bool), PatternID> = HashMap::new();
        let mut patterns = Vec::with_capacity(syntaxes.len());
        for syntax in syntaxes {
            let key = (syntax.hir.to_string(), syntax.anchored);
            let id = match ids.get(&key) {
                Some(id) => *id,
                None => {
                    let id = PatternID::try_from(hirs.len()).map_err(|error| too_many(&error))?;
                    hirs.push(match syntax.anchored {
                        true => syntax.hir.clone(),
                        false => Hir::concat(vec![anywhere.clone(), syntax.hir.clone()]),
                    });
                    ids.insert(key, id);
                    id
                }
            };
            patterns.push((syntax.prefix.clone(), id));
        }
        let nfa = thompson::Compiler::new()
            .configure(nfa_config(NFA_LIMIT))
            .build_many_from_hir(&hirs)
            .map_err(|error| too_many(&error))?;
        let dfa = DFA::builder()
            .configure(
                Config::new()
                    .match_kind(MatchKind::All)
                    .starts_for_each_pattern(true)
                    .cache_capacity(CACHE_CAPACITY)
                    .skip_cache_capacity_check(true),
            )
            .build_from_nfa(nfa)
            .map_err(|error| too_many(&error))?;
        Ok(Some(Self { dfa, patterns }))
    }

    pub(super) fn cache(&self) -> Cache {
        self.dfa.create_cache()
    }

    /// Whether the pattern matches somewhere in the text.
    pub(super) fn matches(&self, cache: &mut Cache, pattern: u32, text: &[u8]) -> bool {
        let (prefix, id) = &self.patterns[pattern as usize];
        if !text.starts_with(prefix) {
            return false;
        }
        // The whole text is given, so that what looks back from the rest sees the prefix.
        let input = Input::new(text).range(prefix.len()..).anchored(Anchored::Pattern(*id)).earliest(true);
        // No quit bytes are configured and the cache may be cleared as often as need be, so this cannot fail.
        matches!(self.dfa.try_search_fwd(cache, &input), Ok(Some(_)))
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
            if let [upper, lower] = bytes[..]
                && upper.is_ascii_uppercase()
                && upper.to_ascii_lowercase() == lower
            {
                return Some((vec![vec![lower]], Case::Folded));
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
        match PatternSyntax::parse(text.as_bytes(), false).unwrap() {
            Pattern::Syntax(syntax) => syntax,
            plain => panic!("{text} is {plain:?}"),
        }
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
        assert_eq!(parsed("[^a]abc").filter, Filter::Contains(one("abc", Case::Exact)));
    }

    #[test]
    fn patterns_run_one_by_one_and_honour_anchors() {
        let patterns: Vec<_> =
            ["^/purchase\\b", "[a-z]purchase$", "a.c", "(?i)ÄB|xyz", "^$", "\\bfoo\\b", "^/\\bfoo", "^/\\Boo"]
                .iter()
                .map(|p| parsed(p))
                .collect();
        let regexes = Regexes::new(&patterns).unwrap().unwrap();
        let mut cache = regexes.cache();
        let mut hits = |text: &[u8]| -> Vec<u32> {
            (0..8).filter(|&pattern| regexes.matches(&mut cache, pattern, text)).collect()
        };
        assert_eq!(hits(b"/purchase"), [0]);
        assert_eq!(hits(b"/purchases"), [0_u32; 0]);
        assert_eq!(hits(b"/repurchase"), [1]);
        assert_eq!(hits(b"/x/purchase.cgi"), [0_u32; 0]);
        assert_eq!(hits(b"xx a\xffc XYZ"), [2, 3]);
        assert_eq!(hits(b""), [4]);
        assert_eq!(hits(b"/foo/"), [5, 6]);
    }

    #[test]
    fn a_plain_literal_is_no_regex() {
        let plain = |text: &str| PatternSyntax::parse(text.as_bytes(), false).unwrap();
        assert!(matches!(plain("^/purchase"), Pattern::Prefix(text) if *text == *b"/purchase"));
        assert!(matches!(plain("\\.gif$"), Pattern::Suffix(text) if *text == *b".gif"));
        assert!(matches!(plain("^/$"), Pattern::Equal(text) if *text == *b"/"));
        assert!(matches!(plain("lcs1"), Pattern::Contains(text) if *text == *b"lcs1"));
        assert!(matches!(plain("(?m)^lcs1"), Pattern::Syntax(_)));
        assert!(matches!(plain("(?i)lcs1"), Pattern::Syntax(_)));
    }

    #[test]
    fn patterns_that_differ_in_their_first_words_share_an_automaton() {
        let patterns: Vec<_> = (0..1000).map(|n| parsed(&format!("^/app{n}/[a-z]+$"))).collect();
        let regexes = Regexes::new(&patterns).unwrap().unwrap();
        assert_eq!(regexes.dfa.pattern_len(), 1);
        let mut cache = regexes.cache();
        assert!(regexes.matches(&mut cache, 17, b"/app17/abc"));
        assert!(!regexes.matches(&mut cache, 17, b"/app18/abc") && !regexes.matches(&mut cache, 17, b"/app17/ab3"));
    }

    #[test]
    fn bad_patterns_are_refused() {
        for text in ["(", "[a", "a{1000}{1000}", "(?u)\\b"] {
            assert!(matches!(PatternSyntax::parse(text.as_bytes(), false), Err(Problem::Regex(_))), "{text}");
        }
    }
}
