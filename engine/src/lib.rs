//! **baton**: a thread-per-core io_uring server engine whose listen socket never dies.
//!
//! Each worker is a process of its own, pinned to a core, with its own `SO_REUSEPORT` listener and ring. You write a
//! [`Protocol`]; the engine owns accepting, partial input, pipelining, back-pressure, time-outs and closing.
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
//! The [`guide`] goes on from here.
//!
//! # Logs
//! The engine tells what it does by the crate `tracing`: nothing is written until the program installs a
//! subscriber. Install it before [`Server::run`], and the workers, which are forked, have it too:
//!
//! ```no_run
//! tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::INFO).init();
//! ```
//!
//! - `error` and `warn`: something is wrong, and what to do; `info`: what an operator asked for and what became of it; `debug`: steps
//!   in between; never anything for each connection or request. What peers may cause is logged once a second at most.
//! - Fields: `generation`, `slot` and `pid` name a worker; `error` is the reason.
//! - Callbacks log as they like, with the macros of `tracing`. A line is written by the thread that logs: a callback waits for it,
//!   so one that logs each request is as fast as the reader of the log. For those there is the [`AccessLog`], which never waits.
//! - A subscriber that writes from a thread of its own (as `tracing_appender::non_blocking` does) cannot be used: a process with
//!   several threads is not forked.
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
pub use target::Target;
pub use telemetry::pages::Telemetry;
pub use types::{
    CannotFreeze, CloseReason, Closed, ConnectionId, Drain, Limit, Next, Peer, Reject, StateFormat, Step, SystemCalls,
    ThawError, TimerKey, UnixUser,
};
pub use worker::StartError;
