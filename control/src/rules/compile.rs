//! From a rule set to the program that workers evaluate: names become numbers, tests become the matcher's
//! terms. What the language means does not change on the way: the reference evaluator must agree with
//! the program on every request.

use lcs_pipelines::matching::{self, Expr, GroupId, Program, QueueId, ServerId, ir};

use super::ast::{
    Action, AddressRelation, Condition, Operand, Relation, RuleSet, Selector, Stickiness, Term, Test, TextRelation,
    Variable,
};
use super::decimal::Decimal;
use super::diagnostic::{Diagnostic, Errors, Mistake};
use super::span::Span;

/// The numbers by which the publisher of a rule set knows groups, servers and queues.
pub trait Numbering {
    /// The number of a server group.
    fn group(&self, name: &str) -> Option<GroupId>;
    /// The number of a server.
    fn server(&self, name: &str) -> Option<ServerId>;
    /// The number of a queue.
    fn queue(&self, name: &str) -> Option<QueueId>;
}

/// Numbers for names that are known to be right, or do not matter.
pub(crate) struct AnyNumber;

impl Numbering for AnyNumber {
    fn group(&self, _: &str) -> Option<GroupId> {
        Some(0)
    }
    fn server(&self, _: &str) -> Option<ServerId> {
        Some(0)
    }
    fn queue(&self, _: &str) -> Option<QueueId> {
        Some(0)
    }
}

/// Compiles a rule set; its rules keep their places, and `default` is the one behind the last.
pub fn compile(set: &RuleSet, numbering: &dyn Numbering) -> Result<Program, Errors> {
    program(set, &lower(set, numbering)?)
}

/// Compiles what a rule set was lowered to; errors point into the set.
pub(super) fn program(set: &RuleSet, lowered: &ir::RuleSet) -> Result<Program, Errors> {
    matching::compile(lowered).map_err(|error| {
        let span = set.rules.get(error.index).map_or(Span::default(), |rule| rule.span);
        let mistake = match error.problem {
            matching::Problem::Regex(_) | matching::Problem::RegexSize(_) => Mistake::BadRegex,
            matching::Problem::Types { .. } => Mistake::WrongType,
            _ => Mistake::Limit,
        };
        Errors(vec![Diagnostic::new(mistake, &set.file, &set.lines, span, error.problem.to_string())])
    })
}

/// Resolves the names of a rule set, or names those that the numbering does not have.
pub fn lower(set: &RuleSet, numbering: &dyn Numbering) -> Result<ir::RuleSet, Errors> {
    let mut lower = Lower { set, numbering, errors: Vec::new(), span: Span::default() };
    let mut rules = Vec::with_capacity(set.rules.len() + 1);
    for (index, rule) in set.rules.iter().enumerate() {
        lower.span = rule.span;
        let condition = lower.condition(&rule.condition);
        lower.span = rule.action_span;
        let action = lower.action(&rule.action);
        rules.push(ir::Rule { name: set.rule_name(index).into(), condition, action });
    }
    if let Some(default) = &set.default {
        lower.span = default.span;
        let action = lower.action(&default.action);
        rules.push(ir::Rule { name: "default".into(), condition: Expr::always(), action });
    }
    if lower.errors.is_empty() { Ok(ir::RuleSet { rules }) } else { Err(Errors(lower.errors)) }
}

struct Lower<'a> {
    set: &'a RuleSet,
    numbering: &'a dyn Numbering,
    errors: Vec<Diagnostic>,
    /// What an error points at.
    span: Span,
}

