//! What a service needs that is switched by content, as a user wants it: rules, groups of servers, binding.

use super::check::{Finding, Place};
use super::{Protocol, Server, Service, Word};
use crate::rules::{self, Action, FileError, Names, RuleSet, Stickiness, Variable};
use lcs_pipelines::content::{Binding, Guess, OnUnparsed, Queue, Scheme, Sticky, Switching, SynPolicy};
use lcs_pipelines::extract;
use lcs_pipelines::snapshot::{Forward, SLOTS, Scheduler};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// Most queues of one service.
pub const QUEUES_MAX: usize = 1024;
/// Longest name that the director may give itself in greetings, bytes (RFC 1035 section 2.3.4).
pub const HOST_NAME_MAX: usize = 255;
/// Most groups of one service.
pub const GROUPS_MAX: usize = 4096;

/// How a service is switched by content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// What clients speak.
    pub application: extract::Protocol,
    /// The rules. They have been compiled once with these names, so that compiling them again does not fail.
    pub rules: Arc<RuleSet>,
    /// Groups of servers that the rules may name, sorted by name.
    pub groups: Vec<Group>,
    /// How connections are bound. Queues are sorted by name.
    pub binding: Binding,
    /// What the director calls itself where it greets clients; the machine's name where none is given.
    pub host_name: Option<String>,
}

/// A group of servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name, unique in its service.
    pub name: String,
    /// How one of its servers is chosen; as the service says where there is none.
    pub scheduler: Option<Scheduler>,
    /// Names of its servers.
    pub servers: Vec<String>,
}

impl Word for extract::Protocol {
    const ALL: &'static [(&'static str, Self)] = &[
        ("http", extract::Protocol::Http),
        ("tls", extract::Protocol::Tls),
        ("smtp", extract::Protocol::Smtp),
        ("pop3", extract::Protocol::Pop3),
        ("imap", extract::Protocol::Imap),
        ("ftp", extract::Protocol::Ftp),
    ];
}

/// [`lcs_pipelines::content::Scheme`] as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemeWord {
    /// `Scheme::Delayed`
    Delayed,
    /// `Scheme::Preallocate`
    Preallocate,
    /// `Scheme::Pooled`
    Pooled,
    /// `Scheme::Filter`, and `Scheme::Migrated` at the other end
    Filter,
}

impl SchemeWord {
    /// How a scheme is written.
    pub fn of(scheme: &Scheme) -> Self {
        match scheme {
            Scheme::Delayed => SchemeWord::Delayed,
            Scheme::Preallocate(_) => SchemeWord::Preallocate,
            Scheme::Pooled(_) => SchemeWord::Pooled,
            Scheme::Filter(_) | Scheme::Migrated(_) => SchemeWord::Filter,
        }
    }
}

impl Word for SchemeWord {
    const ALL: &'static [(&'static str, Self)] = &[
        ("delayed", SchemeWord::Delayed),
        ("preallocate", SchemeWord::Preallocate),
        ("pooled", SchemeWord::Pooled),
        ("filter", SchemeWord::Filter),
    ];
}

/// [`lcs_pipelines::content::Guess`] as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GuessWord {
    Client,
    Frequency,
    Hash,
    Server,
}

impl Word for GuessWord {
    const ALL: &'static [(&'static str, Self)] = &[
        ("client", GuessWord::Client),
        ("frequency", GuessWord::Frequency),
        ("hash", GuessWord::Hash),
        ("server", GuessWord::Server),
    ];
}

/// What becomes of connections to servers whose filters are gone, as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FallbackWord {
    /// They are refused.
    None,
    /// They are bound as delayed ones over full NAT.
    FullNat,
}

impl FallbackWord {
    /// How a scheme's is written.
    pub fn of(scheme: &Scheme) -> Self {
        if scheme.channel().is_some_and(|channel| channel.fallback) {
            FallbackWord::FullNat
        } else {
            FallbackWord::None
        }
    }
}

impl Word for FallbackWord {
    const ALL: &'static [(&'static str, Self)] = &[("none", FallbackWord::None), ("fullnat", FallbackWord::FullNat)];
}

/// How a guess is written.
pub fn guess_text(scheme: &Scheme) -> String {
    match scheme {
        Scheme::Delayed | Scheme::Pooled(_) | Scheme::Filter(_) | Scheme::Migrated(_) => "none".to_owned(),
        Scheme::Preallocate(Guess::Server(name)) => format!("server {name}"),
        Scheme::Preallocate(Guess::Client) => GuessWord::Client.word().to_owned(),
        Scheme::Preallocate(Guess::Frequency) => GuessWord::Frequency.word().to_owned(),
        Scheme::Preallocate(Guess::Hash) => GuessWord::Hash.word().to_owned(),
    }
}

