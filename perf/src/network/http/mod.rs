//! A small real HTTP/1.1 server and a client that checks every byte, for hosts of the in-process network.

pub mod body;
pub mod client;
pub mod message;
pub mod server;

pub use client::{Answer, Closing, Failure, HttpClient, Request, Script, Why};
pub use server::HttpServer;
