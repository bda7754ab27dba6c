//! Traced segments as a sequence diagram: a client on the left, the director in the middle, servers on the right.
//!
//! Sequence numbers are shown from the first one that was seen of each space: `C` the client's, `D` what the client is told,
//! `S1`, `S2`, … the servers'. That makes visible what is rewritten: where `D` is a server's own number, it is called by
//! that server's name. `P1` are the director's numbers toward a server on a connection that was open before the client came.
//! Where a server answers the client directly (direct routing, tunnels, filters), its numbers are known from what the client acknowledges.

use crate::protocol::Traced;
use lcs_pipelines::command::{SegmentView, Way};
use std::collections::HashMap;
use std::net::SocketAddr;

const ACK: u8 = 0x10;
const SYN: u8 = 0x02;

/// One client's connection.
#[derive(Debug, Default)]
struct Connection {
    /// The client's first number, and the first one that it was told.
    client: Option<u32>,
    director: Option<u32>,
    /// In the order of their numbers in the diagram.
    servers: Vec<Server>,
}

/// A server's side of it.
#[derive(Debug)]
struct Server {
    at: SocketAddr,
    /// The first number of the server that was seen.
    first: Option<u32>,
    /// The first one toward it, where its connection was open already.
    toward: Option<u32>,
}

/// The diagram, line by line.
#[derive(Debug, Default)]
pub struct Diagram {
    /// By the client's endpoint; full NAT shows servers another one, found by `aliases`.
    connections: HashMap<SocketAddr, Connection>,
    aliases: HashMap<SocketAddr, SocketAddr>,
    /// Whose segments were shown last.
    shown: Option<SocketAddr>,
    begun: Option<u64>,
}

/// Columns between two lines of life.
const LANE: usize = 40;
/// Columns of the time.
const TIME: usize = 12;

impl Diagram {
    /// The lines for one traced frame; empty for what is no TCP segment.
    pub fn frame(&mut self, t: &Traced) -> String {
        let r = &t.record;
        let Some(segment) = &r.segment else { return String::new() };
        let client = match segment.way {
            Way::FromClient => segment.source,
            _ => self.aliases.get(&segment.destination).copied().unwrap_or(segment.destination),
        };
        let begun = *self.begun.get_or_insert(r.at);
        let mut out = String::new();
        if self.shown != Some(client) {
            self.shown = Some(client);
            let (left, right) = (format!("client {client}"), "servers");
            out += &format!("\n{:TIME$}{left:<LANE$}{:<LANE$}{right}\n", "", "director");
        }
        let milliseconds = r.at.saturating_sub(begun) as f64 / 1e6;
        let mut time = format!("{milliseconds:>9.3} ms");
        let verdict = if r.sent_segment.is_none() && r.made.is_empty() && r.verdict.starts_with("drop") {
            format!("  ✗ {}", r.verdict)
        } else {
            String::new()
        };
        for (n, s) in std::iter::once(segment).chain(&r.made).chain(&r.sent_segment).enumerate() {
            if s.way == Way::ToServer {
                self.aliases.insert(s.source, client);
            }
            let unchanged = s.way == Way::ToServer && (s.seq, s.ack) == (segment.seq, segment.ack);
            let line = self.line(client, s, unchanged);
            out += &format!("{time:>TIME$}{line}{}\n", if n == 0 { &verdict } else { "" });
            time.clear();
        }
        out
    }

