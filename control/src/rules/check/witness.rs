//! A witness as the client would send it.

use super::super::ast::Variable;
use super::super::connection::{Connection, Message};
use super::super::eval::{Attribute, Attributes};
use super::report::Witness;

/// Bytes of a body that are shown; the rest is told by its length.
const SHOWN: usize = 4_096;

impl Witness {
    /// Shows a connection; of its attributes outside the message those that `variables` name.
    pub fn new<'a>(connection: &Connection, variables: impl Iterator<Item = &'a Variable>) -> Self {
        let mut shown: Vec<&Variable> = variables.filter(|v| v.protocol().is_none()).collect();
        shown.sort();
        shown.dedup();
        let attributes = shown.into_iter().map(|variable| (variable.to_string(), value(connection.get(variable))));
        let bytes = connection.message.to_bytes();
        let request = match &connection.message {
            Message::None => "(a connection that says nothing these rules read)".to_owned(),
            Message::Tls { sni, alpn } => {
                let part = |name: &str, text: &Option<Vec<u8>>| match text {
                    Some(text) => format!(" {name} {}", text.escape_ascii()),
                    None => format!(" no {name}"),
                };
                format!("(a TLS ClientHello:{},{})", part("server name", sni), part("protocol", alpn))
            }
            _ => printable(&bytes),
        };
        Witness { connection: attributes.collect(), request, bytes }
    }
}

fn value(attribute: Attribute<'_>) -> String {
    match attribute {
        Attribute::Number(number) => number.to_string(),
        Attribute::Address(address) => address.to_string(),
        Attribute::Flag(flag) => flag.to_string(),
        Attribute::Text(text) => text.escape_ascii().to_string(),
        Attribute::Absent | Attribute::Unknown => "absent".into(),
    }
}

/// Text as a terminal may show it: line breaks as they are, other bytes outside ASCII escaped.
fn printable(bytes: &[u8]) -> String {
    let mut out = String::new();
    for byte in bytes.iter().take(SHOWN) {
        match byte {
            b'\r' => {}
            b'\n' => out.push('\n'),
            0x20..=0x7e => out.push(char::from(*byte)),
            byte => out.push_str(&byte.escape_ascii().to_string()),
        }
    }
    if bytes.len() > SHOWN {
        out.push_str(&format!("… ({} bytes in all)", bytes.len()));
    }
    out
}
