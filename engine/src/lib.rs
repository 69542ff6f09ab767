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
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod config;
mod connection;
mod context;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod handover;
mod ipc;
mod master;
mod messages;
mod mutation;
mod protocol;
mod server;
mod service;
#[cfg(any(test, feature = "simulation"))]
#[doc(hidden)]
pub mod simulation;
mod steering;
mod sys;
pub mod telemetry;
pub mod testing;
mod types;
mod worker;

pub use context::{AccessLog, CounterId, Io, Mailbox, MailboxClosed, Worker};
pub use error::ServerError;
pub use ipc::control;
pub use master::refuse_upgrade;
pub use messages::{SendError, Sibling};
pub use protocol::Protocol;
pub use server::{Builder, Running, Server};
pub use service::Service;
pub use sys::features::IoUringUnavailable;
pub use sys::listener::ListenError;
pub use telemetry::pages::Telemetry;
pub use types::{
    CannotFreeze, CloseReason, ConnectionId, Drain, Limit, Next, Peer, Reject, StateFormat, Step, SystemCalls,
    ThawError, TimerKey,
};
pub use worker::StartError;
