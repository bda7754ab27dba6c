//! The figures: what the rows say of guessing, as a table and for programs.

use super::{Options, Point, Port, Row, Series, Verdict, verdicts};
use crate::network::MILLISECOND;
use crate::stages::Against;
use crate::summary::Summary;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Cycles of one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageCycles {
    /// Its name.
    pub name: String,
    /// TSC cycles a connection.
    pub per_connection: Summary,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// With what.
    pub options: Options,
    /// Where the dimensions meet.
    pub base: Point,
    /// TSC cycles a second.
    pub tsc_hz: u64,
    /// Series by series, point by point.
    pub rows: Vec<Row>,
    /// From which hit rate on preallocation pays against delayed binding, at the base.
    pub break_even: BreakEven,
    /// Between director and server, there and back, ns: as modelled, or over real kernels what a TCP handshake took.
    pub server_rtt: f64,
    /// Established connections of right guesses against forwarded ones, over NAT and direct routing; always over the memory port.
    pub established: Vec<Against>,
    /// What the schemes were to reach, and whether they did.
    pub verdicts: Vec<Verdict>,
    /// What stands out, in sentences.
    pub notes: Vec<String>,
    /// Over real kernels: what could not be measured, and why.
    #[serde(default)]
    pub unmeasured: Vec<String>,
}

/// From which hit rate on preallocation pays.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BreakEven {
    /// By the mean response time: on the memory port the one that the network alone makes.
    pub response_time: Pays,
    /// By [`super::Cycles::response_with_work`]; on the memory port.
    pub response_with_work: Option<Pays>,
    /// By [`Row::response_by_round`]; over real kernels.
    pub response_by_round: Option<Pays>,
    /// By the director's cycles; real.
    pub cycles: Pays,
}

/// At which hit rates preallocation costs less than delayed binding.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pays {
    /// At every one that was measured.
    Always,
    /// At none.
    Never,
    /// From this one on, percent; on the straight line between the two that were measured beside it.
    From(f64),
    /// It can't be told: of connections on either side some failed, or were bound otherwise than their series says.
    Untold,
}

impl fmt::Display for Pays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pays::Always => f.write_str("at every hit rate measured"),
            Pays::Never => f.write_str("at no hit rate measured"),
            Pays::Untold => f.write_str(
                "at a hit rate that this run can't tell: not all of its connections were measured, and bound as they should be",
            ),
            Pays::From(percent) => write!(f, "from {percent:.1} % hits on"),
        }
    }
}

impl Pays {
    /// Where a curve over hit rates, ascending, comes below a level for good.
    fn find(curve: &[(f64, f64)], level: f64) -> Pays {
        let Some(last) = curve.last().filter(|last| last.1 < level) else { return Pays::Never };
        let Some(at) = curve.iter().rposition(|p| p.1 >= level) else { return Pays::Always };
        let (before, after) = (curve[at], curve.get(at + 1).unwrap_or(last));
        let share = (before.1 - level) / (before.1 - after.1);
        Pays::From(before.0 + share * (after.0 - before.0))
    }
}

impl Figures {
    pub(super) fn new(
        options: Options,
        tsc_hz: u64,
        rows: Vec<Row>,
        established: Vec<Against>,
        (server_rtt, notes): (f64, Vec<String>),
    ) -> Self {
        let base = options.base();
        let never = Pays::Never;
        let break_even =
            BreakEven { response_time: never, response_with_work: None, response_by_round: None, cycles: never };
        let verdicts = vec![];
        let mut figures = Figures {
            options,
            base,
            tsc_hz,
            rows,
            break_even,
            server_rtt,
            established,
            verdicts,
            notes,
            unmeasured: vec![],
        };
        let pays = |value: fn(&Row) -> f64| {
            let Some(level) = figures.row(Series::Delayed, base) else { return Pays::Untold };
            if figures.by_hit_rate().map(|(_, row)| row).chain([level]).any(|row| row.seen.strays + row.seen.failed > 0)
            {
                return Pays::Untold;
            }
            let level = value(level);
            let curve: Vec<_> = figures.by_hit_rate().map(|(rate, row)| (rate, value(row))).collect();
            Pays::find(&curve, level)
        };
        figures.break_even = BreakEven {
            response_time: pays(|row| row.seen.response.mean),
            response_with_work: (!figures.is_real()).then(|| pays(|row| row.timed().median)),
            response_by_round: figures.is_real().then(|| pays(|row| row.timed().median)),
            cycles: pays(|row| row.cycles.per_connection.median),
        };
        figures.verdicts = verdicts::all(&figures);
        let remarks = figures.remarks();
        figures.notes.extend(remarks);
        figures
    }

