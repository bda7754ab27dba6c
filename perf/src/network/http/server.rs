//! The HTTP/1.1 server: a path says how many bytes it wants and gets that many of its pattern.

use super::body;
use super::message::{MAX_FIELDS, MAX_HEAD, ResponseHead, head_end};
use crate::network::SECOND;
use crate::network::host::Application;
use crate::network::stack::Stack;
use crate::network::time_wait::Pair;
use lcs_dataplane::worker::Nanos;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;

/// A connection on which nothing happens for this long is reset.
const IDLE: Nanos = 60 * SECOND;

/// What a server has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Served {
    /// Connections accepted.
    pub connections: u64,
    /// Requests answered.
    pub requests: u64,
    /// Requests answered with an error.
    pub errors: u64,
    /// Bytes of response bodies.
    pub bytes: u64,
    /// Connections that ended in a reset or were given up.
    pub broken: u64,
}

/// The server application.
#[derive(Debug)]
pub struct HttpServer {
    name: String,
    port: u16,
    backlog: usize,
    /// Answers to give on one connection before it is closed; 0 for no bound.
    limit: u32,
    open: bool,
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
    answered: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Waits for a client, or for (the rest of) a head. The number is how much of the input has been looked at.
    Head(usize),
    /// Takes in a request body.
    Body { head: ResponseHead, salt: u64, left: u64, reply: Reply },
    /// Sends a response: its head, then its body.
    Send { head: Vec<u8>, sent: usize, reply: Reply, offset: u64, close: bool },
    /// Everything is sent; waits for the connection to end.
    Over,
}

/// The response's body.
#[derive(Debug, Clone, Copy)]
struct Reply {
    salt: u64,
    length: u64,
}

