//! Which alternatives a request could make true: each is filed under one of its literals, chosen to be rarely true.

use std::collections::BTreeMap;

use aho_corasick::AhoCorasick;
use hashbrown::HashMap;
use ipnet::IpNet;

use super::class::Class;
use super::ir::Variable;
use super::lower::{Condition, Literal, Lowered, Problem, VarId};
use super::number::Number;
use super::ranges::{Networks, RangePlan, RangeTree};
use super::regexes::Filter;
use super::terms::{Case, Ranges, Test};
use super::trie::{Direction, Trie};

/// Alternatives in rule order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    /// Only one, as under most values: it is read with whatever led here.
    One(Posting),
    /// A run of [`Index::postings`].
    Run {
        /// The first.
        start: u32,
        /// Behind the last.
        end: u32,
    },
}

impl List {
    /// The alternatives, some of which may stand in `postings`.
    #[inline]
    pub(super) fn of<'p>(&'p self, postings: &'p [Posting]) -> &'p [Posting] {
        match self {
            Self::One(posting) => std::slice::from_ref(posting),
            Self::Run { start, end } => &postings[*start as usize..*end as usize],
        }
    }
}

/// An alternative in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Posting {
    pub(super) rule: u32,
    clause: u32,
}

/// Mark on a clause number: being in this list proves the alternative.
const CERTAIN: u32 = 1 << 31;

impl Posting {
    #[cfg(test)]
    pub(super) fn new(rule: u32, clause: u32) -> Self {
        Self { rule, clause }
    }

    pub(super) fn clause(self) -> usize {
        (self.clause & !CERTAIN) as usize
    }

    /// Whether whoever was led to this list need not look at the alternative any more.
    pub(super) fn is_certain(self) -> bool {
        self.clause & CERTAIN != 0
    }
}

/// One alternative of one rule: true if all its literals are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clause {
    pub(super) rule: u32,
    pub(super) body: Body,
}

/// What must hold.
#[derive(Debug, Clone, Copy)]
pub(super) enum Body {
    /// A run of [`Index::literals`].
    Literals(u32, u32),
    /// An entry of [`Index::trees`].
    Tree(u32),
}

/// Alternatives that are all false if the guard is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    pub(super) head: u32,
    pub(super) guard: Option<Literal>,
    pub(super) list: List,
}

/// Everything that is filed under one variable, for as long as it is unknown.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) head: u32,
    pub(super) variable: VarId,
    /// In order of their heads.
    pub(super) groups: Vec<Group>,
}

/// Everything that is filed under one variable, by what its value is.
#[derive(Debug, Default)]
pub(super) struct Matcher {
    /// First rule of all.
    pub(super) head: u32,
    pub(super) exists: Option<List>,
    pub(super) texts: HashMap<Box<[u8]>, List>,
    pub(super) folded_texts: HashMap<Box<[u8]>, List>,
    pub(super) longest_folded: usize,
    pub(super) numbers: Option<RangeTree>,
    pub(super) networks: Option<Networks>,
    pub(super) tries: Vec<Trie>,
    pub(super) substrings: Vec<(AhoCorasick, Vec<List>)>,
}

/// The whole inverted index.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) clauses: Vec<Clause>,
    pub(super) literals: Vec<Literal>,
    pub(super) trees: Vec<super::lower::Tree>,
    pub(super) postings: Vec<Posting>,
    /// By variable; `None` if nothing is filed under it.
    pub(super) matchers: Vec<Option<Box<Matcher>>>,
    /// Variables of the class `Connection` that have a matcher, by head.
    pub(super) connection: Vec<VarId>,
    /// By class, in order of their heads.
    pub(super) pending: Vec<Vec<Pending>>,
    /// Alternatives without a positive literal: true unless something makes them false. In order of their heads.
    pub(super) defaults: Vec<Group>,
    /// Rules that may be looked at one by one, in order, each with the first reason.
    pub(super) costs: Vec<(u32, Cost)>,
}

/// Why a rule may be looked at for requests that it has nothing to do with, so that cost follows the number of such rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cost {
    /// It is filed under a pattern without a required literal, which is run on every value.
    Pattern,
    /// Its condition has more than [`MAX_ALTERNATIVES`](super::MAX_ALTERNATIVES) alternatives and is kept as a tree.
    Alternatives,
    /// What it is filed under, more than [`SHARED_BY`] rules are filed under, and none of them is certain then.
    Shared,
}