    /// Whether times are real.
    pub fn is_real(&self) -> bool {
        self.options.port == Port::AfXdp
    }

    /// A row's response time as it is plotted, ns: simulated means, real medians.
    pub fn typical(&self, row: &Row) -> f64 {
        if self.is_real() { row.timed().median } else { row.seen.response.mean }
    }

    /// A series at a point, if it was measured there.
    pub fn row(&self, series: Series, point: Point) -> Option<&Row> {
        self.rows.iter().find(|r| r.series == series && r.point == point)
    }

    /// Preallocation over NAT at the base by its hit rate, percent, ascending.
    pub fn by_hit_rate(&self) -> impl Iterator<Item = (f64, &Row)> {
        self.by_hit_rate_of(|series| if let Series::Preallocate(percent) = series { Some(percent) } else { None })
    }

    /// The same over direct routing.
    pub fn by_hit_rate_directly(&self) -> impl Iterator<Item = (f64, &Row)> {
        self.by_hit_rate_of(|series| if let Series::PreallocateDirect(percent) = series { Some(percent) } else { None })
    }

    fn by_hit_rate_of(&self, of: fn(Series) -> Option<u8>) -> impl Iterator<Item = (f64, &Row)> {
        let percent = |row: &Row| of(row.series).filter(|_| row.point == self.base);
        let mut found: Vec<_> = self.rows.iter().filter_map(|r| Some((percent(r)?, r))).collect();
        found.sort_by_key(|(percent, _)| *percent);
        found.into_iter().map(|(percent, row)| (f64::from(percent), row))
    }

