//! `lcs stats`: packets, cycles, drops.

use super::content;
use super::table::{Table, bytes, duration, number, percent, scaled};
use crate::protocol::{Drops, FilterReport, Losses, Stats, TapReport, WorkerStats};
use std::fmt::Write;

/// What has happened since `earlier`, which is of the same director. Counts of what is there now stay as they are.
pub fn since(now: &Stats, earlier: &Stats) -> Stats {
    let mut s = now.clone();
    s.uptime = now.uptime - earlier.uptime;
    subtract(&mut s.total, &earlier.total);
    for (worker, before) in s.workers.iter_mut().zip(&earlier.workers) {
        subtract(worker, before);
    }
    for (worker, before) in s.content_workers.iter_mut().zip(&earlier.content_workers) {
        *worker = worker.since(before);
    }
    for service in &mut s.services {
        let before = earlier.services.iter().find(|b| b.name == service.name).and_then(|b| b.content.as_ref());
        let counts = service.content.as_mut().and_then(|content| content.counts.as_mut());
        if let (Some(counts), Some(before)) = (counts, before.and_then(|content| content.counts.as_ref())) {
            content::subtract(counts, before);
        }
    }
    for tap in &mut s.taps {
        if let Some(before) = earlier.taps.iter().find(|b| b.name == tap.name) {
            tap.counts = tap.counts.since(&before.counts);
        }
    }
    if let (Some(now), Some(before)) = (&mut s.filter, &earlier.filter) {
        now.passed = now.passed.saturating_sub(before.passed);
        now.redirected = now.redirected.saturating_sub(before.redirected);
    }
    s
}

fn subtract(now: &mut WorkerStats, before: &WorkerStats) {
    for (n, b) in [
        (&mut now.received, before.received),
        (&mut now.received_bytes, before.received_bytes),
        (&mut now.forwarded, before.forwarded),
        (&mut now.forwarded_bytes, before.forwarded_bytes),
        (&mut now.consumed, before.consumed),
        (&mut now.to_kernel, before.to_kernel),
        (&mut now.handed_over, before.handed_over),
        (&mut now.taken_over, before.taken_over),
        (&mut now.dropped, before.dropped),
        (&mut now.busy_turns, before.busy_turns),
        (&mut now.idle_turns, before.idle_turns),
        (&mut now.sleeps, before.sleeps),
        (&mut now.cycles, before.cycles),
        (&mut now.evicted, before.evicted),
        (&mut now.expired, before.expired),
        (&mut now.icmp_sent, before.icmp_sent),
        (&mut now.fragments_made, before.fragments_made),
        (&mut now.handshakes_repeated, before.handshakes_repeated),
        (&mut now.handshakes_unremembered, before.handshakes_unremembered),
        (&mut now.checksums_completed, before.checksums_completed),
        (&mut now.events_lost, before.events_lost),
    ] {
        *n = n.saturating_sub(b);
    }
    if let (Some(handed), Some(before)) = (&mut now.handed, &before.handed) {
        *handed = handed.since(before);
    }
    let packets = now.received + now.taken_over;
    now.cycles_per_packet = if packets == 0 { 0.0 } else { now.cycles as f64 / packets as f64 };
    for drops in &mut now.drops {
        let old = before.drops.iter().find(|d| d.reason == drops.reason).map_or(0, |d| d.frames);
        drops.frames = drops.frames.saturating_sub(old);
    }
    now.drops.retain(|d| d.frames > 0);
    for lost in &mut now.losses {
        let same = |l: &&Losses| (&l.interface, &l.reason) == (&lost.interface, &lost.reason);
        lost.frames = lost.frames.saturating_sub(before.losses.iter().find(same).map_or(0, |l| l.frames));
    }
    now.losses.retain(|l| l.frames > 0);
    for stage in &mut now.stages {
        if let Some(old) = before.stages.iter().find(|s| s.name == stage.name) {
            stage.cost = stage.cost.since(&old.cost);
        }
        stage.cycles_per_packet = stage.cost.per_packet();
    }
    let all: u64 = now.stages.iter().map(|s| s.cost.cycles).sum();
    for stage in &mut now.stages {
        stage.share = if all == 0 { 0.0 } else { stage.cost.cycles as f64 / all as f64 };
    }
}

