//! Properties over random rule sets: printing reads back, and the checker agrees with trying every request
//! of a small world.

use lcs_control::rules::{
    self, Action, Body, CheckOptions, Condition, Connection, Context, Evaluator, FindingKind, HttpRequest, Message,
    Node, Report, Rule, RuleSet, Span, Term, Test, TextRelation, Trivia, Truth, Variable, Verdict,
};
use proptest::prelude::*;

// ---- printing ------------------------------------------------------------------------------------------------

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z/._-]{0,8}",
        "\\PC{0,6}",
        Just("quote \" back \\ tick ' nl \n cr \r tab \t end/i".to_owned()),
        Just("#not a comment && ) {".to_owned()),
        Just("007".to_owned()),
    ]
}

fn pattern() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z/]{0,6}",
        Just("^/a\\.b\"c\\\\\"$".to_owned()),
        Just("[^\"']+\\d{2,3}(x|y)?".to_owned()),
        Just("\\\\".to_owned()),
    ]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-zA-Z][a-zA-Z0-9_.-]{0,6}", Just("two words".to_owned()), Just("g\"1".to_owned())]
}

fn selector(xml: bool) -> impl Strategy<Value = rules::Selector> {
    let plain = "[a-zA-Z_][a-zA-Z0-9_.-]{0,4}";
    let member =
        if xml { plain.prop_map(|s| s).boxed() } else { prop_oneof![plain, Just("a b\"c".to_owned())].boxed() };
    let step = (any::<bool>(), member, proptest::option::of(1u32..9)).prop_map(|(anywhere, name, index)| rules::Step {
        anywhere,
        attribute: false,
        name,
        index,
    });
    (proptest::collection::vec(step, 1..4), any::<bool>()).prop_map(move |(mut steps, attribute)| {
        if xml && !steps[0].anywhere {
            steps[0].index = None;
        }
        if xml && attribute {
            steps.push(rules::Step { anywhere: false, attribute: true, name: "id".into(), index: None });
        }
        rules::Selector { steps }
    })
}

fn text_variable() -> impl Strategy<Value = Variable> {
    prop_oneof![
        Just(Variable::Url),
        Just(Variable::Path),
        "[a-zA-Z0-9_-]{1,5}".prop_map(Variable::Query),
        Just(Variable::Query("odd name".into())),
        Just(Variable::Method),
        Just(Variable::Host),
        "[a-z][a-z0-9-]{0,5}".prop_map(Variable::Header),
        "[a-zA-Z][a-zA-Z0-9_]{0,5}".prop_map(Variable::Cookie),
        Just(Variable::Cookie("a!b".into())),
        Just(Variable::HttpVersion),
        selector(true).prop_map(Variable::Xml),
        selector(false).prop_map(Variable::Json),
        Just(Variable::SmtpFrom),
        Just(Variable::SmtpTo),
        Just(Variable::PopUser),
        Just(Variable::ImapUser),
        Just(Variable::FtpUser),
        Just(Variable::TlsSni),
        Just(Variable::TlsAlpn),
    ]
}

fn relation() -> impl Strategy<Value = rules::Relation> {
    use rules::Relation::*;
    prop::sample::select(vec![Equal, NotEqual, Less, LessOrEqual, Greater, GreaterOrEqual])
}

fn several<T: std::fmt::Debug>(values: impl Strategy<Value = T>) -> impl Strategy<Value = rules::Operand<T>> {
    proptest::collection::vec(values, 1..4).prop_map(rules::Operand::Several)
}

fn decimal() -> impl Strategy<Value = rules::Decimal> {
    prop_oneof![
        any::<i64>().prop_map(|n| rules::Decimal::from_integer(n.into())),
        (-9_999_999_999i128..9_999_999_999).prop_map(|n| rules::Decimal::from_steps(n * 2)),
    ]
}

