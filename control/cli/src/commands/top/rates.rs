//! Two readings of a director's counters, and what happened between them. No clock, no socket.

use lcs_control::config::{Word, endpoint_text};
use lcs_control::protocol::{ContentCounts, Losses, ServerReport, ServiceReport, Stats, Status, WorkerStats};
use lcs_control::render;
use lcs_pipelines::command::ServerStats;
use serde::Serialize;

/// What the director said at one time.
#[derive(Debug, Clone)]
pub struct Sample {
    /// How it was.
    pub status: Status,
    /// What it had counted.
    pub stats: Stats,
}

/// What happens: rates are means of the interval, everything else is of its end.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Rates {
    /// Version of the director's program.
    pub program: String,
    /// Its process number.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime: f64,
    /// The interval, seconds.
    pub interval: f64,
    /// Its ports, in words.
    pub port: Vec<String>,
    /// Cycles in a second.
    pub tsc_hz: u64,
    /// Each worker.
    pub workers: Vec<Worker>,
    /// All of them; busy is their mean.
    pub total: Worker,
    /// The stages of all workers, in the packet's order.
    pub stages: Vec<Stage>,
    /// The services; removed ones that still have connections last.
    pub services: Vec<Service>,
    /// Connections by state, now.
    pub states: Vec<State>,
    /// Drops by reason, of those that ever happened; the most frequent first.
    pub drops: Vec<Drop>,
    /// What ports lost by themselves, likewise; the reason says on which interface.
    pub losses: Vec<Drop>,
    /// Connections that timed out, a second.
    pub expired: f64,
    /// Half-open connections that gave way to new ones, a second.
    pub evicted: f64,
    /// Half-open connections, now.
    pub half_open: usize,
}

/// How a worker does.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Worker {
    /// Its core, if it is pinned.
    pub core: Option<usize>,
    /// Part of its time in which it had packets, 0 to 1.
    pub busy: f64,
    /// Frames received and taken over, a second.
    pub packets: f64,
    /// Bytes received, a second.
    pub bytes: f64,
    /// Frames sent on, a second.
    pub forwarded: f64,
    /// Frames dropped, a second.
    pub dropped: f64,
    /// Cycles for each packet, the whole turn of the loop; 0 where there was none.
    pub cycles_per_packet: f64,
    /// Frames in a batch, of [`lcs_dataplane::batch::BURST`] at most; 0 where there was none.
    pub batch: f64,
    /// Connections.
    pub flows: usize,
    /// Connections that fit.
    pub capacity: usize,
}

/// What a stage costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// Packets that it worked on, a second.
    pub packets: f64,
    /// Cycles for each of these.
    pub cycles_per_packet: f64,
    /// Its part of all stages' cycles, 0 to 1.
    pub share: f64,
}

/// What goes to a service or server, and back where that comes through the director.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Traffic {
    /// Packets from clients, a second.
    pub packets_in: f64,
    /// Packets to clients, a second.
    pub packets_out: f64,
    /// Bytes from clients, a second.
    pub bytes_in: f64,
    /// Bytes to clients, a second.
    pub bytes_out: f64,
    /// Connections opened, a second.
    pub opened: f64,
    /// Connections that carry data, now.
    pub active: u32,
    /// Connections that don't, now.
    pub inactive: u32,
}

impl Traffic {
    /// Packets both ways, a second.
    pub fn packets(&self) -> f64 {
        self.packets_in + self.packets_out
    }

    /// Bytes both ways, a second.
    pub fn bytes(&self) -> f64 {
        self.bytes_in + self.bytes_out
    }
}

/// How a service does.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Protocol, address, port.
    pub endpoint: String,
    /// Its scheduler.
    pub scheduler: String,
    /// `up`, or `removed` while it still has connections.
    pub state: String,
    /// Sum over its servers.
    pub traffic: Traffic,
    /// Its servers.
    pub servers: Vec<Server>,
    /// What its rules decide, if it has some.
    pub content: Option<Content>,
}

