//! `lcs demo` as a shell sees it: its report, and its end when interrupted.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use lcs_hwconf::netns::Namespace;
use serde_json::Value;

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lcs"));
    command.arg("demo").args(arguments);
    command
}

/// Whether network namespaces can be made here; says why a test is skipped where not.
fn root(test: &str) -> bool {
    match Namespace::create() {
        Ok(_) => true,
        Err(error) => {
            eprintln!("{test} is skipped: {error}");
            false
        }
    }
}

fn check(report: &Value, name: &str, port: &str) {
    assert_eq!(report["ok"], true, "{report:#}");
    let scenarios = report["scenarios"].as_array().unwrap();
    let ips: Vec<&str> = scenarios.iter().map(|s| s["ip"].as_str().unwrap()).collect();
    assert_eq!(ips, ["ipv4", "ipv6"]);
    for scenario in scenarios {
        assert_eq!((&scenario["name"], &scenario["port"]), (&name.into(), &port.into()));
        assert_eq!(scenario["failed"], 0);
        let requests = scenario["requests"].as_u64().unwrap();
        let servers = scenario["per_server"].as_object().unwrap();
        assert!(servers.len() == 3 && requests > 500, "{scenario:#}");
        assert_eq!(servers.values().map(|n| n.as_u64().unwrap()).sum::<u64>(), requests);
        assert!(scenario["cycles_per_packet"].as_f64().unwrap() > 0.0);
        let stages: Vec<&str> =
            scenario["stages"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
        for stage in ["receive", "classify", "lookup", "schedule", "forward", "transmit"] {
            assert!(stages.contains(&stage), "{stages:?}");
        }
        assert!(scenario["stages"].as_array().unwrap().iter().all(|s| s["cycles_per_packet"].is_f64()));
    }
}

#[test]
fn a_scenario_is_reported_for_programs() {
    let mut ports = vec!["memory"];
    if root("a_scenario_is_reported_for_programs, on AF_XDP,") {
        ports.push("af_xdp");
    }
    for port in ports {
        let output = demo(&["--scenario", "dr", "--port", port, "--json"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("dr over ipv6") && !said.contains('✗'), "{said}");
        check(&serde_json::from_slice(&output.stdout).unwrap(), "dr", port);
    }
}

#[test]
fn wrong_usage_is_refused() {
    for (arguments, named) in [(["--scenario", "nut"], "nat, fullnat, dr, tun"), (["--port", "dpdk"], "memory")] {
        let output = demo(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains(named), "{output:?}");
    }
}

/// Ctrl-C under load: the summary of what was played is still told.
#[test]
fn an_interrupted_demo_ends_in_order() {
    if !root("an_interrupted_demo_ends_in_order") {
        return;
    }
    let mut child =
        demo(&["--scenario", "nat", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("load: ")));
    let kill = Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status().unwrap();
    assert!(kill.success());
    for line in lines {
        line.unwrap();
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["ok"], &report["interrupted"]), (&false.into(), &true.into()), "{report:#}");
}
