//! Pooled binding, segment by segment: servers' connections that serve one client after another.

mod director;

use director::{CLIENT, Director, ISN, SERVICE, SYN_OPTIONS, Sent};
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use lcs_pipelines::content::{Binding, Pool, Scheme};
use lcs_pipelines::matching::{Action, Expr, Rule};
use lcs_pipelines::snapshot::Forward;
use std::time::Duration;

const SERVER: &str = "10.0.0.1:8080";
const OTHER_CLIENT: &str = "192.0.2.2:2000";
const OTHER_ISN: u32 = 77;
const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
const POST: &[u8] = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst";
const SECOND: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond";

/// All requests are for one server. As many connections as said are opened ahead of them.
fn pooling(pool: Pool) -> Director {
    let to = Action::Forward { server: 0, queue: None };
    let all = Rule { name: "one".into(), condition: Expr::always(), action: to };
    let scheme = Scheme::Pooled(pool);
    Director::behind(Forward::FullNat, Binding { scheme, ..Binding::default() }, &[all])
}

fn nothing_ahead() -> Pool {
    Pool { idle: 0, ..Pool::default() }
}

/// What of these segments goes to this endpoint.
fn to(sent: &[Sent], end: &str) -> Vec<Sent> {
    sent.iter().filter(|s| s.to.to_string() == end).cloned().collect()
}

/// A client of its own, and where it stands.
struct Client {
    at: &'static str,
    seq: u32,
    ack: u32,
}

impl Client {
    /// After the handshake.
    fn new(d: &mut Director, at: &'static str, isn: u32) -> Client {
        let answer = d.says(at, SERVICE, SYN, isn, 0, SYN_OPTIONS, b"");
        assert_eq!((answer.len(), answer[0].flags), (1, SYN | ACK));
        let client = Client { at, seq: isn.wrapping_add(1), ack: answer[0].seq.wrapping_add(1) };
        assert!(client.says(d, ACK, b"").is_empty());
        client
    }

    fn says(&self, d: &mut Director, flags: u8, payload: &[u8]) -> Vec<Sent> {
        d.says(self.at, SERVICE, flags, self.seq, self.ack, &[], payload)
    }

    fn asks(&mut self, d: &mut Director, request: &[u8]) -> Vec<Sent> {
        let sent = self.says(d, ACK | PSH, request);
        self.seq = self.seq.wrapping_add(request.len() as u32);
        sent
    }

    /// Gets this response in one segment, and acknowledges it.
    fn gets(&mut self, d: &mut Director, sent: &[Sent], response: &[u8]) -> Vec<Sent> {
        let got = to(sent, self.at);
        assert_eq!(got.len(), 1, "{sent:?}");
        assert_eq!((got[0].seq, got[0].ack, &got[0].payload[..]), (self.ack, self.seq, response));
        self.ack = self.ack.wrapping_add(response.len() as u32);
        self.says(d, ACK, b"")
    }
}

/// A server's end of one connection.
struct Server {
    local: String,
    seq: u32,
    ack: u32,
}

impl Server {
    /// Answers the SYN that is among these.
    fn accepts(d: &mut Director, sent: &[Sent], isn: u32) -> (Server, Vec<Sent>) {
        let syn = sent.iter().find(|s| s.flags == SYN).expect("a connection is opened").clone();
        assert_eq!(syn.to.to_string(), SERVER);
        let server = Server { local: syn.from.to_string(), seq: isn.wrapping_add(1), ack: syn.seq.wrapping_add(1) };
        let sent = d.says(SERVER, &server.local, SYN | ACK, isn, server.ack, SYN_OPTIONS, b"");
        (server, sent)
    }

    /// The request that comes on this connection.
    fn hears(&mut self, sent: &[Sent]) -> Vec<u8> {
        let got: Vec<Sent> = to(sent, SERVER).into_iter().filter(|s| s.from.to_string() == self.local).collect();
        let data: Vec<&Sent> = got.iter().filter(|s| !s.payload.is_empty()).collect();
        assert!(data.iter().all(|s| s.seq == self.ack && s.ack == self.seq), "{data:?}");
        let bytes: Vec<u8> = data.iter().flat_map(|s| s.payload.clone()).collect();
        self.ack = self.ack.wrapping_add(bytes.len() as u32);
        bytes
    }

    fn says(&mut self, d: &mut Director, flags: u8, payload: &[u8]) -> Vec<Sent> {
        let sent = d.says(SERVER, &self.local, flags, self.seq, self.ack, &[], payload);
        self.seq = self.seq.wrapping_add(payload.len() as u32 + u32::from(flags & FIN != 0));
        sent
    }
}

