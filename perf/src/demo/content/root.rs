//! The content scenarios over kernel TCP: namespaces, the director on AF_XDP, real servers and a real client.

use std::io::{self, Read, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lcs_control::config::{Word as _, XdpMode};
use lcs_control::protocol::ServiceReport;
use lcs_control::run::filter::Filter;
use lcs_hwconf::stack_arm;
use lcs_hwconf::testbed::{ETH0, Host, Plan, ReturnPath, Testbed};
use lcs_pipelines::snapshot::Forward;
use lcs_pipelines::tally::MigrationTally;
use socket2::SockRef;

use super::clock::Clock;
use super::{Content, Conversation, Ear, GROUPS, RuleFile};
use crate::demo::interrupt::Interrupt;
use crate::demo::narrator::Narrator;
use crate::demo::report::{Check, Scenario};
use crate::demo::root::Error;
use crate::demo::root::director::Director;
use crate::demo::root::play::{costs, name_port};
use crate::demo::root::scene::{MAPPED_PORT, SERVICE_PORT};

/// How long an answer may keep silent.
const PATIENCE: Duration = Duration::from_secs(8);

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

/// Plays a scenario to its end.
pub fn play(
    content: Content,
    ipv6: bool,
    narrator: &mut Narrator<'_>,
    interrupt: &Interrupt,
) -> Result<Scenario, Error> {
    let begun = Instant::now();
    narrator.step("building: client, director and three servers on one bridge");
    let filtered = content.is_filtered();
    let return_path = if content.answers_directly() { ReturnPath::Direct } else { ReturnPath::Director };
    let bed = Testbed::build(Plan { return_path, ..Plan::default() })?;
    let service = SocketAddr::new(bed.virtual_address(0, ipv6), SERVICE_PORT);
    bed.give_virtual_address(service.ip())?;
    let names: Vec<String> = bed.servers().iter().map(|host| host.name().to_owned()).collect();
    let mut servers = vec![];
    for (group, host) in bed.servers().iter().enumerate() {
        let address = if content.answers_directly() {
            host.add_hidden_address(service.ip())?;
            // Wrong guesses come to a server's own address, right ones to the service's.
            let any: std::net::IpAddr = if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            if filtered { service } else { SocketAddr::new(any, SERVICE_PORT) }
        } else {
            SocketAddr::new(bed.server_address(group as u8, ipv6), MAPPED_PORT)
        };
        let name = host.name();
        let started = host.run(|| Server::start(content, group, name, address))?;
        servers.push(started.map_err(|source| Error::Server { name: name.into(), address, source })?);
    }
    interrupt.check()?;
    narrator.step("starting the director on AF_XDP, with the rules");
    for rule in content.rules().lines() {
        narrator.step(format!("  {rule}"));
    }
    let rules = RuleFile::write(content.rules()).map_err(Error::Client)?;
    let key = RuleFile::write_secret("the demo's own secret").map_err(Error::Client)?;
    let mut keys = content.keys(&rules, &names);
    let mut filters = vec![];
    if filtered {
        narrator.step("starting a filter on each server, between its interface and its stack");
        keys += &format!("filter-key = \"{}\"\nfilter-interval = \"200ms\"\n", key.path().display());
        for host in bed.servers() {
            filters.push(filter(content, host, service, key.path())?);
        }
    }
    let text = |socket: &str| configuration(&bed, content, service, &names, &keys, socket);
    let mut director = Director::start_on(bed.director(), text)?;
    drop((rules, key));
    if filtered {
        narrator.step("waiting until every filter has answered");
        director.wait_for_filters(bed.servers().len() as u64)?;
    }
    let conversations = content.conversations(&names);
    let mut clock = if content.stamped() { Some(Clock::new(bed.client(), service)?) } else { None };
    narrator.step(format!("{} connections, every byte of every answer compared", conversations.len()));
    let mut scenario = Scenario {
        name: content.name().into(),
        port: "af_xdp".into(),
        ip: if ipv6 { "ipv6" } else { "ipv4" }.into(),
        ..Scenario::default()
    };
    let mut first_failure = None;
    let mut bytes = 0;
    for conversation in &conversations {
        interrupt.check()?;
        let wanted: usize = conversation.steps.iter().map(|s| s.replies.len()).sum();
        let mut ear = Ear::default();
        let outcome = bed.client().run(|| converse(service, conversation, &mut ear))?;
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
    if let Some((name, ok, detail)) = content.bound(&stats.services) {
        check(name, if ok { Ok(detail) } else { Err(detail) });
    }
    if filtered {
        let (ok, detail) = migrations(&stats.services, &mut filters, conversations.len() as u64)?;
        check(MIGRATIONS, if ok { Ok(detail) } else { Err(detail) });
        for filter in filters {
            filter.stop()?;
        }
    }
    let port = director.status()?.port;
    director.stop()?;
    scenario.ok = checks.iter().all(|c| c.ok);
    scenario.checks = checks;
    costs(&mut scenario, &stats.total);
    name_port(&mut scenario, &port);
    scenario.seconds = begun.elapsed().as_secs_f64();
    Ok(scenario)
}

/// What is checked of migrations.
const MIGRATIONS: &str = "every connection is migrated once, and no answer passes the director";

/// Starts the filter of a real server, with its arm toward the server's stack.
fn filter(content: Content, host: &Host, service: SocketAddr, key: &Path) -> Result<Director, Error> {
    let ends = [(service.ip(), service.port())];
    let names = (stack_arm::FILTER_END, "lcs1");
    stack_arm::create(host.rtnl(), host.ethtool(), names, &ends, 1500)?;
    let filter = Filter {
        interface: ETH0.into(),
        stack: stack_arm::FILTER_END.into(),
        services: vec![service],
        key_file: key.into(),
        listen: vec![],
        port: lcs_pipelines::migration::PORT,
        tunnels: content == Content::FilterTun,
        socket: PathBuf::new(),
        flows: 16_384,
        core: None,
        mode: XdpMode::Auto,
    };
    Director::start_filter(host, filter)
}

/// Whether the counts at both ends are as they must be, and what they are.
fn migrations(services: &[ServiceReport], filters: &mut [Director], connections: u64) -> Result<(bool, String), Error> {
    let of = |services: &[ServiceReport]| {
        let counts = services.iter().filter_map(|s| s.content.as_ref()?.counts.as_ref()?.migrations);
        counts.fold(MigrationTally::default(), |mut sum, n| {
            sum.add(&n);
            sum
        })
    };
    let n = of(services);
    let mut taken = 0;
    for filter in filters {
        taken += of(&filter.stats()?.services).accepted;
    }
    // What the director itself says to clients, an acknowledgement of each request, counts as its server's.
    let back: u64 = services.iter().flat_map(|s| &s.servers).map(|s| s.stats.bytes_out).sum();
    let to_servers: u64 = services.iter().flat_map(|s| &s.servers).map(|s| s.stats.bytes_in).sum();
    let own = 100 * connections;
    let ok = n.sent == connections && n.accepted == connections && taken == connections && back <= own;
    let detail = format!(
        "{} sent, {} accepted, {} refused, {} unanswered; filters took {taken}; {} messages of {} bytes; the \
         director passed {to_servers} bytes of clients and sent them {back} itself",
        n.sent, n.accepted, n.refused, n.unanswered, n.messages, n.bytes
    );
    Ok((ok, detail))
}

/// The director's configuration, as a user would write it.
fn configuration(
    bed: &Testbed,
    content: Content,
    service: SocketAddr,
    names: &[String],
    keys: &str,
    socket: &str,
) -> String {
    let forward = content.forward();
    let source = bed.director_inner_address(service.is_ipv6());
    let sources = if forward == Forward::FullNat || content.is_direct_guess() {
        format!("sources = [\"{source}\"]\n")
    } else {
        String::new()
    };
    let own = [false, true].map(|v6| bed.director_inner_address(v6));
    let servers: String = names
        .iter()
        .enumerate()
        .map(|(n, name)| {
            let address = bed.server_address(n as u8, service.is_ipv6());
            let port = if content.answers_directly() { String::new() } else { format!(", port = {MAPPED_PORT}") };
            format!("  {{ name = \"{name}\", address = \"{address}\"{port} }},\n")
        })
        .collect();
    format!(
        "[director]\nsocket = \"{socket}\"\naddresses = [\"{}\", \"{}\"]\n\n\
         [workers]\nflows = 16384\nidle = \"adaptive\"\n\n\
         [port]\nkind = \"af-xdp\"\ninterfaces = [\"{ETH0}\"]\n\n\
         [[services]]\nname = \"shop\"\naddress = \"{}\"\nport = {SERVICE_PORT}\nforward = \"{}\"\n{sources}{keys}\
         servers = [\n{servers}]\n",
        own[0],
        own[1],
        service.ip(),
        forward.word(),
    )
}

/// Carries on one conversation from the calling thread's namespace.
fn converse(to: SocketAddr, conversation: &Conversation, ear: &mut Ear) -> Result<(), String> {
    let fail = |what: &str, e: io::Error| format!("{what}: {e}");
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).map_err(|e| fail("connect", e))?;
    stream.set_nodelay(true).map_err(|e| fail("connect", e))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|e| fail("connect", e))?;
    let mut chunk = vec![0; 64 << 10];
    for (n, step) in conversation.steps.iter().enumerate() {
        ear.expect(&step.replies);
        stream.write_all(&step.send).map_err(|e| fail(&format!("send step {n}"), e))?;
        while !ear.is_content() {
            match stream.read(&mut chunk).map_err(|e| fail(&format!("wait for the answer to step {n}"), e))? {
                0 => return Err(format!("closed before the answer to step {n}")),
                n => ear.hear(&chunk[..n])?,
            }
        }
    }
    if !conversation.server_closes {
        stream.shutdown(Shutdown::Write).map_err(|e| fail("close", e))?;
    }
    match stream.read(&mut chunk).map_err(|e| fail("wait for the end", e))? {
        0 => Ok(()),
        n => ear.hear(&chunk[..n]),
    }
}

