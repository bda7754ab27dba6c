//! Kernel TCP through directors of several workers and interfaces, and under many changes, in network namespaces.

mod support;

use lcs_hwconf::testbed::{Arms, Plan};
use lcs_perf::demo::root::director::Director;
use lcs_perf::demo::root::scene::{SERVICE, Scene, Setup};
use lcs_pipelines::snapshot::Forward;
use support::{PATIENCE, root, under_load};

/// The queues of a veth know nothing of clients' endpoints: half of the frames come to the wrong worker.
#[test]
fn two_workers_share_the_connections_and_hand_over_what_is_not_theirs() {
    if !root("two_workers_share_the_connections_and_hand_over_what_is_not_theirs") {
        return;
    }
    let cores = lcs_hwconf::cores::available().unwrap();
    if !cores.iter().take(2).map(|core| core.id).eq([0, 1]) {
        eprintln!("skipped: it needs the cores 0 and 1");
        return;
    }
    for setup in Setup::ALL {
        let scene = Scene::build(setup, Plan { queues: 2, ..setup.plan() }).unwrap();
        let mut director = Director::start(&scene).unwrap();
        let tally = under_load(&scene, |load| {
            assert!(load.wait(200, PATIENCE, || false));
        });
        assert_eq!((tally.failed, tally.per_server.len()), (0, 3), "{tally:?}");
        let stats = director.stats().unwrap();
        assert_eq!(stats.workers.len(), 2);
        for worker in &stats.workers {
            assert!(worker.received > 100 && worker.flows > 50, "{setup:?}: {worker:?}");
            assert!(worker.handed_over > 100 && worker.taken_over > 100, "{setup:?}: {worker:?}");
        }
        // Each connection is known to one worker; a client's port may have been used for two, one after the other.
        let flows = stats.total.flows as u64;
        assert!((tally.connections * 3 / 4..=tally.connections).contains(&flows), "{flows} flows, {tally:?}");
    }
}

#[test]
fn clients_and_servers_on_different_interfaces() {
    if !root("clients_and_servers_on_different_interfaces") {
        return;
    }
    for setup in Setup::ALL.into_iter().filter(|setup| setup.forward.replies_return()) {
        let scene = Scene::build(setup, Plan { arms: Arms::Two, ..Plan::default() }).unwrap();
        let mut director = Director::start(&scene).unwrap();
        assert_eq!(director.status().unwrap().port.len(), 2);
        let tally = under_load(&scene, |_| ());
        assert_eq!((tally.failed, tally.per_server.len()), (0, 3), "{tally:?}");
        let (address, own_port) = scene.seen_as();
        assert!(tally.seen_as.keys().all(|(seen, own)| *seen == address && (*own || !own_port)), "{tally:?}");
    }
}

#[test]
fn a_thousand_changes_under_load_cost_no_request() {
    if !root("a_thousand_changes_under_load_cost_no_request") {
        return;
    }
    for forward in [Forward::Nat, Forward::Dr] {
        let setup = Setup { forward, ipv6: false, server_ipv6: false };
        let scene = Scene::build(setup, setup.plan()).unwrap();
        let mut director = Director::start(&scene).unwrap();
        let before = director.status().unwrap().generation;
        let tally = under_load(&scene, |_| {
            for round in 0..500 {
                director.set_weight(SERVICE, "server1", round % 7).unwrap();
                // Leaves and comes back: a new snapshot each time, and a draining server with connections.
                if round % 2 == 0 {
                    director.remove_server(SERVICE, "server3").unwrap();
                } else {
                    add_third(&mut director, &scene);
                }
            }
        });
        assert_eq!(tally.failed, 0, "{tally:?}");
        let status = director.status().unwrap();
        assert!(status.generation >= before + 500, "{status:?}");
        let stats = director.stats().unwrap().total;
        assert_eq!(stats.dropped, 0, "{:?}", stats.drops);
    }
}

fn add_third(director: &mut Director, scene: &Scene) {
    use lcs_control::protocol::{Request, Response, ServerSettings};
    let set = ServerSettings {
        address: Some(scene.bed().server_address(2, false)),
        port: scene.setup().forward.replies_return().then(|| scene.endpoint(2).port()),
        weight: Some(1),
        ..ServerSettings::default()
    };
    let request = Request::AddServer { service: SERVICE.into(), server: "server3".into(), set };
    assert!(matches!(director.ask(request).unwrap(), Response::Applied(_)));
}
