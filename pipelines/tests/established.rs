//! What established flows keep in their own lines, so that a packet touches nothing of its server: the next hop, which must follow every
//! change, and counts, which must come out exact.
mod director;
mod wire;
mod world;

use director::{CLIENT as CLIENT_AT, Director, Sent};
use lcs_dataplane::headers::MacAddr;
use lcs_dataplane::headers::build::Packet;
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use lcs_dataplane::worker::Pipeline;
use lcs_pipelines::command::{Acknowledgement, Command, Report, ServerStats};
use lcs_pipelines::content::Binding;
use lcs_pipelines::matching::{self, Action, Expr, Rule};
use lcs_pipelines::snapshot::{NextHop, Server};
use proptest::prelude::*;
use std::net::SocketAddr;
use world::{CLIENT, World, interface_mac};

const SITE: [&str; 4] = [
    "worker flows=3000 fragments=4",
    "service web tcp 198.51.100.1:80 rr",
    "server s1 of web 10.0.0.1:8080 nat if=1",
    "server s2 of web 10.0.0.2:8080 nat if=1",
];
const SERVICE: &str = "198.51.100.1:80";

fn client(n: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 1024 + n))
}

/// A client's frame, of `size` bytes.
fn from_client(n: u16, flags: u8, size: usize) -> (u8, Vec<u8>) {
    let mut packet = Packet::tcp(client(n), SERVICE.parse().unwrap(), flags);
    (packet.source_mac, packet.destination_mac) = (MacAddr(CLIENT), MacAddr(interface_mac(0)));
    (0, packet.sized(size).frame())
}

/// A frame of the server of that number, to the client.
fn from_server(server: u8, n: u16, flags: u8, size: usize) -> (u8, Vec<u8>) {
    let mut packet = Packet::tcp(SocketAddr::from(([10, 0, 0, server], 8080)), client(n), flags);
    packet.destination_mac = MacAddr(interface_mac(1));
    (1, packet.sized(size).frame())
}

/// Opens a client's connection; the number of its server.
fn open(world: &mut World, n: u16) -> u8 {
    let sent = world.burst(&[from_client(n, SYN, 54)]);
    let server = sent[0].1[33];
    world.burst(&[from_server(server, n, SYN | ACK, 54)]);
    world.burst(&[from_client(n, ACK, 54)]);
    server
}

/// The link-layer destination of the client's next packet.
fn goes_to(world: &mut World, n: u16) -> [u8; 6] {
    let sent = world.burst(&[from_client(n, ACK, 100)]);
    assert_eq!(sent.len(), 1, "not forwarded");
    *sent[0].1.first_chunk().unwrap()
}

#[test]
fn established_flows_follow_every_change_of_their_next_hop() {
    let mut world = World::of(&SITE);
    let server = open(&mut world, 0);
    let slot = usize::from(server - 1);
    let row = world.snapshot.servers[slot].as_ref().unwrap().next_hop;
    let before = world.snapshot.next_hops[usize::from(row)];
    assert_eq!(goes_to(&mut world, 0)[..], before.addresses[..6]);
    let hop = |n: u32| {
        let [_, b, c, d] = n.to_be_bytes();
        NextHop::new(MacAddr([2, 9, 0, b, c, d]), MacAddr(interface_mac(1)), 1, 1500)
    };
    let set = |world: &mut World, hop| {
        let done = world.worker.command(Command::SetNextHop { row, hop }, world.now);
        assert!(matches!(done, Acknowledgement::Done));
    };
    for (n, changes) in (1..).zip([1u32, 2, 255, 256, 257]) {
        for change in (0..changes).rev() {
            set(&mut world, hop(n << 16 | change));
        }
        for _ in 0..2 {
            assert_eq!(goes_to(&mut world, 0)[..], hop(n << 16).addresses[..6], "after {changes} changes");
        }
    }
    // Another interface and another MTU are followed as well; what is unresolved is not used.
    set(&mut world, NextHop { interface: 0, mtu: 1400, ..hop(1) });
    assert_eq!(world.burst(&[from_client(0, ACK, 100)])[0].0, 0);
    set(&mut world, NextHop { resolved: false, ..hop(2) });
    assert!(world.burst(&[from_client(0, ACK, 100)]).is_empty());
    set(&mut world, hop(3));
    assert_eq!(goes_to(&mut world, 0)[..], hop(3).addresses[..6]);
}

