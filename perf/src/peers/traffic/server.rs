//! A real server: answers every request with its name, and compares every byte of the request with what was sent.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use lcs_hwconf::cores;
use lcs_hwconf::testbed::Host;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};

use super::CHUNK;
use super::message::Head;
use crate::demo::root::Error;
use crate::peers::workload::Traffic;

const WAKE: Token = Token(usize::MAX);
/// How long a turn waits where nothing comes.
const TURN: Duration = Duration::from_millis(100);

/// A running server; it ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server on `host` that listens on `addresses` and runs on `core`.
    ///
    /// # Errors
    /// When it can't listen.
    pub fn start(host: &Host, addresses: &[SocketAddr], core: usize, traffic: Arc<Traffic>) -> Result<Self, Error> {
        let name = host.name().to_owned();
        let listen = || -> io::Result<(Poll, Vec<TcpListener>)> {
            let poll = Poll::new()?;
            let mut listeners = Vec::new();
            for (at, address) in addresses.iter().enumerate() {
                let mut listener = TcpListener::bind(*address)?;
                poll.registry().register(&mut listener, Token(at), Interest::READABLE)?;
                listeners.push(listener);
            }
            Ok((poll, listeners))
        };
        let failed = |source| Error::Server { name: name.clone(), address: addresses[0], source };
        let (poll, listeners) = host.run(listen)?.map_err(failed)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE).map_err(failed)?);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let answers = Answers::new(&name, &traffic);
        let thread = host.spawn("server", move || {
            // Without a core of its own it's slower, not wrong.
            let _ = cores::pin(core);
            serve(poll, &listeners, &traffic, &answers, &stopped);
        })?;
        Ok(Server { stop, waker, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.waker.wake();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What a server sends, written once.
#[derive(Debug)]
struct Answers {
    name: String,
    /// For each request, without and with the word that the connection is closed behind it.
    good: Vec<[Vec<u8>; 2]>,
}

impl Answers {
    fn new(name: &str, traffic: &Traffic) -> Self {
        let answer = |at: usize, close: &str| {
            let head = format!(
                "HTTP/1.1 200 OK\r\nX-Server: {name}\r\nX-Request: {at}\r\nContent-Type: text/plain\r\n{close}\
                 Content-Length: {}\r\n\r\n",
                traffic.response.len()
            );
            [head.as_bytes(), &traffic.response].concat()
        };
        let good = (0..traffic.requests.len()).map(|at| ["", "Connection: close\r\n"].map(|close| answer(at, close)));
        Answers { name: name.into(), good: good.collect() }
    }

    fn bad(&self, what: &str) -> Vec<u8> {
        let what = format!("{}: {what}", self.name);
        let length = what.len();
        format!("HTTP/1.1 500 Not what was sent\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{what}")
            .into_bytes()
    }
}

fn serve(mut poll: Poll, listeners: &[TcpListener], traffic: &Traffic, answers: &Answers, stop: &AtomicBool) {
    let mut events = Events::with_capacity(256);
    let mut connections: HashMap<usize, Connection> = HashMap::new();
    let mut next = listeners.len();
    let mut chunk = vec![0; CHUNK];
    while !stop.load(Ordering::Relaxed) {
        if poll.poll(&mut events, Some(TURN)).is_err_and(|e| e.kind() != io::ErrorKind::Interrupted) {
            return;
        }
        for event in &events {
            let token = event.token();
            if token == WAKE {
                continue;
            }
            let Some(listener) = listeners.get(token.0) else {
                let done = connections.get_mut(&token.0).is_some_and(|c| c.turn(traffic, answers, &mut chunk));
                if done {
                    connections.remove(&token.0);
                }
                continue;
            };
            while let Ok((mut stream, _)) = listener.accept() {
                let both = Interest::READABLE | Interest::WRITABLE;
                if stream.set_nodelay(true).is_ok() && poll.registry().register(&mut stream, Token(next), both).is_ok()
                {
                    connections
                        .insert(next, Connection { stream, input: vec![], body: None, out: vec![], closes: false });
                    next += 1;
                }
            }
        }
    }
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// Bytes of a head that isn't complete.
    input: Vec<u8>,
    /// The request whose body is coming, and how much of it has.
    body: Option<(usize, usize)>,
    /// What the socket didn't take yet.
    out: Vec<u8>,
    closes: bool,
}

impl Connection {
    /// Does what can be done without waiting; whether the connection is over.
    fn turn(&mut self, traffic: &Traffic, answers: &Answers, chunk: &mut [u8]) -> bool {
        if !self.flush() {
            return true;
        }
        while self.out.is_empty() {
            match self.stream.read(chunk) {
                Ok(0) => return true,
                Ok(length) => {
                    let answer = self.take(&chunk[..length], traffic);
                    let sent = match answer {
                        Ok(None) => continue,
                        Ok(Some(at)) => self.send(&answers.good[at][usize::from(self.closes)]),
                        Err(what) => {
                            self.closes = true;
                            self.send(&answers.bad(&what))
                        }
                    };
                    if !sent || (self.closes && self.out.is_empty()) {
                        return true;
                    }
                    // A short read has emptied the socket; a further one would say so at a system call's cost.
                    if length < chunk.len() {
                        return false;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
        false
    }

    /// Takes bytes in; the request that is complete with them.
    fn take(&mut self, mut bytes: &[u8], traffic: &Traffic) -> Result<Option<usize>, String> {
        if self.body.is_none() {
            let before = self.input.len();
            let head = if before == 0 {
                Head::of_request(bytes)?
            } else {
                self.input.extend_from_slice(bytes);
                Head::of_request(&self.input)?
            };
            let Some(head) = head else {
                if before == 0 {
                    self.input.extend_from_slice(bytes);
                }
                return Ok(None);
            };
            let at = head.request.ok_or("a request without its number")?;
            let request = traffic.requests.get(at).ok_or("a request that nobody sent")?;
            if head.target != request.target || head.body != request.body.len() {
                return Err(format!("request {at} came as {} with {} bytes", head.target, head.body));
            }
            self.closes |= head.closes;
            self.body = Some((at, 0));
            // The head may have ended in what was there before only if nothing of it was missing.
            bytes = &bytes[head.length - before..];
            self.input.clear();
        }
        let Some((at, got)) = self.body else { return Ok(None) };
        let wanted = &traffic.requests[at].bytes[traffic.requests[at].body.clone()];
        let rest = wanted.get(got..got + bytes.len()).ok_or_else(|| format!("more bytes than request {at} has"))?;
        if rest != bytes {
            let place = rest.iter().zip(bytes).position(|(a, b)| a != b).unwrap_or(0);
            return Err(format!("byte {} of the body of request {at} is another", got + place));
        }
        let got = got + bytes.len();
        self.body = (got < wanted.len()).then_some((at, got));
        Ok(self.body.is_none().then_some(at))
    }

    fn send(&mut self, answer: &[u8]) -> bool {
        self.out.extend_from_slice(answer);
        self.flush()
    }

    /// Whether the connection is still good.
    fn flush(&mut self) -> bool {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(0) => return false,
                Ok(length) => drop(self.out.drain(..length)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        !self.closes || self.body.is_some() || !self.input.is_empty()
    }
}
