//! The XDP program that balances by itself, run in the kernel on one frame at a time: what it changes, and that every
//! checksum is right again, computed the slow way.

mod wire;

use lcs_dataplane::port::af_xdp::balancer::{Target, XdpBalancer};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use wire::{TCP, UDP, checksum, ethernet, frame, ipv4, root, tagged, transport};

const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 80);
const CLIENTS: [u8; 6] = [2, 0xc, 0, 0, 0, 1];

fn servers(n: u8) -> Vec<Target> {
    let target = |at: u8| Target {
        endpoint: SocketAddrV4::new(Ipv4Addr::new(10, 255, 1, 10 + at), 8080),
        mac: [2, 5, 0, 0, 0xff, at],
    };
    (0..n).map(target).collect()
}

fn balancer(n: u8) -> XdpBalancer {
    XdpBalancer::load(SERVICE, &servers(n), CLIENTS).unwrap_or_else(|e| panic!("{e}"))
}

/// The sum of a TCP segment with its pseudo-header; 0 when its checksum is right.
fn tcp_sum(source: Ipv4Addr, destination: Ipv4Addr, segment: &[u8]) -> u16 {
    let mut all = [source.octets(), destination.octets()].concat();
    all.extend([0, TCP]);
    all.extend((segment.len() as u16).to_be_bytes());
    all.extend(segment);
    checksum(&all)
}

fn tcp(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let mut segment = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    segment.extend([0, 0, 0, 7, 0, 0, 0, 9, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(payload);
    let sum = tcp_sum(*from.ip(), *to.ip(), &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    frame(ipv4(*from.ip(), *to.ip(), TCP, &[], 0, &segment))
}

fn endpoint(frame: &[u8], address: usize, port: usize) -> SocketAddrV4 {
    let octets: [u8; 4] = frame[address..address + 4].try_into().expect("four");
    SocketAddrV4::new(octets.into(), u16::from_be_bytes([frame[port], frame[port + 1]]))
}

/// Source and destination of a frame whose checksums are right.
fn checked(frame: &[u8]) -> (SocketAddrV4, SocketAddrV4) {
    let (from, to) = (endpoint(frame, 26, 34), endpoint(frame, 30, 36));
    assert_eq!(checksum(&frame[14..34]), 0, "the IPv4 checksum");
    assert_eq!(tcp_sum(*from.ip(), *to.ip(), &frame[34..]), 0, "the TCP checksum");
    (from, to)
}

#[test]
fn both_directions_are_translated_and_their_checksums_right() {
    if !root("both_directions_are_translated_and_their_checksums_right") {
        return;
    }
    let balancer = balancer(3);
    let all = servers(3);
    let mut seen = HashMap::new();
    for n in 0..2000u16 {
        // Addresses and payloads that carry, so that the folds are tried.
        let client = SocketAddrV4::new(Ipv4Addr::new(198, 51, (n % 251) as u8, 255 - (n % 7) as u8), 1024 + n * 31);
        let payload: Vec<u8> = (0..n % 97).map(|b| (b as u8) ^ 0xff).collect();
        let sent = tcp(client, SERVICE, &payload);
        let out = balancer.run(&sent).expect("run").expect("for a server");
        let (from, to) = checked(&out);
        let server = all.iter().find(|s| s.endpoint == to).expect("one of the servers");
        assert_eq!((from, &out[..6], &out[6..12]), (client, &server.mac[..], &sent[..6]));
        assert_eq!((out[22], out.len(), &out[54..]), (63, sent.len(), &sent[54..]));
        *seen.entry(to).or_insert(0u32) += 1;
        // The same connection goes to the same server, whatever its segments say.
        let again = balancer.run(&tcp(client, SERVICE, b"more")).expect("run").expect("for a server");
        assert_eq!(checked(&again).1, to);
        let answer = tcp(to, client, &payload);
        let back = balancer.run(&answer).expect("run").expect("for a client");
        assert_eq!((checked(&back), &back[..6], back[22]), ((SERVICE, client), &CLIENTS[..], 63));
    }
    assert_eq!(seen.len(), 3);
    assert!(seen.values().all(|n| (500..850).contains(n)), "evenly: {seen:?}");
    let counts = balancer.counts().expect("counts");
    assert_eq!((counts.to_servers, counts.to_clients), (4000, 2000));
}

#[test]
fn what_is_not_the_services_is_left_to_the_kernel() {
    if !root("what_is_not_the_services_is_left_to_the_kernel") {
        return;
    }
    let balancer = balancer(2);
    let client = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 7), 40_000);
    let good = tcp(client, SERVICE, b"GET /");
    let with = |at: usize, to: u8| {
        let mut frame = good.clone();
        frame[at] = to;
        frame
    };
    let other_port = SocketAddrV4::new(*SERVICE.ip(), 81);
    let fragment = frame(ipv4(*client.ip(), *SERVICE.ip(), TCP, &[], 0x2000, &good[34..]));
    let options = frame(ipv4(*client.ip(), *SERVICE.ip(), TCP, &[1; 4], 0, &good[34..]));
    let cases = [
        ("another port", tcp(client, other_port, b"x")),
        ("from another server's port", tcp(SocketAddrV4::new(*servers(1)[0].endpoint.ip(), 22), client, b"x")),
        ("UDP", transport(("198.51.100.7", 40_000), ("192.0.2.1", 80), UDP)),
        ("ARP", ethernet(0x0806, &[0; 46])),
        ("a tag", tagged(good.clone(), 7)),
        ("a fragment", fragment),
        ("options", options),
        ("a used-up TTL", with(22, 1)),
        ("no time to live", with(22, 0)),
        ("IPv6's version", with(14, 0x65)),
        ("a cut header", good[..53].to_vec()),
    ];
    for (what, frame) in cases {
        assert_eq!(balancer.run(&frame).expect("run"), None, "{what}");
    }
    assert!(balancer.run(&good).expect("run").is_some());
    assert_eq!(balancer.counts().expect("counts").to_servers, 1);
}

#[test]
fn a_balancer_without_servers_is_refused() {
    for n in [0, 1025] {
        let one = Target { endpoint: SERVICE, mac: CLIENTS };
        let error = XdpBalancer::load(SERVICE, &vec![one; n], CLIENTS).expect_err("no balancer").to_string();
        assert!(error.contains("1 to 1024 servers"), "{error}");
    }
}
