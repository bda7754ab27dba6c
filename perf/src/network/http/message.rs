//! What client and server agree on: limits, and the response head, which the client rebuilds and compares byte by byte.

use std::fmt::Write;

/// Bytes of a head, at most.
pub const MAX_HEAD: usize = 16 * 1024;
/// Header fields of a head, at most.
pub const MAX_FIELDS: usize = 64;

/// Everything that a response head of our server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    /// Status code.
    pub status: u16,
    /// Which server answered: `X-Server`.
    pub server: String,
    /// Hash of the request head as it arrived: `X-Request-Hash`.
    pub request_hash: u64,
    /// Bytes of request body that arrived, and whether all were right: `X-Request-Body`.
    pub request_body: (u64, bool),
    /// Bytes of body that follow (or would follow, for HEAD).
    pub length: u64,
    /// Whether the connection ends with this response.
    pub close: bool,
}

impl ResponseHead {
    /// The head's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut text = String::with_capacity(256);
        let intact = if self.request_body.1 { "intact" } else { "corrupt" };
        let connection = if self.close { "Connection: close\r\n" } else { "" };
        let written = write!(
            text,
            "HTTP/1.1 {} {}\r\nX-Server: {}\r\nX-Request-Hash: {:016x}\r\nX-Request-Body: {} {intact}\r\n\
             Content-Length: {}\r\n{connection}\r\n",
            self.status,
            reason(self.status),
            self.server,
            self.request_hash,
            self.request_body.0,
            self.length,
        );
        debug_assert!(written.is_ok(), "writing to a string cannot fail");
        text.into_bytes()
    }

    /// Reads a head; `None` when there is more or less in it than [`ResponseHead::bytes`] writes.
    pub fn parse(bytes: &[u8]) -> Option<ResponseHead> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        if !response.parse(bytes).ok()?.is_complete() {
            return None;
        }
        let field = |name: &str| {
            let found = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(found.value).ok()
        };
        let (received, intact) = field("X-Request-Body")?.split_once(' ')?;
        let head = ResponseHead {
            status: response.code?,
            server: field("X-Server")?.to_owned(),
            request_hash: u64::from_str_radix(field("X-Request-Hash")?, 16).ok()?,
            request_body: (received.parse().ok()?, intact == "intact"),
            length: field("Content-Length")?.parse().ok()?,
            close: field("Connection") == Some("close"),
        };
        (head.bytes() == bytes).then_some(head)
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        411 => "Length Required",
        431 => "Request Header Fields Too Large",
        _ => "Unknown",
    }
}

/// Where a head ends: the offset behind its empty line, looking from `from` on (what was looked at before may be skipped).
pub fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    let from = from.saturating_sub(3).min(bytes.len());
    bytes[from..].windows(4).position(|w| w == b"\r\n\r\n").map(|at| from + at + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_survives_the_way_and_a_changed_one_does_not() {
        let head = ResponseHead {
            status: 200,
            server: "s1".into(),
            request_hash: 0xabc,
            request_body: (5, true),
            length: 10,
            close: true,
        };
        let bytes = head.bytes();
        assert_eq!(head_end(&bytes, 0), Some(bytes.len()));
        assert_eq!(head_end(&bytes, bytes.len() - 1), Some(bytes.len()));
        assert_eq!(ResponseHead::parse(&bytes), Some(head));
        let added = String::from_utf8(bytes.clone()).unwrap().replace("X-Server", "Via: x\r\nX-Server");
        assert_eq!(ResponseHead::parse(added.as_bytes()), None);
        assert_eq!(ResponseHead::parse(&bytes[..bytes.len() - 1]), None);
    }
}
