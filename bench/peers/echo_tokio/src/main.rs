//! tokio as an echo peer of `baton-bench compare`: single-threaded runtime, one task per connection, every read written
//! back in full.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[path = "../../listener.rs"]
mod listener;
#[path = "../../start.rs"]
mod start;

const BUFFER_BYTES: usize = 16 * 1024;

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count]).await?;
    }
}

async fn serve(address: SocketAddr) -> io::Result<()> {
    let listener = listener::listen(address)?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    loop {
        // A failed accept concerns one connection, which is gone.
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(echo(stream));
        }
    }
}

fn main() {
    let address = start::address();
    let run = || tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(serve(address));
    if let Err(error) = run() {
        start::fail(address, &error);
    }
}