    /// `unchanged`: the numbers are those of the segment that came.
    fn line(&mut self, client: SocketAddr, s: &SegmentView, unchanged: bool) -> String {
        let c = self.connections.entry(client).or_default();
        let opens = s.flags & SYN != 0;
        let at_server = match s.way {
            Way::ToServer => Some(s.destination),
            Way::FromServer => Some(s.source),
            _ => None,
        };
        let server = at_server.map(|at| {
            c.servers.iter().position(|known| known.at == at).unwrap_or_else(|| {
                c.servers.push(Server { at, first: None, toward: None });
                c.servers.len() - 1
            })
        });
        let mut met = false;
        let place = server.and_then(|n| c.servers.get_mut(n));
        match (s.way, place) {
            (Way::FromClient, _) if opens => {
                if c.client.is_some_and(|first| first != s.seq) {
                    // Another connection from the same port.
                    *c = Connection::default();
                }
                c.client = Some(s.seq);
            }
            (Way::ToClient, _) if opens => c.director = Some(s.seq),
            (Way::FromServer, Some(place)) if opens => place.first = Some(s.seq),
            // A server has told the client directly.
            (Way::FromClient, _) if s.flags & ACK != 0 && c.director.is_none() && c.client.is_some() => {
                c.director = Some(s.ack.wrapping_sub(1));
                if let [Server { first: first @ None, .. }] = &mut c.servers[..] {
                    *first = c.director;
                }
            }
            // Opened before anybody looked, maybe for another client.
            (Way::ToServer, Some(place)) if !opens && !unchanged && place.first.is_none() && c.client.is_some() => {
                (place.first, place.toward) = (Some(s.ack), Some(s.seq));
                met = true;
            }
            _ => {}
        }
        let relative = |name: &str, first: Option<u32>, number: u32| match first {
            Some(first) => format!("{name}+{}", number.wrapping_sub(first)),
            None => number.to_string(),
        };
        let clients = |number| relative("C", c.client, number);
        let told = |number| {
            // A guessed server's numbers are what the client is told.
            let same = c.servers.iter().position(|known| known.first.is_some() && known.first == c.director);
            relative(&same.map_or("D".to_owned(), |n| format!("S{}", n + 1)), c.director, number)
        };
        let servers = |number| {
            let n = server.unwrap_or_default();
            relative(&format!("S{}", n + 1), c.servers.get(n).and_then(|known| known.first), number)
        };
        let inside = |number| {
            let n = server.unwrap_or_default();
            let toward = c.servers.get(n).and_then(|known| known.toward);
            if toward.is_some() { relative(&format!("P{}", n + 1), toward, number) } else { clients(number) }
        };
        let (seq, ack) = match s.way {
            Way::FromClient => (clients(s.seq), told(s.ack)),
            Way::ToClient => (told(s.seq), clients(s.ack)),
            Way::ToServer if unchanged => (clients(s.seq), told(s.ack)),
            Way::ToServer => (inside(s.seq), servers(s.ack)),
            Way::FromServer => (servers(s.seq), inside(s.ack)),
        };
        let mut text = format!("{} {seq}", flags(s.flags));
        if s.flags & ACK != 0 {
            text += &format!(" ack {ack}");
        }
        if s.payload > 0 {
            text += &format!(", {} B", s.payload);
        }
        let shaft = "─".repeat(LANE.saturating_sub(text.chars().count() + 5));
        let right = matches!(s.way, Way::FromClient | Way::ToServer);
        let arrow = if right { format!("│ {text} {shaft}▶ ") } else { format!("│ ◀{shaft} {text} ") };
        let outside = matches!(s.way, Way::FromClient | Way::ToClient);
        let empty = format!("│{}", " ".repeat(LANE - 1));
        let named = at_server.filter(|_| opens || met).map_or(String::new(), |at| format!(" {at}"));
        if outside { format!("{arrow}{empty}│") } else { format!("{empty}{arrow}│{named}") }
    }
}

