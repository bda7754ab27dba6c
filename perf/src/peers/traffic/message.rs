//! Heads of requests and responses, as far as the load and its servers need them.

/// Longest head that is taken, in bytes.
pub const LONGEST_HEAD: usize = 16 << 10;

/// What a head says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Bytes, the empty line included.
    pub length: usize,
    /// Request: the target. Response: empty.
    pub target: String,
    /// Response: the status. Request: 0.
    pub status: u16,
    /// Bytes of the body.
    pub body: usize,
    /// `X-Request`.
    pub request: Option<usize>,
    /// `X-Server`.
    pub server: String,
    /// Whether the connection is closed behind it.
    pub closes: bool,
}

impl Head {
    /// Reads a request's head; `None` while there is more of it to come.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_request(bytes: &[u8]) -> Result<Option<Head>, String> {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut fields);
        let length = match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return partial(bytes),
            Err(e) => return Err(format!("a request that can't be read: {e}")),
        };
        let mut head = Head { length, target: request.path.unwrap_or_default().to_owned(), ..Head::default() };
        // HTTP/1.0 closes unless told not to.
        head.closes = request.version == Some(0);
        head.fields(request.headers)?;
        Ok(Some(head))
    }

    /// Reads a response's head; `None` while there is more of it to come.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_response(bytes: &[u8]) -> Result<Option<Head>, String> {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut fields);
        let length = match response.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return partial(bytes),
            Err(e) => return Err(format!("a response that can't be read: {e}")),
        };
        let mut head = Head { length, status: response.code.unwrap_or(0), ..Head::default() };
        head.fields(response.headers)?;
        Ok(Some(head))
    }

    fn fields(&mut self, fields: &[httparse::Header<'_>]) -> Result<(), String> {
        for field in fields {
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            let value = || std::str::from_utf8(field.value).map_err(|_| format!("{} is no text", field.name));
            let number = || value()?.parse::<usize>().map_err(|_| format!("{} is no number", field.name));
            if is("content-length") {
                self.body = number()?;
            } else if is("x-request") {
                self.request = Some(number()?);
            } else if is("x-server") {
                self.server = value()?.to_owned();
            } else if is("connection") {
                self.closes = field.value.eq_ignore_ascii_case(b"close");
            } else if is("transfer-encoding") {
                return Err("a body in chunks, which nobody sent".into());
            }
        }
        Ok(())
    }
}

fn partial(bytes: &[u8]) -> Result<Option<Head>, String> {
    if bytes.len() > LONGEST_HEAD { Err("a head that doesn't end".into()) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_in_whatever_case_and_only_when_complete() {
        let text = b"POST /order HTTP/1.1\r\nx-request: 1\r\ncontent-LENGTH: 42\r\nconnection: close\r\n\r\n<a/>";
        for cut in 0..text.len() - 4 {
            assert_eq!(Head::of_request(&text[..cut]).unwrap(), None);
        }
        let head = Head::of_request(text).unwrap().unwrap();
        assert_eq!((head.length, head.target.as_str(), head.body), (text.len() - 4, "/order", 42));
        assert_eq!((head.request, head.closes), (Some(1), true));
        let head = Head::of_response(b"HTTP/1.1 200 OK\r\nX-Server: server2\r\nX-Request: 3\r\n\r\n").unwrap().unwrap();
        assert_eq!((head.status, head.server.as_str(), head.request, head.body), (200, "server2", Some(3), 0));
    }

    #[test]
    fn what_cannot_be_is_an_error_and_not_awaited_for_ever() {
        assert!(Head::of_request(b"\x00\x01").is_err());
        assert!(Head::of_response(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n").is_err());
        assert!(Head::of_response(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        let mut long = b"GET / HTTP/1.1\r\nA: ".to_vec();
        long.resize(LONGEST_HEAD + 1, b'a');
        assert!(Head::of_request(&long).is_err());
    }
}
