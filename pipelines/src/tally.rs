//! What a worker counts of one service that is switched by content: rules, groups, answers, refusals, queues.
//!
//! Counts go by name through a live replacement of the rules: a rule, a group's server or a queue that has the name of
//! one before goes on counting, whatever it says now; what is new begins at nothing, and what is gone is forgotten.

use crate::content::Content;
use crate::extract::ExtractError;
use crate::matching::Action;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Why a request was given to no server although no rule says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// No server of those that the rule allows was there, or none answered.
    NoServer,
    /// It could not be read, or was too long.
    Unreadable,
    /// No byte of it came in time: the client has connected and said nothing.
    Silent,
    /// It began and was not complete in time.
    TooSlow,
    /// As many requests are in hand as may be.
    TooMany,
    /// The service was removed, or has no rules any more.
    Withdrawn,
    /// Its queue was full.
    QueueFull,
    /// It had waited in its queue for as long as it may.
    QueueTimeout,
}

impl Refusal {
    /// All of them, in the order of [`Tally::refusals`].
    pub const ALL: [Refusal; 8] = [
        Refusal::NoServer,
        Refusal::Unreadable,
        Refusal::Silent,
        Refusal::TooSlow,
        Refusal::TooMany,
        Refusal::Withdrawn,
        Refusal::QueueFull,
        Refusal::QueueTimeout,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::NoServer => "no-server",
            Refusal::Unreadable => "unreadable",
            Refusal::Silent => "silent",
            Refusal::TooSlow => "too-slow",
            Refusal::TooMany => "too-many",
            Refusal::Withdrawn => "withdrawn",
            Refusal::QueueFull => "queue-full",
            Refusal::QueueTimeout => "queue-timeout",
        }
    }

    /// What it means, in a sentence.
    pub fn explanation(self) -> &'static str {
        match self {
            Refusal::NoServer => "No server that the rule allows is up, or none of them answered: 503.",
            Refusal::Unreadable => "The request is malformed, ambiguous or longer than may be inspected.",
            Refusal::Silent => "The client connected and sent no byte in `first-byte-timeout`: reset.",
            Refusal::TooSlow => "The request was not complete in `request-timeout`: 408.",
            Refusal::TooMany => "As many requests are in hand as a worker may hold; the client sends again.",
            Refusal::Withdrawn => "The service was removed while the request was in hand: 503.",
            Refusal::QueueFull => "The queue that the rule names has `length` waiting already: 503.",
            Refusal::QueueTimeout => "It waited in its queue for `timeout`: 503.",
        }
    }
}

/// What was counted of one queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct QueueTally {
    /// Requests that wait now.
    pub waiting: u64,
    /// Packets of these, as the queue counts them.
    pub waiting_packets: u64,
    /// Requests that have passed.
    pub passed: u64,
    /// Packets of these.
    pub passed_packets: u64,
    /// Requests that had to wait before they passed.
    pub delayed: u64,
    /// How long these have waited in all, nanoseconds.
    pub waited: u64,
    /// Requests refused because the queue was full.
    pub full: u64,
    /// Requests that waited for too long and were refused.
    pub timed_out: u64,
}

impl QueueTally {
    /// Adds what another worker has counted.
    pub fn add(&mut self, more: &QueueTally) {
        self.waiting += more.waiting;
        self.waiting_packets += more.waiting_packets;
        self.passed += more.passed;
        self.passed_packets += more.passed_packets;
        self.delayed += more.delayed;
        self.waited += more.waited;
        self.full += more.full;
        self.timed_out += more.timed_out;
    }
}

/// What was counted of guesses ([`Scheme::Preallocate`](crate::content::Scheme::Preallocate)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GuessTally {
    /// Connections whose server was guessed.
    pub made: u64,
    /// Those whose first request the rules gave to that server.
    pub right: u64,
    /// Those whose first request was for another server, or for none.
    pub wrong: u64,
    /// Those whose guessed server refused, or did not answer in time: they were bound as delayed ones are.
    pub unanswered: u64,
    /// Connections for which there was nothing to go by, or, where the guessed server would answer directly, whose client's
    /// address was not proven lately: bound as delayed ones are.
    pub none: u64,
    /// Those whose guessed server answers directly and whose request was not decided at once: bound as delayed ones are.
    #[serde(default)]
    pub undecided: u64,
}

