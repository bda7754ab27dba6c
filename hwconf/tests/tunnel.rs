//! The decapsulator: a kernel TCP client gets its answers from a server through all four kinds of IP-in-IP.

mod support;

use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lcs_hwconf::packet::PacketSocket;
use lcs_hwconf::rtnl::Route;
use lcs_hwconf::testbed::{ETH0, Host, Plan, ReturnPath, Testbed};
use lcs_hwconf::tun::Tun;
use socket2::{Domain, Protocol, Socket, Type};
use support::{checksum, eventually, get, root, serve_http};

/// A director in miniature: what is routed to `vip` is sent to `server` within IP. The kernel makes the outer header.
struct Encapsulator {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Encapsulator {
    fn start(director: &Host, name: &str, vip: IpAddr, server: IpAddr, mtu: u32) -> Self {
        let tun = Tun::create(director.namespace(), name, mtu).unwrap();
        director.rtnl().set_route(&Route { to: vip.into(), via: None, dev: Some(name), source: None }).unwrap();
        let protocol = if vip.is_ipv4() { 4 } else { 41 };
        let domain = if server.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let raw = director.run(|| Socket::new(domain, Type::RAW, Some(Protocol::from(protocol))).unwrap()).unwrap();
        raw.connect(&std::net::SocketAddr::new(server, 0).into()).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = director
            .spawn("encapsulator", move || {
                let mut packet = vec![0; 65_535];
                while !stopped.load(Ordering::Relaxed) {
                    tun.wait(Some(Duration::from_millis(20))).unwrap();
                    while let Some(length) = tun.receive(&mut packet).unwrap() {
                        // Not the kernel's own announcements on the device.
                        if (packet[0] >> 4 == 4) == vip.is_ipv4() && goes_to(&packet, vip) {
                            (&raw).write_all(&packet[..length]).unwrap();
                        }
                    }
                }
            })
            .unwrap();
        Encapsulator { stop, thread: Some(thread) }
    }
}

impl Drop for Encapsulator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let outcome = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            outcome.unwrap();
        }
    }
}

fn goes_to(packet: &[u8], vip: IpAddr) -> bool {
    match vip {
        IpAddr::V4(vip) => packet[16..20] == vip.octets(),
        IpAddr::V6(vip) => packet[24..40] == vip.octets(),
    }
}

#[test]
fn kernel_tcp_passes_through_all_four_tunnels() {
    if !root("kernel_tcp_passes_through_all_four_tunnels") {
        return;
    }
    // The director's and servers' legs carry the outer header too.
    let bed = Testbed::build(Plan {
        return_path: ReturnPath::Direct,
        director_mtu: 1540,
        server_mtu: 1540,
        servers: 1,
        ..Plan::default()
    })
    .unwrap();
    bed.set_kernel_forwarding(true).unwrap();
    let server = &bed.servers()[0];
    let tunnel = server.decapsulate().unwrap();
    for (at, inner_ipv6, outer_ipv6) in [(0, false, false), (1, true, false), (2, false, true), (3, true, true)] {
        let vip = bed.virtual_address(at, inner_ipv6);
        server.add_hidden_address(vip).unwrap();
        let director = bed.director_address(inner_ipv6);
        bed.client()
            .rtnl()
            .set_route(&Route { to: vip.into(), via: Some(director), dev: Some(ETH0), source: None })
            .unwrap();
        let _tunnel =
            Encapsulator::start(bed.director(), &format!("out{at}"), vip, bed.server_address(0, outer_ipv6), 1500);
        serve_http(server, vip, 80, 200_000);
        // IPv6 has no way out of a host until the kernel has noticed that the link is up.
        eventually("a way to the service", || {
            !get(bed.client(), vip, 80).is_err_and(|e| e.kind() == ErrorKind::NetworkUnreachable)
        });
        for _ in 0..5 {
            assert_eq!(get(bed.client(), vip, 80).unwrap(), ("server1".to_owned(), 200_000), "{vip}");
        }
        let now = tunnel.counts();
        let passed = [now.ipv4_in_ipv4, now.ipv6_in_ipv4, now.ipv4_in_ipv6, now.ipv6_in_ipv6];
        let (until_now, to_come) = passed.split_at(usize::from(at) + 1);
        assert!(until_now.iter().all(|packets| *packets >= 5 * 4), "{passed:?}");
        assert!(to_come.iter().all(|packets| *packets == 0), "{passed:?}");
    }
    assert_eq!(tunnel.stop().unwrap().refused, 0);
    // Its device is gone with it.
    eventually("the end of the TUN device", || server.rtnl().link("tunnel0").is_err());
}

/// An outer packet above the path's MTU arrives in fragments, and is put together before it's unpacked.
#[test]
fn a_fragmented_tunnel_is_reassembled() {
    if !root("a_fragmented_tunnel_is_reassembled") {
        return;
    }
    let bed = Testbed::build(Plan { return_path: ReturnPath::Direct, servers: 1, ..Plan::default() }).unwrap();
    let server = &bed.servers()[0];
    let tunnel = server.decapsulate().unwrap();
    for outer_ipv6 in [false, true] {
        let vip = bed.virtual_address(0, false);
        if !outer_ipv6 {
            server.add_hidden_address(vip).unwrap();
        }
        let listener = server.run(|| std::net::UdpSocket::bind((vip, 5000 + u16::from(outer_ipv6))).unwrap()).unwrap();
        listener.set_read_timeout(Some(support::PATIENCE)).unwrap();
        let out = Encapsulator::start(bed.director(), "out", vip, bed.server_address(0, outer_ipv6), 3000);
        bed.director()
            .run(|| {
                let socket = std::net::UdpSocket::bind((bed.director_address(false), 0)).unwrap();
                socket.send_to(&[7; 2500], (vip, 5000 + u16::from(outer_ipv6))).unwrap();
            })
            .unwrap();
        let mut received = [0; 4000];
        assert_eq!(listener.recv(&mut received).unwrap(), 2500);
        drop(out);
    }
    assert_eq!(tunnel.counts().accepted(), 2);
}

