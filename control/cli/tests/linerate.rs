//! `lcs perf linerate` on two ports that somebody names: over veth pairs with `lcs run`, a bridge or nothing between them. Needs root.

use lcs_hwconf::links;
use lcs_hwconf::netns::Namespace;
use lcs_hwconf::rtnl::{Rtnl, VethEnd};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

fn is_root(test: &str) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let uids = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
    let root = uids.split_ascii_whitespace().nth(2) == Some("0");
    if !root {
        println!("skipped: {test} needs root");
    }
    root
}

/// The generator's namespace and the device's, joined by two veth pairs: g0–d0 and g1–d1.
struct Bed {
    generator: Namespace,
    device: Namespace,
}

impl Bed {
    fn new() -> Bed {
        let (generator, device) = (Namespace::create().unwrap(), Namespace::create().unwrap());
        for namespace in [&generator, &device] {
            namespace.sysctl("net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        }
        let rtnl = Rtnl::open_in(&generator).unwrap();
        let there = Rtnl::open_in(&device).unwrap();
        for (mine, other) in [("g0", "d0"), ("g1", "d1")] {
            let end = |name, namespace| VethEnd { name, namespace, mac: None, mtu: 1500, queues: 1 };
            rtnl.create_veth(&end(mine, None), &end(other, Some(&device))).unwrap();
            rtnl.set_up(mine, true).unwrap();
            there.set_up(other, true).unwrap();
        }
        Bed { generator, device }
    }

    fn address(&self, link: &str, address: &str) {
        let namespace = if link.starts_with('g') { &self.generator } else { &self.device };
        Rtnl::open_in(namespace).unwrap().add_address(link, address.parse().unwrap()).unwrap();
    }

    fn bridge(&self) {
        let rtnl = Rtnl::open_in(&self.device).unwrap();
        rtnl.create_bridge("br0").unwrap();
        for link in ["d0", "d1"] {
            rtnl.set_master(link, Some("br0")).unwrap();
        }
        rtnl.set_up("br0", true).unwrap();
    }

    fn command(arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lcs"));
        command.args(["perf", "linerate", "--tx", "g0", "--rx", "g1", "--json"]).args(arguments);
        command
    }

    fn linerate(&self, arguments: &[&str]) -> Output {
        self.generator.run(|| Self::command(arguments).output().unwrap()).unwrap()
    }

    /// Programs of the generator's interfaces.
    fn programs(&self) -> Vec<Option<u32>> {
        ["g0", "g1"].map(|name| links::interface_in(&self.generator, name).unwrap().link.xdp_program).to_vec()
    }
}

const QUICK: [&str; 12] = [
    "--flows",
    "200",
    "--sizes",
    "64,imix",
    "--seconds",
    "0.1",
    "--resolution",
    "10%",
    "--rounds",
    "1",
    "--budget",
    "15",
];

fn quick(more: &[&'static str]) -> Vec<&'static str> {
    QUICK.iter().copied().chain(more.iter().copied()).collect()
}

/// With --json an error stands on standard output.
fn said(output: &Output) -> String {
    [&output.stderr, &output.stdout].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

/// The rates were found, and single queues say what they have seen.
fn sound(output: &Output) -> Value {
    assert!(output.status.success(), "{}", said(output));
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    for row in figures["rows"].as_array().unwrap() {
        let saturated = row["saturated"]["median"].as_f64().unwrap();
        assert!(saturated > 1e3 && row["generator_cycles"]["median"].as_f64().unwrap() > 0.0, "{row}");
        let limit = row["searches"][0][0]["limit"].as_str().unwrap();
        if ["machine", "never", "time", "generator"].contains(&limit) {
            println!("skipped: the machine was too busy for a rate ({limit})");
            continue;
        }
        for load in row["loads"].as_array().unwrap() {
            let (trial, queues) = (&load[1], load[1]["queues"].as_array().unwrap());
            let of = |name: &str| queues.iter().map(|q| q[name].as_u64().unwrap()).sum::<u64>();
            let offered = trial["offered"].as_u64().unwrap() - trial["behind"].as_u64().unwrap();
            assert_eq!((of("sent"), of("received")), (offered, trial["received"].as_u64().unwrap()), "{trial}");
            assert_eq!(of("lost"), of("sent") - of("received"), "{trial}");
        }
    }
    figures
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_director_in_another_process_is_measured() {
    if !is_root("a_director_in_another_process_is_measured") {
        return;
    }
    let bed = Bed::new();
    for (link, address) in [
        ("g0", "10.77.0.2/24"),
        ("d0", "10.77.0.1/24"),
        ("d1", "10.78.0.1/24"),
        ("g1", "10.78.0.11/24"),
        ("g1", "10.78.0.12/24"),
    ] {
        bed.address(link, address);
    }
    let folder = std::env::temp_dir().join(format!("lcs-linerate-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let configuration = folder.join("lcs.toml");
    let text = format!(
        r#"
[director]
socket = "{}"

[port]
kind = "af-xdp"
interfaces = ["d0", "d1"]

[[services]]
name = "web"
protocol = "tcp"
address = "10.79.0.1"
port = 80
forward = "nat"
servers = [
  {{ name = "s1", address = "10.78.0.11", port = 8080 }},
  {{ name = "s2", address = "10.78.0.12", port = 8080 }},
]
"#,
        folder.join("lcs.sock").display()
    );
    std::fs::write(&configuration, text).unwrap();
    let director = bed.device.run(|| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lcs"));
        command.args(["run", "-c"]).arg(&configuration).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(command.spawn().unwrap())
    });
    let mut director = director.unwrap();
    let deadline = Instant::now() + PATIENCE;
    // It answers on its socket when its ports are open.
    while !folder.join("lcs.sock").exists() {
        if let Some(status) = director.0.try_wait().unwrap() {
            let said: Vec<String> =
                BufReader::new(director.0.stderr.take().unwrap()).lines().map_while(Result::ok).collect();
            panic!("{status}: {said:?}");
        }
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = bed.linerate(&quick(&["--to", "10.79.0.1:80", "--gateway", "10.77.0.1"]));
    let figures = sound(&output);
    assert_eq!(figures["between"]["tx"]["interface"], "g0");
    // Its own counters have seen the flows.
    let mut stats = Command::new(env!("CARGO_BIN_EXE_lcs"));
    stats.arg("--socket").arg(folder.join("lcs.sock")).args(["status", "--json"]);
    let stats = stats.output().unwrap();
    assert!(stats.status.success(), "{}", said(&stats));
    assert_eq!(bed.programs(), [None, None]);
    let _ = std::fs::remove_dir_all(&folder);
}

#[test]
fn a_bridge_is_measured_with_datagrams_and_interfaces_are_as_they_were() {
    if !is_root("a_bridge_is_measured_with_datagrams_and_interfaces_are_as_they_were") {
        return;
    }
    let bed = Bed::new();
    bed.bridge();
    sound(&bed.linerate(&quick(&["--to", "198.19.0.1:9", "--protocol", "udp", "--speed", "1"])));
    assert_eq!(bed.programs(), [None, None]);
}

#[test]
fn an_interrupted_search_leaves_no_program_behind() {
    if !is_root("an_interrupted_search_leaves_no_program_behind") {
        return;
    }
    let bed = Bed::new();
    bed.bridge();
    let child = bed.generator.run(|| {
        let mut command = Bed::command(&["--to", "198.19.0.1:9", "--seconds", "60", "--flows", "50"]);
        Running(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
    });
    let mut child = child.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !bed.programs().iter().all(Option::is_some) {
        assert!(Instant::now() < deadline && child.0.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(5));
    }
    let id = child.0.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let status = loop {
        if let Some(status) = child.0.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(status.code(), Some(1));
    let deadline = Instant::now() + PATIENCE;
    while bed.programs() != [None, None] {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_cannot_be_measured_is_named_with_its_mend() {
    if !is_root("what_cannot_be_measured_is_named_with_its_mend") {
        return;
    }
    let bed = Bed::new();
    // The links end in a namespace that forwards nothing.
    let output = bed.linerate(&quick(&["--to", "198.19.0.1:80"]));
    assert!(!output.status.success() && said(&output).contains("not one frame came out"), "{}", said(&output));
    let output = bed.linerate(&quick(&["--to", "198.19.0.1:80", "--gateway", "10.9.9.9"]));
    assert!(said(&output).contains("--gateway 10.9.9.9"), "{}", said(&output));
    let output = bed.linerate(&quick(&["--to", "198.19.0.1:80", "--from", "2001:db8::1"]));
    assert!(output.status.code() == Some(2) && said(&output).contains("families"), "{}", said(&output));
    Rtnl::open_in(&bed.generator).unwrap().set_up("g1", false).unwrap();
    let output = bed.linerate(&quick(&["--to", "198.19.0.1:80"]));
    assert!(said(&output).contains("ip link set g1 up"), "{}", said(&output));
}

#[test]
fn options_for_named_ports_go_together() {
    let lcs = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_lcs")).args(["perf", "linerate"]).args(arguments).output().unwrap()
    };
    for (arguments, what) in [
        (&["--tx", "g0", "--to", "198.19.0.1:80"][..], "--rx"),
        (&["--tx", "g0", "--rx", "g1"], "--to"),
        (&["--speed", "10"], "--tx"),
        (&["--tx", "g0", "--rx", "g1", "--to", "198.19.0.1:80", "--pipeline", "dr"], "--pipeline"),
        (&["--tx", "dpdk:eth0", "--rx", "g1", "--to", "198.19.0.1:80"], "neither a PCI address"),
        (&["--tx", "g0", "--rx", "dpdk:net_ring0", "--to", "198.19.0.1:80"], "both are interfaces or both"),
        (&["--tx", "g0", "--rx", "g1", "--to", "198.19.0.1:80", "--gateway", "router"], "hardware address"),
    ] {
        let output = lcs(arguments);
        assert!(output.status.code() == Some(2) && said(&output).contains(what), "{arguments:?}: {}", said(&output));
    }
}
