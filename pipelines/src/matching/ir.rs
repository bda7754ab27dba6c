//! A rule set with its names resolved: what the rule language is lowered to, and what [`compile`](super::compile) takes.

use std::fmt;

use ipnet::IpNet;

use super::number::Number;

/// A group of real servers, as numbered by whoever publishes the rule set.
pub type GroupId = u16;
/// One real server, as numbered by whoever publishes the rule set.
pub type ServerId = u16;
/// A named queue, as numbered by whoever publishes the rule set.
pub type QueueId = u16;

/// What a term looks at. Names of headers are compared without regard to case; everything else as written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Variable {
    /// The request target without scheme and authority, query included, as sent (nothing decoded).
    Url,
    /// [`Variable::Url`] up to the `?`.
    Path,
    /// The first query parameter of this name, `%XX` and `+` decoded.
    Query(Box<str>),
    /// The request method.
    Method,
    /// The host without port and brackets; compared without regard to case.
    Host,
    /// The first header field of this name, blanks around the value removed.
    Header(Box<str>),
    /// The first cookie of this name, as sent.
    Cookie(Box<str>),
    /// `1.0` or `1.1`.
    HttpVersion,
    /// The first value in the XML body at this path.
    Xml(DocPath),
    /// The first value in the JSON body at this path.
    Json(DocPath),
    /// The envelope sender of the mail, without angle brackets.
    SmtpFrom,
    /// The first envelope recipient of the mail, without angle brackets.
    SmtpTo,
    /// The POP3 login name.
    PopUser,
    /// The IMAP login name.
    ImapUser,
    /// The FTP login name.
    FtpUser,
    /// The server name of the TLS ClientHello; compared without regard to case.
    TlsSni,
    /// The application protocol that the ClientHello names first.
    TlsAlpn,
    /// Source address.
    IpSrc,
    /// Destination address.
    IpDst,
    /// IPv4 time to live or IPv6 hop limit.
    IpTtl,
    /// IPv4 type of service or IPv6 traffic class, all eight bits.
    IpTos,
    /// IPv4 protocol, or the IPv6 next header that carries the transport.
    IpProto,
    /// Source port.
    PortSrc,
    /// Destination port.
    PortDst,
    /// `bits` bits (1 to 64, network order) at `offset` bits from the start of the IP header, and-ed with `mask`.
    Bits {
        /// Distance from the first bit of the IP header.
        offset: u32,
        /// Width, 1 to 64.
        bits: u8,
        /// And-ed with the bits read.
        mask: u64,
    },
    /// 1 if some server of the group is up, else 0. Lower a bare `server_up(g)` to `>= 1`.
    ServerUp(GroupId),
    /// Active connections of the group.
    Connections(GroupId),
}

/// A path into an XML or JSON document: `a/b`, `a/b[2]`, `a/@attr`, `//b`, `a//b`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DocPath {
    /// From the root downwards; never empty.
    pub steps: Vec<Step>,
    /// The attribute of the last step's element, if the path ends in `@name`. XML only.
    pub attribute: Option<Box<str>>,
}

/// One step of a [`DocPath`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Step {
    /// Whether the step may pass over levels.
    pub axis: Axis,
    /// Local name of the element (any namespace prefix in the document is ignored), or the key of a JSON member.
    pub name: Box<str>,
    /// `[n]`, from 1: the n-th of that name among its siblings (XML), the n-th element of that array (JSON).
    pub index: Option<u32>,
}

/// How far down a [`Step`] looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Axis {
    /// `/`: directly below.
    Child,
    /// `//`: anywhere below.
    Descendant,
}

/// Steps that one path may have.
pub const MAX_PATH_STEPS: usize = 32;

/// Why a text is no [`DocPath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at} of the path: {message}")]
pub struct PathError {
    /// Byte in the path.
    pub at: usize,
    /// What is wrong and what was expected.
    pub message: &'static str,
}

impl DocPath {
    /// Reads `a/b`, `/a/b`, `a/b[2]`, `a/@attr`, `//b`, `a//b`.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let bytes = text.as_bytes();
        let fail = |at, message| Err(PathError { at, message });
        let mut path = Self { steps: Vec::new(), attribute: None };
        let mut at = 0;
        loop {
            let mut axis = Axis::Child;
            if bytes[at..].starts_with(b"//") {
                axis = Axis::Descendant;
                at += 2;
            } else if bytes[at..].starts_with(b"/") {
                at += 1;
            } else if at != 0 {
                return fail(at, "expected `/` between two steps");
            }
            let attribute = bytes.get(at) == Some(&b'@');
            at += usize::from(attribute);
            let start = at;
            while at < bytes.len() && !matches!(bytes[at], b'/' | b'[' | b']' | b'@') {
                at += 1;
            }
            let name = &text[start..at];
            if name.is_empty() {
                return fail(start, "expected a name");
            }
            let local = name.rsplit(':').next().unwrap_or(name);
            if attribute {
                if at != bytes.len() {
                    return fail(at, "an attribute ends the path");
                }
                if path.steps.is_empty() || axis == Axis::Descendant {
                    return fail(start, "an attribute belongs to an element: write `element/@name`");
                }
                path.attribute = Some(local.into());
                return Ok(path);
            }
            let mut index = None;
            if bytes.get(at) == Some(&b'[') {
                let close = match text[at..].find(']') {
                    Some(length) => at + length,
                    None => return fail(at, "`[` is never closed"),
                };
                index = match text[at + 1..close].parse::<u32>() {
                    Ok(n) if n > 0 => Some(n),
                    _ => return fail(at + 1, "expected an index from 1, as in `item[2]`"),
                };
                at = close + 1;
            }
            path.steps.push(Step { axis, name: local.into(), index });
            if path.steps.len() > MAX_PATH_STEPS {
                return fail(at, "too many steps (at most 32)");
            }
            if at == bytes.len() {
                return Ok(path);
            }
        }
    }
}

