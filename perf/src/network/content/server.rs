//! The server: it takes exchanges of its own classes, byte for byte as their codes say, and nothing else.

use super::exchange::Class;
use super::reader::RequestReader;
use crate::network::SECOND;
use crate::network::host::Application;
use crate::network::random::Random;
use crate::network::stack::Stack;
use crate::network::time_wait::Pair;
use lcs_dataplane::worker::Nanos;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// A connection on which nothing happens for this long, and for longer than TCP itself waits, is reset.
const IDLE: Nanos = 60 * SECOND;
/// Problems kept; all are counted.
const KEPT: usize = 16;
/// Bytes of requests that wait while a response is sent.
const AHEAD: usize = 64 * 1024;

/// Something that a server must never have received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// When.
    pub at: Nanos,
    /// Which server.
    pub server: String,
    /// From where.
    pub peer: Option<SocketAddr>,
    /// What it was.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at as f64 / 1e9;
        write!(f, "at {at:.6} s, server {}", self.server)?;
        if let Some(peer) = self.peer {
            write!(f, ", from {peer}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// What a server has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Served {
    /// Connections accepted.
    pub connections: u64,
    /// Numbers of the exchanges whose requests came whole, in order.
    pub exchanges: Vec<u64>,
    /// Connections that ended within a request, or in the middle of a response.
    pub broken: u64,
    /// Connections that ended without a byte.
    pub empty: u64,
    /// What should not have come, at first.
    pub problems: Vec<Problem>,
    /// How many such there were.
    pub wrong: u64,
}

/// The server application.
#[derive(Debug)]
pub struct ContentServer {
    name: String,
    port: u16,
    classes: Vec<Class>,
    backlog: usize,
    thinks: Nanos,
    random: Random,
    connections: Vec<Connection>,
    /// What it has done.
    pub served: Served,
}

#[derive(Debug)]
struct Connection {
    socket: SocketHandle,
    pair: Option<Pair>,
    heard: Nanos,
    input: Vec<u8>,
    /// The request that comes in.
    reader: RequestReader,
    /// What goes out: the response, how much of it is sent, when it may begin.
    outgoing: Option<(Vec<u8>, usize, Nanos)>,
    any: bool,
    /// Nothing more is to be answered.
    over: bool,
    closes: bool,
}

impl ContentServer {
    /// A server that names itself `name`, listens on `port`, and may be sent these classes.
    pub fn new(name: &str, port: u16, classes: &[Class]) -> Self {
        ContentServer {
            name: name.to_owned(),
            port,
            classes: classes.to_vec(),
            backlog: 16,
            thinks: 0,
            random: Random::new(crate::network::http::body::salt(name)),
            connections: vec![],
            served: Served::default(),
        }
    }

    /// The same server with this many sockets waiting for clients; beyond that, a SYN is refused with a reset.
    #[must_use]
    pub fn backlog(mut self, sockets: usize) -> Self {
        self.backlog = sockets;
        self
    }

    /// The same server, taking up to this long before it answers, ns.
    #[must_use]
    pub fn thinks(mut self, time: Nanos) -> Self {
        self.thinks = time;
        self
    }

    /// Connections that are open now.
    pub fn active(&self) -> usize {
        self.connections.iter().filter(|c| c.pair.is_some()).count()
    }
}

impl Application for ContentServer {
    fn poll(&mut self, stack: &mut Stack, now: Nanos) -> Option<Nanos> {
        let ContentServer { name, classes, connections, served, random, thinks, .. } = self;
        let idle = IDLE.max(stack.settings().tcp.patience * 2);
        let mut next = None;
        let mut listening = 0;
        connections.retain_mut(|c| {
            let state = stack.tcp(c.socket).state();
            if c.pair.is_none() {
                if matches!(state, tcp::State::Listen | tcp::State::SynReceived) {
                    listening += usize::from(state == tcp::State::Listen);
                    return true;
                }
                c.pair = stack.pair(c.socket);
                c.heard = now;
                served.connections += 1;
            }
            // Who owes nobody an answer waits for the next request: a bad wire may take longer for it than for a sign of life.
            let owes = c.over || c.outgoing.is_some() || stack.tcp(c.socket).send_queue() > 0;
            let patience = owes.then(|| Duration::from_nanos(stack.settings().tcp.patience).into());
            stack.tcp(c.socket).set_timeout(patience);
            let mut turn = Turn { now, name, classes, served, random, thinks: *thinks };
            if !c.turn(stack.tcp(c.socket), &mut turn) || now >= c.heard + idle {
                let whole = c.input.is_empty() && !c.reader.within() && c.outgoing.is_none();
                served.broken += u64::from(!whole);
                served.empty += u64::from(!c.any);
                stack.release(c.socket, c.pair, now);
                return false;
            }
            let begins = c.outgoing.as_ref().map(|o| o.2).filter(|&t| t > now);
            next = next.into_iter().chain([begins.unwrap_or(c.heard + idle)]).min();
            true
        });
        for _ in listening..self.backlog {
            let socket = stack.listen(self.port);
            self.connections.push(Connection {
                socket,
                pair: None,
                heard: now,
                input: vec![],
                reader: RequestReader::default(),
                outgoing: None,
                any: false,
                over: false,
                closes: false,
            });
        }
        next
    }
}

/// What a connection needs to know of its server for one turn.
struct Turn<'a> {
    now: Nanos,
    name: &'a str,
    classes: &'a [Class],
    served: &'a mut Served,
    random: &'a mut Random,
    thinks: Nanos,
}