/// Rules under one literal that are still few.
pub const SHARED_BY: usize = 64;

/// Below so many alternatives it costs less to look at each than to ask a guard.
const GUARD_FROM: usize = 16;

struct Builder<'l> {
    lowered: &'l Lowered,
    index: Index,
    clauses: Vec<(u32, Vec<Literal>)>,
    /// Alternatives that have the term, unnegated and negated.
    counts: Vec<[u32; 2]>,
    anchored: BTreeMap<VarId, Vec<(u32, Anchor)>>,
    defaults: BTreeMap<Option<Literal>, Vec<u32>>,
}

/// What an alternative is filed under.
enum Anchor {
    Term(usize),
    Ranges(Ranges),
}

impl Index {
    pub(super) fn new(lowered: &mut Lowered) -> Result<Self, (VarId, Problem)> {
        let conditions = std::mem::take(&mut lowered.conditions);
        let mut clauses: Vec<(u32, Vec<Literal>)> = Vec::new();
        let mut trees = Vec::new();
        for (condition, rule) in conditions.into_iter().zip(0_u32..) {
            match condition {
                Condition::Alternatives(list) => {
                    for clause in list {
                        split_default(lowered, rule, clause, &mut clauses);
                    }
                }
                Condition::Tree(tree) => trees.push((rule, tree)),
            }
        }
        let mut counts = vec![[0; 2]; lowered.terms.len()];
        for literal in clauses.iter().flat_map(|(_, clause)| clause) {
            counts[literal.term()][usize::from(literal.negated())] += 1;
        }
        let (anchored, defaults) = (BTreeMap::new(), BTreeMap::new());
        let mut builder = Builder { lowered, index: Self::default(), clauses, counts, anchored, defaults };
        builder.place_clauses();
        for (rule, tree) in trees {
            builder.index.costs.push((rule, Cost::Alternatives));
            let id = builder.index.clauses.len() as u32;
            builder.index.clauses.push(Clause { rule, body: Body::Tree(builder.index.trees.len() as u32) });
            builder.index.trees.push(tree);
            builder.defaults.entry(None).or_default().push(id);
        }
        builder.file_defaults();
        builder.file_pending();
        builder.file_matchers()?;
        builder.index.costs.sort_unstable();
        builder.index.costs.dedup_by_key(|(rule, _)| *rule);
        Ok(builder.index)
    }
}

/// `!(x > 5)` alone would be true of nearly everything. As "`x` ≤ 5, or `x` is no number" it can be filed.
fn split_default(lowered: &mut Lowered, rule: u32, clause: Vec<Literal>, out: &mut Vec<(u32, Vec<Literal>)>) {
    let range = clause.iter().position(|l| matches!(lowered.terms[l.term()].1, Test::Numbers(_)));
    let split = range.filter(|_| clause.iter().all(|l| l.negated()));
    let Some(place) = split else { return out.push((rule, clause)) };
    let (variable, test) = lowered.terms[clause[place].term()].clone();
    let Test::Numbers(ranges) = test else { unreachable!("only number tests are split") };
    let everything = Ranges::new(vec![(Number::MIN, Number::MAX)]);
    let mut complement = Vec::new();
    let mut low = Some(Number::MIN);
    for &(start, end) in ranges.as_slice() {
        if let Some(low) = low.filter(|low| *low < start) {
            complement.push((low, start.previous()));
        }
        low = (end < Number::MAX).then(|| end.next());
    }
    if let Some(low) = low {
        complement.push((low, Number::MAX));
    }
    if !complement.is_empty() {
        let mut inside = clause.clone();
        inside[place] = lowered.literal_id(variable, Test::Numbers(Ranges::new(complement)), false);
        out.push((rule, inside));
    }
    let mut outside = clause;
    outside[place] = lowered.literal_id(variable, Test::Numbers(everything), true);
    out.push((rule, outside));
}

