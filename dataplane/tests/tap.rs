//! The way to the kernel by a TAP device, with a worker played by the test: no DPDK is needed for it, but root is.

mod wire;

use lcs_dataplane::headers::arp::Arp;
use lcs_dataplane::headers::build::fill_icmp_checksum;
use lcs_dataplane::headers::{MacAddr, ipv4};
use lcs_dataplane::port::tap::{TapEnd, TapOptions, TapThread, TapWatch};
use lcs_hwconf::netns::Namespace;
use lcs_hwconf::rtnl::Rtnl;
use lcs_hwconf::tap::{Tap, TapPlan};
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};
use wire::root;

const DEADLINE: Duration = Duration::from_secs(10);
const OWN: MacAddr = MacAddr([2, 0x7a, 0, 0, 0, 1]);
const OTHER: MacAddr = MacAddr([2, 0x7a, 0, 0, 0, 9]);
const KERNEL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

fn plan(name: &str) -> TapPlan {
    let addresses = vec![format!("{KERNEL}/24").parse().expect("a network")];
    TapPlan { name: name.to_owned(), mac: Some(OWN.0), mtu: 1500, addresses, forward: false }
}

/// A TAP device `lcs0` in a namespace of this thread's own, and the ends of its workers.
fn open(rate: u32, workers: usize) -> (TapThread, Vec<TapEnd>) {
    let namespace = Namespace::create().expect("a namespace");
    namespace.sysctl("net/ipv6/conf/default/disable_ipv6", "1").expect("no IPv6");
    namespace.enter().expect("inside");
    let device = Tap::open(&plan("lcs0")).unwrap_or_else(|e| panic!("{e}"));
    TapThread::start(device, &TapOptions { mac: OWN, mtu: 1500, rate }, workers, &[]).expect("a thread")
}

fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        std::thread::yield_now();
    }
}

/// The next frame of the kernel that `wanted` picks.
fn sent(end: &mut TapEnd, what: &str, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    until(what, || {
        let mut found = None;
        end.flush();
        end.take(|frame| {
            if found.is_none() && wanted(frame) {
                found = Some(frame.to_vec());
            }
            true
        });
        found
    })
}

fn ask(target: Ipv4Addr) -> Vec<u8> {
    let arp = Arp { operation: 1, sender_mac: OTHER, sender: FAR, target_mac: MacAddr::default(), target };
    arp.frame(MacAddr::BROADCAST).to_vec()
}

/// A ping of `payload` bytes from outside.
fn ping(payload: usize) -> Vec<u8> {
    let mut frame = vec![0; 14 + 20 + 8 + payload];
    frame[..6].copy_from_slice(&OWN.0);
    frame[6..12].copy_from_slice(&OTHER.0);
    frame[12..14].copy_from_slice(&[8, 0]);
    assert!(ipv4::write(&mut frame[14..], 0, 8 + payload, 7, 0, 64, 1, FAR, KERNEL));
    frame[34] = 8;
    fill_icmp_checksum(&mut frame[34..], None);
    frame
}

fn is_arp(frame: &[u8], operation: u8) -> bool {
    frame[12..14] == [8, 6] && frame[21] == operation
}

fn is_echo_reply(frame: &[u8]) -> bool {
    frame[12..14] == [8, 0] && frame[23] == 1 && frame[34] == 0
}

