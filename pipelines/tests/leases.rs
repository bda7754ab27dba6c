//! Long responses and tunnels, segment by segment: most of their segments pass by what their flow knows by itself (that they do, a test of
//! the forward stage says), and none may that would not pass otherwise.

mod director;

use director::{CLIENT, Director, ISN, SYN_OPTIONS, Sent, server_asked, url};
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use lcs_pipelines::content::Binding;
use lcs_pipelines::matching::{Action, Rule};

const REQUEST: &[u8] = b"GET /a HTTP/1.1\r\nHost: www.example.com\r\n\r\n";
const OTHER: &[u8] = b"GET /b HTTP/1.1\r\nHost: www.example.com\r\n\r\n";
/// The server's initial number plus one.
const SERVERS: u32 = 0xffff_f001;

/// A connection whose first request has been delivered.
struct Connection {
    d: Director,
    server: String,
    /// The client's next number.
    client: u32,
    /// What the client acknowledges of what it was sent: the next number from the director.
    ack: u32,
    /// The server's next number.
    next: u32,
}

impl Connection {
    fn new(options: &[u8]) -> Self {
        let to = |server| Action::Forward { server, queue: None };
        let rule = |prefix: &str, server| Rule { name: prefix.into(), condition: url(prefix), action: to(server) };
        let mut d = Director::with(Binding::default(), &[rule("/a", 0), rule("/b", 1)]);
        let ack = d.handshake();
        let first = ISN.wrapping_add(1);
        let sent = d.client(ACK | PSH, first, ack, REQUEST);
        let server = server_asked(&sent);
        d.says(&server, CLIENT, SYN | ACK, SERVERS.wrapping_sub(1), first, options, b"");
        Connection { d, server, client: first.wrapping_add(REQUEST.len() as u32), ack, next: SERVERS }
    }

    /// One whose response of 20,000 bytes has half come, and is acknowledged.
    fn halfway() -> Self {
        let mut c = Connection::new(SYN_OPTIONS);
        c.says(&head(20_000));
        for _ in 0..10 {
            c.says(&[0x61; 1000]);
        }
        c.acknowledges();
        c
    }

    /// The server says more, which passes as it is but for its numbers.
    fn says(&mut self, payload: &[u8]) -> Sent {
        let sent = self.d.says(&self.server, CLIENT, ACK, self.next, self.client, &[], payload);
        let passed = one(sent, "of the server's");
        assert_eq!((passed.seq, passed.ack, passed.payload.as_slice()), (self.ack, self.client, payload));
        self.next = self.next.wrapping_add(payload.len() as u32);
        self.ack = self.ack.wrapping_add(payload.len() as u32);
        passed
    }

    /// The client acknowledges what it has; its server must hear that.
    fn acknowledges(&mut self) -> Sent {
        let passed = one(self.d.client(ACK, self.client, self.ack, b""), "of the client's");
        assert_eq!((passed.seq, passed.ack, passed.to.to_string()), (self.client, self.next, self.server.clone()));
        passed
    }
}

fn one(sent: Vec<Sent>, whose: &str) -> Sent {
    assert_eq!(sent.len(), 1, "a segment {whose} passes: {}", sent.len());
    sent.into_iter().next().unwrap()
}

fn head(length: usize) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes()
}

#[test]
fn a_long_response_passes_and_the_next_request_is_decided_by_itself() {
    // A server whose windows are scaled by more than the client was told: they are made smaller.
    for (options, window) in [(SYN_OPTIONS, 60_000u16), (&[2, 4, 5, 0xb4, 1, 3, 3, 9, 1, 1, 4, 2], u16::MAX)] {
        let mut c = Connection::new(options);
        c.says(&head(20_000));
        for _ in 0..20 {
            assert_eq!(c.says(&[0x61; 1000]).window, window);
            c.acknowledges();
        }
        // The response is over; what comes now is another one's.
        let sent = c.d.client(ACK | PSH, c.client, c.ack, OTHER);
        assert!(sent.iter().all(|s| s.to.to_string() != c.server || s.payload.is_empty()), "{sent:?}");
        let second = server_asked(&sent);
        assert_ne!(second, c.server);
        c.server = second;
        let first = sent.iter().find(|s| s.flags == SYN).unwrap().seq.wrapping_add(1);
        // The other server's numbers are some that the first one's response had, and are moved by something else.
        let others = SERVERS.wrapping_add(5_000);
        c.d.says(&c.server, CLIENT, SYN | ACK, others.wrapping_sub(1), first, SYN_OPTIONS, b"");
        (c.next, c.client) = (others, c.client.wrapping_add(OTHER.len() as u32));
        c.says(&head(9_000));
        for _ in 0..9 {
            c.says(&[0x62; 1000]);
            c.acknowledges();
        }
    }
}

