//! How a scenario goes: load from the beginning to the end, and under it a weight is changed and a server removed.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lcs_control::protocol::{Stats, WorkerStats};

use super::Error;
use super::director::Director;
use super::scene::{SERVICE, Scene, Setup, WEIGHTS};
use super::spread;
use crate::demo::http::{Connection, Failure};
use crate::demo::interrupt::Interrupt;
use crate::demo::load::{Load, LoadPlan, Tally};
use crate::demo::narrator::Narrator;
use crate::demo::report::{Check, Scenario, Stage};

/// How long anything may take that takes milliseconds when all is well.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the connections of a phase may take together.
const PHASE: Duration = Duration::from_secs(20);
/// Connections of a phase, at least; what is more was begun before the next phase.
const CONNECTIONS: u64 = 300;
/// Connections at a time.
const PARALLEL: usize = 8;
/// Requests of each.
const REQUESTS: usize = 3;
/// Sizes of bodies: none, one segment exactly and about, and some that need many.
const SIZES: [usize; 6] = [0, 100, 1448, 5000, 20_000, 60_000];
/// Connections that are held from the beginning to the end: two rounds of the scheduler.
const HELD: usize = 12;
/// A body that is begun before a server is removed and ended after: half of it is more than the buffers of both sockets
/// take, so that its server is still sending when it is removed.
const LONG: &str = "/long/25165824";
/// The weight that the last server gets.
const NEW_WEIGHT: u32 = 6;

/// Plays one scenario to its end.
pub fn play(setup: Setup, narrator: &mut Narrator<'_>, interrupt: &Interrupt) -> Result<Scenario, Error> {
    let begun = Instant::now();
    narrator.step("building: client, director and three servers on one bridge");
    let scene = Scene::build(setup, setup.plan())?;
    interrupt.check()?;
    narrator.step("starting the director on AF_XDP");
    let director = Director::start(&scene)?;
    let mut play = Play {
        to: scene.service(),
        names: scene.bed().servers().iter().map(|host| host.name().to_owned()).collect(),
        scene: &scene,
        director,
        narrator,
        interrupt,
        checks: Vec::new(),
        total: Tally::default(),
    };
    play.run()?;
    let stats = play.director.stats()?;
    play.look_at_counters(&stats);
    let port = play.director.status()?.port;
    let Play { checks, total, director, .. } = play;
    director.stop()?;
    let mut scenario = Scenario {
        name: setup.name().into(),
        port: "af_xdp".into(),
        ip: setup.ip().into(),
        ok: checks.iter().all(|check| check.ok),
        requests: total.requests,
        failed: total.failed,
        per_server: total.per_server,
        checks,
        ..Scenario::default()
    };
    costs(&mut scenario, &stats.total);
    name_port(&mut scenario, &port);
    scenario.seconds = begun.elapsed().as_secs_f64();
    Ok(scenario)
}

struct Play<'a, 'n> {
    to: SocketAddr,
    names: Vec<String>,
    scene: &'a Scene,
    director: Director,
    narrator: &'a mut Narrator<'n>,
    interrupt: &'a Interrupt,
    checks: Vec<Check>,
    total: Tally,
}

/// Connections that stay open from the beginning to the end.
struct Held {
    connections: Vec<Connection>,
    /// One more, in the middle of a long body from the server that will be removed.
    long: Option<(Connection, usize)>,
    tally: Tally,
}

impl Play<'_, '_> {
    fn run(&mut self) -> Result<(), Error> {
        let client = self.scene.bed().client();
        let [first, _, last] = [0, 1, 2].map(|at| self.names.get(at).cloned().unwrap_or_default());

        self.narrator
            .step(format!("{HELD} connections that will stay, and a long answer from {first} that is half read"));
        let mut held = client.run(|| Held::open(self.to, &first))?;
        let placed = spread::compare(&held.tally.connections_per_server, &self.weighted(WEIGHTS));
        self.check("held connections are spread as the weights say", placed);

        self.narrator.step(format!("load: {PARALLEL} connections at a time, {REQUESTS} requests each"));
        let plan = LoadPlan {
            to: self.to,
            parallel: PARALLEL,
            requests: REQUESTS,
            sizes: SIZES.to_vec(),
            most: CONNECTIONS * 4,
            patience: PATIENCE,
        };
        let load = client.run(|| Load::start(plan))?.map_err(Error::Client)?;
        self.wait(&load)?;

        // What is begun while a change is under way belongs to neither side of it.
        load.next_phase();
        self.narrator.step(format!("weight of {last}: {} → {NEW_WEIGHT}, under load", WEIGHTS[2]));
        self.director.set_weight(SERVICE, &last, NEW_WEIGHT)?;
        load.next_phase();
        self.wait(&load)?;

        load.next_phase();
        self.narrator.step(format!("removing {first} under load"));
        self.director.remove_server(SERVICE, &first)?;
        load.next_phase();
        client.run(|| held.go_on())?;
        self.wait(&load)?;
        let finished = client.run(|| held.finish())?;

        self.look_at_load(&load.stop());
        self.look_at_held(&held, &first, finished);
        self.total.add(&held.tally);
        let (requests, failed) = (self.total.requests, self.total.failed);
        let detail = match self.total.failures.first() {
            None => format!("{requests} requests, {} MB of bodies compared byte by byte", self.total.bytes / 1_000_000),
            Some(failure) => format!("{failed} of {requests} failed; the first: {failure}"),
        };
        self.check("every request is answered", if failed == 0 { Ok(detail) } else { Err(detail) });
        Ok(())
    }

