//! Protocols in which the server speaks first, from the greeting to the last byte: the director talks with the client until a rule
//! decides, brings the server to the same place, and both go on with each other.

mod director;

use director::{CLIENT, Director, ISN, SYN_OPTIONS, Sent, server_asked};
use lcs_dataplane::headers::tcp::flags::{ACK, PSH, SYN};
use lcs_pipelines::content::Binding;
use lcs_pipelines::extract::Protocol;
use lcs_pipelines::matching::{Action, Expr, Relation, Rule, Term, Value, Variable};

/// One dialogue. Texts of the director are what its answers begin with.
struct Script {
    protocol: Protocol,
    user: Variable,
    greeting: &'static str,
    /// What the client says, and is answered by the director.
    before: &'static [(&'static str, &'static str)],
    /// What decides.
    login: &'static str,
    /// What the server says that the client has heard already, and what it is told for it.
    replay: &'static [(&'static str, &'static str)],
    /// What follows: the server, the client, the server.
    after: [&'static str; 3],
}

const SCRIPTS: [Script; 3] = [
    Script {
        protocol: Protocol::Pop3,
        user: Variable::PopUser,
        greeting: "+OK",
        before: &[("CAPA\r\n", "+OK\r\nUSER\r\n.\r\n"), ("STAT\r\n", "-ERR")],
        login: "USER bob\r\n",
        replay: &[("+OK hi\r\n", "USER bob\r\n")],
        after: ["+OK bob\r\n", "PASS secret\r\n", "+OK 2 messages\r\n"],
    },
    Script {
        protocol: Protocol::Imap,
        user: Variable::ImapUser,
        greeting: "* OK",
        before: &[("a CAPABILITY\r\n", "* CAPABILITY"), ("b LOGIN {3}\r\n", "+")],
        login: "bob secret\r\n",
        replay: &[("* OK hi\r\n", "b LOGIN {3}\r\n"), ("+ go on\r\n", "bob secret\r\n")],
        after: ["b OK in\r\n", "c SELECT INBOX\r\n", "* 2 EXISTS\r\n"],
    },
    Script {
        protocol: Protocol::Ftp,
        user: Variable::FtpUser,
        greeting: "220 ",
        before: &[("FEAT\r\n", "211 "), ("PWD\r\n", "530 ")],
        login: "USER bob\r\n",
        // RFC 959 section 4.2: lines of a reply between the first and the last may begin with anything.
        replay: &[("220-first\r\n 220 not yet\r\n220 hi\r\n", "USER bob\r\n")],
        after: ["331 password\r\n", "PASS secret\r\n", "230 in\r\n"],
    },
];

/// One end of a connection: its address, its next number, and what it expects and has got.
struct End {
    at: String,
    seq: u32,
    ack: u32,
    got: Vec<u8>,
}

impl End {
    /// Takes what of these segments is for it and next in order, as often as it comes.
    fn hears(&mut self, sent: &[Sent]) {
        for s in sent.iter().filter(|s| s.to.to_string() == self.at) {
            let known = self.ack.wrapping_sub(s.seq) as usize;
            if let Some(new) = s.payload.get(known..) {
                self.got.extend(new);
                self.ack = self.ack.wrapping_add(new.len() as u32);
            }
        }
    }

    fn says(&mut self, d: &mut Director, to: &str, bytes: &[u8]) -> Vec<Sent> {
        let sent = d.says(&self.at, to, ACK | PSH, self.seq, self.ack, &[], bytes);
        self.seq = self.seq.wrapping_add(bytes.len() as u32);
        sent
    }

    fn takes(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.got)).expect("text")
    }
}

fn play(script: &Script, piece: usize) {
    let value = Value::Text(b"bob".to_vec().into());
    let term = Term { variable: script.user.clone(), relation: Relation::Eq, value, ignore_case: false };
    let action = Action::Forward { server: 1, queue: None };
    let rule = Rule { name: "bob".into(), condition: Expr::Term(term), action };
    let mut d = Director::speaking(script.protocol, Binding::default(), &[rule]);
    let answer = d.client(SYN, ISN, 0, b"");
    let mut client =
        End { at: CLIENT.into(), seq: ISN.wrapping_add(1), ack: answer[0].seq.wrapping_add(1), got: vec![] };
    let sent = client.says(&mut d, director::SERVICE, b"");
    client.hears(&sent);
    let heard = client.takes();
    assert!(heard.starts_with(script.greeting) && heard.ends_with("\r\n"), "{heard:?}");
    for (line, answer) in script.before {
        for bytes in line.as_bytes().chunks(piece) {
            let sent = client.says(&mut d, director::SERVICE, bytes);
            assert!(
                sent.iter().all(|s| s.to.to_string() == CLIENT),
                "no server is asked before a rule decides: {sent:?}"
            );
            client.hears(&sent);
        }
        let heard = client.takes();
        assert!(heard.starts_with(answer) && heard.ends_with("\r\n"), "{line:?}: {heard:?}");
    }
    let mut asked = vec![];
    for bytes in script.login.as_bytes().chunks(piece) {
        let sent = client.says(&mut d, director::SERVICE, bytes);
        client.hears(&sent);
        asked.extend(sent);
    }
    let syn = asked.iter().find(|s| s.flags == SYN).expect("a server is asked").clone();
    let mut server = End { at: server_asked(&asked), seq: 5001, ack: syn.seq.wrapping_add(1), got: vec![] };
    assert_eq!(server.at, "10.0.0.2:8080", "the one that the rule names");
    let mut sent = d.says(&server.at, CLIENT, SYN | ACK, 5000, server.ack, SYN_OPTIONS, b"");
    for (line, told) in script.replay {
        // It is told nothing before it has spoken.
        server.hears(&sent);
        assert_eq!(server.takes(), "");
        sent = vec![];
        for bytes in line.as_bytes().chunks(piece) {
            sent.extend(server.says(&mut d, CLIENT, bytes));
        }
        server.hears(&sent);
        client.hears(&sent);
        assert_eq!(server.takes(), *told, "after {line:?}");
        sent = server.says(&mut d, CLIENT, b"");
        client.hears(&sent);
    }
    assert_eq!(client.takes(), "", "the client has been greeted once already");
    for (n, line) in script.after.iter().enumerate() {
        let (from, to) = if n % 2 == 0 { (&mut server, &mut client) } else { (&mut client, &mut server) };
        let toward = if n % 2 == 0 { CLIENT } else { director::SERVICE };
        for bytes in line.as_bytes().chunks(piece) {
            let sent = from.says(&mut d, toward, bytes);
            to.hears(&sent);
        }
        assert_eq!(to.takes(), *line);
    }
}

#[test]
fn a_client_is_brought_to_the_server_that_its_login_name_decides() {
    for script in &SCRIPTS {
        for piece in [1000, 1, 3] {
            play(script, piece);
        }
    }
}
