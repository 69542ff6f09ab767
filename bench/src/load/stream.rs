//! A blocking connection, plain or with TLS, for single requests beside a load.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConnection, StreamOwned};

use super::tls::TlsPlan;

pub(crate) enum Stream {
    Plain(TcpStream),
    Secure(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    /// Connects; `patience` is the limit for each step.
    ///
    /// # Errors
    /// If no server listens. An error of the TLS session is reported by the first read or write.
    pub(crate) fn connect(target: SocketAddr, tls: Option<&TlsPlan>, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&target, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        let Some(plan) = tls else { return Ok(Self::Plain(stream)) };
        let config = plan.config(1).map_err(io::Error::other)?;
        let session = ClientConnection::new(Arc::new(config), plan.server_name.clone()).map_err(io::Error::other)?;
        Ok(Self::Secure(Box::new(StreamOwned::new(session, stream))))
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Secure(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Secure(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Secure(stream) => stream.flush(),
        }
    }
}