/// What was counted; with `over`, in so many seconds, so that rates are shown.
pub fn stats(s: &Stats, over: Option<f64>) -> String {
    let t = &s.total;
    let mut out = match over {
        None => format!("since the start, {} ago", duration(s.uptime)),
        Some(_) => "in the last interval".to_owned(),
    };
    let _ = writeln!(out, "; {} workers; {} cycles a second\n", s.workers.len(), scaled(s.tsc_hz as f64, ""));
    frames(&mut out, t, over);
    stages(&mut out, t, s.tsc_hz);
    filter(&mut out, s.filter.as_ref(), over);
    drops(&mut out, &t.drops, over);
    losses(&mut out, &t.losses, over);
    taps(&mut out, &s.taps, over);
    flows(&mut out, t);
    s.services.iter().for_each(|service| out += &content::counts(service, over));
    for service in &s.services {
        out += &service.persistence.as_ref().map_or(String::new(), |p| super::persistence(&service.name, p));
    }
    if s.workers.len() > 1 {
        workers(&mut out, s, over);
    }
    content_workers(&mut out, s, over);
    out
}

fn rate(n: u64, over: Option<f64>) -> String {
    over.map_or(String::new(), |seconds| scaled(n as f64 / seconds.max(1e-3), "/s"))
}

fn frames(out: &mut String, t: &WorkerStats, over: Option<f64>) {
    let mut table = Table::new(&["", ">packets", ">bytes", if over.is_some() { ">rate" } else { "" }]);
    let rows = [
        ("received", t.received, Some(t.received_bytes)),
        ("forwarded", t.forwarded, Some(t.forwarded_bytes)),
        ("dropped", t.dropped, None),
        ("for the director itself", t.consumed, None),
        ("to the kernel", t.to_kernel, None),
        ("handed over between workers", t.handed_over, None),
        ("ICMP messages made", t.icmp_sent, None),
        ("fragments made", t.fragments_made, None),
        ("answers to SYNs sent again", t.handshakes_repeated, None),
        ("SYNs answered once only, for want of room", t.handshakes_unremembered, None),
        ("held back for a moment", t.held, None),
        ("checksums completed", t.checksums_completed, None),
    ];
    for (i, (name, packets, of)) in rows.into_iter().enumerate() {
        if i < 3 || packets > 0 {
            table.row([name.to_owned(), number(packets), of.map_or(String::new(), bytes), rate(packets, over)]);
        }
    }
    *out += &table.show();
}

/// The kernel's TAP devices: what has passed, and what was dropped and why.
fn taps(out: &mut String, taps: &[TapReport], over: Option<f64>) {
    if taps.is_empty() {
        return;
    }
    let mut table = Table::new(&["TAP device", "", ">frames", if over.is_some() { ">rate" } else { "" }]);
    for tap in taps {
        let c = &tap.counts;
        let passed = [("to the kernel", c.to_kernel), ("from the kernel", c.from_kernel)];
        let dropped = c.reasons().into_iter().filter(|(_, n)| *n > 0);
        let rows = passed.map(|(what, n)| (what.to_owned(), n)).into_iter();
        let rows = rows.chain(dropped.map(|(why, n)| (format!("dropped: {why}"), n)));
        for (i, (what, n)) in rows.enumerate() {
            let name = if i == 0 { tap.name.clone() } else { String::new() };
            table.row([name, what, number(n), rate(n, over)]);
        }
    }
    out.push('\n');
    *out += &table.show();
}

fn stages(out: &mut String, t: &WorkerStats, hz: u64) {
    let mut table = Table::new(&["stage", ">packets", ">cycles/packet", ">ns/packet", ">share"]);
    let ns = |cycles: f64| format!("{:.1}", cycles * 1e9 / hz.max(1) as f64);
    for s in &t.stages {
        table.row([
            s.name.clone(),
            number(s.cost.packets),
            format!("{:.1}", s.cycles_per_packet),
            ns(s.cycles_per_packet),
            percent(s.share),
        ]);
    }
    table.row([
        "all".to_owned(),
        number(t.received + t.taken_over),
        format!("{:.1}", t.cycles_per_packet),
        ns(t.cycles_per_packet),
        String::new(),
    ]);
    let _ = write!(out, "\n{}", table.show());
}

