//! Where a response ends, seen from its bytes as they pass: for a decision on every request of a connection.

use memchr::memchr;

use super::body::{BodyFollower, Framing, FramingFields};
use super::error::ExtractError;
use super::head::Method;
use super::line::{has_control, is_named, is_token, plain_field, plain_line, split_field};

/// Bytes of a response head, those of 1xx responses before it included.
pub const MAX_RESPONSE_HEAD: u32 = 64 << 10;

/// Longest part of a line that must be remembered across segments: `Transfer-Encoding: chunked` with some blanks.
const KEPT: usize = 64;

/// What a response turned out to be, once its end (or that it has none) is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseProgress {
    /// More is to come.
    More,
    /// The response is complete; bytes not used belong to the next.
    Complete,
    /// From here on the connection is a tunnel (101, or 2xx to CONNECT): splice plainly.
    Tunnel,
}

/// Follows one response (interim 1xx responses included) through segments of any size. No allocation, about 100 bytes.
#[derive(Debug, Clone)]
pub struct ResponseFollower {
    method: Method,
    state: State,
    status: u16,
    minor: u8,
    fields: FramingFields,
    head: u32,
    kept: [u8; KEPT],
    /// Bytes of the current line so far, of which the first [`KEPT`] are kept.
    line: u32,
    /// The current line has a control character beyond what is kept, or ends (so far) in CR.
    control: bool,
    carriage_return: bool,
    close: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    StatusLine,
    Fields,
    Body(BodyFollower),
    Tunnel,
}

impl ResponseFollower {
    /// Before the first byte of the response to a request with this method.
    pub fn new(method: Method) -> Self {
        Self {
            method,
            state: State::StatusLine,
            status: 0,
            minor: 1,
            fields: FramingFields::default(),
            head: 0,
            kept: [0; KEPT],
            line: 0,
            control: false,
            carriage_return: false,
            close: false,
        }
    }

    /// As [`ResponseFollower::new`], in its place.
    pub(crate) fn begin(&mut self, method: Method) {
        // What is kept of a line counts no further than `line` says.
        let Self { method: of, state, status, minor, fields, head, kept: _, line, control, carriage_return, close } =
            self;
        (*of, *state, *status, *minor) = (method, State::StatusLine, 0, 1);
        (*fields, *head, *line) = (FramingFields::default(), 0, 0);
        (*control, *carriage_return, *close) = (false, false, false);
    }

    /// The status of the final response, once its first line has passed.
    pub fn status(&self) -> Option<u16> {
        (self.status != 0 && !self.is_interim()).then_some(self.status)
    }

    /// Whether the server said that it will close after this response.
    pub fn closes(&self) -> bool {
        self.close || matches!(self.state, State::Body(BodyFollower::UntilClose))
    }