/// How a server does.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Server {
    /// Its name.
    pub name: String,
    /// Its address, with its port where it has one of its own.
    pub endpoint: String,
    /// How packets get there.
    pub forward: String,
    /// Its weight.
    pub weight: u32,
    /// `up`, `draining`, `down` or `removed`.
    pub state: String,
    /// Why it is down or cannot be reached.
    pub problem: Option<String>,
    /// What goes to it.
    pub traffic: Traffic,
}

/// What is decided by content.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Content {
    /// Clients' connections, now.
    pub connections: u64,
    /// Connections to servers that are not in turn, now.
    pub parked: u64,
    /// Requests in hand, now.
    pub in_hand: u64,
    /// Decisions, a second.
    pub decisions: f64,
    /// The rules, `default` last.
    pub rules: Vec<Rule>,
    /// Requests that no server got, a second: what rules answered, then what was refused.
    pub unserved: Vec<(String, f64)>,
    /// Queues.
    pub queues: Vec<Queue>,
    /// Guesses, where servers are guessed.
    pub guesses: Option<Guesses>,
    /// Connections to servers that clients share, where they do.
    pub pool: Option<Pool>,
    /// Connections given to filters, where they are.
    pub migrations: Option<Migrations>,
}

/// Connections given to filters; rates are a second.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Migrations {
    /// Filters that answer now, as each worker finds it.
    pub live: u64,
    /// Connections that filters took.
    pub accepted: f64,
    /// Those that they did not take.
    pub refused: f64,
    /// Those of which nothing was heard.
    pub unanswered: f64,
    /// Connections bound over full NAT because no filter took them.
    pub fallback: f64,
    /// Later requests given to the filter in turn.
    pub continued: f64,
    /// Connections given back for another request.
    pub recalled: f64,
}

/// Connections to servers that clients share; rates are a second.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pool {
    /// Idle now.
    pub idle: u64,
    /// A client's now.
    pub lent: u64,
    /// Requests that found one open, 0 to 1 of those that looked for one.
    pub open: Option<f64>,
    /// Requests for which one was opened.
    pub fresh: f64,
    /// Requests sent again because the server had closed the connection.
    pub repeated: f64,
    /// Idle connections that servers closed.
    pub lost: f64,
}

/// How often a rule is taken.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// Decisions, a second.
    pub decisions: f64,
    /// Its part of the service's decisions in the interval, 0 to 1.
    pub share: f64,
    /// Decisions since the start.
    pub since_start: u64,
}

/// A queue.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Requests that wait, now.
    pub waiting: u64,
    /// Requests that passed, a second.
    pub passed: f64,
    /// Requests that were refused or waited for too long, a second.
    pub refused: f64,
    /// Mean wait of those that had to, milliseconds.
    pub wait: f64,
}

/// Servers guessed with a client's SYN.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Guesses {
    /// What they go by.
    pub by: String,
    /// Guesses, a second.
    pub made: f64,
    /// Right ones of those that turned out right or wrong in the interval, 0 to 1; none where there was none.
    pub right: Option<f64>,
    /// Wrong ones, a second.
    pub wrong: f64,
    /// Guessed servers that did not answer, a second.
    pub unanswered: f64,
    /// Guesses given up because the request came in pieces, a second.
    pub undecided: f64,
    /// Connections for which there was nothing to go by, a second.
    pub none: f64,
}

/// Connections in a state.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct State {
    /// The state.
    pub name: String,
    /// How many.
    pub connections: u64,
}

/// Drops for a reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Drop {
    /// The reason.
    pub reason: String,
    /// Frames, a second.
    pub frames: f64,
    /// Frames since the start.
    pub since_start: u64,
    /// What it means.
    pub explanation: String,
}

/// Whether `now` is a later reading of the same director.
pub fn same_director(now: &Sample, before: &Sample) -> bool {
    now.status.pid == before.status.pid
        && now.stats.uptime > before.stats.uptime
        && now.stats.workers.len() == before.stats.workers.len()
}

