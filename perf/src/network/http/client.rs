//! The HTTP/1.1 client: carries out scripts, a connection each, and checks every byte of every answer.

use super::body;
use super::message::{MAX_HEAD, ResponseHead, head_end};
use crate::network::SECOND;
use crate::network::host::Application;
use crate::network::stack::Stack;
use crate::network::time_wait::Pair;
use lcs_dataplane::worker::Nanos;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;

/// Failures that are kept with their details; all are counted.
const KEPT: usize = 64;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `HEAD`, `POST` or `PUT`.
    pub method: &'static str,
    /// Path and query; see [`body::size`] for what the server answers.
    pub path: String,
    /// Header fields beside `Host`, `Content-Length` and `Connection`.
    pub fields: Vec<(String, String)>,
    /// Bytes of request body.
    pub body: u64,
}

impl Request {
    /// A GET.
    pub fn get(path: &str) -> Self {
        Request { method: "GET", path: path.to_owned(), fields: vec![], body: 0 }
    }

    /// A POST with this many bytes of body.
    pub fn post(path: &str, body: u64) -> Self {
        Request { method: "POST", body, ..Request::get(path) }
    }

    fn head(&self, host: SocketAddr, close: bool) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\nHost: {host}\r\n", self.method, self.path);
        for (name, value) in &self.fields {
            text.extend([name, ": ", value, "\r\n"]);
        }
        if self.body > 0 {
            text.push_str(&format!("Content-Length: {}\r\n", self.body));
        }
        text.push_str(if close { "Connection: close\r\n\r\n" } else { "\r\n" });
        text.into_bytes()
    }
}

/// Who closes a connection after its last answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Closing {
    /// The client.
    #[default]
    Client,
    /// The server, asked by `Connection: close` in the last request.
    Server,
    /// The client, with a reset.
    Reset,
}

/// What to do on one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Where to connect to.
    pub target: SocketAddr,
    /// The requests, in order.
    pub requests: Vec<Request>,
    /// Requests that may be unanswered at once, at least 1.
    pub pipeline: usize,
    /// Who closes.
    pub closing: Closing,
    /// Time between an answer and the next request, ns.
    pub pause: Nanos,
    /// Most bytes that are given to TCP at a time; 0 for no bound. With Nagle off, 1 sends a request a byte a segment.
    pub piece: usize,
}

impl Script {
    /// Requests one after the other on one connection, closed by the client.
    pub fn new(target: SocketAddr, requests: Vec<Request>) -> Self {
        Script { target, requests, pipeline: 1, closing: Closing::Client, pause: 0, piece: 0 }
    }
}

/// A request that was answered as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// When its last byte had come.
    pub at: Nanos,
    /// From the first byte of the request (for the first one, from the opening of the connection) to the last of the answer, ns.
    pub latency: Nanos,
    /// Status code.
    pub status: u16,
    /// Which server answered.
    pub server: String,
    /// Path that was asked for.
    pub path: String,
    /// Our endpoint.
    pub local: SocketAddr,
}

/// Why a connection or a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// No ephemeral port was free.
    NoPort,
    /// The connection was refused or reset, or given up by TCP.
    Closed {
        /// Requests that were not fully answered.
        unanswered: usize,
    },
    /// No answer within the client's patience.
    TimedOut,
    /// The response head is not what our server writes for what was asked.
    BadHead(String),
    /// A byte of the body is wrong, at this offset.
    BadBody(u64),
    /// The server got another request than the one that was sent.
    RequestChanged,
    /// Bytes came that were not asked for.
    Unasked(usize),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NoPort => f.write_str("no ephemeral port was free"),
            Why::Closed { unanswered } => write!(f, "the connection ended with {unanswered} requests unanswered"),
            Why::TimedOut => f.write_str("no answer in time"),
            Why::BadHead(head) => write!(f, "wrong response head {head:?}"),
            Why::BadBody(at) => write!(f, "wrong byte at offset {at} of the body"),
            Why::RequestChanged => f.write_str("the server received another request than was sent"),
            Why::Unasked(n) => write!(f, "{n} bytes came that were not asked for"),
        }
    }
}

/// A connection that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// When.
    pub at: Nanos,
    /// Our endpoint, where there was one.
    pub local: Option<SocketAddr>,
    /// Number of the connection, from 0.
    pub connection: u64,
    /// Number of the request on it, from 0.
    pub request: usize,
    /// What was wrong.
    pub why: Why,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at as f64 / 1e9;
        write!(f, "at {at:.6} s, connection {}, request {}", self.connection, self.request)?;
        if let Some(local) = self.local {
            write!(f, ", from {local}")?;
        }
        write!(f, ": {}", self.why)
    }
}