/// Rubbish inside, and nothing inside, is counted and does no harm; nor does a wrong inner checksum pass.
#[test]
fn rubbish_in_a_tunnel_is_refused() {
    if !root("rubbish_in_a_tunnel_is_refused") {
        return;
    }
    let bed = Testbed::build(Plan { return_path: ReturnPath::Direct, servers: 1, ..Plan::default() }).unwrap();
    let server = &bed.servers()[0];
    let tunnel = server.decapsulate().unwrap();
    let send = |outer_ipv6: bool, protocol: i32, inner: &[u8]| {
        let domain = if outer_ipv6 { Domain::IPV6 } else { Domain::IPV4 };
        let raw = bed.director().run(|| Socket::new(domain, Type::RAW, Some(Protocol::from(protocol))).unwrap());
        let raw = raw.unwrap();
        raw.connect(&std::net::SocketAddr::new(bed.server_address(0, outer_ipv6), 0).into()).unwrap();
        raw.send(inner).unwrap();
    };
    let mut refused = 0;
    for outer_ipv6 in [false, true] {
        // Of another version than announced, of no version, or nothing at all.
        for (protocol, inner) in [(4, &[0x60; 40][..]), (41, &[0x45; 40]), (4, &[0xff; 3]), (4, &[]), (41, &[])] {
            send(outer_ipv6, protocol, inner);
            refused += 1;
            eventually("a refusal", || tunnel.counts().refused == refused);
        }
        // Of the right version, but cut short: the kernel takes it and drops it.
        send(outer_ipv6, 4, &[0x45, 0, 0, 40]);
        send(outer_ipv6, 41, &[0x60; 8]);
    }
    assert_eq!(tunnel.counts().refused, refused);

    let vip = bed.virtual_address(0, false);
    server.add_hidden_address(vip).unwrap();
    let listener = server.run(|| std::net::UdpSocket::bind((vip, 5000)).unwrap()).unwrap();
    listener.set_read_timeout(Some(support::PATIENCE)).unwrap();
    let (wrong, right) =
        (udp(bed.client_address(0, false), vip, b"wrong", 1), udp(bed.client_address(0, false), vip, b"right", 0));
    send(false, 4, &wrong);
    send(false, 4, &right);
    let mut received = [0; 100];
    let length = listener.recv(&mut received).unwrap();
    assert_eq!(&received[..length], b"right");
}

/// A server that isn't reached by a tunnel packet for another: the sockets see only what is addressed to the host.
#[test]
fn packets_for_another_host_are_not_unpacked() {
    if !root("packets_for_another_host_are_not_unpacked") {
        return;
    }
    let bed = Testbed::build(Plan { return_path: ReturnPath::Direct, servers: 2, ..Plan::default() }).unwrap();
    let tunnels: Vec<_> = bed.servers().iter().map(|server| server.decapsulate().unwrap()).collect();
    let raw = PacketSocket::open(bed.director().namespace(), ETH0).unwrap();
    let (vip, client) = (bed.virtual_address(0, false), bed.client_address(0, false));
    let inner = udp(client, vip, b"hello", 0);
    // Frames to the first server's hardware address; the outer address is the second's, then the first's.
    for to in [1, 0] {
        let mac = bed.servers()[0].rtnl().link(ETH0).unwrap().mac.unwrap();
        let outer = ipv4(4, bed.director_inner_address(false), bed.server_address(to, false), &inner);
        raw.send(&[&mac[..], &[2, 0x80, 0, 0, 0, 1], &[8, 0], &outer].concat()).unwrap();
    }
    eventually("the packet for the first server", || tunnels[0].counts().accepted() == 1);
    assert_eq!(tunnels[1].counts().accepted(), 0);
}

fn ipv4(protocol: u8, from: IpAddr, to: IpAddr, payload: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else { panic!("IPv4 addresses") };
    let length = (20 + payload.len()) as u16;
    let mut header = [&[0x45, 0], &length.to_be_bytes()[..], &[0, 0, 0, 0, 64, protocol, 0, 0]].concat();
    header.extend(from.octets());
    header.extend(to.octets());
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [header, payload.to_vec()].concat()
}

/// A UDP packet to port 5000 whose checksum is off by `error`.
fn udp(from: IpAddr, to: IpAddr, payload: &[u8], error: u16) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(target)) = (from, to) else { panic!("IPv4 addresses") };
    let length = ((8 + payload.len()) as u16).to_be_bytes();
    let mut datagram = [&5001u16.to_be_bytes()[..], &5000u16.to_be_bytes(), &length, &[0, 0], payload].concat();
    let pseudo = [&[0, 17], &length[..]].concat();
    let sum = checksum(&[&source.octets(), &target.octets(), &pseudo, &datagram]);
    datagram[6..8].copy_from_slice(&sum.wrapping_add(error).to_be_bytes());
    ipv4(17, from, to, &datagram)
}
