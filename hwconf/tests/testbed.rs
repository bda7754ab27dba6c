//! The testbed: kernel TCP between its hosts, frames as a director must see them, hidden virtual addresses.

mod support;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lcs_hwconf::ethtool::Offload;
use lcs_hwconf::packet::{self, Direction, PacketSocket};
use lcs_hwconf::testbed::{Arms, ETH0, ETH1, Host, Plan, ReturnPath, Testbed};
use support::{eventually, get, root, serve_http, tcp_checksum_right};

/// What a packet socket saw of a transfer.
#[derive(Debug, Default)]
struct Seen {
    tcp_frames: usize,
    longest: usize,
    wrong_checksums: usize,
}

fn look_at(capture: &PacketSocket) -> Seen {
    let mut seen = Seen::default();
    let mut frame = vec![0; 1 << 17];
    while let Some((length, direction)) = capture.receive(&mut frame).unwrap() {
        if direction == Direction::Sent {
            continue;
        }
        if let Some(right) = tcp_checksum_right(&frame[..length]) {
            seen.tcp_frames += 1;
            seen.wrong_checksums += usize::from(!right);
            seen.longest = seen.longest.max(length);
        }
    }
    seen
}

/// A transfer of `length` bytes from the first server to the client through the director's kernel, seen on `legs`.
fn transfer(bed: &Testbed, ipv6: bool, legs: &[&str], length: usize) -> Vec<Seen> {
    let captures: Vec<_> =
        legs.iter().map(|leg| PacketSocket::open(bed.director().namespace(), leg).unwrap()).collect();
    let (server, port) = (bed.server_address(0, ipv6), if ipv6 { 86 } else { 84 });
    serve_http(&bed.servers()[0], server, port, length);
    assert_eq!(get(bed.client(), server, port).unwrap(), ("server1".to_owned(), length));
    captures.iter().map(look_at).collect()
}

#[test]
fn every_frame_at_the_director_fits_the_mtu_and_has_a_full_checksum() {
    if !root("every_frame_at_the_director_fits_the_mtu_and_has_a_full_checksum") {
        return;
    }
    for arms in [Arms::One, Arms::Two] {
        let bed = Testbed::build(Plan { arms, ..Plan::default() }).unwrap();
        bed.set_kernel_forwarding(true).unwrap();
        let legs: &[&str] = if arms == Arms::One { &[ETH0] } else { &[ETH0, ETH1] };
        for ipv6 in [false, true] {
            for seen in transfer(&bed, ipv6, legs, 500_000) {
                assert!(seen.tcp_frames > 20, "{arms:?}: {seen:?}");
                assert!(seen.longest <= 1514, "{arms:?}: {seen:?}");
                assert_eq!(seen.wrong_checksums, 0, "{arms:?}: {seen:?}");
            }
        }
    }
}

/// The other way round: with a server's offloads on, the same look finds what the testbed protects from.
#[test]
fn offloads_at_a_server_are_seen_at_the_director() {
    if !root("offloads_at_a_server_are_seen_at_the_director") {
        return;
    }
    let bed = Testbed::build(Plan::default()).unwrap();
    bed.set_kernel_forwarding(true).unwrap();
    // At the server, and at the switch's port, which would finish the frames in its stead.
    for (host, link) in [(&bed.servers()[0], ETH0), (bed.switch(), "director")] {
        for offload in [Offload::TxChecksum, Offload::ScatterGather, Offload::Tso] {
            host.ethtool().set_offload(link, offload, true).unwrap();
        }
    }
    let seen = &transfer(&bed, false, &[ETH0], 500_000)[0];
    assert!(seen.longest > 1514, "{seen:?}");
    assert!(seen.wrong_checksums > 0, "{seen:?}");
}

