//! What can go wrong while DPDK and its devices are set up, as sentences that say what to do about it.

use crate::port::device::Device;
use thiserror::Error;

/// DPDK, or one of its devices, could not be set up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DpdkError {
    /// No memory pages for it.
    #[error(
        "DPDK finds no free hugepages: reserve some (`sysctl -w vm.nr_hugepages=512`, 1 GiB of 2 MiB pages), or add \
         \"--no-huge\" to [port] eal, which works without and is slower"
    )]
    NoHugepages,
    /// Root has to do it.
    #[error(
        "DPDK may not {what} as this user: run as root, or give the program the capabilities CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW and CAP_IPC_LOCK"
    )]
    Permission {
        /// What was refused.
        what: &'static str,
    },
    /// It can be started once only.
    #[error("DPDK was started in this process before, and it cannot be started twice: start the program again")]
    Twice,
    /// An argument of the EAL.
    #[error("{argument:?} is no argument for the EAL: {why}")]
    Argument {
        /// The argument.
        argument: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The options make no sense.
    #[error("{0}")]
    Options(String),
    /// No such hardware.
    #[error("there is no PCI device {device}: `lspci -D` shows the addresses of those there are")]
    NoPciDevice {
        /// Its address.
        device: String,
    },
    /// The kernel has the hardware.
    #[error(
        "{device} is {}, and DPDK needs it bound to vfio-pci: `modprobe vfio-pci`, then `dpdk-devbind.py --bind=vfio-pci {device}` \
         (the kernel loses the interface; without an IOMMU, first `echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode`)",
        bound(.driver)
    )]
    Bound {
        /// Its address.
        device: String,
        /// The driver that it is bound to.
        driver: Option<String>,
    },
    /// The EAL, the pools or the devices.
    #[error("DPDK does not start: {why}. {hint}; DPDK's own messages above say more")]
    Start {
        /// Why.
        why: String,
        /// What to do.
        hint: String,
    },
    /// A device that is set up and does not start.
    #[error(
        "{device} does not start: {why}. See that nothing else uses it and that its driver can do what is asked (`lcs hw check`, \
         `dpdk-devbind.py --status`); DPDK's own messages above say more"
    )]
    Device {
        /// The device.
        device: String,
        /// Why.
        why: String,
    },
    /// The machine.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        error: std::io::Error,
    },
}

fn bound(driver: &Option<String>) -> String {
    match driver {
        Some(driver) => format!("bound to the driver {driver}"),
        None => "bound to no driver".to_owned(),
    }
}

impl DpdkError {
    /// From what capsule says.
    pub(super) fn from_capsule(why: &str, devices: &[Device], queues: usize) -> Self {
        let names: Vec<String> = devices.iter().map(|d| d.name.clone()).collect();
        let names = names.join(", ");
        let virtual_only = devices.iter().all(|d| !d.is_pci());
        let hint = if why.contains("Insufficient number of") {
            format!(
                "each of {queues} workers needs a queue of its own on {names}: give [workers] fewer cores, or the device more \
                 queues (net_af_packet: qpairs=N; net_af_xdp: queue_count=N; net_pcap: one rx_pcap and tx_pcap for each)"
            )
        } else if why.contains("ermission") {
            return DpdkError::Permission { what: "take its memory or its devices" };
        } else if why.contains("Cannot allocate memory") || why.contains("Not enough space") {
            "there is not enough memory for the buffers: reserve more hugepages (`sysctl -w vm.nr_hugepages=1024`), give \
             [port] fewer buffers, or with \"--no-huge\" add \"-m\", \"1024\" (MiB) to [port] eal"
                .to_owned()
        } else if why.contains("Mempool for") && why.contains("not found") {
            // capsule makes a pool on each node that has a worker's core, and takes the device's node's.
            format!(
                "buffers are on the NUMA nodes of the workers' cores, and a device of {names} is on another node: give [workers] cores at \
                 least one core of the device's node (`lcs hw show` tells both, `lcs hw plan` chooses cores near the device)"
            )
        } else if why.contains("No such device") {
            format!(
                "there is no device of a name among {names}; `dpdk-testpmd -- --help` and `dpdk-devbind.py --status` tell which there are"
            )
        } else if virtual_only {
            format!("look at the names and arguments of {names}, and at [port] eal")
        } else {
            format!("look at [port] eal and whether {names} can be had: `dpdk-devbind.py --status`")
        };
        DpdkError::Start { why: why.trim_end_matches('.').to_owned(), hint }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_says_what_to_run() {
        let devices = [Device::parse("net_tap0").unwrap()];
        let queues = DpdkError::from_capsule("Insufficient number of RX queues '1'.", &devices, 2).to_string();
        assert!(queues.contains("2 workers") && queues.contains("qpairs"), "{queues}");
        let memory = DpdkError::from_capsule("Cannot allocate memory", &devices, 1).to_string();
        assert!(memory.contains("hugepages"), "{memory}");
        let node = DpdkError::from_capsule("Mempool for SocketId(1) not found.", &devices, 1).to_string();
        assert!(node.contains("NUMA") && node.contains("[workers] cores"), "{node}");
        let device = DpdkError::Device { device: "net_tap0".into(), why: "its link is down".into() }.to_string();
        assert!(device.contains("its link is down. See") && device.contains("lcs hw check"), "{device}");
        assert!(DpdkError::NoHugepages.to_string().contains("--no-huge"));
        let bound = DpdkError::Bound { device: "0000:5e:00.0".into(), driver: Some("ice".into()) }.to_string();
        assert!(
            bound.contains("driver ice") && bound.contains("dpdk-devbind.py --bind=vfio-pci 0000:5e:00.0"),
            "{bound}"
        );
    }
}
