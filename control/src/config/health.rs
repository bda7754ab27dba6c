//! `check` of a service: how its servers' health is found out.

use super::read::{Placed, Section};
use super::{Check, CheckKind, Protocol, Service, Word};
use std::time::Duration;
use toml::de::DeValue;

/// Reads `check`, a word or a table.
pub(super) fn read(section: &Section<'_, '_>) -> Option<Placed<Check>> {
    let value = section.raw("check")?;
    let placed = |check| Some(Placed { value: check, span: value.span() });
    if matches!(value.get_ref(), DeValue::String(_)) {
        return placed(Check::new(section.word::<CheckKind>("check")?.value));
    }
    let table = Section::from_value("`check`", value, section.problems())?;
    let kind = table.word::<CheckKind>("kind");
    table.require("kind", "add kind = \"tcp\" or kind = \"http\"");
    let mut check = Check::new(kind.as_ref().map_or(CheckKind::Tcp, |k| k.value));
    if let Some(interval) = table.duration("interval") {
        check.interval = interval.value;
        check.timeout = check.timeout.min(interval.value);
    }
    if let Some(timeout) = table.duration("timeout") {
        if timeout.value > check.interval {
            let what = format!("`timeout` ({:?}) is longer than `interval` ({:?})", timeout.value, check.interval);
            table.problem(timeout.span, what, "give a longer interval or a shorter time-out");
        } else {
            check.timeout = timeout.value;
        }
    }
    for (key, place) in [("rise", &mut check.rise), ("fall", &mut check.fall)] {
        if let Some(n) = table.number(key, 1..=100) {
            *place = n.value as u32;
        }
    }
    if let Some(port) = table.number("port", 1..=65_535) {
        check.port = Some(port.value as u16);
    }
    http(&table, kind.map(|k| k.value), &mut check);
    table.finish();
    placed(check)
}

fn http(table: &Section<'_, '_>, kind: Option<CheckKind>, check: &mut Check) {
    if kind == Some(CheckKind::Tcp) {
        for key in ["path", "host", "status"] {
            if let Some(value) = table.raw(key) {
                let what = format!("`{key}` in a check that only connects");
                table.problem(value.span(), what, format!("write kind = \"http\", or remove `{key}`"));
            }
        }
        return;
    }
    if let Some(path) = table.string("path") {
        if !path.value.starts_with('/') || path.value.bytes().any(|b| !b.is_ascii_graphic()) {
            table.problem(path.span, format!("{:?} is no path", path.value), "begin it with / and leave blanks out");
        } else {
            check.path = path.value;
        }
    }
    if let Some(host) = table.string("host") {
        if host.value.is_empty() || host.value.bytes().any(|b| !b.is_ascii_graphic()) {
            let what = format!("{:?} is no host", host.value);
            table.problem(host.span, what, "write a name, such as \"www.example.com\"");
        } else {
            check.host = Some(host.value);
        }
    }
    if let Some(status) = table.string("status") {
        let (first, last) = status.value.split_once('-').unwrap_or((&status.value, &status.value));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if (100..=599).contains(&first) && (first..=599).contains(&last) => {
                check.status = (first, last);
            }
            _ => table.problem(
                status.span,
                format!("{:?} is no range of status codes", status.value),
                "write \"200\" or \"200-399\"",
            ),
        }
    }
}

/// What is wrong with a service's check, and the mend.
pub(super) fn problem(service: &Service) -> Option<(String, &'static str)> {
    let check = service.check.as_ref()?;
    // The file's reader has said these at their keys; a request of the control socket has not been through it.
    let times = Duration::from_millis(200)..=Duration::from_secs(7 * 86_400);
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    let (first, last) = check.status;
    let good = times.contains(&check.interval)
        && *times.start() <= check.timeout
        && check.timeout <= check.interval
        && (1..=100).contains(&check.rise)
        && (1..=100).contains(&check.fall)
        && check.port != Some(0)
        && check.path.starts_with('/')
        && plain(&check.path)
        && check.host.as_deref().is_none_or(plain)
        && 100 <= first
        && first <= last
        && last <= 599;
    if !good {
        let what = format!("the check of service {} has a value out of its range", service.name);
        return Some((what, "CONFIGURATION.md has the limits of each key of `check`"));
    }
    if check.port.is_some() {
        return None;
    }
    if service.protocol == Protocol::Udp {
        let what = format!("service {} is {}, which has no handshake to check", service.name, service.protocol.word());
        return Some((what, "add `port` to the check: a TCP port that its servers answer on, or remove the check"));
    }
    let without = service.servers.iter().find(|s| s.port == 0 && service.port == 0)?;
    let what = format!("server {}/{} is on every port, so which one is checked?", service.name, without.name);
    Some((what, "add `port` to the check"))
}
