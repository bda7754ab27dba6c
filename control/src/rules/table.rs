//! Test tables: requests, and what each is expected to get.
//!
//! ```text
//! # request                                           => expected
//! GET /lcs1/index.html host=viva.uccs.edu             => ace
//! POST /purchase.cgi xml.purchase/totalAmount=52000   => routeTo(highSpeedServers)
//! smtp.to=chow@cs.uccs.edu                            => rule R5
//! ip.src=203.0.113.9 server_up(web)=false POST /      => reject(403)
//! <<< ip.ttl=64                                       => default
//! GET / HTTP/1.1
//! Host: www.example.com
//! >>>
//! ```
//!
//! Between `<<<` and `>>>` stands a request as it is sent, with plain line ends; a missing
//! `Content-Length` is filled in.

use std::fmt;

use serde::Serialize;

use super::ast::{Action, RuleSet, Variable};
use super::connection::{Connection, Message};
use super::context::Context;
use super::diagnostic::{Diagnostic, Errors, Mistake};
use super::eval::Verdict;
use super::parse::{Parsed, Parser};
use super::sample::Sample;
use super::span::{LineIndex, Span};

/// The most cases of one table.
pub const MAX_CASES: usize = 100_000;

/// One case of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestCase {
    /// The line on which it begins, from 1.
    pub line: usize,
    /// The request as it is written in the table (of a block, its first line).
    pub text: String,
    /// What should happen.
    pub expected: Expected,
    /// The connection. Of a block only its packets are described here; the request is in `bytes`.
    pub connection: Connection,
    /// Whether the request was written out in a block.
    pub raw: bool,
    /// What the client sends; empty for TLS, which a line describes but does not write out.
    pub bytes: Vec<u8>,
}

/// What a case expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// A rule by name.
    Rule(String),
    /// `default`, whatever its action.
    Default,
    /// A group or a server by name, whichever rule leads there.
    Target(String),
    /// An action, whole.
    Action(Action),
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expected::Rule(name) => write!(f, "rule {name}"),
            Expected::Default => f.write_str("default"),
            Expected::Target(name) => f.write_str(name),
            Expected::Action(action) => action.fmt(f),
        }
    }
}

impl Expected {
    /// Whether a decision of `set` is what is expected.
    pub fn met(&self, set: &RuleSet, verdict: Verdict) -> bool {
        let action = match verdict {
            Verdict::Rule(index) => set.rules.get(index).map(|rule| &rule.action),
            Verdict::Default => set.default.as_ref().map(|default| &default.action),
            Verdict::NoRule | Verdict::Waiting(_) => None,
        };
        match (self, action) {
            (Expected::Rule(name), _) => {
                matches!(verdict, Verdict::Rule(index) if set.rule_name(index) == *name)
            }
            (Expected::Default, _) => verdict == Verdict::Default,
            (Expected::Action(wanted), Some(action)) => wanted == action,
            (Expected::Target(name), Some(action)) => target(action) == Some(name),
            (_, None) => false,
        }
    }
}

/// The group or server that an action leads to.
fn target(action: &Action) -> Option<&str> {
    match action {
        Action::RouteTo { group, .. } | Action::LoadBalance { group, .. } => Some(group),
        Action::Forward { server, .. } => Some(server),
        Action::Reject { .. } | Action::Redirect { .. } => None,
    }
}

/// Reads a table, or names every line that cannot be understood.
pub fn parse_table(source: &str, file: &str) -> Result<Vec<TestCase>, Errors> {
    let context = Context::named(file);
    let lines = LineIndex::new(source);
    let mut reader = Reader { source, context: &context, lines, at: 0 };
    let (mut cases, mut errors) = (Vec::new(), Vec::new());
    while reader.at < source.len() {
        match reader.case() {
            Ok(Some(case)) => cases.push(case),
            Ok(None) => {}
            Err(error) => errors.push(*error),
        }
        if cases.len() > MAX_CASES {
            let here = Span::new(reader.at, reader.at);
            let message = format!("a table holds at most {MAX_CASES} cases");
            errors.push(Diagnostic::new(Mistake::Limit, file, &reader.lines, here, message));
        }
        if errors.len() >= 20 {
            break;
        }
    }
    if errors.is_empty() { Ok(cases) } else { Err(Errors(errors)) }
}

