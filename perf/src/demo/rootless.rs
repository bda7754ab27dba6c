//! The demo without root: the same scenarios in the in-process network, with `smoltcp` at both ends, on a simulated clock.
//!
//! The director is the product's own: a configuration as a user would write it, the control core that reads it and is
//! asked as by `lcs` commands, and the layer-4 pipeline in a worker over a memory port. What is not real is the wire.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lcs_control::config::{Configuration, Word};
use lcs_control::director::launch::{memory_environment, plan};
use lcs_control::director::{About, Control, Rings, Unsteered};
use lcs_control::protocol::{Failure, Request, Response, Stats};
use lcs_dataplane::cycles::Tsc;
use lcs_dataplane::port::memory::MemoryPort;

use super::interrupt::{Interrupt, Interrupted};
use super::narrator::Narrator;
use super::report::{Check, Scenario};
use super::root::play::costs;
use super::root::scene::{SERVICE, Setup, WEIGHTS};
use super::root::spread;
use crate::network::http::{self, Closing, HttpClient, Script};
use crate::network::link::Faults;
use crate::network::site::{PORT, Plan, SERVER_PORT, Site};
use crate::network::{BEGIN, MICROSECOND, MILLISECOND, SECOND};

/// Connections of a phase, at least.
const CONNECTIONS: u64 = 300;
/// Connections at a time.
const PARALLEL: usize = 8;
/// Requests of each.
const REQUESTS: u64 = 3;
/// Connections that are held from the beginning to the end: two rounds of the scheduler.
const HELD: u64 = 12;
/// Time between two requests on a held connection.
const PAUSE: u64 = 100 * MILLISECOND;
/// Sizes of bodies: none, one segment exactly and about, and some that need many.
const SIZES: [u64; 6] = [0, 100, 1448, 5000, 20_000, 60_000];
/// The weight that the last server gets.
const NEW_WEIGHT: u32 = 6;
/// Simulated time that a phase, or an answer of the director, may take.
const PATIENCE: u64 = 60 * SECOND;
/// Simulated time before the load begins: every host asks for its neighbours, one a second.
const WARM_UP: u64 = 4 * SECOND;
/// How often the control core is turned.
const TURN: u64 = 200 * MICROSECOND;

/// What keeps a scenario from being played to its end.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    #[error("the configuration of the demo is not valid: {0}")]
    Configuration(#[from] lcs_control::config::Invalid),
    #[error("the director refused: {}", .0.message)]
    Refused(Failure),
    #[error("{0} did not come about within {seconds} simulated seconds", seconds = PATIENCE / SECOND)]
    Late(&'static str),
    #[error("the director answered something else: {0}")]
    Strange(String),
}

/// Plays the scenarios of `setups`, one after the other, as far as it's not interrupted. What keeps a scenario from
/// being played is told as a check of it that was not passed.
pub fn run(setups: &[Setup], narrator: &mut Narrator<'_>, interrupt: &Interrupt) -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for setup in setups {
        narrator.scene(format_args!("{} over {}, in the in-process network", setup.name(), setup.ip()));
        let Some(mut scenario) = attempt(*setup, narrator, interrupt) else { break };
        if let Some(mixed) = setup.mixed() {
            let family = if mixed.server_ipv6 { "IPv6" } else { "IPv4" };
            narrator.scene(format_args!("{} over {}, through {family}", setup.name(), setup.ip()));
            if let Some(other) = attempt(mixed, narrator, interrupt) {
                scenario.add(other, &format!("through {family}"));
            }
        }
        scenarios.push(scenario);
    }
    scenarios
}

