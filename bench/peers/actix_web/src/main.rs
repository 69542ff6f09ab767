//! actix-web as a peer of `baton-bench compare`: one worker, its own router, no middleware.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use actix_web::http::KeepAlive;
use actix_web::http::header::{CONTENT_TYPE, HeaderValue, SERVER};
use actix_web::web::{self, Bytes};
use actix_web::{App, HttpResponse, HttpServer};
use mimalloc::MiMalloc;
use serde::Serialize;

#[path = "../../listener.rs"]
mod listener;
#[path = "../../start.rs"]
mod start;

const CONNECTIONS_MAX: usize = 16_384;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[derive(Serialize)]
struct Message {
    message: &'static str,
}

async fn plaintext() -> HttpResponse {
    ok("text/plain", Bytes::from_static(b"Hello, World!"))
}

async fn json() -> HttpResponse {
    match serde_json::to_vec(&Message { message: "Hello, World!" }) {
        Ok(body) => ok("application/json", body.into()),
        Err(_) => HttpResponse::InternalServerError().finish(),
    }
}

fn ok(content_type: &'static str, body: Bytes) -> HttpResponse {
    let mut response = HttpResponse::Ok().body(body);
    response.headers_mut().insert(SERVER, HeaderValue::from_static("actix-web"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

async fn serve(address: SocketAddr) -> io::Result<()> {
    HttpServer::new(|| App::new().route("/plaintext", web::get().to(plaintext)).route("/json", web::get().to(json)))
        .workers(1)
        .max_connections(CONNECTIONS_MAX)
        .keep_alive(KeepAlive::Os)
        .client_request_timeout(Duration::ZERO)
        // The default handling of signals ends the process at once, whatever connections there are.
        .disable_signals()
        .listen(listener::listen(address)?)?
        .run()
        .await
}

fn main() {
    let address = start::address();
    if let Err(error) = actix_web::rt::System::new().block_on(serve(address)) {
        start::fail(address, &error);
    }
}
