//! The director as a POP3 (RFC 1939) or FTP (RFC 959) server, up to the login name.

use super::{Dialogue, Event, Text, span_in, split_word};
use crate::extract::error::ExtractError;

/// RFC 2449 section 4 gives POP3 commands 255 bytes; FTP states no limit.
const MAX_LINE: usize = 512;

impl Dialogue {
    pub(super) fn pop3(&mut self, buffer: &[u8], reply: &mut Vec<u8>) -> Result<Option<Event>, ExtractError> {
        let start = self.at;
        let Some(line) = self.line(buffer, MAX_LINE)? else { return Ok(Some(Event::NeedMore)) };
        let text = line.of(buffer);
        let (verb, rest) = split_word(text);
        let is = |name: &[u8]| verb.eq_ignore_ascii_case(name);
        if (is(b"USER") || is(b"APOP")) && !rest.is_empty() {
            let name = if is(b"APOP") { split_word(rest).0 } else { rest };
            self.replay.forward_from(start);
            return Ok(Some(Event::Login(Text::Buffer(span_in(line, text, name)))));
        }
        if is(b"CAPA") {
            reply.extend_from_slice(b"+OK\r\nUSER\r\n.\r\n");
        } else if is(b"NOOP") {
            reply.extend_from_slice(b"+OK\r\n");
        } else if is(b"QUIT") {
            reply.extend_from_slice(b"+OK bye\r\n");
            return Err(ExtractError::DialogueEnded);
        } else {
            reply.extend_from_slice(b"-ERR log in with USER first\r\n");
        }
        Ok(None)
    }

    pub(super) fn ftp(&mut self, buffer: &[u8], reply: &mut Vec<u8>) -> Result<Option<Event>, ExtractError> {
        let start = self.at;
        let Some(line) = self.line(buffer, MAX_LINE)? else { return Ok(Some(Event::NeedMore)) };
        let text = line.of(buffer);
        let (verb, rest) = split_word(text);
        let is = |name: &[u8]| verb.eq_ignore_ascii_case(name);
        if is(b"USER") && !rest.is_empty() {
            self.replay.forward_from(start);
            return Ok(Some(Event::Login(Text::Buffer(span_in(line, text, rest)))));
        }
        if is(b"NOOP") {
            reply.extend_from_slice(b"200 OK\r\n");
        } else if is(b"SYST") {
            reply.extend_from_slice(b"215 UNIX Type: L8\r\n");
        } else if is(b"FEAT") {
            reply.extend_from_slice(b"211 no features\r\n");
        } else if is(b"AUTH") {
            reply.extend_from_slice(b"502 not implemented\r\n");
        } else if is(b"QUIT") {
            reply.extend_from_slice(b"221 bye\r\n");
            return Err(ExtractError::DialogueEnded);
        } else {
            reply.extend_from_slice(b"530 log in with USER first\r\n");
        }
        Ok(None)
    }
}
