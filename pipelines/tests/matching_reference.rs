//! The compiled program against the plain evaluator, for random rule sets, requests and states of knowledge.

mod reference;

use std::collections::BTreeMap;

use lcs_pipelines::matching::ir::{Action, DocPath, Expr, Relation, Rule, RuleSet, Term, Value, Variable};
use lcs_pipelines::matching::{Class, ClassSet, Decision, Facts, Field, Found, Number, Program, compile};
use proptest::prelude::*;
use reference::{Owned, Verdict};

/// A request as a table.
struct Table {
    found: Vec<Found<usize>>,
    values: Vec<Owned>,
    complete: ClassSet,
    connection: BTreeMap<Variable, Owned>,
}

impl Table {
    fn new(
        program: &Program,
        request: &BTreeMap<Variable, Owned>,
        known: &dyn Fn(&Variable) -> bool,
        complete: ClassSet,
    ) -> Self {
        let mut table = Self { found: Vec::new(), values: Vec::new(), complete, connection: BTreeMap::new() };
        for (variable, value) in request {
            if Class::of(variable) == Class::Connection {
                table.connection.insert(variable.clone(), value.clone());
            } else if let Some(id) = program.variable_id(variable).filter(|_| known(variable)) {
                table.found.push(Found { variable: id, place: table.values.len() });
                table.values.push(value.clone());
                // A second value of one variable must not count.
                table.found.push(Found { variable: id, place: table.values.len() });
                table.values.push(Owned::Text(b"second".to_vec()));
            }
        }
        table
    }
}

impl Facts for Table {
    type Place = usize;
    fn found(&self) -> &[Found<usize>] {
        &self.found
    }
    fn value(&self, place: usize) -> Field<'_> {
        self.values[place].field()
    }
    fn complete(&self) -> ClassSet {
        self.complete
    }
    fn connection(&self, variable: &Variable) -> Field<'_> {
        self.connection.get(variable).map_or(Field::Absent, Owned::field)
    }
}

fn xml(path: &str) -> Variable {
    Variable::Xml(DocPath::parse(path).unwrap())
}

fn texts() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof!["[abA]{0,4}", "-?[0-9]{1,2}", Just("second".to_owned()), Just("10.0.0.1".to_owned())]
        .prop_map(String::into_bytes)
}

fn text_variable() -> impl Strategy<Value = Variable> {
    prop_oneof![
        Just(Variable::Url),
        Just(Variable::Host),
        Just(Variable::Method),
        Just(Variable::Header("X-One".into())),
        Just(Variable::Cookie("c".into())),
        Just(xml("a/b")),
        Just(xml("a/c")),
        Just(Variable::Json(DocPath::parse("j").unwrap())),
        Just(Variable::SmtpTo),
    ]
}

fn term() -> impl Strategy<Value = Term> {
    let number = (-12_i64..12).prop_map(Number::from);
    let on_text = prop_oneof![
        (
            prop_oneof![Just(Relation::Eq), Just(Relation::Ne), Just(Relation::In)],
            texts().prop_map(|t| Value::Text(t.into()))
        ),
        (
            prop_oneof![Just(Relation::Prefix), Just(Relation::Suffix), Just(Relation::Contains)],
            texts().prop_map(|t| Value::Text(t.into()))
        ),
        (
            prop_oneof![
                Just(Relation::Eq),
                Just(Relation::Ne),
                Just(Relation::Lt),
                Just(Relation::Le),
                Just(Relation::Gt),
                Just(Relation::Ge)
            ],
            number.prop_map(Value::Number)
        ),
        (
            Just(Relation::Regex),
            prop_oneof![
                Just("^ab"),
                Just("ba$"),
                Just("a.b"),
                Just("[0-9]+"),
                Just("(?i)ab|second"),
                Just("^(aa|b)a*$")
            ]
            .prop_map(|t| Value::Text(t.as_bytes().into()))
        ),
        (
            Just(Relation::In),
            prop::collection::vec(
                prop_oneof![
                    texts().prop_map(|t| Value::Text(t.into())),
                    (-12_i64..12).prop_map(|n| Value::Number(n.into())),
                    Just(Value::Network("10.0.0.0/8".parse().unwrap()))
                ],
                0..4
            )
            .prop_map(Value::List)
        ),
        (Just(Relation::Exists), Just(Value::Nothing)),
    ];
    let on_number = (
        prop_oneof![Just(Variable::PortSrc), Just(Variable::ServerUp(1)), Just(Variable::Connections(2))],
        prop_oneof![Just(Relation::Eq), Just(Relation::Ne), Just(Relation::Lt), Just(Relation::Ge)],
        (0_i64..4).prop_map(|n| Value::Number(n.into())),
        Just(false),
    );
    let on_address = (
        Just(Variable::IpSrc),
        prop_oneof![Just(Relation::In), Just(Relation::Ne)],
        prop_oneof![Just("10.0.0.0/8"), Just("10.0.0.0/30"), Just("10.0.0.2/32"), Just("fd00::/8")]
            .prop_map(|net| Value::Network(net.parse().unwrap())),
        Just(false),
    );
    prop_oneof![
        8 => (text_variable(), on_text, any::<bool>()).prop_map(|(v, (r, value), i)| (v, r, value, i)),
        1 => on_number,
        1 => on_address,
    ]
    .prop_map(|(variable, relation, value, ignore_case)| Term { variable, relation, value, ignore_case })
}

