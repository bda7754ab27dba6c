//! A capture through the layer-4 pipeline: what becomes of each frame, and what is sent.

use lcs_control::config::{Configuration, EXAMPLE};
use lcs_dataplane::headers::MacAddr;
use lcs_dataplane::headers::build::Packet;
use lcs_dataplane::headers::tcp::flags::{ACK, PSH, SYN};
use lcs_dataplane::port::pcap::{Writer, read};
use lcs_perf::replay::{FrameRecord, Options, ReplayError, Report, configured, layer4, run};
use lcs_pipelines::snapshot::{Forward, Interface, NextHop, Scheduler, Server, ServerState, Service, Snapshot};
use std::net::SocketAddr;

const SECOND: u64 = 1_000_000_000;
/// An ordinary time for a capture to begin.
const MORNING: u64 = 1_700_000_000 * SECOND;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A service of two servers, and two interfaces; nothing is known of link-layer addresses.
fn snapshot() -> Snapshot {
    let vip = at("198.51.100.1:80");
    let interface = |name: &str| Interface { name: name.into(), mac: MacAddr::default(), mtu: 1500 };
    let server = |n: u16| Server {
        name: format!("s{n}"),
        service: 0,
        address: at(&format!("10.0.0.{}:1", n + 1)).ip(),
        port: 8080,
        forward: Forward::Nat,
        weight: 1,
        state: ServerState::Up,
        next_hop: n,
        tunnel_source: None,
    };
    let mut s = Snapshot {
        interfaces: vec![interface("outside"), interface("inside")],
        services: vec![Some(Service {
            name: "web".into(),
            address: vip.ip(),
            port: 80,
            protocol: 6,
            scheduler: Scheduler::Rr,
            servers: vec![0, 1],
            sources: vec![],
            source_ports: (1024, 65_535),
            persistence: None,
            content: None,
        })],
        servers: vec![Some(server(0)), Some(server(1))],
        next_hops: vec![NextHop { interface: 1, ..NextHop::default() }],
        ..Snapshot::default()
    };
    s.by_endpoint.insert((vip.ip(), 80, 6), 0);
    s.own.insert(vip.ip());
    s
}

fn capture(frames: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut out = Writer::new(vec![]).unwrap();
    frames.iter().for_each(|(time, frame)| out.write(MORNING + time, frame).unwrap());
    out.finish().unwrap()
}

fn tcp(source: &str, destination: &str, flags: u8) -> Vec<u8> {
    Packet::tcp(at(source), at(destination), flags).payload(b"hello").frame()
}

fn replayed(capture: &[u8]) -> (Report, Vec<FrameRecord>, Vec<u8>) {
    let (mut records, mut sent) = (vec![], vec![]);
    let each = |r: &FrameRecord| {
        records.push(r.clone());
        Ok(())
    };
    let report = layer4(snapshot(), Options::default(), capture, &mut sent, each).unwrap();
    (report, records, sent)
}

const CLIENT: &str = "192.0.2.7:40000";
const VIP: &str = "198.51.100.1:80";

#[test]
fn each_frame_has_its_verdict_its_reason_and_its_server() {
    let mut truncated = tcp(CLIENT, VIP, ACK | PSH);
    truncated.truncate(20);
    let mut frames = vec![(0, tcp(CLIENT, VIP, SYN)), (SECOND, tcp("192.0.2.8:40000", VIP, SYN))];
    // The outcome is the same each time, so a first pass tells which server will have to answer.
    let (_, records, _) = replayed(&capture(&frames));
    let (first, other, reply) = match records[0].server.as_deref() {
        Some("s0") => ("s0", "s1", "10.0.0.1:8080"),
        _ => ("s1", "s0", "10.0.0.2:8080"),
    };
    frames.extend([
        (2 * SECOND, tcp(reply, CLIENT, SYN | ACK)),
        (2 * SECOND, tcp(CLIENT, VIP, ACK)),
        (3 * SECOND, tcp("192.0.2.9:40000", VIP, ACK)),
        (3 * SECOND, tcp(CLIENT, "203.0.113.1:80", SYN)),
        (4 * SECOND, truncated),
    ]);
    let (report, records, sent) = replayed(&capture(&frames));
    let told: Vec<_> =
        records.iter().map(|r| (r.verdict, r.reason.as_deref(), r.service.as_deref(), r.server.as_deref())).collect();
    let expected = [
        ("forward", None, Some("web"), Some(first)),
        ("forward", None, Some("web"), Some(other)),
        ("forward", None, Some("web"), Some(first)),
        ("forward", None, Some("web"), Some(first)),
        ("drop", Some("no-flow"), None, None),
        ("kernel", None, None, None),
        ("drop", Some("truncated"), None, None),
    ];
    assert_eq!(told, expected);
    assert_eq!((records[0].time, records[6].time), (0.0, 4.0));
    assert!(records[4].explanation.as_ref().unwrap().contains("timed out here"));
    assert!(records[0].frame.as_ref().unwrap().contains("192.0.2.7:40000 > 198.51.100.1:80 [S]"), "{:?}", records[0]);
    assert!(records[0].sent.as_ref().unwrap().contains("> 10.0.0."), "{:?}", records[0]);

    assert_eq!((report.frames, report.to_kernel, report.forwarded), (7, 1, 4));
    assert_eq!(
        report.dropped.iter().map(|(r, n)| (r.as_str(), *n)).collect::<Vec<_>>(),
        [("no-flow", 1), ("truncated", 1)]
    );
    assert_eq!(report.servers[&format!("web/{first}")].connections, 1);
    assert_eq!(report.servers[&format!("web/{other}")].connections, 1);
    assert_eq!((report.flows, report.made_up_next_hops, report.sent), (2, 2, report.forwarded));
    assert!(report.notes.iter().any(|n| n.contains("2 next hops were made up")), "{:?}", report.notes);

    let sent = read(&sent).unwrap();
    assert_eq!(sent.len() as u64, report.sent);
    assert_eq!(sent[0].at, MORNING, "sent when it came");
    assert_eq!(sent[0].bytes[..3], [2, 0, 0], "to a made-up address");
}

