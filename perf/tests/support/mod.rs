//! What the tests with namespaces share.

#![allow(dead_code)] // Each test takes the part that it needs.

pub mod echo;

use std::time::{Duration, Instant};

use lcs_hwconf::netns::Namespace;
use lcs_perf::demo::load::{Load, LoadPlan, Tally};
use lcs_perf::demo::root::scene::Scene;

/// How long anything may take that happens by itself.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Whether network namespaces can be made here; says why a test is skipped where not.
pub fn root(test: &str) -> bool {
    match Namespace::create() {
        Ok(_) => true,
        Err(error) if error.errno() == Some(1) => {
            eprintln!("{test} is skipped: {error}");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

/// Waits for `condition`, or fails naming `what`.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come about within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A load of connections in the background, and what came of it.
pub fn under_load(scene: &Scene, action: impl FnOnce(&Load)) -> Tally {
    let plan = LoadPlan {
        to: scene.service(),
        parallel: 8,
        requests: 3,
        sizes: vec![0, 100, 1460, 10_000, 60_000],
        most: u64::MAX,
        patience: PATIENCE,
    };
    let load = scene.bed().client().run(|| Load::start(plan)).unwrap().unwrap();
    assert!(load.wait(50, PATIENCE, || false), "nothing comes through at the beginning");
    action(&load);
    load.next_phase();
    assert!(load.wait(50, PATIENCE, || false), "nothing comes through at the end");
    let mut sum = Tally::default();
    load.stop().iter().for_each(|tally| sum.add(tally));
    sum
}
