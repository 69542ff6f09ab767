//! Why a request is refused: the status, and a sentence for people. Every refusal ends the connection, since after it
//! the start of the next request is uncertain.

use ::http::StatusCode;

/// See the module's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// A line of text for the answer's body.
    pub(crate) detail: &'static str,
}

macro_rules! refusals {
    ($($name:ident: $status:ident, $detail:literal;)*) => {
        impl Refusal {
            $(pub(crate) const $name: Self = Self { status: StatusCode::$status, detail: concat!($detail, "\n") };)*
        }
    };
}

refusals! {
    REQUEST_LINE: BAD_REQUEST, "the request line is not: method, space, target, space, version, CRLF";
    EMPTY_LINES: BAD_REQUEST, "too many empty lines before the request line";
    TARGET: BAD_REQUEST, "the request target is none of: /path, http://host/path, or * with OPTIONS";
    TARGET_CHARACTER: BAD_REQUEST, "the request target has a character that a URI may not have, or a % without two hexadecimal digits";
    HEADER_NAME: BAD_REQUEST, "a header name is empty, has a character that is no token, or is not followed by a colon";
    HEADER_VALUE: BAD_REQUEST, "a header value has a control character or a carriage return without a line feed";
    LINE_FEED: BAD_REQUEST, "a line ends in a line feed without a carriage return";
    HOST_MISSING: BAD_REQUEST, "HTTP/1.1 needs a Host header";
    HOST_REPEATED: BAD_REQUEST, "there is more than one Host header";
    HOST_INVALID: BAD_REQUEST, "the Host header is not: host, or host:port";
    LENGTH_REPEATED: BAD_REQUEST, "there is more than one Content-Length header";
    LENGTH_INVALID: BAD_REQUEST, "Content-Length is not one decimal number below 2^64";
    LENGTH_AND_ENCODING: BAD_REQUEST, "there is both Content-Length and Transfer-Encoding";
    ENCODING_BEFORE_1_1: BAD_REQUEST, "Transfer-Encoding does not exist in HTTP/1.0";
    ENCODING_INVALID: BAD_REQUEST, "Transfer-Encoding is not a list of codings that names chunked once, as the last one";
    CHUNK_SIZE: BAD_REQUEST, "a chunk size is not one to sixteen hexadecimal digits";
    CHUNK_FRAMING: BAD_REQUEST, "a chunk's size line or data does not end in CRLF";
    CHUNK_EXTENSION: BAD_REQUEST, "chunk extensions have a control character or are too long";
    CHUNK_EXTENSION_SYNTAX: BAD_REQUEST, "a chunk extension is not: semicolon, name; or semicolon, name, equals sign, value";
    TRAILER: BAD_REQUEST, "a trailer is not: name, colon, value, CRLF";
    TIMEOUT: REQUEST_TIMEOUT, "the request did not arrive in time";
    BODY_TOO_LARGE: PAYLOAD_TOO_LARGE, "the body is larger than this server takes";
    TARGET_TOO_LONG: URI_TOO_LONG, "the request target is longer than this server takes";
    EXPECTATION: EXPECTATION_FAILED, "the only expectation this server knows is 100-continue";
    HEAD_TOO_LARGE: REQUEST_HEADER_FIELDS_TOO_LARGE, "the request head is larger than this server takes";
    HEADERS_TOO_MANY: REQUEST_HEADER_FIELDS_TOO_LARGE, "the request has more headers than this server takes";
    TRAILERS_TOO_LARGE: REQUEST_HEADER_FIELDS_TOO_LARGE, "the trailers are larger than this server takes";
    METHOD_UNKNOWN: NOT_IMPLEMENTED, "this server does not know the request method";
    ENCODING_UNKNOWN: NOT_IMPLEMENTED, "the only transfer coding this server knows is chunked";
    VERSION: HTTP_VERSION_NOT_SUPPORTED, "this server speaks HTTP/1.0 and HTTP/1.1";
}
