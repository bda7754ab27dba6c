//! The scenario `filter-fallback` over kernel TCP: requests come all the time, and one server's filter is killed and started again.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lcs_hwconf::testbed::Host;
use lcs_pipelines::tally::MigrationTally;

use super::root::converse;
use super::stage::{Server, Stage, migrated, start_filter};
use super::{Content, Conversation, Ear};
use crate::demo::interrupt::Interrupt;
use crate::demo::narrator::Narrator;
use crate::demo::report::{Check, Scenario};
use crate::demo::root::Error;
use crate::demo::root::director::Director;
use crate::demo::root::play::{costs, name_port};

/// How long what comes about by itself may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer may keep silent: the director finds out sooner that a filter is gone.
const SILENCE: Duration = Duration::from_secs(2);
/// Clients at the same time.
const CLIENTS: usize = 4;
/// Connections that must have been served in each part of the scenario.
const EACH: u64 = 30;
/// The server whose filter is killed.
const VICTIM: usize = 0;

/// One connection that is over.
struct Call {
    begun: Instant,
    ended: Instant,
    /// The server that answered, or was to.
    server: String,
    bytes: u64,
    outcome: Result<(), String>,
}

/// Clients that ask one thing after another.
struct Crowd {
    stop: Arc<AtomicBool>,
    calls: Arc<Mutex<Vec<Call>>>,
    clients: Vec<JoinHandle<()>>,
}

impl Crowd {
    fn start(host: &Host, to: SocketAddr, conversations: &Arc<Vec<Conversation>>) -> Result<Self, Error> {
        let mut crowd = Crowd { stop: Arc::default(), calls: Arc::default(), clients: vec![] };
        for n in 0..CLIENTS {
            let (stop, calls) = (Arc::clone(&crowd.stop), Arc::clone(&crowd.calls));
            let conversations = Arc::clone(conversations);
            let asks = move || {
                for conversation in conversations.iter().cycle().skip(n * conversations.len() / CLIENTS) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let (begun, mut ear) = (Instant::now(), Ear::default());
                    let outcome = converse(to, conversation, &mut ear, SILENCE);
                    let server = conversation.servers().next().unwrap_or_default().to_owned();
                    let call = Call { begun, ended: Instant::now(), server, bytes: ear.bytes, outcome };
                    calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
                }
            };
            crowd.clients.push(host.spawn(&format!("client {n}"), asks)?);
        }
        Ok(crowd)
    }

    /// Waits until each has had the answer that it waits for.
    fn stop(mut self) -> Vec<Call> {
        self.end();
        std::mem::take(&mut self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            if let Err(panic) = client.join()
                && !thread::panicking()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.end();
    }
}