/// Plays one scenario; nothing when interrupted.
fn attempt(setup: Setup, narrator: &mut Narrator<'_>, interrupt: &Interrupt) -> Option<Scenario> {
    let begun = Instant::now();
    let mut scenario = Scenario {
        name: setup.name().into(),
        port: "memory".into(),
        mode: "in-process network with smoltcp at both ends and a simulated clock".into(),
        ip: setup.ip().into(),
        ..Scenario::default()
    };
    match play(setup, narrator, interrupt, &mut scenario) {
        Ok(()) => {}
        Err(Error::Interrupted(_)) => return None,
        Err(error) => {
            let name = "the scenario is played to its end".into();
            let check = Check { name, ok: false, detail: error.to_string() };
            narrator.check(&check);
            scenario.checks.push(check);
        }
    }
    scenario.ok = scenario.checks.iter().all(|check| check.ok);
    scenario.seconds = begun.elapsed().as_secs_f64();
    Some(scenario)
}

fn play(
    setup: Setup,
    narrator: &mut Narrator<'_>,
    interrupt: &Interrupt,
    scenario: &mut Scenario,
) -> Result<(), Error> {
    narrator.step("building: clients, director and three servers, joined by simulated links");
    let mut stage = Stage::build(setup)?;
    stage.run_for(WARM_UP);
    let mut play = Play { stage, narrator, interrupt, scenario };
    play.acts()
}

/// The network, its director and the director's control core.
struct Stage {
    setup: Setup,
    site: Site<Tsc>,
    control: Control<Rings, Unsteered>,
    /// Names the phase in the path of every request that is begun.
    phase: Rc<Cell<u32>>,
}

/// What the load of one phase has come to.
#[derive(Debug, Default)]
struct Phase {
    connections: u64,
    per_server: BTreeMap<String, u64>,
}

impl Stage {
    fn build(setup: Setup) -> Result<Self, Error> {
        let wire = Faults { rate: 1_000_000_000, queue: 1_000_000, delay: 20 * MICROSECOND, ..Faults::NONE };
        let site_plan = Plan {
            cross: setup.ipv6 != setup.server_ipv6,
            weights: WEIGHTS.to_vec(),
            client_faults: wire,
            server_faults: wire,
            ..Plan::new(setup.forward, setup.ipv6)
        };
        let configuration = Configuration::parse("the demo's configuration", &text(&site_plan))?;
        let (plans, rings) = plan(&configuration, site_plan.seed);
        let workers = plans.into_iter().map(|p| p.build(MemoryPort::new(site_plan.arms(), 4096), Tsc, BEGIN)).collect();
        let environment = memory_environment(&configuration);
        let about = About { configuration: "the demo's".into(), port: vec!["memory".into()], cores: vec![None] };
        let mut control = Control::new(rings, Unsteered, environment, about);
        control.configure(configuration).map_err(Error::Refused)?;
        let phase = Rc::new(Cell::new(0));
        let clients = vec![load(&site_plan, &phase), held(&site_plan)];
        let site = Site::with_workers(site_plan, workers, clients);
        let mut stage = Stage { setup, site, control, phase };
        let limit = stage.site.net.now() + PATIENCE;
        // Before the first client's first packet has crossed its link.
        while !stage.control.is_settled() {
            if stage.site.net.now() > limit {
                return Err(Error::Late("the director's start"));
            }
            stage.turn();
        }
        Ok(stage)
    }

    /// Turns the control core and lets a little time pass.
    fn turn(&mut self) {
        self.control.poll(Duration::from_nanos(self.site.net.now()));
        self.site.net.wake(self.site.director);
        self.site.net.run_for(TURN);
    }

    fn run_for(&mut self, time: u64) {
        let until = self.site.net.now() + time;
        while self.site.net.now() < until {
            self.turn();
        }
    }

    /// Asks the director what an `lcs` command would ask, and lets the load go on until the answer is there.
    fn ask(&mut self, request: Request) -> Result<Response, Error> {
        let ticket = self.control.submit(request);
        let limit = self.site.net.now() + PATIENCE;
        while self.site.net.now() < limit {
            self.turn();
            while let Some(reply) = self.control.reply() {
                if reply.ticket == ticket && !reply.more {
                    return reply.result.map_err(Error::Refused);
                }
            }
        }
        Err(Error::Late("the director's answer"))
    }

