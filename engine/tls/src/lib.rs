//! TLS whose sessions can be frozen and continue in another process: TLS 1.3 and 1.2 for servers, TLS 1.3 for clients.
//!
//! [rustls] makes the handshake ([`accept`], [`connect`]). After it, this crate handles the records ([`record`]): it opens and seals them
//! in place. A session is a value of a few hundred bytes ([`state`]), which a server can hand to
//! the process that takes its place, between any two bytes of the stream.
//!
//! The crate reads and writes no socket: bytes come in as slices and go out as slices.
//!
//! ```
//! use baton_tls::record::{Limits, Opened, Session};
//! use baton_tls::schedule::{Secret, Suite};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A handshake gives these.
//! let secret = |byte| Secret::new(Suite::Aes128GcmSha256, &[byte; 32]).ok_or("of another length");
//! let mut server = Session::new(secret(1)?, secret(2)?, Limits::default());
//! let mut client = Session::new(secret(2)?, secret(1)?, Limits::default());
//!
//! let mut sent = Vec::new();
//! client.seal_into(b"hello", &mut sent)?;
//! let Opened::Data { consumed, plaintext } = server.open(&mut sent)? else { panic!("not data") };
//! assert_eq!((&sent[plaintext], consumed), (&b"hello"[..], sent.len()));
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_code)]

pub mod accept;
pub mod certificate;
pub mod connect;
pub mod files;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod layer;
pub mod record;
pub mod schedule;
pub mod settings;
pub mod state;
pub mod tickets;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