impl Lower<'_> {
    /// A name's number; an unknown name is noted, and the set refused in the end.
    fn number(&mut self, what: &str, name: &str, number: Option<u16>) -> u16 {
        number.unwrap_or_else(|| {
            let message = format!("there is no {what} `{name}`");
            let error = Diagnostic::new(Mistake::UnknownName, &self.set.file, &self.set.lines, self.span, message);
            self.errors.push(error.with_mend("name it in the configuration first"));
            0
        })
    }

    fn group(&mut self, name: &str) -> GroupId {
        self.number("group", name, self.numbering.group(name))
    }

    fn action(&mut self, action: &Action) -> ir::Action {
        match action {
            Action::Reject { status } => ir::Action::Reject { status: *status },
            Action::Redirect { status, url } => ir::Action::Redirect { status: *status, url: url.as_str().into() },
            Action::Forward { server, queue } => {
                let server = self.number("server", server, self.numbering.server(server));
                let queue = queue.as_ref().map(|name| self.number("queue", name, self.numbering.queue(name)));
                ir::Action::Forward { server, queue }
            }
            Action::RouteTo { group, stickiness } => {
                let stickiness = match stickiness {
                    None => ir::Stickiness::Service,
                    Some(Stickiness::Sticky) => ir::Stickiness::Sticky,
                    Some(Stickiness::NonSticky) => ir::Stickiness::NonSticky,
                    Some(Stickiness::Source) => ir::Stickiness::By(ir::Sticky::Source),
                    Some(Stickiness::Cookie(name)) => ir::Stickiness::By(ir::Sticky::Cookie(name.as_str().into())),
                    Some(Stickiness::SetCookie(name)) => {
                        ir::Stickiness::By(ir::Sticky::SetCookie(name.as_str().into()))
                    }
                };
                ir::Action::RouteTo { group: self.group(group), stickiness }
            }
            Action::LoadBalance { group, algorithm } => {
                ir::Action::LoadBalance { group: self.group(group), algorithm: algorithm.as_str().into() }
            }
        }
    }

    fn condition(&mut self, condition: &Condition) -> Expr {
        match condition {
            Condition::And(parts) => Expr::And(parts.iter().map(|part| self.condition(part)).collect()),
            Condition::Or(parts) => Expr::Or(parts.iter().map(|part| self.condition(part)).collect()),
            Condition::Not(inner) => Expr::Not(Box::new(self.condition(inner))),
            Condition::Term(term) => self.term(term),
        }
    }

    fn term(&mut self, term: &Term) -> Expr {
        let variable = self.variable(&term.variable);
        let make = |relation, value, ignore_case| {
            Expr::Term(ir::Term { variable: variable.clone(), relation, value, ignore_case })
        };
        match &term.test {
            Test::Exists => make(ir::Relation::Exists, ir::Value::Nothing, false),
            Test::Holds => make(ir::Relation::Ge, ir::Value::Number(1.into()), false),
            Test::Number { relation, value } => make(number_relation(*relation), number(value), false),
            Test::NumberIn(values) => make(ir::Relation::In, list(values, number), false),
            Test::Address { relation, values } => {
                let relation = match relation {
                    AddressRelation::Equal | AddressRelation::In => ir::Relation::In,
                    AddressRelation::NotEqual => ir::Relation::Ne,
                };
                let value = match values {
                    Operand::One(net) => ir::Value::Network(*net),
                    several => list(several, |net| ir::Value::Network(*net)),
                };
                make(relation, value, false)
            }
            Test::Text { relation, values, ignore_case } => {
                let fold = *ignore_case || term.variable.ignores_case();
                let text = |text: &String| ir::Value::Text(text.as_bytes().into());
                let relation = match relation {
                    TextRelation::NotEqual => ir::Relation::Ne,
                    TextRelation::Prefix => ir::Relation::Prefix,
                    TextRelation::Suffix => ir::Relation::Suffix,
                    TextRelation::Contains => ir::Relation::Contains,
                    TextRelation::Regex => ir::Relation::Regex,
                    TextRelation::Equal | TextRelation::In => return make(ir::Relation::In, list(values, text), fold),
                };
                // The matcher takes one text a term here: of several any will do.
                match values.values() {
                    [one] => make(relation, text(one), fold),
                    several => Expr::Or(several.iter().map(|one| make(relation, text(one), fold)).collect()),
                }
            }
        }
    }

    fn variable(&mut self, variable: &Variable) -> ir::Variable {
        match variable {
            Variable::Url => ir::Variable::Url,
            Variable::Path => ir::Variable::Path,
            Variable::Query(name) => ir::Variable::Query(name.as_str().into()),
            Variable::Method => ir::Variable::Method,
            Variable::Host => ir::Variable::Host,
            Variable::Header(name) => ir::Variable::Header(name.as_str().into()),
            Variable::Cookie(name) => ir::Variable::Cookie(name.as_str().into()),
            Variable::HttpVersion => ir::Variable::HttpVersion,
            Variable::Xml(selector) => ir::Variable::Xml(document_path(selector)),
            Variable::Json(selector) => ir::Variable::Json(document_path(selector)),
            Variable::SmtpFrom => ir::Variable::SmtpFrom,
            Variable::SmtpTo => ir::Variable::SmtpTo,
            Variable::PopUser => ir::Variable::PopUser,
            Variable::ImapUser => ir::Variable::ImapUser,
            Variable::FtpUser => ir::Variable::FtpUser,
            Variable::TlsSni => ir::Variable::TlsSni,
            Variable::TlsAlpn => ir::Variable::TlsAlpn,
            Variable::IpSrc => ir::Variable::IpSrc,
            Variable::IpDst => ir::Variable::IpDst,
            Variable::IpTtl => ir::Variable::IpTtl,
            Variable::IpTos => ir::Variable::IpTos,
            Variable::IpProto => ir::Variable::IpProto,
            Variable::PortSrc => ir::Variable::PortSrc,
            Variable::PortDst => ir::Variable::PortDst,
            // At most 64 by the parser.
            Variable::Bitmatch { offset, bits, mask } => {
                ir::Variable::Bits { offset: *offset, bits: u8::try_from(*bits).unwrap_or(64), mask: *mask }
            }
            Variable::ServerUp(group) => ir::Variable::ServerUp(self.group(group)),
            Variable::Connections(group) => ir::Variable::Connections(self.group(group)),
        }
    }
}

fn document_path(selector: &Selector) -> matching::DocPath {
    let (steps, attribute) = match selector.steps.split_last() {
        Some((last, rest)) if last.attribute => (rest, Some(last.name.as_str().into())),
        _ => (&selector.steps[..], None),
    };
    let step = |step: &super::ast::Step| ir::Step {
        axis: if step.anywhere { ir::Axis::Descendant } else { ir::Axis::Child },
        name: step.name.as_str().into(),
        index: step.index,
    };
    matching::DocPath { steps: steps.iter().map(step).collect(), attribute }
}

fn number_relation(relation: Relation) -> ir::Relation {
    match relation {
        Relation::Equal => ir::Relation::Eq,
        Relation::NotEqual => ir::Relation::Ne,
        Relation::Less => ir::Relation::Lt,
        Relation::LessOrEqual => ir::Relation::Le,
        Relation::Greater => ir::Relation::Gt,
        Relation::GreaterOrEqual => ir::Relation::Ge,
    }
}

/// A rule's number: within both crates' limits, which are the same, so its text reads back exactly.
fn number(value: &Decimal) -> ir::Value {
    ir::Value::Number(matching::Number::constant(&value.to_string()).unwrap_or(matching::Number::MAX))
}

fn list<T>(values: &Operand<T>, each: impl Fn(&T) -> ir::Value) -> ir::Value {
    ir::Value::List(values.values().iter().map(each).collect())
}
