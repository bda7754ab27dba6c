//! The rules of the content site, and what a client may expect of each class of request.

use super::exchange::Class;
use lcs_control::rules::{self, Context, Numbering};
use lcs_pipelines::content::{Binding, Content, Group};
use lcs_pipelines::extract::{Plan, Protocol};
use lcs_pipelines::matching::{GroupId, QueueId, ServerId};
use lcs_pipelines::snapshot::Scheduler;
use std::collections::BTreeMap;

/// The rule set. Its groups have the names of the classes that they answer.
pub const RULES: &str = "\
forbidden: if (url == \"/forbidden\") reject(403)
moved: if (prefix(url, \"/old/\")) redirect(302, \"http://shop.example/new\")
r1: if (prefix(url, \"/lcs1\")) routeTo(lcs1)
r2: if (prefix(url, \"/lcs2\")) routeTo(lcs2)
r3: if (suffix(path, \".gif\") || suffix(path, \".jpg\")) routeTo(images)
r4: if (regex(url, \"^/down/[0-9a-f]+$\")) routeTo(down)
r5: if (cookie.level == \"gold\") routeTo(member)
r6: if (xml.purchase/item[2]/subTotal > 50000) routeTo(large)
r7: if (xml.purchase/item[2]/subTotal > 0 && xml.purchase/item[2]/subTotal < 50000) routeTo(small)
default: routeTo(web)
";
/// Where [`Class::Moved`] is sent.
pub const NEW_PLACE: &str = "http://shop.example/new";

/// Groups with the slots of their servers.
pub type Groups = Vec<(String, Vec<u16>)>;

struct Numbers<'a>(&'a Groups, &'a Binding);

impl Numbering for Numbers<'_> {
    fn group(&self, name: &str) -> Option<GroupId> {
        self.0.iter().position(|(n, _)| n == name).map(|at| at as GroupId)
    }
    /// `s1` is the server in slot 0.
    fn server(&self, name: &str) -> Option<ServerId> {
        name.strip_prefix('s')?.parse::<ServerId>().ok()?.checked_sub(1)
    }
    fn queue(&self, name: &str) -> Option<QueueId> {
        self.1.queues.iter().position(|queue| queue.name == name).map(|at| at as QueueId)
    }
}

/// Compiles a rule set for these groups, as the control thread would.
///
/// # Errors
/// What is wrong with the rules, with line and column.
pub fn compile(text: &str, groups: &Groups, scheduler: Scheduler, binding: Binding) -> Result<Content, String> {
    let context = Context { require_default: true, ..Context::named("rules") };
    let set = rules::parse(text, &context).map_err(|e| e.to_string())?;
    let program = rules::compile(&set, &Numbers(groups, &binding)).map_err(|e| e.to_string())?;
    let plan = Plan::new(&program, binding.limits);
    let groups = groups
        .iter()
        .map(|(name, servers)| Group { name: name.clone(), scheduler, servers: servers.clone() })
        .collect();
    Ok(Content { protocol: Protocol::Http, program, plan, groups, binding })
}

/// What may come of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expectation {
    /// One of these servers answers it.
    Servers(Vec<String>),
    /// The director does, with this status.
    Director(u16),
}

/// What may come of each class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    classes: BTreeMap<Class, Expectation>,
    /// Whether the director may say that no server of a group answers although one lives: so where links lose frames.
    pub excuses: bool,
}

impl Roster {
    /// One server for whatever servers answer, and no director.
    pub fn alone(server: &str) -> Self {
        let only = || Expectation::Servers(vec![server.to_owned()]);
        Roster { classes: Class::SERVED.into_iter().map(|c| (c, only())).collect(), excuses: false }
    }

    /// These servers by class; a served class of which no server lives is answered with 503.
    pub fn new(living: impl Fn(Class) -> Vec<String>, excuses: bool) -> Self {
        let of = |class| match class {
            Class::Forbidden => Expectation::Director(403),
            Class::Moved => Expectation::Director(302),
            served => match living(served) {
                none if none.is_empty() => Expectation::Director(503),
                servers => Expectation::Servers(servers),
            },
        };
        Roster { classes: Class::ALL.into_iter().map(|c| (c, of(c))).collect(), excuses }
    }

    /// What may come of a class; nobody answers one that the site does not have.
    pub fn of(&self, class: Class) -> Expectation {
        self.classes.get(&class).cloned().unwrap_or(Expectation::Servers(vec![]))
    }
}

#[cfg(test)]
mod tests {
    use super::super::exchange::{Exchange, Method};
    use super::*;
    use lcs_control::rules::{Connection, Trial, Verdict};

    #[test]
    fn the_rules_take_every_class_to_its_own_group() {
        let set = rules::parse(RULES, &Context::named("rules")).unwrap();
        let trial = Trial::new(&set).unwrap();
        for class in Class::ALL {
            for number in 0..40u64 {
                let method = if number % 2 == 0 { Method::Post } else { Method::Chunked };
                let document = class.by_document();
                let body = [500, 3_000, 30_000][number as usize % 3];
                let method = if document { method } else { Method::Get };
                let e = Exchange { method, body, ..Exchange::get(number, class, 10) };
                let http = Some(rules::Protocol::Http);
                let action = match trial.verdict(http, &e.request(), &Connection::default()).unwrap() {
                    Verdict::Rule(rule) => set.rules[rule].action.clone(),
                    Verdict::Default => set.default.as_ref().unwrap().action.clone(),
                    other => panic!("{class:?} {other:?}"),
                };
                let text = format!("{action:?}");
                let want = match class {
                    Class::Forbidden => "403".to_owned(),
                    Class::Moved => "302".to_owned(),
                    c => format!("{:?}", c.name()),
                };
                assert!(text.contains(&want), "{class:?}: {text}");
            }
        }
    }
}
