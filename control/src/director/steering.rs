//! Steering: telling what stands in front of the workers which packets are for them.

use crate::model::SteeringSets;
use crate::protocol::FilterReport;

/// What stands in front of the workers and chooses packets for them.
pub trait Steering {
    /// Makes these sets the ones in force.
    ///
    /// # Errors
    /// In words, when that failed; the director tries again.
    fn steer(&mut self, sets: &SteeringSets) -> Result<(), String>;

    /// What it has decided on so far, where it counts that and can be asked.
    fn counts(&self) -> Option<FilterReport> {
        None
    }
}

/// Nothing stands in front of the workers: every packet reaches them, as on a memory port.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unsteered;

impl Steering for Unsteered {
    fn steer(&mut self, _: &SteeringSets) -> Result<(), String> {
        Ok(())
    }
}

/// The XDP program in front of AF_XDP ports.
#[cfg(target_os = "linux")]
impl Steering for lcs_dataplane::port::af_xdp::XdpFilter {
    fn steer(&mut self, sets: &SteeringSets) -> Result<(), String> {
        use lcs_dataplane::port::af_xdp::FilterKey;
        let services = sets.services.iter().map(|&(a, port, protocol)| FilterKey::service(a, port, protocol));
        let sources = sets.sources.iter().map(|&(a, protocol)| FilterKey::service(a, 0, protocol));
        let channels = sets.channels.iter().map(|&(a, port, protocol)| FilterKey::new(a, port, protocol));
        let services: Vec<FilterKey> = services.chain(sources).flatten().chain(channels).collect();
        let replies = sets.replies.iter().flat_map(|&(a, port, protocol)| FilterKey::reply(a, port, protocol));
        let replies: Vec<FilterKey> =
            replies.chain(sets.tunnels.iter().map(|&server| FilterKey::tunnel_errors(server))).collect();
        // Services first: a reply that is steered before its service is would find no connection.
        self.set_services(&services).map_err(|e| e.to_string())?;
        self.set_locals(&sets.locals).map_err(|e| e.to_string())?;
        self.set_replies(&replies).map_err(|e| e.to_string())?;
        Ok(())
    }

    fn counts(&self) -> Option<FilterReport> {
        let counts = lcs_dataplane::port::af_xdp::XdpFilter::counts(self).ok()?;
        Some(FilterReport { passed: counts.passed, redirected: counts.redirected })
    }
}
