//! `lcs perf schemes`: what each way of binding a connection to a server costs, side by side on the in-process network.
//!
//! The question (tutorial, slide 55): what is gained by guessing the server at the SYN, against waiting for the request? The same
//! clients ask the same documents of the same servers over the same modelled links, once for each [`Series`]; all of them
//! in turns, over several rounds. Times are simulated and the same for the same seed; cycles are the worker's own, of the
//! real processor, and are not. A figure says which it is by where it stands: [`Row::simulated`] or [`Row::cycles`].

mod cell;
pub mod html;
pub mod plot;
mod read;
mod report;

pub use cell::{Simulated, Spread};
pub use read::{read_loss, read_size, read_time};
pub use report::{BreakEven, Figures, Pays, StageCycles};

use crate::network::{MICROSECOND, MILLISECOND};
use crate::summary::Summary;
use lcs_dataplane::cycles::tsc_hz;
use lcs_dataplane::worker::Nanos;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How connections are bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Series {
    /// By address and port, with the SYN: layer-4 NAT without any rule. The tutorial's first series.
    Forward,
    /// As [`Series::Forward`], with the rules evaluated on the first request and nothing made of what they say: every rule names all servers, so that
    /// the one that a hash of the client's address and port has chosen is right whatever rule takes the request. The tutorial's second series.
    Matching,
    /// By the request: delayed binding and splice.
    Delayed,
    /// By a guess at the SYN that is right in so many of a hundred connections. All and none are the tutorial's third and fourth series.
    Preallocate(u8),
    /// By the request, onto a connection that is open already.
    Pooled,
    /// By the request, which goes to a filter on the server's host; that one answers the client directly.
    Filter,
}

impl Series {
    /// Those that every point is measured with.
    pub const MAIN: [Series; 7] = [
        Series::Forward,
        Series::Matching,
        Series::Pooled,
        Series::Preallocate(100),
        Series::Delayed,
        Series::Filter,
        Series::Preallocate(0),
    ];
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Series::Forward => f.pad("forward"),
            Series::Matching => f.pad("forward, rules matched"),
            Series::Delayed => f.pad("delayed"),
            Series::Pooled => f.pad("pooled"),
            Series::Filter => f.pad("filter"),
            Series::Preallocate(100) => f.pad("preallocate, all hits"),
            Series::Preallocate(0) => f.pad("preallocate, all misses"),
            Series::Preallocate(percent) => f.pad(&format!("preallocate, {percent} % hits")),
        }
    }
}

/// What a series is measured with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Point {
    /// Bytes of a document.
    pub size: usize,
    /// Rules of the service, its default not among them.
    pub rules: usize,
    /// Requests of a connection.
    pub keepalive: usize,
}

/// What to measure. Of sizes, rules and requests, each is varied while the others stand at [`Options::base`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Bytes of documents.
    pub sizes: Vec<usize>,
    /// Right guesses of a hundred connections.
    pub hit_rates: Vec<u8>,
    /// Numbers of rules.
    pub rules: Vec<usize>,
    /// Requests of a connection.
    pub keepalives: Vec<usize>,
    /// Between client and director, there and back, ns.
    pub rtt: Nanos,
    /// Between director and server, there and back, ns.
    pub server_rtt: Nanos,
    /// Share of frames that the clients' links lose, 0 to 1.
    pub loss: f64,
    /// Share of frames that the servers' links lose, 0 to 1.
    pub server_loss: f64,
    /// Connections of a series at a point, a round.
    pub connections: usize,
    /// Clients, each with one connection at a time.
    pub clients: usize,
    /// Rounds, over which cycles are summarised.
    pub rounds: usize,
    /// Decides every draw.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            sizes: vec![100, 1_000, 10_000, 100_000, 1_000_000],
            hit_rates: vec![0, 25, 50, 75, 100],
            rules: vec![1, 10, 100, 1000],
            keepalives: vec![1, 4, 16],
            rtt: MILLISECOND,
            server_rtt: 200 * MICROSECOND,
            loss: 0.0,
            server_loss: 0.0,
            connections: 200,
            clients: 16,
            rounds: 5,
            seed: 1,
        }
    }
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum SchemesError {
    /// A number out of its range.
    #[error("{what} is {given}; it must be between {least} and {most}")]
    Range {
        /// Option.
        what: &'static str,
        /// Its value.
        given: String,
        /// Smallest that works.
        least: String,
        /// Largest that works.
        most: String,
    },
    /// A list without any value.
    #[error("{0} names no value; give at least one, or leave it out for the default")]
    Empty(&'static str),
    /// Connections did not come to their end.
    #[error(
        "{series}, {size} B: {failed} of {asked} requests were not answered as they should be ({first}); the figures would not be of whole connections"
    )]
    Lost {
        /// How they were bound.
        series: Series,
        /// Bytes of a document.
        size: usize,
        /// Requests that failed.
        failed: u64,
        /// Requests that there were.
        asked: u64,
        /// The first failure.
        first: String,
    },
    /// A request was answered by a server that its rule does not name.
    #[error("{series}: {path} was answered by {server}, which its rule does not name")]
    Misrouted {
        /// How it was bound.
        series: Series,
        /// What was asked.
        path: String,
        /// Who answered.
        server: String,
    },
    /// Two rounds of the same simulation differ.
    #[error("{0}: two rounds of the same seed differ in simulated figures; that is a defect, please report it")]
    Unrepeatable(Series),
    /// The filters and the director of the bench do not find each other.
    #[error(
        "no filter was heard of within 100 simulated seconds: with so much loss (--server-loss) its heartbeats do not arrive"
    )]
    Silent,
    /// The rules of the bench do not compile.
    #[error("the bench's own rules do not compile: {0}")]
    Rules(String),
}

