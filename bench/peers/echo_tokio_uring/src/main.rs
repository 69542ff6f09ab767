//! tokio-uring as an echo peer of `baton-bench compare`: its runtime is single-threaded; one task per connection, every
//! read written back in full.

use std::io;
use std::net::SocketAddr;

use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::{TcpListener, TcpStream};

#[path = "../../listener.rs"]
mod listener;
#[path = "../../start.rs"]
mod start;

const BUFFER_BYTES: usize = 16 * 1024;
const RING_ENTRIES: u32 = 1024;

async fn echo(stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let (result, filled) = stream.read(buffer).await;
        let count = result?;
        if count == 0 {
            return Ok(());
        }
        let (result, written) = stream.write_all(filled.slice(..count)).await;
        result?;
        buffer = written.into_inner();
    }
}

async fn serve(address: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::from_std(listener::listen(address)?);
    loop {
        // A failed accept concerns one connection, which is gone.
        if let Ok((stream, _)) = listener.accept().await {
            tokio_uring::spawn(echo(stream));
        }
    }
}

fn main() {
    let address = start::address();
    let result = tokio_uring::builder().entries(RING_ENTRIES).start(serve(address));
    if let Err(error) = result {
        start::fail(address, &error);
    }
}
