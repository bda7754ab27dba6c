//! What was counted of a service that is switched by content, with names for its numbers.

use super::Boxed;
use crate::config::guess_text;
use crate::model::ServiceView;
use crate::protocol::{
    AnswerCount, ContentCounts, GroupCount, GuessCount, QueueCount, RefusalCount, RuleCount, ServerCount,
};
use lcs_pipelines::content::Queue;
use lcs_pipelines::extract::ExtractError;
use lcs_pipelines::tally::{QueueTally, Refusal, Tally};

/// An error's text as a sentence.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), chars.as_str()))
}

/// All workers' counts of a service, by the names that its rules and groups have now.
pub(super) fn counts(view: &ServiceView<'_>, reports: &[Boxed]) -> Option<ContentCounts> {
    let content = view.content?;
    let mut sum = Tally::new(content);
    for tally in reports.iter().filter_map(|r| r.content.services.get(usize::from(view.slot))?.as_ref()) {
        sum.add(tally);
    }
    let server = |slot: &u16| {
        let named = view.servers.iter().find(|s| s.slot == *slot);
        named.map_or_else(|| "?".to_owned(), |s| s.server.name.clone())
    };
    let of_server = |(slot, requests): (&u16, &u64)| ServerCount { server: server(slot), requests: *requests };
    let rules = sum.rules.iter().enumerate().filter_map(|(rule, n)| {
        let (name, _) = content.program.rule(u32::try_from(rule).ok()?)?;
        Some(RuleCount { rule: name.to_owned(), decisions: *n })
    });
    let groups = content.groups.iter().zip(&sum.groups).map(|(group, counts)| GroupCount {
        group: group.name.clone(),
        requests: counts.iter().sum(),
        servers: group.servers.iter().zip(counts).map(of_server).collect(),
    });
    let happened = |(status, n): &(u16, u64)| (*status > 0 || *n > 0).then_some((*status, *n));
    let answers = sum
        .answers
        .iter()
        .filter_map(happened)
        .map(|(status, requests)| AnswerCount { status: (status > 0).then_some(status), requests });
    let refusals = Refusal::ALL.iter().zip(sum.refusals).filter(|(_, n)| *n > 0).map(|(why, requests)| RefusalCount {
        reason: why.name().to_owned(),
        requests,
        explanation: why.explanation().to_owned(),
    });
    let errors = ExtractError::ALL.iter().zip(sum.errors).filter(|(_, n)| *n > 0).map(|(why, requests)| RefusalCount {
        reason: why.name().to_owned(),
        requests,
        explanation: sentence(&why.to_string()),
    });
    let queue = |(queue, counts): (&Queue, QueueTally)| QueueCount {
        queue: queue.name.clone(),
        priority: queue.priority,
        counts,
    };
    Some(ContentCounts {
        connections: sum.connections,
        parked: sum.parked,
        in_hand: sum.in_hand,
        rules: rules.collect(),
        groups: groups.collect(),
        forwarded: sum.forwarded.iter().map(|(slot, n)| of_server((slot, n))).collect(),
        answers: answers.collect(),
        refusals: refusals.collect(),
        unreadable: errors.collect(),
        unstamped: sum.unstamped,
        queues: content.binding.queues.iter().zip(sum.queues).map(queue).collect(),
        migrations: content.binding.scheme.migrates().then_some(sum.migrations),
        guesses: (content.binding.scheme.guesses())
            .then(|| GuessCount { by: guess_text(&content.binding.scheme), counts: sum.guesses }),
        pool: content.binding.scheme.pool().map(|_| sum.pool),
    })
}
