//! HTTP/1.x request heads: what is asked for, and where the body ends.
//!
//! Strict where RFC 9112 leaves a choice: the bytes go on to a server unchanged, so whatever two readers could
//! understand differently is refused with its own reason.

use memchr::{memchr, memmem, memrchr};

use super::body::{Framing, FramingFields};
use super::error::{ExtractError, MAX_HEADERS, Span};
use super::line::{find, is_named, is_token, is_usual_host, plain_field, plain_line, split_field};

/// The methods that change how messages are framed, and the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The response has no body.
    Head,
    /// A 2xx response turns the connection into a tunnel.
    Connect,
    /// Any other.
    Other,
}

impl Method {
    /// By its name, which is case-sensitive (RFC 9110 section 9.1).
    pub fn of(name: &[u8]) -> Self {
        match name {
            b"HEAD" => Self::Head,
            b"CONNECT" => Self::Connect,
            _ => Self::Other,
        }
    }
}

/// A request line, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLine {
    /// The method.
    pub method: Span,
    /// The target without scheme and authority; `/` if an absolute target has no path.
    pub url: Span,
    /// `url` up to the `?`.
    pub path: Span,
    /// After the `?`; empty if there is none.
    pub query: Span,
    /// The authority of an absolute target or of CONNECT.
    pub authority: Option<Span>,
    /// `1.0` or `1.1`.
    pub version: Span,
    /// 0 or 1.
    pub minor: u8,
    /// Where the next line begins.
    pub end: usize,
}

/// A whole head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its first line.
    pub line: RequestLine,
    /// Which kind of method.
    pub method: Method,
    /// Length in bytes, from the start of the buffer to the blank line's end.
    pub length: usize,
    /// How the body ends.
    pub framing: Framing,
    /// The host, without port and brackets: the target's, or else the `Host` field's (RFC 9112 section 3.2.2).
    pub host: Option<Span>,
    /// Value of `Content-Type`.
    pub content_type: Option<Span>,
    /// Whether the body has a `Content-Encoding` other than `identity`.
    pub encoded: bool,
    /// Whether the request may be sent again when nobody knows what became of it (idempotent methods, RFC 9110 §9.2.2).
    pub repeatable: bool,
    /// Whether the connection stays open after the response, as far as the client is concerned.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// Whether the client asks for another protocol; the response says if it gets it.
    pub upgrade: bool,
}

/// Empty lines that may stand before a request line (RFC 9112 section 2.2).
const LEADING_LINES: usize = 2;
/// Bytes of a method's name.
const MAX_METHOD: usize = 32;

/// Reads the request line if it is complete. Bytes that cannot become one are refused before its end.
pub fn request_line(buffer: &[u8]) -> Result<Option<RequestLine>, ExtractError> {
    let mut start = 0;
    while start < 2 * LEADING_LINES && buffer[start..].starts_with(b"\r\n") {
        start += 2;
    }
    // Say early that this is no HTTP: what has arrived must at least begin as a method.
    let rest = &buffer[start..];
    let method_end = rest.iter().position(|&b| !is_token(b)).unwrap_or(rest.len());
    let method = &rest[..method_end];
    match rest.get(method_end) {
        _ if method.len() > MAX_METHOD => return Err(ExtractError::NotHttp),
        None => return Ok(None),
        Some(b' ') if !method.is_empty() => {}
        // Half of an empty line.
        Some(b'\r') if rest.len() == 1 && start < 2 * LEADING_LINES => return Ok(None),
        Some(_) => return Err(ExtractError::NotHttp),
    }
    let plain = plain_line(rest);
    let line = match plain {
        Some(length) => &rest[..length],
        None => {
            let Some(length) = memchr(b'\n', rest) else { return Ok(None) };
            let [line @ .., b'\r'] = &rest[..length] else { return Err(ExtractError::LineEnd) };
            line
        }
    };
    let end = start + line.len() + 2;
    let rest = &line[method_end..];
    let target_end = find(b' ', &rest[1..]).ok_or(ExtractError::NotHttp)? + 1;
    let (target, version) = (&rest[1..target_end], &rest[target_end + 1..]);
    let minor = match version {
        b"HTTP/1.1" => 1,
        b"HTTP/1.0" => 0,
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => return Err(ExtractError::Version),
        _ => return Err(ExtractError::NotHttp),
    };
    if target.is_empty() || plain.is_none() && target.iter().any(|&b| b <= b' ' || b == 0x7f) {
        return Err(ExtractError::Target);
    }
    let target_start = start + method_end + 1;
    let (authority, url) = split_target(method, target)?;
    let shift = |(from, to): (usize, usize)| Span::new(target_start + from, target_start + to);
    let url_bytes = &target[url.0..url.1];
    let question = find(b'?', url_bytes);
    let path_end = url.0 + question.unwrap_or(url_bytes.len());
    Ok(Some(RequestLine {
        method: Span::new(start, start + method_end),
        url: shift(url),
        path: shift((url.0, path_end)),
        query: shift((question.map_or(url.1, |q| url.0 + q + 1), url.1)),
        authority: authority.map(shift),
        version: Span::new(end - 5, end - 2),
        minor,
        end,
    }))
}

