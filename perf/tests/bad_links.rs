//! Transfers between real kernels over links that lose, double and reorder frames: every byte is compared at its
//! receiver, and nothing is left at the director.
//!
//! The links are made bad by a relay of our own ([`Relay`]), not by `tc netem`, which not every kernel has; so results
//! do not depend on it. Clients and servers are Linux's TCP with SACK, and timestamps where they are agreed upon.

mod support;

use lcs_hwconf::testbed::{ETH0, Host};
use lcs_perf::demo::content::root::play_over;
use lcs_perf::demo::content::{Content, RuleFile};
use lcs_perf::demo::http::{Connection, Failure};
use lcs_perf::demo::interrupt::Interrupt;
use lcs_perf::demo::load::{Load, LoadPlan};
use lcs_perf::demo::narrator::Narrator;
use lcs_perf::demo::root::director::Director;
use lcs_perf::demo::root::relay::{Carried, Relay};
use lcs_perf::demo::root::scene::{Scene, Setup};
use lcs_perf::network::link::Faults;
use lcs_pipelines::snapshot::Forward;
use std::time::{Duration, Instant};
use support::root;

/// How long an answer may keep silent: over a bad link a segment may have to be sent again several times, after 200 ms at
/// first and twice as long each time.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of the long transfer.
const LONG: usize = 100_000_000;
/// Bytes of the others.
const MEDIUM: usize = 20_000_000;

/// Why the director may drop frames of spliced connections over bad links: what comes twice or late (`out-of-window`,
/// the handshake's answer above all), and what comes before the part of a message that says where it ends
/// (`out-of-order`). A lost answer to ARP or a solicitation leaves a next hop unresolved. `no-flow` is rare: a client that was the last to close knows nothing of the connection any more and
/// answers what comes late with a reset; the first ends what the director keeps, a second finds nothing.
const SPLICED: &[&str] = &["out-of-window", "out-of-order", "no-flow", "next-hop-unresolved"];

/// Five frames in a thousand are lost, five arrive twice, fifteen are overtaken by those of the next three milliseconds.
const BAD: Faults = Faults { delay: 0, loss: 0.005, duplicate: 0.005, reorder: 0.015, hold: 3_000_000, ..Faults::NONE };

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

/// What was played over bad links, and with what.
struct Played<'a> {
    what: String,
    begun: Instant,
    director: &'a mut Director,
    cables: &'a Cables,
}

impl Played<'_> {
    /// That it went well, over links that were as bad as they should be, that the director has dropped frames for no
    /// other reasons than `reasons`, and that nothing is left there. Where bits are flipped as well any reason may come: a frame
    /// becomes anything.
    fn check(self, outcome: Result<(), String>, reasons: &[&str]) {
        let Played { what, begun, director, cables } = self;
        let carried = cables.carried();
        let total = director.stats().unwrap().total;
        let drops: Vec<_> = total.drops.iter().map(|drop| (drop.reason.as_str(), drop.frames)).collect();
        let state = format!(
            "{what}, {:.1} s\nlinks: {carried:?}, {} frames lost by overload\ndirector's drops: {drops:?}",
            begun.elapsed().as_secs_f64(),
            carried.overload()
        );
        println!("{state}");
        if let Err(failure) = outcome {
            panic!("{failure}\n{state}");
        }
        let Carried { link, .. } = carried;
        assert!(link.lost > 0 && link.duplicated > 0 && link.reordered > 0, "{state}");
        for (reason, _) in drops {
            assert!(
                link.corrupted > 0 || reasons.contains(&reason),
                "{reason} is no reason that bad links explain: {state}"
            );
        }
        if let Err(left) = director.wait_until_empty(PATIENCE) {
            panic!("{left}\n{state}");
        }
    }
}

fn setup(forward: Forward, ipv6: bool) -> Setup {
    Setup { forward, ipv6, server_ipv6: ipv6 }
}

