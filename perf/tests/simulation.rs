//! The seeded simulation as CI runs it. A failure names its seed and leaves a capture of that run.

use lcs_perf::network::capture::Capture;
use lcs_perf::simulate::{content, has_faults, replay, run};

/// Seeds of a run, and connections of each.
const SEEDS: std::ops::Range<u64> = 0..100;
const CONNECTIONS: u64 = 40;

#[test]
fn layer4_holds_what_it_must_for_every_seed() {
    let (mut connections, mut frames) = (0, 0);
    for seed in SEEDS {
        let outcome = run(seed, CONNECTIONS, has_faults(seed));
        if !outcome.ok() {
            let path = format!("{}/seed-{seed}.pcapng", env!("CARGO_TARGET_TMPDIR"));
            let sink = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
            replay(seed, CONNECTIONS, has_faults(seed), Capture::new(Box::new(sink), 1_000_000)).unwrap();
            panic!("{outcome}\nthe frames of this run are in {path}");
        }
        connections += outcome.connections;
        frames += outcome.frames;
    }
    println!("{connections} connections, {frames} frames at the director");
    assert_eq!(connections, CONNECTIONS * (SEEDS.end - SEEDS.start));
}

#[test]
fn switching_by_content_holds_what_it_must_for_every_seed() {
    let (mut connections, mut answered) = (0, 0);
    for seed in SEEDS {
        let outcome = content::run(seed, 10, has_faults(seed));
        if !outcome.ok() {
            let path = format!("{}/content-seed-{seed}.pcapng", env!("CARGO_TARGET_TMPDIR"));
            let sink = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
            content::replay(seed, 10, has_faults(seed), Capture::new(Box::new(sink), 1_000_000)).unwrap();
            panic!("{outcome}\nthe frames of this run are in {path}");
        }
        connections += outcome.connections;
        answered += outcome.answered;
    }
    println!("{connections} connections, {answered} answers");
    assert_eq!(connections, 10 * (SEEDS.end - SEEDS.start));
}
