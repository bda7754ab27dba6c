//! The client: carries out scripts of exchanges, a connection each, and compares every byte of every answer.

use super::exchange::{Exchange, Method, SERVER_FIELD, field};
use super::rules::{Expectation, NEW_PLACE, Roster};
use crate::network::SECOND;
use crate::network::host::Application;
use crate::network::http::message::{MAX_HEAD, head_end};
use crate::network::stack::Stack;
use crate::network::time_wait::Pair;
use lcs_dataplane::worker::Nanos;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;

/// Failures that are kept with their details; all are counted.
const KEPT: usize = 32;

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The client closes when everything is answered, unless the server has.
    Close,
    /// The client closes its half when everything is sent.
    HalfClose,
    /// The client resets the connection when this many bytes are sent or, sent all, this many of the answers have come.
    Reset {
        /// Bytes to send first.
        sent: usize,
        /// Bytes to receive first.
        received: usize,
    },
    /// The client sends only this many bytes and waits for the director to make an end.
    Stall(usize),
}

/// What to do on one connection.
#[derive(Debug, Clone)]
pub struct Script {
    /// Where to connect to.
    pub target: SocketAddr,
    /// The exchanges, in order.
    pub exchanges: Vec<Exchange>,
    /// Requests that may be unanswered at once, at least 1. Those that may be sent at once are one write.
    pub pipeline: usize,
    /// Bytes given to TCP at a time, each piece sent when the one before is acknowledged; 0 for all at once.
    pub piece: usize,
    /// Time between an answer and the next request, ns.
    pub pause: Nanos,
    /// How it ends.
    pub ending: Ending,
}

impl Script {
    /// Exchanges one after the other on one connection, closed by the client.
    pub fn new(target: SocketAddr, exchanges: Vec<Exchange>) -> Self {
        Script { target, exchanges, pipeline: 1, piece: 0, pause: 0, ending: Ending::Close }
    }

    /// Whether every exchange is meant to be answered.
    pub fn completes(&self) -> bool {
        matches!(self.ending, Ending::Close | Ending::HalfClose)
    }
}

/// A connection that went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// When.
    pub at: Nanos,
    /// Our endpoint.
    pub local: Option<SocketAddr>,
    /// Number of the connection, from 0.
    pub connection: u64,
    /// Code of the exchange that was to be answered.
    pub exchange: String,
    /// What was wrong.
    pub why: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:.6} s, connection {}", self.at as f64 / 1e9, self.connection)?;
        if let Some(local) = self.local {
            write!(f, " from {local}")?;
        }
        write!(f, ", {}: {}", self.exchange, self.why)
    }
}

/// What a client has seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Connections begun.
    pub connections: u64,
    /// Exchanges answered by a server that may, with every byte right.
    pub answered: u64,
    /// Exchanges answered by the director, as they should be.
    pub by_director: BTreeMap<u16, u64>,
    /// Exchanges that the director said no server was there for, although one lived.
    pub excused: u64,
    /// Exchanges behind an answer with which the director ended the connection.
    pub cut_short: u64,
    /// Connections that were not meant to be answered and ended as they should.
    pub aborted: u64,
    /// Exchanges that were not answered as they should be.
    pub failed: u64,
    /// Bytes of responses, all right.
    pub bytes: u64,
    /// Answers by class and server.
    pub per_server: BTreeMap<(&'static str, String), u64>,
    /// Sum of the times from a request's first byte (the first one: from the opening) to its answer's last, ns.
    pub latency: Nanos,
    /// The first failures.
    pub failures: Vec<Failure>,
}

type Plan = Box<dyn FnMut(u64) -> Option<Script>>;

/// The client application.
pub struct ContentClient {
    plan: Option<Plan>,
    roster: Rc<Roster>,
    at_once: usize,
    patience: Nanos,
    active: Vec<Connection>,
    /// What it has seen.
    pub seen: Seen,
}

impl fmt::Debug for ContentClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentClient {{ active: {:?}, seen: {:?} }}", self.active, self.seen)
    }
}

impl ContentClient {
    /// A client that keeps `at_once` connections going. `plan` is asked for the script of each, by its number, until it
    /// has no more.
    pub fn new(roster: Rc<Roster>, at_once: usize, plan: impl FnMut(u64) -> Option<Script> + 'static) -> Self {
        let patience = 60 * SECOND;
        ContentClient { plan: Some(Box::new(plan)), roster, at_once, patience, active: vec![], seen: Seen::default() }
    }

