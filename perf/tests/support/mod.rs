//! What the tests with namespaces share.

#![allow(dead_code)] // Each test takes the part that it needs.

pub mod echo;

use std::time::{Duration, Instant};

use lcs_hwconf::netns::Namespace;

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