    fn wait(&self, load: &Load) -> Result<(), Error> {
        // A load that does not get through shows in what it counted.
        let _ = load.wait(CONNECTIONS, PHASE, || self.interrupt.is_set());
        Ok(self.interrupt.check()?)
    }

    fn weighted(&self, weights: [u32; 3]) -> Vec<(&str, u32)> {
        self.names.iter().map(String::as_str).zip(weights).collect()
    }

    fn check(&mut self, name: &str, outcome: Result<String, String>) {
        let ok = outcome.is_ok();
        let check = Check { name: name.into(), ok, detail: outcome.unwrap_or_else(|detail| detail) };
        self.narrator.check(&check);
        self.checks.push(check);
    }

    fn look_at_load(&mut self, phases: &[Tally]) {
        let [_, second, _] = WEIGHTS;
        for (phase, name, weights) in [
            (0, "connections are spread as the weights say", WEIGHTS),
            (2, "the new weight acts on new connections", [WEIGHTS[0], second, NEW_WEIGHT]),
            (4, "a removed server gets no new connection, the others share as before", [0, second, NEW_WEIGHT]),
        ] {
            let outcome = match phases.get(phase) {
                Some(tally) if tally.connections >= CONNECTIONS => {
                    spread::compare(&tally.connections_per_server, &self.weighted(weights))
                }
                other => Err(format!(
                    "{} of {CONNECTIONS} connections within {PHASE:?}",
                    other.map_or(0, |tally| tally.connections)
                )),
            };
            self.check(name, outcome);
        }
        for phase in phases {
            self.total.add(phase);
        }
        let (address, own_port) = self.scene.seen_as();
        let strangers: u64 =
            self.total.seen_as.iter().filter(|(seen, _)| **seen != (address, own_port)).map(|(_, n)| n).sum();
        let how = if own_port { "with the client's own port" } else { "with a port of the director's" };
        // A port that full NAT chose may happen to be the client's.
        let same = self.total.seen_as.get(&(address, !own_port)).copied().unwrap_or(0);
        let wrong = if own_port { strangers } else { strangers - same };
        let detail = format!("{address}, {how}");
        let outcome = if wrong == 0 { Ok(detail) } else { Err(format!("not {detail}, but {:?}", self.total.seen_as)) };
        self.check("servers see the address that they should", outcome);
    }

    fn look_at_held(&mut self, held: &Held, removed: &str, finished: Result<usize, Failure>) {
        let theirs = held.connections.iter().filter(|connection| connection.server() == removed).count();
        let outcome = match (held.tally.failures.first(), finished) {
            (None, Ok(bytes)) => Ok(format!(
                "{theirs} connections to {removed} answered after its removal, and a body of {} MB read to its end",
                bytes >> 20
            )),
            (Some(failure), _) => Err(failure.clone()),
            (None, Err(failure)) => Err(failure.to_string()),
        };
        self.check("connections to the removed server finish", outcome);
    }

    fn look_at_counters(&mut self, stats: &Stats) {
        let setup = self.scene.setup();
        let (into, out) = stats
            .services
            .iter()
            .fold((0, 0), |(into, out), service| (into + service.stats.packets_in, out + service.stats.packets_out));
        let (forwarded, bodies) = (stats.total.forwarded_bytes, self.total.bytes);
        let detail = format!(
            "{into} packets from clients, {out} from servers; {} kB forwarded, {} kB of bodies delivered",
            forwarded / 1000,
            bodies / 1000
        );
        if setup.forward.replies_return() {
            let through = into > 0 && out > 0 && forwarded > bodies;
            self.check("replies come back through the director", if through { Ok(detail) } else { Err(detail) });
        } else {
            let around = into > 0 && out == 0 && forwarded < bodies / 4;
            self.check("replies bypass the director", if around { Ok(detail) } else { Err(detail) });
        }
        let accepted: Vec<u64> = self.scene.tunnels().iter().map(|tunnel| tunnel.counts().accepted()).collect();
        if !accepted.is_empty() {
            let detail = format!("{accepted:?} packets by server");
            let all = accepted.iter().all(|packets| *packets > 0);
            self.check("servers take packets out of the tunnel", if all { Ok(detail) } else { Err(detail) });
        }
    }
}

