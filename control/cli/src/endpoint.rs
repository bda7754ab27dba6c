//! Arguments with a shape: `SERVICE/SERVER`, `ADDRESS:PORT`, times.

use lcs_control::config::{Word, parse_seconds};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// `web/s1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerName {
    /// Before the slash.
    pub service: String,
    /// Behind it.
    pub server: String,
}

impl FromStr for ServerName {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s.split_once('/') {
            Some((service, server)) if !service.is_empty() && !server.is_empty() && !server.contains('/') => {
                Ok(ServerName { service: service.to_owned(), server: server.to_owned() })
            }
            _ => Err("write SERVICE/SERVER, such as web/s1".to_owned()),
        }
    }
}

/// `192.0.2.1:80`, `[2001:db8::1]:80`; `*` for every port; without a port, none is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The port, 0 for every port.
    pub port: Option<u16>,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if let Ok(whole) = s.parse::<SocketAddr>() {
            return Ok(Endpoint { address: whole.ip(), port: Some(whole.port()) });
        }
        let (text, port) = match s.strip_suffix(":*") {
            Some(address) => (address, Some(0)),
            None => (s, None),
        };
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        match bare.parse() {
            Ok(address) => Ok(Endpoint { address, port }),
            Err(_) => Err("write ADDRESS:PORT, such as 192.0.2.1:80, [2001:db8::1]:80 or 192.0.2.1:*".to_owned()),
        }
    }
}

/// Shortest and longest time of [`period`], seconds.
const PERIODS: std::ops::RangeInclusive<f64> = 0.1..=86_400.0;

/// Parses a time such as `2`, `500ms`, `10s`, `5m`.
pub fn period(s: &str) -> Result<Duration, String> {
    match parse_seconds(s) {
        Some(seconds) if PERIODS.contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        Some(_) => Err("write a time from 100ms to 24h".to_owned()),
        None => Err("write seconds, or a time with a unit: 500ms, 2s, 5m".to_owned()),
    }
}

/// Parses one of a choice's words.
pub fn word<T: Word>(s: &str) -> Result<T, String> {
    T::from_word(s)
}

/// `1024-65535`.
pub fn ports(s: &str) -> Result<(u16, u16), String> {
    let (first, last) = s.split_once('-').unwrap_or((s, s));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if 1 <= first && first <= last => Ok((first, last)),
        _ => Err("write FIRST-LAST with ports from 1 to 65535, such as 1024-65535".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        let e = |s: &str| s.parse::<Endpoint>().map(|e| (e.address.to_string(), e.port));
        assert_eq!(e("192.0.2.1:80"), Ok(("192.0.2.1".into(), Some(80))));
        assert_eq!(e("[2001:db8::1]:80"), Ok(("2001:db8::1".into(), Some(80))));
        assert_eq!(e("[2001:db8::1]:*"), Ok(("2001:db8::1".into(), Some(0))));
        assert_eq!(e("2001:db8::1"), Ok(("2001:db8::1".into(), None)));
        assert!(e("192.0.2.1:http").is_err() && e("web").is_err());
        assert!("web".parse::<ServerName>().is_err() && "a/b/c".parse::<ServerName>().is_err());
        assert_eq!(ports("80"), Ok((80, 80)));
        assert!(ports("0-9").is_err() && ports("9-1").is_err());
    }
}
