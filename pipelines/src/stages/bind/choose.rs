//! Which server a decided request goes to.

use super::Desk;
use super::decide::is_up;
use super::later::Opens;
use crate::content::{Content, Sticky};
use crate::matching::Action;
use crate::migration::Filters;
use crate::snapshot::{NO_SLOT, Scheduler};
use crate::splice::Binding;
use crate::splice::sticky::hash_address;
use lcs_dataplane::flow::Place;
use lcs_dataplane::port::Port;

/// The servers that a rule allows, its group's number ([`u16::MAX`] where it names a server) and how one of them is chosen.
/// `None` where a rule answers itself.
pub(super) fn candidates<'c>(content: &'c Content, action: &'c Action) -> Option<(&'c [u16], u16, Scheduler)> {
    Some(match action {
        Action::Forward { server, .. } => (std::slice::from_ref(server), u16::MAX, Scheduler::Rr),
        Action::RouteTo { group, .. } => {
            let g = content.group(*group)?;
            (&g.servers, *group, g.scheduler)
        }
        Action::LoadBalance { group, algorithm } => {
            let g = content.group(*group)?;
            let named = match &**algorithm {
                "rr" => Scheduler::Rr,
                "wrr" => Scheduler::Wrr,
                "lc" => Scheduler::Lc,
                "wlc" => Scheduler::Wlc,
                _ => g.scheduler,
            };
            (&g.servers, *group, named)
        }
        Action::Reject { .. } | Action::Redirect { .. } => return None,
    })
}

impl<P: Port> Desk<'_, P> {
    /// The server for a request: the one in turn if the rule allows it, then one that the connection has used before, then the
    /// group's scheduler's choice.
    pub(super) fn choose(&mut self, flow: u32, b: &Binding, content: &Content, action: &Action) -> Option<u16> {
        self.choose_with(flow, b, content, action, true)
    }

    /// The same, if no scheduler need be asked for it: each time that one is asked is another one's turn.
    pub(super) fn choose_known(&mut self, flow: u32, b: &Binding, content: &Content, action: &Action) -> Option<u16> {
        self.choose_with(flow, b, content, action, false)
    }

    fn choose_with(
        &mut self,
        flow: u32,
        b: &Binding,
        content: &Content,
        action: &Action,
        schedules: bool,
    ) -> Option<u16> {
        if content.binding.scheme.channel().is_none() {
            return self.choose_by(flow, b, content, action, (None, schedules));
        }
        // Lent out, so that the choice can ask which filters are live.
        let filters = std::mem::take(&mut self.c.splices.migrations.filters);
        let chosen = self.choose_by(flow, b, content, action, (Some(&filters), schedules));
        self.c.splices.migrations.filters = filters;
        chosen
    }

    #[inline(never)]
    fn choose_by(
        &mut self,
        flow: u32,
        b: &Binding,
        content: &Content,
        action: &Action,
        (filters, schedules): (Option<&Filters>, bool),
    ) -> Option<u16> {
        let service = self.c.table.get(flow).service;
        let (servers, group, scheduler) = candidates(content, action)?;
        let (snapshot, now) = (self.snapshot, self.now);
        let channel = content.binding.scheme.channel();
        let up = |s: u16| servers.contains(&s) && is_up(snapshot, s);
        let live = |s: u16| filters.is_none_or(|filters| filters.get(s).is_some_and(|f| f.is_live(now)));
        let first = |s: u16| up(s) && !b.has_tried(s) && live(s);
        let fallback = |s: u16| channel.is_some_and(|c| c.fallback) && up(s) && !b.has_tried_itself(s);
        // Who is kept with a server stays with it; others go where a filter takes them, if one does.
        let usable = |s: u16| first(s) || fallback(s);
        // Its cookie counts more than where the connection has been: a proxy sends many clients' requests over one.
        if let Some(server) = self.server_of_cookie(service, content, action, servers, &b.buffer, &usable) {
            return Some(server);
        }
        let present = self.c.table.get(flow).server;
        let by_source = *content.sticky(action) == Sticky::Source;
        // A guess need not be where the client belongs.
        let bound = self.is_attached(flow) || self.is_led(flow) || self.is_direct_guess(flow);
        if bound && usable(present) && !(by_source && self.c.splices.get(b.entry).is_guess()) {
            return Some(present);
        }
        if let Some(leg) = self.leg_to(b.entry, &usable) {
            return Some(leg);
        }
        if by_source && let Some(key) = self.c.table.key(flow, Place::CLIENT) {
            return self.rendezvous(hash_address(key.source().ip()), servers, &usable);
        }
        if !schedules {
            return None;
        }
        self.scheduled(service, (servers, group, scheduler), &first)
            .or_else(|| self.scheduled(service, (servers, group, scheduler), &fallback))
    }

    /// The scheduler's choice of the [`candidates`], or the first that is usable.
    pub(super) fn scheduled(
        &mut self,
        service: u16,
        (servers, group, scheduler): (&[u16], u16, Scheduler),
        usable: &impl Fn(u16) -> bool,
    ) -> Option<u16> {
        if self.opens == Opens::Later && matches!(scheduler, Scheduler::Lc | Scheduler::Wlc) {
            // What is chosen hangs on what was opened for the requests before, and what the next ones choose on this one's.
            self.open_deferred();
        }
        let chosen = self.c.schedulers.choose_in(service, group, scheduler, servers, &self.c.counts);
        if chosen != NO_SLOT && usable(chosen) {
            return Some(chosen);
        }
        servers.iter().copied().find(|&s| usable(s))
    }
}
