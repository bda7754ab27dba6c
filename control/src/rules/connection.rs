//! One connection with its first request, put together from parts: what the checker's witnesses are,
//! and what the one-line form of a test table describes. It answers for every variable and can be
//! written as the client would send it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::ast::{Protocol, Variable};
use super::decimal::Decimal;
use super::document::Node;
use super::eval::{Attribute, Attributes};

/// Bytes of the packet's beginning that are kept: as far as `bitmatch` reads.
pub(super) const HEAD: usize = (super::parse_variable::MAX_BIT / 8) as usize;

/// A connection and its first request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// The first bytes of the packet, from the IP header on; of a packet that was captured, as many as it has.
    head: Vec<u8>,
    /// Bytes from the IP header to the transport's.
    transport: usize,
    /// The transport's number, where extension headers stand before it.
    behind_extensions: Option<u8>,
    /// Whether the group has a server that is up; groups that are not named here have one.
    pub servers_up: BTreeMap<String, bool>,
    /// Connections by group; none for groups that are not named here.
    pub connections: BTreeMap<String, u64>,
    /// What the client says.
    pub message: Message,
}

/// What a client says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Nothing that a rule could read.
    None,
    /// An HTTP request.
    Http(Box<HttpRequest>),
    /// An SMTP envelope.
    Smtp {
        /// `MAIL FROM`
        from: Option<Vec<u8>>,
        /// `RCPT TO`
        to: Option<Vec<u8>>,
    },
    /// A POP3 login.
    Pop(Vec<u8>),
    /// An IMAP login.
    Imap(Vec<u8>),
    /// An FTP login.
    Ftp(Vec<u8>),
    /// A TLS ClientHello.
    Tls {
        /// The server name.
        sni: Option<Vec<u8>>,
        /// The first protocol offered.
        alpn: Option<Vec<u8>>,
    },
}

/// An HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// The method.
    pub method: Vec<u8>,
    /// The request target in origin form.
    pub url: Vec<u8>,
    /// `1.0` or `1.1`.
    pub version: Vec<u8>,
    /// Header fields in order; names as they are sent.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Body,
}

/// The body of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// None.
    None,
    /// An XML document: its root element is the only child.
    Xml(Node),
    /// A JSON object: the members are the children.
    Json(Node),
}

impl Default for HttpRequest {
    fn default() -> Self {
        HttpRequest {
            method: b"GET".to_vec(),
            url: b"/".to_vec(),
            version: b"1.1".to_vec(),
            headers: Vec::new(),
            body: Body::None,
        }
    }
}

impl Default for Connection {
    /// TCP from 192.0.2.1 to 198.51.100.1 port 80 (RFC 5737's addresses for documentation).
    fn default() -> Self {
        let mut connection = Connection {
            head: vec![0; HEAD],
            transport: 20,
            behind_extensions: None,
            servers_up: BTreeMap::new(),
            connections: BTreeMap::new(),
            message: Message::None,
        };
        let (client, service) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 1));
        connection.set_addresses(IpAddr::V4(client), IpAddr::V4(service));
        connection.set_ports(40_000, 80);
        connection
    }
}

impl Connection {
    /// The first packet from its IP header on, as far as `bitmatch` reads.
    pub fn packet(&self) -> &[u8] {
        &self.head
    }

    /// The connection of a packet, given from its IP header on; it may be cut anywhere. What lies beyond the packet's end, or beyond what
    /// [`packet`](Self::packet) keeps of it, is absent. What is no IP packet gives the usual connection.
    pub fn from_packet(packet: &[u8]) -> Self {
        use lcs_dataplane::headers::{ipv4::Ipv4, ipv6::Ipv6};
        let (transport, behind_extensions) = if let Ok(ip) = Ipv4::parse_embedded(packet) {
            (ip.header_len(), None)
        } else if let Ok(ip) = Ipv6::parse_embedded(packet) {
            ip.chain().map_or((40, None), |chain| (chain.offset, Some(chain.protocol)))
        } else {
            return Connection::default();
        };
        let head = packet[..packet.len().min(HEAD)].to_vec();
        Connection { head, transport, behind_extensions, ..Connection::default() }
    }

