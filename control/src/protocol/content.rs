//! What is said of services that are switched by content.

use lcs_pipelines::content::Switching;
use lcs_pipelines::snapshot::Scheduler;
use lcs_pipelines::tally::{GuessTally, MigrationTally, PoolTally, QueueTally};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How a service is switched by content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ContentReport {
    /// What clients speak: `http`, `tls`, `smtp`, `pop3`, `imap`, `ftp`.
    pub application: String,
    /// What one decision is for.
    pub switching: Switching,
    /// Whether timestamps are agreed upon with clients.
    #[serde(default)]
    pub timestamps: bool,
    /// The rule file.
    pub file: String,
    /// How many rules there are, `default` aside.
    pub rules: usize,
    /// The groups that they may name.
    pub groups: Vec<GroupReport>,
    /// What its servers must be set up for, where their replies do not come back through the director; sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// What was counted; in [`super::Response::Stats`] only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<ContentCounts>,
}

/// What was counted of a service that is switched by content, by all workers together. Counts go by name: a rule that is
/// replaced by one of the same name goes on counting, and so does a server within its group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ContentCounts {
    /// Clients' connections now.
    pub connections: u64,
    /// Connections now to servers that are not in turn, kept for a later request of the same client.
    pub parked: u64,
    /// Requests in hand now: being collected, decided, waiting or being delivered.
    pub in_hand: u64,
    /// Decisions by rule, in the rules' order, `default` last.
    pub rules: Vec<RuleCount>,
    /// Requests by group and server.
    pub groups: Vec<GroupCount>,
    /// Requests that `forward` has sent, by server.
    pub forwarded: Vec<ServerCount>,
    /// Requests that rules have answered themselves.
    pub answers: Vec<AnswerCount>,
    /// Requests that no server got, by reason, those that happened.
    pub refusals: Vec<RefusalCount>,
    /// Those that could not be read (`unreadable` above) again, by what was wrong with them, those that happened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<RefusalCount>,
    /// Times that a server was not used for a connection because it had not agreed upon timestamps.
    #[serde(default)]
    pub unstamped: u64,
    /// Queues.
    pub queues: Vec<QueueCount>,
    /// Guesses, where servers are guessed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guesses: Option<GuessCount>,
    /// Connections to servers that clients share, where they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolTally>,
    /// Migrations, where filters serve, or this is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migrations: Option<MigrationTally>,
}

/// A queue and what went through it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct QueueCount {
    /// Its name.
    pub queue: String,
    /// Its priority.
    pub priority: u8,
    /// What was counted; times in nanoseconds.
    #[serde(flatten)]
    pub counts: QueueTally,
}

/// Servers guessed with a client's SYN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuessCount {
    /// What guesses go by.
    pub by: String,
    /// What was counted.
    #[serde(flatten)]
    pub counts: GuessTally,
}

/// Decisions of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleCount {
    /// Its name.
    pub rule: String,
    /// Requests that it has taken.
    pub decisions: u64,
}

/// Requests of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupCount {
    /// Its name.
    pub group: String,
    /// Requests sent to its servers.
    pub requests: u64,
    /// The same by server.
    pub servers: Vec<ServerCount>,
}

/// Requests of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerCount {
    /// Its name.
    pub server: String,
    /// Requests sent to it.
    pub requests: u64,
}

/// Requests that rules have answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerCount {
    /// HTTP status; none for a reset.
    pub status: Option<u16>,
    /// How many.
    pub requests: u64,
}

/// Requests that no server got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalCount {
    /// Why.
    pub reason: String,
    /// How many.
    pub requests: u64,
    /// What that means.
    pub explanation: String,
}

/// A group of servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GroupReport {
    /// Its name.
    pub name: String,
    /// How one of its servers is chosen where a rule does not say.
    pub scheduler: Scheduler,
    /// Names of its servers.
    pub servers: Vec<String>,
}

/// How a service that is added is switched by content. What is not here has its default; servers are put in the groups
/// when they are added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NewContent {
    /// Absolute path of the rule file, which the director reads.
    pub rules: PathBuf,
    /// Groups that the rules may name.
    #[serde(default)]
    pub groups: Vec<String>,
    /// What clients speak: `http` and so on.
    pub application: String,
}
