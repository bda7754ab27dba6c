//! Reports: what all workers have counted, put together and given names.

use crate::config::{Content, Group, Service, Word, needs};
use crate::model::{Model, ServiceView};
use crate::protocol::PersistenceReport;
use crate::protocol::{
    ContentCounts, ContentReport, Drops, FilterReport, GroupReport, Losses, ServerReport, ServiceReport, Stage, Stats,
    TapReport, WorkerStats,
};
use lcs_dataplane::DropReason;
use lcs_dataplane::cycles::{StageCost, tsc_hz};
use lcs_dataplane::flow::TcpState;
use lcs_dataplane::port::losses::{LossReason, Losses as Lost};
use lcs_dataplane::port::tap::TapWatch;
use lcs_pipelines::command::{Report, ServerStats};
use lcs_pipelines::snapshot::Interface;
use std::time::Duration;

mod content;

/// A worker's report, as it travels through its ring and back.
pub(super) type Boxed = Box<Report>;

/// Adds `more` to `sum`.
pub(crate) fn add_cost(sum: &mut StageCost, more: &StageCost) {
    sum.calls += more.calls;
    sum.packets += more.packets;
    sum.cycles += more.cycles;
    for (s, m) in sum.histogram.iter_mut().zip(more.histogram) {
        *s += m;
    }
}

fn add_server(sum: &mut ServerStats, more: &ServerStats) {
    sum.packets_in += more.packets_in;
    sum.bytes_in += more.bytes_in;
    sum.packets_out += more.packets_out;
    sum.bytes_out += more.bytes_out;
    sum.connections += more.connections;
    sum.active += more.active;
    sum.inactive += more.inactive;
}

/// A server's counts over all workers.
fn server_stats(reports: &[Boxed], slot: u16) -> ServerStats {
    let mut sum = ServerStats::default();
    for stats in reports.iter().filter_map(|r| r.servers.get(usize::from(slot))) {
        add_server(&mut sum, stats);
    }
    sum
}

/// Connections of a server over all workers.
pub(super) fn flows_of(reports: &[Boxed], slot: u16) -> u64 {
    let of = |r: &Report| r.servers.get(usize::from(slot)).map_or(0, |s| u64::from(s.active) + u64::from(s.inactive));
    reports.iter().map(|r| of(r)).sum()
}

/// Several workers' counts as one.
fn worker_stats(reports: &[&Report], interfaces: &[Interface]) -> WorkerStats {
    let mut s = WorkerStats::default();
    let mut stages: Vec<(String, StageCost)> = vec![("receive".to_owned(), StageCost::default())];
    let mut transmit = StageCost::default();
    let mut dropped = vec![0u64; DropReason::COUNT];
    for r in reports {
        let c = &r.counters;
        s.received += c.received;
        s.received_bytes += c.received_bytes;
        s.forwarded += c.forwarded;
        s.forwarded_bytes += c.forwarded_bytes;
        s.consumed += c.consumed;
        s.to_kernel += c.to_kernel;
        s.handed_over += c.handed_over;
        s.taken_over += c.taken_over;
        s.busy_turns += c.busy_turns;
        s.idle_turns += c.idle_turns;
        s.sleeps += c.sleeps;
        s.events_lost += c.events_lost;
        s.cycles += c.busy_cycles;
        s.flows += r.flows;
        s.capacity += r.capacity;
        s.half_open += r.half_open;
        s.evicted += r.evicted;
        s.expired += r.expired;
        s.fragments += r.fragments;
        s.checksums_completed += r.checksums_completed;
        s.icmp_sent += r.icmp_sent;
        s.fragments_made += r.fragments_made;
        s.handshakes_repeated += r.content.handshakes_repeated;
        s.handshakes_unremembered += r.content.handshakes_unremembered;
        s.held += c.held;
        if let Some(handed) = &r.handed {
            s.handed.get_or_insert_default().add(handed);
        }
        for (sum, n) in dropped.iter_mut().zip(&c.dropped) {
            *sum += n;
        }
        for (state, n) in TcpState::ALL.iter().zip(r.states).filter(|(_, n)| *n > 0) {
            *s.states.entry(state.name().to_owned()).or_default() += n;
        }
        add_cost(&mut stages[0].1, &c.receive);
        add_cost(&mut transmit, &c.transmit);
        for (name, cost) in &r.stages {
            match stages.iter_mut().find(|(n, _)| n == name) {
                Some((_, sum)) => add_cost(sum, cost),
                None => stages.push((name.clone(), *cost)),
            }
        }
    }
    stages.push(("transmit".to_owned(), transmit));
    s.dropped = dropped.iter().sum();
    s.drops = drops(&dropped);
    s.losses = losses(&lost(reports), interfaces);
    s.cycles_per_packet = ratio(s.cycles, s.received + s.taken_over);
    let all: u64 = stages.iter().map(|(_, c)| c.cycles).sum();
    s.stages = stages
        .into_iter()
        .map(|(name, cost)| Stage { name, cycles_per_packet: cost.per_packet(), share: ratio(cost.cycles, all), cost })
        .collect();
    s
}