    fn is_v6(&self) -> bool {
        self.head[0] >> 4 == 6
    }

    /// Sets both addresses, which are of one family, and lays the header out for it. Time to live is 64
    /// and the protocol TCP.
    pub fn set_addresses(&mut self, source: IpAddr, destination: IpAddr) {
        let ports = [0, 16].map(|at| self.bits(self.transport as u32 * 8 + at, 16).unwrap_or(0) as u16);
        self.head.resize(HEAD, 0);
        self.behind_extensions = None;
        match (source, destination) {
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.head[..40].fill(0);
                (self.head[0], self.head[6], self.head[7]) = (0x60, 6, 64);
                self.head[8..24].copy_from_slice(&source.octets());
                self.head[24..40].copy_from_slice(&destination.octets());
            }
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.head[..20].fill(0);
                (self.head[0], self.head[8], self.head[9]) = (0x45, 64, 6);
                self.head[12..16].copy_from_slice(&source.octets());
                self.head[16..20].copy_from_slice(&destination.octets());
            }
            _ => return,
        }
        self.transport = if self.is_v6() { 40 } else { 20 };
        self.set_ports(ports[0], ports[1]);
    }

    /// Sets both ports.
    pub fn set_ports(&mut self, source: u16, destination: u16) {
        for (variable, port) in [(Variable::PortSrc, source), (Variable::PortDst, destination)] {
            self.set_number(&variable, port.into());
        }
    }

    /// Sets one of `ip.ttl ip.tos ip.proto port.src port.dst`, or the masked bits of a `bitmatch`.
    /// False if the variable is another one, or the value does not fit.
    pub fn set_number(&mut self, variable: &Variable, value: u64) -> bool {
        let v6 = self.is_v6();
        let transport = self.transport as u32 * 8;
        let (offset, bits, mask) = match variable {
            Variable::IpTtl => (if v6 { 56 } else { 64 }, 8, 0xff),
            Variable::IpTos => (if v6 { 4 } else { 8 }, 8, 0xff),
            Variable::IpProto => (if v6 { 48 } else { 72 }, 8, 0xff),
            Variable::PortSrc => (transport, 16, 0xffff),
            Variable::PortDst => (transport + 16, 16, 0xffff),
            Variable::Bitmatch { offset, bits, mask } => (*offset, *bits, *mask),
            Variable::Connections(group) => {
                self.connections.insert(group.clone(), value);
                return true;
            }
            _ => return false,
        };
        if value & !mask != 0 {
            return false;
        }
        for bit in 0..bits {
            let shift = bits - 1 - bit;
            if mask >> shift & 1 == 1 {
                let (at, place) = (((offset + bit) / 8) as usize, 7 - (offset + bit) % 8);
                let Some(byte) = self.head.get_mut(at) else { return false };
                *byte = *byte & !(1 << place) | ((value >> shift & 1) as u8) << place;
            }
        }
        true
    }

    /// Bits in network order; none beyond the packet.
    fn bits(&self, offset: u32, bits: u32) -> Option<u64> {
        (offset..offset + bits).try_fold(0, |sum, bit| {
            let byte = self.head.get((bit / 8) as usize)?;
            Some(sum << 1 | u64::from(byte >> (7 - bit % 8) & 1))
        })
    }

    fn address(&self, v4_at: usize, v6_at: usize) -> IpAddr {
        if self.is_v6() {
            let mut octets = [0; 16];
            octets.copy_from_slice(&self.head[v6_at..v6_at + 16]);
            IpAddr::from(octets)
        } else {
            let mut octets = [0; 4];
            octets.copy_from_slice(&self.head[v4_at..v4_at + 4]);
            IpAddr::from(octets)
        }
    }

    fn http(&self) -> Option<&HttpRequest> {
        match &self.message {
            Message::Http(request) => Some(request),
            _ => None,
        }
    }

    fn text(&self, variable: &Variable) -> Option<Cow<'_, [u8]>> {
        let plain = |text: &'_ Option<Vec<u8>>| text.clone().map(Cow::Owned);
        match (variable, &self.message) {
            (Variable::SmtpFrom, Message::Smtp { from, .. }) => return plain(from),
            (Variable::SmtpTo, Message::Smtp { to, .. }) => return plain(to),
            (Variable::TlsSni, Message::Tls { sni, .. }) => return plain(sni),
            (Variable::TlsAlpn, Message::Tls { alpn, .. }) => return plain(alpn),
            (Variable::PopUser, Message::Pop(user))
            | (Variable::ImapUser, Message::Imap(user))
            | (Variable::FtpUser, Message::Ftp(user)) => return Some(Cow::Borrowed(user)),
            _ => {}
        }
        let request = self.http()?;
        let borrowed = match variable {
            Variable::Url => &request.url,
            Variable::Path => path_of(&request.url),
            Variable::Method => &request.method,
            Variable::HttpVersion => &request.version,
            Variable::Host => host_of(request.header("host")?),
            Variable::Header(name) => request.header(name)?,
            Variable::Query(name) => return query_value(&request.url, name).map(Cow::Owned),
            Variable::Cookie(name) => cookie_value(request.header("cookie")?, name)?,
            Variable::Xml(selector) => match &request.body {
                Body::Xml(document) if selector.is_attribute() => document.select(selector)?,
                Body::Xml(document) => document.select(selector)?.trim_ascii(),
                _ => return None,
            },
            Variable::Json(selector) => match &request.body {
                Body::Json(document) => document.select(selector)?,
                _ => return None,
            },
            _ => return None,
        };
        Some(Cow::Borrowed(borrowed))
    }
}

