//! Reading tests: functions, relations and values, each checked against the kind of its variable.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::ast::{AddressRelation, Condition, Kind, Operand, Relation, Test, TextRelation, Variable};
use super::decimal::Decimal;
use super::diagnostic::Mistake;
use super::parse::{Parsed, Parser};
use super::parse_variable::VariableOrTerm;
use super::pattern;
use super::scan::Literal;
use super::span::Span;

/// Functions of a variable, as suggestions name them.
pub(super) const FUNCTIONS: &[&str] = &["prefix", "suffix", "contains", "regex", "exists"];

/// The most values between the parentheses of `in (…)`.
const MAX_VALUES: usize = 1_024;

/// A whole number in decimal or, with `0x`, in hexadecimal.
pub(super) fn whole_number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) if hex.starts_with('+') => None,
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten(),
    }
}

/// Protocol numbers (IANA) by the names that rules may use.
fn protocol_number(name: &str) -> Option<u64> {
    Some(match name {
        "icmp" => 1,
        "igmp" => 2,
        "tcp" => 6,
        "udp" => 17,
        "gre" => 47,
        "esp" => 50,
        "icmpv6" => 58,
        "sctp" => 132,
        _ => return None,
    })
}

enum Compare {
    Number(Relation),
    In,
}

impl Parser<'_> {
    /// One term: a function, or a variable and what is asked of it.
    pub(super) fn term(&mut self) -> Parsed<Condition> {
        if self.scanner.looking_at("\"") || self.scanner.looking_at("'") {
            let (_, span) = self.scanner.found();
            return self.fail_with(
                Mistake::Syntax,
                span,
                "found a text, expected a variable or a function",
                "the variable stands left of the relation: variable == \"text\"",
            );
        }
        let start = self.scanner.at();
        let relation = match self.scanner.peek_word() {
            Some("prefix") => Some(TextRelation::Prefix),
            Some("suffix") => Some(TextRelation::Suffix),
            Some("contains") => Some(TextRelation::Contains),
            Some("regex") => Some(TextRelation::Regex),
            _ => None,
        };
        if let Some(relation) = relation {
            let name = self.scanner.word().map_or("", |(word, _)| word);
            return self.text_function(relation, name, start);
        }
        match self.scanner.peek_word() {
            Some("exists") => {
                self.scanner.word();
                self.require("(", "`(` and a variable: exists(variable)")?;
                let variable = self.plain_variable("exists")?;
                self.require(")", "`)`")?;
                if variable.always_present() {
                    let message = "every connection has this, so it always exists";
                    return self.fail(Mistake::WrongType, Span::new(start, self.scanner.at()), message);
                }
                Ok(self.make_term(variable, Test::Exists, start))
            }
            Some("atoi") => {
                self.scanner.word();
                self.require("(", "`(` and a variable")?;
                let variable = self.plain_variable("atoi")?;
                self.require(")", "`)`")?;
                let test = self.comparison(&variable, false)?;
                Ok(self.make_term(variable, test, start))
            }
            Some("strstr") => self.strstr(start),
            _ => self.variable_term(start),
        }
    }

    pub(super) fn plain_variable(&mut self, function: &str) -> Parsed<Variable> {
        self.scanner.skip();
        let start = self.scanner.at();
        match self.variable()? {
            VariableOrTerm::Variable(variable) => Ok(variable),
            VariableOrTerm::Term(..) => self.fail(
                Mistake::Syntax,
                Span::new(start, self.scanner.at()),
                format!("{function}() takes a variable; a path with a test in brackets is a term already"),
            ),
        }
    }

    fn text_function(&mut self, relation: TextRelation, name: &str, start: usize) -> Parsed<Condition> {
        self.require("(", &format!("`(` and a variable: {name}(variable, \"text\")"))?;
        self.scanner.skip();
        let variable_start = self.scanner.at();
        let variable = self.plain_variable(name)?;
        if variable.kind() != Kind::Text {
            let span = Span::new(variable_start, self.scanner.at());
            let message = format!("{name}() reads text, and this is {}", kind_name(variable.kind()));
            return self.fail(Mistake::WrongType, span, message);
        }
        self.require(",", &format!("`,` and a text: {name}(variable, \"text\")"))?;
        let (literals, list) = self.values(relation == TextRelation::Regex)?;
        let test = self.text_test(relation, literals, list)?;
        self.require(")", "`)`")?;
        Ok(self.make_term(variable, test, start))
    }

    /// `strstr(x, "a") != NULL`, the tutorial's C for `contains`.
    fn strstr(&mut self, start: usize) -> Parsed<Condition> {
        self.scanner.word();
        let inner = self.text_function(TextRelation::Contains, "strstr", start)?;
        let negated = if self.scanner.eat("!=").is_some() {
            false
        } else if self.scanner.eat("==").is_some() {
            true
        } else {
            return self.expected("`!= NULL` or `== NULL` (or write contains(variable, \"text\"))");
        };
        if self.scanner.peek_word() != Some("NULL") {
            return self.expected("`NULL`");
        }
        self.scanner.word();
        Ok(if negated { Condition::Not(Box::new(inner)) } else { inner })
    }

    /// A relation and its value, behind a variable. XPath's single `=` is taken where `xpath` is set.
    pub(super) fn comparison(&mut self, variable: &Variable, xpath: bool) -> Parsed<Test> {
        self.scanner.skip();
        let at = self.scanner.at();
        let relations = [
            ("==", Relation::Equal),
            ("!=", Relation::NotEqual),
            ("<=", Relation::LessOrEqual),
            (">=", Relation::GreaterOrEqual),
            ("<", Relation::Less),
            (">", Relation::Greater),
        ];
        let relation = relations.into_iter().find(|(symbol, _)| self.scanner.eat(symbol).is_some());
        let compare = if let Some((_, relation)) = relation {
            Compare::Number(relation)
        } else if xpath && self.scanner.eat("=").is_some() {
            Compare::Number(Relation::Equal)
        } else if self.scanner.peek_word() == Some("in") {
            self.scanner.word();
            Compare::In
        } else {
            return self.expected("a relation (== != < <= > >= in)");
        };
        let relation_span = Span::new(at, self.scanner.at());
        let (literals, list) = self.values(false)?;
        if matches!(compare, Compare::Number(_)) && (list || literals.iter().any(|l| l.list)) {
            let span = Span::new(relation_span.start, self.scanner.at());
            return self.fail_with(Mistake::WrongType, span, "a relation takes one value", "write in (…) or in @file");
        }
        match variable.kind() {
            Kind::Flag => self.fail_with(
                Mistake::WrongType,
                relation_span,
                "server_up() is true or false by itself",
                "write server_up(group) or !server_up(group)",
            ),
            Kind::Address => self.address_test(compare, relation_span, literals, list),
            Kind::Integer { .. } => self.number_test(variable, compare, literals, list),
            Kind::Text => {
                let network =
                    literals.iter().find(|l| !l.quoted && l.text.contains('/') && l.text.parse::<IpNet>().is_ok());
                if let Some(network) = network {
                    let mend = "only ip.src and ip.dst are compared with networks; put a text in quotes";
                    return self.fail_with(Mistake::WrongType, network.span, "found a network, expected a text", mend);
                }
                let numbers = !literals.is_empty()
                    && literals
                        .iter()
                        .all(|l| !l.quoted && !l.list && Decimal::from_request(l.text.as_bytes()).is_some());
                match compare {
                    _ if numbers => self.number_test(variable, compare, literals, list),
                    Compare::In => self.text_test(TextRelation::In, literals, list),
                    Compare::Number(Relation::Equal) => self.text_test(TextRelation::Equal, literals, list),
                    Compare::Number(Relation::NotEqual) => self.text_test(TextRelation::NotEqual, literals, list),
                    Compare::Number(_) => {
                        let (span, text) = literals.first().map_or((relation_span, ""), |l| (l.span, l.text.as_str()));
                        self.fail_with(
                            Mistake::WrongType,
                            span,
                            format!("found the text `{text}`, expected a number: texts have no order"),
                            "write the number without quotes",
                        )
                    }
                }
            }
        }
    }

    /// One value, a list in parentheses (then the second is true), or an `@file`.
    fn values(&mut self, raw: bool) -> Parsed<(Vec<Literal>, bool)> {
        const VALUE: &str = "a value (a number, \"text\", @file)";
        let list = self.scanner.eat("(");
        let mut literals = Vec::new();
        loop {
            let literal = self.scanner.literal(raw);
            let Some(literal) = self.scan(literal)? else { return self.expected(VALUE) };
            literals.push(literal);
            let Some(open) = list else { return Ok((literals, false)) };
            if literals.len() > MAX_VALUES {
                let span = open.to(Span::new(open.start, self.scanner.at()));
                let message = format!("a list in parentheses has at most {MAX_VALUES} values");
                return self.fail_with(Mistake::Limit, span, message, "put them into a file: in @file");
            }
            if self.scanner.eat(")").is_some() {
                break;
            }
            self.require(",", "`,` or `)`")?;
        }
        if let Some(file) = literals.iter().find(|l| l.list) {
            return self.fail(Mistake::Syntax, file.span, "a list file stands by itself: in @file");
        }
        let case = self.scanner.case_mark();
        if self.scan(case)? {
            literals.iter_mut().for_each(|l| l.ignore_case = true);
        }
        if let Some(mixed) = literals.iter().find(|l| l.ignore_case != literals[0].ignore_case) {
            let mend = "write it once, behind the list: (\"a\", \"b\")/i";
            return self.fail_with(Mistake::Syntax, mixed.span, "`/i` must stand behind all values or none", mend);
        }
        Ok((literals, true))
    }

    fn text_test(&mut self, relation: TextRelation, literals: Vec<Literal>, list: bool) -> Parsed<Test> {
        let Some(first) = literals.first().cloned() else { return self.expected("a text") };
        let ignore_case = first.ignore_case;
        let regex = relation == TextRelation::Regex;
        let values = if first.list {
            let entries = self.text_list(&first, regex)?;
            Operand::File { name: first.text, entries }
        } else {
            if regex {
                for literal in &literals {
                    self.check_pattern(literal)?;
                }
            }
            let mut texts: Vec<String> = literals.into_iter().map(|l| l.text).collect();
            if list { Operand::Several(texts) } else { Operand::One(texts.swap_remove(0)) }
        };
        // `x in "a"` says the same as `x == "a"`.
        let relation = match (relation, &values) {
            (TextRelation::In, Operand::One(_)) => TextRelation::Equal,
            (relation, _) => relation,
        };
        Ok(Test::Text { relation, values, ignore_case })
    }

    fn check_pattern(&self, literal: &Literal) -> Parsed<()> {
        let Err(bad) = pattern::compile(&literal.text, literal.ignore_case) else { return Ok(()) };
        // Escaped quotes shift columns within the text: then the whole text is shown.
        let written = self.lines.text(literal.span);
        let shift = usize::from(literal.quoted);
        let verbatim = written.get(shift..shift + literal.text.len()) == Some(literal.text.as_str());
        let span = match bad.part {
            Some((start, end)) if verbatim => {
                Span::new(literal.span.start + shift + start, literal.span.start + shift + end.max(start + 1))
            }
            _ => literal.span,
        };
        self.fail_with(
            Mistake::BadRegex,
            span,
            format!("bad regular expression: {}", bad.message),
            "patterns work on bytes: no look-around, no back-references; outside ASCII write \\xHH",
        )
    }

    fn number_test(
        &mut self,
        variable: &Variable,
        compare: Compare,
        literals: Vec<Literal>,
        list: bool,
    ) -> Parsed<Test> {
        if let Some(marked) = literals.iter().find(|l| l.ignore_case) {
            return self.fail(Mistake::WrongType, marked.span, "`/i` is for texts; numbers have no case");
        }
        if let [file] = literals.as_slice()
            && file.list
        {
            let entries = self.number_list(variable, file)?;
            return Ok(Test::NumberIn(Operand::File { name: file.text.clone(), entries }));
        }
        let mut numbers = Vec::with_capacity(literals.len());
        for literal in &literals {
            match number(variable, &literal.text).filter(|_| !literal.quoted) {
                Some(number) => numbers.push(number),
                None => {
                    let wanted = if variable.kind() == Kind::Text { "a number" } else { "a whole number" };
                    let mend = "up to 27 digits before the point and 9 behind it, without quotes";
                    let message = format!("found `{}`, expected {wanted}", self.lines.text(literal.span));
                    return self.fail_with(Mistake::WrongType, literal.span, message, mend);
                }
            }
        }
        Ok(match compare {
            Compare::Number(relation) => Test::Number { relation, value: numbers[0] },
            Compare::In if list => Test::NumberIn(Operand::Several(numbers)),
            Compare::In => Test::Number { relation: Relation::Equal, value: numbers[0] },
        })
    }

    fn address_test(&mut self, compare: Compare, at: Span, literals: Vec<Literal>, list: bool) -> Parsed<Test> {
        let relation = match compare {
            Compare::In => AddressRelation::In,
            Compare::Number(Relation::Equal) => AddressRelation::Equal,
            Compare::Number(Relation::NotEqual) => AddressRelation::NotEqual,
            Compare::Number(_) => {
                let mend = "write in NETWORK, == ADDRESS or != ADDRESS";
                return self.fail_with(Mistake::WrongType, at, "addresses have no order", mend);
            }
        };
        if let [file] = literals.as_slice()
            && file.list
        {
            let entries = self.network_list(file)?;
            return Ok(Test::Address { relation, values: Operand::File { name: file.text.clone(), entries } });
        }
        let mut networks = Vec::with_capacity(literals.len());
        for literal in &literals {
            match network(&literal.text) {
                Ok(net) => networks.push(net),
                Err(message) => return self.fail(Mistake::BadAddress, literal.span, message),
            }
            let net = networks[networks.len() - 1];
            if relation != AddressRelation::In && net.prefix_len() != net.max_prefix_len() {
                let mend = format!("write in {net}");
                return self.fail_with(Mistake::WrongType, literal.span, "== and != compare with one address", mend);
            }
        }
        let values = if list { Operand::Several(networks) } else { Operand::One(networks[0]) };
        Ok(Test::Address { relation, values })
    }
}

