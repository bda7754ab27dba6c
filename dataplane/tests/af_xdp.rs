//! The AF_XDP port on real interfaces: veth pairs in a network namespace of each test's own.
//!
//! A test's thread leaves the machine's network for a new namespace that ends with the test. Each pair has one end
//! for the port (`p0`, `p1`, …) and one for the wire (`w0`, `w1`, …), where a packet socket sends and listens.

mod veth;
mod wire;

use lcs_dataplane::batch::BURST;
use lcs_dataplane::frame::Frame;
use lcs_dataplane::port::Port;
use lcs_dataplane::port::af_xdp::{
    AfXdpError, AfXdpPort, Attached, CopyPreference, FilterKey, ModePreference, PortOptions, XdpFilter, XdpMode,
};
use lcs_dataplane::port::losses::{LossReason, Losses};
use lcs_dataplane::ring::Handover;
use lcs_hwconf::links;
use lcs_hwconf::napi::Napi;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use veth::{DEADLINE, Wire, namespace, pair, program_on, until};
use wire::{TCP, UDP, ethernet, ip, transport};

const VIP: &str = "192.0.2.1";
const CLIENT: &str = "198.51.100.7";
const SMALL: PortOptions =
    PortOptions { frames: 256, copy: CopyPreference::Auto, coalesce: Duration::ZERO, rss_table: 0 };

/// A filter for TCP port 80 and UDP port 53 of the service, attached to the ports' ends.
fn attached(pairs: u32, preference: ModePreference) -> (XdpFilter, Vec<Attached>) {
    let mut filter = XdpFilter::load().expect("the tables");
    filter.set_services(&[FilterKey::new(ip(VIP), 80, TCP), FilterKey::new(ip(VIP), 53, UDP)]).expect("services");
    let attached = (0..pairs)
        .map(|n| {
            let interface = links::interface(&format!("p{n}")).expect("an interface");
            filter.attach(&interface, preference).expect("an attachment")
        })
        .collect();
    (filter, attached)
}

fn open(attached: &[Attached], queue: u32, options: &PortOptions) -> AfXdpPort {
    AfXdpPort::open(&attached.iter().collect::<Vec<_>>(), queue, options).expect("a port")
}

/// What a port received: interface and frame.
fn receive(port: &mut AfXdpPort) -> Vec<(u8, Frame)> {
    let mut frames: [Frame; BURST] = Default::default();
    let mut interfaces = [0; BURST];
    let n = port.receive(&mut frames, &mut interfaces);
    interfaces.into_iter().zip(frames).take(n).collect()
}

/// Waits for `n` frames.
fn receive_all(port: &mut AfXdpPort, n: usize) -> Vec<(u8, Frame)> {
    let mut received = Vec::new();
    until(&format!("{n} frames"), || {
        received.extend(receive(port));
        received.len() >= n
    });
    assert_eq!(received.len(), n);
    received
}

fn consistent(port: &AfXdpPort) -> bool {
    let pool = port.pool();
    pool.free + pool.receiving + pool.transmitting + pool.held == pool.total
}

fn service(client_port: u16) -> Vec<u8> {
    transport((CLIENT, client_port), (VIP, 80), TCP)
}

