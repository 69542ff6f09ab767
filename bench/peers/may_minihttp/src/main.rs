//! may_minihttp as a peer of `baton-bench compare`: one worker of the may coroutine scheduler, one coroutine per
//! connection. It does not support chunked bodies. The framework opens its listening socket itself and ignores
//! `Connection: close`. Both are corrected here from outside, so that it is measured under the same conditions as the
//! others.

use std::io::BufRead;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::{fs, io};

use bytes::BufMut;
use may_minihttp::{HttpService, HttpServiceFactory, Request, Response};
use mimalloc::MiMalloc;
use nix::sys::socket::Shutdown;
use rustix::process::{PidfdFlags, PidfdGetfdFlags};
use serde::Serialize;
use socket2::Socket;

use crate::arena::{Arena, Content};

#[allow(dead_code, reason = "sums have chunked bodies")]
#[path = "../../arena.rs"]
mod arena;
#[path = "../../start.rs"]
mod start;

const BACKLOG: i32 = 4096;
/// Coroutine stacks that are kept for the next connection.
const STACKS_KEPT: usize = 1_000;
const STACK_WORDS: usize = 0x1000;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[derive(Serialize)]
struct Message {
    message: &'static str,
}

struct Factory {
    arena: &'static Arena,
}

struct Connection {
    descriptor: RawFd,
    arena: &'static Arena,
}

impl HttpServiceFactory for Factory {
    type Service = Connection;

    fn new_service(&self, descriptor: usize) -> Connection {
        Connection { descriptor: descriptor.try_into().unwrap_or(-1), arena: self.arena }
    }
}

impl HttpService for Connection {
    fn call(&mut self, request: Request, response: &mut Response) -> io::Result<()> {
        let closes = request.headers().iter().any(|header| {
            header.name.eq_ignore_ascii_case("connection") && header.value.eq_ignore_ascii_case(b"close")
        });
        let (path, query) = request.path().split_once('?').unwrap_or((request.path(), ""));
        match path {
            "/plaintext" => response.header("Content-Type: text/plain").body("Hello, World!"),
            "/json" => {
                response.header("Content-Type: application/json");
                serde_json::to_writer(response.body_mut().writer(), &Message { message: "Hello, World!" })?;
            }
            "/pipeline" => response.header("Content-Type: text/plain").body("ok"),
            "/upload" => {
                response.header("Content-Type: text/plain").body_vec(count(request)?.to_string().into_bytes());
            }
            path => {
                let accept_encoding = accept_encoding(&request);
                if let Some(count) = path.strip_prefix("/json/") {
                    let put_body = |response: &mut Response, body: Vec<u8>| response.body_vec(body);
                    put(response, self.arena.items_for(count, query, accept_encoding), put_body);
                } else if let Some(name) = path.strip_prefix("/static/") {
                    let put_bytes = |response: &mut Response, bytes: &'static [u8]| {
                        response.body_mut().extend_from_slice(bytes);
                    };
                    put(response, self.arena.file(name, accept_encoding), put_bytes);
                } else {
                    response.status_code(404, "Not Found");
                }
            }
        }
        if closes {
            response.header("Connection: close");
            // The framework writes the answer, then reads the end of the stream and closes. This fails only on a
            // connection that is broken already.
            let _ = nix::sys::socket::shutdown(self.descriptor, Shutdown::Read);
        }
        Ok(())
    }
}

fn accept_encoding<'a>(request: &'a Request) -> &'a [u8] {
    let header = request.headers().iter().find(|header| header.name.eq_ignore_ascii_case("accept-encoding"));
    header.map_or(b"", |header| header.value)
}

fn count(request: Request) -> io::Result<usize> {
    let (mut body, mut total) = (request.body(), 0);
    loop {
        let bytes = body.fill_buf()?.len();
        if bytes == 0 {
            return Ok(total);
        }
        body.consume(bytes);
        total += bytes;
    }
}

fn put<B>(response: &mut Response, content: Option<Content<B>>, put_body: impl Fn(&mut Response, B)) {
    let Some(Content { content_type, encoding, body }) = content else {
        response.status_code(404, "Not Found");
        return;
    };
    response.header(line(content_type));
    match encoding {
        Some("br") => _ = response.header("Content-Encoding: br"),
        Some(_) => _ = response.header("Content-Encoding: gzip"),
        None => {}
    }
    put_body(response, body);
}

/// The framework needs whole header lines that live forever.
fn line(content_type: &str) -> &'static str {
    match content_type {
        "text/css" => "Content-Type: text/css",
        "text/html" => "Content-Type: text/html",
        "text/javascript" => "Content-Type: text/javascript",
        "application/json" => "Content-Type: application/json",
        "image/svg+xml" => "Content-Type: image/svg+xml",
        "image/webp" => "Content-Type: image/webp",
        "font/woff2" => "Content-Type: font/woff2",
        _ => "Content-Type: application/octet-stream",
    }
}

/// Gives the listening socket, which the framework does not expose, the backlog and TCP_NODELAY of the other peers.
fn equip_listener() -> io::Result<()> {
    let process = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    for entry in fs::read_dir("/proc/self/fd")? {
        let Some(descriptor) = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else {
            continue;
        };
        let Ok(copy) = rustix::process::pidfd_getfd(&process, descriptor, PidfdGetfdFlags::empty()) else { continue };
        let socket = Socket::from(copy);
        if socket.is_listener().unwrap_or(false) {
            socket.set_tcp_nodelay(true)?;
            socket.listen(BACKLOG)?;
        }
    }
    Ok(())
}

fn run(address: SocketAddr, arena: &'static Arena) -> io::Result<()> {
    may::config().set_workers(1).set_pool_capacity(STACKS_KEPT).set_stack_size(STACK_WORDS);
    let server = Factory { arena }.start(address)?;
    equip_listener()?;
    server.join().map_err(|_| io::Error::other("the accepting coroutine has ended"))
}

fn main() {
    let address = start::address();
    let arena = Arena::read();
    if let Err(error) = run(address, arena) {
        start::fail(address, &error);
    }
}
