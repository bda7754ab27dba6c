//! The content scenarios without root: the same conversations in the in-process network, through the control core.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use lcs_control::config::{Configuration, Word as _};
use lcs_control::director::launch::{memory_environment, plan};
use lcs_control::director::{About, Control, Rings, Unsteered};
use lcs_control::protocol::{Request, Response};
use lcs_dataplane::cycles::Tsc;
use lcs_dataplane::port::memory::MemoryPort;
use lcs_dataplane::worker::Nanos;
use lcs_pipelines::layer4::Layer4;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::session::Session;
use super::{BAD_LINKS, Content, Conversation, Ear, RuleFile, bad};
use crate::demo::interrupt::Interrupt;
use crate::demo::narrator::Narrator;
use crate::demo::report::{Check, Scenario};
use crate::demo::root::play::costs;
use crate::network::director::Director;
use crate::network::host::{Application, Host};
use crate::network::link::{Faults, LinkCounts};
use crate::network::site::{self, PORT, Plan, SERVER_PORT};
use crate::network::stack::Stack;
use crate::network::switch::Switch;
use crate::network::time_wait::Pair;
use crate::network::{BEGIN, Id, MICROSECOND, Network, SECOND};

/// Simulated time that the whole may take.
const PATIENCE: u64 = 200 * SECOND;
/// How often the control core is turned.
const TURN: u64 = 200 * MICROSECOND;

/// Plays the scenarios over IPv4 and IPv6, one after the other, as far as it's not interrupted.
pub fn run(contents: &[Content], narrator: &mut Narrator<'_>, interrupt: &Interrupt) -> Vec<Scenario> {
    let mut scenarios = vec![];
    // Filters are played between hosts with stacks of their own.
    let contents = contents.iter().filter(|content| !content.is_filtered());
    for (content, ipv6) in contents.flat_map(|c| [(*c, false), (*c, true)]) {
        let ip = if ipv6 { "ipv6" } else { "ipv4" };
        narrator.scene(format_args!("{} over {ip}, in the in-process network", content.name()));
        let Some(scenario) = play(content, ipv6, narrator, interrupt) else { break };
        scenarios.push(scenario);
    }
    scenarios
}

/// Plays a scenario; what keeps it from being played is told as a check that was not passed. Nothing when interrupted.
pub fn play(content: Content, ipv6: bool, narrator: &mut Narrator<'_>, interrupt: &Interrupt) -> Option<Scenario> {
    let begun = Instant::now();
    let mut scenario = Scenario {
        name: content.name().into(),
        port: "memory".into(),
        mode: "in-process network with smoltcp at both ends and a simulated clock".into(),
        ip: if ipv6 { "ipv6" } else { "ipv4" }.into(),
        ..Scenario::default()
    };
    narrator.step("client, director and three servers, joined by simulated links");
    let checks = match stage(content, ipv6, interrupt, &mut scenario) {
        Ok(Some(checks)) => checks,
        Ok(None) => return None,
        Err(detail) => vec![Check { name: "the scenario is played to its end".into(), ok: false, detail }],
    };
    for check in &checks {
        narrator.check(check);
    }
    scenario.ok = checks.iter().all(|c| c.ok);
    scenario.checks = checks;
    scenario.seconds = begun.elapsed().as_secs_f64();
    Some(scenario)
}

struct Stage {
    net: Network,
    director: Id<Director<Layer4, Tsc>>,
    control: Control<Rings, Unsteered>,
    client: Id<Host>,
    servers: Vec<Id<Host>>,
}