/// One request and its response, over a connection that is opened for it; it waits for the next one then.
fn served(d: &mut Director) -> (Client, Server) {
    let mut client = Client::new(d, CLIENT, ISN);
    let syn = client.asks(d, GET);
    let (mut server, sent) = Server::accepts(d, &syn, 5_000);
    assert_eq!(server.hears(&sent), GET);
    let back = server.says(d, ACK | PSH, RESPONSE);
    let told = client.gets(d, &back, RESPONSE);
    assert_eq!((told.len(), told[0].to.to_string(), told[0].ack), (1, SERVER.to_owned(), server.seq));
    (client, server)
}

#[test]
fn one_connection_serves_one_client_after_another() {
    let mut d = pooling(nothing_ahead());
    let (mut first, mut server) = served(&mut d);
    let mut second = Client::new(&mut d, OTHER_CLIENT, OTHER_ISN);
    let sent = second.asks(&mut d, GET);
    assert!(sent.iter().all(|s| s.flags & SYN == 0), "no handshake: {sent:?}");
    assert_eq!(server.hears(&sent), GET);
    // The first client's response, sent again: it is acknowledged, and nobody gets it.
    let late = d.says(SERVER, &server.local, ACK | PSH, 5_001, server.ack, &[], RESPONSE);
    assert!(late.iter().all(|s| s.to.to_string() == SERVER && s.payload.is_empty()), "{late:?}");
    // Nor does the server get the second's when it asks again for what it was told.
    let again = d.says(first.at, SERVICE, ACK | PSH, ISN.wrapping_add(1), first.ack, &[], GET);
    assert!(again.iter().all(|s| s.to.to_string() == CLIENT && s.payload.is_empty()), "{again:?}");
    let back = server.says(&mut d, ACK | PSH, SECOND);
    assert!(to(&back, CLIENT).is_empty());
    second.gets(&mut d, &back, SECOND);
    // And the first again.
    let sent = first.asks(&mut d, GET);
    assert_eq!(server.hears(&sent), GET);
    let back = server.says(&mut d, ACK | PSH, SECOND);
    first.gets(&mut d, &back, SECOND);
}

#[test]
fn a_connection_that_the_server_has_closed_costs_no_client_anything() {
    for flags in [RST, FIN | ACK] {
        let mut d = pooling(nothing_ahead());
        let (_, mut old) = served(&mut d);
        let mut second = Client::new(&mut d, OTHER_CLIENT, OTHER_ISN);
        let sent = second.asks(&mut d, GET);
        old.hears(&sent);
        // It has closed just then.
        let sent = old.says(&mut d, flags, b"");
        assert!(to(&sent, OTHER_CLIENT).is_empty(), "{sent:?}");
        let (mut new, sent) = Server::accepts(&mut d, &sent, 9_000);
        assert_ne!(new.local, old.local);
        assert_eq!(new.hears(&sent), GET);
        let back = new.says(&mut d, ACK | PSH, SECOND);
        second.gets(&mut d, &back, SECOND);
    }
    // Once a response has begun, its end is the client's.
    let mut d = pooling(nothing_ahead());
    let (_, mut server) = served(&mut d);
    let mut second = Client::new(&mut d, OTHER_CLIENT, OTHER_ISN);
    let sent = second.asks(&mut d, GET);
    server.hears(&sent);
    server.says(&mut d, ACK | PSH, &SECOND[..9]);
    let sent = server.says(&mut d, RST, b"");
    assert_eq!(to(&sent, OTHER_CLIENT).iter().map(|s| s.flags & RST).collect::<Vec<_>>(), [RST]);
}

#[test]
fn a_client_may_be_silent_between_two_requests() {
    let mut d = pooling(nothing_ahead());
    let (mut client, mut server) = served(&mut d);
    // Is it there? An old byte, a request that was sent twice, a reset that somebody else has sent.
    let end = client.seq;
    for (flags, seq, payload) in [
        (ACK, end.wrapping_sub(1), &b""[..]),
        (ACK, end.wrapping_sub(1), b"\n"),
        (ACK | PSH, end.wrapping_sub(GET.len() as u32), GET),
        (RST, end.wrapping_add(9), b""),
    ] {
        let told = d.says(CLIENT, SERVICE, flags, seq, client.ack, &[], payload);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!((told[0].to.to_string(), told[0].flags, told[0].ack), (CLIENT.into(), ACK, end));
    }
    // For longer than a first byte may take, and less than a connection may stand idle.
    for _ in 0..80 {
        for s in d.passes(500) {
            assert_eq!((s.to.to_string(), s.flags), (SERVER.into(), ACK), "only the server is asked: {s:?}");
            server.says(&mut d, ACK, b"");
        }
    }
    let sent = client.asks(&mut d, GET);
    assert_eq!(server.hears(&sent), GET);
    // What comes before the request has come answers nothing: it was for nobody.
    let asked = server.ack;
    server.ack = asked.wrapping_sub(GET.len() as u32);
    let sent = server.says(&mut d, ACK | PSH, SECOND);
    assert!(to(&sent, CLIENT).is_empty(), "{sent:?}");
    let (mut new, sent) = Server::accepts(&mut d, &sent, 9_000);
    assert_eq!(new.hears(&sent), GET);
}