/// What flows share of their ways is used anew after some hundred changes, but not while somebody still goes by it.
#[test]
fn a_flow_that_was_quiet_during_many_changes_of_others_goes_its_own_way() {
    let mut world = World::of(&SITE);
    // One server's way leads over interface 1, and the other's over 0, with another MTU each time.
    let (quiet, busy) = (open(&mut world, 0), open(&mut world, 1));
    assert_ne!(quiet, busy);
    let row = |world: &World, server: u8| world.snapshot.servers[usize::from(server - 1)].as_ref().unwrap().next_hop;
    let (quiet, busy) = (row(&world, quiet), row(&world, busy));
    let hop = |n: u16, interface: u8| {
        let [high, low] = n.to_be_bytes();
        NextHop::new(MacAddr([2, 9, 0, 0, high, low]), MacAddr(interface_mac(interface)), interface, 600 + n)
    };
    let set = |world: &mut World, row, hop| {
        assert!(matches!(world.worker.command(Command::SetNextHop { row, hop }, world.now), Acknowledgement::Done));
    };
    for round in 0..3 {
        // The quiet flow has a copy of this, and the next one is changed while it says nothing.
        set(&mut world, quiet, hop(round, 1));
        assert_eq!(goes_to(&mut world, 0)[..], hop(round, 1).addresses[..6]);
        set(&mut world, quiet, hop(100 + round, 1));
        for n in 0..600 {
            set(&mut world, busy, hop(n, 0));
            let sent = world.burst(&[from_client(1, ACK, 100)]);
            assert_eq!((sent[0].0, &sent[0].1[..6]), (0, &hop(n, 0).addresses[..6]));
            world.idle();
        }
        let sent = world.burst(&[from_client(0, ACK, 100), from_client(0, ACK, 700 + usize::from(round))]);
        for (interface, frame) in &sent {
            assert_eq!((*interface, &frame[..6]), (1, &hop(100 + round, 1).addresses[..6]), "round {round}");
        }
        assert_eq!(sent.len(), 2);
    }
}

/// Servers whose paths all have another MTU: more ways than flows can share parts of.
#[test]
fn many_different_ways_are_told_apart() {
    const SERVERS: u16 = 300;
    let mut world = World::of(&SITE[..3]);
    let s = &mut world.snapshot;
    let first = s.servers[0].clone().unwrap();
    let mut hops = vec![s.next_hops[usize::from(first.next_hop)]];
    for n in 1..SERVERS {
        let [high, low] = n.to_be_bytes();
        hops.push(NextHop::new(MacAddr([2, 7, 0, 0, high, low]), MacAddr(interface_mac(1)), 1, 1000 + n));
        s.next_hops.push(hops[usize::from(n)]);
        s.services[0].as_mut().unwrap().servers.push(n);
        s.servers.push(Some(Server {
            name: format!("t{n}"),
            address: [10, 0, high + 1, low].into(),
            next_hop: s.next_hops.len() as u16 - 1,
            ..first.clone()
        }));
    }
    world.install();
    let mut chosen = vec![];
    for n in 0..SERVERS {
        let sent = world.burst(&[from_client(n, SYN, 54)]);
        let address = <[u8; 4]>::try_from(&sent[0].1[30..34]).unwrap();
        let mut answer = Packet::tcp(SocketAddr::from((address, 8080)), client(n), SYN | ACK);
        answer.destination_mac = MacAddr(interface_mac(1));
        world.burst(&[(1, answer.frame())]);
        world.burst(&[from_client(n, ACK, 54)]);
        let server =
            if address == [10, 0, 0, 1] { 0 } else { usize::from(address[2] - 1) << 8 | usize::from(address[3]) };
        chosen.push(server);
    }
    for _ in 0..2 {
        for (n, server) in (0..SERVERS).zip(&chosen) {
            assert_eq!(goes_to(&mut world, n)[..], hops[*server].addresses[..6], "client {n}, server {server}");
        }
    }
    chosen.sort_unstable();
    chosen.dedup();
    assert_eq!(chosen.len(), usize::from(SERVERS));
}

