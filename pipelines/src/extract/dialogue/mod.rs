//! Delayed binding where the server speaks first: the director plays the server until it knows who is asked for.
//!
//! A [`Dialogue`] greets, answers what any server would answer alike, and stops unanswered at the command that decides.
//! Then a [`Replay`] brings the chosen server to the same point: it swallows the server's greeting, sends the commands
//! that were answered and swallows their replies; from there on both ends talk to each other. Nothing is offered that
//! some server may not have: no extensions, no TLS inside the protocol.

mod imap;
mod login;
mod replay;
mod smtp;

use memchr::memchr;

use super::error::{ExtractError, Span};
use super::request::Protocol;

pub use replay::{Replay, ReplayProgress};

/// Commands that may come before the one that decides.
pub const MAX_COMMANDS: u16 = 32;

/// What a dialogue came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// It waits for the client.
    NeedMore,
    /// The envelope's sender, not answered yet.
    MailFrom(Span),
    /// The envelope's first recipient, not answered yet.
    MailTo(Span),
    /// The login name, not answered yet.
    Login(Text),
}

/// Text that stands in the buffer, or had to be decoded (then it is at the end of the decoded bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    Buffer(Span),
    Decoded(usize),
}

/// One conversation with a client.
#[derive(Debug, Clone, Default)]
pub(super) struct Dialogue {
    /// Where the next command begins.
    at: usize,
    scanned: usize,
    commands: u16,
    greeted: bool,
    /// The command before `at` waits for its answer.
    unanswered: bool,
    smtp: smtp::State,
    imap: imap::State,
    replay: Replay,
}

impl Dialogue {
    /// Reads commands and writes answers until something is found or the client must go on.
    pub(super) fn step(
        &mut self,
        protocol: Protocol,
        name: &str,
        buffer: &[u8],
        reply: &mut Vec<u8>,
        decoded: &mut Vec<u8>,
    ) -> Result<Event, ExtractError> {
        if !self.greeted {
            self.greeted = true;
            self.replay = Replay::new(protocol);
            match protocol {
                Protocol::Smtp => reply.extend([b"220 ", name.as_bytes(), b" ESMTP\r\n"].concat()),
                Protocol::Pop3 => reply.extend_from_slice(b"+OK ready\r\n"),
                Protocol::Imap => reply.extend_from_slice(b"* OK IMAP4rev1 ready\r\n"),
                _ => reply.extend([b"220 ", name.as_bytes(), b" ready\r\n"].concat()),
            }
        }
        loop {
            let event = match protocol {
                Protocol::Smtp => self.smtp(name, buffer, reply)?,
                Protocol::Pop3 => self.pop3(buffer, reply)?,
                Protocol::Imap => self.imap(buffer, reply, decoded)?,
                _ => self.ftp(buffer, reply)?,
            };
            if let Some(event) = event {
                return Ok(event);
            }
        }
    }

    /// How to bring a server to where the dialogue stands.
    pub(super) fn replay(&self) -> Replay {
        if self.greeted { self.replay } else { Replay::nothing() }
    }

    /// The next command line without its CR LF, if it is complete.
    fn line(&mut self, buffer: &[u8], limit: usize) -> Result<Option<Span>, ExtractError> {
        let Some(length) = memchr(b'\n', &buffer[self.scanned..]) else {
            self.scanned = buffer.len();
            return if buffer.len() - self.at > limit { Err(ExtractError::LineTooLong) } else { Ok(None) };
        };
        let end = self.scanned + length;
        if end - self.at > limit {
            return Err(ExtractError::LineTooLong);
        }
        let [.., b'\r'] = &buffer[self.at..end] else { return Err(ExtractError::LineEnd) };
        self.commands += 1;
        if self.commands > MAX_COMMANDS {
            return Err(ExtractError::TooManyCommands);
        }
        let line = Span::new(self.at, end - 1);
        self.at = end + 1;
        self.scanned = end + 1;
        Ok(Some(line))
    }
}

/// The first word of a line, and the rest with the blanks before it removed.
fn split_word(line: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr(b' ', line).unwrap_or(line.len());
    (&line[..end], line[end..].trim_ascii_start())
}

/// Where a part of the buffer stands in it.
fn span_in(line: Span, text: &[u8], part: &[u8]) -> Span {
    let offset = part.as_ptr() as usize - text.as_ptr() as usize;
    Span::new(line.start as usize + offset, line.start as usize + offset + part.len())
}
