//! monoio as a peer of `baton-bench compare`: its io_uring driver, single-threaded, one task per connection. monoio is
//! not an HTTP framework: `http` parses with httparse and writes the answers itself.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use monoio::buf::IoBufMut;
use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};

use crate::arena::Arena;
use crate::date::Date;
use crate::http::Parsed;

#[path = "../../arena.rs"]
mod arena;
mod date;
mod http;
#[path = "../../listener.rs"]
mod listener;
#[path = "../../start.rs"]
mod start;

/// Also the longest head of a request, with a small body.
const INPUT_BYTES: usize = 8 * 1024;

/// After an upload, a connection reads this many bytes at once.
const UPLOAD_BYTES: usize = 64 * 1024;

/// What all connections share.
struct Common {
    date: RefCell<Date>,
    arena: &'static Arena,
}

/// A body that is being counted.
#[derive(Default)]
struct Upload {
    total: u64,
    remaining: u64,
}

async fn serve_connection(mut stream: TcpStream, common: Rc<Common>) -> io::Result<()> {
    let mut input = Vec::with_capacity(INPUT_BYTES);
    let mut output = Vec::new();
    let mut upload = Upload::default();
    loop {
        let partial_bytes = input.len();
        let most = input.capacity();
        let (result, filled) = stream.read(input.slice_mut(partial_bytes..most)).await;
        // Into a full buffer, nothing is read either: then the head is too long.
        if result? == 0 {
            return Ok(());
        }
        input = filled.into_inner();
        let closes = answer_all(&mut input, &mut output, &mut upload, &common);
        if upload.remaining > 0 && input.capacity() < UPLOAD_BYTES {
            input.reserve(UPLOAD_BYTES);
        }
        if output.is_empty() {
            continue;
        }
        let (result, written) = stream.write_all(output).await;
        result?;
        if closes {
            return stream.shutdown().await;
        }
        output = written;
        output.clear();
    }
}

/// Answers every complete request, leaves the beginning of the next one, and returns whether the connection must end.
fn answer_all(input: &mut Vec<u8>, output: &mut Vec<u8>, upload: &mut Upload, common: &Common) -> bool {
    let date = &mut common.date.borrow_mut();
    let mut used_bytes = 0;
    let mut closes = false;
    while !closes && used_bytes < input.len() {
        let rest = &input[used_bytes..];
        if upload.remaining > 0 {
            let bytes = rest.len().min(usize::try_from(upload.remaining).unwrap_or(usize::MAX));
            used_bytes += bytes;
            upload.remaining -= bytes as u64;
            if upload.remaining == 0 {
                http::put_count(upload.total, output, date);
            }
            continue;
        }
        match http::answer(rest, output, date, common.arena) {
            Parsed::Request { bytes, is_last } => {
                used_bytes += bytes;
                closes = is_last;
            }
            Parsed::Upload { bytes, body_bytes } => {
                used_bytes += bytes;
                *upload = Upload { total: body_bytes, remaining: body_bytes };
                if body_bytes == 0 {
                    http::put_count(0, output, date);
                }
            }
            Parsed::Partial => break,
            Parsed::Invalid => closes = true,
        }
    }
    input.drain(..used_bytes);
    closes
}

async fn serve(address: SocketAddr, arena: &'static Arena) -> io::Result<()> {
    let listener = TcpListener::from_std(listener::listen(address)?)?;
    let common = Rc::new(Common { date: RefCell::new(Date::new()), arena });
    loop {
        // A failed accept concerns one connection, which is gone.
        if let Ok((stream, _)) = listener.accept().await {
            monoio::spawn(serve_connection(stream, Rc::clone(&common)));
        }
    }
}

fn main() {
    let address = start::address();
    let arena = Arena::read();
    let mut ring = io_uring::IoUring::builder();
    // A few percent faster than monoio's default of no flags at all.
    ring.setup_coop_taskrun().setup_single_issuer();
    let runtime = RuntimeBuilder::<IoUringDriver>::new().uring_builder(ring).build();
    let result = runtime.and_then(|mut runtime| runtime.block_on(serve(address, arena)));
    if let Err(error) = result {
        start::fail(address, &error);
    }
}
