//! The load: so many connections at once, each sending its next request when the answer to the last is complete.
//!
//! A closed loop: with more connections than the subject can serve at once, latency is mostly waiting in its queue.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::CHUNK;
use super::message::Head;
use crate::demo::interrupt::Interrupt;
use crate::peers::workload::{Mode, Traffic, server_name};

/// How long an answer, a connect or a close may take; longer is an error.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it's looked for those that take too long, and failed connections are opened again.
const SWEEP: Duration = Duration::from_millis(50);

/// What to load.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where connections go: connection *n* to the *n*-th, and round again.
    pub to: Vec<SocketAddr>,
    /// Whether the request says which server must answer.
    pub switched: bool,
    /// Connections open at once.
    pub connections: usize,
    /// Not counted.
    pub warm_up: Duration,
    /// Counted.
    pub window: Duration,
}

/// What came of a load.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Requests answered rightly within the window.
    pub requests: u64,
    /// The window's true length.
    pub window: Duration,
    /// ns from the request (with a connection for each: from the SYN) to the last byte of its answer; those of the window, sorted.
    pub latencies: Vec<u32>,
    /// Requests answered rightly, all in all.
    pub total: u64,
    /// What went wrong, all in all, warm-up included, and how often.
    pub errors: BTreeMap<String, u64>,
}

impl Outcome {
    /// The latency below which the share `q` of answers came, in µs; 0 where none did.
    pub fn percentile(&self, q: f64) -> f64 {
        percentile(&self.latencies, q) / 1000.0
    }
}

/// The value in sorted `values` at or below which the share `q` of them lies (nearest rank).
pub fn percentile(values: &[u32], q: f64) -> f64 {
    let rank = (values.len() as f64 * q).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(0).into()
}

/// Runs a load from the calling thread, which does nothing else meanwhile. `edge` is called at both ends of the window.
///
/// # Errors
/// When it can't poll. What goes wrong with connections is counted.
pub fn run(load: &Load, traffic: &Arc<Traffic>, interrupt: &Interrupt, edge: impl FnMut()) -> io::Result<Outcome> {
    Running {
        poll: Poll::new()?,
        load,
        traffic,
        connections: Vec::new(),
        outcome: Outcome::default(),
        counting: false,
        chunk: vec![0; CHUNK],
    }
    .run(interrupt, edge)
}

struct Running<'a> {
    poll: Poll,
    load: &'a Load,
    traffic: &'a Traffic,
    connections: Vec<Connection>,
    outcome: Outcome,
    counting: bool,
    chunk: Vec<u8>,
}

#[derive(Debug)]
struct Connection {
    /// None until it's opened again.
    stream: Option<TcpStream>,
    state: State,
    /// When what is waited for was begun.
    since: Instant,
    /// Requests that it has sent so far.
    turn: usize,
    /// Which one it is about.
    request: usize,
    /// Bytes of a response's head that isn't complete.
    input: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    /// So many bytes of the request have been sent.
    Sending(usize),
    /// The head is awaited.
    Waiting,
    /// So many bytes of the body have come.
    Receiving(usize),
    /// Answered in full; the other side is to close.
    Closing,
}

impl State {
    fn doing(self) -> &'static str {
        match self {
            State::Connecting => "connecting",
            State::Sending(_) => "sending",
            State::Waiting => "waiting for the answer",
            State::Receiving(_) => "receiving the answer",
            State::Closing => "waiting for the close",
        }
    }
}

