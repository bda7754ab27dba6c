//! Bringing the chosen server to the point at which the client stands.

use crate::extract::error::{ExtractError, Span};
use crate::extract::request::Protocol;

/// Commands that may have to be sent again.
const MAX_STEPS: usize = 4;
/// Bytes of one server reply that is swallowed.
const MAX_REPLY: u32 = 16 << 10;

/// Which replies of the server are for us and what it is sent in between. After [`ReplayProgress::Done`] the client's
/// bytes from [`Replay::forward`] on are forwarded, and everything the server says is for the client.
#[derive(Debug, Clone, Copy, Default)]
pub struct Replay {
    protocol: Protocol,
    steps: [Span; MAX_STEPS],
    count: u8,
    /// The last step counts only if the dialogue went on past it.
    tentative: bool,
    forward: usize,
    /// Replies swallowed.
    done: u8,
    /// The current line: its first bytes, its length; and the reply's length.
    start: [u8; 4],
    line: u32,
    reply: u32,
}

/// How far a [`Replay`] got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayProgress {
    /// The server has more to say first.
    More,
    /// Send these of the client's bytes to the server now.
    Send(Span),
    /// The server stands where the client does.
    Done,
}

impl Replay {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self { protocol, ..Self::default() }
    }

    /// The client has not been spoken to: all that the server says is for it.
    pub fn nothing() -> Self {
        Self { done: 1, ..Self::default() }
    }

    pub(super) fn clear(&mut self) {
        (self.count, self.tentative) = (0, false);
    }

    /// Only this command counts now.
    pub(super) fn restart(&mut self, command: Span) {
        self.clear();
        self.answered_next(command);
        self.tentative = false;
    }

    /// This command is to be sent again if the dialogue goes on past it.
    pub(super) fn answered_next(&mut self, command: Span) {
        if let Some(step) = self.steps.get_mut(usize::from(self.count)) {
            *step = command;
            self.count += 1;
            self.tentative = true;
        }
    }

    /// The dialogue went on.
    pub(super) fn commit(&mut self) {
        self.tentative = false;
    }

    /// The client was told to go on with this command.
    pub(super) fn continued(&mut self, command: Span) {
        self.clear();
        self.answered_next(command);
        self.commit();
    }

    pub(super) fn forward_from(&mut self, at: usize) {
        self.forward = at;
    }

    /// Where in the client's bytes plain forwarding begins.
    pub fn forward(&self) -> usize {
        self.forward
    }

    /// Takes the server's next bytes; says how many were for us, and what to do. Call again with what was not used.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(usize, ReplayProgress), ExtractError> {
        let steps = self.count - u8::from(self.tentative);
        if self.done > steps {
            return Ok((0, ReplayProgress::Done));
        }
        for (at, &byte) in bytes.iter().enumerate() {
            self.reply += 1;
            if self.reply > MAX_REPLY {
                return Err(ExtractError::ReplayRefused);
            }
            if byte != b'\n' {
                if let Some(place) = self.start.get_mut(self.line as usize) {
                    *place = byte;
                }
                self.line += 1;
                continue;
            }
            let last = self.line_ended()?;
            (self.start, self.line) = ([0; 4], 0);
            if last {
                self.reply = 0;
                self.done += 1;
                let progress = match self.done > steps {
                    true => ReplayProgress::Done,
                    false => ReplayProgress::Send(self.steps[usize::from(self.done) - 1]),
                };
                return Ok((at + 1, progress));
            }
        }
        Ok((bytes.len(), ReplayProgress::More))
    }

    /// Whether that line was a reply's last; an error if the reply is not as good as the one that we gave.
    fn line_ended(&self) -> Result<bool, ExtractError> {
        let fits = |start: &[u8]| self.start.starts_with(start);
        let good = match self.protocol {
            Protocol::Pop3 => fits(b"+OK"),
            Protocol::Imap if self.done == 0 => fits(b"* OK"),
            // Untagged news may come before the `+`.
            Protocol::Imap if fits(b"* ") => return Ok(false),
            Protocol::Imap => fits(b"+"),
            // FTP's 120 says that 220 will follow (RFC 959 section 5.4).
            Protocol::Ftp if self.done == 0 && fits(b"120") => return Ok(false),
            _ => {
                let code = &self.start[..3];
                // Lines of a reply in several lines may hold anything in FTP, and `NNN-` in SMTP.
                if self.protocol == Protocol::Ftp && !code.iter().all(u8::is_ascii_digit) {
                    return Ok(false);
                }
                if code[0] == b'2' && self.start[3] == b'-' {
                    return Ok(false);
                }
                code[0] == b'2' && code[1..].iter().all(u8::is_ascii_digit)
            }
        };
        if good { Ok(true) } else { Err(ExtractError::ReplayRefused) }
    }
}
