//! Health checks: is a server there, and does it answer? What decides about that is here, without clock or socket;
//! [`probe`] asks the servers.
//!
//! A server counts as up until `fall` checks in a row have failed, and as down until `rise` in a row have succeeded. One
//! that is down is given no new connections; those that it has are left alone.

pub mod probe;

use crate::config::Check;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// A server that is to be checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its service.
    pub service: String,
    /// Its name.
    pub server: String,
    /// Where it is asked.
    pub endpoint: SocketAddr,
    /// What it is asked, and how often.
    pub check: Check,
}

/// What a server's checks have come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its service.
    pub service: String,
    /// Its name.
    pub server: String,
    /// Why it is down, or that it is up.
    pub down: Option<String>,
}

#[derive(Debug)]
struct Watched {
    target: Target,
    due: Duration,
    asked: bool,
    down: bool,
    /// Answers in a row that speak against what it counts as.
    against: u32,
}

/// Every server that is checked, and when next.
#[derive(Debug, Default)]
pub struct Checks {
    watched: BTreeMap<(String, String), Watched>,
}

impl Checks {
    /// Watches these from now on, each with whether it counts as down. One that was watched before in the same way goes on
    /// as it was.
    pub fn follow(&mut self, targets: Vec<(Target, bool)>, now: Duration) {
        let mut before = std::mem::take(&mut self.watched);
        let count = targets.len().max(1) as u32;
        for (n, (target, down)) in targets.into_iter().enumerate() {
            let key = (target.service.clone(), target.server.clone());
            let mut watched = match before.remove(&key) {
                Some(w) if w.target == target => w,
                // Spread over the interval, so that a thousand servers are not asked in one moment.
                _ => {
                    let due = now + target.check.interval.mul_f64(n as f64 / f64::from(count) / 2.0);
                    Watched { target, due, asked: false, down, against: 0 }
                }
            };
            if watched.down != down {
                // Another server by the same name: what was counted was another's.
                (watched.down, watched.against) = (down, 0);
            }
            self.watched.insert(key, watched);
        }
    }

    /// Those that are to be asked now; each answer goes to [`Checks::answered`].
    pub fn due(&mut self, now: Duration) -> Vec<Target> {
        let due = self.watched.values_mut().filter(|w| !w.asked && w.due <= now);
        due.map(|w| {
            w.asked = true;
            // From one question to the next, however long the answer takes.
            w.due = now + w.target.check.interval;
            w.target.clone()
        })
        .collect()
    }

    /// A server could not be asked, for want of something on this side.
    pub fn unasked(&mut self, target: &Target) {
        let key = (target.service.clone(), target.server.clone());
        if let Some(w) = self.watched.get_mut(&key).filter(|w| w.target == *target) {
            w.asked = false;
        }
    }

    /// A server has answered, or has not. Returns what changes by that.
    pub fn answered(&mut self, target: &Target, answer: Result<(), String>) -> Option<Finding> {
        let key = (target.service.clone(), target.server.clone());
        let w = self.watched.get_mut(&key).filter(|w| w.target == *target)?;
        w.asked = false;
        if answer.is_err() == w.down {
            w.against = 0;
            return None;
        }
        w.against += 1;
        let enough = if w.down { target.check.rise } else { target.check.fall };
        if w.against < enough {
            return None;
        }
        w.down = !w.down;
        w.against = 0;
        Some(Finding { service: key.0, server: key.1, down: answer.err() })
    }

    /// Servers that are watched.
    pub fn len(&self) -> usize {
        self.watched.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.watched.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CheckKind;

    const SECOND: Duration = Duration::from_secs(1);

    fn target(server: &str) -> Target {
        let check = Check { rise: 2, fall: 3, interval: 2 * SECOND, ..Check::new(CheckKind::Tcp) };
        let endpoint = "10.0.0.1:80".parse().unwrap();
        Target { service: "web".into(), server: server.into(), endpoint, check }
    }

    #[test]
    fn three_failures_in_a_row_take_a_server_out_and_two_answers_bring_it_back() {
        let mut checks = Checks::default();
        checks.follow(vec![(target("a"), false)], Duration::ZERO);
        let mut now = Duration::ZERO;
        let mut ask = |checks: &mut Checks, answer: Result<(), String>| {
            let asked = checks.due(now);
            assert_eq!(asked, [target("a")]);
            assert!(checks.due(now + 100 * SECOND).is_empty(), "an answer is still awaited");
            now += 2 * SECOND;
            checks.answered(&asked[0], answer)
        };
        let no = || Err("refused".to_owned());
        for answer in [no(), no(), Ok(()), no(), no()] {
            assert_eq!(ask(&mut checks, answer), None);
        }
        let finding = ask(&mut checks, no()).unwrap();
        assert_eq!((finding.server.as_str(), finding.down.as_deref()), ("a", Some("refused")));
        for answer in [no(), Ok(()), no(), Ok(())] {
            assert_eq!(ask(&mut checks, answer), None);
        }
        assert_eq!(ask(&mut checks, Ok(())).unwrap().down, None);
    }

    #[test]
    fn a_changed_configuration_keeps_what_is_known() {
        let mut checks = Checks::default();
        checks.follow(vec![(target("a"), false), (target("b"), false)], Duration::ZERO);
        let late = checks.due(2 * SECOND);
        assert_eq!(late.len(), 2);
        for _ in 0..3 {
            checks.answered(&target("a"), Err("no".into()));
        }
        let mut changed = target("a");
        changed.check.rise = 1;
        checks.follow(vec![(changed.clone(), true)], 3 * SECOND);
        assert_eq!(checks.len(), 1);
        assert_eq!(checks.answered(&target("a"), Ok(())), None, "an answer to an old question counts no more");
        assert_eq!(checks.due(3 * SECOND), [changed.clone()]);
        assert_eq!(checks.answered(&changed, Ok(())).unwrap().down, None, "it was down, and one answer is enough now");
        assert_eq!(checks.answered(&target("b"), Err("no".into())), None);
        // The model has put another server in its place, which counts as up until its own checks fail.
        let failures =
            |checks: &mut Checks, n: usize| (0..n).filter_map(|_| checks.answered(&changed, Err("no".into()))).count();
        assert_eq!(failures(&mut checks, 3), 1);
        checks.follow(vec![(changed.clone(), false)], 4 * SECOND);
        assert_eq!((failures(&mut checks, 2), failures(&mut checks, 1)), (0, 1), "down again after three of its own");
        let asked = checks.due(60 * SECOND);
        checks.unasked(&asked[0]);
        assert_eq!(checks.due(120 * SECOND), asked, "what could not be asked is asked again");
    }
}
