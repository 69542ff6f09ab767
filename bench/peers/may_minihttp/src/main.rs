//! may_minihttp as a peer of `baton-bench compare`: one worker of the may coroutine scheduler, one coroutine per
//! connection. The framework opens its listening socket itself and ignores `Connection: close`; both are put right here
//! from outside, so that it is measured on the same terms as the others.

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

struct Factory;

struct Connection {
    descriptor: RawFd,
}

impl HttpServiceFactory for Factory {
    type Service = Connection;

    fn new_service(&self, descriptor: usize) -> Connection {
        Connection { descriptor: descriptor.try_into().unwrap_or(-1) }
    }
}

impl HttpService for Connection {
    fn call(&mut self, request: Request, response: &mut Response) -> io::Result<()> {
        let closes = request.headers().iter().any(|header| {
            header.name.eq_ignore_ascii_case("connection") && header.value.eq_ignore_ascii_case(b"close")
        });
        match request.path() {
            "/plaintext" => response.header("Content-Type: text/plain").body("Hello, World!"),
            "/json" => {
                response.header("Content-Type: application/json");
                serde_json::to_writer(response.body_mut().writer(), &Message { message: "Hello, World!" })?;
            }
            _ => {
                response.status_code(404, "Not Found");
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

/// Gives the listening socket, which the framework keeps to itself, the backlog and TCP_NODELAY of the other peers.
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

fn run(address: SocketAddr) -> io::Result<()> {
    may::config().set_workers(1).set_pool_capacity(STACKS_KEPT).set_stack_size(STACK_WORDS);
    let server = Factory.start(address)?;
    equip_listener()?;
    server.join().map_err(|_| io::Error::other("the accepting coroutine has ended"))
}

fn main() {
    let address = start::address();
    if let Err(error) = run(address) {
        start::fail(address, &error);
    }
}