/// One series at one point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// How connections were bound.
    pub series: Series,
    /// With what.
    #[serde(flatten)]
    pub point: Point,
    /// In simulated time, and counted: the same for the same seed.
    pub simulated: Simulated,
    /// What it cost the processor: not the same twice.
    pub cycles: Cycles,
}

/// TSC cycles of the director's worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cycles {
    /// All busy turns of its loop, a connection.
    pub per_connection: Summary,
    /// The same, a request.
    pub per_request: Summary,
    /// The simulated mean response time and, on top, the time of these cycles, ns: what the simulated director does in no
    /// time. It is a bound from above, as the work for the connection's end is in it.
    pub response_with_work: Summary,
    /// A connection's by stage, in the packet's order.
    pub stages: Vec<StageCycles>,
}

impl Options {
    /// Where the dimensions meet: 10,000 B, 10 rules and 1 request, each where it is among those to measure, else the first.
    pub fn base(&self) -> Point {
        let pick = |all: &[usize], wanted| all.iter().copied().find(|&n| n == wanted).or(all.first().copied());
        Point {
            size: pick(&self.sizes, 10_000).unwrap_or(10_000),
            rules: pick(&self.rules, 10).unwrap_or(10),
            keepalive: pick(&self.keepalives, 1).unwrap_or(1),
        }
    }

    /// Every series and point, each once.
    fn cells(&self) -> Vec<(Series, Point)> {
        let base = self.base();
        let sizes = self.sizes.iter().map(|&size| Point { size, ..base });
        let rules = self.rules.iter().map(|&rules| Point { rules, ..base });
        let keepalives = self.keepalives.iter().map(|&keepalive| Point { keepalive, ..base });
        let points = sizes.chain(rules).chain(keepalives);
        let mut cells: Vec<_> = points.flat_map(|point| Series::MAIN.map(|series| (series, point))).collect();
        cells.extend(self.hit_rates.iter().map(|&percent| (Series::Preallocate(percent), base)));
        let mut seen = std::collections::BTreeSet::new();
        cells.retain(|cell| seen.insert(*cell));
        cells
    }

    fn check(&self) -> Result<(), SchemesError> {
        fn range<T: PartialOrd + fmt::Display>(
            what: &'static str,
            values: &[T],
            least: T,
            most: T,
            shown: impl Fn(&T) -> String,
        ) -> Result<(), SchemesError> {
            if values.is_empty() {
                return Err(SchemesError::Empty(what));
            }
            match values.iter().find(|v| !(**v >= least && **v <= most)) {
                None => Ok(()),
                Some(v) => {
                    let (given, least, most) = (shown(v), shown(&least), shown(&most));
                    Err(SchemesError::Range { what, given, least, most })
                }
            }
        }
        let ms = |n: &Nanos| format!("{}ms", *n as f64 / MILLISECOND as f64);
        range("--size", &self.sizes, 1, 10_000_000, ToString::to_string)?;
        range("--hit-rate", &self.hit_rates, 0, 100, ToString::to_string)?;
        range("--rules", &self.rules, 1, 10_000, ToString::to_string)?;
        range("--keepalive", &self.keepalives, 1, 1_000, ToString::to_string)?;
        // Below this, the modelled links inside each site alone take longer.
        range("--rtt", &[self.rtt], cell::SHORTEST, 10_000 * MILLISECOND, ms)?;
        range("--server-rtt", &[self.server_rtt], cell::SHORTEST, 10_000 * MILLISECOND, ms)?;
        range("--loss", &[self.loss], 0.0, 0.3, ToString::to_string)?;
        range("--server-loss", &[self.server_loss], 0.0, 0.3, ToString::to_string)?;
        range("--connections", &[self.connections], 1, 100_000, ToString::to_string)?;
        range("--clients", &[self.clients], 1, 100, ToString::to_string)?;
        range("--rounds", &[self.rounds], 1, 1_000, ToString::to_string)
    }
}

