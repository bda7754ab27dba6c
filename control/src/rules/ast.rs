//! What a rule set says, as a tree: variables, tests, conditions, actions, and the comments between.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use super::decimal::Decimal;
use super::span::{LineIndex, Span};

/// A whole rule set: rules in order of priority, and what happens to the rest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuleSet {
    /// The file, as the caller named it.
    pub file: String,
    /// The rules, first match first.
    pub rules: Vec<Rule>,
    /// The action for everything that no rule takes.
    pub default: Option<DefaultRule>,
    /// Comments and blank lines after the last rule.
    pub end: Vec<Trivia>,
    /// The lines of the file, for findings.
    pub lines: LineIndex,
}

impl RuleSet {
    /// How findings name rule `index`: its name, or `rule #4` (counted from 1) if it has none.
    pub fn rule_name(&self, index: usize) -> String {
        match self.rules.get(index).map(|rule| &rule.name) {
            Some(Some(name)) => name.clone(),
            _ => format!("rule #{}", index + 1),
        }
    }

    /// The same rule set with every place forgotten: two sets that say the same are then equal.
    pub fn without_places(&self) -> RuleSet {
        let mut set = self.clone();
        set.file = String::new();
        set.lines = LineIndex::default();
        for rule in &mut set.rules {
            rule.span = Span::default();
            rule.action_span = Span::default();
            rule.condition.forget_places();
        }
        if let Some(default) = &mut set.default {
            default.span = Span::default();
        }
        set
    }
}

/// What stands between rules and is kept when a set is printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trivia {
    /// One or more blank lines.
    Blank,
    /// A comment on a line of its own, without its `#`.
    Comment(String),
}

/// `name: if (condition) action`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The name, unique in its set.
    pub name: Option<String>,
    /// When the rule fires.
    pub condition: Condition,
    /// What it does.
    pub action: Action,
    /// Comments and blank lines before it, and comments from within it.
    pub before: Vec<Trivia>,
    /// The comment behind it on its last line.
    pub after: Option<String>,
    /// The whole rule.
    pub span: Span,
    /// Its action.
    pub action_span: Span,
}

/// `default: action`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultRule {
    /// What happens to everything that no rule takes.
    pub action: Action,
    /// As for a rule.
    pub before: Vec<Trivia>,
    /// As for a rule.
    pub after: Option<String>,
    /// The whole line.
    pub span: Span,
}

/// A condition: terms joined with `&&`, `||`, `!`.
///
/// `And` and `Or` are flat: neither holds itself directly, and each holds two or more conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// All hold.
    And(Vec<Condition>),
    /// At least one holds.
    Or(Vec<Condition>),
    /// Does not hold.
    Not(Box<Condition>),
    /// One test of one variable.
    Term(Term),
}

