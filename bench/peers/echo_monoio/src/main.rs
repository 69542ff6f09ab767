//! monoio as an echo peer of `baton-bench compare`: its io_uring driver, single-threaded; one task per connection, every
//! read written back in full.

use std::io;
use std::net::SocketAddr;

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};

#[path = "../../listener.rs"]
mod listener;
#[path = "../../start.rs"]
mod start;

const BUFFER_BYTES: usize = 16 * 1024;

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    loop {
        let (result, filled) = stream.read(buffer).await;
        if result? == 0 {
            return Ok(());
        }
        let (result, written) = stream.write_all(filled).await;
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
            monoio::spawn(echo(stream));
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
