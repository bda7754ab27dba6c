//! The director as an IMAP server (RFC 3501), up to the login name of LOGIN or AUTHENTICATE PLAIN.

use super::{Dialogue, Event, Text, span_in, split_word};
use crate::extract::error::{ExtractError, Span};

/// Bytes of a command line, as long as most servers take.
const MAX_LINE: usize = 8192;
/// Bytes of a login name sent as a literal.
const MAX_LITERAL: usize = 1024;

/// What the next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum State {
    #[default]
    Command,
    /// A login name of so many bytes; the LOGIN line began at `start`.
    Literal { start: usize, length: usize },
    /// The response of AUTHENTICATE PLAIN.
    Plain,
}

impl Dialogue {
    pub(super) fn imap(
        &mut self,
        buffer: &[u8],
        reply: &mut Vec<u8>,
        decoded: &mut Vec<u8>,
    ) -> Result<Option<Event>, ExtractError> {
        let start = self.at;
        match self.imap {
            State::Literal { start, length } => {
                // The rest of its line (the password) is not ours.
                if buffer.len() < self.at + length {
                    return Ok(Some(Event::NeedMore));
                }
                let name = Span::new(self.at, self.at + length);
                self.replay.forward_from(start);
                return Ok(Some(Event::Login(Text::Buffer(name))));
            }
            State::Plain => {
                let Some(line) = self.line(buffer, MAX_LINE)? else { return Ok(Some(Event::NeedMore)) };
                let from = plain(line.of(buffer), decoded).ok_or(ExtractError::DialogueEnded)?;
                self.replay.forward_from(start);
                return Ok(Some(Event::Login(Text::Decoded(from))));
            }
            State::Command => {}
        }
        let Some(line) = self.line(buffer, MAX_LINE)? else { return Ok(Some(Event::NeedMore)) };
        let whole = Span::new(start, self.at);
        let text = line.of(buffer);
        let (tag, rest) = split_word(text);
        let (verb, arguments) = split_word(rest);
        let is = |name: &[u8]| verb.eq_ignore_ascii_case(name);
        if tag.is_empty() || !tag.iter().all(|b| b.is_ascii_graphic() && !b"(){%*\"\\+".contains(b)) {
            reply.extend_from_slice(b"* BAD a command begins with its tag\r\n");
            return Ok(None);
        }
        let answer: &[u8] = if is(b"LOGIN") {
            match argument(arguments) {
                Some(Argument::Text(name)) => {
                    self.replay.forward_from(start);
                    return Ok(Some(Event::Login(Text::Buffer(span_in(line, text, name)))));
                }
                Some(Argument::Quoted(name)) => {
                    let from = decoded.len();
                    let mut bytes = name.iter();
                    while let Some(&byte) = bytes.next() {
                        decoded.push(if byte == b'\\' { bytes.next().copied().unwrap_or(byte) } else { byte });
                    }
                    self.replay.forward_from(start);
                    return Ok(Some(Event::Login(Text::Decoded(from))));
                }
                Some(Argument::Literal { length, waits }) if length <= MAX_LITERAL => {
                    // A server that is sent `{n}` says `+` too; one that is sent `{n+}` (RFC 7888) does not.
                    if waits {
                        reply.extend_from_slice(b"+ go on\r\n");
                        self.replay.continued(whole);
                    }
                    let start = if waits { self.at } else { start };
                    self.imap = State::Literal { start, length };
                    return Ok(None);
                }
                Some(Argument::Literal { .. }) => return Err(ExtractError::LineTooLong),
                None => b"BAD LOGIN takes a name and a password",
            }
        } else if is(b"AUTHENTICATE") {
            let (mechanism, response) = split_word(arguments);
            if !mechanism.eq_ignore_ascii_case(b"PLAIN") {
                b"NO no such mechanism"
            } else if response.is_empty() {
                reply.extend_from_slice(b"+ \r\n");
                self.replay.continued(whole);
                self.imap = State::Plain;
                return Ok(None);
            } else {
                // An initial response (RFC 4959).
                match plain(response, decoded) {
                    Some(from) => {
                        self.replay.forward_from(start);
                        return Ok(Some(Event::Login(Text::Decoded(from))));
                    }
                    None => b"BAD malformed response",
                }
            }
        } else if is(b"CAPABILITY") {
            reply.extend_from_slice(b"* CAPABILITY IMAP4rev1\r\n");
            b"OK done"
        } else if is(b"NOOP") {
            b"OK done"
        } else if is(b"LOGOUT") {
            reply.extend_from_slice(b"* BYE\r\n");
            reply.extend([tag, b" OK done\r\n"].concat());
            return Err(ExtractError::DialogueEnded);
        } else {
            b"BAD log in first"
        };
        reply.extend([tag, b" ", answer, b"\r\n"].concat());
        Ok(None)
    }
}

enum Argument<'l> {
    Text(&'l [u8]),
    /// Between its quotes, with backslashes.
    Quoted(&'l [u8]),
    Literal {
        length: usize,
        waits: bool,
    },
}

/// The first argument (RFC 3501 section 9, `astring`).
fn argument(text: &[u8]) -> Option<Argument<'_>> {
    match text {
        [b'"', rest @ ..] => {
            let mut at = 0;
            while *rest.get(at)? != b'"' {
                at += if rest[at] == b'\\' { 2 } else { 1 };
            }
            let quoted = &rest[..at];
            Some(if quoted.contains(&b'\\') { Argument::Quoted(quoted) } else { Argument::Text(quoted) })
        }
        [b'{', rest @ .., b'}'] => {
            let (digits, waits) = match rest {
                [digits @ .., b'+' | b'-'] => (digits, false),
                digits => (digits, true),
            };
            if digits.is_empty() || digits.len() > 6 || !digits.iter().all(u8::is_ascii_digit) {
                return None;
            }
            let length = digits.iter().fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
            Some(Argument::Literal { length, waits })
        }
        _ => Some(split_word(text).0).filter(|name| !name.is_empty()).map(Argument::Text),
    }
}

/// The login name of a PLAIN response (RFC 4616: identity to act as, NUL, login name, NUL, password), appended.
fn plain(text: &[u8], decoded: &mut Vec<u8>) -> Option<usize> {
    let start = decoded.len();
    let (mut bits, mut count) = (0_u32, 0);
    let digits = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    for &byte in digits {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => {
                decoded.truncate(start);
                return None;
            }
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            decoded.push((bits >> count) as u8);
        }
    }
    let parts = &decoded[start..];
    let first = memchr::memchr(0, parts).map(|at| start + at + 1);
    let second = first.and_then(|first| memchr::memchr(0, &decoded[first..]).map(|at| first + at));
    let (Some(first), Some(second)) = (first, second) else {
        decoded.truncate(start);
        return None;
    };
    // Neither the password nor the other identity is kept.
    decoded.truncate(second);
    decoded.drain(start..first);
    Some(start)
}
