//! `lcs perf schemes`: what each way of binding a connection to a server costs, side by side.
//!
//! The question (tutorial, slide 55): what is gained by guessing the server at the SYN, against waiting for the request? The same
//! clients ask the same documents of the same servers, once for each [`Series`]; all of them in turns, over several rounds.
//!
//! On the memory port links are modelled: times are simulated and the same for the same seed; cycles are the worker's own, of the
//! real processor, and are not. On AF_XDP both ends are kernels, in namespaces, and everything is real. What is seen of either stands in
//! [`Row::seen`], what the processor had to do in [`Row::cycles`] and [`Row::cpu`].

mod cell;
pub mod html;
mod load;
pub mod plot;
mod read;
mod real;
mod report;
mod seen;
mod series;
mod verdicts;

pub use read::{read_loss, read_size, read_time};
pub use report::{BreakEven, Figures, Pays, StageCycles};
pub use seen::{CpuTime, Seen, Spread};
pub use series::Series;
pub use verdicts::Verdict;

use crate::bed::CoresError;
use crate::demo::interrupt::{Interrupt, Interrupted};
use crate::demo::root;
use crate::network::{MICROSECOND, MILLISECOND};
use crate::range::OutOfRange;
use crate::stages::{self, StagesError};
use crate::summary::Summary;
use lcs_dataplane::cycles::tsc_hz;
use lcs_dataplane::worker::Nanos;
use lcs_pipelines::snapshot::Forward;
use seen::Taken;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where the director stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Port {
    /// Between simulated hosts, in this process's memory.
    #[default]
    Memory,
    /// Between kernels, in network namespaces, on AF_XDP.
    AfXdp,
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

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B, {} rules, {} requests", self.size, self.rules, self.keepalive)
    }
}

