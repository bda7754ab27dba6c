//! A compiled rule set and its evaluation.
//!
//! [`Program::decide`] never visits rules one by one. The values that a request has name the alternatives that could be
//! true (the matchers of [`super::index`]); each of those is verified in rule order until one holds. Alternatives that
//! wait for bytes are kept per variable, of which only the first matters: nothing below it may fire yet.

use super::class::{Class, ClassSet};
use super::index::{Body, Cost, Index, List};
use super::ir::{Action, RuleSet, Variable};
use super::lower::{CompileError, Literal, Lowered, Problem, Tree, VarId};
use super::regexes::Regexes;
use super::terms::{Field, Runner};
use hashbrown::HashMap;
use regex_automata::hybrid::dfa::Cache;

/// An immutable program, shared by all workers.
#[derive(Debug)]
pub struct Program {
    rules: Vec<(Box<str>, Action)>,
    variables: Vec<Variable>,
    ids: HashMap<Variable, VarId>,
    classes: Vec<Class>,
    /// Classes of which the program has a variable.
    used: ClassSet,
    terms: Vec<(VarId, Runner)>,
    index: Index,
    regexes: Option<Regexes>,
    /// The classes that each alternative of the first rule looks at.
    first: Vec<ClassSet>,
}

/// Compiles a rule set, or names the rule that cannot be compiled and why.
pub fn compile(rules: &RuleSet) -> Result<Program, CompileError> {
    let mut lowered = Lowered::new(rules)?;
    let whole_set = |problem: Problem, index: usize| {
        let name = rules.rules.get(index).map(|rule| rule.name.to_string()).unwrap_or_default();
        CompileError { index, name, problem }
    };
    let last = rules.rules.len().saturating_sub(1);
    let index = Index::new(&mut lowered).map_err(|(_, problem)| whole_set(problem, last))?;
    let regexes = Regexes::new(&lowered.patterns).map_err(|problem| whole_set(problem, last))?;
    let classes: Vec<Class> = lowered.variables.iter().map(Class::of).collect();
    let first = first_rule(&index, |literal| classes[lowered.terms[literal.term()].0.0 as usize]);
    Ok(Program {
        rules: rules.rules.iter().map(|rule| (rule.name.clone(), rule.action.clone())).collect(),
        ids: lowered.variables.iter().cloned().zip((0..).map(VarId)).collect(),
        used: classes.iter().fold(ClassSet::NONE, |set, class| set.with(*class)),
        classes,
        variables: lowered.variables,
        terms: lowered.terms.iter().map(|(variable, test)| (*variable, Runner::new(test))).collect(),
        index,
        regexes,
        first,
    })
}

/// The classes of the first rule's alternatives; none if it could not be multiplied out.
fn first_rule(index: &Index, class: impl Fn(Literal) -> Class) -> Vec<ClassSet> {
    let mut sets = Vec::new();
    for clause in index.clauses.iter().filter(|clause| clause.rule == 0) {
        let Body::Literals(start, end) = clause.body else { return Vec::new() };
        let literals = &index.literals[start as usize..end as usize];
        sets.push(literals.iter().fold(ClassSet::NONE, |set, literal| set.with(class(*literal))));
    }
    sets
}

/// A value that a request has: which variable, and a token by which the [`Facts`] find the value again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<P> {
    /// Which variable.
    pub variable: VarId,
    /// Where the value is.
    pub place: P,
}

/// What is known of a request so far.
pub trait Facts {
    /// Where a value is kept.
    type Place: Copy;

    /// The values that the request has, except those of [`Class::Connection`]. Of several for one variable the first
    /// counts.
    fn found(&self) -> &[Found<Self::Place>];

    /// The value at a place.
    fn value(&self, place: Self::Place) -> Field<'_>;

    /// The classes that are known completely: a variable of such a class that was not found is absent.
    fn complete(&self) -> ClassSet;

    /// A variable of [`Class::Connection`].
    fn connection(&self, variable: &Variable) -> Field<'_>;
}

/// What to do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// This rule fires (its place in the set, from 0).
    Rule(u32),
    /// Some rule waits for something of these classes, and no rule above it is true.
    NeedMore(ClassSet),
    /// No rule is true. Not possible where the last rule is [`Expr::always`](super::Expr::always).
    NoRule,
}

