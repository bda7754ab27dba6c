//! TAP devices: Ethernet frames between the kernel and us. A kernel that has lost its card to DPDK gets one of these for it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use ipnet::IpNet;

use crate::error::{Error, Result};
use crate::rtnl::Rtnl;
use crate::{sys, tun};

/// What a TAP device is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapPlan {
    /// Its name, up to 15 bytes.
    pub name: String,
    /// Its link-layer address; one of the kernel's choice where none is given.
    pub mac: Option<[u8; 6]>,
    /// Its MTU in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Addresses that it is to have, with the length of their subnet's prefix.
    pub addresses: Vec<IpNet>,
    /// Whether the kernel may forward IPv4 from it to other interfaces where forwarding is on at all (`ip_forward`, which
    /// containers switch on). A kernel that does is a way round whoever stands in front of it.
    pub forward: bool,
}

/// An open TAP device. The device is gone when this is dropped or the process ends, unless it was made persistent
/// by someone else (`ip tuntap add`).
///
/// A frame that is written arrives in the kernel as if received; its checksums are verified there in software.
/// A frame that is read was sent by the kernel, with full checksums and no longer than the MTU: no offload is offered.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
}

impl Tap {
    /// Makes a TAP device in the calling thread's network namespace, gives it its addresses, and sets it up. One that
    /// is there already and that no other process has open is taken, and keeps what else it has.
    ///
    /// # Errors
    /// When the name is taken, the process may not, or the kernel has no TUN driver; each says what to do.
    pub fn open(plan: &TapPlan) -> Result<Self> {
        let name = plan.name.as_str();
        // The device belongs to the namespace of the thread that opens it.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .map_err(tun::no_tun)?;
        sys::attach_tun(file.as_fd(), name, libc::IFF_TAP | libc::IFF_NO_PI).map_err(|e| no_tap(name, e))?;
        let tap = Tap { file, name: name.into() };
        let rtnl = Rtnl::open()?;
        rtnl.set_mtu(name, plan.mtu)?;
        if let Some(mac) = plan.mac {
            rtnl.set_mac(name, mac)?;
        }
        rtnl.set_up(name, true)?;
        if !plan.forward {
            keep_from_forwarding(name)?;
        }
        let present = rtnl.addresses(name)?;
        for address in plan.addresses.iter().filter(|a| !present.contains(a)) {
            rtnl.add_address(name, *address)?;
        }
        Ok(tap)
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads one frame, without waiting: `None` when there is none. A frame longer than `buffer` is cut.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<Option<usize>> {
        match (&self.file).read(buffer) {
            Ok(length) => Ok(Some(length)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(Error::system(format!("read from the TAP device {}", self.name), error)),
        }
    }

    /// Gives one whole Ethernet frame to the kernel.
    ///
    /// # Errors
    /// When the device is down or gone, or the frame has no whole Ethernet header.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        (&self.file).write(frame).map(drop).map_err(|e| {
            Error::system(format!("write a frame of {} bytes to the TAP device {}", frame.len(), self.name), e)
        })
    }

    /// Waits until `wake` can be read, or (only when `frames` are wanted) a frame can, or `timeout` has passed.
    ///
    /// # Errors
    /// When the kernel refuses to wait.
    pub fn wait(&self, frames: bool, wake: &impl AsFd, timeout: Duration) -> Result<()> {
        let waited = if frames {
            sys::wait_readable([wake.as_fd(), self.file.as_fd()], Some(timeout)).map(drop)
        } else {
            sys::wait_one(wake, Some(timeout)).map(drop)
        };
        waited.map_err(|e| Error::system(format!("wait for the TAP device {}", self.name), e))
    }
}

/// IPv4 only: IPv6 has no such switch for an interface (its `forwarding` there says whether it takes router advertisements).
fn keep_from_forwarding(name: &str) -> Result<()> {
    let file = format!("/proc/sys/net/ipv4/conf/{name}/forwarding");
    // Where it is off already, nothing needs to be written: in containers the file is often read-only.
    if std::fs::read_to_string(&file).is_ok_and(|text| text.trim() == "0") {
        return Ok(());
    }
    std::fs::write(&file, "0").map_err(|e| {
        let mend = "make /proc/sys writable, or allow it: `forward = true` in [[port.taps]]";
        Error::system_mend(format!("keep the kernel from forwarding what comes from the TAP device {name}"), e, mend)
    })
}

fn no_tap(name: &str, error: io::Error) -> Error {
    let mend = match error.raw_os_error() {
        Some(libc::EBUSY) => "another process has it open (another director?); end that, or take another name",
        Some(libc::EINVAL) => {
            "another kind of interface has this name, or it is none of 1 to 15 bytes without '/' and blanks; `ip link` shows \
             which there are"
        }
        _ => return Error::system(format!("create the TAP device {name}"), error),
    };
    Error::system_mend(format!("create the TAP device {name}"), error, mend)
}
