//! ntex as a peer of `baton-bench compare`: its HTTP/1 service with one worker. The package decides by a feature of ntex
//! on which runtime it goes: `ntex` is on tokio, `ntex_uring` on ntex's own io_uring runtime.

use std::io;
use std::net::SocketAddr;

use mimalloc::MiMalloc;
use ntex::SharedCfg;
use ntex::http::header::{CONTENT_TYPE, HeaderValue, SERVER};
use ntex::http::{HttpService, HttpServiceConfig, KeepAlive, Request, Response, StatusCode};
use ntex::io::IoConfig;
use ntex::time::Seconds;
use ntex::util::{Bytes, Ready};
use serde::Serialize;

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

fn answer(request: &Request) -> Response {
    let (content_type, body) = match request.path() {
        "/plaintext" => ("text/plain", Bytes::from_static(b"Hello, World!")),
        "/json" => match serde_json::to_vec(&Message { message: "Hello, World!" }) {
            Ok(body) => ("application/json", body.into()),
            Err(_) => return Response::new(StatusCode::INTERNAL_SERVER_ERROR),
        },
        _ => return Response::new(StatusCode::NOT_FOUND),
    };
    let mut response = Response::with_body(StatusCode::OK, body.into());
    response.headers_mut().insert(SERVER, HeaderValue::from_static("ntex"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

async fn serve(address: SocketAddr) -> io::Result<()> {
    let listener = listener::listen(address)?;
    listener.set_nonblocking(true)?;
    let http = HttpServiceConfig::new().set_keepalive(KeepAlive::Os).set_client_timeout(Seconds::ZERO);
    let io = IoConfig::new().set_read_buf(65_535, 2_048, 16).set_write_buf(65_535, 2_048, 16);
    ntex::server::build()
        .workers(1)
        .maxconn(CONNECTIONS_MAX)
        // The default handling of signals ends the process at once, whatever connections there are.
        .disable_signals()
        .listen(SERVICE, listener, async |_| {
            HttpService::h1(|request: Request| Ready::Ok::<_, io::Error>(answer(&request)))
        })?
        .config(SERVICE, SharedCfg::new("PEER").add(http).add(io))
        .run()
        .await
}

fn main() {
    let address = start::address();
    let system = ntex::rt::System::build().name("peer").disable_signals().build(ntex::rt::DefaultRuntime);
    if let Err(error) = system.block_on(serve(address)) {
        start::fail(address, &error);
    }
}
