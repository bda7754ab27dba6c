//! Requests of many clients in one burst: their servers are opened behind all of them, and each as if it had come alone.

mod director;

use director::{DIRECTOR, Director, ISN, SERVICE, SYN_OPTIONS, Sent};
use lcs_dataplane::headers::build::{Packet, Transport};
use lcs_dataplane::headers::tcp::flags::{ACK, PSH, SYN};
use lcs_pipelines::content::Binding;
use lcs_pipelines::matching::{Action, Expr, Rule};
use lcs_pipelines::snapshot::Service;

const REQUEST: &[u8] = b"GET /a HTTP/1.1\r\nHost: www.example.com\r\n\r\n";
/// The first byte of a request.
const FIRST: u32 = ISN.wrapping_add(1);

/// A client's SYN and the end of its handshake; the director's next number.
fn handshake(d: &mut Director, client: &str, service: &str) -> u32 {
    let answer = d.says(client, service, SYN, ISN, 0, SYN_OPTIONS, b"");
    let ack = answer.first().expect("the SYN is answered").seq.wrapping_add(1);
    assert!(d.says(client, service, ACK, FIRST, ack, &[], b"").is_empty());
    ack
}

/// Requests of clients (endpoint, service, acknowledgement) in one burst.
fn burst(d: &mut Director, clients: &[(String, &str, u32)]) -> Vec<Sent> {
    for (client, service, ack) in clients {
        let flags = ACK | PSH;
        let packet = Packet::tcp(client.parse().unwrap(), service.parse().unwrap(), flags);
        let mut p = Packet { destination_mac: DIRECTOR, ..packet }.payload(REQUEST);
        p.transport = Transport::Tcp { flags, seq: FIRST, ack: *ack, window: 60_000, options: vec![] };
        assert!(d.worker.port_mut().inject(0, &p.frame()));
    }
    d.turn()
}

/// From whom to whom SYNs go, in their order.
fn asked(sent: &[Sent]) -> Vec<(String, String)> {
    sent.iter().filter(|s| s.flags == SYN).map(|s| (s.from.to_string(), s.to.to_string())).collect()
}

#[test]
fn each_scheduler_gives_a_burst_to_the_servers_that_it_gives_single_requests() {
    for algorithm in ["rr", "wrr", "lc", "wlc"] {
        let action = Action::LoadBalance { group: 0, algorithm: algorithm.into() };
        let rule = Rule { name: "all of it".into(), condition: Expr::always(), action };
        let servers = |at_once: bool| {
            let mut d = Director::with(Binding::default(), std::slice::from_ref(&rule));
            let clients: Vec<_> = (0..5)
                .map(|n| (format!("192.0.2.{n}:1000"), SERVICE))
                .map(|(client, service)| (client.clone(), service, handshake(&mut d, &client, service)))
                .collect();
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
        let (first, second) = (of("10.0.0.1:8080"), of("10.0.0.2:8080"));
        assert_eq!((first + second, first.abs_diff(second)), (5, 1), "{algorithm}: {together:?}");
    }
}

#[test]
fn of_two_requests_of_a_burst_that_one_server_could_not_tell_apart_it_gets_the_first() {
    const OTHER: &str = "198.51.100.2:80";
    let mut d = Director::new();
    d.publish(
        |s| {
            // The same client and port at both addresses, and one server for both.
            let at: std::net::SocketAddr = OTHER.parse().unwrap();
            s.servers[1].as_mut().unwrap().weight = 0;
            let other = Service { name: "other".into(), address: at.ip(), ..s.services[0].clone().unwrap() };
            s.services.push(Some(other));
            s.by_endpoint.insert((at.ip(), at.port(), 6), 1);
            s.own.insert(at.ip());
        },
        true,
    );
    let client = "192.0.2.7:1000";
    let clients: Vec<_> =
        [SERVICE, OTHER].map(|service| (client.to_owned(), service, handshake(&mut d, client, service))).into();
    let sent = burst(&mut d, &clients);
    assert_eq!(asked(&sent), [(client.to_owned(), "10.0.0.1:8080".to_owned())]);
    let refused: Vec<_> = sent.iter().filter(|s| s.payload.starts_with(b"HTTP/1.1 503")).collect();
    assert_eq!(refused.iter().map(|s| s.from.to_string()).collect::<Vec<_>>(), [OTHER]);
    // The one that was asked answers for the first.
    let delivered = d.says("10.0.0.1:8080", client, SYN | ACK, 5000, FIRST, SYN_OPTIONS, b"");
    let data: Vec<u8> = delivered.iter().flat_map(|s| s.payload.clone()).collect();
    assert_eq!(data, REQUEST);
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
                    sent = d.says(director::CLIENT, SERVICE, ACK | PSH, at, ack, options, piece);
                    at = at.wrapping_add(piece.len() as u32);
                }
                let server = asked(&sent).remove(0).1;
                let delivered = d.says(&server, director::CLIENT, SYN | ACK, 5000, FIRST, SYN_OPTIONS, b"");
                let data: Vec<u8> = delivered.iter().flat_map(|s| s.payload.clone()).collect();
                assert_eq!(data, request);
                // And again when it was lost.
                let again = d.passes(1500);
                let data: Vec<u8> = again.iter().flat_map(|s| s.payload.clone()).collect();
                assert_eq!(data, request);
            }
        }
    }
}
