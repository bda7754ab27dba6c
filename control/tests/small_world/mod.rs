//! A world small enough to try every request in it: terms, and all the requests that they could tell apart.

use lcs_control::rules::{Body, Connection, HttpRequest, Message, Node, Variable};
use proptest::prelude::*;

/// Terms about one small part of a request, and every value that the part takes in the small world.
struct World {
    terms: &'static [&'static str],
    values: fn() -> Vec<Part>,
}

/// Changes a connection.
type Part = Box<dyn Fn(&mut Connection)>;

fn http(connection: &mut Connection) -> &mut HttpRequest {
    if connection.message == Message::None {
        connection.message = Message::Http(Box::default());
    }
    match &mut connection.message {
        Message::Http(request) => request,
        other => panic!("{other:?}"),
    }
}

fn urls() -> Vec<Part> {
    let mut paths = vec![String::from("/")];
    for length in 0..3 {
        let longer: Vec<String> = paths.iter().filter(|p| p.len() == length + 1).cloned().collect();
        paths.extend(longer.iter().flat_map(|p| ["a", "b"].map(|c| format!("{p}{c}"))));
    }
    let queries = ["", "?q=1", "?q=2", "?q=a", "?q=3&r=a", "?r=b", "?q=%61"];
    let all = paths.iter().flat_map(|p| queries.map(|q| format!("{p}{q}")));
    all.map(|url| Box::new(move |c: &mut Connection| http(c).url = url.clone().into_bytes()) as Part).collect()
}

fn methods() -> Vec<Part> {
    ["GET", "POST", "PUT"].map(|m| Box::new(move |c: &mut Connection| http(c).method = m.into()) as Part).into()
}

fn header_values() -> Vec<Part> {
    let mut parts: Vec<Part> = vec![Box::new(|c: &mut Connection| _ = http(c))];
    for value in ["", "1", "2", "2.0", "5", "7", "a", "ab", "AB"] {
        parts.push(Box::new(move |c: &mut Connection| http(c).headers.push(("X".into(), value.into()))));
    }
    parts
}

fn hosts() -> Vec<Part> {
    let mut parts: Vec<Part> = vec![Box::new(|c: &mut Connection| _ = http(c))];
    for value in ["a", "A", "b", "a:80", "b:80", "[a]:80"] {
        parts.push(Box::new(move |c: &mut Connection| http(c).headers.push(("Host".into(), value.into()))));
    }
    parts
}

fn cookies() -> Vec<Part> {
    let mut parts: Vec<Part> = vec![Box::new(|c: &mut Connection| _ = http(c))];
    for value in ["a=1", "a=2", "b=1", "a=1; b=1", "b=2; a=1", "a=1; a=2", "c"] {
        parts.push(Box::new(move |c: &mut Connection| http(c).headers.push(("Cookie".into(), value.into()))));
    }
    parts
}

fn documents() -> Vec<Part> {
    let mut parts: Vec<Part> = vec![Box::new(|c: &mut Connection| _ = http(c))];
    let leaf = |name: &str, text: &str| Node { text: text.into(), ..Node::new(name) };
    for first in [None, Some("1"), Some("2"), Some("5"), Some("x")] {
        for second in [None, Some("1"), Some("3"), Some("y")] {
            for inner in [None, Some("2"), Some("x")] {
                let mut root = Node::new("r");
                root.children.extend(inner.map(|text| {
                    let mut wrapper = Node::new("w");
                    wrapper.children.push(leaf("n", text));
                    wrapper
                }));
                root.children.extend(first.map(|text| leaf("n", text)));
                root.children.extend(second.map(|text| leaf("n", text)));
                parts.push(Box::new(move |c: &mut Connection| {
                    let mut document = Node::new("");
                    document.children.push(root.clone());
                    let request = http(c);
                    request.headers.push(("Content-Type".into(), b"text/xml".to_vec()));
                    request.body = Body::Xml(document);
                }));
            }
        }
    }
    parts
}

fn packets() -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for source in ["10.0.0.1", "10.128.0.1", "11.0.0.1", "2001:db8::1"] {
        for ttl in [0, 1, 63, 64, 65, 128, 255] {
            parts.push(Box::new(move |c: &mut Connection| {
                let destination = if source.contains(':') { "2001:db8::2" } else { "192.0.2.2" };
                c.set_addresses(source.parse().unwrap(), destination.parse().unwrap());
                assert!(c.set_number(&Variable::IpTtl, ttl));
            }));
        }
    }
    parts
}

fn servers() -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for up in [false, true] {
        for connections in [0, 5, 6, 100] {
            parts.push(Box::new(move |c: &mut Connection| {
                c.servers_up.insert("g".into(), up);
                c.connections.insert("g".into(), connections);
            }));
        }
    }
    parts
}

