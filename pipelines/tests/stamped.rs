//! Timestamps (RFC 7323), segment by segment: what the director agrees upon, what it says itself, and how one server's clock goes
//! over into another's.

mod director;

use director::{CLIENT, DIRECTOR, Director, ISN, SERVICE, Sent};
use lcs_dataplane::DropReason;
use lcs_dataplane::headers::build::{Packet, Transport};
use lcs_dataplane::headers::options::{for_each, kind, read_timestamps, timestamps};
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use lcs_pipelines::command::{Acknowledgement, Command};
use lcs_pipelines::content::{Binding, Pool, Scheme, SynPolicy};
use lcs_pipelines::matching::{Action, Expr, Relation, Rule, Term, Value, Variable};
use lcs_pipelines::snapshot::Forward;

const A: &str = "10.0.0.1:8080";
const B: &str = "10.0.0.2:8080";
const MSS: &[u8] = &[2, 4, 5, 0xb4, 1, 3, 3, 7, 1, 1, 4, 2];
const FIRST: &[u8] = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
const OTHER: &[u8] = b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn stamped() -> Binding {
    Binding { timestamps: true, ..Binding::default() }
}

/// `/a` is for the first server, `/b` for the second.
fn rules() -> Vec<Rule> {
    ["/a", "/b"]
        .into_iter()
        .zip(0..)
        .map(|(prefix, server)| Rule {
            name: prefix.into(),
            condition: Expr::Term(Term {
                variable: Variable::Url,
                relation: Relation::Prefix,
                value: Value::Text(prefix.as_bytes().into()),
                ignore_case: false,
            }),
            action: Action::Forward { server, queue: None },
        })
        .collect()
}

fn to(sent: &[Sent], end: &str) -> Vec<Sent> {
    sent.iter().filter(|s| s.to.to_string() == end).cloned().collect()
}

fn stamps(s: &Sent) -> (u32, u32) {
    read_timestamps(&s.options).unwrap_or_else(|| panic!("no timestamps: {s:?}"))
}

/// One end of a connection, with a clock, and what it has heard as a receiver knows it.
struct End {
    at: String,
    peer: String,
    seq: u32,
    ack: u32,
    clock: u32,
    recent: u32,
}

impl End {
    fn says(&self, d: &mut Director, flags: u8, payload: &[u8]) -> Vec<Sent> {
        let stamps = timestamps(self.clock, self.recent);
        d.says(&self.at, &self.peer, flags, self.seq, self.ack, &stamps, payload)
    }

    /// The same, and its bytes are counted.
    fn sends(&mut self, d: &mut Director, payload: &[u8]) -> Vec<Sent> {
        let sent = self.says(d, ACK | PSH, payload);
        self.seq = self.seq.wrapping_add(payload.len() as u32);
        sent
    }

    /// Takes what of these is for it: the bytes. None may be too old (RFC 7323 §5.3), nor echo what was not said.
    fn takes(&mut self, sent: &[Sent]) -> Vec<u8> {
        let mut bytes = vec![];
        for s in to(sent, &self.at).iter().filter(|s| s.from.to_string() == self.peer) {
            let (value, echo) = stamps(s);
            assert!(value.wrapping_sub(self.recent) as i32 >= 0, "{value} after {}: {s:?}", self.recent);
            assert!(self.clock.wrapping_sub(echo) < 1 << 24, "{echo} is none of {}", self.clock);
            self.recent = value;
            assert_eq!(s.seq, self.ack, "{s:?}");
            self.ack = self.ack.wrapping_add(s.payload.len() as u32 + u32::from(s.flags & (SYN | FIN) != 0));
            bytes.extend(&s.payload);
        }
        bytes
    }

    /// A client after its handshake.
    fn client(d: &mut Director, at: &str, isn: u32, clock: u32) -> End {
        let options = [MSS, &timestamps(clock, 0)].concat();
        let answer = d.says(at, SERVICE, SYN, isn, 0, &options, b"");
        assert_eq!((answer.len(), answer[0].flags), (1, SYN | ACK));
        let (value, echo) = stamps(&answer[0]);
        assert_eq!(echo, clock);
        let (seq, ack) = (isn.wrapping_add(1), answer[0].seq.wrapping_add(1));
        let c = End { at: at.into(), peer: SERVICE.into(), seq, ack, clock, recent: value };
        assert!(c.says(d, ACK, b"").is_empty());
        c
    }

