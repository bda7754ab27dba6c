//! What is asked of every subject: requests, which server must answer each, and the rules that say so.

use std::fmt::Write as _;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::decisions::workload::purchase;

/// Names of the groups of the rules; group *n* is the server *n* + 1.
pub const GROUPS: [&str; 3] = ["one", "two", "three"];
/// Amount above which a purchase order goes to the second group.
pub const LARGE: usize = 5000;

/// What the rules are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// Four rules about the URL.
    Urls,
    /// Many rules about the path; requests are for the last ones.
    Rules,
    /// One rule about a value at the end of an XML body.
    Xml,
}

impl Workload {
    /// All of them.
    pub const ALL: [Workload; 3] = [Workload::Urls, Workload::Rules, Workload::Xml];

    /// Its name as an option.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Urls => "urls",
            Workload::Rules => "rules",
            Workload::Xml => "xml",
        }
    }
}

/// What a connection is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// One request after the other.
    KeepAlive,
    /// One request; the server closes.
    Close,
}

impl Mode {
    /// Both.
    pub const ALL: [Mode; 2] = [Mode::KeepAlive, Mode::Close];

    /// Its name as an option.
    pub fn name(self) -> &'static str {
        match self {
            Mode::KeepAlive => "keep-alive",
            Mode::Close => "close",
        }
    }
}

/// What is to be matched, as the configurations of all subjects are written from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Prefixes of the path with the group of each, in order of priority; everything else goes to the last group.
    Prefixes(Vec<(String, usize)>),
    /// Purchase orders of more than [`LARGE`] to the second group, everything else to the first.
    Amount,
}

impl Rules {
    /// The group that takes what no rule does.
    pub fn fallback(&self) -> usize {
        match self {
            Rules::Prefixes(_) => 2,
            Rules::Amount => 0,
        }
    }
}

/// One request that clients send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Where in them the body is.
    pub body: Range<usize>,
    /// The request target.
    pub target: String,
    /// The group whose server must answer.
    pub group: usize,
}

/// What is sent in a cell of the table; clients and servers hold the same one and compare every byte with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// What the connections are used for.
    pub mode: Mode,
    /// The requests. Each carries its place here in the field `X-Request`.
    pub requests: Vec<Request>,
    /// What is to be matched.
    pub rules: Rules,
    /// Body of every response.
    pub response: Vec<u8>,
    /// Whether each request of a connection is for another group than the one before.
    pub alternate: bool,
}

impl Traffic {
    /// The traffic of a workload. `rules` counts for [`Workload::Rules`], `body` (bytes) for [`Workload::Xml`].
    pub fn new(workload: Workload, mode: Mode, rules: usize, body: usize, response: usize, alternate: bool) -> Self {
        let (rules, asked) = match workload {
            Workload::Urls => {
                let prefixes = [("/lcs1/", 0), ("/lcs2/", 1), ("/images/", 2), ("/cgi-bin/", 0)];
                let rules = prefixes.map(|(prefix, group)| (prefix.to_owned(), group)).to_vec();
                let asked = rules.iter().map(|(p, group)| (format!("{p}page/7.php"), *group, None)).collect();
                (Rules::Prefixes(rules), asked)
            }
            Workload::Rules => {
                let all: Vec<_> = (0..rules).map(|n| (format!("/app{n}/"), n % GROUPS.len())).collect();
                let last = all.iter().rev().take(GROUPS.len());
                let asked = last.map(|(p, group)| (format!("{p}page/7.php"), *group, None)).collect();
                (Rules::Prefixes(all), asked)
            }
            Workload::Xml => {
                // The total is ten times the number and five.
                let order = |n: usize| Some(purchase(body, n));
                (Rules::Amount, vec![("/order".into(), 0, order(12)), ("/order".into(), 1, order(900))])
            }
        };
        let asked: Vec<(String, usize, Option<String>)> = asked;
        let requests = asked.into_iter().enumerate().map(|(at, (target, group, body))| {
            let body = body.unwrap_or_default();
            let mut head = format!(
                "{} {target} HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: lcs-perf\r\nAccept: */*\r\nX-Request: {at}\r\n",
                if body.is_empty() { "GET" } else { "POST" }
            );
            if !body.is_empty() {
                let _ = write!(head, "Content-Type: text/xml\r\nContent-Length: {}\r\n", body.len());
            }
            if mode == Mode::Close {
                head.push_str("Connection: close\r\n");
            }
            head.push_str("\r\n");
            let body_at = head.len()..head.len() + body.len();
            Request { bytes: (head + &body).into_bytes(), body: body_at, target, group }
        });
        let requests = requests.collect();
        Traffic { mode, requests, rules, response: pattern(response), alternate }
    }