fn term() -> impl Strategy<Value = Term> {
    let texts = |relation: TextRelation| {
        let values = match relation {
            TextRelation::Regex => pattern().boxed(),
            _ => text().boxed(),
        };
        let operand = match relation {
            TextRelation::Equal | TextRelation::NotEqual => values.prop_map(rules::Operand::One).boxed(),
            TextRelation::In => several(values).boxed(),
            _ => prop_oneof![values.clone().prop_map(rules::Operand::One), several(values)].boxed(),
        };
        (operand, any::<bool>()).prop_map(move |(values, ignore_case)| Test::Text { relation, values, ignore_case })
    };
    let text_test = prop_oneof![
        texts(TextRelation::Equal),
        texts(TextRelation::NotEqual),
        texts(TextRelation::In),
        texts(TextRelation::Prefix),
        texts(TextRelation::Suffix),
        texts(TextRelation::Contains),
        texts(TextRelation::Regex),
        Just(Test::Exists),
        (relation(), decimal()).prop_map(|(relation, value)| Test::Number { relation, value }),
        several(decimal()).prop_map(Test::NumberIn),
    ];
    let whole = || (0u64..1 << 40).prop_map(|n| rules::Decimal::from_integer(n.into()));
    let integer = prop_oneof![
        (relation(), whole()).prop_map(|(relation, value)| Test::Number { relation, value }),
        several(whole()).prop_map(Test::NumberIn),
    ];
    let integer_variable = prop_oneof![
        Just(Variable::IpTtl),
        Just(Variable::IpProto),
        Just(Variable::PortDst),
        (0u32..1_000, 1u32..=64, any::<u64>()).prop_map(|(offset, bits, mask)| Variable::Bitmatch {
            offset,
            bits,
            mask: (mask | 1) & (u64::MAX >> (64 - bits)),
        }),
        name().prop_map(Variable::Connections),
    ];
    let net = (any::<u32>(), 0u8..=32).prop_map(|(address, length)| {
        ipnet::IpNet::new(std::net::Ipv4Addr::from_bits(address).into(), length).unwrap().trunc()
    });
    let net6 = (any::<u128>(), 0u8..=128).prop_map(|(address, length)| {
        ipnet::IpNet::new(std::net::Ipv6Addr::from_bits(address).into(), length).unwrap().trunc()
    });
    let nets = prop_oneof![net, net6];
    let host = any::<u32>().prop_map(|a| ipnet::IpNet::from(std::net::IpAddr::from(std::net::Ipv4Addr::from_bits(a))));
    use rules::AddressRelation::{Equal, In, NotEqual};
    let address = prop_oneof![
        nets.clone().prop_map(|net| Test::Address { relation: In, values: rules::Operand::One(net) }),
        several(nets).prop_map(|values| Test::Address { relation: In, values }),
        host.clone().prop_map(|net| Test::Address { relation: Equal, values: rules::Operand::One(net) }),
        host.prop_map(|net| Test::Address { relation: NotEqual, values: rules::Operand::One(net) }),
    ];
    let any_term = prop_oneof![
        6 => (text_variable(), text_test),
        2 => (integer_variable, integer),
        2 => (prop_oneof![Just(Variable::IpSrc), Just(Variable::IpDst)], address),
        1 => name().prop_map(|group| (Variable::ServerUp(group), Test::Holds)),
    ];
    any_term.prop_map(|(variable, test)| Term { variable, test, span: Span::default() })
}

fn condition() -> impl Strategy<Value = Condition> {
    term().prop_map(Condition::Term).prop_recursive(4, 24, 4, |inner| {
        let parts = || proptest::collection::vec(inner.clone(), 2..4);
        prop_oneof![
            parts().prop_map(Condition::and),
            parts().prop_map(Condition::or),
            inner.clone().prop_map(|c| Condition::Not(Box::new(c))),
        ]
    })
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        Just(Action::Reject { status: None }),
        (400u16..600).prop_map(|status| Action::Reject { status: Some(status) }),
        (name(), proptest::option::of(name())).prop_map(|(server, queue)| Action::Forward { server, queue }),
        name().prop_map(|group| Action::RouteTo { group, stickiness: None }),
        name().prop_map(|group| Action::RouteTo { group, stickiness: Some(rules::Stickiness::NonSticky) }),
        (name(), name()).prop_map(|(group, algorithm)| Action::LoadBalance { group, algorithm }),
        "[!-~]{1,20}".prop_map(|url| Action::Redirect { status: 307, url }),
    ]
}