#[test]
fn legs_have_the_mtu_of_the_plan() {
    if !root("legs_have_the_mtu_of_the_plan") {
        return;
    }
    let bed =
        Testbed::build(Plan { client_mtu: 1300, director_mtu: 1600, server_mtu: 1700, ..Plan::default() }).unwrap();
    bed.set_kernel_forwarding(true).unwrap();
    let mtu = |host: &Host, link| host.rtnl().link(link).unwrap().mtu;
    assert_eq!(mtu(bed.client(), ETH0), 1300);
    assert_eq!((mtu(bed.director(), ETH0), mtu(bed.switch(), "director")), (1600, 1600));
    assert_eq!(mtu(&bed.servers()[2], ETH0), 1700);
    // The client's segment size is what counts.
    let seen = &transfer(&bed, true, &[ETH0], 100_000)[0];
    assert_eq!(seen.longest, 1314, "{seen:?}");
}

#[test]
fn all_hosts_are_as_the_table_of_addresses_says() {
    if !root("all_hosts_are_as_the_table_of_addresses_says") {
        return;
    }
    let bed = Testbed::build(Plan { clients: 3, servers: 2, queues: 2, ..Plan::default() }).unwrap();
    let addresses =
        |host: &Host| host.rtnl().addresses(ETH0).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
    let client = addresses(bed.client());
    for expected in ["10.80.0.10/24", "10.80.0.12/24", "fd80::10/64", "fd80::12/64"] {
        assert!(client.iter().any(|a| a == expected), "{client:?}");
    }
    let server = addresses(&bed.servers()[1]);
    assert!(server.iter().any(|a| a == "10.80.1.11/24") && server.iter().any(|a| a == "fd80:0:0:1::11/64"));
    assert_eq!(bed.director().rtnl().link(ETH0).unwrap().rx_queues, 2);
    assert_eq!(bed.director().rtnl().link(ETH0).unwrap().mac, Some([2, 0x80, 0, 0, 0, 1]));
    for host in bed.hosts() {
        for link in host.rtnl().links().unwrap() {
            assert!(link.up && link.running, "{} of {}", link.name, host.name());
            if link.name != "lo" && link.kind.as_deref() == Some("veth") {
                assert!(!host.ethtool().offload(&link.name, Offload::TxChecksum).unwrap());
                assert!(!host.ethtool().offload(&link.name, Offload::Gro).unwrap());
            }
        }
    }
}

/// With several queues a connection's frames come on one, and connections spread over them.
#[test]
fn connections_spread_over_the_directors_queues() {
    if !root("connections_spread_over_the_directors_queues") {
        return;
    }
    let bed = Testbed::build(Plan { queues: 2, ..Plan::default() }).unwrap();
    bed.set_kernel_forwarding(true).unwrap();
    // A veth counts per queue only what its NAPI handles, which GRO switches on and AF_XDP would.
    bed.director().ethtool().set_offload(ETH0, Offload::Gro, true).unwrap();
    serve_http(&bed.servers()[0], bed.server_address(0, false), 80, 100);
    for _ in 0..40 {
        get(bed.client(), bed.server_address(0, false), 80).unwrap();
    }
    let counters = bed.director().ethtool().counters(ETH0).unwrap();
    for queue in 0..2 {
        assert!(counters[&format!("rx_queue_{queue}_xdp_packets")] > 20, "{counters:?}");
    }
}

/// Which host's hardware address the client finds for `address`, by asking the network.
fn who_answers(bed: &Testbed, address: IpAddr) -> Option<[u8; 6]> {
    let namespace = bed.client().namespace();
    let socket = namespace.run(|| {
        let unspecified: IpAddr = if address.is_ipv4() { "0.0.0.0".parse().unwrap() } else { "::".parse().unwrap() };
        std::net::UdpSocket::bind((unspecified, 0)).unwrap()
    });
    let socket = socket.unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let rtnl = bed.client().rtnl();
    let mut found = None;
    // Three questions, one a second, are all that the kernel asks; one answer ends it.
    let deadline = std::time::Instant::now() + Duration::from_millis(1500);
    while found.is_none() && std::time::Instant::now() < deadline {
        let _ = socket.send_to(b"who?", SocketAddr::new(address, 9));
        let _ = socket.recv(&mut [0; 8]);
        found = rtnl.neighbours(ETH0).unwrap().into_iter().find(|n| n.address == address).map(|n| n.mac);
    }
    found
}

