//! hyper as a peer of `baton-bench compare`: HTTP/1 on tokio's single-threaded runtime, one task per connection,
//! answers to pipelined requests flushed together.

use std::convert::Infallible;
use std::net::TcpListener;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue, SERVER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use mimalloc::MiMalloc;
use serde::Serialize;

#[path = "../../listener.rs"]
mod listener;
#[path = "../../start.rs"]
mod start;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[derive(Serialize)]
struct Message {
    message: &'static str,
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (content_type, body) = match request.uri().path() {
        "/plaintext" => ("text/plain", Bytes::from_static(b"Hello, World!")),
        "/json" => match serde_json::to_vec(&Message { message: "Hello, World!" }) {
            Ok(body) => ("application/json", body.into()),
            Err(_) => return Ok(empty(StatusCode::INTERNAL_SERVER_ERROR)),
        },
        _ => return Ok(empty(StatusCode::NOT_FOUND)),
    };
    let mut response = Response::new(Full::new(body));
    response.headers_mut().insert(SERVER, HeaderValue::from_static("hyper"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(response)
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

async fn serve(listener: TcpListener) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut http = http1::Builder::new();
    http.pipeline_flush(true).half_close(true);
    loop {
        // A failed accept concerns one connection, which is gone.
        let Ok((stream, _)) = listener.accept().await else { continue };
        let connection = http.serve_connection(TokioIo::new(stream), service_fn(answer));
        tokio::spawn(async move {
            // Clients come and go as they like: a broken connection is nothing to report.
            let _ = connection.await;
        });
    }
}

fn main() {
    let address = start::address();
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(serve(listener::listen(address)?))
    };
    if let Err(error) = run() {
        start::fail(address, &error);
    }
}