impl Builder<'_> {
    fn class(&self, variable: VarId) -> Class {
        Class::of(&self.lowered.variables[variable.0 as usize])
    }

    fn place_clauses(&mut self) {
        for (rule, mut clause) in std::mem::take(&mut self.clauses) {
            let anchor = match self.anchor(&clause) {
                Ok(anchor) => anchor,
                // `x > 5 && x < 3`
                Err(NeverTrue) => continue,
            };
            // What is known first is tested first.
            clause.sort_by_key(|l| self.class(self.lowered.terms[l.term()].0));
            let id = self.index.clauses.len() as u32;
            let start = self.index.literals.len() as u32;
            self.index.literals.extend_from_slice(&clause);
            let body = Body::Literals(start, self.index.literals.len() as u32);
            self.index.clauses.push(Clause { rule, body });
            match anchor {
                Some((variable, anchor)) => self.anchored.entry(variable).or_default().push((id, anchor)),
                None => {
                    let guard = clause.iter().copied().max_by_key(|l| self.counts[l.term()][1]);
                    self.defaults.entry(guard).or_default().push(id);
                }
            }
        }
    }

    /// The positive literal that selects best.
    fn anchor(&self, clause: &[Literal]) -> Result<Option<(VarId, Anchor)>, NeverTrue> {
        let mut best: Option<(u32, VarId, usize)> = None;
        let mut ranges: BTreeMap<VarId, Ranges> = BTreeMap::new();
        for literal in clause.iter().filter(|l| !l.negated()) {
            let (variable, test) = &self.lowered.terms[literal.term()];
            if let Test::Numbers(more) = test {
                let both = match ranges.get(variable) {
                    Some(have) => have.intersect(more),
                    None => more.clone(),
                };
                if both.as_slice().is_empty() {
                    return Err(NeverTrue);
                }
                ranges.insert(*variable, both);
            }
            let cost = self.cost(*variable, test, self.counts[literal.term()][0]);
            if best.is_none_or(|(least, ..)| cost < least) {
                best = Some((cost, *variable, literal.term()));
            }
        }
        Ok(best.map(|(_, variable, term)| match self.lowered.terms[term].1 {
            Test::Numbers(_) => (variable, Anchor::Ranges(ranges[&variable].clone())),
            _ => (variable, Anchor::Term(term)),
        }))
    }

    /// How bad it is to look at all alternatives that share this literal whenever it is true.
    fn cost(&self, variable: VarId, test: &Test, count: u32) -> u32 {
        let kind = match test {
            Test::Texts(..) => 0,
            Test::Networks(_) => 1,
            Test::Prefix(text, _) | Test::Suffix(text, _) if !text.is_empty() => 1,
            Test::Numbers(_) => 2,
            Test::Contains(..) => 3,
            Test::Regex(pattern) if self.lowered.patterns[*pattern as usize].filter != Filter::Any => 4,
            _ => 12,
        };
        let when = match self.class(variable) {
            Class::Connection => match self.lowered.variables[variable.0 as usize] {
                Variable::ServerUp(_) | Variable::Connections(_) => 10,
                _ => 0,
            },
            Class::RequestLine => 0,
            Class::Xml | Class::Json => 4,
            _ => 1,
        };
        kind + when + 2 * count.max(1).ilog2()
    }

    fn list(&mut self, clauses: Vec<u32>) -> List {
        let all = &self.index.clauses;
        let rule = |clause: u32| all[(clause & !CERTAIN) as usize].rule;
        let mut postings: Vec<_> = clauses.into_iter().map(|clause| Posting { rule: rule(clause), clause }).collect();
        postings.sort_unstable_by_key(|posting| (posting.rule, posting.clause));
        postings.dedup_by_key(|posting| posting.clause);
        if let [posting] = postings[..] {
            return List::One(posting);
        }
        let start = self.index.postings.len() as u32;
        self.index.postings.append(&mut postings);
        List::Run { start, end: self.index.postings.len() as u32 }
    }

    /// The alternatives that are filed under one value.
    fn filed(&mut self, clauses: Vec<u32>) -> List {
        let uncertain = clauses.iter().filter(|clause| *clause & CERTAIN == 0);
        let mut rules: Vec<u32> = uncertain.map(|clause| self.index.clauses[*clause as usize].rule).collect();
        rules.sort_unstable();
        rules.dedup();
        if rules.len() > SHARED_BY {
            self.index.costs.extend(rules.into_iter().map(|rule| (rule, Cost::Shared)));
        }
        self.list(clauses)
    }

    fn head(&self, list: List) -> u32 {
        list.of(&self.index.postings)[0].rule
    }

    /// The clause, marked if nothing remains to be verified once its anchor is known to be true.
    fn marked(&self, id: u32, anchor: &Anchor) -> u32 {
        let Body::Literals(start, end) = self.index.clauses[id as usize].body else { return id };
        let literals = &self.index.literals[start as usize..end as usize];
        let certain = match anchor {
            Anchor::Term(term) => literals.len() == 1 && !matches!(self.lowered.terms[*term].1, Test::Regex(_)),
            // All ranges of one variable were intersected into the anchor.
            Anchor::Ranges(_) => {
                let first = literals.first().map(|l| self.lowered.terms[l.term()].0);
                literals.iter().all(|l| {
                    let (variable, test) = &self.lowered.terms[l.term()];
                    !l.negated() && Some(*variable) == first && matches!(test, Test::Numbers(_))
                })
            }
        };
        if certain { id | CERTAIN } else { id }
    }

    fn groups(&mut self, members: BTreeMap<Option<Literal>, Vec<u32>>) -> Vec<Group> {
        let mut groups = Vec::with_capacity(members.len());
        for (guard, clauses) in members {
            let list = self.list(clauses);
            groups.push(Group { head: self.head(list), guard, list });
        }
        groups.sort_unstable_by_key(|group| group.head);
        groups
    }

    fn file_defaults(&mut self) {
        let members = std::mem::take(&mut self.defaults);
        self.index.defaults = self.groups(members);
    }

    fn file_pending(&mut self) {
        self.index.pending.resize_with(Class::ALL.len(), Vec::new);
        let mut by_class: Vec<Vec<Pending>> = Class::ALL.iter().map(|_| Vec::new()).collect();
        for (variable, members) in std::mem::take(&mut self.anchored) {
            let class = self.class(variable);
            if class != Class::Connection {
                let mut groups: BTreeMap<Option<Literal>, Vec<u32>> = BTreeMap::new();
                for (id, _) in &members {
                    groups.entry(self.guard(*id, class, members.len())).or_default().push(*id);
                }
                let groups = self.groups(groups);
                by_class[class as usize].push(Pending { head: groups[0].head, variable, groups });
            }
            self.anchored.insert(variable, members);
        }
        for (class, mut pending) in by_class.into_iter().enumerate() {
            pending.sort_unstable_by_key(|p| p.head);
            self.index.pending[class] = pending;
        }
    }

    /// The earlier literal that divides the variable's alternatives into few groups of few.
    fn guard(&self, clause: u32, class: Class, all: usize) -> Option<Literal> {
        if all < GUARD_FROM {
            return None;
        }
        let Body::Literals(start, end) = self.index.clauses[clause as usize].body else { return None };
        let literals = &self.index.literals[start as usize..end as usize];
        let earlier = literals.iter().filter(|l| self.class(self.lowered.terms[l.term()].0) < class);
        earlier.copied().min_by_key(|l| {
            let shared = (self.counts[l.term()][usize::from(l.negated())] as usize).min(all);
            all / shared.max(1) + shared
        })
    }

    fn file_matchers(&mut self) -> Result<(), (VarId, Problem)> {
        self.index.matchers.resize_with(self.lowered.variables.len(), || None);
        for (variable, members) in std::mem::take(&mut self.anchored) {
            let matcher = self.matcher(&members).map_err(|problem| (variable, problem))?;
            self.index.matchers[variable.0 as usize] = Some(Box::new(matcher));
            if self.class(variable) == Class::Connection {
                self.index.connection.push(variable);
            }
        }
        let matchers = &self.index.matchers;
        self.index.connection.sort_by_key(|v| matchers[v.0 as usize].as_ref().map(|m| m.head));
        Ok(())
    }

    fn matcher(&mut self, members: &[(u32, Anchor)]) -> Result<Matcher, Problem> {
        let mut keys = Keys::default();
        for (id, anchor) in members {
            let id = self.marked(*id, anchor);
            match anchor {
                Anchor::Ranges(ranges) => keys.ranges.extend(ranges.as_slice().iter().map(|range| (*range, id))),
                Anchor::Term(term) => {
                    let test = &self.lowered.terms[*term].1;
                    if matches!(test, Test::Regex(p) if self.lowered.patterns[*p as usize].filter == Filter::Any) {
                        self.index.costs.push((self.index.clauses[(id & !CERTAIN) as usize].rule, Cost::Pattern));
                    }
                    keys.add(test, self.lowered, id);
                }
            }
        }
        let head = members.iter().map(|(id, _)| self.index.clauses[*id as usize].rule).min().unwrap_or(0);
        let mut matcher = Matcher { head, ..Matcher::default() };
        if !keys.exists.is_empty() {
            matcher.exists = Some(self.filed(keys.exists));
        }
        for ((text, case), clauses) in keys.texts {
            let list = self.filed(clauses);
            match case {
                Case::Exact => matcher.texts.insert(text, list),
                Case::Folded => {
                    matcher.longest_folded = matcher.longest_folded.max(text.len());
                    matcher.folded_texts.insert(text, list)
                }
            };
        }
        if !keys.ranges.is_empty() {
            let plan = RangePlan::new(keys.ranges.iter().map(|(range, _)| range));
            let mut nodes: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
            for (range, id) in keys.ranges {
                plan.nodes(range).into_iter().for_each(|node| nodes.entry(node).or_default().push(id));
            }
            let lists: Vec<_> = nodes.into_iter().map(|(node, ids)| (node, self.filed(ids))).collect();
            matcher.numbers = Some(plan.tree(lists));
        }
        if !keys.networks.is_empty() {
            let lists: Vec<_> = keys.networks.into_iter().map(|(net, ids)| (net, self.filed(ids))).collect();
            matcher.networks = Some(Networks::new(lists));
        }
        for (direction, ends) in [(Direction::Forward, keys.prefixes), (Direction::Backward, keys.suffixes)] {
            for case in [Case::Exact, Case::Folded] {
                let of_case = ends.iter().filter(|((_, c), _)| *c == case);
                let lists: Vec<_> = of_case.map(|((text, _), ids)| (text.clone(), self.filed(ids.clone()))).collect();
                if !lists.is_empty() {
                    matcher.tries.push(Trie::new(lists, case, direction));
                }
            }
        }
        for case in [Case::Exact, Case::Folded] {
            let of_case = keys.substrings.iter().filter(|((_, c), _)| *c == case);
            let (texts, lists): (Vec<_>, Vec<_>) =
                of_case.map(|((text, _), ids)| (text.clone(), self.filed(ids.clone()))).unzip();
            if !lists.is_empty() {
                let automaton = AhoCorasick::builder()
                    .ascii_case_insensitive(case == Case::Folded)
                    .build(&texts)
                    .map_err(|error| Problem::SubstringSize(error.to_string()))?;
                matcher.substrings.push((automaton, lists));
            }
        }
        Ok(matcher)
    }
}

