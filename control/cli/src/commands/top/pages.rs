//! What is shown on each page: from rates to panels.

use super::panel::{Cell, Panel, Tone, bar};
use super::rates::{Content, Rates, Server, Service, Traffic, Worker};
use lcs_control::render::{number, percent, scaled};
use lcs_dataplane::batch::BURST;

/// A page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// Workers, services, stages, drops.
    Overview,
    /// Services with their servers.
    Services,
    /// Connections by state, drops with their explanations.
    Connections,
    /// Decisions by rule, queues, guesses.
    Content,
}

impl Page {
    /// In the order of their keys.
    pub const ALL: [Page; 4] = [Page::Overview, Page::Services, Page::Connections, Page::Content];

    /// Its name on its tab.
    pub fn name(self) -> &'static str {
        match self {
            Page::Overview => "overview",
            Page::Services => "services",
            Page::Connections => "connections",
            Page::Content => "content",
        }
    }

    /// The page behind this one; the first behind the last.
    pub fn next(self) -> Page {
        Page::ALL[(self as usize + 1) % Page::ALL.len()]
    }

    /// The page before this one.
    pub fn previous(self) -> Page {
        Page::ALL[(self as usize + Page::ALL.len() - 1) % Page::ALL.len()]
    }
}

/// In which order services, servers and rules are shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// As they are configured.
    #[default]
    Configured,
    /// Most packets, or decisions, a second first.
    Rate,
    /// Most new connections a second first.
    Opened,
    /// Most active connections first.
    Active,
}

impl Order {
    /// What comes first, in a word or two.
    pub fn name(self) -> &'static str {
        match self {
            Order::Configured => "configured",
            Order::Rate => "packets/s",
            Order::Opened => "new/s",
            Order::Active => "active",
        }
    }

    /// The next one.
    pub fn next(self) -> Order {
        match self {
            Order::Configured => Order::Rate,
            Order::Rate => Order::Opened,
            Order::Opened => Order::Active,
            Order::Active => Order::Configured,
        }
    }

    fn sorted<T>(self, all: &[T], traffic: impl Fn(&T) -> &Traffic) -> Vec<&T> {
        let mut sorted: Vec<&T> = all.iter().collect();
        let key = |t: &Traffic| match self {
            Order::Configured => 0.0,
            Order::Rate => t.packets(),
            Order::Opened => t.opened,
            Order::Active => t.active.into(),
        };
        sorted.sort_by(|a, b| key(traffic(b)).total_cmp(&key(traffic(a))));
        sorted
    }
}

/// The panels of a page, the more important first.
pub fn panels(page: Page, r: &Rates, order: Order) -> Vec<Panel> {
    match page {
        Page::Overview => vec![workers(r), services(r, order), stages(r), drops(r, false)],
        Page::Services => vec![servers(r, order)],
        Page::Connections => vec![states(r), drops(r, true)],
        Page::Content => content(r, order),
    }
}

/// Everything once, for who reads no pages.
pub fn all(r: &Rates, order: Order) -> Vec<Panel> {
    let mut panels = vec![workers(r), stages(r), servers(r, order), states(r), drops(r, true)];
    if r.services.iter().any(|s| s.content.is_some()) {
        panels.extend(content(r, order));
    }
    panels
}

/// A rate, without its unit.
fn rate(n: f64) -> String {
    if n > 0.0 && n < 10.0 { format!("{n:.1}") } else { scaled(n, "").trim_end().to_owned() }
}

fn bytes(n: f64) -> String {
    scaled(n, "B")
}

fn cycles(n: f64) -> String {
    if n > 0.0 { format!("{n:.0}") } else { "-".to_owned() }
}

fn workers(r: &Rates) -> Panel {
    let columns =
        ["worker", "8core", ">busy", "2", ">packets/s", "6>bytes/s", ">cycles/packet", "3>batch", "7>dropped/s"];
    let mut panel = Panel::new("workers", &[&columns[..], &["4>connections", "9>of"]].concat());
    let mut row = |name: String, core: String, w: &Worker| {
        let tone = match w.busy {
            b if b > 0.95 => Tone::Bad,
            b if b > 0.8 => Tone::Warn,
            _ => Tone::Plain,
        };
        let full = w.flows as f64 > 0.9 * w.capacity as f64;
        panel.row([
            name.into(),
            core.into(),
            Cell::toned(percent(w.busy), tone),
            Cell::toned(format!("{:<8}", bar(w.busy, 8)), tone),
            rate(w.packets).into(),
            bytes(w.bytes).into(),
            cycles(w.cycles_per_packet).into(),
            if w.batch > 0.0 { format!("{:.1}/{BURST}", w.batch) } else { "-".to_owned() }.into(),
            Cell::toned(rate(w.dropped), if w.dropped > 0.0 { Tone::Warn } else { Tone::Plain }),
            Cell::toned(number(w.flows as u64), if full { Tone::Bad } else { Tone::Plain }),
            number(w.capacity as u64).into(),
        ]);
    };
    for (i, w) in r.workers.iter().enumerate() {
        row(i.to_string(), w.core.map_or("any".to_owned(), |c| c.to_string()), w);
    }
    if r.workers.len() > 1 {
        row("all".to_owned(), String::new(), &r.total);
    }
    panel
}

