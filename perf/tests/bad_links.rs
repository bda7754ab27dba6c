//! Transfers between real kernels over links that lose, double and reorder frames: every byte is compared at its
//! receiver, and nothing is left at the director.
//!
//! The links are made bad by a relay of our own ([`Relay`]), not by `tc netem`, which not every kernel has; so results
//! do not depend on it. Clients and servers are Linux's TCP with SACK, and timestamps where they are agreed upon.

mod support;

use lcs_hwconf::testbed::{ETH0, Host};
use lcs_perf::demo::content::RuleFile;
use lcs_perf::demo::http::{Connection, Failure};
use lcs_perf::demo::root::director::Director;
use lcs_perf::demo::root::relay::{Carried, Relay};
use lcs_perf::demo::root::scene::{Scene, Setup};
use lcs_perf::network::link::Faults;
use lcs_pipelines::snapshot::Forward;
use std::time::Duration;
use std::time::Instant;
use support::{eventually, root};

/// How long an answer may keep silent: over a bad link a segment may have to be sent again several times, after 200 ms at
/// first and twice as long each time.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of the long transfer.
const LONG: usize = 100_000_000;
/// Bytes of the others.
const MEDIUM: usize = 15_000_000;

/// Five frames in a thousand are lost, five arrive twice, fifteen are overtaken by those of the next three milliseconds.
const BAD: Faults =
    Faults { delay: 0, loss: 0.005, duplicate: 0.005, reorder: 0.015, hold: 3_000_000, ..Faults::NONE };

/// Which cables are bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Servers,
    Both,
}

/// The relays of a scene.
struct Cables(Vec<Relay>);

impl Cables {
    /// Makes the cables of `side` bad, each way of each by draws of its own.
    fn cut(scene: &Scene, side: Side, faults: Faults, seed: u64) -> Self {
        let bed = scene.bed();
        let client = Some(bed.client()).filter(|_| side != Side::Servers);
        let servers: &[Host] = if side == Side::Client { &[] } else { bed.servers() };
        let hosts = client.into_iter().chain(servers).zip(seed..);
        Cables(hosts.map(|(host, seed)| Relay::start(bed, host, ETH0, [faults; 2], seed).unwrap()).collect())
    }

    /// What became of all frames.
    fn carried(&self) -> Carried {
        let mut sum = Carried::default();
        self.0.iter().flat_map(Relay::carried).for_each(|one| sum.add(&one));
        sum
    }
}

/// What a transfer is looked at for: that it went well, over links that were as bad as they should be, and that nothing
/// of it is left. `allowed`: why the director may have dropped frames.
struct Outcome<'a> {
    what: String,
    outcome: Result<(), Failure>,
    director: &'a mut Director,
    cables: &'a Cables,
    begun: Instant,
}

impl Outcome<'_> {
    fn check(self, allowed: &[&str]) {
        let Outcome { what, outcome, director, cables, begun } = self;
        let carried = cables.carried();
        let total = director.stats().unwrap().total;
        let state = || format!("{what}: links: {carried:?}; director: {:?} {:?}", total.drops, total.states);
        if let Err(failure) = outcome {
            panic!("{failure}\n{}", state());
        }
        println!("{:.1} s, {}", begun.elapsed().as_secs_f64(), state());
        let Carried { link, .. } = carried;
        assert!(link.lost > 0 && link.duplicated > 0 && link.reordered > 0, "{}", state());
        for drops in &total.drops {
            assert!(allowed.contains(&drops.reason.as_str()), "{} {}: {}", drops.frames, drops.reason, state());
        }
        eventually("the end of everything that was open", || {
            let stats = director.stats().unwrap();
            let counts = stats.services.iter().filter_map(|s| s.content.as_ref()?.counts.as_ref());
            let left: u64 = counts.map(|c| c.parked + c.in_hand).sum();
            left == 0 && stats.total.states.iter().all(|(state, flows)| *flows == 0 || state == "time-wait")
        });
    }
}

fn setup(forward: Forward, ipv6: bool) -> Setup {
    Setup { forward, ipv6, server_ipv6: ipv6 }
}

fn connected(scene: &Scene, action: impl FnOnce(&mut Connection) -> Result<(), Failure> + Send) -> Result<(), Failure> {
    scene.bed().client().run(|| action(&mut Connection::open(scene.service(), PATIENCE)?)).unwrap()
}

