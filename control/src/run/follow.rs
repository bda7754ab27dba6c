//! The kernel's routes, neighbours and addresses, as the director's core takes them.

use crate::director::{Control, Steering, Workers};
use crate::model::Learned;
use crate::netlink::{Change, Changes, Closed, Hop, NextHops, StartError, Target};
use ipnet::IpNet;
use lcs_pipelines::snapshot::{Interface, NextHop};
use std::collections::HashSet;

/// Follows the kernel for the director.
#[derive(Debug)]
pub(super) struct Follower {
    follower: NextHops,
    changes: Changes,
    /// Names of the port's interfaces, in its numbering.
    interfaces: Vec<String>,
    watched: HashSet<Target>,
    version: Option<u64>,
}

impl Follower {
    pub(super) fn start(interfaces: &[String]) -> Result<Self, StartError> {
        let (follower, changes) = NextHops::start(interfaces)?;
        Ok(Follower { follower, changes, interfaces: interfaces.to_vec(), watched: HashSet::new(), version: None })
    }

    /// The next change; `None` when following has ended.
    pub(super) async fn next(&mut self) -> Option<Change> {
        self.changes.next().await
    }

    /// Has the kernel's answers for what the director wants now, and for nothing else.
    pub(super) async fn watch<W: Workers, S: Steering>(&mut self, control: &Control<W, S>) -> Result<(), Closed> {
        let version = control.model().targets_version();
        if self.version == Some(version) {
            return Ok(());
        }
        self.version = Some(version);
        let wanted: HashSet<Target> = control.model().targets().map(|(_, t)| t).collect();
        for target in self.watched.difference(&wanted) {
            self.follower.unwatch(*target).await?;
        }
        for target in wanted.difference(&self.watched) {
            self.follower.watch(*target).await?;
        }
        self.watched = wanted;
        Ok(())
    }

    /// Tells the director what has changed, and what else has by now.
    pub(super) fn apply<W: Workers, S: Steering>(&mut self, control: &mut Control<W, S>, change: Change) {
        let mut next = Some(change);
        // Bounded, so that a storm of changes delays nothing else.
        for _ in 0..256 {
            let Some(change) = next else { break };
            self.apply_one(control, change);
            next = self.changes.try_next();
        }
        if let Some(change) = next {
            self.apply_one(control, change);
        }
    }

    fn apply_one<W: Workers, S: Steering>(&self, control: &mut Control<W, S>, change: Change) {
        match change {
            Change::NextHop { target, resolution } => {
                let learned = match resolution {
                    Ok(hop) => self.resolved(&hop),
                    Err(why) => Learned { problem: Some(why.to_string()), ..Learned::default() },
                };
                control.learn_next_hop(target, learned);
            }
            Change::Route(change) => {
                if let Ok(to) = IpNet::new(change.prefix, change.length) {
                    control.learn_route(to, change.route.map(|r| r.target()));
                }
            }
            Change::OwnAddresses(addresses) => control.learn_addresses(&addresses),
            Change::Interfaces(states) => {
                let before = control.model().interfaces().to_vec();
                let interfaces = before
                    .iter()
                    .zip(&states)
                    .map(|(old, now)| Interface {
                        name: old.name.clone(),
                        mac: now.mac.unwrap_or(old.mac),
                        mtu: if now.index.is_some() { u16::try_from(now.mtu).unwrap_or(u16::MAX) } else { old.mtu },
                    })
                    .collect();
                control.learn_interfaces(interfaces);
                for state in states {
                    if state.index.is_none() {
                        control.note(format!(
                            "interface {} is gone; when it is back, start the director again",
                            state.name
                        ));
                    } else if !state.up {
                        control.note(format!("interface {} is down", state.name));
                    }
                }
            }
            Change::LimitReached(limit) => {
                control.note(format!("the kernel has more {limit:?} than are followed; the rest is ignored"));
            }
            Change::Synced => {}
        }
    }

    fn resolved(&self, hop: &Hop) -> Learned {
        let Some(interface) = self.interfaces.iter().position(|i| *i == hop.name) else {
            let problem = format!("the route leads through {}, which is not in [port] interfaces", hop.name);
            return Learned { problem: Some(problem), ..Learned::default() };
        };
        Learned {
            hop: NextHop::new(hop.destination, hop.source, interface as u8, hop.mtu),
            source: hop.source_address,
            problem: None,
        }
    }

    /// Ends, and has the kernel forget what was asked of it.
    pub(super) async fn stop(self) {
        self.follower.stop().await;
    }
}