/// How a pool is kept.
pub fn pool_text(scheme: &Scheme) -> String {
    scheme.pool().map_or("none".to_owned(), |pool| {
        format!(
            "idle {} to {}, idle-timeout {} s, lifetime {} s, requests {}, probe {} s, mss {}",
            pool.idle,
            pool.most,
            pool.idle_timeout.as_secs_f64(),
            pool.lifetime.as_secs_f64(),
            pool.requests,
            pool.probe.as_secs_f64(),
            pool.mss
        )
    })
}

/// How filters are spoken to; their key is not told.
pub fn channel_text(scheme: &Scheme) -> String {
    scheme.channel().map_or("none".to_owned(), |channel| {
        let (interval, timeout) = (channel.interval.as_secs_f64(), channel.timeout.as_secs_f64());
        format!("port {}, interval {interval} s, timeout {timeout} s", channel.port)
    })
}

impl Word for SynPolicy {
    const ALL: &'static [(&'static str, Self)] =
        &[("auto", SynPolicy::Auto), ("cookie", SynPolicy::Cookie), ("state", SynPolicy::State)];
}

impl Word for Switching {
    const ALL: &'static [(&'static str, Self)] =
        &[("request", Switching::Request), ("connection", Switching::Connection)];
}

impl Word for OnUnparsed {
    const ALL: &'static [(&'static str, Self)] = &[("reset", OnUnparsed::Reset), ("default", OnUnparsed::Default)];
}

impl Content {
    /// The group of this name and its number.
    pub fn group(&self, name: &str) -> Option<(usize, &Group)> {
        let at = self.groups.binary_search_by(|g| g.name.as_str().cmp(name)).ok()?;
        Some((at, &self.groups[at]))
    }

    /// Rules, `default` aside.
    pub fn rule_count(&self) -> usize {
        self.rules.rules.len()
    }
}

/// Servers that rules `forward` to, sorted, each once.
pub(crate) fn forwards(set: &RuleSet) -> BTreeSet<&str> {
    actions(set)
        .filter_map(|action| match action {
            Action::Forward { server, .. } => Some(server.as_str()),
            _ => None,
        })
        .collect()
}

/// Queues that rules name.
fn queues(set: &RuleSet) -> BTreeSet<&str> {
    let queued = actions(set).filter_map(|action| match action {
        Action::Forward { queue, .. } => queue.as_deref(),
        _ => None,
    });
    queued.collect()
}

/// By which cookies a service keeps clients with servers: the key and the words that say so, and whether servers set it.
fn cookies(content: &Content) -> Vec<(&'static str, String, bool)> {
    let of_service = match &content.binding.sticky {
        Sticky::Cookie(name) => Some(("sticky", format!("sticky = \"cookie.{name}\""), false)),
        Sticky::SetCookie(name) => Some(("sticky", format!("sticky = \"set-cookie.{name}\""), true)),
        Sticky::None | Sticky::Source => None,
    };
    let of_rules = actions(&content.rules).filter_map(|action| match action {
        Action::RouteTo { stickiness: Some(Stickiness::Cookie(_)), .. } => Some(("rules", action.to_string(), false)),
        Action::RouteTo { stickiness: Some(Stickiness::SetCookie(_)), .. } => Some(("rules", action.to_string(), true)),
        _ => None,
    });
    of_service.into_iter().chain(of_rules).collect()
}

/// Groups that rules name.
fn groups(set: &RuleSet) -> BTreeSet<&str> {
    let routed = actions(set).filter_map(|action| match action {
        Action::RouteTo { group, .. } | Action::LoadBalance { group, .. } => Some(group.as_str()),
        _ => None,
    });
    let asked = set.rules.iter().flat_map(|rule| rule.condition.terms()).filter_map(|term| match &term.variable {
        Variable::ServerUp(group) | Variable::Connections(group) => Some(group.as_str()),
        _ => None,
    });
    routed.chain(asked).collect()
}

fn actions(set: &RuleSet) -> impl Iterator<Item = &Action> {
    set.rules.iter().map(|rule| &rule.action).chain(set.default.iter().map(|default| &default.action))
}

