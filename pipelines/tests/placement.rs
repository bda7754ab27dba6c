//! Split placement, segment by segment: requests are away at a content worker while the network goes on.

mod director;

use director::{CLIENT, Director, ISN, SERVICE, SYN_OPTIONS, Sent};
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use lcs_pipelines::content::{Binding, Content};
use lcs_pipelines::extract::{Limits, Plan};
use lcs_pipelines::matching::{self, Action, Expr, Relation, Rule, RuleSet, Stickiness, Term, Value, Variable};
use lcs_pipelines::placement::Handed;
use lcs_pipelines::snapshot::{Forward, ServerState};
use std::sync::Arc;

const FIRST: u32 = ISN.wrapping_add(1);
const A: &str = "10.0.0.1:8080";
const B: &str = "10.0.0.2:8080";
const TO_A: &[u8] = b"GET /a/1 HTTP/1.1\r\nHost: www.example.com\r\n\r\n";
const TO_B: &[u8] = b"GET /b/2 HTTP/1.1\r\nHost: www.example.com\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// `/a` goes to the first server, `/b` to the second.
fn rules() -> Vec<Rule> {
    let prefix = |path: &str| {
        Expr::Term(Term {
            variable: Variable::Url,
            relation: Relation::Prefix,
            value: Value::Text(path.as_bytes().into()),
            ignore_case: false,
        })
    };
    let to = |server| Action::Forward { server, queue: None };
    vec![
        Rule { name: "a".into(), condition: prefix("/a"), action: to(0) },
        Rule { name: "b".into(), condition: prefix("/b"), action: to(1) },
    ]
}

fn split(depth: usize) -> Director {
    Director::placed(Forward::Nat, Binding::default(), &rules(), Some(depth))
}

fn handed(d: &mut Director) -> Handed {
    d.report().handed.expect("there are content workers")
}

/// A handshake.
fn opens(d: &mut Director, port: u16) -> (String, u32) {
    let client = format!("192.0.2.1:{port}");
    let answer = d.says(&client, SERVICE, SYN, ISN, 0, SYN_OPTIONS, b"");
    let ack = answer[0].seq.wrapping_add(1);
    d.says(&client, SERVICE, ACK, FIRST, ack, &[], b"");
    (client, ack)
}

/// A handshake; then a segment of the client's that the port worker has seen and no content worker has.
fn asks(d: &mut Director, port: u16, request: &[u8]) -> (String, u32) {
    let (client, ack) = opens(d, port);
    segment(d, &client, ACK | PSH, FIRST, ack, request);
    (client, ack)
}

/// A segment to the service, and a turn of the port worker alone.
fn segment(d: &mut Director, client: &str, flags: u8, seq: u32, ack: u32, payload: &[u8]) -> Vec<Sent> {
    use lcs_dataplane::headers::build::{Packet, Transport};
    let packet = Packet::tcp(client.parse().unwrap(), SERVICE.parse().unwrap(), flags);
    let mut p = Packet { destination_mac: director::DIRECTOR, ..packet }.payload(payload);
    p.transport = Transport::Tcp { flags, seq, ack, window: 60_000, options: vec![] };
    assert!(d.worker.port_mut().inject(0, &p.frame()));
    d.port_turn()
}

fn asked(sent: &[Sent]) -> Vec<String> {
    sent.iter().filter(|s| s.flags == SYN).map(|s| s.to.to_string()).collect()
}

/// Bytes that go to the server when it has answered.
fn delivered(d: &mut Director, server: &str, client: &str) -> Vec<u8> {
    let sent = d.says(server, client, SYN | ACK, 5000, FIRST, SYN_OPTIONS, b"");
    sent.iter().filter(|s| s.to.to_string() == server).flat_map(|s| s.payload.clone()).collect()
}

