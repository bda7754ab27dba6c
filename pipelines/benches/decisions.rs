//! What a decision costs, extraction included, against the number of rules; and how fast XML is read.
//!
//! `cargo bench -p lcs-pipelines --bench decisions [-- FILTER]`, a few seconds in all. Each figure is the best of
//! several short runs: the machine's other tenants only ever add.

use std::hint::black_box;
use std::time::{Duration, Instant};

use lcs_pipelines::extract::{Connection, Extraction, Limits, Outcome, Plan, Protocol};
use lcs_pipelines::matching::ir::{Action, DocPath, Expr, Relation, Rule, RuleSet, Term, Value, Variable};
use lcs_pipelines::matching::{Field, Number, Program, compile};

struct Client;

impl Connection for Client {
    fn field(&self, variable: &Variable) -> Field<'_> {
        match variable {
            Variable::IpSrc => Field::Address([10, 1, 2, 3].into()),
            _ => Field::Absent,
        }
    }
}

fn term(variable: Variable, relation: Relation, value: Value) -> Expr {
    Expr::Term(Term { variable, relation, value, ignore_case: false })
}

fn text(value: String) -> Value {
    Value::Text(value.into_bytes().into())
}

fn xml(path: &str) -> Variable {
    Variable::Xml(DocPath::parse(path).unwrap())
}

/// The n-th rule of a mix.
fn condition(mix: &str, n: usize) -> Expr {
    let host = || term(Variable::Host, Relation::Eq, text(format!("site{}.example", n % 100)));
    match mix {
        "url" => term(Variable::Url, Relation::Prefix, text(format!("/app{n}/"))),
        "suffix" => term(Variable::Path, Relation::Suffix, text(format!("/{n}.php"))),
        "contains" => term(Variable::Url, Relation::Contains, text(format!("app{n}/"))),
        "cookie" => term(Variable::Cookie("session".into()), Relation::Eq, text(format!("user{n}"))),
        "header" => term(Variable::Header("x-tenant".into()), Relation::Eq, text(format!("tenant{n}"))),
        "xml" => term(xml("purchase/customerName"), Relation::Eq, text(format!("customer{n}"))),
        "xml-range" => Expr::And(vec![
            term(xml("purchase/totalAmount"), Relation::Gt, Value::Number(Number::from(n as i64 * 10))),
            term(xml("purchase/totalAmount"), Relation::Le, Value::Number(Number::from(n as i64 * 10 + 10))),
        ]),
        "xml-above" => term(xml("purchase/totalAmount"), Relation::Gt, Value::Number(Number::from(n as i64 * 10))),
        "regex" => term(Variable::Url, Relation::Regex, text(format!("^/app{n}/[a-z]+/[0-9]+\\.php$"))),
        "host-and-tenant" => Expr::And(vec![
            host(),
            term(Variable::Method, Relation::Eq, text("POST".into())),
            term(Variable::Header("x-tenant".into()), Relation::Eq, text(format!("tenant{n}"))),
        ]),
        "not" => Expr::And(vec![
            Expr::Not(Box::new(term(Variable::Method, Relation::Eq, text("POST".into())))),
            Expr::Not(Box::new(term(Variable::Header("x-tenant".into()), Relation::Eq, text(format!("tenant{n}"))))),
        ]),
        _ => unreachable!("no such mix"),
    }
}

fn purchase(bytes: usize, n: usize) -> String {
    let mut body = format!("<?xml version=\"1.0\"?>\n<purchase>\n  <customerName>customer{n}</customerName>\n");
    let mut item = 0;
    while body.len() + 200 < bytes {
        body.push_str(&format!(
            "  <item><productID>3091{item:05}</productID><productName>IBM Thinkpad T21</productName>\
             <unitPrice>5000</unitPrice><noOfUnits>10</noOfUnits><subTotal>50000</subTotal></item>\n"
        ));
        item += 1;
    }
    body.push_str(&format!("  <totalAmount>{}</totalAmount>\n</purchase>\n", n * 10 + 5));
    body
}

