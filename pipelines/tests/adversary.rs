//! Whatever clients and servers send, in whatever order, while the control thread changes its mind: nothing panics, no buffer is lost,
//! and everything ends.

#[path = "adversary/mod.rs"]
mod program;

use proptest::prelude::*;

#[test]
fn whole_exchanges_end() {
    let mut all = program::Reached::default();
    for seed in program::seeds() {
        let r = program::reached(&seed);
        all.decided += r.decided;
        all.forwarded += r.forwarded;
        all.reused += r.reused;
    }
    // The programs mean something: requests are decided, segments pass both ways.
    assert!(all.decided > 20 && all.reused > 4 && all.forwarded > 60, "{all:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn anything_ends(
        seed in 0usize..41,
        steps in proptest::collection::vec(any::<[u8; 4]>(), 0..80),
        cut in 0usize..60,
    ) {
        let seeds = program::seeds();
        let begin = &seeds[seed % seeds.len()];
        let mut p: Vec<u8> = begin[..(cut * 4).min(begin.len())].to_vec();
        p.extend(steps.iter().flatten());
        program::run(&p);
    }
}