    /// A server that answers the SYN that is among these, which has stamps; and what follows.
    fn server(d: &mut Director, sent: &[Sent], at: &str, isn: u32, clock: u32) -> (End, Vec<Sent>) {
        let syn = sent.iter().find(|s| s.flags == SYN && s.to.to_string() == at).expect("a server is asked").clone();
        let (value, echo) = stamps(&syn);
        assert_eq!(echo, 0);
        let (seq, ack) = (isn.wrapping_add(1), syn.seq.wrapping_add(1));
        let s = End { at: at.into(), peer: syn.from.to_string(), seq, ack, clock, recent: value };
        let options = [MSS, &timestamps(clock, value)].concat();
        let sent = d.says(at, &s.peer, SYN | ACK, isn, ack, &options, b"");
        // A listener does not take the end of the handshake with another echo than that of its answer.
        let first = to(&sent, at);
        assert!(first.iter().all(|s| stamps(s).1 == clock), "{first:?}");
        (s, sent)
    }
}

/// One request and its response, acknowledged.
fn exchange(d: &mut Director, c: &mut End, s: &mut End, asked: &[Sent], request: &[u8]) {
    assert_eq!(s.takes(asked), request, "{asked:?}");
    let back = s.sends(d, RESPONSE);
    assert_eq!(c.takes(&back), RESPONSE, "{back:?}");
    let told = c.says(d, ACK, b"");
    let told = to(&told, &s.at);
    assert_eq!((told.len(), stamps(&told[0])), (1, (stamps(&told[0]).0, s.clock)), "the echo is the server's own");
    s.recent = stamps(&told[0]).0;
}

