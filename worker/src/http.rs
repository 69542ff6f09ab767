//! What `batond` serves over HTTP: `/`, `/plaintext`, `/json`, `/echo`, `/health`.

use baton_http::{Done, Error, Http, HttpConfig, Reply, Request, Router};
use serde::Serialize;

pub mod fuzz;

#[derive(Serialize)]
struct Message {
    message: &'static str,
}

/// A server with these settings.
pub fn server(config: &HttpConfig) -> Http {
    let router = Router::new()
        .get("/", hello)
        .get("/plaintext", hello)
        .get("/json", |_, _, reply| reply.json(&Message { message: "Hello, World!" }))
        .get("/health", |_, _, reply| reply.bytes("text/plain", b"ok\n"))
        .post("/echo", echo);
    Http::new(config, router, ())
}

fn hello(_: &mut (), _: &Request<'_>, reply: Reply<'_, '_>) -> Result<Done, Error> {
    reply.bytes("text/plain", b"Hello, World!")
}

fn echo(_: &mut (), request: &Request<'_>, reply: Reply<'_, '_>) -> Result<Done, Error> {
    match request.header("content-type") {
        Some(content_type) => reply.content_type(content_type).bytes("", request.body()),
        None => reply.bytes("application/octet-stream", request.body()),
    }
}
