//! Reading actions, and the names of groups, servers, queues and algorithms in them.

use std::collections::BTreeSet;

use super::ast::{Action, Stickiness};
use super::context::Names;
use super::diagnostic::Mistake;
use super::parse::{Parsed, Parser};
use super::scan::Literal;
use super::span::Span;
use super::suggest::nearest;

/// Actions, as suggestions name them.
const ACTIONS: &[&str] = &["reject", "forward", "routeTo", "loadBalance", "redirect"];
/// The longest name of a group, server or queue.
const MAX_NAME: usize = 255;
/// The statuses that a redirect may have (RFC 9110, 15.4).
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

struct Arguments {
    given: Vec<Literal>,
    span: Span,
}

/// What stickiness goes by: `source`, `cookie.NAME`, `set-cookie.NAME`.
///
/// # Errors
/// What the text is instead.
pub(crate) fn sticky_by(text: &str) -> Result<Stickiness, String> {
    let (cookie, make): (&str, fn(String) -> Stickiness) = if text == "source" {
        return Ok(Stickiness::Source);
    } else if let Some(cookie) = text.strip_prefix("cookie.") {
        (cookie, Stickiness::Cookie)
    } else if let Some(cookie) = text.strip_prefix("set-cookie.") {
        (cookie, Stickiness::SetCookie)
    } else {
        return Err(format!("found `{text}`, expected source, cookie.NAME or set-cookie.NAME"));
    };
    // RFC 6265 section 4.1.1: a token.
    let token = |b: u8| b.is_ascii_graphic() && !br#"()<>@,;:\"/[]?={}"#.contains(&b);
    if cookie.is_empty() || cookie.len() > MAX_NAME || !cookie.bytes().all(token) {
        return Err(format!("`{cookie}` is no name of a cookie"));
    }
    Ok(make(cookie.to_owned()))
}

