//! One request and its response: all of their bytes as a function of a short code that the request itself carries.

use crate::network::http::body;
use crate::network::random::Random;
use std::fmt;
use std::str::FromStr;

/// The header field with the code.
pub const CODE_FIELD: &str = "X-Exchange: ";
/// The header field by which a server names itself.
pub const SERVER_FIELD: &str = "X-Server: ";
/// The host that requests name.
pub const HOST: &str = "shop.example";

/// What kind of request it is: which rule is meant to take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// No rule but `default`.
    Web,
    /// By the beginning of the URL.
    Lcs1,
    /// By the beginning of another URL.
    Lcs2,
    /// By the end of the path.
    Images,
    /// By a cookie.
    Member,
    /// By a large second subtotal in an XML document.
    Large,
    /// By a small one.
    Small,
    /// To a group of which no server lives.
    Down,
    /// Refused by a rule.
    Forbidden,
    /// Sent elsewhere by a rule.
    Moved,
}

impl Class {
    /// Every class.
    pub const ALL: [Class; 10] = [
        Class::Web,
        Class::Lcs1,
        Class::Lcs2,
        Class::Images,
        Class::Member,
        Class::Large,
        Class::Small,
        Class::Down,
        Class::Forbidden,
        Class::Moved,
    ];
    /// Those that servers answer.
    pub const SERVED: [Class; 7] =
        [Class::Web, Class::Lcs1, Class::Lcs2, Class::Images, Class::Member, Class::Large, Class::Small];

    /// Its name, which is also that of the group that answers it.
    pub fn name(self) -> &'static str {
        match self {
            Class::Web => "web",
            Class::Lcs1 => "lcs1",
            Class::Lcs2 => "lcs2",
            Class::Images => "images",
            Class::Member => "member",
            Class::Large => "large",
            Class::Small => "small",
            Class::Down => "down",
            Class::Forbidden => "forbidden",
            Class::Moved => "moved",
        }
    }

    /// Whether its requests are decided by an XML document.
    pub fn by_document(self) -> bool {
        matches!(self, Class::Large | Class::Small)
    }
}

/// How a request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `GET`, without a body.
    Get,
    /// `HEAD`: the response has no body.
    Head,
    /// `POST` with `Content-Length`.
    Post,
    /// `POST` in chunks.
    Chunked,
}

/// How the response says where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// `Content-Length`.
    Length,
    /// In chunks, with extensions and trailers now and then.
    Chunked,
    /// 204: nothing follows.
    NoContent,
    /// 304: a length is said and nothing follows.
    NotModified,
    /// The end of the connection ends it.
    UntilClose,
}

/// Who ends the connection with this exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// Nobody.
    Keep,
    /// The client asks for it: `Connection: close` in the request.
    Asked,
    /// The server does: `Connection: close` in the response.
    Server,
}

/// One request and its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    /// Decides whatever the other fields leave open; no two exchanges of a run have the same.
    pub number: u64,
    /// Which rule it is for.
    pub class: Class,
    /// How the request is sent.
    pub method: Method,
    /// Bytes of request body before chunks are made of it; about so many for a document.
    pub body: u32,
    /// How the response says where it ends.
    pub framing: Framing,
    /// Whether an interim response (103) comes first.
    pub interim: bool,
    /// Bytes of response body before chunks are made of it.
    pub reply: u32,
    /// Who ends the connection with it.
    pub closing: Closing,
    /// Number of the session that the server begins with a cookie; 0 for none.
    pub session: u32,
    /// Whether the request brings that cookie along.
    pub returning: bool,
}

/// The cookie that stands for a session.
pub const SESSION_COOKIE: &str = "session";

impl Exchange {
    /// A GET of this class for this many bytes.
    pub fn get(number: u64, class: Class, reply: u32) -> Self {
        Exchange {
            number,
            class,
            method: if class.by_document() { Method::Post } else { Method::Get },
            body: if class.by_document() { 600 } else { 0 },
            framing: Framing::Length,
            interim: false,
            reply,
            closing: Closing::Keep,
            session: 0,
            returning: false,
        }
    }