/// What happened between two readings; nothing where they are not of one director, in order.
pub fn rates(now: &Sample, before: &Sample) -> Option<Rates> {
    if !same_director(now, before) {
        return None;
    }
    let d = render::since(&now.stats, &before.stats);
    let over = Over(d.uptime);
    let core = |i: usize| now.status.workers.iter().find(|w| w.worker == i).and_then(|w| w.core);
    let workers: Vec<Worker> =
        d.workers.iter().enumerate().map(|(i, w)| worker(w, core(i), 1, d.tsc_hz, over)).collect();
    let stages = d.total.stages.iter().map(|s| Stage {
        name: s.name.clone(),
        packets: over.rate(s.cost.packets),
        cycles_per_packet: s.cycles_per_packet,
        share: s.share,
    });
    let services = d.services.iter().map(|s| {
        let same = |b: &&ServiceReport| b.name == s.name && b.protocol == s.protocol && b.address == s.address;
        let old = before.stats.services.iter().find(same);
        service(s, now.stats.services.iter().find(same), old, over)
    });
    let most_frequent_first =
        |a: &Drop, b: &Drop| b.frames.total_cmp(&a.frames).then(b.since_start.cmp(&a.since_start));
    let mut losses: Vec<Drop> = now
        .stats
        .total
        .losses
        .iter()
        .map(|all| {
            let same = |l: &&Losses| (&l.interface, &l.reason) == (&all.interface, &all.reason);
            Drop {
                reason: format!("{} on {}", all.reason, all.interface),
                frames: over.rate(d.total.losses.iter().find(same).map_or(0, |l| l.frames)),
                since_start: all.frames,
                explanation: all.explanation.clone(),
            }
        })
        .collect();
    losses.sort_by(most_frequent_first);
    let mut drops: Vec<Drop> = now
        .stats
        .total
        .drops
        .iter()
        .map(|all| Drop {
            reason: all.reason.clone(),
            frames: over.rate(d.total.drops.iter().find(|d| d.reason == all.reason).map_or(0, |d| d.frames)),
            since_start: all.frames,
            explanation: all.explanation.clone(),
        })
        .collect();
    drops.sort_by(most_frequent_first);
    Some(Rates {
        program: now.status.program.clone(),
        pid: now.status.pid,
        uptime: now.stats.uptime,
        interval: d.uptime,
        port: now.status.port.clone(),
        tsc_hz: d.tsc_hz,
        total: worker(&d.total, None, d.workers.len(), d.tsc_hz, over),
        workers,
        stages: stages.collect(),
        services: services.collect(),
        states: d.total.states.iter().map(|(s, n)| State { name: s.clone(), connections: *n }).collect(),
        drops,
        losses,
        expired: over.rate(d.total.expired),
        evicted: over.rate(d.total.evicted),
        half_open: d.total.half_open,
    })
}

/// The interval, seconds.
#[derive(Debug, Clone, Copy)]
struct Over(f64);

