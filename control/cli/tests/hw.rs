//! `lcs hw` as a shell sees it: what it prints, and its exit codes.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn lcs(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lcs")).args(args).current_dir(folder).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("lcs-hw-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

const SERVICE: &str = "\n[[services]]\nname = \"web\"\naddress = \"192.0.2.1\"\nport = 80\n\
    servers = [{ name = \"s1\", address = \"10.0.0.1\" }]\n";

#[test]
fn this_machine_is_shown_and_its_json_stands_for_it_elsewhere() {
    let folder = folder("show");
    let shown = lcs(&folder, &["hw", "show"]);
    assert!(shown.status.success());
    let shown = text(&shown.stdout);
    for heading in ["Machine\n", "Processors\n", "Memory\n", "Interfaces\n", "Mitigations\n"] {
        assert!(shown.contains(heading), "{heading} is not in {shown}");
    }
    let json = lcs(&folder, &["hw", "show", "--json"]).stdout;
    let value: Value = serde_json::from_slice(&json).unwrap();
    assert!(value["cpus"].as_array().is_some_and(|cpus| !cpus.is_empty()));
    std::fs::write(folder.join("m.json"), &json).unwrap();
    let again = lcs(&folder, &["hw", "show", "--json", "--machine", "m.json"]);
    assert_eq!(serde_json::from_slice::<Value>(&again.stdout).unwrap(), value);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_configuration_of_a_plan_is_valid() {
    let folder = folder("plan");
    for goal in ["throughput", "latency"] {
        let plan = lcs(&folder, &["hw", "plan", "--interfaces", "lo", "--goal", goal, "--json"]);
        assert!(plan.status.success(), "{}", text(&plan.stdout));
        let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
        let configuration = plan["configuration"].as_str().unwrap().to_owned() + SERVICE;
        std::fs::write(folder.join("lcs.toml"), &configuration).unwrap();
        let check = lcs(&folder, &["check", "-c", "lcs.toml"]);
        assert!(check.status.success(), "{}\n{configuration}", text(&check.stderr));
        // Planned for again, its cores are kept.
        let again = lcs(&folder, &["hw", "plan", "-c", "lcs.toml", "--json"]);
        assert_eq!(serde_json::from_slice::<Value>(&again.stdout).unwrap()["workers"], plan["workers"]);
    }
    // What is printed for people is a script of which every line is a comment or a command.
    let printed = text(&lcs(&folder, &["hw", "plan", "--interfaces", "lo"]).stdout);
    let commands = ["echo ", "ethtool ", "ip ", "systemctl ", "modprobe ", "dpdk-devbind", "sysctl "];
    for line in printed.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        assert!(commands.iter().any(|command| line.starts_with(command)), "{line}");
    }
    let bare = lcs(&folder, &["hw", "plan"]);
    assert_eq!(bare.status.code(), Some(2));
    for way in ["--config", "--interfaces", "--dpdk"] {
        assert!(text(&bare.stderr).contains(way), "{way} is not named: {}", text(&bare.stderr));
    }
    let missing = lcs(&folder, &["hw", "plan", "--interfaces", "no-such-link"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("no-such-link") && text(&missing.stderr).contains("lo"));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_script_can_tell_findings_from_no_findings_and_from_no_check() {
    let folder = folder("check");
    let configuration = "[port]\nkind = \"af-xdp\"\ninterfaces = [\"no-such-link\"]\n".to_owned() + SERVICE;
    std::fs::write(folder.join("lcs.toml"), configuration).unwrap();
    let found = lcs(&folder, &["hw", "check", "-c", "lcs.toml"]);
    assert_eq!(found.status.code(), Some(1));
    let printed = text(&found.stdout);
    assert!(printed.starts_with("does not run: no-such-link: ") && printed.contains("mend: "), "{printed}");

    let json = lcs(&folder, &["hw", "check", "-c", "lcs.toml", "--json"]);
    assert_eq!(json.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&json.stdout).unwrap();
    let codes: Vec<&str> = report["findings"].as_array().unwrap().iter().map(|f| f["code"].as_str().unwrap()).collect();
    assert_eq!(codes[0], "interface-missing");
    assert!(codes.contains(&"not-pinned"));

    let none = lcs(&folder, &["hw", "check", "-c", "lcs.toml", "--ignore", &codes.join(",")]);
    assert_eq!(none.status.code(), Some(0), "{}", text(&none.stdout));
    assert!(text(&none.stdout).ends_with("nothing was found\n"));
    // A machine that keeps something to itself is no finding, but for who asks for certainty.
    let machine = lcs(&folder, &["hw", "show", "--json"]).stdout;
    let mut machine: Value = serde_json::from_slice(&machine).unwrap();
    machine["cpus"].as_array_mut().unwrap().iter_mut().for_each(|cpu| cpu["governor"] = Value::Null);
    std::fs::write(folder.join("silent.json"), machine.to_string()).unwrap();
    let pinned = "[workers]\ncores = [0]\n[port]\nkind = \"memory\"\ninterfaces = [\"eth0\"]\n".to_owned() + SERVICE;
    std::fs::write(folder.join("pinned.toml"), pinned).unwrap();
    let all = text(&lcs(&folder, &["hw", "check", "--list"]).stdout);
    let all: Vec<&str> = all.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    let all = all.join(",");
    let silent = ["hw", "check", "-c", "pinned.toml", "--machine", "silent.json", "--ignore", &all];
    let lenient = lcs(&folder, &silent);
    assert_eq!(lenient.status.code(), Some(0), "{}", text(&lenient.stderr));
    let strict = lcs(&folder, &[&silent[..], &["--strict"]].concat());
    assert_eq!(strict.status.code(), Some(1));
    assert!(text(&strict.stdout).contains("not told by this machine:\n"), "{}", text(&strict.stdout));

    for (args, named) in [
        (&["-c", "missing.toml"][..], "missing.toml"),
        (&["-c", "lcs.toml", "--machine", "lcs.toml"], "lcs hw show --json"),
        (&["-c", "lcs.toml", "--ignore", "no-such-code"], "no such code"),
        (&[], "--config"),
    ] {
        let refused = lcs(&folder, &[&["hw", "check"], args].concat());
        assert_eq!(refused.status.code(), Some(2), "{args:?}");
        assert!(text(&refused.stderr).contains(named), "{args:?}: {}", text(&refused.stderr));
    }
    std::fs::remove_dir_all(folder).unwrap();
}
