//! The content harness by itself: it passes what is right, and each deliberate fault is found and named.

use lcs_dataplane::headers::tcp::Tcp;
use lcs_dataplane::headers::{parse, protocol};
use lcs_dataplane::worker::Nanos;
use lcs_perf::network::content::{
    Class, ContentClient, ContentServer, Ending, Exchange, Framing, Method, Roster, Script,
};
use lcs_perf::network::host::Host;
use lcs_perf::network::link::Faults;
use lcs_perf::network::stack::Settings;
use lcs_perf::network::{Id, Network, Node, Outbox, SECOND};
use std::net::SocketAddr;
use std::rc::Rc;

/// What may change a frame that goes by, in this direction (0 from the client).
type Change = Box<dyn FnMut(usize, &mut Vec<u8>)>;

/// Joins client and server.
struct Middle(Change);

impl Node for Middle {
    fn receive(&mut self, nic: usize, mut frame: Vec<u8>, _: Nanos, out: &mut Outbox) -> Option<Nanos> {
        let is_tcp = parse(&frame, false).is_ok_and(|p| p.protocol == protocol::TCP);
        if is_tcp {
            (self.0)(nic, &mut frame);
            if let Ok(parsed) = parse(&frame, false) {
                parse::fill_transport_checksum(&mut frame, &parsed);
            }
        }
        out.send(1 - nic, frame);
        None
    }

    fn poll(&mut self, _: Nanos, _: &mut Outbox) -> Option<Nanos> {
        None
    }
}

struct World {
    net: Network,
    client: Id<Host>,
    server: Id<Host>,
}

const TO: &str = "192.0.2.2:8080";

fn to() -> SocketAddr {
    TO.parse().unwrap()
}

/// A client with these scripts, a server named `s1` for these classes, and this between them.
fn world(
    roster: Roster,
    classes: &[Class],
    scripts: Vec<Script>,
    middle: impl FnMut(usize, &mut Vec<u8>) + 'static,
) -> World {
    let mut net = Network::new(1);
    let client = ContentClient::list(Rc::new(roster), 2, scripts);
    let client = Host::new(Settings::new(1, &["192.0.2.1/24"])).watched().with(client);
    let server = ContentServer::new("s1", 8080, classes);
    let server = Host::new(Settings::new(2, &["192.0.2.2/24"])).watched().with(server);
    let (client, server) = (net.add("client", client), net.add("server", server));
    let middle = net.add("middle", Middle(Box::new(middle)));
    net.connect(middle, client, Faults::NONE);
    net.connect(middle, server, Faults::NONE);
    let limit = net.now() + 300 * SECOND;
    let done = net.run(limit, |n| n[client].application::<ContentClient>().finished());
    net.run_for(200 * SECOND);
    assert!(done, "{:?}", net[client].application::<ContentClient>());
    World { net, client, server }
}

impl World {
    fn client(&self) -> &ContentClient {
        self.net[self.client].application()
    }
    fn server(&self) -> &ContentServer {
        self.net[self.server].application()
    }
    /// Why the first connection failed, for the client.
    fn why(&self) -> &str {
        &self.client().seen.failures.first().expect("the client noticed something").why
    }
    /// What was wrong, for the server.
    fn wrong(&self) -> &str {
        &self.server().served.problems.first().expect("the server noticed something").what
    }
}

fn exchanges() -> Vec<Exchange> {
    vec![
        Exchange::get(1, Class::Web, 3_000),
        Exchange { method: Method::Chunked, body: 5_000, ..Exchange::get(2, Class::Lcs1, 10) },
        Exchange {
            method: Method::Post,
            body: 20_000,
            framing: Framing::Chunked,
            ..Exchange::get(3, Class::Large, 700)
        },
        Exchange { method: Method::Head, ..Exchange::get(4, Class::Images, 9) },
        Exchange { framing: Framing::NotModified, interim: true, ..Exchange::get(5, Class::Member, 9) },
    ]
}

#[test]
fn what_is_right_passes() {
    for (pipeline, ending) in [(1, Ending::Close), (5, Ending::Close), (5, Ending::HalfClose), (2, Ending::HalfClose)] {
        let script = Script { pipeline, ending, ..Script::new(to(), exchanges()) };
        let w = world(Roster::alone("s1"), &Class::SERVED, vec![script; 1], |_, _| {});
        let seen = &w.client().seen;
        assert_eq!((seen.answered, seen.failed), (5, 0), "{:?}", seen.failures);
        assert_eq!(w.server().served.exchanges, [1, 2, 3, 4, 5]);
        assert_eq!((w.server().served.wrong, w.server().served.broken, w.server().active()), (0, 0, 0));
        for host in [w.client, w.server] {
            assert_eq!(w.net[host].monitor().unwrap().findings, Vec::<String>::new());
        }
    }
}

