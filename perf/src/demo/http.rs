//! HTTP/1.1 by kernel TCP: a small server that says its name, and a connection that checks every byte of an answer.
//!
//! Threads and blocking sockets: the demo's numbers are small, and what is tested is the director between them.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::body::Body;

/// Longest head of a request or an answer, bytes.
const HEAD: usize = 8 << 10;
/// Header fields of a head at most.
const FIELDS: usize = 32;
/// Connections that a server serves at a time; more are closed at once.
const CONNECTIONS: usize = 1024;
/// A thread of a server needs its head buffer and a chunk of a body.
const STACK: usize = 128 << 10;
/// Bytes of a body that are written or compared at a time.
const CHUNK: usize = 16 << 10;

/// A running server; it ends when this is dropped, and its connections with it.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    name: String,
    served: AtomicU64,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    ended: bool,
    next: u64,
    connections: HashMap<u64, TcpStream>,
}

impl State {
    fn open(&self) -> MutexGuard<'_, Open> {
        // A thread that panicked holding it left a map that is still whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Starts a server that calls itself `name`, in the calling thread's namespace. Port 0 takes any.
    pub fn start(name: &str, address: SocketAddr) -> io::Result<Self> {
        let listener = listen(address)?;
        let address = listener.local_addr()?;
        let state = Arc::new(State { name: name.into(), served: AtomicU64::new(0), open: Mutex::default() });
        let (accepting, own) = (listener.try_clone()?, Arc::clone(&state));
        let thread = thread::Builder::new().name(format!("{name} http")).spawn(move || accept(&accepting, &own))?;
        Ok(Server { listener, address, thread: Some(thread), state })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests answered so far.
    pub fn served(&self) -> u64 {
        self.state.served.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut open = self.state.open();
        open.ended = true;
        for connection in open.connections.values() {
            // The peer may have closed it already.
            let _ = connection.shutdown(Shutdown::Both);
        }
        drop(open);
        // Wakes `accept` (Linux: EINVAL from a listener that was shut down).
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            // A panic there was printed; there is nothing to add while we end.
            let _ = thread.join();
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(256)?;
    Ok(socket.into())
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    loop {
        let accepted = listener.accept();
        let mut open = state.open();
        if open.ended {
            return;
        }
        let Ok((stream, _)) = accepted else {
            // A connection that ended before it was taken, or a passing lack of descriptors: the next may do better.
            drop(open);
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        let Ok(ours) = stream.try_clone() else { continue };
        if open.connections.len() >= CONNECTIONS {
            continue;
        }
        let number = open.next;
        open.next += 1;
        open.connections.insert(number, ours);
        drop(open);
        let own = Arc::clone(state);
        let started = thread::Builder::new().name(format!("{} http", state.name)).stack_size(STACK).spawn(move || {
            // An error is the end of a connection, which the client sees and counts.
            let _ = serve(stream, &own);
            own.open().connections.remove(&number);
        });
        if started.is_err() {
            state.open().connections.remove(&number);
        }
    }
}

fn serve(mut stream: TcpStream, state: &State) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let peer = stream.peer_addr()?;
    let mut buffered = Buffered::default();
    loop {
        let Some(length) = buffered.head(&mut stream)? else { return Ok(()) };
        let request = read_request(&buffered.bytes[..length]);
        buffered.consume(length);
        let (status, body, close) = match request {
            Ok(Request { path, close, upload: None }) => match Body::of(&path) {
                Some(body) => ("200 OK", Some(body), close),
                None => ("404 Not Found", None, close),
            },
            Ok(Request { path, close, upload: Some(length) }) => {
                match Body::of(&path).filter(|body| body.size() == length) {
                    Some(body) => match buffered.compare(&mut stream, body, 0, length)? {
                        None => ("200 OK", None, close),
                        Some(_) => ("409 Conflict", None, true),
                    },
                    None => ("400 Bad Request", None, true),
                }
            }
            Err(status) => (status, None, true),
        };
        let size = body.map_or(0, |body| body.size());
        let connection = if close { "close" } else { "keep-alive" };
        let head = format!(
            "HTTP/1.1 {status}\r\nX-Server: {}\r\nX-Peer: {peer}\r\nContent-Length: {size}\r\nConnection: {connection}\r\n\r\n",
            state.name
        );
        let mut out = head.into_bytes();
        let mut at = 0;
        if let Some(body) = body {
            // The first chunk goes with the head, so that a small answer is one segment.
            let head = out.len();
            at = size.min(CHUNK);
            out.resize(head + at, 0);
            body.write(0, &mut out[head..]);
        }
        stream.write_all(&out)?;
        let mut chunk = [0; CHUNK];
        while let Some(body) = body
            && at < size
        {
            let chunk = &mut chunk[..CHUNK.min(size - at)];
            body.write(at, chunk);
            stream.write_all(chunk)?;
            at += chunk.len();
        }
        state.served.fetch_add(1, Ordering::Relaxed);
        if close {
            stream.shutdown(Shutdown::Write)?;
            // Reading to the end lets the client close first where it wants to, and never resets what it has not read.
            io::copy(&mut stream.take(HEAD as u64), &mut io::sink())?;
            return Ok(());
        }
    }
}

/// What a request asks.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    path: String,
    /// Whether the connection is to be closed after the answer.
    close: bool,
    /// Size of the body that comes with it, for PUT.
    upload: Option<usize>,
}

/// The request, or the status that refuses it.
fn read_request(head: &[u8]) -> Result<Request, &'static str> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        _ => return Err("400 Bad Request"),
    }
    let length = field(request.headers, "Content-Length").map(str::parse);
    let upload = match (request.method, length) {
        (Some("GET"), None) => None,
        (Some("PUT"), Some(Ok(length))) => Some(length),
        (Some("GET" | "PUT"), _) => return Err("400 Bad Request"),
        _ => return Err("405 Method Not Allowed"),
    };
    let http10 = request.version == Some(0);
    let close = field(request.headers, "Connection").map_or(http10, |value| value.eq_ignore_ascii_case("close"));
    Ok(Request { path: request.path.unwrap_or_default().to_owned(), close, upload })
}

