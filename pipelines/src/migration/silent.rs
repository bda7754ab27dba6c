//! Clients to which a filter does not know the way, however often the kernel is asked: on its own link, or behind a router there.

use lcs_dataplane::worker::Nanos;

/// Clients remembered. Two of one place forget each other, and are asked for anew.
const PLACES: usize = 256;
/// How long an answer is waited for, nanoseconds: the kernel asks once a second, and a host that is there answers at once.
const PATIENCE: Nanos = 1_000_000_000;
/// When a client that has not answered is given time again, nanoseconds.
const FORGET: Nanos = 30_000_000_000;

/// When the way to which client was asked for.
#[derive(Debug)]
pub(crate) struct SilentClients(Box<[(u64, Nanos)]>);

impl Default for SilentClients {
    fn default() -> Self {
        SilentClients(vec![(0, 0); PLACES].into())
    }
}

impl SilentClients {
    /// The way to this client, by its address's hash, is not known now. Returns whether it has had its time.
    pub(crate) fn is_silent(&mut self, client: u64, now: Nanos) -> bool {
        let Some(place) = self.0.get_mut(client as usize % PLACES) else { return false };
        let waited = now.saturating_sub(place.1);
        if place.0 != client || waited >= FORGET {
            *place = (client, now);
            return false;
        }
        waited >= PATIENCE
    }

    /// The way to this client is known. When it is lost again, there is time again.
    pub(crate) fn answered(&mut self, client: u64) {
        if let Some(place) = self.0.get_mut(client as usize % PLACES).filter(|place| place.0 == client) {
            *place = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_its_time_once_and_then_again_after_a_while() {
        let mut s = SilentClients::default();
        let start = 5 * FORGET;
        assert!(!s.is_silent(7, start) && !s.is_silent(7, start + PATIENCE - 1));
        assert!(s.is_silent(7, start + PATIENCE) && s.is_silent(7, start + FORGET - 1));
        assert!(!s.is_silent(7, start + FORGET) && s.is_silent(7, start + FORGET + PATIENCE));
        // It has answered, and its way is lost again.
        s.answered(7);
        assert!(!s.is_silent(7, start + FORGET + PATIENCE) && !s.is_silent(7, start + FORGET + 2 * PATIENCE - 1));
        assert!(s.is_silent(7, start + FORGET + 2 * PATIENCE));
        // Another of the same place.
        s.answered(7 + PLACES as u64);
        assert!(s.is_silent(7, start + FORGET + 2 * PATIENCE));
        assert!(!s.is_silent(7 + PLACES as u64, start + FORGET + PATIENCE));
    }
}