/// Runs `action` on a connection of the client's. The director is asked something now and then meanwhile, since it
/// closes control connections that keep silent for a minute, which a slow machine may take for a long transfer.
fn connected(
    scene: &Scene,
    director: &mut Director,
    action: impl FnOnce(&mut Connection) -> Result<(), Failure> + Send,
) -> Result<(), String> {
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let run = || action(&mut Connection::open(scene.service(), PATIENCE)?);
            scene.bed().client().run(run).unwrap().map_err(|failure| failure.to_string())
        });
        let mut asked = Instant::now();
        while !client.is_finished() {
            std::thread::sleep(Duration::from_millis(5));
            if asked.elapsed() > Duration::from_secs(10) {
                director.status().unwrap();
                asked = Instant::now();
            }
        }
        client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
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
    let outcome = connected(&scene, &mut director, |connection| {
        connection.put(&format!("/up/{bytes}"))?;
        times.push(begun.elapsed());
        connection.get(&format!("/down/{bytes}"), false)?;
        times.push(begun.elapsed());
        connection.put("/up/100").map(drop)
    });
    let what = format!("{forward:?}, IPv{}, MTU {mtu}, {side:?}, {keys}, {times:?}", if ipv6 { 6 } else { 4 });
    let played = Played { what, begun, director: &mut director, cables: &cables };
    played.check(outcome, SPLICED);
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
        let outcome = connected(&scene, &mut director, |connection| {
            for request in 0..150 {
                let (server, size) = (request % 3 + 1, [0, 900, 3_000, 30_000, 100_000][request % 5]);
                let path = format!("/{server}/{request}/{size}");
                let answer = if request % 4 == 3 { connection.put(&path)? } else { connection.get(&path, false)? };
                assert_eq!(answer.server, format!("server{server}"));
            }
            Ok(())
        });
        let what = format!("{forward:?} {ipv6} {keys}");
        let played = Played { what, begun, director: &mut director, cables: &cables };
        played.check(outcome, SPLICED);
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
            let outcome = connected(&scene, &mut director, |connection| {
                connection.put("/up/2000000")?;
                connection.get("/down/2000000", true).map(drop)
            });
            let what = format!("{forward:?} {ipv6}");
            let played = Played { what, begun, director: &mut director, cables: &cables };
            played.check(outcome, &[]);
        }
    }
}

/// Many short connections, eight at a time, each of whose requests may go to another server: handshakes and ends are
/// repeated, doubled and overtaken too.
fn many(forward: Forward, ipv6: bool, keys: &str, faults: Faults, reasons: &[&str]) {
    let rules = "small: if (suffix(url, \"/100\")) forward(server1)\nmiddle: if (suffix(url, \"/5000\")) forward(server2)\n\
                 default: forward(server3)\n";
    let rules = RuleFile::write(rules).unwrap();
    let setup = setup(forward, ipv6);
    let scene = Scene::build(setup, setup.plan()).unwrap();
    let scene = scene.with_keys(format!("rules = {:?}\n{keys}", rules.path().display().to_string()));
    let cables = Cables::cut(&scene, Side::Both, faults, 4);
    let mut director = Director::start(&scene).unwrap();
    let begun = Instant::now();
    let plan = LoadPlan {
        to: scene.service(),
        parallel: 8,
        requests: 4,
        sizes: vec![0, 100, 5_000, 60_000],
        most: 150,
        patience: PATIENCE,
    };
    let load = scene.bed().client().run(|| Load::start(plan)).unwrap().unwrap();
    // Asked now and then, as in `connected`.
    while begun.elapsed() < 4 * PATIENCE && !load.wait(150, PATIENCE, || false) {
        director.status().unwrap();
    }
    let tally = load.stop().remove(0);
    let outcome = if tally.failed == 0 && tally.requests == 600 { Ok(()) } else { Err(format!("{tally:?}")) };
    let what = format!("{forward:?}, IPv{}, {keys}", if ipv6 { 6 } else { 4 });
    Played { what, begun, director: &mut director, cables: &cables }.check(outcome, reasons);
}

#[test]
fn many_connections_over_bad_links() {
    if !root("many_connections_over_bad_links") {
        return;
    }
    many(Forward::Nat, false, "", BAD, SPLICED);
    many(Forward::FullNat, true, "timestamps = true", BAD, SPLICED);
    many(Forward::Nat, true, "binding = \"preallocate\"\nguess = \"client\"", BAD, SPLICED);
    many(Forward::FullNat, false, "binding = \"pooled\"\npool = { idle = 4 }", BAD, SPLICED);
}

