//! What the schemes were built to reach, and whether this run has seen it: with its figures, held or not.

use super::report::{Figures, bytes};
use super::{Port, Row, Series};
use crate::network::MILLISECOND;
use crate::stages::Against;
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
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", if self.held { "held" } else { "NOT HELD" }, self.claim, self.detail)
    }
}

/// Cycles of an established packet may be more than forwarding's by this share.
const WITHIN: f64 = 0.05;

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
    let [fwd, h, d, m] = [forward, hits, delayed, misses].map(|row| row.cycles.response_with_work.median);
    let shown = |row: &Row| {
        let s = &row.cycles.response_with_work;
        format!("{} ({} – {})", ms(s.median), ms(s.quartiles.0), ms(s.quartiles.1))
    };
    let what = match f.options.port {
        Port::Memory => "simulated means with the director's work on top",
        Port::AfXdp => "medians of the rounds' median response times",
    };
    Some(Verdict::new(
        "order",
        "response times come in the order of the tutorial's plot, forward ≤ preallocate all hits < delayed < preallocate all misses",
        // A hit does what forwarding does and reads a request besides; at most noise can turn them around.
        fwd <= h * 1.001 && h < d && d < m,
        [("forward_ns", fwd), ("hits_ns", h), ("delayed_ns", d), ("misses_ns", m)],
        format!(
            "forward {}, all hits {}, delayed {}, all misses {} ({what}, with quartiles)",
            shown(forward),
            shown(hits),
            shown(delayed),
            shown(misses)
        ),
    ))
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
    let detail = match (a.is_same_path(), other.is_empty()) {
        (true, _) => "the same stages were called as often, with as many frames".to_owned(),
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
        [("other_calls", a.other_calls as f64), ("other_frames", frames)],
        detail,
    )
}

fn pooled(f: &Figures) -> Option<Verdict> {
    let (pooled, delayed) = (f.row(Series::Pooled, f.base)?, f.row(Series::Delayed, f.base)?);
    let [p, d] = [pooled, delayed].map(|row| match f.options.port {
        // What both take of the processor does not shorten a round trip.
        Port::Memory => row.seen.response.mean,
        Port::AfXdp => row.cycles.response_with_work.median,
    });
    let rtt = f.server_rtt;
    let how = if f.options.port == Port::AfXdp {
        ", a TCP handshake from the director's host with nothing else going on"
    } else {
        ""
    };
    Some(Verdict::new(
        "pooled",
        "pooled binding answers earlier than delayed binding by at least a server's round trip",
        d - p >= rtt,
        [("pooled_ns", p), ("delayed_ns", d), ("saved_ns", d - p), ("server_rtt_ns", rtt)],
        format!("{} and {}: {} saved; the round trip is {}{how}", ms(p), ms(d), ms(d - p), ms(rtt)),
    ))
}

fn filter(f: &Figures) -> Option<Verdict> {
    let row = |series, size| f.row(series, super::Point { size, ..f.base });
    let sizes = f.options.sizes.iter().copied();
    let (smallest, largest) = (sizes.clone().min()?, sizes.max()?);
    let (filter, forward) = (&row(Series::Filter, largest)?.seen, &row(Series::Forward, largest)?.seen);
    let least = &row(Series::Filter, smallest)?.seen;
    let (to_clients, to_servers) = (filter.to_clients_per_request, filter.to_servers_per_request);
    Some(Verdict::new(
        "filter",
        "filters take the replies off the director: its bytes for a response fall to the request's",
        to_clients <= to_servers,
        [
            ("to_clients_bytes", to_clients),
            ("to_servers_bytes", to_servers),
            ("all_bytes", filter.bytes_per_request),
            ("forward_bytes", forward.bytes_per_request),
        ],
        format!(
            "of a request for {} it says {to_clients:.0} B to the client (its own handshake and acknowledgement) and passes {to_servers:.0} B of the client's; {:.0} B of frames in and out, {:.0} B for {}, where forwarding has {:.0} B",
            bytes(largest),
            filter.bytes_per_request,
            least.bytes_per_request,
            bytes(smallest),
            forward.bytes_per_request
        ),
    ))
}

fn direct(f: &Figures) -> Option<Verdict> {
    let size = f.options.sizes.iter().copied().max()?;
    let row = |series| f.row(series, super::Point { size, ..f.base }).map(|row| &row.seen);
    let (hits, misses) = (row(Series::PreallocateDirect(100))?, row(Series::PreallocateDirect(0))?);
    let (forward, nat) = (row(Series::ForwardDirect)?, row(Series::Preallocate(100))?);
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
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::Summary;

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
            row.cycles.response_with_work = Summary::of(vec![ns]);
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
        for row in &mut figures.rows {
            row.seen.to_clients_per_request += 1e6;
        }
        assert!(!held(&figures, "filter") && !held(&figures, "direct"));
        figures.established[0].ratio = Summary::of(vec![1.06]);
        figures.established[1].other_calls = 1;
        assert!(!held(&figures, "established-cycles-nat") && !held(&figures, "established-path-dr"));
        assert!(all(&figures).iter().any(|v| v.to_string().starts_with("NOT HELD: ")));
    }
}
