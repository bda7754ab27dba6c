//! The figures, as a table and for programs.

use std::collections::BTreeMap;
use std::fmt;

use lcs_control::protocol::WorkerStats;
use serde::{Deserialize, Serialize};

use super::traffic::client::Outcome;
use super::{Mode, Options, Peer, Subject, Workload};
use crate::bed::cpu::Used;
use crate::summary::Summary;

/// Share of the core that may be busy with nothing of ours before a round: with more, its core time says nothing.
const QUIET: f64 = 0.1;

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// With what.
    pub options: Options,
    /// The director's core.
    pub core: usize,
    /// Workload by workload.
    pub cells: Vec<Cell>,
    /// Who was not measured.
    pub skipped: Vec<Skipped>,
    /// What was not as it should be.
    pub notes: Vec<String>,
    /// Whether it was ended before it was through.
    pub interrupted: bool,
}

/// Who was not measured, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Who.
    pub peer: Peer,
    /// In which workload; none for all.
    pub workload: Option<Workload>,
    /// A sentence.
    pub why: String,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// What rules are about.
    pub workload: Workload,
    /// What connections are used for.
    pub mode: Mode,
    /// Bytes of a request's body.
    pub body: usize,
    /// The subjects.
    pub rows: Vec<Row>,
}

/// A subject, over all rounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Who.
    pub subject: Subject,
    /// Right answers a second.
    pub requests_per_second: Summary,
    /// Median latency, µs.
    pub p50: Summary,
    /// Latency that one of a hundred answers exceeds, µs.
    pub p99: Summary,
    /// µs of the director's core for a request: all of its time that is not idle, less the baseline. Of the rounds before
    /// which the core was quiet; none where there was no such round.
    pub core_us: Option<Summary>,
    /// µs for a request that the scheduler charged to the subject's threads.
    pub process_us: Summary,
    /// µs for a request charged to the kernel's receiving threads on that core.
    pub kernel_us: Summary,
    /// Share of the core that was busy with nothing of ours before each round.
    pub baseline: Summary,
    /// `core_us` against nftables' of the same round.
    pub against_dnat: Option<Summary>,
    /// `core_us` against that of HAProxy's cheapest variant in the same round.
    pub against_haproxy: Option<Summary>,
    /// `process_us` and `kernel_us` together against those of HAProxy's cheapest variant in the same round; none for what has
    /// no process.
    pub threads_against_haproxy: Option<Summary>,
    /// What our director says of itself.
    pub own: Option<Own>,
    /// What went wrong, and how often, all rounds together.
    pub errors: BTreeMap<String, u64>,
}

/// What our director says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Own {
    /// µs for a request from reception to transmission, port included; the rest of its time it looked for frames or slept.
    pub pipeline_us: Summary,
    /// The same of the stages alone, without receiving and sending.
    pub stages_us: Summary,
    /// Frames received for a request.
    pub frames: Summary,
    /// Frames of a turn with any.
    pub burst: Summary,
    /// Turns without a frame for a request.
    pub empty_turns: Summary,
    /// Frames dropped by reason, all rounds together.
    pub drops: BTreeMap<String, u64>,
}

/// A subject in one round.
#[derive(Debug, Clone, PartialEq)]
pub struct Slot {
    requests_per_second: f64,
    p50: f64,
    p99: f64,
    core_us: Option<f64>,
    process_us: f64,
    kernel_us: f64,
    baseline: f64,
    own: Option<OwnSlot>,
    errors: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq)]
struct OwnSlot {
    pipeline_us: f64,
    stages_us: f64,
    frames: f64,
    burst: f64,
    empty_turns: f64,
    drops: BTreeMap<String, u64>,
}

