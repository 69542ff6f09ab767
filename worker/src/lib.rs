//! The protocols that `batond` serves, each an embedding of the engine in its own right.
#![deny(unsafe_code)]

pub mod http;