/// One bit in a hundred frames is flipped as well: somebody always notices, and nobody takes it for what was said.
#[test]
fn many_connections_over_links_that_damage() {
    if !root("many_connections_over_links_that_damage") {
        return;
    }
    let damaged = Faults { corrupt: 0.01, ..BAD };
    many(Forward::Nat, false, "", damaged, SPLICED);
    many(Forward::FullNat, true, "", damaged, SPLICED);
}

/// The client's window closes again and again, and what opens it may be lost.
#[test]
fn a_client_that_stops_reading_goes_on_over_bad_links() {
    if !root("a_client_that_stops_reading_goes_on_over_bad_links") {
        return;
    }
    let rules = RuleFile::write("default: forward(server1)\n").unwrap();
    for (forward, ipv6) in [(Forward::Nat, false), (Forward::FullNat, true)] {
        let setup = setup(forward, ipv6);
        let scene = Scene::build(setup, setup.plan()).unwrap();
        let scene = scene.with_keys(format!("rules = {:?}", rules.path().display().to_string()));
        let cables = Cables::cut(&scene, Side::Both, BAD, 5);
        let mut director = Director::start(&scene).unwrap();
        let begun = Instant::now();
        let outcome = connected(&scene, &mut director, |connection| {
            let (path, size, piece) = ("/down/60000000", 60_000_000, 10_000_000);
            connection.begin(path, false)?;
            for at in (0..size).step_by(piece) {
                still(&cables);
                connection.body(path, at, piece)?;
            }
            Ok(())
        });
        let what = format!("{forward:?}, IPv{}", if ipv6 { 6 } else { 4 });
        let played = Played { what, begun, director: &mut director, cables: &cables };
        played.check(outcome, SPLICED);
    }
}

/// Waits until nothing but probes of a closed window passes the cables.
fn still(cables: &Cables) {
    let begun = Instant::now();
    let (mut sent, mut since) = (cables.carried().sent, begun);
    while since.elapsed() < Duration::from_millis(100) {
        assert!(begun.elapsed() < PATIENCE, "frames pass the cables for ever");
        std::thread::sleep(Duration::from_millis(5));
        let now = cables.carried().sent;
        if now > sent + 4 {
            (sent, since) = (now, Instant::now());
        }
    }
}

/// The demo's scenario of bad links, over worse ones.
#[test]
fn the_demos_bad_links_may_be_worse() {
    if root("the_demos_bad_links_may_be_worse") {
        over_bad_links(BAD, &[Content::BadLinks]);
    }
}

/// What the demo plays, over links that are not as good.
#[test]
fn scenarios_by_content_over_bad_links() {
    if root("scenarios_by_content_over_bad_links") {
        over_bad_links(
            BAD,
            &[
                Content::Xml,
                Content::Keepalive,
                Content::Sni,
                Content::Smtp,
                Content::PreallocateHitTun,
                Content::PreallocateMissDr,
                Content::FilterDr,
                Content::FilterKeepalive,
            ],
        );
    }
}

/// Mail, where the server speaks first, over links that lose one frame in twenty: of 60 clients one or the other loses its acknowledgement
/// of the director's SYN+ACK, and is greeted all the same.
#[test]
fn mail_over_links_that_lose_much() {
    if root("mail_over_links_that_lose_much") {
        over_bad_links(Faults { loss: 0.05, ..BAD }, &[Content::Smtp, Content::Smtp]);
    }
}

fn over_bad_links(faults: Faults, contents: &[Content]) {
    for (content, ipv6) in contents.iter().zip([false, true].into_iter().cycle()) {
        let mut said = vec![];
        let played = play_over(faults, *content, ipv6, &mut Narrator::new(&mut said), &Interrupt::default());
        let said = String::from_utf8_lossy(&said);
        match played {
            Ok(scenario) if scenario.ok => println!("{} {:.1} s {:?}", scenario.name, scenario.seconds, scenario.drops),
            other => panic!("{content:?}: {other:?}\n{said}"),
        }
    }
}