const WORLDS: &[World] = &[
    World {
        terms: &[
            "url == \"/a\"",
            "url != \"/a\"",
            "path == \"/a\"",
            "path in (\"/a\", \"/ab\", \"/b\")",
            "prefix(url, \"/a\")",
            "prefix(path, (\"/ab\", \"/b\"))",
            "suffix(url, \"b\")",
            "suffix(path, \"B\"/i)",
            "contains(url, \"ab\")",
            "contains(url, \"?\")",
            "regex(url, \"^/[ab]*$\")",
            "regex(path, \"^/(a|bb)+$\")",
            "regex(url, \"q=[0-9]\")",
            "query.q == \"1\"",
            "query.q == \"a\"",
            "query.q != \"1\"",
            "query.q > 1",
            "query.q in (2, 3)",
            "exists(query.q)",
            "exists(query.r)",
            "prefix(query.r, \"a\")",
        ],
        values: urls,
    },
    World { terms: &["method == \"GET\"", "method != \"GET\"", "method in (\"GET\", \"PUT\")"], values: methods },
    World {
        terms: &[
            "header.x == \"a\"",
            "header.x == \"ab\"/i",
            "header.x == 2",
            "header.x == \"2\"",
            "header.x != 2",
            "header.x > 1",
            "header.x >= 5",
            "header.x < 5",
            "header.x in (1, 7)",
            "exists(header.x)",
            "regex(header.x, \"^[0-9]+$\")",
            "contains(header.x, \"b\")",
        ],
        values: header_values,
    },
    World {
        terms: &[
            "host == \"a\"",
            "header.host == \"a:80\"",
            "exists(host)",
            "prefix(header.host, \"A\"/i)",
            "host != \"b\"",
        ],
        values: hosts,
    },
    World {
        terms: &[
            "cookie.a == \"1\"",
            "exists(cookie.b)",
            "cookie.b == 1",
            "contains(header.cookie, \"a=2\")",
            "cookie.a != 1",
        ],
        values: cookies,
    },
    World {
        terms: &[
            "xml.r/n > 1",
            "xml.r/n >= 2",
            "xml.r/n < 5",
            "xml.r/n == 5",
            "xml.r/n[2] > 1",
            "xml.r/n[2] == \"y\"",
            "xml.//n == 2",
            "xml.r/w/n == \"x\"",
            "exists(xml.r)",
            "exists(xml.r/n[2])",
            "exists(xml.//w)",
            "xml.q/n > 1",
        ],
        values: documents,
    },
    World {
        terms: &[
            "ip.src in 10.0.0.0/8",
            "ip.src in (10.0.0.0/9, 2001:db8::/32)",
            "ip.src != 10.0.0.1",
            "ip.dst in 2001:db8::/32",
            "ip.ttl > 63",
            "ip.ttl < 64",
            "ip.ttl == 64",
            "ip.ttl in (1, 255)",
        ],
        values: packets,
    },
    World { terms: &["server_up(g)", "connections(g) > 5", "connections(g) <= 5"], values: servers },
];

/// A condition in the words of some worlds: nested pairs of world and term, with shape.
fn small_condition(worlds: Vec<usize>) -> impl Strategy<Value = String> {
    let pool: Vec<&'static str> = worlds.iter().flat_map(|w| WORLDS[*w].terms).copied().collect();
    let term = prop::sample::select(pool).prop_map(|t| t.to_owned());
    term.prop_recursive(3, 6, 3, |inner| {
        let parts = proptest::collection::vec(inner.clone(), 2..4);
        prop_oneof![
            parts.clone().prop_map(|p| format!("({})", p.join(" && "))),
            parts.prop_map(|p| format!("({})", p.join(" || "))),
            inner.prop_map(|c| format!("!({c})")),
        ]
    })
}

pub fn small_set() -> impl Strategy<Value = (Vec<usize>, String)> {
    proptest::sample::subsequence((0..WORLDS.len()).collect::<Vec<_>>(), 1..3).prop_flat_map(|worlds| {
        let rules = proptest::collection::vec((small_condition(worlds.clone()), 0..3u8), 2..6);
        (Just(worlds), rules).prop_map(|(worlds, rules)| {
            let line = |(condition, group): &(String, u8)| format!("if ({condition}) routeTo(g{group})\n");
            (worlds, rules.iter().map(line).collect::<String>())
        })
    })
}

/// Every connection of the worlds.
pub fn enumerate(worlds: &[usize]) -> Vec<Connection> {
    let mut all = vec![Connection::default()];
    for world in worlds {
        let parts = (WORLDS[*world].values)();
        let combine = |connection: &Connection| {
            let with = |part: &Part| {
                let mut connection = connection.clone();
                part(&mut connection);
                connection
            };
            parts.iter().map(with).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(combine).collect();
    }
    all
}
