//! Properties of the whole worker over the memory port: whatever comes in.

mod invariants;
mod wire;
mod world;

use lcs_dataplane::cycles::NoMeter;
use lcs_dataplane::port::Port;
use lcs_dataplane::port::memory::MemoryPort;
use lcs_dataplane::ring::Handover;
use lcs_dataplane::worker::Worker;
use lcs_pipelines::command::Command;
use lcs_pipelines::layer4::Layer4;
use lcs_pipelines::snapshot::NextHop;
use lcs_pipelines::stages::schedule::SharedCounts;
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;
use wire::packet::Packet;
use wire::verify;
use world::{CLIENT, START, World, bare, ended, flows, interface_mac};

/// One instruction of a program; see `invariants`.
fn instruction() -> impl Strategy<Value = Vec<u8>> {
    let raw = (0u8..2, prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(op, bytes)| {
        let mut i = vec![op];
        i.extend((bytes.len() as u16).to_le_bytes());
        i.extend(bytes);
        i
    });
    let changes = prop::collection::vec((0u8..100, any::<u8>()), 0..3);
    let template = (prop_oneof![Just(2u8), Just(3), Just(7)], any::<u8>(), changes).prop_map(|(op, which, changes)| {
        let mut i = vec![op, which, changes.len() as u8];
        i.extend(changes.iter().flat_map(|(a, v)| [*a, *v]));
        i
    });
    let time = prop_oneof![Just(0u8), 0u8..10, any::<u8>()].prop_map(|n| vec![4, n]);
    let command = (any::<u8>(), any::<u8>()).prop_map(|(w, a)| vec![6, w, a]);
    prop_oneof![1 => raw, 12 => template, 2 => time, 1 => Just(vec![5]), 2 => command]
}

/// Swaps the two ends of a frame of TCP or UDP without options or extensions; all checksums stay right.
fn answer(frame: &[u8], on: u8) -> Vec<u8> {
    let mut f = frame.to_vec();
    f[..6].copy_from_slice(&interface_mac(on));
    f[6..12].copy_from_slice(&frame[..6]);
    let (at, n, l4) = if frame[12..14] == [8, 0] { (26, 4, 34) } else { (22, 16, 54) };
    f[at..at + 2 * n].rotate_left(n);
    f[l4..l4 + 4].rotate_left(2);
    f
}

