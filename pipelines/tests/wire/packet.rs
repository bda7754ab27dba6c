//! A packet in words.
//!
//! ```text
//! tcp 192.0.2.1:1000 > 198.51.100.1:80 S ttl=63 mss=1460
//! udp [2001:db8::1]:53 > [2001:db8::2]:53 len=2000 id=7 frag=0..1448
//! ip4 10.9.0.1 > 10.0.0.1 id=2 df [ tcp 192.0.2.1:1000 > 198.51.100.1:80 S ]      (a tunnel: what is inside says the protocol)
//! icmp 192.0.2.254 > 198.51.100.1 fragmentation-needed mtu=1400 [ tcp … cut=8 ]
//! arp who-has 198.51.100.1 tell 192.0.2.1 to=broadcast
//! raw 0200 0000 0001
//! ```
//! What is not said: ttl 64, everything else 0; right checksums; payload of a fixed pattern.

use super::{checksum, pseudo};
use std::collections::BTreeMap;
use std::net::IpAddr;

pub type Mac = [u8; 6];

/// Every attribute that a packet may have.
const ATTRIBUTES: &[&str] = &[
    // link
    "from",
    "to",
    "vlan",
    "pad",
    "ethertype",
    // IP; `ip-sum=bad`, `ip-len=N` and `version=N` make it wrong; `cut=N` keeps N bytes behind the IP header
    "ttl",
    "tos",
    "id",
    "df",
    "mf",
    "frag",
    "ip-options",
    "ext",
    "ip-sum",
    "ip-len",
    "version",
    "ihl",
    "cut",
    "proto",
    "flow",
    // transport
    "seq",
    "ack",
    "win",
    "mss",
    "options",
    "doff",
    "sum",
    "len",
    "udp-len",
    "data",
    // ICMP
    "mtu",
    "code",
    "type",
    "word",
    "target",
    "mac",
    "link",
    "solicited",
];

/// A packet in words, read.
#[derive(Debug, Clone)]
pub struct Packet {
    kind: String,
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
    /// TCP flags, or what the ICMP message is.
    word: String,
    attributes: BTreeMap<String, String>,
    inner: Option<Box<Packet>>,
    raw: Vec<u8>,
}

fn number<T: TryFrom<u64>>(name: &str, text: &str) -> Result<T, String> {
    let n = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    n.and_then(|n| T::try_from(n).ok()).ok_or_else(|| format!("{name}={text}: write a number that fits the field"))
}

fn hex(text: &str) -> Result<Vec<u8>, String> {
    let text: String = text.chars().filter(|c| !c.is_whitespace() && *c != '_').collect();
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return Err(format!("{text:?}: write whole bytes in hexadecimal"));
    }
    (0..text.len() / 2)
        .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| format!("{text:?} is not hexadecimal")))
        .collect()
}

pub fn mac(text: &str) -> Result<Mac, String> {
    if text == "broadcast" {
        return Ok([0xff; 6]);
    }
    let bytes: Result<Vec<u8>, _> = text.split(':').map(|b| u8::from_str_radix(b, 16)).collect();
    bytes
        .ok()
        .and_then(|b| b.try_into().ok())
        .ok_or_else(|| format!("{text:?}: write a link-layer address such as 02:00:00:00:00:01, or broadcast"))
}

fn endpoint(text: &str) -> Result<(IpAddr, u16), String> {
    if let Ok(s) = text.parse::<std::net::SocketAddr>() {
        return Ok((s.ip(), s.port()));
    }
    text.trim_matches(['[', ']'])
        .parse::<IpAddr>()
        .map(|a| (a, 0))
        .map_err(|_| format!("{text:?}: write an address, with a port as in 192.0.2.1:80 or [2001:db8::1]:80"))
}