#[test]
fn packets_and_bytes_of_servers_are_exact_at_once_and_after_the_flow_has_ended() {
    let mut world = World::of(&SITE);
    let server = open(&mut world, 0);
    let slot = usize::from(server - 1);
    // The handshake: two packets from the client and one from the server, 40 bytes of IP each.
    let mut expected = [[2u64, 80], [1, 40]];
    for n in 0..700usize {
        let (size, side) = (54 + n * 2 % 1400, usize::from(n % 3 == 0));
        let frame = if side == 0 { from_client(0, ACK, size) } else { from_server(server, 0, ACK, size) };
        assert_eq!(world.burst(&[frame]).len(), 1);
        expected[side][0] += 1;
        expected[side][1] += size as u64 - 14;
        if n % 50 == 0 {
            let stats = world.report().servers[slot];
            let counted = [[stats.packets_in, stats.bytes_in], [stats.packets_out, stats.bytes_out]];
            assert_eq!(counted, expected, "after {n} packets");
        }
    }
    let view = &world.flows()[0];
    assert_eq!([u64::from(view.packets_in), u64::from(view.packets_out)], expected.map(|side| side[0]));
    world.burst(&[from_client(0, RST, 54)]);
    expected[0] = [expected[0][0] + 1, expected[0][1] + 40];
    world.now += 3_600_000_000_000;
    // No report is asked for before it is gone: that would have it hand its counts on.
    while !world.flows().is_empty() {
        world.worker.between(world.now);
    }
    let stats = world.report().servers[slot];
    assert_eq!([[stats.packets_in, stats.bytes_in], [stats.packets_out, stats.bytes_out]], expected);
}

#[test]
fn what_a_flow_has_counted_stays_when_it_gives_way_or_is_opened_anew() {
    let of = |world: &mut World| {
        let report = world.report();
        let sum = |of: fn(&ServerStats) -> u64| report.servers.iter().map(of).sum::<u64>();
        (sum(|s| s.packets_in), sum(|s| s.bytes_in), sum(|s| s.packets_out), sum(|s| s.connections))
    };
    // Two half-open ones have each sent their SYN three times when others need their room.
    let mut world = World::of(&[&["worker flows=2 fragments=4", "when-full evict-half-open"], &SITE[1..]].concat());
    for _ in 0..3 {
        world.burst(&[from_client(0, SYN, 54), from_client(1, SYN, 60)]);
    }
    world.burst(&[from_client(2, SYN, 54), from_client(3, SYN, 54)]);
    let flows: Vec<u16> = world.flows().iter().map(|f| f.client.port()).collect();
    assert_eq!(flows, [1026, 1027]);
    assert_eq!(of(&mut world), (8, 3 * 40 + 3 * 46 + 2 * 40, 0, 4));

    // One that is closed from both sides is opened anew by its client's SYN, at the other server.
    let mut world = World::of(&SITE);
    let server = open(&mut world, 0);
    world.burst(&[from_client(0, ACK | FIN, 54)]);
    world.burst(&[from_server(server, 0, ACK | FIN, 54)]);
    world.burst(&[from_client(0, ACK, 54)]);
    let sent = world.burst(&[from_client(0, SYN, 54)]);
    assert_ne!(sent[0].1[33], server);
    assert_eq!((world.flows().len(), world.flows()[0].packets_in), (1, 1));
    let report = world.report();
    let by_server = |n: u8| {
        let s = report.servers[usize::from(n - 1)];
        (s.packets_in, s.bytes_in, s.packets_out, s.bytes_out)
    };
    assert_eq!((by_server(server), by_server(3 - server)), ((4, 160, 2, 80), (1, 40, 0, 0)));
}

