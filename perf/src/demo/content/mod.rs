//! The scenarios that are switched by content: rules, groups, what clients say, and what each server must answer.
//!
//! Both ways of playing them share this: [`root`] over kernel TCP, [`memory`] over the in-process network.

mod clock;
mod ear;
mod fallback;
pub mod memory;
pub mod root;
mod rule_file;
pub mod session;
mod stage;

use std::fmt::Write;

pub use ear::Ear;
pub use rule_file::RuleFile;

use crate::network::MILLISECOND;
use crate::network::content::{Class, Closing, Exchange, Method};
use crate::network::link::{Faults, LinkCounts};
use lcs_control::protocol::ServiceReport;
use lcs_pipelines::snapshot::Forward;

/// The scenarios.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// `/lcs1` and `/lcs2` go to two servers, everything else to a third (tutorial, slide 67).
    Url,
    /// The second item's subtotal in a purchase decides (tutorial, slides 67 and 68).
    Xml,
    /// One connection: images from one server, pages from another.
    Keepalive,
    /// The server name in a TLS ClientHello decides; nothing is decrypted.
    Sni,
    /// The first recipient of a mail decides: the server speaks first, so the director must.
    Smtp,
    /// The server is guessed with the SYN, by what the client asked for last, and the client asks for the same for a while.
    PreallocateHit,
    /// The server is guessed with the SYN, and what is asked for is never there.
    PreallocateMiss,
    /// As `PreallocateHit`, over direct routing: a right guess answers the client itself.
    PreallocateHitDr,
    /// As `PreallocateMiss`, over direct routing: a wrong guess is mended by full NAT.
    PreallocateMissDr,
    /// As `PreallocateHitDr`, through tunnels.
    PreallocateHitTun,
    /// As `PreallocateMissDr`, through tunnels.
    PreallocateMissTun,
    /// Requests of one client after another go out on servers' connections that were opened ahead.
    Pooled,
    /// A filter on each server's host answers clients directly: direct routing.
    FilterDr,
    /// The same through tunnels.
    FilterTun,
    /// One connection whose requests go to one server's filter after another: it is asked back between them.
    FilterKeepalive,
    /// A filter is killed while requests come, and started again: its server is reached over full NAT meanwhile.
    FilterFallback,
    /// Long answers from three servers in turn, over links that lose, double and reorder frames.
    BadLinks,
}

/// What is to come in answer to what was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Exactly these bytes, from one of these servers.
    Of(Vec<(String, Vec<u8>)>),
    /// A line that begins so, from whoever it is.
    Line(&'static str),
}

/// Something to send, and what is to come before the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is sent, in one write.
    pub send: Vec<u8>,
    /// What is to come.
    pub replies: Vec<Reply>,
}

/// One connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// What is said, in order.
    pub steps: Vec<Step>,
    /// Whether the server closes behind the last answer.
    pub server_closes: bool,
}

impl Conversation {
    /// The servers that may answer, in order.
    pub fn servers(&self) -> impl Iterator<Item = &str> {
        let replies = self.steps.iter().flat_map(|step| &step.replies);
        let of = replies.flat_map(|reply| match reply {
            Reply::Of(servers) => &servers[..],
            Reply::Line(_) => &[],
        });
        of.map(|(name, _)| name.as_str())
    }
}

/// What is checked of guesses and of pools.
const GUESSES: &str = "guesses are right and wrong where they must be";
const SHARED: &str = "clients share the connections to servers";

/// What is checked of bad links.
const BAD_LINKS: &str = "the links were as bad as they should be";

/// Whether that is so, and what was seen.
fn bad(links: &LinkCounts) -> (bool, String) {
    let LinkCounts { offered, lost, duplicated, reordered, .. } = *links;
    let ok = lost > 0 && duplicated > 0 && reordered > 0;
    (ok, format!("of {offered} frames {lost} were lost, {duplicated} came twice, {reordered} late"))
}

/// Bytes of a long answer.
const LONG: u32 = 100_000;

/// The names of the groups in every scenario (the first two as in the tutorial), one server each.
pub const GROUPS: [&str; 3] = ["ace", "wait", "web"];

