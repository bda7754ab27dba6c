//! Replays the fuzz targets' corpus and everything that they once found. `pipelines/fuzz/README.md` says how a crash becomes a case here.

#[path = "adversary/mod.rs"]
mod adversary;
mod invariants;
mod wire;
mod world;

use lcs_pipelines::extract::fuzz as extract;
use std::fs;
use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let mut n = 0;
    for folder in ["corpus", "regressions"] {
        let Ok(files) = fs::read_dir(fuzz.join(folder).join(target)) else { continue };
        for file in files.map(|f| f.unwrap().path()) {
            let bytes = fs::read(&file).unwrap();
            if let Err(e) = std::panic::catch_unwind(|| run(&bytes)) {
                eprintln!("while replaying {}", file.display());
                std::panic::resume_unwind(e);
            }
            n += 1;
        }
    }
    assert!(n > 0, "no case for {target}");
}

#[test]
fn frames() {
    replay("frames", invariants::run);
}

#[test]
fn headers() {
    replay("headers", invariants::headers);
}

#[test]
fn icmp() {
    replay("icmp", invariants::icmp);
}

#[test]
fn splice() {
    replay("splice", adversary::run);
}

#[test]
fn http() {
    replay("http", extract::fuzz_http);
}

#[test]
fn xml() {
    replay("xml", extract::fuzz_xml);
}

#[test]
fn json() {
    replay("json", extract::fuzz_json);
}

#[test]
fn tls() {
    replay("tls", extract::fuzz_tls);
}

#[test]
fn dialogue() {
    replay("dialogue", extract::fuzz_dialogue);
}

#[test]
fn server_replay() {
    replay("replay", extract::fuzz_replay);
}

#[test]
fn response() {
    replay("response", extract::fuzz_response);
}

#[test]
fn chunks() {
    replay("chunks", extract::fuzz_chunks);
}

/// Writes the seeds of the corpus from the templates; run with `--ignored` after the templates have changed.
#[test]
#[ignore = "writes files"]
fn write_seeds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let templates = invariants::templates();
    let put = |target: &str, name: String, bytes: &[u8]| {
        fs::create_dir_all(corpus.join(target)).unwrap();
        fs::write(corpus.join(target).join(name), bytes).unwrap();
    };
    for (n, program) in adversary::seeds().iter().enumerate() {
        put("splice", format!("exchange-{n:02}"), program);
    }
    for (n, (_, frame)) in templates.iter().enumerate() {
        put("headers", format!("template-{n:02}"), frame);
        let quoted: Vec<u8> = (0..6u8).flat_map(|to| [to, 3, 4, 0, 0, 5, 0, n as u8, 0]).take(9).collect();
        put("icmp", format!("quotes-{n:02}"), &quoted);
    }
    // Every template once, in bursts of a few; then again as other connections, with time passing and commands between.
    let all: Vec<u8> = (0..templates.len() as u8).flat_map(|n| [2, n, 0]).collect();
    put("frames", "every-template".into(), &all);
    let apart: Vec<u8> = (0..templates.len() as u8).flat_map(|n| [2, n, 0, 4, n]).collect();
    put("frames", "every-template-apart".into(), &apart);
    let many: Vec<u8> = (0..40u8).flat_map(|n| [7, 0, 1, 0, n, 7, 6, 1, 0, n]).collect();
    put("frames", "more-connections-than-fit".into(), &many);
    let reopened = [2, 0, 0, 5, 2, 3, 0, 5, 2, 1, 0, 2, 0, 0, 2, 0, 0, 4, 200, 2, 1, 0];
    put("frames", "closed-and-reopened-in-a-burst".into(), &reopened);
    let commands: Vec<u8> = (0..8u8).flat_map(|w| [2, w, 0, 6, w, 3, 2, 6, 0, 6, w, 4, 2, 19, 0, 5]).collect();
    put("frames", "every-command".into(), &commands);
}