impl Stage {
    fn build(content: Content, ipv6: bool) -> Result<Self, String> {
        let wire = Faults { rate: 1_000_000_000, queue: 1_000_000, delay: 20 * MICROSECOND, ..content.faults() };
        let mut plan_of = Plan { weights: vec![1; 3], ..Plan::new(content.forward(), ipv6) };
        plan_of.client_tcp.timestamps = content.stamped();
        plan_of.server_tcp.timestamps = content.stamped();
        let names: Vec<String> = (1..=3).map(|n| format!("s{n}")).collect();
        let rules = RuleFile::write(content.rules()).map_err(|e| format!("write the rule file: {e}"))?;
        let text = configuration(&plan_of, &names, &content.keys(&rules, &names));
        let configuration = Configuration::parse("the demo's configuration", &text).map_err(|e| e.to_string())?;
        drop(rules);
        let (plans, rings) = plan(&configuration, plan_of.seed);
        let workers = plans.into_iter().map(|p| p.build(MemoryPort::new(plan_of.arms(), 4096), Tsc, BEGIN)).collect();
        let environment = memory_environment(&configuration);
        let about = About { configuration: "the demo's".into(), port: vec!["memory".into()], cores: vec![None] };
        let mut control = Control::new(rings, Unsteered, environment, about);
        control.configure(configuration).map_err(|failure| failure.message)?;
        let mut net = Network::new(plan_of.seed);
        let director = net.add("director", Director::new(workers));
        let outside = net.add("outside", Switch::new());
        net.connect(director, outside, Faults::NONE);
        let inside = if plan_of.two_armed() {
            let inside = net.add("inside", Switch::new());
            net.connect(director, inside, Faults::NONE);
            inside
        } else {
            outside
        };
        let servers = names.iter().enumerate();
        let servers = servers
            .map(|(n, name)| {
                let port = if plan_of.two_armed() { SERVER_PORT } else { PORT };
                let (connections, problems) = (vec![], vec![]);
                let server = Server { content, port, group: n, name: name.clone(), connections, problems };
                let host = net.add(name, Host::new(site::server_settings(&plan_of, n)).with(server));
                net.connect(host, inside, wire);
                host
            })
            .collect();
        let conversations = content.conversations(&names).into();
        let client = Client { to: plan_of.service(), left: conversations, now: None, seen: Seen::default() };
        let client = net.add("client", Host::new(site::client_settings(&plan_of, 0)).with(client));
        net.connect(client, outside, wire);
        let mut stage = Stage { net, director, control, client, servers };
        while !stage.control.is_settled() {
            if stage.net.now() > BEGIN + PATIENCE {
                return Err("the director did not start in time".into());
            }
            stage.turn();
        }
        Ok(stage)
    }

    fn turn(&mut self) {
        self.control.poll(Duration::from_nanos(self.net.now()));
        self.net.wake(self.director);
        self.net.run_for(TURN);
    }
}

fn stage(
    content: Content,
    ipv6: bool,
    interrupt: &Interrupt,
    scenario: &mut Scenario,
) -> Result<Option<Vec<Check>>, String> {
    let mut stage = Stage::build(content, ipv6)?;
    let limit = stage.net.now() + PATIENCE;
    while !stage.net[stage.client].application::<Client>().finished() && stage.net.now() < limit {
        if interrupt.is_set() {
            return Ok(None);
        }
        stage.turn();
    }
    let client: &Client = stage.net[stage.client].application();
    let seen = client.seen.clone();
    let done = client.finished();
    scenario.requests = seen.requests;
    scenario.failed = seen.requests - seen.answered;
    scenario.per_server = seen.per_server;
    let mut checks = vec![];
    let mut check = |name: &str, ok: bool, detail: String| checks.push(Check { name: name.into(), ok, detail });
    let name = "every answer is the right server's, byte for byte";
    match seen.failures.first() {
        None => check(name, done, format!("{} answers, {} kB compared", seen.answered, seen.bytes / 1000)),
        Some(first) => check(name, false, format!("{} connections failed; the first: {first}", seen.failures.len())),
    }
    let problems = stage.servers.iter().flat_map(|s| &stage.net[*s].application::<Server>().problems);
    let problems: Vec<&String> = problems.collect();
    let detail = problems.first().map_or("3 servers compared every request".into(), ToString::to_string);
    check("no server gets a byte that is not for its group", problems.is_empty(), detail);
    let least = content.least_servers();
    let spread = format!("{:?}", scenario.per_server);
    check("rules send requests to different servers", scenario.per_server.len() >= least, spread);
    let ticket = stage.control.submit(Request::Stats);
    let stats = loop {
        stage.turn();
        match stage.control.reply() {
            Some(reply) if reply.ticket == ticket => match reply.result {
                Ok(Response::Stats(stats)) => break stats,
                other => return Err(format!("the director answered something else: {other:?}")),
            },
            _ if stage.net.now() > limit + PATIENCE => return Err("the director did not answer".into()),
            _ => {}
        }
    };
    costs(scenario, &stats.total);
    if content == Content::BadLinks {
        let hosts = stage.servers.iter().chain([&stage.client]);
        let sum = hosts.flat_map(|host| stage.net.traffic(*host)).fold(LinkCounts::default(), |mut sum, one| {
            sum.add(&one);
            sum
        });
        let (ok, detail) = bad(&sum);
        checks.push(Check { name: BAD_LINKS.into(), ok, detail });
    }
    if let Some((name, ok, detail)) = content.bound(&stats.services) {
        checks.push(Check { name: name.into(), ok, detail });
    }
    let mut check = |name: &str, ok: bool, detail: String| checks.push(Check { name: name.into(), ok, detail });
    let whole = stage.net[stage.director].check();
    let ok = whole.is_ok();
    let received = format!("{} frames received, each with one end", stats.total.received);
    check("every frame has one end and every buffer comes back", ok, whole.err().unwrap_or(received));
    Ok(Some(checks))
}

