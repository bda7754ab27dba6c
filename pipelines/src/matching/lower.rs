//! From the rules as written to numbered variables, numbered terms, and conditions as alternatives of literals.

use std::hash::Hash;

use hashbrown::HashMap;
use ipnet::IpNet;

use super::ir::{Expr, Relation, RuleSet, Term, Value, Variable};
use super::number::Number;
use super::regexes::{Pattern, PatternSyntax};
use super::terms::{Case, Ranges, Test};

/// Rules that one set may have.
pub const MAX_RULES: usize = 1 << 20;
/// Alternatives into which one condition may be multiplied out; beyond, it is evaluated as it is written.
pub const MAX_ALTERNATIVES: usize = 16_384;
/// Nesting of `!`, `&&`, `||` in one condition.
const MAX_DEPTH: usize = 256;

/// Why a rule set cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rule {} ({name}): {problem}", index + 1)]
pub struct CompileError {
    /// Place in the set, from 0.
    pub index: usize,
    /// Name of the rule.
    pub name: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The relation cannot be applied to this variable and value.
    #[error("{relation:?} of {variable:?} with {value}: {mend}")]
    Types {
        /// As written.
        relation: Relation,
        /// As written.
        variable: Variable,
        /// Kind of the value.
        value: &'static str,
        /// What would do.
        mend: &'static str,
    },
    /// The regex is not one.
    #[error("bad regex: {0}")]
    Regex(String),
    /// All regexes together exceed the automaton's limit.
    #[error("the regexes up to this one exceed the automaton's limit: {0}")]
    RegexSize(String),
    /// The substrings of one variable cannot be put into one automaton.
    #[error("the substrings compared with one variable exceed the automaton's limit: {0}")]
    SubstringSize(String),
    /// A bit field outside 1 to 64 bits.
    #[error("bitmatch reads 1 to 64 bits, not {0}")]
    Bits(u8),
    /// A path without steps.
    #[error("a document path needs at least one step")]
    EmptyPath,
    /// Conditions nested too deeply.
    #[error("conditions are nested more than {MAX_DEPTH} deep")]
    Depth,
    /// Too many rules.
    #[error("more than {MAX_RULES} rules")]
    Rules,
}

/// A variable's number in its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VarId(pub(super) u32);

/// A term or its negation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Literal(u32);

impl Literal {
    pub(super) fn term(self) -> usize {
        (self.0 >> 1) as usize
    }

    pub(super) fn negated(self) -> bool {
        self.0 & 1 != 0
    }
}

/// A condition with negations pushed down to the terms. Kleene's three values obey De Morgan, so nothing changes.
#[derive(Debug, Clone)]
pub(super) enum Tree {
    And(Vec<Tree>),
    Or(Vec<Tree>),
    Literal(Literal),
}

/// A condition ready to be indexed.
#[derive(Debug)]
pub(super) enum Condition {
    /// True if all literals of one alternative are.
    Alternatives(Vec<Vec<Literal>>),
    /// Too large to be multiplied out.
    Tree(Tree),
}

/// Everything that the rules mention, numbered.
#[derive(Debug, Default)]
pub(super) struct Lowered {
    pub(super) variables: Vec<Variable>,
    pub(super) terms: Vec<(VarId, Test)>,
    pub(super) patterns: Vec<PatternSyntax>,
    pub(super) conditions: Vec<Condition>,
    variable_ids: HashMap<Variable, VarId>,
    term_ids: HashMap<(VarId, Test), u32>,
    pattern_ids: HashMap<(Box<[u8]>, bool), u32>,
}

impl Lowered {
    pub(super) fn new(rules: &RuleSet) -> Result<Self, CompileError> {
        let mut lowered = Self::default();
        for (index, rule) in rules.rules.iter().enumerate() {
            let tree = if index < MAX_RULES { lowered.tree(&rule.condition, false, 0) } else { Err(Problem::Rules) };
            let tree = tree.map_err(|problem| CompileError { index, name: rule.name.to_string(), problem })?;
            lowered.conditions.push(match alternatives(&tree) {
                Some(list) => Condition::Alternatives(list),
                None => Condition::Tree(tree),
            });
        }
        Ok(lowered)
    }

    fn tree(&mut self, expr: &Expr, negated: bool, depth: usize) -> Result<Tree, Problem> {
        if depth > MAX_DEPTH {
            return Err(Problem::Depth);
        }
        let mut all =
            |list: &[Expr]| list.iter().map(|e| self.tree(e, negated, depth + 1)).collect::<Result<Vec<_>, _>>();
        Ok(match (expr, negated) {
            (Expr::And(list), false) | (Expr::Or(list), true) => Tree::And(all(list)?),
            (Expr::Or(list), false) | (Expr::And(list), true) => Tree::Or(all(list)?),
            (Expr::Not(inner), _) => self.tree(inner, !negated, depth + 1)?,
            (Expr::Term(term), _) => self.term(term, negated)?,
        })
    }

