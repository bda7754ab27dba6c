//! Where the messages of a connection end: what must be looked at, and what may pass.

use crate::extract::{BodyFollower, ExtractError, Method, ResponseFollower, ResponseProgress};
use lcs_dataplane::splice::Offsets;

/// Follows the request that is being sent and the response to it.
#[derive(Debug, Clone)]
pub(crate) struct Follow {
    /// Next byte of each side that the followers must see, in that side's numbers.
    pub(crate) next: [u32; 2],
    pub(crate) request: BodyFollower,
    pub(crate) response: ResponseFollower,
}

/// What bytes of a message have told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// All of them belong to it, and there is more to come.
    More,
    /// It ends with so many of them.
    Ends(usize),
    /// From here on the connection is a tunnel.
    Tunnel,
    /// It ends with the connection.
    UntilClose,
}

impl Follow {
    pub(crate) fn new(method: Method, request: BodyFollower, next: [u32; 2]) -> Self {
        Follow { next, request, response: ResponseFollower::new(method) }
    }

    /// Feeds bytes of the request that start at `next[0]`, and lets pass what need not be seen.
    pub(crate) fn request(&mut self, bytes: &[u8], offsets: &mut Offsets) -> Result<Seen, ExtractError> {
        let used = self.request.feed(bytes, |_| {})?;
        self.next[0] = self.next[0].wrapping_add(used as u32);
        self.skip_request();
        offsets.limit[0] = self.next[0];
        Ok(if self.request.is_done() { Seen::Ends(used) } else { Seen::More })
    }

    /// Lets pass the body's bytes that need not be seen.
    pub(crate) fn skip_request(&mut self) {
        let skipped = self.request.skip();
        self.next[0] = self.next[0].wrapping_add(skipped);
    }

    /// Feeds bytes of the response that start at `next[1]`.
    pub(crate) fn response(&mut self, bytes: &[u8], offsets: &mut Offsets) -> Result<Seen, ExtractError> {
        let (used, progress) = self.response.feed(bytes)?;
        self.next[1] = self.next[1].wrapping_add(used as u32);
        let seen = match progress {
            ResponseProgress::Tunnel => Seen::Tunnel,
            ResponseProgress::Complete => Seen::Ends(used),
            ResponseProgress::More if self.response.until_close() => Seen::UntilClose,
            ResponseProgress::More => {
                self.next[1] = self.next[1].wrapping_add(self.response.skip());
                if self.response.is_complete() { Seen::Ends(used) } else { Seen::More }
            }
        };
        offsets.limit[1] = self.next[1];
        Ok(seen)
    }
}