impl Running<'_> {
    fn run(mut self, interrupt: &Interrupt, mut edge: impl FnMut()) -> io::Result<Outcome> {
        let begun = Instant::now();
        let idle = |at| Connection {
            stream: None,
            state: State::Connecting,
            since: begun,
            turn: 0,
            request: at,
            input: vec![],
        };
        self.connections = (0..self.load.connections).map(idle).collect();
        for at in 0..self.connections.len() {
            self.open(at);
        }
        let mut events = Events::with_capacity(256);
        let mut swept = begun;
        let mut window: Option<Instant> = None;
        loop {
            match self.poll.poll(&mut events, Some(SWEEP)) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
                _ => {}
            }
            for event in &events {
                self.drive(event.token().0);
            }
            let now = Instant::now();
            match window {
                None if now >= begun + self.load.warm_up => {
                    edge();
                    window = Some(Instant::now());
                    self.counting = true;
                }
                Some(start) if now >= start + self.load.window || interrupt.is_set() => {
                    self.outcome.window = now - start;
                    edge();
                    self.outcome.latencies.sort_unstable();
                    return Ok(self.outcome);
                }
                _ => {}
            }
            if now >= swept + SWEEP {
                swept = now;
                self.sweep(now);
            }
        }
    }

    /// Ends what takes too long, and opens what is not open.
    fn sweep(&mut self, now: Instant) {
        for at in 0..self.connections.len() {
            let connection = &self.connections[at];
            if connection.stream.is_none() {
                self.open(at);
            } else if now > connection.since + PATIENCE {
                let what = format!("{}: no end of it within {} s", connection.state.doing(), PATIENCE.as_secs());
                self.fail(at, what);
            }
        }
    }

    fn open(&mut self, at: usize) {
        let to = self.load.to[at % self.load.to.len()];
        let both = Interest::READABLE | Interest::WRITABLE;
        let opened = TcpStream::connect(to).and_then(|mut stream| {
            stream.set_nodelay(true)?;
            self.poll.registry().register(&mut stream, Token(at), both)?;
            Ok(stream)
        });
        match opened {
            Ok(stream) => {
                let connection = &mut self.connections[at];
                connection.stream = Some(stream);
                connection.state = State::Connecting;
                connection.since = Instant::now();
                connection.input.clear();
            }
            Err(e) => self.fail(at, format!("connecting: {e}")),
        }
    }

    /// Counts an error; the connection is dropped, and opened again by the next sweep.
    fn fail(&mut self, at: usize, what: String) {
        *self.outcome.errors.entry(what).or_default() += 1;
        self.connections[at].stream = None;
    }

    fn drive(&mut self, at: usize) {
        match self.step(at) {
            Ok(true) => self.open(at),
            Ok(false) => {}
            Err(what) => self.fail(at, what),
        }
    }

    /// Does what can be done without waiting; whether the connection has come to its right end.
    fn step(&mut self, at: usize) -> Result<bool, String> {
        loop {
            let connection = &mut self.connections[at];
            // An event of a connection that has failed meanwhile.
            let Some(stream) = &mut connection.stream else { return Ok(false) };
            let failed = |state: State, e: &io::Error| format!("{}: {e}", state.doing());
            match connection.state {
                State::Connecting => {
                    if let Ok(Some(e)) | Err(e) = stream.take_error() {
                        return Err(failed(connection.state, &e));
                    }
                    match stream.peer_addr() {
                        Ok(_) => {
                            connection.request = self.traffic.request(at, connection.turn);
                            connection.turn += 1;
                            connection.state = State::Sending(0);
                            if self.traffic.mode == Mode::KeepAlive {
                                connection.since = Instant::now();
                            }
                        }
                        Err(e) if e.kind() == io::ErrorKind::NotConnected => return Ok(false),
                        Err(e) => return Err(failed(connection.state, &e)),
                    }
                }
                State::Sending(sent) => {
                    let bytes = &self.traffic.requests[connection.request].bytes;
                    match stream.write(&bytes[sent..]) {
                        Ok(length) if sent + length == bytes.len() => {
                            connection.state = State::Waiting;
                            // The answer's arrival is an event of its own.
                            return Ok(false);
                        }
                        Ok(length) => connection.state = State::Sending(sent + length),
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) => return Err(failed(connection.state, &e)),
                    }
                }
                state @ (State::Waiting | State::Receiving(_) | State::Closing) => match stream.read(&mut self.chunk) {
                    Ok(0) if state == State::Closing => return Ok(true),
                    Ok(0) => return Err(format!("{}: closed", state.doing())),
                    Ok(length) => {
                        let complete = connection.take(&self.chunk[..length], self.traffic, self.load.switched)?;
                        if complete {
                            self.count(at);
                        } else if length < self.chunk.len() {
                            return Ok(false);
                        }
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(failed(state, &e)),
                },
            }
        }
    }

    /// A right answer is complete: on to what comes next on this connection.
    fn count(&mut self, at: usize) {
        let now = Instant::now();
        let connection = &mut self.connections[at];
        let took = now - connection.since;
        self.outcome.total += 1;
        if self.counting {
            self.outcome.requests += 1;
            self.outcome.latencies.push(u32::try_from(took.as_nanos()).unwrap_or(u32::MAX));
        }
        connection.since = now;
        connection.state = match self.traffic.mode {
            Mode::Close => State::Closing,
            Mode::KeepAlive => {
                connection.request = self.traffic.request(at, connection.turn);
                connection.turn += 1;
                State::Sending(0)
            }
        };
    }
}