    /// Requests for these targets, each with the group whose server must answer, on connections that the client ends; every response has
    /// so many bytes.
    pub fn of(targets: impl IntoIterator<Item = (String, usize)>, response: usize) -> Self {
        let request = |(at, (target, group)): (usize, (String, usize))| {
            let head = format!(
                "GET {target} HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: lcs-perf\r\nAccept: */*\r\nX-Request: {at}\r\n\r\n"
            );
            Request { body: head.len()..head.len(), bytes: head.into_bytes(), target, group }
        };
        Traffic {
            mode: Mode::KeepAlive,
            requests: targets.into_iter().enumerate().map(request).collect(),
            rules: Rules::Prefixes(vec![]),
            response: pattern(response),
            alternate: false,
        }
    }

    /// The request number `turn` of the connection number `connection`.
    pub fn request(&self, connection: usize, turn: usize) -> usize {
        let turn = if self.alternate { turn } else { 0 };
        (connection + turn) % self.requests.len()
    }

    /// Bytes of the longest request.
    pub fn longest(&self) -> usize {
        self.requests.iter().map(|r| r.bytes.len()).max().unwrap_or(0)
    }
}

/// The name of a group's server, as it names itself.
pub fn server_name(group: usize) -> String {
    format!("server{}", group + 1)
}

/// Bytes of which no stretch of fewer than 251 is repeated at the same place of another packet: a shifted one is noticed.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| b'!' + ((at % 251 + at / 251) % 90) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_say_where_their_body_is_and_who_takes_them() {
        for workload in Workload::ALL {
            for mode in Mode::ALL {
                let traffic = Traffic::new(workload, mode, 1000, 10_000, 1024, false);
                assert_eq!(traffic.response.len(), 1024);
                for (at, request) in traffic.requests.iter().enumerate() {
                    let text = String::from_utf8(request.bytes.clone()).unwrap();
                    let (head, body) = text.split_once("\r\n\r\n").unwrap();
                    assert_eq!(body, &text[request.body.clone()]);
                    assert!(head.contains(&format!("X-Request: {at}")));
                    assert_eq!(head.contains("Connection: close"), mode == Mode::Close);
                    assert_eq!(head.contains(&format!("Content-Length: {}", body.len())), workload == Workload::Xml);
                    let group = match &traffic.rules {
                        Rules::Prefixes(all) => all.iter().find(|(p, _)| request.target.starts_with(p)).unwrap().1,
                        Rules::Amount => {
                            let amount = body.split_once("<totalAmount>").unwrap().1.split_once('<').unwrap().0;
                            usize::from(amount.parse::<usize>().unwrap() > LARGE)
                        }
                    };
                    assert_eq!(group, request.group);
                }
            }
        }
    }

    #[test]
    fn the_rules_workload_asks_for_the_last_rules_and_every_group() {
        let traffic = Traffic::new(Workload::Rules, Mode::KeepAlive, 1000, 0, 0, false);
        let targets: Vec<&str> = traffic.requests.iter().map(|r| r.target.as_str()).collect();
        assert_eq!(targets, ["/app999/page/7.php", "/app998/page/7.php", "/app997/page/7.php"]);
        let mut groups: Vec<usize> = traffic.requests.iter().map(|r| r.group).collect();
        groups.sort_unstable();
        assert_eq!(groups, [0, 1, 2]);
    }

    #[test]
    fn connections_keep_to_their_request_unless_told_to_alternate() {
        let mut traffic = Traffic::new(Workload::Urls, Mode::KeepAlive, 0, 0, 0, false);
        assert_eq!([traffic.request(5, 0), traffic.request(5, 1)], [1, 1]);
        traffic.alternate = true;
        assert_eq!([traffic.request(5, 0), traffic.request(5, 1)], [1, 2]);
    }
}
