//! monoio as a peer of `baton-bench compare`: its io_uring driver, single-threaded, one task per connection. monoio is no
//! HTTP framework: `http` parses with httparse and writes the answers by hand.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use monoio::buf::IoBufMut;
use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};

use crate::date::Date;
use crate::http::Parsed;

mod date;
mod http;
#[path = "../../listener.rs"]
mod listener;
#[path = "../../start.rs"]
mod start;

/// Also the longest head of a request.
const INPUT_BYTES: usize = 8 * 1024;

async fn serve_connection(mut stream: TcpStream, date: Rc<RefCell<Date>>) -> io::Result<()> {
    let mut input = Vec::with_capacity(INPUT_BYTES);
    let mut output = Vec::new();
    loop {
        let partial_bytes = input.len();
        let (result, filled) = stream.read(input.slice_mut(partial_bytes..INPUT_BYTES)).await;
        // Nothing is read into a full buffer either: then the head is too long.
        if result? == 0 {
            return Ok(());
        }
        input = filled.into_inner();
        let closes = answer_all(&mut input, &mut output, &mut date.borrow_mut());
        let (result, written) = stream.write_all(output).await;
        result?;
        if closes {
            return stream.shutdown().await;
        }
        output = written;
        output.clear();
    }
}

/// Answers every whole request, leaves the beginning of the next one and says whether the connection is to end.
fn answer_all(input: &mut Vec<u8>, output: &mut Vec<u8>, date: &mut Date) -> bool {
    let mut used_bytes = 0;
    let mut closes = false;
    while !closes && used_bytes < input.len() {
        match http::answer(&input[used_bytes..], output, date) {
            Parsed::Request { bytes, is_last } => {
                used_bytes += bytes;
                closes = is_last;
            }
            Parsed::Partial => break,
            Parsed::Invalid => closes = true,
        }
    }
    input.drain(..used_bytes);
    closes
}

async fn serve(address: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::from_std(listener::listen(address)?)?;
    let date = Rc::new(RefCell::new(Date::new()));
    loop {
        // A failed accept concerns one connection, which is gone.
        if let Ok((stream, _)) = listener.accept().await {
            monoio::spawn(serve_connection(stream, Rc::clone(&date)));
        }
    }
}

fn main() {
    let address = start::address();
    let mut ring = io_uring::IoUring::builder();
    // A few percent faster than monoio's default of no flags at all.
    ring.setup_coop_taskrun().setup_single_issuer();
    let runtime = RuntimeBuilder::<IoUringDriver>::new().uring_builder(ring).build();
    let result = runtime.and_then(|mut runtime| runtime.block_on(serve(address)));
    if let Err(error) = result {
        start::fail(address, &error);
    }
}