#[test]
fn a_hidden_address_is_accepted_but_never_answered_for() {
    if !root("a_hidden_address_is_accepted_but_never_answered_for") {
        return;
    }
    let bed = Testbed::build(Plan { return_path: ReturnPath::Direct, ..Plan::default() }).unwrap();
    for ipv6 in [false, true] {
        let vip = bed.virtual_address(0, ipv6);
        for server in bed.servers() {
            server.add_hidden_address(vip).unwrap();
        }
        // Three hosts have the address, and no one says so.
        assert_eq!(who_answers(&bed, vip), None, "{vip}");

        // But each of them answers who comes by its hardware address, as a director's direct routing does.
        for (at, server) in bed.servers().iter().enumerate() {
            let mac = server.rtnl().link(ETH0).unwrap().mac.unwrap();
            bed.client().rtnl().set_neighbour(ETH0, vip, mac).unwrap();
            serve_http(server, vip, 80, 10);
            assert_eq!(get(bed.client(), vip, 80).unwrap().0, format!("server{}", at + 1));
        }

        // With the director in place, it alone is found, though the servers have the address too.
        let other = bed.virtual_address(1, ipv6);
        bed.servers().iter().for_each(|server| server.add_hidden_address(other).unwrap());
        bed.give_virtual_address(other).unwrap();
        assert_eq!(who_answers(&bed, other), Some([2, 0x80, 0, 0, 0, 1]), "{other}");
    }
}

#[test]
fn an_unhidden_address_is_answered_for() {
    if !root("an_unhidden_address_is_answered_for") {
        return;
    }
    // The same look as above, where there is something to be found: an address on the server's interface.
    let bed = Testbed::build(Plan { return_path: ReturnPath::Direct, ..Plan::default() }).unwrap();
    for ipv6 in [false, true] {
        let vip = bed.virtual_address(0, ipv6);
        bed.servers()[1].rtnl().add_address(ETH0, vip.into()).unwrap();
        assert_eq!(who_answers(&bed, vip), bed.servers()[1].rtnl().link(ETH0).unwrap().mac, "{vip}");
    }
}

/// Takes what has come to one end of a cut cable to the other.
fn carry(from: &PacketSocket, to: &PacketSocket) {
    let mut frame = vec![0; 1 << 16];
    while let Some((length, direction)) = from.receive(&mut frame).unwrap() {
        if direction == Direction::Received {
            to.send(&frame[..length]).unwrap();
        }
    }
}

#[test]
fn a_cut_cable_passes_what_somebody_carries_and_nothing_by_itself() {
    if !root("a_cut_cable_passes_what_somebody_carries_and_nothing_by_itself") {
        return;
    }
    let bed = Testbed::build(Plan { arms: Arms::Two, ..Plan::default() }).unwrap();
    bed.set_kernel_forwarding(true).unwrap();
    for (host, link) in [(bed.client(), ETH0), (bed.director(), ETH1)] {
        let ends = bed.cut(host, link).unwrap();
        let again = bed.cut(host, link).unwrap_err().to_string();
        assert!(again.contains("already"), "{again}");
        for end in &ends {
            assert!(!bed.switch().ethtool().offload(end, Offload::Gro).unwrap());
        }
        let ends = ends.map(|end| PacketSocket::open(bed.switch().namespace(), &end).unwrap());
        if host.name() == "client" {
            assert_eq!(who_answers(&bed, bed.director_address(false)), None);
        }
        let done = AtomicBool::new(false);
        let (server, port) = (bed.server_address(0, true), if host.name() == "client" { 80 } else { 81 });
        serve_http(&bed.servers()[0], server, port, 300_000);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let [near, far] = &ends;
                while !done.load(Ordering::Relaxed) {
                    packet::wait_any([near.as_fd(), far.as_fd()], Some(Duration::from_millis(5))).unwrap();
                    carry(near, far);
                    carry(far, near);
                }
            });
            // Nobody carries at the client's cable any more when the director's is cut.
            let from = if host.name() == "client" { bed.client() } else { bed.director() };
            let answer = get(from, server, port);
            done.store(true, Ordering::Relaxed);
            assert_eq!(answer.unwrap(), ("server1".to_owned(), 300_000));
        });
    }
}