#[test]
fn a_server_that_says_more_than_it_has_announced_is_stopped() {
    let mut c = Connection::new(SYN_OPTIONS);
    c.says(&head(10_000));
    for _ in 0..9 {
        c.says(&[0x61; 1000]);
    }
    // Ten bytes more than there are left.
    let sent = c.d.says(&c.server, CLIENT, ACK, c.next, c.client, &[], &[0x61; 1010]);
    assert!(sent.iter().all(|s| s.payload.len() <= 1000), "{sent:?}");
    assert!(sent.iter().any(|s| s.flags & RST != 0), "{sent:?}");
}

#[test]
fn what_a_client_asks_for_in_the_middle_of_a_response_waits() {
    let mut c = Connection::halfway();
    let sent = c.d.client(ACK | PSH, c.client, c.ack, OTHER);
    assert!(sent.iter().all(|s| s.payload.is_empty() && s.flags & SYN == 0), "{sent:?}");
    // The rest of the response passes meanwhile.
    let told = c.client.wrapping_add(OTHER.len() as u32);
    let mut asked = false;
    for n in 0..10 {
        let sent = c.d.says(&c.server, CLIENT, ACK, c.next, c.client, &[], &[0x61; 1000]);
        let data: Vec<_> = sent.iter().filter(|s| !s.payload.is_empty()).collect();
        assert_eq!(data.iter().map(|s| s.seq).collect::<Vec<_>>(), [c.ack], "{n}");
        assert!([c.client, told].contains(&data[0].ack), "{n}");
        (c.next, c.ack) = (c.next.wrapping_add(1000), c.ack.wrapping_add(1000));
        let sent = c.d.client(ACK, told, c.ack, b"");
        asked |= sent.iter().any(|s| s.flags == SYN && s.to.to_string() != c.server);
    }
    assert!(asked, "its turn has come");
}

#[test]
fn an_acknowledgement_from_before_a_waiting_request_is_seen() {
    let mut c = Connection::halfway();
    c.d.client(ACK | PSH, c.client, c.ack, OTHER);
    for _ in 0..10 {
        c.d.says(&c.server, CLIENT, ACK, c.next, c.client, &[], &[0x61; 1000]);
        (c.next, c.ack) = (c.next.wrapping_add(1000), c.ack.wrapping_add(1000));
    }
    // With the number that it had before it asked, as a late copy has: the response has come, so the request goes on.
    let sent = c.d.client(ACK, c.client, c.ack, b"");
    assert_ne!(server_asked(&sent), c.server);
}

#[test]
fn a_new_connection_in_the_place_of_one_that_was_reset_is_read_again() {
    let mut c = Connection::new(SYN_OPTIONS);
    c.says(&head(50_000));
    for _ in 0..10 {
        c.says(&[0x61; 1000]);
    }
    let sent = c.d.client(RST | ACK, c.client, c.ack, b"");
    assert!(sent.iter().any(|s| s.flags & RST != 0 && s.to.to_string() == c.server), "{sent:?}");
    // Numbers that the old connection would have let pass.
    let isn = c.client.wrapping_add(100);
    let answer = one(c.d.client(SYN, isn, 0, b""), "is answered");
    assert_eq!((answer.flags, answer.ack), (SYN | ACK, isn.wrapping_add(1)));
    let ack = answer.seq.wrapping_add(1);
    c.d.client(ACK, isn.wrapping_add(1), ack, b"");
    let sent = c.d.client(ACK | PSH, isn.wrapping_add(1), ack, OTHER);
    assert_ne!(server_asked(&sent), c.server);
    assert!(sent.iter().all(|s| s.payload.is_empty()), "{sent:?}");
}

#[test]
fn a_tunnel_passes_however_far_it_goes() {
    let mut c = Connection::new(SYN_OPTIONS);
    c.says(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n");
    // As if gigabytes had passed between, twice round the numbers, each side in its turn and both at once.
    let far = 400_000_000;
    for n in 0..44u32 {
        if n % 3 != 0 {
            (c.next, c.ack) = (c.next.wrapping_add(far), c.ack.wrapping_add(far));
        }
        if n % 3 != 1 {
            c.client = c.client.wrapping_add(far);
        }
        c.says(b"anything");
        let passed = one(c.d.client(ACK | PSH, c.client, c.ack, b"else"), "of the client's");
        assert_eq!((passed.seq, passed.ack, passed.payload.as_slice()), (c.client, c.next, &b"else"[..]));
        c.client = c.client.wrapping_add(4);
    }
    let passed = one(c.d.says(&c.server, CLIENT, FIN | ACK, c.next, c.client, &[], b""), "that ends it");
    assert_eq!((passed.flags, passed.seq), (FIN | ACK, c.ack));
}
