//! hyper as a peer of `baton-bench compare`: HTTP/1 on tokio's single-threaded runtime, one task per connection,
//! answers to pipelined requests flushed together; WebSockets by tokio-tungstenite; TLS by tokio-rustls.

use std::net::TcpListener;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SERVER, UPGRADE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use mimalloc::MiMalloc;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::arena::{Arena, Content};

#[path = "../../arena.rs"]
mod arena;
#[path = "../../listener.rs"]
mod listener;
#[path = "../../start.rs"]
mod start;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The library's own 128 KiB are filled with zeros for each read.
const READ_BUFFER_BYTES: usize = 4 * 1024;

#[derive(Serialize)]
struct Message {
    message: &'static str,
}

type Answer = Response<Full<Bytes>>;

async fn answer(request: Request<Incoming>, arena: &'static Arena) -> Result<Answer, hyper::Error> {
    let is_get = request.method() == Method::GET;
    Ok(match request.uri().path() {
        "/plaintext" => ok("text/plain", Bytes::from_static(b"Hello, World!")),
        "/json" => match serde_json::to_vec(&Message { message: "Hello, World!" }) {
            Ok(body) => ok("application/json", body.into()),
            Err(_) => empty(StatusCode::INTERNAL_SERVER_ERROR),
        },
        "/pipeline" => ok("text/plain", Bytes::from_static(b"ok")),
        "/baseline11" => {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            match arena::sum(head.uri.query().unwrap_or_default(), &body) {
                Some(sum) => ok("text/plain", sum.to_string().into()),
                None => empty(StatusCode::BAD_REQUEST),
            }
        }
        "/upload" => upload(request).await?,
        "/ws" => socket(request),
        path if is_get => {
            let accept_encoding = request.headers().get(ACCEPT_ENCODING).map_or(&b""[..], HeaderValue::as_bytes);
            if let Some(count) = path.strip_prefix("/json/") {
                content(arena.items_for(count, request.uri().query().unwrap_or_default(), accept_encoding), Bytes::from)
            } else if let Some(name) = path.strip_prefix("/static/") {
                content(arena.file(name, accept_encoding), Bytes::from_static)
            } else {
                empty(StatusCode::NOT_FOUND)
            }
        }
        _ => empty(StatusCode::NOT_FOUND),
    })
}

async fn upload(request: Request<Incoming>) -> Result<Answer, hyper::Error> {
    let (mut body, mut bytes) = (request.into_body(), 0);
    while let Some(frame) = body.frame().await {
        bytes += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok(ok("text/plain", bytes.to_string().into()))
}

fn socket(mut request: Request<Incoming>) -> Answer {
    let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) else { return empty(StatusCode::BAD_REQUEST) };
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()));
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            echo(upgraded).await;
        }
    });
    let Ok(accept) = accept else { return empty(StatusCode::BAD_REQUEST) };
    let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

async fn echo(upgraded: Upgraded) {
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES).write_buffer_size(0);
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    while let Some(Ok(message)) = socket.next().await {
        // The library answers pings and closes.
        if (message.is_binary() || message.is_text()) && socket.send(message).await.is_err() {
            return;
        }
    }
}

fn content<B>(content: Option<Content<B>>, bytes: impl Fn(B) -> Bytes) -> Answer {
    let Some(Content { content_type, encoding, body }) = content else { return empty(StatusCode::NOT_FOUND) };
    let mut response = ok(content_type, bytes(body));
    if let Some(encoding) = encoding {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    response
}

fn ok(content_type: &'static str, body: Bytes) -> Answer {
    let mut response = Response::new(Full::new(body));
    response.headers_mut().insert(SERVER, HeaderValue::from_static("hyper"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn empty(status: StatusCode) -> Answer {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, arena: &'static Arena) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut http = http1::Builder::new();
    http.pipeline_flush(true).half_close(true);
    loop {
        // A failed accept concerns one connection, which is gone.
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (http, tls) = (http.clone(), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => serve_connection(&http, stream, arena).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve_connection(&http, stream, arena).await;
                    }
                }
            }
        });
    }
}

async fn serve_connection<S>(http: &http1::Builder, stream: S, arena: &'static Arena)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request| answer(request, arena));
    // Clients come and go at any time: a broken connection need not be reported.
    let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}

/// TLS with the certificate and the key that the command line names, if it does; sessions are resumed by tickets.
fn tls() -> Result<Option<TlsAcceptor>, Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(3);
    let (Some(certificates), Some(key)) = (arguments.next(), arguments.next()) else { return Ok(None) };
    let certificates = CertificateDer::pem_file_iter(certificates)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let config =
        ServerConfig::builder_with_provider(default_provider().into()).with_safe_default_protocol_versions()?;
    let mut config = config.with_no_client_auth().with_single_cert(certificates, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = Ticketer::new()?;
    Ok(Some(Arc::new(config).into()))
}

fn main() {
    let address = start::address();
    let arena = Arena::read();
    let tls = match tls() {
        Ok(tls) => tls,
        Err(error) => start::fail(address, error.as_ref()),
    };
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(serve(listener::listen(address)?, tls, arena))
    };
    if let Err(error) = run() {
        start::fail(address, &error);
    }
}