impl Slot {
    pub(super) fn new(outcome: &Outcome, used: &Used, baseline: f64) -> Self {
        let each = |seconds: f64| seconds.max(0.0) * 1e6 / outcome.requests.max(1) as f64;
        let mut errors = outcome.errors.clone();
        if outcome.requests == 0 {
            *errors.entry("no right answer at all".into()).or_default() += 1;
        }
        Slot {
            requests_per_second: outcome.requests as f64 / outcome.window.as_secs_f64().max(1e-9),
            p50: outcome.percentile(0.5),
            p99: outcome.percentile(0.99),
            core_us: (baseline <= QUIET).then(|| each(used.busy - baseline * used.wall)),
            process_us: each(used.process),
            kernel_us: each(used.kernel),
            baseline,
            own: None,
            errors,
        }
    }

    /// Adds what our director counted between two moments in which `requests` were answered.
    pub(super) fn own(&mut self, before: &WorkerStats, after: &WorkerStats, hz: u64, requests: u64) {
        let each = |value: u64| value as f64 / requests.max(1) as f64;
        let us = |cycles: u64| each(cycles) * 1e6 / hz.max(1) as f64;
        let stages = |stats: &WorkerStats| -> u64 {
            let stages = stats.stages.iter().filter(|s| !matches!(s.name.as_str(), "receive" | "transmit"));
            stages.map(|stage| stage.cost.cycles).sum()
        };
        let turns = after.busy_turns.saturating_sub(before.busy_turns);
        let received = after.received.saturating_sub(before.received);
        let dropped =
            |stats: &WorkerStats, reason: &str| stats.drops.iter().find(|d| d.reason == reason).map_or(0, |d| d.frames);
        let drops = after.drops.iter().map(|d| (d.reason.clone(), d.frames - dropped(before, &d.reason).min(d.frames)));
        self.own = Some(OwnSlot {
            pipeline_us: us(after.cycles.saturating_sub(before.cycles)),
            stages_us: us(stages(after).saturating_sub(stages(before))),
            frames: each(received),
            burst: received as f64 / turns.max(1) as f64,
            empty_turns: each(after.idle_turns.saturating_sub(before.idle_turns)),
            drops: drops.filter(|(_, frames)| *frames > 0).collect(),
        });
    }
}

/// A subject and its rounds.
type Measured<'m> = (&'m Subject, &'m Vec<Option<Slot>>);

/// The rows of a cell. `slots[subject][round]` is none where the subject could not be measured.
pub(super) fn rows(
    subjects: &[Subject],
    slots: &[Vec<Option<Slot>>],
    failures: Vec<BTreeMap<String, u64>>,
) -> Vec<Row> {
    let of = |peer: Peer, round: usize, cost: fn(&Slot) -> Option<f64>| -> Option<f64> {
        let rows = subjects.iter().zip(slots).filter(|(subject, _)| subject.peer == peer);
        let costs = rows.filter_map(|(_, slots)| slots.get(round)?.as_ref()).filter_map(cost);
        costs.filter(|us| *us > 0.0).min_by(f64::total_cmp)
    };
    let row = |((subject, rounds), mut errors): (Measured<'_>, BTreeMap<String, u64>)| {
        let there: Vec<&Slot> = rounds.iter().flatten().collect();
        let all = |value: fn(&Slot) -> f64| Summary::of(there.iter().map(|slot| value(slot)).collect());
        let some = |values: Vec<f64>| (!values.is_empty()).then(|| Summary::of(values));
        let against = |peer: Peer, cost: fn(&Slot) -> Option<f64>| {
            let rounds = rounds.iter().enumerate();
            // A cost that drowned in what was busy before says nothing, on either side.
            let own = |slot: &Option<Slot>| cost(slot.as_ref()?).filter(|us| *us > 0.0);
            let ratios = rounds.filter_map(|(n, slot)| Some(own(slot)? / of(peer, n, cost)?));
            some(ratios.collect())
        };
        let core = |slot: &Slot| slot.core_us;
        let threads = |slot: &Slot| Some(slot.process_us + slot.kernel_us);
        for (what, times) in there.iter().flat_map(|slot| &slot.errors) {
            *errors.entry(what.clone()).or_default() += times;
        }
        let owns: Vec<&OwnSlot> = there.iter().filter_map(|slot| slot.own.as_ref()).collect();
        let own = |value: fn(&OwnSlot) -> f64| Summary::of(owns.iter().map(|slot| value(slot)).collect());
        let mut drops = BTreeMap::new();
        for (reason, frames) in owns.iter().flat_map(|slot| &slot.drops) {
            *drops.entry(reason.clone()).or_default() += frames;
        }
        Row {
            subject: *subject,
            requests_per_second: all(|s| s.requests_per_second),
            p50: all(|s| s.p50),
            p99: all(|s| s.p99),
            core_us: some(there.iter().filter_map(|slot| slot.core_us).collect()),
            process_us: all(|s| s.process_us),
            kernel_us: all(|s| s.kernel_us),
            baseline: all(|s| s.baseline),
            against_dnat: against(Peer::Nftables, core),
            against_haproxy: against(Peer::Haproxy, core),
            threads_against_haproxy: against(Peer::Haproxy, threads).filter(|_| subject.peer.reads()),
            own: (!owns.is_empty()).then(|| Own {
                pipeline_us: own(|s| s.pipeline_us),
                stages_us: own(|s| s.stages_us),
                frames: own(|s| s.frames),
                burst: own(|s| s.burst),
                empty_turns: own(|s| s.empty_turns),
                drops,
            }),
            errors,
        }
    };
    subjects.iter().zip(slots).zip(failures).map(row).collect()
}