    /// Takes the next bytes of the stream; says how many of them belong to this response.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(usize, ResponseProgress), ExtractError> {
        let mut at = 0;
        loop {
            match &mut self.state {
                State::Tunnel => return Ok((at, ResponseProgress::Tunnel)),
                State::Body(BodyFollower::Done) => return Ok((at, ResponseProgress::Complete)),
                State::Body(body) => {
                    at += body.feed(&bytes[at..], |_| {})?;
                    let progress = if body.is_done() { ResponseProgress::Complete } else { ResponseProgress::More };
                    return Ok((at, progress));
                }
                State::StatusLine | State::Fields => {
                    if self.line == 0
                        && let Some(length) = plain_line(&bytes[at..])
                    {
                        let line = &bytes[at..at + length];
                        at += length + 2;
                        self.count(length + 1)?;
                        self.take_plain(line)?;
                        continue;
                    }
                    let Some(length) = memchr(b'\n', &bytes[at..]) else {
                        self.keep(&bytes[at..])?;
                        return Ok((bytes.len(), ResponseProgress::More));
                    };
                    let part = &bytes[at..at + length];
                    at += length + 1;
                    if self.line == 0 {
                        self.count(part.len())?;
                        self.take_line(part, part.len())?;
                    } else {
                        self.keep(part)?;
                        if self.control {
                            return Err(ExtractError::HeaderValue);
                        }
                        let (kept, line) = (self.kept, self.line as usize);
                        self.take_line(&kept[..line.min(KEPT)], line)?;
                    }
                    (self.line, self.control, self.carriage_return) = (0, false, false);
                }
            }
        }
    }

    /// Whether the response ends with the connection.
    pub fn until_close(&self) -> bool {
        matches!(self.state, State::Body(BodyFollower::UntilClose))
    }

    /// Whether the end has been reached.
    pub fn is_complete(&self) -> bool {
        matches!(self.state, State::Body(BodyFollower::Done))
    }

    /// See [`BodyFollower::skip`].
    pub fn skip(&mut self) -> u32 {
        match &mut self.state {
            State::Body(body) => body.skip(),
            _ => 0,
        }
    }

    /// The connection ended. Says whether the response was complete, or ended properly by this.
    pub fn end(&self) -> Result<(), ExtractError> {
        match self.state {
            State::Tunnel | State::Body(BodyFollower::Done | BodyFollower::UntilClose) => Ok(()),
            _ => Err(ExtractError::Truncated),
        }
    }

    fn count(&mut self, bytes: usize) -> Result<(), ExtractError> {
        self.head = self.head.saturating_add(bytes as u32 + 1);
        if self.head > MAX_RESPONSE_HEAD { Err(ExtractError::HeadTooLarge) } else { Ok(()) }
    }

    fn keep(&mut self, part: &[u8]) -> Result<(), ExtractError> {
        self.count(part.len())?;
        let from = (self.line as usize).min(KEPT);
        let more = part.len().min(KEPT - from);
        self.kept[from..from + more].copy_from_slice(&part[..more]);
        self.line += part.len() as u32;
        let [before @ .., last] = part else { return Ok(()) };
        self.control |= self.carriage_return || has_control(before) || (*last != b'\r' && has_control(&[*last]));
        self.carriage_return = *last == b'\r';
        // The CR of a longer line than is kept must still be seen.
        if self.line as usize > KEPT {
            self.kept[KEPT - 1] = *last;
        }
        Ok(())
    }

    /// `line` is the line without its LF, or the beginning of one of `length` bytes with its last byte at the end.
    fn take_line(&mut self, line: &[u8], length: usize) -> Result<(), ExtractError> {
        let [line @ .., b'\r'] = line else { return Err(ExtractError::LineEnd) };
        let whole = line.len() + 1 == length;
        if self.state == State::StatusLine {
            if has_control(line) {
                return Err(ExtractError::NotResponse);
            }
            return self.status_line(line);
        }
        if line.is_empty() {
            self.state = self.head_ended()?;
            return Ok(());
        }
        if length > KEPT && line[..KEPT - 1].iter().all(|&b| is_token(b)) {
            // A name too long to be remembered is none of those that matter.
            return if has_control(line) { Err(ExtractError::HeaderValue) } else { Ok(()) };
        }
        let (name, (from, to)) = split_field(line)?;
        if !whole && matches!(name.len(), 14 | 17) {
            // The value is not all there. It cannot be a proper one, so let it not look like one.
            return self.fields.field(name, b"?");
        }
        self.field(name, &line[from..to])
    }

    /// The same for a [`plain_line`], without its CR LF.
    fn take_plain(&mut self, line: &[u8]) -> Result<(), ExtractError> {
        if self.state == State::StatusLine {
            return self.status_line(line);
        }
        if line.is_empty() {
            self.state = self.head_ended()?;
            return Ok(());
        }
        if line.len() >= KEPT && line[..KEPT - 1].iter().all(|&b| is_token(b)) {
            // As if it had come in pieces.
            return Ok(());
        }
        let (name, (from, to)) = plain_field(line)?;
        self.field(name, &line[from..to])
    }

    /// A field as it has come, or as far as it is remembered.
    fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), ExtractError> {
        if is_named(name, b"connection") {
            let mut options = value.split(|&b| b == b',').map(<[u8]>::trim_ascii);
            self.close |= options.any(|option| option.eq_ignore_ascii_case(b"close"));
        }
        self.fields.field(name, value)
    }

    /// RFC 9112 section 4.
    fn status_line(&mut self, line: &[u8]) -> Result<(), ExtractError> {
        let bad = Err(ExtractError::NotResponse);
        let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ (b'0' | b'1'), b' ', a, b, c, rest @ ..] = line else {
            return bad;
        };
        if ![a, b, c].iter().all(|digit| digit.is_ascii_digit()) || !matches!(rest.first(), None | Some(b' ')) {
            return bad;
        }
        self.minor = minor - b'0';
        self.status = [a, b, c].iter().fold(0, |sum, digit| sum * 10 + u16::from(**digit - b'0'));
        if self.status < 100 {
            return bad;
        }
        self.state = State::Fields;
        self.fields = FramingFields::default();
        self.close = self.minor == 0;
        Ok(())
    }

    fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// RFC 9112 section 6.3.
    fn head_ended(&self) -> Result<State, ExtractError> {
        Ok(match (self.status, self.method) {
            (101, _) => State::Tunnel,
            (200..=299, Method::Connect) => State::Tunnel,
            // Only a head limit of its own bounds how many of these come.
            _ if self.is_interim() => State::StatusLine,
            (204 | 304, _) | (_, Method::Head) => State::Body(BodyFollower::Done),
            _ => match self.fields.response(self.minor)? {
                Framing::None => State::Body(BodyFollower::Done),
                framing => State::Body(BodyFollower::new(framing)),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds in pieces; the number of bytes used and how it ended.
    fn follow(method: &[u8], bytes: &[u8], piece: usize) -> Result<(usize, ResponseProgress), ExtractError> {
        let mut follower = ResponseFollower::new(Method::of(method));
        let mut used = 0;
        for part in bytes.chunks(piece) {
            let (taken, progress) = follower.feed(part)?;
            used += taken;
            if progress != ResponseProgress::More {
                return Ok((used, progress));
            }
            assert_eq!(taken, part.len());
        }
        Ok((used, ResponseProgress::More))
    }

    #[test]
    fn responses_end_where_they_should_in_any_pieces() {
        use ResponseProgress::{Complete, More, Tunnel};
        let wordy = format!("HTTP/1.1 200 OK\r\n{}: v\r\nContent-Length: 2\r\n\r\nok", "N".repeat(100));
        let long = format!("HTTP/1.1 200 {}\r\nX: {}\r\nContent-Length: 2\r\n\r\nok", "r".repeat(200), "v".repeat(300));
        for (method, response, progress) in [
            ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Complete),
            ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Complete),
            ("GET", "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Complete),
            ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Complete),
            ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Complete),
            ("GET", "HTTP/1.1 204\r\n\r\n", Complete),
            ("POST", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Complete),
            ("GET", "HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No\r\n\r\n", Complete),
            ("GET", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", Tunnel),
            ("CONNECT", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Tunnel),
            ("GET", &long, Complete),
            ("GET", &wordy, Complete),
        ] {
            let stream = format!("{response}HTTP/1.1 200 next");
            for piece in 1..=stream.len() {
                let result = follow(method.as_bytes(), stream.as_bytes(), piece);
                assert_eq!(result, Ok((response.len(), progress)), "{response:?} in pieces of {piece}");
            }
        }
        let close = b"HTTP/1.0 200 OK\r\n\r\nuntil the end";
        assert_eq!(follow(b"GET", close, 3), Ok((close.len(), More)));
        let mut follower = ResponseFollower::new(Method::Other);
        follower.feed(close).unwrap();
        assert!(follower.closes() && follower.end().is_ok());
        assert_eq!(follower.status(), Some(200));
    }

    #[test]
    fn doubtful_responses_are_refused() {
        let wide = format!("HTTP/1.1 200 OK\r\nContent-Length: {}5\r\n\r\n", " ".repeat(100));
        for (response, error) in [
            ("HTTP/1.1 200 OK\nA: b\r\n\r\n", ExtractError::LineEnd),
            ("HTTP/2 200\r\n\r\n", ExtractError::NotResponse),
            ("HTTP/1.1 20\r\n\r\n", ExtractError::NotResponse),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                ExtractError::LengthAndEncoding,
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", ExtractError::Length),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", ExtractError::Encoding),
            ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", ExtractError::FoldedHeader),
            ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", ExtractError::HeaderName),
        ] {
            for piece in [1, 7, response.len()] {
                assert_eq!(follow(b"GET", response.as_bytes(), piece), Err(error), "{response:?}");
            }
        }
        // Too wide to be remembered across segments: refused, never misread.
        assert_eq!(follow(b"GET", wide.as_bytes(), 1), Err(ExtractError::Length));
        let endless = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(4000);
        assert_eq!(follow(b"GET", &endless, 1000), Err(ExtractError::HeadTooLarge));
    }

    #[test]
    fn a_cut_response_is_not_complete() {
        let mut follower = ResponseFollower::new(Method::Other);
        follower.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel").unwrap();
        assert_eq!(follower.end(), Err(ExtractError::Truncated));
    }
}