fn drops(out: &mut String, drops: &[Drops], over: Option<f64>) {
    if drops.is_empty() {
        *out += "\nno drops\n";
        return;
    }
    let mut table = Table::new(&["dropped", ">frames", if over.is_some() { ">rate" } else { "" }, "why"]);
    for d in drops {
        table.row([d.reason.clone(), number(d.frames), rate(d.frames, over), d.explanation.clone()]);
    }
    let _ = write!(out, "\n{}", table.show());
}

/// What ports have lost by themselves: before a worker could count it as received, or after it was sent.
fn losses(out: &mut String, losses: &[Losses], over: Option<f64>) {
    if losses.is_empty() {
        *out += "nothing lost by the port\n";
        return;
    }
    let rated = if over.is_some() { ">rate" } else { "" };
    let mut table = Table::new(&["lost by the port", "on", ">frames", rated, "why"]);
    for l in losses {
        let (reason, interface) = (l.reason.clone(), l.interface.clone());
        table.row([reason, interface, number(l.frames), rate(l.frames, over), l.explanation.clone()]);
    }
    let _ = write!(out, "\n{}", table.show());
}

/// What the XDP program has left to the kernel, and what it has redirected.
fn filter(out: &mut String, filter: Option<&FilterReport>, over: Option<f64>) {
    let Some(filter) = filter else { return };
    let mut table = Table::new(&["XDP program", ">frames", if over.is_some() { ">rate" } else { "" }]);
    for (what, n) in [("redirected to a worker", filter.redirected), ("left to the kernel", filter.passed)] {
        table.row([what.to_owned(), number(n), rate(n, over)]);
    }
    let _ = write!(out, "\n{}", table.show());
}

fn flows(out: &mut String, t: &WorkerStats) {
    let _ = write!(out, "\nconnections {} of {}", number(t.flows as u64), number(t.capacity as u64));
    if !t.states.is_empty() {
        let states: Vec<String> = t.states.iter().map(|(s, n)| format!("{s} {}", number(*n))).collect();
        let _ = write!(out, " ({})", states.join(", "));
    }
    let _ = writeln!(
        out,
        "; {} timed out, {} half-open ones gave way, {} fragmented packets followed",
        number(t.expired),
        number(t.evicted),
        t.fragments
    );
}

fn workers(out: &mut String, s: &Stats, over: Option<f64>) {
    let mut table = Table::new(&[
        ">worker",
        ">received",
        ">rate",
        ">forwarded",
        ">dropped",
        ">lost",
        ">cycles/packet",
        ">busy",
        ">connections",
    ]);
    for (i, w) in s.workers.iter().enumerate() {
        let busy = w.cycles as f64 / (s.tsc_hz.max(1) as f64 * s.uptime.max(1e-3));
        table.row([
            i.to_string(),
            number(w.received),
            rate(w.received, over.or(Some(s.uptime))),
            number(w.forwarded),
            number(w.dropped),
            number(w.losses.iter().map(|l| l.frames).sum()),
            format!("{:.1}", w.cycles_per_packet),
            percent(busy),
            number(w.flows as u64),
        ]);
    }
    let _ = write!(out, "\n{}", table.show());
}

