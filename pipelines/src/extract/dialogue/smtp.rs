//! The director as an SMTP server (RFC 5321), up to the first recipient.

use super::{Dialogue, Event, span_in, split_word};
use crate::extract::error::{ExtractError, Span};

/// RFC 5321 section 4.5.3.1.4, with room for parameters.
const MAX_LINE: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct State {
    greeted: Option<Span>,
    from: Option<Span>,
}

impl Dialogue {
    pub(super) fn smtp(
        &mut self,
        name: &str,
        buffer: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<Option<Event>, ExtractError> {
        if std::mem::take(&mut self.unanswered) {
            // The sender did not decide.
            reply.extend_from_slice(b"250 2.1.0 OK\r\n");
        }
        let start = self.at;
        let Some(line) = self.line(buffer, MAX_LINE)? else { return Ok(Some(Event::NeedMore)) };
        let text = line.of(buffer);
        let whole = Span::new(start, self.at);
        let (verb, rest) = split_word(text);
        let is = |name: &[u8]| verb.eq_ignore_ascii_case(name);
        if is(b"HELO") || is(b"EHLO") {
            // Also a reset of the transaction (section 4.1.4). Nothing is offered: any server must do without.
            self.smtp = State { greeted: Some(whole), from: None };
            self.replay.restart(whole);
            reply.extend([b"250 ", name.as_bytes(), b"\r\n"].concat());
        } else if is(b"MAIL") || is(b"RCPT") {
            let keyword: &[u8] = if is(b"MAIL") { b"FROM:" } else { b"TO:" };
            let path = match rest.get(..keyword.len()) {
                Some(start) if start.eq_ignore_ascii_case(keyword) => mailbox(&rest[keyword.len()..]),
                _ => None,
            };
            match (path, is(b"MAIL"), self.smtp) {
                (None, ..) => {
                    reply.extend_from_slice(b"501 5.5.4 Syntax: MAIL FROM:<address> or RCPT TO:<address>\r\n")
                }
                (_, _, State { greeted: None, .. }) => reply.extend_from_slice(b"503 5.5.1 Say HELO first\r\n"),
                (_, true, State { from: Some(_), .. }) => {
                    reply.extend_from_slice(b"503 5.5.1 Sender already given\r\n")
                }
                (_, false, State { from: None, .. }) => reply.extend_from_slice(b"503 5.5.1 Say MAIL first\r\n"),
                (Some(path), true, _) => {
                    let from = span_in(line, text, path);
                    self.smtp.from = Some(from);
                    self.replay.forward_from(start);
                    self.replay.answered_next(whole);
                    self.unanswered = true;
                    return Ok(Some(Event::MailFrom(from)));
                }
                (Some(path), false, _) => {
                    self.replay.commit();
                    self.replay.forward_from(start);
                    return Ok(Some(Event::MailTo(span_in(line, text, path))));
                }
            }
        } else if is(b"RSET") {
            self.smtp.from = None;
            match self.smtp.greeted {
                Some(greeted) => self.replay.restart(greeted),
                None => self.replay.clear(),
            }
            reply.extend_from_slice(b"250 2.0.0 OK\r\n");
        } else if is(b"NOOP") {
            reply.extend_from_slice(b"250 2.0.0 OK\r\n");
        } else if is(b"VRFY") {
            reply.extend_from_slice(b"252 2.1.5 Send some mail\r\n");
        } else if is(b"QUIT") {
            reply.extend_from_slice(b"221 2.0.0 Bye\r\n");
            return Err(ExtractError::DialogueEnded);
        } else if is(b"DATA") {
            reply.extend_from_slice(b"503 5.5.1 Say RCPT first\r\n");
        } else {
            reply.extend_from_slice(b"502 5.5.1 Not implemented\r\n");
        }
        Ok(None)
    }
}

/// The address of a path, without its brackets and source route (section 4.1.2, appendix C).
fn mailbox(text: &[u8]) -> Option<&[u8]> {
    let inner = text.trim_ascii_start().strip_prefix(b"<")?;
    // A quoted local part may hold a `>`.
    let (mut quoted, mut escaped) = (false, false);
    let end = inner.iter().position(|&b| {
        let ends = b == b'>' && !quoted;
        if escaped {
            escaped = false;
        } else if b == b'\\' {
            escaped = true;
        } else if b == b'"' {
            quoted = !quoted;
        }
        ends
    })?;
    let path = &inner[..end];
    Some(match path {
        [b'@', ..] => &path[path.iter().position(|&b| b == b':')? + 1..],
        _ => path,
    })
}