fn field<'a>(fields: &[httparse::Header<'a>], name: &str) -> Option<&'a str> {
    fields.iter().find(|f| f.name.eq_ignore_ascii_case(name)).and_then(|f| std::str::from_utf8(f.value).ok())
}

/// Bytes that were received and not yet used.
#[derive(Debug, Default)]
struct Buffered {
    bytes: Vec<u8>,
}

impl Buffered {
    /// Reads until a whole head is there, and gives its length; `None` where the peer closed before it began one.
    fn head(&mut self, stream: &mut impl Read) -> io::Result<Option<usize>> {
        loop {
            if let Some(end) = self.bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                return Ok(Some(end + 4));
            }
            if self.bytes.len() >= HEAD {
                return Err(io::Error::new(ErrorKind::InvalidData, format!("a head of more than {HEAD} bytes")));
            }
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk)? {
                0 if self.bytes.is_empty() => return Ok(None),
                0 => return Err(io::Error::new(ErrorKind::UnexpectedEof, "the connection ended within a head")),
                n => self.bytes.extend_from_slice(&chunk[..n]),
            }
        }
    }

    fn consume(&mut self, length: usize) {
        self.bytes.drain(..length);
    }

    /// Reads the next `length` bytes of `body`, of which `offset` were read before, and compares them. Gives the first
    /// difference: place, found and expected byte; it stops there.
    fn compare(
        &mut self,
        stream: &mut impl Read,
        body: Body,
        offset: usize,
        length: usize,
    ) -> io::Result<Option<(usize, u8, u8)>> {
        let mut chunk = [0; CHUNK];
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let ready = self.bytes.len().min(end - at).min(CHUNK);
            let n = if ready > 0 {
                chunk[..ready].copy_from_slice(&self.bytes[..ready]);
                self.consume(ready);
                ready
            } else {
                stream.read(&mut chunk[..CHUNK.min(end - at)])?
            };
            if n == 0 {
                let text = format!("the connection was closed after {at} bytes of a body");
                return Err(io::Error::new(ErrorKind::UnexpectedEof, text));
            }
            if let Some(difference) = body.difference(at, &chunk[..n]) {
                return Ok(Some(difference));
            }
            at += n;
        }
        Ok(None)
    }
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No connection.
    #[error("connect to {to}: {source}")]
    Connect {
        /// Where to.
        to: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The connection broke, or nothing came in time.
    #[error("{what} from port {from} (server {server}): {source}")]
    Connection {
        /// What was being done.
        what: String,
        /// The client's port, to find the connection in a trace.
        from: u16,
        /// Who answered on this connection before; empty when no one has.
        server: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The answer is not what the server sends.
    #[error("the answer to {path} {wrong}")]
    Answer {
        /// The path.
        path: String,
        /// What is wrong with it.
        wrong: String,
    },
}

/// The head of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Who answered.
    pub server: String,
    /// The client as the server sees it.
    pub peer: SocketAddr,
    /// Size of the body, bytes.
    pub size: usize,
}

/// A client's connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    local: SocketAddr,
    buffered: Buffered,
    server: String,
}

