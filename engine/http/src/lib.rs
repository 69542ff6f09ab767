//! HTTP/1.1 and 1.0 on the [baton] engine, with handlers.
#![deny(unsafe_code)]
#![warn(missing_docs)]

mod answer;
mod body;
mod config;
mod connection;
mod error;
mod exchange;
mod head;
mod http;
mod later;
mod method;
mod out;
mod record;
mod refusal;
mod reply;
mod request;
mod router;
mod state;
mod writer;

pub use ::http::StatusCode;

pub use self::config::HttpConfig;
pub use self::connection::HttpConnection;
pub use self::error::Error;
pub use self::exchange::{Flow, Progress, Receive, Source, Thawed, Upgraded};
pub use self::http::Http;
pub use self::later::{Later, Message, Response, Waker};
pub use self::method::Method;
pub use self::out::Out;
pub use self::record::Record;
pub use self::reply::{Done, Reply, Started};
pub use self::request::Request;
pub use self::router::{Receiving, Router};
pub use self::state::State;