impl Held {
    fn open(to: SocketAddr, long_from: &str) -> Held {
        let mut held = Held { connections: Vec::new(), long: None, tally: Tally::default() };
        for _ in 0..HELD {
            match Connection::open(to, PATIENCE).and_then(|mut connection| {
                let answer = connection.get("/held/0/1000", false)?;
                Ok((connection, answer))
            }) {
                Ok((connection, answer)) => {
                    held.tally.connections += 1;
                    *held.tally.connections_per_server.entry(answer.server.clone()).or_default() += 1;
                    held.tally.answered(&answer.server, answer.size);
                    held.connections.push(connection);
                }
                Err(failure) => held.tally.failed(1, &failure),
            }
        }
        held.long = held.begin_long(long_from);
        held
    }

    /// Turns one of the connections to `server` into one that is in the middle of a long body.
    fn begin_long(&mut self, server: &str) -> Option<(Connection, usize)> {
        let at = self.connections.iter().position(|connection| connection.server() == server)?;
        let mut connection = self.connections.remove(at);
        let begun = connection.begin(LONG, false).and_then(|answer| {
            connection.body(LONG, 0, answer.size / 2)?;
            Ok(answer.size)
        });
        match begun {
            Ok(size) => Some((connection, size)),
            Err(failure) => {
                self.tally.failed(1, &failure);
                None
            }
        }
    }

    /// One more request on each.
    fn go_on(&mut self) {
        for connection in &mut self.connections {
            let before = connection.server().to_owned();
            match connection.get("/held/1/3000", false) {
                Ok(answer) if answer.server == before => self.tally.answered(&answer.server, answer.size),
                Ok(answer) => {
                    let wrong = format!("came from {} on a connection to {before}", answer.server);
                    self.tally.failed(1, &Failure::Answer { path: "/held/1/3000".into(), wrong });
                }
                Err(failure) => self.tally.failed(1, &failure),
            }
        }
    }

    /// Reads the long body to its end, then asks once more on every connection. Gives the long body's size.
    fn finish(&mut self) -> Result<usize, Failure> {
        self.go_on();
        let Some((mut connection, size)) = self.long.take() else {
            return Err(Failure::Answer { path: LONG.into(), wrong: "was never begun".into() });
        };
        let read = size / 2;
        let outcome = connection.body(LONG, read, size - read).and_then(|()| connection.get("/held/2/10", true));
        match &outcome {
            Ok(answer) => {
                self.tally.answered(&answer.server, size);
                self.tally.answered(&answer.server, answer.size);
            }
            Err(failure) => self.tally.failed(2, failure),
        }
        outcome.map(|_| size)
    }
}

/// Costs and drops, from what the workers counted.
pub(in crate::demo) fn costs(scenario: &mut Scenario, stats: &WorkerStats) {
    let is_port = |stage: &&Stage| matches!(stage.name.as_str(), "receive" | "transmit");
    scenario.stages = stats
        .stages
        .iter()
        .filter(|stage| stage.cost.packets > 0)
        .map(|s| Stage { name: s.name.clone(), cycles_per_packet: s.cycles_per_packet, packets: s.cost.packets })
        .collect();
    let per_packet = |of_port: bool| {
        let stages = scenario.stages.iter().filter(|stage| is_port(stage) == of_port);
        stages.map(|s| s.cycles_per_packet * s.packets as f64).sum::<f64>() / stats.received.max(1) as f64
    };
    (scenario.cycles_per_packet, scenario.port_cycles_per_packet) = (per_packet(false), per_packet(true));
    scenario.packets = stats.received;
    scenario.drops = stats.drops.iter().map(|drop| (drop.reason.clone(), drop.frames)).collect();
}

/// Mode of the port, from how it names itself: `eth0: native XDP, copy mode`.
pub(in crate::demo) fn name_port(scenario: &mut Scenario, port: &[String]) {
    let says = |word: &str| port.iter().any(|line| line.contains(word));
    scenario.mode = if says("native") { "native" } else { "generic" }.into();
    scenario.copy = if says("zero-copy") { "zero-copy" } else { "copy" }.into();
}
