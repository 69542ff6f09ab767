//! HTTP/1.1 and 1.0 on the [baton] engine, with handlers.
//!
//! ```no_run
//! use baton::Server;
//! use baton_http::{Error, Http, HttpConfig, Router, State, StatusCode};
//!
//! #[derive(serde::Deserialize, serde::Serialize)]
//! struct Note {
//!     text: String,
//! }
//!
//! #[derive(Default)]
//! struct Notes(Vec<Note>);
//! impl State for Notes {}
//!
//! fn router() -> Router<Notes> {
//!     Router::new()
//!         .get("/notes/{id}", |notes: &mut Notes, request, reply| {
//!             let id: usize = request.parse_parameter("id")?;
//!             reply.json(notes.0.get(id).ok_or_else(Error::not_found)?)
//!         })
//!         .post("/notes", |notes: &mut Notes, request, reply| {
//!             notes.0.push(request.json()?);
//!             reply.status(StatusCode::CREATED).json(&(notes.0.len() - 1))
//!         })
//! }
//!
//! # fn main() -> Result<(), baton::ServerError> {
//! let server = Server::builder().listen(([127, 0, 0, 1], 8000)).build()?;
//! server.run(|_slot| Http::new(&HttpConfig::default(), router(), Notes::default()))
//! # }
//! ```
//!
//! # Handlers
//!
//! A handler gets the [`State`] that the worker's handlers share, the [`Request`] as slices of the input, and the
//! [`Reply`]; it calls the one method of the reply that answers. It runs on the worker's one thread, so it must not wait: give long
//! work to another thread. Each worker is a process with a state of its own.
//!
//! | what | how |
//! |---|---|
//! | parts of the target | [`Request::parse_parameter`], [`Request::parse_query`], [`Request::query_value`] |
//! | a body of known bytes | [`Reply::text`], [`Reply::json`], [`Reply::bytes`], [`Reply::counted`]; compressed: [`Reply::coding`] |
//! | conditional requests | [`Reply::validators`], [`Reply::etag_of_body`] |
//! | a body that is made while the client reads it | [`Reply::stream`] with a [`Source`] |
//! | an answer from another thread, or later | [`Reply::later`] returns a [`Later`], which any thread may answer |
//! | a failure | `?`: every error is a 500 and logged; [`Error::not_found`] and others, or [`Error::new`], have another status and a text |
//! | a complete request body | [`Request::body`], [`Request::json`], [`Request::form`], up to [`HttpConfig::body_bytes_max`] |
//! | a request body in parts | [`Router::receive`] with a [`Receive`], which may slow the client down, and answer before the end |
//! | WebSockets | [`Router::websocket`] with a [`Socket`](websocket::Socket) |
//! | another protocol on the connection | [`Reply::upgrade`] with an [`Upgraded`] |
//! | an access log | [`State::on_answer`] |
//! | a listener that redirects to TLS | [`Http::with_redirect`] |
//!
//! The library does the rest: it accepts only strictly valid requests ([RFC 9112](https://www.rfc-editor.org/rfc/rfc9112)), answers
//! pipelined requests in order, keeps or closes the connection as the client and the limits ask, and writes `Date`,
//! `Server`, `Connection` and the headers that mark a body's end.
//!
//! # Upgrades
//!
//! Connections move to the next worker between requests, in the middle of a head, and in the middle of a body that is collected.
//! A [`Receive`] and an [`Upgraded`] move if they implement `freeze` and the router [`thaws`](Router::thaws) them. While an
//! answer is in progress, the connection stays where it is, and closes after it.
//!
//! # Tests
//!
//! [`baton::testing::Harness`] runs an [`Http`] without a kernel and in virtual time;
//! [`output_of_all_splits`](baton::testing::output_of_all_splits) shows that no cut of the input changes an answer, and
//! [`output_of_all_handovers`](baton::testing::output_of_all_handovers) that no upgrade does.
//!
//! ```
//! use baton::testing::Harness;
//! use baton_http::{Http, HttpConfig, Router};
//!
//! let router = Router::new().get("/hello/{name}", |_, request, reply| {
//!     reply.text(&format!("Hello, {}!", request.parameter("name")?))
//! });
//! let mut harness = Harness::new(Http::new(&HttpConfig::default(), router, ()));
//! let client = harness.open();
//! harness.send(client, b"GET /hello/Ada%20L HTTP/1.1\r\nHost: a\r\n\r\n");
//! assert!(harness.take_output(client).ends_with(b"\r\n\r\nHello, Ada L!"));
//! ```
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
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod head;
mod http;
mod later;
pub mod media_type;
mod method;
mod out;
mod peers;
pub mod query;
pub mod range;
mod record;
mod redirect;
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
pub use self::peers::Client;
pub use self::record::Record;
pub use self::redirect::Redirect;
pub use self::reply::{Done, Reply, Started};
pub use self::request::Request;
pub use self::router::{Receiving, Router};
pub use self::state::State;
