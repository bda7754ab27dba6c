//! What a new configuration changes, in words.

use crate::config::{
    self, Content, FallbackWord, SchemeWord, Server, Service, Word, channel_text, endpoint_text, guess_text, pool_text,
};
use crate::render::counted;
use lcs_dataplane::flow::TcpState;
use lcs_pipelines::content::{Queue, Rate, Sticky};
use lcs_pipelines::snapshot::{Timeouts, WhenFull};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What happens to something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It is new.
    Added,
    /// It is gone, or goes when its last connection ends.
    Removed,
    /// It is different from now on.
    Changed,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What happens.
    pub kind: Kind,
    /// To what: `web`, `web/s1`, `timeouts.udp`.
    pub subject: String,
    /// In detail.
    pub detail: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.kind {
            Kind::Added => '+',
            Kind::Removed => '-',
            Kind::Changed => '~',
        };
        write!(f, "{mark} {}: {}", self.subject, self.detail)
    }
}

impl Change {
    pub(super) fn new(kind: Kind, subject: impl Into<String>, detail: impl Into<String>) -> Self {
        Change { kind, subject: subject.into(), detail: detail.into() }
    }

    pub(super) fn service_added(s: &Service) -> Self {
        let endpoint = endpoint_text(s.address, s.port);
        let by = s.content.as_ref().map_or(String::new(), |content| format!(", {}", by_rules(content)));
        let servers = counted(s.servers.len(), "server");
        let detail = format!("{} {endpoint}, {}, {servers}{by}", s.protocol, s.scheduler.word());
        Change::new(Kind::Added, &s.name, detail)
    }

    pub(super) fn service_removed(s: &Service) -> Self {
        let endpoint = endpoint_text(s.address, s.port);
        Change::new(
            Kind::Removed,
            &s.name,
            format!("{} {endpoint}; its connections are kept until they end", s.protocol),
        )
    }

    pub(super) fn server_added(service: &Service, s: &Server, revived: bool) -> Self {
        let again = if revived { "; it was draining and keeps its connections" } else { "" };
        let detail = format!(
            "{}, {}, weight {}{again}",
            endpoint_text(s.address, published_port(service, s)),
            s.forward.word(),
            s.weight
        );
        Change::new(Kind::Added, format!("{}/{}", service.name, s.name), detail)
    }

    pub(super) fn server_removed(service: &str, s: &Server) -> Self {
        let detail = format!("{}; it drains: its connections are kept until they end", s.address);
        Change::new(Kind::Removed, format!("{service}/{}", s.name), detail)
    }
}

/// The port that stands in the snapshot: 0 where the packet's is kept.
pub(super) fn published_port(service: &Service, server: &Server) -> u16 {
    match (server.forward.replies_return(), server.port) {
        (false, _) => 0,
        (true, 0) => service.port,
        (true, port) => port,
    }
}

fn list<T: fmt::Display>(values: &[T]) -> String {
    if values.is_empty() {
        return "none".to_owned();
    }
    values.iter().map(T::to_string).collect::<Vec<_>>().join(" ")
}

/// What differs between two versions of the same service, its servers aside.
pub(super) fn service(old: &Service, new: &Service) -> Option<Change> {
    let mut what = Vec::new();
    if old.scheduler != new.scheduler {
        what.push(format!("scheduler {} → {}", old.scheduler.word(), new.scheduler.word()));
    }
    if old.sources != new.sources {
        what.push(format!("sources {} → {}", list(&old.sources), list(&new.sources)));
    }
    if old.source_ports != new.source_ports {
        let ((a, b), (c, d)) = (old.source_ports, new.source_ports);
        what.push(format!("source ports {a}-{b} → {c}-{d}"));
    }
    if old.forward != new.forward {
        what.push(format!("forward of servers that do not say {} → {}", old.forward.word(), new.forward.word()));
    }
    if old.persistence != new.persistence {
        what.push(match &new.persistence {
            None => "clients no longer keep their servers".to_owned(),
            Some(p) => format!("clients keep their servers for {:?} (/{} and /{})", p.timeout, p.mask4, p.mask6),
        });
    }
    if old.check != new.check {
        what.push(match &new.check {
            None => "servers are no longer checked, and count as up".to_owned(),
            Some(check) => format!("servers are checked by {} every {:?}", check.kind.word(), check.interval),
        });
    }
    match (&old.content, &new.content) {
        (None, None) => {}
        (None, Some(new)) => what.push(format!("switched by content from now on: {}", by_rules(new))),
        (Some(_), None) => what.push("no longer switched by content".to_owned()),
        (Some(old), Some(new)) => content(old, new, &mut what),
    }
    (!what.is_empty()).then(|| Change::new(Kind::Changed, &new.name, what.join(", ")))
}

/// `12 rules of shop.rules`.
pub(super) fn by_rules(content: &Content) -> String {
    let n = content.rule_count();
    format!("{n} {} of {}", if n == 1 { "rule" } else { "rules" }, content.rules.file)
}

/// `100/s (burst 10)`.
fn rate_text(rate: Option<Rate>) -> String {
    rate.map_or("none".to_owned(), |rate| format!("{}/s (burst {})", rate.per_second, rate.burst))
}

fn sticky_text(sticky: &Sticky) -> String {
    match sticky {
        Sticky::None => "none".to_owned(),
        Sticky::Source => "source".to_owned(),
        Sticky::Cookie(name) => format!("cookie.{name}"),
        Sticky::SetCookie(name) => format!("set-cookie.{name}"),
    }
}

