//! The one-line description of a request in a test table: `GET /a host=b xml.c/d=5`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ast::{Protocol, Selector, Variable};
use super::check::build_document;
use super::connection::{Body, Connection, HttpRequest, Message};
use super::diagnostic::Mistake;
use super::document::Node;
use super::parse::{Parsed, Parser};
use super::parse_term::whole_number;
use super::span::Span;

/// What a line says, in its order.
#[derive(Debug, Default)]
pub struct Sample {
    settings: Vec<(Variable, String)>,
}

impl Sample {
    /// Reads up to the end of the parser's text.
    pub(super) fn read(parser: &mut Parser<'_>) -> Parsed<Sample> {
        let mut sample = Sample::default();
        while !parser.scanner.done() {
            let start = parser.scanner.at();
            if let Some((method, url)) = request_line(parser) {
                sample.settings.push((Variable::Method, method));
                sample.settings.push((Variable::Url, url));
                continue;
            }
            let variable = parser.settable()?;
            if parser.scanner.eat_here("=").is_none() {
                return parser.expected("`=` and a value, with no blanks between");
            }
            let value = sample_value(parser)?;
            if let Err(why) = fits(&variable, &value) {
                let span = Span::new(start, parser.scanner.at());
                return parser.fail(Mistake::WrongType, span, why);
            }
            sample.settings.push((variable, value));
        }
        Ok(sample)
    }

    /// The connection that the line describes.
    pub fn connection(&self) -> Result<Connection, String> {
        let mut connection = Connection::default();
        self.addresses(&mut connection)?;
        let mut protocols: Vec<Protocol> = self.settings.iter().filter_map(|(v, _)| v.protocol()).collect();
        protocols.sort_unstable();
        protocols.dedup();
        for (variable, value) in &self.settings {
            match variable {
                Variable::ServerUp(group) => {
                    connection.servers_up.insert(group.clone(), value == "true");
                }
                _ => {
                    if let Some(number) = whole_number(value).filter(|_| variable.protocol().is_none())
                        && !connection.set_number(variable, number)
                    {
                        return Err(format!("{variable} cannot be {value}"));
                    }
                }
            }
        }
        connection.message = match protocols.as_slice() {
            [] => Message::None,
            [Protocol::Http] => Message::Http(Box::new(self.http()?)),
            // A recipient comes after a sender (RFC 5321, 4.1.4).
            [Protocol::Smtp] => Message::Smtp {
                from: self.text(&Variable::SmtpFrom).or_else(|| Some(b"sender@example.com".to_vec())),
                to: self.text(&Variable::SmtpTo),
            },
            [Protocol::Tls] => Message::Tls { sni: self.text(&Variable::TlsSni), alpn: self.text(&Variable::TlsAlpn) },
            [Protocol::Pop] => Message::Pop(self.text(&Variable::PopUser).unwrap_or_default()),
            [Protocol::Imap] => Message::Imap(self.text(&Variable::ImapUser).unwrap_or_default()),
            [Protocol::Ftp] => Message::Ftp(self.text(&Variable::FtpUser).unwrap_or_default()),
            [first, second, ..] => return Err(format!("one connection speaks one protocol, not {first} and {second}")),
        };
        Ok(connection)
    }

    fn text(&self, variable: &Variable) -> Option<Vec<u8>> {
        self.settings.iter().rev().find(|(v, _)| v == variable).map(|(_, value)| value.clone().into_bytes())
    }

