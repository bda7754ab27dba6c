//! The matching program: from a rule set to one immutable structure that every worker evaluates.
//!
//! [`compile`] takes the rules as [`ir`] describes them; [`Program::decide`] says which fires, or which part of the
//! request it must see first. Nothing here reads packets: what a request says comes in through [`Facts`]. The design and
//! the choices that the rule language leaves open are in `DESIGN.md` beside this file.

mod class;
mod index;
pub mod ir;
mod lower;
pub mod number;
mod program;
mod ranges;
mod regexes;
mod terms;
mod trie;

pub use class::{Class, ClassSet};
pub use index::{Cost, SHARED_BY};
pub use ir::{
    Action, DocPath, Expr, GroupId, QueueId, Relation, Rule, RuleSet, ServerId, Stickiness, Sticky, Term, Value,
    Variable,
};
pub use lower::{CompileError, MAX_ALTERNATIVES, MAX_RULES, Problem, VarId};
pub use number::Number;
pub use program::{Decision, Facts, Found, Program, Scratch, compile};
pub use regexes::{CACHE_CAPACITY, NFA_LIMIT, PATTERN_LIMIT};
pub use terms::Field;