#[test]
fn the_port_worker_goes_on_while_a_request_is_away() {
    let mut d = split(8);
    let (other, ack) = opens(&mut d, 1001);
    let (slow, _) = asks(&mut d, 1000, TO_A);
    assert_eq!((handed(&mut d).away, handed(&mut d).out), (1, 1));
    // Acknowledged at once, but no server is asked before the content worker has decided.
    segment(&mut d, &other, ACK | PSH, FIRST, ack, &TO_B[..10]);
    let sent = segment(&mut d, &other, ACK | PSH, FIRST.wrapping_add(10), ack, &TO_B[10..]);
    assert!(asked(&sent).is_empty() && sent.iter().any(|s| s.ack == FIRST.wrapping_add(TO_B.len() as u32)), "{sent:?}");
    assert_eq!(handed(&mut d).away, 2, "what came while it was away waits here");
    let mut asked = asked(&d.turn());
    asked.sort();
    assert_eq!(asked, [A, B]);
    assert_eq!(delivered(&mut d, A, &slow), TO_A);
    assert_eq!(delivered(&mut d, B, &other), TO_B);
    let n = handed(&mut d);
    assert_eq!((n.away, n.deepest, n.out, n.back, n.ignored + n.unread + n.outdated + n.full), (0, 2, 3, 3, 0));
    // Ten bytes, then the rest: none was copied twice.
    assert_eq!(n.bytes as usize, TO_A.len() + TO_B.len());
}

#[test]
fn a_request_of_one_byte_segments_is_the_same_request() {
    let mut d = split(8);
    let (client, ack) = asks(&mut d, 1000, &TO_B[..1]);
    let mut servers = vec![];
    for (n, byte) in TO_B.iter().enumerate().skip(1) {
        // The content worker is asked now and then only.
        let sent = segment(&mut d, &client, ACK | PSH, FIRST.wrapping_add(n as u32), ack, &[*byte]);
        servers.extend(asked(&sent));
        if n % 7 == 0 {
            servers.extend(asked(&d.turn()));
        }
    }
    servers.extend(asked(&d.turn()));
    assert_eq!(servers, [B]);
    assert_eq!(delivered(&mut d, B, &client), TO_B);
}

#[test]
fn with_the_ring_full_the_port_worker_decides_itself() {
    let mut d = split(1);
    let (client, ack) = opens(&mut d, 1001);
    asks(&mut d, 1002, TO_A);
    assert_eq!(handed(&mut d).away, 1);
    let sent = segment(&mut d, &client, ACK | PSH, FIRST, ack, TO_B);
    assert_eq!(asked(&sent), [B], "decided on the spot");
    assert_eq!(handed(&mut d).full, 1);
    assert_eq!(asked(&d.turn()), [A]);
    assert_eq!(delivered(&mut d, B, &client), TO_B);
}

#[test]
fn an_answer_for_a_connection_that_is_gone_or_anothers_is_ignored() {
    // Reset while its request is away.
    let mut d = split(8);
    let (client, _) = asks(&mut d, 1000, TO_A);
    let ack = FIRST.wrapping_add(TO_A.len() as u32);
    assert!(segment(&mut d, &client, RST, ack, 0, b"").is_empty());
    assert!(d.turn().is_empty());
    assert_eq!((handed(&mut d).ignored, handed(&mut d).back), (1, 0));
    // The entry has a new owner, with a request of its own, when the old answer comes.
    let (client, _) = asks(&mut d, 1000, TO_A);
    segment(&mut d, &client, RST, ack, 0, b"");
    let answer = segment(&mut d, &client, SYN, ISN, 0, b"");
    let own = answer[0].seq.wrapping_add(1);
    segment(&mut d, &client, ACK | PSH, FIRST, own, TO_B);
    assert_eq!(handed(&mut d).away, 2);
    assert_eq!(asked(&d.turn()), [B], "the new owner's request, not the old one's");
    assert_eq!((handed(&mut d).ignored, handed(&mut d).back), (2, 1));
    assert_eq!(delivered(&mut d, B, &client), TO_B);
    // The connections that end while their requests are away leave nothing behind.
    let r = d.report();
    assert_eq!((r.handed.unwrap().away, r.flows), (0, 1));
}