impl Condition {
    /// All of `parts`, flattened; a single part is itself.
    pub fn and(parts: Vec<Condition>) -> Condition {
        let mut flat = Vec::with_capacity(parts.len());
        for part in parts {
            match part {
                Condition::And(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        if flat.len() == 1 { flat.remove(0) } else { Condition::And(flat) }
    }

    /// Any of `parts`, flattened; a single part is itself.
    pub fn or(parts: Vec<Condition>) -> Condition {
        let mut flat = Vec::with_capacity(parts.len());
        for part in parts {
            match part {
                Condition::Or(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        if flat.len() == 1 { flat.remove(0) } else { Condition::Or(flat) }
    }

    /// Every term, from left to right.
    pub fn terms(&self) -> Vec<&Term> {
        let mut terms = Vec::new();
        self.visit(&mut |term| terms.push(term));
        terms
    }

    fn visit<'a>(&'a self, see: &mut impl FnMut(&'a Term)) {
        match self {
            Condition::And(parts) | Condition::Or(parts) => parts.iter().for_each(|part| part.visit(see)),
            Condition::Not(inner) => inner.visit(see),
            Condition::Term(term) => see(term),
        }
    }

    fn forget_places(&mut self) {
        match self {
            Condition::And(parts) | Condition::Or(parts) => parts.iter_mut().for_each(Condition::forget_places),
            Condition::Not(inner) => inner.forget_places(),
            Condition::Term(term) => term.span = Span::default(),
        }
    }
}

/// One test of one variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// What is read from the request.
    pub variable: Variable,
    /// What must hold of it.
    pub test: Test,
    /// Where the term stands.
    pub span: Span,
}

/// What a term asks of its variable. Every test is false when the variable is absent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Test {
    /// `exists(x)`.
    Exists,
    /// `server_up(group)` by itself.
    Holds,
    /// A comparison with a number; false when the value is not a number.
    Number {
        /// How to compare.
        relation: Relation,
        /// With what.
        value: Decimal,
    },
    /// `x in (1, 2)` or `x in @file`; false when the value is not a number.
    NumberIn(Operand<Decimal>),
    /// A comparison of text.
    Text {
        /// How to compare.
        relation: TextRelation,
        /// With what; with several, any of them will do (for `!=` there is only one).
        values: Operand<String>,
        /// ASCII letters are equal in either case.
        ignore_case: bool,
    },
    /// A comparison of an address.
    Address {
        /// How to compare.
        relation: AddressRelation,
        /// With what; for `==` and `!=` one host address.
        values: Operand<IpNet>,
    },
}

/// A value, several, or those of a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Operand<T> {
    /// One value.
    One(T),
    /// `(a, b, c)`.
    Several(Vec<T>),
    /// `@name`: one value a line.
    File {
        /// The name as written, relative to the rule file.
        name: String,
        /// The entries; empty when the set was parsed for printing only.
        entries: Arc<Vec<T>>,
    },
}

impl<T> Operand<T> {
    /// The values, however they were given.
    pub fn values(&self) -> &[T] {
        match self {
            Operand::One(value) => std::slice::from_ref(value),
            Operand::Several(values) => values,
            Operand::File { entries, .. } => entries,
        }
    }
}

/// How numbers compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Relation {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

impl Relation {
    /// Whether `left` stands in this relation to `right`.
    pub fn holds<T: Ord>(self, left: &T, right: &T) -> bool {
        match self {
            Relation::Equal => left == right,
            Relation::NotEqual => left != right,
            Relation::Less => left < right,
            Relation::LessOrEqual => left <= right,
            Relation::Greater => left > right,
            Relation::GreaterOrEqual => left >= right,
        }
    }

    /// The operator as written.
    pub fn symbol(self) -> &'static str {
        match self {
            Relation::Equal => "==",
            Relation::NotEqual => "!=",
            Relation::Less => "<",
            Relation::LessOrEqual => "<=",
            Relation::Greater => ">",
            Relation::GreaterOrEqual => ">=",
        }
    }
}

/// How text compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TextRelation {
    /// `x == "a"`
    Equal,
    /// `x != "a"`
    NotEqual,
    /// `x in ("a", "b")`
    In,
    /// `prefix(x, "a")`
    Prefix,
    /// `suffix(x, "a")`
    Suffix,
    /// `contains(x, "a")`
    Contains,
    /// `regex(x, "a")`: found anywhere unless anchored.
    Regex,
}

/// How addresses compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressRelation {
    /// `==` one address
    Equal,
    /// `!=` one address
    NotEqual,
    /// `in` one or more networks
    In,
}

/// What a rule may ask of a request, its connection, or the servers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Variable {
    /// The request target without scheme and authority, query included, as sent.
    Url,
    /// The request target up to `?`.
    Path,
    /// The first query parameter of that name, `%XX` and `+` decoded.
    Query(String),
    /// The request method.
    Method,
    /// The host that the request is for, without port and brackets; compared without regard to case.
    Host,
    /// The first header field of that name (in lower case here), blanks around its value removed.
    Header(String),
    /// The first cookie of that name, as sent.
    Cookie(String),
    /// `1.0` or `1.1`.
    HttpVersion,
    /// The first element or attribute of an XML body that a path selects; of an element its text up to its first
    /// child, blanks around it removed.
    Xml(Selector),
    /// The first member of a JSON body that a path selects; an array is its member repeated.
    Json(Selector),
    /// The address of `MAIL FROM`.
    SmtpFrom,
    /// The address of the first `RCPT TO`.
    SmtpTo,
    /// The POP3 login name.
    PopUser,
    /// The IMAP login name.
    ImapUser,
    /// The FTP login name.
    FtpUser,
    /// The server name of the TLS ClientHello; compared without regard to case.
    TlsSni,
    /// The protocol that the TLS ClientHello offers first.
    TlsAlpn,
    /// The client's address.
    IpSrc,
    /// The address that the client connected to.
    IpDst,
    /// Time to live, or hop limit.
    IpTtl,
    /// Type of service, or traffic class.
    IpTos,
    /// Protocol number.
    IpProto,
    /// The client's port.
    PortSrc,
    /// The port that the client connected to.
    PortDst,
    /// Bits of the packet, counted from the first bit of the IP header; absent beyond its end.
    Bitmatch {
        /// Where they begin, in bits.
        offset: u32,
        /// How many, 1 to 64.
        bits: u32,
        /// Which of them count.
        mask: u64,
    },
    /// Whether a group has a server that is up.
    ServerUp(String),
    /// The established connections of a group.
    Connections(String),
}

/// A path into an XML or JSON document.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector {
    /// From the root inwards; at least one.
    pub steps: Vec<Step>,
}