    fn change(&mut self, request: Request) -> Result<(), Error> {
        match self.ask(request)? {
            Response::Applied(_) => Ok(()),
            other => Err(Error::Strange(format!("{other:?}"))),
        }
    }

    fn load(&self) -> &HttpClient {
        self.site.net[self.site.clients[0]].application()
    }

    fn held(&self) -> &HttpClient {
        self.site.net[self.site.clients[1]].application()
    }

    /// Connections that were begun in a phase, by the server that answered them.
    fn phase(&self, phase: u32) -> Phase {
        let mut found = Phase::default();
        let first = format!("/{phase}/0/");
        for answer in self.load().seen.answers.iter().filter(|a| a.path.starts_with(&first)) {
            found.connections += 1;
            *found.per_server.entry(answer.server.clone()).or_default() += 1;
        }
        found
    }
}

/// Short connections without end, whose paths name the phase in which they were begun.
fn load(plan: &Plan, phase: &Rc<Cell<u32>>) -> HttpClient {
    let (to, phase) = (plan.service(), Rc::clone(phase));
    let script = move |n: u64| {
        let request = |k| {
            let size = SIZES[(n * REQUESTS + k) as usize % SIZES.len()];
            let path = format!("/{}/{k}/{size}", phase.get());
            if k == 1 { http::Request::post(&path, size / 4) } else { http::Request::get(&path) }
        };
        let closing = if n.is_multiple_of(2) { Closing::Client } else { Closing::Server };
        Some(Script { closing, ..Script::new(to, (0..REQUESTS).map(request).collect()) })
    };
    HttpClient::new(PARALLEL, script).keep_answers().from(BEGIN + WARM_UP)
}

/// Connections that stay, with a request now and then, longer than everything else takes.
fn held(plan: &Plan) -> HttpClient {
    let to = plan.service();
    let requests = || (0..60).map(|n| http::Request::get(&format!("/held/{n}/{}", 500 + 50 * n))).collect();
    let script = move |n| (n < HELD).then(|| Script { pause: PAUSE, ..Script::new(to, requests()) });
    HttpClient::new(HELD as usize, script).keep_answers()
}

/// The configuration, as a user would write it.
fn text(plan: &Plan) -> String {
    let list = |of: &[std::net::IpAddr]| of.iter().map(|a| format!("\"{a}\"")).collect::<Vec<_>>().join(", ");
    let interfaces = if plan.arms() == 2 { "\"outside\", \"inside\"" } else { "\"outside\"" };
    let mut text = format!(
        "[director]\naddresses = [{}]\n[workers]\nflows = 65536\n[port]\nkind = \"memory\"\ninterfaces = [{interfaces}]\n",
        list(&plan.own_addresses()),
    );
    let port = if plan.two_armed() { SERVER_PORT } else { PORT };
    let mut servers = String::new();
    for (n, weight) in plan.weights.iter().enumerate() {
        let address = plan.server_address(n);
        let (mac, interface) = plan.neighbour(n);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "[[neighbours]]\naddress = \"{address}\"\nmac = \"{mac}\"\ninterface = \"{}\"",
            if interface == 1 { "inside" } else { "outside" }
        );
        let port = if plan.two_armed() { format!("port = {port}, ") } else { String::new() };
        let _ = writeln!(servers, "  {{ name = \"s{}\", address = \"{address}\", {port}weight = {weight} }},", n + 1);
    }
    let sources = plan.sources();
    let sources = if sources.is_empty() { String::new() } else { format!("sources = [{}]\n", list(&sources)) };
    let _ = write!(
        text,
        "[[services]]\nname = \"{SERVICE}\"\naddress = \"{}\"\nport = {PORT}\nscheduler = \"wrr\"\nforward = \"{}\"\n\
         {sources}servers = [\n{servers}]\n",
        plan.service().ip(),
        plan.forward.word(),
    );
    text
}