    /// A client for these scripts, one after the other.
    pub fn list(roster: Rc<Roster>, at_once: usize, scripts: Vec<Script>) -> Self {
        let mut left = VecDeque::from(scripts);
        ContentClient::new(roster, at_once, move |_| left.pop_front())
    }

    /// The same client, giving up a connection on which nothing has happened for this long (60 s).
    #[must_use]
    pub fn patience(mut self, patience: Nanos) -> Self {
        self.patience = patience;
        self
    }

    /// Whether everything has been done.
    pub fn finished(&self) -> bool {
        self.plan.is_none() && self.active.is_empty()
    }

    /// Begins the next connection; `false` when there is none.
    fn begin(&mut self, stack: &mut Stack, now: Nanos) -> bool {
        if self.active.len() >= self.at_once {
            return false;
        }
        let Some(plan) = &mut self.plan else { return false };
        let number = self.seen.connections;
        let Some(script) = plan(number) else {
            self.plan = None;
            return false;
        };
        self.seen.connections += 1;
        let Some(socket) = stack.connect(script.target, now) else {
            self.seen.fail(number, None, &script, 0, now, "no ephemeral port was free".into());
            return true;
        };
        let pair = stack.pair(socket);
        self.active.push(Connection {
            number,
            socket,
            pair,
            output: vec![],
            sent: 0,
            begun: 0,
            waiting: VecDeque::new(),
            input: vec![],
            received: 0,
            answered: 0,
            opened: now,
            not_before: now,
            heard: now,
            ended: None,
            peer_closed: false,
            script,
        });
        true
    }
}

impl Seen {
    fn fail(&mut self, connection: u64, pair: Option<Pair>, script: &Script, answered: usize, at: Nanos, why: String) {
        self.failed += (script.exchanges.len() - answered).max(1) as u64;
        if self.failures.len() < KEPT {
            let exchange = script.exchanges.get(answered).map_or("behind the last".into(), ToString::to_string);
            self.failures.push(Failure { at, local: pair.map(|p| p.0), connection, exchange, why });
        }
    }
}

impl Application for ContentClient {
    fn poll(&mut self, stack: &mut Stack, now: Nanos) -> Option<Nanos> {
        let ContentClient { active, seen, patience, roster, .. } = self;
        active.retain_mut(|c| {
            let turned = c.turn(stack.tcp(c.socket), now, seen, roster);
            let why = match turned {
                Ok(true) if now < c.heard + *patience => return true,
                // Everything is done but the end of the connection, which its peer has not heard of.
                Ok(true) if matches!(c.ended, Some(End::Ours)) => None,
                Ok(true) => Some(format!("nothing happened for {} s in state {}", *patience / SECOND, {
                    stack.tcp(c.socket).state()
                })),
                Ok(false) => None,
                Err(why) => Some(why),
            };
            if let Some(why) = why {
                seen.fail(c.number, c.pair, &c.script, c.answered, now, why);
            }
            stack.release(c.socket, c.pair, now);
            false
        });
        while self.begin(stack, now) {}
        let patience = self.patience;
        self.active.iter().map(|c| if c.not_before > now { c.not_before } else { c.heard + patience }).min()
    }
}

/// Why nothing more is sent or expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client has closed, everything being answered.
    Ours,
    /// The other side is to close.
    Theirs,
}

#[derive(Debug)]
struct Connection {
    number: u64,
    socket: SocketHandle,
    pair: Option<Pair>,
    script: Script,
    /// Requests not yet given to TCP.
    output: Vec<u8>,
    /// Bytes given to TCP so far.
    sent: usize,
    /// Exchanges begun.
    begun: usize,
    waiting: VecDeque<Waiting>,
    input: Vec<u8>,
    received: usize,
    answered: usize,
    opened: Nanos,
    not_before: Nanos,
    heard: Nanos,
    ended: Option<End>,
    /// Whether the other side's FIN has come: an end without it is a reset.
    peer_closed: bool,
}

/// An exchange whose request is sent or being sent.
#[derive(Debug)]
struct Waiting {
    since: Nanos,
    exchange: Exchange,
    /// The response of the server that answers, once it has named itself.
    response: Option<(String, Vec<u8>)>,
}