impl Connection {
    /// Connects from the calling thread's namespace. `patience` bounds this and every wait for bytes later.
    pub fn open(to: SocketAddr, patience: Duration) -> Result<Self, Failure> {
        let connected = TcpStream::connect_timeout(&to, patience).and_then(|stream| {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(patience))?;
            stream.set_write_timeout(Some(patience))?;
            Ok((stream.local_addr()?, stream))
        });
        let (local, stream) = connected.map_err(|source| Failure::Connect { to, source })?;
        Ok(Connection { stream, local, buffered: Buffered::default(), server: String::new() })
    }

    /// The client's end.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Who answered last; empty when no one has.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// One request and its whole answer, every byte compared. `close` asks the server to close after it.
    pub fn get(&mut self, path: &str, close: bool) -> Result<Answer, Failure> {
        let answer = self.begin(path, close)?;
        self.body(path, 0, answer.size)?;
        if close {
            self.end(path)?;
        }
        Ok(answer)
    }

    /// Sends a request and reads the head of its answer. The body is to be read with [`Self::body`].
    pub fn begin(&mut self, path: &str, close: bool) -> Result<Answer, Failure> {
        let connection = if close { "close" } else { "keep-alive" };
        let request = format!("GET {path} HTTP/1.1\r\nHost: demo\r\nConnection: {connection}\r\n\r\n");
        self.stream.write_all(request.as_bytes()).map_err(|e| self.broken(format!("send GET {path}"), e))?;
        let answer = self.answer(path)?;
        match Body::of(path) {
            Some(body) if body.size() == answer.size => Ok(answer),
            _ => Err(Failure::Answer { path: path.into(), wrong: format!("has a body of {} bytes", answer.size) }),
        }
    }

    /// Sends the body of `path` to the server, which compares it too. The connection is kept.
    pub fn put(&mut self, path: &str) -> Result<Answer, Failure> {
        let Some(body) = Body::of(path) else {
            return Err(Failure::Answer { path: path.into(), wrong: "has no known body".into() });
        };
        let size = body.size();
        let mut out = format!("PUT {path} HTTP/1.1\r\nHost: demo\r\nContent-Length: {size}\r\n\r\n").into_bytes();
        let mut at = 0;
        loop {
            self.stream.write_all(&out).map_err(|e| self.broken(format!("send byte {at} of {path}"), e))?;
            if at == size {
                break;
            }
            out.resize(CHUNK.min(size - at), 0);
            body.write(at, &mut out);
            at += out.len();
        }
        match self.answer(path)? {
            answer if answer.size == 0 => Ok(answer),
            answer => Err(Failure::Answer { path: path.into(), wrong: format!("has a body of {} bytes", answer.size) }),
        }
    }

    /// Reads the head of an answer.
    fn answer(&mut self, path: &str) -> Result<Answer, Failure> {
        let length = match self.buffered.head(&mut self.stream) {
            Ok(Some(length)) => length,
            Ok(None) => {
                let closed = io::Error::new(ErrorKind::UnexpectedEof, "the connection was closed instead");
                return Err(self.broken(format!("wait for the answer to {path}"), closed));
            }
            Err(error) => return Err(self.broken(format!("wait for the answer to {path}"), error)),
        };
        let answer = read_answer(&self.buffered.bytes[..length]);
        self.buffered.consume(length);
        let answer = answer.map_err(|wrong| Failure::Answer { path: path.into(), wrong })?;
        answer.server.clone_into(&mut self.server);
        Ok(answer)
    }

    /// Reads the next `length` bytes of the body of `path`, of which `offset` have been read, and compares them.
    pub fn body(&mut self, path: &str, offset: usize, length: usize) -> Result<(), Failure> {
        let Some(body) = Body::of(path) else {
            return Err(Failure::Answer { path: path.into(), wrong: "has no known body".into() });
        };
        let compared = self.buffered.compare(&mut self.stream, body, offset, length);
        match compared.map_err(|e| self.broken(format!("read the body of {path}"), e))? {
            None => Ok(()),
            Some((place, found, expected)) => {
                let wrong = format!("has {found:#04x} at byte {place} instead of {expected:#04x}");
                Err(Failure::Answer { path: path.into(), wrong })
            }
        }
    }

    /// Expects the server's end of the connection, and nothing before it.
    fn end(&mut self, path: &str) -> Result<(), Failure> {
        let surplus = match self.buffered.bytes.len() {
            0 => self.stream.read(&mut [0]).map_err(|e| self.broken(format!("wait for the end after {path}"), e))?,
            n => n,
        };
        match surplus {
            0 => Ok(()),
            _ => Err(Failure::Answer { path: path.into(), wrong: "is followed by bytes that no one asked for".into() }),
        }
    }

    fn broken(&self, what: String, source: io::Error) -> Failure {
        Failure::Connection { what, from: self.local.port(), server: self.server.clone(), source }
    }
}

