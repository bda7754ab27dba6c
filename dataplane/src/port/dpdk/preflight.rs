//! What can be known of a device before DPDK is started.

use super::error::DpdkError;
use crate::port::device::Device;
use std::path::Path;

/// Whether a device's frames come from a kernel, which may leave their checksums to a device that is not there.
pub(super) fn has_partial_checksums(device: &Device) -> bool {
    const FROM_KERNELS: [&str; 6] = ["net_af_packet", "net_af_xdp", "net_tap", "net_virtio", "net_vhost", "net_memif"];
    FROM_KERNELS.iter().any(|kind| device.name.starts_with(kind))
}

/// Says what is against a device.
pub(super) fn check(device: &Device) -> Result<(), DpdkError> {
    if !device.is_pci() {
        return Ok(());
    }
    let path = Path::new("/sys/bus/pci/devices").join(&device.name);
    if !path.exists() {
        return Err(DpdkError::NoPciDevice { device: device.name.clone() });
    }
    let driver = std::fs::read_link(path.join("driver")).ok();
    let driver = driver.and_then(|d| Some(d.file_name()?.to_string_lossy().into_owned()));
    // Mellanox's drivers are shared with the kernel and stay bound.
    const TAKES: [&str; 6] = ["vfio-pci", "uio_pci_generic", "igb_uio", "mlx4_core", "mlx5_core", "mana"];
    match driver {
        Some(driver) if TAKES.contains(&driver.as_str()) => Ok(()),
        driver => Err(DpdkError::Bound { device: device.name.clone(), driver }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pci_device_that_is_not_there_is_named() {
        let error = check(&Device::parse("ffff:ff:1f.7").unwrap()).unwrap_err().to_string();
        assert!(error.contains("ffff:ff:1f.7") && error.contains("lspci -D"), "{error}");
    }
}
