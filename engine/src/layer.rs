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

/// What lies in received bytes, in this order: plaintext that the protocol has not taken, bytes that mean nothing any more, and what is
/// not opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Where the plaintext lies.
    pub plaintext: Range<usize>,
    /// Where that begins which is not opened.
    pub sealed: usize,
}

/// How far a handshake has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// More input is wanted.
    Incomplete,
    /// It is over: what was not consumed is sealed input.
    Done,
    /// It has failed. What the peer is to be told is in the output.
    Failed,
}

/// What comes behind everything that [`Layer::open`] has opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// Nothing, or what has not come whole.
    More,
    /// As `More`, and the peer waits for [`Layer::answer`], whether or not the protocol writes anything.
    Asked,
    /// As `More`, and little more can be sealed: the connection should end. The protocol is told so as when its worker leaves
    /// ([`Protocol::on_drain`](crate::Protocol::on_drain)). Said once.
    Tired,
    /// Nothing: the peer has said that it ends here.
    Ended,
    /// What cannot be opened. [`Layer::close`] tells the peer.
    Failed,
}

/// One connection's layer.
pub trait Layer {
    /// Goes on with the handshake. `input` is all that was received and not consumed; what is to be sent is appended to `output`. Gives how
    /// many bytes of the input are done with. Not called again once it is over or has failed.
    fn handshake(&mut self, input: &mut [u8], output: &mut Vec<u8>) -> (usize, Handshake);

    /// Opens all of `bytes` from [`Window::sealed`] on that has come whole, where it lies, and appends its plaintext to
    /// [`Window::plaintext`], or lets that begin where it was opened. What was opened before a failure is in `window`.
    fn open(&mut self, bytes: &mut [u8], window: &mut Window) -> Opened;

    /// Bytes that [`Layer::seal`] writes for so many of plaintext, at most.
    fn sealed_bytes_max(&self, plaintext_bytes: usize) -> usize;

    /// Seals `plaintext` into `output`, which has room for [`Layer::sealed_bytes_max`]. Gives how many bytes of it are to be sent; 0
    /// where nothing can follow any more: then [`Layer::open`] fails, if [`Layer::close`] was not called, and the connection ends.
    fn seal(&mut self, plaintext: &[u8], output: &mut [u8]) -> usize;

    /// Appends what the layer itself has to say ([`Opened::Asked`]).
    fn answer(&mut self, output: &mut Vec<u8>) {
        let _ = output;
    }

    /// Appends the last that the peer hears: that nothing follows, or what was wrong. Appends nothing where that was said.
    fn close(&mut self, output: &mut Vec<u8>);

    /// Writes what another process needs to go on, for [`Layers::thaw`].
    ///
    /// # Errors
    /// [`CannotFreeze::Later`] during a handshake that has begun; `Stays` where it never can.
    fn freeze(&self, state: &mut Vec<u8>) -> Result<(), CannotFreeze>;

    /// The connection is idle: gives memory back that can be made again.
    fn rest(&mut self) {}

    /// What the handshake has settled, for [`Peer::secured`](crate::Peer::secured).
    fn settled(&self) -> &dyn Any;
}

/// Makes the layers of a listener's connections, or of outbound ones. Shared by all workers from the moment they are forked.
pub trait Layers: fmt::Debug + Send + Sync {
    /// For a connection that was accepted. `None` where none can be made: the connection is cut.
    fn accept(&self) -> Option<Box<dyn Layer>>;

    /// For a connection to `server_name` ([`Target::with_layer`](crate::Target::with_layer)). The layer speaks first where its handshake
    /// wants that: [`Layer::handshake`] is called without input when the connection is established.
    ///
    /// # Errors
    /// If none can be made, such as for a name that is none: nothing is connected to, and the protocol gets the error
    /// ([`Protocol::on_connect_failed`](crate::Protocol::on_connect_failed)). `Unsupported` by default: these layers are for listeners.
    fn connect(&self, server_name: &str) -> io::Result<Box<dyn Layer>> {
        let _ = server_name;
        Err(io::Error::new(io::ErrorKind::Unsupported, "the layer is for listeners only"))
    }

    /// Goes on with one that [`Layer::freeze`] has written, perhaps of another binary.
    ///
    /// # Errors
    /// If the state is not known or makes no sense: then the connection stays where it was, and drains there.
    fn thaw(&self, state: &[u8]) -> Result<Box<dyn Layer>, ThawError>;

    /// Certificates that peers may get, as they stand at the time `now`; where the server listens with them is filled in. The master
    /// shows them in `status`, and logs their warnings once a day while it serves.
    fn certificates(&self, now: SystemTime) -> Vec<CertificateStatus> {
        let _ = now;
        Vec::new()
    }
}

/// The layers of a listener; equal where they are the same ones.
#[derive(Clone, Debug)]
pub struct SharedLayers(Arc<dyn Layers>);

impl SharedLayers {
    /// Of these.
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

/// A certificate that clients get, as [`Layers::certificates`] of its listeners tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CertificateStatus {
    /// Where the server listens with it.
    pub addresses: Vec<String>,
    /// The hosts and addresses that it is for: the first hundred.
    pub names: Vec<String>,
    /// When it expires, or that one of its issuers' which does first, seconds since 1970.
    pub expires_at_s: u64,
    /// Seconds until then; negative where it has expired.
    pub expires_in_s: i64,
    /// What the operator should do something about, such as that it expires soon: sentences.
    pub warnings: Vec<String>,
}