impl Connection {
    /// Takes bytes of an answer in; whether it's complete.
    fn take(&mut self, mut bytes: &[u8], traffic: &Traffic, switched: bool) -> Result<bool, String> {
        let got = match self.state {
            State::Receiving(got) => got,
            State::Closing => return Err("more bytes than the answer has".into()),
            _ => {
                let before = self.input.len();
                let head = if before == 0 {
                    Head::of_response(bytes)?
                } else {
                    self.input.extend_from_slice(bytes);
                    Head::of_response(&self.input)?
                };
                let Some(head) = head else {
                    if before == 0 {
                        self.input.extend_from_slice(bytes);
                    }
                    return Ok(false);
                };
                bytes = &bytes[head.length - before..];
                self.input.clear();
                self.check(&head, traffic, switched, bytes)?;
                0
            }
        };
        let rest = traffic.response.get(got..got + bytes.len()).ok_or("more bytes than the answer has")?;
        if rest != bytes {
            let place = rest.iter().zip(bytes).position(|(a, b)| a != b).unwrap_or(0);
            return Err(format!("byte {} of an answer's body is another", got + place));
        }
        self.state = State::Receiving(got + bytes.len());
        Ok(got + bytes.len() == traffic.response.len())
    }

    fn check(&self, head: &Head, traffic: &Traffic, switched: bool, body: &[u8]) -> Result<(), String> {
        if head.status != 200 {
            let said = String::from_utf8_lossy(&body[..body.len().min(200)]);
            return Err(format!("status {}: {}", head.status, said.lines().next().unwrap_or_default()));
        }
        if head.request != Some(self.request) {
            return Err("the answer to another request".into());
        }
        if head.body != traffic.response.len() {
            return Err(format!("an answer of {} bytes instead of {}", head.body, traffic.response.len()));
        }
        let right = server_name(traffic.requests[self.request].group);
        if switched && head.server != right {
            return Err(format!("{} answered for {right}", head.server));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::workload::Workload;

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let values: Vec<u32> = (1..=200).collect();
        assert_eq!([0.5, 0.99, 1.0, 0.0].map(|q| percentile(&values, q)), [100.0, 198.0, 200.0, 1.0]);
        assert_eq!(percentile(&[7], 0.99), 7.0);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }

    fn connection(request: usize) -> Connection {
        Connection { stream: None, state: State::Waiting, since: Instant::now(), turn: 1, request, input: vec![] }
    }

    fn answer(traffic: &Traffic, server: &str, request: usize) -> Vec<u8> {
        let length = traffic.response.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\nX-Server: {server}\r\nX-Request: {request}\r\nContent-Length: {length}\r\n\r\n"
        );
        [head.as_bytes(), &traffic.response].concat()
    }

    #[test]
    fn a_right_answer_is_complete_wherever_it_was_cut() {
        let traffic = Traffic::new(Workload::Urls, Mode::KeepAlive, 0, 0, 600, false);
        let whole = answer(&traffic, "server2", 1);
        for cut in 1..whole.len() {
            let mut connection = connection(1);
            assert_eq!(connection.take(&whole[..cut], &traffic, true), Ok(false), "{cut}");
            assert_eq!(connection.take(&whole[cut..], &traffic, true), Ok(true), "{cut}");
        }
    }

    #[test]
    fn a_wrong_answer_is_an_error_that_says_what_is_wrong() {
        let traffic = Traffic::new(Workload::Urls, Mode::KeepAlive, 0, 0, 600, false);
        let wrong = |bytes: &[u8], switched| connection(1).take(bytes, &traffic, switched).unwrap_err();
        assert_eq!(wrong(&answer(&traffic, "server1", 1), true), "server1 answered for server2");
        assert!(connection(1).take(&answer(&traffic, "server1", 1), &traffic, false).unwrap());
        assert_eq!(wrong(&answer(&traffic, "server2", 0), true), "the answer to another request");
        let mut bytes = answer(&traffic, "server2", 1);
        let place = bytes.len() - 100;
        bytes[place] ^= 1;
        assert_eq!(wrong(&bytes, true), "byte 500 of an answer's body is another");
        bytes[place] ^= 1;
        bytes.push(b'x');
        assert_eq!(wrong(&bytes, true), "more bytes than the answer has");
        assert!(wrong(b"HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\ndown", true).contains("503: down"));
    }
}
