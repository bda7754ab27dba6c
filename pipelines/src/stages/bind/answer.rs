//! What the director itself says to a client: greetings, `100 Continue`, redirects and refusals.

use super::Desk;
use crate::content::Content;
use crate::extract::{Method, Protocol};
use crate::splice::{Arrival, Binding, Phase};
use lcs_dataplane::Verdict;
use lcs_dataplane::flow::Place;
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, PSH};
use lcs_dataplane::port::Port;
use lcs_dataplane::splice::Segment;
use std::fmt::Write as _;

/// How long a client has to take an answer, nanoseconds: R2 of RFC 9293 §3.8.3.
const PATIENCE: u64 = 100_000_000_000;

/// The reason phrase of a status: those that are registered (RFC 9110 §15 and IANA's registry of status codes); for others, that of
/// their class (RFC 9110 §15: a client that does not know a status takes it for x00).
fn phrase(status: u16) -> &'static str {
    match status {
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        510 => "Not Extended",
        511 => "Network Authentication Required",
        500..=599 => "Internal Server Error",
        _ => "Bad Request",
    }
}

/// The fields without which a server must not send a status: each line with its end.
///
/// The director knows neither users nor what methods the resource has. The challenge is of the scheme that every client has, over a realm
/// of its own; who answers it is refused again, for the rule has said so. An empty `Allow` says that the resource allows no method at present.
fn required(status: u16) -> &'static str {
    match status {
        // RFC 9110 §15.5.2 and §11.6.1; RFC 7617 §2: a realm is required.
        401 => "WWW-Authenticate: Basic realm=\"refused\"\r\n",
        // RFC 9110 §15.5.6 and §10.2.1.
        405 => "Allow:\r\n",
        // RFC 9110 §15.5.8 and §11.7.1.
        407 => "Proxy-Authenticate: Basic realm=\"refused\"\r\n",
        // RFC 9110 §15.5.22 and §7.8: what the director itself speaks.
        426 => "Upgrade: HTTP/1.1\r\nConnection: upgrade\r\n",
        _ => "",
    }
}

/// A whole HTTP response after which the connection closes.
fn response(status: u16, fields: &str) -> String {
    let phrase = phrase(status);
    let body =
        format!("<html><head><title>{status} {phrase}</title></head><body><h1>{status} {phrase}</h1></body></html>\n");
    let mut r = format!("HTTP/1.1 {status} {phrase}\r\nContent-Type: text/html\r\n");
    // Writing to a string can't fail.
    let needed = required(status);
    let _ = write!(r, "Content-Length: {}\r\n{needed}{fields}Connection: close\r\n\r\n{body}", body.len());
    r
}