    /// Path and query of the request.
    pub fn url(&self) -> String {
        let n = self.number;
        match self.class {
            Class::Web | Class::Member => format!("/shop/{n:x}?page={}", n % 7),
            Class::Lcs1 => format!("/lcs1/{n:x}"),
            Class::Lcs2 => format!("/lcs2/{n:x}"),
            Class::Images => {
                format!("/pictures/{n:x}.{}?size={}", if n.is_multiple_of(2) { "gif" } else { "jpg" }, n % 5)
            }
            Class::Large | Class::Small => format!("/purchase/{n:x}"),
            Class::Down => format!("/down/{n:x}"),
            Class::Forbidden => "/forbidden".into(),
            Class::Moved => format!("/old/{n:x}"),
        }
    }

    /// Every byte of the request.
    pub fn request(&self) -> Vec<u8> {
        let mut random = Random::new(self.number);
        let method = match self.method {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post | Method::Chunked => "POST",
        };
        let mut head = format!("{method} {} HTTP/1.1\r\nHost: {HOST}\r\n", self.url());
        let cookie = if self.class == Class::Member { "theme=dark; level=gold" } else { "theme=dark; level=none" };
        // Fields around those that matter, so that these stand at many offsets.
        for n in 0..random.below(4) {
            let width = 1 + random.below(60) as usize;
            head.push_str(&format!("X-Filler-{n}: {}\r\n", "f".repeat(width)));
        }
        if self.class == Class::Member || random.chance(0.3) {
            head.push_str(&format!("Cookie: {cookie}\r\n"));
        }
        if self.returning {
            head.push_str(&format!("Cookie: a=b; {SESSION_COOKIE}={:x}\r\n", self.session));
        }
        head.push_str(&format!("{CODE_FIELD}{self}\r\n"));
        let sends = matches!(self.method, Method::Post | Method::Chunked);
        if sends {
            let kind = if self.class.by_document() { "text/xml" } else { "application/octet-stream" };
            head.push_str(&format!("Content-Type: {kind}\r\n"));
        }
        if self.closing == Closing::Asked {
            head.push_str("Connection: close\r\n");
        }
        let mut bytes = head.into_bytes();
        if !sends {
            bytes.extend(b"\r\n");
            return bytes;
        }
        let content = self.content();
        if self.method == Method::Chunked {
            bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            chunks(&mut bytes, &content, &mut random);
        } else {
            bytes.extend(format!("Content-Length: {}\r\n\r\n", content.len()).into_bytes());
            bytes.extend(content);
        }
        bytes
    }

    /// The request's body before chunks are made of it.
    fn content(&self) -> Vec<u8> {
        if self.class.by_document() {
            return document(self.class == Class::Large, self.body as usize, &mut Random::new(!self.number))
                .into_bytes();
        }
        let mut content = vec![0; self.body as usize];
        body::fill(!self.number, 0, &mut content);
        content
    }

