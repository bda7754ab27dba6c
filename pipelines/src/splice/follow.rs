//! Where the messages of a connection end: what must be looked at, and what may pass.

use super::sticky::CookieWatch;
use crate::extract::{BodyFollower, ExtractError, Method, ResponseFollower, ResponseProgress};
use lcs_dataplane::splice::Offsets;

/// Follows the request that is being sent and the response to it.
#[derive(Debug, Clone)]
pub(crate) struct Follow {
    /// Next byte of each side that the followers must see, in that side's numbers.
    pub(crate) next: [u32; 2],
    pub(crate) request: BodyFollower,
    pub(crate) response: ResponseFollower,
    /// What looks for a cookie in the response's head.
    watch: Option<CookieWatch>,
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

impl Default for Follow {
    fn default() -> Self {
        let (request, response) = (BodyFollower::Done, ResponseFollower::new(Method::Other));
        Follow { next: [0; 2], request, response, watch: None }
    }
}

impl Follow {
    /// Follows a request, as far as it is still to come, and the response to it, which begin with these bytes of their sides; and looks for a
    /// cookie whose name has this hash, 0 for none. In place: it is large.
    pub(crate) fn begin(&mut self, method: Method, request: BodyFollower, next: [u32; 2], cookie: u64) {
        (self.next, self.request) = (next, request);
        self.response.begin(method);
        self.watch = (cookie != 0).then(|| CookieWatch::new(cookie));
    }

    /// Hashes of name and value of the cookie that the response has set; once, when its head is over.
    pub(crate) fn cookie(&mut self) -> Option<(u64, u64)> {
        self.watch.take_if(|watch| watch.is_over())?.found()
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
        if let Some(watch) = &mut self.watch {
            watch.feed(bytes.get(..used).unwrap_or(&[]));
        }
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