/// A worker's room for evaluation, made once for a program and used for every request.
#[derive(Debug)]
pub struct Scratch {
    generation: u32,
    /// By variable: generation, and place in `found`.
    slots: Vec<(u32, u32)>,
    /// By term: generation and truth, `generation << 1 | truth`.
    truths: Vec<u32>,
    demanded: Vec<VarId>,
    fold: Vec<u8>,
    cache: Option<Box<Cache>>,
}

impl Scratch {
    /// The variables for which the rule behind the last [`Decision::NeedMore`] waits.
    pub fn demanded(&self) -> &[VarId] {
        &self.demanded
    }

    fn next_generation(&mut self) {
        self.generation += 1;
        if self.generation == u32::MAX >> 1 {
            self.slots.fill((0, 0));
            self.truths.fill(0);
            self.generation = 1;
        }
    }
}

impl Program {
    /// Room for one worker to evaluate this program in. Nothing is allocated afterwards except by the first values that
    /// are longer than 16 KiB and compared without regard to case.
    pub fn scratch(&self) -> Scratch {
        Scratch {
            generation: 0,
            slots: vec![(0, 0); self.variables.len()],
            truths: vec![0; self.terms.len()],
            demanded: Vec::with_capacity(16),
            fold: Vec::with_capacity(16 << 10),
            cache: self.regexes.as_ref().map(|regexes| Box::new(regexes.cache())),
        }
    }

    /// Rules that may be looked at one by one, and why, in order.
    pub fn costs(&self) -> &[(u32, Cost)] {
        &self.index.costs
    }

    /// Every variable that some rule mentions; names of headers in lower case.
    pub fn variables(&self) -> impl Iterator<Item = (VarId, &Variable)> {
        self.variables.iter().zip(0..).map(|(variable, id)| (VarId(id), variable))
    }

    /// The number of a variable, if some rule mentions it.
    pub fn variable_id(&self, variable: &Variable) -> Option<VarId> {
        self.ids.get(variable).copied()
    }

    /// The class of a variable.
    pub fn class(&self, variable: VarId) -> Class {
        self.classes[variable.0 as usize]
    }