/// Requests that port workers have handed out, and what content workers have done with them.
fn content_workers(out: &mut String, s: &Stats, over: Option<f64>) {
    let Some(h) = &s.total.handed else { return };
    let rows = [
        ("to content workers", h.out),
        ("back with a result", h.back),
        ("of connections that were gone", h.ignored),
        ("of rules that were replaced", h.outdated),
        ("unread for another snapshot", h.unread),
        ("decided by the port worker: ring full", h.full),
    ];
    let mut table = Table::new(&["undecided requests", ">", if over.is_some() { ">rate" } else { "" }]);
    for (i, (name, n)) in rows.into_iter().enumerate() {
        if i < 2 || n > 0 {
            table.row([name.to_owned(), number(n), rate(n, over)]);
        }
    }
    let _ = write!(out, "\n{}", table.show());
    let _ = writeln!(
        out,
        "{} away now, {} at most, of {} places a ring; {:.1} µs away on average",
        h.away,
        h.deepest,
        h.depth,
        h.wait() / 1e3
    );
    let mut table = Table::new(&[
        ">content worker",
        ">requests",
        ">rate",
        ">decided",
        ">incomplete",
        ">unreadable",
        ">cycles/request",
        ">ns/request",
        ">busy",
        ">deepest",
        ">sleeps",
    ]);
    for (i, w) in s.content_workers.iter().enumerate() {
        let cycles = w.cost.per_packet();
        table.row([
            i.to_string(),
            number(w.requests),
            rate(w.requests, over.or(Some(s.uptime))),
            number(w.decided),
            number(w.more),
            number(w.failed),
            format!("{cycles:.1}"),
            format!("{:.1}", cycles * 1e9 / s.tsc_hz.max(1) as f64),
            percent(w.cost.cycles as f64 / (s.tsc_hz.max(1) as f64 * s.uptime.max(1e-3))),
            number(w.deepest as u64),
            number(w.sleeps),
        ]);
    }
    let _ = write!(out, "\n{}", table.show());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Stage;
    use lcs_dataplane::cycles::StageCost;
    use lcs_dataplane::port::tap::TapCounts;

    fn at(uptime: f64, n: u64) -> Stats {
        let mut cost = StageCost::default();
        for _ in 0..n {
            cost.charge(1, 40);
        }
        let total = WorkerStats {
            received: n,
            cycles: n * 60,
            drops: vec![Drops { reason: "no-server".into(), frames: n / 2, explanation: "x.".into() }],
            dropped: n / 2,
            losses: vec![Losses {
                interface: "eth0".into(),
                reason: "rx-missed".into(),
                frames: n,
                explanation: "y.".into(),
            }],
            handshakes_repeated: n,
            handshakes_unremembered: n / 4,
            stages: vec![Stage { name: "lookup".into(), cycles_per_packet: 40.0, share: 1.0, cost }],
            ..WorkerStats::default()
        };
        Stats {
            uptime,
            tsc_hz: 1_000_000_000,
            workers: vec![total.clone()],
            total,
            content_workers: vec![],
            services: vec![],
            taps: vec![tap(n)],
            filter: Some(FilterReport { passed: n, redirected: 2 * n }),
        }
    }

    fn tap(n: u64) -> TapReport {
        let counts = TapCounts { to_kernel: n, from_kernel: n + 1, over_rate: n * 2, ..TapCounts::default() };
        TapReport { name: "lcs0".into(), counts }
    }

    #[test]
    fn what_passed_the_kernels_devices_is_shown_with_what_did_not() {
        let d = since(&at(12.0, 300), &at(10.0, 100));
        assert_eq!((d.taps[0].counts.to_kernel, d.taps[0].counts.dropped()), (200, 400));
        let shown = stats(&d, Some(d.uptime));
        assert!(shown.contains("lcs0") && shown.contains("dropped: over the rate"), "{shown}");
        assert!(!shown.contains("no room in the port"), "{shown}");
        let none = Stats { taps: vec![], ..d };
        assert!(!stats(&none, None).contains("TAP"));
        // An older director says nothing of them.
        let mut text = serde_json::to_value(&none).unwrap();
        text.as_object_mut().unwrap().remove("taps");
        assert_eq!(serde_json::from_value::<Stats>(text).unwrap().taps, []);
    }

    #[test]
    fn the_difference_of_two_readings_is_what_happened_between_them() {
        let d = since(&at(12.0, 300), &at(10.0, 100));
        assert_eq!((d.uptime, d.total.received, d.total.cycles_per_packet), (2.0, 200, 60.0));
        assert_eq!((d.total.drops[0].frames, d.total.stages[0].cost.packets), (100, 200));
        let shown = stats(&d, Some(d.uptime));
        assert!(shown.contains("100 /s") && shown.contains("no-server"), "{shown}");
        assert_eq!((d.total.handshakes_repeated, d.total.handshakes_unremembered), (200, 50));
        assert!(shown.contains("answers to SYNs sent again") && shown.contains("for want of room"), "{shown}");
        let (lost, filter) = (&d.total.losses[0], d.filter.unwrap());
        assert_eq!((lost.frames, filter.passed, filter.redirected), (200, 200, 400));
        assert!(shown.contains("rx-missed") && shown.contains("left to the kernel"), "{shown}");
        let quiet = since(&at(1.0, 5), &at(0.5, 5));
        assert!(quiet.total.drops.is_empty() && quiet.total.losses.is_empty());
        assert!(stats(&quiet, Some(0.5)).contains("nothing lost by the port"));
    }
}
