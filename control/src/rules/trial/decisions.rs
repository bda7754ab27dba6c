//! The requests of a whole connection, decided as a worker decides them: packet by packet, each request up to where the next
//! one begins.

use lcs_pipelines::content::{OnUnparsed, Switching};
use lcs_pipelines::extract::{BodyFollower, ExtractError, Extraction, Framing, Head, Method, Outcome, PacketFacts};
use lcs_pipelines::matching::Scratch;

use super::super::ast::{Action, Protocol};
use super::super::connection::Connection;
use super::super::eval::Verdict;
use super::super::request::GivenRequest;
use super::{GroupState, RequestAttributes, Trial, spoken};

/// Requests of one connection that are decided; what follows is left.
pub const MAX_REQUESTS: usize = 1_000;

/// How a service reads requests, its limits aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// What its clients speak.
    pub protocol: Option<Protocol>,
    /// What one decision is for.
    pub switching: Switching,
    /// What becomes of a request that cannot be read.
    pub on_unparsed: OnUnparsed,
}

/// What became of one request of a connection.
#[derive(Debug, Clone)]
pub struct Decided {
    /// Where it begins, in bytes of what the client sent.
    pub start: usize,
    /// Bytes of it that are there; of a request that was not decided, all that is left.
    pub length: usize,
    /// What the program said, or why the request cannot be read.
    pub verdict: Result<Verdict, ExtractError>,
    /// It cannot be read, and goes to `default` for that.
    pub given_away: bool,
    /// What it was found to hold.
    pub attributes: RequestAttributes,
    /// What more there is to say, in sentences.
    pub notes: Vec<String>,
    /// Whether another request may follow on the connection.
    goes_on: bool,
}

/// What reading has come to.
enum Step {
    More(Option<Verdict>),
    Taken(Verdict, Option<Head>),
    Refused(ExtractError),
}