#[test]
fn service_frames_come_to_the_worker_and_the_rest_to_the_kernel() {
    let Some(rtnl) = namespace("service_frames_come_to_the_worker_and_the_rest_to_the_kernel") else { return };
    pair(&rtnl, 0, 1, 1500);
    for (preference, mode) in [(ModePreference::Auto, XdpMode::Native), (ModePreference::Generic, XdpMode::Generic)] {
        let (filter, attached) = attached(1, preference);
        let mut port = open(&attached, 0, &SMALL);
        let report = port.interfaces().next().expect("one interface");
        assert_eq!((report.mode, report.zero_copy, report.lost), (mode, false, false), "{report}");
        assert_eq!(port.capabilities().interfaces, 1);

        let (wire, kernel) = (Wire::new("w0"), Wire::new("p0"));
        wire.send(&ethernet(0x0806, &[3; 46]));
        wire.send(&service(1000));
        wire.send(&transport((CLIENT, 1), (VIP, 81), TCP));
        let received = receive_all(&mut port, 1);
        let (interface, frame) = received.into_iter().next().expect("one frame");
        assert_eq!((interface, frame.bytes()), (0, &service(1000)[..]));
        assert!(frame.headroom() >= 128, "room for a tunnel header: {}", frame.headroom());
        assert_eq!(port.pool().held, 1);
        port.release(frame);

        assert_eq!(kernel.expect(), ethernet(0x0806, &[3; 46]), "the kernel sees ARP");
        assert_eq!(kernel.expect(), transport((CLIENT, 1), (VIP, 81), TCP), "and what is for no service");
        assert!(kernel.receive().is_none(), "and nothing else");
        let counts = filter.counts().expect("counters");
        assert_eq!((counts.passed, counts.redirected), (2, 1));
        assert!(consistent(&port) && port.pool().held == 0);
    }
}

#[test]
fn a_frame_crosses_two_interfaces_in_one_buffer() {
    let Some(rtnl) = namespace("a_frame_crosses_two_interfaces_in_one_buffer") else { return };
    pair(&rtnl, 0, 1, 1500);
    pair(&rtnl, 1, 1, 1500);
    let (_filter, attached) = attached(2, ModePreference::Auto);
    let mut port = open(&attached, 0, &SMALL);
    let (left, right) = (Wire::new("w0"), Wire::new("w1"));
    // Several times as many frames as there are buffers, so that each is used in both directions.
    for round in 0..2000u16 {
        let (from, to, interface) = if round % 2 == 0 { (&left, &right, 0) } else { (&right, &left, 1) };
        from.send(&service(round));
        let (rx, mut frame) = receive_all(&mut port, 1).pop().expect("one frame");
        assert_eq!(rx, interface);
        let head = frame.head();
        // As a tunnel does: the frame grows at its front, in place.
        assert!(frame.push_front(20));
        frame.bytes_mut()[..20].fill(0xee);
        assert_eq!(frame.head(), head);
        port.transmit(1 - interface, frame).expect("room to transmit");
        port.flush();
        let mut expected = vec![0xee; 20];
        expected.extend(service(round));
        assert_eq!(to.expect(), expected);
        assert!(consistent(&port), "{:?}", port.pool());
    }
    until("all transmitted buffers come back", || {
        port.flush();
        port.pool().transmitting == 0
    });
    assert_eq!(port.pool().held, 0);
    for interface in 0..2 {
        let statistics = port.statistics(interface).expect("statistics");
        assert_eq!((statistics.fill_invalid, statistics.transmit_invalid), (0, 0), "{statistics:?}");
        assert_eq!((statistics.receive_dropped, statistics.receive_ring_full), (0, 0), "{statistics:?}");
    }
}