impl Content {
    /// All of them.
    pub const ALL: [Content; 17] = [
        Content::Url,
        Content::Xml,
        Content::Keepalive,
        Content::Sni,
        Content::Smtp,
        Content::PreallocateHit,
        Content::PreallocateMiss,
        Content::PreallocateHitDr,
        Content::PreallocateMissDr,
        Content::PreallocateHitTun,
        Content::PreallocateMissTun,
        Content::Pooled,
        Content::FilterDr,
        Content::FilterTun,
        Content::FilterKeepalive,
        Content::FilterFallback,
        Content::BadLinks,
    ];

    /// The scenario's name.
    pub fn name(self) -> &'static str {
        match self {
            Content::Url => "content-url",
            Content::Xml => "content-xml",
            Content::Keepalive => "keepalive",
            Content::Sni => "sni",
            Content::Smtp => "smtp",
            Content::PreallocateHit => "preallocate-hit",
            Content::PreallocateMiss => "preallocate-miss",
            Content::PreallocateHitDr => "preallocate-hit-dr",
            Content::PreallocateMissDr => "preallocate-miss-dr",
            Content::PreallocateHitTun => "preallocate-hit-tun",
            Content::PreallocateMissTun => "preallocate-miss-tun",
            Content::Pooled => "pooled",
            Content::FilterDr => "filter-dr",
            Content::FilterTun => "filter-tun",
            Content::FilterKeepalive => "filter-keepalive",
            Content::FilterFallback => "filter-fallback",
            Content::BadLinks => "bad-links",
        }
    }

    /// What clients speak, as the configuration calls it.
    pub fn application(self) -> &'static str {
        match self {
            Content::Sni => "tls",
            Content::Smtp => "smtp",
            _ => "http",
        }
    }

    /// The rule file.
    pub fn rules(self) -> &'static str {
        match self {
            Content::Url
            | Content::PreallocateHit
            | Content::PreallocateMiss
            | Content::PreallocateHitDr
            | Content::PreallocateMissDr
            | Content::PreallocateHitTun
            | Content::PreallocateMissTun
            | Content::Pooled
            | Content::FilterDr
            | Content::FilterTun
            | Content::FilterFallback
            | Content::BadLinks => {
                "R10: if (contains(url, \"lcs1\")) routeTo(ace, NON_STICKY)\n\
                 R11: if (contains(url, \"lcs2\")) routeTo(wait, NON_STICKY)\n\
                 default: routeTo(web)\n"
            }
            Content::Xml => {
                "R4: if (xml.purchase/item[2]/subTotal > 50000) routeTo(ace, NON_STICKY)\n\
                 R5: if (xml.purchase/item[2]/subTotal > 0 && xml.purchase/item[2]/subTotal < 50000) routeTo(wait, NON_STICKY)\n\
                 default: routeTo(web)\n"
            }
            Content::Keepalive | Content::FilterKeepalive => {
                "images: if (suffix(path, \".gif\") || suffix(path, \".jpg\")) routeTo(ace)\n\
                 pages: if (prefix(path, \"/shop\")) routeTo(wait)\n\
                 default: routeTo(web)\n"
            }
            Content::Sni => {
                "ace: if (tls.sni == \"ace.example\") routeTo(ace)\n\
                 wait: if (suffix(tls.sni, \".wait.example\")) routeTo(wait)\n\
                 default: routeTo(web)\n"
            }
            Content::Smtp => {
                "ace: if (smtp.to == \"chow@cs.uccs.edu\") routeTo(ace)\n\
                 wait: if (suffix(smtp.to, \"@wait.example\")) routeTo(wait)\n\
                 default: routeTo(web)\n"
            }
        }
    }

    /// Whether filters on the servers' hosts answer the clients.
    pub fn is_filtered(self) -> bool {
        matches!(self, Content::FilterDr | Content::FilterTun | Content::FilterKeepalive | Content::FilterFallback)
    }

    /// Whether a connection goes from filter to filter.
    pub fn is_led(self) -> bool {
        self == Content::FilterKeepalive
    }

    /// Whether servers are guessed that answer the clients directly.
    pub fn is_direct_guess(self) -> bool {
        matches!(
            self,
            Content::PreallocateHitDr
                | Content::PreallocateMissDr
                | Content::PreallocateHitTun
                | Content::PreallocateMissTun
        )
    }

    /// Whether clients' packets come to servers in tunnels.
    pub fn is_tunnelled(self) -> bool {
        self.forward() == Forward::Tunnel
    }

    /// Whether the director itself asks servers at their own addresses, when it can't do otherwise.
    pub fn needs_sources(self) -> bool {
        self.forward() == Forward::FullNat || self.is_direct_guess() || self == Content::FilterFallback
    }

    /// Whether servers' answers do not pass the director.
    pub fn answers_directly(self) -> bool {
        self.is_filtered() || self.is_direct_guess()
    }

    /// The classes of requests that the server of a group must get, and no others.
    fn classes(self, group: usize) -> &'static [Class] {
        match self {
            Content::FilterKeepalive => return Content::Keepalive.classes(group),
            _ if self.answers_directly() || self == Content::BadLinks => return Content::Url.classes(group),
            _ => {}
        }
        match (self, group) {
            (Content::Url | Content::PreallocateHit | Content::PreallocateMiss | Content::Pooled, 0) => &[Class::Lcs1],
            (Content::Url | Content::PreallocateHit | Content::PreallocateMiss | Content::Pooled, 1) => &[Class::Lcs2],
            (Content::Xml, 0) => &[Class::Large],
            (Content::Xml, 1) => &[Class::Small],
            (Content::Keepalive, 0) => &[Class::Images],
            (Content::Keepalive, 1) => &[Class::Web],
            (Content::Keepalive, _) => &[Class::Lcs1],
            _ => &[Class::Web, Class::Images],
        }
    }

    /// What clients say, with the names of the three servers.
    pub fn conversations(self, names: &[String]) -> Vec<Conversation> {
        match self {
            Content::Url | Content::Pooled | Content::FilterDr | Content::FilterTun | Content::FilterFallback => {
                let classes = [Class::Lcs1, Class::Lcs2, Class::Web];
                self.http(names, 60, |n| (classes[n as usize % 3], Method::Get, 0), true)
            }
            Content::Xml => {
                let sizes = [600, 3_000, 30_000, 50_000];
                let of = |n: u64| match n % 5 {
                    4 => (Class::Web, Method::Get, 0),
                    k => {
                        let class = if k % 2 == 0 { Class::Large } else { Class::Small };
                        let method = if n.is_multiple_of(3) { Method::Chunked } else { Method::Post };
                        (class, method, sizes[n as usize / 5 % 4])
                    }
                };
                self.http(names, 60, of, true)
            }
            Content::Keepalive => {
                let of = |n: u64| (if n.is_multiple_of(2) { Class::Images } else { Class::Web }, Method::Get, 0);
                self.http(names, 120, of, false)
            }
            Content::FilterKeepalive => {
                // Now and then two for the same server, and bodies that are longer than a segment.
                let of = |n: u64| match n % 8 {
                    0 | 1 | 5 => (Class::Images, Method::Get, 0),
                    3 => (Class::Web, Method::Post, 3_000),
                    2 => (Class::Web, Method::Get, 0),
                    7 => (Class::Web, Method::Chunked, 20_000),
                    _ => (Class::Lcs1, Method::Get, 0),
                };
                self.http(names, 64, of, false)
            }
            Content::PreallocateHit | Content::PreallocateHitDr | Content::PreallocateHitTun => {
                let classes = [Class::Lcs1, Class::Lcs2, Class::Web];
                self.http(names, 60, |n| (classes[n as usize / 20 % 3], Method::Get, 0), true)
            }
            Content::PreallocateMiss | Content::PreallocateMissDr | Content::PreallocateMissTun => {
                let classes = [Class::Lcs2, Class::Web];
                self.http(names, 60, |n| (classes[n as usize % 2], Method::Get, 0), true)
            }
            Content::BadLinks => {
                let classes = [Class::Lcs1, Class::Lcs2, Class::Web];
                let get = |n: u64| Exchange::get(self.number(n), classes[n as usize % 3], LONG);
                let all: Vec<Exchange> = (0..200).map(get).collect();
                let ten = |ten: &[Exchange]| Conversation {
                    steps: ten.iter().map(|e| self.step(names, &[*e])).collect(),
                    server_closes: false,
                };
                all.chunks(10).map(ten).collect()
            }
            Content::Sni => (0..30).map(|n| self.hello(names, n)).collect(),
            Content::Smtp => (0..30).map(|n| self.mail(names, n)).collect(),
        }
    }

    /// Exchanges: each on a connection of its own, or all on one and then again in bursts of five.
    fn http(
        self,
        names: &[String],
        count: u64,
        of: impl Fn(u64) -> (Class, Method, u32),
        apart: bool,
    ) -> Vec<Conversation> {
        let exchange = |n: u64| {
            let (class, method, body) = of(n);
            let closing = if apart && n.is_multiple_of(2) { Closing::Asked } else { Closing::Keep };
            let reply = [0, 700, 1_448, 9_000, 60_000][n as usize % 5];
            Exchange { method, body, closing, ..Exchange::get(self.number(n), class, reply) }
        };
        let step = |exchanges: &[Exchange]| self.step(names, exchanges);
        let all: Vec<Exchange> = (0..count).map(exchange).collect();
        if apart {
            let alone = |e: &Exchange| Conversation { steps: vec![step(&[*e])], server_closes: e.server_closes() };
            return all.iter().map(alone).collect();
        }
        let one = Conversation { steps: all.iter().map(|e| step(&[*e])).collect(), server_closes: false };
        // Between two of a burst a filter waits for the client's acknowledgement, which kernels delay.
        let most = if self.is_filtered() { 3 } else { usize::MAX };
        let bursts = all.chunks(5).take(most).map(step).collect();
        vec![one, Conversation { steps: bursts, server_closes: false }]
    }

    /// The number of the scenario's exchange `n`.
    fn number(self, n: u64) -> u64 {
        (self as u64 + 1) << 32 | n << 3
    }

    /// Exchanges whose requests are sent in one write.
    fn step(self, names: &[String], exchanges: &[Exchange]) -> Step {
        let reply = |e: &Exchange| {
            let may = (0..GROUPS.len()).filter(|&g| self.classes(g).contains(&e.class));
            Reply::Of(may.map(|g| (names[g].clone(), e.response(&names[g]))).collect())
        };
        Step {
            send: exchanges.iter().flat_map(Exchange::request).collect(),
            replies: exchanges.iter().map(reply).collect(),
        }
    }

    /// What the links of the clients and the servers do to frames, each way.
    fn faults(self) -> Faults {
        match self {
            Content::BadLinks => {
                Faults { delay: 0, loss: 0.005, duplicate: 0.005, reorder: 0.01, hold: 2 * MILLISECOND, ..Faults::NONE }
            }
            _ => Faults::NONE,
        }
    }

    /// A ClientHello and a little of what follows, which the server sends back with its name in front.
    fn hello(self, names: &[String], n: u64) -> Conversation {
        let (host, group) = [("ace.example", 0), ("a.wait.example", 1), ("www.example", 2)][n as usize % 3];
        // As long as those of today's browsers now and then: two segments.
        let hello = client_hello(host, n, if n.is_multiple_of(2) { 0 } else { 1_500 });
        let data: Vec<u8> = [&[23, 3, 3, 1, 0][..], &[n as u8; 256]].concat();
        let name = &names[group];
        let back = |text: &[u8], first: bool| {
            let front = if first { format!("{name}\n").into_bytes() } else { vec![] };
            vec![Reply::Of(vec![(name.clone(), [front, text.to_vec()].concat())])]
        };
        let steps =
            vec![Step { replies: back(&hello, true), send: hello }, Step { replies: back(&data, false), send: data }];
        Conversation { steps, server_closes: false }
    }

    /// A mail: greeting and envelope up to the first recipient are the director's, the rest the server's.
    fn mail(self, names: &[String], n: u64) -> Conversation {
        let (to, group) = [("chow@cs.uccs.edu", 0), ("someone@wait.example", 1), ("x@example.net", 2)][n as usize % 3];
        let name = &names[group];
        let exactly = |text: String| vec![Reply::Of(vec![(name.clone(), text.into_bytes())])];
        let line = |start| vec![Reply::Line(start)];
        let step = |send: String, replies| Step { send: send.into_bytes(), replies };
        let text = format!("Subject: mail {n}\r\n\r\n{}\r\n.\r\n", "line of text\r\n".repeat(n as usize * 20));
        let hash = session::hash(text.as_bytes());
        let steps = vec![
            step(String::new(), line("220 ")),
            step("HELO client.example\r\n".into(), line("250 ")),
            step(format!("MAIL FROM:<sender{n}@example.org>\r\n"), line("250 ")),
            step(format!("RCPT TO:<{to}>\r\n"), exactly(format!("250 {name} takes mail for {to}\r\n"))),
            step("DATA\r\n".into(), exactly("354 go on\r\n".into())),
            step(text, exactly(format!("250 {name} has {hash:016x}\r\n"))),
            step("QUIT\r\n".into(), exactly(format!("221 {name} closes\r\n"))),
        ];
        Conversation { steps, server_closes: true }
    }

    /// What a server of this scenario does on one connection.
    pub fn session(self, group: usize, name: &str) -> session::Session {
        match self {
            Content::Sni => session::Session::echo(name),
            Content::Smtp => session::Session::smtp(name),
            _ => session::Session::http(name, self.classes(group)),
        }
    }

    /// The keys of the service that switch it by content.
    pub fn keys(self, rules: &RuleFile, names: &[String]) -> String {
        let file = rules.path().display();
        let mut text = format!("rules = \"{file}\"\napplication = \"{}\"\n", self.application());
        let groups: Vec<String> = GROUPS.iter().zip(names).map(|(g, n)| format!("{g} = [\"{n}\"]")).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "groups = {{ {} }}", groups.join(", "));
        text += match self {
            Content::PreallocateHit | Content::PreallocateHitDr | Content::PreallocateHitTun => {
                "binding = \"preallocate\"\nguess = \"client\"\n"
            }
            Content::PreallocateMiss | Content::PreallocateMissDr | Content::PreallocateMissTun => {
                "binding = \"preallocate\"\nguess = \"server\"\n"
            }
            Content::Pooled => "binding = \"pooled\"\npool = { idle = 4 }\ntimestamps = true\n",
            Content::Keepalive | Content::Smtp => "timestamps = true\n",
            Content::FilterDr | Content::FilterTun => "binding = \"filter\"\n",
            Content::FilterKeepalive => "binding = \"filter\"\nswitching = \"request\"\n",
            Content::FilterFallback => "binding = \"filter\"\nfallback = \"fullnat\"\n",
            _ => "",
        };
        if self.is_direct_guess() {
            text += "switching = \"connection\"\n";
        }
        if matches!(self, Content::PreallocateMiss | Content::PreallocateMissDr | Content::PreallocateMissTun) {
            let _ = writeln!(text, "guess-server = \"{}\"", names[0]);
        }
        text
    }

    /// Whether timestamps are agreed upon with clients.
    fn stamped(self) -> bool {
        matches!(self, Content::Pooled | Content::Keepalive | Content::Smtp)
    }

    /// Servers that must be sent something.
    fn least_servers(self) -> usize {
        match self {
            Content::Keepalive
            | Content::PreallocateMiss
            | Content::PreallocateMissDr
            | Content::PreallocateMissTun => 2,
            _ => 3,
        }
    }

    /// How servers are reached.
    fn forward(self) -> Forward {
        match self {
            Content::Pooled => Forward::FullNat,
            Content::FilterDr
            | Content::FilterKeepalive
            | Content::FilterFallback
            | Content::PreallocateHitDr
            | Content::PreallocateMissDr => Forward::Dr,
            Content::FilterTun | Content::PreallocateHitTun | Content::PreallocateMissTun => Forward::Tunnel,
            _ => Forward::Nat,
        }
    }

    /// What is checked of how connections were bound: its name, whether it is so, and what was seen.
    fn bound(self, services: &[ServiceReport]) -> Option<(&'static str, bool, String)> {
        let pool = services.iter().find_map(|s| s.content.as_ref()?.counts.as_ref()?.pool);
        if let Some(n) = pool {
            // The first request may come before the first connection stands.
            let ok = n.reused + n.fresh == 60 && n.reused >= 57 && n.repeated == 0;
            let seen = format!(
                "{} requests on an open connection, {} on a new one; {} opened ahead, {} idle",
                n.reused, n.fresh, n.opened, n.idle
            );
            return Some((SHARED, ok, seen));
        }
        self.guesses(services).map(|(ok, seen)| (GUESSES, ok, seen))
    }

    /// What became of guesses, where there were any: of 60 connections, whether as many were right as can be.
    fn guesses(self, services: &[ServiceReport]) -> Option<(bool, String)> {
        let counts = |s: &ServiceReport| s.content.as_ref()?.counts.as_ref()?.guesses.clone();
        let n = services.iter().find_map(counts)?.counts;
        // The first connection has nothing to go by, and two are the first to ask for something else.
        let ok = match self {
            Content::PreallocateHit => n.none == 1 && n.right == 57 && n.wrong == 2,
            // Who answers a client directly looks for its link-layer address first, and some stacks lose the answer meanwhile.
            Content::PreallocateHitDr | Content::PreallocateHitTun => {
                n.none == 1 && n.wrong == 2 && n.right + n.unanswered == 57 && n.unanswered <= 3
            }
            // The first connection proves the client's address.
            Content::PreallocateMissDr | Content::PreallocateMissTun => {
                n.none == 1 && n.right == 0 && n.wrong + n.unanswered == 59 && n.unanswered <= 3
            }
            _ => n.right == 0 && n.wrong == 60,
        };
        Some((ok, format!("{} guessed right, {} wrong, {} not guessed", n.right, n.wrong, n.none + n.unanswered)))
    }
}

