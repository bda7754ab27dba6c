//! Bindings of the installed DPDK under the names that `capsule` 0.1.5 uses.
//!
//! Capsule was written for DPDK 19.11. What has changed since is made up for here and nowhere else: renamed constants
//! (`bindings.h`), arguments of the EAL ([`eal`]), the kernel network interface that is gone ([`kni`]), and the
//! configuration of a device, to which the offloads that capsule does not ask for are added ([`rte_eth_dev_configure`]).
#![cfg(target_os = "linux")]
#![deny(unsafe_op_in_unsafe_fn)]

mod eal;
mod kni;

#[allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    dead_code,
    unsafe_op_in_unsafe_fn,
    unnecessary_transmutes
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use bindings::*;
pub use eal::rte_eal_init;
pub use kni::*;

use std::ffi::c_int;

/// How a device spreads packets over its queues.
pub mod rte_eth_rx_mq_mode {
    pub use crate::bindings::rte_eth_rx_mq_mode::*;
    /// By their hash.
    pub const ETH_MQ_RX_RSS: Type = RTE_ETH_MQ_RX_RSS;
}

mod c {
    use super::bindings::rte_eth_conf;
    use std::ffi::c_int;

    // SAFETY: the signature is that of rte_ethdev.h.
    unsafe extern "C" {
        pub(super) fn rte_eth_dev_configure(port: u16, rx: u16, tx: u16, conf: *const rte_eth_conf) -> c_int;
    }
}

/// Configures a device as capsule asks, and has it check the header checksums of received IPv4 packets where it can.
///
/// # Safety
/// As DPDK's function of that name: the EAL is initialised, and `conf` points to a configuration.
pub unsafe fn rte_eth_dev_configure(port: u16, rx_queues: u16, tx_queues: u16, conf: *const rte_eth_conf) -> c_int {
    let mut info = rte_eth_dev_info::default();
    // SAFETY: the caller's promise; `info` is ours and may be written.
    let known = unsafe { rte_eth_dev_info_get(port, &raw mut info) };
    // SAFETY: the caller's promise.
    let mut conf = unsafe { *conf };
    if known == 0 {
        conf.rxmode.offloads |= info.rx_offload_capa & LCS_RX_OFFLOAD_IPV4_CKSUM;
    }
    // SAFETY: no arguments, and the EAL is initialised.
    if unsafe { rte_socket_count() } > 1 {
        // A pool for each NUMA node: then a queue may send buffers of several pools, which fast free forbids.
        conf.txmode.offloads &= !u64::from(DEV_TX_OFFLOAD_MBUF_FAST_FREE);
    }
    // SAFETY: the caller's promise, with a configuration that lives until the call is over (DPDK copies it).
    unsafe { c::rte_eth_dev_configure(port, rx_queues, tx_queues, &raw const conf) }
}
