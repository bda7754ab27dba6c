//! Runs health checks beside the control loop: each question is a task of its own, so that none waits for another.

use crate::director::{Control, Steering, Workers};
use crate::health::probe::{self, Failure};
use crate::health::{Checks, Target};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

type Answer = (Target, Result<(), Failure>);

/// Servers that are asked at the same time at most, each with a socket.
const AT_ONCE: usize = 256;

/// The checks under way.
pub(super) struct Checker {
    checks: Checks,
    /// Number of the desired state whose servers are watched.
    generation: u64,
    at_once: Arc<Semaphore>,
    // Bounded by one answer for each server: nobody is asked again before.
    answers: (mpsc::UnboundedSender<Answer>, mpsc::UnboundedReceiver<Answer>),
}

impl Default for Checker {
    fn default() -> Self {
        Checker {
            checks: Checks::default(),
            generation: 0,
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
            answers: mpsc::unbounded_channel(),
        }
    }
}

impl Checker {
    /// Asks those whose time has come, and tells the director what the others have answered.
    pub(super) fn turn<W: Workers, S: Steering>(&mut self, control: &mut Control<W, S>, now: Duration) {
        if self.generation != control.model().generation() {
            self.generation = control.model().generation();
            self.checks.follow(control.checks(), now);
        }
        if self.checks.is_empty() {
            return;
        }
        let gone = control.gone_tap();
        if let Some(name) = &gone {
            control.could_not_check(&format!("TAP device {name} is gone; restart the director"));
        }
        for target in self.checks.due(now) {
            if gone.is_some() {
                self.checks.unasked(&target);
                continue;
            }
            let (answers, at_once) = (self.answers.0.clone(), Arc::clone(&self.at_once));
            tokio::task::spawn_local(async move {
                // It is never closed.
                let _place = at_once.acquire_owned().await;
                let answer = probe::ask(&target).await;
                // The director may have ended meanwhile.
                let _ = answers.send((target, answer));
            });
        }
        while let Ok((target, answer)) = self.answers.1.try_recv() {
            if gone.is_some() && answer.is_err() {
                self.checks.unasked(&target);
                continue;
            }
            let answer = match answer {
                Ok(()) => Ok(()),
                Err(Failure::Server(why)) => Err(why),
                Err(Failure::Here(why)) => {
                    self.checks.unasked(&target);
                    control.could_not_check(&why);
                    continue;
                }
            };
            if let Some(finding) = self.checks.answered(&target, answer) {
                control.learn_health(&finding);
            }
        }
    }
}