fn stages(r: &Rates) -> Panel {
    let mut panel = Panel::new("stages", &["stage", "5>packets/s", ">cycles/packet", "6>ns/packet", ">share", "3"]);
    for s in &r.stages {
        let ns = s.cycles_per_packet * 1e9 / r.tsc_hz.max(1) as f64;
        panel.row([
            s.name.clone().into(),
            rate(s.packets).into(),
            cycles(s.cycles_per_packet).into(),
            if ns > 0.0 { format!("{ns:.1}") } else { "-".to_owned() }.into(),
            percent(s.share).into(),
            format!("{:<20}", bar(s.share, 20)).into(),
        ]);
    }
    panel
}

/// Columns of traffic, the same for services and servers.
const TRAFFIC: [&str; 7] = [">packets/s", "8>in", "8>out", "5>bytes/s", ">new/s", ">active", "7>inactive"];

fn traffic(t: &Traffic) -> [Cell; 7] {
    [
        rate(t.packets()).into(),
        rate(t.packets_in).into(),
        rate(t.packets_out).into(),
        bytes(t.bytes()).into(),
        rate(t.opened).into(),
        number(t.active.into()).into(),
        number(t.inactive.into()).into(),
    ]
}

fn state(s: &str, problem: bool) -> Cell {
    match s {
        "up" if problem => Cell::toned("up, unreachable", Tone::Bad),
        "up" => Cell::toned("up", Tone::Good),
        "down" => Cell::toned("down", Tone::Bad),
        "draining" => Cell::toned("draining", Tone::Warn),
        other => Cell::toned(other, Tone::Dim),
    }
}

fn services(r: &Rates, order: Order) -> Panel {
    let mut panel =
        Panel::new("services", &[&["service", "9endpoint", "4>servers"][..], &TRAFFIC, &["state"]].concat());
    for s in order.sorted(&r.services, |s| &s.traffic) {
        let up = s.servers.iter().filter(|r| r.state == "up" && r.problem.is_none()).count();
        let tone = match up {
            _ if s.state != "up" => Tone::Dim,
            0 => Tone::Bad,
            n if n < s.servers.len() => Tone::Warn,
            _ => Tone::Plain,
        };
        let of = Cell::toned(format!("{up}/{} up", s.servers.len()), tone);
        let cells = [s.name.clone().into(), s.endpoint.clone().into(), of].into_iter();
        panel.row(cells.chain(traffic(&s.traffic)).chain([state(&s.state, false)]));
    }
    if r.services.is_empty() {
        panel.say("no services; add one to the configuration, or with `lcs vs add`");
    }
    panel
}

fn servers(r: &Rates, order: Order) -> Panel {
    let head = ["service/server", "9address", "8forward", "3>weight"];
    let mut panel = Panel::new("services and servers", &[&head[..], &TRAFFIC, &["state"]].concat());
    let mut problems = Vec::new();
    for s in order.sorted(&r.services, |s| &s.traffic) {
        let head = [s.name.clone().into(), s.endpoint.clone().into(), s.scheduler.clone().into(), Cell::default()];
        panel.row(head.into_iter().chain(traffic(&s.traffic)).chain([state(&s.state, false)]));
        for server in order.sorted(&s.servers, |r| &r.traffic) {
            panel.row(server_row(server));
            if let Some(problem) = &server.problem {
                problems.push(format!("{}/{}: {problem}", s.name, server.name));
            }
        }
    }
    if r.services.is_empty() {
        panel.say("no services; add one to the configuration, or with `lcs vs add`");
    }
    problems.into_iter().for_each(|p| panel.say(p));
    panel
}

fn server_row(s: &Server) -> impl Iterator<Item = Cell> {
    let head = [
        format!("  /{}", s.name).into(),
        s.endpoint.clone().into(),
        s.forward.clone().into(),
        s.weight.to_string().into(),
    ];
    head.into_iter().chain(traffic(&s.traffic)).chain([state(&s.state, s.problem.is_some())])
}

fn states(r: &Rates) -> Panel {
    let title = format!(
        "connections by state: {} of {}; {} half-open; {}/s timed out, {}/s half-open ones gave way",
        number(r.total.flows as u64),
        number(r.total.capacity as u64),
        number(r.half_open as u64),
        rate(r.expired),
        rate(r.evicted),
    );
    let mut panel = Panel::new(title, &["state", ">connections", ">share", "3"]);
    let all: u64 = r.states.iter().map(|s| s.connections).sum();
    for s in &r.states {
        let share = s.connections as f64 / all.max(1) as f64;
        panel.row([
            s.name.clone().into(),
            number(s.connections).into(),
            percent(share).into(),
            format!("{:<30}", bar(share, 30)).into(),
        ]);
    }
    if r.states.is_empty() {
        panel.say("no connections");
    }
    panel
}

