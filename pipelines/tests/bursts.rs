//! Requests of many clients in one burst: their servers are opened when all of them have theirs, and each as if it had come alone.

mod director;

use director::{CLIENT, Director, ISN, SERVICE, SYN_OPTIONS, Sent};
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use lcs_dataplane::port::Port;
use lcs_pipelines::content::{Binding, SynPolicy};
use lcs_pipelines::matching::{self, Action, Expr, Rule};
use lcs_pipelines::snapshot::{Forward, Service};
use std::collections::BTreeSet;

const REQUEST: &[u8] = b"GET /a HTTP/1.1\r\nHost: www.example.com\r\n\r\n";
/// The first byte of a request.
const FIRST: u32 = ISN.wrapping_add(1);
/// The byte behind it.
const BEHIND: u32 = FIRST.wrapping_add(REQUEST.len() as u32);
/// A second service with the same servers ([`with_other_service`]).
const OTHER: &str = "198.51.100.2:80";
const S0: &str = "10.0.0.1:8080";
const S1: &str = "10.0.0.2:8080";

/// A client that has said hello.
struct Client<'c> {
    endpoint: String,
    service: &'c str,
    /// The director's next number.
    ack: u32,
}

impl<'c> Client<'c> {
    fn new(d: &mut Director, endpoint: impl Into<String>, service: &'c str) -> Self {
        let endpoint = endpoint.into();
        let answer = d.says(&endpoint, service, SYN, ISN, 0, SYN_OPTIONS, b"");
        let ack = answer.first().expect("the SYN is answered").seq.wrapping_add(1);
        assert!(d.says(&endpoint, service, ACK, FIRST, ack, &[], b"").is_empty());
        Client { endpoint, service, ack }
    }

    fn puts(&self, d: &mut Director, flags: u8, seq: u32, payload: &[u8]) {
        d.puts(&self.endpoint, self.service, flags, seq, self.ack, &[], payload);
    }

    fn asks(&self, d: &mut Director) {
        self.puts(d, ACK | PSH, FIRST, REQUEST);
    }
}

/// Different clients of the service.
fn clients(d: &mut Director, n: usize) -> Vec<Client<'static>> {
    (0..n).map(|n| Client::new(d, format!("192.0.2.{n}:1000"), SERVICE)).collect()
}

