//! The demo: real requests through a director, and checks of what came of them.

pub mod body;
pub mod http;
pub mod interrupt;
pub mod load;
pub mod narrator;
pub mod report;
pub mod root;