struct Play<'a, 'n> {
    stage: Stage,
    narrator: &'a mut Narrator<'n>,
    interrupt: &'a Interrupt,
    scenario: &'a mut Scenario,
}

impl Play<'_, '_> {
    fn acts(&mut self) -> Result<(), Error> {
        let [first, last] = ["s1", "s3"].map(String::from);
        let service = || SERVICE.to_owned();
        self.narrator.step(format!(
            "load: {PARALLEL} connections at a time, {REQUESTS} requests each, and {HELD} connections that stay"
        ));
        let placed = spread::compare(&self.stage.held().seen.connections_per_server, &weighted(WEIGHTS));
        self.check("held connections are spread as the weights say", placed);
        // What is begun while a change is under way belongs to neither side of it: the even phases are compared.
        self.stage.phase.set(2);
        self.wait(2)?;

        self.narrator.step(format!("weight of {last}: {} → {NEW_WEIGHT}, under load", WEIGHTS[2]));
        self.stage.phase.set(3);
        self.stage.change(Request::Weight { service: service(), server: last, weight: NEW_WEIGHT })?;
        self.stage.phase.set(4);
        self.wait(4)?;

        self.narrator.step(format!("removing {first} under load"));
        self.stage.phase.set(5);
        self.stage.change(Request::RemoveServer { service: service(), server: first.clone() })?;
        let removed = self.stage.site.net.now();
        self.stage.phase.set(6);
        self.wait(6)?;
        let net = &mut self.stage.site.net;
        net[self.stage.site.clients[0]].application_mut::<HttpClient>().stop();
        self.stage.run_for(5 * PAUSE);

        self.look_at_spread();
        self.look_at_held(&first, removed);
        if !self.stage.site.finish(PATIENCE) {
            return Err(Error::Late("the end of the load"));
        }
        let stats = match self.stage.ask(Request::Stats)? {
            Response::Stats(stats) => stats,
            other => return Err(Error::Strange(format!("{other:?}"))),
        };
        self.look_at_answers();
        self.look_at_counters(&stats);
        costs(self.scenario, &stats.total);
        let whole = self.stage.site.net[self.stage.site.director].check();
        let whole = whole.map(|()| format!("{} frames received, each with one end", stats.total.received));
        self.check("every frame has one end and every buffer comes back", whole);
        Ok(())
    }

    /// Waits until a phase has its connections.
    fn wait(&mut self, phase: u32) -> Result<(), Error> {
        let limit = self.stage.site.net.now() + PATIENCE;
        while self.stage.phase(phase).connections < CONNECTIONS {
            self.interrupt.check()?;
            if self.stage.site.net.now() > limit {
                return Err(Error::Late("a phase's connections"));
            }
            self.stage.run_for(5 * MILLISECOND);
        }
        Ok(())
    }

    fn check(&mut self, name: &str, outcome: Result<String, String>) {
        let ok = outcome.is_ok();
        let check = Check { name: name.into(), ok, detail: outcome.unwrap_or_else(|detail| detail) };
        self.narrator.check(&check);
        self.scenario.checks.push(check);
    }

    fn look_at_spread(&mut self) {
        let [first, second, third] = WEIGHTS;
        for (phase, name, weights) in [
            (2, "connections are spread as the weights say", [first, second, third]),
            (4, "the new weight acts on new connections", [first, second, NEW_WEIGHT]),
            (6, "a removed server gets no new connection, the others share as before", [0, second, NEW_WEIGHT]),
        ] {
            let outcome = spread::compare(&self.stage.phase(phase).per_server, &weighted(weights));
            self.check(name, outcome);
        }
    }