    /// Every byte of this server's response.
    pub fn response(&self, server: &str) -> Vec<u8> {
        let salt = self.number ^ body::salt(server);
        let mut random = Random::new(salt);
        let mut bytes = vec![];
        if self.interim {
            let link = "Link: </style.css>; rel=preload";
            bytes.extend(format!("HTTP/1.1 103 Early Hints\r\n{SERVER_FIELD}{server}\r\n{link}\r\n\r\n").into_bytes());
        }
        let (status, reason) = match self.framing {
            Framing::NoContent => (204, "No Content"),
            Framing::NotModified => (304, "Not Modified"),
            _ => (200, "OK"),
        };
        // What the server got, so that a client's capture shows it.
        let got = body::hash(&self.request());
        let mut head = format!("HTTP/1.1 {status} {reason}\r\n{SERVER_FIELD}{server}\r\n");
        head.push_str(&format!("{CODE_FIELD}{self}\r\nX-Request-Hash: {got:016x}\r\n"));
        if self.session > 0 && !self.returning {
            head.push_str(&format!("Set-Cookie: {SESSION_COOKIE}={:x}; Path=/; HttpOnly\r\n", self.session));
        }
        match self.framing {
            Framing::Length | Framing::NotModified => head.push_str(&format!("Content-Length: {}\r\n", self.reply)),
            Framing::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
            Framing::NoContent | Framing::UntilClose => {}
        }
        if self.server_closes() {
            head.push_str("Connection: close\r\n");
        }
        head.push_str("\r\n");
        bytes.extend(head.into_bytes());
        if self.method == Method::Head || matches!(self.framing, Framing::NoContent | Framing::NotModified) {
            return bytes;
        }
        let mut content = vec![0; self.reply as usize];
        body::fill(salt, 0, &mut content);
        if self.framing == Framing::Chunked {
            chunks(&mut bytes, &content, &mut random);
        } else {
            bytes.extend(content);
        }
        bytes
    }

    /// Whether the server closes the connection behind its response.
    pub fn server_closes(&self) -> bool {
        self.closing != Closing::Keep || self.framing == Framing::UntilClose
    }
}

/// Appends a body in chunks, now and then with an extension or a trailer field (RFC 9112 section 7.1).
fn chunks(bytes: &mut Vec<u8>, content: &[u8], random: &mut Random) {
    let largest = [3, 100, 4096][random.below(3) as usize];
    let mut rest = content;
    // A body of a byte a chunk is made once, not of each of 100,000 bytes.
    let mut budget = 200;
    while !rest.is_empty() {
        budget -= 1;
        let n = if budget > 0 { (1 + random.below(largest) as usize).min(rest.len()) } else { rest.len() };
        let extension = if random.chance(0.1) { ";a=\"b\"" } else { "" };
        bytes.extend(format!("{n:x}{extension}\r\n").into_bytes());
        bytes.extend(&rest[..n]);
        bytes.extend(b"\r\n");
        rest = &rest[n..];
    }
    bytes.extend(b"0\r\n");
    if random.chance(0.3) {
        bytes.extend(b"X-Trailer: end\r\n");
    }
    bytes.extend(b"\r\n");
}

/// The tutorial's purchase (slides 39 and 40), of about `size` bytes, with the second item's subtotal near its end.
fn document(large: bool, size: usize, random: &mut Random) -> String {
    let subtotal = if large { random.between(50_001, 90_000) } else { random.between(1, 49_999) };
    let mut text = String::from("<?xml version=\"1.0\"?>\n<purchase>\n<customerName>CCL</customerName>\n");
    // The first item's subtotal would take it to the other group.
    let other = if large { 10 } else { 70_000 };
    let item = |id: u64, subtotal: u64, notes: &str| {
        format!(
            "<item><productID>{id}</productID><productName>PC card &amp; case</productName>{notes}\
             <unitPrice>200</unitPrice><noOfUnits>10</noOfUnits><subTotal>{subtotal}</subTotal></item>\n"
        )
    };
    text.push_str(&item(309_121_538, other, ""));
    let mut notes = String::new();
    while text.len() + notes.len() + 260 < size {
        match random.below(3) {
            0 => notes.push_str("<!-- <subTotal>99999</subTotal> -->"),
            1 => notes.push_str("<note><![CDATA[<subTotal>7</subTotal>]]></note>"),
            _ => notes.push_str(&format!("<note by='x'>{}</note>", "n".repeat(random.below(300) as usize))),
        }
    }
    text.push_str(&item(309_121_539, subtotal, &notes));
    text.push_str("<totalAmount>52000</totalAmount>\n</purchase>\n");
    text
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = match self.method {
            Method::Get => "get",
            Method::Head => "head",
            Method::Post => "post",
            Method::Chunked => "chunks",
        };
        let framing = match self.framing {
            Framing::Length => "length",
            Framing::Chunked => "chunks",
            Framing::NoContent => "none",
            Framing::NotModified => "same",
            Framing::UntilClose => "eof",
        };
        let closing = match self.closing {
            Closing::Keep => "keep",
            Closing::Asked => "asked",
            Closing::Server => "server",
        };
        let interim = if self.interim { "interim" } else { "final" };
        let returning = if self.returning { "again" } else { "new" };
        let Exchange { number, class, body, reply, session, .. } = self;
        let class = class.name();
        write!(f, "{number:x}.{class}.{method}.{body}.{framing}.{interim}.{reply}.{closing}.{session}.{returning}")
    }
}

