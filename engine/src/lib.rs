//! **baton**: a thread-per-core io_uring server engine whose listen socket never dies.
//!
//! Each worker is a process, pinned to a core, with its own `SO_REUSEPORT` listener and ring. You write a
//! [`Protocol`]; the engine handles accepting, partial input, pipelining, back-pressure, time-outs and closing.
//!
//! ```no_run
//! use baton::{Io, Peer, Protocol, Reject, Server, Step};
//!
//! struct Echo;
//!
//! impl Protocol for Echo {
//!     type Connection = ();
//!     type Message = ();
//!     fn on_open(&mut self, _: Peer<'_>, _: &mut Io<'_>) -> Result<(), Reject> {
//!         Ok(())
//!     }
//!     fn on_data(&mut self, _: &mut (), input: &[u8], io: &mut Io<'_>) -> Step {
//!         io.write_input(input);
//!         Step::more(input.len())
//!     }
//! }
//!
//! # fn main() -> Result<(), baton::ServerError> {
//! Server::builder().listen(([127, 0, 0, 1], 7000)).workers(2).build()?.run(|_slot| Echo)
//! # }
//! ```
//!
//! The [`guide`] continues from here, and its [glossary](guide::glossary) defines the terms.
//!
//! # Logs
//! The engine logs with the crate `tracing`. Nothing is written until the program installs a
//! subscriber. Install it before [`Server::run`], so that the forked workers have it, too:
//!
//! ```no_run
//! tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::INFO).init();
//! ```
//!
//! - Levels: `error` and `warn` tell problems and what to do; `info` tells requests of operators and their outcome; `debug` tells the
//!   steps in between. No line is written per connection or request. Lines that peers can cause are logged at most once a second.
//! - Fields: `generation`, `slot` and `pid` name a worker; `error` is the reason; `event` names the kind of an event, such as
//!   `worker_died`, see [`EventKind`](control::EventKind).
//! - Callbacks may log with the macros of `tracing`. A callback waits until its line is written, so one that logs each request is only
//!   as fast as the reader of the log. Use the [`AccessLog`] for such lines; it never waits.
//! - A subscriber that writes from its own thread (such as `tracing_appender::non_blocking`) does not work, because the engine does not
//!   fork a process with several threads.
//!
//! The example `lines` logs.
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod config;
mod connection;
mod context;
mod endpoint;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod guide;
mod handover;
mod helper;
mod ipc;
pub mod layer;
mod master;
mod messages;
mod mutation;
mod protocol;
mod proxy;
mod server;
mod service;
#[cfg(any(test, feature = "simulation"))]
#[doc(hidden)]
pub mod simulation;
mod steering;
mod sys;
mod target;
pub mod telemetry;
pub mod testing;
mod types;
mod worker;

pub use context::{AccessLog, CounterId, Io, Mailbox, MailboxError, Unreachable, Worker};
pub use endpoint::{Endpoint, InvalidEndpoint, UNIX_PATH_BYTES_MAX, UnixPath};
pub use error::ServerError;
pub use helper::spawn_helper;
pub use ipc::control;
pub use master::{Check, RunningServer, refuse_upgrade};
pub use messages::{SendError, Sibling};
pub use protocol::Protocol;
pub use proxy::{PROXY_HEADER_BYTES_MAX, ProxyHeader};
pub use server::{Builder, Running, Server};
pub use service::Service;
pub use sys::features::IoUringUnavailable;
pub use sys::listener::ListenError;
pub use sys::sealed_memory::SealedMemory;
pub use target::Target;
pub use telemetry::pages::Telemetry;
pub use types::{
    CannotFreeze, CloseReason, Closed, ConnectionId, Drain, Limit, Next, Peer, Reject, StateFormat, Step, SystemCalls,
    ThawError, TimerKey, UnixUser,
};
pub use worker::StartError;
