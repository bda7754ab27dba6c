//! Walks a parsed TOML document: takes known keys with their types, and reports what is left over.

use super::Word;
use super::problem::{Collector, nearest};
use lcs_dataplane::headers::MacAddr;
use std::cell::RefCell;
use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where mistakes are collected while tables are read.
pub(super) type Problems<'a> = RefCell<Collector<'a>>;

/// One table, from which keys are taken one by one.
pub(super) struct Section<'t, 'i> {
    /// How the table is called in messages: "[workers]", "a service".
    pub(super) title: String,
    /// Where a missing key is reported: the table's header or opening.
    pub(super) span: Range<usize>,
    table: &'t DeTable<'i>,
    problems: &'t Problems<'i>,
    known: RefCell<Vec<&'static str>>,
    required: RefCell<Vec<(&'static str, &'static str)>>,
}

/// A value with its place.
#[derive(Debug, Clone)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// An integer however it is written (decimal, hexadecimal, octal, binary).
fn integer(value: &DeValue<'_>) -> Option<i64> {
    let i = value.as_integer()?;
    i64::from_str_radix(i.as_str(), i.radix()).ok()
}

impl<'t, 'i> Section<'t, 'i> {
    pub(super) fn new(
        title: impl Into<String>,
        span: Range<usize>,
        table: &'t DeTable<'i>,
        problems: &'t Problems<'i>,
    ) -> Self {
        Section { title: title.into(), span, table, problems, known: RefCell::default(), required: RefCell::default() }
    }

    /// Where mistakes are collected.
    pub(super) fn problems(&self) -> &'t Problems<'i> {
        self.problems
    }

    /// A table from a value; reports a value of another kind.
    pub(super) fn from_value(
        title: impl Into<String>,
        value: &'t Spanned<DeValue<'i>>,
        problems: &'t Problems<'i>,
    ) -> Option<Self> {
        let title = title.into();
        match value.get_ref() {
            DeValue::Table(table) => Some(Section::new(title, value.span(), table, problems)),
            other => {
                let what = format!("{title} is {}, where a table is expected", kind(other));
                problems.borrow_mut().add(value.span(), what, "write it as { key = value, … }");
                None
            }
        }
    }

    pub(super) fn problem(&self, span: Range<usize>, what: impl Into<String>, mend: impl Into<String>) {
        self.problems.borrow_mut().add(span, what, mend);
    }

    /// The value of a key, of any kind.
    pub(super) fn raw(&self, key: &'static str) -> Option<&'t Spanned<DeValue<'i>>> {
        self.known.borrow_mut().push(key);
        self.table.get(key)
    }

    /// A sub-table.
    pub(super) fn table(&self, key: &'static str) -> Option<Section<'t, 'i>> {
        let value = self.raw(key)?;
        Section::from_value(format!("[{key}]"), value, self.problems)
    }

    /// Elements of a list of tables.
    pub(super) fn tables(&self, key: &'static str, title: &str) -> Vec<Section<'t, 'i>> {
        let Some(value) = self.raw(key) else { return Vec::new() };
        let DeValue::Array(list) = value.get_ref() else {
            let what = format!("`{key}` is {}, where a list of tables is expected", kind(value.get_ref()));
            self.problem(value.span(), what, format!("write [[{key}]] before each of them, or {key} = [{{ … }}, …]"));
            return Vec::new();
        };
        list.iter().filter_map(|v| Section::from_value(title, v, self.problems)).collect()
    }