type Place = (usize, usize);

/// Authority and the rest of a target.
fn split_target(method: &[u8], target: &[u8]) -> Result<(Option<Place>, Place), ExtractError> {
    let whole = (0, target.len());
    match target {
        [b'/', ..] => Ok((None, whole)),
        b"*" if method == b"OPTIONS" => Ok((None, whole)),
        _ if method == b"CONNECT" => Ok((Some(whole), whole)),
        _ => {
            let scheme = memmem::find(target, b"://").ok_or(ExtractError::Target)?;
            let valid = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
            if scheme == 0 || !target[..scheme].iter().all(valid) {
                return Err(ExtractError::Target);
            }
            let start = scheme + 3;
            let length = target[start..].iter().position(|b| matches!(b, b'/' | b'?' | b'#'));
            let path = length.map_or(target.len(), |length| start + length);
            // Without a path a server is asked for `/`: the second slash of the scheme stands for it.
            let url = if path == target.len() { (start - 1, start) } else { (path, target.len()) };
            Ok((Some((start, path)), url))
        }
    }
}

/// Reads a head line by line as it arrives; no byte is looked at twice.
#[derive(Debug, Clone, Default)]
pub struct HeadParser {
    line: Option<RequestLine>,
    fields: FramingFields,
    /// Where the line begins that is not complete yet.
    next: usize,
    /// How far its end has been looked for.
    scanned: usize,
    count: usize,
    hosts: u8,
    host: Option<Span>,
    content_type: Option<Span>,
    encoded: bool,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
    upgrade: bool,
}

impl HeadParser {
    /// The request line, once it is known.
    pub fn line(&self) -> Option<&RequestLine> {
        self.line.as_ref()
    }

    /// Reads the request line if it is complete and has not been read yet.
    pub fn read_line(&mut self, buffer: &[u8], limit: usize) -> Result<Option<&RequestLine>, ExtractError> {
        if self.line.is_none() {
            if self.scanned > 2 * LEADING_LINES + MAX_METHOD && memchr(b'\n', &buffer[self.scanned..]).is_none() {
                self.scanned = buffer.len();
            } else if let Some(line) = request_line(buffer)? {
                self.next = line.end;
                self.scanned = line.end;
                self.line = Some(line);
            } else {
                self.scanned = buffer.len();
            }
            if self.scanned > limit {
                return Err(ExtractError::HeadTooLarge);
            }
        }
        Ok(self.line.as_ref())
    }

    /// Reads on. `field` is told each header field: its name as sent, and where its value stands.
    pub fn read(
        &mut self,
        buffer: &[u8],
        limit: usize,
        mut field: impl FnMut(&[u8], Span),
    ) -> Result<Option<Head>, ExtractError> {
        if self.read_line(buffer, limit)?.is_none() {
            return Ok(None);
        }
        loop {
            // Of a line that is all there, and plain, nothing is looked for twice.
            let plain = if self.scanned == self.next { plain_line(&buffer[self.next..]) } else { None };
            let end = match plain {
                Some(length) => self.next + length + 1,
                None => {
                    let Some(length) = memchr(b'\n', &buffer[self.scanned..]) else {
                        self.scanned = buffer.len();
                        return if self.scanned >= limit { Err(ExtractError::HeadTooLarge) } else { Ok(None) };
                    };
                    self.scanned + length
                }
            };
            if end >= limit {
                return Err(ExtractError::HeadTooLarge);
            }
            let start = self.next;
            self.next = end + 1;
            self.scanned = end + 1;
            let [line @ .., b'\r'] = &buffer[start..end] else { return Err(ExtractError::LineEnd) };
            if line.is_empty() {
                return self.finish(buffer).map(Some);
            }
            self.count += 1;
            if self.count > MAX_HEADERS {
                return Err(ExtractError::TooManyHeaders);
            }
            let (name, (from, to)) = if plain.is_some() { plain_field(line)? } else { split_field(line)? };
            let value = Span::new(start + from, start + to);
            self.field(name, value, &line[from..to])?;
            field(name, value);
        }
    }

