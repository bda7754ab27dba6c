//! What established flows keep in their own lines, so that a packet touches nothing of its server: the next hop, which must follow every
//! change, and counts, which must come out exact.
mod wire;
mod world;

use lcs_dataplane::headers::MacAddr;
use lcs_dataplane::headers::build::Packet;
use lcs_dataplane::headers::tcp::flags::{ACK, RST, SYN};
use lcs_pipelines::command::{Acknowledgement, Command, Report};
use lcs_pipelines::snapshot::{NextHop, Server};
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

fn ask(world: &mut World, report: Report) -> Report {
    match world.worker.command(Command::Report(Box::new(report)), world.now) {
        Acknowledgement::Report(report) => *report,
        other => panic!("{other:?}"),
    }
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
    // Around the numbers at which a count of changes of 16 bits would come again, with no packet meanwhile.
    let mut n = 0;
    for changes in [1u32, 1, 65_533, 65_534, 65_535, 65_536, 65_537] {
        for _ in 0..changes {
            n += 1;
            set(&mut world, hop(n));
        }
        for _ in 0..2 {
            assert_eq!(goes_to(&mut world, 0)[..], hop(n).addresses[..6], "after {changes} changes");
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
    while world.report().flows > 0 {
        world.worker.between(world.now);
    }
    let report = world.report();
    let stats = report.servers[slot];
    assert!(report.settled);
    assert_eq!([[stats.packets_in, stats.bytes_in], [stats.packets_out, stats.bytes_out]], expected);
}

/// A large table is gone through a little at a time, whoever asks, and what passes meanwhile is counted once.
#[test]
fn the_sums_of_a_large_table_are_complete_when_the_report_says_so() {
    let mut world = World::of(&SITE);
    let flows = 2500u16;
    for n in (0..flows).step_by(32) {
        let frames: Vec<_> = (n..flows.min(n + 32)).map(|n| from_client(n, SYN, 54)).collect();
        world.burst(&frames);
    }
    let sum = |report: &Report| report.servers.iter().map(|s| s.packets_in).sum::<u64>();
    let first = ask(&mut world, Report::default());
    assert!(!first.settled && first.flows == usize::from(flows), "{first:?}");
    // Another one asks in the middle of it, after one more packet.
    world.burst(&[from_client(0, SYN, 54)]);
    let mut second = ask(&mut world, Report::default());
    let mut again = first;
    while !again.settled {
        world.worker.between(world.now);
        again = ask(&mut world, again);
    }
    assert!(sum(&again) >= u64::from(flows));
    while !second.settled {
        second = ask(&mut world, second);
    }
    assert_eq!(sum(&second), u64::from(flows) + 1);
    let mut third = ask(&mut world, Report::default());
    while !third.settled {
        third = ask(&mut world, third);
    }
    assert_eq!(sum(&third), u64::from(flows) + 1);
}