    /// The dimensions: what is varied, and the points.
    pub fn dimensions(&self) -> [(&'static str, Vec<(usize, Point)>); 3] {
        let (o, base) = (&self.options, self.base);
        let sorted = |all: &[usize], point: &dyn Fn(usize) -> Point| {
            let mut all: Vec<_> = all.iter().map(|&n| (n, point(n))).collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        [
            ("document size", sorted(&o.sizes, &|size| Point { size, ..base })),
            ("number of rules", sorted(&o.rules, &|rules| Point { rules, ..base })),
            ("requests of a connection", sorted(&o.keepalives, &|keepalive| Point { keepalive, ..base })),
        ]
    }

    fn remarks(&self) -> Vec<String> {
        let mut notes = vec![];
        let base = [Series::Forward, Series::Preallocate(100), Series::Delayed, Series::Preallocate(0)]
            .map(|series| self.row(series, self.base));
        if let ([Some(forward), Some(hits), Some(delayed), Some(misses)], false) = (base, self.is_real()) {
            let [f, h, d, m] = [forward, hits, delayed, misses].map(|row| row.seen.response.mean);
            let ms = |ns: f64| format!("{:.4} ms", ns / MILLISECOND as f64);
            notes.push(format!(
                "Mean response times by the network alone: forward {}, preallocate all hits {}, delayed {}, preallocate all misses {}.",
                ms(f),
                ms(h),
                ms(d),
                ms(m)
            ));
            if (d - f).abs() < 0.1 * self.server_rtt {
                notes.push(
                    "Delayed binding takes as many round trips as forwarding: the server's handshake comes behind the \
                     request instead of before it. What it costs is the director's work."
                        .to_owned(),
                );
            }
            if hits.seen.response == misses.seen.response && hits.seen.segments() == misses.seen.segments() {
                notes.push("Right and wrong guesses cannot be told apart: this director does not guess.".to_owned());
            }
        }
        for row in self.rows.iter().filter(|row| row.seen.strays > 0) {
            notes.push(format!(
                "{}, {}, {} rules, {} requests: {} of {} connections were bound otherwise than the series says.",
                row.series,
                bytes(row.point.size),
                row.point.rules,
                row.point.keepalive,
                row.seen.strays,
                row.seen.connections
            ));
        }
        let failed: u64 = self.rows.iter().map(|r| r.seen.failed).sum();
        if failed > 0 {
            notes.push(format!("{failed} requests were given up; their connections are not in the times."));
        }
        if let (Some(forward), Some(matching)) =
            (self.row(Series::Forward, self.base), self.row(Series::Matching, self.base))
        {
            let [forward, matching] = [forward, matching].map(|row| row.cycles.per_connection.median);
            notes.push(format!(
                "Reading a request and matching {} rules, with nothing made of it, takes {:.0} cycles a connection more than forwarding (the tutorial's second series to its first); what a decision alone costs is `lcs perf rules`.",
                self.base.rules,
                matching - forward
            ));
        }
        notes
    }
}

/// A median and its quartiles.
fn spread(s: &Summary) -> String {
    format!("{:.0} ({:.0} – {:.0})", s.median, s.quartiles.0, s.quartiles.1)
}

/// Bytes, short.
pub(super) fn bytes(n: usize) -> String {
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{} kB", n as f64 / 1e3),
        _ => format!("{} MB", n as f64 / 1e6),
    }
}

/// The columns of a table.
pub(super) fn columns(port: Port) -> [&'static str; 10] {
    let [seventh, eighth] = match port {
        Port::Memory => ["held B", "mean+work ms"],
        Port::AfXdp => ["CPU µs/request", "p50 by round ms (quartiles)"],
    };
    [
        "p50 ms",
        "p99 ms",
        "requests/s",
        "segments",
        "bytes/request",
        "to clients B",
        seventh,
        eighth,
        "cycles (quartiles)",
        "cycles/request",
    ]
}

/// A row's cells, in the order of [`columns`].
pub(super) fn cells(row: &Row, port: Port) -> [String; 10] {
    let s = &row.seen;
    let ms = |ns: f64| format!("{:.3}", ns / MILLISECOND as f64);
    let response = row.timed();
    let [seventh, eighth] = match port {
        Port::Memory => [s.buffered_at_most.map_or(String::new(), |n| n.to_string()), ms(response.median)],
        Port::AfXdp => [
            row.cpu.map_or(String::new(), |cpu| format!("{:.1}", cpu.process_us.median + cpu.kernel_us.median)),
            format!("{} ({} – {})", ms(response.median), ms(response.quartiles.0), ms(response.quartiles.1)),
        ],
    };
    [
        ms(s.response.p50 as f64),
        ms(s.response.p99 as f64),
        format!("{:.0}", s.requests_per_second),
        format!("{:.1}", s.segments()),
        format!("{:.0}", s.bytes_per_request),
        format!("{:.0}", s.to_clients_per_request),
        seventh,
        eighth,
        spread(&row.cycles.per_connection),
        format!("{:.0}", row.cycles.per_request.median),
    ]
}

impl Figures {
    /// What the run is of, in sentences.
    pub(super) fn setting(&self) -> [String; 3] {
        if self.is_real() { self.setting_of_kernels() } else { self.setting_of_memory() }
    }

    fn base_setting(&self) -> String {
        format!(
            "where something else is varied: {}, {} rules, {} request(s) of a connection; over NAT every request is decided, over direct routing (DR) and with filters the first of a connection is",
            bytes(self.base.size),
            self.base.rules,
            self.base.keepalive
        )
    }

