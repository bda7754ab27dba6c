//! What a program asks requests for, arranged by where it stands in them.

use hashbrown::HashMap;

use super::error::Limits;
use super::paths::PathPlan;
use crate::matching::ir::Variable;
use crate::matching::{Program, VarId};

/// Made once for a program and shared by all workers, like the program.
#[derive(Debug)]
pub struct Plan {
    pub(super) limits: Limits,
    /// What the director calls itself where it must greet.
    pub(super) name: Box<str>,
    pub(super) url: Option<VarId>,
    pub(super) path: Option<VarId>,
    pub(super) method: Option<VarId>,
    pub(super) version: Option<VarId>,
    pub(super) host: Option<VarId>,
    pub(super) queries: Names,
    pub(super) headers: Names,
    pub(super) cookies: Names,
    pub(super) xml: PathPlan,
    pub(super) json: PathPlan,
    pub(super) mail_from: Option<VarId>,
    pub(super) mail_to: Option<VarId>,
    pub(super) pop_user: Option<VarId>,
    pub(super) imap_user: Option<VarId>,
    pub(super) ftp_user: Option<VarId>,
    pub(super) sni: Option<VarId>,
    pub(super) alpn: Option<VarId>,
}

impl Plan {
    /// For a program, with these limits.
    pub fn new(program: &Program, limits: Limits) -> Self {
        let id = |variable: Variable| program.variable_id(&variable);
        let (mut queries, mut headers, mut cookies) = (Names::default(), Names::default(), Names::default());
        for (id, variable) in program.variables() {
            match variable {
                Variable::Query(name) => queries.insert(name, id),
                Variable::Header(name) => headers.insert(name, id),
                Variable::Cookie(name) => cookies.insert(name, id),
                _ => {}
            }
        }
        Self {
            limits,
            name: "localhost".into(),
            url: id(Variable::Url),
            path: id(Variable::Path),
            method: id(Variable::Method),
            version: id(Variable::HttpVersion),
            host: id(Variable::Host),
            queries,
            headers,
            cookies,
            xml: PathPlan::new(program.variables().filter_map(|(id, variable)| match variable {
                Variable::Xml(path) => Some((id, path)),
                _ => None,
            })),
            json: PathPlan::new(program.variables().filter_map(|(id, variable)| match variable {
                Variable::Json(path) => Some((id, path)),
                _ => None,
            })),
            mail_from: id(Variable::SmtpFrom),
            mail_to: id(Variable::SmtpTo),
            pop_user: id(Variable::PopUser),
            imap_user: id(Variable::ImapUser),
            ftp_user: id(Variable::FtpUser),
            sni: id(Variable::TlsSni),
            alpn: id(Variable::TlsAlpn),
        }
    }

    /// With the name that the director gives itself in SMTP and FTP greetings; `localhost` unless set.
    #[must_use]
    pub fn with_name(mut self, name: &str) -> Self {
        // A line break would end the greeting.
        self.name = name.chars().filter(|c| !c.is_control()).collect::<String>().into();
        self
    }
}

/// Names that are looked for, with a quick answer for most others.
#[derive(Debug, Default)]
pub(super) struct Names {
    ids: HashMap<Box<[u8]>, VarId>,
    /// One bit for each length; the last for all longer ones.
    lengths: u64,
}

/// Longest header name that a rule's can be compared with; longer ones are no token that anyone uses.
const MAX_NAME: usize = 256;

impl Names {
    fn insert(&mut self, name: &str, id: VarId) {
        self.lengths |= 1 << name.len().min(63);
        self.ids.insert(name.as_bytes().into(), id);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    fn may_have(&self, name: &[u8]) -> bool {
        self.lengths >> name.len().min(63) & 1 == 1
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<VarId> {
        if self.may_have(name) { self.ids.get(name).copied() } else { None }
    }

    /// As [`Names::get`], for names that are held in lower case.
    pub(super) fn get_folded(&self, name: &[u8]) -> Option<VarId> {
        if !self.may_have(name) || name.len() > MAX_NAME {
            return None;
        }
        let mut folded = [0; MAX_NAME];
        let folded = &mut folded[..name.len()];
        folded.copy_from_slice(name);
        folded.make_ascii_lowercase();
        self.ids.get(&*folded).copied()
    }
}
