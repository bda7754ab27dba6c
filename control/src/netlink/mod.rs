//! Next hops, routes and addresses from the kernel's own tables, through netlink, followed live.
//!
//! A layer-4 director sends frames past the kernel and still has to send them where the kernel would: through the
//! same route, to the same link-layer address. This room listens to the kernel's links, addresses, routes (tables
//! `local` and `main`) and neighbours, and says for each watched address where its packets go, or why it can't tell
//! and what to do about it. Nothing here knows services or workers.
//!
//! - [`NextHops`] is what the control thread uses: [`NextHops::start`], [`NextHops::watch`], and a stream of [`Change`]s.
//! - `state` decides; it has no socket and no clock, so its tests need neither root nor time.
//! - `tables` and `fib` hold the kernel's tables, `neighbours` asks the kernel to resolve and keeps entries fresh,
//!   `message` translates netlink messages, `socket` is the only place that does input and output.
//!
//! # What is followed and what is not
//! Of several routes to one prefix the lowest metric counts, and of those the one that the kernel lists first. Of an
//! equal-cost multipath route the first next hop counts whose link is up and ours, so all packets take one path.
//! Policy rules and other tables, routes for one TOS or one source prefix, and learned path MTUs are not followed.
//! Routes that wrap packets (MPLS, SRv6, …) are reported as unusable.

mod change;
mod fib;
mod message;
mod neighbours;
mod resolve;
mod socket;
mod state;
mod tables;

pub use change::{Change, ClientRoute, Hop, InterfaceState, Limit, Resolution, RouteChange, Target, Unresolved};
pub use socket::{Changes, Closed, NextHops, StartError};
