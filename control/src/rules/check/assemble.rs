//! From a conjunction of terms to one connection for which all of them hold, or the proof that there is
//! none. Carriers are decided one by one; what ties them together is minded here: one protocol a
//! connection, one family of addresses, one document a body, and the fields that go with a body.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::super::ast::{Protocol, Selector, Variable};
use super::super::connection::{Body, Connection, HttpRequest, MAX_PADDED_BODY, Message};
use super::super::document::Node;
use super::super::eval::Attributes;
use super::atom::{Atoms, Carrier, Literal, Truths};
use super::body::{Wanted, build};
use super::cell::{Presence, Value, solve};
use super::machine::{Machine, Place};
use super::ranges::Addresses;
use super::view::{Component, View};
use super::witness_text::{Answer, Domain};

/// Content types that are read as XML (RFC 7303) and as JSON (RFC 8259).
const XML_TYPES: &str = r"(?i)^[!-.0-:<-~]*/([!-:<-~]+\+)?xml[ \t]*(;.*)?$";
const JSON_TYPES: &str = r"(?i)^[!-.0-:<-~]*/([!-:<-~]+\+)?json[ \t]*(;.*)?$";

/// Decides conjunctions; remembers what it decided about single carriers.
pub struct Assembler<'a> {
    pub atoms: &'a Atoms,
    cells: HashMap<Vec<Literal>, Answer<Value>>,
    xml_type: Option<Arc<Machine>>,
    json_type: Option<Arc<Machine>>,
}

/// The literals of a conjunction by carrier.
type Cells = BTreeMap<usize, Vec<Literal>>;

fn type_machine(pattern: &str) -> Option<Arc<Machine>> {
    Machine::regex(&[pattern.to_owned()], false).ok().map(Arc::new)
}

/// `return` what is not an answer.
macro_rules! answered {
    ($answer:expr) => {
        match $answer {
            Answer::Yes(value) => value,
            Answer::No => return Answer::No,
            Answer::Undecided(why) => return Answer::Undecided(why),
        }
    };
}

impl<'a> Assembler<'a> {
    pub fn new(atoms: &'a Atoms) -> Self {
        let (xml_type, json_type) = (type_machine(XML_TYPES), type_machine(JSON_TYPES));
        Assembler { atoms, cells: HashMap::new(), xml_type, json_type }
    }

    /// Groups a conjunction by carrier.
    pub fn cells(&self, cube: &[Literal]) -> Cells {
        let mut cells = Cells::new();
        for literal in cube {
            cells.entry(self.atoms.atoms[literal.atom()].carrier).or_default().push(*literal);
        }
        cells
    }

    /// What one carrier may be, all by itself.
    pub fn cell(&mut self, carrier: usize, literals: &[Literal]) -> &Answer<Value> {
        let atoms = self.atoms;
        self.cells.entry(literals.to_vec()).or_insert_with(|| solve(atoms, carrier, literals, Presence::Free, &[]))
    }

    /// What one carrier may be, without remembering: for questions that are asked once.
    pub fn decide(&self, carrier: usize, literals: &[Literal]) -> Answer<Value> {
        solve(self.atoms, carrier, literals, Presence::Free, &[])
    }

    /// A connection for which every term of the conjunction holds.
    pub fn assemble(&mut self, cube: &[Literal]) -> Answer<Connection> {
        let cells = self.cells(cube);
        let mut required: Vec<Protocol> = Vec::new();
        let mut mentioned: Vec<Protocol> = Vec::new();
        for (carrier, literals) in &cells {
            let Some(protocol) = self.atoms.carriers[*carrier].protocol() else { continue };
            mentioned.push(protocol);
            if literals.iter().any(|l| l.positive()) {
                required.push(protocol);
            }
        }
        required.sort_unstable();
        required.dedup();
        let candidates: Vec<Option<Protocol>> = match required.as_slice() {
            [protocol] => vec![Some(*protocol)],
            // A connection speaks one protocol.
            [_, _, ..] => return Answer::No,
            [] => {
                mentioned.sort_unstable();
                mentioned.dedup();
                mentioned.into_iter().map(Some).chain([None]).collect()
            }
        };
        let mut undecided = None;
        for protocol in candidates {
            match self.with_protocol(&cells, protocol) {
                Answer::Yes(connection) => match self.verified(cube, &connection) {
                    true => return Answer::Yes(connection),
                    false => undecided = Some("related variables could not be given fitting values".to_owned()),
                },
                Answer::No => {}
                Answer::Undecided(why) => undecided = Some(why),
            }
        }
        undecided.map_or(Answer::No, Answer::Undecided)
    }

