//! The EAL's arguments: capsule writes those of DPDK 19.11.

use std::ffi::{CStr, CString, c_char, c_int};

mod c {
    use std::ffi::{c_char, c_int};

    // SAFETY: the signature is that of rte_eal.h.
    unsafe extern "C" {
        pub(super) fn rte_eal_init(argc: c_int, argv: *mut *mut c_char) -> c_int;
    }
}

/// Initialises the EAL, with today's names for the arguments that have been renamed.
///
/// # Safety
/// `argv` points to `argc` strings that end in zero. Once for each process.
pub unsafe fn rte_eal_init(argc: c_int, argv: *mut *mut c_char) -> c_int {
    let given = (0..usize::try_from(argc).unwrap_or(0)).map(|i| {
        // SAFETY: the caller's promise.
        unsafe { CStr::from_ptr(*argv.add(i)) }.to_string_lossy().into_owned()
    });
    // DPDK keeps pointers into them for as long as the process lives.
    let arguments: Vec<*mut c_char> =
        modern(given.collect()).into_iter().filter_map(|a| CString::new(a).ok()).map(CString::into_raw).collect();
    let arguments = arguments.leak();
    // SAFETY: as many strings as are counted, which are never freed; DPDK permutes the array, which is ours.
    unsafe { c::rte_eal_init(arguments.len() as c_int, arguments.as_mut_ptr()) }
}

/// The arguments as DPDK has called them since 20.11.
fn modern(given: Vec<String>) -> Vec<String> {
    let mut arguments = Vec::with_capacity(given.len());
    let mut given = given.into_iter().peekable();
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--master-lcore" => arguments.push("--main-lcore".to_owned()),
            "--pci-whitelist" => arguments.push("--allow".to_owned()),
            // Capsule knows a PCI address only when there is no letter in it.
            "--vdev" if given.peek().is_some_and(|device| is_pci(device)) => arguments.push("--allow".to_owned()),
            _ => arguments.push(argument),
        }
    }
    arguments
}

/// Whether a device (with its arguments, behind a comma) is named by a PCI address, `0000:5e:00.0`.
fn is_pci(device: &str) -> bool {
    let address = device.split(',').next().unwrap_or("");
    let hex = |part: Option<&str>, digits: usize| {
        part.is_some_and(|p| p.len() == digits && p.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    let mut parts = address.split([':', '.']);
    let four = hex(parts.next(), 4) && hex(parts.next(), 2) && hex(parts.next(), 2) && hex(parts.next(), 1);
    four && parts.next().is_none() && address.contains('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renamed_arguments_get_their_new_names_and_others_pass() {
        let given = ["lcs", "--master-lcore", "1", "--pci-whitelist", "0000:03:00.1", "--vdev", "0000:5e:00.0,x=1"];
        let given = given.iter().chain(&["--vdev", "net_ring0", "--no-huge"]).map(|s| (*s).to_owned()).collect();
        let want = "lcs --main-lcore 1 --allow 0000:03:00.1 --allow 0000:5e:00.0,x=1 --vdev net_ring0 --no-huge";
        assert_eq!(modern(given).join(" "), want);
    }

    #[test]
    fn a_pci_address_is_told_from_a_name() {
        assert!(is_pci("0000:5e:00.0") && is_pci("0001:af:1f.7,mprq_en=0"));
        assert!(!is_pci("net_tap0") && !is_pci("5e:00.0") && !is_pci("0000:5e:00.0.1") && !is_pci("0000:5e:00:0"));
    }
}
