//! The rule language: text in, a checked rule set out, and what an editor and the command line show
//! of it. `control/RULES.md` describes the language for its users.
//!
//! [`parse`] reads a set against a [`Context`]; [`format()`] prints it; [`check`] finds conflicts, dead rules and
//! gaps; [`explain`] says why a request takes the rule that it takes.
//! Nothing here runs per packet: the compiled program in `pipelines` does that.

mod ast;
mod check;
mod compile;
mod connection;
mod context;
mod decimal;
mod diagnostic;
mod document;
mod eval;
mod explain;
mod file;
mod lists;
mod parse;
mod parse_action;
mod parse_term;
mod parse_variable;
mod pattern;
mod print;
mod request;
mod sample;
mod scan;
mod span;
mod suggest;
mod table;
mod trial;

pub use ast::{
    Action, AddressRelation, Condition, DefaultRule, Kind, MAX_CONNECTIONS, Operand, Protocol, Relation, Rule, RuleSet,
    Selector, Step, Stickiness, Term, Test, TextRelation, Trivia, Variable,
};
pub use check::{CheckOptions, Finding, FindingKind, Place, Report, Severity, Witness, check, unspoken};
pub(crate) use compile::AnyNumber;
pub use compile::{Numbering, compile, lower};
pub use connection::{Body, Connection, HttpRequest, Message};
pub use context::{Context, ListsIn, MAX_LIST_BYTES, MAX_LIST_ENTRIES, Names, NoLists, ReadList};
pub use decimal::Decimal;
pub use diagnostic::{Diagnostic, Errors, Mistake};
pub use document::Node;
pub use eval::{Attribute, Attributes, Evaluator, Truth, Verdict};
pub use explain::{Explanation, RuleReason, TermReason, explain};
pub(crate) use file::mend as file_mend;
pub use file::{FileError, read_file, read_text};
pub use parse::{MAX_DEPTH, MAX_FILE, MAX_RULES, MAX_TERMS, parse};
pub(crate) use parse_action::sticky_by;
pub use parse_variable::{MAX_BIT, MAX_INDEX, MAX_STEPS};
pub use pattern::{MAX_PATTERN_BYTES, MAX_PATTERN_DEPTH};
pub use print::format;
pub use request::{Arrived, CaptureError, GivenRequest, MAX_STREAM};
pub use scan::MAX_TEXT;
pub use span::{LineIndex, Position, Span};
pub use table::{Expected, MAX_CASES, TestCase, TestFailure, TestReport, parse_table, test_table};
pub use trial::{Decided, MAX_REQUESTS, Reading, RequestAttributes, Trial};