/// What a client has seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Connections begun.
    pub connections: u64,
    /// Connections that carried out their script.
    pub completed: u64,
    /// Requests that were answered as they should be.
    pub answered: u64,
    /// Requests that were not: those of the script of a failed connection that were left.
    pub failed: u64,
    /// Bytes of response bodies, all right.
    pub bytes: u64,
    /// Sum of the latencies, ns.
    pub latency: Nanos,
    /// Largest latency, ns.
    pub latency_max: Nanos,
    /// Answers by server.
    pub per_server: BTreeMap<String, u64>,
    /// Connections by the server that answered their first request.
    pub connections_per_server: BTreeMap<String, u64>,
    /// The first failures.
    pub failures: Vec<Failure>,
    /// Every answer, if the client was told to keep them.
    pub answers: Vec<Answer>,
}

type Plan = Box<dyn FnMut(u64) -> Option<Script>>;

/// The client application.
pub struct HttpClient {
    plan: Option<Plan>,
    at_once: usize,
    patience: Nanos,
    interval: Nanos,
    keep_answers: bool,
    next_start: Nanos,
    active: Vec<Connection>,
    /// What it has seen.
    pub seen: Seen,
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpClient {{ active: {}, seen: {:?} }}", self.active.len(), self.seen)
    }
}

impl HttpClient {
    /// A client that keeps `at_once` connections going. `plan` is asked for the script of each, by its number, until it has no more.
    pub fn new(at_once: usize, plan: impl FnMut(u64) -> Option<Script> + 'static) -> Self {
        HttpClient {
            plan: Some(Box::new(plan)),
            at_once,
            patience: 60 * SECOND,
            interval: 0,
            keep_answers: false,
            next_start: 0,
            active: vec![],
            seen: Seen::default(),
        }
    }

    /// A client for these scripts, one after the other.
    pub fn list(at_once: usize, scripts: Vec<Script>) -> Self {
        let mut left = VecDeque::from(scripts);
        HttpClient::new(at_once, move |_| left.pop_front())
    }

    /// The same client, giving up a request after this time (60 s).
    #[must_use]
    pub fn patience(mut self, patience: Nanos) -> Self {
        self.patience = patience;
        self
    }

    /// The same client, with this time between the beginnings of two connections, at least.
    #[must_use]
    pub fn interval(mut self, interval: Nanos) -> Self {
        self.interval = interval;
        self
    }

    /// The same client, keeping every [`Answer`].
    #[must_use]
    pub fn keep_answers(mut self) -> Self {
        self.keep_answers = true;
        self
    }

    /// Begins no more connections.
    pub fn stop(&mut self) {
        self.plan = None;
    }

    /// Whether everything has been done.
    pub fn finished(&self) -> bool {
        self.plan.is_none() && self.active.is_empty()
    }

    /// Connections that are open now.
    pub fn active(&self) -> usize {
        self.active.len()
    }

    /// Begins the next connection; `false` when it is not time, or there is none.
    fn begin(&mut self, stack: &mut Stack, now: Nanos) -> bool {
        if self.active.len() >= self.at_once || now < self.next_start {
            return false;
        }
        let Some(plan) = &mut self.plan else { return false };
        let number = self.seen.connections;
        let Some(script) = plan(number) else {
            self.plan = None;
            return false;
        };
        self.seen.connections += 1;
        self.next_start = now + self.interval;
        match stack.connect(script.target, now) {
            Some(socket) => {
                let pair = stack.pair(socket);
                self.active.push(Connection {
                    number,
                    socket,
                    pair,
                    script,
                    sending: None,
                    sent: 0,
                    not_before: now,
                    waiting: VecDeque::new(),
                    input: vec![],
                    answered: 0,
                    opened: now,
                    heard: now,
                    over: false,
                });
            }
            None => self.seen.fail(number, None, 0, script.requests.len(), now, Why::NoPort),
        }
        true
    }
}

impl Seen {
    fn fail(&mut self, connection: u64, pair: Option<Pair>, request: usize, left: usize, at: Nanos, why: Why) {
        self.failed += left as u64;
        if self.failures.len() < KEPT {
            self.failures.push(Failure { at, local: pair.map(|p| p.0), connection, request, why });
        }
    }
}

