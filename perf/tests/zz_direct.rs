//! Seeds whose servers answer clients themselves.
use lcs_perf::simulate::{content, has_faults};
#[test]
fn many() {
    let from: u64 = std::env::var("FROM").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    let to: u64 = std::env::var("TO").ok().and_then(|s| s.parse().ok()).unwrap_or(60);
    let (mut direct, mut bad, mut all) = (0, vec![], 0);
    for seed in from..to {
        if !content::is_of_interest(seed, has_faults(seed)) { continue; }
        all += 1;
        let o = content::run(seed, 40, has_faults(seed));
        if o.site.starts_with("Dr") || o.site.starts_with("Tunnel") { direct += 1; }
        if !o.ok() { println!("{o}"); bad.push(seed); }
    }
    println!("{all} runs, {direct} direct, bad {bad:?}");
    assert!(bad.is_empty());
}