    fn setting_of_kernels(&self) -> [String; 3] {
        let o = &self.options;
        [
            format!(
                "real kernels: TCP clients and servers of Linux in network namespaces, veths and a bridge, the director on AF_XDP with a core alone, two servers, switch and client (and filters) on the others; {} connections of {} clients a round, one at a time each; no delay or loss of ours; TCP timestamps off at all ends; a TCP handshake of director and server takes {:.3} ms; seed {}",
                o.connections,
                o.clients,
                self.server_rtt / MILLISECOND as f64,
                o.seed
            ),
            format!(
                "all times are real: p50 and p99 of the response times of all rounds (a connection's SYN to the last byte of its last response), requests/s of all clients, medians of {} rounds with all series in turns; frames that the kernel counted at the director's interface a connection, their bytes a request (in and out), bytes of IP packets to clients a request by the director's own count; CPU: what the scheduler charged to the director's threads and to the kernel's receiving ones on its core, µs a request, looking for frames included; TSC cycles ({:.3} GHz) of the director's busy turns a connection and a request, the rest of the machine in the same caches, what interrupted those turns on its core included; no round is left out as cold: before each, every client has had two connections",
                o.rounds,
                self.tsc_hz as f64 / 1e9
            ),
            self.base_setting(),
        ]
    }

    fn setting_of_memory(&self) -> [String; 3] {
        let o = &self.options;
        let ms = |ns: u64| ns as f64 / MILLISECOND as f64;
        [
            format!(
                "{} connections of {} clients, one at a time each; round trips {} ms to the director and {} ms from it to \
                 the servers; {} % and {} % of frames lost; clients' links of 1 Gbit/s, windows of 256 KiB, no \
                 congestion control; seed {}",
                o.connections,
                o.clients,
                ms(o.rtt),
                ms(o.server_rtt),
                o.loss * 100.0,
                o.server_loss * 100.0,
                o.seed
            ),
            format!(
                "simulated or counted, the same for the same seed: p50 and p99 of response times (a connection's SYN to the last \
                 byte of its last response), requests/s of all clients, frames through the director a connection and bytes a \
                 request (in and out), bytes of IP packets to clients a request, bytes of requests held at most; real, of this processor: TSC cycles ({:.3} GHz) of the \
                 director's worker a connection and a request, medians of {} rounds with all series in turns, beside the \
                 simulated hosts in the same caches, readings more than 0.1 ms apart (interruptions) left out; mean+work is the mean response time with those cycles on top",
                self.tsc_hz as f64 / 1e9,
                o.rounds
            ),
            self.base_setting(),
        ]
    }

    /// From which hit rate on preallocation pays by [`Row::timed`].
    pub(super) fn pays_by_time(&self) -> Pays {
        let b = &self.break_even;
        b.response_by_round.or(b.response_with_work).unwrap_or(Pays::Untold)
    }

    /// Where preallocation pays, in sentences.
    pub(super) fn pays(&self) -> [String; 3] {
        let b = &self.break_even;
        [
            if self.is_real() {
                format!("preallocate takes less time than delayed, by medians, {}", self.pays_by_time())
            } else {
                format!(
                    "preallocate takes less time than delayed, the director's work included, {}",
                    self.pays_by_time()
                )
            },
            if self.is_real() {
                format!("preallocate takes less time than delayed, by means, {}", b.response_time)
            } else {
                format!("preallocate takes less time than delayed, by the network alone, {}", b.response_time)
            },
            format!("preallocate takes fewer of the director's cycles than delayed {}", b.cycles),
        ]
    }