/// What these workers' ports have lost, by interface.
pub(super) fn lost(reports: &[&Report]) -> Vec<Lost> {
    let interfaces = reports.iter().map(|r| r.counters.losses.len()).max().unwrap_or(0);
    let mut sum = vec![Lost::default(); interfaces];
    for r in reports {
        sum.iter_mut().zip(&r.counters.losses).for_each(|(sum, more)| sum.join(more));
    }
    sum
}

/// An interface's name.
pub(super) fn interface_name(interfaces: &[Interface], number: usize) -> String {
    interfaces.get(number).map_or_else(|| format!("interface {number}"), |interface| interface.name.clone())
}

fn losses(lost: &[Lost], interfaces: &[Interface]) -> Vec<Losses> {
    let of = |(number, lost): (usize, &Lost)| {
        let interface = interface_name(interfaces, number);
        let named = |(reason, frames): (LossReason, u64)| Losses {
            interface: interface.clone(),
            reason: reason.name().to_owned(),
            frames,
            explanation: reason.explanation().to_owned(),
        };
        lost.iter().map(named).collect::<Vec<_>>()
    };
    let mut losses: Vec<Losses> = lost.iter().enumerate().flat_map(of).collect();
    losses.sort_by_key(|l| std::cmp::Reverse(l.frames));
    losses
}

