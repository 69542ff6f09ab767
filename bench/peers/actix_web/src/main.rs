//! actix-web as a peer of `baton-bench compare`: one worker, its own router, no middleware.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use actix_web::http::KeepAlive;
use actix_web::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, SERVER};
use actix_web::web::{self, Bytes};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use futures_util::StreamExt;
use mimalloc::MiMalloc;
use serde::Serialize;

use crate::arena::{Arena, Content};

#[path = "../../arena.rs"]
mod arena;
#[path = "../../listener.rs"]
mod listener;
#[path = "../../start.rs"]
mod start;

const CONNECTIONS_MAX: usize = 16_384;

/// Largest message on a WebSocket.
const MESSAGE_BYTES_MAX: usize = 2 << 20;

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

async fn pipeline() -> HttpResponse {
    ok("text/plain", Bytes::from_static(b"ok"))
}

async fn baseline(request: HttpRequest, body: Bytes) -> HttpResponse {
    match arena::sum(request.query_string(), &body) {
        Some(sum) => ok("text/plain", sum.to_string().into()),
        None => HttpResponse::BadRequest().finish(),
    }
}

async fn items(request: HttpRequest, count: web::Path<String>, arena: web::Data<&'static Arena>) -> HttpResponse {
    content(arena.items_for(&count, request.query_string(), accept_encoding(&request)))
}

async fn upload(mut body: web::Payload) -> HttpResponse {
    let mut bytes = 0;
    while let Some(part) = body.next().await {
        match part {
            Ok(part) => bytes += part.len(),
            Err(_) => return HttpResponse::BadRequest().finish(),
        }
    }
    ok("text/plain", bytes.to_string().into())
}

async fn file(request: HttpRequest, name: web::Path<String>, arena: web::Data<&'static Arena>) -> HttpResponse {
    content(arena.file(&name, accept_encoding(&request)))
}

async fn socket(request: HttpRequest, body: web::Payload) -> actix_web::Result<HttpResponse> {
    let (response, mut session, messages) = actix_ws::handle(&request, body)?;
    let mut messages = messages.max_frame_size(MESSAGE_BYTES_MAX);
    actix_web::rt::spawn(async move {
        while let Some(Ok(message)) = messages.next().await {
            let sent = match message {
                actix_ws::Message::Binary(bytes) => session.binary(bytes).await,
                actix_ws::Message::Text(text) => session.text(text).await,
                actix_ws::Message::Ping(bytes) => session.pong(&bytes).await,
                actix_ws::Message::Close(reason) => {
                    let _ = session.close(reason).await;
                    return;
                }
                _ => Ok(()),
            };
            if sent.is_err() {
                return;
            }
        }
    });
    Ok(response)
}

fn accept_encoding(request: &HttpRequest) -> &[u8] {
    request.headers().get(ACCEPT_ENCODING).map_or(b"", HeaderValue::as_bytes)
}

fn content<B: Into<Body>>(content: Option<Content<B>>) -> HttpResponse {
    let Some(Content { content_type, encoding, body }) = content else { return HttpResponse::NotFound().finish() };
    let mut response = ok(content_type, body.into().0);
    if let Some(encoding) = encoding {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    response
}

/// Bytes of either kind of content.
struct Body(Bytes);

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<&'static [u8]> for Body {
    fn from(bytes: &'static [u8]) -> Self {
        Self(Bytes::from_static(bytes))
    }
}

fn ok(content_type: &'static str, body: Bytes) -> HttpResponse {
    let mut response = HttpResponse::Ok().body(body);
    response.headers_mut().insert(SERVER, HeaderValue::from_static("actix-web"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

async fn serve(address: SocketAddr, arena: &'static Arena) -> io::Result<()> {
    let app = move || {
        App::new()
            .app_data(web::Data::new(arena))
            .route("/plaintext", web::get().to(plaintext))
            .route("/json", web::get().to(json))
            .route("/pipeline", web::get().to(pipeline))
            .route("/baseline11", web::get().to(baseline))
            .route("/baseline11", web::post().to(baseline))
            .route("/json/{count}", web::get().to(items))
            .route("/upload", web::post().to(upload))
            .route("/static/{file}", web::get().to(file))
            .route("/ws", web::get().to(socket))
    };
    HttpServer::new(app)
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
    let arena = Arena::read();
    if let Err(error) = actix_web::rt::System::new().block_on(serve(address, arena)) {
        start::fail(address, &error);
    }
}