impl GuessTally {
    /// Adds what another worker has counted.
    pub fn add(&mut self, more: &GuessTally) {
        self.made += more.made;
        self.right += more.right;
        self.wrong += more.wrong;
        self.unanswered += more.unanswered;
        self.none += more.none;
        self.undecided += more.undecided;
    }
}

/// What was counted of servers' connections that are shared ([`Scheme::Pooled`](crate::content::Scheme::Pooled)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PoolTally {
    /// Connections that stand idle now.
    pub idle: u64,
    /// Connections that a client has now.
    pub lent: u64,
    /// Connections opened ahead of requests.
    pub opened: u64,
    /// Those that the server refused or did not answer.
    pub failed: u64,
    /// Requests that went out on a connection that was open.
    pub reused: u64,
    /// Requests for which one was opened.
    pub fresh: u64,
    /// Of those that went out on an open one: sent again on another, because the server had closed it.
    pub repeated: u64,
    /// Connections that the director has closed: too many, too old, idle for too long, or their server is gone.
    pub retired: u64,
    /// Idle connections that the server has closed, or has forgotten.
    pub lost: u64,
}

impl PoolTally {
    /// Adds what another worker has counted.
    pub fn add(&mut self, more: &PoolTally) {
        self.idle += more.idle;
        self.lent += more.lent;
        self.opened += more.opened;
        self.failed += more.failed;
        self.reused += more.reused;
        self.fresh += more.fresh;
        self.repeated += more.repeated;
        self.retired += more.retired;
        self.lost += more.lost;
    }
}

/// What was counted of migrations: at a director ([`Scheme::Filter`](crate::content::Scheme::Filter)), or at a filter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationTally {
    /// Director: filters that answer now, as each worker finds it.
    pub live: u64,
    /// Director: connections given to filters, each try counted.
    pub sent: u64,
    /// Those that were taken. Filter: connections taken.
    pub accepted: u64,
    /// Those that were not. Filter: connections not taken.
    pub refused: u64,
    /// Director: those of which nothing was heard.
    pub unanswered: u64,
    /// Director: connections bound as delayed ones over full NAT because no filter took them, each try counted.
    #[serde(default)]
    pub fallback: u64,
    /// Later requests of connections that their filter has: given to it. Filter: taken.
    #[serde(default)]
    pub continued: u64,
    /// Connections that filters have given back for another request.
    #[serde(default)]
    pub recalled: u64,
    /// Messages about connections, those sent again included.
    pub messages: u64,
    /// Bytes of these, headers of lower layers not counted.
    pub bytes: u64,
}

impl MigrationTally {
    /// Adds what another worker has counted.
    pub fn add(&mut self, more: &MigrationTally) {
        self.live += more.live;
        self.sent += more.sent;
        self.accepted += more.accepted;
        self.refused += more.refused;
        self.unanswered += more.unanswered;
        self.fallback += more.fallback;
        self.continued += more.continued;
        self.recalled += more.recalled;
        self.messages += more.messages;
        self.bytes += more.bytes;
    }
}

/// What one worker has counted of one service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// What the numbers below are numbers of.
    #[serde(skip)]
    pub content: Option<Arc<Content>>,
    /// Clients' connections now.
    pub connections: u64,
    /// Connections now to servers that are not in turn.
    pub parked: u64,
    /// Requests in hand now: being collected, decided, waiting in a queue or being delivered.
    pub in_hand: u64,
    /// Decisions by rule, in the rules' order. A request is decided anew when rules are replaced while it waits.
    pub rules: Vec<u64>,
    /// By group, in the content's order: requests by server, in the group's order.
    pub groups: Vec<Vec<u64>>,
    /// Requests that `forward` has sent to servers, sorted by slot.
    pub forwarded: Vec<(u16, u64)>,
    /// Answers that rules gave, sorted by status; 0 for a reset.
    pub answers: Vec<(u16, u64)>,
    /// Requests refused, by [`Refusal`].
    pub refusals: [u64; Refusal::ALL.len()],
    /// Those of [`Refusal::Unreadable`] again, by what was wrong with the request ([`ExtractError::ALL`]).
    #[serde(default)]
    pub errors: [u64; ExtractError::ALL.len()],
    /// Queues, in the content's order.
    pub queues: Vec<QueueTally>,
    /// Servers that were not used for a connection because they had not agreed upon timestamps, which its client had been
    /// promised: each try counted.
    pub unstamped: u64,
    /// Guessed servers.
    pub guesses: GuessTally,
    /// Shared connections.
    pub pool: PoolTally,
    /// Migrations.
    pub migrations: MigrationTally,
}