fn drops(counts: &[u64]) -> Vec<Drops> {
    let mut drops: Vec<Drops> = DropReason::ALL
        .iter()
        .zip(counts)
        .filter(|(_, n)| **n > 0)
        .map(|(reason, n)| Drops {
            reason: reason.name().to_owned(),
            frames: *n,
            explanation: reason.explanation().to_owned(),
        })
        .collect();
    drops.sort_by_key(|d| std::cmp::Reverse(d.frames));
    drops
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Everything that was counted.
pub(super) fn stats(
    model: &Model,
    reports: &[Boxed],
    taps: Vec<TapReport>,
    filter: Option<FilterReport>,
    uptime: Duration,
) -> Stats {
    let interfaces = model.interfaces();
    let all: Vec<&Report> = reports.iter().filter(|r| r.decided.is_none()).map(|r| &**r).collect();
    Stats {
        uptime: uptime.as_secs_f64(),
        tsc_hz: tsc_hz(),
        total: worker_stats(&all, interfaces),
        workers: all.iter().map(|r| worker_stats(&[*r], interfaces)).collect(),
        content_workers: reports.iter().filter_map(|r| r.decided.as_deref().cloned()).collect(),
        services: model.view().iter().map(|view| service(view, reports, content::counts(view, reports))).collect(),
        taps,
        filter,
    }
}

/// What has passed the kernel's TAP devices.
pub(super) fn taps(taps: &[TapWatch]) -> Vec<TapReport> {
    taps.iter().map(|tap| TapReport { name: tap.name().to_owned(), counts: tap.counts() }).collect()
}

/// The services and what was counted for them.
pub(super) fn services(model: &Model, reports: &[Boxed]) -> Vec<ServiceReport> {
    model.view().iter().map(|view| service(view, reports, None)).collect()
}

fn service(view: &ServiceView<'_>, reports: &[Boxed], counts: Option<ContentCounts>) -> ServiceReport {
    let mut sum = ServerStats::default();
    let servers = view
        .servers
        .iter()
        .map(|s| {
            let stats = server_stats(reports, s.slot);
            add_server(&mut sum, &stats);
            let state = match s.down {
                _ if s.removed => "removed".to_owned(),
                Some(_) => "down".to_owned(),
                None => s.server.state.to_string(),
            };
            ServerReport {
                name: s.server.name.clone(),
                address: s.server.address,
                port: s.port,
                forward: s.server.forward,
                weight: s.server.weight,
                state,
                problem: s.problem.map(str::to_owned),
                down: s.down.map(str::to_owned),
                stats,
            }
        })
        .collect();
    let s = view.service;
    ServiceReport {
        name: s.name.clone(),
        protocol: s.protocol.to_string(),
        address: s.address,
        port: s.port,
        scheduler: s.scheduler,
        state: if view.removed { "removed" } else { "up" }.to_owned(),
        persistence: s.persistence.as_ref().map(|p| PersistenceReport {
            timeout: p.timeout.as_secs_f64(),
            mask4: p.mask4,
            mask6: p.mask6,
            templates: reports
                .iter()
                .filter_map(|r| r.templates.get(usize::from(view.slot)))
                .map(|n| u64::from(*n))
                .sum(),
        }),
        content: s.content.as_ref().map(|c| content(s, c, counts)),
        servers,
        stats: sum,
    }
}

fn content(s: &Service, content: &Content, counts: Option<ContentCounts>) -> ContentReport {
    let group = |g: &Group| GroupReport {
        name: g.name.clone(),
        scheduler: g.scheduler.unwrap_or(s.scheduler),
        servers: g.servers.clone(),
    };
    ContentReport {
        application: content.application.word().to_owned(),
        switching: content.binding.switching,
        timestamps: content.binding.timestamps,
        file: content.rules.file.clone(),
        rules: content.rule_count(),
        groups: content.groups.iter().map(group).collect(),
        needs: needs(s),
        counts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_summed_and_their_stages_merged_by_name() {
        let report = |n: u64| {
            let mut r = Box::new(Report::default());
            r.counters.received = n;
            r.counters.busy_cycles = n * 50;
            r.counters.dropped[DropReason::NoServer as usize] = n;
            r.counters.receive.charge(1, 10);
            r.counters.transmit.charge(1, 30);
            let mut cost = StageCost::default();
            cost.charge(2, 60);
            r.stages = vec![("classify".into(), cost)];
            r.states[TcpState::Established as usize] = n;
            r.counters.losses = vec![Lost::default(); 2];
            r.counters.losses[1].add(LossReason::RxMissed, n);
            r.servers = vec![ServerStats { active: 1, inactive: 2, ..ServerStats::default() }];
            r
        };
        let reports = [report(1), report(3)];
        let all: Vec<&Report> = reports.iter().map(|r| &**r).collect();
        let eth0 = Interface { name: "eth0".into(), mac: "02:00:00:00:00:01".parse().unwrap(), mtu: 1500 };
        let eth1 = Interface { name: "eth1".into(), ..eth0.clone() };
        let s = worker_stats(&all, &[eth0, eth1]);
        let lost: Vec<_> = s.losses.iter().map(|l| (l.interface.as_str(), l.reason.as_str(), l.frames)).collect();
        assert_eq!(lost, [("eth1", "rx-missed", 4)]);
        assert_eq!((s.received, s.dropped, s.states["established"]), (4, 4, 4));
        assert_eq!(s.cycles_per_packet, 50.0);
        let names: Vec<&str> = s.stages.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["receive", "classify", "transmit"]);
        assert_eq!((s.stages[1].cost.packets, s.stages[1].cycles_per_packet), (4, 30.0));
        assert!((s.stages.iter().map(|s| s.share).sum::<f64>() - 1.0).abs() < 1e-9);
        assert_eq!((s.drops[0].reason.as_str(), s.drops[0].frames), ("no-server", 4));
        assert_eq!((flows_of(&reports, 0), flows_of(&reports, 9)), (6, 0));
    }
}
