//! Which frames the XDP program gives to a worker: the program run in the kernel on one frame at a time.

mod wire;

use lcs_dataplane::port::af_xdp::{FilterKey, FilterVerdict, XdpFilter};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use wire::{TCP, UDP, ethernet, frame, ip, ipv4, ipv6, packet, ports, root, tagged, transport};

const VIP: &str = "192.0.2.1";
const REAL: &str = "10.0.0.11";
const CLIENT: &str = "198.51.100.7";
const DIRECTOR: &str = "10.0.0.1";
const VIP6: &str = "2001:db8::1";
const REAL6: &str = "fd00::11";
const CLIENT6: &str = "2001:db8:c::7";
const DIRECTOR6: &str = "fd00::1";
/// A server behind a tunnel, and a router on the way there.
const END: &str = "10.0.0.12";
const ROUTER: &str = "10.0.0.254";
const END6: &str = "fd00::12";
const ROUTER6: &str = "fd00::fe";

/// One service and one real server per family, TCP; one service on any UDP port; a server behind a tunnel; the director's addresses.
fn filter() -> XdpFilter {
    let mut filter = XdpFilter::load().expect("the tables");
    let mut services = Vec::new();
    let mut replies = Vec::new();
    for (vip, real) in [(VIP, REAL), (VIP6, REAL6)] {
        services.extend(FilterKey::service(ip(vip), 80, TCP));
        services.extend(FilterKey::service(ip(vip), 0, UDP));
        replies.extend(FilterKey::reply(ip(real), 8080, TCP));
        replies.extend(FilterKey::reply(ip(real), 0, UDP));
    }
    replies.extend([END, END6].map(|end| FilterKey::tunnel_errors(ip(end))));
    filter.set_services(&services).expect("services");
    filter.set_replies(&replies).expect("replies");
    filter.set_locals(&[ip(DIRECTOR), ip(DIRECTOR6)]).expect("locals");
    filter
}

fn v4(text: &str) -> Ipv4Addr {
    text.parse().expect("an address")
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}

/// An ICMP message of a type with a packet in it.
fn icmp(src: &str, dst: &str, kind: u8, embedded: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(embedded);
    let protocol = if ip(src).is_ipv4() { 1 } else { 58 };
    frame(packet(ip(src), ip(dst), protocol, &message))
}

/// An IPv6 extension header of `len` bytes.
fn extension(next: u8, len: usize, rest: &[u8]) -> Vec<u8> {
    let mut header = vec![0; len];
    header[..2].copy_from_slice(&[next, (len / 8 - 1) as u8]);
    header.extend(rest);
    header
}

/// An IPv6 fragment header; the offset is in units of 8 bytes.
fn fragment6(next: u8, offset: u16, more: bool, rest: &[u8]) -> Vec<u8> {
    let mut header = vec![next, 0];
    header.extend((offset << 3 | u16::from(more)).to_be_bytes());
    header.extend([0, 0, 0, 9]);
    header.extend(rest);
    header
}

/// A packet that we sent to a real server, as an ICMP error carries it: no more than 8 bytes of transport header.
fn sent_to_real(client: &str, real: &str, port: u16) -> Vec<u8> {
    packet(ip(client), ip(real), TCP, &ports(40000, port, 0))
}

/// A tunnel packet to a server; what is inside is not looked at.
fn tunnelled(from: &str, to: &str, protocol: u8) -> Vec<u8> {
    packet(ip(from), ip(to), protocol, &[0x45; 28])
}

fn nested_extensions(count: usize) -> Vec<u8> {
    let mut payload = ports(40000, 80, 32);
    let mut next = TCP;
    for i in 0..count {
        payload = extension(next, if i % 2 == 0 { 8 } else { 24 }, &payload);
        next = [60, 43, 0][i % 3];
    }
    frame(ipv6(v6(CLIENT6), v6(VIP6), next, &payload))
}

