//! The checker on large rule sets: a thousand rules in seconds, and no finding lost to the short cuts.

use std::time::{Duration, Instant};

use lcs_control::rules::{self, CheckOptions, Context, FindingKind, Report};

/// Far above what it takes (about a second), so that a busy machine does not fail the test, and far below
/// what a million full decisions would.
const LIMIT: Duration = Duration::from_secs(60);

fn check(what: &str, source: &str) -> Report {
    let set = rules::parse(source, &Context::named("t")).unwrap_or_else(|errors| panic!("{errors}"));
    let start = Instant::now();
    let report = rules::check(&set, &CheckOptions::default());
    let took = start.elapsed();
    println!("{what}: {} rules, {} findings, {took:?}", report.rules, report.findings.len());
    assert!(took < LIMIT, "{what}: {took:?}");
    report
}

fn rules(count: usize, condition: impl Fn(usize) -> String) -> String {
    (0..count).map(|n| format!("r{n}: if ({}) routeTo(g{})\n", condition(n), n % 7)).collect()
}

#[test]
fn a_thousand_prefixes() {
    let report = check("prefixes", &rules(1_000, |n| format!("prefix(url, \"/app{n:04}/\")")));
    assert_eq!(report.findings.len(), 0);
}

#[test]
fn a_thousand_patterns() {
    let report = check("patterns", &rules(1_000, |n| format!("regex(url, \"^/app{n:04}/[a-z]+\\.(gif|jpe?g)$\")")));
    assert_eq!(report.findings.len(), 0);
}

#[test]
fn a_thousand_patterns_without_a_common_beginning() {
    let report = check("loose patterns", &rules(1_000, |n| format!("regex(url, \"/item-{n:04}$\")")));
    assert_eq!(report.findings.len(), 0);
}

#[test]
fn a_thousand_substrings_that_all_overlap() {
    let report = check("substrings", &rules(1_000, |n| format!("contains(url, \"-{n:04}-\")")));
    assert_eq!(report.count(FindingKind::PotentialConflict), 1_000);
    assert!(report.omitted_pairs > 400_000);
}

#[test]
fn a_thousand_rules_of_every_kind() {
    let report = check(
        "mixed",
        &rules(1_000, |n| match n % 5 {
            0 => format!("prefix(url, \"/app{n:04}/\") && method == \"GET\""),
            1 => format!("host == \"h{n}.example.com\" && !(cookie.tier == \"gold\")"),
            2 => format!("header.x-tenant == \"t{n}\" || query.tenant == \"t{n}\""),
            3 => format!("xml.order/total > {n} && xml.order/total <= {}", n + 5),
            _ => format!("ip.src in 10.{}.{}.0/24 && suffix(path, \".gif\")", n / 200, n % 200),
        }),
    );
    assert_eq!(report.count(FindingKind::Shadowed), 0, "{report}");
}

#[test]
fn the_last_of_a_thousand_is_shadowed_by_all_others_together() {
    let mut source: String =
        (0..1_000).map(|n| format!("r{n}: if (xml.a >= {n} && xml.a < {}) routeTo(g)\n", n + 1)).collect();
    source.push_str("last: if (xml.a >= 0 && xml.a < 1000) routeTo(h)\n");
    let report = check("shadow", &source);
    assert_eq!(report.count(FindingKind::Shadowed), 1);
    let source = source.replace("xml.a < 1000) routeTo(h)", "xml.a <= 1000) routeTo(h)");
    assert_eq!(check("no shadow", &source).count(FindingKind::Shadowed), 0);
}

#[test]
fn networks_within_networks() {
    let mut source: String = (0..1_000)
        .map(|n| format!("r{n}: if (ip.src in 10.{}.{}.0/24) routeTo(g{})\n", n / 250, n % 250, n % 3))
        .collect();
    source.push_str("all: if (ip.src in 10.0.0.0/8) routeTo(h)\n");
    let report = check("networks", &source);
    assert_eq!(report.count(FindingKind::Shadowed), 0);
    assert_eq!(report.count(FindingKind::PotentialConflict), 1_000);
}