    fn field(&mut self, name: &[u8], span: Span, value: &[u8]) -> Result<(), ExtractError> {
        match name.len() {
            4 if is_named(name, b"host") => {
                self.hosts = self.hosts.saturating_add(1);
                self.host = Some(span);
            }
            6 if is_named(name, b"expect") => self.expects_continue |= value.eq_ignore_ascii_case(b"100-continue"),
            7 if is_named(name, b"upgrade") => self.upgrade = true,
            10 if is_named(name, b"connection") => {
                for option in value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            12 if is_named(name, b"content-type") => {
                self.content_type.get_or_insert(span);
            }
            16 if is_named(name, b"content-encoding") => self.encoded |= !value.eq_ignore_ascii_case(b"identity"),
            _ => return self.fields.field(name, value),
        }
        Ok(())
    }

    fn finish(&self, buffer: &[u8]) -> Result<Head, ExtractError> {
        let line = self.line.ok_or(ExtractError::NotHttp)?;
        if self.hosts > 1 || (self.hosts == 0 && line.minor > 0) {
            return Err(ExtractError::Host);
        }
        // A Host field must be well-formed even where the target's authority counts.
        let field = self.host.map(|span| host_of(buffer, span)).transpose()?;
        let target = line.authority.map(|span| host_of(buffer, span)).transpose()?;
        Ok(Head {
            line,
            method: Method::of(line.method.of(buffer)),
            length: self.next,
            framing: self.fields.request(line.minor)?,
            host: target.or(field).filter(|host| host.start < host.end),
            content_type: self.content_type,
            encoded: self.encoded,
            repeatable: is_repeatable(line.method.of(buffer)),
            keep_alive: !self.close && (line.minor > 0 || self.keep_alive),
            expects_continue: self.expects_continue && line.minor > 0,
            upgrade: self.upgrade,
        })
    }
}

/// Whether a request may be sent again when nobody knows what became of it (idempotent, RFC 9110 §9.2.2).
fn is_repeatable(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
}

/// The host of `host:port`, `[v6]:port` or `user@host`; brackets removed.
pub(super) fn host_of(buffer: &[u8], authority: Span) -> Result<Span, ExtractError> {
    let text = authority.of(buffer);
    // Nothing but a name, as nearly always.
    let usual = is_usual_host(buffer.get(authority.start as usize..).unwrap_or(&[]), text.len());
    if usual || text.iter().all(|&b| is_token(b) && b != b'#') {
        return Ok(authority);
    }
    let user = memrchr(b'@', text).map_or(0, |at| at + 1);
    let (from, to, rest) = match text.get(user) {
        Some(b'[') => {
            let close = memchr(b']', text).ok_or(ExtractError::Host)?;
            (user + 1, close, close + 1)
        }
        _ => {
            let end = memchr(b':', &text[user..]).map_or(text.len(), |colon| user + colon);
            (user, end, end)
        }
    };
    let port = match &text[rest..] {
        [] => &[][..],
        [b':', port @ ..] => port,
        _ => return Err(ExtractError::Host),
    };
    let legal = |b: &u8| b.is_ascii_graphic() && !matches!(b, b'/' | b'?' | b'#' | b'@' | b'\\' | b',' | b'<' | b'>');
    if from > to || !text[from..to].iter().all(legal) || !port.iter().all(u8::is_ascii_digit) {
        return Err(ExtractError::Host);
    }
    Ok(Span::new(authority.start as usize + from, authority.start as usize + to))
}