#[test]
fn the_kernel_answers_arp_and_ping_and_its_own_traffic_comes_out() {
    if !root("the_kernel_answers_arp_and_ping_and_its_own_traffic_comes_out") {
        return;
    }
    let (thread, mut ends) = open(10_000, 2);
    let [first, second] = ends.as_mut_slice() else { panic!() };
    // Every worker may hand frames on; what the kernel says comes out at the first.
    assert!(second.is_for_kernel(&ask(KERNEL)) && second.push(&ask(KERNEL)));
    second.flush();
    let answer = sent(first, "the answer to ARP", |f| is_arp(f, 2));
    let answer = Arp::parse(&answer[14..]).expect("ARP");
    assert_eq!((answer.sender, answer.sender_mac, answer.target_mac), (KERNEL, OWN, OTHER));
    assert!(!second.has_frames());
    // It knows who has asked; and a ping of full length fits.
    assert!(first.push(&ping(1472)));
    let reply = sent(first, "the answer to the ping", is_echo_reply);
    assert_eq!((reply.len(), &reply[..6]), (1514, &OTHER.0[..]));
    // What the kernel begins comes out too: a question for a neighbour first, then, answered, the datagram.
    let socket = UdpSocket::bind((KERNEL, 0)).expect("a socket");
    let neighbour = Ipv4Addr::new(192, 0, 2, 77);
    socket.send_to(b"out", (neighbour, 9)).expect("sent");
    let question = sent(first, "the question for a neighbour", |f| is_arp(f, 1));
    assert_eq!(Arp::parse(&question[14..]).expect("ARP").target, neighbour);
    let answer = Arp { operation: 2, sender_mac: OTHER, sender: neighbour, target_mac: OWN, target: KERNEL };
    assert!(first.push(&answer.frame(OWN)));
    let datagram = sent(first, "the datagram", |f| f.ends_with(b"out"));
    assert_eq!(&datagram[..6], &OTHER.0);
    let counts = thread.watch().counts();
    assert_eq!((counts.to_kernel, counts.dropped()), (3, 0), "{counts:?}");
    assert!(counts.from_kernel >= 4, "{counts:?}");
}

#[test]
fn the_kernel_forwards_nothing_from_it_without_being_told_to() {
    if !root("the_kernel_forwards_nothing_from_it_without_being_told_to") {
        return;
    }
    let namespace = Namespace::create().expect("a namespace");
    namespace.sysctl("net/ipv4/ip_forward", "1").expect("a router");
    namespace.enter().expect("inside");
    for (forward, set) in [(false, "0"), (true, "1")] {
        let device = Tap::open(&TapPlan { forward, ..plan("lcs0") }).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(namespace.read_sysctl("net/ipv4/conf/lcs0/forwarding").expect("a switch"), set);
        drop(device);
    }
}

#[test]
fn frames_of_others_are_not_for_the_kernel() {
    if !root("frames_of_others_are_not_for_the_kernel") {
        return;
    }
    let (_thread, ends) = open(10_000, 1);
    let mut frame = ping(0);
    assert!(ends[0].is_for_kernel(&frame));
    frame[..6].copy_from_slice(&OTHER.0);
    assert!(!ends[0].is_for_kernel(&frame) && !ends[0].is_for_kernel(&[0; 5]));
    // A virtual router's address may be the kernel's too (keepalived).
    frame[..6].copy_from_slice(&[0, 0, 0x5e, 0, 1, 7]);
    assert!(ends[0].is_for_kernel(&frame));
    frame[..6].copy_from_slice(&[0, 0, 0x5e, 0, 3, 7]);
    assert!(!ends[0].is_for_kernel(&frame));
}

/// Waits until the thread has nothing more to do.
fn settled(watch: &TapWatch, pushed: u64) {
    until("every frame's end", || {
        let c = watch.counts();
        (c.to_kernel + c.refused + c.over_rate + c.behind + c.too_long == pushed).then_some(())
    });
}

#[test]
fn a_flood_is_cut_to_the_rate_and_every_frame_of_it_is_counted() {
    if !root("a_flood_is_cut_to_the_rate_and_every_frame_of_it_is_counted") {
        return;
    }
    let (thread, mut ends) = open(1000, 1);
    let end = &mut ends[0];
    // Nobody reads what the kernel answers meanwhile, so that direction is full as well.
    let began = Instant::now();
    let frame = ping(100);
    const FLOOD: u64 = 200_000;
    let taken = (0..FLOOD)
        .filter(|n| {
            let taken = end.push(&frame);
            if n % 32 == 0 {
                end.flush();
            }
            taken
        })
        .count() as u64;
    end.flush();
    let seconds = began.elapsed().as_secs_f64();
    settled(thread.watch(), FLOOD);
    let counts = thread.watch().counts();
    // A tenth of a second at once, and the rate from there on.
    assert!(taken as f64 <= 100.0 + 1000.0 * seconds + 1.0, "{taken} in {seconds} s");
    assert!(taken >= 1 && counts.to_kernel == taken, "{taken} {counts:?}");
    assert_eq!(counts.over_rate + counts.behind, FLOOD - taken);
    // Nothing is stuck behind it.
    until("an answer after the flood", || {
        let _ = end.push(&ask(KERNEL));
        end.flush();
        let mut found = false;
        end.take(|f| {
            found |= is_arp(f, 2);
            true
        });
        found.then_some(())
    });
}