/// A connection whose requests go to one server and the other in turn: each is counted what it was sent.
#[test]
fn a_spliced_connection_counts_for_the_server_in_turn() {
    let url = |prefix: &str| {
        let value = matching::Value::Text(prefix.as_bytes().into());
        let (variable, relation) = (matching::Variable::Url, matching::Relation::Prefix);
        Expr::Term(matching::Term { variable, relation, value, ignore_case: false })
    };
    let rule = |prefix: &str, server| Rule {
        name: prefix.into(),
        condition: url(prefix),
        action: Action::Forward { server, queue: None },
    };
    let response: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let mut d = Director::with(Binding::default(), &[rule("/a", 0), rule("/b", 1)]);
    let mut to_client = d.handshake();
    let mut from_client = director::ISN.wrapping_add(1);
    // By server: packets and bytes that went there, and the next number of its own.
    let (mut sent_to, mut numbers) = ([[0u64; 2]; 2], [0u32; 2]);
    let mut answered = [0; 2];
    let mut see = |sent: &[Sent]| {
        for s in sent {
            if let Some(server) = ["10.0.0.1:8080", "10.0.0.2:8080"].iter().position(|to| *to == s.to.to_string()) {
                sent_to[server][0] += 1;
                sent_to[server][1] += s.bytes.len() as u64 - 14;
            }
        }
    };
    for round in 0..6u32 {
        let server = round as usize % 2;
        let request = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", ["a", "b"][server]);
        let asked = d.client(ACK | PSH, from_client, to_client, request.as_bytes());
        see(&asked);
        let at = format!("10.0.0.{}:8080", server + 1);
        let end = from_client.wrapping_add(request.len() as u32);
        if numbers[server] == 0 {
            numbers[server] = 5000 * (server as u32 + 1);
            see(&d.says(&at, CLIENT_AT, SYN | ACK, numbers[server], from_client, director::SYN_OPTIONS, b""));
            numbers[server] += 1;
        }
        let passed = d.says(&at, CLIENT_AT, ACK | PSH, numbers[server], end, &[], response);
        assert!(passed.iter().any(|s| s.payload == response), "round {round}: {passed:?}");
        see(&passed);
        answered[server] += 1;
        numbers[server] += response.len() as u32;
        (from_client, to_client) = (end, to_client.wrapping_add(response.len() as u32));
    }
    see(&d.client(ACK, from_client, to_client, b""));
    let mut report = Report { traffic: true, ..Report::default() };
    while !report.settled {
        match d.worker.command(Command::Report(Box::new(report)), d.now) {
            Acknowledgement::Report(r) => report = *r,
            other => panic!("{other:?}"),
        }
    }
    let counted: Vec<_> = report.servers.iter().map(|s| [s.packets_in, s.bytes_in]).collect();
    assert_eq!(counted, sent_to);
    assert_eq!(answered, [3, 3]);
    assert!(report.servers.iter().all(|s| s.packets_out >= 3 && s.bytes_out >= 3 * (40 + response.len() as u64)));
}

/// A large table is gone through a little at a time, if somebody asks, and what passes meanwhile is counted once.
#[test]
fn the_sums_of_a_large_table_are_complete_when_the_report_says_so() {
    let mut world = World::of(&SITE);
    let flows = 2500u16;
    for n in (0..flows).step_by(32) {
        let frames: Vec<_> = (n..flows.min(n + 32)).map(|n| from_client(n, SYN, 54)).collect();
        world.burst(&frames);
    }
    let sum = |report: &Report| report.servers.iter().map(|s| s.packets_in).sum::<u64>();
    let traffic = || Report { traffic: true, ..Report::default() };
    // Who does not ask for traffic has nobody gone through the table, and an answer at once.
    let without = world.ask(Report::default());
    assert!(without.settled && without.flows == usize::from(flows) && sum(&without) == 0, "{without:?}");
    assert!(!world.worker.pipeline().awaits());
    let first = world.ask(traffic());
    assert!(!first.settled && world.worker.pipeline().awaits());
    // Another one asks in the middle of it, after one more packet.
    world.burst(&[from_client(0, SYN, 54)]);
    let mut second = world.ask(traffic());
    let mut again = first;
    while !again.settled {
        world.worker.between(world.now);
        again = world.ask(again);
    }
    assert!(sum(&again) >= u64::from(flows) && again.flows == usize::from(flows));
    while !second.settled {
        second = world.ask(second);
    }
    assert_eq!(sum(&second), u64::from(flows) + 1);
    assert!(!world.worker.pipeline().awaits(), "nobody has asked for more");
    assert_eq!(sum(&world.report()), u64::from(flows) + 1);
}

/// What happens to a site.
#[derive(Debug, Clone)]
enum Step {
    /// A client's segment, of so many bytes more than its headers.
    Client(u16, u8, usize),
    /// The same of a server, to a client.
    Server(u8, u16, u8, usize),
    /// So many of the client's at once.
    Many(u16, u8),
    /// Seconds pass.
    Wait(u16),
    NextHop(u8, u8),
    Report,
}