/// The names that the rules of a service may use.
pub fn names<'g, 's>(
    groups: impl Iterator<Item = &'g str>,
    servers: impl Iterator<Item = &'s str>,
    queues: &[Queue],
) -> Names {
    Names {
        groups: Some(groups.map(str::to_owned).collect()),
        servers: Some(servers.map(str::to_owned).collect()),
        queues: Some(queues.iter().map(|queue| queue.name.clone()).collect()),
        algorithms: Some(Scheduler::ALL.iter().map(|(word, _)| (*word).to_owned()).collect()),
    }
}

/// Reads the rules of a service with these names: what comes back can be compiled.
///
/// # Errors
/// When the file cannot be read, or is no rule set that the service can use.
pub fn load_rules(path: &Path, names: &Names) -> Result<RuleSet, FileError> {
    let set = rules::read_file(path, Some(names), true)?;
    rules::compile(&set, &rules::AnyNumber)?;
    Ok(set)
}

/// What is wrong with a service's content, by itself and with the rest of the service.
pub(super) fn check(s: &Service, content: &Content, found: &mut Vec<Finding>) {
    let label = &s.name;
    super::direct::check(s, content, found);
    let mut add = |place, key, what: String, mend: &str| {
        found.push(Finding { place, key, what, mend: mend.to_owned() });
    };
    if s.protocol != Protocol::Tcp {
        let what = format!("service {label} is switched by content, and {} has no connections to bind", s.protocol);
        add(Place::Service, "protocol", what, "use protocol = \"tcp\", or remove `rules`");
    }
    if s.port == 0 {
        let what = format!("service {label} is switched by content, and is on every port");
        let mend = "give it a port: what clients speak differs from port to port";
        add(Place::Service, "port", what, mend);
    }
    let filtered = matches!(content.binding.scheme, Scheme::Filter(_));
    let guesses = content.binding.scheme.guesses();
    for (i, server) in s.servers.iter().enumerate().filter(|(_, s)| filtered && s.forward.replies_return()) {
        let word = server.forward.word();
        let what = format!(
            "server {} is behind {word}, and binding = \"filter\" is for servers that answer directly",
            server.name
        );
        let mend = "use forward = \"dr\" or \"tunnel\", or binding = \"delayed\"";
        add(Place::Server(i), "forward", what, mend);
    }
    let falls_back = FallbackWord::of(&content.binding.scheme) == FallbackWord::FullNat;
    if falls_back && s.sources.is_empty() {
        let what = format!("service {label} falls back to full NAT and has no source address");
        let mend = "add sources = [\"…\"]: addresses of the director, in the servers' network, that nothing else uses";
        add(Place::Service, "fallback", what, mend);
    }
    let other_family = |server: &Server| server.address.is_ipv4() != s.address.is_ipv4();
    for (i, server) in s.servers.iter().enumerate().filter(|(_, server)| falls_back && other_family(server)) {
        let what = format!(
            "server {} is of another address family than service {label}, and fallback = \"fullnat\" keeps the family",
            server.name
        );
        let mend = "give it an address of the service's family, or write fallback = \"none\"";
        add(Place::Server(i), "address", what, mend);
    }
    for (i, server) in
        s.servers.iter().enumerate().filter(|(_, s)| !filtered && !guesses && !s.forward.replies_return())
    {
        let what = format!(
            "server {} is behind {}, so its replies bypass the director, and connections to it cannot be spliced",
            server.name,
            server.forward.word()
        );
        add(
            Place::Server(i),
            "forward",
            what,
            "use forward = \"nat\" or \"fullnat\", or binding = \"preallocate\", or binding = \"filter\" with `lcs filter` on the servers, or remove `rules`",
        );
    }
    let pooled = content.binding.scheme.pool().is_some();
    for (i, server) in s.servers.iter().enumerate().filter(|(_, server)| pooled && server.forward == Forward::Nat) {
        let what = format!(
            "connections to server {} cannot be shared by clients: it sees their addresses (forward = \"nat\")",
            server.name
        );
        let mend = "use forward = \"fullnat\", or binding = \"delayed\" for the service";
        add(Place::Server(i), "forward", what, mend);
    }
    if content.groups.len() > GROUPS_MAX {
        let what = format!("service {label} has {} groups", content.groups.len());
        add(Place::Service, "groups", what, &format!("at most {GROUPS_MAX} are possible"));
    }
    for (i, group) in content.groups.iter().enumerate() {
        let place = Place::Group(i);
        if let Err((what, mend)) = super::check::name("group", &group.name) {
            add(place, "", what, &mend);
        }
        if group.servers.len() > SLOTS {
            add(place, "", format!("group {} has {} servers", group.name, group.servers.len()), "name each once");
            continue;
        }
        let mut seen = BTreeSet::new();
        for name in &group.servers {
            if !seen.insert(name) {
                add(place, "", format!("group {} names server {name} twice", group.name), "name it once");
            } else if s.server(name).is_none() {
                let names: Vec<&str> = s.servers.iter().map(|s| s.name.as_str()).collect();
                let mend = match super::nearest(name, &names) {
                    Some(near) => format!("did you mean {near}?"),
                    None if names.is_empty() => "give the service servers first".to_owned(),
                    None => format!("it has {}{}", names[..names.len().min(12)].join(", "), dots(&s.servers)),
                };
                let what = format!("group {} names {name}, and service {label} has no such server", group.name);
                add(place, "", what, &mend);
            }
        }
    }
    if content.binding.queues.len() > QUEUES_MAX {
        let what = format!("service {label} has {} queues", content.binding.queues.len());
        add(Place::Service, "queues", what, &format!("at most {QUEUES_MAX} are possible"));
    }
    for queue in &content.binding.queues {
        if let Err((what, mend)) = super::check::name("queue", &queue.name) {
            add(Place::Service, "queues", what, &mend);
        }
        if queue.requests.is_none() && queue.packets.is_none() && content.binding.queue_rate.is_none() {
            let what = format!("queue {} of service {label} has no rate, so it would hold nothing back", queue.name);
            let mend = "add requests = N or packets = N (a second) to it, or queue-rate = N to the service";
            add(Place::Service, "queues", what, mend);
        }
    }
    if let Scheme::Preallocate(Guess::Server(name)) = &content.binding.scheme
        && s.server(name).is_none()
    {
        let what = format!("`guess-server` is {name}, and service {label} has no such server");
        let names: Vec<&str> = s.servers.iter().map(|s| s.name.as_str()).collect();
        let mend = match super::nearest(name, &names) {
            Some(near) => format!("did you mean {near}?"),
            None => "name a server of the service".to_owned(),
        };
        add(Place::Service, "guess-server", what, &mend);
    }
    for (key, what, set_by_server) in cookies(content) {
        let http = content.application == extract::Protocol::Http;
        if !http {
            let what = format!("{what} of service {label}: {} has no cookies", content.application.word());
            add(Place::Service, key, what, "keep clients with their servers by their addresses: STICKY, source");
        } else if set_by_server && filtered {
            let what =
                format!("{what} of service {label}, whose responses do not pass the director: binding is \"filter\"");
            let mend = "write binding = \"delayed\", or go by a cookie of the request: cookie.NAME";
            add(Place::Service, key, what, mend);
        } else if set_by_server && content.binding.switching == Switching::Connection {
            let what = format!("{what} of service {label}, whose responses are not read: switching is \"connection\"");
            let mend = "write switching = \"request\", or go by a cookie of the request: cookie.NAME";
            add(Place::Service, key, what, mend);
        }
    }
    if let Some(name) = &content.host_name {
        let good = !name.is_empty() && name.len() <= HOST_NAME_MAX && name.bytes().all(|b| b.is_ascii_graphic());
        if !good {
            let what = format!("{name:?} is no name that a host can have");
            add(Place::Service, "host-name", what, "write host-name = \"mail.example.com\"");
        }
    }
    let unknown = |name: &&str| !content.binding.queues.iter().any(|queue| queue.name == *name);
    for name in queues(&content.rules).into_iter().filter(unknown) {
        let what = format!("a rule of service {label} names queue {name}, which is not there");
        add(Place::Service, "rules", what, "add it to `queues`");
    }
    for name in forwards(&content.rules).into_iter().filter(|name| s.server(name).is_none()) {
        let what = format!("a rule of service {label} forwards to server {name}, which would not be there");
        add(Place::Service, "rules", what, "load rules without it first: `lcs rules load`");
    }
    for name in groups(&content.rules).into_iter().filter(|name| content.group(name).is_none()) {
        let what = format!("a rule of service {label} names group {name}, which is not there");
        add(Place::Service, "rules", what, "add it to `groups`");
    }
}

fn dots(servers: &[Server]) -> &'static str {
    if servers.len() > 12 { ", …" } else { "" }
}