impl Tally {
    /// Nothing counted yet, with room for whatever the rules may do.
    pub fn new(content: &Arc<Content>) -> Self {
        let (mut forwarded, mut answers) = (Vec::new(), vec![(0, 0)]);
        for rule in 0..content.program.len() as u32 {
            match content.program.rule(rule).map(|(_, action)| action) {
                Some(Action::Forward { server, .. }) => forwarded.push((*server, 0)),
                Some(Action::Reject { status: Some(status) } | Action::Redirect { status, .. }) => {
                    answers.push((*status, 0));
                }
                _ => {}
            }
        }
        for list in [&mut forwarded, &mut answers] {
            list.sort_unstable();
            list.dedup();
        }
        Tally {
            content: Some(Arc::clone(content)),
            rules: vec![0; content.program.len()],
            groups: content.groups.iter().map(|g| vec![0; g.servers.len()]).collect(),
            forwarded,
            answers,
            queues: vec![QueueTally::default(); content.binding.queues.len()],
            ..Tally::default()
        }
    }

    /// Adds what was counted with these or other rules, as far as there is something of the same name here. The state of
    /// now ([`Tally::connections`] and such) is added too.
    pub fn add(&mut self, more: &Tally) {
        self.connections += more.connections;
        self.parked += more.parked;
        self.in_hand += more.in_hand;
        self.unstamped += more.unstamped;
        self.guesses.add(&more.guesses);
        self.pool.add(&more.pool);
        self.migrations.add(&more.migrations);
        for (sum, n) in self.refusals.iter_mut().zip(more.refusals) {
            *sum += n;
        }
        for (sum, n) in self.errors.iter_mut().zip(more.errors) {
            *sum += n;
        }
        for (list, from) in [(&mut self.forwarded, &more.forwarded), (&mut self.answers, &more.answers)] {
            for (key, n) in from.iter().filter(|(_, n)| *n > 0) {
                if let Ok(at) = list.binary_search_by_key(key, |(key, _)| *key) {
                    list[at].1 += n;
                }
            }
        }
        let (Some(mine), Some(theirs)) = (self.content.clone(), &more.content) else { return };
        if Arc::ptr_eq(&mine, theirs) {
            let groups = self.groups.iter_mut().flatten().zip(more.groups.iter().flatten());
            self.rules.iter_mut().zip(&more.rules).chain(groups).for_each(|(sum, n)| *sum += n);
            self.queues.iter_mut().zip(&more.queues).for_each(|(sum, n)| sum.add(n));
            return;
        }
        let name = |content: &Content, rule: usize| content.program.rule(rule as u32).map(|(name, _)| name.to_owned());
        let mut by_name: Option<HashMap<String, usize>> = None;
        for (rule, n) in more.rules.iter().enumerate().filter(|(_, n)| **n > 0) {
            let Some(wanted) = name(theirs, rule) else { continue };
            // Most rules of a file that was edited stand where they stood.
            let at = if name(&mine, rule).is_some_and(|name| name == wanted) {
                Some(rule)
            } else {
                let names = by_name.get_or_insert_with(|| {
                    (0..mine.program.len()).filter_map(|rule| Some((name(&mine, rule)?, rule))).collect()
                });
                names.get(&wanted).copied()
            };
            if let Some(sum) = at.and_then(|at| self.rules.get_mut(at)) {
                *sum += n;
            }
        }
        for (queue, counts) in theirs.binding.queues.iter().zip(&more.queues) {
            let at = mine.binding.queues.iter().position(|q| q.name == queue.name);
            if let Some(sum) = at.and_then(|at| self.queues.get_mut(at)) {
                sum.add(counts);
            }
        }
        for (group, counts) in theirs.groups.iter().zip(&more.groups) {
            let Some(at) = mine.groups.iter().position(|g| g.name == group.name) else { continue };
            for (server, n) in group.servers.iter().zip(counts) {
                if let Some(at_server) = mine.groups[at].servers.iter().position(|s| s == server) {
                    self.groups[at][at_server] += n;
                }
            }
        }
    }

    /// A rule has taken a request.
    pub(crate) fn decided(&mut self, rule: u32) {
        if let Some(n) = self.rules.get_mut(rule as usize) {
            *n += 1;
        }
    }