    fn verified(&self, cube: &[Literal], connection: &Connection) -> bool {
        cube.iter().all(|literal| {
            let atom = &self.atoms.atoms[literal.atom()];
            atom.holds(&connection.get(&atom.variable)) == literal.positive()
        })
    }

    fn with_protocol(&mut self, cells: &Cells, protocol: Option<Protocol>) -> Answer<Connection> {
        let mut connection = Connection::default();
        answered!(self.addresses(cells, &mut connection));
        let mut texts: BTreeMap<Carrier, (Value, Vec<Literal>)> = BTreeMap::new();
        let mut bits: Vec<(Variable, u64)> = Vec::new();
        for (carrier, literals) in cells {
            let kind = self.atoms.carriers[*carrier].clone();
            if kind.protocol().is_some() && kind.protocol() != protocol {
                continue;
            }
            if matches!(kind, Carrier::Variable(Variable::Xml(_) | Variable::Json(_))) {
                continue;
            }
            match answered!(self.cell(*carrier, literals).clone()) {
                Value::Addresses(_) => {}
                Value::Flag(up) => {
                    if let Carrier::Variable(Variable::ServerUp(group)) = kind {
                        connection.servers_up.insert(group, up);
                    }
                }
                Value::Integer(value) => {
                    if let Carrier::Variable(variable) = kind {
                        bits.push((variable, value));
                    }
                }
                value => {
                    texts.insert(kind, (value, literals.clone()));
                }
            }
        }
        if protocol.is_some() && self.tcp_impossible(cells) {
            return Answer::No;
        }
        // Named fields after raw bits: they are the likelier to be asked for.
        bits.sort_by_key(|(variable, _)| !matches!(variable, Variable::Bitmatch { .. }));
        for (variable, value) in bits {
            if !connection.set_number(&variable, value) {
                return Answer::Undecided(format!("{variable} cannot be {value}"));
            }
        }
        connection.message = match protocol {
            None => Message::None,
            Some(Protocol::Http) => Message::Http(Box::new(answered!(self.http(cells, texts)))),
            Some(other) => message(other, &texts),
        };
        Answer::Yes(connection)
    }

    /// Whether the terms exclude TCP, on which every protocol here runs.
    fn tcp_impossible(&self, cells: &Cells) -> bool {
        let Some(carrier) = self.atoms.known_carrier(&Carrier::Variable(Variable::IpProto)) else { return false };
        let Some(literals) = cells.get(&carrier) else { return false };
        literals.iter().any(|literal| match &self.atoms.atoms[literal.atom()].truths {
            Truths::Integers(set) => set.contains(6) != literal.positive(),
            _ => false,
        })
    }

    /// Both addresses, of one family.
    fn addresses(&mut self, cells: &Cells, connection: &mut Connection) -> Answer<()> {
        let mut sets = [Addresses::all(), Addresses::all()];
        for (set, variable) in sets.iter_mut().zip([Variable::IpSrc, Variable::IpDst]) {
            let Some(carrier) = self.atoms.known_carrier(&Carrier::Variable(variable)) else { continue };
            let Some(literals) = cells.get(&carrier) else { continue };
            if let Value::Addresses(found) = answered!(self.cell(carrier, literals).clone()) {
                *set = found;
            }
        }
        let [source, destination] = &sets;
        let v4 = (source.pick_v4(Ipv4Addr::new(192, 0, 2, 1)), destination.pick_v4(Ipv4Addr::new(198, 51, 100, 1)));
        if let (Some(source), Some(destination)) = v4 {
            connection.set_addresses(IpAddr::V4(source), IpAddr::V4(destination));
            return Answer::Yes(());
        }
        let documentation = |last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
        match (source.pick_v6(documentation(1)), destination.pick_v6(documentation(2))) {
            (Some(source), Some(destination)) => {
                connection.set_addresses(IpAddr::V6(source), IpAddr::V6(destination));
                Answer::Yes(())
            }
            _ => Answer::No,
        }
    }