#[test]
fn what_may_not_be_sent_twice_goes_out_on_a_new_connection() {
    let mut d = pooling(nothing_ahead());
    let (_, old) = served(&mut d);
    let mut second = Client::new(&mut d, OTHER_CLIENT, OTHER_ISN);
    let sent = second.asks(&mut d, POST);
    let (mut server, sent) = Server::accepts(&mut d, &sent, 9_000);
    assert_ne!(server.local, old.local);
    assert_eq!(server.hears(&sent), POST);
    let back = server.says(&mut d, ACK | PSH, SECOND);
    second.gets(&mut d, &back, SECOND);
    // It serves others then.
    let sent = second.asks(&mut d, GET);
    assert_eq!(server.hears(&sent), GET);
}

#[test]
fn a_response_that_ends_the_connection_ends_it_for_its_client() {
    let mut d = pooling(nothing_ahead());
    let mut client = Client::new(&mut d, CLIENT, ISN);
    let syn = client.asks(&mut d, GET);
    let (mut server, sent) = Server::accepts(&mut d, &syn, 5_000);
    server.hears(&sent);
    let closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    let back = server.says(&mut d, ACK | PSH, closing);
    client.gets(&mut d, &back, closing);
    let end = server.says(&mut d, FIN | ACK, b"");
    assert_eq!(to(&end, CLIENT).iter().map(|s| s.flags & FIN).collect::<Vec<_>>(), [FIN]);
    let mut second = Client::new(&mut d, OTHER_CLIENT, OTHER_ISN);
    let sent = second.asks(&mut d, GET);
    assert!(sent.iter().any(|s| s.flags == SYN), "nobody can have it after that: {sent:?}");
}

#[test]
fn connections_are_opened_ahead_asked_and_retired() {
    let (idle_timeout, probe) = (Duration::from_secs(30), Duration::from_secs(5));
    let pool = Pool { idle: 1, idle_timeout, probe, lifetime: Duration::from_secs(60), ..Pool::default() };
    let mut d = pooling(pool);
    let sent: Vec<Sent> = (0..4).flat_map(|_| d.passes(2)).filter(|s| s.to.to_string() == SERVER).collect();
    assert_eq!(sent.len(), 1, "one to the server: {sent:?}");
    let (mut server, shaken) = Server::accepts(&mut d, &sent, 5_000);
    assert_eq!((shaken.len(), shaken[0].flags, shaken[0].ack), (1, ACK, 5_001));
    // A client finds it, and while it is lent another one is opened.
    let mut client = Client::new(&mut d, CLIENT, ISN);
    let sent = client.asks(&mut d, GET);
    assert_eq!(server.hears(&sent), GET);
    let mut sent = sent;
    sent.extend((0..4).flat_map(|_| d.passes(2)));
    let sent: Vec<Sent> = sent.into_iter().filter(|s| s.to.to_string() == SERVER).collect();
    let (spare, _) = Server::accepts(&mut d, &sent, 9_000);
    let back = server.says(&mut d, ACK | PSH, RESPONSE);
    client.gets(&mut d, &back, RESPONSE);
    // Asked for a sign of life with a number that is acknowledged already; one answers, one does not.
    let mut asked = 0;
    let mut reset = false;
    for _ in 0..50 {
        for s in d.passes(500).into_iter().filter(|s| s.to.to_string() == SERVER) {
            if s.from.to_string() == server.local && s.flags == ACK {
                assert_eq!((s.seq, s.ack), (server.ack.wrapping_sub(1), server.seq));
                server.says(&mut d, ACK, b"");
                asked += 1;
            }
            reset |= s.from.to_string() == spare.local && s.flags & RST != 0;
        }
    }
    assert!(asked >= 3 && reset, "asked {asked} times, reset: {reset}");
    // Old at last: it is closed, and the server's end is acknowledged.
    let mut closed = false;
    for _ in 0..100 {
        let local = server.local.clone();
        for s in d.passes(500).into_iter().filter(|s| s.from.to_string() == local) {
            if s.flags & FIN != 0 {
                server.ack = server.ack.wrapping_add(1);
                let last = server.says(&mut d, FIN | ACK, b"");
                closed = last.len() == 1 && last[0].flags == ACK && last[0].ack == server.seq;
            } else if !closed {
                server.says(&mut d, ACK, b"");
            }
        }
    }
    assert!(closed);
}

#[test]
fn the_next_connection_to_a_server_comes_from_elsewhere() {
    let mut d = pooling(nothing_ahead());
    let (mut client, mut server) = served(&mut d);
    server.says(&mut d, FIN | ACK, b"");
    // What is still on the way of that one must not be taken for this one's: the client's numbers just go on.
    let syn = client.asks(&mut d, GET);
    let (again, _) = Server::accepts(&mut d, &syn, 9_000);
    assert_ne!(again.local, server.local);
}