#[test]
fn a_frame_that_is_answered_in_its_place_is_not_told_as_forwarded() {
    let large =
        |client: &str, service: &str| Packet::tcp(at(client), at(service), ACK | PSH).payload(&[7; 1400]).frame();
    let mut narrow = snapshot();
    // The servers are behind a narrower link than the clients.
    narrow.next_hops = vec![NextHop { interface: 1, mtu: 1300, ..NextHop::default() }; 2];
    let mut sent = vec![];
    let mut records = vec![];
    let each = |r: &FrameRecord| {
        records.push(r.clone());
        Ok(())
    };
    let frames = [(0, tcp(CLIENT, VIP, SYN)), (SECOND, large(CLIENT, VIP)), (2 * SECOND, tcp(CLIENT, VIP, ACK))];
    let report = layer4(narrow, Options::default(), &capture(&frames), &mut sent, each).unwrap();
    let verdicts: Vec<_> = records.iter().map(|r| (r.verdict, r.answer.as_deref())).collect();
    let answer = "ICMP \"fragmentation needed\", MTU 1300 to 192.0.2.7";
    assert_eq!(verdicts, [("forward", None), ("answer", Some(answer)), ("forward", None)]);
    assert!(records[1].to_string().ends_with(&format!("; answered with {answer}")), "{}", records[1]);
    assert_eq!((report.forwarded, report.answered, report.sent, report.complete), (2, 1, 3, true));
    assert!(report.to_string().contains("2 forwarded, 1 answered, 0 consumed"), "{report}");
    let sent = read(&sent).unwrap();
    assert_eq!((sent[1].bytes[23], sent[1].bytes[34], sent[1].bytes[35]), (1, 3, 4), "ICMP: too big");
}

#[test]
fn time_outs_act_by_the_captures_clock() {
    let syn = |time: u64| (time * SECOND, tcp(CLIENT, VIP, SYN));
    let ack = |time: u64| (time * SECOND, tcp(CLIENT, VIP, ACK));
    // A half-open connection is forgotten after 60 s.
    let (report, records, _) = replayed(&capture(&[syn(0), ack(50), syn(1000), ack(1062), ack(1063)]));
    let verdicts: Vec<_> = records.iter().map(|r| r.verdict).collect();
    assert_eq!(verdicts[..3], ["forward", "forward", "forward"]);
    assert_eq!(verdicts[3..], ["drop", "drop"], "{records:?}");
    assert_eq!((report.expired, report.flows, report.seconds), (2, 0, 1063.0));
}

#[test]
fn time_never_goes_back_and_a_century_passes_quickly() {
    let century = 100 * 365 * 24 * 3600 * SECOND;
    let (report, records, sent) = replayed(&capture(&[
        (5 * SECOND, tcp(CLIENT, VIP, SYN)),
        (0, tcp(CLIENT, VIP, SYN)),
        (century, tcp(CLIENT, VIP, SYN)),
    ]));
    assert_eq!((report.out_of_order, report.expired, report.forwarded), (1, 1, 3));
    assert_eq!(records[1].time, -5.0);
    assert!(report.notes.iter().any(|n| n.contains("days between two frames")), "{:?}", report.notes);
    let times: Vec<_> = read(&sent).unwrap().iter().map(|c| c.at - MORNING).collect();
    assert_eq!(times[..2], [5 * SECOND, 5 * SECOND]);
}