/// A request that the n-th rule of any mix takes.
fn request(n: usize, body: Option<usize>) -> Vec<u8> {
    let body = body.map_or(String::new(), |bytes| purchase(bytes, n));
    let site = n % 100;
    format!(
        "POST /app{n}/page/{n}.php HTTP/1.1\r\nHost: site{site}.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n\
         Accept: text/html,application/xhtml+xml\r\nAccept-Language: en\r\nCookie: theme=dark; session=user{n}\r\n\
         X-Tenant: tenant{n}\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

struct Worker {
    program: Program,
    plan: Plan,
}

impl Worker {
    fn new(conditions: impl IntoIterator<Item = Expr>) -> Self {
        let rule = |condition| Rule { name: "R".into(), condition, action: Action::Reject { status: None } };
        let rules = conditions.into_iter().chain([Expr::always()]).map(rule).collect();
        let program = compile(&RuleSet { rules }).unwrap();
        let plan = Plan::new(&program, Limits { body: 1 << 20, ..Limits::default() });
        Self { program, plan }
    }

    /// ns for each of these requests, in turn.
    fn time(&self, requests: &[Vec<u8>], check: impl Fn(usize, Outcome)) -> f64 {
        let mut scratch = self.program.scratch();
        let mut extraction = Extraction::new(Protocol::Http);
        let mut run = |request: &[u8]| {
            extraction.reset(Protocol::Http);
            extraction.advance(&self.program, &self.plan, &mut scratch, &Client, request, false).unwrap()
        };
        for (place, request) in requests.iter().enumerate() {
            check(place, run(request));
        }
        best(|| {
            for request in requests {
                black_box(run(black_box(request)));
            }
        }) / requests.len() as f64
    }
}

/// ns of the quickest of many short slices: short enough that some are not interrupted.
fn best(mut run: impl FnMut()) -> f64 {
    let mut least = f64::MAX;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(60) {
        let slice = Instant::now();
        run();
        least = least.min(slice.elapsed().as_nanos() as f64);
    }
    least
}

fn decisions(filter: &str) {
    println!("{:<16} {:>9} {:>9} {:>9} {:>9}  10,000 against 10", "ns a decision", 10, 100, 1000, 10_000);
    let mixes = [
        "url",
        "suffix",
        "contains",
        "cookie",
        "header",
        "xml",
        "xml-range",
        "xml-above",
        "regex",
        "host-and-tenant",
        "not",
    ];
    for mix in mixes.into_iter().filter(|mix| mix.contains(filter)) {
        let takes = |place: usize, count: usize| place * 7919 % count;
        let body = mix.starts_with("xml").then_some(1000);
        let workers = [10, 100, 1000, 10_000].map(|count| {
            let worker = Worker::new((0..count).map(|n| condition(mix, n)));
            let requests: Vec<_> = (0..64).map(|place| request(takes(place, count), body)).collect();
            (count, worker, requests)
        });
        let mut figures = [f64::MAX; 4];
        // In turns, so that a slow spell of the machine does not fall on one of them alone.
        for _ in 0..4 {
            for ((count, worker, requests), figure) in workers.iter().zip(&mut figures) {
                let ns = worker.time(requests, |place, outcome| {
                    let rule = match mix {
                        "xml-above" => 0,
                        "not" => *count,
                        _ => takes(place, *count),
                    };
                    assert_eq!(outcome, Outcome::Rule(rule as u32), "{mix}");
                });
                *figure = figure.min(ns);
            }
        }
        print!("{mix:<16}");
        figures.iter().for_each(|ns| print!(" {ns:>9.0}"));
        println!("  {:.2}", figures[3] / figures[0]);
    }
}

fn documents() {
    println!("\n{:<34} {:>9} {:>9} {:>9}", "XML", "1 KB", "10 KB", "100 KB");
    let sizes = [1_000, 10_000, 100_000];
    for (what, path) in [
        ("at the end, GB/s", "purchase/totalAmount"),
        ("second item, ns", "purchase/item[2]/subTotal"),
        ("first child, ns", "purchase/customerName"),
    ] {
        print!("{what:<34}");
        for size in sizes {
            let worker = Worker::new([term(xml(path), Relation::Eq, text("no".into()))]);
            let request = vec![request(1, Some(size)); 16];
            let ns = worker.time(&request, |_, outcome| assert_eq!(outcome, Outcome::Rule(1)));
            let figure = if what.ends_with("GB/s") { request[0].len() as f64 / ns } else { ns };
            print!(" {figure:>9.2}");
        }
        println!();
    }
    print!("{:<34}", "quick-xml, the same path, GB/s");
    for size in sizes {
        let body = purchase(size, 1);
        let ns = best(|| assert!(black_box(with_quick_xml(black_box(&body))).is_some()));
        print!(" {:>9.2}", body.len() as f64 / ns);
    }
    println!();
}

/// The least that finds `purchase/totalAmount`: names are compared only at their level.
fn with_quick_xml(body: &str) -> Option<usize> {
    use quick_xml::events::Event;
    let mut reader = quick_xml::Reader::from_str(body);
    reader.config_mut().check_end_names = false;
    let (mut depth, mut inside) = (0, false);
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) => {
                depth += 1;
                inside = depth == 2 && start.local_name().as_ref() == "totalAmount";
            }
            Event::End(_) => depth -= 1,
            Event::Text(text) if inside => return Some(text.len()),
            Event::Eof => return None,
            _ => {}
        }
    }
}

fn main() {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    decisions(&filter);
    if filter.is_empty() || filter == "documents" {
        documents();
    }
}
