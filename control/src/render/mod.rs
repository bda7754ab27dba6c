//! Answers of the director as text for a terminal.

mod content;
mod diagram;
mod flame;
mod stats;
mod table;

pub use diagram::Diagram;
pub use flame::{Flame, INTERVALS_MAX};
pub use stats::{since, stats};
pub use table::{Table, bytes, duration, number, percent, scaled};

use crate::config::{Word, endpoint_text};
use crate::protocol::{
    Applied, Connections, ContentReport, GroupReport, PersistenceReport, Response, ServiceReport, Status, Traced,
};
use lcs_pipelines::content::Switching;
use std::fmt::Write;

/// Any answer.
pub fn response(response: &Response) -> String {
    match response {
        Response::Status(s) => status(s),
        Response::Stats(s) => stats(s, None),
        Response::Services(s) => services(&s.services),
        Response::Connections(c) => connections(c),
        Response::Applied(a) => applied(a),
        Response::Trace(t) => traced(t),
        Response::TraceEnd(e) => match e.lost {
            0 => format!("{}\n", counted(e.frames as usize, "frame")),
            lost => {
                let frames = counted(e.frames as usize, "frame");
                format!("{frames}, and {lost} that came faster than they could be shown\n")
            }
        },
    }
}

/// A number of things: `1 server`, `2 servers`. For words whose plural takes an s.
pub fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// What has been changed.
pub fn applied(a: &Applied) -> String {
    let mut out = String::new();
    for change in &a.changes {
        let _ = writeln!(out, "{change}");
    }
    match a.changes.is_empty() {
        true => out += "nothing to change\n",
        false => _ = writeln!(out, "applied on {}", counted(a.workers, "worker")),
    }
    if let Some(note) = &a.note {
        let _ = writeln!(out, "note: {note}");
    }
    out
}

/// How the director is.
pub fn status(s: &Status) -> String {
    let mut out = String::new();
    let c = s.counts;
    let _ = writeln!(out, "lcs {}, process {}, running for {}", s.program, s.pid, duration(s.uptime));
    let _ = writeln!(out, "configuration  {}", s.configuration);
    for port in &s.port {
        let _ = writeln!(out, "port           {port}");
    }
    let by_content = match c.content_services {
        0 => String::new(),
        n => format!(", {n} switched by content"),
    };
    let _ = writeln!(out, "services       {} with {}{by_content}", c.services, counted(c.servers, "server"));
    if c.draining_services + c.draining_servers > 0 {
        let _ = writeln!(
            out,
            "draining       {}, {} (until their connections end)",
            counted(c.draining_services, "removed service"),
            counted(c.draining_servers, "removed server")
        );
    }
    out.push('\n');
    let mut table = Table::new(&[">worker", ">core", ">connections", ">of", ">memory", "state"]);
    for w in &s.workers {
        let state = if w.generation >= s.generation { "up to date" } else { "taking the last change" };
        table.row([
            w.worker.to_string(),
            w.core.map_or("any".to_owned(), |c| c.to_string()),
            number(w.flows as u64),
            number(w.capacity as u64),
            bytes(w.memory as u64),
            state.to_owned(),
        ]);
    }
    out += &table.show();
    if !s.content_workers.is_empty() {
        let mut table = Table::new(&[">content worker", ">core", "state"]);
        for (number, w) in s.content_workers.iter().enumerate() {
            let state = if w.generation >= s.generation { "up to date" } else { "taking the last change" };
            let core = w.core.map_or("any".to_owned(), |c| c.to_string());
            table.row([number.to_string(), core, state.to_owned()]);
        }
        let _ = write!(out, "\n{}", table.show());
    }
    if !s.notices.is_empty() {
        out += "\nnoticed lately\n";
        for n in &s.notices {
            let _ = writeln!(out, "  {} ago: {}", duration(s.uptime - n.at), n.text);
        }
    }
    out
}

/// Services, one a line.
pub fn services(services: &[ServiceReport]) -> String {
    let mut table =
        Table::new(&["service", "endpoint", "scheduler", ">servers", ">active", ">inactive", ">connections", "state"]);
    for s in services {
        table.row([
            s.name.clone(),
            format!("{} {}", s.protocol, endpoint_text(s.address, s.port)),
            s.scheduler.word().to_owned(),
            s.servers.iter().filter(|r| r.state != "removed").count().to_string(),
            number(s.stats.active.into()),
            number(s.stats.inactive.into()),
            number(s.stats.connections),
            s.state.clone(),
        ]);
    }
    let content: String =
        services.iter().filter_map(|s| s.content.as_ref().map(|c| self::content(&s.name, c))).collect();
    let persistence: String =
        services.iter().filter_map(|s| s.persistence.as_ref().map(|p| self::persistence(&s.name, p))).collect();
    if table.is_empty() { "no services\n".to_owned() } else { table.show() + &persistence + &content }
}

