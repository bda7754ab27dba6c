//! Keeping clients with their servers: rendezvous hashing, which remembers nothing, and a table of the cookies that
//! servers have set, which is bounded, expires, and forgets what was seen longest ago when it is full.

use crate::snapshot::Server;
use lcs_dataplane::worker::Nanos;
use std::net::IpAddr;

/// Cookies that one worker remembers at most: 2 MiB.
const COOKIES: usize = 1 << 17;
/// Places where one cookie may stand.
const WAYS: usize = 8;

/// Continues a hash with more bytes (FNV-1a, 64 bits).
fn more(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Spreads what is in a hash over all of its bits (the finalizer of SplitMix64).
fn spread(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

const SEED: u64 = 0xcbf2_9ce4_8422_2325;

/// Hash of a text; never 0.
pub(crate) fn hash(text: &[u8]) -> u64 {
    spread(more(SEED, text)).max(1)
}

/// Hash of an address; never 0.
pub(crate) fn hash_address(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(a) => hash(&a.octets()),
        IpAddr::V6(a) => hash(&a.octets()),
    }
}

/// How well a server suits a client or cookie (Thaler and Ravishankar, 1998): the best of those that are there is taken.
/// It goes by the server's endpoint, so that every worker, and every director, comes to the same one.
pub(crate) fn suits(key: u64, server: &Server) -> u64 {
    spread(more(key ^ hash_address(server.address), &server.port.to_be_bytes()))
}

/// The value of the first cookie of this name in a request's head.
pub(crate) fn cookie_in<'b>(head: &'b [u8], name: &str) -> Option<&'b [u8]> {
    let mut at = 0;
    loop {
        let line = head.get(at..)?;
        let end = memchr::memchr(b'\n', line)?;
        let line = &line[..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if at > 0 && line.is_empty() {
            return None;
        }
        if let Some((b"cookie", value)) = split(line).as_ref().map(|(n, v)| (&n[..], *v)) {
            // RFC 6265 section 4.2.1, read as leniently as rules' `cookie.NAME` is.
            let mut pairs = value.split(|b| *b == b';').map(<[u8]>::trim_ascii);
            let found = pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
            if found.is_some() {
                return found;
            }
        }
        at += end + 1;
    }
}

/// A field of six letters in lower case, and its value.
fn split(line: &[u8]) -> Option<([u8; 6], &[u8])> {
    let (name, value) = (line.get(..6)?, line.get(6..)?.strip_prefix(b":")?);
    let mut folded = [0; 6];
    folded.copy_from_slice(name);
    folded.make_ascii_lowercase();
    Some((folded, value))
}

/// Looks through a response's head, however it is cut into segments, for a cookie of one name that it sets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CookieWatch {
    /// Hash of the name.
    name: u64,
    /// The part of the current line that has been read.
    at: u32,
    part: Part,
    /// It is the head of an interim response: another one follows.
    interim: bool,
    hash: u64,
    found: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Status,
    /// A field's name, so far that of the one that is looked for.
    Field,
    /// What is before the cookie's name.
    Blank,
    Name,
    Value,
    /// What does not matter, up to the line's end.
    Rest,
    /// The head is over.
    Body,
}

const FIELD: &[u8] = b"set-cookie:";

impl CookieWatch {
    /// For a cookie whose name has this hash.
    pub(crate) fn new(name: u64) -> Self {
        CookieWatch { name, at: 0, part: Part::Status, interim: false, hash: SEED, found: 0 }
    }

    /// Hashes of the cookie's name and of the value that the response has set.
    pub(crate) fn found(&self) -> Option<(u64, u64)> {
        (self.found != 0).then_some((self.name, self.found))
    }

    /// Whether the head is over.
    pub(crate) fn is_over(&self) -> bool {
        self.part == Part::Body
    }