/// `bytes` up to one server, `bytes` down from another, and back to the first, in one connection through a splice.
fn there_and_back(forward: Forward, ipv6: bool, mtu: u32, side: Side, keys: &str, bytes: usize) {
    let rules = RuleFile::write("up: if (prefix(url, \"/up\")) forward(server1)\ndefault: forward(server2)\n").unwrap();
    let setup = setup(forward, ipv6);
    let scene = Scene::build(setup, setup.plan()).unwrap();
    let scene = scene.with_keys(format!("rules = {:?}\n{keys}", rules.path().display().to_string()));
    scene.bed().client().rtnl().set_mtu(ETH0, mtu).unwrap();
    let cables = Cables::cut(&scene, side, BAD, 1);
    let mut director = Director::start(&scene).unwrap();
    let begun = Instant::now();
    let mut times = vec![];
    let outcome = connected(&scene, |connection| {
        connection.put(&format!("/up/{bytes}"))?;
        times.push(begun.elapsed());
        connection.get(&format!("/down/{bytes}"), false)?;
        times.push(begun.elapsed());
        connection.put("/up/100").map(drop)
    });
    let what = format!("{forward:?}, IPv{}, MTU {mtu}, {side:?}, {keys}, {times:?}", if ipv6 { 6 } else { 4 });
    let outcome = Outcome { what, outcome, director: &mut director, cables: &cables, begun };
    outcome.check(&["out-of-window", "out-of-order"]);
}

#[test]
fn a_hundred_megabytes_each_way_over_a_bad_link() {
    if !root("a_hundred_megabytes_each_way_over_a_bad_link") {
        return;
    }
    there_and_back(Forward::Nat, false, 1500, Side::Client, "", LONG);
}

#[test]
fn long_transfers_over_bad_links_at_either_side() {
    if !root("long_transfers_over_bad_links_at_either_side") {
        return;
    }
    there_and_back(Forward::FullNat, true, 1500, Side::Servers, "", MEDIUM);
    there_and_back(Forward::Nat, true, 1280, Side::Both, "", MEDIUM);
    there_and_back(Forward::FullNat, false, 576, Side::Both, "", MEDIUM);
    there_and_back(Forward::Nat, false, 1500, Side::Both, "timestamps = true", MEDIUM);
}

/// One connection, its requests to three servers in turn: connections to servers are opened, kept and taken up again
/// while segments of the one before still come late, or twice.
#[test]
fn a_connection_changes_servers_over_bad_links() {
    if !root("a_connection_changes_servers_over_bad_links") {
        return;
    }
    let rules = "one: if (prefix(url, \"/1\")) forward(server1)\ntwo: if (prefix(url, \"/2\")) forward(server2)\n\
                 default: forward(server3)\n";
    let rules = RuleFile::write(rules).unwrap();
    for (forward, ipv6, keys) in
        [(Forward::Nat, false, ""), (Forward::FullNat, true, ""), (Forward::Nat, true, "timestamps = true")]
    {
        let setup = setup(forward, ipv6);
        let scene = Scene::build(setup, setup.plan()).unwrap();
        let scene = scene.with_keys(format!("rules = {:?}\n{keys}", rules.path().display().to_string()));
        let cables = Cables::cut(&scene, Side::Both, BAD, 2);
        let mut director = Director::start(&scene).unwrap();
        let begun = Instant::now();
        let outcome = connected(&scene, |connection| {
            for request in 0..150 {
                let (server, size) = (request % 3 + 1, [0, 900, 3_000, 30_000, 100_000][request % 5]);
                let path = format!("/{server}/{request}/{size}");
                let answer = if request % 4 == 3 { connection.put(&path)? } else { connection.get(&path, false)? };
                assert_eq!(answer.server, format!("server{server}"));
            }
            Ok(())
        });
        let what = format!("{forward:?} {ipv6} {keys}");
        let outcome = Outcome { what, outcome, director: &mut director, cables: &cables, begun };
        outcome.check(&["out-of-window", "out-of-order"]);
    }
}

/// Nothing is read and no number is moved: the director must only not mind.
#[test]
fn layer_4_over_bad_links() {
    if !root("layer_4_over_bad_links") {
        return;
    }
    for forward in [Forward::Nat, Forward::Dr, Forward::Tunnel] {
        for ipv6 in [false, true] {
            let setup = setup(forward, ipv6);
            let scene = Scene::build(setup, setup.plan()).unwrap();
            let cables = Cables::cut(&scene, Side::Both, BAD, 3);
            let mut director = Director::start(&scene).unwrap();
            let begun = Instant::now();
            let outcome = connected(&scene, |connection| {
                connection.put("/up/2000000")?;
                connection.get("/down/2000000", true).map(drop)
            });
            let what = format!("{forward:?} {ipv6}");
            let outcome = Outcome { what, outcome, director: &mut director, cables: &cables, begun };
            outcome.check(&[]);
        }
    }
}
