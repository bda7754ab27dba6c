//! The director's end of the control socket: one task a client, which reads a line, asks, and writes the answers.

use super::CLIENTS;
use crate::protocol::{Answer, Call, Failure, FailureCode, REQUEST_MAX, Request, VERSION};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

/// How long a client may be silent between two requests.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a line may take from its first byte, and an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(10);
/// Answers to one client that wait to be written.
const ANSWERS: usize = 1024;
/// Requests of all clients that wait for the director.
const REQUESTS: usize = 256;

/// A request and where its answers go.
#[derive(Debug)]
pub struct Incoming {
    /// The request.
    pub request: Request,
    /// For its answers; closed when the client is gone.
    pub answers: mpsc::Sender<Answer>,
}

/// The socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error("another director answers on {0}; stop it, or give this one another [director] socket")]
    Taken(PathBuf),
    /// Something else is there.
    #[error("{0} is there already and is no socket; remove it, or give another [director] socket")]
    Occupied(PathBuf),
    /// The system refuses.
    #[error("the control socket {path} cannot be opened: {error}; is its folder there and writable for this user?")]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// The socket. It is removed from the file system when this is dropped.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    /// Device and inode of our socket, so that another director's is not removed.
    identity: (u64, u64),
}

impl Server {
    /// Opens the socket and serves its clients on the current [`tokio::task::LocalSet`].
    ///
    /// # Errors
    /// When another director answers at `path`, or it cannot be made.
    pub fn open(path: &Path) -> Result<(Server, mpsc::Receiver<Incoming>), SocketError> {
        let io = |error| SocketError::Io { path: path.to_owned(), error };
        match fs::symlink_metadata(path) {
            Ok(m) if !m.file_type().is_socket() => return Err(SocketError::Occupied(path.to_owned())),
            Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
                return Err(SocketError::Taken(path.to_owned()));
            }
            // A socket that nobody answers on was left by a director that was killed.
            Ok(_) | Err(_) => {}
        }
        // Made beside its place and moved there when its mode is set, so that nobody can open it before.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
        let _ = fs::remove_file(&beside);
        let listener = UnixListener::bind(&beside).map_err(io)?;
        let place = || {
            fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
            let m = fs::metadata(&beside)?;
            fs::rename(&beside, path)?;
            Ok((m.dev(), m.ino()))
        };
        let identity = place().map_err(|e| {
            let _ = fs::remove_file(&beside);
            io(e)
        })?;
        let (requests, incoming) = mpsc::channel(REQUESTS);
        tokio::task::spawn_local(accept(listener, requests));
        Ok((Server { path: path.to_owned(), identity }, incoming))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

async fn accept(listener: UnixListener, requests: mpsc::Sender<Incoming>) {
    let room = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: others must go first.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let requests = requests.clone();
        let permit = Arc::clone(&room).try_acquire_owned();
        tokio::task::spawn_local(async move {
            let (read, mut write) = stream.into_split();
            let Ok(_permit) = permit else {
                let busy = format!("{CLIENTS} clients are connected; try again when one has ended");
                let _ = say(&mut write, &refusal(FailureCode::Busy, busy)).await;
                return;
            };
            let _ = serve(read, write, requests).await;
        });
    }
}

fn refusal(code: FailureCode, message: impl Into<String>) -> Answer {
    Answer { version: VERSION, more: false, ok: None, error: Some(Failure::new(code, message)) }
}

/// Serves one client until it goes away.
async fn serve(read: OwnedReadHalf, mut write: OwnedWriteHalf, requests: mpsc::Sender<Incoming>) -> io::Result<()> {
    let mut read = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        match next_line(&mut read, &mut line).await? {
            Line::End => return Ok(()),
            Line::TooLong => {
                let long = format!("a request has at most {REQUEST_MAX} bytes");
                say(&mut write, &refusal(FailureCode::BadRequest, long)).await?;
                return Ok(());
            }
            Line::Whole => {}
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let request = match parse(&line) {
            Ok(request) => request,
            Err(answer) => {
                say(&mut write, &answer).await?;
                continue;
            }
        };
        // A trace may wait for frames for ever: it ends when its client closes its side.
        let watch = matches!(request, Request::Trace { .. });
        let (answers, mut incoming) = mpsc::channel(ANSWERS);
        if requests.send(Incoming { request, answers }).await.is_err() {
            return Ok(());
        }
        let mut at_end = !watch;
        loop {
            tokio::select! {
                answer = incoming.recv() => {
                    let Some(answer) = answer else { return Ok(()) };
                    say(&mut write, &answer).await?;
                    if !answer.more {
                        break;
                    }
                }
                rest = read.fill_buf(), if !at_end => {
                    if rest?.is_empty() {
                        return Ok(());
                    }
                    at_end = true; // the next request is there already: the client is alive
                }
            }
        }
    }
}

fn parse(line: &[u8]) -> Result<Request, Answer> {
    #[derive(serde::Deserialize)]
    struct Head {
        version: u32,
    }
    let bad = |e: serde_json::Error| refusal(FailureCode::BadRequest, format!("this is no request: {e}"));
    let head: Head = serde_json::from_slice(line).map_err(bad)?;
    if head.version != VERSION {
        let message = format!(
            "the client speaks version {}, the director version {VERSION}; use the `lcs` of the director's version",
            head.version
        );
        return Err(refusal(FailureCode::Version, message));
    }
    serde_json::from_slice::<Call>(line).map(|c| c.request).map_err(bad)
}

async fn say(write: &mut OwnedWriteHalf, answer: &Answer) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(answer).map_err(io::Error::other)?;
    bytes.push(b'\n');
    timeout(PATIENCE, write.write_all(&bytes)).await.map_err(|_| io::ErrorKind::TimedOut)?
}

enum Line {
    Whole,
    TooLong,
    End,
}

/// Reads a line into `line`, without its end. What comes before the end of the stream counts as a line.
async fn next_line(read: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> io::Result<Line> {
    line.clear();
    if timeout(SILENCE, read.fill_buf()).await.map_err(|_| io::ErrorKind::TimedOut)??.is_empty() {
        return Ok(Line::End);
    }
    let rest = async {
        loop {
            let buffer = read.fill_buf().await?;
            if buffer.is_empty() {
                return Ok(Line::Whole);
            }
            let end = buffer.iter().position(|b| *b == b'\n');
            let part = &buffer[..end.unwrap_or(buffer.len())];
            if line.len() + part.len() > REQUEST_MAX {
                return Ok(Line::TooLong);
            }
            line.extend_from_slice(part);
            let used = part.len() + usize::from(end.is_some());
            read.consume(used);
            if end.is_some() {
                return Ok(Line::Whole);
            }
        }
    };
    timeout(PATIENCE, rest).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