    /// Reads the next bytes of the response.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        for b in bytes {
            if self.is_over() {
                return;
            }
            self.byte(*b);
        }
    }

    fn byte(&mut self, b: u8) {
        if b == b'\n' {
            self.end_of_value();
            self.part = match self.at == 0 && self.part != Part::Status {
                true if self.interim => Part::Status,
                true => Part::Body,
                false => Part::Field,
            };
            self.interim &= self.part != Part::Status;
            self.at = 0;
            return;
        }
        if b == b'\r' {
            return self.end_of_value();
        }
        match self.part {
            // HTTP/1.1 1xx, but for 101, after which there is no more HTTP.
            Part::Status => self.interim |= self.at == 9 && b == b'1',
            Part::Field => {
                self.part = match FIELD.get(self.at as usize) {
                    Some(wanted) if *wanted != b.to_ascii_lowercase() => Part::Rest,
                    Some(b':') => Part::Blank,
                    _ => Part::Field,
                };
            }
            Part::Blank | Part::Name if matches!(b, b' ' | b'\t') => {}
            Part::Blank => {
                self.part = Part::Name;
                self.hash = more(SEED, &[b]);
            }
            Part::Name if b == b'=' => {
                self.part = if spread(self.hash).max(1) == self.name { Part::Value } else { Part::Rest };
                self.hash = SEED;
            }
            Part::Name if b == b';' => self.part = Part::Rest,
            Part::Name => self.hash = more(self.hash, &[b]),
            Part::Value if b == b';' => {
                self.end_of_value();
                self.part = Part::Rest;
            }
            Part::Value if matches!(b, b' ' | b'\t') => {}
            Part::Value => self.hash = more(self.hash, &[b]),
            Part::Rest | Part::Body => {}
        }
        self.at = self.at.saturating_add(1);
    }

    fn end_of_value(&mut self) {
        if self.part == Part::Value {
            if self.hash != SEED {
                self.found = spread(self.hash).max(1);
            }
            self.part = Part::Rest;
        }
    }
}

/// Which server has set a cookie.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// Hash of service, cookie and value; 0 for none.
    key: u64,
    server: u16,
    /// When it was seen, in seconds.
    seen: u32,
}

/// What is remembered of servers' cookies.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    known: Vec<Known>,
}

/// Seconds of a worker's clock.
fn seconds(now: Nanos) -> u32 {
    (now / 1_000_000_000) as u32
}

impl Sessions {
    /// Makes room.
    pub(crate) fn reserve(&mut self) {
        if self.known.is_empty() {
            self.known = vec![Known::default(); COOKIES];
        }
    }

    /// The key of a cookie of a service: by hashes of its name and value.
    pub(crate) fn key(service: u16, name: u64, value: u64) -> u64 {
        spread(name.rotate_left(17) ^ value ^ u64::from(service)).max(1)
    }

    fn ways(&mut self, key: u64) -> &mut [Known] {
        let first = (key >> 20) as usize % (COOKIES / WAYS) * WAYS;
        self.known.get_mut(first..first + WAYS).unwrap_or_default()
    }

    /// The server of a cookie that was seen in the last `timeout` seconds, and for how long it had not been seen.
    pub(crate) fn find(&mut self, key: u64, timeout: u32, now: Nanos) -> Option<(u16, u32)> {
        let now = seconds(now);
        let known = self.ways(key).iter_mut().find(|k| k.key == key)?;
        let idle = now.saturating_sub(known.seen);
        if idle > timeout {
            return None;
        }
        known.seen = now;
        Some((known.server, idle))
    }

    /// A server has set a cookie, or a client has brought it back. Returns whether that is news.
    pub(crate) fn learn(&mut self, key: u64, server: u16, now: Nanos) -> bool {
        let new = Known { key, server, seen: seconds(now) };
        let ways = self.ways(key);
        if let Some(known) = ways.iter_mut().find(|k| k.key == key) {
            let news = known.server != server;
            *known = new;
            return news;
        }
        if let Some(oldest) = ways.iter_mut().min_by_key(|k| (k.key != 0, k.seen)) {
            *oldest = new;
        }
        true
    }

