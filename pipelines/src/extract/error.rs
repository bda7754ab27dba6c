//! Why a request cannot be read. Each reason is counted by itself ([`Tally::errors`](crate::tally::Tally::errors)); none is a guess.

/// A reason for not reading a request (or a response's framing) any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ExtractError {
    /// The first line is no HTTP/1.x request line.
    #[error("the first line is no HTTP/1.x request line")]
    NotHttp,
    /// A version other than HTTP/1.0 and HTTP/1.1.
    #[error("the version is neither HTTP/1.0 nor HTTP/1.1")]
    Version,
    /// A target that is no origin-form, absolute-form, authority-form or `*`.
    #[error("the request target has none of the forms of RFC 9112 section 3.2")]
    Target,
    /// No end of the head within the limit.
    #[error("the head exceeds its limit")]
    HeadTooLarge,
    /// More header fields than the limit.
    #[error("the head has too many header fields")]
    TooManyHeaders,
    /// A line that ends in LF alone, or a CR alone.
    #[error("a line does not end in CR LF")]
    LineEnd,
    /// A header line that continues the one before it (RFC 9112 section 5.2).
    #[error("a header field is folded over several lines")]
    FoldedHeader,
    /// A field name that is no token, or a blank before its colon (RFC 9112 section 5.1).
    #[error("a header field's name is not a token directly followed by a colon")]
    HeaderName,
    /// A control character in a field value.
    #[error("a header field's value has a control character")]
    HeaderValue,
    /// Several `Host` fields, none in HTTP/1.1, or one that is no host (RFC 9112 section 3.2).
    #[error("the request has no host, several, or a malformed one")]
    Host,
    /// Both `Content-Length` and `Transfer-Encoding` (RFC 9112 section 6.1).
    #[error("ambiguous framing: both Content-Length and Transfer-Encoding")]
    LengthAndEncoding,
    /// A `Content-Length` that is not one plain decimal number without leading zeros, or several of them.
    #[error("ambiguous framing: Content-Length is not exactly one plain number")]
    Length,
    /// A `Transfer-Encoding` that is not exactly `chunked`, or several, or one in HTTP/1.0.
    #[error("ambiguous framing: Transfer-Encoding is not exactly `chunked` in HTTP/1.1")]
    Encoding,
    /// `Content_Length` or `Transfer_Encoding`, which some servers read as the fields with a hyphen.
    #[error("ambiguous framing: a framing field's name is written with an underscore")]
    FramingName,
    /// A chunk that does not follow RFC 9112 section 7.1 to the letter.
    #[error("ambiguous framing: a malformed chunk")]
    Chunk,
    /// Trailer fields beyond the limit.
    #[error("the trailer section exceeds its limit")]
    TrailersTooLarge,
    /// The sender closed in the middle.
    #[error("the connection ended in the middle of the request")]
    Truncated,
    /// A response's first line is no HTTP/1.x status line.
    #[error("the first line is no HTTP/1.x status line")]
    NotResponse,
    /// No answer within the part of the body that may be inspected.
    #[error("the body exceeds what may be inspected")]
    BodyTooLarge,
    /// A rule asks for the body's content, and it is compressed.
    #[error("the body has a Content-Encoding, so its content cannot be inspected")]
    BodyEncoded,
    /// Not well-formed XML.
    #[error("the body is not well-formed XML")]
    XmlSyntax,
    /// XML in an encoding other than UTF-8, UTF-16 and ISO-8859-1.
    #[error("the XML is in an encoding other than UTF-8, UTF-16 and ISO-8859-1")]
    XmlEncoding,
    /// XML with its own declarations, or a value with an entity that XML does not define.
    #[error("the XML declares or uses its own entities")]
    XmlEntity,
    /// Not JSON.
    #[error("the body is not JSON")]
    JsonSyntax,
    /// A document nested beyond the limit.
    #[error("the document is nested too deeply")]
    Depth,
    /// The first bytes are no TLS handshake record.
    #[error("the first bytes are no TLS handshake")]
    NotTls,
    /// A malformed ClientHello.
    #[error("the TLS ClientHello is malformed")]
    Hello,
    /// A ClientHello beyond the limit.
    #[error("the TLS ClientHello exceeds its limit")]
    HelloTooLarge,
    /// A command line beyond the limit of its protocol.
    #[error("a command line exceeds its limit")]
    LineTooLong,
    /// Too many commands before the one that decides.
    #[error("too many commands before the one that decides")]
    TooManyCommands,
    /// The client ended the dialogue (or may not go on with it) before anything was decided.
    #[error("the dialogue ended before anything was decided")]
    DialogueEnded,
    /// The server did not answer a replayed command as the client was answered.
    #[error("the server refused a replayed command")]
    ReplayRefused,
}