    fn variable(&mut self, variable: &Variable) -> Result<VarId, Problem> {
        let variable = match variable {
            Variable::Header(name) => Variable::Header(name.to_ascii_lowercase().into()),
            Variable::Bits { bits, .. } if !(1..=64).contains(bits) => return Err(Problem::Bits(*bits)),
            Variable::Xml(path) | Variable::Json(path) if path.steps.is_empty() => return Err(Problem::EmptyPath),
            other => other.clone(),
        };
        let variables = &mut self.variables;
        Ok(*self.variable_ids.entry(variable).or_insert_with_key(|variable| {
            variables.push(variable.clone());
            VarId(variables.len() as u32 - 1)
        }))
    }

    fn literal(&mut self, variable: VarId, test: Test, negated: bool) -> Tree {
        Tree::Literal(self.literal_id(variable, test, negated))
    }

    /// The literal of this term, which is numbered if it is new.
    pub(super) fn literal_id(&mut self, variable: VarId, test: Test, negated: bool) -> Literal {
        let terms = &mut self.terms;
        let id = *self.term_ids.entry((variable, test)).or_insert_with_key(|term| {
            terms.push(term.clone());
            terms.len() as u32 - 1
        });
        Literal(id << 1 | u32::from(negated))
    }

    fn term(&mut self, term: &Term, negated: bool) -> Result<Tree, Problem> {
        let variable = self.variable(&term.variable)?;
        if term.relation == Relation::Ne {
            return self.not_equal(term, variable, negated);
        }
        let mut literals = Vec::with_capacity(1);
        for test in self.tests(term)? {
            literals.push(self.literal(variable, test, negated));
        }
        Ok(match literals.len() {
            1 => literals.remove(0),
            // Any of a mixed list; negated, none of it.
            _ if negated => Tree::And(literals),
            _ => Tree::Or(literals),
        })
    }

    /// `x != v`: numbers compare as "less or greater"; anything else must be present and different.
    fn not_equal(&mut self, term: &Term, variable: VarId, negated: bool) -> Result<Tree, Problem> {
        let tests = self.tests(&Term { relation: Relation::Eq, ..term.clone() })?;
        match &tests[..] {
            [Test::Numbers(ranges)] => {
                let [(low, high)] = *ranges.as_slice() else { unreachable!("an equality is one range") };
                let others = Ranges::new(vec![(Number::MIN, low.previous()), (high.next(), Number::MAX)]);
                Ok(self.literal(variable, Test::Numbers(others), negated))
            }
            _ => {
                let mut both = vec![self.literal(variable, Test::Exists, negated)];
                for test in tests {
                    both.push(self.literal(variable, test, !negated));
                }
                Ok(if negated { Tree::Or(both) } else { Tree::And(both) })
            }
        }
    }

    /// The tests of which any must pass; never empty unless a list is.
    fn tests(&mut self, term: &Term) -> Result<Vec<Test>, Problem> {
        let wrong = |value, mend| {
            let (relation, variable) = (term.relation, term.variable.clone());
            Err(Problem::Types { relation, variable, value, mend })
        };
        let kind = Kind::of(&term.variable);
        let case = match &term.variable {
            // RFC 9110 4.2.3, RFC 6066 3: host names know no case.
            Variable::Host | Variable::TlsSni => Case::Folded,
            _ if term.ignore_case => Case::Folded,
            _ => Case::Exact,
        };
        let fold = |text: &[u8]| match case {
            Case::Exact => text.into(),
            Case::Folded => text.to_ascii_lowercase().into_boxed_slice(),
        };
        let above = |low| Test::Numbers(Ranges::new(vec![(low, Number::MAX)]));
        let below = |high| Test::Numbers(Ranges::new(vec![(Number::MIN, high)]));
        Ok(vec![match (term.relation, &term.value) {
            (Relation::Exists, _) => Test::Exists,
            (Relation::Lt | Relation::Le | Relation::Gt | Relation::Ge, value) => {
                let number = match (value, kind) {
                    (_, Kind::Address) => {
                        return wrong("an address", "addresses have no order; use `in` with a network");
                    }
                    (Value::Number(number), _) => *number,
                    _ => return wrong("something that is no number", "write a number without quotes"),
                };
                match term.relation {
                    Relation::Lt => below(number.previous()),
                    Relation::Le => below(number),
                    Relation::Gt => above(number.next()),
                    _ => above(number),
                }
            }
            (Relation::Eq | Relation::Ne, Value::List(_)) => return wrong("a list", "use `in`"),
            (Relation::Eq | Relation::Ne | Relation::In, value) => {
                let items = match value {
                    Value::List(items) => &items[..],
                    one => std::slice::from_ref(one),
                };
                let (mut texts, mut numbers, mut networks) = (Vec::new(), Vec::new(), Vec::new());
                for item in items {
                    match (item, kind) {
                        (Value::Number(number), Kind::Text | Kind::Number) => numbers.push((*number, *number)),
                        (Value::Number(_), Kind::Address) => return wrong("a number", "write an address or a network"),
                        (Value::Text(text), Kind::Text) => texts.push(fold(text)),
                        (Value::Text(text), Kind::Number) => match Number::parse(text) {
                            Some(number) => numbers.push((number, number)),
                            None => return wrong("a text", "this variable is a number; write digits"),
                        },
                        (Value::Text(text), Kind::Address) => match network(text) {
                            Some(network) => networks.push(network),
                            None => return wrong("a text", "write an address or a network, as 203.0.113.0/24"),
                        },
                        (Value::Network(network), Kind::Text | Kind::Address) => networks.push(network.trunc()),
                        (Value::Network(_), Kind::Number) => return wrong("a network", "this variable is a number"),
                        (Value::List(_), _) => return wrong("a list within a list", "write one list"),
                        (Value::Nothing, _) => return wrong("nothing", "write a value"),
                    }
                }
                texts.sort_unstable();
                texts.dedup();
                networks.sort_unstable();
                networks.dedup();
                let mut tests = Vec::with_capacity(1);
                if !texts.is_empty() {
                    tests.push(Test::Texts(texts, case));
                }
                if !numbers.is_empty() {
                    tests.push(Test::Numbers(Ranges::new(numbers)));
                }
                if !networks.is_empty() {
                    tests.push(Test::Networks(networks));
                }
                return Ok(tests);
            }
            (_, _) if kind != Kind::Text => return wrong("a text", "this variable is no text; compare it as a value"),
            (Relation::Prefix, Value::Text(text)) => Test::Prefix(fold(text), case),
            (Relation::Suffix, Value::Text(text)) => Test::Suffix(fold(text), case),
            (Relation::Contains, Value::Text(text)) => Test::Contains(fold(text), case),
            (Relation::Regex, Value::Text(text)) => self.pattern(text, case == Case::Folded)?,
            (_, Value::Number(_)) => return wrong("a number", "write it in quotes"),
            (_, Value::Network(_)) => return wrong("a network", "use `in`"),
            (_, Value::List(_)) => return wrong("a list", "write one term for each"),
            (_, Value::Nothing) => return wrong("nothing", "write a value in quotes"),
        }])
    }