/// A server's SYN-ACK to what the kernel sent by `syn`.
fn syn_ack(syn: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 14 + 20 + 20];
    frame[..6].copy_from_slice(&syn[6..12]);
    frame[6..12].copy_from_slice(&OTHER.0);
    frame[12..14].copy_from_slice(&[8, 0]);
    assert!(ipv4::write(&mut frame[14..], 0, 20, 7, 0, 64, 6, FAR, KERNEL));
    let tcp = &mut frame[34..];
    tcp[..2].copy_from_slice(&syn[36..38]);
    tcp[2..4].copy_from_slice(&syn[34..36]);
    tcp[4..8].copy_from_slice(&[9, 9, 9, 9]);
    let sequence = u32::from_be_bytes([syn[38], syn[39], syn[40], syn[41]]).wrapping_add(1);
    tcp[8..12].copy_from_slice(&sequence.to_be_bytes());
    tcp[12..16].copy_from_slice(&[0x50, 0x12, 0xff, 0xff]);
    let sum = |bytes: &[u8]| -> u32 {
        bytes.chunks(2).map(|b| u32::from(b[0]) << 8 | u32::from(b.get(1).copied().unwrap_or(0))).sum()
    };
    let mut total = sum(&FAR.octets()) + sum(&KERNEL.octets()) + 6 + 20 + sum(tcp);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    tcp[16..18].copy_from_slice(&(!(total as u16)).to_be_bytes());
    frame
}

#[test]
fn a_flood_keeps_no_answer_from_what_the_kernel_has_begun() {
    if !root("a_flood_keeps_no_answer_from_what_the_kernel_has_begun") {
        return;
    }
    let (thread, mut ends) = open(1000, 1);
    let end = &mut ends[0];
    let flood = |end: &mut TapEnd| {
        let frame = ping(100);
        // Nothing of an ordinary kind passes any more.
        while end.push(&frame) || thread.watch().counts().over_rate == 0 {
            end.flush();
        }
    };
    flood(end);
    // The kernel's connection begins in the middle of it: its question for the neighbour, the answer, its SYN, the answer.
    let connect = std::thread::scope(|scope| {
        let connect = scope.spawn(|| std::net::TcpStream::connect_timeout(&(FAR, 80).into(), DEADLINE));
        sent(end, "the question for the server", |f| is_arp(f, 1));
        flood(end);
        let answer = Arp { operation: 2, sender_mac: OTHER, sender: FAR, target_mac: OWN, target: KERNEL };
        assert!(end.push(&answer.frame(OWN)), "{:?}", thread.watch().counts());
        let syn = sent(end, "the SYN", |f| f[12..14] == [8, 0] && f[23] == 6 && f[47] & 0x12 == 2);
        flood(end);
        // One that answers nothing is as little let through as a ping.
        let mut strange = syn_ack(&syn);
        strange[35] ^= 1;
        assert!(!end.push(&strange));
        assert!(end.push(&syn_ack(&syn)), "{:?}", thread.watch().counts());
        end.flush();
        connect.join().expect("a thread")
    });
    connect.expect("the kernel's connection stands");
}

#[test]
fn what_comes_at_once_waits_and_is_not_dropped() {
    if !root("what_comes_at_once_waits_and_is_not_dropped") {
        return;
    }
    let (thread, mut ends) = open(10_000, 1);
    let frame = ping(0);
    assert_eq!((0..200).filter(|_| ends[0].push(&frame)).count(), 200);
    ends[0].flush();
    settled(thread.watch(), 200);
    let counts = thread.watch().counts();
    assert_eq!((counts.behind, counts.to_kernel), (0, 200), "{counts:?}");
}

