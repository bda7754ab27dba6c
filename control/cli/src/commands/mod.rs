//! The subcommands, one a file.

pub mod check;
pub mod completions;
pub mod conns;
mod cps;
pub mod demo;
pub mod filter;
mod flame;
pub mod hw;
pub mod init;
mod linerate;
mod peers;
pub mod perf;
pub mod placement;
mod plots;
pub mod reload;
pub mod replay;
pub mod rs;
pub mod rules;
pub mod run;
mod scaling;
pub mod schemes;
pub mod stats;
pub mod status;
pub mod top;
pub mod trace;
pub mod vs;
pub mod weight;