impl Attributes for Connection {
    fn get(&self, variable: &Variable) -> Attribute<'_> {
        let number = |n: u64| Attribute::Number(Decimal::from_integer(i128::from(n)));
        let bits = |offset, bits| self.bits(offset, bits).map_or(Attribute::Absent, number);
        let transport = self.transport as u32 * 8;
        match variable {
            Variable::IpSrc => Attribute::Address(self.address(12, 8)),
            Variable::IpDst => Attribute::Address(self.address(16, 24)),
            Variable::IpTtl => bits(if self.is_v6() { 56 } else { 64 }, 8),
            Variable::IpTos => bits(if self.is_v6() { 4 } else { 8 }, 8),
            Variable::IpProto => match self.behind_extensions {
                Some(protocol) => number(protocol.into()),
                None => bits(if self.is_v6() { 48 } else { 72 }, 8),
            },
            Variable::PortSrc => bits(transport, 16),
            Variable::PortDst => bits(transport + 16, 16),
            Variable::Bitmatch { offset, bits, mask } => {
                self.bits(*offset, *bits).map_or(Attribute::Absent, |value| number(value & mask))
            }
            Variable::ServerUp(group) => Attribute::Flag(self.servers_up.get(group).copied().unwrap_or(true)),
            Variable::Connections(group) => number(self.connections.get(group).copied().unwrap_or(0)),
            text => self.text(text).map_or(Attribute::Absent, Attribute::Text),
        }
    }
}

impl Message {
    /// The protocol that is spoken.
    pub fn protocol(&self) -> Option<Protocol> {
        match self {
            Message::None => None,
            Message::Http(_) => Some(Protocol::Http),
            Message::Smtp { .. } => Some(Protocol::Smtp),
            Message::Pop(_) => Some(Protocol::Pop),
            Message::Imap(_) => Some(Protocol::Imap),
            Message::Ftp(_) => Some(Protocol::Ftp),
            Message::Tls { .. } => Some(Protocol::Tls),
        }
    }

    /// What the client sends, without what it waits for in between; nothing for TLS.
    pub fn to_bytes(&self) -> Vec<u8> {
        let line =
            |before: &str, text: &[u8], after: &str| [before.as_bytes(), text, after.as_bytes(), b"\r\n"].concat();
        match self {
            Message::None | Message::Tls { .. } => Vec::new(),
            Message::Http(request) => request.to_bytes(),
            Message::Smtp { from, to } => {
                let mut out = line("EHLO client.example.com", b"", "");
                if let Some(from) = from {
                    out.extend(line("MAIL FROM:<", from, ">"));
                }
                if let Some(to) = to {
                    out.extend(line("RCPT TO:<", to, ">"));
                }
                out
            }
            Message::Pop(user) | Message::Ftp(user) => line("USER ", user, ""),
            Message::Imap(user) => line("a1 LOGIN ", user, " password"),
        }
    }
}