    fn http(&mut self, cells: &Cells, texts: BTreeMap<Carrier, (Value, Vec<Literal>)>) -> Answer<HttpRequest> {
        let mut request = HttpRequest { body: answered!(self.document(cells)), ..HttpRequest::default() };
        let mut host_absent = false;
        for (carrier, (value, _)) in &texts {
            match (carrier, value) {
                (Carrier::Url, Value::Text(text)) => request.url = text.clone(),
                (Carrier::Variable(Variable::HttpVersion), Value::Text(text)) => request.version = text.clone(),
                (Carrier::Header(name), Value::Absent) if name == "host" => host_absent = true,
                (Carrier::Header(name), Value::Text(text)) if name != "content-type" => {
                    request.headers.push((title(name), text.clone()));
                }
                _ => {}
            }
        }
        if host_absent {
            // HTTP/1.1 without Host is refused (RFC 9112, 3.2).
            request.version = b"1.0".to_vec();
            if let Some((_, literals)) = texts.get(&Carrier::Variable(Variable::HttpVersion))
                && !self.fits(literals, Domain::Version, &request.version)
            {
                return Answer::No;
            }
        } else if request.header("host").is_none() {
            request.headers.insert(0, ("Host".into(), b"www.example.com".to_vec()));
        }
        request.headers.sort_by_key(|(name, _)| name != "Host");
        answered!(self.method(&texts, &mut request));
        answered!(self.content_type(cells, &texts, &mut request));
        answered!(self.body_length(&texts, &mut request));
        Answer::Yes(request)
    }

    fn method(&self, texts: &BTreeMap<Carrier, (Value, Vec<Literal>)>, request: &mut HttpRequest) -> Answer<()> {
        if request.body != Body::None {
            request.method = b"POST".to_vec();
        }
        if request.url == b"*" {
            // Only OPTIONS has it (RFC 9112, 3.2.4); with another method the target is a path.
            match answered!(self.path_target(texts)) {
                Some(url) => request.url = url,
                None => request.method = b"OPTIONS".to_vec(),
            }
        }
        if let Some((Value::Text(method), literals)) = texts.get(&Carrier::Variable(Variable::Method))
            && !self.fits(literals, Domain::Token, &request.method)
        {
            if request.url == b"*" {
                return Answer::No;
            }
            request.method = method.clone();
        }
        Answer::Yes(())
    }

    /// A target that is a path, if the terms about the URL allow one.
    fn path_target(&self, texts: &BTreeMap<Carrier, (Value, Vec<Literal>)>) -> Answer<Option<Vec<u8>>> {
        let Some(carrier) = self.atoms.known_carrier(&Carrier::Url) else { return Answer::Yes(None) };
        let Some((_, literals)) = texts.get(&Carrier::Url) else { return Answer::Yes(None) };
        let slash = Machine::literals([&b"/"[..]].into_iter(), Place::Start, false);
        let path = Component { view: View::Whole, machine: Some(Arc::new(slash)), positive: true };
        match solve(self.atoms, carrier, literals, Presence::Required, &[path]) {
            Answer::Yes(Value::Text(url)) => Answer::Yes(Some(url)),
            Answer::Undecided(why) => Answer::Undecided(why),
            _ => Answer::Yes(None),
        }
    }

    /// Whether a text satisfies terms that are all about the whole of it.
    fn fits(&self, literals: &[Literal], domain: Domain, text: &[u8]) -> bool {
        let value = super::super::eval::Attribute::Text(text.into());
        domain.allows(text) && literals.iter().all(|l| self.atoms.atoms[l.atom()].holds(&value) == l.positive())
    }

