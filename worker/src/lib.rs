//! The parts of `batond`: the protocols that it serves, each an embedding of the engine in its own right, and its
//! command line and configuration.
#![deny(unsafe_code)]

pub mod access_log;
pub mod cli;
pub mod config;
pub mod echo;
pub mod http;
pub mod listen;
pub mod logging;
pub mod statics;
pub mod tls;
pub mod units;
