//! Reading variables: names, header and cookie names, paths into documents, functions of packets and servers.

use super::ast::{Condition, Selector, Step, Test, Variable};
use super::diagnostic::Mistake;
use super::parse::{Parsed, Parser};
use super::span::Span;
use super::suggest::nearest;

/// The most steps of a path.
pub const MAX_STEPS: usize = 32;
/// The largest index of a step.
pub const MAX_INDEX: u32 = 65_535;
/// The last bit that `bitmatch` may read, counted from the first bit of the IP header.
pub const MAX_BIT: u32 = 2_048;

/// Every variable, as suggestions name them.
pub(super) const VARIABLES: &[&str] = &[
    "url",
    "path",
    "query.",
    "method",
    "host",
    "header.",
    "cookie.",
    "http.version",
    "xml.",
    "json.",
    "smtp.from",
    "smtp.to",
    "pop.user",
    "imap.user",
    "ftp.user",
    "tls.sni",
    "tls.alpn",
    "ip.src",
    "ip.dst",
    "ip.ttl",
    "ip.tos",
    "ip.proto",
    "port.src",
    "port.dst",
    "bitmatch",
    "server_up",
    "connections",
];

/// A variable, or a whole term where a path ended in `[test]`.
pub(super) enum VariableOrTerm {
    Variable(Variable),
    Term(Variable, Test),
}

fn is_step(c: char) -> bool {
    c.is_alphanumeric() || "_-.:".contains(c)
}