impl Connection {
    /// Goes on as far as possible; `false` when the script is done and the connection has ended.
    fn turn(
        &mut self,
        socket: &mut tcp::Socket<'_>,
        now: Nanos,
        seen: &mut Seen,
        roster: &Roster,
    ) -> Result<bool, String> {
        loop {
            let sent = self.ended.is_none() && self.send(socket, now);
            let received = self.receive(socket, now, seen, roster)?;
            if !sent && !received {
                break;
            }
        }
        use tcp::State::{CloseWait, Closing, LastAck, TimeWait};
        self.peer_closed |= matches!(socket.state(), CloseWait | LastAck | Closing | TimeWait);
        if !self.script.completes() {
            return self.break_off(socket, seen);
        }
        let all = self.script.exchanges.len();
        if self.ended.is_none() && self.answered == all {
            let theirs = self.script.exchanges.last().is_some_and(Exchange::server_closes);
            self.ended = Some(if theirs { End::Theirs } else { End::Ours });
            if !theirs {
                socket.close();
            }
        }
        if self.ended.is_some() {
            if self.peer_closed {
                socket.close();
            }
            if socket.is_active() {
                return Ok(true);
            }
            return if self.peer_closed { Ok(false) } else { Err("reset instead of closed".into()) };
        }
        if self.script.ending == Ending::HalfClose && self.begun == all && self.output.is_empty() {
            socket.close();
        }
        if self.peer_closed || !socket.is_open() {
            let how = if self.peer_closed { "closed" } else { "reset" };
            return Err(format!("{how} with {} exchanges unanswered", all - self.answered));
        }
        Ok(true)
    }

    /// A connection that is not meant to be answered: ends it where the script says so, or waits for the end.
    fn break_off(&mut self, socket: &mut tcp::Socket<'_>, seen: &mut Seen) -> Result<bool, String> {
        let over = match self.script.ending {
            Ending::Reset { sent, received } => {
                let reached = self.sent >= sent && socket.send_queue() == 0 && self.received >= received;
                reached || self.answered == self.script.exchanges.len()
            }
            _ => false,
        };
        if over || self.peer_closed || !socket.is_open() {
            seen.aborted += 1;
            socket.abort();
            return Ok(false);
        }
        Ok(true)
    }

    /// Bytes that may be sent in all.
    fn limit(&self) -> usize {
        match self.script.ending {
            Ending::Reset { sent, received: 0 } => sent,
            Ending::Stall(sent) => sent,
            _ => usize::MAX,
        }
    }

    /// Sends what may be sent; whether there was anything.
    fn send(&mut self, socket: &mut tcp::Socket<'_>, now: Nanos) -> bool {
        let Script { exchanges, pipeline, piece, .. } = &self.script;
        while self.begun < exchanges.len() && self.waiting.len() < (*pipeline).max(1) && now >= self.not_before {
            let exchange = exchanges[self.begun];
            let since = if self.begun == 0 { self.opened } else { now };
            self.output.extend(exchange.request());
            self.waiting.push_back(Waiting { since, exchange, response: None });
            self.begun += 1;
        }
        let mut progress = false;
        while !self.output.is_empty() && socket.can_send() {
            // A bounded piece waits until TCP is rid of the one before, so that it gets a segment of its own.
            if *piece > 0 && socket.send_queue() > 0 {
                break;
            }
            let most = if *piece > 0 { *piece } else { usize::MAX };
            let n = self.output.len().min(most).min(self.limit().saturating_sub(self.sent));
            let n = socket.send_slice(&self.output[..n]).unwrap_or(0);
            if n == 0 {
                break;
            }
            self.output.drain(..n);
            self.sent += n;
            self.heard = now;
            progress = true;
        }
        progress
    }

    /// Takes in what has come; whether there was anything.
    fn receive(
        &mut self,
        socket: &mut tcp::Socket<'_>,
        now: Nanos,
        seen: &mut Seen,
        roster: &Roster,
    ) -> Result<bool, String> {
        let mut any = false;
        while socket.can_recv() {
            let input = &mut self.input;
            let taken = socket.recv(|bytes| {
                input.extend_from_slice(bytes);
                (bytes.len(), bytes.len())
            });
            self.received += taken.map_err(|e| e.to_string())?;
            any = true;
        }
        if any {
            self.heard = now;
            while self.understand(now, seen, roster)? {}
        }
        Ok(any)
    }

