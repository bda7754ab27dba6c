//! One request being read: as far as the rules need it, and no further.

use memchr::memchr;

use super::body::{BodyFollower, Framing};
use super::charset::{Charset, Transcoder};
use super::dialogue::{Dialogue, Event, Replay, Text};
use super::error::{ExtractError, Span};
use super::fields::{decode_form, document_kind, needs_decoding, read_cookies};
use super::head::{Head, HeadParser};
use super::json::JsonScanner;
use super::packet::Connection;
use super::place::{Place, Scan, Sink, Source};
use super::plan::Plan;
use super::tls::{ClientHello, HelloPlace, HelloReader, client_hello};
use super::xml::XmlScanner;
use crate::matching::{Class, ClassSet, Decision, Facts, Field, Found, Program, Scratch, VarId, Variable};

/// What a service speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Protocol {
    /// HTTP/1.0 and 1.1.
    #[default]
    Http,
    /// TLS, of which only the ClientHello is read.
    Tls,
    /// SMTP; the director greets.
    Smtp,
    /// POP3; the director greets.
    Pop3,
    /// IMAP; the director greets.
    Imap,
    /// FTP's control connection; the director greets.
    Ftp,
    /// Anything else: nothing of the payload is read.
    Opaque,
}

impl Protocol {
    /// The classes of variables that this protocol can have.
    fn classes(self) -> &'static [Class] {
        match self {
            Self::Http => &[Class::RequestLine, Class::Head, Class::Xml, Class::Json],
            Self::Tls => &[Class::Tls],
            Self::Smtp => &[Class::MailFrom, Class::MailTo],
            Self::Pop3 => &[Class::PopLogin],
            Self::Imap => &[Class::ImapLogin],
            Self::Ftp => &[Class::FtpLogin],
            Self::Opaque => &[],
        }
    }

    /// Whether the server speaks first, so that the director must.
    pub fn server_speaks_first(self) -> bool {
        matches!(self, Self::Smtp | Self::Pop3 | Self::Imap | Self::Ftp)
    }
}

/// What is to happen with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// This rule takes it.
    Rule(u32),
    /// More of it must arrive.
    NeedMore,
    /// It is known, and no rule takes it.
    NoRule,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Start,
    /// HTTP.
    Line,
    Head,
    Xml,
    Json,
    Hello,
    Dialogue,
    /// Everything is known.
    Known,
}

/// A request while it is being collected: one for each connection that is collecting, kept and reset for the next.
///
/// It holds no bytes of the request, only where in the caller's buffer values stand; what had to be decoded (entities,
/// chunks, other encodings) it copies, at most [`Limits::body`](super::Limits) bytes of it. Nothing is allocated for a
/// request once the buffers have grown.
#[derive(Debug)]
pub struct Extraction {
    protocol: Protocol,
    phase: Phase,
    complete: ClassSet,
    found: Vec<Found<Place>>,
    decoded: Vec<u8>,
    body: Vec<u8>,
    parser: HeadParser,
    head: Option<Head>,
    charset: Option<Charset>,
    transcoder: Option<Transcoder>,
    /// The body cannot be read beyond what has been copied of it.
    broken: Option<ExtractError>,
    follower: BodyFollower,
    /// How much of the buffer has gone through the follower.
    followed: usize,
    wanted: Vec<VarId>,
    xml: XmlScanner,
    json: JsonScanner,
    hello_reader: HelloReader,
    hello: Option<(HelloPlace, ClientHello)>,
    dialogue: Dialogue,
    reply: Vec<u8>,
}

/// What is known, for the program to ask about.
struct Known<'k, C> {
    extraction: &'k Extraction,
    buffer: &'k [u8],
    connection: &'k C,
}

impl<C: Connection> Facts for Known<'_, C> {
    type Place = Place;

    fn found(&self) -> &[Found<Place>] {
        &self.extraction.found
    }

    fn value(&self, place: Place) -> Field<'_> {
        Field::Text(self.extraction.at(place, self.buffer))
    }

    fn complete(&self) -> ClassSet {
        self.extraction.complete
    }

    fn connection(&self, variable: &Variable) -> Field<'_> {
        self.connection.field(variable)
    }
}