/// The frame with the TTL that it had `hops` hops ago.
fn younger(frame: &[u8], hops: u8) -> Vec<u8> {
    let mut f = frame.to_vec();
    if frame[12..14] == [8, 0] {
        f[22] += hops;
        f[24..26].fill(0);
        let sum = wire::checksum(&[&f[14..34]]);
        f[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        f[21] += hops;
    }
    f
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn programs_keep_the_invariants(program in prop::collection::vec(instruction(), 0..60)) {
        invariants::run(&program.concat());
    }

    #[test]
    fn arbitrary_bytes_keep_the_invariants(program in prop::collection::vec(any::<u8>(), 0..600)) {
        invariants::run(&program);
        invariants::headers(&program);
        invariants::icmp(&program);
    }

    /// What is forwarded, answered and forwarded again is the answer to what the client sent: address by address and bit by bit.
    #[test]
    fn translation_there_and_back_is_the_identity(
        client in any::<[u8; 4]>().prop_filter("a host", |a| a[0] > 0 && a[0] < 224 && a[0] != 127),
        port: u16,
        service in 0usize..4,
        data in prop::collection::vec(any::<u8>(), 0..64),
        seq: u32,
        bad: bool,
    ) {
        let [a, b, c, d] = client;
        let (v4, v6) = (format!("{a}.{b}.{c}.{d}:{port}"), format!("[2001:db8:{a:x}{b:02x}::{c:x}:{d:x}]:{port}"));
        let (from, to, tcp) = match service {
            0 => (&v4, "198.51.100.1:80", true),
            1 => (&v4, "198.51.100.2:53", false),
            2 => (&v6, "[2001:db8:1::1]:80", true),
            _ => (&v6, "[2001:db8:1::2]:80", true),
        };
        let data: String = data.iter().map(|b| format!("{b:02x}")).collect();
        let sum = if bad { " sum=bad" } else { "" };
        let kind = if tcp { format!("tcp {from} > {to} S seq={seq} data={data}{sum}") } else { format!("udp {from} > {to} data={data}{sum}") };
        let sent = Packet::read(&kind).unwrap().frame(CLIENT, interface_mac(0)).unwrap();
        let mut world = World::of(invariants::SITE);
        let there = world.burst(&[(0, sent.clone())]);
        prop_assert_eq!(there.len(), 1);
        prop_assert_eq!(verify::frame(&there[0].1, true).is_ok(), !bad);
        let back = world.burst(&[(1, answer(&there[0].1, 1))]);
        prop_assert_eq!(back.len(), 1);
        prop_assert_eq!(back[0].0, 0);
        let want = answer(&sent, 0);
        prop_assert_eq!(&younger(&back[0].1, 2)[12..], &want[12..]);
        prop_assert_eq!(&back[0].1[..6], &CLIENT);
    }
}

/// Two workers of one director, joined by hand-over lanes.
struct Pair {
    hops: Vec<NextHop>,
    workers: Vec<Worker<MemoryPort, Layer4, NoMeter>>,
}

impl Pair {
    fn new() -> Self {
        // The same site with room: every next hop resolved, and ports enough for both workers' shares.
        let site = invariants::SITE.iter().filter(|l| !l.starts_with("worker"));
        let site: Vec<String> = site.map(|l| l.replace("unresolved", "").replace("2000-2005", "2000-2999")).collect();
        let world = World::of(&site.iter().map(String::as_str).collect::<Vec<_>>());
        let counts = Arc::new(SharedCounts::new(2, 64));
        let workers = Handover::mesh(2).into_iter().enumerate().map(|(n, lanes)| {
            let settings = lcs_pipelines::stages::connection::Settings {
                worker: n as u8,
                workers: 2,
                flows: 1024,
                fragments: 256,
                ..world.settings.clone()
            };
            let mut worker = bare(&settings, &counts).with_handover(lanes);
            worker.command(Command::Install(Arc::new(world.snapshot.clone())), START);
            worker
        });
        Pair { workers: workers.collect(), hops: world.snapshot.next_hops.clone() }
    }

    /// A frame that the device gives to worker `at`; what comes out of either.
    fn send(&mut self, at: usize, on: u8, frame: &[u8]) -> Vec<(u8, Vec<u8>)> {
        assert!(self.workers[at].port_mut().inject(on, frame));
        let mut sent = vec![];
        for turn in [at, 1 - at] {
            let w = &mut self.workers[turn];
            w.poll(START);
            w.port_mut().take_sent(|i, b| sent.push((i, b.to_vec())));
        }
        sent
    }

    /// Makes every next hop known, or none.
    fn resolve(&mut self, resolved: bool) {
        for w in &mut self.workers {
            for (row, hop) in self.hops.iter().enumerate() {
                w.command(Command::SetNextHop { row: row as u16, hop: NextHop { resolved, ..*hop } }, START);
            }
        }
    }

    /// Turns without new frames: what is held and can go on does; what comes out.
    fn between(&mut self) -> Vec<(u8, Vec<u8>)> {
        let mut sent = vec![];
        for _ in 0..4 {
            for w in &mut self.workers {
                w.between(START);
                w.poll(START);
                w.port_mut().take_sent(|i, b| sent.push((i, b.to_vec())));
            }
        }
        sent
    }
}

/// Whichever worker they come to: the first fragment waits for its next hop, and the later one, in front of it or behind, for it.
#[test]
fn fragments_wait_together_for_a_next_hop_with_two_workers() {
    let (mut here, mut across) = (0, 0);
    for port in 1000..1016 {
        for first_comes_first in [true, false] {
            let mut pair = Pair::new();
            pair.resolve(false);
            let words = format!("udp 192.0.2.1:{port} > 198.51.100.1:53 len=2000 id=7");
            let frame =
                |part: &str| Packet::read(&format!("{words} {part}")).unwrap().frame(CLIENT, interface_mac(0)).unwrap();
            let mut parts = [frame("frag=0..1480"), frame("frag=1480..")];
            if !first_comes_first {
                parts.reverse();
            }
            for part in &parts {
                assert!(pair.send(0, 0, part).is_empty(), "the next hop is not known");
                pair.between();
            }
            pair.resolve(true);
            let sent = pair.between();
            let dropped: Vec<u64> = pair.workers.iter().map(|w| w.counters().dropped_total()).collect();
            assert_eq!((sent.len(), &dropped[..]), (2, &[0, 0][..]), "{words} first first: {first_comes_first}");
            if pair.workers[0].counters().handed_over == 0 { here += 1 } else { across += 1 }
        }
    }
    assert!(here > 0 && across > 0, "{here} {across}");
}

/// A packet of a connection, forwarded; the error that a router on the servers' side may send about it.
fn error_about(frame: &[u8]) -> Vec<u8> {
    let v4 = frame[12..14] == [8, 0];
    let quoted: String = frame[14..].iter().take(200).map(|b| format!("{b:02x}")).collect();
    let source = if v4 {
        std::net::IpAddr::from(<[u8; 4]>::try_from(&frame[26..30]).unwrap())
    } else {
        std::net::IpAddr::from(<[u8; 16]>::try_from(&frame[22..38]).unwrap())
    };
    let words = if v4 {
        format!("icmp 10.0.0.254 > {source} unreachable data={quoted}")
    } else {
        format!("icmp fd00::ff > {source} unreachable data={quoted}")
    };
    Packet::read(&words).unwrap().frame([2, 0, 0, 0, 1, 1], interface_mac(1)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..Default::default() })]

    /// Whichever worker the device gives a frame to, both directions of a connection end on one, and so do its fragments and errors.
    #[test]
    fn both_directions_meet_on_one_worker(
        connections in prop::collection::vec((0usize..8, 1u16.., prop::array::uniform4(0usize..2)), 1..20),
    ) {
        let mut pair = Pair::new();
        let mut clients = HashMap::new();
        for (n, (service, port, at)) in connections.iter().enumerate() {
            let (kind, to, v6, flags) = [
                ("tcp", "198.51.100.1:80", false, "S"),
                ("udp", "198.51.100.1:53", false, ""),
                ("udp", "198.51.100.2:53", false, ""),
                ("tcp", "198.51.100.3:80", false, "S"),
                ("tcp", "198.51.100.4:80", false, "S"),
                ("tcp", "[2001:db8:1::1]:80", true, "S"),
                ("tcp", "[2001:db8:1::2]:80", true, "S"),
                ("udp", "[2001:db8:1::4]:53", true, ""),
            ][*service];
            let from = if v6 { format!("[2001:db8::{:x}]:{port}", n + 1) } else { format!("192.0.2.{}:{port}", n + 1) };
            let words = format!("{kind} {from} > {to} {flags} len=300 id={n} ");
            let frame = |more: &str| Packet::read(&format!("{words}{more}")).unwrap().frame(CLIENT, interface_mac(0)).unwrap();
            let there = pair.send(at[0], 0, &frame(""));
            prop_assert_eq!(there.len(), 1, "{}: {:?}", words, pair.workers.iter().map(|w| w.counters().dropped.clone()).collect::<Vec<_>>());
            // Fragments of a packet come to one queue: by addresses.
            for part in ["frag=0..160", "frag=160.."] {
                let out = pair.send(at[1], 0, &frame(part));
                prop_assert_eq!(out.len(), 1, "{} {}", words, part);
            }
            if matches!(service, 0..=2 | 5 | 6) {
                let back = pair.send(at[2], 1, &answer(&there[0].1, 1));
                prop_assert_eq!(back.len(), 1, "answer to {}", words);
                prop_assert_eq!(&back[0].1[12..14], &frame("")[12..14]);
            }
            if *service != 3 {
                let error = pair.send(at[3], 1, &error_about(&there[0].1));
                prop_assert_eq!(error.len(), 1, "error about {}", words);
                prop_assert_eq!(error[0].0, 0);
                prop_assert!(verify::frame(&error[0].1, false).is_ok());
            }
        }
        let mut listed = 0;
        for (n, worker) in pair.workers.iter_mut().enumerate() {
            for flow in flows(worker, START) {
                listed += 1;
                let other = clients.insert((flow.protocol, flow.client, flow.virtual_address), n);
                prop_assert_eq!(other, None, "{} is on both workers", flow.client);
            }
            let c = worker.counters();
            prop_assert_eq!(c.dropped_total(), 0);
            prop_assert_eq!(ended(c), c.received + c.taken_over);
            let pool = worker.port().pool();
            prop_assert_eq!(pool.free, pool.total);
        }
        prop_assert_eq!(listed, clients.len());
    }

    /// The same in bursts: what belongs to a sibling is found among what does not, whatever else is in the burst, and none of a
    /// worker's own is taken for a sibling's.
    #[test]
    fn a_burst_of_both_workers_connections_ends_where_they_live(
        connections in prop::collection::vec((0usize..4, 1u16.., 0usize..2), 1..24),
        bursts in prop::collection::vec((0usize..2, prop::collection::vec(0usize..24, 1..64)), 1..8),
    ) {
        let mut pair = Pair::new();
        let mut segments = vec![];
        for (n, (service, port, at)) in connections.iter().enumerate() {
            let (kind, to, v6) = [
                ("tcp", "198.51.100.1:80", false),
                ("udp", "198.51.100.1:53", false),
                ("tcp", "[2001:db8:1::1]:80", true),
                ("udp", "[2001:db8:1::4]:53", true),
            ][*service];
            let from = if v6 { format!("[2001:db8::{:x}]:{port}", n + 1) } else { format!("192.0.2.{}:{port}", n + 1) };
            let frame = |more: &str| {
                Packet::read(&format!("{kind} {from} > {to} {more} len=20 id={n}")).unwrap().frame(CLIENT, interface_mac(0)).unwrap()
            };
            let (first, later) = if kind == "tcp" { ("S", "A") } else { ("", "") };
            prop_assert_eq!(pair.send(*at, 0, &frame(first)).len(), 1);
            segments.push(frame(later));
        }
        let before: Vec<usize> = pair.workers.iter().map(|w| w.pipeline().flows()).collect();
        prop_assert_eq!(before.iter().sum::<usize>(), connections.len());
        let received = |pair: &Pair| {
            let all = pair.workers.iter().map(|w| (w.counters().received, w.counters().received_bytes));
            all.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1))
        };
        let mut sent = received(&pair);
        for (at, picks) in &bursts {
            for pick in picks {
                let segment = &segments[pick % segments.len()];
                prop_assert!(pair.workers[*at].port_mut().inject(0, segment));
                sent = (sent.0 + 1, sent.1 + segment.len() as u64);
            }
            prop_assert_eq!(pair.between().len(), picks.len());
        }
        prop_assert_eq!(received(&pair), sent, "what is handed over has come once");
        for (worker, flows) in pair.workers.iter().zip(before) {
            prop_assert_eq!((worker.counters().dropped_total(), worker.pipeline().flows()), (0, flows));
        }
    }
}
