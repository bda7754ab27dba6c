//! `lcs perf schemes` as a shell sees it: a small run, its files, and what it says of options that it cannot use.

use serde_json::Value;
use std::process::{Command, Output};

fn schemes(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lcs")).args(["perf", "schemes"]).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn simulated_figures_repeat_and_plots_and_report_are_written() {
    let folder = std::env::temp_dir().join(format!("lcs-schemes-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let plots = folder.join("made/for/them");
    let small = ["--size", "0.1k,2k", "--rules", "2", "--keepalive", "1", "--connections", "10", "--clients", "2"];
    let mut arguments = small.to_vec();
    arguments.extend(["--hit-rate", "0,40,100", "--rtt", "2ms", "--loss", "1%", "--rounds", "1", "--json"]);
    let plain = schemes(&arguments);
    arguments.extend(["--plot", plots.to_str().unwrap()]);
    let plotted = schemes(&arguments);
    let figures = |output: &Output| -> Value {
        let said = text(&output.stderr);
        assert!(output.status.success(), "{said}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"))
    };
    let simulated = |figures: &Value| -> Vec<Value> {
        figures["rows"].as_array().unwrap().iter().map(|row| row["seen"].clone()).collect()
    };
    let (plain, plotted) = (figures(&plain), figures(&plotted));
    // Two sizes with ten series each, and one more hit rate, both ways.
    assert_eq!(simulated(&plain).len(), 22);
    assert_eq!(simulated(&plain), simulated(&plotted));
    for row in plain["rows"].as_array().unwrap() {
        assert!(row["seen"]["response"]["mean"].as_f64().unwrap() > 4e6, "{row}");
        assert!(row["cycles"]["per_connection"]["median"].as_f64().unwrap() > 0.0, "{row}");
    }
    let read = |name: &str| std::fs::read_to_string(plots.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    for plot in ["response-by-size.svg", "response-by-hit-rate.svg", "cycles-by-hit-rate.svg", "cycles-by-stage.svg"] {
        assert!(read(plot).starts_with("<svg"), "{plot}");
    }
    let page = read("schemes.html");
    assert!(page.contains("perf schemes --size 0.1k,2k") && page.contains("--loss 1%"), "{page}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn options_that_cannot_be_used_are_refused_with_what_to_write_instead() {
    for (arguments, mend) in [
        (&["--size", "1kb"][..], "such as 500, 0.1k, 10k or 1M"),
        (&["--size", "0"], "at least 1"),
        (&["--rtt", "5"], "with its unit, such as 50us"),
        (&["--loss", "often"], "such as 0.01 or 1%"),
        (&["--hit-rate", "101"], "between 0 and 100"),
        (&["--loss", "90%"], "between 0 and 0.3"),
        (&["--rtt", "1us"], "between 0.02ms and 10000ms"),
        (&["--rules", "0"], "between 1 and 10000"),
        (&["--rtt", "1ms", "--port", "af_xdp"], "the links are the kernel's own"),
        (&["--core", "1"], "is for --port af_xdp"),
        (&["--server-loss", "1%", "--port", "af_xdp"], "for the modelled links of --port memory"),
    ] {
        let output = schemes(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(arguments[0]) && said.contains(mend), "{arguments:?}: {said}");
    }
}