#[test]
fn a_frame_that_is_not_ours_goes_on_to_the_kernel() {
    let Some(rtnl) = namespace("a_frame_that_is_not_ours_goes_on_to_the_kernel") else { return };
    pair(&rtnl, 0, 1, 1500);
    let (filter, attached) = attached(1, ModePreference::Auto);
    let mut port = open(&attached, 0, &SMALL);
    if !port.capabilities().exception_path {
        eprintln!("skipped, as this kernel is older than Linux 5.18");
        return;
    }
    let (wire, kernel) = (Wire::new("w0"), Wire::new("p0"));
    for n in 0..10 {
        wire.send(&service(n));
        let (interface, frame) = receive_all(&mut port, 1).pop().expect("one frame");
        port.to_kernel(interface, frame).expect("a way to the kernel");
        assert_eq!(port.pool().held, 0);
        assert!(kernel.receive().is_none(), "no system call before the flush");
        let mut passed = None;
        until("the frame is handed over", || {
            port.flush();
            passed = kernel.receive();
            passed.is_some()
        });
        assert_eq!(passed, Some(service(n)), "received by the interface, as if it had not been redirected");
        assert!(receive(&mut port).is_empty(), "and not redirected again");
    }
    assert_eq!((filter.counts().expect("counters").passed, port.kernel_refusals()), (0, 0));

    // More than a worker has time for at once is refused, and stays the worker's.
    let mut refused = 0;
    for _ in 0..BURST {
        let mut frame = port.allocate().expect("a buffer");
        assert!(frame.set_len(60));
        if let Err(frame) = port.to_kernel(0, frame) {
            refused += 1;
            port.release(frame);
        }
    }
    assert!((1..BURST).contains(&refused), "{refused} refused");
    port.flush();
    assert!(consistent(&port) && port.pool().held == 0);
    drop((port, attached));

    // Above the driver the frame would only come back to us, so there is no such way.
    let attached =
        [filter.attach(&links::interface("p0").expect("an interface"), ModePreference::Generic).expect("free")];
    let mut port = open(&attached, 0, &SMALL);
    assert!(!port.capabilities().exception_path);
    let frame = port.allocate().expect("a buffer");
    let frame = port.to_kernel(0, frame).expect_err("no way");
    port.release(frame);
}

#[test]
fn a_full_transmit_ring_gives_the_frame_back() {
    let Some(rtnl) = namespace("a_full_transmit_ring_gives_the_frame_back") else { return };
    pair(&rtnl, 0, 1, 1500);
    let (_filter, attached) = attached(1, ModePreference::Auto);
    let mut port = open(&attached, 0, &SMALL);
    let wire = Wire::new("w0");
    let mut queued = 0;
    let refused = loop {
        let mut frame = port.allocate().expect("a buffer");
        assert!(frame.set_len(60));
        frame.bytes_mut().fill(0x55);
        match port.transmit(0, frame) {
            Ok(()) => queued += 1,
            Err(frame) => break frame,
        }
    };
    assert_eq!(queued, SMALL.frames as usize / 4);
    assert_eq!((port.pool().transmitting, port.pool().held), (queued, 1));
    assert_eq!(refused.bytes(), [0x55; 60]);
    assert!(wire.receive().is_none(), "nothing is sent before the flush");

    port.flush();
    until("the ring drains", || {
        port.flush();
        port.pool().transmitting == 0
    });
    for _ in 0..queued {
        assert_eq!(wire.expect(), [0x55; 60]);
    }
    port.transmit(0, refused).expect("room again");
    port.flush();
    assert_eq!(wire.expect(), [0x55; 60]);

    // What the kernel would refuse, and never give back, is refused here.
    let runt = port.allocate().expect("a buffer");
    let runt = port.transmit(0, runt).expect_err("no Ethernet frame is empty");
    let runt = port.transmit(1, runt).expect_err("no such interface");
    port.release(runt);
    assert!(consistent(&port) && port.pool().held == 0);
    assert_eq!(port.statistics(0).expect("statistics").transmit_invalid, 0);
}