    /// The classes of all variables.
    pub fn classes(&self) -> ClassSet {
        self.used
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Name and action of a rule that [`Program::decide`] named.
    pub fn rule(&self, index: u32) -> Option<(&str, &Action)> {
        self.rules.get(index as usize).map(|(name, action)| (&**name, action))
    }

    /// Whether it is plain without looking that the first rule is neither true nor false yet, so that
    /// [`Program::decide`] could only ask for more.
    pub fn must_wait(&self, complete: ClassSet) -> bool {
        let complete = complete.with(Class::Connection);
        self.first.iter().any(|classes| classes.is_apart(complete.and(self.used)))
            && !self.first.iter().any(|classes| classes.and(complete) == *classes)
    }

    /// Which rule fires, as far as can be said.
    ///
    /// A rule fires as soon as it is true and every rule above it is false; as bytes arrive an answer once given stays.
    /// `scratch` must come from this program.
    pub fn decide<F: Facts>(&self, scratch: &mut Scratch, facts: &F) -> Decision {
        scratch.next_generation();
        for (found, place) in facts.found().iter().zip(0..) {
            let slot = &mut scratch.slots[found.variable.0 as usize];
            if slot.0 != scratch.generation {
                *slot = (scratch.generation, place);
            }
        }
        let complete = facts.complete().with(Class::Connection);
        let mut run = Run { program: self, scratch, facts, complete, fires: u32::MAX, waits: u32::MAX, waiting: None };
        run.pending();
        run.defaults();
        run.matchers();
        if run.fires <= run.waits {
            return match run.fires {
                u32::MAX => Decision::NoRule,
                rule => Decision::Rule(rule),
            };
        }
        Decision::NeedMore(run.demand())
    }

    fn tree_classes(&self, tree: &Tree, unknown: &mut impl FnMut(Literal)) {
        match tree {
            Tree::And(list) | Tree::Or(list) => list.iter().for_each(|tree| self.tree_classes(tree, unknown)),
            Tree::Literal(literal) => unknown(*literal),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Truth {
    False,
    Unknown,
    True,
}

/// One evaluation.
struct Run<'r, F> {
    program: &'r Program,
    scratch: &'r mut Scratch,
    facts: &'r F,
    complete: ClassSet,
    /// First rule known to be true.
    fires: u32,
    /// First rule of which it is not known.
    waits: u32,
    waiting: Option<Body>,
}

impl<F: Facts> Run<'_, F> {
    /// Whether nothing about this rule matters any more. (The waiting rule itself may yet be true by another
    /// alternative.)
    fn beyond(&self, rule: u32) -> bool {
        rule >= self.fires || rule > self.waits
    }

    fn known(&self, variable: VarId) -> bool {
        self.scratch.slots[variable.0 as usize].0 == self.scratch.generation
    }

    fn field(&self, variable: VarId) -> Field<'_> {
        let class = self.program.classes[variable.0 as usize];
        if class == Class::Connection {
            return self.facts.connection(&self.program.variables[variable.0 as usize]);
        }
        let (generation, place) = self.scratch.slots[variable.0 as usize];
        if generation == self.scratch.generation {
            self.facts.value(self.facts.found()[place as usize].place)
        } else if self.complete.contains(class) {
            Field::Absent
        } else {
            Field::Unknown
        }
    }

    fn literal(&mut self, literal: Literal) -> Truth {
        let stamp = self.scratch.truths[literal.term()];
        let passes = if stamp >> 1 == self.scratch.generation {
            stamp & 1 == 1
        } else {
            let (variable, runner) = &self.program.terms[literal.term()];
            let mut fold = std::mem::take(&mut self.scratch.fold);
            let mut cache = self.scratch.cache.take();
            let passes = match self.field(*variable) {
                Field::Unknown => None,
                Field::Absent => Some(false),
                field => {
                    Some(runner.passes(field, &mut fold, |pattern, text| match (&self.program.regexes, &mut cache) {
                        (Some(regexes), Some(cache)) => regexes.matches(cache, pattern, text),
                        _ => false,
                    }))
                }
            };
            self.scratch.fold = fold;
            self.scratch.cache = cache;
            let Some(passes) = passes else { return Truth::Unknown };
            self.scratch.truths[literal.term()] = self.scratch.generation << 1 | u32::from(passes);
            passes
        };
        if passes != literal.negated() { Truth::True } else { Truth::False }
    }

    fn body(&mut self, body: Body) -> Truth {
        match body {
            Body::Literals(start, end) => {
                let mut all = Truth::True;
                for place in start..end {
                    match self.literal(self.program.index.literals[place as usize]) {
                        Truth::False => return Truth::False,
                        Truth::Unknown => all = Truth::Unknown,
                        Truth::True => {}
                    }
                }
                all
            }
            Body::Tree(tree) => self.tree(&self.program.index.trees[tree as usize]),
        }
    }

    fn tree(&mut self, tree: &Tree) -> Truth {
        let (list, settles) = match tree {
            Tree::Literal(literal) => return self.literal(*literal),
            Tree::And(list) => (list, Truth::False),
            Tree::Or(list) => (list, Truth::True),
        };
        let mut all = if settles == Truth::False { Truth::True } else { Truth::False };
        for tree in list {
            match self.tree(tree) {
                truth if truth == settles => return truth,
                Truth::Unknown => all = Truth::Unknown,
                _ => {}
            }
        }
        all
    }

    /// Looks for the first alternative of a list that is not false, and on through the same rule's if it waits.
    fn list(&mut self, list: List) {
        let program = self.program;
        for &posting in list.of(&program.index.postings) {
            let rule = posting.rule;
            if self.beyond(rule) {
                return;
            }
            if posting.is_certain() {
                self.fires = rule;
                return;
            }
            let body = program.index.clauses[posting.clause()].body;
            match self.body(body) {
                Truth::False => {}
                Truth::True => {
                    self.fires = rule;
                    return;
                }
                Truth::Unknown if rule < self.waits => {
                    self.waits = rule;
                    self.waiting = Some(body);
                }
                Truth::Unknown => {}
            }
        }
    }

    fn groups(&mut self, groups: &[super::index::Group]) {
        for group in groups {
            if self.beyond(group.head) {
                return;
            }
            if group.guard.is_none_or(|guard| self.literal(guard) != Truth::False) {
                self.list(group.list);
            }
        }
    }

    /// Alternatives filed under variables that are still unknown.
    fn pending(&mut self) {
        let program = self.program;
        if self.complete.and(program.used) == program.used {
            return;
        }
        for (class, pending) in Class::ALL.iter().zip(&program.index.pending) {
            if self.complete.contains(*class) {
                continue;
            }
            for pending in pending {
                if self.beyond(pending.head) {
                    break;
                }
                if !self.known(pending.variable) {
                    self.groups(&pending.groups);
                }
            }
        }
    }

    /// Alternatives that are true unless something speaks against them.
    fn defaults(&mut self) {
        let program = self.program;
        self.groups(&program.index.defaults);
    }

    /// Alternatives named by the values that there are.
    fn matchers(&mut self) {
        let (program, facts) = (self.program, self.facts);
        for &variable in &program.index.connection {
            let head = program.index.matchers[variable.0 as usize].as_ref().map_or(u32::MAX, |m| m.head);
            if self.beyond(head) {
                break;
            }
            self.matcher(variable, facts.connection(&program.variables[variable.0 as usize]));
        }
        for (found, place) in facts.found().iter().zip(0..) {
            // A later value of the same variable does not count.
            if self.scratch.slots[found.variable.0 as usize].1 == place {
                self.matcher(found.variable, facts.value(found.place));
            }
        }
    }

    fn matcher(&mut self, variable: VarId, field: Field<'_>) {
        let program = self.program;
        let Some(matcher) = &program.index.matchers[variable.0 as usize] else { return };
        if self.beyond(matcher.head) || matches!(field, Field::Unknown | Field::Absent) {
            return;
        }
        if let Some(list) = matcher.exists {
            self.list(list);
        }
        if let Some(numbers) = &matcher.numbers
            && let Some(number) = field.number()
        {
            numbers.walk(number, |list| self.list(list));
        }
        if let Some(networks) = &matcher.networks
            && let Some(address) = field.address()
        {
            networks.walk(address, |list| self.list(list));
        }
        let Field::Text(text) = field else { return };
        if !matcher.texts.is_empty()
            && let Some(&list) = matcher.texts.get(text)
        {
            self.list(list);
        }
        if text.len() <= matcher.longest_folded {
            let mut fold = std::mem::take(&mut self.scratch.fold);
            let list = matcher.folded_texts.get(super::terms::folded(text, &mut fold)).copied();
            self.scratch.fold = fold;
            if let Some(list) = list {
                self.list(list);
            }
        }
        for trie in &matcher.tries {
            trie.walk(text, |list| self.list(list));
        }
        for (automaton, lists) in &matcher.substrings {
            for hit in automaton.find_overlapping_iter(text) {
                self.list(lists[hit.pattern().as_usize()]);
            }
        }
    }

    /// What the first waiting rule waits for.
    fn demand(&mut self) -> ClassSet {
        let mut demanded = std::mem::take(&mut self.scratch.demanded);
        demanded.clear();
        let mut classes = ClassSet::NONE;
        let program = self.program;
        let mut look = |literal: Literal| {
            let variable = program.terms[literal.term()].0;
            if self.field(variable) == Field::Unknown && !demanded.contains(&variable) {
                classes = classes.with(program.classes[variable.0 as usize]);
                // A tree can wait for very many; then their classes say enough.
                if demanded.len() < demanded.capacity() {
                    demanded.push(variable);
                }
            }
        };
        match self.waiting {
            Some(Body::Literals(start, end)) => {
                program.index.literals[start as usize..end as usize].iter().for_each(|l| look(*l));
            }
            Some(Body::Tree(tree)) => program.tree_classes(&program.index.trees[tree as usize], &mut look),
            None => {}
        }
        self.scratch.demanded = demanded;
        classes
    }
}
