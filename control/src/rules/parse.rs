//! The parser: rules, conditions, and recovery after a mistake. Variables, tests and actions are read
//! by the neighbouring files.

use std::collections::HashMap;
use std::sync::Arc;

use super::ast::{Condition, DefaultRule, Rule, RuleSet, Term, Trivia};
use super::context::Context;
use super::diagnostic::{Diagnostic, Errors, Mistake};
use super::scan::{ScanError, Scanner};
use super::span::{LineIndex, Span};

/// The largest rule file, in bytes.
pub const MAX_FILE: usize = 16 << 20;
/// The most rules of a set.
pub const MAX_RULES: usize = 100_000;
/// How deep parentheses and `!` may nest.
pub const MAX_DEPTH: usize = 64;
/// The most terms of one condition.
pub const MAX_TERMS: usize = 1_024;
/// Errors shown before the parser gives up.
const MAX_ERRORS: usize = 20;

pub(super) type Parsed<T> = Result<T, Box<Diagnostic>>;

pub(super) struct Parser<'a> {
    pub(super) scanner: Scanner<'a>,
    pub(super) context: &'a Context<'a>,
    pub(super) lines: LineIndex,
    /// Entries of list files already read, by name and kind.
    pub(super) numbers: HashMap<String, Arc<Vec<super::Decimal>>>,
    pub(super) texts: HashMap<(String, bool), Arc<Vec<String>>>,
    pub(super) networks: HashMap<String, Arc<Vec<ipnet::IpNet>>>,
    depth: usize,
    terms: usize,
}

/// Reads a rule set. All of it is right, or every mistake (up to twenty) is named.
pub fn parse(source: &str, context: &Context<'_>) -> Result<RuleSet, Errors> {
    let lines = LineIndex::new(if source.len() > MAX_FILE { "" } else { source });
    if source.len() > MAX_FILE {
        let message = format!("the file is longer than {MAX_FILE} bytes");
        let error = Diagnostic::new(Mistake::Limit, context.file, &lines, Span::default(), message);
        return Err(Errors(vec![error]));
    }
    let mut parser = Parser::within(source, 0, context, &lines);
    let mut set = RuleSet { file: context.file.to_owned(), ..RuleSet::default() };
    let mut errors = Vec::new();
    while !parser.scanner.done() {
        if let Err(error) = parser.item(&mut set) {
            errors.push(*error);
            if errors.len() == MAX_ERRORS {
                break;
            }
            parser.scanner.recover();
        }
    }
    parser.scanner.skip();
    set.end = parser.scanner.take_trivia();
    if matches!(set.end.last(), Some(Trivia::Blank)) {
        set.end.pop();
    }
    parser.names_differ(&set, &mut errors);
    if errors.is_empty() && context.require_default && set.default.is_none() {
        let end = Span::new(source.trim_end().len(), source.trim_end().len());
        errors.push(
            parser
                .error(Mistake::MissingDefault, end, "a service uses this set and it has no `default`")
                .with_mend("end it with a line such as default: routeTo(web), or default: reject(404)"),
        );
    }
    set.lines = parser.lines;
    if errors.is_empty() { Ok(set) } else { Err(Errors(errors)) }
}

impl<'a> Parser<'a> {
    /// A parser that begins at `at` of a text and counts lines as the text does.
    pub(super) fn within(text: &'a str, at: usize, context: &'a Context<'a>, lines: &LineIndex) -> Self {
        let mut scanner = Scanner::new(text);
        scanner.set(at);
        Parser {
            scanner,
            context,
            lines: lines.clone(),
            numbers: HashMap::new(),
            texts: HashMap::new(),
            networks: HashMap::new(),
            depth: 0,
            terms: 0,
        }
    }

    pub(super) fn error(&self, mistake: Mistake, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new(mistake, self.context.file, &self.lines, span, message)
    }

    pub(super) fn fail<T>(&self, mistake: Mistake, span: Span, message: impl Into<String>) -> Parsed<T> {
        Err(Box::new(self.error(mistake, span, message)))
    }

    pub(super) fn fail_with<T>(
        &self,
        mistake: Mistake,
        span: Span,
        message: impl Into<String>,
        mend: impl Into<String>,
    ) -> Parsed<T> {
        Err(Box::new(self.error(mistake, span, message).with_mend(mend)))
    }

    pub(super) fn scan<T>(&self, result: Result<T, ScanError>) -> Parsed<T> {
        result.map_err(|e| {
            let error = self.error(Mistake::Syntax, e.span, e.message);
            Box::new(match e.mend {
                Some(mend) => error.with_mend(mend),
                None => error,
            })
        })
    }

    /// The error that names what stands here and what should.
    pub(super) fn expected<T>(&mut self, what: &str) -> Parsed<T> {
        let (found, span) = self.scanner.found();
        let error = self.error(Mistake::Syntax, span, format!("found {found}, expected {what}"));
        let mend = match found.as_str() {
            "`&`" | "`and`" | "`AND`" => Some("terms are joined with &&"),
            "`|`" | "`or`" | "`OR`" => Some("terms are joined with ||"),
            "`=`" => Some("equality is written =="),
            "`not`" | "`NOT`" => Some("negation is written !"),
            _ => None,
        };
        Err(Box::new(match mend {
            Some(mend) => error.with_mend(mend),
            None => error,
        }))
    }