struct Reader<'a> {
    source: &'a str,
    context: &'a Context<'a>,
    lines: LineIndex,
    at: usize,
}

impl<'a> Reader<'a> {
    /// The next line with its place, passed.
    fn line(&mut self) -> Option<(usize, &'a str)> {
        let rest = self.source.get(self.at..).filter(|rest| !rest.is_empty())?;
        let start = self.at;
        let len = rest.find('\n').map_or(rest.len(), |at| at + 1);
        self.at += len;
        Some((start, rest[..len].trim_end_matches(['\n', '\r'])))
    }

    fn fail<T>(&self, span: Span, message: impl Into<String>, mend: &str) -> Parsed<T> {
        let error = Diagnostic::new(Mistake::Syntax, self.context.file, &self.lines, span, message);
        Err(Box::new(error.with_mend(mend)))
    }

    fn case(&mut self) -> Parsed<Option<TestCase>> {
        let Some((start, line)) = self.line() else { return Ok(None) };
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            return Ok(None);
        }
        let span = Span::new(start, start + line.len());
        // The last arrow: a URL may hold one too.
        let Some(arrow) = line.rfind("=>") else {
            // A block is passed over whole, so that its lines are not taken for cases.
            if line.trim_start().starts_with("<<<") {
                self.block(span)?;
            }
            return self.fail(span, "expected `=>` and what the request should get", "for example GET /a => web");
        };
        let request = line[..arrow].trim_end();
        let (block, described) = match request.trim_start().strip_prefix("<<<") {
            Some(rest) => (true, rest),
            None => (false, request),
        };
        let raw = if block { Some(self.block(span)?) } else { None };
        let expected = self.expected(start + arrow + 2, &line[arrow + 2..])?;
        let offset = start + request.len() - described.len();
        let mut parser = Parser::within(&self.source[..start + request.len()], offset, self.context, &self.lines);
        let sample = Sample::read(&mut parser)?;
        let connection = match sample.connection() {
            Ok(connection) => connection,
            Err(why) => return self.fail(span, why, "split the case, or write the request out between <<< and >>>"),
        };
        let bytes = match &raw {
            None => connection.message.to_bytes(),
            Some(bytes) if connection.message == Message::None => bytes.clone(),
            Some(_) => {
                let mend = "before `=>` only ip., port., bitmatch and server variables may stand";
                return self.fail(span, "the request is written out in the block", mend);
            }
        };
        let line_number = self.lines.position(start).line;
        let text = if block {
            bytes.split(|b| *b == b'\r').next().map(|l| String::from_utf8_lossy(l).into_owned()).unwrap_or_default()
        } else {
            request.trim().to_owned()
        };
        Ok(Some(TestCase { line: line_number, text, expected, connection, raw: block, bytes }))
    }

    /// The lines up to `>>>`, as a client sends them.
    fn block(&mut self, opening: Span) -> Parsed<Vec<u8>> {
        let mut lines = Vec::new();
        loop {
            match self.line() {
                Some((_, ">>>")) => break,
                Some((_, line)) => lines.push(line),
                None => return self.fail(opening, "this block has no end", "end it with a line >>>"),
            }
        }
        Ok(written_out(&lines))
    }

    fn expected(&self, at: usize, text: &str) -> Parsed<Expected> {
        let text = text.split(" #").next().unwrap_or_default();
        let trimmed = text.trim();
        let span = Span::new(at, at + text.trim_end().len());
        match trimmed.strip_prefix("rule ") {
            Some(name) => return Ok(Expected::Rule(name.trim().to_owned())),
            None if trimmed == "default" => return Ok(Expected::Default),
            None => {}
        }
        if trimmed == "reject" || trimmed.contains('(') {
            let mut parser = Parser::within(&self.source[..at + text.trim_end().len()], at, self.context, &self.lines);
            let (action, _) = parser.body()?;
            if !parser.scanner.done() {
                return parser.expected("the end of the line");
            }
            return Ok(Expected::Action(action));
        }
        let word = |c: char| !c.is_whitespace() && !c.is_control();
        if trimmed.is_empty() || !trimmed.chars().all(word) {
            let mend = "write a group or server, an action, rule NAME, or default";
            return self.fail(span, format!("found `{trimmed}`, expected what the request should get"), mend);
        }
        Ok(Expected::Target(trimmed.to_owned()))
    }
}