    fn table(&self, f: &mut fmt::Formatter<'_>, rows: &[(String, &Row)]) -> fmt::Result {
        let port = self.options.port;
        let columns = columns(port);
        let width = |at: usize| {
            let widest = rows.iter().map(|(_, row)| cells(row, port)[at].chars().count()).max();
            widest.unwrap_or(0).max(columns[at].chars().count())
        };
        let widths: Vec<usize> = (0..columns.len()).map(width).collect();
        let mut line = |first: &str, series: &str, cells: &[String]| {
            write!(f, "{first:>8}  {series:<32}")?;
            for (cell, width) in cells.iter().zip(&widths) {
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)
        };
        line("", "", &columns.map(str::to_owned))?;
        let mut before = "";
        for (first, row) in rows {
            let shown = if first == before { "" } else { first };
            before = first;
            line(shown, &row.series.to_string(), &cells(row, port))?;
        }
        writeln!(f)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.setting() {
            writeln!(f, "{line}")?;
        }
        writeln!(f)?;
        for (what, points) in self.dimensions() {
            // One value is no dimension; the base stands in the first table.
            if points.len() < 2 && what != "document size" {
                continue;
            }
            writeln!(f, "by {what}")?;
            let name = |n: usize| if what == "document size" { bytes(n) } else { n.to_string() };
            let rows: Vec<_> = points
                .iter()
                .flat_map(|&(n, point)| Series::MAIN.map(|series| Some((name(n), self.row(series, point)?))))
                .flatten()
                .collect();
            self.table(f, &rows)?;
        }
        writeln!(f, "by hit rate of the guess")?;
        let rates = self.by_hit_rate().map(|(rate, row)| (format!("{rate} %"), row));
        let delayed = self.row(Series::Delayed, self.base).map(|row| (String::new(), row));
        let directly = self.by_hit_rate_directly().map(|(rate, row)| (format!("{rate} %"), row));
        self.table(f, &rates.chain(delayed).chain(directly).collect::<Vec<_>>())?;
        for verdict in &self.verdicts {
            writeln!(f, "{verdict}")?;
        }
        writeln!(f)?;
        for line in self.pays() {
            writeln!(f, "{line}")?;
        }
        writeln!(f)?;
        writeln!(f, "cycles a connection by stage")?;
        let main: Vec<_> = Series::MAIN.iter().filter_map(|s| self.row(*s, self.base)).collect();
        write!(f, "{:<12}", "")?;
        for row in &main {
            write!(f, "{:>34}", row.series)?;
        }
        writeln!(f)?;
        for (at, stage) in main.first().map(|r| r.cycles.stages.as_slice()).unwrap_or_default().iter().enumerate() {
            write!(f, "{:<12}", stage.name)?;
            for row in &main {
                let summary = row.cycles.stages.get(at).map(|s| spread(&s.per_connection)).unwrap_or_default();
                write!(f, "{summary:>34}")?;
            }
            writeln!(f)?;
        }
        writeln!(f)?;
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_break_even_lies_on_the_line_between_two_hit_rates() {
        let curve = [(0.0, 10.0), (50.0, 8.0), (100.0, 2.0)];
        assert_eq!(Pays::find(&curve, 5.0), Pays::From(75.0));
        assert_eq!(Pays::find(&curve, 9.0), Pays::From(25.0));
        assert_eq!(Pays::find(&curve, 11.0), Pays::Always);
        assert_eq!(Pays::find(&curve, 2.0), Pays::Never);
        assert_eq!(Pays::find(&curve, 8.0), Pays::From(50.0));
        assert_eq!(Pays::find(&[], 1.0), Pays::Never);
        assert_eq!(Pays::From(75.4).to_string(), "from 75.4 % hits on");
    }

    #[test]
    fn the_table_names_every_series_and_unit() {
        let figures = super::super::measure(&super::super::tests::small(), |_| {}).unwrap();
        let text = figures.to_string();
        for what in
            ["forward", "delayed", "preallocate, all hits", "preallocate, 50 % hits", "20 kB", "GHz", "by hit rate"]
        {
            assert!(text.contains(what), "{what}: {text}");
        }
    }
}