    fn content_type(
        &mut self,
        cells: &Cells,
        texts: &BTreeMap<Carrier, (Value, Vec<Literal>)>,
        request: &mut HttpRequest,
    ) -> Answer<()> {
        let field = Carrier::Header("content-type".into());
        let (machine, usual) = match &request.body {
            Body::None => {
                if let Some((Value::Text(text), _)) = texts.get(&field) {
                    request.headers.push(("Content-Type".into(), text.clone()));
                }
                return Answer::Yes(());
            }
            Body::Xml(_) => (self.xml_type.clone(), &b"text/xml"[..]),
            Body::Json(_) => (self.json_type.clone(), &b"application/json"[..]),
        };
        let carrier = self.atoms.known_carrier(&field);
        let literals = carrier.and_then(|carrier| cells.get(&carrier).map(|literals| (carrier, literals)));
        let text = match literals {
            None => usual.to_vec(),
            Some((carrier, literals)) => {
                let needed = Component { view: View::Whole, machine, positive: true };
                match answered!(solve(self.atoms, carrier, literals, Presence::Required, &[needed])) {
                    Value::Text(text) => text,
                    _ => return Answer::No,
                }
            }
        };
        request.headers.push(("Content-Type".into(), text));
        Answer::Yes(())
    }

    /// Says where the body ends: by its length, by a longer one where a rule asks for it, or chunked.
    fn body_length(&self, texts: &BTreeMap<Carrier, (Value, Vec<Literal>)>, request: &mut HttpRequest) -> Answer<()> {
        let body = request.body_bytes().len();
        if body == 0 {
            return Answer::Yes(());
        }
        let asked = |name: &str| texts.get(&Carrier::Header(name.into()));
        let true_length = body.to_string().into_bytes();
        if asked("transfer-encoding").is_some_and(|(value, _)| *value != Value::Absent) {
            let value = request.header("transfer-encoding").unwrap_or_default();
            if value.eq_ignore_ascii_case(b"chunked") && request.header("content-length").is_none() {
                return Answer::Yes(());
            }
            return Answer::Undecided("a body with this Transfer-Encoding".into());
        }
        let Some((value, literals)) = asked("content-length") else {
            request.headers.push(("Content-Length".into(), true_length));
            return Answer::Yes(());
        };
        request.headers.retain(|(name, _)| name != "Content-Length");
        if self.fits(literals, Domain::FieldValue, &true_length) {
            request.headers.push(("Content-Length".into(), true_length));
            return Answer::Yes(());
        }
        // A longer body, padded with blanks: the shortest length that the terms allow.
        let longer = (body..=MAX_PADDED_BODY).find(|length| {
            self.length_possible(literals, *length)
                && self.fits(literals, Domain::FieldValue, length.to_string().as_bytes())
        });
        match (value, longer) {
            (Value::Absent, _) if asked("transfer-encoding").is_none() => {
                request.headers.push(("Transfer-Encoding".into(), b"chunked".to_vec()));
                Answer::Yes(())
            }
            (_, Some(length)) => {
                request.headers.push(("Content-Length".into(), length.to_string().into_bytes()));
                Answer::Yes(())
            }
            _ => Answer::Undecided("a body of the length that Content-Length asks for".into()),
        }
    }

    /// A quick look at the number alone, so that the search above passes over wide gaps cheaply.
    fn length_possible(&self, literals: &[Literal], length: usize) -> bool {
        let steps = super::super::decimal::Decimal::from_integer(length as i128).steps();
        literals.iter().all(|literal| match &self.atoms.atoms[literal.atom()].truths {
            Truths::Numbers(set) => set.contains(steps) == literal.positive(),
            _ => true,
        })
    }