struct NeverTrue;

type ByText = BTreeMap<(Box<[u8]>, Case), Vec<u32>>;

/// Alternatives of one variable by what they are filed under.
#[derive(Default)]
struct Keys {
    exists: Vec<u32>,
    texts: ByText,
    prefixes: ByText,
    suffixes: ByText,
    substrings: ByText,
    ranges: Vec<((Number, Number), u32)>,
    networks: BTreeMap<IpNet, Vec<u32>>,
}

impl Keys {
    fn add(&mut self, test: &Test, lowered: &Lowered, id: u32) {
        fn put(map: &mut ByText, text: &[u8], case: Case, id: u32) {
            map.entry((text.into(), case)).or_default().push(id);
        }
        match test {
            Test::Exists => self.exists.push(id),
            Test::Texts(texts, case) => texts.iter().for_each(|text| put(&mut self.texts, text, *case, id)),
            Test::Numbers(ranges) => self.ranges.extend(ranges.as_slice().iter().map(|range| (*range, id))),
            Test::Networks(networks) => {
                networks.iter().for_each(|net| self.networks.entry(*net).or_default().push(id));
            }
            Test::Prefix(text, case) => put(&mut self.prefixes, text, *case, id),
            Test::Suffix(text, case) => put(&mut self.suffixes, text, *case, id),
            Test::Contains(text, case) => put(&mut self.substrings, text, *case, id),
            Test::Regex(pattern) => {
                let (map, literals) = match &lowered.patterns[*pattern as usize].filter {
                    Filter::Any => return self.exists.push(id),
                    Filter::Prefix(literals) => (&mut self.prefixes, literals),
                    Filter::Suffix(literals) => (&mut self.suffixes, literals),
                    Filter::Contains(literals) => (&mut self.substrings, literals),
                };
                literals.iter().for_each(|(text, case)| put(map, text, *case, id));
            }
        }
    }
}