impl Selector {
    /// Whether it selects an attribute.
    pub fn is_attribute(&self) -> bool {
        self.steps.last().is_some_and(|step| step.attribute)
    }
}

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Step {
    /// `//`: at any depth below, rather than directly below.
    pub anywhere: bool,
    /// `@name`: an attribute; only the last step of an XML path.
    pub attribute: bool,
    /// The local name of the element or attribute, or the name of the member.
    pub name: String,
    /// `[n]`: the n-th of that name under its parent, from 1.
    pub index: Option<u32>,
}

/// What a rule does with what it takes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// `reject` or `reject(status)`.
    Reject {
        /// The HTTP status of the answer; without one the connection is reset.
        status: Option<u16>,
    },
    /// `forward(server)` or `forward(server, queue)`.
    Forward {
        /// The server.
        server: String,
        /// A named queue with a rate and a priority.
        queue: Option<String>,
    },
    /// `routeTo(group)`, `routeTo(group, STICKY)` or `routeTo(group, NON_STICKY)`.
    RouteTo {
        /// The server group.
        group: String,
        /// Whether later connections of the client go to the same server; the group's own setting if unsaid.
        stickiness: Option<Stickiness>,
    },
    /// `loadBalance(group, algorithm)`.
    LoadBalance {
        /// The server group.
        group: String,
        /// The scheduler.
        algorithm: String,
    },
    /// `redirect(status, url)`.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// The value of `Location`.
        url: String,
    },
}

/// The second argument of `routeTo`, and the third.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Stickiness {
    /// `STICKY`
    Sticky,
    /// `NON_STICKY`
    NonSticky,
    /// `STICKY, source`
    Source,
    /// `STICKY, cookie.NAME`
    Cookie(String),
    /// `STICKY, set-cookie.NAME`
    SetCookie(String),
}

/// The application protocol whose bytes a variable is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/1.x
    Http,
    /// SMTP
    Smtp,
    /// POP3
    Pop,
    /// IMAP
    Imap,
    /// FTP
    Ftp,
    /// TLS
    Tls,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Http => "HTTP",
            Protocol::Smtp => "SMTP",
            Protocol::Pop => "POP3",
            Protocol::Imap => "IMAP",
            Protocol::Ftp => "FTP",
            Protocol::Tls => "TLS",
        })
    }
}

/// What values a variable takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes; compared as text, or as a number where the rule gives a number.
    Text,
    /// A whole number from 0 to the limit.
    Integer {
        /// The largest value.
        max: u64,
    },
    /// An IPv4 or IPv6 address.
    Address,
    /// Yes or no.
    Flag,
}

/// The most connections that `connections(group)` reports.
pub const MAX_CONNECTIONS: u64 = u32::MAX as u64;

impl Variable {
    /// What values it takes.
    pub fn kind(&self) -> Kind {
        match self {
            Variable::IpSrc | Variable::IpDst => Kind::Address,
            Variable::IpTtl | Variable::IpTos | Variable::IpProto => Kind::Integer { max: 255 },
            Variable::PortSrc | Variable::PortDst => Kind::Integer { max: 65_535 },
            Variable::Bitmatch { mask, .. } => Kind::Integer { max: *mask },
            Variable::Connections(_) => Kind::Integer { max: MAX_CONNECTIONS },
            Variable::ServerUp(_) => Kind::Flag,
            _ => Kind::Text,
        }
    }

    /// The protocol that it is read from; none for addresses, header bits and the state of servers.
    pub fn protocol(&self) -> Option<Protocol> {
        Some(match self {
            Variable::Url
            | Variable::Path
            | Variable::Query(_)
            | Variable::Method
            | Variable::Host
            | Variable::Header(_)
            | Variable::Cookie(_)
            | Variable::HttpVersion
            | Variable::Xml(_)
            | Variable::Json(_) => Protocol::Http,
            Variable::SmtpFrom | Variable::SmtpTo => Protocol::Smtp,
            Variable::PopUser => Protocol::Pop,
            Variable::ImapUser => Protocol::Imap,
            Variable::FtpUser => Protocol::Ftp,
            Variable::TlsSni | Variable::TlsAlpn => Protocol::Tls,
            _ => return None,
        })
    }

    /// Whether its text is a name in which case never matters, so that every comparison ignores case.
    pub fn ignores_case(&self) -> bool {
        matches!(self, Variable::Host | Variable::TlsSni)
    }

    /// Whether every connection has it.
    pub fn always_present(&self) -> bool {
        matches!(self.kind(), Kind::Address | Kind::Flag)
            || matches!(
                self,
                Variable::IpTtl
                    | Variable::IpTos
                    | Variable::IpProto
                    | Variable::PortSrc
                    | Variable::PortDst
                    | Variable::Connections(_)
            )
    }
}