fn step() -> impl Strategy<Value = Step> {
    let client = || 0..6u16;
    let flags = || prop_oneof![3 => Just(SYN), 4 => Just(ACK), 1 => Just(ACK | FIN), 1 => Just(RST)];
    let answer = || prop_oneof![3 => Just(SYN | ACK), 4 => Just(ACK), 1 => Just(ACK | FIN), 1 => Just(RST)];
    prop_oneof![
        8 => (client(), flags(), 0..900usize).prop_map(|(n, flags, size)| Step::Client(n, flags, size)),
        8 => (1..3u8, client(), answer(), 0..900usize).prop_map(|(s, n, flags, size)| Step::Server(s, n, flags, size)),
        3 => (client(), 1..200u8).prop_map(|(n, times)| Step::Many(n, times)),
        2 => (1..1200u16).prop_map(Step::Wait),
        1 => (0..2u8, any::<u8>()).prop_map(|(row, n)| Step::NextHop(row, n)),
        1 => Just(Step::Report),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Four flows at most, of six clients: they give way, are reset, expire, are opened anew. The sums of servers are what was forwarded for
    /// flows, packet by packet and byte by byte.
    #[test]
    fn servers_are_counted_what_is_forwarded(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::of(&[&["worker flows=4 fragments=4", "when-full evict-half-open"], &SITE[1..]].concat());
        // By server: packets and bytes from clients, and to them.
        let mut forwarded = [[0u64; 4]; 2];
        for step in steps {
            let frames = match step {
                Step::Client(n, flags, size) => vec![from_client(n, flags, 54 + size)],
                Step::Server(server, n, flags, size) => vec![from_server(server, n, flags, 54 + size)],
                Step::Many(n, times) => (0..times).map(|_| from_client(n, ACK, 54)).collect(),
                Step::Wait(seconds) => {
                    world.now += u64::from(seconds) * 1_000_000_000;
                    (0..8).for_each(|_| world.idle());
                    continue;
                }
                Step::NextHop(server, n) => {
                    let row = world.snapshot.servers[usize::from(server)].as_ref().unwrap().next_hop;
                    let mut hop = NextHop::new(MacAddr([2, 5, 0, 0, 0, n]), MacAddr(interface_mac(1)), 1, 1500);
                    hop.resolved = n % 4 > 0;
                    world.worker.command(Command::SetNextHop { row, hop }, world.now);
                    continue;
                }
                Step::Report => {
                    let _ = world.ask(Report { traffic: true, ..Report::default() });
                    continue;
                }
            };
            for burst in frames.chunks(32) {
                let from = burst[0].0;
                // What is held until its next hop is known comes out with later bursts.
                for (_, frame) in world.burst(burst) {
                    let to_server = frame[30..33] == [10, 0, 0];
                    let length = u64::from(u16::from_be_bytes([frame[16], frame[17]]));
                    // NAT hides a server's address: it is known from the burst, which is one server's.
                    let (server, at) = if to_server {
                        (usize::from(frame[33]) - 1, 0)
                    } else {
                        prop_assert_eq!(from, 1);
                        (usize::from(burst[0].1[29]) - 1, 2)
                    };
                    forwarded[server][at] += 1;
                    forwarded[server][at + 1] += length;
                }
            }
        }
        // What is still held is forwarded or gone.
        for row in 0..2 {
            let hop = NextHop::new(MacAddr([2, 5, 0, 0, 0, 1]), MacAddr(interface_mac(1)), 1, 1500);
            let row = world.snapshot.servers[row].as_ref().unwrap().next_hop;
            world.worker.command(Command::SetNextHop { row, hop }, world.now);
        }
        world.worker.poll(world.now);
        for (_, frame) in world.sent() {
            prop_assert_eq!(&frame[30..33], [10, 0, 0]);
            forwarded[usize::from(frame[33]) - 1][0] += 1;
            forwarded[usize::from(frame[33]) - 1][1] += u64::from(u16::from_be_bytes([frame[16], frame[17]]));
        }
        let counted: Vec<_> =
            world.report().servers.iter().map(|s| [s.packets_in, s.bytes_in, s.packets_out, s.bytes_out]).collect();
        prop_assert_eq!(counted, forwarded);
    }
}
