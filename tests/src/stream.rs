//! A client's end of a connection, plain or with TLS.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, SupportedProtocolVersion};

use crate::client::{GET, connect};

/// The most bytes of plaintext that wait to be sealed. Beyond that, writing waits.
const WAITING_BYTES_MAX: usize = 64 * 1024;

/// A certificate for `localhost` and its key, in files of this folder, and the trust of clients in it.
#[derive(Debug)]
pub struct Certificate {
    folder: tempfile::TempDir,
    /// For clients that trust the certificate, and use TLS 1.3.
    pub trust: Trust,
    /// The same, with TLS 1.2.
    pub trust_tls12: Trust,
}

impl Default for Certificate {
    /// A new certificate that is valid for a long time.
    ///
    /// # Panics
    /// If it cannot be created or written.
    fn default() -> Self {
        Self::new(params())
    }
}

fn params() -> CertificateParams {
    CertificateParams::new(vec!["localhost".to_owned()]).expect("a name")
}

impl Certificate {
    fn new(params: CertificateParams) -> Self {
        let key = KeyPair::generate().expect("a key");
        let folder = tempfile::tempdir().expect("a folder");
        let certificate = params.self_signed(&key).expect("a certificate");
        std::fs::write(folder.path().join("cert.pem"), certificate.pem()).expect("written");
        std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).expect("written");
        let file = folder.path().join("cert.pem");
        let (trust, trust_tls12) = (Trust::of(&file), Trust::with(&file, &rustls::version::TLS12));
        Self { folder, trust, trust_tls12 }
    }

    /// A new certificate that was issued this long ago, and is valid for this long from now on.
    ///
    /// # Panics
    /// If it cannot be created or written.
    pub fn valid(since: Duration, left: Duration) -> Self {
        let (now, mut params) = (SystemTime::now(), params());
        (params.not_before, params.not_after) = ((now - since).into(), (now + left).into());
        Self::new(params)
    }

    /// The certificate's file, and the key's.
    pub fn files(&self) -> [PathBuf; 2] {
        ["cert.pem", "key.pem"].map(|name| self.folder.path().join(name))
    }

    /// The flags of `batond` for it.
    ///
    /// # Panics
    /// Never: the paths are UTF-8.
    pub fn flags(&self) -> [String; 4] {
        let [certificate, key] = self.files().map(|path| path.to_str().expect("UTF-8").to_owned());
        ["--tls-cert".to_owned(), certificate, "--tls-key".to_owned(), key]
    }
}

/// What clients trust. They remember sessions, and resume them.
#[derive(Clone, Debug)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Trust in this certificate, with TLS 1.3.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn of(certificate: &Path) -> Self {
        Self::with(certificate, &rustls::version::TLS13)
    }

    fn with(certificate: &Path, version: &'static SupportedProtocolVersion) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificate).expect("a certificate")).expect("a certificate");
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
        Self(Arc::new(config.expect("versions").with_root_certificates(roots).with_no_client_auth()))
    }
}

impl Trust {
    /// The first bytes that a client sends.
    ///
    /// # Panics
    /// If they cannot be created.
    pub fn client_hello(&self) -> Vec<u8> {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut tls = ClientConnection::new(Arc::clone(&self.0), name).expect("a client");
        let mut bytes = Vec::new();
        tls.write_tls(&mut bytes).expect("into memory");
        bytes
    }
}

/// Checks that a new connection gets an answer.
///
/// # Panics
/// If not.
pub fn assert_served_by(address: SocketAddr, trust: Option<&Trust>) {
    let (mut stream, mut answer) = (Stream::connect(address, trust), [0; 12]);
    stream.write_all(GET).expect("sent");
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
}

/// A client's end of a connection.
pub struct Stream {
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// Number of bytes that are opened and not read.
    opened: usize,
}

impl fmt::Debug for Stream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Stream").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Stream {
    /// Connects, and waits for the end of the handshake.
    ///
    /// # Panics
    /// If that fails.
    pub fn connect(address: SocketAddr, trust: Option<&Trust>) -> Self {
        let mut socket = connect(address);
        let tls = trust.map(|Trust(config)| {
            let name = ServerName::try_from("localhost").expect("a name");
            let mut tls = Box::new(ClientConnection::new(Arc::clone(config), name).expect("a client"));
            tls.set_buffer_limit(Some(WAITING_BYTES_MAX));
            while tls.is_handshaking() {
                tls.complete_io(&mut socket).expect("a handshake");
            }
            tls
        });
        Self { socket, tls, opened: 0 }
    }

    /// Whether there is something to read that the socket does not report.
    pub fn has_opened(&self) -> bool {
        self.opened > 0
    }

    /// Reading and writing give `WouldBlock` from now on.
    ///
    /// # Panics
    /// If it cannot be set.
    pub fn set_nonblocking(&self) {
        self.socket.set_nonblocking(true).expect("set");
        self.socket.set_nodelay(true).expect("set");
    }

    /// The socket, to poll it.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether sealed bytes wait to be sent.
    pub fn wants_write(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Whether it resumed an earlier connection's session.
    pub fn is_resumed(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    /// Changes the keys of both directions.
    ///
    /// # Panics
    /// If the connection has no TLS.
    pub fn change_keys(&mut self) {
        self.tls.as_mut().expect("TLS").refresh_traffic_keys().expect("a KeyUpdate");
    }

    /// The address of this end.
    pub fn address(&self) -> String {
        self.socket.local_addr().map_or_else(|error| error.to_string(), |one| one.to_string())
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.read(buffer) };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => {
                    self.opened = self.opened.saturating_sub(*result.as_ref().unwrap_or(&self.opened));
                    return result;
                }
            }
            tls.read_tls(&mut self.socket)?;
            self.opened = tls.process_new_packets().map_err(io::Error::other)?.plaintext_bytes_to_read();
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.write(bytes) };
        while tls.wants_write() {
            tls.write_tls(&mut self.socket)?;
        }
        let count = tls.writer().write(bytes)?;
        while tls.wants_write() {
            match tls.write_tls(&mut self.socket) {
                Ok(_) => {}
                // They are sent before anything else.
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}
