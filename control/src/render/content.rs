//! `lcs stats`: what was counted of services that are switched by content.

use super::table::{Table, number, percent, scaled};
use crate::protocol::{ContentCounts, GuessCount, RefusalCount, ServerCount, ServiceReport};
use lcs_pipelines::tally::Refusal;
use std::fmt::Write;

/// Rules shown of one service at most; those taken most often, when there are more.
const RULES: usize = 40;

/// Takes `before` from what counts up. A rule or server that is not in `before` counts from nothing.
pub(super) fn subtract(now: &mut ContentCounts, before: &ContentCounts) {
    let less = |n: &mut u64, old: Option<u64>| *n = n.saturating_sub(old.unwrap_or(0));
    let servers = |now: &mut [ServerCount], before: &[ServerCount]| {
        for s in now {
            less(&mut s.requests, before.iter().find(|b| b.server == s.server).map(|b| b.requests));
        }
    };
    // Rules stand in the same order unless they were replaced in between.
    for (i, rule) in now.rules.iter_mut().enumerate() {
        let same = before.rules.get(i).filter(|b| b.rule == rule.rule);
        let old = same.or_else(|| before.rules.iter().find(|b| b.rule == rule.rule));
        less(&mut rule.decisions, old.map(|b| b.decisions));
    }
    for group in &mut now.groups {
        if let Some(old) = before.groups.iter().find(|b| b.group == group.group) {
            servers(&mut group.servers, &old.servers);
            group.requests = group.servers.iter().map(|s| s.requests).sum();
        }
    }
    servers(&mut now.forwarded, &before.forwarded);
    for answer in &mut now.answers {
        less(&mut answer.requests, before.answers.iter().find(|b| b.status == answer.status).map(|b| b.requests));
    }
    for (now, before) in [(&mut now.refusals, &before.refusals), (&mut now.unreadable, &before.unreadable)] {
        for refusal in now {
            less(&mut refusal.requests, before.iter().find(|b| b.reason == refusal.reason).map(|b| b.requests));
        }
    }
    for queue in &mut now.queues {
        let Some(old) = before.queues.iter().find(|b| b.queue == queue.queue).map(|b| b.counts) else { continue };
        let n = &mut queue.counts;
        less(&mut n.passed, Some(old.passed));
        less(&mut n.passed_packets, Some(old.passed_packets));
        less(&mut n.delayed, Some(old.delayed));
        less(&mut n.waited, Some(old.waited));
        less(&mut n.full, Some(old.full));
        less(&mut n.timed_out, Some(old.timed_out));
    }
    less(&mut now.unstamped, Some(before.unstamped));
    if let (Some(now), Some(old)) = (&mut now.guesses, &before.guesses) {
        let (n, old) = (&mut now.counts, old.counts);
        less(&mut n.made, Some(old.made));
        less(&mut n.right, Some(old.right));
        less(&mut n.wrong, Some(old.wrong));
        less(&mut n.unanswered, Some(old.unanswered));
        less(&mut n.none, Some(old.none));
        less(&mut n.undecided, Some(old.undecided));
    }
    if let (Some(n), Some(old)) = (&mut now.pool, &before.pool) {
        less(&mut n.opened, Some(old.opened));
        less(&mut n.failed, Some(old.failed));
        less(&mut n.reused, Some(old.reused));
        less(&mut n.fresh, Some(old.fresh));
        less(&mut n.repeated, Some(old.repeated));
        less(&mut n.retired, Some(old.retired));
        less(&mut n.lost, Some(old.lost));
    }
    if let (Some(n), Some(old)) = (&mut now.migrations, &before.migrations) {
        less(&mut n.sent, Some(old.sent));
        less(&mut n.accepted, Some(old.accepted));
        less(&mut n.refused, Some(old.refused));
        less(&mut n.unanswered, Some(old.unanswered));
        less(&mut n.fallback, Some(old.fallback));
        less(&mut n.continued, Some(old.continued));
        less(&mut n.recalled, Some(old.recalled));
        less(&mut n.messages, Some(old.messages));
        less(&mut n.bytes, Some(old.bytes));
    }
    now.refusals.retain(|r| r.requests > 0);
    now.unreadable.retain(|r| r.requests > 0);
}

/// One service's counts; nothing where it is not switched by content.
pub(super) fn counts(service: &ServiceReport, over: Option<f64>) -> String {
    let Some(c) = service.content.as_ref().and_then(|content| content.counts.as_ref()) else { return String::new() };
    let mut out = String::new();
    let _ = writeln!(
        out,
        "\nservice {} by content: {} connections spliced, {} parked, {} requests in hand",
        service.name,
        number(c.connections),
        number(c.parked),
        number(c.in_hand)
    );
    rules(&mut out, c, over);
    groups(&mut out, c, over);
    unstamped(&mut out, c);
    guesses(&mut out, c);
    pool(&mut out, c);
    migrations(&mut out, c);
    queues(&mut out, c, over);
    answers(&mut out, c, over);
    out
}

fn rate(n: u64, over: Option<f64>) -> String {
    over.map_or(String::new(), |seconds| scaled(n as f64 / seconds.max(1e-3), "/s"))
}

fn head(over: Option<f64>) -> &'static str {
    if over.is_some() { ">rate" } else { "" }
}

fn share(part: u64, whole: u64) -> String {
    if whole == 0 { String::new() } else { percent(part as f64 / whole as f64) }
}

