//! TUN devices: IP packets, without an Ethernet header, between the kernel and us.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::netns::Namespace;
use crate::rtnl::Rtnl;
use crate::sys;

/// An open TUN device. The device is gone when this is dropped or the process ends.
///
/// A packet that is written arrives in the kernel as if received; its checksums are verified there in software.
/// A packet that is read was routed to the device. The kernel keeps up to 500 unread packets, then drops.
#[derive(Debug)]
pub struct Tun {
    file: File,
    name: String,
}

impl Tun {
    /// Makes a TUN device named `name` in `namespace`, with an MTU in bytes, and sets it up.
    ///
    /// Reverse-path filtering is off on it (and must be off in `net/ipv4/conf/all`), because what comes out of
    /// a tunnel has the addresses of another network.
    pub fn create(namespace: &Namespace, name: &str, mtu: u32) -> Result<Self> {
        let file = namespace.run(|| {
            // The device belongs to the namespace of the thread that opens it.
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open("/dev/net/tun")
                .map_err(no_tun)?;
            sys::attach_tun(file.as_fd(), name, libc::IFF_TUN | libc::IFF_NO_PI)
                .map_err(|e| Error::system(format!("create the TUN device {name}"), e))?;
            Ok(file)
        })??;
        let tun = Tun { file, name: name.into() };
        namespace.sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "0")?;
        let rtnl = Rtnl::open_in(namespace)?;
        rtnl.set_mtu(name, mtu)?;
        rtnl.set_up(name, true)?;
        Ok(tun)
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads one packet, without waiting: `None` when there is none. A packet longer than `buffer` is cut.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<Option<usize>> {
        match (&self.file).read(buffer) {
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(Error::system(format!("read from the TUN device {}", self.name), error)),
        }
    }

    /// Waits until there is a packet; `false` when `timeout` passed first.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool> {
        sys::wait_one(&self.file, timeout)
            .map_err(|e| Error::system(format!("wait for the TUN device {}", self.name), e))
    }

    /// Gives one whole IPv4 or IPv6 packet to the kernel.
    pub fn send(&self, packet: &[u8]) -> Result<()> {
        (&self.file).write(packet).map(drop).map_err(|e| {
            Error::system(format!("write a packet of {} bytes to the TUN device {}", packet.len(), self.name), e)
        })
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Why `/dev/net/tun` can't be opened.
pub(crate) fn no_tun(error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Error::system_mend(
            "open /dev/net/tun",
            error,
            "load the driver: modprobe tun; in a container, pass the device in: --device /dev/net/tun",
        ),
        _ => Error::system("open /dev/net/tun", error),
    }
}
