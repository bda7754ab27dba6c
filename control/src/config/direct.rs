//! What `binding = "preallocate"` asks of servers that answer clients directly (`"dr"`, `"tunnel"`), and of their service.
//!
//! A right guess leaves the connection to the server. A wrong one is mended by full NAT: that needs addresses of the director's,
//! and a server that can be spoken to at its own address.

use super::check::{Finding, Place};
use super::content::Content;
use super::{Server, Service, Word, endpoint_text};
use crate::rules::{Condition, Variable};
use lcs_pipelines::content::{Scheme, Switching};
use lcs_pipelines::snapshot::Forward;

/// Whether this server of the service is guessed, and answers clients directly.
fn is_direct(content: &Content, server: &Server) -> bool {
    matches!(content.binding.scheme, Scheme::Preallocate(_)) && !server.forward.replies_return()
}

/// What would keep a wrong guess from being mended.
pub(super) fn check(s: &Service, content: &Content, found: &mut Vec<Finding>) {
    let mut add = |place, key, what: String, mend: &str| {
        found.push(Finding { place, key, what, mend: mend.to_owned() });
    };
    let mut direct = s.servers.iter().enumerate().filter(|(_, server)| is_direct(content, server)).peekable();
    let Some((_, first)) = direct.peek() else {
        if content.binding.server_scale.is_some() {
            let what =
                format!("`server-wscale` in service {}, all of whose servers say their scale to the director", s.name);
            add(Place::Service, "server-wscale", what, "remove it: it is for servers behind \"dr\" and \"tunnel\"");
        }
        return;
    };
    let (name, word) = (&first.name, first.forward.word());
    if content.binding.switching == Switching::Request {
        let what = format!(
            "server {name} is behind {word}, so no response passes the director, and it can't be said where the next request begins"
        );
        let mend = "write switching = \"connection\", or forward = \"nat\" or \"fullnat\"";
        add(Place::Service, "switching", what, mend);
    }
    if s.sources.is_empty() {
        let what = format!(
            "service {} guesses server {name}, which is behind {word}, and has no source address: a wrong guess could not be mended",
            s.name
        );
        let mend = "add sources = [\"…\"]: addresses of the director, in the servers' network, that nothing else uses";
        add(Place::Service, "sources", what, mend);
    }
    let limits = content.binding.limits;
    let room = limits.head.max(limits.hello) + limits.body;
    if let Some(scale) = content.binding.server_scale.filter(|&scale| room >> scale < 2) {
        let what = format!(
            "server-wscale = {scale} in service {}: its windows are multiples of {}, and of a request {room} bytes are held at most",
            s.name,
            1u32 << scale.min(31)
        );
        let mend = "write the scale that the servers answer with (Linux: 7), or a larger head-limit or body-limit";
        add(Place::Service, "server-wscale", what, mend);
    }
    for (i, server) in direct.filter(|(_, server)| server.address.is_ipv4() != s.address.is_ipv4()) {
        let family = |v4| if v4 { "IPv4" } else { "IPv6" };
        let what = format!(
            "server {} is at an {} address, and clients come over {}: a wrong guess could not be mended by full NAT",
            server.name,
            family(server.address.is_ipv4()),
            family(s.address.is_ipv4())
        );
        add(Place::Server(i), "address", what, "give its address of the service's family, or bind it at layer 4");
    }
}

/// What the servers of a service must be set up for, where their replies do not come back through the director; one sentence
/// each.
pub fn needs(s: &Service) -> Vec<String> {
    let Some(content) = &s.content else { return Vec::new() };
    let of = |forward| {
        let names = s.servers.iter().filter(|r| is_direct(content, r) && r.forward == forward);
        names.map(|r| r.name.as_str()).collect::<Vec<_>>()
    };
    let (dr, tunnel) = (of(Forward::Dr), of(Forward::Tunnel));
    let all = [&dr[..], &tunnel[..]].concat();
    if all.is_empty() {
        return Vec::new();
    }
    let sources: Vec<String> = s.sources.iter().map(ToString::to_string).collect();
    let mut needs = vec![format!(
        "{} must have {} on lo (arp_ignore=1, arp_announce=2) and listen on {}; and on its own address, port {}, where wrong \
         guesses come to it from {}",
        all.join(", "),
        s.address,
        endpoint_text(s.address, s.port),
        s.port,
        sources.join(", ")
    )];
    if !tunnel.is_empty() {
        needs.push(format!(
            "{} must take tunnelled packets (an ipip, sit or ip6tnl interface that is up, with rp_filter=0), and its answers \
             must leave with an MSS that fits the tunnel",
            tunnel.join(", ")
        ));
    }
    needs.push(match content.binding.server_scale {
        Some(scale) => format!("each must answer a client that scales windows with the scale {scale} (server-wscale)"),
        None => "none is offered window scaling (server-wscale says which scale they would answer with): windows are at most \
                 65,535 bytes"
            .to_owned(),
    });
    if content.rules.rules.iter().any(|rule| asks_who(&rule.condition)) {
        needs.push(
            "each must itself refuse whom it is not for: rules that ask for ip.src or port.src choose a server here, and guard none,              since what a guessed server agrees with its client is not seen"
                .to_owned(),
        );
    }
    needs
}

/// Whether a condition asks where a client comes from. No deeper than rules are nested.
fn asks_who(condition: &Condition) -> bool {
    match condition {
        Condition::And(all) | Condition::Or(all) => all.iter().any(asks_who),
        Condition::Not(one) => asks_who(one),
        Condition::Term(term) => matches!(term.variable, Variable::IpSrc | Variable::PortSrc),
    }
}