    /// Servers' slots have changed hands.
    pub(crate) fn forget(&mut self, gone: &[u16]) {
        if gone.is_empty() {
            return;
        }
        let mut slots = vec![false; 1 << 16];
        gone.iter().for_each(|slot| slots[usize::from(*slot)] = true);
        let known = self.known.iter_mut().filter(|k| k.key != 0 && slots[usize::from(k.server)]);
        known.for_each(|k| *k = Known::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Forward, ServerState};

    fn server(host: u8) -> Server {
        Server {
            name: format!("s{host}"),
            service: 0,
            address: IpAddr::from([10, 0, 0, host]),
            port: 80,
            forward: Forward::Nat,
            weight: 1,
            state: ServerState::Up,
            next_hop: 0,
            tunnel_source: None,
        }
    }

    #[test]
    fn rendezvous_spreads_and_moves_only_those_of_a_server_that_goes() {
        let servers: Vec<Server> = (1..=4).map(server).collect();
        let best = |key: u64, of: &[Server]| of.iter().max_by_key(|s| suits(key, s)).unwrap().name.clone();
        let keys: Vec<u64> = (0..4000u32).map(|n| hash_address(IpAddr::from(n.to_be_bytes()))).collect();
        for s in &servers {
            let share = keys.iter().filter(|k| best(**k, &servers) == s.name).count();
            assert!((850..1150).contains(&share), "{} has {share}", s.name);
        }
        for key in keys {
            let before = best(key, &servers);
            let after = best(key, &servers[..3]);
            assert!(before == after || before == "s4");
        }
    }

    #[test]
    fn a_requests_cookie_is_found_in_its_head_only() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nX-Cookie: id=9\r\ncOOKIE: a=1; id=abc ; id=d\r\nCookie: z=5\r\n\r\nCookie: q=1\r\n";
        assert_eq!(cookie_in(head, "id"), Some(&b"abc"[..]));
        assert_eq!(cookie_in(head, "z"), Some(&b"5"[..]));
        assert_eq!((cookie_in(head, "q"), cookie_in(head, "i"), cookie_in(b"", "q")), (None, None, None));
    }

    #[test]
    fn a_responses_cookie_is_found_however_it_is_cut() {
        let with = |fields: &str| {
            format!("HTTP/1.1 200 OK\r\nServer: x\r\n{fields}Content-Length: 0\r\n\r\nset-cookie: id=body\r\n")
        };
        let interim = format!("HTTP/1.1 103 Early\r\nLink: x\r\n\r\n{}", with("Set-Cookie: id=abc\r\n"));
        for (response, value) in [
            (with("Set-Cookie: id=abc; Path=/\r\n"), Some("abc")),
            (with("SET-COOKIE:  a=1\r\nset-cookie:id=abc\r\n"), Some("abc")),
            (with("Set-Cookie: id=x\r\nSet-Cookie: id=abc;Secure\r\n"), Some("abc")),
            (interim, Some("abc")),
            (with("Set-Cookie: id=; Max-Age=0\r\n"), None),
            (with("Set-Cookie: idx=abc\r\nX-Set-Cookie: id=abc\r\nSet-Cookie2: id=abc\r\n"), None),
            (with(""), None),
        ] {
            for piece in 1..response.len() {
                let mut watch = CookieWatch::new(hash(b"id"));
                response.as_bytes().chunks(piece).for_each(|part| watch.feed(part));
                assert!(watch.is_over(), "{response}");
                assert_eq!(watch.found().map(|f| f.1), value.map(|v| hash(v.as_bytes())), "{response} by {piece}");
            }
        }
    }

    #[test]
    fn cookies_are_remembered_until_they_expire_or_give_way() {
        const S: Nanos = 1_000_000_000;
        let mut c = Sessions::default();
        assert!(c.learn(5, 1, 0), "nothing is remembered without room");
        assert_eq!(c.find(5, 10, 0), None);
        c.reserve();
        let key = |n: u64| Sessions::key(3, hash(b"id"), hash(&n.to_be_bytes()));
        assert!(c.learn(key(1), 7, 100 * S));
        assert!(!c.learn(key(1), 7, 101 * S));
        assert!(c.learn(key(1), 8, 101 * S), "another server has set it");
        assert_eq!(c.find(key(1), 60, 130 * S), Some((8, 29)));
        assert_eq!(c.find(key(1), 60, 190 * S), Some((8, 60)));
        assert_eq!(c.find(key(1), 60, 251 * S), None);
        assert_eq!(
            (
                c.find(key(2), 60, 130 * S),
                c.find(Sessions::key(4, hash(b"id"), hash(&1u64.to_be_bytes())), 60, 130 * S)
            ),
            (None, None)
        );
        for n in 0..2 * COOKIES as u64 {
            c.learn(key(n), 1, (300 + n) * S);
        }
        assert!(c.known.len() == COOKIES && c.find(key(2 * COOKIES as u64 - 1), u32::MAX, 0).is_some());
        c.forget(&[1]);
        assert_eq!(c.find(key(2 * COOKIES as u64 - 1), u32::MAX, 0), None);
    }
}