fn rules(out: &mut String, c: &ContentCounts, over: Option<f64>) {
    let all: u64 = c.rules.iter().map(|r| r.decisions).sum();
    let mut shown: Vec<usize> = (0..c.rules.len()).collect();
    if shown.len() > RULES {
        shown.sort_by_key(|i| std::cmp::Reverse(c.rules[*i].decisions));
        shown.truncate(RULES);
        shown.sort_unstable();
    }
    let mut table = Table::new(&["  rule", ">decisions", ">share", head(over)]);
    for rule in shown.iter().map(|i| &c.rules[*i]) {
        let n = rule.decisions;
        table.row([format!("  {}", rule.rule), number(n), share(n, all), rate(n, over)]);
    }
    *out += &table.show();
    if shown.len() < c.rules.len() {
        let never = c.rules.iter().filter(|r| r.decisions == 0).count();
        let _ = writeln!(
            out,
            "  the {} taken most often of {} rules ({} were never taken); --json shows all",
            shown.len(),
            number(c.rules.len() as u64),
            number(never as u64)
        );
    }
}

fn groups(out: &mut String, c: &ContentCounts, over: Option<f64>) {
    let mut table = Table::new(&["  group", "server", ">requests", ">share", head(over)]);
    let forwarded: u64 = c.forwarded.iter().map(|s| s.requests).sum();
    let by_forward = ("(forward)", forwarded, &c.forwarded);
    let groups = c.groups.iter().map(|g| (g.group.as_str(), g.requests, &g.servers));
    for (group, all, servers) in groups.chain([by_forward].into_iter().filter(|(.., servers)| !servers.is_empty())) {
        table.row([format!("  {group}"), String::new(), number(all), String::new(), rate(all, over)]);
        for s in servers {
            let n = s.requests;
            table.row([String::new(), s.server.clone(), number(n), share(n, all), rate(n, over)]);
        }
    }
    if !table.is_empty() {
        *out += &table.show();
    }
}

fn queues(out: &mut String, c: &ContentCounts, over: Option<f64>) {
    let columns = ["  queue", ">priority", ">waiting", ">packets", ">passed", ">packets", ">delayed", ">mean wait"];
    let mut table = Table::new(&[&columns[..], &[">full", ">timed out", head(over)]].concat());
    for q in &c.queues {
        let n = &q.counts;
        let mean = n.waited.checked_div(n.delayed).map_or(String::new(), |ns| format!("{:.1} ms", ns as f64 / 1e6));
        table.row([
            format!("  {}", q.queue),
            q.priority.to_string(),
            number(n.waiting),
            number(n.waiting_packets),
            number(n.passed),
            number(n.passed_packets),
            number(n.delayed),
            mean,
            number(n.full),
            number(n.timed_out),
            rate(n.passed, over),
        ]);
    }
    if !table.is_empty() {
        *out += &table.show();
    }
}

fn unstamped(out: &mut String, c: &ContentCounts) {
    if c.unstamped > 0 {
        let _ = writeln!(
            out,
            "  timestamps: {} times a server that does not know them was passed over (see `timestamps` in CONFIGURATION.md)",
            number(c.unstamped)
        );
    }
}

fn guesses(out: &mut String, c: &ContentCounts) {
    let Some(GuessCount { by, counts: n }) = &c.guesses else { return };
    let decided = n.right + n.wrong;
    let share =
        if decided > 0 { format!(" ({:.1} %)", n.right as f64 * 100.0 / decided as f64) } else { String::new() };
    let undecided = if n.undecided > 0 { format!(", {} undecided", number(n.undecided)) } else { String::new() };
    let _ = writeln!(
        out,
        "  guesses by {by}: {} made, {} right{share}, {} wrong, {} unanswered{undecided}; {} connections had nothing to go by",
        number(n.made),
        number(n.right),
        number(n.wrong),
        number(n.unanswered),
        number(n.none)
    );
}

fn pool(out: &mut String, c: &ContentCounts) {
    let Some(n) = &c.pool else { return };
    let asked = n.reused + n.fresh;
    let share = if asked > 0 { format!(" ({:.1} %)", n.reused as f64 * 100.0 / asked as f64) } else { String::new() };
    let _ = writeln!(
        out,
        "  pool: {} connections idle, {} lent; {} requests on an open one{share}, {} on a new one, {} repeated on another; \
         {} opened ahead, {} not answered, {} retired, {} closed by servers",
        number(n.idle),
        number(n.lent),
        number(n.reused),
        number(n.fresh),
        number(n.repeated),
        number(n.opened),
        number(n.failed),
        number(n.retired),
        number(n.lost)
    );
}

fn migrations(out: &mut String, c: &ContentCounts) {
    let Some(n) = &c.migrations else { return };
    let _ = writeln!(
        out,
        "  migrations: {} filters live; {} sent, {} accepted, {} refused, {} unanswered, {} over full NAT; \
         later requests: {} on the same, {} after a recall; {} messages, {} bytes",
        number(n.live),
        number(n.sent),
        number(n.accepted),
        number(n.refused),
        number(n.unanswered),
        number(n.fallback),
        number(n.continued),
        number(n.recalled),
        number(n.messages),
        number(n.bytes)
    );
}

fn answers(out: &mut String, c: &ContentCounts, over: Option<f64>) {
    let mut table = Table::new(&["  not to a server", ">requests", head(over), "why"]);
    for a in &c.answers {
        let what = a.status.map_or("  reset".to_owned(), |status| format!("  {status}"));
        table.row([what, number(a.requests), rate(a.requests, over), "A rule says so.".to_owned()]);
    }
    let mut row = |indent: &str, r: &RefusalCount| {
        table.row([format!("{indent}{}", r.reason), number(r.requests), rate(r.requests, over), r.explanation.clone()]);
    };
    for r in &c.refusals {
        row("  ", r);
        if r.reason == Refusal::Unreadable.name() {
            c.unreadable.iter().for_each(|r| row("    ", r));
        }
    }
    if !table.is_empty() {
        *out += &table.show();
    }
}