impl<P: Port> Desk<'_, P> {
    /// Says something to the client, to be sent again until it is acknowledged.
    pub(super) fn say_to_client(&mut self, flow: u32, b: &mut Binding, bytes: &[u8]) {
        b.out.extend_from_slice(bytes);
        self.flush(flow, b);
    }

    /// Sends what has not been sent of what is to be said.
    pub(super) fn flush(&mut self, flow: u32, b: &mut Binding) {
        let Some(key) = self.key_toward(flow, Place::CLIENT) else { return };
        let offer = self.c.splices.get(b.entry).offer();
        let window = usize::from(b.client_window) << offer.scale.unwrap_or(0);
        let own = self.own_window(flow, b.buffer.len(), b.entry);
        let mss = usize::from(offer.mss).saturating_sub(self.stamped_bytes(b.entry)).max(1);
        let all = b.out.len() + usize::from(b.out_fin);
        while b.out_sent < all {
            let from = b.out_sent.min(b.out.len());
            let room = window.saturating_sub(b.out_sent).max(usize::from(b.out_sent == 0));
            let n = (b.out.len() - from).min(mss).min(room);
            let last = from + n == b.out.len();
            let fin = last && b.out_fin;
            if n == 0 && !fin {
                break;
            }
            let segment = Segment {
                key,
                flags: ACK | PSH | if fin { FIN } else { 0 },
                seq: b.out_start.wrapping_add(from as u32),
                ack: self.acknowledged(flow, b),
                window: own,
                options: &[],
                payload: b.out[from..from + n].into(),
            };
            self.send(flow, Place::CLIENT, segment);
            b.out_sent += n + usize::from(fin);
        }
        if b.resend_at == u64::MAX {
            b.arm(self.now);
        }
    }

    /// The client has acknowledged some of what was said.
    pub(super) fn said(&mut self, flow: u32, b: &mut Binding) {
        b.disarm();
        if b.out_pending() {
            self.flush(flow, b);
        } else if b.phase == Phase::Answer {
            self.answer_over(flow, b);
        } else if matches!(b.phase, Phase::Deliver | Phase::Replay) {
            if b.sent > b.delivered {
                b.arm(self.now);
            }
        } else if b.phase == Phase::Connect {
            b.arm(self.now);
        } else if b.phase == Phase::Hold && self.is_migrated(flow) {
            // What the director had said was all that it waited for.
            self.hold(flow, b);
        }
    }

    /// No server will answer: the client is told, with an HTTP status where that is what it speaks.
    pub(super) fn give_up_request(&mut self, flow: u32, b: &mut Binding, status: u16) {
        let http =
            self.content(self.c.table.get(flow).service).is_none_or(|content| content.protocol == Protocol::Http);
        if http {
            self.answer(flow, b, &response(status, ""));
        } else {
            self.abort(flow, b);
        }
    }

    /// `reject` and `reject(status)`.
    pub(super) fn rejected(&mut self, flow: u32, b: &mut Binding, content: &Content, status: Option<u16>) {
        match status {
            Some(status) if content.protocol == Protocol::Http => self.answer(flow, b, &response(status, "")),
            _ => self.abort(flow, b),
        }
    }

    /// `redirect(status, url)`.
    pub(super) fn redirected(&mut self, flow: u32, b: &mut Binding, content: &Content, status: u16, url: &str) {
        if content.protocol == Protocol::Http {
            self.answer(flow, b, &response(status, &format!("Location: {url}\r\n")));
        } else {
            self.abort(flow, b);
        }
    }

    /// Answers in a server's place, and closes.
    fn answer(&mut self, flow: u32, b: &mut Binding, response: &str) {
        self.drop_server(flow, b);
        // The answer to HEAD ends with its head (RFC 9112 §6.3).
        let head = response.find("\r\n\r\n").map_or(response.len(), |at| at + 4);
        // (Of a connection that is decided once, no more has been read than the rules needed.)
        let bodiless = b.request.0 == Method::Head || b.buffer.starts_with(b"HEAD ");
        let response = if bodiless { &response[..head] } else { response };
        b.phase = Phase::Answer;
        b.go_on_behind(b.buffer.len());
        b.forget_ahead();
        b.cut = 0;
        b.retries = 0;
        b.rto = crate::splice::RTO_FIRST;
        b.out_fin = true;
        b.give_up(Some(self.now + PATIENCE));
        b.disarm();
        self.say_to_client(flow, b, response.as_bytes());
        self.moved_by(flow, FIN | ACK, Place::SERVER);
    }

    /// Lets go of the server that the connection is attached to, when it will not be used any more.
    fn drop_server(&mut self, flow: u32, b: &mut Binding) {
        if self.is_direct_guess(flow) {
            self.guessed(flow, b.entry, false);
            self.give_up_guess(flow, b, false);
        }
        if self.is_attached(flow) {
            if self.c.splices.get(b.entry).is_guess() {
                self.guessed(flow, b.entry, false);
            }
            let e = self.c.splices.get(b.entry);
            let (seq, ack) = (e.offsets.seq(Place::CLIENT, b.start), e.offsets.limit[Place::SERVER]);
            self.reset_server(flow, seq, ack);
        }
        self.c.splices.unfollow(b.entry);
    }

    /// Resets both sides and forgets the connection.
    pub(super) fn abort(&mut self, flow: u32, b: &mut Binding) {
        self.drop_server(flow, b);
        let seq = self.client_next(b);
        self.reset_client(flow, seq, b.next());
        b.done = true;
        self.close(flow);
    }

    /// A client's segment while it is being answered: what it still sends is acknowledged and not read.
    pub(super) fn answered(&mut self, a: &Arrival, len: usize, flow: u32, b: &mut Binding) -> Verdict {
        let counted = len as u32 + u32::from(a.flags & FIN != 0);
        let ahead = b.next().wrapping_sub(a.seq) as i32;
        if counted == 0 {
            return Verdict::Consume;
        }
        if ahead >= 0 && (ahead as u32) < counted && !b.fin {
            b.start = a.seq.wrapping_add(len as u32);
            b.fin = a.flags & FIN != 0;
            if b.fin {
                self.moved_by(flow, FIN | ACK, Place::CLIENT);
            }
        }
        self.acknowledge(flow, b);
        if !b.out_pending() {
            self.answer_over(flow, b);
        }
        Verdict::Consume
    }

    /// All that was to be said is acknowledged; the connection ends with the client's FIN.
    fn answer_over(&mut self, flow: u32, b: &mut Binding) {
        if !b.fin {
            return;
        }
        let e = self.c.splices.get_mut(b.entry);
        e.numbers = [b.next().wrapping_sub(1), b.out_end().wrapping_sub(1)];
        b.done = true;
        if self.c.table.get(flow).state != lcs_dataplane::flow::TcpState::TimeWait {
            self.c.moved(flow, lcs_dataplane::flow::TcpState::TimeWait, self.tick);
        }
    }

    /// The client closes without asking (any more).
    pub(super) fn closed_without_request(&mut self, flow: u32, b: &mut Binding) {
        if self.is_attached(flow) {
            // The server in turn gets the FIN as if it had been forwarded.
            b.uncut = true;
            self.begin_delivery(flow, b);
            self.deliver(flow, b);
            return;
        }
        if self.is_direct_guess(flow) {
            self.give_up_guess(flow, b, false);
        }
        b.out_fin = true;
        b.phase = Phase::Answer;
        b.give_up(Some(self.now + PATIENCE));
        self.flush(flow, b);
        self.moved_by(flow, FIN | ACK, Place::SERVER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_whole_response() {
        let r = response(503, "");
        let (head, body) = r.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        assert!(response(302, "Location: /x\r\n").contains("\r\nLocation: /x\r\n"));
    }

    #[test]
    fn statuses_have_the_phrases_and_fields_that_they_need() {
        let has = |status: u16, line: &str| response(status, "").contains(&format!("\r\n{line}\r\n"));
        assert!(has(401, "WWW-Authenticate: Basic realm=\"refused\""));
        assert!(has(405, "Allow:"));
        assert!(has(426, "Upgrade: HTTP/1.1") && has(426, "Connection: upgrade"));
        assert!(has(407, "Proxy-Authenticate: Basic realm=\"refused\""));
        assert!(!response(403, "").contains("uthenticate") && !response(404, "").contains("Allow"));
        for (status, phrase) in
            [(451, "Unavailable For Legal Reasons"), (422, "Unprocessable Content"), (418, "Bad Request")]
        {
            assert!(response(status, "").starts_with(&format!("HTTP/1.1 {status} {phrase}\r\n")));
        }
    }
}
