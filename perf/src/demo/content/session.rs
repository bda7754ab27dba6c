//! The servers of the content scenarios, as state machines without sockets.

use crate::network::content::{Class, RequestReader};
pub use crate::network::http::body::hash;

/// One connection of a server.
#[derive(Debug)]
pub struct Session {
    name: String,
    input: Vec<u8>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Http { classes: &'static [Class], reader: RequestReader },
    Echo { named: bool },
    Smtp { in_data: bool },
}

impl Session {
    /// Answers exchanges of these classes, and takes nothing else.
    pub fn http(name: &str, classes: &'static [Class]) -> Self {
        Session::new(name, Kind::Http { classes, reader: RequestReader::default() })
    }

    /// Says its name, then sends back what comes.
    pub fn echo(name: &str) -> Self {
        Session::new(name, Kind::Echo { named: false })
    }

    /// A mail server (RFC 5321) that says its name in every answer from the first recipient on.
    pub fn smtp(name: &str) -> Self {
        Session::new(name, Kind::Smtp { in_data: false })
    }

    fn new(name: &str, kind: Kind) -> Self {
        Session { name: name.to_owned(), input: vec![], kind }
    }

    /// What it says first.
    pub fn greeting(&self) -> Vec<u8> {
        match self.kind {
            Kind::Smtp { .. } => format!("220 {} ready\r\n", self.name).into_bytes(),
            _ => vec![],
        }
    }

    /// Takes in what has come: its answer, and whether it closes behind it.
    ///
    /// # Errors
    /// What should never have come.
    pub fn hear(&mut self, bytes: &[u8]) -> Result<(Vec<u8>, bool), String> {
        let Session { name, input, kind } = self;
        input.extend_from_slice(bytes);
        let mut out = vec![];
        match kind {
            Kind::Http { classes, reader } => {
                while !input.is_empty() {
                    let Some(exchange) = reader.take(input, classes)? else { break };
                    out.extend(exchange.response(name));
                    if exchange.server_closes() {
                        return Ok((out, true));
                    }
                }
            }
            Kind::Echo { named } => {
                if !input.is_empty() && !std::mem::replace(named, true) {
                    out.extend(format!("{name}\n").into_bytes());
                }
                out.append(input);
            }
            Kind::Smtp { in_data } => loop {
                let end: &[u8] = if *in_data { b"\r\n.\r\n" } else { b"\r\n" };
                let Some(at) = input.windows(end.len()).position(|w| w == end) else { break };
                let text: Vec<u8> = input.drain(..at + end.len()).collect();
                let line = String::from_utf8_lossy(&text).trim_end().to_owned();
                if std::mem::replace(in_data, false) {
                    out.extend(format!("250 {name} has {:016x}\r\n", hash(&text)).into_bytes());
                    continue;
                }
                let upper = line.to_ascii_uppercase();
                let answer = match upper.get(..4).unwrap_or_default() {
                    "HELO" | "EHLO" => format!("250 {name}\r\n"),
                    "MAIL" => "250 sender ok\r\n".into(),
                    "RCPT" => {
                        let to = line.split_once('<').and_then(|(_, r)| r.split_once('>')).map_or("", |(to, _)| to);
                        format!("250 {name} takes mail for {to}\r\n")
                    }
                    "DATA" => {
                        *in_data = true;
                        "354 go on\r\n".into()
                    }
                    "QUIT" => {
                        out.extend(format!("221 {name} closes\r\n").into_bytes());
                        return Ok((out, true));
                    }
                    _ => return Err(format!("a command that nobody sent: {line:?}")),
                };
                out.extend(answer.into_bytes());
            },
        }
        Ok((out, false))
    }
}