    /// Compares what has come with what must come; whether an answer was completed by it.
    fn understand(&mut self, now: Nanos, seen: &mut Seen, roster: &Roster) -> Result<bool, String> {
        let Some(waiting) = self.waiting.front_mut() else {
            if self.input.is_empty() {
                return Ok(false);
            }
            return Err(format!("{} bytes came that were not asked for: {:?}", self.input.len(), shown(&self.input)));
        };
        let Waiting { since, exchange, response } = waiting;
        if response.is_none() {
            let Some(end) = head_end(&self.input, 0) else {
                let endless = self.input.len() > MAX_HEAD;
                return if endless { Err(format!("no head: {:?}", shown(&self.input))) } else { Ok(false) };
            };
            let head = &self.input[..end];
            match field(head, SERVER_FIELD) {
                Some(server) => {
                    let Expectation::Servers(servers) = roster.of(exchange.class) else {
                        return Err(format!("answered by server {server}, not by the director"));
                    };
                    if !servers.iter().any(|s| s == server) {
                        return Err(format!("answered by server {server}, which is none of {servers:?}"));
                    }
                    *response = Some((server.to_owned(), exchange.response(server)));
                }
                None => return self.understand_director(end, seen, roster),
            }
        }
        let Some((server, expected)) = response else { return Ok(false) };
        let n = self.input.len().min(expected.len());
        // As a whole first: what has come is compared again whenever more comes.
        if self.input[..n] != expected[..n]
            && let Some(at) = (0..n).find(|&i| self.input[i] != expected[i])
        {
            let wrong = shown(&self.input[at..]);
            return Err(format!("wrong byte at {at} of the response of {server}: {wrong:?}"));
        }
        if n < expected.len() {
            return Ok(false);
        }
        seen.answered += 1;
        seen.bytes += n as u64;
        seen.latency += now - *since;
        *seen.per_server.entry((exchange.class.name(), std::mem::take(server))).or_default() += 1;
        self.input.drain(..n);
        self.next(now);
        Ok(true)
    }

    fn next(&mut self, now: Nanos) {
        self.waiting.pop_front();
        self.answered += 1;
        self.not_before = now + self.script.pause;
    }

    /// An answer that names no server is the director's: a status, a length, and so many bytes.
    fn understand_director(&mut self, end: usize, seen: &mut Seen, roster: &Roster) -> Result<bool, String> {
        let Some(Waiting { exchange, .. }) = self.waiting.front() else { return Ok(false) };
        let exchange = *exchange;
        let head = &self.input[..end];
        let bad = |what: &str| format!("{what} in an answer of the director: {:?}", shown(head));
        let status = head.strip_prefix(b"HTTP/1.1 ").and_then(|r| std::str::from_utf8(r.get(..3)?).ok()?.parse().ok());
        let status: u16 = status.ok_or_else(|| bad("no status"))?;
        let length = field(head, "Content-Length: ").and_then(|l| l.parse::<usize>().ok());
        let length = length.ok_or_else(|| bad("no length"))?;
        let length = if exchange.method == Method::Head { 0 } else { length };
        if self.input.len() < end + length {
            return Ok(false);
        }
        if status == 408 && matches!(self.script.ending, Ending::Stall(_)) {
            // What a client is told that does not go on; its connection is closed.
            self.input.drain(..end + length);
            self.waiting.clear();
            return Ok(false);
        }
        match roster.of(exchange.class) {
            Expectation::Director(wanted) if wanted == status => {
                if status == 302 && field(head, "Location: ") != Some(NEW_PLACE) {
                    return Err(bad("no right location"));
                }
                *seen.by_director.entry(status).or_default() += 1;
            }
            Expectation::Servers(_) if roster.excuses && status == 503 => seen.excused += 1,
            wanted => return Err(bad(&format!("{wanted:?} expected, not {status},"))),
        }
        let closes = field(head, "Connection: ") == Some("close");
        self.input.drain(..end + length);
        let now = self.heard;
        self.next(now);
        if closes || exchange.server_closes() {
            let left = self.script.exchanges.len() - self.answered;
            seen.cut_short += left as u64;
            self.script.exchanges.truncate(self.answered);
            self.waiting.clear();
            self.output.clear();
            self.ended = Some(End::Theirs);
        }
        Ok(true)
    }
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned()
}
