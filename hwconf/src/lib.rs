//! What the machine is: cores, links, queues, offloads, namespaces.
//!
//! Everything is asked of the kernel itself, by netlink, `ioctl`, `/proc` and `/sys`; no external program is run.
//! [`machine`] reads it all as one value, from which [`plan`] says what to change and [`check`] what is amiss.
//! What it changes itself (links, addresses, offloads, namespaces) is changed only when called for by name.

pub mod asked;
pub mod check;
pub mod cores;
pub mod decapsulator;
pub mod error;
pub mod ethtool;
pub mod links;
pub mod machine;
pub mod napi;
mod netdev;
pub mod netns;
pub mod packet;
pub mod plan;
pub mod profile;
pub mod receive;
pub mod rtnl;
pub mod stack_arm;
pub mod steering;
mod sys;
pub mod tap;
pub mod testbed;
pub mod tun;
pub mod xdp;

pub use error::{Error, Result};
