//! The canonical text of a rule set: what `fmt` writes. It reads back as the same set.

use std::fmt::{self, Write as _};

use super::ast::{
    Action, AddressRelation, Condition, Operand, Relation, Rule, RuleSet, Selector, Stickiness, Term, Test,
    TextRelation, Trivia, Variable,
};

/// Conditions on one line are at most this long; longer ones are broken at their outermost operator.
const WIDTH: usize = 110;

/// Prints a rule set in its canonical form, comments kept.
pub fn format(set: &RuleSet) -> String {
    let mut out = String::new();
    for rule in &set.rules {
        trivia(&mut out, &rule.before);
        out.push_str(&rule_text(rule));
        comment_behind(&mut out, rule.after.as_deref());
    }
    if let Some(default) = &set.default {
        trivia(&mut out, &default.before);
        let _ = write!(out, "default: {}", default.action);
        comment_behind(&mut out, default.after.as_deref());
    }
    trivia(&mut out, &set.end);
    out
}

fn trivia(out: &mut String, lines: &[Trivia]) {
    for line in lines {
        if let Trivia::Comment(text) = line {
            out.push('#');
            out.push_str(text);
        }
        out.push('\n');
    }
}

fn comment_behind(out: &mut String, comment: Option<&str>) {
    if let Some(text) = comment {
        out.push_str("  #");
        out.push_str(text);
    }
    out.push('\n');
}

fn rule_text(rule: &Rule) -> String {
    let name = rule.name.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
    let line = format!("{name}if ({}) {}", rule.condition, rule.action);
    let (operator, parts) = match &rule.condition {
        Condition::And(parts) => ("&&", parts),
        Condition::Or(parts) => ("||", parts),
        _ => return line,
    };
    if line.chars().count() <= WIDTH {
        return line;
    }
    let parts: Vec<String> = parts.iter().map(operand).collect();
    format!("{name}if ({}) {{\n    {}\n}}", parts.join(&format!("\n    {operator} ")), rule.action)
}

/// A condition as an operand: what binds less tightly stands in parentheses, and so does `&&` within
/// `||`, where few readers are sure.
fn operand(part: &Condition) -> String {
    match part {
        Condition::And(_) | Condition::Or(_) => format!("({part})"),
        _ => part.to_string(),
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::And(parts) | Condition::Or(parts) => {
                let and = matches!(self, Condition::And(_));
                for (at, part) in parts.iter().enumerate() {
                    if at > 0 {
                        f.write_str(if and { " && " } else { " || " })?;
                    }
                    f.write_str(&operand(part))?;
                }
                Ok(())
            }
            Condition::Not(inner) => match inner.as_ref() {
                Condition::Term(term) if term.is_call() => write!(f, "!{term}"),
                Condition::Not(_) => write!(f, "!{inner}"),
                _ => write!(f, "!({inner})"),
            },
            Condition::Term(term) => term.fmt(f),
        }
    }
}

impl Term {
    /// Whether it is written as a call, so that `!` before it needs no parentheses.
    fn is_call(&self) -> bool {
        match &self.test {
            Test::Exists | Test::Holds => true,
            Test::Text { relation, .. } => matches!(
                relation,
                TextRelation::Prefix | TextRelation::Suffix | TextRelation::Contains | TextRelation::Regex
            ),
            _ => false,
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variable = &self.variable;
        match &self.test {
            Test::Exists => write!(f, "exists({variable})"),
            Test::Holds => write!(f, "{variable}"),
            Test::Number { relation, value } => write!(f, "{variable} {} {value}", relation.symbol()),
            Test::NumberIn(values) => write!(f, "{variable} in {}", list(values, ToString::to_string)),
            Test::Text { relation, values, ignore_case } => {
                let raw = *relation == TextRelation::Regex;
                let mut text = list(values, |value| if raw { quote_raw(value) } else { quote(value) });
                if *ignore_case {
                    // A bare list name would run into the mark.
                    if let Operand::File { name, .. } = values {
                        text = format!("@{}", quote(name));
                    }
                    text.push_str("/i");
                }
                match relation {
                    TextRelation::Equal => write!(f, "{variable} == {text}"),
                    TextRelation::NotEqual => write!(f, "{variable} != {text}"),
                    TextRelation::In => write!(f, "{variable} in {text}"),
                    TextRelation::Prefix => write!(f, "prefix({variable}, {text})"),
                    TextRelation::Suffix => write!(f, "suffix({variable}, {text})"),
                    TextRelation::Contains => write!(f, "contains({variable}, {text})"),
                    TextRelation::Regex => write!(f, "regex({variable}, {text})"),
                }
            }
            Test::Address { relation, values } => {
                let text = list(values, |net| {
                    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
                });
                let symbol = match relation {
                    AddressRelation::Equal => Relation::Equal.symbol(),
                    AddressRelation::NotEqual => Relation::NotEqual.symbol(),
                    AddressRelation::In => "in",
                };
                write!(f, "{variable} {symbol} {text}")
            }
        }
    }
}

fn list<T>(values: &Operand<T>, show: impl Fn(&T) -> String) -> String {
    match values {
        Operand::One(value) => show(value),
        Operand::Several(values) => format!("({})", values.iter().map(show).collect::<Vec<_>>().join(", ")),
        Operand::File { name, .. } if bare_file(name) => format!("@{name}"),
        Operand::File { name, .. } => format!("@{}", quote(name)),
    }
}

fn bare_file(name: &str) -> bool {
    !name.is_empty() && !name.ends_with("/i") && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c))
}

