//! Reads requests and compares every byte with what the exchange's code says: a server's ears.

use super::exchange::{CODE_FIELD, Class, Exchange, field};
use crate::network::http::message::{MAX_HEAD, head_end};

/// The request that comes in.
#[derive(Debug, Default)]
pub struct RequestReader {
    /// The exchange, its request, and how much of it has come.
    incoming: Option<(Exchange, Vec<u8>, usize)>,
}

impl RequestReader {
    /// Whether a request's head has come and not all of the request.
    pub fn within(&self) -> bool {
        self.incoming.is_some()
    }

    /// Takes bytes of one request out of `input`; the exchange when all of it has come.
    ///
    /// # Errors
    /// What must never come to a server of these classes: a request that nobody sent, one for another group, a byte that
    /// is not the request's.
    pub fn take(&mut self, input: &mut Vec<u8>, classes: &[Class]) -> Result<Option<Exchange>, String> {
        if self.incoming.is_none() {
            let Some(end) = head_end(input, 0) else {
                return if input.len() > MAX_HEAD { Err("an endless head".into()) } else { Ok(None) };
            };
            let head = &input[..end];
            let shown = || String::from_utf8_lossy(&head[..head.len().min(400)]).into_owned();
            let code = field(head, CODE_FIELD).and_then(|code| code.parse::<Exchange>().ok());
            let exchange = code.ok_or_else(|| format!("a request that nobody sent: {:?}", shown()))?;
            if !classes.contains(&exchange.class) {
                return Err(format!("a request for another group: {exchange}"));
            }
            self.incoming = Some((exchange, exchange.request(), 0));
        }
        let Some((exchange, request, came)) = &mut self.incoming else { return Ok(None) };
        let n = input.len().min(request.len() - *came);
        if let Some(at) = (0..n).find(|&i| input[i] != request[*came + i]) {
            return Err(format!("wrong byte at {} of the request {exchange}", *came + at));
        }
        *came += n;
        input.drain(..n);
        let exchange = (*came == request.len()).then_some(*exchange);
        if exchange.is_some() {
            self.incoming = None;
        }
        Ok(exchange)
    }
}