#[test]
fn a_client_that_closes_after_its_request_is_served() {
    let mut d = split(8);
    let (client, ack) = asks(&mut d, 1000, TO_A);
    segment(&mut d, &client, FIN | ACK, FIRST.wrapping_add(TO_A.len() as u32), ack, b"");
    assert_eq!(asked(&d.turn()), [A]);
    let sent = d.says(A, &client, SYN | ACK, 5000, FIRST, SYN_OPTIONS, b"");
    assert!(sent.iter().any(|s| s.to.to_string() == A && s.flags & FIN != 0), "{sent:?}");
    // One that closes in the middle of its request gets an answer of the director's.
    let (client, ack) = asks(&mut d, 1001, &TO_A[..20]);
    segment(&mut d, &client, FIN | ACK, FIRST.wrapping_add(20), ack, b"");
    let sent = d.turn();
    assert!(asked(&sent).is_empty());
    let said: Vec<u8> = sent.iter().filter(|s| s.to.to_string() == client).flat_map(|s| s.payload.clone()).collect();
    assert!(said.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn a_request_that_fills_its_room_while_away_is_read_on() {
    let limits = Limits::default();
    let room = limits.head.max(limits.hello) + limits.body;
    let mut request = b"POST /a/1 HTTP/1.1\r\nHost: www.example.com\r\nContent-Length: 1000000\r\n\r\n".to_vec();
    request.resize(room, b'x');
    let mut d = split(8);
    let (client, ack) = asks(&mut d, 1000, &request[..20]);
    let mut told = 0;
    for (n, part) in request[20..].chunks(1400).enumerate() {
        let seq = FIRST.wrapping_add((20 + n * 1400) as u32);
        for s in segment(&mut d, &client, ACK | PSH, seq, ack, part) {
            told = told.max(s.ack.wrapping_sub(FIRST));
        }
    }
    assert_eq!((told as usize, handed(&mut d).away), (room, 1), "all of it is here, 20 bytes of it are away");
    assert_eq!(asked(&d.turn()), [A], "of what nobody has read yet nobody can say that it is too much");
    assert_eq!(handed(&mut d).back, 2);
    // One that has been read and is too long is refused.
    let (client, ack) = asks(&mut d, 1001, b"GET /");
    for (n, part) in vec![b'a'; room - 5].chunks(1400).enumerate() {
        segment(&mut d, &client, ACK | PSH, FIRST.wrapping_add((5 + n * 1400) as u32), ack, part);
    }
    let sent = d.turn();
    assert!(asked(&sent).is_empty());
    let said: Vec<u8> = sent.iter().filter(|s| s.to.to_string() == client).flat_map(|s| s.payload.clone()).collect();
    assert!(said.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn a_server_that_closes_while_the_next_request_is_away_leaves_no_client_waiting() {
    let mut d = split(8);
    let (client, ack) = asks(&mut d, 1000, TO_A);
    assert_eq!(asked(&d.turn()), [A]);
    assert_eq!(delivered(&mut d, A, &client), TO_A);
    let next = FIRST.wrapping_add(TO_A.len() as u32);
    let said = d.says(A, &client, ACK | PSH, 5001, next, &[], RESPONSE);
    assert!(said.iter().any(|s| s.to.to_string() == client && s.payload == RESPONSE), "{said:?}");
    let acked = ack.wrapping_add(RESPONSE.len() as u32);
    segment(&mut d, &client, ACK | PSH, next, acked, TO_A);
    assert_eq!(handed(&mut d).away, 1);
    // Its FIN comes before the finding does.
    let end = 5001 + RESPONSE.len() as u32;
    let sent = d.says(A, &client, FIN | ACK, end, next, &[], b"");
    assert!(sent.iter().any(|s| s.to.to_string() == client && s.flags & FIN != 0), "{sent:?}");
    assert!(sent.iter().all(|s| s.to.to_string() != A || s.payload.is_empty()), "{sent:?}");
    assert_eq!((handed(&mut d).away, handed(&mut d).back, handed(&mut d).ignored), (0, 1, 1));
    // The request was acknowledged and will not be answered: the client must hear of it.
    let mut sent = vec![];
    for _ in 0..12 {
        sent.extend(d.passes(200));
    }
    assert!(sent.iter().any(|s| s.to.to_string() == client && s.flags & RST != 0), "{sent:?}");
    assert_eq!(d.report().flows, 0);
}

#[test]
fn a_body_that_turns_out_malformed_while_away_does_not_cut_the_response_before() {
    let mut d = split(8);
    let (client, ack) = asks(&mut d, 1000, TO_A);
    d.turn();
    assert_eq!(delivered(&mut d, A, &client), TO_A);
    let next = FIRST.wrapping_add(TO_A.len() as u32);
    d.says(A, &client, ACK | PSH, 5001, next, &[], RESPONSE);
    // The client has not acknowledged the response when it asks again.
    let head = b"POST /a/2 HTTP/1.1\r\nHost: www.example.com\r\nTransfer-Encoding: chunked\r\n\r\n";
    segment(&mut d, &client, ACK | PSH, next, ack, head);
    assert_eq!(handed(&mut d).away, 1);
    let body = next.wrapping_add(head.len() as u32);
    segment(&mut d, &client, ACK | PSH, body, ack, b"zz\r\n");
    let sent = d.turn();
    assert!(sent.iter().all(|s| s.payload.is_empty() && s.flags & (FIN | RST) == 0), "{sent:?}");
    let sent = d.says(&client, SERVICE, ACK, body.wrapping_add(4), ack.wrapping_add(RESPONSE.len() as u32), &[], b"");
    let said: Vec<&Sent> = sent.iter().filter(|s| s.to.to_string() == client && !s.payload.is_empty()).collect();
    assert!(said.len() == 1 && said[0].payload.starts_with(b"HTTP/1.1 400"), "{sent:?}");
    assert_eq!(said[0].seq, ack.wrapping_add(RESPONSE.len() as u32), "behind the response");
}

/// The other way round: `/a` goes to the second server.
fn swapped(s: &mut lcs_pipelines::snapshot::Snapshot) {
    let to = |server| Action::Forward { server, queue: None };
    let mut rules = rules();
    rules.reverse();
    (rules[0].action, rules[1].action) = (to(0), to(1));
    let all = Action::RouteTo { group: 0, stickiness: Stickiness::Service };
    rules.push(Rule { name: "all".into(), condition: Expr::always(), action: all });
    let program = matching::compile(&RuleSet { rules }).unwrap();
    let service = s.services[0].as_mut().unwrap();
    let old = service.content.as_ref().unwrap();
    service.content = Some(Arc::new(Content {
        protocol: old.protocol,
        plan: Plan::new(&program, Limits::default()),
        program,
        groups: old.groups.clone(),
        binding: old.binding.clone(),
    }));
}

#[test]
fn rules_replaced_while_a_request_is_away_decide_it() {
    // Replaced before the content worker has seen it, and after.
    for read_first in [false, true] {
        let mut d = split(8);
        let (client, _) = asks(&mut d, 1000, TO_A);
        if read_first {
            assert_eq!(d.content.as_mut().unwrap().poll(), 1);
        }
        d.publish(swapped, true);
        assert_eq!(asked(&d.turn()), [B], "rule 0 of the old set is not rule 0 of the new one");
        assert_eq!(delivered(&mut d, B, &client), TO_A);
        assert_eq!((handed(&mut d).outdated, handed(&mut d).back), (1, 1));
        let content = d.content.as_ref().unwrap().counted();
        assert_eq!((content.unread, content.decided), if read_first { (0, 2) } else { (1, 1) });
    }
}

#[test]
fn a_content_worker_that_is_behind_is_done_without() {
    let mut d = split(8);
    // The port worker has the new rules already.
    d.publish(swapped, false);
    let (client, _) = asks(&mut d, 1000, TO_A);
    assert_eq!(asked(&d.turn()), [B], "by the rules that the port worker has");
    assert_eq!(delivered(&mut d, B, &client), TO_A);
    assert_eq!(handed(&mut d).unread, 1);
    // What rules that ask for servers' states have found is of another snapshot, even if the rules are the same.
    let mut d = split(8);
    let (client, _) = asks(&mut d, 1000, TO_A);
    assert_eq!(d.content.as_mut().unwrap().poll(), 1);
    d.publish(|s| s.servers[0].as_mut().unwrap().state = ServerState::Down, true);
    let sent = d.turn();
    assert!(asked(&sent).is_empty());
    let said: Vec<u8> = sent.iter().filter(|s| s.to.to_string() == client).flat_map(|s| s.payload.clone()).collect();
    assert!(said.starts_with(b"HTTP/1.1 503"), "{}", String::from_utf8_lossy(&said));
    assert_eq!((handed(&mut d).outdated, handed(&mut d).back), (1, 1));
}

/// Plays a kept-open connection with requests to both servers, some pipelined, and gives what each server and the client got.
fn played(mut d: Director, cut: usize) -> (Vec<(String, Vec<u8>)>, Vec<u8>) {
    let requests: Vec<&[u8]> = vec![TO_A, TO_A, TO_B, TO_A, TO_B, TO_B];
    let stream: Vec<u8> = requests.concat();
    let ack = d.handshake();
    let mut to_servers: Vec<(String, Vec<u8>)> = vec![];
    let mut to_client: Vec<u8> = vec![];
    let mut queue: std::collections::VecDeque<Sent> = Default::default();
    // The servers' own numbers: next to send, next expected.
    let mut servers: Vec<(String, u32, u32, Vec<u8>)> = vec![];
    let mut sent = 0;
    let mut client_ack = ack;
    for _ in 0..400 {
        if sent < stream.len() {
            let end = (sent + cut).min(stream.len());
            let seq = FIRST.wrapping_add(sent as u32);
            queue.extend(d.client(ACK | PSH, seq, client_ack, &stream[sent..end]));
            sent = end;
        }
        while let Some(s) = queue.pop_front() {
            let (to, from) = (s.to.to_string(), s.from.to_string());
            if to == CLIENT {
                if !s.payload.is_empty() && s.seq == client_ack {
                    to_client.extend(&s.payload);
                    client_ack = client_ack.wrapping_add(s.payload.len() as u32);
                    let seq = FIRST.wrapping_add(sent as u32);
                    queue.extend(d.client(ACK, seq, client_ack, b""));
                }
                continue;
            }
            if s.flags == SYN {
                servers.retain(|x| x.0 != to);
                servers.push((to.clone(), 5001, s.seq.wrapping_add(1), vec![]));
                queue.extend(d.says(&to, &from, SYN | ACK, 5000, s.seq.wrapping_add(1), SYN_OPTIONS, b""));
                continue;
            }
            let Some(server) = servers.iter_mut().find(|x| x.0 == to) else { continue };
            if s.payload.is_empty() || s.seq != server.2 {
                continue;
            }
            server.2 = server.2.wrapping_add(s.payload.len() as u32);
            server.3.extend(&s.payload);
            let mut answers = vec![];
            while let Some(at) = server.3.windows(4).position(|w| w == b"\r\n\r\n") {
                let request: Vec<u8> = server.3.drain(..at + 4).collect();
                to_servers.push((to.clone(), request));
                answers.push((server.1, server.2));
                server.1 = server.1.wrapping_add(RESPONSE.len() as u32);
            }
            if answers.is_empty() {
                let (seq, next) = (server.1, server.2);
                queue.extend(d.says(&to, &from, ACK, seq, next, &[], b""));
            }
            for (seq, next) in answers {
                queue.extend(d.says(&to, &from, ACK | PSH, seq, next, &[], RESPONSE));
            }
        }
        queue.extend(d.passes(20));
        if to_servers.len() == requests.len() && to_client.len() == requests.len() * RESPONSE.len() {
            break;
        }
    }
    (to_servers, to_client)
}

#[test]
fn both_placements_give_servers_and_clients_the_same_bytes() {
    let place = |depth| Director::placed(Forward::Nat, Binding::default(), &rules(), depth);
    let whole = TO_A.len();
    // A request a segment, several requests a segment, pieces of requests.
    for cut in [whole, 2 * whole, 6 * whole, 17, 5, 61] {
        let (servers, client) = played(place(None), cut);
        let path: Vec<&str> = servers.iter().map(|s| s.0.as_str()).collect();
        assert_eq!(path, [A, A, B, A, B, B], "in pieces of {cut}");
        assert_eq!(client, RESPONSE.repeat(6), "in pieces of {cut}");
        for depth in [1, 8] {
            let (servers_too, client_too) = played(place(Some(depth)), cut);
            assert_eq!((servers_too, client_too), (servers.clone(), client.clone()), "in pieces of {cut}, split");
        }
    }
}

#[test]
fn boxes_are_used_again() {
    let mut d = split(8);
    for n in 0..40 {
        let (client, _) = asks(&mut d, 2000 + n, TO_A);
        assert_eq!(asked(&d.turn()), [A]);
        segment(&mut d, &client, RST, FIRST.wrapping_add(TO_A.len() as u32), 0, b"");
        assert_eq!(d.report().flows, 0);
    }
    let n = handed(&mut d);
    assert_eq!((n.out, n.back, n.deepest, n.away), (40, 40, 1, 0));
}
