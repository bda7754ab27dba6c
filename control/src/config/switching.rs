//! The keys of a service that is switched by content, read from the document.

use super::Word;
use super::content::{self, Content, FallbackWord, Group, GuessWord, SchemeWord};
use super::filter_key;
use super::read::{Placed, Section};
use crate::rules::{self, FileError, RuleSet, Stickiness, file_mend};
use lcs_pipelines::content::{Binding, Channel, Guess, Pool, Queue, Rate, Scheme, Sticky, Switching, SynPolicy};
use lcs_pipelines::extract;
use lcs_pipelines::migration::{self, message::ChannelKey};
use lcs_pipelines::snapshot::Scheduler;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use toml::de::DeValue;

/// Keys that mean something only beside `rules`.
const BESIDE_RULES: [&str; 29] = [
    "application",
    "binding",
    "body-limit",
    "fallback",
    "filter-interval",
    "filter-key",
    "filter-port",
    "filter-timeout",
    "first-byte-timeout",
    "groups",
    "guess",
    "guess-server",
    "head-limit",
    "hello-limit",
    "host-name",
    "mss",
    "on-unparsed",
    "pool",
    "queue-burst",
    "queue-rate",
    "queues",
    "request-timeout",
    "server-wscale",
    "sticky",
    "sticky-timeout",
    "switching",
    "syn",
    "syn-retries",
    "timestamps",
];

/// Largest rate of a queue, a second.
const RATE_MAX: u64 = 10_000_000;