impl Parser<'_> {
    /// A variable. `document` tests such as `xml.//Amount[Value > 10000]` come back whole.
    pub(super) fn variable(&mut self) -> Parsed<VariableOrTerm> {
        let Some((word, mut span)) = self.scanner.word() else {
            return self.expected("a variable or a function");
        };
        let simple = match word {
            "url" => Some(Variable::Url),
            "path" => Some(Variable::Path),
            "method" => Some(Variable::Method),
            "host" => Some(Variable::Host),
            _ => None,
        };
        if let Some(variable) = simple {
            return Ok(VariableOrTerm::Variable(variable));
        }
        match word {
            "bitmatch" => return self.bitmatch().map(VariableOrTerm::Variable),
            "server_up" => {
                let group = self.group_argument("server_up")?;
                return Ok(VariableOrTerm::Variable(Variable::ServerUp(group)));
            }
            "connections" => {
                let group = self.group_argument("connections")?;
                return Ok(VariableOrTerm::Variable(Variable::Connections(group)));
            }
            "rule_fields" => {
                return self.fail_with(
                    Mistake::UnknownVariable,
                    span,
                    "`rule_fields` was the C array of the values that the first LCS had extracted",
                    "name what was in it, for example xml.purchase/item[2]/subTotal",
                );
            }
            _ => {}
        }
        if self.scanner.eat_here(".").is_some() {
            match word {
                "xml" | "json" => return self.document(word == "xml"),
                "query" => return Ok(VariableOrTerm::Variable(Variable::Query(self.member("query")?))),
                "cookie" => return Ok(VariableOrTerm::Variable(Variable::Cookie(self.member("cookie")?))),
                "header" => {
                    let name = self.member("header")?.to_ascii_lowercase();
                    return Ok(VariableOrTerm::Variable(Variable::Header(name)));
                }
                _ => {}
            }
            let (field, end) = self.scanner.run_here(|c| c.is_ascii_alphanumeric() || c == '_');
            span = span.to(end);
            let variable = match (word, field) {
                ("http", "version") => Some(Variable::HttpVersion),
                ("smtp", "from") => Some(Variable::SmtpFrom),
                ("smtp", "to") => Some(Variable::SmtpTo),
                ("pop", "user") => Some(Variable::PopUser),
                ("imap", "user") => Some(Variable::ImapUser),
                ("ftp", "user") => Some(Variable::FtpUser),
                ("tls", "sni") => Some(Variable::TlsSni),
                ("tls", "alpn") => Some(Variable::TlsAlpn),
                ("ip", "src") => Some(Variable::IpSrc),
                ("ip", "dst") => Some(Variable::IpDst),
                ("ip", "ttl") => Some(Variable::IpTtl),
                ("ip", "tos") => Some(Variable::IpTos),
                ("ip", "proto") => Some(Variable::IpProto),
                ("port", "src") => Some(Variable::PortSrc),
                ("port", "dst") => Some(Variable::PortDst),
                _ => None,
            };
            if let Some(variable) = variable {
                return Ok(VariableOrTerm::Variable(variable));
            }
        }
        self.unknown_variable(span)
    }

    fn unknown_variable<T>(&mut self, span: Span) -> Parsed<T> {
        let written = self.lines.text(span).to_owned();
        let message = format!("there is no variable or function `{written}`");
        let mend = match written.as_str() {
            _ if written.starts_with(|c: char| c.is_ascii_digit()) => {
                "the variable stands left of the relation: variable relation value".to_owned()
            }
            "query" | "header" | "cookie" => format!("name one: {written}.NAME"),
            "xml" | "json" => format!("name a path into the document: {written}.a/b"),
            "not" | "NOT" => "negation is written !".to_owned(),
            _ => match nearest(&written, VARIABLES.iter().chain(super::parse_term::FUNCTIONS).copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the variables are {}", VARIABLES.join(" ")),
            },
        };
        self.fail_with(Mistake::UnknownVariable, span, message, mend)
    }

    /// The name behind `header.`, `cookie.` or `query.`: bare, or in quotes.
    fn member(&mut self, of: &str) -> Parsed<String> {
        let start = self.scanner.at();
        let name = if self.scanner.here("\"") {
            let name = self.scanner.quoted_name();
            self.scan(name)?
        } else {
            self.scanner.run_here(|c| c.is_ascii_alphanumeric() || "_-.".contains(c)).0.to_owned()
        };
        let span = Span::new(start, self.scanner.at());
        if name.is_empty() {
            return self.expected(&format!("a name after `{of}.`, such as {of}.name or {of}.\"odd name\""));
        }
        let odd = match of {
            "header" | "cookie" => name.chars().find(|c| !c.is_ascii_alphanumeric() && !"!#$%&'*+-.^_`|~".contains(*c)),
            _ => name.chars().find(|c| c.is_control() || "&=#".contains(*c)),
        };
        if let Some(odd) = odd {
            let message = format!("a {of} name cannot hold {odd:?}, so this never matches");
            return self.fail(Mistake::WrongType, span, message);
        }
        Ok(name)
    }

    /// A path, behind `xml.` or `json.`.
    fn document(&mut self, xml: bool) -> Parsed<VariableOrTerm> {
        let start = self.scanner.at();
        let mut selector = Selector { steps: Vec::new() };
        let mut test = None;
        let mut anywhere = self.scanner.eat_here("//").is_some();
        if !anywhere {
            self.scanner.eat_here("/");
        }
        loop {
            self.step(xml, anywhere, &mut selector)?;
            if self.scanner.eat_here("[").is_some() {
                test = Some(self.path_test(xml, &mut selector)?);
                break;
            }
            anywhere = self.scanner.eat_here("//").is_some();
            if !anywhere && self.scanner.eat_here("/").is_none() {
                break;
            }
        }
        let span = Span::new(start, self.scanner.at());
        if test.is_some() && self.scanner.eat_here("/").is_some() {
            return self.fail_with(
                Mistake::Syntax,
                span,
                "a test in brackets may only end a path",
                "put the rest of the path into a term of its own, joined with &&",
            );
        }
        if xml && selector.steps.first().is_some_and(|s| !s.anywhere && s.index.is_some_and(|n| n > 1)) {
            return self.fail_with(
                Mistake::WrongType,
                span,
                "an XML document has one root element, so this never matches",
                "the index counts elements of one name under one parent",
            );
        }
        let variable = if xml { Variable::Xml(selector) } else { Variable::Json(selector) };
        Ok(match test {
            Some(test) => VariableOrTerm::Term(variable, test),
            None => VariableOrTerm::Variable(variable),
        })
    }

    fn step(&mut self, xml: bool, anywhere: bool, selector: &mut Selector) -> Parsed<()> {
        let start = self.scanner.at();
        let attribute = self.scanner.eat_here("@").is_some();
        let name = if !xml && self.scanner.here("\"") {
            let name = self.scanner.quoted_name();
            self.scan(name)?
        } else {
            self.scanner.run_here(is_step).0.to_owned()
        };
        let span = Span::new(start, self.scanner.at());
        if attribute && !xml {
            return self.fail(Mistake::WrongType, span, "JSON has no attributes");
        }
        if selector.steps.last().is_some_and(|s| s.attribute) {
            return self.fail(Mistake::Syntax, span, "an attribute has nothing below it: `@name` ends a path");
        }
        // Prefixes are the document's own choice: only the local name says which element is meant.
        let name = if xml { name.rsplit(':').next().unwrap_or("").to_owned() } else { name };
        if attribute && (anywhere || selector.steps.is_empty()) {
            let mend = "write element/@name";
            return self.fail_with(Mistake::Syntax, span, "an attribute belongs to an element", mend);
        }
        if name.is_empty() {
            let thing = if xml { "the name of an element" } else { "the name of a member" };
            return self.expected(&format!("{thing} (a/b, a/b[2], a/@attr, //b)"));
        }
        if selector.steps.len() == MAX_STEPS {
            return self.fail(Mistake::Limit, span, format!("a path has at most {MAX_STEPS} steps"));
        }
        let mut step = Step { anywhere, attribute, name, index: None };
        let bracket = self.scanner.at();
        if self.scanner.eat_here("[").is_some() {
            let (digits, digits_span) = self.scanner.run_here(|c| c.is_ascii_digit());
            if digits.is_empty() {
                self.scanner.set(bracket);
            } else {
                match digits.parse::<u32>() {
                    Ok(index @ 1..=MAX_INDEX) => step.index = Some(index),
                    _ => {
                        let message = format!("an index is a whole number from 1 to {MAX_INDEX}");
                        return self.fail(Mistake::WrongType, digits_span, message);
                    }
                }
                if self.scanner.eat_here("]").is_none() {
                    return self.expected("`]`");
                }
                if attribute {
                    let span = Span::new(bracket, self.scanner.at());
                    return self.fail(Mistake::Syntax, span, "an attribute occurs once, so it has no index");
                }
            }
        }
        selector.steps.push(step);
        Ok(())
    }

    /// `[Value > 10000]` at the end of a path is the same test on the path with `Value` appended.
    fn path_test(&mut self, xml: bool, selector: &mut Selector) -> Parsed<Test> {
        self.scanner.skip();
        let mut anywhere = false;
        if self.scanner.eat_here(".//").is_some() {
            anywhere = true;
        } else if self.scanner.eat_here("./").is_none() && self.scanner.looking_at("//") {
            return self.expected("a path below this element, such as [Value > 10000] or [.//Value > 10000]");
        }
        let own_text = self.scanner.eat_here(".").is_some();
        if own_text && anywhere {
            return self.expected("a name");
        }
        if !own_text {
            loop {
                self.step(xml, anywhere, selector)?;
                anywhere = self.scanner.eat_here("//").is_some();
                if !anywhere && self.scanner.eat_here("/").is_none() {
                    break;
                }
            }
        }
        let test = if self.scanner.looking_at("]") {
            Test::Exists
        } else {
            let variable = if xml { Variable::Xml(selector.clone()) } else { Variable::Json(selector.clone()) };
            self.comparison(&variable, true)?
        };
        self.require("]", "`]`")?;
        Ok(test)
    }

    fn bitmatch(&mut self) -> Parsed<Variable> {
        let open = self.require("(", "`(` and offset, bits, mask: bitmatch(64, 8, 0xff)")?;
        let mut numbers = [0u64; 3];
        for (at, number) in numbers.iter_mut().enumerate() {
            if at > 0 {
                self.require(",", "`,` (bitmatch takes offset, bits, mask)")?;
            }
            let literal = self.scanner.literal(false);
            let Some(literal) = self.scan(literal)? else { return self.expected("a whole number") };
            let Some(value) = super::parse_term::whole_number(&literal.text) else {
                let message = format!("found `{}`, expected a whole number", literal.text);
                return self.fail(Mistake::WrongType, literal.span, message);
            };
            *number = value;
        }
        let close = self.require(")", "`)`")?;
        let [offset, bits, mask] = numbers;
        let span = open.to(close);
        if !(1..=64).contains(&bits) {
            return self.fail(Mistake::WrongType, span, format!("bitmatch reads 1 to 64 bits, not {bits}"));
        }
        if offset.saturating_add(bits) > u64::from(MAX_BIT) {
            let message = format!("bitmatch reads the first {MAX_BIT} bits of a packet at most");
            return self.fail(Mistake::WrongType, span, message);
        }
        if mask == 0 || (bits < 64 && mask >> bits != 0) {
            let message = format!("the mask 0x{mask:x} must have a bit set, and none beyond the {bits} that are read");
            return self.fail(Mistake::WrongType, span, message);
        }
        // Both are small by now.
        let (offset, bits) = (offset as u32, bits as u32);
        Ok(Variable::Bitmatch { offset, bits, mask })
    }

    fn group_argument(&mut self, function: &str) -> Parsed<String> {
        self.require("(", &format!("`(` and a group: {function}(group)"))?;
        let (name, span) = self.name_argument("a group")?;
        self.known("group", |names| names.groups.as_ref(), &name, span)?;
        self.require(")", "`)`")?;
        Ok(name)
    }

    /// A test of a variable, as a condition.
    pub(super) fn variable_term(&mut self, start: usize) -> Parsed<Condition> {
        match self.variable()? {
            VariableOrTerm::Term(variable, test) => Ok(self.make_term(variable, test, start)),
            VariableOrTerm::Variable(variable @ Variable::ServerUp(_)) => {
                Ok(self.make_term(variable, Test::Holds, start))
            }
            VariableOrTerm::Variable(variable) => {
                let test = self.comparison(&variable, false)?;
                Ok(self.make_term(variable, test, start))
            }
        }
    }
}
