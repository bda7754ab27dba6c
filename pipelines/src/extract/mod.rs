//! Reading requests: what the rules ask about, out of bytes that arrive as they like.
//!
//! Sans-io: everything here is a function of bytes and its own small state. One byte at a time gives the same as all at
//! once; what is read is bounded by [`Limits`]; every refusal has its own [`ExtractError`].

mod blocks;
mod body;
mod error;
mod follow;
mod head;

pub use body::{BodyFollower, ChunkState, Framing, MAX_CHUNK_EXTENSION, MAX_TRAILERS};
pub use error::{ExtractError, Limits, MAX_HEADERS, Span};
pub use follow::{MAX_RESPONSE_HEAD, ResponseFollower, ResponseProgress};
pub use head::{Head, HeadParser, Method, RequestLine, request_line};

mod json;
mod paths;
mod place;
#[cfg(test)]
mod testing;
mod xml;

pub use paths::MAX_DEPTH;
pub use place::{Place, Source};
mod charset;
mod packet;
mod tls;
pub use packet::{Connection, Groups, PacketFacts};
pub use tls::{ClientHello, client_hello};
mod dialogue;
mod plan;
mod request;
pub use dialogue::{MAX_COMMANDS, Replay, ReplayProgress};
pub use plan::Plan;
pub use request::{Extraction, Outcome, Protocol};
