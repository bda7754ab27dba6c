//! Asks a director for samples: once, or again and again from a thread of its own, so that a director that is slow to answer
//! or gone does not keep the keys from being heard.

use super::rates::Sample;
use crate::Common;
use crate::outcome::{Error, connect};
use lcs_control::protocol::{Request, Response};
use lcs_control::socket::{Client, ClientError};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::{Duration, Instant};

/// One sample.
///
/// # Errors
/// When the director refuses or goes away.
pub fn sample(client: &mut Client) -> Result<Sample, Error> {
    let strange = |r: Response| Error::Client(ClientError::Strange(format!("unexpected: {r:?}")));
    let status = match client.call(Request::Status)? {
        Response::Status(status) => *status,
        other => return Err(strange(other)),
    };
    match client.call(Request::Stats)? {
        Response::Stats(stats) => Ok(Sample { status, stats: *stats }),
        other => Err(strange(other)),
    }
}

/// Samples that a thread takes.
#[derive(Debug)]
pub struct Sampler {
    /// The samples, and why there is none.
    pub samples: Receiver<Result<Sample, String>>,
    intervals: Sender<Duration>,
}

impl Sampler {
    /// Begins. The thread ends when the sampler is dropped, or with the process.
    pub fn start(common: &Common, client: Client, interval: Duration) -> Self {
        // One sample waits at most: who looks at it late should see a late one.
        let (to, samples) = std::sync::mpsc::sync_channel(1);
        let (intervals, changed) = std::sync::mpsc::channel();
        let common = common.clone();
        std::thread::spawn(move || take(&common, Some(client), interval, &to, &changed));
        Sampler { samples, intervals }
    }

    /// Takes samples this often from now on.
    pub fn every(&self, interval: Duration) {
        let _ = self.intervals.send(interval);
    }
}

fn take(
    common: &Common,
    mut client: Option<Client>,
    mut interval: Duration,
    to: &SyncSender<Result<Sample, String>>,
    changed: &Receiver<Duration>,
) {
    loop {
        let begun = Instant::now();
        let taken = match &mut client {
            Some(client) => sample(client),
            None => connect(common).and_then(|mut new| {
                let taken = sample(&mut new);
                client = Some(new);
                taken
            }),
        };
        if taken.is_err() {
            client = None;
        }
        if to.send(taken.map_err(|e| e.to_string())).is_err() {
            return;
        }
        loop {
            match changed.recv_timeout(interval.saturating_sub(begun.elapsed())) {
                Ok(new) => interval = new,
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}