impl Connection {
    /// Goes on as far as possible; `false` when the connection has ended.
    fn turn(&mut self, socket: &mut tcp::Socket<'_>, t: &mut Turn<'_>) -> bool {
        loop {
            let received = self.receive(socket);
            if received {
                (self.heard, self.any) = (t.now, true);
            }
            let progress = if self.outgoing.is_some() { self.send(socket, t.now) } else { self.understand(t) };
            if let Err(what) = progress {
                t.served.wrong += 1;
                if t.served.problems.len() < KEPT {
                    let peer = self.pair.map(|p| p.1);
                    t.served.problems.push(Problem { at: t.now, server: t.name.to_owned(), peer, what });
                }
                self.input.clear();
                (self.reader, self.outgoing) = (RequestReader::default(), None);
                socket.abort();
                return true;
            }
            if !received && progress == Ok(false) {
                break;
            }
        }
        if self.outgoing.is_none() && (self.over || !socket.may_recv() && !socket.can_recv()) {
            self.over = true;
            socket.close();
        }
        socket.is_active()
    }

    /// Takes in what has come, within bounds; whether there was anything.
    fn receive(&mut self, socket: &mut tcp::Socket<'_>) -> bool {
        let before = self.input.len();
        while self.input.len() < AHEAD && socket.can_recv() {
            let input = &mut self.input;
            let taken = socket.recv(|bytes| {
                input.extend_from_slice(bytes);
                (bytes.len(), bytes.len())
            });
            if taken.unwrap_or(0) == 0 {
                break;
            }
        }
        self.input.len() > before
    }

    /// Compares what has come with what must come; whether it got further.
    fn understand(&mut self, t: &mut Turn<'_>) -> Result<bool, String> {
        if self.input.is_empty() {
            return Ok(false);
        }
        if self.closes {
            return Err(format!("{} bytes behind the last request", self.input.len()));
        }
        let before = self.input.len();
        let Some(exchange) = self.reader.take(&mut self.input, t.classes)? else {
            return Ok(self.input.len() < before);
        };
        t.served.exchanges.push(exchange.number);
        self.closes = exchange.server_closes();
        let begins = if t.thinks > 0 { t.now + t.random.below(t.thinks) } else { t.now };
        self.outgoing = Some((exchange.response(t.name), 0, begins));
        Ok(true)
    }

    /// Sends what may be sent; whether it got further.
    fn send(&mut self, socket: &mut tcp::Socket<'_>, now: Nanos) -> Result<bool, String> {
        let Some((bytes, sent, begins)) = &mut self.outgoing else { return Ok(false) };
        let mut progress = false;
        while *begins <= now && *sent < bytes.len() && socket.can_send() {
            let n = socket.send_slice(&bytes[*sent..]).unwrap_or(0);
            if n == 0 {
                break;
            }
            *sent += n;
            self.heard = now;
            progress = true;
        }
        if *sent == bytes.len() {
            self.outgoing = None;
            self.over |= self.closes;
            progress = true;
        }
        Ok(progress)
    }
}
