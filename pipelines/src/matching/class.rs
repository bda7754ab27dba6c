//! When variables become known: all of one class are decided together, or not at all.

use super::ir::Variable;

/// The part of a request that a variable is read from, in the order in which the parts become known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    /// Packet headers and the state of the groups: known before the first byte of payload.
    Connection = 0,
    /// Method, target and version.
    RequestLine = 1,
    /// Header fields.
    Head = 2,
    /// TLS ClientHello.
    Tls = 3,
    /// `smtp.from`.
    MailFrom = 4,
    /// `smtp.to`.
    MailTo = 5,
    /// `pop.user`.
    PopLogin = 6,
    /// `imap.user`.
    ImapLogin = 7,
    /// `ftp.user`.
    FtpLogin = 8,
    /// XML body.
    Xml = 9,
    /// JSON body.
    Json = 10,
}

impl Class {
    /// Every class, earliest first.
    pub const ALL: [Self; 11] = [
        Self::Connection,
        Self::RequestLine,
        Self::Head,
        Self::Tls,
        Self::MailFrom,
        Self::MailTo,
        Self::PopLogin,
        Self::ImapLogin,
        Self::FtpLogin,
        Self::Xml,
        Self::Json,
    ];

    /// Where a variable belongs. `host` is of the head, though an absolute target may give it earlier.
    pub fn of(variable: &Variable) -> Self {
        use Variable as V;
        match variable {
            V::Url | V::Path | V::Query(_) | V::Method | V::HttpVersion => Self::RequestLine,
            V::Host | V::Header(_) | V::Cookie(_) => Self::Head,
            V::Xml(_) => Self::Xml,
            V::Json(_) => Self::Json,
            V::SmtpFrom => Self::MailFrom,
            V::SmtpTo => Self::MailTo,
            V::PopUser => Self::PopLogin,
            V::ImapUser => Self::ImapLogin,
            V::FtpUser => Self::FtpLogin,
            V::TlsSni | V::TlsAlpn => Self::Tls,
            V::IpSrc
            | V::IpDst
            | V::IpTtl
            | V::IpTos
            | V::IpProto
            | V::PortSrc
            | V::PortDst
            | V::Bits { .. }
            | V::ServerUp(_)
            | V::Connections(_) => Self::Connection,
        }
    }
}

/// A set of classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClassSet(u16);

impl ClassSet {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// All of them.
    pub const ALL: Self = Self((1 << Class::ALL.len()) - 1);

    /// Whether the class is in the set.
    pub const fn contains(self, class: Class) -> bool {
        self.0 & (1 << class as u8) != 0
    }

    /// With this class too.
    #[must_use]
    pub const fn with(self, class: Class) -> Self {
        Self(self.0 | 1 << class as u8)
    }

    /// Without this class.
    #[must_use]
    pub const fn without(self, class: Class) -> Self {
        Self(self.0 & !(1 << class as u8))
    }

    /// What both have.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether the two share nothing.
    pub const fn is_apart(self, other: Self) -> bool {
        self.0 & other.0 == 0
    }
}