#[test]
fn the_worker_gets_what_is_ours() {
    if !root("the_worker_gets_what_is_ours") {
        return;
    }
    let filter = filter();
    let first = 0x2000;
    let later = 185;
    // To a port that is no service: a fragment goes by its address alone.
    let big = ports(40000, 81, 1000);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("to a service", transport((CLIENT, 40000), (VIP, 80), TCP)),
        ("to a service, IPv6", transport((CLIENT6, 40000), (VIP6, 80), TCP)),
        ("to a service, tagged", tagged(transport((CLIENT, 40000), (VIP, 80), TCP), 7)),
        ("to a service, IPv6, tagged", tagged(transport((CLIENT6, 40000), (VIP6, 80), TCP), 7)),
        ("to a service on any port", transport((CLIENT, 40000), (VIP, 4321), UDP)),
        ("to a service on any port, IPv6", transport((CLIENT6, 40000), (VIP6, 4321), UDP)),
        ("to a service, from a real server", transport((REAL, 40000), (VIP, 80), TCP)),
        ("to a service, with options", frame(ipv4(v4(CLIENT), v4(VIP), TCP, &[1; 40], 0, &ports(40000, 80, 0)))),
        ("to a service, do not fragment", frame(ipv4(v4(CLIENT), v4(VIP), TCP, &[], 0x4000, &ports(40000, 80, 0)))),
        ("with one extension header", nested_extensions(1)),
        ("with six extension headers", nested_extensions(6)),
        ("from a real server", transport((REAL, 8080), (CLIENT, 40000), TCP)),
        ("from a real server, IPv6", transport((REAL6, 8080), (CLIENT6, 40000), TCP)),
        ("from a real server, any port", transport((REAL, 999), (CLIENT, 40000), UDP)),
        ("error to a service", icmp(CLIENT, VIP, 3, &packet(ip(VIP), ip(CLIENT), TCP, &ports(80, 40000, 0)))),
        ("time exceeded to a service", icmp(CLIENT, VIP, 11, &packet(ip(VIP), ip(CLIENT), TCP, &ports(80, 40000, 0)))),
        ("error to a service, IPv6", icmp(CLIENT6, VIP6, 1, &packet(ip(VIP6), ip(CLIENT6), TCP, &ports(80, 40000, 0)))),
        ("too big to a service", icmp(CLIENT6, VIP6, 2, &packet(ip(VIP6), ip(CLIENT6), TCP, &ports(80, 40000, 0)))),
        ("error about a packet to a real server", icmp(REAL, CLIENT, 3, &sent_to_real(CLIENT, REAL, 8080))),
        ("the same from a router", icmp("10.0.0.254", CLIENT, 11, &sent_to_real(CLIENT, REAL, 8080))),
        ("error about a packet to a real server, IPv6", icmp(REAL6, CLIENT6, 1, &sent_to_real(CLIENT6, REAL6, 8080))),
        ("error about a packet with options to a real server", {
            let embedded = ipv4(v4(CLIENT), v4(REAL), TCP, &[1; 8], 0, &ports(40000, 8080, 0));
            icmp(REAL, CLIENT, 3, &embedded)
        }),
        ("error about a tunnel packet", icmp(ROUTER, DIRECTOR, 3, &tunnelled(DIRECTOR, END, 4))),
        ("error about a tunnel packet, IPv6 inside", icmp(ROUTER, DIRECTOR, 3, &tunnelled(DIRECTOR, END, 41))),
        ("error about a tunnel packet, IPv6", icmp(ROUTER6, DIRECTOR6, 2, &tunnelled(DIRECTOR6, END6, 41))),
        ("error about a tunnel packet, IPv4 inside IPv6", icmp(ROUTER6, DIRECTOR6, 2, &tunnelled(DIRECTOR6, END6, 4))),
        ("error about a tunnel packet's first fragment, IPv6", {
            let embedded = ipv6(v6(DIRECTOR6), v6(END6), 44, &fragment6(41, 0, true, &[0x60; 48]));
            icmp(ROUTER6, DIRECTOR6, 2, &embedded)
        }),
        ("error about a first fragment to a real server, IPv6", {
            let embedded = ipv6(v6(CLIENT6), v6(REAL6), 44, &fragment6(TCP, 0, true, &ports(40000, 8080, 0)));
            icmp(REAL6, CLIENT6, 1, &embedded)
        }),
        ("first fragment to a service", frame(ipv4(v4(CLIENT), v4(VIP), TCP, &[], first, &big))),
        ("later fragment to a service", frame(ipv4(v4(CLIENT), v4(VIP), TCP, &[], later, &[9; 64]))),
        ("middle fragment to a service", frame(ipv4(v4(CLIENT), v4(VIP), TCP, &[], first | later, &[9; 64]))),
        ("fragment from a real server", frame(ipv4(v4(REAL), v4(CLIENT), TCP, &[], first, &ports(8081, 40000, 500)))),
        ("later fragment from a real server", frame(ipv4(v4(REAL), v4(CLIENT), TCP, &[], later, &[9; 64]))),
        ("first fragment, IPv6", frame(ipv6(v6(CLIENT6), v6(VIP6), 44, &fragment6(TCP, 0, true, &big)))),
        ("later fragment, IPv6", frame(ipv6(v6(CLIENT6), v6(VIP6), 44, &fragment6(TCP, 100, false, &[9; 64])))),
        (
            "fragment from a real server, IPv6",
            frame(ipv6(v6(REAL6), v6(CLIENT6), 44, &fragment6(TCP, 100, true, &[9; 64]))),
        ),
        ("fragment behind an extension header", {
            let inner = extension(44, 16, &fragment6(TCP, 100, false, &[9; 64]));
            frame(ipv6(v6(CLIENT6), v6(VIP6), 60, &inner))
        }),
    ];
    for (what, bytes) in cases {
        assert_eq!(filter.verdict(&bytes).expect("a run"), FilterVerdict::Worker, "{what}");
    }
}

