//! `lcs perf rules` and `lcs perf xml`: what a decision costs against the number of rules, extraction included, and how fast
//! documents are read.
//!
//! The rules are text, compiled as `lcs rules load` compiles them, and the extraction is the workers'. Requests are whole in
//! memory, and warm in the cache as after a device's direct cache access. There are as many with any number of rules, each for another rule
//! as far as there are rules enough: what a large rule set costs more is the memory of the rules, which so many requests spread over.

mod rules;
pub(crate) mod workload;
mod xml;

pub use rules::{RulesFigures, RulesOptions, RulesRow, measure as measure_rules};
pub use workload::Mix;
pub use xml::{XmlFigures, XmlOptions, XmlRow, measure as measure_xml};

use lcs_control::rules::{Context, Errors, Numbering, compile, parse};
use lcs_pipelines::extract::{ExtractError, Extraction, Limits, Outcome, PacketFacts, Plan, Protocol};
use lcs_pipelines::matching::{GroupId, Program, QueueId, Scratch, ServerId};
use std::hint::black_box;
use std::time::Instant;

/// What cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum DecisionsError {
    /// A number out of its range.
    #[error("{what} {value} is out of range; give {mend}")]
    Range {
        /// Of what.
        what: &'static str,
        /// The number.
        value: usize,
        /// What would do.
        mend: &'static str,
    },
    /// The rules cannot be compiled.
    #[error("the rules cannot be compiled: {0}")]
    Rules(#[from] Errors),
    /// A request is decided otherwise than its maker meant: a figure would be of something else.
    #[error("request {request} is decided as {got}, not as rule {wanted}")]
    Wrong {
        /// Which request.
        request: usize,
        /// What came of it.
        got: String,
        /// What should have.
        wanted: usize,
    },
}

/// One group, whatever it is called.
struct OneGroup;

impl Numbering for OneGroup {
    fn group(&self, _: &str) -> Option<GroupId> {
        Some(0)
    }
    fn server(&self, _: &str) -> Option<ServerId> {
        None
    }
    fn queue(&self, _: &str) -> Option<QueueId> {
        None
    }
}

/// A compiled rule set with what a worker keeps for it.
struct Subject {
    program: Program,
    plan: Plan,
    scratch: Scratch,
    extraction: Extraction,
}

/// Passes over the requests in one timed slice: short enough to be seldom interrupted.
const SLICE_NS: f64 = 200_000.0;

impl Subject {
    fn new(text: &str, body: usize) -> Result<Self, DecisionsError> {
        let set = parse(text, &Context::named("measured"))?;
        let program = compile(&set, &OneGroup)?;
        let plan = Plan::new(&program, Limits { body, ..Limits::default() });
        let scratch = program.scratch();
        Ok(Subject { program, plan, scratch, extraction: Extraction::new(Protocol::Http) })
    }

    fn run(&mut self, request: &[u8]) -> Result<Outcome, ExtractError> {
        let facts = PacketFacts { packet: &[], groups: &() };
        self.extraction.reset(Protocol::Http);
        self.extraction.advance(&self.program, &self.plan, &mut self.scratch, &facts, request, false)
    }

    /// Sees to it that every request is decided as it should be.
    fn check(&mut self, requests: &[Vec<u8>], wanted: impl Fn(usize) -> usize) -> Result<(), DecisionsError> {
        for (place, request) in requests.iter().enumerate() {
            let (got, wanted) = (self.run(request), wanted(place));
            if got != Ok(Outcome::Rule(wanted as u32)) {
                return Err(DecisionsError::Wrong { request: place, got: format!("{got:?}"), wanted });
            }
        }
        Ok(())
    }

    /// ns for one request: the best of `slices` timed slices, each over all requests as often as fits.
    fn time(&mut self, requests: &[Vec<u8>], slices: usize) -> f64 {
        let mut pass = |times: usize| {
            let start = Instant::now();
            for _ in 0..times {
                for request in requests {
                    let _ = black_box(self.run(black_box(request)));
                }
            }
            start.elapsed().as_nanos() as f64 / (times * requests.len()) as f64
        };
        // Also warms the caches and predictors that another subject has just used.
        let once = (0..3).map(|_| pass(1)).fold(f64::MAX, f64::min);
        let times = (SLICE_NS / (once * requests.len() as f64)).clamp(1.0, 1e6) as usize;
        (0..slices.max(1)).map(|_| pass(times)).fold(f64::MAX, f64::min)
    }
}
