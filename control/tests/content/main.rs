//! Services that are switched by content: what the configuration says of them, what is published, and what changes
//! while the director runs.

#[path = "../lab/mod.rs"]
mod lab;
mod live;

use lab::HEAD;
use lcs_control::config::{Configuration, Invalid};
use lcs_control::model::{Environment, Model};
use lcs_pipelines::content::{Content, Guess, OnUnparsed, Pool, Rate, Scheme, Sticky, Switching, SynPolicy};
use lcs_pipelines::extract::Protocol;
use lcs_pipelines::matching::ir::Action;
use lcs_pipelines::snapshot::{Interface, Scheduler, Snapshot};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A folder that is removed at the end, with a configuration's files.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("lcs-content-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// A configuration with this service, read as from a file in the folder.
    fn load(&self, service: &str) -> Result<Configuration, Invalid> {
        let path = self.write("lcs.toml", &format!("{HEAD}[[services]]\n{service}"));
        Configuration::load(&path)
    }

    fn shown(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Its first line is line 9 of the configuration's file.
const SHOP: &str = "name = \"shop\"\naddress = \"192.0.2.10\"\nport = 80\nservers = [\n\
    { name = \"s1\", address = \"10.0.0.1\" }, { name = \"s2\", address = \"10.0.0.2\" },\n\
    { name = \"s3\", address = \"10.0.0.3\" },\n]\n";
const GROUPS: &str = "groups = { web = [\"s1\", \"s2\"], images = { servers = [\"s3\"], scheduler = \"lc\" } }\n";
const RULES: &str = "pictures: if (suffix(path, \".gif\") || @TERM) routeTo(images)\n\
    one: if (path == \"/one\") forward(s1)\ndefault: routeTo(web)\n";

fn rules() -> String {
    RULES.replace("@TERM", "prefix(path, \"/images/\")")
}

fn shop(rules: &str) -> String {
    format!("{SHOP}rules = \"{rules}\"\n{GROUPS}")
}

#[test]
fn a_service_reads_its_rules_groups_and_binding() {
    let folder = Folder::new();
    folder.write("shop.rules", &rules());
    let keys = "syn = \"cookie\"\nswitching = \"connection\"\non-unparsed = \"default\"\nhead-limit = 8192\n\
                body-limit = 0\nhello-limit = 4096\nfirst-byte-timeout = \"5s\"\nrequest-timeout = 1.5\n\
                syn-retries = 0\nmss = 1400\ntimestamps = true\n";
    let c = folder.load(&format!("{}{keys}", shop("shop.rules"))).unwrap_or_else(|e| panic!("{e}"));
    let content = c.services[0].content.as_ref().unwrap();
    assert_eq!((content.rule_count(), content.application), (2, Protocol::Http));
    let groups: Vec<_> = content.groups.iter().map(|g| (g.name.as_str(), g.scheduler, g.servers.join(" "))).collect();
    assert_eq!(groups, [("images", Some(Scheduler::Lc), "s3".into()), ("web", None, "s1 s2".into())]);
    let b = &content.binding;
    assert_eq!((b.syn, b.switching, b.on_unparsed), (SynPolicy::Cookie, Switching::Connection, OnUnparsed::Default));
    assert_eq!((b.limits.head, b.limits.body, b.limits.hello, b.syn_retries, b.mss), (8192, 0, 4096, 0, 1400));
    assert!(b.timestamps);
    assert_eq!((b.first_byte, b.request), (Duration::from_secs(5), Duration::from_millis(1500)));
    // Without keys: HTTP, every request.
    let c = folder.load(&shop("shop.rules")).unwrap();
    assert_eq!(c.services[0].content.as_ref().unwrap().binding, lcs_pipelines::content::Binding::default());
    // Other protocols say no end of a request.
    let mail = folder.load(&format!("{}application = \"smtp\"\n", shop("shop.rules"))).unwrap();
    let content = mail.services[0].content.as_ref().unwrap();
    assert_eq!((content.application, content.binding.switching), (Protocol::Smtp, Switching::Connection));
}

#[test]
fn the_commented_service_of_the_example_is_valid_when_it_is_no_comment() {
    let folder = Folder::new();
    folder.write("shop.rules", RULES.replace(" || @TERM", "").as_str());
    let example = lcs_control::config::EXAMPLE;
    let (before, after) = example.split_at(example.find("# [[services]]").unwrap());
    let live: String = after.lines().map(|line| format!("{}\n", line.strip_prefix("# ").unwrap_or(line))).collect();
    let c = Configuration::load(&folder.write("lcs.toml", &format!("{before}{live}")));
    let c = c.unwrap_or_else(|e| panic!("{e}"));
    let content = c.services.last().unwrap().content.as_ref().unwrap();
    assert_eq!((content.groups.len(), content.groups[0].scheduler), (2, Some(Scheduler::Wlc)));
}

#[test]
fn every_mistake_is_shown_at_its_place_with_its_mend() {
    let folder = Folder::new();
    folder.write("shop.rules", &rules());
    let good = shop("shop.rules");
    for (name, secret, mode) in [
        ("open.key", "a secret of sixteen bytes", 0o644),
        ("short.key", "short", 0o600),
        ("good.key", "a secret of sixteen bytes", 0o600),
    ] {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.write(name, secret);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let direct = good.replace("port = 80", "port = 80\nforward = \"dr\"");
    let filter = format!("{direct}binding = \"filter\"\nfilter-key = \"good.key\"\n");
    let guessed = format!("{direct}binding = \"preallocate\"\n");
    let tunnels = guessed.replace("\"dr\"", "\"tunnel\"").replace("10.0.0.2", "2001:db8::2");
    // Keys, the line of the configuration where the mistake is, what is said, the mend.
    let table: &[(&str, usize, &str, &str)] = &[
        (&good.replace("port = 80", "port = 80\nprotocol = \"udp\""), 12, "has no connections to bind", "tcp"),
        (&good.replace("port = 80", "port = 0"), 11, "on every port", "give it a port"),
        (
            &good.replace("\"10.0.0.2\"", "\"10.0.0.2\", forward = \"dr\""),
            13,
            "server s2 is behind dr, so its replies bypass the director",
            "fullnat",
        ),
        (&good.replace("port = 80", "port = 80\nforward = \"dr\""), 14, "server s1 is behind dr", "nat"),
        (
            &good.replace("[\"s3\"]", "[\"s4\"]"),
            17,
            "group images names s4, and service shop has no",
            "did you mean s1",
        ),
        (&good.replace("[\"s3\"]", "[\"s3\", \"s3\"]"), 17, "names server s3 twice", "name it once"),
        (&good.replace("web = ", "\"we b\" = "), 2, "there is no group `web`", "did you mean `we b`?"),
        (&good.replace("[\"s3\"]", "\"s3\""), 17, "`servers` is a string", "servers = ["),
        (&good.replace("servers = [\"s3\"], ", ""), 17, "group images has no `servers`", "add servers"),
        (&good.replace("{ servers = [\"s3\"], scheduler = \"lc\" }", "3"), 17, "neither a list", "scheduler = \"wlc\""),
        (&good.replace("\"lc\"", "\"best\""), 17, "none of rr, wrr, lc, wlc", "write one of"),
        (&good.replace("shop.rules", "none.rules"), 16, "none.rules cannot be read", "name an existing file"),
        (&good.replace("shop.rules", ""), 16, "`rules` is empty", "name the rule file"),
        (&good.replace("rules = \"shop.rules\"", "rules = 3"), 16, "`rules` is an integer", "write rules ="),
        (
            &good.replace("rules = \"shop.rules\"\n", ""),
            16,
            "`groups` in service shop, which has no `rules`",
            "add rules",
        ),
        (&format!("{SHOP}mss = 1400\n"), 16, "`mss` in service shop, which has no `rules`", "remove `mss`"),
        (&format!("{good}mss = 100\n"), 18, "out of range", "536"),
        (&format!("{good}timestamps = 1\n"), 18, "`timestamps` is an integer, where a boolean", "true or false"),
        (
            &format!("{good}binding = \"preallocate\"\ntimestamps = true\n"),
            19,
            "which guesses servers",
            "binding = \"delayed\"",
        ),
        (&format!("{filter}timestamps = true\n"), 21, "filters", "remove `timestamps`"),
        (&format!("{good}syn = \"cookies\"\n"), 18, "none of auto, cookie, state", "did you mean \"cookie\"?"),
        (&format!("{good}application = \"pop\"\n"), 18, "none of http, tls, smtp", "did you mean \"pop3\"?"),
        (
            &format!("{good}application = \"tls\"\nswitching = \"request\"\n"),
            19,
            "tls cannot be switched for every request",
            "connection",
        ),
        (&format!("{good}on_unparsed = \"reset\"\n"), 18, "unknown key `on_unparsed`", "`on-unparsed`"),
        (&format!("{good}request-timeout = \"1ms\"\n"), 18, "out of range", "200ms"),
        (
            &format!("{good}queues = {{ slow = {{ priority = 3 }} }}\n"),
            18,
            "queue slow of service shop has no rate",
            "requests = N",
        ),
        (&format!("{good}queues = {{ slow = {{ requests = 0 }} }}\n"), 18, "out of range", "from 1 to"),
        (
            &format!("{good}queues = {{ slow = {{ request-burst = 4 }} }}\n"),
            18,
            "without `requests`",
            "add requests = N",
        ),
        (
            &format!("{good}queues = {{ slow = {{ rate = 4 }} }}\n"),
            18,
            "unknown key `rate` in queue slow",
            "known here are",
        ),
        (&format!("{good}queues = {{ \"s w\" = {{ requests = 4 }} }}\n"), 18, "has ' ' in it", "letters"),
        (
            &format!("{good}queue-burst = 4\n"),
            18,
            "`queue-burst` in service shop without `queue-rate`",
            "add queue-rate",
        ),
        (&format!("{good}sticky = \"cookie\"\n"), 18, "`sticky`: found `cookie`", "set-cookie.NAME"),
        (&format!("{good}sticky = \"cookie.a;b\"\n"), 18, "`a;b` is no name of a cookie", "cookie.NAME"),
        (
            &format!("{good}sticky = \"set-cookie.id\"\nswitching = \"connection\"\n"),
            18,
            "whose responses are not read",
            "switching = \"request\"",
        ),
        (&format!("{good}sticky = \"cookie.id\"\napplication = \"smtp\"\n"), 18, "smtp has no cookies", "source"),
        (&format!("{good}host-name = \"a b\"\n"), 18, "no name that a host can have", "mail.example.com"),
        (&format!("{good}binding = \"shared\"\n"), 18, "shared", "pooled"),
        (&format!("{good}pool = {{ idle = 3 }}\n"), 18, "whose connections are not shared", "binding = \"pooled\""),
        (&format!("{good}binding = \"pooled\"\napplication = \"smtp\"\n"), 18, "one client after another", "delayed"),
        (&format!("{good}binding = \"pooled\"\n"), 13, "cannot be shared by clients", "fullnat"),
        (
            &format!("{good}binding = \"pooled\"\npool = {{ idle = 9, most = 3 }}\n"),
            19,
            "`most` is 3, and `idle` is 9",
            "at least as many",
        ),
        (&format!("{good}binding = \"pooled\"\npool = {{ size = 3 }}\n"), 19, "unknown key `size`", "known here are"),
        (
            &format!("{good}binding = \"pooled\"\nswitching = \"connection\"\n"),
            19,
            "does not read where requests end",
            "switching = \"request\"",
        ),
        (&format!("{good}filter-key = \"k\"\n"), 18, "which has no filters", "binding = \"filter\""),
        (
            &format!("{good}binding = \"filter\"\nfilter-key = \"none.key\"\n"),
            19,
            "none.key cannot be read",
            "chmod 600",
        ),
        (&format!("{direct}binding = \"filter\"\nfilter-key = \"open.key\"\n"), 20, "by others", "chmod 600"),
        (&format!("{direct}binding = \"filter\"\nfilter-key = \"short.key\"\n"), 20, "16 to 4096", "/dev/urandom"),
        (
            &format!("{filter}switching = \"request\"\nsticky = \"set-cookie.id\"\n"),
            22,
            "whose responses do not pass the director",
            "cookie.NAME",
        ),
        (
            &format!("{filter}application = \"tls\"\nswitching = \"request\"\n"),
            22,
            "cannot be switched for every request",
            "connection",
        ),
        (&format!("{filter}application = \"smtp\"\n"), 19, "its server speaks first", "delayed"),
        (&format!("{filter}filter-timeout = \"1s\"\n"), 21, "one lost ping would count", "three times"),
        (&filter.replace("forward = \"dr\"", "forward = \"nat\""), 14, "for servers that answer directly", "tunnel"),
        (&format!("{good}fallback = \"fullnat\"\n"), 18, "which has no filters", "binding = \"filter\""),
        (&format!("{filter}fallback = \"delayed\"\n"), 21, "delayed", "fullnat"),
        (&format!("{filter}fallback = \"fullnat\"\n"), 21, "has no source address", "add sources"),
        (
            &format!("{filter}sources = [\"10.0.0.9\"]\nfallback = \"fullnat\"\n")
                .replace("forward = \"dr\"", "forward = \"tunnel\"")
                .replace("10.0.0.1", "2001:db8::1"),
            14,
            "of another address family than service shop",
            "fallback = \"none\"",
        ),
        (&format!("{guessed}sources = [\"10.0.0.99\"]\n"), 9, "where the next request begins", "\"connection\""),
        (
            &format!("{guessed}sources = [\"10.0.0.99\"]\nswitching = \"request\"\n"),
            21,
            "server s1 is behind dr, so no response passes",
            "fullnat",
        ),
        (&format!("{guessed}switching = \"connection\"\n"), 9, "a wrong guess could not be mended", "add sources"),
        (
            &format!("{tunnels}switching = \"connection\"\nsources = [\"10.0.0.99\"]\n"),
            14,
            "server s2 is at an IPv6 address, and clients come over IPv4",
            "of the service's family",
        ),
        (
            &format!(
                "{guessed}switching = \"connection\"\nsources = [\"10.0.0.99\"]\nbody-limit = 0\nserver-wscale = 14\n"
            ),
            23,
            "its windows are multiples of 16384, and of a request 16384 bytes are held at most",
            "a larger head-limit or body-limit",
        ),
        (&format!("{good}server-wscale = 7\n"), 18, "where nothing is guessed", "preallocate"),
        (
            &format!("{good}binding = \"preallocate\"\nserver-wscale = 7\n"),
            19,
            "all of whose servers say their scale",
            "remove it",
        ),
        (&format!("{good}guess = \"hash\"\n"), 18, "where nothing is guessed", "binding = \"preallocate\""),
        (
            &format!("{good}guess = \"server\"\nbinding = \"preallocate\"\n"),
            18,
            "which one is not said",
            "guess-server = \"NAME\"",
        ),
        (
            &format!("{good}binding = \"preallocate\"\nsyn = \"cookie\"\n"),
            19,
            "answers every SYN itself with a cookie",
            "syn = \"auto\"",
        ),
        (
            &format!("{good}guess-server = \"s9\"\nbinding = \"preallocate\"\n"),
            18,
            "`guess-server` is s9, and service shop has no such server",
            "s1",
        ),
        (
            &format!("{good}guess-server = \"s1\"\nguess = \"hash\"\nbinding = \"preallocate\"\n"),
            18,
            "`guess-server` beside guess = \"hash\"",
            "guess = \"server\"",
        ),
        (
            &format!("{good}binding = \"preallocate\"\napplication = \"smtp\"\n"),
            18,
            "of smtp can't be bound before",
            "delayed",
        ),
    ];
    for (service, line, what, mend) in table {
        let invalid = folder.load(service).expect_err(what);
        let found =
            invalid.problems.iter().find(|p| p.what.contains(what)).unwrap_or_else(|| panic!("{what}: {invalid}"));
        assert!(found.mend.contains(mend), "{invalid}");
        let in_rules = what.contains("there is no group");
        assert_eq!(found.file.is_some(), in_rules, "{invalid}");
        assert_eq!(found.line, if in_rules { 3 } else { *line }, "{invalid}");
    }
}

#[test]
fn mistakes_of_the_rule_file_are_shown_in_its_own_name_beside_those_of_the_configuration() {
    let folder = Folder::new();
    folder.write(
        "shop.rules",
        "a: if (path = \"/a\") routeTo(web)\nb: if (path == /b) routeTo(wbe)\nc: if (regex(url, \"(\")) routeTo(web)\n\
         d: if (path == /d) loadBalance(web, best)\ne: if (path == /e) forward(s9)\ndefault: routeTo(web)\n",
    );
    let service = format!("{}mss = 1\n", shop("shop.rules"));
    let invalid = folder.load(&service).unwrap_err();
    let file = Some(folder.shown("shop.rules"));
    let places: Vec<_> = invalid.problems.iter().map(|p| (p.file == file, p.line)).collect();
    assert_eq!(places, [(true, 1), (true, 2), (true, 3), (true, 4), (true, 5), (false, 18)], "{invalid}");
    let shown = invalid.to_string();
    assert!(shown.contains(&format!("--> {}:2:28\n", folder.shown("shop.rules"))), "{shown}");
    assert!(shown.contains("mend: did you mean `web`?") && shown.contains("mend: equality is written =="), "{shown}");
    for (rules, what) in [
        ("a: if (path == /a) forward(s1)\n", "it has no `default`"),
        ("a: if (path == /a) forward(s1, slow)\ndefault: reject\n", "there is no queue `slow`"),
        ("a: if (path == /a) routeTo(web, STICKY, cookie)\ndefault: reject\n", "expected source, cookie.NAME"),
        ("a: if (path in @none) reject\ndefault: reject\n", "cannot read the list"),
    ] {
        folder.write("shop.rules", rules);
        let invalid = folder.load(&shop("shop.rules")).unwrap_err();
        assert_eq!((invalid.problems.len(), invalid.problems[0].file == file), (1, true), "{invalid}");
        assert!(invalid.problems[0].what.contains(what), "{invalid}");
    }
    // A server in no group is fine, and lists stand beside the rules.
    folder.write("paths", "/a\n/b\n");
    folder.write("shop.rules", "a: if (path in @paths) forward(s1)\ndefault: reject(404)\n");
    folder.load(&format!("{SHOP}rules = \"shop.rules\"\n")).unwrap_or_else(|e| panic!("{e}"));
}

fn model() -> Model {
    let interface = Interface { name: "eth0".into(), mac: "02:00:00:00:00:01".parse().unwrap(), mtu: 1500 };
    Model::new(Environment { interfaces: vec![interface], ..Environment::default() })
}

fn content(snapshot: &Snapshot) -> Option<&Arc<Content>> {
    let slot = snapshot.services.iter().flatten().position(|s| s.name == "shop")?;
    snapshot.services.iter().flatten().nth(slot)?.content.as_ref()
}

fn slot(snapshot: &Snapshot, server: &str) -> u16 {
    let live = |s: &lcs_pipelines::snapshot::Server| s.name == server;
    snapshot.servers.iter().position(|s| s.as_ref().is_some_and(live)).unwrap() as u16
}

/// Every slot that a content names is of a server of the same service that is there, and of the right name.
fn sound(snapshot: &Snapshot) {
    for (service, s) in snapshot.services.iter().enumerate() {
        let Some(content) = s.as_ref().and_then(|s| s.content.as_ref()) else { continue };
        let mut named: Vec<u16> = content.groups.iter().flat_map(|g| g.servers.clone()).collect();
        for rule in 0..content.program.len() as u32 {
            match content.program.rule(rule).unwrap().1 {
                Action::Forward { server, .. } => named.push(*server),
                Action::RouteTo { group, .. } | Action::LoadBalance { group, .. } => {
                    assert!(content.group(*group).is_some());
                }
                _ => {}
            }
        }
        for slot in named {
            let server = snapshot.servers[usize::from(slot)].as_ref().unwrap();
            assert_eq!(usize::from(server.service), service);
            assert!(s.as_ref().unwrap().servers.contains(&slot), "{}", server.name);
        }
    }
}

#[test]
fn what_is_published_names_groups_by_place_and_servers_by_slot() {
    let folder = Folder::new();
    folder.write("shop.rules", &rules());
    let mut m = model();
    let changes = m.apply(&folder.load(&shop("shop.rules")).unwrap().services).unwrap();
    assert!(changes[0].detail.ends_with(&format!("3 servers, 2 rules of {}", folder.shown("shop.rules"))));
    let snapshot = m.snapshot();
    sound(&snapshot);
    let c = content(&snapshot).unwrap();
    let groups: Vec<_> = c.groups.iter().map(|g| (g.name.as_str(), g.scheduler, g.servers.clone())).collect();
    let of = |name| slot(&snapshot, name);
    // The group without a scheduler has its service's.
    assert_eq!(groups, [("images", Scheduler::Lc, vec![of("s3")]), ("web", Scheduler::Wrr, vec![of("s1"), of("s2")])]);
    let action = |n| c.program.rule(n).unwrap().1.clone();
    assert_eq!(action(1), Action::Forward { server: of("s1"), queue: None });
    assert!(
        matches!(action(0), Action::RouteTo { group: 0, .. }) && matches!(action(2), Action::RouteTo { group: 1, .. })
    );
    assert_eq!(c.protocol, Protocol::Http);
}

#[test]
fn the_same_content_is_kept_over_a_reload_and_another_is_not() {
    let folder = Folder::new();
    folder.write("shop.rules", &rules());
    let base = shop("shop.rules");
    let mut m = model();
    m.apply(&folder.load(&base).unwrap().services).unwrap();
    let first = Arc::clone(content(&m.snapshot()).unwrap());
    let mut reload = |service: &str| {
        let changes = m.apply(&folder.load(service).unwrap_or_else(|e| panic!("{e}")).services).unwrap();
        let snapshot = m.snapshot();
        sound(&snapshot);
        let said: Vec<String> = changes.iter().map(ToString::to_string).collect();
        (content(&snapshot).map(Arc::clone), said.join("\n"))
    };
    let same = |c: &Option<Arc<Content>>| Arc::ptr_eq(c.as_ref().unwrap(), &first);
    let (c, said) = reload(&base);
    assert!(same(&c) && said.is_empty(), "{said}");
    // Weights, states and the order of groups are nothing to the rules; nor is a server in no group.
    let (c, said) = reload(&base.replace("\"10.0.0.1\"", "\"10.0.0.1\", weight = 7, state = \"draining\""));
    assert!(same(&c) && said.contains("weight 1 → 7"), "{said}");
    let (c, _) = reload(&base.replace("},\n]", "},\n{ name = \"s4\", address = \"10.0.0.4\" }]"));
    assert!(same(&c));
    let ordered = "groups = { images = { servers = [\"s3\"], scheduler = \"lc\" }, web = [\"s1\", \"s2\"] }\n";
    assert!(same(&reload(&base.replace(GROUPS, ordered)).0));
    // Another scheduler of the service is one of its groups, too.
    let (c, _) = reload(&format!("{base}scheduler = \"rr\"\n"));
    assert!(!same(&c) && c.unwrap().groups[1].scheduler == Scheduler::Rr);
    let (c, said) = reload(&base.replace("[\"s1\", \"s2\"]", "[\"s2\"]"));
    assert!(!same(&c) && said.contains("group web: s1 s2 → s2"), "{said}");
    // The address of a server that rules name: another server, another slot.
    let (c, _) = reload(&base.replace("\"10.0.0.1\"", "\"10.0.0.9\""));
    assert!(!same(&c));
    let (c, said) = reload(&format!("{base}mss = 1400\nsyn = \"state\"\n"));
    assert!(!same(&c) && said.contains("syn auto → state") && said.contains("mss 1460 → 1400"), "{said}");
    folder.write("shop.rules", &rules().replace("/one", "/two"));
    let (c, said) = reload(&base);
    assert!(!same(&c) && said.contains("~ shop: 2 rules of"), "{said}");
    let (c, said) = reload(SHOP);
    assert!(c.is_none() && said.contains("no longer switched by content"), "{said}");
    let (c, said) = reload(&base);
    assert!(c.is_some() && said.contains("switched by content from now on"), "{said}");
    // A list beside the rules counts as their text.
    folder.write("paths", "/a\n");
    folder.write("shop.rules", "a: if (path in @paths) forward(s1)\ndefault: reject\n");
    let (with_list, _) = reload(&base);
    assert!(Arc::ptr_eq(with_list.as_ref().unwrap(), reload(&base).0.as_ref().unwrap()));
    folder.write("paths", "/a\n/b\n");
    assert!(!Arc::ptr_eq(with_list.as_ref().unwrap(), reload(&base).0.as_ref().unwrap()));
}

#[test]
fn a_removed_service_publishes_no_content_because_its_servers_slots_may_get_other_owners() {
    let folder = Folder::new();
    folder.write("shop.rules", &rules());
    let mut m = model();
    m.apply(&folder.load(&shop("shop.rules")).unwrap().services).unwrap();
    m.apply(&[]).unwrap();
    let snapshot = m.snapshot();
    let left = snapshot.services.iter().flatten().find(|s| s.name == "shop").expect("its flows still need it");
    assert!(left.content.is_none() && left.servers.is_empty());
    // Back while it drains: with its rules.
    m.apply(&folder.load(&shop("shop.rules")).unwrap().services).unwrap();
    let snapshot = m.snapshot();
    assert!(content(&snapshot).is_some());
    sound(&snapshot);
}

#[test]
fn queues_stickiness_and_the_hosts_name_are_read_published_and_said_when_they_change() {
    let folder = Folder::new();
    folder.write("shop.rules", "a: if (path == /a) forward(s1, slow)\nb: if (path == /b) routeTo(web, STICKY, cookie.id)\ndefault: routeTo(web)\n");
    let keys = "sticky = \"set-cookie.SID\"\nsticky-timeout = \"5m\"\nqueue-rate = 500\nhost-name = \"mail.example.com\"\n\
                [services.queues]\nslow = { requests = 50, length = 200, timeout = \"5s\" }\n\
                bulk = { packets = 2000, packet-burst = 500, packet-length = 900, priority = 1 }\n";
    let text = format!("{}{keys}", shop("shop.rules"));
    let mut m = model();
    m.apply(&folder.load(&text).unwrap_or_else(|e| panic!("{e}")).services).unwrap();
    let snapshot = m.snapshot();
    let c = content(&snapshot).unwrap();
    let b = &c.binding;
    assert_eq!((&b.sticky, b.sticky_timeout), (&Sticky::SetCookie("SID".into()), Duration::from_secs(300)));
    assert_eq!(b.queue_rate, Some(Rate { per_second: 500, burst: 50 }));
    let [bulk, slow] = &b.queues[..] else { panic!("{:?}", b.queues) };
    assert_eq!((bulk.name.as_str(), bulk.requests, bulk.priority, bulk.length), ("bulk", None, 1, 128));
    assert_eq!((bulk.packets, bulk.packet_length), (Some(Rate { per_second: 2000, burst: 500 }), Some(900)));
    assert_eq!((slow.requests, slow.timeout), (Some(Rate { per_second: 50, burst: 5 }), Duration::from_secs(5)));
    // Greetings are made from the plan.
    assert!(format!("{:?}", c.plan).contains("\"mail.example.com\""));
    let action = |n| c.program.rule(n).unwrap().1;
    assert!(matches!(action(0), Action::Forward { queue: Some(1), .. }));
    assert_eq!(c.sticky(action(1)), &Sticky::Cookie("id".into()));
    assert_eq!(c.sticky(action(2)), &Sticky::SetCookie("SID".into()));
    // A live change of a queue's rate, and of the rest.
    let other = text.replace("requests = 50", "requests = 60").replace("bulk =", "large =").replace("SID", "sid");
    let other = other.replace("mail.example.com", "mx.example.com");
    let changes = m.apply(&folder.load(&other).unwrap().services).unwrap();
    let said = changes[0].to_string();
    for what in [
        "queue slow: requests 50/s (burst 5), priority 0, length 200, 5 s → requests 60/s (burst 6)",
        "queue large: packets 2000/s (burst 500), priority 1, length 128 (900 packets), 10 s",
        "queue bulk removed",
        "sticky set-cookie.SID → set-cookie.sid",
        "host-name mail.example.com → mx.example.com",
    ] {
        assert!(said.contains(what), "{what}: {said}");
    }
    // A queue that a rule names can't go.
    let invalid = folder.load(&text.replace("slow =", "slows =")).unwrap_err();
    assert!(invalid.to_string().contains("did you mean `slows`?"), "{invalid}");
}

#[test]
fn the_binding_scheme_is_read_published_and_said_when_it_changes() {
    let folder = Folder::new();
    folder.write("shop.rules", "default: routeTo(web)\n");
    let scheme_of = |keys: &str, m: &mut Model| {
        let changes = m.apply(&folder.load(&format!("{}{keys}", shop("shop.rules"))).unwrap().services).unwrap();
        let said = changes.first().map(ToString::to_string).unwrap_or_default();
        (content(&m.snapshot()).unwrap().binding.scheme.clone(), said)
    };
    let mut m = model();
    assert_eq!(scheme_of("", &mut m).0, Scheme::Delayed);
    let (scheme, said) = scheme_of("binding = \"preallocate\"\n", &mut m);
    assert_eq!(scheme, Scheme::Preallocate(Guess::Client));
    assert!(said.contains("binding delayed → preallocate") && said.contains("guess none → client"), "{said}");
    for (keys, guess) in [("frequency", Guess::Frequency), ("hash", Guess::Hash), ("client", Guess::Client)] {
        let keys = format!("binding = \"preallocate\"\nguess = \"{keys}\"\n");
        assert_eq!(scheme_of(&keys, &mut m).0, Scheme::Preallocate(guess));
    }
    let (scheme, said) = scheme_of("binding = \"preallocate\"\nguess-server = \"s1\"\n", &mut m);
    assert_eq!(scheme, Scheme::Preallocate(Guess::Server("s1".into())));
    assert!(said.contains("guess client → server s1"), "{said}");
    // Over direct routing and tunnels, with what the servers must be set up for.
    let direct = shop("shop.rules").replace("port = 80", "port = 80\nforward = \"dr\"");
    let keys = "binding = \"preallocate\"\nswitching = \"connection\"\nsources = [\"10.0.0.99\"]\nserver-wscale = 9\n";
    let services = folder.load(&format!("{direct}{keys}")).unwrap_or_else(|e| panic!("{e}")).services;
    let mut other = model();
    other.apply(&folder.load(&shop("shop.rules")).unwrap().services).unwrap();
    let said = other.apply(&services).unwrap().first().map(ToString::to_string).unwrap_or_default();
    assert!(said.contains("server-wscale none → 9") && said.contains("switching request → connection"), "{said}");
    assert_eq!(content(&other.snapshot()).unwrap().binding.server_scale, Some(9));
    let tunnel = direct.replace("\"10.0.0.2\"", "\"10.0.0.2\", forward = \"tunnel\"");
    let services = folder.load(&format!("{tunnel}{keys}")).unwrap_or_else(|e| panic!("{e}")).services;
    let needs = lcs_control::config::needs(&services[0]);
    assert_eq!(needs.len(), 3, "{needs:?}");
    assert!(needs[0].starts_with("s1, s3, s2 must have 192.0.2.10 on lo"), "{needs:?}");
    assert!(needs[0].contains("listen on 192.0.2.10:80") && needs[0].ends_with("from 10.0.0.99"), "{needs:?}");
    assert!(needs[1].starts_with("s2 must take tunnelled packets") && needs[2].contains("scale 9"), "{needs:?}");
    // Rules that go by who the client is do not guard such a server.
    folder.write("who.rules", "R1: if (!(ip.src in 192.0.2.0/24)) reject(403)\ndefault: routeTo(web)\n");
    let services = folder.load(&format!("{}{keys}", tunnel.replace("shop.rules", "who.rules"))).unwrap().services;
    let needs = lcs_control::config::needs(&services[0]);
    assert!(
        needs.len() == 4 && needs[3].contains("ip.src or port.src choose a server here, and guard none"),
        "{needs:?}"
    );
    let services = folder.load(&shop("shop.rules")).unwrap().services;
    assert!(lcs_control::config::needs(&services[0]).is_empty());
    let pooled = shop("shop.rules");
    let pooled = format!(
        "{pooled}forward = \"fullnat\"\nsources = [\"10.0.0.99\"]\nbinding = \"pooled\"\npool = {{ idle = 300, probe = \"2s\" }}\n"
    );
    let services = folder.load(&pooled).unwrap().services;
    let binding = &services[0].content.as_ref().unwrap().binding;
    let pool = Pool { idle: 300, most: 300, probe: Duration::from_secs(2), ..Pool::default() };
    assert_eq!(binding.scheme, Scheme::Pooled(pool));
    let said = m.apply(&services).unwrap().first().map(ToString::to_string).unwrap_or_default();
    assert!(said.contains("binding preallocate → pooled") && said.contains("pool none → idle 300 to 300"), "{said}");
}