fn drops(r: &Rates, explained: bool) -> Panel {
    let mut title = format!("drops by reason: {}/s", rate(r.total.dropped));
    if !r.losses.is_empty() {
        title += &format!("; lost by the port: {}/s", rate(r.losses.iter().map(|l| l.frames).sum()));
    }
    let why = if explained { "1why" } else { "9why" };
    let mut panel = Panel::new(title, &["reason", ">frames/s", "5>since the start", why]);
    for d in r.drops.iter().chain(&r.losses) {
        let tone = if d.frames > 0.0 { Tone::Warn } else { Tone::Dim };
        panel.row([
            Cell::toned(d.reason.clone(), tone),
            Cell::toned(rate(d.frames), tone),
            Cell::toned(number(d.since_start), tone),
            Cell::toned(d.explanation.clone(), Tone::Dim),
        ]);
    }
    if r.drops.is_empty() && r.losses.is_empty() {
        panel.say("nothing was dropped since the start");
    }
    panel
}

fn content(r: &Rates, order: Order) -> Vec<Panel> {
    let with = |s: &'_ &Service| s.content.is_some();
    let mut panels = Vec::new();
    for s in order.sorted(&r.services, |s| &s.traffic).into_iter().filter(with) {
        if let Some(c) = &s.content {
            rules(&mut panels, &s.name, c, order);
        }
    }
    if panels.is_empty() {
        let mut panel = Panel::new("content", &[]);
        panel.say("no service has rules; `rules = \"FILE\"` in a service makes it switch by content");
        panels.push(panel);
    }
    panels
}

fn rules(panels: &mut Vec<Panel>, service: &str, c: &Content, order: Order) {
    let title = format!(
        "{service} by content: {} decisions/s; {} connections spliced, {} parked, {} requests in hand",
        rate(c.decisions),
        number(c.connections),
        number(c.parked),
        number(c.in_hand)
    );
    let mut panel = Panel::new(title, &["rule", ">decisions/s", ">share", "3", "5>since the start"]);
    let mut shown: Vec<_> = c.rules.iter().collect();
    if order != Order::Configured {
        shown.sort_by(|a, b| b.decisions.total_cmp(&a.decisions));
    }
    for rule in shown {
        panel.row([
            rule.name.clone().into(),
            rate(rule.decisions).into(),
            percent(rule.share).into(),
            format!("{:<20}", bar(rule.share, 20)).into(),
            number(rule.since_start).into(),
        ]);
    }
    if let Some(g) = &c.guesses {
        let right = g.right.map_or("none decided".to_owned(), |share| format!("{} right", percent(share)));
        panel.say(format!(
            "guesses by {}: {}/s made, {right}, {}/s wrong, {}/s unanswered",
            g.by,
            rate(g.made),
            rate(g.wrong),
            rate(g.unanswered)
        ));
        panel.say(format!("  {}/s undecided, {}/s had nothing to go by", rate(g.undecided), rate(g.none)));
    }
    if let Some(p) = &c.pool {
        let open =
            p.open.map_or("nobody asked".to_owned(), |share| format!("{} of requests found one open", percent(share)));
        panel.say(format!(
            "pool: {} connections idle, {} lent; {open}, {}/s did not, {}/s repeated, {}/s closed by servers",
            number(p.idle),
            number(p.lent),
            rate(p.fresh),
            rate(p.repeated),
            rate(p.lost)
        ));
    }
    if let Some(m) = &c.migrations {
        panel.say(format!(
            "filters: {} live; {}/s took a connection, {}/s refused, {}/s unanswered",
            number(m.live),
            rate(m.accepted),
            rate(m.refused),
            rate(m.unanswered)
        ));
        panel.say(format!(
            "  {}/s over full NAT; later requests: {}/s on the same, {}/s after a recall",
            rate(m.fallback),
            rate(m.continued),
            rate(m.recalled)
        ));
    }
    for (what, n) in c.unserved.iter().filter(|(_, n)| *n > 0.0) {
        panel.say(format!("not to a server: {what}, {}/s", rate(*n)));
    }
    panels.push(panel);
    if !c.queues.is_empty() {
        let columns = ["queue", ">waiting", ">passed/s", ">refused/s", "4>mean wait"];
        let mut panel = Panel::new(format!("queues of {service}"), &columns);
        for q in &c.queues {
            panel.row([
                q.name.clone().into(),
                number(q.waiting).into(),
                rate(q.passed).into(),
                Cell::toned(rate(q.refused), if q.refused > 0.0 { Tone::Warn } else { Tone::Plain }),
                format!("{:.1} ms", q.wait).into(),
            ]);
        }
        panels.push(panel);
    }
}