impl fmt::Display for DocPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, step) in self.steps.iter().enumerate() {
            match step.axis {
                Axis::Descendant => f.write_str("//")?,
                Axis::Child if place > 0 => f.write_str("/")?,
                Axis::Child => {}
            }
            f.write_str(&step.name)?;
            if let Some(index) = step.index {
                write!(f, "[{index}]")?;
            }
        }
        match &self.attribute {
            Some(name) => write!(f, "/@{name}"),
            None => Ok(()),
        }
    }
}

/// How a term compares its variable with its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Relation {
    /// Equal.
    Eq,
    /// Present and not equal. (`!(x == v)` also holds where `x` is absent.)
    Ne,
    /// Less, as numbers.
    Lt,
    /// Less or equal, as numbers.
    Le,
    /// Greater, as numbers.
    Gt,
    /// Greater or equal, as numbers.
    Ge,
    /// Equal to one of a list, or inside a network.
    In,
    /// Begins with.
    Prefix,
    /// Ends with.
    Suffix,
    /// Has inside it.
    Contains,
    /// Matches, anywhere unless `^` or `$` say where. Bytes, not Unicode, unless the pattern says `(?u)`.
    Regex,
    /// Present at all.
    Exists,
}

/// What a variable is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Value {
    /// A number: the variable is read as one.
    Number(Number),
    /// Bytes, compared as they are.
    Text(Box<[u8]>),
    /// A network; one address is a network of full length.
    Network(IpNet),
    /// Several, for [`Relation::In`].
    List(Vec<Value>),
    /// For [`Relation::Exists`].
    Nothing,
}

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Term {
    /// What is looked at.
    pub variable: Variable,
    /// How it is compared.
    pub relation: Relation,
    /// With what.
    pub value: Value,
    /// `/i`: ASCII letters without regard to case.
    pub ignore_case: bool,
}

/// A condition. `And` of nothing is true, `Or` of nothing is false.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// All of them.
    And(Vec<Expr>),
    /// Any of them.
    Or(Vec<Expr>),
    /// Not this.
    Not(Box<Expr>),
    /// A comparison.
    Term(Term),
}

impl Expr {
    /// The condition of `default`.
    pub fn always() -> Self {
        Self::And(Vec::new())
    }
}

/// Whether later connections of the same client follow the first one's server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Stickiness {
    /// As the service is configured.
    #[default]
    Service,
    /// `STICKY`.
    Sticky,
    /// `NON_STICKY`.
    NonSticky,
    /// `STICKY`, and by what.
    By(Sticky),
}

/// By what a client is kept with a server of a group.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Sticky {
    /// Not at all.
    #[default]
    None,
    /// By the client's address.
    Source,
    /// By the value of this cookie of the request.
    Cookie(Box<str>),
    /// By this cookie, which the servers set: its value stands for the server that has set it.
    SetCookie(Box<str>),
}

/// What happens to a request that a rule takes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// Refuse: with this HTTP status, or by RST.
    Reject {
        /// HTTP status of the answer.
        status: Option<u16>,
    },
    /// To one real server.
    Forward {
        /// Which.
        server: ServerId,
        /// Through this queue.
        queue: Option<QueueId>,
    },
    /// To a server of a group, chosen as the group is configured.
    RouteTo {
        /// Which group.
        group: GroupId,
        /// Whether the choice is remembered.
        stickiness: Stickiness,
    },
    /// To a server of a group, chosen by a named scheduling algorithm.
    LoadBalance {
        /// Which group.
        group: GroupId,
        /// Its name, as in the configuration (`wlc`, `rr`, …).
        algorithm: Box<str>,
    },
    /// Answer with a redirect.
    Redirect {
        /// HTTP status, 3xx.
        status: u16,
        /// Value of the `Location` field.
        url: Box<str>,
    },
}

impl Action {
    /// The group that it names.
    pub fn group(&self) -> Option<GroupId> {
        match self {
            Action::RouteTo { group, .. } | Action::LoadBalance { group, .. } => Some(*group),
            Action::Reject { .. } | Action::Redirect { .. } | Action::Forward { .. } => None,
        }
    }
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// For statistics and messages.
    pub name: Box<str>,
    /// When it fires.
    pub condition: Expr,
    /// What happens then.
    pub action: Action,
}

/// Rules in strict priority: the first that is true fires. `default` is the last, with [`Expr::always`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuleSet {
    /// In priority order.
    pub rules: Vec<Rule>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_and_print() {
        for text in ["a", "a/b", "a/b[2]/c", "//b", "a//b[3]/@id", "purchase/item[2]/subTotal"] {
            assert_eq!(DocPath::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(DocPath::parse("/soap:Envelope/x:b").unwrap().to_string(), "Envelope/b");
    }

    #[test]
    fn bad_paths_name_the_place() {
        for (text, at) in [
            ("", 0),
            ("a/", 2),
            ("a///b", 3),
            ("a[0]", 2),
            ("a[x]", 2),
            ("a[1", 1),
            ("@id", 1),
            ("a//@id", 4),
            ("a/@id/b", 5),
            ("a[1]b", 4),
        ] {
            assert_eq!(DocPath::parse(text).unwrap_err().at, at, "{text}");
        }
    }
}