/// A number that a variable may be compared with.
pub(super) fn number(variable: &Variable, text: &str) -> Option<Decimal> {
    if variable.kind() == Kind::Text {
        return Decimal::from_rule(text);
    }
    let named = if *variable == Variable::IpProto { protocol_number(text) } else { None };
    match named.or_else(|| whole_number(text)) {
        Some(n) => Some(Decimal::from_integer(i128::from(n))),
        // A negative number is whole too: the checker then says that the term can never hold.
        None => Decimal::from_rule(text).filter(|n| n.integer().is_some() && !text.contains('.')),
    }
}

/// An address or a network in CIDR notation.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let net = text.parse::<IpAddr>().map(IpNet::from).or_else(|_| text.parse::<IpNet>());
    match net {
        Ok(IpNet::V6(net)) if net.prefix_len() >= 96 && net.addr().to_ipv4_mapped().is_some() => {
            // RFC 4291 section 2.5.5.2: a form for programs; packets have the IPv4 address itself.
            let address = net.trunc().addr().to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED);
            let mend = match net.prefix_len() - 96 {
                32 => address.to_string(),
                prefix => format!("{address}/{prefix}"),
            };
            Err(format!("no packet has the address `{text}`: write {mend}, as IPv4 packets have it"))
        }
        Ok(net) if net.trunc() == net => Ok(net),
        Ok(net) => Err(format!("`{text}` has bits set behind its prefix: the network is {}", net.trunc())),
        Err(_) => Err(format!("found `{text}`, expected an address or a network such as 203.0.113.0/24")),
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "text",
        Kind::Integer { .. } => "a number: compare it with a relation",
        Kind::Address => "an address: compare it with in, == or !=",
        Kind::Flag => "true or false",
    }
}