/// What a packet socket had no room for is counted, so that nobody takes it for what never came.
#[test]
fn frames_that_nobody_takes_in_time_are_counted() {
    if !root("frames_that_nobody_takes_in_time_are_counted") {
        return;
    }
    let bed = Testbed::build(Plan::default()).unwrap();
    let capture = PacketSocket::open(bed.switch().namespace(), "client").unwrap();
    let sender = PacketSocket::open(bed.client().namespace(), ETH0).unwrap();
    // To the director, of a protocol that nobody knows (IEEE Std 802: local experiments).
    let frame = [&[2, 0x80, 0, 0, 0, 1, 2, 0x80, 0, 0, 0, 10, 0x88, 0xb5][..], &[0x5a; 1486]].concat();
    let sent = 20_000;
    (0..sent).for_each(|_| sender.send(&frame).unwrap());
    let mut missed = 0;
    eventually("the kernel's queue to be full", || {
        missed += capture.missed().unwrap();
        missed > 0
    });
    let (mut taken, mut buffer) = (0, vec![0; 1 << 16]);
    eventually("every frame", || {
        while let Some((length, _)) = capture.receive(&mut buffer).unwrap() {
            taken += u64::from(buffer[..length] == frame);
        }
        missed += capture.missed().unwrap();
        // The kernel's own frames may be among those that were missed.
        taken + missed >= sent
    });
    assert!(taken > 1_000 && taken < sent, "{taken} of {sent}, {missed} missed");
    assert_eq!(capture.missed().unwrap(), 0);
}

#[test]
fn a_dropped_testbed_is_gone() {
    if !root("a_dropped_testbed_is_gone") {
        return;
    }
    let bed = Testbed::build(Plan::default()).unwrap();
    let watcher = bed.client().namespace().duplicate().unwrap();
    let rtnl = lcs_hwconf::rtnl::Rtnl::open_in(&watcher).unwrap();
    assert!(rtnl.link(ETH0).is_ok());
    drop(bed);
    eventually("the end of the client's leg", || rtnl.link(ETH0).is_err());
}

/// Receive work is steered where it's told to, and the caller's own view of /sys stays as it is.
#[test]
fn receive_work_is_steered_within_the_namespace_only() {
    use lcs_hwconf::{cores, steering};
    if !root("receive_work_is_steered_within_the_namespace_only") {
        return;
    }
    let core = cores::available().unwrap().last().unwrap().id;
    let links = || std::fs::read_dir("/sys/class/net").unwrap().count();
    let before = links();
    let bed = Testbed::build(Plan::default()).unwrap();
    let mut ports = vec!["client", "director"];
    steering::receive_on(bed.switch().namespace(), &ports, Some(core)).unwrap();
    steering::receive_on(bed.director().namespace(), &[ETH0], Some(core)).unwrap();
    steering::receive_on(bed.director().namespace(), &[ETH0], None).unwrap();
    ports.push("nobody");
    let error = steering::receive_on(bed.switch().namespace(), &ports, Some(core)).unwrap_err().to_string();
    assert!(error.contains("nobody"), "{error}");
    // Without an XDP program a veth has no NAPI to be run in a thread.
    assert!(steering::poll_in_thread(bed.director().namespace(), ETH0, core).is_err());
    assert_eq!(links(), before);
}
