//! HTTP/1.1 and 1.0 on the [baton] engine, with handlers.
#![deny(unsafe_code)]

mod body;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod head;
mod method;
mod refusal;

pub use http::StatusCode;

pub use self::method::Method;
