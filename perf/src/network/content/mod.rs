//! What proves switching by content: exchanges whose every byte follows from a short code, servers that accept nothing
//! but the exchanges of their own group, and clients that know which server may answer, and how.
//!
//! An [`Exchange`] is one request and its response. The request carries the exchange's code, so that the server
//! rebuilds the request and compares; the response names its server, so that the client does the same.

pub mod client;
pub mod exchange;
pub mod filter;
pub mod reader;
pub mod rules;
pub mod server;
pub mod site;

pub use client::{ContentClient, Ending, Script};
pub use exchange::{Class, Closing, Exchange, Framing, Method};
pub use reader::RequestReader;
pub use rules::{Expectation, Roster};
pub use server::ContentServer;
pub use site::{ContentPlan, ContentSite, Health};
