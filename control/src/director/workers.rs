//! How the director reaches its workers: rings, whether the workers are threads or turns of one loop.

use lcs_dataplane::ring::{ControlEnd, SendError};
use lcs_pipelines::command::{Acknowledgement, Command, Event};

/// The control thread's ends of one worker's rings, for pipelines that obey [`Command`].
pub type Ring = ControlEnd<Command, Acknowledgement, Event>;

/// What a worker says.
#[derive(Debug)]
pub enum Said {
    /// The command of this number was carried out.
    Acknowledged(u64, Acknowledgement),
    /// Something of its own accord.
    Event(Event),
    /// It has ended.
    Ended,
}

/// The workers, as the director sees them. Nothing here waits.
pub trait Workers {
    /// How many there are, content workers included.
    fn count(&self) -> usize;

    /// How many of them, the last ones, are content workers: they have no port and no connections.
    fn content_workers(&self) -> usize {
        0
    }

    /// Sends a command to one of them.
    ///
    /// # Errors
    /// When its ring is full, or it has ended; the command is dropped.
    fn send(&mut self, worker: usize, id: u64, command: Command) -> Result<(), SendError>;

    /// The next thing that a worker has said, if any. Events come before acknowledgements.
    fn poll(&mut self, worker: usize) -> Option<Said>;
}

/// Workers behind rings: threads, or [`lcs_dataplane::worker::Worker`]s that the same thread turns.
#[derive(Debug)]
pub struct Rings {
    rings: Vec<Ring>,
    content: usize,
}

impl Rings {
    /// One ring for each worker, in their order.
    pub fn new(rings: Vec<Ring>) -> Self {
        Rings { rings, content: 0 }
    }

    /// The same, of which the last so many are content workers'.
    #[must_use]
    pub fn with_content_workers(self, content: usize) -> Self {
        Rings { content, ..self }
    }
}

impl Workers for Rings {
    fn count(&self) -> usize {
        self.rings.len()
    }

    fn content_workers(&self) -> usize {
        self.content
    }

    fn send(&mut self, worker: usize, id: u64, command: Command) -> Result<(), SendError> {
        let ring = self.rings.get(worker).ok_or(SendError::Ended)?;
        ring.send(id, command).map_err(|(_, e)| e)
    }

    fn poll(&mut self, worker: usize) -> Option<Said> {
        let ring = self.rings.get(worker)?;
        if let Ok(event) = ring.events.try_recv() {
            return Some(Said::Event(event));
        }
        match ring.acknowledgements.try_recv() {
            Ok(numbered) => Some(Said::Acknowledged(numbered.id, numbered.what)),
            // A worker gives both ends up at once.
            Err(e) if e.is_disconnected() => Some(Said::Ended),
            Err(_) => None,
        }
    }
}
