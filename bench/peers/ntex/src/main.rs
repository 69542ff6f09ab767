//! ntex as a peer of `baton-bench compare`: its HTTP/1 service with one worker. A feature of ntex in the package
//! decides the runtime: `ntex` uses tokio, `ntex_uring` ntex's own io_uring runtime.

use std::io;
use std::net::SocketAddr;

use mimalloc::MiMalloc;
use ntex::SharedCfg;
use ntex::http::error::PayloadError;
use ntex::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, SERVER};
use ntex::http::{HttpService, HttpServiceConfig, KeepAlive, Method, Payload, Request, Response, StatusCode};
use ntex::io::IoConfig;
use ntex::time::Seconds;
use ntex::util::Bytes;
use serde::Serialize;

use crate::arena::{Arena, Content};

#[path = "../../arena.rs"]
mod arena;
#[path = "../../listener.rs"]
mod listener;
#[path = "../../start.rs"]
mod start;

const SERVICE: &str = "peer";
const CONNECTIONS_MAX: usize = 16_384;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[derive(Serialize)]
struct Message {
    message: &'static str,
}

async fn answer(mut request: Request, arena: &'static Arena) -> Result<Response, io::Error> {
    let body = request.take_payload();
    let query = request.uri().query().unwrap_or_default();
    Ok(match request.path() {
        "/plaintext" => ok("text/plain", Bytes::from_static(b"Hello, World!")),
        "/json" => match serde_json::to_vec(&Message { message: "Hello, World!" }) {
            Ok(body) => ok("application/json", body.into()),
            Err(_) => Response::new(StatusCode::INTERNAL_SERVER_ERROR),
        },
        "/pipeline" => ok("text/plain", Bytes::from_static(b"ok")),
        "/baseline11" => match whole(body).await.ok().and_then(|body| arena::sum(query, &body)) {
            Some(sum) => ok("text/plain", sum.to_string().into_bytes().into()),
            None => Response::new(StatusCode::BAD_REQUEST),
        },
        "/upload" => match count(body).await {
            Ok(bytes) => ok("text/plain", bytes.to_string().into_bytes().into()),
            Err(_) => Response::new(StatusCode::BAD_REQUEST),
        },
        path if request.method() == Method::GET => {
            let accept_encoding = request.headers().get(ACCEPT_ENCODING).map_or(&b""[..], HeaderValue::as_bytes);
            if let Some(count) = path.strip_prefix("/json/") {
                content(arena.items_for(count, query, accept_encoding), Bytes::from)
            } else if let Some(name) = path.strip_prefix("/static/") {
                content(arena.file(name, accept_encoding), Bytes::from_static)
            } else {
                Response::new(StatusCode::NOT_FOUND)
            }
        }
        _ => Response::new(StatusCode::NOT_FOUND),
    })
}

async fn whole(mut body: Payload) -> Result<Vec<u8>, PayloadError> {
    let mut whole = Vec::new();
    while let Some(part) = body.recv().await {
        whole.extend_from_slice(&part?);
    }
    Ok(whole)
}

async fn count(mut body: Payload) -> Result<usize, PayloadError> {
    let mut bytes = 0;
    while let Some(part) = body.recv().await {
        bytes += part?.len();
    }
    Ok(bytes)
}

fn content<B>(content: Option<Content<B>>, bytes: impl Fn(B) -> Bytes) -> Response {
    let Some(Content { content_type, encoding, body }) = content else { return Response::new(StatusCode::NOT_FOUND) };
    let mut response = ok(content_type, bytes(body));
    if let Some(encoding) = encoding {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    response
}

fn ok(content_type: &'static str, body: Bytes) -> Response {
    let mut response = Response::with_body(StatusCode::OK, body.into());
    response.headers_mut().insert(SERVER, HeaderValue::from_static("ntex"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

async fn serve(address: SocketAddr, arena: &'static Arena) -> io::Result<()> {
    let listener = listener::listen(address)?;
    listener.set_nonblocking(true)?;
    let http = HttpServiceConfig::new().set_keepalive(KeepAlive::Os).set_client_timeout(Seconds::ZERO);
    let io = IoConfig::new().set_read_buf(65_535, 2_048, 16).set_write_buf(65_535, 2_048, 16);
    ntex::server::build()
        .workers(1)
        .maxconn(CONNECTIONS_MAX)
        // The default handling of signals ends the process at once, whatever connections there are.
        .disable_signals()
        .listen(SERVICE, listener, async move |_| HttpService::h1(move |request: Request| answer(request, arena)))?
        .config(SERVICE, SharedCfg::new("PEER").add(http).add(io))
        .run()
        .await
}

fn main() {
    let address = start::address();
    let arena = Arena::read();
    let system = ntex::rt::System::build().name("peer").disable_signals().build(ntex::rt::DefaultRuntime);
    if let Err(error) = system.block_on(serve(address, arena)) {
        start::fail(address, &error);
    }
}
