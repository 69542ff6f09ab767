//! glommio as an echo peer of `baton-bench compare`: one executor, one task per connection, every read written back in
//! full. glommio opens its listening socket itself, with a backlog of 1,024.

use std::io;
use std::net::SocketAddr;

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream};
use glommio::{GlommioError, LocalExecutorBuilder, Placement};

#[path = "../../start.rs"]
mod start;

const BUFFER_BYTES: usize = 16 * 1024;

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count]).await?;
    }
}

async fn serve(address: SocketAddr) -> Result<(), GlommioError<()>> {
    let listener = TcpListener::bind(address)?;
    loop {
        // A failed accept concerns one connection, which is gone.
        if let Ok(stream) = listener.accept().await {
            glommio::spawn_local(echo(stream)).detach();
        }
    }
}

fn main() {
    let address = start::address();
    let result = LocalExecutorBuilder::new(Placement::Unbound).make().and_then(|executor| executor.run(serve(address)));
    if let Err(error) = result {
        start::fail(address, &error);
    }
}