/// Requests of these clients in one burst.
fn burst(d: &mut Director, clients: &[Client<'_>]) -> Vec<Sent> {
    clients.iter().for_each(|client| client.asks(d));
    d.turn()
}

/// From whom to whom SYNs go, in their order.
fn asked(sent: &[Sent]) -> Vec<(String, String)> {
    sent.iter().filter(|s| s.flags == SYN).map(|s| (s.from.to_string(), s.to.to_string())).collect()
}

fn data(sent: &[Sent]) -> Vec<u8> {
    sent.iter().flat_map(|s| s.payload.clone()).collect()
}

/// What a server that is asked from this endpoint is sent when it answers.
fn delivered(d: &mut Director, server: &str, to: &str) -> Vec<u8> {
    data(&d.says(server, to, SYN | ACK, 5000, FIRST, SYN_OPTIONS, b""))
}

/// What a connection may leave behind: flows, connections, those being bound, bytes held; and buffers of the port that are free.
fn left(d: &mut Director) -> (usize, usize, usize, usize, usize) {
    let content = d.report().content;
    let port = d.worker.port_mut();
    let free: Vec<_> = std::iter::from_fn(|| port.allocate()).collect();
    let buffers = free.len();
    free.into_iter().for_each(|frame| port.release(frame));
    (d.worker.pipeline().flows(), content.connections, content.binding, content.buffered, buffers)
}

/// Publishes a second service with the same servers, by content or by layer 4.
fn with_other_service(d: &mut Director, by_content: bool) {
    d.publish(
        |s| {
            let at: std::net::SocketAddr = OTHER.parse().unwrap();
            let mut other = Service { name: "other".into(), address: at.ip(), ..s.services[0].clone().unwrap() };
            other.content = other.content.filter(|_| by_content);
            s.services.push(Some(other));
            s.by_endpoint.insert((at.ip(), at.port(), 6), 1);
            s.own.insert(at.ip());
        },
        true,
    );
}

fn balanced(url: &str, algorithm: &str) -> Rule {
    let value = matching::Value::Text(url.as_bytes().into());
    let (variable, relation) = (matching::Variable::Url, matching::Relation::Prefix);
    let condition = Expr::Term(matching::Term { variable, relation, value, ignore_case: false });
    let action = Action::LoadBalance { group: 0, algorithm: algorithm.into() };
    Rule { name: url.into(), condition, action }
}

#[test]
fn each_scheduler_gives_a_burst_to_the_servers_that_it_gives_single_requests() {
    for algorithm in ["rr", "wrr", "lc", "wlc"] {
        let servers = |at_once: bool| {
            let mut d = Director::with(Binding::default(), &[balanced("/", algorithm)]);
            let clients = clients(&mut d, 5);
            let sent: Vec<Sent> = if at_once {
                burst(&mut d, &clients)
            } else {
                clients.iter().flat_map(|client| burst(&mut d, std::slice::from_ref(client))).collect()
            };
            asked(&sent)
        };
        let (together, apart) = (servers(true), servers(false));
        assert_eq!(together, apart, "{algorithm}");
        let of = |server: &str| together.iter().filter(|(_, to)| to == server).count();
        let (first, second) = (of(S0), of(S1));
        assert_eq!((first + second, first.abs_diff(second)), (5, 1), "{algorithm}: {together:?}");
    }
}

#[test]
fn least_connections_counts_what_others_of_the_burst_have_chosen_before() {
    // By bit: who is balanced by least connections. The others all go to one server.
    for by_least in 0u8..64 {
        let servers = |at_once: bool| {
            let one = Action::Forward { server: (by_least & 1).into(), queue: None };
            let one = Rule { name: "one".into(), condition: Expr::always(), action: one };
            let mut d = Director::with(Binding::default(), &[balanced("/least", "wlc"), one]);
            let clients = clients(&mut d, 6);
            let mut sent = vec![];
            for (n, client) in clients.iter().enumerate() {
                let url = if by_least >> n & 1 == 1 { "/least" } else { "/one" };
                let request = format!("GET {url} HTTP/1.1\r\nHost: www.example.com\r\n\r\n");
                client.puts(&mut d, ACK | PSH, FIRST, request.as_bytes());
                if !at_once {
                    sent.extend(d.turn());
                }
            }
            sent.extend(d.turn());
            // In a burst they may be asked in another order.
            asked(&sent).into_iter().collect::<BTreeSet<_>>()
        };
        let (together, apart) = (servers(true), servers(false));
        assert_eq!((&together, together.len()), (&apart, 6), "{by_least:b}");
    }
}

#[test]
fn of_two_requests_of_a_burst_that_one_server_could_not_tell_apart_it_gets_the_first() {
    let client = "192.0.2.7:1000";
    // The same client and port at both addresses, and one server for both, or another for the second.
    for another in [false, true] {
        let mut d = Director::new();
        with_other_service(&mut d, true);
        if !another {
            d.publish(|s| s.servers[1].as_mut().unwrap().weight = 0, true);
        }
        let clients = [SERVICE, OTHER].map(|service| Client::new(&mut d, client, service));
        let sent = burst(&mut d, &clients);
        let asked = asked(&sent);
        assert_eq!((asked.len(), another), (asked.iter().collect::<BTreeSet<_>>().len(), asked.len() == 2));
        assert!(asked.iter().all(|(from, _)| from == client));
        let refused: Vec<_> = sent.iter().filter(|s| s.payload.starts_with(b"HTTP/1.1 503")).collect();
        let refused: Vec<_> = refused.iter().map(|s| s.from.to_string()).collect();
        assert_eq!(refused, if another { vec![] } else { vec![OTHER] });
        // Those that were asked answer for theirs.
        for (_, server) in asked {
            assert_eq!(delivered(&mut d, &server, client), REQUEST);
        }
    }
}

#[test]
fn a_server_whose_key_a_layer_4_connection_of_the_same_burst_takes_gives_way_to_another() {
    let client = "192.0.2.7:1000";
    for servers in [1, 2] {
        let mut d = Director::new();
        with_other_service(&mut d, false);
        if servers == 1 {
            d.publish(|s| s.servers[1].as_mut().unwrap().weight = 0, true);
        }
        let one = Client::new(&mut d, client, SERVICE);
        one.asks(&mut d);
        d.puts(client, OTHER, SYN, 77, 0, SYN_OPTIONS, b"");
        let sent = d.turn();
        let asked = |seq| -> Vec<_> {
            sent.iter().filter(|s| (s.flags, s.seq) == (SYN, seq)).map(|s| s.to.to_string()).collect()
        };
        let (by_content, by_layer4) = (asked(ISN), asked(77));
        assert_eq!((by_content.len(), by_layer4.len()), (servers - 1, 1), "{sent:?}");
        assert_ne!(by_content, by_layer4);
        assert_eq!(sent.iter().any(|s| s.payload.starts_with(b"HTTP/1.1 503")), servers == 1);
        for server in by_content {
            assert_eq!(delivered(&mut d, &server, client), REQUEST);
        }
    }
}

#[test]
fn requests_of_a_burst_get_sources_of_their_own_from_the_director() {
    let mut d = Director::behind(Forward::FullNat, Binding::default(), &[]);
    let clients = clients(&mut d, 8);
    let sent = burst(&mut d, &clients);
    let syns: Vec<_> = sent.iter().filter(|s| s.flags == SYN).collect();
    let between: BTreeSet<_> = asked(&sent).into_iter().collect();
    assert_eq!((syns.len(), between.len()), (8, 8), "{between:?}");
    for syn in syns {
        let (server, source) = (syn.to.to_string(), syn.from.to_string());
        assert!(source.starts_with("10.0.0.100:"));
        let sent = d.says(&server, &source, SYN | ACK, 5000, syn.seq.wrapping_add(1), SYN_OPTIONS, b"");
        assert_eq!(data(&sent), REQUEST);
    }
}

#[test]
fn a_client_that_resets_and_comes_back_in_the_burst_of_its_request_is_a_new_one() {
    // Its first SYN is answered from a flow, or with a cookie.
    for syn in [SynPolicy::State, SynPolicy::Cookie] {
        let mut d = Director::with(Binding { syn, ..Binding::default() }, &[]);
        let before = left(&mut d);
        assert_eq!((before.0, before.4), (0, 64));
        let client = Client::new(&mut d, CLIENT, SERVICE);
        let isn = ISN.wrapping_add(70_000);
        client.asks(&mut d);
        client.puts(&mut d, RST, BEHIND, b"");
        d.puts(CLIENT, SERVICE, SYN, isn, 0, SYN_OPTIONS, b"");
        let sent = d.turn();
        // A server that was asked for the first is told that it is over, and no segment is left on its way to it.
        let of_first: Vec<_> = sent.iter().filter(|s| s.to.to_string() != CLIENT).map(|s| (s.to, s.flags)).collect();
        for (server, _) in of_first.iter().filter(|(_, flags)| *flags == SYN) {
            assert_eq!(of_first.last().map(|(to, flags)| (to, flags & RST)), Some((server, RST)), "{sent:?}");
        }
        let answers: Vec<_> = sent.iter().filter(|s| s.flags == SYN | ACK).collect();
        assert_eq!((answers.len(), answers[0].ack), (1, isn.wrapping_add(1)), "{sent:?}");
        let (flows, connections, binding, buffered, buffers) = left(&mut d);
        let flow = usize::from(syn == SynPolicy::State);
        assert_eq!((flows, connections, binding, buffered, buffers), (flow, flow, 0, 0, 64));
        // The new one is served, from its own numbers.
        let (first, ack) = (isn.wrapping_add(1), answers[0].seq.wrapping_add(1));
        let sent = d.says(CLIENT, SERVICE, ACK | PSH, first, ack, &[], REQUEST);
        let asked: Vec<_> = sent.iter().filter(|s| s.flags == SYN).collect();
        assert_eq!((asked.len(), asked[0].seq), (1, isn), "{sent:?}");
        let server = asked[0].to.to_string();
        let sent = d.says(&server, CLIENT, SYN | ACK, 5000, first, SYN_OPTIONS, b"");
        assert_eq!((data(&sent), sent[0].seq, sent[0].ack), (REQUEST.to_vec(), first, 5001));
        // And ends: its own reset reaches the server that it has.
        let sent = d.says(CLIENT, SERVICE, RST, first.wrapping_add(REQUEST.len() as u32), 0, &[], b"");
        assert_eq!((sent.len(), sent[0].to.to_string(), sent[0].flags & RST), (1, server, RST));
        d.passes(60_000);
        d.passes(60_000);
        assert_eq!(left(&mut d), before);
    }
}

#[test]
fn who_takes_the_place_of_a_request_that_was_reset_is_asked_for_once() {
    // With cookies a client has no flow before its request: the second's is that which the first has left in the same burst.
    let mut d = Director::with(Binding { syn: SynPolicy::Cookie, ..Binding::default() }, &[]);
    let first = Client::new(&mut d, "192.0.2.1:1000", SERVICE);
    let answer = d.says("192.0.2.2:1000", SERVICE, SYN, ISN, 0, SYN_OPTIONS, b"");
    let second = Client { endpoint: "192.0.2.2:1000".into(), service: SERVICE, ack: answer[0].seq.wrapping_add(1) };
    first.asks(&mut d);
    first.puts(&mut d, RST, BEHIND, b"");
    second.asks(&mut d);
    second.asks(&mut d);
    let sent = d.turn();
    let asked = asked(&sent);
    assert_eq!(asked.iter().map(|(from, _)| &**from).collect::<Vec<_>>(), ["192.0.2.2:1000"], "{sent:?}");
    assert_eq!(delivered(&mut d, &asked[0].1, "192.0.2.2:1000"), REQUEST);
    let (flows, connections, binding, buffered, buffers) = left(&mut d);
    assert_eq!((flows, connections, binding, buffered, buffers), (1, 1, 1, REQUEST.len(), 64));
}

#[test]
fn a_request_whose_client_closes_in_the_same_burst_is_delivered_with_its_end() {
    let mut d = Director::new();
    let client = Client::new(&mut d, CLIENT, SERVICE);
    client.asks(&mut d);
    client.puts(&mut d, ACK | FIN, BEHIND, b"");
    let sent = d.turn();
    let server = asked(&sent).remove(0).1;
    let sent = d.says(&server, CLIENT, SYN | ACK, 5000, FIRST, SYN_OPTIONS, b"");
    assert_eq!((data(&sent), sent.last().map(|s| s.flags & FIN)), (REQUEST.to_vec(), Some(FIN)));
}

#[test]
fn clients_that_fill_the_table_within_a_burst_of_requests_take_no_request_with_them() {
    // Sixteen flows: every other SYN finds the table full, and the connection half open for longest gives way.
    let mut d = Director::with(Binding { syn: SynPolicy::State, ..Binding::default() }, &[]);
    let clients = clients(&mut d, 16);
    assert_eq!(d.worker.pipeline().flows(), 16);
    let new = |n: usize| format!("192.0.2.{}:2000", 100 + n);
    for (n, client) in clients.iter().enumerate() {
        client.asks(&mut d);
        if n % 2 == 1 {
            d.puts(&new(n), SERVICE, SYN, ISN, 0, SYN_OPTIONS, b"");
        }
    }
    let sent = d.turn();
    let asked = asked(&sent);
    let from: BTreeSet<_> = asked.iter().map(|(from, _)| from.clone()).collect();
    let answered = sent.iter().filter(|s| s.flags == SYN | ACK).count();
    let reset: BTreeSet<_> = sent.iter().filter(|s| s.flags & RST != 0).map(|s| s.to.to_string()).collect();
    let evicted = d.report().evicted as usize;
    assert!(evicted > 0 && answered > 0);
    // One SYN for each request whose connection was not given up, and a reset for each other.
    assert_eq!((from.len(), asked.len(), from.len() + reset.len()), (asked.len(), 16 - reset.len(), 16), "{sent:?}");
    assert!(from.is_disjoint(&reset));
    let (flows, connections, binding, buffered, buffers) = left(&mut d);
    assert_eq!((flows, connections), (16, 16));
    assert_eq!((binding, buffered, buffers), (asked.len(), asked.len() * REQUEST.len(), 64));
    for (client, server) in asked {
        assert_eq!(delivered(&mut d, &server, &client), REQUEST);
    }
}

#[test]
fn a_request_is_delivered_with_a_right_checksum_whatever_it_came_with() {
    // The director reuses the sum that a request has come with; `Sent::read` looks at every checksum.
    let stamps = [&[1, 1, 8, 10][..], &[7; 8]].concat();
    for options in [&[][..], &[1; 4], &stamps] {
        for length in 0..4 {
            let request = [&b"GET /"[..], &b"abc"[..length], b" HTTP/1.1\r\nHost: www.example.com\r\n\r\n"].concat();
            for pieces in [1, 2] {
                let mut d = Director::new();
                let ack = d.handshake();
                let mut sent = vec![];
                let mut at = FIRST;
                for piece in request.chunks(request.len().div_ceil(pieces)) {
                    sent = d.says(CLIENT, SERVICE, ACK | PSH, at, ack, options, piece);
                    at = at.wrapping_add(piece.len() as u32);
                }
                let server = asked(&sent).remove(0).1;
                assert_eq!(delivered(&mut d, &server, CLIENT), request);
                // And again when it was lost.
                assert_eq!(data(&d.passes(1500)), request);
            }
        }
    }
}

#[test]
fn a_second_request_of_the_same_length_has_a_checksum_of_its_own() {
    // `Sent::read` looks at every checksum.
    let next = REQUEST.to_ascii_uppercase();
    let sum = |bytes: &[u8]| lcs_dataplane::checksum::Sum::ZERO.bytes(bytes).fold();
    assert_ne!(sum(REQUEST), sum(&next));
    let response = b"HTTP/1.1 204 No Content\r\n\r\n";
    let to =
        |sent: &[Sent], to: &str| data(&sent.iter().filter(|s| s.to.to_string() == to).cloned().collect::<Vec<_>>());
    // The second comes with the first, right after it in the same burst, before its server is there, or while that answers. It is for the
    // same server, or for another.
    for (when, server) in (0..4).flat_map(|when| [(when, S0), (when, S1)]) {
        let url = Rule { action: Action::Forward { server: 0, queue: None }, ..balanced("/a", "") };
        let rest = Action::Forward { server: (server == S1).into(), queue: None };
        let rest = Rule { name: "rest".into(), condition: Expr::always(), action: rest };
        let mut d = Director::with(Binding::default(), &[url, rest]);
        let ack = d.handshake();
        let both = [REQUEST, &next].concat();
        let second = |d: &mut Director| d.puts(CLIENT, SERVICE, ACK | PSH, BEHIND, ack, &[], &next);
        d.puts(CLIENT, SERVICE, ACK | PSH, FIRST, ack, &[], if when == 0 { &both } else { REQUEST });
        if when == 1 {
            second(&mut d);
        }
        assert_eq!(asked(&d.turn()), [(CLIENT.into(), S0.into())], "{when} {server}");
        if when == 2 {
            second(&mut d);
            assert!(d.turn().iter().all(|s| s.payload.is_empty()));
        }
        assert_eq!(delivered(&mut d, S0, CLIENT), REQUEST, "{when} {server}");
        let mut sent = vec![];
        if when == 3 {
            second(&mut d);
            sent.extend(d.turn());
        }
        // The response passes, and is acknowledged.
        sent.extend(d.says(S0, CLIENT, ACK | PSH, 5001, BEHIND, &[], response));
        assert_eq!(to(&sent, CLIENT), response, "{when} {server}");
        let (end, heard) = (BEHIND.wrapping_add(next.len() as u32), ack.wrapping_add(response.len() as u32));
        sent.extend(d.says(CLIENT, SERVICE, ACK, end, heard, &[], b""));
        if server == S1 {
            assert_eq!((asked(&sent), to(&sent, S0)), (vec![(CLIENT.into(), S1.into())], vec![]), "{when}");
            sent = d.says(S1, CLIENT, SYN | ACK, 9000, BEHIND, SYN_OPTIONS, b"");
        }
        assert_eq!(to(&sent, server), next, "{when} {server}");
        // And again when it was lost.
        assert_eq!(to(&d.passes(1500), server), next, "{when} {server}");
    }
}
