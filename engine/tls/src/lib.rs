//! TLS 1.3 and 1.2, on the server's side and (TLS 1.3) on the client's, whose sessions can be frozen and go on in another process.
//!
//! [rustls] makes the handshake ([`accept`], [`connect`]). After it the records are this crate's ([`record`]): opened where they were received
//! and sealed where they are sent from. So a session is a value of a few hundred bytes ([`state`]), which a server can hand to
//! the process that takes its place, between any two bytes of the stream.
//!
//! Nothing here reads or writes a socket: bytes come in as slices and go out as slices.
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