/// The configuration, as a user would write it.
fn configuration(plan: &Plan, names: &[String], keys: &str) -> String {
    let own: Vec<String> = plan.own_addresses().iter().map(|a| format!("\"{a}\"")).collect();
    let mut sources = plan.sources();
    let (interfaces, inside, port) = if plan.two_armed() {
        ("\"outside\", \"inside\"", "inside", format!(", port = {SERVER_PORT}"))
    } else {
        // On the clients' link, so that wrong guesses can be mended.
        sources.push(if plan.v6 {
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xc8).into()
        } else {
            Ipv4Addr::new(192, 0, 2, 200).into()
        });
        ("\"outside\"", "outside", String::new())
    };
    let sources: Vec<String> = sources.iter().map(|a| format!("\"{a}\"")).collect();
    let sources = if sources.is_empty() { String::new() } else { format!("sources = [{}]\n", sources.join(", ")) };
    let (mut neighbours, mut servers) = (String::new(), String::new());
    for (n, name) in names.iter().enumerate() {
        let (address, (mac, _)) = (plan.server_address(n), plan.neighbour(n));
        neighbours += &format!("[[neighbours]]\naddress = \"{address}\"\nmac = \"{mac}\"\ninterface = \"{inside}\"\n");
        servers += &format!("  {{ name = \"{name}\", address = \"{address}\"{port} }},\n");
    }
    format!(
        "[director]\naddresses = [{}]\n[workers]\nflows = 65536\n[port]\nkind = \"memory\"\n\
         interfaces = [{interfaces}]\n{neighbours}\
         [[services]]\nname = \"shop\"\naddress = \"{}\"\nport = {PORT}\nforward = \"{}\"\n{sources}{keys}servers = [\n{servers}]\n",
        own.join(", "),
        plan.service().ip(),
        plan.forward.word(),
    )
}

/// What the client has seen.
#[derive(Clone, Debug, Default)]
struct Seen {
    requests: u64,
    answered: u64,
    bytes: u64,
    per_server: std::collections::BTreeMap<String, u64>,
    failures: Vec<String>,
}

/// Carries on conversations, one after the other.
struct Client {
    to: SocketAddr,
    left: VecDeque<Conversation>,
    now: Option<Talk>,
    seen: Seen,
}

struct Talk {
    conversation: Conversation,
    socket: SocketHandle,
    pair: Option<Pair>,
    ear: Ear,
    step: usize,
    sent: usize,
    since: Nanos,
    closing: bool,
}

impl Client {
    fn finished(&self) -> bool {
        self.left.is_empty() && self.now.is_none()
    }
}

impl Talk {
    /// Goes on as far as possible; `false` when it is over.
    fn turn(&mut self, socket: &mut tcp::Socket<'_>) -> Result<bool, String> {
        use tcp::State::{CloseWait, LastAck, TimeWait};
        loop {
            let mut progress = false;
            if let Some(step) = self.conversation.steps.get(self.step) {
                if self.sent == 0 && self.ear.answered.is_empty() && self.step == 0 && self.ear.is_content() {
                    self.ear.expect(&step.replies);
                }
                if self.sent < step.send.len() && socket.can_send() {
                    let n = socket.send_slice(&step.send[self.sent..]).unwrap_or(0);
                    self.sent += n;
                    progress |= n > 0;
                }
            }
            if socket.can_recv() {
                let ear = &mut self.ear;
                let heard = socket.recv(|bytes| (bytes.len(), ear.hear(bytes)));
                heard.map_err(|e| e.to_string())??;
                progress = true;
            }
            let sent = self.conversation.steps.get(self.step).is_some_and(|s| self.sent == s.send.len());
            if sent && self.ear.is_content() {
                (self.step, self.sent) = (self.step + 1, 0);
                if let Some(next) = self.conversation.steps.get(self.step) {
                    self.ear.expect(&next.replies);
                }
                progress = true;
            }
            if !progress {
                break;
            }
        }
        let ended = matches!(socket.state(), CloseWait | LastAck | TimeWait);
        if self.step < self.conversation.steps.len() {
            let open = socket.is_open() && !ended;
            return if open { Ok(true) } else { Err(format!("ended before the answer to step {}", self.step)) };
        }
        if !self.closing && (!self.conversation.server_closes || ended) {
            self.closing = true;
            socket.close();
        }
        match socket.is_active() {
            true => Ok(true),
            false if self.closing => Ok(false),
            false => Err("reset instead of closed".into()),
        }
    }
}

