//! Reading requests: what the rules ask about, out of bytes that arrive as they like.
//!
//! Sans-io: everything here is a function of bytes and its own small state. One byte at a time gives the same as all at
//! once; what is read is bounded by [`Limits`]; every refusal has its own [`ExtractError`].
//!
//! A [`Plan`] says what a program asks for, an [`Extraction`] reads one request as far as that needs and drives the
//! program; [`ResponseFollower`] and [`BodyFollower`] find where messages end on a connection that is switched for every
//! request; a [`Replay`] brings a server that speaks first to where the client stands.

mod blocks;
mod body;
mod charset;
mod dialogue;
mod error;
mod fields;
mod follow;
pub mod fuzz;
mod head;
mod json;
mod line;
mod packet;
mod paths;
mod place;
mod plan;
mod request;
#[cfg(test)]
mod testing;
mod tls;
mod xml;

pub(crate) use body::MAX_SKIP;
pub use body::{BodyFollower, ChunkState, Framing, MAX_CHUNK_EXTENSION, MAX_TRAILERS};
pub use dialogue::{MAX_COMMANDS, Replay, ReplayProgress};
pub use error::{ExtractError, Limits, MAX_HEADERS, Span};
pub use follow::{MAX_RESPONSE_HEAD, ResponseFollower, ResponseProgress};
pub use head::{Head, HeadParser, Method, RequestLine, request_line};
pub use packet::{Connection, Groups, PACKET_BYTES, PacketFacts};
pub use paths::MAX_DEPTH;
pub use place::{Place, Source};
pub use plan::Plan;
pub use request::{Extraction, Outcome, Protocol};
pub use tls::{ClientHello, client_hello};