impl Application for HttpClient {
    fn poll(&mut self, stack: &mut Stack, now: Nanos) -> Option<Nanos> {
        let HttpClient { active, seen, patience, keep_answers, .. } = self;
        active.retain_mut(|c| {
            let why = match c.turn(stack, now, seen, *keep_answers) {
                Ok(true) if now < c.heard + *patience => return true,
                // The script is done, but the connection would not end: its peer is gone.
                Ok(true) if c.over => None,
                Ok(true) => Some(Why::TimedOut),
                Ok(false) => None,
                Err(why) => Some(why),
            };
            match why {
                None => seen.completed += 1,
                Some(why) => {
                    let left = c.script.requests.len() - c.answered;
                    seen.fail(c.number, c.pair, c.answered, left, now, why);
                }
            }
            stack.release(c.socket, c.pair, now);
            false
        });
        while self.begin(stack, now) {}
        let patience = self.patience;
        let deadlines = self.active.iter().map(|c| if c.not_before > now { c.not_before } else { c.heard + patience });
        let start = (self.plan.is_some() && self.active.len() < self.at_once).then_some(self.next_start);
        deadlines.chain(start).min()
    }
}

#[derive(Debug)]
struct Connection {
    number: u64,
    socket: SocketHandle,
    pair: Option<Pair>,
    script: Script,
    /// The head of the request that is being sent, and how much of head and body is.
    sending: Option<(Vec<u8>, u64)>,
    /// Requests sent, or being sent.
    sent: usize,
    /// The next request is not sent before.
    not_before: Nanos,
    /// Requests sent and not answered: when, the hash of their head, and how far their answer has come.
    waiting: VecDeque<Expected>,
    input: Vec<u8>,
    answered: usize,
    opened: Nanos,
    heard: Nanos,
    /// Everything is answered; waits for the connection to end.
    over: bool,
}

#[derive(Debug)]
struct Expected {
    since: Nanos,
    hash: u64,
    head: Option<ResponseHead>,
    body: u64,
    seen: usize,
}

impl Connection {
    /// Goes on as far as possible; `false` when the script is done and the connection has ended.
    fn turn(&mut self, stack: &mut Stack, now: Nanos, seen: &mut Seen, keep: bool) -> Result<bool, Why> {
        let socket = stack.tcp(self.socket);
        loop {
            let sent = !self.over && self.send(socket, now);
            let received = self.receive(socket, now, seen, keep)?;
            if !sent && !received {
                break;
            }
        }
        if self.answered == self.script.requests.len() && !self.over {
            self.over = true;
            match self.script.closing {
                Closing::Client => socket.close(),
                Closing::Server => {}
                Closing::Reset => socket.abort(),
            }
        }
        if self.over {
            if !socket.may_recv() {
                socket.close();
            }
            return Ok(socket.is_active());
        }
        if !socket.is_open() || (!socket.may_recv() && socket.state() != tcp::State::SynSent) {
            return Err(Why::Closed { unanswered: self.script.requests.len() - self.answered });
        }
        Ok(true)
    }

    /// Sends what may be sent; whether there was anything.
    fn send(&mut self, socket: &mut tcp::Socket<'_>, now: Nanos) -> bool {
        let mut progress = false;
        while socket.can_send() {
            let Some((head, done)) = &mut self.sending else {
                let more = self.sent < self.script.requests.len() && self.waiting.len() < self.script.pipeline.max(1);
                if !more || now < self.not_before {
                    break;
                }
                let last = self.sent + 1 == self.script.requests.len();
                let close = last && self.script.closing == Closing::Server;
                let head = self.script.requests[self.sent].head(self.script.target, close);
                let since = if self.sent == 0 { self.opened } else { now };
                let hash = body::hash(&head);
                self.waiting.push_back(Expected { since, hash, head: None, body: 0, seen: 0 });
                self.sending = Some((head, 0));
                self.sent += 1;
                continue;
            };
            let request = &self.script.requests[self.sent - 1];
            let piece = if self.script.piece == 0 { usize::MAX } else { self.script.piece };
            // A bounded piece waits until TCP has sent the one before, so that it gets a segment of its own.
            if piece < usize::MAX && socket.send_queue() > 0 {
                break;
            }
            let total = head.len() as u64 + request.body;
            let n = if *done < head.len() as u64 {
                let rest = &head[*done as usize..];
                socket.send_slice(&rest[..rest.len().min(piece)]).unwrap_or(0)
            } else {
                let offset = *done - head.len() as u64;
                let salt = !body::salt(&request.path);
                let filled = socket.send(|room| {
                    let n = (room.len().min(piece) as u64).min(request.body - offset) as usize;
                    body::fill(salt, offset, &mut room[..n]);
                    (n, n)
                });
                filled.unwrap_or(0)
            };
            *done += n as u64;
            if *done == total {
                self.sending = None;
            }
            if n == 0 {
                break;
            }
            self.heard = now;
            progress = true;
        }
        progress
    }

