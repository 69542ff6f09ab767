//! A layer between the bytes of a connection and its protocol: encryption, such as TLS.
//!
//! A listener has a layer ([`Listener::layer`](crate::config::Listener::layer)), and each of its connections a value of its own.
//! Outbound connections have one if their [`Target`](crate::Target) names it. A layer does no I/O: it opens received bytes
//! in place, and seals the output of callbacks into the bytes to send, so encrypting is the only copy. Protocols do not notice
//! it; `baton-tls` has one for TLS.

use std::any::Any;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::types::{CannotFreeze, ThawError};

/// The parts of received bytes, in this order: plaintext that the protocol has not taken, bytes that are used up, and
/// bytes that are not opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// The range of the plaintext.
    pub plaintext: Range<usize>,
    /// The index of the first byte that is not opened.
    pub sealed: usize,
}

/// The state of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// It needs more input.
    Incomplete,
    /// It is over. Input that was not consumed is sealed.
    Done,
    /// It has failed. The output has what the peer must learn.
    Failed,
}

/// What follows after everything that [`Layer::open`] has opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// Nothing, or something that has not arrived completely.
    More,
    /// As `More`, and the peer waits for [`Layer::answer`], whether or not the protocol writes anything.
    Asked,
    /// As `More`, and only little more can be sealed: the connection should end. The protocol is told as when its
    /// worker leaves ([`Protocol::on_drain`](crate::Protocol::on_drain)). The layer returns this once.
    Tired,
    /// Nothing: the peer has ended its stream.
    Ended,
    /// Bytes that cannot be opened. [`Layer::close`] tells the peer.
    Failed,
}

/// One connection's layer.
pub trait Layer {
    /// Continues the handshake. `input` is all that was received and not consumed. Appends the bytes to send to
    /// `output`. Returns how many bytes of the input it has consumed. It is not called again once the handshake is over
    /// or has failed.
    fn handshake(&mut self, input: &mut [u8], output: &mut Vec<u8>) -> (usize, Handshake);

    /// Opens, in place, all complete parts of `bytes` from [`Window::sealed`] on. Appends their plaintext to
    /// [`Window::plaintext`], or makes that begin where it was opened. What was opened before a failure is in `window`.
    fn open(&mut self, bytes: &mut [u8], window: &mut Window) -> Opened;

    /// The most bytes that [`Layer::seal`] writes for this many bytes of plaintext.
    fn sealed_bytes_max(&self, plaintext_bytes: usize) -> usize;

    /// Seals `plaintext` into `output`, which has room for [`Layer::sealed_bytes_max`]. Returns the number of bytes to
    /// send, or 0 if nothing can follow any more. After 0, unless [`Layer::close`] was called, [`Layer::open`] fails
    /// and the connection ends.
    fn seal(&mut self, plaintext: &[u8], output: &mut [u8]) -> usize;

    /// Appends what the layer itself must send ([`Opened::Asked`]).
    fn answer(&mut self, output: &mut Vec<u8>) {
        let _ = output;
    }

    /// Appends the layer's last bytes: that nothing follows, or what was wrong. Appends nothing if they were sent
    /// already.
    fn close(&mut self, output: &mut Vec<u8>);

    /// Writes what another process needs to continue, for [`Layers::thaw`].
    ///
    /// # Errors
    /// [`CannotFreeze::Later`] during a handshake that has begun; `Stays` if it never can.
    fn freeze(&self, state: &mut Vec<u8>) -> Result<(), CannotFreeze>;

    /// The connection is idle: gives memory back that can be rebuilt.
    fn rest(&mut self) {}

    /// The result of the handshake, for [`Peer::secured`](crate::Peer::secured).
    fn settled(&self) -> &dyn Any;
}

/// Creates the layers of a listener's connections, or of outbound ones. All workers share it from the moment they are
/// forked.
pub trait Layers: fmt::Debug + Send + Sync {
    /// Creates the layer of a connection that was accepted. `None` if that is not possible: the connection is cut.
    fn accept(&self) -> Option<Box<dyn Layer>>;

    /// Creates the layer of a connection to `server_name` ([`Target::with_layer`](crate::Target::with_layer)). If its
    /// handshake begins on this side, the layer speaks first: [`Layer::handshake`] is called without input when the
    /// connection is established.
    ///
    /// # Errors
    /// If the layer cannot be created, such as for an invalid name. No connection is made then, and the protocol gets
    /// the error ([`Protocol::on_connect_failed`](crate::Protocol::on_connect_failed)). `Unsupported` by default: these
    /// layers are for listeners.
    fn connect(&self, server_name: &str) -> io::Result<Box<dyn Layer>> {
        let _ = server_name;
        Err(io::Error::new(io::ErrorKind::Unsupported, "the layer is for listeners only"))
    }

    /// Continues a layer that [`Layer::freeze`] has written, perhaps in another binary.
    ///
    /// # Errors
    /// If the state is unknown or malformed. The connection then stays where it was, and drains there.
    fn thaw(&self, state: &[u8]) -> Result<Box<dyn Layer>, ThawError>;

    /// Certificates that peers may get, with their state at the time `now`. The engine fills in the addresses. The
    /// master shows the certificates in `status`, and logs their warnings once a day while it serves.
    fn certificates(&self, now: SystemTime) -> Vec<CertificateStatus> {
        let _ = now;
        Vec::new()
    }
}

/// The layers of a listener. Two values are equal if they share the same layers.
#[derive(Clone, Debug)]
pub struct SharedLayers(Arc<dyn Layers>);

impl SharedLayers {
    /// Wraps these layers.
    pub fn new(layers: impl Layers + 'static) -> Self {
        Self(Arc::new(layers))
    }
}

impl std::ops::Deref for SharedLayers {
    type Target = dyn Layers;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl PartialEq for SharedLayers {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for SharedLayers {}

/// A certificate that clients get, as [`Layers::certificates`] of its listeners reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CertificateStatus {
    /// The addresses at which the server uses it.
    pub addresses: Vec<String>,
    /// The hosts and addresses for which it is valid: the first hundred.
    pub names: Vec<String>,
    /// When it expires, or one of its issuers' certificates if that is earlier, in seconds since 1970.
    pub expires_at_s: u64,
    /// Seconds until then; negative if it has expired.
    pub expires_in_s: i64,
    /// Sentences about what the operator should change, such as that it expires soon.
    pub warnings: Vec<String>,
}
