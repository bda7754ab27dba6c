//! The kernel network interface, which DPDK no longer has: every function says that it failed. Nothing here ever succeeds,
//! so that the handles that others would take do not come into being.
#![allow(non_camel_case_types, missing_docs)]

use crate::{rte_mbuf, rte_mempool};
use std::ffi::{c_char, c_int, c_uint};

/// A handle that nobody gets.
#[derive(Debug)]
pub enum rte_kni {}

#[derive(Debug, Default, Clone, Copy)]
pub struct rte_kni_conf {
    pub name: [c_char; 32],
    pub group_id: u16,
    pub mbuf_size: c_uint,
    pub mac_addr: [u8; 6],
}

#[derive(Debug, Default, Clone, Copy)]
pub struct rte_kni_ops {
    pub port_id: u16,
    pub change_mtu: Option<extern "C" fn(u16, c_uint) -> c_int>,
    pub config_network_if: Option<extern "C" fn(u16, u8) -> c_int>,
    pub config_mac_address: Option<extern "C" fn(u16, *mut u8) -> c_int>,
    pub config_promiscusity: Option<extern "C" fn(u16, u8) -> c_int>,
}

const FAILED: c_int = -95; // ENOTSUP

/// # Safety
/// None is needed.
pub unsafe fn rte_kni_init(_max: c_uint) -> c_int {
    FAILED
}

/// # Safety
/// None is needed.
pub unsafe fn rte_kni_alloc(_: *mut rte_mempool, _: *const rte_kni_conf, _: *mut rte_kni_ops) -> *mut rte_kni {
    std::ptr::null_mut()
}

/// # Safety
/// None is needed.
pub unsafe fn rte_kni_release(_: *mut rte_kni) -> c_int {
    FAILED
}

/// # Safety
/// None is needed.
pub unsafe fn rte_kni_handle_request(_: *mut rte_kni) -> c_int {
    FAILED
}

/// # Safety
/// None is needed.
pub unsafe fn rte_kni_rx_burst(_: *mut rte_kni, _: *mut *mut rte_mbuf, _: c_uint) -> c_uint {
    0
}

/// # Safety
/// None is needed.
pub unsafe fn rte_kni_tx_burst(_: *mut rte_kni, _: *mut *mut rte_mbuf, _: c_uint) -> c_uint {
    0
}

/// # Safety
/// None is needed.
pub unsafe fn rte_kni_get_name(_: *const rte_kni) -> *const c_char {
    c"".as_ptr()
}

/// # Safety
/// None is needed.
pub unsafe fn rte_kni_close() {}
