//! A rule set on trial: the compiled program and the real extraction, run on the bytes of one request.
//! This is what `rules test` and `rules explain --request` stand on, so they show what workers would do.

mod decisions;

pub use decisions::{Decided, MAX_REQUESTS, Reading};

use std::collections::HashMap;

use lcs_pipelines::extract::{Extraction, Groups, Limits, Outcome, PacketFacts, Plan, Protocol as Spoken};
use lcs_pipelines::matching::{Expr, GroupId, Program, QueueId, ServerId, VarId, ir};

use super::ast::{Action, Kind, Protocol, RuleSet, Variable};
use super::compile::{self, Numbering, compile, lower};
use super::connection::Connection;
use super::diagnostic::Errors;
use super::eval::{Attribute, Attributes, Evaluator, Verdict};
use super::table::TestCase;

/// A value that no rule can be waiting for: it makes every variable wanted and no rule true.
const NO_VALUE: &[u8] = b"\0 no request says this \r\n\0";

/// A compiled rule set, ready to be tried on requests.
pub struct Trial<'a> {
    set: &'a RuleSet,
    evaluator: Evaluator<'a>,
    names: NamesOf,
    program: Program,
    plan: Plan,
    /// A program that asks for every variable of the set, and fires never.
    everything: Program,
    everything_plan: Plan,
    variables: Vec<(Variable, VarId)>,
    limits: Limits,
}

/// Names of a rule set, numbered in the order in which they occur.
#[derive(Debug, Default)]
struct NamesOf {
    groups: Vec<String>,
    servers: Vec<String>,
    queues: Vec<String>,
}

fn place(names: &[String], name: &str) -> Option<u16> {
    names.iter().position(|known| known == name).and_then(|at| u16::try_from(at).ok())
}

impl Numbering for NamesOf {
    fn group(&self, name: &str) -> Option<GroupId> {
        place(&self.groups, name)
    }
    fn server(&self, name: &str) -> Option<ServerId> {
        place(&self.servers, name)
    }
    fn queue(&self, name: &str) -> Option<QueueId> {
        place(&self.queues, name)
    }
}

impl NamesOf {
    fn new(set: &RuleSet) -> Self {
        let mut names = NamesOf::default();
        let actions = set.rules.iter().map(|rule| &rule.action).chain(set.default.iter().map(|d| &d.action));
        for action in actions {
            match action {
                Action::Forward { server, queue } => {
                    names.servers.push(server.clone());
                    names.queues.extend(queue.clone());
                }
                Action::RouteTo { group, .. } | Action::LoadBalance { group, .. } => names.groups.push(group.clone()),
                Action::Reject { .. } | Action::Redirect { .. } => {}
            }
        }
        for term in set.rules.iter().flat_map(|rule| rule.condition.terms()) {
            if let Variable::ServerUp(group) | Variable::Connections(group) = &term.variable {
                names.groups.push(group.clone());
            }
        }
        for list in [&mut names.groups, &mut names.servers, &mut names.queues] {
            list.sort_unstable();
            list.dedup();
        }
        names
    }
}

/// The state of the groups as a connection describes it.
struct GroupState<'a>(&'a NamesOf, &'a Connection);

impl Groups for GroupState<'_> {
    fn is_up(&self, group: GroupId) -> bool {
        let name = self.0.groups.get(usize::from(group));
        name.and_then(|name| self.1.servers_up.get(name)).copied().unwrap_or(true)
    }
    fn connections(&self, group: GroupId) -> u64 {
        let name = self.0.groups.get(usize::from(group));
        name.and_then(|name| self.1.connections.get(name)).copied().unwrap_or(0)
    }
}

fn spoken(protocol: Option<Protocol>) -> Spoken {
    match protocol {
        Some(Protocol::Http) => Spoken::Http,
        Some(Protocol::Smtp) => Spoken::Smtp,
        Some(Protocol::Pop) => Spoken::Pop3,
        Some(Protocol::Imap) => Spoken::Imap,
        Some(Protocol::Ftp) => Spoken::Ftp,
        Some(Protocol::Tls) => Spoken::Tls,
        None => Spoken::Opaque,
    }
}

