//! HTTP/1.1 and 1.0 on the [baton] engine, with handlers.
#![deny(unsafe_code)]

pub mod accept;
mod body;
pub mod conditional;
pub mod date;
mod head;
pub mod media_type;
mod method;
pub mod query;
pub mod range;
mod refusal;
pub mod websocket;

pub use http::StatusCode;

pub use self::method::Method;