/// What to measure. Of sizes, rules and requests, each is varied while the others stand at [`Options::base`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Where the director stands.
    #[serde(default)]
    pub port: Port,
    /// Bytes of documents.
    pub sizes: Vec<usize>,
    /// Right guesses of a hundred connections.
    pub hit_rates: Vec<u8>,
    /// Numbers of rules.
    pub rules: Vec<usize>,
    /// Requests of a connection.
    pub keepalives: Vec<usize>,
    /// Between client and director, there and back, ns; 0 over real kernels, whose links take the time that they take.
    pub rtt: Nanos,
    /// Between director and server, there and back, ns; 0 over real kernels.
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
    /// Over real kernels: the director's core; the last one where none is named.
    #[serde(default)]
    pub core: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            port: Port::Memory,
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
            core: None,
        }
    }
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum SchemesError {
    /// A number out of its range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
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
    /// Over real kernels: a link's delay or loss, which is not ours to set.
    #[error(
        "{0} is for the modelled links of --port memory: over --port af_xdp the links are the kernel's own, and take the time that they take"
    )]
    Modelled(&'static str),
    /// On the memory port: what is of real kernels' beds.
    #[error("{0} is for --port af_xdp: on the memory port the director runs in this thread, which `taskset -c N` pins")]
    OverKernels(&'static str),
    /// Not root.
    #[error("network namespaces, AF_XDP and pinned kernel threads need root: `sudo lcs perf schemes --port af_xdp`")]
    NotRoot,
    /// It was asked to end before every series had been measured once.
    #[error("{0} before every series had been measured once: there are no figures")]
    Interrupted(#[from] Interrupted),
    /// Over real kernels: cores.
    #[error(transparent)]
    Cores(#[from] CoresError),
    /// Over real kernels: the network, a server, the director or a filter.
    #[error(transparent)]
    Real(root::Error),
    /// Established connections could not be measured.
    #[error("established connections: {0}")]
    Established(#[from] StagesError),
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
    /// Seen and counted. On the memory port the same for the same seed.
    pub seen: Seen,
    /// What it cost the processor: not the same twice.
    pub cycles: Cycles,
    /// Over real kernels: the median response time of each round, ns.
    pub response_by_round: Option<Summary>,
    /// Over real kernels: time of the director's core.
    pub cpu: Option<CpuTime>,
}

/// TSC cycles of the director's worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cycles {
    /// All busy turns of its loop, a connection.
    pub per_connection: Summary,
    /// The same, a request.
    pub per_request: Summary,
    /// On the memory port: response times with the director's work in them, ns: the simulated mean and, on top, the time of these cycles,
    /// which the simulated director takes none for; a bound from above, as the work for the connection's end is in it.
    pub response_with_work: Option<Summary>,
    /// A connection's by stage, in the packet's order.
    pub stages: Vec<StageCycles>,
}

impl Row {
    /// Response times with the director's work in them, ns: [`Row::response_by_round`] or [`Cycles::response_with_work`].
    pub(crate) fn timed(&self) -> Summary {
        let time = self.response_by_round.or(self.cycles.response_with_work);
        time.unwrap_or_else(|| Summary::of(vec![self.seen.response.mean]))
    }
}

impl Options {
    /// The same over real kernels, whose links have no delay and loss of ours.
    #[must_use]
    pub fn over_kernels(self) -> Self {
        Options { port: Port::AfXdp, rtt: 0, server_rtt: 0, loss: 0.0, server_loss: 0.0, ..self }
    }

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
        let rates = self.hit_rates.iter().copied();
        cells.extend(rates.clone().map(|percent| (Series::Preallocate(percent), base)));
        cells.extend(rates.map(|percent| (Series::PreallocateDirect(percent), base)));
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
                    Err(OutOfRange { what, given, least, most }.into())
                }
            }
        }
        let ms = |n: &Nanos| format!("{}ms", *n as f64 / MILLISECOND as f64);
        range("--size", &self.sizes, 1, 10_000_000, ToString::to_string)?;
        range("--hit-rate", &self.hit_rates, 0, 100, ToString::to_string)?;
        range("--rules", &self.rules, 1, 10_000, ToString::to_string)?;
        range("--keepalive", &self.keepalives, 1, 1_000, ToString::to_string)?;
        if self.port == Port::AfXdp {
            let set = [("--rtt", self.rtt > 0), ("--server-rtt", self.server_rtt > 0)];
            let set = set.into_iter().chain([("--loss", self.loss != 0.0), ("--server-loss", self.server_loss != 0.0)]);
            if let Some((what, _)) = set.into_iter().find(|(_, set)| *set) {
                return Err(SchemesError::Modelled(what));
            }
        } else {
            if self.core.is_some() {
                return Err(SchemesError::OverKernels("--core"));
            }
            // Below this, the modelled links inside each site alone take longer.
            range("--rtt", &[self.rtt], cell::SHORTEST, 10_000 * MILLISECOND, ms)?;
            range("--server-rtt", &[self.server_rtt], cell::SHORTEST, 10_000 * MILLISECOND, ms)?;
        }
        range("--loss", &[self.loss], 0.0, 0.3, ToString::to_string)?;
        range("--server-loss", &[self.server_loss], 0.0, 0.3, ToString::to_string)?;
        range("--connections", &[self.connections], 1, 100_000, ToString::to_string)?;
        range("--clients", &[self.clients], 1, 100, ToString::to_string)?;
        range("--rounds", &[self.rounds], 1, 1_000, ToString::to_string)
    }
}

/// What the rounds have taken, by cell, and of the whole.
struct Measured {
    /// By cell, a round each; none of a cell that could not be measured.
    taken: Vec<Vec<Taken>>,
    /// Cells that could not be measured, and why.
    unmeasured: Vec<String>,
    /// Between director and server, there and back, ns.
    server_rtt: f64,
    notes: Vec<String>,
}

impl Measured {
    /// Rounds that are whole, at most so many; where that is fewer than wanted it was interrupted, and says so.
    fn cut(taken: &mut [Vec<Taken>], wanted: usize, notes: &mut Vec<String>) -> Result<(), SchemesError> {
        // What could not be measured has none, and is not waited for.
        let whole = taken.iter().map(Vec::len).filter(|n| *n > 0).min().unwrap_or(0);
        if whole == 0 {
            return Err(Interrupted.into());
        }
        taken.iter_mut().for_each(|rounds| rounds.truncate(whole));
        if whole < wanted {
            notes.push(format!("Interrupted: figures are of {whole} of {wanted} rounds."));
        }
        Ok(())
    }
}

/// Measures. `progress` is told what is being done.
///
/// # Errors
/// As [`measure_until`].
pub fn measure(options: &Options, progress: impl FnMut(&str)) -> Result<Figures, SchemesError> {
    measure_until(options, &Interrupt::default(), progress)
}