/// Content as it is written, its rule file not read yet.
pub(super) struct Written {
    rules: Placed<String>,
    application: extract::Protocol,
    /// Groups sorted by name, and where each stands.
    pub(super) groups: Vec<(Group, Range<usize>)>,
    /// Where `groups` stands.
    pub(super) groups_span: Option<Range<usize>>,
    binding: Binding,
    host_name: Option<Placed<String>>,
    /// The file of the secret that is shared with filters.
    filter_key: Option<Placed<String>>,
    /// Where keys stand that are looked at together with the rest of the service.
    pub(super) places: Vec<(&'static str, Range<usize>)>,
}

/// Takes the keys of a service about content.
pub(super) fn take(section: &Section<'_, '_>) -> Option<Written> {
    let Some(rules) = section.string("rules") else {
        let absent = section.raw("rules").is_none();
        for key in BESIDE_RULES {
            if let Some(value) = section.raw(key).filter(|_| absent) {
                let what = format!("`{key}` in {}, which has no `rules`", section.title);
                section.problem(value.span(), what, format!("add rules = \"FILE\", or remove `{key}`"));
            }
        }
        return None;
    };
    if rules.value.is_empty() {
        section.problem(rules.span.clone(), "`rules` is empty", "name the rule file, or remove the key");
    }
    let application = section.word("application").map_or(extract::Protocol::Http, |placed| placed.value);
    Some(Written {
        rules,
        application,
        groups_span: section.raw("groups").map(|value| value.span()),
        groups: groups(section),
        binding: binding(section, application),
        filter_key: section.string("filter-key"),
        host_name: section.string("host-name"),
        places: [
            "rules",
            "queues",
            "sticky",
            "host-name",
            "binding",
            "guess-server",
            "pool",
            "fallback",
            "server-wscale",
            "switching",
        ]
        .into_iter()
        .filter_map(|key| Some((key, section.raw(key)?.span())))
        .collect(),
    })
}

/// A rate and its burst: by default what comes in a tenth of a second.
fn rate(section: &Section<'_, '_>, key: &'static str, burst_key: &'static str) -> Option<Rate> {
    let per_second = section.number(key, 1..=RATE_MAX);
    let burst = section.number(burst_key, 1..=RATE_MAX);
    match (per_second, burst) {
        (Some(n), burst) => {
            Some(Rate { per_second: n.value, burst: burst.map_or((n.value / 10).max(1), |placed| placed.value) })
        }
        (None, Some(burst)) => {
            let what = format!("`{burst_key}` in {} without `{key}`", section.title);
            section.problem(burst.span, what, format!("add {key} = N: so many a second"));
            None
        }
        (None, None) => None,
    }
}

fn queues(section: &Section<'_, '_>) -> Vec<Queue> {
    let Some(table) = section.table("queues") else { return Vec::new() };
    let mut queues = Vec::new();
    for (name, value) in table.entries() {
        let title = format!("queue {}", name.value);
        let Some(section) = Section::from_value(title, value, section.problems()) else { continue };
        let mut queue = Queue { name: name.value, ..Queue::default() };
        queue.requests = rate(&section, "requests", "request-burst");
        queue.packets = rate(&section, "packets", "packet-burst");
        if let Some(priority) = section.number("priority", 0..=7) {
            queue.priority = priority.value as u8;
        }
        if let Some(length) = section.number("length", 0..=65_536) {
            queue.length = length.value as u32;
        }
        queue.packet_length = section.number("packet-length", 1..=1 << 24).map(|placed| placed.value);
        if let Some(timeout) = section.duration("timeout") {
            queue.timeout = timeout.value;
        }
        section.finish();
        queues.push(queue);
    }
    queues.sort_by(|a, b| a.name.cmp(&b.name));
    queues
}

fn sticky(section: &Section<'_, '_>) -> Option<Sticky> {
    let placed = section.string("sticky")?;
    if placed.value == "none" {
        return Some(Sticky::None);
    }
    match rules::sticky_by(&placed.value) {
        Ok(Stickiness::Cookie(name)) => Some(Sticky::Cookie(name.into())),
        Ok(Stickiness::SetCookie(name)) => Some(Sticky::SetCookie(name.into())),
        Ok(_) => Some(Sticky::Source),
        Err(what) => {
            let mend = "write \"none\", \"source\", \"cookie.NAME\" or \"set-cookie.NAME\"";
            section.problem(placed.span, format!("`sticky`: {what}"), mend);
            None
        }
    }
}

fn groups(section: &Section<'_, '_>) -> Vec<(Group, Range<usize>)> {
    let Some(table) = section.table("groups") else { return Vec::new() };
    let mut groups = Vec::new();
    for (name, value) in table.entries() {
        let (servers, scheduler) = match value.get_ref() {
            DeValue::Table(_) => {
                let title = format!("group {}", name.value);
                let Some(group) = Section::from_value(title, value, section.problems()) else { continue };
                group.require("servers", "add servers = [\"…\", …]: names of servers of the service");
                let read = (group.strings("servers"), group.word::<Scheduler>("scheduler"));
                group.finish();
                read
            }
            DeValue::Array(_) => (section.string_list(&name.value, value), None),
            _ => {
                let what = format!("group {} is neither a list of servers nor a table", name.value);
                let mend = "write NAME = [\"s1\", …] or NAME = { servers = [\"s1\", …], scheduler = \"wlc\" }";
                section.problem(value.span(), what, mend);
                continue;
            }
        };
        let Some(servers) = servers else { continue };
        let group = Group {
            name: name.value,
            scheduler: scheduler.map(|placed| placed.value),
            servers: servers.value.into_iter().map(|placed| placed.value).collect(),
        };
        groups.push((group, name.span.start..servers.span.end));
    }
    groups.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    groups
}

/// How the connections of `binding = "pooled"` are kept.
fn pool(section: &Section<'_, '_>) -> Pool {
    let mut pool = Pool::default();
    let Some(keys) = section.table("pool") else { return pool };
    if let Some(idle) = keys.number("idle", 0..=10_000) {
        pool.idle = idle.value as u32;
    }
    match keys.number("most", 1..=10_000) {
        Some(most) if most.value < u64::from(pool.idle) => {
            let what = format!("`most` is {}, and `idle` is {}", most.value, pool.idle);
            keys.problem(most.span, what, "keep at least as many as are opened ahead");
        }
        Some(most) => pool.most = most.value as u32,
        None => pool.most = pool.most.max(pool.idle),
    }
    if let Some(requests) = keys.number("requests", 1..=u64::from(u32::MAX)) {
        pool.requests = requests.value as u32;
    }
    if let Some(mss) = keys.number("mss", 536..=9_216) {
        pool.mss = mss.value as u16;
    }
    let times =
        [("idle-timeout", &mut pool.idle_timeout), ("lifetime", &mut pool.lifetime), ("probe", &mut pool.probe)];
    for (key, time) in times {
        if let Some(given) = keys.duration(key) {
            *time = given.value;
        }
    }
    keys.finish();
    pool
}

fn scheme(section: &Section<'_, '_>, application: extract::Protocol) -> Scheme {
    let binding = section.word::<SchemeWord>("binding");
    let pools = binding.as_ref().filter(|placed| placed.value == SchemeWord::Pooled).map(|placed| placed.span.clone());
    if pools.is_none()
        && let Some(value) = section.raw("pool")
    {
        let what = format!("`pool` in {}, whose connections are not shared", section.title);
        section.problem(value.span(), what, "add binding = \"pooled\", or remove `pool`");
    }
    let filters =
        binding.as_ref().filter(|placed| placed.value == SchemeWord::Filter).map(|placed| placed.span.clone());
    let channel = channel(section, filters.is_some());
    if let Some(span) = filters.clone().filter(|_| application.server_speaks_first()) {
        let what =
            format!("a connection of {} can't be given to a filter: its server speaks first", application.word());
        section.problem(span, what, "write binding = \"delayed\", and forward = \"nat\" or \"fullnat\"");
    }
    let guesses = binding.filter(|placed| placed.value == SchemeWord::Preallocate);
    let guess = section.word::<GuessWord>("guess");
    let server = section.string("guess-server");
    let Some(binding) = guesses else {
        for (key, span) in [("guess", guess.map(|g| g.span)), ("guess-server", server.map(|s| s.span))] {
            if let Some(span) = span {
                let what = format!("`{key}` in {}, where nothing is guessed", section.title);
                section.problem(span, what, format!("add binding = \"preallocate\", or remove `{key}`"));
            }
        }
        if filters.is_some() {
            return Scheme::Filter(channel);
        }
        let Some(span) = pools else { return Scheme::Delayed };
        if application != extract::Protocol::Http {
            let what = format!("a connection of {} cannot serve one client after another", application.word());
            let mend = "write binding = \"delayed\"; only HTTP says where a response ends";
            section.problem(span, what, mend);
        }
        return Scheme::Pooled(pool(section));
    };
    if application.server_speaks_first() {
        let what = format!("a connection of {} can't be bound before it is decided", application.word());
        let mend = "write binding = \"delayed\": the server would speak before the client has said what it wants";
        section.problem(binding.span, what, mend);
    }
    Scheme::Preallocate(match (guess.map(|g| (g.value, g.span)), server) {
        (None | Some((GuessWord::Server, _)), Some(server)) => Guess::Server(server.value),
        (Some((GuessWord::Server, span)), None) => {
            section.problem(span, "`guess` is \"server\", and which one is not said", "add guess-server = \"NAME\"");
            Guess::default()
        }
        (Some((word, _)), Some(server)) => {
            let what = format!("`guess-server` beside guess = \"{}\"", word.word());
            section.problem(server.span, what, "write guess = \"server\", or remove `guess-server`");
            Guess::default()
        }
        (Some((GuessWord::Frequency, _)), None) => Guess::Frequency,
        (Some((GuessWord::Hash, _)), None) => Guess::Hash,
        (Some((GuessWord::Client, _)) | None, None) => Guess::Client,
    })
}

/// How filters are spoken to. Their key is read with the rules.
fn channel(section: &Section<'_, '_>, filters: bool) -> Channel {
    let mut channel = Channel {
        key: ChannelKey::from_secret(&[]),
        port: migration::PORT,
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(3_500),
        fallback: false,
    };
    if !filters {
        for key in ["filter-key", "filter-port", "filter-interval", "filter-timeout", "fallback"] {
            if let Some(value) = section.raw(key) {
                let what = format!("`{key}` in {}, which has no filters", section.title);
                section.problem(value.span(), what, format!("add binding = \"filter\", or remove `{key}`"));
            }
        }
    }
    if filters && section.raw("filter-key").is_none() {
        section.require(
            "filter-key",
            "add filter-key = \"FILE\": `head -c 32 /dev/urandom | base64 > FILE; chmod 600 FILE`",
        );
    }
    if let Some(port) = section.number("filter-port", 1..=60_000) {
        channel.port = port.value as u16;
    }
    channel.fallback =
        section.word::<FallbackWord>("fallback").is_some_and(|placed| placed.value == FallbackWord::FullNat);
    if let Some(interval) = section.duration("filter-interval") {
        channel.interval = interval.value;
        channel.timeout = interval.value * 7 / 2;
    }
    if let Some(timeout) = section.duration("filter-timeout") {
        if timeout.value <= channel.interval {
            let what =
                "`filter-timeout` is no longer than `filter-interval`, so that one lost ping would count".to_owned();
            section.problem(timeout.span, what, "write three times `filter-interval` or more");
        }
        channel.timeout = timeout.value;
    }
    channel
}

fn binding(section: &Section<'_, '_>, application: extract::Protocol) -> Binding {
    let mut binding = Binding { scheme: scheme(section, application), ..Binding::default() };
    if let Some(syn) = section.word("syn") {
        binding.syn = syn.value;
        if binding.scheme.guesses() && syn.value == SynPolicy::Cookie {
            let what = format!("{} guesses servers, and answers every SYN itself with a cookie", section.title);
            section.problem(syn.span, what, "write syn = \"auto\", or binding = \"delayed\"");
        }
    }
    if let Some(scale) = section.number("server-wscale", 0..=14) {
        if !binding.scheme.guesses() {
            let what = format!("`server-wscale` in {}, where nothing is guessed", section.title);
            section.problem(scale.span, what, "add binding = \"preallocate\", or remove `server-wscale`");
        }
        binding.server_scale = Some(scale.value as u8);
    }
    let switching = section.word::<Switching>("switching");
    if application != extract::Protocol::Http {
        binding.switching = Switching::Connection;
    }
    let filters = matches!(binding.scheme, Scheme::Filter(_));
    if filters {
        binding.switching = Switching::Connection;
    }
    if let Some(switching) = switching {
        if switching.value == Switching::Request && application != extract::Protocol::Http {
            let what = format!("{} cannot be switched for every request", application.word());
            let mend = "write switching = \"connection\", or remove the key; only HTTP says where a request ends";
            section.problem(switching.span.clone(), what, mend);
        }
        binding.switching = switching.value;
        if switching.value == Switching::Connection && binding.scheme.pool().is_some() {
            let what = format!("{} shares servers' connections, and does not read where requests end", section.title);
            let mend = "write switching = \"request\", or binding = \"delayed\"";
            section.problem(switching.span, what, mend);
        }
    }
    if let Some(on_unparsed) = section.word("on-unparsed") {
        binding.on_unparsed = on_unparsed.value;
    }
    if let Some(head) = section.number("head-limit", 256..=65_536) {
        binding.limits.head = head.value as usize;
    }
    if let Some(body) = section.number("body-limit", 0..=1 << 20) {
        binding.limits.body = body.value as usize;
    }
    if let Some(hello) = section.number("hello-limit", 512..=65_536) {
        binding.limits.hello = hello.value as usize;
    }
    if let Some(first_byte) = section.duration("first-byte-timeout") {
        binding.first_byte = first_byte.value;
    }
    if let Some(request) = section.duration("request-timeout") {
        binding.request = request.value;
    }
    if let Some(retries) = section.number("syn-retries", 0..=10) {
        binding.syn_retries = retries.value as u8;
    }
    if let Some(mss) = section.number("mss", 536..=9_216) {
        binding.mss = mss.value as u16;
    }
    if let Some(timestamps) = section.flag("timestamps") {
        binding.timestamps = timestamps.value;
        let scheme = match binding.scheme {
            Scheme::Preallocate(_) => {
                Some("guesses servers, and a guessed one's clock would have to go on where the guess is wrong")
            }
            Scheme::Filter(_) | Scheme::Migrated(_) => {
                Some("gives connections to filters, and their messages have no place for clocks")
            }
            Scheme::Delayed | Scheme::Pooled(_) => None,
        };
        if let Some(why) = scheme.filter(|_| timestamps.value) {
            let what = format!("`timestamps` in {}, which {why}", section.title);
            section.problem(timestamps.span, what, "remove `timestamps`, or write binding = \"delayed\"");
        }
    }
    binding.sticky = sticky(section).unwrap_or_default();
    if let Some(timeout) = section.duration("sticky-timeout") {
        binding.sticky_timeout = timeout.value;
    }
    binding.queues = queues(section);
    binding.queue_rate = rate(section, "queue-rate", "queue-burst");
    binding
}

impl Written {
    /// Reads the rule file, `beside` the configuration, and puts its mistakes where they are. With mistakes, a content
    /// without rules comes back, so that what else is wrong can be said.
    pub(super) fn read<'s>(
        self,
        beside: &Path,
        section: &Section<'_, '_>,
        servers: impl Iterator<Item = &'s str>,
    ) -> Content {
        let mut binding = self.binding;
        let groups: Vec<Group> = self.groups.into_iter().map(|(group, _)| group).collect();
        let names = content::names(groups.iter().map(|group| group.name.as_str()), servers, &binding.queues);
        let span = self.rules.span;
        if let (Scheme::Filter(channel), Some(file)) = (&mut binding.scheme, &self.filter_key) {
            match filter_key::read(&beside.join(&file.value)) {
                Ok(key) => channel.key = key,
                Err(e) => section.problem(file.span.clone(), e.to_string(), e.mend()),
            }
        }
        let read = match self.rules.value.as_str() {
            "" => Ok(RuleSet::default()), // said already
            file => content::load_rules(&beside.join(file), &names),
        };
        let rules = read.unwrap_or_else(|error| {
            let mut problems = section.problems().borrow_mut();
            match error {
                FileError::Unreadable { file, error } => {
                    problems.add(span, format!("the rule file {file} cannot be read: {error}"), file_mend(&error));
                }
                FileError::Errors(errors) => {
                    errors.0.into_iter().for_each(|error| problems.add_there(span.clone(), error.into()));
                }
            }
            RuleSet::default()
        });
        let host_name = self.host_name.map(|placed| placed.value);
        Content { application: self.application, rules: Arc::new(rules), groups, binding, host_name }
    }
}
