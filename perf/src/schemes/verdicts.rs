//! What the schemes were built to reach, and whether this run has seen it: with its figures, held or not.

use super::report::{Figures, bytes};
use super::{Port, Row, Series};
use crate::network::MILLISECOND;
use crate::stages::Against;
use crate::summary::Summary;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// A claim and what was seen of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// What it is about, for programs.
    pub name: String,
    /// What should be.
    pub claim: String,
    /// Whether it is.
    pub held: bool,
    /// The figures that say so, each with its unit at its end.
    pub figures: BTreeMap<String, f64>,
    /// The same as a sentence.
    pub detail: String,
}

impl Verdict {
    fn new<const N: usize>(name: &str, claim: &str, held: bool, figures: [(&str, f64); N], detail: String) -> Self {
        let figures = figures.map(|(name, value)| (name.to_owned(), value)).into();
        Verdict { name: name.into(), claim: claim.into(), held, figures, detail }
    }

    /// The same, from these rows: not held where connections were bound otherwise than the series says, or failed, as the figures are
    /// of other connections then.
    fn of(mut self, rows: &[&Row]) -> Self {
        let (strays, failed): (u64, u64) =
            rows.iter().map(|r| (r.seen.strays, r.seen.failed)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        if strays + failed > 0 {
            self.held = false;
            self.detail += &format!(
                "; {strays} connections were bound otherwise than their series says, {failed} requests failed"
            );
        }
        self.figures.extend([("strays".to_owned(), strays as f64), ("failed".to_owned(), failed as f64)]);
        self
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", if self.held { "held" } else { "NOT HELD" }, self.claim, self.detail)
    }
}

/// Cycles of an established packet may be more than forwarding's by this share.
const WITHIN: f64 = 0.05;
/// Bytes of a response from which on it can be told that it did not pass.
const WORTH_A_FILTER: usize = 5_000;

/// All that the run has the rows for.
pub(super) fn all(f: &Figures) -> Vec<Verdict> {
    let mut verdicts = vec![];
    verdicts.extend(order(f));
    verdicts.extend(f.established.iter().flat_map(|against| [within(against), same_path(against)]));
    verdicts.extend(pooled(f));
    verdicts.extend(filter(f));
    verdicts.extend(direct(f));
    verdicts
}

fn ms(ns: f64) -> String {
    format!("{:.4} ms", ns / MILLISECOND as f64)
}

/// The tutorial's plot: forwarding, right guesses, delayed binding, wrong guesses.
fn order(f: &Figures) -> Option<Verdict> {
    let all = [Series::Forward, Series::Preallocate(100), Series::Delayed, Series::Preallocate(0)];
    let [Some(forward), Some(hits), Some(delayed), Some(misses)] = all.map(|series| f.row(series, f.base)) else {
        return None;
    };
    let times = [forward, hits, delayed, misses].map(Row::timed);
    let [fwd, h, d, m] = times.map(|s| s.median);
    let shown = |row: &Row| {
        let s = row.timed();
        format!("{} ({} – {})", ms(s.median), ms(s.quartiles.0), ms(s.quartiles.1))
    };
    let real = f.is_real();
    // Real times scatter: only what lies apart by its quartiles is earlier, and only what lies apart the other way round is not at most
    // as late. Of simulated ones but the work scatters; a hit does what forwarding does and reads a request besides, and at most that can
    // turn them around.
    let at_most = |a: &Summary, b: &Summary| {
        if real { a.quartiles.0 <= b.quartiles.1 } else { a.median <= b.median * 1.001 }
    };
    let before = |a: &Summary, b: &Summary| a.median < b.median && (!real || a.quartiles.1 < b.quartiles.0);
    let [first, second, third, fourth] = &times;
    let held = at_most(first, second) && before(second, third) && before(third, fourth);
    let scatter = if real && !held && h < d && d < m {
        "; the medians are in that order, but what they differ by is within the spread"
    } else {
        ""
    };
    let what = match f.options.port {
        Port::Memory => "simulated means with the director's work on top",
        Port::AfXdp => "medians of the rounds' median response times",
    };
    Some(Verdict::new(
        "order",
        "response times come in the order of the tutorial's plot, forward ≤ preallocate all hits < delayed < preallocate all misses",
        held,
        [("forward_ns", fwd), ("hits_ns", h), ("delayed_ns", d), ("misses_ns", m)],
        format!(
            "forward {}, all hits {}, delayed {}, all misses {} ({what}, with quartiles){scatter}",
            shown(forward),
            shown(hits),
            shown(delayed),
            shown(misses)
        ),
    )
    .of(&[forward, hits, delayed, misses]))
}

fn way(against: &Against) -> (&'static str, [String; 2]) {
    let (way, name) = if against.forward.replies_return() { ("NAT", "nat") } else { ("direct routing", "dr") };
    (way, ["cycles", "path"].map(|what| format!("established-{what}-{name}")))
}

fn within(a: &Against) -> Verdict {
    let (way, [name, _]) = way(a);
    Verdict::new(
        &name,
        &format!("over {way}, an established packet of a right guess costs within 5 % of a plainly forwarded one"),
        a.ratio.median <= 1.0 + WITHIN,
        [
            ("forward_cycles", a.plain.median),
            ("guessed_cycles", a.guessed.median),
            ("ratio", a.ratio.median),
            ("ratio_lower_quartile", a.ratio.quartiles.0),
            ("ratio_upper_quartile", a.ratio.quartiles.1),
            ("extra_cycles", a.extra.median),
        ],
        format!(
            "{:.1} and {:.1} cycles, ratio {:.3} ({:.3} – {:.3}), {:+.2} cycles a packet ({:+.2} – {:+.2}); {} interleaved rounds of {} packets of {} flows, one decision a connection",
            a.guessed.median,
            a.plain.median,
            a.ratio.median,
            a.ratio.quartiles.0,
            a.ratio.quartiles.1,
            a.extra.median,
            a.extra.quartiles.0,
            a.extra.quartiles.1,
            a.ratio.rounds,
            a.packets,
            a.flows
        ),
    )
}

fn same_path(a: &Against) -> Verdict {
    let (way, [_, name]) = way(a);
    let other: Vec<String> =
        a.extra_frames.iter().filter(|(_, n)| *n != 0).map(|(name, n)| format!("{name} {n:+}")).collect();
    let paths =
        format!("{} of {} connections take another path, {} are still looked at", a.other_paths, a.flows, a.kept);
    let detail = match (a.is_same_path(), other.is_empty()) {
        (true, _) => {
            "the same stages were called as often, with as many frames, and every connection's entry chooses the same path through them"
                .to_owned()
        }
        _ if a.other_paths + a.kept > 0 => paths,
        (false, true) => format!("{} calls of stages differ", a.other_calls),
        (false, false) => format!("frames by stage differ: {}", other.join(", ")),
    };
    let frames = a.extra_frames.iter().map(|(_, n)| n.unsigned_abs()).sum::<u64>() as f64;
    Verdict::new(
        &name,
        &format!(
            "over {way}, no cycle more for an established packet of a right guess: it takes the very path of a forwarded one"
        ),
        a.is_same_path(),
        [
            ("other_calls", a.other_calls as f64),
            ("other_frames", frames),
            ("other_paths", a.other_paths as f64),
            ("kept", a.kept as f64),
        ],
        detail,
    )
}

fn pooled(f: &Figures) -> Option<Verdict> {
    let (pooled, delayed) = (f.row(Series::Pooled, f.base)?, f.row(Series::Delayed, f.base)?);
    let [p, d] = [pooled, delayed].map(|row| match f.options.port {
        // What both take of the processor does not shorten a round trip.
        Port::Memory => row.seen.response.mean,
        Port::AfXdp => row.timed().median,
    });
    let rtt = f.server_rtt;
    let how = if f.options.port == Port::AfXdp {
        ", a TCP handshake from the director's host with nothing else going on"
    } else {
        ""
    };
    Some(
        Verdict::new(
            "pooled",
            "pooled binding answers earlier than delayed binding by at least a server's round trip",
            d - p >= rtt,
            [("pooled_ns", p), ("delayed_ns", d), ("saved_ns", d - p), ("server_rtt_ns", rtt)],
            format!("{} and {}: {} saved; the round trip is {}{how}", ms(p), ms(d), ms(d - p), ms(rtt)),
        )
        .of(&[pooled, delayed]),
    )
}

fn filter(f: &Figures) -> Option<Verdict> {
    let row = |series, size| f.row(series, super::Point { size, ..f.base });
    let sizes = f.options.sizes.iter().copied();
    let (smallest, largest) = (sizes.clone().min()?, sizes.max()?);
    // Nothing can be told by responses that are hardly larger than what carries them.
    if largest < WORTH_A_FILTER {
        return None;
    }
    let rows = [row(Series::Filter, largest)?, row(Series::Forward, largest)?, row(Series::Filter, smallest)?];
    let [filter, forward, least] = rows.map(|row| &row.seen);
    let (to_clients, to_servers) = (filter.to_clients_per_request, filter.to_servers_per_request);
    Some(Verdict::new(
        "filter",
        "filters take the replies off the director: of a response none of its bytes pass it, however large it is",
        // As much for the largest response as for the smallest, but for a segment sent twice; and next to nothing of it.
        to_clients <= least.to_clients_per_request + 60.0
            && to_clients < 0.05 * forward.to_clients_per_request.max(largest as f64),
        [
            ("to_clients_bytes", to_clients),
            ("to_clients_smallest_bytes", least.to_clients_per_request),
            ("forward_to_clients_bytes", forward.to_clients_per_request),
            ("to_servers_bytes", to_servers),
            ("all_bytes", filter.bytes_per_request),
            ("forward_bytes", forward.bytes_per_request),
        ],
        format!(
            "of a request for {} it says {to_clients:.0} B to the client (its acknowledgement, without the SYN-ACK), {:.0} B of one for {}, and passes {to_servers:.0} B of the client's; {:.0} B of frames in and out, {:.0} B for {}, where forwarding has {:.0} B",
            bytes(largest),
            least.to_clients_per_request,
            bytes(smallest),
            filter.bytes_per_request,
            least.bytes_per_request,
            bytes(smallest),
            forward.bytes_per_request
        ),
    )
    .of(&rows))
}

fn direct(f: &Figures) -> Option<Verdict> {
    let size = f.options.sizes.iter().copied().max()?;
    let row = |series| f.row(series, super::Point { size, ..f.base });
    let rows = [
        row(Series::PreallocateDirect(100))?,
        row(Series::PreallocateDirect(0))?,
        row(Series::ForwardDirect)?,
        row(Series::Preallocate(100))?,
    ];
    let [hits, misses, forward, nat] = rows.map(|row| &row.seen);
    Some(Verdict::new(
        "direct",
        "over direct routing a right guess answers its client directly, and only a wrong one's response passes the director",
        hits.to_clients_per_request == 0.0 && misses.to_clients_per_request >= size as f64,
        [
            ("hits_to_clients_bytes", hits.to_clients_per_request),
            ("misses_to_clients_bytes", misses.to_clients_per_request),
            ("hits_segments", hits.segments()),
            ("forward_segments", forward.segments()),
            ("nat_hits_segments", nat.segments()),
        ],
        format!(
            "of a request for {}, {:.0} B go to the client through it with a hit and {:.0} B with a miss; {:.1} segments a connection with a hit, {:.1} with a miss, {:.1} forwarded over direct routing, {:.1} with a hit over NAT",
            bytes(size),
            hits.to_clients_per_request,
            misses.to_clients_per_request,
            hits.segments(),
            misses.segments(),
            forward.segments(),
            nat.segments()
        ),
    )
    .of(&rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Over real kernels an order is one only where the quartiles lie apart.
    #[test]
    fn what_is_within_the_spread_is_no_order() {
        let mut figures = super::super::measure(&super::super::tests::small(), |_| {}).unwrap();
        figures.options = figures.options.over_kernels();
        let base = figures.base;
        let mut told = |times: [[f64; 3]; 4]| {
            let series = [Series::Forward, Series::Preallocate(100), Series::Delayed, Series::Preallocate(0)];
            for (series, times) in series.into_iter().zip(times) {
                let row = figures.rows.iter_mut().find(|r| r.series == series && r.point == base).unwrap();
                row.response_by_round = Some(Summary::of(times.to_vec()));
            }
            order(&figures).unwrap()
        };
        assert!(told([[1.0, 2.0, 3.0], [1.0, 1.9, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]).held);
        let toss = told([[1.0, 2.0, 3.0], [1.0, 2.1, 3.0], [1.0, 2.2, 3.0], [7.0, 8.0, 9.0]]);
        assert!(!toss.held && toss.detail.contains("within the spread"), "{toss}");
        assert!(!told([[7.0, 8.0, 9.0], [1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]).held);
    }

    /// A verdict follows the figures: held where they say so, and not where they are turned around.
    #[test]
    fn a_miss_is_told() {
        let mut figures = super::super::measure(&super::super::tests::small(), |_| {}).unwrap();
        let held = |f: &Figures, name: &str| all(f).into_iter().find(|v| v.name == name).unwrap().held;
        for name in ["pooled", "filter", "direct", "established-path-nat", "established-path-dr"] {
            assert!(held(&figures, name), "{name}: {:#?}", figures.verdicts);
        }
        let response = |f: &mut Figures, series, ns: f64| {
            let base = f.base;
            let row = f.rows.iter_mut().find(|r| r.series == series && r.point == base).unwrap();
            row.cycles.response_with_work = Some(Summary::of(vec![ns]));
            row.seen.response.mean = ns;
        };
        let order = [Series::Forward, Series::Preallocate(100), Series::Delayed, Series::Preallocate(0)];
        for (series, ns) in order.into_iter().zip([1e6, 1e6, 2e6, 3e6]) {
            response(&mut figures, series, ns);
        }
        assert!(held(&figures, "order"));
        response(&mut figures, Series::Delayed, 3.5e6);
        assert!(!held(&figures, "order"));
        response(&mut figures, Series::Pooled, 3.4e6);
        assert!(!held(&figures, "pooled"), "100 µs are no round trip of 200 µs");
        response(&mut figures, Series::Pooled, 3.2e6);
        assert!(held(&figures, "pooled"));
        let strays = |f: &mut Figures, strays| f.rows.iter_mut().for_each(|row| row.seen.strays = strays);
        strays(&mut figures, 1);
        for name in ["order", "pooled", "filter", "direct"] {
            assert!(!held(&figures, name), "{name}: of other connections");
        }
        strays(&mut figures, 0);
        assert!(held(&figures, "filter") && held(&figures, "direct"));
        // A response that passes, whatever goes to the servers meanwhile.
        let mut passing = figures.clone();
        for row in passing.rows.iter_mut().filter(|row| row.series == Series::Filter) {
            row.seen.to_clients_per_request += row.point.size as f64;
            row.seen.to_servers_per_request += 1e6;
        }
        assert!(!held(&passing, "filter"));
        for row in &mut figures.rows {
            row.seen.to_clients_per_request += 1e6;
        }
        assert!(!held(&figures, "filter") && !held(&figures, "direct"));
        figures.established[0].ratio = Summary::of(vec![1.06]);
        assert!(held(&figures, "established-path-nat") && held(&figures, "established-path-dr"));
        figures.established[0].other_paths = 1;
        figures.established[1].other_calls = 1;
        assert!(!held(&figures, "established-cycles-nat"));
        assert!(!held(&figures, "established-path-nat") && !held(&figures, "established-path-dr"));
        assert!(all(&figures).iter().any(|v| v.to_string().starts_with("NOT HELD: ")));
    }
}
