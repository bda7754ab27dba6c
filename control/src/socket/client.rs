//! A command's end of the control socket.

use crate::protocol::{Answer, Call, Failure, Request, Response, VERSION};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the director may take to answer; it gives up by itself before.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request was not answered with what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers.
    #[error(
        "no director answers on {path} ({error}); is it running? Start it with `lcs run -c FILE`, or name its socket with --socket"
    )]
    NotReachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Not for this user.
    #[error("{path} is for the director's user only; run this command as that user (or with sudo)")]
    NotAllowed {
        /// The socket.
        path: PathBuf,
    },
    /// The connection broke.
    #[error("the director has gone away: {0}")]
    Broken(io::Error),
    /// The answer makes no sense.
    #[error("the director's answer is not understood ({0}); use the `lcs` of the director's version")]
    Strange(String),
    /// The director refuses.
    #[error(transparent)]
    Refused(#[from] Failure),
}

/// A connection to the director.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When nobody answers at `path`.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed { path: path.to_owned() },
            _ => ClientError::NotReachable { path: path.to_owned(), error },
        })?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(ClientError::Broken)?;
        Ok(Client { stream: BufReader::new(stream) })
    }

    /// Asks, and waits for the one answer.
    ///
    /// # Errors
    /// When the director refuses, or goes away.
    pub fn call(&mut self, request: Request) -> Result<Response, ClientError> {
        self.send(request, Some(PATIENCE))?;
        Ok(self.receive()?.0)
    }

    /// Asks, and hands every answer to `each` until the last.
    ///
    /// # Errors
    /// As [`Client::call`], and when `each` fails.
    pub fn stream(
        &mut self,
        request: Request,
        mut each: impl FnMut(Response) -> io::Result<()>,
    ) -> Result<(), ClientError> {
        self.send(request, None)?;
        loop {
            let (response, more) = self.receive()?;
            each(response).map_err(ClientError::Broken)?;
            if !more {
                return Ok(());
            }
        }
    }

    fn send(&mut self, request: Request, patience: Option<Duration>) -> Result<(), ClientError> {
        let mut line =
            serde_json::to_vec(&Call { version: VERSION, request }).map_err(|e| ClientError::Strange(e.to_string()))?;
        line.push(b'\n');
        let stream = self.stream.get_mut();
        stream.set_read_timeout(patience).map_err(ClientError::Broken)?;
        stream.write_all(&line).map_err(ClientError::Broken)
    }

    fn receive(&mut self) -> Result<(Response, bool), ClientError> {
        let mut line = Vec::new();
        let n = self.stream.read_until(b'\n', &mut line).map_err(ClientError::Broken)?;
        if n == 0 {
            return Err(ClientError::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        let answer: Answer = serde_json::from_slice(&line).map_err(|e| ClientError::Strange(e.to_string()))?;
        match (answer.ok, answer.error) {
            (Some(response), _) => Ok((response, answer.more)),
            (None, Some(failure)) => Err(failure.into()),
            (None, None) => Err(ClientError::Strange("it is empty".to_owned())),
        }
    }
}