    fn look_at_held(&mut self, removed: &str, since: u64) {
        let seen = &self.stage.held().seen;
        let after = seen.answers.iter().filter(|a| a.server == removed && a.at > since).count();
        let theirs = seen.connections_per_server.get(removed).copied().unwrap_or(0);
        // A connection's answers all come from one server: what one server answered and its connections go together.
        let by_connection = seen.answers.iter().fold(BTreeMap::new(), |mut m: BTreeMap<_, Vec<_>>, a| {
            m.entry(a.local).or_default().push(&a.server);
            m
        });
        let strays = by_connection.values().filter(|servers| servers.iter().any(|s| *s != servers[0])).count();
        let detail = format!("{theirs} connections to {removed} had {after} more answers after its removal");
        let fine = seen.failed == 0 && strays == 0 && after as u64 >= 2 * theirs && theirs > 0;
        let why = seen.failures.first().map_or(String::new(), |f| format!("; {f}"));
        let outcome = if fine { Ok(detail) } else { Err(format!("{detail}, {strays} changed their server{why}")) };
        self.check("connections to the removed server finish", outcome);
    }

    fn look_at_answers(&mut self) {
        let (mut bytes, mut first) = (0, None);
        for client in [self.stage.load(), self.stage.held()] {
            let seen = &client.seen;
            self.scenario.requests += seen.answered + seen.failed;
            self.scenario.failed += seen.failed;
            bytes += seen.bytes;
            first = first.or(seen.failures.first().cloned());
            for (server, n) in &seen.per_server {
                *self.scenario.per_server.entry(server.clone()).or_default() += n;
            }
        }
        let (requests, failed) = (self.scenario.requests, self.scenario.failed);
        let outcome = match first {
            None => Ok(format!("{requests} requests, {} MB of bodies compared byte by byte", bytes / 1_000_000)),
            Some(failure) => Err(format!("{failed} of {requests} failed; the first: {failure}")),
        };
        self.check("every request is answered", outcome);
    }

    fn look_at_counters(&mut self, stats: &Stats) {
        let (into, out) = stats
            .services
            .iter()
            .fold((0, 0), |(into, out), service| (into + service.stats.packets_in, out + service.stats.packets_out));
        let detail = format!("{into} packets from clients, {out} from servers");
        let (name, fine) = if self.stage.setup.forward.replies_return() {
            ("replies come back through the director", into > 0 && out > 0)
        } else {
            ("replies bypass the director", into > 0 && out == 0)
        };
        self.check(name, if fine { Ok(detail) } else { Err(detail) });
        if self.stage.setup.forward == lcs_pipelines::snapshot::Forward::Tunnel {
            let servers = &self.stage.site.servers;
            let taken: Vec<u64> = servers.iter().map(|s| self.stage.site.net[*s].decapsulated).collect();
            let detail = format!("{taken:?} packets by server");
            let all = taken.iter().all(|&n| n > 0);
            self.check("servers take packets out of the tunnel", if all { Ok(detail) } else { Err(detail) });
        }
    }
}

fn weighted(weights: [u32; 3]) -> Vec<(&'static str, u32)> {
    ["s1", "s2", "s3"].into_iter().zip(weights).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_passes_every_check() {
        let mut said = Vec::new();
        let scenarios = run(&Setup::ALL, &mut Narrator::new(&mut said), &Interrupt::default());
        assert_eq!(scenarios.len(), Setup::ALL.len());
        let said = String::from_utf8(said).unwrap();
        for s in &scenarios {
            assert!(s.ok && s.failed == 0 && s.requests > 3 * 3 * CONNECTIONS, "{said}");
            assert_eq!((s.port.as_str(), s.per_server.len()), ("memory", 3), "{said}");
            assert!(s.cycles_per_packet > 0.0 && s.stages.iter().any(|stage| stage.name == "forward"), "{s:?}");
        }
    }

    #[test]
    fn an_interrupted_demo_ends_without_a_scenario_half_played() {
        let interrupt = Interrupt::default();
        interrupt.set();
        assert_eq!(run(&Setup::ALL, &mut Narrator::new(std::io::sink()), &interrupt), []);
    }
}
