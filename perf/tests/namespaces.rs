//! Kernel TCP and UDP through the director, in network namespaces: what the demo plays, and what a network does to it.

mod support;

use lcs_perf::demo::interrupt::Interrupt;
use lcs_perf::demo::load::{Load, LoadPlan};
use lcs_perf::demo::narrator::Narrator;
use lcs_perf::demo::root::play::play;
use lcs_perf::demo::root::scene::{Scene, Setup};
use lcs_pipelines::snapshot::Forward;
use support::{PATIENCE, root};

/// The servers, the clients and the network by themselves: what fails later is the director's doing.
#[test]
fn without_a_director_nothing_fails() {
    if !root("without_a_director_nothing_fails") {
        return;
    }
    for ipv6 in [false, true] {
        let setup = Setup { forward: Forward::Nat, ipv6, server_ipv6: ipv6 };
        let scene = Scene::build(setup, setup.plan()).unwrap();
        scene.bed().set_kernel_forwarding(true).unwrap();
        let plan = LoadPlan {
            to: scene.endpoint(1),
            parallel: 8,
            requests: 3,
            sizes: vec![0, 100, 1460, 10_000, 60_000],
            most: 120,
            patience: PATIENCE,
        };
        let load = scene.bed().client().run(|| Load::start(plan)).unwrap().unwrap();
        assert!(load.wait(120, PATIENCE, || false));
        let tally = load.stop().remove(0);
        assert_eq!((tally.requests, tally.failed), (360, 0), "{tally:?}");
        assert_eq!(tally.per_server.get("server2"), Some(&360), "{tally:?}");
        assert_eq!(tally.seen_as.get(&(scene.bed().client_address(0, ipv6), true)), Some(&120), "{tally:?}");
    }
}

#[test]
fn every_scenario_is_played_to_its_end() {
    if !root("every_scenario_is_played_to_its_end") {
        return;
    }
    for setup in Setup::ALL {
        let mut said = Vec::new();
        let scenario = play(setup, &mut Narrator::new(&mut said), &Interrupt::default()).unwrap();
        let said = String::from_utf8(said).unwrap();
        assert!(scenario.ok, "{} over {}:\n{said}", setup.name(), setup.ip());
        assert_eq!(scenario.failed, 0);
        println!("{said}\n{scenario:?}");
    }
}