impl Application for Client {
    fn poll(&mut self, stack: &mut Stack, now: Nanos) -> Option<Nanos> {
        loop {
            if self.now.is_none() {
                let conversation = self.left.pop_front()?;
                self.seen.requests += conversation.steps.iter().map(|s| s.replies.len() as u64).sum::<u64>();
                let Some(socket) = stack.connect(self.to, now) else {
                    self.seen.failures.push("no ephemeral port was free".into());
                    continue;
                };
                let pair = stack.pair(socket);
                let ear = Ear::default();
                self.now = Some(Talk { conversation, socket, pair, ear, step: 0, sent: 0, since: now, closing: false });
            }
            let Some(talk) = &mut self.now else { return None };
            let why = match talk.turn(stack.tcp(talk.socket)) {
                Ok(true) if now < talk.since + 30 * SECOND => return Some(talk.since + 30 * SECOND),
                Ok(true) => Some(format!("no answer in time to step {}", talk.step)),
                Ok(false) => None,
                Err(why) => Some(why),
            };
            self.seen.failures.extend(why);
            self.seen.answered += talk.ear.answered.len() as u64;
            self.seen.bytes += talk.ear.bytes;
            for server in talk.ear.answered.iter().filter(|s| !s.is_empty()) {
                *self.seen.per_server.entry(server.clone()).or_default() += 1;
            }
            stack.release(talk.socket, talk.pair, now);
            self.now = None;
        }
    }
}

/// A server of a scenario.
struct Server {
    content: Content,
    port: u16,
    group: usize,
    name: String,
    connections: Vec<Served>,
    problems: Vec<String>,
}

struct Served {
    socket: SocketHandle,
    pair: Option<Pair>,
    session: Session,
    out: Vec<u8>,
    closes: bool,
}

impl Application for Server {
    fn poll(&mut self, stack: &mut Stack, now: Nanos) -> Option<Nanos> {
        let Server { content, port, group, name, connections, problems } = self;
        let mut listening = 0;
        connections.retain_mut(|c| {
            let socket = stack.tcp(c.socket);
            if c.pair.is_none() {
                if matches!(socket.state(), tcp::State::Listen | tcp::State::SynReceived) {
                    listening += usize::from(socket.state() == tcp::State::Listen);
                    return true;
                }
                c.pair = stack.pair(c.socket);
                c.out = c.session.greeting();
            }
            let socket = stack.tcp(c.socket);
            while socket.can_recv() && !c.closes {
                let session = &mut c.session;
                match socket.recv(|bytes| (bytes.len(), session.hear(bytes))) {
                    Ok(Ok((out, closes))) => {
                        c.out.extend(out);
                        c.closes = closes;
                    }
                    Ok(Err(what)) => {
                        problems.push(format!("{name}: {what}"));
                        socket.abort();
                    }
                    Err(_) => break,
                }
            }
            while !c.out.is_empty() && socket.can_send() {
                let n = socket.send_slice(&c.out).unwrap_or(0);
                c.out.drain(..n);
                if n == 0 {
                    break;
                }
            }
            if c.out.is_empty() && (c.closes || !socket.may_recv()) {
                socket.close();
            }
            let active = socket.is_active();
            if !active {
                stack.release(c.socket, c.pair, now);
            }
            active
        });
        for _ in listening..8 {
            let socket = stack.listen(*port);
            let session = content.session(*group, name);
            connections.push(Served { socket, pair: None, session, out: vec![], closes: false });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_passes_every_check() {
        for content in Content::ALL.into_iter().filter(|content| !content.is_filtered()) {
            for ipv6 in [false, true] {
                let mut said = vec![];
                let s = play(content, ipv6, &mut Narrator::new(&mut said), &Interrupt::default()).unwrap();
                assert!(
                    s.ok && s.failed == 0 && s.requests >= 60,
                    "{content:?} {ipv6}: {}",
                    String::from_utf8_lossy(&said)
                );
                assert!(s.cycles_per_packet > 0.0, "{s:?}");
            }
        }
    }
}
