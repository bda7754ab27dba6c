//! The content scenarios over kernel TCP: namespaces, the director on AF_XDP, real servers and a real client.

use std::io::{self, Read, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use lcs_control::protocol::ServiceReport;
use lcs_pipelines::tally::MigrationTally;

use super::clock::Clock;
use super::stage::{Server, Stage, migrated};
use super::{BAD_LINKS, Content, Conversation, Ear, GROUPS, bad};
use crate::demo::interrupt::Interrupt;
use crate::demo::narrator::Narrator;
use crate::demo::report::{Check, Scenario};
use crate::demo::root::Error;
use crate::demo::root::director::Director;
use crate::demo::root::play::{costs, name_port};
use crate::demo::root::relay::{Carried, Relay};
use crate::network::link::Faults;

/// How long an answer may keep silent.
pub(super) const PATIENCE: Duration = Duration::from_secs(8);

/// Plays the scenarios over IPv4 and IPv6, one after the other, as far as it's not interrupted.
///
/// # Errors
/// Where namespaces may not be made. What keeps a single scenario from being played is told as a check of it that was
/// not passed.
pub fn run(contents: &[Content], narrator: &mut Narrator<'_>, interrupt: &Interrupt) -> Result<Vec<Scenario>, Error> {
    let mut scenarios = vec![];
    for (content, ipv6) in contents.iter().flat_map(|c| [(*c, false), (*c, true)]) {
        if interrupt.is_set() {
            break;
        }
        let ip = if ipv6 { "ipv6" } else { "ipv4" };
        narrator.scene(format_args!("{} over {ip}", content.name()));
        match play(content, ipv6, narrator, interrupt) {
            Ok(scenario) => scenarios.push(scenario),
            Err(Error::Interrupted(_)) => break,
            Err(error) if error.is_permission() => return Err(error),
            Err(error) => {
                let name = "the scenario is played to its end".into();
                let check = Check { name, ok: false, detail: error.to_string() };
                narrator.check(&check);
                scenarios.push(Scenario {
                    name: content.name().into(),
                    port: "af_xdp".into(),
                    ip: ip.into(),
                    checks: vec![check],
                    ..Scenario::default()
                });
            }
        }
    }
    Ok(scenarios)
}

/// Plays a scenario to its end, over the links that are its own.
pub fn play(
    content: Content,
    ipv6: bool,
    narrator: &mut Narrator<'_>,
    interrupt: &Interrupt,
) -> Result<Scenario, Error> {
    if content == Content::FilterFallback {
        return super::fallback::play(content, ipv6, narrator, interrupt);
    }
    play_over(content.faults(), content, ipv6, narrator, interrupt)
}

/// Plays a scenario to its end over links with `faults`. Where these are bad, how often connections were bound in which
/// way, and when timestamps came, is not looked at: it is up to the links as well.
pub fn play_over(
    faults: Faults,
    content: Content,
    ipv6: bool,
    narrator: &mut Narrator<'_>,
    interrupt: &Interrupt,
) -> Result<Scenario, Error> {
    let begun = Instant::now();
    let good = !faults.any();
    let stage = Stage::build(content, ipv6, faults, narrator, interrupt)?;
    let Stage { bed, service, names, servers, mut filters, mut director, key: _key, tunnels: _tunnels, cables } = stage;
    let conversations = content.conversations(&names);
    let mut clock = if content.stamped() && good { Some(Clock::new(bed.client(), service)?) } else { None };
    narrator.step(format!("{} connections, every byte of every answer compared", conversations.len()));
    let mut scenario = Scenario {
        name: content.name().into(),
        port: "af_xdp".into(),
        ip: if ipv6 { "ipv6" } else { "ipv4" }.into(),
        ..Scenario::default()
    };
    let mut first_failure = None;
    let mut bytes = 0;
    let mut asked = Instant::now();
    for conversation in &conversations {
        interrupt.check()?;
        if asked.elapsed() > Duration::from_secs(10) {
            // The director closes control connections that keep silent for a minute.
            director.status()?;
            asked = Instant::now();
        }
        let wanted: usize = conversation.steps.iter().map(|s| s.replies.len()).sum();
        let mut ear = Ear::default();
        // Over bad cables a step may meet several repetitions, each twice as late as the one before.
        let patience = if good { PATIENCE } else { PATIENCE * 3 };
        let outcome = bed.client().run(|| converse(service, conversation, &mut ear, patience))?;
        scenario.requests += wanted as u64;
        scenario.failed += (wanted - ear.answered.len()) as u64;
        bytes += ear.bytes;
        for server in ear.answered.iter().filter(|s| !s.is_empty()) {
            *scenario.per_server.entry(server.clone()).or_default() += 1;
        }
        if let Some(clock) = &mut clock {
            clock.look()?;
        }
        if let Err(why) = outcome {
            scenario.failed = scenario.failed.max(1);
            first_failure = first_failure.or(Some(why));
        }
    }
    let mut checks = vec![];
    let mut check = |name: &str, outcome: Result<String, String>| {
        let ok = outcome.is_ok();
        let check = Check { name: name.into(), ok, detail: outcome.unwrap_or_else(|detail| detail) };
        narrator.check(&check);
        checks.push(check);
    };
    let (requests, failed) = (scenario.requests, scenario.failed);
    check(
        "every answer is the right server's, byte for byte",
        match first_failure {
            None => Ok(format!("{requests} answers, {} kB compared", bytes / 1000)),
            Some(why) => Err(format!("{failed} of {requests} failed; the first: {why}")),
        },
    );
    let wrong: Vec<String> = servers.iter().flat_map(Server::problems).collect();
    check(
        "no server gets a byte that is not for its group",
        match wrong.first() {
            None => Ok(format!("{} servers compared every request", servers.len())),
            Some(first) => Err(format!("{} times; the first: {first}", wrong.len())),
        },
    );
    let used = GROUPS.len() - names.iter().filter(|n| !scenario.per_server.contains_key(*n)).count();
    let least = content.least_servers();
    let detail = format!("{:?}", scenario.per_server);
    check("rules send requests to different servers", if used >= least { Ok(detail) } else { Err(detail) });
    if let Some(clock) = &clock {
        check("over all servers the client sees one clock", clock.outcome());
    }
    let stats = director.stats()?;
    if good && let Some((name, ok, detail)) = content.bound(&stats.services) {
        check(name, if ok { Ok(detail) } else { Err(detail) });
    }
    if !good {
        let mut carried = Carried::default();
        cables.iter().flat_map(Relay::carried).for_each(|one| carried.add(&one));
        let (ok, seen) = bad(&carried.link);
        let detail = match carried.overload() {
            0 => seen,
            more => format!("{seen}; the relays were too slow for {more} more"),
        };
        check(BAD_LINKS, if ok { Ok(detail) } else { Err(detail) });
        let left = match director.wait_until_empty(PATIENCE) {
            Err(Error::Late { log, .. }) => Err(log),
            left => Ok(left?),
        };
        check("nothing is left at the director", left);
    }
    if content.is_filtered() && good {
        let name = if content.is_led() { RECALLS } else { MIGRATIONS };
        let (ok, detail) = migrations(content, &stats.services, &mut filters, scenario.requests)?;
        check(name, if ok { Ok(detail) } else { Err(detail) });
    }
    for filter in filters {
        filter.stop()?;
    }
    let port = director.status()?.port;
    director.stop()?;
    for cable in cables {
        // One that ended by itself carried nothing from then on: that is no fault of the director's.
        cable.stop()?;
    }
    scenario.ok = checks.iter().all(|c| c.ok);
    scenario.checks = checks;
    costs(&mut scenario, &stats.total);
    name_port(&mut scenario, &port);
    scenario.seconds = begun.elapsed().as_secs_f64();
    Ok(scenario)
}

/// What is checked of migrations.
const MIGRATIONS: &str = "every connection is migrated once, and no answer passes the director";

const RECALLS: &str = "the connection goes from filter to filter between requests, and no answer passes the director";

/// Whether the counts at both ends are as they must be, and what they are.
fn migrations(
    content: Content,
    services: &[ServiceReport],
    filters: &mut [Director],
    requests: u64,
) -> Result<(bool, String), Error> {
    let n = migrated(services);
    let mut taken = MigrationTally::default();
    for filter in filters {
        taken.add(&migrated(&filter.stats()?.services));
    }
    // What the director itself says to clients, an acknowledgement of each request, counts as its server's.
    let back: u64 = services.iter().flat_map(|s| &s.servers).map(|s| s.stats.bytes_out).sum();
    let to_servers: u64 = services.iter().flat_map(|s| &s.servers).map(|s| s.stats.bytes_in).sum();
    // Asked back, it acknowledges what is held a second time.
    let own = if content.is_led() { 300 } else { 100 } * requests;
    let same = n.accepted + n.continued == requests && taken.accepted + taken.continued == requests;
    let moved = if content.is_led() {
        n.continued > 0 && n.recalled > requests / 2 && taken.recalled == n.recalled
    } else {
        n.sent == requests && n.continued + n.recalled == 0
    };
    let ok = same && moved && n.refused + n.unanswered + n.fallback == 0 && back <= own;
    let detail = format!(
        "{} sent, {} accepted, {} refused, {} unanswered, {} continued, {} recalled; filters took {} and {}, gave back {}; {} \
         messages of {} bytes; the director passed {to_servers} bytes of clients and sent them {back} itself",
        n.sent,
        n.accepted,
        n.refused,
        n.unanswered,
        n.continued,
        n.recalled,
        taken.accepted,
        taken.continued,
        taken.recalled,
        n.messages,
        n.bytes
    );
    Ok((ok, detail))
}

/// Carries on one conversation from the calling thread's namespace.
pub(super) fn converse(
    to: SocketAddr,
    conversation: &Conversation,
    ear: &mut Ear,
    patience: Duration,
) -> Result<(), String> {
    let fail = |what: &str, e: io::Error| format!("{what}: {e}");
    let mut stream = TcpStream::connect_timeout(&to, patience).map_err(|e| fail("connect", e))?;
    stream.set_nodelay(true).map_err(|e| fail("connect", e))?;
    stream.set_read_timeout(Some(patience)).map_err(|e| fail("connect", e))?;
    let mut chunk = vec![0; 64 << 10];
    for (n, step) in conversation.steps.iter().enumerate() {
        ear.expect(&step.replies);
        stream.write_all(&step.send).map_err(|e| fail(&format!("send step {n}"), e))?;
        while !ear.is_content() {
            match read(&mut stream, &mut chunk).map_err(|e| fail(&format!("wait for the answer to step {n}"), e))? {
                0 => return Err(format!("closed before the answer to step {n}")),
                n => ear.hear(&chunk[..n])?,
            }
        }
    }
    if !conversation.server_closes {
        stream.shutdown(Shutdown::Write).map_err(|e| fail("close", e))?;
    }
    match read(&mut stream, &mut chunk).map_err(|e| fail("wait for the end", e))? {
        0 => Ok(()),
        n => ear.hear(&chunk[..n]),
    }
}

/// Waits for bytes and reads them. A wait with a time-out is broken off when the program is stopped and goes on (signal(7)), which is no
/// failure of the connection's: it begins anew.
pub(super) fn read(stream: &mut TcpStream, chunk: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(chunk) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