impl Over {
    fn rate(self, n: u64) -> f64 {
        n as f64 / self.0.max(1e-3)
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn worker(w: &WorkerStats, core: Option<usize>, workers: usize, hz: u64, over: Over) -> Worker {
    let receive = w.stages.iter().find(|s| s.name == "receive").map(|s| s.cost).unwrap_or_default();
    let available = hz.max(1) as f64 * workers.max(1) as f64;
    Worker {
        core,
        // Cycles are sampled under load, so that they may come to a little more than there were.
        busy: (over.rate(w.cycles) / available).min(1.0),
        packets: over.rate(w.received + w.taken_over),
        bytes: over.rate(w.received_bytes),
        forwarded: over.rate(w.forwarded),
        dropped: over.rate(w.dropped),
        cycles_per_packet: w.cycles_per_packet,
        batch: ratio(receive.packets, receive.calls),
        flows: w.flows,
        capacity: w.capacity,
    }
}

fn traffic(now: &ServerStats, before: Option<&ServerStats>, over: Over) -> Traffic {
    let none = ServerStats::default();
    let before = before.unwrap_or(&none);
    let rate = |of: fn(&ServerStats) -> u64| over.rate(of(now).saturating_sub(of(before)));
    Traffic {
        packets_in: rate(|s| s.packets_in),
        packets_out: rate(|s| s.packets_out),
        bytes_in: rate(|s| s.bytes_in),
        bytes_out: rate(|s| s.bytes_out),
        opened: rate(|s| s.connections),
        active: now.active,
        inactive: now.inactive,
    }
}

/// `s` has the difference of what counts up of its content; `whole` what was counted since the start.
fn service(s: &ServiceReport, whole: Option<&ServiceReport>, before: Option<&ServiceReport>, over: Over) -> Service {
    let counts = |s: &'_ ServiceReport| s.content.as_ref().and_then(|c| c.counts.clone());
    Service {
        name: s.name.clone(),
        endpoint: format!("{} {}", s.protocol, endpoint_text(s.address, s.port)),
        scheduler: s.scheduler.word().to_owned(),
        state: s.state.clone(),
        traffic: traffic(&s.stats, before.map(|b| &b.stats), over),
        servers: s.servers.iter().map(|r| server(r, before, over)).collect(),
        content: counts(s).map(|c| content(&c, whole.and_then(counts).as_ref(), over)),
    }
}

fn server(r: &ServerReport, before: Option<&ServiceReport>, over: Over) -> Server {
    let same = |b: &&ServerReport| b.name == r.name && b.address == r.address && b.port == r.port;
    let old = before.and_then(|b| b.servers.iter().find(same));
    Server {
        name: r.name.clone(),
        endpoint: if r.port == 0 { r.address.to_string() } else { endpoint_text(r.address, r.port) },
        forward: r.forward.word().to_owned(),
        weight: r.weight,
        state: r.state.clone(),
        problem: r.down.clone().or_else(|| r.problem.clone()),
        traffic: traffic(&r.stats, old.map(|o| &o.stats), over),
    }
}

fn content(c: &ContentCounts, whole: Option<&ContentCounts>, over: Over) -> Content {
    let all: u64 = c.rules.iter().map(|r| r.decisions).sum();
    // The difference keeps the order of the rules.
    let since_start = |i: usize| whole.and_then(|w| w.rules.get(i)).map_or(0, |r| r.decisions);
    let rules = c.rules.iter().enumerate().map(|(i, r)| Rule {
        name: r.rule.clone(),
        decisions: over.rate(r.decisions),
        share: ratio(r.decisions, all),
        since_start: since_start(i),
    });
    let answers = c.answers.iter().map(|a| {
        let what = a.status.map_or("reset by a rule".to_owned(), |status| format!("{status} by a rule"));
        (what, over.rate(a.requests))
    });
    let refusals = c.refusals.iter().map(|r| (r.reason.clone(), over.rate(r.requests)));
    let queues = c.queues.iter().map(|q| Queue {
        name: q.queue.clone(),
        waiting: q.counts.waiting,
        passed: over.rate(q.counts.passed),
        refused: over.rate(q.counts.full + q.counts.timed_out),
        wait: ratio(q.counts.waited, q.counts.delayed) / 1e6,
    });
    Content {
        connections: c.connections,
        parked: c.parked,
        in_hand: c.in_hand,
        decisions: over.rate(all),
        rules: rules.collect(),
        unserved: answers.chain(refusals).collect(),
        queues: queues.collect(),
        guesses: c.guesses.as_ref().map(|g| {
            let n = &g.counts;
            Guesses {
                by: g.by.clone(),
                made: over.rate(n.made),
                right: (n.right + n.wrong > 0).then(|| ratio(n.right, n.right + n.wrong)),
                wrong: over.rate(n.wrong),
                unanswered: over.rate(n.unanswered),
                undecided: over.rate(n.undecided),
                none: over.rate(n.none),
            }
        }),
        pool: c.pool.as_ref().map(|n| Pool {
            idle: n.idle,
            lent: n.lent,
            open: (n.reused + n.fresh > 0).then(|| ratio(n.reused, n.reused + n.fresh)),
            fresh: over.rate(n.fresh),
            repeated: over.rate(n.repeated),
            lost: over.rate(n.lost),
        }),
        migrations: c.migrations.as_ref().map(|n| Migrations {
            live: n.live,
            accepted: over.rate(n.accepted),
            refused: over.rate(n.refused),
            unanswered: over.rate(n.unanswered),
            fallback: over.rate(n.fallback),
            continued: over.rate(n.continued),
            recalled: over.rate(n.recalled),
        }),
    }
}
