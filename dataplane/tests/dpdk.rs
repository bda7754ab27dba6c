//! The DPDK port on virtual devices, which need no hardware and no hugepages.
//!
//! The EAL is initialised once for each process, so every test runs in a process of its own: this program, called again
//! with the test's name.
#![cfg(feature = "dpdk")]

mod wire;

use lcs_dataplane::batch::BURST;
use lcs_dataplane::frame::{Frame, HEADROOM};
use lcs_dataplane::port::Port;
use lcs_dataplane::port::dpdk::{Device, DpdkPort, Environment, Options, open};
use lcs_dataplane::port::losses::{LossReason, Losses};
use lcs_dataplane::port::memory::MemoryPort;
use lcs_dataplane::port::neighbours::NeighbourFrame;
use lcs_dataplane::port::pcap::{Writer, read};
use lcs_dataplane::spread;
use lcs_hwconf::netns::Namespace;
use lcs_hwconf::packet::{Direction, PacketSocket};
use lcs_hwconf::rtnl::{Rtnl, VethEnd};
use std::process::Command;
use std::time::{Duration, Instant};
use wire::root;

const DEADLINE: Duration = Duration::from_secs(10);
const CHILD: &str = "LCS_DPDK_TEST";

/// Runs `body` in a process that has not seen DPDK yet.
fn alone(name: &str, body: impl FnOnce()) {
    if std::env::var(CHILD).is_ok_and(|n| n == name) {
        return body();
    }
    let program = std::env::current_exe().expect("this program");
    let child = Command::new(program).args([name, "--exact", "--nocapture"]).env(CHILD, name).output();
    let child = child.expect("a process");
    let said = format!("{}\n{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert!(child.status.success() && said.contains("1 passed"), "{}:\n{said}", child.status);
    print!("{said}");
}

fn options(devices: &[&str], cores: &[usize]) -> Options {
    let arguments = ["--no-huge", "--no-shconf", "--no-telemetry", "-m", "128"];
    Options {
        devices: devices.iter().map(|d| Device::parse(d).expect("a device")).collect(),
        cores: cores.to_vec(),
        buffers: 1024,
        arguments: Some(arguments.iter().map(|a| (*a).to_owned()).collect()),
        clients: vec![],
    }
}

fn one(devices: &[&str]) -> (Environment, DpdkPort) {
    let (environment, mut ports) = open(&options(devices, &[])).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(ports.len(), 1);
    (environment, ports.remove(0))
}

fn receive(port: &mut DpdkPort) -> Vec<(u8, Frame)> {
    let mut frames: [Frame; BURST] = Default::default();
    let mut interfaces = [0; BURST];
    let n = port.receive(&mut frames, &mut interfaces);
    interfaces.into_iter().zip(frames).take(n).collect()
}

fn losses(port: &DpdkPort) -> Losses {
    let mut losses = [Losses::default()];
    port.losses(&mut losses);
    losses[0]
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

fn make(port: &mut DpdkPort, bytes: &[u8]) -> Frame {
    let mut frame = port.allocate().expect("a buffer");
    assert_eq!((frame.offset(), frame.len()), (HEADROOM, 0));
    assert!(frame.set_len(bytes.len() as u16));
    frame.bytes_mut().copy_from_slice(bytes);
    frame
}

fn sum(port: &DpdkPort) -> usize {
    let pool = port.pool();
    assert_eq!(pool.free + pool.receiving + pool.transmitting + pool.held, pool.total, "{pool:?}");
    pool.held
}

fn ethernet(n: u8) -> Vec<u8> {
    wire::ethernet(0x0800, &[n; 50])
}

#[test]
fn frames_come_back_through_a_ring_on_the_interface_that_they_went_out_on() {
    alone("frames_come_back_through_a_ring_on_the_interface_that_they_went_out_on", || {
        let (environment, mut port) = one(&["net_ring0", "net_ring1"]);
        let state = &environment.devices()[1];
        assert_eq!((state.name.as_str(), state.driver.as_str(), state.mtu), ("net_ring1", "net_ring", 1500));
        assert_eq!(port.capabilities().interfaces, 2);
        for n in 0..100u8 {
            let frame = make(&mut port, &ethernet(n));
            port.transmit(n % 2, frame).expect("room");
        }
        assert_eq!((port.pool().transmitting, sum(&port)), (100, 0));
        port.flush();
        assert_eq!(port.pool().transmitting, 0);
        let mut seen = vec![];
        until("all of them", || {
            for (interface, mut frame) in receive(&mut port) {
                assert_eq!(interface, frame.bytes()[20] % 2);
                assert_eq!(frame.bytes(), ethernet(frame.bytes()[20]));
                seen.push(frame.bytes()[20]);
                // Grown to the front, as a tunnel does, it goes round once more.
                assert!(frame.push_front(HEADROOM) && !frame.push_front(1));
                frame.bytes_mut()[..6].fill(9);
                port.transmit(interface, frame).expect("room");
            }
            (seen.len() >= 100).then_some(())
        });
        seen.sort_unstable();
        assert_eq!(seen, (0..100).collect::<Vec<u8>>());
        port.flush();
        let mut again = 0;
        until("all of them again", || {
            for (_, frame) in receive(&mut port) {
                assert_eq!((frame.len(), frame.bytes()[0]), (64 + usize::from(HEADROOM), 9));
                again += 1;
                port.release(frame);
            }
            (again >= 100).then_some(())
        });
        assert_eq!(sum(&port), 0);
        // Interfaces that are not there and placeholders are refused.
        let frame = make(&mut port, &ethernet(1));
        let frame = port.transmit(2, frame).expect_err("no such interface");
        port.release(frame);
        assert!(port.transmit(0, Frame::default()).is_err());
        let mut memory = MemoryPort::new(1, 1);
        let foreign = memory.allocate().expect("a buffer");
        let foreign = port.transmit(0, foreign).expect_err("another port's frame");
        memory.release(foreign);
        assert_eq!((sum(&port), port.refused()), (0, (0, 0)));
    });
}

#[test]
fn the_pool_and_the_queue_to_the_device_have_an_end_and_lose_nothing() {
    alone("the_pool_and_the_queue_to_the_device_have_an_end_and_lose_nothing", || {
        let (_environment, mut port) = one(&["net_ring0"]);
        let total = port.pool().total;
        let mut held = vec![];
        while let Some(frame) = port.allocate() {
            held.push(frame);
            assert!(held.len() <= total);
        }
        assert!(held.len() > 1024, "{}", held.len());
        assert_eq!(sum(&port), held.len());
        let before = held.len();
        let mut waiting = 0;
        while let Some(frame) = held.pop() {
            match port.transmit(0, frame) {
                Ok(()) => waiting += 1,
                Err(frame) => {
                    held.push(frame);
                    break;
                }
            }
        }
        assert_eq!(waiting, 1024);
        // The ring takes less than that: the rest stays, in order.
        port.flush();
        let left = port.pool().transmitting;
        assert!(left < 1024, "{left}");
        let mut back = 0;
        until("all", || {
            for (_, frame) in receive(&mut port) {
                port.release(frame);
                back += 1;
            }
            port.flush();
            (back == waiting).then_some(())
        });
        for frame in held.drain(..) {
            port.release(frame);
        }
        assert_eq!((sum(&port), port.pool().transmitting), (0, 0));
        let again: Vec<Frame> = std::iter::from_fn(|| port.allocate()).collect();
        assert_eq!(again.len(), before, "every buffer came back");
        for frame in again {
            port.release(frame);
        }
    });
}

#[test]
fn each_worker_has_a_queue_of_its_own_and_its_thread_a_place_among_dpdks() {
    alone("each_worker_has_a_queue_of_its_own_and_its_thread_a_place_among_dpdks", || {
        let cores: Vec<usize> = lcs_hwconf::cores::available().expect("cores").iter().map(|c| c.id).take(2).collect();
        if cores.len() < 2 {
            return eprintln!("skipped: two cores are needed");
        }
        let (environment, ports) = open(&options(&["net_ring0"], &cores)).unwrap_or_else(|e| panic!("{e}"));
        let threads: Vec<_> = ports
            .into_iter()
            .enumerate()
            .map(|(n, mut port)| {
                std::thread::spawn(move || {
                    for turn in 0..1000 {
                        let frame = make(&mut port, &ethernet(n as u8));
                        port.transmit(0, frame).expect("room");
                        port.flush();
                        let frame = until("the frame", || receive(&mut port).pop()).1;
                        assert_eq!(frame.bytes()[20], n as u8, "turn {turn}");
                        port.release(frame);
                    }
                    assert_eq!(sum(&port), 0);
                })
            })
            .collect();
        assert_eq!(threads.len(), 2);
        for thread in threads {
            thread.join().expect("a worker");
        }
        drop(environment);
    });
}

#[test]
fn a_capture_goes_in_and_what_is_sent_comes_out_in_a_file() {
    alone("a_capture_goes_in_and_what_is_sent_comes_out_in_a_file", || {
        let folder = std::env::temp_dir().join(format!("lcs-dpdk-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let (from, to) = (folder.join("in.pcap"), folder.join("out.pcap"));
        let mut capture = Writer::new(Vec::new()).expect("memory");
        for n in 0..50 {
            capture.write(0, &ethernet(n)).expect("memory");
        }
        // Longer than a buffer: DPDK makes a chain of it, which is refused and counted.
        capture.write(0, &wire::ethernet(0x0800, &[1; 4000])).expect("memory");
        capture.write(0, &ethernet(50)).expect("memory");
        std::fs::write(&from, capture.finish().expect("memory")).expect("a file");
        let (environment, mut port) = one(&[&format!("net_pcap0,rx_pcap={},tx_pcap={}", from.display(), to.display())]);
        let mut n = 0;
        until("the capture", || {
            for (_, frame) in receive(&mut port) {
                assert_eq!(frame.bytes(), ethernet(n));
                n += 1;
                port.transmit(0, frame).expect("room");
            }
            port.flush();
            (n == 51).then_some(())
        });
        assert_eq!((port.refused(), sum(&port)), ((0, 1), 0));
        let lost = losses(&port);
        assert_eq!(lost.iter().collect::<Vec<_>>(), [(LossReason::RxErrors, 1)], "the one of several buffers");
        drop(port);
        drop(environment);
        let sent = std::fs::read(&to).expect("the file");
        let sent: Vec<Vec<u8>> = read(&sent).expect("a capture").iter().map(|c| c.bytes.to_vec()).collect();
        assert_eq!(sent, (0..51).map(ethernet).collect::<Vec<_>>());
        let _ = std::fs::remove_dir_all(folder);
    });
}

#[test]
fn what_a_device_has_no_buffer_for_is_counted() {
    alone("what_a_device_has_no_buffer_for_is_counted", || {
        let from = std::env::temp_dir().join(format!("lcs-dpdk-losses-{}.pcap", std::process::id()));
        let mut capture = Writer::new(vec![]).expect("memory");
        (0..10).for_each(|n| capture.write(0, &ethernet(n)).expect("memory"));
        std::fs::write(&from, capture.finish().expect("memory")).expect("a file");
        let (environment, mut port) = one(&[&format!("net_pcap0,rx_pcap={}", from.display())]);
        assert_eq!(losses(&port), Losses::default());
        let mut held = vec![];
        while let Some(frame) = port.allocate() {
            held.push(frame);
        }
        assert!(receive(&mut port).is_empty());
        let lost = losses(&port).of(LossReason::RxNoBuffer);
        assert!(lost > 0);
        held.into_iter().for_each(|frame| port.release(frame));
        let mut n = 0;
        until("the others", || {
            let received = receive(&mut port);
            n += received.len() as u64;
            received.into_iter().for_each(|(_, frame)| port.release(frame));
            (n + lost == 10).then_some(())
        });
        assert_eq!((losses(&port).of(LossReason::RxNoBuffer), sum(&port)), (lost, 0));
        drop(port);
        drop(environment);
        let _ = std::fs::remove_file(from);
    });
}

#[test]
fn a_device_that_brings_frames_for_ever_is_served_a_burst_at_a_time() {
    alone("a_device_that_brings_frames_for_ever_is_served_a_burst_at_a_time", || {
        let (_environment, mut port) = one(&["net_null0,size=64,copy=1", "net_null1,size=128,copy=1"]);
        let mut count = [0, 0];
        for _ in 0..64 {
            for (interface, frame) in receive(&mut port) {
                assert_eq!(frame.len(), 64 << interface);
                count[usize::from(interface)] += 1;
                port.transmit(1 - interface, frame).expect("room");
            }
            port.flush();
        }
        assert_eq!(count, [32 * BURST, 32 * BURST], "fairly");
        assert_eq!(sum(&port), 0);
    });
}

/// No virtual device hashes the fields of one side alone. It says why, and serves as before.
#[test]
fn a_device_that_cannot_spread_frames_by_the_client_says_so_and_serves() {
    alone("a_device_that_cannot_spread_frames_by_the_client_says_so_and_serves", || {
        let cores: Vec<usize> = lcs_hwconf::cores::available().expect("cores").iter().map(|c| c.id).take(2).collect();
        if cores.len() < 2 {
            return eprintln!("skipped: two cores are needed");
        }
        let options = options(&["net_null0,size=64", "net_null1,size=64"], &cores);
        let options = Options { clients: vec!["net_null0".to_owned()], ..options };
        let (environment, mut ports) = open(&options).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(environment.devices().iter().map(|d| d.is_clients).collect::<Vec<_>>(), [true, false]);
        for device in environment.devices() {
            let key = environment.rss_key(device).expect("a key");
            assert!(
                key.chunks(2).any(|pair| pair != spread::KEY),
                "the key is not the device's own any more: {key:x?}"
            );
            let why = device.by_client.as_ref().expect("it was asked").as_ref().expect_err("it can't");
            assert!(!why.is_empty(), "{device:?}");
        }
        for port in &mut ports {
            assert_eq!(port.capabilities().rss_table, 0);
            assert_eq!(receive(port).len(), BURST);
        }
    });
}

/// A veth pair in a namespace of this thread's own, a DPDK device on `p0`, and a packet socket on `w0`.
fn veth(queues: u32) -> PacketSocket {
    let namespace = Namespace::create().expect("a namespace");
    namespace.sysctl("net/ipv6/conf/default/disable_ipv6", "1").expect("no IPv6");
    namespace.enter().expect("inside");
    let rtnl = Rtnl::open().expect("rtnetlink");
    let ends = ["p0", "w0"].map(|name| VethEnd { name, namespace: None, mac: None, mtu: 1500, queues });
    rtnl.create_veth(&ends[0], &ends[1]).expect("a pair");
    for end in &ends {
        rtnl.set_up(end.name, true).expect("up");
    }
    until("the pair", || ends.iter().all(|e| rtnl.link(e.name).is_ok_and(|l| l.running)).then_some(()));
    PacketSocket::open(&Namespace::current().expect("this one"), "w0").expect("a socket")
}

fn on_the_wire(socket: &PacketSocket) -> Vec<u8> {
    let mut frame = vec![0; 4096];
    until("a frame on the wire", || match socket.receive(&mut frame).expect("the socket") {
        Some((len, Direction::Received)) => Some(frame[..len].to_vec()),
        _ => None,
    })
}

#[test]
fn a_kernel_peer_is_reached_through_a_packet_socket() {
    if !root("a_kernel_peer_is_reached_through_a_packet_socket") {
        return;
    }
    alone("a_kernel_peer_is_reached_through_a_packet_socket", || {
        let socket = veth(1);
        // The namespace is this thread's: DPDK's thread inherits it.
        let (environment, mut port) = one(&["net_af_packet0,iface=p0"]);
        assert!(!environment.devices()[0].mac.is_zero());
        assert!(port.capabilities().partial_checksums && !port.capabilities().kernel_answers);
        socket.send(&ethernet(7)).expect("sent");
        let (_, frame) = until("a frame", || receive(&mut port).pop());
        assert_eq!(frame.bytes(), ethernet(7));
        port.transmit(0, frame).expect("room");
        port.flush();
        assert_eq!(on_the_wire(&socket), ethernet(7));
        // What the control thread says goes out, and answers get to it.
        let lane = port.neighbour_lane();
        assert!(port.capabilities().neighbour_answers);
        assert!(lane.say(NeighbourFrame::new(0, &ethernet(8))));
        port.flush();
        assert_eq!(on_the_wire(&socket), ethernet(8));
        let mut answer = [0; 50];
        answer[6..8].copy_from_slice(&[0, 2]);
        let answer = wire::ethernet(0x0806, &answer);
        socket.send(&answer).expect("sent");
        let (interface, frame) = until("a frame", || receive(&mut port).pop());
        port.to_kernel(interface, frame).expect("a lane");
        assert_eq!(lane.heard().expect("the answer").bytes(), answer);
        // Without a TAP device there is nobody for anything else.
        socket.send(&ethernet(9)).expect("sent");
        let (interface, frame) = until("a frame", || receive(&mut port).pop());
        let refused = port.to_kernel(interface, frame).expect_err("no kernel");
        port.release(refused);
        assert!(lane.heard().is_none());
        assert_eq!(sum(&port), 0);
    });
}

#[test]
fn a_kernel_peer_is_reached_through_dpdks_own_af_xdp_socket() {
    if !root("a_kernel_peer_is_reached_through_dpdks_own_af_xdp_socket") {
        return;
    }
    alone("a_kernel_peer_is_reached_through_dpdks_own_af_xdp_socket", || {
        let socket = veth(1);
        // The driver keeps 2,048 buffers for itself, and receives nothing when it finds no others.
        let options = Options { buffers: 4096, ..options(&["net_af_xdp0,iface=p0"], &[]) };
        let (environment, mut ports) = open(&options).unwrap_or_else(|e| panic!("{e}"));
        let mut port = ports.remove(0);
        assert_eq!(environment.devices()[0].driver, "net_af_xdp");
        assert!(port.capabilities().partial_checksums && !port.capabilities().kernel_answers);
        for n in 0..100 {
            socket.send(&ethernet(n)).expect("sent");
            let (_, frame) = until("a frame", || receive(&mut port).pop());
            assert_eq!(frame.bytes(), ethernet(n));
            port.transmit(0, frame).expect("room");
            port.flush();
            assert_eq!(on_the_wire(&socket), ethernet(n));
        }
        assert_eq!((sum(&port), port.refused()), (0, (0, 0)));
    });
}

/// Two processes of one machine, or as here two devices of one process.
#[test]
fn frames_pass_from_one_end_of_a_shared_memory_to_the_other() {
    alone("frames_pass_from_one_end_of_a_shared_memory_to_the_other", || {
        let path = std::env::temp_dir().join(format!("lcs-memif-{}", std::process::id()));
        let end =
            |n: u8, role: &str| format!("net_memif{n},role={role},id=1,socket={},socket-abstract=no", path.display());
        let (server, client) = (end(0, "server"), end(1, "client"));
        let (environment, mut port) = one(&[&server, &client]);
        assert!(environment.devices().iter().all(|d| d.driver == "net_memif"), "{:?}", environment.devices());
        // What is sent before both ends have found one another is refused or lost: it is sent until it arrives.
        let mut met = [false; 2];
        until("both directions", || {
            for interface in 0..2 {
                let frame = make(&mut port, &ethernet(100 + interface));
                if let Err(frame) = port.transmit(interface, frame) {
                    port.release(frame);
                }
            }
            port.flush();
            for (interface, frame) in receive(&mut port) {
                assert_eq!(frame.bytes(), ethernet(101 - interface));
                met[usize::from(interface)] = true;
                port.release(frame);
            }
            (met == [true; 2]).then_some(())
        });
        // What is still on its way.
        until("an end", || {
            let rest = receive(&mut port);
            let none = rest.is_empty();
            rest.into_iter().for_each(|(_, frame)| port.release(frame));
            (none && port.pool().transmitting == 0).then_some(())
        });
        let mut next = 0u8;
        while next < 100 {
            for n in next..next + 10 {
                let frame = make(&mut port, &ethernet(n));
                port.transmit(n % 2, frame).expect("room");
            }
            port.flush();
            let mut seen = vec![];
            until("ten frames", || {
                for (interface, frame) in receive(&mut port) {
                    let n = frame.bytes()[20];
                    assert_eq!((interface, frame.bytes()), (1 - n % 2, &ethernet(n)[..]));
                    seen.push(n);
                    port.release(frame);
                }
                (seen.len() >= 10).then_some(())
            });
            seen.sort_unstable();
            assert_eq!(seen, (next..next + 10).collect::<Vec<u8>>());
            next += 10;
        }
        assert_eq!(sum(&port), 0);
        drop(port);
        drop(environment);
        let _ = std::fs::remove_file(path);
    });
}

#[test]
fn a_tap_device_joins_the_kernel() {
    if !root("a_tap_device_joins_the_kernel") {
        return;
    }
    alone("a_tap_device_joins_the_kernel", || {
        let namespace = Namespace::create().expect("a namespace");
        namespace.sysctl("net/ipv6/conf/default/disable_ipv6", "1").expect("no IPv6");
        namespace.enter().expect("inside");
        let (environment, mut port) = one(&["net_tap0,iface=lcs0"]);
        let rtnl = Rtnl::open().expect("rtnetlink");
        rtnl.set_up("lcs0", true).expect("up");
        until("the device", || rtnl.link("lcs0").is_ok_and(|l| l.running).then_some(()));
        let socket = PacketSocket::open(&Namespace::current().expect("this one"), "lcs0").expect("a socket");
        socket.send(&ethernet(7)).expect("sent");
        let (_, frame) = until("a frame", || receive(&mut port).pop());
        assert_eq!(frame.bytes(), ethernet(7));
        port.transmit(0, frame).expect("room");
        port.flush();
        assert_eq!(on_the_wire(&socket), ethernet(7));
        drop(port);
        drop(environment);
        assert!(rtnl.link("lcs0").is_err(), "the device is gone with DPDK");
    });
}

#[test]
fn what_cannot_be_opened_is_said_with_what_to_do() {
    let error = |devices: &[&str], cores: &[usize], arguments: Option<&[&str]>| {
        let mut options = options(devices, cores);
        if let Some(arguments) = arguments {
            options.arguments = Some(arguments.iter().map(|a| (*a).to_owned()).collect());
        }
        open(&options).expect_err("a refusal").to_string()
    };
    // These are found before DPDK is started, so they do not spend the process.
    let missing = error(&["ffff:ff:1f.7"], &[], None);
    assert!(missing.contains("lspci -D"), "{missing}");
    let argument = error(&["net_ring0"], &[], Some(&["--no-huge", "-l"]));
    assert!(argument.contains("[workers] cores"), "{argument}");
    assert!(error(&[], &[], None).contains("1 to 16 devices"));
}

#[test]
fn a_device_with_fewer_queues_than_workers_is_named_with_the_mend() {
    alone("a_device_with_fewer_queues_than_workers_is_named_with_the_mend", || {
        let cores: Vec<usize> = lcs_hwconf::cores::available().expect("cores").iter().map(|c| c.id).take(2).collect();
        if cores.len() < 2 {
            return eprintln!("skipped: two cores are needed");
        }
        let to = std::env::temp_dir().join(format!("lcs-dpdk-{}.pcap", std::process::id()));
        let device = format!("net_pcap0,tx_pcap={}", to.display());
        let error = open(&options(&[&device], &cores)).expect_err("one queue").to_string();
        let _ = std::fs::remove_file(&to);
        assert!(error.contains("each of 2 workers needs a queue of its own on net_pcap0"), "{error}");
        let twice = open(&options(&["net_ring0"], &[])).expect_err("twice").to_string();
        assert!(twice.contains("start the program again"), "{twice}");
    });
}

#[test]
fn a_device_of_no_driver_is_refused() {
    alone("a_device_of_no_driver_is_refused", || {
        let error = open(&options(&["net_nonsense0"], &[])).expect_err("no such driver").to_string();
        assert!(error.contains("net_nonsense0"), "{error}");
    });
}

#[test]
fn frames_that_outlive_their_port_keep_the_pool() {
    alone("frames_that_outlive_their_port_keep_the_pool", || {
        let (environment, mut port) = one(&["net_ring0"]);
        let mut frame = make(&mut port, &ethernet(1));
        drop(port);
        drop(environment);
        frame.bytes_mut().fill(2);
        assert!(frame.bytes().iter().all(|b| *b == 2));
    });
}
