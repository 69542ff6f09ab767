//! compio as an echo peer of `baton-bench compare`: its io_uring driver, single-threaded; one task per connection, every
//! read written back in full.

use std::io;
use std::net::SocketAddr;

use compio::BufResult;
use compio::io::{AsyncRead, AsyncWriteExt};
use compio::net::{TcpListener, TcpStream};
use compio::runtime::Runtime;

#[path = "../../listener.rs"]
mod listener;
#[path = "../../start.rs"]
mod start;

const BUFFER_BYTES: usize = 16 * 1024;

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    loop {
        let BufResult(result, filled) = stream.read(buffer).await;
        if result? == 0 {
            return Ok(());
        }
        let BufResult(result, written) = stream.write_all(filled).await;
        result?;
        buffer = written;
        buffer.clear();
    }
}

async fn serve(address: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::from_std(listener::listen(address)?)?;
    loop {
        // A failed accept concerns one connection, which is gone.
        if let Ok((stream, _)) = listener.accept().await {
            compio::runtime::spawn(echo(stream)).detach();
        }
    }
}

fn main() {
    let address = start::address();
    let result = Runtime::new().and_then(|runtime| runtime.block_on(serve(address)));
    if let Err(error) = result {
        start::fail(address, &error);
    }
}
