//! What must hold for any bytes that another process may send, one function for each input: no panic, no wait, no
//! illegal state. Called by the fuzzers in `engine/fuzz`, and by ordinary tests with seeds and mutations of them.
//!
//! [`masters`] has what a master receives, [`workers`] what a worker receives, [`proxy`] what a proxy sends.

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod inspection;
pub mod masters;
pub mod proxy;
#[cfg(test)]
mod tests;
pub mod workers;
mod world;

use std::io;

use crate::ipc::channel::is_nonsense;
use crate::ipc::control::Request;

/// Pieces of one input that are used; the rest is ignored.
const PIECES_MAX: usize = 64;

/// An input as several messages, one a line.
fn pieces(data: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    data.split(|byte| *byte == b'\n').take(PIECES_MAX).map(<[u8]>::to_vec)
}

/// What was received; `None` if it was invalid.
///
/// # Panics
/// If the channel itself failed.
fn skip_nonsense<T>(heard: io::Result<T>) -> Option<T> {
    match heard {
        Ok(heard) => Some(heard),
        Err(error) => {
            assert!(is_nonsense(&error), "the channel failed: {error}");
            None
        }
    }
}

/// The request in a line at the control socket.
fn asked(line: &[u8]) -> Option<Request> {
    serde_json::from_slice(line).ok()
}
