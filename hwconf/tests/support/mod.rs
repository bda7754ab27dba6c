//! What the namespace tests share: skipping without root, a small HTTP exchange over kernel TCP, and frames checked
//! in software.

#![allow(dead_code)] // Each test takes the part that it needs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use lcs_hwconf::netns::Namespace;
use lcs_hwconf::testbed::Host;

/// How long anything may take that happens by itself.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Whether network namespaces can be made here; says why a test is skipped where not.
pub fn root(test: &str) -> bool {
    match Namespace::create() {
        Ok(_) => true,
        Err(error) if error.errno() == Some(libc::EPERM) => {
            eprintln!("{test} is skipped: {error}");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

/// Waits for `condition`, or fails naming `what`.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come about within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Starts an HTTP server on `address` of `host` that answers each connection with `length` bytes and its own name.
pub fn serve_http(host: &Host, address: IpAddr, port: u16, length: usize) {
    let name = host.name().to_owned();
    let listener = host.run(|| TcpListener::bind(SocketAddr::new(address, port))).unwrap().unwrap();
    // Lives until the test's process ends; the listener belongs to the host's namespace.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let body = "x".repeat(length);
            // A client that gave up is its own test's affair.
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nServer: {name}\r\nContent-Length: {length}\r\n\r\n{body}");
        }
    });
}

/// One GET by kernel TCP from `host`; gives the answering server's name and the length of the body.
pub fn get(host: &Host, address: IpAddr, port: u16) -> std::io::Result<(String, usize)> {
    let mut stream = host.run(|| TcpStream::connect_timeout(&SocketAddr::new(address, port), PATIENCE)).unwrap()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    let server = head.lines().find_map(|line| line.strip_prefix("Server: ")).expect("a server's name");
    Ok((server.to_owned(), body.len()))
}

/// The Internet checksum (RFC 1071) over `parts`, each but the last of even length. 0 when a checksum within is right.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words.map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Whether the checksum of a TCP segment in an Ethernet frame is right; `None` for anything else.
pub fn tcp_checksum_right(frame: &[u8]) -> Option<bool> {
    let packet = frame.get(14..)?;
    let (addresses, segment) = match u16::from_be_bytes([frame[12], frame[13]]) {
        0x0800 if packet[9] == 6 => {
            let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
            (&packet[12..20], &packet[usize::from(packet[0] & 15) * 4..total])
        }
        0x86dd if packet[6] == 6 => {
            let payload = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
            (&packet[8..40], &packet[40..40 + payload])
        }
        _ => return None,
    };
    let pseudo = [(segment.len() as u32).to_be_bytes(), [0, 0, 0, 6]].concat();
    Some(checksum(&[addresses, &pseudo, segment]) == 0)
}