impl HttpRequest {
    /// The first header field of that name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }

    /// The body as bytes.
    pub fn body_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match &self.body {
            Body::None => {}
            Body::Xml(document) => document.children.iter().for_each(|root| root.to_xml(&mut out)),
            Body::Json(document) => {
                if document.children.is_empty() {
                    out.extend(b"{}");
                } else {
                    document.to_json(&mut out);
                }
            }
        }
        out
    }

    /// The request as a client sends it. A body is padded with blanks, which its document does not
    /// mind, up to a `Content-Length` that asks for more.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = [&self.method[..], b" ", &self.url, b" HTTP/", &self.version, b"\r\n"].concat();
        for (name, value) in &self.headers {
            out.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        out.extend(b"\r\n");
        let mut body = self.body_bytes();
        let length = self.header("content-length").and_then(|v| std::str::from_utf8(v).ok()?.parse::<usize>().ok());
        if let Some(length) = length.filter(|n| *n > body.len() && *n <= MAX_PADDED_BODY) {
            body.resize(length, b' ');
        }
        if self.header("transfer-encoding").is_some() && !body.is_empty() {
            let chunk = format!("{:x}\r\n", body.len());
            body = [chunk.as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
        }
        out.extend(body);
        out
    }
}

/// The longest body that a witness is padded to, in bytes.
pub const MAX_PADDED_BODY: usize = 1 << 20;

/// A URL up to `?`.
fn path_of(url: &[u8]) -> &[u8] {
    let end = url.iter().position(|b| *b == b'?').unwrap_or(url.len());
    &url[..end]
}

/// A `Host` field without port and brackets.
fn host_of(field: &[u8]) -> &[u8] {
    let (rest, end) = match field.strip_prefix(b"[") {
        Some(rest) => (rest, b']'),
        None => (field, b':'),
    };
    rest.iter().position(|b| *b == end).map_or(rest, |at| &rest[..at])
}

/// The first parameter of that name in a URL, decoded.
fn query_value(url: &[u8], name: &str) -> Option<Vec<u8>> {
    let query = &url[url.iter().position(|b| *b == b'?')? + 1..];
    query.split(|b| *b == b'&').find_map(|parameter| {
        let at = parameter.iter().position(|b| *b == b'=').unwrap_or(parameter.len());
        let value = parameter.get(at + 1..).unwrap_or_default();
        (decode(&parameter[..at]) == name.as_bytes()).then(|| decode(value))
    })
}

/// `%XX` and `+` decoded; a `%` that begins no such thing is itself.
fn decode(text: &[u8]) -> Vec<u8> {
    let digit = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        match (text[at], digit(text.get(at + 1)), digit(text.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                at += 2;
            }
            (b'+', ..) => out.push(b' '),
            (byte, ..) => out.push(byte),
        }
        at += 1;
    }
    out
}