/// A text in quotes.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A pattern in quotes: its own escapes stand as they are, so only quotes need one.
fn quote_raw(pattern: &str) -> String {
    format!("\"{}\"", pattern.replace('"', "\\\""))
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let member = |f: &mut fmt::Formatter<'_>, of: &str, name: &str| {
            if !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c)) {
                write!(f, "{of}.{name}")
            } else {
                write!(f, "{of}.{}", quote(name))
            }
        };
        f.write_str(match self {
            Variable::Query(name) => return member(f, "query", name),
            Variable::Header(name) => return member(f, "header", name),
            Variable::Cookie(name) => return member(f, "cookie", name),
            Variable::Xml(path) => return write!(f, "xml.{}", Path(path, false)),
            Variable::Json(path) => return write!(f, "json.{}", Path(path, true)),
            Variable::Bitmatch { offset, bits, mask } => return write!(f, "bitmatch({offset}, {bits}, 0x{mask:x})"),
            Variable::ServerUp(group) => return write!(f, "server_up({})", name(group)),
            Variable::Connections(group) => return write!(f, "connections({})", name(group)),
            Variable::Url => "url",
            Variable::Path => "path",
            Variable::Method => "method",
            Variable::Host => "host",
            Variable::HttpVersion => "http.version",
            Variable::SmtpFrom => "smtp.from",
            Variable::SmtpTo => "smtp.to",
            Variable::PopUser => "pop.user",
            Variable::ImapUser => "imap.user",
            Variable::FtpUser => "ftp.user",
            Variable::TlsSni => "tls.sni",
            Variable::TlsAlpn => "tls.alpn",
            Variable::IpSrc => "ip.src",
            Variable::IpDst => "ip.dst",
            Variable::IpTtl => "ip.ttl",
            Variable::IpTos => "ip.tos",
            Variable::IpProto => "ip.proto",
            Variable::PortSrc => "port.src",
            Variable::PortDst => "port.dst",
        })
    }
}

struct Path<'a>(&'a Selector, bool);

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.steps.iter().enumerate() {
            match (step.anywhere, at) {
                (true, _) => f.write_str("//")?,
                (false, 0) => {}
                (false, _) => f.write_str("/")?,
            }
            if step.attribute {
                f.write_str("@")?;
            }
            let plain = !step.name.is_empty() && step.name.chars().all(|c| c.is_alphanumeric() || "_-.:".contains(c));
            if self.1 && !plain {
                f.write_str(&quote(&step.name))?;
            } else {
                f.write_str(&step.name)?;
            }
            if let Some(index) = step.index {
                write!(f, "[{index}]")?;
            }
        }
        Ok(())
    }
}

/// The name of a group, server, queue or algorithm: bare where it reads as one word.
fn name(text: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || "_-.:".contains(c);
    if !text.is_empty() && text.chars().all(bare) { text.to_owned() } else { quote(text) }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Reject { status: None } => f.write_str("reject"),
            Action::Reject { status: Some(status) } => write!(f, "reject({status})"),
            Action::Forward { server, queue: None } => write!(f, "forward({})", name(server)),
            Action::Forward { server, queue: Some(queue) } => write!(f, "forward({}, {})", name(server), name(queue)),
            Action::RouteTo { group, stickiness: None } => write!(f, "routeTo({})", name(group)),
            Action::RouteTo { group, stickiness: Some(stickiness) } => {
                write!(f, "routeTo({}, ", name(group))?;
                match stickiness {
                    Stickiness::Sticky => f.write_str("STICKY)"),
                    Stickiness::NonSticky => f.write_str("NON_STICKY)"),
                    Stickiness::Source => f.write_str("STICKY, source)"),
                    Stickiness::Cookie(cookie) => write!(f, "STICKY, {})", name(&format!("cookie.{cookie}"))),
                    Stickiness::SetCookie(cookie) => write!(f, "STICKY, {})", name(&format!("set-cookie.{cookie}"))),
                }
            }
            Action::LoadBalance { group, algorithm } => write!(f, "loadBalance({}, {})", name(group), name(algorithm)),
            Action::Redirect { status, url } => write!(f, "redirect({status}, {})", quote(url)),
        }
    }
}