#[test]
fn a_link_goes_down_and_comes_back() {
    let Some(rtnl) = namespace("a_link_goes_down_and_comes_back") else { return };
    pair(&rtnl, 0, 1, 1500);
    pair(&rtnl, 1, 1, 1500);
    let (_filter, attached) = attached(2, ModePreference::Auto);
    let mut port = open(&attached, 0, &SMALL);
    let (left, right) = (Wire::new("w0"), Wire::new("w1"));
    for round in 0..3 {
        rtnl.set_up("p1", false).expect("down");
        // Traffic toward the interface that is down: queued up to the limit, then refused, never lost track of.
        let mut refused = 0;
        for n in 0..200 {
            left.send(&service(n));
            let (_, frame) = receive_all(&mut port, 1).pop().expect("one frame");
            if let Err(frame) = port.transmit(1, frame) {
                refused += 1;
                port.release(frame);
            }
            port.flush();
            assert!(consistent(&port), "{:?}", port.pool());
        }
        assert_eq!(refused, 200 - SMALL.frames as usize / 4, "round {round}");
        assert!(port.statistics(1).expect("statistics").wakeup_errors > 0);
        // The other interface lives: it answers where it was asked.
        left.send(&service(9));
        let (_, frame) = receive_all(&mut port, 1).pop().expect("one frame");
        port.transmit(0, frame).expect("room");
        port.flush();
        assert_eq!(left.expect(), service(9));

        rtnl.set_up("p1", true).expect("up");
        until("the queue drains", || {
            port.flush();
            port.pool().transmitting == 0
        });
        while right.receive().is_some() {}
        until("frames arrive on the revived interface", || {
            right.send(&service(77));
            let received = receive(&mut port);
            let alive = received.iter().any(|(interface, _)| *interface == 1);
            received.into_iter().for_each(|(_, frame)| port.release(frame));
            alive
        });
        until("frames leave by the revived interface", || {
            let mut frame = port.allocate().expect("a buffer");
            assert!(frame.set_len(60));
            frame.bytes_mut().fill(0x66);
            if let Err(frame) = port.transmit(1, frame) {
                port.release(frame);
            }
            port.flush();
            std::iter::from_fn(|| right.receive()).any(|frame| frame == [0x66; 60])
        });
        until("all buffers come to rest", || {
            port.flush();
            receive(&mut port).into_iter().for_each(|(_, frame)| port.release(frame));
            let pool = port.pool();
            pool.transmitting == 0 && pool.held == 0
        });
        assert!(consistent(&port), "{:?}", port.pool());
    }
    assert!(port.interfaces().all(|report| !report.lost));
}

#[test]
fn a_removed_interface_is_reported_and_the_others_go_on() {
    let Some(rtnl) = namespace("a_removed_interface_is_reported_and_the_others_go_on") else { return };
    pair(&rtnl, 0, 1, 1500);
    pair(&rtnl, 1, 1, 1500);
    let (_filter, attached) = attached(2, ModePreference::Auto);
    let mut port = open(&attached, 0, &SMALL);
    rtnl.delete_link("p1").expect("removed");
    let left = Wire::new("w0");
    for n in 0..500 {
        left.send(&service(n));
        let (_, frame) = receive_all(&mut port, 1).pop().expect("one frame");
        if let Err(frame) = port.transmit(1, frame) {
            port.release(frame);
        }
        port.flush();
        assert!(consistent(&port), "{:?}", port.pool());
    }
    let lost: Vec<bool> = port.interfaces().map(|report| report.lost).collect();
    assert_eq!(lost, [false, true]);
    let start = Instant::now();
    port.wait(Duration::from_millis(50), None);
    assert!(start.elapsed() >= Duration::from_millis(50), "a dead socket keeps nobody awake");
}

#[test]
fn waiting_ends_with_a_frame_or_the_timeout() {
    let Some(rtnl) = namespace("waiting_ends_with_a_frame_or_the_timeout") else { return };
    pair(&rtnl, 0, 1, 1500);
    pair(&rtnl, 1, 1, 1500);
    let (_filter, attached) = attached(2, ModePreference::Auto);
    let mut port = open(&attached, 0, &SMALL);
    let start = Instant::now();
    port.wait(Duration::from_millis(30), None);
    assert!(start.elapsed() >= Duration::from_millis(30));
    for wire in ["w0", "w1"] {
        let wire = Wire::new(wire);
        let (ready, sender) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let () = sender.recv().expect("a start");
            wire.send(&service(5));
        });
        ready.send(()).expect("the sender listens");
        let start = Instant::now();
        let mut received = Vec::new();
        while received.is_empty() {
            assert!(start.elapsed() < DEADLINE, "woken up by a frame");
            port.wait(DEADLINE * 2, None);
            received = receive(&mut port);
        }
        received.into_iter().for_each(|(_, frame)| port.release(frame));
        thread.join().expect("the sender");
    }
}