fn octets(a: IpAddr) -> Vec<u8> {
    match a {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// Payload bytes of a fixed pattern.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + 3) as u8).collect()
}

impl Packet {
    /// Reads a packet from words. The whole text must be one packet.
    pub fn read(text: &str) -> Result<Packet, String> {
        let text = text.trim();
        if let Some(rest) = text.strip_prefix("raw ") {
            let any = IpAddr::from([0; 4]);
            let (attributes, raw) = (BTreeMap::new(), hex(rest)?);
            let (kind, word) = ("raw".to_owned(), String::new());
            return Ok(Packet { kind, source: (any, 0), destination: (any, 0), word, attributes, inner: None, raw });
        }
        let (outer, inner) = match text.split_once(" [ ") {
            Some((outer, rest)) => {
                let rest = rest.trim_end();
                let inner =
                    rest.strip_suffix(']').ok_or("the packet inside [ … ] must be closed at the end of the line")?;
                (outer, Some(Box::new(Packet::read(inner)?)))
            }
            None => (text, None),
        };
        let mut words = outer.split_whitespace();
        let kind = words.next().ok_or("a packet begins with tcp, udp, icmp, ip4, ip6, ip, arp or raw")?.to_owned();
        let mut attributes = BTreeMap::new();
        let mut plain = vec![];
        for w in words {
            let (name, value) = w.split_once('=').unwrap_or((w, ""));
            if ATTRIBUTES.contains(&name) && (w.contains('=') || matches!(name, "df" | "mf" | "solicited")) {
                if attributes.insert(name.to_owned(), value.to_owned()).is_some() {
                    return Err(format!("{name} is said twice"));
                }
            } else if w.contains('=') {
                return Err(format!("{name}= is no attribute of a packet; there are: {}", ATTRIBUTES.join(" ")));
            } else {
                plain.push(w);
            }
        }
        let (source, destination, word) = match (kind.as_str(), plain.as_slice()) {
            ("arp", ["who-has", target, "tell", sender]) => {
                (endpoint(sender)?, endpoint(target)?, "who-has".to_owned())
            }
            ("arp", [sender, "is-at", _, "tell", target]) => (endpoint(sender)?, endpoint(target)?, "is-at".to_owned()),
            ("tcp" | "udp" | "icmp" | "ip4" | "ip6" | "ip", [s, ">", d]) => (endpoint(s)?, endpoint(d)?, String::new()),
            ("tcp" | "icmp", [s, ">", d, word]) => (endpoint(s)?, endpoint(d)?, (*word).to_owned()),
            ("arp", _) => {
                return Err("write: arp who-has TARGET tell SENDER, or: arp SENDER is-at MAC tell TARGET".into());
            }
            _ => {
                return Err(format!(
                    "{outer:?}: write KIND SOURCE > DESTINATION, then for tcp its flags, for icmp its message"
                ));
            }
        };
        if source.0.is_ipv4() != destination.0.is_ipv4() {
            return Err(format!("{outer:?}: source and destination are of different families"));
        }
        let mut p = Packet { kind, source, destination, word, attributes, inner, raw: vec![] };
        if p.word == "is-at" {
            p.attributes.insert("mac".to_owned(), plain[2].to_owned());
        }
        p.ip(0)?; // says what is wrong with it now, where the line is known
        Ok(p)
    }

    fn has(&self, name: &str) -> bool {
        self.attributes.contains_key(name)
    }

    fn get<T: TryFrom<u64>>(&self, name: &str, default: T) -> Result<T, String> {
        self.attributes.get(name).map_or(Ok(default), |v| number(name, v))
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }

    fn is_v4(&self) -> bool {
        self.source.0.is_ipv4()
    }

    /// Whether a checksum in it is wrong on purpose, or it is cut short.
    pub fn is_broken(&self) -> bool {
        ["sum", "ip-sum", "ip-len", "cut", "udp-len"].iter().any(|a| self.has(a))
            || self.inner.as_ref().is_some_and(|p| p.is_broken())
    }

    /// Protocol number and bytes of what the IP header carries, before fragmentation.
    fn transport(&self) -> Result<(u8, Vec<u8>), String> {
        let mut payload = match self.text("data") {
            Some(d) => hex(d)?,
            None => pattern(self.get("len", 0usize)?),
        };
        let (s, d) = (octets(self.source.0), octets(self.destination.0));
        let (protocol, mut out, sum_at) = match self.kind.as_str() {
            "tcp" => {
                let mut options = self.text("options").map_or(Ok(vec![]), hex)?;
                if self.has("mss") {
                    options.extend([2, 4]);
                    options.extend(self.get("mss", 0u16)?.to_be_bytes());
                }
                let mut h = vec![];
                h.extend(self.source.1.to_be_bytes());
                h.extend(self.destination.1.to_be_bytes());
                h.extend(self.get("seq", 0u32)?.to_be_bytes());
                h.extend(self.get("ack", 0u32)?.to_be_bytes());
                h.push(self.get("doff", (5 + options.len() / 4) as u8)? << 4);
                let mut flags = 0;
                for c in self.word.chars() {
                    flags |= match c {
                        'F' => 1,
                        'S' => 2,
                        'R' => 4,
                        'P' => 8,
                        'A' => 16,
                        'U' => 32,
                        '-' => 0,
                        _ => return Err(format!("{c:?} is no TCP flag: S A F R P U, or - for none")),
                    };
                }
                h.push(flags);
                h.extend(self.get("win", 0u16)?.to_be_bytes());
                h.extend([0; 4]);
                h.extend(options);
                (6, h, Some(16))
            }
            "udp" => {
                let mut h = vec![];
                h.extend(self.source.1.to_be_bytes());
                h.extend(self.destination.1.to_be_bytes());
                h.extend(self.get("udp-len", (payload.len() + 8) as u16)?.to_be_bytes());
                h.extend([0; 2]);
                (17, h, Some(6))
            }
            "icmp" => {
                let v4 = self.is_v4();
                let (kind, code) = match (self.word.as_str(), v4) {
                    ("echo-request", true) => (8, 0),
                    ("echo-request", false) => (128, 0),
                    ("echo-reply", true) => (0, 0),
                    ("echo-reply", false) => (129, 0),
                    ("unreachable", true) => (3, self.get("code", 1)?),
                    ("unreachable", false) => (1, self.get("code", 3)?),
                    ("port-unreachable", true) => (3, 3),
                    ("port-unreachable", false) => (1, 4),
                    ("fragmentation-needed", true) => (3, 4),
                    ("too-big", false) => (2, 0),
                    ("time-exceeded", true) => (11, 0),
                    ("time-exceeded", false) => (3, 0),
                    ("redirect", true) => (5, 1),
                    ("source-quench", true) => (4, 0),
                    ("solicitation", false) => (135, 0),
                    ("advertisement", false) => (136, 0),
                    ("message", _) => (self.get("type", 0)?, self.get("code", 0)?),
                    (w, _) => return Err(format!("{w:?} is no ICMP message of this family that the vectors know")),
                };
                let mut h = vec![kind, code, 0, 0];
                let word = if self.has("mtu") { self.get("mtu", 0u32)? } else { self.get("word", 0u32)? };
                h.extend(word.to_be_bytes());
                if kind == 136 && !v4 {
                    h[4] = if self.has("solicited") { 0x60 } else { 0x20 };
                }
                if let Some(t) = self.text("target") {
                    h.extend(octets(endpoint(t)?.0));
                }
                if let Some(l) = self.text("link") {
                    h.extend([if kind == 136 { 2 } else { 1 }, 1]);
                    h.extend(mac(l)?);
                }
                (if v4 { 1 } else { 58 }, h, Some(2))
            }
            "ip4" | "ip6" => {
                if self.is_v4() != (self.kind == "ip4") {
                    return Err(format!("{} needs addresses of its family", self.kind));
                }
                match &self.inner {
                    Some(inner) => (if inner.is_v4() { 4 } else { 41 }, vec![], None),
                    None => return Err("a tunnel packet needs its inner packet: [ … ]".into()),
                }
            }
            "ip" => (self.get("proto", 253)?, vec![], None),
            "arp" => (0, vec![], None),
            k => return Err(format!("{k:?} is no kind of packet: tcp, udp, icmp, ip4, ip6, ip, arp or raw")),
        };
        if let Some(inner) = &self.inner {
            payload = inner.ip(0)?;
        }
        out.extend(payload);
        if let Some(at) = sum_at {
            let over = if self.kind == "icmp" && self.is_v4() { vec![] } else { pseudo(&s, &d, protocol, out.len()) };
            let mut c = checksum(&[&over, &out]);
            match self.text("sum") {
                None => {}
                Some("bad") => c = !checksum(&[&c.to_be_bytes(), &[0, 1]]),
                Some(n) => c = number("sum", n)?,
            }
            if self.kind == "udp" && c == 0 && !self.has("sum") {
                c = 0xffff;
            }
            out[at..at + 2].copy_from_slice(&c.to_be_bytes());
        }
        Ok((protocol, out))
    }

    /// The IP packet, with everything wrong that was asked for. `less` is subtracted from the TTL.
    pub fn ip(&self, less: u8) -> Result<Vec<u8>, String> {
        if self.kind == "raw" {
            return Ok(self.raw.clone());
        }
        let (protocol, whole) = self.transport()?;
        let (mut from, mut to) = (0, whole.len());
        if let Some(range) = self.text("frag") {
            let bad = || {
                format!(
                    "frag={range}: write the bytes FROM..TO of the IP payload (FROM a multiple of 8), or FROM.. for the rest"
                )
            };
            let (a, b) = range.split_once("..").ok_or_else(bad)?;
            from = a.parse().map_err(|_| bad())?;
            if !b.is_empty() {
                to = b.parse().map_err(|_| bad())?;
            }
            if from % 8 != 0 || from > to || to > whole.len() {
                return Err(format!("{}; the payload has {} bytes", bad(), whole.len()));
            }
        }
        let body = &whole[from..to];
        let more = to < whole.len() || self.has("mf");
        let (s, d) = (octets(self.source.0), octets(self.destination.0));
        let tos = self.get("tos", 0u8)?;
        let ttl = self.get("ttl", 64u8)?.wrapping_sub(less);
        let mut p = vec![];
        let header;
        if self.is_v4() {
            let options = self.text("ip-options").map_or(Ok(vec![]), hex)?;
            header = 20 + options.len();
            p.push(self.get("version", 4u8)? << 4 | self.get("ihl", (header / 4) as u8)?);
            p.push(tos);
            p.extend(self.get("ip-len", (header + body.len()) as u16)?.to_be_bytes());
            p.extend(self.get("id", 0u16)?.to_be_bytes());
            let flags = (from / 8) as u16 | if more { 0x2000 } else { 0 } | if self.has("df") { 0x4000 } else { 0 };
            p.extend(flags.to_be_bytes());
            p.extend([ttl, protocol, 0, 0]);
            p.extend(s);
            p.extend(d);
            p.extend(options);
            let mut c = checksum(&[&p]);
            if self.text("ip-sum") == Some("bad") {
                c = !checksum(&[&c.to_be_bytes(), &[0, 1]]);
            }
            p[10..12].copy_from_slice(&c.to_be_bytes());
        } else {
            let mut chain: Vec<(u8, Vec<u8>)> = vec![];
            for e in self.text("ext").unwrap_or("").split(',').filter(|e| !e.is_empty()) {
                let number = match e {
                    "hop" => 0,
                    "route" => 43,
                    "dst" => 60,
                    _ => return Err(format!("ext={e}: hop, route or dst, with commas")),
                };
                // An empty header: PadN of four bytes; for a routing header a type with no segments left.
                chain.push((
                    number,
                    if number == 43 { vec![0, 0, 253, 0, 0, 0, 0, 0] } else { vec![0, 0, 1, 4, 0, 0, 0, 0] },
                ));
            }
            if self.has("frag") {
                let mut f = vec![0, 0];
                f.extend((from as u16 | u16::from(more)).to_be_bytes());
                f.extend(self.get("id", 0u32)?.to_be_bytes());
                chain.push((44, f));
            }
            let mut next = protocol;
            for (n, bytes) in chain.iter_mut().rev() {
                bytes[0] = next;
                next = *n;
            }
            let extensions: Vec<u8> = chain.into_iter().flat_map(|(_, b)| b).collect();
            header = 40 + extensions.len();
            let word = u32::from(self.get("version", 6u8)?) << 28 | u32::from(tos) << 20 | self.get("flow", 0u32)?;
            p.extend(word.to_be_bytes());
            p.extend(self.get("ip-len", (extensions.len() + body.len()) as u16)?.to_be_bytes());
            p.extend([next, ttl]);
            p.extend(s);
            p.extend(d);
            p.extend(extensions);
        }
        p.extend(body);
        if self.has("cut") {
            p.truncate(header + self.get("cut", 0usize)?);
        }
        Ok(p)
    }

    /// The frame, between these link-layer addresses where the packet does not name others.
    pub fn frame(&self, from: Mac, to: Mac) -> Result<Vec<u8>, String> {
        if self.kind == "raw" {
            return Ok(self.raw.clone());
        }
        let from = self.text("from").map_or(Ok(from), mac)?;
        let mut f = self.text("to").map_or(Ok(to), mac)?.to_vec();
        f.extend(from);
        if self.has("vlan") {
            f.extend([0x81, 0]);
            f.extend(self.get("vlan", 0u16)?.to_be_bytes());
        }
        if self.kind == "arp" {
            let asks = self.word == "who-has";
            f.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, if asks { 1 } else { 2 }]);
            f.extend(self.text("mac").map_or(Ok(from), mac)?);
            f.extend(octets(self.source.0));
            f.extend(if asks { [0; 6] } else { self.text("to").map_or(Ok(to), mac)? });
            f.extend(octets(self.destination.0));
        } else {
            let kind = self.get("ethertype", if self.is_v4() { 0x0800u16 } else { 0x86dd })?;
            f.extend(kind.to_be_bytes());
            f.extend(self.ip(0)?);
        }
        // Padding that would be seen if it leaked.
        f.resize(f.len() + self.get("pad", 0usize)?, 0xee);
        Ok(f)
    }
}
