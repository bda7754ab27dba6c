//! `lcs perf placement`, small: two pinned threads, real rings, both placements.

use lcs_perf::placement::{Options, PlacementError, Rules, measure, plot};

#[test]
fn both_placements_are_measured_and_something_follows() {
    let o = Options {
        rules: vec![Rules::Url, Rules::Xml(5_000)],
        shares: vec![0.5, 1.0],
        connections: 8,
        rounds: 1,
        seconds: 0.03,
        ..Options::default()
    };
    let mut said = 0;
    let figures = match measure(&o, |_| said += 1) {
        Err(PlacementError::Cores(n)) => {
            eprintln!("skipped: {n} core(s), and two are needed");
            return;
        }
        other => other.unwrap_or_else(|e| panic!("{e}")),
    };
    assert!(said >= 4);
    assert_eq!((figures.capacities.len(), figures.latencies.len()), (4, 2));
    for c in &figures.capacities {
        assert!(c.run_to_completion.median > 0.0 && c.split.median > 0.0, "{c:?}");
        // Each thread of split does a part of the work, and the content worker reads documents.
        assert!(c.port_cycles.median > 0.0 && c.content_cycles.median > 0.0, "{c:?}");
    }
    let content = |n: usize| figures.capacities[n].content_cycles.median;
    assert!(content(3) > content(1), "5 KB of XML cost more than a URL: {figures}");
    for l in &figures.latencies {
        for d in [&l.run_to_completion, &l.split] {
            assert!(
                d.decision.median > 0.0 && d.packet.median > 0.0 && d.packet_p99.median >= d.packet.median,
                "{l:?}"
            );
        }
    }
    assert!(figures.advice.sentences.last().is_some_and(|s| s.starts_with("so, here: ")), "{figures}");
    let plots = plot::all(&figures);
    assert_eq!(plots.len(), 3);
    assert!(plots.iter().all(|p| p.svg.starts_with("<svg ") && !p.svg.contains("NaN")));
    assert!(plot::page(&figures, "lcs perf placement").contains("xml 5 KB"));
    let back: lcs_perf::placement::Figures = serde_json::from_str(&serde_json::to_string(&figures).unwrap()).unwrap();
    assert_eq!(back.advice, figures.advice);
}

#[test]
fn what_cannot_be_measured_is_said() {
    let wrong = |o: Options| measure(&o, |_| {}).unwrap_err().to_string();
    let o = Options::default();
    assert!(
        wrong(Options { shares: vec![0.0], ..o.clone() }).contains("--shares is 0; it must be between 0.001 and 1")
    );
    assert!(wrong(Options { rules: vec![], ..o.clone() }).contains("--rules names no value"));
    assert!(wrong(Options { rules: vec![Rules::Xml(7)], ..o.clone() }).contains("between 200 and"));
    assert!(wrong(Options { depth: 0, ..o }).contains("--depth is 0"));
}