#[test]
fn a_frame_longer_than_the_card_takes_is_counted_and_not_cut() {
    if !root("a_frame_longer_than_the_card_takes_is_counted_and_not_cut") {
        return;
    }
    let (thread, mut ends) = open(10_000, 1);
    let end = &mut ends[0];
    Rtnl::open().expect("rtnetlink").set_mtu("lcs0", 2000).expect("a raised MTU");
    // Who asks is known from then on.
    assert!(end.push(&ask(KERNEL)));
    sent(end, "the answer to ARP", |f| is_arp(f, 2));
    let socket = UdpSocket::bind((KERNEL, 0)).expect("a socket");
    socket.send_to(&[7; 1900], (FAR, 9)).expect("sent");
    socket.send_to(b"short", (FAR, 9)).expect("sent");
    let mut longest = 0;
    let short = until("the short one", || {
        let mut found = None;
        end.take(|f| {
            longest = longest.max(f.len());
            found = f.ends_with(b"short").then(|| f.to_vec()).or(found.take());
            true
        });
        found
    });
    assert_eq!(&short[..6], &OTHER.0);
    assert!(longest <= 1514, "{longest}");
    assert_eq!(thread.watch().counts().too_long, 1);
}

#[test]
fn what_the_kernel_cannot_take_is_counted_and_what_finds_no_room_too() {
    if !root("what_the_kernel_cannot_take_is_counted_and_what_finds_no_room_too") {
        return;
    }
    let (thread, mut ends) = open(10_000, 1);
    let end = &mut ends[0];
    assert!(!end.push(&vec![2; 1500 + 14 + 9]));
    assert!(end.push(&ask(KERNEL)));
    // There is no room for its answer.
    until("the answer's loss", || {
        end.flush();
        end.take(|_| false);
        (thread.watch().counts().unsent > 0).then_some(())
    });
    Rtnl::open().expect("rtnetlink").set_up("lcs0", false).expect("down");
    assert!(end.push(&ask(KERNEL)));
    end.flush();
    settled(thread.watch(), 3);
    let counts = thread.watch().counts();
    assert_eq!((counts.too_long, counts.refused, counts.to_kernel), (1, 1, 1), "{counts:?}");
    // The device comes back as it was.
    Rtnl::open().expect("rtnetlink").set_up("lcs0", true).expect("up");
    assert!(end.push(&ask(KERNEL)));
    sent(end, "the answer to ARP", |f| is_arp(f, 2));
}

#[test]
fn the_device_goes_with_its_thread_and_a_device_that_goes_first_hurts_nobody() {
    if !root("the_device_goes_with_its_thread_and_a_device_that_goes_first_hurts_nobody") {
        return;
    }
    let (thread, mut ends) = open(10_000, 1);
    let rtnl = Rtnl::open().expect("rtnetlink");
    assert_eq!(rtnl.link("lcs0").expect("the device").mac, Some(OWN.0));
    // A name that is in use is refused with the mend; another one of ours would do.
    let busy = Tap::open(&plan("lcs0")).expect_err("taken").to_string();
    assert!(busy.contains("lcs0") && busy.contains("another process"), "{busy}");
    let other_kind = Tap::open(&plan("lo")).expect_err("no TAP").to_string();
    assert!(other_kind.contains("another kind of interface"), "{other_kind}");
    drop(thread);
    assert!(rtnl.link("lcs0").is_err(), "the device is gone with its thread");
    // Workers that are still there notice nothing but that nothing passes.
    for _ in 0..1000 {
        end_is_harmless(&mut ends[0]);
    }
    let (thread, mut ends) = open(10_000, 1);
    let rtnl = Rtnl::open().expect("rtnetlink");
    rtnl.delete_link("lcs0").expect("deleted");
    assert!(ends[0].push(&ask(KERNEL)));
    ends[0].flush();
    settled(thread.watch(), 1);
    assert_eq!(thread.watch().counts().refused, 1);
    until("the notice that it is gone", || thread.watch().gone().then_some(()));
}

fn end_is_harmless(end: &mut TapEnd) {
    let _ = end.push(&ask(KERNEL));
    end.flush();
    end.take(|_| true);
    assert!(!end.has_frames());
}
