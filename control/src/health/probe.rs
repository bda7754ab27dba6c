//! Asking a server, from the director's own kernel: its answers are the kernel's, since the XDP program leaves alone what
//! is addressed to the director itself.

use super::Target;
use crate::config::{Check, CheckKind};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// Bytes of a response's head that are read at most.
const HEAD: usize = 16 << 10;

/// Why a server counts as not answering, or why it could not be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// In words.
    Server(String),
    /// This side lacks something (descriptors, ports, memory): it says nothing about the server.
    Here(String),
}

/// Asks a server once; waits no longer than its check says.
///
/// # Errors
/// Why it counts as not answering, or could not be asked.
pub async fn ask(target: &Target) -> Result<(), Failure> {
    let check = &target.check;
    let silent = || Failure::Server(format!("{} does not answer within {:?}", target.endpoint, check.timeout));
    way_to(target.endpoint)?;
    let until = Instant::now() + check.timeout;
    let stream = match timeout_at(until, TcpStream::connect(target.endpoint)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => {
            let text = format!("{} cannot be connected to: {}", target.endpoint, said(&e));
            return Err(if is_ours(&e) { Failure::Here(text) } else { Failure::Server(text) });
        }
        Err(_) => return Err(silent()),
    };
    if check.kind == CheckKind::Tcp {
        return Ok(());
    }
    match timeout_at(until, question(target, stream)).await {
        Ok(answer) => answer.map_err(Failure::Server),
        Err(_) => Err(silent()),
    }
}

/// Asks for this machine's own route, which says nothing about the server: no packet is sent by connecting a UDP socket.
fn way_to(endpoint: SocketAddr) -> Result<(), Failure> {
    let any: SocketAddr = match endpoint {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    UdpSocket::bind(any).and_then(|socket| socket.connect(endpoint)).map_err(|e| {
        let said = said(&e);
        Failure::Here(format!(
            "this machine has no way to {endpoint}: {said}; look at `ip route get {}`",
            endpoint.ip()
        ))
    })
}

/// Whether an error is about this side's means.
fn is_ours(e: &io::Error) -> bool {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable, OutOfMemory};
    // Linux's ENFILE, EMFILE and ENOBUFS have no kind of their own.
    matches!(e.kind(), AddrInUse | AddrNotAvailable | OutOfMemory) || matches!(e.raw_os_error(), Some(23 | 24 | 105))
}

async fn question(target: &Target, mut stream: TcpStream) -> Result<(), String> {
    let endpoint = target.endpoint;
    let lost = |e: io::Error| format!("{endpoint} ends the connection: {}", said(&e));
    stream.write_all(request(&target.check, &endpoint.to_string()).as_bytes()).await.map_err(lost)?;
    let mut head = Vec::with_capacity(1024);
    loop {
        match status(&head) {
            Some(Ok(code)) if (target.check.status.0..=target.check.status.1).contains(&code) => return Ok(()),
            Some(Ok(code)) => return Err(format!("{endpoint}{} has status {code}", target.check.path)),
            None if head.len() < HEAD => {}
            _ => return Err(format!("{endpoint} does not answer in HTTP")),
        }
        if stream.read_buf(&mut head).await.map_err(lost)? == 0 {
            return Err(format!("{endpoint} closes without an answer"));
        }
    }
}

/// The status of the first response that is not an interim one (RFC 9110 §15.2), as soon as its line is there. What fields
/// follow does not matter.
fn status(mut head: &[u8]) -> Option<Result<u16, httparse::Error>> {
    loop {
        let end = head.iter().position(|b| *b == b'\n')? + 1;
        let mut line = head[..end].to_vec();
        line.extend(b"\r\n");
        let mut response = httparse::Response::new(&mut []);
        let code = match (response.parse(&line), response.code) {
            (Ok(_), Some(code)) => code,
            (Ok(_), None) => return Some(Err(httparse::Error::Status)),
            (Err(e), _) => return Some(Err(e)),
        };
        if !(100..200).contains(&code) || code == 101 {
            return Some(Ok(code));
        }
        let blank = head.windows(4).position(|w| w == b"\r\n\r\n")?;
        head = &head[blank + 4..];
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
        answer.map_err(|e| match e {
            Failure::Server(text) => text.replace(&endpoint.to_string(), "SERVER"),
            Failure::Here(text) => panic!("{text}"),
        })
    }

    #[tokio::test]
    async fn answers_are_told_apart() {
        let http = CheckKind::Http;
        assert_eq!(found(CheckKind::Tcp, "").await, Ok(()));
        assert_eq!(found(http, "HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n").await, Ok(()));
        let early = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nbad field\r\n\r\n";
        assert_eq!(found(http, early).await, Ok(()));
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
        let refused = format!("{endpoint} cannot be connected to: Connection refused");
        assert_eq!(ask(&target).await, Err(Failure::Server(refused)));
    }

    #[tokio::test]
    async fn a_server_that_this_machine_has_no_way_to_is_not_said_to_be_down() {
        // The kernel connects nothing to a broadcast address without being told to, as little as to where no route leads.
        let endpoint = "255.255.255.255:80".parse().unwrap();
        let target = Target { service: "web".into(), server: "a".into(), endpoint, check: Check::new(CheckKind::Tcp) };
        let Err(Failure::Here(why)) = ask(&target).await else { panic!("it was asked") };
        assert!(why.contains("no way to 255.255.255.255:80") && why.contains("ip route get"), "{why}");
    }

    #[tokio::test]
    async fn one_that_is_silent_is_waited_for_no_longer_than_said() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap();
        let check = Check { timeout: Duration::from_millis(200), ..Check::new(CheckKind::Http) };
        let target = Target { service: "web".into(), server: "a".into(), endpoint, check };
        let silent = format!("{endpoint} does not answer within 200ms");
        assert_eq!(ask(&target).await, Err(Failure::Server(silent)));
        drop(listener);
    }
}