    fn pattern(&mut self, text: &[u8], ignore_case: bool) -> Result<Test, Problem> {
        let key = (Box::from(text), ignore_case);
        if let Some(&id) = self.pattern_ids.get(&key) {
            return Ok(Test::Regex(id));
        }
        Ok(match PatternSyntax::parse(text, ignore_case)? {
            Pattern::Prefix(text) => Test::Prefix(text, Case::Exact),
            Pattern::Suffix(text) => Test::Suffix(text, Case::Exact),
            Pattern::Equal(text) => Test::Texts(vec![text], Case::Exact),
            Pattern::Contains(text) => Test::Contains(text, Case::Exact),
            Pattern::Syntax(syntax) => {
                let id = self.patterns.len() as u32;
                self.patterns.push(syntax);
                self.pattern_ids.insert(key, id);
                Test::Regex(id)
            }
        })
    }
}

fn network(text: &[u8]) -> Option<IpNet> {
    let text = std::str::from_utf8(text).ok()?.trim();
    text.parse().ok().or_else(|| Some(IpNet::from(text.parse::<std::net::IpAddr>().ok()?)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Address,
}

impl Kind {
    fn of(variable: &Variable) -> Self {
        use Variable as V;
        match variable {
            V::IpSrc | V::IpDst => Self::Address,
            V::IpTtl | V::IpTos | V::IpProto | V::PortSrc | V::PortDst => Self::Number,
            V::Bits { .. } | V::ServerUp(_) | V::Connections(_) => Self::Number,
            _ => Self::Text,
        }
    }
}

/// The condition as alternatives, each a set of literals without repetition or contradiction; `None` if there would be
/// too many.
///
/// Dropping `x && !x` lets a rule be false while `x` is unknown: earlier than Kleene's table says, never wrong.
fn alternatives(tree: &Tree) -> Option<Vec<Vec<Literal>>> {
    match tree {
        Tree::Literal(literal) => Some(vec![vec![*literal]]),
        Tree::Or(list) => {
            let mut all = Vec::new();
            for tree in list {
                all.append(&mut alternatives(tree)?);
                if all.len() > MAX_ALTERNATIVES {
                    return None;
                }
            }
            Some(all)
        }
        Tree::And(list) => {
            let mut all = vec![Vec::new()];
            for tree in list {
                let more = alternatives(tree)?;
                if all.len() * more.len() > MAX_ALTERNATIVES {
                    return None;
                }
                let mut product = Vec::with_capacity(all.len() * more.len());
                for left in &all {
                    product.extend(more.iter().filter_map(|right| joined(left, right)));
                }
                all = product;
            }
            Some(all)
        }
    }
}

fn joined(left: &[Literal], right: &[Literal]) -> Option<Vec<Literal>> {
    let mut both: Vec<Literal> = left.iter().chain(right).copied().collect();
    both.sort_unstable();
    both.dedup();
    let contradiction = both.windows(2).any(|pair| pair[0].term() == pair[1].term());
    (!contradiction).then_some(both)
}