#[test]
fn the_kernel_keeps_the_rest() {
    if !root("the_kernel_keeps_the_rest") {
        return;
    }
    let filter = filter();
    let service = transport((CLIENT, 40000), (VIP, 80), TCP);
    let about = |real, port| sent_to_real(CLIENT, real, port);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("ARP", ethernet(0x0806, &[0; 46])),
        ("LLDP", ethernet(0x88cc, &[0; 46])),
        ("neighbour solicitation for a service", icmp(CLIENT6, VIP6, 135, &[0; 20])),
        ("ping of a service", icmp(CLIENT, VIP, 8, &[0; 56])),
        ("ping of a service, IPv6", icmp(CLIENT6, VIP6, 128, &[0; 56])),
        ("another port of the service", transport((CLIENT, 40000), (VIP, 22), TCP)),
        ("another protocol on the service's port", frame(packet(ip(CLIENT), ip(VIP), 132, &ports(40000, 80, 32)))),
        ("another address", transport((CLIENT, 40000), (DIRECTOR, 80), TCP)),
        ("another address, IPv6", transport((CLIENT6, 40000), (DIRECTOR6, 80), TCP)),
        ("an IPv6 address that ends like the service's", transport((CLIENT6, 40000), ("::192.0.2.1", 80), TCP)),
        ("another port of a real server", transport((REAL, 22), (CLIENT, 40000), TCP)),
        ("a real server to the director", transport((REAL, 8080), (DIRECTOR, 40000), TCP)),
        ("a real server to the director, IPv6", transport((REAL6, 8080), (DIRECTOR6, 40000), TCP)),
        ("a fragment from a real server to the director", frame(ipv4(v4(REAL), v4(DIRECTOR), TCP, &[], 185, &[9; 64]))),
        ("a fragment to another address", frame(ipv4(v4(CLIENT), v4(DIRECTOR), TCP, &[], 185, &[9; 64]))),
        (
            "error to another address",
            icmp(CLIENT, DIRECTOR, 3, &packet(ip(DIRECTOR), ip(CLIENT), TCP, &ports(80, 1, 0))),
        ),
        (
            "error to the director about a real server",
            icmp(REAL, DIRECTOR, 3, &{ packet(ip(DIRECTOR), ip(REAL), TCP, &ports(40000, 8080, 0)) }),
        ),
        ("error about a tunnel packet to somebody else", icmp(ROUTER, DIRECTOR, 3, &tunnelled(DIRECTOR, REAL, 4))),
        (
            "error about a tunnel packet to somebody else, IPv6",
            icmp(ROUTER6, DIRECTOR6, 2, &tunnelled(DIRECTOR6, REAL6, 41)),
        ),
        ("error about what else the director sends to a tunnel's end", {
            icmp(ROUTER, DIRECTOR, 3, &packet(ip(DIRECTOR), ip(END), TCP, &ports(40000, 22, 0)))
        }),
        ("error about a tunnel packet's later fragment, IPv6", {
            let embedded = ipv6(v6(DIRECTOR6), v6(END6), 44, &fragment6(41, 100, false, &[9; 48]));
            icmp(ROUTER6, DIRECTOR6, 2, &embedded)
        }),
        ("a tunnel packet from a tunnel's end", frame(tunnelled(END, DIRECTOR, 4))),
        ("the same through the director", frame(tunnelled(END, CLIENT, 4))),
        ("an error of a tunnel's end about its own business", {
            icmp(END, DIRECTOR, 3, &packet(ip(DIRECTOR), ip(CLIENT), UDP, &ports(40000, 53, 0)))
        }),
        ("ping of a tunnel's end", icmp(END, DIRECTOR, 0, &[0; 56])),
        ("error about another port of a real server", icmp(REAL, CLIENT, 3, &about(REAL, 22))),
        ("error about a later fragment", {
            icmp(REAL, CLIENT, 3, &ipv4(v4(CLIENT), v4(REAL), TCP, &[], 185, &ports(40000, 8080, 0)))
        }),
        ("error with the packet cut off", icmp(REAL, CLIENT, 3, &about(REAL, 8080)[..21])),
        ("error with no packet", icmp(CLIENT, VIP, 3, &[])),
        ("echo with what looks like a packet", icmp(REAL, CLIENT, 0, &about(REAL, 8080))),
        ("seven extension headers", nested_extensions(7)),
        ("an extension header longer than the frame", {
            frame(ipv6(v6(CLIENT6), v6(VIP6), 60, &[TCP, 255, 0, 0, 0, 0, 0, 0]))
        }),
        ("header length under 20", {
            let mut bytes = service.clone();
            bytes[14] = 0x44;
            bytes
        }),
        ("version 5", {
            let mut bytes = service.clone();
            bytes[14] = 0x55;
            bytes
        }),
        ("IPv6 ethertype on an IPv4 packet", {
            let mut bytes = service.clone();
            bytes[12..14].copy_from_slice(&[0x86, 0xdd]);
            bytes
        }),
        ("two tags", tagged(tagged(service.clone(), 7), 8)),
    ];
    for (what, bytes) in cases {
        assert_eq!(filter.verdict(&bytes).expect("a run"), FilterVerdict::Kernel, "{what}");
    }
    // Cut anywhere before the ports' end, no packet is ours; and none disturbs the program.
    for len in 14..14 + 20 + 4 {
        assert_eq!(filter.verdict(&service[..len]).expect("a run"), FilterVerdict::Kernel, "cut to {len} bytes");
    }
    assert_eq!(filter.verdict(&service[..14 + 20 + 4]).expect("a run"), FilterVerdict::Worker);
}