#[test]
fn a_damaged_capture_is_replayed_up_to_there() {
    let mut file = capture(&[(0, tcp(CLIENT, VIP, SYN)), (0, tcp(CLIENT, VIP, ACK))]);
    file.truncate(file.len() - 3);
    let (report, records, _) = replayed(&file);
    assert_eq!((records.len(), report.frames), (1, 1));
    assert!(!report.complete && report.to_string().contains("the capture is damaged, and was replayed up to there"));
    assert!(report.damaged.unwrap().contains("the file was cut short"));
    let error = layer4(snapshot(), Options::default(), b"no capture", vec![], |_| Ok(())).unwrap_err();
    assert!(error.to_string().starts_with("the capture can't be read: byte 0: no pcap"), "{error}");
}

#[test]
fn files_are_read_and_written_and_lines_are_json() {
    let folder = std::env::temp_dir().join(format!("lcs-replay-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let (input, output) = (folder.join("in.pcap"), folder.join("out.pcap"));
    std::fs::write(&input, capture(&[(0, tcp(CLIENT, VIP, SYN)), (0, tcp(CLIENT, "203.0.113.1:80", SYN))])).unwrap();
    let (mut lines, mut table) = (vec![], vec![]);
    let report = run(snapshot(), Options::default(), &input, &output, true, &mut lines).unwrap();
    run(snapshot(), Options::default(), &input, &output, false, &mut table).unwrap();
    let missing = run(snapshot(), Options::default(), &folder.join("none.pcap"), &output, false, &mut vec![]);
    let sent = std::fs::read(&output).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();

    assert_eq!(read(&sent).unwrap().len(), 1);
    let lines: Vec<serde_json::Value> =
        String::from_utf8(lines).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(
        (&lines[0]["verdict"], &lines[0]["service"], &lines[0]["number"]),
        (&"forward".into(), &"web".into(), &1.into())
    );
    assert_eq!(lines[1]["verdict"], "kernel");
    assert_eq!(lines[2]["summary"]["forwarded"], 1);
    assert_eq!(report.forwarded, 1);
    let table = String::from_utf8(table).unwrap();
    assert!(table.starts_with(" number      seconds on       verdict"), "{table}");
    assert!(
        table.contains("2 frames in 0.000 s: 1 forwarded, 0 answered, 0 consumed, 1 for the kernel, 0 dropped"),
        "{table}"
    );
    assert!(matches!(missing, Err(ReplayError::File { ref path, .. }) if path.ends_with("none.pcap")), "{missing:?}");
}

#[test]
fn a_capture_is_not_written_over_itself() {
    let folder = std::env::temp_dir().join(format!("lcs-replay-same-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let (input, symbolic, hard) = (folder.join("in.pcap"), folder.join("symbolic.pcap"), folder.join("hard.pcap"));
    let bytes = capture(&[(0, tcp(CLIENT, VIP, SYN))]);
    std::fs::write(&input, &bytes).unwrap();
    std::os::unix::fs::symlink(&input, &symbolic).unwrap();
    std::fs::hard_link(&input, &hard).unwrap();
    let through_folder = folder.join(".").join("in.pcap");
    let outcomes = [&input, &symbolic, &hard, &through_folder]
        .map(|output| run(snapshot(), Options::default(), &input, output, false, &mut vec![]));
    let left = std::fs::read(&input).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(left, bytes, "it is what it was");
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert!(matches!(error, ReplayError::SameFile { .. }), "{error}");
        assert!(error.to_string().contains("give --out another file"), "{error}");
    }
}

#[test]
fn a_configuration_is_replayed_as_it_would_run() {
    let text = format!(
        "{EXAMPLE}\n[[neighbours]]\naddress = \"10.0.0.11\"\nmac = \"02:00:00:00:00:77\"\ninterface = \"eth0\"\n"
    );
    let configuration = Configuration::parse("example", &text).unwrap();
    let (snapshot, options) = configured(&configuration).unwrap();
    let syn = |n: u64| (n, tcp(&format!("192.0.2.7:4000{n}"), "198.51.100.10:80", SYN));
    let mut sent = vec![];
    let report =
        layer4(snapshot, options, &capture(&[syn(0), syn(1), syn(2), syn(3), syn(4), syn(5)]), &mut sent, |_| Ok(()));
    let report = report.unwrap();
    let connections = |name: &str| report.servers[name].connections;
    assert_eq!((connections("web/s1"), connections("web/s2")), (4, 2), "as the weights say");
    let given = MacAddr([2, 0, 0, 0, 0, 0x77]);
    assert_eq!(
        read(&sent).unwrap().iter().filter(|f| f.bytes[..6] == given.0).count(),
        4,
        "the neighbour that is given"
    );
    assert!(report.made_up_next_hops > 0);
}
