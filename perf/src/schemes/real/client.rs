//! The clients: kernel TCP, one connection at a time each, every byte of every answer compared.
//!
//! Threads and blocking sockets, on one core: as many as there are clients, so that each waits for its own answers only.

use crate::demo::interrupt::Interrupt;
use crate::demo::root::Error;
use crate::peers::traffic::CHUNK;
use crate::peers::traffic::message::Head;
use crate::peers::workload::{Traffic, server_name};
use lcs_dataplane::worker::Nanos;
use lcs_hwconf::cores;
use lcs_hwconf::testbed::Host;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::RwLock;
use std::thread;
use std::time::{Duration, Instant};

/// How long a connect or an answer may take.
const PATIENCE: Duration = Duration::from_secs(8);

/// What clients do: for each its connections, for each of these its requests, by their number in the traffic.
#[derive(Debug)]
pub struct Work<'t> {
    /// Ends the work between two connections.
    pub interrupt: &'t Interrupt,
    /// The service.
    pub to: SocketAddr,
    /// The requests, and what is answered.
    pub traffic: &'t Traffic,
    /// Client, connection, request.
    pub scripts: Vec<Vec<Vec<usize>>>,
    /// Whether only the server that a request's rule names may answer.
    pub switched: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Of connections that came to their end: from the SYN to the last byte of the last answer, ns.
    pub times: Vec<Nanos>,
    /// Requests answered.
    pub answered: u64,
    /// Requests that were not.
    pub failed: u64,
    /// Why the first was not.
    pub first: Option<String>,
    /// Of an answer that came from another server: what was asked, who answered.
    pub misrouted: Option<(String, String)>,
    /// When the last answer was whole.
    pub last: Option<Instant>,
    /// From the moment at which all clients may begin to the last answer.
    pub took: Duration,
}

/// Has clients on `host` work, on `core`.
///
/// # Errors
/// When their threads don't start.
pub fn run(host: &Host, core: usize, work: &Work<'_>) -> Result<Outcome, Error> {
    host.run(|| {
        // Elsewhere it would be slower, not wrong.
        let _ = cores::pin(core);
        // Held while threads are started; however that ends, they are let go.
        let gate = RwLock::new(());
        thread::scope(|scope| {
            let (held, wait) = (gate.write(), &gate);
            let scripts = work.scripts.iter();
            let started: io::Result<Vec<_>> = scripts
                .map(|script| thread::Builder::new().spawn_scoped(scope, move || client(work, script, wait)))
                .collect();
            let begun = Instant::now();
            drop(held);
            let mut sum = Outcome::default();
            for one in started.map_err(Error::Client)? {
                let one = one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                sum.times.extend(one.times);
                sum.answered += one.answered;
                sum.failed += one.failed;
                sum.first = sum.first.or(one.first);
                sum.misrouted = sum.misrouted.or(one.misrouted);
                sum.last = sum.last.max(one.last);
            }
            sum.took = sum.last.map_or(Duration::ZERO, |last| last.saturating_duration_since(begun));
            Ok(sum)
        })
    })?
}

fn client(work: &Work<'_>, connections: &[Vec<usize>], gate: &RwLock<()>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut input = Vec::with_capacity(CHUNK);
    let mut chunk = vec![0; CHUNK];
    drop(gate.read());
    for requests in connections {
        if work.interrupt.is_set() {
            break;
        }
        let mut answered = 0;
        match connection(work, requests, &mut input, &mut chunk, &mut answered, &mut outcome.misrouted) {
            Ok((begun, last)) => {
                let took = last.saturating_duration_since(begun);
                outcome.times.push(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
                outcome.last = Some(last);
            }
            Err(why) => {
                outcome.failed += requests.len() as u64 - answered;
                outcome.first.get_or_insert(why);
            }
        }
        outcome.answered += answered;
    }
    outcome
}

/// One connection: when it was begun, and when the last byte of its last answer was there, which is before it is closed.
fn connection(
    work: &Work<'_>,
    requests: &[usize],
    input: &mut Vec<u8>,
    chunk: &mut [u8],
    answered: &mut u64,
    misrouted: &mut Option<(String, String)>,
) -> Result<(Instant, Instant), String> {
    let failed = |what: &'static str| move |e: io::Error| format!("{what}: {e}");
    let begun = Instant::now();
    let mut stream = TcpStream::connect_timeout(&work.to, PATIENCE).map_err(failed("connect"))?;
    stream.set_nodelay(true).map_err(failed("connect"))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed("connect"))?;
    for &at in requests {
        let request = work.traffic.requests.get(at).ok_or("a request that there is not")?;
        stream.write_all(&request.bytes).map_err(failed("send a request"))?;
        input.clear();
        let mut got = None;
        while got != Some(work.traffic.response.len()) {
            let n = match stream.read(chunk).map_err(failed("wait for an answer"))? {
                0 => return Err("closed before the answer was complete".into()),
                n => n,
            };
            let bytes = chunk.get(..n).unwrap_or_default();
            got = match got {
                Some(before) => Some(compare(&work.traffic.response, before, bytes)?),
                None => {
                    input.extend_from_slice(bytes);
                    match Head::of_response(input)? {
                        None => None,
                        Some(head) => {
                            check(work, at, &head)?;
                            let right = server_name(request.group);
                            if work.switched && head.server != right {
                                misrouted.get_or_insert((request.target.clone(), head.server.clone()));
                            }
                            Some(compare(&work.traffic.response, 0, input.get(head.length..).unwrap_or_default())?)
                        }
                    }
                }
            };
        }
        *answered += 1;
    }
    Ok((begun, Instant::now()))
}

fn check(work: &Work<'_>, at: usize, head: &Head) -> Result<(), String> {
    if head.status != 200 {
        return Err(format!("status {}", head.status));
    }
    if head.request != Some(at) {
        return Err("the answer to another request".into());
    }
    if head.body != work.traffic.response.len() {
        return Err(format!("an answer of {} bytes instead of {}", head.body, work.traffic.response.len()));
    }
    Ok(())
}

/// Compares what has come with what was to come from `at` on; how far the answer is now.
fn compare(whole: &[u8], at: usize, bytes: &[u8]) -> Result<usize, String> {
    let end = at + bytes.len();
    let expected = whole.get(at..end).ok_or("more bytes than the answer has")?;
    match expected.iter().zip(bytes).position(|(a, b)| a != b) {
        None => Ok(end),
        Some(place) => Err(format!("byte {} of an answer's body is another", at + place)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_that_is_another_and_one_too_many_are_found() {
        assert_eq!(compare(b"abcdef", 2, b"cde"), Ok(5));
        assert_eq!(compare(b"abcdef", 2, b"cxe"), Err("byte 3 of an answer's body is another".into()));
        assert!(compare(b"abcdef", 4, b"efg").unwrap_err().contains("more bytes"));
    }

    #[test]
    fn an_answer_to_something_else_is_none() {
        let traffic = Traffic::of([("/a".to_owned(), 0)], 10);
        let to = SocketAddr::from(([127, 0, 0, 1], 1));
        let interrupt = Interrupt::default();
        let work = Work { interrupt: &interrupt, to, traffic: &traffic, scripts: vec![], switched: true };
        let good = Head { status: 200, request: Some(0), body: 10, ..Head::default() };
        assert_eq!(check(&work, 0, &good), Ok(()));
        for wrong in [
            Head { status: 503, ..good.clone() },
            Head { request: Some(1), ..good.clone() },
            Head { body: 9, ..good.clone() },
        ] {
            check(&work, 0, &wrong).unwrap_err();
        }
    }
}
