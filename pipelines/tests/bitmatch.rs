//! Rules about bits of the packet: as far as the language reaches, the answer is the same whichever way a request comes.

mod director;

use director::{CLIENT, Director, ISN, SYN_OPTIONS, Sent, server_asked};
use lcs_dataplane::headers::tcp::flags::{ACK, PSH, SYN};
use lcs_pipelines::content::Binding;
use lcs_pipelines::extract::PACKET_BYTES;
use lcs_pipelines::matching::{Action, Expr, Relation, Rule, Stickiness, Term, Value, Variable};

/// The last byte that a rule may look at.
const LAST: u32 = PACKET_BYTES as u32 - 1;

/// A director that refuses requests whose packets have an `A` in that place, or, `inverted`, all others.
fn director(inverted: bool) -> Director {
    let variable = Variable::Bits { offset: 8 * LAST, bits: 8, mask: 0xff };
    let value = Value::Number(u64::from(b'A').into());
    let condition = Expr::Term(Term { variable, relation: Relation::Eq, value, ignore_case: false });
    let to = Action::RouteTo { group: 0, stickiness: Stickiness::Service };
    let refuse = Action::Reject { status: Some(403) };
    let rule =
        |name: &str, condition: Expr, action: &Action| Rule { name: name.into(), condition, action: action.clone() };
    let rules = if inverted {
        vec![rule("a", condition, &to), rule("others", Expr::always(), &refuse)]
    } else {
        vec![rule("a", condition, &refuse)]
    };
    Director::with(Binding::default(), &rules)
}

/// A request of so many of these bytes before its end.
fn request(byte: u8, length: usize) -> Vec<u8> {
    let mut r = b"GET /".to_vec();
    r.resize(r.len() + length, byte);
    r.extend(b" HTTP/1.1\r\nHost: a\r\n\r\n");
    r
}

/// One connection, and how far it has come.
struct Talk {
    d: Director,
    seq: u32,
    ack: u32,
    server: String,
    server_seq: u32,
}

impl Talk {
    fn new(inverted: bool) -> Talk {
        let mut d = director(inverted);
        let ack = d.handshake();
        Talk { d, seq: ISN.wrapping_add(1), ack, server: String::new(), server_seq: 5001 }
    }

    fn client(&mut self, payload: &[u8]) -> Vec<Sent> {
        let sent = self.d.client(ACK | PSH, self.seq, self.ack, payload);
        self.seq = self.seq.wrapping_add(payload.len() as u32);
        sent
    }

    /// The server that was asked takes the request.
    fn accepted(&mut self, sent: &[Sent]) -> Vec<Sent> {
        self.server = server_asked(sent);
        self.d.says(&self.server, CLIENT, SYN | ACK, 5000, ISN.wrapping_add(1), SYN_OPTIONS, b"")
    }

    /// It answers, and the client has the answer.
    fn answered(&mut self) {
        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let sent = self.d.says(&self.server, CLIENT, ACK | PSH, self.server_seq, self.seq, &[], response);
        assert!(sent.iter().any(|s| s.payload == response), "{sent:?}");
        self.server_seq += response.len() as u32;
        self.ack = self.ack.wrapping_add(response.len() as u32);
        self.d.client(ACK, self.seq, self.ack, b"");
    }

    /// Begins with a request that goes to a server, whichever way round the rules are.
    fn served(inverted: bool) -> Talk {
        let mut t = Talk::new(inverted);
        let sent = t.client(&request(if inverted { b'A' } else { b'B' }, 400));
        t.accepted(&sent);
        t.answered();
        t
    }
}

/// Whether these segments refuse a request; if not, it was taken for a server.
fn is_refused(sent: &[Sent]) -> bool {
    let refused = sent.iter().any(|s| s.payload.starts_with(b"HTTP/1.1 403 "));
    let taken = sent.iter().any(|s| s.flags == SYN || s.to.to_string() != CLIENT && !s.payload.is_empty());
    assert!(refused != taken, "{sent:?}");
    refused
}

#[test]
fn the_answer_is_the_same_on_every_way() {
    // A byte on, and off; and of a packet that ends before it, which has no such bits.
    for (byte, length, has) in [(b'A', 400, true), (b'B', 400, false), (b'A', 150, false)] {
        for inverted in [false, true] {
            let expected = has != inverted;
            let what = format!("{} {length} {inverted}", char::from(byte));
            let r = request(byte, length);
            // Whole, as the first of its connection.
            let mut t = Talk::new(inverted);
            assert_eq!(is_refused(&t.client(&r)), expected, "first: {what}");
            // In two segments, of which the last is as long as the whole: that one counts.
            let rest = [&b"/////"[..], &r[5..]].concat();
            let pieces = |t: &mut Talk| [t.client(b"GET /"), t.client(&rest)].concat();
            assert_eq!(is_refused(&pieces(&mut Talk::new(inverted))), expected, "in two: {what}");
            // Whole, as a later one.
            let mut t = Talk::served(inverted);
            assert_eq!(is_refused(&t.client(&r)), expected, "later: {what}");
            // A later one in two segments.
            assert_eq!(is_refused(&pieces(&mut Talk::served(inverted))), expected, "later in two: {what}");
        }
    }
}