impl Figures {
    /// Whether every answer of our director was right.
    pub fn ok(&self) -> bool {
        let ours = self.cells.iter().flat_map(|cell| &cell.rows).filter(|row| row.subject.peer == Peer::Ours);
        !self.interrupted && ours.into_iter().all(|row| row.errors.is_empty())
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { rounds, seconds, connections, size, .. } = &self.options;
        let offloads = if self.options.best_offloads { "each with its best" } else { "off for all" };
        writeln!(
            f,
            "{rounds} rounds of {seconds} s, subjects in turn; {connections} connections at once; responses of {size} B; \
             offloads {offloads}\n\
             core: µs of core {} for a request, all that is not idle there less what was busy before; with quartiles\n\
             proc, kern: the same as charged to the subject's own threads, and to the kernel's receiving threads\n\
             × DNAT, × HAProxy: core against nftables' and against HAProxy's cheapest, round by round; (threads): proc + kern",
            self.core
        )?;
        for cell in &self.cells {
            writeln!(f)?;
            write!(f, "{}", cell.workload.name())?;
            match cell.workload {
                Workload::Urls => write!(f, ": four rules about the URL")?,
                Workload::Rules => write!(f, ": {} rules about the path, the last ones match", self.options.rules)?,
                Workload::Xml => write!(f, ": one rule about a value at the end of a body of {} B", cell.body)?,
            }
            let mode = match cell.mode {
                Mode::KeepAlive => "keep-alive",
                Mode::Close => "a connection for each request (latency from its SYN)",
            };
            writeln!(f, "; {mode}")?;
            writeln!(
                f,
                "{:<15}{:>8}{:>18}{:>9}{:>9}{:>8}{:>16}{:>8}{:>7}{:>9}{:>11}{:>11}{:>8}",
                "",
                "req/s",
                "",
                "p50 µs",
                "p99 µs",
                "core",
                "",
                "proc",
                "kern",
                "× DNAT",
                "× HAProxy",
                "(threads)",
                "errors"
            )?;
            for row in &cell.rows {
                row.write(f)?;
            }
            for row in &cell.rows {
                row.write_below(f)?;
            }
        }
        if !self.skipped.is_empty() || !self.notes.is_empty() {
            writeln!(f)?;
        }
        for Skipped { peer, workload, why } in &self.skipped {
            match workload {
                Some(workload) => writeln!(f, "skipped: {} in {}: {why}", peer.name(), workload.name())?,
                None => writeln!(f, "skipped: {}: {why}", peer.name())?,
            }
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))?;
        let busy = Summary::of(self.cells.iter().flat_map(|c| &c.rows).map(|row| row.baseline.median).collect());
        if busy.max > QUIET {
            writeln!(
                f,
                "note: core {} was busy with others' work, {:.0} % of its time in the median and up to {:.0} %: rounds before \
                 which it was busy more than {:.0} % don't count for core times",
                self.core,
                busy.median * 100.0,
                busy.max * 100.0,
                QUIET * 100.0
            )?;
        }
        if self.interrupted {
            writeln!(f, "interrupted: these are the rounds until then")?;
        }
        Ok(())
    }
}

