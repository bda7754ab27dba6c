//! What health checks ask, and what they find, in the desired state.

use super::{Change, Kind, Model};
use crate::health::{Finding, Target};
use std::net::SocketAddr;

impl Model {
    /// The servers that are to be checked, and whether they count as down; those that are removed are not checked.
    pub fn checks(&self) -> Vec<(Target, bool)> {
        let services = self.services();
        let checked = services.into_iter().filter_map(|s| Some((s, s.check.as_ref()?)));
        let targets = checked.flat_map(|(service, check)| {
            service.servers.iter().map(move |server| {
                let slot = self.find(&service.name, &server.name).ok().and_then(|(_, slot)| self.servers.get(slot));
                let down = slot.is_some_and(|entry| entry.down.is_some());
                let own = if server.port == 0 { service.port } else { server.port };
                let target = Target {
                    service: service.name.clone(),
                    server: server.name.clone(),
                    endpoint: SocketAddr::new(server.address, check.port.unwrap_or(own)),
                    check: check.clone(),
                };
                (target, down)
            })
        });
        targets.collect()
    }

    /// Takes note of what a server's checks have come to. `None` when that changes nothing.
    pub fn set_health(&mut self, finding: &Finding) -> Option<Change> {
        let (entry, slot) = self.find(&finding.service, &finding.server).ok()?;
        entry.config.check.as_ref()?;
        let server = self.servers.get_mut(slot)?;
        let changes = server.down.is_some() != finding.down.is_some();
        server.down.clone_from(&finding.down);
        if !changes {
            return None;
        }
        self.touch();
        let subject = format!("{}/{}", finding.service, finding.server);
        let detail = match &finding.down {
            Some(why) => format!("down: {why}"),
            None => "up again".to_owned(),
        };
        Some(Change::new(Kind::Changed, subject, detail))
    }
}