    /// A request goes to a server: of a group, or by `forward`.
    pub(crate) fn sent(&mut self, group: Option<u16>, server: u16) {
        let n = match group {
            Some(group) => {
                let servers = self.content.as_ref().and_then(|c| c.group(group)).map_or(&[][..], |g| &g.servers);
                let at = servers.iter().position(|s| *s == server);
                at.and_then(|at| self.groups.get_mut(usize::from(group))?.get_mut(at))
            }
            None => {
                let at = self.forwarded.binary_search_by_key(&server, |(slot, _)| *slot);
                at.ok().and_then(|at| self.forwarded.get_mut(at)).map(|(_, n)| n)
            }
        };
        if let Some(n) = n {
            *n += 1;
        }
    }

    /// A rule has answered with a status, or reset a connection (0).
    pub(crate) fn answered(&mut self, status: u16) {
        if let Ok(at) = self.answers.binary_search_by_key(&status, |(status, _)| *status) {
            self.answers[at].1 += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Binding, Group};
    use crate::extract::{Limits, Plan, Protocol};
    use crate::matching::{Expr, Rule, RuleSet, Stickiness, compile};
    use crate::snapshot::Scheduler;

    fn content(rules: &[(&str, Action)], groups: &[(&str, &[u16])]) -> Arc<Content> {
        let rules = rules.iter().map(|(name, action)| Rule {
            name: (*name).into(),
            condition: Expr::always(),
            action: action.clone(),
        });
        let program = compile(&RuleSet { rules: rules.collect() }).unwrap();
        let plan = Plan::new(&program, Limits::default());
        let groups = groups
            .iter()
            .map(|(name, servers)| Group { name: (*name).into(), scheduler: Scheduler::Rr, servers: servers.to_vec() })
            .collect();
        Arc::new(Content { protocol: Protocol::Http, program, plan, groups, binding: Binding::default() })
    }

    fn to(group: u16) -> Action {
        Action::RouteTo { group, stickiness: Stickiness::Service }
    }

    #[test]
    fn counts_go_by_name_through_a_replacement() {
        let reject = Action::Reject { status: Some(403) };
        let old = content(&[("a", to(0)), ("b", reject.clone()), ("default", to(1))], &[("x", &[4, 5]), ("y", &[6])]);
        let mut t = Tally::new(&old);
        for (rule, n) in [(0, 3), (1, 2), (2, 1)] {
            (0..n).for_each(|_| t.decided(rule));
        }
        t.sent(Some(0), 5);
        t.sent(Some(0), 5);
        t.sent(Some(1), 6);
        t.sent(Some(1), 4); // of another group
        t.answered(403);
        t.answered(500); // no rule says so
        t.refusals[Refusal::NoServer as usize] = 9;
        t.errors[ExtractError::Chunk as usize] = 4;
        // b stands first now, a is gone, y has another number and one server more.
        let forward = Action::Forward { server: 7, queue: None };
        let new = content(&[("b", reject), ("c", forward), ("default", to(0))], &[("y", &[5, 6])]);
        let mut u = Tally::new(&new);
        u.sent(None, 7);
        u.sent(None, 8);
        u.add(&t);
        assert_eq!(u.rules, [2, 0, 1]);
        assert_eq!(u.groups, [vec![0, 1]]);
        assert_eq!((u.forwarded, u.answers, u.refusals[0]), (vec![(7, 1)], vec![(0, 0), (403, 1)], 9));
        // Another worker with the same rules.
        let mut sum = t.clone();
        sum.add(&t);
        assert_eq!((u.errors[ExtractError::Chunk as usize], sum.errors[ExtractError::Chunk as usize]), (4, 8));
        assert_eq!((sum.rules, sum.groups), (vec![6, 4, 2], vec![vec![0, 4], vec![2]]));
    }

    #[test]
    fn every_error_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = ExtractError::ALL.iter().map(|e| e.name()).collect();
        assert_eq!(names.len(), ExtractError::ALL.len());
        assert!(ExtractError::ALL.iter().enumerate().all(|(i, e)| *e as usize == i));
        let refusals: Vec<_> = Refusal::ALL.iter().map(|r| r.name()).collect();
        assert!(!refusals.iter().any(|name| names.contains(name)), "one column of reports has both");
    }

    #[test]
    fn every_refusal_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = Refusal::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), Refusal::ALL.len());
        assert!(Refusal::ALL.iter().enumerate().all(|(i, r)| *r as usize == i && r.explanation().ends_with('.')));
    }
}