impl Row {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spread =
            |s: &Summary, digits: usize| format!("{:.*} – {:.*}", digits, s.quartiles.0, digits, s.quartiles.1);
        let ratio = |s: &Option<Summary>| s.map_or("–".to_owned(), |s| format!("{:.2}", s.median));
        // The kernel's own ways have no process.
        let process = if self.subject.peer.reads() { format!("{:.1}", self.process_us.median) } else { "–".into() };
        writeln!(
            f,
            "{:<15}{:>8.0}{:>18}{:>9.0}{:>9.0}{:>8}{:>16}{:>8}{:>7.1}{:>9}{:>11}{:>11}{:>8}",
            self.subject.to_string(),
            self.requests_per_second.median,
            spread(&self.requests_per_second, 0),
            self.p50.median,
            self.p99.median,
            self.core_us.map_or("–".to_owned(), |s| format!("{:.1}", s.median)),
            self.core_us.map_or(String::new(), |s| spread(&s, 1)),
            process,
            self.kernel_us.median,
            ratio(&self.against_dnat),
            ratio(&self.against_haproxy),
            ratio(&self.threads_against_haproxy),
            self.errors.values().sum::<u64>(),
        )
    }

    fn write_below(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(own) = &self.own {
            writeln!(
                f,
                "  {}: {:.1} frames a request; {:.2} µs from reception to transmission, {:.2} of them in stages; \
                 {:.1} frames a turn, {:.0} empty turns a request",
                self.subject,
                own.frames.median,
                own.pipeline_us.median,
                own.stages_us.median,
                own.burst.median,
                own.empty_turns.median
            )?;
            for (reason, frames) in &own.drops {
                writeln!(f, "  {}: {frames} frames dropped: {reason}", self.subject)?;
            }
        }
        self.errors.iter().try_for_each(|(what, times)| writeln!(f, "  {}: {times} × {what}", self.subject))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Variant;
    use super::*;
    use std::time::Duration;

    fn slot(requests: u64, busy: f64, errors: u64) -> Slot {
        noisy_slot(requests, busy, errors, 0.1)
    }

    fn noisy_slot(requests: u64, busy: f64, errors: u64, baseline: f64) -> Slot {
        let outcome = Outcome {
            requests,
            window: Duration::from_secs(2),
            latencies: vec![1000, 2000, 3000],
            total: requests,
            errors: if errors > 0 { [("closed".to_owned(), errors)].into() } else { BTreeMap::new() },
        };
        Slot::new(&outcome, &Used { wall: 2.0, busy, process: 0.5, ..Used::default() }, baseline)
    }

    fn subject(peer: Peer, variant: Variant) -> Subject {
        Subject { peer, variant }
    }

    fn figures() -> Figures {
        let subjects = [
            subject(Peer::Ours, Variant::Plain),
            subject(Peer::Nftables, Variant::Plain),
            subject(Peer::Haproxy, Variant::Plain),
            subject(Peer::Haproxy, Variant::Map),
        ];
        let slots = [
            vec![Some(slot(100_000, 0.6, 0)), Some(slot(100_000, 0.8, 0))],
            vec![Some(slot(100_000, 0.4, 0)), None],
            vec![Some(slot(10_000, 2.0, 3)), Some(slot(10_000, 2.0, 4))],
            vec![Some(slot(50_000, 1.2, 0)), Some(slot(50_000, 1.2, 0))],
        ];
        let rows = rows(&subjects, &slots, vec![BTreeMap::new(); 4]);
        let cell = Cell { workload: Workload::Rules, mode: Mode::KeepAlive, body: 0, rows };
        let why = "this kernel has no IPVS".to_owned();
        let skipped = vec![Skipped { peer: Peer::Ipvs, workload: None, why }];
        Figures { options: Options::default(), core: 1, cells: vec![cell], skipped, notes: vec![], interrupted: false }
    }

    #[test]
    fn the_baseline_is_taken_off_and_a_round_is_compared_with_itself() {
        let figures = figures();
        let [ours, nft, haproxy, map] = figures.cells[0].rows.as_slice() else { panic!() };
        let core = ours.core_us.unwrap();
        assert!((core.min - 4.0).abs() < 1e-9 && (core.max - 6.0).abs() < 1e-9, "{ours:?}");
        assert_eq!(ours.requests_per_second.median, 50_000.0);
        // Only the first round has both.
        let dnat = ours.against_dnat.unwrap();
        assert_eq!((dnat.rounds, (dnat.median - 2.0).abs() < 1e-9), (1, true));
        // The cheapest HAProxy is the map: 20 µs.
        assert!((ours.against_haproxy.unwrap().min - 0.2).abs() < 1e-9);
        assert!((haproxy.against_haproxy.unwrap().median - 9.0).abs() < 1e-9);
        assert_eq!((map.against_haproxy.unwrap().median, nft.core_us.unwrap().rounds), (1.0, 1));
        assert_eq!(haproxy.errors["closed"], 7);
        assert!(figures.ok());
    }

    #[test]
    fn the_table_hides_nothing() {
        let mut figures = figures();
        let text = figures.to_string();
        for part in ["haproxy, map", "7 × closed", "skipped: ipvs: this kernel", "1000 rules"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        figures.cells[0].rows[0].errors.insert("closed".into(), 1);
        assert!(!figures.ok());
        // Numbers may differ in the last bit.
        let read: Figures = serde_json::from_str(&serde_json::to_string(&figures).unwrap()).unwrap();
        let rows = |figures: &Figures| -> Vec<_> {
            figures.cells[0].rows.iter().map(|row| (row.subject, row.errors.clone())).collect()
        };
        assert_eq!((rows(&read), &read.skipped), (rows(&figures), &figures.skipped));
    }

    #[test]
    fn no_answer_is_an_error_and_no_division_by_zero() {
        let slot = slot(0, 1.0, 0);
        assert_eq!(slot.errors.len(), 1);
        assert!(slot.core_us.unwrap().is_finite());
    }

    #[test]
    fn a_round_on_a_busy_core_counts_for_everything_but_core_time() {
        let subjects = [subject(Peer::Ours, Variant::Plain), subject(Peer::Haproxy, Variant::Plain)];
        let busy = || vec![Some(noisy_slot(100_000, 2.0, 0, 0.6))];
        let rows = rows(&subjects, &[busy(), busy()], vec![BTreeMap::new(); 2]);
        assert_eq!((rows[0].core_us, rows[0].against_haproxy), (None, None));
        assert_eq!(rows[0].threads_against_haproxy.unwrap().median, 1.0);
        let cell = Cell { workload: Workload::Urls, mode: Mode::Close, body: 0, rows };
        let text = Figures { cells: vec![cell], ..figures() }.to_string();
        assert!(text.contains("busy with others' work, 60 %"), "{text}");
    }
}