impl Extraction {
    /// Before the first byte.
    pub fn new(protocol: Protocol) -> Self {
        let mut extraction = Self {
            protocol,
            phase: Phase::Start,
            complete: ClassSet::ALL,
            found: Vec::with_capacity(32),
            decoded: Vec::new(),
            body: Vec::new(),
            parser: HeadParser::default(),
            head: None,
            charset: None,
            transcoder: None,
            broken: None,
            follower: BodyFollower::Done,
            followed: 0,
            wanted: Vec::with_capacity(16),
            xml: XmlScanner::default(),
            json: JsonScanner::default(),
            hello_reader: HelloReader::default(),
            hello: None,
            dialogue: Dialogue::default(),
            reply: Vec::new(),
        };
        extraction.reset(protocol);
        extraction
    }

    /// Before the first byte of another request, keeping the buffers.
    pub fn reset(&mut self, protocol: Protocol) {
        self.protocol = protocol;
        self.phase = Phase::Start;
        self.complete = protocol.classes().iter().fold(ClassSet::ALL, |set, class| set.without(*class));
        self.found.clear();
        self.decoded.clear();
        self.body.clear();
        self.parser = HeadParser::default();
        self.head = None;
        self.charset = None;
        self.transcoder = None;
        self.broken = None;
        self.followed = 0;
        self.wanted.clear();
        self.hello_reader = HelloReader::default();
        self.hello = None;
        if protocol.server_speaks_first() {
            self.dialogue = Dialogue::default();
        }
        self.reply.clear();
    }

    /// Reads on, until a rule fires or more bytes must come. `buffer` is everything that the client has sent of this
    /// request, and only ever grows; `end` says that no more will come. `scratch` and `plan` are the program's.
    pub fn advance<C: Connection>(
        &mut self,
        program: &Program,
        plan: &Plan,
        scratch: &mut Scratch,
        connection: &C,
        buffer: &[u8],
        end: bool,
    ) -> Result<Outcome, ExtractError> {
        loop {
            let phase = self.phase;
            if !self.read(plan, buffer, end)? {
                return if end { Err(ExtractError::Truncated) } else { Ok(Outcome::NeedMore) };
            }
            // Inside a body single values are known before their class is complete.
            if !matches!(phase, Phase::Xml | Phase::Json) && program.must_wait(self.complete) {
                continue;
            }
            let known = Known { extraction: self, buffer, connection };
            match program.decide(scratch, &known) {
                Decision::Rule(rule) => return Ok(Outcome::Rule(rule)),
                Decision::NoRule => return Ok(Outcome::NoRule),
                Decision::NeedMore(_) if self.phase == Phase::Known => return Ok(Outcome::NoRule),
                Decision::NeedMore(_) => {
                    self.wanted.clear();
                    self.wanted.extend_from_slice(scratch.demanded());
                }
            }
        }
    }

    /// The request's head, read on to its end if need be; `None` while it is not complete. Early rules fire before it is.
    pub fn head(&mut self, plan: &Plan, buffer: &[u8]) -> Result<Option<&Head>, ExtractError> {
        if self.head.is_none() && self.protocol == Protocol::Http {
            self.head = self.parser.read(buffer, plan.limits.head, |_, _| {})?;
        }
        Ok(self.head.as_ref())
    }

    /// Whether the client holds the body back until it is told `100 Continue`, and a rule waits for the body.
    pub fn awaits_continue(&self) -> bool {
        matches!(self.phase, Phase::Xml | Phase::Json) && self.head.is_some_and(|head| head.expects_continue)
    }

    /// The value of a variable, if it has been found: for stickiness by what a rule looked at.
    pub fn value<'v>(&'v self, variable: VarId, buffer: &'v [u8]) -> Option<&'v [u8]> {
        let found = self.found.iter().find(|found| found.variable == variable)?;
        Some(self.at(found.place, buffer))
    }