#[test]
fn waiting_ends_with_a_frame_that_another_worker_hands_over() {
    let Some(rtnl) = namespace("waiting_ends_with_a_frame_that_another_worker_hands_over") else { return };
    pair(&rtnl, 0, 1, 1500);
    let (_filter, attached) = attached(1, ModePreference::Auto);
    let mut port = open(&attached, 0, &SMALL);
    let mut ends = Handover::mesh(2);
    let (mut own, other) = (ends.pop().expect("two"), ends.pop().expect("two"));
    let (ready, sender) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let () = sender.recv().expect("a start");
        assert!(other.send(1, 0, &service(7)));
        other.wake();
    });
    let start = Instant::now();
    let (mut frames, mut interfaces): ([Frame; BURST], _) = (Default::default(), [0; BURST]);
    let mut asleep = own.sleeps();
    assert!(asleep);
    ready.send(()).expect("the other one listens");
    while own.receive(&mut port, &mut frames, &mut interfaces) == 0 {
        assert!(start.elapsed() < DEADLINE, "woken up by what was handed over");
        if asleep {
            port.wait(DEADLINE * 2, own.bell());
        }
        own.awake();
        asleep = own.sleeps();
    }
    own.awake();
    assert_eq!(frames[0].bytes(), service(7));
    port.release(std::mem::take(&mut frames[0]));
    thread.join().expect("the other worker");
}

#[test]
fn frames_of_a_busy_interface_gather_and_the_setting_is_undone() {
    let Some(rtnl) = namespace("frames_of_a_busy_interface_gather_and_the_setting_is_undone") else { return };
    pair(&rtnl, 0, 1, 1500);
    let (_filter, attached) = attached(1, ModePreference::Auto);
    let time = Duration::from_millis(2);
    let mut port = open(&attached, 0, &PortOptions { coalesce: time, ..SMALL });
    if port.interfaces().all(|report| report.coalesce.is_none()) {
        eprintln!("skipped: this kernel can't be told how long frames gather; Linux 6.13 can");
        return;
    }
    let index = links::interface("p0").expect("an interface").link.index;
    let set = || Napi::find(index, 0).expect("its NAPI").before();
    let start = set();
    let wire = Wire::new("w0");
    let mut released = 0;
    until("frames gather", || {
        for n in 0..BURST as u16 {
            wire.send(&service(n));
        }
        // One look takes all that have come; then the worker sleeps, as it does when there is nothing more.
        for (_, frame) in receive(&mut port) {
            port.release(frame);
            released += 1;
        }
        port.flush();
        port.wait(Duration::from_micros(100), None);
        set().flush == time
    });
    assert!(released > BURST, "it was decided from frames: {released}");
    // No frame is lost to it: those that came while nobody looked are there after the time at the latest.
    wire.send(&service(9999));
    until("the last frame", || receive(&mut port).iter().any(|(_, frame)| frame.bytes() == service(9999)));
    drop(port);
    assert_eq!(set(), start);
}

#[test]
fn a_flood_is_dropped_and_counted_not_leaked() {
    let Some(rtnl) = namespace("a_flood_is_dropped_and_counted_not_leaked") else { return };
    pair(&rtnl, 0, 1, 1500);
    let (filter, attached) = attached(1, ModePreference::Auto);
    let mut port = open(&attached, 0, &SMALL);
    let wire = Wire::new("w0");
    for round in 0..5 {
        for n in 0..1000 {
            wire.send(&service(n));
        }
        let before = 1000 * round;
        until("the program has seen the flood, or the interface's own queue has dropped of it", || {
            filter.counts().expect("counters").redirected > before
        });
        // The worker was asleep meanwhile; it gets what there were buffers for.
        let mut got = 0;
        until("the rings run dry", || {
            let received = receive(&mut port);
            let empty = received.is_empty();
            got += received.len();
            received.into_iter().for_each(|(_, frame)| port.release(frame));
            empty
        });
        assert!(got >= SMALL.frames as usize / 4, "{got} frames");
        assert!(consistent(&port) && port.pool().held == 0, "{:?}", port.pool());
    }
    let counted = port.statistics(0).expect("statistics").receive_no_buffer;
    let mut losses = [Losses::default()];
    port.losses(&mut losses);
    assert!(counted > 0 && losses[0].of(LossReason::RxNoBuffer) >= counted, "{losses:?}");
    assert_eq!(losses[0].iter().count(), 1, "none is counted for another reason, too: {losses:?}");
    until("frames still arrive", || {
        wire.send(&service(1));
        let received = receive(&mut port);
        let any = !received.is_empty();
        received.into_iter().for_each(|(_, frame)| port.release(frame));
        any
    });
}