fn trivia() -> impl Strategy<Value = Vec<Trivia>> {
    // A blank line never stands first (it would be dropped), nor next to another.
    proptest::collection::vec("( [a-z#\"]{0,8}[a-z])?".prop_map(Trivia::Comment), 0..3)
}

fn rule_set() -> impl Strategy<Value = RuleSet> {
    let after = || proptest::option::of(" [a-z()]{1,8}");
    let rule = (condition(), action(), trivia(), after(), any::<bool>());
    (proptest::collection::vec(rule, 0..5), proptest::option::of((action(), after())), trivia()).prop_map(
        |(rules, default, end)| {
            let named = |(at, (condition, action, before, after, named)): (usize, _)| Rule {
                name: if named { Some(format!("R{at}")) } else { None },
                condition,
                action,
                before,
                after,
                span: Span::default(),
                action_span: Span::default(),
            };
            let default = default.map(|(action, after)| rules::DefaultRule {
                action,
                before: Vec::new(),
                after,
                span: Span::default(),
            });
            RuleSet { rules: rules.into_iter().enumerate().map(named).collect(), default, end, ..RuleSet::default() }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_printed_set_reads_back_the_same(set in rule_set()) {
        let printed = rules::format(&set);
        let read = rules::parse(&printed, &Context::named("printed"));
        let read = read.unwrap_or_else(|errors| panic!("{errors}\n{printed}"));
        prop_assert_eq!(read.without_places(), set.without_places(), "{}", printed);
        prop_assert_eq!(rules::format(&read), printed);
    }

    #[test]
    fn any_text_is_a_set_or_an_error_that_points_into_it(source in "(\\PC|\n|if|\\(|\\)|&&|url|==|\"|'|xml\\.|reject|@|/i|\\[|\\]|#|default:){0,40}") {
        match rules::parse(&source, &Context::named("any")) {
            Ok(set) => {
                let printed = rules::format(&set);
                prop_assert!(rules::parse(&printed, &Context::named("any")).is_ok(), "{}", printed);
            }
            Err(errors) => {
                prop_assert!(!errors.0.is_empty());
                let lines = source.lines().count().max(1) + 1;
                for error in &errors.0 {
                    prop_assert!((1..=lines).contains(&error.position.line), "{}", error);
                    prop_assert!(error.position.column <= error.line_text.chars().count() + 1, "{}", error);
                    let _ = error.to_string();
                }
            }
        }
    }

    #[test]
    fn a_damaged_rule_is_a_set_or_an_error(at in 0usize..400, insert in "\\PC{0,3}", cut in 0usize..5) {
        let source = "R1: if (xml.purchase/item[2]/subTotal > 50000 && !(cookie.name == \"servlet1\")) routeTo(ace, STICKY)\n\
            R2: if (regex(url, \"^/p[a-z]+\"/i) || ip.src in (10.0.0.0/8, 2001:db8::/32)) { reject(403); }\n\
            R3: if (bitmatch(64, 8, 0xff) == 64 && server_up(g) && json.a//\"b c\"[3] in (1, 2.5)) redirect(302, \"/x\")\n\
            default: loadBalance(web, wlc) # end\n";
        let at = at % source.len();
        let end = (at + cut).min(source.len());
        let damaged = format!("{}{insert}{}", &source[..at], &source[end..]);
        if let Ok(set) = rules::parse(&damaged, &Context::named("damaged")) {
            let printed = rules::format(&set);
            let again = rules::parse(&printed, &Context::named("damaged")).unwrap_or_else(|e| panic!("{e}\n{printed}"));
            prop_assert_eq!(again.without_places(), set.without_places());
        }
    }
}

// ---- checking ------------------------------------------------------------------------------------------------

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

fn small_set() -> impl Strategy<Value = (Vec<usize>, String)> {
    proptest::sample::subsequence((0..WORLDS.len()).collect::<Vec<_>>(), 1..3).prop_flat_map(|worlds| {
        let rules = proptest::collection::vec((small_condition(worlds.clone()), 0..3u8), 2..6);
        (Just(worlds), rules).prop_map(|(worlds, rules)| {
            let line = |(condition, group): &(String, u8)| format!("if ({condition}) routeTo(g{group})\n");
            (worlds, rules.iter().map(line).collect::<String>())
        })
    })
}

/// Every connection of the worlds.
fn enumerate(worlds: &[usize]) -> Vec<Connection> {
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

/// What the report says of a pair, whichever way round.
fn says(report: &Report, kinds: &[FindingKind], i: usize, j: usize) -> bool {
    report.findings.iter().filter(|f| kinds.contains(&f.kind)).any(|f| {
        let at = |index| f.places.iter().any(|p| p.index == index);
        at(i) && at(j)
    })
}

fn mentions(report: &Report, kind: FindingKind, i: usize) -> bool {
    report.findings.iter().any(|f| f.kind == kind && f.places[0].index == i)
}

fn agrees_with_brute_force(worlds: &[usize], source: &str) {
    let set = rules::parse(source, &Context::named("small")).unwrap_or_else(|errors| panic!("{errors}"));
    let report = rules::check(&set, &CheckOptions::default());
    let evaluator = Evaluator::new(&set);
    let count = set.rules.len();
    let mut both = vec![vec![false; count]; count];
    for connection in enumerate(worlds) {
        let truths: Vec<bool> = (0..count).map(|i| evaluator.rule(i, &connection) == Truth::True).collect();
        let first = match evaluator.verdict(&connection) {
            Verdict::Rule(index) => Some(index),
            _ => None,
        };
        assert_eq!(truths.iter().position(|t| *t), first);
        for i in 0..count {
            if !truths[i] {
                continue;
            }
            assert!(!mentions(&report, FindingKind::Unsatisfiable, i), "{source}\n{report}\n{connection:?}");
            for j in 0..i {
                both[j][i] |= truths[j];
            }
        }
        if let Some(first) = first {
            for kind in [FindingKind::Shadowed, FindingKind::Duplicate, FindingKind::AbsoluteConflict] {
                assert!(!mentions(&report, kind, first), "{source}\n{report}\n{connection:?}");
            }
        }
    }
    for i in 0..count {
        for j in 0..i {
            let differ = set.rules[i].action != set.rules[j].action;
            // A rule that repeats another conflicts as the other does.
            let repeats = [i, j].iter().any(|r| {
                mentions(&report, FindingKind::Duplicate, *r) || mentions(&report, FindingKind::AbsoluteConflict, *r)
            });
            if both[j][i] && differ && !repeats {
                let kinds = [FindingKind::PotentialConflict, FindingKind::Undecided];
                assert!(says(&report, &kinds, i, j), "missed {j} and {i}:\n{source}\n{report}");
            }
        }
    }
    // In this small world hardly anything may be left open.
    let undecided: Vec<String> =
        report.findings.iter().filter(|f| f.kind == FindingKind::Undecided).map(|f| f.message.clone()).collect();
    for why in &undecided {
        let stated = ["related variables", "one document", "combinations", "a body"];
        assert!(stated.iter().any(|s| why.contains(s)), "{why}\n{source}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_checker_agrees_with_trying_every_request((worlds, source) in small_set()) {
        agrees_with_brute_force(&worlds, &source);
    }
}