/// Measures until it is asked to end; the figures are of the rounds that are whole by then. `progress` is told what is being done. Over
/// real kernels a series that fails at a point is left out, and stands in [`Figures::unmeasured`].
///
/// # Errors
/// Options out of range, connections that were not answered as they should be; over real kernels whatever keeps their network from being
/// built.
pub fn measure_until(
    options: &Options,
    interrupt: &Interrupt,
    mut progress: impl FnMut(&str),
) -> Result<Figures, SchemesError> {
    options.check()?;
    let hz = tsc_hz();
    // First, as nothing is lost then if it cannot be.
    progress("established connections, guessed rightly and plainly forwarded");
    let established = [Forward::Nat, Forward::Dr].map(|forward| {
        // A second or two in all, however much of the rest was asked for. Rounds are many and short, so that whoever else wants the
        // core spoils few of them.
        let (flows, rounds) = ((50 * options.connections).clamp(500, 10_000), (20 * options.rounds).min(400));
        let o = stages::Options { forward, flows, packets: 5_000, rounds, ..stages::Options::default() };
        stages::against_forwarding(&o)
    });
    let established = established.into_iter().collect::<Result<Vec<_>, _>>()?;
    let cells = options.cells();
    let measured = match options.port {
        Port::Memory => simulate(options, &cells, interrupt, &mut progress)?,
        Port::AfXdp => real::measure(options, &cells, interrupt, &mut progress)?,
    };
    let rows = cells.iter().zip(measured.taken).filter(|(_, taken)| !taken.is_empty());
    let rows =
        rows.map(|(&(series, point), taken)| row(options, series, point, taken, hz)).collect::<Result<Vec<_>, _>>()?;
    let mut figures = Figures::new(options.clone(), hz, rows, established, (measured.server_rtt, measured.notes));
    figures.notes.extend(measured.unmeasured.iter().map(|what| format!("Not measured: {what}.")));
    figures.unmeasured = measured.unmeasured;
    Ok(figures)
}

fn saying(what: &str, at: usize, cells: &[(Series, Point)]) -> String {
    let (series, Point { size, rules, keepalive }) = cells[at];
    format!("{what}, {} of {}: {series}, {size} B, {rules} rules, {keepalive} requests", at + 1, cells.len())
}

/// On the memory port.
fn simulate(
    options: &Options,
    cells: &[(Series, Point)],
    interrupt: &Interrupt,
    progress: &mut dyn FnMut(&str),
) -> Result<Measured, SchemesError> {
    let mut taken: Vec<Vec<Taken>> = cells.iter().map(|_| vec![]).collect();
    // The first round is simulated like the others, but its cycles are those of a cold start.
    'rounds: for round in 0..=options.rounds {
        for (at, ((series, point), taken)) in cells.iter().zip(&mut taken).enumerate() {
            if interrupt.is_set() {
                break 'rounds;
            }
            let what =
                if round == 0 { "warming up".to_owned() } else { format!("round {round} of {}", options.rounds) };
            progress(&saying(&what, at, cells));
            taken.push(cell::run(options, *series, *point)?);
        }
    }
    for ((series, _), taken) in cells.iter().zip(&mut taken) {
        if taken.windows(2).any(|two| two[0].seen != two[1].seen) {
            return Err(SchemesError::Unrepeatable(*series));
        }
        if !taken.is_empty() {
            taken.remove(0);
        }
    }
    let mut notes: Vec<String> = taken.iter().flatten().filter_map(|taken| taken.note.clone()).collect();
    notes.sort();
    notes.dedup();
    if taken.iter().any(Vec::is_empty) {
        return Err(Interrupted.into());
    }
    Measured::cut(&mut taken, options.rounds, &mut notes)?;
    Ok(Measured { taken, unmeasured: vec![], server_rtt: options.server_rtt as f64, notes })
}

