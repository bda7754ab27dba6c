//! The few facts about an interface that a port is built with.

use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;

use super::error::AfXdpError;
use super::socket;

/// A network interface, as it was when it was looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index in the network namespace where it was looked up.
    pub index: u32,
    /// Its maximum transmission unit, bytes of network-layer packet.
    pub mtu: u32,
}

impl Interface {
    /// Looks up an interface of the calling thread's network namespace.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn by_name(name: &str) -> Result<Self, AfXdpError> {
        let failed = |error| AfXdpError::NoInterface { interface: name.to_owned(), error };
        let c_name = CString::new(name).map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        // SAFETY: `c_name` is a NUL-terminated string that lives over the call.
        let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
        if index == 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        let socket = socket::control().map_err(failed)?;
        // SAFETY: all-zero bytes are a valid `ifreq`: it consists of integers and byte arrays.
        let mut request: libc::ifreq = unsafe { core::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        // SAFETY: SIOCGIFMTU reads the name in `request` and writes its integer; `request` outlives the call.
        if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &mut request) } < 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        // SAFETY: the kernel has just written this member of the union.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        Ok(Interface { name: name.to_owned(), index, mtu: mtu.max(0) as u32 })
    }
}