    /// What the ClientHello said, and the handshake message that its spans are of.
    pub fn client_hello<'v>(&'v self, buffer: &'v [u8]) -> Option<(&'v ClientHello, &'v [u8])> {
        let (place, hello) = self.hello.as_ref()?;
        Some((
            hello,
            match place {
                HelloPlace::Buffer(span) => span.of(buffer),
                HelloPlace::Copy(span) => span.of(&self.body),
            },
        ))
    }

    /// What is to be sent to the client now, where the director speaks for the server. Clear it when it has been taken;
    /// send it before closing, too.
    pub fn reply(&mut self) -> &mut Vec<u8> {
        &mut self.reply
    }

    /// How to bring the chosen server to where the client stands.
    pub fn replay(&self) -> Replay {
        self.dialogue.replay()
    }

    fn at<'v>(&'v self, place: Place, buffer: &'v [u8]) -> &'v [u8] {
        let source = match place.source {
            Source::Buffer => buffer,
            Source::Body => &self.body,
            Source::Decoded => &self.decoded,
        };
        source.get(place.start as usize..place.end as usize).unwrap_or(&[])
    }

    fn put(&mut self, variable: Option<VarId>, span: Span) {
        if let Some(variable) = variable {
            let place = Place { source: Source::Buffer, start: span.start, end: span.end };
            self.found.push(Found { variable, place });
        }
    }

    /// One stage further: true if something new is known.
    fn read(&mut self, plan: &Plan, buffer: &[u8], end: bool) -> Result<bool, ExtractError> {
        match self.phase {
            Phase::Start => {
                self.phase = match self.protocol {
                    Protocol::Http => Phase::Line,
                    Protocol::Tls => Phase::Hello,
                    Protocol::Opaque => Phase::Known,
                    _ => Phase::Dialogue,
                };
                Ok(true)
            }
            Phase::Line => self.read_line(plan, buffer),
            Phase::Head => self.read_head(plan, buffer),
            Phase::Xml | Phase::Json => self.read_body(plan, buffer, end),
            Phase::Hello => self.read_hello(plan, buffer),
            Phase::Dialogue => self.read_dialogue(plan, buffer),
            Phase::Known => Ok(false),
        }
    }

    fn read_line(&mut self, plan: &Plan, buffer: &[u8]) -> Result<bool, ExtractError> {
        let Some(&line) = self.parser.read_line(buffer, plan.limits.head)? else { return Ok(false) };
        self.put(plan.url, line.url);
        self.put(plan.path, line.path);
        self.put(plan.method, line.method);
        self.put(plan.version, line.version);
        if !plan.queries.is_empty() {
            self.read_query(plan, line.query, buffer);
        }
        self.complete = self.complete.with(Class::RequestLine);
        self.phase = Phase::Head;
        Ok(true)
    }

    /// `application/x-www-form-urlencoded`, of which only what is asked for is decoded.
    fn read_query(&mut self, plan: &Plan, query: Span, buffer: &[u8]) {
        let mut at = query.start as usize;
        for pair in query.of(buffer).split(|&b| b == b'&') {
            let equals = memchr(b'=', pair).unwrap_or(pair.len());
            let (name, value) = (&pair[..equals], pair.get(equals + 1..).unwrap_or(&[]));
            let value_at = at + pair.len() - value.len();
            at += pair.len() + 1;
            let variable = if needs_decoding(name) {
                let start = self.decoded.len();
                decode_form(name, &mut self.decoded);
                let variable = plan.queries.get(&self.decoded[start..]);
                self.decoded.truncate(start);
                variable
            } else {
                plan.queries.get(name)
            };
            let Some(variable) = variable else { continue };
            let place = if needs_decoding(value) {
                let start = self.decoded.len();
                decode_form(value, &mut self.decoded);
                Place::new(Source::Decoded, start, self.decoded.len())
            } else {
                Place::new(Source::Buffer, value_at, value_at + value.len())
            };
            self.found.push(Found { variable, place });
        }
    }

    fn read_head(&mut self, plan: &Plan, buffer: &[u8]) -> Result<bool, ExtractError> {
        let found = &mut self.found;
        let mut put = |variable: Option<VarId>, span: Span| {
            if let Some(variable) = variable {
                let place = Place { source: Source::Buffer, start: span.start, end: span.end };
                found.push(Found { variable, place });
            }
        };
        let head = self.parser.read(buffer, plan.limits.head, |name, value| {
            if !plan.headers.is_empty() {
                put(plan.headers.get_folded(name), value);
            }
            if name.len() == 6 && !plan.cookies.is_empty() && name.eq_ignore_ascii_case(b"cookie") {
                read_cookies(value, buffer, |name, value| put(plan.cookies.get(name), value));
            }
        })?;
        let Some(head) = head else { return Ok(false) };
        if let Some(host) = head.host {
            put(plan.host, host);
        }
        self.complete = self.complete.with(Class::Head);
        self.head = Some(head);
        let kind = match head.framing {
            Framing::None => None,
            _ => head.content_type.and_then(|kind| document_kind(kind.of(buffer))),
        };
        self.phase = match kind {
            Some(Class::Xml) => Phase::Xml,
            Some(_) => Phase::Json,
            None => Phase::Known,
        };
        for class in [Class::Xml, Class::Json] {
            if kind != Some(class) {
                self.complete = self.complete.with(class);
            }
        }
        match self.phase {
            Phase::Xml => self.xml.reset(&plan.xml),
            Phase::Json => self.json.reset(&plan.json),
            _ => {}
        }
        self.follower = BodyFollower::new(head.framing);
        self.followed = head.length;
        Ok(true)
    }

    fn read_body(&mut self, plan: &Plan, buffer: &[u8], end: bool) -> Result<bool, ExtractError> {
        let Some(head) = self.head else { return Ok(false) };
        if head.encoded {
            return Err(ExtractError::BodyEncoded);
        }
        let limit = plan.limits.body;
        if self.phase == Phase::Xml && self.charset.is_none() && !self.read_charset(&head, buffer, limit)? {
            return Ok(false);
        }
        let copied = head.framing == Framing::Chunked || self.transcoder.is_some();
        if copied {
            self.copy_body(buffer);
        }
        // A body of known length in UTF-8 is read where it stands.
        let mark = if self.charset.is_some() && !copied { self.followed - head.length } else { 0 };
        let (document, source, base, whole) = if copied {
            (&self.body[..], Source::Body, 0, self.follower.is_done() && self.broken.is_none())
        } else {
            let length = match head.framing {
                Framing::Length(length) => usize::try_from(length).unwrap_or(usize::MAX),
                _ => 0,
            };
            let start = head.length + mark;
            let stop = head.length.saturating_add(length);
            (&buffer[start..buffer.len().min(stop)], Source::Buffer, start, buffer.len() >= stop)
        };
        let inspected = &document[..document.len().min(limit)];
        let cut = inspected.len() < document.len();
        if whole && document.is_empty() {
            self.finish();
            return Ok(true);
        }
        let mut sink =
            Sink { found: &mut self.found, decoded: &mut self.decoded, source, base, wanted: &self.wanted, hit: false };
        let ends = whole && !cut;
        let scan = match self.phase {
            Phase::Xml => self.xml.scan(&plan.xml, inspected, ends, &mut sink)?,
            _ => self.json.scan(&plan.json, inspected, ends, &mut sink)?,
        };
        match scan {
            Scan::Hit => Ok(true),
            Scan::Complete => {
                self.finish();
                Ok(true)
            }
            Scan::NeedMore => match self.broken {
                _ if inspected.len() >= limit => Err(ExtractError::BodyTooLarge),
                Some(error) => Err(error),
                None if end => Err(ExtractError::Truncated),
                None => Ok(false),
            },
        }
    }

    fn finish(&mut self) {
        self.complete = self.complete.with(Class::Xml).with(Class::Json);
        self.phase = Phase::Known;
    }

    /// Finds the encoding of an XML body. False if that takes more bytes.
    fn read_charset(&mut self, head: &Head, buffer: &[u8], limit: usize) -> Result<bool, ExtractError> {
        let declared = match head.content_type {
            Some(kind) => Charset::of_content_type(kind.of(buffer))?,
            None => None,
        };
        let chunked = head.framing == Framing::Chunked;
        if chunked {
            self.copy_body(buffer);
        }
        let (document, whole) = match head.framing {
            Framing::Length(length) => {
                let stop = head.length.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
                (&buffer[head.length..buffer.len().min(stop)], buffer.len() >= stop)
            }
            _ => (&self.body[..], self.follower.is_done()),
        };
        let document = &document[..document.len().min(limit)];
        let Some((charset, mark)) = Charset::detect(document, whole, declared)? else {
            return self.broken.map_or(Ok(false), Err);
        };
        self.charset = Some(charset);
        if charset != Charset::Utf8 {
            self.transcoder = Some(Transcoder::new(charset));
        }
        if chunked {
            let raw = std::mem::take(&mut self.body);
            match &mut self.transcoder {
                Some(transcoder) => {
                    let failed = transcoder.feed(&raw[mark..], &mut self.body).err();
                    self.broken = failed.or(self.broken);
                }
                None => {
                    self.body = raw;
                    self.body.drain(..mark);
                }
            }
        } else {
            self.followed = head.length + mark;
            if let BodyFollower::Length(left) = &mut self.follower {
                *left -= mark as u64;
            }
        }
        Ok(true)
    }

    /// Copies what has arrived of the body, without its chunks and as UTF-8. An answer may stand before what is broken.
    fn copy_body(&mut self, buffer: &[u8]) {
        if self.broken.is_some() {
            return;
        }
        let (body, transcoder) = (&mut self.body, &mut self.transcoder);
        let mut failed = None;
        let fed = self.follower.feed(&buffer[self.followed..], |data| match transcoder {
            _ if failed.is_some() => {}
            Some(transcoder) => failed = transcoder.feed(data, body).err(),
            None => body.extend_from_slice(data),
        });
        self.followed += fed.as_ref().map_or(0, |taken| *taken);
        self.broken = failed.or(fed.err());
    }

    fn read_hello(&mut self, plan: &Plan, buffer: &[u8]) -> Result<bool, ExtractError> {
        let Some(place) = self.hello_reader.read(buffer, plan.limits.hello, &mut self.body)? else { return Ok(false) };
        let (message, source, base) = match place {
            HelloPlace::Buffer(span) => (span.of(buffer), Source::Buffer, span.start),
            HelloPlace::Copy(span) => (span.of(&self.body), Source::Body, span.start),
        };
        let hello = client_hello(message)?;
        for (variable, span) in [(plan.sni, hello.sni), (plan.alpn, hello.alpn)] {
            if let (Some(variable), Some(span)) = (variable, span) {
                let place = Place { source, start: base + span.start, end: base + span.end };
                self.found.push(Found { variable, place });
            }
        }
        self.hello = Some((place, hello));
        self.complete = self.complete.with(Class::Tls);
        self.phase = Phase::Known;
        Ok(true)
    }

    fn read_dialogue(&mut self, plan: &Plan, buffer: &[u8]) -> Result<bool, ExtractError> {
        let event = self.dialogue.step(self.protocol, &plan.name, buffer, &mut self.reply, &mut self.decoded)?;
        match event {
            Event::NeedMore => return Ok(false),
            Event::MailFrom(span) => {
                // After a RSET the first sender no longer counts.
                self.found.clear();
                self.put(plan.mail_from, span);
                self.complete = self.complete.with(Class::MailFrom);
                return Ok(true);
            }
            Event::MailTo(span) => self.put(plan.mail_to, span),
            Event::Login(text) => {
                let variable = match self.protocol {
                    Protocol::Pop3 => plan.pop_user,
                    Protocol::Imap => plan.imap_user,
                    _ => plan.ftp_user,
                };
                match text {
                    Text::Buffer(span) => self.put(variable, span),
                    Text::Decoded(start) => {
                        let place = Place::new(Source::Decoded, start, self.decoded.len());
                        self.found.extend(variable.map(|variable| Found { variable, place }));
                    }
                }
            }
        }
        self.complete = ClassSet::ALL;
        self.phase = Phase::Known;
        Ok(true)
    }
}
