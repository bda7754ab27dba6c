//! `lcs perf stages`, `linerate`, `cps` and `scaling` as a shell sees them: tiny runs, their files, and what they say of options that they cannot use.

use serde_json::Value;
use std::process::{Command, Output};

fn perf(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lcs")).arg("perf").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn figures(output: &Output) -> Value {
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Root may make network namespaces, and two workers need two cores.
fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let uids = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
    uids.split_ascii_whitespace().nth(2) == Some("0")
}

fn cores() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("lcs-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        Folder(folder)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn linerate_finds_rates_without_loss_and_writes_its_report() {
    let folder = Folder::new("linerate");
    let plots = folder.0.join("made/for/it");
    let output = perf(&[
        "linerate",
        "--flows",
        "300",
        "--sizes",
        "64,256,imix",
        "--seconds",
        "0.01",
        "--resolution",
        "10%",
        "--single",
        "--rounds",
        "1",
        "--json",
        "--plot",
        plots.to_str().unwrap(),
    ]);
    let figures = figures(&output);
    let rows = figures["rows"].as_array().unwrap();
    // Each size through the director and through the reflector.
    assert_eq!(rows.len(), 6);
    let mut quiet = true;
    for row in rows.iter().filter(|r| r["subject"] != "reflector") {
        let loads = row["loads"].as_array().unwrap();
        // None of a load's probes may have come while nobody disturbed it.
        if loads.is_empty() || loads.iter().any(|l| l[1]["latency"].is_null() || l[1]["latency"]["p99"].is_null()) {
            println!("skipped: the machine was too busy for a rate and latencies of {}", row["size"]);
            quiet = false;
            continue;
        }
        assert!(number(&row["ndr"]["median"]) > 1e4, "{row}");
        assert!(number(&row["generator_cycles"]["median"]) > 0.0, "{row}");
        assert_eq!(loads.len(), 3);
        assert!(loads.iter().all(|l| number(&l[1]["latency"]["p99"]) > 0.0), "{row}");
    }
    for plot in ["rate-by-size.svg", "latency.svg"].iter().take(if quiet { 2 } else { 1 }) {
        assert!(folder.read(&format!("made/for/it/{plot}")).starts_with("<svg"), "{plot}");
    }
    let page = folder.read("made/for/it/linerate.html");
    assert!(page.contains("perf linerate --flows 300") && page.contains("1024 descriptors"), "{page}");
}

#[test]
fn linerate_over_af_xdp_compares_the_director_with_a_reflector() {
    if !is_root() || cores() < 2 {
        println!("skipped: linerate_over_af_xdp_compares_the_director_with_a_reflector needs root and two cores");
        return;
    }
    let output = perf(&[
        "linerate",
        "--port",
        "af-xdp",
        "--flows",
        "200",
        "--sizes",
        "64",
        "--seconds",
        "0.05",
        "--resolution",
        "10%",
        "--single",
        "--rounds",
        "1",
        "--json",
    ]);
    let figures = figures(&output);
    assert_eq!(figures["rows"].as_array().unwrap().len(), 2);
    assert!(number(&figures["ratios"][0]["saturated"]["median"]) > 0.1, "{figures}");
}

#[test]
fn cps_counts_connections_and_holds_as_many_as_asked() {
    for pipeline in ["nat", "delayed"] {
        let output = perf(&[
            "cps",
            "--pipeline",
            pipeline,
            "--concurrent",
            "500",
            "--seconds",
            "0.02",
            "--resolution",
            "10%",
            "--rounds",
            "1",
            "--json",
        ]);
        let figures = figures(&output);
        let machine = figures["searches"][0]["limit"] == "machine";
        assert!(machine || number(&figures["rate"]["median"]) > 100.0, "{figures}");
        assert_eq!((&figures["concurrent"]["opened"], &figures["concurrent"]["answered"]), (&500.into(), &500.into()));
    }
}

#[test]
fn scaling_measures_hand_over_and_says_what_a_link_needs() {
    if cores() < 2 {
        println!("skipped: scaling_measures_hand_over_and_says_what_a_link_needs needs two cores");
        return;
    }
    let folder = Folder::new("scaling");
    let small = ["scaling", "--flows", "300", "--rounds", "1", "--seconds", "0.02"];
    let output = perf(&[&small[..], &["--json", "--plot", folder.0.to_str().unwrap()]].concat());
    let figures = figures(&output);
    assert_eq!(figures["rows"].as_array().unwrap().len(), 3);
    let share = number(&figures["hand_overs"][2]["share"]);
    assert!((0.4..0.6).contains(&share), "{figures}");
    assert!(folder.read("scaling.svg").contains("100 GbE at IMIX"));
    let said = text(&perf(&small).stdout);
    assert!(said.contains("it assumes:") && said.contains("148.8 Mpps"), "{said}");
}

#[test]
fn options_that_cannot_be_used_are_refused_with_what_to_write_instead() {
    for (arguments, mend) in [
        (&["linerate", "--sizes", "60"][..], "between 64 and 1518"),
        (&["linerate", "--sizes", "large"], "such as 64, or imix, or rfc2544"),
        (&["linerate", "--loss", "often"], "such as 0.01 or 1%"),
        (&["linerate", "--seconds", "0"], "between 0.01 and 600"),
        (&["linerate", "--budget=-1"], "give seconds"),
        (&["linerate", "--port", "af-xdp", "--pipeline", "tun"], "leave out --port"),
        (&["linerate", "--descriptors", "4"], "between 32 and 65536"),
        (&["scaling", "--workers", "0"], "between 1 and 64"),
        (&["scaling", "--foreign", "2"], "between 0 and 1"),
        (&["cps", "--request", "20"], "between 120 and 1400"),
        (&["cps", "--delay", "5"], "with its unit"),
    ] {
        let output = perf(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(mend), "{arguments:?}: {said}");
    }
}

/// A large site in turns with a small one, for people and for programs.
#[test]
fn stages_are_measured_beside_a_small_site() {
    let large =
        ["stages", "--flows", "500", "--rounds", "2", "--packets", "1024", "--services", "4", "--servers", "80"];
    let shown = figures(&perf(&[&large[..], &["--beside", "small", "--json"]].concat()));
    assert_eq!((&shown["options"]["servers"], &shown["beside"]["peer"]), (&80.into(), &"small".into()), "{shown}");
    assert!(number(&shown["beside"]["ratio"]["median"]) > 0.0, "{shown}");
    let output = perf(&[&large[..], &["--beside", "small"]].concat());
    let said = text(&output.stdout);
    assert!(said.contains("the same with 1 service and 3 servers") && said.contains("ours / its"), "{said}");
    let refused = perf(&["stages", "--port", "dpdk", "--beside", "small"]);
    assert!(text(&refused.stderr).contains("leave out --port dpdk"), "{}", text(&refused.stderr));
}