/// Flips a bit of the `nth` byte of payload in one direction.
fn flip(direction: usize, nth: usize) -> impl FnMut(usize, &mut Vec<u8>) {
    let mut passed = 0;
    move |nic, frame| {
        let parsed = parse(frame, false).unwrap();
        let header = Tcp::parse(&frame[usize::from(parsed.l4)..usize::from(parsed.end)]).unwrap().header_len();
        let payload = usize::from(parsed.l4) + header;
        let len = usize::from(parsed.end) - payload;
        if nic == direction {
            if (passed..passed + len).contains(&nth) {
                frame[payload + nth - passed] ^= 0x04;
            }
            passed += len;
        }
    }
}

#[test]
fn one_wrong_byte_is_found_wherever_it_is() {
    let all: Vec<u8> = exchanges().iter().flat_map(|e| e.response("s1")).collect();
    for nth in [0, 300, 2_000, all.len() - 1] {
        let w = world(Roster::alone("s1"), &Class::SERVED, vec![Script::new(to(), exchanges())], flip(1, nth));
        assert!(w.client().seen.failed > 0, "byte {nth} of the answers");
        if nth == 2_000 {
            assert!(w.why().contains("wrong byte at 2000"), "{}", w.why());
        }
    }
    let first = exchanges()[0].request().len();
    let all: usize = exchanges().iter().map(|e| e.request().len()).sum();
    for nth in [0, first - 1, first + 20, first + 3_000, all - 1] {
        let w = world(Roster::alone("s1"), &Class::SERVED, vec![Script::new(to(), exchanges())], flip(0, nth));
        assert!(w.server().served.wrong > 0 || w.client().seen.failed > 0, "byte {nth} of the requests");
        if nth == first + 3_000 {
            assert!(w.wrong().contains("wrong byte at 3000"), "{}", w.wrong());
        }
    }
}

#[test]
fn a_request_at_the_wrong_server_is_found_by_both() {
    let lcs2 = vec![Script::new(to(), vec![Exchange::get(9, Class::Lcs2, 5)])];
    let w = world(Roster::alone("s1"), &[Class::Lcs1], lcs2.clone(), |_, _| {});
    assert!(w.wrong().contains("a request for another group"), "{}", w.wrong());
    let w = world(Roster::alone("s7"), &Class::SERVED, lcs2.clone(), |_, _| {});
    assert!(w.why().contains("answered by server s1, which is none of"), "{}", w.why());
    // All servers of a group are dead, and one answers all the same.
    let w = world(Roster::new(|_| vec![], false), &Class::SERVED, lcs2, |_, _| {});
    assert!(w.why().contains("not by the director"), "{}", w.why());
}

#[test]
fn a_lost_end_and_a_reset_in_place_of_an_end_are_found() {
    let script = vec![Script::new(to(), exchanges())];
    // From the last 100 bytes of the answers on, nothing passes.
    let total: usize = exchanges().iter().map(|e| e.response("s1").len()).sum();
    let mut passed = 0;
    let w = world(Roster::alone("s1"), &Class::SERVED, script.clone(), move |nic, frame| {
        if nic == 1 {
            let parsed = parse(frame, false).unwrap();
            passed += usize::from(parsed.end - parsed.l4).saturating_sub(20);
            if passed > total - 100 {
                frame[0..6].fill(0xee);
            }
        }
    });
    assert!(w.why().contains("nothing happened for 60 s") || w.why().contains("reset with"), "{}", w.why());
    // A FIN is made a reset.
    let w = world(Roster::alone("s1"), &Class::SERVED, script, |nic, frame| {
        let parsed = parse(frame, false).unwrap();
        let at = usize::from(parsed.l4) + 13;
        if nic == 1 && frame[at] & 1 != 0 {
            frame[at] = 4;
        }
    });
    assert!(w.why().contains("reset instead of closed"), "{}", w.why());
}

#[test]
fn numbers_that_no_peer_sends_are_found_though_no_byte_is_wrong() {
    for shift in [1u32, 0x1000_0000] {
        let mut frames = 0;
        let w = world(Roster::alone("s1"), &Class::SERVED, vec![Script::new(to(), exchanges())], move |nic, frame| {
            let at = usize::from(parse(frame, false).unwrap().l4) + 8;
            frames += usize::from(nic == 1);
            // One acknowledgement, later, is of more than was sent.
            if nic == 1 && frames == 5 {
                let ack = u32::from_be_bytes(*frame[at..].first_chunk().unwrap()).wrapping_add(shift);
                frame[at..at + 4].copy_from_slice(&ack.to_be_bytes());
            }
        });
        let findings = &w.net[w.client].monitor().unwrap().findings;
        assert!(findings.iter().any(|f| f.contains("an acknowledgement of")), "{findings:?}");
    }
}