#[test]
fn both_ends_see_one_clock_each() {
    for syn in [SynPolicy::State, SynPolicy::Cookie] {
        for clock in [5, u32::MAX - 40] {
            let mut d = Director::with(Binding { syn, ..stamped() }, &rules());
            let mut c = End::client(&mut d, CLIENT, ISN, clock);
            let begun = c.recent;
            d.passes(100);
            c.clock = c.clock.wrapping_add(100);
            let sent = c.sends(&mut d, FIRST);
            // What a content worker decides is acknowledged at once, else it may be delayed.
            let delay = if director::SPLIT { 0 } else { 60 };
            let told = [to(&sent, CLIENT), to(&d.passes(delay), CLIENT)].concat();
            assert_eq!(stamps(&told[0]).1, c.clock);
            let begun = begun.wrapping_add(100 + delay as u32);
            assert_eq!(stamps(&told[0]).0, begun, "milliseconds");
            c.takes(&told);
            let (mut s, sent) = End::server(&mut d, &sent, A, 5000, 77_000_000);
            assert_eq!(s.recent, c.clock, "the client's own clock");
            exchange(&mut d, &mut c, &mut s, &sent, FIRST);
            assert_eq!(c.recent, begun, "the server's begins where the director's was");
            // On the fast path from here on: the option in its usual place, somewhere else, and with a full header.
            for ahead in [&[][..], &[3, 3, 7], &[1, 1, 253, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
                (c.clock, s.clock) = (c.clock.wrapping_add(7), s.clock.wrapping_add(7));
                let mut options = [ahead, &timestamps(c.clock, c.recent)[2..]].concat();
                options.resize(options.len().next_multiple_of(4), 1);
                if ahead.len() > 10 {
                    options.resize(40, 0);
                }
                let passed = d.says(CLIENT, SERVICE, ACK, c.seq, c.ack, &options, b"");
                assert_eq!((passed.len(), stamps(&passed[0])), (1, (c.clock, s.clock - 7)), "{passed:?}");
                s.recent = c.clock;
                let back = s.says(&mut d, ACK, b"");
                assert_eq!((back.len(), stamps(&back[0])), (1, (c.recent.wrapping_add(7), c.clock)));
                c.takes(&back);
            }
        }
    }
}

#[test]
fn who_does_not_offer_them_gets_none_and_a_service_that_does_not_know_them_gives_none() {
    for (binding, options) in [(stamped(), vec![]), (Binding::default(), timestamps(9, 0).to_vec())] {
        let mut d = Director::with(binding, &rules());
        let answer = d.says(CLIENT, SERVICE, SYN, ISN, 0, &[MSS, &options].concat(), b"");
        assert_eq!(read_timestamps(&answer[0].options), None);
        let (seq, ack) = (ISN.wrapping_add(1), answer[0].seq.wrapping_add(1));
        let sent = d.says(CLIENT, SERVICE, ACK | PSH, seq, ack, &[], FIRST);
        assert!(!sent.is_empty() && sent.iter().all(|s| read_timestamps(&s.options).is_none()), "{sent:?}");
    }
}

#[test]
fn a_syn_that_comes_again_without_them_takes_them_back() {
    let mut d = Director::with(stamped(), &rules());
    let first = d.says(CLIENT, SERVICE, SYN, ISN, 0, &[MSS, &timestamps(9, 0)].concat(), b"");
    assert!(read_timestamps(&first[0].options).is_some());
    let second = d.says(CLIENT, SERVICE, SYN, ISN, 0, MSS, b"");
    assert_eq!((second[0].seq, read_timestamps(&second[0].options)), (first[0].seq, None));
    let (seq, ack) = (ISN.wrapping_add(1), second[0].seq.wrapping_add(1));
    let sent = d.says(CLIENT, SERVICE, ACK | PSH, seq, ack, &[], FIRST);
    assert!(sent.iter().any(|s| s.flags == SYN) && sent.iter().all(|s| read_timestamps(&s.options).is_none()));
}

#[test]
fn a_cookie_brings_them_back_only_with_the_directors_own_clock() {
    for forged in [0, 1, 200_000] {
        let mut d = Director::with(Binding { syn: SynPolicy::Cookie, ..stamped() }, &rules());
        let answer = d.says(CLIENT, SERVICE, SYN, ISN, 0, &[MSS, &timestamps(9, 0)].concat(), b"");
        let echo = stamps(&answer[0]).0.wrapping_add(forged);
        let (seq, ack) = (ISN.wrapping_add(1), answer[0].seq.wrapping_add(1));
        let sent = d.says(CLIENT, SERVICE, ACK | PSH, seq, ack, &timestamps(10, echo), FIRST);
        let syn = sent.iter().find(|s| s.flags == SYN).unwrap();
        assert_eq!(read_timestamps(&syn.options).is_some(), forged == 0);
    }
}

#[test]
fn a_server_without_them_is_passed_over_and_counted() {
    // The rule allows both servers.
    let mut d = Director::with(stamped(), &[]);
    let mut c = End::client(&mut d, CLIENT, ISN, 1_000);
    let sent = c.sends(&mut d, FIRST);
    c.takes(&to(&sent, CLIENT));
    let (mut sent, mut asked) = (sent, vec![]);
    for n in 0..2 {
        let syn = sent.iter().find(|s| s.flags == SYN).unwrap_or_else(|| panic!("{n}: {sent:?}")).clone();
        let server = syn.to.to_string();
        sent = d.says(&server, CLIENT, SYN | ACK, 5000, syn.seq.wrapping_add(1), MSS, b"");
        let reset = &to(&sent, &server)[0];
        assert_eq!((reset.flags & RST, reset.seq, reset.ack), (RST, syn.seq.wrapping_add(1), 5001));
        asked.push(server);
    }
    asked.sort();
    assert_eq!(asked, [A, B]);
    let answer = c.takes(&to(&sent, CLIENT));
    assert!(answer.starts_with(b"HTTP/1.1 503 "), "{:?}", String::from_utf8_lossy(&answer));
    // Sent again while nobody acknowledges it, by a clock that goes on.
    let again: Vec<Sent> = (0..100).flat_map(|_| d.passes(20)).collect();
    let (value, echo) = stamps(&to(&again, CLIENT)[0]);
    assert!(value.wrapping_sub(c.recent) > 100 && value.wrapping_sub(c.recent) < 2_001 && echo == 1_000);
    let Acknowledgement::Report(report) = d.worker.command(Command::Report(Box::default()), d.now) else {
        panic!("a report")
    };
    assert_eq!(report.content.services[0].as_ref().map(|tally| tally.unstamped), Some(2));
}

#[test]
fn one_server_after_another_is_one_clock_to_the_client() {
    for forward in [Forward::Nat, Forward::FullNat] {
        // Clocks far apart, one behind its wrap, and one that runs a thousand times as fast.
        for (a_clock, b_clock, rate) in [(10, 4_000_000_000, 1), (u32::MAX - 20, 5, 1), (7, 7, 1_000_000)] {
            let mut d = Director::behind(forward, stamped(), &rules());
            let mut c = End::client(&mut d, CLIENT, ISN, u32::MAX - 9);
            let sent = c.sends(&mut d, FIRST);
            c.takes(&to(&sent, CLIENT));
            let (mut a, sent) = End::server(&mut d, &sent, A, 5_000, a_clock);
            exchange(&mut d, &mut c, &mut a, &sent, FIRST);
            a.clock = a.clock.wrapping_add(rate);
            // What the server says of itself moves the client's clock on without a byte.
            let back = a.says(&mut d, ACK, b"");
            c.takes(&back);
            d.passes(50);
            c.clock = c.clock.wrapping_add(50);
            let sent = c.sends(&mut d, OTHER);
            let parked = to(&sent, A);
            assert!(parked.iter().all(|s| s.flags & RST == 0));
            c.takes(&to(&sent, CLIENT));
            let (mut b, sent) = End::server(&mut d, &sent, B, 9_000_000, b_clock);
            exchange(&mut d, &mut c, &mut b, &sent, OTHER);
            b.clock = b.clock.wrapping_add(60);
            // A late word of the first server does not come through, and gets an answer in its own numbers.
            a.clock = a.clock.wrapping_add(5 * rate);
            let late = d.says(A, &a.peer, ACK, a.seq.wrapping_sub(1), a.ack, &timestamps(a.clock, a.recent), b"");
            assert_eq!((late.len(), late[0].to.to_string()), (1, A.into()));
            assert_eq!(stamps(&late[0]).1, a.clock);
            assert!(stamps(&late[0]).0.wrapping_sub(a.recent) < 1_000);
            a.recent = stamps(&late[0]).0;
            // And back to it: its clock and the client's go on, over the connection that was kept.
            d.passes(50);
            c.clock = c.clock.wrapping_add(50);
            a.clock = a.clock.wrapping_add(100);
            let sent = c.sends(&mut d, FIRST);
            c.takes(&to(&sent, CLIENT));
            assert!(sent.iter().all(|s| s.flags != SYN), "{sent:?}");
            exchange(&mut d, &mut c, &mut a, &to(&sent, A), FIRST);
            let sent = c.says(&mut d, FIN | ACK, b"");
            assert_eq!(stamps(&to(&sent, A)[0]).1, a.clock);
        }
    }
}

#[test]
fn what_is_held_is_sent_again_with_stamps_and_selective_acknowledgements_beside_them() {
    let mut d = Director::with(stamped(), &rules());
    let mut c = End::client(&mut d, CLIENT, ISN, 500);
    // Three pieces with gaps before them: three blocks and the stamps fill the header.
    let at = |n: usize| c.seq.wrapping_add(n as u32);
    let mut told = vec![];
    for from in [20, 12, 4] {
        let option = timestamps(500 + from as u32, c.recent);
        told = d.says(CLIENT, SERVICE, ACK, at(from), c.ack, &option, &FIRST[from..from + 2]);
    }
    assert_eq!(told[0].options.len(), 40);
    assert_eq!(stamps(&told[0]).1, 500, "what came in order last");
    // In its place at last, and older than those that were before their time; then a copy from before everything.
    c.clock = 501;
    let sent = c.sends(&mut d, FIRST);
    let old = d.says(CLIENT, SERVICE, ACK, c.seq, c.ack, &timestamps(499, c.recent), b"x");
    let old = to(&old, CLIENT);
    assert_eq!((old.len(), old[0].ack), (1, c.seq), "acknowledged, and not taken: {old:?}");
    let (mut s, delivered) = End::server(&mut d, &sent, A, 5_000, 90);
    assert_eq!(s.takes(&delivered), FIRST);
    let again: Vec<Sent> = (0..120).flat_map(|_| d.passes(20)).collect();
    let again: Vec<Sent> = again.into_iter().filter(|s| !s.payload.is_empty()).collect();
    assert!(!again.is_empty() && again.iter().all(|s| s.payload == FIRST && stamps(s) == (501, 90)), "{again:?}");
}

#[test]
fn segments_of_the_directors_own_leave_room_for_them() {
    let mut d = Director::with(stamped(), &rules());
    let mut c = End::client(&mut d, CLIENT, ISN, 500);
    let mut request = b"GET /a HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
    request.resize(1456, b'x');
    request.extend(b"\r\n\r\n");
    let half = request.len() / 2;
    c.sends(&mut d, &request[..half]);
    let sent = c.sends(&mut d, &request[half..]);
    let (mut s, delivered) = End::server(&mut d, &sent, A, 5_000, 90);
    assert!(delivered.iter().all(|s| s.payload.len() + s.options.len() <= 1460));
    assert_eq!(s.takes(&delivered), request);
}

#[test]
fn what_a_server_may_ignore_for_its_age_does_not_open_the_way_for_other_bytes() {
    let other = b"GET /a?ok=no&and=something HTTP/1.1\r\nHost: x\r\n\r\n";
    let good = b"GET /a?ok=yes&or=something HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(other.len(), good.len());
    let steps = [0u32.wrapping_sub(1), 0u32.wrapping_sub(1 << 20), 1 << 31, (1 << 31) - 1, 0x4000_0000];
    for first in steps {
        for second in steps {
            let mut d = Director::with(stamped(), &rules());
            let mut c = End::client(&mut d, CLIENT, ISN, 5_000);
            let sent = c.sends(&mut d, FIRST);
            c.takes(&to(&sent, CLIENT));
            let (mut a, sent) = End::server(&mut d, &sent, A, 5_000, 90);
            exchange(&mut d, &mut c, &mut a, &sent, FIRST);
            // One that the server does not accept, for its number, moves nothing there; and one with the request.
            let far = c.seq.wrapping_sub(1 << 20);
            d.says(CLIENT, SERVICE, ACK, far, c.ack, &timestamps(5_000u32.wrapping_add(first), c.recent), b"");
            let stamp = 5_000u32.wrapping_add(first).wrapping_add(second);
            let one = d.says(CLIENT, SERVICE, ACK | PSH, c.seq, c.ack, &timestamps(stamp, c.recent), good);
            let two = d.says(CLIENT, SERVICE, ACK | PSH, c.seq, c.ack, &timestamps(5_001, c.recent), other);
            // As the server knows it: what is not too old, in order.
            let mut heard = vec![];
            for s in to(&[one, two].concat(), A) {
                if stamps(&s).0.wrapping_sub(a.recent) as i32 >= 0 && s.seq == a.ack {
                    heard.extend(&s.payload);
                    a.ack = a.ack.wrapping_add(s.payload.len() as u32);
                }
            }
            assert!(!heard.starts_with(other), "{first:x} {second:x}");
        }
    }
}

#[test]
fn clients_of_a_pool_are_one_clock_to_a_server() {
    let scheme = Scheme::Pooled(Pool { idle: 0, ..Pool::default() });
    let mut d = Director::behind(Forward::FullNat, Binding { scheme, ..stamped() }, &rules());
    let mut server: Option<End> = None;
    for (n, clock) in [(1u16, 3_000_000_000u32), (2, 7), (3, u32::MAX - 3), (4, 1 << 31)] {
        let at = format!("192.0.2.{n}:{}", 1000 + n);
        let mut c = End::client(&mut d, &at, u32::from(n) * 99, clock);
        let sent = c.sends(&mut d, FIRST);
        c.takes(&to(&sent, &at));
        let (mut s, asked) = match server.take() {
            None => End::server(&mut d, &sent, A, 5_000, u32::MAX - 30),
            Some(s) => {
                assert!(sent.iter().all(|s| s.flags != SYN), "{sent:?}");
                (s, sent)
            }
        };
        s.clock = s.clock.wrapping_add(20);
        // The server's own clock measures what comes back; the director's what it hears.
        assert_eq!(s.takes(&asked), FIRST);
        let back = s.sends(&mut d, RESPONSE);
        assert_eq!(c.takes(&back), RESPONSE);
        assert_eq!(stamps(&to(&back, &at)[0]).1, clock);
        c.clock = c.clock.wrapping_add(5);
        s.takes(&c.says(&mut d, ACK, b""));
        // A keep-alive of the server's is answered in between.
        s.clock = s.clock.wrapping_add(20);
        let probe = d.says(A, &s.peer, ACK, s.seq.wrapping_sub(1), s.ack, &timestamps(s.clock, s.recent), b"");
        assert_eq!(s.takes(&probe), b"");
        d.passes(30);
        server = Some(s);
    }
    // Who has none gets a connection of its own.
    let answer = d.says("192.0.2.9:9", SERVICE, SYN, 1, 0, MSS, b"");
    let sent = d.says("192.0.2.9:9", SERVICE, ACK | PSH, 2, answer[0].seq.wrapping_add(1), &[], FIRST);
    let syn = sent.iter().find(|s| s.flags == SYN).expect("another connection");
    assert_eq!(read_timestamps(&syn.options), None);
}

#[test]
fn a_client_whose_clock_runs_away_keeps_its_connection() {
    let scheme = Scheme::Pooled(Pool { idle: 0, ..Pool::default() });
    let mut d = Director::behind(Forward::FullNat, Binding { scheme, ..stamped() }, &rules());
    let mut c = End::client(&mut d, CLIENT, ISN, 9);
    let sent = c.sends(&mut d, FIRST);
    c.takes(&to(&sent, CLIENT));
    let (mut s, asked) = End::server(&mut d, &sent, A, 5_000, 90);
    assert_eq!(s.takes(&asked), FIRST);
    // In the middle of its response, a stamp from far ahead, which the server believes.
    let back = s.sends(&mut d, &RESPONSE[..20]);
    c.takes(&back);
    c.clock = 9 + (1 << 30);
    let told = c.says(&mut d, ACK, b"");
    assert_eq!(to(&told, A).len(), 1);
    s.takes(&told);
    let back = s.sends(&mut d, &RESPONSE[20..]);
    c.takes(&back);
    c.says(&mut d, ACK, b"");
    let mut next = End::client(&mut d, "192.0.2.7:7", 5, 100);
    let sent = next.sends(&mut d, FIRST);
    assert!(sent.iter().any(|s| s.flags == SYN && s.to.to_string() == A), "{sent:?}");
}

const UPLOAD: &[u8] = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A client whose first request has been answered, and its server.
fn answered(d: &mut Director) -> (End, End) {
    let mut c = End::client(d, CLIENT, ISN, 5_000);
    let sent = c.sends(d, FIRST);
    c.takes(&to(&sent, CLIENT));
    let (mut a, sent) = End::server(d, &sent, A, 5_000, 90);
    exchange(d, &mut c, &mut a, &sent, FIRST);
    (c, a)
}

/// What a server that goes by the last of several timestamps options takes of these.
fn hears(a: &mut End, sent: &[Sent]) -> Vec<u8> {
    let mut heard = vec![];
    for s in to(sent, A) {
        let mut value = None;
        for_each(&s.options, |k, _, body| {
            if k == kind::TIMESTAMPS {
                value = body.first_chunk().map(|b| u32::from_be_bytes(*b));
            }
        });
        let value = value.unwrap_or_else(|| panic!("no timestamps: {s:?}"));
        if value.wrapping_sub(a.recent) as i32 >= 0 && s.seq == a.ack {
            a.recent = value;
            a.ack = a.ack.wrapping_add(s.payload.len() as u32);
            heard.extend(&s.payload);
        }
    }
    heard
}

#[test]
fn of_two_timestamps_in_one_segment_neither_counts() {
    let mut d = Director::with(stamped(), &rules());
    let (c, mut a) = answered(&mut d);
    let good = b"GET /a?ok=yes HTTP/1.1\r\nHost: x\r\n\r\n";
    let other = b"GET /a?o=false HTTP/1.1\r\nHost:x\r\n\r\n";
    assert_eq!(good.len(), other.len());
    let both = [timestamps(5_001, c.recent), timestamps(6_000, c.recent)].concat();
    let twice = d.says(CLIENT, SERVICE, ACK, c.seq, c.ack, &both, b"");
    assert!(to(&twice, A).is_empty(), "{twice:?}");
    let mut heard = hears(&mut a, &twice);
    for (stamp, request) in [(5_002, good), (6_001, other)] {
        let sent = d.says(CLIENT, SERVICE, ACK | PSH, c.seq, c.ack, &timestamps(stamp, c.recent), request);
        heard.extend(hears(&mut a, &sent));
    }
    assert_eq!(heard, good);
}

#[test]
fn a_chunk_that_its_server_may_ignore_is_not_read() {
    let chunk = b"5\r\nhello\r\n";
    for (far, ends) in [((1 << 24) + 1_000, false), ((1 << 29) + 7, false), ((1 << 30) + 5, true)] {
        let mut d = Director::with(stamped(), &rules());
        let (mut c, mut a) = answered(&mut d);
        let sent = d.says(CLIENT, SERVICE, ACK, c.seq, c.ack, &timestamps(5_000 + far, c.recent), b"");
        assert!(hears(&mut a, &sent).is_empty());
        assert_eq!(a.recent, 5_000 + far, "an acknowledgement passes");
        c.clock = 5_002;
        let sent = c.sends(&mut d, UPLOAD);
        let taken = hears(&mut a, &sent);
        assert_eq!(taken.is_empty(), ends, "{far:x}: {sent:?}");
        if !ends {
            assert_eq!(taken, UPLOAD);
            a.says(&mut d, ACK, b"");
        }
        c.clock = 5_003;
        let sent = c.says(&mut d, ACK | PSH, chunk);
        assert!(to(&sent, A).iter().all(|s| s.payload.is_empty()), "{far:x}: {sent:?}");
        assert_eq!(to(&sent, CLIENT).iter().any(|s| s.flags & RST != 0), ends, "{far:x}: {sent:?}");
        if !ends {
            c.clock = 5_001 + far;
            let sent = c.sends(&mut d, chunk);
            assert_eq!(hears(&mut a, &sent), chunk);
        }
    }
}

#[test]
fn a_chunk_with_an_option_that_servers_look_at_is_not_read() {
    let chunk = b"5\r\nhello\r\n";
    let signature = [&[19, 18][..], &[7; 16], &[1, 1]].concat();
    for binding in [stamped(), Binding::default()] {
        let mut d = Director::with(binding.clone(), &rules());
        let own = |value, echo| if binding.timestamps { timestamps(value, echo).to_vec() } else { vec![] };
        let answer = d.says(CLIENT, SERVICE, SYN, ISN, 0, &[MSS, &own(9, 0)].concat(), b"");
        let (seq, ack) = (ISN.wrapping_add(1), answer[0].seq.wrapping_add(1));
        let echo = read_timestamps(&answer[0].options).map_or(0, |(value, _)| value);
        let sent = d.says(CLIENT, SERVICE, ACK | PSH, seq, ack, &own(9, echo), UPLOAD);
        let syn = sent.iter().find(|s| s.flags == SYN).expect("a server is asked").clone();
        let server = syn.to.to_string();
        let options = [MSS, &own(70, 9)].concat();
        d.says(&server, CLIENT, SYN | ACK, 5_000, syn.seq.wrapping_add(1), &options, b"");
        let next = seq.wrapping_add(UPLOAD.len() as u32);
        d.says(&server, CLIENT, ACK, 5_001, next, &own(71, 9), b"");
        let signed = [&own(10, echo)[..], &signature].concat();
        let sent = d.says(CLIENT, SERVICE, ACK | PSH, next, ack, &signed, chunk);
        assert!(sent.is_empty(), "{sent:?}");
        let sent = d.says(CLIENT, SERVICE, ACK | PSH, next, ack, &own(11, echo), chunk);
        assert_eq!(to(&sent, &server)[0].payload, chunk);
    }
}

#[test]
fn nobody_in_a_pool_sees_what_another_clients_clock_has_done() {
    for (far, again) in [(1u32 << 24, true), (1 << 25, false)] {
        let scheme = Scheme::Pooled(Pool { idle: 0, ..Pool::default() });
        let mut d = Director::behind(Forward::FullNat, Binding { scheme, ..stamped() }, &rules());
        let mut c = End::client(&mut d, CLIENT, ISN, 9);
        let sent = c.sends(&mut d, UPLOAD);
        c.takes(&to(&sent, CLIENT));
        let (mut s, asked) = End::server(&mut d, &sent, A, 5_000, 90);
        assert_eq!(s.takes(&asked), UPLOAD);
        let told = s.says(&mut d, ACK, b"");
        c.takes(&told);
        // Its chunks are read, one after another, each from far ahead of the one before.
        for (n, chunk) in [(1, &b"5\r\nhello\r\n"[..]), (2, b"0\r\n\r\n")] {
            c.clock = 9 + far / 2 * n;
            let sent = c.sends(&mut d, chunk);
            assert_eq!(hears(&mut s, &to(&sent, A)), chunk);
        }
        s.clock += 10;
        let back = s.sends(&mut d, RESPONSE);
        let back = to(&back, CLIENT);
        assert_eq!(back.iter().flat_map(|s| s.payload.clone()).collect::<Vec<u8>>(), RESPONSE);
        (c.recent, c.ack) = (stamps(&back[0]).0, c.ack.wrapping_add(RESPONSE.len() as u32));
        s.recent = to(&c.says(&mut d, ACK, b""), A).iter().map(|s| stamps(s).0).next_back().unwrap_or(s.recent);
        let mut next = End::client(&mut d, "192.0.2.7:7", 5, 100);
        let sent = next.sends(&mut d, FIRST);
        assert_eq!(sent.iter().all(|s| s.flags != SYN), again, "{far:x}: {sent:?}");
        if again {
            assert_eq!(hears(&mut s, &sent), FIRST, "{far:x}");
        }
    }
}

#[test]
fn the_end_of_a_request_may_come_after_the_beginning_of_the_next() {
    let mut d = Director::with(stamped(), &rules());
    let (mut c, mut a) = answered(&mut d);
    let request = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n0123";
    let sent = c.sends(&mut d, request);
    assert_eq!(hears(&mut a, &sent), request);
    let told = a.says(&mut d, ACK, b"");
    c.takes(&told);
    c.clock += 2;
    let beyond = c.seq.wrapping_add(6);
    let ahead = d.says(CLIENT, SERVICE, ACK | PSH, beyond, c.ack, &timestamps(c.clock, c.recent), OTHER);
    assert!(to(&ahead, A).iter().all(|s| s.payload.is_empty()));
    c.clock -= 1;
    let sent = c.sends(&mut d, b"456789");
    assert_eq!(hears(&mut a, &sent), b"456789", "{sent:?}");
}

/// What a segment would be whose timestamps were damaged on the way: these, and the checksum of what was said.
fn damaged(end: &End, payload: &[u8], stamps: (u32, u32)) -> Vec<u8> {
    let mut p = Packet {
        destination_mac: DIRECTOR,
        ..Packet::tcp(end.at.parse().unwrap(), end.peer.parse().unwrap(), ACK).payload(payload)
    };
    let options = timestamps(end.clock, end.recent).to_vec();
    p.transport = Transport::Tcp { flags: ACK, seq: end.seq, ack: end.ack, window: 60_000, options };
    let mut frame = p.frame();
    frame[58..62].copy_from_slice(&stamps.0.to_be_bytes());
    frame[62..66].copy_from_slice(&stamps.1.to_be_bytes());
    frame
}

#[test]
fn stamps_that_were_damaged_on_the_way_move_nothing() {
    let pooled = Binding { scheme: Scheme::Pooled(Pool { idle: 0, ..Pool::default() }), ..stamped() };
    for (forward, binding) in [(Forward::Nat, stamped()), (Forward::FullNat, stamped()), (Forward::FullNat, pooled)] {
        for bit in 11..32 {
            let mut d = Director::behind(forward, binding.clone(), &rules());
            let mut c = End::client(&mut d, CLIENT, ISN, 5_000);
            let sent = c.sends(&mut d, FIRST);
            c.takes(&to(&sent, CLIENT));
            let (mut s, asked) = End::server(&mut d, &sent, A, 5_000, 90);
            assert_eq!(s.takes(&asked), FIRST);
            let back = s.sends(&mut d, &RESPONSE[..20]);
            assert_eq!(c.takes(&back), &RESPONSE[..20]);
            let told = c.says(&mut d, ACK, b"");
            s.takes(&told);
            // Each clock, and the server's echo, in the middle of a response whose end is known.
            let far = |n: u32| n.wrapping_add(1 << bit);
            let bytes = &RESPONSE[20..24];
            assert!(d.receives(&damaged(&c, b"", (far(c.clock), c.recent))).is_empty(), "bit {bit}");
            assert!(d.receives(&damaged(&s, bytes, (far(s.clock), s.recent))).is_empty(), "bit {bit}");
            assert!(d.receives(&damaged(&s, bytes, (s.clock, far(s.recent)))).is_empty(), "bit {bit}");
            assert_eq!(d.worker.counters().dropped_for(DropReason::BadTcpChecksum), 3, "bit {bit}");
            // All that follows is as if nothing had come: stamps, and which of them are believed.
            (c.clock, s.clock) = (c.clock + 3, s.clock + 3);
            let back = s.sends(&mut d, &RESPONSE[20..]);
            assert_eq!(c.takes(&back), &RESPONSE[20..]);
            let told = c.says(&mut d, ACK, b"");
            s.takes(&to(&told, A));
            c.clock += 5;
            let sent = c.sends(&mut d, FIRST);
            assert_eq!(s.takes(&sent), FIRST, "bit {bit}: {sent:?}");
        }
    }
}

#[test]
fn a_clock_that_really_leaps_is_believed() {
    let mut d = Director::with(stamped(), &rules());
    let (mut c, mut a) = answered(&mut d);
    for leap in [1 << 11, 1 << 20, 1 << 23] {
        c.clock += leap;
        let sent = c.sends(&mut d, FIRST);
        let before = a.recent;
        exchange(&mut d, &mut c, &mut a, &sent, FIRST);
        assert_eq!(a.recent, before + leap);
        a.clock += leap;
        let sent = c.sends(&mut d, FIRST);
        let before = c.recent;
        exchange(&mut d, &mut c, &mut a, &sent, FIRST);
        assert_eq!(c.recent, before + leap);
    }
}