impl Protocol {
    /// What the clients of a service speak that has this `application`; none where nothing of the payload is read.
    pub fn of(application: Spoken) -> Option<Self> {
        match application {
            Spoken::Http => Some(Protocol::Http),
            Spoken::Smtp => Some(Protocol::Smtp),
            Spoken::Pop3 => Some(Protocol::Pop),
            Spoken::Imap => Some(Protocol::Imap),
            Spoken::Ftp => Some(Protocol::Ftp),
            Spoken::Tls => Some(Protocol::Tls),
            Spoken::Opaque => None,
        }
    }
}

impl<'a> Trial<'a> {
    /// Compiles a rule set with numbers of its own. Requests are read as far as a service reads them that says nothing
    /// about it.
    pub fn new(set: &'a RuleSet) -> Result<Self, Errors> {
        Trial::with_limits(set, Limits::default())
    }

    /// As [`Trial::new`], for a service with these limits.
    pub fn with_limits(set: &'a RuleSet, limits: Limits) -> Result<Self, Errors> {
        let names = NamesOf::new(set);
        let program = compile(set, &names)?;
        let mut rules = Vec::new();
        let mut texts: Vec<&Variable> = Vec::new();
        for term in set.rules.iter().flat_map(|rule| rule.condition.terms()) {
            if term.variable.kind() == Kind::Text && !texts.contains(&&term.variable) {
                texts.push(&term.variable);
            }
        }
        let wanted = lower(&asking_for(&texts), &names)?;
        let mut variables = Vec::with_capacity(texts.len());
        for (rule, variable) in wanted.rules.into_iter().zip(&texts) {
            let Expr::Term(term) = rule.condition else { continue };
            variables.push(((*variable).clone(), term.variable.clone()));
            let value = ir::Value::Text(NO_VALUE.into());
            let condition = Expr::Term(ir::Term { relation: ir::Relation::Eq, value, ..term });
            rules.push(ir::Rule { condition, ..rule });
        }
        let everything = compile::program(set, &ir::RuleSet { rules })?;
        let variables = variables.into_iter().filter_map(|(v, ir)| Some((v, everything.variable_id(&ir)?))).collect();
        Ok(Trial {
            set,
            evaluator: Evaluator::new(set),
            plan: Plan::new(&program, limits),
            everything_plan: Plan::new(&everything, limits),
            names,
            program,
            everything,
            variables,
            limits,
        })
    }

    /// What the compiled program decides on the bytes that a client has sent so far. `connection` describes
    /// the packets and the groups.
    pub fn verdict(
        &self,
        protocol: Option<Protocol>,
        bytes: &[u8],
        connection: &Connection,
    ) -> Result<Verdict, String> {
        let groups = GroupState(&self.names, connection);
        let facts = PacketFacts { packet: connection.packet(), groups: &groups };
        let mut extraction = Extraction::new(spoken(protocol));
        let mut scratch = self.program.scratch();
        let outcome = extraction
            .advance(&self.program, &self.plan, &mut scratch, &facts, bytes, false)
            .map_err(|error| format!("the request is refused: {error}"))?;
        Ok(match outcome {
            Outcome::Rule(index) => self.rule(index),
            Outcome::NoRule => Verdict::NoRule,
            // Which rule it waits for the reference evaluator says.
            Outcome::NeedMore => self.waiting(&self.attributes(protocol, bytes, connection)),
        })
    }

    /// The verdict that a rule of the program stands for.
    fn rule(&self, index: u32) -> Verdict {
        match index as usize {
            index if index < self.set.rules.len() => Verdict::Rule(index),
            _ => Verdict::Default,
        }
    }

    /// Which rule an undecided request waits for.
    fn waiting(&self, attributes: &RequestAttributes) -> Verdict {
        match self.evaluator.verdict(attributes) {
            waiting @ Verdict::Waiting(_) => waiting,
            _ => Verdict::Waiting(0),
        }
    }