#[test]
fn each_queue_has_its_worker() {
    let Some(rtnl) = namespace("each_queue_has_its_worker") else { return };
    pair(&rtnl, 0, 2, 1500);
    pair(&rtnl, 1, 2, 1500);
    let (_filter, attached) = attached(2, ModePreference::Auto);
    let mut ports = [open(&attached, 0, &SMALL), open(&attached, 1, &SMALL)];
    let error = AfXdpPort::open(&attached.iter().collect::<Vec<_>>(), 2, &SMALL).err().expect("no such queue");
    assert!(error.to_string().starts_with("queue 2 of p0 was not opened"), "{error}");

    // The packet socket's own hash spreads the flows over the wire's transmit queues.
    let wire = Wire::new("w0");
    let mut counts = [0; 2];
    let mut sent = 0;
    until("frames on both queues", || {
        wire.send(&service(sent));
        sent += 1;
        for (count, port) in counts.iter_mut().zip(&mut ports) {
            for (interface, frame) in receive(port) {
                assert_eq!(interface, 0);
                *count += 1;
                port.release(frame);
            }
        }
        counts[0] > 0 && counts[1] > 0
    });
    for port in &mut ports {
        let mut frame = port.allocate().expect("a buffer");
        assert!(frame.set_len(60));
        frame.bytes_mut().fill(0x77);
        port.transmit(1, frame).expect("room");
        port.flush();
    }
    let other = Wire::new("w1");
    drop(other);
    until("both workers' frames left", || {
        ports.iter_mut().all(|port| {
            port.flush();
            port.pool().transmitting == 0
        })
    });
}

#[test]
fn dropping_detaches_and_the_queue_is_free_again() {
    let Some(rtnl) = namespace("dropping_detaches_and_the_queue_is_free_again") else { return };
    pair(&rtnl, 0, 1, 1500);
    for round in 0..3 {
        let (_filter, attached) = attached(1, ModePreference::Auto);
        let port = open(&attached, 0, &SMALL);
        assert!(program_on("p0"));
        if round == 0 {
            let second = AfXdpPort::open(&attached.iter().collect::<Vec<_>>(), 0, &SMALL).err().expect("taken");
            assert!(matches!(second, AfXdpError::QueueTaken { queue: 0, .. }), "{second}");
        }
        drop(port);
        drop(attached);
        assert!(!program_on("p0"));
    }
}

#[test]
fn a_foreign_program_is_left_alone_and_named() {
    let Some(rtnl) = namespace("a_foreign_program_is_left_alone_and_named") else { return };
    pair(&rtnl, 0, 1, 1500);
    let interface = links::interface("p0").expect("an interface");
    let foreign = XdpFilter::load().expect("the tables");
    let ours = XdpFilter::load().expect("the tables");
    for mode in [ModePreference::Native, ModePreference::Generic] {
        let _theirs = foreign.attach(&interface, mode).expect("an attachment");
        for preference in [ModePreference::Auto, ModePreference::Native, ModePreference::Generic] {
            let error = ours.attach(&interface, preference).expect_err("occupied");
            assert!(matches!(&error, AfXdpError::Occupied { interface } if interface == "p0"), "{error}");
        }
        assert!(program_on("p0"), "still theirs");
    }
    ours.attach(&interface, ModePreference::Auto).map(drop).expect("free again");
}

