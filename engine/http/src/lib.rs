//! HTTP/1.1 and 1.0 on the [baton] engine, with handlers.
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod accept;
mod answer;
mod body;
pub mod conditional;
mod config;
mod connection;
pub mod date;
mod error;
mod exchange;
mod files;
mod head;
mod http;
mod later;
pub mod media_type;
mod method;
mod out;
pub mod query;
pub mod range;
mod record;
mod refusal;
mod reply;
mod request;
mod router;
mod state;
pub mod websocket;
mod writer;

pub use ::http::StatusCode;

pub use self::config::HttpConfig;
pub use self::connection::HttpConnection;
pub use self::error::Error;
pub use self::exchange::{Flow, Progress, Receive, Source, Thawed, Upgraded};
pub use self::files::{Files, FilesConfig, Mount};
pub use self::http::Http;
pub use self::later::{Later, Message, Response, Waker};
pub use self::method::Method;
pub use self::out::Out;
pub use self::record::Record;
pub use self::reply::{Done, Reply, Started};
pub use self::request::Request;
pub use self::router::{Receiving, Router};
pub use self::state::State;