/// `requests 100/s (burst 10), priority 3, length 64, 10 s`.
fn limits(queue: &Queue) -> String {
    let mut out = String::new();
    for (what, rate) in [("requests", queue.requests), ("packets", queue.packets)] {
        if rate.is_some() {
            out += &format!("{what} {}, ", rate_text(rate));
        }
    }
    let packets = queue.packet_length.map_or(String::new(), |n| format!(" ({n} packets)"));
    let seconds = queue.timeout.as_secs_f64();
    out + &format!("priority {}, length {}{packets}, {seconds} s", queue.priority, queue.length)
}

/// What differs between two contents of the same service.
fn content(old: &Content, new: &Content, what: &mut Vec<String>) {
    if old.rules != new.rules {
        what.push(format!("{} → {}", by_rules(old), by_rules(new)));
    }
    if old.application != new.application {
        what.push(format!("application {} → {}", old.application.word(), new.application.word()));
    }
    let members = |group: &config::Group| {
        let scheduler = group.scheduler.map_or(String::new(), |s| format!(" ({})", s.word()));
        format!("{}{scheduler}", list(&group.servers))
    };
    for group in &new.groups {
        match old.group(&group.name) {
            None => what.push(format!("group {}: {}", group.name, members(group))),
            Some((_, before)) if before != group => {
                what.push(format!("group {}: {} → {}", group.name, members(before), members(group)));
            }
            Some(_) => {}
        }
    }
    let gone = old.groups.iter().filter(|group| new.group(&group.name).is_none());
    what.extend(gone.map(|group| format!("group {} removed", group.name)));
    for queue in &new.binding.queues {
        match old.binding.queues.iter().find(|before| before.name == queue.name) {
            None => what.push(format!("queue {}: {}", queue.name, limits(queue))),
            Some(before) if before != queue => {
                what.push(format!("queue {}: {} → {}", queue.name, limits(before), limits(queue)));
            }
            Some(_) => {}
        }
    }
    let gone = old.binding.queues.iter().filter(|queue| !new.binding.queues.iter().any(|q| q.name == queue.name));
    what.extend(gone.map(|queue| format!("queue {} removed", queue.name)));
    let (a, b) = (&old.binding, &new.binding);
    let mut say = |key: &str, old: String, new: String| {
        if old != new {
            what.push(format!("{key} {old} → {new}"));
        }
    };
    say("queue-rate", rate_text(a.queue_rate), rate_text(b.queue_rate));
    say("sticky", sticky_text(&a.sticky), sticky_text(&b.sticky));
    let name = |content: &Content| content.host_name.clone().unwrap_or_else(|| "the machine's".to_owned());
    say("host-name", name(old), name(new));
    say("binding", SchemeWord::of(&a.scheme).word().into(), SchemeWord::of(&b.scheme).word().into());
    say("guess", guess_text(&a.scheme), guess_text(&b.scheme));
    let scale = |scale: Option<u8>| scale.map_or("none".to_owned(), |scale| scale.to_string());
    say("server-wscale", scale(a.server_scale), scale(b.server_scale));
    say("pool", pool_text(&a.scheme), pool_text(&b.scheme));
    say("filters", channel_text(&a.scheme), channel_text(&b.scheme));
    say("fallback", FallbackWord::of(&a.scheme).word().into(), FallbackWord::of(&b.scheme).word().into());
    if let (Some(a), Some(b)) = (a.scheme.channel(), b.scheme.channel())
        && a.key != b.key
    {
        say("filter-key", "before".into(), "another one".into());
    }
    say("syn", a.syn.word().into(), b.syn.word().into());
    say("timestamps", a.timestamps.to_string(), b.timestamps.to_string());
    say("switching", a.switching.word().into(), b.switching.word().into());
    say("on-unparsed", a.on_unparsed.word().into(), b.on_unparsed.word().into());
    for (key, old, new) in [
        ("head-limit", a.limits.head, b.limits.head),
        ("body-limit", a.limits.body, b.limits.body),
        ("hello-limit", a.limits.hello, b.limits.hello),
        ("syn-retries", a.syn_retries.into(), b.syn_retries.into()),
        ("mss", a.mss.into(), b.mss.into()),
    ] {
        say(key, old.to_string(), new.to_string());
    }
    for (key, old, new) in [
        ("first-byte-timeout", a.first_byte, b.first_byte),
        ("request-timeout", a.request, b.request),
        ("sticky-timeout", a.sticky_timeout, b.sticky_timeout),
    ] {
        say(key, format!("{} s", old.as_secs_f64()), format!("{} s", new.as_secs_f64()));
    }
}

/// What differs between two versions of the same server.
pub(super) fn server(service: &str, old: &Server, new: &Server) -> Option<Change> {
    let mut what = Vec::new();
    if old.weight != new.weight {
        what.push(format!("weight {} → {}", old.weight, new.weight));
    }
    if old.state != new.state {
        what.push(format!("{} → {}", old.state, new.state));
    }
    (!what.is_empty()).then(|| Change::new(Kind::Changed, format!("{service}/{}", new.name), what.join(", ")))
}

/// What differs in the time-outs.
pub(super) fn timeouts(old: &Timeouts, new: &Timeouts) -> Vec<Change> {
    TcpState::ALL
        .into_iter()
        .filter(|s| old.get(*s) != new.get(*s))
        .map(|s| {
            let detail = format!("{} s → {} s", old.get(s).as_secs_f64(), new.get(s).as_secs_f64());
            Change::new(Kind::Changed, format!("timeouts.{}", s.name()), detail)
        })
        .collect()
}

/// What differs in the policy for a full flow table.
pub(super) fn when_full(old: WhenFull, new: WhenFull) -> Option<Change> {
    (old != new).then(|| Change::new(Kind::Changed, "workers.when-full", format!("{} → {}", old.word(), new.word())))
}