/// Measures. `progress` is told what is being done.
///
/// # Errors
/// Options out of range, or connections that were not answered as they should be.
pub fn measure(options: &Options, mut progress: impl FnMut(&str)) -> Result<Figures, SchemesError> {
    options.check()?;
    let hz = tsc_hz();
    let cells = options.cells();
    let mut taken: Vec<Vec<cell::Taken>> = cells.iter().map(|_| vec![]).collect();
    // The first round is simulated like the others, but its cycles are those of a cold start.
    for round in 0..=options.rounds {
        for (n, ((series, point), taken)) in cells.iter().zip(&mut taken).enumerate() {
            let what =
                if round == 0 { "warming up".to_owned() } else { format!("round {round} of {}", options.rounds) };
            let Point { size, rules, keepalive } = point;
            progress(&format!(
                "{what}, {} of {}: {series}, {size} B, {rules} rules, {keepalive} requests",
                n + 1,
                cells.len()
            ));
            taken.push(cell::run(options, *series, *point)?);
        }
    }
    let rows = cells.iter().zip(taken);
    let rows = rows.map(|(&(series, point), taken)| row(series, point, taken, hz)).collect::<Result<Vec<_>, _>>()?;
    Ok(Figures::new(options.clone(), hz, rows))
}

/// What a cell's rounds come to.
fn row(series: Series, point: Point, taken: Vec<cell::Taken>, tsc_hz: u64) -> Result<Row, SchemesError> {
    let mut rounds = taken.into_iter();
    let Some(first) = rounds.next() else { return Err(SchemesError::Empty("--rounds")) };
    let (mut whole, mut stages) = (vec![], vec![vec![]; first.stages.len()]);
    let connections = first.simulated.connections as f64;
    for round in rounds {
        if round.simulated != first.simulated {
            return Err(SchemesError::Unrepeatable(series));
        }
        whole.push(round.cycles as f64 / connections);
        for (all, (_, cycles)) in stages.iter_mut().zip(&round.stages) {
            all.push(*cycles as f64 / connections);
        }
    }
    let mean = first.simulated.response.mean;
    let with_work = whole.iter().map(|cycles| mean + cycles * 1e9 / tsc_hz as f64).collect();
    let per_connection = Summary::of(whole);
    let stages = first.stages.into_iter().zip(stages);
    let stages = stages.map(|((name, _), all)| StageCycles { name, per_connection: Summary::of(all) }).collect();
    let per_request = per_connection.scaled(1.0 / point.keepalive as f64);
    let response_with_work = Summary::of(with_work);
    let cycles = Cycles { per_connection, per_request, response_with_work, stages };
    Ok(Row { series, point, simulated: first.simulated, cycles })
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn small() -> Options {
        Options {
            sizes: vec![1_000, 20_000],
            hit_rates: vec![50],
            rules: vec![3],
            keepalives: vec![1, 3],
            connections: 12,
            clients: 4,
            rounds: 1,
            ..Options::default()
        }
    }

    fn simulated(options: &Options) -> Vec<(Series, Point, Simulated)> {
        let figures = measure(options, |_| {}).unwrap();
        figures.rows.into_iter().map(|r| (r.series, r.point, r.simulated)).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_simulated_figures_and_another_seed_others() {
        let lossy = Options { loss: 0.02, server_loss: 0.01, ..small() };
        let first = simulated(&lossy);
        assert_eq!(first, simulated(&lossy));
        assert_ne!(first, simulated(&Options { seed: 2, ..lossy }));
    }

    /// Mean simulated response times at the base, ns.
    fn responses(figures: &Figures) -> [f64; 4] {
        [Series::Forward, Series::Preallocate(100), Series::Delayed, Series::Preallocate(0)]
            .map(|s| figures.row(s, figures.options.base()).unwrap().simulated.response.mean)
    }

    #[test]
    fn delayed_binding_moves_the_server_handshake_and_adds_no_round_trip() {
        let figures = measure(&small(), |_| {}).unwrap();
        let [forward, _, delayed, _] = responses(&figures);
        assert!((delayed - forward).abs() < 10_000.0, "{forward} ns and {delayed} ns");
        // Two round trips, to the server and back.
        assert!(forward > 2.0 * (figures.options.rtt + figures.options.server_rtt) as f64);
        let of = |series| &figures.row(series, figures.options.base()).unwrap().simulated;
        let (forward, delayed) = (of(Series::Forward), of(Series::Delayed));
        assert!(delayed.buffered_at_most > 0 && forward.buffered_at_most == 0);
        assert!(delayed.segments() > forward.segments());
    }

    #[test]
    fn filters_take_the_replies_off_the_director() {
        let figures = measure(&small(), |_| {}).unwrap();
        let point = Point { size: 20_000, ..figures.options.base() };
        let of = |series| &figures.row(series, point).unwrap().simulated;
        let (forward, filter) = (of(Series::Forward), of(Series::Filter));
        // A reply passes the forwarding director twice: in and out.
        assert!(forward.bytes_per_request > 2.0 * 20_000.0, "{forward:?}");
        assert!(filter.bytes_per_request < 10_000.0, "{filter:?}");
        assert_eq!((filter.failed, filter.requests), (0, forward.requests));
    }

    #[test]
    fn inserted_rules_change_neither_the_binding_nor_a_round_trip() {
        let figures = measure(&small(), |_| {}).unwrap();
        let of = |series| figures.row(series, figures.options.base()).unwrap();
        let (forward, matching) = (of(Series::Forward), of(Series::Matching));
        let [f, m] = [forward, matching].map(|row| row.simulated.response.mean);
        assert!((m - f).abs() < 0.005 * f, "{f} ns and {m} ns");
        assert!((matching.simulated.segments() - forward.simulated.segments()).abs() < 0.5);
    }

    #[test]
    fn a_right_guess_is_as_fast_as_forwarding_and_a_wrong_one_costs_a_server_round_trip() {
        let figures = measure(&small(), |_| {}).unwrap();
        let [forward, hits, delayed, misses] = responses(&figures);
        let rtt = figures.options.server_rtt as f64;
        assert!((hits - forward).abs() < 0.005 * forward, "{forward} ns and {hits} ns");
        assert!(hits <= delayed + 5_000.0, "{hits} ns and {delayed} ns");
        assert!((0.95 * rtt..1.1 * rtt).contains(&(misses - delayed)), "{delayed} ns and {misses} ns");
        let of = |series| &figures.row(series, figures.options.base()).unwrap().simulated;
        let (hits, misses) = (of(Series::Preallocate(100)), of(Series::Preallocate(0)));
        // A right guess has nothing held and no segment made; a wrong one has a handshake more.
        assert_eq!((hits.buffered_at_most, hits.segments()), (0, of(Series::Forward).segments()));
        assert!(misses.segments() > of(Series::Delayed).segments() && misses.buffered_at_most > 0);
        let half = of(Series::Preallocate(50)).response.mean;
        let between = (hits.response.mean + misses.response.mean) / 2.0;
        assert!((half - between).abs() < 0.01 * between, "{half} ns of {between} ns");
    }

    #[test]
    fn a_pooled_connection_saves_a_server_round_trip_and_its_handshake() {
        let figures = measure(&small(), |_| {}).unwrap();
        let of = |series| &figures.row(series, figures.options.base()).unwrap().simulated;
        let (pooled, delayed) = (of(Series::Pooled), of(Series::Delayed));
        let rtt = figures.options.server_rtt as f64;
        let saved = delayed.response.mean - pooled.response.mean;
        assert!((0.95 * rtt..1.1 * rtt).contains(&saved), "{saved} ns of {rtt} ns");
    }

    #[test]
    fn what_is_out_of_range_is_refused_with_the_range() {
        let wrong = Options { rtt: 1_000, ..small() };
        let said = measure(&wrong, |_| {}).unwrap_err().to_string();
        assert_eq!(said, "--rtt is 0.001ms; it must be between 0.02ms and 10000ms");
        let said = measure(&Options { sizes: vec![], ..small() }, |_| {}).unwrap_err().to_string();
        assert!(said.contains("--size") && said.contains("at least one"), "{said}");
    }

    #[test]
    fn dimensions_meet_at_the_base_and_no_cell_is_run_twice() {
        let cells = Options::default().cells();
        let all: std::collections::BTreeSet<_> = cells.iter().collect();
        assert_eq!(all.len(), cells.len());
        // Five sizes, three more numbers of rules, two more of requests, seven series each; three more hit rates.
        assert_eq!(cells.len(), (5 + 3 + 2) * 7 + 3);
        assert_eq!(Options { sizes: vec![7], ..Options::default() }.base().size, 7);
    }
}