/// TCP flags as tools print them.
fn flags(bits: u8) -> String {
    let names = [(SYN, 'S'), (0x01, 'F'), (0x04, 'R'), (0x08, 'P'), (ACK, '.')];
    names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lcs_pipelines::command::TraceRecord;

    fn segment(way: Way, from: &str, to: &str, flags: u8, seq: u32, ack: u32, payload: u32) -> SegmentView {
        let at = |text: &str| text.parse().unwrap();
        SegmentView { way, source: at(from), destination: at(to), flags, seq, ack, payload }
    }

    #[test]
    fn numbers_are_told_from_where_each_space_begins() {
        let (client, service, server) = ("192.0.2.1:1000", "198.51.100.1:80", "10.0.0.1:8080");
        let record = |at, segment, made, sent_segment| Traced {
            worker: 0,
            record: TraceRecord {
                at,
                interface: 0,
                frame: String::new(),
                steps: vec![],
                verdict: "consume".into(),
                sent: None,
                segment: Some(segment),
                sent_segment,
                made,
            },
        };
        let mut d = Diagram::default();
        let syn = segment(Way::FromClient, client, service, SYN, u32::MAX, 0, 0);
        let answer = segment(Way::ToClient, service, client, SYN | ACK, 500, 0, 0);
        let mut text = d.frame(&record(7_000_000, syn, vec![], Some(answer)));
        let data = segment(Way::FromClient, client, service, ACK, 0, 501, 60);
        let to_server = segment(Way::ToServer, client, server, SYN, u32::MAX, 0, 0);
        text += &d.frame(&record(7_250_000, data, vec![to_server], None));
        let back = segment(Way::FromServer, server, client, SYN | ACK, 9000, 0, 0);
        text += &d.frame(&record(7_500_000, back, vec![], None));
        for part in
            ["client 192.0.2.1:1000", "S C+0 ", "S. D+0 ack C+1", ". C+1 ack D+1, 60 B", "S C+0", "S. S1+0 ack C+1"]
        {
            assert!(text.contains(part), "no {part:?} in:\n{text}");
        }
        assert!(text.contains("0.250 ms") && text.contains("10.0.0.1:8080"), "{text}");
        let widths: Vec<usize> = text.lines().skip(2).map(|l| l.trim_end().chars().count()).collect();
        assert!(widths.iter().all(|w| *w > TIME + 2 * LANE), "{text}");
        // A connection of a pool: both spaces begin where it was met.
        let ask = segment(Way::ToServer, "10.0.0.9:2000", "10.0.0.2:80", ACK, 70, 90, 60);
        let data = segment(Way::FromClient, client, service, ACK, 60, 501, 60);
        let text = d.frame(&record(8_000_000, data, vec![ask], None));
        assert!(text.contains(". P2+0 ack S2+0, 60 B") && text.contains("10.0.0.2:80"), "{text}");
        let reply = segment(Way::FromServer, "10.0.0.2:80", "10.0.0.9:2000", ACK, 90, 130, 5);
        assert!(d.frame(&record(8_000_000, reply, vec![], None)).contains(". S2+0 ack P2+60, 5 B"));
        // A guessed server's numbers are what the client is told.
        let mut d = Diagram::default();
        let from = segment(Way::FromServer, server, client, SYN | ACK, 9000, 0, 0);
        let to = segment(Way::ToClient, service, client, SYN | ACK, 9000, 0, 0);
        assert!(d.frame(&record(0, from, vec![to], None)).contains("S. S1+0 ack 0"));
        // A server that answers the client directly.
        let mut d = Diagram::default();
        let syn = segment(Way::FromClient, client, service, SYN, 100, 0, 0);
        let passed =
            |s: &SegmentView| SegmentView { way: Way::ToServer, destination: server.parse().unwrap(), ..s.clone() };
        let mut text = d.frame(&record(0, syn.clone(), vec![], Some(passed(&syn))));
        let data = segment(Way::FromClient, client, service, ACK, 101, 7001, 60);
        text += &d.frame(&record(9, data.clone(), vec![], Some(passed(&data))));
        assert_eq!(text.matches(". C+1 ack S1+1, 60 B").count(), 2, "{text}");
        assert!(text.contains(server) && !text.contains('P'), "{text}");
        // Its port is used again.
        let syn = segment(Way::FromClient, client, service, SYN, 9000, 0, 0);
        d.frame(&record(20, syn.clone(), vec![], Some(passed(&syn))));
        let data = segment(Way::FromClient, client, service, ACK, 9001, 50, 60);
        assert!(d.frame(&record(29, data.clone(), vec![], Some(passed(&data)))).contains("C+1 ack S1+1"));
    }
}
