//! Datagrams there and back.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use lcs_hwconf::testbed::Host;
use lcs_perf::demo::body::Body;
use lcs_perf::demo::root::scene::Scene;

use super::PATIENCE;

/// A host that sends every datagram back, with its name in front; it ends when this is dropped.
pub struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    pub fn start(host: &Host, address: SocketAddr) -> Echo {
        let socket = host.run(|| UdpSocket::bind(address)).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, name) = (Arc::clone(&stop), host.name().to_owned());
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    // A client that is gone is its own test's affair.
                    let _ = socket.send_to(&[name.as_bytes(), b"\n", &buffer[..length]].concat(), from);
                }
            }
        });
        Echo { stop, thread: Some(thread) }
    }

    /// One on every server of a scene.
    pub fn everywhere(scene: &Scene) -> Vec<Echo> {
        (0..).zip(scene.bed().servers()).map(|(at, host)| Echo::start(host, scene.endpoint(at))).collect()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A client's socket in `host`.
pub fn socket(host: &Host, ipv6: bool) -> UdpSocket {
    let any: IpAddr = if ipv6 { "::".parse().unwrap() } else { "0.0.0.0".parse().unwrap() };
    let socket = host.run(|| UdpSocket::bind((any, 0))).unwrap().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Sends `length` bytes and waits for their return, every byte compared. Gives the server's name.
pub fn there_and_back(socket: &UdpSocket, to: SocketAddr, length: usize) -> std::io::Result<String> {
    let mut sent = vec![0; length];
    Body::of(&format!("/datagram/{length}")).unwrap().write(0, &mut sent);
    socket.send_to(&sent, to)?;
    let mut answer = vec![0; 65_536];
    let (received, from) = socket.recv_from(&mut answer)?;
    assert_eq!(from, to, "the answer comes from the service");
    let newline = answer.iter().position(|byte| *byte == b'\n').expect("a name in front");
    assert_eq!(&answer[newline + 1..received], sent, "the same bytes come back");
    Ok(String::from_utf8(answer[..newline].to_vec()).unwrap())
}