impl FromStr for Exchange {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('.');
        let mut part = || parts.next().ok_or(());
        let number = u64::from_str_radix(part()?, 16).map_err(|_| ())?;
        let name = part()?;
        let class = Class::ALL.into_iter().find(|c| c.name() == name).ok_or(())?;
        let method = match part()? {
            "get" => Method::Get,
            "head" => Method::Head,
            "post" => Method::Post,
            "chunks" => Method::Chunked,
            _ => return Err(()),
        };
        let body = part()?.parse().map_err(|_| ())?;
        let framing = match part()? {
            "length" => Framing::Length,
            "chunks" => Framing::Chunked,
            "none" => Framing::NoContent,
            "same" => Framing::NotModified,
            "eof" => Framing::UntilClose,
            _ => return Err(()),
        };
        let interim = part()? == "interim";
        let reply = part()?.parse().map_err(|_| ())?;
        let closing = match part()? {
            "keep" => Closing::Keep,
            "asked" => Closing::Asked,
            "server" => Closing::Server,
            _ => return Err(()),
        };
        let session = part()?.parse().map_err(|_| ())?;
        let returning = part()? == "again";
        Ok(Exchange { number, class, method, body, framing, interim, reply, closing, session, returning })
    }
}

/// The value of a header field in a head, found by its name with colon and blank.
pub fn field<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    let text = std::str::from_utf8(head).ok()?;
    text.split("\r\n").find_map(|line| line.strip_prefix(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::http::message::head_end;

    #[test]
    fn a_request_carries_the_code_that_rebuilds_it() {
        let mut random = Random::new(4);
        for class in Class::ALL {
            for (method, framing) in [
                (Method::Get, Framing::Length),
                (Method::Head, Framing::Chunked),
                (Method::Post, Framing::NoContent),
                (Method::Chunked, Framing::UntilClose),
            ] {
                let closing = [Closing::Keep, Closing::Asked, Closing::Server][random.below(3) as usize];
                let interim = random.chance(0.5);
                let e = Exchange {
                    method,
                    framing,
                    closing,
                    interim,
                    body: 900,
                    session: random.below(2) as u32 * 77,
                    returning: random.chance(0.5),
                    ..Exchange::get(random.draw(), class, 70)
                };
                let request = e.request();
                let head = &request[..head_end(&request, 0).unwrap()];
                assert_eq!(field(head, CODE_FIELD).unwrap().parse(), Ok(e));
                assert_eq!(e.request(), request);
                assert_ne!(e.response("s1"), e.response("s2"));
                let response = e.response("s1");
                assert_eq!(field(&response[..head_end(&response, 0).unwrap()], SERVER_FIELD), Some("s1"));
            }
        }
    }

    #[test]
    fn a_document_decides_near_its_end_and_has_about_the_size_that_was_asked_for() {
        for size in [600, 5_000, 30_000] {
            let e = Exchange { body: size, ..Exchange::get(77, Class::Large, 1) };
            let content = String::from_utf8(e.content()).unwrap();
            assert!(content.len().abs_diff(size as usize) < 600, "{}", content.len());
            let at = content.rfind("<subTotal>").unwrap();
            assert!(content.len() - at < 200);
            let value: u64 = content[at + 10..].split('<').next().unwrap().parse().unwrap();
            assert!(value > 50_000);
        }
    }
}
