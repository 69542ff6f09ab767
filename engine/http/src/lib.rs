//! HTTP/1.1 and 1.0 on the [baton] engine, with handlers.
#![deny(unsafe_code)]

mod body;
mod head;
mod method;
mod refusal;
pub mod websocket;

pub use http::StatusCode;

pub use self::method::Method;