/// A TLS 1.2 ClientHello record for this host name (RFC 8446 section 4.1.2, RFC 6066 section 3), padded (RFC 7685).
pub fn client_hello(host: &str, seed: u64, padding: usize) -> Vec<u8> {
    let short = |n: usize| (n as u16).to_be_bytes();
    let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &short(body.len()), body].concat();
    let name = [&short(host.len() + 3)[..], &[0], &short(host.len()), host.as_bytes()].concat();
    let mut extensions = extension(0, &name);
    extensions.extend(extension(16, b"\0\x0c\x02h2\x08http/1.1"));
    if padding > 0 {
        extensions.extend(extension(21, &vec![0; padding]));
    }
    let mut body = vec![3, 3];
    body.extend((0..4).flat_map(|n: u64| crate::network::random::mix(seed * 4 + n + 1).to_be_bytes()));
    // No session, two suites, no compression.
    body.extend([0, 0, 4, 0x13, 0x01, 0xc0, 0x2f, 1, 0]);
    body.extend(short(extensions.len()));
    body.extend(extensions);
    let mut message = vec![1];
    message.extend(&(body.len() as u32).to_be_bytes()[1..]);
    message.extend(body);
    [&[22, 3, 1][..], &short(message.len()), &message].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        ["s1", "s2", "s3"].map(String::from).to_vec()
    }

    /// Plays a conversation with a session and no network; what the client has heard.
    fn play(scenario: Content, group: usize, c: &Conversation) -> Result<Ear, String> {
        let mut session = scenario.session(group, &names()[group]);
        let mut ear = Ear::default();
        let mut out = session.greeting();
        for step in &c.steps {
            ear.expect(&step.replies);
            for part in step.send.chunks(7) {
                out.extend(session.hear(part)?.0);
            }
            ear.hear(&std::mem::take(&mut out))?;
        }
        assert!(ear.is_content());
        Ok(ear)
    }

    #[test]
    fn every_conversation_is_what_one_server_answers_and_no_other() {
        let one_by_one = [Content::Keepalive, Content::FilterKeepalive, Content::BadLinks];
        for scenario in Content::ALL.into_iter().filter(|c| !one_by_one.contains(c)) {
            for c in scenario.conversations(&names()) {
                let fits = (0..3).filter(|&g| play(scenario, g, &c).is_ok()).count();
                assert_eq!(fits, 1, "{scenario:?} {:?}", c.steps[0]);
            }
        }
        // On one connection no single server can answer all.
        for scenario in one_by_one {
            for c in scenario.conversations(&names()) {
                assert!((0..3).all(|g| play(scenario, g, &c).is_err()));
            }
        }
    }

    #[test]
    fn a_hello_says_its_name() {
        for padding in [0, 1_500] {
            let hello = client_hello("ace.example", 3, padding);
            assert_eq!(usize::from(u16::from_be_bytes([hello[3], hello[4]])) + 5, hello.len());
            let set =
                lcs_control::rules::parse(Content::Sni.rules(), &lcs_control::rules::Context::named("sni")).unwrap();
            let trial = lcs_control::rules::Trial::new(&set).unwrap();
            let verdict = trial.verdict(Some(lcs_control::rules::Protocol::Tls), &hello, &Default::default());
            assert_eq!(verdict, Ok(lcs_control::rules::Verdict::Rule(0)));
        }
    }
}
