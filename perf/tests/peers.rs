//! The XDP balancer as a peer: the kernel's TCP through it, every byte of every answer compared, and no packet past it. (Who
//! else is there is tried with the command itself.)

mod support;

use lcs_perf::demo::interrupt::Interrupt;
use lcs_perf::peers::{self, Mode, Options, Peer, PeersError, Workload};
use support::root;

#[test]
fn the_xdp_balancer_answers_every_request_rightly_and_costs_the_core_something() {
    if !root("the_xdp_balancer_answers_every_request_rightly_and_costs_the_core_something") {
        return;
    }
    let options = Options {
        peers: vec![Peer::Xdp, Peer::Ipvs],
        workloads: vec![Workload::Urls, Workload::Xml],
        modes: Mode::ALL.to_vec(),
        rounds: 1,
        seconds: 0.3,
        connections: 8,
        size: 5000,
        bodies: vec![10_000],
        ..Options::default()
    };
    let figures = match peers::measure(&options, &Interrupt::default(), |_| {}) {
        Err(PeersError::Cores(why)) => return eprintln!("skipped: {why}"),
        figures => figures.unwrap_or_else(|e| panic!("{e}")),
    };
    print!("{figures}");
    assert_eq!((figures.cells.len(), figures.notes.as_slice()), (4, &[] as &[String]), "{figures}");
    for row in figures.cells.iter().flat_map(|cell| &cell.rows).filter(|row| row.subject.peer == Peer::Xdp) {
        assert!(row.errors.is_empty() && row.requests_per_second.median > 10.0, "{figures}");
        // Its own thread of the kernel, as charged by the scheduler.
        assert!(row.kernel_us.median > 0.1, "{figures}");
    }
    // IPVS is there, or it is said why not and what would mend it.
    let ipvs = figures.skipped.iter().find(|s| s.peer == Peer::Ipvs);
    let measured = figures.cells[0].rows.iter().any(|row| row.subject.peer == Peer::Ipvs);
    assert!(measured || ipvs.is_some_and(|s| s.why.contains("ip_vs") || s.why.contains("ipvsadm")), "{figures}");
}