    /// Takes in what has come; whether there was anything.
    fn receive(&mut self, socket: &mut tcp::Socket<'_>, now: Nanos, seen: &mut Seen, keep: bool) -> Result<bool, Why> {
        let mut any = false;
        while socket.can_recv() {
            let result = socket.recv(|bytes| (bytes.len(), self.accept(bytes, now, seen, keep)));
            result.map_err(|_| Why::Closed { unanswered: self.script.requests.len() - self.answered })??;
            any = true;
        }
        if any {
            self.heard = now;
        }
        Ok(any)
    }

    /// Checks bytes that have come.
    fn accept(&mut self, mut bytes: &[u8], now: Nanos, seen: &mut Seen, keep: bool) -> Result<(), Why> {
        loop {
            let Some(expected) = self.waiting.front_mut() else {
                return if bytes.is_empty() { Ok(()) } else { Err(Why::Unasked(bytes.len())) };
            };
            let request = &self.script.requests[self.answered];
            let head = match &expected.head {
                Some(head) => head,
                None => {
                    let before = self.input.len();
                    self.input.extend_from_slice(bytes);
                    let Some(end) = head_end(&self.input, expected.seen) else {
                        expected.seen = self.input.len();
                        return if self.input.len() > MAX_HEAD { Err(bad_head(&self.input)) } else { Ok(()) };
                    };
                    bytes = &bytes[end - before..];
                    self.input.truncate(end);
                    let head = ResponseHead::parse(&self.input).ok_or_else(|| bad_head(&self.input))?;
                    check(&head, request, expected.hash, &self.input)?;
                    self.input.clear();
                    expected.head.insert(head)
                }
            };
            let length = if request.method == "HEAD" { 0 } else { head.length };
            let n = (bytes.len() as u64).min(length - expected.body) as usize;
            body::check(body::salt(&request.path), expected.body, &bytes[..n]).map_err(Why::BadBody)?;
            expected.body += n as u64;
            bytes = &bytes[n..];
            if expected.body < length {
                return Ok(());
            }
            let latency = now - expected.since;
            seen.answered += 1;
            seen.bytes += length;
            seen.latency += latency;
            seen.latency_max = seen.latency_max.max(latency);
            count(&mut seen.per_server, &head.server);
            if self.answered == 0 {
                count(&mut seen.connections_per_server, &head.server);
            }
            if let Some((local, _)) = self.pair.filter(|_| keep) {
                let (status, server, path) = (head.status, head.server.clone(), request.path.clone());
                seen.answers.push(Answer { at: now, latency, status, server, path, local });
            }
            self.waiting.pop_front();
            self.answered += 1;
            self.not_before = now + self.script.pause;
        }
    }
}

/// Whether a response head is the right one for a request.
fn check(head: &ResponseHead, request: &Request, hash: u64, bytes: &[u8]) -> Result<(), Why> {
    let size = body::size(&request.path);
    if (head.status, head.length) != (if size.is_some() { 200 } else { 404 }, size.unwrap_or(0)) {
        return Err(bad_head(bytes));
    }
    if head.request_hash != hash || head.request_body != (request.body, true) {
        return Err(Why::RequestChanged);
    }
    Ok(())
}

fn bad_head(bytes: &[u8]) -> Why {
    let shown = &bytes[..bytes.len().min(300)];
    Why::BadHead(String::from_utf8_lossy(shown).into_owned())
}

fn count(counts: &mut BTreeMap<String, u64>, name: &str) {
    match counts.get_mut(name) {
        Some(n) => *n += 1,
        None => {
            counts.insert(name.to_owned(), 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_was_changed_on_the_way_is_noticed() {
        let request = Request::post("/lcs1/7", 3);
        let hash = body::hash(b"as sent");
        let head = |request_hash, request_body, length| ResponseHead {
            status: 200,
            server: "s".into(),
            request_hash,
            request_body,
            length,
            close: false,
        };
        assert_eq!(check(&head(hash, (3, true), 7), &request, hash, b""), Ok(()));
        assert_eq!(check(&head(hash, (3, false), 7), &request, hash, b""), Err(Why::RequestChanged));
        assert_eq!(check(&head(hash ^ 1, (3, true), 7), &request, hash, b""), Err(Why::RequestChanged));
        assert!(matches!(check(&head(hash, (3, true), 8), &request, hash, b"x"), Err(Why::BadHead(_))));
    }
}