/// Whose clients keep their servers, in one line.
pub(crate) fn persistence(service: &str, p: &PersistenceReport) -> String {
    format!(
        "{service}: a client (/{}, /{}) keeps its server for {} s; {} do now\n",
        p.mask4,
        p.mask6,
        p.timeout,
        number(p.templates)
    )
}

/// How a service is switched by content, in one line.
fn content(service: &str, c: &ContentReport) -> String {
    let rules = if c.rules == 1 { "rule" } else { "rules" };
    let each = match c.switching {
        Switching::Request => "request",
        Switching::Connection => "connection",
    };
    let group = |g: &GroupReport| format!("{} ({}: {})", g.name, g.scheduler.word(), g.servers.join(" "));
    let groups: Vec<String> = c.groups.iter().map(group).collect();
    let groups = if groups.is_empty() { "no groups".to_owned() } else { format!("groups {}", groups.join(", ")) };
    let needs: String = c.needs.iter().map(|need| format!("  {need}\n")).collect();
    let stamped = if c.timestamps { "; timestamps" } else { "" };
    format!(
        "{service}: every {} {each} by {} {rules} of {}; {groups}{stamped}\n{needs}",
        c.application, c.rules, c.file
    )
}

/// Servers, one a line.
pub fn servers(services: &[ServiceReport]) -> String {
    let mut table = Table::new(&[
        "server",
        "address",
        "forward",
        ">weight",
        ">active",
        ">inactive",
        ">connections",
        ">packets in",
        ">packets out",
        "state",
    ]);
    let mut problems = String::new();
    for s in services {
        for r in &s.servers {
            let name = format!("{}/{}", s.name, r.name);
            if let Some(problem) = &r.problem {
                let _ = writeln!(problems, "{name} is not reachable: {problem}");
            }
            if let Some(why) = &r.down {
                let _ = writeln!(problems, "{name} is down: {why}");
            }
            table.row([
                name,
                if r.port == 0 { r.address.to_string() } else { endpoint_text(r.address, r.port) },
                r.forward.word().to_owned(),
                r.weight.to_string(),
                number(r.stats.active.into()),
                number(r.stats.inactive.into()),
                number(r.stats.connections),
                number(r.stats.packets_in),
                number(r.stats.packets_out),
                match &r.problem {
                    Some(_) => format!("{}, unreachable", r.state),
                    None => r.state.clone(),
                },
            ]);
        }
    }
    if table.is_empty() { "no servers\n".to_owned() } else { table.show() + &problems }
}

/// Connections, one a line.
pub fn connections(c: &Connections) -> String {
    let mut table = Table::new(&[
        "protocol",
        "client",
        "service",
        "server",
        "server address",
        "forward",
        "state",
        ">expires",
        ">in",
        ">out",
    ]);
    for x in &c.connections {
        let to = match (x.local, x.server_address) {
            (Some(local), Some(server)) => format!("{local} → {server}"),
            (None, Some(server)) => server.to_string(),
            (_, None) => "-".to_owned(),
        };
        table.row([
            x.protocol.clone(),
            x.client.to_string(),
            format!("{} {}", x.service, x.virtual_address),
            x.server.clone().unwrap_or_else(|| "-".to_owned()),
            to,
            x.forward.map_or("-", Word::word).to_owned(),
            match x.request {
                Some(request) => format!("{}, {}", x.state.name(), request.name()),
                None => x.state.name().to_owned(),
            },
            format!("{:.0} s", x.expires),
            number(x.packets_in.into()),
            number(x.packets_out.into()),
        ]);
    }
    let mut out = if table.is_empty() { "no connections\n".to_owned() } else { table.show() };
    if c.more {
        let _ =
            writeln!(out, "there are more than these {}; ask for more with --limit, or filter", c.connections.len());
    }
    out
}

/// One traced frame.
pub fn traced(t: &Traced) -> String {
    let r = &t.record;
    let at = r.at as f64 / 1e9;
    let mut out = format!("{at:.6} worker {} interface {}: {}\n", t.worker, r.interface, r.frame);
    let width = r.steps.iter().map(|(stage, _)| stage.len()).max().unwrap_or(0);
    for (stage, decision) in &r.steps {
        let _ = writeln!(out, "  {stage:width$}  {decision}");
    }
    for made in &r.made {
        let _ = writeln!(out, "  sends     {} > {}, {} bytes of payload", made.source, made.destination, made.payload);
    }
    let _ = writeln!(out, "  ⇒ {}", r.verdict);
    if let Some(sent) = &r.sent {
        let _ = writeln!(out, "  sent on {sent}");
    }
    out
}