    pub(super) fn require(&mut self, symbol: &str, what: &str) -> Parsed<Span> {
        match self.scanner.eat(symbol) {
            Some(span) => Ok(span),
            None => self.expected(what),
        }
    }

    fn item(&mut self, set: &mut RuleSet) -> Parsed<()> {
        let mut before = self.scanner.take_trivia();
        if set.rules.is_empty() && matches!(before.first(), Some(Trivia::Blank)) {
            before.remove(0);
        }
        let start = self.scanner.at();
        let name = self.heading()?;
        if let Some(default) = &set.default {
            let line = self.lines.position(default.span.start).line;
            return self.fail_with(
                Mistake::Syntax,
                Span::new(start, self.scanner.at()),
                format!("nothing may follow `default`, which stands on line {line}"),
                "first match wins, and `default` matches everything: put it last",
            );
        }
        if name.as_deref() == Some("default") {
            let (action, _) = self.body()?;
            let span = Span::new(start, self.scanner.at());
            before.extend(self.inner_comments());
            let after = self.scanner.comment_behind();
            set.default = Some(DefaultRule { action, before, after, span });
            return Ok(());
        }
        if set.rules.len() == MAX_RULES {
            let here = Span::new(start, self.scanner.at());
            return self.fail(Mistake::Limit, here, format!("a set holds at most {MAX_RULES} rules"));
        }
        self.require("(", "`(` and a condition")?;
        (self.depth, self.terms) = (0, 0);
        let condition = self.condition()?;
        self.require(")", "`&&`, `||` or `)`")?;
        let (action, action_span) = self.body()?;
        let span = Span::new(start, self.scanner.at());
        before.extend(self.inner_comments());
        let after = self.scanner.comment_behind();
        set.rules.push(Rule { name, condition, action, before, after, span, action_span });
        Ok(())
    }

    /// Comments from within a rule: they move before it, blank lines go.
    fn inner_comments(&mut self) -> Vec<Trivia> {
        let mut inner = self.scanner.take_trivia();
        inner.retain(|trivia| *trivia != Trivia::Blank);
        inner
    }

    /// `[rule] [name] [:] if`, or `default [:]`. The word `if` is passed.
    fn heading(&mut self) -> Parsed<Option<String>> {
        const START: &str = "a rule (name: if (condition) action) or `default`";
        let mut name = None;
        let Some(mut word) = self.name_word() else { return self.expected(START) };
        if word.eq_ignore_ascii_case("rule") && !self.scanner.looking_at(":") {
            let Some(next) = self.name_word() else { return self.expected("a name or `if`") };
            word = next;
        }
        if word == "default" {
            self.scanner.eat(":");
            return Ok(Some(word));
        }
        if word != "if" {
            name = Some(word);
            self.scanner.eat(":");
            if self.scanner.peek_word() != Some("if") {
                return self.expected("`if`");
            }
            self.scanner.word();
        }
        Ok(name)
    }

    fn name_word(&mut self) -> Option<String> {
        self.scanner.skip();
        let (word, _) = self.scanner.run_here(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
        (!word.is_empty()).then(|| word.to_owned())
    }

    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let at = self.scanner.at();
            let message = format!("conditions nest at most {MAX_DEPTH} deep");
            return self.fail(Mistake::Limit, Span::new(at, at), message);
        }
        let result = inner(self);
        self.depth -= 1;
        result
    }

    fn condition(&mut self) -> Parsed<Condition> {
        let mut parts = vec![self.conjunction()?];
        while self.scanner.eat("||").is_some() {
            parts.push(self.conjunction()?);
        }
        Ok(Condition::or(parts))
    }

    fn conjunction(&mut self) -> Parsed<Condition> {
        let mut parts = vec![self.unary()?];
        while self.scanner.eat("&&").is_some() {
            parts.push(self.unary()?);
        }
        Ok(Condition::and(parts))
    }

    fn unary(&mut self) -> Parsed<Condition> {
        if !self.scanner.looking_at("!=") && self.scanner.eat("!").is_some() {
            let inner = self.nested(Self::unary)?;
            return Ok(Condition::Not(Box::new(inner)));
        }
        if self.scanner.eat("(").is_some() {
            let inner = self.nested(Self::condition)?;
            self.require(")", "`&&`, `||` or `)`")?;
            return Ok(inner);
        }
        self.terms += 1;
        if self.terms > MAX_TERMS {
            let at = self.scanner.at();
            let message = format!("a condition holds at most {MAX_TERMS} terms");
            return self.fail_with(Mistake::Limit, Span::new(at, at), message, "put values into a list: in @file");
        }
        self.term()
    }

    pub(super) fn make_term(&self, variable: super::Variable, test: super::Test, start: usize) -> Condition {
        Condition::Term(Term { variable, test, span: Span::new(start, self.scanner.at()) })
    }

    fn names_differ(&self, set: &RuleSet, errors: &mut Vec<Diagnostic>) {
        let mut seen: HashMap<&str, Span> = HashMap::new();
        for rule in &set.rules {
            let Some(name) = &rule.name else { continue };
            if let Some(first) = seen.get(name.as_str()) {
                let line = self.lines.position(first.start).line;
                let span = Span::new(rule.span.start, rule.span.start + name.len());
                errors.push(
                    self.error(Mistake::DuplicateName, span, format!("`{name}` is already the rule on line {line}"))
                        .with_mend("give it another name"),
                );
            } else {
                seen.insert(name, rule.span);
            }
        }
    }
}