    fn addresses(&self, connection: &mut Connection) -> Result<(), String> {
        let given = |variable| {
            let text = self.text(&variable)?;
            String::from_utf8(text).ok()?.parse::<IpAddr>().ok()
        };
        let (source, destination) = (given(Variable::IpSrc), given(Variable::IpDst));
        if source.is_none() && destination.is_none() {
            return Ok(());
        }
        let v6 = source.or(destination).is_some_and(|address| address.is_ipv6());
        let usual = |last: u8| match v6 {
            true => IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into())),
            false => IpAddr::from(Ipv4Addr::new(192, 0, 2, last)),
        };
        let (source, destination) = (source.unwrap_or_else(|| usual(1)), destination.unwrap_or_else(|| usual(2)));
        if source.is_ipv6() != destination.is_ipv6() {
            return Err("ip.src and ip.dst are of different versions".into());
        }
        connection.set_addresses(source, destination);
        Ok(())
    }

    fn http(&self) -> Result<HttpRequest, String> {
        let mut request = HttpRequest::default();
        let mut xml: Vec<(&Selector, Vec<u8>)> = Vec::new();
        let mut json: Vec<(&Selector, Vec<u8>)> = Vec::new();
        let mut cookies: Vec<String> = Vec::new();
        let mut parameters: Vec<String> = Vec::new();
        let mut method = None;
        for (variable, value) in &self.settings {
            let bytes = value.clone().into_bytes();
            match variable {
                Variable::Method => method = Some(bytes),
                Variable::Url | Variable::Path => request.url = bytes,
                Variable::Query(name) => parameters.push(format!("{}={}", encoded(name), encoded(value))),
                Variable::Host => request.headers.push(("Host".into(), bytes)),
                Variable::Header(name) => request.headers.push((name.clone(), bytes)),
                Variable::Cookie(name) => cookies.push(format!("{name}={value}")),
                Variable::HttpVersion => request.version = bytes,
                Variable::Xml(selector) => xml.push((selector, bytes)),
                Variable::Json(selector) => json.push((selector, bytes)),
                _ => {}
            }
        }
        for parameter in parameters {
            let first = !request.url.contains(&b'?');
            request.url.push(if first { b'?' } else { b'&' });
            request.url.extend(parameter.bytes());
        }
        if !cookies.is_empty() {
            request.headers.push(("Cookie".into(), cookies.join("; ").into_bytes()));
        }
        let (wanted, is_xml, content_type) = match (xml.is_empty(), json.is_empty()) {
            (true, true) => (Vec::new(), false, ""),
            (false, true) => (xml, true, "text/xml"),
            (true, false) => (json, false, "application/json"),
            (false, false) => return Err("one body is not both XML and JSON".into()),
        };
        if !wanted.is_empty() {
            let document = build_document(is_xml, &wanted).ok_or("these paths cannot be in one document")?;
            verified(&document, &wanted)?;
            request.body = if is_xml { Body::Xml(document) } else { Body::Json(document) };
            if request.header("content-type").is_none() {
                request.headers.push(("Content-Type".into(), content_type.into()));
            }
            if request.header("content-length").is_none() && request.header("transfer-encoding").is_none() {
                let length = request.body_bytes().len().to_string();
                request.headers.push(("Content-Length".into(), length.into()));
            }
            request.method = b"POST".to_vec();
        }
        if let Some(method) = method {
            request.method = method;
        }
        if request.header("host").is_none() && request.version == b"1.1" {
            request.headers.insert(0, ("Host".into(), b"www.example.com".to_vec()));
        }
        Ok(request)
    }
}

fn verified(document: &Node, wanted: &[(&Selector, Vec<u8>)]) -> Result<(), String> {
    match wanted.iter().all(|(selector, value)| document.select(selector) == Some(value.as_slice())) {
        true => Ok(()),
        false => Err("these paths mean the same place in the document".into()),
    }
}

/// `GET /path`: a word in capitals and an address behind it.
fn request_line(parser: &mut Parser<'_>) -> Option<(String, String)> {
    let start = parser.scanner.at();
    let (method, _) = parser.scanner.run_here(|c| c.is_ascii_uppercase());
    let (blanks, _) = parser.scanner.run_here(|c| c == ' ' || c == '\t');
    if method.is_empty() || blanks.is_empty() || !(parser.scanner.here("/") || parser.scanner.here("*")) {
        parser.scanner.set(start);
        return None;
    }
    let (url, _) = parser.scanner.run_here(|c| !c.is_whitespace());
    Some((method.to_owned(), url.to_owned()))
}

/// A value behind `=`: in quotes, or up to a blank.
fn sample_value(parser: &mut Parser<'_>) -> Parsed<String> {
    if parser.scanner.here("\"") {
        let text = parser.scanner.quoted_name();
        return parser.scan(text);
    }
    Ok(parser.scanner.run_here(|c| !c.is_whitespace()).0.to_owned())
}

/// Whether a variable can have a value.
fn fits(variable: &Variable, value: &str) -> Result<(), String> {
    use super::ast::Kind;
    let wanted = match variable.kind() {
        Kind::Flag if value == "true" || value == "false" => return Ok(()),
        Kind::Flag => "true or false",
        Kind::Address if value.parse::<IpAddr>().is_ok() => return Ok(()),
        Kind::Address => "an address",
        Kind::Integer { max } if whole_number(value).is_some_and(|n| n <= max) => return Ok(()),
        Kind::Integer { max } => return Err(format!("{variable} is a whole number from 0 to {max}")),
        Kind::Text if value.bytes().any(|b| b == b'\r' || b == b'\n') => "a text without line breaks",
        Kind::Text => return Ok(()),
    };
    Err(format!("{variable} is {wanted}, not `{value}`"))
}

/// A query parameter's name or value, encoded.
fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~/:@!$'()*,".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