impl Parser<'_> {
    /// An action, plain or in braces. In braces the tutorial's `IP_RULE_MSG("…")` becomes a comment.
    pub(super) fn body(&mut self) -> Parsed<(Action, Span)> {
        if self.scanner.eat("{").is_none() {
            let result = self.action()?;
            self.scanner.skip_semicolon();
            return Ok(result);
        }
        while self.scanner.peek_word() == Some("IP_RULE_MSG") {
            self.scanner.word();
            let arguments = self.arguments()?;
            for text in &arguments.given {
                self.scanner.add_comment(&text.text);
            }
            self.require(";", "`;`")?;
        }
        if self.scanner.looking_at("}") {
            return self.expected("an action");
        }
        let result = self.action()?;
        self.scanner.eat(";");
        if !self.scanner.looking_at("}") && self.scanner.peek_word().is_some_and(|word| ACTIONS.contains(&word)) {
            return self.expected("`}`: a rule has one action");
        }
        self.require("}", "`}`")?;
        Ok(result)
    }

    fn action(&mut self) -> Parsed<(Action, Span)> {
        self.scanner.skip();
        if self.scanner.peek_word() == Some("return") {
            self.scanner.word();
            self.scanner.skip();
        }
        let start = self.scanner.at();
        let Some((word, span)) = self.scanner.word() else {
            return self.expected("an action (reject, forward, routeTo, loadBalance, redirect)");
        };
        let action = match word {
            "reject" => self.reject()?,
            "forward" => self.forward(span)?,
            "routeTo" | "route_to" => self.route_to(span, word)?,
            "loadBalance" | "load_balance" => self.load_balance(span)?,
            "redirect" => self.redirect(span)?,
            _ => {
                let message = format!("there is no action `{word}`");
                let mend = match nearest(word, ACTIONS.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "the actions are reject forward routeTo loadBalance redirect".to_owned(),
                };
                return self.fail_with(Mistake::Syntax, span, message, mend);
            }
        };
        Ok((action, Span::new(start, self.scanner.at())))
    }

    fn arguments(&mut self) -> Parsed<Arguments> {
        let open = self.require("(", "`(` and arguments")?;
        let mut given = Vec::new();
        let close = loop {
            if given.is_empty()
                && let Some(close) = self.scanner.eat(")")
            {
                break close;
            }
            let literal = self.scanner.literal(false);
            let Some(literal) = self.scan(literal)? else { return self.expected("an argument or `)`") };
            if literal.list || literal.ignore_case {
                return self.fail(Mistake::Syntax, literal.span, "an action takes plain names, not lists or `/i`");
            }
            given.push(literal);
            if let Some(close) = self.scanner.eat(")") {
                break close;
            }
            if self.scanner.eat(",").is_none() {
                return match self.expected::<Arguments>("`,` or `)`") {
                    Err(error) if error.mend.is_none() => {
                        Err(Box::new((*error).with_mend("a text with other than name characters stands in quotes")))
                    }
                    other => other,
                };
            }
        };
        Ok(Arguments { given, span: open.to(close) })
    }

    fn wrong_count<T>(&self, name: Span, arguments: &Arguments, usage: &str) -> Parsed<T> {
        let count = arguments.given.len();
        let message = format!("found {count} argument{}, expected {usage}", if count == 1 { "" } else { "s" });
        self.fail(Mistake::Syntax, name.to(arguments.span), message)
    }

    fn reject(&mut self) -> Parsed<Action> {
        if !self.scanner.near("(") {
            return Ok(Action::Reject { status: None });
        }
        let arguments = self.arguments()?;
        match arguments.given.as_slice() {
            [] => Ok(Action::Reject { status: None }),
            [status] => match status.text.parse::<u16>() {
                Ok(code @ 400..=599) => Ok(Action::Reject { status: Some(code) }),
                _ => {
                    let message = format!("found `{}`, expected a status from 400 to 599", status.text);
                    self.fail_with(Mistake::WrongType, status.span, message, "for 3xx use redirect(status, url)")
                }
            },
            _ => self.wrong_count(arguments.span, &arguments, "reject or reject(status)"),
        }
    }

    fn forward(&mut self, name: Span) -> Parsed<Action> {
        let arguments = self.arguments()?;
        let (server, queue) = match arguments.given.as_slice() {
            [server] => (server, None),
            [server, queue] => (server, Some(queue)),
            _ => return self.wrong_count(name, &arguments, "forward(server) or forward(server, queue)"),
        };
        let server_name = self.checked_name(server, "a server")?;
        self.known("server", |names| names.servers.as_ref(), &server_name, server.span)?;
        let queue = match queue {
            Some(queue) => {
                let queue_name = self.checked_name(queue, "a queue")?;
                self.known("queue", |names| names.queues.as_ref(), &queue_name, queue.span)?;
                Some(queue_name)
            }
            None => None,
        };
        Ok(Action::Forward { server: server_name, queue })
    }

    /// The tutorial's generated C passes `saddr` as a third argument: it says nothing that we do not know.
    fn route_to(&mut self, name: Span, word: &str) -> Parsed<Action> {
        let arguments = self.arguments()?;
        let given = match arguments.given.as_slice() {
            [rest @ .., address] if rest.len() == 2 && word == "route_to" && address.text == "saddr" => rest,
            given => given,
        };
        let usage = "routeTo(group), routeTo(group, STICKY|NON_STICKY) or routeTo(group, STICKY, cookie.NAME)";
        let (group, stickiness) = match given {
            [group] => (group, None),
            [group, how] => match how.text.as_str() {
                "STICKY" => (group, Some(Stickiness::Sticky)),
                "NON_STICKY" => (group, Some(Stickiness::NonSticky)),
                other => {
                    let message = format!("found `{other}`, expected STICKY or NON_STICKY");
                    return self.fail(Mistake::Syntax, how.span, message);
                }
            },
            [group, how, by] => {
                if how.text != "STICKY" {
                    let message = format!("found `{}`, expected STICKY before what it goes by", how.text);
                    return self.fail(Mistake::Syntax, how.span, message);
                }
                match sticky_by(&by.text) {
                    Ok(stickiness) => (group, Some(stickiness)),
                    Err(message) => {
                        let mend = "write STICKY, source · STICKY, cookie.NAME · STICKY, set-cookie.NAME";
                        return self.fail_with(Mistake::Syntax, by.span, message, mend);
                    }
                }
            }
            _ => return self.wrong_count(name, &arguments, usage),
        };
        let group_name = self.checked_name(group, "a group")?;
        self.known("group", |names| names.groups.as_ref(), &group_name, group.span)?;
        Ok(Action::RouteTo { group: group_name, stickiness })
    }

    fn load_balance(&mut self, name: Span) -> Parsed<Action> {
        let arguments = self.arguments()?;
        let [group, algorithm] = arguments.given.as_slice() else {
            return self.wrong_count(name, &arguments, "loadBalance(group, algorithm)");
        };
        let group_name = self.checked_name(group, "a group")?;
        self.known("group", |names| names.groups.as_ref(), &group_name, group.span)?;
        let algorithm_name = self.checked_name(algorithm, "an algorithm")?;
        self.known("algorithm", |names| names.algorithms.as_ref(), &algorithm_name, algorithm.span)?;
        Ok(Action::LoadBalance { group: group_name, algorithm: algorithm_name })
    }

    fn redirect(&mut self, name: Span) -> Parsed<Action> {
        let arguments = self.arguments()?;
        let [status, url] = arguments.given.as_slice() else {
            return self.wrong_count(name, &arguments, "redirect(status, url)");
        };
        let code = status.text.parse::<u16>().ok().filter(|code| REDIRECTS.contains(code));
        let Some(code) = code else {
            let message = format!("found `{}`, expected 301, 302, 303, 307 or 308", status.text);
            return self.fail(Mistake::WrongType, status.span, message);
        };
        // The text becomes a header field: a line break in it would be a second field (RFC 9110, 5.5).
        if url.text.is_empty() || !url.text.bytes().all(|b| b.is_ascii_graphic()) {
            let message = "a redirect's address is printable ASCII without blanks; encode the rest as %XX";
            return self.fail(Mistake::WrongType, url.span, message);
        }
        Ok(Action::Redirect { status: code, url: url.text.clone() })
    }

    fn checked_name(&self, literal: &Literal, what: &str) -> Parsed<String> {
        let name = &literal.text;
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            let message = format!("expected the name of {what}: 1 to {MAX_NAME} bytes without control characters");
            return self.fail(Mistake::Syntax, literal.span, message);
        }
        Ok(name.clone())
    }

    pub(super) fn name_argument(&mut self, what: &str) -> Parsed<(String, Span)> {
        let literal = self.scanner.literal(false);
        let Some(literal) = self.scan(literal)? else { return self.expected(&format!("the name of {what}")) };
        Ok((self.checked_name(&literal, what)?, literal.span))
    }

    pub(super) fn known(
        &self,
        what: &str,
        select: impl Fn(&Names) -> Option<&BTreeSet<String>>,
        name: &str,
        span: Span,
    ) -> Parsed<()> {
        let Some(known) = self.context.names.and_then(select) else { return Ok(()) };
        if known.contains(name) {
            return Ok(());
        }
        let message = format!("there is no {what} `{name}`");
        let mend = match nearest(name, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => format!("the configuration names no {what}"),
            None => {
                let shown: Vec<&str> = known.iter().map(String::as_str).take(12).collect();
                format!("the configuration has {}{}", shown.join(", "), if known.len() > 12 { ", …" } else { "" })
            }
        };
        self.fail_with(Mistake::UnknownName, span, message, mend)
    }
}