fn condition() -> impl Strategy<Value = Expr> {
    term().prop_map(Expr::Term).prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Expr::And),
            prop::collection::vec(inner.clone(), 0..4).prop_map(Expr::Or),
            inner.prop_map(|e| Expr::Not(Box::new(e))),
        ]
    })
}

/// Rules, of which some share a first term as real sets do.
fn rules() -> impl Strategy<Value = RuleSet> {
    (prop::collection::vec((condition(), any::<bool>()), 0..40), condition(), any::<bool>()).prop_map(
        |(conditions, shared, default)| {
            let mut rules: Vec<Expr> = conditions
                .into_iter()
                .map(|(own, both)| if both { Expr::And(vec![shared.clone(), own]) } else { own })
                .collect();
            if default {
                rules.push(Expr::always());
            }
            let rule = |(i, condition)| Rule {
                name: format!("R{i}").into(),
                condition,
                action: Action::Reject { status: None },
            };
            RuleSet { rules: rules.into_iter().enumerate().map(rule).collect() }
        },
    )
}

fn request() -> impl Strategy<Value = BTreeMap<Variable, Owned>> {
    let connection = prop_oneof![
        (0_u64..4).prop_map(|n| (Variable::PortSrc, Owned::Number(n))),
        (0_u64..2).prop_map(|n| (Variable::ServerUp(1), Owned::Number(n))),
        prop_oneof![Just("10.0.0.2"), Just("10.0.9.1"), Just("fd00::1"), Just("192.0.2.1")]
            .prop_map(|a| (Variable::IpSrc, Owned::Address(a.parse().unwrap()))),
    ];
    prop::collection::btree_map(text_variable(), texts().prop_map(Owned::Text), 0..9).prop_flat_map(move |texts| {
        prop::collection::vec(connection.clone(), 0..4).prop_map(move |connection| {
            let mut all: BTreeMap<Variable, Owned> = connection.into_iter().collect();
            // Names of headers reach a program in lower case.
            all.extend(texts.clone());
            all
        })
    })
}

fn lower(variable: &Variable) -> Variable {
    match variable {
        Variable::Header(name) => Variable::Header(name.to_ascii_lowercase().into()),
        other => other.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn the_program_says_what_the_rules_say(
        rules in rules(),
        request in request(),
        complete in prop::collection::vec(any::<bool>(), Class::ALL.len()),
        early in any::<u64>(),
    ) {
        let program = compile(&rules).unwrap();
        let mut scratch = program.scratch();
        let request: BTreeMap<Variable, Owned> = request.into_iter().map(|(k, v)| (lower(&k), v)).collect();
        let full = |variable: &Variable| request.get(&lower(variable)).cloned().unwrap_or(Owned::Absent);

        let everything = Table::new(&program, &request, &|_| true, ClassSet::ALL);
        let last = program.decide(&mut scratch, &everything);
        let verdict = reference::decide(&rules, &full);
        let same = match last {
            Decision::Rule(rule) => Verdict::Rule(rule),
            Decision::NoRule => Verdict::NoRule,
            Decision::NeedMore(_) => Verdict::Unknown,
        };
        prop_assert_eq!(same, verdict);

        // Some classes complete, and single values of the others known too.
        let set = Class::ALL.iter().zip(&complete).filter(|(_, c)| **c).fold(ClassSet::NONE, |s, (c, _)| s.with(*c));
        let position = |variable: &Variable| request.keys().position(|k| k == variable).unwrap_or(63);
        let known = |variable: &Variable| set.contains(Class::of(variable)) || early >> position(variable) & 1 == 1;
        let partial = Table::new(&program, &request, &known, set);
        let now = |variable: &Variable| {
            let class = Class::of(variable);
            let variable = lower(variable);
            match request.get(&variable) {
                Some(value) if class == Class::Connection || known(&variable) => value.clone(),
                _ if class == Class::Connection || set.contains(class) => Owned::Absent,
                _ => Owned::Unknown,
            }
        };
        match (program.decide(&mut scratch, &partial), reference::decide(&rules, &now)) {
            // An answer once given stays.
            (Decision::Rule(rule), verdict) => {
                prop_assert_eq!(last, Decision::Rule(rule));
                prop_assert!(verdict == Verdict::Rule(rule) || verdict == Verdict::Unknown);
            }
            (Decision::NoRule, verdict) => {
                prop_assert_eq!(last, Decision::NoRule);
                prop_assert!(verdict != Verdict::Rule(0));
            }
            (Decision::NeedMore(classes), verdict) => {
                prop_assert_eq!(verdict, Verdict::Unknown);
                prop_assert!(classes != ClassSet::NONE);
                prop_assert!(!scratch.demanded().is_empty());
                for (id, variable) in program.variables() {
                    if scratch.demanded().contains(&id) {
                        prop_assert_eq!(now(variable), Owned::Unknown);
                        prop_assert!(classes.contains(program.class(id)));
                    }
                }
            }
        }
    }
}
