//! Content in a snapshot: rules compiled with the numbers of groups and the slots of servers.

use crate::config::{self, forwards};
use crate::rules::{self, Errors, Numbering, RuleSet};
use lcs_pipelines::content::{Content, Group, Queue};
use lcs_pipelines::extract::Plan;
use lcs_pipelines::matching::{GroupId, QueueId, ServerId};
use lcs_pipelines::snapshot::Scheduler;
use std::collections::HashMap;
use std::sync::Arc;

/// What is published, and what it was made of.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) content: Arc<Content>,
    rules: Arc<RuleSet>,
    /// Slots of the servers that rules forward to, by name.
    forwards: Vec<u16>,
    /// What the director calls itself in greetings.
    name: String,
}

struct Numbers<'a> {
    groups: &'a [Group],
    slots: &'a HashMap<&'a str, u16>,
    queues: &'a [Queue],
}

impl Numbering for Numbers<'_> {
    fn group(&self, name: &str) -> Option<GroupId> {
        let at = self.groups.iter().position(|group| group.name == name)?;
        GroupId::try_from(at).ok()
    }

    fn server(&self, name: &str) -> Option<ServerId> {
        self.slots.get(name).copied()
    }

    fn queue(&self, name: &str) -> Option<QueueId> {
        let at = self.queues.iter().position(|queue| queue.name == name)?;
        QueueId::try_from(at).ok()
    }
}

/// The machine's name: what greets where no other name is given.
fn machine() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    let good = !name.is_empty() && name.len() <= config::HOST_NAME_MAX && name.bytes().all(|b| b.is_ascii_graphic());
    if good { name.to_owned() } else { "localhost".to_owned() }
}

/// A content as workers take it; the one of before where it would say the same.
///
/// # Errors
/// When the rules cannot be compiled. [`config::load_rules`] has seen to it that they can.
pub(super) fn publish(
    wanted: &config::Content,
    scheduler: Scheduler,
    slots: &HashMap<&str, u16>,
    before: Option<Published>,
) -> Result<Published, Errors> {
    let group = |g: &config::Group| Group {
        name: g.name.clone(),
        scheduler: g.scheduler.unwrap_or(scheduler),
        servers: g.servers.iter().filter_map(|name| slots.get(name.as_str()).copied()).collect(),
    };
    let groups: Vec<Group> = wanted.groups.iter().map(group).collect();
    let forwards: Vec<u16> = forwards(&wanted.rules).into_iter().filter_map(|name| slots.get(name).copied()).collect();
    let name = wanted.host_name.clone().unwrap_or_else(machine);
    if let Some(before) = before {
        let same = before.content.protocol == wanted.application
            && before.content.binding == wanted.binding
            && before.content.groups == groups
            && before.forwards == forwards
            && before.name == name
            && (Arc::ptr_eq(&before.rules, &wanted.rules) || before.rules == wanted.rules);
        if same {
            return Ok(before);
        }
    }
    let program = rules::compile(&wanted.rules, &Numbers { groups: &groups, slots, queues: &wanted.binding.queues })?;
    let plan = Plan::new(&program, wanted.binding.limits).with_name(&name);
    let (protocol, binding) = (wanted.application, wanted.binding.clone());
    let content = Arc::new(Content { protocol, program, plan, groups, binding });
    Ok(Published { content, rules: Arc::clone(&wanted.rules), forwards, name })
}
