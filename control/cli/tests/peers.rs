//! `lcs perf peers` as a shell sees it: a tiny run against whoever is there, and what it says where it can't.

use serde_json::Value;
use std::process::{Command, Output};

fn peers(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lcs")).args(["perf", "peers"]).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Root may make network namespaces; whoever isn't, can't.
fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let uids = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
    uids.split_ascii_whitespace().nth(2) == Some("0")
}

fn cores() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

fn leftovers() -> usize {
    let ours = |name: String| name.starts_with("lcs-peers-");
    std::fs::read_dir(std::env::temp_dir())
        .unwrap()
        .flatten()
        .filter(|e| ours(text(e.file_name().as_encoded_bytes())))
        .count()
}

#[test]
fn every_subject_that_is_there_answers_rightly() {
    if !is_root() || cores() < 2 {
        println!("skipped: every_subject_that_is_there_answers_rightly needs root and two cores");
        return;
    }
    let before = leftovers();
    let arguments = [
        "--rounds",
        "1",
        "--seconds",
        "0.3",
        "--connections",
        "8",
        "--rules",
        "30",
        "--body",
        "1k,100k",
        "--alternate",
        "--json",
    ];
    let output = peers(&arguments);
    let said = text(&output.stderr);
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    for skipped in figures["skipped"].as_array().unwrap() {
        println!("skipped: {}", skipped["why"]);
    }
    let cells = figures["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 8);
    for cell in cells {
        let rows = cell["rows"].as_array().unwrap();
        // Ours and forwarding need nothing installed.
        assert!(rows.len() >= 2, "{cell}");
        for row in rows {
            assert!(row["requests_per_second"]["median"].as_f64().unwrap() > 10.0, "{row}");
            assert_eq!(row["errors"], serde_json::json!({}), "{} {} {row}", cell["workload"], cell["mode"]);
        }
    }
    assert!(output.status.success(), "{said}");
    assert_eq!(leftovers(), before);
}

#[test]
fn without_root_it_says_what_it_needs() {
    if is_root() {
        println!("skipped: without_root_it_says_what_it_needs is for whoever is not root");
        return;
    }
    let output = peers(&["--rounds", "1", "--seconds", "0.1"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("need root") || said.contains("one core") || said.contains("core alone"), "{said}");
}

#[test]
fn a_wrong_option_is_refused_with_its_mend() {
    for (arguments, mend) in [
        (["--rounds", "0"], "1 to 1000"),
        (["--seconds", "0"], "0.1 to 600"),
        (["--peers", "squid"], "haproxy"),
        (["--core", "4095"], "a core of 4095"),
    ] {
        if arguments[0] == "--core" && cores() < 2 {
            continue;
        }
        let output = peers(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(mend), "{}", text(&output.stderr));
    }
}