const CHILD: &str = "LCS_TEST_ATTACH_AND_WAIT";

/// Not a test of its own: what the killed process of the next test runs.
#[test]
fn child_that_attaches_and_waits() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let (_filter, attached) = attached(1, ModePreference::Auto);
    let mut port = open(&attached, 0, &SMALL);
    println!("attached");
    loop {
        port.wait(Duration::from_secs(60), None);
    }
}

#[test]
fn a_killed_process_leaves_nothing_attached() {
    let Some(rtnl) = namespace("a_killed_process_leaves_nothing_attached") else { return };
    pair(&rtnl, 0, 1, 1500);
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "child_that_attaches_and_waits", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("attached")), "the child attaches");
    assert!(program_on("p0"));
    child.kill().expect("SIGKILL");
    child.wait().expect("its end");
    until("the program is gone", || !program_on("p0"));
    let (_filter, attached) = attached(1, ModePreference::Auto);
    open(&attached, 0, &SMALL);
}

#[test]
fn errors_name_the_place_and_the_mend() {
    let Some(rtnl) = namespace("errors_name_the_place_and_the_mend") else { return };
    pair(&rtnl, 0, 1, 1500);
    let (filter, attached0) = attached(1, ModePreference::Auto);
    let refs: Vec<&Attached> = attached0.iter().collect();
    for (options, word) in [
        (PortOptions { frames: 1000, ..SMALL }, "power of two"),
        (PortOptions { frames: 128, ..SMALL }, "256"),
        (PortOptions { copy: CopyPreference::ZeroCopy, ..SMALL }, "queue 0 of p0"),
    ] {
        let error = AfXdpPort::open(&refs, 0, &options).err().expect("an error").to_string();
        assert!(error.contains(word), "{error}");
    }
    assert!(AfXdpPort::open(&[], 0, &SMALL).err().expect("an error").to_string().contains("interfaces"));
    drop(attached0);

    // A frame must fit a buffer. Generic mode takes any MTU, so that it is the port that has to refuse.
    rtnl.set_mtu("p0", 9000).expect("an MTU");
    let interface = links::interface("p0").expect("an interface");
    assert_eq!(interface.link.mtu, 9000);
    let jumbo = filter.attach(&interface, ModePreference::Generic).expect("an attachment");
    let error = AfXdpPort::open(&[&jumbo], 0, &SMALL).err().expect("an error").to_string();
    assert!(error.contains("mtu 3822"), "{error}");
}

#[test]
fn without_privileges_the_error_says_what_is_needed() {
    let Some(rtnl) = namespace("without_privileges_the_error_says_what_is_needed") else { return };
    pair(&rtnl, 0, 1, 1500);
    let interface = links::interface("p0").expect("an interface");
    // SAFETY: a plain system call; unlike the C library's function of this name, it changes this thread only.
    let dropped = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
    assert_eq!(dropped, 0, "{}", std::io::Error::last_os_error());
    let error = XdpFilter::load()
        .and_then(|filter| filter.attach(&interface, ModePreference::Auto).map(drop))
        .expect_err("not permitted");
    assert!(matches!(error, AfXdpError::Permission { .. }), "{error}");
    assert!(error.to_string().contains("CAP_BPF"), "{error}");
}

#[test]
fn larger_frames_get_larger_buffers() {
    let Some(rtnl) = namespace("larger_frames_get_larger_buffers") else { return };
    pair(&rtnl, 0, 1, 3400);
    let (_filter, attached) = attached(1, ModePreference::Auto);
    let mut port = open(&attached, 0, &SMALL);
    let wire = Wire::new("w0");
    let mut large = service(1);
    large.resize(14 + 3400, 0xab);
    wire.send(&large);
    let (_, frame) = receive_all(&mut port, 1).pop().expect("one frame");
    assert_eq!(frame.bytes(), large);
    port.transmit(0, frame).expect("room");
    port.flush();
    assert_eq!(wire.expect(), large);
}
