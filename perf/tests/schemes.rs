//! `lcs perf schemes --port af_xdp`: every scheme between real kernels, in one short run.

mod support;

use lcs_perf::schemes::{Figures, Options, Row, Series, html, measure};
use support::root;

fn small() -> Options {
    Options {
        sizes: vec![20_000],
        hit_rates: vec![50],
        rules: vec![3],
        keepalives: vec![2],
        connections: 20,
        clients: 2,
        rounds: 1,
        ..Options::default()
    }
    .over_kernels()
}

#[test]
fn every_scheme_is_measured_between_real_kernels() {
    if !root("every_scheme_is_measured_between_real_kernels") {
        return;
    }
    let options = small();
    let figures = match measure(&options, |_| {}) {
        Err(e) if e.to_string().contains("may run on core") => {
            eprintln!("every_scheme_is_measured_between_real_kernels is skipped: {e}");
            return;
        }
        other => other.unwrap(),
    };
    let base = figures.base;
    assert_eq!(figures.rows.len(), Series::MAIN.len() + 2);
    let row = |series| -> &Row { figures.row(series, base).unwrap_or_else(|| panic!("{series}")) };
    for row in &figures.rows {
        let s = &row.seen;
        assert_eq!((s.connections, s.requests, s.failed, s.strays), (20, 40, 0, 0), "{}: {s:?}", row.series);
        assert!(s.response.p50 > 10_000 && s.response.p50 <= s.response.p99, "{}: {s:?}", row.series);
        assert!(s.requests_per_second > 1.0 && row.cycles.per_connection.median > 0.0, "{row:?}");
        assert!(row.cpu.is_some_and(|cpu| cpu.process_us.median > 0.0), "{row:?}");
        // Handshake, request and end of each connection, in and out.
        assert!(s.segments_in >= 4.0 && s.segments_out >= 4.0, "{}: {s:?}", row.series);
    }
    // What answers through the director passes it twice, whole.
    for series in [Series::Forward, Series::Matching, Series::Delayed, Series::Pooled, Series::Preallocate(50)] {
        let s = &row(series).seen;
        assert!(s.bytes_per_request > 40_000.0 && s.to_clients_per_request > 20_000.0, "{series}: {s:?}");
    }
    // What answers directly does not pass it.
    for series in [Series::ForwardDirect, Series::PreallocateDirect(100), Series::Filter] {
        let s = &row(series).seen;
        assert!(s.bytes_per_request < 10_000.0 && s.to_clients_per_request < 1_000.0, "{series}: {s:?}");
    }
    let [hits, misses] = [100, 0].map(|percent| &row(Series::PreallocateDirect(percent)).seen);
    assert_eq!(hits.to_clients_per_request, 0.0);
    assert!(misses.to_clients_per_request > 20_000.0, "{misses:?}");
    for name in ["filter", "direct", "established-path-nat", "established-path-dr"] {
        let verdict = figures.verdicts.iter().find(|v| v.name == name).unwrap();
        assert!(verdict.held, "{verdict}");
    }
    // Those about times are told, however they came out on this machine.
    assert!(["order", "pooled"].iter().all(|name| figures.verdicts.iter().any(|v| v.name == *name)));
    assert!(figures.server_rtt > 1_000.0, "{}", figures.server_rtt);
    let text = figures.to_string();
    assert!(text.contains("all times are real") && !text.contains("simulated"), "{text}");
    let page = html::report(&figures, "lcs perf schemes --port af_xdp");
    assert!(page.contains("all times are real") && !page.contains("simulated"), "the page");
    let json = serde_json::to_string(&figures).unwrap();
    assert_eq!(serde_json::from_str::<Figures>(&json).unwrap().rows.len(), figures.rows.len());
}