impl Trial<'_> {
    /// Decides the requests of a connection as a worker does: packet by packet with the program, each request by the packet
    /// that completed what the decision needs. Ends with the request behind which the connection takes no other, or with the
    /// last of [`MAX_REQUESTS`].
    pub fn decisions(&self, given: &GivenRequest, reading: &Reading) -> Vec<Decided> {
        let mut all: Vec<Decided> = Vec::new();
        let mut at = 0;
        // A file's last line end is no other request: servers pass over it (RFC 9112 section 2.2).
        let is_over = |at: usize| given.bytes[at..].iter().all(|b| matches!(b, b'\r' | b'\n'));
        while (at == 0 || !is_over(at))
            && at < given.bytes.len()
            && all.len() < MAX_REQUESTS
            && all.last().is_none_or(|last| last.goes_on)
        {
            let decided = self.request(given, reading, at);
            at += decided.length;
            all.push(decided);
        }
        if let Some(last) = all.last_mut()
            && at < given.bytes.len()
            && !is_over(at)
        {
            last.notes.push(format!("{} bytes behind it were not looked at", given.bytes.len() - at));
        }
        all
    }

    /// The request that begins with byte `start`.
    fn request(&self, given: &GivenRequest, reading: &Reading, start: usize) -> Decided {
        let bytes = &given.bytes[start..];
        let mut packets = given.packets.iter().filter(|packet| packet.readable > start).peekable();
        let mut extraction = Extraction::new(spoken(reading.protocol));
        let mut scratch = self.program.scratch();
        let (step, connection, seen) = loop {
            let packet = packets.next();
            let connection = given.connection_at(packet);
            let seen = packet.map_or(bytes, |packet| &bytes[..packet.readable - start]);
            let last = packets.peek().is_none();
            let end = last && given.ended;
            let step = match self.step(reading, &mut extraction, &mut scratch, &connection, seen, end) {
                // Workers hold no more of a request.
                Step::More(_) if seen.len() >= self.limits.head.max(self.limits.hello) + self.limits.body => {
                    Step::Refused(ExtractError::BodyTooLarge)
                }
                step => step,
            };
            if last || !matches!(step, Step::More(_)) {
                break (step, connection, seen);
            }
        };
        let attributes = self.attributes(reading.protocol, seen, &connection);
        let mut decided = Decided {
            start,
            length: bytes.len(),
            verdict: Ok(Verdict::NoRule),
            given_away: false,
            attributes,
            notes: Vec::new(),
            goes_on: false,
        };
        match step {
            Step::Refused(error) => {
                decided.verdict = Err(error);
                decided.given_away = reading.on_unparsed == OnUnparsed::Default
                    && start == 0
                    && !error.is_ambiguous()
                    && !spoken(reading.protocol).server_speaks_first()
                    && self.set.default.is_some();
            }
            Step::More(None) => decided.verdict = Ok(self.waiting(&decided.attributes)),
            Step::More(Some(verdict)) => {
                let index = if let Verdict::Rule(index) = verdict { index } else { self.set.rules.len() };
                decided.verdict = Ok(Verdict::Waiting(index));
                decided.notes.push("which rule takes it is certain, and the head is read on to its end".into());
            }
            Step::Taken(verdict, head) => {
                decided.verdict = Ok(verdict);
                if self.evaluator.verdict(&decided.attributes) != verdict {
                    // What came later says something else, which was not asked any more: an envelope begun anew, say.
                    let enough = self.enough(reading.protocol, seen, &connection);
                    decided.attributes = self.attributes(reading.protocol, &seen[..enough], &connection);
                }
                if let Some(head) = head {
                    follow(&mut decided, &head, bytes);
                }
                let answers = match self.action(verdict) {
                    Some(Action::Reject { .. } | Action::Redirect { .. }) => true,
                    Some(Action::RouteTo { group, .. } | Action::LoadBalance { group, .. })
                        if connection.servers_up.get(group) == Some(&false) =>
                    {
                        let then = if reading.protocol == Some(Protocol::Http) { "answered 503" } else { "reset" };
                        decided.notes.push(format!("no server of `{group}` is up: the client is {then}"));
                        true
                    }
                    _ => false,
                };
                decided.goes_on &= !answers;
            }
        }
        decided
    }

    /// Reads as far as a worker does, on what has come so far.
    fn step(
        &self,
        reading: &Reading,
        extraction: &mut Extraction,
        scratch: &mut Scratch,
        connection: &Connection,
        seen: &[u8],
        end: bool,
    ) -> Step {
        let groups = GroupState(&self.names, connection);
        let facts = PacketFacts { packet: connection.packet(), groups: &groups };
        let verdict = match extraction.advance(&self.program, &self.plan, scratch, &facts, seen, end) {
            Err(error) => return Step::Refused(error),
            Ok(Outcome::NeedMore) => return Step::More(None),
            Ok(Outcome::NoRule) => return Step::Taken(Verdict::NoRule, None),
            Ok(Outcome::Rule(index)) => self.rule(index),
        };
        if reading.protocol != Some(Protocol::Http) || reading.switching == Switching::Connection {
            return Step::Taken(verdict, None);
        }
        // Where the next request begins, the head says.
        let head = match extraction.head(&self.plan, seen) {
            Err(error) => return Step::Refused(error),
            Ok(None) if end => return Step::Refused(ExtractError::Truncated),
            Ok(None) => return Step::More(Some(verdict)),
            Ok(Some(head)) => *head,
        };
        match body(&head, seen).1 {
            Err(error) => Step::Refused(error),
            Ok(()) => Step::Taken(verdict, Some(head)),
        }
    }

    /// How many of these bytes are enough for the decision.
    fn enough(&self, protocol: Option<Protocol>, seen: &[u8], connection: &Connection) -> usize {
        let groups = GroupState(&self.names, connection);
        let facts = PacketFacts { packet: connection.packet(), groups: &groups };
        let mut scratch = self.program.scratch();
        // More bytes never take a decision back.
        let (mut few, mut many) = (0, seen.len());
        while few < many {
            let half = few + (many - few) / 2;
            let mut extraction = Extraction::new(spoken(protocol));
            let bytes = &seen[..half];
            match extraction.advance(&self.program, &self.plan, &mut scratch, &facts, bytes, false) {
                Ok(Outcome::NeedMore) => few = half + 1,
                _ => many = half,
            }
        }
        many
    }

    fn action(&self, verdict: Verdict) -> Option<&Action> {
        match verdict {
            Verdict::Rule(index) => self.set.rules.get(index).map(|rule| &rule.action),
            Verdict::Default => self.set.default.as_ref().map(|default| &default.action),
            Verdict::NoRule | Verdict::Waiting(_) => None,
        }
    }
}

/// How many of these bytes are the request's, and whether its body goes on behind them or is malformed.
fn body(head: &Head, bytes: &[u8]) -> (usize, Result<(), ExtractError>) {
    let mut body = match head.framing {
        Framing::UntilClose => BodyFollower::Done,
        framing => BodyFollower::new(framing),
    };
    match body.feed(bytes.get(head.length..).unwrap_or(&[]), |_| {}) {
        Ok(used) => (head.length + used, Ok(())),
        Err(error) => (bytes.len(), Err(error)),
    }
}

/// Where a decided request ends, and whether another may follow.
fn follow(decided: &mut Decided, head: &Head, bytes: &[u8]) {
    let (length, whole) = body(head, bytes);
    decided.length = length;
    decided.goes_on = whole.is_ok() && head.keep_alive && head.method != Method::Connect;
    if let Err(error) = whole {
        decided.notes.push(format!("further on it is malformed, and the connection ends there: {error}"));
    } else if !head.keep_alive {
        decided.notes.push("the connection ends with its response: so the client asks".into());
    } else if head.method == Method::Connect {
        decided.notes.push("behind it the connection is a tunnel, if the server agrees".into());
    } else if head.upgrade {
        decided.notes.push("behind it the connection speaks something else, if the server agrees".into());
    }
}