    /// Converts a value, reporting what cannot be converted; `wanted` completes "… is expected".
    fn convert<T>(
        &self,
        key: &str,
        value: &Spanned<DeValue<'i>>,
        wanted: &str,
        mend: &str,
        f: impl FnOnce(&DeValue<'i>) -> Option<Result<T, String>>,
    ) -> Option<Placed<T>> {
        match f(value.get_ref()) {
            Some(Ok(v)) => Some(Placed { value: v, span: value.span() }),
            Some(Err(what)) => {
                self.problem(value.span(), format!("`{key}`: {what}"), mend);
                None
            }
            None => {
                let what = format!("`{key}` is {}, where {wanted} is expected", kind(value.get_ref()));
                self.problem(value.span(), what, mend);
                None
            }
        }
    }

    pub(super) fn string(&self, key: &'static str) -> Option<Placed<String>> {
        let value = self.raw(key)?;
        self.convert(key, value, "a string", &format!("write {key} = \"…\""), |v| {
            v.as_str().map(|s| Ok(s.to_owned()))
        })
    }

    /// An integer within a range.
    pub(super) fn number(&self, key: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<Placed<u64>> {
        let value = self.raw(key)?;
        let mend = format!("write a number from {} to {}", range.start(), range.end());
        self.convert(key, value, "an integer", &mend, |v| {
            v.as_integer()?;
            let n = integer(v).and_then(|n| u64::try_from(n).ok()).filter(|n| range.contains(n));
            Some(n.ok_or_else(|| format!("{} is out of range", v.as_integer().map_or("", |i| i.as_str()))))
        })
    }

    /// Yes or no.
    pub(super) fn flag(&self, key: &'static str) -> Option<Placed<bool>> {
        let value = self.raw(key)?;
        self.convert(key, value, "a boolean", "write true or false", |v| v.as_bool().map(Ok))
    }

    /// One of a choice's words.
    pub(super) fn word<T: Word>(&self, key: &'static str) -> Option<Placed<T>> {
        let value = self.raw(key)?;
        let words: Vec<&str> = T::ALL.iter().map(|(w, _)| *w).collect();
        let list = words.join(", ");
        let mend = match value.get_ref().as_str().and_then(|s| nearest(s, &words)) {
            Some(near) => format!("did you mean \"{near}\"? Possible are {list}"),
            None => format!("write one of {list}"),
        };
        self.convert(key, value, "a string", &mend, |v| v.as_str().map(T::from_word))
    }

    pub(super) fn address(&self, key: &'static str) -> Option<Placed<IpAddr>> {
        let value = self.raw(key)?;
        self.convert(key, value, "an address", ADDRESS_MEND, as_address)
    }

    /// A list of addresses.
    pub(super) fn addresses(&self, key: &'static str) -> Vec<Placed<IpAddr>> {
        let Some(value) = self.raw(key) else { return Vec::new() };
        match value.get_ref() {
            DeValue::Array(list) => {
                list.iter().filter_map(|v| self.convert(key, v, "an address", ADDRESS_MEND, as_address)).collect()
            }
            DeValue::String(_) => {
                let what = format!("`{key}` is a string, where a list is expected");
                self.problem(value.span(), what, format!("put brackets around it: {key} = [\"…\"]"));
                Vec::new()
            }
            other => {
                let what = format!("`{key}` is {}, where a list of addresses is expected", kind(other));
                self.problem(value.span(), what, format!("write {key} = [\"192.0.2.1\", …]"));
                Vec::new()
            }
        }
    }

    /// A list of strings.
    pub(super) fn strings(&self, key: &'static str) -> Option<Placed<Vec<Placed<String>>>> {
        let value = self.raw(key)?;
        self.string_list(key, value)
    }

    /// Every key with its value: for tables whose keys are the user's own names.
    pub(super) fn entries(&self) -> Vec<(Placed<String>, &'t Spanned<DeValue<'i>>)> {
        let name =
            |key: &Spanned<toml::de::DeString<'_>>| Placed { value: key.get_ref().to_string(), span: key.span() };
        self.table.iter().map(|(key, value)| (name(key), value)).collect()
    }

    /// A value that is a list of strings.
    pub(super) fn string_list(
        &self,
        key: &str,
        value: &'t Spanned<DeValue<'i>>,
    ) -> Option<Placed<Vec<Placed<String>>>> {
        let mend = format!("write {key} = [\"…\", …]");
        let DeValue::Array(list) = value.get_ref() else {
            let what = format!("`{key}` is {}, where a list is expected", kind(value.get_ref()));
            self.problem(value.span(), what, mend);
            return None;
        };
        let strings = list
            .iter()
            .filter_map(|v| self.convert(key, v, "a string", &mend, |v| v.as_str().map(|s| Ok(s.to_owned()))))
            .collect();
        Some(Placed { value: strings, span: value.span() })
    }

    pub(super) fn mac(&self, key: &'static str) -> Option<Placed<MacAddr>> {
        let value = self.raw(key)?;
        let mend = "write six hexadecimal bytes, such as \"02:00:00:00:00:01\"";
        self.convert(key, value, "a link-layer address", mend, |v| {
            Some(v.as_str()?.parse().map_err(|_| format!("{:?} is no link-layer address", v.as_str().unwrap_or(""))))
        })
    }

    /// A time: a number of seconds, or a string with a unit.
    pub(super) fn duration(&self, key: &'static str) -> Option<Placed<Duration>> {
        let value = self.raw(key)?;
        let mend =
            "write seconds (900) or a time with a unit (\"500ms\", \"90s\", \"15m\", \"2h\"), from 200ms to 7 days";
        self.convert(key, value, "a time", mend, |v| {
            let seconds = match v {
                DeValue::Integer(_) => integer(v)? as f64,
                DeValue::Float(f) => f.as_str().parse().ok()?,
                DeValue::String(s) => match parse_seconds(s) {
                    Some(s) => s,
                    None => return Some(Err(format!("{s:?} is no time"))),
                },
                _ => return None,
            };
            if (0.2..=7.0 * 86_400.0).contains(&seconds) {
                Some(Ok(Duration::from_secs_f64(seconds)))
            } else {
                Some(Err(format!("{seconds} seconds is out of range")))
            }
        })
    }

    /// A range of ports, `"first-last"`.
    pub(super) fn ports(&self, key: &'static str) -> Option<Placed<(u16, u16)>> {
        let value = self.raw(key)?;
        let mend = "write \"first-last\" with ports from 1 to 65535, such as \"1024-65535\"";
        self.convert(key, value, "a range of ports", mend, |v| {
            let text = v.as_str()?;
            Some(parse_ports(text).ok_or_else(|| format!("{text:?} is no range of ports")))
        })
    }

    /// Reports every key that was not asked for, and those that are missing.
    pub(super) fn finish(&self) {
        let known = self.known.borrow();
        let mut meant = Vec::new();
        for (key, _) in self.table.iter() {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            let mend = match nearest(name, &known) {
                Some(near) => {
                    meant.push(near);
                    format!("did you mean `{near}`?")
                }
                None => {
                    let mut sorted = known.clone();
                    sorted.sort_unstable();
                    sorted.dedup();
                    format!("remove it; known here are {}", sorted.join(", "))
                }
            };
            self.problem(key.span(), format!("unknown key `{name}` in {}", self.title), mend);
        }
        for (key, mend) in self.required.borrow().iter() {
            // A key that is misspelt is not missing besides.
            if !self.table.contains_key(*key) && !meant.contains(key) {
                // A table's span may be its whole text: the mark belongs to its beginning.
                let span = self.span.start..self.span.start + 1;
                self.problem(span, format!("{} has no `{key}`", self.title), *mend);
            }
        }
    }

    /// A key that must be given; [`Section::finish`] reports it where it is not.
    pub(super) fn require(&self, key: &'static str, mend: &'static str) {
        self.required.borrow_mut().push((key, mend));
    }
}

const ADDRESS_MEND: &str = "write an IPv4 or IPv6 address, such as \"192.0.2.1\" or \"2001:db8::1\"";

fn as_address(v: &DeValue<'_>) -> Option<Result<IpAddr, String>> {
    let text = v.as_str()?;
    Some(parse_address(text))
}

/// Reads an address, and says what a text is instead of one.
pub(crate) fn parse_address(text: &str) -> Result<IpAddr, String> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(a)) if a.to_ipv4_mapped().is_some() => {
            Err(format!("{text:?} is an IPv4 address in an IPv6 coat; write the IPv4 address"))
        }
        Ok(a) => Ok(a),
        Err(_) if text.parse::<std::net::SocketAddr>().is_ok() => {
            Err(format!("{text:?} is an address with a port; the port is a key of its own"))
        }
        Err(_) if text.parse::<ipnet::IpNet>().is_ok() => Err(format!("{text:?} is a network, not an address")),
        Err(_) => Err(format!("{text:?} is no address")),
    }
}

/// Reads `first-last`; a single port stands for itself.
pub(crate) fn parse_ports(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first >= 1 && first <= last).then_some((first, last))
}

/// Reads a time in seconds, or with a unit (`ms`, `s`, `m` or `min`, `h`, `d`): `90`, `500ms`, `1.5 h`. Seconds; may be negative.
pub fn parse_seconds(text: &str) -> Option<f64> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    number.trim().parse::<f64>().ok().filter(|n| n.is_finite()).map(|n| n * scale)
}