    /// The body: a document in which every wanted path has its value and no unwanted one does.
    fn document(&mut self, cells: &Cells) -> Answer<Body> {
        let mut wanted: [Vec<(Selector, Vec<u8>)>; 2] = Default::default();
        let mut unwanted: [Vec<(usize, Selector)>; 2] = Default::default();
        for (carrier, literals) in cells {
            let (kind, selector) = match &self.atoms.carriers[*carrier] {
                Carrier::Variable(Variable::Xml(selector)) => (0, selector.clone()),
                Carrier::Variable(Variable::Json(selector)) => (1, selector.clone()),
                _ => continue,
            };
            match answered!(self.cell(*carrier, literals).clone()) {
                Value::Text(text) => wanted[kind].push((selector, text)),
                _ => unwanted[kind].push((*carrier, selector)),
            }
        }
        let kind = match (wanted[0].is_empty(), wanted[1].is_empty()) {
            (true, true) => return Answer::Yes(Body::None),
            (false, false) => return Answer::No,
            (json, _) => usize::from(json),
        };
        let xml = kind == 0;
        let body = |document| if xml { Body::Xml(document) } else { Body::Json(document) };
        let pairs: Vec<Wanted<'_>> = wanted[kind].iter().map(|(s, text)| (s, text.clone())).collect();
        let Some(document) = build(xml, &pairs, true) else { return Answer::No };
        if self.disturbed(&document, cells, &unwanted[kind]).is_empty() {
            return Answer::Yes(body(document));
        }
        // Some path must not have the value that it has by accident: free it from the others, and give
        // what cannot be absent a harmless value.
        let Some(document) = build(xml, &pairs, false) else { return Answer::No };
        let disturbed = self.disturbed(&document, cells, &unwanted[kind]);
        if disturbed.is_empty() {
            return Answer::Yes(body(document));
        }
        let mut pairs = pairs;
        for (carrier, selector) in &disturbed {
            let Some(literals) = cells.get(carrier) else { continue };
            match answered!(solve(self.atoms, *carrier, literals, Presence::Required, &[])) {
                Value::Text(text) => pairs.push((selector, text)),
                _ => return Answer::No,
            }
        }
        match build(xml, &pairs, false) {
            Some(document) => Answer::Yes(body(document)),
            None => Answer::Undecided("one document for all these paths".into()),
        }
    }

    /// The unwanted paths whose terms do not hold in a document.
    fn disturbed(&self, document: &Node, cells: &Cells, unwanted: &[(usize, Selector)]) -> Vec<(usize, Selector)> {
        let held = |(carrier, selector): &&(usize, Selector)| {
            let value = match document.select(selector) {
                Some(text) => super::super::eval::Attribute::Text(text.into()),
                None => super::super::eval::Attribute::Absent,
            };
            let literals = cells.get(carrier).map(Vec::as_slice).unwrap_or_default();
            !literals.iter().all(|l| self.atoms.atoms[l.atom()].holds(&value) == l.positive())
        };
        unwanted.iter().filter(held).cloned().collect()
    }
}

/// A message of a protocol other than HTTP.
fn message(protocol: Protocol, texts: &BTreeMap<Carrier, (Value, Vec<Literal>)>) -> Message {
    let text = |variable: Variable| match texts.get(&Carrier::Variable(variable)) {
        Some((Value::Text(text), _)) => Some(text.clone()),
        _ => None,
    };
    let asked = |variable: Variable| texts.contains_key(&Carrier::Variable(variable));
    let user = |variable| text(variable).unwrap_or_else(|| b"user".to_vec());
    match protocol {
        Protocol::Http => Message::None,
        Protocol::Smtp => {
            // A recipient comes after a sender (RFC 5321, 4.1.4), and a mail has both.
            let usual = |variable: Variable, address: &str| {
                text(variable.clone()).or_else(|| (!asked(variable)).then(|| address.as_bytes().to_vec()))
            };
            let from = usual(Variable::SmtpFrom, "sender@example.com");
            Message::Smtp { from, to: usual(Variable::SmtpTo, "user@example.com") }
        }
        Protocol::Pop => Message::Pop(user(Variable::PopUser)),
        Protocol::Imap => Message::Imap(user(Variable::ImapUser)),
        Protocol::Ftp => Message::Ftp(user(Variable::FtpUser)),
        Protocol::Tls => Message::Tls { sni: text(Variable::TlsSni), alpn: text(Variable::TlsAlpn) },
    }
}

/// `content-type` as `Content-Type`.
fn title(name: &str) -> String {
    let mut start = true;
    name.chars()
        .map(|c| {
            let shown = if start { c.to_ascii_uppercase() } else { c };
            start = c == '-';
            shown
        })
        .collect()
}