impl ExtractError {
    /// All of them, in the order of [`Tally::errors`](crate::tally::Tally::errors).
    pub const ALL: [ExtractError; 32] = [
        Self::NotHttp,
        Self::Version,
        Self::Target,
        Self::HeadTooLarge,
        Self::TooManyHeaders,
        Self::LineEnd,
        Self::FoldedHeader,
        Self::HeaderName,
        Self::HeaderValue,
        Self::Host,
        Self::LengthAndEncoding,
        Self::Length,
        Self::Encoding,
        Self::FramingName,
        Self::Chunk,
        Self::TrailersTooLarge,
        Self::Truncated,
        Self::NotResponse,
        Self::BodyTooLarge,
        Self::BodyEncoded,
        Self::XmlSyntax,
        Self::XmlEncoding,
        Self::XmlEntity,
        Self::JsonSyntax,
        Self::Depth,
        Self::NotTls,
        Self::Hello,
        Self::HelloTooLarge,
        Self::LineTooLong,
        Self::TooManyCommands,
        Self::DialogueEnded,
        Self::ReplayRefused,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotHttp => "not-http",
            Self::Version => "version",
            Self::Target => "target",
            Self::HeadTooLarge => "head-too-large",
            Self::TooManyHeaders => "too-many-headers",
            Self::LineEnd => "line-end",
            Self::FoldedHeader => "folded-header",
            Self::HeaderName => "header-name",
            Self::HeaderValue => "header-value",
            Self::Host => "host",
            Self::LengthAndEncoding => "length-and-encoding",
            Self::Length => "length",
            Self::Encoding => "encoding",
            Self::FramingName => "framing-name",
            Self::Chunk => "chunk",
            Self::TrailersTooLarge => "trailers-too-large",
            Self::Truncated => "truncated",
            Self::NotResponse => "not-response",
            Self::BodyTooLarge => "body-too-large",
            Self::BodyEncoded => "body-encoded",
            Self::XmlSyntax => "xml-syntax",
            Self::XmlEncoding => "xml-encoding",
            Self::XmlEntity => "xml-entity",
            Self::JsonSyntax => "json-syntax",
            Self::Depth => "depth",
            Self::NotTls => "not-tls",
            Self::Hello => "hello",
            Self::HelloTooLarge => "hello-too-large",
            Self::LineTooLong => "line-too-long",
            Self::TooManyCommands => "too-many-commands",
            Self::DialogueEnded => "dialogue-ended",
            Self::ReplayRefused => "replay-refused",
        }
    }

    /// Whether two readers of the same bytes might disagree about where a message ends (request smuggling); such a
    /// connection must not be switched any further.
    pub fn is_ambiguous(self) -> bool {
        matches!(
            self,
            Self::LineEnd
                | Self::FoldedHeader
                | Self::HeaderName
                | Self::HeaderValue
                | Self::Host
                | Self::LengthAndEncoding
                | Self::Length
                | Self::Encoding
                | Self::FramingName
                | Self::Chunk
        )
    }

    /// The HTTP status that tells a client about it.
    pub fn status(self) -> u16 {
        match self {
            Self::HeadTooLarge | Self::TooManyHeaders => 431,
            Self::BodyTooLarge => 413,
            Self::Version => 505,
            Self::BodyEncoded | Self::XmlEncoding => 415,
            _ => 400,
        }
    }
}

/// How much of a request is read. Each limit has its own [`ExtractError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of an HTTP head, blank line included.
    pub head: usize,
    /// Bytes of a body, as sent, in which values are looked for.
    pub body: usize,
    /// Bytes of a TLS ClientHello with its record headers.
    pub hello: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head: 16 << 10, body: 64 << 10, hello: 16 << 10 }
    }
}

/// Header fields that one head may have.
pub const MAX_HEADERS: usize = 128;

/// A stretch of the request buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    pub(super) fn new(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }

    /// The bytes.
    pub fn of(self, buffer: &[u8]) -> &[u8] {
        buffer.get(self.start as usize..self.end as usize).unwrap_or(&[])
    }
}
