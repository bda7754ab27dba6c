//! Reading a request as far as the rules need it: a function of its bytes, the rules and the state of the groups.
//!
//! Whoever decides calls it: the worker itself, or a content worker that was handed the request ([`crate::placement`]).

use crate::content::{Content, Sticky, Switching};
use crate::extract::{
    BodyFollower, ExtractError, Extraction, Framing, Groups, Method, Outcome, PacketFacts, Protocol, Replay,
};
use crate::matching::{GroupId, Scratch};
use crate::snapshot::{ServerState, Snapshot};
use crate::stages::schedule::SharedCounts;

/// The state of a service's groups, as rules see it.
pub(crate) struct GroupState<'s> {
    pub(crate) content: &'s Content,
    pub(crate) snapshot: &'s Snapshot,
    pub(crate) counts: &'s SharedCounts,
}

impl Groups for GroupState<'_> {
    fn is_up(&self, group: GroupId) -> bool {
        self.content.group(group).is_some_and(|g| g.servers.iter().any(|&s| is_up(self.snapshot, s)))
    }

    fn connections(&self, group: GroupId) -> u64 {
        self.content.group(group).map_or(0, |g| g.servers.iter().map(|&s| self.counts.of(s).0).sum())
    }
}

pub(crate) fn is_up(snapshot: &Snapshot, server: u16) -> bool {
    let s = snapshot.servers.get(usize::from(server)).and_then(Option::as_ref);
    s.is_some_and(|s| s.state == ServerState::Up && s.weight > 0)
}

/// A request that has been read far enough.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Read {
    pub(crate) rule: u32,
    pub(crate) method: Method,
    /// Bytes of the head, and what is known of the body after the bytes that are there.
    pub(crate) length: u64,
    pub(crate) body: BodyFollower,
    /// How to bring a server that speaks first to where the client stands.
    pub(crate) replay: Replay,
    /// Hash of the name of the cookie that the response is looked through for; 0 for none.
    pub(crate) watch: u64,
    /// Whether it may be sent again, and whether its client stays for another.
    pub(crate) repeatable: bool,
    pub(crate) keep_alive: bool,
}

/// What reading has come to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Progress {
    More,
    Decided(Read),
    Failed(ExtractError),
}

/// Reads `buffer` as far as the rules need it, and for switching by request to the head's end.
pub(crate) fn read(
    groups: &GroupState<'_>,
    scratch: &mut Scratch,
    extraction: &mut Extraction,
    buffer: &[u8],
    end: bool,
    packet: &[u8],
) -> Progress {
    let content = groups.content;
    let facts = PacketFacts { packet, groups };
    let outcome = extraction.advance(&content.program, &content.plan, scratch, &facts, buffer, end);
    let rule = match outcome {
        Err(e) => return Progress::Failed(e),
        Ok(Outcome::NeedMore) => return Progress::More,
        Ok(Outcome::NoRule) => return Progress::Failed(ExtractError::NotHttp),
        Ok(Outcome::Rule(rule)) => rule,
    };
    if content.protocol != Protocol::Http || content.binding.switching == Switching::Connection {
        let action = content.program.rule(rule).map(|(_, action)| action);
        if action.is_some_and(|action| matches!(content.sticky(action), Sticky::Cookie(_))) {
            // The cookie may stand behind what was enough for the rule.
            match extraction.head(&content.plan, buffer) {
                Err(e) => return Progress::Failed(e),
                Ok(None) if !end => return Progress::More,
                Ok(_) => {}
            }
        }
        return Progress::Decided(Read {
            rule,
            method: Method::Other,
            length: u64::MAX,
            body: BodyFollower::UntilClose,
            replay: extraction.replay(),
            watch: 0,
            repeatable: false,
            keep_alive: false,
        });
    }
    let head = match extraction.head(&content.plan, buffer) {
        Err(e) => return Progress::Failed(e),
        Ok(None) if end => return Progress::Failed(ExtractError::Truncated),
        Ok(None) => return Progress::More,
        Ok(Some(head)) => head,
    };
    let mut body = match head.framing {
        Framing::UntilClose => BodyFollower::Done,
        framing => BodyFollower::new(framing),
    };
    let mut length = head.length as u64;
    match body.feed(&buffer[head.length.min(buffer.len())..], |_| {}) {
        Ok(used) => length += used as u64,
        Err(e) => return Progress::Failed(e),
    }
    length += u64::from(body.skip());
    Progress::Decided(Read {
        rule,
        method: head.method,
        length,
        body,
        replay: Replay::default(),
        watch: 0,
        repeatable: head.repeatable,
        keep_alive: head.keep_alive,
    })
}