    /// The set's evaluator.
    pub fn evaluator(&self) -> &Evaluator<'a> {
        &self.evaluator
    }

    /// Names of the groups that the set mentions, sorted.
    pub fn groups(&self) -> &[String] {
        &self.names.groups
    }

    /// What the extraction finds in the bytes, for every variable that the set mentions. Where they cannot be read any
    /// further, what comes behind is unknown.
    pub fn attributes(&self, protocol: Option<Protocol>, bytes: &[u8], connection: &Connection) -> RequestAttributes {
        let groups = GroupState(&self.names, connection);
        let facts = PacketFacts { packet: connection.packet(), groups: &groups };
        let mut extraction = Extraction::new(spoken(protocol));
        let mut scratch = self.everything.scratch();
        let outcome = extraction.advance(&self.everything, &self.everything_plan, &mut scratch, &facts, bytes, false);
        let found = self
            .variables
            .iter()
            .filter_map(|(variable, id)| extraction.value(*id, bytes).map(|value| (variable.clone(), value.to_vec())));
        let complete = matches!(outcome, Ok(Outcome::Rule(_) | Outcome::NoRule));
        RequestAttributes { values: found.collect(), protocol, complete, connection: connection.clone() }
    }

    /// Decides a case of a test table as a worker would: on its bytes. A case that only describes a TLS
    /// ClientHello is decided by the reference evaluator.
    pub fn decide(&self, case: &TestCase) -> Result<Verdict, String> {
        let protocol = match case.raw {
            true => self.guess(&case.bytes),
            false => case.connection.message.protocol(),
        };
        if !case.raw && protocol == Some(Protocol::Tls) {
            return Ok(self.evaluator.verdict(&case.connection));
        }
        self.verdict(protocol, &case.bytes, &case.connection)
    }

    /// The protocol of a request written out, by its first bytes and, where several begin alike, by what the
    /// rules ask for.
    pub fn guess(&self, bytes: &[u8]) -> Option<Protocol> {
        let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default().to_ascii_uppercase();
        let word = line.split(|b| b.is_ascii_whitespace()).next().unwrap_or_default();
        let asked = |protocol| self.variables.iter().any(|(v, _)| v.protocol() == Some(protocol));
        match word {
            _ if bytes.first() == Some(&0x16) => Some(Protocol::Tls),
            b"EHLO" | b"HELO" | b"MAIL" => Some(Protocol::Smtp),
            b"USER" if asked(Protocol::Pop) || !asked(Protocol::Ftp) => Some(Protocol::Pop),
            b"USER" => Some(Protocol::Ftp),
            _ if line.windows(7).any(|w| w == b" LOGIN ") => Some(Protocol::Imap),
            b"" if bytes.is_empty() => None,
            _ => Some(Protocol::Http),
        }
    }
}

/// A rule set with one rule for each variable.
fn asking_for(variables: &[&Variable]) -> RuleSet {
    let rule = |variable: &&Variable| {
        let term = super::Term { variable: (*variable).clone(), test: super::Test::Exists, span: Default::default() };
        super::Rule {
            name: None,
            condition: super::Condition::Term(term),
            action: Action::Reject { status: None },
            before: Vec::new(),
            after: None,
            span: Default::default(),
            action_span: Default::default(),
        }
    };
    RuleSet { rules: variables.iter().map(rule).collect(), ..RuleSet::default() }
}

/// What a request was found to hold.
#[derive(Debug, Clone)]
pub struct RequestAttributes {
    values: HashMap<Variable, Vec<u8>>,
    protocol: Option<Protocol>,
    complete: bool,
    connection: Connection,
}

impl Attributes for RequestAttributes {
    fn get(&self, variable: &Variable) -> Attribute<'_> {
        if variable.protocol().is_none() {
            return self.connection.get(variable);
        }
        match self.values.get(variable) {
            Some(value) => Attribute::Text(value.as_slice().into()),
            // Another protocol's variable will not come.
            None if self.complete || variable.protocol() != self.protocol => Attribute::Absent,
            None => Attribute::Unknown,
        }
    }
}