/// What a cell's rounds come to.
fn row(options: &Options, series: Series, point: Point, taken: Vec<Taken>, tsc_hz: u64) -> Result<Row, SchemesError> {
    let Some(first) = taken.first() else { return Err(SchemesError::Empty("--rounds")) };
    let real = options.port == Port::AfXdp;
    let seen = if real { Seen::merge(&taken) } else { first.seen.clone() };
    let each = |cycles: u64, round: &Taken| cycles as f64 / round.seen.connections.max(1) as f64;
    let whole: Vec<f64> = taken.iter().map(|round| each(round.cycles, round)).collect();
    let response = |(round, cycles): (&Taken, &f64)| {
        if real { round.seen.response.p50 as f64 } else { seen.response.mean + cycles * 1e9 / tsc_hz as f64 }
    };
    let timed = Some(Summary::of(taken.iter().zip(&whole).map(response).collect()));
    let (response_by_round, response_with_work) = if real { (timed, None) } else { (None, timed) };
    let stage = |at: usize| {
        let of = |round: &Taken| round.stages.get(at).map_or(0.0, |(_, cycles)| each(*cycles, round));
        Summary::of(taken.iter().map(of).collect())
    };
    let stages = first.stages.iter().enumerate();
    let stages = stages.map(|(at, (name, _))| StageCycles { name: name.clone(), per_connection: stage(at) }).collect();
    let cpu: Vec<[f64; 2]> = taken.iter().filter_map(|round| round.cpu).collect();
    let cpu = (!cpu.is_empty()).then(|| {
        let [process_us, kernel_us] = [0, 1].map(|at| Summary::of(cpu.iter().map(|both| both[at]).collect()));
        CpuTime { process_us, kernel_us }
    });
    let per_connection = Summary::of(whole);
    let per_request = per_connection.scaled(1.0 / point.keepalive as f64);
    let cycles = Cycles { per_connection, per_request, response_with_work, stages };
    Ok(Row { series, point, seen, cycles, response_by_round, cpu })
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

    fn simulated(options: &Options) -> Vec<(Series, Point, Seen)> {
        let figures = measure(options, |_| {}).unwrap();
        figures.rows.into_iter().map(|r| (r.series, r.point, r.seen)).collect()
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
            .map(|s| figures.row(s, figures.options.base()).unwrap().seen.response.mean)
    }

    #[test]
    fn delayed_binding_moves_the_server_handshake_and_adds_no_round_trip() {
        let figures = measure(&small(), |_| {}).unwrap();
        let [forward, _, delayed, _] = responses(&figures);
        assert!((delayed - forward).abs() < 10_000.0, "{forward} ns and {delayed} ns");
        // Two round trips, to the server and back.
        assert!(forward > 2.0 * (figures.options.rtt + figures.options.server_rtt) as f64);
        let of = |series| &figures.row(series, figures.options.base()).unwrap().seen;
        let (forward, delayed) = (of(Series::Forward), of(Series::Delayed));
        assert!(delayed.buffered_at_most > Some(0) && forward.buffered_at_most == Some(0));
        assert!(delayed.segments() <= forward.segments(), "its request is acknowledged by its server");
    }

    #[test]
    fn filters_take_the_replies_off_the_director() {
        let figures = measure(&small(), |_| {}).unwrap();
        let point = Point { size: 20_000, ..figures.options.base() };
        let of = |series| &figures.row(series, point).unwrap().seen;
        let (forward, filter) = (of(Series::Forward), of(Series::Filter));
        // A reply passes the forwarding director twice: in and out.
        assert!(forward.bytes_per_request > 2.0 * 20_000.0, "{forward:?}");
        assert!(filter.bytes_per_request < 10_000.0, "{filter:?}");
        assert_eq!((filter.failed, filter.requests), (0, forward.requests));
    }

    /// Over direct routing a right guess leaves the server to its client; of a wrong one the response passes the director.
    #[test]
    fn a_right_guess_over_direct_routing_answers_its_client_directly() {
        // As many clients as by default: each has a server that knows it, wherever the longer way is; and as many as there may be.
        let near = Options { rtt: 100 * MICROSECOND, server_rtt: MILLISECOND, ..small() };
        for (clients, options) in [(16, small()), (16, near.clone()), (100, near)] {
            answered_directly(&Options { connections: 2 * clients, clients, ..options });
        }
    }

    fn answered_directly(options: &Options) {
        let figures = measure(options, |_| {}).unwrap();
        let point = Point { size: 20_000, ..figures.options.base() };
        let of = |series| &figures.row(series, point).unwrap().seen;
        let (forward, hits, misses) =
            (of(Series::ForwardDirect), of(Series::PreallocateDirect(100)), of(Series::PreallocateDirect(0)));
        assert_eq!((forward.to_clients_per_request, hits.to_clients_per_request), (0.0, 0.0));
        assert!(misses.to_clients_per_request > 20_000.0, "{misses:?}");
        assert_eq!([forward.strays, hits.strays, misses.strays], [0, 0, 0]);
        // A hit has no segment that forwarding has not (its handshake's acknowledgement goes with the request); over NAT the
        // response would come twice.
        assert!((0.0..1.5).contains(&(forward.segments() - hits.segments())), "{forward:?}, {hits:?}");
        assert!(hits.bytes_per_request < 0.1 * of(Series::Preallocate(100)).bytes_per_request, "{hits:?}");
        assert!((hits.response.mean - forward.response.mean).abs() < 0.005 * forward.response.mean);
    }

    #[test]
    fn an_interrupted_run_has_the_rounds_that_were_whole() {
        let options = Options { sizes: vec![1_000], keepalives: vec![1], rounds: 3, ..small() };
        let until = |last: &'static str| {
            let interrupt = Interrupt::default();
            let end = interrupt.clone();
            measure_until(&options, &interrupt, move |doing| {
                if doing.starts_with(last) {
                    end.set();
                }
            })
        };
        let figures = until("round 3 of 3, 2 of").unwrap();
        assert!(figures.notes.iter().any(|n| n.contains("2 of 3 rounds")), "{:?}", figures.notes);
        assert!(figures.rows.iter().all(|row| row.cycles.per_connection.rounds == 2));
        let said = until("round 1 of 3, 2 of").unwrap_err().to_string();
        assert!(said.starts_with("interrupted before"), "{said}");
    }

    #[test]
    fn what_is_the_kernels_own_is_not_set() {
        let real = small().over_kernels();
        real.check().unwrap();
        for (wrong, named) in [
            (Options { rtt: 5, ..real.clone() }, "--rtt"),
            (Options { server_rtt: 5, ..real.clone() }, "--server-rtt"),
            (Options { loss: 0.1, ..real.clone() }, "--loss"),
            (Options { server_loss: f64::NAN, ..real.clone() }, "--server-loss"),
        ] {
            let said = measure(&wrong, |_| {}).unwrap_err().to_string();
            assert!(said.starts_with(named) && said.contains("--port memory"), "{said}");
        }
    }

    #[test]
    fn inserted_rules_change_neither_the_binding_nor_a_round_trip() {
        let figures = measure(&small(), |_| {}).unwrap();
        let of = |series| figures.row(series, figures.options.base()).unwrap();
        let (forward, matching) = (of(Series::Forward), of(Series::Matching));
        let [f, m] = [forward, matching].map(|row| row.seen.response.mean);
        assert!((m - f).abs() < 0.005 * f, "{f} ns and {m} ns");
        assert!((matching.seen.segments() - forward.seen.segments()).abs() < 0.5);
    }

    #[test]
    fn a_right_guess_is_as_fast_as_forwarding_and_a_wrong_one_costs_a_server_round_trip() {
        let figures = measure(&small(), |_| {}).unwrap();
        let [forward, hits, delayed, misses] = responses(&figures);
        let rtt = figures.options.server_rtt as f64;
        assert!((hits - forward).abs() < 0.005 * forward, "{forward} ns and {hits} ns");
        assert!(hits <= delayed + 5_000.0, "{hits} ns and {delayed} ns");
        assert!((0.95 * rtt..1.1 * rtt).contains(&(misses - delayed)), "{delayed} ns and {misses} ns");
        let of = |series| &figures.row(series, figures.options.base()).unwrap().seen;
        let (hits, misses) = (of(Series::Preallocate(100)), of(Series::Preallocate(0)));
        // A right guess has nothing held and no segment made; a wrong one has a handshake more.
        assert_eq!((hits.buffered_at_most, hits.segments()), (Some(0), of(Series::Forward).segments()));
        assert!(misses.segments() > of(Series::Delayed).segments() && misses.buffered_at_most > Some(0));
        let half = of(Series::Preallocate(50)).response.mean;
        let between = (hits.response.mean + misses.response.mean) / 2.0;
        assert!((half - between).abs() < 0.01 * between, "{half} ns of {between} ns");
    }

    #[test]
    fn a_pooled_connection_saves_a_server_round_trip_and_its_handshake() {
        let figures = measure(&small(), |_| {}).unwrap();
        let of = |series| &figures.row(series, figures.options.base()).unwrap().seen;
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
        // Five sizes, three more numbers of rules, two more of requests, ten series each; three more hit rates, both ways.
        assert_eq!(cells.len(), (5 + 3 + 2) * 10 + 2 * 3);
        assert_eq!(Options { sizes: vec![7], ..Options::default() }.base().size, 7);
    }
}