#[test]
fn a_change_of_the_tables_is_a_difference() {
    if !root("a_change_of_the_tables_is_a_difference") {
        return;
    }
    let mut filter = XdpFilter::load().expect("the tables");
    let key = |port| FilterKey::new(ip(VIP), port, TCP);
    let to = |port| transport((CLIENT, 40000), (VIP, port), TCP);
    assert_eq!(filter.verdict(&to(80)).expect("a run"), FilterVerdict::Kernel);

    let change = filter.set_services(&[key(80), key(81), key(80)]).expect("a change");
    assert_eq!((change.inserted, change.removed), (2, 0));
    assert_eq!(filter.verdict(&to(80)).expect("a run"), FilterVerdict::Worker);
    let change = filter.set_services(&[key(81), key(82)]).expect("a change");
    assert_eq!((change.inserted, change.removed), (1, 1));
    let verdicts: Vec<_> = [80, 81, 82].map(|port| filter.verdict(&to(port)).expect("a run")).into();
    assert_eq!(verdicts, [FilterVerdict::Kernel, FilterVerdict::Worker, FilterVerdict::Worker]);

    let counts = filter.counts().expect("counters");
    assert_eq!((counts.passed, counts.redirected), (2, 3));
}

#[test]
fn full_tables_refuse_and_stay_as_they_are() {
    if !root("full_tables_refuse_and_stay_as_they_are") {
        return;
    }
    let mut filter = XdpFilter::load().expect("the tables");
    let locals = |count: usize, from: u32| -> Vec<IpAddr> {
        (0..count as u32).map(|i| IpAddr::V4(Ipv4Addr::from(from + i))).collect()
    };
    let limit = lcs_dataplane::port::af_xdp::FILTER_LOCALS_MAX;
    let error = filter.set_locals(&locals(limit + 1, 0)).expect_err("too many");
    assert!(error.to_string().contains(&limit.to_string()), "{error}");
    assert_eq!(filter.set_locals(&locals(limit, 0)).expect("as many as fit").inserted, limit);
    // All replaced at once, with no room for old and new together.
    let change = filter.set_locals(&locals(limit, 1 << 24)).expect("as many others");
    assert_eq!((change.inserted, change.removed), (limit, limit));
}

