//! The `lcs` commands as a shell sees them: what they print, and their exit codes.

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

fn lcs(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lcs")).args(args).current_dir(folder).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("lcs-commands-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

const CONFIGURATION: &str = "[director]\nsocket = \"lcs.sock\"\n[workers]\nflows = 64\n[port]\nkind = \"memory\"\n\
    buffers = 256\ninterfaces = [\"eth0\"]\n[[services]]\nname = \"web\"\naddress = \"192.0.2.1\"\nport = 80\n\
    servers = [{ name = \"s1\", address = \"10.0.0.1\" }]\n";

struct Director {
    child: Child,
    folder: PathBuf,
}

impl Director {
    fn start(folder: PathBuf) -> Self {
        Director::configured(folder, CONFIGURATION)
    }

    fn configured(folder: PathBuf, configuration: &str) -> Self {
        std::fs::write(folder.join("lcs.toml"), configuration).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_lcs"))
            .args(["run", "-c", "lcs.toml"])
            .current_dir(&folder)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("control socket") {
            line.clear();
            assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the director has ended");
        }
        // What it says from now on must not block it.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Director { child, folder }
    }

    fn lcs(&self, args: &[&str]) -> Output {
        let mut all = vec!["--socket", "lcs.sock"];
        all.extend(args);
        lcs(&self.folder, &all)
    }

    fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.push("--json");
        let output = self.lcs(&all);
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Drop for Director {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn exit_codes_tell_usage_from_failure_from_absence() {
    let folder = folder("codes");
    assert_eq!(code(&lcs(&folder, &["frobnicate"])), 2);
    assert_eq!(code(&lcs(&folder, &["weight", "web", "1"])), 2);
    let absent = lcs(&folder, &["status", "--socket", "none.sock"]);
    assert_eq!(code(&absent), 3);
    assert!(text(&absent.stderr).contains("Start it with `lcs run -c FILE`"), "{}", text(&absent.stderr));
    std::fs::write(folder.join("bad.toml"), CONFIGURATION.replace("port = 80", "prot = 80")).unwrap();
    let bad = lcs(&folder, &["check", "-c", "bad.toml"]);
    assert_eq!(code(&bad), 1);
    assert!(text(&bad.stderr).contains("--> bad.toml:12:1") && text(&bad.stderr).contains("did you mean `port`?"));
    let bad = lcs(&folder, &["check", "-c", "bad.toml", "--json"]);
    let report: Value = serde_json::from_slice(&bad.stdout).unwrap();
    assert_eq!((&report["error"]["kind"], &report["error"]["problems"][0]["line"]), (&"invalid".into(), &12.into()));
    assert_eq!(code(&lcs(&folder, &["run", "-c", "bad.toml"])), 1);
    let _ = std::fs::remove_dir_all(&folder);
}

#[test]
fn the_example_of_init_passes_check() {
    let folder = folder("init");
    let example = lcs(&folder, &["init"]);
    std::fs::write(folder.join("lcs.toml"), &example.stdout).unwrap();
    let checked = lcs(&folder, &["check", "-c", "lcs.toml"]);
    assert_eq!(code(&checked), 0, "{}", text(&checked.stderr));
    std::fs::write(folder.join("one.toml"), CONFIGURATION).unwrap();
    let checked = lcs(&folder, &["check", "-c", "one.toml"]);
    assert_eq!(text(&checked.stdout), "one.toml is valid: 1 service with 1 server\n");
    for shell in ["bash", "zsh", "fish"] {
        assert!(text(&lcs(&folder, &["completions", shell]).stdout).contains("weight"));
    }
    let _ = std::fs::remove_dir_all(&folder);
}

#[test]
fn a_running_director_is_watched_and_changed() {
    let director = Director::start(folder("run"));
    assert_eq!(director.json(&["status"])["counts"]["servers"], 1);
    let applied = director.lcs(&["weight", "web/s1", "5"]);
    let said = text(&applied.stdout);
    assert!(said.contains("~ web/s1: weight 1 → 5\napplied on 1 worker\n") && said.contains("not written"), "{said}");
    assert_eq!(director.json(&["rs", "list", "web"])["services"][0]["servers"][0]["weight"], 5);
    assert_eq!(code(&director.lcs(&["rs", "add", "web/s2", "10.0.0.2:8080", "--weight", "2"])), 0);
    assert_eq!(code(&director.lcs(&["vs", "add", "dns", "192.0.2.53:53", "--protocol", "udp", "--forward", "dr"])), 0);
    assert_eq!(director.json(&["vs", "list"])["services"].as_array().unwrap().len(), 2);
    assert_eq!(code(&director.lcs(&["drain", "web/s2", "--wait"])), 0);
    assert_eq!(director.json(&["rs", "list", "web"])["services"][0]["servers"][1]["state"], "draining");
    let refused = director.lcs(&["rs", "add", "web/s3", "2001:db8::1"]);
    assert_eq!(code(&refused), 1);
    assert!(text(&refused.stderr).contains("is IPv6, and its service web is IPv4"), "{}", text(&refused.stderr));
    assert!(director.json(&["conns"])["connections"].as_array().unwrap().is_empty());
    assert_eq!(director.json(&["stats"])["total"]["received"], 0);
    let reloaded = text(&director.lcs(&["reload"]).stdout);
    for line in ["- dns:", "- web/s2:", "~ web/s1: weight 5 → 1"] {
        assert!(reloaded.contains(line), "{reloaded}");
    }
}

#[test]
fn top_without_a_terminal_prints_one_frame() {
    let director = Director::start(folder("top"));
    let output = director.lcs(&["top", "--interval", "200ms"]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let said = text(&output.stdout);
    let process = format!("connections; process {}\n", director.child.id());
    for shown in [&process, "workers\n", "stages\n", "receive ", "tcp 192.0.2.1:80", "  /s1 ", "of 64"] {
        assert!(said.contains(shown), "{shown:?} is not in\n{said}");
    }
    assert!(!said.contains('\x1b'), "{said}");
    let rates = director.json(&["top", "--once", "--interval", "0.2"]);
    assert_eq!(
        (&rates["pid"], &rates["services"][0]["servers"][0]["weight"]),
        (&director.child.id().into(), &1.into())
    );
    assert!(rates["interval"].as_f64().unwrap() >= 0.2);
    let absent = lcs(&director.folder, &["top", "--socket", "none.sock"]);
    assert_eq!(code(&absent), 3);
    let wrong = director.lcs(&["top", "--interval", "1 week"]);
    assert_eq!((code(&wrong), text(&wrong.stderr).contains("500ms, 2s, 5m")), (2, true));
}

#[test]
fn stats_draw_a_picture_of_cycles() {
    let director = Director::start(folder("flame"));
    let output = director.lcs(&["stats", "--flame", "f.svg", "--for", "400ms", "--interval", "100ms"]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    // A machine that stalls leaves readings out.
    let intervals = text(&output.stdout);
    assert!((1..=4).any(|n| intervals == format!("f.svg: {n} intervals\n")), "{intervals}");
    let svg = std::fs::read_to_string(director.folder.join("f.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.contains("worker 0: no packets"), "{svg}");
    for (arguments, mend) in [
        (&["--for", "1h", "--interval", "100ms"][..], "make --interval at least 1.8s"),
        (&["--for", "1s", "--interval", "2s"], "longer than --for"),
        (&["--watch"], "cannot be used with"),
    ] {
        let refused = director.lcs(&[&["stats", "--flame", "f.svg"], arguments].concat());
        assert_eq!(code(&refused), 2, "{arguments:?}");
        assert!(text(&refused.stderr).contains(mend), "{}", text(&refused.stderr));
    }
    let unwritable = director.lcs(&["stats", "--flame", "no/f.svg", "--for", "100ms", "--interval", "100ms"]);
    assert_eq!(code(&unwritable), 1);
    assert!(text(&unwritable.stderr).contains("no/f.svg cannot be written"), "{}", text(&unwritable.stderr));
}

#[test]
fn content_workers_run_and_are_shown() {
    let split = CONFIGURATION.replace("flows = 64\n", "flows = 64\nplacement = \"split\"\ncontent-workers = 2\n");
    let director = Director::configured(folder("split"), &split);
    let status = text(&director.lcs(&["status"]).stdout);
    assert!(status.contains("content worker  core  state"), "{status}");
    assert_eq!(director.json(&["status"])["content-workers"].as_array().unwrap().len(), 2);
    let stats = director.json(&["stats"]);
    assert_eq!((&stats["total"]["handed"]["depth"], &stats["total"]["handed"]["full"]), (&256.into(), &0.into()));
    assert_eq!(stats["content-workers"][1]["requests"], 0);
    let shown = text(&director.lcs(&["stats"]).stdout);
    assert!(shown.contains("to content workers") && shown.contains("cycles/request"), "{shown}");
    let applied = text(&director.lcs(&["weight", "web/s1", "5"]).stdout);
    assert!(applied.contains("applied on 3 workers"), "{applied}");
    std::fs::write(director.folder.join("lcs.toml"), CONFIGURATION).unwrap();
    let refused = director.lcs(&["reload"]);
    assert_eq!(code(&refused), 1);
    assert!(text(&refused.stderr).contains("[workers] placement"), "{}", text(&refused.stderr));
}

#[test]
fn a_file_that_is_not_valid_is_told_of_once_when_it_is_loaded_again() {
    let director = Director::start(folder("reload"));
    std::fs::write(director.folder.join("lcs.toml"), CONFIGURATION.replace("port = 80", "prot = 80")).unwrap();
    let refused = director.lcs(&["reload"]);
    assert_eq!(code(&refused), 1);
    let said = text(&refused.stderr);
    assert!(said.starts_with("error: unknown key `prot` in service web\n"), "{said}");
    assert!(said.ends_with("nothing was changed; the director runs on\n"), "{said}");
    let refused: Value = serde_json::from_slice(&director.lcs(&["reload", "--json"]).stdout).unwrap();
    let problem = &refused["error"]["problems"][0];
    assert_eq!(
        (&refused["error"]["code"], &problem["what"]),
        (&"refused".into(), &"unknown key `prot` in service web".into())
    );
    assert!(problem["file"].as_str().unwrap().ends_with("lcs.toml") && problem["line"].as_u64() > Some(1), "{refused}");
}

#[test]
fn full_nat_without_a_source_is_mended_by_an_option() {
    let director = Director::start(folder("source"));
    let refused = director.lcs(&["vs", "add", "api", "192.0.2.9:80", "--forward", "fullnat"]);
    assert_eq!(code(&refused), 1);
    assert!(text(&refused.stderr).contains("--source ADDRESS with `lcs vs add`"), "{}", text(&refused.stderr));
    let refused = director.lcs(&["rs", "add", "web/s2", "10.0.0.2", "--forward", "fullnat"]);
    assert!(text(&refused.stderr).contains("--source ADDRESS with `lcs vs add`"), "{}", text(&refused.stderr));
    let source = ["vs", "add", "api", "192.0.2.9:80", "--forward", "fullnat", "--source", "10.0.0.100"];
    assert_eq!(code(&director.lcs(&source)), 0);
}

#[test]
fn the_memory_that_rules_take_is_shown() {
    let director = Director::start(folder("memory"));
    let memory = || director.json(&["status"])["workers"][0]["memory"].as_u64().unwrap();
    let plain = memory();
    std::fs::write(director.folder.join("t.rules"), "default: routeTo(any)\n").unwrap();
    let content = CONFIGURATION.replace("port = 80\n", "port = 80\nrules = \"t.rules\"\ngroups = { any = [\"s1\"] }\n");
    std::fs::write(director.folder.join("lcs.toml"), content).unwrap();
    let reloaded = director.lcs(&["reload"]);
    assert_eq!(code(&reloaded), 0, "{}", text(&reloaded.stderr));
    // An entry of 64 bytes and one of 4 for each of the 64 connections, at least.
    assert!(memory() >= plain + 64 * 68, "{plain} → {}", memory());
}

#[test]
fn an_adaptive_worker_of_a_memory_port_sleeps() {
    let director = Director::start(folder("idle"));
    let seen = || {
        let stats = director.json(&["stats"]);
        let worker = &stats["workers"][0];
        (stats["uptime"].as_f64().unwrap(), worker["idle-turns"].as_u64().unwrap(), worker["sleeps"].as_u64().unwrap())
    };
    let (begun, turns, sleeps) = seen();
    let (mut now, mut later, mut slept) = seen();
    while now < begun + 0.2 {
        (now, later, slept) = seen();
    }
    assert!(slept > sleeps, "it never slept");
    // Each sleep is 5 ms or ends with a request; a worker that spins takes millions of turns a second.
    let rate = (later - turns) as f64 / (now - begun);
    assert!(rate < 50_000.0, "{rate} turns a second with nothing to do");
}

#[test]
fn what_is_not_measured_is_refused_with_its_range() {
    let folder = folder("range");
    for (args, told) in [
        (&["perf", "stages", "--packets", "0"][..], "--packets is 0; it must be between 1 and 1000000000"),
        (&["perf", "stages", "--packets", "18446744073709551615"], "it must be between 1 and 1000000000"),
        (&["perf", "stages", "--services", "60000"], "--services is 60000; it must be between 1 and 49152"),
        (&["perf", "cps", "--seconds", "inf"], "--seconds is inf; it must be between 0.01 and 60"),
        (&["perf", "connections", "--connections", "0"], "--connections is 0"),
        (&["perf", "rules", "--rounds", "0"], "a number of rounds 0 is out of range"),
        (&["perf", "xml", "--size", "0"], "a size of 0 is out of range"),
        (&["perf", "scaling", "--seconds", "nan"], "--seconds is NaN"),
        (&["perf", "placement", "--requests", "0"], "--requests is 0"),
        (&["perf", "linerate", "--budget", "nan"], "--budget"),
        (&["perf", "schemes", "--connections", "0"], "--connections is 0"),
        (&["perf", "peers", "--rounds", "0"], "rounds"),
    ] {
        let refused = lcs(&folder, args);
        assert_eq!(code(&refused), 2, "{args:?}: {}", text(&refused.stderr));
        assert!(text(&refused.stderr).contains(told), "{args:?}: {}", text(&refused.stderr));
    }
    let _ = std::fs::remove_dir_all(&folder);
}

#[test]
fn a_replay_fails_where_the_capture_is_damaged_or_would_be_overwritten() {
    let folder = folder("replay");
    std::fs::write(folder.join("lcs.toml"), CONFIGURATION).unwrap();
    let mut capture = lcs_dataplane::port::pcap::Writer::new(vec![]).unwrap();
    (0..2).for_each(|n| capture.write(n, &[0; 60]).unwrap());
    let capture = capture.finish().unwrap();
    let replay = |bytes: &[u8], to: &str, json: &[&str]| {
        std::fs::write(folder.join("in.pcap"), bytes).unwrap();
        let output = lcs(&folder, &[&["replay", "-c", "lcs.toml", "--in", "in.pcap", "--out", to], json].concat());
        (code(&output), text(&output.stdout), text(&output.stderr))
    };
    assert_eq!(replay(&capture, "out.pcap", &[]).0, 0);
    let (code, said, _) = replay(&capture[..capture.len() - 3], "out.pcap", &[]);
    assert!(
        code == 1 && said.contains("1 frame in 0.000 s") && said.contains("the capture is damaged"),
        "{code} {said}"
    );
    let (code, said, _) = replay(&capture[..capture.len() - 3], "out.pcap", &["--json"]);
    let summary: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!((code, &summary["summary"]["complete"], &summary["summary"]["frames"]), (1, &false.into(), &1.into()));
    let (code, _, error) = replay(&capture, "./in.pcap", &[]);
    assert!(code == 1 && error.contains("give --out another file"), "{code} {error}");
    assert_eq!(std::fs::read(folder.join("in.pcap")).unwrap(), capture);
    let _ = std::fs::remove_dir_all(&folder);
}