impl HttpServer {
    /// A server that names itself `name` and listens on `port`.
    pub fn new(name: &str, port: u16) -> Self {
        HttpServer {
            name: name.to_owned(),
            port,
            backlog: 8,
            limit: 0,
            open: true,
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

    /// The same server, closing each connection after this many answers.
    #[must_use]
    pub fn requests_per_connection(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }

    /// Accepts no more connections (`false`), or accepts again. Those that are open go on.
    pub fn set_open(&mut self, open: bool) {
        self.open = open;
    }

    /// Connections that are open now.
    pub fn active(&self) -> usize {
        self.connections.iter().filter(|c| c.pair.is_some()).count()
    }
}

impl Application for HttpServer {
    fn poll(&mut self, stack: &mut Stack, now: Nanos) -> Option<Nanos> {
        let HttpServer { name, connections, served, limit, .. } = self;
        let mut idle_until = None;
        let mut listening = 0;
        connections.retain_mut(|c| {
            let state = stack.tcp(c.socket).state();
            if c.pair.is_none() {
                if matches!(state, tcp::State::Listen | tcp::State::SynReceived) {
                    if self.open || state == tcp::State::SynReceived {
                        listening += usize::from(state == tcp::State::Listen);
                        return true;
                    }
                    stack.tcp(c.socket).close();
                    stack.release(c.socket, None, now);
                    return false;
                }
                c.pair = stack.pair(c.socket);
                c.heard = now;
                served.connections += 1;
            }
            if !c.turn(stack, now, name, *limit, served) || now >= c.heard + IDLE {
                let over = matches!(c.state, State::Over | State::Head(_)) && c.input.is_empty();
                let clean = !stack.tcp(c.socket).is_active();
                served.broken += u64::from(!(over && clean));
                stack.release(c.socket, c.pair, now);
                return false;
            }
            idle_until = idle_until.into_iter().chain([c.heard + IDLE]).min();
            true
        });
        for _ in listening..if self.open { self.backlog } else { 0 } {
            let socket = stack.listen(self.port);
            self.connections.push(Connection {
                socket,
                pair: None,
                heard: now,
                input: vec![],
                answered: 0,
                state: State::Head(0),
            });
        }
        idle_until
    }
}

impl Connection {
    /// Goes on as far as possible; `false` when the connection has ended.
    fn turn(&mut self, stack: &mut Stack, now: Nanos, name: &str, limit: u32, served: &mut Served) -> bool {
        let socket = stack.tcp(self.socket);
        loop {
            let received = self.receive(socket);
            if received {
                self.heard = now;
            }
            let progress = match std::mem::replace(&mut self.state, State::Over) {
                State::Head(seen) => self.head(seen, name, limit, served),
                State::Body { mut head, salt, left, reply } => {
                    let n = (self.input.len() as u64).min(left) as usize;
                    let at = head.request_body.0;
                    head.request_body.1 &= body::check(salt, at, &self.input[..n]).is_ok();
                    head.request_body.0 += n as u64;
                    self.input.drain(..n);
                    let left = left - n as u64;
                    if left == 0 {
                        self.reply(head, reply, limit, served);
                        true
                    } else {
                        self.state = State::Body { head, salt, left, reply };
                        n > 0
                    }
                }
                State::Send { head, sent, reply, offset, close } => {
                    self.send(socket, now, head, sent, reply, offset, close, served)
                }
                State::Over => false,
            };
            if !received && !progress {
                break;
            }
        }
        if matches!(self.state, State::Over) || !socket.may_recv() && !matches!(self.state, State::Send { .. }) {
            socket.close();
        }
        socket.is_active()
    }

    /// Takes in bytes, up to a full head beyond what is being worked on; whether there were any.
    fn receive(&mut self, socket: &mut tcp::Socket<'_>) -> bool {
        let before = self.input.len();
        while self.input.len() < MAX_HEAD && socket.can_recv() {
            let room = MAX_HEAD - self.input.len();
            let input = &mut self.input;
            let taken = socket.recv(|bytes| {
                let n = bytes.len().min(room);
                input.extend_from_slice(&bytes[..n]);
                (n, n)
            });
            if taken.unwrap_or(0) == 0 {
                break;
            }
        }
        self.input.len() > before
    }

    /// Looks for a whole head; whether there was one.
    fn head(&mut self, seen: usize, name: &str, limit: u32, served: &mut Served) -> bool {
        let Some(end) = head_end(&self.input, seen) else {
            if self.input.len() < MAX_HEAD {
                self.state = State::Head(self.input.len());
                return false;
            }
            let refusal = refuse(431, name, &self.input);
            self.input.clear();
            self.reply(refusal, Reply { salt: 0, length: 0 }, limit, served);
            return true;
        };
        let (head, salt, left, reply) = understand(&self.input[..end], name);
        self.input.drain(..end);
        if left == 0 {
            self.reply(head, reply, limit, served);
        } else {
            self.state = State::Body { head, salt, left, reply };
        }
        true
    }

    /// Begins to answer.
    fn reply(&mut self, mut head: ResponseHead, reply: Reply, limit: u32, served: &mut Served) {
        self.answered += 1;
        head.close |= limit > 0 && self.answered >= limit;
        served.requests += 1;
        served.errors += u64::from(head.status != 200);
        let close = head.close;
        self.state = State::Send { head: head.bytes(), sent: 0, reply, offset: 0, close };
    }

    #[allow(clippy::too_many_arguments)]
    fn send(
        &mut self,
        socket: &mut tcp::Socket<'_>,
        now: Nanos,
        head: Vec<u8>,
        mut sent: usize,
        reply: Reply,
        mut offset: u64,
        close: bool,
        served: &mut Served,
    ) -> bool {
        let mut progress = false;
        while socket.can_send() && (sent < head.len() || offset < reply.length) {
            let n = if sent < head.len() {
                let n = socket.send_slice(&head[sent..]).unwrap_or(0);
                sent += n;
                n
            } else {
                let filled = socket.send(|room| {
                    let n = (room.len() as u64).min(reply.length - offset) as usize;
                    body::fill(reply.salt, offset, &mut room[..n]);
                    (n, n)
                });
                let n = filled.unwrap_or(0);
                offset += n as u64;
                served.bytes += n as u64;
                n
            };
            if n == 0 {
                break;
            }
            progress = true;
            self.heard = now;
        }
        if sent == head.len() && offset == reply.length {
            self.state = if close { State::Over } else { State::Head(0) };
            return true;
        }
        self.state = State::Send { head, sent, reply, offset, close };
        progress
    }
}

fn refuse(status: u16, name: &str, head: &[u8]) -> ResponseHead {
    ResponseHead {
        status,
        server: name.to_owned(),
        request_hash: body::hash(head),
        request_body: (0, true),
        length: 0,
        close: true,
    }
}

/// Reads a request head: the response head as far as it is known, the request body's salt and length, and the response body.
fn understand(bytes: &[u8], name: &str) -> (ResponseHead, u64, u64, Reply) {
    let none = Reply { salt: 0, length: 0 };
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let complete = request.parse(bytes).is_ok_and(|s| s.is_complete());
    let (Some(method), Some(target), Some(version), true) = (request.method, request.path, request.version, complete)
    else {
        return (refuse(400, name, bytes), 0, 0, none);
    };
    let field = |name: &str| {
        let found = request.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    if field("Transfer-Encoding").is_some() {
        return (refuse(411, name, bytes), 0, 0, none);
    }
    let Ok(length) = field("Content-Length").map_or(Ok(0), str::parse::<u64>) else {
        return (refuse(400, name, bytes), 0, 0, none);
    };
    let wanted = match field("Connection") {
        Some(c) if c.eq_ignore_ascii_case("close") => true,
        Some(c) if c.eq_ignore_ascii_case("keep-alive") => false,
        _ => version == 0,
    };
    let (status, size) = match (method, body::size(target)) {
        ("GET" | "HEAD" | "POST" | "PUT", Some(size)) => (200, size),
        ("GET" | "HEAD" | "POST" | "PUT", None) => (404, 0),
        _ => (405, 0),
    };
    let head = ResponseHead { status, length: size, close: wanted, ..refuse(status, name, bytes) };
    let sent = if method == "HEAD" { 0 } else { size };
    let salt = body::salt(target);
    (head, !salt, length, Reply { salt, length: sent })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_requests_as_they_are_meant() {
        let of = |text: &str| understand(text.as_bytes(), "s");
        let (head, _, left, reply) = of("GET /a/10 HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!((head.status, head.close, head.length, left, reply.length), (200, false, 10, 0, 10));
        let (head, _, _, reply) = of("HEAD /a/10 HTTP/1.1\r\nConnection: close\r\n\r\n");
        assert_eq!((head.status, head.close, head.length, reply.length), (200, true, 10, 0));
        let (head, salt, left, _) = of("POST /0 HTTP/1.0\r\nContent-Length: 7\r\n\r\n");
        assert_eq!((head.status, head.close, left, salt), (200, true, 7, !body::salt("/0")));
        assert_eq!(of("GET /index.html HTTP/1.1\r\n\r\n").0.status, 404);
        assert_eq!(of("BREW /1 HTTP/1.1\r\n\r\n").0.status, 405);
        assert_eq!(of("POST /1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").0.status, 411);
        assert_eq!(of("POST /1 HTTP/1.1\r\nContent-Length: -1\r\n\r\n").0.status, 400);
        assert_eq!(of("nonsense\r\n\r\n").0.status, 400);
    }
}
