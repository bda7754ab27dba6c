//! Asking a server, from the director's own kernel: its answers are the kernel's, since the XDP program leaves alone what
//! is addressed to the director itself.

use super::Target;
use crate::config::{Check, CheckKind};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Bytes of a response's head that are read at most.
const HEAD: usize = 16 << 10;

/// Asks a server once; waits no longer than its check says.
///
/// # Errors
/// Why it counts as not answering, in words.
pub async fn ask(target: &Target) -> Result<(), String> {
    let check = &target.check;
    match timeout(check.timeout, question(target)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("{} does not answer within {:?}", target.endpoint, check.timeout)),
    }
}

async fn question(target: &Target) -> Result<(), String> {
    let endpoint = target.endpoint;
    let mut stream =
        TcpStream::connect(endpoint).await.map_err(|e| format!("{endpoint} cannot be connected to: {}", said(&e)))?;
    if target.check.kind == CheckKind::Tcp {
        return Ok(());
    }
    let lost = |e: io::Error| format!("{endpoint} ends the connection: {}", said(&e));
    stream.write_all(request(&target.check, &endpoint.to_string()).as_bytes()).await.map_err(lost)?;
    let mut head = Vec::with_capacity(1024);
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut fields);
        let parsed = response.parse(&head);
        match (parsed, response.code) {
            (Ok(_), Some(code)) if (target.check.status.0..=target.check.status.1).contains(&code) => return Ok(()),
            (Ok(_), Some(code)) => return Err(format!("{endpoint}{} has status {code}", target.check.path)),
            (Ok(_), None) if head.len() < HEAD => {}
            _ => return Err(format!("{endpoint} does not answer in HTTP")),
        }
        if stream.read_buf(&mut head).await.map_err(lost)? == 0 {
            return Err(format!("{endpoint} closes without an answer"));
        }
    }
}

fn request(check: &Check, endpoint: &str) -> String {
    let host = check.host.as_deref().unwrap_or(endpoint);
    format!(
        "GET {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: lcs-check/{}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        check.path,
        env!("CARGO_PKG_VERSION")
    )
}

/// An error without the number in brackets.
fn said(e: &io::Error) -> String {
    let text = e.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::net::TcpListener;

    /// What a check of `kind` finds at a server that says `response` and closes.
    async fn found(kind: CheckKind, response: &'static str) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap();
        let check = Check { path: "/up".into(), timeout: Duration::from_secs(5), ..Check::new(kind) };
        let target = Target { service: "web".into(), server: "a".into(), endpoint, check };
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![];
            while kind == CheckKind::Http && !request.ends_with(b"\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            stream.write_all(response.as_bytes()).await.unwrap();
            String::from_utf8(request).unwrap()
        };
        let (answer, request) = tokio::join!(ask(&target), server);
        if kind == CheckKind::Http {
            assert!(request.starts_with(&format!("GET /up HTTP/1.1\r\nHost: {endpoint}\r\n")));
        }
        answer.map_err(|e| e.replace(&endpoint.to_string(), "SERVER"))
    }

    #[tokio::test]
    async fn answers_are_told_apart() {
        let http = CheckKind::Http;
        assert_eq!(found(CheckKind::Tcp, "").await, Ok(()));
        assert_eq!(found(http, "HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n").await, Ok(()));
        let status = found(http, "HTTP/1.0 503 Down\r\n\r\n").await;
        assert_eq!(status, Err("SERVER/up has status 503".into()));
        assert_eq!(found(http, "220 smtp ready\r\n").await, Err("SERVER does not answer in HTTP".into()));
        assert_eq!(found(http, "").await, Err("SERVER closes without an answer".into()));
    }

    #[tokio::test]
    async fn nobody_there() {
        let endpoint = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let check = Check { timeout: Duration::from_secs(5), ..Check::new(CheckKind::Tcp) };
        let target = Target { service: "web".into(), server: "a".into(), endpoint, check };
        assert_eq!(ask(&target).await, Err(format!("{endpoint} cannot be connected to: Connection refused")));
    }

    #[tokio::test]
    async fn one_that_is_silent_is_waited_for_no_longer_than_said() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap();
        let check = Check { timeout: Duration::from_millis(200), ..Check::new(CheckKind::Http) };
        let target = Target { service: "web".into(), server: "a".into(), endpoint, check };
        assert_eq!(ask(&target).await, Err(format!("{endpoint} does not answer within 200ms")));
        drop(listener);
    }
}