#[test]
fn a_filters_tunnels_end_here_and_others_do_not() {
    if !root("a_filters_tunnels_end_here_and_others_do_not") {
        return;
    }
    let mut filter = XdpFilter::load().expect("maps");
    filter.set_services(&[FilterKey::new(ip("10.0.0.2"), 0, 4), FilterKey::new(ip("fd00::2"), 0, 41)]).expect("keys");
    let inner = lcs_dataplane::headers::build::Packet::tcp(
        "192.0.2.1:1".parse().unwrap(),
        "198.51.100.1:80".parse().unwrap(),
        0x10,
    )
    .frame();
    let wrapped = |v6: bool, next: u8, to: &str| {
        let mut header = vec![0; if v6 { 40 } else { 20 }];
        let payload = inner.len() - 14;
        if v6 {
            let (s, d) = ("fd00::1".parse().unwrap(), to.parse().unwrap());
            assert!(lcs_dataplane::headers::ipv6::write(&mut header, 0, payload, next, 64, s, d));
        } else {
            let (s, d) = ("10.0.0.1".parse().unwrap(), to.parse().unwrap());
            assert!(lcs_dataplane::headers::ipv4::write(&mut header, 0, payload, 1, 0x4000, 64, next, s, d));
        }
        let ethertype = if v6 { [0x86, 0xdd] } else { [8, 0] };
        [&inner[..12], &ethertype[..], &header, &inner[14..]].concat()
    };
    for (v6, next, to, want) in [
        (false, 4, "10.0.0.2", FilterVerdict::Worker),
        (false, 41, "10.0.0.2", FilterVerdict::Kernel),
        (false, 4, "10.0.0.3", FilterVerdict::Kernel),
        (true, 41, "fd00::2", FilterVerdict::Worker),
        (true, 4, "fd00::2", FilterVerdict::Kernel),
        (true, 41, "fd00::3", FilterVerdict::Kernel),
    ] {
        assert_eq!(filter.verdict(&wrapped(v6, next, to)).expect("a run"), want, "{next} to {to}");
    }
}