/// A block's lines as bytes: the head with CRLF, the body with LF and a length.
pub(super) fn written_out(lines: &[&str]) -> Vec<u8> {
    let http = lines.first().is_some_and(|line| line.contains(" HTTP/"));
    let empty = lines.iter().position(|line| line.is_empty());
    let (head, body) = match empty.filter(|_| http) {
        Some(at) => (&lines[..at], lines[at + 1..].join("\n")),
        None => (lines, String::new()),
    };
    let mut out: String = head.iter().map(|line| format!("{line}\r\n")).collect();
    if http {
        let says = |name: &str| head.iter().any(|line| line.to_ascii_lowercase().starts_with(name));
        if !body.is_empty() && !says("content-length:") && !says("transfer-encoding:") {
            out.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        out.push_str("\r\n");
        out.push_str(&body);
    }
    out.into_bytes()
}

/// What became of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TestReport {
    /// The table's file.
    pub file: String,
    /// How many cases there are.
    pub cases: usize,
    /// Those that did not come out as expected.
    pub failures: Vec<TestFailure>,
}

/// A case that did not come out as expected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TestFailure {
    /// The line of the table, from 1.
    pub line: usize,
    /// The request.
    pub request: String,
    /// What was expected.
    pub expected: String,
    /// What it got: the rule and its action, or why there was no decision.
    pub got: String,
}

/// Runs a table. `decide` says what the rule set does with a case: the compiled program on the case's
/// bytes, or the reference evaluator on its connection.
pub fn test_table(
    set: &RuleSet,
    table: &str,
    file: &str,
    mut decide: impl FnMut(&TestCase) -> Result<Verdict, String>,
) -> Result<TestReport, Errors> {
    let cases = parse_table(table, file)?;
    let mut failures = Vec::new();
    for case in &cases {
        let got = match decide(case) {
            Ok(verdict) if case.expected.met(set, verdict) => continue,
            Ok(verdict) => decision(set, verdict),
            Err(why) => why,
        };
        let (request, expected) = (case.text.clone(), case.expected.to_string());
        failures.push(TestFailure { line: case.line, request, expected, got });
    }
    Ok(TestReport { file: file.to_owned(), cases: cases.len(), failures })
}

fn decision(set: &RuleSet, verdict: Verdict) -> String {
    match verdict {
        Verdict::Rule(index) => match set.rules.get(index) {
            Some(rule) => format!("{}: {}", set.rule_name(index), rule.action),
            None => format!("rule #{}, which the set does not have", index + 1),
        },
        Verdict::Default => match &set.default {
            Some(default) => format!("default: {}", default.action),
            None => "default, which the set does not have".into(),
        },
        Verdict::NoRule => "no rule".into(),
        Verdict::Waiting(index) => format!("no decision: {} waits for more of the request", set.rule_name(index)),
    }
}

impl fmt::Display for TestReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.failures {
            writeln!(f, "{}:{}: {}", self.file, failure.line, failure.request)?;
            writeln!(f, "    expected  {}", failure.expected)?;
            writeln!(f, "    got       {}", failure.got)?;
        }
        let passed = self.cases - self.failures.len();
        write!(f, "{}: {passed} of {} as expected", self.file, self.cases)
    }
}

impl Parser<'_> {
    /// The variables of a case may be set, but a path with a test is not a variable.
    pub(super) fn settable(&mut self) -> Parsed<Variable> {
        self.plain_variable("a test table")
    }
}