/// The first cookie of that name in a `Cookie` field.
fn cookie_value<'a>(field: &'a [u8], name: &str) -> Option<&'a [u8]> {
    field.split(|b| *b == b';').find_map(|pair| {
        let at = pair.iter().position(|b| *b == b'=')?;
        (pair[..at].trim_ascii() == name.as_bytes()).then(|| pair[at + 1..].trim_ascii())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(connection: &Connection, variable: Variable) -> Option<String> {
        match connection.get(&variable) {
            Attribute::Absent => None,
            Attribute::Text(text) => Some(String::from_utf8_lossy(&text).into_owned()),
            Attribute::Number(number) => Some(number.to_string()),
            Attribute::Address(address) => Some(address.to_string()),
            other => Some(format!("{other:?}")),
        }
    }

    #[test]
    fn parts_of_a_request_answer_for_themselves() {
        let request = HttpRequest {
            url: b"/a/b.gif?x=1&id=a%20b+c&id=2".to_vec(),
            headers: vec![
                ("Host".into(), b"[2001:db8::1]:8080".to_vec()),
                ("Cookie".into(), b"a=1; name=servlet1;b".to_vec()),
            ],
            ..HttpRequest::default()
        };
        let connection = Connection { message: Message::Http(Box::new(request)), ..Connection::default() };
        for (variable, expected) in [
            (Variable::Path, Some("/a/b.gif")),
            (Variable::Query("id".into()), Some("a b c")),
            (Variable::Query("y".into()), None),
            (Variable::Host, Some("2001:db8::1")),
            (Variable::Header("host".into()), Some("[2001:db8::1]:8080")),
            (Variable::Cookie("name".into()), Some("servlet1")),
            (Variable::Cookie("b".into()), None),
            (Variable::SmtpTo, None),
            (Variable::PortDst, Some("80")),
            (Variable::Bitmatch { offset: 64, bits: 8, mask: 0xff }, Some("64")),
            (Variable::IpSrc, Some("192.0.2.1")),
        ] {
            assert_eq!(get(&connection, variable.clone()).as_deref(), expected, "{variable}");
        }
    }

    #[test]
    fn a_captured_packet_has_no_bits_beyond_its_end_and_its_ports_stand_behind_its_options() {
        let mut packet = vec![0; 24 + 20 + 1];
        (packet[0], packet[8], packet[9]) = (0x46, 33, 6);
        packet[2..4].copy_from_slice(&45_u16.to_be_bytes());
        packet[12..20].copy_from_slice(&[203, 0, 113, 7, 192, 0, 2, 1]);
        packet[24..28].copy_from_slice(&[0x9c, 0x40, 0, 80]);
        packet[44] = 0x41;
        let connection = Connection::from_packet(&packet);
        let byte = |at: u32| Variable::Bitmatch { offset: at * 8, bits: 8, mask: 0xff };
        for (variable, expected) in [
            (Variable::IpTtl, Some("33")),
            (Variable::IpProto, Some("6")),
            (Variable::IpSrc, Some("203.0.113.7")),
            (Variable::PortSrc, Some("40000")),
            (Variable::PortDst, Some("80")),
            (byte(44), Some("65")),
            (byte(45), None),
            (Variable::Bitmatch { offset: 45 * 8 - 1, bits: 2, mask: 3 }, None),
        ] {
            assert_eq!(get(&connection, variable.clone()).as_deref(), expected, "{variable}");
        }
        assert_eq!(connection.packet(), packet);
        packet.resize(1_000, 1);
        packet[2..4].copy_from_slice(&1_000_u16.to_be_bytes());
        assert_eq!(Connection::from_packet(&packet).packet().len(), HEAD);
        // IPv6 with a hop-by-hop header.
        let mut packet = vec![0; 40 + 8 + 20];
        (packet[0], packet[5], packet[6], packet[7], packet[40]) = (0x60, 28, 0, 9, 6);
        packet[48..52].copy_from_slice(&[1, 0, 0, 25]);
        let connection = Connection::from_packet(&packet);
        for (variable, expected) in [(Variable::IpProto, "6"), (Variable::PortDst, "25"), (Variable::IpTtl, "9")] {
            assert_eq!(get(&connection, variable.clone()).as_deref(), Some(expected), "{variable}");
        }
    }

    #[test]
    fn header_bits_are_the_fields_that_lie_there() {
        for addresses in [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::2")] {
            let mut connection = Connection::default();
            connection.set_addresses(addresses.0.parse().unwrap(), addresses.1.parse().unwrap());
            for (variable, value) in [
                (Variable::IpTtl, 7),
                (Variable::IpTos, 184),
                (Variable::IpProto, 17),
                (Variable::PortSrc, 1234),
                (Variable::PortDst, 443),
            ] {
                assert!(connection.set_number(&variable, value));
                assert_eq!(get(&connection, variable), Some(value.to_string()));
            }
            assert_eq!(get(&connection, Variable::IpDst).as_deref(), Some(addresses.1));
        }
        let mut connection = Connection::default();
        assert!(connection.set_number(&Variable::Bitmatch { offset: 64, bits: 8, mask: 0xf0 }, 0x30));
        assert_eq!(get(&connection, Variable::IpTtl).as_deref(), Some("48"));
        assert!(!connection.set_number(&Variable::Bitmatch { offset: 64, bits: 8, mask: 0xf0 }, 0x31));
    }
}