/// Waits until what a director or filter has counted of migrations is so.
fn wait(
    of: &mut Director,
    what: &'static str,
    interrupt: &Interrupt,
    is_so: impl Fn(&MigrationTally) -> bool,
) -> Result<MigrationTally, Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        interrupt.check()?;
        let n = migrated(&of.stats()?.services);
        if is_so(&n) {
            return Ok(n);
        }
        if Instant::now() > deadline {
            return Err(Error::Late { what, log: format!("{n:?}") });
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Plays it to its end.
pub(super) fn play(
    content: Content,
    ipv6: bool,
    narrator: &mut Narrator<'_>,
    interrupt: &Interrupt,
) -> Result<Scenario, Error> {
    let begun = Instant::now();
    let mut stage = Stage::build(content, ipv6, content.faults(), narrator, interrupt)?;
    let conversations = Arc::new(content.conversations(&stage.names));
    let all = stage.filters.len() as u64;
    narrator.step(format!("{CLIENTS} clients ask all the time, every byte of every answer compared"));
    let crowd = Crowd::start(stage.bed.client(), stage.service, &conversations)?;
    let before = wait(&mut stage.director, "requests at filters", interrupt, |n| n.accepted >= EACH)?;

    narrator.step(format!("killing the filter of {}", stage.names[VICTIM]));
    let kill = Instant::now();
    drop(stage.filters.remove(VICTIM));
    let killed = Instant::now();
    let gone = wait(&mut stage.director, "requests over full NAT", interrupt, |n| {
        n.live < all && n.fallback >= before.fallback + EACH + CLIENTS as u64
    })?;
    let known = killed.elapsed();

    narrator.step("starting it again");
    let restarted = Instant::now();
    let host = &stage.bed.servers()[VICTIM];
    let mut filter = start_filter(content, host, stage.service, stage.key.path())?;
    wait(&mut stage.director, "the filter's answer", interrupt, |n| n.live == all)?;
    let back = Instant::now();
    let again = wait(&mut filter, "requests at the filter that is back", interrupt, |n| n.accepted >= EACH / 3)?;
    stage.filters.push(filter);
    let calls = crowd.stop();

    let mut scenario = Scenario {
        name: content.name().into(),
        port: "af_xdp".into(),
        ip: if ipv6 { "ipv6" } else { "ipv4" }.into(),
        requests: calls.len() as u64,
        ..Scenario::default()
    };
    let victim = &stage.names[VICTIM];
    let mut checks = vec![];
    let mut check = |name: &str, ok: bool, detail: String| {
        let check = Check { name: name.into(), ok, detail };
        narrator.check(&check);
        checks.push(check);
    };
    // What the filter had when it was killed has ended with it: its numbers were known to nobody else.
    let lost = |call: &Call| call.server == *victim && call.begun <= killed && call.ended >= kill;
    let failed: Vec<&Call> = calls.iter().filter(|call| call.outcome.is_err()).collect();
    let (excused, wrong): (Vec<&Call>, Vec<&Call>) = failed.into_iter().partition(|call| lost(call));
    scenario.failed = wrong.len() as u64;
    let bytes: u64 = calls.iter().map(|call| call.bytes).sum();
    let detail = match wrong.first() {
        None => format!(
            "{} answers, {} kB compared; {} more were on the killed filter",
            calls.len() - excused.len(),
            bytes / 1000,
            excused.len()
        ),
        Some(Call { begun, ended, server, outcome, .. }) => format!(
            "{} of {} failed; the first: from {server}, begun {:.3} s and ended {:.3} s after the filter was killed: {}",
            wrong.len(),
            calls.len(),
            signed(*begun, killed),
            signed(*ended, killed),
            outcome.as_ref().err().map_or("", String::as_str),
        ),
    };
    check("every answer is the right server's, byte for byte", wrong.is_empty(), detail);
    let wrong: Vec<String> = stage.servers.iter().flat_map(Server::problems).collect();
    let detail = wrong.first().map_or_else(
        || format!("{} servers compared every request", stage.servers.len()),
        |first| format!("{} times; the first: {first}", wrong.len()),
    );
    check("no server gets a byte that is not for its group", wrong.is_empty(), detail);
    for call in calls.iter().filter(|call| call.outcome.is_ok()) {
        *scenario.per_server.entry(call.server.clone()).or_default() += 1;
    }
    let of_victim = || calls.iter().filter(|call| call.outcome.is_ok() && call.server == *victim);
    let without = || of_victim().filter(|call| call.begun >= killed && call.begun < restarted);
    let longest = without().map(|call| call.ended - call.begun).max().unwrap_or_default();
    check(
        "without its filter a server is reached over full NAT",
        without().count() as u64 >= EACH && longest < SILENCE,
        format!(
            "{} connections within {:.2} s, {} answered by that server, the longest in {:.2} s",
            gone.fallback - before.fallback,
            known.as_secs_f64(),
            without().count(),
            longest.as_secs_f64()
        ),
    );
    let stats = stage.director.stats()?;
    let end = migrated(&stats.services);
    check(
        "a filter that is back is used again",
        of_victim().any(|call| call.begun >= back),
        format!(
            "{} connections when it was asked; {} sent in all, {} accepted, {} refused, {} unanswered",
            again.accepted, end.sent, end.accepted, end.refused, end.unanswered
        ),
    );
    for filter in stage.filters {
        filter.stop()?;
    }
    let port = stage.director.status()?.port;
    stage.director.stop()?;
    scenario.ok = checks.iter().all(|c| c.ok);
    scenario.checks = checks;
    costs(&mut scenario, &stats.total);
    name_port(&mut scenario, &port);
    scenario.seconds = begun.elapsed().as_secs_f64();
    Ok(scenario)
}

/// Seconds from one to the other.
fn signed(at: Instant, from: Instant) -> f64 {
    match at.checked_duration_since(from) {
        Some(later) => later.as_secs_f64(),
        None => -(from - at).as_secs_f64(),
    }
}