/// A running server; it ends when this is dropped.
struct Server {
    listener: TcpListener,
    stop: Arc<AtomicBool>,
    problems: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(content: Content, group: usize, name: &str, address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let (stop, problems) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(vec![])));
        let (accepting, stopped, found) = (listener.try_clone()?, Arc::clone(&stop), Arc::clone(&problems));
        let name = name.to_owned();
        let thread = std::thread::Builder::new().name(format!("{name} {}", content.name())).spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (name, found) = (name.clone(), Arc::clone(&found));
                // A connection's thread ends with it; the client waits for its answers, not for the thread.
                std::thread::spawn(move || serve(content, group, &name, stream, &found));
            }
        })?;
        Ok(Server { listener, stop, problems, thread: Some(thread) })
    }

    fn problems(&self) -> Vec<String> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes `accept` (Linux: EINVAL from a listener that was shut down).
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn serve(content: Content, group: usize, name: &str, mut stream: TcpStream, found: &Mutex<Vec<String>>) {
    let mut session = content.session(group, name);
    let mut chunk = vec![0; 64 << 10];
    let ended = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(PATIENCE * 2)));
    if ended.is_err() || stream.write_all(&session.greeting()).is_err() {
        return;
    }
    while let Ok(n @ 1..) = stream.read(&mut chunk) {
        match session.hear(&chunk[..n]) {
            Ok((out, closes)) => {
                if stream.write_all(&out).is_err() || closes {
                    break;
                }
            }
            Err(what) => {
                found.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{name}: {what}"));
                return;
            }
        }
    }
    // The client closes too, or has.
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read(&mut chunk);
}