fn read_answer(head: &[u8]) -> Result<Answer, String> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err("has a head that is not whole".into()),
        Err(error) => return Err(format!("is not HTTP: {error}")),
    }
    if response.code != Some(200) {
        return Err(format!("has status {}", response.code.unwrap_or_default()));
    }
    let missing = |name: &str| format!("has no right field {name}");
    let server = field(response.headers, "X-Server").ok_or_else(|| missing("X-Server"))?.to_owned();
    let peer = field(response.headers, "X-Peer").and_then(|v| v.parse().ok()).ok_or_else(|| missing("X-Peer"))?;
    let size = field(response.headers, "Content-Length").and_then(|v| v.parse().ok());
    let size = size.ok_or_else(|| missing("Content-Length"))?;
    Ok(Answer { server, peer, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn a_connection_is_kept_and_closed_as_asked_and_a_server_ends_its_connections() {
        let server = Server::start("s1", "127.0.0.1:0".parse().unwrap()).unwrap();
        let mut connection = Connection::open(server.address(), PATIENCE).unwrap();
        for path in ["/a/0", "/a/1", "/a/100000", "/b/17"] {
            let answer = connection.get(path, false).unwrap();
            assert_eq!((answer.server.as_str(), answer.peer), ("s1", connection.local()));
        }
        assert_eq!(connection.put("/up/300000").unwrap().size, 0);
        connection.get("/c/70000", true).unwrap();
        assert!(matches!(connection.get("/d/1", false), Err(Failure::Connection { .. })));
        let mut kept = Connection::open(server.address(), PATIENCE).unwrap();
        let answer = kept.begin("/e/9000000", false).unwrap();
        kept.body("/e/9000000", 0, 100).unwrap();
        assert_eq!(server.served(), 6);
        let missing = kept_apart(server.address(), "/none");
        assert!(missing.to_string().contains("has status 404"), "{missing}");
        drop(server);
        let cut = kept.body("/e/9000000", 100, answer.size - 100).unwrap_err();
        assert!(cut.to_string().contains("of /e/9000000"), "{cut}");
    }

    fn kept_apart(to: SocketAddr, path: &str) -> Failure {
        Connection::open(to, PATIENCE).unwrap().get(path, false).unwrap_err()
    }

    #[test]
    fn a_wrong_byte_of_a_body_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let liar = thread::spawn(move || {
            let (mut stream, peer) = listener.accept().unwrap();
            let mut body = vec![0; 30_000];
            Body::of("/a/30000").unwrap().write(0, &mut body);
            body[20_001] ^= 1;
            let head = format!("HTTP/1.1 200 OK\r\nX-Server: s\r\nX-Peer: {peer}\r\nContent-Length: 30000\r\n\r\n");
            stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
            // Held until the client is through.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let failure = kept_apart(address, "/a/30000");
        assert!(failure.to_string().contains("at byte 20001 instead of"), "{failure}");
        liar.join().unwrap();
    }

    #[test]
    fn requests_are_read_and_refused_by_their_fault() {
        let read = |text: &str| read_request(text.as_bytes());
        let get = |close| Ok(Request { path: "/a/1".into(), close, upload: None });
        assert_eq!(read("GET /a/1 HTTP/1.1\r\nHost: x\r\n\r\n"), get(false));
        assert_eq!(read("GET /a/1 HTTP/1.1\r\nconnection: Close\r\n\r\n"), get(true));
        assert_eq!(read("GET /a/1 HTTP/1.0\r\n\r\n"), get(true));
        let put = Request { path: "/a/1".into(), close: false, upload: Some(1) };
        assert_eq!(read("PUT /a/1 HTTP/1.1\r\nContent-Length: 1\r\n\r\n"), Ok(put));
        assert_eq!(read("PUT /a/1 HTTP/1.1\r\n\r\n"), Err("400 Bad Request"));
        assert_eq!(read("POST /a/1 HTTP/1.1\r\n\r\n"), Err("405 Method Not Allowed"));
        assert_eq!(read("GET\r\n\r\n"), Err("400 Bad Request"));
    }

    #[test]
    fn answers_are_read_and_refused_by_their_fault() {
        let head = |status: u16, rest: &str| format!("HTTP/1.1 {status} x\r\nX-Server: s1\r\n{rest}\r\n\r\n");
        let read = |text: String| read_answer(text.as_bytes());
        let right = read(head(200, "X-Peer: [fd80::10]:99\r\nContent-Length: 7")).unwrap();
        assert_eq!(right, Answer { server: "s1".into(), peer: "[fd80::10]:99".parse().unwrap(), size: 7 });
        assert_eq!(read(head(404, "")).unwrap_err(), "has status 404");
        assert_eq!(read(head(200, "X-Peer: 1.2.3.4:5")).unwrap_err(), "has no right field Content-Length");
        assert!(read("rubbish\r\n\r\n".into()).unwrap_err().starts_with("is not HTTP"));
    }
}
